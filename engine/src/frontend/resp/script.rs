//! A transaction on its way through the cores: what each of them has to run, stage by stage, and the reply made of the results.
//!
//! The commands of one core run in their order. A command that looks at some keys before it writes others ends the stage with
//! its looks and begins the next one with its writes, so that a later command on any core sees them. Whoever drives the script
//! has all its cores held; a script without such commands has one stage.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use net::resp::{Args, Parser, reply};

use super::crossing::{Crossing, Effect, Found, Look};
use super::table::{Kind, TransactionVerb};
use super::transaction::Queued;
use crate::frontend::replies::{Merge, RUN_BYTES_MIN};
use crate::storage::NodeSecret;

/// What a core runs for one slot of the reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where its result goes.
    pub slot: usize,
    /// What to run.
    pub work: Work,
}

/// What a core runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// A command on one key, RESP-encoded.
    Command(Vec<u8>),
    /// Say what is there.
    Look(Look),
    /// Write; answer only if that fails.
    Effect(Effect),
}

/// The result of a piece.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PieceReply {
    /// Where it goes.
    pub slot: usize,
    /// RESP-encoded.
    pub runs: Vec<Bytes>,
    /// What it counted.
    pub sum: i64,
}

/// What pieces found, by slot.
pub type FoundBySlot = Vec<(usize, Option<Found>)>;

/// The pieces of a stage by core.
pub type Stage = BTreeMap<u16, Vec<Piece>>;

/// Which core a key belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Keys the placement.
    pub secret: NodeSecret,
    /// How many cores there are.
    pub cores: u16,
}

impl Place {
    /// The core of `key`.
    #[must_use]
    pub fn core(&self, key: &[u8]) -> u16 {
        self.secret.hash(key).core(self.cores)
    }
}

/// How the reply looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// An array with one element per command: `EXEC`.
    Array,
    /// That of the only command.
    Single,
}

#[derive(Clone, Debug)]
enum Entry {
    /// A command on one key, or one per key: its slots begin at `first`.
    Parts { first: usize, parts: Vec<(u16, Vec<u8>)>, merge: Merge, array: bool },
    /// Its slots begin at `first`, one per look.
    Crossing { first: usize, crossing: Crossing },
    /// About the connection or the server, with its reply once it was run.
    Session(Queued, Vec<u8>),
    /// The reply is known.
    Said(Vec<u8>),
}

/// See the module documentation.
#[derive(Clone, Debug)]
pub struct Script {
    shape: Shape,
    place: Place,
    entries: Vec<Entry>,
    /// The next entry to run.
    at: usize,
    /// The crossing command whose looks are under way.
    looking: Option<usize>,
    slots: Vec<PieceReply>,
}

impl Script {
    /// The script of `queue`. `parser` is any whose limits the commands satisfy.
    #[must_use]
    pub fn new(queue: &[Queued], shape: Shape, place: Place, parser: &mut Parser) -> Script {
        let mut script =
            Script { shape, place, entries: Vec::with_capacity(queue.len()), at: 0, looking: None, slots: Vec::new() };
        for queued in queue {
            let entry = match parser.next(&queued.encoded) {
                Ok(Some(_)) => script.entry(queued, parser.args(&queued.encoded)),
                _ => said_error("ERR internal: a transaction holds something else than commands"),
            };
            script.entries.push(entry);
        }
        script
    }

