//! Spellings of PostgreSQL's that the parser's tree has no place for.
//!
//! | written                             | parsed                                   |
//! |-------------------------------------|------------------------------------------|
//! | `FOR NO KEY UPDATE [OF t]`          | `FOR UPDATE OF "polity weaker"[.t]`      |
//! | `FOR KEY SHARE [OF t]`              | `FOR SHARE OF "polity weaker"[.t]`       |
//! | `INSERT INTO … OVERRIDING SYSTEM VALUE` | `INSERT OVERWRITE INTO …`            |
//! | `INSERT INTO … OVERRIDING USER VALUE`   | `INSERT OVERWRITE INTO TABLE …`      |
//! | `COPY … (FREEZE on)`                | `COPY … (FREEZE)`                    |
//!
//! They are replaced token by token, so strings and comments stay as they are,
//! and each token keeps its place in the text for error messages.
//!
//! `WITH … INSERT` (UPDATE, DELETE) is parsed as a query with a statement in it.
//! [`normalise`] makes it the statement: INSERT takes the WITH into its source,
//! the others carry it as a last table called `polity with` of FROM or USING.

use datafusion::sql::sqlparser::ast::{
    Query, SetExpr, Statement, TableAlias, TableFactor, TableWithJoins, UpdateTableFromKind, With,
};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use super::select_for_update::WEAKER;

/// Replaces such spellings in the tokens of a text.
pub fn rewrite(tokens: &mut Vec<TokenWithSpan>) {
    if tokens.iter().any(|t| is(t, "OVERRIDING")) {
        overriding(tokens);
    }
    if tokens.iter().any(|t| is(t, "KEY")) {
        weaker_locks(tokens);
    }
    if tokens.first().is_some_and(|t| is(t, "COPY")) {
        plain_freeze(tokens);
    }
}

/// The parser takes no value for FREEZE but true and false.
fn plain_freeze(tokens: &mut Vec<TokenWithSpan>) {
    let Some(at) = tokens.iter().position(|t| is(t, "FREEZE")) else { return };
    let next = tokens[at + 1..].iter().position(|t| !matches!(t.token, Token::Whitespace(_)));
    if let Some(next) = next.map(|n| at + 1 + n)
        && is(&tokens[next], "ON")
    {
        tokens.remove(next);
    }
}

/// The name of the table that carries a WITH.
const CARRIER: &str = "polity with";

/// Makes `WITH … INSERT` (UPDATE, DELETE) a statement of its own kind.
pub fn normalise(statement: &mut Statement) {
    if let Statement::Explain { statement, .. } = statement {
        return normalise(statement);
    }
    let Statement::Query(query) = statement else { return };
    let Query { with, body, order_by: None, limit_clause: None, .. } = query.as_mut() else { return };
    let inner = match body.as_mut() {
        SetExpr::Insert(inner) | SetExpr::Update(inner) | SetExpr::Delete(inner) => inner,
        _ => return,
    };
    let carrier = with.take().map(carrier);
    match inner {
        Statement::Insert(insert) => {
            if let (Some(source), Some(carrier)) = (&mut insert.source, carrier)
                && let Some(outer) = carried(&carrier)
            {
                // The inner WITH, if there is one, may use the outer.
                match &mut source.with {
                    None => source.with = Some(outer.clone()),
                    Some(own) => {
                        own.recursive |= outer.recursive;
                        own.cte_tables.splice(0..0, outer.cte_tables.iter().cloned());
                    }
                }
            }
        }
        Statement::Update(update) => {
            if let Some(carrier) = carrier {
                match &mut update.from {
                    Some(UpdateTableFromKind::AfterSet(from)) => from.push(carrier),
                    _ => update.from = Some(UpdateTableFromKind::AfterSet(vec![carrier])),
                }
            }
        }
        Statement::Delete(delete) => {
            if let Some(carrier) = carrier {
                delete.using.get_or_insert_default().push(carrier);
            }
        }
        _ => return,
    }
    let inner = std::mem::replace(inner, Statement::Commit { chain: false, end: false, modifier: None });
    *statement = inner;
}

fn carrier(with: With) -> TableWithJoins {
    let query = Query {
        with: Some(with),
        body: Box::new(SetExpr::Values(datafusion::sql::sqlparser::ast::Values {
            explicit_row: false,
            value_keyword: false,
            rows: Vec::new(),
        })),
        order_by: None,
        limit_clause: None,
        fetch: None,
        locks: Vec::new(),
        for_clause: None,
        settings: None,
        format_clause: None,
        pipe_operators: Vec::new(),
    };
    let name = datafusion::sql::sqlparser::ast::Ident::with_quote('"', CARRIER);
    let alias = TableAlias { explicit: true, name, columns: Vec::new(), at: None };
    let relation = TableFactor::Derived { lateral: false, subquery: Box::new(query), alias: Some(alias), sample: None };
    TableWithJoins { relation, joins: Vec::new() }
}

fn carried(item: &TableWithJoins) -> Option<&With> {
    match &item.relation {
        TableFactor::Derived { subquery, alias: Some(alias), .. } if alias.name.value == CARRIER => {
            subquery.with.as_ref()
        }
        _ => None,
    }
}

