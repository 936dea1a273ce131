//! The client's side of Godwit's own protocol, for clients that speak it.

use std::rc::Rc;

use net::ids::RequestId;
use net::wire::body::{
    ClientHello, Condition, Delete, ErrorCode, Get, GetMany, Increment, Incremented, Put, Value, Wait, Written,
};
use net::wire::{FrameReader, Message};

use super::{Client, malformed_text};
use crate::sim::check::held::Holders;
use crate::sim::workload::{Command, Key, Note, Operation, Outcome, value_of};

/// What is remembered of a connection of frames.
#[derive(Debug)]
pub(super) struct Frames {
    reader: FrameReader,
    /// The handshake is done.
    greeted: bool,
    /// Answers to a `GetMany` that is not complete, one for each key: its value, or what became of it.
    answers: Vec<Result<Option<Vec<u8>>, Outcome>>,
    /// A write that waits for other regions: its second answer comes next.
    owed: Option<(Rc<Operation>, u64)>,
}

impl Default for Frames {
    fn default() -> Frames {
        let mut reader = FrameReader::new();
        reader.admit_values();
        Frames { reader, greeted: false, answers: Vec::new(), owed: None }
    }
}

/// What opens a connection.
pub(super) fn hello(out: &mut Vec<u8>) {
    let hello = Message::ClientHello(ClientHello::new("sim"));
    hello.encode(RequestId(0), out).expect("a short name");
}

/// The command, or one like it if there is no request for it.
pub(super) fn spoken(command: Command) -> Command {
    match command {
        Command::Set { key, filler, .. } | Command::GetSet { key, filler } => Command::Set { key, filler, px: None },
        Command::MSet { mut keys, filler } => Command::SetNx { key: keys.remove(0), filler },
        Command::Append { key } => Command::Set { key, filler: 0, px: None },
        Command::GetDel { key } => Command::Del { key },
        Command::Expire { key, .. } | Command::Persist { key } | Command::PTtl { key } | Command::Exists { key } => {
            Command::Get { key }
        }
        other => other,
    }
}

/// Appends the request.
pub(super) fn encode(operation: &Operation, out: &mut Vec<u8>) {
    let wait = wait_of(operation);
    let bytes = |key: &Key| bytes::Bytes::copy_from_slice(key.bytes());
    let put = |key: &Key, filler: usize, condition| {
        let value = value_of(operation.id, filler).into();
        Message::Put(Put { wait, expiry_ms: 0, condition, key: bytes(key), value })
    };
    let message = match &operation.command {
        Command::Set { key, filler, .. } => put(key, *filler, Condition::Always),
        Command::SetNx { key, filler } => put(key, *filler, Condition::IfAbsent),
        Command::Get { key } => Message::Get(Get { key: bytes(key) }),
        Command::Del { key } => Message::Delete(Delete { wait, condition: Condition::Always, key: bytes(key) }),
        Command::IncrBy { key, by } => Message::Increment(Increment { wait, by: *by, key: bytes(key) }),
        Command::MGet { keys } => Message::GetMany(GetMany { keys: keys.iter().map(bytes).collect() }),
        other => unreachable!("{other:?} has no request"),
    };
    message.encode(id_of(operation), out).expect("what the mix draws fits");
}

/// Some writes wait for other regions, longer and shorter than those take.
fn wait_of(operation: &Operation) -> Wait {
    let Operation { id, command, .. } = operation;
    if !command.writes() || !id.is_multiple_of(3) {
        return Wait::default();
    }
    let deadline_ms = u32::try_from(20 + id % 200).expect("below 220");
    Wait { regions: if id.is_multiple_of(2) { 1 } else { Wait::ALL_REGIONS }, deadline_ms }
}

/// Operations of one connection are fewer than ids.
fn id_of(operation: &Operation) -> RequestId {
    RequestId(u32::try_from(operation.id & 0xffff_ffff).expect("32 bits"))
}

