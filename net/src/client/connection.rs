//! Frames over a stream: requests out, answers in, in order.

#![allow(clippy::disallowed_methods, reason = "a client, never part of a node")]

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use super::{ClientError, ConnectOptions};
use crate::ids::RequestId;
use crate::wire::body::{ClientHello, ClientHelloAck, Held};
use crate::wire::{FrameReader, Message};

/// Bytes that one read takes.
const CHUNK_BYTES: usize = 64 * 1024;

/// One stream.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    reader: FrameReader,
    output: Vec<u8>,
    chunk: Vec<u8>,
    last_id: u32,
    ended: bool,
    timeout: Duration,
}

impl Connection {
    /// Connects and shakes hands.
    pub(super) fn open(
        addr: impl ToSocketAddrs,
        options: &ConnectOptions,
    ) -> Result<(Connection, ClientHelloAck), ClientError> {
        let mut connection = Connection {
            stream: dial(addr, options).map_err(ClientError::Connect)?,
            reader: FrameReader::new(),
            output: Vec::new(),
            chunk: vec![0; CHUNK_BYTES],
            last_id: 0,
            ended: false,
            timeout: options.timeout,
        };
        connection.send_as(RequestId(0), &Message::ClientHello(ClientHello::new(&options.name)))?;
        match connection.receive(RequestId(0))? {
            Message::ClientHelloAck(node) => {
                connection.reader.admit_values();
                Ok((connection, node))
            }
            other => Err(connection.unexpected(&other)),
        }
    }

    /// One request and its one answer.
    pub(super) fn call(&mut self, request: &Message) -> Result<Message, ClientError> {
        let id = self.send(request)?;
        self.receive(id)
    }

    /// Sends a request; the id of its answers.
    pub(super) fn send(&mut self, request: &Message) -> Result<RequestId, ClientError> {
        let id = self.next_id();
        self.send_as(id, request)?;
        Ok(id)
    }

    /// An id that no outstanding request has; 0 is for what is no request.
    pub(super) fn next_id(&mut self) -> RequestId {
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        RequestId(self.last_id)
    }

    fn send_as(&mut self, id: RequestId, request: &Message) -> Result<(), ClientError> {
        let mut output = std::mem::take(&mut self.output);
        output.clear();
        let sent = request.encode(id, &mut output).map_err(ClientError::from).and_then(|()| self.send_bytes(&output));
        // An unusual request's buffer is given back.
        if output.capacity() <= CHUNK_BYTES {
            self.output = output;
        }
        sent
    }

    /// Sends encoded requests.
    pub(super) fn send_bytes(&mut self, frames: &[u8]) -> Result<(), ClientError> {
        if self.ended {
            return Err(ClientError::Ended);
        }
        self.stream.write_all(frames).map_err(|error| self.end(ClientError::of_stream(error)))
    }

    /// The next answer, which must be one to `id`.
    pub(super) fn receive(&mut self, id: RequestId) -> Result<Message, ClientError> {
        if self.ended {
            return Err(ClientError::Ended);
        }
        let (answered, message) = self.receive_any().map_err(|error| self.end(error))?;
        match message {
            // It ends the connection, whatever else was asked for.
            Message::Refuse(refuse) => Err(self.end(ClientError::Refused(refuse))),
            other if answered != id => Err(self.unexpected(&other)),
            Message::Error(failed) => Err(ClientError::Failed(failed)),
            other => Ok(other),
        }
    }

    /// The second answer to a write that waits for other regions for so long.
    pub(super) fn receive_held(&mut self, id: RequestId, within: Duration) -> Result<Held, ClientError> {
        match self.receive_within(id, within)? {
            Message::Held(held) => Ok(held),
            other => Err(self.unexpected(&other)),
        }
    }

    /// The next answer, which must be one to `id` and may take this longer than others.
    pub(super) fn receive_within(&mut self, id: RequestId, within: Duration) -> Result<Message, ClientError> {
        let patience =
            |stream: &TcpStream, timeout| stream.set_read_timeout(Some(timeout)).map_err(ClientError::Broken);
        patience(&self.stream, self.timeout.saturating_add(within)).map_err(|error| self.end(error))?;
        let received = self.receive(id);
        patience(&self.stream, self.timeout).map_err(|error| self.end(error))?;
        received
    }

    fn receive_any(&mut self) -> Result<(RequestId, Message), ClientError> {
        loop {
            if let Some(frame) = self.reader.next().map_err(ClientError::Unreadable)? {
                let message = Message::decode(&frame).map_err(ClientError::Unreadable)?;
                return Ok((frame.header.request_id, message));
            }
            match self.stream.read(&mut self.chunk) {
                Ok(0) => return Err(ClientError::Broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(read) => self.reader.feed(&self.chunk[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ClientError::of_stream(error)),
            }
        }
    }

    /// An answer that is none to what was asked ends the connection: nobody knows what the next one answers.
    pub(super) fn unexpected(&mut self, message: &Message) -> ClientError {
        self.end(ClientError::Unexpected(message.opcode().name()))
    }

    fn end(&mut self, error: ClientError) -> ClientError {
        self.ended = true;
        error
    }
}

fn dial(addr: impl ToSocketAddrs, options: &ConnectOptions) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::InvalidInput, "the name has no address");
    for addr in addr.to_socket_addrs()? {
        match TcpStream::connect_timeout(&addr, options.timeout) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(options.timeout))?;
                stream.set_write_timeout(Some(options.timeout))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}
