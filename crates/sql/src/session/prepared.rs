//! Statements that were parsed, and the plans they keep.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::Statement;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};
use parking_lot::Mutex;
use polity_base::{Type, Value};

use crate::ddl::dialect::PolityDialect;
use crate::error::{Condition, Error, Result};
use crate::point::PointPlan;
use crate::query::Planned;
use crate::write::spelling;

/// A parsed statement with room for its plan.
pub struct Prepared {
    text: String,
    statement: Option<Statement>,
    declared: Vec<Option<Type>>,
    plan: Mutex<Option<Cached>>,
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

impl Prepared {
    /// `statement` and its text; `declared` are the parameter types the client
    /// has stated.
    pub(crate) fn new(text: String, statement: Option<Statement>, declared: Vec<Option<Type>>) -> Prepared {
        Prepared { text, statement, declared, plan: Mutex::new(None) }
    }

    /// The statement's text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The statement; `None` when the text was empty.
    pub fn statement(&self) -> Option<&Statement> {
        self.statement.as_ref()
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

    pub(crate) fn keep_plan(&self, catalog: u64, settings: u64, plan: Plan) {
        *self.plan.lock() = Some(Cached { catalog, settings, plan });
    }
}

/// Statements nest at most this deep (parentheses, subqueries).
const RECURSION_LIMIT: usize = 128;
/// An expression has at most this many words and operators in a row.
const LONGEST_CHAIN: usize = 2_000;

/// Parses `sql` into its statements, each with its own text.
pub(crate) fn parse(sql: &str) -> Result<Vec<Statement>> {
    if sql.contains('\0') {
        return Err(Error::new(
            Condition::CharacterNotInRepertoire,
            "invalid byte sequence for encoding \"UTF8\": 0x00",
        ));
    }
    let dialect = PolityDialect::default();
    let parsed =
        Tokenizer::new(&dialect, sql).tokenize_with_location().map_err(ParserError::from).and_then(|mut tokens| {
            spelling::rewrite(&mut tokens);
            plain_freeze(&mut tokens);
            if longest_chain(&tokens) > LONGEST_CHAIN {
                return Err(ParserError::RecursionLimitExceeded);
            }
            let parser = Parser::new(&dialect).with_recursion_limit(RECURSION_LIMIT);
            parser.with_tokens_with_locations(tokens).parse_statements()
        });
    let mut statements = parsed.map_err(|e| syntax_error(sql, e))?;
    statements.iter_mut().for_each(spelling::normalise);
    Ok(statements)
}

/// `FREEZE on`, an option of COPY, is `FREEZE` to the parser.
fn plain_freeze(tokens: &mut Vec<TokenWithSpan>) {
    let is = |token: &TokenWithSpan, word: &str| matches!(&token.token, Token::Word(w) if w.value.eq_ignore_ascii_case(word));
    if !tokens.first().is_some_and(|t| is(t, "copy")) {
        return;
    }
    let Some(at) = tokens.iter().position(|t| is(t, "freeze")) else { return };
    let next = tokens[at + 1..].iter().position(|t| !matches!(t.token, Token::Whitespace(_)));
    if let Some(next) = next.map(|n| at + 1 + n)
        && is(&tokens[next], "on")
    {
        tokens.remove(next);
    }
}

/// Operators of one expression without a comma or parenthesis between them: each
/// is one level more of the tree.
fn longest_chain(tokens: &[TokenWithSpan]) -> usize {
    let (mut longest, mut current) = (0, 0);
    for token in tokens {
        match &token.token {
            Token::Comma | Token::SemiColon | Token::LParen | Token::RParen => current = 0,
            Token::Whitespace(_) | Token::Period => {}
            _ => current += 1,
        }
        longest = longest.max(current);
    }
    longest
}

fn syntax_error(sql: &str, error: ParserError) -> Error {
    let text = match error {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
        ParserError::RecursionLimitExceeded => {
            return Error::new(Condition::StatementTooComplex, "statement is nested too deeply")
                .detail(format!("Statements may nest {RECURSION_LIMIT} levels deep."))
                .hint("Split the statement, or use WITH queries.");
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
        let sql = format!("select {}1{}", "(".repeat(5_000), ")".repeat(5_000));
        assert_eq!(parse(&sql).unwrap_err().condition(), Condition::StatementTooComplex);
    }
}
