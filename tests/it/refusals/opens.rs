//! Directories that are not opened.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use alluvium::error::{ConfigError, IoOperation, OpenError};
use alluvium::fs::{FileSystem, OsFileSystem};
use alluvium::{FlushPolicy, LogConfig, PartitionLog};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::support::{DIR, Machine, assert_unchanged, batch, client, contents, small, snapshot};

/// Opening `dir` fails with an error that has `advice`, and nothing below `root` has changed.
fn refuses(root: &Path, dir: &Path, advice: &str) -> OpenError {
    let before = snapshot(&OsFileSystem, root);
    let error = PartitionLog::open(dir, small()).unwrap_err();
    assert_unchanged(&before, &snapshot(&OsFileSystem, root), advice);
    assert!(error.to_string().contains(advice), "{error} lacks {advice:?}");
    error
}

#[test]
fn a_directory_of_someone_elses_files() {
    for foreign in ["holiday.jpg", "data.mdb", "00000000000000000000.txt", "1.log"] {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join(foreign), b"theirs").unwrap();
        fs::write(temp.path().join(".DS_Store"), b"").unwrap();
        let error = refuses(temp.path(), temp.path(), "choose an empty directory");
        let OpenError::Foreign { path, entry } = error else { panic!("{error:?}") };
        assert_eq!((path.as_path(), entry.as_str()), (temp.path(), foreign));
    }
    // Not even when it is a directory, or looks like a data directory.
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir(temp.path().join("orders-0")).unwrap();
    let error = refuses(temp.path(), temp.path(), "choose an empty directory");
    assert!(matches!(error, OpenError::Foreign { .. }), "{error:?}");
}

#[test]
fn what_file_systems_and_desktops_leave_around_is_no_obstacle() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join(".DS_Store"), b"").unwrap();
    fs::create_dir(temp.path().join("lost+found")).unwrap();
    let log = PartitionLog::open(temp.path(), small()).unwrap();
    log.append(batch(&["x"]), client()).unwrap();
    // Once it is a log's directory, a stranger in it is reported and left alone.
    drop(log);
    fs::write(temp.path().join("notes.txt"), b"mine").unwrap();
    let log = PartitionLog::open(temp.path(), small()).unwrap();
    assert_eq!(log.recovery_report().unknown_entries, ["notes.txt"]);
    log.close().unwrap();
    assert_eq!(fs::read(temp.path().join("notes.txt")).unwrap(), b"mine");
}

#[test]
fn a_file_where_a_directory_should_be() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("orders-0");
    fs::write(&file, b"a file").unwrap();
    let error = refuses(temp.path(), &file, "is not a directory");
    assert!(matches!(&error, OpenError::NotADirectory { path } if *path == file), "{error:?}");
    // In the path above, at whatever distance.
    for below in ["p-0", "a/b/p-0"] {
        let error = refuses(temp.path(), &file.join(below), "is not a directory");
        assert!(matches!(&error, OpenError::NotADirectory { path } if *path == file), "{error:?}");
    }
}

#[test]
fn no_permission() {
    let machine = Machine::new();
    machine.open(small()).close().unwrap();
    for denied in ["/data", DIR] {
        let before = machine.snapshot();
        machine.fs.set_permission_denied(Path::new(denied));
        let error = machine.try_open(small()).unwrap_err();
        assert!(error.to_string().contains("run as its owner or change its mode"), "{error}");
        assert!(matches!(error, OpenError::Permission(_)), "{error:?}");
        machine.fs.clear_permission_denied(Path::new(denied));
        assert_unchanged(&before, &machine.snapshot(), denied);
    }
    // A log that may be listed but not locked.
    let before = machine.snapshot();
    machine.fs.set_permission_denied(&Machine::path("alluvium.lock"));
    let error = machine.try_open(small()).unwrap_err();
    let OpenError::Permission(failure) = error else { panic!("{error:?}") };
    assert_eq!((failure.operation, failure.path), (IoOperation::Lock, Machine::path("alluvium.lock")));
    machine.fs.clear_permission_denied(&Machine::path("alluvium.lock"));
    assert_unchanged(&before, &machine.snapshot(), "lock");
    machine.open(small());
}

/// The same on the real file system, where the tests do not run as root.
#[test]
fn no_permission_from_the_system() {
    let temp = tempfile::tempdir().unwrap();
    let above = temp.path().join("above");
    fs::create_dir(&above).unwrap();
    fs::set_permissions(&above, fs::Permissions::from_mode(0o500)).unwrap();
    if fs::write(above.join("probe"), b"").is_ok() {
        // Root may write anywhere.
        return;
    }
    let error = refuses(temp.path(), &above.join("orders-0"), "run as its owner or change its mode");
    let OpenError::Permission(failure) = error else { panic!("{error:?}") };
    assert_eq!(failure.operation, IoOperation::CreateDir);
}

#[test]
fn a_second_log_of_this_process() {
    let temp = tempfile::tempdir().unwrap();
    let log = PartitionLog::open(temp.path(), small()).unwrap();
    log.append(batch(&["x"]), client()).unwrap();
    let error = refuses(temp.path(), temp.path(), "close that first");
    assert!(matches!(&error, OpenError::Locked { lock } if lock.ends_with("alluvium.lock")), "{error:?}");
    // Another way to the same directory is no way around.
    let around = temp.path().join("..").join(temp.path().file_name().unwrap());
    let error = refuses(temp.path(), &around, "close that first");
    assert!(matches!(error, OpenError::Locked { .. }), "{error:?}");
    // The first is as it was, and the lock goes with it.
    log.append(batch(&["y"]), client()).unwrap();
    assert_eq!(contents(&log).len(), 2);
    log.close().unwrap();
    let log = PartitionLog::open(temp.path(), small()).unwrap();
    drop(log);
    PartitionLog::open(temp.path(), small()).unwrap();
}

