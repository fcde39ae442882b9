//! Scalar functions as DataFusion runs them.
//!
//! A [`Kernel`] is one function for one list of argument types, which the binder
//! has chosen: there is nothing left to coerce. Most are written row by row over
//! [`Args`], where reading an argument costs a branch; the few that matter for
//! speed take whole arrays.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Datum};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use polity_base::{Decimal, Interval, Type, Value};

use crate::error::Result;
use crate::query::types::{Builder, Cells};

/// Computes one row.
pub type RowFn = Arc<dyn Fn(&Args<'_>, &mut Builder) -> Result<()> + Send + Sync>;
/// Computes a batch.
pub type BatchFn = Arc<dyn Fn(&[ArrayRef], usize) -> Result<ArrayRef> + Send + Sync>;

/// Computes a batch of two arrays, either of which may be a constant.
pub type PairFn = Arc<dyn Fn(&dyn Datum, &dyn Datum) -> Result<ArrayRef> + Send + Sync>;

/// How a kernel computes.
#[derive(Clone)]
pub enum Eval {
    /// Row by row; `true`: NULL in, NULL out
    Row(RowFn, bool),
    /// Whole arrays of one length
    Batch(BatchFn),
    /// Two whole arrays or constants
    Pair(PairFn),
}

/// One scalar function for one list of argument types.
pub struct Kernel {
    /// Tells it from all others: what it does, and with which constants
    name: String,
    returns: DataType,
    eval: Eval,
    signature: Signature,
}

impl Kernel {
    /// A call of the function.
    pub fn call(
        name: impl Into<String>,
        returns: DataType,
        volatility: Volatility,
        eval: Eval,
        args: Vec<Expr>,
    ) -> Expr {
        let signature = Signature::new(TypeSignature::UserDefined, volatility);
        let kernel = Kernel { name: name.into(), returns, eval, signature };
        Expr::ScalarFunction(datafusion::logical_expr::expr::ScalarFunction::new_udf(
            Arc::new(ScalarUDF::new_from_impl(kernel)),
            args,
        ))
    }

    /// A call of a strict function without side effects, computed row by row.
    pub fn strict(
        name: impl Into<String>,
        returns: DataType,
        row: impl Fn(&Args<'_>, &mut Builder) -> Result<()> + Send + Sync + 'static,
        args: Vec<Expr>,
    ) -> Expr {
        Kernel::call(name, returns, Volatility::Immutable, Eval::Row(Arc::new(row), true), args)
    }

    /// A call of a function that sees NULLs, without side effects, computed row
    /// by row.
    pub fn lenient(
        name: impl Into<String>,
        returns: DataType,
        row: impl Fn(&Args<'_>, &mut Builder) -> Result<()> + Send + Sync + 'static,
        args: Vec<Expr>,
    ) -> Expr {
        Kernel::call(name, returns, Volatility::Immutable, Eval::Row(Arc::new(row), false), args)
    }

    /// A call of a function without side effects over whole arrays.
    pub fn batch(
        name: impl Into<String>,
        returns: DataType,
        batch: impl Fn(&[ArrayRef], usize) -> Result<ArrayRef> + Send + Sync + 'static,
        args: Vec<Expr>,
    ) -> Expr {
        Kernel::call(name, returns, Volatility::Immutable, Eval::Batch(Arc::new(batch)), args)
    }

    /// A call of a function without side effects over two whole arrays or
    /// constants.
    pub fn pair(
        name: impl Into<String>,
        returns: DataType,
        pair: impl Fn(&dyn Datum, &dyn Datum) -> Result<ArrayRef> + Send + Sync + 'static,
        args: Vec<Expr>,
    ) -> Expr {
        Kernel::call(name, returns, Volatility::Immutable, Eval::Pair(Arc::new(pair)), args)
    }

    fn rows(&self, row: &RowFn, strict: bool, arrays: &[(ArrayRef, bool)], count: usize) -> Result<ArrayRef> {
        let mut cells = Vec::with_capacity(arrays.len());
        for (array, constant) in arrays {
            cells.push((Cells::new(array.as_ref(), &Type::Text)?, *constant));
        }
        let mut args = Args { cells, row: 0 };
        let mut out = Builder::new(&self.returns, count)?;
        for i in 0..count {
            args.row = i;
            if strict && (0..args.len()).any(|k| args.is_null(k)) {
                out.null();
            } else {
                row(&args, &mut out)?;
            }
        }
        out.finish()
    }
}

/// The arguments of one row.
pub struct Args<'a> {
    cells: Vec<(Cells<'a>, bool)>,
    row: usize,
}

impl<'a> Args<'a> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    fn at(&self, k: usize) -> (&Cells<'a>, usize) {
        let (cells, constant) = &self.cells[k];
        (cells, if *constant { 0 } else { self.row })
    }

    /// Whether argument `k` is NULL.
    pub fn is_null(&self, k: usize) -> bool {
        let (cells, i) = self.at(k);
        cells.is_null(i)
    }

    /// Argument `k`, a text.
    pub fn text(&self, k: usize) -> Result<&'a str> {
        let (cells, i) = self.at(k);
        cells.text(i)
    }

    /// Argument `k`, bytes.
    pub fn bytes(&self, k: usize) -> Result<&'a [u8]> {
        let (cells, i) = self.at(k);
        cells.bytes(i)
    }

    /// Argument `k`, a truth value.
    pub fn bool(&self, k: usize) -> Result<bool> {
        let (cells, i) = self.at(k);
        cells.bool(i)
    }

    /// Argument `k`, a whole number, date or time.
    pub fn int(&self, k: usize) -> Result<i64> {
        let (cells, i) = self.at(k);
        cells.int(i)
    }

    /// Argument `k`, any number as a double.
    pub fn float(&self, k: usize) -> Result<f64> {
        let (cells, i) = self.at(k);
        cells.float(i)
    }

    /// Argument `k`, any exact number.
    pub fn numeric(&self, k: usize) -> Result<Decimal> {
        let (cells, i) = self.at(k);
        cells.numeric(i)
    }

    /// Argument `k`, an interval.
    pub fn interval(&self, k: usize) -> Result<Interval> {
        let (cells, i) = self.at(k);
        cells.interval(i)
    }

    /// The elements of argument `k`, an array.
    pub fn list(&self, k: usize) -> Result<Vec<Value>> {
        let (cells, i) = self.at(k);
        cells.list(i)
    }

    /// Argument `k`, whatever it is.
    pub fn value(&self, k: usize) -> Result<Value> {
        let (cells, i) = self.at(k);
        cells.value(i)
    }
}

