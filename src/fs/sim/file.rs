//! Handles: open files, maps and locks.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use nix::libc;

use super::SimFs;
use super::faults::errno;
use super::names::InodeId;
use super::trace::{Call, Operation};
use super::world::end_of;
use crate::fs::{Advice, BorrowedFd, File, LockGuard, Mapping};

/// An open file of a simulated world.
pub(super) struct SimFile {
    fs: SimFs,
    inode: InodeId,
    path: Arc<Path>,
    writable: bool,
}

impl SimFile {
    /// Takes over a handle that was counted with `Disk::open`.
    pub(super) fn new(fs: SimFs, inode: InodeId, path: &Path, writable: bool) -> Self {
        Self { fs, inode, path: path.into(), writable }
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(errno(libc::EACCES)) }
    }

    fn sync(&self) -> io::Result<()> {
        let call = Call::new(Operation::SyncData, &self.path);
        self.fs.call(call, |world, call| world.sync_file(call, self.inode))
    }

    /// Shows `take` at most `len` bytes from `call.at` on, fewer where faults or the end of the file say so.
    fn read_live<T>(&self, call: Call<'_>, len: usize, take: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
        self.fs.call(call, |world, call| {
            world.interrupt()?;
            let len = world.transfer(call, len)?;
            let live = world.disk.file(self.inode)?.live();
            let rest = usize::try_from(call.at).ok().and_then(|at| live.get(at..)).unwrap_or_default();
            let source = rest.get(..len).unwrap_or(rest);
            let (moved, taken) = (source.len(), take(source));
            world.moved = moved;
            Ok(taken)
        })
    }

    /// Cuts or extends to `call.at + call.len`.
    fn grow_or_cut(&self, call: Call<'_>, only_grow: bool) -> io::Result<()> {
        self.fs.call(call, |world, call| {
            self.check_writable()?;
            let size = end_of(call.at, call.len)?;
            if only_grow && size <= world.disk.file(self.inode)?.live().len() {
                // Space without size changes nothing that a crash could take.
                return world.change(call, |_| ());
            }
            // A longer size alone is a hole and takes no space.
            if only_grow {
                world.check_room(self.inode, size)?;
            }
            world.change(call, |disk| disk.resize(self.inode, size))
        })
    }
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimFile").field("path", &self.path).field("writable", &self.writable).finish_non_exhaustive()
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.fs.world.lock().disk.close(self.inode);
    }
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let call = Call::on_range(Operation::Read, &self.path, at, buf.len() as u64);
        self.read_live(call, buf.len(), |source| {
            if let Some(target) = buf.get_mut(..source.len()) {
                target.copy_from_slice(source);
            }
            source.len()
        })
    }

    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<usize> {
        let content = crc32fast::hash(buf);
        let call = Call { content, ..Call::on_range(Operation::Write, &self.path, at, buf.len() as u64) };
        self.fs.call(call, |world, call| {
            self.check_writable()?;
            if buf.is_empty() {
                return Ok(0);
            }
            world.interrupt()?;
            world.write(call, self.inode, buf)
        })
    }

    fn write_vectored_at(&self, bufs: &[io::IoSlice<'_>], at: u64) -> io::Result<usize> {
        match bufs {
            [only] => self.write_at(only, at),
            _ => self.write_at(&bufs.iter().flat_map(|buf| buf.iter().copied()).collect::<Vec<u8>>(), at),
        }
    }

    fn size(&self) -> io::Result<u64> {
        self.fs.call(Call::new(Operation::Metadata, &self.path), |world, call| {
            world.refuse(call)?;
            Ok(world.disk.file(self.inode)?.live().len() as u64)
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.grow_or_cut(Call::on_range(Operation::SetLen, &self.path, len, 0), false)
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Err(errno(libc::EINVAL));
        }
        self.grow_or_cut(Call::on_range(Operation::Allocate, &self.path, at, len), true)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }

    fn map(&self, len: u64) -> io::Result<Arc<dyn Mapping>> {
        let (bytes, len, map) = self.fs.call(Call::on_range(Operation::Map, &self.path, 0, len), |world, call| {
            let len = end_of(0, len)?;
            world.refuse(call)?;
            let bytes = Arc::clone(world.disk.file(self.inode)?.live());
            if bytes.len() < len {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok((bytes, len, world.disk.map(self.inode, len)))
        })?;
        Ok(Arc::new(SimMapping { fs: self.fs.clone(), inode: self.inode, map, bytes, len }))
    }

    fn advise(&self, at: u64, len: u64, advice: Advice) -> io::Result<()> {
        self.fs.call(Call::on_range(Operation::Advise, &self.path, at, len), |world, call| {
            world.refuse(call)?;
            if advice == Advice::DontNeed {
                let to = if len == 0 { u64::MAX } else { at.saturating_add(len) };
                let [at, to] = [at, to].map(|position| usize::try_from(position).unwrap_or(usize::MAX));
                world.disk.evict(self.inode, at..to);
            }
            Ok(())
        })
    }

    fn send_to(&self, socket: BorrowedFd<'_>, position: u64, len: u64) -> io::Result<u64> {
        if i64::try_from(position).is_err() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let call = Call::on_range(Operation::Send, &self.path, position, len);
        let bytes = self.read_live(call, usize::try_from(len).unwrap_or(usize::MAX), <[u8]>::to_vec)?;
        // The socket is real and may block, which must not stop the world; nor does the trace depend on what it takes.
        if bytes.is_empty() { Ok(0) } else { Ok(nix::unistd::write(socket, &bytes)? as u64) }
    }
}

/// The bytes at the time of the map; the world panics when the file changes under it.
struct SimMapping {
    fs: SimFs,
    inode: InodeId,
    map: u64,
    bytes: Arc<Vec<u8>>,
    len: usize,
}

impl fmt::Debug for SimMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimMapping").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Mapping for SimMapping {
    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl Drop for SimMapping {
    fn drop(&mut self) {
        self.fs.world.lock().disk.unmap(self.inode, self.map);
    }
}

/// A lock held; its descriptor counts as an open handle.
#[derive(Debug)]
pub(super) struct SimLock {
    fs: SimFs,
    inode: InodeId,
}

impl SimLock {
    /// Takes over a lock and a handle that were noted in the world.
    pub(super) fn new(fs: SimFs, inode: InodeId) -> Self {
        Self { fs, inode }
    }
}

impl LockGuard for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut world = self.fs.world.lock();
        world.locked.remove(&self.inode);
        world.disk.close(self.inode);
    }
}
