//! A Debian root from a signed repository.

pub mod control;
pub mod index;
pub mod openpgp;
pub mod relation;
pub mod release;
pub mod resolve;
pub mod version;
