//! GRANT and REVOKE: what roles may do with tables and views of others.
//!
//! The catalog says it for tables of every guarantee, and whoever plans a statement looks
//! there ([`crate::rights`]). Of byzantine tables the ledger is told too, once this is
//! committed: then every validator refuses what is not granted, whatever the node thinks
//! that a client speaks to.

use std::collections::BTreeSet;

use datafusion::sql::sqlparser::ast::{
    self, Action, GrantObjects, Grantee, GranteeName, GranteesType, Ident, ObjectName,
};
use polity_base::TableId;

use super::lock::{Locks, no_relation};
use crate::catalog::change::Change;
use crate::catalog::{Privileges, Relation, grants, name, store};
use crate::error::{Condition, Error, Result};
use crate::rights;
use crate::session::Context;

/// GRANT
pub(super) async fn give(ctx: &mut Context<'_>, grant: &ast::Grant) -> Result<String> {
    if grant.with_grant_option {
        return Err(Error::unsupported("WITH GRANT OPTION")
            .detail("Only the owner of a table, and superusers, say who may use it."));
    }
    if grant.as_grantor.is_some() || grant.granted_by.is_some() || grant.current_grants.is_some() {
        return Err(Error::unsupported("GRANT in another role's name"));
    }
    change(ctx, &grant.privileges, grant.objects.as_ref(), &grant.grantees, true).await?;
    Ok("GRANT".to_owned())
}

/// REVOKE
pub(super) async fn take(ctx: &mut Context<'_>, revoke: &ast::Revoke) -> Result<String> {
    if revoke.granted_by.is_some() {
        return Err(Error::unsupported("REVOKE in another role's name"));
    }
    // With CASCADE or without: nobody passes on what was granted.
    change(ctx, &revoke.privileges, revoke.objects.as_ref(), &revoke.grantees, false).await?;
    Ok("REVOKE".to_owned())
}

async fn change(
    ctx: &mut Context<'_>,
    written: &ast::Privileges,
    objects: Option<&GrantObjects>,
    grantees: &[Grantee],
    gives: bool,
) -> Result<()> {
    // What it is about says more than what of that: USAGE is of schemas.
    relations(ctx, objects)?;
    let privileges = privileges(written)?;
    let (relations, to) = loop {
        let relations = relations(ctx, objects)?;
        let to = roles(ctx, grantees)?;
        for relation in &relations {
            rights::require_owner(ctx.catalog, ctx.user, relation)?;
        }
        let mut locks = Locks::default();
        for id in relations.iter().map(id_of) {
            locks.key(store::grants_key(id));
            locks.keep(super::view::key_of(ctx.catalog, id));
        }
        for role in to.iter().flatten().filter_map(|role| ctx.catalog.role_by_id(*role)) {
            locks.key(store::role_key(&role.name));
        }
        if locks.take(ctx).await? {
            break (relations, to);
        }
    };
    let mut change = Change::of(ctx.catalog);
    for relation in relations {
        let (id, owner) = match &relation {
            Relation::Table(table) => (table.id, table.owner),
            Relation::View(view) => (view.id, view.owner),
            Relation::Sequence(_) | Relation::Index(..) => continue,
        };
        // What is granted to the owner adds nothing, and the owner keeps everything.
        let others: Vec<Option<TableId>> = to.iter().filter(|to| **to != Some(owner)).copied().collect();
        let before = ctx.catalog.grants_on(id);
        let after = grants::changed(before, &others, privileges, gives);
        if after != before {
            change.put_grants(id, after)?;
        }
    }
    for role in to.iter().flatten().filter(|_| gives).filter_map(|role| ctx.catalog.role_by_id(*role)) {
        // Who drops the role meanwhile must look for what it was granted.
        change.put_role((**role).clone())?;
    }
    change.make(ctx)
}

fn id_of(relation: &Relation) -> TableId {
    match relation {
        Relation::Table(table) => table.id,
        Relation::View(view) => view.id,
        Relation::Sequence(sequence) => sequence.id,
        Relation::Index(_, id) => *id,
    }
}

