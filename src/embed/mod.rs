//! The bundled element library, compiled into the binary.
//!
//! Paths are relative to `elements/` and have the form `GROUP/ELEMENT/…`; the
//! group only orders the source tree and is not part of an element's name.

/// What an embedded path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// A regular file with these bytes.
    Data(&'static [u8]),
    /// A symbolic link with this target.
    Link(&'static str),
}

/// One file of the bundled library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct File {
    /// Path below `elements/`, with `/` between components.
    pub path: &'static str,
    /// Whether the owner may execute it (mode 0755 instead of 0644).
    pub executable: bool,
    /// Its content.
    pub body: Body,
}

/// Every bundled file, sorted by path.
pub static FILES: &[File] = include!(concat!(env!("OUT_DIR"), "/elements.rs"));
