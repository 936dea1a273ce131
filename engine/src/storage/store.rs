//! Merge and read: which record of a key counts, and whether it is there to be seen.

mod image;
mod memory;
mod part;

use std::cell::Cell;
use std::collections::BTreeMap;

use bytes::Bytes;
use wal::marks::{Mark, reach};
use wal::planted::{self, Fault};
use wal::{EPOCH_2020_UNIX_MS, Lsn, Mapping, NodeId, RecordOp, RecordView, Version};

use super::KeyHash;
use super::fetched::Fetched as FetchedRecords;
use super::graves::{Buried, Grave, Graves};
use super::index::{Index, Location, ScanPosition, SegmentSlot, Slot, SlotRef};

pub use image::{KnownSegments, SegmentCounts, StoreCounts};
pub use memory::{Fetch, Fetched, Unreadable};

/// A segment that index entries may name.
#[derive(Debug)]
struct KnownSegment<M> {
    /// Its bytes, while they are in memory.
    map: Option<M>,
    file_bytes: u64,
    /// Tells it from earlier segments of the same slot.
    epoch: u32,
    /// Reads lately, whether it was in memory or not.
    uses: Cell<u32>,
    /// Its first byte's position when it belongs to the running incarnation; retired ones are durable throughout.
    base: Option<Lsn>,
    /// Index entries that name it, and records held back in it.
    entries: u32,
    /// Bytes of those records, with their padding.
    live_bytes: u64,
    /// Holds records of other nodes for those who follow this node's log: they superseded what compaction left out.
    stands_for_own: bool,
    /// A record that this node originated, and that lies here, lost against another node's. Whoever follows only this node's log
    /// would miss the winner if the loser were gone.
    lost_to_others: bool,
    /// The highest version that superseded a record here.
    replaced_upto: Version,
}

impl<M: Mapping> KnownSegment<M> {
    /// One in which nothing counts yet.
    fn new(map: M, base: Option<Lsn>, epoch: u32) -> KnownSegment<M> {
        KnownSegment {
            file_bytes: map.len() as u64,
            map: Some(map),
            epoch,
            uses: Cell::new(0),
            base,
            entries: 0,
            live_bytes: 0,
            stands_for_own: false,
            lost_to_others: false,
            replaced_upto: Version::ZERO,
        }
    }
}

/// What [`Store::judge`] found. Valid until the next change of the store.
#[derive(Clone, Copy, Debug)]
pub enum Verdict {
    /// No record of this key yet.
    First,
    /// Newer than the present one, which is this, or equal and winning the tie by crc and bytes.
    Newer(SlotRef, Facts),
    /// Older than the present one, which is this, or losing the tie.
    Older(SlotRef, Facts),
    /// The very same record is here already. It need not be durable yet.
    Same,
}

/// The index with its segments, and what DBSIZE has to know.
#[derive(Debug)]
pub struct Store<M> {
    own: NodeId,
    index: Index,
    /// By slot; a slot whose segment was removed is used again.
    segments: Vec<Option<KnownSegment<M>>>,
    free: Vec<SegmentSlot>,
    /// Segments that were ever added.
    epochs: u32,
    /// Segments that are not in memory.
    cold: usize,
    /// Bytes of those that are.
    mapped_bytes: u64,
    /// Records of them that are.
    fetched: FetchedRecords,
    live: u64,
    /// Bytes of all records that entries name, or that are held back.
    live_bytes: u64,
    /// Live records by expiry, until the clock passes it.
    expiring: BTreeMap<u64, u64>,
    expired_through_unix_ms: u64,
    /// Everything that is in the index and cannot be read died below this, as far as it was seen to die.
    dead_upto: Version,
    graves: Graves,
    buried: Buried,
}

/// What the store has to know of a record beside its key: taken once, where the record is at hand.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Its place in the order of all writes.
    pub version: Version,
    /// Who wrote it.
    pub origin: NodeId,
    /// Whether it is a value, and not a tombstone.
    pub put: bool,
    /// From when on it is absent, in milliseconds since 1970.
    pub expiry: Option<u64>,
    /// Bytes it occupies in a log, with its padding.
    pub padded_len: u32,
}

