//! A simulated POSIX file system with a write-back cache, for tests of what survives.
//!
//! Everything is in memory and drawn from a seed: the same seed and the same calls give the same world. Nothing more
//! is promised than POSIX promises:
//! - Written bytes and sizes last once the file is synced, names once the directory that holds them is synced.
//! - What was not synced may survive whole, in part, reordered or not at all: each sector alone, sizes apart from data,
//!   each name change alone, though a rename never leaves neither name.
//! - A failed sync may mark pages clean that were never written; the next sync then succeeds without them, and reads
//!   show them until [`Advice::DontNeed`](super::Advice::DontNeed) or a restart takes them out of the cache.
//!
//! ```
//! # use std::path::Path;
//! use alluvium::fs::sim::{SimFs, Survival};
//! use alluvium::fs::{FileSystem, OpenMode, write_all_at};
//! let fs = SimFs::new(7);
//! let file = fs.open(Path::new("/a"), OpenMode::CreateNew).unwrap();
//! write_all_at(&*file, b"abc", 0).unwrap();
//! file.sync_data().unwrap();
//! // The bytes are durable, the name is not: a power loss may take the file.
//! assert_eq!(fs.power_loss_keeping(Survival::Nothing).live_bytes(Path::new("/a")), None);
//! fs.sync_dir(Path::new("/")).unwrap();
//! let after = fs.power_loss(42);
//! assert_eq!(after.live_bytes(Path::new("/a")), Some(b"abc".to_vec()));
//! ```
//!
//! A crash test runs its workload once to count [`SimFs::steps`], then again for every step with
//! [`SimFs::crash_after`], and opens what [`SimFs::power_loss`] or [`SimFs::kill`] leave.
//!
//! Simplifications: one user, no symbolic or hard links, no times; `allocate` reserves nothing beyond the size; files
//! end at 1 GiB. Paths are absolute, without `..`.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use nix::libc;

mod crash;
mod disk;
mod faults;
mod file;
mod names;
#[cfg(test)]
mod tests;
mod trace;
mod world;

pub use crash::{Survival, is_crash};
pub use faults::{Effect, Errno, Fault, FaultOn, SyncFailure};
pub use trace::{Operation, Outcome, TraceEvent};

use self::faults::errno;
use self::file::{SimFile, SimLock};
use self::names::InodeId;
use self::trace::Call;
use self::world::World;
use super::{DirEntry, EntryKind, File, FileSystem, LockGuard, Metadata, OpenMode, Space};
use crate::clock::Clock;
use crate::sync::Mutex;

/// How a simulated machine behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimConfig {
    /// What the medium writes at once; a power loss tears writes between sectors, never within one.
    pub sector_bytes: usize,
    /// Bytes that all files together may have; `None` is no limit.
    pub capacity: Option<u64>,
    /// Whether reads and writes are short now and then.
    pub short_transfers: bool,
    /// Whether reads and writes fail with `EINTR` now and then, before they do anything.
    pub interrupts: bool,
    /// What a sync that fails through [`Effect::Error`] does with the dirty pages.
    pub sync_failure: SyncFailure,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self {
            sector_bytes: 512,
            capacity: None,
            short_transfers: false,
            interrupts: false,
            sync_failure: SyncFailure::default(),
        }
    }
}

/// A simulated file system; see the [module](self). Clones share one world.
#[derive(Clone)]
pub struct SimFs {
    world: Arc<Mutex<World>>,
}

impl fmt::Debug for SimFs {
    // Without the world: it is long, and a panic message may be formatted while it is locked.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimFs").finish_non_exhaustive()
    }
}

impl SimFs {
    /// A machine with an empty root directory.
    pub fn new(seed: u64) -> Self {
        Self::with_config(seed, SimConfig::default())
    }

    /// A machine that behaves as `config` says.
    pub fn with_config(seed: u64, config: SimConfig) -> Self {
        Self::of(World::new(seed, config))
    }

    fn of(world: World) -> Self {
        Self { world: Arc::new(Mutex::new(world)) }
    }

    fn call<'a, T>(
        &self,
        call: Call<'a>,
        body: impl FnOnce(&mut World, &mut Call<'a>) -> io::Result<T>,
    ) -> io::Result<T> {
        self.world.lock().call(call, body)
    }

    /// I/O steps so far: the calls that changed something or made it durable, or tried to. Those are writes, cuts,
    /// allocations, opens and locks that create, renames, removals, new directories, and syncs. Reads, lists and calls
    /// that are refused for what they ask (a missing name, a taken one) are none.
    pub fn steps(&self) -> u64 {
        self.world.lock().steps
    }

    /// Lets the machine die in the step with this number, counted from 1; a number that is past dies at once.
    ///
    /// That step happens partly or not at all. It and every later call, reads too, fail with an error that
    /// [`is_crash`] knows.
    pub fn crash_after(&self, step: u64) {
        let mut world = self.world.lock();
        world.crashed |= step <= world.steps;
        world.crash_at = Some(step);
    }

