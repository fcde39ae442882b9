//! Statements that were parsed, and the plans they keep.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{ObjectName, Statement, visit_relations};
use datafusion::sql::sqlparser::parser::ParserError;
use parking_lot::Mutex;
use polity_base::{Type, Value};

use super::as_of::{self, AsOf};
use super::eventual::Place;
use crate::catalog::{Table, name};
use crate::ddl::dialect::{self, RECURSION_LIMIT};
use crate::ddl::shape::{MOST_ALTERNATIVES, MOST_LEVELS};
use crate::error::{Condition, Error, Result};
use crate::point::PointPlan;
use crate::query::Planned;
use crate::rights::Need;
use crate::write::spelling;

/// A parsed statement with room for its plan.
pub struct Prepared {
    text: String,
    statement: Option<Statement>,
    as_of: Option<AsOf>,
    declared: Vec<Option<Type>>,
    plan: Mutex<Option<Cached>>,
    /// By which catalog, where what it is about can be had
    place: Mutex<Option<(u64, Place)>>,
    /// By which catalog, which byzantine tables it comes by
    ledger_tables: Mutex<Option<(u64, LedgerTables)>>,
}

/// The byzantine tables that a statement comes by.
type LedgerTables = Arc<[Arc<Table>]>;

/// A statement as it was parsed, and the time it is to see.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub statement: Statement,
    pub as_of: Option<AsOf>,
}

/// A statement to run, with the values of its parameters.
pub struct Invocation {
    /// What to run
    pub prepared: Arc<Prepared>,
    /// The values of its parameters
    pub parameters: Vec<Value>,
}

#[derive(Clone)]
struct Cached {
    catalog: u64,
    settings: u64,
    plan: Plan,
}

/// How a statement is run.
#[derive(Clone)]
pub(crate) enum Plan {
    /// By the key of one row
    Point(Arc<PointPlan>),
    /// By DataFusion
    Query(Arc<Planned>),
}

impl Plan {
    /// What it does with which relations.
    pub fn needs(&self) -> &[Need] {
        match self {
            Plan::Point(point) => point.needs(),
            Plan::Query(planned) => &planned.needs,
        }
    }
}

impl Prepared {
    /// `statement` and its text; `declared` are the parameter types the client
    /// has stated.
    pub(crate) fn new(text: String, statement: Option<Statement>, declared: Vec<Option<Type>>) -> Prepared {
        Prepared {
            text,
            statement,
            as_of: None,
            declared,
            plan: Mutex::new(None),
            place: Mutex::new(None),
            ledger_tables: Mutex::new(None),
        }
    }

    /// What was parsed from `text`.
    pub(crate) fn of(text: String, parsed: Option<Parsed>, declared: Vec<Option<Type>>) -> Prepared {
        let (statement, as_of) = parsed.map_or((None, None), |p| (Some(p.statement), p.as_of));
        Prepared { as_of, ..Prepared::new(text, statement, declared) }
    }

    /// The statement's text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The statement; `None` when the text was empty.
    pub fn statement(&self) -> Option<&Statement> {
        self.statement.as_ref()
    }

    /// Which state it reads, if it says so.
    pub(crate) fn as_of(&self) -> Option<&AsOf> {
        self.as_of.as_ref()
    }

    /// The names of the tables and views it reads or writes.
    pub(crate) fn relations(&self) -> Vec<String> {
        let mut names = Vec::new();
        if let Some(statement) = &self.statement {
            let _ = visit_relations(statement, |relation: &ObjectName| {
                let name = relation.0.last().and_then(|part| part.as_ident()).map(name::fold);
                names.extend(name.filter(|name| !names.contains(name)));
                ControlFlow::<()>::Continue(())
            });
        }
        names
    }

    /// The parameter types the client has stated.
    pub fn declared(&self) -> &[Option<Type>] {
        &self.declared
    }

    /// Whether the statement ends a transaction, so that it may run in a failed
    /// one.
    pub fn ends_transaction(&self) -> bool {
        matches!(self.statement, Some(Statement::Commit { .. } | Statement::Rollback { .. }))
    }

    /// The plan made earlier for this catalog and these settings.
    pub(crate) fn plan(&self, catalog: u64, settings: u64) -> Option<Plan> {
        let cached = self.plan.lock();
        cached.as_ref().filter(|c| c.catalog == catalog && c.settings == settings).map(|c| c.plan.clone())
    }

    /// Where what it is about can be had, by the catalog of this version; `find` says.
    pub(super) fn place(&self, catalog: u64, find: impl FnOnce() -> Place) -> Place {
        if let Some((version, place)) = *self.place.lock()
            && version == catalog
        {
            return place;
        }
        let place = find();
        *self.place.lock() = Some((catalog, place));
        place
    }

    /// The byzantine tables that it comes by, by the catalog of this version; `find` says.
    pub(super) fn ledger_tables(&self, catalog: u64, find: impl FnOnce() -> LedgerTables) -> LedgerTables {
        let mut known = self.ledger_tables.lock();
        match &*known {
            Some((version, tables)) if *version == catalog => tables.clone(),
            _ => {
                let tables = find();
                *known = Some((catalog, tables.clone()));
                tables
            }
        }
    }

    pub(crate) fn keep_plan(&self, catalog: u64, settings: u64, plan: Plan) {
        *self.plan.lock() = Some(Cached { catalog, settings, plan });
    }
}