fn privileges(written: &ast::Privileges) -> Result<Privileges> {
    let actions = match written {
        ast::Privileges::All { .. } => return Ok(Privileges::ALL),
        ast::Privileges::Actions(actions) => actions,
    };
    let mut all = Privileges::NONE;
    for action in actions {
        let (privilege, columns) = match action {
            Action::Select { columns } => (Privileges::SELECT, columns.as_ref()),
            Action::Insert { columns } => (Privileges::INSERT, columns.as_ref()),
            Action::Update { columns } => (Privileges::UPDATE, columns.as_ref()),
            Action::References { columns } => (Privileges::REFERENCES, columns.as_ref()),
            Action::Delete => (Privileges::DELETE, None),
            Action::Truncate => (Privileges::TRUNCATE, None),
            other => {
                return Err(Error::unsupported(format!("the privilege {other}"))
                    .hint(format!("Privileges on tables are {}.", Privileges::ALL)));
            }
        };
        if columns.is_some_and(|columns: &Vec<Ident>| !columns.is_empty()) {
            return Err(Error::unsupported("privileges on single columns")
                .hint("Make a view of these columns, and grant privileges on the view."));
        }
        all = all.and(privilege);
    }
    Ok(all)
}

/// What is granted on: each once.
fn relations(ctx: &Context<'_>, objects: Option<&GrantObjects>) -> Result<Vec<Relation>> {
    let names = match objects {
        Some(GrantObjects::Tables(names)) => names,
        Some(GrantObjects::AllTablesInSchema { schemas }) => return all_of_schemas(ctx, schemas),
        Some(GrantObjects::Sequences(_) | GrantObjects::AllSequencesInSchema { .. }) => {
            return Err(Error::unsupported("privileges on sequences")
                .detail("Every role may draw from every sequence.")
                .hint("Grant privileges on the table that the numbers are for."));
        }
        None => return Err(Error::unsupported("membership in roles")),
        Some(other) => {
            return Err(Error::unsupported(format!("privileges on {other}"))
                .hint("Privileges are on tables and views; every role may make tables in schema public."));
        }
    };
    let mut seen = BTreeSet::new();
    let mut found = Vec::with_capacity(names.len());
    for written in names {
        let name = name::object(written)?;
        let relation = ctx.catalog.relation(&name).ok_or_else(|| no_relation(&name))?;
        match relation {
            Relation::Table(_) | Relation::View(_) => {}
            Relation::Sequence(_) => {
                return Err(
                    Error::unsupported("privileges on sequences").detail("Every role may draw from every sequence.")
                );
            }
            Relation::Index(..) => {
                return Err(Error::new(Condition::WrongObjectType, format!("\"{name}\" is an index")));
            }
        }
        if seen.insert(id_of(&relation)) {
            found.push(relation);
        }
    }
    Ok(found)
}

fn all_of_schemas(ctx: &Context<'_>, schemas: &[ObjectName]) -> Result<Vec<Relation>> {
    for schema in schemas {
        let (_, schema) = name::parts(schema)?;
        if schema != name::PUBLIC {
            return Err(name::no_schema(&schema));
        }
    }
    let tables = ctx.catalog.tables.values().cloned().map(Relation::Table);
    Ok(tables.chain(ctx.catalog.views.values().cloned().map(Relation::View)).collect())
}

/// Those who are given something, or are taken it away; none is everybody.
fn roles(ctx: &Context<'_>, grantees: &[Grantee]) -> Result<Vec<Option<TableId>>> {
    let role = |grantee: &Grantee| match (&grantee.grantee_type, &grantee.name) {
        (GranteesType::Public, None) => Ok(None),
        (GranteesType::None | GranteesType::Group, Some(GranteeName::ObjectName(written))) => {
            let word = match written.0.as_slice() {
                [one] => one.as_ident(),
                _ => None,
            };
            let word =
                word.ok_or_else(|| Error::new(Condition::SyntaxError, format!("\"{written}\" names no role")))?;
            let mut role = name::fold(word);
            if word.quote_style.is_none() && matches!(role.as_str(), "current_user" | "current_role" | "session_user") {
                ctx.user.clone_into(&mut role);
            }
            let known = ctx.catalog.roles.get(&role).ok_or_else(|| super::role::missing(&role))?;
            Ok(Some(known.id))
        }
        _ => Err(Error::new(Condition::SyntaxError, format!("\"{grantee}\" names no role"))),
    };
    grantees.iter().map(role).collect()
}
