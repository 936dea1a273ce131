//! A client of a node's storage port in Godwit's own protocol (docs/WIRE_PROTOCOL.md): typed, blocking, one connection.
//!
//! ```no_run
//! use net::client::{Client, Condition, PutOptions, Written};
//!
//! let mut store = Client::connect("127.0.0.1:10600")?;
//! store.put("user:1", "ada")?;
//! let seen = store.get("user:1")?.expect("it was just written");
//! // Compare and set: only if nobody wrote since.
//! let only_then = PutOptions::default().only_if(Condition::IfVersion(seen.version));
//! match store.put_with("user:1", "ada lovelace", only_then)? {
//!     Written::Written { version } => println!("written as {}", version.0),
//!     refused => println!("somebody else was faster: {refused:?}"),
//! }
//! # Ok::<(), net::client::ClientError>(())
//! ```
//!
//! - A write that was answered is durable at the node: on its disk, not only in its memory.
//! - [`Client::held`] gives writes that wait until other regions durably hold them, too.
//! - A [`Session`] moves from node to node and is shown nothing older than what it saw.
//! - Conditions and increments are atomic at the node. Between regions the last writer wins.
//! - A connection is used by one thread at a time. [`Client::pipeline`] sends many requests without waiting for each.
//! - After an error that ends the connection ([`ClientError::ends_connection`]) connect again; a write without an answer
//!   may have taken place.

mod connection;
mod error;
mod held;
mod options;
mod pipeline;
mod session;

use std::net::ToSocketAddrs;

use bytes::Bytes;

pub use self::error::ClientError;
pub use self::held::{Elsewhere, HeldWrites};
pub use self::options::{ConnectOptions, PutOptions};
pub use self::pipeline::{Answer, Pipeline};
pub use self::session::Session;
pub use crate::ids::Version;
pub use crate::wire::body::{ClientHelloAck, Condition, ErrorCode, Failed, Held, HeldBy, Incremented, Item, Written};

use self::connection::Connection;
use crate::wire::Message;
use crate::wire::body::{Delete, Get, GetMany, Increment, Put, Scan, Wait};
use crate::wire::limits::{CONTROL_BODY_BYTES_MAX, KEYS_MAX};

/// One connection to a node.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    node: ClientHelloAck,
}

/// A piece of [`Client::scan`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scanned {
    /// Where to go on; 0 = that was all.
    pub cursor: u64,
    /// Keys; there may be none before the end.
    pub keys: Vec<Bytes>,
}

