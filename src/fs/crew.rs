//! Threads that sync for one who waits: a round of items is shared out, each item to whoever is free.
//!
//! Syncs of different files gain from running at once, although the medium is one: the kernel merges their flushes, and
//! one commit of the file system's journal answers all that wait for it. The threads do nothing but wait for the system.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, unbounded};

use super::{FileSystem, SyncItem};
use crate::sync::{Condvar, Mutex};

/// Items for each that works on a round: fewer, and waking a thread costs more than it saves.
const SHARE: usize = 2;
/// The threads call the system and little else.
const STACK_BYTES: usize = 256 << 10;

/// Threads that are started when a round first wants them and end with the crew.
#[derive(Debug)]
pub(super) struct Crew {
    /// `None` once the crew ends, which is the threads' signal.
    tickets: Option<Sender<Arc<Round>>>,
    drawn: Receiver<Arc<Round>>,
    threads: Mutex<Threads>,
}

#[derive(Debug)]
struct Threads {
    running: Vec<JoinHandle<()>>,
    /// Lowered for good once the system gives no more.
    max: usize,
}

impl Crew {
    pub(super) fn new(threads_max: usize) -> Self {
        let (tickets, drawn) = unbounded();
        let threads = Mutex::new(Threads { running: Vec::new(), max: threads_max });
        Self { tickets: Some(tickets), drawn, threads }
    }

    /// Syncs every item, in no order, and returns the answers in theirs. The caller works too, so that a round ends
    /// also where there are no threads, or all of them are busy with another round.
    pub(super) fn sync(&self, fs: &Arc<dyn FileSystem>, items: Vec<SyncItem>) -> Vec<io::Result<()>> {
        let helpers = self.hire((items.len() / SHARE).saturating_sub(1));
        let round = Arc::new(Round::new(Arc::clone(fs), items));
        if let Some(tickets) = &self.tickets {
            // A ticket that is drawn when the round is over is thrown away. None can be refused: we hold a receiver.
            for _ in 0..helpers {
                drop(tickets.send(Arc::clone(&round)));
            }
        }
        round.work();
        round.answers()
    }

    /// Makes sure of up to `wanted` threads; returns how many of them there are.
    fn hire(&self, wanted: usize) -> usize {
        let mut threads = self.threads.lock();
        while threads.running.len() < wanted.min(threads.max) {
            let drawn = self.drawn.clone();
            let builder = std::thread::Builder::new().name("alluvium-sync".into()).stack_size(STACK_BYTES);
            match builder.spawn(move || drawn.iter().for_each(|round| round.work_on_after_panics())) {
                Ok(thread) => threads.running.push(thread),
                // The rounds go on with those there are, and with the caller alone if there is none.
                Err(_) => threads.max = threads.running.len(),
            }
        }
        threads.running.len().min(wanted)
    }

    /// Threads that were started.
    #[cfg(test)]
    pub(super) fn threads(&self) -> usize {
        self.threads.lock().running.len()
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.tickets = None;
        let running = std::mem::take(&mut self.threads.lock().running);
        // Panics are caught inside; there is nothing left to report.
        for thread in running {
            drop(thread.join());
        }
    }
}

/// One call's items, and what is known of them.
#[derive(Debug)]
struct Round {
    fs: Arc<dyn FileSystem>,
    state: Mutex<State>,
    finished: Condvar,
}

#[derive(Debug)]
struct State {
    waiting: std::iter::Enumerate<std::vec::IntoIter<SyncItem>>,
    answers: Vec<Option<io::Result<()>>>,
    unanswered: usize,
}

impl Round {
    fn new(fs: Arc<dyn FileSystem>, items: Vec<SyncItem>) -> Self {
        let answers = items.iter().map(|_| None).collect();
        let state = State { unanswered: items.len(), answers, waiting: items.into_iter().enumerate() };
        Self { fs, state: Mutex::new(state), finished: Condvar::new() }
    }

    /// Syncs what nobody has taken yet, until nothing is left to take.
    fn work(&self) {
        while let Some(mut taken) = self.take() {
            taken.sync();
        }
    }

    /// A file of an embedder may panic. The item is answered nevertheless, and the thread serves the next.
    fn work_on_after_panics(&self) {
        while catch_unwind(AssertUnwindSafe(|| self.work())).is_err() {}
    }

    fn take(&self) -> Option<Taken<'_>> {
        let (at, item) = self.state.lock().waiting.next()?;
        Some(Taken { round: self, at, item: Some(item), answer: None })
    }

    fn answers(&self) -> Vec<io::Result<()>> {
        let mut state = self.state.lock();
        while state.unanswered > 0 {
            self.finished.wait(&mut state);
        }
        std::mem::take(&mut state.answers).into_iter().map(|answer| answer.unwrap_or_else(without_answer)).collect()
    }
}

fn without_answer() -> io::Result<()> {
    Err(io::Error::other("the sync did not come back: take the file for not synced"))
}

/// An item in the hands of one thread. Dropping it gives the answer.
struct Taken<'a> {
    round: &'a Round,
    at: usize,
    item: Option<SyncItem>,
    answer: Option<io::Result<()>>,
}

impl Taken<'_> {
    fn sync(&mut self) {
        self.answer = self.item.as_ref().map(|item| item.sync(&*self.round.fs));
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        // The caller may close its files once it has the answers, and expects that no descriptor outlives that.
        self.item = None;
        let answer = self.answer.take().unwrap_or_else(without_answer);
        let mut state = self.round.state.lock();
        if let Some(place) = state.answers.get_mut(self.at) {
            *place = Some(answer);
        }
        state.unanswered -= 1;
        if state.unanswered == 0 {
            self.round.finished.notify_all();
        }
    }
}
