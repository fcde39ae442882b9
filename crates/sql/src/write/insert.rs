//! INSERT.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{
    Expr as Ast, Insert, OnInsert, Query, SelectItem, SetExpr, Statement, TableObject,
};
use polity_base::{Type, Value};

use super::bulk::{self, Bulk};
use super::conflict::Conflict;
use super::defaults::Default;
use super::returning::{Returning, response};
use super::rule::Rule;
use super::statement::{self, Locking, Step, Touched, Writing, conclude};
use super::{column_place, conformed, described, is_default, select, table_of, types_of};
use crate::catalog::{Identity, Table, name};
use crate::error::{Condition, Error, Result};
use crate::expr::{self, Assign, Env, Parameters, Scope};
use crate::query::{PlanInput, Planned, RunEnv};
use crate::rights;
use crate::session::{Context, Description, Outcome, Response, Verb};

/// What an INSERT says, resolved against the catalog.
struct Shape<'a> {
    table: Arc<Table>,
    /// How other parts of the statement call the table
    qualifier: String,
    /// Places of the columns that are given values
    given: Vec<usize>,
    overriding: Overriding,
    source: Source<'a>,
    insert: &'a Insert,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Overriding {
    No,
    System,
    User,
}

enum Source<'a> {
    Defaults,
    Values(Vec<&'a [Ast]>),
    Query(&'a Query),
}

impl<'a> Shape<'a> {
    fn of(ctx: &Context<'_>, insert: &'a Insert) -> Result<Shape<'a>> {
        let TableObject::TableName(written) = &insert.table else {
            return Err(Error::new(Condition::SyntaxError, format!("syntax error at or near \"{}\"", insert.table)));
        };
        let table = table_of(ctx.catalog, written, "INSERT")?;
        rights::require(ctx.catalog, ctx.user, &table, rights::of_insert(insert))?;
        // OVERRIDING has no place in the tree: it arrives as OVERWRITE [TABLE].
        let overriding = match (insert.overwrite, insert.has_table_keyword) {
            (false, false) => Overriding::No,
            (true, false) => Overriding::System,
            (true, true) => Overriding::User,
            (false, true) => return Err(Error::new(Condition::SyntaxError, "syntax error at or near \"TABLE\"")),
        };
        if insert.or.is_some() || insert.ignore || insert.replace_into || !insert.assignments.is_empty() {
            return Err(Error::new(Condition::SyntaxError, "syntax error at or near \"INSERT\""));
        }
        let mut given = Vec::with_capacity(insert.columns.len());
        for written in &insert.columns {
            let place = super::target_column(&table, written)?;
            if given.contains(&place) {
                let column = &table.columns[place].name;
                return Err(Error::new(
                    Condition::DuplicateColumn,
                    format!("column \"{column}\" specified more than once"),
                ));
            }
            given.push(place);
        }
        let source = source_of(insert)?;
        if insert.columns.is_empty() {
            given.extend(0..table.columns.len());
        }
        let shape = Shape {
            qualifier: insert.table_alias.as_ref().map_or_else(|| table.name.clone(), |a| name::fold(&a.alias)),
            table,
            given,
            overriding,
            source,
            insert,
        };
        shape.check_width()?;
        Ok(shape)
    }

    fn check_width(&self) -> Result<()> {
        let Source::Values(rows) = &self.source else { return Ok(()) };
        let width = rows.first().map_or(0, |r| r.len());
        if rows.iter().any(|r| r.len() != width) {
            return Err(Error::new(Condition::SyntaxError, "VALUES lists must all be the same length"));
        }
        self.check_fit(width)
    }

    /// As many values as columns; fewer when no columns were named.
    fn check_fit(&self, width: usize) -> Result<()> {
        if width > self.given.len() {
            return Err(Error::new(Condition::SyntaxError, "INSERT has more expressions than target columns"));
        }
        if width < self.given.len() && !self.insert.columns.is_empty() {
            return Err(Error::new(Condition::SyntaxError, "INSERT has more target columns than expressions"));
        }
        Ok(())
    }

    /// Identity columns refuse values unless the statement overrides that.
    /// `false`: the value given is not to be used.
    fn accepts(&self, place: usize) -> Result<bool> {
        let Some(column) = self.table.columns.get(place) else { return Ok(true) };
        match (column.identity, self.overriding) {
            (Some(_), Overriding::User) => Ok(false),
            (Some(Identity::Always), Overriding::No) => Err(Error::new(
                Condition::GeneratedAlways,
                format!("cannot insert a non-DEFAULT value into column \"{}\"", column.name),
            )
            .detail(format!("Column \"{}\" is an identity column defined as GENERATED ALWAYS.", column.name))
            .hint("Use OVERRIDING SYSTEM VALUE to override.")),
            _ => Ok(true),
        }
    }

    fn scope<'s>(&'s self, ctx: &'s Context<'_>, parameters: &'s mut Parameters) -> Scope<'s> {
        Scope::new(ctx.catalog, parameters).with_table(&self.table, &self.qualifier)
    }

    fn returning(&self, ctx: &Context<'_>, parameters: &mut Parameters) -> Result<Option<Returning>> {
        let Some(items) = &self.insert.returning else { return Ok(None) };
        let mut scope = self.scope(ctx, parameters);
        Returning::compile(items, &self.table, &mut scope, &PlanInput::of(ctx)).map(Some)
    }

    fn conflict(&self, ctx: &Context<'_>, parameters: &mut Parameters) -> Result<Option<Conflict>> {
        match &self.insert.on {
            None => Ok(None),
            Some(OnInsert::OnConflict(on)) => {
                let input = PlanInput::of(ctx);
                Conflict::compile(ctx.catalog, on, &self.table, &self.qualifier, parameters, Some(&input))
            }
            Some(_) => Err(Error::new(Condition::SyntaxError, "syntax error at or near \"DUPLICATE\"")),
        }
    }
}

