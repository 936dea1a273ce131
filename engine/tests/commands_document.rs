//! docs/COMMANDS.md is written from the table of commands. `GODWIT_UPDATE_DOCS=1` writes it anew.
#![allow(clippy::unwrap_used)]

use std::fmt::Write;

use engine::frontend::resp::notes::{self, DIFFERENCES};
use engine::frontend::resp::table::{self, COMMANDS, Command};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/COMMANDS.md");

const HEAD: &str = "# Commands

Written from the table of commands by `GODWIT_UPDATE_DOCS=1 cargo test -p godwit-engine --test commands_document`; do not edit.
What holds for all commands stands in [REDIS.md](REDIS.md). Behaviour and error texts are those of Redis 7.0.15 but for what is
said below the tables.

*Arity* counts the command's name; a negative one is a minimum. *Since* is the version of Redis that brought the command, whatever
came with a later version than 7.0 included. `COMMAND INFO`, `COMMAND DOCS` and `HELP` answer from the same table.
";

fn document() -> String {
    let mut groups: Vec<&str> = Vec::new();
    for command in COMMANDS {
        if !groups.contains(&command.group) {
            groups.push(command.group);
        }
    }
    let mut text = HEAD.to_owned();
    for group in groups {
        let mut commands: Vec<&Command> = COMMANDS.iter().filter(|command| command.group == group).collect();
        commands.sort_by_key(|command| command.name);
        write!(text, "\n## {group}\n\n| command | arity | flags | since | |\n|---|---|---|---|---|\n").unwrap();
        commands.iter().for_each(|command| row(&mut text, command));
        let described = commands.iter().flat_map(|command| with_subcommands(command));
        let mut differences = described.filter_map(|command| Some((command, difference(command.name)?))).peekable();
        if differences.peek().is_some() {
            text.push_str("\nDifferences:\n\n");
        }
        for (command, difference) in differences {
            writeln!(text, "- **`{}`** {difference}", shown(command)).unwrap();
        }
    }
    text
}

fn with_subcommands(command: &'static Command) -> impl Iterator<Item = &'static Command> {
    std::iter::once(command).chain(command.subcommands())
}

fn row(text: &mut String, command: &'static Command) {
    for command in with_subcommands(command) {
        let (name, flags, since) = (shown(command), command.flags.join(" "), notes::since(command.name));
        writeln!(text, "| `{name}` | {} | {flags} | {since} | {} |", command.arity, command.summary).unwrap();
    }
}

fn shown(command: &Command) -> String {
    command.name.replace('|', " ").to_uppercase()
}

fn difference(name: &str) -> Option<&'static str> {
    DIFFERENCES.iter().find(|(command, _)| *command == name).map(|(_, difference)| *difference)
}

#[test]
fn the_document_lists_exactly_these_commands() {
    let expected = document();
    if std::env::var_os("GODWIT_UPDATE_DOCS").is_some() {
        std::fs::write(PATH, &expected).unwrap();
    }
    let found = std::fs::read_to_string(PATH).unwrap_or_default();
    let differs = found.lines().zip(expected.lines()).find(|(found, expected)| found != expected);
    assert!(found == expected, "docs/COMMANDS.md differs from the table, first in {differs:?}: see its head");
}

#[test]
fn every_command_is_described_and_every_description_has_a_command() {
    for command in COMMANDS.iter().flat_map(with_subcommands) {
        assert!(!command.summary.is_empty() && !command.group.is_empty(), "{}", command.name);
        assert_eq!(command.keys.0 == 0, command.keys.2 == 0, "{}: keys and their step go together", command.name);
        assert_ne!(command.arity, 0, "{}", command.name);
        assert_eq!(command.name, command.name.to_lowercase());
    }
    for (name, _) in DIFFERENCES {
        assert!(table::find_whole(name.as_bytes()).is_some(), "{name} is no command");
    }
    let mut names: Vec<&str> = COMMANDS.iter().flat_map(with_subcommands).map(|command| command.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "a command has two rows");
}
