//! `godwit conflicts`: the latest writes of other regions that lost against later ones of a node which did not know them.

use std::io;
use std::net::SocketAddr;

use clap::Args;
use comfy_table::{Table, presets};
use engine::monitor::conflicts::{Conflict, ConflictsReply, Shown};
use wal::Version;

use crate::members::{MembersError, ask_admin};

/// Characters of a key, and of a value, in the table.
const SHOWN_CHARS_MAX: usize = 40;

/// Whom to ask.
#[derive(Debug, Args)]
pub struct ConflictsOptions {
    /// Admin address of the node (BIND_HOST and ADMIN_PORT there).
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:10800")]
    admin: SocketAddr,
    /// Print JSON, with all that the node kept of each value.
    #[arg(long)]
    json: bool,
}

/// Prints what a node kept.
///
/// # Errors
/// See [`MembersError`].
pub fn list(options: &ConflictsOptions, out: &mut dyn io::Write) -> Result<(), MembersError> {
    let reply: ConflictsReply = ask_admin(options.admin, "/api/conflicts")?;
    let text = if options.json {
        serde_json::to_string_pretty(&reply).unwrap_or_default()
    } else {
        let counted = reply.counted;
        format!("{}\n{counted} counted since the node of {} started", table(&reply.conflicts), reply.region)
    };
    writeln!(out, "{text}").map_err(MembersError::Output)
}

fn table(conflicts: &[Conflict]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["key", "lost value", "bytes", "of region", "node", "written", "older by ms", "lost against"]);
    for conflict in conflicts {
        let (lost, winner) = (Version(conflict.version), Version(conflict.winner_version));
        table.add_row([
            shown(&conflict.key),
            conflict.value.as_ref().map_or_else(|| "(deletion)".to_owned(), shown),
            conflict.value_bytes.to_string(),
            conflict.region.clone(),
            conflict.origin.clone(),
            time_of_day(lost.unix_ms()),
            winner.ms().saturating_sub(lost.ms()).to_string(),
            if conflict.winner_deletes { "a deletion" } else { "a value" }.to_owned(),
        ]);
    }
    table
}

/// The beginning, in characters that do nothing to a terminal.
fn shown(bytes: &Shown) -> String {
    let text = match bytes {
        Shown::Text(text) => text.escape_debug().to_string(),
        Shown::Hex(hex) => format!("0x{hex}"),
    };
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// In UTC.
fn time_of_day(unix_ms: u64) -> String {
    let (seconds, ms) = (unix_ms / 1000, unix_ms % 1000);
    format!("{:02}:{:02}:{:02}.{ms:03}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_was_lost_and_whose_it_was() {
        let conflict = Conflict {
            key: Shown::Text("cart:7\n\u{1b}".into()),
            value: Some(Shown::Hex("ab".repeat(100))),
            value_bytes: 100,
            origin: "000000ab".into(),
            region: "nyc".into(),
            version: Version::new(3_723_004, 0, 0).0,
            winner_version: Version::new(3_723_041, 0, 0).0,
            winner_deletes: false,
        };
        let deletion = Conflict { value: None, winner_deletes: true, ..conflict.clone() };
        let text = table(&[conflict, deletion]).to_string();
        let rows: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        let value = format!("0x{}…", "ab".repeat(19));
        let first = [r"cart:7\n\u{1b}", &value, "100", "nyc", "000000ab", "01:02:03.004", "37", "a", "value"];
        assert_eq!(rows[0], first);
        assert_eq!(rows[1][1..2], ["(deletion)"]);
        assert_eq!(rows[1][7..], ["a", "deletion"]);
    }
}
