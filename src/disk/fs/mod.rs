//! Filesystems: each plans a [`super::Volume`] from a tree and never writes.

pub mod btrfs;
pub mod ext4;
pub mod fat;
mod made;
pub mod swap;
pub mod xfs;

#[cfg(test)]
pub(crate) mod testing;
