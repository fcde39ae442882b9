//! Scripts of statements with PostgreSQL 15's own answers, and what needs more
//! than one session.
//!
//! ```text
//! > SELECT * FROM t WHERE id = 1       a statement
//! < 1    x                             a line of COPY data
//!   id|a                               rows, tags
//! !23505 duplicate key …               an error, and
//! !DETAIL Key (id)=(1) …               its detail
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use polity_base::seams::{ClockSource, Seams};
use polity_base::text::{Settings, to_text};
use polity_base::time::{ClockReading, HybridClock};
use polity_base::{Timestamp, Type, Value};
use polity_store::disk::MemoryDisk;
use polity_store::spill::SpillFolder;
use polity_txn::Options;
use polity_txn::testing::{MemoryReplica, database_on, seams};

use crate::error::{Error, Result};
use crate::session::{Engine, EngineOptions, Prepared, Response, Scope, Session};

/// A clock that moves on by a microsecond whenever it is read.
struct Ticking(AtomicU64);

impl ClockSource for Ticking {
    fn read(&self) -> ClockReading {
        let now = Timestamp(self.0.fetch_add(1_000, Ordering::Relaxed));
        ClockReading { earliest: now, latest: now }
    }
}

async fn engine() -> Arc<Engine> {
    let source = Arc::new(Ticking(AtomicU64::new(1_700_000_000_000_000_000)));
    let seams = Seams { clock: source.clone(), entropy: seams().entropy };
    let clock = Arc::new(HybridClock::new(source, Timestamp::ZERO));
    let options = EngineOptions {
        database: "polity".to_owned(),
        role: "ann".to_owned(),
        password: String::new(),
        query_memory: 64 << 20,
        spill: SpillFolder::open(Arc::new(MemoryDisk::new(1)), &*seams.entropy, 1 << 30).unwrap(),
    };
    let database = database_on(MemoryReplica::default(), Options::default());
    Engine::open(database, seams, clock, options).await.unwrap()
}

/// Whether a statement gives a tag besides its rows.
fn has_tag(sql: &str) -> bool {
    let word = sql.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
    !matches!(word.as_str(), "select" | "explain" | "show" | "values")
}

/// The lines psql would print.
async fn answer(sql: &str, response: Response) -> Result<Vec<String>> {
    let settings = Settings::default();
    let mut lines = Vec::new();
    match response {
        Response::Rows(mut stream) => {
            let columns = stream.columns().clone();
            lines.push(columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join("|"));
            let mut count = 0;
            loop {
                let rows = stream.next(1_000).await?;
                if rows.is_empty() {
                    break;
                }
                for row in rows {
                    count += 1;
                    let shown = row.iter().zip(columns.iter()).map(|(value, column)| match value {
                        Value::Null => "NULL".to_owned(),
                        value => to_text(value, &column.r#type, &settings),
                    });
                    lines.push(shown.collect::<Vec<_>>().join("|"));
                }
            }
            if has_tag(sql) {
                lines.push(stream.tag(count));
            }
        }
        Response::Complete(tag) => lines.push(tag),
        Response::CopyOut { mut source, .. } => {
            while let Some(bytes) = source.next().await? {
                lines.extend(String::from_utf8_lossy(&bytes).lines().map(str::to_owned));
            }
        }
        Response::CopyIn { .. } | Response::Empty => {}
    }
    Ok(lines)
}

async fn run(session: &mut Session, sql: &str, data: &[String]) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for invocation in session.parse_many(sql)? {
        let response = session.execute(&invocation.prepared, invocation.parameters, Scope::Alone).await?;
        lines.extend(answer(sql, response).await?);
    }
    if session.is_copying() {
        // Torn anywhere, as the network does.
        let bytes: Vec<u8> = data.iter().flat_map(|l| [l.as_bytes(), b"\n"].concat()).collect();
        for piece in bytes.chunks(7) {
            session.copy_data(piece).await?;
        }
        lines.push(session.copy_done(Scope::Alone).await?);
    }
    Ok(lines)
}

