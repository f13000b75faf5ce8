use super::*;
use crate::DirtyRatio;
use crate::clean::plan::{SegmentFacts, judge};
use crate::commit::Marks;
use crate::config::{CleanupPolicy, LogConfig};
use crate::units::TimestampMs;

fn offset(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

fn segment(base: i64, end: i64) -> SegmentFacts {
    SegmentFacts {
        base: offset(base),
        end: offset(end),
        bytes: end.abs_diff(base),
        index_bytes: 0,
        first_timestamp: Some(TimestampMs::new(1)),
        largest_timestamp: Some(TimestampMs::new(end)),
        last_written: None,
        is_active: end == 500,
        has_holes: base == 100,
    }
}

fn told(config: &LogConfig) -> Vec<String> {
    let segments = [segment(0, 100), segment(100, 200), segment(200, 300), segment(300, 400), segment(400, 500)];
    let end = offset(500);
    let marks = Marks {
        log_start: offset(10),
        last_stable: offset(350),
        high_watermark: offset(490),
        durable_end: offset(250),
        log_end: end,
    };
    let facts = LogFacts { segments: &segments, marks, first_dirty: Some(offset(210)), pass: None, next_horizon: None };
    let outlook = judge(&facts, config, TimestampMs::new(1000));
    explain(&facts, &outlook).iter().map(ToString::to_string).collect()
}

#[test]
fn every_stretch_has_its_fate_and_its_numbers() {
    let config = LogConfig { cleanup_policy: CleanupPolicy::Compact, ..LogConfig::default() };
    let lagging = LogConfig { min_cleanable_dirty_ratio: DirtyRatio::new(0.9).unwrap(), ..config.clone() };
    let clean = "clean: a pass has cleaned it; what was superseded since goes with the next one";
    let open = "a transaction is open from 350 on (last stable offset)";
    let not_synced = "it is not synced from 250 on (durable end); a pass syncs it first";
    assert_eq!(
        told(&lagging),
        [
            format!("10..100: 90 bytes, {clean}"),
            "100..200: 100 bytes, damaged: the segment at 100 cannot all be read; it supersedes older records and is left \
             as it is"
                .to_owned(),
            format!("200..210: 10 bytes, {clean}"),
            "210..350: 140 bytes, waits: 140 bytes are dirty and 200 clean: less than min.cleanable.dirty.ratio = 0.9"
                .to_owned(),
            format!("350..400: 50 bytes, held back: {not_synced}; {open}"),
            format!("400..490: 90 bytes, held back: {not_synced}; {open}; the active segment begins at 400 and is never cleaned"),
            format!("490..500: 10 bytes, held back: {not_synced}; {open}; the active segment begins at 400 and is never cleaned; it is not replicated from 490 on (high watermark)"),
        ]
    );
    let overdue = LogConfig { max_compaction_lag_ms: 600, ..config };
    assert!(told(&overdue)[3].starts_with("210..350: 140 bytes, due: max.compaction.lag.ms had passed"), "{overdue:?}");
    assert_eq!(
        told(&LogConfig { retention_ms: None, ..LogConfig::default() }),
        ["10..500: 490 bytes, not compacted: cleanup.policy is delete; set it to compact"]
    );
}
