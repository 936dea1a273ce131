//! What simulated clients do: operations, their outcomes, and random mixes of them.
//!
//! Three families of keys. *Shared* keys (`hot:`, `cold:`) are written by every region, and expire. *Private* ones
//! (`own:<region>:`) are written and read by one region's clients only and do not expire within a run: a register each, whose
//! full semantics can be checked. Every fourth key of these families mostly counts, the others mostly hold texts. *Team* keys
//! (`team:<region>:<team>:`) are written and read by one region's clients only, always all keys of a team in one transaction.

use std::borrow::Borrow;
use std::fmt;
use std::rc::Rc;

use net::resp::encode_command;

use super::check::held::Holders;
use super::node::VALUE_BYTES_MAX;

/// A key.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Rc<[u8]>);

impl Key {
    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The private key `number` of a region.
    #[must_use]
    pub fn private(region: usize, number: u64) -> Key {
        format!("own:{region}:{number}").into()
    }

    /// The key `number` of a team of a region.
    #[must_use]
    pub fn of_team(region: usize, team: u64, number: u64) -> Key {
        format!("team:{region}:{team}:{number}").into()
    }

    /// The region whose clients alone use it.
    #[must_use]
    pub fn owner(&self) -> Option<usize> {
        let rest = self.0.strip_prefix(b"own:")?;
        let end = rest.iter().position(|byte| *byte == b':')?;
        std::str::from_utf8(&rest[..end]).ok()?.parse().ok()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Key {
    fn from(bytes: Vec<u8>) -> Key {
        Key(bytes.into())
    }
}

impl From<String> for Key {
    fn from(text: String) -> Key {
        Key(text.into_bytes().into())
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Key {
        Key(text.as_bytes().into())
    }
}

/// One operation of one client; values carry its number, so that every value names the write it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Unique in the run.
    pub id: u64,
    /// The region whose node it is sent to.
    pub region: usize,
    /// The client that asks; it keeps its number over all its connections.
    pub session: u64,
    /// What it does.
    pub command: Command,
}

/// How a team is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TeamWay {
    /// Each key by SET.
    Set,
    /// The first key by SET, the others by COPY from it.
    Copy,
    /// By SET, only if none of them changed since the first one was read: WATCH, GET, then the transaction.
    Watch,
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// SET with a value of [`value_of`], and PX if there is an expiry in milliseconds.
    Set {
        /// The key.
        key: Key,
        /// Bytes that follow the operation's number in the value.
        filler: usize,
        /// Milliseconds to live.
        px: Option<u64>,
    },
    /// GET.
    Get {
        /// The key.
        key: Key,
    },
    /// DEL.
    Del {
        /// The key.
        key: Key,
    },
    /// SETNX with a value of [`value_of`].
    SetNx {
        /// The key.
        key: Key,
        /// Bytes that follow the operation's number.
        filler: usize,
    },
    /// GETSET with a value of [`value_of`].
    GetSet {
        /// The key.
        key: Key,
        /// Bytes that follow the operation's number.
        filler: usize,
    },
    /// GETDEL.
    GetDel {
        /// The key.
        key: Key,
    },
    /// APPEND of [`piece_of`].
    Append {
        /// The key.
        key: Key,
    },
    /// INCR, or INCRBY if it is not 1.
    IncrBy {
        /// The key.
        key: Key,
        /// How much.
        by: i64,
    },
    /// PEXPIRE.
    Expire {
        /// The key.
        key: Key,
        /// Milliseconds to live.
        px: u64,
    },
    /// PERSIST.
    Persist {
        /// The key.
        key: Key,
    },
    /// PTTL.
    PTtl {
        /// The key.
        key: Key,
    },
    /// EXISTS.
    Exists {
        /// The key.
        key: Key,
    },
    /// MSET of distinct keys, each with the same value of [`value_of`].
    MSet {
        /// The keys.
        keys: Vec<Key>,
        /// Bytes that follow the operation's number.
        filler: usize,
    },
    /// MGET of distinct keys.
    MGet {
        /// The keys.
        keys: Vec<Key>,
    },
    /// All keys of a team are SET in one transaction, each to the same value of [`value_of`].
    SetTeam {
        /// The keys.
        keys: Vec<Key>,
        /// Bytes that follow the operation's number.
        filler: usize,
        /// How.
        way: TeamWay,
    },
    /// All keys of a team are read in one transaction.
    GetTeam {
        /// The keys.
        keys: Vec<Key>,
    },
}

impl Command {
    /// The keys that it is about, without repetition.
    #[must_use]
    pub fn keys(&self) -> &[Key] {
        match self {
            Command::Set { key, .. }
            | Command::Get { key }
            | Command::Del { key }
            | Command::SetNx { key, .. }
            | Command::GetSet { key, .. }
            | Command::GetDel { key }
            | Command::Append { key }
            | Command::IncrBy { key, .. }
            | Command::Expire { key, .. }
            | Command::Persist { key }
            | Command::PTtl { key }
            | Command::Exists { key } => std::slice::from_ref(key),
            Command::MSet { keys, .. }
            | Command::MGet { keys }
            | Command::SetTeam { keys, .. }
            | Command::GetTeam { keys } => keys,
        }
    }

