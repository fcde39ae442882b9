//! Subqueries that are run as they are asked for, once for each combination of
//! values they refer to.
//!
//! Most subqueries become joins. What cannot (EXISTS in the select list, LIMIT in
//! a correlated subquery, references over two levels) stays a call: its arguments
//! are the outer values, its result what the subquery gives for them. Results are
//! remembered per batch of distinct arguments. A LATERAL subquery is such a call too,
//! whose result is made rows again.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock, Weak};

use async_trait::async_trait;
use datafusion::arrow::array::{Array, ArrayRef, BooleanArray, ListArray, StructArray};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::compute::concat;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::config::{ConfigEntry, ConfigExtension, ConfigOptions, ExtensionOptions};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DataFusionError, ScalarValue};
use datafusion::logical_expr::async_udf::{AsyncScalarUDF, AsyncScalarUDFImpl};
use datafusion::logical_expr::expr::{Placeholder, ScalarFunction};
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, Operator, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

use super::bind::scope::{Level, ScopeColumn};
use super::function::fold::too_many_rows;
use super::run::Running;
use crate::error::{Error, Result};

/// What is wanted of a subquery.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Wanted {
    /// Its one value
    Scalar,
    /// Whether it has a row
    Exists,
    /// Whether a value compares so with one of its rows
    Any(Operator),
    /// All its values
    Array,
    /// All its rows, as an array of structs; NULL if there is none
    Rows,
}

/// What a subquery refers to.
pub struct Arguments {
    /// The outer columns, as the subquery names them
    outer: Vec<(Column, FieldRef)>,
    /// The same, as the place of the call names them
    exprs: Vec<Expr>,
    /// What is compared with its rows
    pub lefts: Vec<Expr>,
}

/// The outer columns `refs` of a subquery that stands in `level`.
pub fn arguments(level: &Level<'_>, refs: Vec<Expr>) -> Arguments {
    let mut args = Arguments { outer: Vec::new(), exprs: Vec::new(), lefts: Vec::new() };
    for reference in refs {
        let Expr::OuterReferenceColumn(field, column) = reference else { continue };
        if args.outer.iter().any(|(c, _)| *c == column) {
            continue;
        }
        let here = level.scope.columns.iter().any(|c| c.column == column);
        args.exprs.push(match here {
            true => Expr::Column(column.clone()),
            false => Expr::OuterReferenceColumn(field.clone(), column.clone()),
        });
        args.outer.push((column, field));
    }
    args
}

/// Arrays of the rows that a subquery with columns of these types gives.
pub fn rows_of(columns: impl Iterator<Item = DataType>) -> DataType {
    let fields: Fields = columns.enumerate().map(|(i, data)| Field::new(format!("c{i}"), data, true)).collect();
    DataType::List(Arc::new(Field::new("item", DataType::Struct(fields), true)))
}

impl Arguments {
    /// Whether all outer columns but those of levels farther out are among `columns`.
    pub fn are_among(&self, columns: &[ScopeColumn]) -> bool {
        self.exprs.iter().all(|e| match e {
            Expr::Column(c) => columns.iter().any(|known| known.column == *c),
            _ => true,
        })
    }
}

/// The call of a subquery.
pub fn call(plan: LogicalPlan, args: Arguments, wanted: Wanted, returns: DataType) -> Expr {
    let mut exprs = args.exprs;
    let lefts = args.lefts.len();
    exprs.extend(args.lefts);
    let plan = opened(plan, &args.outer);
    let subplan = SubPlan {
        name: format!("subquery_{wanted:?}").to_lowercase(),
        plan: Arc::new(plan),
        outer: args.outer.len(),
        lefts,
        wanted,
        returns,
        optimized: OnceLock::new(),
        // Volatile: neither moved nor merged.
        signature: match exprs.is_empty() {
            true => Signature::nullary(Volatility::Volatile),
            false => Signature::variadic_any(Volatility::Volatile),
        },
    };
    let udf = AsyncScalarUDF::new(Arc::new(subplan)).into_scalar_udf();
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(udf), exprs))
}

