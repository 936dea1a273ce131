//! `godwit members` and `godwit member remove`: who belongs to the mesh, as one of its nodes sees it.
//!
//! The list comes from the node's admin port. A removal goes to its discovery port, which takes it from processes of the same host only.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use engine::control::status::{MemberStatus, Status};
use engine::monitor::http::StatusReply;
use engine::replication::catch_up::Progress;
use net::ids::{NodeId, RequestId};
use net::wire::body::RemoveMember;
use net::wire::frame::FrameReader;
use net::wire::message::Message;
use serde::de::DeserializeOwned;
use wal::Version;

/// A node that lives answers within this.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What to list.
#[derive(Debug, Args)]
pub struct ListOptions {
    /// Admin address of any node of the mesh (BIND_HOST and ADMIN_PORT there).
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:10800")]
    admin: SocketAddr,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What to change.
#[derive(Debug, Subcommand)]
pub enum MemberCommand {
    /// Remove a node from the mesh for good: its links are closed, nothing is kept for it any more, and its id never joins again.
    Remove(RemoveOptions),
}

/// Whom to remove.
#[derive(Debug, Args)]
pub struct RemoveOptions {
    /// The node's id, as `godwit members` shows it.
    #[arg(value_parser = parse_node)]
    node: NodeId,
    /// Discovery address of another node of the mesh, on this host (BIND_HOST and DISCOVERY_PORT there).
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:10200")]
    discovery: SocketAddr,
}

/// Why it did not work.
#[derive(Debug, thiserror::Error)]
pub enum MembersError {
    /// The node does not answer.
    #[error("{addr} does not answer as a godwit node: {reason}; is it up, and is this the address of its {setting}?")]
    NoNode {
        /// Who was asked.
        addr: SocketAddr,
        /// The setting that gives the port.
        setting: &'static str,
        /// What happened.
        reason: String,
    },
    /// The node says no.
    #[error("{0}")]
    Refused(String),
    /// The list cannot be printed.
    #[error("standard output: {0}")]
    Output(io::Error),
}

/// A node id as it is shown: up to eight hexadecimal digits.
fn parse_node(text: &str) -> Result<NodeId, String> {
    let is_hex = (1..=8).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let parsed = is_hex.then(|| u32::from_str_radix(text, 16).ok()).flatten();
    parsed.map(NodeId).ok_or_else(|| "a node id is up to eight hexadecimal digits, as `godwit members` shows it".into())
}

/// Prints the members of the mesh.
///
/// # Errors
/// See [`MembersError`].
pub fn list(options: &ListOptions, out: &mut dyn io::Write) -> Result<(), MembersError> {
    let reply: StatusReply = ask_admin(options.admin, "/api/status")?;
    let text = if options.json {
        serde_json::to_string_pretty(&reply.status.members).unwrap_or_default()
    } else {
        table(&reply.status).to_string()
    };
    writeln!(out, "{text}").map_err(MembersError::Output)?;
    if reply.status.removed {
        return Err(MembersError::Refused(engine::control::status::REMOVED.into()));
    }
    Ok(())
}

/// What the node whose admin port this is says of itself.
///
/// # Errors
/// [`MembersError::NoNode`].
pub fn status(admin: SocketAddr) -> Result<StatusReply, MembersError> {
    ask_admin(admin, "/api/status")
}

/// What a node's admin port answers.
pub(crate) fn ask_admin<T: DeserializeOwned>(admin: SocketAddr, path: &str) -> Result<T, MembersError> {
    let no_node = |reason: String| MembersError::NoNode { addr: admin, setting: "ADMIN_PORT", reason };
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(ANSWER_WITHIN)).build().into();
    let url = format!("http://{admin}{path}");
    let answer = agent.get(&url).call().map_err(|error| no_node(error.to_string()))?;
    let text = answer.into_body().read_to_string().map_err(|error| no_node(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| no_node(error.to_string()))
}

fn table(status: &Status) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["node", "region", "state", "link", "acknowledged", "catching up with it"]);
    for member in &status.members {
        let is_other = member.state == "joined" && !member.myself;
        let link = match (member.myself, member.connected) {
            (true, _) => "this node",
            (false, true) => "up",
            (false, false) if is_other => "down",
            _ => "-",
        };
        let catching_up = member.catch_up.map_or_else(|| "-".into(), catching_up);
        let acknowledged = if is_other { acknowledged(member, status.complete) } else { "-".into() };
        table.add_row([&member.node, &member.region, &member.state, link, &acknowledged, &catching_up]);
    }
    table
}

