//! Statements that would run for long or for ever: they end soon after a cancel
//! request or their timeout, whatever they are busy with, and others are served
//! meanwhile.

mod common;

use std::time::Duration;

use common::{Node, answer};
use futures::TryStreamExt;
use futures::future::join;
use tokio::time::Instant;
use tokio_postgres::{Client, NoTls};

/// Rows of the table that is worked on.
const ROWS: usize = 60_000;
/// How late a statement may end here: the tests share their machine.
const LATE: Duration = Duration::from_secs(10);

/// Statements that would not be done within the test.
fn endless() -> Vec<(&'static str, String)> {
    let cross = "generate_series(1, 100000) a(x), generate_series(1, 100000) b(x), generate_series(1, 100000) c(x)";
    let pair = "generate_series(1, 300000) a(x), generate_series(1, 300000) b(x)";
    [
        ("an aggregate over a cross join", format!("select count(*) from {cross}")),
        ("a join that rejects every pair", format!("select count(*) from {pair} where a.x + b.x < 0")),
        ("a join of one key", format!("select count(*) from {pair} where a.x % 1 = b.x % 1 and a.x + b.x < 0")),
        ("rows for one key", format!("select a.x from {pair} where a.x % 1 = b.x % 1 and not a.x < b.x + 1000000")),
        ("a semi-join of one key", {
            let (a, b) = ("generate_series(1, 300000) a(x)", "generate_series(1, 300000) b(x)");
            format!(
                "select count(*) from {a} where exists (select 1 from {b} where a.x % 1 = b.x % 1 and a.x + b.x < 0)"
            )
        }),
        ("a sort", format!("select a.x from {cross} order by a.x * 7919 % 104729, b.x limit 5 offset 1000000")),
        ("a recursive query", {
            "with recursive r(n) as (select 1 union all select (n + 1) % 1000 from r) select count(*) from r".to_owned()
        }),
        ("a window", format!("select sum(n) from (select row_number() over (order by a.x) as n from {cross}) s")),
        ("distinct rows", format!("select count(*) from (select distinct a.x % 10 from {cross}) s")),
        ("subqueries by row", {
            "select count(*) from t where exists (select 1 from t u where u.n + t.n < 0 order by u.id limit 1)"
                .to_owned()
        }),
        ("an insert", format!("insert into t select a.x + 1000000, 1 from {cross}")),
        ("an explained query", format!("explain analyze select count(*) from {cross}")),
        ("a query for COPY", format!("copy (select a.x from {cross} where a.x + b.x + c.x < 0) to stdout")),
    ]
    .into()
}

async fn filled(node: &Node) -> Client {
    let client = node.connect().await;
    answer(&client, "create table t (id int primary key, n int, other int)").await;
    let fill = format!("insert into t select g, g % 1000, g from generate_series(1, {ROWS}) g");
    assert_eq!(answer(&client, &fill).await, format!("ok {ROWS}"));
    client
}

/// What `sql` ends with: the code of its error, or what it answered.
async fn end_of(client: &Client, sql: &str) -> String {
    if !sql.starts_with("copy") {
        return answer(client, sql).await;
    }
    let copied = match client.copy_out(sql).await {
        Ok(stream) => stream.try_fold(0, |bytes, piece| async move { Ok(bytes + piece.len()) }).await,
        Err(error) => Err(error),
    };
    match copied {
        Ok(bytes) => format!("{bytes} bytes"),
        Err(error) => error.code().map_or_else(|| error.to_string(), |c| c.code().to_owned()),
    }
}

/// What `sql` ends with when it is cancelled, and how long it took in all.
async fn cancelled(client: &Client, sql: &str) -> (String, Duration) {
    let token = client.cancel_token();
    let (ended, asked) = tokio::sync::watch::channel(false);
    let begun = Instant::now();
    let work = async {
        let got = end_of(client, sql).await;
        ended.send_replace(true);
        got
    };
    let cancel = async {
        // Until the statement runs a request means nothing, so ask until it ends.
        while !*asked.borrow() {
            token.cancel_query(NoTls).await.expect("the request is taken");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (got, ()) = join(work, cancel).await;
    (got, begun.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_request_ends_any_statement_soon() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::start(folder.path());
    let client = filled(&node).await;
    for (what, sql) in endless() {
        let (got, took) = cancelled(&client, &sql).await;
        println!("{what}: {took:?} after it was sent");
        assert_eq!(got, "57014", "{what}");
        assert!(took < LATE, "{what} took {took:?} to end");
        assert_eq!(answer(&client, "select 1").await, "(1)", "after {what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timeout_ends_any_statement_soon() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::start(folder.path());
    let client = filled(&node).await;
    answer(&client, "set statement_timeout = 40").await;
    let mut all = endless();
    all.extend([
        ("an update of all rows", "update t set n = n + 1".to_owned()),
        ("a delete of all rows", "delete from t".to_owned()),
        ("an index build", "create index on t (n, other)".to_owned()),
        ("a table rewrite", "alter table t alter column other type text using other::text || 'x'".to_owned()),
        ("a check of all rows", "alter table t add check (n >= 0 and length(other::text) < 100)".to_owned()),
        ("a copy of all rows", "copy t to stdout".to_owned()),
    ]);
    for (what, sql) in all {
        let begun = Instant::now();
        let got = end_of(&client, &sql).await;
        println!("{what}: {:?}", begun.elapsed());
        assert_eq!(got, "57014", "{what}");
        assert!(begun.elapsed() < LATE, "{what} took {:?} to end", begun.elapsed());
    }
    answer(&client, "set statement_timeout = 0").await;
    assert_eq!(answer(&client, "select count(*), sum(n) from t").await, format!("({ROWS},{})", ROWS / 1000 * 499_500));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_are_served_while_statements_never_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::start(folder.path());
    let client = filled(&node).await;
    let mut busy = Vec::new();
    for (_, sql) in endless().into_iter().filter(|(what, _)| what.contains("join") || what.contains("recursive")) {
        let other = node.connect().await;
        let token = other.cancel_token();
        busy.push((tokio::spawn(async move { answer(&other, &sql).await }), token));
    }
    for id in 1..=20 {
        let begun = Instant::now();
        assert_eq!(answer(&client, &format!("update t set n = -1 where id = {id}")).await, "ok 1");
        assert!(begun.elapsed() < LATE, "a point statement took {:?}", begun.elapsed());
    }
    for (running, token) in busy {
        while !running.is_finished() {
            token.cancel_query(NoTls).await.expect("the request is taken");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(running.await.expect("a client"), "57014");
    }
}
