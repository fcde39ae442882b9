//! Worlds: honest ones, ones with liars, and ones whose code has a bug on purpose.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use polity_base::NodeId;
use polity_base::planted::Bug;

use super::simple::SimpleLedger;
use super::{Options, Report, run};

fn show(seed: u64, report: &Report) -> String {
    format!("seed {seed}: {report:#?}")
}

#[test]
fn validators_that_are_well_agree_and_make_progress() {
    for seed in 1..=3 {
        let report = run::<SimpleLedger>(&Options { faults: false, ..Options::new(seed) });
        assert!(report.violations.is_empty(), "{}", show(seed, &report));
        assert!(report.height > 50 && report.ordered > 100 && report.accused.is_empty(), "{}", show(seed, &report));
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let options = Options { work: Duration::from_secs(4), ..Options::new(7) };
    let (first, second) = (run::<SimpleLedger>(&options), run::<SimpleLedger>(&options));
    assert_eq!((first.digest, first.height), (second.digest, second.height));
    assert_ne!(first.digest, run::<SimpleLedger>(&Options { seed: 8, ..options }).digest);
}

#[test]
fn crashes_and_partitions_cost_no_agreement() {
    for seed in 1..=6 {
        let report = run::<SimpleLedger>(&Options::new(seed));
        assert!(report.violations.is_empty(), "{}", show(seed, &report));
        assert!(report.height > 3 && report.accused.is_empty(), "{}", show(seed, &report));
    }
}

#[test]
fn a_crash_after_any_input_makes_nobody_sign_twice() {
    for at in 1.. {
        let work = Duration::from_millis(400);
        let options = Options { faults: false, work, crash_at: Some((0, at)), ..Options::new(3) };
        let report = run::<SimpleLedger>(&options);
        assert!(report.violations.is_empty(), "input {at}: {}", show(3, &report));
        if report.crashes == 0 {
            // All inputs that there are were tried.
            assert!(at > 80 && report.height > 4, "input {at}: {}", show(3, &report));
            break;
        }
    }
}

#[test]
fn validators_come_and_go_while_things_break() {
    for seed in 1..=4 {
        let options = Options { powers: vec![1; 5], changes: true, faults: seed > 2, ..Options::new(seed) };
        let report = run::<SimpleLedger>(&options);
        assert!(report.violations.is_empty() && report.accused.is_empty(), "{}", show(seed, &report));
    }
}

/// One liar of four, in one of the ways there are; who is honest is never accused.
fn with_liar(name: &'static str, seeds: std::ops::RangeInclusive<u64>, faults: bool) -> Vec<Report> {
    let look = |seed| {
        let options = Options { liars: vec![(seed as usize % 4, name)], faults, ..Options::new(seed) };
        let report = run::<SimpleLedger>(&options);
        assert!(report.violations.is_empty(), "{name}, {}", show(seed, &report));
        let others = report.accused.iter().filter(|node| node.0 != seed % 4 + 1).count();
        assert_eq!(others, 0, "{name}: honest nodes are accused, {}", show(seed, &report));
        report
    };
    seeds.map(look).collect()
}

#[test]
fn a_liar_costs_neither_agreement_nor_progress_while_things_break() {
    for name in crate::adversary::NAMES {
        with_liar(name, 1..=2, true);
    }
}

#[test]
fn whoever_contradicts_himself_is_accused_in_a_block() {
    for name in ["equivocator", "double_voter"] {
        let reports = with_liar(name, 1..=2, false);
        assert!(reports.iter().all(|report| report.accused.len() == 1), "{name}: {reports:#?}");
    }
    let reports = with_liar("amnesiac", 1..=4, true);
    assert!(reports.iter().any(|report| report.accused.len() == 1), "{reports:#?}");
}

#[test]
fn whoever_sends_nonsense_is_ignored_for_a_while() {
    for name in ["forger", "flooder", "split_payload"] {
        let reports = with_liar(name, 1..=2, false);
        assert!(reports.iter().all(|report| report.ignored.len() == 1), "{name}: {reports:#?}");
    }
}

#[test]
fn two_liars_of_five_may_stop_progress_and_never_agreement() {
    for (seed, names) in (1..).zip([["equivocator", "double_voter"], ["equivocator", "equivocator"]]) {
        let liars = names.iter().enumerate().map(|(place, name)| (place, *name)).collect();
        let options = Options { liars, powers: vec![1; 5], progress: false, faults: false, ..Options::new(seed) };
        let report = run::<SimpleLedger>(&options);
        let split: Vec<_> = report.violations.iter().filter(|violation| !violation.starts_with("progress")).collect();
        assert!(split.is_empty(), "{}", show(seed, &report));
    }
}

#[test]
fn power_counts_and_not_heads() {
    // One has three of seven: without it there is no quorum, with it two others do.
    let options = Options { powers: vec![3, 2, 1, 1], work: Duration::from_secs(5), ..Options::new(11) };
    let report = run::<SimpleLedger>(&options);
    assert!(report.violations.is_empty(), "{}", show(11, &report));
    let options = Options { liars: vec![(0, "silent")], progress: false, ..options };
    let report = run::<SimpleLedger>(&options);
    assert_eq!((report.height, report.violations.len()), (0, 0), "{}", show(11, &report));
}

#[test]
fn snapshots_bring_back_whoever_was_gone_for_long_and_lies_about_them_do_not() {
    for (seed, name) in (1..).zip(["withholder", "lying_snapshot"]) {
        let liars = vec![(0, name)];
        let options = Options { powers: vec![1; 7], liars, absent: Some(1), faults: false, ..Options::new(seed) };
        let report = run::<SimpleLedger>(&options);
        assert!(report.violations.is_empty() && report.snapshots > 0, "{name}: {}", show(seed, &report));
    }
}

/// A world that follows from its seed in every respect.
fn any_world(seed: u64) -> Options {
    let mut random = super::random::Random::new(seed ^ 0xB17);
    let count = random.between(4, 7) as usize;
    let powers: Vec<u64> = (0..count).map(|_| random.between(1, 3)).collect();
    let mut room = (powers.iter().sum::<u64>() - 1) / 3;
    let mut liars = Vec::new();
    for (node, power) in powers.iter().enumerate() {
        if *power <= room && random.chance(500) {
            room -= power;
            liars.push((node, crate::adversary::NAMES[random.below(12) as usize]));
        }
    }
    let (faults, loss) = (random.chance(700), random.below(250));
    let absent = random.chance(200).then(|| random.below(count as u64) as usize);
    // Liars could come to more than a third, and who is away for long could not tell.
    let changes = liars.is_empty() && absent.is_none();
    Options { powers, liars, faults, loss, absent, changes, ..Options::new(seed) }
}

/// Worlds that nobody has seen before. `POLITY_SEED` says where to begin, to see one
/// again, and `POLITY_SEEDS` how many.
#[test]
fn fresh_worlds_hold() {
    let number = |name| std::env::var(name).ok().and_then(|text: String| text.parse::<u64>().ok());
    let fresh = || RandomState::new().build_hasher().finish() >> 16;
    let first = number("POLITY_SEED").unwrap_or_else(fresh);
    for seed in first..first + number("POLITY_SEEDS").unwrap_or(3) {
        let options = any_world(seed);
        let report = run::<SimpleLedger>(&options);
        assert!(report.violations.is_empty(), "POLITY_SEED={seed} shows it again: {options:?} {}", show(seed, &report));
        let liars: BTreeSet<_> = options.liars.iter().map(|(place, _)| NodeId(*place as u64 + 1)).collect();
        assert!(report.accused.is_subset(&liars), "POLITY_SEED={seed}: honest nodes are accused: {report:#?}");
    }
}

/// Seeds from the first on until a planted bug is caught, and as what.
#[cfg(debug_assertions)]
fn seeds_until_caught(bug: Bug, first: u64, options: impl Fn(u64) -> Options) -> (u64, String) {
    for seed in first..first + 10 {
        let report = run::<SimpleLedger>(&Options { bug: Some(bug), ..options(seed) });
        if let Some(violation) = report.violations.first() {
            return (seed, violation.clone());
        }
    }
    panic!("{bug:?} was not caught by ten seeds from {first} on");
}

/// A world in which skipping the lock rule is caught by seed 51.
fn lossy(seed: u64) -> Options {
    Options { faults: false, loss: 350, liars: vec![(0, "equivocator")], ..Options::new(seed) }
}

#[test]
fn locks_hold_where_a_third_of_the_messages_is_lost() {
    for seed in [1, 2, 50, 51, 52] {
        let report = run::<SimpleLedger>(&lossy(seed));
        assert!(report.violations.is_empty(), "{}", show(seed, &report));
    }
}

#[test]
#[cfg(debug_assertions)]
fn planted_bugs_are_caught() {
    let equivocator = |seed| Options { liars: vec![(0, "equivocator")], ..Options::new(seed) };
    let caught = [
        (Bug::AcceptTwoF, "certificates", seeds_until_caught(Bug::AcceptTwoF, 1, equivocator)),
        (Bug::SkipLockRule, "agreement", seeds_until_caught(Bug::SkipLockRule, 50, lossy)),
        (Bug::SignBeforeFsync, "no double sign", seeds_until_caught(Bug::SignBeforeFsync, 1, Options::new)),
        (Bug::SkipLedgerPrecondition, "state root", seeds_until_caught(Bug::SkipLedgerPrecondition, 1, Options::new)),
        (Bug::NondeterministicApply, "", seeds_until_caught(Bug::NondeterministicApply, 1, Options::new)),
    ];
    for (bug, by, (seeds, violation)) in caught {
        println!("{bug:?}: caught by seed {seeds}: {violation}");
        assert!(violation.starts_with(by), "{bug:?} was expected to break {by}: {violation}");
    }
}
