//! SQL types and their PostgreSQL object identifiers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A SQL type, with the modifiers that PostgreSQL keeps in `atttypmod`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Type {
    /// `boolean`
    Bool,
    /// `smallint`
    Int2,
    /// `integer`
    Int4,
    /// `bigint`
    Int8,
    /// `real`
    Float4,
    /// `double precision`
    Float8,
    /// `numeric`, or `numeric(precision, scale)`
    Numeric(Option<(u8, u8)>),
    /// `text`
    Text,
    /// `character varying`, or `character varying(n)`, n in characters
    Varchar(Option<u32>),
    /// `character(n)`, n in characters; blank-padded
    Char(u32),
    /// `bytea`
    Bytea,
    /// `date`
    Date,
    /// `time without time zone`
    Time,
    /// `timestamp without time zone`
    Timestamp,
    /// `timestamp with time zone`
    TimestampTz,
    /// `interval`
    Interval,
    /// `uuid`
    Uuid,
    /// `json`: the text as it was given
    Json,
    /// `jsonb`: the text in a canonical form
    Jsonb,
    /// `oid`
    Oid,
    /// `name`, as the system catalogs use it
    Name,
    /// `"char"`, the single byte of the system catalogs
    InternalChar,
    /// `regclass`, `regtype`, `regproc`: an oid shown by name
    Regclass,
    /// `unknown`: a literal whose type is not decided yet
    Unknown,
    /// `void`
    Void,
    /// An array of another type
    Array(Box<Type>),
}

impl Type {
    /// The type's PostgreSQL object identifier (`pg_type.oid`).
    pub fn oid(&self) -> u32 {
        match self {
            Type::Bool => 16,
            Type::Bytea => 17,
            Type::InternalChar => 18,
            Type::Name => 19,
            Type::Int8 => 20,
            Type::Int2 => 21,
            Type::Int4 => 23,
            Type::Text => 25,
            Type::Oid => 26,
            Type::Json => 114,
            Type::Float4 => 700,
            Type::Float8 => 701,
            Type::Unknown => 705,
            Type::Char(_) => 1042,
            Type::Varchar(_) => 1043,
            Type::Date => 1082,
            Type::Time => 1083,
            Type::Timestamp => 1114,
            Type::TimestampTz => 1184,
            Type::Interval => 1186,
            Type::Numeric(_) => 1700,
            Type::Regclass => 2205,
            Type::Void => 2278,
            Type::Uuid => 2950,
            Type::Jsonb => 3802,
            Type::Array(element) => element.array_oid(),
        }
    }

    fn array_oid(&self) -> u32 {
        match self {
            Type::Bool => 1000,
            Type::Bytea => 1001,
            Type::InternalChar => 1002,
            Type::Name => 1003,
            Type::Int2 => 1005,
            Type::Int4 => 1007,
            Type::Text | Type::Unknown | Type::Void => 1009,
            Type::Char(_) => 1014,
            Type::Varchar(_) => 1015,
            Type::Int8 => 1016,
            Type::Float4 => 1021,
            Type::Float8 => 1022,
            Type::Oid => 1028,
            Type::Timestamp => 1115,
            Type::Date => 1182,
            Type::Time => 1183,
            Type::TimestampTz => 1185,
            Type::Interval => 1187,
            Type::Numeric(_) => 1231,
            Type::Json => 199,
            Type::Regclass => 2210,
            Type::Uuid => 2951,
            Type::Jsonb => 3807,
            Type::Array(element) => element.array_oid(),
        }
    }

    /// The type with this object identifier, without modifiers. `None` when
    /// Polity does not have it.
    pub fn from_oid(oid: u32) -> Option<Type> {
        let scalar = [
            Type::Bool,
            Type::Bytea,
            Type::InternalChar,
            Type::Name,
            Type::Int8,
            Type::Int2,
            Type::Int4,
            Type::Text,
            Type::Oid,
            Type::Json,
            Type::Float4,
            Type::Float8,
            Type::Unknown,
            Type::Char(1),
            Type::Varchar(None),
            Type::Date,
            Type::Time,
            Type::Timestamp,
            Type::TimestampTz,
            Type::Interval,
            Type::Numeric(None),
            Type::Regclass,
            Type::Void,
            Type::Uuid,
            Type::Jsonb,
        ];
        for t in scalar {
            if t.oid() == oid {
                return Some(t);
            }
            if t != Type::Unknown && t != Type::Void && t.array_oid() == oid {
                return Some(Type::Array(Box::new(t)));
            }
        }
        None
    }

