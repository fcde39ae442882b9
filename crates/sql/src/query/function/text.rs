//! Functions on text and bytes.

use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray, StringViewBuilder};
use datafusion::arrow::datatypes::DataType;
use polity_base::{Type, Value};

use super::kernel::{Args, Kernel};
use super::list::{Function, Ty, bind, lenient, strict, variadic};
use crate::error::{Condition, Error, Result};
use crate::expr::Local;
use crate::query::bind::Binder;
use crate::query::bind::bound::Bound;
use crate::query::types::Builder;

use Ty::{Any, Bool, Bytea, Int4, Int8, Text, TextArray};

/// Longer texts are not made (PostgreSQL's `MaxAllocSize`).
const MOST_BYTES: usize = 1 << 30;

/// The functions.
pub static FUNCTIONS: &[Function] = &[
    strict("lower", &[Text], Text, |a, o| o.text(&a.text(0)?.to_lowercase())),
    strict("upper", &[Text], Text, |a, o| o.text(&a.text(0)?.to_uppercase())),
    strict("initcap", &[Text], Text, |a, o| o.text(&initcap(a.text(0)?))),
    strict("length", &[Text], Int4, |a, o| int(o, characters(a.text(0)?))),
    strict("char_length", &[Text], Int4, |a, o| int(o, characters(a.text(0)?))),
    strict("character_length", &[Text], Int4, |a, o| int(o, characters(a.text(0)?))),
    strict("octet_length", &[Text], Int4, |a, o| int(o, a.text(0)?.len())),
    strict("octet_length", &[Bytea], Int4, |a, o| int(o, a.bytes(0)?.len())),
    strict("bit_length", &[Text], Int4, |a, o| int(o, a.text(0)?.len() * 8)),
    strict("bit_length", &[Bytea], Int4, |a, o| int(o, a.bytes(0)?.len() * 8)),
    strict("length", &[Bytea], Int4, |a, o| int(o, a.bytes(0)?.len())),
    strict("btrim", &[Text], Text, |a, o| o.text(a.text(0)?.trim_matches(' '))),
    strict("ltrim", &[Text], Text, |a, o| o.text(a.text(0)?.trim_start_matches(' '))),
    strict("rtrim", &[Text], Text, |a, o| o.text(a.text(0)?.trim_end_matches(' '))),
    strict("btrim", &[Text, Text], Text, |a, o| {
        let set = a.text(1)?;
        o.text(a.text(0)?.trim_matches(|c| set.contains(c)))
    }),
    strict("ltrim", &[Text, Text], Text, |a, o| {
        let set = a.text(1)?;
        o.text(a.text(0)?.trim_start_matches(|c| set.contains(c)))
    }),
    strict("rtrim", &[Text, Text], Text, |a, o| {
        let set = a.text(1)?;
        o.text(a.text(0)?.trim_end_matches(|c| set.contains(c)))
    }),
    strict("substring", &[Text, Int4], Text, |a, o| o.text(substring(a.text(0)?, a.int(1)?, None)?)),
    strict("substring", &[Text, Int4, Int4], Text, |a, o| o.text(substring(a.text(0)?, a.int(1)?, Some(a.int(2)?))?)),
    strict("substr", &[Text, Int4], Text, |a, o| o.text(substring(a.text(0)?, a.int(1)?, None)?)),
    strict("substr", &[Text, Int4, Int4], Text, |a, o| o.text(substring(a.text(0)?, a.int(1)?, Some(a.int(2)?))?)),
    strict("substring", &[Bytea, Int4], Bytea, |a, o| bytes(o, subbytes(a.bytes(0)?, a.int(1)?, None)?)),
    strict("substring", &[Bytea, Int4, Int4], Bytea, |a, o| {
        bytes(o, subbytes(a.bytes(0)?, a.int(1)?, Some(a.int(2)?))?)
    }),
    strict("position", &[Text, Text], Int4, |a, o| int(o, position(a.text(0)?, a.text(1)?))),
    strict("strpos", &[Text, Text], Int4, |a, o| int(o, position(a.text(0)?, a.text(1)?))),
    strict("replace", &[Text, Text, Text], Text, |a, o| {
        let (text, from) = (a.text(0)?, a.text(1)?);
        if from.is_empty() { o.text(text) } else { o.text(&text.replace(from, a.text(2)?)) }
    }),
    strict("overlay", &[Text, Text, Int4], Text, |a, o| {
        let new = a.text(1)?;
        o.text(&overlay(a.text(0)?, new, a.int(2)?, characters(new) as i64)?)
    }),
    strict("overlay", &[Text, Text, Int4, Int4], Text, |a, o| {
        o.text(&overlay(a.text(0)?, a.text(1)?, a.int(2)?, a.int(3)?)?)
    }),
    strict("split_part", &[Text, Text, Int4], Text, |a, o| o.text(split_part(a.text(0)?, a.text(1)?, a.int(2)?)?)),
    strict("lpad", &[Text, Int4], Text, |a, o| o.text(&pad(a.text(0)?, a.int(1)?, " ", true)?)),
    strict("lpad", &[Text, Int4, Text], Text, |a, o| o.text(&pad(a.text(0)?, a.int(1)?, a.text(2)?, true)?)),
    strict("rpad", &[Text, Int4], Text, |a, o| o.text(&pad(a.text(0)?, a.int(1)?, " ", false)?)),
    strict("rpad", &[Text, Int4, Text], Text, |a, o| o.text(&pad(a.text(0)?, a.int(1)?, a.text(2)?, false)?)),
    strict("left", &[Text, Int4], Text, |a, o| o.text(left(a.text(0)?, a.int(1)?))),
    strict("right", &[Text, Int4], Text, |a, o| o.text(right(a.text(0)?, a.int(1)?))),
    strict("repeat", &[Text, Int4], Text, |a, o| {
        let (text, n) = (a.text(0)?, usize::try_from(a.int(1)?).unwrap_or(0));
        fits(text.len().saturating_mul(n))?;
        o.text(&text.repeat(n))
    }),
    strict("reverse", &[Text], Text, |a, o| o.text(&a.text(0)?.chars().rev().collect::<String>())),
    strict("translate", &[Text, Text, Text], Text, |a, o| o.text(&translate(a.text(0)?, a.text(1)?, a.text(2)?))),
    strict("starts_with", &[Text, Text], Bool, |a, o| o.value(&Value::Bool(a.text(0)?.starts_with(a.text(1)?)))),
    strict("ascii", &[Text], Int4, |a, o| int(o, a.text(0)?.chars().next().map_or(0, |c| c as usize))),
    strict("chr", &[Int4], Text, |a, o| o.text(&chr(a.int(0)?)?)),
    strict("to_hex", &[Int4], Text, |a, o| o.text(&format!("{:x}", a.int(0)? as u32))),
    strict("to_hex", &[Int8], Text, |a, o| o.text(&format!("{:x}", a.int(0)?))),
    strict("quote_ident", &[Text], Text, |a, o| o.text(&crate::catalog::name::quote(a.text(0)?))),
    strict("quote_literal", &[Text], Text, |a, o| o.text(&quote_literal(a.text(0)?))),
    lenient("quote_nullable", &[Text], Text, |a, o| {
        if a.is_null(0) { o.text("NULL") } else { o.text(&quote_literal(a.text(0)?)) }
    }),
    strict("md5", &[Text], Text, |a, o| o.text(&super::digest::md5(a.text(0)?.as_bytes()))),
    strict("md5", &[Bytea], Text, |a, o| o.text(&super::digest::md5(a.bytes(0)?))),
    strict("encode", &[Bytea, Text], Text, |a, o| o.text(&encode(a.bytes(0)?, a.text(1)?)?)),
    strict("decode", &[Text, Text], Bytea, |a, o| bytes(o, &decode(a.text(0)?, a.text(1)?)?)),
    strict("convert_from", &[Bytea, Text], Text, |a, o| {
        utf8_only(a.text(1)?)?;
        o.text(std::str::from_utf8(a.bytes(0)?).map_err(|_| {
            Error::new(Condition::CharacterNotInRepertoire, "invalid byte sequence for encoding \"UTF8\"")
        })?)
    }),
    strict("convert_to", &[Text, Text], Bytea, |a, o| {
        utf8_only(a.text(1)?)?;
        bytes(o, a.text(0)?.as_bytes())
    }),
    strict("string_to_array", &[Text, Text], TextArray, |a, o| {
        o.value(&Value::Array(split(a.text(0)?, a.text(1)?).into_iter().map(Value::Text).collect()))
    }),
    lenient("string_to_array", &[Text, Text, Text], TextArray, |a, o| {
        if a.is_null(0) {
            o.null();
            return Ok(());
        }
        let text = a.text(0)?;
        let parts = match a.is_null(1) {
            true => text.chars().map(String::from).collect(),
            false => split(text, a.text(1)?),
        };
        let null = if a.is_null(2) { None } else { Some(a.text(2)?) };
        let value = |p: String| if Some(p.as_str()) == null { Value::Null } else { Value::Text(p) };
        o.value(&Value::Array(parts.into_iter().map(value).collect()))
    }),
    variadic(bind("concat", &[Any], Text, |b, args| concat_all(b, args, false))),
    variadic(bind("concat_ws", &[Text, Any], Text, |b, args| concat_all(b, args, true))),
    variadic(bind("format", &[Text, Any], Text, format)),
    strict("unistr", &[Text], Text, |a, o| o.text(a.text(0)?)),
    strict("normalize", &[Text], Text, |a, o| o.text(a.text(0)?)),
];

