//! Counters owned by one log; no global registry.
