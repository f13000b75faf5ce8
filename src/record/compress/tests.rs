//! Framing variants, bombs and damage of each codec.
#![cfg(all(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd"))]

use std::io::{self, Write};

use super::{Compression, compress, decompress};
use crate::error::{DecompressFault, InvalidBatch};

const MIB: u32 = 1 << 20;

/// zstd has 131,073 levels from 0 down, of which a few must do.
fn is_tried(level: i32) -> bool {
    level > 0 || [-131_072, -1000, -7, -1, 0].contains(&level)
}

fn unpack(codec: Compression, blob: &[u8], limit: u32) -> Result<Vec<u8>, InvalidBatch> {
    let mut out = Vec::new();
    decompress(codec, blob, limit, &mut out)?;
    Ok(out)
}

fn pack(codec: Compression, records: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    compress(codec, None, records, &mut out).unwrap();
    out
}

fn text(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| b"the quick brown fox "[at % 20] ^ u8::try_from(at / 997 % 7).unwrap()).collect()
}

fn refused(codec: &'static str, reason: DecompressFault) -> Result<Vec<u8>, InvalidBatch> {
    Err(InvalidBatch::Decompress { codec, reason })
}

#[test]
fn every_size_and_level_round_trips() {
    for codec in Compression::ALL {
        for bytes in [0, 1, 100, 32 << 10, (32 << 10) + 1, 64 << 10, 300_000] {
            let records = text(bytes);
            let blob = pack(codec, &records);
            assert_eq!(unpack(codec, &blob, 300_000), Ok(records), "{codec:?} {bytes}");
        }
        let Some((levels, _)) = codec.levels() else { continue };
        for level in levels.filter(|level| is_tried(*level)) {
            let mut blob = b"kept".to_vec();
            compress(codec, Some(level), &text(5000), &mut blob).unwrap();
            let blob = blob.strip_prefix(b"kept").unwrap();
            assert_eq!(unpack(codec, blob, 5000), Ok(text(5000)), "{codec:?} {level}");
        }
    }
}

#[test]
fn the_limit_is_exact() {
    for codec in Compression::ALL.into_iter().skip(1) {
        for bytes in [1, 100, 20_000, 200_000] {
            let blob = pack(codec, &text(bytes));
            let limit = u32::try_from(bytes).unwrap();
            assert_eq!(unpack(codec, &blob, limit), Ok(text(bytes)));
            let bomb = InvalidBatch::Bomb { limit: u64::from(limit) - 1 };
            assert_eq!(unpack(codec, &blob, limit - 1), Err(bomb), "{codec:?} {bytes}");
        }
    }
}

/// 1 GiB of zeros, written as a stream so that no size is declared up front.
fn write_zeros(out: &mut impl Write) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    (0..1024).try_for_each(|_| out.write_all(&zeros))
}

fn bomb(codec: Compression) -> Vec<u8> {
    match codec {
        Compression::None => Vec::new(),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            write_zeros(&mut encoder).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Snappy => {
            let block = pack(codec, &vec![0; 32 << 10]);
            let (header, block) = block.split_at(16);
            [header, &block.repeat(32 << 10)].concat()
        }
        Compression::Lz4 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            write_zeros(&mut encoder).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Zstd => {
            let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
            write_zeros(&mut encoder).unwrap();
            encoder.finish().unwrap()
        }
    }
}

#[test]
fn bombs_are_refused_at_the_limit() {
    for codec in Compression::ALL.into_iter().skip(1) {
        let blob = bomb(codec);
        let mut out = Vec::new();
        let outcome = decompress(codec, &blob, MIB, &mut out);
        assert_eq!(outcome, Err(InvalidBatch::Bomb { limit: u64::from(MIB) }), "{codec:?}");
        assert!(out.capacity() <= (1 << 20) + 64, "{codec:?} took {} bytes", out.capacity());
    }
}

