// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Standard output: text, tables, JSON; and readers that go away.

use std::io::{self, Write};

use comfy_table::{presets, CellAlignment, Table};
use serde_json::Value;

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

/// Writes all of `text` to standard error, where standard output is another's.
pub(crate) fn notice(text: &str) -> Result<(), Failure> {
    enough(io::stderr().lock().write_all(text.as_bytes()))
}

/// Writes one object on one line, with the schema's version in front.
pub(crate) fn json(fields: Value) -> Result<(), Failure> {
    text(&line(fields))
}

/// The same, to standard error.
pub(crate) fn json_notice(fields: Value) -> Result<(), Failure> {
    notice(&line(fields))
}

fn line(fields: Value) -> String {
    let mut object = serde_json::Map::new();
    object.insert("schema".to_owned(), SCHEMA.into());
    if let Value::Object(fields) = fields {
        object.extend(fields);
    }
    format!("{}\n", Value::Object(object))
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
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_header(header.to_vec());
    table.add_rows(rows);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((if index == 0 { 0 } else { 1 }, 1));
        if numbers.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines = table.to_string();
    lines
        .lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
}
