//! Slices on their way to sockets, pipes and files: with tiny buffers, slow readers, sockets that do not block, peers that
//! are gone, segments that are cut off meanwhile, and a disk with faults.

use std::io::{self, PipeReader, PipeWriter, Read, Seek, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use alluvium::error::{IoFailure, IoOperation};
use alluvium::fs::sim::{Effect, Errno, Fault, FaultOn, Operation, Outcome, SimConfig, SimFs};
use alluvium::fs::{AsFd, FileSystem, OpenMode, OsFileSystem};
use alluvium::{Environment, Fetched, FileSlice, LogConfig, PartitionLog, ReadMode, ReadOptions, Sent, SentInPart};
use nix::fcntl::{FcntlArg, fcntl};

use crate::support::{Machine, NOW, at, batch_at, client, small};

fn fill(log: &PartitionLog, from: i64, to: i64, value_bytes: usize) {
    let value = "0123456789abcdef".repeat(value_bytes / 16 + 1);
    for n in from..to {
        log.append(batch_at(NOW + n, &[&format!("{n} {}", &value[..value_bytes])]), client()).unwrap();
    }
}

/// A fetch of everything.
fn everything(log: &PartitionLog) -> Fetched {
    log.read(log.log_start(), &ReadOptions { max_bytes: u64::MAX, ..ReadOptions::default() }).unwrap()
}

/// About 2 MiB in segments of 300 KiB, with and without maps, on the real file system.
fn large_logs(root: &Path) -> Vec<PartitionLog> {
    [ReadMode::Positional, ReadMode::Mapped]
        .map(|read_mode| {
            let config = LogConfig { read_mode, segment_bytes: 300_000, ..LogConfig::default() };
            let log = PartitionLog::open(root.join(format!("{read_mode:?}")), config).unwrap();
            fill(&log, 0, 700, 3000);
            log
        })
        .into()
}

/// Reads everything in small pieces, with pauses.
fn read_slowly(peer: &mut impl Read) -> Vec<u8> {
    let (mut all, mut piece) = (Vec::new(), [0; 7001]);
    for pieces in 0.. {
        match peer.read(&mut piece).unwrap() {
            0 => return all,
            n => all.extend_from_slice(&piece[..n]),
        }
        if pieces % 50 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    all
}

fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (ours, listener.accept().unwrap().0)
}

/// A pipe that holds no more than a page.
fn tiny_pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = io::pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    (reader, writer)
}

#[test]
fn sockets_pipes_and_files_get_all_bytes_of_all_segments() {
    let temp = tempfile::tempdir().unwrap();
    for log in large_logs(temp.path()) {
        let fetched = everything(&log);
        assert!(fetched.slices().len() > 5);
        let right = fetched.read().unwrap();
        let len = right.len() as u64;
        assert_eq!(fetched.bytes(), len);
        std::thread::scope(|scope| {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let reader = scope.spawn(move || read_slowly(&mut theirs));
            assert_eq!(fetched.send_to(&ours).unwrap(), len);
            drop(ours);
            assert!(reader.join().unwrap() == right);

            let (ours, mut theirs) = tcp_pair();
            let reader = scope.spawn(move || read_slowly(&mut theirs));
            let each = fetched.slices().iter().map(|slice| slice.send_to(&ours).unwrap());
            assert_eq!(each.sum::<u64>(), len);
            drop(ours);
            assert!(reader.join().unwrap() == right);

            let (mut theirs, ours) = tiny_pipe();
            let reader = scope.spawn(move || read_slowly(&mut theirs));
            assert_eq!(fetched.send_to(&ours).unwrap(), len);
            drop(ours);
            assert!(reader.join().unwrap() == right);
        });
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"before ").unwrap();
        assert_eq!(fetched.send_to(&file).unwrap(), len);
        file.rewind().unwrap();
        let mut copied = Vec::new();
        file.read_to_end(&mut copied).unwrap();
        assert!(copied.strip_prefix(b"before ").unwrap() == right);
        log.close().unwrap();
    }
}

