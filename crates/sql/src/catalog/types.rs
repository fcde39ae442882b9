//! From a type as it is written to the type that is meant.

use datafusion::sql::sqlparser::ast::{ArrayElemTypeDef, CharacterLength, DataType, ExactNumberInfo, TimezoneInfo};
use polity_base::{Bounds, Type};

use super::model::Merge;
use super::name;
use crate::error::{Condition, Error, Result};

/// Decimal digits a `numeric` can have.
pub const MAX_DIGITS: u64 = 38;
/// Characters a `varchar(n)` or `char(n)` can have, as in PostgreSQL.
const MAX_CHARACTERS: u64 = 10_485_760;

/// The type of a column: what [`data_type`] knows, less the types that values
/// cannot be stored as.
pub fn stored_type(written: &DataType) -> Result<Type> {
    match data_type(written)? {
        t @ Type::Array(_) => Err(Error::unsupported(format!("a column of array type {t}"))
            .hint("Keep the elements in a table of their own, or use jsonb.")),
        t @ (Type::Regclass | Type::InternalChar) => Err(Error::unsupported(format!("a column of type {t}"))),
        t @ (Type::Unknown | Type::Void) => {
            Err(Error::new(Condition::InvalidTableDefinition, format!("column has pseudo-type {t}")))
        }
        t => Ok(t),
    }
}

/// The type of a column whose writes merge, as it is stored and shown, and how they
/// merge: `counter`, or `set_of(type)`. `None` if it is another type.
pub fn merging(written: &DataType) -> Result<Option<(Type, Merge)>> {
    let DataType::Custom(name, modifiers) = written else { return Ok(None) };
    let (None, name) = name::parts(name)? else { return Ok(None) };
    match (name.as_str(), modifiers.as_slice()) {
        ("counter", []) => Ok(Some((Type::Int8, Merge::Counter(Bounds::default())))),
        ("counter", _) => Err(Error::new(Condition::SyntaxError, "type modifier is not allowed for type \"counter\"")),
        ("set_of", [element]) => {
            let element = element_of_set(element)?;
            Ok(Some((Type::Array(Box::new(element)), Merge::Set)))
        }
        ("set_of", _) => {
            Err(Error::new(Condition::SyntaxError, "set_of has one element type")
                .hint("Write for example set_of(text)."))
        }
        _ => Ok(None),
    }
}

fn element_of_set(word: &str) -> Result<Type> {
    Ok(match word.to_ascii_lowercase().as_str() {
        "text" | "varchar" => Type::Text,
        "int" | "integer" | "int4" => Type::Int4,
        "bigint" | "int8" => Type::Int8,
        "uuid" => Type::Uuid,
        "date" => Type::Date,
        _ => {
            return Err(Error::unsupported(format!("set_of({word})"))
                .hint("Elements of a set are of type text, integer, bigint, uuid or date."));
        }
    })
}

/// The type that `written` means, in a cast or a parameter list as well.
pub fn data_type(written: &DataType) -> Result<Type> {
    use DataType as D;
    Ok(match written {
        D::Bool | D::Boolean => Type::Bool,
        D::Int2(n) | D::SmallInt(n) => without_modifier(Type::Int2, *n)?,
        D::Int(n) | D::Int4(n) | D::Integer(n) => without_modifier(Type::Int4, *n)?,
        D::Int8(n) | D::BigInt(n) => without_modifier(Type::Int8, *n)?,
        D::Real | D::Float4 => Type::Float4,
        D::DoublePrecision | D::Float8 => Type::Float8,
        D::Float(info) => float(info)?,
        D::Numeric(info) | D::Decimal(info) | D::Dec(info) => numeric(info)?,
        D::Text => Type::Text,
        D::Varchar(n) | D::CharacterVarying(n) | D::CharVarying(n) => Type::Varchar(length("varchar", n.as_ref())?),
        D::Char(n) | D::Character(n) => Type::Char(length("char", n.as_ref())?.unwrap_or(1)),
        D::Bytea => Type::Bytea,
        D::Date => Type::Date,
        D::Time(precision, zone) => time("time", Type::Time, None, *precision, zone)?,
        D::Timestamp(precision, zone) => time("timestamp", Type::Timestamp, Some(Type::TimestampTz), *precision, zone)?,
        D::Interval { fields: None, precision: None | Some(6) } => Type::Interval,
        D::Uuid => Type::Uuid,
        D::JSON => Type::Json,
        D::JSONB => Type::Jsonb,
        D::Regclass => Type::Regclass,
        D::Array(element) => array(element)?,
        D::Custom(name, modifiers) => custom(name, modifiers)?,
        D::Interval { .. }
        | D::Bit(_)
        | D::BitVarying(_)
        | D::VarBit(_)
        | D::TsVector
        | D::TsQuery
        | D::GeometricType(_) => return Err(unsupported(&written.to_string().to_lowercase())),
        other => return Err(missing(&other.to_string().to_lowercase())),
    })
}

