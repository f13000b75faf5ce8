//! zstd, with a context a thread: making one costs as much as decompressing a batch.

use std::cell::RefCell;
use std::io::Cursor;

use zstd::zstd_safe::{
    CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer, ResetDirective, compress_bound, get_frame_content_size,
};

use super::output::Output;
use crate::error::{DecompressFault, InvalidBatch};

/// Largest window, as a power of two: 128 MiB, what the format asks decoders to take and writers not to pass.
const WINDOW_LOG_MAX: u32 = 27;
/// A context that grew past this is not kept: windows are as large as the writer pleases.
const KEPT_BYTES_MAX: usize = 16 << 20;

thread_local! {
    static DECOMPRESSOR: RefCell<Option<DCtx<'static>>> = const { RefCell::new(None) };
    static COMPRESSOR: RefCell<Option<CCtx<'static>>> = const { RefCell::new(None) };
}

pub(super) fn decompress(blob: &[u8], limit: u32, out: &mut Vec<u8>) -> Result<(), InvalidBatch> {
    DECOMPRESSOR.with_borrow_mut(|kept| {
        let mut context = match kept.take() {
            Some(context) => context,
            None => new_decompressor()?,
        };
        let outcome = decompress_with(&mut context, blob, limit, out);
        let reset = context.reset(ResetDirective::SessionOnly);
        if reset.is_ok() && context.sizeof() <= KEPT_BYTES_MAX {
            *kept = Some(context);
        }
        outcome
    })
}

fn new_decompressor() -> Result<DCtx<'static>, InvalidBatch> {
    let mut context = DCtx::try_create().ok_or_else(corrupt)?;
    context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).map_err(|_| corrupt())?;
    Ok(context)
}

fn decompress_with(
    context: &mut DCtx<'static>,
    blob: &[u8],
    limit: u32,
    out: &mut Vec<u8>,
) -> Result<(), InvalidBatch> {
    let mut output = Output::new(out, limit, blob.len());
    match get_frame_content_size(blob) {
        Ok(Some(declared)) => {
            output.check(declared)?;
            // With room for the whole frame the decoder needs no window of its own.
            output.make_room(usize::try_from(declared).unwrap_or(usize::MAX));
        }
        Ok(None) => {}
        Err(_) => return Err(refused(DecompressFault::Framing)),
    }
    let mut input = InBuffer::around(blob);
    loop {
        let start = output.bytes.len();
        let hint = {
            let mut room = OutBuffer::around_pos(&mut *output.bytes, start);
            context.decompress_stream(&mut room, &mut input).map_err(|_| corrupt())?
        };
        output.check(output.bytes.len() as u64)?;
        let all_read = input.pos() == blob.len();
        if all_read && hint == 0 {
            return Ok(());
        }
        if output.bytes.len() == output.bytes.capacity() {
            output.grow();
        } else if all_read {
            return Err(refused(DecompressFault::Truncated));
        }
    }
}

fn corrupt() -> InvalidBatch {
    refused(DecompressFault::Corrupt)
}

fn refused(reason: DecompressFault) -> InvalidBatch {
    InvalidBatch::Decompress { codec: "zstd", reason }
}

pub(super) fn compress(level: i32, records: &[u8], out: &mut Vec<u8>) {
    COMPRESSOR.with_borrow_mut(|kept| {
        let mut context = kept.take().unwrap_or_else(CCtx::create);
        let start = out.len();
        out.reserve(compress_bound(records.len()));
        let mut room = Cursor::new(&mut *out);
        room.set_position(start as u64);
        context
            .set_parameter(CParameter::CompressionLevel(level))
            .and_then(|_| context.compress2(&mut room, records))
            .expect("the room fits the worst case");
        if context.sizeof() <= KEPT_BYTES_MAX {
            *kept = Some(context);
        }
    });
}
