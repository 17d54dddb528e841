//! qcow2 images, versions 2 and 3.
//!
//! Specification: <https://www.qemu.org/docs/master/interop/qcow2.html>

pub mod format;
pub mod options;
pub(crate) mod compress;
pub(crate) mod place;
pub(crate) mod write;

pub use options::{CompressionType, Compression, Options, OptionsError, Version};