impl Facts {
    /// Those of `record`.
    #[must_use]
    pub fn of(record: &RecordView<'_>) -> Facts {
        Facts {
            version: record.version,
            origin: record.origin,
            put: record.op == RecordOp::Put,
            expiry: record.expiry,
            padded_len: u32::try_from(record.padded_len()).expect("records fit a segment"),
        }
    }
}

impl Facts {
    /// Once everybody holds everything up to here, and has seen that time, nobody has to remember a record that cannot be read.
    #[must_use]
    pub fn dead_upto(self) -> Version {
        self.version.max(self.expiry.map_or(Version::ZERO, expired_at))
    }
}

/// The last version of the millisecond from which on something is absent.
fn expired_at(expiry_unix_ms: u64) -> Version {
    Version::new(expiry_unix_ms.saturating_sub(EPOCH_2020_UNIX_MS), 0x7ff, 0x7ff)
}

impl<M: Mapping> Store<M> {
    /// An empty store of `2^table_bits` tables, of the node `own`.
    #[must_use]
    pub fn new(table_bits: u32, own: NodeId) -> Self {
        Store {
            own,
            free: Vec::new(),
            index: Index::new(table_bits),
            segments: Vec::new(),
            epochs: 0,
            cold: 0,
            mapped_bytes: 0,
            fetched: FetchedRecords::default(),
            live: 0,
            live_bytes: 0,
            expiring: BTreeMap::new(),
            expired_through_unix_ms: 0,
            dead_upto: Version::ZERO,
            graves: Graves::default(),
            buried: Buried::default(),
        }
    }

    /// Makes a segment known. `base` is given for segments of the running incarnation.
    pub fn add_segment(&mut self, base: Option<Lsn>, map: M) -> SegmentSlot {
        self.epochs = self.epochs.wrapping_add(1);
        self.mapped_bytes += map.len() as u64;
        let known = Some(KnownSegment::new(map, base, self.epochs));
        if let Some(slot) = self.free.pop() {
            self.segments[slot.0 as usize] = known;
            return slot;
        }
        assert!(self.segments.len() < SegmentSlot::COUNT_MAX, "one core names at most 2^17 segments");
        let slot = SegmentSlot(u32::try_from(self.segments.len()).expect("bounded above"));
        self.segments.push(known);
        slot
    }

    /// Whether nothing in the segment counts any more: no entry names it, and every record of this node in it lost against a
    /// record of this node.
    #[must_use]
    pub fn is_dead(&self, slot: SegmentSlot) -> bool {
        let segment = self.known(slot);
        segment.entries == 0 && !segment.lost_to_others
    }

    /// The highest version that superseded a record in the segment.
    #[must_use]
    pub fn replaced_upto(&self, slot: SegmentSlot) -> Version {
        self.known(slot).replaced_upto
    }

    /// What superseded a record in the segment, if not at once, has this version.
    pub fn replaced_by(&mut self, slot: SegmentSlot, version: Version) {
        let segment = self.known_mut(slot);
        segment.replaced_upto = segment.replaced_upto.max(version);
    }

    /// Forgets a segment.
    ///
    /// # Panics
    /// If an entry names it.
    pub fn remove_segment(&mut self, slot: SegmentSlot) {
        assert_eq!(self.known(slot).entries, 0, "an index entry names a segment that is to be removed");
        if self.known(slot).map.is_none() {
            self.cold -= 1;
            self.fetched.forget(slot);
        } else {
            self.mapped_bytes -= self.known(slot).file_bytes;
        }
        self.segments[slot.0 as usize] = None;
        self.free.push(slot);
    }

    /// Counts a record of `padded_len` bytes that is kept without an entry.
    pub fn pin(&mut self, segment: SegmentSlot, padded_len: usize) {
        self.count_in(segment, padded_len as u64);
    }

    /// Undoes [`Store::pin`].
    pub fn unpin(&mut self, segment: SegmentSlot, padded_len: usize) {
        self.count_out(segment, padded_len as u64);
    }

    fn count_in(&mut self, slot: SegmentSlot, bytes: u64) {
        let segment = self.known_mut(slot);
        segment.entries += 1;
        segment.live_bytes += bytes;
        self.live_bytes += bytes;
    }

