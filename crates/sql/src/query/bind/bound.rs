//! Expressions with their SQL types.

use datafusion::arrow::datatypes::DataType;
use datafusion::logical_expr::Expr;
use polity_base::{Type, Value};

use crate::query::types;

/// A bound expression.
#[derive(Clone, Debug)]
pub struct Bound {
    /// What DataFusion computes
    pub expr: Expr,
    /// Its SQL type
    pub r#type: Type,
    /// Its Arrow type
    pub data: DataType,
    /// What else is known about it
    pub form: Form,
    /// What the number names, for `regtype` and its kin (which are all
    /// [`Type::Regclass`])
    pub names: Names,
}

/// What is known about an expression beyond its type.
#[derive(Clone, Debug)]
pub enum Form {
    /// Nothing
    Plain,
    /// A quoted literal that has no type yet
    Text(String),
    /// NULL, without a type yet
    Null,
    /// A parameter that has no type yet, counted from 0
    Parameter(usize),
    /// A constant
    Constant(Value),
    /// `(a, b)` or `ROW(a, b)`
    Row(Vec<Bound>),
}

/// What an object identifier names, or how an array is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Names {
    /// Tables, indexes and the like
    #[default]
    Relation,
    /// Types
    Type,
    /// Functions
    Function,
    /// Schemas
    Schema,
    /// Roles
    Role,
    /// Nothing: an array is written `1 2`, as PostgreSQL's `int2vector` and `oidvector`
    Vector,
}

impl Bound {
    /// Whether it is an array that is written `1 2`.
    pub fn is_vector(&self) -> bool {
        self.names == Names::Vector && matches!(self.r#type, Type::Array(_))
    }

    /// An expression of `r#type` in its usual form.
    pub fn new(expr: Expr, r#type: Type) -> Bound {
        let data = types::data_type(&r#type);
        Bound { expr, r#type, data, form: Form::Plain, names: Names::Relation }
    }

    /// An expression whose Arrow type is not the usual one.
    pub fn with_data(expr: Expr, r#type: Type, data: DataType) -> Bound {
        Bound { expr, r#type, data, form: Form::Plain, names: Names::Relation }
    }

    /// Whether it is a literal, NULL or parameter whose type is still open.
    pub fn is_open(&self) -> bool {
        matches!(self.form, Form::Text(_) | Form::Null | Form::Parameter(_))
    }

    /// The constant it is, if it is one.
    pub fn constant(&self) -> Option<&Value> {
        match &self.form {
            Form::Constant(value) => Some(value),
            _ => None,
        }
    }

    /// Whether it is a numeric whose scale is known.
    pub fn fixed_scale(&self) -> Option<u8> {
        match self.data {
            DataType::Decimal128(_, scale) => u8::try_from(scale).ok(),
            _ => None,
        }
    }
}
