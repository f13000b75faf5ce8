use super::*;
use crate::fs::sim::{Effect, Errno, Fault, FaultOn, SimFs};
use crate::fs::{OpenMode, write_all_at};

const KIND: CheckpointKind = CheckpointKind::RecoveryPoint;

fn named(name: &str) -> TopicPartition {
    name.parse().unwrap()
}

fn at(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

fn world(content: &[u8]) -> SimFs {
    let fs = SimFs::new(1);
    let file = fs.open(&Path::new("/").join(KIND.file_name()), OpenMode::CreateNew).unwrap();
    write_all_at(&*file, content, 0).unwrap();
    fs
}

fn read(fs: &SimFs) -> OffsetCheckpoint {
    OffsetCheckpoint::read(fs, Path::new("/"), KIND).unwrap()
}

#[test]
fn a_list_is_read_changed_and_replaced() {
    let fs = world(b"0\n2\nusers 0 7\norders 10 3\n");
    let mut list = read(&fs);
    assert_eq!((list.kind(), list.fault()), (KIND, None));
    assert_eq!(list.offset(&named("users-0")), Some(at(7)));
    assert_eq!(list.offset(&named("orders-1")), None);
    assert!(!list.set(named("users-0"), at(7)));
    assert!(list.set(named("orders-2"), at(9)));
    assert_eq!(list.remove(&named("users-0")), Some(at(7)));
    list.replace(&fs, Path::new("/")).unwrap();
    assert_eq!(list.encode(), b"0\n2\norders 2 9\norders 10 3\n");
    assert_eq!(read(&fs), list);
    assert_eq!(fs.durable_bytes(&Path::new("/").join(KIND.file_name())), Some(list.encode()));
}

#[test]
fn without_a_file_or_a_byte_a_list_is_empty() {
    assert_eq!(read(&SimFs::new(1)), OffsetCheckpoint::new(KIND));
    assert_eq!(read(&world(b"")), OffsetCheckpoint::new(KIND));
    assert_eq!(OffsetCheckpoint::new(KIND).encode(), b"0\n0\n");
}

#[test]
fn what_is_no_list_says_nothing_of_any_partition_and_why() {
    let list = read(&world(b"0\n2\norders 0 5\norders 1\n"));
    assert_eq!(list.offsets().count(), 0, "not even of the one that could be read");
    let fault = list.fault().unwrap();
    assert_eq!(fault.cause, TextFault::Fields { line: 4, found: 2, expected: 3 });
    assert_eq!(
        fault.to_string(),
        "/recovery-point-offset-checkpoint cannot be read: line 4 has 2 fields where 3 belong; \
        every partition of the directory is scanned from its start"
    );
    let fs = world(b"");
    let file = fs.open(&Path::new("/").join(KIND.file_name()), OpenMode::ReadWrite).unwrap();
    file.set_len(FILE_BYTES_MAX as u64 + 1).unwrap();
    let max = FILE_BYTES_MAX as u64;
    assert_eq!(read(&fs).fault().unwrap().cause, TextFault::Size { bytes: max + 1, max });
}

/// A disk that does not answer is not a list that says nothing: the directory is in trouble.
#[test]
fn a_failed_read_is_no_empty_list() {
    for operation in [FaultOn::Open, FaultOn::Read] {
        let fs = world(b"0\n0\n");
        fs.inject(Fault::new(operation, Effect::Error(Errno::Eio)));
        let failed = OffsetCheckpoint::read(&fs, Path::new("/"), KIND);
        assert!(failed.is_err(), "{operation:?}");
    }
}

#[test]
fn what_is_no_file_is_not_opened() {
    let fs = SimFs::new(1);
    fs.create_dir(&Path::new("/").join(KIND.file_name())).unwrap();
    let failed = OffsetCheckpoint::read(&fs, Path::new("/"), KIND).unwrap_err();
    assert_eq!(failed.source.kind(), std::io::ErrorKind::InvalidInput);
}

#[test]
fn partitions_that_are_gone_leave_only_when_told() {
    let fs = world("0\n4\ngone 0 1\nhere 0 2\ntwo\u{a0}words 0 3\nhere 2147483647 4\n".as_bytes());
    let mut list = read(&fs);
    assert_eq!(list.strangers(), [("two\u{a0}words".to_owned(), 0, at(3))]);
    let now = BTreeMap::from([(named("here-0"), at(5)), (named("new-0"), at(0))]);
    assert!(list.update(&now, Others::Keep));
    assert_eq!(list.encode(), "0\n5\ngone 0 1\nhere 0 5\nhere 2147483647 4\nnew 0 0\ntwo\u{a0}words 0 3\n".as_bytes());
    assert!(!list.update(&now, Others::Keep));
    assert!(list.update(&now, Others::Drop));
    assert_eq!(list.encode(), b"0\n2\nhere 0 5\nnew 0 0\n");
    assert!(!list.update(&now, Others::Drop));
}

#[test]
fn whatever_is_read_is_written_again() {
    for text in ["0\n1\n.. 0 1\n", "0\n1\n\u{2028} 5 1\n", "0\n2\na 0 1\nb/c 0 2\n"] {
        let list = read(&world(text.as_bytes()));
        assert_eq!(list.fault(), None);
        assert_eq!(list.encode(), text.as_bytes());
    }
}