    /// Whether it may write a record of each of its keys.
    #[must_use]
    pub fn writes(&self) -> bool {
        !matches!(
            self,
            Command::Get { .. }
                | Command::MGet { .. }
                | Command::GetTeam { .. }
                | Command::PTtl { .. }
                | Command::Exists { .. }
        )
    }

    /// The filler of the value that it writes, if that is one of [`value_of`].
    #[must_use]
    pub fn filler(&self) -> Option<usize> {
        match self {
            Command::Set { filler, .. }
            | Command::SetNx { filler, .. }
            | Command::GetSet { filler, .. }
            | Command::MSet { filler, .. }
            | Command::SetTeam { filler, .. } => Some(*filler),
            _ => None,
        }
    }

    /// How many replies it gets.
    #[must_use]
    pub fn replies(&self) -> usize {
        match self {
            Command::SetTeam { keys, way: TeamWay::Watch, .. } => keys.len() + 4,
            Command::SetTeam { keys, .. } => keys.len() + 2,
            Command::GetTeam { keys } => keys.len() + 2,
            _ => 1,
        }
    }
}

impl Operation {
    /// Appends the command as it is sent.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let value = self.command.filler().map(|filler| value_of(self.id, filler)).unwrap_or_default();
        let one =
            |name: &'static str, key: &Key, out: &mut Vec<u8>| encode_command(&[name.as_bytes(), key.bytes()], out);
        let two = |name: &'static str, key: &Key, last: &[u8], out: &mut Vec<u8>| {
            encode_command(&[name.as_bytes(), key.bytes(), last], out);
        };
        match &self.command {
            Command::Set { key, px: None, .. } => two("SET", key, &value, out),
            Command::Set { key, px: Some(px), .. } => {
                encode_command(&[b"SET", key.bytes(), &value, b"PX", px.to_string().as_bytes()], out);
            }
            Command::Get { key } => one("GET", key, out),
            Command::Del { key } => one("DEL", key, out),
            Command::SetNx { key, .. } => two("SETNX", key, &value, out),
            Command::GetSet { key, .. } => two("GETSET", key, &value, out),
            Command::GetDel { key } => one("GETDEL", key, out),
            Command::Append { key } => two("APPEND", key, &piece_of(self.id), out),
            Command::IncrBy { key, by: 1 } => one("INCR", key, out),
            Command::IncrBy { key, by } => two("INCRBY", key, by.to_string().as_bytes(), out),
            Command::Expire { key, px } => two("PEXPIRE", key, px.to_string().as_bytes(), out),
            Command::Persist { key } => one("PERSIST", key, out),
            Command::PTtl { key } => one("PTTL", key, out),
            Command::Exists { key } => one("EXISTS", key, out),
            Command::MSet { keys, .. } => {
                let mut words: Vec<&[u8]> = vec![b"MSET"];
                words.extend(keys.iter().flat_map(|key| [key.bytes(), &value]));
                encode_command(&words, out);
            }
            Command::MGet { keys } => {
                let mut words: Vec<&[u8]> = vec![b"MGET"];
                words.extend(keys.iter().map(Key::bytes));
                encode_command(&words, out);
            }
            Command::SetTeam { keys, way, .. } => {
                if *way == TeamWay::Watch {
                    let words: Vec<&[u8]> =
                        std::iter::once(b"WATCH".as_slice()).chain(keys.iter().map(Key::bytes)).collect();
                    encode_command(&words, out);
                    one("GET", &keys[0], out);
                }
                encode_command(&["MULTI"], out);
                for (at, key) in keys.iter().enumerate() {
                    if *way == TeamWay::Copy && at > 0 {
                        encode_command(&[b"COPY", keys[0].bytes(), key.bytes(), b"REPLACE"], out);
                    } else {
                        two("SET", key, &value, out);
                    }
                }
                encode_command(&["EXEC"], out);
            }
            Command::GetTeam { keys } => {
                encode_command(&["MULTI"], out);
                keys.iter().for_each(|key| one("GET", key, out));
                encode_command(&["EXEC"], out);
            }
        }
    }
}

