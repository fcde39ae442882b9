//! INSERT of rows whose values are small expressions.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{Expr as Ast, Insert, OnInsert, SetExpr, TableObject};
use polity_base::Value;

use super::arguments::Uses;
use super::change::returning_list;
use super::list::{List, draw};
use crate::catalog::{Catalog, Table, name};
use crate::error::Result;
use crate::expr::{self, Assign, Env, Expr, Parameters, Scope};
use crate::session::{Column, Context, Outcome, Response, RowStream, Verb};
use crate::write::conflict::Conflict;
use crate::write::defaults::Default;
use crate::write::statement::{self, Locking, Step, Touched, Writing, conclude};
use crate::write::target::Target;
use crate::write::{is_default, target_column};

/// An INSERT of a few rows.
pub struct Add {
    target: Arc<Target>,
    /// For each row the values of all columns
    rows: Vec<Vec<Cell>>,
    conflict: Option<Conflict>,
    returning: Option<List>,
}

enum Cell {
    Constant(Value),
    Small(Expr, Assign),
}

/// Larger ones compile for nothing: nobody sends the same again.
const MOST_ROWS: usize = 128;

impl Add {
    pub(super) fn recognise(
        catalog: &Catalog,
        insert: &Insert,
        parameters: &mut Parameters,
        uses: &mut Uses,
    ) -> Option<Add> {
        let TableObject::TableName(written) = &insert.table else { return None };
        let table = catalog.table(&name::object(written).ok()?)?.clone();
        if insert.overwrite
            || insert.has_table_keyword
            || insert.or.is_some()
            || insert.ignore
            || insert.replace_into
            || !insert.assignments.is_empty()
        {
            return None;
        }
        let qualifier = insert.table_alias.as_ref().map_or_else(|| table.name.clone(), |a| name::fold(&a.alias));
        let lists = value_lists(insert)?;
        let given = given_columns(insert, &table, lists.first().map_or(0, |l| l.len()))?;
        let mut rows = Vec::with_capacity(lists.len());
        for list in &lists {
            if list.len() != given.len() {
                return None;
            }
            rows.push(compile_row(catalog, &table, &given, list, parameters, uses)?);
        }
        let conflict = match &insert.on {
            None => None,
            Some(OnInsert::OnConflict(on)) => {
                if let datafusion::sql::sqlparser::ast::OnConflictAction::DoUpdate(update) = &on.action {
                    update.assignments.iter().for_each(|a| uses.assigns(&a.value, parameters));
                }
                Some(Conflict::compile(catalog, on, &table, &qualifier, parameters, None).ok()??)
            }
            Some(_) => return None,
        };
        let returning = returning_list(insert.returning.as_deref(), catalog, &table, &qualifier, parameters)?;
        let target = Target::of(catalog, &table, None).ok()??;
        Some(Add { target: Arc::new(target), rows, conflict, returning })
    }

    pub(super) fn table(&self) -> &Table {
        &self.target.table
    }

    pub(super) fn columns(&self) -> Option<&Arc<[Column]>> {
        self.returning.as_ref().map(|r| &r.columns)
    }

    pub(super) async fn run(&self, ctx: &mut Context<'_>, parameters: &[Value]) -> Result<Outcome<Response>> {
        statement::check_writable(ctx, "INSERT")?;
        let savepoint = ctx.txn.savepoint();
        let result = self.add(ctx, parameters).await;
        conclude(ctx, &savepoint, result)
    }

    async fn add(&self, ctx: &mut Context<'_>, parameters: &[Value]) -> Step<Response> {
        let mut writing = Writing::begin(ctx, &self.target, true).await?;
        let mut touched = Touched::new();
        let mut written = 0u64;
        let mut returned = Vec::new();
        for cells in &self.rows {
            let row = values(ctx, cells, parameters).await?;
            let stored = match &self.conflict {
                None => {
                    writing.insert(ctx, &self.target, &row, Locking::Locked).await?;
                    Some(row)
                }
                Some(conflict) => {
                    conflict.insert(ctx, &mut writing, &self.target, row, parameters, &mut touched).await?
                }
            };
            let Some(row) = stored else { continue };
            written += 1;
            if let Some(list) = &self.returning {
                returned.push(list.of_row(row, &Env::of(ctx, parameters))?);
            }
        }
        writing.finish(ctx).await?;
        Ok(match &self.returning {
            Some(list) => Response::Rows(RowStream::ready(list.columns.clone(), Verb::Insert, returned)),
            None => Response::Complete(format!("INSERT 0 {written}")),
        })
    }

