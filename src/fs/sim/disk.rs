//! The bytes of one file, as programs see them and as the medium holds them.
//!
//! What a sync has not covered is kept as an ordered list of dirty sectors, each a snapshot of the whole sector after
//! the change, because a device takes whole sectors. A power loss picks, for every sector, the durable version or one
//! of the snapshots; a sync applies them all. Pages that a failed sync marked clean are simply gone from the list:
//! the live bytes show them, and no later sync writes them until something dirties their sectors again.

use std::ops::Range;
use std::sync::Arc;

/// Dirty sectors from one write or resize, and the size it gave the file.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    /// Aligned to sectors.
    sectors: Range<usize>,
    /// What the sectors hold from their start; zeros follow.
    bytes: Arc<[u8]>,
    /// `None` when the size stayed.
    pub(super) size: Option<usize>,
}

impl Pending {
    /// Where the dirty sectors begin.
    pub(super) fn sector_starts(&self, sector: usize) -> impl Iterator<Item = usize> + use<> {
        self.sectors.clone().step_by(sector)
    }

    /// Puts `range`, a part of the dirty sectors, into `image`, which grows as needed.
    pub(super) fn put(&self, range: Range<usize>, image: &mut Vec<u8>) {
        if image.len() < range.end {
            image.resize(range.end, 0);
        }
        let skipped = range.start - self.sectors.start;
        let source = self.bytes.get(skipped..).unwrap_or_default();
        let Some(target) = image.get_mut(range) else { return };
        let copied = source.len().min(target.len());
        let (head, tail) = target.split_at_mut(copied);
        head.copy_from_slice(source.get(..copied).unwrap_or_default());
        tail.fill(0);
    }

    /// Puts all dirty sectors into `image`.
    pub(super) fn put_all(&self, image: &mut Vec<u8>) {
        if !self.sectors.is_empty() {
            self.put(self.sectors.clone(), image);
        }
    }
}

/// Live and durable bytes of a file, and what lies between them.
#[derive(Clone, Debug, Default)]
pub(super) struct FileBytes {
    live: Arc<Vec<u8>>,
    durable: Arc<Vec<u8>>,
    pending: Vec<Pending>,
    /// The durable size after a sync now. Differs from the live size only after a failed sync.
    size_once_synced: usize,
    /// Whether a failed sync marked pages clean that differ from the medium.
    stale_cache: bool,
}

impl FileBytes {
    /// A file after a restart of the machine: what is there is durable.
    pub(super) fn settled(bytes: Arc<Vec<u8>>) -> Self {
        Self { size_once_synced: bytes.len(), live: Arc::clone(&bytes), durable: bytes, ..Self::default() }
    }

    pub(super) fn live(&self) -> &Arc<Vec<u8>> {
        &self.live
    }

    pub(super) fn durable(&self) -> &Arc<Vec<u8>> {
        &self.durable
    }

    pub(super) fn pending(&self) -> &[Pending] {
        &self.pending
    }

    /// The last handle and the last live name are gone: only a power loss that forgets the removal sees the file again.
    pub(super) fn forget_live(&mut self) {
        self.live = Arc::default();
    }

    pub(super) fn write(&mut self, at: usize, bytes: &[u8], sector: usize) {
        let end = at + bytes.len();
        let live = Arc::make_mut(&mut self.live);
        if live.len() < end {
            live.resize(end, 0);
        }
        if let Some(target) = live.get_mut(at..end) {
            target.copy_from_slice(bytes);
        }
        let sectors = at - at % sector..end.next_multiple_of(sector);
        let snapshot = live.get(sectors.start..sectors.end.min(live.len())).unwrap_or_default();
        // Compared with what a sync would leave, not with the live size: writing again in place what a failed sync
        // dropped must bring the size back too.
        let size = (end > self.size_once_synced).then_some(end);
        self.size_once_synced = self.size_once_synced.max(end);
        self.pending.push(Pending { bytes: snapshot.into(), sectors, size });
    }

    pub(super) fn resize(&mut self, to: usize, sector: usize) {
        let from = self.live.len().max(self.size_once_synced);
        let live = Arc::make_mut(&mut self.live);
        live.resize(to, 0);
        // A cut leaves zeros behind for a later extension. Until it is synced, the old sectors may come back instead.
        let start = to - to % sector;
        let sectors = if to < from { start..from.next_multiple_of(sector) } else { start..start };
        let kept = if sectors.is_empty() { &[] } else { live.get(start..to).unwrap_or_default() };
        self.pending.push(Pending { bytes: kept.into(), sectors, size: Some(to) });
        self.size_once_synced = to;
    }

    /// Everything pending becomes durable.
    pub(super) fn sync(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let durable = Arc::make_mut(&mut self.durable);
        for pending in self.pending.drain(..) {
            pending.put_all(durable);
        }
        durable.resize(self.size_once_synced, 0);
    }

    /// A sync that the machine did not live to finish: `durable` is what it reached, the rest stays pending.
    pub(super) fn sync_in_part(&mut self, durable: Arc<Vec<u8>>) {
        self.durable = durable;
    }

    /// A failed sync marked the dirty pages clean.
    pub(super) fn drop_pending(&mut self) {
        self.stale_cache |= !self.pending.is_empty();
        self.pending.clear();
        self.size_once_synced = self.durable.len();
    }

    /// A failed sync threw the dirty pages away.
    pub(super) fn revert(&mut self) {
        self.drop_pending();
        self.live = Arc::clone(&self.durable);
        self.stale_cache = false;
    }

    /// Clean sectors wholly within `range` leave the cache: what is read next comes from the medium.
    pub(super) fn evict(&mut self, range: Range<usize>, sector: usize) {
        // Clean sectors differ from the medium only after a failed sync.
        if !self.stale_cache {
            return;
        }
        let live = Arc::make_mut(&mut self.live);
        let end = if range.end >= live.len() { live.len() } else { range.end - range.end % sector };
        for at in (range.start.next_multiple_of(sector)..end).step_by(sector) {
            if self.pending.iter().any(|pending| pending.sectors.contains(&at)) {
                continue;
            }
            let stored = self.durable.get(at..).unwrap_or_default();
            for (index, cached) in live.iter_mut().enumerate().take(end.min(at + sector)).skip(at) {
                *cached = stored.get(index - at).copied().unwrap_or(0);
            }
        }
    }

    /// Flips a bit wherever the byte is held; `false` if it is nowhere.
    pub(super) fn flip_bit(&mut self, byte: usize, bit: u8) -> bool {
        let mask = 1u8 << (bit & 7);
        let mut found = false;
        for copy in [&mut self.live, &mut self.durable] {
            if byte < copy.len()
                && let Some(held) = Arc::make_mut(copy).get_mut(byte)
            {
                *held ^= mask;
                found = true;
            }
        }
        for pending in &mut self.pending {
            let Some(at) = byte.checked_sub(pending.sectors.start).filter(|at| *at < pending.bytes.len()) else {
                continue;
            };
            if let Some(held) = Arc::make_mut(&mut pending.bytes).get_mut(at) {
                *held ^= mask;
            }
        }
        found
    }
}
