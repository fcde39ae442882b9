//! Conversations without sockets: what is answered to whom in which order.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use polity_base::Timestamp;
use polity_base::time::HybridClock;
use polity_sql::session::{Engine, EngineOptions};
use polity_store::disk::MemoryDisk;
use polity_store::spill::SpillFolder;
use polity_txn::Options;
use polity_txn::testing::{MemoryReplica, database_on, seams};
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::connection::Connection;
use super::{DoorMetrics, DoorOptions, Shared, Stream, opening};

async fn shared() -> Arc<Shared> {
    let seams = seams();
    let clock = Arc::new(HybridClock::new(seams.clock.clone(), Timestamp::ZERO));
    let options = EngineOptions {
        database: "polity".to_owned(),
        role: "ann".to_owned(),
        password: "secret".to_owned(),
        query_memory: 64 << 20,
        spill: SpillFolder::open(Arc::new(MemoryDisk::new(1)), &*seams.entropy, 1 << 30).unwrap(),
    };
    let database = database_on(MemoryReplica::default(), Options::default());
    let engine = Engine::open(database, seams, clock, options).await.unwrap();
    let options = DoorOptions { tls: None, most_connections: 10, login_timeout: Duration::from_millis(100) };
    Arc::new(Shared {
        engine,
        options,
        metrics: DoorMetrics::register(&mut Registry::default()),
        secret: [7; 32],
        sessions: Mutex::default(),
    })
}

/// A client's end of a conversation.
struct Client {
    stream: DuplexStream,
    input: BytesMut,
}

impl Client {
    /// A client that has logged in, and what it was greeted with is read.
    async fn new(shared: &Arc<Shared>) -> Client {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let session = shared.engine.session("ann", &[]).unwrap();
        let registration = shared.register(&session, SocketAddr::from(([127, 0, 0, 1], 1)));
        let departure = registration.departure.clone();
        let connection = Connection::new(shared.clone(), Stream::Memory(theirs), BytesMut::new(), session, departure);
        tokio::spawn(async move { connection.run(registration.process, &registration.secret).await });
        let mut client = Client { stream: ours, input: BytesMut::new() };
        let greeting = client.until_ready().await;
        assert!(greeting.ends_with("Z(I)"), "{greeting}");
        client
    }

    async fn send(&mut self, messages: &[Vec<u8>]) {
        // A server that has hung up reads no more.
        let _ = self.stream.write_all(&messages.concat()).await;
    }

    /// The next message; `None` at the end.
    async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some(&length) = self.input.get(1..5).and_then(|b| b.first_chunk::<4>()) {
                let length = u32::from_be_bytes(length) as usize;
                if self.input.len() > length {
                    let message = self.input.split_to(1 + length);
                    return Some((message[0], message[5..].to_vec()));
                }
            }
            let read = self.stream.read_buf(&mut self.input);
            let read = tokio::time::timeout(Duration::from_secs(20), read).await.expect("an answer in time");
            if read.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    async fn until(&mut self, last: impl Fn(u8) -> bool) -> String {
        let mut told = Vec::new();
        while let Some((kind, body)) = self.next().await {
            if !matches!(kind, b'S' | b'K' | b'N') {
                told.push(shown(kind, &body));
            }
            if last(kind) {
                break;
            }
        }
        told.join(" ")
    }

    /// What was answered, in one line, up to ReadyForQuery or the end.
    async fn until_ready(&mut self) -> String {
        self.until(|kind| kind == b'Z').await
    }

    async fn ask(&mut self, messages: &[Vec<u8>]) -> String {
        self.send(messages).await;
        self.until_ready().await
    }
}

/// A message of the server in short: `1`, `D(a,b)`, `C(SELECT 1)`, `E(42601)`.
fn shown(kind: u8, mut body: &[u8]) -> String {
    let mut text = char::from(kind).to_string();
    let part = match kind {
        b'C' => String::from_utf8_lossy(body.strip_suffix(b"\0").unwrap_or(body)).into_owned(),
        b'Z' => char::from(body[0]).to_string(),
        b'E' => {
            let mut fields = body.split(|b| *b == 0);
            let code = fields.find_map(|f| f.strip_prefix(b"C")).unwrap_or_default();
            let fatal = body.windows(5).any(|w| w == b"FATAL");
            format!("{}{}", if fatal { "fatal " } else { "" }, String::from_utf8_lossy(code))
        }
        b'D' => {
            let mut values = Vec::new();
            for _ in 0..body.get_u16() {
                match body.get_i32() {
                    -1 => values.push("null".to_owned()),
                    length => {
                        values.push(String::from_utf8_lossy(&body[..length as usize]).into_owned());
                        body.advance(length as usize);
                    }
                }
            }
            values.join(",")
        }
        b't' => body[2..].chunks(4).map(|mut oid| oid.get_u32().to_string()).collect::<Vec<_>>().join(","),
        _ => return text,
    };
    let _ = write!(text, "({part})");
    text
}

