//! Functions over the catalog and the session: their logic, and the table by
//! which the planner finds them.

use polity_base::text::Settings as TextSettings;
use polity_base::{TableId, Type, Value};

use super::privileges::{default_acl, has_table_privilege as may};
use super::shape::{all, system_table};
use super::{
    SystemInput, activity,
    cluster::{DATABASE_OWNER, NAMESPACES},
    definition, merging, namespace,
};
use crate::catalog::{Catalog, Relation, name, types};
use crate::error::{Condition, Error, Result};

/// A function over the catalog and the session.
pub struct SystemFunction {
    /// Its name, in `pg_catalog`
    pub name: &'static str,
    /// The types of its arguments; `Unknown` takes any type
    pub args: &'static [Type],
    /// The type of its result
    pub returns: Type,
    /// Whether it is NULL when an argument is
    pub strict: bool,
    /// Whether it does something, so that it must be called when the statement runs
    pub acts: bool,
    /// What it does
    pub eval: fn(&SystemInput, &[Value]) -> Result<Value>,
}

const TEXT: Type = Type::Text;
const NAME: Type = Type::Name;
const OID: Type = Type::Oid;
const INT: Type = Type::Int4;
const BIG: Type = Type::Int8;
const BOOL: Type = Type::Bool;

const fn strict(
    name: &'static str,
    args: &'static [Type],
    returns: Type,
    eval: fn(&SystemInput, &[Value]) -> Result<Value>,
) -> SystemFunction {
    SystemFunction { name, args, returns, strict: true, acts: false, eval }
}

const fn lenient(
    name: &'static str,
    args: &'static [Type],
    returns: Type,
    eval: fn(&SystemInput, &[Value]) -> Result<Value>,
) -> SystemFunction {
    SystemFunction { name, args, returns, strict: false, acts: false, eval }
}

const fn acting(
    name: &'static str,
    args: &'static [Type],
    returns: Type,
    eval: fn(&SystemInput, &[Value]) -> Result<Value>,
) -> SystemFunction {
    SystemFunction { name, args, returns, strict: true, acts: true, eval }
}

