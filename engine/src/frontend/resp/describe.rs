//! `COMMAND`: the table as clients ask for it.

use net::resp::{Args, Protocol, reply};

use super::scan::glob;
use super::table::{self, COMMANDS, Command, Kind, SessionVerb};
use super::{SYNTAX_ERROR, notes, wrong_arity};

/// Answers `COMMAND`; `args` starts with its name and was checked for arity.
///
/// # Errors
/// Redis' error text.
pub(super) fn command(args: Args<'_>, protocol: Protocol, out: &mut Vec<u8>) -> Result<(), String> {
    let names = args.from(2);
    match args.get(1).map(<[u8]>::to_ascii_uppercase).as_deref() {
        None => describe_all(out, protocol),
        Some(b"INFO") if names.is_empty() => describe_all(out, protocol),
        Some(b"INFO") => {
            reply::array_header(out, names.len());
            for name in names.iter() {
                match table::find_whole(name) {
                    Some(command) => command.describe(out, protocol),
                    None => reply::null_array(out, protocol),
                }
            }
        }
        Some(b"DOCS") => document(names, out, protocol),
        Some(b"LIST") => list(names, out)?,
        Some(b"GETKEYS") => keys_of(names, out)?,
        // The container's table knows no other.
        _ => reply::integer(out, i64::try_from(COMMANDS.len()).unwrap_or(i64::MAX)),
    }
    Ok(())
}

fn describe_all(out: &mut Vec<u8>, protocol: Protocol) {
    reply::array_header(out, COMMANDS.len());
    COMMANDS.iter().for_each(|command| command.describe(out, protocol));
}

fn document(names: Args<'_>, out: &mut Vec<u8>, protocol: Protocol) {
    let chosen: Vec<&Command> =
        if names.is_empty() { COMMANDS.iter().collect() } else { names.iter().filter_map(table::find_whole).collect() };
    reply::map_header(out, protocol, chosen.len());
    chosen.iter().for_each(|command| command.document(out, protocol));
}

/// `COMMAND LIST [FILTERBY MODULE|ACLCAT|PATTERN value]`.
fn list(options: Args<'_>, out: &mut Vec<u8>) -> Result<(), String> {
    let all = COMMANDS.iter().flat_map(|command| std::iter::once(command).chain(command.subcommands()));
    let chosen: Vec<&Command> = match options.len() {
        0 => all.collect(),
        3 if options[0].eq_ignore_ascii_case(b"FILTERBY") => {
            let value = options[2].to_ascii_lowercase();
            match options[1].to_ascii_uppercase().as_slice() {
                b"MODULE" => Vec::new(),
                b"ACLCAT" => all.filter(|command| command.is_of_category(&value)).collect(),
                b"PATTERN" => all.filter(|command| glob(&value, command.name.as_bytes())).collect(),
                _ => return Err(SYNTAX_ERROR.into()),
            }
        }
        _ => return Err(SYNTAX_ERROR.into()),
    };
    reply::array_header(out, chosen.len());
    chosen.iter().for_each(|command| reply::bulk(out, command.name.as_bytes()));
    Ok(())
}

/// `COMMAND GETKEYS command…`.
fn keys_of(request: Args<'_>, out: &mut Vec<u8>) -> Result<(), String> {
    let container = request.get(0).and_then(table::find).ok_or("ERR Invalid command specified")?;
    let command = match container.kind {
        Kind::Container(_) if request.len() > 1 => {
            container.subcommand(&request[1]).ok_or("ERR Invalid command specified")?
        }
        _ => container,
    };
    if command.keys.0 == 0 {
        return Err("ERR The command has no key arguments".into());
    }
    if !command.accepts(request.len()) {
        return Err("ERR Invalid number of arguments specified for command".into());
    }
    let keys: Vec<&[u8]> = command.key_places(request.len()).filter_map(|at| request.get(at)).collect();
    reply::array_header(out, keys.len());
    keys.iter().for_each(|key| reply::bulk(out, key));
    Ok(())
}