fn int(out: &mut Builder, v: usize) -> Result<()> {
    out.value(&Value::Int4(i32::try_from(v).unwrap_or(i32::MAX)))
}

fn bytes(out: &mut Builder, v: &[u8]) -> Result<()> {
    match out {
        Builder::Bytes(b) => {
            b.append_value(v);
            Ok(())
        }
        _ => Err(Error::internal("bytes where there are none")),
    }
}

fn characters(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.chars().count() }
}

fn fits(bytes: usize) -> Result<()> {
    if bytes >= MOST_BYTES {
        return Err(Error::new(Condition::ProgramLimitExceeded, "requested length too large"));
    }
    Ok(())
}

fn utf8_only(encoding: &str) -> Result<()> {
    let name: String = encoding.chars().filter(char::is_ascii_alphanumeric).collect();
    if name.eq_ignore_ascii_case("utf8") || name.eq_ignore_ascii_case("unicode") {
        return Ok(());
    }
    Err(Error::unsupported(format!("encoding \"{encoding}\"")).hint("Text is UTF8."))
}

fn initcap(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut within = false;
    for c in text.chars() {
        if within {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        within = c.is_alphanumeric();
    }
    out
}

/// The byte where character `n` begins, or the end.
fn byte_of(text: &str, n: usize) -> usize {
    if text.is_ascii() {
        return n.min(text.len());
    }
    text.char_indices().nth(n).map_or(text.len(), |(i, _)| i)
}

/// From character `start` (counted from 1), `count` of them or all.
pub fn substring(text: &str, start: i64, count: Option<i64>) -> Result<&str> {
    let (from, to) = bounds(start, count)?;
    let from = byte_of(text, from);
    let rest = text.get(from..).unwrap_or_default();
    match to {
        None => Ok(rest),
        Some(count) => Ok(rest.get(..byte_of(rest, count)).unwrap_or_default()),
    }
}

fn subbytes(bytes: &[u8], start: i64, count: Option<i64>) -> Result<&[u8]> {
    let (from, to) = bounds(start, count)?;
    let rest = bytes.get(from.min(bytes.len())..).unwrap_or_default();
    Ok(match to {
        None => rest,
        Some(count) => rest.get(..count.min(rest.len())).unwrap_or_default(),
    })
}

/// How many to skip and how many to keep.
fn bounds(start: i64, count: Option<i64>) -> Result<(usize, Option<usize>)> {
    let begin = start.max(1);
    let skip = usize::try_from(begin - 1).unwrap_or(usize::MAX);
    let Some(count) = count else { return Ok((skip, None)) };
    if count < 0 {
        return Err(Error::new(Condition::SubstringError, "negative substring length not allowed"));
    }
    let end = start.saturating_add(count);
    Ok((skip, Some(usize::try_from(end - begin).unwrap_or(0))))
}

fn position(text: &str, what: &str) -> usize {
    text.find(what).map_or(0, |at| characters(text.get(..at).unwrap_or_default()) + 1)
}

fn overlay(text: &str, new: &str, start: i64, count: i64) -> Result<String> {
    if start <= 0 {
        return Err(Error::new(Condition::SubstringError, "negative substring length not allowed"));
    }
    let head = substring(text, 1, Some(start - 1))?;
    let tail = substring(text, start.saturating_add(count), None)?;
    Ok(format!("{head}{new}{tail}"))
}

fn split_part<'a>(text: &'a str, by: &str, n: i64) -> Result<&'a str> {
    if n == 0 {
        return Err(Error::new(Condition::InvalidParameterValue, "field position must not be zero"));
    }
    if by.is_empty() {
        return Ok(if n == 1 || n == -1 { text } else { "" });
    }
    let index = usize::try_from(n.unsigned_abs() - 1).unwrap_or(usize::MAX);
    let part = if n > 0 { text.split(by).nth(index) } else { text.rsplit(by).nth(index) };
    Ok(part.unwrap_or_default())
}

