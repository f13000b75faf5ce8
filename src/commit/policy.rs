//! Whether unsynced bytes are to be made durable now although nobody waits. Pure.

use std::time::Duration;

use crate::config::FlushPolicy;

/// What was appended and not yet synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unsynced {
    /// Records (offsets).
    pub(crate) records: u64,
    /// Bytes.
    pub(crate) bytes: u64,
    /// Monotonic time of the oldest append among them.
    pub(crate) since: Option<Duration>,
    /// Whether a sealed segment is among them.
    pub(crate) sealed: bool,
}

/// Whether any condition of `policy` is met at monotonic time `now`.
pub(crate) fn is_due(policy: &FlushPolicy, unsynced: &Unsynced, now: Duration) -> bool {
    policy.after_records.is_some_and(|limit| unsynced.records >= limit)
        || policy.after_bytes.is_some_and(|limit| unsynced.bytes >= limit)
        || (policy.on_roll && unsynced.sealed)
        || due_at(policy, unsynced).is_some_and(|at| now >= at)
}

/// When the time condition will be met, if it will.
pub(crate) fn due_at(policy: &FlushPolicy, unsynced: &Unsynced) -> Option<Duration> {
    unsynced.since?.checked_add(policy.after?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_condition_alone_is_enough_and_none_is_met_by_nothing() {
        let none = FlushPolicy { on_roll: false, ..FlushPolicy::default() };
        let second = Duration::from_secs(1);
        let much = Unsynced { records: 10, bytes: 1000, since: Some(second), sealed: true };
        assert!(!is_due(&none, &much, second * 100));
        assert!(is_due(&FlushPolicy { after_records: Some(10), ..none.clone() }, &much, second));
        assert!(!is_due(&FlushPolicy { after_records: Some(11), ..none.clone() }, &much, second));
        assert!(is_due(&FlushPolicy { after_bytes: Some(1000), ..none.clone() }, &much, second));
        assert!(is_due(&FlushPolicy { on_roll: true, ..none.clone() }, &much, second));
        let timed = FlushPolicy { after: Some(second), ..none };
        assert!(!is_due(&timed, &much, Duration::from_nanos(1_999_999_999)));
        assert!(is_due(&timed, &much, second * 2));
        let every = FlushPolicy { after_records: Some(1), after_bytes: Some(1), after: Some(second), ..timed };
        assert!(!is_due(&every, &Unsynced::default(), second * 100));
    }
}
