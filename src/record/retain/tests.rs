//! Batches rebuilt.
