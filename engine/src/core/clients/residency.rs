//! Keys that this node's region may not hold: whoever names one is told where to ask. They are not shown either: they never get here.

use net::resp::{Args, reply};
use net::wire::body::ErrorCode;
use wal::Lsn;

use crate::core::CoreLoop;
use crate::frontend::native::fail;
use crate::frontend::native::request::{Request, Verb};
use crate::frontend::resp::table::{Command, EveryVerb, Kind};
use crate::host::Host;

impl<H: Host> CoreLoop<H> {
    /// Whether a command was refused because it names a key that may not be here. One that is queued fails its transaction.
    pub(super) fn keeps_out(&mut self, index: u32, command: &'static Command, args: Args<'_>) -> bool {
        let residency = &self.facts.residency;
        if residency.policy().is_none() {
            return false;
        }
        let mut classes = 0;
        if matches!(command.kind, Kind::Everywhere(EveryVerb::Flush)) {
            classes = residency.classes_here();
        }
        let mut refusal = None;
        for key in command.key_places(args.len()).filter_map(|at| args.get(at)) {
            refusal = refusal.or_else(|| residency.refusal(key));
            classes |= residency.class(key);
        }
        let connection = &mut self.clients.connections[index as usize];
        let Some(text) = refusal else {
            connection.session.classes |= classes;
            return false;
        };
        connection.multi.fail();
        connection.replies.reply(Lsn(0), |out| reply::error(out, &format!("RESIDENCY {text}")));
        true
    }

    /// The same for a request of the native protocol. Of several keys each is answered.
    pub(super) fn keeps_out_request(&mut self, index: u32, request: &Request) -> bool {
        let residency = &self.facts.residency;
        if residency.policy().is_none() {
            return false;
        }
        let Some(text) = request.keys().iter().find_map(|key| residency.refusal(key)) else { return false };
        let answers = if let Verb::GetMany(many) = &request.verb { many.keys.len() } else { 1 };
        let replies = &mut self.clients.connections[index as usize].replies;
        for _ in 0..answers {
            fail(replies, request.id, ErrorCode::Residency, &text);
        }
        true
    }
}
