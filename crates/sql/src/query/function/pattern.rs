//! LIKE, SIMILAR TO and regular expressions.
//!
//! PostgreSQL's regular expressions are translated to the `regex` crate's, which
//! takes time linear in the text. What has no translation (back references,
//! looking around) is refused by name.

use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray, BooleanBuilder};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::expr::Like;
use parking_lot::Mutex;
use polity_base::{Type, Value};
use regex::{Captures, Regex, RegexBuilder};

use super::kernel::Kernel;
use super::list::{Function, Ty, bind, strict};
use crate::error::{Condition, Error, Result};
use crate::query::bind::Binder;
use crate::query::bind::bound::Bound;
use crate::query::types::{self, Builder};

use Ty::{Bool, Int4, Text, TextArray};

/// The functions.
pub static FUNCTIONS: &[Function] = &[
    strict("regexp_replace", &[Text, Text, Text], Text, |a, o| {
        o.text(&replace(a.text(0)?, a.text(1)?, a.text(2)?, "")?)
    }),
    strict("regexp_replace", &[Text, Text, Text, Text], Text, |a, o| {
        o.text(&replace(a.text(0)?, a.text(1)?, a.text(2)?, a.text(3)?)?)
    }),
    strict("regexp_match", &[Text, Text], TextArray, |a, o| first_match(a.text(0)?, a.text(1)?, "", o)),
    strict("regexp_match", &[Text, Text, Text], TextArray, |a, o| first_match(a.text(0)?, a.text(1)?, a.text(2)?, o)),
    strict("regexp_split_to_array", &[Text, Text], TextArray, |a, o| o.value(&split(a.text(0)?, a.text(1)?, "")?)),
    strict("regexp_split_to_array", &[Text, Text, Text], TextArray, |a, o| {
        o.value(&split(a.text(0)?, a.text(1)?, a.text(2)?)?)
    }),
    strict("regexp_count", &[Text, Text], Int4, |a, o| {
        let count = cached(a.text(1)?, "")?.find_iter(a.text(0)?).count();
        o.value(&Value::Int4(i32::try_from(count).unwrap_or(i32::MAX)))
    }),
    strict("regexp_like", &[Text, Text], Bool, |a, o| {
        o.value(&Value::Bool(cached(a.text(1)?, "")?.is_match(a.text(0)?)))
    }),
    strict("regexp_like", &[Text, Text, Text], Bool, |a, o| {
        o.value(&Value::Bool(cached(a.text(1)?, a.text(2)?)?.is_match(a.text(0)?)))
    }),
    strict("regexp_substr", &[Text, Text], Text, |a, o| match cached(a.text(1)?, "")?.find(a.text(0)?) {
        Some(found) => o.text(found.as_str()),
        None => {
            o.null();
            Ok(())
        }
    }),
    strict("regexp_instr", &[Text, Text], Int4, |a, o| {
        let text = a.text(0)?;
        let at = cached(a.text(1)?, "")?.find(text).map_or(0, |m| text[..m.start()].chars().count() + 1);
        o.value(&Value::Int4(i32::try_from(at).unwrap_or(i32::MAX)))
    }),
    strict("substring", &[Text, Text], Text, |a, o| substring(a.text(0)?, a.text(1)?, o)),
    bind("similar_to_escape", &[Text], Text, |_, args| {
        let Some(arg) = args.into_iter().next() else { return Err(Error::internal("a function without arguments")) };
        let expr = Kernel::strict(
            "similar_to_escape",
            DataType::Utf8View,
            |a, o| o.text(&similar_regex(a.text(0)?, Some('\\'))?),
            vec![arg.expr],
        );
        Ok(Bound::new(expr, Type::Text))
    }),
];

