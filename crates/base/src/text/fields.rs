//! Cuts the text of a date, time or interval into fields.
//!
//! ```text
//! 2024-01-02 03:04:05.6 PM -08 Europe/Berlin
//! Date       Time       Word Signed Date
//! ```
//! What a field means is settled later, from all of them together; here only its
//! form counts. A name with punctuation in it has the form of a date.

use std::borrow::Cow;

use super::is_space;

/// The form of a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    /// Digits, with at most one point: `1999`, `040506.7`
    Number,
    /// Numbers or words joined by `-`, `/` or `.`, and names of zones
    Date,
    /// Digits with colons: `04:05:06.7`
    Time,
    /// Letters
    Word,
    /// A sign and digits, perhaps with colons, points and hyphens: `-08:00`
    Signed,
    /// A sign and letters: `-infinity`
    SignedWord,
}

/// A field, in lower case.
pub(super) struct Field<'a> {
    pub form: Form,
    pub text: Cow<'a, str>,
}

/// More fields than any date or interval has.
const MOST_FIELDS: usize = 25;

/// The fields of `lower`, whose letters are lower case already. `None` for a text
/// that has a character no field can have.
pub(super) fn fields(lower: &str) -> Option<Vec<Field<'_>>> {
    let mut cutter = Cutter { text: lower, at: 0 };
    let mut found = Vec::with_capacity(4);
    while let Some(b) = cutter.peek() {
        if is_space(b) {
            cutter.at += 1;
            continue;
        }
        let from = cutter.at;
        let form = match b {
            b'0'..=b'9' => cutter.number(),
            b'.' => {
                cutter.at += 1;
                cutter.skip(|b| b.is_ascii_digit());
                Form::Number
            }
            b'a'..=b'z' => cutter.word(),
            b'+' | b'-' => {
                let (form, text) = cutter.signed(b)?;
                found.push(Field { form, text });
                continue;
            }
            b if b.is_ascii_punctuation() => {
                cutter.at += 1;
                continue;
            }
            _ => return None,
        };
        found.push(Field { form, text: Cow::Borrowed(lower.get(from..cutter.at)?) });
        if found.len() > MOST_FIELDS {
            return None;
        }
    }
    Some(found)
}

struct Cutter<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cutter<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip(&mut self, belongs: impl Fn(u8) -> bool) {
        while self.peek().is_some_and(&belongs) {
            self.at += 1;
        }
    }

    fn number(&mut self) -> Form {
        self.skip(|b| b.is_ascii_digit());
        match self.peek() {
            Some(b':') => {
                self.skip(|b| b.is_ascii_digit() || matches!(b, b':' | b'.'));
                Form::Time
            }
            Some(joint @ (b'-' | b'/' | b'.')) => {
                self.at += 1;
                if !self.peek().is_some_and(|b| b.is_ascii_digit()) {
                    self.skip(|b| b.is_ascii_alphanumeric() || b == joint);
                    return Form::Date;
                }
                self.skip(|b| b.is_ascii_digit());
                if self.peek() == Some(joint) {
                    self.skip(|b| b.is_ascii_digit() || b == joint);
                    return Form::Date;
                }
                if joint == b'.' { Form::Number } else { Form::Date }
            }
            _ => Form::Number,
        }
    }

    fn word(&mut self) -> Form {
        let from = self.at;
        self.skip(|b| b.is_ascii_lowercase());
        let word = self.text.get(from..self.at).unwrap_or_default();
        let joined = match self.peek() {
            Some(b'-' | b'/' | b'.') => true,
            // "t040506" is a word and a number, "utc+3" one name.
            Some(b'+' | b'0'..=b'9') => super::words::token(word).is_none(),
            _ => false,
        };
        if !joined {
            return Form::Word;
        }
        self.skip(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'/' | b'_' | b'.' | b':'));
        Form::Date
    }

    /// A sign and what it belongs to; blanks may stand between them.
    fn signed(&mut self, sign: u8) -> Option<(Form, Cow<'a, str>)> {
        self.at += 1;
        self.skip(is_space);
        let from = self.at;
        let form = match self.peek()? {
            b'0'..=b'9' => {
                self.skip(|b| b.is_ascii_digit() || matches!(b, b':' | b'.' | b'-'));
                Form::Signed
            }
            b'a'..=b'z' => {
                self.skip(|b| b.is_ascii_lowercase());
                Form::SignedWord
            }
            _ => return None,
        };
        // Without blanks between, the text is there as it is.
        let joined = self.text.as_bytes().get(from.checked_sub(1)?) == Some(&sign);
        let text = if joined {
            Cow::Borrowed(self.text.get(from - 1..self.at)?)
        } else {
            Cow::Owned(format!("{}{}", char::from(sign), self.text.get(from..self.at)?))
        };
        Some((form, text))
    }
}

/// What could not be read as a whole number.
pub(super) enum NotWhole {
    TooLarge,
}

/// The whole number that `text` begins with (0 if none), and what follows it.
pub(super) fn leading<T: std::str::FromStr + Default>(text: &str) -> Result<(T, &str), NotWhole> {
    let signed = usize::from(text.starts_with(['+', '-']));
    let digits = text.get(signed..).unwrap_or_default().bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 {
        return Ok((T::default(), text));
    }
    let (number, rest) = text.split_at(signed + digits);
    number.parse().map(|v| (v, rest)).map_err(|_| NotWhole::TooLarge)
}

/// A fraction that begins with its point and goes to the end of the text.
pub(super) fn fraction(text: &str) -> Option<f64> {
    let digits = text.strip_prefix('.')?;
    if digits.is_empty() {
        return Some(0.0);
    }
    // An exponent may follow, as in any number with a point.
    let plain = digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'e' | b'+' | b'-'));
    text.parse().ok().filter(|v: &f64| plain && v.is_finite())
}
