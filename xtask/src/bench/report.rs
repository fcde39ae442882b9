//! Tables of figures: Polity's, PostgreSQL's, and their ratio.

/// One line of the table.
struct Line {
    name: String,
    unit: &'static str,
    polity: f64,
    postgres: f64,
    /// Whether more is better
    more: bool,
}

/// Figures as they come in.
#[derive(Default)]
pub struct Report {
    lines: Vec<Line>,
    notes: Vec<String>,
}

impl Report {
    /// Adds a figure of both; the ratio says how many times better Polity is.
    pub fn figure(&mut self, name: impl Into<String>, unit: &'static str, both: [f64; 2], more: bool) {
        let line = Line { name: name.into(), unit, polity: both[0], postgres: both[1], more };
        println!("{}", line.columns().join("  "));
        self.lines.push(line);
    }

    /// Adds a remark below the table.
    pub fn note(&mut self, note: String) {
        println!("{note}");
        self.notes.push(note);
    }

    /// Prints the whole table, aligned.
    pub fn print(&self) {
        println!("\n{}", self.markdown());
    }

    /// The whole table in Markdown.
    pub fn markdown(&self) -> String {
        let header = ["benchmark", "unit", "Polity", "PostgreSQL", "ratio"].map(str::to_owned);
        let rows: Vec<[String; 5]> = std::iter::once(header).chain(self.lines.iter().map(Line::columns)).collect();
        let width = |column: usize| rows.iter().map(|r| r[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..5).map(width).collect();
        let mut text = String::new();
        for (at, row) in rows.iter().enumerate() {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
                if column < 2 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            text.push_str(&format!("| {} |\n", cells.collect::<Vec<_>>().join(" | ")));
            if at == 0 {
                let rule = |(column, width): (usize, &usize)| {
                    if column < 2 { "-".repeat(width + 2) } else { format!("{}:", "-".repeat(width + 1)) }
                };
                text.push_str(&format!("|{}|\n", widths.iter().enumerate().map(rule).collect::<Vec<_>>().join("|")));
            }
        }
        for note in &self.notes {
            text.push_str(&format!("\n{note}\n"));
        }
        text
    }
}

impl Line {
    fn columns(&self) -> [String; 5] {
        let ratio = if self.more { self.polity / self.postgres } else { self.postgres / self.polity };
        let number = |v: f64| if v >= 100.0 { format!("{v:.0}") } else { format!("{v:.2}") };
        [self.name.clone(), self.unit.to_owned(), number(self.polity), number(self.postgres), format!("{ratio:.2} ×")]
    }
}

/// The middle of some figures; of an even number, the mean of the two in the middle.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let at = |i: usize| figures.get(i).copied().unwrap_or(f64::NAN);
    (at(figures.len().saturating_sub(1) / 2) + at(figures.len() / 2)) / 2.0
}
