//! Control records: what their key and value say.

use super::batch::BatchView;
use super::compress::Compression;
use super::layout::HEADER_BYTES;
use crate::error::{InvalidBatch, InvalidRecord};

/// A control record, decoded as far as a log needs it.
///
/// ```
/// # use alluvium::record::ControlRecord;
/// let key = [0, 0, 0, 1];
/// let value = [0, 0, 0, 0, 0, 9];
/// assert_eq!(ControlRecord::parse(Some(&key), Some(&value)), Ok(ControlRecord::Commit { coordinator_epoch: 9 }));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ControlRecord {
    /// The producer's open transaction is aborted.
    Abort {
        /// Number of the leadership of the transaction coordinator.
        coordinator_epoch: i32,
    },
    /// The producer's open transaction is committed.
    Commit {
        /// Number of the leadership of the transaction coordinator.
        coordinator_epoch: i32,
    },
    /// A leader was elected in the metadata quorum. The value is opaque here, as are those below.
    LeaderChange,
    /// A metadata snapshot starts.
    SnapshotHeader,
    /// A metadata snapshot ends.
    SnapshotFooter,
    /// The version of the quorum's protocol.
    KraftVersion,
    /// The voters of the quorum.
    KraftVoters,
    /// A type that this build does not know; to be ignored.
    Unknown(i16),
}

const ABORT: i16 = 0;
const COMMIT: i16 = 1;

impl ControlRecord {
    /// Reads the type from the key, and from a marker's value its coordinator epoch. Newer versions may be longer;
    /// what is past the known fields is ignored.
    pub fn parse(key: Option<&[u8]>, value: Option<&[u8]>) -> Result<Self, InvalidRecord> {
        let (_, rest) = take_version(key.unwrap_or_default(), "control key version")?;
        let Some((kind, _)) = rest.split_first_chunk() else {
            return Err(InvalidRecord::Short { field: "control key type" });
        };
        Ok(match i16::from_be_bytes(*kind) {
            ABORT => Self::Abort { coordinator_epoch: coordinator_epoch(value)? },
            COMMIT => Self::Commit { coordinator_epoch: coordinator_epoch(value)? },
            2 => Self::LeaderChange,
            3 => Self::SnapshotHeader,
            4 => Self::SnapshotFooter,
            5 => Self::KraftVersion,
            6 => Self::KraftVoters,
            other => Self::Unknown(other),
        })
    }
}

fn coordinator_epoch(value: Option<&[u8]>) -> Result<i32, InvalidRecord> {
    let (_, rest) = take_version(value.unwrap_or_default(), "control value version")?;
    match rest.first_chunk() {
        Some(epoch) => Ok(i32::from_be_bytes(*epoch)),
        None => Err(InvalidRecord::Short { field: "coordinatorEpoch" }),
    }
}

fn take_version<'a>(bytes: &'a [u8], field: &'static str) -> Result<(i16, &'a [u8]), InvalidRecord> {
    let Some((version, rest)) = bytes.split_first_chunk() else {
        return Err(InvalidRecord::Short { field });
    };
    match i16::from_be_bytes(*version) {
        version if version < 0 => Err(InvalidRecord::Field { field, value: i64::from(version) }),
        version => Ok((version, rest)),
    }
}

/// How a producer's transaction ended. Whose it was stands in the header of the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionMarker {
    /// Whether its records count; they are to be skipped if not.
    pub commit: bool,
    /// Number of the leadership of the transaction coordinator that decided. A lower one than seen before is fenced.
    pub coordinator_epoch: i32,
}

/// Control records are small. Writers leave them uncompressed, and what claims to be more than this is none.
const DECOMPRESSED_BYTES_MAX: u32 = 1 << 20;

/// What a batch decides about a transaction: `Some` for a control batch whose first record is a COMMIT or an ABORT.
/// `None` for data, for a control batch that compaction emptied, and for other types of control records.
///
/// An error says that the first record of a control batch cannot be read; the checksum is not looked at. Nothing is
/// allocated unless a control batch is compressed, and then at most 1 MiB. Source: Kafka's `EndTransactionMarker` and
/// `ProducerAppendInfo`.
///
/// ```
/// use alluvium::record::{BatchBuilder, RecordBatch, TransactionEnd, TransactionMarker, transaction_marker};
/// use alluvium::{ProducerEpoch, ProducerId, TimestampMs};
/// let producer = (ProducerId::new(1000).unwrap(), ProducerEpoch::new(0).unwrap());
/// let abort = RecordBatch::end_transaction_marker(TransactionEnd::Abort, producer, 7, TimestampMs::new(1));
/// assert_eq!(transaction_marker(&abort.view())?, Some(TransactionMarker { commit: false, coordinator_epoch: 7 }));
/// let data = BatchBuilder::new().record(TimestampMs::new(1), None, Some(b"v")).build()?;
/// assert_eq!(transaction_marker(&data.view())?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[inline]
pub fn transaction_marker(batch: &BatchView<'_>) -> Result<Option<TransactionMarker>, InvalidBatch> {
    if batch.header().attributes.is_control() { first_marker(batch) } else { Ok(None) }
}

