//! Names: folding, quoting, schemas, and the names PostgreSQL makes up itself.
//!
//! An unquoted name folds to lower case (ASCII only, as PostgreSQL does in
//! UTF-8), a quoted one keeps its case. Names longer than 63 bytes are cut.

use datafusion::sql::sqlparser::ast::{Ident, ObjectName, ObjectNamePart};

use crate::error::{Condition, Error, Result};

/// Bytes a name can have (PostgreSQL's `NAMEDATALEN` - 1).
pub const MAX_BYTES: usize = 63;

/// The schema that holds everything users make.
pub const PUBLIC: &str = "public";

/// The name an identifier means.
pub fn fold(ident: &Ident) -> String {
    let name = if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_ascii_lowercase() };
    cut(name, MAX_BYTES)
}

fn cut(mut name: String, bytes: usize) -> String {
    if name.len() > bytes {
        let mut end = bytes;
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        name.truncate(end);
    }
    name
}

/// Schema (if one is named) and name of an object.
pub fn parts(name: &ObjectName) -> Result<(Option<String>, String)> {
    let mut idents = Vec::with_capacity(2);
    for part in &name.0 {
        match part {
            ObjectNamePart::Identifier(ident) => idents.push(fold(ident)),
            ObjectNamePart::Function(f) => {
                return Err(Error::new(Condition::SyntaxError, format!("syntax error at or near \"{f}\"")));
            }
        }
    }
    match (idents.pop(), idents.pop(), idents.is_empty()) {
        (Some(name), schema, true) => Ok((schema, name)),
        _ => Err(Error::unsupported(format!("the cross-database reference {name}"))
            .hint("Name tables as table or public.table.")),
    }
}

/// The name of a relation of schema `public`; any other schema is an error.
pub fn object(name: &ObjectName) -> Result<String> {
    let (schema, name) = parts(name)?;
    match schema.as_deref() {
        None | Some(PUBLIC) => Ok(name),
        Some("pg_catalog" | "information_schema" | "polity") => Err(Error::new(
            Condition::InsufficientPrivilege,
            format!("permission denied: \"{name}\" is a system catalog"),
        )),
        Some(other) => Err(no_schema(other)),
    }
}

/// The relation of schema `public` that a text names, as in `'public.t'::regclass`:
/// unquoted parts fold, quoted ones do not.
pub fn of_text(text: &str) -> Result<String> {
    let (schema, name) = parts_of_text(text)?;
    match schema.as_deref() {
        None | Some(PUBLIC) => Ok(name),
        Some(other) => Err(no_schema(other)),
    }
}

/// Schema (if one is named) and name of what a text names.
pub fn parts_of_text(text: &str) -> Result<(Option<String>, String)> {
    let invalid = || Error::new(Condition::InvalidName, "invalid name syntax");
    let mut parts = Vec::with_capacity(2);
    let mut rest = text.trim();
    loop {
        let (part, after) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let mut end = quoted.find('"').ok_or_else(invalid)?;
                // A doubled quote is a quote within the name.
                while quoted[end + 1..].starts_with('"') {
                    end += 2 + quoted[end + 2..].find('"').ok_or_else(invalid)?;
                }
                (quoted[..end].replace("\"\"", "\""), quoted[end + 1..].trim_start())
            }
            None => {
                let end = rest.find(['.', ' ', '"']).unwrap_or(rest.len());
                (rest[..end].to_ascii_lowercase(), rest[end..].trim_start())
            }
        };
        if part.is_empty() {
            return Err(invalid());
        }
        parts.push(cut(part, MAX_BYTES));
        match after.strip_prefix('.') {
            Some(more) => rest = more.trim_start(),
            None if after.is_empty() => break,
            None => return Err(invalid()),
        }
    }
    match (parts.pop(), parts.pop(), parts.is_empty()) {
        (Some(name), schema, true) => Ok((schema, name)),
        _ => Err(Error::unsupported(format!("the cross-database reference {text}"))),
    }
}

/// The error for a schema that is not there.
pub fn no_schema(schema: &str) -> Error {
    Error::new(Condition::InvalidSchemaName, format!("schema \"{schema}\" does not exist"))
        .hint("All tables live in schema public.")
}

