//! Integration tests on the real file system.
mod basics;
