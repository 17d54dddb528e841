//! Request, plan and run of a build.

pub mod event;
pub mod request;
