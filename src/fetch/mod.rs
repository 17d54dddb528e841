//! Downloads, checksums and the image cache.
//!
//! ```text
//!  Location ──► Client (http, https, file; proxies, redirects, retries)
//!                  │
//!                  ▼
//!  Cache   blobs by SHA-256, verified      documents by URL, revalidated
//! ```
//!
//! A [`Client`] moves bytes and knows no cache; a [`Cache`] decides what needs
//! moving and lets two builds share one directory safely. Offline, a cache
//! serves what it has and names what it lacks.

mod cache;
mod client;
mod credentials;
mod error;
mod forward;
mod location;
mod lock;
mod no_proxy;
mod resolver;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use cache::{Blob, Cache, Document, Item};
pub use client::{Answer, Body, Client, Condition, Options, Trust};

pub use error::Error;
pub use location::Location;
pub(crate) use location::without_credentials;
pub use lock::Lock;
pub use no_proxy::NoProxy;

use std::fmt;

use sha2::{Digest as _, Sha256};

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Parses 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Digest> {
        let mut bytes = [0; 32];
        if text.len() != 64 {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digit = |at: usize| pair.get(at).and_then(|b| char::from(*b).to_digit(16));
            let value = digit(0)? * 16 + digit(1)?;
            *byte = u8::try_from(value).ok()?;
        }
        Some(Digest(bytes))
    }

    /// Computes the digest of bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    /// Takes what a hasher has seen.
    pub fn from_hasher(hasher: Sha256) -> Digest {
        Digest(hasher.finalize().into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// What is told about bytes as they arrive: how many more there are.
///
/// Called from several threads at once.
pub type Progress<'a> = &'a (dyn Fn(u64) + Sync);
