//! Locks with an order. In debug builds, taking a lock of a lower rank than one already held by the thread panics:
//! a deadlock found at the first wrong order, not at the first unlucky one.
//!
//! Order (each may be taken while those before it are held): `Naming` < `Partitions` < `Slot` < `Round` < `Writer` < `View` < `Queue` < `Leaf`.
//!
//! Locks and atomics that a model is to see come from here: in a test build with `--cfg loom` they are loom's, which
//! runs a model once for every order of steps that threads can take. Such a build runs models and nothing else.

#[cfg(all(test, loom))]
mod model;

#[cfg(all(debug_assertions, not(loom)))]
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use crate::clock::Deadline;

#[cfg(all(test, loom))]
pub(crate) use loom::sync::atomic;
#[cfg(all(test, loom))]
use model as locks;
#[cfg(not(all(test, loom)))]
use parking_lot as locks;
#[cfg(not(all(test, loom)))]
pub(crate) use std::sync::atomic;

/// Where a lock stands in the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// The names of a store's partitions: one creation, deletion or move at a time.
    Naming,
    /// Which partitions a store has.
    Partitions,
    /// What a store has of one partition: its open log, or what is kept of a closed one.
    Slot,
    /// One commit round (or truncation) at a time per log.
    Round,
    /// The append path of one log.
    Writer,
    /// The published view of one log.
    View,
    /// Waiters of one log.
    Queue,
    /// Held for a few instructions; nothing is locked under it.
    Leaf,
}

#[cfg(all(debug_assertions, not(loom)))]
thread_local! {
    static HELD: RefCell<Vec<Rank>> = const { RefCell::new(Vec::new()) };
}

/// Remembers in debug builds that this thread holds a rank.
#[derive(Debug)]
struct Held {
    #[cfg(all(debug_assertions, not(loom)))]
    rank: Rank,
}

impl Held {
    fn take(rank: Rank) -> Self {
        #[cfg(all(debug_assertions, not(loom)))]
        HELD.with_borrow_mut(|held| {
            let top = held.iter().max().copied();
            assert!(
                top.is_none_or(|top| top < rank || (top == rank && rank == Rank::Leaf)),
                "lock order broken: {rank:?} wanted while {held:?} are held"
            );
            held.push(rank);
        });
        #[cfg(not(all(debug_assertions, not(loom))))]
        let _ = rank;
        Self {
            #[cfg(all(debug_assertions, not(loom)))]
            rank,
        }
    }

    /// As [`Held::take`], for a lock that was taken without waiting: others of its rank may be held.
    fn take_beside(rank: Rank) -> Self {
        #[cfg(all(debug_assertions, not(loom)))]
        HELD.with_borrow_mut(|held| {
            assert!(
                held.iter().all(|other| *other <= rank),
                "lock order broken: {rank:?} wanted while {held:?} are held"
            );
            held.push(rank);
        });
        #[cfg(not(all(debug_assertions, not(loom))))]
        let _ = rank;
        Self {
            #[cfg(all(debug_assertions, not(loom)))]
            rank,
        }
    }
}

#[cfg(all(debug_assertions, not(loom)))]
impl Drop for Held {
    fn drop(&mut self) {
        HELD.with_borrow_mut(|held| {
            if let Some(at) = held.iter().rposition(|rank| *rank == self.rank) {
                held.remove(at);
            }
        });
    }
}

/// Runs `body` as if the thread held nothing: for a second log, which nobody has locked who then waits for the first one.
pub(crate) fn apart<T>(body: impl FnOnce() -> T) -> T {
    #[cfg(all(debug_assertions, not(loom)))]
    let _back = {
        /// Holds again what was held, however `body` ends.
        struct Back(Vec<Rank>);
        impl Drop for Back {
            fn drop(&mut self) {
                HELD.with_borrow_mut(|held| *held = std::mem::take(&mut self.0));
            }
        }
        Back(HELD.with_borrow_mut(std::mem::take))
    };
    body()
}

/// A mutex with a rank. [`Mutex::new`] makes a leaf.
#[derive(Debug)]
pub struct Mutex<T> {
    rank: Rank,
    lock: locks::Mutex<T>,
}

/// The lock held; released when dropped.
#[derive(Debug)]
pub struct MutexGuard<'a, T> {
    guard: locks::MutexGuard<'a, T>,
    _held: Held,
}

impl<T> Mutex<T> {
    /// A leaf lock.
    pub fn new(value: T) -> Self {
        Self::ranked(Rank::Leaf, value)
    }

    /// A lock at `rank`.
    pub fn ranked(rank: Rank, value: T) -> Self {
        Self { rank, lock: locks::Mutex::new(value) }
    }

    /// Waits for the lock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        let held = Held::take(self.rank);
        MutexGuard { guard: self.lock.lock(), _held: held }
    }

    /// Takes the lock if nobody holds it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let guard = self.lock.try_lock()?;
        Some(MutexGuard { guard, _held: Held::take(self.rank) })
    }

    /// As [`Mutex::try_lock`], also beside locks of the same rank that the thread holds already.
    ///
    /// It cannot close a circle of waiters: who takes locks in this way never waits for one of that rank, since
    /// [`Mutex::lock`] panics in debug builds where one is held, and what is waited for under it is of a higher rank,
    /// whose holders wait for none of this one.
    pub(crate) fn try_lock_beside(&self) -> Option<MutexGuard<'_, T>> {
        let guard = self.lock.try_lock()?;
        Some(MutexGuard { guard, _held: Held::take_beside(self.rank) })
    }
}

