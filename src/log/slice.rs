//! What a read hands out: slices of files that pin their segment. Their bytes are read, borrowed or sent, all alike.

use std::io;
use std::sync::{Arc, OnceLock};

use crate::commit::Marks;
use crate::error::{Corruption, CorruptionKind, IoFailure, IoOperation, ReadError};
use crate::fs::{self, AsFd, BorrowedFd, File, Mapping};
use crate::index::AbortedTxn;
use crate::record::{BatchHeader, BatchView};
use crate::segment::Segment;
use crate::units::{FilePosition, Offset};

/// A stretch of whole batches in one file. While it lives the bytes stay as they are: the file is neither shortened nor
/// overwritten in place, and goes on being readable when its name is gone. What was sent stays as it was even after that,
/// until the receiver has it or the log is opened anew: the kernel sends from the file's own pages, and a cut would show
/// in what it has not sent yet.
#[derive(Clone, Debug)]
pub struct FileSlice {
    /// The map, once it was borrowed from: the segment may let go of it before the slice does. Before the segment, so that
    /// it goes first: a file that nobody pins may be cut.
    pub(super) mapping: OnceLock<Arc<dyn Mapping>>,
    pub(super) segment: Arc<Segment>,
    pub(super) file: Arc<dyn File>,
    pub(super) position: u64,
    pub(super) len: u64,
}

impl FileSlice {
    /// First byte in the file.
    pub fn position(&self) -> FilePosition {
        FilePosition::new(self.position)
    }

    /// Number of bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Path of the file when the slice was made.
    pub fn path(&self) -> std::path::PathBuf {
        self.segment.log_path()
    }

    /// The open file, for calls that the slice has no method for.
    pub fn file(&self) -> &dyn File {
        // Whoever asks may give its pages away.
        self.segment.lend(self.position.saturating_add(self.len));
        &*self.file
    }

    /// The bytes themselves, where the segment is mapped (`ReadMode::Mapped`, sealed, and there is a map to be had); `None`
    /// otherwise.
    pub fn borrow(&self) -> Option<&[u8]> {
        let mapping = if let Some(mapping) = self.mapping.get() {
            mapping
        } else {
            let mapping = self.segment.mapping().ok().flatten()?;
            self.mapping.get_or_init(|| mapping)
        };
        let start = usize::try_from(self.position).ok()?;
        mapping.bytes().get(start..)?.get(..usize::try_from(self.len).ok()?)
    }

    /// Reads the bytes to the front of `buffer` and returns how many there are. The cheapest way to get them into
    /// memory of one's own: nothing is cleared before it is overwritten.
    ///
    /// # Errors
    /// [`IoFailure`]: of kind `InvalidInput` when `buffer` is shorter than the slice, which is then not touched.
    pub fn read_to(&self, buffer: &mut [u8]) -> Result<usize, IoFailure> {
        let failed = |e| IoFailure::new(IoOperation::Read, self.segment.log_path(), e);
        let len = usize::try_from(self.len).unwrap_or(usize::MAX);
        let Some(place) = buffer.get_mut(..len) else { return Err(failed(io::ErrorKind::InvalidInput.into())) };
        match self.borrow() {
            Some(bytes) => place.copy_from_slice(bytes),
            None => fs::read_exact_at(&*self.file, place, self.position).map_err(failed)?,
        }
        Ok(len)
    }

