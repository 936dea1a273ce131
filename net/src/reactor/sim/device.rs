//! Sectors of a simulated device: which of them a sync has to write, and which survive a power cut.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::file::{DirectoryOp, DiskState, Inode, SimFile, lock};
use super::random::Random;

/// The unit that a power cut keeps or loses.
pub const SECTOR_BYTES: usize = 512;
/// Sectors that are compared at once: almost all pages are clean.
const PAGE_SECTORS: usize = 8;

/// Copies of sectors of one file, ascending, and the file's length then.
pub(super) struct Sectors {
    pub(super) inode: u64,
    indices: Vec<usize>,
    /// [`SECTOR_BYTES`] each; zeros beyond the end of the file.
    bytes: Vec<u8>,
    len: usize,
}

impl Sectors {
    pub(super) fn none(inode: u64) -> Sectors {
        Sectors { inode, indices: Vec::new(), bytes: Vec::new(), len: 0 }
    }

    fn push(&mut self, index: usize, content: &[u8]) {
        self.indices.push(index);
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.indices.len() * SECTOR_BYTES, 0);
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &[u8])> {
        self.indices.iter().copied().zip(self.bytes.chunks_exact(SECTOR_BYTES))
    }

    /// Somebody wrote a newer content of this sector.
    fn forget(&mut self, index: usize) {
        if let Ok(at) = self.indices.binary_search(&index) {
            self.indices.remove(at);
            self.bytes.drain(at * SECTOR_BYTES..(at + 1) * SECTOR_BYTES);
        }
    }
}

/// The `index`-th sector of `bytes`, cut off at their end.
pub(super) fn sector(bytes: &[u8], index: usize) -> &[u8] {
    sectors(bytes, index..index + 1)
}

fn sectors(bytes: &[u8], range: Range<usize>) -> &[u8] {
    let start = (range.start * SECTOR_BYTES).min(bytes.len());
    let end = (range.end * SECTOR_BYTES).min(bytes.len());
    &bytes[start..end]
}

/// Equal, with zeros beyond their ends.
fn is_same(left: &[u8], right: &[u8]) -> bool {
    let common = left.len().min(right.len());
    left[..common] == right[..common] && is_zero(&left[common..]) && is_zero(&right[common..])
}

fn is_zero(bytes: &[u8]) -> bool {
    // Comparing is faster than looking at each byte.
    static ZEROS: [u8; PAGE_SECTORS * SECTOR_BYTES] = [0; PAGE_SECTORS * SECTOR_BYTES];
    bytes.chunks(ZEROS.len()).all(|chunk| *chunk == ZEROS[..chunk.len()])
}

/// Overwrites a sector; what lies beyond the end of `bytes` is dropped.
pub(super) fn put_sector(bytes: &mut [u8], index: usize, content: &[u8]) {
    let start = (index * SECTOR_BYTES).min(bytes.len());
    let end = (start + SECTOR_BYTES).min(bytes.len());
    let room = &mut bytes[start..end];
    let len = room.len().min(content.len());
    room[..len].copy_from_slice(&content[..len]);
    room[len..].fill(0);
}

/// Calls `found` with each sector in `range` of `live` that the device holds otherwise.
fn each_difference(live: &[u8], durable: &[u8], range: Range<usize>, mut found: impl FnMut(usize, &[u8])) {
    let end = range.end.min(live.len().div_ceil(SECTOR_BYTES));
    let mut at = range.start;
    while at < end {
        let next = (at + PAGE_SECTORS).min(end);
        if !is_same(sectors(live, at..next), sectors(durable, at..next)) {
            for index in at..next {
                if !is_same(sector(live, index), sector(durable, index)) {
                    found(index, sector(live, index));
                }
            }
        }
        at = next;
    }
}

/// Writes a random subset of `sectors`; the length grows with the first that needs it. Returns which were written.
fn keep_some(durable: &mut Vec<u8>, sectors: &Sectors, random: &mut Random) -> Vec<usize> {
    if durable.len() < sectors.len && random.coin() {
        durable.resize(sectors.len, 0);
    }
    let mut written = Vec::new();
    for (index, content) in sectors.iter() {
        if !is_same(sector(durable, index), content) && random.coin() {
            let end = ((index + 1) * SECTOR_BYTES).min(sectors.len);
            if durable.len() < end {
                durable.resize(end, 0);
            }
            put_sector(durable, index, content);
            written.push(index);
        }
    }
    written
}

/// Which state of a disk [`super::World::copy_disk`] takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskCopy {
    /// What a power cut at this moment could leave, drawn at random.
    Crashed,
    /// Exactly what programs see.
    Live,
}

/// The contents of a disk: a backup of a virtual machine, say. Clones share the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskImage {
    files: BTreeMap<PathBuf, Bytes>,
    directories: BTreeSet<PathBuf>,
}