    /// PostgreSQL's `atttypmod`: -1 when the type has no modifier.
    pub fn modifier(&self) -> i32 {
        match self {
            Type::Numeric(Some((precision, scale))) => (i32::from(*precision) << 16 | i32::from(*scale)) + 4,
            Type::Varchar(Some(n)) | Type::Char(n) => i32::try_from(*n).map_or(-1, |n| n.saturating_add(4)),
            _ => -1,
        }
    }

    /// PostgreSQL's `typlen`: bytes, or -1 for types of variable length.
    pub fn length(&self) -> i16 {
        match self {
            Type::Bool | Type::InternalChar => 1,
            Type::Int2 => 2,
            Type::Int4 | Type::Float4 | Type::Date | Type::Oid | Type::Regclass | Type::Void => 4,
            Type::Int8 | Type::Float8 | Type::Time | Type::Timestamp | Type::TimestampTz => 8,
            Type::Interval | Type::Uuid => 16,
            Type::Name => 64,
            Type::Unknown => -2,
            _ => -1,
        }
    }

    /// Whether values of this type are text.
    pub fn is_text(&self) -> bool {
        matches!(self, Type::Text | Type::Varchar(_) | Type::Char(_) | Type::Name | Type::Unknown)
    }

    /// Whether values of this type are whole numbers.
    pub fn is_integer(&self) -> bool {
        matches!(self, Type::Int2 | Type::Int4 | Type::Int8 | Type::Oid)
    }

    /// Whether values of this type are numbers.
    pub fn is_number(&self) -> bool {
        self.is_integer() || matches!(self, Type::Float4 | Type::Float8 | Type::Numeric(_))
    }
}

/// The name as PostgreSQL's `format_type` prints it.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Type::Bool => "boolean",
            Type::Int2 => "smallint",
            Type::Int4 => "integer",
            Type::Int8 => "bigint",
            Type::Float4 => "real",
            Type::Float8 => "double precision",
            Type::Numeric(None) => "numeric",
            Type::Numeric(Some((p, s))) => return write!(f, "numeric({p},{s})"),
            Type::Text => "text",
            Type::Varchar(None) => "character varying",
            Type::Varchar(Some(n)) => return write!(f, "character varying({n})"),
            Type::Char(n) => return write!(f, "character({n})"),
            Type::Bytea => "bytea",
            Type::Date => "date",
            Type::Time => "time without time zone",
            Type::Timestamp => "timestamp without time zone",
            Type::TimestampTz => "timestamp with time zone",
            Type::Interval => "interval",
            Type::Uuid => "uuid",
            Type::Json => "json",
            Type::Jsonb => "jsonb",
            Type::Oid => "oid",
            Type::Name => "name",
            Type::InternalChar => "\"char\"",
            Type::Regclass => "regclass",
            Type::Unknown => "unknown",
            Type::Void => "void",
            Type::Array(element) => return write!(f, "{element}[]"),
        };
        f.write_str(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_identifiers_lead_back_to_their_types() {
        for t in [Type::Bool, Type::Int4, Type::Numeric(None), Type::Jsonb, Type::Array(Box::new(Type::Text))] {
            assert_eq!(Type::from_oid(t.oid()), Some(t));
        }
        assert_eq!(Type::from_oid(1), None);
    }

    #[test]
    fn names_and_modifiers_are_postgresqls() {
        assert_eq!(Type::Numeric(Some((15, 2))).to_string(), "numeric(15,2)");
        assert_eq!(Type::Numeric(Some((15, 2))).modifier(), 983_046);
        assert_eq!(Type::Varchar(Some(40)).modifier(), 44);
    }
}
