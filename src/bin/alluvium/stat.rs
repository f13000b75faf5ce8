//! `stat`: what lies in a data directory, without locking or changing anything.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use alluvium::Offset;
use alluvium::inspect::{DataDirectory, PartitionInfo};
use serde_json::{Value, json};

use crate::Outcome;
use crate::output::{Table, bytes, grouped};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The data directory: the one above the partitions' own.
    dir: PathBuf,
    /// One JSON object a line: one for each partition, the directory's last.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let found = DataDirectory::read(&args.dir)?;
    let out = BufWriter::new(io::stdout().lock());
    if args.json {
        print_json(out, &found)?;
    } else {
        print_text(out, &found)?;
    }
    Ok(if found.is_sound() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn print_text(mut out: impl Write, found: &DataDirectory) -> io::Result<()> {
    let mut table = Table::new(&["partition", "log start", "log end", "segments", "bytes", "sums", "damage", "left"]);
    for info in &found.partitions {
        table.row(vec![
            info.partition.to_string(),
            info.log_start.to_string(),
            info.log_end.to_string(),
            grouped(info.segments as u64),
            bytes(info.bytes),
            grouped(info.sums as u64),
            grouped(info.damage as u64),
            left(info),
        ]);
    }
    write!(out, "{table}")?;
    for list in &found.lists {
        match &list.fault {
            Some(fault) => writeln!(out, "{}: WRONG: {fault}", list.kind.file_name())?,
            None => writeln!(out, "{}: {} partitions", list.kind.file_name(), list.entries)?,
        }
    }
    match (&found.meta, &found.meta_fault) {
        (_, Some(fault)) => writeln!(out, "meta.properties: WRONG: {fault}")?,
        (Some(meta), None) => writeln!(out, "meta.properties: cluster {}", meta.cluster_id().unwrap_or("unnamed"))?,
        (None, None) => {}
    }
    for info in &found.partitions {
        let faults =
            [info.fault.as_ref().map(ToString::to_string), info.topic_id_fault.as_ref().map(ToString::to_string)];
        for fault in faults.into_iter().flatten() {
            writeln!(out, "{}: WRONG: {fault}", info.partition)?;
        }
    }
    for name in &found.set_aside {
        writeln!(out, "{name}: not in service")?;
    }
    for name in &found.unknown_entries {
        writeln!(out, "{name}: neither ours nor Kafka's")?;
    }
    let had = match found.witness {
        Some(witness) if witness.is_unbroken => format!("had by a store {} times", witness.incarnation),
        Some(_) => "changed by another program since a store had it".to_owned(),
        None => "never had by a store".to_owned(),
    };
    writeln!(
        out,
        "{} partitions, {}, {}; last shutdown {}; reserve {}; {had}",
        grouped(found.partitions.len() as u64),
        bytes(found.partitions.iter().map(|info| info.bytes).sum()),
        if found.in_use { "in use" } else { "not in use" },
        if found.was_clean { "clean" } else { "not clean, or still open" },
        bytes(found.reserve_bytes),
    )?;
    out.flush()
}

/// How a partition was left, in a word.
fn left(info: &PartitionInfo) -> String {
    let word =
        if info.fault.is_some() { "unreadable".to_owned() } else { format!("{:?}", info.last_close).to_lowercase() };
    if info.in_doubt { format!("{word}, sync in doubt") } else { word }
}

fn print_json(mut out: impl Write, found: &DataDirectory) -> io::Result<()> {
    for info in &found.partitions {
        let line = json!({
            "partition": info.partition.to_string(), "topic": info.partition.topic(),
            "topic_id": info.topic_id.map(|id| id.to_string()),
            "log_start": info.log_start.value(), "log_end": info.log_end.value(),
            "durable_end": info.durable_end.map(Offset::value),
            "listed_recovery_point": info.listed_recovery_point.map(Offset::value),
            "segments": info.segments, "bytes": info.bytes, "sums": info.sums, "damage": info.damage,
            "in_doubt": info.in_doubt, "left": left(info), "sound": info.is_sound(),
            "fault": info.fault.as_ref().map(ToString::to_string),
        });
        writeln!(out, "{line}")?;
    }
    let lists: Vec<Value> = found
        .lists
        .iter()
        .map(|list| {
            let fault = list.fault.as_ref().map(ToString::to_string);
            json!({ "file": list.kind.file_name(), "partitions": list.entries, "fault": fault })
        })
        .collect();
    let witness = found.witness.map(|witness| {
        json!({
            "incarnation": witness.incarnation, "is_closed": witness.is_closed, "is_unbroken": witness.is_unbroken,
        })
    });
    let line = json!({
        "dir": found.dir.display().to_string(), "sound": found.is_sound(), "in_use": found.in_use,
        "was_clean": found.was_clean, "partitions": found.partitions.len(), "reserve_bytes": found.reserve_bytes,
        "bytes": found.partitions.iter().map(|info| info.bytes).sum::<u64>(), "lists": lists, "witness": witness,
        "cluster": found.meta.as_ref().and_then(|meta| meta.cluster_id()),
        "meta_fault": found.meta_fault.as_ref().map(ToString::to_string),
        "set_aside": found.set_aside, "unknown_entries": found.unknown_entries,
    });
    writeln!(out, "{line}")?;
    out.flush()
}
