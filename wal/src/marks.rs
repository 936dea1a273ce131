//! Coverage marks: a rare branch says that it was reached, so that a harness can count what its runs exercised. A run that never
//! met a torn tail shows nothing about torn tails.
//!
//! Always compiled. A mark is one bit of the thread, set by an *or*; that is affordable because marks stand in rare branches only:
//! never on the way of an ordinary read, write, or shipped record.

use std::cell::Cell;

use crate::named::named;

named! {
    /// A rare branch.
    Mark {
        // ---- recovery
        /// A log was cut at a torn tail.
        TornTailCut = "torn-tail-cut",
        /// Behind the cut, later frames of the same segment were intact and did not count.
        TailCutBeforeIntactFrames = "tail-cut-before-intact-frames",
        /// A log ended before the frames of an earlier use of its file.
        RecycledBytesIgnored = "recycled-bytes-ignored",
        /// A log ended at the seal of an earlier recovery's cut: what stands behind it is stale.
        SealedCutFound = "sealed-cut-found",
        /// A log ended with a file although its last frame says that it goes on.
        EndOfFilesFound = "end-of-files-found",
        /// Damage before the durable end was refused.
        DamageRefused = "damage-refused",
        /// A missing segment was noticed.
        MissingSegmentRefused = "missing-segment-refused",
        /// A damaged seal block was not used.
        DamagedSealIgnored = "damaged-seal-ignored",
        /// A segment had no seal, was synced, and got one.
        SegmentSealedAtStart = "segment-sealed-at-start",
        /// Frames stood in a segment behind a log's end: what they say was indexed, and the logs were read again without them.
        SegmentsReadAgain = "segments-read-again",
        /// A preparation that a crash interrupted was removed.
        LeftoverRemoved = "leftover-removed",
        /// A watermark was discarded because a position it rests on was not recovered.
        WatermarkDiscarded = "watermark-discarded",
        /// The node started with another number of cores than one of its earlier runs.
        CoreCountChanged = "core-count-changed",

        // ---- checkpoints
        /// A clean stop wrote a checkpoint.
        CheckpointWritten = "checkpoint-written",
        /// A clean stop could not write its checkpoint and ended without one.
        CheckpointAbandoned = "checkpoint-abandoned",
        /// A start took the index from a checkpoint.
        CheckpointUsed = "checkpoint-used",
        /// A checkpoint was ignored: a core's file is missing, or another number of cores wrote it.
        CheckpointOfOtherCores = "checkpoint-of-other-cores",
        /// A checkpoint was ignored: a file of it is damaged or cannot be read.
        CheckpointDamaged = "checkpoint-damaged",
        /// A checkpoint was ignored: other segments lie in the directory than it names.
        CheckpointOfOtherSegments = "checkpoint-of-other-segments",
        /// A checkpoint was ignored: a segment does not end as it did.
        CheckpointSegmentChanged = "checkpoint-segment-changed",
        /// A checkpoint was ignored: the run begins before the time at which it was written.
        CheckpointFromLater = "checkpoint-from-later",

        // ---- compaction
        /// A segment began to be compacted.
        CompactionBegan = "compaction-began",
        /// A segment could not be read back and is left alone.
        CompactionStopped = "compaction-stopped",
        /// A record of another node was copied for those who follow this node's log, in which it superseded one.
        WinnerCopied = "winner-copied",
        /// An expired value was left out when its record was copied.
        ExpiredShrunk = "expired-shrunk",
        /// A follower was sent copies, because what they were made of is gone.
        CopiesSent = "copies-sent",
        /// A record that was held back took the place of one that was appended after it.
        ReleasedBehindPresent = "released-behind-present",
        /// A core that wrote less than others wait for raised its claim.
        IdleClaimRaised = "idle-claim-raised",
        /// A tombstone that everybody holds was forgotten.
        TombstoneForgotten = "tombstone-forgotten",
        /// A node took over everything that another one had.
        BootstrapEnded = "bootstrap-ended",
        /// What the other one had forgotten was dropped.
        DeadSwept = "dead-swept",
        /// One stayed, because a file of an earlier run may hold what it deleted.
        TombstoneKeptForOldRun = "tombstone-kept-for-old-run",
        /// Compaction left out a dead record that everybody holds.
        DeadNotCopied = "dead-not-copied",
        /// A record that came again, and that this node holds, was left out.
        CoveredLeftOut = "covered-left-out",
        /// Two nodes had different sums, and were compared key by key.
        ComparedByKey = "compared-by-key",
        /// A node fetched a record that it had lost.
        LostRecordRepaired = "lost-record-repaired",
        /// A follower lacked what this node may have forgotten.
        FollowerBelowForgotten = "follower-below-forgotten",
        /// A batch was sent without what its follower may not hold.
        RecordsWithheld = "records-withheld",
        /// A node may hold more than before, and asked for everything again.
        ResidencyWidened = "residency-widened",
        /// A node began to hand on what it holds of another node's log.
        PassOpened = "pass-opened",
        /// It handed everything on.
        PassEnded = "pass-ended",
        /// A pass left a segment out, because its seal says that the follower holds all of it.
        PassSkipsSegment = "pass-skips-segment",
        /// A pass found a segment removed that it was about to read.
        PassSegmentGone = "pass-segment-gone",
        /// A node asked another one for the log of a third.
        RelayAsked = "relay-asked",
        /// A follower was told to ask for what lies behind on a connection of its own.
        BacklogElsewhere = "backlog-elsewhere",
        /// A live claim was kept until what lies below it had come on a bulk connection.
        ClaimAhead = "claim-ahead",
        /// What a live connection had left out had come on a bulk one.
        CaughtUpInBulk = "caught-up-in-bulk",
        /// The claim over a log whose beginning is gone waited for the copies in later logs.
        ClaimWaitedForCopies = "claim-waited-for-copies",
        /// A segment of an earlier run was removed while the node ran.
        OldSegmentRemoved = "old-segment-removed",

        // ---- segments outside memory
        /// A segment left memory.
        SegmentLeftMemory = "segment-left-memory",
        /// A segment came back into memory.
        SegmentEnteredMemory = "segment-entered-memory",
        /// Something waited for a record that was not in memory.
        RecordNotInMemory = "record-not-in-memory",
        /// A record came when its segment had left or had been removed.
        FetchedTooLate = "fetched-too-late",
        /// A client that took large values too slowly was closed.
        SlowReaderClosed = "slow-reader-closed",
        /// A record could not be read from the disk.
        RecordUnreadable = "record-unreadable",
        /// A command of another core waited for a record, and others overtook it.
        GuestCommandWaitsForRecord = "guest-command-waits-for-record",

        // ---- the disk
        /// A sync of the log failed.
        SyncFailed = "sync-failed",
        /// A direct write of the log failed.
        WriteFailed = "write-failed",
        /// A segment could not be prepared for want of space.
        DiskFull = "disk-full",
        /// A segment could not be prepared for another reason.
        DiskFailing = "disk-failing",
        /// A write was refused because of either.
        WriteRefused = "write-refused",
        /// A write waited because the next segment was not ready.
        WriteWaitedForSegment = "write-waited-for-segment",
        /// The clock's ceiling could not be raised at once.
        CeilingHeldUp = "ceiling-held-up",
        /// A segment repeated what earlier ones say of other nodes' logs.
        KeptRepeated = "kept-repeated",
        /// A segment was given up.
        SegmentRemoved = "segment-removed",
        /// The file of one was used again.
        SegmentRecycled = "segment-recycled",
        /// A segment that was given up could not lose its name yet.
        DepartureFailed = "departure-failed",

        // ---- the merge
        /// Two different records had one version, and the one that came later won by crc and bytes.
        TieWonByArrival = "tie-won-by-arrival",
        /// Two different records had one version, and the one that was here won by crc and bytes.
        TieWonByPresent = "tie-won-by-present",
        /// A followed record was here already.
        AlreadyHere = "already-here",
        /// A followed batch was here already, and not durable yet.
        HereButNotDurable = "here-but-not-durable",
        /// A followed record lost against a newer one.
        SupersededOnArrival = "superseded-on-arrival",
        /// A followed record had expired when it came.
        ExpiredOnArrival = "expired-on-arrival",
        /// A followed record that can be seen lost against a newer one that has expired.
        LostToExpired = "lost-to-expired",
        /// A write of another node lost against a later one of this node, which did not know it.
        ConcurrentLost = "concurrent-lost",

        // ---- time
        /// The clock was too far ahead to give a version.
        ClockThrottled = "clock-throttled",
        /// The logic counter was used up and carried into the milliseconds.
        LogicCarried = "logic-carried",
        /// The wall clock stood too far away and was not followed.
        WallStepIgnored = "wall-step-ignored",
        /// A run began where the one before it had been, because the wall clock stood further back.
        WallBehindAtStart = "wall-behind-at-start",
        /// The wall clock of such a run was no longer behind and was believed.
        WallCaughtUp = "wall-caught-up",
        /// The alarm over a peer's clock began or ended.
        SkewAlarmed = "skew-alarmed",
        /// What a node whose clock is ahead of the others' holds itself back by has changed.
        HeldItselfBack = "held-itself-back",
        /// A record from the far future was held back.
        FarFutureHeld = "far-future-held",
        /// One became due.
        FarFutureReleased = "far-future-released",

        // ---- replication, source
        /// A follower was further behind than memory and was sent from files.
        CaughtUpFromFiles = "caught-up-from-files",
        /// A bulk read began with what had been sent already.
        ReadOverlapsSent = "read-overlaps-sent",
        /// A segment stayed because a follower was about to be sent from it.
        SegmentWaitsForFollower = "segment-waits-for-follower",
        /// A follower was behind retention and skipped a segment.
        FollowerSkipsSegment = "follower-skips-segment",
        /// A follower asked for a log whose beginning is gone.
        LogBeginsLate = "log-begins-late",
        /// A claim waited for what superseded a removed segment.
        ClaimHeldBack = "claim-held-back",
        /// A bulk read waited for `CATCH_UP_RATE`.
        CatchUpPaced = "catch-up-paced",
        /// A batch went out packed.
        BatchPacked = "batch-packed",
        /// A small batch went out in the short form.
        BatchShortened = "batch-shortened",
        /// A follower's credit was used up.
        CreditExhausted = "credit-exhausted",
        /// A follower asked for a log of an earlier run.
        RetiredLogFollowed = "retired-log-followed",
        /// A log of an earlier run was claimed to its end.
        RetiredLogEnded = "retired-log-ended",
        /// A follower said that it holds more of a log than this disk.
        FollowerHoldsMore = "follower-holds-more",

        // ---- replication, follower
        /// A damaged batch was refused.
        BatchDamaged = "batch-damaged",
        /// A batch or a claim did not connect to what came before it.
        StreamBroken = "stream-broken",

        // ---- loops and links
        /// A command of another core's client waited for the log.
        GuestCommandStalled = "guest-command-stalled",
        /// A followed batch, or a local record, waited for the log.
        FollowStalled = "follow-stalled",
        /// A core was held by a transaction.
        CoreHeld = "core-held",
        /// A transaction led by one core held several.
        CoresHeldTogether = "cores-held-together",
        /// A transaction's part waited for the log while its core was held.
        HoldStalled = "hold-stalled",
        /// A transaction did not take place because a watched key had changed.
        WatchedKeyChanged = "watched-key-changed",
        /// Enough other nodes came to hold what a client wrote and waited for.
        WaitReached = "wait-reached",
        /// A client's wait for other nodes ended by its deadline.
        WaitTimedOut = "wait-timed-out",
        /// A session came to a node that did not have all of it yet.
        SessionWaited = "session-waited",
        /// A node did not get in time what a session had seen elsewhere.
        SessionTimedOut = "session-timed-out",
        /// A mailbox was full.
        MailboxFull = "mailbox-full",
        /// A connection's commands waited because its replies did.
        RepliesWaited = "replies-waited",
        /// A receive ended for want of buffers and was submitted again.
        ReceiveRearmed = "receive-rearmed",
        /// A peer fell silent and its link was reset.
        PeerSilent = "peer-silent",
        /// A node refused to speak to itself, or to a copy of itself.
        SelfRefused = "self-refused",
        /// A second node of one region was refused.
        SecondNodeRefused = "second-node-refused",
        /// A node that is nobody's peer was refused.
        UnknownPeerRefused = "unknown-peer-refused",

        // ---- discovery
        /// An exchange was not acknowledged in time.
        ExchangeMissed = "exchange-missed",
        /// A registration of a peer was lost on the way, and everything was asked for.
        RegistrationLost = "registration-lost",
        /// An instance became suspect.
        InstanceSuspect = "instance-suspect",
        /// An instance was gone.
        InstanceGone = "instance-gone",
        /// An address of a peer was refused.
        AddressRefused = "address-refused",
    }
}

