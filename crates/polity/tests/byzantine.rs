//! Byzantine tables on clusters of five real processes, of which one may lie: the others
//! agree on every block, what they say can be proved, and the liar is named.

mod common;
#[path = "byzantine/rights.rs"]
mod rights;
#[path = "byzantine/rows.rs"]
mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use common::answer;
use common::apart::{SECONDS, agree, at_once, clients};
use common::cluster::Cluster;
use tokio::time::Instant;
use tokio_postgres::Client;

const FIVE: [&str; 5] = ["a", "b", "c", "d", "e"];
const BANK: &str = "
    CREATE TABLE accounts (id int PRIMARY KEY, owner text NOT NULL, balance bigint NOT NULL CHECK (balance >= 0))
        WITH (guarantee = 'byzantine');
    CREATE TABLE transfers (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), payer int NOT NULL REFERENCES accounts,
        payee int NOT NULL REFERENCES accounts, amount numeric(12,2) NOT NULL CHECK (amount > 0), note varchar(20))
        WITH (guarantee = 'byzantine');";

/// A cluster with the tables, and a client of each node.
async fn bank() -> (Cluster, Vec<Client>) {
    let cluster = Cluster::start(&FIVE);
    let all = clients(&cluster).await;
    all[0].batch_execute(BANK).await.unwrap();
    (cluster, all)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_write_and_hold_the_same() {
    let (cluster, all) = bank().await;
    for (at, client) in all.iter().enumerate() {
        let account = format!("INSERT INTO accounts VALUES ({at}, 'owner {at}', 100)");
        assert_eq!(answer(client, &account).await, "ok 1");
        assert_eq!(answer(client, &format!("SELECT balance FROM accounts WHERE id = {at}")).await, "(100)");
    }
    agree(&all, "SELECT count(*), sum(balance) FROM accounts", "(5,500)").await;

    // What a strong table keeps, a ledger keeps.
    let refused = [
        ("INSERT INTO accounts VALUES (1, 'again', 1)", "23505"),
        ("INSERT INTO accounts VALUES (9, NULL, 1)", "23502"),
        ("INSERT INTO accounts VALUES (9, 'debt', -1)", "23514"),
        ("UPDATE accounts SET balance = balance - 101 WHERE id = 1", "23514"),
        ("INSERT INTO transfers (payer, payee, amount) VALUES (1, 77, 5)", "23503"),
        ("BEGIN; INSERT INTO accounts VALUES (9, 'nine', 9); CREATE TABLE strong (a int); COMMIT", "PL003"),
    ];
    for (at, (sql, code)) in refused.iter().enumerate() {
        assert_eq!(answer(&all[at % 5], sql).await, *code, "{sql}");
        let _ = all[at % 5].batch_execute("ROLLBACK").await;
    }
    let transfer = "
        BEGIN;
        UPDATE accounts SET balance = balance - 30 WHERE id = 1;
        UPDATE accounts SET balance = balance + 30 WHERE id = 2;
        INSERT INTO transfers (payer, payee, amount, note) VALUES (1, 2, 30.00, 'rent');
        COMMIT";
    all[3].batch_execute(transfer).await.unwrap();
    agree(&all, "SELECT balance FROM accounts WHERE id IN (1, 2) ORDER BY id", "(70) (130)").await;
    assert_eq!(answer(&all[4], "DELETE FROM accounts WHERE id = 2").await, "23503");
    assert_eq!(answer(&all[4], "SELECT payer FROM transfers WHERE payee = 2").await, "(1)");

    // Definitions are told to the ledger before anybody relies on them.
    assert_eq!(answer(&all[1], "CREATE INDEX by_owner ON accounts (owner)").await, "ok 0");
    for client in &all {
        assert_eq!(answer(client, "SELECT id FROM accounts WHERE owner = 'owner 3'").await, "(3)");
    }
    assert_eq!(answer(&all[2], "ALTER TABLE accounts ADD COLUMN closed boolean NOT NULL DEFAULT false").await, "ok 0");
    for client in &all {
        assert_eq!(answer(client, "SELECT count(*) FROM accounts WHERE NOT closed").await, "(5)");
    }
    assert_eq!(
        answer(&all[0], "SELECT count(*) FROM pg_class WHERE 'guarantee=byzantine' = ANY (reloptions)").await,
        "(2)"
    );
    assert_eq!(answer(&all[4], "DROP TABLE transfers").await, "ok 0");
    assert_eq!(answer(&all[4], "DELETE FROM accounts WHERE id = 2").await, "ok 1");
    same_blocks(&all).await;
    drop(cluster);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_balance_is_added_to_by_all_and_never_overdrawn() {
    let (cluster, all) = bank().await;
    assert_eq!(answer(&all[0], "INSERT INTO accounts VALUES (1, 'hot', 30), (2, 'cold', 0)").await, "ok 2");
    agree(&all, "SELECT balance FROM accounts WHERE id = 1", "(30)").await;
    // Fifty clients of five nodes take one each of thirty.
    let answers = at_once(&cluster.urls(), 50, "UPDATE accounts SET balance = balance - 1 WHERE id = 1").await;
    println!("{answers:?}");
    assert_eq!(answers, BTreeMap::from([("ok 1".to_owned(), 30), ("23514".to_owned(), 20)]));
    agree(&all, "SELECT balance FROM accounts WHERE id = 1", "(0)").await;

    // Nor does any of them have to be run again, which the server would do silently.
    let mut adding = Vec::new();
    for url in cluster.urls().into_iter().cycle().take(20) {
        adding.push(tokio::spawn(async move {
            let client = common::connect(&url).await.expect("the node accepts connections");
            client.batch_execute("SET polity.statement_retries = 0").await.expect("a setting");
            let add = client.prepare("UPDATE accounts SET balance = balance + $1 WHERE id = $2").await.expect("a plan");
            for _ in 0..5 {
                assert_eq!(client.execute(&add, &[&1i64, &1i32]).await.expect("no conflict"), 1);
            }
        }));
    }
    for adding in adding {
        adding.await.unwrap();
    }
    agree(&all, "SELECT balance FROM accounts WHERE id = 1", "(100)").await;
    assert_eq!(answer(&all[0], "UPDATE accounts SET balance = 0 WHERE id = 1").await, "ok 1");

    // What depends on what was read is as if one came after the other.
    let read = "UPDATE accounts SET balance = (SELECT balance FROM accounts WHERE id = 2) + 1 WHERE id = 2";
    let answers = at_once(&cluster.urls(), 10, read).await;
    let done = answers.get("ok 1").copied().unwrap_or_default();
    assert!(done > 0, "{answers:?}");
    assert!(answers.keys().all(|said| said == "ok 1" || said == "40001"), "{answers:?}");
    agree(&all, "SELECT balance FROM accounts WHERE id = 2", &format!("({done})")).await;

    // A client's own transaction that read what was changed since is told so.
    let (one, other) = (&all[1], &all[2]);
    one.batch_execute("BEGIN").await.unwrap();
    assert_eq!(answer(one, "SELECT balance FROM accounts WHERE id = 2").await, format!("({done})"));
    assert_eq!(answer(other, "UPDATE accounts SET balance = 77 WHERE id = 2").await, "ok 1");
    assert_eq!(answer(one, "UPDATE accounts SET balance = 5 WHERE id = 1").await, "ok 1");
    assert_eq!(answer(one, "COMMIT").await, "40001");
    agree(&all, "SELECT balance FROM accounts WHERE id = 1", "(0)").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_ledger_cannot_keep_is_refused_with_the_reason() {
    let alone = Cluster::start(&["a", "b", "c"]);
    let client = alone.node(0).connect().await;
    let table = "CREATE TABLE t (id int PRIMARY KEY) WITH (guarantee = 'byzantine')";
    let error = client.batch_execute(table).await.unwrap_err();
    let error = error.as_db_error().expect("an answer");
    assert_eq!(error.code().code(), "0A000");
    assert!(error.detail().is_some_and(|detail| detail.contains("four nodes")), "{error:?}");
    drop((client, alone));

    let cluster = Cluster::start(&FIVE);
    let client = cluster.node(2).connect().await;
    client.batch_execute("CREATE TABLE strong (id int PRIMARY KEY)").await.unwrap();
    let refused = [
        "id serial PRIMARY KEY",
        "id int",
        "id int PRIMARY KEY, n counter",
        "id int PRIMARY KEY, CHECK (id::float8 > 0)",
        "id int PRIMARY KEY, at timestamptz CHECK (at < now())",
        "id int PRIMARY KEY, s text CHECK (lower(s) = s)",
        "id int PRIMARY KEY REFERENCES strong",
    ];
    for columns in refused {
        let sql = format!("CREATE TABLE t ({columns}) WITH (guarantee = 'byzantine')");
        let error = client.batch_execute(&sql).await.unwrap_err();
        let error = error.as_db_error().expect("an answer");
        assert_eq!(error.code().code(), "0A000", "{columns}: {error:?}");
    }
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, s text) WITH (guarantee = 'byzantine')").await.unwrap();
    for sql in [
        "ALTER TABLE t ADD CHECK (id > 0)",
        "ALTER TABLE t ALTER s SET NOT NULL",
        "ALTER TABLE t ALTER s TYPE int USING 1",
        "CREATE UNIQUE INDEX u ON t (s)",
        "ALTER TABLE strong ADD FOREIGN KEY (id) REFERENCES t",
    ] {
        assert_eq!(answer(&client, sql).await, "0A000", "{sql}");
    }
    assert_eq!(answer(&client, "ALTER TABLE t RENAME s TO word").await, "ok 0");
    assert_eq!(answer(&client, "ALTER TABLE t RENAME TO words").await, "ok 0");
    assert_eq!(answer(&client, "INSERT INTO words (id, word) VALUES (1, 'one')").await, "ok 1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_catches_up_and_two_lost_ones_stop_it() {
    let (mut cluster, all) = bank().await;
    assert_eq!(answer(&all[0], "INSERT INTO accounts VALUES (0, 'zero', 0)").await, "ok 1");
    let deposit = "UPDATE accounts SET balance = balance + 1 WHERE id = 0";
    cluster.kill(4);
    for _ in 0..20 {
        assert_eq!(answer(&all[1], deposit).await, "ok 1");
    }
    cluster.restart(4);
    let back = vec![cluster.node(4).connect().await];
    agree(&back, "SELECT balance FROM accounts WHERE id = 0", "(20)").await;
    go_on(&back[0], deposit).await;

    // A power of three of five cannot decide; each says so, with the numbers.
    cluster.kill(4);
    cluster.kill(3);
    let begun = Instant::now();
    let refused = loop {
        let error = match all[0].batch_execute(deposit).await {
            Ok(()) => continue,
            Err(error) => error,
        };
        let error = error.as_db_error().expect("an answer").clone();
        match error.code().code() {
            "PL001" => break error,
            // It was handed over before the loss was noticed.
            "40003" => {}
            other => panic!("{other}: {error:?}"),
        }
        assert!(begun.elapsed() < SECONDS, "{error:?}");
    };
    let detail = refused.detail().unwrap_or_default();
    println!("{} / {detail} / {:?}", refused.message(), refused.hint());
    assert!(detail.contains("3 of 5") && detail.contains('4'), "{detail}");
    let known = answer(&all[0], "SELECT balance >= 21 FROM accounts WHERE id = 0").await;
    assert_eq!(known, "(t)", "what is there can be read");

    cluster.restart(3);
    go_on(&all[0], deposit).await;
    cluster.restart(4);
    let all = clients(&cluster).await;
    let balance = answer(&all[0], "SELECT balance FROM accounts WHERE id = 0").await;
    agree(&all, "SELECT balance FROM accounts WHERE id = 0", &balance).await;
    same_blocks(&all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_is_proved_to_whoever_has_genesis() {
    let (cluster, all) = bank().await;
    assert_eq!(answer(&all[0], "INSERT INTO accounts VALUES (7, 'seven', 77)").await, "ok 1");
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (genesis, proof, absent) = (file("genesis"), file("proof"), file("absent"));
    cluster.admin(&["ledger", "genesis", "--out", &genesis]).unwrap();
    cluster.admin(&["proof", "get", "accounts", "7", "--out", &proof]).unwrap();
    cluster.admin(&["proof", "get", "accounts", "8", "--out", &absent]).unwrap();
    drop((all, cluster));
    // Nobody is there any more to be asked.
    let verify = |proof: &str, genesis: &str| {
        let program = env!("CARGO_BIN_EXE_polity");
        let output = std::process::Command::new(program).args(["proof", "verify", proof, "--trust", genesis]).output();
        let output = output.unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    };
    let (holds, said) = verify(&proof, &genesis);
    println!("{said}");
    assert!(holds && said.contains("balance") && said.contains("77"), "{said}");
    let (holds, said) = verify(&absent, &genesis);
    assert!(holds && said.contains("no row"), "{said}");
    for name in ["proof", "genesis"] {
        let whole = std::fs::read(file(name)).unwrap();
        for place in (0..whole.len()).step_by(whole.len() / 8) {
            let mut flipped = whole.clone();
            flipped[place] ^= 1;
            std::fs::write(file("flipped"), flipped).unwrap();
            let flipped = file("flipped");
            let (proof, genesis) = if name == "proof" { (&flipped, &genesis) } else { (&proof, &flipped) };
            let (holds, said) = verify(proof, genesis);
            assert!(!holds && !said.is_empty(), "{name}, byte {place}: {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authors_sign_for_themselves_and_validators_come_and_go() {
    let (cluster, all) = bank().await;
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key").display().to_string();
    cluster.admin(&["ledger", "key", "new", "--out", &key]).unwrap();
    let submit = ["ledger", "submit", "--key", &key];
    let insert = [&submit[..], &["insert", "accounts", "id=1", "owner=ada", "balance=10"]].concat();
    let stranger = cluster.admin(&insert).unwrap_err();
    assert!(stranger.contains("from this author"), "{stranger}");
    cluster.admin(&["ledger", "key", "register", "ada", "--key", &key]).unwrap();
    assert!(cluster.admin(&insert).unwrap_err().contains("\"ada\" lacks INSERT"));
    assert_eq!(answer(&all[1], "CREATE ROLE ada; GRANT INSERT, UPDATE ON accounts TO ada").await, "ok 0");
    cluster.admin(&insert).unwrap();
    cluster.admin(&[&submit[..], &["update", "accounts", "1", "--add", "balance=-4"]].concat()).unwrap();
    agree(&all, "SELECT owner, balance FROM accounts", "(ada,6)").await;
    let overdrawn = cluster.admin(&[&submit[..], &["update", "accounts", "1", "--add", "balance=-7"]].concat());
    assert!(overdrawn.unwrap_err().contains("accounts_balance_check"));
    let mistyped = cluster.admin(&[&submit[..], &["update", "accounts", "1", "--set", "balance=much"]].concat());
    assert!(mistyped.is_err());

    // Whoever signs alone is not spoken for by nodes any more.
    let own = folder.path().join("own").display().to_string();
    cluster.admin(&["ledger", "key", "new", "--out", &own]).unwrap();
    assert_eq!(answer(&all[3], "UPDATE accounts SET balance = balance + 1 WHERE id = 1").await, "ok 1");
    cluster.admin(&["ledger", "key", "register", "polity", "--key", &own, "--exclusive"]).unwrap();
    assert_eq!(answer(&all[3], "UPDATE accounts SET balance = balance + 1 WHERE id = 1").await, "42501");
    for sql in ["GRANT UPDATE ON accounts TO PUBLIC", "ALTER TABLE accounts ADD n int", "DROP TABLE transfers"] {
        assert_eq!(answer(&all[3], sql).await, "0A000", "{sql}: the ledger would not take it from a node");
    }
    assert_eq!(answer(&all[3], "GRANT SELECT ON accounts TO PUBLIC").await, "ok 0", "that is not the ledger's");
    cluster.admin(&["ledger", "submit", "--key", &own, "update", "accounts", "1", "--set", "balance=70"]).unwrap();
    agree(&all, "SELECT balance FROM accounts", "(70)").await;

    let deciding = "SELECT node, power FROM polity.validators WHERE until_height IS NULL ORDER BY node";
    let grown = cluster.admin(&["ledger", "validator", "power", "2", "3"]).unwrap();
    println!("{grown}");
    agree(&all, deciding, "(1,1) (2,3) (3,1) (4,1) (5,1)").await;
    cluster.admin(&["ledger", "validator", "power", "2", "1"]).unwrap();
    cluster.admin(&["ledger", "validator", "remove", "5"]).unwrap();
    agree(&all, deciding, "(1,1) (2,1) (3,1) (4,1)").await;
    cluster.admin(&["ledger", "submit", "--key", &own, "update", "accounts", "1", "--add", "balance=1"]).unwrap();
    agree(&all, "SELECT balance FROM accounts", "(71)").await;
    let status = cluster.admin(&["ledger", "status"]).unwrap();
    assert!(status.contains("follows"), "{status}");

    // What was proved holds across those changes.
    let file = |name: &str| folder.path().join(name).display().to_string();
    cluster.admin(&["ledger", "genesis", "--out", &file("genesis")]).unwrap();
    cluster.admin(&["proof", "get", "accounts", "1", "--out", &file("proof")]).unwrap();
    let said = cluster.admin(&["proof", "verify", &file("proof"), "--trust", &file("genesis")]).unwrap();
    assert!(said.contains("changed 3 times") && said.contains("71"), "{said}");
    same_blocks(&all).await;
}

/// Ways of lying whose evidence stays.
const PROVABLE: [&str; 2] = ["equivocator", "double_voter"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_one_node_does_the_others_agree_and_name_it() {
    let (cluster, all) = bank().await;
    assert_eq!(answer(&all[0], "INSERT INTO accounts VALUES (0, 'zero', 0), (1, 'one', 0)").await, "ok 2");
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
    // Clients of the honest nodes, and of nobody else.
    let writers: Vec<_> = (0..4usize)
        .map(|at| {
            let (url, stop, done) = (cluster.node(at).url.clone(), stop.clone(), done.clone());
            tokio::spawn(async move {
                let client = common::connect(&url).await.expect("the node accepts connections");
                let mut unknown = 0;
                while !stop.load(Ordering::Relaxed) {
                    match answer(&client, "UPDATE accounts SET balance = balance + 1 WHERE id = 0").await.as_str() {
                        "ok 1" => drop(done.fetch_add(1, Ordering::Relaxed)),
                        "40003" => unknown += 1,
                        other => assert!(other == "PL001" || other == "40001", "{other}"),
                    }
                }
                unknown
            })
        })
        .collect();
    for kind in polity_bft::adversary::NAMES {
        let before = done.load(Ordering::Relaxed);
        cluster.admin(&["fault", "lie", "5", "--how", kind]).unwrap();
        let begun = Instant::now();
        // Long enough to be the proposer several times.
        while done.load(Ordering::Relaxed) < before + 40 {
            assert!(begun.elapsed() < Duration::from_secs(60), "{kind}: no progress");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        cluster.admin(&["fault", "lie", "5", "--stop"]).unwrap();
        println!("{kind}: {} transactions in {:?}", done.load(Ordering::Relaxed) - before, begun.elapsed());
        if PROVABLE.contains(&kind) {
            let named = "SELECT DISTINCT node FROM polity.evidence";
            agree(&all[..4], named, "(5)").await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut unknown = 0;
    for writer in writers {
        unknown += writer.await.unwrap();
    }
    // A node shows what it has applied: the last block of all may be on its way.
    let acknowledged = done.load(Ordering::Relaxed);
    let begun = Instant::now();
    let (sum, balance) = loop {
        let sum = answer(&all[0], "SELECT balance FROM accounts WHERE id = 0").await;
        let balance: i64 = sum.trim_matches(['(', ')']).parse().unwrap();
        if balance >= acknowledged {
            break (sum, balance);
        }
        assert!(begun.elapsed() < SECONDS, "{balance}, acknowledged {acknowledged}");
    };
    assert!(balance <= acknowledged + unknown, "{balance}, acknowledged {acknowledged}, unknown {unknown}");
    agree(&all, "SELECT balance FROM accounts WHERE id = 0", &sum).await;
    same_blocks(&all).await;
}

/// Waits until a statement is done: a node that just started, or has just lost others, has
/// to hear them first.
async fn go_on(client: &Client, sql: &str) {
    let begun = Instant::now();
    loop {
        match answer(client, sql).await.as_str() {
            "ok 1" => return,
            said => assert!(begun.elapsed() < SECONDS, "{said}"),
        }
    }
}

/// All that nodes know of blocks is the same: hashes name the whole of a block, its state
/// root included.
async fn same_blocks(all: &[Client]) {
    let mut known: BTreeMap<i64, BTreeSet<(String, String)>> = BTreeMap::new();
    for client in all {
        let rows = client.query("SELECT height, hash, state_root FROM polity.blocks", &[]).await.unwrap();
        assert!(!rows.is_empty());
        for row in rows {
            known.entry(row.get(0)).or_default().insert((row.get(1), row.get(2)));
        }
    }
    for (height, blocks) in known {
        assert_eq!(blocks.len(), 1, "height {height}: {blocks:?}");
    }
}
