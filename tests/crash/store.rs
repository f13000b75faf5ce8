//! Crashes and faults over a whole store: two data directories, and partitions that come, go and move.

mod every_step;
mod faults;
mod judge;
mod machine;
mod model;
mod script;
