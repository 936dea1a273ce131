//! The demo: write everywhere, measure, lose a region, delete meanwhile, bring it back, compare, and wait for silence.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use net::resp::Value;

use super::region::{self, Region};
use super::table::print;
use super::visibility::{self, Load, key};
use super::{Lab, LabError, io_error, report};

/// Writes per region and second when the links are otherwise idle, and how many.
const IDLE_RATE: u32 = 20;
const IDLE_COUNT: usize = 100;

/// Writes per second in the first region and in each other one, under load.
const LOAD_RATE: u32 = 1_000;
const OTHER_RATE: u32 = 100;

/// How long the regions have to become equal after everything is up again.
const EQUAL_WITHIN: Duration = Duration::from_secs(60);

/// How long no record and no claim may be sent for the links to count as silent.
const SILENT_FOR: Duration = Duration::from_secs(5);

/// How long that may take to come true.
const SILENT_WITHIN: Duration = Duration::from_secs(60);

/// Every key with its value.
type Contents = BTreeMap<Vec<u8>, Vec<u8>>;

/// Runs the demo.
pub(super) fn run(lab: &mut Lab, keys: u32) -> Result<(), LabError> {
    let keys = usize::try_from(keys).unwrap_or(usize::MAX);
    print("Three regions are up and follow each other.\n");
    let run = token();
    measure_idle(lab, &run)?;
    measure_loaded(lab, &run, keys)?;
    lab.check()?;
    let deleted = lose_a_region(lab, &run, keys)?;
    compare(lab, &deleted)?;
    wait_for_silence(lab)?;
    print("Everything held.");
    Ok(())
}

/// In every key and value of this demo, so that what an earlier one left in the same directory is never taken for new.
fn token() -> String {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{:x}-{:x}", since_1970.as_millis(), std::process::id())
}

fn measure_idle(lab: &Lab, run: &str) -> Result<(), LabError> {
    let mut delays = Vec::new();
    for source in 0..region::COUNT {
        let prefix = format!("idle:{run}:{}", region::name(source));
        let load = Load { source, prefix, count: IDLE_COUNT, rate: IDLE_RATE };
        delays.extend(visibility::measure(&lab.regions, &[load])?);
    }
    let title = format!("From a write to its first read elsewhere, at {IDLE_RATE} writes/s in one region");
    print(&report::quantiles(&title, &delays));
    Ok(())
}

fn load_prefix(run: &str, source: usize) -> String {
    format!("load:{run}:{}", region::name(source))
}

fn measure_loaded(lab: &Lab, run: &str, keys: usize) -> Result<(), LabError> {
    let load = |source: usize| {
        let (count, rate) = if source == 0 { (keys, LOAD_RATE) } else { (keys / 10, OTHER_RATE) };
        Load { source, prefix: load_prefix(run, source), count, rate }
    };
    let loads: Vec<Load> = (0..region::COUNT).map(load).collect();
    let delays = visibility::measure(&lab.regions, &loads)?;
    let title = format!(
        "The same at {LOAD_RATE} writes/s in {} and {OTHER_RATE} writes/s in each other region",
        region::name(0)
    );
    print(&report::quantiles(&title, &delays));
    print(&report::histograms(&delays));
    Ok(())
}

/// Kills the last region, deletes and writes elsewhere meanwhile, and starts it again. Returns the deleted keys.
fn lose_a_region(lab: &mut Lab, run: &str, keys: usize) -> Result<Vec<String>, LabError> {
    let last = region::COUNT - 1;
    let name = region::name(last);
    lab.regions[last].kill()?;
    let prefix = load_prefix(run, 0);
    let deleted: Vec<String> = (0..keys).step_by(10).map(|n| key(&prefix, n)).collect();
    let removed = send_all(&lab.regions[0], deleted.iter().map(|key| vec!["DEL".to_owned(), key.clone()]))?;
    if removed.iter().any(|reply| *reply != Value::Integer(1)) {
        return Err(LabError::Failed(format!("{} did not delete every key it held", region::name(0))));
    }
    let dark = format!("dark:{run}");
    let while_dark = (0..keys / 10).map(|n| vec!["SET".to_owned(), key(&dark, n), visibility::value(&dark, n)]);
    let written = send_all(&lab.regions[1], while_dark)?;
    if written.iter().any(|reply| *reply != Value::Simple("OK".into())) {
        return Err(LabError::Failed(format!("{} refused a write while {name} was dark", region::name(1))));
    }
    print(&format!(
        "{name} was killed (kill -9); meanwhile {} deleted {} keys and {} wrote {}.",
        region::name(0),
        deleted.len(),
        region::name(1),
        written.len()
    ));
    lab.regions[last].restart()?;
    lab.wait_until_formed()?;
    print(&format!("{name} is back."));
    Ok(deleted)
}