fn message(kind: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    [&[kind][..], &(body.len() as u32 + 4).to_be_bytes(), &body].concat()
}

fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &[sql.as_bytes(), b"\0"])
}

fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"])
}

fn bind(portal: &str, statement: &str, values: &[&str]) -> Vec<u8> {
    bind_as(portal, statement, &[], values, &[])
}

fn bind_as(portal: &str, statement: &str, formats: &[u16], values: &[&str], results: &[u16]) -> Vec<u8> {
    let codes = |codes: &[u16]| {
        let all = std::iter::once(codes.len() as u16).chain(codes.iter().copied());
        all.flat_map(u16::to_be_bytes).collect::<Vec<u8>>()
    };
    let mut given = (values.len() as u16).to_be_bytes().to_vec();
    for value in values {
        given.extend_from_slice(&(value.len() as u32).to_be_bytes());
        given.extend_from_slice(value.as_bytes());
    }
    message(b'B', &[portal.as_bytes(), b"\0", statement.as_bytes(), b"\0", &codes(formats), &given, &codes(results)])
}

fn describe(target: u8, name: &str) -> Vec<u8> {
    message(b'D', &[&[target], name.as_bytes(), b"\0"])
}

fn close(target: u8, name: &str) -> Vec<u8> {
    message(b'C', &[&[target], name.as_bytes(), b"\0"])
}

fn execute(portal: &str, rows: u32) -> Vec<u8> {
    message(b'E', &[portal.as_bytes(), b"\0", &rows.to_be_bytes()])
}

fn sync() -> Vec<u8> {
    message(b'S', &[])
}

fn flush() -> Vec<u8> {
    message(b'H', &[])
}

#[tokio::test]
async fn a_pipeline_goes_on_after_the_sync_behind_an_error() {
    let mut client = Client::new(&shared().await).await;
    client.ask(&[query("create table t (id int primary key)")]).await;
    let insert = |id: &str| [parse("", "insert into t values ($1)"), bind("", "", &[id]), execute("", 0)].concat();
    let all = [insert("1"), insert("2"), insert("2"), insert("3"), flush(), query("select 1"), sync()];
    let got = client.ask(&all).await;
    assert_eq!(got, "1 2 C(INSERT 0 1) 1 2 C(INSERT 0 1) 1 2 E(23505) Z(I)");
    // What stood before the error in the same pipeline is undone with it.
    assert_eq!(client.ask(&[query("select count(*) from t")]).await, "T D(0) C(SELECT 1) Z(I)");
    let got = client.ask(&[insert("4"), sync(), insert("4"), sync(), insert("5"), sync()]).await;
    assert_eq!(got, "1 2 C(INSERT 0 1) Z(I)");
    assert_eq!(client.until_ready().await, "1 2 E(23505) Z(I)");
    assert_eq!(client.until_ready().await, "1 2 C(INSERT 0 1) Z(I)");
    assert_eq!(client.ask(&[query("select id from t order by id")]).await, "T D(4) D(5) C(SELECT 2) Z(I)");
}

#[tokio::test]
async fn a_failed_transaction_takes_nothing_but_its_end() {
    let mut client = Client::new(&shared().await).await;
    assert_eq!(client.ask(&[query("begin")]).await, "C(BEGIN) Z(T)");
    assert_eq!(client.ask(&[parse("", "select 1/0"), sync()]).await, "1 Z(T)");
    assert_eq!(client.ask(&[bind("", "", &[]), execute("", 0), sync()]).await, "2 E(22012) Z(E)");
    assert_eq!(client.ask(&[parse("", "select 1"), sync()]).await, "E(25P02) Z(E)");
    assert_eq!(client.ask(&[query("select 1")]).await, "E(25P02) Z(E)");
    assert_eq!(client.ask(&[sync(), sync()]).await, "Z(E)");
    assert_eq!(client.until_ready().await, "Z(E)");
    let rollback = [parse("", "rollback"), bind("", "", &[]), execute("", 0), sync()];
    assert_eq!(client.ask(&rollback).await, "1 2 C(ROLLBACK) Z(I)");
}

