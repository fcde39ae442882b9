//! Arrays: `{1,2,NULL,"with, comma"}`, several dimensions in nested braces.
//!
//! A text is first cut into braces, commas and items, and its form is checked
//! before any item is read. Lower bounds other than 1 (`[0:1]={a,b}`) are
//! refused: an array is a plain list here.

use std::borrow::Cow;
use std::fmt::{self, Write};

use super::{Fault, Settings, TextError, is_space, trim};
use crate::types::Type;
use crate::value::Value;

/// PostgreSQL's limit.
const MAX_DIMENSIONS: usize = 6;

pub(super) fn write<W: Write>(elements: &[Value], element: &Type, settings: &Settings, out: &mut W) -> fmt::Result {
    let mut text = String::new();
    write_level(elements, element, settings, &mut text, out)
}

fn write_level<W: Write>(
    elements: &[Value],
    element: &Type,
    settings: &Settings,
    text: &mut String,
    out: &mut W,
) -> fmt::Result {
    out.write_char('{')?;
    for (at, value) in elements.iter().enumerate() {
        if at > 0 {
            out.write_char(',')?;
        }
        match value {
            Value::Null => out.write_str("NULL")?,
            Value::Array(inner) => write_level(inner, element, settings, text, out)?,
            value => {
                text.clear();
                super::write(value, element, settings, text)?;
                if needs_quotes(text) { quote(text, out)? } else { out.write_str(text)? }
            }
        }
    }
    out.write_char('}')
}

fn needs_quotes(text: &str) -> bool {
    text.is_empty()
        || text.eq_ignore_ascii_case("null")
        || text.bytes().any(|b| matches!(b, b'{' | b'}' | b'"' | b'\\' | b',') || is_space(b))
}

fn quote(text: &str, out: &mut impl Write) -> fmt::Result {
    out.write_char('"')?;
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.write_char('\\')?;
        }
        out.write_char(c)?;
    }
    out.write_char('"')
}

pub(super) fn parse(text: &str, element: &Type, settings: &Settings) -> Result<Vec<Value>, TextError> {
    let (bounds, contents) = dimensions(text)?;
    let tokens = Reader { text, rest: contents }.tokens()?;
    let mut tokens = tokens.into_iter();
    // The first token is the outermost brace.
    tokens.next();
    let elements = build(&mut tokens, element, settings)?;
    let mut shape = Vec::new();
    if !measure(&elements, 0, &mut shape) {
        return Err(malformed(text, "Multidimensional arrays must have sub-arrays with matching dimensions."));
    }
    if shape == [0] {
        shape.clear();
    }
    if bounds.as_ref().is_some_and(|b| *b != shape) {
        return Err(malformed(text, "Specified array dimensions do not match array contents."));
    }
    Ok(elements)
}

fn malformed(text: &str, detail: impl Into<String>) -> TextError {
    TextError::new(Fault::Syntax, format!("malformed array literal: \"{text}\"")).detail(detail)
}

/// The lengths that `[1:2][1:3]=` before the braces states, and what follows it.
fn dimensions(text: &str) -> Result<(Option<Vec<usize>>, &str), TextError> {
    let mut rest = trim(text);
    let mut lengths = Vec::new();
    let mut shifted = false;
    while let Some(inside) = rest.strip_prefix('[') {
        let (bounds, after) =
            inside.split_once(']').ok_or_else(|| malformed(text, "Missing \"]\" after array dimensions."))?;
        let bound = |digits: &str| {
            let missing = || malformed(text, "Missing array dimension value.");
            if digits.is_empty() { Err(missing()) } else { digits.parse::<i32>().map_err(|_| missing()) }
        };
        let (lower, upper) = match bounds.split_once(':') {
            Some((lower, upper)) => (bound(lower)?, bound(upper)?),
            None => (1, bound(bounds)?),
        };
        let length = i64::from(upper) - i64::from(lower) + 1;
        let length = usize::try_from(length)
            .map_err(|_| TextError::new(Fault::Subscript, "upper bound cannot be less than lower bound"))?;
        shifted |= lower != 1;
        lengths.push(length);
        if lengths.len() > MAX_DIMENSIONS {
            return Err(too_deep(lengths.len()));
        }
        rest = trim(after);
    }
    if lengths.is_empty() {
        return if rest.starts_with('{') {
            Ok((None, rest))
        } else {
            Err(malformed(text, "Array value must start with \"{\" or dimension information."))
        };
    }
    let contents = rest.strip_prefix('=').ok_or_else(|| malformed(text, "Missing \"=\" after array dimensions."))?;
    let contents = trim(contents);
    if !contents.starts_with('{') {
        return Err(malformed(text, "Array contents must start with \"{\"."));
    }
    if shifted {
        return Err(TextError::new(Fault::Unsupported, "array lower bounds other than 1 are not supported"));
    }
    Ok((Some(lengths), contents))
}

fn too_deep(depth: usize) -> TextError {
    let message = format!("number of array dimensions ({depth}) exceeds the maximum allowed ({MAX_DIMENSIONS})");
    TextError::new(Fault::Limit, message)
}

#[derive(PartialEq)]
enum Token<'a> {
    Open,
    Close,
    Comma,
    Null,
    Item(Cow<'a, str>),
}

struct Reader<'a> {
    text: &'a str,
    rest: &'a str,
}

/// What a level of braces has held so far.
#[derive(Clone, Copy, PartialEq)]
enum Holds {
    Nothing,
    Items,
    Levels,
}

