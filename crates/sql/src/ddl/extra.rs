//! Statements that the parser's tree has no place for.

use datafusion::sql::sqlparser::ast::{
    DataType, Expr, Ident, ObjectName, Owner, SequenceOptions, UnaryOperator, Value,
};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;

use super::dialect::upper;

/// A statement that the parser's tree has no place for.
#[derive(Debug)]
pub(super) enum Extra {
    AlterSequence { if_exists: bool, name: ObjectName, change: SequenceChange },
    AlterView { if_exists: bool, name: ObjectName, change: RelationChange },
    AlterIndex { if_exists: bool, name: ObjectName, change: RelationChange },
    AlterIdentity { if_exists: bool, table: ObjectName, column: Ident, change: IdentityChange },
    ResetTable { if_exists: bool, table: ObjectName, options: Vec<Ident> },
    CreateTableLike { if_not_exists: bool, name: ObjectName, source: ObjectName, including: Vec<(bool, String)> },
    CreateRole { name: Ident, user: bool, options: Vec<RoleOption> },
    AlterRole { name: Option<Ident>, options: Vec<RoleOption> },
    RenameRole { name: Ident, to: Ident },
    Vacuum { tables: Vec<ObjectName> },
    Analyze { tables: Vec<ObjectName> },
    Unsupported(String),
}

#[derive(Debug)]
pub(super) enum SequenceChange {
    Options {
        r#type: Option<DataType>,
        options: Vec<SequenceOptions>,
        /// RESTART, RESTART WITH n
        restart: Option<Option<i64>>,
        /// OWNED BY NONE, OWNED BY table.column
        owned_by: Option<Option<ObjectName>>,
    },
    Relation(RelationChange),
}

#[derive(Debug)]
pub(super) enum RelationChange {
    Rename(Ident),
    Owner(Owner),
    Fillfactor(Option<u64>),
}

#[derive(Debug)]
pub(super) enum IdentityChange {
    Add { always: bool, options: Vec<SequenceOptions> },
    Drop { if_exists: bool },
    Set { always: Option<bool>, options: Vec<SequenceOptions>, restart: Option<Option<i64>> },
}

#[derive(Debug)]
pub(super) enum RoleOption {
    Login(bool),
    Superuser(bool),
    /// `None`: PASSWORD NULL
    Password(Option<String>),
    /// An attribute that every role has, stated
    Stated,
    Unsupported(String),
}

/// Whether a statement that begins with this word may be one of these.
pub(super) fn may_begin(word: &str) -> bool {
    const WORDS: [&str; 17] = [
        "GRANT",
        "REVOKE",
        "CREATE",
        "ALTER",
        "DROP",
        "COMMENT",
        "VACUUM",
        "ANALYZE",
        "ANALYSE",
        "REINDEX",
        "CLUSTER",
        "CHECKPOINT",
        "REASSIGN",
        "SECURITY",
        "REFRESH",
        "DO",
        "IMPORT",
    ];
    WORDS.iter().any(|w| w.eq_ignore_ascii_case(word))
}

/// What PostgreSQL can CREATE, ALTER and DROP and the parser cannot read.
const UNKNOWN_OBJECTS: [&str; 18] = [
    "ACCESS",
    "AGGREGATE",
    "CAST",
    "CONVERSION",
    "DEFAULT",
    "EVENT",
    "FOREIGN",
    "GROUP",
    "LANGUAGE",
    "LARGE",
    "PUBLICATION",
    "RULE",
    "STATISTICS",
    "SUBSCRIPTION",
    "SYSTEM",
    "TABLESPACE",
    "TEXT",
    "TRANSFORM",
];

/// Whether the statement that begins with `words` is one of these.
pub(super) fn is_one(words: [&str; 4], text: &str) -> bool {
    match words {
        ["ALTER", "SEQUENCE" | "VIEW" | "INDEX" | "ROLE" | "USER" | "MATERIALIZED", ..] => true,
        ["CREATE", "ROLE" | "USER" | "UNLOGGED" | "RECURSIVE", ..] => true,
        ["CREATE" | "ALTER" | "DROP", what, ..] if UNKNOWN_OBJECTS.contains(&what) => true,
        ["COMMENT", "ON", what, _] => !matches!(
            what,
            "TABLE" | "COLUMN" | "INDEX" | "VIEW" | "SEQUENCE" | "DATABASE" | "SCHEMA" | "ROLE" | "EXTENSION" | "TYPE"
        ),
        ["REVOKE", "GRANT", "OPTION", "FOR"] => true,
        ["GRANT" | "REVOKE", ..] => !words_of(text).iter().any(|word| word == "ON"),
        ["CREATE", "TABLE", ..] => words_of(text).windows(2).any(|w| w == ["(", "LIKE"]),
        ["ALTER", "TABLE", ..] => is_extra_alter_table(&words_of(text)),
        [
            "VACUUM" | "ANALYZE" | "ANALYSE" | "REINDEX" | "CLUSTER" | "CHECKPOINT" | "REASSIGN" | "SECURITY"
            | "REFRESH" | "DO" | "IMPORT",
            ..,
        ] => true,
        _ => false,
    }
}