/// Reads the first record of a control batch. A batch of the metadata quorum may have more, which decide nothing.
#[inline(never)]
fn first_marker(batch: &BatchView<'_>) -> Result<Option<TransactionMarker>, InvalidBatch> {
    if batch.header().count == 0 {
        return Ok(None);
    }
    let body = batch.body(DECOMPRESSED_BYTES_MAX)?;
    let Some(record) = body.records().next().transpose()? else {
        return Ok(None);
    };
    let is_plain = batch.header().attributes.compression() == Compression::None;
    let at = if is_plain { HEADER_BYTES as u64 } else { 0 };
    let control = ControlRecord::parse(record.key, record.value);
    Ok(match control.map_err(|fault| InvalidBatch::Record { index: 0, at, fault })? {
        ControlRecord::Commit { coordinator_epoch } => Some(TransactionMarker { commit: true, coordinator_epoch }),
        ControlRecord::Abort { coordinator_epoch } => Some(TransactionMarker { commit: false, coordinator_epoch }),
        ControlRecord::LeaderChange
        | ControlRecord::SnapshotHeader
        | ControlRecord::SnapshotFooter
        | ControlRecord::KraftVersion
        | ControlRecord::KraftVoters
        | ControlRecord::Unknown(_) => None,
    })
}

/// Key of a transaction marker.
pub(crate) fn marker_key(commit: bool) -> [u8; 4] {
    let [_, kind] = if commit { COMMIT } else { ABORT }.to_be_bytes();
    [0, 0, 0, kind]
}

