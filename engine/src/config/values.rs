//! From text to types, one function per kind of value. Errors are the second half of a line: what is wrong and what to
//! write instead; the first half (where the value came from) is added by the caller.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Port of peers that are given without one.
pub const DISCOVERY_PORT_DEFAULT: u16 = 10_200;
/// Largest value that the log can hold.
pub const VALUE_BYTES_CEILING: u32 = 8 * 1024 * 1024;
/// Smallest bound on values: below it, ordinary clients fail at once.
pub const VALUE_BYTES_FLOOR: u32 = 1024;
/// Smallest and largest segment.
pub const SEGMENT_BYTES_RANGE: std::ops::RangeInclusive<u32> = 1024 * 1024..=64 * 1024 * 1024;
/// Most core threads.
pub const CORES_MAX: u16 = 64;
/// Most peers: every pair of nodes of the mesh is linked.
pub const PEERS_MAX: usize = 256;
/// Longest simulated delay in ms; the slowest cable on earth takes less than a tenth of it one way.
pub const LAB_DELAY_MS_MAX: f64 = 10_000.0;

/// The problem, in words.
pub(super) type Problem = String;

/// A whole number.
pub(super) fn number(text: &str, what: &str) -> Result<u64, Problem> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().ok_or_else(|| format!("not a whole number; write {what}"))
}

/// 0 to 65535.
pub(super) fn port(text: &str) -> Result<u16, Problem> {
    const WHAT: &str = "a port from 1 to 65535";
    u16::try_from(number(text, WHAT)?).map_err(|_| format!("no such port; write {WHAT}"))
}

/// 1 to [`CORES_MAX`].
pub(super) fn cores(text: &str) -> Result<u16, Problem> {
    let what = format!("a count from 1 to {CORES_MAX}, or leave it out for all CPUs but one");
    let count = number(text, &what)?;
    u16::try_from(count)
        .ok()
        .filter(|count| (1..=CORES_MAX).contains(count))
        .ok_or_else(|| format!("{count} core threads are not possible; write {what}"))
}

/// A number of bytes, with `KiB`, `MiB` or `GiB` behind it or nothing.
pub(super) fn bytes(text: &str) -> Result<u64, Problem> {
    const WHAT: &str = "a number of bytes such as 1048576, 512KiB or 64MiB";
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text[digits.len()..].trim_start() {
        "" => 1,
        "KiB" => 1024,
        "MiB" => 1024 * 1024,
        "GiB" => 1024 * 1024 * 1024,
        other => return Err(format!("unknown unit {other:?}; write {WHAT}")),
    };
    let count = number(digits, WHAT)?;
    count.checked_mul(unit).ok_or_else(|| format!("larger than anything this setting allows; write {WHAT}"))
}

/// Slower than this a region would not be brought up to date within a day after an hour's outage of quiet writing.
const RATE_FLOOR: u64 = 64 * 1024;

/// Bytes a second, 0 for no bound.
pub(super) fn rate(text: &str) -> Result<u64, Problem> {
    match bytes(text)? {
        1..RATE_FLOOR => Err(format!("too slow to ever end; write {RATE_FLOOR} or more, or 0 for no bound")),
        rate => Ok(rate),
    }
}

/// The longest interval that is accepted: a week.
const SECONDS_MAX: u32 = 7 * 24 * 60 * 60;

/// Seconds, 0 for never.
pub(super) fn seconds(text: &str) -> Result<u32, Problem> {
    let seconds = text.parse().ok().filter(|seconds| *seconds <= SECONDS_MAX);
    seconds.ok_or_else(|| format!("write whole seconds such as 600, at most {SECONDS_MAX}, or 0 for never"))
}

/// A number of bytes below 4 GiB.
pub(super) fn small_bytes(text: &str) -> Result<u32, Problem> {
    let too_large =
        |_| "larger than anything this setting allows; write a number of bytes such as 512KiB or 64MiB".into();
    u32::try_from(bytes(text)?).map_err(too_large)
}

/// A power of two within [`SEGMENT_BYTES_RANGE`].
pub(super) fn segment_bytes(text: &str) -> Result<u32, Problem> {
    let size = small_bytes(text)?;
    if size.is_power_of_two() && SEGMENT_BYTES_RANGE.contains(&size) {
        Ok(size)
    } else {
        Err("a segment is a power of two from 1MiB to 64MiB; write one of 1MiB, 2MiB, 4MiB, 8MiB, 16MiB, 32MiB, 64MiB"
            .into())
    }
}

/// One of several words.
pub(super) fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, Problem> {
    choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        format!("not one of the choices; write {}", words.join(" or "))
    })
}

