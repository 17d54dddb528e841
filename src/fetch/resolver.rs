//! Name resolution that asks once for each host.
//!
//! The HTTP library resolves for every request, even on a connection that stands.
//! Many small files then mean a burst of queries, which name servers answer by
//! dropping some: each costs five seconds.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// How long an answer is used.
const LIFE: Duration = Duration::from_secs(300);

/// Keeps what the system's resolver said.
#[derive(Debug, Default)]
pub struct CachingResolver {
    system: DefaultResolver,
    /// By scheme and authority, since the port is part of the answer.
    known: Mutex<HashMap<String, (Instant, ResolvedSocketAddrs)>>,
}

impl Resolver for CachingResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let key = format!(
            "{}://{}",
            uri.scheme_str().unwrap_or(""),
            uri.authority().map_or("", |authority| authority.as_str())
        );
        // Held while asking: threads that want the same host wait for one answer.
        let mut known = self
            .known
            .lock()
            .unwrap_or_else(|poison| poison.into_inner());
        if let Some((when, addresses)) = known.get(&key)
            && when.elapsed() < LIFE
        {
            return Ok(addresses.clone());
        }
        let addresses = self.system.resolve(uri, config, timeout)?;
        known.insert(key, (Instant::now(), addresses.clone()));
        Ok(addresses)
    }
}
