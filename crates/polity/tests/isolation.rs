//! What concurrent transactions see of one another, at both isolation levels.
//!
//! The scripts in `isolation/` are the anomalies of the ANSI and Adya lists
//! (Adya, "Weak Consistency", 1999; their form follows Kleppmann's Hermitage),
//! each with the answer expected at each level:
//!
//! ```text
//! T1 select …          run in session T1; the next lines are what it answers:
//!   = (1,10)           at both levels
//!   rc = (1,11)        at READ COMMITTED
//!   ser = (1,10)       at SERIALIZABLE
//! T2> update …         send, without waiting: it may have to queue behind a lock
//! T2<                  now wait for its answer
//! ```

mod common;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use common::{Node, answer};
use tokio_postgres::Client;

struct Step {
    line: usize,
    session: String,
    action: Action,
    expected: Option<String>,
}

enum Action {
    Run(String),
    Send(String),
    Wait,
}

/// The steps of a script at `level` (`rc` or `ser`).
fn parse(script: &str, level: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for (at, line) in script.lines().enumerate() {
        let text = line.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        if line.starts_with(' ') {
            let (which, expected) = text.split_once('=').expect("an answer");
            if which.trim().is_empty() || which.trim() == level {
                steps.last_mut().expect("a step before its answer").expected = Some(expected.trim().to_owned());
            }
            continue;
        }
        let (session, sql) = text.split_once(' ').unwrap_or((text, ""));
        let (session, action) = match session.strip_suffix('>') {
            Some(session) => (session, Action::Send(sql.to_owned())),
            None => match session.strip_suffix('<') {
                Some(session) => (session, Action::Wait),
                None => (session, Action::Run(sql.to_owned())),
            },
        };
        steps.push(Step { line: at + 1, session: session.to_owned(), action, expected: None });
    }
    steps
}

async fn play(node: &Node, file: &Path, level: &str) {
    let script = std::fs::read_to_string(file).expect("the script can be read");
    let name = match level {
        "rc" => "read committed",
        _ => "serializable",
    };
    let mut sessions: HashMap<String, Arc<Client>> = HashMap::new();
    let mut waiting = HashMap::new();
    let setup = node.connect().await;
    setup
        .batch_execute(
            "drop table if exists test; create table test (id int primary key, value int); \
             insert into test values (1, 10), (2, 20)",
        )
        .await
        .expect("the table can be made");
    for step in parse(&script, level) {
        if !sessions.contains_key(&step.session) {
            let client = node.connect().await;
            client.batch_execute(&format!("set default_transaction_isolation = '{name}'")).await.expect("a level");
            sessions.insert(step.session.clone(), Arc::new(client));
        }
        let client = sessions[&step.session].clone();
        let got = match step.action {
            Action::Run(sql) => answer(&client, &sql).await,
            Action::Send(sql) => {
                waiting.insert(step.session, tokio::spawn(async move { answer(&client, &sql).await }));
                continue;
            }
            Action::Wait => waiting.remove(&step.session).expect("something sent").await.expect("an answer"),
        };
        if let Some(expected) = step.expected {
            assert_eq!(got, expected, "{}:{} at {name}", file.display(), step.line);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn anomalies_have_their_stated_outcome() {
    let data = tempfile::tempdir().expect("a folder");
    let node = Node::start(data.path());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/isolation");
    let mut scripts: Vec<_> =
        std::fs::read_dir(folder).expect("scripts").map(|e| e.expect("a script").path()).collect();
    scripts.sort();
    assert!(scripts.len() >= 10, "scripts are missing");
    for file in scripts {
        for level in ["rc", "ser"] {
            play(&node, &file, level).await;
        }
    }
}
