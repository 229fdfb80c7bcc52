//! Which ticket keys are accepted.

use std::cmp::Reverse;

use sekisho_paging::ticket::RING_MAX;
use sekisho_store::paging::TicketKey;

/// The live keys, as many as a ring holds. A database has no more, unless an earlier version has written it: then those are passed over that are the oldest, and said, but none under which its domain issues.
pub(super) fn accepted(keys: &[TicketKey]) -> Vec<&TicketKey> {
    let is_newest = |key: &TicketKey| {
        let mut others = keys
            .iter()
            .filter(|other| other.domain == key.domain && other.issues);
        key.issues && others.all(|other| other.epoch <= key.epoch)
    };
    let mut keys: Vec<_> = keys.iter().collect();
    keys.sort_by_key(|key| (!is_newest(key), Reverse(key.epoch)));
    if keys.len() > RING_MAX {
        tracing::error!(
            live = keys.len(),
            accepted = RING_MAX,
            "more ticket keys are live than can be accepted: retire some; devices with identities of the oldest come back by recovery"
        );
        keys.truncate(RING_MAX);
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_keys_the_oldest_are_passed_over() {
        let key = |domain, epoch, issues| TicketKey {
            domain,
            epoch,
            sealed: Vec::new(),
            issues,
            retired: false,
        };
        let mut keys: Vec<_> = (1..=20).map(|epoch| key(0, epoch, epoch <= 18)).collect();
        keys.push(key(9, 1, true));
        let accepted = accepted(&keys);
        let told: Vec<_> = accepted.iter().map(|key| (key.domain, key.epoch)).collect();
        assert_eq!(told.len(), RING_MAX);
        assert_eq!(told[..4], [(0, 18), (9, 1), (0, 20), (0, 19)]);
        assert_eq!(told[15], (0, 6));
        assert_eq!(super::accepted(&keys[..3]).len(), 3);
    }
}
