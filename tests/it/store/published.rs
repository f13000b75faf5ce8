//! What the features `metrics` and `tracing` tell: a recorder and a subscriber of the test's own take it.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alluvium::fs::sim::{Effect, Errno, Fault, FaultOn};
use alluvium::store::{CreateOptions, PUBLISHED, describe_metrics};
use metrics::{Counter, CounterFn, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber, span};

use super::world::{World, batch, client, named, small};

const LONG: Duration = Duration::from_secs(20);

/// One number; gauges as the bits of theirs.
#[derive(Debug, Default)]
struct Number(AtomicU64);

impl CounterFn for Number {
    fn increment(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }
    fn absolute(&self, value: u64) {
        self.0.fetch_max(value, Ordering::Relaxed);
    }
}

impl GaugeFn for Number {
    fn increment(&self, _: f64) {}
    fn decrement(&self, _: f64) {}
    fn set(&self, value: f64) {
        // Whole numbers are all that is told.
        self.0.store(format!("{value:.0}").parse().unwrap(), Ordering::Relaxed);
    }
}

/// Every figure by name and labels.
#[derive(Debug, Default)]
struct Recorded {
    numbers: Mutex<BTreeMap<String, Arc<Number>>>,
    described: Mutex<Vec<String>>,
    wrong: Mutex<Vec<String>>,
}

impl Recorded {
    fn number(&self, key: &Key, is_counter: bool) -> Arc<Number> {
        let labels: Vec<_> = key.labels().map(metrics::Label::key).collect();
        let is_known = |line: &&alluvium::store::MetricDoc| {
            line.name == key.name() && line.is_counter == is_counter && line.labels == labels
        };
        if PUBLISHED.iter().filter(is_known).count() != 1 {
            self.wrong.lock().unwrap().push(key.to_string());
        }
        let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let name = format!("{}{{{}}}", key.name(), labels.join(","));
        Arc::clone(self.numbers.lock().unwrap().entry(name).or_default())
    }

    fn of(&self, name: &str) -> u64 {
        let numbers = self.numbers.lock().unwrap();
        let number = numbers.get(name).unwrap_or_else(|| panic!("{name} of {:?}", numbers.keys()));
        number.0.load(Ordering::Relaxed)
    }
}

impl Recorder for Recorded {
    fn describe_counter(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
        self.described.lock().unwrap().push(key.as_str().to_owned());
    }
    fn describe_gauge(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
        self.described.lock().unwrap().push(key.as_str().to_owned());
    }
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.number(key, true))
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.number(key, false))
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[test]
fn every_figure_is_published_under_its_documented_name() {
    let world = World::new(21, 1);
    let recorded = Recorded::default();
    metrics::with_local_recorder(&recorded, || {
        let store = world.open();
        let orders = store.create(&named("orders", 3), small()).unwrap();
        for value in ["a", "b", "c"] {
            orders.append(batch(value), client()).unwrap();
        }
        describe_metrics();
        // The housekeeper publishes by itself, and what is published twice is not counted twice.
        store.tick();
        store.publish_metrics();
        assert_eq!(recorded.of("alluvium_log_batches_in_total{topic=orders,partition=3}"), 3);
        assert_eq!(recorded.of("alluvium_log_end_offset{topic=orders,partition=3}"), 3);
        assert_eq!(recorded.of("alluvium_batches_in_total{}"), 3);
        assert_eq!(recorded.of("alluvium_dir_offline{dir=/data0}"), 0);
        assert_eq!(recorded.of("alluvium_partitions_open{}"), 1);
        store.delete(orders.name()).unwrap();
        store.publish_metrics();
        assert_eq!(recorded.of("alluvium_batches_in_total{}"), 3);
        assert_eq!(recorded.of("alluvium_partitions_open{}"), 0);
    });
    assert_eq!(*recorded.wrong.lock().unwrap(), Vec::<String>::new());
    let mut names: Vec<_> = PUBLISHED.iter().map(|line| line.name.to_owned()).collect();
    assert_eq!(*recorded.described.lock().unwrap(), names);
    let mut published: Vec<String> =
        recorded.numbers.lock().unwrap().keys().map(|key| key[..key.find('{').unwrap()].to_owned()).collect();
    names.sort();
    published.sort();
    published.dedup();
    assert_eq!(published, names, "nothing is documented that is not published");
}

/// Level and message of every event, with the fields that name things.
#[derive(Clone, Debug, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    fn has(&self, wanted: &[&str]) {
        let lines = self.0.lock().unwrap();
        let is_it = |line: &&String| wanted.iter().all(|word| line.contains(word));
        assert!(lines.iter().any(|line| is_it(&line)), "{wanted:?} of {lines:#?}");
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        write!(self.0, " {}={value:?}", field.name()).unwrap();
    }
}

impl Subscriber for Heard {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "alluvium::store"
    }
    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        self.0.lock().unwrap().push(format!("span {}", attributes.metadata().name()));
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[test]
fn what_befalls_a_store_is_traced() {
    let heard = Heard::default();
    tracing::subscriber::with_default(heard.clone(), || {
        let world = World::new(22, 2);
        let store = world.open();
        heard.has(&["span open_store"]);
        let on = |number: usize, topic| {
            let wanted = CreateOptions::new(small()).in_dir(&world.dirs[number]);
            store.create(&named(topic, 0), wanted).unwrap()
        };
        let (lost, latched) = (on(0, "lost"), on(1, "latched"));
        for value in ["a", "b", "c", "d", "e", "f"] {
            lost.append(batch(value), client()).unwrap().wait_durable(LONG).unwrap();
        }
        let failing = Fault::new(FaultOn::SyncData, Effect::Error(Errno::Eio)).path_contains("latched").always();
        world.fs.inject(failing);
        assert!(latched.append(batch("a"), client()).unwrap().wait_durable(LONG).is_err());
        store.tick();
        heard.has(&["ERROR", "partition failed", "latched-0"]);
        world.fs.clear_faults();
        // So that a list has something new to say.
        lost.append(batch("g"), client()).unwrap().wait_durable(LONG).unwrap();
        for operation in [FaultOn::Open, FaultOn::Write, FaultOn::SyncDir, FaultOn::List, FaultOn::Rename] {
            world.fs.inject(Fault::new(operation, Effect::Error(Errno::Eio)).path_contains("/data0").always());
        }
        world.clock.advance(Duration::from_secs(61));
        store.tick();
        heard.has(&["ERROR", "lists not written", "/data0"]);
        heard.has(&["ERROR", "directory offline", "/data0", "partitions=1"]);
        world.fs.clear_faults();
        store.reopen_dir(&world.dirs[0]).unwrap();
        heard.has(&["INFO", "recovered", "lost-0"]);
        heard.has(&["INFO", "directory online", "/data0"]);
        // Two weeks later, nothing of the sealed segments is kept.
        world.clock.advance(Duration::from_hours(24 * 14));
        assert!(store.tick().housekept.deleted_segments > 0);
        heard.has(&["INFO", "retention", "lost-0"]);
    });
}
