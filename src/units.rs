//! Units are types: an offset is not a position, and neither is a count.
//!
//! No `Deref`, no `From<u64>`, no operator between unlike units. `-1` ("none") exists only in the codec;
//! everywhere else absence is an [`Option`]. Sources: the field types of Kafka's `DefaultRecordBatch` and `OffsetIndex`.
//!
//! ```
//! use alluvium::{Offset, OffsetDelta};
//! let base = Offset::new(40).expect("not negative");
//! assert_eq!(base.checked_add(OffsetDelta::new(2).unwrap()), Offset::new(42));
//! assert_eq!(Offset::new(-1), None);
//! ```

use std::fmt;

/// Address of a record within a partition, 0 to `i64::MAX`. Marks and `*_end` offsets are exclusive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(i64);

impl Offset {
    /// The first offset of a new partition.
    pub const ZERO: Self = Self(0);
    /// The largest offset that can be addressed.
    pub const MAX: Self = Self(i64::MAX);

    /// `None` when `value` is negative.
    pub const fn new(value: i64) -> Option<Self> {
        if value < 0 { None } else { Some(Self(value)) }
    }

    /// The number itself, never negative.
    pub const fn value(self) -> i64 {
        self.0
    }

    /// `self + delta`, or `None` past [`Offset::MAX`].
    pub fn checked_add(self, delta: OffsetDelta) -> Option<Self> {
        self.0.checked_add(i64::from(delta.0)).map(Self)
    }

    /// The offset after this one, or `None` at [`Offset::MAX`].
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }

    /// How far `self` lies past `base`, when that fits a segment (0 to `i32::MAX`).
    pub fn relative_to(self, base: Self) -> Option<RelativeOffset> {
        let distance = self.0.checked_sub(base.0)?;
        i32::try_from(distance).ok().and_then(RelativeOffset::new)
    }

    /// Number of offsets from `earlier` up to `self`, 0 when `self` is not past it.
    pub fn distance_from(self, earlier: Self) -> u64 {
        u64::try_from(self.0 - earlier.0).unwrap_or(0)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One of the marks of a log, each an [`Offset`]. Names as in Kafka's `UnifiedLog`, whose recovery point is the durable
/// end here.
///
/// ```
/// use alluvium::units::Mark;
/// assert_eq!(Mark::LastStable.to_string(), "last stable offset");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mark {
    /// First readable offset.
    LogStart,
    /// No transaction below it is undecided.
    LastStable,
    /// Everything below it is replicated as far as the embedder demands.
    HighWatermark,
    /// Everything below it survives a power loss.
    DurableEnd,
    /// Next offset to be assigned.
    LogEnd,
}

impl Mark {
    /// Every mark, in the order of the enum.
    pub(crate) const ALL: [Self; 5] =
        [Self::LogStart, Self::LastStable, Self::HighWatermark, Self::DurableEnd, Self::LogEnd];
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LogStart => "log start",
            Self::LastStable => "last stable offset",
            Self::HighWatermark => "high watermark",
            Self::DurableEnd => "durable end",
            Self::LogEnd => "log end",
        })
    }
}

macro_rules! non_negative_i32 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(i32);

        impl $name {
            /// `None` when `value` is negative.
            pub const fn new(value: i32) -> Option<Self> {
                if value < 0 { None } else { Some(Self(value)) }
            }

            /// The number itself, never negative.
            pub const fn value(self) -> i32 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

non_negative_i32! {
    /// Last offset of a batch minus its base offset, or a record's offset minus its batch's base offset.
    OffsetDelta
}
non_negative_i32! {
    /// An offset minus the base offset of its segment, as the indexes store it.
    RelativeOffset
}
non_negative_i32! {
    /// Number of a leadership of the partition, rising with each election. Stamped into each batch by its leader.
    LeaderEpoch
}
non_negative_i32! {
    /// Number of a record within its producer's stream; after `i32::MAX` comes 0.
    Sequence
}

impl RelativeOffset {
    /// The absolute offset, or `None` past [`Offset::MAX`].
    pub fn absolute(self, base: Offset) -> Option<Offset> {
        base.0.checked_add(i64::from(self.0)).map(Offset)
    }
}

impl Sequence {
    /// The sequence `delta` records later, wrapping from `i32::MAX` to 0 as producers do.
    #[must_use]
    pub fn wrapping_add(self, delta: OffsetDelta) -> Self {
        let sum = i64::from(self.0) + i64::from(delta.0);
        let wrapped = sum % (i64::from(i32::MAX) + 1);
        Self(i32::try_from(wrapped).unwrap_or(0))
    }
}

/// Identity of an idempotent or transactional producer, 0 or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerId(i64);

impl ProducerId {
    /// `None` when `value` is negative.
    pub const fn new(value: i64) -> Option<Self> {
        if value < 0 { None } else { Some(Self(value)) }
    }

    /// The number itself, never negative.
    pub const fn value(self) -> i64 {
        self.0
    }
}

impl fmt::Display for ProducerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of an incarnation of a producer id; a higher one fences the lower ones. 0 or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerEpoch(i16);

impl ProducerEpoch {
    /// `None` when `value` is negative.
    pub const fn new(value: i16) -> Option<Self> {
        if value < 0 { None } else { Some(Self(value)) }
    }

    /// The number itself, never negative.
    pub const fn value(self) -> i16 {
        self.0
    }
}

/// Byte in a file, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilePosition(u64);

impl FilePosition {
    /// The first byte.
    pub const START: Self = Self(0);

    /// Any position.
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The number itself.
    pub const fn value(self) -> u64 {
        self.0
    }

    /// `self + bytes`, or `None` on overflow.
    pub fn checked_add(self, bytes: u64) -> Option<Self> {
        self.0.checked_add(bytes).map(Self)
    }
}

impl fmt::Display for FilePosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Milliseconds since 1970-01-01T00:00:00Z. Producers may send anything, so negative values exist on disk;
/// -1 is the field's "no timestamp" and is an `Option::None` outside the codec where a mark is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimestampMs(i64);

impl TimestampMs {
    /// Any instant that milliseconds can name.
    pub const fn new(value: i64) -> Self {
        Self(value)
    }

    /// The number itself.
    pub const fn value(self) -> i64 {
        self.0
    }

    /// `self - earlier` in milliseconds, saturating; negative when the clock went back.
    pub fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for TimestampMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_wraps_from_the_maximum_to_zero() {
        let delta = |d| OffsetDelta::new(d).unwrap();
        let last = Sequence::new(i32::MAX).unwrap();
        assert_eq!(last.wrapping_add(delta(1)).value(), 0);
        assert_eq!(Sequence::new(2_147_483_646).unwrap().wrapping_add(delta(2)).value(), 0);
        assert_eq!(last.wrapping_add(delta(i32::MAX)).value(), i32::MAX - 1);
    }

    #[test]
    fn offsets_near_the_ends_do_not_overflow() {
        assert_eq!(Offset::MAX.next(), None);
        assert_eq!(Offset::MAX.checked_add(OffsetDelta(1)), None);
        assert_eq!(Offset::MAX.relative_to(Offset::ZERO), None);
        assert_eq!(Offset(i64::from(i32::MAX)).relative_to(Offset::ZERO), RelativeOffset::new(i32::MAX));
        assert_eq!(Offset(i64::from(i32::MAX) + 1).relative_to(Offset::ZERO), None);
        assert_eq!(Offset::ZERO.relative_to(Offset(1)), None);
        assert_eq!(RelativeOffset(1).absolute(Offset::MAX), None);
    }
}
