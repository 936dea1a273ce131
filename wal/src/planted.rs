//! Deliberate faults, so that the harness can show that it would notice. They exist only where everything was compiled with
//! `RUSTFLAGS="--cfg planted"`, and then one is chosen at run time, for one thread. Otherwise [`is`] is `false` at compile time and
//! nothing of them is left.

use crate::named::named;

named! {
    /// A fault: what goes wrong, at one place.
    Fault {
        // ---- the log
        /// Reading goes on behind a torn gap and ignores seals, as if a segment were reused after a cut.
        StaleFrameAfterCut = "stale-frame-after-cut",
        /// Recovery takes whatever it cannot read for the torn tail, although later frames say that it was durable.
        CutAtFirstBadFrame = "cut-at-first-bad-frame",
        /// A write is acknowledged when it is staged.
        AckBeforeSync = "ack-before-sync",
        /// A failed sync is tried again, and the second one, which succeeds without having written anything, is believed.
        RetryFailedSync = "retry-failed-sync",
        /// A write that found no room is acknowledged like any other.
        FullDiskAcknowledged = "full-disk-acknowledged",
        /// A command that another core ran is answered before that core's log is durable.
        AnswerBeforeOtherCore = "answer-before-other-core",
        /// A read shows a record that is not durable yet.
        ReadUndurable = "read-undurable",
        /// A new segment is written to before its name is on the disk.
        UseBeforeNamed = "use-before-named",
        /// The file of a segment is used again before its old name is gone from the disk.
        RecycleBeforeRename = "recycle-before-rename",
        /// A segment is given up before what superseded its records is durable.
        RemoveBeforeReplaced = "remove-before-replaced",
        /// A segment is given up although it holds the newest word on other nodes' logs.
        RepeatNothing = "repeat-nothing",

        // ---- checkpoints
        /// A start believes the checkpoint of an earlier stop: it is not removed, and what lies beside it is not looked at.
        StaleCheckpointBelieved = "stale-checkpoint-believed",
        /// The checksums of a checkpoint's blocks are not looked at.
        CheckpointUnverified = "checkpoint-unverified",
        /// A start from a checkpoint forgets the records that were held back.
        CheckpointForgetsHeld = "checkpoint-forgets-held",
        /// A start from a checkpoint begins its clock where the records end, below the ceiling that was promised.
        CheckpointForgetsCeiling = "checkpoint-forgets-ceiling",

        // ---- compaction
        /// A tombstone is dropped when its segment is compacted.
        TombstoneDroppedInCompaction = "tombstone-dropped-in-compaction",
        /// What superseded this node's records is not copied when their segment is compacted.
        WinnersNotCopied = "winners-not-copied",
        /// A follower that begins behind what was removed is not sent the copies.
        CopiesNotSent = "copies-not-sent",
        /// A pass leaves out what its source originated, as if only the wanted log's own records could supersede another's.
        PassOfOneOrigin = "pass-of-one-origin",
        /// A pass claims what its source holds when it ends, not what it held when the pass began.
        PassClaimsItsEnd = "pass-claims-its-end",

        // ---- the merge
        /// A session that has moved goes on before its new node has what it saw.
        TokenNotAwaited = "token-not-awaited",
        /// Of two records with one version the one that comes later wins, wherever it comes later.
        LaterArrivalWinsTie = "later-arrival-wins-tie",
        /// A record with the version of the one that is here counts as that one, whatever is in it.
        EqualVersionIsSame = "equal-version-is-same",
        /// A record that has expired when it arrives is dropped, and does not take its predecessor's place.
        ExpiredOnArrivalDropped = "expired-on-arrival-dropped",
        /// A tombstone for a key that is not here is dropped: an older write that comes later brings the key back.
        TombstoneOfNothingDropped = "tombstone-of-nothing-dropped",
        /// Recovery skips tombstones: what they deleted is back after a restart.
        TombstonesForgotten = "tombstones-forgotten",

        /// A tombstone is forgotten although a file of an earlier run holds what it deleted.
        BuriedDugUp = "buried-dug-up",
        /// What was deleted is forgotten as soon as this node alone holds everything.
        ForgottenBeforeOthers = "forgotten-before-others",
        /// A node that took over everything keeps what the source does not have any more.
        SweepSkipped = "sweep-skipped",
        /// A crash in the middle of a bootstrap is not remembered: what came until then counts as all.
        BootstrapCutShort = "bootstrap-cut-short",
        /// In a bootstrap also what does not count any more is sent, although what took its place may have been forgotten.
        BootstrapUnsifted = "bootstrap-unsifted",
        /// A record that comes again is applied although what deleted it may have been forgotten.
        CoveredApplied = "covered-applied",

        // ---- time and identity
        /// A restart begins above the versions it finds and ignores the ceiling that was promised to be the highest.
        ClockBelowCeiling = "clock-below-ceiling",
        /// A wall clock that jumped is followed at once.
        SteppedClockFollowed = "stepped-clock-followed",
        /// A record from the far future moves the clock and is seen at once.
        FarFutureBelieved = "far-future-believed",
        /// A node whose clock is ahead steps back to where it should be.
        HeldBackClockSteps = "held-back-clock-steps",
        /// A run is named by counting the runs before it that are on the disk.
        IncarnationCounted = "incarnation-counted",

        // ---- replication
        /// Frames are handed to followers when they are written, not when they are durable.
        ShipBeforeDurable = "ship-before-durable",
        /// A core promises that its records are durable when it seals them.
        PromiseBeforeSync = "promise-before-sync",
        /// The node claims what its busiest core promised although an idle one promised less.
        ClaimOfBusiestCore = "claim-of-busiest-core",
        /// Records of other nodes are shipped like own ones.
        FollowedShipped = "followed-shipped",
        /// The same, and the receiver accepts them.
        NoOriginFilter = "no-origin-filter",
        /// A claim takes effect when the first core that received a part of it is durable.
        ClaimBeforeSlowestCore = "claim-before-slowest-core",
        /// A record that is here already counts as durable although it may only be staged.
        HaveItBeforeSync = "have-it-before-sync",
        /// A follower that was not sent a removed segment may claim before it holds what superseded its records.
        ClaimBeforeReplaced = "claim-before-replaced",
        /// A claim of a live connection that begins late takes effect although what lies below is still on its way on another one.
        BacklogForgotten = "backlog-forgotten",
        /// Recovery believes a watermark although the positions it rests on were not recovered.
        WatermarkRestsOnNothing = "watermark-rests-on-nothing",

        // ---- residency
        /// A source sends what its follower may not hold, and the follower takes it.
        ResidencyIgnored = "residency-ignored",
        /// A node hands on other nodes' logs to one that may hold more than it does, and is believed.
        PassWithoutCover = "pass-without-cover",
        /// A node that may hold more than before goes on from where it stood.
        WideningKeepsClaims = "widening-keeps-claims",
        /// Anti-entropy takes whatever it does not have for lost, also what is on its way.
        JudgeIgnoresCoverage = "judge-ignores-coverage",
        /// Anti-entropy fetches what is absent because it was deleted, and that was forgotten.
        JudgeIgnoresFloor = "judge-ignores-floor",

        // ---- transactions
        /// A transaction takes place although a watched key changed.
        WatchIgnored = "watch-ignored",
        /// Each core of a transaction goes on as soon as it has run its part.
        CoresNotHeld = "cores-not-held",
        /// What a transaction writes on one core is spread over frames, of which a crash may leave some.
        BatchInSeveralFrames = "batch-in-several-frames",

        // ---- discovery
        /// What peers registered is passed on to other peers.
        RemoteEntriesForwarded = "remote-entries-forwarded",
        /// A loopback address of a local instance is forwarded as it is.
        LoopbackForwarded = "loopback-forwarded",
        /// A peer may register any address: this host's own, or one of another region.
        AnyAddressAccepted = "any-address-accepted",
        /// An instance that is no longer refreshed stays listed.
        EntriesNeverExpire = "entries-never-expire",
        /// An instance of a peer is gone when one refresh of it is lost.
        OneLostRefreshExpires = "one-lost-refresh-expires",
    }
}