impl<'a> Reader<'a> {
    fn unexpected(&self, c: char) -> TextError {
        malformed(self.text, format!("Unexpected \"{c}\" character."))
    }

    fn stray_item(&self) -> TextError {
        malformed(self.text, "Unexpected array element.")
    }

    /// All tokens, in an order that makes an array.
    fn tokens(mut self) -> Result<Vec<Token<'a>>, TextError> {
        let mut found = Vec::new();
        let mut levels: Vec<Holds> = Vec::new();
        loop {
            self.rest = self.rest.trim_start_matches(|c: char| c.is_ascii() && is_space(c as u8));
            let Some(first) = self.rest.chars().next() else {
                return Err(malformed(self.text, "Unexpected end of input."));
            };
            let fresh = matches!(found.last(), None | Some(Token::Open | Token::Comma));
            match first {
                '{' => {
                    let outer = levels.last_mut();
                    if !fresh || outer.as_ref().is_some_and(|holds| **holds == Holds::Items) {
                        return Err(self.unexpected('{'));
                    }
                    if let Some(outer) = outer {
                        *outer = Holds::Levels;
                    }
                    levels.push(Holds::Nothing);
                    if levels.len() > MAX_DIMENSIONS {
                        return Err(too_deep(levels.len()));
                    }
                    found.push(Token::Open);
                }
                '}' => {
                    // Only the whole array may be empty.
                    let empty = found == [Token::Open];
                    if fresh && !empty {
                        return Err(self.unexpected('}'));
                    }
                    levels.pop();
                    found.push(Token::Close);
                }
                ',' if fresh => return Err(self.unexpected(',')),
                ',' => found.push(Token::Comma),
                _ => {
                    let holds = levels.last_mut();
                    if !fresh || holds.as_ref().is_some_and(|holds| **holds == Holds::Levels) {
                        return Err(self.stray_item());
                    }
                    if let Some(holds) = holds {
                        *holds = Holds::Items;
                    }
                    found.push(self.item()?);
                    continue;
                }
            }
            self.rest = &self.rest[1..];
            if levels.is_empty() {
                return if trim(self.rest).is_empty() {
                    Ok(found)
                } else {
                    Err(malformed(self.text, "Junk after closing right brace."))
                };
            }
        }
    }

    fn item(&mut self) -> Result<Token<'a>, TextError> {
        if let Some(quoted) = self.rest.strip_prefix('"') {
            return self.quoted(quoted);
        }
        let mut text = String::new();
        // Where the last character stands that is not a blank to be cut off.
        let (mut solid, mut escaped, mut plain) = (0, false, true);
        let mut end = None;
        for (at, c) in self.rest.char_indices() {
            if std::mem::take(&mut escaped) {
                text.push(c);
                solid = text.len();
                continue;
            }
            match c {
                '\\' => (escaped, plain) = (true, false),
                '"' => return Err(self.stray_item()),
                '{' => return Err(self.unexpected('{')),
                ',' | '}' => {
                    end = Some(at);
                    break;
                }
                c => {
                    text.push(c);
                    if !(c.is_ascii() && is_space(c as u8)) {
                        solid = text.len();
                    }
                }
            }
        }
        let end = end.ok_or_else(|| malformed(self.text, "Unexpected end of input."))?;
        self.rest = &self.rest[end..];
        text.truncate(solid);
        // A backslash makes the word NULL a text like any other.
        Ok(if plain && text.eq_ignore_ascii_case("null") { Token::Null } else { Token::Item(text.into()) })
    }

    fn quoted(&mut self, quoted: &'a str) -> Result<Token<'a>, TextError> {
        let unfinished = || malformed(self.text, "Unexpected end of input.");
        let end = quoted.find(['"', '\\']).ok_or_else(unfinished)?;
        if quoted.as_bytes().get(end) == Some(&b'"') {
            self.rest = &quoted[end + 1..];
            return Ok(Token::Item(quoted[..end].into()));
        }
        let mut text = String::new();
        let mut chars = quoted.chars();
        loop {
            match chars.next().ok_or_else(unfinished)? {
                '"' => break,
                '\\' => text.push(chars.next().ok_or_else(unfinished)?),
                c => text.push(c),
            }
        }
        self.rest = chars.as_str();
        Ok(Token::Item(text.into()))
    }
}

/// The elements up to the brace that closes this level.
fn build(
    tokens: &mut std::vec::IntoIter<Token<'_>>,
    element: &Type,
    settings: &Settings,
) -> Result<Vec<Value>, TextError> {
    let mut elements = Vec::new();
    while let Some(token) = tokens.next() {
        match token {
            Token::Open => elements.push(Value::Array(build(tokens, element, settings)?)),
            Token::Close => break,
            Token::Comma => {}
            Token::Null => elements.push(Value::Null),
            Token::Item(text) => elements.push(super::parse(&text, element, settings)?),
        }
    }
    Ok(elements)
}

/// Whether all sub-arrays of a level have the same shape, which is written to
/// `shape`.
fn measure(elements: &[Value], depth: usize, shape: &mut Vec<usize>) -> bool {
    match shape.get(depth) {
        None => shape.push(elements.len()),
        Some(length) if *length != elements.len() => return false,
        Some(_) => {}
    }
    let levels = elements.iter().filter(|e| matches!(e, Value::Array(_))).count();
    if levels == 0 {
        return shape.len() == depth + 1;
    }
    levels == elements.len()
        && elements.iter().all(|e| matches!(e, Value::Array(inner) if measure(inner, depth + 1, shape)))
}
