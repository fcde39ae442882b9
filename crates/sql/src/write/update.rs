//! UPDATE.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{
    Assignment, AssignmentTarget, Expr as Ast, SelectItem, SetExpr, Statement, TableFactor, TableWithJoins, Update,
    UpdateTableFromKind, With,
};
use polity_base::{Key, Type, Value};
use polity_txn::{LockMode, Wait};

use super::defaults::Default;
use super::merging;
use super::returning::{Others, Returning, response};
use super::rule::Rule;
use super::statement::{self, Step, Writing, conclude};
use super::{conformed, described, is_default, select, spelling, table_of, target_column, types_of};
use crate::catalog::{Identity, Table, name};
use crate::error::{Condition, Error, Result};
use crate::expr::{self, Assign, Env, Parameters, Scope};
use crate::query::{PlanInput, Planned, RunEnv};
use crate::rights;
use crate::session::{Context, Description, Outcome, Response, Verb};

/// Which columns a SET list assigns what.
pub struct Assignments {
    items: Vec<(usize, Option<Ast>)>,
}

impl Assignments {
    /// Resolves a SET list. Columns that get DEFAULT have no expression.
    pub fn of(table: &Table, list: &[Assignment]) -> Result<Assignments> {
        let mut items: Vec<(usize, Option<Ast>)> = Vec::with_capacity(list.len());
        for assignment in list {
            match &assignment.target {
                AssignmentTarget::ColumnName(written) => {
                    items.push(item(table, target_column(table, written)?, assignment.value.clone())?);
                }
                AssignmentTarget::Tuple(columns) => {
                    let values = tuple(&assignment.value, columns.len())?;
                    for (written, value) in columns.iter().zip(values) {
                        items.push(item(table, target_column(table, written)?, value)?);
                    }
                }
            }
        }
        for (at, (place, _)) in items.iter().enumerate() {
            if items[..at].iter().any(|(p, _)| p == place) {
                let column = &table.columns[*place].name;
                return Err(Error::new(
                    Condition::SyntaxError,
                    format!("multiple assignments to same column \"{column}\""),
                ));
            }
        }
        Ok(Assignments { items })
    }

    /// The places of the columns that are assigned.
    pub fn places(&self) -> Vec<usize> {
        self.items.iter().map(|(place, _)| *place).collect()
    }

    /// Place and expression of each; DEFAULT has none.
    pub fn iter(&self) -> impl Iterator<Item = (usize, Option<&Ast>)> {
        self.items.iter().map(|(place, ast)| (*place, ast.as_ref()))
    }
}

fn item(table: &Table, place: usize, value: Ast) -> Result<(usize, Option<Ast>)> {
    let column = &table.columns[place];
    let given = (!is_default(&value)).then_some(&value);
    merging::check_assignment(column, given)?;
    if given.is_none() {
        return Ok((place, None));
    }
    if column.identity == Some(Identity::Always) {
        return Err(Error::new(
            Condition::GeneratedAlways,
            format!("column \"{}\" can only be updated to DEFAULT", column.name),
        )
        .detail(format!("Column \"{}\" is an identity column defined as GENERATED ALWAYS.", column.name)));
    }
    Ok((place, Some(value)))
}

