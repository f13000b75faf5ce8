//! Faults that a test arms, and what they do to the call they strike.

use std::io;
use std::path::Path;

use nix::libc;

use super::trace::Operation;

/// What a [`Fault`] strikes.
pub type FaultOn = Operation;

/// An error number, as the kernel would give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errno {
    /// Input/output error.
    Eio,
    /// No space left on device.
    Enospc,
    /// Read-only file system.
    Erofs,
    /// Interrupted system call.
    Eintr,
    /// Any other.
    Raw(i32),
}

impl Errno {
    /// As an [`io::Error`] with that number.
    pub fn to_error(self) -> io::Error {
        errno(match self {
            Self::Eio => libc::EIO,
            Self::Enospc => libc::ENOSPC,
            Self::Erofs => libc::EROFS,
            Self::Eintr => libc::EINTR,
            Self::Raw(number) => number,
        })
    }
}

pub(super) fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

/// What happens to the call that a [`Fault`] strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The call fails and changes nothing. On a sync, what becomes of the dirty pages is up to
    /// [`SimConfig::sync_failure`](super::SimConfig::sync_failure).
    Error(Errno),
    /// A read or write transfers at most so many bytes. Other calls go on as usual.
    Short(usize),
    /// `EIO`; the unwritten pages are marked clean: live shows the new bytes, durable lacks them, and the next sync
    /// succeeds without writing them. Only a new write to the same sectors makes them dirty again.
    SyncDropsPages,
    /// `EIO`; the pages stay dirty and the next sync writes them.
    SyncKeepsPages,
    /// `EIO`; the live bytes go back to the durable ones. A directory drops its pending names instead.
    SyncRevertsPages,
    /// Success, yet nothing is durable. An honest sync later writes everything.
    SyncLies,
}

/// What a sync that fails does with the dirty pages when the fault does not say it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncFailure {
    /// As [`Effect::SyncDropsPages`]: ext4, XFS.
    DropsPages,
    /// As [`Effect::SyncKeepsPages`].
    KeepsPages,
    /// As [`Effect::SyncRevertsPages`].
    RevertsPages,
    /// One of the three, drawn anew at each failure.
    #[default]
    Random,
}

/// A fault armed with [`SimFs::inject`](super::SimFs::inject).
///
/// ```
/// # use std::path::Path;
/// use alluvium::fs::sim::{Effect, Errno, Fault, FaultOn, SimFs};
/// use alluvium::fs::{FileSystem, OpenMode};
/// let fs = SimFs::new(1);
/// // The third write to a `.log` file, and no other, finds the disk full.
/// fs.inject(Fault::new(FaultOn::Write, Effect::Error(Errno::Enospc)).path_contains(".log").skip(2));
/// let log = fs.open(Path::new("/a.log"), OpenMode::CreateNew).unwrap();
/// let failed: Vec<bool> = (0..4).map(|at| log.write_at(b"x", at).is_err()).collect();
/// assert_eq!(failed, [false, false, true, false]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which calls.
    pub operation: FaultOn,
    /// Only paths that contain this; `None` is all. A file keeps the path it was opened by.
    pub path_contains: Option<String>,
    /// Matching calls to let pass first.
    pub skip: u64,
    /// Matching calls to strike after that; `u64::MAX` is all.
    pub times: u64,
    /// What happens to them.
    pub effect: Effect,
}

impl Fault {
    /// Strikes the next `operation` on any path, once.
    pub fn new(operation: FaultOn, effect: Effect) -> Self {
        Self { operation, path_contains: None, skip: 0, times: 1, effect }
    }

    /// Only on paths that contain `part`.
    #[must_use]
    pub fn path_contains(self, part: impl Into<String>) -> Self {
        Self { path_contains: Some(part.into()), ..self }
    }

    /// Lets `skip` matching calls pass first.
    #[must_use]
    pub fn skip(self, skip: u64) -> Self {
        Self { skip, ..self }
    }

    /// Strikes `times` calls.
    #[must_use]
    pub fn times(self, times: u64) -> Self {
        Self { times, ..self }
    }

    /// Strikes every call from then on.
    #[must_use]
    pub fn always(self) -> Self {
        self.times(u64::MAX)
    }

    fn matches(&self, operation: Operation, paths: [Option<&Path>; 2]) -> bool {
        let contained =
            |part: &String| paths.iter().flatten().any(|path| path.to_string_lossy().contains(part.as_str()));
        self.operation == operation && self.path_contains.as_ref().is_none_or(contained)
    }
}

/// The faults of a world. Every matching fault counts a call; the first that is due strikes.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    armed: Vec<Fault>,
}

impl Faults {
    pub(super) fn arm(&mut self, fault: Fault) {
        self.armed.push(fault);
    }

    pub(super) fn clear(&mut self) {
        self.armed.clear();
    }

    pub(super) fn strike(&mut self, operation: Operation, paths: [Option<&Path>; 2]) -> Option<Effect> {
        let mut effect = None;
        for fault in self.armed.iter_mut().filter(|fault| fault.matches(operation, paths)) {
            if fault.skip > 0 {
                fault.skip -= 1;
            } else if effect.is_none() && fault.times > 0 {
                // `u64::MAX` means always; no test lives to count it down.
                fault.times -= 1;
                effect = Some(fault.effect);
            }
        }
        self.armed.retain(|fault| fault.times > 0);
        effect
    }
}
