//! `verify`: what is wrong with a directory, for people and for scripts.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use alluvium::inspect::{Finding, PartitionFiles, Report, VerifyOptions};
use serde_json::json;

use crate::Outcome;
use crate::output::{bytes, grouped};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory of the partition.
    dir: PathBuf,
    /// `index.interval.bytes` of the log, if it never changed: makes the check of the offset indexes exact.
    #[arg(long, value_name = "BYTES")]
    index_interval: Option<u32>,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let options = VerifyOptions { index_interval_bytes: args.index_interval, ..VerifyOptions::default() };
    let report = PartitionFiles::open(&args.dir)?.verify(&options)?;
    let out = BufWriter::new(io::stdout().lock());
    if args.json {
        print_json(out, &report)?;
    } else {
        print_text(out, &report)?;
    }
    Ok(if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn print_text(mut out: impl Write, report: &Report) -> io::Result<()> {
    for finding in &report.problems {
        writeln!(out, "damage  {finding}")?;
    }
    for finding in &report.notes {
        writeln!(out, "note    {finding}")?;
    }
    if report.omitted > 0 {
        writeln!(out, "        {} more findings are not listed", grouped(report.omitted))?;
    }
    let sealed = report.segments.saturating_sub(1);
    if sealed > 0 {
        let (intact, none) = (grouped(report.intact), grouped(report.unprotected));
        writeln!(
            out,
            "        sums: {intact} of {} sealed segments are as they were sealed, {none} have none",
            grouped(sealed)
        )?;
    }
    let verdict = match report.problems.len() {
        0 => "sound".to_owned(),
        1 => "1 problem".to_owned(),
        n => format!("{n} problems"),
    };
    writeln!(
        out,
        "{verdict}: {} segments, {}, {} batches, {} records at offsets {}..{}",
        grouped(report.segments),
        bytes(report.bytes),
        grouped(report.batches),
        grouped(report.records),
        report.log_start,
        report.log_end,
    )?;
    out.flush()
}

fn print_json(mut out: impl Write, report: &Report) -> io::Result<()> {
    let line = |severity: &str, finding: &Finding| {
        json!({
            "severity": severity, "file": finding.file.display().to_string(), "position": finding.position.value(),
            "offset": finding.offset.map(alluvium::Offset::value), "finding": finding.kind.to_string(),
        })
    };
    for finding in &report.problems {
        writeln!(out, "{}", line("damage", finding))?;
    }
    for finding in &report.notes {
        writeln!(out, "{}", line("note", finding))?;
    }
    let summary = json!({
        "sound": report.is_sound(), "problems": report.problems.len(), "notes": report.notes.len(),
        "omitted": report.omitted, "segments": report.segments, "bytes": report.bytes, "batches": report.batches,
        "records": report.records, "log_start": report.log_start.value(), "log_end": report.log_end.value(),
        "durable_end": report.durable_end.map(alluvium::Offset::value), "was_clean": report.was_clean,
        "intact": report.intact, "unprotected": report.unprotected,
    });
    writeln!(out, "{summary}")?;
    out.flush()
}
