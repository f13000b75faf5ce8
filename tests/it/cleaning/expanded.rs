//! What compressed batches expand to is told apart from the memory that a pass was given.

use alluvium::record::Compression;
use alluvium::{BatchBuilder, CleanOptions, CleanupPolicy, LogConfig, PartitionLog, TimestampMs};

use crate::support::{Machine, NOW, client};

const VALUE_BYTES: usize = 300_000;

fn put(log: &PartitionLog, compression: Compression) {
    let mut builder = BatchBuilder::new();
    builder.compression(compression).record(TimestampMs::new(NOW), Some(b"key"), Some(&vec![7; VALUE_BYTES]));
    log.append(builder.build().unwrap(), client()).unwrap();
}

#[test]
fn what_a_compressed_batch_expands_to_is_told() {
    for (compression, is_expanded) in [(Compression::None, false), (Compression::Lz4, true), (Compression::Zstd, true)]
    {
        let config = LogConfig { cleanup_policy: CleanupPolicy::Compact, retention_ms: None, ..LogConfig::default() };
        let log = Machine::new().open(config);
        for _ in 0..3 {
            put(&log, compression);
        }
        log.roll().unwrap();
        let cleaned = log.clean(&CleanOptions::default()).unwrap();
        let bytes = usize::try_from(cleaned.expanded_peak).unwrap();
        let around = VALUE_BYTES..VALUE_BYTES + 100;
        assert_eq!((around.contains(&bytes), bytes == 0), (is_expanded, !is_expanded), "{compression:?}: {bytes}");
    }
}
