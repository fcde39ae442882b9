//! JSON: taking values apart and putting them together.
//!
//! Values are kept as text, so access works on the text: [`Scanner`] finds where
//! parts begin and end without building a tree.

use datafusion::arrow::datatypes::DataType;
use polity_base::text::json;
use polity_base::{Type, Value};

use super::kernel::{Args, Kernel};
use super::list::{Function, Ty, bind, strict, variadic};
use crate::error::{Condition, Error, Result};
use crate::expr::Local;
use crate::expr::cast;
use crate::query::bind::Binder;
use crate::query::bind::bound::Bound;
use crate::query::bind::coerce;
use crate::query::types::{self, Builder};

use Ty::{Any, Bool, Int4, Json, Jsonb, Text, TextArray};

/// The functions.
pub static FUNCTIONS: &[Function] = &[
    strict("json_typeof", &[Json], Text, |a, o| o.text(kind(a.text(0)?))),
    strict("jsonb_typeof", &[Jsonb], Text, |a, o| o.text(kind(a.text(0)?))),
    strict("json_array_length", &[Json], Int4, array_length),
    strict("jsonb_array_length", &[Jsonb], Int4, array_length),
    strict("jsonb_exists", &[Jsonb, Text], Bool, |a, o| {
        let (text, key) = (a.text(0)?, a.text(1)?);
        let found = match kind(text) {
            "object" => member(text, key).is_some(),
            "array" => elements(text).iter().any(|e| unquoted(e).as_deref() == Some(key)),
            "string" => unquoted(text).as_deref() == Some(key),
            _ => false,
        };
        o.value(&Value::Bool(found))
    }),
    strict("jsonb_pretty", &[Jsonb], Text, |a, o| o.text(&pretty(a.text(0)?, 0))),
    strict("json_strip_nulls", &[Json], Json, |a, o| o.text(&stripped(a.text(0)?))),
    strict("jsonb_strip_nulls", &[Jsonb], Jsonb, |a, o| o.text(&canonical(&stripped(a.text(0)?))?)),
    variadic(bind("json_build_array", &[Any], Json, |b, args| build_array(b, args, Type::Json))),
    variadic(bind("jsonb_build_array", &[Any], Jsonb, |b, args| build_array(b, args, Type::Jsonb))),
    variadic(bind("json_build_object", &[Any], Json, |b, args| build_object(b, args, Type::Json))),
    variadic(bind("jsonb_build_object", &[Any], Jsonb, |b, args| build_object(b, args, Type::Jsonb))),
    bind("to_json", &[Any], Json, |b, args| to_json(b, args, Type::Json)),
    bind("to_jsonb", &[Any], Jsonb, |b, args| to_json(b, args, Type::Jsonb)),
    bind("array_to_json", &[Any], Json, |b, args| to_json(b, args, Type::Json)),
    variadic(strict("json_extract_path", &[Json, Text], Json, |a, o| extract(a, o, false))),
    variadic(strict("json_extract_path_text", &[Json, Text], Text, |a, o| extract(a, o, true))),
    variadic(strict("jsonb_extract_path", &[Jsonb, Text], Jsonb, |a, o| extract(a, o, false))),
    variadic(strict("jsonb_extract_path_text", &[Jsonb, Text], Text, |a, o| extract(a, o, true))),
    strict("jsonb_set", &[Jsonb, TextArray, Jsonb], Jsonb, |a, o| {
        let path = path_of(a, 1)?;
        o.text(&canonical(&replaced(a.text(0)?, &path, a.text(2)?, true))?)
    }),
    strict("jsonb_set", &[Jsonb, TextArray, Jsonb, Bool], Jsonb, |a, o| {
        let path = path_of(a, 1)?;
        o.text(&canonical(&replaced(a.text(0)?, &path, a.text(2)?, a.bool(3)?))?)
    }),
];

