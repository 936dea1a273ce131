//! Segments as memory: a mapped file, or plain memory for the simulator.
//!
//! # Why this module needs unsafe code
//! The log appends by storing into a mapping while earlier bytes of the same mapping are being sent to sockets by other
//! threads. Rust can only say that with raw pointers. The argument why that is sound:
//!
//! 1. A segment has exactly one writer, the `Log` it was given to, which is confined to one thread.
//! 2. The writer stores every byte once per use of the file, always at or above its *staged* position, except for the 64 bytes
//!    of a frame header, which it skips when it opens the frame and stores once when the group is sealed.
//! 3. Bytes are lent ([`Mapping::bytes`], [`Mapping::with`]) to be read as records or payloads of sealed frames: below the staged
//!    position and outside the header of an open frame. `with` may lend more, up to the end of the segment, but only for
//!    the duration of a call on the writer's own thread, during which nothing is stored.
//! 4. The file is never truncated while it is mapped, and no other process writes it: the data directory is locked.
//!
//! Hence no byte is stored while a reference to it exists.
#![allow(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use memmap2::{Advice, MmapOptions, MmapRaw, UncheckedAdvice};

/// A segment's bytes. Cheap to clone; clones are the same memory.
pub trait Mapping: Clone + fmt::Debug {
    /// Length in bytes.
    fn len(&self) -> usize;

    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Stores `bytes` at `offset`. See the module documentation for who may.
    ///
    /// # Panics
    /// If they do not fit.
    fn store(&self, offset: usize, bytes: &[u8]) {
        self.store_with(offset, bytes.len(), |target| target.copy_from_slice(bytes));
    }

    /// Lets `fill` write `len` bytes at `offset`; it must fill all of them and use no clone of this mapping meanwhile.
    ///
    /// # Panics
    /// If they do not fit.
    fn store_with<R>(&self, offset: usize, len: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R;

    /// Bytes that stay readable, pinning the memory, for as long as they are kept. Only for bytes that are never stored again.
    ///
    /// # Panics
    /// If the range is not inside the mapping.
    fn bytes(&self, range: Range<usize>) -> Bytes;

    /// Lends bytes to `read`, which must not use this mapping otherwise.
    ///
    /// # Panics
    /// If the range is not inside the mapping.
    fn with<R>(&self, range: Range<usize>, read: impl FnOnce(&[u8]) -> R) -> R;

    /// Makes the pages of the range present, so that the first store does not wait for the disk. A hint: errors are ignored.
    fn populate(&self, range: Range<usize>, how: Populate);

    /// Everything that was stored is on the disk: memory that only this process holds may be given back. The bytes stay as they
    /// are.
    fn settle(&self);

    /// Whether nobody else holds a clone or bytes that were lent: the file may then be used again for other bytes.
    fn is_unique(&self) -> bool;
}

/// What [`Mapping::populate`] prepares pages for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Populate {
    /// The first store still costs a fault. Nothing becomes dirty: for logs whose syncs write whole files.
    Reading,
    /// The first store costs nothing. The pages are dirty from now on: for logs whose syncs write what they are asked to.
    Writing,
}

/// How a file is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sharing {
    /// Stores reach the page cache of the file.
    Shared,
    /// Stores stay in memory of the process; somebody else writes them to the file.
    Private,
}

/// A file mapped for reading and writing.
#[derive(Clone)]
pub struct MappedFile {
    map: Arc<MmapRaw>,
    sharing: Sharing,
}

impl fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MappedFile").field("len", &self.map.len()).finish()
    }
}

/// Part of a mapped file, kept mapped for as long as this exists.
struct PinnedRange {
    map: Arc<MmapRaw>,
    range: Range<usize>,
}

impl AsRef<[u8]> for PinnedRange {
    fn as_ref(&self) -> &[u8] {
        let start = self.map.as_ptr().wrapping_add(self.range.start);
        // SAFETY: the range was checked against the mapping's length when this was made, `map` keeps it mapped, and lent bytes
        // are never stored again (points 2 and 3 of the module documentation).
        unsafe { std::slice::from_raw_parts(start, self.range.len()) }
    }
}