/// `HELP` of a container: its subcommands, each with its summary.
pub(super) fn help(args: Args<'_>, out: &mut Vec<u8>) -> Result<(), String> {
    let container = table::find(&args[0]).ok_or_else(|| wrong_arity("help"))?;
    let subcommands = container.subcommands();
    reply::array_header(out, 1 + 2 * subcommands.len());
    let name = container.name.to_ascii_uppercase();
    reply::simple(out, &format!("{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    for subcommand in subcommands {
        reply::simple(out, &subcommand.own_name().to_ascii_uppercase());
        reply::simple(out, &format!("    {}", subcommand.summary));
    }
    Ok(())
}

impl Command {
    /// The name without that of the container.
    #[must_use]
    pub fn own_name(&self) -> &'static str {
        self.name.split_once('|').map_or(self.name, |(_, own)| own)
    }

    /// Where the keys of a request of `count` arguments are.
    pub fn key_places(&self, count: usize) -> impl Iterator<Item = usize> {
        let (first, last, step) = self.keys;
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let last = if last < 0 { count + last } else { last };
        let first = if first == 0 { last + 1 } else { first };
        let step = usize::try_from(step).unwrap_or(1).max(1);
        (first..=last).step_by(step).filter_map(|at| usize::try_from(at).ok())
    }

    /// Redis' ACL categories, without the `@`.
    #[must_use]
    pub fn categories(&self) -> Vec<&'static str> {
        let has = |flag: &str| self.flags.contains(&flag);
        let container = matches!(self.kind, Kind::Container(_)) && self.name != "command";
        let operator = has("admin") || self.name == "role";
        let database = ["dbsize", "flushdb", "flushall"].contains(&self.name);
        let dangerous = operator || ["keys", "flushdb", "flushall", "info"].contains(&self.name);
        let of_connection = self.group == "connection" || self.name.starts_with("command");
        let waits = matches!(self.kind, Kind::Session(SessionVerb::Wait | SessionVerb::WaitAof));
        let all = [
            ("keyspace", !container && !waits && (self.group == "generic" || database)),
            ("read", has("readonly")),
            ("write", has("write")),
            ("string", self.group == "string"),
            ("admin", operator),
            ("fast", has("fast")),
            ("slow", !has("fast")),
            ("blocking", has("blocking")),
            ("dangerous", dangerous),
            ("connection", !container && (of_connection || waits)),
            ("transaction", self.group == "transactions"),
        ];
        all.into_iter().filter(|(_, holds)| *holds).map(|(name, _)| name).collect()
    }

    fn is_of_category(&self, name: &[u8]) -> bool {
        self.categories().iter().any(|category| category.as_bytes() == name)
    }

    fn describe(&self, out: &mut Vec<u8>, protocol: Protocol) {
        reply::array_header(out, 10);
        reply::bulk(out, self.name.as_bytes());
        reply::integer(out, self.arity);
        reply::set_header(out, protocol, self.flags.len());
        for flag in self.flags {
            reply::simple(out, flag);
        }
        reply::integer(out, self.keys.0);
        reply::integer(out, self.keys.1);
        reply::integer(out, self.keys.2);
        let categories = self.categories();
        reply::set_header(out, protocol, categories.len());
        for category in categories {
            reply::simple(out, &format!("@{category}"));
        }
        // Tips and key specifications: none.
        for _ in 0..2 {
            reply::array_header(out, 0);
        }
        let subcommands = self.subcommands();
        reply::array_header(out, subcommands.len());
        subcommands.iter().for_each(|subcommand| subcommand.describe(out, protocol));
    }

    fn document(&self, out: &mut Vec<u8>, protocol: Protocol) {
        let subcommands = self.subcommands();
        let rows = [("summary", self.summary), ("since", notes::since(self.name)), ("group", self.group)];
        reply::bulk(out, self.name.as_bytes());
        reply::map_header(out, protocol, rows.len() + usize::from(!subcommands.is_empty()));
        for (key, value) in rows {
            reply::bulk(out, key.as_bytes());
            reply::bulk(out, value.as_bytes());
        }
        if !subcommands.is_empty() {
            reply::bulk(out, b"subcommands");
            reply::map_header(out, protocol, subcommands.len());
            subcommands.iter().for_each(|subcommand| subcommand.document(out, protocol));
        }
    }
}
