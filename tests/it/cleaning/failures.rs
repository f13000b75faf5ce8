//! Which test shows that a failure, known from production or found in other logs, does not befall the cleaner.

use std::path::{Path, PathBuf};

/// What has killed cleaners, by its number in the list of known failures, and the tests, in `tests` or beside the code.
const SHOWN_BY: &[(u32, &str, &[&str])] = &[
    (
        47,
        "a crash between the new files, the swap and the last rename",
        &[
            "every_step_of_a_cleaning_is_a_crash_that_loses_nothing",
            "a_second_crash_while_recovering_from_one_in_a_cleaning_loses_nothing_more",
            "every_step_of_a_swap_is_a_crash_that_leaves_the_old_segments_or_the_new_ones",
        ],
    ),
    (
        48,
        "more keys in a segment than the map holds",
        &[
            "one_segment_with_more_keys_than_the_memory_is_cleaned_in_parts",
            "many_keys_come_to_the_same_records_whatever_the_memory",
        ],
    ),
    (
        49,
        "one bad partition stops all others",
        &[
            "a_cleaner_that_is_hit_by_everything_catches_up_by_itself",
            "a_panic_is_one_partitions_retry_and_nobody_elses",
            "an_io_error_is_tried_again_with_growing_pauses_and_at_once_when_the_settings_change",
        ],
    ),
    (50, "a corrupt batch blocks cleaning for ever", &["a_damaged_segment_is_cleaned_around_and_never_signed_anew"]),
    (51, "a cleaned segment is larger than its source", &["a_segment_that_grows_when_it_is_rewritten_is_no_trouble"]),
    (
        52,
        "a message larger than the buffer",
        &[
            "less_than_a_mebibyte_is_refused_and_a_mebibyte_does_for_any_record",
            "every_batch_is_read_once_whatever_the_window",
        ],
    ),
    (
        53,
        "the first dirty offset below the log start, past a truncation or above the end",
        &[
            "a_raised_log_start_is_no_obstacle",
            "a_cut_below_what_was_cleaned_is_no_obstacle",
            "row_53_a_first_dirty_offset_that_cannot_be_is_repaired",
            "every_step_of_a_cut_is_a_crash_after_which_nothing_new_is_called_clean",
        ],
    ),
    (
        54,
        "a topic made anew takes over an old first dirty offset",
        &["a_partition_that_is_made_anew_is_cleaned_from_its_start"],
    ),
    (
        55,
        "what supersedes is not durable when the superseded is gone",
        &[
            "every_step_of_a_cleaning_is_a_crash_that_loses_nothing",
            "what_was_not_secured_or_announced_is_not_replaced",
        ],
    ),
    (
        56,
        "a tombstone goes too early, or a deleted key comes back",
        &[
            "a_tombstone_stays_until_its_horizon_and_no_longer",
            "a_value_that_a_repair_brings_back_is_deleted_still",
            "tombstones_and_markers_past_a_hole_stay",
        ],
    ),
    (
        57,
        "nothing but empty batches left",
        &[
            "an_empty_batch_keeps_what_its_producer_needs",
            "a_cut_past_the_end_of_a_pass_keeps_the_last_sequence_that_is_left",
        ],
    ),
    (
        58,
        "a truncation races with the swap",
        &["a_log_is_truncated_while_it_is_cleaned", "what_changed_since_it_was_read_is_not_replaced"],
    ),
    (
        59,
        "markers go while data of their transactions stay",
        &["a_marker_outlives_the_data_of_its_transaction", "a_resumed_pass_knows_the_transactions_that_it_met"],
    ),
    (
        67,
        "the cleaner dies, and the offsets' partition grows for weeks",
        &[
            "a_cleaner_that_is_hit_by_everything_catches_up_by_itself",
            "a_pause_a_failure_and_an_alarm_outlive_the_process",
        ],
    ),
    (
        68,
        "who is not done is killed, and begins from the start, for ever",
        &["a_cleaning_that_is_killed_over_and_over_comes_to_its_end", "an_interrupted_pass_goes_on_where_it_was"],
    ),
    (
        70,
        "too many descriptors with many segments",
        &[
            "slices_and_views_from_before_go_on_showing_the_old_segments",
            "groups_are_no_larger_than_what_can_be_written",
        ],
    ),
    (
        72,
        "an I/O error of the cleaner takes the data directory offline",
        &[
            "a_cleaner_that_is_hit_by_everything_catches_up_by_itself",
            "a_disk_that_fails_at_any_step_costs_nothing_but_the_swap",
        ],
    ),
    (73, "aborted records remove the committed value below them", &["what_was_aborted_supersedes_nothing"]),
    (74, "every pass moves the clock of tombstones", &["a_tombstone_stays_until_its_horizon_and_no_longer"]),
    (
        75,
        "a marker is matched by a user's key",
        &["a_marker_has_no_key_whatever_its_bytes", "control_records_have_no_keys_to_a_cleaner"],
    ),
    (
        76,
        "unlinks become durable before the renames that they depend on",
        &[
            "every_step_of_a_cleaning_is_a_crash_that_loses_nothing",
            "every_step_of_a_swap_is_a_crash_that_leaves_the_old_segments_or_the_new_ones",
        ],
    ),
    (77, "a sync that succeeds after one that failed", &["every_failing_sync_leaves_a_log_that_is_cleaned_later"]),
    (
        78,
        "a checksum is made over bytes that failed theirs",
        &["a_damaged_segment_is_cleaned_around_and_never_signed_anew", "damage_is_cleaned_around_and_left_as_it_is"],
    ),
    (
        79,
        "a segment is clean and dirty at once and never cleaned again",
        &[
            "one_segment_with_more_keys_than_the_memory_is_cleaned_in_parts",
            "row_79_dirtiness_is_counted_in_offsets_and_reaching_the_ratio_is_enough",
        ],
    ),
    (80, "a full map ends the round for a key that it holds", &["a_full_map_still_updates_what_it_holds"]),
    (
        81,
        "files and descriptors are left behind by a pass that failed",
        &[
            "every_failing_write_leaves_a_log_that_is_cleaned_later",
            "a_full_disk_makes_a_pass_partial_or_ends_it_and_nothing_is_left_behind",
        ],
    ),
    (
        82,
        "a fault has another consequence in each phase, and a retry spins",
        &[
            "an_io_error_is_tried_again_with_growing_pauses_and_at_once_when_the_settings_change",
            "failures_are_retried_after_pauses_that_double_up_to_a_bound_and_end_with_a_success",
        ],
    ),
    (
        83,
        "a fault in a mapped index kills the cleaner",
        &[
            "a_cleaner_that_is_hit_by_everything_catches_up_by_itself",
            "a_panic_is_one_partitions_retry_and_nobody_elses",
        ],
    ),
    (87, "reading goes on past a hole without a word", &["damage_is_told_and_stepped_over"]),
    (
        88,
        "a failed rename in the middle of a swap",
        &[
            "every_failing_read_and_name_leaves_a_log_that_is_cleaned_later",
            "a_disk_that_fails_at_any_step_costs_nothing_but_the_swap",
        ],
    ),
];

/// Failures of what is around the cleaner, which are shown elsewhere: producers' snapshots, the page cache, recovery,
/// scrubbing, validation, syncs.
const NOT_OF_THE_CLEANER: [u32; 8] = [69, 71, 84, 85, 86, 89, 90, 91];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_known_failure_of_cleaners_has_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    sources(&root.join("tests"), &mut paths);
    sources(&root.join("src"), &mut paths);
    let text: String = paths.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    for (row, failure, tests) in SHOWN_BY {
        for test in *tests {
            assert!(text.contains(&format!("fn {test}()")), "row {row}, {failure}: there is no test {test}");
        }
    }
    let mut rows: Vec<u32> = SHOWN_BY.iter().map(|(row, ..)| *row).chain(NOT_OF_THE_CLEANER).collect();
    rows.sort_unstable();
    assert_eq!(rows, (47..=59).chain(67..=91).collect::<Vec<_>>(), "each row once");
}
