//! The provided-buffer ring: receive buffers that the kernel picks as data arrives.
//!
//! Unsafe because the memory is shared with the kernel: it is mapped here, its address is registered, and a buffer
//! belongs to the kernel from `put_back` until the completion that names it.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::ptr::NonNull;
use std::rc::Rc;
use std::slice;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use crate::reactor::RECV_BUFFER_BYTES;

/// The only buffer group of a ring.
pub(crate) const GROUP: u16 = 0;

/// The length as the kernel wants it.
#[expect(clippy::cast_possible_truncation, reason = "16 KiB fit")]
const BUFFER_LEN: u32 = RECV_BUFFER_BYTES as u32;

/// One anonymous mapping: `count` ring entries, padded to a page, then `count` buffers.
pub(crate) struct RingBuffers {
    base: NonNull<u8>,
    mapped_bytes: usize,
    buffers_offset: usize,
    count: u16,
    tail: Cell<u16>,
}

impl RingBuffers {
    /// Maps and fills `count` (a power of two, at most 32,768) buffers; `register` hands them to a ring.
    pub(crate) fn new(count: u16) -> io::Result<Rc<Self>> {
        if !count.is_power_of_two() || count > 1 << 15 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "receive_buffers must be a power of two ≤ 32768"));
        }
        let buffers_offset = (usize::from(count) * size_of::<BufRingEntry>()).next_multiple_of(4096);
        let mapped_bytes = buffers_offset + usize::from(count) * RECV_BUFFER_BYTES;
        // SAFETY: a fresh private anonymous mapping, no address is asked for.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast::<u8>()).ok_or_else(|| io::Error::other("mmap returned null"))?;
        let buffers = RingBuffers { base, mapped_bytes, buffers_offset, count, tail: Cell::new(0) };
        for id in 0..count {
            buffers.put_back(id);
        }
        Ok(Rc::new(buffers))
    }

    /// Registers the buffers with the ring behind `submitter`.
    ///
    /// # Safety
    /// `self` must live until the group is unregistered or that ring is closed and has nothing in flight.
    pub(crate) unsafe fn register(&self, submitter: &Submitter<'_>) -> io::Result<()> {
        // SAFETY: `base` is page-aligned, holds `count` entries, and the caller keeps it alive.
        unsafe { submitter.register_buf_ring_with_flags(self.base.as_ptr() as u64, self.count, GROUP, 0) }
    }

    fn buffer(&self, id: u16) -> *mut u8 {
        debug_assert!(id < self.count);
        // SAFETY: the offset lies inside the mapping, by construction of `mapped_bytes`.
        unsafe { self.base.as_ptr().add(self.buffers_offset + usize::from(id) * RECV_BUFFER_BYTES) }
    }

    /// Gives buffer `id` to the kernel.
    fn put_back(&self, id: u16) {
        let tail = self.tail.get();
        let slot = usize::from(tail & (self.count - 1));
        let entries = self.base.as_ptr().cast::<BufRingEntry>();
        // SAFETY: slot < count, the number of entries in the mapping.
        let entry = unsafe { entries.add(slot) };
        // SAFETY: the kernel reads the slot only after the tail below has passed it, and at most `count`
        // buffers exist, so it is not one that the kernel still has to read. The mapping is page-aligned.
        let entry = unsafe { &mut *entry };
        entry.set_addr(self.buffer(id) as u64);
        entry.set_len(BUFFER_LEN);
        entry.set_bid(id);
        let tail = tail.wrapping_add(1);
        self.tail.set(tail);
        // SAFETY: the mapping starts with an (initialised) entry, whose reserved field is the ring's tail.
        let shared = unsafe { BufRingEntry::tail(entries) };
        // SAFETY: aligned, alive, and accessed only atomically: by this thread and the kernel.
        let shared = unsafe { AtomicU16::from_ptr(shared.cast_mut()) };
        // Release: the kernel must see the entry before the tail.
        shared.store(tail, Ordering::Release);
    }

    /// The buffer that a completion named, with its first `len` bytes filled.
    ///
    /// # Safety
    /// The kernel has just given up buffer `id`, by exactly this completion.
    pub(crate) unsafe fn lease(self: &Rc<Self>, id: u16, len: usize) -> RingLease {
        assert!(id < self.count && len <= RECV_BUFFER_BYTES, "the kernel names buffers of this ring");
        RingLease { buffers: Rc::clone(self), id, len }
    }
}

impl Drop for RingBuffers {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`; leases hold an Rc of it, and the reactor's drop has awaited the kernel.
        unsafe {
            libc::munmap(self.base.as_ptr().cast(), self.mapped_bytes);
        }
    }
}

/// A filled buffer of the ring.
pub(crate) struct RingLease {
    buffers: Rc<RingBuffers>,
    id: u16,
    len: usize,
}

impl RingLease {
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `len` ≤ buffer size, initialised by the kernel, and the kernel does not own it until this lease
        // drops.
        unsafe { slice::from_raw_parts(self.buffers.buffer(self.id), self.len) }
    }
}

impl Drop for RingLease {
    fn drop(&mut self) {
        self.buffers.put_back(self.id);
    }
}
