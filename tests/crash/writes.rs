//! Failing writes: a full disk, an I/O error, a part of a write. Nothing of a failed append is visible or survives, and
//! the log goes on when the disk does.