    fn entry(&mut self, queued: &Queued, args: Args<'_>) -> Entry {
        match queued.command.kind {
            Kind::Key(_) => {
                // As cores name commands to each other: the key comes first, whatever words of a subcommand stand before it.
                let place = usize::try_from(queued.command.keys.0).unwrap_or(1);
                let core = self.place.core(args.get(place).unwrap_or_default());
                let words: Vec<&[u8]> =
                    std::iter::once(queued.command.name.as_bytes()).chain(args.from(place).iter()).collect();
                let mut encoded = Vec::with_capacity(queued.encoded.len() + queued.command.name.len());
                net::resp::encode_command(&words, &mut encoded);
                let parts = vec![(core, encoded)];
                Entry::Parts { first: self.new_slots(1), parts, merge: Merge::Concatenate, array: false }
            }
            Kind::Many(verb) => {
                let part = verb.part();
                if !(args.len() - 1).is_multiple_of(part.step) {
                    return said_error(&super::wrong_arity(queued.command.name));
                }
                let words: Vec<&[u8]> = args.iter().skip(1).collect();
                let parts = words.chunks_exact(part.step).map(|of_key| {
                    let words: Vec<&[u8]> = std::iter::once(part.word).chain(of_key.iter().copied()).collect();
                    let mut encoded = Vec::with_capacity(words.iter().map(|word| word.len() + 16).sum());
                    net::resp::encode_command(&words, &mut encoded);
                    (self.place.core(of_key[0]), encoded)
                });
                let parts: Vec<_> = parts.collect();
                Entry::Parts { first: self.new_slots(parts.len()), parts, merge: part.merge, array: part.array }
            }
            Kind::Crossing(verb) => match Crossing::parse(verb, args) {
                Ok(crossing) => Entry::Crossing { first: self.new_slots(crossing.looks().len()), crossing },
                Err(text) => said_error(&text),
            },
            Kind::Session(_) | Kind::Container(_) | Kind::Everywhere(_) => Entry::Session(queued.clone(), Vec::new()),
            Kind::Transaction(TransactionVerb::Unwatch) => Entry::Said(b"+OK\r\n".to_vec()),
            Kind::Transaction(_) => said_error(super::transaction::NOT_ALLOWED),
        }
    }

    fn new_slots(&mut self, count: usize) -> usize {
        let first = self.slots.len();
        self.slots.resize_with(first + count, PieceReply::default);
        first
    }

    /// How its reply looks.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Whether nothing in it looks before it writes.
    #[must_use]
    pub fn has_one_stage(&self) -> bool {
        !self.entries.iter().any(|entry| matches!(entry, Entry::Crossing { .. }))
    }

    /// The cores of all its keys.
    #[must_use]
    pub fn cores(&self) -> BTreeSet<u16> {
        let mut cores = BTreeSet::new();
        for entry in &self.entries {
            match entry {
                Entry::Parts { parts, .. } => cores.extend(parts.iter().map(|(core, _)| *core)),
                Entry::Crossing { crossing, .. } => {
                    cores.extend(crossing.looks().iter().map(|look| self.place.core(&look.key)));
                }
                Entry::Session(..) | Entry::Said(_) => {}
            }
        }
        cores
    }

    /// Starts over: nothing that was run counts.
    pub fn rewind(&mut self) {
        (self.at, self.looking) = (0, None);
        self.slots.fill(PieceReply::default());
    }

    /// What has to be run next, given what the last stage's looks found. `None` once nothing is left.
    pub fn next_stage(&mut self, mut found: FoundBySlot) -> Option<Stage> {
        let mut stage = Stage::new();
        if let Some(looking) = self.looking.take()
            && let Entry::Crossing { first, crossing } = &self.entries[looking]
        {
            found.sort_unstable_by_key(|(slot, _)| *slot);
            let (first, crossing) = (*first, crossing.clone());
            let (effects, answer) = crossing.decide(found.into_iter().map(|(_, found)| found).collect());
            self.slots[first].runs = vec![answer.into()];
            for effect in effects {
                let core = self.place.core(effect.key());
                stage.entry(core).or_default().push(Piece { slot: first, work: Work::Effect(effect) });
            }
        }
        while let Some(entry) = self.entries.get(self.at) {
            self.at += 1;
            match entry {
                Entry::Parts { first, parts, .. } => {
                    for (slot, (core, encoded)) in (*first..).zip(parts) {
                        let work = Work::Command(encoded.clone());
                        stage.entry(*core).or_default().push(Piece { slot, work });
                    }
                }
                Entry::Crossing { first, crossing } => {
                    for (slot, look) in (*first..).zip(crossing.looks()) {
                        let core = self.place.core(&look.key);
                        stage.entry(core).or_default().push(Piece { slot, work: Work::Look(look) });
                    }
                    self.looking = Some(self.at - 1);
                    return Some(stage);
                }
                Entry::Session(..) | Entry::Said(_) => {}
            }
        }
        (!stage.is_empty()).then_some(stage)
    }

    /// Takes a result.
    pub fn fill(&mut self, reply: PieceReply) {
        if let Some(slot) = self.slots.get_mut(reply.slot) {
            *slot = reply;
        }
    }

