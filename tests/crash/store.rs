//! Crashes and faults over a whole store: two data directories, and partitions that come, go and move.

mod directories;
mod every_step;
mod faults;
mod judge;
mod kafka;
mod machine;
mod model;
mod script;
