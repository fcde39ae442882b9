//! Lifts literals out of a statement's text, so that statements which differ in
//! their literals alone share one plan.
//!
//! ```text
//! SELECT v FROM t WHERE id = 42 AND s = 'x'
//!   ──▶ SELECT v FROM t WHERE id = $1 AND s = $2      [42, 'x']
//! ```
//! The scanner is deliberately timid: a text with comments, parameters, several
//! statements, escape strings or dollar quotes is left alone. Whether the lifted
//! text can be planned with parameters is decided once a text, by the planner.

use polity_base::{Decimal, Value};

/// A text with parameters in place of its literals, and the literals.
#[derive(Debug, PartialEq)]
pub struct Lifted {
    /// The text
    pub text: String,
    /// The literals, in the order of their parameters; strings as text
    pub literals: Vec<Value>,
}

/// The most literals that are lifted; longer lists gain nothing.
const MAX_LITERALS: usize = 256;

/// Lifts the literals of `sql`. `None` when the text is not of the simple kind.
pub fn lift(sql: &str) -> Option<Lifted> {
    let bytes = sql.as_bytes();
    if !begins_with_dml(bytes) {
        return None;
    }
    let mut out = Vec::with_capacity(sql.len() + 8);
    let mut literals = Vec::new();
    // The last byte that is not white space: tells a sign from an operator.
    let mut before = b' ';
    let mut at = 0;
    while at < bytes.len() {
        let b = bytes[at];
        let next = bytes.get(at + 1).copied().unwrap_or(b' ');
        match b {
            b'$' | b'\\' | 0 => return None,
            b'-' if next == b'-' => return None,
            b'/' if next == b'*' => return None,
            b';' => {
                if !bytes[at + 1..].iter().all(|b| b.is_ascii_whitespace() || *b == b';') {
                    return None;
                }
                break;
            }
            b'"' => {
                let end = at + 1 + bytes[at + 1..].iter().position(|b| *b == b'"')?;
                out.extend_from_slice(&bytes[at..=end]);
                at = end + 1;
                before = b'"';
                continue;
            }
            b'\'' => {
                if is_word(before) && at > 0 && is_word(bytes[at - 1]) {
                    return None; // E'…', B'…', X'…', U&'…'
                }
                let (text, end) = string(sql, at)?;
                push(&mut out, &mut literals, Value::Text(text))?;
                at = end;
                before = b'1';
                continue;
            }
            b'0'..=b'9' | b'.' | b'-' if starts_number(b, next, before) && !follows_word(&out, b) => {
                let (value, end) = number(sql, at)?;
                push(&mut out, &mut literals, value)?;
                at = end;
                before = b'1';
                continue;
            }
            _ => out.push(b),
        }
        if !b.is_ascii_whitespace() {
            before = b;
        }
        at += 1;
    }
    (!literals.is_empty()).then_some(())?;
    Some(Lifted { text: String::from_utf8(out).ok()?, literals })
}

fn begins_with_dml(bytes: &[u8]) -> bool {
    let start = bytes.iter().position(|b| !b.is_ascii_whitespace()).unwrap_or(0);
    let Some(word) = bytes.get(start..start + 6) else { return false };
    [b"select", b"insert", b"update", b"delete"].iter().any(|w| word.eq_ignore_ascii_case(*w))
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'&' || b >= 0x80
}

/// Whether what is written so far ends in a word that `b` would continue.
fn follows_word(out: &[u8], b: u8) -> bool {
    b != b'-' && out.last().is_some_and(|last| is_word(*last) || *last == b'.' || *last == b'"')
}

fn starts_number(b: u8, next: u8, before: u8) -> bool {
    match b {
        b'0'..=b'9' => true,
        b'.' => next.is_ascii_digit(),
        // A sign, not a subtraction: nothing before it that has a value.
        _ => next.is_ascii_digit() && matches!(before, b'=' | b'(' | b',' | b'+' | b'*' | b'<' | b'>'),
    }
}

fn push(out: &mut Vec<u8>, literals: &mut Vec<Value>, value: Value) -> Option<()> {
    if literals.len() >= MAX_LITERALS {
        return None;
    }
    literals.push(value);
    out.push(b'$');
    out.extend_from_slice(literals.len().to_string().as_bytes());
    Some(())
}

/// The string that starts at `at`, with doubled quotes made single, and where it
/// ends.
fn string(sql: &str, at: usize) -> Option<(String, usize)> {
    let bytes = sql.as_bytes();
    let mut text = String::new();
    let mut from = at + 1;
    loop {
        let end = from + bytes[from..].iter().position(|b| *b == b'\'')?;
        text.push_str(&sql[from..end]);
        if bytes.get(end + 1) != Some(&b'\'') {
            return Some((text, end + 1));
        }
        text.push('\'');
        from = end + 2;
    }
}

fn number(sql: &str, at: usize) -> Option<(Value, usize)> {
    let bytes = sql.as_bytes();
    let mut end = at + usize::from(bytes[at] == b'-');
    let digits = |mut end: usize| {
        while bytes.get(end).is_some_and(u8::is_ascii_digit) {
            end += 1;
        }
        end
    };
    end = digits(end);
    let mut whole = true;
    if bytes.get(end) == Some(&b'.') {
        whole = false;
        end = digits(end + 1);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        whole = false;
        end += 1;
        if matches!(bytes.get(end), Some(b'+' | b'-')) {
            end += 1;
        }
        end = digits(end);
    }
    if bytes.get(end).is_some_and(|b| is_word(*b) || *b == b'.') {
        return None;
    }
    let text = &sql[at..end];
    let value = match text.parse::<i64>() {
        Ok(v) if whole => i32::try_from(v).map_or(Value::Int8(v), Value::Int4),
        _ => Value::Numeric(text.parse::<Decimal>().ok()?),
    };
    Some((value, end))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lifted(sql: &str) -> (String, Vec<Value>) {
        let l = lift(sql).unwrap();
        (l.text, l.literals)
    }

    #[test]
    fn literals_become_parameters() {
        let (text, literals) = lifted("SELECT abalance FROM pgbench_accounts WHERE aid = 42;");
        assert_eq!(text, "SELECT abalance FROM pgbench_accounts WHERE aid = $1");
        assert_eq!(literals, [Value::Int4(42)]);
        let (text, literals) = lifted("update t2 set a = a + -7, b='it''s' where c1=1.50 and d = a -3");
        assert_eq!(text, "update t2 set a = a + $1, b=$2 where c1=$3 and d = a -$4");
        assert_eq!(literals[0], Value::Int4(-7));
        assert_eq!(literals[1], Value::Text("it's".into()));
        assert_eq!(literals[2].clone(), Value::Numeric("1.50".parse().unwrap()));
        assert_eq!(literals[3], Value::Int4(3));
        assert_eq!(lifted("select 3000000000").1, [Value::Int8(3_000_000_000)]);
    }

    #[test]
    fn other_texts_are_left_alone() {
        for sql in [
            "select 1; select 2",
            "select e'\\n'",
            "select $1",
            "select 1 -- x",
            "select /* */ 1",
            "begin",
            "select 1x",
            "select 'open",
            "select a from t",
        ] {
            assert_eq!(lift(sql), None, "{sql}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(sql in "(select|insert) [ -~é'\"$0-9.]{0,40}") {
            let _ = lift(&sql);
        }
    }
}
