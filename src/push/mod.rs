//! Sends finished images to services.
//!
//! | module | is |
//! |---|---|
//! | `cloud` | where an OpenStack cloud is and who asks: `clouds.yaml`, `OS_*` (pure but for the files) |
//! | `http` | one request and its answer |
//! | `keystone` | credentials → token and catalogue |
//! | `glance` | the image service's calls |
//! | `describe` | an image file → what the service should know of it |
//! | `upload` | the whole job: record, bytes, proof, clean-up |
//!
//! A failure leaves no record behind, and no record becomes active whose bytes
//! are not those of the file.

mod cloud;
mod describe;
mod error;
mod glance;
mod http;
mod keystone;
mod upload;

pub use cloud::{Auth, Cloud, Domain, Lookup, Scope, Who, find};
pub use describe::{Described, describe};
pub use error::Error;
pub use glance::{Method, Visibility};
pub use upload::{Existing, Item, Job, Parts, Pushed, Report, push};
