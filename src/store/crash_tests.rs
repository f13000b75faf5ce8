//! Every I/O step of every change to a data directory's files is a crash point, and a place for the disk to fail.

use std::path::Path;

use super::*;
use crate::fs::sim::{Effect, Errno, Fault, FaultOn, SimFs, Survival, is_crash};
use crate::units::Offset;

/// A change to the files of a directory: what stood there before, the change, and the file that it is about.
struct Change {
    file: &'static str,
    prepare: fn(&SimFs),
    apply: fn(&SimFs) -> Result<(), IoFailure>,
}

fn list_of(offset: i64) -> OffsetCheckpoint {
    let mut list = OffsetCheckpoint::new(CheckpointKind::RecoveryPoint);
    // Long enough for several sectors, so that a torn file would show.
    for partition in 0..100 {
        list.set(TopicPartition::new("orders", partition).unwrap(), Offset::new(offset).unwrap());
    }
    list
}

fn dir() -> &'static Path {
    Path::new("/data")
}

fn io_of_meta(error: MetaError) -> IoFailure {
    let MetaError::Io(failure) = error else { panic!("{error}") };
    failure
}

fn io_of_topic_id(error: TopicIdError) -> IoFailure {
    let TopicIdError::Io(failure) = error else { panic!("{error}") };
    failure
}

fn meta() -> MetaProperties {
    MetaProperties::new("cluster", NodeId::new(1).unwrap(), Some(DirectoryId::from_random(1)))
}

const CHANGES: [Change; 5] = [
    Change {
        file: "recovery-point-offset-checkpoint",
        prepare: |fs| list_of(1).replace(fs, dir()).unwrap(),
        apply: |fs| list_of(i64::MAX).replace(fs, dir()),
    },
    Change {
        file: "meta.properties",
        prepare: |_| (),
        apply: |fs| match meta().write_new(fs, dir()) {
            Err(MetaError::Present { .. }) => {
                fs.sync_dir(dir()).map_err(|e| IoFailure::new(IoOperation::Sync, dir(), e))
            }
            written => written.map_err(io_of_meta),
        },
    },
    Change {
        file: "partition.metadata",
        prepare: |_| (),
        apply: |fs| claim_topic_id(fs, dir(), TopicId::from_random(1)).map_err(io_of_topic_id),
    },
    Change { file: ".kafka_cleanshutdown", prepare: |_| (), apply: |fs| mark_clean_shutdown(fs, dir()) },
    Change {
        file: ".kafka_cleanshutdown",
        prepare: |fs| mark_clean_shutdown(fs, dir()).unwrap(),
        apply: |fs| remove_clean_shutdown(fs, dir()).map(|_| ()),
    },
];

impl Change {
    fn world(&self, seed: u64) -> SimFs {
        let fs = SimFs::new(seed);
        fs.create_dir(dir()).unwrap();
        fs.sync_dir(Path::new("/")).unwrap();
        (self.prepare)(&fs);
        fs.sync_dir(dir()).unwrap();
        fs
    }

    fn content(&self, fs: &SimFs) -> Option<Vec<u8>> {
        const MARKER: &[u8] = b"{\"version\":0,\"brokerEpoch\":-1}";
        let bytes = fs.live_bytes(&dir().join(self.file))?;
        // A void marker is none; one that is on the way to it, torn within its first bytes, still counts.
        match bytes.strip_prefix(b"void") {
            Some(_) => None,
            None if bytes.get(4..) == MARKER.get(4..) => Some(MARKER.to_vec()),
            None => Some(bytes),
        }
    }

    /// What stands there before the change, what after, and in how many steps.
    fn course(&self) -> (Option<Vec<u8>>, Option<Vec<u8>>, u64) {
        let fs = self.world(0);
        let (before, steps) = (self.content(&fs), fs.steps());
        (self.apply)(&fs).unwrap();
        let after = self.content(&fs);
        assert_ne!(before, after, "{}", self.file);
        assert_eq!(self.content(&fs.power_loss_keeping(Survival::Nothing)), after, "{}: durable", self.file);
        (before, after, fs.steps() - steps)
    }
}

#[test]
fn a_crash_at_any_step_leaves_the_old_content_or_the_new() {
    for change in &CHANGES {
        let (before, after, steps) = change.course();
        assert!(steps >= 2, "{}", change.file);
        let (mut old, mut new) = (0, 0);
        for step in 1..=steps {
            for seed in 0..24 {
                let fs = change.world(seed);
                fs.crash_after(fs.steps() + step);
                let crashed = (change.apply)(&fs).unwrap_err();
                assert!(is_crash(&crashed.source), "{} step {step}", change.file);
                let worlds = [fs.kill(), fs.power_loss(seed), fs.power_loss_keeping(Survival::Everything)];
                for world in worlds.into_iter().chain([fs.power_loss_keeping(Survival::Nothing)]) {
                    let found = change.content(&world);
                    old += u32::from(found == before);
                    new += u32::from(found == after);
                    assert!(found == before || found == after, "{} step {step} seed {seed}: {found:?}", change.file);
                    let survivors = remove_temporaries(&world, dir()).unwrap();
                    assert!(survivors <= 1, "{} step {step} seed {seed}", change.file);
                    // And the next process does it again, with nothing in its way.
                    (change.apply)(&world).unwrap();
                    let settled = world.power_loss_keeping(Survival::Nothing);
                    assert_eq!(change.content(&settled), after, "{} step {step} seed {seed}", change.file);
                }
            }
        }
        assert!(old > 0 && new > 0, "{}: {old} old, {new} new", change.file);
    }
}

