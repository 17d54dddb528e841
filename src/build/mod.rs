//! Request, plan and run of a build.

pub mod arch;
mod beside;
pub mod block_device;
mod breaks;
pub mod confinement;
mod destination;
pub mod engine;
pub mod environment;
pub mod event;
mod explain;
mod exports;
pub mod failure;
mod homes;
mod hook;
pub mod output;
pub mod owners;
pub mod phases;
pub mod place;
pub mod plan;
mod programs;
mod record;
mod reports;
pub mod request;
mod reserved;
pub mod run;
pub mod session;
mod sourcing;
pub mod strays;
pub mod target;
mod usage;
pub mod variables;

pub use run::run;