/// What an event loop does, with a reader who takes a little now and then.
fn send_in_parts(
    bytes: u64,
    mut attempt: impl FnMut(u64) -> Result<Sent, IoFailure>,
    mut read: impl FnMut() -> usize,
) -> u32 {
    let (mut sent, mut blocked) = (0, 0);
    while sent < bytes {
        let now = attempt(sent).unwrap();
        sent += now.bytes;
        assert!(sent <= bytes);
        if sent < bytes {
            assert!(now.would_block, "it stopped at {sent} of {bytes} for no reason");
            blocked += 1;
            while read() == 0 {}
        }
    }
    blocked
}

#[test]
fn a_socket_that_does_not_block_takes_parts() {
    let temp = tempfile::tempdir().unwrap();
    for log in large_logs(temp.path()) {
        let fetched = everything(&log);
        let right = fetched.read().unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let (mut got, mut piece) = (Vec::new(), vec![0; 50_000]);
        let read = || {
            let n = theirs.read(&mut piece).unwrap();
            got.extend_from_slice(&piece[..n]);
            n
        };
        assert!(send_in_parts(fetched.bytes(), |from| fetched.send_part(&ours, from), read) > 3);
        drop(ours);
        theirs.read_to_end(&mut got).unwrap();
        assert!(got == right);

        // Slice by slice, over TCP.
        let (ours, mut theirs) = tcp_pair();
        ours.set_nonblocking(true).unwrap();
        let mut got = Vec::new();
        for slice in fetched.slices() {
            let mut piece = vec![0; 20_000];
            let read = || {
                let n = theirs.read(&mut piece).unwrap();
                got.extend_from_slice(&piece[..n]);
                n
            };
            send_in_parts(slice.len(), |from| slice.send_part(&ours, from), read);
        }
        drop(ours);
        theirs.read_to_end(&mut got).unwrap();
        assert!(got == right);
        log.close().unwrap();
    }
}

/// Whoever waits on a socket that does not wait is told how far it came, and can go on from there.
#[test]
fn a_full_socket_tells_how_much_it_took() {
    let temp = tempfile::tempdir().unwrap();
    let log = large_logs(temp.path()).remove(0);
    let fetched = everything(&log);
    let right = fetched.read().unwrap();
    for by_timeout in [false, true] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        if by_timeout {
            ours.set_write_timeout(Some(Duration::from_millis(20))).unwrap();
        } else {
            ours.set_nonblocking(true).unwrap();
        }
        let failure = fetched.send_to(&ours).unwrap_err();
        assert_eq!((failure.operation, failure.source.kind()), (IoOperation::Send, io::ErrorKind::WouldBlock));
        let SentInPart { sent, wanted } = SentInPart::of(&failure).unwrap();
        assert_eq!(wanted, fetched.bytes());
        assert!(sent > 0 && sent < wanted, "{sent} of {wanted}");
        assert!(failure.to_string().contains("use send_part"), "{failure}");
        ours.set_nonblocking(true).unwrap();
        // It is still full: nothing more goes out, and that is no error.
        assert_eq!(fetched.send_part(&ours, sent).unwrap(), Sent { bytes: 0, would_block: true });
        let mut got = vec![0; usize::try_from(sent).unwrap()];
        theirs.read_exact(&mut got).unwrap();
        let rest = fetched.send_part(&ours, sent).unwrap();
        drop(ours);
        theirs.read_to_end(&mut got).unwrap();
        let end = usize::try_from(sent + rest.bytes).unwrap();
        assert!(got == right[..end]);
    }
    log.close().unwrap();
}

/// Rust programs ignore SIGPIPE, and so does the harness of this test: it would die here otherwise.
#[test]
fn a_peer_that_is_gone_is_an_error() {
    let temp = tempfile::tempdir().unwrap();
    let log = large_logs(temp.path()).remove(0);
    let fetched = everything(&log);
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    let failure = fetched.send_to(&ours).unwrap_err();
    assert_eq!((failure.operation, failure.source.kind()), (IoOperation::Send, io::ErrorKind::BrokenPipe));
    assert_eq!(failure.path, fetched.slices()[0].path());
    assert_eq!(SentInPart::of(&failure), None);
    assert_eq!(fetched.send_part(&ours, 0).unwrap_err().source.kind(), io::ErrorKind::BrokenPipe);
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    assert_eq!(fetched.slices()[1].send_to(&writer).unwrap_err().source.kind(), io::ErrorKind::BrokenPipe);
    // Gone while it is being sent to: unread bytes make it a reset.
    let (ours, mut theirs) = tcp_pair();
    std::thread::scope(|scope| {
        scope.spawn(move || theirs.read_exact(&mut [0; 10_000]).unwrap());
        let kind = (0..100).find_map(|_| fetched.send_to(&ours).err()).unwrap().source.kind();
        assert!(matches!(kind, io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset), "{kind}");
    });
    // The log is none the worse for it.
    assert_eq!(fetched.read().unwrap().len() as u64, fetched.bytes());
    log.close().unwrap();
}

