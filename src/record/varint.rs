//! Zig-zag varints as protobuf has them: 7 bits a byte, low first, the high bit says that more follow.
//!
//! A 32-bit number takes at most 5 bytes, a 64-bit one 10. One and two bytes are most of what is ever read, so those
//! are inlined. Longer spellings of a number than need be are taken, as Kafka takes them; bits past the type are not.

use crate::error::InvalidRecord;

/// Largest encoding of a 32-bit number.
pub(crate) const VARINT_BYTES_MAX: usize = 5;
/// Largest encoding of a 64-bit number.
pub(crate) const VARLONG_BYTES_MAX: usize = 10;

/// 0, -1, 1, -2 ... as 0, 1, 2, 3 ...
pub(crate) const fn zigzag32(value: i32) -> u32 {
    (value.cast_unsigned() << 1) ^ (value >> 31).cast_unsigned()
}

/// The reverse of [`zigzag32`].
pub(crate) const fn unzigzag32(bits: u32) -> i32 {
    (bits >> 1).cast_signed() ^ -(bits & 1).cast_signed()
}

const fn zigzag64(value: i64) -> u64 {
    (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned()
}

const fn unzigzag64(bits: u64) -> i64 {
    (bits >> 1).cast_signed() ^ -(bits & 1).cast_signed()
}

/// Takes a 32-bit number off the front of `bytes`; `field` names it in an error.
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "measured: out of line, results go through memory and reading takes half more"
)]
pub(crate) fn take_i32<'a>(bytes: &'a [u8], field: &'static str) -> Result<(i32, &'a [u8]), InvalidRecord> {
    match *bytes {
        [a, ref rest @ ..] if a < 0x80 => Ok((unzigzag32(u32::from(a)), rest)),
        [a, b, ref rest @ ..] if b < 0x80 => Ok((unzigzag32(u32::from(a & 0x7f) | u32::from(b) << 7), rest)),
        _ => {
            let (bits, rest) = take_long(bytes, VARINT_BYTES_MAX, field)?;
            let bits = u32::try_from(bits).map_err(|_| InvalidRecord::VarintTooLong)?;
            Ok((unzigzag32(bits), rest))
        }
    }
}

/// Takes a 64-bit number off the front of `bytes`; `field` names it in an error.
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "measured: out of line, results go through memory and reading takes half more"
)]
pub(crate) fn take_i64<'a>(bytes: &'a [u8], field: &'static str) -> Result<(i64, &'a [u8]), InvalidRecord> {
    match *bytes {
        [a, ref rest @ ..] if a < 0x80 => Ok((unzigzag64(u64::from(a)), rest)),
        [a, b, ref rest @ ..] if b < 0x80 => Ok((unzigzag64(u64::from(a & 0x7f) | u64::from(b) << 7), rest)),
        _ => {
            let (bits, rest) = take_long(bytes, VARLONG_BYTES_MAX, field)?;
            Ok((unzigzag64(bits), rest))
        }
    }
}

#[cold]
fn take_long<'a>(bytes: &'a [u8], bytes_max: usize, field: &'static str) -> Result<(u64, &'a [u8]), InvalidRecord> {
    let mut bits = 0_u64;
    let mut rest = bytes;
    for index in 0..bytes_max {
        let Some((&byte, after)) = rest.split_first() else {
            return Err(InvalidRecord::Short { field });
        };
        let group = u64::from(byte & 0x7f);
        let shift = 7 * index;
        // The tenth byte has room for one bit: anything more would be shifted out silently.
        if group << shift >> shift != group {
            return Err(InvalidRecord::VarintTooLong);
        }
        bits |= group << shift;
        rest = after;
        if byte < 0x80 {
            return Ok((bits, rest));
        }
    }
    Err(InvalidRecord::VarintTooLong)
}

/// Bytes that [`put_i32`] writes.
pub(crate) const fn size_of_i32(value: i32) -> usize {
    size_of_bits(zigzag32(value) as u64)
}

