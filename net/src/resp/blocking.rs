//! A small blocking client for this project's own tools and tests: one connection, commands out, replies in order.

#![allow(clippy::disallowed_methods, reason = "a client for tools")]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::{Value, encode_command, parse_reply};

/// One connection.
#[derive(Debug)]
pub struct BlockingClient {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl BlockingClient {
    /// Connects; `timeout` bounds connecting and every read and write.
    ///
    /// # Errors
    /// Those of connect.
    pub fn connect(addr: SocketAddr, timeout: Duration) -> io::Result<BlockingClient> {
        let stream = TcpStream::connect_timeout(&addr, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(BlockingClient { stream, input: Vec::new(), output: Vec::new() })
    }

    /// One command and its reply; an error reply is a [`Value::Error`].
    ///
    /// # Errors
    /// Those of the stream; after one, whether the command took effect is unknown.
    pub fn call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> io::Result<Value> {
        self.queue(args);
        self.flush()?;
        self.receive()
    }

    /// Adds a command to what the next [`BlockingClient::flush`] sends.
    pub fn queue<A: AsRef<[u8]>>(&mut self, args: &[A]) {
        encode_command(args, &mut self.output);
    }

    /// Sends what was queued.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn flush(&mut self) -> io::Result<()> {
        let output = std::mem::take(&mut self.output);
        self.stream.write_all(&output)
    }

    /// The next reply.
    ///
    /// # Errors
    /// Those of the stream, `UnexpectedEof` when it ends, `InvalidData` for bytes that are no reply.
    pub fn receive(&mut self) -> io::Result<Value> {
        loop {
            let parsed = parse_reply(&self.input).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if let Some((value, len)) = parsed {
                self.input.drain(..len);
                return Ok(value);
            }
            let mut chunk = [0; 16 * 1024];
            let read = self.stream.read(&mut chunk)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.input.extend_from_slice(&chunk[..read]);
        }
    }
}
