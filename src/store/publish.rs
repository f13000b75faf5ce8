//! A store's figures through the facade of the `metrics` crate, under the names of [`PUBLISHED`].
//!
//! Counters are set to what the store counted since it was opened, so that publishing twice changes nothing. What a
//! partition published stays with the recorder when the partition is deleted: the facade has no word for its end.

use std::path::Path;

use metrics::{Unit, counter, gauge};

use super::Store;
use super::cleaner::CleanerMetrics;
use super::metrics::{DirectoryMetrics, PartitionMetrics, StoreMetrics};
use super::partition_id::TopicPartition;
use super::shared::Shared;
use super::space::SpaceState;
use crate::metrics::LogCounts;

/// One figure that a store publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MetricDoc {
    /// Its name for the recorder.
    pub name: &'static str,
    /// Whether it is a counter; a gauge otherwise.
    pub is_counter: bool,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// The bean of Kafka's that says the same, or the nearest; empty where there is none.
    pub kafka: &'static str,
    /// What it says.
    pub doc: &'static str,
}

const fn counted(
    name: &'static str,
    labels: &'static [&'static str],
    kafka: &'static str,
    doc: &'static str,
) -> MetricDoc {
    MetricDoc { name, is_counter: true, labels, kafka, doc }
}

const fn measured(
    name: &'static str,
    labels: &'static [&'static str],
    kafka: &'static str,
    doc: &'static str,
) -> MetricDoc {
    MetricDoc { is_counter: false, ..counted(name, labels, kafka, doc) }
}

const LOG: &[&str] = &["topic", "partition"];
const DIR: &[&str] = &["dir"];
const STORE: &[&str] = &[];

