//! Simulated file system.
