//! Conversions: where an expression has one type and its place wants another.

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::expr::{Cast, Placeholder};
use polity_base::{Decimal, Type, Value};

use super::Binder;
use super::bound::{Bound, Form, Names};
use crate::error::{Condition, Error, Result};
use crate::expr::cast::{self, Context};
use crate::query::function::convert as kernels;
use crate::query::types;

/// A type as error messages name it: without modifiers.
pub fn shown(r#type: &Type) -> String {
    match r#type {
        Type::Char(_) => "character".to_owned(),
        other => cast::without_modifier(other).to_string(),
    }
}

/// PostgreSQL's type categories (`pg_type.typcategory`), as far as they matter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the names are PostgreSQL's
pub enum Category {
    Array,
    Boolean,
    DateTime,
    Number,
    String,
    Timespan,
    User,
    Unknown,
}

/// The category of a type.
pub fn category(r#type: &Type) -> Category {
    match r#type {
        Type::Bool => Category::Boolean,
        Type::Int2
        | Type::Int4
        | Type::Int8
        | Type::Float4
        | Type::Float8
        | Type::Numeric(_)
        | Type::Oid
        | Type::Regclass => Category::Number,
        Type::Text | Type::Varchar(_) | Type::Char(_) | Type::Name | Type::InternalChar => Category::String,
        Type::Date | Type::Time | Type::Timestamp | Type::TimestampTz => Category::DateTime,
        Type::Interval => Category::Timespan,
        Type::Array(_) => Category::Array,
        Type::Unknown => Category::Unknown,
        Type::Bytea | Type::Uuid | Type::Json | Type::Jsonb | Type::Void => Category::User,
    }
}