fn shown_error(error: &Error) -> Vec<String> {
    let mut lines = vec![format!("!{} {}", error.condition().code(), error.message())];
    let detail = error.detail_text().unwrap_or_default();
    // Where in COPY's data is CONTEXT in PostgreSQL.
    let facts = detail.lines().filter(|l| !l.starts_with("COPY "));
    lines.extend(facts.map(|l| format!("!DETAIL {l}")));
    lines
}

/// Runs a script; `excused` statements may answer otherwise (details beyond
/// PostgreSQL's are always welcome).
async fn script(text: &str, excused: &[&str]) {
    let engine = engine().await;
    let mut session = engine.session("ann", &[]).unwrap();
    let mut wrong = Vec::new();
    let mut lines = text.lines().peekable();
    let mut count = 0;
    while let Some(line) = lines.next() {
        let sql = line.strip_prefix("> ").unwrap_or_else(|| panic!("not a statement: {line}"));
        let (mut data, mut expected) = (Vec::new(), Vec::new());
        while let Some(line) = lines.next_if(|l| !l.starts_with("> ")) {
            match line.strip_prefix("< ") {
                Some(line) => data.push(line.to_owned()),
                None => expected.push(line.strip_prefix("  ").unwrap_or(line).to_owned()),
            }
        }
        count += 1;
        let got = match run(&mut session, sql, &data).await {
            Ok(lines) => lines,
            Err(error) => shown_error(&error),
        };
        let more_detail = got.first() == expected.first() && got[0].starts_with('!') && expected.len() == 1;
        if got != expected && !more_detail && !excused.contains(&sql) {
            wrong.push(format!("> {sql}\nPostgreSQL:\n  {}\nhere:\n  {}\n", expected.join("\n  "), got.join("\n  ")));
        }
    }
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn insert() {
    script(include_str!("scripts/insert.txt"), &[]).await;
}

#[tokio::test]
async fn insert_on_conflict() {
    script(include_str!("scripts/upsert.txt"), &[]).await;
}

#[tokio::test]
async fn statements_by_key() {
    script(include_str!("scripts/point.txt"), &[]).await;
}

#[tokio::test]
async fn foreign_keys() {
    script(include_str!("scripts/foreign.txt"), &[]).await;
}

#[tokio::test]
async fn statements_that_need_the_planner() {
    // PostgreSQL goes by where rows lie, and meets another key first.
    script(include_str!("scripts/general.txt"), &["UPDATE t SET id = id + 1"]).await;
}

#[tokio::test]
async fn copy() {
    script(include_str!("scripts/copy.txt"), &[]).await;
}

async fn prepared(session: &mut Session, sql: &str, parameters: Vec<Value>) -> Result<Vec<String>> {
    let statement: Arc<Prepared> = session.prepare(sql, &[])?;
    let response = session.execute(&statement, parameters, Scope::Alone).await?;
    answer(sql, response).await
}

async fn ok(session: &mut Session, sql: &str) -> Vec<String> {
    run(session, sql, &[]).await.unwrap_or_else(|e| panic!("{sql}: {e}"))
}

async fn code(session: &mut Session, sql: &str) -> &'static str {
    match run(session, sql, &[]).await {
        Ok(lines) => panic!("{sql} went through: {lines:?}"),
        Err(error) => error.condition().code(),
    }
}