/// Walks over JSON text that is known to be well formed.
struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn new(text: &'a str) -> Scanner<'a> {
        Scanner { text, at: 0 }
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blanks(&mut self) {
        while self.byte().is_some_and(|b| b.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn skip(&mut self, b: u8) -> bool {
        self.blanks();
        let is = self.byte() == Some(b);
        self.at += usize::from(is);
        is
    }

    /// The text of the next value.
    fn value(&mut self) -> &'a str {
        self.blanks();
        let from = self.at;
        let mut depth = 0usize;
        while let Some(b) = self.byte() {
            match b {
                b'"' => self.string(),
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    if depth == 0 {
                        break;
                    }
                    depth -= 1;
                    self.at += 1;
                    if depth == 0 {
                        break;
                    }
                }
                b',' | b':' if depth == 0 => break,
                _ => self.at += 1,
            }
            if depth == 0 && matches!(b, b'"') {
                break;
            }
        }
        self.text.get(from..self.at).unwrap_or_default().trim_end()
    }

    fn string(&mut self) {
        self.at += 1;
        while let Some(b) = self.byte() {
            self.at += 1;
            match b {
                b'\\' => self.at += 1,
                b'"' => break,
                _ => {}
            }
        }
    }
}

/// The members of an object: keys as they are written, quotes included.
fn members(text: &str) -> Vec<(&str, &str)> {
    let mut scanner = Scanner::new(text);
    let mut all = Vec::new();
    if !scanner.skip(b'{') || scanner.skip(b'}') {
        return all;
    }
    loop {
        let key = scanner.value();
        if !scanner.skip(b':') {
            return all;
        }
        all.push((key, scanner.value()));
        if !scanner.skip(b',') {
            return all;
        }
    }
}

/// The elements of an array.
pub fn elements(text: &str) -> Vec<&str> {
    let mut scanner = Scanner::new(text);
    let mut all = Vec::new();
    if !scanner.skip(b'[') || scanner.skip(b']') {
        return all;
    }
    loop {
        all.push(scanner.value());
        if !scanner.skip(b',') {
            return all;
        }
    }
}

fn member<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    // The last of equal keys counts.
    members(text).into_iter().rev().find(|(k, _)| unquoted(k).as_deref() == Some(key)).map(|(_, v)| v)
}

/// The keys and values of an object, keys unquoted.
pub fn entries(text: &str) -> Vec<(String, String)> {
    members(text).into_iter().map(|(k, v)| (unquoted(k).unwrap_or_default(), v.to_owned())).collect()
}

/// The string a JSON string stands for.
pub fn unquoted(text: &str) -> Option<String> {
    serde_json::from_str::<String>(text).ok()
}

/// A text as a JSON string.
pub fn quoted(text: &str) -> String {
    let mut out = String::new();
    json::show_string(text, &mut out);
    out
}

/// What kind of value a text is.
pub fn kind(text: &str) -> &'static str {
    match text.trim_start().as_bytes().first() {
        Some(b'{') => "object",
        Some(b'[') => "array",
        Some(b'"') => "string",
        Some(b't' | b'f') => "boolean",
        Some(b'n') => "null",
        _ => "number",
    }
}

/// A value as text: strings without quotes, `null` as NULL.
pub fn as_text(text: &str) -> Option<String> {
    match kind(text) {
        "null" => None,
        "string" => unquoted(text),
        _ => Some(text.to_owned()),
    }
}

fn canonical(text: &str) -> Result<String> {
    json::canonical(text).map_err(Error::from)
}

fn array_length(a: &Args<'_>, out: &mut Builder) -> Result<()> {
    let text = a.text(0)?;
    match kind(text) {
        "array" => out.value(&Value::Int4(i32::try_from(elements(text).len()).unwrap_or(i32::MAX))),
        "object" => Err(Error::new(Condition::InvalidParameterValue, "cannot get array length of a non-array")),
        _ => Err(Error::new(Condition::InvalidParameterValue, "cannot get array length of a scalar")),
    }
}

/// One step into a value: by key or by index.
fn step<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    match kind(text) {
        "object" => member(text, key),
        "array" => at(text, key.trim().parse().ok()?),
        _ => None,
    }
}

fn at(text: &str, index: i64) -> Option<&str> {
    if kind(text) != "array" {
        return None;
    }
    let all = elements(text);
    let index = if index < 0 { index + all.len() as i64 } else { index };
    all.get(usize::try_from(index).ok()?).copied()
}

