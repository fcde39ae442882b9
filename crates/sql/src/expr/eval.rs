//! Evaluation.

use std::borrow::Cow;

use polity_base::seams::{Entropy, unique_id};
use polity_base::{Type, Value};

use super::{Expr, Function, Local, Node, arithmetic, cast, like};
use crate::error::{Error, Result};
use crate::session::Context;

/// What an expression is evaluated over.
#[derive(Clone, Copy)]
pub struct Env<'a> {
    /// The row
    pub columns: &'a [Value],
    /// The statement's parameters
    pub parameters: &'a [Value],
    /// The session's time
    pub local: Local<'a>,
    /// For `gen_random_uuid()`
    pub entropy: &'a dyn Entropy,
    /// Values drawn of [`Expr::sequences`]
    pub drawn: &'a [i64],
}

impl<'a> Env<'a> {
    /// What a statement that runs in `ctx` evaluates over, without a row yet.
    pub fn of(ctx: &'a Context<'_>, parameters: &'a [Value]) -> Env<'a> {
        Env {
            columns: &[],
            parameters,
            local: Local::of(ctx),
            entropy: ctx.engine.seams().entropy.as_ref(),
            drawn: &[],
        }
    }

    /// The same with this row.
    pub fn row(self, columns: &'a [Value]) -> Env<'a> {
        Env { columns, ..self }
    }

    /// The same with these values drawn of sequences.
    pub fn drawn(self, drawn: &'a [i64]) -> Env<'a> {
        Env { drawn, ..self }
    }
}

impl Expr {
    /// The value over `env`.
    pub fn eval(&self, env: &Env<'_>) -> Result<Value> {
        self.node.eval(env).map(Cow::into_owned)
    }

    /// Whether the value is true, not false and not NULL.
    pub fn is_true(&self, env: &Env<'_>) -> Result<bool> {
        Ok(truth(&*self.node.eval(env)?) == Some(true))
    }

    /// Whether the value is false: what a CHECK constraint refuses.
    pub fn is_false(&self, env: &Env<'_>) -> Result<bool> {
        Ok(truth(&*self.node.eval(env)?) == Some(false))
    }
}

fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(b) => Some(*b),
        _ => None,
    }
}

fn owned<'a>(value: Value) -> Cow<'a, Value> {
    Cow::Owned(value)
}

fn boolean<'a>(value: bool) -> Cow<'a, Value> {
    Cow::Owned(Value::Bool(value))
}

const NULL: Value = Value::Null;

fn null<'a>() -> Cow<'a, Value> {
    Cow::Borrowed(&NULL)
}

impl Node {
    pub(super) fn eval<'a>(&'a self, env: &Env<'a>) -> Result<Cow<'a, Value>> {
        Ok(match self {
            Node::Constant(value) => Cow::Borrowed(value),
            Node::Column(at) => Cow::Borrowed(env.columns.get(*at).ok_or_else(|| missing("column", *at))?),
            Node::Parameter(at) => Cow::Borrowed(env.parameters.get(*at).ok_or_else(|| missing("parameter", *at))?),
            Node::Arithmetic(operator, kind, sides) => match both(sides, env)? {
                Some((a, b)) => owned(arithmetic::compute(*operator, *kind, &a, &b)?),
                None => null(),
            },
            Node::Compare(comparison, sides) => match both(sides, env)? {
                Some((a, b)) => boolean(comparison.holds(order(&a, &b)?)),
                None => null(),
            },
            Node::And(all) => return logical(all, env, false),
            Node::Or(all) => return logical(all, env, true),
            Node::Not(value) => match truth(&*value.eval(env)?) {
                Some(b) => boolean(!b),
                None => null(),
            },
            Node::IsNull { negated, value } => boolean(value.eval(env)?.is_null() != *negated),
            Node::Is { what, negated, value } => boolean((truth(&*value.eval(env)?) == *what) != *negated),
            Node::Negate(kind, value) => {
                let value = value.eval(env)?;
                if value.is_null() { value } else { owned(arithmetic::negate(*kind, &value)?) }
            }
            Node::Concat(sides) => match both(sides, env)? {
                Some((a, b)) => owned(Value::Text(format!("{}{}", text(&a)?, text(&b)?))),
                None => null(),
            },
            Node::Cast { value, to, explicit } => {
                owned(cast::convert(value.eval(env)?.into_owned(), to, *explicit, env.local)?)
            }
            Node::Drawn(at) => owned(Value::Int8(*env.drawn.get(*at).ok_or_else(|| missing("sequence value", *at))?)),
            Node::Now => owned(Value::TimestampTz(env.local.now)),
            Node::LocalNow => {
                owned(cast::convert(Value::TimestampTz(env.local.now), &Type::Timestamp, false, env.local)?)
            }
            Node::Today => owned(cast::convert(Value::TimestampTz(env.local.now), &Type::Date, false, env.local)?),
            Node::RandomUuid => owned(Value::Uuid(random_uuid(env.entropy))),
            rare => return rare.eval_rare(env),
        })
    }

