//! What a record costs; run with `--release`, `--ignored` and `--nocapture`.

use super::*;
use crate::clock::{Clock, SystemClock};
use crate::record::BatchBuilder;

/// Every second record goes.
struct Odd;

impl SupersededBy for Odd {
    fn is_superseded(&mut self, offset: Offset, _key: &[u8]) -> Result<bool, IoFailure> {
        Ok(offset.value() & 1 == 1)
    }
}

/// Time for each of the 200-byte records of a batch, half of which go, from verifying it to its bytes.
fn nanoseconds_a_record(codec: Compression, first: i64) -> f64 {
    let mut builder = BatchBuilder::new();
    builder.compression(codec).base_offset(at(first));
    for index in 0..80_u32 {
        let mut value = [b'v'; 160];
        value[..4].copy_from_slice(&index.to_le_bytes());
        builder.record(TimestampMs::new(1_700_000_000_000), Some(&[b'k'; 32]), Some(&value));
    }
    let batch = builder.build().unwrap();
    let rules = FilterRules { upper: Offset::MAX, ..rules() };
    let mut filter = BatchFilter::new(rules, CleanedTransactions::default());
    let (clock, mut out, rounds) = (SystemClock::new(), Vec::with_capacity(1 << 20), 40_000_u32);
    let start = clock.monotonic();
    for _ in 0..rounds {
        out.clear();
        let batch = VerifiedBatch::verify(batch.view()).unwrap();
        let filtered = filter.filter(&batch, &mut Odd, &mut out).unwrap();
        assert_eq!(filtered.outcome, Outcome::Rebuilt);
    }
    let taken = clock.monotonic().saturating_sub(start);
    taken.as_secs_f64() * 1e9 / f64::from(rounds * 80)
}

#[test]
#[ignore = "a measurement"]
fn what_a_record_costs() {
    for codec in Compression::ALL {
        println!("{:8} base kept {:6.1} ns", codec.name(), nanoseconds_a_record(codec, 1000));
        println!("{:8} base lost {:6.1} ns", codec.name(), nanoseconds_a_record(codec, 1001));
    }
}
