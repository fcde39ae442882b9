//! Aggregates of our own: where PostgreSQL's result differs from DataFusion's,
//! or its type is one DataFusion does not know.
//!
//! A float sum adds in the order the rows come, and in `real` if the column is
//! `real`, as PostgreSQL does. Everything is kept as SQL values; sums of doubles,
//! which matter for speed, hand over to DataFusion's accumulator per group.

use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, GroupsAccumulator, Signature, TypeSignature, Volatility,
};
use polity_base::{Decimal, Type, Value};

use crate::error::{Condition, Error, Result};
use crate::expr::{Local, cast};
use crate::query::function::ordered::{self, Order};
use crate::query::numeric;
use crate::query::types::{self, Builder, Cells};

/// What is computed.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// The sum of `real`, `double precision`, free numerics or intervals
    Sum,
    /// The smallest or (`true`) largest value
    Extreme(bool),
    /// The one value there is; two are an error
    Single,
    /// The first value, NULL or not
    First,
    /// Texts (or bytes) with something between them
    Join,
    /// All values
    List,
    /// `json_agg`, `jsonb_agg`
    Json,
    /// `json_object_agg`
    JsonObject,
    /// Variance or (`deviation`) its root, of numerics
    Variance {
        /// The root of it
        deviation: bool,
        /// Of the population, not of a sample
        population: bool,
    },
    /// `mode()`
    Mode,
    /// `percentile_disc(p)` over sorted values
    Discrete,
    /// `percentile_cont(p)` over sorted doubles
    Continuous,
}

/// One aggregate for one list of argument types.
pub struct Fold {
    name: String,
    kind: Kind,
    types: Vec<Type>,
    order: Vec<Order>,
    distinct: bool,
    data: DataType,
    zone: String,
    signature: Signature,
}

impl Fold {
    /// The aggregate of `kind` called `name`, for arguments of these types, over
    /// rows in this order; what is sorted by may be among the arguments for no
    /// other purpose. With `distinct`, of equal rows one, and the order must be one
    /// by all arguments. (DataFusion's own DISTINCT takes values for equal only if
    /// their bytes are.)
    pub fn udaf(
        name: &str,
        kind: Kind,
        types: Vec<Type>,
        order: Vec<Order>,
        distinct: bool,
        data: DataType,
        zone: &str,
    ) -> Arc<AggregateUDF> {
        let signature = Signature::new(TypeSignature::UserDefined, Volatility::Immutable);
        let kinds: Vec<String> = types.iter().map(crate::catalog::types::internal_name).collect();
        let name = match kinds.is_empty() {
            true => name.to_owned(),
            false => format!("{name}[{}]", kinds.join(",")),
        };
        // Names tell aggregates apart in plans.
        let name = if distinct { format!("{name} distinct") } else { name };
        let name = order.iter().fold(name, |name, o| {
            let (descending, nulls_first) = (o.descending, o.nulls_first);
            format!(
                "{name} by {}{}",
                o.argument,
                match (descending, nulls_first) {
                    (false, false) => "",
                    (false, true) => " nulls first",
                    (true, false) => " desc nulls last",
                    (true, true) => " desc",
                }
            )
        });
        let zone = zone.to_owned();
        Arc::new(AggregateUDF::new_from_impl(Fold { name, kind, types, order, distinct, data, zone, signature }))
    }

    fn is_double_sum(&self) -> bool {
        self.kind == Kind::Sum && self.data == DataType::Float64 && self.order.is_empty() && !self.distinct
    }

    fn state(&self) -> FoldState {
        FoldState {
            kind: self.kind.clone(),
            types: self.types.clone(),
            order: self.order.clone(),
            data: self.data.clone(),
            zone: self.zone.clone(),
            distinct: self.distinct,
            seen: HashSet::new(),
            values: Vec::new(),
            current: Value::Null,
            count: 0,
            bytes: 0,
        }
    }
}

impl AggregateUDFImpl for Fold {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> datafusion::common::Result<DataType> {
        Ok(self.data.clone())
    }

    fn coerce_types(&self, types: &[DataType]) -> datafusion::common::Result<Vec<DataType>> {
        Ok(types.to_vec())
    }

