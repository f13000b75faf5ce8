//! snappy, framed as the Java library does or as one raw block.

use super::output::Output;
use crate::error::{DecompressFault, InvalidBatch};

const MAGIC: [u8; 8] = *b"\x82SNAPPY\0";
const VERSION: [u8; 4] = 1_i32.to_be_bytes();
const BLOCK_BYTES: usize = 32 << 10;
/// No block grows more than this: three bytes copy 64 at most.
const GROWTH_MAX: u64 = 22;

pub(super) fn decompress(blob: &[u8], limit: u32, out: &mut Vec<u8>) -> Result<(), InvalidBatch> {
    // A raw block cannot start like this: it would be a copy of bytes that do not exist yet.
    let Some(framed) = blob.strip_prefix(&MAGIC) else {
        return decompress_block(blob, &mut Output::new(out, limit, 0));
    };
    // Version and the oldest compatible version: nobody ever wrote other than 1, and the Java library reads any.
    let Some((_versions, mut rest)) = framed.split_first_chunk::<8>() else {
        return Err(refused(DecompressFault::Truncated));
    };
    let mut output = Output::new(out, limit, blob.len());
    while !rest.is_empty() {
        let Some((length, after)) = rest.split_first_chunk() else {
            return Err(refused(DecompressFault::Truncated));
        };
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            return Err(refused(DecompressFault::Framing));
        };
        let Some((block, after)) = after.split_at_checked(length) else {
            return Err(refused(DecompressFault::Truncated));
        };
        decompress_block(block, &mut output)?;
        rest = after;
    }
    Ok(())
}

fn decompress_block(block: &[u8], output: &mut Output<'_>) -> Result<(), InvalidBatch> {
    let bytes = snap::raw::decompress_len(block).map_err(|_| refused(DecompressFault::Corrupt))?;
    let start = output.bytes.len();
    output.check((start as u64).saturating_add(bytes as u64))?;
    if bytes as u64 > GROWTH_MAX * block.len() as u64 {
        return Err(refused(DecompressFault::Corrupt));
    }
    if output.bytes.capacity() - start < bytes {
        output.make_room(start.saturating_mul(2).max(start + bytes));
    }
    output.bytes.resize(start + bytes, 0);
    let room = output.bytes.get_mut(start..).unwrap_or_default();
    match snap::raw::Decoder::new().decompress(block, room) {
        Ok(written) if written == bytes => Ok(()),
        _ => Err(refused(DecompressFault::Corrupt)),
    }
}

fn refused(reason: DecompressFault) -> InvalidBatch {
    InvalidBatch::Decompress { codec: "snappy", reason }
}

pub(super) fn compress(records: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION);
    out.extend_from_slice(&VERSION);
    let mut encoder = snap::raw::Encoder::new();
    let mut block = vec![0; snap::raw::max_compress_len(BLOCK_BYTES.min(records.len()))];
    for chunk in records.chunks(BLOCK_BYTES) {
        let bytes = encoder.compress(chunk, &mut block).expect("the block has room for the worst case");
        let length = i32::try_from(bytes).expect("a block is some 32 KiB");
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(block.get(..bytes).unwrap_or_default());
    }
}
