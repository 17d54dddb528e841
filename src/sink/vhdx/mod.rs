//! VHDX images (Hyper-V), dynamic, with an empty log.

pub mod format;
pub(crate) mod write;
