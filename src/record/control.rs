//! Control records: what their key and value say.

use crate::error::InvalidRecord;

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

/// The end of a producer's transaction, as its control batch says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionMarker {
    /// Committed, or else aborted.
    pub commit: bool,
    /// Number of the leadership of the transaction coordinator.
    pub coordinator_epoch: i32,
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
