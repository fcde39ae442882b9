//! CREATE, ALTER and DROP ROLE (or USER, which is a role that may log in).
//!
//! Superusers alone make and change roles; others change their own password. What a role
//! may do with tables of others, [`super::grant`] says.

use datafusion::sql::sqlparser::ast::{Ident, ObjectName};
use polity_base::TableId;

use super::extra::RoleOption;
use super::lock::Locks;
use super::scram;
use crate::catalog::change::Change;
use crate::catalog::{Guarantee, Relation, Role, SUPERUSER, name, store};
use crate::error::{Condition, Error, Result};
use crate::session::Context;

/// The error for a role that is not there.
pub(super) fn missing(name: &str) -> Error {
    Error::new(Condition::UndefinedObject, format!("role \"{name}\" does not exist"))
}

fn denied(what: &str) -> Error {
    Error::new(Condition::InsufficientPrivilege, format!("permission denied to {what} role"))
        .hint("Only superusers can do that.")
}

fn check_name(name: &str) -> Result<()> {
    if matches!(name, "public" | "none" | "current_user" | "current_role" | "session_user") || name.starts_with("pg_") {
        return Err(Error::new(Condition::ReservedName, format!("role name \"{name}\" is reserved")));
    }
    Ok(())
}

async fn lock(ctx: &mut Context<'_>, names: &[&str]) -> Result<()> {
    loop {
        let mut locks = Locks::default();
        names.iter().for_each(|n| locks.key(store::role_key(n)));
        if locks.take(ctx).await? {
            return Ok(());
        }
    }
}

fn apply(ctx: &mut Context<'_>, role: &mut Role, options: &[RoleOption]) -> Result<()> {
    for option in options {
        match option {
            RoleOption::Login(login) => role.login = *login,
            RoleOption::Superuser(superuser) => {
                if role.id == SUPERUSER && !superuser {
                    return Err(Error::new(
                        Condition::FeatureNotSupported,
                        "permission denied to alter role: the bootstrap user must be superuser",
                    ));
                }
                role.superuser = *superuser;
            }
            RoleOption::Password(None) => role.password = None,
            RoleOption::Password(Some(password)) if password.is_empty() => {
                super::notice(ctx, "empty string is not a valid password, clearing password".to_owned());
                role.password = None;
            }
            RoleOption::Password(Some(password)) => {
                role.password = Some(scram::stored(password, ctx.engine.seams().entropy.as_ref())?);
            }
            RoleOption::Stated => {}
            RoleOption::Unsupported(what) => return Err(Error::unsupported(what)),
        }
    }
    Ok(())
}

/// CREATE ROLE, CREATE USER
pub(super) async fn create(ctx: &mut Context<'_>, name: &Ident, user: bool, options: &[RoleOption]) -> Result<String> {
    let name = name::fold(name);
    check_name(&name)?;
    lock(ctx, &[&name]).await?;
    if !super::current_role(ctx)?.superuser {
        return Err(denied("create"));
    }
    if ctx.catalog.roles.contains_key(&name) {
        return Err(Error::new(Condition::DuplicateObject, format!("role \"{name}\" already exists")));
    }
    let id = TableId(ctx.engine.catalogs().new_id().await?);
    let mut role = Role { id, name, password: None, superuser: false, login: user };
    apply(ctx, &mut role, options)?;
    let mut change = Change::of(ctx.catalog);
    change.put_role(role)?;
    change.make(ctx)?;
    Ok("CREATE ROLE".to_owned())
}

/// ALTER ROLE, ALTER USER
pub(super) async fn alter(ctx: &mut Context<'_>, name: Option<&Ident>, options: &[RoleOption]) -> Result<String> {
    let name = name.map_or_else(|| ctx.user.to_owned(), name::fold);
    lock(ctx, &[&name]).await?;
    let Some(role) = ctx.catalog.roles.get(&name) else { return Err(missing(&name)) };
    let mut role = (**role).clone();
    let own_password = name == ctx.user && options.iter().all(|o| matches!(o, RoleOption::Password(_)));
    if !own_password && !super::current_role(ctx)?.superuser {
        return Err(denied("alter"));
    }
    apply(ctx, &mut role, options)?;
    let mut change = Change::of(ctx.catalog);
    change.put_role(role)?;
    change.make(ctx)?;
    Ok("ALTER ROLE".to_owned())
}

