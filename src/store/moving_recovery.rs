//! What an opening makes of the copies of a partition that crashes left, by their names and markers alone.
//!
//! | found | what is done |
//! |---|---|
//! | one live copy | it is served; copies beside it are set aside, whatever they say: it has all that was acknowledged |
//! | two live copies | none is served: no crash of ours leaves them, and nothing tells which one was written last |
//! | none; one future copy that is complete | the move is finished |
//! | the same, and a directory cannot be looked at | nothing yet: the partition may be there, and live |
//! | none; several that are complete | none is served |
//! | none; a copy that adopting left half-done | it is set aside: the original is where it came from |
//! | none; other future copies | they are left and told: whatever became of the original, they may be all there is |
//!
//! An incomplete copy beside a live one is set aside and not gone on with, as Kafka would: meanwhile the partition may have
//! been cut and written anew, so that all of the copy would have to be compared, which costs as much as to copy it; and
//! whether it is still to be moved is for the embedder to say again.
//!
//! Of two live copies Kafka's own order of renames may leave two that are equal, and hands made others that are not; Kafka
//! refuses to start with them. Here the other partitions are served.

use std::collections::BTreeMap;
use std::path::Path;

use super::moving_marker::{self as marker, Mark};
use super::names::{Entry, Fate, MarkedDir, list};
use super::partition_id::TopicPartition;
use crate::error::IoFailure;
use crate::fs::FileSystem;

/// What one data directory has of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DirState {
    /// Which directory, by its place in the list of all.
    pub(crate) dir: usize,
    /// What it has.
    pub(crate) copy: CopyState,
}

/// A directory of a partition, or the lack of any word about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CopyState {
    /// Under the partition's own name, with a marker or without.
    Live { has_mark: bool },
    /// Under the name of a copy.
    Future { name: MarkedDir, mark: Mark },
    /// On its way out.
    Retired { name: MarkedDir },
    /// The data directory cannot be looked at.
    Offline,
}

/// What is to be done about a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// This is the copy to open; `tidy` when a marker is left in it.
    Serve { dir: usize, tidy: bool },
    /// The move is finished: the retired original loses its name again, durably, and the copy gets it. Then it is served.
    Finish { dir: usize, name: MarkedDir, retired: Vec<(usize, MarkedDir)> },
    /// The copy is to be removed.
    SetAside { dir: usize, name: MarkedDir },
    /// The copy stays as it is and is not served.
    Leave { dir: usize, name: MarkedDir, because: LeftBecause },
    /// Nothing of the partition is served, and nothing changed.
    Refuse { dirs: Vec<usize>, because: RefusedBecause },
}

/// Why a copy is neither served nor removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeftBecause {
    /// It does not say that it is complete, and there is no original.
    Orphan,
    /// A data directory that may have the original cannot be looked at.
    DirectoryOffline,
}

/// Why a partition is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefusedBecause {
    /// Two data directories have it under its own name.
    TwoLive,
    /// Two copies say that they are complete, and there is no original.
    TwoComplete,
}

/// What to do about one partition, of which the data directories have `found`. Pure; see the table of the module.
pub(crate) fn decide(found: &[DirState]) -> Vec<Action> {
    let live: Vec<(usize, bool)> = found.iter().filter_map(live_of).collect();
    let futures: Vec<(usize, &MarkedDir, Mark)> = found.iter().filter_map(future_of).collect();
    let set_aside = |(dir, name, _): &(usize, &MarkedDir, Mark)| Action::SetAside { dir: *dir, name: (*name).clone() };
    match live.as_slice() {
        [(dir, has_mark)] => {
            let serve = Action::Serve { dir: *dir, tidy: *has_mark };
            std::iter::once(serve).chain(futures.iter().map(set_aside)).collect()
        }
        [] => decide_without_original(found, &futures),
        several => {
            let dirs = several.iter().map(|(dir, _)| *dir).collect();
            vec![Action::Refuse { dirs, because: RefusedBecause::TwoLive }]
        }
    }
}

