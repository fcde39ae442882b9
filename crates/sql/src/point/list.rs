//! Lists of expressions over a table's columns: SELECT and RETURNING.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{SelectItem, SelectItemQualifiedWildcardKind, WildcardAdditionalOptions};
use polity_base::{TableId, Value};

use crate::catalog::{Catalog, Table, name};
use crate::ddl::sequence;
use crate::error::Result;
use crate::expr::{self, Env, Expr, Parameters, Scope, label};
use crate::session::{Column, Context};
use crate::write::returning::source;

/// What comes out of a row.
pub struct List {
    /// Names and types
    pub columns: Arc<[Column]>,
    items: Vec<Expr>,
    /// Whether the items are the row's columns, all of them, in order
    identity: bool,
}

impl List {
    /// Compiles `items` over the columns of `table`.
    pub fn compile(
        items: &[SelectItem],
        catalog: &Catalog,
        table: &Table,
        qualifier: &str,
        parameters: &mut Parameters,
    ) -> Option<List> {
        let mut columns = Vec::new();
        let mut compiled = Vec::new();
        for item in items {
            let (ast, alias) = match item {
                SelectItem::Wildcard(options) if is_plain(options) => {
                    every_column(table, &mut columns, &mut compiled);
                    continue;
                }
                SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(written), options)
                    if is_plain(options) && name::parts(written).is_ok_and(|(s, n)| s.is_none() && n == qualifier) =>
                {
                    every_column(table, &mut columns, &mut compiled);
                    continue;
                }
                SelectItem::UnnamedExpr(ast) => (ast, None),
                SelectItem::ExprWithAlias { expr, alias } => (expr, Some(name::fold(alias))),
                _ => return None,
            };
            let mut scope = Scope::new(catalog, parameters).with_table(table, qualifier);
            let expr = expr::compile(ast, &mut scope)?;
            columns.push(Column {
                name: alias.unwrap_or_else(|| label::label(ast)),
                r#type: expr.r#type.clone(),
                source: expr.as_column().and_then(|at| source(table, at)),
            });
            compiled.push(expr);
        }
        Some(List { columns: columns.into(), items: compiled, identity: false })
    }

    /// The places of the columns it reads.
    pub fn places(&self) -> Vec<usize> {
        let mut places = Vec::new();
        self.items.iter().for_each(|item| item.columns(&mut |at| places.push(at)));
        places
    }

    /// Reads fetched columns instead of user rows: `at` says where each is.
    pub fn over_fetched(&mut self, at: &dyn Fn(usize) -> usize, width: usize) {
        self.items.iter_mut().for_each(|item| item.move_columns(at));
        self.identity =
            self.items.len() == width && self.items.iter().enumerate().all(|(n, i)| i.as_column() == Some(n));
    }

    /// Whether it draws values of sequences.
    pub fn draws(&self) -> bool {
        self.items.iter().any(|item| !item.sequences.is_empty())
    }

    /// What comes out of a row at hand.
    pub fn of_row(&self, row: Vec<Value>, env: &Env<'_>) -> Result<Vec<Value>> {
        if self.identity {
            return Ok(row);
        }
        self.items.iter().map(|item| item.eval(&env.row(&row))).collect()
    }
}

fn every_column(table: &Table, columns: &mut Vec<Column>, compiled: &mut Vec<Expr>) {
    for (at, column) in table.columns.iter().enumerate() {
        columns.push(Column { name: column.name.clone(), r#type: column.r#type.clone(), source: source(table, at) });
        compiled.push(Expr::column(at, column.r#type.clone()));
    }
}

fn is_plain(options: &WildcardAdditionalOptions) -> bool {
    matches!(
        options,
        WildcardAdditionalOptions {
            wildcard_token: _,
            opt_ilike: None,
            opt_exclude: None,
            opt_except: None,
            opt_replace: None,
            opt_rename: None,
            opt_alias: None,
        }
    )
}

/// Draws a value of each sequence.
pub async fn draw(ctx: &mut Context<'_>, sequences: &[TableId]) -> Result<Vec<i64>> {
    let mut drawn = Vec::with_capacity(sequences.len());
    for id in sequences {
        drawn.push(sequence::next_value(ctx, *id).await?);
    }
    Ok(drawn)
}
