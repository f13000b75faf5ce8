//! Appends two records, makes them durable, and reads them back.
//!
//! `cargo run --example append_and_read`

use std::error::Error;
use std::time::Duration;

use alluvium::record::BatchBuilder;
use alluvium::{AppendAs, LeaderEpoch, LogConfig, Offset, PartitionLog, ReadOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let log = PartitionLog::open(dir.path().join("orders-0"), LogConfig::default())?;
    println!("{:?}", log.recovery_report().findings);

    let mut builder = BatchBuilder::new();
    builder.record(log.clock().wall(), Some(b"order-1"), Some(b"two apples"));
    builder.record(log.clock().wall(), Some(b"order-2"), Some(b"one pear"));
    let epoch = LeaderEpoch::new(0).ok_or("0 is an epoch")?;
    let appended = log.append(builder.build()?, AppendAs::Client { epoch })?;
    println!("offsets {}..{} survive the death of this process", appended.base_offset(), appended.end());
    appended.wait_durable(Duration::from_secs(10))?;
    println!("everything below {} survives a power loss", log.durable_end());

    let fetched = log.read(Offset::ZERO, &ReadOptions::default())?;
    for slice in fetched.slices() {
        println!("to be sent as it is: {} bytes of {}", slice.len(), slice.path().display());
    }
    for batch in fetched.batches()?.iter() {
        let batch = batch?;
        batch.verify_crc()?;
        for record in batch.body(1 << 20)?.records() {
            let record = record?;
            let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
            println!("{}: {} = {}", record.offset, text(record.key), text(record.value));
        }
    }
    Ok(log.close()?)
}
