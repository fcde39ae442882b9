//! A sequence as a table: `SELECT last_value, is_called FROM s`.

use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DataFusionError;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use polity_base::{Type, Value};

use super::scan::RunState;
use super::types;
use crate::catalog::Sequence;
use crate::error::{Error, Result};

/// A sequence's columns.
pub const COLUMNS: [(&str, Type); 3] = [("last_value", Type::Int8), ("log_cnt", Type::Int8), ("is_called", Type::Bool)];

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let fields: Vec<Field> = COLUMNS.iter().map(|(n, t)| Field::new(*n, types::data_type(t), true)).collect();
    Arc::new(Schema::new(fields))
});

/// One row: the last number given out, or the first one to give.
#[derive(Debug)]
pub struct SequenceTable(pub Arc<Sequence>);

impl SequenceTable {
    fn row(&self, run: &RunState) -> Result<Vec<Value>> {
        let state = run.engine.sequences().state(&self.0, &run.view)?;
        Ok(vec![Value::Int8(state.last), Value::Int8(0), Value::Bool(state.is_called)])
    }
}

#[async_trait]
impl TableProvider for SequenceTable {
    fn schema(&self) -> SchemaRef {
        SCHEMA.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        let external = |e: Error| DataFusionError::External(Box::new(e));
        let run = session.config().get_extension::<RunState>();
        let run = run.ok_or_else(|| external(Error::internal("a plan is run without its state")))?;
        let rows = vec![self.row(&run).map_err(external)?];
        let batch = types::batch(&rows, &SCHEMA).map_err(external)?;
        let exec = MemorySourceConfig::try_new_exec(&[vec![batch]], SCHEMA.clone(), projection.cloned())?;
        Ok(exec)
    }
}