/// What a client learnt about its operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The write was acknowledged with OK.
    Stored,
    /// What was read, or was there before the write.
    Read(Option<Vec<u8>>),
    /// What was read of several keys.
    ReadMany(Vec<Option<Vec<u8>>>),
    /// What the first key of a team was before a transaction that watched it, and whether that took place.
    Swapped {
        /// The value.
        seen: Option<Vec<u8>>,
        /// Whether it took place.
        done: bool,
    },
    /// Whether the key was there to be deleted.
    Deleted(bool),
    /// 1 or 0.
    Flag(bool),
    /// A sum, a length or a time to live.
    Number(i64),
    /// The node said no; the write may not be relied on, nor may its absence.
    Refused(String),
    /// An answer that no command of this kind can have.
    Malformed(String),
    /// No answer: timeout or a broken connection.
    Unknown,
}

/// What a client reports to the harness, in order.
#[derive(Clone, Debug)]
pub enum Note {
    /// It sends this.
    Began(Rc<Operation>),
    /// It learnt this.
    Ended(Rc<Operation>, Outcome),
    /// It was told who else holds what it wrote.
    Held(Rc<Operation>, Holders),
    /// A session goes on at a region, which says that it has what the session saw.
    Entered {
        /// The region.
        region: usize,
        /// The session.
        session: u64,
    },
    /// What a region's node sent was no answer to anything.
    Stray(usize, String),
}

impl Note {
    /// The region it comes from.
    #[must_use]
    pub fn region(&self) -> usize {
        match self {
            Note::Began(operation) | Note::Ended(operation, _) | Note::Held(operation, _) => operation.region,
            Note::Stray(region, _) | Note::Entered { region, .. } => *region,
        }
    }
}

/// Bytes in front of a value's filler.
const VALUE_HEAD_BYTES: usize = 17;

fn filler_byte(id: u64) -> u8 {
    b'a' + id.to_le_bytes()[0] % 26
}

/// The value that operation `id` writes.
#[must_use]
pub fn value_of(id: u64, filler: usize) -> Vec<u8> {
    let mut value = Vec::with_capacity(VALUE_HEAD_BYTES + filler);
    value.extend(format!("{id:016x}:").into_bytes());
    value.resize(VALUE_HEAD_BYTES + filler, filler_byte(id));
    value
}

/// What operation `id` appends; no value of [`value_of`] has its first byte behind its head.
#[must_use]
pub fn piece_of(id: u64) -> Vec<u8> {
    format!("+{id:016x}").into_bytes()
}

fn id_of(digits: &[u8]) -> Option<u64> {
    let lower = digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    if lower { u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok() } else { None }
}

/// The operation that wrote `value`, if it is whole.
#[must_use]
pub fn writer_of(value: &[u8]) -> Option<u64> {
    let (digits, rest) = value.split_at_checked(VALUE_HEAD_BYTES - 1)?;
    let id = id_of(digits)?;
    let filler = rest.strip_prefix(b":")?;
    // All bytes are equal if each equals the one before it: one comparison of memory, also for large values.
    let even =
        filler.first().is_none_or(|first| *first == filler_byte(id) && filler[1..] == filler[..filler.len() - 1]);
    even.then_some(id)
}

/// What `value` was before the last piece was appended to it, and who appended that.
#[must_use]
pub fn appended_to(value: &[u8]) -> Option<(&[u8], u64)> {
    let (before, piece) = value.split_at_checked(value.len().checked_sub(VALUE_HEAD_BYTES)?)?;
    Some((before, id_of(piece.strip_prefix(b"+")?)?))
}

/// Milliseconds to live of private keys: thirty years, which no clock of the simulator passes within a run.
const NEVER_MS: u64 = 946_080_000_000;
/// Of this many operations, one follows a new connection.
const RECONNECT_EVERY: u64 = 400;

