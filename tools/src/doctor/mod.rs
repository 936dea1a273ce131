//! `godwit doctor`: what this host allows a node that talks to other regions, and what to change.
//!
//! [`facts`] are read once, [`judge`] is a pure function of them, and what is printed is what it found. The sysctls are those of this
//! host: what it can send depends on its own, what it can receive too, so that each host of the mesh is asked.

pub mod facts;
pub mod judge;

use std::io;
use std::net::SocketAddr;

use clap::Args;

use facts::Facts;
use judge::{Finding, State};

/// What to look at.
#[derive(Debug, Args)]
pub struct Options {
    /// Admin address of the node on this host; its peers and their round-trip times come from there.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:10800")]
    admin: SocketAddr,
    /// What the link to each peer should carry, in Mbit/s.
    #[arg(long, value_name = "MBIT", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rate: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// The findings cannot be printed.
#[derive(Debug, thiserror::Error)]
#[error("standard output: {0}")]
pub struct DoctorError(#[from] io::Error);

/// Looks, judges and prints.
///
/// # Errors
/// See [`DoctorError`]. Advice is no error.
pub fn run(options: &Options, out: &mut dyn io::Write) -> Result<(), DoctorError> {
    let findings = judge::judge(&Facts::gather(options.admin), options.rate);
    if options.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&findings).unwrap_or_default())?;
    } else {
        write!(out, "{}", text(&findings))?;
    }
    Ok(())
}

/// One line for each finding, and its commands below it.
fn text(findings: &[Finding]) -> String {
    let mut lines: Vec<String> = Vec::new();
    for finding in findings {
        let state = match finding.state {
            State::Ok => "ok",
            State::Advice => "advice",
            State::Unknown => "unknown",
        };
        lines.push(format!("{state:7}  {}: {}", finding.subject, finding.text));
        lines.extend(finding.commands.iter().map(|command| format!("         {command}")));
    }
    let settings: Vec<&str> = findings
        .iter()
        .flat_map(|finding| &finding.commands)
        .filter_map(|line| line.strip_prefix("sysctl -w "))
        .collect();
    if !settings.is_empty() {
        lines.push(
            "Commands take effect at once, for connections made from then on. To keep settings over a restart:".into(),
        );
        for setting in settings {
            lines.push(format!("         echo {setting} >> /etc/sysctl.d/60-godwit.conf"));
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_line_and_its_commands_are_kept_for_restarts() {
        let finding = |state, commands: &[&str]| Finding {
            subject: "net.ipv4.tcp_mtu_probing".into(),
            state,
            text: "some words".into(),
            commands: commands.iter().map(|command| (*command).to_owned()).collect(),
        };
        let all = [
            finding(State::Ok, &[]),
            finding(State::Advice, &["modprobe tcp_bbr", "sysctl -w 'net.ipv4.tcp_mtu_probing=1'"]),
        ];
        let text = text(&all);
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        assert_eq!(lines[0], "ok       net.ipv4.tcp_mtu_probing: some words");
        assert_eq!(lines[1], "advice   net.ipv4.tcp_mtu_probing: some words");
        assert_eq!(lines[2].trim(), "modprobe tcp_bbr");
        assert_eq!(lines.last().unwrap().trim(), "echo 'net.ipv4.tcp_mtu_probing=1' >> /etc/sysctl.d/60-godwit.conf");
        assert!(super::text(&all[..1]).lines().count() == 1, "nothing to keep");
    }
}
