//! From a data directory to its partitions: what lies there, in which order it is opened, and by how many threads.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::config_of::ConfigOf;
use super::directory::{Directory, Opened};
use super::events::StoreEvent;
use super::hosted::{Hosted, Parked, Slot, SlotState};
use super::names::{Entry, Fate, Listed};
use super::partition_id::{TopicId, TopicPartition};
use super::progress::Progress;
use super::report::{DirectoryReport, PartitionReport};
use super::shared::{LeavingDir, Shared};
use super::sizes::bytes_to_scan;
use super::topic_id::{TopicIdError, read_topic_id};
use super::trace;
use crate::config::LogConfig;
use crate::error::{IoFailure, OpenError, Unavailable};
use crate::log::hosted::{Peeked, peek, words_of};
use crate::sync::Mutex;

/// How a directory's partitions are opened.
pub(super) struct Loading<'a> {
    pub(super) shared: &'a Shared,
    pub(super) configs: &'a ConfigOf,
    /// Opened before all others, in this order.
    pub(super) urgent: &'a [TopicPartition],
    pub(super) progress: &'a Progress,
}

/// A partition whose log has to be opened now.
struct Job {
    hosted: Arc<Hosted>,
    bytes: u64,
}

/// What one directory has to be done for.
#[derive(Default)]
struct Plan {
    jobs: Vec<Job>,
    report: DirectoryReport,
}

