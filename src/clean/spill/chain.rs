//! Blocks of one file, linked into chains that are read in either direction.
//!
//! Every chain has one place of a block reserved ahead, so that a block can say where the next one will be. One file
//! serves any number of chains, and so does one descriptor.
//!
//! ```text
//! at len field            big-endian
//!  0  4  magic            "aspl"
//!  4  4  crc              CRC-32 over the block's own place, the chain's number, and bytes 8 to the end of the payload
//!  8  8  before           place of the chain's block before this one; of no meaning in the first
//! 16  8  after            place of the one after, whether or not there will be one
//! 24  8  base             offset that the payload counts from
//! 32  4  records          how many there are in the payload
//! 36  4  payload bytes    what follows
//! ```

use std::io;

use super::SpillFile;
use crate::error::{IoFailure, IoOperation};

/// What comes before the payload.
pub(super) const HEADER_BYTES: usize = 40;
const MAGIC: [u8; 4] = *b"aspl";
const COVERED_AT: usize = 8;

/// A chain: where it is, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain {
    /// Its number among those of its file.
    pub(super) number: u32,
    /// Records in all blocks.
    pub(super) records: u64,
    blocks: u64,
    first: u64,
    last: u64,
    /// Reserved for the block after the last.
    next: u64,
}

/// Which way a chain is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the block written first.
    Forward,
    /// From the block written last.
    Backward,
}

/// How far a chain was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor {
    number: u32,
    place: u64,
    blocks_left: u64,
    records_left: u64,
    direction: Direction,
}

impl Chain {
    /// Reads it from one of its ends.
    pub(super) fn cursor(&self, direction: Direction) -> Cursor {
        let place = match direction {
            Direction::Forward => self.first,
            Direction::Backward => self.last,
        };
        let (number, blocks_left, records_left) = (self.number, self.blocks, self.records);
        Cursor { number, place, blocks_left, records_left, direction }
    }
}

/// What a block says of its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Payload<'b> {
    /// Offset that it counts from.
    pub(super) base: i64,
    /// Number of records.
    pub(super) records: u32,
    /// The records.
    pub(super) bytes: &'b [u8],
}

/// Why a block is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the block at byte {at} of a spill file is not what was written: {fault}; the pass is to begin anew")]
pub(super) struct BadBlock {
    /// Where it is.
    pub(super) at: u64,
    /// What is wrong.
    pub(super) fault: BlockFault,
}

/// What is wrong with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BlockFault {
    /// It ends early, or says that it is longer than blocks are.
    #[error("its length is wrong")]
    Length,
    /// It does not begin as blocks do.
    #[error("its magic is wrong")]
    Magic,
    /// Its checksum is another one.
    #[error("its CRC-32 does not match")]
    Crc,
    /// The payload is not made of whole records, or of another number.
    #[error("its records do not add up")]
    Records,
}

/// A file of chains.
#[derive(Debug)]
pub(super) struct ChainFile {
    pub(super) file: SpillFile,
    block_bytes: usize,
    /// Everything from here on is free.
    end: u64,
}

impl ChainFile {
    /// An empty file of blocks of at most `block_bytes`.
    pub(super) fn new(file: SpillFile, block_bytes: usize) -> Self {
        Self { file, block_bytes, end: 0 }
    }

    /// An empty chain.
    pub(super) fn begin(&mut self, number: u32) -> Chain {
        let next = self.reserve();
        Chain { number, first: next, last: next, next, ..Chain::default() }
    }

    fn reserve(&mut self) -> u64 {
        let place = self.end;
        self.end = self.end.saturating_add(self.block_bytes as u64);
        place
    }

