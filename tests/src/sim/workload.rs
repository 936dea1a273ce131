//! What simulated clients do: operations, their outcomes, and a random mix of them.

use std::rc::Rc;

/// One operation of one client; values carry its number, so that every value names the write it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Unique in the run.
    pub id: u64,
    /// The region whose node it is sent to.
    pub region: usize,
    /// What it does.
    pub command: Command,
}

/// A command on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// SET with a value of [`value_of`], and PX if there is an expiry in milliseconds.
    Set {
        /// The key.
        key: Vec<u8>,
        /// Bytes that follow the operation's number in the value.
        filler: usize,
        /// Milliseconds to live.
        px: Option<u64>,
    },
    /// GET.
    Get {
        /// The key.
        key: Vec<u8>,
    },
    /// DEL.
    Del {
        /// The key.
        key: Vec<u8>,
    },
}

impl Command {
    /// The key it is about.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        match self {
            Command::Set { key, .. } | Command::Get { key } | Command::Del { key } => key,
        }
    }
}

impl Operation {
    /// The command's words as they are sent.
    #[must_use]
    pub fn words(&self) -> Vec<Vec<u8>> {
        match &self.command {
            Command::Set { key, filler, px } => {
                let mut words = vec![b"SET".to_vec(), key.clone(), value_of(self.id, *filler)];
                if let Some(px) = px {
                    words.extend([b"PX".to_vec(), px.to_string().into_bytes()]);
                }
                words
            }
            Command::Get { key } => vec![b"GET".to_vec(), key.clone()],
            Command::Del { key } => vec![b"DEL".to_vec(), key.clone()],
        }
    }
}

/// What a client learnt about its operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The write was acknowledged.
    Stored,
    /// What was read.
    Read(Option<Vec<u8>>),
    /// Whether the key was there to be deleted.
    Deleted(bool),
    /// The node said no; the write may not be relied on, nor may its absence.
    Refused(String),
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
}

/// The value that operation `id` writes.
#[must_use]
pub fn value_of(id: u64, filler: usize) -> Vec<u8> {
    let mut value = format!("{id:016x}:").into_bytes();
    value.extend(std::iter::repeat_n(b'a' + id.to_le_bytes()[0] % 26, filler));
    value
}

/// The operation that wrote `value`, if it is whole.
#[must_use]
pub fn writer_of(value: &[u8]) -> Option<u64> {
    let (digits, rest) = value.split_at_checked(16)?;
    let id = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    let filler = rest.strip_prefix(b":")?;
    (value_of(id, filler.len()) == value).then_some(id)
}

/// How a region's clients choose what to do.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Few keys that everybody fights over.
    pub hot_keys: u64,
    /// Many keys.
    pub cold_keys: u64,
    /// Of 100 operations, how many are on hot keys.
    pub hot_percent: u64,
    /// Longest pause between two operations in microseconds.
    pub think_us_max: u64,
}

impl Mix {
    /// Draws a mix.
    pub fn draw_for(random: &mut dyn FnMut() -> u64) -> Mix {
        let mut below = |bound: u64| random() % bound;
        Mix {
            hot_keys: 1 + below(6),
            cold_keys: 20 + below(200),
            hot_percent: 20 + below(70),
            think_us_max: 200_000 << below(3),
        }
    }

    /// Draws a command.
    pub fn draw(&self, random: &mut dyn FnMut() -> u64) -> Command {
        let mut below = |bound: u64| random() % bound;
        let key = if below(100) < self.hot_percent {
            format!("hot:{}", below(self.hot_keys))
        } else {
            format!("cold:{}", below(self.cold_keys))
        };
        let key = key.into_bytes();
        match below(100) {
            0..50 => Command::Set { key, filler: draw_filler(&mut below), px: None },
            50..62 => {
                let px = if below(2) == 0 { 50 + below(1000) } else { 1000 + below(60_000) };
                Command::Set { key, filler: draw_filler(&mut below), px: Some(px) }
            }
            62..78 => Command::Del { key },
            _ => Command::Get { key },
        }
    }

    /// Draws a pause in nanoseconds; mostly short, so that hot keys are contended.
    pub fn pause_ns(&self, random: &mut dyn FnMut() -> u64) -> u64 {
        if random().is_multiple_of(4) { 0 } else { random() % (self.think_us_max * 1000 + 1) }
    }
}

fn draw_filler(below: &mut impl FnMut(u64) -> u64) -> usize {
    let bytes = match below(100) {
        0..70 => below(200),
        70..95 => 200 + below(2_000),
        _ => 2_000 + below(12_000),
    };
    usize::try_from(bytes).unwrap_or(0)
}
