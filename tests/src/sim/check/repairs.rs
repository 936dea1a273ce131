//! C10: anti-entropy fetches nothing in a world in which no disk lost anything. What a node does not have there is on its way, was superseded,
//! or was deleted: to fetch it would be at best a waste, at worst a key that comes back.

use engine::control::entropy::Compared;

use super::Violation;

/// Checker C10.
pub const C10: &str = "C10 nothing is repaired where nothing was lost";

/// What the comparisons of a node that lost nothing came to, by peer.
///
/// # Errors
/// [`C10`].
pub fn nothing_was_lost(name: &str, compared: impl Iterator<Item = Compared>) -> Result<(), Violation> {
    let (mut lacking, mut repaired) = (0, 0);
    for compared in compared {
        lacking += compared.lacking;
        repaired += compared.repaired;
    }
    if lacking == 0 && repaired == 0 {
        return Ok(());
    }
    let text = format!("{name} takes {lacking} keys for lost, and fetched {repaired}, although it lost nothing");
    Err(Violation::new(C10, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_taken_for_lost_is_noticed_fetched_or_not() {
        let sound = Compared { comparisons: 9, ended_unix_ms: 7, ..Compared::default() };
        assert_eq!(nothing_was_lost("sfo", [sound, sound].into_iter()), Ok(()));
        for wrong in [Compared { lacking: 1, ..sound }, Compared { repaired: 1, ..sound }] {
            let found = nothing_was_lost("sfo", [sound, wrong].into_iter());
            assert_eq!(found.err().map(|violation| violation.checker), Some(C10));
        }
    }
}
