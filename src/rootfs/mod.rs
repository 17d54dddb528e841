//! Where a root comes from without host tools.

pub mod apt;
pub mod beneath;
pub mod copy;
