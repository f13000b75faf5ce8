//! What befalls a store, for the `tracing` crate; all of it is empty without the feature of that name.
//!
//! ```text
//! span   open_store             INFO   opening a store, its recovery threads included
//! event  recovered              INFO   a log was opened that had not been closed cleanly; WARN where it has damage
//! event  not opened             ERROR  a log could not be opened
//! event  retention              INFO   segments were deleted
//! event  scrubbed               WARN   another program wrote, or files beside the log were wrong
//! event  lists not written      ERROR  a directory's lists of offsets (Kafka's checkpoints) could not be
//! event  each StoreEvent        ERROR directory offline, partition failed, damage, panic, cleaning failed; WARN space,
//!                                 cleaner behind, cleaner state lost; INFO the way back
//! ```
//! The target of all is `alluvium::store`. Nothing here is on the way of an append or a read.

#[cfg(feature = "tracing")]
pub(super) use on::*;

#[cfg(not(feature = "tracing"))]
pub(super) use off::*;

#[cfg(feature = "tracing")]
mod on {
    use std::path::Path;

    use crate::error::{IoFailure, OpenError};
    use crate::log::{PartitionLog, SegmentScrub};
    use crate::segment::sum::LogVerdict;
    use crate::store::events::StoreEvent;
    use crate::store::partition_id::TopicPartition;

    const TARGET: &str = "alluvium::store";

    /// The span of an opening, to be entered by each thread that works for it.
    #[derive(Clone)]
    pub(in crate::store) struct Opening(tracing::Span);

    impl Opening {
        pub(in crate::store) fn begin(directories: usize) -> Self {
            Self(tracing::info_span!(target: TARGET, "open_store", directories))
        }

        /// The one that the thread is in.
        pub(in crate::store) fn present() -> Self {
            Self(tracing::Span::current())
        }

        pub(in crate::store) fn within<T>(&self, work: impl FnOnce() -> T) -> T {
            self.0.in_scope(work)
        }
    }

    pub(in crate::store) fn opened(partition: &TopicPartition, opened: &Result<PartitionLog, OpenError>) {
        let log = match opened {
            Ok(log) => log,
            Err(error) => return tracing::error!(target: TARGET, %partition, %error, "not opened"),
        };
        let report = log.recovery_report();
        let (scanned_bytes, cut_bytes) = (report.scanned_bytes, report.cut_bytes);
        let (findings, damaged) = (report.findings.len(), log.glance().damage.len());
        // A tail that is cut is what every crash leaves.
        if damaged > 0 {
            tracing::warn!(target: TARGET, %partition, scanned_bytes, cut_bytes, findings, damaged, "recovered");
        } else if scanned_bytes > 0 || !report.is_ordinary() {
            tracing::info!(target: TARGET, %partition, scanned_bytes, cut_bytes, findings, damaged, "recovered");
        }
    }

    pub(in crate::store) fn retained(partition: &TopicPartition, deleted_segments: usize) {
        if deleted_segments > 0 {
            tracing::info!(target: TARGET, %partition, deleted_segments, "retention");
        }
    }

    pub(in crate::store) fn scrubbed(partition: &TopicPartition, done: &SegmentScrub) {
        let (is_stale, sidecars) = (matches!(done.log, LogVerdict::Stale(_)), done.sidecars.len());
        if is_stale || sidecars > 0 {
            tracing::warn!(target: TARGET, %partition, is_stale, rebuilt_sidecars = sidecars, "scrubbed");
        }
    }

    pub(in crate::store) fn lists_not_written(dir: &Path, cause: &IoFailure) {
        tracing::error!(target: TARGET, dir = %dir.display(), %cause, "lists not written");
    }

