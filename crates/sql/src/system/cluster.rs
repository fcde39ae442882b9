//! Types, roles, settings, and what every PostgreSQL database has.

use polity_base::{Type, Value};

use super::shape::Fill;
use super::{DATABASE_ID, Rows, SystemInput, bool, maybe, merging, namespace, oid, text};
use crate::catalog::{SUPERUSER, types};

pub(super) fn fill_of(name: &str) -> Option<Fill> {
    Some(match name {
        "pg_type" => pg_type,
        "pg_namespace" => namespaces,
        "pg_am" => access_methods,
        "pg_opclass" => operator_classes,
        "pg_opfamily" => operator_families,
        "pg_collation" => collations,
        "pg_language" => languages,
        "pg_tablespace" => tablespaces,
        "pg_database" => databases,
        "pg_roles" | "pg_authid" => roles,
        "pg_user" | "pg_shadow" => users,
        "pg_settings" => settings,
        _ => return None,
    })
}

/// What `pg_type` says about a type besides its name and length.
pub(super) struct TypeFacts {
    pub by_value: bool,
    pub alignment: &'static str,
    pub category: &'static str,
    pub preferred: bool,
    pub collation: u32,
    pub input: &'static str,
}

/// The default collation, and `C`, which names have.
const DEFAULT_COLLATION: u32 = 100;
const C_COLLATION: u32 = 950;

pub(super) fn type_facts(r#type: &Type) -> TypeFacts {
    let facts = |by_value, alignment, category, input| TypeFacts {
        by_value,
        alignment,
        category,
        preferred: false,
        collation: 0,
        input,
    };
    let preferred = |f: TypeFacts| TypeFacts { preferred: true, ..f };
    let collated = |f: TypeFacts| TypeFacts { collation: DEFAULT_COLLATION, ..f };
    match r#type {
        Type::Bool => preferred(facts(true, "c", "B", "bool")),
        Type::Bytea => facts(false, "i", "U", "bytea"),
        Type::InternalChar => facts(true, "c", "Z", "char"),
        Type::Name => TypeFacts { collation: C_COLLATION, ..facts(false, "c", "S", "name") },
        Type::Int8 => facts(true, "d", "N", "int8"),
        Type::Int2 => facts(true, "s", "N", "int2"),
        Type::Int4 => facts(true, "i", "N", "int4"),
        Type::Text => preferred(collated(facts(false, "i", "S", "text"))),
        Type::Oid => preferred(facts(true, "i", "N", "oid")),
        Type::Json => facts(false, "i", "U", "json_"),
        Type::Float4 => facts(true, "i", "N", "float4"),
        Type::Float8 => preferred(facts(true, "d", "N", "float8")),
        Type::Unknown => facts(false, "c", "X", "unknown"),
        Type::Char(_) => collated(facts(false, "i", "S", "bpchar")),
        Type::Varchar(_) => collated(facts(false, "i", "S", "varchar")),
        Type::Date => facts(true, "i", "D", "date_"),
        Type::Time => facts(true, "d", "D", "time_"),
        Type::Timestamp => facts(true, "d", "D", "timestamp_"),
        Type::TimestampTz => preferred(facts(true, "d", "D", "timestamptz_")),
        Type::Interval => preferred(facts(false, "d", "T", "interval_")),
        Type::Numeric(_) => facts(false, "i", "N", "numeric_"),
        Type::Regclass => facts(true, "i", "N", "regclass"),
        Type::Void => facts(true, "i", "P", "void_"),
        Type::Uuid => facts(false, "c", "U", "uuid_"),
        Type::Jsonb => facts(false, "i", "U", "jsonb_"),
        Type::Array(element) => {
            let inner = type_facts(element);
            let alignment = if inner.alignment == "d" { "d" } else { "i" };
            TypeFacts { collation: inner.collation, ..facts(false, alignment, "A", "array_") }
        }
    }
}

