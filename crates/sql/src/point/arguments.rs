//! Parameters, converted to what a plan wants.
//!
//! A parameter whose type the client has stated (or was told) arrives as a value
//! of it. One that is a literal lifted out of a text arrives as the literal:
//! text for a quoted one, integer, bigint or numeric for a number. Then
//! PostgreSQL's rules for literals hold:
//!
//! - a quoted literal is of whatever type is wanted;
//! - a number that is assigned converts as an assignment does;
//! - a number that is compared with a key column is compared as a number: one
//!   that no key can equal finds nothing;
//! - a number within an expression has its own type, and the plan was made for
//!   another: only where the result is the same can it be converted.

use std::borrow::Cow;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr as Ast, Statement, visit_expressions_mut};
use polity_base::{Type, Value};

use crate::error::Result;
use crate::expr::cast::{self, Context};
use crate::expr::compile::to_ast;
use crate::expr::operand::{bare_parameter, type_of};
use crate::expr::{Local, Parameters};

/// Where parameters stand alone.
#[derive(Default)]
pub struct Uses {
    /// Compared with a key column
    pub keys: Vec<usize>,
    /// Assigned to a column
    pub assigned: Vec<usize>,
}

impl Uses {
    /// Notes that `ast` is assigned to a column as a whole, if it is a parameter
    /// of no stated type.
    pub fn assigns(&mut self, ast: &Ast, parameters: &mut Parameters) {
        if let Some(at) = bare_parameter(ast)
            && parameters.r#type(at).is_none()
        {
            self.assigned.push(at);
        }
    }
}

/// The parameters of a plan.
pub struct Arguments {
    types: Vec<Type>,
    how: Vec<How>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    /// The type was stated
    Stated,
    Key,
    Assigned,
    Inside,
}

impl Arguments {
    /// The parameters of a plan that was just compiled. `None`: the type of one
    /// is not known.
    pub fn new(parameters: &Parameters, declared: &[Option<Type>], uses: &Uses) -> Option<Arguments> {
        let types = parameters.known()?;
        let how = (0..types.len())
            .map(|at| {
                let stated = declared.get(at).is_some_and(|t| t.as_ref().is_some_and(|t| *t != Type::Unknown));
                let (key, assigned) = (uses.keys.contains(&at), uses.assigned.contains(&at));
                match (stated, parameters.is_inside(at), key, assigned) {
                    (true, ..) => How::Stated,
                    (false, false, true, false) => How::Key,
                    (false, false, false, true) => How::Assigned,
                    _ => How::Inside,
                }
            })
            .collect();
        Some(Arguments { types, how })
    }

    /// Their types.
    pub fn types(&self) -> &[Type] {
        &self.types
    }

    /// The values as the plan wants them. `None`: they mean something else than
    /// what the plan was made for.
    pub fn convert<'v>(&self, values: &'v [Value], local: Local<'_>) -> Result<Option<Cow<'v, [Value]>>> {
        let fits = |(value, r#type): (&Value, &Type)| is_of(value, r#type);
        if values.iter().zip(&self.types).all(fits) {
            return Ok(Some(Cow::Borrowed(values)));
        }
        let mut converted = Vec::with_capacity(values.len());
        for ((value, to), how) in values.iter().zip(&self.types).zip(&self.how) {
            if is_of(value, to) {
                converted.push(value.clone());
                continue;
            }
            if let (Value::Text(text), Type::Char(_)) = (value, to) {
                converted.push(Value::Text(text.trim_end_matches(' ').to_owned()));
                continue;
            }
            let Some(from) = type_of(value) else { return Ok(None) };
            let takes = match how {
                How::Stated => cast::context(&from, to).is_some_and(|c| c < Context::Explicit) || from == Type::Text,
                // A quoted literal is of any type.
                _ if from == Type::Text => true,
                How::Assigned => cast::context(&from, to).is_some_and(|c| c < Context::Explicit),
                How::Key if cast::is_key_comparable(to, &from) => {
                    converted.push(value.clone());
                    continue;
                }
                How::Key => false,
                How::Inside => means_the_same(&from, to),
            };
            if !takes {
                return Ok(None);
            }
            converted.push(cast::convert(value.clone(), to, false, local)?);
        }
        Ok(Some(Cow::Owned(converted)))
    }
}

/// Whether a value is one of `type` as it is.
fn is_of(value: &Value, r#type: &Type) -> bool {
    match (value, r#type) {
        (Value::Null, _) => true,
        (Value::Int4(_), Type::Int4)
        | (Value::Int8(_), Type::Int8)
        | (Value::Int2(_), Type::Int2)
        | (Value::Numeric(_), Type::Numeric(_))
        | (Value::Json(_), Type::Json | Type::Jsonb)
        | (Value::Oid(_), Type::Oid | Type::Regclass)
        | (Value::Array(_), Type::Array(_)) => true,
        // A padded char(n) is kept without its padding.
        (Value::Text(text), Type::Char(_)) => !text.ends_with(' '),
        (Value::Text(_), t) => t.is_text(),
        (value, t) => type_of(value).as_ref() == Some(t),
    }
}

/// Whether a number of type `from` may stand where one of type `to` was meant:
/// operators give the same results of the same type.
fn means_the_same(from: &Type, to: &Type) -> bool {
    matches!(
        (from, to),
        (Type::Int4, Type::Int8 | Type::Numeric(_) | Type::Float8)
            | (Type::Int8, Type::Numeric(_) | Type::Float8)
            | (Type::Numeric(_), Type::Float8)
    )
}

/// The statement with values in place of its parameters.
pub fn put_back(statement: &Statement, values: &[Value]) -> Option<Statement> {
    let mut statement = statement.clone();
    let done = visit_expressions_mut(&mut statement, |e| {
        let parameter = match e {
            Ast::Value(_) => bare_parameter(e),
            _ => None,
        };
        let Some(at) = parameter else { return ControlFlow::Continue(()) };
        match values.get(at).and_then(to_ast) {
            Some(literal) => {
                *e = literal;
                ControlFlow::Continue(())
            }
            None => ControlFlow::Break(()),
        }
    });
    done.is_continue().then_some(statement)
}