/// `json -> key`, `->>`, `#>`, `#>>`.
pub fn access(binder: &Binder<'_>, l: Bound, symbol: &'static str, r: Bound) -> Result<Bound> {
    let as_string = symbol.ends_with(">>");
    let returns = if as_string { Type::Text } else { l.r#type.clone() };
    let by_path = symbol.starts_with('#');
    let r = if by_path {
        binder.implicit(r, &Type::Array(Box::new(Type::Text)))?
    } else if r.is_open() {
        binder.implicit(r, &Type::Text)?
    } else if r.r#type.is_integer() {
        binder.implicit(r, &Type::Int4)?
    } else {
        binder.implicit(r, &Type::Text)?
    };
    let by_index = r.r#type == Type::Int4;
    let expr = Kernel::strict(
        format!("json {symbol} {by_index}"),
        DataType::Utf8View,
        move |a, o| {
            let text = a.text(0)?;
            let path;
            let found = if by_path {
                path = path_of(a, 1)?;
                path.iter().try_fold(text, |t, key| step(t, key))
            } else if by_index {
                at(text, a.int(1)?)
            } else if kind(text) == "object" {
                member(text, a.text(1)?)
            } else {
                None
            };
            let shown = match (found, as_string) {
                (None, _) => None,
                (Some(t), true) => as_text(t),
                (Some(t), false) => Some(t.to_owned()),
            };
            match shown {
                Some(t) => o.text(&t),
                None => {
                    o.null();
                    Ok(())
                }
            }
        },
        vec![l.expr, r.expr],
    );
    Ok(Bound::new(expr, returns))
}

fn path_of(a: &Args<'_>, k: usize) -> Result<Vec<String>> {
    Ok(a.list(k)?.into_iter().map(|v| v.as_str().unwrap_or_default().to_owned()).collect())
}

fn extract(a: &Args<'_>, out: &mut Builder, as_string: bool) -> Result<()> {
    let mut found = Some(a.text(0)?);
    for k in 1..a.len() {
        let key = a.text(k)?;
        found = found.and_then(|t| step(t, key));
    }
    let shown = match (found, as_string) {
        (Some(t), true) => as_text(t),
        (found, _) => found.map(str::to_owned),
    };
    match shown {
        Some(t) => out.text(&t),
        None => {
            out.null();
            Ok(())
        }
    }
}

/// The value with `new` at `path`.
fn replaced(text: &str, path: &[String], new: &str, create: bool) -> String {
    let Some((key, rest)) = path.split_first() else { return new.to_owned() };
    match kind(text) {
        "object" => {
            let mut found = false;
            let mut parts: Vec<String> = members(text)
                .into_iter()
                .map(|(k, v)| {
                    let is = unquoted(k).as_deref() == Some(key);
                    found |= is;
                    format!("{k}: {}", if is { replaced(v, rest, new, create) } else { v.to_owned() })
                })
                .collect();
            if !found && create && rest.is_empty() {
                parts.push(format!("{}: {new}", quoted(key)));
            }
            format!("{{{}}}", parts.join(", "))
        }
        "array" => {
            let all = elements(text);
            let Ok(index) = key.parse::<i64>() else { return text.to_owned() };
            let place = if index < 0 { index + all.len() as i64 } else { index };
            let mut parts: Vec<String> = all
                .iter()
                .enumerate()
                .map(|(i, v)| if i as i64 == place { replaced(v, rest, new, create) } else { (*v).to_owned() })
                .collect();
            if create && rest.is_empty() {
                if place < 0 {
                    parts.insert(0, new.to_owned());
                } else if place >= all.len() as i64 {
                    parts.push(new.to_owned());
                }
            }
            format!("[{}]", parts.join(", "))
        }
        _ => text.to_owned(),
    }
}

fn stripped(text: &str) -> String {
    match kind(text) {
        "object" => {
            let kept = members(text).into_iter().filter(|(_, v)| kind(v) != "null");
            let parts: Vec<String> = kept.map(|(k, v)| format!("{k}:{}", stripped(v))).collect();
            format!("{{{}}}", parts.join(","))
        }
        "array" => format!("[{}]", elements(text).into_iter().map(stripped).collect::<Vec<_>>().join(",")),
        _ => text.trim().to_owned(),
    }
}

fn pretty(text: &str, depth: usize) -> String {
    let (inner, outer) = ("    ".repeat(depth + 1), "    ".repeat(depth));
    match kind(text) {
        "object" => {
            let parts: Vec<String> =
                members(text).into_iter().map(|(k, v)| format!("{inner}{k}: {}", pretty(v, depth + 1))).collect();
            if parts.is_empty() { "{\n}".to_owned() } else { format!("{{\n{}\n{outer}}}", parts.join(",\n")) }
        }
        "array" => {
            let parts: Vec<String> =
                elements(text).into_iter().map(|v| format!("{inner}{}", pretty(v, depth + 1))).collect();
            if parts.is_empty() { "[\n]".to_owned() } else { format!("[\n{}\n{outer}]", parts.join(",\n")) }
        }
        _ => text.to_owned(),
    }
}

