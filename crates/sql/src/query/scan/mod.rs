//! Tables as DataFusion sees them.
//!
//! | module        | holds                                              |
//! |---------------|----------------------------------------------------|
//! | [`decode`]    | stored rows straight into columns                  |
//! | [`ranges`]    | from filters to spans of keys                      |
//! | [`estimates`] | how many rows there are, about                     |
//! | [`columns`]   | what was decoded before, kept in memory            |
//! | [`exec`]      | reading, in parallel                               |
//!
//! A [`StoredTable`] is part of a plan that outlives transactions, so it does
//! not hold a view: that comes with the run, as an extension of DataFusion's
//! session ([`RunState`]).

pub mod columns;
pub mod decode;
pub mod estimates;
pub mod exec;
pub mod ranges;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DataFusionError;
use datafusion::common::stats::Precision;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;
use polity_base::Span;
use polity_txn::View;

use self::columns::ColumnCache;
use self::decode::Decoder;
use self::estimates::Estimates;
use self::exec::{Reading, ScanExec};
use self::ranges::Constraints;
use crate::catalog;
use crate::catalog::model::Table;
use crate::error::{Error, Result};
use crate::session::{Engine, SequenceMemory, Watch};

/// What a run of a plan reads: found by its leaves through the session.
pub struct RunState {
    /// What it sees
    pub view: View,
    /// Tells whether to end
    pub watch: Watch,
    /// Row counts
    pub estimates: Arc<Estimates>,
    /// Columns in memory
    pub columns: Arc<ColumnCache>,
    /// What sessions share: who is there, and which numbers sequences gave
    pub engine: Arc<Engine>,
    /// What the session remembers of sequences
    pub sequences: SequenceMemory,
    /// Whether its transaction writes nothing
    pub read_only: bool,
}

/// Tables with fewer rows are read by one task.
pub const PARALLEL_ROWS: u64 = 20_000;
/// Pieces a parallel scan is cut into, per task.
const PIECES: usize = 16;
/// What part of the rows an equality is thought to leave, and a range.
const EQUALITY_LEAVES: f64 = 0.01;
const RANGE_LEAVES: f64 = 0.3;

/// A stored table.
pub struct StoredTable {
    table: Arc<Table>,
    schema: SchemaRef,
}

impl StoredTable {
    /// `table`, with the keys of its rows as a column if asked for.
    pub fn new(table: Arc<Table>, with_key: bool) -> StoredTable {
        StoredTable { schema: decode::schema(&table, with_key), table }
    }

    /// The table.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    fn plan(
        &self,
        state: &RunState,
        tasks: usize,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<ScanExec> {
        // A change of the table itself conflicts with having read it.
        state.view.get(&catalog::store::table_key(self.table.id))?;
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        let projection = projection.unwrap_or(&all);
        let decoder = Decoder::new(&self.table, &self.schema, projection)?;
        let mut access = Constraints::of(&self.table, filters)
            .access(&self.table, |index| Ok(state.view.has_index(index.storage)?))?;
        let total = state.estimates.rows(self.table.primary.storage, &state.view)?;
        let whole = access.index.is_none() && access.equalities == 0 && !access.ranged && !access.spans.is_empty();
        let mut rows = total as f64;
        for _ in 0..access.equalities {
            rows *= EQUALITY_LEAVES;
        }
        if access.ranged {
            rows *= RANGE_LEAVES;
        }
        let mut rows = (rows.ceil() as usize).max(usize::from(total > 0)).saturating_mul(access.spans.len().max(1));
        if access.unique {
            rows = access.spans.len();
        }
        let rows = rows.min(usize::try_from(total).unwrap_or(usize::MAX).max(1));
        let parallel = limit.is_none() && tasks > 1 && access.index.is_none() && rows as u64 >= PARALLEL_ROWS;
        let partitions = if parallel { tasks } else { 1 };
        let pieces = if parallel { tasks * PIECES } else { 1 };
        let mut columns = match whole && limit.is_none() {
            true => state.columns.scan(&self.table, &state.view, total, projection, decoder.schema())?,
            false => None,
        };
        match &mut columns {
            Some(columns) => columns.split(&state.view, pieces)?,
            None => {
                if let ([span], true) = (access.spans.as_slice(), parallel) {
                    access.spans = estimates::split(&state.view, span, pieces)?;
                }
            }
        }
        let orders = self.orders(&access, projection);
        let reading = Reading {
            table: self.table.clone(),
            view: state.view.clone(),
            watch: state.watch.clone(),
            estimates: state.estimates.clone(),
            decoder,
            index: access.index,
            spans: access.spans,
            whole,
            columns,
            limit,
            rows: if total == 0 { Precision::Absent } else { Precision::Inexact(rows) },
        };
        Ok(ScanExec::new(reading, partitions, orders))
    }

    /// The order of the rows, as far as the columns asked for show it.
    fn orders(&self, access: &ranges::Access, projection: &[usize]) -> Vec<LexOrdering> {
        let keys: Vec<_> = match access.index.and_then(|i| self.table.indexes.get(i)) {
            Some(index) => index.columns.clone(),
            None => self.table.primary.columns.iter().map(|c| (*c, polity_base::key::Direction::Ascending)).collect(),
        };
        let mut order = Vec::new();
        for (id, direction) in keys {
            let Some(column) = self.table.columns.iter().position(|c| c.id == id) else { break };
            let Some(output) = projection.iter().position(|p| *p == column) else { break };
            let Some(column) = self.table.columns.get(column) else { break };
            // Keys of free numerics are equal where their bytes here are not.
            if matches!(column.r#type, polity_base::Type::Numeric(None)) {
                break;
            }
            let descending = direction == polity_base::key::Direction::Descending;
            order.push(PhysicalSortExpr {
                expr: Arc::new(Column::new(&column.name, output)),
                options: SortOptions { descending, nulls_first: descending },
            });
        }
        LexOrdering::new(order).into_iter().collect()
    }

    /// The span of all its rows.
    pub fn span(&self) -> Span {
        Span::of_index(self.table.primary.storage)
    }
}

impl fmt::Debug for StoredTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.table.name)
    }
}

#[async_trait]
impl TableProvider for StoredTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> datafusion::common::Result<Vec<TableProviderFilterPushDown>> {
        Ok(filters
            .iter()
            .map(|f| match ranges::is_useful(&self.table, f) {
                true => TableProviderFilterPushDown::Inexact,
                false => TableProviderFilterPushDown::Unsupported,
            })
            .collect())
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        let plan = || {
            let state = session
                .config()
                .get_extension::<RunState>()
                .ok_or_else(|| Error::internal("a stored table is read without a view"))?;
            // Inexact filters drop rows later, so a limit must not stop early.
            let limit = if filters.is_empty() { limit } else { None };
            self.plan(&state, session.config().target_partitions(), projection, filters, limit)
        };
        match plan() {
            Ok(exec) => Ok(Arc::new(exec)),
            Err(e) => Err(DataFusionError::External(Box::new(e))),
        }
    }
}
