//! What COPY's options say.

use datafusion::sql::sqlparser::ast::{CopyLegacyCsvOption, CopyLegacyOption, CopyOption, Ident};

use crate::error::{Condition, Error, Result};

/// How the rows are written.
#[derive(Clone, PartialEq, Debug)]
pub struct Options {
    /// CSV, not PostgreSQL's own text format
    pub csv: bool,
    /// What stands between values
    pub delimiter: u8,
    /// What stands for NULL
    pub null: String,
    /// Whether the first line names the columns
    pub header: bool,
    /// CSV: what encloses values
    pub quote: u8,
    /// CSV: what stands before a quote within a value
    pub escape: u8,
    /// CSV out: columns that are always quoted
    pub force_quote: Vec<Ident>,
    /// CSV in: columns whose values are never NULL
    pub force_not_null: Vec<Ident>,
    /// CSV in: columns whose quoted values may be NULL
    pub force_null: Vec<Ident>,
    /// The rows are to be visible at once; only into fresh tables
    pub freeze: bool,
}

#[derive(Default)]
struct Given {
    csv: Option<bool>,
    delimiter: Option<char>,
    null: Option<String>,
    header: Option<bool>,
    quote: Option<char>,
    escape: Option<char>,
    force_quote: Vec<Ident>,
    force_not_null: Vec<Ident>,
    force_null: Vec<Ident>,
    freeze: bool,
}

impl Options {
    /// The options of `COPY … (…)` and of the older spelling; `to` is the
    /// direction.
    pub fn of(options: &[CopyOption], legacy: &[CopyLegacyOption], to: bool) -> Result<Options> {
        let mut given = Given::default();
        for option in options {
            given.add(option)?;
        }
        for option in legacy {
            given.add_legacy(option)?;
        }
        given.complete(to)
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Condition::InvalidParameterValue, message)
}

fn redundant<T>(slot: &mut Option<T>, value: T) -> Result<()> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Error::new(Condition::SyntaxError, "conflicting or redundant options")),
    }
}

impl Given {
    fn add(&mut self, option: &CopyOption) -> Result<()> {
        match option {
            CopyOption::Format(name) => match name.value.to_ascii_lowercase().as_str() {
                "text" => redundant(&mut self.csv, false),
                "csv" => redundant(&mut self.csv, true),
                "binary" => Err(binary()),
                other => Err(invalid(format!("COPY format \"{other}\" not recognized"))),
            },
            CopyOption::Freeze(on) => {
                self.freeze = *on;
                Ok(())
            }
            CopyOption::Delimiter(c) => redundant(&mut self.delimiter, *c),
            CopyOption::Null(text) => redundant(&mut self.null, text.clone()),
            CopyOption::Header(on) => redundant(&mut self.header, *on),
            CopyOption::Quote(c) => redundant(&mut self.quote, *c),
            CopyOption::Escape(c) => redundant(&mut self.escape, *c),
            CopyOption::ForceQuote(columns) => {
                self.force_quote.extend(columns.iter().cloned());
                Ok(())
            }
            CopyOption::ForceNotNull(columns) => {
                self.force_not_null.extend(columns.iter().cloned());
                Ok(())
            }
            CopyOption::ForceNull(columns) => {
                self.force_null.extend(columns.iter().cloned());
                Ok(())
            }
            CopyOption::Encoding(name) => encoding(name),
        }
    }

    fn add_legacy(&mut self, option: &CopyLegacyOption) -> Result<()> {
        match option {
            CopyLegacyOption::Binary => Err(binary()),
            CopyLegacyOption::Delimiter(c) => redundant(&mut self.delimiter, *c),
            CopyLegacyOption::Null(text) => redundant(&mut self.null, text.clone()),
            CopyLegacyOption::Header => redundant(&mut self.header, true),
            CopyLegacyOption::Csv(options) => {
                redundant(&mut self.csv, true)?;
                for option in options {
                    match option {
                        CopyLegacyCsvOption::Header => redundant(&mut self.header, true)?,
                        CopyLegacyCsvOption::Quote(c) => redundant(&mut self.quote, *c)?,
                        CopyLegacyCsvOption::Escape(c) => redundant(&mut self.escape, *c)?,
                        CopyLegacyCsvOption::ForceQuote(columns) => self.force_quote.extend(columns.iter().cloned()),
                        CopyLegacyCsvOption::ForceNotNull(columns) => {
                            self.force_not_null.extend(columns.iter().cloned());
                        }
                    }
                }
                Ok(())
            }
            other => Err(Error::new(Condition::SyntaxError, format!("option \"{other}\" not recognized"))),
        }
    }