/// `attstorage`: how PostgreSQL would keep long values.
pub(super) fn storage_of(r#type: &Type) -> &'static str {
    match r#type {
        Type::Numeric(_) => "m",
        t if t.length() == -1 => "x",
        _ => "p",
    }
}

/// The types that `pg_type` lists, arrays aside.
fn scalars() -> [Type; 25] {
    [
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
    ]
}

fn pg_type(_: &SystemInput, rows: &mut Rows<'_>) {
    for t in scalars() {
        let pseudo = matches!(t, Type::Unknown | Type::Void);
        let array = Type::Array(Box::new(t.clone()));
        add_type(rows, &t, 0, if pseudo { 0 } else { array.oid() }, if pseudo { "p" } else { "b" });
        if !pseudo {
            add_type(rows, &array, t.oid(), 0, "b");
        }
    }
    for t in merging::ALL {
        add_type(rows, &t.values(), 0, 0, "d");
        let (base, last) = (t.values().oid(), rows.rows.len() - 1);
        let cells = [
            ("oid", Value::Oid(t.oid)),
            ("typname", text(t.name)),
            ("typbasetype", Value::Oid(base)),
            ("typnotnull", bool(true)),
        ];
        rows.set(last, cells);
    }
}

fn add_type(rows: &mut Rows<'_>, t: &Type, element: u32, array: u32, kind: &str) {
    let facts = type_facts(t);
    let function = |suffix: &str| text(format!("{}{suffix}", facts.input));
    rows.add([
        ("oid", Value::Oid(t.oid())),
        ("typname", text(types::internal_name(t))),
        ("typnamespace", Value::Oid(namespace::PG_CATALOG)),
        ("typowner", oid(SUPERUSER)),
        ("typlen", Value::Int2(t.length())),
        ("typbyval", bool(facts.by_value)),
        ("typtype", text(kind)),
        ("typcategory", text(facts.category)),
        ("typispreferred", bool(facts.preferred)),
        ("typisdefined", bool(true)),
        ("typdelim", text(",")),
        ("typelem", Value::Oid(element)),
        ("typarray", Value::Oid(array)),
        ("typinput", function("in")),
        ("typoutput", function("out")),
        ("typreceive", function("recv")),
        ("typsend", function("send")),
        ("typmodin", text("-")),
        ("typmodout", text("-")),
        ("typanalyze", text("-")),
        ("typsubscript", text(if element == 0 { "-" } else { "array_subscript_handler" })),
        ("typalign", text(facts.alignment)),
        ("typstorage", text(storage_of(t))),
        ("typtypmod", Value::Int4(-1)),
        ("typcollation", Value::Oid(facts.collation)),
    ]);
}

/// The role that PostgreSQL's schema `public` belongs to: whoever owns the database. It
/// has no rights of its own here, and cannot be granted anything.
pub(super) const DATABASE_OWNER: (u32, &str) = (6171, "pg_database_owner");

/// Schemas and their identifiers.
pub(super) const NAMESPACES: [(u32, &str); 4] = [
    (namespace::PG_CATALOG, "pg_catalog"),
    (namespace::PUBLIC, "public"),
    (namespace::INFORMATION_SCHEMA, "information_schema"),
    (namespace::POLITY, "polity"),
];

fn namespaces(_: &SystemInput, rows: &mut Rows<'_>) {
    let (owner_id, owner) = DATABASE_OWNER;
    for (id, name) in NAMESPACES {
        rows.add([("oid", Value::Oid(id)), ("nspname", text(name)), ("nspowner", oid(SUPERUSER))]);
        if id == namespace::PUBLIC {
            // As PostgreSQL makes it, so that a dump does not make it again.
            let acl = [format!("{owner}=UC/{owner}"), format!("=U/{owner}")].map(text).to_vec();
            rows.set(rows.rows.len() - 1, [("nspowner", Value::Oid(owner_id)), ("nspacl", Value::Array(acl))]);
        }
    }
}

