//! JSON: checking `json`, and the canonical form of `jsonb`.

use std::collections::BTreeMap;

use super::{Fault, TextError};
use crate::decimal::Decimal;

/// JSON nests at most this deep.
const MAX_DEPTH: usize = 128;

enum Node {
    /// null, true, false, numbers and strings, as they are written
    Atom(String),
    Array(Vec<Node>),
    /// Keys (as written, in quotes) in jsonb's order: by length, then by bytes
    Object(BTreeMap<(usize, String), Node>),
}

/// Whether `text` is JSON.
pub fn check(text: &str) -> Result<(), TextError> {
    read(text).map(|_| ())
}

/// jsonb's form: keys in order, the last of equal keys kept, one space after
/// colons and commas, numbers without exponent.
pub fn canonical(text: &str) -> Result<String, TextError> {
    let mut out = String::with_capacity(text.len());
    show(&read(text)?, &mut out);
    Ok(out)
}

fn show(node: &Node, out: &mut String) {
    match node {
        Node::Atom(text) => out.push_str(text),
        Node::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push_str(", ");
                }
                show(item, out);
            }
            out.push(']');
        }
        Node::Object(fields) => {
            out.push('{');
            for (at, ((_, key), value)) in fields.iter().enumerate() {
                if at > 0 {
                    out.push_str(", ");
                }
                show_string(key, out);
                out.push_str(": ");
                show(value, out);
            }
            out.push('}');
        }
    }
}

fn show_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
}

fn read(text: &str) -> Result<Node, TextError> {
    let mut reader = Reader { rest: text };
    let node = reader.value(0)?;
    reader.space();
    if reader.rest.is_empty() { Ok(node) } else { Err(reader.fault("Expected end of input")) }
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn fault(&self, expected: &str) -> TextError {
        let mut error = TextError::new(Fault::Syntax, "invalid input syntax for type json");
        let found: String = self.rest.chars().take(20).collect();
        error.detail = Some(if found.is_empty() {
            "The input string ended unexpectedly.".to_owned()
        } else {
            format!("{expected}, but found \"{found}\".")
        });
        error
    }

    fn space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    fn take(&mut self, word: &str) -> bool {
        match self.rest.strip_prefix(word) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self, depth: usize) -> Result<Node, TextError> {
        if depth > MAX_DEPTH {
            return Err(TextError::new(Fault::Parameter, "json is nested too deeply"));
        }
        self.space();
        for word in ["null", "true", "false"] {
            if self.take(word) {
                return Ok(Node::Atom(word.to_owned()));
            }
        }
        match self.rest.as_bytes().first() {
            Some(b'"') => {
                let mut text = String::new();
                show_string(&self.string()?, &mut text);
                Ok(Node::Atom(text))
            }
            Some(b'[') => self.array(depth),
            Some(b'{') => self.object(depth),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(self.fault("Expected JSON value")),
        }
    }

    fn array(&mut self, depth: usize) -> Result<Node, TextError> {
        self.rest = &self.rest[1..];
        let mut items = Vec::new();
        self.space();
        if self.take("]") {
            return Ok(Node::Array(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.space();
            if self.take("]") {
                return Ok(Node::Array(items));
            }
            if !self.take(",") {
                return Err(self.fault("Expected \",\" or \"]\""));
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Node, TextError> {
        self.rest = &self.rest[1..];
        let mut fields = BTreeMap::new();
        self.space();
        if self.take("}") {
            return Ok(Node::Object(fields));
        }
        loop {
            self.space();
            if !self.rest.starts_with('"') {
                return Err(self.fault("Expected string or \"}\""));
            }
            let key = self.string()?;
            self.space();
            if !self.take(":") {
                return Err(self.fault("Expected \":\""));
            }
            let value = self.value(depth + 1)?;
            fields.insert((key.len(), key), value);
            self.space();
            if self.take("}") {
                return Ok(Node::Object(fields));
            }
            if !self.take(",") {
                return Err(self.fault("Expected \",\" or \"}\""));
            }
        }
    }

    fn string(&mut self) -> Result<String, TextError> {
        let mut text = String::new();
        let mut chars = self.rest[1..].chars();
        loop {
            match chars.next() {
                None => {
                    self.rest = "";
                    return Err(self.fault("Expected string"));
                }
                Some('"') => {
                    self.rest = chars.as_str();
                    return Ok(text);
                }
                Some('\\') => {
                    let escaped = match chars.next() {
                        Some('b') => '\u{8}',
                        Some('f') => '\u{c}',
                        Some('n') => '\n',
                        Some('r') => '\r',
                        Some('t') => '\t',
                        Some(c @ ('"' | '\\' | '/')) => c,
                        Some('u') => unicode(&mut chars).ok_or_else(|| self.fault("Expected a Unicode escape"))?,
                        _ => return Err(self.fault("Expected an escape sequence")),
                    };
                    text.push(escaped);
                }
                Some(c) if (c as u32) < 0x20 => return Err(self.fault("Character must be escaped")),
                Some(c) => text.push(c),
            }
        }
    }

    fn number(&mut self) -> Result<Node, TextError> {
        let bytes = self.rest.as_bytes();
        let digits = |mut at: usize| {
            let from = at;
            while bytes.get(at).is_some_and(u8::is_ascii_digit) {
                at += 1;
            }
            (at, at > from)
        };
        let mut at = usize::from(bytes.first() == Some(&b'-'));
        let whole_from = at;
        let (end, any) = digits(at);
        let leading_zero = bytes.get(whole_from) == Some(&b'0') && end > whole_from + 1;
        if !any || leading_zero {
            return Err(self.fault("Expected JSON value"));
        }
        at = end;
        if bytes.get(at) == Some(&b'.') {
            let (end, any) = digits(at + 1);
            if !any {
                return Err(self.fault("Expected JSON value"));
            }
            at = end;
        }
        if matches!(bytes.get(at), Some(b'e' | b'E')) {
            let signed = at + 1 + usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
            let (end, any) = digits(signed);
            if !any {
                return Err(self.fault("Expected JSON value"));
            }
            at = end;
        }
        let (number, rest) = self.rest.split_at(at);
        self.rest = rest;
        // Beyond 38 digits a number stays as it is written.
        let text = number.parse::<Decimal>().map_or_else(|_| number.to_owned(), |d| d.to_string());
        Ok(Node::Atom(text))
    }
}

/// The character of `\uXXXX`, or of a surrogate pair. PostgreSQL has no U+0000.
fn unicode(chars: &mut std::str::Chars<'_>) -> Option<char> {
    let mut unit = || {
        let mut value = 0;
        for _ in 0..4 {
            value = value * 16 + chars.next()?.to_digit(16)?;
        }
        Some(value)
    };
    let first = unit()?;
    if !(0xD800..0xDC00).contains(&first) {
        return char::from_u32(first).filter(|c| *c != '\0');
    }
    if chars.next() != Some('\\') || chars.next() != Some('u') {
        return None;
    }
    let mut second = 0;
    for _ in 0..4 {
        second = second * 16 + chars.next()?.to_digit(16)?;
    }
    (0xDC00..0xE000)
        .contains(&second)
        .then(|| char::from_u32(0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00)))?
}
