//! Which test shows that a failure, known from production or found in other logs, does not befall the cleaner.

use std::path::{Path, PathBuf};

/// What has killed cleaners, and the tests, in `tests` or beside the code.
const SHOWN_BY: &[(&str, &[&str])] = &[
    (
        "a crash between the new files, the swap and the last rename",
        &[
            "every_step_of_a_cleaning_is_a_crash_that_loses_nothing",
            "a_second_crash_while_recovering_from_one_in_a_cleaning_loses_nothing_more",
        ],
    ),
    (
        "more keys in a segment than the map holds",
        &[
            "one_segment_with_more_keys_than_the_memory_is_cleaned_in_parts",
            "many_keys_come_to_the_same_records_whatever_the_memory",
        ],
    ),
    ("one bad partition stops all others", &["a_cleaner_that_is_hit_by_everything_catches_up_by_itself"]),
    ("a corrupt batch blocks cleaning for ever", &["a_damaged_segment_is_cleaned_around_and_never_signed_anew"]),
    ("a cleaned segment is larger than its source", &["a_segment_that_grows_when_it_is_rewritten_is_no_trouble"]),
    ("a message larger than the buffer", &["less_than_a_mebibyte_is_refused_and_a_mebibyte_does_for_any_record"]),
    (
        "the first dirty offset below the log start, past a truncation or above the end",
        &["a_raised_log_start_is_no_obstacle", "a_cut_below_what_was_cleaned_is_no_obstacle"],
    ),
    (
        "a topic made anew takes over an old first dirty offset",
        &["a_partition_that_is_made_anew_is_cleaned_from_its_start"],
    ),
    (
        "what supersedes is not durable when the superseded is gone",
        &["every_step_of_a_cleaning_is_a_crash_that_loses_nothing"],
    ),
    ("a tombstone goes too early, or a deleted key comes back", &["a_tombstone_stays_until_its_horizon_and_no_longer"]),
    ("nothing but empty batches left", &["an_empty_batch_keeps_what_its_producer_needs"]),
    ("a truncation races with the swap", &["a_log_is_truncated_while_it_is_cleaned"]),
    ("markers go while data of their transactions stay", &["a_marker_outlives_the_data_of_its_transaction"]),
    (
        "the cleaner dies, and the offsets' partition grows for weeks",
        &["a_cleaner_that_is_hit_by_everything_catches_up_by_itself"],
    ),
    (
        "an I/O error of the cleaner takes the data directory offline",
        &["a_cleaner_that_is_hit_by_everything_catches_up_by_itself"],
    ),
    ("aborted records remove the committed value below them", &["what_was_aborted_supersedes_nothing"]),
    ("every pass moves the clock of tombstones", &["a_tombstone_stays_until_its_horizon_and_no_longer"]),
    ("a marker is matched by a user's key", &["a_marker_has_no_key_whatever_its_bytes"]),
    (
        "unlinks become durable before the renames that they depend on",
        &["every_step_of_a_cleaning_is_a_crash_that_loses_nothing"],
    ),
    ("a sync that succeeds after one that failed", &["every_failing_sync_leaves_a_log_that_is_cleaned_later"]),
    (
        "a checksum is made over bytes that failed theirs",
        &["a_damaged_segment_is_cleaned_around_and_never_signed_anew"],
    ),
    (
        "a segment is clean and dirty at once and never cleaned again",
        &["one_segment_with_more_keys_than_the_memory_is_cleaned_in_parts"],
    ),
    (
        "files and descriptors are left behind by a pass that failed",
        &["every_failing_write_leaves_a_log_that_is_cleaned_later"],
    ),
    ("a fault in a mapped index kills the cleaner", &["a_cleaner_that_is_hit_by_everything_catches_up_by_itself"]),
    ("a failed rename in the middle of a swap", &["every_failing_read_and_name_leaves_a_log_that_is_cleaned_later"]),
];

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
    for (failure, tests) in SHOWN_BY {
        for test in *tests {
            assert!(text.contains(&format!("fn {test}()")), "{failure}: there is no test {test}");
        }
    }
}
