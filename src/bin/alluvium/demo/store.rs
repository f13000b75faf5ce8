//! The store part of the demo: many partitions over two directories, one process killed, recovery in parallel, idle
//! partitions put aside, one directory that fails.

use std::io::{self, BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use alluvium::clock::{Clock, SystemClock};
use alluvium::fs::{FileSystem as _, OsFileSystem};
use alluvium::record::BatchBuilder;
use alluvium::store::{Progress, Store, StoreConfig, StoreEvent, StoreOpening, TopicPartition};
use alluvium::{AppendAs, Deadline, LogConfig, Offset, ReadOptions, TimestampMs};

use super::{Done, Text, epoch, progress};
use crate::Outcome;
use crate::output::{bytes, grouped, rate, time};

const PARTITIONS: i32 = 32;
/// Rounds over all partitions that the victim acknowledges as durable before it dies.
const ROUNDS_BEFORE_DEATH: u64 = 12;
const BATCH_RECORDS: u64 = 200;
/// Short, so that a demo sees it.
const IDLE_AFTER: Duration = Duration::from_millis(300);
/// For what takes some hundred milliseconds on a machine that is not busy.
const PATIENCE: Duration = Duration::from_secs(20);
const DISKS: [&str; 2] = ["disk-a", "disk-b"];

#[derive(Debug, clap::Args)]
pub(crate) struct WriterArgs {
    /// Where the data directories are made.
    dir: PathBuf,
    /// Timestamp of record 0.
    start: i64,
}

fn store_config(dir: &Path) -> StoreConfig {
    StoreConfig {
        directories: DISKS.iter().map(|disk| dir.join(disk)).collect(),
        idle_after: Some(IDLE_AFTER),
        // Writing these lists is what shows that a directory is gone.
        high_watermark_checkpoint_interval: Duration::from_millis(100),
        housekeeping_interval: Duration::from_millis(50),
        // A demo must run where there is little space, too.
        space_floor_bytes: 0,
        reserve_bytes: 0,
        ..StoreConfig::default()
    }
}

fn named(number: i32) -> Done<TopicPartition> {
    Ok(TopicPartition::new("demo", number)?)
}

/// Appends a batch to every partition and waits for all of them, round after round, saying so after each.
pub(crate) fn write_until_killed(args: &WriterArgs) -> Outcome {
    let store = Store::open(store_config(&args.dir))?;
    let text = Text::new(TimestampMs::new(args.start));
    let names: Vec<TopicPartition> = (0..PARTITIONS).map(named).collect::<Done<_>>()?;
    let partitions =
        names.iter().map(|name| store.create(name, LogConfig::default())).collect::<Result<Vec<_>, _>>()?;
    let (mut builder, mut out) = (BatchBuilder::new(), io::stdout());
    for round in 0.. {
        let mut waiting = Vec::new();
        for partition in &partitions {
            let batch = text.batch(&mut builder, round * BATCH_RECORDS, BATCH_RECORDS)?;
            waiting.push(partition.append(batch, AppendAs::Client { epoch: epoch() })?);
        }
        for appended in waiting {
            appended.wait_durable(Deadline::NEVER)?;
        }
        // When nobody listens any more this fails, and the process ends on its own.
        out.write_all(format!("{}\n", (round + 1) * BATCH_RECORDS).as_bytes())?;
        out.flush()?;
    }
    Ok(std::process::ExitCode::SUCCESS)
}

/// Runs the part; returns what was wrong.
pub(super) fn run(dir: &Path, text: &Text, clock: &SystemClock) -> Done<Vec<String>> {
    let mut out = io::stdout();
    // The data directories are the store's to make; what is above them is not.
    OsFileSystem.create_dir(dir)?;
    let durable_end = run_and_kill(dir, text)?;
    writeln!(
        out,
        "  a process wrote {PARTITIONS} partitions on 2 directories and was killed; {} records of each were durable",
        grouped(durable_end)
    )?;
    let bar = progress("recovery", 0);
    let shown = bar.clone();
    let watching = Progress::with_listener(move |now| {
        shown.set_length(now.partitions as u64);
        shown.set_position(now.done as u64);
    });
    let started = clock.monotonic();
    let store = StoreOpening::new(store_config(dir)).progress(&watching).open()?;
    let took = clock.monotonic().saturating_sub(started);
    bar.finish_and_clear();
    let opening = store.health().opening;
    writeln!(
        out,
        "  recovered {} partitions, {} scanned, by {} threads in {} ({:.0} MB/s)",
        opening.opened,
        bytes(opening.scanned_bytes),
        2 * store_config(dir).recovery_threads,
        time(took),
        rate(opening.scanned_bytes, took) / 1e6,
    )?;
    let mut problems = check(&store, durable_end)?;
    problems.extend(park(&store, clock)?);
    problems.extend(fail_one(&store, text, dir, clock)?);
    let closed = store.close(Deadline::NEVER)?;
    let metrics = store.metrics();
    writeln!(
        out,
        "  {} partitions closed cleanly; meanwhile {} logs were opened and {} put aside",
        closed.clean,
        grouped(metrics.work.opened_logs),
        grouped(metrics.work.parked_logs),
    )?;
    if closed.clean != usize::try_from(PARTITIONS)? {
        problems.push(format!("not closed cleanly: {:?}", closed.unclean));
    }
    Ok(problems)
}

fn run_and_kill(dir: &Path, text: &Text) -> Done<u64> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("demo-store-writer")
        .arg(dir)
        .arg(text.start.value().to_string())
        .stdout(Stdio::piped())
        .spawn()?;
    let said = child.stdout.take().ok_or("the writer's output cannot be read")?;
    let (mut durable_end, mut rounds) = (0, 0);
    for line in BufReader::new(said).lines() {
        durable_end = line?.parse()?;
        rounds += 1;
        if rounds == ROUNDS_BEFORE_DEATH {
            child.kill()?;
        }
    }
    child.wait()?;
    if rounds < ROUNDS_BEFORE_DEATH { Err("the writer ended by itself".into()) } else { Ok(durable_end) }
}

