//! A Debian root from a signed repository.

pub mod ar;
pub mod control;
pub mod deb;
pub mod index;
pub mod openpgp;
pub mod relation;
pub mod release;
pub mod resolve;
pub mod sources;
pub mod unpack;
pub mod version;