/// A compiled regular expression; the last few are remembered.
fn cached(pattern: &str, flags: &str) -> Result<Regex> {
    type Entry = ((String, String), Regex);
    static RECENT: Mutex<Vec<Entry>> = Mutex::new(Vec::new());
    const MOST: usize = 32;
    let mut recent = RECENT.lock();
    if let Some((_, regex)) = recent.iter().find(|((p, f), _)| p == pattern && f == flags) {
        return Ok(regex.clone());
    }
    let regex = compile(pattern, flags)?;
    if recent.len() >= MOST {
        recent.remove(0);
    }
    recent.push(((pattern.to_owned(), flags.to_owned()), regex.clone()));
    Ok(regex)
}

/// The regular expression with PostgreSQL's flags (`g` is the callers').
pub fn compile(pattern: &str, flags: &str) -> Result<Regex> {
    let mut builder_flags = (false, true, false, false, false);
    let mut pattern = pattern;
    // `(?i)` and `***=` at the beginning.
    let mut literal = false;
    if let Some(rest) = pattern.strip_prefix("***=") {
        (pattern, literal) = (rest, true);
    } else if let Some(rest) = pattern.strip_prefix("***:") {
        pattern = rest;
    }
    let embedded = match pattern.strip_prefix("(?").and_then(|rest| rest.split_once(')')) {
        Some((letters, rest)) if !letters.is_empty() && letters.chars().all(|c| c.is_ascii_lowercase()) => {
            pattern = rest;
            letters
        }
        _ => "",
    };
    for flag in flags.chars().chain(embedded.chars()) {
        match flag {
            'i' => builder_flags.0 = true,
            'c' => builder_flags.0 = false,
            's' => (builder_flags.1, builder_flags.2) = (true, false),
            'n' | 'm' => (builder_flags.1, builder_flags.2) = (false, true),
            'p' => builder_flags.1 = false,
            'w' => builder_flags.2 = true,
            'x' => builder_flags.3 = true,
            'q' => literal = true,
            'g' | 'e' | 'b' | 't' => {}
            other => {
                return Err(Error::new(
                    Condition::InvalidParameterValue,
                    format!("invalid regular expression option: \"{other}\""),
                ));
            }
        }
    }
    let translated = if literal { regex::escape(pattern) } else { translate(pattern)? };
    let (insensitive, dot_all, lines, extended, _) = builder_flags;
    RegexBuilder::new(&translated)
        .case_insensitive(insensitive)
        .dot_matches_new_line(dot_all)
        .multi_line(lines)
        .ignore_whitespace(extended)
        .size_limit(10 << 20)
        .build()
        .map_err(|e| invalid(&e))
}

fn invalid(e: &regex::Error) -> Error {
    let text = e.to_string();
    let reason = text.lines().last().unwrap_or_default().trim().trim_start_matches("error: ").to_owned();
    Error::new(Condition::InvalidRegularExpression, format!("invalid regular expression: {reason}"))
}

