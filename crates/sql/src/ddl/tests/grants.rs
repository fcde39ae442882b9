//! Who may do what: bob and eve are roles without tables of their own, ann owns them all
//! and is a superuser.

use super::*;

async fn people(node: &Node) -> (Session, Session, Session) {
    let mut ann = node.session();
    ok(&mut ann, "create role bob login; create role eve login").await;
    let bob = node.engine.session("bob", &[]).unwrap();
    let eve = node.engine.session("eve", &[]).unwrap();
    (ann, bob, eve)
}

/// The rows of a query, one line each.
async fn said(session: &mut Session, sql: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for invocation in session.parse_many(sql).unwrap() {
        let response = Box::pin(session.execute(&invocation.prepared, invocation.parameters, Scope::Alone)).await;
        let Response::Rows(mut rows) = response.unwrap_or_else(|e| panic!("{sql}: {e}")) else { continue };
        loop {
            let chunk = rows.next(64).await.unwrap();
            if chunk.is_empty() {
                break;
            }
            let cell = |value: &Value| match value {
                Value::Null => "NULL".to_owned(),
                Value::Text(text) => text.to_string(),
                Value::Bool(is) => is.to_string(),
                Value::Int4(n) => n.to_string(),
                Value::Int8(n) => n.to_string(),
                other => format!("{other:?}"),
            };
            lines.extend(chunk.iter().map(|row| row.iter().map(cell).collect::<Vec<_>>().join("|")));
        }
    }
    lines
}

async fn denied(session: &mut Session, sql: &str) -> Error {
    let error = fails(session, sql).await;
    assert_eq!(error.condition(), Condition::InsufficientPrivilege, "{sql}: {error}");
    assert!(error.detail_text().is_some() && error.hint_text().is_some(), "{sql}: {error:?}");
    error
}

#[tokio::test]
async fn a_table_is_its_owners_until_others_are_allowed() {
    let node = Node::new().await;
    let (mut ann, mut bob, mut eve) = people(&node).await;
    ok(&mut ann, "create table t (id int primary key, n int); insert into t values (1, 1), (2, 2)").await;
    let all = [
        "select * from t",
        "select n from t where id = 1",
        "select 1 from t for update",
        "insert into t values (3, 3)",
        "insert into t select 3, 3",
        "update t set n = 0",
        "update t set n = 0 where id = 1",
        "delete from t",
        "delete from t where id = 1",
        "truncate t",
        "copy t to stdout",
        "copy t from stdin",
        "explain select * from t",
        "with t as (select * from t) select * from t",
        "with x as (with t as (select 1) select * from t) select * from x, t",
        "select (select count(*) from t)",
        "create table copy as select * from t",
        "insert into own select n from t",
        "update own set a = (select max(n) from t)",
        "delete from own using t where a = n",
        "lock table t in access share mode",
    ];
    ok(&mut bob, "create table own (a int)").await;
    for sql in all {
        denied(&mut bob, sql).await;
    }
    let error = denied(&mut bob, "select n from t where id = 1").await;
    assert_eq!(error.message(), "permission denied for table t");
    assert_eq!(error.detail_text(), Some("Role \"bob\" lacks SELECT on it, which belongs to \"ann\"."));
    assert_eq!(error.hint_text(), Some("The owner or a superuser can allow it: GRANT SELECT ON t TO bob."));

    // Each privilege is for what it says, and looking at rows is one of its own.
    assert_eq!(ok(&mut ann, "grant insert, update on table t to bob").await, "GRANT");
    ok(&mut bob, "insert into t values (3, 3)").await;
    ok(&mut bob, "update t set n = 7").await;
    denied(&mut bob, "insert into t values (3, 3) on conflict do nothing").await;
    denied(&mut bob, "insert into t values (4, 4) returning n").await;
    denied(&mut bob, "update t set n = n + 1").await;
    denied(&mut bob, "update t set n = 1 where id = 1").await;
    ok(&mut ann, "grant select on t to public").await;
    ok(&mut bob, "update t set n = n + 1 where id = 1").await;
    assert_eq!(said(&mut bob, "select id, n from t where id = 1").await, ["1|8"]);
    assert_eq!(said(&mut eve, "select count(*) from t").await, ["3"]);
    denied(&mut eve, "update t set n = 0 where id = 1").await;
    denied(&mut bob, "delete from t where id = 1").await;
    ok(&mut ann, "grant all privileges on t to bob, eve; revoke truncate on t from eve").await;
    ok(&mut eve, "delete from t where id = 3").await;
    denied(&mut eve, "truncate t").await;
    ok(&mut bob, "truncate t").await;

    // Plans are kept and shared; rights are looked at each time.
    assert_eq!(said(&mut eve, "select n from t where id = 1").await, [""; 0]);
    ok(&mut ann, "revoke all on t from bob, eve, public").await;
    denied(&mut eve, "select n from t where id = 1").await;
    assert_eq!(said(&mut ann, "select n from t where id = 1").await, [""; 0]);
    denied(&mut eve, "select n from t where id = 1").await;
    assert!(node.catalog().await.grants.is_empty());
}

#[tokio::test]
async fn a_view_reads_in_its_owners_name() {
    let node = Node::new().await;
    let (mut ann, mut bob, mut eve) = people(&node).await;
    ok(&mut ann, "create table t (a int, secret int); insert into t values (1, 2)").await;
    ok(&mut ann, "create view v as select a from t; create view w as select * from v; grant select on v, w to bob")
        .await;
    assert_eq!(said(&mut bob, "select * from w").await, ["1"]);
    denied(&mut bob, "select * from t").await;
    denied(&mut eve, "select * from v").await;
    // A view gives nothing that its own owner does not have.
    ok(&mut bob, "create view mine as select * from t; grant select on mine to eve").await;
    let error = denied(&mut eve, "select * from mine").await;
    assert!(error.detail_text().unwrap_or_default().contains("\"bob\", in whose name a view reads it"), "{error:?}");
    denied(&mut bob, "select * from mine").await;
    ok(&mut ann, "grant select on t to bob").await;
    assert_eq!(said(&mut eve, "select * from mine").await, ["1|2"]);
    // What goes takes what was granted on it along.
    ok(&mut ann, "drop table t cascade").await;
    assert!(node.catalog().await.grants.is_empty());
}

