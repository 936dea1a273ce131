//! The private keys of each region as registers: the whole history of each is linearizable, over kills and power losses, too.
//!
//! An operation without an answer may have taken effect until the process that it was sent to died, and no later: what
//! recovery finds was appended by then. One that was refused may have taken effect until it was refused.

use std::collections::{BTreeMap, HashMap};

use super::Violation;
use super::linear::{Call, Verdict, check};
use super::string_key::{Held, Input, Output, Print, StringKey};
use crate::sim::workload::{Command, Key, Operation, Outcome, piece_of, value_of};

/// The checker.
pub const LINEARIZABLE: &str = "private keys are linearizable";
/// Steps of the search for one key.
const STEPS_MAX: u64 = 500_000;

/// Where a call of an operation that is under way is kept: its key and its place there.
type Slot = (Key, usize);

#[derive(Debug, Default)]
struct RegionCalls {
    keys: BTreeMap<Key, Vec<Call<StringKey>>>,
    under_way: HashMap<u64, Vec<Slot>>,
    /// Calls that will never be answered and may still take effect.
    loose: Vec<Slot>,
    forgotten: bool,
}

/// What was asked of private keys.
#[derive(Debug, Default)]
pub struct Privates {
    regions: BTreeMap<usize, RegionCalls>,
    /// Keys whose history could not be decided within the number of steps.
    pub undecided: u64,
    /// Calls that were checked.
    pub checked: u64,
}

impl Privates {
    /// An operation begins, at event `event`.
    pub fn begin(&mut self, operation: &Operation, event: u64) {
        let region = self.regions.entry(operation.region).or_default();
        if region.forgotten {
            return;
        }
        let mut slots = Vec::new();
        for key in operation.command.keys() {
            if key.owner() != Some(operation.region) {
                continue;
            }
            let calls = match region.keys.get_mut(key.bytes()) {
                Some(calls) => calls,
                None => region.keys.entry(key.clone()).or_default(),
            };
            slots.push((key.clone(), calls.len()));
            calls.push(Call { input: input_of(operation), output: None, begin: event, until: u64::MAX });
        }
        if !slots.is_empty() {
            region.under_way.insert(operation.id, slots);
        }
    }

    /// It ended, at event `event`.
    pub fn end(&mut self, operation: &Operation, outcome: &Outcome, event: u64) {
        let Some(region) = self.regions.get_mut(&operation.region) else { return };
        let Some(slots) = region.under_way.remove(&operation.id) else { return };
        for (key, at) in slots {
            // One answer for each key of the operation, whichever family it belongs to.
            let index = operation.command.keys().iter().position(|other| *other == key).unwrap_or(0);
            let Some(call) = region.keys.get_mut(key.bytes()).and_then(|calls| calls.get_mut(at)) else { continue };
            call.output = output_of(&operation.command, outcome, index);
            if call.output.is_some() || matches!(outcome, Outcome::Refused(_)) {
                call.until = event;
            } else if call.until == u64::MAX {
                region.loose.push((key, at));
            }
        }
    }

    /// The process of a region's node ended, at event `event`.
    pub fn died(&mut self, region: usize, event: u64) {
        let Some(region) = self.regions.get_mut(&region) else { return };
        let loose = std::mem::take(&mut region.loose);
        for (key, at) in loose.iter().chain(region.under_way.values().flatten()) {
            if let Some(call) = region.keys.get_mut(key.bytes()).and_then(|calls| calls.get_mut(*at)) {
                call.until = call.until.min(event);
            }
        }
    }

    /// A region's disk was replaced or set back: from now on its private keys promise nothing. What was asked before stays.
    pub fn forget(&mut self, region: usize, event: u64) {
        self.died(region, event);
        let region = self.regions.entry(region).or_default();
        region.forgotten = true;
        region.under_way.clear();
    }

    /// Checks what was asked so far.
    ///
    /// # Errors
    /// [`LINEARIZABLE`].
    pub fn check(&mut self) -> Result<(), Violation> {
        (self.undecided, self.checked) = (0, 0);
        for region in self.regions.values() {
            for (key, calls) in &region.keys {
                self.checked += calls.len() as u64;
                match check(calls, STEPS_MAX) {
                    Verdict::Linearizable => {}
                    Verdict::Undecided => self.undecided += 1,
                    Verdict::Violated { call } => return Err(violation(key, calls, call)),
                }
            }
        }
        Ok(())
    }
}

/// Names the call that fits nowhere, and its neighbours.
fn violation(key: &Key, calls: &[Call<StringKey>], at: usize) -> Violation {
    let mut text = format!("the answers of {key:?} fit no order; not to be passed: {:?}; around it:", calls[at]);
    for call in &calls[at.saturating_sub(12)..calls.len().min(at + 5)] {
        text.push_str(&format!("\n    {call:?}"));
    }
    Violation::new(LINEARIZABLE, text)
}

