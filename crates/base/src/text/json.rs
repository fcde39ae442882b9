//! JSON: checking `json`, and the canonical form of `jsonb`.
//!
//! One grammar serves both. Checking builds nothing; the canonical form needs a
//! tree, since keys are put in order (by length, then by bytes) and the last of
//! equal keys is kept.

use std::collections::BTreeMap;

use super::{Fault, TextError, number};

/// Deeper nesting is refused before it exhausts the stack.
const MAX_DEPTH: usize = 1_000;

/// Whether `text` is JSON.
pub fn check(text: &str) -> Result<(), TextError> {
    Reader::<()>::read(text)
}

/// jsonb's form: keys in order, one space after colons and commas, numbers
/// without exponent, text without needless escapes.
pub fn canonical(text: &str) -> Result<String, TextError> {
    let mut out = String::with_capacity(text.len());
    show(&Reader::<Node>::read(text)?, &mut out);
    Ok(out)
}

/// What reading makes of the text.
trait Build: Sized {
    fn word(word: &'static str) -> Self;
    fn number(text: &str) -> Result<Self, TextError>;
    /// `escaped`: the text still has its escapes, which are well-formed.
    fn string(text: &str, escaped: bool) -> Result<Self, TextError>;
    fn array(items: Vec<Self>) -> Self;
    fn object(fields: Vec<(Self, Self)>) -> Self;
}

impl Build for () {
    fn word(_: &'static str) {}
    fn number(_: &str) -> Result<(), TextError> {
        Ok(())
    }
    fn string(_: &str, _: bool) -> Result<(), TextError> {
        Ok(())
    }
    fn array(_: Vec<()>) {}
    fn object(_: Vec<((), ())>) {}
}

enum Node {
    /// null, true, false and numbers, as they are shown
    Plain(String),
    Text(String),
    Array(Vec<Node>),
    Object(BTreeMap<(usize, String), Node>),
}

impl Build for Node {
    fn word(word: &'static str) -> Node {
        Node::Plain(word.to_owned())
    }

    fn number(text: &str) -> Result<Node, TextError> {
        let plain = number::plain(text);
        plain.map(Node::Plain).ok_or_else(|| TextError::new(Fault::OutOfRange, "value overflows numeric format"))
    }

    fn string(text: &str, escaped: bool) -> Result<Node, TextError> {
        Ok(Node::Text(if escaped { unescape(text)? } else { text.to_owned() }))
    }

    fn array(items: Vec<Node>) -> Node {
        Node::Array(items)
    }

