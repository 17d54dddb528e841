//! Filesystems: each plans a [`super::Volume`] from a tree and never writes.

pub mod ext4;
pub mod fat;
pub mod swap;
