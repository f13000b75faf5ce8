//! `dump`: what lies in the files, good or bad.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use alluvium::inspect::{
    IndexEntry, IndexReader, InspectError, Item, Limits, PartitionFiles, SegmentInfo, SegmentWalk, StateFiles,
};
use alluvium::record::{BatchHeader, BatchView, ControlRecord};
use alluvium::{FilePosition, Offset, ProducerEpoch, ProducerId, Sequence};
use serde_json::{Value, json};

use crate::Outcome;
use crate::cat::record_object;
use crate::output::{bytes, readable};

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line, and they combine")]
pub(crate) struct Args {
    /// Directory of the partition.
    dir: PathBuf,
    /// Print batches: what is printed if nothing else is asked for.
    #[arg(long)]
    batches: bool,
    /// Print records, decompressed.
    #[arg(long)]
    records: bool,
    /// Print the entries of the offset and time indexes.
    #[arg(long)]
    indexes: bool,
    /// Print producer snapshots, aborted transactions and leader epochs.
    #[arg(long)]
    producers: bool,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

pub(crate) type Done = Result<(), Box<dyn std::error::Error>>;

pub(crate) struct Dump<'a, W> {
    args: &'a Args,
    pub(crate) files: PartitionFiles,
    pub(crate) out: W,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let files = PartitionFiles::open(&args.dir)?;
    let mut dump = Dump { args, files, out: BufWriter::new(io::stdout().lock()) };
    dump.state()?;
    for segment in dump.files.segments()? {
        dump.segment(&segment)?;
    }
    if args.producers {
        dump.epochs()?;
        dump.snapshots()?;
    }
    dump.out.flush()?;
    Ok(ExitCode::SUCCESS)
}