    fn complete(self, to: bool) -> Result<Options> {
        let csv = self.csv.unwrap_or(false);
        let options = Options {
            csv,
            delimiter: byte("delimiter", self.delimiter.unwrap_or(if csv { ',' } else { '\t' }))?,
            null: self.null.unwrap_or_else(|| if csv { String::new() } else { "\\N".to_owned() }),
            header: self.header.unwrap_or(false),
            quote: byte("quote", self.quote.unwrap_or('"'))?,
            escape: byte("escape", self.escape.or(self.quote).unwrap_or('"'))?,
            force_quote: self.force_quote,
            force_not_null: self.force_not_null,
            force_null: self.force_null,
            freeze: self.freeze,
        };
        options.check(to, self.quote.is_some(), self.escape.is_some())?;
        Ok(options)
    }
}

impl Options {
    /// PostgreSQL's `ProcessCopyOptions`.
    fn check(&self, to: bool, has_quote: bool, has_escape: bool) -> Result<()> {
        let unsupported = |message: &str| Err(Error::new(Condition::FeatureNotSupported, message));
        if matches!(self.delimiter, b'\n' | b'\r') {
            return Err(invalid("COPY delimiter cannot be newline or carriage return"));
        }
        if self.null.contains(['\n', '\r']) {
            return Err(invalid("COPY null representation cannot use newline or carriage return"));
        }
        if !self.csv {
            if b"\\.abcdefghijklmnopqrstuvwxyz0123456789".contains(&self.delimiter) {
                return Err(invalid(format!("COPY delimiter cannot be \"{}\"", char::from(self.delimiter))));
            }
            if has_quote {
                return unsupported("COPY quote available only in CSV mode");
            }
            if has_escape {
                return unsupported("COPY escape available only in CSV mode");
            }
            if !self.force_quote.is_empty() || !self.force_not_null.is_empty() || !self.force_null.is_empty() {
                return unsupported("COPY force options available only in CSV mode");
            }
        }
        if self.csv && self.delimiter == self.quote {
            return Err(invalid("COPY delimiter and quote must be different"));
        }
        if self.null.as_bytes().contains(&self.delimiter) {
            return Err(invalid("COPY delimiter must not appear in the NULL specification"));
        }
        if self.csv && self.null.as_bytes().contains(&self.quote) {
            return Err(invalid("CSV quote character must not appear in the NULL specification"));
        }
        if to && !(self.force_not_null.is_empty() && self.force_null.is_empty()) {
            return unsupported("COPY force null only available using COPY FROM");
        }
        if !to && !self.force_quote.is_empty() {
            return unsupported("COPY force quote only available using COPY TO");
        }
        Ok(())
    }
}

fn binary() -> Error {
    Error::unsupported("COPY in binary format").hint("Use text or CSV.")
}

fn byte(what: &str, c: char) -> Result<u8> {
    u8::try_from(c)
        .ok()
        .filter(u8::is_ascii)
        .ok_or_else(|| invalid(format!("COPY {what} must be a single one-byte character")))
}

fn encoding(name: &str) -> Result<()> {
    let plain: String = name.to_ascii_lowercase().chars().filter(|c| c.is_ascii_alphanumeric()).collect();
    match plain.as_str() {
        "utf8" | "unicode" | "sqlascii" => Ok(()),
        _ => Err(Error::unsupported(format!("encoding \"{name}\"")).hint("Use UTF8.")),
    }
}
