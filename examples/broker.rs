//! What a broker does with a store: open, create, append, fetch as slices, wait, move a partition, look after itself, close.
//!
//! `cargo run --example broker`

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use alluvium::record::BatchBuilder;
use alluvium::store::{CreateOptions, Partition, Progress, Store, StoreConfig, StoreOpening, TopicId, TopicPartition};
use alluvium::{AppendAs, AppendError, Appended, LeaderEpoch, Log, LogConfig, Mark, Offset, ReadOptions};

type Done<T> = Result<T, Box<dyn Error>>;

/// Stands for a producer's request: one record.
fn produce(partition: &Partition, value: &str) -> Done<Appended> {
    let now = partition.log()?.clock().wall();
    let batch = BatchBuilder::new().record(now, None, Some(value.as_bytes())).build()?;
    let epoch = LeaderEpoch::new(0).ok_or("0 is an epoch")?;
    match partition.append(batch, AppendAs::Client { epoch }) {
        // What a broker tells its client is in the variant: this one may be tried again when there is space.
        Err(AppendError::SpaceLow { dir, free, .. }) => Err(format!("{} has {free} bytes left", dir.display()).into()),
        appended => Ok(appended?),
    }
}

/// Stands for a consumer's request: what goes to the socket, by `sendfile` as a rule.
fn fetch(partition: &Partition, from: Offset) -> Done<Offset> {
    let fetched = partition.read(from, &ReadOptions::default())?;
    for slice in fetched.slices() {
        println!("  {} bytes of {} to the socket", slice.len(), slice.path().display());
    }
    Ok(fetched.next_offset()?)
}

fn main() -> Done<()> {
    let (first, second) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let directories = vec![first.path().to_path_buf(), second.path().to_path_buf()];
    let config = StoreConfig { directories, ..StoreConfig::default() };

    // A supervisor that must not kill a process which is recovering looks at the progress.
    let progress = Progress::with_listener(|now| println!("{} of {} partitions recovered", now.done, now.partitions));
    let store = StoreOpening::new(config.clone()).progress(&progress).open()?;
    let events = store.subscribe(1024);

    // Partitions belong to topics with ids; the store puts each where there are the fewest.
    let id = TopicId::from_random(0x6272_6f6b_6572);
    for number in 0..4 {
        let name = TopicPartition::new("orders", number)?;
        let partition = store.create(&name, CreateOptions::new(LogConfig::default()).topic_id(id))?;
        println!("{name} lies in {}", partition.dir().display());
    }

    // One sync for all who wait on a directory.
    let orders = store.claim(&TopicPartition::new("orders", 0)?, id)?;
    let appended = [produce(&orders, "one")?, produce(&orders, "two")?, produce(&orders, "three")?];
    for one in &appended {
        one.wait_durable(Duration::from_secs(10))?;
    }
    let next = fetch(&orders, Offset::ZERO)?;

    // A consumer at the end waits; whoever appends wakes it.
    let waiting = orders.clone();
    let consumer = std::thread::spawn(move || {
        let one_more = Offset::new(next.value() + 1).unwrap_or(next);
        waiting.wait_until(Mark::HighWatermark, one_more, Duration::from_secs(10))
    });
    produce(&orders, "four")?;
    println!("the consumer was woken at {}", consumer.join().map_err(|_| "the consumer panicked")??);

    // To the other disk, while it is written.
    let target = if orders.dir().starts_with(first.path()) { second.path() } else { first.path() };
    let mut relocation = store.relocate(orders.name(), target)?;
    while !relocation.step(1 << 20)?.is_caught_up {
        produce(&orders, "meanwhile")?;
    }
    relocation.finish()?;
    println!("{} lies in {} now, up to {}", orders.name(), orders.dir().display(), orders.marks()?.log_end);
    fetch(&orders, Offset::ZERO)?;

    // The same handle wherever a log is wanted as `dyn`.
    let as_log: Arc<dyn Log> = Arc::new(orders);
    as_log.flush()?;

    // What a probe and a dashboard ask for; neither waits for a disk.
    let (health, metrics) = (store.health(), store.metrics());
    println!("well: {}; {} workers", health.is_well(), health.workers.len());
    println!(
        "{} batches in {} logs, {} syncs",
        metrics.logs.appended_batches, metrics.partitions.open, metrics.logs.sync_rounds
    );
    while let Some(event) = events.try_next() {
        println!("event: {event:?}");
    }
    let closed = store.close(Duration::from_secs(30))?;
    println!("{} partitions closed cleanly, {} not", closed.clean, closed.unclean.len());
    drop(store);

    // Nothing is scanned after a clean close.
    let store = Store::open(config)?;
    println!("{} partitions again, {} opened", store.report().partitions(), store.health().opening.opened);
    Ok(())
}
