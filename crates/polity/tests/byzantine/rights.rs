//! Who may write to a byzantine table: the owner says, and every validator looks.

use super::*;

/// A client of a node's as a role with a password of its own name.
async fn connect_as(cluster: &Cluster, at: usize, role: &str) -> Client {
    let (_, place) = cluster.node(at).url.split_once('@').expect("a user in the URL");
    common::connect(&format!("postgresql://{role}:{role}@{place}")).await.expect("the node accepts connections")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn validators_refuse_what_is_not_granted() {
    let (cluster, all) = bank().await;
    assert_eq!(answer(&all[0], "CREATE ROLE ada LOGIN PASSWORD 'ada'").await, "ok 0");
    assert_eq!(answer(&all[0], "INSERT INTO accounts VALUES (1, 'one', 10)").await, "ok 1");
    let ada = connect_as(&cluster, 3, "ada").await;
    let deposit = "UPDATE accounts SET balance = balance + 1 WHERE id = 1";
    for sql in ["SELECT balance FROM accounts", deposit, "DELETE FROM accounts", "TRUNCATE accounts"] {
        assert_eq!(answer(&ada, sql).await, "42501", "{sql}");
    }
    assert_eq!(answer(&ada, "SELECT count(*) FROM polity.history").await, "(0)", "nor what rows were before");

    // A key of ada's own goes past the nodes' SQL, and not past the validators.
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key").display().to_string();
    cluster.admin(&["ledger", "key", "new", "--out", &key]).unwrap();
    cluster.admin(&["ledger", "key", "register", "ada", "--key", &key]).unwrap();
    let submit = ["ledger", "submit", "--key", &key, "update", "accounts", "1", "--add", "balance=1"];
    let refused = cluster.admin(&submit).unwrap_err();
    assert!(refused.contains("lacks UPDATE"), "{refused}");

    // What one node's client grants, the ledger has ordered when that is acknowledged.
    assert_eq!(answer(&all[1], "GRANT SELECT, UPDATE ON accounts TO ada").await, "ok 0");
    cluster.admin(&submit).unwrap();
    for at in 0..5 {
        let ada = connect_as(&cluster, at, "ada").await;
        agree(std::slice::from_ref(&ada), "SELECT has_table_privilege('accounts', 'update')", "(t)").await;
        assert_eq!(answer(&ada, deposit).await, "ok 1", "node {at}");
        assert_eq!(answer(&ada, "DELETE FROM accounts WHERE id = 1").await, "42501");
        assert_eq!(answer(&ada, "INSERT INTO accounts VALUES (2, 'two', 2)").await, "42501");
    }
    let acl = "SELECT array_to_string(relacl, ' ') FROM pg_class WHERE relname = 'accounts'";
    agree(&all, acl, "(polity=arwdDx/polity ada=rw/polity)").await;

    // A renamed role is another user of the ledger's, who has what it was granted.
    assert_eq!(answer(&all[2], "ALTER ROLE ada RENAME TO eve").await, "ok 0");
    let refused = cluster.admin(&submit).unwrap_err();
    assert!(refused.contains("\"ada\" lacks UPDATE"), "{refused}");
    assert_eq!(answer(&all[2], "ALTER ROLE eve RENAME TO ada").await, "ok 0");
    cluster.admin(&submit).unwrap();
    assert_eq!(answer(&all[4], "REVOKE UPDATE ON accounts FROM ada").await, "ok 0");
    assert!(cluster.admin(&submit).unwrap_err().contains("lacks UPDATE"));
    agree(&all, "SELECT balance FROM accounts", "(17)").await;

    // A superuser who did not make the ledger is nobody to it, unless it is granted.
    assert_eq!(answer(&all[0], "CREATE ROLE root SUPERUSER LOGIN PASSWORD 'root'").await, "ok 0");
    let root = connect_as(&cluster, 2, "root").await;
    assert_eq!(answer(&root, "SELECT balance FROM accounts").await, "(17)");
    let error = root.batch_execute(deposit).await.unwrap_err();
    let error = error.as_db_error().expect("an answer");
    assert_eq!(error.code().code(), "42501");
    assert!(error.detail().is_some_and(|detail| detail.contains("\"root\" lacks UPDATE on \"accounts\"")), "{error:?}");
    assert!(error.hint().is_some_and(|hint| hint.contains("GRANT")), "{error:?}");
    assert_eq!(answer(&root, "GRANT UPDATE ON accounts TO root").await, "ok 0");
    assert_eq!(answer(&root, deposit).await, "ok 1");
    assert_eq!(
        answer(&root, "ALTER ROLE polity RENAME TO other").await,
        "0A000",
        "the owner, by whose name it is known"
    );
    same_blocks(&all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_left_between_catalog_and_ledger_is_made_up_for() {
    let (mut cluster, all) = bank().await;
    assert_eq!(answer(&all[0], "CREATE ROLE ada").await, "ok 0");
    assert_eq!(answer(&all[0], "INSERT INTO accounts VALUES (1, 'one', 10)").await, "ok 1");
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key").display().to_string();
    cluster.admin(&["ledger", "key", "new", "--out", &key]).unwrap();
    cluster.admin(&["ledger", "key", "register", "ada", "--key", &key]).unwrap();
    let submit = ["ledger", "submit", "--key", &key, "update", "accounts", "1", "--add", "balance=1"];
    drop(all);

    // Three of five are a majority for the catalog and too few for the ledger: it cannot
    // learn what the catalog becomes. Then whoever changed the catalog is gone.
    let leader = cluster.leader();
    let lost: Vec<usize> = (0..5).filter(|at| *at != leader).take(2).collect();
    let changer = (0..5).find(|at| *at != leader && !lost.contains(at)).expect("a third one");
    lost.iter().for_each(|at| cluster.kill(*at));
    let client = cluster.node(changer).connect().await;
    let changes = [
        "ALTER TABLE accounts ADD COLUMN closed boolean NOT NULL DEFAULT false",
        "GRANT UPDATE ON accounts TO ada",
        "DROP TABLE transfers",
    ];
    for sql in changes {
        let begun = Instant::now();
        while answer(&client, sql).await != "ok 0" {
            assert!(begun.elapsed() < SECONDS, "{sql}");
        }
    }
    let refused = cluster.admin(&submit).unwrap_err();
    println!("{refused}");
    cluster.kill(changer);
    drop(client);
    lost.iter().chain([&changer]).for_each(|at| cluster.restart(*at));

    let all = clients(&cluster).await;
    agree(&all, "SELECT owner, closed FROM accounts WHERE owner = 'one'", "(one,f)").await;
    agree(&all, "SELECT count(*) FROM pg_class WHERE relname = 'transfers'", "(0)").await;
    // Nobody refers to the row any more, and ada may change it.
    let begun = Instant::now();
    while let Err(why) = cluster.admin(&submit) {
        assert!(begun.elapsed() < SECONDS, "{why}");
    }
    agree(&all, "SELECT balance FROM accounts", "(11)").await;
    assert_eq!(answer(&all[changer], "DELETE FROM accounts WHERE id = 1").await, "ok 1");
    assert_eq!(answer(&all[changer], "INSERT INTO accounts VALUES (2, 'two', 2, true)").await, "ok 1");
    agree(&all, "SELECT id FROM accounts WHERE owner = 'two' AND closed", "(2)").await;
    same_blocks(&all).await;
}
