//! COPY FROM STDIN.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{CopySource, Ident, Statement};
use polity_base::text::{self, Settings};
use polity_base::{Type, Value};

use super::fields::{split_csv, split_text};
use super::lines::Lines;
use super::options::Options;
use crate::catalog::{Privileges, store};
use crate::error::{Condition, Error, Result};
use crate::expr::Local;
use crate::rights;
use crate::session::Context;
use crate::write::bulk::{Bulk, CHUNK};
use crate::write::defaults::Default;
use crate::write::insert::{column_list, types_at};
use crate::write::statement::{self, Stop, Writing};
use crate::write::table_of;
use crate::write::target::Target;

/// A COPY FROM STDIN in progress.
pub struct CopyIn {
    target: Arc<Target>,
    writing: Writing,
    bulk: Bulk,
    layout: Layout,
    lines: Lines,
    /// Lines read so far
    line: u64,
    /// The first line names the columns
    skip_header: bool,
    /// `\.` was read: nothing after it counts
    ended: bool,
    rows: Vec<Vec<Value>>,
}

/// How a line becomes a row.
struct Layout {
    options: Options,
    /// Places of the columns that lines have, and their types
    given: Vec<usize>,
    types: Vec<Type>,
    force_not_null: Vec<bool>,
    force_null: Vec<bool>,
    /// What columns get that lines do not have
    missing: Vec<Missing>,
    settings: Settings,
}

enum Missing {
    Given,
    Constant(Value),
    Computed(Default),
}

impl CopyIn {
    /// Begins: from here on the table's definition stands.
    pub async fn start(ctx: &mut Context<'_>, statement: &Statement) -> Result<CopyIn> {
        let Statement::Copy {
            source: CopySource::Table { table_name, columns },
            to: false,
            target,
            options,
            legacy_options,
            ..
        } = statement
        else {
            return Err(Error::internal("not a COPY FROM"));
        };
        super::check_target(target, false)?;
        statement::check_writable(ctx, "COPY FROM")?;
        let options = Options::of(options, legacy_options, false)?;
        loop {
            let table = table_of(ctx.catalog, table_name, "COPY")?;
            rights::require(ctx.catalog, ctx.user, &table, Privileges::INSERT)?;
            let layout = Layout::new(ctx, &table, columns, options.clone())?;
            let target = Arc::new(statement::prepare(ctx, &table)?);
            if options.freeze && !ctx.fresh.contains(&table.primary.storage) {
                return Err(Error::new(
                    Condition::ObjectNotInPrerequisiteState,
                    "cannot perform COPY FREEZE because the table was not created or truncated in the current subtransaction",
                ));
            }
            match Writing::begin(ctx, &target, true).await {
                Ok(writing) => {
                    return Ok(CopyIn {
                        bulk: Bulk::new(ctx, &target),
                        target,
                        writing,
                        lines: Lines::new(&options),
                        layout,
                        line: 0,
                        skip_header: options.header,
                        ended: false,
                        rows: Vec::new(),
                    });
                }
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Stale) => {
                    ctx.txn.advance().await?;
                    *ctx.catalog = Arc::new(store::load(&ctx.txn.view())?);
                }
            }
        }
    }

    /// How many columns a row has.
    pub fn columns(&self) -> usize {
        self.layout.given.len()
    }

    /// Takes a piece of the data.
    pub async fn push(&mut self, ctx: &mut Context<'_>, bytes: &[u8]) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        self.lines.push(bytes);
        while let Some(line) = self.lines.next_row() {
            self.line += 1;
            ctx.watch.pause().await?;
            if std::mem::take(&mut self.skip_header) {
                continue;
            }
            if line == b"\\." {
                self.ended = true;
                break;
            }
            let row = self.layout.row(ctx, &self.target, line, self.line).await?;
            self.rows.push(row);
            if self.rows.len() >= CHUNK {
                self.flush(ctx).await?;
            }
        }
        Ok(())
    }

    /// The data has ended. Gives the number of rows.
    pub async fn finish(mut self, ctx: &mut Context<'_>) -> Result<u64> {
        if !self.ended {
            let open = self.lines.is_open();
            if let Some(line) = self.lines.rest() {
                self.line += 1;
                if open {
                    let error = Error::new(Condition::BadCopyFileFormat, "unterminated CSV quoted field");
                    return Err(located(error, &self.target, self.line, None));
                }
                if line != b"\\." && !self.skip_header {
                    let row = self.layout.row(ctx, &self.target, line, self.line).await?;
                    self.rows.push(row);
                }
            }
        }
        self.flush(ctx).await?;
        let rows = self.bulk.rows();
        self.bulk.finish(ctx).await?;
        self.writing.finish(ctx).await.map_err(failed)?;
        Ok(rows)
    }

    async fn flush(&mut self, ctx: &mut Context<'_>) -> Result<()> {
        let rows = std::mem::take(&mut self.rows);
        if rows.is_empty() {
            return Ok(());
        }
        let count = rows.len() as u64;
        let added = self.bulk.add(ctx, &mut self.writing, &self.target, rows).await;
        added.map_err(|stop| {
            let first = self.line.saturating_sub(count) + 1;
            let what = format!("COPY {}, lines {first} to {}", self.target.table.name, self.line);
            with_context(failed(stop), &what)
        })
    }
}