    /// Sends all bytes to a socket that blocks, or to a pipe or file, by sendfile(2): they go from the page cache to the
    /// socket without passing through the process, also where the segment is mapped. Returns how many, which is
    /// [`FileSlice::len`]. Waits for a slow receiver as long as the socket does; the log is not held up by that. Partial
    /// sends and signals are dealt with. Any thread may call it; bytes of one stream have to be sent by one at a time.
    ///
    /// Rust programs ignore SIGPIPE from the start, so that a peer that is gone is an error here. One that turned the
    /// signal on again (or a library loaded into another program) is killed by it: sendfile(2) knows no
    /// `MSG_NOSIGNAL`.
    ///
    /// ```
    /// # use alluvium::record::BatchBuilder;
    /// # use alluvium::{AppendAs, LeaderEpoch, LogConfig, Offset, PartitionLog, ReadOptions, TimestampMs};
    /// use std::io::Read;
    /// use std::os::unix::net::UnixStream;
    /// # let dir = tempfile::tempdir()?;
    /// # let log = PartitionLog::open(dir.path(), LogConfig::default())?;
    /// # let batch = BatchBuilder::new().record(TimestampMs::new(7), None, Some(b"v")).build()?;
    /// # log.append(batch, AppendAs::Client { epoch: LeaderEpoch::new(0).unwrap() })?;
    /// let fetched = log.read(Offset::ZERO, &ReadOptions::default())?;
    /// let (socket, mut peer) = UnixStream::pair()?;
    /// let mut sent = 0;
    /// for slice in fetched.slices() {
    ///     sent += slice.send_to(&socket)?;
    /// }
    /// drop(socket);
    /// let mut received = Vec::new();
    /// peer.read_to_end(&mut received)?;
    /// assert_eq!(sent, fetched.bytes());
    /// assert_eq!(received, fetched.read()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`IoFailure`] of operation `Send`, naming the file. Of kind `WouldBlock` when the socket does not block, or waited
    /// as long as its send timeout says; [`SentInPart::of`] then tells how much went out. `BrokenPipe` or
    /// `ConnectionReset` when the peer is gone; `UnexpectedEof` when the file is shorter than the slice, which nothing
    /// but another program can bring about; `InvalidInput` for what sendfile(2) cannot write to, such as a file opened to
    /// append. After any of them the receiver may have a part of the bytes.
    pub fn send_to(&self, socket: impl AsFd) -> Result<u64, IoFailure> {
        send_all(std::slice::from_ref(self), socket.as_fd())
    }

    /// Sends bytes from byte `from` of the slice on (0 is its first, not the file's), as many as the socket takes now:
    /// for event loops, whose sockets do not block. Where it would block, wait until the socket is writable and go on at
    /// `from` plus [`Sent::bytes`]. As [`FileSlice::send_to`] otherwise.
    ///
    /// ```
    /// # use alluvium::{FileSlice, Sent};
    /// # use alluvium::error::IoFailure;
    /// # use std::os::unix::net::UnixStream;
    /// /// Called when the socket is writable; says whether the slice is out.
    /// fn go_on(slice: &FileSlice, socket: &UnixStream, sent: &mut u64) -> Result<bool, IoFailure> {
    ///     while *sent < slice.len() {
    ///         let now: Sent = slice.send_part(socket, *sent)?;
    ///         *sent += now.bytes;
    ///         if now.would_block {
    ///             return Ok(false);
    ///         }
    ///     }
    ///     Ok(true)
    /// }
    /// ```
    ///
    /// # Errors
    /// As [`FileSlice::send_to`], but for `WouldBlock`, and `InvalidInput` when `from` is past the end of the slice. An
    /// error after some bytes were taken is left to the next call, so that their number is never lost: on an error this
    /// call sent nothing.
    pub fn send_part(&self, socket: impl AsFd, from: u64) -> Result<Sent, IoFailure> {
        send_some(std::slice::from_ref(self), socket.as_fd(), from)
    }

    /// Appends the bytes to `buffer`, reusing its capacity.
    ///
    /// # Errors
    /// [`IoFailure`]; `buffer` is then as it was.
    pub fn read_into(&self, buffer: &mut Vec<u8>) -> Result<(), IoFailure> {
        let failed = |e| IoFailure::new(IoOperation::Read, self.segment.log_path(), e);
        let len = usize::try_from(self.len).map_err(|_| failed(io::ErrorKind::InvalidInput.into()))?;
        if let Some(bytes) = self.borrow() {
            buffer.extend_from_slice(bytes);
            return Ok(());
        }
        let start = buffer.len();
        buffer.resize(start + len, 0);
        let filled = fs::read_exact_at(&*self.file, buffer.get_mut(start..).unwrap_or_default(), self.position);
        filled.map_err(|e| {
            buffer.truncate(start);
            failed(e)
        })
    }

    /// Sends the bytes from byte `from` of the slice on; how many went out, and why not all.
    fn send_from(&self, socket: BorrowedFd<'_>, from: u64) -> (u64, io::Result<()>) {
        self.segment.lend(self.position.saturating_add(self.len));
        fs::send_from(&*self.file, socket, self.position.saturating_add(from), self.len.saturating_sub(from))
    }

    fn send_failed(&self, error: io::Error) -> IoFailure {
        IoFailure::new(IoOperation::Send, self.segment.log_path(), error)
    }
}

/// What [`FileSlice::send_part`] got through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the next call goes on after these bytes"]
pub struct Sent {
    /// Bytes that the socket took in this call.
    pub bytes: u64,
    /// Whether it would have blocked for more: wait until it is writable. If not, and bytes are left, call again at once.
    pub would_block: bool,
}

