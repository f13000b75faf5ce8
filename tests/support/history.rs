//! What was promised, from the first call to the crash.

use super::batches::StoredBatch;
use super::model::ModelLog;
use super::standing::Standing;

/// How a world ended, as far as promises go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Ending {
    /// The machine lost power: only what was acknowledged durable has to be there.
    PowerLoss,
    /// The process died: everything acknowledged has to be there.
    Kill,
}

/// A record of all calls, reduced to what can be demanded of a reopened log.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// What was appended and not cut, each call answered.
    pub(crate) model: ModelLog,
    /// Everything below it was acknowledged durable, and no truncation that reaches below it was begun.
    pub(crate) durable: i64,
    /// Everything below it was acknowledged cached, and no truncation that reaches below it was begun.
    pub(crate) cached: i64,
    /// Batches tried after `model`, whose call was not answered or failed in a way that leaves them open.
    pub(crate) maybe: Vec<StoredBatch>,
    /// What the batches do not say.
    pub(crate) standing: Standing,
    /// Of the batches before it only each producer's last is sure to be recognised when it is sent again.
    pub(crate) remembered_from: i64,
    /// A restart at this offset was begun and not answered.
    pub(crate) restart: Option<i64>,
}

impl History {
    /// The call that was open is answered.
    pub(crate) fn settle(&mut self) {
        self.maybe.clear();
        self.restart = None;
        self.cached = self.model.end;
    }

    pub(crate) fn appended(&mut self, batches: Vec<StoredBatch>) {
        for batch in batches {
            self.model.append(batch);
        }
        self.settle();
    }

    pub(crate) fn acknowledge_durable(&mut self, end: i64) {
        assert!(end <= self.model.end, "durable end {end} past what was appended, {}", self.model.end);
        self.durable = self.durable.max(end);
    }

    /// A truncation begins: from now on nothing past the cut can be demanded.
    pub(crate) fn begin_cut(&mut self, offset: i64) {
        let end = self.model.cut_end(offset);
        self.durable = self.durable.min(end);
        self.cached = self.cached.min(end);
    }

    pub(crate) fn finish_cut(&mut self, offset: i64) {
        if offset < self.model.end {
            self.model.truncate_to(offset);
            self.remembered_from = self.model.end;
        }
        // Also where nothing is cut: an epoch that begins at the end may be one that the new leader never saw, as in Kafka.
        self.standing.cut(self.model.end);
        self.settle();
    }

    pub(crate) fn begin_restart(&mut self, at: i64) {
        self.restart = Some(at);
        self.durable = self.model.start;
        self.cached = self.model.start;
    }

    pub(crate) fn finish_restart(&mut self, at: i64) {
        self.model.restart(at);
        self.standing = Standing { high_watermark: at, ..Standing::default() };
        self.remembered_from = at;
        self.durable = at;
        self.settle();
    }

    /// A log was opened and serves this, as durable.
    pub(crate) fn adopt(&mut self, found: ModelLog, standing: Standing) {
        self.durable = found.end;
        self.remembered_from = found.end;
        self.standing = standing;
        self.model = found;
        self.settle();
    }

    /// What an opened log that holds `found` may go back to say of itself.
    pub(crate) fn standing_of(&self, found: &ModelLog) -> Standing {
        match self.restart {
            Some(at) if found.start == at && found.end == at => Standing { high_watermark: at, ..Standing::default() },
            _ => self.standing.clone(),
        }
    }

    /// The least end that a log may have after `ending`.
    pub(crate) fn floor(&self, ending: Ending) -> i64 {
        match ending {
            Ending::PowerLoss => self.durable,
            Ending::Kill => self.cached,
        }
    }

    /// Whether a log with these batches and bounds may be what is left after `ending`.
    pub(crate) fn judge(&self, found: &ModelLog, ending: Ending) -> Result<(), String> {
        if self.restart == Some(found.start) && found.end == found.start && found.batches.is_empty() {
            return Ok(());
        }
        if found.start != self.model.start {
            return Err(format!("log starts at {}, not at {}", found.start, self.model.start));
        }
        let tried: Vec<&StoredBatch> = self.model.batches.iter().chain(&self.maybe).collect();
        for (index, batch) in found.batches.iter().enumerate() {
            match tried.get(index) {
                None => return Err(format!("batch {}..{} was never tried", batch.base, batch.next)),
                Some(wanted) if *wanted != batch => {
                    return Err(format!(
                        "batch {index} is {}..{} with {} bytes, not {}..{} with {} bytes as written",
                        batch.base,
                        batch.next,
                        batch.bytes.len(),
                        wanted.base,
                        wanted.next,
                        wanted.bytes.len()
                    ));
                }
                Some(_) => {}
            }
        }
        self.judge_end(found, ending)
    }

    fn judge_end(&self, found: &ModelLog, ending: Ending) -> Result<(), String> {
        let count = found.batches.len();
        let last = found.batches.last().map_or(found.start, |batch| batch.next);
        // A cut, and a roll past a gap, may end the log past its last batch.
        let is_whole = count >= self.model.batches.len();
        let next_tried = self.maybe.get(count.saturating_sub(self.model.batches.len())).map(|batch| batch.base);
        let ends = [Some(last), is_whole.then_some(self.model.end), next_tried.filter(|_| is_whole)];
        if !ends.contains(&Some(found.end)) {
            return Err(format!("log ends at {}, its last batch at {last}", found.end));
        }
        let floor = self.floor(ending);
        if found.end < floor {
            return Err(format!(
                "log ends at {}, though everything below {floor} was promised ({ending:?})",
                found.end
            ));
        }
        Ok(())
    }
}
