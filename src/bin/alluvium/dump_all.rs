//! `dump-all`: what an embedder finds in every partition of a directory, whatever a crash has left there.

use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use alluvium::fs::{EntryKind, FileSystem as _, OsFileSystem};
use alluvium::record::BatchView;
use alluvium::{LogConfig, Offset, OpenError, PartitionLog, ReadError, ReadOptions};

use crate::Outcome;
use crate::output::hex;
use crate::workload::value_hash;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory whose subdirectories are partitions.
    dir: PathBuf,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let entries = match OsFileSystem.list(&args.dir) {
        // A crash may have come before the directory was made to last.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        listed => listed.map_err(|e| format!("{} cannot be listed: {e}", args.dir.display()))?,
    };
    let mut out = BufWriter::new(io::stdout().lock());
    for entry in entries {
        let is_ours = entry.kind == EntryKind::Directory && !entry.name.starts_with('.') && entry.name != "lost+found";
        if is_ours {
            dump_partition(&args.dir.join(&entry.name), &entry.name, &mut out)?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn complain(name: &str, what: &dyn std::fmt::Display) {
    let _ = writeln!(io::stderr(), "alluvium: {name}: {what}");
}

fn dump_partition(dir: &Path, name: &str, out: &mut impl Write) -> Result<(), Box<dyn std::error::Error>> {
    let log = match PartitionLog::open(dir, LogConfig::default()) {
        Ok(log) => log,
        Err(foreign @ OpenError::Foreign { .. }) => {
            complain(name, &foreign);
            return Ok(());
        }
        Err(error) => return Err(format!("{name}: {error}").into()),
    };
    for finding in log.recovery_report().damage() {
        complain(name, finding);
    }
    let quoted = serde_json::to_string(name)?;
    let mut next = log.log_start();
    while next < log.log_end() {
        next = match log.read(next, &ReadOptions::default()) {
            Ok(fetched) if fetched.is_empty() => break,
            Ok(fetched) => {
                let bytes = fetched.read()?;
                dump_batches(&bytes, name, &quoted, out)?.unwrap_or(next)
            }
            Err(ReadError::Damaged(damage)) => {
                complain(name, &damage);
                damage.offsets.end
            }
            Err(error) => return Err(format!("{name} at offset {next}: {error}").into()),
        };
    }
    let marks = log.marks();
    writeln!(out, r#"{{"p":{quoted},"start":{},"end":{}}}"#, marks.log_start, marks.log_end)?;
    log.close()?;
    Ok(())
}

/// Prints the records of whole batches; returns the offset after the last of them.
fn dump_batches(
    bytes: &[u8],
    name: &str,
    quoted: &str,
    out: &mut impl Write,
) -> Result<Option<Offset>, Box<dyn std::error::Error>> {
    let mut end = None;
    for batch in alluvium::record::batches(bytes, u32::MAX) {
        let batch = batch?;
        end = Some(batch.header().next_offset());
        if batch.header().attributes.is_control() {
            continue;
        }
        match records_of(&batch, quoted) {
            Ok(lines) => out.write_all(lines.as_bytes())?,
            // All or nothing of a batch: half of a damaged one would pass for the whole.
            Err(cause) => complain(name, &format_args!("batch at {}: {cause}", batch.header().base_offset)),
        }
    }
    Ok(end)
}

fn records_of(batch: &BatchView<'_>, quoted: &str) -> Result<String, Box<dyn std::error::Error>> {
    batch.verify_crc()?;
    let body = batch.body(LogConfig::default().max_decompressed_bytes)?;
    let mut lines = String::new();
    for record in body.records() {
        let record = record?;
        let key = record.key.map_or_else(|| "-".to_owned(), hex);
        let hash = value_hash(record.value);
        writeln!(lines, r#"{{"p":{quoted},"o":{},"k":"{key}","h":"{hash}"}}"#, record.offset)?;
    }
    Ok(lines)
}
