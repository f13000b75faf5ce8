//! Adopting on the simulator, within a file system and across two.

use super::super::moving_recovery::recover_moves;
use super::*;
use crate::clock::ManualClock;
use crate::config::LogConfig;
use crate::fs::sim::{Effect, Errno, Fault, FaultOn, SimFs, Survival};
use crate::log::{AppendAs, Environment, PartitionLog};
use crate::record::BatchBuilder;
use crate::store::claim_topic_id;
use crate::units::{LeaderEpoch, TimestampMs};

const CROSSES_DEVICES: i32 = 18;

fn open(fs: &SimFs, dir: &str) -> PartitionLog {
    let environment = Environment { fs: Arc::new(fs.clone()), clock: Arc::new(ManualClock::at(1_700_000_000_000)) };
    environment.open(dir, LogConfig::default()).unwrap()
}

fn topic() -> TopicId {
    TopicId::from_random(3)
}

/// A partition that was closed, in a place of its own.
fn world(seed: u64) -> SimFs {
    let fs = SimFs::new(seed);
    fs.create_dir(Path::new("/data")).unwrap();
    let log = open(&fs, "/old/thing");
    for _ in 0..5 {
        let batch = BatchBuilder::new().record(TimestampMs::new(1), None, Some(b"v")).build().unwrap();
        log.append(batch, AppendAs::Client { epoch: LeaderEpoch::new(0).unwrap() }).unwrap();
    }
    claim_topic_id(&fs, Path::new("/old/thing"), topic()).unwrap();
    log.close().unwrap();
    fs.sync_dir(Path::new("/")).unwrap();
    fs
}

fn across(fs: &SimFs) {
    fs.inject(Fault::new(FaultOn::Rename, Effect::Error(Errno::Raw(CROSSES_DEVICES))).path_contains("/old/thing"));
}

fn take(fs: &SimFs, topic: Option<TopicId>) -> Result<Adopted, AdoptError> {
    let shared: Arc<dyn FileSystem> = Arc::new(fs.clone());
    let orders = TopicPartition::new("orders", 0).unwrap();
    adopt(&shared, Path::new("/old/thing"), Path::new("/data"), &orders, topic, UniqueId::from_random(1))
}

#[test]
fn a_directory_is_adopted_or_copied() {
    for is_copy in [false, true] {
        let fs = world(1);
        if is_copy {
            across(&fs);
        }
        let adopted = take(&fs, Some(topic())).unwrap();
        assert_eq!(adopted, Adopted { dir: "/data/orders-0".into(), is_copy });
        let later = fs.power_loss_keeping(Survival::Nothing);
        assert_eq!(later.list(Path::new("/old/thing")).is_ok(), is_copy);
        let log = open(&later, "/data/orders-0");
        assert!(log.recovery_report().was_clean);
        assert_eq!(log.log_end().value(), 5);
        assert!(!marker::has_mark(&later, Path::new("/data/orders-0")).unwrap());
    }
}

#[test]
fn what_is_no_free_partition_of_that_topic_is_refused() {
    let fs = world(1);
    let other = take(&fs, Some(TopicId::from_random(4)));
    assert!(matches!(other, Err(AdoptError::TopicId(TopicIdError::Mismatch { .. }))), "{other:?}");
    let held = open(&fs, "/old/thing");
    assert!(matches!(take(&fs, None), Err(AdoptError::Locked { .. })));
    held.close().unwrap();
    let store = fs.try_lock(Path::new("/old/.lock")).unwrap();
    assert!(matches!(take(&fs, None), Err(AdoptError::Locked { .. })));
    drop(store);
    fs.open(Path::new("/old/thing/holiday.jpg"), OpenMode::CreateNew).unwrap();
    assert!(matches!(take(&fs, None), Err(AdoptError::Foreign { .. })));
    fs.remove_file(Path::new("/old/thing/holiday.jpg")).unwrap();
    fs.create_dir(Path::new("/data/orders-0")).unwrap();
    assert!(matches!(take(&fs, None), Err(AdoptError::Exists { .. })));
    fs.remove_dir(Path::new("/data/orders-0")).unwrap();
    take(&fs, None).unwrap();
    fs.create_dir(Path::new("/old/thing")).unwrap();
    fs.remove_dir(Path::new("/data/orders-0")).unwrap_err();
    let orders = TopicPartition::new("orders", 1).unwrap();
    let shared: Arc<dyn FileSystem> = Arc::new(fs.clone());
    let empty = adopt(&shared, Path::new("/old/thing"), Path::new("/data"), &orders, None, UniqueId::from_random(1));
    assert!(matches!(empty, Err(AdoptError::NotAPartition { .. })));
}

#[test]
fn a_crash_at_any_step_leaves_the_partition_in_one_place_whole() {
    for is_copy in [false, true] {
        let steps = {
            let fs = world(1);
            let first = fs.steps() + 1;
            if is_copy {
                across(&fs);
            }
            take(&fs, None).unwrap();
            first..=fs.steps()
        };
        for step in steps {
            for seed in 0..6 {
                let fs = world(seed);
                if is_copy {
                    across(&fs);
                }
                fs.crash_after(step);
                let _ = take(&fs, None);
                for image in [fs.kill(), fs.power_loss(seed), fs.power_loss_keeping(Survival::Nothing)] {
                    let report = recover_moves(&image, &[Some(Path::new("/data"))]);
                    assert!(report.partitions.iter().all(|partition| partition.failed.is_empty()), "{report:?}");
                    let is_adopted = image.list(Path::new("/data/orders-0")).is_ok();
                    let dir = if is_adopted { "/data/orders-0" } else { "/old/thing" };
                    let log = open(&image, dir);
                    assert_eq!(log.log_end().value(), 5, "{is_copy} step {step} seed {seed}");
                    log.close().unwrap();
                    if !is_adopted {
                        take(&image, None).unwrap();
                    }
                }
            }
        }
    }
}
