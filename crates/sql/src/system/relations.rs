//! Tables, columns, indexes, constraints, views and sequences as PostgreSQL's
//! catalog has them.

use polity_base::key::Direction;
use polity_base::{ColumnId, TableId, Type, Value};

use super::cluster::{opclass, storage_of, type_facts};
use super::privileges::acl;
use super::shape::{Fill, all};
use super::{Rows, SystemInput, attnum, bool, count, definition, maybe, merging, namespace, oid, text};
use crate::catalog::{Action, Column, ForeignKey, Guarantee, Identity, Index, SUPERUSER, Table, View};
use crate::ddl::expression::draws_from;
use crate::ddl::key_of;

/// `pg_class`'s own identifier, as `pg_depend` and `pg_description` use it.
pub(super) const PG_CLASS: u32 = 1259;
const PG_ATTRDEF: u32 = 2604;
pub(super) const PG_NAMESPACE: u32 = 2615;
const PG_REWRITE: u32 = 2618;
const PG_EXTENSION: u32 = 3079;
/// The extension that the schema `polity` belongs to, as PostgreSQL's own languages belong
/// to theirs. Numbers below 16384 are what every database has, and are not dumped.
const EXTENSION: u32 = 13_700;
const HEAP: u32 = 2;
const BTREE: u32 = 403;

pub(super) fn fill_of(name: &str) -> Option<Fill> {
    Some(match name {
        "pg_class" => classes,
        "pg_attribute" => attributes,
        "pg_attrdef" => defaults,
        "pg_index" => indexes,
        "pg_indexes" => index_list,
        "pg_constraint" => constraints,
        "pg_tables" => tables,
        "pg_views" => views,
        "pg_rewrite" => rewrites,
        "pg_sequence" => sequences,
        "pg_sequences" => sequence_list,
        "pg_description" => descriptions,
        "pg_depend" => dependencies,
        "pg_extension" => extensions,
        "pg_stat_user_tables" | "pg_stat_all_tables" | "pg_statio_user_tables" => table_statistics,
        "pg_stat_user_indexes" => index_statistics,
        _ => return None,
    })
}

/// An index of a table, the primary key's too.
pub(super) struct IndexFacts<'t> {
    pub id: TableId,
    pub name: &'t str,
    pub columns: Vec<(ColumnId, Direction)>,
    pub unique: bool,
    pub primary: bool,
    pub constraint: bool,
    pub fillfactor: Option<u8>,
}

/// The indexes of a table, the primary key's first.
pub(super) fn indexes_of(table: &Table) -> impl Iterator<Item = IndexFacts<'_>> {
    let primary = table.primary.id.zip(table.primary.name.as_deref()).map(|(id, name)| IndexFacts {
        id,
        name,
        columns: table.primary.columns.iter().map(|c| (*c, Direction::Ascending)).collect(),
        unique: true,
        primary: true,
        constraint: true,
        fillfactor: None,
    });
    let secondary = table.indexes.iter().map(|i: &Index| IndexFacts {
        id: i.id,
        name: &i.name,
        columns: i.columns.clone(),
        unique: i.unique,
        primary: false,
        constraint: i.constraint,
        fillfactor: i.fillfactor,
    });
    primary.into_iter().chain(secondary)
}

fn reloptions(fillfactor: Option<u8>, table: Option<&Table>) -> Value {
    let mut options = Vec::new();
    if let Some(table) = table.filter(|t| t.guarantee != Guarantee::Strong) {
        options.push(text(format!("guarantee={}", table.guarantee.name())));
        options.extend((table.replicas > 1).then(|| text(format!("ack={}", table.replicas))));
    }
    options.extend(fillfactor.map(|f| text(format!("fillfactor={f}"))));
    if options.is_empty() { Value::Null } else { Value::Array(options) }
}