/// ALTER ROLE … RENAME TO
pub(super) async fn rename(ctx: &mut Context<'_>, from: &Ident, to: &Ident) -> Result<String> {
    let (from, to) = (name::fold(from), name::fold(to));
    check_name(&to)?;
    lock(ctx, &[&from, &to]).await?;
    if !super::current_role(ctx)?.superuser {
        return Err(denied("rename"));
    }
    let Some(role) = ctx.catalog.roles.get(&from).cloned() else { return Err(missing(&from)) };
    if from == ctx.user {
        return Err(Error::new(Condition::FeatureNotSupported, "session user cannot be renamed"));
    }
    if ctx.catalog.roles.contains_key(&to) {
        return Err(Error::new(Condition::DuplicateObject, format!("role \"{to}\" already exists")));
    }
    if let Some(table) = ledger_table_of(ctx, role.id) {
        return Err(Error::unsupported(format!("renaming \"{from}\", who owns byzantine table \"{table}\""))
            .detail("A ledger knows the owner of a table by name, and orders no other owner for it.")
            .hint("Create another role, and GRANT it what it needs."));
    }
    let mut change = Change::of(ctx.catalog);
    change.drop_role(&from);
    change.put_role(Role { name: to, ..(*role).clone() })?;
    change.make(ctx)?;
    Ok("ALTER ROLE".to_owned())
}

/// DROP ROLE, DROP USER
pub(super) async fn drop(ctx: &mut Context<'_>, names: &[ObjectName], if_exists: bool) -> Result<String> {
    let mut folded = Vec::with_capacity(names.len());
    for name in names {
        folded.push(name::parts(name)?.1);
    }
    lock(ctx, &folded.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    if !super::current_role(ctx)?.superuser {
        return Err(denied("drop"));
    }
    let mut change = Change::of(ctx.catalog);
    for name in &folded {
        let Some(role) = ctx.catalog.roles.get(name).cloned() else {
            if !if_exists {
                return Err(missing(name));
            }
            super::notice(ctx, format!("role \"{name}\" does not exist, skipping"));
            continue;
        };
        if name == ctx.user {
            return Err(Error::new(Condition::ObjectInUse, "current user cannot be dropped"));
        }
        if role.id == SUPERUSER {
            return Err(Error::new(
                Condition::DependentObjectsStillExist,
                format!("cannot drop role {name} because it is required by the database system"),
            ));
        }
        let owned = owned_by(ctx, role.id);
        if !owned.is_empty() {
            return Err(Error::new(
                Condition::DependentObjectsStillExist,
                format!("role \"{name}\" cannot be dropped because some objects depend on it"),
            )
            .detail(owned.join("\n")));
        }
        change.drop_role(name);
    }
    change.make(ctx)?;
    Ok("DROP ROLE".to_owned())
}

/// What would be left without its owner, or granted to nobody.
fn owned_by(ctx: &Context<'_>, role: TableId) -> Vec<String> {
    let tables = ctx.catalog.tables.values().filter(|t| t.owner == role).map(|t| format!("owner of table {}", t.name));
    let views = ctx.catalog.views.values().filter(|v| v.owner == role).map(|v| format!("owner of view {}", v.name));
    let sequences = ctx.catalog.sequences.values().filter(|s| s.owner == role && s.owned_by.is_none());
    let granted = ctx.catalog.grants.iter().filter(|(_, grants)| grants.iter().any(|grant| grant.to == Some(role)));
    let granted = granted.filter_map(|(id, _)| match ctx.catalog.relation_by_id(*id)? {
        Relation::Table(table) => Some(format!("privileges for table {}", table.name)),
        Relation::View(view) => Some(format!("privileges for view {}", view.name)),
        Relation::Sequence(_) | Relation::Index(..) => None,
    });
    let sequences = sequences.map(|s| format!("owner of sequence {}", s.name));
    tables.chain(views).chain(sequences).chain(granted).collect()
}

/// A byzantine table that belongs to a role.
fn ledger_table_of(ctx: &Context<'_>, role: TableId) -> Option<String> {
    let owned =
        |table: &&std::sync::Arc<crate::catalog::Table>| table.owner == role && table.guarantee == Guarantee::Byzantine;
    ctx.catalog.tables.values().find(owned).map(|table| table.name.clone())
}