impl<W: Write> Dump<'_, W> {
    fn wants_batches(&self) -> bool {
        self.args.batches || !(self.args.records || self.args.indexes || self.args.producers)
    }

    pub(crate) fn is_json(&self) -> bool {
        self.args.json
    }

    pub(crate) fn line(&mut self, object: &Value) -> io::Result<()> {
        writeln!(self.out, "{object}")
    }

    fn state(&mut self) -> Done {
        let state = self.files.state()?;
        if self.args.json {
            let object = state_object(&state);
            return Ok(self.line(&object)?);
        }
        let offset = |offset: Option<Offset>| offset.map_or_else(|| "unknown".to_owned(), |offset| offset.to_string());
        let close = if state.was_clean() { "clean" } else { "not known to be clean" };
        let (point, durable) = (offset(state.recovery_point), offset(state.durable_end));
        writeln!(self.out, "state    recovery point {point}, durable end {durable}, last close {close}")?;
        if state.in_use {
            writeln!(self.out, "state    the log is open in another process")?;
        }
        if state.in_doubt {
            writeln!(self.out, "state    a sync is under way or failed")?;
        }
        for corruption in &state.unreadable {
            writeln!(self.out, "state    {corruption}")?;
        }
        for damage in &state.damage {
            writeln!(self.out, "state    {damage}")?;
        }
        Ok(())
    }

    fn segment(&mut self, segment: &SegmentInfo) -> Done {
        let file = segment.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if self.args.json {
            let object = json!({
                "type": "segment", "file": file, "base": segment.base.value(), "bytes": segment.log_bytes,
                "next_base": segment.next_base.map(Offset::value),
            });
            self.line(&object)?;
        } else {
            writeln!(self.out, "segment  {file}, {}", bytes(segment.log_bytes))?;
        }
        if self.args.records || self.wants_batches() {
            let mut walk = match self.files.walk(segment) {
                // It went since the directory was listed.
                Err(failure) if failure.source.kind() == io::ErrorKind::NotFound => return Ok(()),
                walk => walk?,
            };
            if self.wants_batches() && !self.args.json && segment.log_bytes > 0 {
                self.batch_titles()?;
            }
            while let Some(item) = walk.next() {
                self.item(&mut walk, item?, segment)?;
            }
        }
        if self.args.indexes {
            self.index(segment, "offset_index", self.files.offset_index(segment.base)?)?;
            self.index(segment, "time_index", self.files.time_index(segment.base)?)?;
        }
        if self.args.producers {
            self.aborted(segment)?;
        }
        Ok(())
    }

    fn batch_titles(&mut self) -> io::Result<()> {
        writeln!(
            self.out,
            "  {:>10} {:>12} {:>12} {:>7} {:>9} {:>6} {:>6} {:>14} {:>20} crc flags",
            "position", "first", "last", "records", "bytes", "codec", "epoch", "max timestamp", "producer"
        )
    }

    fn item(&mut self, walk: &mut SegmentWalk, item: Item, segment: &SegmentInfo) -> Done {
        match item {
            Item::Batch { position, header } => {
                if self.wants_batches() {
                    self.batch(position, &header, "ok")?;
                }
                if self.args.records {
                    self.records(walk, position, &header)?;
                }
                Ok(())
            }
            Item::Bad { bytes, expected, header, cause, next } => {
                if let Some(header) = header.filter(|_| self.wants_batches()) {
                    self.batch(FilePosition::new(bytes.start), &header, "BAD")?;
                }
                let (start, end) = (bytes.start, bytes.end);
                if self.args.json {
                    let object = json!({
                        "type": "bad", "segment": segment.base.value(), "position": start, "end": end,
                        "expected": expected.value(), "cause": cause.to_string(), "next": next.map(Offset::value),
                    });
                    return Ok(self.line(&object)?);
                }
                let then = match next {
                    Some(next) => format!("the next valid batch starts at offset {next}"),
                    None => "no valid batch follows".to_owned(),
                };
                Ok(writeln!(self.out, "  bytes {start}..{end}, offset {expected} due: {cause}; {then}")?)
            }
            Item::Zeros { bytes } => {
                if self.args.json {
                    let object = json!({
                        "type": "zeros", "segment": segment.base.value(), "position": bytes.start, "end": bytes.end,
                    });
                    return Ok(self.line(&object)?);
                }
                Ok(writeln!(self.out, "  bytes {}..{} are zeros kept for later appends", bytes.start, bytes.end)?)
            }
            Item::OldFormat { position, magic } => {
                if self.args.json {
                    let object = json!({
                        "type": "old_format", "segment": segment.base.value(), "position": position.value(),
                        "magic": magic,
                    });
                    return Ok(self.line(&object)?);
                }
                Ok(writeln!(self.out, "  messages of format v{magic} from byte {position} on are not read")?)
            }
            _ => Ok(()),
        }
    }

    fn batch(&mut self, position: FilePosition, header: &BatchHeader, crc: &str) -> io::Result<()> {
        if self.args.json {
            return self.line(&batch_object(position, header, crc));
        }
        let producer = header.producer_id.map_or_else(String::new, |id| {
            let epoch = header.producer_epoch.map_or(-1, ProducerEpoch::value);
            let sequence = header.base_sequence.map_or(-1, Sequence::value);
            format!("{}/{epoch}/{sequence}", id.value())
        });
        writeln!(
            self.out,
            "  {:>10} {:>12} {:>12} {:>7} {:>9} {:>6} {:>6} {:>14} {producer:>20} {crc:<3} {}",
            position.value(),
            header.base_offset.value(),
            header.last_offset().value(),
            header.count,
            header.size,
            header.attributes.compression().name(),
            header.leader_epoch.map_or(-1, alluvium::LeaderEpoch::value),
            header.max_timestamp.value(),
            flags(header).join(","),
        )
    }

    fn records(&mut self, walk: &mut SegmentWalk, position: FilePosition, header: &BatchHeader) -> Done {
        let limits = Limits::default();
        let bytes = match walk.read(position, header, limits) {
            Err(InspectError::Corrupt(corruption)) => return self.bad_records(position, header, &corruption),
            bytes => bytes?,
        };
        let body = match BatchView::parse(&bytes, u32::MAX).and_then(|view| view.body(limits.decompressed_bytes_max)) {
            Ok(body) => body,
            Err(cause) => return self.bad_records(position, header, &cause),
        };
        for record in body.records() {
            let record = match record {
                Ok(record) => record,
                Err(cause) => return self.bad_records(position, header, &cause),
            };
            let control = header.attributes.is_control().then(|| ControlRecord::parse(record.key, record.value));
            let control = control.map(|control| control.map_or_else(|e| e.to_string(), |c| format!("{c:?}")));
            if self.args.json {
                let mut object = record_object(&record);
                object.insert("type".to_owned(), "record".into());
                object.insert("batch".to_owned(), header.base_offset.value().into());
                object.extend(control.map(|control| ("control".to_owned(), control.into())));
                self.line(&Value::Object(object))?;
                continue;
            }
            let (at, timestamp) = (record.offset, record.timestamp);
            let (key, value) = (readable(record.key, 32), readable(record.value, 64));
            let text = control.unwrap_or_else(|| format!("{key} = {value}"));
            let headers: Vec<String> =
                record.headers().map(|(key, value)| format!("{key}: {}", readable(value, 32))).collect();
            let headers = if headers.is_empty() { String::new() } else { format!("  [{}]", headers.join(", ")) };
            writeln!(self.out, "    {at:>12}  {timestamp:>14}  {text}{headers}")?;
        }
        Ok(())
    }

    fn bad_records(&mut self, position: FilePosition, header: &BatchHeader, cause: &dyn std::fmt::Display) -> Done {
        let cause = cause.to_string();
        if self.args.json {
            let object = json!({
                "type": "bad_records", "position": position.value(), "batch": header.base_offset.value(),
                "cause": cause,
            });
            return Ok(self.line(&object)?);
        }
        Ok(writeln!(self.out, "    the records of the batch at byte {position} cannot be read: {cause}")?)
    }

    fn index(&mut self, segment: &SegmentInfo, kind: &str, reader: Option<IndexReader>) -> Done {
        let Some(reader) = reader else {
            if self.args.json {
                let object = json!({ "type": kind, "segment": segment.base.value(), "missing": true });
                return Ok(self.line(&object)?);
            }
            return Ok(writeln!(self.out, "  {kind} is missing")?);
        };
        for (number, entry) in reader.enumerate() {
            let base = segment.base.value();
            let (object, text) = match entry? {
                IndexEntry::Offset { relative, position } => {
                    let offset = base.saturating_add(i64::from(relative));
                    (json!({ "offset": offset, "position": position }), format!("offset {offset} at byte {position}"))
                }
                IndexEntry::Time { timestamp, relative } => {
                    let offset = base.saturating_add(i64::from(relative));
                    let object = json!({ "timestamp": timestamp.value(), "offset": offset });
                    (object, format!("timestamp {timestamp} by offset {offset}"))
                }
                _ => continue,
            };
            if self.args.json {
                let mut object = object;
                if let Some(object) = object.as_object_mut() {
                    object.insert("type".to_owned(), kind.into());
                    object.insert("segment".to_owned(), base.into());
                    object.insert("entry".to_owned(), number.into());
                }
                self.line(&object)?;
            } else {
                writeln!(self.out, "  {kind} entry {number}: {text}")?;
            }
        }
        Ok(())
    }
}