#[test]
fn what_cannot_be_sent_to_is_an_error() {
    let temp = tempfile::tempdir().unwrap();
    let log = PartitionLog::open(temp.path().join("log"), small()).unwrap();
    fill(&log, 0, 20, 20);
    let fetched = everything(&log);
    let path = temp.path().join("appended");
    let appended = std::fs::OpenOptions::new().append(true).create(true).open(&path).unwrap();
    assert_eq!(fetched.send_to(&appended).unwrap_err().source.kind(), io::ErrorKind::InvalidInput);
    let read_only = std::fs::File::open(&path).unwrap();
    assert!(fetched.send_to(&read_only).is_err());
    // Past the end, and exactly at it.
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let slice = &fetched.slices()[0];
    for from in [slice.len() + 1, u64::MAX] {
        assert_eq!(slice.send_part(&ours, from).unwrap_err().source.kind(), io::ErrorKind::InvalidInput);
    }
    let failure = fetched.send_part(&ours, fetched.bytes() + 1).unwrap_err();
    assert_eq!(failure.source.kind(), io::ErrorKind::InvalidInput);
    let nothing = Sent { bytes: 0, would_block: false };
    assert_eq!(slice.send_part(&ours, slice.len()).unwrap(), nothing);
    assert_eq!(fetched.send_part(&ours, fetched.bytes()).unwrap(), nothing);
    // Nothing found is nothing sent.
    let none = log.read(log.log_end(), &ReadOptions::default()).unwrap();
    assert_eq!((none.send_to(&ours).unwrap(), none.send_part(&ours, 0).unwrap()), (0, nothing));
    drop(ours);
    assert_eq!(theirs.read(&mut [0]).unwrap(), 0);
    log.close().unwrap();
}