    /// Whether it has commands about the connection or the server.
    #[must_use]
    pub fn has_sessions(&self) -> bool {
        self.entries.iter().any(|entry| matches!(entry, Entry::Session(..)))
    }

    /// Runs the commands about the connection or the server, once it is certain that the transaction takes place.
    pub fn run_sessions(&mut self, mut run: impl FnMut(&Queued) -> Vec<u8>) {
        for entry in &mut self.entries {
            if let Entry::Session(queued, answer) = entry {
                *answer = run(queued);
            }
        }
    }

    /// The reply.
    #[must_use]
    pub fn finish(mut self) -> Vec<Bytes> {
        let mut out = Runs::default();
        if self.shape == Shape::Array {
            reply::array_header(&mut out.open, self.entries.len());
        }
        for entry in std::mem::take(&mut self.entries) {
            match entry {
                Entry::Parts { first, parts, merge, array } => {
                    if array {
                        reply::array_header(&mut out.open, parts.len());
                    }
                    merged(&mut self.slots[first..first + parts.len()], &merge, &mut out);
                }
                Entry::Crossing { first, .. } => out.extend(std::mem::take(&mut self.slots[first].runs)),
                Entry::Session(_, answer) | Entry::Said(answer) => out.open.extend(answer),
            }
        }
        out.finish()
    }
}

fn said_error(text: &str) -> Entry {
    let mut out = Vec::new();
    reply::error(&mut out, text);
    Entry::Said(out)
}

/// Makes one reply of those of a command's parts.
fn merged(parts: &mut [PieceReply], merge: &Merge, out: &mut Runs) {
    let failed = parts.iter().position(|part| part.runs.first().is_some_and(|run| run.first() == Some(&b'-')));
    match (merge, failed) {
        (Merge::Concatenate, _) => parts.iter_mut().for_each(|part| out.extend(std::mem::take(&mut part.runs))),
        (_, Some(failed)) => out.extend(std::mem::take(&mut parts[failed].runs)),
        (Merge::AllOk, None) => out.open.extend_from_slice(b"+OK\r\n"),
        (Merge::Sum, None) => reply::integer(&mut out.open, parts.iter().map(|part| part.sum).sum()),
        // Of commands that every core runs, which do not stand in a transaction.
        (Merge::Array | Merge::Text(_) | Merge::Pick(_) | Merge::FoundOr(_), None) => {}
    }
}

/// Bytes to be sent: small ones are put together, large values are not copied.
#[derive(Debug, Default)]
struct Runs {
    done: Vec<Bytes>,
    open: Vec<u8>,
}

impl Runs {
    fn extend(&mut self, runs: Vec<Bytes>) {
        for run in runs {
            if run.len() < RUN_BYTES_MIN {
                self.open.extend_from_slice(&run);
            } else {
                self.close();
                self.done.push(run);
            }
        }
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.done.push(std::mem::take(&mut self.open).into());
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        self.close();
        self.done
    }
}

#[cfg(test)]
mod tests {
    use net::resp::Limits;

    use super::super::table;
    use super::*;

    const PLACE: Place = Place { secret: NodeSecret(7), cores: 2 };

    /// A key of the core.
    fn key(core: u16, number: usize) -> String {
        (0..).map(|at| format!("k{at}")).filter(|key| PLACE.core(key.as_bytes()) == core).nth(number).unwrap()
    }

    fn queued(words: &[&str]) -> Queued {
        let bytes: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let mut encoded = Vec::new();
        net::resp::encode_command(&bytes, &mut encoded);
        Queued { command: table::find(bytes[0]).unwrap(), encoded }
    }

    fn script(queue: &[Queued]) -> Script {
        Script::new(queue, Shape::Array, PLACE, &mut Parser::new(Limits::default()))
    }

    fn answer(script: &mut Script, slot: usize, text: &'static str, sum: i64) {
        script.fill(PieceReply { slot, runs: vec![Bytes::from_static(text.as_bytes())], sum });
    }

    fn finished(script: Script) -> String {
        String::from_utf8(script.finish().concat()).unwrap()
    }