fn flags(header: &BatchHeader) -> Vec<&'static str> {
    let attributes = header.attributes;
    let flags = [
        (attributes.timestamp_type() == alluvium::TimestampType::LogAppendTime, "append-time"),
        (attributes.is_transactional(), "transactional"),
        (attributes.is_control(), "control"),
        (attributes.has_delete_horizon(), "delete-horizon"),
    ];
    flags.into_iter().filter_map(|(is_set, name)| is_set.then_some(name)).collect()
}

fn batch_object(position: FilePosition, header: &BatchHeader, crc: &str) -> Value {
    json!({
        "type": "batch", "position": position.value(), "base_offset": header.base_offset.value(),
        "last_offset": header.last_offset().value(), "records": header.count, "bytes": header.size,
        "codec": header.attributes.compression().name(),
        "leader_epoch": header.leader_epoch.map(alluvium::LeaderEpoch::value),
        "base_timestamp": header.base_timestamp.value(), "max_timestamp": header.max_timestamp.value(),
        "producer_id": header.producer_id.map(ProducerId::value),
        "producer_epoch": header.producer_epoch.map(ProducerEpoch::value),
        "base_sequence": header.base_sequence.map(Sequence::value),
        "crc": format!("{:08x}", header.crc), "crc_ok": crc == "ok", "flags": flags(header),
    })
}

fn state_object(state: &StateFiles) -> Value {
    let damage = state.damage.iter().map(ToString::to_string);
    let unreadable = state.unreadable.iter().map(ToString::to_string);
    json!({
        "type": "state", "recovery_point": state.recovery_point.map(Offset::value),
        "durable_end": state.durable_end.map(Offset::value), "restart": state.restart.map(Offset::value),
        "in_doubt": state.in_doubt, "was_clean": state.was_clean(), "in_use": state.in_use,
        "damage": damage.collect::<Vec<_>>(), "unreadable": unreadable.collect::<Vec<_>>(),
    })
}