/// Parses `sql` into its statements, each with its own text.
pub(crate) fn parse(sql: &str) -> Result<Vec<Parsed>> {
    if sql.contains('\0') {
        return Err(Error::new(
            Condition::CharacterNotInRepertoire,
            "invalid byte sequence for encoding \"UTF8\": 0x00",
        ));
    }
    let mut clauses = Vec::new();
    let parsed = dialect::tokens(sql).and_then(|mut tokens| {
        clauses = as_of::take(&mut tokens)?;
        spelling::rewrite(&mut tokens);
        dialect::read(tokens, |parser| parser.parse_statements())
    });
    let mut statements = parsed.map_err(|e| syntax_error(sql, e))?;
    statements.iter_mut().for_each(spelling::normalise);
    let parsed = |statement| Parsed { statement, as_of: None };
    let mut parsed: Vec<Parsed> = statements.into_iter().map(parsed).collect();
    for clause in clauses {
        let of = parsed.get_mut(clause.statement);
        let of = of.ok_or_else(|| Error::new(Condition::SyntaxError, "AS OF SYSTEM TIME belongs to no statement"))?;
        of.as_of = Some(clause.read(&of.statement)?);
    }
    Ok(parsed)
}

fn syntax_error(sql: &str, error: ParserError) -> Error {
    let text = match error {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
        ParserError::RecursionLimitExceeded => {
            return Error::new(Condition::StatementTooComplex, "statement is nested too deeply")
                .detail(format!(
                    "Parentheses and queries may nest {RECURSION_LIMIT} levels deep; {MOST_LEVELS} operators may follow \
                     one another, and {MOST_ALTERNATIVES} OR."
                ))
                .hint("Split the statement, use WITH queries, or use = ANY with an array instead of long chains.");
        }
    };
    let position = position_of(sql, &text);
    let what = text.split(" at Line:").next().unwrap_or(&text).trim();
    let near = what.rsplit_once("found: ").map(|(_, found)| found.trim().trim_end_matches('.'));
    let message = match near {
        Some("EOF") => "syntax error at end of input".to_owned(),
        Some(near) => format!("syntax error at or near \"{near}\""),
        None => format!("syntax error: {what}"),
    };
    let error = Error::new(Condition::SyntaxError, message);
    let error = if near.is_some() { error.detail(format!("{what}.")) } else { error };
    match position {
        Some(at) => error.at(at),
        None => error,
    }
}

/// The character position of "Line: 2, Column: 5" in `sql`, counted from 1.
fn position_of(sql: &str, text: &str) -> Option<usize> {
    let (_, rest) = text.split_once("Line: ")?;
    let (line, rest) = rest.split_once(", Column: ")?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (line, column): (usize, usize) = (line.trim().parse().ok()?, rest[..digits].parse().ok()?);
    let before: usize = sql.split('\n').take(line.checked_sub(1)?).map(|l| l.chars().count() + 1).sum();
    Some(before + column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syntax_error_says_where() {
        let error = parse("select 1;\nselect a b c d").unwrap_err();
        assert_eq!(error.condition(), Condition::SyntaxError);
        assert!(error.position().is_some_and(|p| p > 10), "{error:?}");
        assert_eq!(parse("select (").unwrap_err().message(), "syntax error at end of input");
    }

    #[test]
    fn deep_nesting_is_refused() {
        for sql in [
            format!("select {}1{}", "(".repeat(5_000), ")".repeat(5_000)),
            format!("select 1{}", " + 1".repeat(5_000)),
            format!("select (1){}", " + (1)".repeat(5_000)),
            format!("select true{}", " and true".repeat(5_000)),
            format!("select 1{}", "::int".repeat(5_000)),
            format!("select 1{}", " is null".repeat(5_000)),
            format!("select {} 1", "-".repeat(5_000).replace('-', "- ")),
            format!("select {} true", "not ".repeat(5_000)),
            format!("select 1{}", " union select 1".repeat(5_000)),
            format!("select {}1{}", "case when true then ".repeat(5_000), " end".repeat(5_000)),
            format!("select true{}", " or true".repeat(60_000)),
            format!("select {}", "(select ".repeat(5_000)),
        ] {
            assert_eq!(parse(&sql).unwrap_err().condition(), Condition::StatementTooComplex, "{:.40}", sql);
        }
    }

    #[test]
    fn long_chains_of_or_are_made_shallow() {
        let sql = format!("SELECT a = 0{} AND b", (1..20_000).map(|n| format!(" OR a = {n}")).collect::<String>());
        let statements = parse(&sql).unwrap();
        assert_eq!(statements[0].statement.to_string(), sql);
        // What cannot be parsed to its end is dropped half-made.
        assert_eq!(parse(&format!("{sql} )")).unwrap_err().condition(), Condition::SyntaxError);
    }

    #[test]
    fn wide_statements_are_not_deep() {
        for sql in [
            format!("select 1 in (0{})", ", 1".repeat(20_000)),
            format!("values (1 + 1){}", ", (1 + 1)".repeat(20_000)),
            format!("select case a{} end", " when a = 1 then b + 1".repeat(5_000)),
            "select a + b from t where a = 1 and b = 2; ".repeat(5_000),
        ] {
            parse(&sql).unwrap();
        }
    }
}