fn decide_without_original(found: &[DirState], futures: &[(usize, &MarkedDir, Mark)]) -> Vec<Action> {
    let is_offline = found.iter().any(|state| state.copy == CopyState::Offline);
    let is_complete = |mark: &Mark| matches!(mark, Mark::Complete { .. });
    let complete: Vec<_> = futures.iter().filter(|(_, _, mark)| is_complete(mark)).collect();
    let finished = match complete.as_slice() {
        [(dir, name, _)] if !is_offline => Some((*dir, *name)),
        [] | [_] => None,
        several => {
            let dirs = several.iter().map(|(dir, _, _)| *dir).collect();
            return vec![Action::Refuse { dirs, because: RefusedBecause::TwoComplete }];
        }
    };
    let of_future = |(dir, name, mark): &(usize, &MarkedDir, Mark)| {
        let (dir, name) = (*dir, (*name).clone());
        match (finished, mark) {
            (Some(done), _) if done == (dir, &name) => {
                let retired = found.iter().filter_map(|state| retired_of(state, &name)).collect();
                Action::Finish { dir, name, retired }
            }
            (Some(_), _) | (None, Mark::Adoption) => Action::SetAside { dir, name },
            (None, Mark::Complete { .. }) => Action::Leave { dir, name, because: LeftBecause::DirectoryOffline },
            (None, Mark::None) => {
                let because = if is_offline { LeftBecause::DirectoryOffline } else { LeftBecause::Orphan };
                Action::Leave { dir, name, because }
            }
        }
    };
    // The one that is served comes last: the others are out of its way by then.
    let mut actions: Vec<Action> = futures.iter().map(of_future).collect();
    actions.sort_by_key(|action| matches!(action, Action::Finish { .. }));
    actions
}

fn live_of(state: &DirState) -> Option<(usize, bool)> {
    if let CopyState::Live { has_mark } = state.copy { Some((state.dir, has_mark)) } else { None }
}

fn future_of(state: &DirState) -> Option<(usize, &MarkedDir, Mark)> {
    if let CopyState::Future { name, mark } = &state.copy { Some((state.dir, name, *mark)) } else { None }
}

/// The original that the switch to `copy` put out of service.
fn retired_of(state: &DirState, copy: &MarkedDir) -> Option<(usize, MarkedDir)> {
    let CopyState::Retired { name } = &state.copy else { return None };
    (name.id() == copy.id()).then(|| (state.dir, name.clone()))
}

/// What was made of the copies of one partition.
#[derive(Clone, Debug)]
pub(crate) struct Recovered {
    pub(crate) partition: TopicPartition,
    /// The data directory that serves it, by its place in the list; `None` where it is not to be opened.
    pub(crate) served: Option<usize>,
    /// What was done, in order.
    pub(crate) done: Vec<Action>,
    /// What failed. Where it was part of finishing a move, the partition is not served.
    pub(crate) failed: Vec<(Action, IoFailure)>,
}

/// What was made of all partitions of which there is more than one copy, or a copy and no original.
#[derive(Clone, Debug, Default)]
pub(crate) struct MoveReport {
    /// By partition.
    pub(crate) partitions: Vec<Recovered>,
    /// Data directories that could not be looked at.
    pub(crate) offline: Vec<(usize, IoFailure)>,
}

/// Looks through the data directories, `None` for one that is known to be offline, and finishes or undoes what moves and
/// adoptions left. To be called while they are locked and before a partition in them is opened. May be repeated.
///
/// Partitions that have one live copy, without a marker, and nothing else are not in the report: they are served as they
/// are.
pub(crate) fn recover_moves(fs: &dyn FileSystem, dirs: &[Option<&Path>]) -> MoveReport {
    let mut report = MoveReport::default();
    let mut found: BTreeMap<TopicPartition, Vec<DirState>> = BTreeMap::new();
    let mut offline = Vec::new();
    for (at, dir) in dirs.iter().enumerate() {
        let Some(dir) = dir else {
            offline.push(at);
            continue;
        };
        match copies_in(fs, dir) {
            Ok(copies) => {
                for (partition, copy) in copies {
                    found.entry(partition).or_default().push(DirState { dir: at, copy });
                }
            }
            Err(failure) => {
                offline.push(at);
                report.offline.push((at, failure));
            }
        }
    }
    for (partition, mut states) in found {
        let is_plain =
            |state: &DirState| matches!(state.copy, CopyState::Live { has_mark: false } | CopyState::Retired { .. });
        let lives = states.iter().filter(|state| live_of(state).is_some()).count();
        if lives < 2 && states.iter().all(is_plain) {
            continue;
        }
        states.extend(offline.iter().map(|dir| DirState { dir: *dir, copy: CopyState::Offline }));
        report.partitions.push(act(fs, dirs, partition, decide(&states)));
    }
    report
}