/// Every record that was acknowledged has to be there.
fn check(store: &Store, durable_end: u64) -> Done<Vec<String>> {
    let mut problems = Vec::new();
    for name in store.partitions() {
        let end = store.get(&name).ok_or("a partition went missing")?.marks()?.log_end;
        if u64::try_from(end.value())? < durable_end {
            problems.push(format!("{name} ends at {end}, and {durable_end} records were durable"));
        }
    }
    if store.partitions().len() != usize::try_from(PARTITIONS)? {
        problems.push(format!("{} partitions were found", store.partitions().len()));
    }
    Ok(problems)
}

/// Waits until the housekeeper has put all partitions aside, and uses one again.
fn park(store: &Store, clock: &SystemClock) -> Done<Option<String>> {
    let started = clock.monotonic();
    let (before, events) = (store.metrics(), store.subscribe(1));
    while store.metrics().partitions.open > 0 {
        if clock.monotonic().saturating_sub(started) > PATIENCE {
            return Ok(Some(format!("after {} idle: {:?}", time(PATIENCE), store.metrics().partitions)));
        }
        // Nothing is expected to happen meanwhile.
        let _ = events.next(Duration::from_millis(20).into());
    }
    let (after, parked_in) = (store.metrics(), clock.monotonic().saturating_sub(started));
    let started = clock.monotonic();
    let partition = store.get(&named(0)?).ok_or("a partition went missing")?;
    let read = partition.read(Offset::ZERO, &ReadOptions::default())?;
    writeln!(
        io::stdout(),
        "  idle: {} partitions put aside within {}, {} open files instead of {}; the first read of one took {} ({})",
        after.partitions.idle,
        time(parked_in),
        after.descriptors.open,
        before.descriptors.open,
        time(clock.monotonic().saturating_sub(started)),
        bytes(read.bytes()),
    )?;
    Ok(None)
}

/// Takes one directory from under the store, as a disk that drops out would be, and gives it back.
fn fail_one(store: &Store, text: &Text, dir: &Path, clock: &SystemClock) -> Done<Vec<String>> {
    let (disk, elsewhere) = (dir.join(DISKS[1]), dir.join("unplugged"));
    let (events, mut problems) = (store.subscribe(16), Vec::new());
    // Opens all of them. What is written once more after that gives the lists something new to say.
    append_to_all(store, text)?;
    OsFileSystem.rename(&disk, &elsewhere)?;
    let started = clock.monotonic();
    append_to_all(store, text)?;
    let is_offline = |event: &StoreEvent| matches!(event, StoreEvent::DirectoryOffline { .. });
    let told = std::iter::from_fn(|| events.next(PATIENCE.into())).find(is_offline);
    let took = clock.monotonic().saturating_sub(started);
    let served = append_to_all(store, text)?;
    let refused = store.partitions().len().saturating_sub(served);
    if told.is_none() || served == 0 || refused == 0 {
        problems.push(format!("one directory is gone: {served} partitions serve and {refused} do not"));
    }
    OsFileSystem.rename(&elsewhere, &disk)?;
    let report = store.reopen_dir(&disk)?;
    let health = store.health();
    if !health.is_well() {
        problems.push(format!("after the directory came back: {:?}", health.partitions));
    }
    writeln!(
        io::stdout(),
        "  one directory went away: noticed within {}; {served} partitions went on, {refused} were refused; back with {}",
        time(took),
        report.partitions,
    )?;
    Ok(problems)
}

/// Appends a record to each partition; returns how many took it.
fn append_to_all(store: &Store, text: &Text) -> Done<usize> {
    let (mut builder, mut taken) = (BatchBuilder::new(), 0);
    for name in store.partitions() {
        let batch = text.batch(&mut builder, 0, 1)?;
        let partition = store.get(&name).ok_or("a partition went missing")?;
        taken += usize::from(partition.append(batch, AppendAs::Client { epoch: epoch() }).is_ok());
    }
    Ok(taken)
}
