//! What queries ask of the system catalogs.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Column, DataFusionError};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use polity_base::{TableId, Type, Value};

use super::PlanInput;
use super::bind::Binder;
use super::bind::bound::{Bound, Names};
use super::bind::scope::Output;
use super::types;
use crate::catalog::name::{PUBLIC, quote};
use crate::catalog::{Catalog, Relation};
use crate::error::Result;

/// The identifier of schema `public`, as in PostgreSQL.
pub const PUBLIC_OID: u32 = 2200;
/// The identifier of schema `pg_catalog`.
pub const PG_CATALOG_OID: u32 = 11;
/// The identifier of schema `information_schema`.
pub const INFORMATION_SCHEMA_OID: u32 = 13_000;

/// The name of a relation, quoted as needed.
pub fn relation_name(catalog: &Catalog, oid: u32) -> Option<String> {
    match catalog.relation_by_id(TableId(oid))? {
        Relation::Table(t) => Some(quote(&t.name)),
        Relation::View(v) => Some(quote(&v.name)),
        Relation::Sequence(s) => Some(quote(&s.name)),
        Relation::Index(t, id) => {
            if t.primary.id == Some(id) {
                return t.primary.name.as_deref().map(quote);
            }
            t.indexes.iter().find(|i| i.id == id).map(|i| quote(&i.name))
        }
    }
}

/// The identifier of the relation a text names.
pub fn relation_oid(catalog: &Catalog, text: &str) -> Option<u32> {
    let (schema, name) = split(text);
    match schema.as_deref() {
        None | Some(PUBLIC) => catalog.names.get(&name).map(|id| id.0),
        _ => None,
    }
}

/// Schema and name in a text.
pub fn split(text: &str) -> (Option<String>, String) {
    let mut parts = Vec::new();
    let mut current = String::new();
    let mut quoted = false;
    for c in text.trim().chars() {
        match c {
            '"' => {
                quoted = !quoted;
                current.push(c);
            }
            '.' if !quoted => parts.push(std::mem::take(&mut current)),
            _ => current.push(c),
        }
    }
    let unquoted = crate::query::function::names::unquoted;
    (parts.pop().map(|s| unquoted(&s)), unquoted(&current))
}

/// The name of a schema.
pub fn schema_name(oid: u32) -> Option<&'static str> {
    match oid {
        PUBLIC_OID => Some(PUBLIC),
        PG_CATALOG_OID => Some("pg_catalog"),
        INFORMATION_SCHEMA_OID => Some("information_schema"),
        _ => None,
    }
}

/// The identifier of a schema.
pub fn schema_oid(name: &str) -> Option<u32> {
    [PUBLIC_OID, PG_CATALOG_OID, INFORMATION_SCHEMA_OID].into_iter().find(|oid| schema_name(*oid) == Some(name))
}

/// The name of a function.
pub fn function_name(oid: u32) -> Option<String> {
    let _ = oid;
    None
}

/// The identifier of a function.
pub fn function_oid(name: &str) -> Option<u32> {
    let _ = name;
    None
}

/// What `version()` says.
pub fn version() -> String {
    format!("PostgreSQL {} (Polity {})", crate::session::settings::SERVER_VERSION, env!("CARGO_PKG_VERSION"))
}

/// A function about the catalog; `None` when there is none of this name.
pub fn call(binder: &Binder<'_>, name: &str, args: &[Bound]) -> Result<Option<Bound>> {
    let _ = (binder, name, args);
    Ok(None)
}

/// A system table as DataFusion sees it.
pub struct SystemProvider {
    columns: Vec<(String, Type)>,
    schema: SchemaRef,
    rows: Arc<Vec<Vec<Value>>>,
}

/// The system table of this name.
pub fn table(schema: Option<&str>, name: &str, input: &PlanInput) -> Option<SystemProvider> {
    let _ = (schema, name, input);
    None
}

impl SystemProvider {
    /// What its columns are.
    pub fn outputs(&self) -> Vec<Output> {
        let output = |(name, r#type): &(String, Type)| Output {
            label: name.clone(),
            column: Column::new_unqualified(name),
            r#type: r#type.clone(),
            data: types::data_type(r#type),
            names: Names::Relation,
            source: None,
            parameter: None,
        };
        self.columns.iter().map(output).collect()
    }
}

impl fmt::Debug for SystemProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "system table of {} rows", self.rows.len())
    }
}

#[async_trait]
impl TableProvider for SystemProvider {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        let batch = types::batch(&self.rows, &self.schema).map_err(|e| DataFusionError::External(Box::new(e)))?;
        let exec = MemorySourceConfig::try_new_exec(&[vec![batch]], self.schema.clone(), projection.cloned())?;
        Ok(exec)
    }
}