#[test]
fn snappy_is_read_raw_and_framed() {
    let records = text(100_000);
    let raw = snap::raw::Encoder::new().compress_vec(&records).unwrap();
    assert_eq!(unpack(Compression::Snappy, &raw, MIB), Ok(records.clone()));
    let framed = pack(Compression::Snappy, &records);
    assert!(framed.starts_with(b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01"));
    let blocks = framed[16..].first_chunk().map(|length| i32::from_be_bytes(*length)).unwrap();
    assert_eq!(snap::raw::decompress_len(&framed[20..][..usize::try_from(blocks).unwrap()]), Ok(32 << 10));
    for (blob, reason) in [
        (&framed[..framed.len() - 1], DecompressFault::Truncated),
        (&framed[..12], DecompressFault::Truncated),
        (&framed[..18], DecompressFault::Truncated),
        (&[], DecompressFault::Corrupt),
    ] {
        assert_eq!(unpack(Compression::Snappy, blob, MIB), refused("snappy", reason));
    }
    let mut negative = framed.clone();
    negative[16] = 0x80;
    assert_eq!(unpack(Compression::Snappy, &negative, MIB), refused("snappy", DecompressFault::Framing));
    // A few bytes that claim to become half a mebibyte: refused before anything is set aside for it.
    let boast = [0x80, 0x80, 0x20, 0, 0];
    assert_eq!(unpack(Compression::Snappy, &boast, MIB), refused("snappy", DecompressFault::Corrupt));
}

#[test]
fn gzip_takes_members_but_no_garbage() {
    let (first, second) = (text(1000), text(70_000));
    let both = [pack(Compression::Gzip, &first), pack(Compression::Gzip, &second)].concat();
    assert_eq!(unpack(Compression::Gzip, &both, MIB), Ok([first, second].concat()));
    let trailing = [&both[..], b"garbage and more"].concat();
    assert_eq!(unpack(Compression::Gzip, &trailing, MIB), refused("gzip", DecompressFault::Framing));
    assert_eq!(unpack(Compression::Gzip, &both[..both.len() - 3], MIB), refused("gzip", DecompressFault::Truncated));
    let mut corrupt = pack(Compression::Gzip, &text(1000));
    let checksum_at = corrupt.len() - 8;
    corrupt[checksum_at] ^= 1;
    assert!(matches!(unpack(Compression::Gzip, &corrupt, MIB), Err(InvalidBatch::Decompress { .. })));
}

#[test]
fn lz4_is_written_plain_and_read_in_every_form() {
    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
    let records = text(300_000);
    let blob = pack(Compression::Lz4, &records);
    // Version 1, independent blocks, no checksums, no size; 64 KiB blocks.
    assert_eq!(blob[..6], [0x04, 0x22, 0x4d, 0x18, 0b0110_0000, 0b0100_0000]);
    for mode in [BlockMode::Independent, BlockMode::Linked] {
        let info = FrameInfo::new()
            .block_mode(mode)
            .block_size(BlockSize::Max256KB)
            .block_checksums(true)
            .content_checksum(true)
            .content_size(Some(300_000));
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(&records).unwrap();
        assert_eq!(unpack(Compression::Lz4, &encoder.finish().unwrap(), MIB), Ok(records.clone()));
    }
    for (blob, reason) in [
        (&blob[..blob.len() - 4], DecompressFault::Truncated),
        (&blob[..blob.len() - 1], DecompressFault::Truncated),
        (&blob[..100], DecompressFault::Truncated),
        (&blob[..7], DecompressFault::Truncated),
        (&blob[..5], DecompressFault::Truncated),
        (&blob[1..], DecompressFault::Framing),
        (&[blob.clone(), vec![0]].concat(), DecompressFault::Framing),
        (&[], DecompressFault::Framing),
    ] {
        assert_eq!(unpack(Compression::Lz4, blob, MIB), refused("lz4", reason), "{} bytes", blob.len());
    }
}

#[test]
fn zstd_takes_frames_with_and_without_a_size() {
    let records = text(300_000);
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.write_all(&records).unwrap();
    let streamed = encoder.finish().unwrap();
    assert_eq!(unpack(Compression::Zstd, &streamed, MIB), Ok(records.clone()));
    let both = [streamed.clone(), pack(Compression::Zstd, &records)].concat();
    assert_eq!(unpack(Compression::Zstd, &both, MIB), Ok([records.clone(), records].concat()));
    for (blob, reason) in [
        (&streamed[..streamed.len() - 1], DecompressFault::Truncated),
        (&streamed[1..], DecompressFault::Framing),
        (&[], DecompressFault::Framing),
    ] {
        assert_eq!(unpack(Compression::Zstd, blob, MIB), refused("zstd", reason));
    }
}

#[test]
fn zstd_refuses_windows_past_the_bound() {
    // Magic, descriptor with a window byte, and a window of 2^31; then an empty last block.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0, (31 - 10) << 3, 1, 0, 0];
    assert_eq!(unpack(Compression::Zstd, &frame, MIB), refused("zstd", DecompressFault::Corrupt));
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0, (20 - 10) << 3, 1, 0, 0];
    assert_eq!(unpack(Compression::Zstd, &frame, MIB), Ok(Vec::new()));
}