/// Waits until all regions hold the same, and checks that it is the right thing.
fn compare(lab: &mut Lab, deleted: &[String]) -> Result<(), LabError> {
    let began = Instant::now();
    let contents = loop {
        lab.check()?;
        let all = lab.regions.iter().map(contents).collect::<Result<Vec<_>, _>>()?;
        if all.windows(2).all(|pair| pair[0] == pair[1]) {
            break all;
        }
        if began.elapsed() > EQUAL_WITHIN {
            let sizes: Vec<usize> = all.iter().map(BTreeMap::len).collect();
            let text = format!("the regions still differ after {} s; keys: {sizes:?}", EQUAL_WITHIN.as_secs());
            return Err(LabError::Failed(text));
        }
    };
    let held = &contents[0];
    if let Some(key) = deleted.iter().find(|key| held.contains_key(key.as_bytes())) {
        return Err(LabError::Failed(format!("{key} was deleted and is back")));
    }
    print(&format!(
        "All regions hold the same {} keys and values; none of the {} deleted ones came back.",
        held.len(),
        deleted.len()
    ));
    Ok(())
}

/// Everything a region holds.
fn contents(region: &Region) -> Result<Contents, LabError> {
    let lost = || io_error(format!("{} went away while it was read", region.name()));
    let unexpected = |reply: &Value| LabError::Failed(format!("{} answered with {reply:?}", region.name()));
    let mut client = region.client()?;
    let mut held = Contents::new();
    let mut cursor = b"0".to_vec();
    loop {
        let reply = client.call(&[b"SCAN".as_slice(), &cursor, b"COUNT", b"1000"]).map_err(lost())?;
        let Value::Array(parts) = &reply else { return Err(unexpected(&reply)) };
        let [Value::Bulk(next), Value::Array(keys)] = parts.as_slice() else { return Err(unexpected(&reply)) };
        let keys: Vec<&[u8]> =
            keys.iter().filter_map(|key| if let Value::Bulk(key) = key { Some(&key[..]) } else { None }).collect();
        if !keys.is_empty() {
            let mut command = vec![b"MGET".as_slice()];
            command.extend(&keys);
            let reply = client.call(&command).map_err(lost())?;
            let Value::Array(values) = reply else { return Err(unexpected(&reply)) };
            for (key, value) in keys.iter().zip(values) {
                if let Value::Bulk(value) = value {
                    held.insert(key.to_vec(), value);
                }
            }
        }
        if next.as_slice() == b"0" {
            return Ok(held);
        }
        cursor.clone_from(next);
    }
}

/// Waits until no region has sent a record or a claim for [`SILENT_FOR`]; heartbeats are counted apart.
fn wait_for_silence(lab: &mut Lab) -> Result<(), LabError> {
    let began = Instant::now();
    let mut last = Vec::new();
    let mut since = Instant::now();
    let mut beats = (0, 0);
    while last.is_empty() || since.elapsed() < SILENT_FOR {
        lab.check()?;
        let mut sent = Vec::new();
        let mut heartbeats = 0;
        for region in &lab.regions {
            let Some(reply) = region.status() else { continue };
            for peer in &reply.status.peers {
                sent.push((peer.sent_records_bytes, peer.sent_claims_bytes));
                heartbeats += peer.sent_heartbeats_bytes;
            }
        }
        if sent != last {
            last = sent;
            since = Instant::now();
            beats.0 = heartbeats;
        }
        beats.1 = heartbeats;
        if began.elapsed() > SILENT_WITHIN {
            let text = format!("the links did not fall silent within {} s", SILENT_WITHIN.as_secs());
            return Err(LabError::Failed(text));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    print(&format!(
        "The links are silent: no record and no claim for {} s (heartbeats: {} bytes meanwhile).",
        SILENT_FOR.as_secs(),
        beats.1 - beats.0
    ));
    Ok(())
}

/// Sends commands in pipelines and collects the replies.
fn send_all(region: &Region, commands: impl Iterator<Item = Vec<String>>) -> Result<Vec<Value>, LabError> {
    const PIPELINE: usize = 256;
    let lost = || io_error(format!("{} went away while it was written to", region.name()));
    let mut client = region.client()?;
    let mut replies = Vec::new();
    let mut queued = 0;
    for command in commands {
        client.queue(&command);
        queued += 1;
        if queued == PIPELINE {
            client.flush().map_err(lost())?;
            for _ in 0..std::mem::take(&mut queued) {
                replies.push(client.receive().map_err(lost())?);
            }
        }
    }
    client.flush().map_err(lost())?;
    for _ in 0..queued {
        replies.push(client.receive().map_err(lost())?);
    }
    Ok(replies)
}