/// A statement that can move its snapshot does not go stale.
fn failed(stop: Stop) -> Error {
    match stop {
        Stop::Failed(error) => error,
        Stop::Stale => {
            Error::new(Condition::SerializationFailure, "could not serialize access due to concurrent update")
                .detail("A row that COPY refers to was changed while it ran.")
                .hint("The transaction might succeed if retried.")
        }
    }
}

impl Layout {
    fn new(ctx: &Context<'_>, table: &crate::catalog::Table, columns: &[Ident], options: Options) -> Result<Layout> {
        let given = column_list(table, columns)?;
        let named = |words: &[Ident]| -> Result<Vec<bool>> {
            let places = if words.is_empty() { Vec::new() } else { column_list(table, words)? };
            Ok(given.iter().map(|p| places.contains(p)).collect())
        };
        let mut missing = Vec::with_capacity(table.columns.len());
        for (place, default) in Default::all(ctx, table)?.into_iter().enumerate() {
            missing.push(match default.constant() {
                _ if given.contains(&place) => Missing::Given,
                Some(value) => Missing::Constant(value),
                None => Missing::Computed(default),
            });
        }
        Ok(Layout {
            types: types_at(table, &given),
            force_not_null: named(&options.force_not_null)?,
            force_null: named(&options.force_null)?,
            given,
            missing,
            settings: Local::of(ctx).settings(),
            options,
        })
    }

    /// The row that a line stands for.
    async fn row(&self, ctx: &mut Context<'_>, target: &Target, line: &[u8], number: u64) -> Result<Vec<Value>> {
        let mut row = Vec::with_capacity(self.missing.len());
        let mut run = None;
        for missing in &self.missing {
            row.push(match missing {
                Missing::Given => Value::Null,
                Missing::Constant(value) => value.clone(),
                Missing::Computed(default) => default.value(ctx, &mut run).await?,
            });
        }
        self.read(target, line, number, &mut row)?;
        Ok(row)
    }

    fn read(&self, target: &Target, line: &[u8], number: u64, row: &mut [Value]) -> Result<()> {
        let mut fields = Vec::with_capacity(self.given.len());
        if self.options.csv {
            let mut quoted = Vec::with_capacity(self.given.len());
            split_csv(line, &self.options, &mut quoted);
            fields.extend(quoted.into_iter().enumerate().map(|(at, (value, was_quoted))| {
                let may_be_null = match was_quoted {
                    true => self.force_null.get(at) == Some(&true),
                    false => self.force_not_null.get(at) != Some(&true),
                };
                (!may_be_null || *value != *self.options.null.as_bytes()).then_some(value)
            }));
        } else {
            split_text(line, &self.options, &mut fields);
        }
        if fields.len() > self.given.len() {
            let error = Error::new(Condition::BadCopyFileFormat, "extra data after last expected column");
            return Err(located(error, target, number, Some((None, line))));
        }
        for (at, (place, r#type)) in self.given.iter().zip(&self.types).enumerate() {
            let column = target.table.columns.get(*place).map_or("", |c| c.name.as_str());
            let Some(field) = fields.get(at) else {
                let error = Error::new(Condition::BadCopyFileFormat, format!("missing data for column \"{column}\""));
                return Err(located(error, target, number, Some((None, line))));
            };
            let Some(field) = field else { continue };
            let value = value_of(field, r#type, &self.settings)
                .map_err(|error| located(error, target, number, Some((Some(column), field))))?;
            if let Some(slot) = row.get_mut(*place) {
                *slot = value;
            }
        }
        Ok(())
    }
}

fn value_of(field: &[u8], r#type: &Type, settings: &Settings) -> Result<Value> {
    let text = std::str::from_utf8(field).ok().filter(|t| !t.contains('\0')).ok_or_else(|| {
        let at = std::str::from_utf8(field)
            .err()
            .map_or_else(|| field.iter().position(|b| *b == 0).unwrap_or(0), |e| e.valid_up_to());
        let byte = field.get(at).copied().unwrap_or(0);
        Error::new(
            Condition::CharacterNotInRepertoire,
            format!("invalid byte sequence for encoding \"UTF8\": 0x{byte:02x}"),
        )
    })?;
    text::parse(text, r#type, settings).map_err(Error::from)
}

/// Says where in the data an error lies, as PostgreSQL's CONTEXT does.
fn located(error: Error, target: &Target, line: u64, at: Option<(Option<&str>, &[u8])>) -> Error {
    let mut place = format!("COPY {}, line {line}", target.table.name);
    if let Some((column, bytes)) = at {
        if let Some(column) = column {
            place.push_str(&format!(", column {column}"));
        }
        let text = String::from_utf8_lossy(bytes);
        let shown: String = text.chars().take(100).collect();
        let more = if shown.len() < text.len() { "..." } else { "" };
        place.push_str(&format!(": \"{shown}{more}\""));
    }
    with_context(error, &place)
}

fn with_context(error: Error, place: &str) -> Error {
    let detail = match error.detail_text() {
        Some(detail) => format!("{detail}\n{place}"),
        None => place.to_owned(),
    };
    error.detail(detail)
}