fn source_of(insert: &Insert) -> Result<Source<'_>> {
    let Some(query) = &insert.source else { return Ok(Source::Defaults) };
    match query.body.as_ref() {
        SetExpr::Values(values) if query.with.is_none() && query.order_by.is_none() && query.limit_clause.is_none() => {
            if values.explicit_row || values.value_keyword {
                return Err(Error::new(Condition::SyntaxError, "syntax error at or near \"ROW\""));
            }
            Ok(Source::Values(values.rows.iter().map(|r| r.content.as_slice()).collect()))
        }
        _ => Ok(Source::Query(query)),
    }
}

/// One value of a VALUES list.
enum Cell {
    Default,
    Small(Rule, Assign),
    /// The column of the row's query that gives it, to be converted
    Queried(usize, Assign),
}

/// One row of a VALUES list.
struct ValuesRow {
    cells: Vec<Cell>,
    /// Gives what the small evaluator does not cover
    query: Option<Planned>,
}

fn compile_row(ctx: &Context<'_>, shape: &Shape<'_>, row: &[Ast], parameters: &mut Parameters) -> Result<ValuesRow> {
    let mut cells = Vec::with_capacity(row.len());
    let mut queried: Vec<(usize, &Ast)> = Vec::new();
    for (ast, place) in row.iter().zip(&shape.given) {
        let Some(column) = shape.table.columns.get(*place) else { continue };
        if is_default(ast) || !shape.accepts(*place)? {
            cells.push(Cell::Default);
            continue;
        }
        let before = parameters.clone();
        let mut scope = Scope::new(ctx.catalog, parameters);
        match expr::compile_as(ast, &column.r#type, &mut scope) {
            Some(small) => {
                let assign = Assign::new(&small.r#type, &column.r#type, &column.name)?;
                cells.push(Cell::Small(Rule::Small(small), assign));
            }
            None => {
                *parameters = before;
                queried.push((cells.len(), ast));
                cells.push(Cell::Default);
            }
        }
    }
    let mut query = None;
    if !queried.is_empty() {
        let mut items = Vec::with_capacity(queried.len());
        for (at, ast) in &queried {
            let column = shape.given.get(*at).and_then(|p| shape.table.columns.get(*p));
            let ast = match column {
                // What has no type of its own is of the column's.
                Some(column) if expr::operand::is_untyped(ast) => select::typed((*ast).clone(), &column.r#type)?,
                _ => (*ast).clone(),
            };
            items.push(SelectItem::UnnamedExpr(ast));
        }
        let planned = select::plan(ctx, &select::statement(None, items, Vec::new(), None)?, None, parameters)?;
        for ((at, _), (n, from)) in queried.iter().zip(planned.columns.iter().enumerate()) {
            let Some(column) = shape.given.get(*at).and_then(|p| shape.table.columns.get(*p)) else { continue };
            cells[*at] = Cell::Queried(n, Assign::new(&from.r#type, &column.r#type, &column.name)?);
        }
        query = Some(planned);
    }
    Ok(ValuesRow { cells, query })
}

/// What an INSERT needs and gives.
pub(super) fn describe(ctx: &Context<'_>, insert: &Insert, mut parameters: Parameters) -> Result<Description> {
    let shape = Shape::of(ctx, insert)?;
    match &shape.source {
        Source::Defaults => {}
        Source::Values(rows) => {
            for row in rows {
                compile_row(ctx, &shape, row, &mut parameters)?;
            }
        }
        Source::Query(query) => {
            let planned = plan_source(ctx, &shape, query, &mut parameters)?;
            shape.check_fit(planned.columns.len())?;
        }
    }
    shape.conflict(ctx, &mut parameters)?;
    let returning = shape.returning(ctx, &mut parameters)?;
    Ok(Description { parameters: described(&parameters)?, columns: returning.map(|r| r.columns) })
}

/// How an INSERT is run.
pub(super) fn explain(ctx: &Context<'_>, insert: &Insert) -> Result<Vec<String>> {
    let shape = Shape::of(ctx, insert)?;
    let mut lines = vec![format!("Insert on {}", name::quote(&shape.table.name))];
    if let Some(OnInsert::OnConflict(on)) = &insert.on {
        lines.push(format!("  {}", on.to_string().trim()));
    }
    lines.push(match &shape.source {
        Source::Defaults => "  ->  Defaults (1 row)".to_owned(),
        Source::Values(rows) => format!("  ->  Values ({} rows)", rows.len()),
        Source::Query(query) => format!("  ->  Rows of: {query}"),
    });
    Ok(lines)
}

fn plan_source(ctx: &Context<'_>, shape: &Shape<'_>, query: &Query, parameters: &mut Parameters) -> Result<Planned> {
    let mut query = query.clone();
    type_literals(shape, query.body.as_mut())?;
    select::plan(ctx, &Statement::Query(Box::new(query)), None, parameters)
}

/// Literals and parameters that stand alone are of the columns' types.
fn type_literals(shape: &Shape<'_>, body: &mut SetExpr) -> Result<()> {
    match body {
        SetExpr::Query(inner) => type_literals(shape, inner.body.as_mut()),
        SetExpr::Select(select) => {
            for (item, place) in select.projection.iter_mut().zip(&shape.given) {
                let ast = match item {
                    SelectItem::UnnamedExpr(ast) => ast,
                    SelectItem::ExprWithAlias { expr, .. } => expr,
                    // How many columns that is, the planner knows.
                    _ => return Ok(()),
                };
                if expr::operand::is_untyped(ast)
                    && let Some(column) = shape.table.columns.get(*place)
                {
                    *ast = select::typed(ast.clone(), &column.r#type)?;
                }
            }
            Ok(())
        }
        SetExpr::Values(values) => {
            for row in &mut values.rows {
                for (ast, place) in row.content.iter_mut().zip(&shape.given) {
                    if expr::operand::is_untyped(ast)
                        && let Some(column) = shape.table.columns.get(*place)
                    {
                        *ast = select::typed(ast.clone(), &column.r#type)?;
                    }
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Runs an INSERT.
pub async fn execute(ctx: &mut Context<'_>, statement: &Statement, parameters: &[Value]) -> Result<Outcome<Response>> {
    let Statement::Insert(insert) = statement else { return Err(Error::internal("not an INSERT")) };
    statement::check_writable(ctx, "INSERT")?;
    let savepoint = ctx.txn.savepoint();
    let result = run(ctx, insert, parameters).await;
    conclude(ctx, &savepoint, result)
}

async fn run(ctx: &mut Context<'_>, insert: &Insert, parameters: &[Value]) -> Step<Response> {
    let shape = Shape::of(ctx, insert)?;
    // Everything is compiled before anything is computed: only then the types of
    // all parameters are known.
    let mut types = types_of(parameters);
    let mut rows = Vec::new();
    let mut query = None;
    match &shape.source {
        Source::Defaults => {}
        Source::Values(lists) => {
            for list in lists {
                rows.push(compile_row(ctx, &shape, list, &mut types)?);
            }
        }
        Source::Query(source) => query = Some(plan_source(ctx, &shape, source, &mut types)?),
    }
    let conflict = shape.conflict(ctx, &mut types)?;
    let returning = shape.returning(ctx, &mut types)?;
    let parameters = conformed(ctx, parameters, &types)?;
    let mut inserting = Inserting::begin(ctx, &shape, &parameters, conflict, returning).await?;
    match (&shape.source, query) {
        (Source::Query(_), Some(planned)) => inserting.query(ctx, planned).await?,
        (Source::Defaults, _) => inserting.row(ctx, Vec::new()).await?,
        _ => {
            for row in rows {
                ctx.watch.pause().await?;
                inserting.values(ctx, row).await?;
            }
        }
    }
    inserting.writing.finish(ctx).await?;
    Ok(response(Verb::Insert, inserting.written, inserting.returning.as_ref().map(|r| (r, inserting.returned))))
}

/// An INSERT at work.
struct Inserting<'a> {
    shape: &'a Shape<'a>,
    target: Arc<super::target::Target>,
    writing: Writing,
    parameters: &'a [Value],
    defaults: Vec<Default>,
    conflict: Option<Conflict>,
    returning: Option<Returning>,
    touched: Touched,
    run: Option<RunEnv>,
    written: u64,
    returned: Vec<Vec<Value>>,
}

impl<'a> Inserting<'a> {
    async fn begin(
        ctx: &mut Context<'_>,
        shape: &'a Shape<'a>,
        parameters: &'a [Value],
        conflict: Option<Conflict>,
        returning: Option<Returning>,
    ) -> Step<Inserting<'a>> {
        let target = Arc::new(statement::prepare(ctx, &shape.table)?);
        let unread = !matches!(shape.source, Source::Query(_));
        Ok(Inserting {
            writing: Writing::begin(ctx, &target, unread).await?,
            conflict,
            returning,
            defaults: Default::all(ctx, &shape.table)?,
            shape,
            target,
            parameters,
            touched: Touched::new(),
            run: None,
            written: 0,
            returned: Vec::new(),
        })
    }

    /// A row of a VALUES list.
    async fn values(&mut self, ctx: &mut Context<'_>, compiled: ValuesRow) -> Step<()> {
        let queried = match &compiled.query {
            Some(planned) => {
                // A subquery reads what is not locked.
                self.writing.unread = false;
                let mut stream = select::run(ctx, planned, self.parameters).await?;
                stream.next(1).await?.pop().unwrap_or_default()
            }
            None => Vec::new(),
        };
        let mut given = Vec::with_capacity(compiled.cells.len());
        let mut drawn = Vec::new();
        for cell in &compiled.cells {
            given.push(match cell {
                Cell::Default => None,
                Cell::Small(rule, assign) => {
                    rule.draw(ctx, &mut drawn).await?;
                    let run = self.run.get_or_insert_with(|| RunEnv::of(ctx));
                    let env = Env::of(ctx, self.parameters).drawn(&drawn);
                    Some(assign.apply(rule.eval(&env, run)?, env.local)?)
                }
                Cell::Queried(at, assign) => {
                    let value = queried.get(*at).cloned().unwrap_or(Value::Null);
                    Some(assign.apply(value, expr::Local::of(ctx))?)
                }
            });
        }
        self.row(ctx, given).await
    }

    /// The rows of a query.
    async fn query(&mut self, ctx: &mut Context<'_>, planned: Planned) -> Step<()> {
        self.shape.check_fit(planned.columns.len())?;
        let mut assigns = Vec::with_capacity(planned.columns.len());
        for (from, place) in planned.columns.iter().zip(&self.shape.given) {
            let Some(column) = self.shape.table.columns.get(*place) else { continue };
            let used = self.shape.accepts(*place)?;
            assigns.push((used, Assign::new(&from.r#type, &column.r#type, &column.name)?));
        }
        let mut bulk = match (&self.conflict, &self.returning) {
            (None, None) => Some(Bulk::new(ctx, &self.target)),
            _ => None,
        };
        let mut stream = select::run(ctx, &planned, self.parameters).await?;
        loop {
            let rows = stream.next(bulk::CHUNK).await?;
            if rows.is_empty() {
                break;
            }
            let mut chunk = Vec::with_capacity(rows.len());
            for row in rows {
                ctx.watch.pause().await?;
                let local = expr::Local::of(ctx);
                let given = row
                    .into_iter()
                    .zip(&assigns)
                    .map(|(value, (used, assign))| if *used { assign.apply(value, local).map(Some) } else { Ok(None) });
                let given = given.collect::<Result<Vec<_>>>()?;
                let row = self.complete(ctx, given).await?;
                match &bulk {
                    Some(_) => chunk.push(row),
                    None => self.complete_row(ctx, row).await?,
                }
            }
            if let Some(bulk) = &mut bulk {
                self.written += chunk.len() as u64;
                bulk.add(ctx, &mut self.writing, &self.target, chunk).await?;
            }
        }
        if let Some(bulk) = bulk {
            bulk.finish(ctx).await?;
        }
        Ok(())
    }

    /// One row of given values; `None` asks for the default.
    async fn row(&mut self, ctx: &mut Context<'_>, given: Vec<Option<Value>>) -> Step<()> {
        let row = self.complete(ctx, given).await?;
        self.complete_row(ctx, row).await
    }

    /// The user row of given values and defaults.
    async fn complete(&mut self, ctx: &mut Context<'_>, given: Vec<Option<Value>>) -> Result<Vec<Value>> {
        let mut row: Vec<Option<Value>> = vec![None; self.shape.table.columns.len()];
        for (value, place) in given.into_iter().zip(&self.shape.given) {
            if let Some(slot) = row.get_mut(*place) {
                *slot = value;
            }
        }
        let mut full = Vec::with_capacity(row.len());
        for (value, default) in row.into_iter().zip(&self.defaults) {
            full.push(match value {
                Some(value) => value,
                None => default.value(ctx, &mut self.run).await?,
            });
        }
        Ok(full)
    }

    async fn complete_row(&mut self, ctx: &mut Context<'_>, row: Vec<Value>) -> Step<()> {
        let stored = match &self.conflict {
            None => {
                self.writing.insert(ctx, &self.target, &row, Locking::Locked).await?;
                Some(row)
            }
            Some(conflict) => {
                let touched = &mut self.touched;
                conflict.insert(ctx, &mut self.writing, &self.target, row, self.parameters, touched).await?
            }
        };
        if let Some(row) = stored {
            self.written += 1;
            if let Some(returning) = &self.returning {
                self.returned.push(returning.row(ctx, &row, self.parameters, &mut self.run).await?);
            }
        }
        Ok(())
    }
}

/// The places of the columns a list names; all when it is empty.
pub(super) fn column_list(table: &Table, words: &[datafusion::sql::sqlparser::ast::Ident]) -> Result<Vec<usize>> {
    if words.is_empty() {
        return Ok((0..table.columns.len()).collect());
    }
    let mut places = Vec::with_capacity(words.len());
    for word in words {
        let place = column_place(table, word)?;
        if places.contains(&place) {
            return Err(Error::new(
                Condition::DuplicateColumn,
                format!("column \"{}\" specified more than once", name::fold(word)),
            ));
        }
        places.push(place);
    }
    Ok(places)
}

/// The types of the columns at `places`.
pub(super) fn types_at(table: &Table, places: &[usize]) -> Vec<Type> {
    places.iter().filter_map(|p| table.columns.get(*p)).map(|c| c.r#type.clone()).collect()
}
