//! `explain`: why a log is cleaned or not, and why a record stays or goes.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use alluvium::inspect::{Asked, CleanSurvey, KeyRecords, PartitionFiles, RecordVerdict};
use alluvium::{Offset, TimestampMs};
use serde_json::{Map, Value, json};

use crate::Outcome;
use crate::clean::reasons;
use crate::output::{Table, bytes, grouped, put_bytes, readable};
use crate::settings::Settings;

/// Of a key, so much is shown in a line.
const KEY_CHARS: usize = 40;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory of the partition. No lock is taken, and nothing is changed.
    dir: PathBuf,
    /// Say why the record at this offset stays or goes. Exit 1 when there is none.
    #[arg(long, value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..), conflicts_with = "key")]
    offset: Option<i64>,
    /// Say so of the records with this key. Exit 1 when there are none.
    #[arg(long, value_name = "TEXT")]
    key: Option<String>,
    /// Of a key, show no more than this many records, the newest ones.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    max: u32,
    #[command(flatten)]
    settings: Settings,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let survey = PartitionFiles::open(&args.dir)?.survey(&args.settings.survey()?)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let is_there = if let Some(offset) = args.offset.and_then(Offset::new) {
        let asked = survey.record(offset)?;
        print_asked(&mut out, args.json, offset, &asked)?;
        matches!(asked, Asked::Record(_))
    } else if let Some(key) = &args.key {
        let found = survey.records_of_key(key.as_bytes(), args.max as usize)?;
        print_key(&mut out, args.json, key, &found)?;
        found.total > 0
    } else {
        if args.json {
            print_log_json(&mut out, &survey)?;
        } else {
            print_log(&mut out, &survey)?;
        }
        true
    };
    out.flush()?;
    Ok(if is_there { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn print_log(out: &mut impl Write, survey: &CleanSurvey) -> io::Result<()> {
    let (is_due, reasons) = reasons(survey.outlook());
    writeln!(out, "{}: {}", if is_due { "due" } else { "not due" }, reasons.join("; "))?;
    let mut table = Table::new(&["FATE", "FROM", "TO", "BYTES"]);
    for stretch in survey.stretches() {
        let (from, to) = (stretch.offsets.start.to_string(), stretch.offsets.end.to_string());
        table.row(vec![stretch.fate.name().to_owned(), from, to, bytes(stretch.bytes)]);
    }
    write!(out, "{table}")?;
    for stretch in survey.stretches() {
        for reason in stretch.fate.reasons() {
            writeln!(out, "{} {}..{}: {reason}", stretch.fate.name(), stretch.offsets.start, stretch.offsets.end)?;
        }
    }
    if let Some(time) = survey.outlook().next_look {
        writeln!(out, "time alone changes something at {time}")?;
    }
    for damage in survey.damage() {
        writeln!(out, "damage: {damage}")?;
    }
    Ok(())
}

fn print_log_json(out: &mut impl Write, survey: &CleanSurvey) -> io::Result<()> {
    for stretch in survey.stretches() {
        let line = json!({
            "from": stretch.offsets.start.value(), "to": stretch.offsets.end.value(), "bytes": stretch.bytes,
            "fate": stretch.fate.name(), "reasons": stretch.fate.reasons(),
        });
        writeln!(out, "{line}")?;
    }
    let (is_due, reasons) = reasons(survey.outlook());
    let (range, marks) = (&survey.outlook().range, survey.marks());
    let line = json!({
        "due": is_due, "reasons": reasons, "log_start": marks.log_start.value(),
        "first_dirty": range.first_dirty.value(), "first_uncleanable": range.secure_to.value(),
        "last_stable": marks.last_stable.value(), "high_watermark": marks.high_watermark.value(),
        "durable_end": marks.durable_end.value(), "log_end": marks.log_end.value(),
        "clean_bytes": range.clean_bytes, "dirty_bytes": range.dirty_bytes, "held_bytes": range.held_bytes,
        "dirty_ratio": range.dirty_ratio(), "next_look": survey.outlook().next_look.map(TimestampMs::value),
        "damage": survey.damage().iter().map(ToString::to_string).collect::<Vec<_>>(),
    });
    writeln!(out, "{line}")
}

fn print_asked(out: &mut impl Write, is_json: bool, offset: Offset, asked: &Asked) -> io::Result<()> {
    let why = match asked {
        Asked::Record(found) if is_json => return writeln!(out, "{}", verdict_json(found)),
        Asked::Record(found) => return print_verdict(out, found),
        Asked::Unreadable(range) => format!("damage: offsets {}..{} cannot be read", range.start, range.end),
        Asked::BelowLogStart(start) => format!("deleted: the log starts at {start}"),
        Asked::PastLogEnd(end) => format!("not there yet: the log ends at {end}"),
        Asked::Gone { next: Some(next) } => {
            format!("no record: removed by cleaning, or never there; the next one is at {next}")
        }
        Asked::Gone { next: None } => "no record: removed by cleaning, or never there; none comes after it".to_owned(),
        _ => "no record".to_owned(),
    };
    if is_json {
        return writeln!(out, "{}", json!({ "offset": offset.value(), "found": false, "why": why }));
    }
    writeln!(out, "{offset}: {why}")
}

fn print_verdict(out: &mut impl Write, found: &RecordVerdict) -> io::Result<()> {
    let what = if found.is_tombstone { ", tombstone" } else { "" };
    let key = readable(found.key.as_deref(), KEY_CHARS);
    writeln!(out, "{}: key {key}, time {}{what}: {}", found.offset, found.timestamp, found.fate)
}

fn verdict_json(found: &RecordVerdict) -> Value {
    let mut object = Map::new();
    object.insert("offset".to_owned(), found.offset.value().into());
    object.insert("found".to_owned(), true.into());
    object.insert("timestamp".to_owned(), found.timestamp.value().into());
    put_bytes(&mut object, "key", found.key.as_deref());
    object.insert("tombstone".to_owned(), found.is_tombstone.into());
    object.insert("bytes".to_owned(), found.bytes.into());
    object.insert("removed".to_owned(), found.fate.is_removed().into());
    object.insert("fate".to_owned(), found.fate.name().into());
    object.insert("why".to_owned(), found.fate.to_string().into());
    Value::Object(object)
}

fn print_key(out: &mut impl Write, is_json: bool, key: &str, found: &KeyRecords) -> io::Result<()> {
    if is_json {
        for record in &found.records {
            writeln!(out, "{}", verdict_json(record))?;
        }
        let unread: Vec<Value> =
            found.unread.iter().map(|range| json!([range.start.value(), range.end.value()])).collect();
        return writeln!(out, "{}", json!({ "key": key, "records": found.total, "unread": unread }));
    }
    let shown = found.records.len() as u64;
    if shown < found.total {
        writeln!(out, "{} older records are not shown; see --max", grouped(found.total - shown))?;
    }
    for record in &found.records {
        print_verdict(out, record)?;
    }
    for range in &found.unread {
        writeln!(out, "offsets {}..{} cannot be read and may hold more", range.start, range.end)?;
    }
    writeln!(out, "{} records with the key {}", grouped(found.total), readable(Some(key.as_bytes()), KEY_CHARS))
}