/// The file below a slice never becomes shorter; where another program cuts it the send must end.
#[test]
fn a_file_that_became_shorter_is_an_error_and_no_endless_loop() {
    let temp = tempfile::tempdir().unwrap();
    let simulated = Machine::new();
    let real: (&dyn FileSystem, _, _) = (&OsFileSystem, Environment::default(), temp.path().join("log"));
    for (fs, environment, dir) in [real, (&simulated.fs, simulated.environment(), "/p-0".into())] {
        let log = environment.open(&dir, LogConfig { zero_ahead_bytes: 0, ..LogConfig::default() }).unwrap();
        fill(&log, 0, 10, 1000);
        let fetched = everything(&log);
        let bytes = fetched.bytes();
        fs.open(&fetched.slices()[0].path(), OpenMode::ReadWrite).unwrap().set_len(2000).unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let failure = fetched.send_to(&ours).unwrap_err();
        assert_eq!(failure.source.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(fetched.send_part(&ours, 0).unwrap(), Sent { bytes: 2000, would_block: false });
        assert_eq!(fetched.send_part(&ours, 2000).unwrap_err().source.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(fetched.send_part(&ours, bytes - 1).unwrap_err().source.kind(), io::ErrorKind::UnexpectedEof);
        drop(ours);
        let mut got = Vec::new();
        theirs.read_to_end(&mut got).unwrap();
        assert_eq!(got.len(), 4000);
    }
}

/// Whoever holds slices goes on sending the old bytes, whatever is cut and written in their place.
#[test]
fn slices_send_the_old_bytes_after_truncation() {
    let temp = tempfile::tempdir().unwrap();
    let simulated = Machine::new();
    let environments = [(Environment::default(), temp.path()), (simulated.environment(), Path::new("/p-0"))];
    for (environment, root) in environments {
        for read_mode in [ReadMode::Positional, ReadMode::Mapped] {
            for (cut, fully) in [(20, false), (37, false), (0, false), (500, true)] {
                let dir = root.join(format!("{read_mode:?}-{cut}"));
                let log = environment.open(&dir, LogConfig { read_mode, ..small() }).unwrap();
                fill(&log, 0, 40, 20);
                let held = everything(&log);
                let before = held.read().unwrap();
                if fully {
                    log.truncate_fully_and_start_at(at(cut)).unwrap();
                } else {
                    log.truncate_to(at(cut)).unwrap();
                }
                fill(&log, cut, cut + 30, 50);
                log.close().unwrap();
                let (ours, mut theirs) = UnixStream::pair().unwrap();
                assert_eq!(held.send_to(&ours).unwrap(), before.len() as u64);
                drop(ours);
                let mut got = Vec::new();
                theirs.read_to_end(&mut got).unwrap();
                assert!(got == before, "{dir:?}");
            }
        }
    }
}

/// sendfile(2) hands the pages of the file to the socket, which still reads them when the call has returned and the slice
/// is gone. A cut in place, and what is appended after it, would show there: a receiver that is slow would be sent zeros,
/// or the new batches in the place of the old ones.
#[test]
fn bytes_on_their_way_to_a_receiver_outlive_truncation() {
    let temp = tempfile::tempdir().unwrap();
    for through_the_file in [false, true] {
        for cut in [0, 1, 20, 39] {
            let dir = temp.path().join(format!("{through_the_file}-{cut}"));
            let log = PartitionLog::open(dir, LogConfig { zero_ahead_bytes: 0, ..LogConfig::default() }).unwrap();
            fill(&log, 0, 40, 20);
            let before = everything(&log).read().unwrap();
            let (socket, mut peer) = UnixStream::pair().unwrap();
            let mut sent = 0;
            for slice in everything(&log).slices() {
                sent += if through_the_file {
                    slice.file().send_to(socket.as_fd(), slice.position().value(), slice.len()).unwrap()
                } else {
                    slice.send_to(&socket).unwrap()
                };
            }
            assert_eq!(sent, before.len() as u64);
            drop(socket);
            log.truncate_to(at(cut)).unwrap();
            fill(&log, cut, cut + 30, 50);
            log.flush().unwrap();
            let mut received = Vec::new();
            peer.read_to_end(&mut received).unwrap();
            assert!(received == before, "cut at {cut}: the receiver got other bytes than were sent");
        }
    }
}

/// The same with everybody at once: who sends gives the slices up at once and reads the other end later.
#[test]
fn senders_and_cuts_at_once() {
    let temp = tempfile::tempdir().unwrap();
    let config = LogConfig { zero_ahead_bytes: 0, segment_bytes: 20_000, ..LogConfig::default() };
    let log = PartitionLog::open(temp.path().join("log"), config).unwrap();
    fill(&log, 0, 50, 100);
    let is_done = std::sync::atomic::AtomicBool::new(false);
    let sent_while_cutting = |seed| -> usize {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut compared = 0;
        // A cut that failed must not leave the senders at it for ever.
        let started = std::time::Instant::now();
        while !is_done.load(std::sync::atomic::Ordering::Relaxed) && started.elapsed() < Duration::from_mins(1) {
            let options = ReadOptions { max_bytes: rng.u64(0..20_000), ..ReadOptions::default() };
            // The end may have been cut off meanwhile.
            let Ok(fetched) = log.read(at(rng.i64(0..50)), &options) else { continue };
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let before = fetched.read().unwrap();
            assert_eq!(fetched.send_to(&ours).unwrap(), before.len() as u64);
            drop((fetched, ours));
            std::thread::sleep(Duration::from_micros(rng.u64(0..3000)));
            let mut got = Vec::new();
            theirs.read_to_end(&mut got).unwrap();
            assert!(got == before, "seed {seed}: the receiver got other bytes than were sent");
            compared += usize::from(!got.is_empty());
        }
        compared
    };
    std::thread::scope(|scope| {
        let sent_while_cutting = &sent_while_cutting;
        let senders = [1, 2, 3].map(|seed| scope.spawn(move || sent_while_cutting(seed)));
        let mut rng = fastrand::Rng::with_seed(0);
        for _ in 0..150 {
            let cut = rng.i64(1..log.log_end().value());
            log.truncate_to(at(cut)).unwrap();
            fill(&log, cut, cut + rng.i64(1..30), rng.usize(50..200));
            std::thread::sleep(Duration::from_micros(rng.u64(0..2000)));
        }
        is_done.store(true, std::sync::atomic::Ordering::Relaxed);
        let compared: usize = senders.into_iter().map(|sender| sender.join().unwrap()).sum();
        assert!(compared > 100, "{compared}");
    });
    log.close().unwrap();
}

/// A cut that no receiver can see still goes in place: nothing of what it takes was sent.
#[test]
fn a_cut_past_all_that_was_sent_copies_nothing() {
    let machine = Machine::new();
    let log = machine.open(LogConfig { zero_ahead_bytes: 0, ..LogConfig::default() });
    fill(&log, 0, 40, 20);
    let renames_of_a_cut = |sent: i64, cut: i64| {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let below = ReadOptions { isolation: alluvium::Isolation::At(at(sent)), ..ReadOptions::default() };
        log.read(at(0), &below).unwrap().send_to(&ours).unwrap();
        machine.fs.record_trace(true);
        let before = machine.fs.trace().len();
        log.truncate_to(at(cut)).unwrap();
        let trace = machine.fs.trace();
        let is_log = |path: &Path| path.extension().is_some_and(|extension| extension == "log");
        trace[before..]
            .iter()
            .filter(|event| event.operation == Operation::Rename && event.to.as_deref().is_some_and(is_log))
            .count()
    };
    assert_eq!(renames_of_a_cut(30, 35), 0);
    assert_eq!(renames_of_a_cut(30, 30), 0);
    assert_eq!(renames_of_a_cut(10, 29), 1);
}

/// Bytes that `send` brings to the other end of a fresh socket.
fn received<T>(send: impl FnOnce(&UnixStream) -> T) -> Vec<u8> {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut got = Vec::new();
            theirs.read_to_end(&mut got).unwrap();
            got
        });
        send(&ours);
        drop(ours);
        reader.join().unwrap()
    })
}

