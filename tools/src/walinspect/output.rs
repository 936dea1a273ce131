//! Standard output: tables for a terminal, lines with tabs for a pipe, JSON where it was asked for.

use std::io::{self, BufWriter, IsTerminal, Write};

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

use super::error::InspectError;

/// The version of every JSON line's fields. It rises when a field changes its meaning or goes; new fields do not raise it.
pub(crate) const JSON_SCHEMA: u32 = 1;

/// How results are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// For eyes.
    Terminal,
    /// For other programs.
    Pipe,
    /// One JSON object a line.
    Json,
}

/// Where results go.
pub(crate) struct Output {
    writer: BufWriter<Box<dyn Write>>,
    style: Style,
}

/// A JSON line: the schema, the type of the line, then its fields.
#[derive(Serialize)]
struct JsonLine<'a, T> {
    schema: u32,
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(flatten)]
    fields: &'a T,
}

/// The line as it is written, without its end.
pub(crate) fn json_line<T: Serialize>(kind: &str, fields: &T) -> Result<String, InspectError> {
    let line = JsonLine { schema: JSON_SCHEMA, kind, fields };
    serde_json::to_string(&line).map_err(|error| InspectError::Output(error.into()))
}

impl Output {
    /// To standard output.
    pub(crate) fn standard(json: bool) -> Output {
        let stdout = io::stdout();
        let style = match (json, stdout.is_terminal()) {
            (true, _) => Style::Json,
            (false, true) => Style::Terminal,
            (false, false) => Style::Pipe,
        };
        Output { writer: BufWriter::with_capacity(64 * 1024, Box::new(stdout)), style }
    }

    /// To nowhere: everything is formatted and dropped.
    pub(crate) fn sink(style: Style) -> Output {
        Output { writer: BufWriter::new(Box::new(io::sink())), style }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.style == Style::Json
    }

    pub(crate) fn line(&mut self, text: &str) -> Result<(), InspectError> {
        self.writer.write_all(text.as_bytes()).and_then(|()| self.writer.write_all(b"\n")).map_err(InspectError::Output)
    }

    pub(crate) fn text(&mut self, text: &[u8]) -> Result<(), InspectError> {
        self.writer.write_all(text).map_err(InspectError::Output)
    }

    pub(crate) fn json<T: Serialize>(&mut self, kind: &str, fields: &T) -> Result<(), InspectError> {
        let line = json_line(kind, fields)?;
        self.line(&line)
    }

    /// A remark between tables; not in pipes, where only rows are expected, and not in JSON.
    pub(crate) fn remark(&mut self, text: &str) -> Result<(), InspectError> {
        if self.style == Style::Terminal { self.line(text) } else { Ok(()) }
    }

    /// A table with a title. In a pipe: the header and the rows with tabs, and an empty line behind the table.
    pub(crate) fn table(&mut self, rows: &Rows) -> Result<(), InspectError> {
        match self.style {
            Style::Terminal => {
                if !rows.title.is_empty() {
                    self.line(&rows.title)?;
                }
                self.line(&rows.picture())?;
                self.line("")
            }
            Style::Pipe => {
                self.line(&rows.header.join("\t"))?;
                rows.rows.iter().try_for_each(|row| self.line(&row.join("\t")))
            }
            Style::Json => Ok(()),
        }
    }

    /// Between two tables of one command in a pipe.
    pub(crate) fn next_table(&mut self) -> Result<(), InspectError> {
        if self.style == Style::Pipe { self.line("") } else { Ok(()) }
    }

    pub(crate) fn flush(&mut self) -> Result<(), InspectError> {
        self.writer.flush().map_err(InspectError::Output)
    }
}

/// A table before it is drawn.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rows {
    title: String,
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    /// Columns of numbers.
    right: Vec<usize>,
}

impl Rows {
    pub(crate) fn new(title: &str, header: &[&'static str], right: &[usize]) -> Rows {
        Rows { title: title.to_owned(), header: header.to_vec(), rows: Vec::new(), right: right.to_vec() }
    }

    pub(crate) fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn picture(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header(self.header.iter().copied());
        for row in &self.rows {
            table.add_row(row.iter().enumerate().map(|(at, text)| {
                let cell = Cell::new(text);
                if self.right.contains(&at) { cell.set_alignment(CellAlignment::Right) } else { cell }
            }));
        }
        table.to_string()
    }
}
