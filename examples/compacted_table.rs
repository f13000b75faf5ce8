//! A table of group offsets on a compacted partition: written by a leader, followed by a standby that takes over.
//!
//! `cargo run --example compacted_table`

use std::error::Error;
use std::ops::ControlFlow;
use std::time::Duration;

use alluvium::table::{Acknowledge, Change, CompactedTable, LatestOptions, TableError, TableOptions, latest_by_key};
use alluvium::{AppendAs, CleanupPolicy, LeaderEpoch, LogConfig, PartitionLog};

fn led_by(epoch: i32) -> Result<AppendAs, Box<dyn Error>> {
    Ok(AppendAs::Coordinator { epoch: LeaderEpoch::new(epoch).ok_or("epochs are not negative")? })
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let config = LogConfig { cleanup_policy: CleanupPolicy::Compact, ..LogConfig::default() };
    let log = PartitionLog::open(dir.path().join("offsets-0"), config)?;

    // The leader: every write is durable when it is acknowledged.
    let acknowledge = Acknowledge::Durable { within: Duration::from_secs(10) };
    let options = TableOptions { acknowledge, ..TableOptions::new(led_by(1)?) };
    let mut leader = CompactedTable::open(log.clone(), options)?;
    leader.put(b"billing/orders/0", b"17")?;
    leader.put_all(&[Change::put(b"billing/orders/0", b"42"), Change::put(b"audit/orders/0", b"40")])?;
    leader.delete(b"audit/orders/0")?;

    // A standby follows, and takes over with a new epoch and a token that keeps the old leader out.
    let mut standby = CompactedTable::load(log.clone(), options, |progress| {
        println!("loaded {:.0} %, {} records", progress.fraction() * 100.0, progress.records);
        ControlFlow::Continue(())
    })?;
    log.fence(2)?;
    standby.take_over(led_by(2)?, Some(2))?;
    standby.put(b"billing/orders/0", b"50")?;
    match leader.put(b"billing/orders/0", b"43") {
        Err(TableError::Append(refused)) => println!("the old leader is told: {refused}"),
        other => return Err(format!("the old leader wrote: {other:?}").into()),
    }

    // Without a table: the latest of each key, in at most 1 MiB of memory.
    let bounded = LatestOptions { memory_bytes_max: Some(1 << 20), ..LatestOptions::default() };
    latest_by_key(&log, &bounded, |latest| {
        let value = latest.value.map_or("(deleted)".into(), String::from_utf8_lossy);
        println!("{} = {value} (offset {})", String::from_utf8_lossy(latest.key), latest.offset);
        ControlFlow::Continue(())
    })?;
    Ok(log.close()?)
}
