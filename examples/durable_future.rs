//! Awaits durability as a future, without a runtime: a flusher thread completes it, or whoever calls `tick`.
//!
//! `cargo run --example durable_future`

use std::error::Error;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use alluvium::record::BatchBuilder;
use alluvium::{AppendAs, Appended, Flusher, LeaderEpoch, LogConfig, PartitionLog};

/// Wakes the thread that sleeps in `block_on`.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Any executor will do; this is the smallest.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        std::thread::park();
    }
}

fn append(log: &PartitionLog, value: &str) -> Result<Appended, Box<dyn Error>> {
    let batch = BatchBuilder::new().record(log.clock().wall(), None, Some(value.as_bytes())).build()?;
    let epoch = LeaderEpoch::new(0).ok_or("0 is an epoch")?;
    Ok(log.append(batch, AppendAs::Client { epoch })?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let log = PartitionLog::open(dir.path(), LogConfig::default())?;

    // With a flusher: its thread syncs, once for all who wait.
    let flusher = Flusher::start(log.clone())?;
    let many = [append(&log, "one")?, append(&log, "two")?, append(&log, "three")?];
    block_on(async {
        for appended in &many {
            appended.durable().await?;
        }
        Ok::<_, alluvium::DurabilityError>(())
    })?;
    println!("durable up to {} after {} syncs", log.durable_end(), log.metrics().sync_rounds.value());
    drop(flusher);

    // Without one: the future asks, `tick` syncs.
    let mut future = pin!(append(&log, "four")?.durable());
    let mut context = Context::from_waker(Waker::noop());
    assert!(future.as_mut().poll(&mut context).is_pending());
    log.tick()?;
    assert!(matches!(future.as_mut().poll(&mut context), Poll::Ready(Ok(()))));
    println!("durable up to {}", log.durable_end());
    Ok(log.close()?)
}
