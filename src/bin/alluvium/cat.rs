//! `cat`: records, as they lie in the files, while others may be writing.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use alluvium::inspect::{Followed, Limits, PartitionFiles};
use alluvium::record::{BatchHeader, BatchView, Record};
use alluvium::{Offset, TimestampMs};
use serde_json::{Map, Value};

use crate::Outcome;
use crate::output::put_bytes;

/// How long `-f` waits between two looks.
const POLL: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory of the partition.
    dir: PathBuf,
    /// First offset to print; the log start if left out.
    #[arg(long, value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..), conflicts_with = "from_timestamp")]
    from: Option<i64>,
    /// Start at the first record with at least this timestamp (milliseconds since 1970).
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    from_timestamp: Option<i64>,
    /// Print no more than this many records.
    #[arg(long, value_name = "N")]
    max: Option<u64>,
    /// Go on as the log grows.
    #[arg(short, long)]
    follow: bool,
    /// Print keys too: `key<TAB>value`.
    #[arg(long)]
    keys: bool,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

/// What is still to be printed.
struct Printer<'a, W> {
    args: &'a Args,
    out: W,
    from: Offset,
    /// Records before the first one with this timestamp are passed over.
    awaited: Option<TimestampMs>,
    left: u64,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let files = PartitionFiles::open(&args.dir)?;
    let from = args.from.and_then(Offset::new).unwrap_or_default();
    let mut follow = files.follow(from);
    let mut printer = Printer {
        args,
        out: BufWriter::new(io::stdout().lock()),
        from,
        awaited: args.from_timestamp.map(TimestampMs::new),
        left: args.max.unwrap_or(u64::MAX),
    };
    while printer.left > 0 {
        match follow.next_batch()? {
            Some(Followed::Batch { header, bytes, .. }) => printer.print_batch(&header, &bytes)?,
            Some(Followed::Skipped(damage)) => complain(&damage),
            Some(Followed::Unread(corruption)) => complain(&corruption),
            Some(Followed::Cut { to }) => complain(&format_args!("the log was cut; it ends at offset {to} now")),
            Some(_) => {}
            None if args.follow => {
                printer.out.flush()?;
                // Nobody sends: this is a pause.
                let _ = crossbeam::channel::after(POLL).recv();
            }
            None => break,
        }
    }
    printer.out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Says what is missing from the output, where it does not end up in it.
fn complain(what: &dyn std::fmt::Display) {
    let _ = writeln!(io::stderr(), "alluvium: {what}");
}

impl<W: Write> Printer<'_, W> {
    fn print_batch(&mut self, header: &BatchHeader, bytes: &[u8]) -> io::Result<()> {
        let is_early = self.awaited.is_some_and(|awaited| header.max_timestamp < awaited);
        if header.attributes.is_control() || is_early {
            return Ok(());
        }
        let body =
            BatchView::parse(bytes, u32::MAX).and_then(|view| view.body(Limits::default().decompressed_bytes_max));
        let body = match body {
            Ok(body) => body,
            Err(cause) => {
                complain(&format_args!("batch at offset {} cannot be read: {cause}", header.base_offset));
                return Ok(());
            }
        };
        for record in body.records() {
            match record {
                Ok(record) if self.left > 0 => self.print_record(&record)?,
                Ok(_) => return Ok(()),
                Err(cause) => {
                    complain(&format_args!("the rest of the batch at offset {} is bad: {cause}", header.base_offset));
                }
            }
        }
        Ok(())
    }

    fn print_record(&mut self, record: &Record<'_>) -> io::Result<()> {
        if record.offset < self.from || self.awaited.is_some_and(|awaited| record.timestamp < awaited) {
            return Ok(());
        }
        self.awaited = None;
        self.left -= 1;
        if self.args.json {
            return writeln!(self.out, "{}", Value::Object(record_object(record)));
        }
        if let (true, Some(key)) = (self.args.keys, record.key) {
            self.out.write_all(key)?;
            self.out.write_all(b"\t")?;
        }
        self.out.write_all(record.value.unwrap_or_default())?;
        self.out.write_all(b"\n")
    }
}

/// A record as JSON. Null keys and values are null; what is not text comes as `key_hex` or `value_hex`.
pub(crate) fn record_object(record: &Record<'_>) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("offset".to_owned(), record.offset.value().into());
    object.insert("timestamp".to_owned(), record.timestamp.value().into());
    put_bytes(&mut object, "key", record.key);
    put_bytes(&mut object, "value", record.value);
    let headers: Vec<Value> = record
        .headers()
        .map(|(key, value)| {
            let mut header = Map::new();
            header.insert("key".to_owned(), key.into());
            put_bytes(&mut header, "value", value);
            Value::Object(header)
        })
        .collect();
    if !headers.is_empty() {
        object.insert("headers".to_owned(), headers.into());
    }
    object
}
