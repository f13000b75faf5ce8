//! Directories: the names that programs see, the names that the medium holds, and the changes between them.
//!
//! Name changes are kept in one ordered list for the whole file system, since a rename can touch two directories.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::ops::Range;
use std::path::{Component, Path};
use std::sync::Arc;

use nix::libc;

use super::disk::FileBytes;
use super::faults::errno;
use crate::clock::Clock;
use crate::units::TimestampMs;

/// Identity of a file or directory; a removed and recreated name is another inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct InodeId(u64);

const ROOT: InodeId = InodeId(0);

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    directory: InodeId,
    name: OsString,
}

#[derive(Clone, Debug, Default)]
struct Directory {
    live: BTreeMap<OsString, InodeId>,
    durable: BTreeMap<OsString, InodeId>,
}

#[derive(Clone, Debug)]
enum Content {
    File(FileBytes),
    Directory(Directory),
}

#[derive(Clone, Debug)]
struct Node {
    content: Content,
    /// Live names.
    links: usize,
    handles: usize,
    /// Lengths of the maps that live, by the number of the map.
    maps: BTreeMap<u64, usize>,
    /// When the content changed last, where somebody keeps the time.
    modified: Option<TimestampMs>,
}

/// A change of names that no directory sync has covered.
#[derive(Clone, Debug)]
pub(super) enum NameChange {
    Link { at: Place, inode: InodeId },
    Unlink { at: Place },
    Rename { from: Place, to: Place, inode: InodeId },
}

impl NameChange {
    fn touches(&self, directory: InodeId) -> bool {
        match self {
            Self::Link { at, .. } | Self::Unlink { at } => at.directory == directory,
            Self::Rename { from, to, .. } => from.directory == directory || to.directory == directory,
        }
    }

    fn names(&self, wanted: InodeId) -> bool {
        match self {
            Self::Link { inode, .. } | Self::Rename { inode, .. } => *inode == wanted,
            Self::Unlink { .. } => false,
        }
    }
}

/// All inodes of a world.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    nodes: BTreeMap<InodeId, Node>,
    changes: Vec<NameChange>,
    inodes_made: u64,
    maps_made: u64,
    sector: usize,
    live_bytes: usize,
    /// Files without a live name or handle, kept because a power loss may bring them back.
    dead: usize,
    /// What modification times are taken from.
    clock: Option<Arc<dyn Clock>>,
}

impl Node {
    fn new(content: Content) -> Self {
        Self { content, links: 0, handles: 0, maps: BTreeMap::new(), modified: None }
    }
}

impl Disk {
    pub(super) fn new(sector: usize) -> Self {
        let root = Node { links: 1, ..Node::new(Content::Directory(Directory::default())) };
        let nodes = BTreeMap::from([(ROOT, root)]);
        Self { nodes, changes: Vec::new(), inodes_made: 1, maps_made: 0, sector, live_bytes: 0, dead: 0, clock: None }
    }

    pub(super) fn sector(&self) -> usize {
        self.sector
    }

    /// Sum of the sizes of all files that can be reached by name or handle.
    pub(super) fn live_bytes(&self) -> usize {
        self.live_bytes
    }

    pub(super) fn handles(&self) -> usize {
        self.nodes.values().map(|node| node.handles).sum()
    }

    // Ways to an inode.

    pub(super) fn find(&self, path: &Path) -> io::Result<InodeId> {
        self.walk(path, |directory| &directory.live)
    }

    pub(super) fn find_durable(&self, path: &Path) -> io::Result<InodeId> {
        self.walk(path, |directory| &directory.durable)
    }

    fn walk(&self, path: &Path, names: impl Fn(&Directory) -> &BTreeMap<OsString, InodeId>) -> io::Result<InodeId> {
        let mut at = ROOT;
        for name in components(path)? {
            at = *names(self.directory(at)?).get(name).ok_or_else(|| errno(libc::ENOENT))?;
        }
        Ok(at)
    }

    /// The place that `path` names, whether something is there or not; its directory must exist.
    pub(super) fn place(&self, path: &Path) -> io::Result<Place> {
        // The root itself is in no directory: it cannot be made, moved or removed.
        let Some(parent) = path.parent() else { return Err(errno(libc::EBUSY)) };
        let name = components(path)?.last().ok_or_else(|| errno(libc::EBUSY))?.to_os_string();
        let directory = self.find(parent)?;
        self.directory(directory)?;
        Ok(Place { directory, name })
    }

    pub(super) fn at(&self, place: &Place) -> Option<InodeId> {
        self.directory(place.directory).ok()?.live.get(&place.name).copied()
    }

