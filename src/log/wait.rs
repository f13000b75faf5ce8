//! Waiting for marks: long-poll fetches, acknowledgements by all replicas, transactions that are decided.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::sync::Durable;
use super::{LogCore, PartitionLog};
use crate::clock::Deadline;
use crate::commit::{Mark, WaitsFor};
use crate::error::{DurabilityError, WaitError};
use crate::units::Offset;

/// A future of a mark. Resolves with where the mark is. Dropping it costs nothing.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct MarkReached {
    core: Arc<LogCore>,
    mark: Mark,
    at_least: Offset,
    enlisted: Option<WaitsFor>,
    /// For the durable end: it rises only if somebody syncs.
    durable: Option<Durable>,
}

impl PartitionLog {
    /// A future of the moment when everything below `at_least` is below `mark`, as a fetch that found nothing waits for.
    /// Needs no particular runtime. Any number of them may wait; each is woken when its own offset is reached.
    ///
    /// A mark that falls, by truncation, leaves those who wait waiting.
    ///
    /// ```
    /// # use alluvium::{LogConfig, Mark, Offset, PartitionLog};
    /// # let dir = tempfile::tempdir()?;
    /// let log = PartitionLog::open(dir.path(), LogConfig::default())?;
    /// let next = Offset::new(1).unwrap();
    /// let reached = log.wait_for(Mark::HighWatermark, next);      // .await
    /// let late = log.wait_until(Mark::HighWatermark, next, std::time::Duration::from_millis(1));
    /// assert!(late.is_err());
    /// # drop(reached);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_for(&self, mark: Mark, at_least: Offset) -> MarkReached {
        MarkReached { core: Arc::clone(&self.core), mark, at_least, enlisted: None, durable: None }
    }

    /// Blocks until everything below `at_least` is below `mark`; returns where the mark is.
    ///
    /// # Errors
    /// [`WaitError`]: deadline passed, the log failed or was closed.
    pub fn wait_until(&self, mark: Mark, at_least: Offset, deadline: impl Into<Deadline>) -> Result<Offset, WaitError> {
        let deadline = deadline.into();
        if mark != Mark::DurableEnd {
            return self.core.waiters.wait(mark, at_least, deadline);
        }
        loop {
            self.core.waiters.wait(Mark::LogEnd, at_least, deadline).map_err(|late| self.of_the_durable_end(late))?;
            let ticket = self.core.queue.ticket(at_least);
            // A cut after this is told by the ticket, one before by the log end.
            if self.log_end() < at_least {
                continue;
            }
            match self.core.wait_durable(ticket, deadline) {
                Ok(()) => return Ok(self.durable_end().max(at_least)),
                // Cut off and perhaps appended anew: the wait is for the offset, whatever stands there.
                Err(DurabilityError::Truncated { .. } | DurabilityError::PastEnd { .. }) => {}
                Err(error) => return Err(in_terms_of_marks(error, at_least)),
            }
        }
    }
}

impl PartitionLog {
    /// What was waited for on the way to the durable end is no answer to who waits for that.
    fn of_the_durable_end(&self, error: WaitError) -> WaitError {
        match error {
            WaitError::DeadlinePassed { wanted, .. } => {
                WaitError::DeadlinePassed { mark: Mark::DurableEnd, at: self.durable_end(), wanted }
            }
            other => other,
        }
    }
}

fn in_terms_of_marks(error: DurabilityError, wanted: Offset) -> WaitError {
    match error {
        DurabilityError::DeadlinePassed { durable_end, .. } => {
            WaitError::DeadlinePassed { mark: Mark::DurableEnd, at: durable_end, wanted }
        }
        DurabilityError::Failed(failed) => WaitError::Failed(failed),
        DurabilityError::Unavailable(cause) => WaitError::Unavailable(cause),
        DurabilityError::Closed | DurabilityError::Truncated { .. } | DurabilityError::PastEnd { .. } => {
            WaitError::Closed
        }
    }
}

impl MarkReached {
    fn poll_mark(&mut self, mark: Mark, context: &Context<'_>) -> Poll<Result<Offset, WaitError>> {
        self.core.waiters.poll(mark, self.at_least, &mut self.enlisted, context)
    }

    fn poll_durable(&mut self, context: &mut Context<'_>) -> Poll<Result<Offset, WaitError>> {
        loop {
            if let Some(durable) = &mut self.durable {
                let outcome = std::task::ready!(Pin::new(durable).poll(context));
                self.durable = None;
                match outcome {
                    Ok(()) => return Poll::Ready(Ok(self.core.view.read().marks.durable_end.max(self.at_least))),
                    Err(DurabilityError::Truncated { .. } | DurabilityError::PastEnd { .. }) => {}
                    Err(error) => return Poll::Ready(Err(in_terms_of_marks(error, self.at_least))),
                }
            }
            std::task::ready!(self.poll_mark(Mark::LogEnd, context))?;
            let ticket = self.core.queue.ticket(self.at_least);
            // A cut after this is told by the ticket, one before by the log end.
            if self.core.view.read().marks.log_end < self.at_least {
                continue;
            }
            self.durable = Some(Durable::new(Arc::clone(&self.core), ticket));
        }
    }
}

impl Future for MarkReached {
    type Output = Result<Offset, WaitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        match this.mark {
            Mark::DurableEnd => this.poll_durable(context),
            mark => this.poll_mark(mark, context),
        }
    }
}

impl Drop for MarkReached {
    fn drop(&mut self) {
        if let Some(enlisted) = self.enlisted.take() {
            self.core.waiters.forget(enlisted);
        }
    }
}
