//! C9: nothing is forgotten before everybody holds what took its place. When a node says that it may forget up to a version, every
//! record up to there, of any log, is on the device of every node that is up, or is superseded there by one that may be forgotten
//! already; and nobody writes anything below it any more. A node whose disk was exchanged is left out until it says itself that it holds
//! that much: until then it has to take over everything from another one.

use wal::Version;

use super::Violation;
use super::device::Record;
use super::history::History;
use super::view::View;

/// Checker C9.
pub const C9: &str = "C9 nothing is forgotten too early";

/// `region` may forget up to `upto` now: `views` are those of the nodes that are up.
///
/// # Errors
/// [`C9`].
pub fn may_forget<'a>(
    region: &str,
    history: &History,
    views: impl Iterator<Item = (&'a str, &'a View)>,
    upto: Version,
) -> Result<(), Violation> {
    for (name, view) in views {
        let lacking = history.upto(upto).find(|record| !view.holds(record) && !history.is_forgotten(record));
        if let Some(record) = lacking {
            let text = format!("{region} forgets what died up to {upto:?}, but {name} does not hold {record:?}");
            return Err(Violation::new(C9, text));
        }
    }
    Ok(())
}

/// A record was written.
///
/// # Errors
/// [`C9`].
pub fn written(history: &History, record: &Record) -> Result<(), Violation> {
    if record.version > history.forgotten() || record.is_control() {
        return Ok(());
    }
    let text =
        format!("{record:?} was written when what had died up to {:?} may have been forgotten", history.forgotten());
    Err(Violation::new(C9, text))
}
