//! The log cleaner: key compaction of a partition log within a bounded memory.
//!
//! A pass cleans `[log start, upper)`, where upper is the first uncleanable offset; `[first dirty, upper)` is what no
//! pass has cleaned yet. It learns the newest offset of each key, rewrites the segments without what is superseded,
//! swaps each group of segments as it is finished, and stores the new first dirty offset when the last one is in.
//!
//! | file | what lives there |
//! |---|---|
//! | `options`, `cleaned` | what a pass is told, and what it tells |
//! | `error` | why it ended without its work done |
//! | `config` | the settings of a store's cleaner |
//! | `plan`, `range` | which log is due, which range, what holds back the rest; pure |
//! | `group` | which segments are rewritten together; pure |
//! | `explain` | why each stretch of a log is kept, cleaned or held back; pure |
//! | `pass` | the state machine, one bounded step at a time |
//! | `budget` | how much memory there is, and for what |
//! | `key_hash` | keys as 128 bits, by a hash that nobody else can compute |
//! | `map` | the newest offset of each key in 16 bytes a slot |
//! | `spill/` | what does not fit the memory, in files |
//! | `learning` | what was read becomes verdicts: which offsets are superseded |
//! | `transactions` | which data was aborted, which markers and aborted entries are still needed |
//! | `aborted` | the aborted transactions of one segment after the other |
//! | `doubt` | transactions whose end lies in what cannot be read |
//! | `producers` | which batches the log cannot lose without forgetting a producer |
//! | `filter` | what is kept of a batch |

mod aborted;
mod bounds;
mod budget;
mod cleaned;
mod config;
mod doubt;
mod error;
pub mod explain;
mod facts;
mod figures;
mod filter;
pub mod group;
mod key_hash;
mod learning;
mod map;
mod options;
mod output;
mod pass;
#[cfg(test)]
mod pass_tests;
pub mod plan;
mod producers;
mod range;
mod rewrite;
mod scan;
mod spill;
mod transactions;

pub use budget::{CleanerMemory, MemoryError, PassMemory};
pub use cleaned::{CleanMode, Cleaned, LeftAlone};
pub use config::CleanerConfig;
pub(crate) use config::{CLEANER_FLAGS, CLEANER_KEYS};
pub use error::CleanError;
pub(crate) use facts::{log_facts_when_flushed, segment_facts};
pub use key_hash::{KeyHash, KeyHasher};
pub use map::{OffsetMap, Put};
pub use options::{CleanOptions, MEMORY_BYTES_MIN};
pub(crate) use pass::{Begun, Pass, Phase};

use crate::log::PartitionLog;

/// About so many bytes a step of [`PartitionLog::clean`] reads and writes: nobody waits between its steps.
const STEP_BYTES: u64 = 64 << 20;

fn to_its_end(mut pass: Box<Pass>) -> Result<Cleaned, CleanError> {
    loop {
        if let Some(cleaned) = pass.step(STEP_BYTES)?.finished {
            return Ok(cleaned);
        }
    }
}

impl PartitionLog {
    /// Removes from the sealed segments what newer records of the same keys have superseded, what aborted transactions
    /// left, and tombstones and markers whose time has passed. Blocks until all is clean that may be cleaned now: one
    /// pass, or as many partial ones as it takes where there is no disk for spilling.
    ///
    /// Any thread; appends and reads go on. Nothing at or past the first uncleanable offset is touched, which is the
    /// least of the last stable offset, the high watermark, the durable end, the active segment's base offset, and the
    /// first record younger than `min.compaction.lag.ms`. It asks for the sync of what it needs to be durable.
    ///
    /// # Errors
    /// [`CleanError`]; groups of segments that were finished stay cleaned, and another call goes on behind them.
    pub fn clean(&self, options: &CleanOptions) -> Result<Cleaned, CleanError> {
        options.validate()?;
        let mut options = options.clone();
        let mut total: Option<Cleaned> = None;
        loop {
            let pass = match Pass::begin(self, &options)? {
                Begun::Pass(pass) => pass,
                Begun::Nothing(nothing) => return Ok(total.unwrap_or(nothing)),
            };
            let cleaned = match to_its_end(pass) {
                // The groups that were finished have left files behind, in whose room the next ones are written.
                Err(CleanError::Space { .. }) if self.free_replaced() => continue,
                cleaned => cleaned?,
            };
            // A pass that was interrupted ends where it was to end then.
            let may_be_more = cleaned.mode == CleanMode::Partial || cleaned.resumed;
            let so_far = match total.take() {
                Some(before) => before.and_then(cleaned),
                None => cleaned,
            };
            if !may_be_more {
                return Ok(so_far);
            }
            total = Some(so_far);
            options.cleans_clean = false;
        }
    }
}