#[test]
fn a_failure_at_any_step_is_told_and_leaves_the_old_content_or_the_new() {
    let operations = [
        FaultOn::Open,
        FaultOn::Create,
        FaultOn::Write,
        FaultOn::SyncData,
        FaultOn::Rename,
        FaultOn::Remove,
        FaultOn::SyncDir,
        FaultOn::Metadata,
        FaultOn::Read,
    ];
    for change in &CHANGES {
        let (before, after, _) = change.course();
        let mut failures = 0;
        for operation in operations {
            for (error, seed) in [(Errno::Eio, 1), (Errno::Eio, 2), (Errno::Enospc, 3), (Errno::Erofs, 4)] {
                let fs = change.world(seed);
                fs.inject(Fault::new(operation, Effect::Error(error)).always());
                let Err(failure) = (change.apply)(&fs) else { continue };
                failures += 1;
                assert_eq!(failure.is_storage_full(), error == Errno::Enospc);
                fs.clear_faults();
                let found = change.content(&fs);
                assert!(found == before || found == after, "{} {operation:?} {error:?}: {found:?}", change.file);
            }
        }
        assert!(failures > 4, "{}", change.file);
    }
}

/// After a sync of the directory that failed, the names may be forgotten by the next sync too, unless they are made anew.
#[test]
fn lists_and_markers_written_again_after_a_failed_sync_are_durable() {
    for change in [&CHANGES[0], &CHANGES[3]] {
        let (_, after, _) = change.course();
        for effect in [Effect::SyncDropsPages, Effect::SyncKeepsPages, Effect::SyncRevertsPages] {
            for operation in [FaultOn::SyncData, FaultOn::SyncDir] {
                let fs = change.world(1);
                fs.inject(Fault::new(operation, effect));
                assert!((change.apply)(&fs).is_err());
                (change.apply)(&fs).unwrap();
                let settled = fs.power_loss_keeping(Survival::Nothing);
                assert_eq!(change.content(&settled), after, "{} {operation:?} {effect:?}", change.file);
            }
        }
    }
}

/// A process removed the marker and died before it made that durable. The next one sees none, and must not take it for
/// granted: after a power loss the marker would be back, over logs that were being written.
#[test]
fn a_marker_that_an_earlier_process_removed_does_not_come_back() {
    let fs = CHANGES[4].world(1);
    fs.remove_file(&dir().join(".kafka_cleanshutdown")).unwrap();
    let next = fs.kill();
    assert!(!is_clean_shutdown(&next, dir()).unwrap());
    assert!(!remove_clean_shutdown(&next, dir()).unwrap());
    assert!(!is_clean_shutdown(&next.power_loss_keeping(Survival::Nothing), dir()).unwrap());
}

/// The sync after the removal failed and the process died. The next one sees no marker, and its sync succeeds without
/// having anything to do; a power loss then brings the marker back, over logs that the next process wrote.
#[test]
fn a_marker_whose_removal_failed_to_sync_is_void_when_it_comes_back() {
    for effect in [Effect::SyncDropsPages, Effect::SyncKeepsPages, Effect::SyncRevertsPages] {
        let fs = CHANGES[4].world(1);
        fs.inject(Fault::new(FaultOn::SyncDir, effect));
        assert!(remove_clean_shutdown(&fs, dir()).is_err());
        let next = fs.kill();
        assert!(!remove_clean_shutdown(&next, dir()).unwrap());
        let later = next.power_loss_keeping(Survival::Nothing);
        assert!(!is_clean_shutdown(&later, dir()).unwrap(), "{effect:?}");
        // A marker that is written then counts again.
        mark_clean_shutdown(&later, dir()).unwrap();
        assert!(is_clean_shutdown(&later.power_loss_keeping(Survival::Nothing), dir()).unwrap());
    }
}

#[test]
fn a_marker_without_content_counts_as_it_did_to_older_kafkas() {
    let fs = CHANGES[3].world(1);
    fs.open(&dir().join(".kafka_cleanshutdown"), OpenMode::CreateNew).unwrap();
    assert!(is_clean_shutdown(&fs, dir()).unwrap());
    assert!(remove_clean_shutdown(&fs, dir()).unwrap());
    assert!(!is_clean_shutdown(&fs.power_loss_keeping(Survival::Everything), dir()).unwrap());
}

#[test]
fn a_full_disk_does_not_keep_the_marker() {
    let fs = CHANGES[4].world(1);
    fs.inject(Fault::new(FaultOn::Write, Effect::Error(Errno::Enospc)).always());
    assert!(remove_clean_shutdown(&fs, dir()).unwrap());
    assert!(!is_clean_shutdown(&fs.power_loss_keeping(Survival::Nothing), dir()).unwrap());
}

#[test]
fn a_directory_in_the_markers_place_is_no_marker() {
    let fs = SimFs::new(1);
    fs.create_dir(dir()).unwrap();
    fs.create_dir(&dir().join(".kafka_cleanshutdown")).unwrap();
    assert!(!is_clean_shutdown(&fs, dir()).unwrap());
}

#[test]
fn only_what_is_half_written_is_removed() {
    let fs = SimFs::new(1);
    fs.create_dir(dir()).unwrap();
    let kept = [".lock", "holiday.jpg", "meta.properties", "other.tmp"];
    for name in kept.into_iter().chain(["meta.properties.tmp", "cleaner-offset-checkpoint.tmp"]) {
        fs.open(&dir().join(name), OpenMode::CreateNew).unwrap();
    }
    assert_eq!(remove_temporaries(&fs, dir()).unwrap(), 2);
    let names: Vec<String> = list(&fs, dir()).unwrap().into_iter().map(|listed| listed.name).collect();
    assert_eq!(names, kept);
    assert_eq!(remove_temporaries(&fs, dir()).unwrap(), 0);
}
