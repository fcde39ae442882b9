//! The SELECTs that statements which write are planned as.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    CastKind, Expr as Ast, Ident, Query, SelectItem, SelectItemQualifiedWildcardKind, SetExpr, Statement, TableFactor,
    TableWithJoins, Visit, WildcardAdditionalOptions, With, visit_expressions,
};
use polity_base::{Key, TableId, Type, Value};

use crate::catalog::{Table, name};
use crate::ddl::dialect;
use crate::error::{Condition, Error, Result};
use crate::expr::operand::bare_parameter;
use crate::expr::{Parameters, cast};
use crate::query::{PlanInput, Planned, RunEnv};
use crate::rights;
use crate::session::{Context, RowStream};

/// The hidden column that gives a row's key.
pub const KEY_COLUMN: &str = "__polity_key";

/// `WITH with SELECT items FROM from WHERE selection`
pub fn statement(
    with: Option<&With>,
    items: Vec<SelectItem>,
    from: Vec<TableWithJoins>,
    selection: Option<Ast>,
) -> Result<Statement> {
    let mut query = empty()?;
    query.with = with.cloned();
    if let SetExpr::Select(select) = query.body.as_mut() {
        select.projection = items;
        select.from = from;
        select.selection = selection;
    }
    Ok(Statement::Query(query))
}

fn empty() -> Result<Box<Query>> {
    dialect::read_text("SELECT 1", |parser| parser.parse_query()).map_err(Error::internal)
}

/// `qualifier.column`
pub fn column(qualifier: &str, name: &str) -> Ast {
    Ast::CompoundIdentifier(vec![Ident::with_quote('"', qualifier), Ident::with_quote('"', name)])
}

/// The key of the row and all its columns.
pub fn key_and_columns(table: &Table, qualifier: &str) -> Vec<SelectItem> {
    let names = std::iter::once(KEY_COLUMN).chain(table.columns.iter().map(|c| c.name.as_str()));
    names.map(|n| SelectItem::UnnamedExpr(column(qualifier, n))).collect()
}

/// `qualifier.*`
pub fn all_of(qualifier: &str) -> SelectItem {
    let name = datafusion::sql::sqlparser::ast::ObjectName::from(Ident::with_quote('"', qualifier));
    SelectItem::QualifiedWildcard(
        SelectItemQualifiedWildcardKind::ObjectName(name),
        WildcardAdditionalOptions::default(),
    )
}

/// `CAST(ast AS type)`, the type without its modifier: a literal or parameter
/// that stands alone is of the type it is assigned to.
pub fn typed(ast: Ast, r#type: &Type) -> Result<Ast> {
    // A cast to char(n) cuts; an assignment must not.
    let plain = if r#type.is_text() { Type::Text } else { cast::without_modifier(r#type) };
    let data_type =
        dialect::read_text(&plain.to_string(), |parser| parser.parse_data_type()).map_err(Error::internal)?;
    Ok(Ast::Cast { kind: CastKind::Cast, expr: Box::new(ast), data_type, array: false, format: None })
}

/// The name by which other parts of a statement know a table of it.
pub fn qualifier(factor: &TableFactor) -> Option<String> {
    match factor {
        TableFactor::Table { alias: Some(alias), .. }
        | TableFactor::Derived { alias: Some(alias), .. }
        | TableFactor::Function { alias: Some(alias), .. }
        | TableFactor::UNNEST { alias: Some(alias), .. }
        | TableFactor::NestedJoin { alias: Some(alias), .. } => Some(name::fold(&alias.name)),
        TableFactor::Table { name: written, .. } | TableFactor::Function { name: written, .. } => {
            name::parts(written).ok().map(|(_, name)| name)
        }
        _ => None,
    }
}

/// The qualifiers of all tables of a FROM list.
pub fn qualifiers(from: &[TableWithJoins]) -> Vec<String> {
    let mut all = Vec::new();
    for item in from {
        for factor in std::iter::once(&item.relation).chain(item.joins.iter().map(|j| &j.relation)) {
            match factor {
                TableFactor::NestedJoin { table_with_joins, alias: None } => {
                    all.extend(qualifiers(std::slice::from_ref(table_with_joins)));
                }
                other => all.extend(qualifier(other)),
            }
        }
    }
    all
}

/// The table and qualifier of the one table that UPDATE or DELETE names.
pub fn written_table(item: &TableWithJoins) -> Result<(&datafusion::sql::sqlparser::ast::ObjectName, Option<String>)> {
    let refused = || Error::new(Condition::SyntaxError, format!("syntax error at or near \"{item}\""));
    match &item.relation {
        TableFactor::Table { name: written, alias, args: None, sample: None, .. } if item.joins.is_empty() => {
            if alias.as_ref().is_some_and(|a| !a.columns.is_empty()) {
                return Err(refused());
            }
            Ok((written, alias.as_ref().map(|a| name::fold(&a.name))))
        }
        _ => Err(refused()),
    }
}

/// Plans a SELECT of this module's making. The types of parameters that it
/// finds out are noted.
pub fn plan(
    ctx: &Context<'_>,
    statement: &Statement,
    expose: Option<TableId>,
    parameters: &mut Parameters,
) -> Result<Planned> {
    let input = PlanInput { expose_key: expose, ..PlanInput::of(ctx) };
    let planned = ctx.engine.planner().plan(&input, statement, &parameters.types())?;
    rights::check(ctx.catalog, ctx.user, &planned.needs)?;
    // Parameters that only other parts of the statement use are theirs to type.
    let used = placeholders(statement);
    for (at, r#type) in planned.parameters.iter().enumerate().filter(|(at, _)| used.contains(at)) {
        parameters.infer(at, r#type);
    }
    Ok(planned)
}

/// The parameters a part of a statement uses, counted from 0.
pub fn placeholders(part: &impl Visit) -> Vec<usize> {
    let mut used = Vec::new();
    let _ = visit_expressions(part, |e| {
        if let Ast::Value(_) = e {
            used.extend(bare_parameter(e));
        }
        ControlFlow::<()>::Continue(())
    });
    used
}

/// Runs what [`plan`] planned.
pub async fn run(ctx: &Context<'_>, planned: &Planned, parameters: &[Value]) -> Result<RowStream> {
    ctx.engine.planner().run(planned, parameters, &ctx.txn.view(), RunEnv::of(ctx)).await
}

/// Takes the row's key out of a row's column.
pub fn key_of(value: Value) -> Result<Key> {
    match value {
        Value::Bytea(bytes) => Ok(Key(bytes)),
        other => Err(Error::internal(format!("a row's key is {other:?}"))),
    }
}