fn input_of(operation: &Operation) -> Input {
    let value = || Held::of(&value_of(operation.id, operation.command.filler().unwrap_or(0)));
    match &operation.command {
        Command::Set { .. } | Command::MSet { .. } | Command::SetTeam { .. } => Input::Set(value()),
        Command::Get { .. } | Command::MGet { .. } | Command::GetTeam { .. } => Input::Get,
        Command::Del { .. } => Input::Del,
        Command::SetNx { .. } => Input::SetNx(value()),
        Command::GetSet { .. } => Input::GetSet(value()),
        Command::GetDel { .. } => Input::GetDel,
        Command::Append { .. } => Input::Append(Print::of(&piece_of(operation.id))),
        Command::IncrBy { by, .. } => Input::IncrBy(*by),
        Command::Expire { .. } => Input::Expire,
        Command::Persist { .. } => Input::Persist,
        Command::PTtl { .. } => Input::PTtl,
        Command::Exists { .. } => Input::Exists,
    }
}

/// What was answered for the key `index` of the command; `None` if that is not known.
fn output_of(command: &Command, outcome: &Outcome, index: usize) -> Option<Output> {
    let held = |value: &Option<Vec<u8>>| Output::Value(value.as_ref().map_or(Held::Absent, |value| Held::of(value)));
    Some(match outcome {
        Outcome::Stored => Output::Done,
        Outcome::Read(value) => held(value),
        Outcome::ReadMany(values) => held(values.get(index)?),
        Outcome::Deleted(flag) | Outcome::Flag(flag) => Output::Flag(*flag),
        Outcome::Number(number) => Output::Number(*number),
        Outcome::Refused(text) if matches!(command, Command::IncrBy { .. }) && text.contains("not an integer") => {
            Output::NotANumber
        }
        // Teams are no private keys.
        Outcome::Swapped { .. } => return None,
        Outcome::Refused(_) | Outcome::Malformed(_) | Outcome::Unknown => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(id: u64, command: Command) -> Operation {
        Operation { id, region: 1, session: 1, command }
    }

    fn incr() -> Command {
        Command::IncrBy { key: Key::private(1, 3), by: 1 }
    }

    fn ask(privates: &mut Privates, id: u64, command: Command, outcome: &Outcome) {
        let operation = operation(id, command);
        privates.begin(&operation, 10 * id);
        privates.end(&operation, outcome, 10 * id + 5);
    }

    fn is_sound(privates: &mut Privates) -> bool {
        privates.check().is_ok()
    }

    #[test]
    fn an_answer_lost_in_a_kill_counts_once_and_before_it() {
        for (first, second, expected) in [(1, 1, true), (1, 2, false), (2, 2, true), (2, 3, false), (3, 3, false)] {
            let mut privates = Privates::default();
            ask(&mut privates, 1, incr(), &Outcome::Number(1));
            ask(&mut privates, 2, incr(), &Outcome::Unknown);
            privates.died(1, 28);
            for (id, read) in [(3, first), (4, second)] {
                let value = Outcome::Read(Some(format!("{read}").into_bytes()));
                ask(&mut privates, id, Command::Get { key: Key::private(1, 3) }, &value);
            }
            assert_eq!(is_sound(&mut privates), expected, "{first} {second}");
        }
    }

    #[test]
    fn a_refused_write_does_not_happen_later() {
        let mut privates = Privates::default();
        let key = Key::private(1, 0);
        let get = || Command::Get { key: key.clone() };
        ask(
            &mut privates,
            1,
            Command::Set { key: key.clone(), filler: 3, px: None },
            &Outcome::Refused("ERR full".into()),
        );
        ask(&mut privates, 2, get(), &Outcome::Read(None));
        assert!(is_sound(&mut privates));
        ask(&mut privates, 3, get(), &Outcome::Read(Some(value_of(1, 3))));
        assert!(!is_sound(&mut privates));
    }

    #[test]
    fn several_keys_are_checked_one_by_one() {
        let mut privates = Privates::default();
        let keys = vec![Key::private(1, 0), Key::private(1, 1)];
        ask(&mut privates, 1, Command::MSet { keys: keys.clone(), filler: 3 }, &Outcome::Stored);
        let values = |second| Outcome::ReadMany(vec![Some(value_of(1, 3)), second]);
        ask(&mut privates, 2, Command::MGet { keys: keys.clone() }, &values(Some(value_of(1, 3))));
        assert!(is_sound(&mut privates));
        ask(&mut privates, 3, Command::MGet { keys }, &values(None));
        assert!(!is_sound(&mut privates));
    }

    #[test]
    fn what_comes_after_a_new_disk_is_not_checked() {
        let mut privates = Privates::default();
        ask(&mut privates, 1, incr(), &Outcome::Number(1));
        privates.forget(1, 18);
        ask(&mut privates, 2, incr(), &Outcome::Number(1));
        assert!(is_sound(&mut privates));
        assert_eq!(privates.checked, 1);
    }
}
