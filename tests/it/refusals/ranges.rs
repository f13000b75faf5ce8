//! Offsets outside the log, and a log that is closed.

use std::time::Duration;

use alluvium::error::{AppendError, ChangeError, DurabilityError, ReadError};
use alluvium::{Isolation, Offset, ReadOptions};

use crate::support::{Machine, assert_unchanged, at, batch, client, contents, ms, small};

/// A log from 100 to 110.
fn log() -> (Machine, alluvium::PartitionLog) {
    let machine = Machine::new();
    let log = machine.open(small());
    log.truncate_fully_and_start_at(at(100)).unwrap();
    for n in 0..10 {
        log.append(batch(&[&format!("value {n}")]), client()).unwrap();
    }
    (machine, log)
}

#[test]
fn reads_outside_the_log() {
    let (machine, log) = log();
    let files = machine.snapshot();
    for asked in [0, 99, 111, 1 << 40, i64::MAX] {
        for isolation in [Isolation::LogEnd, Isolation::Durable, Isolation::At(at(105))] {
            let error = log.read(at(asked), &ReadOptions { isolation, ..ReadOptions::default() }).unwrap_err();
            assert!(error.to_string().contains("read from the log start or wait at the log end"), "{error}");
            let ReadError::OutOfRange { asked: named, log_start, log_end } = error else { panic!("{error:?}") };
            assert_eq!((named, log_start, log_end), (at(asked), at(100), at(110)));
        }
    }
    // The end itself is where the next record will be.
    assert!(log.read(at(110), &ReadOptions::default()).unwrap().is_empty());
    assert_unchanged(&files, &machine.snapshot(), "reading");
}

#[test]
fn truncations_and_waits_outside_the_log() {
    let (machine, log) = log();
    let (files, marks) = (machine.snapshot(), log.marks());
    for asked in [0, 99, 111, i64::MAX] {
        let error = log.truncate_to(at(asked)).unwrap_err();
        assert!(error.to_string().contains("outside 100..=110"), "{error}");
        assert!(matches!(error, ChangeError::OutOfRange { .. }), "{error:?}");
    }
    let error = log.wait_durable(at(111), Duration::ZERO).unwrap_err();
    assert!(error.to_string().contains("wait for what was appended"), "{error}");
    let DurabilityError::PastEnd { wanted, log_end } = error else { panic!("{error:?}") };
    assert_eq!((wanted, log_end), (at(111), at(110)));
    assert_eq!(log.marks(), marks);
    assert_unchanged(&files, &machine.snapshot(), "refusing");
    assert_eq!(contents(&log).len(), 10);
}

#[test]
fn a_closed_log() {
    let (machine, log) = log();
    let waiting = log.append(batch(&["last"]), client()).unwrap();
    let other_handle = log.clone();
    log.close().unwrap();
    // Closing made it durable, and says so to whoever asks later.
    waiting.wait_durable(Duration::ZERO).unwrap();
    let files = machine.snapshot();
    let log = other_handle;
    let advice = "open it again";
    let error = log.append(batch(&["x"]), client()).unwrap_err();
    assert!(matches!(error, AppendError::Closed) && error.to_string().contains(advice), "{error}");
    let error = log.read(at(100), &ReadOptions::default()).unwrap_err();
    assert!(matches!(error, ReadError::Closed) && error.to_string().contains(advice), "{error}");
    let error = log.offset_for_timestamp(ms(0)).unwrap_err();
    assert!(matches!(error, ReadError::Closed), "{error}");
    for error in [
        log.truncate_to(at(105)).unwrap_err(),
        log.truncate_fully_and_start_at(Offset::ZERO).unwrap_err(),
        log.roll().unwrap_err(),
        log.tick().unwrap_err(),
    ] {
        assert!(matches!(error, ChangeError::Closed) && error.to_string().contains(advice), "{error}");
    }
    assert!(matches!(log.flush(), Err(DurabilityError::Closed)));
    log.close().unwrap();
    assert!(log.health().is_closed);
    assert_unchanged(&files, &machine.snapshot(), "a closed log");
    assert_eq!(machine.open(small()).log_end(), at(111));
}
