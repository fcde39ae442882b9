//! The functions there are, by name.

use std::collections::HashMap;
use std::sync::OnceLock;

use polity_base::Type;

use super::kernel::Args;
use crate::error::Result;
use crate::query::bind::Binder;
use crate::query::bind::bound::Bound;
use crate::query::types::Builder;

/// The type of an argument or result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the names are the types'
pub enum Ty {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Numeric,
    Text,
    Name,
    Bytea,
    Date,
    Time,
    Timestamp,
    TimestampTz,
    Interval,
    Uuid,
    Json,
    Jsonb,
    Oid,
    TextArray,
    /// Anything
    Any,
    /// Anything, the same in all places
    Element,
    /// An array of that
    AnyArray,
}

impl Ty {
    /// The type, unless it depends on the arguments.
    pub fn r#type(self) -> Option<Type> {
        Some(match self {
            Ty::Bool => Type::Bool,
            Ty::Int2 => Type::Int2,
            Ty::Int4 => Type::Int4,
            Ty::Int8 => Type::Int8,
            Ty::Float4 => Type::Float4,
            Ty::Float8 => Type::Float8,
            Ty::Numeric => Type::Numeric(None),
            Ty::Text => Type::Text,
            Ty::Name => Type::Name,
            Ty::Bytea => Type::Bytea,
            Ty::Date => Type::Date,
            Ty::Time => Type::Time,
            Ty::Timestamp => Type::Timestamp,
            Ty::TimestampTz => Type::TimestampTz,
            Ty::Interval => Type::Interval,
            Ty::Uuid => Type::Uuid,
            Ty::Json => Type::Json,
            Ty::Jsonb => Type::Jsonb,
            Ty::Oid => Type::Oid,
            Ty::TextArray => Type::Array(Box::new(Type::Text)),
            Ty::Any | Ty::Element | Ty::AnyArray => return None,
        })
    }
}

/// How a function computes.
#[derive(Clone, Copy)]
pub enum Body {
    /// Row by row; NULL in, NULL out
    Strict(fn(&Args<'_>, &mut Builder) -> Result<()>),
    /// Row by row, NULLs included
    Lenient(fn(&Args<'_>, &mut Builder) -> Result<()>),
    /// Row by row, afresh each time
    Volatile(fn(&Args<'_>, &mut Builder) -> Result<()>),
    /// Row by row, in the session's time zone; NULL in, NULL out
    Zoned(fn(&Args<'_>, &mut Builder, &str) -> Result<()>),
    /// Makes the expression itself
    Bind(fn(&Binder<'_>, Vec<Bound>) -> Result<Bound>),
}

/// A function for one list of argument types.
pub struct Function {
    /// Its name
    pub name: &'static str,
    /// What it takes
    pub args: &'static [Ty],
    /// Whether the last argument may be repeated, or left out
    pub variadic: bool,
    /// What it gives
    pub returns: Ty,
    /// How
    pub body: Body,
}

impl Function {
    /// Whether it takes so many arguments.
    pub fn takes(&self, count: usize) -> bool {
        count == self.args.len() || (self.variadic && count + 1 >= self.args.len())
    }

    /// The type of argument `i`.
    pub fn argument(&self, i: usize) -> Ty {
        self.args.get(i).or(self.args.last()).copied().unwrap_or(Ty::Any)
    }
}

/// A function: `strict("name", args, result, |a, out| …)`.
pub const fn strict(
    name: &'static str,
    args: &'static [Ty],
    returns: Ty,
    row: fn(&Args<'_>, &mut Builder) -> Result<()>,
) -> Function {
    Function { name, args, variadic: false, returns, body: Body::Strict(row) }
}

/// The same, seeing NULLs.
pub const fn lenient(
    name: &'static str,
    args: &'static [Ty],
    returns: Ty,
    row: fn(&Args<'_>, &mut Builder) -> Result<()>,
) -> Function {
    Function { name, args, variadic: false, returns, body: Body::Lenient(row) }
}

/// The same, in the session's time zone.
pub const fn zoned(
    name: &'static str,
    args: &'static [Ty],
    returns: Ty,
    row: fn(&Args<'_>, &mut Builder, &str) -> Result<()>,
) -> Function {
    Function { name, args, variadic: false, returns, body: Body::Zoned(row) }
}

/// The same, computed afresh each time.
pub const fn volatile(
    name: &'static str,
    args: &'static [Ty],
    returns: Ty,
    row: fn(&Args<'_>, &mut Builder) -> Result<()>,
) -> Function {
    Function { name, args, variadic: false, returns, body: Body::Volatile(row) }
}

/// A function that makes its own expression.
pub const fn bind(
    name: &'static str,
    args: &'static [Ty],
    returns: Ty,
    make: fn(&Binder<'_>, Vec<Bound>) -> Result<Bound>,
) -> Function {
    Function { name, args, variadic: false, returns, body: Body::Bind(make) }
}

/// The function with its last argument repeatable.
pub const fn variadic(function: Function) -> Function {
    Function { variadic: true, ..function }
}

fn all() -> impl Iterator<Item = &'static Function> {
    [
        super::text::FUNCTIONS,
        super::math::FUNCTIONS,
        super::datetime::FUNCTIONS,
        super::format::FUNCTIONS,
        super::pattern::FUNCTIONS,
        super::array::FUNCTIONS,
        super::json::FUNCTIONS,
    ]
    .into_iter()
    .flatten()
}

/// The functions of this name.
pub fn named(name: &str) -> impl Iterator<Item = &'static Function> {
    static BY_NAME: OnceLock<HashMap<&'static str, Vec<&'static Function>>> = OnceLock::new();
    let by_name = BY_NAME.get_or_init(|| {
        let mut map: HashMap<&'static str, Vec<&'static Function>> = HashMap::new();
        for function in all() {
            map.entry(function.name).or_default().push(function);
        }
        map
    });
    by_name.get(name).into_iter().flatten().copied()
}
