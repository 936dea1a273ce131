//! The instances of one source and their lives: alive, suspect, gone, forgotten.
//!
//! Each entry carries absolute instants, so its state at any time follows from the clock alone; `sweep` only reports
//! the transitions and forgets. Invariant of an entry: `suspect_at ≤ gone_at ≤ forget_at`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use net::ids::{Epoch, InstanceId, ServiceName};
use net::reactor::Mono;
use net::wire::body::{EntryState, InstanceKey};
use thiserror::Error;
use wal::marks::{Mark, reach};
use wal::planted::{self, Fault};

use super::limits::{ENTRIES_PER_SOURCE_MAX, GONE_MEMORY_MS};

/// What a source says about an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Who.
    pub key: InstanceKey,
    /// Where.
    pub address: SocketAddr,
    /// Opaque.
    pub metadata: Vec<u8>,
    /// End of its time to live.
    pub expires_at: Mono,
    /// Suspect from here on.
    pub suspect_at: Mono,
    /// Gone from here on; after `expires_at` by the source's grace.
    pub gone_at: Mono,
}

/// How an instance came to be gone before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// It said so itself: this life is over, a late refresh of it is refused.
    Final,
    /// Its source reports it gone, and may report the same life again (it expired there and came back).
    Reported,
}

/// What an announcement did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    /// Nobody knew it so; peers should hear at once.
    Changed,
    /// Only its times moved.
    Refreshed,
}

/// Why an announcement was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AnnounceError {
    /// A later life is known.
    #[error("epoch {} of this instance is known; register with a higher one", known.0)]
    Stale {
        /// The known epoch.
        known: Epoch,
    },
    /// This life has left.
    #[error("this epoch has left; register with a higher one")]
    Left,
    /// No room.
    #[error("the registry holds {ENTRIES_PER_SOURCE_MAX} instances; deregister some")]
    Full,
}

/// One instance.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What its source said last.
    pub said: Announcement,
    /// When.
    pub heard_at: Mono,
    forget_at: Mono,
    left: Option<Departure>,
    reported: EntryState,
}

impl Entry {
    /// Its life at `now`.
    #[must_use]
    pub fn state(&self, now: Mono) -> EntryState {
        let over = now >= self.said.gone_at && !planted::is(Fault::EntriesNeverExpire);
        if self.left.is_some() || over {
            EntryState::Gone
        } else if now >= self.said.suspect_at {
            EntryState::Suspect
        } else {
            EntryState::Alive
        }
    }

    /// Whether it is listed by default.
    #[must_use]
    pub fn is_live(&self, now: Mono) -> bool {
        self.state(now) != EntryState::Gone
    }

    /// What remains of its time to live, ms.
    #[must_use]
    pub fn ttl_ms_left(&self, now: Mono) -> u32 {
        if self.is_live(now) { millis(self.said.expires_at.since(now)) } else { 0 }
    }

    /// Time since its source last spoke of it, ms.
    #[must_use]
    pub fn age_ms(&self, now: Mono) -> u32 {
        millis(now.since(self.heard_at))
    }

    fn next_change(&self) -> Mono {
        match self.reported {
            EntryState::Alive => self.said.suspect_at,
            EntryState::Suspect => self.said.gone_at,
            EntryState::Gone => self.forget_at,
        }
    }
}

/// Whole milliseconds, saturating: a display value and a wire field, not an instant.
fn millis(ns: u64) -> u32 {
    u32::try_from(ns / 1_000_000).unwrap_or(u32::MAX)
}

/// What a sweep found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Became gone.
    pub gone: Vec<InstanceKey>,
    /// Whether any listed state changed, the above included.
    pub changed: bool,
}

/// The instances of one source.
#[derive(Clone, Debug)]
pub struct Registry {
    entries: BTreeMap<(ServiceName, InstanceId), Entry>,
    next_change: Mono,
}

impl Default for Registry {
    fn default() -> Registry {
        Registry { entries: BTreeMap::new(), next_change: Mono(u64::MAX) }
    }
}