/// The tables of FROM or USING, and the WITH they carry.
pub fn without_carrier(from: &[TableWithJoins]) -> (&[TableWithJoins], Option<&With>) {
    match from.split_last() {
        Some((last, rest)) => match carried(last) {
            Some(with) => (rest, Some(with)),
            None => (from, None),
        },
        None => (from, None),
    }
}

fn is(token: &TokenWithSpan, word: &str) -> bool {
    matches!(&token.token, Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
}

/// The places of the tokens at and after `at` that are not white space.
fn solid(tokens: &[TokenWithSpan], at: usize) -> impl Iterator<Item = usize> + '_ {
    (at..tokens.len()).filter(|i| !matches!(tokens[*i].token, Token::Whitespace(_)))
}

/// Whether the words stand at `at`, and where the last of them is.
fn phrase(tokens: &[TokenWithSpan], at: usize, words: &[&str]) -> Option<usize> {
    let mut places = solid(tokens, at);
    let mut last = None;
    for word in words {
        last = Some(places.next().filter(|i| is(&tokens[*i], word))?);
    }
    last
}

fn word(keyword: Keyword, text: &str) -> Token {
    Token::Word(Word { value: text.to_owned(), quote_style: None, keyword })
}

fn weaker_locks(tokens: &mut Vec<TokenWithSpan>) {
    let mut at = 0;
    while at < tokens.len() {
        let update = phrase(tokens, at, &["FOR", "NO", "KEY", "UPDATE"]);
        let found = update.or_else(|| phrase(tokens, at, &["FOR", "KEY", "SHARE"]));
        if let Some(last) = found.filter(|_| is(&tokens[at], "FOR")) {
            let span = tokens[last].span;
            let strength = tokens[last].clone();
            let mut replacement = vec![tokens[at].clone()];
            let space = || TokenWithSpan {
                token: Token::Whitespace(datafusion::sql::sqlparser::tokenizer::Whitespace::Space),
                span,
            };
            let token = |token: Token| TokenWithSpan { token, span };
            let marker =
                Token::Word(Word { value: WEAKER.to_owned(), quote_style: Some('"'), keyword: Keyword::NoKeyword });
            replacement.extend([space(), strength, space(), token(word(Keyword::OF, "OF")), space(), token(marker)]);
            let mut end = last + 1;
            if let Some(of) = phrase(tokens, end, &["OF"]) {
                replacement.push(token(Token::Period));
                end = solid(tokens, of + 1).next().unwrap_or(of + 1);
            }
            let length = replacement.len();
            tokens.splice(at..end, replacement);
            at += length;
        } else {
            at += 1;
        }
    }
}

fn overriding(tokens: &mut Vec<TokenWithSpan>) {
    // Backwards, so that places before stay what they are.
    for at in (0..tokens.len()).rev() {
        let user = phrase(tokens, at, &["OVERRIDING", "USER", "VALUE"]);
        let Some(last) = user.or_else(|| phrase(tokens, at, &["OVERRIDING", "SYSTEM", "VALUE"])) else { continue };
        if !is(&tokens[at], "OVERRIDING") {
            continue;
        }
        let Some(insert) = (0..at).rev().find(|i| is(&tokens[*i], "INSERT")) else { continue };
        let Some(into) = phrase(tokens, insert, &["INSERT", "INTO"]) else { continue };
        let span = tokens[at].span;
        tokens.drain(at..=last);
        let mut put = |at: usize, token: Token| tokens.insert(at, TokenWithSpan { token, span });
        let space = || Token::Whitespace(datafusion::sql::sqlparser::tokenizer::Whitespace::Space);
        if user.is_some() {
            put(into + 1, word(Keyword::TABLE, "TABLE"));
            put(into + 1, space());
        }
        put(insert + 1, word(Keyword::OVERWRITE, "OVERWRITE"));
        put(insert + 1, space());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ddl::dialect;

    fn parsed(sql: &str) -> String {
        let mut tokens = dialect::tokens(sql).unwrap();
        rewrite(&mut tokens);
        dialect::read(tokens, |p| p.parse_statements()).map_or_else(|e| e.to_string(), |s| s[0].to_string())
    }

    #[test]
    fn each_is_parsed_as_its_stand_in() {
        for (sql, expected) in [
            ("select 1 from t for no key update", "SELECT 1 FROM t FOR UPDATE OF \"polity weaker\""),
            ("select 1 from t for key share of t nowait", "SELECT 1 FROM t FOR SHARE OF \"polity weaker\".t NOWAIT"),
            ("select 'for key share' from t for update", "SELECT 'for key share' FROM t FOR UPDATE"),
            ("insert into t (a) overriding system value values (1)", "INSERT OVERWRITE INTO t (a) VALUES (1)"),
            ("insert into t overriding user value select 1", "INSERT OVERWRITE INTO TABLE t SELECT 1"),
            ("copy t from stdin with (freeze on)", "COPY t FROM STDIN (FREEZE)"),
        ] {
            assert_eq!(parsed(sql), expected);
        }
    }
}
