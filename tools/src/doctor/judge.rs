//! From facts to findings. The numbers behind the advice were measured between hosts 165 ms apart: one stream with 4 MiB of send buffer
//! carries 20 MB/s, and a burst of 1 MiB after two idle seconds takes 831 ms where slow start begins anew and 170 ms where it does not.

use serde::Serialize;

use super::facts::{Buffer, Facts, Limit, Peer};

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing to do.
    Ok,
    /// Something would be better otherwise.
    Advice,
    /// It could not be looked at.
    Unknown,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about: a sysctl, a limit, a peer.
    pub subject: String,
    /// How it stands.
    pub state: State,
    /// What was found and what it means, in one sentence.
    pub text: String,
    /// What to type to change it, if anything.
    pub commands: Vec<String>,
}

/// Of the send buffer, what is data in flight: the rest is the kernel's own bookkeeping. Of the receive buffer it is half.
const SEND_SHARE_PERCENT: u64 = 80;
const RECEIVE_SHARE_PERCENT: u64 = 50;
/// More than this is never advised: it is memory of each connection.
const BUFFER_BYTES_MAX: u64 = 256 << 20;
/// Fewer open files than this limit clients, links and segment files of a busy node.
const OPEN_FILES_MIN: u64 = 65_536;
/// The rings of io_uring fit below this.
const LOCKED_BYTES_MIN: u64 = 8 << 20;

/// Judges, for links that should carry `mbit` Mbit/s.
#[must_use]
pub fn judge(facts: &Facts, mbit: u64) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(links(facts, mbit));
    findings.push(congestion(facts));
    findings.push(zero_or_one(
        "net.ipv4.tcp_slow_start_after_idle",
        facts.slow_start_after_idle,
        |value| value == 0,
        "a link keeps its speed over a pause",
        "after a pause every link starts slowly: a burst of 1 MiB over 165 ms takes 0.8 s instead of 0.2 s",
        0,
    ));
    findings.push(zero_or_one(
        "net.ipv4.tcp_mtu_probing",
        facts.mtu_probing,
        |value| value > 0,
        "packets that a tunnel on the way swallows are made smaller",
        "if a tunnel on the way swallows large packets without saying so, links hang instead of using smaller ones",
        1,
    ));
    findings.push(io_uring(facts));
    findings.push(open_files(facts.open_files));
    findings.push(locked_bytes(facts.locked_bytes));
    findings
}

fn finding(subject: impl Into<String>, state: State, text: impl Into<String>, commands: &[String]) -> Finding {
    Finding { subject: subject.into(), state, text: text.into(), commands: commands.to_vec() }
}

fn unknown(subject: &str) -> Finding {
    finding(subject, State::Unknown, "this kernel does not show it", &[])
}

/// What each peer's link can carry, and the buffers that the longest of them needs.
fn links(facts: &Facts, mbit: u64) -> Vec<Finding> {
    let node = match &facts.node {
        Ok(node) => node,
        Err(reason) => return vec![finding("peers", State::Unknown, reason, &[])],
    };
    if node.peers.is_empty() {
        return vec![finding("peers", State::Ok, format!("{} has none (DISCOVERY_PEERS)", node.region), &[])];
    }
    let (Some(wmem), Some(rmem)) = (facts.tcp_wmem, facts.tcp_rmem) else { return vec![unknown("net.ipv4.tcp_wmem")] };
    let mut findings: Vec<Finding> = node.peers.iter().map(|peer| link(peer, wmem, rmem, mbit)).collect();
    let longest = node.peers.iter().filter_map(|peer| peer.rtt_us).max();
    if let Some(rtt_us) = longest {
        let product = product_bytes(mbit, rtt_us);
        findings.push(buffers("net.ipv4.tcp_wmem", wmem, product, SEND_SHARE_PERCENT));
        findings.push(buffers("net.ipv4.tcp_rmem", rmem, product, RECEIVE_SHARE_PERCENT));
    }
    findings
}

/// Bytes in flight that fill a link.
fn product_bytes(mbit: u64, rtt_us: u64) -> u64 {
    // Mbit/s times µs is bits.
    mbit.saturating_mul(rtt_us) / 8
}

