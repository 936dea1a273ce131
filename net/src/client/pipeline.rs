//! Many requests without waiting for each.

use std::collections::VecDeque;

use super::connection::Connection;
use super::{
    ClientError, Condition, Failed, Incremented, Item, PutOptions, Written, delete_of, get_of, increment_of, put_of,
};
use crate::ids::RequestId;
use crate::wire::Message;
use crate::wire::body::Wait;

/// Bytes of requests that may be without their answers. A node stops reading while answers wait for a client that does not
/// read them; so much it takes in all the same, so that both never wait for each other.
const UNANSWERED_BYTES_MAX: usize = 64 * 1024;

/// What one request of a [`Pipeline`] came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To a get.
    Value(Option<Item>),
    /// To a put or delete.
    Written(Written),
    /// To an increment.
    Incremented(Incremented),
    /// The node could not do this one; the others are not touched by that.
    Failed(Failed),
}

/// Requests that are sent together. They are independent: each is done or fails for itself, in their order for equal keys.
#[derive(Debug)]
pub struct Pipeline<'a> {
    connection: &'a mut Connection,
    requests: Vec<Message>,
}

impl<'a> Pipeline<'a> {
    pub(super) fn new(connection: &'a mut Connection) -> Pipeline<'a> {
        Pipeline { connection, requests: Vec::new() }
    }

    /// Adds what [`Client::get`](super::Client::get) does.
    pub fn get(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.add(get_of(key.as_ref()))
    }

    /// Adds what [`Client::put`](super::Client::put) does.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> &mut Self {
        self.put_with(key, value, PutOptions::default())
    }

    /// Adds what [`Client::put_with`](super::Client::put_with) does.
    pub fn put_with(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, options: PutOptions) -> &mut Self {
        self.add(put_of(key.as_ref(), value.as_ref(), options, Wait::default()))
    }

    /// Adds what [`Client::delete`](super::Client::delete) does.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.delete_if(key, Condition::Always)
    }

    /// Adds what [`Client::delete_if`](super::Client::delete_if) does.
    pub fn delete_if(&mut self, key: impl AsRef<[u8]>, condition: Condition) -> &mut Self {
        self.add(delete_of(key.as_ref(), condition, Wait::default()))
    }

    /// Adds what [`Client::increment`](super::Client::increment) does.
    pub fn increment(&mut self, key: impl AsRef<[u8]>, by: i64) -> &mut Self {
        self.add(increment_of(key.as_ref(), by, Wait::default()))
    }

    fn add(&mut self, request: Message) -> &mut Self {
        self.requests.push(request);
        self
    }

    /// How many requests it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Sends the requests and takes their answers, one for each, in order.
    ///
    /// # Errors
    /// [`ClientError::Unsendable`] if one of them cannot be sent; then none was. Otherwise the connection ended: of the
    /// requests any may have taken place.
    pub fn run(&mut self) -> Result<Vec<Answer>, ClientError> {
        let mut frames = Vec::with_capacity(self.requests.len());
        for request in std::mem::take(&mut self.requests) {
            let (id, mut frame) = (self.connection.next_id(), Vec::new());
            request.encode(id, &mut frame)?;
            frames.push((id, frame));
        }
        let mut answers = Vec::with_capacity(frames.len());
        let (mut unanswered, mut unanswered_bytes) = (VecDeque::new(), 0);
        let mut output = Vec::new();
        for (id, frame) in frames {
            while !unanswered.is_empty() && unanswered_bytes + frame.len() > UNANSWERED_BYTES_MAX {
                self.flush(&mut output)?;
                unanswered_bytes -= self.take_answer(&mut unanswered, &mut answers)?;
            }
            unanswered.push_back((id, frame.len()));
            unanswered_bytes += frame.len();
            output.extend_from_slice(&frame);
        }
        self.flush(&mut output)?;
        while !unanswered.is_empty() {
            self.take_answer(&mut unanswered, &mut answers)?;
        }
        Ok(answers)
    }

    fn flush(&mut self, output: &mut Vec<u8>) -> Result<(), ClientError> {
        let sent = if output.is_empty() { Ok(()) } else { self.connection.send_bytes(output) };
        output.clear();
        sent
    }

    /// Takes the next answer; the bytes of the request that has it now.
    fn take_answer(
        &mut self,
        unanswered: &mut VecDeque<(RequestId, usize)>,
        answers: &mut Vec<Answer>,
    ) -> Result<usize, ClientError> {
        let Some((id, bytes)) = unanswered.pop_front() else { return Ok(0) };
        answers.push(match self.connection.receive(id) {
            Ok(Message::Value(value)) => Answer::Value(value.item),
            Ok(Message::Written(written)) => Answer::Written(written),
            Ok(Message::Incremented(incremented)) => Answer::Incremented(incremented),
            Ok(other) => return Err(self.connection.unexpected(&other)),
            Err(ClientError::Failed(failed)) => Answer::Failed(failed),
            Err(error) => return Err(error),
        });
        Ok(bytes)
    }
}