/// Every figure that [`Store::publish_metrics`] sets. Bytes unless the name says otherwise.
///
/// ```
/// for line in alluvium::store::PUBLISHED {
///     println!("{} {:?} ({}): {}", line.name, line.labels, line.kafka, line.doc);
/// }
/// ```
pub const PUBLISHED: &[MetricDoc] = &[
    measured(
        "alluvium_log_size_bytes",
        LOG,
        "kafka.log:type=Log,name=Size",
        "bytes of the log; absent until it was opened",
    ),
    measured(
        "alluvium_log_segments",
        LOG,
        "kafka.log:type=Log,name=NumLogSegments",
        "segments; absent until it was opened",
    ),
    measured("alluvium_log_start_offset", LOG, "kafka.log:type=Log,name=LogStartOffset", "first readable offset"),
    measured("alluvium_log_end_offset", LOG, "kafka.log:type=Log,name=LogEndOffset", "next offset to be assigned"),
    measured("alluvium_log_durable_offset", LOG, "", "everything below it survives a power loss"),
    counted(
        "alluvium_log_bytes_in_total",
        LOG,
        "kafka.server:type=BrokerTopicMetrics,name=BytesInPerSec",
        "bytes appended",
    ),
    counted("alluvium_log_batches_in_total", LOG, "", "batches appended"),
    counted(
        "alluvium_log_reads_total",
        LOG,
        "kafka.server:type=BrokerTopicMetrics,name=TotalFetchRequestsPerSec",
        "reads answered",
    ),
    counted(
        "alluvium_log_flushes_total",
        LOG,
        "kafka.log:type=LogFlushStats,name=LogFlushRateAndTimeMs",
        "commit rounds that synced something",
    ),
    counted(
        "alluvium_bytes_in_total",
        STORE,
        "kafka.server:type=BrokerTopicMetrics,name=BytesInPerSec",
        "bytes appended to all logs, also to deleted ones",
    ),
    counted("alluvium_batches_in_total", STORE, "", "batches appended"),
    counted("alluvium_duplicate_appends_total", STORE, "", "appends of batches that were there already"),
    counted(
        "alluvium_undone_appends_total",
        STORE,
        "kafka.server:type=BrokerTopicMetrics,name=FailedProduceRequestsPerSec",
        "appends whose write failed and was undone",
    ),
    counted(
        "alluvium_reads_total",
        STORE,
        "kafka.server:type=BrokerTopicMetrics,name=TotalFetchRequestsPerSec",
        "reads answered",
    ),
    counted(
        "alluvium_log_flushes_all_total",
        STORE,
        "kafka.log:type=LogFlushStats,name=LogFlushRateAndTimeMs",
        "commit rounds of logs that synced something",
    ),
    counted("alluvium_rolls_total", STORE, "", "segments rolled"),
    counted("alluvium_deleted_segments_total", STORE, "", "segments that retention took out"),
    counted("alluvium_deleted_bytes_total", STORE, "", "bytes of their logs"),
    counted("alluvium_side_file_failures_total", STORE, "", "indexes and other side files left for later"),
    counted("alluvium_opened_logs_total", STORE, "", "logs opened, created ones included"),
    counted("alluvium_recovered_logs_total", STORE, "", "of these, such as had something to scan"),
    counted("alluvium_recovered_bytes_total", STORE, "", "bytes scanned for that"),
    counted("alluvium_failed_openings_total", STORE, "", "logs that could not be opened"),
    counted("alluvium_parked_logs_total", STORE, "", "logs put aside for want of use"),
    counted("alluvium_scrubbed_bytes_total", STORE, "", "bytes of logs that the scrubber read"),
    counted("alluvium_scrubbed_segments_total", STORE, "", "segments that it went through"),
    counted("alluvium_scrub_damaged_ranges_total", STORE, "", "ranges that it found damaged"),
    counted("alluvium_scrub_failures_total", STORE, "", "partitions that it could not go through to the end"),
    measured(
        "alluvium_cleaner_max_dirty_percent",
        STORE,
        "kafka.log:type=LogCleanerManager,name=max-dirty-percent",
        "of all partitions, the largest share that could be cleaned, in percent",
    ),
    measured(
        "alluvium_cleaner_time_since_last_run_ms",
        STORE,
        "kafka.log:type=LogCleanerManager,name=time-since-last-run-ms",
        "milliseconds since a pass came to its end",
    ),
    measured(
        "alluvium_cleaner_uncleanable_partitions_count",
        STORE,
        "kafka.log:type=LogCleanerManager,name=uncleanable-partitions-count",
        "partitions whose last pass failed, or that are damaged",
    ),
    measured(
        "alluvium_cleaner_uncleanable_bytes",
        STORE,
        "kafka.log:type=LogCleanerManager,name=uncleanable-bytes",
        "bytes that could be cleaned of those whose last pass failed",
    ),
    measured(
        "alluvium_cleaner_dead_thread_count",
        STORE,
        "kafka.log:type=LogCleaner,name=DeadThreadCount",
        "threads that should clean and do not",
    ),
    measured(
        "alluvium_cleaner_max_compaction_delay_secs",
        STORE,
        "kafka.log:type=LogCleaner,name=max-compaction-delay-secs",
        "seconds for which the record that is longest overdue should have been cleaned",
    ),
    measured(
        "alluvium_cleaner_max_buffer_utilization_percent",
        STORE,
        "kafka.log:type=LogCleaner,name=max-buffer-utilization-percent",
        "how much of its memory the last pass held, in percent",
    ),
    measured(
        "alluvium_cleaner_recopy_percent",
        STORE,
        "kafka.log:type=LogCleaner,name=cleaner-recopy-percent",
        "bytes written of those read, in percent",
    ),
    measured(
        "alluvium_cleaner_max_clean_time_secs",
        STORE,
        "kafka.log:type=LogCleaner,name=max-clean-time-secs",
        "seconds that the longest pass took",
    ),
    measured("alluvium_cleaner_stuck_workers", STORE, "", "workers whose step takes longer than any should"),
    measured("alluvium_cleaner_behind_partitions", STORE, "", "partitions that the cleaner does not keep up with"),
    measured("alluvium_cleaner_cleaning_partitions", STORE, "", "partitions that are being cleaned"),
    measured("alluvium_cleaner_due_partitions", STORE, "", "partitions that wait to be cleaned"),
    measured("alluvium_cleaner_paused_partitions", STORE, "", "partitions that are not to be cleaned for now"),
    measured("alluvium_cleaner_backlog_bytes", STORE, "", "bytes that could be cleaned and are not"),
    measured("alluvium_cleaner_memory_bytes", STORE, "", "memory that passes may hold now"),
    measured("alluvium_cleaner_memory_peak_bytes", STORE, "", "the most memory that a pass held, codecs apart"),
    counted("alluvium_cleaner_passes_total", STORE, "", "passes that came to their end"),
    counted("alluvium_cleaner_spilling_passes_total", STORE, "", "of these, such as sorted out keys on disk"),
    counted("alluvium_cleaner_partial_passes_total", STORE, "", "of these, such as ended early for want of memory"),
    counted("alluvium_cleaner_failures_total", STORE, "", "passes that failed"),
    counted("alluvium_cleaner_times_behind_total", STORE, "", "times that a partition fell behind"),
    counted("alluvium_cleaner_moved_bytes_total", STORE, "", "bytes read and written, also by passes that failed"),
    counted("alluvium_cleaner_read_bytes_total", STORE, "", "bytes read by passes that came to their end"),
    counted("alluvium_cleaner_written_bytes_total", STORE, "", "bytes of segments that these wrote"),
    counted("alluvium_cleaner_spilled_bytes_total", STORE, "", "bytes that these spilled"),
    counted("alluvium_cleaner_freed_bytes_total", STORE, "", "bytes that these freed"),
    counted("alluvium_cleaner_read_records_total", STORE, "", "records that these read"),
    counted("alluvium_cleaner_kept_records_total", STORE, "", "records that these kept"),
    counted("alluvium_cleaner_keyless_records_total", STORE, "", "records without a key, which are not kept"),
    measured("alluvium_partitions_open", STORE, "", "partitions whose logs are open"),
    measured("alluvium_partitions_idle", STORE, "", "partitions put aside"),
    measured("alluvium_partitions_failed", STORE, "", "partitions that could not be opened"),
    measured(
        "alluvium_partitions_away",
        STORE,
        "kafka.server:type=ReplicaManager,name=OfflineReplicaCount",
        "partitions of directories that are offline",
    ),
    measured("alluvium_open_files", STORE, "", "open descriptors"),
    measured("alluvium_maps", STORE, "", "memory maps of segments"),
    measured("alluvium_index_memory_bytes", STORE, "", "memory that indexes take"),
    measured(
        "alluvium_dir_offline",
        DIR,
        "kafka.log:type=LogManager,name=LogDirectoryOffline",
        "1 while the directory is offline",
    ),
    measured("alluvium_dir_partitions", DIR, "", "partitions that lie in it"),
    measured("alluvium_dir_space_low", DIR, "", "1 while it refuses appends for want of space"),
    measured("alluvium_dir_free_bytes", DIR, "", "free bytes at the last look"),
    counted("alluvium_dir_flush_rounds_total", DIR, "", "rounds of its flusher"),
    counted("alluvium_dir_flushed_logs_total", DIR, "", "logs that these made durable"),
    counted("alluvium_dir_busy_logs_total", DIR, "", "logs left out of a round because somebody else had them"),
    counted("alluvium_dir_list_writes_total", DIR, "", "lists of offsets (Kafka's checkpoints) that were replaced"),
    counted("alluvium_dir_list_failures_total", DIR, "", "times that a list could not be"),
];

