//! Where a row ends in a stream of bytes.
//!
//! In the text format a newline after a backslash is data; in CSV a newline
//! within quotes is. The stream comes in pieces that break anywhere, so the
//! state is kept from byte to byte.

use super::options::Options;

/// Splits a stream into rows.
pub struct Lines {
    csv: bool,
    quote: u8,
    escape: Option<u8>,
    /// Bytes of rows not given yet
    buffer: Vec<u8>,
    /// Where the next row starts
    start: usize,
    /// How far the search for its end has come
    searched: usize,
    /// CSV: within quotes
    in_quotes: bool,
    /// The byte before takes the meaning from the next one
    escaped: bool,
}

impl Lines {
    /// For rows written as `options` say.
    pub fn new(options: &Options) -> Lines {
        Lines {
            csv: options.csv,
            quote: options.quote,
            // A quote that escapes itself toggles twice, which comes to the same.
            escape: (options.escape != options.quote).then_some(options.escape),
            buffer: Vec::new(),
            start: 0,
            searched: 0,
            in_quotes: false,
            escaped: false,
        }
    }

    /// Adds a piece of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.searched -= self.start;
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole row, without its newline.
    pub fn next_row(&mut self) -> Option<&[u8]> {
        let end = if self.csv { self.csv_end() } else { self.text_end() }?;
        let row = self.start..end;
        self.start = end + 1;
        self.searched = self.start;
        Some(without_return(&self.buffer[row]))
    }

    /// What is left when the stream has ended: a row without a newline.
    pub fn rest(&mut self) -> Option<&[u8]> {
        let row = self.start..self.buffer.len();
        self.start = self.buffer.len();
        self.searched = self.start;
        (!row.is_empty()).then(|| without_return(&self.buffer[row]))
    }

    /// Whether the stream stands within a quoted value.
    pub fn is_open(&self) -> bool {
        self.in_quotes
    }

    fn text_end(&mut self) -> Option<usize> {
        loop {
            let found = self.buffer[self.searched..].iter().position(|b| *b == b'\n');
            let Some(at) = found.map(|n| self.searched + n) else {
                // A run of backslashes at the end is judged when more has come.
                self.searched = self.buffer.len();
                return None;
            };
            self.searched = at + 1;
            let backslashes = self.buffer[self.start..at].iter().rev().take_while(|b| **b == b'\\').count();
            if backslashes % 2 == 0 {
                return Some(at);
            }
        }
    }

    /// As `CopyReadLineText` in PostgreSQL's copyfromparse.c.
    fn csv_end(&mut self) -> Option<usize> {
        while let Some(b) = self.buffer.get(self.searched).copied() {
            let at = self.searched;
            self.searched += 1;
            if self.in_quotes && Some(b) == self.escape {
                self.escaped = !self.escaped;
            }
            if b == self.quote && !self.escaped {
                self.in_quotes = !self.in_quotes;
            }
            if Some(b) != self.escape {
                self.escaped = false;
            }
            if b == b'\n' && !self.in_quotes {
                return Some(at);
            }
        }
        None
    }
}

fn without_return(row: &[u8]) -> &[u8] {
    row.strip_suffix(b"\r").unwrap_or(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(csv: bool, pieces: &[&str]) -> Vec<String> {
        let options = [datafusion::sql::sqlparser::ast::CopyOption::Format(if csv { "csv" } else { "text" }.into())];
        let mut lines = Lines::new(&Options::of(&options, &[], false).unwrap());
        let mut rows = Vec::new();
        for piece in pieces {
            lines.push(piece.as_bytes());
            while let Some(row) = lines.next_row() {
                rows.push(String::from_utf8(row.to_vec()).unwrap());
            }
        }
        rows.extend(lines.rest().map(|r| String::from_utf8(r.to_vec()).unwrap()));
        rows
    }

    #[test]
    fn rows_end_at_newlines_that_are_not_data() {
        assert_eq!(rows(false, &["a\tb\nc", "\td\r\n", "e"]), ["a\tb", "c\td", "e"]);
        assert_eq!(rows(false, &["a\\\nb\n", "c\\\\\nd\n"]), ["a\\\nb", "c\\\\", "d"]);
        assert_eq!(rows(false, &["a\\", "\nb\n"]), ["a\\\nb"]);
        assert_eq!(rows(true, &["a,\"x\ny\"\nb", ",\"\"\"\n\"\n"]), ["a,\"x\ny\"", "b,\"\"\"\n\""]);
    }
}