#[tokio::test]
async fn parameters_have_the_types_of_their_places() {
    let engine = engine().await;
    let mut s = engine.session("ann", &[]).unwrap();
    ok(&mut s, "CREATE TABLE t (id bigint PRIMARY KEY, a int, b text, c numeric(6,2), d timestamptz, f float8)").await;
    let insert = "INSERT INTO t VALUES ($1, $2, $3, $4, CURRENT_TIMESTAMP, $5)";
    let types = {
        let p = s.prepare(insert, &[]).unwrap();
        s.describe(&p).await.unwrap().parameters
    };
    assert_eq!(types, [Type::Int8, Type::Int4, Type::Text, Type::Numeric(None), Type::Float8]);
    let row = vec![
        Value::Int8(1),
        Value::Int4(5),
        Value::Text("x".into()),
        Value::Numeric("1.005".parse().unwrap()),
        Value::Float8(0.5),
    ];
    assert_eq!(prepared(&mut s, insert, row).await.unwrap(), ["INSERT 0 1"]);
    let update = "UPDATE t SET a = a + $1, b = b || $2 WHERE id = $3 RETURNING a, b, c, f * $4 AS f";
    let p = s.prepare(update, &[]).unwrap();
    let described = s.describe(&p).await.unwrap();
    assert_eq!(described.parameters, [Type::Int4, Type::Text, Type::Int8, Type::Float8]);
    assert_eq!(described.columns.unwrap().len(), 4);
    let given = vec![Value::Int4(2), Value::Text("y".into()), Value::Int8(1), Value::Float8(4.0)];
    assert_eq!(prepared(&mut s, update, given).await.unwrap(), ["a|b|c|f", "7|xy|1.01|2", "UPDATE 1"]);
    // A stated type is compared and assigned as a value of that type.
    let p = s.prepare("SELECT a FROM t WHERE id = $1", &[Some(Type::Int4)]).unwrap();
    let response = s.execute(&p, vec![Value::Int4(1)], Scope::Alone).await.unwrap();
    assert_eq!(answer("SELECT", response).await.unwrap(), ["a", "7"]);
    let nothing = prepared(&mut s, "SELECT a FROM t WHERE id = $1", vec![Value::Null]).await.unwrap();
    assert_eq!(nothing, ["a"]);
}

#[tokio::test]
async fn parameters_of_statements_that_need_the_planner() {
    let engine = engine().await;
    let mut s = engine.session("ann", &[]).unwrap();
    ok(&mut s, "CREATE TABLE t (id int PRIMARY KEY, a int, b varchar(5), d date)").await;
    let text = |s: &str| Value::Text(s.to_owned());
    for (sql, types, values, expected) in [
        (
            "INSERT INTO t SELECT g, $1, $2, $3 FROM generate_series(1, $4) g",
            vec![Type::Int4, Type::Text, Type::Date, Type::Int4],
            vec![Value::Int4(5), text("x"), Value::Date(18_000), Value::Int4(3)],
            vec!["INSERT 0 3"],
        ),
        (
            "UPDATE t SET a = a + $1, b = $2 WHERE a = $3 AND id < $4 RETURNING id, a, b, $5 || b AS c",
            vec![Type::Int4, Type::Text, Type::Int4, Type::Int4, Type::Text],
            vec![Value::Int4(1), text("y"), Value::Int4(5), Value::Int4(3), text("z")],
            vec!["id|a|b|c", "1|6|y|zy", "2|6|y|zy", "UPDATE 2"],
        ),
        (
            "INSERT INTO t (id, a, b) VALUES ($1, (SELECT max(a) + $2 FROM t), repeat($3, 2)) RETURNING a, b",
            vec![Type::Int4, Type::Int4, Type::Text],
            vec![Value::Int4(9), Value::Int4(10), text("q")],
            vec!["a|b", "16|qq", "INSERT 0 1"],
        ),
        (
            "INSERT INTO t (id) VALUES ($1) ON CONFLICT (id) DO UPDATE SET b = left($2, 2) WHERE t.a > $3 RETURNING b",
            vec![Type::Int4, Type::Text, Type::Int4],
            vec![Value::Int4(9), text("abc"), Value::Int4(1)],
            vec!["b", "ab", "INSERT 0 1"],
        ),
        (
            "SELECT id FROM t WHERE a < $1 ORDER BY id FOR UPDATE",
            vec![Type::Int4],
            vec![Value::Int4(6)],
            vec!["id", "3"],
        ),
        (
            "DELETE FROM t WHERE a > $1 OR b = $2 OR d IS NULL AND $3 RETURNING id",
            vec![Type::Int4, Type::Text, Type::Bool],
            vec![Value::Int4(100), text("y"), Value::Bool(true)],
            vec!["id", "1", "2", "9", "DELETE 3"],
        ),
    ] {
        let p = s.prepare(sql, &[]).unwrap();
        let described = s.describe(&p).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        // A varchar's parameter may be described as either.
        let plain = |t: &Type| if t.is_text() { Type::Text } else { t.clone() };
        assert_eq!(described.parameters.iter().map(plain).collect::<Vec<_>>(), types, "{sql}");
        assert_eq!(prepared(&mut s, sql, values).await.unwrap_or_else(|e| panic!("{sql}: {e}")), expected, "{sql}");
    }
}