impl Registry {
    /// Takes an announcement: new, refreshed, moved, or of a higher epoch.
    ///
    /// # Errors
    /// `Stale`, `Left`, `Full`; nothing changed.
    pub fn announce(&mut self, said: Announcement, now: Mono) -> Result<Announced, AnnounceError> {
        let slot = (said.key.service.clone(), said.key.instance);
        let outcome = match self.entries.get(&slot) {
            Some(known) if known.said.key.epoch > said.key.epoch => {
                return Err(AnnounceError::Stale { known: known.said.key.epoch });
            }
            Some(known) if known.left == Some(Departure::Final) && known.said.key.epoch == said.key.epoch => {
                return Err(AnnounceError::Left);
            }
            Some(known) => {
                let same = known.said.key.epoch == said.key.epoch
                    && known.said.address == said.address
                    && known.said.metadata == said.metadata;
                // A suspect one that is heard again is news to whoever avoids it.
                if same && known.state(now) == EntryState::Alive { Announced::Refreshed } else { Announced::Changed }
            }
            None => {
                if self.entries.len() >= ENTRIES_PER_SOURCE_MAX {
                    // The living need the room more than the memory of the dead.
                    self.entries.retain(|_, entry| entry.is_live(now));
                }
                if self.entries.len() >= ENTRIES_PER_SOURCE_MAX {
                    return Err(AnnounceError::Full);
                }
                Announced::Changed
            }
        };
        let forget_at = said.gone_at.plus_ms(GONE_MEMORY_MS);
        let entry = Entry { said, heard_at: now, forget_at, left: None, reported: EntryState::Alive };
        self.next_change = self.next_change.min(entry.next_change());
        self.entries.insert(slot, entry);
        Ok(outcome)
    }

    /// Marks an instance gone, unless a later life of it is known. Says whether it was live.
    pub fn leave(&mut self, key: &InstanceKey, departure: Departure, now: Mono) -> bool {
        let slot = (key.service.clone(), key.instance);
        match self.entries.get_mut(&slot) {
            Some(entry) if entry.said.key.epoch <= key.epoch => {
                let was_live = entry.is_live(now);
                // A departure that names a later life than we know ends that one, too.
                entry.said.key.epoch = key.epoch;
                entry.left = Some(departure);
                entry.reported = EntryState::Gone;
                entry.forget_at = now.plus_ms(GONE_MEMORY_MS);
                self.next_change = self.next_change.min(entry.forget_at);
                was_live
            }
            _ => false,
        }
    }

    /// Every live instance is suspect from now on, until its source speaks of it again.
    pub fn suspect_all(&mut self, now: Mono) {
        for entry in self.entries.values_mut() {
            entry.said.suspect_at = entry.said.suspect_at.min(now);
        }
        self.next_change = self.next_change.min(now);
    }

    /// Reports the transitions up to `now` and forgets what is long gone. Cheap when none is due.
    pub fn sweep(&mut self, now: Mono) -> Swept {
        let mut swept = Swept::default();
        if now < self.next_change {
            return swept;
        }
        self.next_change = Mono(u64::MAX);
        self.entries.retain(|_, entry| {
            let state = entry.state(now);
            if state != entry.reported {
                swept.changed = true;
                if state == EntryState::Suspect {
                    reach(Mark::InstanceSuspect);
                }
                if state == EntryState::Gone {
                    reach(Mark::InstanceGone);
                    swept.gone.push(entry.said.key.clone());
                }
                entry.reported = state;
            }
            let keep = state != EntryState::Gone || now < entry.forget_at;
            if keep {
                self.next_change = self.next_change.min(entry.next_change());
            }
            keep
        });
        swept
    }

    /// When the next sweep has something to do.
    #[must_use]
    pub fn next_change(&self) -> Mono {
        self.next_change
    }

