//! `godwit repair`: a node compares itself with every peer now, and fetches what it lost. It goes to the node's discovery port, which takes it from
//! processes of the same host only.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use net::wire::body::{Repair, Repaired};
use net::wire::message::Message;

use crate::members::ask_within;

/// Whom to ask.
#[derive(Debug, Args)]
pub struct Options {
    /// Discovery address of the node to repair, on this host (BIND_HOST and DISCOVERY_PORT there).
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:10200")]
    discovery: SocketAddr,
    /// How long to wait for the end, in seconds. The node goes on without anybody who waits.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    wait: u64,
}

/// Why it did not work, or not wholly.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The node does not answer.
    #[error(
        "{addr} does not answer as a godwit node: {reason}; is it up, and is this the address of its DISCOVERY_PORT?"
    )]
    NoNode {
        /// Who was asked.
        addr: SocketAddr,
        /// What happened.
        reason: String,
    },
    /// The node says no.
    #[error("{0}")]
    Refused(String),
    /// Something is left.
    #[error("{0}")]
    NotWhole(String),
    /// The result cannot be printed.
    #[error("standard output: {0}")]
    Output(io::Error),
}

/// Asks, waits, and prints what came of it.
///
/// # Errors
/// See [`RepairError`].
pub fn run(options: &Options, out: &mut dyn io::Write) -> Result<(), RepairError> {
    let no_node = |reason: String| RepairError::NoNode { addr: options.discovery, reason };
    match ask_within(options.discovery, &Message::Repair(Repair), Duration::from_secs(options.wait)).map_err(no_node)? {
        Message::Repaired(repaired) => {
            writeln!(out, "{}", text(&repaired)).map_err(RepairError::Output)?;
            rest(&repaired).map_or(Ok(()), |rest| Err(RepairError::NotWhole(rest)))
        }
        Message::Error(failed) => Err(RepairError::Refused(failed.text)),
        Message::Refuse(refuse) => Err(RepairError::Refused(refuse.text)),
        message => Err(no_node(format!("it answers {}", message.opcode().name()))),
    }
}

fn text(repaired: &Repaired) -> String {
    let Repaired { compared, lacking, repaired, .. } = *repaired;
    match lacking {
        0 => format!("compared with {compared} peers: nothing that this node holds was lost"),
        _ => format!("compared with {compared} peers: {lacking} keys were lost here, {repaired} were fetched"),
    }
}

/// What is still to be done.
fn rest(repaired: &Repaired) -> Option<String> {
    let left = repaired.lacking.saturating_sub(repaired.repaired);
    match (repaired.not_compared, left) {
        (0, 0) => None,
        (0, left) => Some(format!("{left} keys could not be fetched; ask again, and see `godwit verify`")),
        (peers, _) => Some(format!("{peers} peers could not be asked; ask again once they are up")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_to_do_is_an_error() {
        let whole = Repaired { compared: 2, not_compared: 0, lacking: 3, repaired: 3 };
        assert_eq!(
            (text(&whole).as_str(), rest(&whole)),
            ("compared with 2 peers: 3 keys were lost here, 3 were fetched", None)
        );
        assert!(
            text(&Repaired { lacking: 0, repaired: 0, ..whole }).ends_with("nothing that this node holds was lost")
        );
        assert!(rest(&Repaired { repaired: 2, ..whole }).is_some_and(|rest| rest.starts_with("1 keys")));
        assert!(rest(&Repaired { not_compared: 1, ..whole }).is_some_and(|rest| rest.starts_with("1 peers")));
    }
}
