//! The clean-shutdown marker of a data directory (Kafka's `CleanShutdownFileHandler`). Its existence is all that counts
//! to Kafka: with it, no log of the directory is scanned.
//!
//! So it is written last, when every log is closed and the checkpoints are durable, and removed first, before an opening
//! changes anything: a crash while opening must count as unclean (KAFKA-10471).

use std::io;
use std::path::Path;

use super::names::CLEAN_SHUTDOWN;
use crate::error::{IoFailure, IoOperation};
use crate::fs::{self, EntryKind, FileSystem, OpenMode};
use crate::index::replace_small_file;

/// The epoch is that of a broker that `ZooKeeper` or a controller registered; -1 is none.
pub(super) const CONTENT: &[u8] = b"{\"version\":0,\"brokerEpoch\":-1}";

/// What a marker begins with that is on its way out. A removal whose sync fails may be undone by a power loss, even after
/// a later sync that succeeds; what comes back then is known to be void.
const VOID: &[u8] = b"void";

/// Whether the last shutdown of `dir` was clean. Ask before [`remove_clean_shutdown`], under the directory's lock.
///
/// ```
/// use alluvium::fs::OsFileSystem;
/// use alluvium::store::{is_clean_shutdown, mark_clean_shutdown, remove_clean_shutdown};
/// let dir = tempfile::tempdir().unwrap();
/// mark_clean_shutdown(&OsFileSystem, dir.path()).unwrap();
/// assert!(is_clean_shutdown(&OsFileSystem, dir.path()).unwrap());
/// assert!(remove_clean_shutdown(&OsFileSystem, dir.path()).unwrap());
/// assert!(!is_clean_shutdown(&OsFileSystem, dir.path()).unwrap());
/// ```
///
/// # Errors
/// [`IoFailure`] when the system does not tell.
pub fn is_clean_shutdown(fs: &dyn FileSystem, dir: &Path) -> Result<bool, IoFailure> {
    let path = dir.join(CLEAN_SHUTDOWN);
    match fs.metadata(&path) {
        Ok(found) if found.kind == EntryKind::File => {
            let file = fs.open(&path, OpenMode::Read).map_err(|e| IoFailure::new(IoOperation::Open, &path, e))?;
            // Without content it is a marker too: Kafka wrote it so before KIP-966.
            let mut start = [0; VOID.len()];
            let read = fs::read_full_at(&*file, &mut start, 0);
            read.map_err(|e| IoFailure::new(IoOperation::Read, path, e))?;
            Ok(start != VOID)
        }
        Ok(_) => Ok(false),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(IoFailure::new(IoOperation::List, path, e)),
    }
}

/// Removes the marker, and says whether the last shutdown was clean. When it returns the removal is durable, also that by
/// an earlier process that died before it could make it so; to be called at every opening, whether a marker is seen or
/// not.
///
/// # Errors
/// [`IoFailure`]: the marker may be there or not, and may come back with a power loss. Nothing may be written to the
/// directory, or a crash would leave unclean logs under a marker that says otherwise.
pub fn remove_clean_shutdown(fs: &dyn FileSystem, dir: &Path) -> Result<bool, IoFailure> {
    let path = dir.join(CLEAN_SHUTDOWN);
    let was_clean = is_clean_shutdown(fs, dir)?;
    if was_clean {
        match make_void(fs, &path) {
            // An opening must not need space. Then only the removal speaks against the marker.
            Err(failure) if failure.is_storage_full() => {}
            voided => voided?,
        }
    }
    match fs.remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(IoFailure::new(IoOperation::Remove, path, e)),
        _ => {}
    }
    fs.sync_dir(dir).map_err(|e| IoFailure::new(IoOperation::Sync, dir, e))?;
    Ok(was_clean)
}

/// Makes the marker one that says nothing, durably, under whatever name it has.
fn make_void(fs: &dyn FileSystem, path: &Path) -> Result<(), IoFailure> {
    let file = fs.open(path, OpenMode::ReadWrite).map_err(|e| IoFailure::new(IoOperation::Open, path, e))?;
    fs::write_all_at(&*file, VOID, 0).map_err(|e| IoFailure::new(IoOperation::Write, path, e))?;
    file.sync_data().map_err(|e| IoFailure::new(IoOperation::Sync, path, e))
}

/// Writes the marker. Durable when it returns. The last thing before the directory's lock is let go: everything that the
/// logs and the checkpoints say must be durable before.
///
/// # Errors
/// [`IoFailure`]: the marker may be there or not. The next opening scans, or finds that it need not have.
pub fn mark_clean_shutdown(fs: &dyn FileSystem, dir: &Path) -> Result<(), IoFailure> {
    replace_small_file(fs, dir, CLEAN_SHUTDOWN, CONTENT)
}