/// Tells the recorder of this thread, or of the process, what every figure means. To be called once, after the
/// recorder was installed.
pub fn describe_metrics() {
    for line in PUBLISHED {
        let unit = if line.name.contains("_bytes") { Unit::Bytes } else { Unit::Count };
        if line.is_counter {
            metrics::describe_counter!(line.name, unit, line.doc);
        } else {
            metrics::describe_gauge!(line.name, unit, line.doc);
        }
    }
}

impl Store {
    /// Sets every figure of [`PUBLISHED`] in the recorder that the `metrics` crate finds. The housekeeper does it every
    /// 5 seconds by itself. Costs some calls for each partition.
    pub fn publish_metrics(&self) {
        self.shared.publish_metrics();
    }
}

impl Shared {
    pub(super) fn publish_metrics(&self) {
        for hosted in self.all() {
            publish_partition(&hosted.name, &hosted.metrics());
        }
        let store = self.metrics();
        publish_logs(&store.logs);
        publish_work(&store);
        publish_cleaning(&store.cleaning);
        for directory in &store.directories {
            publish_directory(&directory.dir, directory);
        }
    }
}

/// Exact up to 2^53, past which no gauge of the facade goes.
#[expect(clippy::cast_precision_loss, reason = "gauges are floating-point numbers")]
fn real(number: u64) -> f64 {
    number as f64
}

