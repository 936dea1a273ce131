//! The live table, and the lines to try.

use std::io::{IsTerminal, Write};

use comfy_table::{Table, presets};
use engine::control::status::PeerStatus;
use engine::monitor::http::StatusReply;

use super::region::{self, Region};

/// Prints what the lab is and what to try in it.
pub(crate) fn introduce(regions: &[Region], takes_commands: bool) {
    let mut text = String::from("Three regions are up; each takes reads and writes. Try, in other terminals:\n\n");
    for region in regions {
        let (name, ip) = (region.name(), region.storage().ip());
        let (prefix, port) = (region.prefix(), region.storage().port());
        text += &format!("  {prefix}redis-cli -h {ip} -p {port} SET greeting 'hello from {name}'    # {name}\n");
    }
    if let [first, .., last] = regions {
        let (prefix, ip, port) = (last.prefix(), last.storage().ip(), last.storage().port());
        text += &format!(
            "  {prefix}redis-cli -h {ip} -p {port} GET greeting    # {}, {} ms away from {}\n",
            last.name(),
            region::one_way_ms(first.index(), last.index()),
            first.name(),
        );
        text += &format!(
            "  kill -9 {}    # {} goes dark and is started again after {} s\n",
            last.pid(),
            last.name(),
            super::DARK_FOR.as_secs()
        );
        if takes_commands {
            let (first, last) = (first.name(), last.name());
            text += &format!("  godwit lab cut {first} {last}    # or, as a line typed here: cut {first} {last}\n");
            text += &format!(
                "  godwit lab heal    # also: loss {first} {last} 0.5, rate {first} {last} 100, links, help\n"
            );
        }
        text += "\nCtrl-C stops the lab.\n";
    }
    print(&text);
}

/// Draws over its last picture on a terminal; elsewhere only prints when something changed.
#[derive(Debug, Default)]
pub(crate) struct Screen {
    lines: usize,
    last: String,
}

impl Screen {
    /// Shows the present state of all regions.
    pub(crate) fn draw(&mut self, regions: &[Region]) {
        let text = picture(regions);
        if std::io::stdout().is_terminal() {
            // The empty line below the table counts.
            let lines = text.lines().count() + 1;
            if self.lines == lines {
                // Line by line, then back to where the cursor was: what is being typed there stays.
                let text = text.replace('\n', "\x1b[K\r\n");
                write(&format!("\x1b7\r\x1b[{lines}A{text}\x1b[K\x1b8"));
            } else {
                let up = if self.lines > 0 { format!("\r\x1b[{}A\x1b[J", self.lines) } else { String::new() };
                print(&format!("{up}{text}\n"));
            }
            self.lines = lines;
        } else if text != self.last {
            print(&format!("{text}\n"));
        }
        self.last = text;
    }

    /// Shows a text, after a line was typed; the next picture comes below.
    pub(crate) fn show(&mut self, text: &str) {
        print(text.trim_end());
        *self = Screen::default();
    }
}

/// One row per region and peer.
pub(crate) fn picture(regions: &[Region]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header([
        "region",
        "node",
        "keys",
        "peer",
        "link",
        "rtt ms",
        "clock ms",
        "lag ms",
        "not acked",
        "peer has of mine",
        "I have of its",
    ]);
    for region in regions {
        match region.status() {
            None => {
                table.add_row([region.name(), "–", "–", "–", "down"]);
            }
            Some(reply) => rows(&mut table, &reply),
        }
    }
    table.to_string()
}

fn rows(table: &mut Table, reply: &StatusReply) {
    for (index, peer) in reply.status.peers.iter().enumerate() {
        let first = |text: String| if index == 0 { text } else { String::new() };
        table.add_row([
            first(reply.region.clone()),
            first(reply.node.clone()),
            first(reply.live_keys.to_string()),
            if peer.region.is_empty() { peer.address.clone() } else { peer.region.clone() },
            link(peer).to_owned(),
            peer.rtt_us.map_or_else(|| "–".to_owned(), |us| format!("{}.{}", us / 1000, us % 1000 / 100)),
            clock(peer),
            peer.lag_ms.to_string(),
            peer.unacknowledged_records.to_string(),
            watermark(peer.acknowledged),
            watermark(peer.held),
        ]);
    }
}

/// How far the peer's clock is ahead of the region's, and how sure that is.
fn clock(peer: &PeerStatus) -> String {
    let (Some(offset), Some(uncertainty)) = (peer.clock_offset_ms, peer.clock_uncertainty_ms) else {
        return "–".to_owned();
    };
    let alarm = if peer.clock_alarm { " !" } else { "" };
    format!("{offset:+}±{uncertainty}{alarm}")
}

fn link(peer: &PeerStatus) -> &'static str {
    match (peer.following, peer.followed) {
        (true, true) => "both ways",
        (true, false) => "in only",
        (false, true) => "out only",
        (false, false) => "down",
    }
}

/// A version as time of day in UTC, so that positions of different regions compare at a glance.
fn watermark(version: u64) -> String {
    if version == 0 {
        return "–".to_owned();
    }
    let ms = wal::Version(version).unix_ms();
    let (seconds, ms) = (ms / 1000, ms % 1000);
    format!("{:02}:{:02}:{:02}.{ms:03}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}

/// Prints to standard output; a closed pipe is no error of the lab.
pub(crate) fn print(text: &str) {
    write(&format!("{text}\n"));
}

fn write(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}
