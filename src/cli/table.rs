//! Tables, as kubectl prints them.
//!
//! Owns widths and nothing else: cells come with their style, so that colours never disturb the alignment.

use std::io::{self, Write};

use anstyle::Style;

pub(crate) use fusebox_compiler::age;

use crate::terminal::{STRONG, Styled};

const GAP: usize = 3;

/// One cell.
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A cell in a style.
    pub(crate) fn styled(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::styled(text, Style::new())
    }
}

/// Writes `rows` under `headings`, each column as wide as its widest cell.
pub(crate) fn write<const N: usize>(out: &mut dyn Write, headings: [&str; N], rows: &[[Cell; N]]) -> io::Result<()> {
    let mut widths = headings.map(|heading| heading.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.text.chars().count());
        }
    }
    write_row(out, &headings.map(|heading| Cell::styled(heading, STRONG)), &widths)?;
    rows.iter().try_for_each(|row| write_row(out, row, &widths))
}

fn write_row(out: &mut dyn Write, row: &[Cell], widths: &[usize]) -> io::Result<()> {
    for (index, (cell, width)) in row.iter().zip(widths).enumerate() {
        write!(out, "{}", Styled(cell.style, &cell.text))?;
        if index + 1 < row.len() {
            write!(out, "{:1$}", "", width - cell.text.chars().count() + GAP)?;
        }
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_do_not_disturb_the_columns() {
        let mut out = anstream::StripStream::new(Vec::new());
        let rows = [[Cell::styled("Open", crate::terminal::BAD), "x".into()], ["Closed".into(), "y".into()]];
        write(&mut out, ["STATE", "Z"], &rows).unwrap();
        assert_eq!(String::from_utf8(out.into_inner()).unwrap(), "STATE    Z\nOpen     x\nClosed   y\n");
    }
}
