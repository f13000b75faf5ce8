//! What a log says of itself beside its batches: marks, producers, epochs, lookups, indexes. Cleaning changes none of it.

use std::path::Path;
use std::sync::Arc;

use alluvium::fs::FileSystem as _;
use alluvium::fs::sim::SimFs;
use alluvium::inspect::{PartitionFiles, VerifyOptions};
use alluvium::{LeaderEpoch, LogConfig, Marks, Offset, PartitionLog, Sequence};

use super::super::checker::check_indexes;
use super::super::model::ModelLog;
use super::super::naive::{self, Producer};
use super::super::reading;
use super::super::runner::DIR;
use super::story::{Story, Told as Batch};

/// Id, epoch, last sequence and offset, timestamp, coordinator's epoch, open transaction.
type Known = (i64, i16, (Option<i32>, Option<i64>, i64), (Option<i32>, Option<i64>));

/// What a log says of itself at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    marks: Marks,
    producers: Vec<Known>,
    epochs: Vec<(i32, i64)>,
}

impl Told {
    pub(crate) fn by(log: &PartitionLog) -> Self {
        Self { marks: log.marks(), producers: producers(log), epochs: epochs(log) }
    }

    /// Cleaning moves nothing but the durable end, and what follows from that.
    pub(crate) fn is_said_by(&self, log: &PartitionLog) -> Result<(), String> {
        let mut now = Self::by(log);
        let marks = now.marks;
        if marks.durable_end < self.marks.durable_end || marks.high_watermark < self.marks.high_watermark {
            return Err(format!("cleaning moved {:?} back to {marks:?}", self.marks));
        }
        now.marks.durable_end = self.marks.durable_end;
        if log.config().high_watermark == alluvium::HighWatermarkMode::DurableEnd {
            (now.marks.high_watermark, now.marks.last_stable) = (self.marks.high_watermark, self.marks.last_stable);
        }
        if now == *self { Ok(()) } else { Err(format!("cleaning made\n{self:?}\nto\n{now:?}")) }
    }
}

fn producers(log: &PartitionLog) -> Vec<Known> {
    let said = log.producers().into_iter().map(|p| {
        let last = (p.last_sequence.map(Sequence::value), p.last_offset.map(Offset::value), p.last_timestamp.value());
        let open = (p.coordinator_epoch, p.open_transaction.map(Offset::value));
        (p.producer_id.value(), p.epoch.value(), last, open)
    });
    said.collect()
}

fn epochs(log: &PartitionLog) -> Vec<(i32, i64)> {
    log.leader_epochs().iter().map(|entry| (entry.epoch.value(), entry.start.value())).collect()
}

fn wanted_producers(story: &Story) -> Vec<Known> {
    let known = story.naive().producers().into_iter();
    let known = known.map(|Producer { id, epoch, batches, timestamp, coordinator_epoch, open }| {
        let last = batches.last();
        let last_sequence = last.and_then(|batch| batch.sequences).map(|(_, last)| last);
        (id, epoch, (last_sequence, last.map(|batch| batch.next - 1), timestamp), (coordinator_epoch, open))
    });
    known.collect()
}

/// Marks, producers and epochs are those of a log that was never cleaned.
pub(crate) fn compare(log: &PartitionLog, story: &Story) -> Result<(), String> {
    let (said, wanted) = (producers(log), wanted_producers(story));
    if said != wanted {
        return Err(format!("producers are\n{said:?}, not\n{wanted:?}"));
    }
    let marks = log.marks();
    let stable = story.naive().last_stable(story.start, marks.high_watermark.value());
    if marks.last_stable.value() != stable {
        return Err(format!("{marks:?}, but last stable is {stable}"));
    }
    compare_epochs(log, story)
}

fn compare_epochs(log: &PartitionLog, story: &Story) -> Result<(), String> {
    let wanted = story.naive().epochs(&story.begun);
    // A log start within the log does away with what is said below it.
    if story.start == 0 && epochs(log) != wanted {
        return Err(format!("leader epochs are {:?}, not {wanted:?}", epochs(log)));
    }
    let latest = wanted.last().map_or(0, |(latest, _)| *latest);
    for epoch in (0..latest + 2).filter(|_| story.start == 0) {
        let end = log.end_offset_for_epoch(LeaderEpoch::new(epoch).unwrap());
        let end = end.map(|end| (end.epoch.value(), end.end.value()));
        let right = naive::epoch_end(&wanted, story.end, epoch);
        if end != right {
            return Err(format!("epoch {epoch} ends at {end:?}, not {right:?}"));
        }
    }
    Ok(())
}

/// Reads at every offset and looks every timestamp up, against what a scan shows.
pub(crate) fn compare_lookups(log: &PartitionLog, story: &Story, found: &[Batch]) -> Result<(), String> {
    let mut batches: Vec<_> = found.iter().map(Batch::stored).collect();
    // The log start may lie within a batch: what is below it is sent with the rest, and no answer to a question.
    for batch in &mut batches {
        batch.records.retain(|(offset, _)| *offset >= story.start);
    }
    let model = ModelLog { start: story.start, end: story.end, batches };
    reading::compare_lookups(log, &model)
}

/// Indexes of a closed log are what its bytes give, and nothing that was written aside is left.
pub(crate) fn check_files(fs: &SimFs, config: &LogConfig) -> Result<(), String> {
    check_indexes(fs, config)?;
    let entries = fs.list(Path::new(DIR)).map_err(|e| e.to_string())?;
    let is_left =
        |name: &str| [".cleaned", ".swap"].iter().any(|suffix| name.ends_with(suffix)) || name.contains("spill");
    if let Some(entry) = entries.iter().find(|entry| is_left(&entry.name)) {
        return Err(format!("{} is left behind", entry.name));
    }
    verify(fs)
}

/// What `alluvium verify` says of the directory.
pub(crate) fn verify(fs: &SimFs) -> Result<(), String> {
    let dir = PartitionFiles::open_on(Arc::new(fs.clone()), DIR).map_err(|e| e.to_string())?;
    let report = dir.verify(&VerifyOptions::default()).map_err(|e| e.to_string())?;
    if report.is_sound() { Ok(()) } else { Err(format!("verify finds {report:?}")) }
}
