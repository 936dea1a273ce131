//! The grammar of systemd's `EnvironmentFile=`, so that one `region.env` serves the unit file and `--env-file` alike.
//!
//! A state machine over characters, after systemd's own (`src/basic/env-file.c`, v254 and later): comments (`#`, `;`), blank lines,
//! `KEY=value`, single and double quotes that may span lines and be concatenated, backslash escapes, line continuation,
//! trailing white space trimmed unless quoted or escaped. Nothing is executed and `$` means nothing.
//!
//! Stricter than systemd where it keeps silent: a line without `=`, an unfinished quote, `export`, a malformed key and a
//! key given twice are errors here, because each of them is a setting that the operator believes to be in force.

use std::collections::HashMap;

/// Bytes of the largest file that is read: a region's settings are a few lines, anything larger is another file.
pub const ENV_FILE_BYTES_MAX: usize = 1024 * 1024;

/// One assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Line of the key, from 1.
    pub line: usize,
    /// The key: letters, digits and `_`, not starting with a digit.
    pub key: String,
    /// The value, quotes and escapes resolved.
    pub value: String,
}

/// What is wrong, and on which line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct EnvFileError {
    /// Line from 1.
    pub line: usize,
    /// What is wrong there.
    pub problem: EnvFileProblem,
}

/// What can be wrong in a file of settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvFileProblem {
    /// Not text.
    #[error("the line is not valid UTF-8; save the file as UTF-8 text")]
    NotUtf8,
    /// A NUL byte: no environment can hold it.
    #[error("the line holds a NUL byte; save the file as plain UTF-8 text")]
    Nul,
    /// An editor's byte order mark.
    #[error("the file starts with a byte order mark; save it as UTF-8 without one")]
    ByteOrderMark,
    /// Larger than [`ENV_FILE_BYTES_MAX`].
    #[error("the file is larger than {ENV_FILE_BYTES_MAX} bytes; name the file that holds the settings")]
    TooLarge,
    /// A shell's habit.
    #[error("this file is not a shell script; remove `export` and write {0}=value")]
    Export(String),
    /// A line that assigns nothing.
    #[error("no `=` in {0:?}; write KEY=value, or start a comment with `#`")]
    NoAssignment(String),
    /// The key has other characters.
    #[error("{0:?} is no setting's name; write KEY=value with letters, digits and `_` in KEY")]
    MalformedKey(String),
    /// A quote without its end.
    #[error("the value of {0} has an opening quote without a closing one; add the closing quote")]
    UnfinishedQuote(String),
    /// The same key again.
    #[error("{key} is already set on line {first}; remove one of the two")]
    Duplicate {
        /// The key.
        key: String,
        /// Its first line.
        first: usize,
    },
}

/// The names are systemd's, so that the two can be compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    PreKey,
    Key,
    PreValue,
    Value,
    ValueEscape,
    SingleQuoteValue,
    DoubleQuoteValue,
    DoubleQuoteValueEscape,
    Comment,
}

/// The assignment being read.
struct Pending {
    key: String,
    key_line: usize,
    value: String,
    /// Bytes of `value` that trimming must keep: what was quoted, escaped, or is no white space.
    keep: usize,
    quote_line: usize,
}

