//! Claims that a record which was appended and not made durable survives every power loss. It does not, and the fuzzer
//! must find that out.

use std::path::Path;
use std::sync::Arc;

use alluvium::clock::ManualClock;
use alluvium::fs::sim::SimFs;
use alluvium::record::BatchBuilder;
use alluvium::{AppendAs, Environment, LeaderEpoch, LogConfig, Offset, TimestampMs};

use super::input::Input;

pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let fs = SimFs::new(u64::from(input.u8()));
    let open = |fs: &SimFs| {
        let environment = Environment { fs: Arc::new(fs.clone()), clock: Arc::new(ManualClock::at(1)) };
        environment.open(Path::new("/orders-0"), LogConfig::default()).expect("nothing fails here")
    };
    let log = open(&fs);
    let batch = BatchBuilder::new().record(TimestampMs::new(1), None, Some(b"v")).build().expect("one record");
    let epoch = LeaderEpoch::new(0).expect("not negative");
    log.append(batch, AppendAs::Client { epoch }).expect("nothing fails here");
    let survivor = open(&fs.power_loss(u64::from(input.u8())));
    assert!(survivor.log_end() > Offset::ZERO, "the canary sings");
}