/// The plan with placeholders where it refers to what is around it.
fn opened(plan: LogicalPlan, outer: &[(Column, FieldRef)]) -> LogicalPlan {
    let replaced = plan.clone().transform_up_with_subqueries(|node| {
        node.map_expressions(|e| {
            e.transform_up(|e| match &e {
                Expr::OuterReferenceColumn(field, column) => match outer.iter().position(|(c, _)| c == column) {
                    Some(i) => {
                        let field = Some(Arc::new(Field::new("", field.data_type().clone(), true)));
                        let open = Placeholder::new_with_field(format!("$outer{i}"), field);
                        Ok(Transformed::yes(Expr::Placeholder(open)))
                    }
                    None => Ok(Transformed::no(e)),
                },
                _ => Ok(Transformed::no(e)),
            })
        })
    });
    match replaced {
        Ok(replaced) => replaced.data,
        Err(_) => plan,
    }
}

/// A subquery as a function.
struct SubPlan {
    name: String,
    plan: Arc<LogicalPlan>,
    outer: usize,
    lefts: usize,
    wanted: Wanted,
    returns: DataType,
    optimized: OnceLock<Arc<LogicalPlan>>,
    signature: Signature,
}

/// How a subquery finds the run it is part of: through DataFusion's options.
#[derive(Clone, Debug)]
pub struct RunHandle(pub Weak<Running>);

impl RunHandle {
    /// The run that `options` belong to; for `what`, which has no meaning outside of one.
    pub fn of(options: &ConfigOptions, what: &str) -> datafusion::common::Result<Arc<Running>> {
        let running = options.extensions.get::<RunHandle>().and_then(|handle| handle.0.upgrade());
        let outside = || Error::internal(format!("{what} runs outside of a query"));
        running.ok_or_else(|| DataFusionError::External(Box::new(outside())))
    }
}

impl ConfigExtension for RunHandle {
    const PREFIX: &'static str = "polity_run";
}

impl ExtensionOptions for RunHandle {
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn std::any::Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(self.clone())
    }

    fn set(&mut self, _: &str, _: &str) -> datafusion::common::Result<()> {
        Ok(())
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        Vec::new()
    }
}

/// What a subquery gave for some outer values.
#[derive(Clone)]
struct Answer {
    batches: Vec<RecordBatch>,
}

impl SubPlan {
    async fn answer(&self, running: &Running, outer: &[ScalarValue]) -> Result<Answer> {
        let plan = match self.optimized.get() {
            Some(plan) => plan.clone(),
            None => {
                let plan = Arc::new(running.optimize(&self.plan)?);
                self.optimized.get_or_init(|| plan).clone()
            }
        };
        let values: HashMap<String, ScalarValue> =
            outer.iter().enumerate().map(|(i, v)| (format!("$outer{i}"), v.clone())).collect();
        let batches = running.collect(&plan, &values).await?;
        Ok(Answer { batches })
    }

    fn result(&self, answer: &Answer, lefts: &[ScalarValue]) -> Result<ScalarValue> {
        let column = |i: usize| -> Result<ArrayRef> {
            let parts: Vec<&dyn Array> =
                answer.batches.iter().filter_map(|b| b.columns().get(i)).map(|a| a.as_ref()).collect();
            concat(&parts).map_err(Error::internal)
        };
        let rows: usize = answer.batches.iter().map(RecordBatch::num_rows).sum();
        match self.wanted {
            Wanted::Exists => Ok(ScalarValue::Boolean(Some(rows > 0))),
            Wanted::Scalar => match rows {
                0 => ScalarValue::try_from(&self.returns).map_err(Error::internal),
                1 => ScalarValue::try_from_array(&column(0)?, 0).map_err(Error::internal),
                _ => Err(too_many_rows()),
            },
            Wanted::Array => {
                let DataType::List(field) = &self.returns else { return Err(Error::internal("not an array")) };
                let values =
                    if rows == 0 { datafusion::arrow::array::new_empty_array(field.data_type()) } else { column(0)? };
                let values: Vec<ScalarValue> = (0..values.len())
                    .map(|i| ScalarValue::try_from_array(&values, i))
                    .collect::<datafusion::common::Result<_>>()
                    .map_err(Error::internal)?;
                Ok(ScalarValue::List(ScalarValue::new_list_nullable(&values, field.data_type())))
            }
            Wanted::Rows => {
                let null = || ScalarValue::try_from(&self.returns).map_err(Error::internal);
                let DataType::List(field) = &self.returns else { return Err(Error::internal("not rows")) };
                let DataType::Struct(fields) = field.data_type() else { return Err(Error::internal("not rows")) };
                if rows == 0 {
                    return null();
                }
                let columns = (0..fields.len()).map(column).collect::<Result<Vec<_>>>()?;
                let columns = StructArray::try_new_with_length(fields.clone(), columns, None, rows);
                let values = Arc::new(columns.map_err(Error::internal)?);
                let list = ListArray::try_new(field.clone(), OffsetBuffer::from_lengths([rows]), values, None);
                Ok(ScalarValue::List(Arc::new(list.map_err(Error::internal)?)))
            }
            Wanted::Any(op) => {
                if rows == 0 {
                    return Ok(ScalarValue::Boolean(Some(false)));
                }
                let mut found: Option<BooleanArray> = None;
                for (i, left) in lefts.iter().enumerate() {
                    let equal = compare(left, op, &column(i)?)?;
                    found = Some(match found {
                        None => equal,
                        Some(before) => {
                            datafusion::arrow::compute::and_kleene(&before, &equal).map_err(Error::internal)?
                        }
                    });
                }
                let Some(found) = found else { return Ok(ScalarValue::Boolean(None)) };
                Ok(ScalarValue::Boolean(if found.true_count() > 0 {
                    Some(true)
                } else if found.null_count() > 0 {
                    None
                } else {
                    Some(false)
                }))
            }
        }
    }
}

