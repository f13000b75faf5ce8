//! The marks of a log: how far it reaches in each of the senses that a reader may ask for.

pub use crate::units::Mark;
use crate::units::Offset;

/// The marks of a log, one consistent snapshot. All ends are exclusive.
///
/// `log_start <= last_stable <= high_watermark <= log_end` and `durable_end <= log_end` hold in every snapshot. Names
/// and order are those of Kafka's `UnifiedLog`; the durable end is its recovery point. What a snapshot says is true of
/// one moment: appends go on while it is looked at. Of a crash only `durable_end` says anything: what lies below it
/// survives a power loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// First readable offset.
    pub log_start: Offset,
    /// No transaction below it is undecided. Consumers that read committed records stop here.
    pub last_stable: Offset,
    /// Everything below it is replicated as far as the embedder demands. Consumers stop here.
    pub high_watermark: Offset,
    /// Everything below it survives a power loss.
    pub durable_end: Offset,
    /// Next offset to be assigned.
    pub log_end: Offset,
}

impl Marks {
    /// Checks all that must hold between the marks, after every change.
    pub(crate) fn checked(self) -> Self {
        assert!(self.log_start <= self.last_stable, "{self:?}");
        assert!(self.last_stable <= self.high_watermark, "{self:?}");
        assert!(self.high_watermark <= self.log_end, "{self:?}");
        assert!(self.durable_end <= self.log_end, "{self:?}");
        self
    }

    /// Where `mark` stands.
    pub fn of(&self, mark: Mark) -> Offset {
        match mark {
            Mark::LogStart => self.log_start,
            Mark::LastStable => self.last_stable,
            Mark::HighWatermark => self.high_watermark,
            Mark::DurableEnd => self.durable_end,
            Mark::LogEnd => self.log_end,
        }
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;

    fn marks(ends: [i64; 5]) -> Marks {
        let [log_start, last_stable, high_watermark, durable_end, log_end] = ends.map(|end| Offset::new(end).unwrap());
        Marks { log_start, last_stable, high_watermark, durable_end, log_end }
    }

    #[test]
    fn each_mark_is_its_own_field() {
        let marks = marks([1, 2, 3, 0, 5]).checked();
        let found = Mark::ALL.map(|mark| marks.of(mark).value());
        assert_eq!(found, [1, 2, 3, 0, 5], "in the order of the enum");
    }

    #[test]
    fn every_broken_order_is_caught() {
        let broken = [[3, 2, 3, 0, 5], [1, 4, 3, 0, 5], [1, 2, 6, 0, 5], [1, 2, 3, 6, 5]];
        for ends in broken {
            let outcome = std::panic::catch_unwind(|| marks(ends).checked());
            assert!(outcome.is_err(), "{ends:?}");
        }
    }
}