    #[test]
    fn commands_without_a_look_are_one_stage_and_keep_their_order_on_each_core() {
        let (a, b) = (key(0, 0), key(1, 0));
        let queue = [queued(&["SET", &a, "1"]), queued(&["MSET", &b, "2", &a, "3"]), queued(&["GET", &a])];
        let mut script = script(&queue);
        assert_eq!(script.cores(), BTreeSet::from([0, 1]));
        let stage = script.next_stage(Vec::new()).unwrap();
        let slots = |core: u16| stage[&core].iter().map(|piece| piece.slot).collect::<Vec<_>>();
        assert_eq!((slots(0), slots(1)), (vec![0, 2, 3], vec![1]));
        assert_eq!(script.next_stage(Vec::new()), None);
        for (slot, text) in [(0, "+OK\r\n"), (1, "+OK\r\n"), (2, "+OK\r\n"), (3, "$1\r\n3\r\n")] {
            answer(&mut script, slot, text, 0);
        }
        assert_eq!(finished(script), "*3\r\n+OK\r\n+OK\r\n$1\r\n3\r\n");
    }

    #[test]
    fn a_rename_looks_in_one_stage_and_writes_in_the_next_before_what_follows() {
        let (a, b) = (key(0, 0), key(1, 0));
        let mut script = script(&[queued(&["SET", &a, "1"]), queued(&["RENAME", &a, &b]), queued(&["GET", &b])]);
        let first = script.next_stage(Vec::new()).unwrap();
        assert_eq!((first[&0].len(), first[&1].len()), (2, 1));
        let found = Found { value: b"1".to_vec(), expiry: None };
        // Cores answer in any order.
        let second = script.next_stage(vec![(2, None), (1, Some(found.clone()))]).unwrap();
        assert_eq!(second[&0], [Piece { slot: 1, work: Work::Effect(Effect::Delete(a.into())) }]);
        let put = Work::Effect(Effect::Put(b.into(), found));
        assert!(second[&1][0].work == put && matches!(second[&1][1].work, Work::Command(_)));
        assert_eq!(script.next_stage(Vec::new()), None);
        answer(&mut script, 0, "+OK\r\n", 0);
        answer(&mut script, 3, "$1\r\n1\r\n", 0);
        assert_eq!(finished(script), "*3\r\n+OK\r\n+OK\r\n$1\r\n1\r\n");
    }

    #[test]
    fn a_write_that_fails_is_the_answer_of_its_rename() {
        let mut script = script(&[queued(&["RENAME", &key(0, 0), &key(1, 0)])]);
        assert!(script.next_stage(Vec::new()).is_some());
        let found = Found { value: b"1".to_vec(), expiry: None };
        assert!(script.next_stage(vec![(0, Some(found)), (1, None)]).is_some());
        answer(&mut script, 0, "-ERR no\r\n", 0);
        assert_eq!(finished(script), "*1\r\n-ERR no\r\n");
    }

    #[test]
    fn counts_are_added_an_error_stands_for_its_command_and_a_rewound_script_has_no_answers() {
        let (a, b) = (key(0, 0), key(1, 0));
        let mut script = script(&[
            queued(&["DEL", &a, &b]),
            queued(&["MSET", &a, "1", &b]),
            queued(&["PING"]),
            queued(&["UNWATCH"]),
        ]);
        assert!(script.has_sessions());
        let stage = script.next_stage(Vec::new());
        answer(&mut script, 0, ":1\r\n", 1);
        answer(&mut script, 1, ":1\r\n", 1);
        script.rewind();
        assert_eq!(script.next_stage(Vec::new()), stage);
        answer(&mut script, 0, ":1\r\n", 1);
        script.run_sessions(|_| b"+PONG\r\n".to_vec());
        let arity = "-ERR wrong number of arguments for 'mset' command\r\n";
        assert_eq!(finished(script), format!("*4\r\n:1\r\n{arity}+PONG\r\n+OK\r\n"));
    }

    #[test]
    fn large_values_are_not_copied() {
        let mut script = script(&[queued(&["GET", &key(0, 0)])]);
        let value = Bytes::from(vec![b'v'; RUN_BYTES_MIN]);
        script.fill(PieceReply { slot: 0, runs: vec![Bytes::from_static(b"$16384\r\n"), value.clone()], sum: 0 });
        let runs = script.finish();
        assert_eq!(runs.len(), 2);
        assert_eq!(runs[1].as_ptr(), value.as_ptr());
    }
}
