//! qcow2 images, versions 2 and 3.
//!
//! Specification: <https://www.qemu.org/docs/master/interop/qcow2.html>

pub(crate) mod compress;
pub mod format;
pub mod options;
pub(crate) mod place;
pub(crate) mod write;

pub use options::{Compression, CompressionType, Options, OptionsError, Version};