impl MappedFile {
    /// Maps the first `len` bytes of `file`, which must be allocated: a hole on a full disk would end the process.
    ///
    /// # Errors
    /// Those of mmap; `InvalidInput` if the file is shorter than `len`.
    pub fn map(file: &File, len: usize) -> io::Result<MappedFile> {
        MappedFile::map_as(file, len, Sharing::Shared)
    }

    /// Maps the first `len` bytes of `file` so that stores stay in memory of this process, for [`CommitPath::Direct`]. Until
    /// [`Mapping::settle`] every page that was stored to costs memory that the kernel cannot take back.
    ///
    /// # Errors
    /// As [`MappedFile::map`].
    ///
    /// [`CommitPath::Direct`]: crate::CommitPath::Direct
    pub fn map_private(file: &File, len: usize) -> io::Result<MappedFile> {
        MappedFile::map_as(file, len, Sharing::Private)
    }

    fn map_as(file: &File, len: usize, sharing: Sharing) -> io::Result<MappedFile> {
        if file.metadata()?.len() < len as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a segment file is shorter than its mapping"));
        }
        let mut options = MmapOptions::new();
        options.len(len);
        let map: MmapRaw = match sharing {
            Sharing::Shared => options.map_raw(file)?,
            // SAFETY: the file is not truncated while it is mapped, and nobody else writes it (point 4 of the module
            // documentation) but the log's own direct writes, of bytes that were stored here before.
            Sharing::Private => unsafe { options.map_copy(file)? }.into(),
        };
        Ok(MappedFile { map: Arc::new(map), sharing })
    }

    fn check(&self, range: &Range<usize>) {
        assert!(
            range.start <= range.end && range.end <= self.map.len(),
            "bytes {range:?} are outside a mapping of {} bytes",
            self.map.len()
        );
    }
}

impl Mapping for MappedFile {
    fn len(&self) -> usize {
        self.map.len()
    }

    #[inline]
    fn store_with<R>(&self, offset: usize, len: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let range = offset..offset.checked_add(len).expect("an offset inside a segment");
        self.check(&range);
        let start = self.map.as_mut_ptr().wrapping_add(range.start);
        // SAFETY: inside the mapping by the check above; nobody else holds a reference to these bytes (points 1 to 3 of the
        // module documentation).
        let target = unsafe { std::slice::from_raw_parts_mut(start, len) };
        fill(target)
    }

    fn bytes(&self, range: Range<usize>) -> Bytes {
        self.check(&range);
        Bytes::from_owner(PinnedRange { map: Arc::clone(&self.map), range })
    }

    #[inline]
    fn with<R>(&self, range: Range<usize>, read: impl FnOnce(&[u8]) -> R) -> R {
        self.check(&range);
        let start = self.map.as_ptr().wrapping_add(range.start);
        // SAFETY: inside the mapping by the check above, mapped for as long as `self` lives, and nothing is stored here during
        // the call (point 3 of the module documentation).
        let bytes = unsafe { std::slice::from_raw_parts(start, range.len()) };
        read(bytes)
    }

    fn populate(&self, range: Range<usize>, how: Populate) {
        self.check(&range);
        if range.is_empty() {
            return;
        }
        // A private page has to be copied before the first store, and is never dirty. Refused before Linux 5.14: then the first
        // store faults, which is slower and no less correct.
        let advice = match (self.sharing, how) {
            (Sharing::Shared, Populate::Reading) => Advice::PopulateRead,
            (Sharing::Shared, Populate::Writing) | (Sharing::Private, _) => Advice::PopulateWrite,
        };
        let _ = self.map.advise_range(advice, range.start, range.len());
    }

    fn settle(&self) {
        if self.sharing == Sharing::Shared {
            return;
        }
        // SAFETY: the copies are dropped and the pages come from the file again, which holds the same bytes: the log calls this
        // when everything that was stored is durable in the file. Readers of lent bytes see no change.
        let _ = unsafe { self.map.unchecked_advise(UncheckedAdvice::DontNeed) };
    }

    fn is_unique(&self) -> bool {
        let unique = Arc::strong_count(&self.map) == 1;
        // What the last other holder read happened before it let go.
        std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
        unique
    }
}