/// Upper-case words and single signs of a text, quoted parts left out.
fn words_of(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '"' || c == '\'' {
            while chars.next().is_some_and(|d| d != c) {}
            words.push("?".to_owned());
        } else if c.is_alphanumeric() || c == '_' {
            let mut word = c.to_ascii_uppercase().to_string();
            while let Some(d) = chars.next_if(|d| d.is_alphanumeric() || *d == '_') {
                word.push(d.to_ascii_uppercase());
            }
            words.push(word);
        } else if !c.is_whitespace() {
            words.push(c.to_string());
        }
    }
    words
}

/// Actions of ALTER TABLE that the parser does not read.
fn is_extra_alter_table(words: &[String]) -> bool {
    const ACTIONS: [&[&str]; 19] = [
        &["ADD", "GENERATED"],
        &["DROP", "IDENTITY"],
        &["DROP", "EXPRESSION"],
        &["SET", "GENERATED"],
        &["RESTART"],
        &["SET", "STATISTICS"],
        &["SET", "STORAGE"],
        &["SET", "COMPRESSION"],
        &["RESET", "("],
        &["SET", "SCHEMA"],
        &["SET", "TABLESPACE"],
        &["SET", "LOGGED"],
        &["SET", "UNLOGGED"],
        &["SET", "WITHOUT"],
        &["SET", "ACCESS"],
        &["CLUSTER", "ON"],
        &["INHERIT"],
        &["ALTER", "CONSTRAINT"],
        &["ATTACH", "PARTITION"],
    ];
    ACTIONS.iter().any(|action| words.windows(action.len()).any(|w| w == *action))
        || words.windows(3).any(|w| {
            w[0] == "SET"
                && matches!(w[1].as_str(), "INCREMENT" | "MINVALUE" | "MAXVALUE" | "START" | "CACHE" | "CYCLE")
        })
}

/// Consumes `word`, if it is next.
fn accept(parser: &mut Parser, word: &str) -> bool {
    let next = upper(&parser.peek_token_ref().token) == word;
    if next {
        parser.next_token();
    }
    next
}

fn accept_all(parser: &mut Parser, words: &[&str]) -> bool {
    let next = words.iter().enumerate().all(|(i, w)| upper(&parser.peek_nth_token_ref(i).token) == *w);
    if next {
        words.iter().for_each(|_| {
            parser.next_token();
        });
    }
    next
}

fn expect(parser: &mut Parser, word: &str) -> Result<(), ParserError> {
    if accept(parser, word) { Ok(()) } else { parser.expected_ref(word, parser.peek_token_ref()) }
}

fn at_end(parser: &Parser) -> bool {
    matches!(parser.peek_token_ref().token, Token::EOF | Token::SemiColon)
}

impl Extra {
    /// Reads one of these statements.
    pub(super) fn parse(parser: &mut Parser) -> Result<Extra, ParserError> {
        let extra = Extra::parse_inner(parser)?;
        if let Extra::Unsupported(_) = extra {
            while !at_end(parser) {
                parser.next_token();
            }
        }
        if at_end(parser) { Ok(extra) } else { parser.expected_ref("end of statement", parser.peek_token_ref()) }
    }

