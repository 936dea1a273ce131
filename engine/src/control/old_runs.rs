//! Earlier runs of this node while it runs: segments that compaction has emptied go once every follower holds their run.
//!
//! The oldest segment of a core goes first, so that a log begins late and has no gap. The first core's last segment goes after all
//! others, because it says what the run is: what is left of a run is offered, and a follower that has nothing of it finds the
//! rest in the copies of later runs.

use std::collections::{BTreeMap, BTreeSet};

use net::ids::{NodeId, RegionName};
use net::reactor::{Completion, FileJob, Mono, Op};
use net::wire::body::MemberState;
use wal::marks::{Mark, reach};
use wal::{CoreId, Incarnation, Lsn, Version};

use super::link::Role;
use super::{ControlLoop, Purpose};
use crate::checkpoint::{OldRunFacts, OldRunLog};
use crate::host::{Host, segment_path};
use crate::messages::ToCore;
use crate::replication::log_id;
use crate::replication::logs::OwnLogs;
use crate::shard::{Copies, SegmentId};
use crate::startup::OldRun;

/// How long after a failure to remove a file the next attempt comes.
const RETRY_MS: u64 = 1000;

/// What the control thread knows of earlier runs.
#[derive(Debug)]
pub(super) struct OldRuns {
    runs: Vec<OldRun>,
    emptied: BTreeMap<SegmentId, Emptied>,
    /// By core, where copies of old records end.
    copied_upto: Vec<Lsn>,
    removing: Option<Removing>,
    retry_at: Mono,
}

/// What is known of a segment in which nothing counts any more in some core.
#[derive(Debug, Default)]
struct Emptied {
    /// Those cores.
    cores: BTreeSet<u16>,
    /// The highest version that superseded one of its records.
    replaced_upto: Version,
}

/// A segment whose file is losing its name.
#[derive(Clone, Copy, Debug)]
struct Removing {
    segment: SegmentId,
    /// Of which run.
    run: Incarnation,
}

impl OldRuns {
    pub(super) fn new(runs: Vec<OldRun>, cores: u16) -> OldRuns {
        OldRuns {
            runs,
            emptied: BTreeMap::new(),
            copied_upto: vec![Lsn(0); usize::from(cores)],
            removing: None,
            retry_at: Mono(0),
        }
    }

    /// Whether a segment is gone, or going.
    pub(super) fn has_given_up(&self, segment: SegmentId) -> bool {
        self.removing.is_some_and(|removing| removing.segment == segment)
            || !self.runs.iter().any(|run| run.segments.contains(&segment))
    }

    /// What is left of them, oldest first.
    pub(super) fn left(&self) -> &[OldRun] {
        &self.runs
    }

    /// In `core` nothing of the segment counts any more; the copies of its records end at `upto`.
    pub(super) fn emptied(&mut self, core: u16, segment: SegmentId, upto: Lsn, replaced_upto: Version) {
        let emptied = self.emptied.entry(segment).or_default();
        emptied.cores.insert(core);
        emptied.replaced_upto = emptied.replaced_upto.max(replaced_upto);
        let copied_upto = &mut self.copied_upto[usize::from(core)];
        *copied_upto = (*copied_upto).max(upto);
    }

    /// Whether a file is losing its name.
    pub(super) fn is_removing(&self) -> bool {
        self.removing.is_some()
    }

    fn is_empty(&self, segment: SegmentId) -> bool {
        self.emptied.get(&segment).is_some_and(|emptied| emptied.cores.len() == self.copied_upto.len())
    }

    /// Bytes of files that could go as far as the cores are concerned.
    pub(super) fn kept_bytes(&self, logs: &OwnLogs) -> u64 {
        let kept = self.runs.iter().flat_map(|run| run.segments.iter().map(|segment| (run.incarnation, *segment)));
        let bytes = |(run, segment): (Incarnation, SegmentId)| {
            let log = logs.logs.iter().find(|log| log.id.incarnation.0 == run.0)?;
            let core = log.cores.get(usize::from(segment.core.0))?;
            let found = core.segments.iter().find(|held| held.number == segment.number)?;
            Some(found.end.unwrap_or(core.durable).0.saturating_sub(found.base.0))
        };
        kept.filter(|(_, segment)| self.is_empty(*segment)).filter_map(bytes).sum()
    }

    /// Segments that could go as far as the cores are concerned, each with its run, from the oldest on.
    fn candidates(&self) -> impl Iterator<Item = (Incarnation, SegmentId)> {
        self.runs.iter().flat_map(move |run| {
            let is_last = run.segments.len() == 1;
            let of_first_core = run.segments.iter().filter(|segment| segment.core == CoreId(0)).count();
            let mut seen = BTreeSet::new();
            let oldest = run.segments.iter().filter(move |segment| seen.insert(segment.core));
            let may_go = move |segment: &&SegmentId| is_last || segment.core != CoreId(0) || of_first_core > 1;
            oldest.filter(may_go).filter(|segment| self.is_empty(**segment)).map(|segment| (run.incarnation, *segment))
        })
    }
}

/// What checkpoints say of earlier runs.
pub(super) fn old_run_facts(logs: &OwnLogs) -> Vec<OldRunFacts> {
    let retired = logs.logs.iter().filter_map(|log| Some((log, log.end?)));
    let facts = retired.map(|(log, end)| OldRunFacts {
        incarnation: Incarnation(log.id.incarnation.0),
        first: log.first,
        end,
        cores: log
            .cores
            .iter()
            .map(|core| OldRunLog { has_copies: core.copies.upto > Lsn(0), marks: core.marks.clone() })
            .collect(),
    });
    facts.collect()
}