/// A name that no fault has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no fault {0:?}; there are {names}", names = names())]
pub struct UnknownFault(String);

fn names() -> String {
    Fault::ALL.iter().map(|fault| fault.name()).collect::<Vec<_>>().join(", ")
}

impl std::str::FromStr for Fault {
    type Err = UnknownFault;

    fn from_str(name: &str) -> Result<Fault, UnknownFault> {
        let found = Fault::ALL.iter().find(|fault| fault.name() == name);
        found.copied().ok_or_else(|| UnknownFault(name.to_owned()))
    }
}

#[cfg(planted)]
mod active {
    use std::cell::Cell;

    use super::Fault;

    thread_local! {
        static FAULT: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    /// Plants `fault` on this thread, in place of the one before; `None` plants nothing.
    pub fn set(fault: Option<Fault>) {
        FAULT.set(fault);
    }

    /// What is planted on this thread.
    #[must_use]
    pub fn get() -> Option<Fault> {
        FAULT.get()
    }
}

#[cfg(planted)]
pub use active::{get, set};

/// Whether `fault` is planted on this thread.
#[cfg(planted)]
#[must_use]
pub fn is(fault: Fault) -> bool {
    get() == Some(fault)
}

/// Whether `fault` is planted on this thread: never, without `--cfg planted`.
#[cfg(not(planted))]
#[must_use]
#[inline]
pub const fn is(_fault: Fault) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_chosen_by_name_and_an_unknown_name_lists_them() {
        crate::named::assert_names(Fault::ALL, |fault| fault.name());
        for fault in Fault::ALL {
            assert_eq!(fault.name().parse(), Ok(*fault));
        }
        let error = "ack-before-the-sync".parse::<Fault>().unwrap_err().to_string();
        assert!(error.contains("\"ack-before-the-sync\"") && error.contains("ack-before-sync, "), "{error}");
    }

    #[test]
    fn nothing_is_planted_unless_somebody_does() {
        assert!(Fault::ALL.iter().all(|fault| !is(*fault)));
    }

    #[cfg(planted)]
    #[test]
    fn a_fault_is_planted_on_one_thread() {
        set(Some(Fault::AckBeforeSync));
        assert!(is(Fault::AckBeforeSync) && !is(Fault::RetryFailedSync));
        assert_eq!(std::thread::spawn(get).join().unwrap(), None);
        set(None);
        assert_eq!(get(), None);
    }
}