    /// Everything remembered, gone ones included, in order of service and instance.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// One instance, gone ones included.
    #[must_use]
    pub fn entry(&self, service: &ServiceName, instance: InstanceId) -> Option<&Entry> {
        self.entries.get(&(service.clone(), instance))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(epoch: u64) -> InstanceKey {
        InstanceKey { service: ServiceName::parse("caching").unwrap(), instance: InstanceId(1), epoch: Epoch(epoch) }
    }

    fn said(epoch: u64, now_ms: u64) -> Announcement {
        let at = |ms| Mono(0).plus_ms(now_ms + ms);
        Announcement {
            key: key(epoch),
            address: "127.0.0.1:10700".parse().unwrap(),
            metadata: Vec::new(),
            expires_at: at(15_000),
            suspect_at: at(11_000),
            gone_at: at(16_000),
        }
    }

    fn ms(ms: u64) -> Mono {
        Mono(0).plus_ms(ms)
    }

    fn state(registry: &Registry, now: Mono) -> Option<EntryState> {
        registry.entry(&key(0).service, InstanceId(1)).map(|entry| entry.state(now))
    }

    #[test]
    fn an_instance_lives_becomes_suspect_goes_and_is_forgotten() {
        let mut registry = Registry::default();
        assert_eq!(registry.announce(said(1, 0), ms(0)), Ok(Announced::Changed));
        let mut gone = Vec::new();
        for (at, expected) in [
            (10_999, Some(EntryState::Alive)),
            (11_000, Some(EntryState::Suspect)),
            (15_999, Some(EntryState::Suspect)),
            (16_000, Some(EntryState::Gone)),
            (75_999, Some(EntryState::Gone)),
            (76_000, None),
        ] {
            gone.extend(registry.sweep(ms(at)).gone);
            assert_eq!(state(&registry, ms(at)), expected, "at {at}");
        }
        assert_eq!(gone, [key(1)], "reported once");
        assert_eq!(registry.next_change(), Mono(u64::MAX));
    }

    #[test]
    fn a_higher_epoch_replaces_and_a_lower_one_is_stale() {
        let mut registry = Registry::default();
        registry.announce(said(5, 0), ms(0)).unwrap();
        assert_eq!(registry.announce(said(4, 1), ms(1)), Err(AnnounceError::Stale { known: Epoch(5) }));
        assert_eq!(registry.announce(said(6, 1), ms(1)), Ok(Announced::Changed));
        assert!(
            !registry.leave(&key(5), Departure::Final, ms(2)),
            "an earlier life leaving does not end its successor"
        );
        assert_eq!(state(&registry, ms(2)), Some(EntryState::Alive));
    }

    #[test]
    fn a_life_that_left_does_not_return_but_one_that_expired_does() {
        let mut registry = Registry::default();
        registry.announce(said(1, 0), ms(0)).unwrap();
        assert!(registry.leave(&key(1), Departure::Final, ms(1)));
        assert!(!registry.leave(&key(1), Departure::Final, ms(1)), "leaving twice is leaving");
        assert_eq!(registry.announce(said(1, 2), ms(2)), Err(AnnounceError::Left));
        registry.announce(said(2, 3), ms(3)).unwrap();
        registry.sweep(ms(19_003));
        assert_eq!(state(&registry, ms(19_003)), Some(EntryState::Gone));
        assert_eq!(registry.announce(said(2, 20_000), ms(20_000)), Ok(Announced::Changed));
        assert_eq!(state(&registry, ms(20_000)), Some(EntryState::Alive));
    }

    #[test]
    fn a_life_reported_gone_may_be_reported_again() {
        let mut registry = Registry::default();
        registry.announce(said(1, 0), ms(0)).unwrap();
        assert!(registry.leave(&key(1), Departure::Reported, ms(1)));
        assert_eq!(state(&registry, ms(1)), Some(EntryState::Gone));
        assert_eq!(registry.announce(said(1, 2), ms(2)), Ok(Announced::Changed));
        assert_eq!(state(&registry, ms(2)), Some(EntryState::Alive));
    }

    #[test]
    fn a_refresh_is_no_news_unless_the_instance_was_suspect() {
        let mut registry = Registry::default();
        registry.announce(said(1, 0), ms(0)).unwrap();
        assert_eq!(registry.announce(said(1, 5_000), ms(5_000)), Ok(Announced::Refreshed));
        assert_eq!(registry.announce(said(1, 17_000), ms(17_000)), Ok(Announced::Changed));
        let mut moved = said(1, 18_000);
        moved.address.set_port(1);
        assert_eq!(registry.announce(moved, ms(18_000)), Ok(Announced::Changed));
    }

    #[test]
    fn a_full_registry_refuses_the_new_and_refreshes_the_old() {
        let mut registry = Registry::default();
        for instance in 0..u64::try_from(ENTRIES_PER_SOURCE_MAX).unwrap() {
            let mut one = said(1, 0);
            one.key.instance = InstanceId(instance);
            registry.announce(one, ms(0)).unwrap();
        }
        let mut extra = said(1, 0);
        extra.key.instance = InstanceId(u64::MAX);
        assert_eq!(registry.announce(extra.clone(), ms(0)), Err(AnnounceError::Full));
        assert_eq!(registry.announce(said(1, 1), ms(1)), Ok(Announced::Refreshed));
        assert!(registry.leave(&key(1), Departure::Final, ms(2)));
        assert!(registry.announce(extra, ms(3)).is_ok(), "the dead make room");
    }
}