    fn count_out(&mut self, slot: SegmentSlot, bytes: u64) {
        let segment = self.known_mut(slot);
        segment.entries -= 1;
        segment.live_bytes -= bytes;
        self.live_bytes -= bytes;
    }

    /// Bytes of the records in the segment that count.
    #[must_use]
    pub fn live_bytes_in(&self, slot: SegmentSlot) -> u64 {
        self.known(slot).live_bytes
    }

    /// Bytes of all records that count.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Whether the key's entry names the record at `location`.
    #[must_use]
    pub fn is_named(&self, hash: KeyHash, location: Location) -> bool {
        self.find_at(hash, location).is_some()
    }

    /// Whether an entry of a key with this hash has that version. Of another key it may be once in 2^20 times two nodes' equal versions.
    #[must_use]
    pub fn has_version(&self, hash: KeyHash, version: Version) -> bool {
        self.index.find(hash.0, |slot| slot.version() == version).is_some()
    }

    fn find_at(&self, hash: KeyHash, location: Location) -> Option<(SlotRef, Slot)> {
        self.index.find(hash.0, |slot| {
            let there = slot.location();
            (there.segment, there.offset) == (location.segment, location.offset)
        })
    }

    /// A copy of the record at `from`, which an entry names, or its stub, was appended at `to`: that one counts now. Lengths are with
    /// padding; the old record is not looked at, since its segment may be in memory no more.
    ///
    /// # Panics
    /// If no entry names the record at `from`.
    pub fn relocate(&mut self, hash: KeyHash, (from, from_len): (Location, usize), (to, to_len): (Location, usize)) {
        let (at, slot) = self.find_at(hash, from).expect("only a record that an entry names is moved");
        self.index.replace(at, to, slot.version());
        self.count_out(from.segment, from_len as u64);
        self.count_in(to.segment, to_len as u64);
        self.bury(hash, from.segment);
    }

    /// The key's record in the segment is not the one that counts any more.
    fn bury(&mut self, hash: KeyHash, slot: SegmentSlot) {
        if self.known(slot).base.is_none() {
            self.buried.insert(hash);
        }
    }

    /// Whether an older record of the key may lie in a file of an earlier run.
    #[must_use]
    pub fn may_be_buried(&self, hash: KeyHash) -> bool {
        self.buried.may_hold(hash)
    }

    /// No file of an earlier run is left.
    pub fn nothing_is_old(&mut self) {
        self.buried.clear();
        self.graves.nothing_is_old();
    }

    /// Whether the record that an entry names stands behind `location` in the running log.
    #[must_use]
    pub fn is_behind(&self, at: SlotRef, location: Location) -> bool {
        let place = |location: Location| Some((self.known(location.segment).base?, location.offset));
        place(self.index.slot(at).location()) > place(location)
    }

    /// Whether a segment belongs to the running incarnation.
    #[must_use]
    pub fn is_of_this_run(&self, slot: SegmentSlot) -> bool {
        self.known(slot).base.is_some()
    }

    /// An entry names the tombstone at `location` now.
    pub fn note_grave(&mut self, hash: KeyHash, version: Version, location: Location, padded_len: usize) {
        let padded_len = u32::try_from(padded_len).expect("records fit a segment");
        self.graves.note(Grave { version, hash, location, padded_len });
    }

    /// The oldest tombstone that was noted, if it is at most this old; the key may have another record by now.
    pub fn next_grave(&mut self, upto: Version) -> Option<Grave> {
        self.graves.next(upto)
    }

    /// Whether an entry still names that tombstone. Its segment's slot and its place there may be another record's by now, of the same key.
    #[must_use]
    pub fn is_current(&self, grave: &Grave) -> bool {
        self.find_at(grave.hash, grave.location).is_some_and(|(_, slot)| slot.version() == grave.version)
    }

    /// One has to stay while files of earlier runs are there.
    pub fn keep_grave(&mut self, grave: Grave) {
        self.graves.keep(grave);
    }

