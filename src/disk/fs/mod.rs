//! Filesystems: each plans a [`super::Volume`] from a tree and never writes.

pub mod ext4;
pub mod fat;
mod planner;
pub mod swap;

pub use planner::{Clock, plan};
