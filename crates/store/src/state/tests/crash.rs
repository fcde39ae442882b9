//! Power loss at any moment, and disks that fail.

use polity_base::{Timestamp, key::Direction};

use super::model::Model;
use super::{GROUP, batch, delete, entry, everything, key, open, put};
use crate::Error;
use crate::disk::{Crash, Fault, MemoryDisk};
use crate::state::{OrderedEntry, State};

/// A log that writes, overwrites, deletes and clears, over a few pages.
fn log() -> Vec<OrderedEntry> {
    let name = |n: u64| [n as u8 % 37, n as u8 % 5];
    let entries = (1..=40u64).map(|index| {
        let writes = (0..4).map(|i| match (index + i) % 7 {
            0 => delete(key(1, &name(index * 4 + i))),
            _ => put(key(1 + (i % 2) as u8, &name(index * 4 + i)), vec![index as u8; 300]),
        });
        let mut writes: Vec<_> = writes.collect();
        if index == 23 {
            writes = vec![polity_base::Operation::Clear { span: key(2, b"").prefix_span() }];
        }
        entry(index, 0, vec![batch(u128::from(index), vec![], writes)])
    });
    entries.collect()
}

/// Applies, checkpoints and collects until something fails; the index up to which
/// a checkpoint succeeded.
fn work(disk: &MemoryDisk, log: &[OrderedEntry]) -> (u64, Option<Error>) {
    let mut durable = 0;
    let run = || -> Result<(), Error> {
        let state = open(disk)?;
        let from = state.applied(GROUP).index as usize;
        durable = from as u64;
        for step in log[from..].chunks(5) {
            state.apply(GROUP, step)?;
            durable = state.checkpoint()?.marks[&GROUP].index;
            if durable.is_multiple_of(2) {
                state.collect(Timestamp(durable - 3), 20)?;
            }
        }
        Ok(())
    };
    let mut run = run;
    let error = run().err();
    (durable, error)
}

fn check(state: &State, models: &[Model], log: &[OrderedEntry], durable: u64, context: &str) {
    let found = state.applied(GROUP).index;
    // One more checkpoint may have got there without an answer.
    assert!(found == durable || found == durable + 5, "{context}: at {found}, {durable} was durable");
    same(state, &models[found as usize], context);
    state.apply(GROUP, &log[found as usize..]).unwrap();
    same(state, &models[log.len()], context);
    state.checkpoint().unwrap();
    same(state, &models[log.len()], context);
}

fn same(state: &State, model: &Model, context: &str) {
    let at = model.last();
    let reader = state.snapshot().unwrap();
    let mut scan = reader.scan_directed(&everything(), at, Direction::Ascending).unwrap();
    assert_eq!(scan.next_chunk(usize::MAX, usize::MAX).unwrap(), model.scan(&everything(), at), "{context}");
}

fn models(log: &[OrderedEntry]) -> Vec<Model> {
    let mut model = Model::default();
    let mut models = vec![model.clone()];
    for entry in log {
        model.apply(entry);
        models.push(model.clone());
    }
    models
}

fn operations(log: &[OrderedEntry]) -> u64 {
    let disk = MemoryDisk::new(0);
    assert!(work(&disk, log).1.is_none());
    disk.operations()
}

#[test]
fn a_crash_at_any_write_leaves_the_last_checkpoint_or_the_next() {
    let log = log();
    let models = models(&log);
    for operation in 0..operations(&log) {
        for (seed, crash) in [(1, Crash::Lost), (2, Crash::Kept), (3, Crash::Torn), (4, Crash::Torn)] {
            let context = format!("operation {operation}, seed {seed}, {crash:?}");
            let disk = MemoryDisk::new(seed + operation * 8);
            disk.crash_after(operation);
            let (durable, _) = work(&disk, &log);
            let disk = disk.restart(crash);
            let state = open(&disk).unwrap_or_else(|e| panic!("{context}: {e}"));
            check(&state, &models, &log, durable, &context);
        }
    }
}

#[test]
fn a_second_crash_while_recovering_does_no_harm() {
    let log = log();
    let models = models(&log);
    let all = operations(&log);
    for operation in (all / 3..all).step_by(7) {
        for again in 0..12 {
            let context = format!("operation {operation}, then {again}");
            let disk = MemoryDisk::new(operation * 16 + again);
            disk.crash_after(operation);
            let (durable, _) = work(&disk, &log);
            let disk = disk.restart(Crash::Torn);
            disk.crash_after(again);
            let (later, _) = work(&disk, &log);
            let disk = disk.restart(Crash::Torn);
            let state = open(&disk).unwrap_or_else(|e| panic!("{context}: {e}"));
            let found = state.applied(GROUP).index;
            assert!(found >= durable.max(later), "{context}: at {found}, {durable} and {later} were durable");
            check(&state, &models, &log, found, &context);
        }
    }
}

#[test]
fn a_failing_disk_stops_the_state_and_nothing_durable_is_lost() {
    let log = log();
    let models = models(&log);
    for operation in 0..operations(&log) {
        for fault in [Fault::Error, Fault::Full] {
            let context = format!("operation {operation}, {fault:?}");
            let disk = MemoryDisk::new(operation);
            disk.fail_after(operation, fault);
            let (durable, error) = work(&disk, &log);
            let disk = disk.restart(Crash::Torn);
            let state = open(&disk).unwrap_or_else(|e| panic!("{context}: {e} after {error:?}"));
            check(&state, &models, &log, durable, &context);
        }
    }
}

#[test]
fn after_a_failed_checkpoint_rows_can_be_read_and_nothing_is_written() {
    let log = log();
    let disk = MemoryDisk::new(5);
    let state = open(&disk).unwrap();
    state.apply(GROUP, &log[..20]).unwrap();
    disk.fail_after(1, Fault::Full);
    assert!(matches!(state.checkpoint(), Err(Error::Full { .. })));
    let refused = state.apply(GROUP, &log[20..]);
    assert!(matches!(refused, Err(Error::Poisoned { .. })), "{refused:?}");
    assert!(matches!(state.checkpoint(), Err(Error::Poisoned { .. })));
    assert!(matches!(state.collect(Timestamp::MAX, 1), Err(Error::Poisoned { .. })));
    same(&state, &models(&log)[20], "in memory");
}