#[tokio::test]
async fn executed_statements_take_literals() {
    let engine = engine().await;
    let mut s = engine.session("ann", &[]).unwrap();
    ok(&mut s, "CREATE TABLE t (id int PRIMARY KEY, a bigint, b varchar(5))").await;
    ok(&mut s, "PREPARE ins AS INSERT INTO t VALUES ($1, $2 + 1, $3)").await;
    ok(&mut s, "EXECUTE ins ('1', '5', 'x')").await;
    ok(&mut s, "EXECUTE ins (2, 6, 'y')").await;
    ok(&mut s, "PREPARE upd (int, text) AS UPDATE t SET a = a + $1, b = $2 WHERE a > $1 RETURNING a + $1 AS a, b")
        .await;
    assert_eq!(ok(&mut s, "EXECUTE upd ('3', 'z')").await, ["a|b", "12|z", "13|z", "UPDATE 2"]);
    assert_eq!(code(&mut s, "EXECUTE upd (3, 'too long')").await, "22001");
    ok(&mut s, "PREPARE up AS INSERT INTO t SELECT id, $1, $2 FROM t ON CONFLICT (id) DO UPDATE SET a = $3 + 1").await;
    ok(&mut s, "EXECUTE up ('3', 'z', '4')").await;
    assert_eq!(ok(&mut s, "SELECT a FROM t WHERE id = 2").await, ["a", "5"]);
}

/// Adds one to a row, many times over from many sessions.
async fn contend(isolation: &str) {
    let engine = engine().await;
    let mut s = engine.session("ann", &[]).unwrap();
    ok(&mut s, "CREATE TABLE hot (id int PRIMARY KEY, n int, k text UNIQUE)").await;
    ok(&mut s, "INSERT INTO hot VALUES (1, 0, 'k')").await;
    let work = (0..8).map(|_| {
        let mut s = engine.session("ann", &[]).unwrap();
        let begin = format!("BEGIN ISOLATION LEVEL {isolation}");
        async move {
            for _ in 0..10 {
                ok(&mut s, "UPDATE hot SET n = n + 1 WHERE id = 1").await;
                ok(&mut s, "UPDATE hot SET n = n + 1 WHERE k = 'k'").await;
                ok(&mut s, "INSERT INTO hot VALUES (2, 1) ON CONFLICT (id) DO UPDATE SET n = hot.n + 1").await;
                ok(&mut s, &begin).await;
                ok(&mut s, "UPDATE hot SET n = n + 1 WHERE id = 1").await;
                ok(&mut s, "SELECT n FROM hot WHERE id = 1 FOR UPDATE").await;
                ok(&mut s, "COMMIT").await;
            }
        }
    });
    futures::future::join_all(work).await;
    assert_eq!(ok(&mut s, "SELECT n FROM hot WHERE id = 1").await, ["n", "240"]);
    assert_eq!(ok(&mut s, "SELECT n FROM hot WHERE id = 2").await, ["n", "80"]);
}

#[tokio::test]
async fn writers_of_one_row_queue_up_instead_of_failing() {
    contend("SERIALIZABLE").await;
    contend("READ COMMITTED").await;
}

