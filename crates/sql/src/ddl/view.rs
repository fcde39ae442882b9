//! CREATE VIEW.
//!
//! A view is kept as its query's text. Stars are written out when it is made, so
//! that a column added to a table later does not appear in the view, as in
//! PostgreSQL.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    CreateTableOptions, CreateView, Expr, Ident, JoinConstraint, JoinOperator, ObjectName, ObjectNamePart, Query,
    Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr, Statement, TableAlias, TableFactor,
    WildcardAdditionalOptions, visit_relations,
};
use datafusion::sql::sqlparser::tokenizer::Token;
use polity_base::{TableId, Type};

use super::dialect;
use super::expression::written;
use super::lock::{Locks, no_relation};
use super::notice_exists;
use crate::catalog::change::{self, Change};
use crate::catalog::{Catalog, Relation, View, name, store};
use crate::error::{Condition, Error, Result};
use crate::query::PlanInput;
use crate::rights;
use crate::session::Context;

const TAG: &str = "CREATE VIEW";

/// CREATE [OR REPLACE] VIEW
pub(super) async fn create(ctx: &mut Context<'_>, statement: &CreateView) -> Result<String> {
    refuse_unknown(statement)?;
    let view_name = name::object(&statement.name)?;
    loop {
        let existing = match ctx.catalog.relation(&view_name) {
            None => None,
            Some(Relation::View(v)) if statement.or_replace => {
                rights::require_owner(ctx.catalog, ctx.user, &Relation::View(v.clone()))?;
                Some(v)
            }
            Some(_) if statement.if_not_exists => {
                notice_exists(ctx, &view_name);
                return Ok(TAG.to_owned());
            }
            Some(_) if statement.or_replace => {
                return Err(Error::new(Condition::WrongObjectType, format!("\"{view_name}\" is not a view")));
            }
            Some(_) => return Err(change::relation_exists(&view_name)),
        };
        let query = expanded(ctx, (*statement.query).clone())?;
        let columns = columns(ctx, statement, &query)?;
        let reads = reads(ctx.catalog, &query)?;
        if let Some(old) = &existing {
            check_replacement(old, &columns)?;
        }
        let mut locks = Locks::default();
        locks.name(&view_name);
        reads.iter().for_each(|id| locks.keep(key_of(ctx.catalog, *id)));
        if let Some(old) = &existing {
            locks.key(store::view_key(old.id));
        }
        if !locks.take(ctx).await? {
            continue;
        }
        let (id, owner, comment) = match existing {
            Some(old) => (old.id, old.owner, old.comment.clone()),
            None => (TableId(ctx.engine.catalogs().new_id().await?), super::current_role(ctx)?.id, None),
        };
        let query = query.to_string();
        let mut change = Change::of(ctx.catalog);
        change.put_view(View { id, name: view_name, owner, query, columns, reads, comment })?;
        change.make(ctx)?;
        return Ok(TAG.to_owned());
    }
}

fn refuse_unknown(statement: &CreateView) -> Result<()> {
    let refused = [
        (statement.materialized, "a MATERIALIZED view"),
        (statement.temporary, "a TEMPORARY view"),
        (!matches!(statement.options, CreateTableOptions::None), "a view WITH options"),
        (statement.or_alter || statement.secure || statement.copy_grants, "this kind of view"),
        (statement.to.is_some() || statement.params.is_some() || !statement.cluster_by.is_empty(), "this view option"),
        (statement.with_no_schema_binding || statement.comment.is_some(), "this view option"),
    ];
    match refused.iter().find(|(is, _)| *is) {
        Some((_, what)) => Err(Error::unsupported(what)),
        None => Ok(()),
    }
}

pub(super) fn key_of(catalog: &Catalog, id: TableId) -> polity_base::Key {
    if catalog.views.contains_key(&id) {
        store::view_key(id)
    } else if catalog.sequences.contains_key(&id) {
        store::sequence_key(id)
    } else {
        store::table_key(id)
    }
}

