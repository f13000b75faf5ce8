//! What a world was asked and what it answered.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::crash::is_crash;

/// A kind of call, as faults strike them and traces record them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `open` of a file that exists, or is missing and not to be created.
    Open,
    /// `open` that creates.
    Create,
    /// `read_at`.
    Read,
    /// `write_at` and `write_vectored_at`.
    Write,
    /// `set_len`.
    SetLen,
    /// `allocate`.
    Allocate,
    /// `sync_data` and `sync_all`.
    SyncData,
    /// `sync_dir`.
    SyncDir,
    /// `rename`.
    Rename,
    /// `remove_file` and `remove_dir`.
    Remove,
    /// `create_dir`.
    CreateDir,
    /// `list`.
    List,
    /// `try_lock`.
    Lock,
    /// `map`.
    Map,
    /// `metadata`, `size` and `is_locked`.
    Metadata,
    /// `advise`.
    Advise,
    /// `send_to`.
    Send,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Well. The number is the bytes that were read, written or offered to a socket, 0 for other calls.
    Done(u64),
    /// With an error of that kind.
    Failed(io::ErrorKind),
    /// The world had crashed, or crashed in this call.
    Crashed,
}

/// One call, as [`SimFs::trace`](super::SimFs::trace) gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceEvent {
    /// What was called.
    pub operation: Operation,
    /// On what; a file keeps the path it was opened by.
    pub path: PathBuf,
    /// The new name of a rename.
    pub to: Option<PathBuf>,
    /// Position in the file, or the length for `set_len`; 0 where there is none.
    pub at: u64,
    /// Length asked for; 0 where there is none.
    pub len: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// A call before its outcome is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    pub(super) operation: Operation,
    pub(super) path: &'a Path,
    pub(super) to: Option<&'a Path>,
    pub(super) at: u64,
    pub(super) len: u64,
    /// Checksum of what is to be written.
    pub(super) content: u32,
}

impl<'a> Call<'a> {
    pub(super) fn new(operation: Operation, path: &'a Path) -> Self {
        Self { operation, path, to: None, at: 0, len: 0, content: 0 }
    }

    pub(super) fn on_range(operation: Operation, path: &'a Path, at: u64, len: u64) -> Self {
        Self { at, len, ..Self::new(operation, path) }
    }

    pub(super) fn paths(&self) -> [Option<&'a Path>; 2] {
        [Some(self.path), self.to]
    }
}

/// A hash over all calls, and on request the calls themselves.
#[derive(Clone, Debug)]
pub(super) struct Trace {
    hash: u64,
    /// Whether [`Trace::events`] grows.
    pub(super) recording: bool,
    events: Vec<TraceEvent>,
}

impl Trace {
    pub(super) fn new(recording: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, recording, events: Vec::new() }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn events(&self) -> &[TraceEvent] {
        &self.events
    }

    /// Adds a call. `moved` is the bytes read or written.
    pub(super) fn add(&mut self, call: &Call<'_>, moved: u64, error: Option<&io::Error>) {
        let outcome = match error {
            None => Outcome::Done(moved),
            Some(error) if is_crash(error) => Outcome::Crashed,
            Some(error) => Outcome::Failed(error.kind()),
        };
        let ending = match outcome {
            Outcome::Done(moved) => moved << 2,
            Outcome::Failed(kind) => ((kind as u64) << 2) | 1,
            Outcome::Crashed => 2,
        };
        self.mix_path(call.path);
        self.mix_path(call.to.unwrap_or(Path::new("")));
        for word in [call.operation as u64, call.at, call.len, u64::from(call.content), ending] {
            self.mix(word);
        }
        if self.recording {
            self.events.push(TraceEvent {
                operation: call.operation,
                path: call.path.to_path_buf(),
                to: call.to.map(Path::to_path_buf),
                at: call.at,
                len: call.len,
                outcome,
            });
        }
    }

    fn mix_path(&mut self, path: &Path) {
        let bytes = path.as_os_str().as_bytes();
        self.mix((u64::from(crc32fast::hash(bytes)) << 32) | (bytes.len() as u64));
    }

    fn mix(&mut self, word: u64) {
        self.hash = (self.hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}
