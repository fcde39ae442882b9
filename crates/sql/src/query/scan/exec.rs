//! Reading rows: the leaf of every plan.
//!
//! The spans to read lie in one queue, in key order, and the partitions of the
//! scan take them one by one: whoever is done first takes the next, so that a
//! bad guess about where the rows are costs little. Each partition's rows come
//! in key order. A scan of a whole table takes pieces of the column cache instead
//! (see [`super::columns`]).

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Statistics};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, LexOrdering, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet, RecordOutput};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, ReplaceChildrenOptions,
};
use parking_lot::Mutex;
use polity_base::key::Direction;
use polity_base::{Key, Span};
use polity_txn::{View, ViewScan};

use super::columns::{Columns, Filling, Piece};
use super::decode::Decoder;
use super::estimates::Estimates;
use crate::catalog::model::Table;
use crate::error::Result;
use crate::session::Watch;

/// Rows of a batch.
const BATCH_ROWS: usize = 8_192;
/// Rows asked of the store at a time.
const CHUNK_ROWS: usize = 1_024;

/// What a scan reads.
pub struct Reading {
    /// The table
    pub table: Arc<Table>,
    /// What it sees
    pub view: View,
    /// Tells whether to end
    pub watch: Watch,
    /// Where row counts are kept
    pub estimates: Arc<Estimates>,
    /// Stored rows to columns
    pub decoder: Decoder,
    /// The secondary index whose entries lead to the rows
    pub index: Option<usize>,
    /// The spans, in key order
    pub spans: Vec<Span>,
    /// Whether the spans are the whole table
    pub whole: bool,
    /// The whole table by way of the column cache, instead of the spans
    pub columns: Option<Columns>,
    /// Rows to give up to
    pub limit: Option<usize>,
    /// About how many rows there will be
    pub rows: Precision<usize>,
}