/// Bytes that [`put_i64`] writes.
pub(crate) const fn size_of_i64(value: i64) -> usize {
    size_of_bits(zigzag64(value))
}

const fn size_of_bits(bits: u64) -> usize {
    let significant = (64 - (bits | 1).leading_zeros()) as usize;
    significant.div_ceil(7)
}

/// Appends a 32-bit number.
#[inline]
pub(crate) fn put_i32(out: &mut Vec<u8>, value: i32) {
    put_bits(out, u64::from(zigzag32(value)));
}

/// Appends a 64-bit number.
#[inline]
pub(crate) fn put_i64(out: &mut Vec<u8>, value: i64) {
    put_bits(out, zigzag64(value));
}

#[inline]
fn put_bits(out: &mut Vec<u8>, bits: u64) {
    if bits < 0x80 {
        out.push(group(bits));
    } else if bits < 0x4000 {
        out.extend_from_slice(&[group(bits) | 0x80, group(bits >> 7)]);
    } else {
        put_long(out, bits);
    }
}

fn put_long(out: &mut Vec<u8>, mut bits: u64) {
    while bits >= 0x80 {
        out.push(group(bits) | 0x80);
        bits >>= 7;
    }
    out.push(group(bits));
}

/// The lowest seven bits.
#[inline]
fn group(bits: u64) -> u8 {
    let [low, ..] = bits.to_le_bytes();
    low & 0x7f
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_round_trips_in_the_size_foretold() {
        let mut values = vec![0_i64, -1, 1, i64::MAX, i64::MIN];
        for shift in 0..63 {
            values.extend([1 << shift, (1 << shift) - 1, -(1 << shift), -(1 << shift) - 1]);
        }
        for value in values {
            let mut out = Vec::new();
            put_i64(&mut out, value);
            assert_eq!(out.len(), size_of_i64(value));
            assert_eq!(take_i64(&out, "x"), Ok((value, &[][..])));
            let Ok(value) = i32::try_from(value) else { continue };
            out.clear();
            put_i32(&mut out, value);
            assert_eq!(out.len(), size_of_i32(value));
            assert!(out.len() <= VARINT_BYTES_MAX);
            assert_eq!(take_i32(&out, "x"), Ok((value, &[][..])));
        }
    }

    #[test]
    fn known_encodings() {
        for (value, bytes) in [
            (0, &[0][..]),
            (-1, &[1]),
            (1, &[2]),
            (63, &[126]),
            (64, &[0x80, 1]),
            (i32::MAX, &[0xfe, 0xff, 0xff, 0xff, 0x0f]),
            (i32::MIN, &[0xff, 0xff, 0xff, 0xff, 0x0f]),
        ] {
            assert_eq!(take_i32(bytes, "x"), Ok((value, &[][..])), "{value}");
        }
    }

    #[test]
    fn too_long_and_too_short_are_told_apart() {
        assert_eq!(take_i32(&[0xff; 5], "x"), Err(InvalidRecord::VarintTooLong));
        assert_eq!(take_i32(&[0xff, 0xff, 0xff, 0xff, 0x10], "x"), Err(InvalidRecord::VarintTooLong));
        assert_eq!(take_i32(&[0xff; 4], "x"), Err(InvalidRecord::Short { field: "x" }));
        assert_eq!(take_i32(&[], "x"), Err(InvalidRecord::Short { field: "x" }));
        assert_eq!(take_i64(&[0xff; 10], "x"), Err(InvalidRecord::VarintTooLong));
        assert_eq!(take_i64(&[0xff; 9], "x"), Err(InvalidRecord::Short { field: "x" }));
        let mut most = [0xff; 10];
        most[9] = 1;
        assert_eq!(take_i64(&most, "x"), Ok((i64::MIN, &[][..])));
        most[9] = 2;
        assert_eq!(take_i64(&most, "x"), Err(InvalidRecord::VarintTooLong));
    }

    #[test]
    fn longer_spellings_are_taken() {
        assert_eq!(take_i32(&[0x82, 0x80, 0x00, 9], "x"), Ok((1, &[9][..])));
    }
}
