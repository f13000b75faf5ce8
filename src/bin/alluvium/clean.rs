//! `clean`: removes what newer records of the same keys have superseded, or says what that would take.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use alluvium::clean::plan::{Decision, Outlook};
use alluvium::clean::{CleanMode, MEMORY_BYTES_MIN};
use alluvium::inspect::{CleanEstimate, CleanSurvey, PartitionFiles};
use alluvium::{CleanError, CleanOptions, Cleaned, PartitionLog};
use serde_json::{Value, json};

use crate::Outcome;
use crate::output::{bytes, grouped, time};
use crate::settings::{Settings, size};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory of the partition.
    dir: PathBuf,
    /// Memory for offset map, buffers and bitmaps, at least 1M.
    #[arg(long, value_name = "BYTES", default_value = "64M", value_parser = size)]
    budget: u64,
    /// Disk for keys that do not fit the memory; 0 cleans in several passes instead. All that is free if left out.
    #[arg(long, value_name = "BYTES", value_parser = size)]
    spill: Option<u64>,
    /// Say what a pass would read, write and free, and change nothing. Takes no lock.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    settings: Settings,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let files = PartitionFiles::open(&args.dir)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut options = CleanOptions::default().with_memory(args.budget);
    options.spill_bytes_max = args.spill;
    if args.budget < MEMORY_BYTES_MIN {
        return Err(CleanError::Options { memory_bytes: args.budget, min: MEMORY_BYTES_MIN }.into());
    }
    if args.dry_run {
        let survey = files.survey(&args.settings.survey()?)?;
        let estimate = survey.estimate(args.budget, args.spill != Some(0))?;
        if args.json {
            writeln!(out, "{}", estimate_json(&survey, &estimate))?;
        } else {
            print_estimate(&mut out, &survey, &estimate)?;
        }
        out.flush()?;
        return Ok(code(survey.damage().is_empty()));
    }
    let log = PartitionLog::open(&args.dir, args.settings.config()?)?;
    let cleaned = log.clean(&options);
    // Groups that were finished before an error are in place: close cleanly, and then tell.
    let closed = log.close();
    let cleaned = cleaned?;
    if args.json {
        writeln!(out, "{}", cleaned_json(&cleaned))?;
    } else {
        print_cleaned(&mut out, &cleaned)?;
    }
    out.flush()?;
    closed?;
    Ok(code(cleaned.left_alone.is_empty()))
}