/// How much of what the asked node wrote in this run a member has durably.
fn acknowledged(member: &MemberStatus, complete: u64) -> String {
    if member.acknowledged == 0 {
        "not heard yet".into()
    } else if member.acknowledged >= complete {
        "everything".into()
    } else {
        let behind_ms = Version(complete).ms().saturating_sub(Version(member.acknowledged).ms());
        format!("{behind_ms} ms behind")
    }
}

/// How far the asked node has caught up with a member, how fast, and for how long it will go on.
fn catching_up(catch_up: Progress) -> String {
    let megabytes = |bytes: u64| format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10);
    let left = catch_up.left_seconds.map_or_else(String::new, |seconds| format!(", {seconds} s left"));
    format!("{}, {}/s{left}", megabytes(catch_up.bytes), megabytes(catch_up.bytes_per_second))
}

/// Changes the membership.
///
/// # Errors
/// See [`MembersError`].
pub fn change(command: &MemberCommand, out: &mut dyn io::Write) -> Result<(), MembersError> {
    let MemberCommand::Remove(RemoveOptions { node, discovery }) = command;
    let no_node = |reason: String| MembersError::NoNode { addr: *discovery, setting: "DISCOVERY_PORT", reason };
    match ask(*discovery, &Message::RemoveMember(RemoveMember { node: *node })).map_err(no_node)? {
        Message::Ok(_) => {
            let text =
                format!("node {node} is removed from the mesh for good; take it out of DISCOVERY_PEERS of the others");
            writeln!(out, "{text}").map_err(MembersError::Output)
        }
        Message::Error(failed) => Err(MembersError::Refused(failed.text)),
        Message::Refuse(refuse) => Err(MembersError::Refused(refuse.text)),
        message => Err(no_node(format!("it answers {}", message.opcode().name()))),
    }
}

fn ask(addr: SocketAddr, message: &Message) -> Result<Message, String> {
    ask_within(addr, message, ANSWER_WITHIN)
}

/// One request and its answer.
pub(crate) fn ask_within(addr: SocketAddr, message: &Message, within: Duration) -> Result<Message, String> {
    let text = |error: io::Error| error.to_string();
    let mut stream = TcpStream::connect_timeout(&addr, ANSWER_WITHIN).map_err(text)?;
    stream.set_read_timeout(Some(within.max(Duration::from_millis(1)))).map_err(text)?;
    let mut bytes = Vec::new();
    message.encode(RequestId(1), &mut bytes).map_err(|error| error.to_string())?;
    stream.write_all(&bytes).map_err(text)?;
    let (mut reader, mut chunk) = (FrameReader::new(), [0; 1024]);
    loop {
        if let Some(frame) = reader.next().map_err(|error| error.to_string())? {
            return Message::decode(&frame).map_err(|error| error.to_string());
        }
        match stream.read(&mut chunk).map_err(text)? {
            0 => return Err("it closed the connection".into()),
            read => reader.feed(&chunk[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ids_are_read_as_they_are_shown() {
        assert_eq!(parse_node(&NodeId(0xabc).to_string()), Ok(NodeId(0xabc)));
        for wrong in ["", "0x12", "123456789", "-1", "+1", "zz"] {
            assert!(parse_node(wrong).unwrap_err().contains("eight hexadecimal digits"), "{wrong}");
        }
    }

    #[test]
    fn the_table_says_who_is_there_and_who_has_what() {
        let member = |node: u32, state: &str, connected, acknowledged| MemberStatus {
            node: NodeId(node).to_string(),
            region: "nyc".into(),
            state: state.into(),
            myself: node == 1,
            connected,
            acknowledged,
            catch_up: None,
        };
        let at = |ms| Version::new(ms, 0, 0).0;
        let catch_up =
            Progress { bytes: 12_345_678, bytes_per_second: 2_000_000, left_seconds: Some(7), ..Progress::default() };
        let mut members = vec![
            member(1, "joined", false, 0),
            member(2, "joined", true, at(5000)),
            member(3, "joined", false, at(4000)),
            member(4, "joined", true, 0),
            member(5, "removed", false, 0),
        ];
        members[2].catch_up = Some(catch_up);
        let text = table(&Status { members, complete: at(5000), ..Status::default() }).to_string();
        let rows: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["00000001", "nyc", "joined", "this", "node", "-", "-"]);
        assert_eq!(rows[1], ["00000002", "nyc", "joined", "up", "everything", "-"]);
        assert_eq!(
            rows[2],
            [
                "00000003", "nyc", "joined", "down", "1000", "ms", "behind", "12.3", "MB,", "2.0", "MB/s,", "7", "s",
                "left"
            ]
        );
        assert_eq!(rows[3], ["00000004", "nyc", "joined", "up", "not", "heard", "yet", "-"]);
        assert_eq!(rows[4], ["00000005", "nyc", "removed", "-", "-", "-"]);
    }
}
