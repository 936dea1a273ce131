//! The end of a core: once its log is durable and sealed it ends, a checkpoint is written on the helper thread, and the loop stops.
//! Nothing changes the shard from then on; replies that are on their way still go out.

use net::reactor::{Completion, Io, Mono, Op};
use wal::marks::{Mark, reach};

use super::CoreLoop;
use super::ops::Context;
use crate::checkpoint::{Job, OldRunFacts, Writer};
use crate::host::Host;
use crate::messages::{CoreEvent, ToCore};

/// A stop waits for its checkpoint so long at most. What is not written by then is not worth the wait: the next start reads the logs.
pub(crate) const CHECKPOINT_MS_MAX: u64 = 30_000;

/// How long a closed core may sleep.
pub(super) const CLOSED_SLEEP_MS: u64 = 100;

/// How far the end is.
#[derive(Debug)]
pub(super) struct Closing<F> {
    /// For the checkpoint.
    pub(super) old_runs: Vec<OldRunFacts>,
    writer: Option<Writer<F>>,
    began: Mono,
    /// The log has ended.
    closed: bool,
}

impl<F> Default for Closing<F> {
    fn default() -> Self {
        Closing { old_runs: Vec::new(), writer: None, began: Mono(0), closed: false }
    }
}

impl<F> Closing<F> {
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }
}

impl<H: Host> CoreLoop<H> {
    /// Everything is durable and sealed: ends the log and begins the checkpoint, as soon as no segment is on its way.
    pub(super) fn close(&mut self) {
        if self.commit.segments.is_moving() {
            return;
        }
        // Without room for its ceiling the clock has not ended where the log says.
        if self.commit.segments.is_stuck() || self.commit.ceiling_waits || !self.shard.log_mut().close() {
            return self.abandon("the disk has no room, or a segment cannot be removed");
        }
        self.closing.closed = true;
        self.closing.began = self.now();
        // Before the checkpoint's own jobs, which come after them: what it is compared with lies on the disk by then.
        self.write_seals();
        let old_runs = std::mem::take(&mut self.closing.old_runs);
        let directory = self.commit.segments.data_dir.clone();
        self.closing.writer = Some(Writer::new(&directory, &mut self.shard, self.facts.cores, old_runs));
        self.go_on_writing();
    }

    fn go_on_writing(&mut self) {
        let Some(writer) = &mut self.closing.writer else { return };
        match writer.next(&mut self.shard) {
            Job::Do(job) => {
                self.ops.submit(&mut self.io, Op::File(job), Context::Checkpoint);
            }
            Job::Finished => {
                reach(Mark::CheckpointWritten);
                let millis = (self.io.now().0 - self.closing.began.0) / 1_000_000;
                tracing::info!(core = self.core, bytes = writer.file_bytes(), millis, "checkpoint written");
                self.closing.writer = None;
                self.end();
            }
            Job::GiveUp(why) => self.abandon(why),
        }
    }

    pub(super) fn checkpoint_completed(&mut self, completion: Completion<H::File>) {
        let Some(writer) = &mut self.closing.writer else { return };
        match completion.result {
            Ok(outcome) => writer.completed(outcome),
            Err(error) => return self.abandon(&error.to_string()),
        }
        if self.now() > self.closing.began.plus_ms(CHECKPOINT_MS_MAX) {
            return self.abandon("it takes too long");
        }
        self.go_on_writing();
    }

    /// The next start reads the logs.
    fn abandon(&mut self, why: &str) {
        reach(Mark::CheckpointAbandoned);
        tracing::warn!(core = self.core, why, "no checkpoint is written; the next start reads the logs");
        if let Some(writer) = self.closing.writer.take() {
            self.ops.submit(&mut self.io, Op::File(writer.leftover()), Context::Discard);
        }
        self.end();
    }

    pub(super) fn end(&mut self) {
        self.stopped = true;
        self.tell(CoreEvent::Stopped);
    }

    /// What is left of a tick once the log has ended: replies to this core's clients, and this core's to those of others.
    pub(super) fn answer_last(&mut self) {
        while let Some(message) = self.mailbox.receive() {
            // Whatever else there is to do, nobody does it any more.
            if let ToCore::Answer { connection, hop, reply, sum, written } = message {
                self.clients.answer(connection, hop, reply, sum, written);
            }
        }
        self.answer_guests();
        self.tend_waits();
        self.send_replies();
        self.ops.resubmit(&mut self.io);
    }
}