#[tokio::test]
async fn a_bind_with_wrong_counts_is_refused() {
    let mut client = Client::new(&shared().await).await;
    let statement = parse("s", "select $1::int + $2::int as a, 'x' as b");
    assert_eq!(client.ask(&[statement, describe(b'S', "s"), sync()]).await, "1 t(23,23) T Z(I)");
    for wrong in [
        bind("", "s", &[]),
        bind("", "s", &["1"]),
        bind("", "s", &["1", "2", "3"]),
        bind_as("", "s", &[0, 0, 0], &["1", "2"], &[]),
        bind_as("", "s", &[], &["1", "2"], &[0, 0, 0]),
    ] {
        assert_eq!(client.ask(&[wrong, execute("", 0), sync()]).await, "E(08P01) Z(I)");
    }
    // A format there is not, and a value that is not of its type's length.
    assert_eq!(client.ask(&[bind_as("", "s", &[7], &["1", "2"], &[]), sync()]).await, "E(22023) Z(I)");
    assert_eq!(client.ask(&[bind_as("", "s", &[1], &["1", "2"], &[]), sync()]).await, "E(22P03) Z(I)");
    assert_eq!(client.ask(&[bind("", "s", &["x", "2"]), sync()]).await, "E(22P02) Z(I)");
    for right in [bind("", "s", &["1", "2"]), bind_as("", "s", &[0, 0], &["1", "2"], &[0]), {
        bind_as("", "s", &[1, 0], &["\0\0\0\x01", "2"], &[0, 0])
    }] {
        assert_eq!(client.ask(&[right, execute("", 0), sync()]).await, "2 D(3,x) C(SELECT 1) Z(I)");
    }
}

#[tokio::test]
async fn portals_give_rows_in_pieces() {
    let mut client = Client::new(&shared().await).await;
    let start = [query("begin"), parse("q", "select g from generate_series(1, 5) g"), bind("p", "q", &[])].concat();
    client.send(&[start, describe(b'P', "p"), execute("p", 2), flush()]).await;
    assert_eq!(client.until_ready().await, "C(BEGIN) Z(T)");
    assert_eq!(client.until(|kind| kind == b's').await, "1 2 T D(1) D(2) s");
    // Others run meanwhile.
    assert_eq!(client.ask(&[query("select 'x'")]).await, "T D(x) C(SELECT 1) Z(T)");
    assert_eq!(client.ask(&[execute("p", 2), sync()]).await, "D(3) D(4) s Z(T)");
    assert_eq!(client.ask(&[execute("p", 0), sync()]).await, "D(5) C(SELECT 1) Z(T)");
    assert_eq!(client.ask(&[execute("p", 0), sync()]).await, "C(SELECT 0) Z(T)");
    assert_eq!(client.ask(&[bind("p", "q", &[]), sync()]).await, "E(42P03) Z(E)");
    assert_eq!(client.ask(&[query("rollback")]).await, "C(ROLLBACK) Z(I)");
    // Portals end with their transaction; as many rows as were asked for are not the end.
    assert_eq!(client.ask(&[execute("p", 0), sync()]).await, "E(34000) Z(I)");
    let exact = [parse("", "select 1"), bind("", "", &[]), execute("", 1), execute("", 1), sync()];
    assert_eq!(client.ask(&exact).await, "1 2 D(1) s C(SELECT 0) Z(I)");
    // A statement that gives no rows runs once.
    let twice = [parse("", "create table t (id int)"), bind("", "", &[]), execute("", 0), execute("", 0), sync()];
    assert_eq!(client.ask(&twice).await, "1 2 C(CREATE TABLE) E(55000) Z(I)");
}

