//! How a world ends: in the middle of a call, and what a power loss leaves of it.
//!
//! Nothing is promised beyond POSIX. Every dirty sector reaches the medium or not, in any order; sizes are independent
//! of data; each name change stands alone. Fair coins seldom hit the corners, so the shares are drawn first, and nothing
//! or everything is as likely as something between.

use std::fmt;
use std::io;
use std::sync::Arc;

use fastrand::Rng;

use super::disk::{FileBytes, Pending};
use super::names::{Disk, InodeId, NameChange};

/// What a power loss keeps of that which no sync covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// Only what is durable.
    Nothing,
    /// All of it, as if the cache had been written back just in time.
    Everything,
    /// A draw from this seed.
    Random(u64),
}

#[derive(Debug)]
struct SimulatedCrash;

impl fmt::Display for SimulatedCrash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the simulated machine crashed; go on with the world after `power_loss` or `kill`")
    }
}

impl std::error::Error for SimulatedCrash {}

pub(super) fn crash_error() -> io::Error {
    io::Error::other(SimulatedCrash)
}

/// Whether a call failed because the world had crashed, see [`SimFs::crash_after`](super::SimFs::crash_after).
pub fn is_crash(error: &io::Error) -> bool {
    error.get_ref().and_then(|cause| cause.downcast_ref::<SimulatedCrash>()).is_some()
}

/// How much of a write the crash let through: nothing, all, whole sectors or any number of bytes.
pub(super) fn torn_len(rng: &mut Rng, at: usize, len: usize, sector: usize) -> usize {
    match rng.u8(0..4) {
        0 => 0,
        1 => len,
        2 => {
            let end = at + rng.usize(0..=len);
            (end - end % sector).saturating_sub(at)
        }
        _ => rng.usize(0..=len),
    }
}

/// The world's files and names after a power loss.
pub(super) fn after_power_loss(disk: &Disk, survival: Survival) -> Disk {
    let changes = disk.pending_names().iter();
    match survival {
        Survival::Nothing => disk.restarted(std::iter::empty(), |file| Arc::clone(file.durable())),
        Survival::Everything => disk.restarted(changes, |file| {
            let mut synced = file.clone();
            synced.sync();
            Arc::clone(synced.durable())
        }),
        Survival::Random(seed) => {
            let mut rng = Rng::with_seed(seed);
            let names = surviving_names(disk.pending_names(), &mut rng);
            let common = Share::draw(&mut rng);
            disk.restarted(names.into_iter(), |file| surviving_bytes(file, common, disk.sector(), &mut rng))
        }
    }
}

/// A sync of the file in which the machine died: any of its sectors may be durable now.
pub(super) fn die_in_sync(disk: &mut Disk, inode: InodeId, rng: &mut Rng) {
    let sector = disk.sector();
    let common = Share::draw(rng);
    disk.change_file(inode, |file| {
        let durable = surviving_bytes(file, common, sector, rng);
        file.sync_in_part(durable);
    });
}

/// Which part of many things survives.
#[derive(Clone, Copy, Debug)]
enum Share {
    Nothing,
    Everything,
    Some(f32),
}

impl Share {
    fn draw(rng: &mut Rng) -> Self {
        match rng.u8(0..6) {
            0 => Self::Nothing,
            1 => Self::Everything,
            2 => Self::Some(0.5),
            // Nearly all and nearly nothing: the one sector that is missing, or the only one there.
            3 => Self::Some(0.95),
            4 => Self::Some(0.05),
            _ => Self::Some(rng.f32()),
        }
    }

    fn takes(self, rng: &mut Rng) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::Some(share) => rng.f32() < share,
        }
    }
}

fn surviving_names<'a>(changes: &'a [NameChange], rng: &mut Rng) -> Vec<&'a NameChange> {
    // A journal writes names in order: a prefix. POSIX allows any subset.
    if rng.u8(0..4) == 0 {
        return changes.iter().take(rng.usize(0..=changes.len())).collect();
    }
    let share = Share::draw(rng);
    changes.iter().filter(|_| share.takes(rng)).collect()
}

fn surviving_bytes(file: &FileBytes, common: Share, sector: usize, rng: &mut Rng) -> Arc<Vec<u8>> {
    if file.pending().is_empty() {
        return Arc::clone(file.durable());
    }
    let share = if rng.bool() { common } else { Share::draw(rng) };
    let mut image = file.durable().to_vec();
    let whole = match rng.u8(0..4) {
        // Written back in order up to some change.
        0 => rng.usize(0..=file.pending().len()),
        _ => 0,
    };
    for pending in file.pending().iter().take(whole) {
        pending.put_all(&mut image);
    }
    for pending in file.pending().iter().skip(whole) {
        survive_in_sectors(pending, share, sector, &mut image, rng);
    }
    let size = surviving_size(file, whole, rng);
    image.resize(size, 0);
    Arc::new(image)
}

fn survive_in_sectors(pending: &Pending, share: Share, sector: usize, image: &mut Vec<u8>, rng: &mut Rng) {
    match share {
        Share::Nothing => {}
        Share::Everything => pending.put_all(image),
        Share::Some(_) => {
            for at in pending.sector_starts(sector) {
                if share.takes(rng) {
                    pending.put(at..at + sector, image);
                }
            }
        }
    }
}

/// The durable size or one that any pending change gave, whatever became of the data.
fn surviving_size(file: &FileBytes, whole: usize, rng: &mut Rng) -> usize {
    let durable = file.durable().len();
    let sizes = |changes: usize| file.pending().iter().take(changes).filter_map(|pending| pending.size);
    let all = file.pending().len();
    match rng.u8(0..4) {
        0 if whole == 0 => durable,
        0 => sizes(whole).next_back().unwrap_or(durable),
        1 | 2 => sizes(all).next_back().unwrap_or(durable),
        _ => {
            let pick = rng.usize(0..=sizes(all).count());
            pick.checked_sub(1).and_then(|index| sizes(all).nth(index)).unwrap_or(durable)
        }
    }
}