    /// Whether the machine died.
    pub fn is_crashed(&self) -> bool {
        self.world.lock().crashed
    }

    /// A new world in which the process died and the kernel lives: everything is as programs saw it, what was unsynced
    /// still is, and locks, handles, faults and the crash are gone. Steps and trace begin anew. This world stays as it
    /// is.
    #[must_use]
    pub fn kill(&self) -> Self {
        Self::of(self.world.lock().killed())
    }

    /// A new world after a power loss, with what survived by a draw from `seed`. This world stays as it is.
    #[must_use]
    pub fn power_loss(&self, seed: u64) -> Self {
        self.power_loss_keeping(Survival::Random(seed))
    }

    /// A new world after a power loss, with what `survival` says.
    #[must_use]
    pub fn power_loss_keeping(&self, survival: Survival) -> Self {
        Self::of(self.world.lock().restarted(survival))
    }

    /// Takes modification times from `clock` from now on, in the worlds made from this one too. Before, files have none.
    pub fn follow_clock(&self, clock: Arc<dyn Clock>) {
        self.world.lock().disk.follow(clock);
    }

    /// Arms a fault.
    pub fn inject(&self, fault: Fault) {
        self.world.lock().faults.arm(fault);
    }

    /// Disarms all faults.
    pub fn clear_faults(&self) {
        self.world.lock().faults.clear();
    }

    /// Makes every call on `path` and below fail with `PermissionDenied`. Files that are open go on; a power loss does
    /// not change it.
    pub fn set_permission_denied(&self, path: &Path) {
        self.world.lock().denied.insert(path.to_path_buf());
    }

    /// Takes back [`SimFs::set_permission_denied`] on `path`.
    pub fn clear_permission_denied(&self, path: &Path) {
        self.world.lock().denied.remove(path);
    }

    /// Whether [`SimFs::trace`] grows from now on. Worlds made from this one do as it does.
    pub fn record_trace(&self, recording: bool) {
        self.world.lock().trace.recording = recording;
    }

    /// The calls since [`SimFs::record_trace`].
    pub fn trace(&self) -> Vec<TraceEvent> {
        self.world.lock().trace.events().to_vec()
    }

    /// A hash over all calls, the bytes written and the outcomes, recorded or not.
    pub fn trace_hash(&self) -> u64 {
        self.world.lock().trace.hash()
    }

    /// Bit rot at rest: flips a bit of a file, in the cache and on the medium.
    ///
    /// # Panics
    /// If the file has no such byte: a test of damage must do damage.
    pub fn flip_bit(&self, path: &Path, byte: u64, bit: u8) {
        let mut world = self.world.lock();
        let found = world.disk.find(path).ok();
        let mut flipped = false;
        if let (Some(inode), Ok(at)) = (found, usize::try_from(byte)) {
            world.disk.change_file(inode, |file| flipped = file.flip_bit(at, bit));
        }
        assert!(flipped, "no byte {byte} in {} to flip", path.display());
    }

    /// What a power loss that keeps nothing unsynced would leave under that name; `None` if the name or one above it is
    /// not durable, or is a directory.
    pub fn durable_bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let world = self.world.lock();
        let inode = world.disk.find_durable(path).ok()?;
        Some(world.disk.file(inode).ok()?.durable().to_vec())
    }

    /// What programs read under that name; `None` if there is no such file.
    pub fn live_bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let world = self.world.lock();
        let inode = world.disk.find(path).ok()?;
        Some(world.disk.file(inode).ok()?.live().to_vec())
    }

    /// Bytes that files may still grow by; `None` without a limit.
    pub fn free_bytes(&self) -> Option<u64> {
        self.world.lock().free_bytes()
    }

    /// Sets [`SimConfig::capacity`]. A write past it fails with `StorageFull`, or writes a part first.
    pub fn set_capacity(&self, capacity: Option<u64>) {
        self.world.lock().config.capacity = capacity;
    }

    /// Descriptors in use: open files and locks, not maps.
    pub fn open_handles(&self) -> usize {
        self.world.lock().disk.handles()
    }
}

impl World {
    fn open(&mut self, call: &mut Call<'_>, mode: OpenMode) -> io::Result<InodeId> {
        self.permit(call.path)?;
        let creates = matches!(mode, OpenMode::CreateNew | OpenMode::CreateOrOpen);
        let inode = match self.disk.find(call.path) {
            Ok(_) if mode == OpenMode::CreateNew => return Err(errno(libc::EEXIST)),
            Err(e) if creates && e.kind() == io::ErrorKind::NotFound => self.create_file(call)?,
            Ok(inode) if self.disk.is_directory(inode) => return Err(errno(libc::EISDIR)),
            found => {
                self.refuse(call)?;
                found?
            }
        };
        self.disk.open(inode);
        Ok(inode)
    }