/// An address that a host can have: no name, no wildcard (unless the caller wants to say more about it), no multicast.
pub(super) fn host(text: &str) -> Result<IpAddr, Problem> {
    let ip = text.parse::<IpAddr>().map_err(|_| match text.parse::<SocketAddr>() {
        Ok(with_port) => format!("{text:?} has a port; write {} (ports are settings of their own)", with_port.ip()),
        Err(_) => format!("{text:?} is no IP address; write an address such as 10.0.0.1 (names are not resolved)"),
    })?;
    let ip = ip.to_canonical();
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if ip.is_multicast() || link_local {
        return Err(format!("{ip} is a multicast, broadcast or link-local address; write the host's own mesh address"));
    }
    Ok(ip)
}

/// The items of a comma-separated list, white space around them removed.
pub(super) fn items(text: &str) -> Result<Vec<&str>, Problem> {
    let items: Vec<&str> = text.split(',').map(str::trim).collect();
    match items.iter().position(|item| item.is_empty()) {
        None => Ok(items),
        Some(at) => {
            let kept: Vec<&str> = items.iter().copied().filter(|item| !item.is_empty()).collect();
            Err(format!("item {} is empty; write {}", at + 1, kept.join(",")))
        }
    }
}

/// Refuses a second occurrence.
pub(super) fn push_unique<T: PartialEq + std::fmt::Display>(list: &mut Vec<T>, item: T) -> Result<(), Problem> {
    if list.contains(&item) {
        return Err(format!("{item} is given twice; remove one of the two"));
    }
    list.push(item);
    Ok(())
}

/// `IP`, `IP:PORT`, `[IPv6]:PORT`, separated by commas.
pub(super) fn peers(text: &str) -> Result<Vec<SocketAddr>, Problem> {
    let mut peers = Vec::new();
    for item in items(text)? {
        push_unique(&mut peers, peer(item)?)?;
    }
    if peers.len() > PEERS_MAX {
        return Err(format!("{} peers are too many; write at most {PEERS_MAX}", peers.len()));
    }
    Ok(peers)
}

fn peer(item: &str) -> Result<SocketAddr, Problem> {
    let (host_text, port_text) = match (item.strip_prefix('['), item.rsplit_once(':')) {
        (Some(rest), _) => match rest.split_once(']') {
            Some((host, "")) => (host, None),
            Some((host, after)) if after.starts_with(':') => (host, Some(&after[1..])),
            _ => return Err(format!("{item:?} is malformed; write [IPv6]:{DISCOVERY_PORT_DEFAULT}")),
        },
        // More than one colon and no brackets: an IPv6 address without a port.
        (None, Some((host, port))) if !host.contains(':') => (host, Some(port)),
        _ => (item, None),
    };
    let ip = host_text.parse::<IpAddr>().map_err(|_| {
        format!(
            "{host_text:?} is no IP address; write the peer's mesh address, such as 10.0.0.2:{DISCOVERY_PORT_DEFAULT}"
        )
    })?;
    let ip = if ip.is_unspecified() {
        return Err(format!("{ip} is no peer's address; write the peer's mesh address, such as 10.0.0.2"));
    } else {
        host(&ip.to_string())?
    };
    let port = match port_text {
        None => DISCOVERY_PORT_DEFAULT,
        Some(text) => match port(text) {
            Ok(port) if port > 0 => port,
            _ => {
                return Err(format!(
                    "{item:?} has no valid port; write {}",
                    SocketAddr::new(ip, DISCOVERY_PORT_DEFAULT)
                ));
            }
        },
    };
    Ok(SocketAddr::new(ip, port))
}

/// `IP=MS`, separated by commas.
pub(super) fn link_delays(text: &str) -> Result<Vec<(IpAddr, Duration)>, Problem> {
    let mut sources = Vec::new();
    let mut delays = Vec::new();
    for item in items(text)? {
        let Some((source, delay)) = item.split_once('=') else {
            return Err(format!("{item:?} has no delay; write IP=MS, such as 127.10.0.2=37"));
        };
        let source = host(source.trim())?;
        push_unique(&mut sources, source)?;
        let ms = delay.trim().parse::<f64>().ok().filter(|ms| (0.0..=LAB_DELAY_MS_MAX).contains(ms));
        let Some(ms) = ms else {
            return Err(format!(
                "{delay:?} is no delay; write milliseconds from 0 to {LAB_DELAY_MS_MAX}, such as 82.5"
            ));
        };
        delays.push((source, Duration::from_secs_f64(ms / 1000.0)));
    }
    Ok(delays)
}
