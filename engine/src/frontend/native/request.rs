//! What a native client may ask for.

use bytes::Bytes;
use net::ids::RequestId;
use net::resp::encode_command;
use net::wire::Message;
use net::wire::body::{Delete, Get, GetMany, Increment, Put, Scan, Session, Wait};

use crate::frontend::resp::table::{self, Command};

/// A request, decoded. Keys and values are parts of the frame that brought it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the body of that name")]
pub enum Verb {
    Get(Get),
    GetMany(GetMany),
    Put(Put),
    Delete(Delete),
    Increment(Increment),
    Scan(Scan),
    Session(Session),
}

/// A request and the id that its answer repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Chosen by the client.
    pub id: RequestId,
    /// What it asks for.
    pub verb: Verb,
}

impl Request {
    /// The request that a message is, if it is one.
    #[must_use]
    pub fn of(id: RequestId, message: Message) -> Option<Request> {
        let verb = match message {
            Message::Get(body) => Verb::Get(body),
            Message::GetMany(body) => Verb::GetMany(body),
            Message::Put(body) => Verb::Put(body),
            Message::Delete(body) => Verb::Delete(body),
            Message::Increment(body) => Verb::Increment(body),
            Message::Scan(body) => Verb::Scan(body),
            Message::Session(body) => Verb::Session(body),
            _ => return None,
        };
        Some(Request { id, verb })
    }

    /// The keys whose records it looks at or writes, in its order; none for a `Scan`, which takes what it meets, and a `Session`.
    #[must_use]
    pub fn keys(&self) -> &[Bytes] {
        match &self.verb {
            Verb::Get(Get { key })
            | Verb::Put(Put { key, .. })
            | Verb::Delete(Delete { key, .. })
            | Verb::Increment(Increment { key, .. }) => std::slice::from_ref(key),
            Verb::GetMany(GetMany { keys }) => keys,
            Verb::Scan(_) | Verb::Session(_) => &[],
        }
    }

    /// Which regions it waits for.
    #[must_use]
    pub fn wait(&self) -> Wait {
        match &self.verb {
            Verb::Put(Put { wait, .. })
            | Verb::Delete(Delete { wait, .. })
            | Verb::Increment(Increment { wait, .. }) => *wait,
            Verb::Get(_) | Verb::GetMany(_) | Verb::Scan(_) | Verb::Session(_) => Wait::default(),
        }
    }

    /// It as that command, for the slow log, which cuts long words itself.
    #[must_use]
    pub fn as_resp(&self) -> Vec<u8> {
        let number = match &self.verb {
            Verb::Increment(increment) => increment.by.to_string(),
            Verb::Scan(scan) => scan.cursor.to_string(),
            _ => String::new(),
        };
        let mut words: Vec<&[u8]> = vec![self.command().map_or(&[], |command| command.name.as_bytes())];
        words.extend(self.keys().iter().map(|key| &key[..]));
        match &self.verb {
            Verb::Put(put) => words.push(&put.value),
            Verb::Increment(_) | Verb::Scan(_) => words.push(number.as_bytes()),
            Verb::Get(_) | Verb::GetMany(_) | Verb::Delete(_) | Verb::Session(_) => {}
        }
        let mut encoded = Vec::new();
        encode_command(&words, &mut encoded);
        encoded
    }

    /// The Redis command that does about the same: how lists of clients and the slow log name it.
    #[must_use]
    pub fn command(&self) -> Option<&'static Command> {
        let name = match &self.verb {
            Verb::Get(_) => "get",
            Verb::GetMany(_) => "mget",
            Verb::Put(_) => "set",
            Verb::Delete(_) => "del",
            Verb::Increment(_) => "incrby",
            Verb::Scan(_) => "scan",
            Verb::Session(_) => "godwit.session|after",
        };
        table::find_whole(name.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use net::wire::samples::samples;

    use super::*;

    #[test]
    fn what_clients_may_send_after_the_handshake_is_a_request_and_nothing_else_is() {
        let of = |message| Request::of(RequestId(1), message);
        let requests: Vec<Request> = samples().unwrap().into_iter().filter_map(|sample| of(sample.message)).collect();
        let found: Vec<(&str, usize)> = requests
            .iter()
            .map(|request| (request.command().expect("a command of the table").name, request.keys().len()))
            .collect();
        assert_eq!(
            found,
            [("get", 1), ("mget", 2), ("set", 1), ("del", 1), ("incrby", 1), ("scan", 0), ("godwit.session|after", 0)]
        );
    }
}
