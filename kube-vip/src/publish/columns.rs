//! Text in columns, with colours where there is somebody to see them.

use std::fmt::Write as _;

/// How much is shown, and with colours or without.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// More columns, counters and notices.
    pub wide: bool,
    /// For a terminal.
    pub colour: bool,
}

/// Text with a colour that does not count for its width.
pub(super) struct Cell {
    text: String,
    colour: Option<u8>,
    right: bool,
}

impl Cell {
    pub(super) fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), colour: None, right: false }
    }

    pub(super) fn right(number: &impl ToString) -> Self {
        Self { text: number.to_string(), colour: None, right: true }
    }

    pub(super) fn paint(&self, style: Style) -> String {
        match self.colour {
            Some(colour) if style.colour => format!("\x1b[{colour}m{}\x1b[0m", self.text),
            _ => self.text.clone(),
        }
    }
}

pub(super) fn ready(text: &str) -> Cell {
    Cell { text: text.to_owned(), colour: Some(32), right: false }
}

pub(super) fn not_ready(text: &str) -> Cell {
    Cell { text: text.to_owned(), colour: Some(31), right: false }
}

pub(super) struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(super) fn new(columns: &[&str]) -> Self {
        let columns = columns.iter().map(|name| (*name).to_owned()).collect();
        Self { columns, rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Nothing if it has no rows; an empty line after it otherwise.
    pub(super) fn print(mut self, out: &mut String, style: Style) {
        if self.rows.is_empty() {
            return;
        }
        let bold = |name: &String| Cell { text: name.clone(), colour: Some(1), right: false };
        let mut heading: Vec<Cell> = self.columns.iter().map(bold).collect();
        for (column, cell) in heading.iter_mut().enumerate() {
            cell.right = self.rows.iter().any(|row| row.get(column).is_some_and(|cell| cell.right));
        }
        self.rows.insert(0, heading);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.text.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let gap = " ".repeat(width - cell.text.chars().count());
                let text = cell.paint(style);
                let (before, after) =
                    if cell.right { (gap, String::new()) } else { (String::new(), gap) };
                let _ = write!(line, "{before}{text}{after}  ");
            }
            let _ = writeln!(out, "{}", line.trim_end());
        }
        out.push('\n');
    }
}