/// A value as JSON (`to_json`).
pub fn of_value(value: &Value, r#type: &Type, zone: &str) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(v) => v.to_string(),
        Value::Json(text) => text.clone(),
        Value::Text(text) if matches!(r#type, Type::Json | Type::Jsonb) => text.clone(),
        Value::Int2(_) | Value::Int4(_) | Value::Int8(_) | Value::Numeric(_) | Value::Oid(_) => {
            cast::write(value, &cast::without_modifier(r#type), Local { zone, now: 0 })
        }
        Value::Float4(v) if !v.is_finite() => quoted(&cast::write(value, r#type, Local { zone, now: 0 })),
        Value::Float8(v) if !v.is_finite() => quoted(&cast::write(value, r#type, Local { zone, now: 0 })),
        Value::Float4(_) | Value::Float8(_) => cast::write(value, r#type, Local { zone, now: 0 }),
        Value::Timestamp(_) | Value::TimestampTz(_) => {
            // ISO 8601: a T between date and time, minutes in the offset.
            let mut text = cast::write(value, r#type, Local { zone, now: 0 }).replacen(' ', "T", 1);
            if matches!(value, Value::TimestampTz(_)) && text.rfind(['+', '-']).is_some_and(|i| text.len() - i == 3) {
                text.push_str(":00");
            }
            quoted(&text)
        }
        Value::Array(values) => {
            let element = match r#type {
                Type::Array(element) => element,
                other => other,
            };
            let parts: Vec<String> = values.iter().map(|v| of_value(v, element, zone)).collect();
            format!("[{}]", parts.join(","))
        }
        other => quoted(&cast::write(other, r#type, Local { zone, now: 0 })),
    }
}

fn prepared(binder: &Binder<'_>, args: Vec<Bound>) -> Result<(Vec<Bound>, Vec<Type>)> {
    let args = args.into_iter().map(|a| binder.decided(a).map(coerce::free)).collect::<Result<Vec<_>>>()?;
    let of = args.iter().map(|a| a.r#type.clone()).collect();
    Ok((args, of))
}

fn names(of: &[Type]) -> String {
    of.iter().map(crate::catalog::types::internal_name).collect::<Vec<_>>().join(",")
}

fn finish(text: String, returns: &Type, out: &mut Builder) -> Result<()> {
    match returns {
        Type::Jsonb => out.text(&canonical(&text)?),
        _ => out.text(&text),
    }
}

fn to_json(binder: &Binder<'_>, args: Vec<Bound>, returns: Type) -> Result<Bound> {
    let (args, of) = prepared(binder, args)?;
    let zone = binder.zone().to_owned();
    let expr = Kernel::strict(
        format!("to_{}[{}] at {zone}", names(std::slice::from_ref(&returns)), names(&of)),
        DataType::Utf8View,
        {
            let returns = returns.clone();
            move |a, o| {
                let r#type = of.first().cloned().unwrap_or(Type::Text);
                finish(of_value(&a.value(0)?, &r#type, &zone), &returns, o)
            }
        },
        args.into_iter().map(|b| b.expr).collect(),
    );
    Ok(Bound::new(expr, returns))
}

fn build_array(binder: &Binder<'_>, args: Vec<Bound>, returns: Type) -> Result<Bound> {
    let (args, of) = prepared(binder, args)?;
    let zone = binder.zone().to_owned();
    let expr = Kernel::lenient(
        format!("build_array_{}[{}] at {zone}", names(std::slice::from_ref(&returns)), names(&of)),
        DataType::Utf8View,
        {
            let returns = returns.clone();
            move |a, o| {
                let mut parts = Vec::with_capacity(of.len());
                for (k, t) in of.iter().enumerate() {
                    parts.push(of_value(&a.value(k)?, t, &zone));
                }
                finish(format!("[{}]", parts.join(", ")), &returns, o)
            }
        },
        args.into_iter().map(|b| b.expr).collect(),
    );
    Ok(Bound::new(expr, returns))
}

fn build_object(binder: &Binder<'_>, args: Vec<Bound>, returns: Type) -> Result<Bound> {
    let (args, of) = prepared(binder, args)?;
    if args.len() % 2 != 0 {
        return Err(Error::new(Condition::InvalidParameterValue, "argument list must have even number of elements")
            .hint("The arguments of json_build_object() must consist of alternating keys and values."));
    }
    let zone = binder.zone().to_owned();
    let expr = Kernel::lenient(
        format!("build_object_{}[{}] at {zone}", names(std::slice::from_ref(&returns)), names(&of)),
        DataType::Utf8View,
        {
            let returns = returns.clone();
            move |a, o| {
                let mut parts = Vec::with_capacity(of.len() / 2);
                for (k, pair) in of.chunks_exact(2).enumerate() {
                    let [key_type, value_type] = pair else { continue };
                    let (key, value) = (a.value(2 * k)?, a.value(2 * k + 1)?);
                    if key.is_null() {
                        return Err(Error::new(
                            Condition::InvalidParameterValue,
                            format!("argument {} cannot be null", 2 * k + 1),
                        )
                        .hint("Object keys should be text."));
                    }
                    let key = cast::write(&key, key_type, Local { zone: &zone, now: 0 });
                    parts.push(format!("{} : {}", quoted(&key), of_value(&value, value_type, &zone)));
                }
                finish(format!("{{{}}}", parts.join(", ")), &returns, o)
            }
        },
        args.into_iter().map(|b| b.expr).collect(),
    );
    Ok(Bound::new(expr, returns))
}

/// `a || b` of jsonb.
pub fn concat(l: Bound, r: Bound) -> Result<Bound> {
    let expr = Kernel::strict(
        "jsonb concat",
        DataType::Utf8View,
        |a, o| {
            let (x, y) = (a.text(0)?, a.text(1)?);
            let inner = |t: &str| -> String {
                let t = t.trim();
                t.get(1..t.len().saturating_sub(1)).unwrap_or_default().trim().to_owned()
            };
            let joined = |open: char, p: String, q: String, close: char| {
                let between = if p.is_empty() || q.is_empty() { "" } else { ", " };
                format!("{open}{p}{between}{q}{close}")
            };
            let text = match (kind(x), kind(y)) {
                ("object", "object") => joined('{', inner(x), inner(y), '}'),
                ("array", "array") => joined('[', inner(x), inner(y), ']'),
                ("array", _) => joined('[', inner(x), y.to_owned(), ']'),
                (_, "array") => joined('[', x.to_owned(), inner(y), ']'),
                ("object", _) | (_, "object") => {
                    return Err(Error::new(Condition::InvalidParameterValue, "invalid concatenation of jsonb objects"));
                }
                _ => joined('[', x.to_owned(), y.to_owned(), ']'),
            };
            o.text(&canonical(&text)?)
        },
        vec![l.expr, r.expr],
    );
    Ok(Bound::new(expr, Type::Jsonb))
}

/// `a @> b` of jsonb.
pub fn contains(l: Bound, r: Bound) -> Result<Bound> {
    let expr = Kernel::strict(
        "jsonb contains",
        types::data_type(&Type::Bool),
        |a, o| o.value(&Value::Bool(holds(a.text(0)?, a.text(1)?, true))),
        vec![l.expr, r.expr],
    );
    Ok(Bound::new(expr, Type::Bool))
}

fn holds(x: &str, y: &str, top: bool) -> bool {
    match (kind(x), kind(y)) {
        ("object", "object") => members(y).into_iter().all(|(k, v)| {
            let key = unquoted(k).unwrap_or_default();
            member(x, &key).is_some_and(|found| holds(found, v, false))
        }),
        ("array", "array") => elements(y).into_iter().all(|v| elements(x).into_iter().any(|e| holds(e, v, false))),
        // An array contains a primitive at the top.
        ("array", _) if top => elements(x).into_iter().any(|e| holds(e, y, false)),
        (a, b) if a == b => x.trim() == y.trim(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found_in_the_text() {
        let text = r#"{"a": [1, {"b": "x,\"}"}, null], "c\n": 2.50}"#;
        assert_eq!(member(text, "c\n"), Some("2.50"));
        assert_eq!(step(member(text, "a").unwrap(), "1"), Some(r#"{"b": "x,\"}"}"#));
        assert_eq!(at(member(text, "a").unwrap(), -1), Some("null"));
        assert_eq!(elements("[ ]").len(), 0);
        assert_eq!(as_text("\"x\""), Some("x".to_owned()));
        assert!(holds(r#"{"a": 1, "b": [1, 2]}"#, r#"{"b": [2]}"#, true));
        assert_eq!(replaced(r#"{"a": 1}"#, &["b".to_owned()], "2", true), r#"{"a": 1, "b": 2}"#);
    }
}