impl<H: Host> ControlLoop<H> {
    /// Removes one segment, if there is one to remove.
    pub(super) fn let_old_runs_go(&mut self) {
        if self.old_runs.is_removing()
            || self.stop.asked
            || self.failed.is_some()
            || self.now() < self.old_runs.retry_at
        {
            return;
        }
        let found = self.old_runs.candidates().find(|(run, _)| self.is_held_by_all(*run));
        let Some((run, segment)) = found else { return };
        // Whoever has nothing of the running log needs the copies, from now on: also one that comes before the file is gone.
        self.copies_are_needed_below(self.logs.logs.last().map_or(Version::ZERO, |log| log.first));
        self.old_runs.removing = Some(Removing { segment, run });
        self.segment_files.retain(|file, _| (file.core, file.number) != (segment.core, segment.number));
        let path = segment_path(&self.data_dir, segment.core, segment.number);
        self.ops.submit(&mut self.io, Op::File(FileJob::Unlink { path }), Purpose::RemoveOldSegment);
    }

    /// Whether every other region follows this node and holds all of the run: every configured peer has been a member, and of each
    /// region that has one still, one follows. For a region whose members were removed nothing is kept.
    fn is_held_by_all(&self, incarnation: Incarnation) -> bool {
        let mut regions: BTreeMap<&RegionName, Vec<NodeId>> = BTreeMap::new();
        for member in self.members.iter().filter(|member| member.region != self.region) {
            let joined = regions.entry(&member.region).or_default();
            joined.extend((member.state == MemberState::Joined).then_some(member.node));
        }
        let followers = self.present_followers();
        let is_served = |joined: &Vec<NodeId>| joined.is_empty() || joined.iter().any(|node| followers.contains(node));
        self.has_met_all() && regions.values().all(is_served) && self.is_held_by_present(incarnation)
    }

    /// Whether all those hold the run who follow this node now.
    fn is_held_by_present(&self, incarnation: Incarnation) -> bool {
        self.present_followers().into_iter().all(|node| self.holds_run(node, incarnation))
    }

    pub(super) fn present_followers(&self) -> BTreeSet<NodeId> {
        let serving = self.links.iter().filter(|(_, link)| matches!(link.role, Role::Serving { .. }) && link.is_up());
        serving.filter_map(|(_, link)| link.hello().map(|hello| hello.node)).collect()
    }

    fn holds_run(&self, node: NodeId, incarnation: Incarnation) -> bool {
        let log = log_id(self.facts.node, incarnation);
        let Some(own) = self.logs.get(log) else { return true };
        let end = own.end.unwrap_or(Version(u64::MAX));
        self.acknowledged.get(&(node, log)).is_some_and(|held| *held >= end)
    }

    /// Whoever holds less of the running log than `below` is to be sent the copies in it.
    fn copies_are_needed_below(&mut self, below: Version) {
        let current = self.logs.current();
        for (core, upto) in current.cores.iter_mut().zip(&self.old_runs.copied_upto) {
            core.copies = core.copies.and(Copies { below, upto: *upto });
        }
    }

    pub(super) fn old_segment_removed(&mut self, completion: Completion<H::File>) {
        let Some(Removing { segment, run }) = self.old_runs.removing.take() else { return };
        let gone = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
        if let Err(error) =
            completion.result.as_ref().map(|_| ()).or_else(|error| if gone(error) { Ok(()) } else { Err(error) })
        {
            let path = segment_path(&self.data_dir, segment.core, segment.number);
            tracing::warn!(%error, path = %path.display(), "a segment in which nothing counts any more cannot be removed yet");
            self.old_runs.retry_at = self.now().plus_ms(RETRY_MS);
            return;
        }
        reach(Mark::OldSegmentRemoved);
        let replaced_upto = self.old_runs.emptied.remove(&segment).unwrap_or_default().replaced_upto;
        for at in 0..self.old_runs.runs.len() {
            if self.old_runs.runs[at].segments.contains(&segment) {
                self.old_runs.runs[at].segments.retain(|left| *left != segment);
                self.shorten_run(at, segment, replaced_upto);
            }
        }
        self.old_runs.runs.retain(|run| !run.segments.is_empty());
        for core in &mut self.cores {
            core.send(ToCore::ForgetOldSegment(segment));
        }
        // A read that was under way may have opened it once more.
        self.segment_files.retain(|file, _| (file.core, file.number) != (segment.core, segment.number));
        self.follow_anew(run);
    }

    /// Whoever came while a segment went that it lacks was told of a log that is no more: it has to ask again.
    fn follow_anew(&mut self, run: Incarnation) {
        let lacking: BTreeSet<NodeId> =
            self.present_followers().into_iter().filter(|node| !self.holds_run(*node, run)).collect();
        for (_, link) in &mut self.links {
            let of_it = link.hello().is_some_and(|hello| lacking.contains(&hello.node));
            link.broken |= of_it && matches!(link.role, Role::Serving { .. });
        }
    }

    /// A segment of the run is gone: its log begins later, or is over.
    fn shorten_run(&mut self, at: usize, segment: SegmentId, replaced_upto: Version) {
        let run = &self.old_runs.runs[at];
        let log = log_id(self.facts.node, run.incarnation);
        if run.segments.is_empty() {
            self.logs.logs.retain(|own| own.id != log);
        } else if let Some(own) = self.logs.logs.iter_mut().find(|own| own.id == log) {
            own.lose_beginning(segment, replaced_upto);
        }
    }
}
