use super::super::cause::CauseKind;
use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: u64) -> Now {
    let wall = 1_000_000 + i64::try_from(seconds).unwrap() * 1000;
    Now { wall: TimestampMs::new(wall), monotonic: Duration::from_secs(seconds) }
}

fn config() -> CleanerConfig {
    CleanerConfig {
        retry: SECOND,
        retry_max: Duration::from_mins(1),
        behind_bytes: Some(1000),
        behind_after: Some(Duration::from_secs(100)),
        ..CleanerConfig::default()
    }
}

fn look(dirty_bytes: u64) -> Look {
    let due = (dirty_bytes > 0).then_some(CleaningReason::Ratio);
    Look { due, dirty_bytes, excess_bytes: dirty_bytes, ..Look::default() }
}

fn trouble() -> CleaningCause {
    CleaningCause::new(CauseKind::Io, "the disk says no")
}

fn due(seconds: u64) -> Track {
    let mut track = Track::default();
    drop(track.saw(look(10), at(seconds), &config()));
    track
}

fn running(seconds: u64) -> Track {
    let mut track = due(seconds);
    assert!(track.claim(0, at(seconds)));
    track
}

#[test]
fn a_partition_goes_from_clean_to_due_to_cleaning_to_clean() {
    let mut track = Track::default();
    assert_eq!(track.state(), CleaningState::Clean);
    assert!(!track.claim(0, at(0)), "nothing is due");
    assert_eq!(track.saw(look(10), at(1), &config()), Effects::default());
    assert_eq!(track.state(), CleaningState::Due { since: at(1).wall, because: CleaningReason::Ratio });
    drop(track.saw(look(20), at(2), &config()));
    assert!(matches!(track.state(), CleaningState::Due { since, .. } if since == at(1).wall), "since the first look");
    assert!(track.claim(3, at(2)));
    assert!(!track.claim(4, at(2)), "one worker at a time");
    track.begin_step(at(2));
    assert_eq!(track.in_step_since(), Some(2 * SECOND));
    let bytes = PassBytes { done: 100, total: 400, freed: 7 };
    track.progressed(CleaningPhase::Rewriting, CleanMode::Spill, bytes, at(12));
    let CleaningState::Cleaning(progress) = track.state() else { panic!("{:?}", track.state()) };
    assert_eq!((progress.worker, progress.bytes_left, progress.bytes_freed), (3, 300, 7));
    assert_eq!(progress.time_left, Some(30 * SECOND));
    let cleaned = Cleaned { bytes_freed: 5, ..Cleaned::default() };
    let effects = track.finished(&cleaned, at(20));
    assert!(effects.is_new && effects.told.is_empty());
    assert_eq!(track.state(), CleaningState::Clean);
    assert_eq!(track.last().unwrap().bytes_freed, 5);
}

