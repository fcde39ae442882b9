//! What a statement does with tables, and whether its user may.
//!
//! Who plans a statement notes its [`Need`]s: which privileges on which relations. They
//! are looked at whenever the statement runs, since plans are kept and shared. What a view
//! reads, its owner must be allowed to read; who reads the view needs rights on the view
//! alone. Nothing is needed of system tables, which show what everybody may know, and of
//! rows only those that their reader may read.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Delete, Expr as Ast, Insert, OnConflict, OnConflictAction, OnInsert, Statement, Update, visit_expressions,
};
use polity_base::TableId;

use crate::catalog::{Catalog, Privileges, Relation, Role, Table, name};
use crate::error::{Condition, Error, Result};
use crate::write::is_default;

/// What a statement does with a relation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Need {
    /// The table or view
    pub relation: TableId,
    /// What is done with it
    pub privileges: Privileges,
    /// In whose name: the owner of the view that does it; the user if none
    pub by: Option<TableId>,
}

impl Need {
    /// What the user does with a table.
    pub fn of(table: &Table, privileges: Privileges) -> Need {
        Need { relation: table.id, privileges, by: None }
    }
}

/// Refuses what a user may not do.
pub fn check(catalog: &Catalog, user: &str, needs: &[Need]) -> Result<()> {
    if needs.is_empty() {
        return Ok(());
    }
    let role = catalog.roles.get(user);
    needs.iter().try_for_each(|need| {
        let by = match need.by {
            None => role,
            Some(owner) => catalog.role_by_id(owner),
        };
        allow(catalog, by.ok_or(user), need)
    })
}

/// Refuses what a user may not do with a table.
pub fn require(catalog: &Catalog, user: &str, table: &Table, privileges: Privileges) -> Result<()> {
    check(catalog, user, &[Need::of(table, privileges)])
}

/// `by`: the role, or the name of one that is gone.
fn allow(catalog: &Catalog, by: std::result::Result<&std::sync::Arc<Role>, &str>, need: &Need) -> Result<()> {
    let relation = catalog.relation_by_id(need.relation);
    let (kind, relation_name, owner) = match &relation {
        Some(Relation::Table(table)) => ("table", &table.name, table.owner),
        Some(Relation::View(view)) => ("view", &view.name, view.owner),
        _ => return Ok(()),
    };
    let held = by.map_or(Privileges::NONE, |role| catalog.privileges(role, need.relation, owner));
    if held.include(need.privileges) {
        return Ok(());
    }
    let lacks = need.privileges.without(held);
    let by = by.map_or_else(str::to_owned, |role| role.name.clone());
    let owner = catalog.role_by_id(owner).map(|role| role.name.clone()).unwrap_or_default();
    let whose = if need.by.is_some() { ", in whose name a view reads it," } else { "" };
    let (quoted, to) = (name::quote(relation_name), name::quote(&by));
    Err(Error::new(Condition::InsufficientPrivilege, format!("permission denied for {kind} {relation_name}"))
        .detail(format!("Role \"{by}\"{whose} lacks {lacks} on it, which belongs to \"{owner}\"."))
        .hint(format!("The owner or a superuser can allow it: GRANT {lacks} ON {quoted} TO {to}."))
        .table(relation_name))
}

/// Refuses who neither owns what is to be changed nor is a superuser.
pub fn require_owner(catalog: &Catalog, user: &str, relation: &Relation) -> Result<()> {
    let (kind, relation_name, owner) = match relation {
        Relation::Table(table) => ("table", table.name.clone(), table.owner),
        Relation::View(view) => ("view", view.name.clone(), view.owner),
        Relation::Sequence(sequence) => ("sequence", sequence.name.clone(), sequence.owner),
        Relation::Index(table, id) => {
            let named = crate::catalog::store::indexes(table).find(|(index, _)| index == id);
            ("index", named.map(|(_, index)| index.to_owned()).unwrap_or_default(), table.owner)
        }
    };
    if catalog.roles.get(user).is_some_and(|role| role.superuser || role.id == owner) {
        return Ok(());
    }
    let owner = catalog.role_by_id(owner).map(|role| role.name.clone()).unwrap_or_default();
    Err(Error::new(Condition::InsufficientPrivilege, format!("must be owner of {kind} {relation_name}"))
        .detail(format!("It belongs to \"{owner}\", and \"{user}\" is not a superuser."))
        .hint(format!("Ask \"{owner}\" or a superuser to do it."))
        .table(relation_name))
}