/// Whether the type is the one its category prefers (`typispreferred`).
pub fn is_preferred(r#type: &Type) -> bool {
    matches!(r#type, Type::Bool | Type::Float8 | Type::Oid | Type::Text | Type::TimestampTz | Type::Interval)
}

/// Whether `from` converts to `to` anywhere, without being asked.
pub fn is_implicit(from: &Type, to: &Type) -> bool {
    cast::context(from, to) == Some(Context::Implicit)
}

/// A constant.
pub fn literal(value: &Value, r#type: &Type) -> Result<Bound> {
    // A numeric constant has the scale it was written with.
    let data = match (value, r#type) {
        (Value::Numeric(v), Type::Numeric(None)) => types::fixed(v.scale()),
        _ => types::data_type(r#type),
    };
    let expr = Expr::Literal(types::scalar(value, &data)?, None);
    let form = Form::Constant(value.clone());
    Ok(Bound { expr, r#type: r#type.clone(), data, form, names: Names::Relation })
}

/// NULL of a type.
pub fn null(r#type: &Type) -> Result<Bound> {
    literal(&Value::Null, r#type)
}

impl Binder<'_> {
    /// `bound` as `to`, as conversions happen anywhere.
    pub fn implicit(&self, bound: Bound, to: &Type) -> Result<Bound> {
        self.convert(bound, to, Context::Implicit)
    }

    /// `bound` as `to`, as a value is stored.
    pub fn assignment(&self, bound: Bound, to: &Type) -> Result<Bound> {
        self.convert(bound, to, Context::Assignment)
    }

    /// `CAST(bound AS to)`.
    pub fn explicit(&self, bound: Bound, to: &Type) -> Result<Bound> {
        self.convert(bound, to, Context::Explicit)
    }

    /// `bound` as text, if it has no type yet.
    pub fn decided(&self, bound: Bound) -> Result<Bound> {
        if bound.is_open() { self.implicit(bound, &Type::Text) } else { Ok(bound) }
    }

    fn convert(&self, bound: Bound, to: &Type, context: Context) -> Result<Bound> {
        match &bound.form {
            Form::Text(text) => return self.constant_of(text, to, context),
            Form::Null => return null(to),
            Form::Parameter(n) => return self.decide_parameter(*n, to, context),
            Form::Row(_) => {
                return Err(Error::new(Condition::CannotCoerce, format!("cannot cast type record to {}", shown(to))));
            }
            Form::Plain | Form::Constant(_) => {}
        }
        if bound.r#type == *to {
            return Ok(bound);
        }
        if let (Type::Array(from), Type::Array(into)) = (&bound.r#type, to)
            && (from.is_text() && into.is_text() || from.is_integer() && into.is_integer())
            && types::element_type(from) == types::element_type(into)
        {
            // The same representation.
            return Ok(Bound { r#type: to.clone(), form: Form::Plain, ..bound });
        }
        let needed = cast::context(&bound.r#type, to);
        if needed.is_none_or(|needed| needed > context) {
            return Err(Error::new(
                Condition::CannotCoerce,
                format!("cannot cast type {} to {}", shown(&bound.r#type), shown(to)),
            ));
        }
        if let Some(value) = bound.constant()
            && !is_moving(&bound.r#type, to)
            && bound.names == Names::Relation
        {
            let value = cast::convert(value.clone(), to, context == Context::Explicit, self.local())?;
            return literal(&value, to);
        }
        self.computed(bound, to, context == Context::Explicit)
    }

    /// The conversion as part of the plan.
    fn computed(&self, bound: Bound, to: &Type, explicit: bool) -> Result<Bound> {
        let from = bound.r#type.clone();
        let native = |data: DataType| {
            let expr = Expr::Cast(Cast::new(Box::new(bound.expr.clone()), data.clone()));
            Ok(Bound::with_data(expr, to.clone(), data))
        };
        match (&from, to) {
            // The same representation.
            (a, Type::Text | Type::Varchar(None)) if a.is_text() || *a == Type::InternalChar => {
                Ok(Bound { r#type: to.clone(), form: Form::Plain, ..bound })
            }
            (Type::Varchar(Some(a)), Type::Varchar(Some(b))) if a <= b => Ok(Bound { r#type: to.clone(), ..bound }),
            (Type::Oid | Type::Regclass, Type::Oid | Type::Regclass) => {
                Ok(Bound { r#type: to.clone(), names: Names::Relation, ..bound })
            }
            (Type::Numeric(_), Type::Numeric(None)) => Ok(Bound { r#type: to.clone(), ..bound }),
            // Widening never fails, and DataFusion sees through it.
            (Type::Int2, Type::Int4 | Type::Int8)
            | (Type::Int4, Type::Int8)
            | (Type::Int2 | Type::Int4, Type::Float8)
            | (Type::Int2, Type::Float4)
            | (Type::Float4, Type::Float8) => native(types::data_type(to)),
            (Type::Int8 | Type::Int4, Type::Float8 | Type::Float4) => native(types::data_type(to)),
            (Type::Int2 | Type::Int4 | Type::Int8, Type::Numeric(None)) => native(types::fixed(0)),
            (Type::Date, Type::Timestamp) => native(DataType::Timestamp(TimeUnit::Microsecond, None)),
            _ => kernels::conversion(&bound, to, explicit, &self.zone, self.input),
        }
    }

    /// A quoted literal as a constant of `to`.
    fn constant_of(&self, text: &str, to: &Type, context: Context) -> Result<Bound> {
        if *to == Type::Unknown {
            return literal(&Value::Text(text.to_owned()), &Type::Text);
        }
        if *to == Type::Regclass || is_moving(&Type::Unknown, to) && is_relative(text) {
            let open = literal(&Value::Text(text.to_owned()), &Type::Text)?;
            return kernels::conversion(&Bound { form: Form::Plain, ..open }, to, true, &self.zone, self.input);
        }
        // CAST cuts texts that are too long, where reading them would refuse.
        let value = match to.is_text() {
            true => cast::convert(Value::Text(text.to_owned()), to, context == Context::Explicit, self.local())?,
            false => cast::parse(text, to, self.local())?,
        };
        literal(&value, to)
    }

    /// Parameter `n` as `to`: its type is decided by its first use.
    fn decide_parameter(&self, n: usize, to: &Type, context: Context) -> Result<Bound> {
        let mut parameters = self.parameters.borrow_mut();
        if parameters.len() <= n {
            parameters.resize(n + 1, None);
        }
        let known = match parameters.get_mut(n) {
            Some(slot) => slot.get_or_insert_with(|| cast::without_modifier(to)).clone(),
            None => to.clone(),
        };
        drop(parameters);
        let bound = parameter(n, &known);
        self.convert(bound, to, context)
    }

    /// One type for several expressions: what CASE, UNION, VALUES and the like
    /// come to (`select_common_type` in PostgreSQL's parse_coerce.c).
    pub fn common_type(&self, types: &[Type], context: &str) -> Result<Type> {
        let mut chosen: Option<Type> = None;
        for candidate in types.iter().filter(|t| **t != Type::Unknown) {
            chosen = Some(match chosen {
                None => candidate.clone(),
                Some(current) if current == *candidate => current,
                Some(current) => {
                    let (a, b) = (cast::without_modifier(&current), cast::without_modifier(candidate));
                    if a == b {
                        a
                    } else if category(&a) != category(&b) {
                        return Err(Error::new(
                            Condition::DatatypeMismatch,
                            format!("{context} types {} and {} cannot be matched", shown(&a), shown(&b)),
                        ));
                    } else if !is_preferred(&a) && is_implicit(&a, &b) && !is_implicit(&b, &a) {
                        b
                    } else {
                        a
                    }
                }
            });
        }
        Ok(chosen.unwrap_or(Type::Text))
    }

    /// Several expressions as one type and in one form.
    pub fn unify(&self, bounds: Vec<Bound>, context: &str) -> Result<(Vec<Bound>, Type)> {
        let all: Vec<Type> = bounds.iter().map(open_type).collect();
        let common = self.common_type(&all, context)?;
        let mut converted = Vec::with_capacity(bounds.len());
        for bound in bounds {
            let names = bound.names;
            let mut b = self.implicit(bound, &common).map_err(|e| match e.condition() {
                Condition::CannotCoerce => Error::new(
                    Condition::CannotCoerce,
                    format!("{context} could not convert type to {}", shown(&common)),
                ),
                _ => e,
            })?;
            b.names = names;
            converted.push(b);
        }
        Ok((same_form(converted)?, common))
    }
}

/// The type of an expression, `Unknown` while it is open.
pub fn open_type(bound: &Bound) -> Type {
    if bound.is_open() { Type::Unknown } else { bound.r#type.clone() }
}

/// A parameter of a type that is decided.
pub fn parameter(n: usize, r#type: &Type) -> Bound {
    let data = types::data_type(r#type);
    let field = datafusion::arrow::datatypes::Field::new("", data.clone(), true);
    let placeholder = Placeholder::new_with_field(format!("${}", n + 1), Some(std::sync::Arc::new(field)));
    Bound::with_data(Expr::Placeholder(placeholder), r#type.clone(), data)
}

/// Whether a conversion depends on the moment it is done.
fn is_moving(from: &Type, to: &Type) -> bool {
    matches!(from, Type::Unknown) && matches!(to, Type::Date | Type::Time | Type::Timestamp | Type::TimestampTz)
}

/// Whether a date or time is given by a word (`now`, `today`).
fn is_relative(text: &str) -> bool {
    matches!(text.trim().to_ascii_lowercase().as_str(), "now" | "today" | "tomorrow" | "yesterday")
}

/// Numerics of different scales in one place become free ones.
pub fn same_form(bounds: Vec<Bound>) -> Result<Vec<Bound>> {
    let Some(first) = bounds.first() else { return Ok(bounds) };
    if bounds.iter().all(|b| b.data == first.data) {
        return Ok(bounds);
    }
    Ok(bounds.into_iter().map(free).collect())
}

/// A numeric in free form; anything else as it is.
pub fn free(bound: Bound) -> Bound {
    if bound.fixed_scale().is_none() {
        return bound;
    }
    if let Expr::Literal(ScalarValue::Decimal128(value, _, scale), metadata) = &bound.expr {
        let value = value.and_then(|v| Decimal::new(v, u8::try_from(*scale).unwrap_or(0)));
        let bytes = value.map(|v| crate::query::numeric::encode(v).to_vec());
        let scalar = ScalarValue::FixedSizeBinary(crate::query::numeric::FREE_BYTES, bytes);
        return Bound { expr: Expr::Literal(scalar, metadata.clone()), data: types::free(), ..bound };
    }
    Bound { expr: kernels::freed(bound.expr.clone()), data: types::free(), ..bound }
}

/// A numeric with this many digits after the point, as a fixed one.
pub fn fixed(bound: Bound, scale: u8) -> Bound {
    match bound.fixed_scale() {
        Some(current) if current == scale => bound,
        Some(_) => {
            let data = types::fixed(scale);
            let form = bound.form.clone();
            if let Expr::Literal(ScalarValue::Decimal128(Some(v), _, s), metadata) = &bound.expr
                && let Some(v) = Decimal::new(*v, u8::try_from(*s).unwrap_or(0)).and_then(|d| d.rescale(scale))
            {
                let scalar = ScalarValue::Decimal128(Some(v.mantissa()), types::FIXED_DIGITS, scale as i8);
                return Bound { expr: Expr::Literal(scalar, metadata.clone()), data, ..bound };
            }
            let expr = Expr::Cast(Cast::new(Box::new(bound.expr.clone()), data.clone()));
            Bound { expr, data, form, ..bound }
        }
        None => {
            let data = types::fixed(scale);
            Bound { expr: kernels::rescaled(bound.expr.clone(), scale), data, form: Form::Plain, ..bound }
        }
    }
}

/// The expression that compares, sorts and groups as the SQL type does.
pub fn key(bound: &Bound) -> Expr {
    match &bound.r#type {
        Type::Numeric(_) if bound.fixed_scale().is_none() => kernels::numeric_key(bound.expr.clone()),
        Type::Interval => kernels::interval_key(bound.expr.clone()),
        _ => bound.expr.clone(),
    }
}

/// Whether [`key`] is something else than the expression itself.
pub fn has_key(r#type: &Type, data: &DataType) -> bool {
    match r#type {
        Type::Numeric(_) => !matches!(data, DataType::Decimal128(..)),
        Type::Interval => true,
        _ => false,
    }
}