fn publish_partition(name: &TopicPartition, metrics: &PartitionMetrics) {
    let labels = [("topic", name.topic().to_owned()), ("partition", name.partition().to_string())];
    let measure = |figure: &'static str, number: u64| gauge!(figure, &labels).set(real(number));
    if let Some(bytes) = metrics.bytes {
        measure("alluvium_log_size_bytes", bytes);
    }
    if let Some(segments) = metrics.segments {
        measure("alluvium_log_segments", segments as u64);
    }
    if let Some(marks) = metrics.marks {
        for (figure, offset) in [
            ("alluvium_log_start_offset", marks.log_start),
            ("alluvium_log_end_offset", marks.log_end),
            ("alluvium_log_durable_offset", marks.durable_end),
        ] {
            measure(figure, offset.value().unsigned_abs());
        }
    }
    let count = |figure: &'static str, number: u64| counter!(figure, &labels).absolute(number);
    count("alluvium_log_bytes_in_total", metrics.counts.appended_bytes);
    count("alluvium_log_batches_in_total", metrics.counts.appended_batches);
    count("alluvium_log_reads_total", metrics.counts.reads);
    count("alluvium_log_flushes_total", metrics.counts.sync_rounds);
}

fn count(figure: &'static str, number: u64) {
    counter!(figure).absolute(number);
}

fn measure(figure: &'static str, number: u64) {
    gauge!(figure).set(real(number));
}

fn publish_logs(logs: &LogCounts) {
    count("alluvium_bytes_in_total", logs.appended_bytes);
    count("alluvium_batches_in_total", logs.appended_batches);
    count("alluvium_duplicate_appends_total", logs.duplicate_appends);
    count("alluvium_undone_appends_total", logs.undone_appends);
    count("alluvium_reads_total", logs.reads);
    count("alluvium_log_flushes_all_total", logs.sync_rounds);
    count("alluvium_rolls_total", logs.rolls);
    count("alluvium_deleted_segments_total", logs.deleted_segments);
    count("alluvium_deleted_bytes_total", logs.deleted_bytes);
    count("alluvium_side_file_failures_total", logs.side_file_failures);
}

fn publish_work(store: &StoreMetrics) {
    count("alluvium_opened_logs_total", store.work.opened_logs);
    count("alluvium_recovered_logs_total", store.work.recovered_logs);
    count("alluvium_recovered_bytes_total", store.work.recovered_bytes);
    count("alluvium_failed_openings_total", store.work.failed_openings);
    count("alluvium_parked_logs_total", store.work.parked_logs);
    count("alluvium_scrubbed_bytes_total", store.scrubbing.bytes);
    count("alluvium_scrubbed_segments_total", store.scrubbing.segments);
    count("alluvium_scrub_damaged_ranges_total", store.scrubbing.damaged_ranges);
    count("alluvium_scrub_failures_total", store.scrubbing.failures);
    measure("alluvium_partitions_open", store.partitions.open);
    measure("alluvium_partitions_idle", store.partitions.idle);
    measure("alluvium_partitions_failed", store.partitions.failed);
    measure("alluvium_partitions_away", store.partitions.away);
    measure("alluvium_open_files", store.descriptors.open);
    measure("alluvium_maps", store.residency.maps);
    measure("alluvium_index_memory_bytes", store.residency.index_bytes);
}

