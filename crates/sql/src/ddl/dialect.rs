//! PostgreSQL's grammar where the parser's own dialect of it ends.
//!
//! [`PolityDialect`] is the parser's PostgreSQL dialect with hooks for what that
//! one does not read: sequence options in any order, ALTER SEQUENCE, roles with
//! all their options, VACUUM of several tables, and so on. Where the parser's
//! tree has a place for a statement, the hook fills it. Where it has none, the
//! statement's text travels in a PRAGMA (which PostgreSQL does not have) under a
//! name nobody can write, and [`Extra`] reads it again when it is run.

use std::any::TypeId;

use datafusion::sql::sqlparser::ast::{
    ColumnOption, GeneratedAs, Ident, ObjectName, ObjectType, SequenceOptions, Statement, Value, VisitMut,
};
use datafusion::sql::sqlparser::dialect::{Dialect, PostgreSqlDialect, Precedence};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use super::extra::{self, Extra};
use super::shape::Shape;

/// The name of the PRAGMA that carries a statement; a text with NUL is refused
/// before it is parsed.
const CARRIER: &str = "\0statement";

/// PostgreSQL's dialect, completed.
#[derive(Debug)]
pub struct PolityDialect(PostgreSqlDialect);

/// The dialect of every text.
pub static DIALECT: PolityDialect = PolityDialect(PostgreSqlDialect {});

/// Statements nest at most this deep (parentheses, subqueries).
pub const RECURSION_LIMIT: usize = 128;

/// The tokens of a text.
pub fn tokens(text: &str) -> Result<Vec<TokenWithSpan>, ParserError> {
    Ok(plain_operators(Tokenizer::new(&DIALECT, text).tokenize_with_location()?))
}

/// `a OPERATOR(pg_catalog.=) ANY (…)`, as pg_dump asks, without the schema: the parser
/// knows operators with one only between two expressions.
fn plain_operators(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let is = |at: usize, word: &str| match tokens.get(at).map(|t| &t.token) {
        Some(Token::Word(w)) => w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word),
        _ => false,
    };
    let places: Vec<usize> = (0..tokens.len()).filter(|at| is(*at, "OPERATOR")).collect();
    if places.is_empty() {
        return tokens;
    }
    let solid = |from: usize| (from..tokens.len()).find(|at| !matches!(tokens[*at].token, Token::Whitespace(_)));
    let qualified = |at: usize| {
        let opening = solid(at + 1).filter(|at| tokens[*at].token == Token::LParen)?;
        let schema = solid(opening + 1).filter(|at| is(*at, "pg_catalog"))?;
        let period = solid(schema + 1).filter(|at| tokens[*at].token == Token::Period)?;
        let operator = solid(period + 1)?;
        let closing = solid(operator + 1).filter(|at| tokens[*at].token == Token::RParen)?;
        let next = solid(closing + 1)?;
        ["ANY", "SOME", "ALL"].iter().any(|word| is(next, word)).then_some((at, operator, closing))
    };
    let found: Vec<(usize, usize, usize)> = places.into_iter().filter_map(qualified).collect();
    let kept = |at: &usize| !found.iter().any(|(first, operator, last)| (first..=last).contains(&at) && at != operator);
    let kept: Vec<usize> = (0..tokens.len()).filter(kept).collect();
    kept.into_iter().map(|at| tokens[at].clone()).collect()
}