/// PostgreSQL's escapes as the regex crate has them.
fn translate(pattern: &str) -> Result<String> {
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut chars = pattern.chars().peekable();
    let mut bracket = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('m') if !bracket => out.push_str(r"\b{start}"),
                Some('M') if !bracket => out.push_str(r"\b{end}"),
                Some('y') if !bracket => out.push_str(r"\b"),
                Some('Y') if !bracket => out.push_str(r"\B"),
                Some('Z') if !bracket => out.push_str(r"\z"),
                Some('A') if !bracket => out.push_str(r"\A"),
                Some('e') => out.push_str(r"\x1B"),
                Some('b') => out.push_str(r"\x08"),
                Some('B') => out.push_str(r"\\"),
                Some(d @ '1'..='9') if !bracket => {
                    return Err(Error::unsupported(format!("the back reference \\{d} in a regular expression")));
                }
                Some(next) if next.is_ascii_alphanumeric() => out.extend(['\\', next]),
                Some(next) if next.is_ascii() => out.extend(['\\', next]),
                Some(next) => out.push(next),
                None => {
                    return Err(Error::new(
                        Condition::InvalidRegularExpression,
                        "invalid regular expression: invalid escape \\ sequence",
                    ));
                }
            },
            '[' if !bracket => {
                bracket = true;
                out.push('[');
                if chars.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
                // ']' first stands for itself.
                if chars.next_if_eq(&']').is_some() {
                    out.push_str("\\]");
                }
            }
            '[' if matches!(chars.peek(), Some(':')) => {
                out.push('[');
                for c in chars.by_ref() {
                    out.push(c);
                    if c == ']' {
                        break;
                    }
                }
            }
            '[' => out.push_str("\\["),
            ']' if bracket => {
                bracket = false;
                out.push(']');
            }
            // The regex crate gives these a meaning in brackets.
            '&' | '~' if bracket => out.extend(['\\', c]),
            '(' if !bracket && chars.peek() == Some(&'?') => {
                chars.next();
                match chars.peek() {
                    Some(':') => out.push_str("(?"),
                    _ => return Err(Error::unsupported("looking ahead or behind in a regular expression")),
                }
            }
            '{' if !bracket && !chars.peek().is_some_and(char::is_ascii_digit) => out.push_str("\\{"),
            _ => out.push(c),
        }
    }
    Ok(out)
}

/// `text ~ pattern`.
pub fn matches(text: Bound, pattern: Bound, insensitive: bool) -> Result<Bound> {
    let flags = if insensitive { "i" } else { "" };
    let expr = match constant_text(&pattern) {
        Some(Some(constant)) => {
            let regex = compile(&constant, flags)?;
            Kernel::batch(
                format!("~{flags} '{constant}'"),
                DataType::Boolean,
                move |args, count| {
                    let Some(array) = args.first() else { return Err(Error::internal("nothing to match")) };
                    let texts = array.as_string_view();
                    let mut out = BooleanBuilder::with_capacity(count);
                    for i in 0..count {
                        if texts.is_null(i) {
                            out.append_null();
                        } else {
                            out.append_value(regex.is_match(texts.value(i)));
                        }
                    }
                    Ok(Arc::new(out.finish()))
                },
                vec![text.expr],
            )
        }
        _ => Kernel::strict(
            format!("~{flags}"),
            DataType::Boolean,
            move |a, o| {
                o.value(&Value::Bool(cached(a.text(1)?, if insensitive { "i" } else { "" })?.is_match(a.text(0)?)))
            },
            vec![text.expr, pattern.expr],
        ),
    };
    Ok(Bound::new(expr, Type::Bool))
}

fn constant_text(bound: &Bound) -> Option<Option<String>> {
    match &bound.expr {
        Expr::Literal(ScalarValue::Utf8View(text), _) => Some(text.clone()),
        _ => None,
    }
}

/// `text LIKE pattern`.
pub fn like(text: Bound, pattern: Bound, escape: Option<char>, insensitive: bool, negated: bool) -> Result<Bound> {
    let escape = escape.unwrap_or('\\');
    let pattern = match (constant_text(&pattern), escape) {
        (_, '\\') => pattern.expr,
        (Some(Some(constant)), escape) => {
            let scalar = ScalarValue::Utf8View(Some(with_backslash(&constant, escape)));
            Expr::Literal(scalar, None)
        }
        (_, escape) => Kernel::strict(
            format!("like_escape '{escape}'"),
            DataType::Utf8View,
            move |a, o| o.text(&with_backslash(a.text(0)?, escape)),
            vec![pattern.expr],
        ),
    };
    if let Expr::Literal(ScalarValue::Utf8View(Some(constant)), _) = &pattern
        && ends_in_escape(constant)
    {
        return Err(Error::new(Condition::InvalidEscapeSequence, "LIKE pattern must not end with escape character"));
    }
    let like = Like::new(negated, Box::new(text.expr), Box::new(pattern), None, insensitive);
    Ok(Bound::new(Expr::Like(like), Type::Bool))
}

