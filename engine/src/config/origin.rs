//! Where settings come from: each one's text and the place that an error or the check report names.

use std::fmt;
use std::path::{Path, PathBuf};

use clap::ArgMatches;

use super::settings::{SETTINGS, Setting, suggestion};
use super::{ConfigError, Surroundings, command, env_file};

/// Where the value in force was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere.
    Default,
    /// Nowhere; it follows from something else, which is named.
    Derived(String),
    /// In the file, on this line.
    File(PathBuf, usize),
    /// In the environment.
    Environment,
    /// On the command line, by this flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::Derived(from) => f.write_str(from),
            Origin::File(path, line) => write!(f, "{}:{line}", path.display()),
            Origin::Environment => f.write_str("environment"),
            Origin::Flag(flag) => write!(f, "--{flag}"),
        }
    }
}

/// The text of every setting that was given, and all origins; rows are those of [`SETTINGS`].
pub(super) struct Given {
    texts: Vec<Option<String>>,
    origins: Vec<Origin>,
}

impl Given {
    /// Collects from the file, the environment and the flags; later ones win.
    pub(super) fn collect(matches: &ArgMatches, around: &Surroundings<'_>) -> Result<Given, ConfigError> {
        let mut given = Given { texts: vec![None; SETTINGS.len()], origins: vec![Origin::Default; SETTINGS.len()] };
        if let Some(path) = command::env_file(matches) {
            given.read_file(path, around)?;
        }
        for row in &SETTINGS {
            if let Some(value) = (around.environment)(row.key) {
                let text = value.into_string().map_err(|_| ConfigError::Setting {
                    key: row.key,
                    origin: Origin::Environment,
                    value: String::new(),
                    problem: "not valid UTF-8; write it in UTF-8".into(),
                })?;
                given.set(row.setting, text, Origin::Environment);
            }
            if let Some(text) = command::flag(matches, row.flag) {
                given.set(row.setting, text, Origin::Flag(row.flag));
            }
        }
        Ok(given)
    }

    fn read_file(&mut self, path: &Path, around: &Surroundings<'_>) -> Result<(), ConfigError> {
        let bytes =
            (around.read_file)(path).map_err(|source| ConfigError::ReadFile { path: path.to_owned(), source })?;
        let assignments =
            env_file::parse(&bytes).map_err(|source| ConfigError::File { path: path.to_owned(), source })?;
        for assignment in assignments {
            let Some(setting) = Setting::from_key(&assignment.key) else {
                let advice = match suggestion(&assignment.key) {
                    Some(known) => format!("did you mean {known}?"),
                    None => "remove the line; --help lists all settings".to_owned(),
                };
                return Err(ConfigError::UnknownKey {
                    path: path.to_owned(),
                    line: assignment.line,
                    key: assignment.key,
                    advice,
                });
            };
            self.set(setting, assignment.value, Origin::File(path.to_owned(), assignment.line));
        }
        Ok(())
    }

    fn set(&mut self, setting: Setting, text: String, origin: Origin) {
        let text = text.trim();
        self.texts[setting as usize] = (!text.is_empty()).then(|| text.to_owned());
        self.origins[setting as usize] = origin;
    }

    /// The text, unless it is absent or empty.
    pub(super) fn text(&self, setting: Setting) -> Option<&str> {
        self.texts[setting as usize].as_deref()
    }

    /// The text as `parse` reads it; `None` if it is absent.
    pub(super) fn parsed<T>(
        &self,
        setting: Setting,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        self.text(setting).map(parse).transpose().map_err(|problem| self.error(setting, problem))
    }

    /// An error that names the setting, where it was written and what was written.
    pub(super) fn error(&self, setting: Setting, problem: String) -> ConfigError {
        let value: String = self.text(setting).unwrap_or_default().chars().take(80).collect();
        let origin = self.origins[setting as usize].clone();
        ConfigError::Setting { key: setting.row().key, origin, value: value.escape_debug().to_string(), problem }
    }

    pub(super) fn derived(&mut self, setting: Setting, because: Option<String>) {
        if let (None, Some(because)) = (self.text(setting), because) {
            self.origins[setting as usize] = Origin::Derived(because);
        }
    }

    pub(super) fn into_origins(self) -> Vec<Origin> {
        self.origins
    }
}
