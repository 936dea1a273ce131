//! A client that writes, keeps account of what it may believe, and checks it.
//!
//! Every write is *acknowledged* (its reply came) or *unknown* (the connection broke before): a lost reply is never taken
//! for a failure. A worker has its keys to itself and sends in order, so after a restart a key holds what its last
//! acknowledged write made of it, or what one of the unknown writes after that did.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Choices, Client, PATIENCE, Value};

/// Keys with plain values, and counters, of one worker.
const PLAIN_KEYS: u64 = 40;
const COUNTERS: u64 = 6;
/// Commands in one pipeline.
const PIPELINE: u64 = 16;
/// A value that is sent from its segment and not copied.
const LARGE_BYTES: usize = 20 * 1024;

/// A key's value, or its absence.
type State = Option<Vec<u8>>;

/// What a key may hold: the first is what the last acknowledged write made, the others what later unknown ones did.
#[derive(Clone, Debug)]
struct Possible(VecDeque<State>);

impl Default for Possible {
    fn default() -> Possible {
        Possible(VecDeque::from([None]))
    }
}

impl Possible {
    /// What the newest write makes of it.
    fn newest(&self) -> &State {
        self.0.back().expect("never empty")
    }
}

/// The reply that one command of a pipeline must have, and the keys whose oldest unknown write it acknowledges.
struct Owed {
    reply: Value,
    acknowledges: Vec<String>,
}

/// Counts what all workers did.
#[derive(Debug, Default)]
pub struct Tally {
    /// Commands whose reply came.
    pub acknowledged: AtomicU64,
    /// Writes whose reply did not come.
    pub unknown: AtomicU64,
}

/// One connection's worth of writes.
#[derive(Debug)]
pub struct Worker {
    name: usize,
    choices: Choices,
    huge_bytes: usize,
    sequence: u64,
    keys: BTreeMap<String, Possible>,
}

impl Worker {
    /// A worker whose single huge value has `huge_bytes`.
    #[must_use]
    pub fn new(name: usize, seed: u64, huge_bytes: usize) -> Worker {
        let choices = Choices::new(seed ^ (name as u64) << 32);
        Worker { name, choices, huge_bytes, sequence: 0, keys: BTreeMap::new() }
    }

    /// Writes and reads until the connection breaks; the error says how it did.
    ///
    /// # Panics
    /// At the first wrong reply.
    pub fn work(&mut self, addr: SocketAddr, tally: &Tally) -> io::Error {
        let mut client = match Client::connect(addr, PATIENCE) {
            Ok(client) => client,
            Err(error) => return error,
        };
        loop {
            let mut owed = self.queue_pipeline(&mut client);
            let outcome = client.flush().and_then(|()| self.hear(&mut client, &mut owed, tally));
            if let Err(error) = outcome {
                let unknown: usize = owed.iter().map(|owed| owed.acknowledges.len()).sum();
                tally.unknown.fetch_add(unknown as u64, Ordering::Relaxed);
                return error;
            }
        }
    }

    fn queue_pipeline(&mut self, client: &mut Client) -> VecDeque<Owed> {
        let mut owed = VecDeque::new();
        // One huge value per pipeline at most, so that neither side has to read before it has written.
        let huge = (self.choices.below(8) == 0).then(|| self.choices.below(PIPELINE));
        for turn in 0..PIPELINE {
            let (command, expected) = if huge == Some(turn) {
                self.set(format!("w{}:huge", self.name), self.huge_bytes)
            } else {
                self.choose()
            };
            client.queue(&command);
            owed.push_back(expected);
        }
        owed
    }