fn ends_in_escape(pattern: &str) -> bool {
    let trailing = pattern.bytes().rev().take_while(|b| *b == b'\\').count();
    trailing % 2 == 1
}

/// A LIKE pattern with another escape character, with the backslash for it.
fn with_backslash(pattern: &str, escape: char) -> String {
    let mut out = String::with_capacity(pattern.len() + 4);
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if c == escape && escape != '\0' {
            out.push('\\');
            out.extend(chars.next());
        } else if c == '\\' {
            out.push_str("\\\\");
        } else {
            out.push(c);
        }
    }
    out
}

/// `text SIMILAR TO pattern`.
pub fn similar(binder: &Binder<'_>, l: Bound, r: Bound, escape: Option<char>, negated: bool) -> Result<Bound> {
    let (l, r) = (binder.implicit(l, &Type::Text)?, binder.implicit(r, &Type::Text)?);
    let escape = escape.unwrap_or('\\');
    let escape = (escape != '\0').then_some(escape);
    let pattern = match constant_text(&r) {
        Some(Some(constant)) => {
            let scalar = ScalarValue::Utf8View(Some(similar_regex(&constant, escape)?));
            Bound::new(Expr::Literal(scalar, None), Type::Text)
        }
        _ => {
            let expr = Kernel::strict(
                format!("similar {escape:?}"),
                DataType::Utf8View,
                move |a, o| o.text(&similar_regex(a.text(0)?, escape)?),
                vec![r.expr],
            );
            Bound::new(expr, Type::Text)
        }
    };
    let found = matches(l, pattern, false)?;
    Ok(if negated { Bound::new(Expr::Not(Box::new(found.expr)), Type::Bool) } else { found })
}

/// A SIMILAR TO pattern as a regular expression (`similar_escape`).
fn similar_regex(pattern: &str, escape: Option<char>) -> Result<String> {
    let mut out = String::from("^(?:");
    let mut chars = pattern.chars();
    let mut bracket = false;
    while let Some(c) = chars.next() {
        if Some(c) == escape {
            match chars.next() {
                Some('"') => {
                    return Err(Error::unsupported("the SQL form of substring"));
                }
                Some(next) => out.extend(['\\', next]),
                None => {
                    return Err(Error::new(Condition::InvalidEscapeSequence, "invalid escape string"));
                }
            }
            continue;
        }
        match c {
            ']' if bracket => {
                bracket = false;
                out.push(c);
            }
            _ if bracket => {
                if c == '\\' {
                    out.push('\\');
                }
                out.push(c);
            }
            '[' => {
                bracket = true;
                out.push(c);
            }
            '%' => out.push_str(".*"),
            '_' => out.push('.'),
            '(' => out.push_str("(?:"),
            '\\' | '.' | '^' | '$' => out.extend(['\\', c]),
            _ => out.push(c),
        }
    }
    out.push_str(")$");
    Ok(out)
}

fn replace(text: &str, pattern: &str, with: &str, flags: &str) -> Result<String> {
    let regex = cached(pattern, flags)?;
    let by = |captures: &Captures<'_>| {
        let mut out = String::new();
        let mut chars = with.chars();
        while let Some(c) = chars.next() {
            if c != '\\' {
                out.push(c);
                continue;
            }
            match chars.next() {
                Some('&') => out.push_str(captures.get(0).map_or("", |m| m.as_str())),
                Some(d @ '1'..='9') => {
                    let group = d as usize - '0' as usize;
                    out.push_str(captures.get(group).map_or("", |m| m.as_str()));
                }
                Some(other) => {
                    if other != '\\' {
                        out.push('\\');
                    }
                    out.push(other);
                }
                None => out.push('\\'),
            }
        }
        out
    };
    Ok(match flags.contains('g') {
        true => regex.replace_all(text, by).into_owned(),
        false => regex.replace(text, by).into_owned(),
    })
}

