//! C8, the omniscient checker: whoever claims (log, v) holds durably every effect of that log up to v, or a newer one.
//!
//! "Holds" is read from the node's device, never from the node. "Every effect" is every record that any device ever held
//! durably in its origin's log; one that turns up late is held against all claims that were made before.

use net::ids::LogId;
use wal::Version;

use super::Violation;
use super::device::Record;
use super::history::History;
use super::view::View;

/// Checker C8.
pub const C8: &str = "C8 no false claim";

fn false_claim(region: &str, log: LogId, claimed: Version, record: &Record, view: &View) -> Violation {
    let has = view.newest.get(&record.key);
    Violation::new(C8, format!("{region} claims {log} up to {claimed:?}, but has only {has:?} of {record:?}"))
}

/// `region` claims `log` up to `claimed` now.
///
/// # Errors
/// [`C8`].
pub fn claim(region: &str, history: &History, view: &mut View, log: LogId, claimed: Version) -> Result<(), Violation> {
    let before = view.claims.insert(log, claimed).unwrap_or(Version::ZERO);
    if claimed < before {
        return Err(Violation::new(C8, format!("{region} takes its claim over {log} back: {before:?} to {claimed:?}")));
    }
    let lacks = |record: &&Record| !view.holds(record) && !history.is_forgotten(record);
    match history.between(log, before, claimed).find(lacks) {
        Some(record) => Err(false_claim(region, log, claimed, record, view)),
        None => Ok(()),
    }
}

/// A record of `log` turned up: it must be with everyone who claimed that far before.
///
/// # Errors
/// [`C8`].
pub fn turned_up<'a>(
    views: impl Iterator<Item = (&'a str, &'a View)>,
    history: &History,
    log: LogId,
    record: &Record,
) -> Result<(), Violation> {
    for (region, view) in views {
        let claimed = view.claims.get(&log).copied().unwrap_or(Version::ZERO);
        let holds = view.holds(record) || history.is_forgotten(record);
        if !record.is_control() && claimed >= record.version && !holds {
            return Err(false_claim(region, log, claimed, record, view));
        }
    }
    Ok(())
}

/// A core originated `record` after it had promised `promised`.
///
/// # Errors
/// [`C8`].
pub fn promise(log: LogId, core: u16, promised: Version, record: &Record) -> Result<(), Violation> {
    if record.version > promised {
        return Ok(());
    }
    Err(Violation::new(C8, format!("core {core} of {log} promised {promised:?} and then originated {record:?}")))
}