#[test]
fn a_faulty_disk_sends_in_pieces_or_says_so() {
    let machine = Machine::new();
    let log = machine.open(LogConfig { zero_ahead_bytes: 0, ..small() });
    fill(&log, 0, 30, 100);
    let fetched = everything(&log);
    let right = fetched.read().unwrap();
    let on_send = |effect| Fault::new(FaultOn::Send, effect).path_contains(".log");
    // Short ones and signals are not seen from outside.
    machine.fs.inject(on_send(Effect::Short(7)).always());
    assert!(received(|socket| fetched.send_to(socket).unwrap()) == right);
    machine.fs.clear_faults();
    machine.fs.inject(on_send(Effect::Error(Errno::Eintr)).skip(1).times(5));
    assert!(received(|socket| fetched.send_to(socket).unwrap()) == right);
    machine.fs.clear_faults();
    // A failing disk is; send_part gives the number first and the error with the next call.
    machine.fs.inject(on_send(Effect::Error(Errno::Eio)).skip(2));
    let first_two = fetched.slices()[..2].iter().map(FileSlice::len).sum::<u64>();
    let got = received(|socket| {
        let failure = fetched.send_to(socket).unwrap_err();
        assert_eq!(failure.source.raw_os_error(), Some(nix::libc::EIO));
        assert_eq!(failure.path, fetched.slices()[2].path());
    });
    assert!(got == right[..usize::try_from(first_two).unwrap()]);
    machine.fs.inject(on_send(Effect::Error(Errno::Eio)).skip(2).times(2));
    let got = received(|socket| {
        let sent = fetched.send_part(socket, 0).unwrap();
        assert_eq!(sent, Sent { bytes: first_two, would_block: false });
        assert_eq!(fetched.send_part(socket, sent.bytes).unwrap_err().source.raw_os_error(), Some(nix::libc::EIO));
        let rest = fetched.send_part(socket, sent.bytes).unwrap();
        assert_eq!(sent.bytes + rest.bytes, fetched.bytes());
    });
    assert!(got == right);
    // A machine that is down sends nothing.
    machine.fs.crash_after(0);
    assert!(received(|socket| fetched.send_to(socket).unwrap_err()).is_empty());
}