/// What one connection to the peer reaches.
fn link(peer: &Peer, wmem: Buffer, rmem: Buffer, mbit: u64) -> Finding {
    let subject = format!("link to {}", peer.name);
    let Some(rtt_us) = peer.rtt_us.filter(|rtt| *rtt > 0) else {
        return finding(subject, State::Unknown, "no round-trip time was measured: it is not connected", &[]);
    };
    // Bytes over µs are MB/s.
    let reaches = |buffer: Buffer, share: u64| buffer[2].saturating_mul(share) / 100 / rtt_us;
    let (out, back) = (reaches(wmem, SEND_SHARE_PERCENT), reaches(rmem, RECEIVE_SHARE_PERCENT));
    let wanted = mbit / 8;
    let enough = out.min(back) >= wanted;
    let ms = rtt_us.div_ceil(1000);
    let text = format!(
        "at {ms} ms one stream can send {} MB/s and receive {} MB/s; {mbit} Mbit/s are {wanted} MB/s",
        capped(out),
        capped(back),
    );
    finding(subject, if enough { State::Ok } else { State::Advice }, text, &[])
}

/// Near peers are limited by other things.
fn capped(mb: u64) -> String {
    if mb > 10_000 { "over 10000".into() } else { mb.to_string() }
}

/// Whether the buffer's maximum fills the longest link.
fn buffers(name: &str, buffer: Buffer, product: u64, share: u64) -> Finding {
    let wanted = product.saturating_mul(100) / share;
    let max = buffer[2];
    if max >= wanted {
        let text = format!("its maximum of {max} bytes fills the longest link, which takes {wanted}");
        return finding(name, State::Ok, text, &[]);
    }
    let advised = wanted.checked_next_power_of_two().unwrap_or(BUFFER_BYTES_MAX).min(BUFFER_BYTES_MAX);
    if advised <= max {
        let text =
            format!("its maximum of {max} bytes is as much as is sensible; the longest link would take {wanted}");
        return finding(name, State::Ok, text, &[]);
    }
    let text = format!("its maximum of {max} bytes does not fill the longest link, which takes {wanted}");
    let [least, first, _] = buffer;
    finding(name, State::Advice, text, &[format!("sysctl -w '{name}={least} {first} {advised}'")])
}

fn congestion(facts: &Facts) -> Finding {
    let name = "net.ipv4.tcp_allowed_congestion_control";
    let (Some(available), Some(allowed)) = (&facts.congestion_available, &facts.congestion_allowed) else {
        return unknown(name);
    };
    let has = |list: &[String]| list.iter().any(|word| word == "bbr");
    let (available, is_allowed) = (has(available), has(allowed));
    let loss = "with 0.1 % loss over 165 ms bbr carries 24 to 30 MB/s and cubic 1 to 4";
    if available && is_allowed {
        return finding(name, State::Ok, "nodes use bbr between regions", &[]);
    }
    let mut commands = Vec::new();
    if !available {
        commands.push("modprobe tcp_bbr".to_owned());
    }
    if !is_allowed {
        commands.push(format!("sysctl -w '{name}={} bbr'", allowed.join(" ")));
    }
    let text = if available {
        format!("bbr is here, but only privileged processes may choose it; {loss}")
    } else {
        format!("bbr is not loaded; {loss}")
    };
    finding(name, State::Advice, text, &commands)
}

fn zero_or_one(name: &str, value: Option<u64>, good: impl Fn(u64) -> bool, is: &str, bad: &str, want: u64) -> Finding {
    match value {
        None => unknown(name),
        Some(value) if good(value) => finding(name, State::Ok, format!("{value}: {is}"), &[]),
        Some(value) => finding(name, State::Advice, format!("{value}: {bad}"), &[format!("sysctl -w '{name}={want}'")]),
    }
}

fn io_uring(facts: &Facts) -> Finding {
    let backend = facts.node.as_ref().map(|node| node.io_backend.as_str()).ok();
    let chosen = backend.map(|backend| format!("; the node here runs over {backend}")).unwrap_or_default();
    let Some(refused) = &facts.io_uring_refused else {
        return finding("io_uring", State::Ok, format!("it works here{chosen}"), &[]);
    };
    match facts.io_uring_disabled {
        Some(1..) => {
            let text = format!("kernel.io_uring_disabled forbids it: {refused}{chosen}");
            finding("io_uring", State::Advice, text, &["sysctl -w 'kernel.io_uring_disabled=0'".to_owned()])
        }
        // A container's filter, or a kernel before 6.1: no sysctl changes that.
        _ => finding(
            "io_uring",
            State::Advice,
            format!("{refused}; allow it in the container, or use a newer kernel{chosen}"),
            &[],
        ),
    }
}

fn open_files(limit: Option<Limit>) -> Finding {
    let name = "RLIMIT_NOFILE";
    match limit {
        None => unknown(name),
        // A node raises its own soft limit to the hard one.
        Some(limit) if limit.hard >= OPEN_FILES_MIN => {
            finding(name, State::Ok, format!("{} open files", amount(limit.hard)), &[])
        }
        Some(limit) => {
            let text = format!(
                "{} open files are few: clients, links and segments each take one; set LimitNOFILE={OPEN_FILES_MIN} in the unit",
                limit.hard
            );
            finding(name, State::Advice, text, &[format!("ulimit -n {OPEN_FILES_MIN}")])
        }
    }
}