/// Reads tokens with `parse`. What would be too deep is refused as such.
pub fn read<T: VisitMut>(
    tokens: Vec<TokenWithSpan>,
    parse: impl FnOnce(&mut Parser<'static>) -> Result<T, ParserError>,
) -> Result<T, ParserError> {
    Shape::of(&tokens).parsed(|| {
        let parser = Parser::new(&DIALECT).with_recursion_limit(RECURSION_LIMIT);
        parse(&mut parser.with_tokens_with_locations(tokens))
    })
}

/// Reads a text that Polity wrote itself.
pub fn read_text<T: VisitMut>(
    text: &str,
    parse: impl FnOnce(&mut Parser<'static>) -> Result<T, ParserError>,
) -> Result<T, ParserError> {
    read(tokens(text)?, parse)
}

impl Dialect for PolityDialect {
    fn dialect(&self) -> TypeId {
        self.0.dialect()
    }

    fn parse_statement(&self, parser: &mut Parser) -> Option<Result<Statement, ParserError>> {
        let first = parser.peek_token_ref();
        let Token::Word(word) = &first.token else { return None };
        if word.quote_style.is_some() || !extra::may_begin(&word.value) {
            return None;
        }
        statement(parser).transpose()
    }

    fn parse_column_option(
        &self,
        parser: &mut Parser,
    ) -> Result<Option<Result<Option<ColumnOption>, ParserError>>, ParserError> {
        let [a, b, c, d, e] = std::array::from_fn(|i| upper(&parser.peek_nth_token(i).token));
        let (generated_as, words) = match (a.as_str(), b.as_str(), c.as_str(), d.as_str(), e.as_str()) {
            ("GENERATED", "ALWAYS", "AS", "IDENTITY", _) => (GeneratedAs::Always, 4),
            ("GENERATED", "BY", "DEFAULT", "AS", "IDENTITY") => (GeneratedAs::ByDefault, 5),
            _ => return Ok(None),
        };
        (0..words).for_each(|_| {
            parser.next_token();
        });
        let options = match parser.consume_token(&Token::LParen) {
            true => {
                let options = extra::sequence_options(parser)?;
                parser.expect_token(&Token::RParen)?;
                options
            }
            false => Vec::new(),
        };
        Ok(Some(Ok(Some(ColumnOption::Generated {
            generated_as,
            sequence_options: Some(options),
            generation_expr: None,
            generation_expr_mode: None,
            generated_keyword: true,
        }))))
    }

    fn identifier_quote_style(&self, identifier: &str) -> Option<char> {
        self.0.identifier_quote_style(identifier)
    }
    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        self.0.is_delimited_identifier_start(ch)
    }
    fn is_identifier_start(&self, ch: char) -> bool {
        self.0.is_identifier_start(ch)
    }
    fn is_identifier_part(&self, ch: char) -> bool {
        self.0.is_identifier_part(ch)
    }
    fn supports_unicode_string_literal(&self) -> bool {
        self.0.supports_unicode_string_literal()
    }
    fn is_reserved_for_identifier(&self, kw: Keyword) -> bool {
        self.0.is_reserved_for_identifier(kw)
    }
    fn is_custom_operator_part(&self, ch: char) -> bool {
        self.0.is_custom_operator_part(ch)
    }
    fn get_next_precedence(&self, parser: &Parser) -> Option<Result<u8, ParserError>> {
        self.0.get_next_precedence(parser)
    }
    fn supports_filter_during_aggregation(&self) -> bool {
        self.0.supports_filter_during_aggregation()
    }
    fn supports_group_by_expr(&self) -> bool {
        self.0.supports_group_by_expr()
    }
    fn prec_value(&self, prec: Precedence) -> u8 {
        self.0.prec_value(prec)
    }
    fn allow_extract_custom(&self) -> bool {
        self.0.allow_extract_custom()
    }
    fn allow_extract_single_quotes(&self) -> bool {
        self.0.allow_extract_single_quotes()
    }
    fn supports_create_index_with_clause(&self) -> bool {
        self.0.supports_create_index_with_clause()
    }
    fn supports_explain_with_utility_options(&self) -> bool {
        self.0.supports_explain_with_utility_options()
    }
    fn supports_listen_notify(&self) -> bool {
        self.0.supports_listen_notify()
    }
    fn supports_factorial_operator(&self) -> bool {
        self.0.supports_factorial_operator()
    }
    fn supports_bitwise_shift_operators(&self) -> bool {
        self.0.supports_bitwise_shift_operators()
    }
    fn supports_comment_on(&self) -> bool {
        self.0.supports_comment_on()
    }
    fn supports_named_fn_args_with_colon_operator(&self) -> bool {
        self.0.supports_named_fn_args_with_colon_operator()
    }
    // JSON_OBJECT(expr: …), for which the parser reads each argument twice: nested calls would take 2^depth steps.
    fn supports_named_fn_args_with_expr_name(&self) -> bool {
        false
    }
    fn supports_empty_projections(&self) -> bool {
        self.0.supports_empty_projections()
    }
    fn supports_nested_comments(&self) -> bool {
        self.0.supports_nested_comments()
    }
    fn supports_string_escape_constant(&self) -> bool {
        self.0.supports_string_escape_constant()
    }
    fn supports_numeric_literal_underscores(&self) -> bool {
        self.0.supports_numeric_literal_underscores()
    }
    fn supports_array_typedef_with_brackets(&self) -> bool {
        self.0.supports_array_typedef_with_brackets()
    }
    fn supports_geometric_types(&self) -> bool {
        self.0.supports_geometric_types()
    }
    fn supports_set_names(&self) -> bool {
        self.0.supports_set_names()
    }
    fn supports_alter_column_type_using(&self) -> bool {
        self.0.supports_alter_column_type_using()
    }
    fn supports_notnull_operator(&self) -> bool {
        self.0.supports_notnull_operator()
    }
    fn supports_interval_options(&self) -> bool {
        self.0.supports_interval_options()
    }
    fn supports_insert_table_alias(&self) -> bool {
        self.0.supports_insert_table_alias()
    }
    fn supports_create_table_like_parenthesized(&self) -> bool {
        self.0.supports_create_table_like_parenthesized()
    }
    fn supports_select_wildcard_with_alias(&self) -> bool {
        self.0.supports_select_wildcard_with_alias()
    }
    fn supports_comma_separated_trim(&self) -> bool {
        self.0.supports_comma_separated_trim()
    }
    fn supports_xml_expressions(&self) -> bool {
        self.0.supports_xml_expressions()
    }
}

/// The upper-case text of an unquoted word; empty for all other tokens.
pub(super) fn upper(token: &Token) -> String {
    match token {
        Token::Word(word) if word.quote_style.is_none() => word.value.to_ascii_uppercase(),
        _ => String::new(),
    }
}

fn statement(parser: &mut Parser) -> Result<Option<Statement>, ParserError> {
    let words: [String; 4] = std::array::from_fn(|i| upper(&parser.peek_nth_token(i).token));
    let words = words.each_ref().map(String::as_str);
    match words {
        ["CREATE", "SEQUENCE", ..] | ["CREATE", "TEMP" | "TEMPORARY", "SEQUENCE", _] => {
            return create_sequence(parser).map(Some);
        }
        ["DROP", "INDEX", "CONCURRENTLY", _] => return drop_index(parser).map(Some),
        _ => {}
    }
    let text = statement_text(parser);
    if !extra::is_one(words, &text) {
        return Ok(None);
    }
    Extra::parse(parser)?;
    Ok(Some(Statement::Pragma {
        name: ObjectName::from(Ident::new(CARRIER)),
        value: Some(Value::SingleQuotedString(text).into()),
        is_eq: false,
    }))
}

/// The statement a PRAGMA carries; `None` for all other statements.
pub(super) fn carried(statement: &Statement) -> Option<Result<Extra, ParserError>> {
    let Statement::Pragma { name, value: Some(value), .. } = statement else { return None };
    let is_carrier = matches!(name.0.as_slice(), [part] if part.as_ident().is_some_and(|i| i.value == CARRIER));
    let Value::SingleQuotedString(text) = &value.value else { return None };
    is_carrier.then(|| Extra::parse(&mut Parser::new(&DIALECT).try_with_sql(text)?))
}

/// The tokens up to the statement's end, as text that gives the same tokens.
fn statement_text(parser: &Parser) -> String {
    let mut text = String::new();
    for i in 0.. {
        match parser.peek_nth_token_no_skip(i).token {
            Token::EOF | Token::SemiColon => break,
            Token::SingleQuotedString(s) => text.push_str(&format!("'{}'", s.replace('\'', "''"))),
            Token::EscapedStringLiteral(s) => {
                text.push_str(&format!("E'{}'", s.replace('\\', "\\\\").replace('\'', "''")));
            }
            Token::Word(w) if w.quote_style == Some('"') => {
                text.push_str(&format!("\"{}\"", w.value.replace('"', "\"\"")));
            }
            Token::Whitespace(_) => text.push(' '),
            token => text.push_str(&token.to_string()),
        }
    }
    text
}

fn create_sequence(parser: &mut Parser) -> Result<Statement, ParserError> {
    parser.expect_keyword(Keyword::CREATE)?;
    let temporary = parser.parse_one_of_keywords(&[Keyword::TEMP, Keyword::TEMPORARY]).is_some();
    parser.expect_keyword(Keyword::SEQUENCE)?;
    let if_not_exists = parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
    let name = parser.parse_object_name(false)?;
    let mut data_type = None;
    let mut owned_by = None;
    let mut sequence_options: Vec<SequenceOptions> = Vec::new();
    loop {
        if parser.parse_keyword(Keyword::AS) {
            data_type = Some(parser.parse_data_type()?);
        } else if parser.parse_keywords(&[Keyword::OWNED, Keyword::BY]) {
            owned_by = Some(parser.parse_object_name(false)?);
        } else {
            match extra::sequence_option(parser)? {
                Some(option) => sequence_options.push(option),
                None => break,
            }
        }
    }
    Ok(Statement::CreateSequence { temporary, if_not_exists, name, data_type, sequence_options, owned_by })
}

fn drop_index(parser: &mut Parser) -> Result<Statement, ParserError> {
    parser.expect_keyword(Keyword::DROP)?;
    parser.expect_keyword(Keyword::INDEX)?;
    parser.expect_keyword(Keyword::CONCURRENTLY)?;
    let if_exists = parser.parse_keywords(&[Keyword::IF, Keyword::EXISTS]);
    let names = parser.parse_comma_separated(|p| p.parse_object_name(false))?;
    let cascade = parser.parse_keyword(Keyword::CASCADE);
    let restrict = parser.parse_keyword(Keyword::RESTRICT);
    Ok(Statement::Drop {
        object_type: ObjectType::Index,
        if_exists,
        names,
        cascade,
        restrict,
        purge: false,
        temporary: false,
        table: None,
    })
}
