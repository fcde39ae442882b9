//! `AS OF SYSTEM TIME`: reading an earlier state, as CockroachDB spells it.
//!
//! ```text
//! SELECT … FROM orders o JOIN items i ON … AS OF SYSTEM TIME '-5s' WHERE …
//! BEGIN AS OF SYSTEM TIME '2026-11-23 15:00:00'
//! ```
//! The clause stands once in a statement, after the list of tables and not within
//! parentheses, and holds for the whole of it. The parser's tree has no place for
//! it, so it is taken from the tokens before they are parsed.

use std::time::Duration;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Statement, Value as Literal,
};
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};
use polity_base::Timestamp;
use polity_base::text;
use polity_txn::Freshness;

use super::Settings;
use crate::ddl::dialect;
use crate::error::{Condition, Error, Result};

/// Which state is to be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AsOf {
    /// Of this long ago
    Ago(Duration),
    /// Of this time, in the session's time zone if it names none
    Time(String),
    /// Of this many nanoseconds since 1970
    Nanos(u64),
    /// The newest that this node can serve alone
    Local,
    /// The same if it is not older than this
    Within(Duration),
}

/// The clause of one statement of several, counted from 0.
pub(super) struct Clause {
    pub statement: usize,
    tokens: Vec<TokenWithSpan>,
}

/// Words after which the clause has ended.
const AFTER: &[&str] =
    &["where", "group", "having", "window", "union", "intersect", "except", "order", "limit", "offset", "fetch", "for"];

/// Takes the clauses out of the tokens of a text.
pub(super) fn take(tokens: &mut Vec<TokenWithSpan>) -> std::result::Result<Vec<Clause>, ParserError> {
    let mut clauses: Vec<Clause> = Vec::new();
    if !tokens.iter().any(|t| is(t, "system")) {
        return Ok(clauses);
    }
    let (mut depth, mut statement, mut begun) = (0_usize, 0, false);
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at].token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            Token::SemiColon => statement += usize::from(std::mem::take(&mut begun)),
            _ => {}
        }
        begun |= !matches!(tokens[at].token, Token::SemiColon | Token::Whitespace(_));
        let Some(first) = clause_at(tokens, at) else {
            at += 1;
            continue;
        };
        if depth > 0 {
            return Err(ParserError::ParserError(format!(
                "AS OF SYSTEM TIME stands at the end of the outermost FROM{}",
                tokens[at].span.start
            )));
        }
        if clauses.iter().any(|c| c.statement == statement) {
            let place = tokens[at].span.start;
            return Err(ParserError::ParserError(format!("AS OF SYSTEM TIME stands once in a statement{place}")));
        }
        let end = end_of(tokens, first);
        let taken: Vec<TokenWithSpan> = tokens.drain(at..end).collect();
        clauses.push(Clause { statement, tokens: taken[first - at..].to_vec() });
    }
    Ok(clauses)
}

/// Where the value of the clause begins, if the clause begins at `at`.
fn clause_at(tokens: &[TokenWithSpan], at: usize) -> Option<usize> {
    let mut place = at;
    for word in ["as", "of", "system", "time"] {
        place += tokens[place..].iter().position(|t| !matches!(t.token, Token::Whitespace(_)))?;
        if !is(&tokens[place], word) {
            return None;
        }
        place += 1;
    }
    Some(place)
}

fn end_of(tokens: &[TokenWithSpan], first: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(first) {
        match &token.token {
            Token::LParen => depth += 1,
            Token::RParen if depth > 0 => depth -= 1,
            Token::RParen | Token::SemiColon => return at,
            _ if depth == 0 && AFTER.iter().any(|word| is(token, word)) => return at,
            _ => {}
        }
    }
    tokens.len()
}

fn is(token: &TokenWithSpan, word: &str) -> bool {
    matches!(&token.token, Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
}

impl Clause {
    /// Reads the clause of `statement`.
    pub fn read(self, statement: &Statement) -> Result<AsOf> {
        let reads = match statement {
            Statement::Query(_) | Statement::StartTransaction { .. } => true,
            Statement::Explain { statement, .. } => matches!(**statement, Statement::Query(_)),
            _ => false,
        };
        if !reads {
            return Err(Error::unsupported("AS OF SYSTEM TIME in this statement")
                .hint("It can be given with SELECT, EXPLAIN and BEGIN."));
        }
        let whole = |parser: &mut Parser<'_>| {
            let read = parser.parse_expr()?;
            parser.expect_token(&Token::EOF).map(|_| read)
        };
        let read = dialect::read(self.tokens, whole).ok();
        read.as_ref().and_then(AsOf::of).ok_or_else(unreadable)
    }
}

fn unreadable() -> Error {
    Error::new(Condition::InvalidParameterValue, "AS OF SYSTEM TIME does not say which time").hint(
        "Write how long ago ('-5s'), a time ('2026-11-23 15:00:00+00'), follower_read_timestamp() for the newest state \
         this node can serve alone, or with_max_staleness('10s').",
    )
}

