//! The flags: one per setting, generated from the table, so that `godwitd` and `godwit daemon` have the same ones.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::settings::SETTINGS;

const ENV_FILE: &str = "env-file";
const CHECK: &str = "check";

/// A command called `name` that takes all settings as flags, `--env-file`, `--check`, `--help` and `--version`.
#[must_use]
pub fn command(name: &'static str) -> Command {
    let command = Command::new(name)
        .version(env!("CARGO_PKG_VERSION"))
        .about("The per-region daemon of a geo-replicated store")
        .after_help("A flag beats the environment, the environment beats the file. An empty value means the default.")
        .arg(
            Arg::new(ENV_FILE)
                .long(ENV_FILE)
                .value_name("PATH")
                .value_parser(value_parser!(PathBuf))
                .help("File of settings, KEY=value, in the grammar of systemd's EnvironmentFile"),
        )
        .arg(
            Arg::new(CHECK)
                .long(CHECK)
                .action(ArgAction::SetTrue)
                .help("Print every effective setting with its origin and exit"),
        );
    SETTINGS.iter().fold(command, |command, row| {
        let help = format!("{} [{}; default: {}]", row.help, row.key, row.default);
        // A value may start with a dash and must then be refused by its own rule, which says what to write.
        command.arg(Arg::new(row.flag).long(row.flag).value_name(row.form).allow_hyphen_values(true).help(help))
    })
}

/// Whether `--check` was given.
#[must_use]
pub fn wants_check(matches: &ArgMatches) -> bool {
    matches.get_flag(CHECK)
}

/// The file of `--env-file`.
pub(super) fn env_file(matches: &ArgMatches) -> Option<&PathBuf> {
    matches.get_one(ENV_FILE)
}

/// The value of one setting's flag.
pub(super) fn flag(matches: &ArgMatches, name: &str) -> Option<String> {
    matches.get_one::<String>(name).cloned()
}
