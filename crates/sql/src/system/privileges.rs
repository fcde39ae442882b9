//! Who may do what, as PostgreSQL's functions and tables show it.

use polity_base::{TableId, Value};

use super::information::{database, yes};
use super::relations::owner_name;
use super::shape::all;
use super::{Rows, SystemInput, text};
use crate::catalog::{Catalog, Grant, Privileges, Role, name};
use crate::error::{Condition, Error, Result};

/// Whether a role may do something of what `wanted` lists with a relation: NULL if there
/// is no such relation.
pub fn has_table_privilege(input: &SystemInput, role: &str, relation: u32, wanted: &str) -> Result<Value> {
    let catalog = &input.catalog;
    let Some(role) = catalog.roles.get(role) else {
        return Err(Error::new(Condition::UndefinedObject, format!("role \"{role}\" does not exist")));
    };
    let is_system = all().iter().any(|table| table.oid == relation);
    if !is_system && catalog.relation_by_id(TableId(relation)).is_none() {
        return Ok(Value::Null);
    }
    let held = match is_system && !role.superuser {
        true => Privileges::SELECT,
        false => catalog.privileges_of(&role.name, TableId(relation)),
    };
    for one in wanted.split(',') {
        let mut one = one.trim().to_ascii_uppercase();
        let grants = one.ends_with(" WITH GRANT OPTION");
        one.truncate(one.len() - if grants { " WITH GRANT OPTION".len() } else { 0 });
        let needed = match Privileges::named(one.trim_end()) {
            Some(privilege) if !grants => privilege,
            // Who may do everything may also say who else may.
            Some(_) => Privileges::ALL,
            // There are none, so that whoever may do everything may do it.
            None if matches!(one.as_str(), "TRIGGER" | "RULE") => Privileges::ALL,
            None => {
                return Err(Error::new(
                    Condition::InvalidParameterValue,
                    format!("unrecognized privilege type: \"{one}\""),
                ));
            }
        };
        if held.include(needed) {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}

/// What an object of a kind begins with: `acldefault`'s letters, its owner's name.
pub fn default_acl(kind: &str, owner: &str) -> Value {
    let owner = name::quote(owner);
    let all: String = Privileges::ALL.each().map(|(_, _, letter)| *letter).collect();
    let own = |letters: &str| text(format!("{owner}={letters}/{owner}"));
    let everybodys = |letters: &str| text(format!("={letters}/{owner}"));
    Value::Array(match kind {
        "r" => vec![own(&all)],
        "s" => vec![own("rwU")],
        "L" => vec![own("rw")],
        "d" => vec![everybodys("Tc"), own("CTc")],
        "f" => vec![everybodys("X"), own("X")],
        "l" | "T" => vec![everybodys("U"), own("U")],
        "n" => vec![own("UC")],
        "t" => vec![own("C")],
        "F" | "S" => vec![own("U")],
        "p" => vec![own("sA")],
        _ => Vec::new(),
    })
}

/// `relacl`: NULL as long as nobody was granted anything.
pub fn acl(catalog: &Catalog, relation: TableId, owner: TableId) -> Value {
    let grants = catalog.grants_on(relation);
    if grants.is_empty() {
        return Value::Null;
    }
    let role = |id| catalog.role_by_id(id).map(|role| name::quote(&role.name)).unwrap_or_default();
    let owner_name = role(owner);
    let item = |to: Option<TableId>, privileges: Privileges| {
        let letters: String = privileges.each().map(|(_, _, letter)| *letter).collect();
        text(format!("{}={letters}/{owner_name}", to.map(role).unwrap_or_default()))
    };
    let own = item(Some(owner), Privileges::ALL);
    Value::Array(std::iter::once(own).chain(grants.iter().map(|grant| item(grant.to, grant.privileges))).collect())
}

/// `table_privileges` and, without what everybody may, `role_table_grants`.
pub(super) fn table_privileges(input: &SystemInput, rows: &mut Rows<'_>) {
    let catalog = &input.catalog;
    let asks = catalog.roles.get(&input.user);
    let everybodys = rows.table.name == "table_privileges";
    let tables = catalog.tables.values().map(|table| (table.id, &table.name, table.owner));
    for (id, name, owner) in tables.chain(catalog.views.values().map(|view| (view.id, &view.name, view.owner))) {
        let own = Grant { to: Some(owner), privileges: Privileges::ALL };
        for grant in std::iter::once(&own).chain(catalog.grants_on(id)) {
            let concerns = |role: &Role| role.superuser || role.id == owner || grant.to == Some(role.id);
            match grant.to {
                None if everybodys => {}
                None if !asks.is_some_and(|role| role.superuser || role.id == owner) => continue,
                Some(_) if !asks.is_some_and(|role| concerns(role)) => continue,
                _ => {}
            }
            for (privilege, privilege_name, _) in grant.privileges.each() {
                rows.add([
                    ("grantor", owner_name(input, owner)),
                    ("grantee", grant.to.map_or_else(|| text("PUBLIC"), |to| owner_name(input, to))),
                    ("table_catalog", database(input)),
                    ("table_schema", text("public")),
                    ("table_name", text(name)),
                    ("privilege_type", text(*privilege_name)),
                    ("is_grantable", yes(grant.to == Some(owner))),
                    ("with_hierarchy", yes(*privilege == Privileges::SELECT)),
                ]);
            }
        }
    }
}