impl<T: Default> Default for RwLock<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

/// A condition variable over a [`Mutex`].
#[derive(Debug, Default)]
pub struct Condvar(locks::Condvar);

impl Condvar {
    /// Nobody waits yet.
    pub fn new() -> Self {
        Self(locks::Condvar::new())
    }

    /// Releases the lock until woken.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        self.0.wait(&mut guard.guard);
    }

    /// Releases the lock until woken or `timeout` has passed; `false` when it passed.
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, timeout: Duration) -> bool {
        !self.0.wait_for(&mut guard.guard, timeout).timed_out()
    }

    /// Releases the lock until woken or `deadline`; `false` when it passed.
    pub fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, deadline: Instant) -> bool {
        !self.0.wait_until(&mut guard.guard, deadline).timed_out()
    }

    /// Releases the lock until woken or `deadline`, which may be never; `false` when it passed.
    pub fn wait_by<T>(&self, guard: &mut MutexGuard<'_, T>, deadline: Deadline) -> bool {
        if let Some(at) = deadline.instant() {
            return self.wait_until(guard, at);
        }
        self.wait(guard);
        true
    }

    /// Wakes every waiter.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }

    /// Wakes one waiter.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }
}

/// A reader-writer lock with a rank.
#[derive(Debug)]
pub struct RwLock<T> {
    rank: Rank,
    lock: locks::RwLock<T>,
}

/// Shared access; released when dropped.
#[derive(Debug)]
pub struct ReadGuard<'a, T> {
    guard: locks::RwLockReadGuard<'a, T>,
    _held: Held,
}

/// Exclusive access; released when dropped.
#[derive(Debug)]
pub struct WriteGuard<'a, T> {
    guard: locks::RwLockWriteGuard<'a, T>,
    _held: Held,
}

impl<T> RwLock<T> {
    /// A leaf lock.
    pub fn new(value: T) -> Self {
        Self::ranked(Rank::Leaf, value)
    }

    /// A lock at `rank`.
    pub fn ranked(rank: Rank, value: T) -> Self {
        Self { rank, lock: locks::RwLock::new(value) }
    }

    /// Waits for shared access.
    pub fn read(&self) -> ReadGuard<'_, T> {
        let held = Held::take(self.rank);
        ReadGuard { guard: self.lock.read(), _held: held }
    }

    /// Waits for exclusive access.
    pub fn write(&self) -> WriteGuard<'_, T> {
        let held = Held::take(self.rank);
        WriteGuard { guard: self.lock.write(), _held: held }
    }

    /// Takes shared access if nobody has exclusive access.
    pub fn try_read(&self) -> Option<ReadGuard<'_, T>> {
        let guard = self.lock.try_read()?;
        Some(ReadGuard { guard, _held: Held::take(self.rank) })
    }

    /// Takes exclusive access if nobody has any.
    pub fn try_write(&self) -> Option<WriteGuard<'_, T>> {
        let guard = self.lock.try_write()?;
        Some(WriteGuard { guard, _held: Held::take(self.rank) })
    }
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "lock order broken")]
    fn the_wrong_order_panics_in_debug() {
        let writer = Mutex::ranked(Rank::Writer, ());
        let view = RwLock::ranked(Rank::View, ());
        let _view = view.read();
        let _writer = writer.lock();
    }

    #[test]
    fn several_of_one_rank_are_taken_without_waiting_and_given_back_by_a_panic() {
        let rounds: Vec<_> = (0..3).map(|n| Mutex::ranked(Rank::Round, n)).collect();
        let held: Vec<_> = rounds.iter().filter_map(Mutex::try_lock_beside).collect();
        assert_eq!(held.len(), 3);
        // Those of a higher rank may be waited for.
        assert!(Mutex::ranked(Rank::Writer, true).lock().eq(&true));
        let busy = std::thread::scope(|s| s.spawn(|| rounds[1].try_lock_beside().is_none()).join().unwrap());
        assert!(busy);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _held = held;
            std::panic::resume_unwind(Box::new("the round"));
        }));
        assert!(outcome.is_err());
        assert!(rounds.iter().all(|round| round.try_lock().is_some()));
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "lock order broken")]
    fn nobody_waits_for_a_rank_of_which_he_holds_one() {
        let (first, second) = (Mutex::ranked(Rank::Round, ()), Mutex::ranked(Rank::Round, ()));
        let _first = first.try_lock_beside().unwrap();
        let _second = second.lock();
    }

    #[test]
    fn the_right_order_passes_and_releases() {
        let writer = Mutex::ranked(Rank::Writer, 1);
        let view = RwLock::ranked(Rank::View, 2);
        for _ in 0..2 {
            let w = writer.lock();
            let v = view.write();
            assert_eq!(*w + *v, 3);
            drop(w);
            drop(v);
        }
        let first = writer.lock();
        assert!(std::thread::scope(|s| s.spawn(|| writer.try_lock().is_none()).join().unwrap()));
        drop(first);
        assert!(writer.try_lock().is_some());
    }
}
