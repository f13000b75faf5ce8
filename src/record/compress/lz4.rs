//! lz4 frames, by `lz4_flex`.

use std::io::{self, BufRead, Read, Write};

use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};

use super::output::Output;
use crate::error::{DecompressFault, InvalidBatch};

/// Of the frame format proper; the decoder would also take the legacy one.
const MAGIC: [u8; 4] = 0x184d_2204_u32.to_le_bytes();

pub(super) fn decompress(blob: &[u8], limit: u32, out: &mut Vec<u8>) -> Result<(), InvalidBatch> {
    if !blob.starts_with(&MAGIC) {
        return Err(refused(DecompressFault::Framing));
    }
    let mut output = Output::new(out, limit, blob.len());
    let mut decoder = FrameDecoder::new(Source { rest: blob, starved: false });
    loop {
        let chunk = decoder.fill_buf().map_err(|error| refused(fault(&error)))?;
        if chunk.is_empty() {
            break;
        }
        let bytes = chunk.len();
        output.extend(chunk)?;
        decoder.consume(bytes);
    }
    let source = decoder.get_ref();
    if source.starved {
        return Err(refused(DecompressFault::Truncated));
    }
    if source.rest.is_empty() { Ok(()) } else { Err(refused(DecompressFault::Framing)) }
}

/// The blob, remembering whether more was asked of it than it has: the decoder takes a missing end mark for an end.
struct Source<'a> {
    rest: &'a [u8],
    starved: bool,
}

impl Read for Source<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.starved |= self.rest.len() < into.len();
        self.rest.read(into)
    }
}

fn refused(reason: DecompressFault) -> InvalidBatch {
    InvalidBatch::Decompress { codec: "lz4", reason }
}

fn fault(error: &io::Error) -> DecompressFault {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => DecompressFault::Truncated,
        _ => DecompressFault::Corrupt,
    }
}

pub(super) fn compress(records: &[u8], out: &mut Vec<u8>) {
    let frame = FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent);
    let mut encoder = FrameEncoder::with_frame_info(frame, out);
    encoder.write_all(records).expect("writing to memory does not fail");
    encoder.finish().expect("writing to memory does not fail");
}