    fn create_file(&mut self, call: &mut Call<'_>) -> io::Result<InodeId> {
        let place = self.disk.place(call.path)?;
        if call.operation == Operation::Open {
            call.operation = Operation::Create;
        }
        self.change(call, |disk| disk.make_file(place))
    }

    fn list(&mut self, call: &Call<'_>) -> io::Result<Vec<DirEntry>> {
        self.permit(call.path)?;
        let directory = self.disk.find(call.path)?;
        self.refuse(call)?;
        let entry = |(name, inode): (&std::ffi::OsStr, InodeId)| DirEntry {
            name: name.to_string_lossy().into_owned(),
            kind: self.kind(inode),
        };
        Ok(self.disk.entries(directory)?.map(entry).collect())
    }

    fn kind(&self, inode: InodeId) -> EntryKind {
        if self.disk.is_directory(inode) { EntryKind::Directory } else { EntryKind::File }
    }

    fn remove(&mut self, call: &Call<'_>, kind: EntryKind) -> io::Result<()> {
        self.permit(call.path)?;
        let place = self.disk.place(call.path)?;
        let inode = self.disk.at(&place).ok_or_else(|| errno(libc::ENOENT))?;
        match (kind, self.kind(inode)) {
            (EntryKind::File, EntryKind::Directory) => return Err(errno(libc::EISDIR)),
            (EntryKind::Directory, EntryKind::File) => return Err(errno(libc::ENOTDIR)),
            (EntryKind::Directory, _) if self.disk.entries(inode)?.next().is_some() => {
                return Err(errno(libc::ENOTEMPTY));
            }
            _ => {}
        }
        self.change(call, |disk| disk.remove(place))
    }

    /// Opens the file and locks it; the lock keeps the handle.
    fn lock(&mut self, call: &mut Call<'_>) -> io::Result<Option<InodeId>> {
        let inode = self.open(call, OpenMode::CreateOrOpen)?;
        if self.locked.insert(inode) {
            return Ok(Some(inode));
        }
        self.disk.close(inode);
        Ok(None)
    }
}

impl FileSystem for SimFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let inode = self.call(Call::new(Operation::Open, path), |world, call| world.open(call, mode))?;
        Ok(Arc::new(SimFile::new(self.clone(), inode, path, mode != OpenMode::Read)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.call(Call::new(Operation::List, dir), |world, call| world.list(call))
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.call(Call::new(Operation::Metadata, path), |world, call| {
            world.permit(path)?;
            let inode = world.disk.find(path)?;
            world.refuse(call)?;
            let len = world.disk.file(inode).map_or(0, |file| file.live().len() as u64);
            Ok(Metadata { kind: world.kind(inode), len, modified: world.disk.modified(inode) })
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let call = Call { to: Some(to), ..Call::new(Operation::Rename, from) };
        self.call(call, |world, call| {
            world.permit(from)?;
            world.permit(to)?;
            match world.disk.judge_rename(from, to)? {
                Some((source, target)) => world.change(call, |disk| disk.rename(source, target)),
                None => world.refuse(call),
            }
        })
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.call(Call::new(Operation::Remove, path), |world, call| world.remove(call, EntryKind::File))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.call(Call::new(Operation::CreateDir, path), |world, call| {
            world.permit(path)?;
            let place = world.disk.place(path)?;
            if world.disk.at(&place).is_some() {
                return Err(errno(libc::EEXIST));
            }
            world.change(call, |disk| disk.make_directory(place)).map(|_| ())
        })
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.call(Call::new(Operation::Remove, path), |world, call| world.remove(call, EntryKind::Directory))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.call(Call::new(Operation::SyncDir, dir), |world, call| {
            world.permit(dir)?;
            let directory = world.disk.find(dir)?;
            if !world.disk.is_directory(directory) {
                // A mistake that the real call would hide: it syncs the file.
                return Err(errno(libc::ENOTDIR));
            }
            world.sync_directory(call, directory)
        })
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        self.call(Call::new(Operation::Metadata, path), |world, _| {
            world.permit(path)?;
            let total = world.config.capacity.unwrap_or(1 << 50);
            Ok(Space { total, free: world.free_bytes().unwrap_or(total) })
        })
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn LockGuard>>> {
        let taken = self.call(Call::new(Operation::Lock, path), |world, call| world.lock(call))?;
        Ok(taken.map(|inode| Box::new(SimLock::new(self.clone(), inode)) as Box<dyn LockGuard>))
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        self.call(Call::new(Operation::Metadata, path), |world, call| {
            world.permit(path)?;
            match world.disk.find(path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
                found => {
                    world.refuse(call)?;
                    Ok(world.locked.contains(&found?))
                }
            }
        })
    }
}
