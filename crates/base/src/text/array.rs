//! Arrays: `{1,2,NULL,"with, comma"}`, nested ones in nested braces.

use std::fmt::{self, Write};

use super::{Fault, Settings, TextError};
use crate::types::Type;
use crate::value::Value;

const MAX_DEPTH: usize = 6;

pub(super) fn write(elements: &[Value], element: &Type, settings: &Settings, out: &mut impl Write) -> fmt::Result {
    out.write_char('{')?;
    for (at, value) in elements.iter().enumerate() {
        if at > 0 {
            out.write_char(',')?;
        }
        match value {
            Value::Null => out.write_str("NULL")?,
            Value::Array(inner) => {
                // Formatting recursion through a trait object keeps the generic code finite.
                let mut text = String::new();
                write(inner, element, settings, &mut text)?;
                out.write_str(&text)?;
            }
            value => {
                let text = super::to_text(value, element, settings);
                if needs_quotes(&text) { quote(&text, out)? } else { out.write_str(&text)? }
            }
        }
    }
    out.write_char('}')
}

fn needs_quotes(text: &str) -> bool {
    text.is_empty()
        || text.eq_ignore_ascii_case("null")
        || text.chars().any(|c| matches!(c, '{' | '}' | '"' | '\\' | ',') || c.is_whitespace())
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
    let mut reader = Reader { text, rest: text.trim(), element, settings };
    let elements = reader.array(0)?;
    if !reader.rest.trim().is_empty() {
        return Err(reader.malformed("Junk after closing right brace."));
    }
    Ok(elements)
}

struct Reader<'a> {
    text: &'a str,
    rest: &'a str,
    element: &'a Type,
    settings: &'a Settings,
}

impl<'a> Reader<'a> {
    fn malformed(&self, detail: &str) -> TextError {
        let mut error = TextError::new(Fault::Syntax, format!("malformed array literal: \"{}\"", self.text));
        error.detail = Some(detail.to_owned());
        error
    }

    fn array(&mut self, depth: usize) -> Result<Vec<Value>, TextError> {
        if depth >= MAX_DEPTH {
            return Err(self.malformed("The array has too many dimensions."));
        }
        self.rest = self.rest.trim_start();
        self.rest = self
            .rest
            .strip_prefix('{')
            .ok_or_else(|| self.malformed("Array value must start with \"{\" or dimension information."))?;
        let mut elements = Vec::new();
        self.rest = self.rest.trim_start();
        if let Some(rest) = self.rest.strip_prefix('}') {
            self.rest = rest;
            return Ok(elements);
        }
        loop {
            self.rest = self.rest.trim_start();
            elements.push(if self.rest.starts_with('{') { Value::Array(self.array(depth + 1)?) } else { self.item()? });
            self.rest = self.rest.trim_start();
            let mut chars = self.rest.chars();
            let delimiter = chars.next();
            self.rest = chars.as_str();
            match delimiter {
                Some(',') => {}
                Some('}') => return Ok(elements),
                _ => return Err(self.malformed("Unexpected end of input.")),
            }
        }
    }

    fn item(&mut self) -> Result<Value, TextError> {
        let (mut text, mut quoted) = (String::new(), false);
        let mut chars = self.rest.char_indices();
        let mut end = self.rest.len();
        let mut inside = false;
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    quoted = true;
                    inside = !inside;
                }
                '\\' => {
                    let (_, escaped) = chars.next().ok_or_else(|| self.malformed("Unexpected end of input."))?;
                    quoted = true;
                    text.push(escaped);
                }
                ',' | '}' if !inside => {
                    end = at;
                    break;
                }
                '{' if !inside => return Err(self.malformed("Unexpected \"{\" character.")),
                c => text.push(c),
            }
        }
        if inside {
            return Err(self.malformed("Unexpected end of input."));
        }
        self.rest = &self.rest[end..];
        if !quoted {
            let bare = text.trim_end();
            if bare.is_empty() {
                return Err(self.malformed("Unexpected \",\" or \"}\" character."));
            }
            if bare.eq_ignore_ascii_case("null") {
                return Ok(Value::Null);
            }
            return super::parse(bare, self.element, self.settings);
        }
        super::parse(&text, self.element, self.settings)
    }
}