    pub(super) fn explain(&self) -> Vec<String> {
        let rows = self.rows.len();
        vec![
            format!("Insert on {}", name::quote(&self.target.table.name)),
            format!("  ->  Values ({rows} {})", if rows == 1 { "row" } else { "rows" }),
        ]
    }
}

async fn values(ctx: &mut Context<'_>, cells: &[Cell], parameters: &[Value]) -> Result<Vec<Value>> {
    let mut row = Vec::with_capacity(cells.len());
    for cell in cells {
        row.push(match cell {
            Cell::Constant(value) => value.clone(),
            Cell::Small(expr, assign) => {
                let drawn = match expr.sequences.is_empty() {
                    true => Vec::new(),
                    false => draw(ctx, &expr.sequences).await?,
                };
                let env = Env::of(ctx, parameters).drawn(&drawn);
                assign.apply(expr.eval(&env)?, env.local)?
            }
        });
    }
    Ok(row)
}

/// The lists of VALUES; DEFAULT VALUES is one empty list.
fn value_lists(insert: &Insert) -> Option<Vec<&[Ast]>> {
    let Some(query) = &insert.source else { return Some(vec![&[]]) };
    let SetExpr::Values(values) = query.body.as_ref() else { return None };
    let alone = query.with.is_none()
        && query.order_by.is_none()
        && query.limit_clause.is_none()
        && query.fetch.is_none()
        && query.locks.is_empty()
        && !values.explicit_row
        && !values.value_keyword;
    (alone && values.rows.len() <= MOST_ROWS).then(|| values.rows.iter().map(|r| r.content.as_slice()).collect())
}

fn given_columns(insert: &Insert, table: &Table, width: usize) -> Option<Vec<usize>> {
    if insert.columns.is_empty() {
        return (width <= table.columns.len()).then(|| (0..width).collect());
    }
    let mut given = Vec::with_capacity(insert.columns.len());
    for written in &insert.columns {
        let place = target_column(table, written).ok()?;
        if given.contains(&place) {
            return None;
        }
        given.push(place);
    }
    Some(given)
}

fn compile_row(
    catalog: &Catalog,
    table: &Table,
    given: &[usize],
    list: &[Ast],
    parameters: &mut Parameters,
    uses: &mut Uses,
) -> Option<Vec<Cell>> {
    let mut cells = Vec::with_capacity(table.columns.len());
    for (place, column) in table.columns.iter().enumerate() {
        let ast = given.iter().position(|p| *p == place).and_then(|at| list.get(at)).filter(|ast| !is_default(ast));
        let (expr, assign) = match ast {
            Some(ast) => {
                if column.identity == Some(crate::catalog::Identity::Always) {
                    return None;
                }
                uses.assigns(ast, parameters);
                let mut scope = Scope::new(catalog, parameters);
                let expr = expr::compile_as(ast, &column.r#type, &mut scope)?;
                let assign = Assign::new(&expr.r#type, &column.r#type, &column.name).ok()?;
                (expr, assign)
            }
            None => {
                let default = Default::of(catalog, column, None).ok()??;
                default.into_small(&column.r#type)?
            }
        };
        cells.push(match expr.as_constant() {
            // A value that does not fit is for the run to complain about.
            Some(value) => match assign.apply(value.clone(), expr::Local::UTC) {
                Ok(value) if !depends_on_zone(&column.r#type, &expr.r#type) => Cell::Constant(value),
                _ => Cell::Small(expr, assign),
            },
            None => Cell::Small(expr, assign),
        });
    }
    Some(cells)
}

/// Whether a conversion between two types depends on the session's time zone.
fn depends_on_zone(a: &polity_base::Type, b: &polity_base::Type) -> bool {
    use polity_base::Type::TimestampTz;
    a != b && (*a == TimestampTz || *b == TimestampTz)
}