    fn directory(&self, inode: InodeId) -> io::Result<&Directory> {
        match self.nodes.get(&inode).map(|node| &node.content) {
            Some(Content::Directory(directory)) => Ok(directory),
            Some(Content::File(_)) => Err(errno(libc::ENOTDIR)),
            None => Err(errno(libc::ENOENT)),
        }
    }

    fn directory_mut(&mut self, inode: InodeId) -> Option<&mut Directory> {
        match self.nodes.get_mut(&inode).map(|node| &mut node.content) {
            Some(Content::Directory(directory)) => Some(directory),
            _ => None,
        }
    }

    pub(super) fn is_directory(&self, inode: InodeId) -> bool {
        self.directory(inode).is_ok()
    }

    /// Names and inodes in a directory, in order.
    pub(super) fn entries(&self, directory: InodeId) -> io::Result<impl Iterator<Item = (&OsStr, InodeId)>> {
        Ok(self.directory(directory)?.live.iter().map(|(name, inode)| (name.as_os_str(), *inode)))
    }

    pub(super) fn file(&self, inode: InodeId) -> io::Result<&FileBytes> {
        match self.nodes.get(&inode).map(|node| &node.content) {
            Some(Content::File(bytes)) => Ok(bytes),
            Some(Content::Directory(_)) => Err(errno(libc::EISDIR)),
            None => Err(errno(libc::ENOENT)),
        }
    }

    /// Changes the bytes of a file and keeps the count of live bytes.
    pub(super) fn change_file(&mut self, inode: InodeId, change: impl FnOnce(&mut FileBytes)) {
        let Some(Content::File(bytes)) = self.nodes.get_mut(&inode).map(|node| &mut node.content) else { return };
        let before = bytes.live().len();
        change(bytes);
        self.live_bytes = self.live_bytes - before + bytes.live().len();
    }

    pub(super) fn write(&mut self, inode: InodeId, at: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.assert_unmapped(inode, at);
        let sector = self.sector;
        self.change_file(inode, |file| file.write(at, bytes, sector));
        self.touch(inode);
    }

    /// From now on modification times are those of `clock`.
    pub(super) fn follow(&mut self, clock: Arc<dyn Clock>) {
        self.clock = Some(clock);
    }

    /// The content changed just now.
    fn touch(&mut self, inode: InodeId) {
        let now = self.clock.as_ref().map(|clock| clock.wall());
        if let Some(node) = self.nodes.get_mut(&inode) {
            node.modified = now.or(node.modified);
        }
    }

    /// When the content changed last, if anybody kept the time.
    pub(super) fn modified(&self, inode: InodeId) -> Option<TimestampMs> {
        self.nodes.get(&inode)?.modified
    }

    pub(super) fn resize(&mut self, inode: InodeId, to: usize) {
        if self.file(inode).is_ok_and(|file| to < file.live().len()) {
            self.assert_unmapped(inode, to);
        }
        let sector = self.sector;
        self.change_file(inode, |file| file.resize(to, sector));
        self.touch(inode);
    }

    /// Lets the clean sectors within `range` leave the cache. Mapped pages stay, as in the kernel.
    pub(super) fn evict(&mut self, inode: InodeId, range: Range<usize>) {
        let sector = self.sector;
        if self.nodes.get(&inode).is_some_and(|node| node.maps.is_empty()) {
            self.change_file(inode, |file| file.evict(range, sector));
        }
    }

    // Names.

    pub(super) fn make_file(&mut self, at: Place) -> InodeId {
        self.make(at, Content::File(FileBytes::default()))
    }

    pub(super) fn make_directory(&mut self, at: Place) -> InodeId {
        self.make(at, Content::Directory(Directory::default()))
    }

    fn make(&mut self, at: Place, content: Content) -> InodeId {
        let inode = InodeId(self.inodes_made);
        self.inodes_made += 1;
        self.nodes.insert(inode, Node::new(content));
        self.touch(inode);
        self.set_live(&at, inode);
        self.changes.push(NameChange::Link { at, inode });
        inode
    }

    pub(super) fn remove(&mut self, at: Place) {
        self.clear_live(&at);
        self.changes.push(NameChange::Unlink { at });
    }

    /// Why `from` may not be renamed to `to`; `Ok(None)` if it is the same file already. In the order of Linux.
    pub(super) fn judge_rename(&self, from: &Path, to: &Path) -> io::Result<Option<(Place, Place)>> {
        let (source, target) = (self.place(from)?, self.place(to)?);
        let moved = self.at(&source).ok_or_else(|| errno(libc::ENOENT))?;
        if from != to && to.starts_with(from) {
            return Err(errno(libc::EINVAL));
        }
        if from != to && from.starts_with(to) {
            return Err(errno(libc::ENOTEMPTY));
        }
        let Some(replaced) = self.at(&target) else { return Ok(Some((source, target))) };
        if replaced == moved {
            return Ok(None);
        }
        match (self.is_directory(moved), self.directory(replaced)) {
            (false, Ok(_)) => Err(errno(libc::EISDIR)),
            (true, Err(_)) => Err(errno(libc::ENOTDIR)),
            (true, Ok(directory)) if !directory.live.is_empty() => Err(errno(libc::ENOTEMPTY)),
            _ => Ok(Some((source, target))),
        }
    }

