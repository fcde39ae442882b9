//! The system tables over a small catalog.

use std::collections::HashMap;
use std::sync::Arc;

use polity_base::key::Direction;
use polity_base::{ColumnId, IndexId, TableId, Type, Value};

use super::functions::{format_type_of, regclass, regclass_name, regtype, size_pretty};
use super::shape::all;
use super::{Activity, SCALAR_FUNCTIONS, SystemInput, definition, system_table};
use crate::catalog::{
    Action, Catalog, Check, Column, ForeignKey, Identity, Index, Role, SUPERUSER, Sequence, Table, View,
};
use crate::session::Settings;

fn column(slot: u16, name: &str, r#type: Type) -> Column {
    Column {
        id: ColumnId(slot),
        name: name.to_owned(),
        r#type,
        not_null: slot == 0,
        default: None,
        identity: None,
        merge: Default::default(),
        missing: Value::Null,
        comment: None,
    }
}

/// `u (id int primary key)` and `t (a bigint identity unique desc, "B" varchar(20) default 'x', u int references u)`.
fn input() -> SystemInput {
    let mut u = Table::new(TableId(16_384), "u", IndexId(16_385));
    u.columns = vec![column(0, "id", Type::Int4)];
    u.primary.columns = vec![ColumnId(0)];
    u.primary.id = Some(TableId(16_386));
    u.primary.name = Some("u_pkey".to_owned());
    let mut t = Table::new(TableId(16_390), "t", IndexId(16_391));
    t.columns = vec![column(0, "a", Type::Int8), column(2, "B", Type::Varchar(Some(20))), column(3, "u", Type::Int4)];
    t.columns[0].identity = Some(Identity::ByDefault);
    t.columns[0].default = Some("nextval('t_a_seq'::regclass)".to_owned());
    t.columns[1].default = Some("'x'".to_owned());
    t.columns[1].comment = Some("a column".to_owned());
    t.comment = Some("a table".to_owned());
    t.next_column = 4;
    t.indexes = vec![
        Index {
            columns: vec![(ColumnId(0), Direction::Ascending), (ColumnId(2), Direction::Descending)],
            fillfactor: Some(70),
            ..Index::new(TableId(16_392), "t_idx", IndexId(16_393))
        },
        Index {
            columns: vec![(ColumnId(0), Direction::Ascending)],
            unique: true,
            constraint: true,
            ..Index::new(TableId(16_394), "t_a_key", IndexId(16_395))
        },
    ];
    t.checks =
        vec![Check { id: TableId(16_396), name: "t_check".to_owned(), expression: "a > 0 AND \"B\" <> ''".to_owned() }];
    t.foreign_keys = vec![ForeignKey {
        id: TableId(16_397),
        name: "t_u_fkey".to_owned(),
        columns: vec![ColumnId(3)],
        parent: u.id,
        parent_columns: vec![ColumnId(0)],
        on_delete: Action::Cascade,
        on_update: Action::SetNull,
        match_full: true,
    }];
    let sequence = Sequence {
        id: TableId(16_400),
        name: "t_a_seq".to_owned(),
        storage: IndexId(16_401),
        r#type: Type::Int8,
        start: 1,
        increment: 1,
        minimum: 1,
        maximum: i64::MAX,
        cycle: false,
        owner: SUPERUSER,
        owned_by: Some((t.id, ColumnId(0))),
    };
    let view = View {
        id: TableId(16_410),
        name: "v".to_owned(),
        owner: SUPERUSER,
        query: "SELECT a FROM t".to_owned(),
        columns: vec![("a".to_owned(), Type::Int8)],
        reads: vec![t.id],
        comment: None,
    };
    let role = Role {
        id: SUPERUSER,
        name: "ann".to_owned(),
        password: Some("SCRAM-SHA-256$…".to_owned()),
        superuser: true,
        login: true,
    };
    let mut catalog = Catalog { database: "polity".to_owned(), ..Catalog::default() };
    for table in [u, t] {
        catalog.names.insert(table.name.clone(), table.id);
        for (id, name) in crate::catalog::store::indexes(&table) {
            catalog.names.insert(name.to_owned(), id);
            catalog.index_tables.insert(id, table.id);
        }
        catalog.tables.insert(table.id, Arc::new(table));
    }
    catalog.names.insert("t_a_seq".to_owned(), sequence.id);
    catalog.sequences.insert(sequence.id, Arc::new(sequence));
    catalog.names.insert("v".to_owned(), view.id);
    catalog.views.insert(view.id, Arc::new(view));
    catalog.roles.insert(role.name.clone(), Arc::new(role));
    let activity = vec![Activity {
        session: 7,
        user: "ann".to_owned(),
        application: "psql".to_owned(),
        client: None,
        began: 0,
        transaction_began: None,
        statement_began: Some(1),
        state_since: 2,
        state: "idle",
        waits: false,
        statement: "select 1".to_owned(),
    }];
    SystemInput {
        catalog: Arc::new(catalog),
        settings: Settings::new("ann"),
        user: "ann".to_owned(),
        sessions: Arc::default(),
        activity,
        locks: Vec::new(),
        sequences: HashMap::new(),
        live: Vec::new(),
    }
}