const _: () = assert!(Mark::ALL.len() <= u128::BITS as usize);

thread_local! {
    static REACHED: Cell<u128> = const { Cell::new(0) };
}

/// The branch of `mark` was reached on this thread.
#[inline]
pub fn reach(mark: Mark) {
    REACHED.set(REACHED.get() | bit(mark));
}

/// What was reached on this thread since the last call.
#[must_use]
pub fn take() -> MarkSet {
    MarkSet(REACHED.replace(0))
}

const fn bit(mark: Mark) -> u128 {
    1 << mark as u32
}

/// Some marks.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct MarkSet(u128);

impl MarkSet {
    /// None of them.
    pub const EMPTY: MarkSet = MarkSet(0);

    /// Whether it holds `mark`.
    #[must_use]
    pub const fn contains(self, mark: Mark) -> bool {
        self.0 & bit(mark) != 0
    }

    /// What is in either.
    #[must_use]
    pub const fn union(self, other: MarkSet) -> MarkSet {
        MarkSet(self.0 | other.0)
    }

    /// Whether it holds none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many it holds.
    #[must_use]
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// In the order of [`Mark::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Mark> {
        Mark::ALL.iter().copied().filter(move |mark| self.contains(*mark))
    }
}

impl FromIterator<Mark> for MarkSet {
    fn from_iter<I: IntoIterator<Item = Mark>>(marks: I) -> MarkSet {
        MarkSet(marks.into_iter().fold(0, |bits, mark| bits | bit(mark)))
    }
}

