//! What other parts of the core may know of its connections, and do to them.

use net::reactor::Mono;

use super::{Clients, mark};
use crate::frontend::replies::ReplyQueue;
use crate::frontend::resp::client_command::ClientFilter;
use crate::frontend::resp::session::Session;
use crate::frontend::resp::table::Command;
use crate::messages::ConnectionKey;

impl Clients {
    pub(in crate::core) fn count(&self) -> i64 {
        i64::try_from(self.connections.len()).unwrap_or(i64::MAX)
    }

    pub(in crate::core) fn commands(&self) -> u64 {
        self.commands
    }

    pub(in crate::core) fn protocol_errors(&self) -> u64 {
        self.protocol_errors
    }

    /// Bytes that connections have sent and that were not run yet, and that transactions queue.
    pub(in crate::core) fn buffered_bytes(&self) -> usize {
        self.input_bytes + self.queued_bytes
    }

    pub(in crate::core) fn replies(&mut self, index: u32) -> &mut ReplyQueue {
        &mut self.connections[index as usize].replies
    }

    /// The connection's name, what it remembers, and its replies.
    pub(in crate::core) fn asker(&mut self, index: u32) -> (ConnectionKey, &Session, &mut ReplyQueue) {
        let connection = &mut self.connections[index as usize];
        let key = ConnectionKey { index, generation: connection.generation };
        (key, &connection.session, &mut connection.replies)
    }

    /// Runs no command of the connection before all `parts` came for this gap.
    pub(in crate::core) fn waits_for(&mut self, index: u32, hop: u64, parts: usize) {
        self.connections[index as usize].awaited = Some((hop, parts));
    }

    pub(in crate::core) fn is_waiting(&self, index: u32) -> bool {
        self.connections[index as usize].awaited.is_some()
    }

    pub(in crate::core) fn session(&self, index: u32) -> &Session {
        &self.connections[index as usize].session
    }

    pub(in crate::core) fn last_command(&self, index: u32) -> Option<&'static Command> {
        self.connections[index as usize].session.command
    }

    /// The connections that `filter` means, a line for each. The request of `asker`, who asks for it, counts as its input.
    pub(in crate::core) fn list(&self, filter: &ClientFilter, asker: u64, now: Mono) -> String {
        let meant = self.connections.iter().map(|(_, connection)| connection).filter(|c| filter.means(&c.session));
        let request = |session: &Session| if session.id == asker { session.request_bytes } else { 0 };
        meant.map(|c| c.session.line(now, c.input.len() + request(&c.session), c.replies.bytes())).collect()
    }

    /// Ends the connections that `filter` means and counts them; `asker`'s ends once its replies are sent.
    pub(in crate::core) fn kill(&mut self, filter: &ClientFilter, asker: u64) -> i64 {
        let mut killed = 0;
        for (index, connection) in &mut self.connections {
            if connection.closing || connection.broken || !filter.means(&connection.session) {
                continue;
            }
            killed += 1;
            let own = connection.session.id == asker;
            connection.closing |= own;
            connection.broken |= !own;
            let index = u32::try_from(index).expect("bounded by CONNECTIONS_MAX");
            mark(&mut self.dirty, &mut connection.dirty, index);
        }
        killed
    }
}