/// Parses a whole file.
///
/// # Errors
/// [`EnvFileError`], the first in the file.
pub fn parse(bytes: &[u8]) -> Result<Vec<Assignment>, EnvFileError> {
    let text = checked_text(bytes)?;
    let mut found = Found { assignments: Vec::new(), lines: HashMap::new() };
    let mut pending = Pending::new();
    let mut state = State::PreKey;
    let mut line = 1;
    for c in text.chars() {
        let newline = matches!(c, '\n' | '\r');
        match state {
            State::PreKey if matches!(c, '#' | ';') => state = State::Comment,
            State::PreKey if is_space(c) => {}
            State::PreKey => {
                pending = Pending::new();
                pending.key_line = line;
                // A line that starts with `=` has an empty key, which is refused as malformed.
                state = if c == '=' { State::PreValue } else { State::Key };
                if c != '=' {
                    pending.key.push(c);
                }
            }
            State::Key if newline => return Err(pending.without_assignment()),
            State::Key if c == '=' => state = State::PreValue,
            State::Key => pending.key.push(c),
            State::PreValue | State::Value if newline => {
                found.take(&mut pending)?;
                state = State::PreKey;
            }
            State::PreValue | State::Value if c == '\\' => state = State::ValueEscape,
            State::PreValue if matches!(c, '\'' | '"') => {
                pending.quote_line = line;
                state = if c == '"' { State::DoubleQuoteValue } else { State::SingleQuoteValue };
            }
            State::PreValue if is_space(c) => {}
            State::PreValue | State::Value => {
                pending.value.push(c);
                if !is_space(c) {
                    pending.keep = pending.value.len();
                }
                state = State::Value;
            }
            State::ValueEscape => {
                if !newline {
                    pending.push_kept(c);
                }
                state = State::Value;
            }
            State::SingleQuoteValue if c == '\'' => state = State::PreValue,
            State::DoubleQuoteValue if c == '"' => state = State::PreValue,
            State::DoubleQuoteValue if c == '\\' => state = State::DoubleQuoteValueEscape,
            State::SingleQuoteValue | State::DoubleQuoteValue => pending.push_kept(c),
            State::DoubleQuoteValueEscape => {
                match c {
                    '"' | '\\' | '`' | '$' => pending.push_kept(c),
                    '\n' => {}
                    _ => {
                        pending.push_kept('\\');
                        pending.push_kept(c);
                    }
                }
                state = State::DoubleQuoteValue;
            }
            State::Comment if newline => state = State::PreKey,
            State::Comment => {}
        }
        line += usize::from(c == '\n');
    }
    match state {
        State::PreKey | State::Comment => {}
        State::Key => return Err(pending.without_assignment()),
        State::PreValue | State::Value | State::ValueEscape => found.take(&mut pending)?,
        State::SingleQuoteValue | State::DoubleQuoteValue | State::DoubleQuoteValueEscape => {
            let key = pending.checked_key()?;
            return Err(EnvFileError { line: pending.quote_line, problem: EnvFileProblem::UnfinishedQuote(key) });
        }
    }
    Ok(found.assignments)
}

/// The file as text, or the line on which it stops being text.
fn checked_text(bytes: &[u8]) -> Result<&str, EnvFileError> {
    let line_at = |end: usize| 1 + bytes[..end].iter().filter(|byte| **byte == b'\n').count();
    if bytes.len() > ENV_FILE_BYTES_MAX {
        return Err(EnvFileError { line: 1, problem: EnvFileProblem::TooLarge });
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| EnvFileError { line: line_at(error.valid_up_to()), problem: EnvFileProblem::NotUtf8 })?;
    if let Some(at) = text.find('\0') {
        return Err(EnvFileError { line: line_at(at), problem: EnvFileProblem::Nul });
    }
    if text.starts_with('\u{feff}') {
        return Err(EnvFileError { line: 1, problem: EnvFileProblem::ByteOrderMark });
    }
    Ok(text)
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

impl Pending {
    fn new() -> Pending {
        Pending { key: String::new(), key_line: 1, value: String::new(), keep: 0, quote_line: 1 }
    }

    fn push_kept(&mut self, c: char) {
        self.value.push(c);
        self.keep = self.value.len();
    }

    fn error(&self, problem: EnvFileProblem) -> EnvFileError {
        EnvFileError { line: self.key_line, problem }
    }

    fn checked_key(&self) -> Result<String, EnvFileError> {
        let key = self.key.trim_end_matches(is_space);
        if let Some(exported) = key.strip_prefix("export").filter(|rest| rest.starts_with(is_space)) {
            return Err(self.error(EnvFileProblem::Export(exported.trim_matches(is_space).to_owned())));
        }
        let mut characters = key.chars();
        let valid = characters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
            && characters.all(|c| c.is_ascii_alphanumeric() || c == '_');
        if valid { Ok(key.to_owned()) } else { Err(self.error(EnvFileProblem::MalformedKey(key.to_owned()))) }
    }

    fn without_assignment(&self) -> EnvFileError {
        self.error(EnvFileProblem::NoAssignment(self.key.trim_end_matches(is_space).to_owned()))
    }
}

struct Found {
    assignments: Vec<Assignment>,
    /// Line of each key, for naming the first of two.
    lines: HashMap<String, usize>,
}

impl Found {
    fn take(&mut self, pending: &mut Pending) -> Result<(), EnvFileError> {
        let key = pending.checked_key()?;
        if let Some(first) = self.lines.insert(key.clone(), pending.key_line) {
            return Err(pending.error(EnvFileProblem::Duplicate { key, first }));
        }
        pending.value.truncate(pending.keep);
        let value = std::mem::take(&mut pending.value);
        self.assignments.push(Assignment { line: pending.key_line, key, value });
        Ok(())
    }
}
