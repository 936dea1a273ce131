//! How far a start is: told by start-up's threads, shown in the log and on the admin port until the node runs.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::startup::Progress;

/// A long start says how far it is this often.
const SAY_EVERY: Duration = Duration::from_secs(1);

/// What start-up told last.
#[derive(Debug, Default)]
pub struct StartBoard(Mutex<Told>);

#[derive(Clone, Copy, Debug, Default)]
struct Told {
    latest: Option<Progress>,
    /// When the log was last told, since the start began.
    said_at: Duration,
}

impl StartBoard {
    /// Takes what start-up tells, `since_start` after it began.
    pub fn tell(&self, progress: Progress, since_start: Duration) {
        let is_due = {
            let mut told = self.lock();
            told.latest = Some(progress);
            let is_due = !is_step(progress) || since_start >= told.said_at + SAY_EVERY;
            if is_due {
                told.said_at = since_start;
            }
            is_due
        };
        if is_due {
            say(progress, since_start);
        }
    }

    /// One line for those who ask when the node will be ready.
    #[must_use]
    pub fn text(&self) -> String {
        match self.lock().latest {
            None => "recovering".to_owned(),
            Some(progress) => format!("recovering: {progress}"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of many steps, and not the end of them.
fn is_step(progress: Progress) -> bool {
    matches!(progress, Progress::Reading { .. } | Progress::Loading { .. })
}

fn say(progress: Progress, since_start: Duration) {
    let millis = u64::try_from(since_start.as_millis()).unwrap_or(u64::MAX);
    match progress {
        Progress::Read { segments: 0, .. } | Progress::Indexed { records: 0 } => {}
        Progress::Read { segments, bytes } => tracing::info!(segments, bytes, millis, "segments read and verified"),
        Progress::Indexed { records } => tracing::info!(records, millis, "records indexed"),
        Progress::Reading { .. } | Progress::Loading { .. } => tracing::info!(millis, "recovering: {progress}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_shown_in_percent_and_said_once_a_second() {
        let board = StartBoard::default();
        assert_eq!(board.text(), "recovering");
        let said_at = |millis: u64, progress| {
            board.tell(progress, Duration::from_millis(millis));
            board.lock().said_at
        };
        let (half, more) =
            (Progress::Reading { done: 406, segments: 812 }, Progress::Reading { done: 407, segments: 812 });
        assert_eq!(said_at(900, half), Duration::ZERO);
        assert_eq!(board.text(), "recovering: 50 % of 812 segments read");
        assert_eq!(said_at(1_000, more), Duration::from_millis(1_000));
        assert_eq!(said_at(1_999, more), Duration::from_millis(1_000));
        let scanned = Progress::Read { segments: 812, bytes: 5 };
        assert_eq!(said_at(2_100, scanned), Duration::from_millis(2_100), "the end of a stage is always said");
        assert_eq!(board.text(), "recovering: 812 segments read");
        said_at(2_250, Progress::Loading { done: 3, blocks: 12 });
        assert_eq!(board.text(), "recovering: 25 % of the checkpoint loaded");
        said_at(2_300, Progress::Indexed { records: 7 });
        assert_eq!(board.text(), "recovering: 7 records indexed");
    }
}
