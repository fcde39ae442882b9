//! Columns that were decoded before, kept for the next scan.
//!
//! A scan of a whole table decodes every row of it, and the next one would do the
//! same again. So what was decoded stays in memory as *segments*: the rows of a
//! span of keys as they were at one timestamp, in columns, with their keys.
//!
//! ```text
//!   keys     a ────────────── h ────────────── q ─────────── z
//!   kept     [ segment at 17 ][ segment at 12 ][  (nothing)  ]
//!   changed        c, e             (none)
//!   read at 20:  segment 17     segment 12       the rows,
//!                but c and e    as it is         kept from now on
//!                read anew
//! ```
//! What a reader at another time must read anew is what was written in between,
//! which the replica remembers for a while ([`View::written_between`]), and what
//! its own transaction wrote. All other keys read as they did when the segment was
//! made, whether the reader's time is before or after that, so every scan sees
//! exactly the rows of its snapshot. When too much was written since, or when it
//! is not known any more, a segment is made anew.
//!
//! Segments take a bounded part of the memory for queries. A table that would not
//! fit is not kept at all; tables that nobody scans make room for those that
//! somebody does.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::compute::interleave_record_batch;
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use parking_lot::Mutex;
use polity_base::key::Direction;
use polity_base::{IndexId, Key, Span, Timestamp};
use polity_txn::{View, ViewScan};

use super::decode::{self, Decoder};
use super::estimates::split;
use crate::catalog::model::Table;
use crate::error::{Error, Result};
use crate::query::types;

/// Rows asked of the store at a time.
const CHUNK_ROWS: usize = 1_024;
/// A transaction that wrote more rows of a table reads it past the cache.
const MOST_OWN: usize = 1_000;
/// A table that one of so many scans before was of does not make room for others.
const RECENT: u64 = 16;
/// Bytes that a value of no fixed width, or a key, is thought to take.
const WIDTH: usize = 24;

/// What a cache may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of all segments
    pub bytes: usize,
    /// Rows of a segment
    pub segment_rows: usize,
    /// Smaller tables are not kept
    pub least_rows: u64,
}

impl Limits {
    /// Segments of the size of a batch, within `bytes`.
    pub fn of_bytes(bytes: usize) -> Limits {
        Limits { bytes, segment_rows: 8_192, least_rows: 1_000 }
    }
}

/// The segments of all tables.
#[derive(Debug)]
pub struct ColumnCache {
    limits: Limits,
    kept: Mutex<Kept>,
}

#[derive(Default, Debug)]
struct Kept {
    tables: HashMap<IndexId, KeptTable>,
    bytes: usize,
    /// How many scans there were
    scans: u64,
}

#[derive(Debug)]
struct KeptTable {
    table: Arc<Table>,
    /// Places of the columns that scans have asked for
    wanted: BTreeSet<usize>,
    /// By the start of their spans, which do not overlap
    segments: BTreeMap<Key, Arc<Segment>>,
    bytes: usize,
    /// The last scan of it
    scan: u64,
}

/// What the columns of a segment are.
#[derive(Debug)]
pub struct Layout {
    table: Arc<Table>,
    /// Their places in the table, in order; the rows' keys follow as the last column
    places: Vec<usize>,
    decoder: Decoder,
}

impl Layout {
    fn new(table: &Arc<Table>, wanted: &BTreeSet<usize>) -> Result<Layout> {
        let places: Vec<usize> = wanted.iter().copied().collect();
        let with_key: Vec<usize> = places.iter().copied().chain([table.columns.len()]).collect();
        let decoder = Decoder::new(table, &decode::schema(table, true), &with_key)?;
        Ok(Layout { table: table.clone(), places, decoder })
    }

    /// Where the table's columns `projection` are in a segment; `None` if one is not.
    fn find(&self, projection: &[usize]) -> Option<Vec<usize>> {
        let find = |place: &usize| match *place == self.table.columns.len() {
            true => Some(self.places.len()),
            false => self.places.binary_search(place).ok(),
        };
        projection.iter().map(find).collect()
    }
}

/// The rows of a span at a timestamp.
#[derive(Debug)]
pub struct Segment {
    span: Span,
    /// As of when the rows are what they are; moves on while nothing is written
    at: AtomicU64,
    layout: Arc<Layout>,
    rows: RecordBatch,
    bytes: usize,
}

