//! What the state files of a partition opened alone say.

use crate::error::{Corruption, Damage, IoFailure};
use crate::log::Left;
use crate::segment::{FileKind, Home, names};
use crate::units::Offset;

/// What the clean-shutdown marker says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LastClose {
    /// There is none: the log is open, its process died, or Kafka alone was here.
    #[default]
    Unknown,
    /// It fits the files: the last close was clean, and nothing changed since.
    Clean,
    /// It does not fit the files: somebody else wrote here since.
    Stale,
}

/// The state files, as far as they are there. A directory that only Kafka used has none.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct StateFiles {
    /// `alluvium.recovery-point`: everything below it was synced.
    pub recovery_point: Option<Offset>,
    /// A restart at this offset was decided and not finished: all segments are to go.
    pub restart: Option<Offset>,
    /// Where the log was decided to begin; what lies below is deleted. `None` where nobody decided: it begins with its
    /// first segment.
    pub log_start: Option<Offset>,
    /// The newest durable end that any state file knows of.
    pub durable_end: Option<Offset>,
    /// `alluvium.cleaning`: below it a pass of our cleaner may have removed records.
    pub cleaned_to: Option<Offset>,
    /// A sync began and is not known to have succeeded.
    pub in_doubt: bool,
    /// How the log was left.
    pub last_close: LastClose,
    /// Ranges that an opening found unreadable.
    pub damage: Vec<Damage>,
    /// State files that fail their own check.
    pub unreadable: Vec<Corruption>,
    /// Somebody has the log open.
    pub in_use: bool,
}

impl StateFiles {
    /// Whether the last close was clean, and nothing changed since.
    pub fn was_clean(&self) -> bool {
        self.last_close == LastClose::Clean
    }

    pub(super) fn read(home: &Home) -> Result<Self, IoFailure> {
        let left = Left::read(home)?;
        let mut state = Self {
            in_doubt: left.is_in_doubt(),
            last_close: if left.clean.is_some() { LastClose::Stale } else { LastClose::Unknown },
            // Whoever may not be asked is taken for nobody: this is a hint only.
            in_use: home.fs.is_locked(&home.dir.join(names::LOCK)).unwrap_or(false),
            ..Self::default()
        };
        match &left.point {
            Ok(Some(point)) => {
                state.recovery_point = Some(point.offset);
                state.restart = point.restart;
                state.log_start = left.with_log_start(*point).standing.log_start;
                state.durable_end = Some(left.durable_end(*point));
                let may_be_clean = !state.in_doubt && point.restart.is_none();
                if may_be_clean && left.fitting(home, *point)?.is_some() {
                    state.last_close = LastClose::Clean;
                }
            }
            Ok(None) => {}
            Err(corruption) => state.unreadable.push(corruption.clone()),
        }
        if let Err(corruption) = &left.sync {
            state.unreadable.push(corruption.clone());
        }
        match &left.cleaned {
            Ok(cleaned) => state.cleaned_to = cleaned.as_ref().map(|file| file.cleaned_to),
            Err(corruption) => state.unreadable.push(corruption.clone()),
        }
        match &left.damage {
            Ok(list) => state.damage.extend(list.iter().map(|(base, hole)| Damage {
                file: home.path(*base, FileKind::Log),
                bytes: hole.bytes.clone(),
                offsets: hole.offsets.clone(),
                cause: hole.cause.clone(),
            })),
            Err(corruption) => state.unreadable.push(corruption.clone()),
        }
        Ok(state)
    }
}