impl Loading<'_> {
    /// Takes in the partitions of a directory: those that were closed cleanly as they are, the others by opening their
    /// logs. The failure of one is its own.
    /// `refused` are not opened: nothing tells which of several copies is the right one.
    pub(super) fn load(
        &self,
        directory: &Arc<Directory>,
        opened: Opened,
        refused: &[TopicPartition],
    ) -> Result<DirectoryReport, IoFailure> {
        if let Some(failure) = directory.failure() {
            return Err(failure);
        }
        let Opened { was_clean, was_elsewhere, faults, .. } = opened;
        let entries = directory.list()?;
        let mut plan = Plan::default();
        (plan.report.was_clean, plan.report.was_elsewhere) = (was_clean, was_elsewhere);
        plan.report.faults = faults;
        // Those that are not opened among them: whoever puts right what is wrong with them needs their offsets.
        let there: BTreeSet<TopicPartition> = entries
            .iter()
            .filter_map(|listed| if let Entry::Partition(name) = &listed.entry { Some(name.clone()) } else { None })
            .collect();
        for listed in entries {
            match &listed.entry {
                Entry::Partition(name) if refused.contains(name) => plan.report.duplicates.push(name.clone()),
                _ => self.take_in(directory, listed, &mut plan),
            }
        }
        if !plan.report.unknown_entries.is_empty() {
            let (dir, names) = (directory.path.to_path_buf(), plan.report.unknown_entries.clone());
            self.shared.events.emit(&StoreEvent::UnknownEntries { dir, names });
        }
        // What is said of others is said of partitions that were deleted.
        match directory.forget_all_but(|name| there.contains(name)) {
            Err(failure) if failure.is_storage_full() => {}
            forgotten => forgotten?,
        }
        self.order(&mut plan.jobs);
        self.progress.expect(plan.jobs.len(), plan.jobs.iter().map(|job| job.bytes).sum());
        let report = Mutex::new(plan.report);
        self.run(directory, plan.jobs, &report);
        Ok(std::mem::take(&mut *report.lock()))
    }

    /// Decides about one entry of the directory.
    fn take_in(&self, directory: &Arc<Directory>, listed: Listed, plan: &mut Plan) {
        match listed.entry {
            Entry::Partition(name) => self.take_partition(directory, name, plan),
            Entry::Marked(marked) => match marked.fate() {
                Fate::Delete => {
                    let leaving =
                        LeavingDir { directory: Arc::clone(directory), name: listed.name, due: Duration::ZERO };
                    self.shared.naming.lock().leaving.push(leaving);
                }
                Fate::Stray | Fate::Future => plan.report.set_aside.push(listed.name),
            },
            Entry::UnknownFile | Entry::UnknownDir => plan.report.unknown_entries.push(listed.name),
            Entry::ClusterMetadata(_)
            | Entry::Checkpoint(_)
            | Entry::Temporary
            | Entry::Lock
            | Entry::CleanShutdown
            | Entry::MetaProperties
            | Entry::RemoteLogIndexCache
            | Entry::Ours
            | Entry::Ignorable => {}
        }
    }

    fn take_partition(&self, directory: &Arc<Directory>, name: TopicPartition, plan: &mut Plan) {
        let fs = &*self.shared.environment.fs;
        let path = directory.path_of(&name);
        plan.report.partitions += 1;
        let topic_id = match read_topic_id(fs, &path) {
            Ok(topic_id) => topic_id,
            // The partition is not served as one of no topic; once the disk answers it comes back by `reopen`.
            Err(TopicIdError::Io(failure)) => return self.set_unread(directory, name, failure, plan),
            // It is the partition's own file; whoever asks for it by id is told.
            Err(_) => None,
        };
        let config = self.configs.of(&name, &self.shared.default_log);
        // What cannot be looked at shows its fault when it is opened: that of the partition, not of the directory.
        let word = directory.word_of(&name, false);
        let peeked = peek(fs, &path).ok().flatten();
        let is_ours = |peeked: &Peeked| peeked.lineage == word.lineage;
        let peeked = peeked.filter(is_ours).and_then(|peeked| peeked.marks(config.high_watermark));
        let state = match peeked {
            Some(marks) => SlotState::Parked(Parked::closed_at(marks)),
            // Until it is opened, which is what is done next.
            None => SlotState::Parked(Parked::unknown()),
        };
        let must_open = peeked.is_none();
        let hosted = self.place(directory, name, topic_id, config, state, plan);
        if let Some(hosted) = hosted.filter(|_| must_open) {
            let point = words_of(fs, &path).ok().and_then(|word| word.recovery_point);
            let bytes = bytes_to_scan(fs, &path, point).unwrap_or(0);
            plan.jobs.push(Job { hosted, bytes });
        }
    }

    /// Takes in a partition of which it cannot be read whose it is.
    fn set_unread(&self, directory: &Arc<Directory>, name: TopicPartition, failure: IoFailure, plan: &mut Plan) {
        let error = Arc::new(OpenError::Io(failure));
        let config = self.configs.of(&name, &self.shared.default_log);
        let state = SlotState::Failed(Arc::clone(&error));
        if self.place(directory, name.clone(), None, config, state, plan).is_some() {
            plan.report.lines.push(PartitionReport { partition: name, outcome: Err(Unavailable::Open(error)) });
        }
    }

    /// Puts a partition into its place: that of a handle which somebody holds, or a new one. `None` when another
    /// directory has one of that name.
    fn place(
        &self,
        directory: &Arc<Directory>,
        name: TopicPartition,
        topic_id: Option<TopicId>,
        config: Arc<LogConfig>,
        state: SlotState,
        plan: &mut Plan,
    ) -> Option<Arc<Hosted>> {
        let slot = Slot { directory: Arc::clone(directory), topic_id, config, state };
        if let Some(hosted) = self.shared.find(&name) {
            let is_ours = hosted.look(|slot| Arc::ptr_eq(&slot.directory, directory));
            if !is_ours {
                plan.report.duplicates.push(name);
                return None;
            }
            hosted.change(|old| *old = slot);
            return Some(hosted);
        }
        let hosted = Arc::new(Hosted::new(name, slot));
        self.shared.insert(Arc::clone(&hosted));
        Some(hosted)
    }

    /// The urgent ones first, then those with the most to do: so that the last thread does not begin the longest one
    /// when all others are done.
    fn order(&self, jobs: &mut [Job]) {
        let rank = |job: &Job| self.urgent.iter().position(|name| *name == job.hosted.name).unwrap_or(usize::MAX);
        jobs.sort_by_key(|job| (rank(job), std::cmp::Reverse(job.bytes)));
    }

    fn run(&self, directory: &Directory, jobs: Vec<Job>, report: &Mutex<DirectoryReport>) {
        let threads = (self.shared.config.recovery_threads as usize).min(jobs.len());
        let queue = Mutex::new(VecDeque::from(jobs));
        let opening = trace::Opening::present();
        let open_all = || {
            while let Some(job) = { queue.lock().pop_front() } {
                self.open(directory, &job, report);
            }
        };
        let work = || opening.within(open_all);
        if threads <= 1 {
            return work();
        }
        std::thread::scope(|scope| {
            for _ in 1..threads {
                // With fewer threads than asked for it takes longer.
                let builder = std::thread::Builder::new().name("alluvium-recovery".into());
                let _ = builder.spawn_scoped(scope, work);
            }
            work();
        });
    }

    fn open(&self, directory: &Directory, job: &Job, report: &Mutex<DirectoryReport>) {
        let name = &job.hosted.name;
        self.progress.begin(name);
        // After a crash all of them may have to be opened: more than there are descriptors.
        self.shared.trim_descriptors();
        // A disk that dies while it is read must not be asked for every partition.
        let open = |slot: &Slot| match directory.failure() {
            Some(failure) => Err(OpenError::Io(failure)),
            None => self.shared.open_log(name, slot),
        };
        let opened = job.hosted.log(|| self.shared.check_serving(), open);
        let line = match &opened {
            Ok(log) => {
                let found = log.recovery_report();
                (!found.is_ordinary()).then(|| PartitionReport { partition: name.clone(), outcome: Ok(found.clone()) })
            }
            Err(error) => Some(PartitionReport { partition: name.clone(), outcome: Err(error.clone()) }),
        };
        let scanned = opened.as_ref().map_or(0, |log| log.recovery_report().scanned_bytes);
        {
            let mut report = report.lock();
            report.opened += usize::from(opened.is_ok());
            report.scanned_bytes += scanned;
            report.lines.extend(line);
        }
        self.progress.done(name, job.bytes, opened.is_err());
    }
}