/// Names and types of the view's columns.
fn columns(ctx: &Context<'_>, statement: &CreateView, query: &Query) -> Result<Vec<(String, Type)>> {
    let planned = plan(ctx, query)?;
    if statement.columns.len() > planned.len() {
        return Err(Error::new(Condition::SyntaxError, "CREATE VIEW specifies more column names than columns"));
    }
    let mut given = statement.columns.iter().map(|c| name::fold(&c.name));
    let mut seen = BTreeSet::new();
    let mut columns = Vec::with_capacity(planned.len());
    for (planned_name, r#type) in planned {
        let name = given.next().unwrap_or(planned_name);
        if !seen.insert(name.clone()) {
            return Err(Error::new(Condition::DuplicateColumn, format!("column \"{name}\" specified more than once")));
        }
        columns.push((name, if r#type == Type::Unknown { Type::Text } else { r#type }));
    }
    Ok(columns)
}

fn plan(ctx: &Context<'_>, query: &Query) -> Result<Vec<(String, Type)>> {
    let statement = Statement::Query(Box::new(query.clone()));
    let planned = ctx.engine.planner().plan(&PlanInput::of(ctx), &statement, &[])?;
    if !planned.parameters.is_empty() {
        return Err(Error::new(Condition::UndefinedParameter, "there is no parameter $1"));
    }
    Ok(planned.columns.iter().map(|c| (c.name.clone(), c.r#type.clone())).collect())
}

fn check_replacement(old: &View, columns: &[(String, Type)]) -> Result<()> {
    let refused = |message: String| Err(Error::new(Condition::InvalidTableDefinition, message));
    if columns.len() < old.columns.len() {
        return refused("cannot drop columns from view".to_owned());
    }
    for ((old_name, old_type), (name, r#type)) in old.columns.iter().zip(columns) {
        if old_name != name {
            return Err(Error::new(
                Condition::InvalidTableDefinition,
                format!("cannot change name of view column \"{old_name}\" to \"{name}\""),
            )
            .hint("Drop the view first, if its columns are to be renamed."));
        }
        if old_type != r#type {
            return refused(format!("cannot change data type of view column \"{name}\" from {old_type} to {type}"));
        }
    }
    Ok(())
}

/// The relations a query reads, system tables aside.
fn reads(catalog: &Catalog, query: &Query) -> Result<Vec<TableId>> {
    let local = names_of_ctes(query);
    let mut ids = BTreeSet::new();
    let found = visit_relations(query, |relation: &ObjectName| {
        let (schema, name) = match name::parts(relation) {
            Ok(parts) => parts,
            Err(e) => return ControlFlow::Break(e),
        };
        let is_system = matches!(schema.as_deref(), Some("pg_catalog" | "information_schema" | "polity"));
        if is_system || (schema.is_none() && local.contains(&name)) {
            return ControlFlow::Continue(());
        }
        match catalog.names.get(&name) {
            Some(id) => {
                ids.insert(*id);
                ControlFlow::Continue(())
            }
            // Without a schema, a system table may be meant: the query was planned.
            None if schema.is_none() => ControlFlow::Continue(()),
            None => ControlFlow::Break(no_relation(&name)),
        }
    });
    match found {
        ControlFlow::Break(e) => Err(e),
        ControlFlow::Continue(()) => Ok(ids.into_iter().collect()),
    }
}

/// Names of WITH queries anywhere in a query.
pub fn names_of_ctes(query: &Query) -> BTreeSet<String> {
    struct Names(BTreeSet<String>);
    impl datafusion::sql::sqlparser::ast::Visitor for Names {
        type Break = ();
        fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
            if let Some(with) = &query.with {
                self.0.extend(with.cte_tables.iter().map(|c| name::fold(&c.alias.name)));
            }
            ControlFlow::Continue(())
        }
    }
    let mut names = Names(BTreeSet::new());
    let _ = datafusion::sql::sqlparser::ast::Visit::visit(query, &mut names);
    names.0
}

/// Whether a query's text names a column, or anything else, so.
pub(super) fn mentions(query: &str, name: &str) -> bool {
    let Ok(tokens) = dialect::tokens(query) else { return true };
    tokens.iter().any(|token| match &token.token {
        Token::Word(w) if w.quote_style.is_some() => w.value == name,
        Token::Word(w) => w.value.eq_ignore_ascii_case(name),
        _ => false,
    })
}

/// Reads a view's query.
pub fn parse(query: &str) -> Result<Query> {
    let parsed = dialect::read_text(query, |parser| parser.parse_query());
    parsed.map(|q| *q).map_err(|e| Error::internal(format!("the query {query} cannot be read: {e}")))
}

/// A view's query with a relation's new name. The old one stays as its alias, so
/// that columns qualified with it are still found.
pub(super) fn rename_relation(query: &str, old: &str, new: &str) -> Result<String> {
    struct Rename<'a> {
        old: &'a str,
        new: &'a str,
    }
    impl datafusion::sql::sqlparser::ast::VisitorMut for Rename<'_> {
        type Break = ();
        fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
            if let TableFactor::Table { name, alias, .. } = factor
                && name::object(name).is_ok_and(|n| n == self.old)
            {
                if let Some(part) = name.0.last_mut() {
                    *part = ObjectNamePart::Identifier(written(self.new));
                }
                alias.get_or_insert_with(|| TableAlias {
                    explicit: true,
                    name: written(self.old),
                    columns: Vec::new(),
                    at: None,
                });
            }
            ControlFlow::Continue(())
        }
    }
    let mut parsed = parse(query)?;
    if names_of_ctes(&parsed).contains(old) {
        return Err(Error::unsupported(format!(
            "renaming \"{old}\", which a view both reads and names a WITH query so"
        ))
        .hint("Drop the view, rename, and create the view again."));
    }
    let _ = datafusion::sql::sqlparser::ast::VisitMut::visit(&mut parsed, &mut Rename { old, new });
    Ok(parsed.to_string())
}

/// The query with its stars written out.
fn expanded(ctx: &Context<'_>, mut query: Query) -> Result<Query> {
    let with = query.with.clone();
    expand_body(ctx, &mut query.body, with.as_ref())?;
    Ok(query)
}

type With = datafusion::sql::sqlparser::ast::With;

fn expand_body(ctx: &Context<'_>, body: &mut SetExpr, with: Option<&With>) -> Result<()> {
    match body {
        SetExpr::Select(select) => expand_select(ctx, select, with),
        SetExpr::Query(query) => {
            let inner = query.with.clone();
            expand_body(ctx, &mut query.body, inner.as_ref().or(with))
        }
        SetExpr::SetOperation { left, right, .. } => {
            expand_body(ctx, left, with)?;
            expand_body(ctx, right, with)
        }
        _ => Ok(()),
    }
}

fn expand_select(ctx: &Context<'_>, select: &mut Select, with: Option<&With>) -> Result<()> {
    let mut items = Vec::with_capacity(select.projection.len());
    for item in std::mem::take(&mut select.projection) {
        let wanted = match &item {
            SelectItem::Wildcard(options) => {
                plain(options)?;
                None
            }
            SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(of), options) => {
                plain(options)?;
                Some(name::parts(of)?.1)
            }
            _ => {
                items.push(item);
                continue;
            }
        };
        if wanted.is_none() {
            refuse_merged_columns(select)?;
        }
        let mut found = false;
        let joined =
            select.from.iter().flat_map(|f| std::iter::once(&f.relation).chain(f.joins.iter().map(|j| &j.relation)));
        for factor in joined {
            let qualifier = qualifier(factor)?;
            if wanted.as_ref().is_some_and(|w| *w != name::fold(&qualifier)) {
                continue;
            }
            found = true;
            for column in columns_of(ctx, factor, with)? {
                items
                    .push(SelectItem::UnnamedExpr(Expr::CompoundIdentifier(vec![qualifier.clone(), written(&column)])));
            }
        }
        if !found {
            let message = match wanted {
                Some(name) => format!("missing FROM-clause entry for table \"{name}\""),
                None => "SELECT * with no tables specified is not valid".to_owned(),
            };
            return Err(Error::new(Condition::UndefinedTable, message));
        }
    }
    select.projection = items;
    Ok(())
}