    /// Writes a block at a chain's end. The first [`HEADER_BYTES`] of `block` are filled in here.
    pub(super) fn append(
        &mut self,
        chain: &mut Chain,
        base: i64,
        records: u32,
        block: &mut [u8],
    ) -> Result<(), IoFailure> {
        assert!(block.len() <= self.block_bytes, "a block fits its place");
        let place = chain.next;
        let next = self.reserve();
        let payload_bytes = u32::try_from(block.len().saturating_sub(HEADER_BYTES)).unwrap_or(u32::MAX);
        let fields: [&[u8]; 5] = [
            &chain.last.to_be_bytes(),
            &next.to_be_bytes(),
            &base.to_be_bytes(),
            &records.to_be_bytes(),
            &payload_bytes.to_be_bytes(),
        ];
        let (header, _) = block.split_at_mut(HEADER_BYTES);
        fill(header, COVERED_AT, &fields);
        let crc = checksum(place, chain.number, block);
        fill(block, 0, &[&MAGIC, &crc.to_be_bytes()]);
        self.file.write(block, place)?;
        chain.last = place;
        chain.next = next;
        chain.blocks = chain.blocks.saturating_add(1);
        chain.records = chain.records.saturating_add(u64::from(records));
        Ok(())
    }

    /// The next block of a chain; `None` after the last. `block` has room for a whole one.
    pub(super) fn read<'b>(
        &mut self,
        cursor: &mut Cursor,
        block: &'b mut [u8],
    ) -> Result<Option<Payload<'b>>, IoFailure> {
        let at = cursor.place;
        if cursor.blocks_left == 0 {
            return if cursor.records_left == 0 { Ok(None) } else { Err(self.bad(at, BlockFault::Records)) };
        }
        let have = self.file.read(block, at)?;
        let parsed = parse(block.get(..have).unwrap_or_default(), at, cursor.number);
        let (links, payload) = parsed.map_err(|fault| self.bad(at, fault))?;
        cursor.place = match cursor.direction {
            Direction::Forward => links.after,
            Direction::Backward => links.before,
        };
        cursor.blocks_left -= 1;
        let left = cursor.records_left.checked_sub(u64::from(payload.records));
        cursor.records_left = left.ok_or_else(|| self.bad(at, BlockFault::Records))?;
        Ok(Some(payload))
    }

    /// The error for a block whose payload makes no sense.
    pub(super) fn bad_records(&self, cursor: &Cursor) -> IoFailure {
        self.bad(cursor.place, BlockFault::Records)
    }

    fn bad(&self, at: u64, fault: BlockFault) -> IoFailure {
        let source = io::Error::new(io::ErrorKind::InvalidData, BadBlock { at, fault });
        IoFailure::new(IoOperation::Read, self.file.path(), source)
    }
}

struct Links {
    before: u64,
    after: u64,
}

/// Takes a block apart once its checksum is found right.
fn parse(bytes: &[u8], place: u64, number: u32) -> Result<(Links, Payload<'_>), BlockFault> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(BlockFault::Length)?;
    let word = |at: usize| header.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |b| u64::from_be_bytes(*b));
    let half = |at: usize| header.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |b| u32::from_be_bytes(*b));
    if !header.starts_with(&MAGIC) {
        return Err(BlockFault::Magic);
    }
    let payload_bytes = usize::try_from(half(36)).map_err(|_| BlockFault::Length)?;
    let payload = rest.get(..payload_bytes).ok_or(BlockFault::Length)?;
    let block = bytes.get(..HEADER_BYTES + payload_bytes).ok_or(BlockFault::Length)?;
    if half(4) != checksum(place, number, block) {
        return Err(BlockFault::Crc);
    }
    let base = i64::from_be_bytes(word(24).to_be_bytes());
    Ok((Links { before: word(8), after: word(16) }, Payload { base, records: half(32), bytes: payload }))
}

fn checksum(place: u64, number: u32, block: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&place.to_be_bytes());
    crc.update(&number.to_be_bytes());
    crc.update(block.get(COVERED_AT..).unwrap_or_default());
    crc.finalize()
}

/// Writes fields one after the other from `at` on.
fn fill(bytes: &mut [u8], at: usize, fields: &[&[u8]]) {
    let mut rest = bytes.get_mut(at..).unwrap_or_default();
    for field in fields {
        let (place, after) = rest.split_at_mut(field.len());
        place.copy_from_slice(field);
        rest = after;
    }
}
