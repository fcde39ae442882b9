//! `nextval`, `currval`, `lastval` and `setval` within queries.
//!
//! Drawing a number may take a commit of its own, so these are functions that are
//! waited for, as subqueries are that run row by row. Numbers are drawn for a batch
//! of rows at once, in the order of the rows. Where a query evaluates a call for rows
//! that it does not show (under CASE, or beyond a LIMIT it cannot push down), numbers
//! are skipped; skipped numbers are nothing new to who uses sequences.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, UInt32Array};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::DataFusionError;
use datafusion::logical_expr::async_udf::{AsyncScalarUDF, AsyncScalarUDFImpl};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};
use polity_base::{TableId, Type, Value};

use super::names;
use crate::catalog::Catalog;
use crate::ddl::sequence::{self, Calls};
use crate::error::{Error, Result};
use crate::query::bind::Binder;
use crate::query::bind::bound::{Bound, Names};
use crate::query::bind::coerce;
use crate::query::subplan::RunHandle;

/// The calls there are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum What {
    Next,
    Current,
    Last,
    Set,
}

/// A call on a sequence; `None` if there is none of this name that takes these
/// arguments.
pub fn call(binder: &Binder<'_>, name: &str, args: &[Bound]) -> Result<Option<Bound>> {
    let (what, args) = match (name, args) {
        ("nextval", [sequence]) => (What::Next, vec![identified(binder, sequence)?]),
        ("currval", [sequence]) => (What::Current, vec![identified(binder, sequence)?]),
        ("lastval", []) => (What::Last, Vec::new()),
        ("setval", [sequence, value, rest @ ..]) if rest.len() <= 1 => {
            let is_called = match rest {
                [is_called] => binder.implicit(is_called.clone(), &Type::Bool)?,
                _ => coerce::literal(&Value::Bool(true), &Type::Bool)?,
            };
            let value = binder.implicit(value.clone(), &Type::Int8)?;
            (What::Set, vec![identified(binder, sequence)?, value, is_called])
        }
        _ => return Ok(None),
    };
    // Rows have an order, and so have the numbers.
    binder.sequential.set(true);
    let call = Call {
        name: name.to_owned(),
        what,
        number: binder.number(),
        catalog: binder.input().catalog.clone(),
        signature: match args.is_empty() {
            true => Signature::nullary(Volatility::Volatile),
            false => Signature::variadic_any(Volatility::Volatile),
        },
    };
    let udf = AsyncScalarUDF::new(Arc::new(call)).into_scalar_udf();
    let exprs = args.into_iter().map(|a| a.expr).collect();
    let expr = Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(udf), exprs));
    Ok(Some(Bound::new(expr, Type::Int8)))
}

/// The sequence that a name, or a number already, stands for.
fn identified(binder: &Binder<'_>, sequence: &Bound) -> Result<Bound> {
    if sequence.is_open() || sequence.r#type.is_text() {
        let text = binder.implicit(sequence.clone(), &Type::Text)?;
        return names::found(&text, Names::Relation, binder.input());
    }
    match sequence.r#type {
        Type::Regclass => Ok(sequence.clone()),
        _ => binder.explicit(sequence.clone(), &Type::Oid),
    }
}

/// A call as a function.
struct Call {
    name: String,
    what: What,
    /// Two calls that are written alike are two calls
    number: usize,
    /// Where sequences are found; a plan stands for one catalog
    catalog: Arc<Catalog>,
    signature: Signature,
}

impl Call {
    async fn values(&self, calls: Calls<'_>, args: &[ArrayRef], rows: usize) -> Result<Vec<Option<i64>>> {
        let cell = |i: usize, row: usize| args.get(i).filter(|array| array.is_valid(row));
        let sequence = |row: usize| cell(0, row)?.as_any().downcast_ref::<UInt32Array>().map(|a| TableId(a.value(row)));
        let mut values = Vec::with_capacity(rows);
        while values.len() < rows {
            let row = values.len();
            if self.what == What::Last {
                values.push(Some(calls.last()?));
                continue;
            }
            let Some(id) = sequence(row) else {
                values.push(None);
                continue;
            };
            match self.what {
                What::Next => {
                    let count = (row..rows).take_while(|row| sequence(*row) == Some(id)).count();
                    values.extend(calls.next_many(id, count).await?.into_iter().map(Some));
                }
                What::Current | What::Last => values.push(Some(calls.current(id)?)),
                What::Set => {
                    let value = cell(1, row).and_then(|a| a.as_any().downcast_ref::<Int64Array>());
                    let is_called = cell(2, row).and_then(|a| a.as_any().downcast_ref::<BooleanArray>());
                    values.push(match (value, is_called) {
                        (Some(value), Some(is_called)) => {
                            Some(calls.set(id, value.value(row), is_called.value(row)).await?)
                        }
                        _ => None,
                    });
                }
            }
        }
        Ok(values)
    }
}

#[async_trait]
impl AsyncScalarUDFImpl for Call {
    async fn invoke_async_with_args(&self, args: ScalarFunctionArgs) -> datafusion::common::Result<ColumnarValue> {
        let external = |e: Error| DataFusionError::External(Box::new(e));
        let running = RunHandle::of(&args.config_options, "a call of a sequence")?;
        let run = running.run();
        if run.read_only && matches!(self.what, What::Next | What::Set) {
            return Err(external(sequence::read_only(&self.name)));
        }
        let calls = Calls { engine: &run.engine, catalog: &self.catalog, memory: &run.sequences };
        let rows = args.number_rows;
        let arrays = args.args.iter().map(|a| a.to_array(rows)).collect::<datafusion::common::Result<Vec<_>>>()?;
        let values = self.values(calls, &arrays, rows).await.map_err(external)?;
        Ok(ColumnarValue::Array(Arc::new(Int64Array::from(values))))
    }
}

impl ScalarUDFImpl for Call {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> datafusion::common::Result<DataType> {
        Ok(DataType::Int64)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> datafusion::common::Result<ColumnarValue> {
        let refused = Error::unsupported(format!("{} in this place", self.name))
            .hint("Call it in the list of a SELECT, in a subquery if need be.");
        Err(DataFusionError::External(Box::new(refused)))
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl PartialEq for Call {
    fn eq(&self, other: &Call) -> bool {
        self.number == other.number && self.what == other.what
    }
}

impl Eq for Call {}

impl Hash for Call {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.number.hash(state);
    }
}
