//! gzip, by zlib-rs.

use std::io::{self, Read, Write};

use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use super::output::Output;
use crate::error::{DecompressFault, InvalidBatch};

pub(super) fn decompress(blob: &[u8], limit: u32, out: &mut Vec<u8>) -> Result<(), InvalidBatch> {
    let mut output = Output::new(out, limit, blob.len());
    let mut decoder = MultiGzDecoder::new(blob);
    let mut filled = 0;
    loop {
        if filled == output.bytes.len() {
            output.check(filled as u64)?;
            output.grow();
            output.bytes.resize(output.bytes.capacity(), 0);
        }
        match decoder.read(output.bytes.get_mut(filled..).unwrap_or_default()) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) => return Err(InvalidBatch::Decompress { codec: "gzip", reason: fault(&error) }),
        }
    }
    output.bytes.truncate(filled);
    output.check(filled as u64)
}

fn fault(error: &io::Error) -> DecompressFault {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => DecompressFault::Truncated,
        // What flate2 says of a header, the first or one where the data should have ended.
        io::ErrorKind::InvalidInput => DecompressFault::Framing,
        _ => DecompressFault::Corrupt,
    }
}

pub(super) fn compress(level: i32, records: &[u8], out: &mut Vec<u8>) {
    let level = flate2::Compression::new(level.unsigned_abs());
    let mut encoder = GzEncoder::new(out, level);
    let written = encoder.write_all(records).and_then(|()| encoder.finish().map(drop));
    written.expect("writing to memory does not fail");
}
