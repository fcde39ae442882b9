//! Constants.

use datafusion::sql::sqlparser::ast;
use polity_base::{Decimal, Type, Value};

use super::bound::{Bound, Form};
use super::coerce;
use super::scope::Level;
use super::{Binder, at};
use crate::error::{Condition, Error, Result};

impl Binder<'_> {
    /// A literal.
    pub fn value(&self, level: &Level<'_>, value: &ast::ValueWithSpan) -> Result<Bound> {
        let _ = level;
        match &value.value {
            ast::Value::Number(text, _) => number(text).map_err(|e| at(e, value.span)),
            ast::Value::Boolean(v) => coerce::literal(&Value::Bool(*v), &Type::Bool),
            ast::Value::Null => Ok(open_null()),
            ast::Value::Placeholder(name) => self.placeholder(name).map_err(|e| at(e, value.span)),
            ast::Value::DollarQuotedString(s) => Ok(open_text(&s.value)),
            ast::Value::SingleQuotedString(s)
            | ast::Value::EscapedStringLiteral(s)
            | ast::Value::UnicodeStringLiteral(s)
            | ast::Value::NationalStringLiteral(s) => Ok(open_text(s)),
            ast::Value::HexStringLiteral(_) => Err(Error::unsupported("a bit string").hint("Write bytea as '\\x…'.")),
            other => Err(Error::new(Condition::SyntaxError, format!("syntax error at or near \"{other}\""))),
        }
    }

    /// `$n`.
    fn placeholder(&self, name: &str) -> Result<Bound> {
        let n = name.strip_prefix('$').and_then(|n| n.parse::<usize>().ok()).filter(|n| (1..=65_535).contains(n));
        let Some(n) = n else {
            return Err(Error::new(Condition::UndefinedParameter, format!("there is no parameter {name}")));
        };
        let mut parameters = self.parameters.borrow_mut();
        if parameters.len() < n {
            parameters.resize(n, None);
        }
        match parameters.get(n - 1) {
            Some(Some(known)) => Ok(coerce::parameter(n - 1, known)),
            _ => {
                let open = coerce::parameter(n - 1, &Type::Unknown);
                Ok(Bound { form: Form::Parameter(n - 1), ..open })
            }
        }
    }

    /// The literal as text, where the grammar wants a string.
    pub fn string_literal(value: &ast::Value) -> Option<&str> {
        match value {
            ast::Value::SingleQuotedString(s)
            | ast::Value::EscapedStringLiteral(s)
            | ast::Value::UnicodeStringLiteral(s)
            | ast::Value::NationalStringLiteral(s) => Some(s),
            ast::Value::DollarQuotedString(s) => Some(&s.value),
            _ => None,
        }
    }
}

/// A quoted literal without a type.
pub fn open_text(text: &str) -> Bound {
    let scalar = datafusion::common::ScalarValue::Utf8View(Some(text.to_owned()));
    let bound = Bound::new(datafusion::logical_expr::Expr::Literal(scalar, None), Type::Unknown);
    Bound { form: Form::Text(text.to_owned()), ..bound }
}

/// NULL without a type.
pub fn open_null() -> Bound {
    let scalar = datafusion::common::ScalarValue::Utf8View(None);
    let bound = Bound::new(datafusion::logical_expr::Expr::Literal(scalar, None), Type::Unknown);
    Bound { form: Form::Null, ..bound }
}

/// A number: integer, bigint or numeric, whichever holds it first.
pub fn number(text: &str) -> Result<Bound> {
    if let Ok(v) = text.parse::<i64>() {
        return match i32::try_from(v) {
            Ok(v) => coerce::literal(&Value::Int4(v), &Type::Int4),
            Err(_) => coerce::literal(&Value::Int8(v), &Type::Int8),
        };
    }
    match text.parse::<Decimal>() {
        Ok(v) => coerce::literal(&Value::Numeric(v), &Type::Numeric(None)),
        Err(polity_base::decimal::DecimalError::Syntax) => {
            Err(Error::new(Condition::SyntaxError, format!("syntax error at or near \"{text}\"")))
        }
        Err(_) => Err(Error::new(Condition::NumericValueOutOfRange, "value overflows numeric format")
            .detail("Numbers have at most 38 digits.")),
    }
}