fn copies_in(fs: &dyn FileSystem, dir: &Path) -> Result<Vec<(TopicPartition, CopyState)>, IoFailure> {
    let mut copies = Vec::new();
    for listed in list(fs, dir)? {
        let path = dir.join(&listed.name);
        match listed.entry {
            Entry::Partition(partition) => {
                copies.push((partition, CopyState::Live { has_mark: marker::has_mark(fs, &path)? }));
            }
            Entry::Marked(name) => {
                let Some(partition) = name.partition() else { continue };
                let copy = match name.fate() {
                    Fate::Future => CopyState::Future { mark: Mark::read(fs, &path)?, name },
                    Fate::Delete | Fate::Stray => CopyState::Retired { name },
                };
                copies.push((partition, copy));
            }
            _ => {}
        }
    }
    Ok(copies)
}

/// Does what was decided about one partition.
fn act(fs: &dyn FileSystem, dirs: &[Option<&Path>], partition: TopicPartition, actions: Vec<Action>) -> Recovered {
    let mut recovered = Recovered { partition, served: None, done: Vec::new(), failed: Vec::new() };
    let live_name = recovered.partition.dir_name();
    let at = |dir: usize| dirs.get(dir).copied().flatten().unwrap_or(Path::new("."));
    for action in actions {
        let outcome = match &action {
            Action::Serve { dir, tidy: false } => Ok(Some(*dir)),
            Action::Serve { dir, tidy: true } => tidy(fs, at(*dir), &recovered.partition).map(|()| Some(*dir)),
            Action::Finish { dir, name, retired } => retired
                .iter()
                .try_for_each(|(dir, name)| retire_again(fs, at(*dir), name))
                .and_then(|()| marker::rename_dir(fs, at(*dir), &name.name(), &live_name))
                .and_then(|()| marker::remove_mark(fs, &at(*dir).join(&live_name)))
                .map(|()| Some(*dir)),
            Action::SetAside { dir, name } => marker::set_copy_aside(fs, at(*dir), name).map(|_| None),
            Action::Leave { .. } | Action::Refuse { .. } => Ok(None),
        };
        match outcome {
            Ok(served) => {
                recovered.served = served.or(recovered.served);
                recovered.done.push(action);
            }
            Err(failure) => recovered.failed.push((action, failure)),
        }
    }
    recovered
}

/// A copy was renamed to the partition's name, and perhaps not durably: it is renamed anew, and loses its marker.
fn tidy(fs: &dyn FileSystem, data_dir: &Path, partition: &TopicPartition) -> Result<(), IoFailure> {
    let name = partition.dir_name();
    let dir = data_dir.join(&name);
    // As long as the marker is there, nothing was appended since.
    if let Mark::Complete { generation, .. } = Mark::read(fs, &dir)? {
        // Under the name of a copy for a moment, which is one that is complete: a crash there is one that is known.
        let id = super::names::UniqueId::from_random(u128::from(generation));
        if let Ok(via) = MarkedDir::new(partition, Fate::Future, id) {
            marker::rename_anew(fs, data_dir, &name, &via.name())?;
        }
    }
    marker::remove_mark(fs, &dir)
}