/// The name as it must be written in SQL: quoted when it would not survive
/// bare (PostgreSQL's `quote_ident`).
pub fn quote(name: &str) -> String {
    let mut bytes = name.bytes();
    let plain_start = bytes.next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
    let plain = plain_start && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if plain && KEYWORDS.binary_search(&name).is_err() {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

/// A text as a SQL string literal (PostgreSQL's `quote_literal`).
pub fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if text.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// The name PostgreSQL makes for something of `table` (and `column`):
/// `table_column_label`, the longer part cut first when it exceeds 63 bytes
/// (`makeObjectName` in PostgreSQL's indexcmds.c).
pub fn generated(table: &str, column: Option<&str>, label: &str) -> String {
    let overhead = label.len() + 1 + column.map_or(0, |_| 1);
    let room = MAX_BYTES.saturating_sub(overhead);
    let (mut a, mut b) = (table.len(), column.map_or(0, str::len));
    while a + b > room {
        if a > b { a -= 1 } else { b -= 1 }
    }
    let mut name = cut(table.to_owned(), a);
    if let Some(column) = column {
        name.push('_');
        name.push_str(&cut(column.to_owned(), b));
    }
    name.push('_');
    name.push_str(label);
    name
}

/// [`generated`], with the first number appended that makes `taken` false
/// (`ChooseRelationName`).
pub fn choose(table: &str, column: Option<&str>, label: &str, taken: impl Fn(&str) -> bool) -> String {
    let name = generated(table, column, label);
    if !taken(&name) {
        return name;
    }
    let mut n = 1u32;
    loop {
        let name = generated(table, column, &format!("{label}{n}"));
        if !taken(&name) {
            return name;
        }
        n += 1;
    }
}

/// Words that a bare identifier cannot be, or not everywhere: PostgreSQL 15's
/// reserved, type-function and column-name keywords (appendix C), sorted.
const KEYWORDS: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "authorization",
    "between",
    "bigint",
    "binary",
    "bit",
    "boolean",
    "both",
    "case",
    "cast",
    "char",
    "character",
    "check",
    "coalesce",
    "collate",
    "collation",
    "column",
    "concurrently",
    "constraint",
    "create",
    "cross",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "dec",
    "decimal",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "exists",
    "extract",
    "false",
    "fetch",
    "float",
    "for",
    "foreign",
    "freeze",
    "from",
    "full",
    "grant",
    "greatest",
    "group",
    "grouping",
    "having",
    "ilike",
    "in",
    "initially",
    "inner",
    "inout",
    "int",
    "integer",
    "intersect",
    "interval",
    "into",
    "is",
    "isnull",
    "join",
    "lateral",
    "leading",
    "least",
    "left",
    "like",
    "limit",
    "localtime",
    "localtimestamp",
    "national",
    "natural",
    "nchar",
    "none",
    "normalize",
    "not",
    "notnull",
    "null",
    "nullif",
    "numeric",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "out",
    "outer",
    "overlaps",
    "overlay",
    "placing",
    "position",
    "precision",
    "primary",
    "real",
    "references",
    "returning",
    "right",
    "row",
    "select",
    "session_user",
    "setof",
    "similar",
    "smallint",
    "some",
    "substring",
    "symmetric",
    "table",
    "tablesample",
    "then",
    "time",
    "timestamp",
    "to",
    "trailing",
    "treat",
    "trim",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "values",
    "varchar",
    "variadic",
    "verbose",
    "when",
    "where",
    "window",
    "with",
    "xmlattributes",
    "xmlconcat",
    "xmlelement",
    "xmlexists",
    "xmlforest",
    "xmlnamespaces",
    "xmlparse",
    "xmlpi",
    "xmlroot",
    "xmlserialize",
    "xmltable",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_names_fold_and_quoted_ones_do_not() {
        assert_eq!(fold(&Ident::new("Users")), "users");
        assert_eq!(fold(&Ident::with_quote('"', "Users")), "Users");
        assert_eq!(fold(&Ident::new("x".repeat(70))).len(), 63);
    }

    #[test]
    fn only_public_holds_tables() {
        let name = |parts: &[&str]| ObjectName::from(parts.iter().map(|p| Ident::new(*p)).collect::<Vec<_>>());
        assert_eq!(object(&name(&["PUBLIC", "t"])).unwrap(), "t");
        assert_eq!(object(&name(&["s", "t"])).unwrap_err().condition(), Condition::InvalidSchemaName);
        assert_eq!(object(&name(&["d", "s", "t"])).unwrap_err().condition(), Condition::FeatureNotSupported);
    }

    #[test]
    fn texts_name_relations_as_identifiers_do() {
        assert_eq!(of_text(" Public.T ").unwrap(), "t");
        assert_eq!(of_text("\"A\"\"b.c\"").unwrap(), "A\"b.c");
        assert_eq!(parts_of_text("pg_catalog.\"X\"").unwrap(), (Some("pg_catalog".into()), "X".into()));
        for wrong in ["", "a.", "\"a", "a b", "\"\""] {
            assert!(of_text(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn keywords_are_sorted_so_that_they_are_found() {
        assert!(KEYWORDS.is_sorted());
        assert_eq!(quote("user"), "\"user\"");
        assert_eq!(quote("users"), "users");
        assert_eq!(quote("Ab\"c"), "\"Ab\"\"c\"");
    }

    #[test]
    fn made_up_names_are_postgresqls() {
        assert_eq!(choose("t", Some("a"), "key", |_| false), "t_a_key");
        assert_eq!(choose("t", Some("a"), "key", |n| n == "t_a_key"), "t_a_key1");
        let long = generated(&"t".repeat(60), Some(&"c".repeat(60)), "fkey");
        assert_eq!(long.len(), 63);
        assert_eq!(long, format!("{}_{}_fkey", "t".repeat(29), "c".repeat(28)));
    }
}
