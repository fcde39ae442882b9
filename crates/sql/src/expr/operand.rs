//! Operands whose type is not decided yet.
//!
//! A quoted literal, NULL and a parameter of no stated type take their type from
//! their surroundings: `x + '1'` makes `'1'` a number if x is one.

use datafusion::sql::sqlparser::ast::{Expr as Ast, Value as Literal};
use polity_base::{Decimal, Type, Value};

use super::scope::Scope;
use super::{Local, Node, cast};

/// A part of an expression, as it is being compiled.
#[derive(Clone, Debug)]
pub(super) enum Operand {
    Known(Node, Type),
    Unknown(Unknown),
}

/// What has no type yet.
#[derive(Clone, Debug)]
pub(super) enum Unknown {
    Literal(String),
    Null,
    Parameter(usize),
}

impl Operand {
    /// The type, if it is known.
    pub fn r#type(&self) -> Option<&Type> {
        match self {
            Operand::Known(_, r#type) => Some(r#type),
            Operand::Unknown(_) => None,
        }
    }

    /// Decides for `type` if nothing is decided yet. `None`: a literal that is
    /// not of that type, or a parameter that has another.
    pub fn decided(self, r#type: &Type, scope: &mut Scope<'_>) -> Option<(Node, Type)> {
        match self {
            Operand::Known(node, known) => Some((node, known)),
            Operand::Unknown(unknown) => {
                if let Unknown::Parameter(at) = unknown {
                    scope.parameters.set_inside(at);
                }
                Some((unknown.decided(r#type, scope)?, r#type.clone()))
            }
        }
    }

    /// Text if nothing else decides.
    pub fn or_text(self, scope: &mut Scope<'_>) -> Option<(Node, Type)> {
        self.decided(&Type::Text, scope)
    }
}

impl Unknown {
    /// The same as a value of `type`.
    pub fn decided(self, r#type: &Type, scope: &mut Scope<'_>) -> Option<Node> {
        match self {
            Unknown::Null => Some(Node::Constant(Value::Null)),
            // Depends on the session's time zone, or on the day.
            Unknown::Literal(text) if cast::is_unstable(&text, r#type) => {
                let value = Box::new(Node::Constant(Value::Text(text)));
                Some(Node::Cast { value, to: r#type.clone(), explicit: true })
            }
            Unknown::Literal(text) => cast::parse(&text, r#type, Local::UTC).ok().map(Node::Constant),
            Unknown::Parameter(at) => scope.parameters.infer(at, r#type).then_some(Node::Parameter(at)),
        }
    }
}

/// A literal, or a parameter.
pub(super) fn literal(value: &Literal, scope: &mut Scope<'_>) -> Option<Operand> {
    Some(match value {
        Literal::Null => Operand::Unknown(Unknown::Null),
        Literal::Boolean(b) => Operand::Known(Node::Constant(Value::Bool(*b)), Type::Bool),
        Literal::SingleQuotedString(s) | Literal::EscapedStringLiteral(s) => {
            Operand::Unknown(Unknown::Literal(s.clone()))
        }
        Literal::DollarQuotedString(s) => Operand::Unknown(Unknown::Literal(s.value.clone())),
        Literal::Number(digits, false) => {
            let value = number(digits)?;
            let r#type = type_of(&value)?;
            Operand::Known(Node::Constant(value), r#type)
        }
        Literal::Placeholder(name) => parameter(placeholder(name)?, scope),
        _ => return None,
    })
}

/// A number as PostgreSQL reads it: the smallest of integer, bigint and numeric
/// that holds it.
pub fn number(digits: &str) -> Option<Value> {
    let plain = digits.strip_prefix('-').unwrap_or(digits).bytes().all(|b| b.is_ascii_digit());
    if plain && let Ok(v) = digits.parse::<i64>() {
        return Some(i32::try_from(v).map_or(Value::Int8(v), Value::Int4));
    }
    digits.parse::<Decimal>().ok().map(Value::Numeric)
}

/// The place of `$1`, counted from 0.
pub fn placeholder(name: &str) -> Option<usize> {
    let number: usize = name.strip_prefix('$')?.parse().ok()?;
    number.checked_sub(1).filter(|n| *n < 65_535)
}

/// The parameter an expression is, counted from 0, when it is nothing more.
pub fn bare_parameter(ast: &Ast) -> Option<usize> {
    match ast {
        Ast::Nested(inner) => bare_parameter(inner),
        Ast::Value(v) => match &v.value {
            Literal::Placeholder(name) => placeholder(name),
            _ => None,
        },
        _ => None,
    }
}

/// Whether an expression is a quoted literal, NULL or a parameter, and so takes
/// its type from where it stands.
pub fn is_untyped(ast: &Ast) -> bool {
    match ast {
        Ast::Nested(inner) => is_untyped(inner),
        Ast::Value(v) => matches!(
            v.value,
            Literal::Null
                | Literal::SingleQuotedString(_)
                | Literal::EscapedStringLiteral(_)
                | Literal::DollarQuotedString(_)
                | Literal::Placeholder(_)
        ),
        _ => false,
    }
}

fn parameter(at: usize, scope: &mut Scope<'_>) -> Operand {
    match scope.parameters.r#type(at).cloned() {
        Some(r#type) => Operand::Known(Node::Parameter(at), r#type),
        None => Operand::Unknown(Unknown::Parameter(at)),
    }
}

/// The type a value has by itself; `None` for NULL and arrays.
pub fn type_of(value: &Value) -> Option<Type> {
    Some(match value {
        Value::Null | Value::Array(_) => return None,
        Value::Bool(_) => Type::Bool,
        Value::Int2(_) => Type::Int2,
        Value::Int4(_) => Type::Int4,
        Value::Int8(_) => Type::Int8,
        Value::Oid(_) => Type::Oid,
        Value::Float4(_) => Type::Float4,
        Value::Float8(_) => Type::Float8,
        Value::Numeric(_) => Type::Numeric(None),
        Value::Text(_) => Type::Text,
        Value::Json(_) => Type::Json,
        Value::Bytea(_) => Type::Bytea,
        Value::Date(_) => Type::Date,
        Value::Time(_) => Type::Time,
        Value::Timestamp(_) => Type::Timestamp,
        Value::TimestampTz(_) => Type::TimestampTz,
        Value::Interval(_) => Type::Interval,
        Value::Uuid(_) => Type::Uuid,
    })
}