#[tokio::test]
async fn one_of_two_inserts_of_a_key_succeeds() {
    for isolation in ["SERIALIZABLE", "READ COMMITTED"] {
        let engine = engine().await;
        let mut a = engine.session("ann", &[]).unwrap();
        let mut b = engine.session("ann", &[]).unwrap();
        ok(&mut a, "CREATE TABLE t (id int PRIMARY KEY, u text UNIQUE)").await;
        for session in [&mut a, &mut b] {
            ok(session, &format!("BEGIN ISOLATION LEVEL {isolation}")).await;
        }
        ok(&mut a, "INSERT INTO t VALUES (1, 'x')").await;
        let second = async {
            let first = code(&mut b, "INSERT INTO t VALUES (2, 'x')").await;
            ok(&mut b, "ROLLBACK").await;
            (first, code(&mut b, "INSERT INTO t VALUES (1, 'y')").await)
        };
        let (_, codes) = tokio::join!(
            async {
                // The other one waits for us by now.
                while engine.database().lock_waits().is_empty() {
                    tokio::task::yield_now().await;
                }
                ok(&mut a, "COMMIT").await
            },
            second
        );
        assert_eq!(codes, ("23505", "23505"), "{isolation}");
    }
}

#[tokio::test]
async fn a_parent_cannot_go_while_a_child_comes() {
    for isolation in ["SERIALIZABLE", "READ COMMITTED"] {
        let engine = engine().await;
        let mut a = engine.session("ann", &[]).unwrap();
        let mut b = engine.session("ann", &[]).unwrap();
        ok(&mut a, "CREATE TABLE p (id int PRIMARY KEY, v int)").await;
        ok(&mut a, "CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p)").await;
        ok(&mut a, "INSERT INTO p VALUES (1, 0), (2, 0)").await;
        ok(&mut a, &format!("BEGIN ISOLATION LEVEL {isolation}")).await;
        ok(&mut a, "INSERT INTO c VALUES (1, 1)").await;
        // What is not a key may change all the same.
        ok(&mut b, "UPDATE p SET v = 1 WHERE id = 1").await;
        let (_, refused) = tokio::join!(
            async {
                while engine.database().lock_waits().is_empty() {
                    tokio::task::yield_now().await;
                }
                ok(&mut a, "COMMIT").await
            },
            code(&mut b, "DELETE FROM p WHERE id = 1")
        );
        assert_eq!(refused, "23503", "{isolation}");
        // The other way round: the child comes too late.
        ok(&mut b, &format!("BEGIN ISOLATION LEVEL {isolation}")).await;
        ok(&mut b, "DELETE FROM p WHERE id = 2").await;
        let (_, refused) = tokio::join!(
            async {
                while engine.database().lock_waits().is_empty() {
                    tokio::task::yield_now().await;
                }
                ok(&mut b, "COMMIT").await
            },
            code(&mut a, "INSERT INTO c VALUES (2, 2)")
        );
        assert_eq!(refused, "23503", "{isolation}");
    }
}

#[tokio::test]
async fn a_failed_statement_leaves_nothing() {
    let engine = engine().await;
    let mut s = engine.session("ann", &[]).unwrap();
    ok(&mut s, "CREATE TABLE t (id int PRIMARY KEY, v int CHECK (v > 0))").await;
    ok(&mut s, "BEGIN").await;
    ok(&mut s, "INSERT INTO t VALUES (1, 1)").await;
    ok(&mut s, "SAVEPOINT a").await;
    assert_eq!(code(&mut s, "INSERT INTO t VALUES (2, 1), (3, 0)").await, "23514");
    ok(&mut s, "ROLLBACK TO a").await;
    ok(&mut s, "COMMIT").await;
    assert_eq!(ok(&mut s, "SELECT id FROM t WHERE id = 2").await, ["id"]);
    assert_eq!(ok(&mut s, "SELECT id FROM t WHERE id = 1").await, ["id", "1"]);
}