    /// Forgets the key whose entry names the tombstone, or the record that had expired before, of `padded_len` bytes at `location`.
    ///
    /// # Panics
    /// If no entry names it.
    pub fn drop_dead(&mut self, hash: KeyHash, location: Location, padded_len: usize) {
        let (at, _) = self.find_at(hash, location).expect("only a record that an entry names is dropped");
        self.index.remove(at);
        self.count_out(location.segment, padded_len as u64);
    }

    /// Recovery found the record that the key's entry names once more, in the copy at `to`: that one counts now.
    pub fn moved_to(&mut self, hash: KeyHash, record: &RecordView<'_>, to: Location) {
        let Some((_, slot, present)) = self.find_facts(hash, record.key) else { return };
        self.relocate(hash, (slot.location(), present.padded_len as usize), (to, record.padded_len()));
    }

    /// The record that a key's entry names: where it lies, and what it is.
    #[must_use]
    pub fn present(&self, hash: KeyHash, key: &[u8]) -> Option<(Location, Facts)> {
        let (_, slot, facts) = self.find_facts(hash, key)?;
        Some((slot.location(), facts))
    }

    /// The segment holds a record of another node that whoever follows this node's log has to be sent.
    pub fn stands_for_own(&mut self, slot: SegmentSlot) {
        self.known_mut(slot).stands_for_own = true;
    }

    /// What superseded this node's records in the segment is where whoever follows this node's log is sent it.
    pub fn losses_are_covered(&mut self, slot: SegmentSlot) {
        self.known_mut(slot).lost_to_others = false;
    }

    /// Whether a record that whoever follows this node's log counts on lost against another node's.
    #[must_use]
    pub fn has_losses(&self, slot: SegmentSlot) -> bool {
        self.known(slot).lost_to_others
    }

    fn known(&self, slot: SegmentSlot) -> &KnownSegment<M> {
        self.segments[slot.0 as usize].as_ref().expect("a segment is known for as long as something names it")
    }

    fn known_mut(&mut self, slot: SegmentSlot) -> &mut KnownSegment<M> {
        self.segments[slot.0 as usize].as_mut().expect("a segment is known for as long as something names it")
    }

    /// Keys that can be read at `now`, which must not step back.
    pub fn live(&mut self, now_unix_ms: u64) -> u64 {
        self.advance_expiry(now_unix_ms);
        self.live
    }

    /// Below which version everything in the index died that cannot be read at `now`; zero if all of it can be read.
    pub fn dead_upto(&mut self, now_unix_ms: u64) -> Version {
        let dead = (self.index.len() as u64).saturating_sub(self.live(now_unix_ms));
        if dead == 0 { Version::ZERO } else { self.dead_upto }
    }