/// What a statement does with the table that it writes to, or whose rows it locks. It reads
/// that table too if it asks for more than to add or remove rows blindly.
pub fn of_statement(statement: &Statement) -> Privileges {
    match statement {
        Statement::Insert(insert) => of_insert(insert),
        Statement::Update(update) => of_update(update),
        Statement::Delete(delete) => of_delete(delete),
        Statement::Query(query) if query.locks.is_empty() => Privileges::SELECT,
        _ => OF_LOCKING,
    }
}

/// What SELECT … FOR UPDATE, and its weaker siblings, do with the table whose rows they
/// lock.
pub const OF_LOCKING: Privileges = Privileges::SELECT.and(Privileges::UPDATE);

/// What an INSERT does with its table.
pub fn of_insert(insert: &Insert) -> Privileges {
    let updates =
        matches!(&insert.on, Some(OnInsert::OnConflict(OnConflict { action: OnConflictAction::DoUpdate(_), .. })));
    let privileges = if updates { Privileges::INSERT.and(Privileges::UPDATE) } else { Privileges::INSERT };
    reading(privileges, insert.on.is_some() || insert.returning.is_some())
}

/// What an UPDATE does with its table.
pub fn of_update(update: &Update) -> Privileges {
    let values = update.assignments.iter().map(|assignment| &assignment.value);
    let looks = || looks_at_columns(values.filter(|value| !is_default(value)));
    let reads = update.selection.is_some() || update.from.is_some() || update.returning.is_some() || looks();
    reading(Privileges::UPDATE, reads)
}

/// What a DELETE does with its table.
pub fn of_delete(delete: &Delete) -> Privileges {
    let reads = delete.selection.is_some() || delete.using.is_some() || delete.returning.is_some();
    reading(Privileges::DELETE, reads)
}

fn reading(privileges: Privileges, reads: bool) -> Privileges {
    if reads { privileges.and(Privileges::SELECT) } else { privileges }
}

/// Whether any of these expressions looks at a column, or may.
fn looks_at_columns<'a>(expressions: impl IntoIterator<Item = &'a Ast>) -> bool {
    let looks = |ast: &Ast| {
        visit_expressions(ast, |e| match e {
            Ast::Identifier(_) | Ast::CompoundIdentifier(_) | Ast::Subquery(_) | Ast::Exists { .. } => {
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        })
        .is_break()
    };
    expressions.into_iter().any(looks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_besides_being_written_is_noticed() {
        let of = |sql: &str| {
            let tokens = crate::ddl::dialect::tokens(sql).unwrap();
            let statements = crate::ddl::dialect::read(tokens, |parser| parser.parse_statements()).unwrap();
            of_statement(&statements[0]).to_string()
        };
        for (sql, needs) in [
            ("INSERT INTO t VALUES (1)", "INSERT"),
            ("INSERT INTO t VALUES (1) RETURNING a", "INSERT, SELECT"),
            ("INSERT INTO t VALUES (1) ON CONFLICT (a) DO NOTHING", "INSERT, SELECT"),
            ("INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET a = 1", "INSERT, SELECT, UPDATE"),
            ("UPDATE t SET a = 1", "UPDATE"),
            ("UPDATE t SET a = DEFAULT", "UPDATE"),
            ("UPDATE t SET a = a + 1", "SELECT, UPDATE"),
            ("UPDATE t SET a = (SELECT 1)", "SELECT, UPDATE"),
            ("UPDATE t SET a = 1 WHERE a = 2", "SELECT, UPDATE"),
            ("UPDATE t SET a = 1 FROM u", "SELECT, UPDATE"),
            ("DELETE FROM t", "DELETE"),
            ("DELETE FROM t WHERE a = 1", "SELECT, DELETE"),
            ("SELECT a FROM t FOR SHARE", "SELECT, UPDATE"),
            ("SELECT a FROM t", "SELECT"),
        ] {
            assert_eq!(of(sql), needs, "{sql}");
        }
    }
}
