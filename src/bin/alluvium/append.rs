//! `append`: lines of standard input become records.

use std::io::{self, BufRead, BufReader, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use alluvium::clock::{Clock, SystemClock};
use alluvium::record::{BatchBuilder, Compression};
use alluvium::{AppendAs, Deadline, LeaderEpoch, LogConfig, Offset, PartitionLog};
use clap::ValueEnum;
use serde_json::json;

use crate::Outcome;
use crate::output::{bytes, grouped};

/// Batches stay well below `max.message.bytes`.
const BATCH_BYTES_MAX: usize = 1_000_000;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory of the partition; made if missing.
    dir: PathBuf,
    /// What to wait for after each batch.
    #[arg(long, value_enum, default_value_t)]
    ack: Ack,
    /// How batches are compressed.
    #[arg(long, value_enum, default_value_t)]
    codec: Codec,
    /// Records a batch.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    batch_records: u32,
    /// Leader epoch to stamp; must not be lower than the newest in the log.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(i32).range(0..))]
    epoch: i32,
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
}

/// Acknowledgement levels.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Ack {
    /// In the page cache: survives the death of the process.
    #[default]
    Cached,
    /// Synced: survives a power loss.
    Durable,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Codec {
    #[default]
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Codec {
    fn compression(self) -> Compression {
        match self {
            Self::None => Compression::None,
            Self::Gzip => Compression::Gzip,
            Self::Snappy => Compression::Snappy,
            Self::Lz4 => Compression::Lz4,
            Self::Zstd => Compression::Zstd,
        }
    }
}

/// What was appended so far.
struct Sum {
    records: u64,
    batches: u64,
    first: Offset,
    end: Offset,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let log = PartitionLog::open(&args.dir, LogConfig::default())?;
    let mut sum = Sum { records: 0, batches: 0, first: log.log_end(), end: log.log_end() };
    let appended = append_lines(args, &log, &mut sum);
    // What went in before an error stays in: close cleanly and tell.
    let durable_end = log.durable_end();
    let appended_bytes = log.metrics().appended_bytes.value();
    let closed = log.close();
    print_sum(args, &sum, durable_end, appended_bytes)?;
    appended?;
    closed?;
    Ok(ExitCode::SUCCESS)
}

fn append_lines(args: &Args, log: &PartitionLog, sum: &mut Sum) -> Result<(), Box<dyn std::error::Error>> {
    let clock = SystemClock::new();
    let mut input = BufReader::with_capacity(1 << 20, io::stdin().lock());
    let mut builder = BatchBuilder::new();
    builder.compression(args.codec.compression());
    let mut line = Vec::new();
    while input.read_until(b'\n', &mut line)? > 0 {
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        let is_full = builder.count() >= args.batch_records || builder.bytes() + line.len() > BATCH_BYTES_MAX;
        if builder.count() > 0 && is_full {
            append_batch(args, log, &mut builder, sum)?;
        }
        let (key, value) = split(&line);
        builder.record(clock.wall(), key, Some(value));
        line.clear();
    }
    if builder.count() > 0 {
        append_batch(args, log, &mut builder, sum)?;
    }
    Ok(())
}

fn append_batch(
    args: &Args,
    log: &PartitionLog,
    builder: &mut BatchBuilder,
    sum: &mut Sum,
) -> Result<(), Box<dyn std::error::Error>> {
    let records = u64::from(builder.count());
    let epoch = LeaderEpoch::new(args.epoch).unwrap_or_default();
    let appended = log.append(builder.build()?, AppendAs::Client { epoch })?;
    sum.records += records;
    sum.batches += 1;
    sum.end = appended.end();
    if matches!(args.ack, Ack::Durable) {
        appended.wait_durable(Deadline::NEVER)?;
    }
    Ok(())
}

/// What stands before the first tab is the key.
fn split(line: &[u8]) -> (Option<&[u8]>, &[u8]) {
    match line.iter().position(|byte| *byte == b'\t').and_then(|at| line.split_at_checked(at)) {
        Some((key, rest)) => (Some(key), rest.get(1..).unwrap_or_default()),
        None => (None, line),
    }
}

fn print_sum(args: &Args, sum: &Sum, durable_end: Offset, appended_bytes: u64) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let ack = match args.ack {
        Ack::Cached => "cached",
        Ack::Durable => "durable",
    };
    if args.json {
        let line = json!({
            "records": sum.records, "batches": sum.batches, "bytes": appended_bytes, "first": sum.first.value(),
            "end": sum.end.value(), "durable_end": durable_end.value(), "ack": ack,
        });
        return writeln!(out, "{line}");
    }
    writeln!(
        out,
        "{} records in {} batches ({}) at offsets {}..{}, acknowledged {ack}; durable end {durable_end} before closing",
        grouped(sum.records),
        grouped(sum.batches),
        bytes(appended_bytes),
        sum.first,
        sum.end,
    )
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn the_first_tab_splits() {
        assert_eq!(split(b"k\tv\tw"), (Some(&b"k"[..]), &b"v\tw"[..]));
        assert_eq!(split(b"\tv"), (Some(&b""[..]), &b"v"[..]));
        assert_eq!(split(b"v"), (None, &b"v"[..]));
    }
}