/// One column of the rows of a table for which a condition on another holds.
fn cells(input: &SystemInput, table: &str, wanted: &str, filter: &str, value: Value) -> Vec<Value> {
    let (schema, name) = table.split_once('.').unwrap_or(("pg_catalog", table));
    let table = system_table(schema, name).unwrap();
    let (wanted, filter) = (table.position(wanted).unwrap(), table.position(filter).unwrap());
    let rows = table.rows(input).into_iter().filter(|row| row[filter] == value);
    rows.map(|row| row[wanted].clone()).collect()
}

fn text(s: &str) -> Value {
    Value::Text(s.to_owned())
}

fn call(input: &SystemInput, name: &str, args: &[Value]) -> Value {
    let function = SCALAR_FUNCTIONS.iter().find(|f| f.name == name && f.args.len() == args.len()).unwrap();
    (function.eval)(input, args).unwrap()
}

#[test]
fn every_cell_has_the_type_of_its_column() {
    let input = input();
    for table in all() {
        for row in table.rows(&input) {
            assert_eq!(row.len(), table.columns.len());
            for (value, (name, r#type)) in row.iter().zip(&table.columns) {
                let fits = match (value, r#type) {
                    (Value::Null, _) => true,
                    (Value::Text(_), t) => t.is_text() || *t == Type::InternalChar,
                    (Value::Bool(_), t) => *t == Type::Bool,
                    (Value::Int2(_), t) => *t == Type::Int2,
                    (Value::Int4(_), t) => *t == Type::Int4,
                    (Value::Int8(_), t) => *t == Type::Int8,
                    (Value::Oid(_), t) => *t == Type::Oid,
                    (Value::Float4(_), t) => *t == Type::Float4,
                    (Value::TimestampTz(_), t) => *t == Type::TimestampTz,
                    (Value::Array(_), t) => matches!(t, Type::Array(_)),
                    _ => false,
                };
                assert!(fits, "{}.{name}: {value:?} is no {type}", table.name);
            }
        }
    }
}

#[test]
fn tables_and_columns_are_there_as_clients_look_for_them() {
    let input = input();
    assert_eq!(cells(&input, "pg_class", "relkind", "relname", text("t")), [text("r")]);
    assert_eq!(cells(&input, "pg_class", "relkind", "relname", text("t_idx")), [text("i")]);
    assert_eq!(cells(&input, "pg_class", "relkind", "relname", text("v")), [text("v")]);
    assert_eq!(cells(&input, "pg_class", "oid", "relname", text("pg_class")), [Value::Oid(1259)]);
    let columns = cells(&input, "pg_attribute", "attnum", "attrelid", Value::Oid(16_390));
    assert_eq!(columns, [Value::Int2(1), Value::Int2(3), Value::Int2(4)]);
    let identities = cells(&input, "pg_attribute", "attidentity", "attrelid", Value::Oid(16_390));
    assert_eq!(identities, [text("d"), text(""), text("")]);
    assert_eq!(cells(&input, "pg_attrdef", "adbin", "adrelid", Value::Oid(16_390)), [text("'x'::character varying")]);
    assert_eq!(cells(&input, "pg_index", "indoption", "indexrelid", Value::Oid(16_392)), [text("0 3")]);
    assert_eq!(
        cells(&input, "pg_index", "indkey", "indexrelid", Value::Oid(16_392)),
        [Value::Array(vec![Value::Int2(1), Value::Int2(3)])]
    );
    assert_eq!(cells(&input, "pg_depend", "deptype", "objid", Value::Oid(16_400)), [text("i")]);
    assert_eq!(cells(&input, "pg_description", "description", "objsubid", Value::Int4(3)), [text("a column")]);
    assert_eq!(
        cells(&input, "information_schema.columns", "data_type", "table_name", text("t")),
        [text("bigint"), text("character varying"), text("integer")]
    );
    assert_eq!(
        cells(&input, "information_schema.table_constraints", "constraint_type", "table_name", text("t")),
        [text("UNIQUE"), text("FOREIGN KEY"), text("CHECK"), text("CHECK")]
    );
    assert_eq!(
        cells(
            &input,
            "information_schema.referential_constraints",
            "unique_constraint_name",
            "constraint_name",
            text("t_u_fkey")
        ),
        [text("u_pkey")]
    );
}

#[test]
fn objects_are_shown_as_the_sql_that_makes_them() {
    let input = input();
    let catalog = &input.catalog;
    assert_eq!(
        definition::index(catalog, TableId(16_392), true).unwrap(),
        "CREATE INDEX t_idx ON public.t USING btree (a, \"B\" DESC) WITH (fillfactor='70')"
    );
    assert_eq!(definition::index_column(catalog, TableId(16_392), 2).unwrap(), "\"B\"");
    let mut constraints = cells(&input, "pg_constraint", "oid", "conrelid", Value::Oid(16_390));
    constraints.extend(cells(&input, "pg_constraint", "oid", "conrelid", Value::Oid(16_384)));
    let shown: Vec<String> = constraints
        .iter()
        .map(|oid| definition::constraint(catalog, u32::try_from(oid.as_i64().unwrap()).unwrap(), true, "").unwrap())
        .collect();
    assert_eq!(
        shown,
        [
            "UNIQUE (a)",
            "CHECK (a > 0 AND \"B\" <> '')",
            "FOREIGN KEY (u) REFERENCES u(id) MATCH FULL ON UPDATE SET NULL ON DELETE CASCADE",
            "PRIMARY KEY (id)"
        ]
    );
    assert_eq!(call(&input, "pg_get_viewdef", &[Value::Oid(16_410)]), text(" SELECT a FROM t;"));
    assert_eq!(call(&input, "pg_get_serial_sequence", &[text("public.t"), text("a")]), text("public.t_a_seq"));
    assert_eq!(call(&input, "col_description", &[Value::Oid(16_390), Value::Int4(3)]), text("a column"));
}

#[test]
fn names_lead_to_identifiers_and_back() {
    let input = input();
    for name in ["t", "public.t", "\"t\"", " T "] {
        assert_eq!(regclass(&input.catalog, name).unwrap(), 16_390, "{name}");
    }
    assert_eq!(regclass(&input.catalog, "pg_catalog.pg_class").unwrap(), 1259);
    assert_eq!(regclass(&input.catalog, "16390").unwrap(), 16_390);
    assert!(regclass(&input.catalog, "nosuch").is_err() && regclass(&input.catalog, "nosuch.t").is_err());
    assert_eq!(regclass_name(&input.catalog, 16_390), "t");
    assert_eq!(regclass_name(&input.catalog, 1259), "pg_class");
    assert_eq!(regclass_name(&input.catalog, 0), "-");
    assert_eq!(regtype("integer").unwrap(), 23);
    assert_eq!(regtype("varchar(5)[]").unwrap(), 1015);
    assert_eq!(call(&input, "pg_get_userbyid", &[Value::Oid(10)]), text("ann"));
    assert_eq!(call(&input, "pg_get_userbyid", &[Value::Oid(11)]), text("unknown (OID=11)"));
}

#[test]
fn types_are_shown_as_postgresql_shows_them() {
    for (oid, modifier, shown) in [
        (23, None, "integer"),
        (1043, Some(24), "character varying(20)"),
        (1043, Some(-1), "character varying"),
        (1042, Some(7), "character(3)"),
        (1042, None, "character"),
        (1042, Some(-1), "bpchar"),
        (1700, Some(655_366), "numeric(10,2)"),
        (1700, None, "numeric"),
        (1231, Some(655_366), "numeric(10,2)[]"),
        (1184, Some(-1), "timestamp with time zone"),
        (18, None, "\"char\""),
        (0, None, "-"),
        (1, None, "???"),
    ] {
        assert_eq!(format_type_of(oid, modifier), shown);
    }
}

#[test]
fn sizes_are_rounded_as_postgresql_rounds_them() {
    for (bytes, shown) in [
        (0, "0 bytes"),
        (10_239, "10239 bytes"),
        (10_240, "10 kB"),
        (10_752, "11 kB"),
        (10_485_248, "10 MB"),
        (1_000_000_000, "954 MB"),
        (-10_240, "-10 kB"),
        (i64::MAX, "8192 PB"),
    ] {
        assert_eq!(size_pretty(bytes), shown, "{bytes}");
    }
}

#[test]
fn verifiers_are_shown_to_superusers_only() {
    let mut input = input();
    assert!(!cells(&input, "pg_authid", "rolpassword", "rolname", text("ann"))[0].is_null());
    input.user = "bob".to_owned();
    assert!(cells(&input, "pg_authid", "rolpassword", "rolname", text("ann"))[0].is_null());
    assert_eq!(cells(&input, "pg_roles", "rolpassword", "rolname", text("ann")), [text("********")]);
}
