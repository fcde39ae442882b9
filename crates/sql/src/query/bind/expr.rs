//! Expressions.

use datafusion::logical_expr::expr::Case;
use datafusion::logical_expr::{Expr, Operator};
use datafusion::sql::sqlparser::ast::{self, Spanned};
use polity_base::{Type, Value};

use super::bound::{Bound, Form, Names};
use super::coerce;
use super::literal::open_text;
use super::scope::{Level, column_name};
use super::{Binder, at};
use crate::catalog::name::fold;
use crate::catalog::types as catalog_types;
use crate::error::{Condition, Error, Result};
use crate::query::function::{array, datetime, names};

impl Binder<'_> {
    /// An expression.
    pub fn expr(&self, level: &Level<'_>, e: &ast::Expr) -> Result<Bound> {
        // Deep trees come from machines that write SQL.
        on_deep_stack(|| self.expr_inner(level, e))
    }

    fn expr_inner(&self, level: &Level<'_>, e: &ast::Expr) -> Result<Bound> {
        use ast::Expr as E;
        match e {
            E::Identifier(ident) => self.identifier(level, ident),
            E::CompoundIdentifier(parts) => self.compound(level, parts),
            E::Nested(inner) => self.expr(level, inner),
            E::Value(value) => self.value(level, value),
            E::TypedString(typed) => self.typed_string(level, typed),
            E::Interval(interval) => self.interval(level, interval),
            E::BinaryOp { left, op, right } => self.binary(level, left, op, right).map_err(|x| at(x, left.span())),
            E::UnaryOp { op, expr } => self.unary(level, *op, expr).map_err(|x| at(x, expr.span())),
            E::IsNull(x) => self.is_null(level, x, false),
            E::IsNotNull(x) => self.is_null(level, x, true),
            E::IsTrue(x) => self.is_truth(level, x, "IS TRUE", Expr::IsTrue),
            E::IsNotTrue(x) => self.is_truth(level, x, "IS NOT TRUE", Expr::IsNotTrue),
            E::IsFalse(x) => self.is_truth(level, x, "IS FALSE", Expr::IsFalse),
            E::IsNotFalse(x) => self.is_truth(level, x, "IS NOT FALSE", Expr::IsNotFalse),
            E::IsUnknown(x) => self.is_truth(level, x, "IS UNKNOWN", Expr::IsUnknown),
            E::IsNotUnknown(x) => self.is_truth(level, x, "IS NOT UNKNOWN", Expr::IsNotUnknown),
            E::IsDistinctFrom(a, b) => self.distinct_from(self.expr(level, a)?, self.expr(level, b)?, false),
            E::IsNotDistinctFrom(a, b) => self.distinct_from(self.expr(level, a)?, self.expr(level, b)?, true),
            E::InList { expr, list, negated } => self.in_list(level, expr, list, *negated),
            E::InSubquery { expr, subquery, negated } => self.in_subquery(level, expr, subquery, *negated),
            E::Between { expr, negated, low, high } => {
                let (e, low, high) = (self.expr(level, expr)?, self.expr(level, low)?, self.expr(level, high)?);
                self.between(e, low, high, *negated)
            }
            E::Like { negated, any: false, expr, pattern, escape_char } => {
                self.like_expr(level, expr, pattern, escape_char.as_ref(), false, *negated)
            }
            E::ILike { negated, any: false, expr, pattern, escape_char } => {
                self.like_expr(level, expr, pattern, escape_char.as_ref(), true, *negated)
            }
            E::SimilarTo { negated, expr, pattern, escape_char } => {
                let (l, r) = (self.expr(level, expr)?, self.expr(level, pattern)?);
                let escape = escape(escape_char.as_ref())?;
                crate::query::function::pattern::similar(self, l, r, escape, *negated)
            }
            E::AnyOp { left, compare_op, right, .. } => self.quantified(level, left, compare_op, right, false),
            E::AllOp { left, compare_op, right } => self.quantified(level, left, compare_op, right, true),
            E::Cast {
                kind: ast::CastKind::Cast | ast::CastKind::DoubleColon, expr, data_type, format: None, ..
            } => self.cast(level, expr, data_type),
            E::AtTimeZone { timestamp, time_zone } => {
                let (zone, time) = (self.expr(level, time_zone)?, self.expr(level, timestamp)?);
                self.function("timezone", vec![zone, time])
            }
            E::Extract { field, expr, .. } => {
                let operand = self.expr(level, expr)?;
                datetime::extract(self, &datetime::field_name(field), operand)
            }
            E::Ceil { expr, field: ast::CeilFloorKind::DateTimeField(ast::DateTimeField::NoDateTime) } => {
                self.function("ceil", vec![self.expr(level, expr)?])
            }
            E::Floor { expr, field: ast::CeilFloorKind::DateTimeField(ast::DateTimeField::NoDateTime) } => {
                self.function("floor", vec![self.expr(level, expr)?])
            }
            E::Position { expr, r#in } => {
                let (what, within) = (self.expr(level, expr)?, self.expr(level, r#in)?);
                self.function("position", vec![within, what])
            }
            E::Substring { expr, substring_from, substring_for, .. } => {
                let mut args = vec![self.expr(level, expr)?];
                match (substring_from, substring_for) {
                    (Some(from), None) => args.push(self.expr(level, from)?),
                    (Some(from), Some(count)) => args.extend([self.expr(level, from)?, self.expr(level, count)?]),
                    (None, Some(count)) => {
                        args.extend([coerce::literal(&Value::Int4(1), &Type::Int4)?, self.expr(level, count)?]);
                    }
                    (None, None) => {}
                }
                self.function("substring", args)
            }
            E::Trim { trim_where, trim_what, expr, trim_characters } => {
                let function = match trim_where {
                    None | Some(ast::TrimWhereField::Both) => "btrim",
                    Some(ast::TrimWhereField::Leading) => "ltrim",
                    Some(ast::TrimWhereField::Trailing) => "rtrim",
                };
                let mut args = vec![self.expr(level, expr)?];
                if let Some(what) = trim_what {
                    args.push(self.expr(level, what)?);
                } else if let Some(characters) = trim_characters {
                    for c in characters {
                        args.push(self.expr(level, c)?);
                    }
                }
                self.function(function, args)
            }
            E::Overlay { expr, overlay_what, overlay_from, overlay_for } => {
                let mut args =
                    vec![self.expr(level, expr)?, self.expr(level, overlay_what)?, self.expr(level, overlay_from)?];
                if let Some(count) = overlay_for {
                    args.push(self.expr(level, count)?);
                }
                self.function("overlay", args)
            }
            E::Collate { expr, collation } => self.collate(level, expr, collation),
            E::Function(function) => self.call(level, function).map_err(|x| at(x, function.name.span())),
            E::Case { operand, conditions, else_result, .. } => {
                self.case(level, operand.as_deref(), conditions, else_result.as_deref())
            }
            E::Exists { subquery, negated } => self.exists(level, subquery, *negated),
            E::Subquery(query) => self.scalar_subquery(level, query),
            E::Tuple(items) => {
                let items = items.iter().map(|x| self.expr(level, x)).collect::<Result<Vec<_>>>()?;
                Ok(row(items))
            }
            E::Array(list) => self.array_constructor(level, &list.elem),
            E::CompoundFieldAccess { root, access_chain } => self.subscripts(level, root, access_chain),
            E::Prefixed { prefix, value } => {
                Err(Error::new(Condition::SyntaxError, format!("syntax error at or near \"{value}\""))
                    .detail(format!("String literals have no prefix {prefix}.")))
            }
            E::Wildcard(_) | E::QualifiedWildcard(..) => {
                Err(Error::new(Condition::SyntaxError, "syntax error at or near \"*\""))
            }
            other => Err(Error::unsupported(format!("the expression {other}"))),
        }
    }

    fn identifier(&self, level: &Level<'_>, ident: &ast::Ident) -> Result<Bound> {
        let name = fold(ident);
        if let Some(bound) = level
            .column(None, &name)
            .map(Some)
            .or_else(|e| {
                if ident.quote_style.is_none() && e.condition() == Condition::UndefinedColumn {
                    Ok(None)
                } else {
                    Err(e)
                }
            })
            .map_err(|e| at(e, ident.span))?
        {
            return Ok(bound);
        }
        // Words that are values, which the parser takes for names.
        if let Some(bound) = self.word(&name)? {
            return Ok(bound);
        }
        if matches!(name.as_str(), "ctid" | "xmin" | "xmax" | "cmin" | "cmax" | "tableoid") {
            return Err(at(Error::unsupported(format!("the system column {name}")), ident.span));
        }
        if level.knows(&name) {
            return Err(at(Error::unsupported(format!("the whole row \"{name}\" as a value")), ident.span));
        }
        let missing = Error::new(Condition::UndefinedColumn, format!("column \"{name}\" does not exist"));
        Err(at(missing, ident.span))
    }

    fn compound(&self, level: &Level<'_>, parts: &[ast::Ident]) -> Result<Bound> {
        let (relation, name) = column_name(parts);
        let span = parts.first().map_or_else(datafusion::sql::sqlparser::tokenizer::Span::empty, |p| p.span);
        level.column(relation.as_deref(), &name).map_err(|e| {
            let system = matches!(name.as_str(), "ctid" | "xmin" | "xmax" | "cmin" | "cmax" | "tableoid");
            if system && e.condition() == Condition::UndefinedColumn {
                return at(Error::unsupported(format!("the system column {name}")), span);
            }
            at(e, span)
        })
    }

    fn typed_string(&self, level: &Level<'_>, typed: &ast::TypedString) -> Result<Bound> {
        let _ = level;
        let Some(text) = Self::string_literal(&typed.value.value) else {
            return Err(Error::new(Condition::SyntaxError, format!("syntax error at or near \"{}\"", typed.value)));
        };
        self.cast_to(open_text(text), &typed.data_type).map_err(|e| at(e, typed.value.span))
    }

    fn interval(&self, level: &Level<'_>, interval: &ast::Interval) -> Result<Bound> {
        let value = self.expr(level, &interval.value)?;
        let Form::Text(text) = &value.form else {
            // INTERVAL 5 DAY is not PostgreSQL's.
            return Err(Error::new(Condition::SyntaxError, format!("syntax error at or near \"{}\"", interval.value)));
        };
        let unit = interval.leading_field.as_ref();
        let text = match (unit, text.trim().parse::<f64>()) {
            (Some(unit), Ok(_)) => format!("{text} {}", datetime::field_name(unit)),
            (Some(_), Err(_)) if interval.last_field.is_none() => text.clone(),
            _ => text.clone(),
        };
        let bound = self.explicit(open_text(&text), &Type::Interval)?;
        match (unit, &interval.last_field, bound.constant()) {
            (Some(first), last, Some(Value::Interval(v))) => {
                let last = last.as_ref().unwrap_or(first);
                let cut = datetime::cut_interval(*v, &datetime::field_name(last));
                coerce::literal(&Value::Interval(cut), &Type::Interval)
            }
            _ => Ok(bound),
        }
    }

    fn is_null(&self, level: &Level<'_>, e: &ast::Expr, negated: bool) -> Result<Bound> {
        let bound = self.expr(level, e)?;
        if let Form::Row(items) = &bound.form {
            // A row is null when all its fields are, and not null when none is.
            let wrap = |x: &Bound| match negated {
                true => Expr::IsNotNull(Box::new(x.expr.clone())),
                false => Expr::IsNull(Box::new(x.expr.clone())),
            };
            let joined = items.iter().map(wrap).reduce(Expr::and);
            return joined.map(|e| Bound::new(e, Type::Bool)).ok_or_else(|| Error::unsupported("an empty row"));
        }
        let bound = self.decided(bound)?;
        let inner = Box::new(bound.expr);
        Ok(Bound::new(if negated { Expr::IsNotNull(inner) } else { Expr::IsNull(inner) }, Type::Bool))
    }

    fn is_truth(&self, level: &Level<'_>, e: &ast::Expr, clause: &str, wrap: fn(Box<Expr>) -> Expr) -> Result<Bound> {
        let bound = super::condition(self, self.expr(level, e)?, clause)?;
        Ok(Bound::new(wrap(Box::new(bound.expr)), Type::Bool))
    }

    fn like_expr(
        &self,
        level: &Level<'_>,
        e: &ast::Expr,
        pattern: &ast::Expr,
        escape_char: Option<&ast::ValueWithSpan>,
        insensitive: bool,
        negated: bool,
    ) -> Result<Bound> {
        let (l, r) = (self.expr(level, e)?, self.expr(level, pattern)?);
        self.like(l, r, escape(escape_char)?, insensitive, negated)
    }

    fn quantified(
        &self,
        level: &Level<'_>,
        left: &ast::Expr,
        op: &ast::BinaryOperator,
        right: &ast::Expr,
        all: bool,
    ) -> Result<Bound> {
        if let ast::Expr::Subquery(query) = right {
            return self.quantified_subquery(level, left, op, query, all);
        }
        let (l, r) = (self.expr(level, left)?, self.expr(level, right)?);
        self.any_all(l, op, r, all)
    }

    fn cast(&self, level: &Level<'_>, e: &ast::Expr, to: &ast::DataType) -> Result<Bound> {
        // ARRAY[]::int[] has the type of the cast.
        if let (ast::Expr::Array(list), Ok(to @ Type::Array(_))) = (strip(e), catalog_types::data_type(to))
            && list.elem.is_empty()
        {
            return coerce::literal(&Value::Array(Vec::new()), &to);
        }
        let bound = self.expr(level, e)?;
        self.cast_to(bound, to).map_err(|x| at(x, e.span()))
    }

    /// `CAST(bound AS to)`, with `to` as it was written.
    pub fn cast_to(&self, bound: Bound, to: &ast::DataType) -> Result<Bound> {
        let r#type = catalog_types::data_type(to)?;
        if r#type != Type::Regclass {
            return self.explicit(bound, &r#type);
        }
        let kind = match to {
            ast::DataType::Custom(name, _) => name.0.last().and_then(|p| p.as_ident()).map(fold).unwrap_or_default(),
            other => other.to_string().to_ascii_lowercase(),
        };
        let naming = match kind.as_str() {
            "regtype" => Names::Type,
            "regproc" | "regprocedure" | "regoper" | "regoperator" => Names::Function,
            "regnamespace" => Names::Schema,
            "regrole" => Names::Role,
            _ => Names::Relation,
        };
        if bound.is_open() || bound.r#type.is_text() {
            let text = self.implicit(bound, &Type::Text)?;
            return names::found(&text, naming, self.input());
        }
        let oid = match bound.r#type {
            Type::Regclass => bound,
            _ => self.explicit(bound, &Type::Oid)?,
        };
        Ok(Bound { r#type: Type::Regclass, names: naming, form: Form::Plain, ..oid })
    }

    fn collate(&self, level: &Level<'_>, e: &ast::Expr, collation: &ast::ObjectName) -> Result<Bound> {
        let name = collation.0.last().and_then(|p| p.as_ident()).map(|i| i.value.clone()).unwrap_or_default();
        if !matches!(name.as_str(), "C" | "POSIX" | "default" | "C.UTF-8" | "C.utf8" | "ucs_basic") {
            return Err(Error::new(
                Condition::UndefinedObject,
                format!("collation \"{name}\" for encoding \"UTF8\" does not exist"),
            )
            .hint("Text is ordered by code point: collation \"C\"."));
        }
        self.expr(level, e)
    }

    fn case(
        &self,
        level: &Level<'_>,
        operand: Option<&ast::Expr>,
        conditions: &[ast::CaseWhen],
        otherwise: Option<&ast::Expr>,
    ) -> Result<Bound> {
        let operand = operand.map(|o| self.expr(level, o)).transpose()?;
        let mut whens = Vec::with_capacity(conditions.len());
        let mut results = Vec::with_capacity(conditions.len() + 1);
        for when in conditions {
            let condition = self.expr(level, &when.condition)?;
            whens.push(match &operand {
                Some(operand) => self.compare(operand.clone(), Operator::Eq, condition)?,
                None => super::condition(self, condition, "CASE/WHEN")?,
            });
            results.push(self.expr(level, &when.result)?);
        }
        // PostgreSQL looks at ELSE first for the common type.
        let has_else = otherwise.is_some();
        let last = match otherwise {
            Some(e) => self.expr(level, e)?,
            None => super::literal::open_null(),
        };
        results.insert(0, last);
        let (mut results, common) = self.unify(results, "CASE")?;
        let data = results.first().map_or_else(|| crate::query::types::data_type(&common), |b| b.data.clone());
        let otherwise = results.remove(0);
        let pairs =
            whens.into_iter().zip(results).map(|(w, r)| (Box::new(w.expr), Box::new(r.expr))).collect::<Vec<_>>();
        let otherwise = has_else.then(|| Box::new(otherwise.expr));
        Ok(Bound::with_data(Expr::Case(Case::new(None, pairs, otherwise)), common, data))
    }

    fn array_constructor(&self, level: &Level<'_>, elements: &[ast::Expr]) -> Result<Bound> {
        if elements.is_empty() {
            return Err(Error::new(Condition::IndeterminateDatatype, "cannot determine type of empty array")
                .hint("Explicitly cast to the desired type, for example ARRAY[]::integer[]."));
        }
        let elements = elements.iter().map(|e| self.expr(level, e)).collect::<Result<Vec<_>>>()?;
        array::constructor(self, elements)
    }

    fn subscripts(&self, level: &Level<'_>, root: &ast::Expr, chain: &[ast::AccessExpr]) -> Result<Bound> {
        // a.b[1] comes as a name with a dot in the chain.
        let mut parts = Vec::new();
        let mut rest = chain;
        if let ast::Expr::Identifier(first) = root {
            parts.push(first.clone());
            while let [ast::AccessExpr::Dot(ast::Expr::Identifier(next)), more @ ..] = rest {
                parts.push(next.clone());
                rest = more;
            }
        }
        let mut bound = match parts.len() {
            0 | 1 => self.expr(level, root)?,
            _ => self.compound(level, &parts)?,
        };
        for access in rest {
            bound = match access {
                ast::AccessExpr::Subscript(ast::Subscript::Index { index }) => {
                    let index = self.expr(level, index)?;
                    array::element(self, bound, index)?
                }
                ast::AccessExpr::Subscript(ast::Subscript::Slice { lower_bound, upper_bound, stride: None }) => {
                    let bind = |e: &Option<ast::Expr>| e.as_ref().map(|e| self.expr(level, e)).transpose();
                    array::slice(self, bound, bind(lower_bound)?, bind(upper_bound)?)?
                }
                other => return Err(Error::unsupported(format!("the access {other}"))),
            };
        }
        Ok(bound)
    }
}

/// A row value.
pub fn row(items: Vec<Bound>) -> Bound {
    let first = items.first().cloned().unwrap_or_else(super::literal::open_null);
    Bound { r#type: Type::Void, form: Form::Row(items), ..first }
}

/// The expression within parentheses.
pub fn strip(e: &ast::Expr) -> &ast::Expr {
    match e {
        ast::Expr::Nested(inner) => strip(inner),
        other => other,
    }
}

fn escape(value: Option<&ast::ValueWithSpan>) -> Result<Option<char>> {
    let Some(value) = value else { return Ok(None) };
    let text = Binder::string_literal(&value.value).unwrap_or_default();
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(c), None) => Ok(Some(c)),
        // ESCAPE '' turns escaping off.
        (None, _) => Ok(Some('\0')),
        _ => Err(Error::new(Condition::InvalidEscapeSequence, "invalid escape string")
            .hint("Escape string must be empty or one character.")),
    }
}

/// What one level of an expression takes of the stack, at most.
const LEVEL_BYTES: usize = 128 << 10;
/// The stack grows by pieces of so many bytes.
const STACK_PIECE: usize = 2 << 20;

/// Runs `work` on a stack that is deep enough for one more level.
fn on_deep_stack<T>(work: impl FnOnce() -> T) -> T {
    stacker::maybe_grow(LEVEL_BYTES, STACK_PIECE, work)
}