fn plain(options: &WildcardAdditionalOptions) -> Result<()> {
    match options.to_string().is_empty() {
        true => Ok(()),
        false => Err(Error::new(Condition::SyntaxError, format!("syntax error at or near \"{options}\""))),
    }
}

/// USING and NATURAL merge columns, and a star shows the merged ones once.
fn refuse_merged_columns(select: &Select) -> Result<()> {
    for join in select.from.iter().flat_map(|f| &f.joins) {
        let constraint = match &join.join_operator {
            JoinOperator::Join(c)
            | JoinOperator::Inner(c)
            | JoinOperator::Left(c)
            | JoinOperator::LeftOuter(c)
            | JoinOperator::Right(c)
            | JoinOperator::RightOuter(c)
            | JoinOperator::FullOuter(c) => c,
            _ => continue,
        };
        if matches!(constraint, JoinConstraint::Using(_) | JoinConstraint::Natural) {
            return Err(Error::unsupported("a view that selects * from a join with USING or NATURAL")
                .hint("Name the view's columns."));
        }
    }
    Ok(())
}

/// The name by which columns of a table in FROM are qualified.
fn qualifier(factor: &TableFactor) -> Result<Ident> {
    let (alias, name) = match factor {
        TableFactor::Table { alias, name, .. } => (alias, Some(name)),
        TableFactor::Derived { alias, .. } | TableFactor::Function { alias, .. } => (alias, None),
        _ => (&None, None),
    };
    if let Some(alias) = alias {
        return Ok(alias.name.clone());
    }
    match name.and_then(|n| n.0.last()).and_then(|p| p.as_ident()) {
        Some(ident) => Ok(ident.clone()),
        None => Err(Error::unsupported("a view that selects * from this").hint("Name the view's columns.")),
    }
}

/// The columns of one table in FROM.
fn columns_of(ctx: &Context<'_>, factor: &TableFactor, with: Option<&With>) -> Result<Vec<String>> {
    let mut query = parse(&format!("SELECT * FROM {factor}"))?;
    query.with = with.cloned();
    Ok(plan(ctx, &query)?.into_iter().map(|(name, _)| name).collect())
}