    fn accumulator(&self, _: AccumulatorArgs) -> datafusion::common::Result<Box<dyn Accumulator>> {
        Ok(Box::new(self.state()))
    }

    fn create_sliding_accumulator(&self, _: AccumulatorArgs) -> datafusion::common::Result<Box<dyn Accumulator>> {
        Ok(Box::new(Sliding { state: self.state(), rows: Default::default() }))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> datafusion::common::Result<Vec<FieldRef>> {
        if self.is_double_sum() {
            return Ok(vec![Arc::new(Field::new(format!("{}[sum]", args.name), DataType::Float64, true))]);
        }
        // All values, and what is between them.
        let mut fields = Vec::new();
        for (i, t) in self.types.iter().enumerate() {
            let element = types::element_type(t);
            fields.push(Arc::new(Field::new(format!("{}[{i}]", args.name), types::list_of(element), true)));
        }
        Ok(fields)
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs) -> bool {
        self.is_double_sum()
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> datafusion::common::Result<Box<dyn GroupsAccumulator>> {
        sum_udaf().create_groups_accumulator(args)
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        // An order of its own is no matter of the plan: see `ordered`. Without one, rows come in the order of
        // the input: see `query::sorted`.
        match self.kind {
            Kind::Join | Kind::List | Kind::Json | Kind::JsonObject if self.order.is_empty() => {
                AggregateOrderSensitivity::SoftRequirement
            }
            _ => AggregateOrderSensitivity::Insensitive,
        }
    }
}

/// The values of one group.
struct FoldState {
    kind: Kind,
    types: Vec<Type>,
    order: Vec<Order>,
    data: DataType,
    zone: String,
    distinct: bool,
    seen: HashSet<Vec<u8>>,
    /// Rows that are kept, where they must be
    values: Vec<Vec<Value>>,
    /// The result so far, where that is enough
    current: Value,
    count: u64,
    bytes: usize,
}

impl FoldState {
    fn is_double_sum(&self) -> bool {
        self.kind == Kind::Sum && self.data == DataType::Float64 && !self.keeps()
    }

    /// Whether rows are kept until the end.
    fn keeps(&self) -> bool {
        self.distinct
            || !self.order.is_empty()
            || !matches!(self.kind, Kind::Sum | Kind::Extreme(_) | Kind::Single | Kind::First)
    }

    fn add(&mut self, row: Vec<Value>) -> Result<()> {
        let Some(first) = row.first() else { return Ok(()) };
        let ignores_null =
            !matches!(self.kind, Kind::List | Kind::Json | Kind::JsonObject | Kind::Single | Kind::First);
        if ignores_null && first.is_null() {
            return Ok(());
        }
        if self.distinct {
            let id = polity_base::row::encode(row.iter().map(normalized).collect::<Vec<_>>().iter());
            if !self.seen.insert(id.to_vec()) {
                return Ok(());
            }
        }
        self.count += 1;
        if self.keeps() {
            self.bytes += row.iter().map(value_bytes).sum::<usize>();
            self.values.push(row);
            return Ok(());
        }
        let Some(first) = row.into_iter().next() else { return Ok(()) };
        self.fold(first)
    }

    fn fold(&mut self, value: Value) -> Result<()> {
        match &self.kind {
            Kind::Sum => self.current = sum(std::mem::replace(&mut self.current, Value::Null), value)?,
            Kind::Extreme(greatest) => {
                let replaces = match value.compare(&self.current) {
                    None => self.current.is_null(),
                    Some(order) => order.is_ne() && (order == std::cmp::Ordering::Greater) == *greatest,
                };
                if replaces {
                    self.current = value;
                }
            }
            Kind::Single if self.count > 1 => return Err(too_many_rows()),
            Kind::Single => self.current = value,
            Kind::First if self.count > 1 => {}
            Kind::First => self.current = value,
            _ => {}
        }
        Ok(())
    }

    fn result(&mut self) -> Result<Value> {
        if !self.keeps() {
            return Ok(self.current.clone());
        }
        let mut rows = self.values.clone();
        ordered::sort(&mut rows, &self.order);
        if self.distinct {
            // Values may be equal and not the same: 24 hours and a day.
            rows.dedup_by(|a, b| ordered::is_same(a, b, &self.order));
        }
        if rows.is_empty() {
            return Ok(Value::Null);
        }
        match &self.kind {
            Kind::Sum => {
                let mut total = Value::Null;
                for row in rows {
                    total = sum(total, row.into_iter().next().unwrap_or(Value::Null))?;
                }
                Ok(total)
            }
            Kind::Single | Kind::First => Ok(rows.into_iter().flatten().next().unwrap_or(Value::Null)),
            Kind::Extreme(_) => {
                self.current = Value::Null;
                for value in rows.into_iter().filter_map(|r| r.into_iter().next()) {
                    self.fold(value)?;
                }
                Ok(self.current.clone())
            }
            Kind::Join => Ok(join(rows)),
            Kind::List => Ok(Value::Array(rows.into_iter().filter_map(|r| r.into_iter().next()).collect())),
            Kind::Json => {
                let r#type = self.types.first().cloned().unwrap_or(Type::Text);
                let parts: Vec<String> = rows
                    .into_iter()
                    .filter_map(|r| r.into_iter().next())
                    .map(|v| super::json::of_value(&v, &r#type, &self.zone))
                    .collect();
                Ok(Value::Json(format!("[{}]", parts.join(", "))))
            }
            Kind::JsonObject => {
                let (k, v) = (self.types.first().cloned(), self.types.get(1).cloned());
                let (k, v) = (k.unwrap_or(Type::Text), v.unwrap_or(Type::Text));
                let mut parts = Vec::with_capacity(rows.len());
                for row in rows {
                    let mut row = row.into_iter();
                    let (key, value) = (row.next().unwrap_or(Value::Null), row.next().unwrap_or(Value::Null));
                    if key.is_null() {
                        return Err(Error::new(Condition::InvalidParameterValue, "field name must not be null"));
                    }
                    let name = cast::write(&key, &k, Local { zone: &self.zone, now: 0 });
                    parts.push(format!(
                        "{} : {}",
                        super::json::quoted(&name),
                        super::json::of_value(&value, &v, &self.zone)
                    ));
                }
                Ok(Value::Json(format!("{{ {} }}", parts.join(", "))))
            }
            Kind::Variance { deviation, population } => variance(rows, *deviation, *population),
            Kind::Mode => Ok(ordered::mode(rows)),
            Kind::Discrete | Kind::Continuous => ordered::percentile(rows, self.kind == Kind::Continuous),
        }
    }

    fn take(&mut self, arrays: &[ArrayRef]) -> Result<()> {
        let cells =
            arrays.iter().zip(&self.types).map(|(a, t)| Cells::new(a.as_ref(), t)).collect::<Result<Vec<_>>>()?;
        let count = arrays.first().map_or(0, |a| a.len());
        for i in 0..count {
            let row = cells.iter().map(|c| c.value(i)).collect::<Result<Vec<_>>>()?;
            self.add(row)?;
        }
        Ok(())
    }

    fn scalar(&mut self) -> Result<ScalarValue> {
        let value = self.result()?;
        types::scalar(&value, &self.data)
    }

    /// All that was kept, as one list per argument.
    fn lists(&mut self) -> Result<Vec<ScalarValue>> {
        let rows: Vec<Vec<Value>> = match self.keeps() {
            true => self.values.clone(),
            false if self.count == 0 => Vec::new(),
            // The result so far stands for the rows it came from; a second row of
            // Single has failed before.
            false => vec![vec![self.current.clone()]],
        };
        let mut lists = Vec::with_capacity(self.types.len());
        for (i, t) in self.types.iter().enumerate() {
            let column: Vec<Value> = rows.iter().map(|r| r.get(i).cloned().unwrap_or(Value::Null)).collect();
            lists.push(types::scalar(&Value::Array(column), &types::list_of(types::element_type(t)))?);
        }
        Ok(lists)
    }

    fn merge(&mut self, states: &[ArrayRef]) -> Result<()> {
        let list_types: Vec<Type> = self.types.iter().map(|t| Type::Array(Box::new(t.clone()))).collect();
        let cells =
            states.iter().zip(&list_types).map(|(a, t)| Cells::new(a.as_ref(), t)).collect::<Result<Vec<_>>>()?;
        for i in 0..states.first().map_or(0, |a| a.len()) {
            let columns = cells.iter().map(|c| c.list(i)).collect::<Result<Vec<_>>>()?;
            for j in 0..columns.first().map_or(0, Vec::len) {
                self.add(columns.iter().map(|c| c.get(j).cloned().unwrap_or(Value::Null)).collect())?;
            }
        }
        Ok(())
    }
}

fn external(e: Error) -> DataFusionError {
    DataFusionError::External(Box::new(e))
}

impl Accumulator for FoldState {
    fn update_batch(&mut self, values: &[ArrayRef]) -> datafusion::common::Result<()> {
        self.take(values).map_err(external)
    }

    fn evaluate(&mut self) -> datafusion::common::Result<ScalarValue> {
        self.scalar().map_err(external)
    }

    fn size(&self) -> usize {
        size_of::<FoldState>() + self.bytes + self.seen.len() * 32
    }

    fn state(&mut self) -> datafusion::common::Result<Vec<ScalarValue>> {
        if self.is_double_sum() {
            return Ok(vec![self.scalar().map_err(external)?]);
        }
        self.lists().map_err(external)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> datafusion::common::Result<()> {
        if self.is_double_sum() {
            return self.take(states).map_err(external);
        }
        self.merge(states).map_err(external)
    }
}

impl fmt::Debug for FoldState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {} rows", self.kind, self.count)
    }
}

/// A moving frame: its rows are kept, and the result is computed afresh, so that
/// what left the frame leaves no rounding behind.
struct Sliding {
    state: FoldState,
    rows: std::collections::VecDeque<Vec<Value>>,
}

impl Accumulator for Sliding {
    fn update_batch(&mut self, values: &[ArrayRef]) -> datafusion::common::Result<()> {
        let rows = rows_of(values, &self.state.types).map_err(external)?;
        self.rows.extend(rows);
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> datafusion::common::Result<()> {
        let count = values.first().map_or(0, |a| a.len());
        self.rows.drain(..count.min(self.rows.len()));
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> datafusion::common::Result<ScalarValue> {
        self.state.values.clear();
        self.state.seen.clear();
        self.state.current = Value::Null;
        self.state.count = 0;
        for row in &self.rows {
            self.state.add(row.clone()).map_err(external)?;
        }
        self.state.scalar().map_err(external)
    }

    fn size(&self) -> usize {
        self.state.size() + self.rows.len() * 64
    }

    fn state(&mut self) -> datafusion::common::Result<Vec<ScalarValue>> {
        Accumulator::state(&mut self.state)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> datafusion::common::Result<()> {
        self.state.merge_batch(states)
    }
}

impl fmt::Debug for Sliding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sliding {:?}", self.state)
    }
}

fn rows_of(arrays: &[ArrayRef], types: &[Type]) -> Result<Vec<Vec<Value>>> {
    let cells = arrays.iter().zip(types).map(|(a, t)| Cells::new(a.as_ref(), t)).collect::<Result<Vec<_>>>()?;
    let count = arrays.first().map_or(0, |a| a.len());
    (0..count).map(|i| cells.iter().map(|c| c.value(i)).collect()).collect()
}

/// The error of a subquery that gives more than the one row it may.
pub fn too_many_rows() -> Error {
    Error::new(Condition::CardinalityViolation, "more than one row returned by a subquery used as an expression")
}

fn normalized(value: &Value) -> Value {
    match value {
        Value::Numeric(v) => Value::Numeric(v.normalize()),
        other => other.clone(),
    }
}

fn value_bytes(value: &Value) -> usize {
    size_of::<Value>()
        + match value {
            Value::Text(s) | Value::Json(s) => s.len(),
            Value::Bytea(b) => b.len(),
            Value::Array(v) => v.len() * size_of::<Value>(),
            _ => 0,
        }
}

fn sum(total: Value, next: Value) -> Result<Value> {
    let too_large = || Error::new(Condition::NumericValueOutOfRange, "value out of range: overflow");
    Ok(match (total, next) {
        (Value::Null, next) => next,
        (total, Value::Null) => total,
        (Value::Float4(a), Value::Float4(b)) => {
            let sum = a + b;
            if sum.is_infinite() && a.is_finite() && b.is_finite() {
                return Err(too_large());
            }
            Value::Float4(sum)
        }
        (Value::Float8(a), Value::Float8(b)) => {
            let sum = a + b;
            if sum.is_infinite() && a.is_finite() && b.is_finite() {
                return Err(too_large());
            }
            Value::Float8(sum)
        }
        (Value::Numeric(a), Value::Numeric(b)) => {
            Value::Numeric(numeric::add(a, b).ok_or_else(types::numeric_overflow)?)
        }
        (Value::Interval(a), Value::Interval(b)) => Value::Interval(super::datetime::add_intervals(a, b)?),
        _ => return Err(Error::internal("a sum of values of different types")),
    })
}

fn join(rows: Vec<Vec<Value>>) -> Value {
    let mut text = String::new();
    let mut bytes = Vec::new();
    let mut is_bytes = false;
    for (i, row) in rows.into_iter().enumerate() {
        let mut row = row.into_iter();
        let (value, between) = (row.next().unwrap_or(Value::Null), row.next().unwrap_or(Value::Null));
        match (value, between) {
            (Value::Bytea(v), between) => {
                is_bytes = true;
                if let (Value::Bytea(between), true) = (between, i > 0) {
                    bytes.extend_from_slice(&between);
                }
                bytes.extend_from_slice(&v);
            }
            (value, between) => {
                if i > 0 {
                    text.push_str(between.as_str().unwrap_or_default());
                }
                text.push_str(value.as_str().unwrap_or_default());
            }
        }
    }
    if is_bytes { Value::Bytea(bytes.into()) } else { Value::Text(text) }
}

/// `(N Σx² - (Σx)²) / (N (N-1))`, exactly, as PostgreSQL's numeric variance.
fn variance(rows: Vec<Vec<Value>>, deviation: bool, population: bool) -> Result<Value> {
    let numbers: Vec<Decimal> = rows
        .into_iter()
        .filter_map(|r| r.into_iter().next())
        .filter_map(|v| match v {
            Value::Numeric(d) => Some(d),
            other => other.as_i64().map(Decimal::from),
        })
        .collect();
    let n = numbers.len() as i64;
    if n == 0 || (n == 1 && !population) {
        return Ok(Value::Null);
    }
    let overflow = types::numeric_overflow;
    let (mut sum, mut squares) = (Decimal::from(0), Decimal::from(0));
    for d in &numbers {
        sum = numeric::add(sum, *d).ok_or_else(overflow)?;
        squares = numeric::add(squares, numeric::multiply(*d, *d).ok_or_else(overflow)?).ok_or_else(overflow)?;
    }
    let count = Decimal::from(n);
    let above = numeric::multiply(count, squares)
        .and_then(|a| a.checked_sub(numeric::multiply(sum, sum)?))
        .ok_or_else(overflow)?;
    let below = Decimal::from(if population { n } else { n - 1 });
    let below = numeric::multiply(count, below).ok_or_else(overflow)?;
    if above.mantissa() <= 0 {
        return Ok(Value::Numeric(Decimal::from(0)));
    }
    let quotient = numeric::divide(above, below).unwrap_or_default();
    Ok(Value::Numeric(if deviation { super::math::square_root(quotient)? } else { quotient }))
}

impl fmt::Debug for Fold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)
    }
}

impl PartialEq for Fold {
    fn eq(&self, other: &Fold) -> bool {
        self.name == other.name
            && self.kind == other.kind
            && self.order == other.order
            && self.data == other.data
            && self.zone == other.zone
    }
}

impl Eq for Fold {}

impl Hash for Fold {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
        self.kind.hash(state);
    }
}

/// An empty builder of the Arrow type, to know that there is one.
pub fn can_build(data: &DataType) -> bool {
    Builder::new(data, 0).is_ok()
}
