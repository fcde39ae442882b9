//! Scans through the cache against scans past it, while anything happens.

use std::collections::BTreeMap;

use polity_base::{ColumnId, Operation, TableId, Type, Value, row};
use polity_txn::testing::database;
use polity_txn::{Database, Transaction, TransactionOptions};
use proptest::prelude::*;

use super::*;
use crate::catalog::model::Column;

const STORAGE: IndexId = IndexId(20_000);

fn column(id: u16, r#type: Type, missing: Value) -> Column {
    let name = format!("c{id}");
    Column {
        id: ColumnId(id),
        name,
        r#type,
        not_null: false,
        default: None,
        identity: None,
        merge: Default::default(),
        missing,
        comment: None,
    }
}

/// A table of three columns, the last of which old rows lack.
fn table(missing: i64) -> Arc<Table> {
    let mut table = Table::new(TableId(1), "t", STORAGE);
    table.columns = vec![
        column(0, Type::Int4, Value::Null),
        column(1, Type::Text, Value::Null),
        column(2, Type::Int8, Value::Int8(missing)),
    ];
    table.next_column = 3;
    Arc::new(table)
}

fn key(n: u8) -> Key {
    let mut key = STORAGE.0.to_be_bytes().to_vec();
    key.push(n);
    Key::from(key)
}

fn row_of(n: u8, v: u32) -> bytes::Bytes {
    let mut values = vec![Value::Int4(i32::from(n)), Value::Text("x".repeat(v as usize % 20) + &v.to_string())];
    values.extend(v.is_multiple_of(2).then_some(Value::Int8(i64::from(v))));
    row::encode(&values)
}

async fn begin(database: &Database) -> Transaction {
    let mut transaction = database.begin(TransactionOptions::default()).await.unwrap();
    transaction.begin_statement().await.unwrap();
    transaction
}

fn rows_of(batches: &[RecordBatch]) -> Vec<Vec<Value>> {
    let r#type = |data: &DataType| match data {
        DataType::Int32 => Type::Int4,
        DataType::Int64 => Type::Int8,
        DataType::Binary => Type::Bytea,
        _ => Type::Text,
    };
    let rows = batches.iter().flat_map(|batch| {
        let types: Vec<Type> = batch.schema().fields().iter().map(|f| r#type(f.data_type())).collect();
        types::rows(batch, &types, 0, batch.num_rows()).unwrap()
    });
    rows.collect()
}

/// All rows, past the cache.
fn plain(table: &Arc<Table>, view: &View, projection: &[usize]) -> Vec<Vec<Value>> {
    let decoder = Decoder::new(table, &decode::schema(table, true), projection).unwrap();
    let mut columns = decoder.begin(0).unwrap();
    let mut scan = view.untracked().scan(Span::of_index(STORAGE), Direction::Ascending).unwrap();
    loop {
        let chunk = scan.next_chunk(100).unwrap();
        if chunk.is_empty() {
            return rows_of(&[decoder.finish(columns).unwrap()]);
        }
        for (key, row) in &chunk {
            decoder.append(&mut columns, key, row).unwrap();
        }
    }
}

/// All rows, by way of the cache, and how many parts were in it.
fn through(
    cache: &Arc<ColumnCache>,
    table: &Arc<Table>,
    view: &View,
    projection: &[usize],
) -> Option<(Vec<Vec<Value>>, usize)> {
    let schema = Arc::new(decode::schema(table, true).project(projection).unwrap());
    let mut columns = cache.scan(table, view, 1_000, projection, &schema).unwrap()?;
    columns.split(view, 3).unwrap();
    let (mut batches, mut kept) = (Vec::new(), 0);
    for piece in &columns.pieces {
        match piece {
            Piece::Kept { segment, changed } => {
                kept += 1;
                batches.push(columns.kept(segment, changed).unwrap());
            }
            Piece::Missing(span) => {
                let mut filling = columns.fill(span).unwrap();
                while let Some(batch) = columns.filled(&mut filling).unwrap() {
                    batches.push(batch);
                }
            }
        }
    }
    Some((rows_of(&batches), kept))
}

fn cache(bytes: usize) -> Arc<ColumnCache> {
    Arc::new(ColumnCache::new(Limits { bytes, segment_rows: 8, least_rows: 0 }))
}