/// 1 says that damage was left as it is.
fn code(is_sound: bool) -> ExitCode {
    if is_sound { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

fn mode_name(mode: CleanMode) -> &'static str {
    match mode {
        CleanMode::Map => "map",
        CleanMode::Spill => "spill",
        CleanMode::Partial => "partial",
        _ => "other",
    }
}

/// Why the log is due or not.
pub(crate) fn reasons(outlook: &Outlook) -> (bool, Vec<String>) {
    match &outlook.decision {
        Decision::Due { because, .. } => (true, because.iter().map(ToString::to_string).collect()),
        Decision::NotDue { reasons } => (false, reasons.iter().map(ToString::to_string).collect()),
    }
}

fn print_estimate(out: &mut impl Write, survey: &CleanSurvey, estimate: &CleanEstimate) -> io::Result<()> {
    let (is_due, reasons) = reasons(survey.outlook());
    let range = &survey.outlook().range;
    writeln!(out, "{}: {}", if is_due { "due" } else { "not due" }, reasons.join("; "))?;
    writeln!(
        out,
        "  clean    {}..{}  {}\n  dirty    {}..{}  {}\n  held     {}..{}  {}",
        range.log_start,
        range.first_dirty,
        bytes(range.clean_bytes),
        range.first_dirty,
        range.secure_to.max(range.first_dirty),
        bytes(range.dirty_bytes),
        range.secure_to,
        survey.marks().log_end,
        bytes(range.held_bytes),
    )?;
    let about = if estimate.sampled > 1 { "about " } else { "" };
    writeln!(
        out,
        "  keys     {about}{} dirty, {} fit {}: mode {}",
        grouped(estimate.dirty_keys),
        grouped(estimate.keys_max),
        bytes(estimate.memory_bytes),
        mode_name(estimate.mode),
    )?;
    writeln!(out, "  records  {about}{} of {} go", grouped(estimate.records_removed), grouped(estimate.records))?;
    for (name, count) in [
        ("read", estimate.bytes_read),
        ("write", estimate.bytes_written),
        ("spill", estimate.bytes_spilled),
        ("free", estimate.bytes_freed),
    ] {
        writeln!(out, "  {name:<7}  about {}", bytes(count))?;
    }
    for damage in survey.damage() {
        writeln!(out, "damage, left as it is: {damage}")?;
    }
    Ok(())
}

fn estimate_json(survey: &CleanSurvey, estimate: &CleanEstimate) -> Value {
    let (is_due, reasons) = reasons(survey.outlook());
    let range = &survey.outlook().range;
    json!({
        "dry_run": true, "due": is_due, "reasons": reasons, "mode": mode_name(estimate.mode),
        "log_start": range.log_start.value(), "first_dirty": range.first_dirty.value(),
        "first_uncleanable": range.secure_to.value(), "clean_bytes": range.clean_bytes,
        "dirty_bytes": range.dirty_bytes, "held_bytes": range.held_bytes, "memory_bytes": estimate.memory_bytes,
        "keys_max": estimate.keys_max, "dirty_keys": estimate.dirty_keys, "sampled": estimate.sampled,
        "records": estimate.records, "records_removed": estimate.records_removed,
        "bytes_read": estimate.bytes_read, "bytes_written": estimate.bytes_written,
        "bytes_spilled": estimate.bytes_spilled, "bytes_freed": estimate.bytes_freed,
        "damage": survey.damage().iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn print_cleaned(out: &mut impl Write, cleaned: &Cleaned) -> io::Result<()> {
    if cleaned.passes == 0 {
        writeln!(out, "nothing to clean: everything below {} is clean", cleaned.upper)?;
    } else {
        writeln!(
            out,
            "clean to {}: {} freed of {}, {} records kept, in {}",
            cleaned.upper,
            bytes(cleaned.bytes_freed),
            bytes(cleaned.bytes_before),
            grouped(cleaned.records_kept),
            time(cleaned.took.max(Duration::from_micros(1))),
        )?;
        writeln!(
            out,
            "  {} {} ({}), {} segments became {}, {} keys; read {}, wrote {}, spilled {}; {} of memory",
            cleaned.passes,
            if cleaned.passes == 1 { "pass" } else { "passes" },
            mode_name(cleaned.mode),
            cleaned.segments_before,
            cleaned.segments_after,
            grouped(cleaned.keys),
            bytes(cleaned.bytes_read),
            bytes(cleaned.bytes_written),
            bytes(cleaned.bytes_spilled),
            bytes(cleaned.memory_peak),
        )?;
    }
    for left in &cleaned.left_alone {
        let (from, to) = (left.damaged.start, left.damaged.end);
        writeln!(out, "damage, left as it is: offsets {from}..{to} in the segment at {}", left.base)?;
    }
    Ok(())
}

fn cleaned_json(cleaned: &Cleaned) -> Value {
    let left_alone: Vec<Value> = cleaned
        .left_alone
        .iter()
        .map(|left| {
            json!({
                "segment": left.base.value(), "from": left.damaged.start.value(), "to": left.damaged.end.value(),
            })
        })
        .collect();
    json!({
        "dry_run": false, "mode": mode_name(cleaned.mode), "passes": cleaned.passes, "resumed": cleaned.resumed,
        "log_start": cleaned.from.value(), "first_dirty_before": cleaned.first_dirty.value(),
        "first_dirty": cleaned.upper.value(), "bytes_read": cleaned.bytes_read,
        "bytes_written": cleaned.bytes_written, "bytes_spilled": cleaned.bytes_spilled,
        "bytes_freed": cleaned.bytes_freed, "bytes_before": cleaned.bytes_before,
        "segments_before": cleaned.segments_before, "segments_after": cleaned.segments_after,
        "records": cleaned.records_read, "records_kept": cleaned.records_kept,
        "records_keyless": cleaned.records_keyless, "tombstones_removed": cleaned.tombstones_removed,
        "keys": cleaned.keys, "memory_peak": cleaned.memory_peak, "expanded_peak": cleaned.expanded_peak,
        "micros": cleaned.took.as_micros(),
        "next_horizon": cleaned.next_horizon.map(alluvium::TimestampMs::value), "left_alone": left_alone,
    })
}