impl Inode {
    /// What the page cache holds otherwise than the device, without what the kernel calls clean.
    fn dirty(&self, id: u64, range: Range<usize>) -> Sectors {
        let live = lock(&self.live);
        let mut dirty = Sectors { len: live.len(), ..Sectors::none(id) };
        each_difference(&live, &self.durable, range, |index, now| {
            if self.lost.get(&index).is_none_or(|lost| !is_same(lost, now)) {
                dirty.push(index, now);
            }
        });
        dirty
    }

    fn after_power_cut(&self, id: u64, syncing: &BTreeMap<u64, Sectors>, random: &mut Random) -> Vec<u8> {
        let mut durable = self.durable.clone();
        // What was being written may have reached the device …
        for sectors in syncing.values().filter(|sectors| sectors.inode == id) {
            keep_some(&mut durable, sectors, random);
        }
        // … and the kernel may have written back anything that it held, on its own.
        let live = lock(&self.live);
        let mut held = Sectors { len: live.len(), ..Sectors::none(id) };
        each_difference(&live, &durable, 0..usize::MAX, |index, now| {
            if self.lost.get(&index).is_none_or(|lost| !is_same(lost, now)) {
                held.push(index, now);
            }
        });
        drop(live);
        keep_some(&mut durable, &held, random);
        durable
    }
}

impl DiskState {
    /// What a sync that starts now has to write. Outside the range nothing is, though a kernel writes whole pages.
    fn dirty(&self, inode: u64, range: Option<Range<u64>>) -> Sectors {
        let index = |sector: u64| usize::try_from(sector).unwrap_or(usize::MAX);
        let sector_bytes = SECTOR_BYTES as u64;
        let range = range
            .map_or(0..usize::MAX, |range| index(range.start / sector_bytes)..index(range.end.div_ceil(sector_bytes)));
        self.inodes.get(&inode).map_or_else(|| Sectors::none(inode), |file| file.dirty(inode, range))
    }

    /// Starts the sync `id`: what is live now in the range will be durable at its end.
    pub(super) fn start_sync(&mut self, id: u64, inode: u64, range: Option<Range<u64>>) {
        let dirty = self.dirty(inode, range);
        self.syncing.insert(id, dirty);
    }

    /// Ends the sync `id`.
    pub(super) fn end_sync(&mut self, id: u64) -> io::Result<()> {
        match self.syncing.remove(&id) {
            Some(dirty) => self.finish_sync(id, dirty),
            None => Ok(()),
        }
    }

    /// A whole sync at once.
    pub(super) fn sync_now(&mut self, inode: u64) -> io::Result<()> {
        let dirty = self.dirty(inode, None);
        self.finish_sync(u64::MAX, dirty)
    }

    /// Writes what the sync `id` found dirty. A sync that began earlier and still runs (of a killed process, say) must not
    /// bring older bytes back afterwards.
    fn finish_sync(&mut self, id: u64, dirty: Sectors) -> io::Result<()> {
        let failed = std::mem::take(&mut self.fail_next_sync);
        let Some(inode) = self.inodes.get_mut(&dirty.inode) else { return Ok(()) };
        if failed {
            inode.lost.extend(dirty.iter().map(|(index, content)| (index, content.to_vec())));
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        if inode.durable.len() < dirty.len {
            inode.durable.resize(dirty.len, 0);
        }
        for (index, content) in dirty.iter() {
            put_sector(&mut inode.durable, index, content);
            inode.lost.remove(&index);
        }
        self.outdate(dirty.inode, &dirty.indices, id);
        Ok(())
    }

    /// Syncs before `id` no longer have these sectors to write.
    fn outdate(&mut self, inode: u64, indices: &[usize], id: u64) {
        for (_, earlier) in self.syncing.range_mut(..id).filter(|(_, earlier)| earlier.inode == inode) {
            for index in indices {
                earlier.forget(*index);
            }
        }
    }

    /// The kernel writes some dirty sectors back, of its own accord.
    pub(super) fn write_back(&mut self, random: &mut Random) {
        let ids: Vec<u64> = self.inodes.keys().copied().collect();
        for id in ids {
            let Some(inode) = self.inodes.get_mut(&id) else { continue };
            let dirty = inode.dirty(id, 0..usize::MAX);
            let written = keep_some(&mut inode.durable, &dirty, random);
            for index in &written {
                inode.lost.remove(index);
            }
            self.outdate(id, &written, u64::MAX);
        }
    }

    /// A write at `start` that fails: nothing or some of its sectors got to the device, and are what reads show now. The
    /// file does not grow.
    pub(super) fn fail_write(&mut self, file: &SimFile, start: usize, bytes: &[u8], random: &mut Random) {
        let nothing = random.coin();
        let mut live = lock(&file.live);
        let end = start.saturating_add(bytes.len()).min(live.len());
        if nothing || start >= end {
            return;
        }
        let mut written = Vec::new();
        let inode = self.inodes.get_mut(&file.inode);
        for index in (start / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES)).filter(|_| random.coin()) {
            let from = start.max(index * SECTOR_BYTES);
            let to = end.min((index + 1) * SECTOR_BYTES);
            live[from..to].copy_from_slice(&bytes[from - start..to - start]);
            written.push(index);
        }
        if let Some(inode) = inode {
            for index in &written {
                let content_end = ((index + 1) * SECTOR_BYTES).min(live.len());
                if inode.durable.len() < content_end {
                    inode.durable.resize(content_end, 0);
                }
                put_sector(&mut inode.durable, *index, sector(&live, *index));
                inode.lost.remove(index);
            }
        }
        drop(live);
        self.outdate(file.inode, &written, u64::MAX);
    }

