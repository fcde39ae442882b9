//! What queries ask of the system catalogs.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Column, DataFusionError};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::logical_expr::{Expr, TableType, Volatility};
use datafusion::physical_plan::ExecutionPlan;
use polity_base::{TableId, Type, Value};

use super::PlanInput;
use super::bind::Binder;
use super::bind::bound::{Bound, Names};
use super::bind::coerce;
use super::bind::scope::Output;
use super::function::kernel::{Args, Eval, Kernel};
use super::types::{self, Builder};
use crate::catalog::name::{PUBLIC, quote};
use crate::catalog::{Catalog, Relation};
use crate::error::Result;
use crate::system::{SCALAR_FUNCTIONS, SystemFunction, SystemInput, system_table};

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

/// What system tables and functions are computed from, for a statement planned
/// against `input`. Sessions are not known here: `pg_stat_activity` is empty.
fn facts(input: &PlanInput) -> SystemInput {
    SystemInput {
        catalog: input.catalog.clone(),
        settings: input.settings.clone(),
        user: input.user.clone(),
        session: 0,
        activity: Vec::new(),
    }
}

/// A function about the catalog; `None` when there is none of this name that
/// takes these arguments.
pub fn call(binder: &Binder<'_>, name: &str, args: &[Bound]) -> Result<Option<Bound>> {
    let fits = |f: &&SystemFunction| {
        let each = || f.args.iter().zip(args);
        f.name == name
            && f.args.len() == args.len()
            && each().all(|(to, arg)| {
                arg.is_open() || *to == Type::Unknown || arg.r#type == *to || coerce::is_implicit(&arg.r#type, to)
            })
    };
    let exact = |f: &&SystemFunction| fits(f) && f.args.iter().zip(args).all(|(to, arg)| arg.r#type == *to);
    let Some(function) = SCALAR_FUNCTIONS.iter().find(exact).or_else(|| SCALAR_FUNCTIONS.iter().find(fits)) else {
        return Ok(None);
    };
    let mut exprs = Vec::with_capacity(args.len());
    for (to, arg) in function.args.iter().zip(args) {
        let bound = match to {
            Type::Unknown => binder.decided(arg.clone())?,
            to => binder.implicit(arg.clone(), to)?,
        };
        exprs.push(bound.expr);
    }
    let (input, eval) = (facts(binder.input()), function.eval);
    let row = move |args: &Args<'_>, out: &mut Builder| {
        let values = (0..function.args.len()).map(|k| args.value(k)).collect::<Result<Vec<_>>>()?;
        out.value(&eval(&input, &values)?)
    };
    let data = types::data_type(&function.returns);
    // What it says depends on the catalog, and a plan stands for one catalog.
    let name = format!("{name}/{}", binder.input().catalog.version);
    let expr = Kernel::call(name, data, Volatility::Stable, Eval::Row(Arc::new(row), function.strict), exprs);
    Ok(Some(Bound::new(expr, function.returns.clone())))
}

/// A system table as DataFusion sees it.
pub struct SystemProvider {
    columns: Vec<(String, Type)>,
    schema: SchemaRef,
    rows: Arc<Vec<Vec<Value>>>,
}

/// The system table of this name.
pub fn table(schema: Option<&str>, name: &str, input: &PlanInput) -> Option<SystemProvider> {
    let table = system_table(schema.unwrap_or("pg_catalog"), name)?;
    // `"char"` compares with text and arrays of text, as its values are text here.
    let as_text = |t: &Type| if *t == Type::InternalChar { Type::Text } else { t.clone() };
    let columns: Vec<(String, Type)> = table.columns.iter().map(|(n, t)| (n.clone(), as_text(t))).collect();
    let fields: Vec<Field> =
        columns.iter().map(|(name, r#type)| Field::new(name, types::data_type(r#type), true)).collect();
    Some(SystemProvider { columns, schema: Arc::new(Schema::new(fields)), rows: Arc::new(table.rows(&facts(input))) })
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