#[derive(Clone, Debug)]
enum Step {
    /// Writes (or deletes) some keys, in a transaction of its own
    Commit(Vec<(u8, Option<u32>)>),
    /// The same in the transaction that is under way
    Own(u8, Option<u32>),
    /// Clears the keys from one to another
    Clear(u8, u8),
    /// Begins the next transaction; views of the one before stay
    Begin,
    /// Says something else about the column that old rows lack
    Alter(i64),
    /// Reads these columns, in a view of so long ago
    Scan(Vec<usize>, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let write = || (0u8..60, prop_oneof![3 => any::<u32>().prop_map(Some), 1 => Just(None)]);
    let projection = Just(vec![0usize, 1, 2, 3])
        .prop_shuffle()
        .prop_flat_map(|all| (0usize..=4).prop_map(move |n| all.iter().take(n).copied().collect::<Vec<usize>>()));
    let step = prop_oneof![
        6 => proptest::collection::vec(write(), 1..4).prop_map(Step::Commit),
        1 => proptest::collection::vec(write(), 20..40).prop_map(Step::Commit),
        3 => write().prop_map(|(n, v)| Step::Own(n, v)),
        1 => (0u8..60, 0u8..60).prop_map(|(a, b)| Step::Clear(a.min(b), a.max(b))),
        2 => Just(Step::Begin),
        1 => (0i64..3).prop_map(Step::Alter),
        9 => (projection, prop_oneof![3 => Just(0usize), 1 => 0usize..4]).prop_map(|(p, ago)| Step::Scan(p, ago)),
    ];
    proptest::collection::vec(step, 1..50)
}

proptest! {
    #[test]
    fn a_scan_sees_the_same_with_and_without_the_cache(steps in steps(), bytes in prop_oneof![Just(1 << 20), Just(60_000)]) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (database, cache, mut table) = (database(), cache(bytes), table(0));
            let mut transaction = begin(&database).await;
            let mut views: Vec<View> = Vec::new();
            for step in steps {
                match step {
                    Step::Commit(writes) => {
                        let writes: BTreeMap<u8, Option<u32>> = writes.into_iter().collect();
                        let mut t = begin(&database).await;
                        for (n, v) in writes {
                            match v {
                                Some(v) => t.put(key(n), row_of(n, v)).unwrap(),
                                None => t.delete(key(n)).unwrap(),
                            }
                        }
                        t.commit().await.unwrap();
                    }
                    Step::Own(n, Some(v)) => transaction.put(key(n), row_of(n, v)).unwrap(),
                    Step::Own(n, None) => transaction.delete(key(n)).unwrap(),
                    Step::Clear(from, to) => {
                        let span = Span { start: key(from), end: key(to) };
                        database.write_direct(vec![Operation::Clear { span }]).await.unwrap();
                        // Nobody may look at what was cleared from before then.
                        views.clear();
                        transaction = begin(&database).await;
                    }
                    Step::Begin => {
                        views.insert(0, transaction.view());
                        transaction = begin(&database).await;
                    }
                    Step::Alter(missing) => table = self::table(missing),
                    Step::Scan(projection, ago) => {
                        let now = transaction.view();
                        let view = ago.checked_sub(1).and_then(|i| views.get(i)).unwrap_or(&now);
                        let (rows, _) = through(&cache, &table, view, &projection).unwrap();
                        assert_eq!(rows, plain(&table, view, &projection), "{projection:?} {ago} ago");
                    }
                }
                let kept = cache.kept.lock();
                let bytes: usize = kept.tables.values().flat_map(|t| t.segments.values()).map(|s| s.bytes).sum();
                assert!(kept.bytes == bytes && bytes <= cache.limits.bytes, "{bytes} bytes are counted as {}", kept.bytes);
            }
        });
    }
}

async fn filled(database: &Database, rows: u8) {
    let mut t = begin(database).await;
    (0..rows).for_each(|n| t.put(key(n), row_of(n, 2)).unwrap());
    t.commit().await.unwrap();
}

#[tokio::test]
async fn what_was_read_is_kept_and_only_changes_are_read_anew() {
    let (database, cache, table) = (database(), cache(1 << 20), table(0));
    filled(&database, 40).await;
    let t = begin(&database).await;
    let (rows, kept) = through(&cache, &table, &t.view(), &[0, 2]).unwrap();
    assert_eq!((rows.len(), kept), (40, 0));
    let pieces = through(&cache, &table, &t.view(), &[2]).unwrap().1;
    assert!(pieces >= 5, "{pieces}");
    let mut writer = begin(&database).await;
    writer.put(key(17), row_of(17, 4)).unwrap();
    writer.delete(key(18)).unwrap();
    writer.commit().await.unwrap();
    let now = begin(&database).await.view();
    assert_eq!(through(&cache, &table, &now, &[0, 2]).unwrap(), (plain(&table, &now, &[0, 2]), pieces));
    // The old view still sees what it saw.
    assert_eq!(through(&cache, &table, &t.view(), &[0, 2]).unwrap(), (rows, pieces));
    // A column that nobody asked for before.
    assert_eq!(through(&cache, &table, &now, &[1]).unwrap().1, 0);
    assert_eq!(through(&cache, &table, &now, &[0, 1, 2]).unwrap().1, pieces);
}

#[tokio::test]
async fn a_table_that_does_not_fit_or_is_small_is_not_kept() {
    let (database, table) = (database(), table(0));
    filled(&database, 40).await;
    let view = begin(&database).await.view();
    assert!(through(&cache(1_000), &table, &view, &[0]).is_none());
    let choosy = Arc::new(ColumnCache::new(Limits { bytes: 1 << 20, segment_rows: 8, least_rows: 1_001 }));
    assert!(through(&choosy, &table, &view, &[0]).is_none());
}

#[tokio::test]
async fn a_scan_through_the_cache_counts_as_a_read() {
    for (changed, conflicts) in [(20, true), (70, false)] {
        let (database, cache, table) = (database(), cache(1 << 20), table(0));
        filled(&database, 40).await;
        through(&cache, &table, &begin(&database).await.view(), &[0]).unwrap();
        let mut reader = begin(&database).await;
        assert!(through(&cache, &table, &reader.view(), &[0]).unwrap().1 > 0);
        reader.put(Key::from(vec![9]), bytes::Bytes::new()).unwrap();
        let mut writer = begin(&database).await;
        // The second is a key of another index.
        let other = match conflicts {
            true => key(changed),
            false => Key::from(vec![0, 0, 1, changed]),
        };
        writer.put(other, row_of(changed, 8)).unwrap();
        writer.commit().await.unwrap();
        assert_eq!(reader.commit().await.is_err(), conflicts);
    }
}
