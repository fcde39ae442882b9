//! `information_schema`.

use polity_base::{ColumnId, Type, Value};

use super::cluster::NAMESPACES;
use super::relations::{default_of, indexes_of, owner_name};
use super::shape::{Fill, all};
use super::{Rows, SystemInput, definition, maybe, text};
use crate::catalog::{Action, Identity, SUPERUSER, Table, types};
use crate::ddl::key_of;

pub(super) fn fill_of(name: &str) -> Option<Fill> {
    Some(match name {
        "information_schema_catalog_name" => catalog_name,
        "schemata" => schemata,
        "tables" => tables,
        "columns" => columns,
        "views" => views,
        "view_table_usage" => view_table_usage,
        "sequences" => sequences,
        "table_constraints" => table_constraints,
        "key_column_usage" => key_column_usage,
        "referential_constraints" => referential_constraints,
        "constraint_column_usage" => constraint_column_usage,
        "constraint_table_usage" => constraint_table_usage,
        "check_constraints" => check_constraints,
        "table_privileges" | "role_table_grants" => super::privileges::table_privileges,
        "enabled_roles" => enabled_roles,
        "character_sets" => character_sets,
        "collations" => collations,
        _ => return None,
    })
}

pub(super) fn yes(is: bool) -> Value {
    text(if is { "YES" } else { "NO" })
}

fn int(n: impl Into<i32>) -> Value {
    Value::Int4(n.into())
}

fn ordinal(at: usize) -> Value {
    Value::Int4(i32::try_from(at).unwrap_or(i32::MAX).saturating_add(1))
}

pub(super) fn database(input: &SystemInput) -> Value {
    text(&input.catalog.database)
}

fn catalog_name(input: &SystemInput, rows: &mut Rows<'_>) {
    rows.add([("catalog_name", database(input))]);
}

fn schemata(input: &SystemInput, rows: &mut Rows<'_>) {
    for (_, name) in NAMESPACES {
        rows.add([
            ("catalog_name", database(input)),
            ("schema_name", text(name)),
            ("schema_owner", owner_name(input, SUPERUSER)),
        ]);
    }
}

fn tables(input: &SystemInput, rows: &mut Rows<'_>) {
    let user = input.catalog.tables.values().map(|t| ("public", t.name.as_str(), false, true));
    let views = input.catalog.views.values().map(|v| ("public", v.name.as_str(), true, false));
    let system = all().iter().map(|t| (t.schema, t.name, t.is_view, false));
    for (schema, name, is_view, insertable) in user.chain(views).chain(system) {
        rows.add([
            ("table_catalog", database(input)),
            ("table_schema", text(schema)),
            ("table_name", text(name)),
            ("table_type", text(if is_view { "VIEW" } else { "BASE TABLE" })),
            ("is_insertable_into", yes(insertable)),
            ("is_typed", yes(false)),
        ]);
    }
}

/// A type's name without its modifier; arrays are just that.
fn data_type(t: &Type) -> String {
    match t {
        Type::Array(_) => "ARRAY".to_owned(),
        Type::Numeric(_) => Type::Numeric(None).to_string(),
        Type::Varchar(_) => Type::Varchar(None).to_string(),
        Type::Char(_) => "character".to_owned(),
        other => other.to_string(),
    }
}

/// Precision, its radix, and scale of numbers.
fn numeric_facts(t: &Type) -> (Value, Value, Value) {
    let whole = |bits: i32| (int(bits), int(2), int(0));
    match t {
        Type::Int2 => whole(16),
        Type::Int4 => whole(32),
        Type::Int8 => whole(64),
        Type::Float4 => (int(24), int(2), Value::Null),
        Type::Float8 => (int(53), int(2), Value::Null),
        Type::Numeric(None) => (Value::Null, int(10), Value::Null),
        Type::Numeric(Some((p, s))) => (int(*p), int(10), int(*s)),
        _ => (Value::Null, Value::Null, Value::Null),
    }
}

/// What `columns` says about a column.
struct ColumnFacts<'a> {
    schema: &'a str,
    table: &'a str,
    name: &'a str,
    ordinal: Value,
    r#type: &'a Type,
    not_null: bool,
    default: Option<String>,
    updatable: bool,
    identity: Option<(Identity, Option<&'a crate::catalog::Sequence>)>,
}

