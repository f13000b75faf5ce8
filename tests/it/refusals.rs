//! Bad input: each kind is an error of its own that says what to do, and changes nothing on disk or in memory.

mod appends;
mod opens;
mod ranges;