/// How a region's clients choose what to do.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Few keys that everybody fights over.
    pub hot_keys: u64,
    /// Many keys.
    pub cold_keys: u64,
    /// Private keys of each region.
    pub own_keys: u64,
    /// Of 100 operations, how many are on private keys.
    pub own_percent: u64,
    /// Of 100 operations on shared keys, how many are on hot ones.
    pub hot_percent: u64,
    /// Of 100 operations, how many only read.
    pub read_percent: u64,
    /// Of 100 writes, how many delete.
    pub delete_percent: u64,
    /// Of 100 writes, how many read and modify (counters always do).
    pub modify_percent: u64,
    /// Of 100 writes, how many are about expiry.
    pub expiry_percent: u64,
    /// Of 100 reads and of 100 plain writes, how many are of several keys.
    pub many_percent: u64,
    /// Of 100 values, how many have more than 2000 bytes.
    pub large_percent: u64,
    /// Operations that follow each other without a pause.
    pub burst: u64,
    /// Longest pause between two bursts in microseconds.
    pub think_us_max: u64,
    /// Teams of each region.
    pub teams: u64,
    /// Of 100 operations, how many are transactions on teams.
    pub team_percent: u64,
    /// Whether all shared keys are hot: the cold ones may not be in its region.
    pub shuns_cold: bool,
    /// Whether it is asked in Godwit's own protocol, with what that has requests for.
    pub native: bool,
}

/// Draws below a bound.
type Below<'a> = &'a mut dyn FnMut(u64) -> u64;

impl Mix {
    /// Draws a world: quiet or brutal, with few keys or many, with large values or none. Each client would begin `operations` within
    /// `millis`, if none of them had to wait.
    pub fn draw_for(random: &mut dyn FnMut() -> u64, operations: u64, millis: u64) -> Mix {
        let mut below = |bound: u64| random() % bound;
        let burst = [1, 4, 8, 20, 50][index(below(5))];
        let mix = Mix {
            hot_keys: [1, 2, 4, 8][index(below(4))],
            cold_keys: [10, 100, 1_000, 20_000][index(below(4))],
            own_keys: [1, 2, 4, 12][index(below(4))],
            own_percent: 10 + below(30),
            hot_percent: 10 + below(85),
            read_percent: 10 + below(50),
            delete_percent: below(30),
            modify_percent: below(50),
            expiry_percent: below(30),
            many_percent: below(15),
            large_percent: [0, 2, 5, 30][index(below(4))],
            burst,
            // What is drawn is half of it on average.
            think_us_max: 2 * 1_000 * millis * burst / operations.max(1),
            teams: 0,
            team_percent: 0,
            shuns_cold: false,
            native: false,
        };
        if below(3) > 0 {
            return mix;
        }
        // Few keys, overwritten so often and with so much that segments are given up and their files used again.
        Mix {
            cold_keys: 1 + below(8),
            own_keys: 1 + below(2),
            read_percent: 5 + below(20),
            large_percent: 10 + below(60),
            ..mix
        }
    }

    /// Draws a command for a client of `region`.
    pub fn draw(&self, region: usize, random: &mut dyn FnMut() -> u64) -> Command {
        let below: Below<'_> = &mut |bound: u64| random() % bound;
        if self.team_percent > 0 && below(100) < self.team_percent {
            return self.draw_team(region, below);
        }
        let own = below(100) < self.own_percent;
        let (key, counts) = self.draw_key(own, region, below);
        if below(100) < self.read_percent {
            return match below(100) {
                share if share < self.many_percent => Command::MGet { keys: self.draw_more(key, own, region, below) },
                share if share < 85 => Command::Get { key },
                share if share < 92 => Command::PTtl { key },
                _ => Command::Exists { key },
            };
        }
        if below(100) < self.delete_percent {
            return if below(4) == 0 { Command::GetDel { key } } else { Command::Del { key } };
        }
        if below(100) < self.expiry_percent {
            let px = match below(4) {
                _ if own => NEVER_MS,
                0 | 1 => 50 + below(1_000),
                _ => 1_000 + below(30_000),
            };
            return match below(4) {
                0 => Command::Persist { key },
                1 => Command::Expire { key, px },
                // On a private key the time to live has to come from a command that the model knows.
                _ if own => Command::Expire { key, px },
                _ => Command::Set { key, filler: self.draw_filler(below), px: Some(px) },
            };
        }
        // Some commands meet the other kind of value.
        if counts != (below(50) == 0) {
            return match below(20) {
                0 => Command::Set { key, filler: 0, px: None },
                1..4 => Command::IncrBy { key, by: [-1, 7, 1_000_000][index(below(3))] },
                _ => Command::IncrBy { key, by: 1 },
            };
        }
        let filler = self.draw_filler(below);
        if below(100) < self.modify_percent {
            return match below(4) {
                0 => Command::SetNx { key, filler },
                1 => Command::GetSet { key, filler },
                _ => Command::Append { key },
            };
        }
        if below(100) < self.many_percent {
            return Command::MSet { keys: self.draw_more(key, own, region, below), filler };
        }
        Command::Set { key, filler, px: None }
    }