    fn parse_inner(parser: &mut Parser) -> Result<Extra, ParserError> {
        let words: [String; 3] = std::array::from_fn(|i| upper(&parser.peek_nth_token(i).token));
        let skip = |parser: &mut Parser, n: usize| {
            (0..n).for_each(|_| {
                parser.next_token();
            });
        };
        match words.each_ref().map(String::as_str) {
            ["ALTER", "SEQUENCE", _] => {
                skip(parser, 2);
                alter_sequence(parser)
            }
            ["ALTER", "VIEW", _] => {
                skip(parser, 2);
                let (if_exists, name) = target(parser)?;
                match relation_change(parser)? {
                    Some(change) => Ok(Extra::AlterView { if_exists, name, change }),
                    None => Ok(Extra::Unsupported("this form of ALTER VIEW".to_owned())),
                }
            }
            ["ALTER", "INDEX", _] => {
                skip(parser, 2);
                let (if_exists, name) = target(parser)?;
                match relation_change(parser)? {
                    Some(change) => Ok(Extra::AlterIndex { if_exists, name, change }),
                    None => Ok(Extra::Unsupported("this form of ALTER INDEX".to_owned())),
                }
            }
            ["ALTER", "TABLE", _] => {
                skip(parser, 2);
                alter_table(parser)
            }
            ["ALTER", "ROLE" | "USER", _] => {
                skip(parser, 2);
                alter_role(parser)
            }
            ["CREATE", kind @ ("ROLE" | "USER"), _] => {
                let user = kind == "USER";
                skip(parser, 2);
                create_role(parser, user)
            }
            ["CREATE", "TABLE", _] => {
                skip(parser, 2);
                create_table_like(parser)
            }
            ["CREATE", "UNLOGGED", _] => Ok(Extra::Unsupported("UNLOGGED".to_owned())),
            ["CREATE", "RECURSIVE", _] => Ok(Extra::Unsupported("CREATE RECURSIVE VIEW".to_owned())),
            ["COMMENT", "ON", what] => Ok(Extra::Unsupported(format!("COMMENT ON {what}"))),
            ["REVOKE", "GRANT", "OPTION"] => Ok(Extra::Unsupported("GRANT OPTION FOR".to_owned())),
            ["GRANT" | "REVOKE", ..] => Ok(Extra::Unsupported("membership in roles".to_owned())),
            [verb @ ("CREATE" | "ALTER" | "DROP"), what, _] => Ok(Extra::Unsupported(format!("{verb} {what}"))),
            ["VACUUM", ..] => {
                skip(parser, 1);
                vacuum(parser)
            }
            ["ANALYZE" | "ANALYSE", ..] => {
                skip(parser, 1);
                accept(parser, "VERBOSE");
                maintenance_options(parser)?;
                Ok(Extra::Analyze { tables: maintenance_tables(parser)? })
            }
            [verb, ..] => Ok(Extra::Unsupported(verb.to_owned())),
        }
    }
}

/// `[IF EXISTS] name`
fn target(parser: &mut Parser) -> Result<(bool, ObjectName), ParserError> {
    let if_exists = accept_all(parser, &["IF", "EXISTS"]);
    Ok((if_exists, parser.parse_object_name(false)?))
}

fn owner(parser: &mut Parser) -> Result<Owner, ParserError> {
    Ok(match upper(&parser.peek_token_ref().token).as_str() {
        "CURRENT_USER" => {
            parser.next_token();
            Owner::CurrentUser
        }
        "CURRENT_ROLE" => {
            parser.next_token();
            Owner::CurrentRole
        }
        "SESSION_USER" => {
            parser.next_token();
            Owner::SessionUser
        }
        _ => Owner::Ident(parser.parse_identifier()?),
    })
}

fn relation_change(parser: &mut Parser) -> Result<Option<RelationChange>, ParserError> {
    if accept_all(parser, &["RENAME", "TO"]) {
        return Ok(Some(RelationChange::Rename(parser.parse_identifier()?)));
    }
    if accept_all(parser, &["OWNER", "TO"]) {
        return Ok(Some(RelationChange::Owner(owner(parser)?)));
    }
    let parenthesis = |parser: &Parser| parser.peek_nth_token_ref(1).token == Token::LParen;
    let fillfactor = |parser: &Parser| upper(&parser.peek_nth_token_ref(2).token) == "FILLFACTOR";
    if parenthesis(parser) && fillfactor(parser) {
        let set = accept(parser, "SET");
        if set || accept(parser, "RESET") {
            parser.next_token();
            parser.next_token();
            let mut value = None;
            if set {
                parser.expect_token(&Token::Eq)?;
                value = Some(parser.parse_literal_uint()?);
            }
            parser.expect_token(&Token::RParen)?;
            return Ok(Some(RelationChange::Fillfactor(value)));
        }
    }
    Ok(None)
}

