//! Proofs hold, and nothing that is not quite one does.

use std::cell::RefCell;

use polity_base::NodeId;
use proptest::prelude::*;

use super::{Fault, Item, Proof, verify, verify_file};
use crate::block::Block;
use crate::codec::Reader;
use crate::genesis::Genesis;
use crate::ledger::journal::Journal;
use crate::ledger::records;
use crate::ledger::storage::memory::MemoryStorage;
use crate::ledger::testing::*;
use crate::transaction::{Body, Operation, ValidatorChange};
use crate::types::{Height, LedgerId};

/// A ledger whose validators have changed twice.
fn grown() -> Bench<MemoryStorage> {
    let mut bench = Bench::with_tables();
    bench.run("root", vec![open_account(1, Some("ada"), 10), open_account(2, Some("bob"), 20)]);
    let mut approve = |change: ValidatorChange, by: &[u8]| {
        for by in by {
            let body = bench.body("", vec![Operation::Approve(change.clone())]);
            assert!(bench.order(sign(Body { user: None, ..body }, *by)).is_applied());
        }
        for _ in 0..2 {
            bench.run("root", vec![pay(1, 1)]);
        }
    };
    approve(ValidatorChange { node: NodeId(5), key: secret(5).public(), power: 1 }, &[1, 2, 3]);
    approve(ValidatorChange { node: NodeId(1), key: secret(1).public(), power: 3 }, &[1, 2, 4, 5]);
    bench
}

fn proof(bench: &Bench<MemoryStorage>, id: i64, height: Option<u64>) -> Proof {
    bench.ledger.reader().prove(&[row_key(accounts(), id)], height.map(Height)).unwrap()
}

#[test]
fn a_row_is_proved_with_nothing_but_genesis() {
    let mut bench = Bench::with_tables();
    bench.run("root", vec![open_account(1, Some("ada"), 10)]);
    bench.run("root", vec![pay(1, 5)]);
    let genesis = bench.genesis().encode();
    let proven = verify_file(&proof(&bench, 1, None).encode(), &genesis).unwrap();
    assert_eq!((proven.height, proven.power, proven.total_power, proven.changes), (Height(3), 4, 4, 0));
    let stored = bench.ledger.reader().get(&row_key(accounts(), 1), None).unwrap();
    assert_eq!(proven.items[0], (row_key(accounts(), 1), stored));
    // What the row's columns are is proved with it.
    let (key, table) = &proven.items[1];
    assert_eq!(*key, records::table(accounts()));
    let table = records::Table::decode(table.as_ref().unwrap()).unwrap();
    assert_eq!(table.definition, accounts_definition());
    // As of an earlier height it was another, and before that there was none.
    let earlier = verify_file(&proof(&bench, 1, Some(2)).encode(), &genesis).unwrap();
    assert_ne!(earlier.items[0].1, proven.items[0].1);
    let before = verify_file(&proof(&bench, 1, Some(1)).encode(), &genesis).unwrap();
    assert_eq!(before.items[0].1, None);
    let absent = verify_file(&proof(&bench, 99, None).encode(), &genesis).unwrap();
    assert_eq!(absent.items[0], (row_key(accounts(), 99), None));
}

#[test]
fn validators_that_changed_are_followed_from_genesis() {
    let mut bench = Bench::with_tables();
    bench.run("root", vec![open_account(1, Some("ada"), 10)]);
    let change = ValidatorChange { node: NodeId(5), key: secret(5).public(), power: 4 };
    for by in 1..=3 {
        let body = bench.body("", vec![Operation::Approve(change.clone())]);
        bench.order(sign(Body { user: None, ..body }, by));
    }
    for _ in 0..3 {
        bench.run("root", vec![pay(1, 1)]);
    }
    let proof = proof(&bench, 1, None);
    let proven = verify(&proof, bench.genesis()).unwrap();
    assert_eq!((proven.changes, proven.total_power), (1, 8));
    assert_eq!(Proof::decode(&proof.encode()).unwrap(), proof);
    // Without the step it is not believed, nor with the step alone.
    let skipped = Proof { chain: Vec::new(), ..proof.clone() };
    let fault = verify(&skipped, bench.genesis()).unwrap_err();
    assert_eq!(fault.to_string(), "the header of height 8: its validators are not those who decide there");
    let mut twice = proof.clone();
    twice.chain.push(proof.chain[0].clone());
    assert!(matches!(verify(&twice, bench.genesis()), Err(Fault::Step { height: Height(6), .. })));
    let mut others = proof.clone();
    others.chain[0].validators = bench.genesis().validators.clone();
    let fault = verify(&others, bench.genesis()).unwrap_err();
    assert_eq!(
        fault.to_string(),
        "the change of validators after height 6: the validators that come with it are not those it names as the next"
    );
    // Those of before, who were more than two thirds, cannot certify later headers.
    let mut late = proof.clone();
    let block = Block { header: late.header.clone(), transactions: Vec::new(), evidence: Vec::new() };
    late.certificate = certify(proof.ledger, &block, [1, 2, 3, 4]);
    let fault = verify(&late, bench.genesis()).unwrap_err();
    assert_eq!(fault.to_string(), "the header of height 8: its certificate has a power of 4 of 8, and it takes 6");
}