    fn hear(&mut self, client: &mut Client, owed: &mut VecDeque<Owed>, tally: &Tally) -> io::Result<()> {
        while let Some(next) = owed.front() {
            let reply = client.receive()?;
            assert_eq!(brief(&reply), brief(&next.reply), "worker {}: a wrong reply", self.name);
            assert!(reply == next.reply, "worker {}: the reply has the right size and other bytes", self.name);
            for key in &next.acknowledges {
                self.keys.get_mut(key).expect("written before").0.pop_front();
            }
            owed.pop_front();
            tally.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// One command and its reply.
    fn choose(&mut self) -> (Vec<Vec<u8>>, Owed) {
        match self.choices.below(100) {
            0..55 => {
                let key = self.plain();
                let bytes = self.value_bytes();
                self.set(key, bytes)
            }
            55..70 => self.increment(),
            70..80 => self.delete(),
            80..90 => self.set_several(),
            _ => self.get(),
        }
    }

    fn plain(&mut self) -> String {
        format!("w{}:k{}", self.name, self.choices.below(PLAIN_KEYS))
    }

    fn value_bytes(&mut self) -> usize {
        if self.choices.below(12) == 0 { LARGE_BYTES } else { usize::try_from(self.choices.below(200)).expect("small") }
    }

    /// A value that is written once in the life of a worker.
    fn fresh(&mut self, key: &str, bytes: usize) -> Vec<u8> {
        self.sequence += 1;
        let mut value = format!("{key}#{}#", self.sequence).into_bytes();
        let mut filler = Choices::new(self.sequence);
        while value.len() < bytes {
            let rest = bytes - value.len();
            value.extend_from_slice(&filler.draw().to_le_bytes()[..rest.min(8)]);
        }
        value
    }

    fn written(&mut self, key: &str, state: State) {
        self.keys.entry(key.to_owned()).or_default().0.push_back(state);
    }

    fn set(&mut self, key: String, bytes: usize) -> (Vec<Vec<u8>>, Owed) {
        let value = self.fresh(&key, bytes);
        self.written(&key, Some(value.clone()));
        let command = vec![b"SET".to_vec(), key.clone().into_bytes(), value];
        (command, Owed { reply: Value::Simple("OK".into()), acknowledges: vec![key] })
    }

    fn set_several(&mut self) -> (Vec<Vec<u8>>, Owed) {
        let mut command = vec![b"MSET".to_vec()];
        let mut acknowledges = Vec::new();
        for _ in 0..=self.choices.below(4) {
            let key = self.plain();
            let bytes = self.value_bytes();
            let (set, owed) = self.set(key, bytes);
            command.extend(set.into_iter().skip(1));
            acknowledges.extend(owed.acknowledges);
        }
        (command, Owed { reply: Value::Simple("OK".into()), acknowledges })
    }

    fn delete(&mut self) -> (Vec<Vec<u8>>, Owed) {
        let mut command = vec![b"DEL".to_vec()];
        let mut acknowledges = Vec::new();
        let mut count = 0;
        for _ in 0..=self.choices.below(4) {
            let key = self.plain();
            count += i64::from(self.keys.entry(key.clone()).or_default().newest().is_some());
            self.written(&key, None);
            command.push(key.clone().into_bytes());
            acknowledges.push(key);
        }
        (command, Owed { reply: Value::Integer(count), acknowledges })
    }

    fn increment(&mut self) -> (Vec<Vec<u8>>, Owed) {
        let key = format!("w{}:n{}", self.name, self.choices.below(COUNTERS));
        let present = self.keys.entry(key.clone()).or_default().newest();
        let present: i64 = present.as_ref().map_or(0, |text| String::from_utf8_lossy(text).parse().expect("a counter"));
        self.written(&key, Some((present + 1).to_string().into_bytes()));
        let command = vec![b"INCR".to_vec(), key.clone().into_bytes()];
        (command, Owed { reply: Value::Integer(present + 1), acknowledges: vec![key] })
    }

    fn get(&mut self) -> (Vec<Vec<u8>>, Owed) {
        let key = self.plain();
        let reply = self.keys.entry(key.clone()).or_default().newest().clone().map_or(Value::Null, Value::Bulk);
        (vec![b"GET".to_vec(), key.into_bytes()], Owed { reply, acknowledges: Vec::new() })
    }

    /// Reads every key and compares; from then on what was read is what is known.
    ///
    /// # Panics
    /// At the first key that holds what it cannot hold.
    pub fn verify(&mut self, client: &mut Client) {
        for (key, possible) in &mut self.keys {
            let reply = client.call(&[b"GET", key.as_bytes()]).expect("a running daemon");
            let found = match reply {
                Value::Bulk(value) => Some(value),
                Value::Null => None,
                other => panic!("GET {key} gave {other:?}"),
            };
            let brief =
                |state: &State| state.as_ref().map_or("absent".to_owned(), |value| brief(&Value::Bulk(value.clone())));
            assert!(
                possible.0.contains(&found),
                "{key} is {}; acknowledged is {}; {} unknown writes may have come after: {:?}",
                brief(&found),
                brief(&possible.0[0]),
                possible.0.len() - 1,
                possible.0.iter().skip(1).map(brief).collect::<Vec<_>>()
            );
            possible.0 = VecDeque::from([found]);
        }
    }

    /// The keys that exist, once [`Worker::verify`] has settled what was unknown.
    pub fn present(&self) -> impl Iterator<Item = &String> {
        self.keys.iter().filter(|(_, possible)| possible.newest().is_some()).map(|(key, _)| key)
    }
}

/// Every key holds what it may hold, and no other key exists.
///
/// # Panics
/// At the first key of which that is not so.
pub fn verify_all(client: &mut Client, workers: &mut [Worker]) {
    let mut expected = HashSet::new();
    for worker in workers {
        worker.verify(client);
        expected.extend(worker.present().cloned());
    }
    assert_eq!(scan(client), expected, "SCAN names the keys that exist and no others");
    let count = i64::try_from(expected.len()).expect("few keys");
    assert_eq!(client.call(&["DBSIZE"]).expect("a running daemon"), Value::Integer(count));
}

/// All keys of the node, by SCAN.
///
/// # Panics
/// If a reply is not SCAN's.
pub fn scan(client: &mut Client) -> HashSet<String> {
    let mut keys = HashSet::new();
    let mut cursor = "0".to_owned();
    loop {
        let reply = client.call(&["SCAN", &cursor, "COUNT", "100"]).expect("a running daemon");
        let Value::Array(parts) = reply else { panic!("SCAN gave {reply:?}") };
        let [Value::Bulk(next), Value::Array(found)] = parts.as_slice() else { panic!("SCAN gave {parts:?}") };
        for key in found {
            let Value::Bulk(key) = key else { panic!("SCAN gave {key:?}") };
            keys.insert(String::from_utf8_lossy(key).into_owned());
        }
        cursor = String::from_utf8_lossy(next).into_owned();
        if cursor == "0" {
            return keys;
        }
    }
}

/// A value by its first bytes and its length.
fn brief(value: &Value) -> String {
    match value {
        Value::Bulk(bytes) => {
            format!("{:?}… ({} bytes)", String::from_utf8_lossy(&bytes[..bytes.len().min(24)]), bytes.len())
        }
        other => format!("{other:?}"),
    }
}
