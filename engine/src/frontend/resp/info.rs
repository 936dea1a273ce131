//! `INFO`.

#![allow(clippy::disallowed_methods, reason = "INFO names the process")]

use net::resp::Args;

use crate::clock::Time;
use crate::node::{GODWIT_VERSION, NodeFacts, REDIS_COMPATIBLE_VERSION};

/// A number of bytes with two decimals, as Redis shows it.
fn human(bytes: u64) -> String {
    let units = ["K", "M", "G", "T", "P", "E"];
    let Some(power) = bytes.checked_ilog2().map(|log| log / 10).filter(|power| *power > 0) else {
        return format!("{bytes}B");
    };
    let hundredths = (u128::from(bytes) * 100) >> (10 * power);
    format!("{}.{:02}{}", hundredths / 100, hundredths % 100, units[power as usize - 1])
}

/// The text of INFO; `wanted` names sections, none means all.
pub(super) fn info(wanted: Args<'_>, node: &NodeFacts, time: Time) -> String {
    let uptime_s = time.unix_ms.saturating_sub(node.started_unix_ms) / 1000;
    let live = node.sum(|core| &core.live_keys);
    let index_bytes = node.sum(|core| &core.index_bytes);
    let used = node.sum(|core| &core.memory_bytes).max(index_bytes);
    let disk_full = node.sum(|core| &core.disk_full);
    let sections = [
        (
            "Server",
            format!(
                "redis_version:{REDIS_COMPATIBLE_VERSION}\r\nredis_mode:standalone\r\nos:{}\r\narch_bits:{}\r\n\
             run_id:{:08x}{:032x}\r\ngodwit_version:{GODWIT_VERSION}\r\n\
             godwit_region:{}\r\ngodwit_node:{:08x}\r\ngodwit_incarnation:{:016x}\r\ngodwit_cores:{}\r\n\
             godwit_io_backend:{}\r\nprocess_id:{}\r\ntcp_port:{}\r\nuptime_in_seconds:{uptime_s}\r\n\
             uptime_in_days:{}\r\n",
                "Linux",
                usize::BITS,
                node.node.0,
                node.incarnation.0,
                node.region,
                node.node.0,
                node.incarnation.0,
                node.cores,
                node.io_backend,
                std::process::id(),
                node.storage_port,
                uptime_s / 86_400,
            ),
        ),
        ("Clients", format!("connected_clients:{}\r\nblocked_clients:0\r\n", node.connections())),
        (
            "Memory",
            format!(
                "used_memory:{used}\r\nused_memory_human:{}\r\nmaxmemory:0\r\ngodwit_index_bytes:{index_bytes}\r\n\
             godwit_mapped_bytes:{}\r\ngodwit_fetched_bytes:{}\r\ngodwit_cold_segments:{}\r\ngodwit_fetches:{}\r\n",
                human(used),
                node.sum(|core| &core.mapped_bytes),
                node.sum(|core| &core.fetched_bytes),
                node.sum(|core| &core.cold_segments),
                node.sum(|core| &core.fetches),
            ),
        ),
        (
            "Persistence",
            format!(
                "loading:0\r\naof_enabled:1\r\naof_last_write_status:{}\r\ngodwit_syncs:{}\r\ngodwit_disk_full:{disk_full}\r\n",
                if node.sum(|core| &core.log_failed) == 0 && disk_full == 0 { "ok" } else { "err" },
                node.sum(|core| &core.syncs),
            ),
        ),
        (
            "Stats",
            format!(
                "total_connections_received:{}\r\ntotal_commands_processed:{}\r\ngodwit_records_originated:{}\r\ngodwit_records_followed:{}\r\n\
             godwit_records_already_applied:{}\r\ngodwit_records_superseded:{}\r\n",
                // Past connections are not counted; the present ones are at least no invention.
                node.connections(),
                node.sum(|core| &core.commands),
                node.sum(|core| &core.originated),
                node.sum(|core| &core.followed),
                node.sum(|core| &core.already_applied),
                node.sum(|core| &core.superseded),
            ),
        ),
        ("Replication", "role:master\r\nconnected_slaves:0\r\n".to_owned()),
        ("Cluster", "cluster_enabled:0\r\n".to_owned()),
        ("Keyspace", if live == 0 { String::new() } else { format!("db0:keys={live},expires=0,avg_ttl=0\r\n") }),
    ];
    let all = ["all", "default", "everything"];
    let everything =
        wanted.is_empty() || wanted.iter().any(|name| all.iter().any(|all| name.eq_ignore_ascii_case(all.as_bytes())));
    let chosen = sections
        .iter()
        .filter(|(name, _)| everything || wanted.iter().any(|want| want.eq_ignore_ascii_case(name.as_bytes())));
    chosen.map(|(name, text)| format!("# {name}\r\n{text}")).collect::<Vec<_>>().join("\r\n")
}