fn alter_sequence(parser: &mut Parser) -> Result<Extra, ParserError> {
    let (if_exists, name) = target(parser)?;
    if let Some(change) = relation_change(parser)? {
        return Ok(Extra::AlterSequence { if_exists, name, change: SequenceChange::Relation(change) });
    }
    let (mut r#type, mut options, mut restart, mut owned_by) = (None, Vec::new(), None, None);
    while !at_end(parser) {
        if accept(parser, "AS") {
            r#type = Some(parser.parse_data_type()?);
        } else if accept_all(parser, &["OWNED", "BY"]) {
            owned_by = Some(if accept(parser, "NONE") { None } else { Some(parser.parse_object_name(false)?) });
        } else if let Some(at) = restart_option(parser)? {
            restart = Some(at);
        } else if let Some(option) = sequence_option(parser)? {
            options.push(option);
        } else {
            return parser.expected_ref("a sequence option", parser.peek_token_ref());
        }
    }
    let change = SequenceChange::Options { r#type, options, restart, owned_by };
    Ok(Extra::AlterSequence { if_exists, name, change })
}

fn restart_option(parser: &mut Parser) -> Result<Option<Option<i64>>, ParserError> {
    if !accept(parser, "RESTART") {
        return Ok(None);
    }
    let with = accept(parser, "WITH");
    let number = matches!(parser.peek_token_ref().token, Token::Number(..) | Token::Minus | Token::Plus);
    if !with && !number {
        return Ok(Some(None));
    }
    let value = signed(parser)?;
    match whole(&value) {
        Some(n) => Ok(Some(Some(n))),
        None => parser.expected_ref("a whole number", parser.peek_token_ref()),
    }
}

/// The options of a sequence, in any order, up to what is none.
pub(super) fn sequence_options(parser: &mut Parser) -> Result<Vec<SequenceOptions>, ParserError> {
    let mut options = Vec::new();
    while let Some(option) = sequence_option(parser)? {
        options.push(option);
    }
    Ok(options)
}

/// The next option of a sequence, if one is next.
pub(super) fn sequence_option(parser: &mut Parser) -> Result<Option<SequenceOptions>, ParserError> {
    if accept(parser, "INCREMENT") {
        let by = accept(parser, "BY");
        return Ok(Some(SequenceOptions::IncrementBy(signed(parser)?, by)));
    }
    if accept(parser, "START") {
        let with = accept(parser, "WITH");
        return Ok(Some(SequenceOptions::StartWith(signed(parser)?, with)));
    }
    if accept(parser, "MINVALUE") {
        return Ok(Some(SequenceOptions::MinValue(Some(signed(parser)?))));
    }
    if accept(parser, "MAXVALUE") {
        return Ok(Some(SequenceOptions::MaxValue(Some(signed(parser)?))));
    }
    if accept(parser, "CACHE") {
        return Ok(Some(SequenceOptions::Cache(signed(parser)?)));
    }
    // The tree has the flag of CYCLE the other way round.
    if accept(parser, "CYCLE") {
        return Ok(Some(SequenceOptions::Cycle(false)));
    }
    if accept_all(parser, &["NO", "MINVALUE"]) {
        return Ok(Some(SequenceOptions::MinValue(None)));
    }
    if accept_all(parser, &["NO", "MAXVALUE"]) {
        return Ok(Some(SequenceOptions::MaxValue(None)));
    }
    if accept_all(parser, &["NO", "CYCLE"]) {
        return Ok(Some(SequenceOptions::Cycle(true)));
    }
    // The tree has no option for the name: it stands where a number would.
    if accept_all(parser, &["SEQUENCE", "NAME"]) {
        let name = parser.parse_object_name(false)?;
        let idents = name.0.iter().filter_map(|p| p.as_ident().cloned()).collect();
        return Ok(Some(SequenceOptions::StartWith(Expr::CompoundIdentifier(idents), true)));
    }
    Ok(None)
}

fn signed(parser: &mut Parser) -> Result<Expr, ParserError> {
    let minus = parser.consume_token(&Token::Minus);
    let _ = !minus && parser.consume_token(&Token::Plus);
    let number = Expr::Value(parser.parse_number_value()?);
    Ok(if minus { Expr::UnaryOp { op: UnaryOperator::Minus, expr: Box::new(number) } } else { number })
}

/// The whole number that an expression is, if it is one.
pub(super) fn whole(expr: &Expr) -> Option<i64> {
    fn wide(expr: &Expr) -> Option<i128> {
        match expr {
            Expr::Value(v) => match &v.value {
                Value::Number(text, _) => text.parse().ok(),
                _ => None,
            },
            Expr::UnaryOp { op: UnaryOperator::Minus, expr } => wide(expr).map(|n| -n),
            Expr::UnaryOp { op: UnaryOperator::Plus, expr } | Expr::Nested(expr) => wide(expr),
            _ => None,
        }
    }
    wide(expr).and_then(|n| i64::try_from(n).ok())
}

fn alter_table(parser: &mut Parser) -> Result<Extra, ParserError> {
    let if_exists = accept_all(parser, &["IF", "EXISTS"]);
    accept(parser, "ONLY");
    let table = parser.parse_object_name(false)?;
    if accept(parser, "RESET") {
        parser.expect_token(&Token::LParen)?;
        let options = parser.parse_comma_separated(|p| p.parse_identifier())?;
        parser.expect_token(&Token::RParen)?;
        return Ok(Extra::ResetTable { if_exists, table, options });
    }
    if !accept(parser, "ALTER") {
        return Ok(unread_action(parser));
    }
    accept(parser, "COLUMN");
    let column = parser.parse_identifier()?;
    if accept_all(parser, &["DROP", "IDENTITY"]) {
        let change = IdentityChange::Drop { if_exists: accept_all(parser, &["IF", "EXISTS"]) };
        return end_of_action(parser, Extra::AlterIdentity { if_exists, table, column, change });
    }
    if accept_all(parser, &["ADD", "GENERATED"]) {
        let always = accept(parser, "ALWAYS");
        if !always {
            expect(parser, "BY")?;
            expect(parser, "DEFAULT")?;
        }
        expect(parser, "AS")?;
        expect(parser, "IDENTITY")?;
        let mut options = Vec::new();
        if parser.consume_token(&Token::LParen) {
            options = sequence_options(parser)?;
            parser.expect_token(&Token::RParen)?;
        }
        let change = IdentityChange::Add { always, options };
        return end_of_action(parser, Extra::AlterIdentity { if_exists, table, column, change });
    }
    let (mut always, mut options, mut restart) = (None, Vec::new(), None);
    loop {
        if let Some(at) = restart_option(parser)? {
            restart = Some(at);
        } else if accept_all(parser, &["SET", "GENERATED", "ALWAYS"]) {
            always = Some(true);
        } else if accept_all(parser, &["SET", "GENERATED", "BY", "DEFAULT"]) {
            always = Some(false);
        } else if let Some(option) = set_option(parser)? {
            options.push(option);
        } else {
            break;
        }
    }
    if always.is_none() && options.is_empty() && restart.is_none() {
        return Ok(unread_action(parser));
    }
    let change = IdentityChange::Set { always, options, restart };
    end_of_action(parser, Extra::AlterIdentity { if_exists, table, column, change })
}

fn set_option(parser: &mut Parser) -> Result<Option<SequenceOptions>, ParserError> {
    let next = upper(&parser.peek_nth_token_ref(1).token);
    let known = ["INCREMENT", "START", "MINVALUE", "MAXVALUE", "CACHE", "CYCLE", "NO"].contains(&next.as_str());
    if known && accept(parser, "SET") { sequence_option(parser) } else { Ok(None) }
}

fn unread_action(parser: &Parser) -> Extra {
    let words: Vec<String> = (0..2).map(|i| upper(&parser.peek_nth_token_ref(i).token)).collect();
    Extra::Unsupported(format!("ALTER TABLE … {}", words.join(" ").trim()))
}

fn end_of_action(parser: &Parser, extra: Extra) -> Result<Extra, ParserError> {
    if parser.peek_token_ref().token == Token::Comma {
        return Ok(Extra::Unsupported("a change of an identity column together with other changes".to_owned()));
    }
    Ok(extra)
}

fn create_table_like(parser: &mut Parser) -> Result<Extra, ParserError> {
    let if_not_exists = accept_all(parser, &["IF", "NOT", "EXISTS"]);
    let name = parser.parse_object_name(false)?;
    parser.expect_token(&Token::LParen)?;
    if !accept(parser, "LIKE") {
        return Ok(Extra::Unsupported("LIKE after other columns".to_owned()));
    }
    let source = parser.parse_object_name(false)?;
    let mut including = Vec::new();
    loop {
        let wanted = accept(parser, "INCLUDING");
        if !wanted && !accept(parser, "EXCLUDING") {
            break;
        }
        including.push((wanted, upper(&parser.next_token().token)));
    }
    if parser.peek_token_ref().token == Token::Comma {
        return Ok(Extra::Unsupported("LIKE together with other columns".to_owned()));
    }
    parser.expect_token(&Token::RParen)?;
    Ok(Extra::CreateTableLike { if_not_exists, name, source, including })
}

fn create_role(parser: &mut Parser, user: bool) -> Result<Extra, ParserError> {
    let name = parser.parse_identifier()?;
    accept(parser, "WITH");
    Ok(Extra::CreateRole { name, user, options: role_options(parser)? })
}

fn alter_role(parser: &mut Parser) -> Result<Extra, ParserError> {
    let name = match upper(&parser.peek_token_ref().token).as_str() {
        "ALL" => return Ok(Extra::Unsupported("ALTER ROLE ALL".to_owned())),
        "CURRENT_USER" | "CURRENT_ROLE" | "SESSION_USER" => {
            parser.next_token();
            None
        }
        _ => Some(parser.parse_identifier()?),
    };
    if accept_all(parser, &["RENAME", "TO"]) {
        let to = parser.parse_identifier()?;
        return match name {
            Some(name) => Ok(Extra::RenameRole { name, to }),
            None => Ok(Extra::Unsupported("renaming the current role".to_owned())),
        };
    }
    match upper(&parser.peek_token_ref().token).as_str() {
        "SET" | "RESET" | "IN" => return Ok(Extra::Unsupported("ALTER ROLE … SET".to_owned())),
        _ => {}
    }
    accept(parser, "WITH");
    Ok(Extra::AlterRole { name, options: role_options(parser)? })
}

fn role_options(parser: &mut Parser) -> Result<Vec<RoleOption>, ParserError> {
    let mut options = Vec::new();
    while !at_end(parser) {
        let token = parser.next_token();
        let word = upper(&token.token);
        options.push(match word.as_str() {
            "LOGIN" => RoleOption::Login(true),
            "NOLOGIN" => RoleOption::Login(false),
            "SUPERUSER" => RoleOption::Superuser(true),
            "NOSUPERUSER" => RoleOption::Superuser(false),
            "INHERIT" | "NOCREATEDB" | "NOCREATEROLE" | "NOREPLICATION" | "NOBYPASSRLS" => RoleOption::Stated,
            "ENCRYPTED" => continue,
            "PASSWORD" if parser.parse_keyword(Keyword::NULL) => RoleOption::Password(None),
            "PASSWORD" => RoleOption::Password(Some(parser.parse_literal_string()?)),
            "CREATEDB" | "CREATEROLE" | "NOINHERIT" | "REPLICATION" | "BYPASSRLS" => RoleOption::Unsupported(word),
            "CONNECTION" => {
                expect(parser, "LIMIT")?;
                match whole(&signed(parser)?) {
                    Some(-1) => RoleOption::Stated,
                    _ => RoleOption::Unsupported("CONNECTION LIMIT".to_owned()),
                }
            }
            "VALID" => {
                expect(parser, "UNTIL")?;
                match parser.parse_literal_string()?.as_str() {
                    "infinity" => RoleOption::Stated,
                    _ => RoleOption::Unsupported("VALID UNTIL".to_owned()),
                }
            }
            "IN" | "ROLE" | "ADMIN" | "USER" | "SYSID" => {
                while !at_end(parser) {
                    parser.next_token();
                }
                RoleOption::Unsupported(format!("{word} as a role option"))
            }
            _ => return parser.expected("a role option", token),
        });
    }
    Ok(options)
}

fn vacuum(parser: &mut Parser) -> Result<Extra, ParserError> {
    maintenance_options(parser)?;
    while ["FULL", "FREEZE", "VERBOSE", "ANALYZE", "ANALYSE"].iter().any(|w| accept(parser, w)) {}
    Ok(Extra::Vacuum { tables: maintenance_tables(parser)? })
}

/// `(ANALYZE, VERBOSE true, PARALLEL 2)`
fn maintenance_options(parser: &mut Parser) -> Result<(), ParserError> {
    if !parser.consume_token(&Token::LParen) {
        return Ok(());
    }
    loop {
        let token = parser.next_token();
        match token.token {
            Token::RParen => return Ok(()),
            Token::EOF => return parser.expected(")", token),
            _ => {}
        }
    }
}

fn maintenance_tables(parser: &mut Parser) -> Result<Vec<ObjectName>, ParserError> {
    if at_end(parser) {
        return Ok(Vec::new());
    }
    parser.parse_comma_separated(|parser| {
        let name = parser.parse_object_name(false)?;
        if parser.consume_token(&Token::LParen) {
            parser.parse_comma_separated(|p| p.parse_identifier())?;
            parser.expect_token(&Token::RParen)?;
        }
        Ok(name)
    })
}
