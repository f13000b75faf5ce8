//! The directories above a log, as far as it makes them: a log whose directory is forgotten by a crash is lost whole.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::{IoFailure, IoOperation, OpenError};
use crate::fs::{EntryKind, FileSystem};
use crate::segment::Home;

/// `path`'s parent, with the current directory for a bare name.
pub(super) fn parent_of(path: &Path) -> Option<PathBuf> {
    let parent = path.parent()?;
    Some(if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.to_owned() })
}

/// The directory and those above it that are not there, topmost first. Changes nothing.
pub(super) fn missing_directories(home: &Home) -> Result<Vec<PathBuf>, OpenError> {
    let mut missing = Vec::new();
    let mut at = home.dir.to_path_buf();
    loop {
        match home.fs.metadata(&at) {
            Ok(found) if found.kind == EntryKind::Directory => break,
            Ok(_) => return Err(OpenError::NotADirectory { path: at }),
            // Below a file nothing can be; which one it is shows further up.
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                let parent = parent_of(&at).filter(|parent| *parent != at);
                missing.push(std::mem::take(&mut at));
                let Some(parent) = parent else {
                    return Err(IoFailure::new(IoOperation::CreateDir, missing.pop().unwrap_or_default(), e).into());
                };
                at = parent;
            }
            Err(e) => return Err(IoFailure::new(IoOperation::List, at, e).into()),
        }
    }
    missing.reverse();
    Ok(missing)
}

/// Makes the directories, and makes their names durable.
pub(super) fn make_directories(home: &Home, missing: &[PathBuf]) -> Result<(), OpenError> {
    for dir in missing {
        match home.fs.create_dir(dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(IoFailure::new(IoOperation::CreateDir, dir, e).into());
            }
            _ => {}
        }
    }
    // A log whose directory is forgotten by a crash is lost whole.
    if let Err(failure) = sync_parents(home, missing) {
        // Made anew by the next try: a name whose sync failed is not to be trusted.
        missing.iter().rev().for_each(|dir| drop(home.fs.remove_dir(dir)));
        return Err(failure.into());
    }
    Ok(())
}

fn sync_parents(home: &Home, made: &[PathBuf]) -> Result<(), IoFailure> {
    for parent in made.iter().filter_map(|dir| parent_of(dir)) {
        home.fs.sync_dir(&parent).map_err(|e| IoFailure::new(IoOperation::Sync, parent, e))?;
    }
    Ok(())
}

/// Syncs the names of the directory and of those above it, so many levels and as far as we may look at them.
pub(crate) fn sync_ancestors(fs: &dyn FileSystem, dir: &Path, levels: usize) -> Result<(), IoFailure> {
    for ancestor in dir.ancestors().filter_map(parent_of).take(levels) {
        match fs.sync_dir(&ancestor) {
            Ok(()) => {}
            // What we may not open we did not make. Some file systems do not sync directories at all.
            Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput) => {}
            Err(e) => return Err(IoFailure::new(IoOperation::Sync, ancestor, e)),
        }
    }
    Ok(())
}