fn classes(input: &SystemInput, rows: &mut Rows<'_>) {
    let catalog = &input.catalog;
    for t in catalog.tables.values() {
        let referenced = catalog.references_to(t.id).next().is_some();
        rows.add([
            ("oid", oid(t.id)),
            ("relname", text(&t.name)),
            ("relnamespace", Value::Oid(namespace::PUBLIC)),
            ("relowner", oid(t.owner)),
            ("relam", Value::Oid(HEAP)),
            ("relfilenode", Value::Oid(t.primary.storage.0)),
            ("reltuples", Value::Float4(-1.0)),
            ("relhasindex", bool(t.primary.id.is_some() || !t.indexes.is_empty())),
            ("relpersistence", text("p")),
            ("relkind", text("r")),
            ("relnatts", Value::Int2(count(usize::from(t.next_column)))),
            ("relchecks", Value::Int2(count(t.checks.len()))),
            ("relhastriggers", bool(referenced || !t.foreign_keys.is_empty())),
            ("relispopulated", bool(true)),
            ("relreplident", text("d")),
            ("relacl", acl(catalog, t.id, t.owner)),
            ("reloptions", reloptions(t.fillfactor, Some(t))),
        ]);
        for index in indexes_of(t) {
            rows.add([
                ("oid", oid(index.id)),
                ("relname", text(index.name)),
                ("relnamespace", Value::Oid(namespace::PUBLIC)),
                ("relowner", oid(t.owner)),
                ("relam", Value::Oid(BTREE)),
                ("relfilenode", oid(index.id)),
                ("reltuples", Value::Float4(-1.0)),
                ("relpersistence", text("p")),
                ("relkind", text("i")),
                ("relnatts", Value::Int2(count(index.columns.len()))),
                ("relispopulated", bool(true)),
                ("relreplident", text("n")),
                ("reloptions", reloptions(index.fillfactor, None)),
            ]);
        }
    }
    for v in catalog.views.values() {
        simple_class(rows, v.id.0, &v.name, namespace::PUBLIC, v.owner, "v", v.columns.len());
        rows.set(rows.rows.len() - 1, [("relacl", acl(catalog, v.id, v.owner))]);
    }
    for s in catalog.sequences.values() {
        simple_class(rows, s.id.0, &s.name, namespace::PUBLIC, s.owner, "S", 3);
    }
    for t in all() {
        let schema = match t.schema {
            "pg_catalog" => namespace::PG_CATALOG,
            "polity" => namespace::POLITY,
            _ => namespace::INFORMATION_SCHEMA,
        };
        let kind = if t.is_view { "v" } else { "r" };
        simple_class(rows, t.oid, t.name, schema, SUPERUSER, kind, t.columns.len());
    }
}

fn simple_class(rows: &mut Rows<'_>, id: u32, name: &str, schema: u32, owner: TableId, kind: &str, columns: usize) {
    rows.add([
        ("oid", Value::Oid(id)),
        ("relname", text(name)),
        ("relnamespace", Value::Oid(schema)),
        ("relowner", oid(owner)),
        ("relam", Value::Oid(if kind == "r" { HEAP } else { 0 })),
        ("reltuples", Value::Float4(-1.0)),
        ("relpersistence", text("p")),
        ("relkind", text(kind)),
        ("relnatts", Value::Int2(count(columns))),
        ("relhasrules", bool(kind == "v")),
        ("relispopulated", bool(true)),
        ("relreplident", text("n")),
    ]);
}

struct AttributeFacts<'a> {
    relation: u32,
    /// The type as it was written, where that is not what its values are
    written: Option<u32>,
    name: &'a str,
    number: Value,
    r#type: &'a Type,
    not_null: bool,
    has_default: bool,
    identity: &'a str,
    missing: Value,
}

