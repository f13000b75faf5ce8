//! A scripted life of a store, with a model kept beside it, that ends where the machine dies.

use std::path::Path;
use std::time::Duration;

use alluvium::store::{CreateOptions, Partition, Relocation, Store, TopicId};
use alluvium::{AppendOptions, Offset};

use super::judge::inventory;
use super::machine::{LONG, Machine, at, batch, client, dirs, named, small};
use super::model::{Ending, Known, Model, Phase};

/// Why the script did not go on.
#[derive(Debug)]
pub(crate) enum Stop {
    Crashed,
    Wrong(String),
}

/// A store at work, and what was promised.
pub(crate) struct Life {
    pub(crate) machine: Machine,
    pub(crate) model: Model,
    pub(crate) store: Option<Store>,
    /// Steps at which each part of the script began.
    pub(crate) chapters: Vec<(&'static str, u64)>,
}

type Told = Result<(), Stop>;
type Chapter = fn(&mut Life) -> Told;

impl Life {
    pub(crate) fn new(machine: Machine) -> Self {
        Self { machine, model: Model::default(), store: None, chapters: Vec::new() }
    }

    /// All of it.
    pub(crate) fn live(&mut self) -> Told {
        let chapters: [(&'static str, Chapter); 10] = [
            ("open", Self::open),
            ("create", Self::create_some),
            ("append", Self::append_some),
            ("park", Self::park_and_use),
            ("truncate", Self::truncate_some),
            ("delete", Self::delete_and_make_anew),
            ("move", Self::move_some),
            ("adopt", Self::back_up_and_adopt),
            ("close", Self::close),
            ("again", Self::live_again),
        ];
        for (name, chapter) in chapters {
            self.chapters.push((name, self.machine.fs.steps()));
            chapter(self)?;
        }
        Ok(())
    }

    /// What a call came to. One that was answered counts even if the machine died while it was.
    fn tell<T, E: std::fmt::Display>(&self, what: &str, done: Result<T, E>) -> Result<T, Stop> {
        match done {
            Ok(done) => Ok(done),
            Err(_) if self.machine.fs.is_crashed() => Err(Stop::Crashed),
            Err(error) => Err(Stop::Wrong(format!("{what}: {error}"))),
        }
    }

    fn live_on(&self) -> Told {
        if self.machine.fs.is_crashed() { Err(Stop::Crashed) } else { Ok(()) }
    }

    pub(crate) fn store(&self) -> Store {
        self.store.clone().unwrap()
    }

    pub(crate) fn partition(&self, name: &str) -> Partition {
        self.store().get(&named(name)).unwrap()
    }

    pub(crate) fn open(&mut self) -> Told {
        let store = self.tell("open", self.machine.open())?;
        // Directories that die are none of an opening's failures.
        self.live_on()?;
        self.store = Some(store);
        self.model.phase = Phase::Serving;
        Ok(())
    }

    pub(crate) fn close(&mut self) -> Told {
        self.model.phase = Phase::AtRest;
        for known in self.model.partitions.values_mut() {
            known.start.1 = known.values.len();
        }
        let store = self.store.take().unwrap();
        let closed = self.tell("close", store.close(LONG))?;
        self.live_on()?;
        if !closed.unclean.is_empty() || !closed.failed_dirs.is_empty() {
            return Err(Stop::Wrong(format!("{closed:?}")));
        }
        for known in self.model.partitions.values_mut() {
            known.durable = known.values.len();
        }
        Ok(())
    }

    pub(crate) fn create(&mut self, name: &str, dir: usize, topic_id: Option<TopicId>) -> Told {
        let mut options = CreateOptions::new(small()).in_dir(&dirs()[dir]);
        if let Some(id) = topic_id {
            options = options.topic_id(id);
        }
        let known = Known { topic_id, is_creating: true, ..Known::default() };
        self.model.partitions.insert(name.to_owned(), known);
        self.tell("create", self.store().create(&named(name), options))?;
        self.model.known(name).is_creating = false;
        Ok(())
    }

    pub(crate) fn append(&mut self, name: &str, count: usize, is_durable: bool) -> Told {
        let partition = self.partition(name);
        for _ in 0..count {
            let known = self.model.known(name);
            let token = known.token.0;
            let value = format!("{name}:{:?}:{}", known.topic_id.map(|id| id.to_string()), known.values.len());
            known.values.push(value.clone());
            let mut how = AppendOptions::new(client());
            if let Some(token) = token {
                how = how.fenced_by(token);
            }
            let appended = self.tell("append", partition.append(batch(&value), how))?;
            let known = self.model.known(name);
            known.cached = known.values.len();
            if is_durable {
                self.tell("wait", appended.wait_durable(LONG))?;
                let known = self.model.known(name);
                known.durable = known.values.len();
            }
        }
        Ok(())
    }

    pub(crate) fn truncate(&mut self, name: &str, to: usize) -> Told {
        let partition = self.partition(name);
        self.model.known(name).cutting = Some(to);
        self.tell("truncate", partition.truncate_to(at(to)))?;
        let known = self.model.known(name);
        known.values.truncate(to);
        (known.cutting, known.cached, known.durable) = (None, to, known.durable.min(to));
        Ok(())
    }

    pub(crate) fn fence(&mut self, name: &str, token: u64) -> Told {
        self.model.known(name).token.1 = Some(token);
        let log = self.partition(name).log().unwrap();
        self.tell("fence", log.fence(token))?;
        self.model.known(name).token.0 = Some(token);
        Ok(())
    }

    pub(crate) fn delete(&mut self, name: &str) -> Told {
        self.model.known(name).is_deleting = true;
        self.tell("delete", self.store().delete(&named(name)))?;
        self.model.partitions.remove(name);
        self.model.deleted.insert(name.to_owned());
        Ok(())
    }

    /// Time passes, and the store does what is due.
    pub(crate) fn tick(&mut self, after: Duration) -> Told {
        self.machine.clock.advance(after);
        for known in self.model.partitions.values_mut() {
            known.start.1 = known.values.len();
        }
        self.store().tick();
        self.live_on()?;
        let names: Vec<String> = self.model.partitions.keys().cloned().collect();
        for name in names {
            let start = self.tell("marks", self.partition(&name).marks())?.log_start;
            let start = usize::try_from(start.value()).unwrap();
            self.model.known(&name).start = (start, start);
        }
        Ok(())
    }

    /// What is found right now is what the model says.
    fn verify(&mut self) -> Told {
        let found = self.tell("read", inventory(&self.store()))?;
        self.model.judge(&found, Ending::Kill).map_err(Stop::Wrong)
    }

    fn create_some(&mut self) -> Told {
        self.create("a-0", 0, Some(TopicId::from_random(1)))?;
        self.create("b-0", 1, None)?;
        self.create("c-0", 0, Some(TopicId::from_random(3)))?;
        self.create("d-0", 1, Some(TopicId::from_random(4)))
    }

    fn append_some(&mut self) -> Told {
        self.append("a-0", 3, false)?;
        self.append("a-0", 1, true)?;
        self.append("b-0", 6, false)?;
        self.append("c-0", 2, true)?;
        self.append("d-0", 1, false)?;
        self.tick(Duration::ZERO)?;
        self.fence("c-0", 7)?;
        self.append("c-0", 1, false)?;
        self.model.known("d-0").is_sealed.1 = true;
        let d = self.partition("d-0").log().unwrap();
        self.tell("seal", d.seal())?;
        self.model.known("d-0").is_sealed.0 = true;
        self.append("a-0", 4, false)?;
        self.append("b-0", 1, true)
    }

    fn park_and_use(&mut self) -> Told {
        for _ in 0..2 {
            self.tick(Duration::from_secs(61))?;
        }
        self.append("b-0", 2, false)?;
        self.verify()?;
        self.append("a-0", 2, true)?;
        self.tick(Duration::from_secs(61))
    }

    fn truncate_some(&mut self) -> Told {
        // Both below what the lists name.
        self.truncate("a-0", 5)?;
        self.append("a-0", 1, false)?;
        self.truncate("b-0", 8)?;
        self.append("b-0", 2, true)?;
        self.append("a-0", 3, true)?;
        let known = self.model.known("b-0");
        known.start.1 = 6;
        let b = self.partition("b-0").log().unwrap();
        self.tell("advance", b.advance_log_start(Offset::new(6).unwrap()))?;
        self.model.known("b-0").start.0 = 6;
        drop(b);
        self.tick(Duration::from_secs(301))?;
        self.verify()
    }

    fn delete_and_make_anew(&mut self) -> Told {
        self.delete("c-0")?;
        self.create("c-0", 0, Some(TopicId::from_random(33)))?;
        self.append("c-0", 1, true)?;
        self.tick(Duration::from_secs(5))?;
        self.delete("c-0")?;
        self.create("c-0", 1, Some(TopicId::from_random(34)))?;
        self.append("c-0", 3, false)?;
        self.tick(Duration::from_secs(61))?;
        self.verify()
    }

    fn relocation(&mut self, name: &str, to: usize) -> Result<Relocation, Stop> {
        self.tell("relocate", self.store().relocate(&named(name), &dirs()[to]))
    }

    fn move_some(&mut self) -> Told {
        let mut relocation = self.relocation("a-0", 1)?;
        self.tell("step", relocation.step(100))?;
        self.append("a-0", 1, true)?;
        self.truncate("a-0", 7)?;
        self.append("a-0", 2, false)?;
        while !self.tell("step", relocation.step(200))?.is_caught_up {}
        self.append("a-0", 1, false)?;
        self.tell("finish", relocation.finish())?;
        let known = self.model.known("a-0");
        known.durable = known.values.len();
        self.append("a-0", 1, true)?;

        let mut relocation = self.relocation("b-0", 0)?;
        self.tell("step", relocation.step(100))?;
        self.tell("cancel", relocation.cancel())?;
        self.append("b-0", 1, false)?;
        let relocation = self.relocation("d-0", 0)?;
        let sealed = self.tell("finish", relocation.finish());
        sealed?;
        let known = self.model.known("d-0");
        known.durable = known.values.len();
        self.tick(Duration::from_secs(61))?;

        for to in [0, 1] {
            // There, where the lists knew it before, and back.
            self.truncate("a-0", 6)?;
            let relocation = self.relocation("a-0", to)?;
            self.tell("finish", relocation.finish())?;
            let known = self.model.known("a-0");
            known.durable = known.values.len();
            self.append("a-0", 1, false)?;
        }
        self.verify()
    }

    /// The whole of a move, with nothing in between.
    pub(crate) fn move_quickly(&mut self, name: &str, to: usize) -> Told {
        let mut relocation = self.relocation(name, to)?;
        while !self.tell("step", relocation.step(200))?.is_caught_up {}
        self.tell("finish", relocation.finish())?;
        let known = self.model.known(name);
        known.durable = known.values.len();
        Ok(())
    }

    /// As `tick`, of which nothing is asked.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.machine.clock.advance(time);
        self.store().tick();
    }

    fn back_up_and_adopt(&mut self) -> Told {
        let partition = self.partition("c-0");
        self.tell("backup", partition.backup("/elsewhere/c-copy"))?;
        let known = self.model.known("c-0").clone();
        let end = known.values.len();
        let adopted = Known { durable: end, is_creating: true, ..known };
        self.model.partitions.insert("e-0".to_owned(), adopted);
        let e =
            self.tell("adopt", self.store().adopt(Path::new("/elsewhere/c-copy"), &named("e-0"), &dirs()[0], None))?;
        self.model.known("e-0").is_creating = false;
        drop(e);
        self.append("e-0", 1, true)?;
        self.tick(Duration::from_secs(61))?;
        self.verify()
    }

    fn live_again(&mut self) -> Told {
        self.open()?;
        self.verify()?;
        self.append("e-0", 1, false)?;
        self.append("b-0", 1, true)?;
        // Retention by time: all that is sealed is too old by now.
        self.tick(Duration::from_hours(8 * 24))?;
        self.append("a-0", 1, true)?;
        self.tick(Duration::from_secs(61))?;
        self.verify()?;
        self.close()
    }
}