/// What the source of an [`IoFailure`] holds when a send that was to wait met a socket that does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the socket took {sent} of {wanted} bytes and would block; use send_part and go on there")]
pub struct SentInPart {
    /// Bytes that went out, counted from the first one asked for.
    pub sent: u64,
    /// Bytes that were to go out.
    pub wanted: u64,
}

impl SentInPart {
    /// How much went out before `failure`, if it is that the socket would block.
    ///
    /// ```
    /// use alluvium::SentInPart;
    /// use alluvium::error::{IoFailure, IoOperation};
    /// use std::io;
    /// let full = SentInPart { sent: 100, wanted: 300 };
    /// let failure = IoFailure::new(IoOperation::Send, "a.log", io::Error::new(io::ErrorKind::WouldBlock, full));
    /// assert_eq!(SentInPart::of(&failure), Some(full));
    /// ```
    pub fn of(failure: &IoFailure) -> Option<Self> {
        failure.source.get_ref()?.downcast_ref().copied()
    }
}

/// Sends all bytes of `slices`, one after the other.
fn send_all(slices: &[FileSlice], socket: BorrowedFd<'_>) -> Result<u64, IoFailure> {
    let mut total = 0_u64;
    for slice in slices {
        let (sent, outcome) = slice.send_from(socket, 0);
        total = total.saturating_add(sent);
        if let Err(e) = outcome {
            let e = match e.kind() {
                io::ErrorKind::WouldBlock => {
                    let wanted = slices.iter().map(FileSlice::len).sum();
                    io::Error::new(io::ErrorKind::WouldBlock, SentInPart { sent: total, wanted })
                }
                _ => e,
            };
            return Err(slice.send_failed(e));
        }
    }
    Ok(total)
}

/// Sends what the socket takes of the bytes of `slices` from byte `from` of them all on.
fn send_some(slices: &[FileSlice], socket: BorrowedFd<'_>, from: u64) -> Result<Sent, IoFailure> {
    let (mut skip, mut bytes) = (from, 0_u64);
    for slice in slices {
        if skip >= slice.len {
            skip -= slice.len;
            continue;
        }
        let (sent, outcome) = slice.send_from(socket, skip);
        skip = 0;
        bytes = bytes.saturating_add(sent);
        match outcome {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Sent { bytes, would_block: true }),
            // The next call meets the error; the number could not be told together with it.
            Err(_) if bytes > 0 => return Ok(Sent { bytes, would_block: false }),
            Err(e) => return Err(slice.send_failed(e)),
        }
    }
    match slices.last() {
        Some(slice) if skip > 0 => Err(slice.send_failed(io::ErrorKind::InvalidInput.into())),
        _ => Ok(Sent { bytes, would_block: false }),
    }
}

/// What a read found: whole batches, as slices of files. Empty at the mark that the isolation names.
#[derive(Clone, Debug)]
pub struct Fetched {
    pub(super) slices: Vec<FileSlice>,
    pub(super) start: Offset,
    pub(super) next: Option<Offset>,
    pub(super) marks: Marks,
    pub(super) aborted: Vec<AbortedTxn>,
}

impl Fetched {
    /// The slices, in offset order. Send them as they are: they are the bytes that the producers sent, with offset and
    /// epoch stamped.
    pub fn slices(&self) -> &[FileSlice] {
        &self.slices
    }

    /// Bytes in all slices.
    pub fn bytes(&self) -> u64 {
        self.slices.iter().map(FileSlice::len).sum()
    }

    /// Whether nothing was found: the offset is at the mark.
    pub fn is_empty(&self) -> bool {
        self.slices.is_empty()
    }

    /// The offset that was asked for. The first batch may begin before it.
    pub fn start_offset(&self) -> Offset {
        self.start
    }

    /// The marks when the read was made.
    pub fn marks(&self) -> Marks {
        self.marks
    }

    /// With [`Isolation::Stable`](super::Isolation::Stable): the aborted transactions in what was read, by the offset of
    /// their markers. A consumer of committed records leaves out what their producers wrote from the first offset of
    /// each up to its marker.
    pub fn aborted(&self) -> &[AbortedTxn] {
        &self.aborted
    }

    /// The bytes of all slices, one after the other.
    ///
    /// # Errors
    /// [`IoFailure`] when the file cannot be read.
    pub fn read(&self) -> Result<Vec<u8>, IoFailure> {
        let mut buffer = Vec::with_capacity(usize::try_from(self.bytes()).unwrap_or_default());
        for slice in &self.slices {
            slice.read_into(&mut buffer)?;
        }
        Ok(buffer)
    }

