//! Checks that the house stands: a crate imports only floors below it.

use std::process::Command;

use serde_json::Value;

/// The floors, ground first. Crates of one line do not see each other.
const FLOORS: &[&[&str]] = &[
    // The checkers share nothing with the judged: they stand on the ground, and import no floor.
    &["polity-base", "polity-check"],
    &["polity-store"],
    // The guarantees do not see each other.
    &["polity-raft", "polity-crdt", "polity-bft"],
    &["polity-cluster"],
    &["polity-txn"],
    &["polity-sql"],
    &["polity-doors"],
    &["polity-node"],
    // Two roofs: nothing below knows which one it is under.
    &["polity", "polity-sim"],
    &["xtask"],
];

/// What a crate must never depend on, wherever it stands.
const ABSENT: &[(&str, &str, &str)] = &[
    ("polity-doors", "polity-store", "doors know no storage"),
    ("polity-doors", "polity-raft", "doors know no replication"),
    ("polity-sql", "polity-raft", "SQL knows no replication"),
    ("polity-doors", "polity-bft", "doors know no replication"),
    ("polity-sql", "polity-bft", "SQL knows no replication"),
    ("polity-base", "tokio", "the ground floor does no IO"),
    ("polity-store", "datafusion", "storage knows no SQL"),
    ("polity-txn", "datafusion", "transactions know no SQL"),
];

/// Checks the workspace's dependencies against the floors.
pub fn check() -> Result<(), String> {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .output()
        .map_err(|e| format!("cargo metadata: {e}"))?;
    let metadata: Value = serde_json::from_slice(&output.stdout).map_err(|e| format!("cargo metadata: {e}"))?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata: no packages")?;
    let floor = |name: &str| FLOORS.iter().position(|f| f.contains(&name));
    let mut faults = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(own) = floor(name) else {
            faults.push(format!("{name} stands on no floor: add it to xtask/src/floors.rs"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            if dependency["kind"].as_str() == Some("dev") {
                continue;
            }
            let other = dependency["name"].as_str().unwrap_or_default();
            if floor(other).is_some_and(|below| below >= own) {
                faults.push(format!("{name} imports {other}, which is not below it"));
            }
            for (upper, lower, why) in ABSENT {
                if name == *upper && other == *lower {
                    faults.push(format!("{name} imports {other}: {why}"));
                }
            }
        }
    }
    if faults.is_empty() {
        println!("xtask: floors: {} crates import only floors below them", packages.len());
        return Ok(());
    }
    Err(faults.join("\n       "))
}