impl Segment {
    fn new(span: Span, at: Timestamp, layout: Arc<Layout>, rows: RecordBatch) -> Segment {
        Segment { span, at: AtomicU64::new(at.0), layout, bytes: rows.get_array_memory_size(), rows }
    }

    fn at(&self) -> Timestamp {
        Timestamp(self.at.load(Ordering::Acquire))
    }

    /// The segment with what `view` has for the keys `changed`, given in order, in
    /// place of what it has itself.
    fn patched(&self, view: &View, changed: &[Key]) -> Result<Segment> {
        let decoder = &self.layout.decoder;
        let keys = self.rows.columns().last().and_then(|c| c.as_binary_opt::<i32>());
        let keys = keys.ok_or_else(|| Error::internal("a segment without keys"))?;
        let mut anew = decoder.begin(changed.len())?;
        let mut picks: Vec<(usize, usize)> = Vec::with_capacity(keys.len() + changed.len());
        let mut at = 0;
        for key in changed {
            let from = at;
            at = first_from(keys, from, key);
            picks.extend((from..at).map(|row| (0, row)));
            if at < keys.len() && keys.value(at) == &**key {
                at += 1;
            }
            if let Some(row) = view.get(key)? {
                picks.push((1, anew.rows()));
                decoder.append(&mut anew, key, &row)?;
            }
        }
        picks.extend((at..keys.len()).map(|row| (0, row)));
        let anew = decoder.finish(anew)?;
        let rows = interleave_record_batch(&[&self.rows, &anew], &picks).map_err(Error::internal)?;
        Ok(Segment::new(self.span.clone(), view.read_at_of(&self.span.start), self.layout.clone(), compacted(&rows)?))
    }

    /// The columns `projection` of the table, as a batch of `schema`.
    fn project(&self, projection: &[usize], schema: &SchemaRef) -> Result<RecordBatch> {
        let places = self.layout.find(projection).ok_or_else(|| Error::internal("a segment lacks a column"))?;
        let columns = places.iter().map(|place| self.rows.column(*place).clone()).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows.num_rows()));
        RecordBatch::try_new_with_options(schema.clone(), columns, &options).map_err(Error::internal)
    }
}

/// The first row from `from` on whose key is not before `key`.
fn first_from(keys: &datafusion::arrow::array::BinaryArray, from: usize, key: &[u8]) -> usize {
    let (mut low, mut high) = (from, keys.len());
    while low < high {
        let middle = low + (high - low) / 2;
        if keys.value(middle) < key { low = middle + 1 } else { high = middle }
    }
    low
}

/// Texts that were picked together hold on to all they were picked from; these
/// do not.
fn compacted(rows: &RecordBatch) -> Result<RecordBatch> {
    let columns = rows.columns().iter().map(|column| match column.data_type() {
        DataType::Utf8View => Arc::new(column.as_string_view().gc()) as ArrayRef,
        _ => column.clone(),
    });
    RecordBatch::try_new(rows.schema(), columns.collect()).map_err(Error::internal)
}

/// A part of a table, and where its rows are.
#[derive(Clone, Debug)]
pub enum Piece {
    /// In a segment, except those with the keys `changed`
    Kept {
        /// The segment
        segment: Arc<Segment>,
        /// Keys to read anew, in order
        changed: Vec<Key>,
    },
    /// Not in the cache
    Missing(Span),
}

/// A scan of a whole table through the cache.
pub struct Columns {
    cache: Arc<ColumnCache>,
    layout: Arc<Layout>,
    view: View,
    /// Keys that the transaction itself wrote, in order
    own: Vec<Key>,
    projection: Vec<usize>,
    schema: SchemaRef,
    /// The parts, in the order of their keys
    pub pieces: Vec<Piece>,
}

impl std::fmt::Debug for Columns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kept = self.pieces.iter().filter(|p| matches!(p, Piece::Kept { .. })).count();
        write!(f, "{kept} of {} parts in memory", self.pieces.len())
    }
}

impl ColumnCache {
    /// An empty cache.
    pub fn new(limits: Limits) -> ColumnCache {
        ColumnCache { limits, kept: Mutex::default() }
    }

