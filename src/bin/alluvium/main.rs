//! The `alluvium` command-line tool: looks at partition logs, writes them, checks them, and shows what the crate does.
//!
//! Exit codes: 0 done, 1 what was looked for is not as it should be (`verify`, `stat`, `demo`, `config check`, `clean` and
//! `explain`: damage was left as it is, or there is no such record), 2 could not run.

mod append;
mod cat;
mod clean;
mod config;
mod demo;
mod dump;
mod dump_all;
mod dump_derived;
mod explain;
mod output;
mod perf;
mod rng;
mod settings;
mod stat;
mod verify;
mod watched;
mod workload;

use std::error::Error;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use peak_alloc::PeakAlloc;

/// Counts what is allocated, for `perf`: two atomic additions a call, which no other subcommand notices.
#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// How a subcommand ends: with an exit code, or because it could not run.
type Outcome = Result<ExitCode, Box<dyn Error>>;

/// Partition logs in Kafka's on-disk format.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a text, kill the writer, recover, read back and compare; with a table of latencies.
    Demo(demo::Args),
    /// Append the lines of standard input: `key<TAB>value`, or a value only.
    Append(append::Args),
    /// Print records, from an offset or a timestamp on. Takes no lock, so it works while another process writes.
    Cat(cat::Args),
    /// Print batches, records, indexes and state, damaged or not. Takes no lock.
    Dump(dump::Args),
    /// Check everything: exit 0 when sound, 1 when damage was found, 2 when it could not run. Takes no lock.
    Verify(verify::Args),
    /// Say what lies in a data directory: partitions, offsets, sizes, lists, markers. Takes no lock; exit 1 when something
    /// is wrong by what its files say. Batches are not checked: see `verify`.
    Stat(stat::Args),
    /// Remove what newer records of the same keys have superseded, or say with `--dry-run` what that would take. Exit 1
    /// when damage was left as it is.
    Clean(clean::Args),
    /// Say why a log is cleaned or not, or why a record stays or goes. Takes no lock.
    Explain(explain::Args),
    /// List every setting with its type, default, range and meaning, or check a file of settings.
    Config(config::Args),
    /// Measure what the crate does, against the same work by hand.
    Perf(perf::Args),
    /// Work in a directory until done, saying what was tried and what was acknowledged. For crash tests from outside.
    WriteWorkload(workload::Args),
    /// Open every partition in a directory and print its records. For crash tests from outside.
    DumpAll(dump_all::Args),
    /// The process that `demo` kills.
    #[command(hide = true)]
    DemoWriter(demo::WriterArgs),
    /// The process with a store that `demo` kills.
    #[command(hide = true)]
    DemoStoreWriter(demo::StoreWriterArgs),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Demo(args) => demo::run(&args),
        Command::Append(args) => append::run(&args),
        Command::Cat(args) => cat::run(&args),
        Command::Dump(args) => dump::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Stat(args) => stat::run(&args),
        Command::Clean(args) => clean::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Config(args) => config::run(&args),
        Command::Perf(args) => perf::run(&args),
        Command::WriteWorkload(args) => workload::run(&args),
        Command::DumpAll(args) => dump_all::run(&args),
        Command::DemoWriter(args) => demo::write_until_killed(&args),
        Command::DemoStoreWriter(args) => demo::write_store_until_killed(&args),
    };
    match outcome {
        Ok(code) => code,
        // Whoever reads us has seen enough.
        Err(error) if is_broken_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell if standard error is gone too.
            let _ = writeln!(io::stderr(), "alluvium: {error}");
            ExitCode::from(2)
        }
    }
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
