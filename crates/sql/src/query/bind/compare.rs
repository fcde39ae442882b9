//! Comparisons: `=` and its kin, IN, BETWEEN, IS DISTINCT FROM, rows, ANY and
//! ALL over arrays.

use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{Expr, Operator};
use datafusion::sql::sqlparser::ast;
use polity_base::{Type, Value};

use super::Binder;
use super::bound::{Bound, Form};
use super::coerce::{self, Category, category};
use super::operator::{binary, no_operator};
use super::scope::Level;
use crate::error::{Condition, Error, Result};
use crate::expr::cast;

fn symbol(op: Operator) -> &'static str {
    match op {
        Operator::Eq => "=",
        Operator::NotEq => "<>",
        Operator::Lt => "<",
        Operator::LtEq => "<=",
        Operator::Gt => ">",
        Operator::GtEq => ">=",
        _ => "=",
    }
}

impl Binder<'_> {
    /// `l op r`, for one of the six comparisons.
    pub fn compare(&self, l: Bound, op: Operator, r: Bound) -> Result<Bound> {
        if let (Form::Row(a), Form::Row(b)) = (&l.form, &r.form) {
            return self.compare_rows(a, op, b);
        }
        let (a, b) = self.comparable(l, symbol(op), r)?;
        Ok(binary(a, op, b))
    }

    /// Both sides of a comparison, as expressions that compare as SQL has it.
    pub fn comparable(&self, l: Bound, symbol: &str, r: Bound) -> Result<(Expr, Expr)> {
        let (l, r) = match (l.is_open(), r.is_open()) {
            (true, true) => (self.implicit(l, &Type::Text)?, self.implicit(r, &Type::Text)?),
            (true, false) => {
                let to = open_partner(&r.r#type);
                (self.implicit(l, &to)?, r)
            }
            (false, true) => {
                let to = open_partner(&l.r#type);
                let r = self.implicit(r, &to)?;
                (l, r)
            }
            (false, false) => (l, r),
        };
        if l.r#type == Type::Json || r.r#type == Type::Json {
            return Err(no_operator(Some(&l), symbol, &r));
        }
        let (l, r) = self.same_type(l, symbol, r)?;
        if let Type::Numeric(_) = l.r#type {
            return Ok(numerics(l, r));
        }
        Ok((coerce::key(&l), coerce::key(&r)))
    }

    fn same_type(&self, l: Bound, symbol: &str, r: Bound) -> Result<(Bound, Bound)> {
        let (a, b) = (cast::without_modifier(&l.r#type), cast::without_modifier(&r.r#type));
        if a == b {
            return Ok((l, r));
        }
        let error = || no_operator(Some(&l), symbol, &r);
        if category(&a) != category(&b) {
            return Err(error());
        }
        match category(&a) {
            Category::Number => self.same_number(l, r),
            Category::String => {
                // Trailing blanks of char(n) are not kept, so it compares as text.
                Ok((self.implicit(l, &Type::Text)?, self.implicit(r, &Type::Text)?))
            }
            Category::DateTime => {
                let common = match (&a, &b) {
                    (Type::Time, _) | (_, Type::Time) => return Err(error()),
                    (Type::TimestampTz, _) | (_, Type::TimestampTz) => Type::TimestampTz,
                    _ => Type::Timestamp,
                };
                Ok((self.implicit(l, &common)?, self.implicit(r, &common)?))
            }
            Category::Array => {
                let (mut both, _) = self.unify(vec![l.clone(), r.clone()], symbol).map_err(|_| error())?;
                match (both.pop(), both.pop()) {
                    (Some(r), Some(l)) => Ok((l, r)),
                    _ => Err(Error::internal("two operands became fewer")),
                }
            }
            _ => Err(error()),
        }
    }

    fn same_number(&self, l: Bound, r: Bound) -> Result<(Bound, Bound)> {
        let is_float = |t: &Type| matches!(t, Type::Float4 | Type::Float8);
        let is_oid = |t: &Type| matches!(t, Type::Oid | Type::Regclass);
        let (a, b) = (l.r#type.clone(), r.r#type.clone());
        if is_oid(&a) && is_oid(&b) {
            return Ok((l, r));
        }
        if is_oid(&a) || is_oid(&b) {
            if is_oid(&a) && r.constant().is_some() && b.is_integer() {
                let r = self.explicit(r, &Type::Oid)?;
                return Ok((l, r));
            }
            if is_oid(&b) && l.constant().is_some() && a.is_integer() {
                return Ok((self.explicit(l, &Type::Oid)?, r));
            }
            return Ok((self.explicit(l, &Type::Int8)?, self.explicit(r, &Type::Int8)?));
        }
        if is_float(&a) || is_float(&b) {
            return Ok((self.implicit(l, &Type::Float8)?, self.implicit(r, &Type::Float8)?));
        }
        if matches!(a, Type::Numeric(_)) || matches!(b, Type::Numeric(_)) {
            let numeric = Type::Numeric(None);
            let to = |s: &Self, x: Bound| match x.r#type {
                Type::Numeric(_) => Ok(x),
                _ => s.implicit(x, &numeric),
            };
            return Ok((to(self, l)?, to(self, r)?));
        }
        // A constant that fits takes the column's type, so that the column stays
        // as it is and its index is of use.
        if let Some(v) = r.constant().and_then(Value::as_i64)
            && let Some(narrow) = narrowed(v, &a)
        {
            return Ok((l, coerce::literal(&narrow, &a)?));
        }
        if let Some(v) = l.constant().and_then(Value::as_i64)
            && let Some(narrow) = narrowed(v, &b)
        {
            return Ok((coerce::literal(&narrow, &b)?, r));
        }
        let wide = if a == Type::Int8 || b == Type::Int8 { Type::Int8 } else { Type::Int4 };
        Ok((self.implicit(l, &wide)?, self.implicit(r, &wide)?))
    }

    fn compare_rows(&self, a: &[Bound], op: Operator, b: &[Bound]) -> Result<Bound> {
        if a.len() != b.len() {
            return Err(Error::new(Condition::SyntaxError, "unequal number of entries in row expressions"));
        }
        let all = |op: Operator| -> Result<Vec<Expr>> {
            a.iter().zip(b).map(|(x, y)| Ok(self.compare(x.clone(), op, y.clone())?.expr)).collect()
        };
        let joined = match op {
            Operator::Eq => all(Operator::Eq)?.into_iter().reduce(Expr::and),
            Operator::NotEq => all(Operator::NotEq)?.into_iter().reduce(Expr::or),
            _ => {
                // a1 < b1 OR (a1 = b1 AND (a2 < b2 OR …))
                let strict = match op {
                    Operator::Lt | Operator::LtEq => Operator::Lt,
                    _ => Operator::Gt,
                };
                let mut result: Option<Expr> = None;
                for (x, y) in a.iter().zip(b).rev() {
                    let last = result.is_none();
                    let first = self.compare(x.clone(), if last { op } else { strict }, y.clone())?.expr;
                    result = Some(match result {
                        None => first,
                        Some(rest) => {
                            let equal = self.compare(x.clone(), Operator::Eq, y.clone())?.expr;
                            first.or(equal.and(rest))
                        }
                    });
                }
                result
            }
        };
        joined
            .map(|e| Bound::new(e, Type::Bool))
            .ok_or_else(|| Error::unsupported("a comparison of rows without columns"))
    }

    /// `l IS [NOT] DISTINCT FROM r`.
    pub fn distinct_from(&self, l: Bound, r: Bound, negated: bool) -> Result<Bound> {
        let op = if negated { Operator::IsNotDistinctFrom } else { Operator::IsDistinctFrom };
        if let (Form::Row(a), Form::Row(b)) = (&l.form, &r.form) {
            let parts: Vec<Expr> = a
                .iter()
                .zip(b)
                .map(|(x, y)| Ok(self.distinct_from(x.clone(), y.clone(), negated)?.expr))
                .collect::<Result<_>>()?;
            let joined = parts.into_iter().reduce(if negated { Expr::and } else { Expr::or });
            return joined.map(|e| Bound::new(e, Type::Bool)).ok_or_else(|| Error::unsupported("an empty row"));
        }
        let (a, b) = self.comparable(l, "=", r)?;
        Ok(binary(a, op, b))
    }

    /// `e [NOT] BETWEEN low AND high`.
    pub fn between(&self, e: Bound, low: Bound, high: Bound, negated: bool) -> Result<Bound> {
        let above = self.compare(e.clone(), if negated { Operator::Lt } else { Operator::GtEq }, low)?.expr;
        let below = self.compare(e, if negated { Operator::Gt } else { Operator::LtEq }, high)?.expr;
        let both = if negated { above.or(below) } else { above.and(below) };
        Ok(Bound::new(both, Type::Bool))
    }

    /// `e [NOT] IN (list)`.
    pub fn in_list(&self, level: &Level<'_>, e: &ast::Expr, list: &[ast::Expr], negated: bool) -> Result<Bound> {
        let e = self.expr(level, e)?;
        let list = list.iter().map(|x| self.expr(level, x)).collect::<Result<Vec<_>>>()?;
        // Constants of one kind with what they are compared with: a plain list.
        let mut plain = Vec::with_capacity(list.len());
        let mut left: Option<Expr> = None;
        let simple = !matches!(e.form, Form::Row(_)) && !e.is_open();
        if simple {
            for item in &list {
                let (a, b) = self.comparable(e.clone(), "=", item.clone())?;
                if left.as_ref().is_some_and(|l| *l != a) {
                    plain.clear();
                    break;
                }
                left = Some(a);
                plain.push(b);
            }
        }
        if plain.len() == list.len()
            && let Some(left) = left
        {
            return Ok(Bound::new(Expr::InList(InList::new(Box::new(left), plain, negated)), Type::Bool));
        }
        let op = if negated { Operator::NotEq } else { Operator::Eq };
        let parts: Vec<Expr> =
            list.into_iter().map(|item| Ok(self.compare(e.clone(), op, item)?.expr)).collect::<Result<_>>()?;
        let joined = parts.into_iter().reduce(if negated { Expr::and } else { Expr::or });
        joined
            .map(|e| Bound::new(e, Type::Bool))
            .ok_or_else(|| Error::new(Condition::SyntaxError, "syntax error at or near \")\""))
    }

    /// `l op ANY (array)` or `l op ALL (array)`.
    pub fn any_all(&self, l: Bound, op: &ast::BinaryOperator, array: Bound, all: bool) -> Result<Bound> {
        let element = match (&array.r#type, array.is_open()) {
            (Type::Array(element), _) => (**element).clone(),
            (_, true) if l.is_open() => Type::Text,
            (_, true) => cast::without_modifier(&l.r#type),
            _ => {
                return Err(Error::new(Condition::WrongObjectType, "op ANY/ALL (array) requires array on right side"));
            }
        };
        let array = self.implicit(array, &Type::Array(Box::new(element.clone())))?;
        // A constant array is a list.
        if let Some(Value::Array(values)) = array.constant() {
            let mut parts = Vec::with_capacity(values.len());
            for value in values {
                let item = coerce::literal(value, &element)?;
                parts.push(self.operator(l.clone(), op, item)?.expr);
            }
            if *op == ast::BinaryOperator::Eq && !all {
                let list: Vec<Expr> =
                    values.iter().map(|v| Ok(coerce::literal(v, &element)?.expr)).collect::<Result<_>>()?;
                if !list.is_empty()
                    && coerce::open_type(&l) == element
                    && !coerce::has_key(&l.r#type, &l.data)
                    && !matches!(element, Type::Numeric(_))
                {
                    return Ok(Bound::new(Expr::InList(InList::new(Box::new(l.expr), list, false)), Type::Bool));
                }
            }
            return match parts.into_iter().reduce(if all { Expr::and } else { Expr::or }) {
                Some(e) => Ok(Bound::new(e, Type::Bool)),
                None => coerce::literal(&Value::Bool(all), &Type::Bool),
            };
        }
        let l = if l.is_open() { self.implicit(l, &element)? } else { l };
        crate::query::function::array::any_all(self, l, op, array, &element, all)
    }
}

/// What a literal compared with a value of this type is.
fn open_partner(r#type: &Type) -> Type {
    match r#type {
        Type::Varchar(_) | Type::Name => Type::Text,
        Type::Regclass => Type::Regclass,
        // A literal longer than the column is not equal to what the column holds.
        Type::Char(_) => Type::Char(u32::MAX >> 8),
        other => cast::without_modifier(other),
    }
}

fn narrowed(v: i64, to: &Type) -> Option<Value> {
    match to {
        Type::Int2 => i16::try_from(v).ok().map(Value::Int2),
        Type::Int4 => i32::try_from(v).ok().map(Value::Int4),
        Type::Int8 => Some(Value::Int8(v)),
        _ => None,
    }
}

/// Two numerics in one form, so that they compare as numbers.
fn numerics(l: Bound, r: Bound) -> (Expr, Expr) {
    let scales = (l.fixed_scale(), r.fixed_scale());
    if let (Some(a), Some(b)) = scales {
        // A constant takes the other's scale if it loses nothing by that.
        let fits = |x: &Bound, scale: u8| match x.constant() {
            Some(Value::Numeric(v)) => v.rescale(scale).is_some_and(|r| r == *v),
            Some(Value::Null) => true,
            _ => false,
        };
        let scale = if fits(&r, a) {
            a
        } else if fits(&l, b) {
            b
        } else {
            a.max(b)
        };
        return (coerce::fixed(l, scale).expr, coerce::fixed(r, scale).expr);
    }
    (coerce::key(&coerce::free(l)), coerce::key(&coerce::free(r)))
}
