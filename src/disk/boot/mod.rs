//! Boot code on the disk itself.
//!
//! EFI firmware starts a file of the EFI system partition, so only BIOS systems
//! need bytes outside of filesystems.

mod bios;

pub use bios::{BiosBoot, BootError, BootSpace, embed};