impl ScalarUDFImpl for Kernel {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> datafusion::common::Result<DataType> {
        Ok(self.returns.clone())
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> datafusion::common::Result<Vec<DataType>> {
        Ok(arg_types.to_vec())
    }

    fn is_strict(&self) -> bool {
        matches!(self.eval, Eval::Row(_, true))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> datafusion::common::Result<ColumnarValue> {
        let volatile = self.signature.volatility == Volatility::Volatile;
        let all_constant = !volatile && args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let count = if all_constant { 1 } else { args.number_rows };
        let result = match &self.eval {
            Eval::Row(row, strict) => {
                let mut arrays = Vec::with_capacity(args.args.len());
                for arg in &args.args {
                    arrays.push(match arg {
                        ColumnarValue::Array(array) => (array.clone(), false),
                        ColumnarValue::Scalar(scalar) => (scalar.to_array_of_size(1)?, true),
                    });
                }
                self.rows(row, *strict, &arrays, count)
            }
            Eval::Batch(batch) => {
                let mut arrays = Vec::with_capacity(args.args.len());
                for arg in &args.args {
                    arrays.push(arg.to_array(count)?);
                }
                batch(&arrays, count)
            }
            Eval::Pair(pair) => {
                let [a, b] = args.args.as_slice() else {
                    return Err(DataFusionError::Internal("a kernel of two arguments has two".to_owned()));
                };
                match (a, b) {
                    (ColumnarValue::Array(a), ColumnarValue::Array(b)) => pair(a, b),
                    (ColumnarValue::Scalar(a), ColumnarValue::Array(b)) => pair(&a.to_scalar()?, b),
                    (ColumnarValue::Array(a), ColumnarValue::Scalar(b)) => pair(a, &b.to_scalar()?),
                    (ColumnarValue::Scalar(a), ColumnarValue::Scalar(b)) => {
                        pair(&a.to_array_of_size(count)?, &b.to_array_of_size(count)?)
                    }
                }
            }
        };
        let array = result.map_err(|e| DataFusionError::External(Box::new(e)))?;
        if all_constant {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?));
        }
        Ok(ColumnarValue::Array(array))
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)
    }
}

impl PartialEq for Kernel {
    fn eq(&self, other: &Kernel) -> bool {
        self.name == other.name && self.returns == other.returns
    }
}

impl Eq for Kernel {}

impl Hash for Kernel {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}