    /// How to read the columns `projection` of all rows of `table`, of which there
    /// are about `rows`, as batches of `schema`. `None` if it is not worth keeping.
    pub fn scan(
        self: &Arc<Self>,
        table: &Arc<Table>,
        view: &View,
        rows: u64,
        projection: &[usize],
        schema: &SchemaRef,
    ) -> Result<Option<Columns>> {
        let storage = table.primary.storage;
        let span = Span::of_index(storage);
        if rows < self.limits.least_rows {
            return Ok(None);
        }
        let Some(own) = view.own_keys(&span, MOST_OWN) else { return Ok(None) };
        let Some((wanted, segments)) = self.find(table, rows, projection) else { return Ok(None) };
        let mut pieces = Vec::with_capacity(segments.len() + 1);
        let mut from = span.start.clone();
        for segment in segments {
            let small = segment.rows.num_rows() * 8 < self.limits.segment_rows && from < segment.span.start;
            if small || segment.span.start < from || segment.layout.find(projection).is_none() {
                continue;
            }
            let most = segment.rows.num_rows() / 4 + 1;
            let Some(mut changed) = view.written_between(&segment.span, segment.at(), most) else { continue };
            if changed.is_empty() {
                segment.at.fetch_max(view.read_at_of(&span.start).0, Ordering::AcqRel);
            }
            let ours = within(&own, &segment.span);
            if !ours.is_empty() {
                changed.extend_from_slice(ours);
                changed.sort_unstable();
                changed.dedup();
            }
            if from < segment.span.start {
                pieces.push(Piece::Missing(Span { start: from, end: segment.span.start.clone() }));
            }
            from = segment.span.end.clone();
            pieces.push(Piece::Kept { segment, changed });
        }
        if from < span.end {
            pieces.push(Piece::Missing(Span { start: from, end: span.end }));
        }
        let layout = Arc::new(Layout::new(table, &wanted)?);
        let (projection, schema) = (projection.to_vec(), schema.clone());
        Ok(Some(Columns { cache: self.clone(), layout, view: view.clone(), own, projection, schema, pieces }))
    }

    /// The columns to keep of `table`, and the segments there are. `None` if it does
    /// not fit.
    fn find(
        &self,
        table: &Arc<Table>,
        rows: u64,
        projection: &[usize],
    ) -> Option<(BTreeSet<usize>, Vec<Arc<Segment>>)> {
        let storage = table.primary.storage;
        let asked: BTreeSet<usize> = projection.iter().copied().filter(|place| *place < table.columns.len()).collect();
        let fits = |places: &BTreeSet<usize>| {
            let width: usize = places.iter().map(|place| width(table, *place)).sum();
            usize::try_from(rows).is_ok_and(|rows| rows.saturating_mul(width + WIDTH) <= self.limits.bytes)
        };
        if !fits(&asked) {
            return None;
        }
        let mut kept = self.kept.lock();
        kept.scans += 1;
        let scan = kept.scans;
        // Rows are decoded by what the catalog says of the columns.
        if kept.tables.get(&storage).is_some_and(|k| !Arc::ptr_eq(&k.table, table) && k.table.columns != table.columns)
        {
            kept.drop_table(storage);
        }
        let entry = kept.tables.entry(storage).or_insert_with(|| KeptTable {
            table: table.clone(),
            wanted: BTreeSet::new(),
            segments: BTreeMap::new(),
            bytes: 0,
            scan,
        });
        entry.table = table.clone();
        entry.scan = scan;
        let all: BTreeSet<usize> = entry.wanted.union(&asked).copied().collect();
        entry.wanted = if fits(&all) { all } else { asked };
        Some((entry.wanted.clone(), entry.segments.values().cloned().collect()))
    }

    /// Keeps a segment, if there is room and nothing better.
    fn keep(&self, segment: &Arc<Segment>) {
        let table = &segment.layout.table;
        let storage = table.primary.storage;
        let mut kept = self.kept.lock();
        let Some(entry) = kept.tables.get_mut(&storage) else { return };
        if entry.table.columns != table.columns {
            return;
        }
        let before_end = entry.segments.range::<Key, _>(..&segment.span.end).rev();
        let overlapping: Vec<Arc<Segment>> =
            before_end.map(|(_, s)| s.clone()).take_while(|s| s.span.end > segment.span.start).collect();
        let better = |s: &Arc<Segment>| s.at() > segment.at() && s.layout.find(&segment.layout.places).is_some();
        if overlapping.iter().any(better) {
            return;
        }
        let mut freed = 0;
        for old in overlapping {
            entry.segments.remove(&old.span.start);
            freed += old.bytes;
        }
        entry.bytes -= freed;
        kept.bytes -= freed;
        while kept.bytes + segment.bytes > self.limits.bytes {
            let scans = kept.scans;
            let idle = kept.tables.iter().filter(|(id, k)| **id != storage && k.scan + RECENT < scans);
            match idle.min_by_key(|(_, k)| k.scan).map(|(id, _)| *id) {
                Some(idle) => kept.drop_table(idle),
                None => return,
            }
        }
        kept.bytes += segment.bytes;
        if let Some(entry) = kept.tables.get_mut(&storage) {
            entry.bytes += segment.bytes;
            entry.segments.insert(segment.span.start.clone(), segment.clone());
        }
    }
}

