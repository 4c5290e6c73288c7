// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Standard output: text, tables, JSON; and readers that go away.

use std::io::{self, Write};

use serde_json::Value;
use unicode_width::UnicodeWidthStr;

use crate::exit::Failure;

/// The version of what `--json` prints: it grows when a field goes or changes its meaning, not when one is added.
pub(crate) const SCHEMA: u32 = 1;

/// For whom to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    Json,
}

impl Format {
    pub(crate) const fn of(json: bool) -> Self {
        if json {
            Self::Json
        } else {
            Self::Text
        }
    }
}

/// Writes all of `text`. A reader that closed its end had enough, which is no error.
pub(crate) fn text(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    enough(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// Writes one object on one line, with the schema's version in front.
pub(crate) fn json(fields: Value) -> Result<(), Failure> {
    let mut object = serde_json::Map::new();
    object.insert("schema".to_owned(), SCHEMA.into());
    if let Value::Object(fields) = fields {
        object.extend(fields);
    }
    text(&format!("{}\n", Value::Object(object)))
}

/// A closed reader is no error.
pub(crate) fn enough(done: io::Result<()>) -> Result<(), Failure> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => Ok(done?),
    }
}

/// A table without lines; the columns of `numbers` are set flush right.
pub(crate) fn table(header: &[&str], numbers: &[usize], rows: Vec<Vec<String>>) -> String {
    let header = header.iter().map(|cell| (*cell).to_owned()).collect();
    let lines: Vec<Vec<String>> = std::iter::once(header).chain(rows).collect();
    let mut widths = Vec::new();
    for line in &lines {
        widths.resize(widths.len().max(line.len()), 0);
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.width().max(*width);
        }
    }
    let mut text = String::new();
    for line in &lines {
        let mut row = String::new();
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let pad = " ".repeat(width - cell.width());
            let (before, after) = match numbers.contains(&column) {
                true => (pad, String::new()),
                false => (String::new(), pad),
            };
            row.extend([&before, cell.as_str(), &after, "  "]);
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other_whatever_the_script() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = vec![
            row(["a", "1", "x"]),
            row(["日本", "20", ""]),
            row(["größe", "300", "y"]),
        ];
        let text = table(&["NAME", "N", "W"], &[1], rows);
        assert_eq!(
            text,
            "NAME     N  W\na        1  x\n日本    20\ngröße  300  y\n"
        );
    }
}