/// The functions, several of one name where it takes different arguments. Where
/// PostgreSQL takes `regclass`, these take `oid` or `text`.
pub static SCALAR_FUNCTIONS: &[SystemFunction] = &[
    // The session and the cluster
    strict("version", &[], TEXT, |_, _| text(VERSION)),
    strict("current_database", &[], NAME, |i, _| text(&i.catalog.database)),
    strict("current_catalog", &[], NAME, |i, _| text(&i.catalog.database)),
    strict("current_schema", &[], NAME, |_, _| text(name::PUBLIC)),
    strict("current_user", &[], NAME, |i, _| text(&i.user)),
    strict("current_role", &[], NAME, |i, _| text(&i.user)),
    strict("session_user", &[], NAME, |i, _| text(&i.user)),
    strict("user", &[], NAME, |i, _| text(&i.user)),
    acting("pg_cancel_backend", &[INT], BOOL, |i, a| activity::end(i, int(a, 0), false)),
    acting("pg_terminate_backend", &[INT], BOOL, |i, a| activity::end(i, int(a, 0), true)),
    strict("pg_is_in_recovery", &[], BOOL, |_, _| Ok(Value::Bool(false))),
    strict("pg_my_temp_schema", &[], OID, |_, _| Ok(Value::Oid(0))),
    strict("pg_is_other_temp_schema", &[OID], BOOL, |_, _| Ok(Value::Bool(false))),
    strict("inet_client_addr", &[], TEXT, |_, _| Ok(Value::Null)),
    strict("inet_server_addr", &[], TEXT, |_, _| Ok(Value::Null)),
    strict("getdatabaseencoding", &[], NAME, |_, _| text("UTF8")),
    strict("pg_client_encoding", &[], NAME, |_, _| text("UTF8")),
    strict("current_setting", &[TEXT], TEXT, |i, a| current_setting(i, word(a, 0), false)),
    strict("current_setting", &[TEXT, BOOL], TEXT, |i, a| current_setting(i, word(a, 0), flag(a, 1))),
    // The one that sets is run by the session, as a SELECT of its own.
    acting("set_config", &[TEXT, TEXT, BOOL], TEXT, |_, _| {
        Err(Error::unsupported("set_config within a larger query").hint("Use SET, or SELECT set_config(…) alone."))
    }),
    // Names and types
    lenient("format_type", &[OID, INT], TEXT, |i, a| Ok(format_type(i, a))),
    strict("quote_ident", &[TEXT], TEXT, |_, a| text(name::quote(word(a, 0)))),
    strict("quote_literal", &[TEXT], TEXT, |_, a| text(name::literal(word(a, 0)))),
    lenient("quote_nullable", &[TEXT], TEXT, |_, a| match a.first() {
        Some(Value::Text(t)) => text(name::literal(t)),
        _ => text("NULL"),
    }),
    strict("to_regclass", &[TEXT], Type::Regclass, |i, a| Ok(found(regclass(&i.catalog, word(a, 0)).ok()))),
    strict("to_regtype", &[TEXT], OID, |_, a| Ok(found(regtype(word(a, 0)).ok()))),
    strict("to_regnamespace", &[TEXT], OID, |_, a| Ok(found(regnamespace(word(a, 0)).ok()))),
    strict("to_regrole", &[TEXT], OID, |i, a| Ok(found(regrole(&i.catalog, word(a, 0)).ok()))),
    strict("pg_get_userbyid", &[OID], NAME, |i, a| text(user_name(&i.catalog, id(a, 0)))),
    strict("pg_encoding_to_char", &[INT], NAME, |_, a| text(if int(a, 0) == 6 { "UTF8" } else { "" })),
    strict("pg_char_to_encoding", &[NAME], INT, |_, a| {
        let is_utf8 = ["utf8", "utf-8", "unicode"].iter().any(|n| n.eq_ignore_ascii_case(word(a, 0)));
        Ok(Value::Int4(if is_utf8 { 6 } else { -1 }))
    }),
    // What is visible without its schema
    strict("pg_table_is_visible", &[OID], BOOL, |i, a| Ok(visible(&i.catalog, id(a, 0)))),
    strict("pg_type_is_visible", &[OID], BOOL, |_, a| Ok(type_visible(id(a, 0)))),
    strict("pg_function_is_visible", &[OID], BOOL, yes),
    strict("pg_operator_is_visible", &[OID], BOOL, yes),
    strict("pg_opclass_is_visible", &[OID], BOOL, yes),
    strict("pg_opfamily_is_visible", &[OID], BOOL, yes),
    strict("pg_collation_is_visible", &[OID], BOOL, yes),
    strict("pg_conversion_is_visible", &[OID], BOOL, yes),
    strict("pg_statistics_obj_is_visible", &[OID], BOOL, yes),
    strict("pg_ts_config_is_visible", &[OID], BOOL, yes),
    strict("pg_ts_dict_is_visible", &[OID], BOOL, yes),
    strict("pg_ts_parser_is_visible", &[OID], BOOL, yes),
    strict("pg_ts_template_is_visible", &[OID], BOOL, yes),
    // Definitions
    strict("pg_get_expr", &[TEXT, OID], TEXT, |_, a| Ok(argument(a, 0))),
    strict("pg_get_expr", &[TEXT, OID, BOOL], TEXT, |_, a| Ok(argument(a, 0))),
    strict("pg_get_constraintdef", &[OID], TEXT, |i, a| {
        Ok(maybe(definition::constraint(&i.catalog, id(a, 0), false, i.schema())))
    }),
    strict("pg_get_constraintdef", &[OID, BOOL], TEXT, |i, a| {
        Ok(maybe(definition::constraint(&i.catalog, id(a, 0), flag(a, 1), i.schema())))
    }),
    strict("pg_get_indexdef", &[OID], TEXT, |i, a| Ok(maybe(definition::index(&i.catalog, TableId(id(a, 0)), true)))),
    strict("pg_get_indexdef", &[OID, INT, BOOL], TEXT, |i, a| {
        let index = TableId(id(a, 0));
        Ok(maybe(match usize::try_from(int(a, 1)) {
            Ok(0) | Err(_) => definition::index(&i.catalog, index, !flag(a, 2)),
            Ok(position) => definition::index_column(&i.catalog, index, position),
        }))
    }),
    strict("pg_get_viewdef", &[OID], TEXT, |i, a| Ok(view_of(i, id(a, 0)))),
    strict("pg_get_viewdef", &[OID, BOOL], TEXT, |i, a| Ok(view_of(i, id(a, 0)))),
    strict("pg_get_viewdef", &[OID, INT], TEXT, |i, a| Ok(view_of(i, id(a, 0)))),
    strict("pg_get_viewdef", &[TEXT], TEXT, |i, a| Ok(view_of(i, regclass(&i.catalog, word(a, 0))?))),
    strict("pg_get_viewdef", &[TEXT, BOOL], TEXT, |i, a| Ok(view_of(i, regclass(&i.catalog, word(a, 0))?))),
    strict("pg_get_ruledef", &[OID], TEXT, nothing),
    strict("pg_get_ruledef", &[OID, BOOL], TEXT, nothing),
    strict("pg_get_triggerdef", &[OID], TEXT, nothing),
    strict("pg_get_triggerdef", &[OID, BOOL], TEXT, nothing),
    strict("pg_get_functiondef", &[OID], TEXT, nothing),
    strict("pg_get_function_result", &[OID], TEXT, nothing),
    strict("pg_get_function_arguments", &[OID], TEXT, nothing),
    strict("pg_get_function_identity_arguments", &[OID], TEXT, nothing),
    strict("pg_get_function_sqlbody", &[OID], TEXT, nothing),
    strict("pg_get_statisticsobjdef", &[OID], TEXT, nothing),
    strict("pg_get_statisticsobjdef_columns", &[OID], TEXT, nothing),
    strict("pg_get_partkeydef", &[OID], TEXT, nothing),
    strict("pg_get_partition_constraintdef", &[OID], TEXT, nothing),
    strict("pg_get_serial_sequence", &[TEXT, TEXT], TEXT, |i, a| serial_sequence(&i.catalog, word(a, 0), word(a, 1))),
    strict("pg_relation_is_publishable", &[OID], BOOL, no),
    strict("pg_relation_is_publishable", &[TEXT], BOOL, no),
    strict("pg_tablespace_location", &[OID], TEXT, |_, _| text("")),
    // Comments
    strict("pg_describe_object", &[OID, OID, INT], TEXT, |i, a| Ok(maybe(described(&i.catalog, id(a, 0), id(a, 1))))),
    strict("obj_description", &[OID], TEXT, |i, a| Ok(maybe(comment(&i.catalog, id(a, 0), 0)))),
    strict("obj_description", &[OID, NAME], TEXT, |i, a| match word(a, 1) {
        "pg_class" => Ok(maybe(comment(&i.catalog, id(a, 0), 0))),
        _ => Ok(Value::Null),
    }),
    // Functions and the like are known by name only, and have no comments.
    strict("obj_description", &[TEXT, NAME], TEXT, nothing),
    strict("col_description", &[OID, INT], TEXT, |i, a| Ok(maybe(comment(&i.catalog, id(a, 0), int(a, 1))))),
    strict("shobj_description", &[OID, NAME], TEXT, nothing),
    // Sizes: unknown, since tables share their files
    strict("pg_relation_size", &[OID], BIG, nothing),
    strict("pg_relation_size", &[OID, TEXT], BIG, nothing),
    strict("pg_relation_size", &[TEXT], BIG, nothing),
    strict("pg_table_size", &[OID], BIG, nothing),
    strict("pg_table_size", &[TEXT], BIG, nothing),
    strict("pg_indexes_size", &[OID], BIG, nothing),
    strict("pg_indexes_size", &[TEXT], BIG, nothing),
    strict("pg_total_relation_size", &[OID], BIG, nothing),
    strict("pg_total_relation_size", &[TEXT], BIG, nothing),
    strict("pg_database_size", &[OID], BIG, nothing),
    strict("pg_database_size", &[NAME], BIG, nothing),
    strict("pg_tablespace_size", &[OID], BIG, nothing),
    strict("pg_tablespace_size", &[NAME], BIG, nothing),
    strict("pg_size_pretty", &[BIG], TEXT, |_, a| text(size_pretty(a.first().and_then(Value::as_i64).unwrap_or(0)))),
    strict("pg_size_pretty", &[Type::Numeric(None)], TEXT, |_, a| match a.first() {
        Some(Value::Numeric(n)) => {
            text(size_pretty(n.to_string().split('.').next().and_then(|w| w.parse().ok()).unwrap_or(0)))
        }
        _ => Ok(Value::Null),
    }),
    // NULL stands for what owners have without being granted it.
    // An array, which the types here cannot say: its text is one.
    strict("acldefault", &[TEXT, OID], TEXT, |i, a| {
        let acl = default_acl(word(a, 0), &user_name(&i.catalog, id(a, 1)));
        text(shown(&acl, &Type::Array(Box::new(TEXT))))
    }),
    // Names first: a literal that may be either is one.
    strict("has_table_privilege", &[TEXT, TEXT], BOOL, |i, a| {
        may(i, &i.user, regclass(&i.catalog, word(a, 0))?, word(a, 1))
    }),
    strict("has_table_privilege", &[OID, TEXT], BOOL, |i, a| may(i, &i.user, id(a, 0), word(a, 1))),
    strict("has_table_privilege", &[NAME, TEXT, TEXT], BOOL, |i, a| {
        may(i, word(a, 0), regclass(&i.catalog, word(a, 1))?, word(a, 2))
    }),
    strict("has_table_privilege", &[NAME, OID, TEXT], BOOL, |i, a| may(i, word(a, 0), id(a, 1), word(a, 2))),
    // Columns have no privileges of their own.
    strict("has_any_column_privilege", &[TEXT, TEXT], BOOL, |i, a| {
        may(i, &i.user, regclass(&i.catalog, word(a, 0))?, word(a, 1))
    }),
    strict("has_any_column_privilege", &[OID, TEXT], BOOL, |i, a| may(i, &i.user, id(a, 0), word(a, 1))),
    strict("has_column_privilege", &[TEXT, TEXT, TEXT], BOOL, |i, a| {
        may(i, &i.user, regclass(&i.catalog, word(a, 0))?, word(a, 2))
    }),
    strict("has_column_privilege", &[OID, TEXT, TEXT], BOOL, |i, a| may(i, &i.user, id(a, 0), word(a, 2))),
    strict("has_column_privilege", &[OID, Type::Int2, TEXT], BOOL, |i, a| may(i, &i.user, id(a, 0), word(a, 2))),
    // Sequences, types, functions: every role may use what is there.
    strict("has_sequence_privilege", &[TEXT, TEXT], BOOL, |i, a| {
        regclass(&i.catalog, word(a, 0)).map(|_| Value::Bool(true))
    }),
    strict("has_sequence_privilege", &[OID, TEXT], BOOL, |i, a| Ok(exists(&i.catalog, id(a, 0)))),
    strict("has_schema_privilege", &[TEXT, TEXT], BOOL, |_, a| schema_privilege(regnamespace(word(a, 0))?, word(a, 1))),
    strict("has_schema_privilege", &[OID, TEXT], BOOL, |_, a| schema_privilege(id(a, 0), word(a, 1))),
    strict("has_schema_privilege", &[NAME, TEXT, TEXT], BOOL, |_, a| {
        schema_privilege(regnamespace(word(a, 1))?, word(a, 2))
    }),
    strict("has_schema_privilege", &[NAME, OID, TEXT], BOOL, |_, a| schema_privilege(id(a, 1), word(a, 2))),
    strict("has_database_privilege", &[OID, TEXT], BOOL, |_, a| database_privilege(word(a, 1))),
    strict("has_database_privilege", &[TEXT, TEXT], BOOL, |_, a| database_privilege(word(a, 1))),
    strict("has_database_privilege", &[NAME, OID, TEXT], BOOL, |_, a| database_privilege(word(a, 2))),
    strict("has_database_privilege", &[NAME, TEXT, TEXT], BOOL, |_, a| database_privilege(word(a, 2))),
    strict("has_function_privilege", &[OID, TEXT], BOOL, yes),
    strict("has_type_privilege", &[OID, TEXT], BOOL, yes),
    strict("has_tablespace_privilege", &[OID, TEXT], BOOL, yes),
    strict("has_tablespace_privilege", &[TEXT, TEXT], BOOL, yes),
    strict("has_language_privilege", &[OID, TEXT], BOOL, yes),
    strict("has_language_privilege", &[TEXT, TEXT], BOOL, yes),
    strict("pg_has_role", &[OID, TEXT], BOOL, |i, a| Ok(has_role(i, &i.user, id(a, 0)))),
    strict("pg_has_role", &[NAME, TEXT], BOOL, |i, a| Ok(has_role(i, &i.user, regrole(&i.catalog, word(a, 0))?))),
    strict("pg_has_role", &[NAME, OID, TEXT], BOOL, |i, a| Ok(has_role(i, word(a, 0), id(a, 1)))),
    strict("pg_has_role", &[NAME, NAME, TEXT], BOOL, |i, a| {
        Ok(has_role(i, word(a, 0), regrole(&i.catalog, word(a, 1))?))
    }),
];