impl Kept {
    fn drop_table(&mut self, storage: IndexId) {
        if let Some(dropped) = self.tables.remove(&storage) {
            self.bytes -= dropped.bytes;
        }
    }
}

/// About how many bytes a value takes.
fn width(table: &Table, place: usize) -> usize {
    let column = table.columns.get(place);
    column.and_then(|c| types::data_type(&c.r#type).primitive_width()).unwrap_or(WIDTH)
}

/// The keys, given in order, that lie in `span`.
fn within<'a>(keys: &'a [Key], span: &Span) -> &'a [Key] {
    let from = keys.partition_point(|key| *key < span.start);
    let to = keys.partition_point(|key| *key < span.end);
    keys.get(from..to).unwrap_or_default()
}

/// A part that is not in the cache, being read.
pub struct Filling {
    scan: ViewScan,
    /// What was not read yet
    rest: Span,
}

impl Columns {
    /// Cuts what is missing into about so many pieces, if there is enough of it.
    pub fn split(&mut self, view: &View, pieces: usize) -> Result<()> {
        // Between segments only little is missing, as a rule.
        let missing = self.pieces.iter().filter(|p| matches!(p, Piece::Missing(_))).count();
        if pieces <= 1 || missing > 2 {
            return Ok(());
        }
        let mut cut = Vec::with_capacity(self.pieces.len() + pieces);
        for piece in self.pieces.drain(..) {
            match piece {
                Piece::Missing(span) => cut.extend(split(view, &span, pieces)?.into_iter().map(Piece::Missing)),
                kept => cut.push(kept),
            }
        }
        self.pieces = cut;
        Ok(())
    }

    /// The rows of a part that is kept.
    pub fn kept(&self, segment: &Arc<Segment>, changed: &[Key]) -> Result<RecordBatch> {
        self.view.note_read(&segment.span);
        if changed.is_empty() {
            return segment.project(&self.projection, &self.schema);
        }
        let patched = Arc::new(segment.patched(&self.view.untracked(), changed)?);
        // Nobody else may see what is only this transaction's.
        if within(&self.own, &segment.span).is_empty() && patched.at() > segment.at() {
            self.cache.keep(&patched);
        }
        patched.project(&self.projection, &self.schema)
    }

    /// Begins to read a part that is missing.
    pub fn fill(&self, span: &Span) -> Result<Filling> {
        Ok(Filling { scan: self.view.committed().scan(span.clone(), Direction::Ascending)?, rest: span.clone() })
    }

    /// The next rows of a part that is missing, which are kept from now on; `None`
    /// after the last.
    pub fn filled(&self, filling: &mut Filling) -> Result<Option<RecordBatch>> {
        let most = self.cache.limits.segment_rows;
        let decoder = &self.layout.decoder;
        let mut columns = decoder.begin(most.min(CHUNK_ROWS))?;
        let mut last = None;
        while columns.rows() < most {
            let chunk = filling.scan.next_chunk((most - columns.rows()).min(CHUNK_ROWS))?;
            for (key, row) in &chunk {
                decoder.append(&mut columns, key, row)?;
            }
            match chunk.into_iter().last() {
                Some((key, _)) => last = Some(key),
                None => break,
            }
        }
        if filling.rest.is_empty() {
            return Ok(None);
        }
        let full = columns.rows() >= most;
        let end = last.filter(|_| full).map_or_else(|| filling.rest.end.clone(), |key| key.successor());
        let span = Span { start: std::mem::replace(&mut filling.rest.start, end.clone()), end };
        let rows = decoder.finish(columns)?;
        let at = self.view.read_at_of(&span.start);
        let segment = Arc::new(Segment::new(span, at, self.layout.clone(), rows));
        self.cache.keep(&segment);
        self.kept(&segment, within(&self.own, &segment.span)).map(Some)
    }
}