fn locked_bytes(limit: Option<Limit>) -> Finding {
    let name = "RLIMIT_MEMLOCK";
    match limit {
        None => unknown(name),
        Some(limit) if limit.soft >= LOCKED_BYTES_MIN => {
            finding(name, State::Ok, format!("{} bytes may be locked", amount(limit.soft)), &[])
        }
        Some(limit) => {
            let text = format!(
                "{} bytes may be locked, which may be too few for the rings of io_uring; set LimitMEMLOCK=64M in the unit",
                limit.soft
            );
            finding(name, State::Advice, text, &[format!("ulimit -l {}", (64 << 20) / 1024)])
        }
    }
}

fn amount(limit: u64) -> String {
    if limit == u64::MAX { "any number of".into() } else { limit.to_string() }
}

#[cfg(test)]
mod tests {
    use super::super::facts::Node;
    use super::*;

    fn words(text: &str) -> Option<Vec<String>> {
        Some(text.split(' ').map(str::to_owned).collect())
    }

    /// A host that needs nothing.
    fn good() -> Facts {
        let limit = Some(Limit { soft: 1 << 30, hard: u64::MAX });
        let peer = |name: &str, rtt_us| Peer { name: name.into(), rtt_us };
        Facts {
            tcp_rmem: Some([4096, 131_072, 64 << 20]),
            tcp_wmem: Some([4096, 16_384, 64 << 20]),
            slow_start_after_idle: Some(0),
            mtu_probing: Some(1),
            congestion_available: words("reno cubic bbr"),
            congestion_allowed: words("reno cubic bbr"),
            io_uring_disabled: Some(0),
            io_uring_refused: None,
            open_files: limit,
            locked_bytes: limit,
            node: Ok(Node {
                region: "sfo".into(),
                io_backend: "uring".into(),
                peers: vec![peer("nyc", Some(74_000)), peer("ams", Some(165_000))],
            }),
        }
    }

