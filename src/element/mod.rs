//! Elements: discovery, dependencies, merged hooks, metadata. Pure: no processes.
//!
//! ```text
//! Library::new(ELEMENTS_PATH) ──► resolve(requested) ──► ElementSet ──► hooks::merge ──► HookTree
//! ```
//!
//! Everything is deterministic: directories are read in byte order, the result
//! keeps the order of the arguments and then of the dependencies, breadth first.
//! Where the original picks at random (hash order), this order decides.

mod error;
pub mod hooks;
pub mod info;
mod library;
pub mod lint;
pub mod metadata;
pub mod order;
pub mod replaced;
mod resolve;
pub(crate) mod similar;

pub use error::Error;
pub use library::{Body, Element, ElementFile, Library, Origin};
pub use resolve::{ElementSet, Options, Reason, Selected, resolve};

/// The virtual name that an element must provide to be a root of an image.
pub const OPERATING_SYSTEM: &str = "operating-system";
