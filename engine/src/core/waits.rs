//! What a connection waits for, and holds, because of its transactions.

use bytes::Bytes;
use wal::Version;

use super::clients::{Clients, mark};
use crate::frontend::resp::transaction::Watched;
use crate::messages::ConnectionKey;

impl Clients {
    /// Whether the connection is still there.
    pub(super) fn is_there(&mut self, key: ConnectionKey) -> bool {
        self.find(key).is_some()
    }

    /// An answer has come for which the connection's next command waited.
    pub(super) fn pay(&mut self, key: ConnectionKey) {
        let found = self.connections.get_mut(key.index as usize);
        if let Some(connection) = found.filter(|found| found.generation == key.generation) {
            connection.owed = connection.owed.saturating_sub(1);
            if connection.owed == 0 {
                mark(&mut self.runnable, &mut connection.runnable, key.index);
            }
        }
    }

    /// Watches keys.
    pub(super) fn watch(&mut self, index: u32, watched: Vec<Watched>) {
        let multi = &mut self.connections[index as usize].multi;
        let before = multi.bytes();
        watched.into_iter().for_each(|watched| multi.watch(watched));
        self.queued_bytes += multi.bytes() - before;
    }

    /// What another core says of keys that are to be watched.
    pub(super) fn watched(&mut self, key: ConnectionKey, hop: (u64, usize), watched: Vec<Watched>) {
        if self.is_there(key) {
            self.watch(key.index, watched);
            self.answer(key, hop, vec![Bytes::from_static(b"+OK\r\n")], 0, Version::ZERO);
            self.pay(key);
        }
    }

    /// The connection's transaction is over, or never was.
    pub(super) fn forget_transaction(&mut self, index: u32) {
        let multi = &mut self.connections[index as usize].multi;
        self.queued_bytes -= multi.bytes();
        multi.clear();
    }
}
