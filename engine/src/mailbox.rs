//! Mailboxes between loop threads: a bounded queue and a waker behind a sleep flag.
//!
//! The receiver arms the flag before it blocks and looks once more at the queue; a sender pushes first and wakes only a
//! sleeper. Either the receiver's second look sees the message or the sender sees the flag (sequential consistency).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam::queue::ArrayQueue;
use net::reactor::Waker;
use wal::marks::{Mark, reach};

#[derive(Debug)]
struct Shared<T> {
    queue: ArrayQueue<T>,
    asleep: AtomicBool,
}

/// The sending end; cheap to clone.
#[derive(Debug)]
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
    waker: Waker,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender { shared: Arc::clone(&self.shared), waker: self.waker.clone() }
    }
}

/// The receiving end; one per loop thread.
#[derive(Debug)]
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
}

/// A mailbox before its receiver's loop exists: gives the receiver first, senders once the waker is known.
#[derive(Debug)]
pub struct Mailbox<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Mailbox<T> {
    /// A mailbox for `capacity` messages.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Mailbox { shared: Arc::new(Shared { queue: ArrayQueue::new(capacity), asleep: AtomicBool::new(false) }) }
    }

    /// Another handle of the same mailbox.
    #[must_use]
    pub fn clone_box(&self) -> Mailbox<T> {
        Mailbox { shared: Arc::clone(&self.shared) }
    }

    /// A sender that wakes the receiver's loop by `waker`.
    #[must_use]
    pub fn sender(&self, waker: Waker) -> Sender<T> {
        Sender { shared: Arc::clone(&self.shared), waker }
    }

    /// The receiving end.
    #[must_use]
    pub fn receiver(&self) -> Receiver<T> {
        Receiver { shared: Arc::clone(&self.shared) }
    }
}

impl<T> Sender<T> {
    /// Puts a message into the mailbox and wakes a sleeping receiver.
    ///
    /// # Errors
    /// Hands the message back when the mailbox is full; keep it and try in the next tick.
    pub fn send(&self, message: T) -> Result<(), T> {
        self.shared.queue.push(message)?;
        fence(Ordering::SeqCst);
        if self.shared.asleep.swap(false, Ordering::SeqCst) {
            self.waker.wake();
        }
        Ok(())
    }
}

impl<T> Receiver<T> {
    /// The next message.
    #[must_use]
    pub fn receive(&self) -> Option<T> {
        self.shared.queue.pop()
    }

    /// Announces sleep. Returns whether the receiver may block: false when a message is already there.
    #[must_use]
    pub fn arm(&self) -> bool {
        self.shared.asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if self.shared.queue.is_empty() {
            return true;
        }
        self.disarm();
        false
    }

    /// Ends the announcement after waking up.
    pub fn disarm(&self) {
        self.shared.asleep.store(false, Ordering::SeqCst);
    }
}

/// Messages for one target that wait until its mailbox has room, in order.
#[derive(Debug)]
pub struct Outbox<T> {
    sender: Sender<T>,
    waiting: std::collections::VecDeque<T>,
}

impl<T> Outbox<T> {
    /// An outbox in front of `sender`.
    #[must_use]
    pub fn new(sender: Sender<T>) -> Self {
        Outbox { sender, waiting: std::collections::VecDeque::new() }
    }

    /// Sends now, or as soon as [`Outbox::flush`] finds room; never out of order.
    pub fn send(&mut self, message: T) {
        if self.waiting.is_empty() {
            if let Err(message) = self.sender.send(message) {
                reach(Mark::MailboxFull);
                self.waiting.push_back(message);
            }
        } else {
            self.waiting.push_back(message);
        }
    }

    /// Whether something waits for room.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Tries again. Returns whether something still waits.
    pub fn flush(&mut self) -> bool {
        while let Some(message) = self.waiting.pop_front() {
            if let Err(message) = self.sender.send(message) {
                self.waiting.push_front(message);
                return true;
            }
        }
        false
    }
}