impl std::fmt::Debug for MarkSet {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_have_names() {
        crate::named::assert_names(Mark::ALL, |mark| mark.name());
    }

    #[test]
    fn what_was_reached_is_taken_once_and_by_its_thread() {
        assert_eq!(take(), MarkSet::EMPTY);
        reach(Mark::TornTailCut);
        reach(Mark::AddressRefused);
        reach(Mark::TornTailCut);
        assert!(std::thread::spawn(take).join().unwrap().is_empty());
        let taken = take();
        assert_eq!(taken.iter().collect::<Vec<_>>(), [Mark::TornTailCut, Mark::AddressRefused]);
        assert_eq!(take(), MarkSet::EMPTY);
    }

    #[test]
    fn sets_hold_what_was_put_into_them() {
        for mark in Mark::ALL {
            let set = MarkSet::from_iter([*mark]);
            assert!(Mark::ALL.iter().all(|other| set.contains(*other) == (other == mark)), "{mark}");
            assert_eq!((set.len(), set.is_empty()), (1, false));
        }
        let (first, second): (MarkSet, MarkSet) =
            ([Mark::DiskFull].into_iter().collect(), [Mark::DiskFull, Mark::SyncFailed].into_iter().collect());
        assert_eq!(first.union(second), second);
        assert_eq!(first.union(MarkSet::EMPTY), first);
        assert_eq!(format!("{second:?}"), "{SyncFailed, DiskFull}");
        assert_eq!(Mark::ALL.iter().copied().collect::<MarkSet>().len(), Mark::ALL.len());
    }
}
