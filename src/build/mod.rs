//! Request, plan and run of a build.

mod beside;
pub mod block_device;
pub mod confinement;
mod destination;
pub mod engine;
pub mod environment;
pub mod event;
mod exports;
pub mod failure;
pub mod output;
pub mod owners;
pub mod phases;
pub mod place;
pub mod plan;
mod programs;
mod record;
mod reports;
pub mod request;
pub mod run;
pub mod session;
pub mod strays;
pub mod target;
mod usage;
pub mod variables;

pub use run::run;
