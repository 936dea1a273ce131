//! Transactions inside a node. The keys of a *team* are only written all together, each to the same value, and read all together.
//!
//! - While a node runs, every read finds one value in all of them.
//! - A crash may leave of a transaction that was not acknowledged the part of some cores: until the next acknowledged write, keys of one
//!   core hold one value, keys of different cores need not.
//! - A transaction that watched the keys and took place replaced what was read after WATCH.

use std::collections::{BTreeSet, HashMap};

use engine::storage::NodeSecret;

use super::Violation;
use super::writes::Durable;
use crate::sim::workload::{Command, Key, Operation, Outcome, writer_of};

/// The checker, of what is read.
pub const ATOMIC: &str = "S3 a transaction is atomic and isolated";
/// The checker, of what was watched.
pub const WATCHED: &str = "S3 a watched key did not change";

/// By key, a number; those with the same number must hold the same.
type Classes = Vec<usize>;

#[derive(Debug, Default)]
struct Team {
    keys: Vec<Key>,
    /// Which keys may differ since a crash; `None` if none may.
    torn: Option<Classes>,
    /// Writes of this life that may have begun on some core and were not acknowledged.
    open: BTreeSet<u64>,
}

/// One run of a region's node.
#[derive(Clone, Copy, Debug)]
struct Life {
    number: u64,
    /// Where its keys lie.
    place: Option<(NodeSecret, u16)>,
}

/// An operation that is under way.
#[derive(Debug)]
struct Began {
    life: u64,
    torn: Option<Classes>,
}

/// All teams.
#[derive(Debug, Default)]
pub struct Teams {
    lives: HashMap<usize, Life>,
    /// By region and first key.
    teams: HashMap<(usize, Key), Team>,
    began: HashMap<u64, Began>,
    lost_disks: BTreeSet<usize>,
    /// Reads that had to find one value everywhere.
    pub reads: u64,
    /// Writes that had watched.
    pub swaps: u64,
    /// Writes that did not take place because somebody else wrote.
    pub lost_races: u64,
}

impl Teams {
    /// The node of a region begins to serve.
    pub fn started(&mut self, region: usize, secret: NodeSecret, cores: u16) {
        let life = self.lives.entry(region).or_insert(Life { number: 0, place: None });
        life.place = Some((secret, cores));
    }

    /// It died.
    pub fn died(&mut self, region: usize) {
        let life = self.lives.entry(region).or_insert(Life { number: 0, place: None });
        life.number += 1;
        let place = life.place;
        for ((_, _), team) in self.teams.iter_mut().filter(|((other, _), _)| *other == region) {
            if !std::mem::take(&mut team.open).is_empty() {
                let cores =
                    team.keys.iter().map(|key| place.map_or(0, |(secret, cores)| secret.hash(key.bytes()).core(cores)));
                let before = team.torn.take().unwrap_or_else(|| vec![0; team.keys.len()]);
                let classes = refined(&before, &cores.map(usize::from).collect::<Vec<_>>());
                team.torn = classes.iter().any(|class| *class != classes[0]).then_some(classes);
            }
        }
    }

    /// Its disk is another one, or a damaged one: nothing is known of it.
    pub fn forget(&mut self, region: usize) {
        for (_, team) in self.teams.iter_mut().filter(|((other, _), _)| *other == region) {
            team.torn = Some((0..team.keys.len()).collect());
            team.open.clear();
        }
        let life = self.lives.entry(region).or_insert(Life { number: 0, place: None });
        life.number += 1;
        self.lost_disks.insert(region);
    }

    fn team(&mut self, operation: &Operation) -> &mut Team {
        let keys = operation.command.keys();
        let name = (operation.region, keys[0].clone());
        self.teams.entry(name).or_insert_with(|| Team { keys: keys.to_vec(), ..Team::default() })
    }

    fn life(&self, region: usize) -> u64 {
        self.lives.get(&region).map_or(0, |life| life.number)
    }

    /// A client sends this.
    pub fn begin(&mut self, operation: &Operation) {
        let writes = match operation.command {
            Command::SetTeam { .. } => true,
            Command::GetTeam { .. } => false,
            _ => return,
        };
        let life = self.life(operation.region);
        let team = self.team(operation);
        if writes {
            team.open.insert(operation.id);
        }
        let torn = team.torn.clone();
        self.began.insert(operation.id, Began { life, torn });
    }

