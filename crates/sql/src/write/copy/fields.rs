//! The values of a row, as PostgreSQL's COPY reads and writes them.

use std::borrow::Cow;

use super::options::Options;

/// A value as it stands in a row; `None` is NULL.
pub type Field<'a> = Option<Cow<'a, [u8]>>;

/// The values of a row in the text format.
pub fn split_text<'a>(row: &'a [u8], options: &Options, fields: &mut Vec<Field<'a>>) {
    fields.clear();
    let null = options.null.as_bytes();
    if !row.contains(&b'\\') {
        let plain = row.split(|b| *b == options.delimiter);
        fields.extend(plain.map(|raw| (raw != null).then_some(Cow::Borrowed(raw))));
        return;
    }
    let mut start = 0;
    let mut at = 0;
    loop {
        match row.get(at) {
            Some(b'\\') => at += 2,
            Some(b) if *b != options.delimiter => at += 1,
            end => {
                let raw = &row[start..at.min(row.len())];
                fields.push((raw != null).then(|| unescape(raw)));
                if end.is_none() {
                    return;
                }
                at += 1;
                start = at;
            }
        }
    }
}

fn unescape(raw: &[u8]) -> Cow<'_, [u8]> {
    if !raw.contains(&b'\\') {
        return Cow::Borrowed(raw);
    }
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw.iter().copied().peekable();
    while let Some(b) = rest.next() {
        if b != b'\\' {
            out.push(b);
            continue;
        }
        match rest.next() {
            None => out.push(b'\\'),
            Some(b'b') => out.push(8),
            Some(b'f') => out.push(12),
            Some(b'n') => out.push(b'\n'),
            Some(b'r') => out.push(b'\r'),
            Some(b't') => out.push(b'\t'),
            Some(b'v') => out.push(11),
            Some(first @ b'0'..=b'7') => {
                let mut value = u32::from(first - b'0');
                for _ in 0..2 {
                    match rest.next_if(|d| (b'0'..=b'7').contains(d)) {
                        Some(d) => value = value * 8 + u32::from(d - b'0'),
                        None => break,
                    }
                }
                out.push(value as u8);
            }
            Some(b'x') if rest.peek().is_some_and(u8::is_ascii_hexdigit) => {
                let mut value = 0;
                for _ in 0..2 {
                    match rest.next_if(u8::is_ascii_hexdigit) {
                        Some(d) => value = value * 16 + char::from(d).to_digit(16).unwrap_or(0),
                        None => break,
                    }
                }
                out.push(value as u8);
            }
            Some(other) => out.push(other),
        }
    }
    Cow::Owned(out)
}

/// The values of a CSV row, and whether each was quoted.
pub fn split_csv<'a>(row: &'a [u8], options: &Options, fields: &mut Vec<(Cow<'a, [u8]>, bool)>) {
    fields.clear();
    let mut at = 0;
    loop {
        let start = at;
        while row.get(at).is_some_and(|b| *b != options.delimiter && *b != options.quote) {
            at += 1;
        }
        if row.get(at) != Some(&options.quote) {
            fields.push((Cow::Borrowed(&row[start..at]), false));
        } else {
            let mut value = row[start..at].to_vec();
            at = quoted(row, at, options, &mut value);
            fields.push((Cow::Owned(value), true));
        }
        if at >= row.len() {
            return;
        }
        at += 1;
    }
}

/// Reads on from a quote up to the delimiter; gives where that is.
fn quoted(row: &[u8], mut at: usize, options: &Options, value: &mut Vec<u8>) -> usize {
    let mut inside = false;
    while let Some(b) = row.get(at).copied() {
        let next = row.get(at + 1).copied();
        if inside && b == options.escape && next.is_some_and(|n| n == options.escape || n == options.quote) {
            value.extend(next);
            at += 2;
            continue;
        }
        if b == options.quote {
            inside = !inside;
        } else if !inside && b == options.delimiter {
            break;
        } else {
            value.push(b);
        }
        at += 1;
    }
    at
}

/// Writes a value in the text format.
pub fn write_text(value: &str, options: &Options, out: &mut Vec<u8>) {
    for b in value.bytes() {
        let escaped = match b {
            8 => b'b',
            12 => b'f',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            11 => b'v',
            b'\\' => b'\\',
            b if b == options.delimiter => b,
            b => {
                out.push(b);
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', escaped]);
    }
}

/// Writes a value as CSV; `alone` when the row has no other.
pub fn write_csv(value: &str, options: &Options, force: bool, alone: bool, out: &mut Vec<u8>) {
    let special = |b: u8| b == options.delimiter || b == options.quote || b == b'\n' || b == b'\r';
    if !(force || value == options.null || value.bytes().any(special) || (alone && value == "\\.")) {
        out.extend_from_slice(value.as_bytes());
        return;
    }
    out.push(options.quote);
    for b in value.bytes() {
        if b == options.quote || b == options.escape {
            out.push(options.escape);
        }
        out.push(b);
    }
    out.push(options.quote);
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::ast::CopyOption;

    use super::*;

    fn text(row: &str) -> Vec<Option<String>> {
        let options = Options::of(&[], &[], false).unwrap();
        let mut fields = Vec::new();
        split_text(row.as_bytes(), &options, &mut fields);
        fields.into_iter().map(|f| f.map(|f| String::from_utf8(f.into_owned()).unwrap())).collect()
    }

    fn csv(row: &str) -> Vec<(String, bool)> {
        let options = Options::of(&[CopyOption::Format("csv".into())], &[], false).unwrap();
        let mut fields = Vec::new();
        split_csv(row.as_bytes(), &options, &mut fields);
        fields.into_iter().map(|(f, q)| (String::from_utf8(f.into_owned()).unwrap(), q)).collect()
    }

    #[test]
    fn text_rows_are_split_and_unescaped() {
        let some = |s: &str| Some(s.to_owned());
        assert_eq!(text("a\t\\N\t"), [some("a"), None, some("")]);
        assert_eq!(text("a\\tb\\\\\t\\x41\\101\\q"), [some("a\tb\\"), some("AAq")]);
        assert_eq!(text("a\\\tb\tc"), [some("a\tb"), some("c")]);
        assert_eq!(text(""), [some("")]);
    }

    #[test]
    fn csv_rows_are_split_and_unquoted() {
        let plain = |s: &str| (s.to_owned(), false);
        let quoted = |s: &str| (s.to_owned(), true);
        assert_eq!(csv("a,,\"\""), [plain("a"), plain(""), quoted("")]);
        assert_eq!(csv("\"a,b\",\"x\"\"y\""), [quoted("a,b"), quoted("x\"y")]);
        assert_eq!(csv("a\"b,c\"d,e"), [quoted("ab,cd"), plain("e")]);
    }

    #[test]
    fn what_is_written_is_read() {
        let options = Options::of(&[], &[], true).unwrap();
        let mut out = Vec::new();
        write_text("a\tb\\c\nd", &options, &mut out);
        assert_eq!(text(std::str::from_utf8(&out).unwrap()), [Some("a\tb\\c\nd".to_owned())]);
        let options = Options::of(&[CopyOption::Format("csv".into())], &[], true).unwrap();
        let mut out = Vec::new();
        write_csv("a,\"b\"", &options, false, false, &mut out);
        assert_eq!(csv(std::str::from_utf8(&out).unwrap()), [("a,\"b\"".to_owned(), true)]);
        let mut out = Vec::new();
        write_csv("", &options, false, false, &mut out);
        assert_eq!(out, b"\"\"");
    }
}
