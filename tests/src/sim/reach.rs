//! Which rare branches of the product ([`wal::marks`]) a sweep has to reach, and what reaches the others.
//!
//! A mark stands in exactly one of three lists: a sweep reaches it, a scenario test does, or nothing does and the list says why.
//! `sim --seeds A..B --require-marks` fails if the random worlds change so that they no longer reach what they did.

use wal::marks::Mark;

/// So many seeds are enough to ask for [`EXPECTED`]: the rarest of it is reached by one seed in twenty.
pub const SEEDS_MIN: u64 = 200;

/// Every sweep of at least [`SEEDS_MIN`] seeds reaches these.
pub const EXPECTED: &[Mark] = &[
    Mark::TornTailCut,
    Mark::TailCutBeforeIntactFrames,
    Mark::SealedCutFound,
    Mark::EndOfFilesFound,
    Mark::SegmentSealedAtStart,
    Mark::LeftoverRemoved,
    Mark::WatermarkDiscarded,
    Mark::CoreCountChanged,
    Mark::CheckpointWritten,
    Mark::CheckpointAbandoned,
    Mark::CheckpointUsed,
    Mark::CheckpointOfOtherCores,
    Mark::CheckpointDamaged,
    Mark::CheckpointOfOtherSegments,
    Mark::CheckpointSegmentChanged,
    Mark::CompactionBegan,
    Mark::WinnerCopied,
    Mark::CopiesSent,
    Mark::ExpiredShrunk,
    Mark::OldSegmentRemoved,
    Mark::SyncFailed,
    Mark::WriteFailed,
    Mark::DiskFull,
    Mark::DiskFailing,
    Mark::WriteRefused,
    Mark::WriteWaitedForSegment,
    Mark::CeilingHeldUp,
    Mark::KeptRepeated,
    Mark::SegmentRemoved,
    Mark::SegmentRecycled,
    Mark::AlreadyHere,
    Mark::HereButNotDurable,
    Mark::SupersededOnArrival,
    Mark::ExpiredOnArrival,
    Mark::LostToExpired,
    Mark::ConcurrentLost,
    Mark::WallStepIgnored,
    Mark::WallBehindAtStart,
    Mark::WallCaughtUp,
    Mark::SkewAlarmed,
    Mark::HeldItselfBack,
    Mark::CaughtUpFromFiles,
    Mark::LogBeginsLate,
    Mark::RecordsWithheld,
    Mark::RelayAsked,
    Mark::BacklogElsewhere,
    Mark::ClaimAhead,
    Mark::CaughtUpInBulk,
    Mark::PassOpened,
    Mark::PassEnded,
    Mark::PassSkipsSegment,
    Mark::ClaimHeldBack,
    Mark::RetiredLogFollowed,
    Mark::RetiredLogEnded,
    Mark::IdleClaimRaised,
    Mark::TombstoneForgotten,
    Mark::TombstoneKeptForOldRun,
    Mark::DeadNotCopied,
    Mark::CoveredLeftOut,
    Mark::ComparedByKey,
    Mark::FollowerBelowForgotten,
    Mark::BootstrapEnded,
    Mark::BatchPacked,
    Mark::BatchShortened,
    Mark::CatchUpPaced,
    Mark::GuestCommandStalled,
    Mark::FollowStalled,
    Mark::CoreHeld,
    Mark::CoresHeldTogether,
    Mark::WatchedKeyChanged,
    Mark::PeerSilent,
    Mark::ExchangeMissed,
    Mark::RegistrationLost,
    Mark::InstanceSuspect,
    Mark::SegmentLeftMemory,
    Mark::SegmentEnteredMemory,
    Mark::RecordNotInMemory,
    Mark::FetchedTooLate,
    Mark::RecordUnreadable,
    Mark::GuestCommandWaitsForRecord,
    Mark::WaitReached,
    Mark::WaitTimedOut,
    Mark::SessionWaited,
    Mark::SessionTimedOut,
];