    pub(super) fn rename(&mut self, from: Place, to: Place) {
        let Some(inode) = self.at(&from) else { return };
        // The new name first, so that the inode never looks unused in between.
        self.set_live(&to, inode);
        self.clear_live(&from);
        self.changes.push(NameChange::Rename { from, to, inode });
    }

    fn set_live(&mut self, at: &Place, inode: InodeId) {
        self.clear_live(at);
        if let Some(directory) = self.directory_mut(at.directory) {
            directory.live.insert(at.name.clone(), inode);
        }
        if let Some(node) = self.nodes.get_mut(&inode) {
            node.links += 1;
        }
    }

    fn clear_live(&mut self, at: &Place) {
        let Some(inode) = self.directory_mut(at.directory).and_then(|directory| directory.live.remove(&at.name)) else {
            return;
        };
        if let Some(node) = self.nodes.get_mut(&inode) {
            node.links = node.links.saturating_sub(1);
        }
        self.release(inode);
    }

    // Handles and maps.

    pub(super) fn open(&mut self, inode: InodeId) {
        if let Some(node) = self.nodes.get_mut(&inode) {
            node.handles += 1;
        }
    }

    pub(super) fn close(&mut self, inode: InodeId) {
        if let Some(node) = self.nodes.get_mut(&inode) {
            node.handles = node.handles.saturating_sub(1);
        }
        self.release(inode);
    }

    fn release(&mut self, inode: InodeId) {
        if self.nodes.get(&inode).is_some_and(|node| node.links == 0 && node.handles == 0) {
            self.change_file(inode, FileBytes::forget_live);
            self.dead += 1;
        }
    }

    /// Notes that the first `len` bytes are mapped; returns the number of the map.
    pub(super) fn map(&mut self, inode: InodeId, len: usize) -> u64 {
        self.maps_made += 1;
        if let Some(node) = self.nodes.get_mut(&inode) {
            node.maps.insert(self.maps_made, len);
        }
        self.maps_made
    }

    pub(super) fn unmap(&mut self, inode: InodeId, map: u64) {
        if let Some(node) = self.nodes.get_mut(&inode) {
            node.maps.remove(&map);
        }
    }

    /// On a real system this would be a bus error or bytes that change under a reader: better a clear panic.
    fn assert_unmapped(&self, inode: InodeId, changed_from: usize) {
        let mapped = self.nodes.get(&inode).and_then(|node| node.maps.values().max()).copied().unwrap_or(0);
        assert!(
            changed_from >= mapped,
            "mapped bytes changed: {mapped} bytes are mapped, change begins at {changed_from}"
        );
    }

    // Durability of names.

    /// Everything pending in `directory` becomes durable.
    pub(super) fn sync_names(&mut self, directory: InodeId) {
        let mut rest = Vec::new();
        for change in std::mem::take(&mut self.changes) {
            if change.touches(directory) {
                self.sync_name(directory, change, &mut rest);
            } else {
                rest.push(change);
            }
        }
        self.changes = rest;
        self.bury();
    }

    /// The first `count` pending changes in `directory` become durable: a sync that the machine did not live to
    /// finish. A prefix, because what is left pending is applied later and in order.
    pub(super) fn sync_names_in_part(&mut self, directory: InodeId, count: usize) {
        let mut rest = Vec::new();
        let mut left = count;
        for change in std::mem::take(&mut self.changes) {
            if left > 0 && change.touches(directory) {
                left -= 1;
                self.sync_name(directory, change, &mut rest);
            } else {
                rest.push(change);
            }
        }
        self.changes = rest;
    }

    fn sync_name(&mut self, directory: InodeId, change: NameChange, rest: &mut Vec<NameChange>) {
        match change {
            NameChange::Link { at, inode } => self.set_durable(&at, inode),
            NameChange::Unlink { at } => self.clear_durable(&at),
            NameChange::Rename { from, to, inode } => {
                self.set_durable(&to, inode);
                if from.directory == directory {
                    self.clear_durable(&from);
                } else if self.is_directory(inode) {
                    // No file system has a directory in two places, not even for a moment.
                    self.clear_durable(&from);
                    rest.retain(|earlier| !earlier.names(inode));
                } else {
                    // Only the new name's directory was synced; the old name may still come back beside it.
                    rest.push(NameChange::Unlink { at: from });
                }
            }
        }
    }

