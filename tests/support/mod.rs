//! What the crash tests, the model tests and the fuzzer share: a naive model of a log, workloads from a seed, a runner
//! that keeps a history of what was promised, and a checker that holds a reopened log to it.
//!
//! Nothing here looks into the crate: only its public interface and the simulator's are used. Checks return what is
//! wrong as text, so that a canary can demand a failure and a fuzzer can print one.

#![allow(dead_code, reason = "each binary uses its part")]

pub(crate) mod batches;
pub(crate) mod checker;
pub(crate) mod clean;
pub(crate) mod history;
pub(crate) mod indexes;
pub(crate) mod model;
pub(crate) mod naive;
pub(crate) mod producing;
pub(crate) mod reading;
pub(crate) mod runner;
pub(crate) mod standing;
pub(crate) mod transactions;
pub(crate) mod workload;