#[test]
fn what_does_not_hold_is_told() {
    let mut bench = Bench::with_tables();
    bench.run("root", vec![open_account(1, Some("ada"), 10), open_account(2, Some("bob"), 20)]);
    let right = proof(&bench, 1, None);
    let block = Block { header: right.header.clone(), transactions: Vec::new(), evidence: Vec::new() };
    let told = |change: &dyn Fn(&mut Proof)| {
        let mut wrong = right.clone();
        change(&mut wrong);
        verify(&wrong, bench.genesis()).unwrap_err().to_string()
    };
    let signed_by = |signers: &[u8]| {
        let certificate = certify(right.ledger, &block, signers.iter().copied());
        told(&|proof| proof.certificate = certificate.clone())
    };
    let key = row_key(accounts(), 1);
    assert!(
        told(&|proof| proof.ledger = LedgerId([1; 32])).starts_with("it is about ledger 010101010101, and not about")
    );
    assert_eq!(
        told(&|proof| proof.header.time_ms += 1),
        "the header of height 2: its certificate is for another block"
    );
    assert_eq!(signed_by(&[1, 2]), "the header of height 2: its certificate has a power of 2 of 4, and it takes 3");
    assert_eq!(signed_by(&[1, 2, 2]), "the header of height 2: its certificate counts n2 twice");
    assert_eq!(
        signed_by(&[1, 2, 9]),
        "the header of height 2: its certificate has a signature of n9, who does not decide there"
    );
    let swap = |proof: &mut Proof| {
        let first = proof.certificate.signatures[0].1.clone();
        proof.certificate.signatures[1].1 = first;
    };
    assert_eq!(told(&swap), "the header of height 2: its certificate has a signature of n2 that is wrong");
    let of_the_row = |what: &str| format!("the row at {key}: its way through the tree: {what}");
    assert_eq!(
        told(&|proof| proof.items[0].value = Some(b"x".as_slice().into())),
        of_the_row("the leaf is of another value")
    );
    assert_eq!(told(&|proof| proof.items[0].value = None), of_the_row("the key has a value"));
    assert_eq!(told(&|proof| proof.items[0].path.siblings[0][0] ^= 1), of_the_row("it leads to another root"));
    assert_eq!(told(&|proof| proof.items[0].path.siblings.truncate(1)), of_the_row("it leads to another root"));
    assert_eq!(
        told(&|proof| proof.items[0].path.siblings = vec![[0; 32]; 257]),
        of_the_row("the way to the root is too long")
    );
    assert_eq!(told(&|proof| proof.items.clear()), "it says nothing about any row");
    let other = proof(&bench, 2, None).items[0].clone();
    let borrowed = |proof: &mut Proof| proof.items[0] = Item { key: key.clone(), ..other.clone() };
    assert_eq!(told(&borrowed), of_the_row("the leaf is of another key"));
    let hidden = |proof: &mut Proof| proof.items[0] = Item { key: key.clone(), value: None, path: other.path.clone() };
    assert!(told(&hidden).starts_with(&of_the_row("")));
    let fault = verify_file(b"polity/bft/proof/2", &bench.genesis().encode()).unwrap_err();
    assert_eq!(fault.to_string(), "the proof cannot be read: it is of another kind or version at byte 0");
    let fault = verify_file(&right.encode(), b"").unwrap_err();
    assert_eq!(fault.to_string(), "the genesis cannot be read: it is of another kind or version at byte 0");
}

/// Files that others may try their verifiers on: they stay as they are, or what was
/// proved once can be checked no more. `UPDATE_GOLDEN=1` writes them anew.
#[test]
fn files_are_as_they_were() {
    with_grown(|bench| {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/proof/golden");
        let files = [
            ("ledger.genesis", bench.genesis().encode()),
            ("present.proof", proof(bench, 1, None).encode()),
            ("absent.proof", proof(bench, 99, None).encode()),
        ];
        for (name, file) in files {
            let path = folder.join(name);
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                std::fs::write(&path, &file).unwrap();
            }
            assert!(std::fs::read(&path).unwrap() == file, "{name} is another");
        }
    });
}