#[tokio::test]
async fn closed_and_unknown_names_are_not_found() {
    let mut client = Client::new(&shared().await).await;
    let prepare = [parse("s", "select 1"), bind("p", "s", &[]), close(b'S', "s"), close(b'S', "s")].concat();
    let got = client.ask(&[prepare, execute("p", 0), close(b'P', "p"), execute("p", 0), sync()]).await;
    assert_eq!(got, "1 2 3 3 D(1) C(SELECT 1) 3 E(34000) Z(I)");
    for (wrong, code) in [
        (bind("", "s", &[]), "26000"),
        (bind("", "", &[]), "26000"),
        (describe(b'S', "s"), "26000"),
        (describe(b'P', "p"), "34000"),
        (execute("nowhere", 0), "34000"),
        (execute("", 0), "34000"),
        (describe(b'X', "s"), "08P01"),
        (close(b'X', "s"), "08P01"),
    ] {
        // A simple query drops the unnamed statement and portal.
        client.ask(&[query("select 1")]).await;
        assert_eq!(client.ask(&[wrong, sync()]).await, format!("E({code}) Z(I)"));
    }
    client.ask(&[parse("s", "select 1"), sync()]).await;
    assert_eq!(client.ask(&[parse("s", "select 2"), sync()]).await, "E(42P05) Z(I)");
    assert_eq!(client.ask(&[query("")]).await, "I Z(I)");
    assert_eq!(client.ask(&[parse("", ""), bind("", "", &[]), execute("", 0), sync()]).await, "1 2 I Z(I)");
}

#[tokio::test]
async fn answers_come_at_flush_and_not_before_they_are_whole() {
    let mut client = Client::new(&shared().await).await;
    client.send(&[parse("", "select 1"), flush()]).await;
    assert_eq!(client.until(|kind| kind == b'1').await, "1");
    let rest = [bind("", "", &[]), execute("", 0), flush()].concat();
    // Cut into single bytes.
    for byte in rest {
        client.send(&[vec![byte]]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.until(|kind| kind == b'C').await, "2 D(1) C(SELECT 1)");
    assert_eq!(client.ask(&[sync()]).await, "Z(I)");
}

#[tokio::test]
async fn a_copy_ends_as_its_client_says() {
    let mut client = Client::new(&shared().await).await;
    client.ask(&[query("create table t (id int primary key, s text)")]).await;
    let start = || query("copy t from stdin");
    let data = |text: &str| message(b'd', &[text.as_bytes()]);
    let (done, fail) = (message(b'c', &[]), message(b'f', &[b"no more\0"]));
    // In pieces that end anywhere; Flush and Sync mean nothing here.
    let pieces = [start(), data("1\ta\n2"), flush(), data("\tb"), sync(), data("\n"), done.clone()];
    assert_eq!(client.ask(&pieces).await, "G C(COPY 2) Z(I)");
    assert_eq!(client.ask(&[start(), data("3\tc\n"), fail.clone()]).await, "G E(57014) Z(I)");
    // An error of the data: the rest is passed over.
    let wrong = [start(), data("x\ty\n"), data("4\tz\n"), done.clone(), query("select count(*) from t")];
    assert_eq!(client.ask(&wrong).await, "G E(22P02) Z(I)");
    assert_eq!(client.until_ready().await, "T D(2) C(SELECT 1) Z(I)");
    // Something else than data.
    assert_eq!(client.ask(&[start(), data("5\tz\n"), query("select 1")]).await, "G E(08P01) Z(I)");
    assert_eq!(client.ask(&[done, fail, query("select count(*) from t")]).await, "T D(2) C(SELECT 1) Z(I)");
    assert_eq!(client.ask(&[query("copy t to stdout")]).await.replace('d', ""), "H   c C(COPY 2) Z(I)");
}

#[tokio::test]
async fn what_cannot_be_understood_ends_the_conversation() {
    let shared = shared().await;
    for hostile in [
        // More than any message may have, less than any has, and types there are not.
        b"Q\x7f\xff\xff\xff".to_vec(),
        b"S\x00\x00\xff\xff".to_vec(),
        b"Q\x00\x00\x00\x03".to_vec(),
        b"Q\xff\xff\xff\xff".to_vec(),
        b"?\x00\x00\x00\x04".to_vec(),
        message(b'p', &[b"secret\0"]),
        message(b'S', &[b"x"]),
    ] {
        let mut client = Client::new(&shared).await;
        client.send(&[query("select 1"), hostile.clone()]).await;
        let got = client.until_ready().await;
        assert_eq!(got, "T D(1) C(SELECT 1) Z(I)");
        assert_eq!(client.until_ready().await, "E(fatal 08P01)", "{hostile:?}");
        assert_eq!(client.next().await, None);
    }
    let mut client = Client::new(&shared).await;
    assert_eq!(client.ask(&[message(b'F', &[&[0; 10]])]).await, "E(0A000) Z(I)");
    assert_eq!(client.ask(&[message(b'Q', &[b"select \xff\0"])]).await, "E(22021) Z(I)");
    assert_eq!(client.ask(&[message(b'Q', &[b"select 1"])]).await, "E(08P01) Z(I)");
    assert_eq!(client.ask(&[message(b'X', &[])]).await, "");
}

#[tokio::test]
async fn silence_has_its_limits() {
    let shared = shared().await;
    let mut client = Client::new(&shared).await;
    client.ask(&[query("set idle_session_timeout = 30; set idle_in_transaction_session_timeout = 20")]).await;
    assert_eq!(client.until_ready().await, "E(fatal 57P05)");
    let mut client = Client::new(&shared).await;
    client.ask(&[query("set idle_in_transaction_session_timeout = 20")]).await;
    client.ask(&[query("begin")]).await;
    assert_eq!(client.until_ready().await, "E(fatal 25P03)");
    // Those that never log in: silent, in the middle of a word, and before the password.
    let startup = b"\0\0\0\x12\0\x03\0\0user\0ann\0\0";
    for said in [&b""[..], &startup[..6], startup] {
        let (mut ours, theirs) = tokio::io::duplex(1 << 10);
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let place = shared.metrics.connected();
        let welcome = tokio::spawn(opening::welcome(shared.clone(), Stream::Memory(theirs), peer, place));
        ours.write_all(said).await.unwrap();
        let mut told = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(20), ours.read_to_end(&mut told)).await;
        end.expect("the server hangs up").unwrap();
        assert_eq!(told.is_empty(), said.len() < startup.len());
        welcome.await.unwrap();
    }
}

