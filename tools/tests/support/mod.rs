//! What tests of the tools with real processes share.

use std::thread;
use std::time::{Duration, Instant};

/// Anything that does not happen within this never will.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// How often it is looked whether something has happened.
pub(crate) const GLANCE: Duration = Duration::from_millis(10);

/// Looks until there is something.
///
/// # Panics
/// After [`PATIENCE`].
pub(crate) fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {} s for {what}", PATIENCE.as_secs());
        thread::sleep(GLANCE);
    }
}
