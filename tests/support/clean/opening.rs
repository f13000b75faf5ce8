//! Opening the log of a world again, and taking over what is found there.

use std::sync::Arc;

use alluvium::HighWatermarkMode;
use alluvium::fs::sim::SimFs;

use super::super::history::Ending;
use super::super::runner::{Trouble, open};
use super::judge;
use super::snapshots::Snapshots;
use super::story::Told;
use super::world::CleanWorld;

impl CleanWorld {
    /// The same world on what an ending has left of its disk, with no log open yet.
    pub(crate) fn after(&self, fs: SimFs, ending: Ending) -> Self {
        Self {
            fs,
            clock: Arc::clone(&self.clock),
            config: self.config.clone(),
            log: None,
            story: self.story.clone(),
            maybe: self.maybe.clone(),
            ending,
            is_watchful: true,
            cleaned: Vec::new(),
            options: self.options.clone(),
            ..*self
        }
    }

    /// Lets go of the log as a dying process would, and opens it again in the same world.
    pub(crate) fn reopen(&mut self) -> Result<(), Trouble> {
        self.log = None;
        let log = open(&self.fs, &self.clock, &self.config).map_err(|e| Trouble::Refused(format!("open: {e}")))?;
        self.log = Some(log);
        let adopted = self.adopt().map_err(|what| format!("after opening: {what}"));
        if self.fs.is_crashed() { Err(Trouble::Crash) } else { adopted.map_err(Trouble::Wrong) }
    }

    /// Takes over where the log starts and ends, if it may, and judges what lies between.
    fn adopt(&mut self) -> Result<(), String> {
        let log = self.log.as_ref().ok_or("no log is open")?;
        if let Some(damage) = log.recovery_report().damage().next() {
            return Err(format!("an ordinary ending is reported as damage: {damage}"));
        }
        let marks = log.marks();
        let (start, end) = (marks.log_start.value(), marks.log_end.value());
        if marks.durable_end != marks.log_end {
            return Err(format!("{marks:?}: what is served is not durable"));
        }
        self.adopt_end(end)?;
        if start != self.story.start && self.maybe_start != Some(start) {
            return Err(format!("log starts at {start}, not at {} or {:?}", self.story.start, self.maybe_start));
        }
        self.story.start = start;
        (self.maybe_start, self.maybe_cut) = (None, None);
        self.maybe.clear();
        let floor = std::mem::replace(&mut self.durable, end);
        let mark = self.log.as_ref().map_or(0, |log| log.marks().high_watermark.value());
        self.high_watermark = self.high_watermark.min(mark).min(end);
        if self.ending == Ending::PowerLoss && floor < end && end == start {
            self.settle_below_start(floor)?;
        }
        if self.config.high_watermark == HighWatermarkMode::Embedder && self.story.upper() > 0 {
            self.settle_times()?;
        }
        let snapshots = std::mem::replace(&mut self.snapshots, Snapshots::Some);
        if self.story.has_lost_snapshots {
            self.settle(snapshots)?;
        }
        if self.is_watchful { self.judge() } else { Ok(()) }
    }

    fn adopt_end(&mut self, end: i64) -> Result<(), String> {
        let mut floor = if self.ending == Ending::Kill { self.story.end } else { self.durable };
        if let Some(cut) = self.maybe_cut {
            let below = |batch: &&Told| batch.facts.next <= cut;
            let cut_end = self.story.told.iter().rfind(below).map_or(self.story.start, |batch| batch.facts.next);
            floor = floor.min(cut_end).min(self.story.upper().max(self.story.start));
        }
        if end < floor {
            return Err(format!("log ends at {end}, though everything below {floor} was promised"));
        }
        for batch in std::mem::take(&mut self.maybe) {
            if batch.facts.next <= end && batch.facts.base >= self.story.end {
                self.story.tell(batch);
            }
        }
        let told = &self.story.told;
        let is_edge = |batch: &Told| batch.facts.next == end || batch.facts.base == end;
        if end != self.story.end && !told.iter().any(is_edge) && end != self.story.start {
            let is_cut = self.maybe_cut.is_some_and(|cut| end <= cut);
            if !is_cut {
                return Err(format!("log ends at {end}, where nothing that was told ends"));
            }
        }
        if end > self.story.end {
            return Err(format!("log ends at {end}, past all that was told, {}", self.story.end));
        }
        self.story.cut(end);
        Ok(())
    }

    /// All that the log shows.
    pub(crate) fn found(&self) -> Result<Vec<Told>, Trouble> {
        judge::everything(self.log()?).map_err(Trouble::Wrong)
    }
}