    /// Entries, tombstones included.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.index.len()
    }

    /// Bytes of memory held by the index.
    #[must_use]
    pub fn index_bytes(&self) -> usize {
        self.index.memory_bytes()
    }

    /// A position anywhere in scan order, chosen by `random`.
    #[must_use]
    pub fn scan_position(&self, random: u64) -> ScanPosition {
        self.index.position(random)
    }

    fn advance_expiry(&mut self, now_unix_ms: u64) {
        while let Some((&expiry, &count)) = self.expiring.first_key_value() {
            if expiry > now_unix_ms {
                break;
            }
            self.live -= count;
            self.expiring.pop_first();
            self.dead_upto = self.dead_upto.max(expired_at(expiry));
        }
        self.expired_through_unix_ms = self.expired_through_unix_ms.max(now_unix_ms);
    }

    /// Runs `read` on the record at `location`.
    ///
    /// # Panics
    /// If it is not in memory; see [`Store::missing`].
    #[inline]
    pub fn with_record<R>(&self, location: Location, read: impl FnOnce(&RecordView<'_>) -> R) -> R {
        let segment = self.known(location.segment);
        segment.uses.set(segment.uses.get().saturating_add(1));
        let read_bytes = |bytes: &[u8]| {
            let record = RecordView::parse_trusted(bytes).expect(
                "an index entry points at a record that was verified when it was written, recovered or fetched",
            );
            read(&record)
        };
        match &segment.map {
            Some(map) => map.with(location.offset as usize..map.len(), read_bytes),
            None => {
                read_bytes(self.fetched.get(location).expect("what is not in memory is fetched before it is looked at"))
            }
        }
    }

    /// The end of the record in the running incarnation's log; `None` if it was recovered, hence durable.
    fn end_lsn(&self, location: Location, padded_len: usize) -> Option<Lsn> {
        self.known(location.segment).base.map(|base| Lsn(base.0 + u64::from(location.offset) + padded_len as u64))
    }

    fn find(&self, hash: KeyHash, key: &[u8]) -> Option<(SlotRef, Slot)> {
        self.index.find(hash.0, |slot| self.with_record(slot.location(), |record| record.key == key))
    }

    /// As `find`, with what the record there is.
    fn find_facts(&self, hash: KeyHash, key: &[u8]) -> Option<(SlotRef, Slot, Facts)> {
        let mut facts = None;
        let is_key = |slot: Slot| {
            self.with_record(slot.location(), |record| {
                let same = record.key == key;
                if same {
                    facts = Some(Facts::of(record));
                }
                same
            })
        };
        let (at, slot) = self.index.find(hash.0, is_key)?;
        facts.map(|facts| (at, slot, facts))
    }

    /// The present record of `key`, tombstones and expired ones included: what `read` makes of it, its version, and
    /// the position that has to be durable before it may be shown.
    pub fn read<R>(
        &self,
        hash: KeyHash,
        key: &[u8],
        read: impl FnOnce(&RecordView<'_>) -> R,
    ) -> Option<(R, Version, Option<Lsn>)> {
        let (_, slot) = self.find(hash, key)?;
        let location = slot.location();
        let (result, padded_len) =
            self.with_record(location, |record| (read(record), record.bytes.len().next_multiple_of(8)));
        Some((result, slot.version(), self.end_lsn(location, padded_len)))
    }

    /// The value of `key` as bytes pinned in their segment, if `wanted` and at least `len_min` bytes long.
    pub fn large_value(
        &self,
        hash: KeyHash,
        key: &[u8],
        len_min: usize,
        wanted: impl FnOnce(&RecordView<'_>) -> bool,
    ) -> Option<(Bytes, Lsn)> {
        let (_, slot) = self.find(hash, key)?;
        let location = slot.location();
        if (location.len_max as usize) < len_min {
            return None;
        }
        let (record_len, value_len) = self.with_record(location, |record| {
            let wanted = record.value.len() >= len_min && wanted(record);
            wanted.then_some((record.bytes.len(), record.value.len()))
        })?;
        let end = location.offset as usize + record_len;
        let value = match &self.known(location.segment).map {
            Some(map) => map.bytes(end - value_len..end),
            None => self.fetched.get(location)?.slice(record_len - value_len..record_len),
        };
        Some((value, self.end_lsn(location, record_len.next_multiple_of(8)).unwrap_or(Lsn(0))))
    }

    /// Compares an incoming record with the present one.
    #[must_use]
    pub fn judge(&self, hash: KeyHash, incoming: &RecordView<'_>) -> Verdict {
        let Some((at, slot, present)) = self.find_facts(hash, incoming.key) else { return Verdict::First };
        match incoming.version.cmp(&slot.version()) {
            std::cmp::Ordering::Greater => Verdict::Newer(at, present),
            std::cmp::Ordering::Less => Verdict::Older(at, present),
            std::cmp::Ordering::Equal if planted::is(Fault::EqualVersionIsSame) => Verdict::Same,
            std::cmp::Ordering::Equal => self.with_record(slot.location(), |record| {
                let crcs = incoming.original_crc().cmp(&record.original_crc());
                // Of a stub's record no more is known than its crc.
                let bytes = match incoming.is_stub() || record.is_stub() {
                    true => std::cmp::Ordering::Equal,
                    false => incoming.bytes.cmp(record.bytes),
                };
                // The tie of DESIGN §6.
                match crcs.then(bytes) {
                    std::cmp::Ordering::Greater => {
                        reach(Mark::TieWonByArrival);
                        Verdict::Newer(at, present)
                    }
                    std::cmp::Ordering::Less => {
                        reach(Mark::TieWonByPresent);
                        if planted::is(Fault::LaterArrivalWinsTie) {
                            return Verdict::Newer(at, present);
                        }
                        Verdict::Older(at, present)
                    }
                    std::cmp::Ordering::Equal => Verdict::Same,
                }
            }),
        }
    }

    /// The verdict for a record that the log already holds at `location`, and what it is.
    #[must_use]
    pub fn judge_at(&self, hash: KeyHash, location: Location) -> (Verdict, Facts) {
        // A copy, because a mapping lends its bytes to one reader at a time.
        let bytes = self.with_record(location, |record| record.bytes.to_vec());
        let record = RecordView::parse_trusted(&bytes).expect("copied from a verified record");
        (self.judge(hash, &record), Facts::of(&record))
    }

    /// The verdict for a record that is known to be newer than anything here.
    #[must_use]
    pub fn judge_newest(&self, hash: KeyHash, key: &[u8], version: Version) -> Verdict {
        match self.find_facts(hash, key) {
            None => Verdict::First,
            Some((at, slot, present)) => {
                assert!(version > slot.version(), "the clock is above every version in the store");
                Verdict::Newer(at, present)
            }
        }
    }

    /// Puts a record that was appended at `location`, and is this, in the place that `verdict` found for it.
    pub fn install(&mut self, hash: KeyHash, verdict: Verdict, location: Location, record: Facts) {
        match verdict {
            Verdict::First => self.index.insert(hash.0, location, record.version),
            Verdict::Newer(at, present) => {
                let slot = self.index.slot(at).location().segment;
                self.count(present, false);
                self.count_out(slot, u64::from(present.padded_len));
                self.lost(slot, present, record);
                self.index.replace(at, location, record.version);
                self.bury(hash, slot);
            }
            Verdict::Older(_, present) => {
                self.lost(location.segment, record, present);
                return;
            }
            Verdict::Same => return,
        }
        self.count_in(location.segment, u64::from(record.padded_len));
        self.count(record, true);
        if !record.put && self.known(location.segment).base.is_some() {
            self.note_grave(hash, record.version, location, record.padded_len as usize);
        }
    }

    /// For scenarios: forgets the present record of a key, as a fault of the memory or of this program would. Whether there was one.
    pub fn lose(&mut self, hash: KeyHash, key: &[u8]) -> bool {
        let Some((at, slot, present)) = self.find_facts(hash, key) else { return false };
        self.count(present, false);
        self.count_out(slot.location().segment, u64::from(present.padded_len));
        self.index.remove(at);
        true
    }

    /// A record in the segment lost against another one.
    fn lost(&mut self, slot: SegmentSlot, loser: Facts, winner: Facts) {
        let own = self.own;
        let segment = self.known_mut(slot);
        segment.lost_to_others |= (loser.origin == own || segment.stands_for_own) && winner.origin != own;
        segment.replaced_upto = segment.replaced_upto.max(winner.version);
    }

    fn count(&mut self, liveness: Facts, add: bool) {
        if !liveness.put || liveness.expiry.is_some_and(|expiry| expiry <= self.expired_through_unix_ms) {
            if add {
                self.dead_upto = self.dead_upto.max(liveness.dead_upto());
            }
            return;
        }
        if add {
            self.live += 1
        } else {
            self.live -= 1
        }
        if let Some(expiry) = liveness.expiry {
            let count = self.expiring.entry(expiry).or_insert(0);
            if add {
                *count += 1
            } else {
                *count -= 1
            }
            if *count == 0 {
                self.expiring.remove(&expiry);
            }
        }
    }

    /// Visits records in index order; see [`Index::scan`]. Those that cannot be read are left out.
    ///
    /// # Panics
    /// If one is not in memory; see [`Store::missing_in_scan`].
    pub fn scan(
        &self,
        from: ScanPosition,
        at_least: usize,
        mut visit: impl FnMut(&RecordView<'_>),
    ) -> Option<ScanPosition> {
        self.index.scan(from, at_least, |slot| {
            if self.cold == 0 || !self.is_unreadable(slot.location()) {
                self.with_record(slot.location(), &mut visit);
            }
        })
    }
}