    /// A client learnt this.
    ///
    /// # Errors
    /// [`ATOMIC`].
    pub fn end(&mut self, operation: &Operation, outcome: &Outcome) -> Result<(), Violation> {
        let Some(began) = self.began.remove(&operation.id) else { return Ok(()) };
        // An answer of an earlier life says nothing about this one.
        let same_life = began.life == self.life(operation.region);
        match outcome {
            Outcome::ReadMany(values) if same_life => self.read(operation, values, &began),
            Outcome::Stored if same_life => {
                self.wrote(operation);
                Ok(())
            }
            Outcome::Swapped { done: true, .. } if same_life => {
                self.wrote(operation);
                Ok(())
            }
            Outcome::Swapped { done: false, .. } => {
                self.lost_races += 1;
                self.team(operation).open.remove(&operation.id);
                Ok(())
            }
            // Any other refusal may have come too late for some core.
            Outcome::Refused(text) if text.starts_with("EXECABORT ") => {
                self.team(operation).open.remove(&operation.id);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn wrote(&mut self, operation: &Operation) {
        let team = self.team(operation);
        team.open.remove(&operation.id);
        team.torn = None;
    }

    /// A write that had watched took place; `before` is the record of the first key that it replaced, if that is known.
    ///
    /// # Errors
    /// [`WATCHED`] if that is not what was read after WATCH.
    pub fn swapped(
        &mut self,
        operation: &Operation,
        seen: &Option<Vec<u8>>,
        before: Option<Option<&Durable>>,
    ) -> Result<(), Violation> {
        self.swaps += 1;
        let seen_writer = seen.as_deref().map(writer_of);
        match before {
            // A disk that was lost, or set back, holds less than what is known to have been written.
            _ if self.lost_disks.contains(&operation.region) => Ok(()),
            Some(before) if before.map(|before| before.writer) == seen_writer => Ok(()),
            _ => {
                let text =
                    format!("{operation:?} had read what operation {seen_writer:?} wrote, and replaced {before:?}");
                Err(Violation::new(WATCHED, text))
            }
        }
    }

    fn read(&mut self, operation: &Operation, values: &[Option<Vec<u8>>], began: &Began) -> Result<(), Violation> {
        self.reads += u64::from(began.torn.is_none());
        let class = |at: usize| began.torn.as_ref().map_or(0, |classes| classes[at]);
        for (at, value) in values.iter().enumerate() {
            let first = (0..at).find(|other| class(*other) == class(at));
            if let Some(first) = first.filter(|first| values[*first] != *value) {
                let short = |value: &Option<Vec<u8>>| {
                    value.as_ref().map(|value| String::from_utf8_lossy(&value[..value.len().min(20)]).into_owned())
                };
                let text = format!(
                    "{operation:?} read {:?} at {first} and {:?} at {at}, which are written together",
                    short(&values[first]),
                    short(value)
                );
                return Err(Violation::new(ATOMIC, text));
            }
        }
        Ok(())
    }
}

/// The classes of what is equal in both.
fn refined(one: &[usize], other: &[usize]) -> Classes {
    let pairs: Vec<(usize, usize)> = one.iter().copied().zip(other.iter().copied()).collect();
    pairs.iter().map(|pair| pairs.iter().position(|first| first == pair).unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::workload::{TeamWay, value_of};

    const SECRET: NodeSecret = NodeSecret(5);

    /// Two keys of one core of two, and one of the other.
    fn keys() -> Vec<Key> {
        let of = |core: u16| {
            (0..).map(|number| Key::of_team(0, 0, number)).filter(move |key| SECRET.hash(key.bytes()).core(2) == core)
        };
        of(0).take(2).chain(of(1).take(1)).collect()
    }

    fn write(id: u64, watches: bool) -> Operation {
        let way = if watches { TeamWay::Watch } else { TeamWay::Set };
        Operation { id, region: 0, session: 1, command: Command::SetTeam { keys: keys(), filler: 0, way } }
    }

    fn value(id: u64) -> Option<Vec<u8>> {
        (id > 0).then(|| value_of(id, 0))
    }

    fn read(teams: &mut Teams, id: u64, values: [u64; 3]) -> Option<&'static str> {
        let get = Operation { id, region: 0, session: 1, command: Command::GetTeam { keys: keys() } };
        teams.begin(&get);
        let values = values.map(value).to_vec();
        teams.end(&get, &Outcome::ReadMany(values)).err().map(|violation| violation.checker)
    }

    fn wrote(teams: &mut Teams, id: u64, outcome: &Outcome) {
        teams.begin(&write(id, false));
        teams.end(&write(id, false), outcome).unwrap();
    }

    fn running() -> Teams {
        let mut teams = Teams::default();
        teams.started(0, SECRET, 2);
        teams
    }

    #[test]
    fn a_read_finds_one_value_in_all_keys() {
        let mut teams = running();
        assert_eq!(read(&mut teams, 1, [0, 0, 0]), None);
        wrote(&mut teams, 2, &Outcome::Stored);
        assert_eq!(read(&mut teams, 3, [2, 2, 2]), None);
        teams.begin(&write(4, false));
        assert_eq!(read(&mut teams, 5, [2, 2, 4]), Some(ATOMIC));
        assert_eq!(read(&mut teams, 6, [2, 4, 2]), Some(ATOMIC));
        assert_eq!(read(&mut teams, 7, [0, 2, 2]), Some(ATOMIC));
    }

    #[test]
    fn a_crash_may_leave_the_part_of_one_core_of_what_was_not_acknowledged() {
        let mut teams = running();
        wrote(&mut teams, 1, &Outcome::Stored);
        teams.died(0);
        teams.started(0, SECRET, 2);
        assert_eq!(read(&mut teams, 2, [1, 1, 0]), Some(ATOMIC), "nothing was under way");
        teams.begin(&write(3, false));
        teams.died(0);
        teams.end(&write(3, false), &Outcome::Unknown).unwrap();
        teams.started(0, SECRET, 2);
        assert_eq!(read(&mut teams, 4, [1, 1, 3]), None);
        assert_eq!(read(&mut teams, 5, [3, 3, 1]), None);
        assert_eq!(read(&mut teams, 6, [1, 3, 3]), Some(ATOMIC), "the part of one core is whole");
        wrote(&mut teams, 7, &Outcome::Stored);
        assert_eq!(read(&mut teams, 8, [1, 1, 7]), Some(ATOMIC));
        wrote(&mut teams, 9, &Outcome::Refused("EXECABORT …".into()));
        teams.died(0);
        teams.started(0, SECRET, 2);
        assert_eq!(read(&mut teams, 10, [9, 9, 7]), Some(ATOMIC), "what was refused is nowhere");
    }

    #[test]
    fn on_one_core_nothing_is_torn() {
        let mut teams = Teams::default();
        teams.started(0, SECRET, 1);
        teams.begin(&write(1, false));
        teams.died(0);
        teams.started(0, SECRET, 2);
        assert_eq!(read(&mut teams, 2, [1, 1, 0]), Some(ATOMIC));
    }

    #[test]
    fn what_was_read_is_what_is_replaced() {
        let durable = |writer| Durable {
            rank: (wal::Version(5), 0),
            origin: wal::NodeId(1),
            op: wal::RecordOp::Put,
            expiry: None,
            value_crc: 0,
            writer: Some(writer),
        };
        let (one, two) = (durable(1), durable(2));
        for (seen, before, expected) in [
            (0, Some(None), None),
            (1, Some(Some(&one)), None),
            (1, Some(Some(&two)), Some(WATCHED)),
            (0, Some(Some(&two)), Some(WATCHED)),
            (1, Some(None), Some(WATCHED)),
            (1, None, Some(WATCHED)),
        ] {
            let mut teams = running();
            let swapped = teams.swapped(&write(3, true), &value(seen), before);
            assert_eq!(swapped.err().map(|violation| violation.checker), expected, "{seen} {before:?}");
            teams.forget(0);
            assert!(teams.swapped(&write(4, true), &value(seen), before).is_ok(), "another disk");
        }
    }
}
