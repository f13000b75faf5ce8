//! File systems that may be synced whole, by syncfs(2), and how they are told from the others.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::libc::{major, minor};
use nix::sys::stat::fstat;
use nix::sys::statfs::{EXT4_SUPER_MAGIC, fstatfs};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::syncfs;

/// Since this release a syncfs tells of errors in its last part, where the journal is committed and the medium flushed
/// ("vfs: make `sync_filesystem` return errors from `->sync_fs`"). That of the pages is told since 5.8.
const LINUX_MIN: (u32, u32) = (5, 17);

/// A file system that a syncfs makes durable, and a descriptor on it that learns of its errors from now on.
#[derive(Debug)]
pub(in crate::fs) struct Whole {
    directory: fs::File,
    device: u64,
}

impl Whole {
    /// The file system that holds `dir`; `None` unless it is known to do what is needed.
    pub(in crate::fs) fn of(dir: &Path) -> io::Result<Option<Self>> {
        let directory = fs::File::open(dir)?;
        let device = directory.metadata()?.dev();
        // ext2, ext3 and ext4 have one number: the table of mounts tells them apart.
        let is_known = fstatfs(&directory)?.filesystem_type() == EXT4_SUPER_MAGIC
            && linux_release().is_some_and(|release| release >= LINUX_MIN)
            && is_mounted_as_ext4(device)
            && has_journal(device);
        Ok(is_known.then_some(Self { directory, device }))
    }

    /// One whose syncs fail with `EBADF`.
    #[cfg(test)]
    pub(in crate::fs) fn broken(dir: &Path) -> Self {
        use std::os::unix::fs::OpenOptionsExt;
        let directory = fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_PATH).open(dir).unwrap();
        Self { device: directory.metadata().unwrap().dev(), directory }
    }

    pub(in crate::fs) fn is_same(&self, other: &Self) -> bool {
        self.device == other.device
    }

    pub(in crate::fs) fn holds(&self, file: BorrowedFd<'_>) -> bool {
        fstat(file).is_ok_and(|found| found.st_dev == self.device)
    }

    /// Whether `dir` is a directory on it. `false` where that cannot be told: syncing it will tell why.
    pub(in crate::fs) fn holds_directory(&self, dir: &Path) -> bool {
        fs::metadata(dir).is_ok_and(|found| found.is_dir() && found.dev() == self.device)
    }

    /// Makes all of it durable.
    pub(in crate::fs) fn sync(&self) -> io::Result<()> {
        syncfs(&self.directory)?;
        // The kernel answers that all is well, and does nothing, on a file system that an error has made read-only.
        if fstatvfs(&self.directory)?.flags().contains(FsFlags::ST_RDONLY) {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        Ok(())
    }
}

fn linux_release() -> Option<(u32, u32)> {
    parse_release(&fs::read_to_string("/proc/sys/kernel/osrelease").ok()?)
}

fn parse_release(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn is_mounted_as_ext4(device: u64) -> bool {
    let wanted = format!("{}:{}", major(device), minor(device));
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut kinds = table.lines().filter_map(parse_mount).filter(|(device, _)| *device == wanted).peekable();
    kinds.peek().is_some() && kinds.all(|(_, kind)| kind == "ext4")
}

/// Device and kind of file system in a line of `/proc/self/mountinfo` (proc(5)).
fn parse_mount(line: &str) -> Option<(&str, &str)> {
    let (place, source) = line.split_once(" - ")?;
    Some((place.split(' ').nth(2)?, source.split(' ').next()?))
}

/// The kernel lists each journal by the name of its device. One that is kept on a device of its own is not found.
fn has_journal(device: u64) -> bool {
    let link = format!("/sys/dev/block/{}:{}", major(device), minor(device));
    let Ok(target) = fs::read_link(link) else { return false };
    let Some(name) = target.file_name().and_then(OsStr::to_str) else { return false };
    let Ok(journals) = fs::read_dir("/proc/fs/jbd2") else { return false };
    let of_device = |journal: &str| journal.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'));
    journals.flatten().any(|journal| journal.file_name().to_str().is_some_and(of_device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_says_of_itself() {
        assert_eq!(parse_release("6.18.44-fc-v595\n"), Some((6, 18)));
        assert_eq!(parse_release("5.4\n"), Some((5, 4)));
        assert_eq!(parse_release("x"), None);
        assert!(linux_release().is_some());
    }

    #[test]
    fn reads_the_table_of_mounts() {
        let line = "36 35 98:0 /a /b\\040c rw,noatime master:1 - ext4 /dev/root rw,errors=continue";
        assert_eq!(parse_mount(line), Some(("98:0", "ext4")));
        assert_eq!(parse_mount("22 1 8:1 / / rw - ext3 /dev/sda1 rw"), Some(("8:1", "ext3")));
        assert_eq!(parse_mount("36 35"), None);
    }

    #[test]
    fn what_is_not_listed_is_never_synced_whole() {
        for dir in ["/proc", "/sys", "/dev/shm"] {
            if let Ok(found) = Whole::of(Path::new(dir)) {
                assert!(found.is_none(), "{dir}");
            }
        }
        assert!(Whole::of(Path::new("/nonexistent")).is_err());
    }
}
