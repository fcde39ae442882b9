//! Texts that are nearly SQL: whatever they are, they are answered or refused.

use std::sync::Arc;

use polity_base::Timestamp;
use polity_base::time::HybridClock;
use polity_store::disk::MemoryDisk;
use polity_store::spill::SpillFolder;
use polity_txn::Options;
use polity_txn::testing::{MemoryReplica, database_on, seams};

use super::{Engine, EngineOptions, Scope, Session};
use crate::error::Condition;

async fn session() -> Session {
    let seams = seams();
    let options = EngineOptions {
        database: "polity".to_owned(),
        role: "ann".to_owned(),
        password: String::new(),
        query_memory: 64 << 20,
        spill: SpillFolder::open(Arc::new(MemoryDisk::new(1)), &*seams.entropy, 1 << 30).unwrap(),
    };
    let clock = Arc::new(HybridClock::new(seams.clock.clone(), Timestamp::ZERO));
    let database = database_on(MemoryReplica::default(), Options::default());
    let engine = Engine::open(database, seams, clock, options).await.unwrap();
    let mut session = engine.session("ann", &[]).unwrap();
    for statement in ["create table t (a int primary key, b text, c timestamptz)", "create view v as select a from t"] {
        let prepared = session.prepare(statement, &[]).unwrap();
        session.execute(&prepared, Vec::new(), Scope::Alone).await.unwrap();
    }
    session
}

const WORDS: &[&str] = &[
    "select",
    "from",
    "where",
    "group by",
    "order by",
    "having",
    "union",
    "intersect",
    "limit",
    "offset",
    "with",
    "as",
    "recursive",
    "insert into",
    "values",
    "update",
    "set",
    "delete from",
    "returning",
    "on conflict",
    "do nothing",
    "create table",
    "drop table",
    "alter table",
    "add column",
    "primary key",
    "references",
    "default",
    "check",
    "copy",
    "to stdout",
    "from stdin",
    "t",
    "v",
    "a",
    "b",
    "c",
    "t.a",
    "x",
    "1",
    "2.5",
    "'x'",
    "null",
    "true",
    "$1",
    "(",
    ")",
    "(",
    ")",
    ",",
    ",",
    "+",
    "-",
    "*",
    "/",
    "||",
    "=",
    "<",
    "and",
    "or",
    "not",
    "is null",
    "in",
    "between",
    "like",
    "case",
    "when",
    "then",
    "else",
    "end",
    "cast",
    "::int",
    "::text",
    "[",
    "]",
    "array",
    "row",
    "exists",
    "any",
    "all",
    "join",
    "left join",
    "on",
    "using",
    "lateral",
    "over",
    "partition by",
    "window",
    "filter",
    "count",
    "sum",
    "max",
    "coalesce",
    "generate_series",
    "now()",
    "interval",
    "'1 day'",
    "date",
    "extract",
    "distinct",
    "for update",
    ";",
    "explain",
    "explain analyze",
    "begin",
    "commit",
    "prepare p as",
    "execute p",
    "set",
    "show",
    "e'\\n'",
    "$$",
    "\"",
    "'",
    "--",
    "/*",
];

#[tokio::test]
async fn texts_that_are_nearly_sql_are_answered_or_refused() {
    let mut session = session().await;
    for seed in 0..6_000u64 {
        let mut state = seed;
        let mut below = |limit: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % limit
        };
        let mut text = String::from(["", "select ", "select a from t where ", "insert into t "][below(4)]);
        for _ in 0..below(14) {
            text.push_str(WORDS[below(WORDS.len())]);
            text.push(' ');
        }
        println!("seed {seed}: {text}");
        let Ok(invocations) = session.parse_many(&text) else { continue };
        for invocation in invocations {
            if let Err(error) = session.describe(&invocation.prepared).await {
                let fault = error.condition() == Condition::InternalError;
                assert!(!fault, "seed {seed}: {text}: {error}");
            }
        }
    }
}