    fn set_durable(&mut self, at: &Place, inode: InodeId) {
        if let Some(directory) = self.directory_mut(at.directory) {
            directory.durable.insert(at.name.clone(), inode);
        }
    }

    fn clear_durable(&mut self, at: &Place) {
        if let Some(directory) = self.directory_mut(at.directory) {
            directory.durable.remove(&at.name);
        }
    }

    /// A failed sync of `directory` marked its pending changes clean: no later sync writes them.
    pub(super) fn drop_pending_names(&mut self, directory: InodeId) {
        self.changes.retain(|change| !change.touches(directory));
    }

    pub(super) fn pending_names(&self) -> &[NameChange] {
        &self.changes
    }

    pub(super) fn count_pending_names(&self, directory: InodeId) -> usize {
        self.changes.iter().filter(|change| change.touches(directory)).count()
    }

    /// Applies a change that outlived a power loss though no sync covered it. A rename whose source did not survive
    /// has nothing to move.
    pub(super) fn survive(&mut self, change: &NameChange) {
        match change {
            NameChange::Link { at, inode } => self.set_durable(at, *inode),
            NameChange::Unlink { at } => self.clear_durable(at),
            NameChange::Rename { from, to, inode } => {
                let source = self.directory(from.directory).ok().and_then(|d| d.durable.get(&from.name));
                if source == Some(inode) {
                    self.clear_durable(from);
                    self.set_durable(to, *inode);
                }
            }
        }
    }

    /// Forgets dead inodes that not even a power loss can bring back. Only now and then: it visits everything.
    fn bury(&mut self) {
        if self.dead < 64 || self.dead < self.nodes.len() / 2 {
            return;
        }
        let mut used = BTreeSet::from([ROOT]);
        for node in self.nodes.values() {
            if let Content::Directory(directory) = &node.content {
                used.extend(directory.live.values().chain(directory.durable.values()));
            }
        }
        self.nodes.retain(|inode, node| {
            node.handles > 0 || used.contains(inode) || self.changes.iter().any(|change| change.names(*inode))
        });
        self.dead = 0;
    }

    // Other worlds.

    /// The process died: no handle, no map; everything else as it is.
    pub(super) fn without_handles(&self) -> Self {
        let mut disk = self.clone();
        let mut orphans = Vec::new();
        for (inode, node) in &mut disk.nodes {
            if node.handles > 0 && node.links == 0 {
                orphans.push(*inode);
            }
            node.handles = 0;
            node.maps.clear();
        }
        for inode in orphans {
            disk.release(inode);
        }
        disk
    }

    /// The machine restarted: the durable names, after `changes`, and for every file the bytes that `survivor` gives.
    pub(super) fn restarted<'a>(
        &'a self,
        changes: impl Iterator<Item = &'a NameChange>,
        mut survivor: impl FnMut(&FileBytes) -> Arc<Vec<u8>>,
    ) -> Self {
        let nodes = self.nodes.iter().map(|(inode, node)| {
            let content = match &node.content {
                Content::File(bytes) => Content::File(FileBytes::settled(survivor(bytes))),
                Content::Directory(directory) => {
                    Content::Directory(Directory { durable: directory.durable.clone(), live: BTreeMap::new() })
                }
            };
            (*inode, Node { modified: node.modified, ..Node::new(content) })
        });
        let (nodes, clock) = (nodes.collect(), self.clock.clone());
        let mut disk = Self { nodes, changes: Vec::new(), live_bytes: 0, dead: 0, maps_made: 0, clock, ..*self };
        for change in changes {
            disk.survive(change);
        }
        disk.settle();
        disk
    }

    /// Durable names become the live ones; what no name leads to is gone.
    fn settle(&mut self) {
        let mut links = BTreeMap::from([(ROOT, 1)]);
        let mut unvisited = vec![ROOT];
        while let Some(inode) = unvisited.pop() {
            let Some(directory) = self.directory_mut(inode) else { continue };
            directory.live = directory.durable.clone();
            for child in directory.durable.values() {
                let count = links.entry(*child).or_insert(0);
                *count += 1;
                if *count == 1 {
                    unvisited.push(*child);
                }
            }
        }
        self.nodes.retain(|inode, node| {
            node.links = links.get(inode).copied().unwrap_or(0);
            node.links > 0
        });
        let size = |node: &Node| match &node.content {
            Content::File(bytes) => bytes.live().len(),
            Content::Directory(_) => 0,
        };
        self.live_bytes = self.nodes.values().map(size).sum();
    }
}

fn components(path: &Path) -> io::Result<impl Iterator<Item = &OsStr>> {
    let plain = |component: Component<'_>| !matches!(component, Component::ParentDir | Component::Prefix(_));
    if !path.is_absolute() || !path.components().all(plain) {
        return Err(errno(libc::EINVAL));
    }
    Ok(path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name),
        _ => None,
    }))
}