/// Memory in the place of a file, for tests and the simulator.
#[derive(Clone)]
pub struct MemoryMap {
    memory: Arc<Mutex<Vec<u8>>>,
}

impl fmt::Debug for MemoryMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryMap").field("len", &self.len()).finish()
    }
}

impl MemoryMap {
    /// Zeros.
    #[must_use]
    pub fn new(len: usize) -> MemoryMap {
        MemoryMap::from(vec![0; len])
    }

    /// Memory that somebody else also holds, such as a simulated disk.
    #[must_use]
    pub fn shared(memory: Arc<Mutex<Vec<u8>>>) -> MemoryMap {
        MemoryMap { memory }
    }

    /// A copy of everything.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        // A panic elsewhere leaves bytes as they were: nothing here is half done.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Vec<u8>> for MemoryMap {
    fn from(bytes: Vec<u8>) -> Self {
        MemoryMap { memory: Arc::new(Mutex::new(bytes)) }
    }
}

impl Mapping for MemoryMap {
    fn len(&self) -> usize {
        self.lock().len()
    }

    fn store_with<R>(&self, offset: usize, len: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        fill(&mut self.lock()[offset..offset + len])
    }

    fn bytes(&self, range: Range<usize>) -> Bytes {
        Bytes::copy_from_slice(&self.lock()[range])
    }

    fn with<R>(&self, range: Range<usize>, read: impl FnOnce(&[u8]) -> R) -> R {
        read(&self.lock()[range])
    }

    fn populate(&self, _: Range<usize>, _: Populate) {}

    fn settle(&self) {}

    fn is_unique(&self) -> bool {
        // Lent bytes are copies.
        true
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};

    use super::*;

    fn scratch_file(len: usize) -> File {
        let path = std::env::temp_dir().join(format!("godwit-map-{}-{len}", std::process::id()));
        let mut file =
            File::options().read(true).write(true).create(true).truncate(true).open(&path).expect("a scratch file");
        std::fs::remove_file(&path).expect("unlink");
        file.write_all(&vec![0; len]).expect("zeros");
        file
    }

    #[test]
    fn stores_reach_the_file_and_lent_bytes_outlive_the_mapping() {
        let mut file = scratch_file(8192);
        let map = MappedFile::map(&file, 8192).expect("map");
        map.populate(0..8192, Populate::Reading);
        map.store(4096, b"record");
        let pinned = map.bytes(4096..4102);
        map.store_with(4102, 3, |target| target.copy_from_slice(b"two"));
        assert!(map.with(4096..4105, |bytes| bytes == b"recordtwo"));
        drop(map);
        assert_eq!(pinned, &b"record"[..]);
        let mut contents = Vec::new();
        file.rewind().expect("seek");
        file.read_to_end(&mut contents).expect("read");
        assert_eq!(&contents[4096..4105], b"recordtwo");
    }

    #[test]
    fn private_stores_stay_in_memory_and_settled_pages_come_from_the_file() {
        use std::os::unix::fs::FileExt;

        let file = scratch_file(12288);
        let map = MappedFile::map_private(&file, 12288).expect("map");
        map.populate(4096..8192, Populate::Writing);
        map.store(4096, b"record");
        let pinned = map.bytes(4096..4102);
        let mut found = [0; 6];
        file.read_exact_at(&mut found, 4096).expect("read");
        assert_eq!(&found, &[0; 6], "a private store does not reach the file");
        assert_eq!(pinned, &b"record"[..]);
        // What the log's direct write does.
        file.write_all_at(b"record", 4096).expect("write");
        map.settle();
        assert_eq!(pinned, &b"record"[..]);
        assert!(!map.is_unique(), "lent bytes hold the mapping");
        drop(pinned);
        assert!(map.is_unique());
    }

    #[test]
    fn a_file_shorter_than_its_mapping_is_refused() {
        let file = scratch_file(4096);
        assert_eq!(MappedFile::map(&file, 8192).expect_err("short").kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    #[should_panic(expected = "outside a mapping")]
    fn a_store_behind_the_end_is_refused() {
        let file = scratch_file(4095);
        MappedFile::map(&file, 4095).expect("map").store(4090, b"overlap");
    }
}
