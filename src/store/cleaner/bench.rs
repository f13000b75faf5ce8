//! Where a worker keeps the pass that it is at between two steps, and the memory that passes hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::engine::CleaningPass;
use crate::store::hosted::Hosted;
use crate::store::space::ReserveLoan;
use crate::sync::Mutex;

/// The place of one worker. A worker that is dismissed ends with its present step; another one with the same number has a
/// bench of its own.
pub(super) struct Bench {
    pub(super) number: usize,
    /// It works only while another worker hangs: a disk that does not answer must not end all cleaning.
    pub(super) is_stand_in: bool,
    at_work: Mutex<Option<AtWork>>,
    is_dismissed: AtomicBool,
}

impl std::fmt::Debug for Bench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bench")
            .field("number", &self.number)
            .field("is_dismissed", &self.is_dismissed)
            .finish_non_exhaustive()
    }
}

/// A pass between two steps.
pub(super) struct AtWork {
    pub(super) hosted: Arc<Hosted>,
    pub(super) pass: Box<dyn CleaningPass>,
    /// What a full disk's directory lent for it.
    pub(super) _loan: Option<ReserveLoan>,
    pub(super) memory: MemoryShare,
    /// Monotonic time of the next step, by the throttle.
    pub(super) due: Duration,
}

impl Bench {
    pub(super) fn new(number: usize) -> Self {
        Self { number, is_stand_in: false, at_work: Mutex::new(None), is_dismissed: AtomicBool::new(false) }
    }

    pub(super) fn stand_in() -> Self {
        Self { is_stand_in: true, ..Self::new(usize::MAX) }
    }

    pub(super) fn is_dismissed(&self) -> bool {
        self.is_dismissed.load(Ordering::Acquire)
    }

    pub(super) fn dismiss(&self) {
        self.is_dismissed.store(true, Ordering::Release);
    }

    /// Takes the pass out, so that nothing is locked while a disk is read.
    pub(super) fn take(&self) -> Option<AtWork> {
        self.at_work.lock().take()
    }

    pub(super) fn put(&self, at_work: AtWork) {
        *self.at_work.lock() = Some(at_work);
    }
}

/// What all passes together may hold.
#[derive(Debug, Default)]
pub(super) struct Memory(Arc<Mutex<u64>>);

/// What one pass may hold, given back when dropped.
#[derive(Debug)]
pub(super) struct MemoryShare {
    held: Arc<Mutex<u64>>,
    bytes: u64,
}

impl Memory {
    /// Takes a share, if all together then hold no more than `total`.
    pub(super) fn claim(&self, bytes: u64, total: u64) -> Option<MemoryShare> {
        let mut held = self.0.lock();
        let after = held.checked_add(bytes).filter(|after| *after <= total)?;
        *held = after;
        Some(MemoryShare { held: Arc::clone(&self.0), bytes })
    }

    /// Bytes that passes may hold now.
    pub(super) fn held(&self) -> u64 {
        *self.0.lock()
    }
}

impl MemoryShare {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        let mut held = self.held.lock();
        *held = held.saturating_sub(self.bytes);
    }
}
