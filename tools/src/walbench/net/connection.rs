//! One connection: commands that wait for their replies, in order.

use std::collections::VecDeque;

use bytes::Bytes;
use net::ids::RequestId;
use net::reactor::{Mono, Socket};
use net::resp::{Value, encode_command, parse_reply};
use net::wire::body::{ClientHello, Condition, Get, Put, Wait, Written};
use net::wire::{FrameReader, Message};

use crate::walbench::options::{NetOptions, Protocol};

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

/// What is spoken, and what of a reply has arrived.
#[derive(Debug)]
enum Language {
    Resp { input: Vec<u8> },
    Native { reader: FrameReader, greeted: bool, asked: u32, answered: u32 },
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: Socket,
    outstanding: VecDeque<Outstanding>,
    language: Language,
    output: Vec<u8>,
    sending: bool,
    value: Bytes,
}

impl Connection {
    pub(super) fn new(socket: Socket, options: &NetOptions) -> Connection {
        let mut connection = Connection {
            socket,
            outstanding: VecDeque::new(),
            language: Language::Resp { input: Vec::new() },
            output: Vec::new(),
            sending: false,
            value: vec![b'v'; options.value as usize].into(),
        };
        if options.protocol == Protocol::Native {
            let mut reader = FrameReader::new();
            reader.admit_values();
            connection.language = Language::Native { reader, greeted: false, asked: 0, answered: 0 };
            // Requests may follow before it was answered.
            encode(&Message::ClientHello(ClientHello::new("walbench")), 0, &mut connection.output);
        }
        connection
    }

    pub(super) fn has_room(&self, options: &NetOptions) -> bool {
        self.outstanding.len() < options.pipeline as usize
    }

    pub(super) fn is_idle(&self) -> bool {
        self.outstanding.is_empty() && !self.sending
    }

    pub(super) fn queue(&mut self, get: bool, key: usize, intended: Mono, started: Mono) {
        let key = format!("key:{key:012}");
        match &mut self.language {
            Language::Resp { .. } if get => encode_command(&[&b"GET"[..], key.as_bytes()], &mut self.output),
            Language::Resp { .. } => encode_command(&[&b"SET"[..], key.as_bytes(), &self.value], &mut self.output),
            Language::Native { asked, .. } => {
                *asked = asked.wrapping_add(1);
                let (key, value) = (key.into(), self.value.clone());
                let (wait, condition) = (Wait::default(), Condition::Always);
                let message = match get {
                    true => Message::Get(Get { key }),
                    false => Message::Put(Put { wait, expiry_ms: 0, condition, key, value }),
                };
                encode(&message, *asked, &mut self.output);
            }
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
    pub(super) fn received(&mut self, bytes: &[u8], mut answered: impl FnMut(Answer)) -> Result<(), String> {
        let outstanding = &mut self.outstanding;
        let mut answer = |missing: bool, error: Option<String>| {
            // A reply to nothing is out-of-band, and none of ours.
            if let Some(Outstanding { get, intended, started }) = outstanding.pop_front() {
                answered(Answer { get, intended, started, missing: get && missing, error });
            }
        };
        match &mut self.language {
            Language::Resp { input } => {
                input.extend_from_slice(bytes);
                let mut position = 0;
                while let Some((value, len)) = parse_reply(&input[position..]).map_err(|error| error.to_string())? {
                    position += len;
                    let missing = value == Value::Null;
                    answer(missing, if let Value::Error(text) = value { Some(text) } else { None });
                }
                input.drain(..position);
            }
            Language::Native { reader, greeted, answered, .. } => {
                reader.feed(bytes);
                while let Some(frame) = reader.next().map_err(|error| error.to_string())? {
                    match Message::decode(&frame).map_err(|error| error.to_string())? {
                        Message::ClientHelloAck(_) if !*greeted => *greeted = true,
                        Message::Refuse(refuse) => return Err(format!("the node refuses: {}", refuse.text)),
                        message => {
                            *answered = answered.wrapping_add(1);
                            if frame.header.request_id.0 != *answered {
                                return Err("an answer came out of turn".to_owned());
                            }
                            let (missing, error) = judged(message)?;
                            answer(missing, error);
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// Whether nothing was there, and what went wrong.
fn judged(message: Message) -> Result<(bool, Option<String>), String> {
    match message {
        Message::Value(value) => Ok((value.item.is_none(), None)),
        Message::Written(Written::Written { .. }) => Ok((false, None)),
        Message::Error(failed) => Ok((false, Some(failed.text))),
        other => Err(format!("{} answers nothing that was asked", other.opcode().name())),
    }
}

fn encode(message: &Message, id: u32, out: &mut Vec<u8>) {
    message.encode(RequestId(id), out).expect("the options allow no larger value than a frame holds");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> Connection {
        Connection {
            socket: Socket(0),
            outstanding: VecDeque::new(),
            language: Language::Resp { input: Vec::new() },
            output: Vec::new(),
            sending: false,
            value: Bytes::from_static(b"x"),
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

    fn native() -> Connection {
        let reader = FrameReader::new();
        let language = Language::Native { reader, greeted: false, asked: 0, answered: 0 };
        Connection { language, ..connection() }
    }

    #[test]
    fn native_answers_belong_to_requests_by_their_ids() {
        let mut connection = native();
        connection.queue(true, 1, Mono(10), Mono(11));
        connection.queue(false, 2, Mono(20), Mono(21));
        connection.queue(true, 3, Mono(30), Mono(31));
        let mut bytes = Vec::new();
        let ack = net::wire::samples::samples().expect("names").into_iter().map(|sample| sample.message);
        let ack = ack.into_iter().find(|message| matches!(message, Message::ClientHelloAck(_)));
        encode(&ack.expect("a sample of each"), 0, &mut bytes);
        let nothing = Message::Value(net::wire::body::Value { item: None });
        encode(&nothing, 1, &mut bytes);
        encode(&Message::Written(Written::Written { version: net::ids::Version(1) }), 2, &mut bytes);
        let mut answers = Vec::new();
        for byte in bytes {
            connection.received(&[byte], |answer| answers.push((answer.get, answer.missing))).expect("answers");
        }
        assert_eq!(answers, [(true, true), (false, false)]);
        let mut out_of_turn = Vec::new();
        encode(&nothing, 9, &mut out_of_turn);
        assert!(connection.received(&out_of_turn, |_| ()).is_err());
    }
}