fn pad(text: &str, length: i64, with: &str, before: bool) -> Result<String> {
    let length = usize::try_from(length).unwrap_or(0);
    let count = characters(text);
    if count >= length {
        return Ok(text.get(..byte_of(text, length)).unwrap_or_default().to_owned());
    }
    if with.is_empty() {
        return Ok(text.to_owned());
    }
    fits(length.saturating_mul(4))?;
    let padding: String = with.chars().cycle().take(length - count).collect();
    Ok(if before { padding + text } else { text.to_owned() + &padding })
}

fn left(text: &str, n: i64) -> &str {
    let keep = if n >= 0 {
        usize::try_from(n).unwrap_or(usize::MAX)
    } else {
        characters(text).saturating_sub(usize::try_from(n.unsigned_abs()).unwrap_or(usize::MAX))
    };
    text.get(..byte_of(text, keep)).unwrap_or_default()
}

fn right(text: &str, n: i64) -> &str {
    let count = characters(text);
    let skip = if n >= 0 {
        count.saturating_sub(usize::try_from(n).unwrap_or(usize::MAX))
    } else {
        usize::try_from(n.unsigned_abs()).unwrap_or(usize::MAX)
    };
    text.get(byte_of(text, skip)..).unwrap_or_default()
}

fn translate(text: &str, from: &str, to: &str) -> String {
    let to: Vec<char> = to.chars().collect();
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match from.chars().position(|f| f == c) {
            None => out.push(c),
            Some(i) => out.extend(to.get(i)),
        }
    }
    out
}

