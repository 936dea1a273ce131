//! One connection: commands that wait for their replies, in order.

use std::collections::VecDeque;

use bytes::Bytes;
use net::reactor::{Mono, Socket};
use net::resp::{ReplyError, Value, encode_command, parse_reply};

use crate::walbench::options::NetOptions;

/// A command without its reply.
#[derive(Clone, Copy, Debug)]
struct Outstanding {
    get: bool,
    intended: Mono,
    started: Mono,
}

/// A command's reply.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) get: bool,
    pub(super) intended: Mono,
    pub(super) started: Mono,
    /// A GET of a key that is not there.
    pub(super) missing: bool,
    pub(super) error: Option<String>,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: Socket,
    outstanding: VecDeque<Outstanding>,
    input: Vec<u8>,
    output: Vec<u8>,
    sending: bool,
    value: Vec<u8>,
}

impl Connection {
    pub(super) fn new(socket: Socket, options: &NetOptions) -> Connection {
        Connection {
            socket,
            outstanding: VecDeque::new(),
            input: Vec::new(),
            output: Vec::new(),
            sending: false,
            value: vec![b'v'; options.value as usize],
        }
    }

    pub(super) fn has_room(&self, options: &NetOptions) -> bool {
        self.outstanding.len() < options.pipeline as usize
    }

    pub(super) fn is_idle(&self) -> bool {
        self.outstanding.is_empty() && !self.sending
    }

    pub(super) fn queue(&mut self, get: bool, key: usize, intended: Mono, started: Mono) {
        let key = format!("key:{key:012}");
        if get {
            encode_command(&[&b"GET"[..], key.as_bytes()], &mut self.output);
        } else {
            encode_command(&[&b"SET"[..], key.as_bytes(), &self.value], &mut self.output);
        }
        self.outstanding.push_back(Outstanding { get, intended, started });
    }

    /// What to send now; one send is in flight at a time.
    pub(super) fn take_output(&mut self) -> Option<Bytes> {
        if self.sending || self.output.is_empty() {
            return None;
        }
        self.sending = true;
        Some(std::mem::take(&mut self.output).into())
    }

    pub(super) fn sent(&mut self) {
        self.sending = false;
    }

    /// Takes in bytes and gives each whole reply to `answered`.
    pub(super) fn received(&mut self, bytes: &[u8], mut answered: impl FnMut(Answer)) -> Result<(), ReplyError> {
        self.input.extend_from_slice(bytes);
        let mut position = 0;
        while let Some((value, len)) = parse_reply(&self.input[position..])? {
            position += len;
            // A reply to nothing is out-of-band, and none of ours.
            let Some(Outstanding { get, intended, started }) = self.outstanding.pop_front() else { continue };
            let missing = get && value == Value::Null;
            let error = if let Value::Error(text) = value { Some(text) } else { None };
            answered(Answer { get, intended, started, missing, error });
        }
        self.input.drain(..position);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> Connection {
        Connection {
            socket: Socket(0),
            outstanding: VecDeque::new(),
            input: Vec::new(),
            output: Vec::new(),
            sending: false,
            value: b"x".to_vec(),
        }
    }

    #[test]
    fn replies_belong_to_commands_in_order_however_they_are_cut() {
        let mut connection = connection();
        connection.queue(false, 1, Mono(10), Mono(11));
        connection.queue(true, 2, Mono(20), Mono(21));
        connection.queue(true, 3, Mono(30), Mono(31));
        let sent = connection.take_output().expect("queued");
        assert!(sent.starts_with(b"*3\r\n$3\r\nSET\r\n$16\r\nkey:000000000001\r\n$1\r\nx\r\n"), "{sent:?}");
        assert!(connection.take_output().is_none(), "one send at a time");
        let mut answers = Vec::new();
        for byte in b"+OK\r\n$-1\r\n-ERR no\r\n" {
            connection.received(&[*byte], |answer| answers.push(answer)).expect("replies");
        }
        let found: Vec<_> = answers
            .iter()
            .map(|answer| (answer.get, answer.intended.0, answer.missing, answer.error.clone()))
            .collect();
        let error = Some("ERR no".to_owned());
        assert_eq!(found, [(false, 10, false, None), (true, 20, true, None), (true, 30, false, error)]);
        assert!(!connection.is_idle(), "the send has not completed");
        connection.sent();
        assert!(connection.is_idle());
        assert!(connection.received(b"hello\r\n", |_| ()).is_err());
    }
}