impl AsOf {
    fn of(value: &Expr) -> Option<AsOf> {
        match value {
            Expr::Nested(inner) => AsOf::of(inner),
            Expr::Value(value) => match &value.value {
                Literal::SingleQuotedString(text) => match text.trim().strip_prefix('-') {
                    Some(ago) => duration(ago).map(AsOf::Ago),
                    None => Some(AsOf::Time(text.clone())),
                },
                Literal::Number(digits, _) => digits.parse().ok().map(AsOf::Nanos),
                _ => None,
            },
            Expr::Function(Function { name, args: FunctionArguments::List(list), .. }) => {
                let argument = match list.args.as_slice() {
                    [] => None,
                    [FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(value)))] => Some(&value.value),
                    _ => return None,
                };
                match (name.to_string().to_ascii_lowercase().as_str(), argument) {
                    ("follower_read_timestamp", None) => Some(AsOf::Local),
                    ("with_max_staleness", Some(Literal::SingleQuotedString(text))) => duration(text).map(AsOf::Within),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// What that means for a transaction that begins now.
    pub fn freshness(&self, now: Timestamp, settings: &Settings) -> Result<Freshness> {
        Ok(match self {
            AsOf::Ago(ago) => Freshness::AsOf(now.minus_nanos(u64::try_from(ago.as_nanos()).unwrap_or(u64::MAX))),
            AsOf::Time(time) => {
                let mut reading = text::Settings { now: now.unix_micros(), ..Default::default() };
                if let Some(zone) = settings.show("TimeZone").and_then(text::Zone::parse) {
                    reading.zone = zone;
                }
                let micros = text::calendar::parse_timestamptz(time, &reading).map_err(|_| unreadable())?;
                let nanos = u64::try_from(micros).ok().and_then(|micros| micros.checked_mul(1_000));
                Freshness::AsOf(Timestamp(nanos.unwrap_or(if micros < 0 { 0 } else { u64::MAX })))
            }
            AsOf::Nanos(nanos) => Freshness::AsOf(Timestamp(*nanos)),
            AsOf::Local => Freshness::Local,
            AsOf::Within(age) => Freshness::Within(*age),
        })
    }
}

/// A length of time without months, not negative.
fn duration(text: &str) -> Option<Duration> {
    let interval = text::interval::parse(text).ok().filter(|i| i.months == 0)?;
    let micros = i64::from(interval.days).checked_mul(86_400_000_000)?.checked_add(interval.micros)?;
    u64::try_from(micros).ok().map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::super::prepared::parse;
    use super::*;

    fn as_of(sql: &str) -> Vec<Option<AsOf>> {
        parse(sql).unwrap().into_iter().map(|parsed| parsed.as_of).collect()
    }

    #[test]
    fn the_clause_is_found_wherever_it_may_stand() {
        let ago = Some(AsOf::Ago(Duration::from_secs(5)));
        assert_eq!(as_of("SELECT * FROM t AS OF SYSTEM TIME '-5s'"), std::slice::from_ref(&ago));
        assert_eq!(
            as_of("select a from t x join u on true as of system time '-5 seconds' where a = 1"),
            std::slice::from_ref(&ago)
        );
        assert_eq!(as_of("SELECT 1; ; SELECT a FROM t AS OF SYSTEM TIME ('-5s') ORDER BY a;"), [None, ago.clone()]);
        assert_eq!(as_of("BEGIN AS OF SYSTEM TIME '-5s'; SELECT 1"), [ago.clone(), None]);
        assert_eq!(as_of("EXPLAIN SELECT 1 FROM t AS OF SYSTEM TIME '-5s' LIMIT 1"), [ago]);
        assert_eq!(
            as_of("SELECT 1 FROM t AS OF SYSTEM TIME follower_read_timestamp() WHERE true"),
            [Some(AsOf::Local)]
        );
        assert_eq!(
            as_of("SELECT 1 FROM t AS OF SYSTEM TIME with_max_staleness('1 min')"),
            [Some(AsOf::Within(Duration::from_secs(60)))]
        );
        assert_eq!(
            as_of("SELECT 1 FROM t AS OF SYSTEM TIME 1790000000000000000"),
            [Some(AsOf::Nanos(1790000000000000000))]
        );
        assert_eq!(as_of("SELECT 'as of system time', system FROM t AS of"), [None]);
    }

    #[test]
    fn what_it_does_not_mean_is_refused() {
        for sql in [
            "SELECT * FROM (SELECT * FROM t AS OF SYSTEM TIME '-5s') x",
            "SELECT * FROM t AS OF SYSTEM TIME '-5s' UNION SELECT * FROM t AS OF SYSTEM TIME '-6s'",
            "SELECT * FROM t AS OF SYSTEM TIME",
            "SELECT * FROM t AS OF SYSTEM TIME '-1 month'",
            "SELECT * FROM t AS OF SYSTEM TIME '--5s'",
            "SELECT * FROM t AS OF SYSTEM TIME $1",
            "SELECT * FROM t AS OF SYSTEM TIME now()",
            "SELECT * FROM t AS OF SYSTEM TIME '-5s' '-5s'",
            "CREATE VIEW v AS SELECT * FROM t AS OF SYSTEM TIME '-5s'",
            "INSERT INTO t SELECT * FROM t AS OF SYSTEM TIME '-5s'",
            "PREPARE p AS SELECT * FROM t AS OF SYSTEM TIME '-5s'",
        ] {
            assert!(parse(sql).is_err(), "{sql}");
        }
    }
}