fn chr(v: i64) -> Result<String> {
    if v == 0 {
        return Err(Error::new(Condition::ProgramLimitExceeded, "null character not permitted"));
    }
    u32::try_from(v).ok().and_then(char::from_u32).map(String::from).ok_or_else(|| {
        Error::new(
            Condition::ProgramLimitExceeded,
            "requested character too large for encoding: ".to_owned() + &v.to_string(),
        )
    })
}

fn quote_literal(text: &str) -> String {
    crate::catalog::name::literal(text)
}

fn split(text: &str, by: &str) -> Vec<String> {
    if text.is_empty() {
        return Vec::new();
    }
    if by.is_empty() {
        return vec![text.to_owned()];
    }
    text.split(by).map(str::to_owned).collect()
}

fn encode(bytes: &[u8], format: &str) -> Result<String> {
    use std::fmt::Write;
    match format.to_ascii_lowercase().as_str() {
        "hex" => Ok(bytes.iter().fold(String::new(), |mut s, b| {
            let _ = write!(s, "{b:02x}");
            s
        })),
        "base64" => Ok(super::digest::base64(bytes)),
        "escape" => {
            let mut out = String::new();
            for b in bytes {
                match b {
                    b'\\' => out.push_str("\\\\"),
                    0 | 0x80.. => {
                        let _ = write!(out, "\\{b:03o}");
                    }
                    _ => out.push(char::from(*b)),
                }
            }
            Ok(out)
        }
        _ => Err(Error::new(Condition::InvalidParameterValue, format!("unrecognized encoding: \"{format}\""))),
    }
}

