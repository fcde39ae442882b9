//! COPY TO STDOUT.

use bytes::Bytes;
use datafusion::sql::sqlparser::ast::{
    CopySource as From, SelectItem, SetExpr, Statement, TableFactor, TableWithJoins,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use polity_base::text::{self, Settings};
use polity_base::{Type, Value};

use super::fields::{write_csv, write_text};
use super::options::Options;
use crate::catalog::{Relation, name};
use crate::error::{Condition, Error, Result};
use crate::expr::{Local, Parameters};
use crate::session::{Context, CopySource, Response, RowStream};
use crate::write::insert::column_list;
use crate::write::select;

/// Rows taken at a time.
const CHUNK: usize = 1_024;

/// Begins a COPY TO STDOUT.
pub async fn copy_out(ctx: &mut Context<'_>, statement: &Statement) -> Result<Response> {
    let Statement::Copy { source, to: true, target, options, legacy_options, .. } = statement else {
        return Err(Error::internal("not a COPY TO"));
    };
    super::check_target(target, true)?;
    let options = Options::of(options, legacy_options, true)?;
    let query = match source {
        From::Query(query) => {
            if !matches!(
                query.body.as_ref(),
                SetExpr::Select(_) | SetExpr::Query(_) | SetExpr::SetOperation { .. } | SetExpr::Values(_)
            ) {
                return Err(Error::unsupported("COPY of a statement that writes"));
            }
            Statement::Query(query.clone())
        }
        From::Table { table_name, columns } => {
            let written = name::object(table_name)?;
            let table = match ctx.catalog.relation(&written) {
                Some(Relation::Table(table)) => table,
                Some(Relation::View(_)) => {
                    return Err(Error::new(Condition::WrongObjectType, format!("cannot copy from view \"{written}\""))
                        .hint("Try the COPY (SELECT ...) TO variant."));
                }
                Some(Relation::Sequence(_)) => {
                    return Err(Error::new(
                        Condition::WrongObjectType,
                        format!("cannot copy from sequence \"{written}\""),
                    ));
                }
                Some(Relation::Index(..)) | None => {
                    return Err(Error::new(
                        Condition::UndefinedTable,
                        format!("relation \"{written}\" does not exist"),
                    ));
                }
            };
            let places = column_list(&table, columns)?;
            let items = places
                .iter()
                .filter_map(|p| table.columns.get(*p))
                .map(|c| SelectItem::UnnamedExpr(select::column(&table.name, &c.name)))
                .collect();
            let relation = TableFactor::Table {
                name: table_name.clone(),
                alias: None,
                args: None,
                with_hints: Vec::new(),
                version: None,
                with_ordinality: false,
                partitions: Vec::new(),
                json_path: None,
                sample: None,
                index_hints: Vec::new(),
            };
            select::statement(None, items, vec![TableWithJoins { relation, joins: Vec::new() }], None)?
        }
    };
    let planned = select::plan(ctx, &query, None, &mut Parameters::default())?;
    let names: Vec<String> = planned.columns.iter().map(|c| c.name.clone()).collect();
    let quoted: Vec<String> = options.force_quote.iter().map(name::fold).collect();
    if let Some(unknown) = quoted.iter().find(|q| !names.contains(q)) {
        return Err(Error::new(Condition::UndefinedColumn, format!("column \"{unknown}\" does not exist")));
    }
    let stream = select::run(ctx, &planned, &[]).await?;
    let source = Output {
        types: planned.columns.iter().map(|c| c.r#type.clone()).collect(),
        force: names.iter().map(|n| quoted.contains(n)).collect(),
        header: options.header.then_some(names),
        settings: Local::of(ctx).settings(),
        options,
        stream,
        rows: 0,
        ends: Vec::new(),
        scratch: String::new(),
    };
    Ok(Response::CopyOut { columns: source.types.len(), source: Box::new(source) })
}

struct Output {
    stream: RowStream,
    options: Options,
    types: Vec<Type>,
    force: Vec<bool>,
    header: Option<Vec<String>>,
    settings: Settings,
    rows: u64,
    /// Where each row of the last piece ends
    ends: Vec<usize>,
    scratch: String,
}

impl CopySource for Output {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Bytes>>> {
        async {
            let mut out = Vec::new();
            self.ends.clear();
            if let Some(names) = self.header.take() {
                let names: Vec<Value> = names.into_iter().map(Value::Text).collect();
                let text = vec![Type::Text; names.len()];
                let types = std::mem::replace(&mut self.types, text);
                let force = std::mem::take(&mut self.force);
                self.write_row(&names, &mut out)?;
                self.types = types;
                self.force = force;
            }
            let rows = self.stream.next(CHUNK).await?;
            if rows.is_empty() && out.is_empty() {
                return Ok(None);
            }
            for row in rows {
                self.write_row(&row, &mut out)?;
                self.rows += 1;
            }
            Ok(Some(out.into()))
        }
        .boxed()
    }

    fn ends(&self) -> &[usize] {
        &self.ends
    }

    fn rows(&self) -> u64 {
        self.rows
    }
}

impl Output {
    fn write_row(&mut self, row: &[Value], out: &mut Vec<u8>) -> Result<()> {
        for (at, (value, r#type)) in row.iter().zip(&self.types).enumerate() {
            if at > 0 {
                out.push(self.options.delimiter);
            }
            if value.is_null() {
                out.extend_from_slice(self.options.null.as_bytes());
                continue;
            }
            self.scratch.clear();
            text::write(value, r#type, &self.settings, &mut self.scratch).map_err(Error::internal)?;
            if self.options.csv {
                let force = self.force.get(at) == Some(&true);
                write_csv(&self.scratch, &self.options, force, row.len() == 1, out);
            } else {
                write_text(&self.scratch, &self.options, out);
            }
        }
        out.push(b'\n');
        self.ends.push(out.len());
        Ok(())
    }
}
