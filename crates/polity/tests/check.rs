//! `polity check` against real nodes: clean where the promise is kept, and an
//! anomaly with its story where more is expected than was asked for.

mod common;

use std::process::{Command, Output};

use common::Node;
use serde_json::Value;

fn check(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_polity")).arg("check").args(arguments).output().expect("the program runs")
}

/// The report, and the exit code.
fn report(arguments: &[&str]) -> (Value, Option<i32>) {
    let output = check(arguments);
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|why| {
        panic!("no report ({why}): {}", String::from_utf8_lossy(&output.stderr));
    });
    (report, output.status.code())
}

#[test]
fn what_is_promised_is_found_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::start(folder.path());
    for (which, count) in [("all", 7), ("eventual", 2)] {
        let (report, code) = report(&["--json", "--seconds", "6", "--clients", "6", "--workload", which, &node.url]);
        assert_eq!(report["verdict"], "clean", "{report:#}");
        assert_eq!(code, Some(0));
        let workloads = report["workloads"].as_array().expect("a list");
        assert_eq!(workloads.len(), count);
        for workload in workloads {
            assert!(workload["ok"].as_u64() > Some(10), "{workload:#}");
        }
    }
}

#[test]
fn an_isolation_that_is_too_weak_is_found_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::start(folder.path());
    let history = folder.path().join("history.json");
    let arguments = [
        "--json",
        "--workload",
        "append",
        "--isolation",
        "read-committed",
        "--expect",
        "serializable",
        "--seconds",
        "5",
        "--history",
        history.to_str().expect("a path in UTF-8"),
        &node.url,
    ];
    let (report, code) = report(&arguments);
    assert_eq!((report["verdict"].as_str(), code), (Some("broken"), Some(1)), "{report:#}");
    let anomalies = report["workloads"][0]["anomalies"].as_array().expect("a list");
    let forbidden: Vec<&Value> = anomalies.iter().filter(|anomaly| anomaly["forbidden"] == true).collect();
    assert!(!forbidden.is_empty(), "{report:#}");
    assert!(forbidden.iter().all(|anomaly| anomaly["stories"][0].as_array().is_some_and(|story| story.len() > 1)));
    let lines = std::fs::read_to_string(&history).expect("a history");
    assert!(lines.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()) && lines.lines().count() > 10);
}

#[test]
fn where_nothing_can_be_said_it_says_so() {
    for url in ["postgresql://nobody@127.0.0.1:1/nothing", "nonsense"] {
        let output = check(&["--seconds", "1", url]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{output:?}");
    }
}