fn decode(text: &str, format: &str) -> Result<Vec<u8>> {
    match format.to_ascii_lowercase().as_str() {
        "hex" => {
            let value = crate::expr::cast::parse(&format!("\\x{text}"), &Type::Bytea, Local::UTC)?;
            match value {
                Value::Bytea(b) => Ok(b.to_vec()),
                _ => Err(Error::internal("bytea is bytes")),
            }
        }
        "base64" => super::digest::from_base64(text),
        "escape" => match crate::expr::cast::parse(text, &Type::Bytea, Local::UTC)? {
            Value::Bytea(b) => Ok(b.to_vec()),
            _ => Err(Error::internal("bytea is bytes")),
        },
        _ => Err(Error::new(Condition::InvalidParameterValue, format!("unrecognized encoding: \"{format}\""))),
    }
}

/// `a || b` of texts.
pub fn concat(l: Bound, r: Bound) -> Result<Bound> {
    let expr = Kernel::batch(
        "textcat",
        DataType::Utf8View,
        |args, count| {
            let [a, b] = args else { return Err(Error::internal("two texts are two")) };
            let (a, b) = (a.as_string_view(), b.as_string_view());
            let mut out = StringViewBuilder::with_capacity(count);
            let mut buffer = String::new();
            for i in 0..count {
                if a.is_null(i) || b.is_null(i) {
                    out.append_null();
                    continue;
                }
                buffer.clear();
                buffer.push_str(a.value(i));
                buffer.push_str(b.value(i));
                out.append_value(&buffer);
            }
            Ok(Arc::new(out.finish()))
        },
        vec![l.expr, r.expr],
    );
    Ok(Bound::new(expr, Type::Text))
}

/// `a || b` of bytes.
pub fn concat_bytes(l: Bound, r: Bound) -> Result<Bound> {
    let expr = Kernel::strict(
        "byteacat",
        DataType::Binary,
        |a, o| bytes(o, &[a.bytes(0)?, a.bytes(1)?].concat()),
        vec![l.expr, r.expr],
    );
    Ok(Bound::new(expr, Type::Bytea))
}

/// Arguments as texts; truth values are `t` and `f` here.
fn as_texts(binder: &Binder<'_>, args: Vec<Bound>) -> Result<Vec<Bound>> {
    args.into_iter()
        .map(|arg| {
            let arg = binder.decided(arg)?;
            if arg.r#type == Type::Bool {
                let expr = Kernel::strict(
                    "boolout",
                    DataType::Utf8View,
                    |a, o| o.text(if a.bool(0)? { "t" } else { "f" }),
                    vec![arg.expr],
                );
                return Ok(Bound::new(expr, Type::Text));
            }
            binder.explicit(arg, &Type::Text)
        })
        .collect()
}

fn concat_all(binder: &Binder<'_>, args: Vec<Bound>, separated: bool) -> Result<Bound> {
    let args = as_texts(binder, args)?;
    let name = if separated { "concat_ws" } else { "concat" };
    let expr = Kernel::lenient(
        name,
        DataType::Utf8View,
        move |a, o| {
            let mut out = String::new();
            let first = usize::from(separated);
            if separated && a.is_null(0) {
                o.null();
                return Ok(());
            }
            let mut any = false;
            for k in first..a.len() {
                if a.is_null(k) {
                    continue;
                }
                if separated && any {
                    out.push_str(a.text(0)?);
                }
                out.push_str(a.text(k)?);
                any = true;
            }
            o.text(&out)
        },
        args.into_iter().map(|b| b.expr).collect(),
    );
    Ok(Bound::new(expr, Type::Text))
}

fn format(binder: &Binder<'_>, args: Vec<Bound>) -> Result<Bound> {
    let args = as_texts(binder, args)?;
    let expr = Kernel::lenient(
        "format",
        DataType::Utf8View,
        |a, o| {
            if a.is_null(0) {
                o.null();
                return Ok(());
            }
            o.text(&formatted(a)?)
        },
        args.into_iter().map(|b| b.expr).collect(),
    );
    Ok(Bound::new(expr, Type::Text))
}

