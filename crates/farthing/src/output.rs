//! Results: tables on a terminal, JSON when piped or with `--json`.

use std::io::{IsTerminal as _, Write as _, stdout};

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

/// Where results go, and how.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
}

impl Output {
    /// JSON if it was asked for, or if nobody looks.
    pub fn new(json: bool) -> Self {
        Self { json: json || !stdout().is_terminal() }
    }

    /// Prints a result.
    pub fn print(self, value: &impl Serialize, table: impl FnOnce() -> Table) -> anyhow::Result<()> {
        let text = if self.json { serde_json::to_string(value)? } else { table().to_string() };
        writeln!(stdout(), "{text}")?;
        Ok(())
    }

    /// Prints a result that is one line for people.
    pub fn say(self, value: &impl Serialize, line: &str) -> anyhow::Result<()> {
        let text = if self.json { serde_json::to_string(value)? } else { line.to_owned() };
        writeln!(stdout(), "{text}")?;
        Ok(())
    }
}

/// A table with these headings; all columns but the first are aligned to the right.
pub fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_BORDERS_ONLY).set_header(headings.to_vec());
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A table of names and values.
pub fn facts<'a>(facts: impl IntoIterator<Item = (&'a str, String)>) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_BORDERS_ONLY);
    for (name, value) in facts {
        table.add_row([name.to_owned(), value]);
    }
    table
}