/// The leaf of a plan that reads a stored table.
pub struct ScanExec {
    reading: Arc<Reading>,
    runs: Mutex<Runs>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

/// A plan may be run more than once (a recursive query's inner side): each run
/// has its own queue.
#[derive(Default)]
struct Runs {
    begun: Vec<usize>,
    queues: Vec<Arc<Queue>>,
}

#[derive(Default)]
struct Queue {
    /// Spans, or pieces of the column cache, that nobody has taken yet
    spans: Mutex<VecDeque<Span>>,
    pieces: Mutex<VecDeque<Piece>>,
    rows: AtomicU64,
    open: AtomicUsize,
    given: AtomicUsize,
}

impl ScanExec {
    /// A scan in `partitions` parts whose rows have these orders.
    pub fn new(reading: Reading, partitions: usize, orders: Vec<LexOrdering>) -> ScanExec {
        let schema = reading.decoder.schema().clone();
        let pieces = reading.columns.as_ref().map_or(reading.spans.len(), |columns| columns.pieces.len());
        let partitions = partitions.clamp(1, pieces.max(1));
        let equivalences = EquivalenceProperties::new_with_orderings(schema, orders);
        let properties = PlanProperties::new(
            equivalences,
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        .with_scheduling_type(SchedulingType::Cooperative);
        ScanExec {
            reading: Arc::new(reading),
            runs: Mutex::new(Runs { begun: vec![0; partitions], queues: Vec::new() }),
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    fn queue(&self, partition: usize) -> Arc<Queue> {
        let mut runs = self.runs.lock();
        let partitions = runs.begun.len();
        let run = match runs.begun.get_mut(partition) {
            Some(begun) => std::mem::replace(begun, *begun + 1),
            None => 0,
        };
        while runs.queues.len() <= run {
            let pieces = self.reading.columns.iter().flat_map(|columns| columns.pieces.iter().cloned());
            let spans = self.reading.spans.iter().cloned();
            runs.queues.push(Arc::new(Queue {
                spans: Mutex::new(spans.collect()),
                pieces: Mutex::new(pieces.collect()),
                open: AtomicUsize::new(partitions),
                ..Queue::default()
            }));
        }
        let nothing = || Arc::new(Queue { open: AtomicUsize::new(1), ..Queue::default() });
        runs.queues.get(run).cloned().unwrap_or_else(nothing)
    }
}

/// One partition of a running scan.
struct Scan {
    reading: Arc<Reading>,
    queue: Arc<Queue>,
    current: Option<ViewScan>,
    filling: Option<Filling>,
    finished: bool,
}

impl Scan {
    fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        self.reading.watch.check()?;
        if self.finished {
            return Ok(None);
        }
        let reading = self.reading.clone();
        if let Some(columns) = &reading.columns {
            return self.next_piece(columns);
        }
        let room = reading
            .limit
            .map_or(BATCH_ROWS, |limit| limit.saturating_sub(self.queue.given.load(Ordering::Relaxed)).min(BATCH_ROWS));
        let mut columns = reading.decoder.begin(room.min(CHUNK_ROWS))?;
        while columns.rows() < room {
            let chunk = self.next_chunk((room - columns.rows()).min(CHUNK_ROWS))?;
            if chunk.is_empty() {
                break;
            }
            for (key, value) in &chunk {
                match reading.index {
                    None => reading.decoder.append(&mut columns, key, value)?,
                    // The entry's value is the key of its row.
                    Some(_) => {
                        if let Some(row) = reading.view.get(value)? {
                            reading.decoder.append(&mut columns, value, &row)?;
                        }
                    }
                }
            }
        }
        if columns.rows() == 0 {
            self.finish(room > 0);
            return Ok(None);
        }
        self.queue.given.fetch_add(columns.rows(), Ordering::Relaxed);
        self.queue.rows.fetch_add(columns.rows() as u64, Ordering::Relaxed);
        reading.decoder.finish(columns).map(Some)
    }

    fn next_piece(&mut self, columns: &Columns) -> Result<Option<RecordBatch>> {
        loop {
            let piece = match self.filling {
                Some(_) => None,
                None => self.queue.pieces.lock().pop_front(),
            };
            let batch = match (piece, &mut self.filling) {
                (Some(Piece::Kept { segment, changed }), _) => Some(columns.kept(&segment, &changed)?),
                (Some(Piece::Missing(span)), _) => {
                    self.filling = Some(columns.fill(&span)?);
                    continue;
                }
                (None, Some(filling)) => columns.filled(filling)?,
                (None, None) => {
                    self.finish(true);
                    return Ok(None);
                }
            };
            match batch {
                Some(batch) if batch.num_rows() > 0 => {
                    self.queue.rows.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
                    return Ok(Some(batch));
                }
                Some(_) => self.reading.watch.check()?,
                None => self.filling = None,
            }
        }
    }

    fn next_chunk(&mut self, rows: usize) -> Result<Vec<(Key, bytes::Bytes)>> {
        loop {
            if let Some(scan) = &mut self.current {
                let chunk = scan.next_chunk(rows)?;
                if !chunk.is_empty() {
                    return Ok(chunk);
                }
                self.current = None;
            }
            let Some(span) = self.queue.spans.lock().pop_front() else { return Ok(Vec::new()) };
            self.current = Some(self.reading.view.scan(span, Direction::Ascending)?);
        }
    }

    /// The last partition to end a scan of the whole table knows its count.
    fn finish(&mut self, exhausted: bool) {
        self.finished = true;
        if self.queue.open.fetch_sub(1, Ordering::AcqRel) == 1 && exhausted && self.reading.whole {
            let rows = self.queue.rows.load(Ordering::Acquire);
            self.reading.estimates.note(self.reading.table.primary.storage, rows);
        }
    }
}

impl ExecutionPlan for ScanExec {
    fn name(&self) -> &str {
        "Scan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> datafusion::common::Result<TreeNodeRecursion>,
    ) -> datafusion::common::Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    #[allow(deprecated)]
    fn with_new_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> datafusion::common::Result<SendableRecordBatchStream> {
        let schema: SchemaRef = self.reading.decoder.schema().clone();
        let scan = Scan {
            reading: self.reading.clone(),
            queue: self.queue(partition),
            current: None,
            filling: None,
            finished: false,
        };
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let stream = futures::stream::unfold((scan, metrics), |(mut scan, metrics)| async move {
            let timer = metrics.elapsed_compute().timer();
            let next = scan.next_batch();
            timer.done();
            match next {
                Ok(Some(batch)) => Some((Ok(batch.record_output(&metrics)), (scan, metrics))),
                Ok(None) => None,
                Err(e) => {
                    scan.finished = true;
                    Some((Err(DataFusionError::External(Box::new(e))), (scan, metrics)))
                }
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn statistics_from_inputs(
        &self,
        _: &[Arc<Statistics>],
        args: &StatisticsArgs,
    ) -> datafusion::common::Result<Arc<Statistics>> {
        let mut statistics = Statistics::new_unknown(self.reading.decoder.schema());
        let parts = self.properties.partitioning.partition_count().max(1);
        statistics.num_rows = match (self.reading.rows, args.partition()) {
            (rows, None) => rows,
            (rows, Some(_)) => rows.to_inexact().map(|n| n.div_ceil(parts)),
        };
        let width: usize =
            self.reading.decoder.schema().fields().iter().map(|f| f.data_type().primitive_width().unwrap_or(24)).sum();
        statistics.total_byte_size = statistics.num_rows.to_inexact().map(|n| n.saturating_mul(width.max(1)));
        Ok(Arc::new(statistics))
    }
}

impl fmt::Debug for ScanExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_as(DisplayFormatType::Default, f)
    }
}

impl DisplayAs for ScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reading = &self.reading;
        match reading.index.and_then(|i| reading.table.indexes.get(i)) {
            Some(index) => write!(f, "Index Scan using {} on {}", index.name, reading.table.name)?,
            None if reading.whole => write!(f, "Scan on {}", reading.table.name)?,
            None => write!(f, "Key Scan on {}", reading.table.name)?,
        }
        let columns: Vec<&str> = reading.decoder.schema().fields().iter().map(|f| f.name().as_str()).collect();
        write!(f, " ({})", columns.join(", "))?;
        if let Some(columns) = &reading.columns {
            write!(f, ", {columns:?}")?;
        }
        if !reading.whole {
            write!(f, ", {} key ranges", reading.spans.len())?;
        }
        if let Some(limit) = reading.limit {
            write!(f, ", limit {limit}")?;
        }
        Ok(())
    }
}
