//! What all handles of one simulated machine share.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use fastrand::Rng;
use nix::libc;

use super::SimConfig;
use super::crash::{self, Survival, crash_error};
use super::disk::FileBytes;
use super::faults::{Effect, Errno, Faults, SyncFailure, errno};
use super::names::{Disk, InodeId};
use super::trace::{Call, Trace};

/// Larger files are refused: a test that asks for more has a length wrong, and everything is in memory.
const FILE_BYTES_MAX: usize = 1 << 30;

#[derive(Debug)]
pub(super) struct World {
    pub(super) config: SimConfig,
    pub(super) rng: Rng,
    pub(super) disk: Disk,
    pub(super) faults: Faults,
    pub(super) trace: Trace,
    pub(super) steps: u64,
    pub(super) crash_at: Option<u64>,
    pub(super) crashed: bool,
    pub(super) locked: BTreeSet<InodeId>,
    pub(super) denied: BTreeSet<PathBuf>,
    /// Bytes that the call at hand has read or written, for the trace.
    pub(super) moved: usize,
}

impl World {
    pub(super) fn new(seed: u64, config: SimConfig) -> Self {
        let disk = Disk::new(config.sector_bytes.max(1));
        Self::with_disk(Rng::with_seed(seed), config, disk, BTreeSet::new(), false)
    }

    fn with_disk(rng: Rng, config: SimConfig, disk: Disk, denied: BTreeSet<PathBuf>, recording: bool) -> Self {
        Self {
            config,
            rng,
            disk,
            faults: Faults::default(),
            trace: Trace::new(recording),
            steps: 0,
            crash_at: None,
            crashed: false,
            locked: BTreeSet::new(),
            denied,
            moved: 0,
        }
    }

    /// The same machine after the process died.
    pub(super) fn killed(&self) -> Self {
        let disk = self.disk.without_handles();
        Self::with_disk(self.rng.clone(), self.config.clone(), disk, self.denied.clone(), self.trace.recording)
    }

    /// The machine after its power came back.
    pub(super) fn restarted(&self, survival: Survival) -> Self {
        let disk = crash::after_power_loss(&self.disk, survival);
        let rng = match survival {
            Survival::Random(seed) => Rng::with_seed(seed),
            Survival::Nothing | Survival::Everything => self.rng.clone(),
        };
        Self::with_disk(rng, self.config.clone(), disk, self.denied.clone(), self.trace.recording)
    }

    /// Runs a call unless the machine is down or the path is forbidden, and traces it.
    pub(super) fn call<'a, T>(
        &mut self,
        mut call: Call<'a>,
        body: impl FnOnce(&mut Self, &mut Call<'a>) -> io::Result<T>,
    ) -> io::Result<T> {
        self.moved = 0;
        let result = if self.crashed { Err(crash_error()) } else { body(self, &mut call) };
        self.trace.add(&call, self.moved as u64, result.as_ref().err());
        result
    }

    /// Fails if `path` or a directory above it was made unreadable.
    pub(super) fn permit(&self, path: &Path) -> io::Result<()> {
        let denied = !self.denied.is_empty() && path.ancestors().any(|above| self.denied.contains(above));
        if denied { Err(errno(libc::EACCES)) } else { Ok(()) }
    }

    /// Counts an I/O step; `true` if the machine dies in it.
    pub(super) fn dies(&mut self) -> bool {
        self.steps += 1;
        self.crashed = self.crash_at == Some(self.steps);
        self.crashed
    }

    /// A change that happens whole or not at all: one step.
    pub(super) fn change<T>(&mut self, call: &Call<'_>, apply: impl FnOnce(&mut Disk) -> T) -> io::Result<T> {
        if self.dies() {
            if self.rng.bool() {
                apply(&mut self.disk);
            }
            return Err(crash_error());
        }
        self.refuse(call)?;
        Ok(apply(&mut self.disk))
    }

    pub(super) fn strike(&mut self, call: &Call<'_>) -> Option<Effect> {
        self.faults.strike(call.operation, call.paths())
    }

    /// Fails if a fault strikes a call that is neither a transfer nor a sync.
    pub(super) fn refuse(&mut self, call: &Call<'_>) -> io::Result<()> {
        match self.strike(call) {
            None | Some(Effect::Short(_)) => Ok(()),
            Some(Effect::Error(number)) => Err(number.to_error()),
            Some(_) => Err(Errno::Eio.to_error()),
        }
    }

    /// How much of a transfer of `len` bytes is let through by faults and by chance.
    pub(super) fn transfer(&mut self, call: &Call<'_>, len: usize) -> io::Result<usize> {
        match self.strike(call) {
            Some(Effect::Short(most)) => return Ok(len.min(most)),
            Some(Effect::Error(number)) => return Err(number.to_error()),
            Some(_) => return Err(Errno::Eio.to_error()),
            None => {}
        }
        let short = self.config.short_transfers && len > 1 && self.rng.u8(0..4) == 0;
        Ok(if short { self.rng.usize(1..len) } else { len })
    }