/// Too rare for random worlds: the scenario test that reaches each, in `tests/tests/`.
pub const BY_SCENARIO: &[(Mark, &str)] = &[
    (Mark::RecycledBytesIgnored, "bytes_of_an_earlier_use_of_a_file_are_not_the_log"),
    (Mark::DamageRefused, "damage_to_what_was_durable_is_refused_until_it_is_repaired"),
    (Mark::MissingSegmentRefused, "a_missing_segment_is_refused_until_it_is_back"),
    (Mark::DamagedSealIgnored, "a_damaged_seal_costs_nothing"),
    (Mark::TieWonByArrival, "equal_versions_are_decided_by_bytes_whichever_comes_first"),
    (Mark::TieWonByPresent, "equal_versions_are_decided_by_bytes_whichever_comes_first"),
    (Mark::ClockThrottled, "writes_wait_while_the_clock_is_ahead"),
    (Mark::LogicCarried, "writes_wait_while_the_clock_is_ahead"),
    (Mark::FarFutureHeld, "a_write_from_the_far_future_is_held_back_and_then_shown"),
    (Mark::FarFutureReleased, "a_write_from_the_far_future_is_held_back_and_then_shown"),
    (Mark::SegmentWaitsForFollower, "a_follower_without_room_neither_fills_its_memory_nor_its_sources_disk"),
    (Mark::FollowerSkipsSegment, "a_follower_without_room_neither_fills_its_memory_nor_its_sources_disk"),
    (Mark::CreditExhausted, "a_follower_without_room_neither_fills_its_memory_nor_its_sources_disk"),
    (Mark::FollowerHoldsMore, "a_disk_that_was_rolled_back_is_noticed_by_its_followers"),
    (Mark::BatchDamaged, "a_batch_with_any_flipped_bit_is_refused_whole"),
    (Mark::StreamBroken, "a_batch_or_a_claim_that_does_not_connect_ends_the_stream"),
    (Mark::HoldStalled, "a_transaction_that_waits_for_a_segment_keeps_its_cores_until_it_is_written"),
    (Mark::MailboxFull, "one_command_that_fills_a_mailbox_is_answered"),
    (Mark::RepliesWaited, "commands_wait_while_replies_are_large_and_all_are_answered"),
    (Mark::ReceiveRearmed, "receives_go_on_after_the_buffers_ran_out"),
    (Mark::ResidencyWidened, "a_region_that_is_let_in_gets_what_was_written_before"),
    (Mark::LostRecordRepaired, "what_a_node_lost_is_fetched_from_a_peer"),
    (Mark::DeadSwept, "an_old_disk_brings_nothing_back_that_was_forgotten"),
    (Mark::SelfRefused, "a_copy_of_a_node_is_refused_by_itself_and_by_the_others"),
    (Mark::SecondNodeRefused, "a_second_node_of_a_region_is_refused_and_harms_nothing"),
    (Mark::UnknownPeerRefused, "a_node_that_is_nobodys_peer_is_told_so"),
    (Mark::InstanceGone, "a_region_that_stays_away_is_gone_from_the_lists"),
];

/// What nothing here reaches for certain, and why not.
pub const UNREACHED: &[(Mark, &str)] = &[
    (
        Mark::CheckpointFromLater,
        "two seeds in a hundred; a_run_that_begins_before_the_checkpoint_was_written_reads_the_logs does it to a start",
    ),
    (
        Mark::DepartureFailed,
        "a rename or an unlink would have to fail, and simulated directories never do; \
         a_dead_segment_that_cannot_be_removed_yet_keeps_those_behind_it does it to a real daemon",
    ),
    (
        Mark::CompactionStopped,
        "the device of a running node does not rot here; a_segment_that_is_damaged_is_left_alone does it to a shard",
    ),
    (
        Mark::SlowReaderClosed,
        "clients here read; a_client_that_does_not_read_large_values_is_closed_and_holds_nothing does it to a real daemon",
    ),
    (
        Mark::ReleasedBehindPresent,
        "some seeds in a hundred: a record is held back while its key is written here, and wins then",
    ),
    (Mark::ClaimWaitedForCopies, "some seeds in a hundred: a follower that is new while a run loses its beginning"),
    (
        Mark::SegmentsReadAgain,
        "one seed in a hundred; frames_in_a_segment_behind_a_cut_are_not_indexed does it to a start",
    ),
    (
        Mark::PassSegmentGone,
        "some seeds in a hundred: compaction gives up the very segment that a pass is about to open",
    ),
    (Mark::ReadOverlapsSent, "one seed in thirty: a read that begins right where sending from memory stopped"),
    (Mark::AddressRefused, "only a peer that registers what is not its own does that; discovery's own tests play one"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_mark_is_in_one_list() {
        let others = BY_SCENARIO.iter().chain(UNREACHED).map(|(mark, _)| *mark);
        let listed: Vec<Mark> = EXPECTED.iter().copied().chain(others).collect();
        let missing: Vec<&Mark> = Mark::ALL.iter().filter(|mark| !listed.contains(mark)).collect();
        assert!(missing.is_empty(), "in no list: {missing:?}");
        let mut seen = BTreeSet::new();
        let twice: Vec<&Mark> = listed.iter().filter(|mark| !seen.insert(**mark)).collect();
        assert!(twice.is_empty(), "more than once: {twice:?}");
    }

    #[test]
    fn the_scenarios_that_are_named_exist() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
        let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        let sources = files.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
        let text: String = sources.map(|path| std::fs::read_to_string(path).unwrap()).collect();
        for (mark, scenario) in BY_SCENARIO {
            assert!(text.contains(&format!("#[test]\nfn {scenario}()")), "there is no scenario {scenario} for {mark}");
        }
    }
}
