//! Group commit without knowing what is committed: when a flush is due, who syncs, and who waits.
//!
//! This room lies below the log although its worker lies above: the log itself must answer waiters, and nothing here
//! names a log, a file or a clock.

mod due;
#[cfg(all(test, loom))]
mod loom_models;
mod marks;
mod policy;
mod queue;
mod waiters;
mod waitlist;

pub(crate) use due::{Due, DueQueue, Worker};
pub use marks::{Mark, Marks};
pub(crate) use policy::{Unsynced, due_at, is_due};
pub(crate) use queue::{CommitQueue, Enlisted, Ticket};
pub(crate) use waiters::{MarkWaiters, WaitsFor};
