//! What the state files of a partition opened alone say.

use crate::error::{Corruption, Damage, IoFailure};
use crate::log::Left;
use crate::segment::{FileKind, Home, names};
use crate::units::Offset;

/// The state files, as far as they are there. A directory that only Kafka used has none.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct StateFiles {
    /// `alluvium.recovery-point`: everything below it was synced.
    pub recovery_point: Option<Offset>,
    /// A restart at this offset was decided and not finished: all segments are to go.
    pub restart: Option<Offset>,
    /// The newest durable end that any state file knows of.
    pub durable_end: Option<Offset>,
    /// A sync began and is not known to have succeeded.
    pub in_doubt: bool,
    /// There is a clean-shutdown marker.
    pub has_clean_marker: bool,
    /// The marker fits the files: the last close was clean.
    pub was_clean: bool,
    /// Ranges that an opening found unreadable.
    pub damage: Vec<Damage>,
    /// State files that fail their own check.
    pub unreadable: Vec<Corruption>,
    /// Somebody has the log open.
    pub in_use: bool,
}

impl StateFiles {
    pub(super) fn read(home: &Home) -> Result<Self, IoFailure> {
        let left = Left::read(home)?;
        let mut state = Self {
            in_doubt: left.is_in_doubt(),
            has_clean_marker: left.clean.is_some(),
            // Whoever may not be asked is taken for nobody: this is a hint only.
            in_use: home.fs.is_locked(&home.dir.join(names::LOCK)).unwrap_or(false),
            ..Self::default()
        };
        match &left.point {
            Ok(Some(point)) => {
                state.recovery_point = Some(point.offset);
                state.restart = point.restart;
                state.durable_end = Some(left.durable_end(*point));
                let may_be_clean = !state.in_doubt && point.restart.is_none();
                state.was_clean = may_be_clean && left.fitting(home, *point)?.is_some();
            }
            Ok(None) => {}
            Err(corruption) => state.unreadable.push(corruption.clone()),
        }
        if let Err(corruption) = &left.sync {
            state.unreadable.push(corruption.clone());
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
