//! A store's figures through the facade of the `metrics` crate, under the names of [`PUBLISHED`].
//!
//! Counters are set to what the store counted since it was opened, so that publishing twice changes nothing. What a
//! partition published stays with the recorder when the partition is deleted: the facade has no word for its end.

use std::path::Path;

use metrics::{Unit, counter, gauge};

use super::Store;
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
