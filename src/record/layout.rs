//! The bytes of a record batch, version 2, and of its records. All integers are big-endian.
//!
//! ```text
//!  at len field                 meaning
//!   0   8 base offset           offset of the first record; clients send 0 and the leader overwrites it
//!   8   4 batch length          bytes after this field: the whole batch is 12 + this
//!  12   4 leader epoch          stamped by the leader, -1 none
//!  16   1 magic                 2; at the same place in versions 0 and 1
//!  17   4 crc                   CRC-32C over byte 21 to the end, so offset, epoch and length can be stamped without it
//!  21   2 attributes            0-2 codec  3 time of append  4 transactional  5 control  6 delete horizon  7-15 unused
//!  23   4 last offset delta     last offset = base offset + this; kept by compaction, so offsets may have holes
//!  27   8 base timestamp        ms; the records' timestamps are deltas to it. The delete horizon if bit 6 is set
//!  35   8 max timestamp         ms; with bit 3 the timestamp of every record
//!  43   8 producer id           -1 none
//!  51   2 producer epoch        -1 none
//!  53   4 base sequence         -1 none; the last sequence is this + last offset delta, wrapping from 2^31-1 to 0
//!  57   4 record count          records present: at most last offset delta + 1, and 0 in an emptied batch
//!  61     records               one after the other, or one compressed blob of them
//! ```
//!
//! A record, whose integers are zig-zag varints (5 bytes at most, the timestamp delta 10):
//!
//! ```text
//! length           bytes after this field, all of which the fields below must use up
//! attributes       one byte, unused
//! timestamp delta  to the base timestamp, may be negative
//! offset delta     to the base offset
//! key length       -1 null      key bytes
//! value length     -1 null, a tombstone      value bytes
//! header count     then as often: key length (never null), key in UTF-8, value length (-1 null), value bytes
//! ```

/// Where the base offset lies.
pub const BASE_OFFSET_AT: usize = 0;
/// Where the batch length lies.
pub const BATCH_LENGTH_AT: usize = BASE_OFFSET_AT + size_of::<i64>();
/// Where the leader epoch lies.
pub const LEADER_EPOCH_AT: usize = BATCH_LENGTH_AT + size_of::<i32>();
/// Where the magic lies.
pub const MAGIC_AT: usize = LEADER_EPOCH_AT + size_of::<i32>();
/// Where the CRC-32C lies.
pub const CRC_AT: usize = MAGIC_AT + size_of::<i8>();
/// Where the attributes lie, and where the bytes under the CRC start.
pub const ATTRIBUTES_AT: usize = CRC_AT + size_of::<u32>();
/// Where the last offset delta lies.
pub const LAST_OFFSET_DELTA_AT: usize = ATTRIBUTES_AT + size_of::<i16>();
/// Where the base timestamp lies.
pub const BASE_TIMESTAMP_AT: usize = LAST_OFFSET_DELTA_AT + size_of::<i32>();
/// Where the largest timestamp lies.
pub const MAX_TIMESTAMP_AT: usize = BASE_TIMESTAMP_AT + size_of::<i64>();
/// Where the producer id lies.
pub const PRODUCER_ID_AT: usize = MAX_TIMESTAMP_AT + size_of::<i64>();
/// Where the producer epoch lies.
pub const PRODUCER_EPOCH_AT: usize = PRODUCER_ID_AT + size_of::<i64>();
/// Where the base sequence lies.
pub const BASE_SEQUENCE_AT: usize = PRODUCER_EPOCH_AT + size_of::<i16>();
/// Where the record count lies.
pub const COUNT_AT: usize = BASE_SEQUENCE_AT + size_of::<i32>();
/// Size of the header, and where the records start.
pub const HEADER_BYTES: usize = COUNT_AT + size_of::<i32>();
/// What the batch length does not count: base offset and itself.
pub const LENGTH_OVERHEAD: usize = LEADER_EPOCH_AT;

const _: () = assert!(LENGTH_OVERHEAD == 12 && MAGIC_AT == 16 && ATTRIBUTES_AT == 21 && HEADER_BYTES == 61);

/// The only magic that is read and written.
pub const MAGIC: i8 = 2;

/// Bits 0 to 2 of the attributes: the codec.
pub const CODEC_MASK: u16 = 0b111;
/// Bit 3: every record bears the time of its append.
pub const APPEND_TIME_BIT: u16 = 1 << 3;
/// Bit 4: part of a transaction.
pub const TRANSACTIONAL_BIT: u16 = 1 << 4;
/// Bit 5: control records, not data.
pub const CONTROL_BIT: u16 = 1 << 5;
/// Bit 6: the base timestamp is a delete horizon.
pub const DELETE_HORIZON_BIT: u16 = 1 << 6;

/// "None" of leader epoch, producer fields and timestamps.
pub const NONE: i8 = -1;
/// A record's timestamp where there is none.
pub const NO_TIMESTAMP: i64 = NONE as i64;