    /// A key, and whether it mostly counts.
    fn draw_key(&self, own: bool, region: usize, below: Below<'_>) -> (Key, bool) {
        if own {
            let number = below(self.own_keys);
            return (Key::private(region, number), number % 4 == 3);
        }
        let hot = below(100) < self.hot_percent || self.shuns_cold;
        let (name, number) = if hot { ("hot", below(self.hot_keys)) } else { ("cold", below(self.cold_keys)) };
        (format!("{name}:{number}").into(), number % 4 == 3)
    }

    /// `first` and up to four other keys of its family.
    fn draw_more(&self, first: Key, own: bool, region: usize, below: Below<'_>) -> Vec<Key> {
        let mut keys = vec![first];
        for _ in 0..=below(4) {
            let (key, _) = self.draw_key(own, region, below);
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        keys
    }

    /// A transaction on a team of two to five keys.
    fn draw_team(&self, region: usize, below: Below<'_>) -> Command {
        let team = below(self.teams);
        let keys = (0..2 + team * 7 % 4).map(|number| Key::of_team(region, team, number)).collect();
        match below(5) {
            0 | 1 => Command::GetTeam { keys },
            2 => {
                let way = if below(2) == 0 { TeamWay::Set } else { TeamWay::Copy };
                Command::SetTeam { keys, filler: index(below(900)), way }
            }
            _ => Command::SetTeam { keys, filler: index(below(100)), way: TeamWay::Watch },
        }
    }

    fn draw_filler(&self, below: Below<'_>) -> usize {
        let largest = u64::from(VALUE_BYTES_MAX) - VALUE_HEAD_BYTES as u64;
        let bytes = if below(100) < self.large_percent {
            if below(16) == 0 { largest } else { 2_000 + below(largest / 3) }
        } else if below(4) == 0 {
            200 + below(1_800)
        } else {
            below(200)
        };
        usize::try_from(bytes).unwrap_or(0)
    }

    /// Draws a pause in nanoseconds: none within a burst.
    pub fn pause_ns(&self, random: &mut dyn FnMut() -> u64) -> u64 {
        if random().is_multiple_of(self.burst) { random() % (self.think_us_max * 1000 + 1) } else { 0 }
    }

    /// Draws whether a client that has nothing under way leaves its connection for a fresh one.
    pub fn reconnects(&self, random: &mut dyn FnMut() -> u64) -> bool {
        random().is_multiple_of(RECONNECT_EVERY)
    }
}

fn index(drawn: u64) -> usize {
    usize::try_from(drawn).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_name_their_writers() {
        assert_eq!(writer_of(&value_of(77, 40)), Some(77));
        assert_eq!(writer_of(&value_of(77, 0)), Some(77));
        let mut torn = value_of(77, 40);
        torn[30] ^= 1;
        assert_eq!(writer_of(&torn), None);
        let mut grown = value_of(77, 40);
        grown.extend(piece_of(78));
        assert_eq!(writer_of(&grown), None);
        assert_eq!(appended_to(&grown), Some((value_of(77, 40).as_slice(), 78)));
        assert_eq!(appended_to(b"+1"), None);
    }

    #[test]
    fn private_keys_name_their_region() {
        assert_eq!(Key::private(2, 7).owner(), Some(2));
        assert_eq!(Key::from("hot:1").owner(), None);
        assert_eq!(Key::from("own:x:1").owner(), None);
    }

    #[test]
    fn every_command_is_drawn_and_private_keys_stay_private() {
        let mut seen = std::collections::BTreeSet::new();
        let mut random = net::reactor::sim::Random::new(1);
        let mut random = || random.next();
        for _ in 0..200 {
            let mix = Mix { teams: 2, team_percent: 5, ..Mix::draw_for(&mut random, 500, 30_000) };
            for _ in 0..100 {
                let command = mix.draw(1, &mut random);
                assert!(command.keys().iter().all(|key| key.owner().is_none_or(|owner| owner == 1)));
                assert_eq!(
                    command.keys().iter().collect::<std::collections::BTreeSet<_>>().len(),
                    command.keys().len()
                );
                seen.insert(format!("{command:?}").split(' ').next().unwrap_or_default().to_owned());
            }
        }
        assert_eq!(seen.len(), 16, "{seen:?}");
    }
}
