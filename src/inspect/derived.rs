//! The files that say what lies beyond records: producer snapshots, aborted transactions, leader epochs. As stored, each
//! judged by its own form alone.

use super::PartitionFiles;
use crate::error::IoFailure;
use crate::index::producer::read_snapshot;
use crate::index::{AbortedTxn, AbortedTxns, EpochStart, IndexFault, ProducerState, SnapshotFault, TextFault};
use crate::log::{derived_bytes, read_epochs};
use crate::segment::{FileKind, SegmentFile, Stage};
use crate::units::Offset;

impl PartitionFiles {
    /// Where the producer snapshots in the directory were taken: each tells of what lies below its offset. Rising.
    ///
    /// # Errors
    /// [`IoFailure`] when the directory cannot be listed.
    pub fn snapshots(&self) -> Result<Vec<Offset>, IoFailure> {
        let entries = self.entries()?;
        let is_snapshot = |file: &SegmentFile| file.kind == FileKind::Snapshot && file.stage == Stage::Live;
        let files = entries.iter().filter_map(SegmentFile::of).filter(is_snapshot);
        let mut offsets: Vec<Offset> = files.map(|file| file.base).collect();
        offsets.sort_unstable();
        Ok(offsets)
    }

    /// What the snapshot at `at` says of each producer, by rising id; `None` when there is no such file, or one that is
    /// larger than any snapshot.
    ///
    /// # Errors
    /// [`IoFailure`] when the file cannot be read. Wrong bytes in it are no error but part of the answer.
    pub fn snapshot(&self, at: Offset) -> Result<Option<Result<Vec<ProducerState>, SnapshotFault>>, IoFailure> {
        let name = SegmentFile::live(at, FileKind::Snapshot).name();
        Ok(derived_bytes(&self.home, &name)?.map(|bytes| read_snapshot(&bytes)))
    }

    /// The aborted transactions whose markers lie in the segment with base offset `base`; `None` when there is no such
    /// file, which is how a segment without any has it.
    ///
    /// # Errors
    /// As [`PartitionFiles::snapshot`].
    pub fn aborted(&self, base: Offset) -> Result<Option<Result<Vec<AbortedTxn>, IndexFault>>, IoFailure> {
        let name = SegmentFile::live(base, FileKind::TxnIndex).name();
        let decode = |bytes: Vec<u8>| AbortedTxns::decode(&bytes, base).map(|found| found.entries().to_vec());
        Ok(derived_bytes(&self.home, &name)?.map(decode))
    }

    /// Where each leader epoch began, as `leader-epoch-checkpoint` has it; `None` when there is no such file.
    ///
    /// # Errors
    /// As [`PartitionFiles::snapshot`].
    pub fn leader_epochs(&self) -> Result<Option<Result<Vec<EpochStart>, TextFault>>, IoFailure> {
        Ok(match read_epochs(&self.home)? {
            Ok(found) => found.map(|epochs| Ok(epochs.entries().to_vec())),
            Err(fault) => Some(Err(fault)),
        })
    }
}
