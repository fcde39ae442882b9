//! What rows are, were, and become all at once.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exact_numbers_are_added_to_without_conflicts() {
    let cluster = Cluster::start(&FIVE);
    let all = clients(&cluster).await;
    let table = "CREATE TABLE funds (id int PRIMARY KEY, euros numeric(12,2) NOT NULL CHECK (euros >= 0), ratio float8)
                 WITH (guarantee = 'byzantine')";
    assert_eq!(answer(&all[0], table).await, "ok 0");
    assert_eq!(answer(&all[0], "INSERT INTO funds VALUES (1, 7.50, 0)").await, "ok 1");
    agree(&all, "SELECT euros FROM funds", "(7.50)").await;
    let answers = at_once(&cluster.urls(), 25, "UPDATE funds SET euros = euros - 0.50 WHERE id = 1").await;
    println!("{answers:?}");
    assert_eq!(answers, BTreeMap::from([("ok 1".to_owned(), 15), ("23514".to_owned(), 10)]));
    agree(&all, "SELECT euros FROM funds", "(0.00)").await;

    // What a sum is rounded to depends on the sum, so that is read first.
    assert_eq!(answer(&all[1], "UPDATE funds SET euros = euros + 0.125 WHERE id = 1").await, "ok 1");
    agree(&all, "SELECT euros FROM funds", "(0.13)").await;
    assert_eq!(answer(&all[1], "UPDATE funds SET euros = euros + 9999999999.9 WHERE id = 1").await, "22003");
    // Floats do not add up alike in any order; one after the other they do.
    let answers = at_once(&cluster.urls(), 10, "UPDATE funds SET ratio = ratio + 0.5 WHERE id = 1").await;
    println!("{answers:?}");
    assert!(answers.keys().all(|said| said == "ok 1" || said == "40001"), "{answers:?}");
    let done = answers.get("ok 1").copied().unwrap_or_default() as f64 * 0.5;
    agree(&all, &format!("SELECT ratio = {done} FROM funds"), "(t)").await;
    same_blocks(&all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_past_can_be_read_and_deleted_rows_are_in_it() {
    let (_cluster, all) = bank().await;
    assert_eq!(answer(&all[0], "INSERT INTO accounts VALUES (1, 'one', 10), (2, 'two', 20)").await, "ok 2");
    assert_eq!(answer(&all[0], "INSERT INTO transfers (payer, payee, amount) VALUES (1, 2, 5)").await, "ok 1");
    agree(&all, "SELECT count(*) FROM transfers", "(1)").await;
    let now = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 1000";
    let then = answer(&all[0], now).await;
    let then = then.trim_matches(['(', ')']);
    assert_eq!(answer(&all[1], "UPDATE accounts SET balance = 11 WHERE id = 1").await, "ok 1");
    // References are respected, and all goes at once or nothing does.
    assert_eq!(answer(&all[1], "TRUNCATE accounts").await, "0A000", "transfers refer to it");
    assert_eq!(answer(&all[1], "DELETE FROM transfers").await, "ok 1");
    assert_eq!(answer(&all[1], "INSERT INTO transfers (payer, payee, amount) VALUES (2, 1, 7)").await, "ok 1");
    assert_eq!(answer(&all[2], "TRUNCATE accounts, transfers").await, "ok 0");
    agree(&all, "SELECT (SELECT count(*) FROM accounts), (SELECT count(*) FROM transfers)", "(0,0)").await;

    for client in &all {
        let past = format!("SELECT id, balance FROM accounts AS OF SYSTEM TIME {then} ORDER BY id");
        assert_eq!(answer(client, &past).await, "(1,10) (2,20)");
        let point = format!("SELECT balance FROM accounts AS OF SYSTEM TIME {then} WHERE id = 1");
        assert_eq!(answer(client, &point).await, "(10)");
        let joined = format!(
            "SELECT p.owner, t.amount FROM transfers t JOIN accounts p ON p.id = t.payer AS OF SYSTEM TIME {then}"
        );
        assert_eq!(answer(client, &joined).await, "(one,5.00)");
    }
    assert_eq!(answer(&all[3], &format!("BEGIN AS OF SYSTEM TIME {then}")).await, "ok 0");
    assert_eq!(answer(&all[3], "SELECT count(*) FROM accounts").await, "(2)");
    assert_eq!(answer(&all[3], "UPDATE accounts SET balance = 1").await, "25006");
    assert_eq!(answer(&all[3], "ROLLBACK").await, "ok 0");

    // Who looks into the history sees what is gone, and when it went.
    let history =
        "SELECT row FROM polity.history WHERE table_name = 'accounts' AND key = '(id)=(1)' ORDER BY height DESC";
    agree(&all, history, "(null) ((1, one, 11)) ((1, one, 10))").await;
    let gone = "SELECT count(DISTINCT key), count(*) FILTER (WHERE row IS NULL) FROM polity.history
                WHERE table_name = 'transfers'";
    agree(&all, gone, "(2,2)").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_joined_later_writes_and_can_become_a_validator() {
    let (mut cluster, all) = bank().await;
    assert_eq!(answer(&all[0], "INSERT INTO accounts VALUES (1, 'one', 10)").await, "ok 1");
    drop(all);
    cluster.grow("f");
    let sixth = cluster.node(5).connect().await;
    let deposit = "UPDATE accounts SET balance = balance + 1 WHERE id = 1";
    agree(std::slice::from_ref(&sixth), "SELECT balance FROM accounts", "(10)").await;
    for _ in 0..5 {
        assert_eq!(answer(&sixth, deposit).await, "ok 1", "a validator signs for its users");
    }
    assert_eq!(answer(&sixth, "SELECT balance FROM accounts").await, "(15)", "and it has applied what they wrote");
    assert_eq!(answer(&sixth, "UPDATE accounts SET balance = -1 WHERE id = 1").await, "23514");
    assert_eq!(answer(&sixth, "INSERT INTO accounts VALUES (2, 'two', 0)").await, "ok 1");
    let of_sixth = "SELECT count(*) FROM polity.validators WHERE node = 6 AND until_height IS NULL";
    assert_eq!(answer(&sixth, of_sixth).await, "(0)");

    // With it there are six, of which five decide: without one of the others, its vote counts.
    let said = cluster.admin(&["ledger", "validator", "add", "6"]).unwrap();
    println!("{said}");
    assert!(said.contains("node 6 has a power of 1"), "{said}");
    agree(std::slice::from_ref(&sixth), of_sixth, "(1)").await;
    let again = cluster.admin(&["ledger", "validator", "add", "6"]).unwrap();
    assert!(again.contains("node 6 has a power of 1") && !again.contains("refuses"), "{again}");
    cluster.kill(2);
    let all = clients(&cluster).await;
    for client in &all {
        go_on(client, deposit).await;
    }
    let signed = "SELECT count(*) > 0 FROM polity.blocks WHERE signed_by LIKE '%6%'";
    agree(&all, signed, "(t)").await;
    same_blocks(&all).await;
}