    /// Fails now and then, where configured, as a signal would make it.
    pub(super) fn interrupt(&mut self) -> io::Result<()> {
        if self.config.interrupts && self.rng.u8(0..8) == 0 { Err(Errno::Eintr.to_error()) } else { Ok(()) }
    }

    /// The largest size that the file may have now.
    fn size_max(&self, inode: InodeId) -> io::Result<usize> {
        let size = self.disk.file(inode)?.live().len();
        let free = self.free_bytes().map_or(usize::MAX, |free| usize::try_from(free).unwrap_or(usize::MAX));
        Ok(size.saturating_add(free))
    }

    pub(super) fn free_bytes(&self) -> Option<u64> {
        self.config.capacity.map(|capacity| capacity.saturating_sub(self.disk.live_bytes() as u64))
    }

    /// Fails if the file cannot grow to `size`.
    pub(super) fn check_room(&self, inode: InodeId, size: usize) -> io::Result<()> {
        if size <= self.size_max(inode)? { Ok(()) } else { Err(Errno::Enospc.to_error()) }
    }

    /// Writes and returns how much of it; a crash or a full disk may let a part through.
    pub(super) fn write(&mut self, call: &Call<'_>, inode: InodeId, bytes: &[u8]) -> io::Result<usize> {
        let at = end_of(call.at, 0)?;
        end_of(call.at, call.len)?;
        let room = self.size_max(inode)?.saturating_sub(at).min(bytes.len());
        if self.dies() {
            let torn = crash::torn_len(&mut self.rng, at, room, self.disk.sector());
            self.disk.write(inode, at, bytes.get(..torn).unwrap_or_default());
            return Err(crash_error());
        }
        let wanted = self.transfer(call, bytes.len())?;
        // Some file systems write what fits, others nothing.
        if room < wanted && (room == 0 || self.rng.bool()) {
            return Err(Errno::Enospc.to_error());
        }
        let written = wanted.min(room);
        self.disk.write(inode, at, bytes.get(..written).unwrap_or_default());
        self.moved = written;
        Ok(written)
    }

    pub(super) fn sync_file(&mut self, call: &Call<'_>, inode: InodeId) -> io::Result<()> {
        if self.dies() {
            crash::die_in_sync(&mut self.disk, inode, &mut self.rng);
            return Err(crash_error());
        }
        let Some((failure, error)) = self.sync_fault(call) else {
            self.disk.change_file(inode, FileBytes::sync);
            return Ok(());
        };
        match failure {
            SyncFailure::KeepsPages | SyncFailure::Random => {}
            SyncFailure::DropsPages => self.disk.change_file(inode, FileBytes::drop_pending),
            SyncFailure::RevertsPages => self.disk.change_file(inode, FileBytes::revert),
        }
        error.map_or(Ok(()), |number| Err(number.to_error()))
    }

    pub(super) fn sync_directory(&mut self, call: &Call<'_>, directory: InodeId) -> io::Result<()> {
        if self.dies() {
            let count = self.rng.usize(0..=self.disk.count_pending_names(directory));
            self.disk.sync_names_in_part(directory, count);
            return Err(crash_error());
        }
        let Some((failure, error)) = self.sync_fault(call) else {
            self.disk.sync_names(directory);
            return Ok(());
        };
        match failure {
            SyncFailure::KeepsPages | SyncFailure::Random => {}
            SyncFailure::DropsPages | SyncFailure::RevertsPages => self.disk.drop_pending_names(directory),
        }
        error.map_or(Ok(()), |number| Err(number.to_error()))
    }

    /// What a fault makes of a sync: the fate of the pages and the error, `None` for a lie.
    fn sync_fault(&mut self, call: &Call<'_>) -> Option<(SyncFailure, Option<Errno>)> {
        match self.strike(call) {
            None | Some(Effect::Short(_)) => None,
            Some(Effect::SyncLies) => Some((SyncFailure::KeepsPages, None)),
            Some(Effect::SyncDropsPages) => Some((SyncFailure::DropsPages, Some(Errno::Eio))),
            Some(Effect::SyncKeepsPages) => Some((SyncFailure::KeepsPages, Some(Errno::Eio))),
            Some(Effect::SyncRevertsPages) => Some((SyncFailure::RevertsPages, Some(Errno::Eio))),
            Some(Effect::Error(number)) => Some((self.draw_sync_failure(), Some(number))),
        }
    }

    fn draw_sync_failure(&mut self) -> SyncFailure {
        match self.config.sync_failure {
            SyncFailure::Random => match self.rng.u8(0..3) {
                0 => SyncFailure::DropsPages,
                1 => SyncFailure::KeepsPages,
                _ => SyncFailure::RevertsPages,
            },
            chosen => chosen,
        }
    }
}

/// `at + len` as a position in memory.
pub(super) fn end_of(at: u64, len: u64) -> io::Result<usize> {
    let end = at.checked_add(len).and_then(|end| usize::try_from(end).ok());
    end.filter(|end| *end <= FILE_BYTES_MAX).ok_or_else(|| errno(libc::EFBIG))
}