/// The values of `(a, b) = …`.
fn tuple(value: &Ast, width: usize) -> Result<Vec<Ast>> {
    let values = match value {
        Ast::Tuple(values) => values.clone(),
        Ast::Nested(inner) if width == 1 => vec![(**inner).clone()],
        Ast::Function(call) if name::parts(&call.name).is_ok_and(|(s, n)| s.is_none() && n == "row") => {
            use datafusion::sql::sqlparser::ast::{FunctionArg, FunctionArgExpr, FunctionArguments};
            let FunctionArguments::List(list) = &call.args else { return Err(wrong_width()) };
            let value = |arg: &FunctionArg| match arg {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => Ok(e.clone()),
                other => Err(Error::new(Condition::SyntaxError, format!("syntax error at or near \"{other}\""))),
            };
            list.args.iter().map(value).collect::<Result<_>>()?
        }
        Ast::Subquery(query) => {
            // One scalar subquery a column.
            let SetExpr::Select(select) = query.body.as_ref() else {
                return Err(Error::unsupported("assigning several columns from this kind of subquery"));
            };
            let expands = |i: &SelectItem| !matches!(i, SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. });
            if select.distinct.is_some() || select.projection.iter().any(expands) {
                return Err(Error::unsupported("assigning several columns from a subquery with DISTINCT or *"));
            }
            (0..select.projection.len())
                .map(|at| {
                    let mut one = (**query).clone();
                    if let SetExpr::Select(select) = one.body.as_mut() {
                        select.projection = select.projection.drain(..).skip(at).take(1).collect();
                    }
                    Ast::Subquery(Box::new(one))
                })
                .collect()
        }
        _ => {
            return Err(Error::unsupported(
                "a multiple-column assignment whose source is neither a row nor a subquery",
            ));
        }
    };
    if values.len() == width { Ok(values) } else { Err(wrong_width()) }
}

fn wrong_width() -> Error {
    Error::new(Condition::SyntaxError, "number of columns does not match number of values")
}

/// A SET list, compiled over rows at hand.
pub struct Set {
    items: Vec<(usize, SetItem)>,
}

enum SetItem {
    Default(Default),
    Rule(Rule, Assign),
}

