//! Kill -9 under load, again and again: what was acknowledged is there, nothing
//! is there by half. And damaged files are noticed, named, and never served.

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use common::{Node, answer, connect};

/// Processes killed in the loop.
const KILLS: usize = 50;
/// Clients writing at once.
const WRITERS: usize = 6;
/// Transactions acknowledged between one kill and the next, about.
const ACKNOWLEDGED_A_ROUND: usize = 40;

/// A linear congruential generator: enough to spread kills and flips, and the
/// same again from the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % below.max(1)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_transactions_survive_kill_9_and_none_is_there_by_half() {
    let seed = std::env::var("POLITY_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20_261_123);
    println!("seed {seed} (set POLITY_TEST_SEED to choose)");
    let mut dice = Dice(seed);
    let folder = tempfile::tempdir().expect("a folder");
    let mut node = Node::start(folder.path());
    answer(&node.connect().await, "create table pairs (id bigint, half int, round int, primary key (id, half))").await;
    answer(&node.connect().await, "create table total (id int primary key, n bigint); insert into total values (1, 0)")
        .await;
    let next = Arc::new(AtomicI64::new(1));
    let mut acknowledged: BTreeSet<i64> = BTreeSet::new();
    let mut attempted = 0;
    for round in 0..KILLS {
        let acks = Arc::new(AtomicUsize::new(0));
        let enough = Arc::new(tokio::sync::Notify::new());
        let wanted = 1 + dice.roll(ACKNOWLEDGED_A_ROUND * 2);
        let mut writers = Vec::new();
        for _ in 0..WRITERS {
            let (url, next, acks, enough) = (node.url.clone(), next.clone(), acks.clone(), enough.clone());
            writers.push(tokio::spawn(write_until_killed(url, round, next, acks, wanted, enough)));
        }
        enough.notified().await;
        node.kill();
        for writer in writers {
            let (ids, tried) = writer.await.expect("a writer");
            attempted += tried;
            acknowledged.extend(ids);
        }
        node = Node::start(folder.path());
    }
    let client = node.connect().await;
    let rows = client.query("select id, count(*), sum(half)::bigint from pairs group by id", &[]).await.expect("rows");
    let mut found = BTreeSet::new();
    for row in &rows {
        let (id, count, sum): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
        assert_eq!((count, sum), (2, 3), "transaction {id} is there by half");
        found.insert(id);
    }
    let lost: Vec<_> = acknowledged.difference(&found).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    assert!(found.len() <= attempted, "more was found than was ever sent");
    let n: i64 = client.query_one("select n from total", &[]).await.expect("a row").get(0);
    assert_eq!(n, found.len() as i64, "the counter and the pairs were written together");
    println!("{KILLS} kills, {} acknowledged, {} found, {attempted} attempted", acknowledged.len(), found.len());
}

/// Writes pairs until the node dies; gives the acknowledged ones and how many
/// were sent.
async fn write_until_killed(
    url: String,
    round: usize,
    next: Arc<AtomicI64>,
    acks: Arc<AtomicUsize>,
    wanted: usize,
    enough: Arc<tokio::sync::Notify>,
) -> (Vec<i64>, usize) {
    let (mut ids, mut tried) = (Vec::new(), 0);
    let Ok(client) = connect(&url).await else { return (ids, tried) };
    loop {
        let id = next.fetch_add(1, Ordering::Relaxed);
        tried += 1;
        let sql = format!(
            "begin; insert into pairs values ({id}, 1, {round}); update total set n = n + 1 where id = 1; \
             insert into pairs values ({id}, 2, {round}); commit"
        );
        if client.batch_execute(&sql).await.is_err() {
            return (ids, tried);
        }
        ids.push(id);
        if acks.fetch_add(1, Ordering::Relaxed) + 1 == wanted {
            enough.notify_one();
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).expect("inside"));
        std::fs::create_dir_all(target.parent().expect("a parent")).expect("a folder");
        std::fs::copy(&file, &target).expect("a copy");
    }
}

const SECRET: &str = "a-plaintext-that-must-not-be-found-on-disk";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_files_are_noticed_and_no_plaintext_is_on_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let mut node = Node::start(&data);
    let client = node.connect().await;
    let mut values = String::new();
    for i in 0..2_000 {
        values.push_str(&format!("{}({i}, '{SECRET}-{i}')", if i == 0 { "" } else { "," }));
    }
    answer(&client, "create table secrets (id int primary key, text text)").await;
    assert_eq!(answer(&client, &format!("insert into secrets values {values}")).await, "ok 2000");
    let expected = answer(&client, "select count(*), min(text), max(text) from secrets").await;
    // The last write before a crash cannot be told from one that was never finished: let it be another.
    answer(&client, "create table last (id int primary key)").await;
    answer(&client, "insert into last values (1)").await;
    node.kill();

    for file in files(&data) {
        let bytes = std::fs::read(&file).expect("a file");
        for plain in [SECRET, "secrets", "pgbench"] {
            let found = bytes.windows(plain.len()).any(|w| w == plain.as_bytes());
            assert!(!found, "{plain} stands in plain text in {}", file.display());
        }
    }

    let mut dice = Dice(7);
    let (mut refused, mut unharmed) = (0, 0);
    for round in 0..30 {
        let damaged = folder.path().join(format!("damaged-{round}"));
        copy(&data, &damaged);
        let all: Vec<_> = files(&damaged)
            .into_iter()
            .filter(|f| f.metadata().is_ok_and(|m| m.len() > 64) && f.extension().is_none_or(|e| e != "pem"))
            .collect();
        let file = &all[dice.roll(all.len())];
        let mut bytes = std::fs::read(file).expect("a file");
        // Preallocated files end in zeros: aim where something is written.
        let written = bytes.iter().rposition(|b| *b != 0).unwrap_or(0) + 1;
        let at = dice.roll(written);
        bytes[at] ^= 1 << dice.roll(8);
        std::fs::write(file, &bytes).expect("a file");
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        match Node::try_start(&damaged) {
            Err(why) => {
                refused += 1;
                assert!(!why.contains("panicked"), "{name} at {at}: {why}");
            }
            Ok(mut node) => {
                let got = answer(&node.connect().await, "select count(*), min(text), max(text) from secrets").await;
                let honest = got == expected || got == "XX001" || got == "58030";
                assert!(honest, "{name} at byte {at} was served as {got}");
                unharmed += usize::from(got == expected);
                assert!(node.is_up(), "{name} at byte {at} took the node down");
            }
        }
        std::fs::remove_dir_all(&damaged).expect("removed");
    }
    println!("30 flips: {refused} refused at start, {unharmed} harmless");
}

#[tokio::test]
async fn a_second_process_on_one_folder_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let _node = Node::start(folder.path());
    let why = Node::try_start(folder.path()).err().expect("a refusal");
    assert!(why.contains("in use") || why.contains("another process"), "{why}");
}
