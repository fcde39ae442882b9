//! What fuzzers call: bytes in, nothing out, and a panic if something is wrong.

use std::cell::RefCell;
use std::sync::Arc;

use bytes::BytesMut;
use polity_base::time::HybridClock;
use polity_base::{RangeId, Timestamp};
use polity_cluster::links::frame;
use polity_doors::pg::frontend;
use polity_raft::network;
use polity_sql::session::{Engine, EngineOptions, Response, Scope, Session};
use polity_store::disk::MemoryDisk;
use polity_store::spill::SpillFolder;
use polity_txn::Options;
use polity_txn::testing::{MemoryReplica, database_on, seams};

/// A target, by its name, and inputs to begin with.
pub const TARGETS: &[(&str, fn(&[u8]), &[&[u8]])] = &[("links", links, &[]), ("wire", wire, WIRE), ("sql", sql, SQL)];

const WIRE: &[&[u8]] = &[
    b"\0\0\0\x08\x04\xd2\x16\x2f",
    b"\0\0\0\x12\0\x03\0\0user\0ann\0\0",
    b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x01abcd",
    b"Q\0\0\0\x0dselect 1\0",
    b"P\0\0\0\x15s\0select $1\0\0\x01\0\0\0\x17",
    b"B\0\0\0\x17p\0s\0\0\x01\0\0\0\x01\0\0\0\x011\0\x01\0\0",
    b"D\0\0\0\x06Ss\0\0\0\0",
    b"E\0\0\0\x0ap\0\0\0\0\0S\0\0\0\x04",
    b"d\0\0\0\x06xyc\0\0\0\x04f\0\0\0\x05\0X\0\0\0\x04",
];

const SQL: &[&[u8]] = &[
    b"select a, count(*) filter (where b > 1) from t group by rollup (a, c) having sum(b) is not null order by 1 desc",
    b"with recursive r(n) as (select 1 union all select n + 1 from r where n < 5) select * from r join t on a = n",
    b"select *, row_number() over (partition by c order by b rows between 1 preceding and current row) from t",
    b"insert into t (a, b) values (1, 'x'::text || $1) on conflict (a) do update set b = excluded.b returning *",
    b"update t set b = (select max(u.b) from t u where u.a < t.a), c = default from v where v.a = t.a and b like 'x%'",
    b"delete from t using v where t.a = v.a and exists (select from t) returning (t.*)::text, array[1, 2][1:2]",
    b"create table u (id serial primary key, n numeric(10, 2) check (n > 0) default 1, r int references t on delete cascade)",
    b"alter table t add column d timestamptz default now() + interval '1 day', drop constraint t_pkey cascade",
    b"select case when a between 1 and 2 then date '2020-01-01' - b else null end, extract(epoch from c at time zone 'UTC')",
    b"copy t (a, b) from stdin with (format csv, header true, delimiter ';', null 'x')",
    b"select x'ff', e'\\n', $$a$$, \"a\"\"b\", 1e10, .5, U&'\\0061', a->'b'->>0, b#>>'{a,b}', not a is distinct from b",
];

/// As for a control connection of a link, in small.
const LIMIT: usize = 64 * 1024;

/// What a peer sends over a link: frames, the messages in them, and Raft's requests
/// and responses in those.
pub fn links(data: &[u8]) {
    let mut buffer = BytesMut::from(data);
    while let Ok(Some(content)) = frame::take(&mut buffer, LIMIT) {
        let Ok(messages) = frame::decode(content) else { break };
        for message in messages {
            let _ = postcard::take_from_bytes::<(RangeId, network::Request)>(&message.body);
            let _ = postcard::take_from_bytes::<network::Response>(&message.body);
            // What is read is written the same.
            let mut frame = frame::Frame::default();
            frame.push(&message);
            let mut again = BytesMut::from(&frame.finish()[..]);
            let content = frame::take(&mut again, usize::MAX).expect("a frame").expect("whole");
            assert_eq!(frame::decode(content).expect("messages"), [message]);
        }
    }
}

/// Bytes as PostgreSQL clients send them: an opening, and messages.
pub fn wire(data: &[u8]) {
    let mut input = BytesMut::from(data);
    while let Ok(Some(_)) = frontend::next_opening(&mut input) {}
    let mut input = BytesMut::from(data);
    let _ = frontend::sync_follows(data);
    while let Ok(Some(frame)) = frontend::next_frame(&mut input) {
        if let Ok(frontend::Message::Bind { formats, values, results, .. }) = frontend::decode(&frame) {
            assert_eq!(values.iter().count(), values.len());
            assert_eq!(formats.iter().count(), formats.len());
            assert_eq!(results.iter().count(), results.len());
        }
    }
}

/// Texts of statements: parsed, and bound against a small catalog.
pub fn sql(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    thread_local! {
        static WORLD: RefCell<World> = RefCell::new(World::new());
    }
    WORLD.with_borrow_mut(|world| world.bind(text));
}

struct World {
    runtime: tokio::runtime::Runtime,
    session: Session,
}

impl World {
    fn new() -> World {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let session = runtime.block_on(async {
            let seams = seams();
            let options = EngineOptions {
                database: "polity".to_owned(),
                role: "ann".to_owned(),
                password: String::new(),
                query_memory: 64 << 20,
                spill: SpillFolder::open(Arc::new(MemoryDisk::new(1)), &*seams.entropy, 1 << 30).expect("a folder"),
            };
            let clock = Arc::new(HybridClock::new(seams.clock.clone(), Timestamp::ZERO));
            let database = database_on(MemoryReplica::default(), Options::default());
            let engine = Engine::open(database, seams, clock, options).await.expect("an engine");
            let mut session = engine.session("ann", &[]).expect("a session");
            for statement in [
                "create table t (a int primary key, b text, c timestamptz, e numeric(10, 2), f boolean, g jsonb)",
                "create index on t (b, c)",
                "create view v as select a, b || 'x' as b from t where f",
                "create sequence s",
            ] {
                let prepared = session.prepare(statement, &[]).expect("a statement");
                let done = session.execute(&prepared, Vec::new(), Scope::Alone).await.expect("it runs");
                assert!(matches!(done, Response::Complete(_)));
            }
            session
        });
        World { runtime, session }
    }

    fn bind(&mut self, text: &str) {
        let World { runtime, session } = self;
        runtime.block_on(async {
            let Ok(invocations) = session.parse_many(text) else { return };
            for invocation in invocations {
                if let Err(error) = session.describe(&invocation.prepared).await {
                    let what = error.to_string();
                    assert!(!what.contains("panicked"), "{what}");
                }
            }
        });
    }
}
