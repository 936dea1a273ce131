//! Plants a deliberate fault ([`wal::planted`]) on a thread, where the build has them.

use wal::planted::Fault;

/// This build has no faults to plant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotInThisBuild;

impl std::fmt::Display for NotInThisBuild {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(
            "this build has no planted faults; use RUSTFLAGS=\"--cfg planted\" CARGO_TARGET_DIR=target/planted \
             cargo run --release -p godwit-tests --bin sim -- \u{2026}",
        )
    }
}

impl std::error::Error for NotInThisBuild {}

/// Plants `fault` on this thread, in place of the one before; `None` plants nothing.
///
/// # Errors
/// [`NotInThisBuild`], where a fault is asked for that was not compiled in.
pub fn plant(fault: Option<Fault>) -> Result<(), NotInThisBuild> {
    #[cfg(planted)]
    wal::planted::set(fault);
    if cfg!(planted) || fault.is_none() { Ok(()) } else { Err(NotInThisBuild) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_that_was_not_compiled_in_is_refused_and_the_way_to_it_is_told() {
        let planted = plant(Some(Fault::AckBeforeSync));
        assert_eq!(planted, if cfg!(planted) { Ok(()) } else { Err(NotInThisBuild) });
        assert_eq!(wal::planted::is(Fault::AckBeforeSync), cfg!(planted));
        assert_eq!(plant(None), Ok(()));
        assert!(!wal::planted::is(Fault::AckBeforeSync));
        assert!(NotInThisBuild.to_string().contains("RUSTFLAGS=\"--cfg planted\""));
    }
}
