//! What comes in is spread over many chains, each with its buffer of one block.

use super::chain::{Chain, ChainFile, HEADER_BYTES};
use super::{SpillFiles, Traffic};
use crate::error::IoFailure;

/// Chains that are being written, and their buffers.
#[derive(Debug)]
pub(super) struct Fan {
    file: ChainFile,
    branches: Vec<Branch>,
    /// One block for each of them.
    buffers: Vec<u8>,
    block_bytes: usize,
}

/// A chain that is being written.
#[derive(Clone, Copy, Debug)]
struct Branch {
    chain: Chain,
    /// Bytes in its buffer.
    used: usize,
    /// Records in its buffer.
    records: u32,
    /// Offset that its buffer counts from.
    base: i64,
    /// The offset that came last.
    last: i64,
}

/// Chains that were written, to be read.
#[derive(Debug)]
pub(super) struct Chains {
    /// The file of all of them.
    pub(super) file: ChainFile,
    /// In the order of their numbers.
    pub(super) all: Vec<Chain>,
}

impl Fan {
    /// What a chain takes up beside its buffer.
    pub(super) const BRANCH_BYTES: usize = size_of::<Branch>() + size_of::<Chain>();

    /// `count` empty chains of blocks of `block_bytes`, in a new file.
    pub(super) fn new(files: &mut SpillFiles, count: usize, block_bytes: usize) -> Result<Self, IoFailure> {
        let mut file = ChainFile::new(files.create()?, block_bytes);
        let mut branches = Vec::with_capacity(count);
        for number in 0..u32::try_from(count).unwrap_or(u32::MAX) {
            branches.push(Branch { chain: file.begin(number), used: HEADER_BYTES, records: 0, base: 0, last: 0 });
        }
        Ok(Self { file, branches, buffers: vec![0; count * block_bytes], block_bytes })
    }

    /// Adds a record of at most `N` bytes to a chain. `encode` is given the offset that the block counts from and the one
    /// that came last, and returns the record, or `None` if it cannot be said from there: then a new block begins, which
    /// counts from `offset`.
    #[inline]
    pub(super) fn push<const N: usize>(
        &mut self,
        number: usize,
        offset: i64,
        encode: impl Fn(i64, i64) -> Option<([u8; N], usize)>,
    ) -> Result<(), IoFailure> {
        assert!(number < self.branches.len(), "there is a chain for every hash and offset");
        let Some(branch) = self.branches.get_mut(number) else { return Ok(()) };
        let fits = branch.records > 0 && branch.used + N <= self.block_bytes;
        let encoded = if fits { encode(branch.base, branch.last) } else { None };
        let (record, len) = if let Some(encoded) = encoded {
            encoded
        } else {
            self.flush(number)?;
            let encoded = encode(offset, offset);
            assert!(encoded.is_some(), "any record can begin a block");
            encoded.unwrap_or(([0; N], 0))
        };
        let Some(branch) = self.branches.get_mut(number) else { return Ok(()) };
        if branch.records == 0 {
            branch.base = offset;
        }
        let at = number * self.block_bytes + branch.used;
        if let Some(place) = self.buffers.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<N>()) {
            *place = record;
        }
        branch.used += len;
        branch.records += 1;
        branch.last = offset;
        Ok(())
    }

    /// Writes what a chain's buffer holds.
    fn flush(&mut self, number: usize) -> Result<(), IoFailure> {
        let Some(branch) = self.branches.get_mut(number) else { return Ok(()) };
        if branch.records == 0 {
            return Ok(());
        }
        let at = number * self.block_bytes;
        let block = self.buffers.get_mut(at..at + branch.used).unwrap_or_default();
        self.file.append(&mut branch.chain, branch.base, branch.records, block)?;
        (branch.used, branch.records) = (HEADER_BYTES, 0);
        Ok(())
    }

    /// Writes what is left in the buffers; the chains are complete.
    pub(super) fn close(mut self) -> Result<Chains, IoFailure> {
        for number in 0..self.branches.len() {
            self.flush(number)?;
        }
        Ok(Chains { all: self.branches.iter().map(|branch| branch.chain).collect(), file: self.file })
    }

    /// Bytes written so far.
    pub(super) fn traffic(&self) -> Traffic {
        self.file.traffic()
    }

    /// What is allocated.
    pub(super) fn memory_bytes(&self) -> usize {
        self.buffers.capacity() + self.branches.capacity() * size_of::<Branch>()
    }
}

impl Chains {
    /// What is allocated.
    pub(super) fn memory_bytes(&self) -> usize {
        self.all.capacity() * size_of::<Chain>()
    }
}

impl ChainFile {
    /// Bytes written and read so far.
    pub(super) fn traffic(&self) -> Traffic {
        Traffic { written: self.file.written, read: self.file.read }
    }
}