    pub(in crate::store) fn emitted(event: &StoreEvent) {
        match event {
            StoreEvent::DirectoryOffline { dir, cause, partitions } => {
                let partitions = partitions.len();
                tracing::error!(target: TARGET, dir = %dir.display(), %cause, partitions, "directory offline");
            }
            StoreEvent::DirectoryOnline { dir } => {
                tracing::info!(target: TARGET, dir = %dir.display(), "directory online");
            }
            StoreEvent::PartitionFailed { partition, cause } => {
                tracing::error!(target: TARGET, %partition, %cause, "partition failed");
            }
            StoreEvent::PartitionReopened { partition } => {
                tracing::info!(target: TARGET, %partition, "partition reopened");
            }
            StoreEvent::DamageFound { partition, damage } => {
                tracing::error!(target: TARGET, %partition, %damage, "damage found");
            }
            StoreEvent::SpaceLow { dir, free, floor } => {
                tracing::warn!(target: TARGET, dir = %dir.display(), free, floor, "space low");
            }
            StoreEvent::SpaceOk { dir, free } => {
                tracing::info!(target: TARGET, dir = %dir.display(), free, "space ok");
            }
            StoreEvent::WorkerPanicked { worker, message } => {
                tracing::error!(target: TARGET, worker = worker.as_str(), panic = message.as_str(), "worker panicked");
            }
            StoreEvent::UnknownEntries { dir, names } => {
                tracing::warn!(target: TARGET, dir = %dir.display(), ?names, "unknown entries");
            }
            _ => emitted_by_cleaner(event),
        }
    }

    fn emitted_by_cleaner(event: &StoreEvent) {
        match event {
            StoreEvent::CleanerBehind { partition, backlog_bytes, overdue_ms, growth_bytes_per_second } => {
                tracing::warn!(
                    target: TARGET, %partition, backlog_bytes, overdue_ms, growth_bytes_per_second, "cleaner behind"
                );
            }
            StoreEvent::CleanerCaughtUp { partition } => {
                tracing::info!(target: TARGET, %partition, "cleaner caught up");
            }
            StoreEvent::CleaningFailed { partition, cause, attempt, retry_at } => {
                tracing::error!(target: TARGET, %partition, %cause, attempt, %retry_at, "cleaning failed");
            }
            StoreEvent::CleaningRecovered { partition } => {
                tracing::info!(target: TARGET, %partition, "cleaning recovered");
            }
            StoreEvent::CleaningPaused { partition, by } => {
                tracing::info!(target: TARGET, %partition, by = by.as_str(), "cleaning paused");
            }
            StoreEvent::CleaningResumed { partition } => {
                tracing::info!(target: TARGET, %partition, "cleaning resumed");
            }
            StoreEvent::CleanerStateLost { partition } => {
                tracing::warn!(target: TARGET, %partition, "cleaner state lost");
            }
            _ => {}
        }
    }
}

#[cfg(not(feature = "tracing"))]
mod off {
    use std::path::Path;

    use crate::error::{IoFailure, OpenError};
    use crate::log::{PartitionLog, SegmentScrub};
    use crate::store::events::StoreEvent;
    use crate::store::partition_id::TopicPartition;

    pub(in crate::store) struct Opening;

    impl Opening {
        pub(in crate::store) fn begin(_: usize) -> Self {
            Self
        }

        pub(in crate::store) fn present() -> Self {
            Self
        }

        #[expect(clippy::unused_self, reason = "the span of the other form")]
        pub(in crate::store) fn within<T>(&self, work: impl FnOnce() -> T) -> T {
            work()
        }
    }

    pub(in crate::store) fn opened(_: &TopicPartition, _: &Result<PartitionLog, OpenError>) {}

    pub(in crate::store) fn retained(_: &TopicPartition, _: usize) {}

    pub(in crate::store) fn scrubbed(_: &TopicPartition, _: &SegmentScrub) {}

    pub(in crate::store) fn lists_not_written(_: &Path, _: &IoFailure) {}

    pub(in crate::store) fn emitted(_: &StoreEvent) {}
}