fn columns(input: &SystemInput, rows: &mut Rows<'_>) {
    for t in input.catalog.tables.values() {
        for c in &t.columns {
            let sequence = || input.catalog.sequences.values().find(|s| s.owned_by == Some((t.id, c.id))).map(|s| &**s);
            let facts = ColumnFacts {
                schema: "public",
                table: &t.name,
                name: &c.name,
                ordinal: ordinal(usize::from(c.id.0)),
                r#type: &c.r#type,
                not_null: c.not_null,
                default: default_of(t, c, input.schema()),
                updatable: true,
                identity: c.identity.map(|i| (i, sequence())),
            };
            column(input, rows, facts);
        }
    }
    for v in input.catalog.views.values() {
        for (at, (name, r#type)) in v.columns.iter().enumerate() {
            column(input, rows, plain_column("public", &v.name, at, name, r#type));
        }
    }
    for t in all() {
        for (at, (name, r#type)) in t.columns.iter().enumerate() {
            column(input, rows, plain_column(t.schema, t.name, at, name, r#type));
        }
    }
}

fn plain_column<'a>(schema: &'a str, table: &'a str, at: usize, name: &'a str, r#type: &'a Type) -> ColumnFacts<'a> {
    ColumnFacts {
        schema,
        table,
        name,
        ordinal: ordinal(at),
        r#type,
        not_null: false,
        default: None,
        updatable: false,
        identity: None,
    }
}

fn column(input: &SystemInput, rows: &mut Rows<'_>, c: ColumnFacts<'_>) {
    let (precision, radix, scale) = numeric_facts(c.r#type);
    let length = match c.r#type {
        Type::Varchar(Some(n)) | Type::Char(n) => i32::try_from(*n).ok(),
        _ => None,
    };
    let octets = match c.r#type {
        Type::Text | Type::Varchar(None) => Some(1 << 30),
        _ => length.map(|n| n.saturating_mul(4)),
    };
    let time = matches!(c.r#type, Type::Time | Type::Timestamp | Type::TimestampTz | Type::Interval);
    let date = if *c.r#type == Type::Date { int(0) } else { Value::Null };
    let sequence = c.identity.and_then(|(_, s)| s);
    let number = |n: Option<i64>| maybe(n.map(|n| n.to_string()));
    let generation = c.identity.map(|(i, _)| if i == Identity::Always { "ALWAYS" } else { "BY DEFAULT" });
    rows.add([
        ("table_catalog", database(input)),
        ("table_schema", text(c.schema)),
        ("table_name", text(c.table)),
        ("column_name", text(c.name)),
        ("ordinal_position", c.ordinal.clone()),
        ("column_default", maybe(c.default)),
        ("is_nullable", yes(!c.not_null)),
        ("data_type", text(data_type(c.r#type))),
        ("character_maximum_length", length.map_or(Value::Null, Value::Int4)),
        ("character_octet_length", octets.map_or(Value::Null, Value::Int4)),
        ("numeric_precision", precision),
        ("numeric_precision_radix", radix),
        ("numeric_scale", scale),
        ("datetime_precision", if time { int(6) } else { date }),
        ("udt_catalog", database(input)),
        ("udt_schema", text("pg_catalog")),
        ("udt_name", text(types::internal_name(c.r#type))),
        ("dtd_identifier", text(super::functions::shown(&c.ordinal, &Type::Int4))),
        ("is_self_referencing", yes(false)),
        ("is_identity", yes(c.identity.is_some())),
        ("identity_generation", maybe(generation)),
        ("identity_start", number(sequence.map(|s| s.start))),
        ("identity_increment", number(sequence.map(|s| s.increment))),
        ("identity_maximum", number(sequence.map(|s| s.maximum))),
        ("identity_minimum", number(sequence.map(|s| s.minimum))),
        ("identity_cycle", yes(sequence.is_some_and(|s| s.cycle))),
        ("is_generated", text("NEVER")),
        ("is_updatable", yes(c.updatable)),
    ]);
}

fn views(input: &SystemInput, rows: &mut Rows<'_>) {
    for v in input.catalog.views.values() {
        rows.add([
            ("table_catalog", database(input)),
            ("table_schema", text("public")),
            ("table_name", text(&v.name)),
            ("view_definition", text(super::relations::view_text(v))),
            ("check_option", text("NONE")),
            ("is_updatable", yes(false)),
            ("is_insertable_into", yes(false)),
            ("is_trigger_updatable", yes(false)),
            ("is_trigger_deletable", yes(false)),
            ("is_trigger_insertable_into", yes(false)),
        ]);
    }
}

fn view_table_usage(input: &SystemInput, rows: &mut Rows<'_>) {
    for v in input.catalog.views.values() {
        for read in &v.reads {
            let table = input.catalog.tables.get(read).map(|t| &t.name);
            let Some(name) = table.or_else(|| input.catalog.views.get(read).map(|v| &v.name)) else { continue };
            rows.add([
                ("view_catalog", database(input)),
                ("view_schema", text("public")),
                ("view_name", text(&v.name)),
                ("table_catalog", database(input)),
                ("table_schema", text("public")),
                ("table_name", text(name)),
            ]);
        }
    }
}

fn sequences(input: &SystemInput, rows: &mut Rows<'_>) {
    for s in input.catalog.sequences.values() {
        // PostgreSQL leaves out those of identity columns.
        if s.owned_by.and_then(|(t, c)| input.catalog.tables.get(&t)?.column_by_id(c)?.identity).is_some() {
            continue;
        }
        let (precision, radix, scale) = numeric_facts(&s.r#type);
        rows.add([
            ("sequence_catalog", database(input)),
            ("sequence_schema", text("public")),
            ("sequence_name", text(&s.name)),
            ("data_type", text(s.r#type.to_string())),
            ("numeric_precision", precision),
            ("numeric_precision_radix", radix),
            ("numeric_scale", scale),
            ("start_value", text(s.start.to_string())),
            ("minimum_value", text(s.minimum.to_string())),
            ("maximum_value", text(s.maximum.to_string())),
            ("increment", text(s.increment.to_string())),
            ("cycle_option", yes(s.cycle)),
        ]);
    }
}

/// A constraint of a table.
struct Constraint<'t> {
    name: String,
    kind: &'static str,
    /// The columns it is about, in order
    columns: Vec<ColumnId>,
    /// The referenced table and columns of a foreign key
    references: Option<&'t crate::catalog::ForeignKey>,
    /// The condition of a check
    condition: Option<String>,
}

fn constraints_of(table: &Table) -> Vec<Constraint<'_>> {
    let mut found = Vec::new();
    for index in indexes_of(table).filter(|i| i.constraint) {
        found.push(Constraint {
            name: index.name.to_owned(),
            kind: if index.primary { "PRIMARY KEY" } else { "UNIQUE" },
            columns: index.columns.iter().map(|(c, _)| *c).collect(),
            references: None,
            condition: None,
        });
    }
    for key in &table.foreign_keys {
        found.push(Constraint {
            name: key.name.clone(),
            kind: "FOREIGN KEY",
            columns: key.columns.clone(),
            references: Some(key),
            condition: None,
        });
    }
    for check in &table.checks {
        found.push(Constraint {
            name: check.name.clone(),
            kind: "CHECK",
            columns: definition::columns_of_check(table, check),
            references: None,
            condition: Some(format!("(({}))", definition::shown(table, &check.expression, None, ""))),
        });
    }
    // The standard has NOT NULL as a check, and PostgreSQL gives it this name.
    for c in table.columns.iter().filter(|c| c.not_null) {
        found.push(Constraint {
            name: format!("{}_{}_{}_not_null", super::namespace::PUBLIC, table.id.0, u32::from(c.id.0) + 1),
            kind: "CHECK",
            columns: Vec::new(),
            references: None,
            condition: Some(format!("{} IS NOT NULL", c.name)),
        });
    }
    found
}

fn table_constraints(input: &SystemInput, rows: &mut Rows<'_>) {
    for t in input.catalog.tables.values() {
        for c in constraints_of(t) {
            rows.add([
                ("constraint_catalog", database(input)),
                ("constraint_schema", text("public")),
                ("constraint_name", text(c.name)),
                ("table_catalog", database(input)),
                ("table_schema", text("public")),
                ("table_name", text(&t.name)),
                ("constraint_type", text(c.kind)),
                ("is_deferrable", yes(false)),
                ("initially_deferred", yes(false)),
                ("enforced", yes(true)),
            ]);
        }
    }
}

fn column_name(table: &Table, id: ColumnId) -> Value {
    maybe(table.column_by_id(id).map(|c| c.name.as_str()))
}

fn key_column_usage(input: &SystemInput, rows: &mut Rows<'_>) {
    for t in input.catalog.tables.values() {
        for c in constraints_of(t).into_iter().filter(|c| c.kind != "CHECK") {
            for (at, column) in c.columns.iter().enumerate() {
                let position = c.references.and_then(|key| {
                    let parent = input.catalog.tables.get(&key.parent)?;
                    let index = key_of(parent, &key.parent_columns)?;
                    let facts = indexes_of(parent).find(|i| i.id == index)?;
                    let wanted = key.parent_columns.get(at)?;
                    facts.columns.iter().position(|(id, _)| id == wanted)
                });
                rows.add([
                    ("constraint_catalog", database(input)),
                    ("constraint_schema", text("public")),
                    ("constraint_name", text(&c.name)),
                    ("table_catalog", database(input)),
                    ("table_schema", text("public")),
                    ("table_name", text(&t.name)),
                    ("column_name", column_name(t, *column)),
                    ("ordinal_position", ordinal(at)),
                    ("position_in_unique_constraint", position.map_or(Value::Null, ordinal)),
                ]);
            }
        }
    }
}

fn rule(action: Action) -> Value {
    text(match action {
        Action::NoAction => "NO ACTION",
        Action::Restrict => "RESTRICT",
        Action::Cascade => "CASCADE",
        Action::SetNull => "SET NULL",
        Action::SetDefault => "SET DEFAULT",
    })
}

fn referential_constraints(input: &SystemInput, rows: &mut Rows<'_>) {
    for t in input.catalog.tables.values() {
        for key in &t.foreign_keys {
            let parent = input.catalog.tables.get(&key.parent);
            let index = parent.and_then(|p| {
                let id = key_of(p, &key.parent_columns)?;
                indexes_of(p).find(|i| i.id == id).filter(|i| i.constraint).map(|i| i.name.to_owned())
            });
            let known = |v: Value| if index.is_some() { v } else { Value::Null };
            rows.add([
                ("constraint_catalog", database(input)),
                ("constraint_schema", text("public")),
                ("constraint_name", text(&key.name)),
                ("unique_constraint_catalog", known(database(input))),
                ("unique_constraint_schema", known(text("public"))),
                ("unique_constraint_name", maybe(index.clone())),
                ("match_option", text(if key.match_full { "FULL" } else { "NONE" })),
                ("update_rule", rule(key.on_update)),
                ("delete_rule", rule(key.on_delete)),
            ]);
        }
    }
}

/// The table and columns a constraint needs: of a foreign key, the referenced.
fn used<'t>(input: &'t SystemInput, table: &'t Table, c: &Constraint<'t>) -> Option<(&'t Table, Vec<ColumnId>)> {
    match c.references {
        Some(key) => Some((input.catalog.tables.get(&key.parent)?, key.parent_columns.clone())),
        None => Some((table, c.columns.clone())),
    }
}

fn constraint_column_usage(input: &SystemInput, rows: &mut Rows<'_>) {
    for t in input.catalog.tables.values() {
        for c in constraints_of(t) {
            let Some((table, columns)) = used(input, t, &c) else { continue };
            for column in columns {
                rows.add([
                    ("table_catalog", database(input)),
                    ("table_schema", text("public")),
                    ("table_name", text(&table.name)),
                    ("column_name", column_name(table, column)),
                    ("constraint_catalog", database(input)),
                    ("constraint_schema", text("public")),
                    ("constraint_name", text(&c.name)),
                ]);
            }
        }
    }
}

fn constraint_table_usage(input: &SystemInput, rows: &mut Rows<'_>) {
    for t in input.catalog.tables.values() {
        for c in constraints_of(t).into_iter().filter(|c| c.kind != "CHECK") {
            let Some((table, _)) = used(input, t, &c) else { continue };
            rows.add([
                ("table_catalog", database(input)),
                ("table_schema", text("public")),
                ("table_name", text(&table.name)),
                ("constraint_catalog", database(input)),
                ("constraint_schema", text("public")),
                ("constraint_name", text(&c.name)),
            ]);
        }
    }
}

fn check_constraints(input: &SystemInput, rows: &mut Rows<'_>) {
    for t in input.catalog.tables.values() {
        for c in constraints_of(t).into_iter().filter(|c| c.kind == "CHECK") {
            rows.add([
                ("constraint_catalog", database(input)),
                ("constraint_schema", text("public")),
                ("constraint_name", text(c.name)),
                ("check_clause", maybe(c.condition)),
            ]);
        }
    }
}

fn enabled_roles(input: &SystemInput, rows: &mut Rows<'_>) {
    rows.add([("role_name", text(&input.user))]);
}

fn character_sets(input: &SystemInput, rows: &mut Rows<'_>) {
    rows.add([
        ("character_set_name", text("UTF8")),
        ("character_repertoire", text("UCS")),
        ("form_of_use", text("UTF8")),
        ("default_collate_catalog", database(input)),
        ("default_collate_schema", text("pg_catalog")),
        ("default_collate_name", text("C")),
    ]);
}

fn collations(input: &SystemInput, rows: &mut Rows<'_>) {
    for name in ["default", "C", "POSIX"] {
        rows.add([
            ("collation_catalog", database(input)),
            ("collation_schema", text("pg_catalog")),
            ("collation_name", text(name)),
            ("pad_attribute", text("NO PAD")),
        ]);
    }
}
