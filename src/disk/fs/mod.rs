//! Filesystems: each plans a [`super::Volume`] from a tree and never writes.

pub mod ext4;
pub mod fat;
pub mod swap;

/// Where time stamps of new filesystems come from.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Fixed, in seconds since 1970 (`SOURCE_DATE_EPOCH`).
    pub epoch: Option<i64>,
}
pub fn plan(_f: &super::layout::FilesystemPlan, _t: Option<&std::sync::Arc<crate::tree::Tree>>, _l: u64, _c: &Clock) -> Result<super::Volume, super::layout::PlannerError> { Err("none".into()) }