#[test]
fn failures_are_retried_after_pauses_that_double_up_to_a_bound_and_end_with_a_success() {
    let (mut track, mut now) = (due(0), 0);
    let mut pauses = Vec::new();
    for attempt in 1..=9 {
        assert!(track.claim(0, at(now)), "attempt {attempt}");
        let effects = track.failed(trouble(), at(now), &config());
        let [Told::Failed { attempt: told, retry_at, .. }] = &effects.told[..] else { panic!("{effects:?}") };
        assert!(effects.is_new && *told == attempt);
        let pause = u64::try_from(retry_at.since(at(now).wall)).unwrap() / 1000;
        assert!(!track.is_eligible(at(now + pause - 1)) && track.is_eligible(at(now + pause)));
        assert!(matches!(track.state(), CleaningState::Retry { attempt: told, .. } if told == attempt));
        pauses.push(pause);
        now += pause;
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    assert!(track.claim(0, at(now)));
    assert_eq!(track.finished(&Cleaned::default(), at(now)).told, [Told::Recovered]);
    assert!(track.retry().is_none());
}

#[test]
fn a_failure_is_tried_again_also_where_nothing_seems_due_any_more() {
    let mut track = running(0);
    drop(track.failed(trouble(), at(0), &config()));
    drop(track.saw(look(0), at(0), &config()));
    assert!(!track.is_eligible(at(0)) && track.is_eligible(at(1)));
    assert!(track.claim(0, at(1)));
    assert_eq!(track.had_nothing(at(1)).told, [Told::Recovered]);
    assert_eq!(track.state(), CleaningState::Clean);
}

#[test]
fn what_cannot_be_looked_at_fails_once_a_pause_and_not_once_a_look() {
    let mut track = Track::default();
    let first = track.could_not_be_seen(trouble(), at(0), &config());
    assert_eq!(first.told.len(), 1);
    assert_eq!(track.could_not_be_seen(trouble(), at(0), &config()), Effects::default());
    assert_eq!(track.could_not_be_seen(trouble(), at(1), &config()).told.len(), 1);
    assert_eq!(track.retry().unwrap().attempt, 2);
}

#[test]
fn it_is_tried_at_once_when_the_cause_is_gone_or_somebody_asks() {
    for ask in [Track::try_now, Track::ask, |track: &mut Track, now| drop(track.resume(now))] {
        let mut track = running(0);
        drop(track.failed(trouble(), at(0), &config()));
        assert!(!track.is_eligible(at(0)));
        ask(&mut track, at(0));
        assert!(track.is_eligible(at(0)));
    }
    let mut track = Track::default();
    track.ask(at(0));
    assert!(track.claim(0, at(0)), "asked for, though nothing is due");
    drop(track.had_nothing(at(0)));
    assert!(!track.is_eligible(at(0)), "asked for once");
}

#[test]
fn what_came_in_between_is_no_failure_and_does_not_spin() {
    let mut track = running(0);
    track.came_between(at(0), &config());
    assert!(matches!(track.state(), CleaningState::Due { .. }) && track.retry().is_none());
    assert!(!track.is_eligible(at(0)) && track.is_eligible(at(1)));
}

#[test]
fn a_pause_ends_the_pass_after_its_step_and_holds_until_resumed() {
    let mut track = running(0);
    assert!(track.is_wanted());
    assert_eq!(track.pause("operator", at(1)).told, [Told::Paused { by: "operator".into() }]);
    assert_eq!(track.pause("operator", at(2)), Effects::default(), "told once");
    assert!(!track.is_wanted());
    track.leave(at(2));
    assert_eq!(track.state(), CleaningState::Paused { by: "operator".into(), since: at(1).wall });
    track.ask(at(3));
    assert!(!track.is_eligible(at(100)));
    assert_eq!(track.resume(at(100)).told, [Told::Resumed]);
    assert!(track.is_eligible(at(100)));
    assert_eq!(track.resume(at(100)), Effects::default());
}

#[test]
fn an_abort_ends_the_pass_alone() {
    let mut track = running(0);
    track.abort(at(0), &config());
    assert!(!track.is_wanted());
    track.leave(at(0));
    assert!(!track.is_eligible(at(0)) && track.is_eligible(at(1)));
}

#[test]
fn falling_behind_and_catching_up_is_told_once_each_with_some_distance_in_between() {
    let mut track = Track::default();
    assert_eq!(track.saw(look(1000), at(0), &config()), Effects::default());
    let effects = track.saw(look(3000), at(2), &config());
    let [Told::Behind(behind)] = effects.told[..] else { panic!("{effects:?}") };
    assert_eq!((behind.backlog_bytes, behind.growth_bytes_per_second), (3000, 500), "half of the new rate");
    assert_eq!(track.saw(look(900), at(3), &config()), Effects::default(), "not well below the limit");
    assert!(track.behind().unwrap().growth_bytes_per_second < 0);
    assert_eq!(track.saw(look(400), at(4), &config()).told, [Told::CaughtUp]);
    assert!(track.behind().is_none());
}

#[test]
fn who_waits_too_long_is_behind_whatever_its_size_and_also_while_paused() {
    let mut track = due(0);
    drop(track.pause("operator", at(0)));
    assert_eq!(track.saw(look(10), at(99), &config()), Effects::default());
    let effects = track.saw(look(10), at(100), &config());
    assert!(matches!(effects.told[..], [Told::Behind(Behind { overdue_ms: 100_000, .. })]), "{effects:?}");
    let overdue = Look { overdue_ms: 100_000, ..look(10) };
    assert_eq!(Track::default().saw(overdue, at(0), &config()).told.len(), 1, "by the log's own lag");
    let never = CleanerConfig { behind_after: None, behind_bytes: None, ..config() };
    assert_eq!(due(0).saw(look(u64::MAX), at(1_000_000), &never), Effects::default());
}

#[test]
fn the_neediest_goes_first_and_equals_take_turns() {
    let seen = |dirty, overdue_ms| {
        let mut track = Track::default();
        drop(track.saw(Look { overdue_ms, ..look(dirty) }, at(0), &config()));
        track
    };
    let (small, large, overdue, behind) = (seen(10, 0), seen(20, 0), seen(1, 50), seen(5000, 0));
    assert!(large.urgency() > small.urgency());
    assert!(overdue.urgency() > large.urgency());
    assert!(behind.urgency() > overdue.urgency());
    let mut asked = small.clone();
    asked.ask(at(0));
    assert!(asked.urgency() > behind.urgency());
    let mut had_its_turn = small.clone();
    assert!(had_its_turn.claim(0, at(0)));
    had_its_turn.leave(at(9));
    assert!(small.urgency() > had_its_turn.urgency());
}

#[test]
fn a_later_process_goes_on_where_the_one_before_was() {
    let mut track = running(0);
    drop(track.failed(trouble(), at(10), &config()));
    drop(track.saw(look(5000), at(10), &config()));
    drop(track.pause("operator", at(10)));
    let remembered = track.remember();
    let again = Track::restore(remembered.clone(), Now { monotonic: Duration::ZERO, ..at(11) }, &config());
    assert_eq!(again.remember(), remembered);
    assert_eq!(again.state(), track.state());
    assert_eq!(again.behind().unwrap().since, at(10).wall);

    // A clock that was set back by years must not keep it from being tried.
    let early = Now { wall: TimestampMs::new(-1_000_000_000_000), monotonic: Duration::ZERO };
    let mut early_again = Track::restore(remembered, early, &config());
    drop(early_again.resume(early));
    assert!(early_again.is_eligible(early));
    let mut waits = Track::restore(Remembered { pause: None, ..track.remember() }, early, &config());
    assert!(waits.is_eligible(Now { monotonic: 2 * SECOND, ..early }), "{waits:?}");
    drop(waits.saw(look(1), early, &config()));
}

#[test]
fn numbers_at_their_ends_are_no_trouble() {
    let mut track = Track::default();
    let ends = Now { wall: TimestampMs::new(i64::MAX), monotonic: Duration::MAX };
    let starts = Now { wall: TimestampMs::new(i64::MIN), monotonic: Duration::ZERO };
    drop(track.saw(Look { overdue_ms: u64::MAX, ..look(u64::MAX) }, starts, &config()));
    drop(track.saw(look(0), ends, &config()));
    drop(track.saw(look(u64::MAX), ends, &config()));
    assert!(track.claim(usize::MAX, ends));
    let bytes = PassBytes { done: u64::MAX, total: 0, freed: u64::MAX };
    track.progressed(CleaningPhase::Learning, CleanMode::Map, bytes, ends);
    drop(track.failed(trouble(), ends, &config()));
    let _ = track.state();
}

/// Whatever happens in whatever order: a claim is exclusive, a pause holds, and a failure is always tried again.
#[test]
fn no_order_of_events_loses_a_partition() {
    for seed in 0..500 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut track, mut seconds) = (Track::default(), 0);
        for _ in 0..200 {
            seconds += random.u64(0..3);
            let now = at(seconds);
            match random.u8(0..10) {
                0 => drop(track.saw(look(random.u64(0..3000)), now, &config())),
                1 | 2 => {
                    let (was_running, may) = (track.is_running(), track.is_eligible(now));
                    assert_eq!(track.claim(0, now), may && !was_running, "seed {seed}");
                }
                3 if track.is_running() => drop(track.failed(trouble(), now, &config())),
                4 if track.is_running() => drop(track.finished(&Cleaned::default(), now)),
                5 => drop(track.pause("somebody", now)),
                6 => drop(track.resume(now)),
                7 => track.ask(now),
                8 if track.is_running() => track.came_between(now, &config()),
                _ => track.leave(now),
            }
            let state = track.state();
            assert_eq!(matches!(state, CleaningState::Paused { .. }), track.pause.is_some(), "seed {seed}");
            assert!(!(track.pause.is_some() && track.is_eligible(now)), "seed {seed}");
        }
        let later = at(seconds + 3600);
        drop(track.resume(later));
        track.leave(later);
        drop(track.saw(look(1), later, &config()));
        assert!(track.is_eligible(later), "seed {seed}: {track:?}");
    }
}
