//! Received bytes on loan, and the pool of heap buffers behind the loans that do not come from a kernel buffer ring.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;

use super::uring::buffers::RingLease;

/// Bytes that a completion lends to the loop; dropping the lease returns the buffer. Never leaves its thread: it holds
/// an `Rc` of the pool it came from.
pub struct Lease(Inner);

enum Inner {
    Empty,
    Heap(HeapBuffer),
    Ring(RingLease),
}

impl Lease {
    pub(crate) fn empty() -> Self {
        Lease(Inner::Empty)
    }

    pub(crate) fn ring(lease: RingLease) -> Self {
        Lease(Inner::Ring(lease))
    }
}

impl Deref for Lease {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Inner::Empty => &[],
            Inner::Heap(buffer) => &buffer.data[..buffer.len],
            Inner::Ring(lease) => lease.bytes(),
        }
    }
}

impl AsRef<[u8]> for Lease {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Lease({} bytes)", self.len())
    }
}

/// Smallest buffer of a pool; one page.
const CLASS_BYTES_MIN: usize = 4096;
/// Bytes of free buffers a pool keeps for reuse: those of some hundred reads of small records. More is given back to the allocator.
const FREE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Recycled heap buffers in power-of-two classes; zeroed once, when allocated.
#[derive(Clone)]
pub(crate) struct HeapPool(Rc<PoolState>);

struct PoolState {
    free: RefCell<Vec<Vec<Vec<u8>>>>,
    free_bytes: Cell<usize>,
    out: Cell<usize>,
    out_max: usize,
}

impl HeapPool {
    /// A pool that lends at most `out_max` buffers at a time.
    pub(crate) fn new(out_max: usize) -> Self {
        HeapPool(Rc::new(PoolState {
            free: RefCell::new(Vec::new()),
            free_bytes: Cell::new(0),
            out: Cell::new(0),
            out_max,
        }))
    }

    /// A buffer with room for `len` bytes, or `None` while too many are lent out.
    pub(crate) fn take(&self, len: usize) -> Option<HeapBuffer> {
        let state = &*self.0;
        if state.out.get() >= state.out_max {
            return None;
        }
        state.out.set(state.out.get() + 1);
        let bytes = len.max(CLASS_BYTES_MIN).next_power_of_two();
        let recycled = state.free.borrow_mut().get_mut(class_of(bytes)).and_then(Vec::pop);
        let data = match recycled {
            Some(data) => {
                state.free_bytes.set(state.free_bytes.get() - data.len());
                data
            }
            None => vec![0; bytes],
        };
        Some(HeapBuffer { data, len: 0, pool: Rc::clone(&self.0) })
    }
}

/// Index of the free list of buffers of `bytes` bytes.
fn class_of(bytes: usize) -> usize {
    bytes.trailing_zeros() as usize
}

/// One buffer, on its way to becoming a lease.
pub(crate) struct HeapBuffer {
    data: Vec<u8>,
    len: usize,
    pool: Rc<PoolState>,
}

impl HeapBuffer {
    /// The whole room. Its address does not change when the buffer value moves.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        &mut self.data
    }

    /// Lends out the first `len` bytes.
    pub(crate) fn into_lease(mut self, len: usize) -> Lease {
        assert!(len <= self.data.len(), "a lease lies within its buffer");
        self.len = len;
        Lease(Inner::Heap(self))
    }

    /// Lends out `data`, which the pool keeps afterwards if it has a class for it.
    pub(crate) fn adopt(pool: &HeapPool, data: Vec<u8>) -> Lease {
        pool.0.out.set(pool.0.out.get() + 1);
        let len = data.len();
        Lease(Inner::Heap(HeapBuffer { data, len, pool: Rc::clone(&pool.0) }))
    }
}

impl Drop for HeapBuffer {
    fn drop(&mut self) {
        let state = &*self.pool;
        state.out.set(state.out.get() - 1);
        let bytes = self.data.len();
        let fits = bytes.is_power_of_two() && bytes >= CLASS_BYTES_MIN;
        if !fits || state.free_bytes.get() + bytes > FREE_BYTES_MAX {
            return;
        }
        let mut free = state.free.borrow_mut();
        let class = class_of(bytes);
        if free.len() <= class {
            free.resize_with(class + 1, Vec::new);
        }
        free[class].push(std::mem::take(&mut self.data));
        state.free_bytes.set(state.free_bytes.get() + bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_lease_makes_room_for_the_next() {
        let pool = HeapPool::new(1);
        let mut buffer = pool.take(10).unwrap();
        buffer.room()[..3].copy_from_slice(b"abc");
        let address = buffer.room().as_ptr();
        let lease = buffer.into_lease(3);
        assert_eq!(&*lease, b"abc");
        assert!(pool.take(10).is_none());
        drop(lease);
        let mut again = pool.take(4096).unwrap();
        assert_eq!(again.room().as_ptr(), address, "the buffer is recycled");
    }
}
