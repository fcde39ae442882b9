//! RETURNING lists.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{SelectItem, SelectItemQualifiedWildcardKind, WildcardAdditionalOptions};
use polity_base::{Type, Value};

use super::rule::Rule;
use crate::catalog::{Table, name};
use crate::error::{Condition, Error, Result};
use crate::expr::{Env, Scope, label};
use crate::query::{PlanInput, RunEnv};
use crate::session::{Column, Context, Response, RowStream, Verb};

/// What a statement returns of each row it wrote.
pub struct Returning {
    /// The columns of the result
    pub columns: Arc<[Column]>,
    items: Vec<Item>,
}

enum Item {
    /// A column as it is
    Column(usize),
    Rule(Rule),
}

impl Returning {
    /// Compiles `items` over `scope`, whose first columns are those of `table`.
    pub fn compile(items: &[SelectItem], table: &Table, scope: &mut Scope<'_>, input: &PlanInput) -> Result<Returning> {
        let mut columns = Vec::new();
        let mut compiled = Vec::new();
        for item in items {
            let (ast, alias) = match item {
                SelectItem::Wildcard(options) => {
                    plain(options)?;
                    expand(None, table, scope, &mut columns, &mut compiled);
                    continue;
                }
                SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(written), options) => {
                    plain(options)?;
                    let (_, qualifier) = name::parts(written)?;
                    if !scope.sources.iter().any(|s| s.qualifier.as_ref() == Some(&qualifier)) {
                        return Err(Error::new(
                            Condition::UndefinedTable,
                            format!("missing FROM-clause entry for table \"{qualifier}\""),
                        ));
                    }
                    expand(Some(&qualifier), table, scope, &mut columns, &mut compiled);
                    continue;
                }
                SelectItem::UnnamedExpr(ast) => (ast, None),
                SelectItem::ExprWithAlias { expr, alias } => (expr, Some(name::fold(alias))),
                other => {
                    return Err(Error::new(Condition::SyntaxError, format!("syntax error at or near \"{other}\"")));
                }
            };
            let Some(rule) = Rule::compile(ast, None, scope, Some(input))? else { continue };
            let place = match &rule {
                Rule::Small(expr) => expr.as_column(),
                Rule::General(_) => None,
            };
            columns.push(Column {
                name: alias.unwrap_or_else(|| label::label(ast)),
                r#type: rule.r#type().clone(),
                source: place.and_then(|at| source(table, at)),
            });
            compiled.push(place.map_or(Item::Rule(rule), Item::Column));
        }
        Ok(Returning { columns: columns.into(), items: compiled })
    }

    /// What is returned of one row.
    pub async fn row(
        &self,
        ctx: &mut Context<'_>,
        row: &[Value],
        parameters: &[Value],
        run: &mut Option<RunEnv>,
    ) -> Result<Vec<Value>> {
        let mut values = Vec::with_capacity(self.items.len());
        let mut drawn = Vec::new();
        for item in &self.items {
            values.push(match item {
                Item::Column(at) => row.get(*at).cloned().unwrap_or(Value::Null),
                Item::Rule(rule) => {
                    rule.draw(ctx, &mut drawn).await?;
                    let run = run.get_or_insert_with(|| RunEnv::of(ctx));
                    rule.eval(&Env::of(ctx, parameters).row(row).drawn(&drawn), run)?
                }
            });
        }
        Ok(values)
    }
}

/// The table and attribute number of a column of `table`.
pub fn source(table: &Table, place: usize) -> Option<(u32, i16)> {
    let column = table.columns.get(place)?;
    Some((table.id.0, i16::try_from(column.id.0).ok()?.checked_add(1)?))
}

fn plain(options: &WildcardAdditionalOptions) -> Result<()> {
    let WildcardAdditionalOptions {
        wildcard_token: _,
        opt_ilike: None,
        opt_exclude: None,
        opt_except: None,
        opt_replace: None,
        opt_rename: None,
        opt_alias: None,
    } = options
    else {
        return Err(Error::new(Condition::SyntaxError, format!("syntax error at or near \"{options}\"")));
    };
    Ok(())
}

fn expand(
    qualifier: Option<&str>,
    table: &Table,
    scope: &Scope<'_>,
    columns: &mut Vec<Column>,
    compiled: &mut Vec<Item>,
) {
    for from in &scope.sources {
        if qualifier.is_some() && from.qualifier.as_deref() != qualifier {
            continue;
        }
        for (at, (name, r#type)) in from.columns.iter().enumerate() {
            let place = from.first + at;
            columns.push(Column { name: (*name).to_owned(), r#type: (*r#type).clone(), source: source(table, place) });
            compiled.push(Item::Column(place));
        }
    }
}

/// The answer of a statement that wrote rows.
pub fn response(verb: Verb, written: u64, returned: Option<(&Returning, Vec<Vec<Value>>)>) -> Response {
    match returned {
        Some((returning, rows)) => Response::Rows(RowStream::ready(returning.columns.clone(), verb, rows)),
        None => Response::Complete(match verb {
            Verb::Insert => format!("INSERT 0 {written}"),
            Verb::Update => format!("UPDATE {written}"),
            _ => format!("DELETE {written}"),
        }),
    }
}

/// Names and types of further columns a scope has: those of other tables of the
/// statement.
pub struct Others(pub Vec<(String, Vec<(String, Type)>)>);

impl Others {
    /// Adds them to a scope.
    pub fn add_to<'a>(&'a self, scope: &mut Scope<'a>) {
        for (qualifier, columns) in &self.0 {
            scope.add(Some(qualifier.clone()), columns.iter().map(|(n, t)| (n.as_str(), t)).collect());
        }
    }
}