    fn eval_rare<'a>(&'a self, env: &Env<'a>) -> Result<Cow<'a, Value>> {
        Ok(match self {
            Node::Distinct { negated, sides } => {
                let (a, b) = (sides[0].eval(env)?, sides[1].eval(env)?);
                let distinct = match (a.is_null(), b.is_null()) {
                    (true, true) => false,
                    (false, false) => order(&a, &b)?.is_ne(),
                    _ => true,
                };
                boolean(distinct != *negated)
            }
            Node::InList { negated, value, list } => {
                let value = value.eval(env)?;
                let mut unknown = value.is_null();
                for item in list {
                    let item = item.eval(env)?;
                    if value.is_null() || item.is_null() {
                        unknown = true;
                    } else if order(&value, &item)?.is_eq() {
                        return Ok(boolean(!*negated));
                    }
                }
                if unknown { null() } else { boolean(*negated) }
            }
            Node::Like { negated, insensitive, escape, sides } => match both(sides, env)? {
                Some((a, b)) if *insensitive => {
                    let (a, b) = (lower(text(&a)?), lower(text(&b)?));
                    boolean(like::matches(&a, &b, *escape)? != *negated)
                }
                Some((a, b)) => boolean(like::matches(text(&a)?, text(&b)?, *escape)? != *negated),
                None => null(),
            },
            Node::Case { branches, otherwise } => {
                for (when, then) in branches {
                    if truth(&*when.eval(env)?) == Some(true) {
                        return then.eval(env);
                    }
                }
                return otherwise.eval(env);
            }
            Node::Coalesce(all) => {
                for value in all {
                    let value = value.eval(env)?;
                    if !value.is_null() {
                        return Ok(value);
                    }
                }
                null()
            }
            Node::NullIf(sides) => {
                let (a, b) = (sides[0].eval(env)?, sides[1].eval(env)?);
                let equal = !a.is_null() && !b.is_null() && order(&a, &b)?.is_eq();
                if equal { null() } else { a }
            }
            Node::Call(function, argument) => {
                let argument = argument.eval(env)?;
                if argument.is_null() { argument } else { owned(call(*function, &argument)?) }
            }
            other => return Err(Error::internal(format!("cannot evaluate {other:?}"))),
        })
    }
}

fn missing(what: &str, at: usize) -> Error {
    Error::internal(format!("there is no {what} {at}"))
}

/// Both values, unless one is NULL.
#[inline]
fn both<'a>(sides: &'a [Node; 2], env: &Env<'a>) -> Result<Option<(Cow<'a, Value>, Cow<'a, Value>)>> {
    let a = sides[0].eval(env)?;
    let b = sides[1].eval(env)?;
    Ok(if a.is_null() || b.is_null() { None } else { Some((a, b)) })
}

/// AND (`decisive` is false) and OR (`decisive` is true) in three-valued logic.
fn logical<'a>(all: &'a [Node], env: &Env<'a>, decisive: bool) -> Result<Cow<'a, Value>> {
    let mut unknown = false;
    for condition in all {
        match truth(&*condition.eval(env)?) {
            Some(b) if b == decisive => return Ok(boolean(decisive)),
            Some(_) => {}
            None => unknown = true,
        }
    }
    Ok(if unknown { null() } else { boolean(!decisive) })
}

fn order(a: &Value, b: &Value) -> Result<std::cmp::Ordering> {
    a.compare(b).ok_or_else(|| Error::internal(format!("cannot compare {a:?} and {b:?}")))
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().ok_or_else(|| Error::internal(format!("{value:?} is not text")))
}

fn call(function: Function, argument: &Value) -> Result<Value> {
    let length = |n: usize| Value::Int4(i32::try_from(n).unwrap_or(i32::MAX));
    Ok(match function {
        Function::Lower => Value::Text(lower(text(argument)?)),
        Function::Upper => Value::Text(upper(text(argument)?)),
        Function::Length => length(text(argument)?.chars().count()),
        Function::OctetLength => match argument {
            Value::Bytea(bytes) => length(bytes.len()),
            other => length(text(other)?.len()),
        },
        Function::Abs(kind) => arithmetic::abs(kind, argument)?,
    })
}

/// Each character's lower case, where that is one character (PostgreSQL's
/// `towlower`).
pub fn lower(text: &str) -> String {
    text.chars().map(|c| single(c, c.to_lowercase())).collect()
}

/// Each character's upper case, where that is one character.
pub fn upper(text: &str) -> String {
    text.chars().map(|c| single(c, c.to_uppercase())).collect()
}

fn single(c: char, mut changed: impl Iterator<Item = char>) -> char {
    match (changed.next(), changed.next()) {
        (Some(one), None) => one,
        _ => c,
    }
}

/// A random UUID, version 4 (RFC 4122, section 4.4).
fn random_uuid(entropy: &dyn Entropy) -> u128 {
    let random = unique_id(entropy);
    (random & !(0xF << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62)
}
