//! A disk that fails when it is told to, for the cleaner alone: whatever else writes does not notice.

use std::io;
use std::panic;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use alluvium::clock::{Clock as _, SystemClock};
use alluvium::sync::Mutex;

use crate::watched::Watch;

/// What a panic of ours says.
const PANIC: &str = "a fault that the demo put in: the cleaner's own mistake";
/// `EIO`.
const INPUT_OUTPUT_ERROR: i32 = 5;
/// What new segments are called until they are in place.
const STAGED: &str = ".log.cleaned";

/// What befalls whoever writes a new segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A panic in the middle of the pass.
    Panic,
    /// The call fails as on a broken disk.
    BrokenDisk,
}

#[derive(Debug, Default)]
struct Armed {
    fault: Option<Fault>,
    /// When the fault first struck, since it was armed.
    struck: Option<Duration>,
}

/// The disk.
#[derive(Debug)]
pub(super) struct Faults {
    clock: Arc<SystemClock>,
    armed: Mutex<Armed>,
}

impl Faults {
    /// Nothing fails yet. Times are by `clock`.
    pub(super) fn new(clock: Arc<SystemClock>) -> Self {
        Self { clock, armed: Mutex::new(Armed::default()) }
    }

    /// From now on this happens, or nothing.
    pub(super) fn arm(&self, fault: Option<Fault>) {
        *self.armed.lock() = Armed { fault, struck: None };
    }

    /// When the fault first struck.
    pub(super) fn struck(&self) -> Option<Duration> {
        self.armed.lock().struck
    }
}

impl Watch for Faults {
    fn before_write(&self, path: &Path, _bytes: u64) -> io::Result<()> {
        if !path.to_string_lossy().contains(STAGED) {
            return Ok(());
        }
        let mut armed = self.armed.lock();
        let Some(fault) = armed.fault else { return Ok(()) };
        armed.struck = armed.struck.or_else(|| Some(self.clock.monotonic()));
        drop(armed);
        match fault {
            Fault::Panic => panic!("{PANIC}"),
            Fault::BrokenDisk => Err(io::Error::from_raw_os_error(INPUT_OUTPUT_ERROR)),
        }
    }
}

/// Panics of ours are part of the story and print nothing; others do as before.
pub(super) fn quiet_panics() {
    let others = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let is_ours = info.payload().downcast_ref::<String>().is_some_and(|said| said == PANIC)
            || info.payload().downcast_ref::<&str>().is_some_and(|said| *said == PANIC);
        if !is_ours {
            others(info);
        }
    }));
}