#[tokio::test]
async fn only_owners_change_definitions_and_rights() {
    let node = Node::new().await;
    let (mut ann, mut bob, mut eve) = people(&node).await;
    ok(&mut ann, "create table t (id int primary key, n int); create index i on t (n); create view v as select 1")
        .await;
    ok(&mut ann, "create sequence s; create table other (id int primary key)").await;
    ok(&mut ann, "grant select, insert, update, delete, truncate on t to bob").await;
    for sql in [
        "alter table t add m int",
        "alter table t rename to u",
        "alter table t owner to bob",
        "alter index i rename to j",
        "alter view v rename to w",
        "alter sequence s rename to r",
        "create index on t (n)",
        "create or replace view v as select 1",
        "create table child (id int references t)",
        "comment on table t is 'mine'",
        "drop table t",
        "drop index i",
        "drop view v",
        "drop sequence s",
        "grant select on t to eve",
        "revoke select on t from bob",
        "grant select on all tables in schema public to bob",
    ] {
        denied(&mut bob, sql).await;
    }
    ok(&mut ann, "grant references on t to bob").await;
    ok(&mut bob, "create table child (id int references t)").await;
    // Nobody is given what nobody asked for, and only superusers do it.
    denied(&mut bob, "alter table child owner to eve").await;
    ok(&mut bob, "alter table child owner to bob; grant select on child to eve").await;
    ok(&mut eve, "select * from child").await;
    ok(&mut ann, "alter table child owner to eve").await;
    ok(&mut eve, "insert into child values (null)").await;
    denied(&mut bob, "select * from child").await;

    for (sql, condition) in [
        ("grant select on t to nobody", Condition::UndefinedObject),
        ("grant select on nosuch to bob", Condition::UndefinedTable),
        ("grant select on i to bob", Condition::WrongObjectType),
        ("grant select on t to bob with grant option", Condition::FeatureNotSupported),
        ("grant select (n) on t to bob", Condition::FeatureNotSupported),
        ("grant trigger on t to bob", Condition::FeatureNotSupported),
        ("grant usage on sequence s to bob", Condition::FeatureNotSupported),
        ("grant usage on schema public to bob", Condition::FeatureNotSupported),
        ("grant bob to eve", Condition::FeatureNotSupported),
        ("revoke bob from eve", Condition::FeatureNotSupported),
        ("revoke grant option for select on t from bob", Condition::FeatureNotSupported),
        ("alter default privileges grant select on tables to bob", Condition::FeatureNotSupported),
        ("grant select on all tables in schema nosuch to bob", Condition::InvalidSchemaName),
        ("drop role bob", Condition::DependentObjectsStillExist),
    ] {
        refused(&mut ann, sql, condition).await;
    }
    let error = fails(&mut ann, "grant usage on schema public to bob").await;
    assert!(error.message().contains("privileges on SCHEMA public"), "{error}");
    let error = fails(&mut ann, "drop role bob").await;
    assert_eq!(error.detail_text(), Some("privileges for table t"));
    ok(&mut ann, "revoke all on all tables in schema public from bob; drop role bob").await;
}

#[tokio::test]
async fn rights_are_shown_as_postgres_shows_them() {
    let node = Node::new().await;
    let (mut ann, mut bob, _) = people(&node).await;
    ok(&mut ann, "create table t (a int); create table none (a int); create view v as select 1").await;
    ok(&mut ann, "grant select, insert on t to bob; grant select on t, v to public").await;
    let acl =
        "select relname, array_to_string(relacl, ' ') from pg_class where relname in ('t', 'none', 'v') order by 1";
    assert_eq!(
        said(&mut ann, acl).await,
        ["none|NULL", "t|ann=arwdDx/ann =r/ann bob=ar/ann", "v|ann=arwdDx/ann =r/ann"]
    );
    let has = "select has_table_privilege('t', 'select'), has_table_privilege('t', 'update, insert'), \
               has_table_privilege('t', 'delete'), has_table_privilege('ann', 't', 'delete with grant option'), \
               has_table_privilege('eve', 't', 'insert'), has_table_privilege('pg_class', 'select'), \
               has_table_privilege(1, 'select')";
    assert_eq!(said(&mut bob, has).await, ["true|true|false|true|false|true|NULL"]);
    let fly = bob.parse_many("select has_table_privilege('t', 'fly')").unwrap().remove(0);
    let error = match bob.execute(&fly.prepared, fly.parameters, Scope::Alone).await {
        Ok(Response::Rows(mut rows)) => rows.next(1).await.unwrap_err(),
        Ok(_) => panic!("a query gives rows"),
        Err(error) => error,
    };
    assert_eq!(error.condition(), Condition::InvalidParameterValue);
    let granted = "select grantee, privilege_type, is_grantable from information_schema.table_privileges \
                   where table_name = 't' and grantor = 'ann' order by 1, 2";
    assert_eq!(said(&mut bob, granted).await, ["PUBLIC|SELECT|NO", "bob|INSERT|NO", "bob|SELECT|NO"]);
    let own = "select count(*) from information_schema.role_table_grants where table_name = 't' and grantee = 'ann'";
    assert_eq!(said(&mut ann, own).await, ["6"]);
}
