//! A bounded slice of simulation, for every change: a few seeds nobody has seen, those
//! on the list of regressions, one seed twice, and some planted bugs.
//!
//! Each run is a process of its own, as it is under `cargo xtask sim`.

use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

/// Seeds that are always run, with their simulated seconds of work. One that finds a bug
/// of the database is added here.
const REGRESSIONS: [(u64, u64); 9] = [
    (107, WORK),
    (1, WORK),
    (4, WORK),
    (200_001, 6),
    (1_000_085, 20),
    (1_000_275, 20),
    (1_000_336, 20),
    (3_000_221, 20),
    (3_000_390, 20),
];
/// Simulated seconds of work.
const WORK: u64 = 8;

fn run(seed: u64, more: &[&str]) -> Value {
    run_for(seed, WORK, more)
}

fn run_for(seed: u64, work: u64, more: &[&str]) -> Value {
    let (seed, work) = (seed.to_string(), work.to_string());
    let mut command = Command::new(env!("CARGO_BIN_EXE_polity-sim"));
    command.args(["--json", "--seed", &seed, "--work", &work]).args(more);
    let output = command.output().unwrap();
    let line = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    let report = line.lines().next().unwrap_or_else(|| panic!("seed {seed}: nothing was said: {error}"));
    serde_json::from_str(report).unwrap()
}

/// Runs what is asked on two threads: a simulation has but one.
fn all<T: Sync>(what: &[T], each: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(one) = what.get(next.fetch_add(1, Ordering::Relaxed)) {
            each(one);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
}

fn must_be_clean(seeds: &[(u64, u64)]) {
    let broken = Mutex::new(Vec::new());
    all(seeds, |(seed, work)| {
        let report = run_for(*seed, *work, &[]);
        assert!(report["ok"].as_u64().unwrap() > 0, "seed {seed}: no operation took effect: {report}");
        if report["violations"] != Value::Array(Vec::new()) {
            let replay = format!("cargo xtask sim --work {work} --trace --seed {seed}");
            broken.lock().unwrap().push(format!("{replay}: {}", report["violations"]));
        }
    });
    let broken = broken.into_inner().unwrap();
    assert!(broken.is_empty(), "replay with\n{}", broken.join("\n"));
}

#[test]
fn a_seed_gives_the_same_run_again() {
    let traces = Mutex::new(Vec::new());
    all(&[7, 7], |seed| {
        let report = run(*seed, &[]);
        traces.lock().unwrap().push(report["trace"].as_str().unwrap().to_owned());
    });
    let traces = traces.into_inner().unwrap();
    assert_eq!(traces[0], traces[1]);
    assert_ne!(run(8, &[])["trace"].as_str().unwrap(), traces[0], "another seed is another run");
}

#[test]
fn listed_seeds_stay_clean() {
    must_be_clean(&REGRESSIONS);
}

#[test]
fn fresh_seeds_are_clean() {
    // The keys of a hash map are what chance the standard library offers.
    let chance = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0) % 1_000_000_000;
    let seeds: Vec<(u64, u64)> = (chance..chance + 4).map(|seed| (seed, WORK)).collect();
    println!("fresh seeds {seeds:?}");
    must_be_clean(&seeds);
}

#[test]
fn planted_bugs_are_caught() {
    let missed = Mutex::new(Vec::new());
    let bugs = [
        "SkipReadValidation",
        "SkipUniqueCheck",
        "ApplyHalfABatch",
        "SkipLeaderConfirmation",
        "SpendWithoutShare",
        "ForgetRemovals",
    ];
    all(&bugs, |bug| {
        let caught = (1..=10).any(|seed| run(seed, &["--bug", bug])["violations"] != Value::Array(Vec::new()));
        if !caught {
            missed.lock().unwrap().push(*bug);
        }
    });
    assert_eq!(missed.into_inner().unwrap(), Vec::<&str>::new(), "not caught by 10 seeds");
}
