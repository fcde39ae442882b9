//! A ledger in the node's log and state, on a disk that crashes.

use std::sync::Arc;

use polity_base::seams::Entropy;
use polity_store::disk::{Crash, Fault, MemoryDisk};
use polity_store::log::{Log, LogOptions};
use polity_store::seal::{Keyring, MasterKey};
use polity_store::state::{State, StateOptions};

use crate::block::{Block, Certificate};
use crate::consensus::application::Application;
use crate::consensus::validator::Tip;
use crate::ledger::rules::Comparisons;
use crate::ledger::storage::store::{LEDGER, StoreStorage};
use crate::ledger::testing::*;
use crate::ledger::{Error, Ledger, Options};
use crate::transaction::Operation;
use crate::world::local::Counting;

type Blocks = Vec<(Arc<Block>, Arc<Certificate>)>;

struct Opened {
    state: Arc<State>,
    log: Log,
    ledger: Ledger<StoreStorage>,
}

async fn open_on(disk: &MemoryDisk, options: Options) -> Result<Opened, Error> {
    let entropy = Counting::default();
    let keys = Keyring::open(&MemoryDisk::new(0), &MasterKey::generate(&entropy), &entropy)?;
    let entropy: Arc<dyn Entropy> = Arc::new(entropy);
    let disk = Arc::new(disk.clone());
    let (log, _) = Log::open(disk.clone(), &keys, entropy.clone(), LogOptions::default()).await?;
    let state = Arc::new(State::open(disk, &keys, entropy, StateOptions::default())?);
    let storage = StoreStorage::open(log.clone(), state.clone());
    let ledger = blocking(|| Ledger::open(storage, genesis(4), Arc::new(Comparisons), options))?;
    Ok(Opened { state, log, ledger })
}

/// Waiting for the log is for threads that may wait.
fn blocking<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}

/// Blocks that do a bit of everything, and the tip after each.
fn blocks() -> (Blocks, Vec<Tip>) {
    let mut bench = Bench::new();
    let mut tips = vec![bench.ledger.tip()];
    bench.make_tables();
    tips.push(bench.ledger.tip());
    for id in 0..6 {
        let some = vec![open_account(id, Some(&format!("u{id}")), 10), place_order(id, Some(id))];
        bench.run("root", some);
        tips.push(bench.ledger.tip());
        bench.run("root", vec![pay(id, -3), pay(0, 3)]);
        tips.push(bench.ledger.tip());
    }
    bench.run("root", vec![delete(orders(), 3), delete(accounts(), 3)]);
    tips.push(bench.ledger.tip());
    bench.run("root", vec![Operation::Drop { storage: orders() }]);
    tips.push(bench.ledger.tip());
    (bench.blocks.clone(), tips)
}

/// Commits the blocks that are not there yet; a checkpoint after every third. How far it
/// came.
fn work(opened: &mut Opened, blocks: &Blocks) -> usize {
    let there = opened.ledger.tip().height.0 as usize;
    for (place, (block, certificate)) in blocks.iter().enumerate().skip(there) {
        if blocking(|| opened.ledger.commit(block, certificate)).is_err() {
            return place;
        }
        if place % 3 == 2 {
            let Ok(done) = blocking(|| opened.state.checkpoint()) else { return place + 1 };
            if let Some(mark) = done.marks.get(&LEDGER) {
                opened.ledger.storage.durable().made_durable(*mark);
            }
        }
    }
    blocks.len()
}

