//! Group commit without knowing what is committed: when a flush is due, who syncs, and who waits.
//!
//! This room lies below the log although its worker lies above: the log itself must answer waiters, and nothing here
//! names a log, a file or a clock.

#[cfg(all(test, loom))]
mod loom_models;
#[cfg_attr(not(test), expect(dead_code, reason = "the log takes it up in the next change"))]
#[expect(unreachable_pub, reason = "the log takes it up in the next change")]
mod marks;
mod policy;
mod queue;
#[cfg_attr(not(test), expect(dead_code, reason = "the log takes it up in the next change"))]
mod waiters;
mod waitlist;

#[cfg_attr(not(loom), expect(unused_imports, reason = "the log takes it up in the next change"))]
pub(crate) use marks::{Mark, Marks};
pub(crate) use policy::{Unsynced, due_at, is_due};
pub(crate) use queue::{CommitQueue, Enlisted, Ticket};
#[cfg_attr(not(loom), expect(unused_imports, reason = "the log takes it up in the next change"))]
pub(crate) use waiters::{MarkWaiters, WaitsFor};
