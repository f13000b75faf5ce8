//! Logs with more keys than the memory holds notes of.