const FEW: Options = Options { keep_blocks: 4, ..OPTIONS };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_on_disk_is_as_one_in_memory() {
    let (blocks, tips) = blocks();
    let disk = MemoryDisk::new(1);
    let mut opened = open_on(&disk, OPTIONS).await.unwrap();
    assert_eq!(work(&mut opened, &blocks), blocks.len());
    assert_eq!(Some(&opened.ledger.tip()), tips.last());
    for (place, (block, certificate)) in blocks.iter().enumerate() {
        let found = opened.ledger.block(crate::types::Height(place as u64 + 1)).unwrap();
        assert_eq!(found, Some((block.clone(), certificate.clone())));
    }
    let memory = {
        let mut bench = Bench::new();
        blocks.iter().for_each(|(block, certificate)| drop(bench.ledger.commit(block, certificate).unwrap()));
        bench
    };
    for id in 0..7 {
        let (here, there) = (opened.ledger.reader(), memory.ledger.reader());
        let key = row_key(accounts(), id);
        assert_eq!(here.history(&key).unwrap(), there.history(&key).unwrap(), "account {id}");
        for height in 1..=blocks.len() as u64 {
            let at = Some(crate::types::Height(height));
            assert_eq!(here.get(&key, at).unwrap(), there.get(&key, at).unwrap());
            assert_eq!(
                here.prove(std::slice::from_ref(&key), at).unwrap(),
                there.prove(std::slice::from_ref(&key), at).unwrap()
            );
        }
    }
    opened.log.close().await;
    drop(opened);
    let again = open_on(&disk.restart(Crash::Lost), OPTIONS).await.unwrap();
    assert_eq!(Some(&again.ledger.tip()), tips.last());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_operation_of_the_disk_loses_nothing_that_was_committed() {
    let (blocks, tips) = blocks();
    let fresh = MemoryDisk::new(7);
    drop(open_on(&fresh, FEW).await.unwrap());
    let begun = fresh.durable();
    let operations = {
        let disk = begun.copy();
        let mut opened = open_on(&disk, FEW).await.unwrap();
        assert_eq!(work(&mut opened, &blocks), blocks.len());
        disk.operations()
    };
    let mut recovered = 0;
    for (round, crash) in [Crash::Torn, Crash::Lost].into_iter().enumerate() {
        // Every third of them with each fate: all of them would take minutes.
        for at in (round as u64..operations).step_by(3) {
            let disk = begun.copy();
            disk.crash_after(at);
            let done = match open_on(&disk, FEW).await {
                Ok(mut opened) => work(&mut opened, &blocks),
                Err(_) => 0,
            };
            let disk = disk.restart(crash);
            let mut opened = open_on(&disk, FEW).await.unwrap_or_else(|e| panic!("{crash:?} at {at}: {e}"));
            let tip = opened.ledger.tip();
            assert!(
                tip.height.0 as usize >= done,
                "{crash:?} at {at}: {done} were committed, {} are there",
                tip.height
            );
            assert_eq!(tip, tips[tip.height.0 as usize], "{crash:?} at {at}");
            assert_eq!(work(&mut opened, &blocks), blocks.len(), "{crash:?} at {at}");
            assert_eq!(Some(&opened.ledger.tip()), tips.last());
            recovered += 1;
        }
    }
    assert!(recovered > 40, "{recovered} crashes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fails_is_told_and_nothing_is_committed_after() {
    let (blocks, tips) = blocks();
    let disk = MemoryDisk::new(3);
    let mut opened = open_on(&disk, OPTIONS).await.unwrap();
    disk.fail_after(9, Fault::Error);
    let done = work(&mut opened, &blocks);
    assert!(done < blocks.len());
    let (block, certificate) = &blocks[done];
    let again = blocking(|| opened.ledger.commit(block, certificate).map(|_| ()));
    assert!(matches!(again, Err(crate::consensus::application::CommitError::Storage(_))), "{again:?}");
    let opened = open_on(&disk.restart(Crash::Kept), OPTIONS).await.unwrap();
    let tip = opened.ledger.tip();
    assert_eq!(tip, tips[tip.height.0 as usize]);
    assert!(tip.height.0 as usize >= done);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_taken_over_on_disk() {
    let mut bench = Bench::with_tables();
    for id in 0..20 {
        bench.run("root", vec![open_account(id, Some(&format!("u{id}")), id)]);
    }
    let height = bench.ledger.snapshot().unwrap();
    let (part, _) = bench.ledger.snapshot_part(height, 0).unwrap().unwrap();
    let disk = MemoryDisk::new(5);
    let mut opened = open_on(&disk, OPTIONS).await.unwrap();
    // It has something of its own that is to go.
    work(&mut opened, &bench.blocks[..3].to_vec());
    blocking(|| opened.ledger.install(height, vec![part])).unwrap();
    assert_eq!(opened.ledger.tip(), bench.ledger.tip());
    drop(opened);
    let mut opened = open_on(&disk.restart(Crash::Lost), OPTIONS).await.unwrap();
    assert_eq!(opened.ledger.tip(), bench.ledger.tip());
    let transaction = bench.transaction("root", vec![pay(3, 1)]);
    let (block, certificate) = bench.propose(vec![transaction], Vec::new());
    blocking(|| opened.ledger.commit(&block, &certificate)).unwrap();
    blocking(|| opened.state.checkpoint()).unwrap();
    assert_eq!(opened.ledger.tip().height, height.next());
    assert_eq!(opened.ledger.oldest_block(), height.next());
}