    fn object(fields: Vec<(Node, Node)>) -> Node {
        let keyed = fields.into_iter().filter_map(|(key, value)| match key {
            Node::Text(key) => Some(((key.len(), key), value)),
            _ => None,
        });
        Node::Object(keyed.collect())
    }
}

fn show(node: &Node, out: &mut String) {
    match node {
        Node::Plain(text) => out.push_str(text),
        Node::Text(text) => show_string(text, out),
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

/// Writes `text` as a JSON string, with the escapes PostgreSQL uses.
pub fn show_string(text: &str, out: &mut String) {
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

fn fault(detail: impl Into<String>) -> TextError {
    TextError::new(Fault::Syntax, "invalid input syntax for type json").detail(detail)
}

/// The text that well-formed escapes stand for.
fn unescape(text: &str) -> Result<String, TextError> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    let mut high = None;
    while let Some(c) = chars.next() {
        let escape = if c == '\\' { chars.next() } else { None };
        if escape == Some('u') {
            let unit = (0..4).filter_map(|_| chars.next()?.to_digit(16)).fold(0, |v, d| v << 4 | d);
            match (high.take(), unit) {
                (Some(_), 0xD800..0xDC00) => {
                    return Err(fault("Unicode high surrogate must not follow a high surrogate."));
                }
                (None, 0xD800..0xDC00) => high = Some(unit),
                (Some(first), 0xDC00..0xE000) => {
                    out.extend(char::from_u32(0x10000 + ((first - 0xD800) << 10) + (unit - 0xDC00)));
                }
                (Some(_), _) | (None, 0xDC00..0xE000) => return Err(lone_surrogate()),
                (None, 0) => {
                    let error = TextError::new(Fault::Untranslatable, "unsupported Unicode escape sequence");
                    return Err(error.detail("\\u0000 cannot be converted to text."));
                }
                (None, unit) => out.extend(char::from_u32(unit)),
            }
            continue;
        }
        if high.is_some() {
            return Err(lone_surrogate());
        }
        out.push(match escape {
            None => c,
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some(c) => c,
        });
    }
    if high.is_some() { Err(lone_surrogate()) } else { Ok(out) }
}

fn lone_surrogate() -> TextError {
    fault("Unicode low surrogate must follow a high surrogate.")
}

/// A token, with its text.
#[derive(Clone, Copy, PartialEq)]
enum Token<'a> {
    End,
    /// One of `{ } [ ] : ,`
    Mark(char),
    String {
        text: &'a str,
        escaped: bool,
    },
    Number(&'a str),
    Word(&'static str),
}

struct Reader<'a, B> {
    rest: &'a str,
    /// The token looked at, its text, and what follows it
    ahead: Token<'a>,
    shown: &'a str,
    built: std::marker::PhantomData<B>,
}

impl<'a, B: Build> Reader<'a, B> {
    fn read(text: &'a str) -> Result<B, TextError> {
        let mut reader = Reader { rest: text, ahead: Token::End, shown: "", built: std::marker::PhantomData };
        reader.advance()?;
        let value = reader.value(0)?;
        if reader.ahead == Token::End { Ok(value) } else { Err(reader.expected("end of input")) }
    }

    fn expected(&self, what: &str) -> TextError {
        fault(match self.ahead {
            Token::End => "The input string ended unexpectedly.".to_owned(),
            _ => format!("Expected {what}, but found \"{}\".", self.shown),
        })
    }

    fn value(&mut self, depth: usize) -> Result<B, TextError> {
        if depth > MAX_DEPTH {
            return Err(TextError::new(Fault::Depth, "json is nested too deeply")
                .detail(format!("json may nest {MAX_DEPTH} levels deep.")));
        }
        let value = match self.ahead {
            Token::Word(word) => B::word(word),
            Token::Number(text) => B::number(text)?,
            Token::String { text, escaped } => B::string(text, escaped)?,
            Token::Mark('[') => return self.array(depth),
            Token::Mark('{') => return self.object(depth),
            _ => return Err(self.expected("JSON value")),
        };
        self.advance()?;
        Ok(value)
    }

    fn takes(&mut self, mark: char) -> Result<bool, TextError> {
        let found = self.ahead == Token::Mark(mark);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    fn array(&mut self, depth: usize) -> Result<B, TextError> {
        self.advance()?;
        let mut items = Vec::new();
        if self.takes(']')? {
            return Ok(B::array(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            if self.takes(']')? {
                return Ok(B::array(items));
            }
            if !self.takes(',')? {
                return Err(self.expected("\",\" or \"]\""));
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<B, TextError> {
        self.advance()?;
        let mut fields = Vec::new();
        if self.takes('}')? {
            return Ok(B::object(fields));
        }
        loop {
            let Token::String { text, escaped } = self.ahead else {
                return Err(self.expected(if fields.is_empty() { "string or \"}\"" } else { "string" }));
            };
            let key = B::string(text, escaped)?;
            self.advance()?;
            if !self.takes(':')? {
                return Err(self.expected("\":\""));
            }
            fields.push((key, self.value(depth + 1)?));
            if self.takes('}')? {
                return Ok(B::object(fields));
            }
            if !self.takes(',')? {
                return Err(self.expected("\",\" or \"}\""));
            }
        }
    }

    /// Looks at the next token.
    fn advance(&mut self) -> Result<(), TextError> {
        let text = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
        let (token, length) = match text.as_bytes().first() {
            None => (Token::End, 0),
            Some(b @ (b'{' | b'}' | b'[' | b']' | b':' | b',')) => (Token::Mark(char::from(*b)), 1),
            Some(b'"') => string(text)?,
            Some(b'-' | b'0'..=b'9') => number_token(text)?,
            Some(_) => {
                let word = &text[..word_length(text)];
                let known = ["true", "false", "null"].into_iter().find(|known| *known == word);
                (Token::Word(known.ok_or_else(|| invalid(word))?), word.len())
            }
        };
        (self.shown, self.rest) = text.split_at(length);
        self.ahead = token;
        Ok(())
    }
}

/// How much of `text` belongs to its first word, which has at least one character.
fn word_length(text: &str) -> usize {
    let inside = |c: char| c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii();
    let end = text.find(|c| !inside(c)).unwrap_or(text.len());
    end.max(text.chars().next().map_or(0, char::len_utf8))
}

fn invalid(token: &str) -> TextError {
    fault(format!("Token \"{token}\" is invalid."))
}

fn string(text: &str) -> Result<(Token<'_>, usize), TextError> {
    let bytes = text.as_bytes();
    let (mut at, mut escaped) = (1, false);
    loop {
        match bytes.get(at) {
            None => return Err(invalid(text)),
            Some(b'"') => return Ok((Token::String { text: &text[1..at], escaped }, at + 1)),
            Some(b'\\') => {
                escaped = true;
                match text[at + 1..].chars().next() {
                    None => return Err(invalid(text)),
                    Some('b' | 'f' | 'n' | 'r' | 't' | '"' | '\\' | '/') => at += 2,
                    Some('u') => {
                        let digits = bytes.get(at + 2..at + 6);
                        if !digits.is_some_and(|d| d.iter().all(u8::is_ascii_hexdigit)) {
                            return Err(fault("\"\\u\" must be followed by four hexadecimal digits."));
                        }
                        at += 6;
                    }
                    Some(c) => return Err(fault(format!("Escape sequence \"\\{c}\" is invalid."))),
                }
            }
            Some(b) if *b < 0x20 => return Err(fault(format!("Character with value 0x{b:02x} must be escaped."))),
            Some(_) => at += 1,
        }
    }
}

fn number_token(text: &str) -> Result<(Token<'_>, usize), TextError> {
    let bytes = text.as_bytes();
    let digits = |from: usize| from + bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let whole = usize::from(bytes.first() == Some(&b'-'));
    let mut end = digits(whole);
    let mut valid = end > whole && (bytes[whole] != b'0' || end == whole + 1);
    if valid && bytes.get(end) == Some(&b'.') {
        let from = end + 1;
        end = digits(from);
        valid = end > from;
    }
    if valid && matches!(bytes.get(end), Some(b'e' | b'E')) {
        let from = end + 1 + usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        end = digits(from.min(bytes.len()));
        valid = end > from;
    }
    // Letters that follow belong to the token, and make it none.
    let after = &text[end..];
    let letters = if after.is_empty() { 0 } else { word_part(after) };
    if !valid || letters > 0 {
        return Err(invalid(&text[..end + letters]));
    }
    Ok((Token::Number(&text[..end]), end))
}

fn word_part(text: &str) -> usize {
    text.find(|c: char| c.is_ascii() && !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len())
}