fn access_methods(_: &SystemInput, rows: &mut Rows<'_>) {
    for (id, name, handler, kind) in [(2, "heap", "heap_tableam_handler", "t"), (403, "btree", "bthandler", "i")] {
        rows.add([
            ("oid", Value::Oid(id)),
            ("amname", text(name)),
            ("amhandler", text(handler)),
            ("amtype", text(kind)),
        ]);
    }
}

/// Operator classes by which indexes sort: identifier, name, family, type.
const OPCLASSES: [(u32, &str, u32, &str, Type); 19] = [
    (10003, "bool_ops", 424, "bool_ops", Type::Bool),
    (10006, "bytea_ops", 428, "bytea_ops", Type::Bytea),
    (10007, "char_ops", 429, "char_ops", Type::InternalChar),
    (10028, "name_ops", 1994, "text_ops", Type::Name),
    (3124, "int8_ops", 1976, "integer_ops", Type::Int8),
    (1979, "int2_ops", 1976, "integer_ops", Type::Int2),
    (1978, "int4_ops", 1976, "integer_ops", Type::Int4),
    (3126, "text_ops", 1994, "text_ops", Type::Text),
    (1981, "oid_ops", 1989, "oid_ops", Type::Oid),
    (10012, "float4_ops", 1970, "float_ops", Type::Float4),
    (3123, "float8_ops", 1970, "float_ops", Type::Float8),
    (10004, "bpchar_ops", 426, "bpchar_ops", Type::Char(1)),
    (3122, "date_ops", 434, "datetime_ops", Type::Date),
    (10038, "time_ops", 1996, "time_ops", Type::Time),
    (3128, "timestamp_ops", 434, "datetime_ops", Type::Timestamp),
    (3127, "timestamptz_ops", 434, "datetime_ops", Type::TimestampTz),
    (3125, "numeric_ops", 1988, "numeric_ops", Type::Numeric(None)),
    (10065, "uuid_ops", 2968, "uuid_ops", Type::Uuid),
    (10044, "varchar_ops", 1994, "text_ops", Type::Varchar(None)),
];