fn publish_cleaning(cleaning: &CleanerMetrics) {
    measure("alluvium_cleaner_max_dirty_percent", cleaning.max_dirty_percent);
    measure("alluvium_cleaner_time_since_last_run_ms", cleaning.time_since_last_run_ms);
    measure("alluvium_cleaner_uncleanable_partitions_count", cleaning.uncleanable_partitions_count);
    measure("alluvium_cleaner_uncleanable_bytes", cleaning.uncleanable_bytes);
    measure("alluvium_cleaner_dead_thread_count", cleaning.dead_thread_count);
    measure("alluvium_cleaner_stuck_workers", cleaning.stuck_workers);
    measure("alluvium_cleaner_max_compaction_delay_secs", cleaning.max_compaction_delay_secs);
    measure("alluvium_cleaner_max_buffer_utilization_percent", cleaning.max_buffer_utilization_percent);
    measure("alluvium_cleaner_recopy_percent", cleaning.cleaner_recopy_percent);
    measure("alluvium_cleaner_max_clean_time_secs", cleaning.max_clean_time_secs);
    measure("alluvium_cleaner_behind_partitions", cleaning.behind_partitions);
    measure("alluvium_cleaner_cleaning_partitions", cleaning.cleaning_partitions);
    measure("alluvium_cleaner_due_partitions", cleaning.due_partitions);
    measure("alluvium_cleaner_paused_partitions", cleaning.paused_partitions);
    measure("alluvium_cleaner_backlog_bytes", cleaning.backlog_bytes);
    measure("alluvium_cleaner_memory_bytes", cleaning.memory_bytes);
    measure("alluvium_cleaner_memory_peak_bytes", cleaning.memory_peak_bytes);
    count("alluvium_cleaner_passes_total", cleaning.counts.passes);
    count("alluvium_cleaner_spilling_passes_total", cleaning.counts.spilling_passes);
    count("alluvium_cleaner_partial_passes_total", cleaning.counts.partial_passes);
    count("alluvium_cleaner_failures_total", cleaning.counts.failures);
    count("alluvium_cleaner_times_behind_total", cleaning.counts.times_behind);
    count("alluvium_cleaner_moved_bytes_total", cleaning.counts.moved_bytes);
    count("alluvium_cleaner_read_bytes_total", cleaning.counts.read_bytes);
    count("alluvium_cleaner_written_bytes_total", cleaning.counts.written_bytes);
    count("alluvium_cleaner_spilled_bytes_total", cleaning.counts.spilled_bytes);
    count("alluvium_cleaner_freed_bytes_total", cleaning.counts.freed_bytes);
    count("alluvium_cleaner_read_records_total", cleaning.counts.read_records);
    count("alluvium_cleaner_kept_records_total", cleaning.counts.kept_records);
    count("alluvium_cleaner_keyless_records_total", cleaning.counts.keyless_records);
}

fn publish_directory(dir: &Path, directory: &DirectoryMetrics) {
    let labels = [("dir", dir.display().to_string())];
    let measure = |figure: &'static str, number: u64| gauge!(figure, &labels).set(real(number));
    let is_low = directory.space.is_some_and(|space| space.state != SpaceState::Ok);
    measure("alluvium_dir_offline", u64::from(directory.is_offline));
    measure("alluvium_dir_partitions", directory.partitions);
    measure("alluvium_dir_space_low", u64::from(is_low));
    if let Some(report) = directory.space {
        measure("alluvium_dir_free_bytes", report.space.free);
    }
    let count = |figure: &'static str, number: u64| counter!(figure, &labels).absolute(number);
    count("alluvium_dir_flush_rounds_total", directory.flush_rounds);
    count("alluvium_dir_flushed_logs_total", directory.flushed_logs);
    count("alluvium_dir_busy_logs_total", directory.busy_logs);
    count("alluvium_dir_list_writes_total", directory.list_writes);
    count("alluvium_dir_list_failures_total", directory.list_failures);
}