/// What `version()` answers; clients read PostgreSQL's version out of it.
const VERSION: &str =
    concat!("PostgreSQL 15.0 (Polity ", env!("CARGO_PKG_VERSION"), ") on ", "a distributed store, 64-bit");

// Arguments.

fn argument(args: &[Value], at: usize) -> Value {
    args.get(at).cloned().unwrap_or(Value::Null)
}

fn word(args: &[Value], at: usize) -> &str {
    args.get(at).and_then(Value::as_str).unwrap_or_default()
}

fn id(args: &[Value], at: usize) -> u32 {
    args.get(at).and_then(Value::as_i64).and_then(|n| u32::try_from(n).ok()).unwrap_or_default()
}

fn int(args: &[Value], at: usize) -> i32 {
    args.get(at).and_then(Value::as_i64).and_then(|n| i32::try_from(n).ok()).unwrap_or_default()
}

fn flag(args: &[Value], at: usize) -> bool {
    matches!(args.get(at), Some(Value::Bool(true)))
}

// Results.

fn text(s: impl Into<String>) -> Result<Value> {
    Ok(Value::Text(s.into()))
}

fn maybe(s: Option<String>) -> Value {
    s.map_or(Value::Null, Value::Text)
}

fn found(oid: Option<u32>) -> Value {
    oid.map_or(Value::Null, Value::Oid)
}

