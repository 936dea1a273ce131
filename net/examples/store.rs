//! A tour of the typed client against a running node: write, read, compare and set, count, many requests at once.
//!
//!     cargo run -p godwit-net --example store -- 127.0.0.1:10600
//!
//! tests/tests/native.rs runs it against a node of its own.
#![allow(clippy::print_stdout, reason = "it is there to be watched")]

use std::error::Error;
use std::time::Duration;

use net::client::{Answer, Client, Condition, Elsewhere, PutOptions, Written};

#[allow(dead_code, reason = "the test calls the tour itself")]
fn main() -> Result<(), Box<dyn Error>> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:10600".to_owned());
    tour(&addr)
}

/// The tour. It leaves no key behind.
///
/// # Errors
/// What the client says, or that the node did something else than the tour expects.
pub(crate) fn tour(addr: &str) -> Result<(), Box<dyn Error>> {
    let mut store = Client::connect(addr)?;
    let node = store.node();
    println!("{addr} is node {} in {}, values up to {} bytes", node.log.node, node.region, node.value_bytes_max);

    let version = store.put("tour:user", "ada")?;
    let item = store.get("tour:user")?.ok_or("a key that was just written is not there")?;
    println!("put and get: {} in version {:#x}", String::from_utf8_lossy(&item.value), item.version.0);
    assert_eq!(item.version, version, "nobody else writes this key");

    compare_and_set(&mut store, "tour:user")?;

    // A lock: whoever writes first has it, for ten minutes at most.
    let in_ten_minutes = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis() + 600_000;
    let once = || {
        let options = PutOptions::default().only_if(Condition::IfAbsent);
        u64::try_from(in_ten_minutes).map(|ms| options.expires_at_unix_ms(ms))
    };
    let first = store.put_with("tour:lock", "me", once()?)?;
    let second = store.put_with("tour:lock", "you", once()?)?;
    println!("lock: {}, then {}", outcome(&first), outcome(&second));

    // Requests that do not wait for each other: one round trip for all of them.
    let mut pipeline = store.pipeline();
    for _ in 0..100 {
        pipeline.increment("tour:count", 1);
    }
    pipeline.get("tour:count");
    let answers = pipeline.run()?;
    if let Some(Answer::Value(Some(item))) = answers.last() {
        println!("pipeline: {} answers, the count is {}", answers.len(), String::from_utf8_lossy(&item.value));
    }

    // Until another region has it on its disk, too, but not longer than this. It stands in any case.
    let elsewhere = Elsewhere::in_regions(1, Duration::from_millis(200));
    if let (_, Some(held)) = store.held(elsewhere).put_with("tour:user", "ada", PutOptions::default())? {
        let holders: Vec<&str> = held.holders.iter().map(|holder| holder.region.as_str()).collect();
        println!("held elsewhere: {}, by {holders:?}", if held.reached { "yes" } else { "not in time" });
    }

    let keys = ["tour:user", "tour:lock", "tour:count", "tour:nothing"];
    let found = store.get_many(&keys)?.iter().filter(|item| item.is_some()).count();
    println!("get_many: {found} of {} keys are there", keys.len());
    for key in keys {
        store.delete(key)?;
    }
    Ok(())
}

/// Reads, computes, writes if nobody wrote in between, and else computes anew from what is there then.
fn compare_and_set(store: &mut Client, key: &str) -> Result<(), Box<dyn Error>> {
    let mut present = store.get(key)?;
    loop {
        let (version, old) = present.map_or_else(Default::default, |item| (item.version, item.value));
        let new = [&old[..], b" lovelace"].concat();
        let only_then = PutOptions::default().only_if(Condition::IfVersion(version));
        match store.put_with(key, &new, only_then)? {
            Written::Refused { present: other } => present = other,
            written => {
                println!("compare and set: {} ({})", String::from_utf8_lossy(&new), outcome(&written));
                return Ok(());
            }
        }
    }
}

fn outcome(written: &Written) -> &'static str {
    match written {
        Written::Written { .. } => "written",
        Written::Nothing => "nothing was there",
        Written::Refused { .. } => "refused",
    }
}