/// The groups of a match, or all of it when there is no group.
fn groups(captures: &Captures<'_>) -> Value {
    let text = |m: Option<regex::Match<'_>>| m.map_or(Value::Null, |m| Value::Text(m.as_str().to_owned()));
    if captures.len() == 1 {
        return Value::Array(vec![text(captures.get(0))]);
    }
    Value::Array(captures.iter().skip(1).map(text).collect())
}

fn first_match(text: &str, pattern: &str, flags: &str, out: &mut Builder) -> Result<()> {
    if flags.contains('g') {
        return Err(Error::new(
            Condition::InvalidParameterValue,
            "regexp_match() does not support the \"global\" option",
        )
        .hint("Use the regexp_matches function instead."));
    }
    match cached(pattern, flags)?.captures(text) {
        Some(captures) => out.value(&groups(&captures)),
        None => {
            out.null();
            Ok(())
        }
    }
}

/// The matches of `regexp_matches`: all with the flag `g`, or the first.
pub fn all_matches(text: &str, pattern: &str, flags: &str) -> Result<Vec<Value>> {
    let regex = cached(pattern, flags)?;
    let most = if flags.contains('g') { usize::MAX } else { 1 };
    Ok(regex.captures_iter(text).take(most).map(|c| groups(&c)).collect())
}

/// The pieces of a text between matches.
pub fn split(text: &str, pattern: &str, flags: &str) -> Result<Value> {
    let regex = cached(pattern, flags)?;
    let mut parts = Vec::new();
    let mut from = 0;
    for found in regex.find_iter(text) {
        // An empty match splits between characters, not before the first.
        if found.end() == 0 || (found.is_empty() && found.start() >= text.len()) {
            continue;
        }
        parts.push(Value::Text(text[from..found.start()].to_owned()));
        from = found.end();
    }
    parts.push(Value::Text(text[from..].to_owned()));
    Ok(Value::Array(parts))
}

fn substring(text: &str, pattern: &str, out: &mut Builder) -> Result<()> {
    let captures = cached(pattern, "")?.captures(text).map(|c| {
        let group = if c.len() > 1 { c.get(1) } else { c.get(0) };
        group.map(|m| m.as_str())
    });
    match captures.flatten() {
        Some(found) => out.text(found),
        None => {
            out.null();
            Ok(())
        }
    }
}

/// For callers that need the type of matches.
pub fn match_type() -> DataType {
    types::list_of(DataType::Utf8View)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_postgresql_means() {
        assert!(compile(r"\mfoo\M", "").unwrap().is_match("a foo b"));
        assert!(!compile(r"\mfoo\M", "").unwrap().is_match("afoo"));
        assert!(compile("A.C", "i").unwrap().is_match("a\nc"));
        assert!(compile("[]a]", "").unwrap().is_match("]"));
        assert!(compile("^[[:alpha:]]+$", "").unwrap().is_match("abc"));
        assert_eq!(compile("(a", "").unwrap_err().condition(), Condition::InvalidRegularExpression);
        assert_eq!(compile(r"(a)\1", "").unwrap_err().condition(), Condition::FeatureNotSupported);
    }

    #[test]
    fn replacement_and_splitting() {
        assert_eq!(replace("foobarbaz", "b..", "X", "").unwrap(), "fooXbaz");
        assert_eq!(replace("foobarbaz", "b(..)", r"X\1Y", "g").unwrap(), "fooXarYXazY");
        let parts = |v: Value| match v {
            Value::Array(v) => v.into_iter().map(|v| v.as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>(),
            _ => vec![],
        };
        assert_eq!(parts(split("a  b c", r"\s+", "").unwrap()), ["a", "b", "c"]);
        assert_eq!(parts(split("abc", "", "").unwrap()), ["a", "b", "c"]);
        assert_eq!(similar_regex("%(b|d)%", Some('\\')).unwrap(), "^(?:.*(?:b|d).*)$");
        assert_eq!(with_backslash("50#%", '#'), "50\\%");
    }
}
