//! Operators: which one is meant, and what it gives.

use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use datafusion::sql::sqlparser::ast::{self, BinaryOperator as Ast, UnaryOperator};
use polity_base::{Type, Value};

use super::Binder;
use super::bound::{Bound, Form};
use super::coerce::{self, Category, category};
use super::scope::Level;
use crate::error::{Condition, Error, Result};
use crate::expr::cast;
use crate::query::function::{arithmetic as math, datetime, pattern, text};
use crate::query::types;

/// An arithmetic operator on numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the names say it
pub enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
}

impl Arithmetic {
    /// How it is written.
    pub fn symbol(self) -> &'static str {
        match self {
            Arithmetic::Add => "+",
            Arithmetic::Subtract => "-",
            Arithmetic::Multiply => "*",
            Arithmetic::Divide => "/",
            Arithmetic::Modulo => "%",
        }
    }
}

/// The error for operands no operator takes.
pub fn no_operator(left: Option<&Bound>, symbol: &str, right: &Bound) -> Error {
    let name = |b: &Bound| if b.is_open() { "unknown".to_owned() } else { coerce::shown(&b.r#type) };
    let operands = match left {
        Some(left) => format!("{} {symbol} {}", name(left), name(right)),
        None => format!("{symbol} {}", name(right)),
    };
    Error::new(Condition::UndefinedFunction, format!("operator does not exist: {operands}"))
        .hint("No operator matches the given name and argument types. You might need to add explicit type casts.")
}

impl Binder<'_> {
    /// `left op right`.
    pub fn binary(&self, level: &Level<'_>, left: &ast::Expr, op: &Ast, right: &ast::Expr) -> Result<Bound> {
        match op {
            Ast::And | Ast::Or => {
                let clause = if *op == Ast::And { "AND" } else { "OR" };
                let l = super::condition(self, self.expr(level, left)?, clause)?;
                let r = super::condition(self, self.expr(level, right)?, clause)?;
                let op = if *op == Ast::And { Operator::And } else { Operator::Or };
                return Ok(binary(l.expr, op, r.expr));
            }
            _ => {}
        }
        let (l, r) = (self.expr(level, left)?, self.expr(level, right)?);
        self.operator(l, op, r)
    }

    /// An operator between two bound operands.
    pub fn operator(&self, l: Bound, op: &Ast, r: Bound) -> Result<Bound> {
        match op {
            Ast::Eq => self.compare(l, Operator::Eq, r),
            Ast::NotEq => self.compare(l, Operator::NotEq, r),
            Ast::Lt => self.compare(l, Operator::Lt, r),
            Ast::LtEq => self.compare(l, Operator::LtEq, r),
            Ast::Gt => self.compare(l, Operator::Gt, r),
            Ast::GtEq => self.compare(l, Operator::GtEq, r),
            Ast::Plus => self.arithmetic(l, Arithmetic::Add, r),
            Ast::Minus => self.arithmetic(l, Arithmetic::Subtract, r),
            Ast::Multiply => self.arithmetic(l, Arithmetic::Multiply, r),
            Ast::Divide => self.arithmetic(l, Arithmetic::Divide, r),
            Ast::Modulo => self.arithmetic(l, Arithmetic::Modulo, r),
            Ast::StringConcat => self.concat(l, r),
            Ast::PGExp | Ast::BitwiseXor => self.function("power", vec![l, r]),
            Ast::BitwiseAnd => self.bits(l, "&", r),
            Ast::BitwiseOr => self.bits(l, "|", r),
            Ast::PGBitwiseXor => self.bits(l, "#", r),
            Ast::PGBitwiseShiftLeft => self.bits(l, "<<", r),
            Ast::PGBitwiseShiftRight => self.bits(l, ">>", r),
            Ast::PGRegexMatch => self.regex(l, r, false, false),
            Ast::PGRegexIMatch => self.regex(l, r, true, false),
            Ast::PGRegexNotMatch => self.regex(l, r, false, true),
            Ast::PGRegexNotIMatch => self.regex(l, r, true, true),
            Ast::PGLikeMatch => self.like(l, r, None, false, false),
            Ast::PGNotLikeMatch => self.like(l, r, None, false, true),
            Ast::PGILikeMatch => self.like(l, r, None, true, false),
            Ast::PGNotILikeMatch => self.like(l, r, None, true, true),
            Ast::PGStartsWith => self.function("starts_with", vec![l, r]),
            Ast::Arrow => self.json_access(l, "->", r),
            Ast::LongArrow => self.json_access(l, "->>", r),
            Ast::HashArrow => self.json_access(l, "#>", r),
            Ast::HashLongArrow => self.json_access(l, "#>>", r),
            Ast::AtArrow => self.contains(l, r, false),
            Ast::ArrowAt => self.contains(r, l, true),
            Ast::PGOverlap => self.overlap(l, r),
            Ast::Question => self.function("jsonb_exists", vec![l, r]),
            Ast::PGCustomBinaryOperator(parts) => {
                let symbol = parts.last().map(String::as_str).unwrap_or_default();
                match named_operator(symbol) {
                    Some(op) => self.operator(l, &op, r),
                    None => Err(no_operator(Some(&l), symbol, &r)),
                }
            }
            Ast::Custom(symbol) => match named_operator(symbol) {
                Some(op) => self.operator(l, &op, r),
                None => Err(no_operator(Some(&l), symbol, &r)),
            },
            other => Err(no_operator(Some(&l), &other.to_string(), &r)),
        }
    }

    /// `op operand`.
    pub fn unary(&self, level: &Level<'_>, op: UnaryOperator, operand: &ast::Expr) -> Result<Bound> {
        let bound = self.expr(level, operand)?;
        match op {
            UnaryOperator::Not => {
                let bound = super::condition(self, bound, "NOT")?;
                Ok(Bound::new(Expr::Not(Box::new(bound.expr)), Type::Bool))
            }
            UnaryOperator::Plus => {
                let bound = if bound.is_open() { self.implicit(bound, &Type::Float8)? } else { bound };
                match category(&bound.r#type) {
                    Category::Number => Ok(bound),
                    _ => Err(no_operator(None, "+", &bound)),
                }
            }
            UnaryOperator::Minus => self.negate(bound),
            UnaryOperator::BitwiseNot => {
                let bound = if bound.is_open() { self.implicit(bound, &Type::Int4)? } else { bound };
                if !matches!(bound.r#type, Type::Int2 | Type::Int4 | Type::Int8) {
                    return Err(no_operator(None, "~", &bound));
                }
                math::bit_not(bound)
            }
            UnaryOperator::PGAbs => self.function("abs", vec![bound]),
            UnaryOperator::PGSquareRoot => self.function("sqrt", vec![bound]),
            UnaryOperator::PGCubeRoot => self.function("cbrt", vec![bound]),
            other => Err(no_operator(None, &other.to_string(), &bound)),
        }
    }

    /// `-operand`.
    pub fn negate(&self, bound: Bound) -> Result<Bound> {
        let bound = match &bound.form {
            Form::Text(_) | Form::Null | Form::Parameter(_) => self.implicit(bound, &Type::Float8)?,
            _ => bound,
        };
        if let Some(value) = bound.constant() {
            let negated = match value {
                Value::Int2(v) => v.checked_neg().map(Value::Int2),
                Value::Int4(v) => v.checked_neg().map(Value::Int4),
                Value::Int8(v) => v.checked_neg().map(Value::Int8),
                Value::Float4(v) => Some(Value::Float4(-v)),
                Value::Float8(v) => Some(Value::Float8(-v)),
                Value::Numeric(v) => polity_base::Decimal::new(-v.mantissa(), v.scale()).map(Value::Numeric),
                _ => None,
            };
            if let Some(negated) = negated {
                return coerce::literal(&negated, &bound.r#type);
            }
        }
        match bound.r#type {
            Type::Interval => datetime::negate_interval(bound),
            Type::Int2 | Type::Int4 | Type::Int8 | Type::Float4 | Type::Float8 | Type::Numeric(_) => {
                math::negate(bound)
            }
            _ => Err(no_operator(None, "-", &bound)),
        }
    }

    /// `+ - * / %` on anything that has them.
    pub fn arithmetic(&self, l: Bound, op: Arithmetic, r: Bound) -> Result<Bound> {
        let (l, r) = self.open_operands(l, op, r)?;
        if category(&l.r#type) == Category::Number && category(&r.r#type) == Category::Number {
            return self.numbers(l, op, r);
        }
        datetime::arithmetic(self, l, op, r)
    }

    /// An operand without a type takes one from the other
    /// (`binary_oper_exact` and `func_select_candidate`).
    fn open_operands(&self, l: Bound, op: Arithmetic, r: Bound) -> Result<(Bound, Bound)> {
        use Arithmetic::{Add, Divide, Multiply, Subtract};
        let partner = |known: &Type, open_is_right: bool| -> Type {
            match (known, op) {
                (Type::Timestamp | Type::TimestampTz, Add) => Type::Interval,
                (Type::Time, Add | Subtract) => Type::Interval,
                (Type::Date, Add) => Type::Int4,
                (Type::Interval, Multiply | Divide) => Type::Float8,
                (Type::Float8 | Type::Numeric(_), Multiply) if !open_is_right => cast::without_modifier(known),
                _ => cast::without_modifier(known),
            }
        };
        match (l.is_open(), r.is_open()) {
            (false, true) => {
                let to = partner(&l.r#type, true);
                let r = self.implicit(r, &to)?;
                Ok((l, r))
            }
            (true, false) => {
                let to = partner(&r.r#type, false);
                let l = self.implicit(l, &to)?;
                Ok((l, r))
            }
            (true, true) => Err(Error::new(
                Condition::AmbiguousFunction,
                format!("operator is not unique: unknown {} unknown", op.symbol()),
            )
            .hint("Could not choose a best candidate operator. You might need to add explicit type casts.")),
            (false, false) => Ok((l, r)),
        }
    }

    fn numbers(&self, l: Bound, op: Arithmetic, r: Bound) -> Result<Bound> {
        let rank = |t: &Type| match t {
            Type::Int2 => 0,
            Type::Int4 => 1,
            Type::Oid | Type::Regclass | Type::Int8 => 2,
            Type::Numeric(_) => 3,
            Type::Float4 => 4,
            _ => 5,
        };
        let (a, b) = (rank(&l.r#type), rank(&r.r#type));
        let common = match (a.max(b), a == b) {
            (4, false) | (5, _) => Type::Float8,
            (4, true) => Type::Float4,
            (3, _) => Type::Numeric(None),
            (2, _) => Type::Int8,
            (1, _) => Type::Int4,
            _ => Type::Int2,
        };
        if common == Type::Float8 && op == Arithmetic::Modulo {
            return Err(no_operator(Some(&l), "%", &r));
        }
        if let Type::Numeric(_) = common {
            let l = if matches!(l.r#type, Type::Numeric(_)) { l } else { self.implicit(l, &common)? };
            let r = if matches!(r.r#type, Type::Numeric(_)) { r } else { self.implicit(r, &common)? };
            return math::numerics(l, op, r);
        }
        let (l, r) = (self.explicit(l, &common)?, self.explicit(r, &common)?);
        math::same(l, op, r)
    }

    /// `a || b`.
    fn concat(&self, l: Bound, r: Bound) -> Result<Bound> {
        let is_array = |b: &Bound| matches!(b.r#type, Type::Array(_));
        if is_array(&l) || is_array(&r) {
            return crate::query::function::array::concat(self, l, r);
        }
        if l.r#type == Type::Jsonb || r.r#type == Type::Jsonb {
            let (l, r) = (self.implicit(l, &Type::Jsonb)?, self.implicit(r, &Type::Jsonb)?);
            return crate::query::function::json::concat(l, r);
        }
        if l.r#type == Type::Bytea || r.r#type == Type::Bytea {
            let (l, r) = (self.implicit(l, &Type::Bytea)?, self.implicit(r, &Type::Bytea)?);
            return text::concat_bytes(l, r);
        }
        let stringy = |b: &Bound| b.is_open() || category(&b.r#type) == Category::String;
        if !stringy(&l) && !stringy(&r) {
            return Err(no_operator(Some(&l), "||", &r));
        }
        text::concat(self.assignment(l, &Type::Text)?, self.assignment(r, &Type::Text)?)
    }

    fn bits(&self, l: Bound, symbol: &'static str, r: Bound) -> Result<Bound> {
        let shift = matches!(symbol, "<<" | ">>");
        let (l, r) = match (l.is_open(), r.is_open()) {
            (true, false) => (self.implicit(l, &r.r#type)?, r),
            (false, true) => {
                let to = if shift { Type::Int4 } else { l.r#type.clone() };
                (l, self.implicit(r, &to)?)
            }
            _ => (l, r),
        };
        let whole = |b: &Bound| matches!(b.r#type, Type::Int2 | Type::Int4 | Type::Int8);
        if !whole(&l) || !whole(&r) {
            return Err(no_operator(Some(&l), symbol, &r));
        }
        if shift {
            let r = self.implicit(r, &Type::Int8)?;
            return math::bits(l, symbol, r);
        }
        let common = if types::data_type(&l.r#type).primitive_width() >= types::data_type(&r.r#type).primitive_width() {
            l.r#type.clone()
        } else {
            r.r#type.clone()
        };
        let (l, r) = (self.implicit(l, &common)?, self.implicit(r, &common)?);
        math::bits(l, symbol, r)
    }

    /// `text ~ pattern`.
    pub fn regex(&self, l: Bound, r: Bound, insensitive: bool, negated: bool) -> Result<Bound> {
        let symbol = match (insensitive, negated) {
            (false, false) => "~",
            (true, false) => "~*",
            (false, true) => "!~",
            (true, true) => "!~*",
        };
        let (l, r) = self.texts(l, symbol, r)?;
        let found = pattern::matches(l, r, insensitive)?;
        Ok(if negated { Bound::new(Expr::Not(Box::new(found.expr)), Type::Bool) } else { found })
    }

    /// `text LIKE pattern`.
    pub fn like(&self, l: Bound, r: Bound, escape: Option<char>, insensitive: bool, negated: bool) -> Result<Bound> {
        let symbol = match (insensitive, negated) {
            (false, false) => "~~",
            (true, false) => "~~*",
            (false, true) => "!~~",
            (true, true) => "!~~*",
        };
        let (l, r) = self.texts(l, symbol, r)?;
        pattern::like(l, r, escape, insensitive, negated)
    }

    fn texts(&self, l: Bound, symbol: &str, r: Bound) -> Result<(Bound, Bound)> {
        let stringy = |b: &Bound| b.is_open() || category(&b.r#type) == Category::String;
        if !stringy(&l) || !stringy(&r) {
            return Err(no_operator(Some(&l), symbol, &r));
        }
        Ok((self.implicit(l, &Type::Text)?, self.implicit(r, &Type::Text)?))
    }

    fn json_access(&self, l: Bound, symbol: &'static str, r: Bound) -> Result<Bound> {
        if !matches!(l.r#type, Type::Json | Type::Jsonb) {
            return Err(no_operator(Some(&l), symbol, &r));
        }
        crate::query::function::json::access(self, l, symbol, r)
    }

    fn contains(&self, l: Bound, r: Bound, swapped: bool) -> Result<Bound> {
        if l.r#type == Type::Jsonb || r.r#type == Type::Jsonb {
            let (l, r) = (self.implicit(l, &Type::Jsonb)?, self.implicit(r, &Type::Jsonb)?);
            return crate::query::function::json::contains(l, r);
        }
        let symbol = if swapped { "<@" } else { "@>" };
        let (l, r) = self.arrays(l, symbol, r)?;
        crate::query::function::array::contains(l, r)
    }

    fn overlap(&self, l: Bound, r: Bound) -> Result<Bound> {
        let (l, r) = self.arrays(l, "&&", r)?;
        crate::query::function::array::overlap(l, r)
    }

    fn arrays(&self, l: Bound, symbol: &str, r: Bound) -> Result<(Bound, Bound)> {
        let array = |b: &Bound| matches!(b.r#type, Type::Array(_));
        if !(array(&l) || l.is_open()) || !(array(&r) || r.is_open()) || (l.is_open() && r.is_open()) {
            return Err(no_operator(Some(&l), symbol, &r));
        }
        let (mut both, _) = self.unify(vec![l, r], symbol)?;
        match (both.pop(), both.pop()) {
            (Some(r), Some(l)) => Ok((l, r)),
            _ => Err(Error::internal("two operands became fewer")),
        }
    }
}

/// `left op right`, boolean.
pub fn binary(left: Expr, op: Operator, right: Expr) -> Bound {
    Bound::new(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right))), Type::Bool)
}

/// The operator of `OPERATOR(pg_catalog.~)`.
fn named_operator(symbol: &str) -> Option<Ast> {
    Some(match symbol {
        "=" => Ast::Eq,
        "<>" | "!=" => Ast::NotEq,
        "<" => Ast::Lt,
        "<=" => Ast::LtEq,
        ">" => Ast::Gt,
        ">=" => Ast::GtEq,
        "+" => Ast::Plus,
        "-" => Ast::Minus,
        "*" => Ast::Multiply,
        "/" => Ast::Divide,
        "%" => Ast::Modulo,
        "||" => Ast::StringConcat,
        "~" => Ast::PGRegexMatch,
        "~*" => Ast::PGRegexIMatch,
        "!~" => Ast::PGRegexNotMatch,
        "!~*" => Ast::PGRegexNotIMatch,
        "~~" => Ast::PGLikeMatch,
        "!~~" => Ast::PGNotLikeMatch,
        "~~*" => Ast::PGILikeMatch,
        "!~~*" => Ast::PGNotILikeMatch,
        "&&" => Ast::PGOverlap,
        "@>" => Ast::AtArrow,
        "<@" => Ast::ArrowAt,
        "->" => Ast::Arrow,
        "->>" => Ast::LongArrow,
        _ => return None,
    })
}
