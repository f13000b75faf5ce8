//! Rewriting a batch with another codec, for logs that choose their own (`compression.type`).

use super::batch::BatchView;
use super::compress::{self, Compression};
use super::layout::{ATTRIBUTES_AT, BATCH_LENGTH_AT, CODEC_MASK, HEADER_BYTES, LENGTH_OVERHEAD};
use super::stamp::{put, seal};
use crate::error::{BuildError, InvalidBatch, RecompressError};

/// Rewrites the first batch of `batch` with the codec `to`; `None` when its bytes may stay as they are: it has that codec
/// already, at whatever level it was compressed, or it is a control batch or has no records. Kafka compresses neither.
///
/// `level` is that of gzip (1 to 9, default 6) or zstd (-131,072 to 22, default 3); other codecs have none and ignore it. It
/// does not matter to a batch that stays as it is, which is not decompressed either, nor is its CRC looked at.
///
/// The records stay the same, byte for byte, and so does every field of the header but length, codec and CRC: offsets,
/// leader epoch, timestamps, producer, sequence, flags. So does the meaning of bits that nobody uses yet. The records are
/// not judged: validate the batch first, or afterwards. Kafka's rule: `LogValidator` keeps a batch in place when source
/// and target codec agree, and builds it anew otherwise.
///
/// No I/O and no locks; threads share nothing but what each codec keeps for its own thread.
///
/// ```
/// use alluvium::record::{BatchBuilder, BatchView, Compression, recompress};
/// use alluvium::TimestampMs;
///
/// let batch = BatchBuilder::new().record(TimestampMs::new(7), None, Some(&[b'v'; 1000])).build()?;
/// let smaller = recompress(batch.as_bytes(), Compression::Gzip, Some(9), 1 << 20)?.expect("it was not compressed");
/// let view = BatchView::parse(&smaller, u32::MAX)?;
/// view.verify_crc()?;
/// assert!(smaller.len() < 200);
/// assert_eq!(view.body(1 << 20)?.bytes(), batch.view().body(0)?.bytes());
/// assert_eq!(recompress(&smaller, Compression::Gzip, None, 1 << 20)?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`RecompressError::Batch`]: the bytes are not a batch, its CRC is wrong (nothing damaged is ever signed again), it does
/// not decompress, its records take more than `decompressed_max` bytes, or this build cannot read its codec.
/// [`RecompressError::Build`]: this build cannot write `to`, `to` has no such level, or the result would be larger than a
/// batch can be.
pub fn recompress(
    batch: &[u8],
    to: Compression,
    level: Option<i32>,
    decompressed_max: u32,
) -> Result<Option<Vec<u8>>, RecompressError> {
    let view = BatchView::parse(batch, u32::MAX)?;
    let attributes = view.header().attributes;
    if attributes.compression() == to || attributes.is_control() || view.header().count == 0 {
        return Ok(None);
    }
    view.verify_crc()?;
    let body = view.body(decompressed_max)?;
    if body.bytes().len() as u64 > u64::from(decompressed_max) {
        // Whoever is held to the same bound could not read it any more.
        return Err(InvalidBatch::Bomb { limit: u64::from(decompressed_max) }.into());
    }
    let header = view.bytes().get(..HEADER_BYTES).unwrap_or_default();
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.bytes().len());
    bytes.extend_from_slice(header);
    compress::compress(to, level, body.bytes(), &mut bytes)?;
    let length = i32::try_from(bytes.len() - LENGTH_OVERHEAD).map_err(|_| BuildError::TooLarge)?;
    put(&mut bytes, BATCH_LENGTH_AT, length.to_be_bytes());
    let bits = attributes.bits() & !CODEC_MASK | to.code();
    put(&mut bytes, ATTRIBUTES_AT, bits.to_be_bytes());
    seal(&mut bytes);
    Ok(Some(bytes))
}