/// A small generator: the same seed gives the same conversation.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

#[tokio::test]
async fn messages_in_any_order_are_answered_or_end_the_conversation() {
    let shared = shared().await;
    let texts = [
        "select 1",
        "begin",
        "commit",
        "rollback",
        "select $1::int",
        "select g from generate_series(1, 9) g",
        "",
        "copy t from stdin",
        "copy t to stdout",
        "insert into t values (1)",
        "select 1; select 2",
        "selec",
        "select 1/0",
        "create table t (id int)",
        "drop table t",
        "savepoint a",
        "rollback to a",
        "prepare s as select 1",
        "execute s",
    ];
    let names = ["", "s", "p"];
    for seed in 0..150 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let mut client = Client::new(&shared).await;
        for _ in 0..40 {
            let (name, other) = (*random.pick(&names), *random.pick(&names));
            let message = match random.below(16) {
                0..2 => query(texts[random.below(texts.len())]),
                2..5 => parse(name, texts[random.below(texts.len())]),
                5..7 => bind(name, other, if random.below(3) == 0 { &["1"] } else { &[] }),
                7 => describe(*random.pick(b"SP"), name),
                8..10 => execute(name, random.below(3) as u32),
                10 => close(*random.pick(b"SP"), name),
                11 => flush(),
                12 => message(b'd', &[b"1\n2\n"]),
                13 => message(*random.pick(b"cf"), &[&b"why\0"[..random.below(2) * 4]]),
                14 => sync(),
                _ => {
                    let noise: Vec<u8> = (0..random.below(30)).map(|_| random.below(256) as u8).collect();
                    message(*random.pick(b"QPBDCEHSdcfF"), &[&noise])
                }
            };
            client.send(&[message]).await;
        }
        // Out of a COPY, out of an error: it answers, or it has hung up.
        client.send(&[message(b'f', &[b"\0"]), sync(), query("rollback"), query("select 'over'")]).await;
        while let Some((kind, body)) = client.next().await {
            if shown(kind, &body) == "D(over)" {
                break;
            }
        }
    }
    // Nobody else was harmed.
    assert_eq!(Client::new(&shared).await.ask(&[query("select 1")]).await, "T D(1) C(SELECT 1) Z(I)");
}