    fn entries_after_power_cut(&self, random: &mut Random) -> BTreeMap<PathBuf, u64> {
        let mut entries = self.durable_entries.clone();
        for (_, op) in &self.unsynced {
            if random.coin() {
                op.apply(&mut entries);
            }
        }
        entries
    }

    /// Power is lost: every un-synced directory operation and every un-synced sector independently survives or does
    /// not.
    pub(super) fn crash(&mut self, random: &mut Random) {
        self.entries = self.entries_after_power_cut(random);
        self.durable_entries.clone_from(&self.entries);
        self.unsynced.clear();
        self.locks.clear();
        self.disarm();
        let kept: BTreeSet<u64> = self.entries.values().copied().collect();
        self.inodes.retain(|id, _| kept.contains(id));
        let syncing = std::mem::take(&mut self.syncing);
        for (id, inode) in &mut self.inodes {
            inode.durable = inode.after_power_cut(*id, &syncing, random);
            // Handles of the dead process keep the old bytes; nobody reads them again.
            inode.live = Arc::new(Mutex::new(inode.durable.clone()));
            inode.lost.clear();
        }
    }

    /// The process is dead in the middle of its turn: what it still stores through its mappings goes nowhere.
    pub(super) fn detach_mappings(&mut self) {
        for inode in self.inodes.values_mut() {
            let copy = lock(&inode.live).clone();
            inode.live = Arc::new(Mutex::new(copy));
        }
    }

    pub(super) fn copy(&self, what: DiskCopy, random: &mut Random) -> DiskImage {
        let entries = match what {
            DiskCopy::Crashed => self.entries_after_power_cut(random),
            DiskCopy::Live => self.entries.clone(),
        };
        let files = entries.into_iter().filter_map(|(path, id)| {
            let inode = self.inodes.get(&id)?;
            let bytes = match what {
                DiskCopy::Crashed => inode.after_power_cut(id, &self.syncing, random),
                DiskCopy::Live => lock(&inode.live).clone(),
            };
            Some((path, Bytes::from(bytes)))
        });
        DiskImage { files: files.collect(), directories: self.directories.clone() }
    }

    /// The disk is another one, with these contents.
    pub(super) fn restore(&mut self, image: &DiskImage) {
        self.wipe();
        self.directories.clone_from(&image.directories);
        for (path, bytes) in &image.files {
            self.next_inode += 1;
            let inode =
                Inode { live: Arc::new(Mutex::new(bytes.to_vec())), durable: bytes.to_vec(), lost: BTreeMap::new() };
            self.inodes.insert(self.next_inode, inode);
            self.entries.insert(path.clone(), self.next_inode);
        }
        self.durable_entries.clone_from(&self.entries);
    }

    /// Rot: the bits of `mask` flip at `offset`, on the device and in the cache.
    pub(super) fn rot(&mut self, path: &Path, offset: usize, mask: u8) -> io::Result<()> {
        let file = self.open(path)?;
        let inode = self.inodes.get_mut(&file.inode).ok_or(io::ErrorKind::NotFound)?;
        for bytes in [&mut inode.durable, &mut *lock(&file.live)] {
            *bytes.get_mut(offset).ok_or(io::ErrorKind::UnexpectedEof)? ^= mask;
        }
        Ok(())
    }

    /// A sector's content lies over another one, on the device and in the cache.
    pub(super) fn misplace(&mut self, from: (&Path, usize), to: (&Path, usize)) -> io::Result<()> {
        let (source, target) = (self.open(from.0)?, self.open(to.0)?);
        let whole = |bytes: &[u8], index| sector(bytes, index).len() == SECTOR_BYTES;
        let inode = self.inodes.get(&source.inode).ok_or(io::ErrorKind::NotFound)?;
        let content = sector(&inode.durable, from.1).to_vec();
        let inode = self.inodes.get_mut(&target.inode).ok_or(io::ErrorKind::NotFound)?;
        let mut live = lock(&target.live);
        if content.len() != SECTOR_BYTES || !whole(&inode.durable, to.1) || !whole(&live, to.1) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        put_sector(&mut inode.durable, to.1, &content);
        put_sector(&mut live, to.1, &content);
        Ok(())
    }
}

impl DirectoryOp {
    pub(super) fn apply(&self, entries: &mut BTreeMap<PathBuf, u64>) {
        match self {
            DirectoryOp::Link(path, inode) => {
                entries.insert(path.clone(), *inode);
            }
            DirectoryOp::Rename(from, to, inode) => {
                if entries.get(from) == Some(inode) {
                    entries.remove(from);
                }
                entries.insert(to.clone(), *inode);
            }
            DirectoryOp::Unlink(path) => {
                entries.remove(path);
            }
        }
    }
}
