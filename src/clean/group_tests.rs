use super::*;

fn offset(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

fn segment(base: i64, end: i64, bytes: u64) -> SegmentFacts {
    SegmentFacts {
        base: offset(base),
        end: offset(end),
        bytes,
        index_bytes: bytes / 10,
        first_timestamp: None,
        largest_timestamp: None,
        last_written: None,
        is_active: false,
        has_holes: false,
    }
}

const LIMITS: GroupLimits = GroupLimits { segment_bytes: 100, index_bytes: 1000, output_bytes: None };

fn places(segments: &[SegmentFacts], limits: &GroupLimits) -> Vec<(Range<usize>, GroupFate)> {
    let groups = groups(segments, offset(0), Offset::MAX, limits);
    groups.into_iter().map(|group| (group.segments, group.fate)).collect()
}

#[test]
fn neighbours_are_merged_while_they_fit_one_segment() {
    use GroupFate::Rewrite;
    let all = [segment(0, 10, 50), segment(10, 20, 50), segment(20, 30, 1), segment(30, 40, 200), segment(40, 50, 1)];
    assert_eq!(places(&all, &LIMITS), [(0..2, Rewrite), (2..3, Rewrite), (3..4, Rewrite), (4..5, Rewrite)]);
    let small_index = GroupLimits { index_bytes: 9, ..LIMITS };
    assert_eq!(places(&all[..2], &small_index), [(0..1, Rewrite), (1..2, Rewrite)]);
}

#[test]
fn offsets_of_a_group_are_within_31_bits_of_its_base() {
    let last = i64::from(i32::MAX);
    let spanning = |end| places(&[segment(0, 10, 1), segment(10, end, 1)], &LIMITS).len();
    assert_eq!((spanning(last + 1), spanning(last + 2)), (1, 2));
    assert_eq!(places(&[segment(0, i64::MAX, 1)], &LIMITS), [(0..1, GroupFate::Rewrite)], "alone it is as it was");
}

#[test]
fn a_damaged_segment_is_alone_and_a_boundary() {
    use GroupFate::{Damaged, Rewrite};
    let damaged = SegmentFacts { has_holes: true, ..segment(10, 20, 500) };
    let all = [segment(0, 10, 1), damaged, segment(20, 30, 1), segment(30, 40, 1)];
    let limits = GroupLimits { output_bytes: Some(10), ..LIMITS };
    assert_eq!(places(&all, &limits), [(0..1, Rewrite), (1..2, Damaged), (2..4, Rewrite)]);
}

/// On a full disk a group is no larger than what can be written, and who does not fit says by how much.
#[test]
fn groups_are_no_larger_than_what_can_be_written() {
    use GroupFate::{Rewrite, TooLarge};
    let all = [segment(0, 10, 6), segment(10, 20, 6), segment(20, 30, 4), segment(30, 40, 25)];
    let limits = GroupLimits { output_bytes: Some(10), ..LIMITS };
    assert_eq!(places(&all, &limits), [(0..1, Rewrite), (1..3, Rewrite), (3..4, TooLarge { missing_bytes: 15 })]);
    let found = groups(&all, offset(0), Offset::MAX, &limits);
    assert_eq!((missing_bytes(&found), missing_bytes(&found[..2])), (Some(15), None));
}

#[test]
fn what_is_active_below_the_log_start_or_past_the_end_is_in_no_group() {
    let active = SegmentFacts { is_active: true, ..segment(40, 50, 1) };
    let all = [segment(0, 10, 1), segment(10, 20, 1), segment(20, 30, 1), segment(30, 40, 1), active];
    let found = |from, to| {
        let groups = groups(&all, offset(from), offset(to), &LIMITS);
        groups.into_iter().map(|group| (group.base.value(), group.end.value(), group.bytes)).collect::<Vec<_>>()
    };
    assert_eq!(found(0, 100), [(0, 40, 4)]);
    assert_eq!(found(10, 30), [(10, 30, 2)]);
    assert_eq!(found(9, 31), [(0, 40, 4)]);
    assert_eq!(found(30, 30), []);
    assert_eq!(found(100, 0), []);
}

/// Every sealed segment is in one group, groups are in order, and each fits its limits.
#[test]
fn groups_cover_everything_and_keep_their_limits() {
    let mut rng = fastrand::Rng::with_seed(3);
    let rounds = std::env::var("ALLUVIUM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2_000_u64);
    for _ in 0..rounds {
        let mut base = 0_i64;
        let mut all = Vec::new();
        for _ in 0..rng.usize(0..12) {
            let start = base + if rng.u8(..) < 20 { i64::from(i32::MAX) } else { 0 };
            let end = start + if rng.u8(..) < 20 { rng.i64(1..1 << 31) } else { rng.i64(0..100) };
            let has_holes = rng.u8(..) < 30;
            let bytes = if rng.u8(..) < 5 { u64::MAX } else { rng.u64(0..80) };
            all.push(SegmentFacts { has_holes, ..segment(start, end, bytes) });
            base = end;
        }
        let output_bytes = [None, Some(0), Some(40), Some(u64::MAX)][rng.usize(..4)];
        let limits = GroupLimits { segment_bytes: rng.u64(0..300), index_bytes: rng.u64(0..30), output_bytes };
        // Segments without an offset, and those at the very start, are below the log start.
        let expected: Vec<usize> = (0..all.len()).filter(|at| all[*at].end > Offset::ZERO).collect();
        let found = groups(&all, Offset::ZERO, Offset::MAX, &limits);
        assert_eq!(found, groups(&all, Offset::ZERO, Offset::MAX, &limits));
        let covered: Vec<usize> = found.iter().flat_map(|group| group.segments.clone()).collect();
        assert_eq!(covered, expected, "{all:?}");
        for group in &found {
            let of = &all[group.segments.clone()];
            assert_eq!((group.base, group.end), (of[0].base, of[of.len() - 1].end));
            assert_eq!(of[0].has_holes, group.fate == GroupFate::Damaged);
            if of.len() > 1 {
                let bytes: u64 = of.iter().map(|segment| segment.bytes).sum();
                assert!(bytes <= limits.segment_bytes && bytes <= output_bytes.unwrap_or(u64::MAX), "{group:?}");
                assert!(of.iter().map(|segment| segment.index_bytes).sum::<u64>() <= limits.index_bytes);
                assert!(group.end.distance_from(group.base) <= 1 << 31, "{group:?}");
                assert!(of.iter().all(|segment| !segment.has_holes) && group.fate == GroupFate::Rewrite);
            }
        }
        // No two of them could have been one.
        for pair in found.windows(2) {
            assert!(pair[0].segments.end != pair[1].segments.start || pair[0].joined(&pair[1], &limits).is_none());
        }
    }
}