/// What was written from the docs alone, in another language.
#[test]
fn a_verifier_that_shares_nothing_agrees() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let golden = root.join("src/proof/golden");
    let verify = |proof: &std::path::Path| {
        let mut command = std::process::Command::new("python3");
        command.arg(root.join("../../docs/verify_proof.py")).arg(proof).arg(golden.join("ledger.genesis"));
        // Where there is no Python, nothing can be said.
        command
            .output()
            .ok()
            .map(|output| (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let folder = tempfile::tempdir().unwrap();
    for name in ["present.proof", "absent.proof"] {
        let Some((holds, why)) = verify(&golden.join(name)) else { return };
        assert!(holds, "{name}: {why}");
        let file = std::fs::read(golden.join(name)).unwrap();
        for place in (0..file.len()).step_by(211) {
            let mut other = file.clone();
            other[place] ^= 0x10;
            let path = folder.path().join("other");
            std::fs::write(&path, &other).unwrap();
            let (holds, why) = verify(&path).unwrap();
            assert!(!holds && why.starts_with("does not hold: "), "byte {place} of {name}: {why}");
        }
    }
}

thread_local! {
    static GROWN: RefCell<Option<Bench<MemoryStorage>>> = const { RefCell::new(None) };
}

fn with_grown<T>(work: impl FnOnce(&Bench<MemoryStorage>) -> T) -> T {
    GROWN.with_borrow_mut(|bench| work(bench.get_or_insert_with(grown)))
}

/// Every byte of a file, changed, must make `accept` refuse it.
fn every_byte(file: &[u8], accept: impl Fn(&[u8]) -> bool) {
    assert!(accept(file));
    for place in 0..file.len() {
        let mut other = file.to_vec();
        other[place] ^= 1 << (place % 8);
        assert!(!accept(&other), "byte {place} of {}", file.len());
        assert!(!accept(&file[..place]), "{place} bytes of {}", file.len());
    }
}

#[test]
fn no_byte_of_a_proof_can_be_another() {
    with_grown(|bench| {
        let (file, genesis) = (proof(bench, 1, None).encode(), bench.genesis().encode());
        assert_eq!(verify_file(&file, &genesis).unwrap().changes, 2);
        every_byte(&file, |file| verify_file(file, &genesis).is_ok());
        // Whoever changes it may make another checksum. What it says of the key that was
        // asked for stays the same, or it does not hold.
        for (id, file) in [(1, file), (99, proof(bench, 99, None).encode())] {
            let key = row_key(accounts(), id);
            let open = &file[..file.len() - 32];
            let expected = verify_file(&file, &genesis).unwrap();
            every_byte(open, |open| {
                let mut file = open.to_vec();
                super::seal(&mut file);
                let about = |proven: &super::Proven| proven.items.first().is_some_and(|(of, _)| *of == key);
                let proven = verify_file(&file, &genesis).ok().filter(about);
                assert!(proven.as_ref().is_none_or(|proven| *proven == expected));
                proven.is_some()
            });
        }
    });
}

#[test]
fn no_byte_of_a_certificate_or_a_block_can_be_another() {
    with_grown(|bench| {
        let (block, certificate) = bench.blocks[1].clone();
        let (ledger, validators) = (bench.ledger.id(), &bench.genesis().validators);
        every_byte(&certificate.encode(), |file| {
            let read = crate::block::Certificate::decode(file);
            read.is_ok_and(|read| verify::certified(&ledger, &block.header, &read, validators).is_ok())
        });
        every_byte(&block.encode(), |file| {
            Block::decode(file).is_ok_and(|read| {
                read.is_whole() && verify::certified(&ledger, &read.header, &certificate, validators).is_ok()
            })
        });
        let journal = bench.ledger.reader().journal(Height(bench.blocks.len() as u64)).unwrap();
        let set = bench.ledger.reader().validators().unwrap().pop_last().unwrap().1;
        every_byte(&journal.encode(), |file| {
            let read = Reader::whole(file, Journal::read);
            read.is_ok_and(|read| {
                read.events.as_ref().is_some_and(|events| events.are_of(&read.header))
                    && verify::certified(&ledger, &read.header, &read.certificate, &set).is_ok()
            })
        });
    });
}

proptest! {
    #[test]
    fn noise_proves_nothing(noise in proptest::collection::vec(any::<u8>(), 0..300), keep: prop::sample::Index, flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        with_grown(|bench| {
            let (file, genesis) = (proof(bench, 2, None).encode(), bench.genesis().encode());
            assert!(verify_file(&noise, &genesis).is_err());
            let mixed = [&file[..keep.index(file.len())], &noise].concat();
            assert!(mixed == file || verify_file(&mixed, &genesis).is_err());
            let mut flipped = file.clone();
            for (place, with) in &flips {
                flipped[place.index(file.len())] ^= with;
            }
            assert!(flipped == file || verify_file(&flipped, &genesis).is_err());
            let _ = Genesis::decode(&mixed);
            let _ = Block::decode(&mixed);
        });
    }
}