const CHILD_DIR: &str = "ALLUVIUM_TEST_CHILD_DIR";

/// Started by the next test in a process of its own: opens a log and holds it until its standard input ends.
#[test]
fn child_that_holds_a_log() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let log = PartitionLog::open(dir, small()).unwrap();
    log.append(batch(&["of the child"]), client()).unwrap();
    println!("holding");
    std::io::stdin().lines().for_each(drop);
    // Dies without closing.
    std::process::exit(0);
}

#[test]
fn a_second_process() {
    let temp = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "refusals::opens::child_that_holds_a_log", "--nocapture"])
        .env(CHILD_DIR, temp.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.ends_with("holding")), "the child opened the log");
    let error = refuses(temp.path(), temp.path(), "held by another process");
    assert!(matches!(error, OpenError::Locked { .. }), "{error:?}");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    // The lock died with it, and what it appended did not.
    let log = PartitionLog::open(temp.path(), small()).unwrap();
    assert_eq!(contents(&log).last().unwrap().2, "of the child");
}

#[test]
fn a_data_directory_that_a_store_holds() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("orders-0");
    PartitionLog::open(&dir, small()).unwrap().close().unwrap();
    let lock = temp.path().join(".lock");
    fs::write(&lock, b"").unwrap();
    let guard = OsFileSystem.try_lock(&lock).unwrap().unwrap();
    for dir in [dir.clone(), temp.path().join("new-0"), temp.path().join("new-1/.")] {
        let error = refuses(temp.path(), &dir, "open the partition through it");
        assert!(matches!(&error, OpenError::ParentLocked { lock: named } if named.ends_with(".lock")), "{error:?}");
    }
    drop(guard);
    PartitionLog::open(&dir, small()).unwrap();
}

/// Java's `FileLock` is an fcntl lock of the process, not of the open file.
#[test]
fn a_data_directory_that_a_broker_holds() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("orders-0");
    PartitionLog::open(&dir, small()).unwrap().close().unwrap();
    let lock = fs::File::create(temp.path().join(".lock")).unwrap();
    let whole_file = |kind: i32| libc::flock {
        l_type: i16::try_from(kind).unwrap(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap(),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&lock, FcntlArg::F_SETLK(&whole_file(libc::F_WRLCK))).unwrap();
    let before = snapshot(&alluvium::fs::OsFileSystem, &dir);
    let error = PartitionLog::open(&dir, small()).unwrap_err();
    assert!(matches!(error, OpenError::ParentLocked { .. }), "{error:?}");
    assert_unchanged(&before, &snapshot(&alluvium::fs::OsFileSystem, &dir), "broker");
    fcntl(&lock, FcntlArg::F_SETLK(&whole_file(libc::F_UNLCK))).unwrap();
    PartitionLog::open(&dir, small()).unwrap();
}

#[test]
fn settings_out_of_range() {
    let flush = |flush: FlushPolicy| LogConfig { flush, ..LogConfig::default() };
    let cases = [
        ("segment.bytes", LogConfig { segment_bytes: 13, ..LogConfig::default() }),
        ("segment.bytes", LogConfig { segment_bytes: 1 << 31, ..LogConfig::default() }),
        ("segment.ms", LogConfig { segment_ms: 0, ..LogConfig::default() }),
        ("segment.jitter.ms", LogConfig { segment_jitter_ms: u64::MAX, ..LogConfig::default() }),
        ("segment.index.bytes", LogConfig { segment_index_bytes: 23, ..LogConfig::default() }),
        ("index.interval.bytes", LogConfig { index_interval_bytes: u32::MAX, ..LogConfig::default() }),
        ("max.message.bytes", LogConfig { max_message_bytes: 1 << 31, ..LogConfig::default() }),
        ("alluvium.max.decompressed.bytes", LogConfig { max_decompressed_bytes: 1023, ..LogConfig::default() }),
        ("alluvium.zero.ahead.bytes", LogConfig { zero_ahead_bytes: (1 << 30) + 1, ..LogConfig::default() }),
        ("flush.messages", flush(FlushPolicy { after_records: Some(0), ..FlushPolicy::default() })),
        ("alluvium.flush.after.bytes", flush(FlushPolicy { after_bytes: Some(0), ..FlushPolicy::default() })),
        ("alluvium.flush.max.waiting", flush(FlushPolicy { max_waiting: 0, ..FlushPolicy::default() })),
    ];
    let machine = Machine::new();
    let before = machine.snapshot();
    for (key, config) in &cases {
        let error = machine.try_open(config.clone()).unwrap_err();
        assert!(error.to_string().contains("set it within that range"), "{error}");
        assert!(
            matches!(&error, OpenError::Config(ConfigError::OutOfRange { key: named, .. }) if named == key),
            "{error:?}"
        );
    }
    assert_unchanged(&before, &machine.snapshot(), "config");
    // The same when settings are changed on an open log: the old ones stay.
    let log = machine.open(small());
    for (key, config) in cases {
        assert_eq!(log.update_config(config).unwrap_err().key(), Some(key));
    }
    assert_eq!(*log.config(), small());
}
