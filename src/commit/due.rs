//! Which of many logs their flusher is to look at. A log is listed by a key when somebody begins to wait for it or when
//! an append makes it due, and at most once at a time: what the flusher does grows with those that are due, not with
//! those that there are.
//!
//! The race to lose would be a log that is listed no more and not looked at either. A log is taken off the list before
//! it is looked at, and it is listed under the lock of its queue of waiters, which is the first that a look takes. Who
//! finds the log listed already is therefore seen by the look that is still to come.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use crossbeam::channel::Sender;

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

/// Whom a queue of waiters wakes instead of having one of them lead.
#[derive(Clone, Debug)]
pub(crate) enum Worker {
    /// A thread for this log alone.
    Thread(Sender<()>),
    /// One for many.
    Shared(Arc<Due>),
}

impl Worker {
    pub(crate) fn wake(&self) {
        match self {
            Self::Thread(wake) => {
                // Full means that it is awake or about to be.
                let _ = wake.try_send(());
            }
            Self::Shared(due) => due.list(),
        }
    }
}

/// Called when the list is no longer empty.
type OnListed = Arc<dyn Fn() + Send + Sync>;

/// The logs to be looked at, in the order in which they were listed. Any thread may call anything.
#[derive(Default)]
pub(crate) struct DueQueue {
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    listed: VecDeque<Arc<Due>>,
    on_listed: Option<OnListed>,
}

/// One log's place in a [`DueQueue`].
#[derive(Debug)]
pub(crate) struct Due {
    queue: Arc<DueQueue>,
    key: u64,
    is_listed: AtomicBool,
}

impl Due {
    pub(crate) fn new(queue: Arc<DueQueue>, key: u64) -> Self {
        Self { queue, key, is_listed: AtomicBool::new(false) }
    }

    pub(crate) fn key(&self) -> u64 {
        self.key
    }

    /// Lists the log, unless it is listed.
    pub(crate) fn list(self: &Arc<Self>) {
        if self.is_listed.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut list = self.queue.list.lock();
        list.listed.push_back(Arc::clone(self));
        // Whoever listed the first one has called for them all.
        let hook = if list.listed.len() == 1 { list.on_listed.clone() } else { None };
        drop(list);
        if let Some(hook) = hook {
            hook();
        }
    }
}

impl DueQueue {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// What to call when there is something to look at. It is called under locks: it may wake a thread, no more.
    pub(crate) fn on_listed(&self, hook: Option<OnListed>) {
        let mut list = self.list.lock();
        let is_late = !list.listed.is_empty();
        list.on_listed.clone_from(&hook);
        drop(list);
        if let Some(hook) = hook.filter(|_| is_late) {
            hook();
        }
    }

    /// Takes everybody off the list. The caller looks at each of them from now on, not before.
    pub(crate) fn take(&self) -> Vec<u64> {
        let listed = std::mem::take(&mut self.list.lock().listed);
        for due in &listed {
            due.is_listed.store(false, Ordering::Release);
        }
        listed.iter().map(|due| due.key).collect()
    }

    /// Whether nobody is listed.
    pub(crate) fn is_empty(&self) -> bool {
        self.list.lock().listed.is_empty()
    }
}

impl fmt::Debug for DueQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DueQueue").field("listed", &self.list.lock().listed.len()).finish_non_exhaustive()
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn each_is_listed_once_and_the_first_of_a_list_calls() {
        let queue = Arc::new(DueQueue::new());
        let calls = Arc::new(AtomicUsize::new(0));
        let dues: Vec<_> = (0..4).map(|key| Arc::new(Due::new(Arc::clone(&queue), key))).collect();
        dues[2].list();
        let counted = Arc::clone(&calls);
        queue.on_listed(Some(Arc::new(move || _ = counted.fetch_add(1, Ordering::Relaxed))));
        assert_eq!(calls.load(Ordering::Relaxed), 1, "one was listed before");
        for at in [0, 2, 0, 3, 2] {
            dues[at].list();
        }
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        assert_eq!(queue.take(), [2, 0, 3]);
        assert!(queue.is_empty());
        dues[2].list();
        assert_eq!(calls.load(Ordering::Relaxed), 2);
        assert_eq!(queue.take(), [2]);
    }
}
