//! `perf`: measures what the crate does, each time beside the same work by hand in the same run.
//!
//! ```text
//! appends.rs  `perf appends`: appends while the cleaner works
//! spent.rs    time, of the clock and of the processor
//! shape.rs    what is cleaned: the data, written once and copied for each round
//! raw.rs      the same work by hand
//! round.rs    one cleaning and its figures
//! clean.rs    `perf clean`: which shapes, how many rounds
//! figures.rs  rounds summed up, as a table and as JSON
//! ```

mod appends;
mod clean;
mod figures;
mod raw;
mod round;
mod shape;
mod spent;
#[cfg(test)]
mod tests;

use std::error::Error;

use clap::Subcommand;

use crate::Outcome;
use crate::{rng, watched};

/// What comes of a piece of a measurement.
type Done<T> = Result<T, Box<dyn Error>>;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Clean logs whose keys do and do not fit the memory: time, bytes written and peak memory, against the same bytes
    /// moved by hand. Without a shape a table of them is measured, which takes minutes and some gigabytes of disk. Exit 1
    /// when more was written, or more memory held, than the cleaner promises.
    Clean(clean::Args),
    /// Append at a steady rate to a store while its cleaner works, and while it rests: how long each append takes.
    Appends(appends::Args),
}

pub(crate) fn run(args: &Args) -> Outcome {
    match &args.what {
        What::Clean(args) => clean::run(args),
        What::Appends(args) => appends::run(args),
    }
}