impl Client {
    /// Takes in what was received; what answers nothing, if anything does.
    pub(super) fn understand_frames(&mut self) -> Option<String> {
        let mut frames = self.frames.take()?;
        frames.reader.feed(&std::mem::take(&mut self.input));
        let stray = loop {
            match frames.reader.next() {
                Ok(None) => break None,
                Ok(Some(frame)) => match Message::decode(&frame) {
                    Ok(message) => {
                        if let Some(stray) = self.take_message(&mut frames, frame.header.request_id, message) {
                            break Some(stray);
                        }
                    }
                    Err(error) => break Some(error.to_string()),
                },
                Err(error) => break Some(error.to_string()),
            }
        };
        self.frames = Some(frames);
        stray
    }

    fn take_message(&mut self, frames: &mut Frames, id: RequestId, message: Message) -> Option<String> {
        if !frames.greeted {
            frames.greeted = matches!(message, Message::ClientHelloAck(_));
            return (!frames.greeted).then(|| format!("{message:?} answers a handshake"));
        }
        if let Some((operation, version)) = frames.owed.take() {
            return match message {
                Message::Held(held) if id_of(&operation) == id => {
                    let nodes = held.holders.into_iter().map(|holder| holder.node).collect();
                    self.notes.push(Note::Held(operation, Holders { version, nodes }));
                    None
                }
                other => Some(format!("{other:?} with id {} comes where it is due who holds {operation:?}", id.0)),
            };
        }
        let asked = self.waiting.front().map(|(operation, _)| Rc::clone(operation));
        let Some(operation) = asked.filter(|operation| id_of(operation) == id) else {
            return Some(format!("{message:?} with id {} answers nothing that was asked next", id.0));
        };
        if let Message::Written(Written::Written { version }) | Message::Incremented(Incremented { version, .. }) =
            &message
            && !wait_of(&operation).is_none()
        {
            frames.owed = Some((Rc::clone(&operation), version.0));
        }
        let outcome = match (&operation.command, message) {
            (Command::MGet { keys }, message) => {
                frames.answers.push(match message {
                    Message::Value(value) => Ok(value_in(value)),
                    other => Err(outcome_of(&operation.command, other)),
                });
                if frames.answers.len() < keys.len() {
                    return None;
                }
                // One key that cannot be read spoils it.
                let answers: Result<Vec<_>, Outcome> = std::mem::take(&mut frames.answers).into_iter().collect();
                answers.map_or_else(|outcome| outcome, Outcome::ReadMany)
            }
            (command, message) => outcome_of(command, message),
        };
        self.waiting.pop_front();
        self.notes.push(Note::Ended(operation, outcome));
        None
    }
}

fn value_in(value: Value) -> Option<Vec<u8>> {
    value.item.map(|item| item.value.to_vec())
}

fn outcome_of(command: &Command, message: Message) -> Outcome {
    match (command, message) {
        (command, Message::Error(failed)) => match failed.reason() {
            Some(ErrorCode::NotANumber | ErrorCode::CannotWrite) if command.writes() => Outcome::Refused(failed.text),
            Some(ErrorCode::Unreadable) => Outcome::Refused(failed.text),
            _ => Outcome::Malformed(malformed_text(&failed)),
        },
        (Command::Get { .. }, Message::Value(value)) => Outcome::Read(value_in(value)),
        (Command::Set { .. }, Message::Written(Written::Written { .. })) => Outcome::Stored,
        (Command::SetNx { .. }, Message::Written(Written::Written { .. })) => Outcome::Flag(true),
        (Command::SetNx { .. }, Message::Written(Written::Refused { present: Some(_) })) => Outcome::Flag(false),
        (Command::Del { .. }, Message::Written(Written::Written { .. })) => Outcome::Deleted(true),
        (Command::Del { .. }, Message::Written(Written::Nothing)) => Outcome::Deleted(false),
        (Command::IncrBy { .. }, Message::Incremented(sum)) => Outcome::Number(sum.value),
        (_, other) => Outcome::Malformed(malformed_text(&other)),
    }
}