fn attribute(rows: &mut Rows<'_>, a: AttributeFacts<'_>) {
    let facts = type_facts(a.r#type);
    rows.add([
        ("attrelid", Value::Oid(a.relation)),
        ("attname", text(a.name)),
        ("atttypid", Value::Oid(a.written.unwrap_or_else(|| a.r#type.oid()))),
        ("attstattarget", Value::Int4(-1)),
        ("attlen", Value::Int2(a.r#type.length())),
        ("attnum", a.number),
        ("attndims", Value::Int4(i32::from(matches!(a.r#type, Type::Array(_))))),
        ("attcacheoff", Value::Int4(-1)),
        ("atttypmod", Value::Int4(a.r#type.modifier())),
        ("attbyval", bool(facts.by_value)),
        ("attalign", text(facts.alignment)),
        ("attstorage", text(storage_of(a.r#type))),
        ("attnotnull", bool(a.not_null)),
        ("atthasdef", bool(a.has_default)),
        ("atthasmissing", bool(!a.missing.is_null())),
        ("attidentity", text(a.identity)),
        ("attislocal", bool(true)),
        ("attcollation", Value::Oid(facts.collation)),
        ("attmissingval", a.missing),
    ]);
}

fn plain_attribute<'a>(relation: u32, name: &'a str, number: usize, r#type: &'a Type) -> AttributeFacts<'a> {
    AttributeFacts {
        relation,
        written: None,
        name,
        number: Value::Int2(count(number)),
        r#type,
        not_null: false,
        has_default: false,
        identity: "",
        missing: Value::Null,
    }
}

/// The default as PostgreSQL would have it: an identity column has none.
pub(super) fn default_of(table: &Table, column: &Column, schema: &str) -> Option<String> {
    let written = column.default.as_deref().filter(|_| column.identity.is_none())?;
    Some(definition::shown(table, written, Some(&column.r#type), schema))
}

fn attributes(input: &SystemInput, rows: &mut Rows<'_>) {
    let catalog = &input.catalog;
    for t in catalog.tables.values() {
        for c in &t.columns {
            let missing = match &c.missing {
                Value::Null => Value::Null,
                v => text(format!("{{{}}}", super::functions::shown(v, &c.r#type))),
            };
            let facts = AttributeFacts {
                relation: t.id.0,
                written: merging::of_column(c).map(|t| t.oid),
                name: &c.name,
                number: attnum(c.id),
                r#type: &c.r#type,
                not_null: c.not_null,
                has_default: c.default.is_some() && c.identity.is_none(),
                identity: match c.identity {
                    None => "",
                    Some(Identity::Always) => "a",
                    Some(Identity::ByDefault) => "d",
                },
                missing,
            };
            attribute(rows, facts);
        }
        for index in indexes_of(t) {
            for (at, (id, _)) in index.columns.iter().enumerate() {
                if let Some(c) = t.column_by_id(*id) {
                    attribute(rows, plain_attribute(index.id.0, &c.name, at + 1, &c.r#type));
                }
            }
        }
    }
    for v in catalog.views.values() {
        for (at, (name, r#type)) in v.columns.iter().enumerate() {
            attribute(rows, plain_attribute(v.id.0, name, at + 1, r#type));
        }
    }
    for s in catalog.sequences.values() {
        for (at, (name, r#type)) in
            [("last_value", Type::Int8), ("log_cnt", Type::Int8), ("is_called", Type::Bool)].iter().enumerate()
        {
            attribute(rows, AttributeFacts { not_null: true, ..plain_attribute(s.id.0, name, at + 1, r#type) });
        }
    }
    for t in all() {
        for (at, (name, r#type)) in t.columns.iter().enumerate() {
            attribute(rows, plain_attribute(t.oid, name, at + 1, r#type));
        }
    }
}

fn defaults(input: &SystemInput, rows: &mut Rows<'_>) {
    for t in input.catalog.tables.values() {
        for c in &t.columns {
            if let Some(default) = default_of(t, c, input.schema()) {
                rows.add([
                    ("oid", Value::Oid(default_oid(t, c))),
                    ("adrelid", oid(t.id)),
                    ("adnum", attnum(c.id)),
                    ("adbin", text(default)),
                ]);
            }
        }
    }
}

/// Defaults have no identifier of their own: one is made from the table's and
/// the column's, above all that are given out.
fn default_oid(table: &Table, column: &Column) -> u32 {
    0x8000_0000 | (table.id.0 << 11) | u32::from(column.id.0 & 0x7FF)
}

fn indexes(input: &SystemInput, rows: &mut Rows<'_>) {
    for t in input.catalog.tables.values() {
        for index in indexes_of(t) {
            let columns = || index.columns.iter().filter_map(|(c, d)| t.column_by_id(*c).map(|c| (c, *d)));
            // Clients that read this column expect the text form of an int2vector.
            let options: Vec<&str> =
                columns().map(|(_, d)| if d == Direction::Descending { "3" } else { "0" }).collect();
            rows.add([
                ("indexrelid", oid(index.id)),
                ("indrelid", oid(t.id)),
                ("indnatts", Value::Int2(count(index.columns.len()))),
                ("indnkeyatts", Value::Int2(count(index.columns.len()))),
                ("indisunique", bool(index.unique)),
                ("indisprimary", bool(index.primary)),
                ("indimmediate", bool(true)),
                ("indisvalid", bool(true)),
                ("indisready", bool(true)),
                ("indislive", bool(true)),
                ("indkey", Value::Array(columns().map(|(c, _)| attnum(c.id)).collect())),
                (
                    "indcollation",
                    Value::Array(columns().map(|(c, _)| Value::Oid(type_facts(&c.r#type).collation)).collect()),
                ),
                ("indclass", Value::Array(columns().map(|(c, _)| Value::Oid(opclass(&c.r#type))).collect())),
                ("indoption", text(options.join(" "))),
            ]);
        }
    }
}

fn index_list(input: &SystemInput, rows: &mut Rows<'_>) {
    for t in input.catalog.tables.values() {
        for index in indexes_of(t) {
            rows.add([
                ("schemaname", text("public")),
                ("tablename", text(&t.name)),
                ("indexname", text(index.name)),
                ("indexdef", maybe(definition::index(&input.catalog, index.id, true))),
            ]);
        }
    }
}

/// A primary key's or a unique constraint's identifier: PostgreSQL's differs
/// from its index's, so this does too.
pub(super) fn key_constraint_oid(index: TableId) -> u32 {
    0x4000_0000 | index.0
}

/// The index that an identifier made by [`key_constraint_oid`] belongs to.
pub(super) fn index_of_constraint(oid: u32) -> Option<TableId> {
    (oid & 0xC000_0000 == 0x4000_0000).then_some(TableId(oid & 0x3FFF_FFFF))
}

fn constraints(input: &SystemInput, rows: &mut Rows<'_>) {
    for t in input.catalog.tables.values() {
        let numbers = |columns: &[ColumnId]| Value::Array(columns.iter().map(|c| attnum(*c)).collect());
        for index in indexes_of(t).filter(|i| i.constraint) {
            let columns: Vec<ColumnId> = index.columns.iter().map(|(c, _)| *c).collect();
            rows.add([
                ("oid", Value::Oid(key_constraint_oid(index.id))),
                ("conname", text(index.name)),
                ("connamespace", Value::Oid(namespace::PUBLIC)),
                ("contype", text(if index.primary { "p" } else { "u" })),
                ("convalidated", bool(true)),
                ("conrelid", oid(t.id)),
                ("conindid", oid(index.id)),
                ("confupdtype", text(" ")),
                ("confdeltype", text(" ")),
                ("confmatchtype", text(" ")),
                ("conislocal", bool(true)),
                ("connoinherit", bool(true)),
                ("conkey", numbers(&columns)),
            ]);
        }
        for check in &t.checks {
            let used = definition::columns_of_check(t, check);
            rows.add([
                ("oid", oid(check.id)),
                ("conname", text(&check.name)),
                ("connamespace", Value::Oid(namespace::PUBLIC)),
                ("contype", text("c")),
                ("convalidated", bool(true)),
                ("conrelid", oid(t.id)),
                ("confupdtype", text(" ")),
                ("confdeltype", text(" ")),
                ("confmatchtype", text(" ")),
                ("conislocal", bool(true)),
                ("conkey", numbers(&used)),
                ("conbin", text(definition::shown(t, &check.expression, None, input.schema()))),
            ]);
        }
        for key in &t.foreign_keys {
            foreign_key(input, rows, t, key);
        }
    }
}

fn foreign_key(input: &SystemInput, rows: &mut Rows<'_>, table: &Table, key: &ForeignKey) {
    let action = |a: Action| {
        text(match a {
            Action::NoAction => "a",
            Action::Restrict => "r",
            Action::Cascade => "c",
            Action::SetNull => "n",
            Action::SetDefault => "d",
        })
    };
    let numbers = |columns: &[ColumnId]| Value::Array(columns.iter().map(|c| attnum(*c)).collect());
    let index = input.catalog.tables.get(&key.parent).and_then(|p| key_of(p, &key.parent_columns));
    rows.add([
        ("oid", oid(key.id)),
        ("conname", text(&key.name)),
        ("connamespace", Value::Oid(namespace::PUBLIC)),
        ("contype", text("f")),
        ("convalidated", bool(true)),
        ("conrelid", oid(table.id)),
        ("conindid", index.map_or(Value::Oid(0), oid)),
        ("confrelid", oid(key.parent)),
        ("confupdtype", action(key.on_update)),
        ("confdeltype", action(key.on_delete)),
        ("confmatchtype", text(if key.match_full { "f" } else { "s" })),
        ("conislocal", bool(true)),
        ("connoinherit", bool(true)),
        ("conkey", numbers(&key.columns)),
        ("confkey", numbers(&key.parent_columns)),
    ]);
}

/// The name of a role.
pub(super) fn owner_name(input: &SystemInput, id: TableId) -> Value {
    maybe(input.catalog.role_by_id(id).map(|r| r.name.as_str()))
}

fn tables(input: &SystemInput, rows: &mut Rows<'_>) {
    for t in input.catalog.tables.values() {
        let referenced = input.catalog.references_to(t.id).next().is_some();
        rows.add([
            ("schemaname", text("public")),
            ("tablename", text(&t.name)),
            ("tableowner", owner_name(input, t.owner)),
            ("hasindexes", bool(t.primary.id.is_some() || !t.indexes.is_empty())),
            ("hastriggers", bool(referenced || !t.foreign_keys.is_empty())),
        ]);
    }
    for t in all().iter().filter(|t| !t.is_view) {
        rows.add([
            ("schemaname", text(t.schema)),
            ("tablename", text(t.name)),
            ("tableowner", owner_name(input, SUPERUSER)),
        ]);
    }
}

/// A view's query as `pg_get_viewdef` shows it.
pub(super) fn view_text(view: &View) -> String {
    format!(" {};", view.query)
}

fn views(input: &SystemInput, rows: &mut Rows<'_>) {
    for v in input.catalog.views.values() {
        rows.add([
            ("schemaname", text("public")),
            ("viewname", text(&v.name)),
            ("viewowner", owner_name(input, v.owner)),
            ("definition", text(view_text(v))),
        ]);
    }
}

fn rewrites(input: &SystemInput, rows: &mut Rows<'_>) {
    for v in input.catalog.views.values() {
        rows.add([
            ("oid", Value::Oid(rule_oid(v.id))),
            ("rulename", text("_RETURN")),
            ("ev_class", oid(v.id)),
            ("ev_type", text("1")),
            ("ev_enabled", text("O")),
            ("is_instead", bool(true)),
        ]);
    }
}

fn sequences(input: &SystemInput, rows: &mut Rows<'_>) {
    for s in input.catalog.sequences.values() {
        rows.add([
            ("seqrelid", oid(s.id)),
            ("seqtypid", Value::Oid(s.r#type.oid())),
            ("seqstart", Value::Int8(s.start)),
            ("seqincrement", Value::Int8(s.increment)),
            ("seqmax", Value::Int8(s.maximum)),
            ("seqmin", Value::Int8(s.minimum)),
            ("seqcache", Value::Int8(1)),
            ("seqcycle", bool(s.cycle)),
        ]);
    }
}

fn sequence_list(input: &SystemInput, rows: &mut Rows<'_>) {
    for s in input.catalog.sequences.values() {
        rows.add([
            ("schemaname", text("public")),
            ("sequencename", text(&s.name)),
            ("sequenceowner", owner_name(input, s.owner)),
            ("data_type", text(s.r#type.to_string())),
            ("start_value", Value::Int8(s.start)),
            ("min_value", Value::Int8(s.minimum)),
            ("max_value", Value::Int8(s.maximum)),
            ("increment_by", Value::Int8(s.increment)),
            ("cycle", bool(s.cycle)),
            ("cache_size", Value::Int8(1)),
            ("last_value", input.sequences.get(&s.id).map_or(Value::Null, |last| Value::Int8(*last))),
        ]);
    }
}

fn descriptions(input: &SystemInput, rows: &mut Rows<'_>) {
    rows.add([
        ("objoid", Value::Oid(namespace::PUBLIC)),
        ("classoid", Value::Oid(PG_NAMESPACE)),
        ("description", text("standard public schema")),
    ]);
    let mut add = |id: TableId, sub: i32, comment: &Option<String>| {
        if let Some(comment) = comment {
            rows.add([
                ("objoid", oid(id)),
                ("classoid", Value::Oid(PG_CLASS)),
                ("objsubid", Value::Int4(sub)),
                ("description", text(comment)),
            ]);
        }
    };
    for t in input.catalog.tables.values() {
        add(t.id, 0, &t.comment);
        for c in &t.columns {
            add(t.id, i32::from(c.id.0) + 1, &c.comment);
        }
    }
    for v in input.catalog.views.values() {
        add(v.id, 0, &v.comment);
    }
}

/// Which sequences belong to which columns: what clients look for here.
/// What a row of `pg_rewrite` is called for a view.
fn rule_oid(view: TableId) -> u32 {
    0x4000_0000 | view.0
}

/// Who needs whom: sequences the tables they number, defaults the sequences they draw
/// from, views what they read. And what the schema `polity` has belongs to the extension
/// of that name, so that a dump leaves it out.
fn dependencies(input: &SystemInput, rows: &mut Rows<'_>) {
    let catalog = &input.catalog;
    for v in catalog.views.values() {
        for (needs, kind) in v.reads.iter().map(|reads| (*reads, "n")).chain([(v.id, "i")]) {
            rows.add([
                ("classid", Value::Oid(PG_REWRITE)),
                ("objid", Value::Oid(rule_oid(v.id))),
                ("refclassid", Value::Oid(PG_CLASS)),
                ("refobjid", oid(needs)),
                ("deptype", text(kind)),
            ]);
        }
    }
    for t in catalog.tables.values() {
        for c in &t.columns {
            let Some(default) = &c.default else { continue };
            for s in catalog.sequences.values().filter(|s| draws_from(default, &s.name)) {
                rows.add([
                    ("classid", Value::Oid(PG_ATTRDEF)),
                    ("objid", Value::Oid(default_oid(t, c))),
                    ("refclassid", Value::Oid(PG_CLASS)),
                    ("refobjid", oid(s.id)),
                    ("deptype", text("n")),
                ]);
            }
        }
    }
    let own = all().iter().filter(|t| t.schema == "polity").map(|t| (PG_CLASS, t.oid));
    for (class, object) in own.chain([(PG_NAMESPACE, namespace::POLITY)]) {
        rows.add([
            ("classid", Value::Oid(class)),
            ("objid", Value::Oid(object)),
            ("refclassid", Value::Oid(PG_EXTENSION)),
            ("refobjid", Value::Oid(EXTENSION)),
            ("deptype", text("e")),
        ]);
    }
    for s in input.catalog.sequences.values() {
        let Some((table, column)) = s.owned_by else { continue };
        let identity = input.catalog.tables.get(&table).and_then(|t| t.column_by_id(column)?.identity).is_some();
        rows.add([
            ("classid", Value::Oid(PG_CLASS)),
            ("objid", oid(s.id)),
            ("refclassid", Value::Oid(PG_CLASS)),
            ("refobjid", oid(table)),
            ("refobjsubid", Value::Int4(i32::from(column.0) + 1)),
            ("deptype", text(if identity { "i" } else { "a" })),
        ]);
    }
}

fn extensions(_: &SystemInput, rows: &mut Rows<'_>) {
    rows.add([
        ("oid", Value::Oid(EXTENSION)),
        ("extname", text("polity")),
        ("extowner", oid(SUPERUSER)),
        ("extnamespace", Value::Oid(namespace::POLITY)),
        ("extversion", text(env!("CARGO_PKG_VERSION"))),
    ]);
}

fn table_statistics(input: &SystemInput, rows: &mut Rows<'_>) {
    for t in input.catalog.tables.values() {
        rows.add([("relid", oid(t.id)), ("schemaname", text("public")), ("relname", text(&t.name))]);
    }
}

fn index_statistics(input: &SystemInput, rows: &mut Rows<'_>) {
    for t in input.catalog.tables.values() {
        for index in indexes_of(t) {
            rows.add([
                ("relid", oid(t.id)),
                ("indexrelid", oid(index.id)),
                ("schemaname", text("public")),
                ("relname", text(&t.name)),
                ("indexrelname", text(index.name)),
            ]);
        }
    }
}