impl Set {
    /// Compiles `assignments` over the columns of `scope`. What the small
    /// evaluator does not cover needs `input`; without it, it gives `None`.
    pub fn compile(
        table: &Table,
        assignments: &Assignments,
        scope: &mut Scope<'_>,
        input: Option<&PlanInput>,
    ) -> Result<Option<Set>> {
        let mut items = Vec::new();
        for (place, ast) in assignments.iter() {
            let column = &table.columns[place];
            let item = match ast {
                None => match Default::of(scope.catalog, column, input)? {
                    Some(default) => SetItem::Default(default),
                    None => return Ok(None),
                },
                Some(ast) => {
                    let Some(rule) = Rule::compile(ast, Some(&column.r#type), scope, input)? else {
                        return Ok(None);
                    };
                    let assign = Assign::new(rule.r#type(), &column.r#type, &column.name)?;
                    SetItem::Rule(rule, assign)
                }
            };
            items.push((place, item));
        }
        Ok(Some(Set { items }))
    }

    /// The places of the columns that are assigned.
    pub fn places(&self) -> Vec<usize> {
        self.items.iter().map(|(place, _)| *place).collect()
    }

    /// Assigns to `new` what comes of the columns of `row`.
    pub async fn apply(
        &self,
        ctx: &mut Context<'_>,
        row: &[Value],
        new: &mut [Value],
        parameters: &[Value],
        run: &mut Option<RunEnv>,
    ) -> Result<()> {
        let mut drawn = Vec::new();
        for (place, item) in &self.items {
            let value = match item {
                SetItem::Default(default) => default.value(ctx, run).await?,
                SetItem::Rule(rule, assign) => {
                    rule.draw(ctx, &mut drawn).await?;
                    let run = run.get_or_insert_with(|| RunEnv::of(ctx));
                    let env = Env::of(ctx, parameters).row(row).drawn(&drawn);
                    assign.apply(rule.eval(&env, run)?, env.local)?
                }
            };
            if let Some(slot) = new.get_mut(*place) {
                *slot = value;
            }
        }
        Ok(())
    }
}

/// An UPDATE as a query: key, old columns, new values, columns of other tables.
struct Plan {
    table: Arc<Table>,
    qualifier: String,
    planned: Planned,
    /// Place and conversion of each new value, in the query's order
    new: Vec<(usize, Assign)>,
    /// Places that get their default
    defaults: Vec<usize>,
    others: Others,
}

impl Plan {
    fn of(ctx: &Context<'_>, update: &Update, parameters: &mut Parameters) -> Result<Plan> {
        if update.or.is_some() || !update.order_by.is_empty() || update.limit.is_some() || update.output.is_some() {
            return Err(Error::new(Condition::SyntaxError, "syntax error at or near \"UPDATE\""));
        }
        let (written, alias) = select::written_table(&update.table)?;
        let table = table_of(ctx.catalog, written, "UPDATE")?;
        rights::require(ctx.catalog, ctx.user, &table, rights::of_update(update))?;
        let qualifier = alias.unwrap_or_else(|| table.name.clone());
        let (from, with) = spelling::without_carrier(from_list(update)?);
        let assignments = Assignments::of(&table, &update.assignments)?;
        let mut items = select::key_and_columns(&table, &qualifier);
        let mut places = Vec::new();
        let mut defaults = Vec::new();
        for (place, ast) in assignments.iter() {
            match ast {
                None => defaults.push(place),
                Some(ast) => {
                    let column = &table.columns[place];
                    let ast = match expr::operand::is_untyped(ast) {
                        true => select::typed(ast.clone(), &column.r#type)?,
                        false => ast.clone(),
                    };
                    items.push(SelectItem::UnnamedExpr(ast));
                    places.push(place);
                }
            }
        }
        let others = others(ctx, update.returning.is_some(), from, with, &mut items)?;
        let tables: Vec<TableWithJoins> = std::iter::once(&update.table).chain(from).cloned().collect();
        let statement = select::statement(with, items, tables, update.selection.clone())?;
        let planned = select::plan(ctx, &statement, Some(table.id), parameters)?;
        let first = 1 + table.columns.len();
        let mut new = Vec::with_capacity(places.len());
        for (place, from) in places.into_iter().zip(planned.columns.iter().skip(first)) {
            let column = &table.columns[place];
            new.push((place, Assign::new(&from.r#type, &column.r#type, &column.name)?));
        }
        Ok(Plan { table, qualifier, planned, new, defaults, others })
    }

    fn returning(&self, ctx: &Context<'_>, update: &Update, parameters: &mut Parameters) -> Result<Option<Returning>> {
        let Some(items) = &update.returning else { return Ok(None) };
        let mut scope = Scope::new(ctx.catalog, parameters).with_table(&self.table, &self.qualifier);
        self.others.add_to(&mut scope);
        Returning::compile(items, &self.table, &mut scope, &PlanInput::of(ctx)).map(Some)
    }

    fn places(&self) -> Vec<usize> {
        self.new.iter().map(|(place, _)| *place).chain(self.defaults.iter().copied()).collect()
    }
}

fn from_list(update: &Update) -> Result<&[TableWithJoins]> {
    match &update.from {
        None => Ok(&[]),
        Some(UpdateTableFromKind::AfterSet(from)) => Ok(from),
        Some(UpdateTableFromKind::BeforeSet(_)) => {
            Err(Error::new(Condition::SyntaxError, "syntax error at or near \"FROM\""))
        }
    }
}

/// The columns of other tables of the statement, which RETURNING may name. They
/// are added to the query's items.
pub(super) fn others(
    ctx: &Context<'_>,
    wanted: bool,
    from: &[TableWithJoins],
    with: Option<&With>,
    items: &mut Vec<SelectItem>,
) -> Result<Others> {
    let mut all = Vec::new();
    if wanted {
        for qualifier in select::qualifiers(from) {
            let statement = select::statement(with, vec![select::all_of(&qualifier)], from.to_vec(), None)?;
            let planned = select::plan(ctx, &statement, None, &mut Parameters::default())?;
            items.push(select::all_of(&qualifier));
            let columns: Vec<(String, Type)> =
                planned.columns.iter().map(|c| (c.name.clone(), c.r#type.clone())).collect();
            all.push((qualifier, columns));
        }
    }
    Ok(Others(all))
}

/// What an UPDATE needs and gives.
pub(super) fn describe(ctx: &Context<'_>, update: &Update, mut parameters: Parameters) -> Result<Description> {
    let plan = Plan::of(ctx, update, &mut parameters)?;
    let returning = plan.returning(ctx, update, &mut parameters)?;
    Ok(Description { parameters: described(&parameters)?, columns: returning.map(|r| r.columns) })
}

/// How an UPDATE is run.
pub(super) fn explain(ctx: &Context<'_>, update: &Update) -> Result<Vec<String>> {
    let plan = Plan::of(ctx, update, &mut Parameters::default())?;
    Ok(explain_rows("Update", &plan.table, &update.table.relation, update.selection.as_ref()))
}

pub(super) fn explain_rows(verb: &str, table: &Table, from: &TableFactor, selection: Option<&Ast>) -> Vec<String> {
    let mut lines = vec![format!("{verb} on {}", name::quote(&table.name))];
    lines.push(match selection {
        Some(condition) => format!("  ->  Rows of {from} where {condition}"),
        None => format!("  ->  Rows of {from}"),
    });
    lines
}

/// Runs an UPDATE.
pub async fn execute(ctx: &mut Context<'_>, statement: &Statement, parameters: &[Value]) -> Result<Outcome<Response>> {
    let Statement::Update(update) = statement else { return Err(Error::internal("not an UPDATE")) };
    statement::check_writable(ctx, "UPDATE")?;
    let savepoint = ctx.txn.savepoint();
    let result = run(ctx, update, parameters).await;
    conclude(ctx, &savepoint, result)
}

async fn run(ctx: &mut Context<'_>, update: &Update, parameters: &[Value]) -> Step<Response> {
    let mut types = types_of(parameters);
    let plan = Plan::of(ctx, update, &mut types)?;
    let returning = plan.returning(ctx, update, &mut types)?;
    let parameters = &conformed(ctx, parameters, &types)?;
    let target = Arc::new(statement::prepare(ctx, &plan.table)?);
    let mut writing = Writing::begin(ctx, &target, false).await?;
    let places = plan.places();
    writing.assigned.clone_from(&places);
    let mode = if target.is_key_change(&places) { LockMode::Exclusive } else { LockMode::NoKeyExclusive };
    let found = found_rows(ctx, &mut writing, &plan.planned, parameters, mode).await?;
    let defaults = match plan.defaults.is_empty() {
        true => Vec::new(),
        false => Default::all(ctx, &plan.table)?,
    };
    let width = plan.table.columns.len();
    let mut run = None;
    let (mut written, mut returned) = (0, Vec::new());
    for (key, mut row) in found {
        ctx.watch.pause().await?;
        let mut rest = row.split_off(width.min(row.len()));
        let others = rest.split_off(plan.new.len().min(rest.len()));
        let mut new = row.clone();
        for ((place, assign), value) in plan.new.iter().zip(rest) {
            new[*place] = assign.apply(value, expr::Local::of(ctx))?;
        }
        for place in &plan.defaults {
            if let Some(default) = defaults.get(*place) {
                new[*place] = default.value(ctx, &mut run).await?;
            }
        }
        writing.update(ctx, &target, &key, &row, &new).await?;
        written += 1;
        if let Some(returning) = &returning {
            new.extend(others);
            returned.push(returning.row(ctx, &new, parameters, &mut run).await?);
        }
    }
    writing.finish(ctx).await?;
    Ok(response(Verb::Update, written, returning.as_ref().map(|r| (r, returned))))
}

/// The rows that a query found by key, each once, locked.
pub(super) async fn found_rows(
    ctx: &mut Context<'_>,
    writing: &mut Writing,
    planned: &Planned,
    parameters: &[Value],
    mode: LockMode,
) -> Step<Vec<(Key, Vec<Value>)>> {
    let mut stream = select::run(ctx, planned, parameters).await?;
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    loop {
        let chunk = stream.next(8_192).await?;
        if chunk.is_empty() {
            break;
        }
        for mut row in chunk {
            if row.is_empty() {
                continue;
            }
            let rest = row.split_off(1);
            let key = select::key_of(row.pop().unwrap_or(Value::Null))?;
            // A row that joins several others is written once.
            if seen.insert(key.clone()) {
                found.push((key, rest));
            }
        }
    }
    drop(stream);
    for (key, _) in &found {
        ctx.watch.pause().await?;
        writing.lock(ctx, key, mode, Wait::Block).await?;
    }
    Ok(found)
}