fn yes(_: &SystemInput, _: &[Value]) -> Result<Value> {
    Ok(Value::Bool(true))
}

fn no(_: &SystemInput, _: &[Value]) -> Result<Value> {
    Ok(Value::Bool(false))
}

fn nothing(_: &SystemInput, _: &[Value]) -> Result<Value> {
    Ok(Value::Null)
}

/// A value's text form.
pub(super) fn shown(value: &Value, r#type: &Type) -> String {
    polity_base::text::to_text(value, r#type, &TextSettings::default())
}

// Names and identifiers.

/// The identifier of the relation a text names, as `'…'::regclass` reads it:
/// a name, or a number.
pub fn regclass(catalog: &Catalog, written: &str) -> Result<u32> {
    if let Ok(number) = written.trim().parse() {
        return Ok(number);
    }
    if written == "-" {
        return Ok(0);
    }
    let (schema, name) = name::parts_of_text(written)?;
    let public = || catalog.names.get(&name).map(|id| id.0);
    let system = |schema: &str| system_table(schema, &name).map(|t| t.oid);
    let id = match schema.as_deref() {
        None => system("pg_catalog").or_else(public),
        Some(name::PUBLIC) => public(),
        Some(schema @ ("pg_catalog" | "information_schema" | "polity")) => system(schema),
        Some(other) => return Err(name::no_schema(other)),
    };
    id.ok_or_else(|| Error::new(Condition::UndefinedTable, format!("relation \"{written}\" does not exist")))
}

/// The name of a relation, as `regclass` is shown: with its schema only where it
/// would not be found without.
pub fn regclass_name(catalog: &Catalog, oid: u32) -> String {
    if oid == 0 {
        return "-".to_owned();
    }
    if let Some(name) = relation_name(catalog, TableId(oid)) {
        return name::quote(&name);
    }
    match all().iter().find(|t| t.oid == oid) {
        Some(t) if t.schema == "pg_catalog" => t.name.to_owned(),
        Some(t) => format!("{}.{}", t.schema, t.name),
        None => oid.to_string(),
    }
}

/// What an object is, in words: `table t`. NULL for what has no entry in the catalog.
fn described(catalog: &Catalog, class: u32, oid: u32) -> Option<String> {
    let kind = match class {
        super::relations::PG_CLASS => match catalog.relation_by_id(TableId(oid)) {
            Some(Relation::Table(_)) => "table",
            Some(Relation::View(_)) => "view",
            Some(Relation::Sequence(_)) => "sequence",
            Some(Relation::Index(..)) => "index",
            None if all().iter().find(|t| t.oid == oid)?.is_view => "view",
            None => "table",
        },
        super::relations::PG_NAMESPACE => return Some(format!("schema {}", regnamespace_name(oid))),
        _ => return None,
    };
    Some(format!("{kind} {}", regclass_name(catalog, oid)))
}

fn relation_name(catalog: &Catalog, id: TableId) -> Option<String> {
    Some(match catalog.relation_by_id(id)? {
        Relation::Table(t) => t.name.clone(),
        Relation::View(v) => v.name.clone(),
        Relation::Sequence(s) => s.name.clone(),
        Relation::Index(t, id) => super::relations::indexes_of(&t).find(|i| i.id == id)?.name.to_owned(),
    })
}

/// The identifier of the type a text names, as `'…'::regtype` reads it.
pub fn regtype(written: &str) -> Result<u32> {
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::parser::Parser;
    if let Ok(number) = written.trim().parse() {
        return Ok(number);
    }
    if written == "-" {
        return Ok(0);
    }
    let parsed = Parser::new(&PostgreSqlDialect {}).try_with_sql(written).and_then(|mut p| p.parse_data_type());
    let missing = || Error::new(Condition::UndefinedObject, format!("type \"{written}\" does not exist"));
    Ok(types::data_type(&parsed.map_err(|_| missing())?)?.oid())
}

/// The name of a type, as `regtype` is shown.
pub fn regtype_name(oid: u32) -> String {
    match oid {
        0 => "-".to_owned(),
        _ => type_name(oid, None).unwrap_or_else(|| oid.to_string()),
    }
}

/// The identifier of the schema a text names.
pub fn regnamespace(written: &str) -> Result<u32> {
    if let Ok(number) = written.trim().parse() {
        return Ok(number);
    }
    let name = name::parts_of_text(written)?.1;
    let known = NAMESPACES.iter().find(|(_, n)| *n == name);
    known.map(|(id, _)| *id).ok_or_else(|| name::no_schema(&name))
}

/// The name of a schema.
pub fn regnamespace_name(oid: u32) -> String {
    match NAMESPACES.iter().find(|(id, _)| *id == oid) {
        Some((_, name)) => (*name).to_owned(),
        None if oid == 0 => "-".to_owned(),
        None => oid.to_string(),
    }
}

/// The identifier of the role a text names.
pub fn regrole(catalog: &Catalog, written: &str) -> Result<u32> {
    if let Ok(number) = written.trim().parse() {
        return Ok(number);
    }
    let name = name::parts_of_text(written)?.1;
    let role = catalog.roles.get(&name);
    role.map(|r| r.id.0)
        .ok_or_else(|| Error::new(Condition::UndefinedObject, format!("role \"{name}\" does not exist")))
}

/// The name of a role, as `pg_get_userbyid` gives it.
pub fn user_name(catalog: &Catalog, oid: u32) -> String {
    match catalog.role_by_id(TableId(oid)) {
        Some(role) => role.name.clone(),
        None if oid == DATABASE_OWNER.0 => DATABASE_OWNER.1.to_owned(),
        None => format!("unknown (OID={oid})"),
    }
}

fn type_name(oid: u32, modifier: Option<i32>) -> Option<String> {
    if let Some(merging) = merging::of_oid(oid) {
        return Some(merging.name.to_owned());
    }
    let plain = Type::from_oid(oid)?;
    let bare = |t: &Type| match (t, modifier) {
        // Without a modifier asked for, the SQL name; with none given, the internal one.
        (Type::Char(_), None) => "character".to_owned(),
        (Type::Char(_), Some(_)) => "bpchar".to_owned(),
        (t, _) => t.to_string(),
    };
    let with_modifier = |t: &Type| match (t, modifier.filter(|m| *m >= 4)) {
        (Type::Varchar(_) | Type::Char(_), Some(m)) => match t {
            Type::Char(_) => format!("character({})", m - 4),
            _ => format!("character varying({})", m - 4),
        },
        (Type::Numeric(_), Some(m)) => format!("numeric({},{})", (m - 4) >> 16, (m - 4) & 0x7FF),
        (t, _) => bare(t),
    };
    Some(match &plain {
        Type::Array(element) => format!("{}[]", with_modifier(element)),
        t => with_modifier(t),
    })
}

fn format_type(_: &SystemInput, args: &[Value]) -> Value {
    if args.first().is_none_or(Value::is_null) {
        return Value::Null;
    }
    let modifier = args.get(1).and_then(Value::as_i64).and_then(|n| i32::try_from(n).ok());
    Value::Text(format_type_of(id(args, 0), modifier))
}

/// `format_type`: a type with its modifier as SQL has it.
pub fn format_type_of(oid: u32, modifier: Option<i32>) -> String {
    match oid {
        0 => "-".to_owned(),
        oid => type_name(oid, modifier).unwrap_or_else(|| "???".to_owned()),
    }
}

fn current_setting(input: &SystemInput, name: &str, missing_ok: bool) -> Result<Value> {
    match input.settings.show(name) {
        Some(value) => text(value),
        None if missing_ok => Ok(Value::Null),
        None => Err(Error::new(Condition::UndefinedObject, format!("unrecognized configuration parameter \"{name}\""))),
    }
}

/// Whether a relation is found by its bare name. NULL when there is none.
fn visible(catalog: &Catalog, oid: u32) -> Value {
    if catalog.relation_by_id(TableId(oid)).is_some() {
        return Value::Bool(true);
    }
    match all().iter().find(|t| t.oid == oid) {
        Some(t) => Value::Bool(t.schema == "pg_catalog"),
        None => Value::Null,
    }
}

fn exists(catalog: &Catalog, oid: u32) -> Value {
    match visible(catalog, oid) {
        Value::Null => Value::Null,
        _ => Value::Bool(true),
    }
}

fn type_visible(oid: u32) -> Value {
    let is_known = Type::from_oid(oid).is_some() || merging::of_oid(oid).is_some();
    if is_known { Value::Bool(true) } else { Value::Null }
}

fn view_of(input: &SystemInput, oid: u32) -> Value {
    maybe(definition::view(&input.catalog, TableId(oid), !input.schema().is_empty()))
}

/// The comment of a relation, or of one of its columns.
fn comment(catalog: &Catalog, oid: u32, column: i32) -> Option<String> {
    match (catalog.relation_by_id(TableId(oid))?, column) {
        (Relation::Table(t), 0) => t.comment.clone(),
        (Relation::View(v), 0) => v.comment.clone(),
        (Relation::Table(t), n) => {
            let slot = u16::try_from(n.checked_sub(1)?).ok()?;
            t.column_by_id(polity_base::ColumnId(slot))?.comment.clone()
        }
        _ => None,
    }
}

fn serial_sequence(catalog: &Catalog, table: &str, column: &str) -> Result<Value> {
    let id = TableId(regclass(catalog, table)?);
    let Some(table) = catalog.tables.get(&id) else {
        return Err(Error::new(Condition::WrongObjectType, format!("\"{table}\" is not a table")));
    };
    // The column's name is taken as it is: no folding, no quotes.
    let Some(column) = table.column(column) else {
        return Err(Error::new(
            Condition::UndefinedColumn,
            format!("column \"{column}\" of relation \"{}\" does not exist", table.name),
        ));
    };
    let owned = catalog.sequences.values().find(|s| s.owned_by == Some((id, column.id)));
    Ok(maybe(owned.map(|s| format!("public.{}", name::quote(&s.name)))))
}

fn schema_privilege(oid: u32, privilege: &str) -> Result<Value> {
    // Nothing can be made in the system's schemas.
    let create = privilege.to_ascii_lowercase().contains("create");
    Ok(Value::Bool(!create || oid == namespace::PUBLIC))
}

fn database_privilege(privilege: &str) -> Result<Value> {
    // Neither schemas nor temporary tables can be made.
    Ok(Value::Bool(privilege.trim().eq_ignore_ascii_case("connect")))
}

fn has_role(input: &SystemInput, user: &str, role: u32) -> Value {
    let user = input.catalog.roles.get(user);
    Value::Bool(user.is_some_and(|u| u.superuser || u.id.0 == role))
}

/// A size as PostgreSQL's `pg_size_pretty` shows it: rounded half up, in the
/// first unit of which there are fewer than 10,240.
pub fn size_pretty(bytes: i64) -> String {
    const UNITS: [&str; 6] = ["bytes", "kB", "MB", "GB", "TB", "PB"];
    let mut size = bytes;
    for (i, unit) in UNITS.iter().enumerate() {
        let last = i + 1 == UNITS.len();
        // Between units, half of the next one is kept to round by.
        let limit: i64 = if i == 0 { 10 * 1024 } else { 20 * 1024 - 1 };
        if last || size.abs() < limit {
            let rounded = if i == 0 { size } else { (size + size.signum()) / 2 };
            return format!("{rounded} {unit}");
        }
        // The first step keeps one bit more than the later ones give up.
        size /= if i == 0 { 1 << 9 } else { 1 << 10 };
    }
    format!("{bytes} bytes")
}