fn compare(left: &ScalarValue, op: Operator, right: &ArrayRef) -> Result<BooleanArray> {
    use datafusion::arrow::compute::kernels::cmp;
    let left = left.to_scalar().map_err(Error::internal)?;
    let result = match op {
        Operator::Eq => cmp::eq(&left, right),
        Operator::NotEq => cmp::neq(&left, right),
        Operator::Lt => cmp::lt(&left, right),
        Operator::LtEq => cmp::lt_eq(&left, right),
        Operator::Gt => cmp::gt(&left, right),
        _ => cmp::gt_eq(&left, right),
    };
    result.map_err(Error::internal)
}

#[async_trait]
impl AsyncScalarUDFImpl for SubPlan {
    async fn invoke_async_with_args(&self, args: ScalarFunctionArgs) -> datafusion::common::Result<ColumnarValue> {
        let external = |e: Error| DataFusionError::External(Box::new(e));
        let running = RunHandle::of(&args.config_options, "a subquery")?;
        let arrays =
            args.args.iter().map(|a| a.to_array(args.number_rows)).collect::<datafusion::common::Result<Vec<_>>>()?;
        let mut answers: HashMap<Vec<ScalarValue>, Answer> = HashMap::new();
        let mut results = Vec::with_capacity(args.number_rows);
        for i in 0..args.number_rows {
            let values = arrays
                .iter()
                .map(|a| ScalarValue::try_from_array(a, i))
                .collect::<datafusion::common::Result<Vec<_>>>()?;
            let (outer, lefts) = values.split_at(self.outer.min(values.len()));
            if !answers.contains_key(outer) {
                let answer = self.answer(&running, outer).await.map_err(external)?;
                answers.insert(outer.to_vec(), answer);
            }
            let Some(answer) = answers.get(outer) else { continue };
            results.push(self.result(answer, lefts).map_err(external)?);
        }
        if results.is_empty() {
            return Ok(ColumnarValue::Array(datafusion::arrow::array::new_empty_array(&self.returns)));
        }
        Ok(ColumnarValue::Array(ScalarValue::iter_to_array(results)?))
    }
}

impl ScalarUDFImpl for SubPlan {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> datafusion::common::Result<DataType> {
        Ok(self.returns.clone())
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> datafusion::common::Result<ColumnarValue> {
        Err(DataFusionError::External(Box::new(Error::unsupported("a subquery in this place"))))
    }
}

impl fmt::Debug for SubPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {} outer values", self.name, self.outer)
    }
}

impl PartialEq for SubPlan {
    fn eq(&self, other: &SubPlan) -> bool {
        self.wanted == other.wanted && self.lefts == other.lefts && self.plan == other.plan
    }
}

impl Eq for SubPlan {}

impl Hash for SubPlan {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
        self.outer.hash(state);
    }
}