/// An original was renamed, and perhaps not durably.
fn retire_again(fs: &dyn FileSystem, data_dir: &Path, name: &MarkedDir) -> Result<(), IoFailure> {
    let (stray, deleted) = (name.with_fate(Fate::Stray).name(), name.with_fate(Fate::Delete).name());
    match name.fate() {
        Fate::Delete | Fate::Future => marker::rename_anew(fs, data_dir, &deleted, &stray),
        // A crash came while it was renamed anew.
        Fate::Stray => marker::rename_dir(fs, data_dir, &stray, &deleted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::UniqueId;
    use crate::units::Offset;

    fn named(fate: Fate, id: u128) -> MarkedDir {
        let orders = TopicPartition::new("orders", 0).unwrap();
        MarkedDir::new(&orders, fate, UniqueId::from_random(id)).unwrap()
    }

    fn live(dir: usize) -> DirState {
        DirState { dir, copy: CopyState::Live { has_mark: false } }
    }

    fn future(dir: usize, mark: Mark) -> DirState {
        DirState { dir, copy: CopyState::Future { name: named(Fate::Future, 1), mark } }
    }

    fn complete() -> Mark {
        Mark::Complete { log_end: Offset::ZERO, generation: 1 }
    }

    fn words(found: &[DirState]) -> String {
        let word = |action: &Action| match action {
            Action::Serve { dir, tidy: false } => format!("serve {dir}"),
            Action::Serve { dir, tidy: true } => format!("tidy and serve {dir}"),
            Action::Finish { dir, retired, .. } => format!("finish {dir} after {}", retired.len()),
            Action::SetAside { dir, .. } => format!("set aside {dir}"),
            Action::Leave { dir, because, .. } => format!("leave {dir} {because:?}"),
            Action::Refuse { dirs, because } => format!("refuse {dirs:?} {because:?}"),
        };
        decide(found).iter().map(word).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn the_table() {
        let offline = |dir| DirState { dir, copy: CopyState::Offline };
        let retired = |dir, id| DirState { dir, copy: CopyState::Retired { name: named(Fate::Delete, id) } };
        let marked = DirState { dir: 1, copy: CopyState::Live { has_mark: true } };
        let cases: &[(&str, &[DirState], &str)] = &[
            ("one live copy", &[live(0)], "serve 0"),
            ("nothing but what goes", &[retired(0, 1)], ""),
            ("a copy begun", &[live(0), future(1, Mark::None)], "serve 0, set aside 1"),
            ("a complete copy, not switched", &[future(0, complete()), live(1)], "serve 1, set aside 0"),
            ("an adoption begun beside a live one", &[live(0), future(1, Mark::Adoption)], "serve 0, set aside 1"),
            (
                "two copies begun",
                &[live(0), future(1, Mark::None), future(2, complete())],
                "serve 0, set aside 1, set aside 2",
            ),
            ("switched", &[retired(0, 1), future(1, complete())], "finish 1 after 1"),
            ("switched, the original removed", &[future(1, complete())], "finish 1 after 0"),
            ("another one goes, too", &[retired(0, 2), future(1, complete())], "finish 1 after 0"),
            ("renamed", &[retired(0, 1), marked.clone()], "tidy and serve 1"),
            ("renamed, the original came back by hand", &[live(0), marked.clone()], "refuse [0, 1] TwoLive"),
            ("two live copies", &[live(0), live(1), future(2, Mark::None)], "refuse [0, 1] TwoLive"),
            ("two complete copies", &[future(0, complete()), future(1, complete())], "refuse [0, 1] TwoComplete"),
            ("the original may be elsewhere", &[offline(0), future(1, complete())], "leave 1 DirectoryOffline"),
            ("a live copy while another directory is offline", &[offline(0), live(1)], "serve 1"),
            ("half a copy, the rest offline", &[offline(0), future(1, Mark::None)], "leave 1 DirectoryOffline"),
            ("half a copy and nothing else", &[future(1, Mark::None)], "leave 1 Orphan"),
            ("half an adoption", &[future(1, Mark::Adoption)], "set aside 1"),
            (
                "half a copy beside the complete one",
                &[future(0, complete()), future(1, Mark::None)],
                "set aside 1, finish 0 after 0",
            ),
        ];
        for (label, found, wanted) in cases {
            assert_eq!(words(found), *wanted, "{label}");
        }
    }
}