#[tokio::test]
async fn a_fresh_table_is_filled_past_the_batch() {
    let engine = engine().await;
    let mut s = engine.session("ann", &[]).unwrap();
    let lines = |range: std::ops::Range<i32>| range.map(|i| format!("{i}\tname {i}")).collect::<Vec<_>>();
    ok(&mut s, "BEGIN").await;
    ok(&mut s, "CREATE TABLE t (id int PRIMARY KEY, name text UNIQUE)").await;
    assert_eq!(run(&mut s, "COPY t FROM STDIN WITH (FREEZE)", &lines(0..20_000)).await.unwrap(), ["COPY 20000"]);
    assert_eq!(run(&mut s, "COPY t FROM STDIN", &lines(20_000..25_000)).await.unwrap(), ["COPY 5000"]);
    assert_eq!(ok(&mut s, "SELECT name FROM t WHERE id = 12345").await, ["name", "name 12345"]);
    ok(&mut s, "UPDATE t SET name = 'x' WHERE id = 12345").await;
    ok(&mut s, "COMMIT").await;
    assert_eq!(ok(&mut s, "SELECT id FROM t WHERE name = 'x'").await, ["id", "12345"]);
    assert_eq!(ok(&mut s, "SELECT id FROM t WHERE name = 'name 24999'").await, ["id", "24999"]);
    // Into the batch, without locks.
    assert_eq!(run(&mut s, "COPY t FROM STDIN", &lines(25_000..30_000)).await.unwrap(), ["COPY 5000"]);
    let twice = run(&mut s, "COPY t FROM STDIN", &lines(29_999..36_000)).await.unwrap_err();
    assert_eq!(twice.condition().code(), "23505");
    assert!(twice.detail_text().unwrap().starts_with("Key (id)=(29999) already exists."), "{twice}");
    // A duplicate within the fill itself, in order and out of order.
    for repeated in [[1_500..4_000, 0..1_501], [0..1_501, 1_500..4_000]] {
        ok(&mut s, "BEGIN").await;
        ok(&mut s, "TRUNCATE t").await;
        let [a, b] = repeated;
        let all = [lines(a), lines(b)].concat();
        assert_eq!(run(&mut s, "COPY t FROM STDIN", &all).await.unwrap_err().condition().code(), "23505");
        ok(&mut s, "ROLLBACK").await;
    }
    assert_eq!(ok(&mut s, "SELECT id FROM t WHERE id = 29999").await, ["id", "29999"]);
}

#[tokio::test]
async fn locks_that_are_taken_can_be_refused() {
    let engine = engine().await;
    let mut a = engine.session("ann", &[]).unwrap();
    let mut b = engine.session("ann", &[]).unwrap();
    ok(&mut a, "CREATE TABLE t (id int PRIMARY KEY)").await;
    ok(&mut a, "INSERT INTO t VALUES (1)").await;
    ok(&mut a, "BEGIN").await;
    ok(&mut a, "SELECT id FROM t WHERE id = 1 FOR UPDATE").await;
    assert_eq!(code(&mut b, "SELECT id FROM t WHERE id = 1 FOR SHARE NOWAIT").await, "55P03");
    assert_eq!(ok(&mut b, "SELECT id FROM t WHERE id = 1").await, ["id", "1"]);
    ok(&mut b, "SET lock_timeout = '1ms'").await;
    assert_eq!(code(&mut b, "DELETE FROM t WHERE id = 1").await, "55P03");
    ok(&mut a, "COMMIT").await;
    ok(&mut b, "SET default_transaction_read_only = on").await;
    assert_eq!(code(&mut b, "DELETE FROM t WHERE id = 1").await, "25006");
}

#[test]
fn statements_run_on_any_thread() {
    fn is_send<T: Send>(_: T) {}
    #[allow(dead_code)]
    fn check(session: &mut Session, prepared: &Arc<Prepared>) {
        is_send(session.execute(prepared, Vec::new(), Scope::Alone));
    }
}

#[tokio::test]
async fn point_statements_say_how_they_run() {
    let engine = engine().await;
    let mut s = engine.session("ann", &[]).unwrap();
    ok(&mut s, "CREATE TABLE t (id int PRIMARY KEY, v int)").await;
    assert_eq!(
        ok(&mut s, "EXPLAIN UPDATE t SET v = v + 1 WHERE id = 1").await,
        ["QUERY PLAN", "Update on t", "  ->  Point lookup on t using t_pkey", "        Condition: id = 1"]
    );
}
