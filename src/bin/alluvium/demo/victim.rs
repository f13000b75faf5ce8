//! The process that is killed, and the one that kills it.

use std::io::{self, BufRead, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use alluvium::record::BatchBuilder;
use alluvium::{AppendAs, Deadline, PartitionLog, TimestampMs};

use super::{Done, Text, config, epoch, progress};
use crate::Outcome;
use crate::rng::Rng;

/// Acknowledgements that the victim lives to give.
const ACKS_BEFORE_DEATH: u64 = 3000;
const RECORDS_MAX: u64 = 60;

#[derive(Debug, clap::Args)]
pub(crate) struct WriterArgs {
    /// Directory of the partition.
    dir: PathBuf,
    /// Timestamp of record 0.
    start: i64,
}

/// What is known of the victim's work. Ends are exclusive.
pub(super) struct Killed {
    pub(super) cached_end: u64,
    pub(super) durable_end: u64,
    pub(super) signal: i32,
}

/// Appends batches of all sizes and says of each, once it is acknowledged, how: `cached END` or `durable END`.
pub(crate) fn write_until_killed(args: &WriterArgs) -> Outcome {
    let log = PartitionLog::open(&args.dir, config())?;
    let text = Text::new(TimestampMs::new(args.start));
    let mut next = u64::try_from(log.log_end().value())?;
    let (mut builder, mut rng, mut out) = (BatchBuilder::new(), Rng::new(next), io::stdout());
    loop {
        let count = 1 + rng.below(RECORDS_MAX);
        let batch = text.batch(&mut builder, next, count)?;
        let appended = log.append(batch, AppendAs::Client { epoch: epoch() })?;
        next += count;
        let level = if rng.chance(10) {
            appended.wait_durable(Deadline::NEVER)?;
            "durable"
        } else {
            "cached"
        };
        // When nobody listens any more this fails, and the process ends on its own.
        out.write_all(format!("{level} {next}\n").as_bytes())?;
        out.flush()?;
    }
}

/// Runs this program again as a writer and kills it while it writes.
pub(super) fn run_and_kill(dir: &Path, text: &Text) -> Done<Killed> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("demo-writer")
        .arg(dir)
        .arg(text.start.value().to_string())
        .stdout(Stdio::piped())
        .spawn()?;
    let acks = child.stdout.take().ok_or("the writer's output cannot be read")?;
    let mut killed = Killed { cached_end: 0, durable_end: 0, signal: 0 };
    let bar = progress("acknowledgements", ACKS_BEFORE_DEATH);
    // What it said before it died was said: the pipe is read to its end, past the kill.
    for line in BufReader::new(acks).lines() {
        let line = line?;
        let (level, end) = line.split_once(' ').ok_or("the writer talks nonsense")?;
        killed.cached_end = end.parse()?;
        if level == "durable" {
            killed.durable_end = killed.cached_end;
        }
        bar.inc(1);
        if bar.position() == ACKS_BEFORE_DEATH {
            child.kill()?;
        }
    }
    bar.finish_and_clear();
    let status = child.wait()?;
    match status.signal() {
        Some(signal) => Ok(Killed { signal, ..killed }),
        None => Err(format!("the writer ended by itself ({status}) instead of being killed").into()),
    }
}
