//! Keeps zero-written bytes ahead of the append position while somebody waits for durability. A sync of bytes that
//! overwrite written ones moves data alone; one of bytes that extend the file waits for the file system's journal too.
//!
//! Zeros are written between commit rounds, never over a byte that an append could have written: an append that would
//! reach into the range waits until the zeros are there.

use std::sync::Arc;

use super::LogCore;
use super::writer::Writer;
use crate::fs::{self, File};
use crate::sync::MutexGuard;

/// Zeros are written in pieces of this size.
static PIECE: [u8; 1 << 18] = [0; 1 << 18];

impl LogCore {
    /// Extends the zeros if less than half of what the configuration asks for is left. A failure costs only speed.
    pub(super) fn maybe_zero_ahead(&self) {
        let config = Arc::clone(&self.config.read());
        let wanted = u64::from(config.zero_ahead_bytes);
        let (file, from, to) = {
            let mut writer = self.writer.lock();
            let ahead = writer.file_bytes - writer.position;
            let to = (writer.position + wanted).min(u64::from(config.segment_bytes));
            if wanted == 0 || ahead > wanted / 2 || to <= writer.file_bytes || writer.check_open().is_err() {
                return;
            }
            let Ok(file) = writer.open_file(&self.home) else { return };
            writer.is_zeroing = true;
            (file, writer.file_bytes, to)
        };
        let written = write_zeros(&*file, from, to);
        let mut writer = self.writer.lock();
        writer.is_zeroing = false;
        // After a roll the zeros lie past the end of a sealed file, which the next round cuts off.
        if writer.file.is(&file) {
            writer.file_bytes = writer.file_bytes.max(written);
        }
        drop(writer);
        self.zeros_done.notify_all();
    }

    /// Waits while an append of `bytes` would reach into a range that is being zeroed.
    pub(super) fn wait_for_zeros(&self, writer: &mut MutexGuard<'_, Writer>, bytes: u64) {
        while writer.is_zeroing && writer.position + bytes > writer.file_bytes {
            self.zeros_done.wait(writer);
        }
    }
}

/// Writes zeros over `from..to`; returns how far it came.
fn write_zeros(file: &dyn File, from: u64, to: u64) -> u64 {
    let mut at = from;
    while at < to {
        let len = usize::try_from(to - at).unwrap_or(usize::MAX).min(PIECE.len());
        let piece = PIECE.get(..len).unwrap_or(&PIECE);
        if fs::write_all_at(file, piece, at).is_err() {
            break;
        }
        at += piece.len() as u64;
    }
    at
}