/// A send is a call like any other: traced, and no step in which the machine could die, since it changes nothing.
#[test]
fn sends_are_traced_and_no_steps() {
    let machine = Machine::new();
    let log = machine.open(small());
    fill(&log, 0, 1, 20);
    let fetched = everything(&log);
    machine.fs.record_trace(true);
    let (steps, before) = (machine.fs.steps(), machine.fs.trace().len());
    received(|socket| fetched.send_to(socket).unwrap());
    let trace = machine.fs.trace();
    let [event] = &trace[before..] else { panic!("{:?}", &trace[before..]) };
    assert_eq!((event.operation, event.outcome), (Operation::Send, Outcome::Done(fetched.bytes())));
    assert_eq!((event.at, event.len), (0, fetched.bytes()));
    assert_eq!(machine.fs.steps(), steps);
}

/// Sent, read to a buffer, read into a vector, borrowed: always the same bytes, for any slices of any log, on a real disk
/// and on one with short and interrupted transfers. The failing seed is named.
#[test]
fn all_ways_to_the_bytes_agree() {
    let temp = tempfile::tempdir().unwrap();
    let mut borrowed = 0;
    for seed in 0..60_u64 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let unsteady = SimConfig { short_transfers: true, interrupts: true, ..SimConfig::default() };
        let simulated =
            Environment { fs: std::sync::Arc::new(SimFs::with_config(seed, unsteady)), ..Environment::default() };
        let (environment, dir) = if rng.bool() {
            (Environment::default(), temp.path().join(seed.to_string()))
        } else {
            (simulated, "/p-0".into())
        };
        let read_mode = if rng.bool() { ReadMode::Mapped } else { ReadMode::Positional };
        let config = LogConfig { segment_bytes: rng.u32(300..5000), read_mode, ..small() };
        let log = environment.open(&dir, config).unwrap();
        for n in 0..rng.i64(1..60) {
            fill(&log, n, n + 1, rng.usize(1..200));
        }
        for _ in 0..4 {
            let options = ReadOptions { max_bytes: rng.u64(0..8000), ..ReadOptions::default() };
            let fetched = log.read(at(rng.i64(0..log.log_end().value())), &options).unwrap();
            borrowed += agree(&fetched, &mut rng, seed);
        }
        log.close().unwrap();
    }
    assert!(borrowed > 20, "{borrowed}");
}

/// Returns how many slices were borrowed.
fn agree(fetched: &Fetched, rng: &mut fastrand::Rng, seed: u64) -> usize {
    let whole = fetched.read().unwrap();
    assert!(received(|socket| fetched.send_to(socket).unwrap()) == whole, "seed {seed}");
    let from = rng.usize(0..=whole.len());
    let tail = received(|socket| {
        let mut sent = from as u64;
        while sent < fetched.bytes() {
            sent += fetched.send_part(socket, sent).unwrap().bytes;
        }
    });
    assert!(tail == whole[from..], "seed {seed}");
    let (mut rest, mut borrowed) = (&whole[..], 0);
    for slice in fetched.slices() {
        let (right, after) = rest.split_at(usize::try_from(slice.len()).unwrap());
        rest = after;
        let mut buffer = vec![0xff; right.len() + rng.usize(0..3)];
        assert_eq!(slice.read_to(&mut buffer).unwrap(), right.len(), "seed {seed}");
        assert!(&buffer[..right.len()] == right, "seed {seed}");
        let mut vector = b"kept".to_vec();
        slice.read_into(&mut vector).unwrap();
        assert!(vector.strip_prefix(b"kept") == Some(right), "seed {seed}");
        assert!(received(|socket| slice.send_to(socket).unwrap()) == right, "seed {seed}");
        if let Some(bytes) = slice.borrow() {
            assert!(bytes == right, "seed {seed}");
            borrowed += 1;
        }
    }
    assert!(rest.is_empty(), "seed {seed}");
    borrowed
}
