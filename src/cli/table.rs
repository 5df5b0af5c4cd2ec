//! Tables and ages, as kubectl prints them.
//!
//! Owns widths and nothing else: cells come with their style, so that colours never disturb the alignment.

use std::io::{self, Write};

use anstyle::Style;
use jiff::Timestamp;

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

/// The time between two moments in at most two units, such as `3m20s` or `5d`.
pub(crate) fn age(from: Timestamp, to: Timestamp) -> String {
    let seconds = to.duration_since(from).as_secs().max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => format!("{minutes}m{}s", seconds % 60),
        600..10_800 => format!("{minutes}m"),
        10_800..172_800 => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_shorten_as_they_grow() {
        let start = Timestamp::UNIX_EPOCH;
        for (seconds, text) in
            [(-5, "0s"), (0, "0s"), (119, "119s"), (125, "2m5s"), (3_600, "60m"), (11_100, "3h5m"), (200_000, "2d")]
        {
            assert_eq!(age(start, Timestamp::from_second(seconds).unwrap()), text);
        }
    }

    #[test]
    fn colours_do_not_disturb_the_columns() {
        let mut out = anstream::StripStream::new(Vec::new());
        let rows = [[Cell::styled("Open", crate::terminal::BAD), "x".into()], ["Closed".into(), "y".into()]];
        write(&mut out, ["STATE", "Z"], &rows).unwrap();
        assert_eq!(String::from_utf8(out.into_inner()).unwrap(), "STATE    Z\nOpen     x\nClosed   y\n");
    }
}