    fn about<'a>(findings: &'a [Finding], subject: &str) -> &'a Finding {
        findings.iter().find(|finding| finding.subject == subject).unwrap_or_else(|| panic!("{subject}: {findings:#?}"))
    }

    #[test]
    fn a_host_that_is_set_up_gets_no_advice() {
        let findings = judge(&good(), 1000);
        assert!(
            findings.iter().all(|finding| finding.state == State::Ok && finding.commands.is_empty()),
            "{findings:#?}"
        );
        assert_eq!(findings.len(), 2 + 2 + 6);
    }

    #[test]
    fn buffers_are_held_to_the_longest_link_and_keep_their_other_numbers() {
        let facts =
            Facts { tcp_wmem: Some([4096, 16_384, 4 << 20]), tcp_rmem: Some([4096, 131_072, 6 << 20]), ..good() };
        let findings = judge(&facts, 1000);
        let link = about(&findings, "link to ams");
        assert_eq!(link.state, State::Advice);
        assert!(link.text.contains("at 165 ms one stream can send 20 MB/s and receive 19 MB/s"), "{}", link.text);
        // 1 Gbit/s over 165 ms are 20.6 MB in flight: four fifths of the send buffer, half of the receive buffer.
        let send = about(&findings, "net.ipv4.tcp_wmem");
        assert_eq!(send.commands, ["sysctl -w 'net.ipv4.tcp_wmem=4096 16384 33554432'"]);
        let receive = about(&findings, "net.ipv4.tcp_rmem");
        assert_eq!(receive.commands, ["sysctl -w 'net.ipv4.tcp_rmem=4096 131072 67108864'"]);
        // A slower link needs no more than there is.
        let findings = judge(&facts, 100);
        assert_eq!(about(&findings, "net.ipv4.tcp_wmem").state, State::Ok);
        assert_eq!(about(&findings, "link to ams").state, State::Ok);
    }

    #[test]
    fn what_was_advised_is_enough() {
        for (mbit, rtt_us) in [(1, 200), (100, 37_000), (1000, 165_000), (2500, 300_000), (10_000, 80_000)] {
            let mut facts =
                Facts { tcp_wmem: Some([4096, 16_384, 65_536]), tcp_rmem: Some([4096, 4096, 65_536]), ..good() };
            facts.node.as_mut().unwrap().peers = vec![Peer { name: "far".into(), rtt_us: Some(rtt_us) }];
            let findings = judge(&facts, mbit);
            for name in ["net.ipv4.tcp_wmem", "net.ipv4.tcp_rmem"] {
                let Some(command) = about(&findings, name).commands.first() else { continue };
                let max = command.trim_end_matches('\'').rsplit(' ').next().unwrap().parse().unwrap();
                let place = if name.ends_with("wmem") { &mut facts.tcp_wmem } else { &mut facts.tcp_rmem };
                place.as_mut().unwrap()[2] = max;
            }
            let again = judge(&facts, mbit);
            assert!(again[..3].iter().all(|finding| finding.state == State::Ok), "{mbit} {rtt_us}: {again:#?}");
        }
    }

    #[test]
    fn no_buffer_beyond_reason_is_advised() {
        let findings = judge(&Facts { tcp_wmem: Some([4096, 16_384, 256 << 20]), ..good() }, 100_000);
        let send = about(&findings, "net.ipv4.tcp_wmem");
        assert_eq!((send.state, send.commands.len()), (State::Ok, 0));
        let receive = about(&findings, "net.ipv4.tcp_rmem");
        assert_eq!(receive.commands, ["sysctl -w 'net.ipv4.tcp_rmem=4096 131072 268435456'"]);
    }

    #[test]
    fn bbr_is_loaded_and_allowed() {
        let name = "net.ipv4.tcp_allowed_congestion_control";
        let commands = |available: &str, allowed: &str| {
            let facts = Facts { congestion_available: words(available), congestion_allowed: words(allowed), ..good() };
            about(&judge(&facts, 1000), name).commands.clone()
        };
        assert_eq!(commands("reno cubic bbr", "reno bbr"), Vec::<String>::new());
        assert_eq!(commands("reno cubic", "reno bbr"), ["modprobe tcp_bbr"]);
        let allow = format!("sysctl -w '{name}=reno cubic bbr'");
        assert_eq!(commands("reno cubic bbr", "reno cubic"), std::slice::from_ref(&allow));
        assert_eq!(commands("reno cubic", "reno cubic"), ["modprobe tcp_bbr".to_owned(), allow]);
    }

    #[test]
    fn switches_limits_and_io_uring_are_named_with_what_to_type() {
        let few = Some(Limit { soft: 1024, hard: 4096 });
        let facts = Facts {
            slow_start_after_idle: Some(1),
            mtu_probing: Some(0),
            io_uring_disabled: Some(2),
            io_uring_refused: Some("refused at ring set-up".into()),
            open_files: few,
            locked_bytes: few,
            ..good()
        };
        let findings = judge(&facts, 1000);
        for (subject, command) in [
            ("net.ipv4.tcp_slow_start_after_idle", "sysctl -w 'net.ipv4.tcp_slow_start_after_idle=0'"),
            ("net.ipv4.tcp_mtu_probing", "sysctl -w 'net.ipv4.tcp_mtu_probing=1'"),
            ("io_uring", "sysctl -w 'kernel.io_uring_disabled=0'"),
            ("RLIMIT_NOFILE", "ulimit -n 65536"),
            ("RLIMIT_MEMLOCK", "ulimit -l 65536"),
        ] {
            let finding = about(&findings, subject);
            assert_eq!((finding.state, finding.commands.as_slice()), (State::Advice, [command.to_owned()].as_slice()));
        }
        // A filter refuses it: there is no sysctl to advise.
        let findings = judge(&Facts { io_uring_disabled: Some(0), ..facts }, 1000);
        let refused = about(&findings, "io_uring");
        assert_eq!((refused.state, refused.commands.len()), (State::Advice, 0));
    }

    #[test]
    fn what_could_not_be_read_is_said_and_not_judged() {
        let facts = Facts {
            tcp_rmem: None,
            tcp_wmem: None,
            slow_start_after_idle: None,
            mtu_probing: None,
            congestion_available: None,
            congestion_allowed: None,
            io_uring_disabled: None,
            io_uring_refused: None,
            open_files: None,
            locked_bytes: None,
            node: Err("no node answers".into()),
        };
        let findings = judge(&facts, 1000);
        assert!(findings.iter().all(|finding| finding.commands.is_empty()));
        let unknown = findings.iter().filter(|finding| finding.state == State::Unknown).count();
        assert_eq!((unknown, findings.len()), (6, 7), "{findings:#?}");
        // A peer that never connected, and a node without peers.
        let mut facts = good();
        facts.node.as_mut().unwrap().peers[0].rtt_us = None;
        assert_eq!(about(&judge(&facts, 1000), "link to nyc").state, State::Unknown);
        facts.node.as_mut().unwrap().peers.clear();
        assert_eq!(about(&judge(&facts, 1000), "peers").state, State::Ok);
    }
}
