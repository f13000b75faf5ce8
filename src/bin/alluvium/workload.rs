//! `write-workload`: works on several partitions and says on standard output what it tries, what was acknowledged and
//! what is durable, so that a harness which knows nothing of the files can crash it and hold what is left against that.
//!
//! A line that announces something is written before it is tried, one that confirms something after it is so; each
//! group of lines with one write, so that a crash leaves whole lines.

mod cleaning;
mod partition;

use std::fmt::Write as _;
use std::io::{self, Stdout, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use alluvium::clock::{Clock, SystemClock};
use sha2::{Digest, Sha256};

use crate::Outcome;
use crate::output::hex;
use crate::rng::Rng;
use partition::Partition;

/// Partitions worked on; the last is compacted, which is announced before anything is done to it.
const PARTITIONS: usize = 4;
/// The run ends once it has printed this many lines.
const LINES_MAX: u64 = 3000;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory to work in; made if missing, gone on with if not.
    dir: PathBuf,
    /// Fixes what is done, in which order.
    seed: u64,
}

/// First 16 hex digits of the value's SHA-256, or `null`.
pub(crate) fn value_hash(value: Option<&[u8]>) -> String {
    match value {
        Some(value) => hex(Sha256::digest(value).get(..8).unwrap_or_default()),
        None => "null".to_owned(),
    }
}

/// Standard output, one write a group of lines.
pub(crate) struct Journal {
    out: Stdout,
    lines: u64,
}

impl Journal {
    /// Writes whole lines, each ended by a newline, at once.
    fn say(&mut self, lines: &str) -> io::Result<()> {
        self.lines += lines.lines().count() as u64;
        // Standard output is buffered by line: what ends with a newline and meets an empty buffer goes out at once.
        self.out.write_all(lines.as_bytes())?;
        self.out.flush()
    }
}

/// What the partitions share.
pub(crate) struct Bench {
    journal: Journal,
    rng: Rng,
    clock: SystemClock,
    /// Differs from run to run, so that no two tries ever have equal values.
    nonce: u64,
    tries: u32,
}

/// A record about to be appended.
pub(crate) struct Try {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    key_text: String,
    hash: String,
}

impl Bench {
    /// A record whose value nobody tried before, of `size_max` bytes at most; it may lack a key unless the log is compacted.
    fn make_try(&mut self, size_max: u64, is_compacted: bool) -> Try {
        let key = (is_compacted || !self.rng.chance(10)).then(|| format!("key-{}", self.rng.below(40)).into_bytes());
        let is_tombstone = key.is_some() && self.rng.chance(if is_compacted { 10 } else { 3 });
        let value = (!is_tombstone).then(|| self.make_value(size_max));
        let key_text = key.as_deref().map_or_else(|| "-".to_owned(), hex);
        Try { hash: value_hash(value.as_deref()), key, value, key_text }
    }

    fn make_value(&mut self, size_max: u64) -> Vec<u8> {
        self.tries += 1;
        let mut value = self.nonce.to_be_bytes().to_vec();
        value.extend_from_slice(&self.tries.to_be_bytes());
        let filler = match self.rng.below(10) {
            0..4 => self.rng.below(20),
            4..8 => self.rng.below(300),
            _ => self.rng.below(size_max),
        };
        if self.rng.chance(50) {
            // Compressible.
            let word = self.rng.next().to_be_bytes();
            value.extend(word.iter().cycle().take(usize::try_from(filler).unwrap_or_default()));
        } else {
            value.extend((0..filler).map(|_| self.rng.next().to_be_bytes()).map(|[byte, ..]| byte));
        }
        value
    }
}

pub(crate) fn run(args: &Args) -> Outcome {
    let clock = SystemClock::new();
    // The seed fixes the work; the nonce must never come again, also after a crash that lost every trace of a run.
    let now = clock.wall().value().unsigned_abs();
    let nonce = Rng::new((now << 20) ^ u64::from(std::process::id())).next();
    let journal = Journal { out: io::stdout(), lines: 0 };
    let mut bench = Bench { journal, rng: Rng::new(args.seed), clock, nonce, tries: 0 };
    let mut partitions = Vec::new();
    for at in 0..PARTITIONS {
        let is_compacted = at + 1 == PARTITIONS;
        let dir = args.dir.join(format!("p-{at}"));
        partitions.push(Partition::open(&mut bench, dir, format!("p-{at}"), is_compacted)?);
    }
    while bench.journal.lines < LINES_MAX {
        let at = usize::try_from(bench.rng.below(PARTITIONS as u64)).unwrap_or_default();
        let Some(partition) = partitions.get_mut(at) else { break };
        partition.work(&mut bench)?;
    }
    // Some runs just end, as if killed while idle.
    if args.seed % 4 != 3 {
        for partition in &mut partitions {
            partition.close(&mut bench)?;
        }
    }
    bench.journal.say("# done\n")?;
    Ok(ExitCode::SUCCESS)
}

fn try_lines(name: &str, tries: &[Try]) -> String {
    let mut lines = String::new();
    for Try { key_text, hash, .. } in tries {
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "try {name} {key_text} {hash}");
    }
    lines
}

fn ack_lines(name: &str, base: i64, tries: &[Try], level: &str) -> String {
    let mut lines = String::new();
    for (offset, Try { key_text, hash, .. }) in (base..).zip(tries) {
        let _ = writeln!(lines, "ack {name} {offset} {key_text} {hash} {level}");
    }
    lines
}
