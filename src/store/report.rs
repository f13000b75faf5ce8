//! What opening a store found.

use std::path::PathBuf;

use super::checkpoints::CheckpointFault;
use super::partition_id::TopicPartition;
use crate::error::{IoFailure, Unavailable};
use crate::log::RecoveryReport;

/// What opening a store found, directory by directory.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct StoreReport {
    /// One for each data directory, in the order in which they were named.
    pub directories: Vec<DirectoryReport>,
}

impl StoreReport {
    /// The partitions that could not be opened, and why.
    pub fn failed(&self) -> impl Iterator<Item = (&TopicPartition, &Unavailable)> {
        let lines = self.directories.iter().flat_map(|directory| &directory.lines);
        lines.filter_map(|line| line.outcome.as_ref().err().map(|error| (&line.partition, error)))
    }

    /// The partitions in which recovery found anything out of the ordinary.
    pub fn recovered(&self) -> impl Iterator<Item = (&TopicPartition, &RecoveryReport)> {
        let lines = self.directories.iter().flat_map(|directory| &directory.lines);
        lines.filter_map(|line| line.outcome.as_ref().ok().map(|report| (&line.partition, report)))
    }

    /// Partitions found.
    pub fn partitions(&self) -> usize {
        self.directories.iter().map(|directory| directory.partitions).sum()
    }
}

/// What opening one data directory found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct DirectoryReport {
    /// The directory.
    pub dir: PathBuf,
    /// Why it is offline, if it could not be opened. The others are served.
    pub offline: Option<IoFailure>,
    /// Whether its last shutdown was clean.
    pub was_clean: bool,
    /// Whether another program had the directory since a store of ours did: then its lists count, and not what our
    /// partitions say of themselves.
    pub was_elsewhere: bool,
    /// Lists of offsets that could not be read. They say nothing then.
    pub faults: Vec<CheckpointFault>,
    /// Partitions found.
    pub partitions: usize,
    /// Partitions whose logs were opened, because they had not been closed cleanly.
    pub opened: usize,
    /// Bytes scanned for that.
    pub scanned_bytes: u64,
    /// Partitions out of the ordinary.
    pub lines: Vec<PartitionReport>,
    /// Partitions that lie in an earlier directory as well. Those here are left alone.
    pub duplicates: Vec<TopicPartition>,
    /// Directories marked as strays, and copies that were being built. Left alone.
    pub set_aside: Vec<String>,
    /// Entries that are neither ours nor Kafka's. Left alone.
    pub unknown_entries: Vec<String>,
}

/// What opening one partition found.
#[derive(Clone, Debug)]
pub struct PartitionReport {
    /// Which one.
    pub partition: TopicPartition,
    /// What recovery found and did, or why the partition cannot be used.
    pub outcome: Result<RecoveryReport, Unavailable>,
}
