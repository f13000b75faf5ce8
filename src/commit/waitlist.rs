//! Wakers by the offset that each waits for: whoever is due is found without a look at the others.

use std::collections::BTreeMap;
use std::task::Waker;

use crate::units::Offset;

/// A place in a [`WaitList`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    wanted: Offset,
    /// Tells apart who waits for the same offset, first come first.
    id: u64,
}

/// Wakers in the order of what they wait for, each with a note. Every operation costs O(log n) and O(log n) for each
/// waker that it hands out, but for [`WaitList::take_where`].
///
/// Wakers are always handed out and never dropped or called here: a list lives under a lock, and the last waker of a
/// task may take the task with it, whose futures then come back to take themselves out of the list.
#[derive(Debug)]
pub(super) struct WaitList<N> {
    waiting: BTreeMap<Place, (N, Waker)>,
    next_id: u64,
}

impl<N> WaitList<N> {
    pub(super) fn new() -> Self {
        Self { waiting: BTreeMap::new(), next_id: 0 }
    }

    /// A place that nobody else has, for `wanted`.
    pub(super) fn place(&mut self, wanted: Offset) -> Place {
        let id = self.next_id;
        self.next_id += 1;
        Place { wanted, id }
    }

    /// Puts a waker in its place; hands out the one that was there.
    #[must_use = "a waker is dropped without the lock"]
    pub(super) fn put(&mut self, place: Place, note: N, waker: Waker) -> Option<Waker> {
        self.waiting.insert(place, (note, waker)).map(|(_, waker)| waker)
    }

    /// Clears a place; nothing happens when it is empty.
    #[must_use = "a waker is dropped without the lock"]
    pub(super) fn remove(&mut self, place: Place) -> Option<Waker> {
        self.waiting.remove(&place).map(|(_, waker)| waker)
    }

    /// Takes out whoever wants `end` or less.
    pub(super) fn take_up_to(&mut self, end: Offset, taken: &mut Vec<Waker>) {
        while let Some(first) = self.waiting.first_entry().filter(|first| first.key().wanted <= end) {
            taken.push(first.remove().1);
        }
    }

    /// Takes out whoever wants more than `end`.
    pub(super) fn take_past(&mut self, end: Offset, taken: &mut Vec<Waker>) {
        while let Some(last) = self.waiting.last_entry().filter(|last| last.key().wanted > end) {
            taken.push(last.remove().1);
        }
    }

    /// Takes out whoever has a note that `is_due`. Looks at everybody.
    pub(super) fn take_where(&mut self, is_due: impl Fn(&N) -> bool, taken: &mut Vec<Waker>) {
        taken.extend(self.waiting.extract_if(.., |_, (note, _)| is_due(note)).map(|(_, (_, waker))| waker));
    }

    /// Takes out everybody.
    pub(super) fn take_all(&mut self, taken: &mut Vec<Waker>) {
        taken.extend(std::mem::take(&mut self.waiting).into_values().map(|(_, waker)| waker));
    }

    /// The smallest offset that somebody wants.
    pub(super) fn lowest(&self) -> Option<Offset> {
        self.waiting.first_key_value().map(|(place, _)| place.wanted)
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl Place {
    pub(super) fn wanted(self) -> Offset {
        self.wanted
    }
}

/// Calls every waker, the others too when one panics. To be called without a lock: they may poll again at once.
pub(super) fn wake_all(wakers: Vec<Waker>) {
    let mut rest = Rest(wakers.into_iter());
    for waker in rest.0.by_ref() {
        waker.wake();
    }
}

/// Those who are not woken yet. They must not be lost to the panic of a waker that is not theirs.
struct Rest(std::vec::IntoIter<Waker>);

impl Drop for Rest {
    fn drop(&mut self) {
        self.0.by_ref().for_each(Waker::wake);
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    fn at(value: i64) -> Offset {
        Offset::new(value).unwrap()
    }

    #[test]
    fn whoever_is_due_is_taken_and_nobody_else() {
        let mut list = WaitList::new();
        for wanted in [5, 1, 3, 3, 9, 7] {
            let place = list.place(at(wanted));
            assert!(list.put(place, wanted, Waker::noop().clone()).is_none());
            assert!(list.put(place, wanted, Waker::noop().clone()).is_some());
        }
        let take = |list: &mut WaitList<i64>, how: &dyn Fn(&mut WaitList<i64>, &mut Vec<Waker>)| {
            let mut taken = Vec::new();
            how(list, &mut taken);
            (taken.len(), list.lowest().map(Offset::value), list.len())
        };
        assert_eq!(take(&mut list, &|list, taken| list.take_up_to(at(0), taken)), (0, Some(1), 6));
        assert_eq!(take(&mut list, &|list, taken| list.take_up_to(at(3), taken)), (3, Some(5), 3));
        assert_eq!(take(&mut list, &|list, taken| list.take_past(at(9), taken)), (0, Some(5), 3));
        assert_eq!(take(&mut list, &|list, taken| list.take_past(at(8), taken)), (1, Some(5), 2));
        assert_eq!(take(&mut list, &|list, taken| list.take_where(|note| *note == 5, taken)), (1, Some(7), 1));
        let place = list.place(at(8));
        assert!(list.remove(place).is_none());
        assert_eq!(take(&mut list, &WaitList::take_all), (1, None, 0));
        assert!(list.is_empty());
    }

    struct Counts(AtomicUsize);

    impl Wake for Counts {
        fn wake(self: Arc<Self>) {
            let before = self.0.fetch_add(1, Ordering::Relaxed);
            assert_ne!(before, 1, "the second call of this waker panics");
        }
    }

    #[test]
    fn a_waker_that_panics_costs_nobody_else_the_wake_up() {
        let counts = Arc::new(Counts(AtomicUsize::new(0)));
        let wakers = (0..5).map(|_| Waker::from(Arc::clone(&counts))).collect();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wake_all(wakers)));
        assert!(outcome.is_err());
        assert_eq!(counts.0.load(Ordering::Relaxed), 5);
    }
}
