//! The codecs of record batches, each behind the crate feature of its name.
//!
//! ```text
//! gzip    RFC 1952; one member is written, several are read, nothing may follow them
//! snappy  written as the Java library does: "\x82SNAPPY\0", version 1, compatible with 1 (i32 each), then per block of
//!         32 KiB an i32 length and a raw block. Read in that form and as one raw block
//! lz4     one frame; written with independent blocks of 64 KiB and no checksums, read with any
//! zstd    frames; the window is bounded when read
//! ```
//!
//! Decompression writes at most the caller's limit and allocates little more; a decoder's own buffers are bounded by
//! constants (8 MiB in lz4, a window of 128 MiB in zstd, which is let go of after use).

use crate::error::{BuildError, InvalidBatch};

#[cfg(feature = "gzip")]
mod gzip;
#[cfg(feature = "lz4")]
mod lz4;
#[cfg(any(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd"))]
mod output;
#[cfg(feature = "snappy")]
mod snappy;
#[cfg(test)]
mod tests;
#[cfg(feature = "zstd")]
mod zstandard;

/// A codec of record batches.
///
/// ```
/// use alluvium::record::Compression;
/// assert_eq!(Compression::Zstd.name(), "zstd");
/// assert!(Compression::None.is_enabled());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// Records as they are.
    #[default]
    None,
    /// Feature `gzip`.
    Gzip,
    /// Feature `snappy`.
    Snappy,
    /// Feature `lz4`.
    Lz4,
    /// Feature `zstd`.
    Zstd,
}

impl Compression {
    /// Every codec, in the order of their codes.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The codec of the attributes' bits 0 to 2.
    #[inline]
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::None,
            1 => Self::Gzip,
            2 => Self::Snappy,
            3 => Self::Lz4,
            4 => Self::Zstd,
            _ => return None,
        })
    }

    /// Bits 0 to 2 of the attributes.
    pub(crate) fn code(self) -> u16 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// Its name, as in Kafka's `compression.type`; also that of the crate feature.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Whether this build can read and write it.
    pub fn is_enabled(self) -> bool {
        match self {
            Self::None => true,
            Self::Gzip => cfg!(feature = "gzip"),
            Self::Snappy => cfg!(feature = "snappy"),
            Self::Lz4 => cfg!(feature = "lz4"),
            Self::Zstd => cfg!(feature = "zstd"),
        }
    }

    /// The levels that it takes and its default; `None` where there are no levels (lz4 and snappy ignore one).
    pub(crate) fn levels(self) -> Option<(std::ops::RangeInclusive<i32>, i32)> {
        match self {
            Self::Gzip => Some((1..=9, 6)),
            // Kafka's range: below 1 is faster and larger, 0 is the library's own choice.
            Self::Zstd => Some((-131_072..=22, 3)),
            Self::None | Self::Snappy | Self::Lz4 => None,
        }
    }
}

/// Appends the records in `blob` to `out`, which is empty, at most `limit` bytes of them.
#[cfg_attr(
    not(any(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd")),
    expect(unused_variables, reason = "only codecs look at the limit")
)]
pub(crate) fn decompress(codec: Compression, blob: &[u8], limit: u32, out: &mut Vec<u8>) -> Result<(), InvalidBatch> {
    match codec {
        Compression::None => {
            out.extend_from_slice(blob);
            Ok(())
        }
        #[cfg(feature = "gzip")]
        Compression::Gzip => gzip::decompress(blob, limit, out),
        #[cfg(feature = "snappy")]
        Compression::Snappy => snappy::decompress(blob, limit, out),
        #[cfg(feature = "lz4")]
        Compression::Lz4 => lz4::decompress(blob, limit, out),
        #[cfg(feature = "zstd")]
        Compression::Zstd => zstandard::decompress(blob, limit, out),
        #[cfg(not(all(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd")))]
        disabled => Err(InvalidBatch::CodecDisabled { codec: disabled.name() }),
    }
}

/// Appends `records` to `out` as one blob, at the codec's default level if `level` is none.
pub(crate) fn compress(
    codec: Compression,
    level: Option<i32>,
    records: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), BuildError> {
    #[cfg_attr(
        not(any(feature = "gzip", feature = "zstd")),
        expect(unused_variables, reason = "the other codecs have no levels")
    )]
    let level = checked_level(codec, level)?;
    match codec {
        Compression::None => out.extend_from_slice(records),
        #[cfg(feature = "gzip")]
        Compression::Gzip => gzip::compress(level, records, out),
        #[cfg(feature = "snappy")]
        Compression::Snappy => snappy::compress(records, out),
        #[cfg(feature = "lz4")]
        Compression::Lz4 => lz4::compress(records, out),
        #[cfg(feature = "zstd")]
        Compression::Zstd => zstandard::compress(level, records, out),
        #[cfg(not(all(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd")))]
        disabled => return Err(BuildError::CodecDisabled { codec: disabled.name() }),
    }
    Ok(())
}

fn checked_level(codec: Compression, level: Option<i32>) -> Result<i32, BuildError> {
    let Some((allowed, default)) = codec.levels() else {
        return Ok(0);
    };
    let level = level.unwrap_or(default);
    if allowed.contains(&level) {
        return Ok(level);
    }
    Err(BuildError::Level { codec: codec.name(), level, min: *allowed.start(), max: *allowed.end() })
}
