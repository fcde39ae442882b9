//! Random histories against the model.

use polity_base::RangeId;
use proptest::prelude::*;

use super::Model;
use crate::disk::{Crash, MemoryDisk};
use crate::log::testing::{entry, open, purge, state, truncate};
use crate::log::{LogOptions, Record};

#[derive(Clone, Debug)]
enum Step {
    Append { group: u64, sizes: Vec<usize> },
    Truncate { group: u64, back: u64 },
    Purge { group: u64, ahead: u64 },
    State { group: u64, name: u8, value: u8 },
    Wait,
    Restart(bool),
}

fn any_step() -> impl Strategy<Value = Step> {
    let group = 0..3u64;
    prop_oneof![
        6 => (group.clone(), proptest::collection::vec(0..600usize, 1..5))
            .prop_map(|(group, sizes)| Step::Append { group, sizes }),
        2 => (group.clone(), 0..6u64).prop_map(|(group, back)| Step::Truncate { group, back }),
        2 => (group.clone(), 0..12u64).prop_map(|(group, ahead)| Step::Purge { group, ahead }),
        2 => (group, 0..3u8, any::<u8>()).prop_map(|(group, name, value)| Step::State { group, name, value }),
        3 => Just(Step::Wait),
        1 => any::<bool>().prop_map(Step::Restart),
    ]
}

/// The records of a step, given where its group stands.
fn records(step: &Step, next: &mut [u64; 3], purged: &mut [u64; 3], term: u64) -> Vec<Record> {
    match step {
        Step::Append { group, sizes } => {
            let at = &mut next[*group as usize];
            sizes
                .iter()
                .map(|size| {
                    *at += 1;
                    entry(*group, *at - 1, term, vec![term as u8; *size])
                })
                .collect()
        }
        Step::Truncate { group, back } => {
            let at = *group as usize;
            next[at] = next[at].saturating_sub(*back).max(purged[at]);
            vec![truncate(*group, next[at])]
        }
        Step::Purge { group, ahead } => {
            let at = *group as usize;
            let upto = (purged[at] + ahead).min(next[at] + 2);
            purged[at] = purged[at].max(upto + 1);
            next[at] = next[at].max(upto + 1);
            vec![purge(*group, upto)]
        }
        Step::State { group, name, value } => {
            vec![state(*group, ["vote", "committed", "a"][*name as usize], vec![*value; 3])]
        }
        Step::Wait | Step::Restart(_) => vec![],
    }
}

async fn history(steps: Vec<Step>) {
    let options = LogOptions { segment_bytes: 2500, cache_bytes: 1500 };
    let groups = || (0..3).map(RangeId);
    let mut disk = MemoryDisk::new(steps.len() as u64);
    let (mut log, _) = open(&disk, options).await.unwrap();
    let mut model = Model::default();
    let (mut next, mut purged) = ([0; 3], [0; 3]);
    for (term, step) in steps.iter().enumerate() {
        let records = records(step, &mut next, &mut purged, term as u64);
        model.apply(&records);
        log.append(records, |outcome| outcome.unwrap());
        match step {
            Step::Wait => log.append_wait(vec![]).await.unwrap(),
            Step::Restart(in_order) => {
                log.append_wait(vec![]).await.unwrap();
                if *in_order {
                    log.close().await;
                }
                disk = disk.restart(Crash::Lost);
                let (opened, recovered) = open(&disk, options).await.unwrap();
                assert_eq!(Model::of_recovered(&opened, &recovered), model);
                log = opened;
            }
            _ => {}
        }
        assert_eq!(Model::of(&log, groups()), model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn the_log_holds_what_the_model_holds(steps in proptest::collection::vec(any_step(), 1..60)) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(history(steps));
    }
}
