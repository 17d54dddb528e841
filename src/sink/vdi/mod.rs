//! VDI images (VirtualBox), dynamic.

pub mod format;
pub(crate) mod write;