/// Value of a transaction marker.
pub(crate) fn marker_value(coordinator_epoch: i32) -> [u8; 6] {
    let [a, b, c, d] = coordinator_epoch.to_be_bytes();
    [0, 0, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::layout::{BATCH_LENGTH_AT, COUNT_AT, LAST_OFFSET_DELTA_AT};
    use crate::record::{BatchBuilder, RecordBatch, TransactionEnd};
    use crate::units::{ProducerEpoch, ProducerId, TimestampMs};

    fn control_batch(compression: Compression, records: &[(&[u8], &[u8])]) -> RecordBatch {
        let mut builder = BatchBuilder::new();
        builder.compression(compression).control(true);
        for (key, value) in records {
            builder.record(TimestampMs::new(1), Some(key), Some(value));
        }
        builder.build().unwrap()
    }

    #[test]
    fn a_marker_says_how_the_transaction_ended() {
        let producer = (ProducerId::new(5).unwrap(), ProducerEpoch::new(1).unwrap());
        for (end, commit) in [(TransactionEnd::Commit, true), (TransactionEnd::Abort, false)] {
            for coordinator_epoch in [-1, 0, 9, i32::MAX] {
                let marker = RecordBatch::end_transaction_marker(end, producer, coordinator_epoch, TimestampMs::new(1));
                let expected = Some(TransactionMarker { commit, coordinator_epoch });
                assert_eq!(transaction_marker(&marker.view()), Ok(expected));
            }
        }
    }

    #[test]
    fn other_batches_decide_nothing() {
        let data = BatchBuilder::new()
            .transactional(true)
            .record(TimestampMs::new(1), Some(&marker_key(true)), Some(&marker_value(1)))
            .build()
            .unwrap();
        assert_eq!(transaction_marker(&data.view()), Ok(None), "a user's key of the same bytes is data");
        for kind in 2..9 {
            let other = control_batch(Compression::None, &[(&[0, 0, 0, kind], b"opaque")]);
            assert_eq!(transaction_marker(&other.view()), Ok(None));
        }
        // A quorum's batch has several records, and the first says what it is.
        let several = control_batch(Compression::None, &[(&[0, 0, 0, 3], b""), (&marker_key(true), &marker_value(1))]);
        assert_eq!(transaction_marker(&several.view()), Ok(None));
    }

    #[test]
    fn a_batch_emptied_by_compaction_decides_nothing() {
        let mut bytes = control_batch(Compression::None, &[(&marker_key(true), &marker_value(1))]).into_bytes();
        bytes.truncate(HEADER_BYTES);
        bytes[BATCH_LENGTH_AT..BATCH_LENGTH_AT + 4].copy_from_slice(&49_i32.to_be_bytes());
        bytes[COUNT_AT..COUNT_AT + 4].copy_from_slice(&0_i32.to_be_bytes());
        bytes[LAST_OFFSET_DELTA_AT..LAST_OFFSET_DELTA_AT + 4].copy_from_slice(&0_i32.to_be_bytes());
        let view = BatchView::parse(&bytes, u32::MAX).unwrap();
        assert_eq!(transaction_marker(&view), Ok(None));
    }

    #[test]
    fn a_control_record_that_cannot_be_read_is_told() {
        let place = |batch: &RecordBatch| match transaction_marker(&batch.view()) {
            Err(InvalidBatch::Record { index, at, fault }) => (index, at, fault),
            other => panic!("{other:?}"),
        };
        let short_key = control_batch(Compression::None, &[(&[0, 0, 0], b"")]);
        assert_eq!(place(&short_key), (0, 61, InvalidRecord::Short { field: "control key type" }));
        let short_value = control_batch(Compression::None, &[(&marker_key(false), &[0; 5])]);
        assert_eq!(place(&short_value), (0, 61, InvalidRecord::Short { field: "coordinatorEpoch" }));
        let mut cut = control_batch(Compression::None, &[(&marker_key(false), &marker_value(1))]);
        // The length of the record says more than there is.
        cut.as_mut_bytes()[HEADER_BYTES] = 0x7e;
        assert_eq!(place(&cut), (0, 61, InvalidRecord::Field { field: "length", value: 63 }));
    }

    #[cfg(feature = "gzip")]
    #[test]
    fn a_compressed_marker_is_read_within_bounds() {
        let marker = control_batch(Compression::Gzip, &[(&marker_key(true), &marker_value(3))]);
        let expected = Some(TransactionMarker { commit: true, coordinator_epoch: 3 });
        assert_eq!(transaction_marker(&marker.view()), Ok(expected));
        let bad = control_batch(Compression::Gzip, &[(&[0, 0], b"")]);
        let fault = InvalidRecord::Short { field: "control key type" };
        assert_eq!(transaction_marker(&bad.view()), Err(InvalidBatch::Record { index: 0, at: 0, fault }));
        let bomb = control_batch(Compression::Gzip, &[(&marker_key(true), &vec![0; 2 << 20])]);
        assert_eq!(transaction_marker(&bomb.view()), Err(InvalidBatch::Bomb { limit: 1 << 20 }));
    }

    #[test]
    fn markers_round_trip() {
        for epoch in [0, 7, -1, i32::MAX] {
            let value = marker_value(epoch);
            let commit = ControlRecord::parse(Some(&marker_key(true)), Some(&value));
            assert_eq!(commit, Ok(ControlRecord::Commit { coordinator_epoch: epoch }));
            let abort = ControlRecord::parse(Some(&marker_key(false)), Some(&value));
            assert_eq!(abort, Ok(ControlRecord::Abort { coordinator_epoch: epoch }));
        }
    }

    #[test]
    fn other_types_are_opaque_and_newer_versions_may_be_longer() {
        let key = |kind: u8| [0, 0, 0, kind];
        for (kind, expected) in [
            (2, ControlRecord::LeaderChange),
            (3, ControlRecord::SnapshotHeader),
            (4, ControlRecord::SnapshotFooter),
            (5, ControlRecord::KraftVersion),
            (6, ControlRecord::KraftVoters),
            (7, ControlRecord::Unknown(7)),
        ] {
            assert_eq!(ControlRecord::parse(Some(&key(kind)), None), Ok(expected));
        }
        let longer = ControlRecord::parse(Some(&[0, 1, 0, 0, 9, 9]), Some(&[0, 1, 0, 0, 0, 5, 9]));
        assert_eq!(longer, Ok(ControlRecord::Abort { coordinator_epoch: 5 }));
    }

    #[test]
    fn what_is_cut_or_negative_is_refused() {
        let key = [0, 0, 0, 0];
        assert!(matches!(ControlRecord::parse(None, None), Err(InvalidRecord::Short { .. })));
        assert!(matches!(ControlRecord::parse(Some(&key[..3]), None), Err(InvalidRecord::Short { .. })));
        assert!(matches!(ControlRecord::parse(Some(&key), None), Err(InvalidRecord::Short { .. })));
        assert!(matches!(ControlRecord::parse(Some(&key), Some(&[0; 5])), Err(InvalidRecord::Short { .. })));
        let negative = [0xff, 0xff, 0, 0];
        assert!(matches!(ControlRecord::parse(Some(&negative), None), Err(InvalidRecord::Field { value: -1, .. })));
    }
}