    /// Sends the bytes of all slices, one after the other, as [`FileSlice::send_to`] does; returns how many.
    ///
    /// # Errors
    /// As [`FileSlice::send_to`]; the numbers of [`SentInPart`] count over all slices.
    pub fn send_to(&self, socket: impl AsFd) -> Result<u64, IoFailure> {
        send_all(&self.slices, socket.as_fd())
    }

    /// Sends what the socket takes now, from byte `from` of all slices on, as [`FileSlice::send_part`] does.
    ///
    /// # Errors
    /// As [`FileSlice::send_part`]; `InvalidInput` when `from` is past [`Fetched::bytes`], unless nothing was found.
    pub fn send_part(&self, socket: impl AsFd, from: u64) -> Result<Sent, IoFailure> {
        send_some(&self.slices, socket.as_fd(), from)
    }

    /// Reads the bytes and returns a decoded view of them.
    ///
    /// # Errors
    /// [`IoFailure`] when the file cannot be read.
    pub fn batches(&self) -> Result<FetchedBatches, IoFailure> {
        let mut origins = Vec::with_capacity(self.slices.len());
        let mut at = 0;
        for slice in &self.slices {
            origins.push((at, slice.clone()));
            at += usize::try_from(slice.len).unwrap_or_default();
        }
        Ok(FetchedBatches { bytes: self.read()?, origins, next: self.next })
    }

    /// Where to read next: the offset after the last batch, or the offset asked for when there is none.
    ///
    /// # Errors
    /// [`ReadError`] when the last batches have to be looked at and cannot be.
    pub fn next_offset(&self) -> Result<Offset, ReadError> {
        if let Some(next) = self.next {
            return Ok(next);
        }
        let Some(slice) = self.slices.last() else { return Ok(self.start) };
        let (mut position, end) = (slice.position, slice.position + slice.len);
        let mut next = self.start;
        while position < end {
            let header = slice.segment.header_at(position, end)?;
            next = header.next_offset();
            position += u64::from(header.size);
        }
        Ok(next)
    }
}

/// The bytes of a fetch, in memory, with a decoded view.
#[derive(Debug)]
pub struct FetchedBatches {
    bytes: Vec<u8>,
    /// For each slice: where its bytes start here, and the slice.
    origins: Vec<(usize, FileSlice)>,
    /// Where to read next, as far as it was known when the slices were made: no batch reaches past it.
    next: Option<Offset>,
}

impl FetchedBatches {
    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The batches in order. Checksums are checked on demand: [`BatchView::verify_crc`]. An error names file and
    /// position and ends the iteration.
    pub fn iter(&self) -> impl Iterator<Item = Result<BatchView<'_>, Corruption>> {
        let (mut at, mut expected) = (0, None);
        std::iter::from_fn(move || {
            let rest = self.bytes.get(at..).filter(|rest| !rest.is_empty())?;
            match self.placed_batch(rest, expected) {
                Ok(batch) => {
                    at += batch.bytes().len();
                    expected = Some(batch.header().next_offset());
                    Some(Ok(batch))
                }
                Err(kind) => {
                    let corruption = self.corruption(at, kind);
                    at = self.bytes.len();
                    Some(Err(corruption))
                }
            }
        })
    }

    /// The first batch of `rest`, if its offset fits what is before and behind it: no checksum covers the offset.
    fn placed_batch<'a>(&self, rest: &'a [u8], expected: Option<Offset>) -> Result<BatchView<'a>, CorruptionKind> {
        let batch = BatchView::parse(rest, i32::MAX as u32)?;
        let header = batch.header();
        let expected = expected.unwrap_or(header.base_offset);
        // Parsed once more when its turn comes, but only where offsets leave a gap.
        let parse_behind = |rest: &[u8]| BatchHeader::parse(rest, i32::MAX as u32).ok();
        let behind = rest.get(batch.bytes().len()..).filter(|_| header.base_offset > expected).and_then(parse_behind);
        let behind = behind.map(|behind| behind.base_offset).or(self.next);
        if header.base_offset < expected || behind.is_some_and(|behind| header.next_offset() > behind) {
            return Err(CorruptionKind::OffsetOrder { expected, found: header.base_offset.value() });
        }
        Ok(batch)
    }

    fn corruption(&self, at: usize, kind: CorruptionKind) -> Corruption {
        let origin = self.origins.iter().rev().find(|(start, _)| *start <= at);
        let (file, position) = origin.map_or_else(Default::default, |(start, slice)| {
            (slice.segment.log_path(), slice.position + (at - start) as u64)
        });
        Corruption { file, at: FilePosition::new(position), kind }
    }
}