/// `format(…)`: `%[position][flags][width]type`.
fn formatted(a: &Args<'_>) -> Result<String> {
    let bad = |m: &str| Error::new(Condition::InvalidParameterValue, m);
    let mut out = String::new();
    let mut chars = a.text(0)?.chars().peekable();
    let mut next = 1;
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.next_if_eq(&'%').is_some() {
            out.push('%');
            continue;
        }
        let mut digits = String::new();
        while let Some(d) = chars.next_if(char::is_ascii_digit) {
            digits.push(d);
        }
        let mut width: Option<i64> = None;
        let mut minus = false;
        if !digits.is_empty() && chars.next_if_eq(&'$').is_some() {
            next = digits.parse().map_err(|_| bad("number is out of range"))?;
            if next == 0 {
                return Err(bad("format specifies argument 0, but arguments are numbered from 1"));
            }
            digits.clear();
        } else if !digits.is_empty() {
            width = digits.parse().ok();
        }
        if width.is_none() {
            while chars.next_if_eq(&'-').is_some() {
                minus = true;
            }
            if chars.next_if_eq(&'*').is_some() {
                let given = if next < a.len() && !a.is_null(next) { a.text(next)?.parse::<i64>().ok() } else { None };
                width = given;
                next += 1;
            } else {
                while let Some(d) = chars.next_if(char::is_ascii_digit) {
                    digits.push(d);
                }
                width = digits.parse().ok();
            }
        }
        let kind = chars
            .next()
            .ok_or_else(|| bad("unterminated format() type specifier").hint("For a single \"%\" use \"%%\"."))?;
        if !matches!(kind, 's' | 'I' | 'L') {
            return Err(
                bad(&format!("unrecognized format() type specifier \"{kind}\"")).hint("For a single \"%\" use \"%%\".")
            );
        }
        if next >= a.len() {
            return Err(bad("too few arguments for format()"));
        }
        let null = a.is_null(next);
        let text = if null { "" } else { a.text(next)? };
        next += 1;
        let piece = match kind {
            's' => text.to_owned(),
            'I' if null => {
                return Err(Error::new(
                    Condition::NullValueNotAllowed,
                    "null values cannot be formatted as an SQL identifier",
                ));
            }
            'I' => crate::catalog::name::quote(text),
            _ if null => "NULL".to_owned(),
            _ => quote_literal(text),
        };
        let wanted = width.unwrap_or(0);
        let left_aligned = minus || wanted < 0;
        let wanted = usize::try_from(wanted.unsigned_abs()).unwrap_or(0).min(MOST_BYTES / 8);
        let missing = wanted.saturating_sub(characters(&piece));
        if left_aligned {
            out.push_str(&piece);
            out.extend(std::iter::repeat_n(' ', missing));
        } else {
            out.extend(std::iter::repeat_n(' ', missing));
            out.push_str(&piece);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_texts() {
        assert_eq!(substring("élan", 2, Some(2)).unwrap(), "la");
        assert_eq!(substring("abc", -1, Some(3)).unwrap(), "a");
        assert_eq!(substring("abc", 0, None).unwrap(), "abc");
        assert!(substring("abc", 1, Some(-1)).is_err());
        assert_eq!(left("abc", -1), "ab");
        assert_eq!(right("abc", 2), "bc");
        assert_eq!(right("abc", -2), "c");
        assert_eq!(split_part("a,b,c", ",", -1).unwrap(), "c");
        assert_eq!(pad("hi", 5, "xy", true).unwrap(), "xyxhi");
        assert_eq!(pad("hello", 2, "x", false).unwrap(), "he");
        assert_eq!(overlay("Txxxxas", "hom", 2, 4).unwrap(), "Thomas");
        assert_eq!(initcap("hi THOMAS o'neil"), "Hi Thomas O'Neil");
        assert_eq!(translate("12345", "143", "ax"), "a2x5");
        assert_eq!(position("Thomas", "om"), 3);
    }
}
