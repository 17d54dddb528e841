//! Reads a tree from a directory.

/// The directory that a tree was scanned from.
#[derive(Debug)]
pub struct Source;