/// The operator class by which an index sorts a type.
pub(super) fn opclass(r#type: &Type) -> u32 {
    let wanted = if matches!(r#type, Type::Varchar(_)) { Type::Text.oid() } else { r#type.oid() };
    OPCLASSES.iter().find(|(.., t)| t.oid() == wanted).map_or(0, |(id, ..)| *id)
}

fn operator_classes(_: &SystemInput, rows: &mut Rows<'_>) {
    for (id, name, family, _, r#type) in OPCLASSES {
        // varchar has none of its own: text's serves it.
        let own = !matches!(r#type, Type::Varchar(_));
        rows.add([
            ("oid", Value::Oid(id)),
            ("opcmethod", Value::Oid(403)),
            ("opcname", text(name)),
            ("opcnamespace", Value::Oid(namespace::PG_CATALOG)),
            ("opcowner", oid(SUPERUSER)),
            ("opcfamily", Value::Oid(family)),
            ("opcintype", Value::Oid(if own { r#type.oid() } else { Type::Text.oid() })),
            ("opcdefault", bool(own)),
        ]);
    }
}

fn operator_families(_: &SystemInput, rows: &mut Rows<'_>) {
    let mut families: Vec<(u32, &str)> = OPCLASSES.iter().map(|(_, _, id, name, _)| (*id, *name)).collect();
    families.sort_unstable();
    families.dedup();
    for (id, name) in families {
        rows.add([
            ("oid", Value::Oid(id)),
            ("opfmethod", Value::Oid(403)),
            ("opfname", text(name)),
            ("opfnamespace", Value::Oid(namespace::PG_CATALOG)),
            ("opfowner", oid(SUPERUSER)),
        ]);
    }
}

fn collations(_: &SystemInput, rows: &mut Rows<'_>) {
    for (id, name, provider, locale) in
        [(100, "default", "d", None), (C_COLLATION, "C", "c", Some("C")), (951, "POSIX", "c", Some("POSIX"))]
    {
        rows.add([
            ("oid", Value::Oid(id)),
            ("collname", text(name)),
            ("collnamespace", Value::Oid(namespace::PG_CATALOG)),
            ("collowner", oid(SUPERUSER)),
            ("collprovider", text(provider)),
            ("collisdeterministic", bool(true)),
            ("collencoding", Value::Int4(-1)),
            ("collcollate", maybe(locale)),
            ("collctype", maybe(locale)),
        ]);
    }
}

fn languages(_: &SystemInput, rows: &mut Rows<'_>) {
    for (id, name, trusted) in [(12, "internal", false), (14, "sql", true)] {
        rows.add([
            ("oid", Value::Oid(id)),
            ("lanname", text(name)),
            ("lanowner", oid(SUPERUSER)),
            ("lanpltrusted", bool(trusted)),
        ]);
    }
}

fn tablespaces(_: &SystemInput, rows: &mut Rows<'_>) {
    for (id, name) in [(1663, "pg_default"), (1664, "pg_global")] {
        rows.add([("oid", Value::Oid(id)), ("spcname", text(name)), ("spcowner", oid(SUPERUSER))]);
    }
}

fn databases(input: &SystemInput, rows: &mut Rows<'_>) {
    rows.add([
        ("oid", Value::Oid(DATABASE_ID)),
        ("datname", text(&input.catalog.database)),
        ("datdba", oid(SUPERUSER)),
        ("encoding", Value::Int4(6)),
        ("datlocprovider", text("c")),
        ("datallowconn", bool(true)),
        ("datconnlimit", Value::Int4(-1)),
        ("dattablespace", Value::Oid(1663)),
        ("datcollate", text("C")),
        ("datctype", text("C")),
    ]);
}

fn roles(input: &SystemInput, rows: &mut Rows<'_>) {
    // Verifiers are shown in pg_authid only, and to superusers only.
    let shows = rows.table.name == "pg_authid" && is_superuser(input);
    let (owner_id, owner) = DATABASE_OWNER;
    rows.add([
        ("oid", Value::Oid(owner_id)),
        ("rolname", text(owner)),
        ("rolinherit", bool(true)),
        ("rolconnlimit", Value::Int4(-1)),
    ]);
    for r in input.catalog.roles.values() {
        let password = match &r.password {
            Some(verifier) if shows => text(verifier),
            _ if rows.table.name == "pg_roles" => text("********"),
            _ => Value::Null,
        };
        rows.add([
            ("oid", oid(r.id)),
            ("rolname", text(&r.name)),
            ("rolsuper", bool(r.superuser)),
            ("rolinherit", bool(true)),
            ("rolcreaterole", bool(r.superuser)),
            ("rolcreatedb", bool(r.superuser)),
            ("rolcanlogin", bool(r.login)),
            ("rolconnlimit", Value::Int4(-1)),
            ("rolpassword", password),
        ]);
    }
}

fn is_superuser(input: &SystemInput) -> bool {
    input.catalog.roles.get(&input.user).is_some_and(|r| r.superuser)
}

fn users(input: &SystemInput, rows: &mut Rows<'_>) {
    let shows = rows.table.name == "pg_shadow" && is_superuser(input);
    for r in input.catalog.roles.values().filter(|r| r.login) {
        let password = match &r.password {
            Some(verifier) if shows => text(verifier),
            _ if rows.table.name == "pg_user" => text("********"),
            _ => Value::Null,
        };
        rows.add([
            ("usename", text(&r.name)),
            ("usesysid", oid(r.id)),
            ("usecreatedb", bool(r.superuser)),
            ("usesuper", bool(r.superuser)),
            ("passwd", password),
        ]);
    }
}

fn settings(input: &SystemInput, rows: &mut Rows<'_>) {
    for (name, value, description) in input.settings.all() {
        rows.add([
            ("name", text(name)),
            ("setting", text(value)),
            ("category", text("Polity")),
            ("short_desc", text(description)),
            ("context", text("user")),
            ("vartype", text("string")),
            ("source", text("session")),
        ]);
    }
}