impl Client {
    /// Connects with the default [`ConnectOptions`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn connect(addr: impl ToSocketAddrs) -> Result<Client, ClientError> {
        Client::connect_with(addr, &ConnectOptions::default())
    }

    /// Connects to the first address that accepts, and agrees on a protocol.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn connect_with(addr: impl ToSocketAddrs, options: &ConnectOptions) -> Result<Client, ClientError> {
        let (connection, node) = Connection::open(addr, options)?;
        Ok(Client { connection, node })
    }

    /// What the node said of itself.
    #[must_use]
    pub fn node(&self) -> &ClientHelloAck {
        &self.node
    }

    /// What is there under `key`; `None` if nothing is.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn get(&mut self, key: impl AsRef<[u8]>) -> Result<Option<Item>, ClientError> {
        match self.connection.call(&get_of(key.as_ref()))? {
            Message::Value(value) => Ok(value.item),
            other => Err(self.connection.unexpected(&other)),
        }
    }

    /// What is there under each of `keys`, in their order. They are not read at one moment.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn get_many<K: AsRef<[u8]>>(&mut self, keys: &[K]) -> Result<Vec<Option<Item>>, ClientError> {
        let mut items = Vec::with_capacity(keys.len());
        for keys in chunks_of(keys) {
            let request = GetMany { keys: keys.iter().map(|key| copied(key.as_ref())).collect() };
            let id = self.connection.send(&Message::GetMany(request))?;
            // All answers are taken in, whatever the first ones say: the next request's come behind them.
            let mut failed = None;
            for _ in keys {
                match self.connection.receive(id) {
                    Ok(Message::Value(value)) => items.push(value.item),
                    Ok(other) => return Err(self.connection.unexpected(&other)),
                    Err(error) if error.ends_connection() => return Err(error),
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
            if let Some(error) = failed {
                return Err(error);
            }
        }
        Ok(items)
    }

    /// Writes `value` under `key`, whatever is there, without an expiry. The version of what was written.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Version, ClientError> {
        match self.put_with(key, value, PutOptions::default())? {
            Written::Written { version } => Ok(version),
            other => Err(self.connection.unexpected(&Message::Written(other))),
        }
    }

    /// Writes `value` under `key` as the options say. When their condition does not hold, nothing is written and
    /// [`Written::Refused`] says what is there.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn put_with(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: PutOptions,
    ) -> Result<Written, ClientError> {
        self.write(&put_of(key.as_ref(), value.as_ref(), options, Wait::default()))
    }

    /// Removes `key`. Whether something was there.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> Result<bool, ClientError> {
        match self.delete_if(key, Condition::Always)? {
            Written::Written { .. } => Ok(true),
            Written::Nothing => Ok(false),
            other => Err(self.connection.unexpected(&Message::Written(other))),
        }
    }

    /// Removes `key` if `condition` holds.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn delete_if(&mut self, key: impl AsRef<[u8]>, condition: Condition) -> Result<Written, ClientError> {
        self.write(&delete_of(key.as_ref(), condition, Wait::default()))
    }

    /// Adds `by` to the number under `key`; a key that is not there counts as 0.
    ///
    /// # Errors
    /// See [`ClientError`]; a [`ClientError::Failed`] with [`ErrorCode::NotANumber`] if something else is there or the sum
    /// leaves the range of an `i64`.
    pub fn increment(&mut self, key: impl AsRef<[u8]>, by: i64) -> Result<Incremented, ClientError> {
        match self.connection.call(&increment_of(key.as_ref(), by, Wait::default()))? {
            Message::Incremented(incremented) => Ok(incremented),
            other => Err(self.connection.unexpected(&other)),
        }
    }

    /// Some keys that begin with `prefix`: about as many as `count` (1 to 1024) looks find. Begin with cursor 0 and go on
    /// with the one that comes back, until that is 0. A key that is there all the time is found at least once.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn scan(&mut self, cursor: u64, count: u16, prefix: impl AsRef<[u8]>) -> Result<Scanned, ClientError> {
        let prefix = copied(prefix.as_ref());
        let id = self.connection.send(&Message::Scan(Scan { cursor, count, prefix }))?;
        let mut scanned = Scanned { cursor: 0, keys: Vec::new() };
        loop {
            match self.connection.receive(id)? {
                Message::Keys(keys) => {
                    scanned.cursor = keys.cursor;
                    scanned.keys.extend(keys.keys);
                    if !keys.more {
                        return Ok(scanned);
                    }
                }
                other => return Err(self.connection.unexpected(&other)),
            }
        }
    }

    /// Requests that are sent together; nothing is sent before [`Pipeline::run`].
    pub fn pipeline(&mut self) -> Pipeline<'_> {
        Pipeline::new(&mut self.connection)
    }

    fn write(&mut self, request: &Message) -> Result<Written, ClientError> {
        match self.connection.call(request)? {
            Message::Written(written) => Ok(written),
            other => Err(self.connection.unexpected(&other)),
        }
    }
}

/// Runs of keys that one request can name.
fn chunks_of<K: AsRef<[u8]>>(mut keys: &[K]) -> impl Iterator<Item = &[K]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |key: &&K| {
            bytes += 2 + key.as_ref().len();
            bytes <= CONTROL_BODY_BYTES_MAX
        };
        // One key of any length fits alone.
        let count = keys.iter().take(KEYS_MAX).take_while(fits).count().max(1).min(keys.len());
        let (chunk, rest) = keys.split_at(count);
        keys = rest;
        (!chunk.is_empty()).then_some(chunk)
    })
}

fn copied(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn get_of(key: &[u8]) -> Message {
    Message::Get(Get { key: copied(key) })
}

fn put_of(key: &[u8], value: &[u8], options: PutOptions, wait: Wait) -> Message {
    let PutOptions { expiry_ms, condition } = options;
    Message::Put(Put { wait, expiry_ms, condition, key: copied(key), value: copied(value) })
}

fn delete_of(key: &[u8], condition: Condition, wait: Wait) -> Message {
    Message::Delete(Delete { wait, condition, key: copied(key) })
}

fn increment_of(key: &[u8], by: i64, wait: Wait) -> Message {
    Message::Increment(Increment { wait, by, key: copied(key) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_keys_are_asked_for_in_requests_that_fit() {
        let sizes = |keys: &[Vec<u8>]| chunks_of(keys).map(<[_]>::len).collect::<Vec<_>>();
        assert_eq!(sizes(&[]), [0_usize; 0]);
        assert_eq!(sizes(&vec![vec![b'k'; 3]; 2500]), [1024, 1024, 452]);
        assert_eq!(sizes(&vec![vec![b'k'; 65_535]; 3]), [1, 1, 1]);
        assert_eq!(sizes(&vec![vec![b'k'; 30_000]; 5]), [2, 2, 1]);
        assert_eq!(sizes(&vec![vec![b'k'; 100_000]; 2]), [1, 1], "refused when it is encoded");
    }
}