fn unsupported(name: &str) -> Error {
    Error::unsupported(format!("type {name}"))
}

fn missing(name: &str) -> Error {
    Error::new(Condition::UndefinedObject, format!("type \"{name}\" does not exist"))
}

fn invalid(message: String) -> Error {
    Error::new(Condition::InvalidParameterValue, message)
}

fn without_modifier(r#type: Type, modifier: Option<u64>) -> Result<Type> {
    match modifier {
        None => Ok(r#type),
        Some(_) => {
            Err(Error::new(Condition::SyntaxError, format!("type modifier is not allowed for type \"{}\"", r#type)))
        }
    }
}

fn float(info: &ExactNumberInfo) -> Result<Type> {
    match info {
        ExactNumberInfo::None => Ok(Type::Float8),
        ExactNumberInfo::Precision(1..=24) => Ok(Type::Float4),
        ExactNumberInfo::Precision(25..=53) => Ok(Type::Float8),
        ExactNumberInfo::Precision(0) => Err(invalid("precision for type float must be at least 1 bit".to_owned())),
        ExactNumberInfo::Precision(_) => Err(invalid("precision for type float must be less than 54 bits".to_owned())),
        ExactNumberInfo::PrecisionAndScale(..) => {
            Err(Error::new(Condition::SyntaxError, "type float has one modifier only"))
        }
    }
}

fn numeric(info: &ExactNumberInfo) -> Result<Type> {
    let (precision, scale) = match *info {
        ExactNumberInfo::None => return Ok(Type::Numeric(None)),
        ExactNumberInfo::Precision(p) => (p, 0),
        ExactNumberInfo::PrecisionAndScale(p, s) => (p, s),
    };
    if !(1..=1000).contains(&precision) {
        return Err(invalid(format!("NUMERIC precision {precision} must be between 1 and 1000")));
    }
    if !(-1000..=1000).contains(&scale) {
        return Err(invalid(format!("NUMERIC scale {scale} must be between -1000 and 1000")));
    }
    let allowed = u8::try_from(precision).ok().filter(|p| u64::from(*p) <= MAX_DIGITS);
    match (allowed, u8::try_from(scale)) {
        (Some(p), Ok(s)) if s <= p => Ok(Type::Numeric(Some((p, s)))),
        _ => Err(Error::unsupported(format!("numeric({precision},{scale})"))
            .hint(format!("Precision goes up to {MAX_DIGITS} digits, scale from 0 to the precision."))),
    }
}

fn length(name: &str, written: Option<&CharacterLength>) -> Result<Option<u32>> {
    match written {
        None => Ok(None),
        Some(CharacterLength::IntegerLength { length, unit: None }) => characters(name, *length).map(Some),
        Some(other) => Err(Error::new(Condition::SyntaxError, format!("syntax error at or near \"{other}\""))),
    }
}

fn characters(name: &str, n: u64) -> Result<u32> {
    if n == 0 {
        return Err(invalid(format!("length for type {name} must be at least 1")));
    }
    u32::try_from(n)
        .ok()
        .filter(|n| u64::from(*n) <= MAX_CHARACTERS)
        .ok_or_else(|| invalid(format!("length for type {name} cannot exceed {MAX_CHARACTERS}")))
}

fn time(name: &str, plain: Type, zoned: Option<Type>, precision: Option<u64>, zone: &TimezoneInfo) -> Result<Type> {
    let r#type = match zone {
        TimezoneInfo::None | TimezoneInfo::WithoutTimeZone => plain,
        TimezoneInfo::Tz | TimezoneInfo::WithTimeZone => {
            zoned.ok_or_else(|| unsupported(&format!("{name} with time zone")))?
        }
    };
    match precision {
        None | Some(6) => Ok(r#type),
        Some(p) => Err(Error::unsupported(format!("{name}({p})")).hint("Times are kept in microseconds.")),
    }
}

fn array(element: &ArrayElemTypeDef) -> Result<Type> {
    match element {
        ArrayElemTypeDef::SquareBracket(element, _) => match data_type(element)? {
            // PostgreSQL does not tell dimensions apart.
            nested @ Type::Array(_) => Ok(nested),
            t => Ok(Type::Array(Box::new(t))),
        },
        other => Err(Error::new(
            Condition::SyntaxError,
            format!("syntax error at or near \"{}\"", DataType::Array(other.clone())),
        )),
    }
}

/// Types whose names the parser does not know.
fn custom(written: &datafusion::sql::sqlparser::ast::ObjectName, modifiers: &[String]) -> Result<Type> {
    let (schema, name) = name::parts(written)?;
    let quoted = written.0.last().and_then(|p| p.as_ident()).is_some_and(|i| i.quote_style.is_some());
    match schema.as_deref() {
        None | Some("pg_catalog") => {}
        Some(_) => return Err(missing(&written.to_string())),
    }
    let modifier = |i: usize| modifiers.get(i).map(|m| m.trim().parse::<u64>().map_err(|_| invalid_modifiers(&name)));
    let number = modifier(0).transpose()?;
    if modifiers.len() > 1 && name != "numeric" {
        return Err(invalid_modifiers(&name));
    }
    if let Some(element) = name.strip_prefix('_') {
        return by_name(element).map(|t| Type::Array(Box::new(t))).ok_or_else(|| missing(&name));
    }
    match (name.as_str(), number) {
        ("varchar", Some(n)) => return Ok(Type::Varchar(Some(characters("varchar", n)?))),
        ("bpchar", Some(n)) => return Ok(Type::Char(characters("char", n)?)),
        ("bpchar", None) => {
            return Err(unsupported("bpchar without a length").hint("Use text, or char(n)."));
        }
        ("char", None) if quoted => return Ok(Type::InternalChar),
        ("timestamp", Some(p)) => {
            return time("timestamp", Type::Timestamp, None, Some(p), &TimezoneInfo::None);
        }
        ("timestamptz", Some(p)) => {
            return time("timestamptz", Type::TimestampTz, None, Some(p), &TimezoneInfo::None);
        }
        ("numeric", Some(p)) => {
            let scale = modifiers.get(1).map_or(Ok(0), |m| m.trim().parse().map_err(|_| invalid_modifiers(&name)))?;
            return numeric(&ExactNumberInfo::PrecisionAndScale(p, scale));
        }
        _ => {}
    }
    match by_name(&name) {
        Some(t) if modifiers.is_empty() => Ok(t),
        Some(t) => without_modifier(t, Some(0)),
        None if NOT_HERE.contains(&name.as_str()) => Err(unsupported(&name)),
        None => Err(missing(&name)),
    }
}

fn invalid_modifiers(name: &str) -> Error {
    invalid(format!("invalid type modifier for type {name}"))
}

/// The type PostgreSQL's `pg_type` calls `name`; also used where a type is
/// named by a string.
pub fn by_name(name: &str) -> Option<Type> {
    Some(match name {
        "bool" => Type::Bool,
        "int2" => Type::Int2,
        "int4" => Type::Int4,
        "int8" => Type::Int8,
        "float4" => Type::Float4,
        "float8" => Type::Float8,
        "numeric" => Type::Numeric(None),
        "text" => Type::Text,
        "varchar" => Type::Varchar(None),
        "bytea" => Type::Bytea,
        "date" => Type::Date,
        "time" => Type::Time,
        "timestamp" => Type::Timestamp,
        "timestamptz" => Type::TimestampTz,
        "interval" => Type::Interval,
        "uuid" => Type::Uuid,
        "json" => Type::Json,
        "jsonb" => Type::Jsonb,
        "oid" => Type::Oid,
        "name" => Type::Name,
        "regclass" | "regtype" | "regproc" | "regprocedure" | "regoper" | "regoperator" | "regnamespace"
        | "regrole" => Type::Regclass,
        "unknown" => Type::Unknown,
        "void" => Type::Void,
        _ => return None,
    })
}

/// Types that PostgreSQL has and Polity has not.
const NOT_HERE: &[&str] = &[
    "bit",
    "box",
    "box2d",
    "cidr",
    "circle",
    "citext",
    "daterange",
    "hstore",
    "inet",
    "int4range",
    "int8range",
    "line",
    "lseg",
    "macaddr",
    "macaddr8",
    "money",
    "numrange",
    "path",
    "pg_lsn",
    "point",
    "polygon",
    "timetz",
    "tsquery",
    "tsrange",
    "tstzrange",
    "tsvector",
    "varbit",
    "xid",
    "xml",
];

/// The name `pg_type` has for a type: `int4` for `integer`, `_int4` for arrays.
pub fn internal_name(r#type: &Type) -> String {
    let name = match r#type {
        Type::Bool => "bool",
        Type::Int2 => "int2",
        Type::Int4 => "int4",
        Type::Int8 => "int8",
        Type::Float4 => "float4",
        Type::Float8 => "float8",
        Type::Numeric(_) => "numeric",
        Type::Text => "text",
        Type::Varchar(_) => "varchar",
        Type::Char(_) => "bpchar",
        Type::Bytea => "bytea",
        Type::Date => "date",
        Type::Time => "time",
        Type::Timestamp => "timestamp",
        Type::TimestampTz => "timestamptz",
        Type::Interval => "interval",
        Type::Uuid => "uuid",
        Type::Json => "json",
        Type::Jsonb => "jsonb",
        Type::Oid => "oid",
        Type::Name => "name",
        Type::InternalChar => "char",
        Type::Regclass => "regclass",
        Type::Unknown => "unknown",
        Type::Void => "void",
        Type::Array(element) => return format!("_{}", internal_name(element)),
    };
    name.to_owned()
}

/// Whether values of this type have an order, and so can be part of a key
/// ([`polity_base::key::encode`] knows the same).
pub fn is_ordered(r#type: &Type) -> bool {
    !matches!(r#type, Type::Json | Type::Jsonb | Type::Interval | Type::Array(_) | Type::Unknown | Type::Void)
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    fn meant(text: &str) -> Result<Type> {
        data_type(&Parser::new(&PostgreSqlDialect {}).try_with_sql(text).unwrap().parse_data_type().unwrap())
    }

    #[test]
    fn aliases_mean_their_types() {
        for (text, r#type) in [
            ("int", Type::Int4),
            ("INTEGER", Type::Int4),
            ("int8", Type::Int8),
            ("bigint", Type::Int8),
            ("smallint", Type::Int2),
            ("float", Type::Float8),
            ("float(24)", Type::Float4),
            ("float4", Type::Float4),
            ("double precision", Type::Float8),
            ("decimal(10, 2)", Type::Numeric(Some((10, 2)))),
            ("numeric(5)", Type::Numeric(Some((5, 0)))),
            ("pg_catalog.numeric(5,1)", Type::Numeric(Some((5, 1)))),
            ("numeric", Type::Numeric(None)),
            ("character varying(7)", Type::Varchar(Some(7))),
            ("varchar", Type::Varchar(None)),
            ("char", Type::Char(1)),
            ("character(3)", Type::Char(3)),
            ("bpchar(3)", Type::Char(3)),
            ("\"char\"", Type::InternalChar),
            ("timestamptz", Type::TimestampTz),
            ("timestamp with time zone", Type::TimestampTz),
            ("timestamp(6) without time zone", Type::Timestamp),
            ("time", Type::Time),
            ("interval", Type::Interval),
            ("bool", Type::Bool),
            ("pg_catalog.int4", Type::Int4),
            ("text[]", Type::Array(Box::new(Type::Text))),
            ("int[][]", Type::Array(Box::new(Type::Int4))),
            ("_int4", Type::Array(Box::new(Type::Int4))),
            ("name", Type::Name),
            ("oid", Type::Oid),
            ("regclass", Type::Regclass),
            ("jsonb", Type::Jsonb),
            ("uuid", Type::Uuid),
            ("bytea", Type::Bytea),
        ] {
            assert_eq!(meant(text), Ok(r#type), "{text}");
        }
    }

    #[test]
    fn what_is_not_here_is_refused_by_name() {
        for (text, condition) in [
            ("foo", Condition::UndefinedObject),
            ("tinyint", Condition::UndefinedObject),
            ("inet", Condition::FeatureNotSupported),
            ("time with time zone", Condition::FeatureNotSupported),
            ("timestamp(3)", Condition::FeatureNotSupported),
            ("numeric(39)", Condition::FeatureNotSupported),
            ("numeric(0)", Condition::InvalidParameterValue),
            ("varchar(0)", Condition::InvalidParameterValue),
            ("float(60)", Condition::InvalidParameterValue),
            ("int(11)", Condition::SyntaxError),
        ] {
            assert_eq!(meant(text).unwrap_err().condition(), condition, "{text}");
        }
    }
}
