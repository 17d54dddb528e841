//! Moves bytes from a location; knows no cache.

use std::fs::File;
use std::io::{self, Read};
use std::time::{Duration, SystemTime};

use ureq::http::{HeaderMap, StatusCode, header};

use super::credentials;
use super::forward::ForwardingConnector;
use super::location::is_https;
use super::no_proxy::NoProxy;
use super::resolver::CachingResolver;
use super::{Error, Location};
use crate::date::{format_http_date, parse_date};

/// Redirects that are followed before giving up.
const REDIRECTS: usize = 10;

/// How a client behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Never use the network; local files are still read.
    pub offline: bool,
    /// Attempts after the first one that failed for a transient reason without any progress.
    pub retries: u32,
    /// Pause before the first retry; it doubles each time.
    pub backoff: Duration,
    /// Time until a connection must stand.
    pub connect_timeout: Duration,
    /// Time without any byte after which a transfer has failed.
    pub stall_timeout: Duration,
    /// Transfers at the same time.
    pub connections: usize,
    /// Whom servers have to be vouched for by.
    pub trust: Trust,
}

/// Whom the certificates of servers have to be signed by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Trust {
    /// Authorities that the host trusts.
    #[default]
    Host,
    /// These authorities only, as PEM.
    Authorities(Vec<u8>),
    /// Nobody: any certificate is taken.
    Unverified,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            offline: false,
            retries: 3,
            backoff: Duration::from_millis(500),
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            connections: 8,
            trust: Trust::Host,
        }
    }
}

/// When a body is wanted at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition {
    /// Only if it changed after this time.
    pub modified_since: Option<SystemTime>,
    /// Only if its entity tag is another.
    pub etag: Option<String>,
    /// Caches on the way must ask the origin.
    pub no_cache: bool,
}

/// What a location answers.
#[derive(Debug)]
pub enum Answer {
    /// It changed, or no condition was set.
    Body(Body),
    /// The condition does not hold.
    NotModified,
}

/// A body that is being received.
pub struct Body {
    reader: Box<dyn Read + Send>,
    location: Location,
    /// Offset in the whole at which this body begins, in bytes.
    pub offset: u64,
    /// Bytes that this body has, if known.
    pub length: Option<u64>,
    /// When it was last modified.
    pub modified: Option<SystemTime>,
    /// Its entity tag.
    pub etag: Option<String>,
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body")
            .field("location", &self.location)
            .field("offset", &self.offset)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

impl Body {
    /// Reads some bytes; 0 is the end.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        loop {
            match self.reader.read(buffer) {
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.read_error(error)),
            }
        }
    }

    fn read_error(&self, error: io::Error) -> Error {
        match &self.location {
            Location::File(path) => Error::ReadSource {
                path: path.clone(),
                source: error,
            },
            location @ Location::Web(_) => Error::Transfer {
                url: location.to_string(),
                reason: format!("the transfer broke off: {error}"),
                hint: "check the network; what has arrived is kept and the next run goes on from there",
            },
        }
    }
}

/// Fetches from the web and from files.
///
/// Proxies come from `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`
/// (also in upper case), trusted certificates from the host (`SSL_CERT_FILE`
/// and `SSL_CERT_DIR` override them).
#[derive(Debug, Clone)]
pub struct Client {
    options: Options,
    direct: ureq::Agent,
    http: ureq::Agent,
    https: ureq::Agent,
    no_proxy: NoProxy,
}

impl Client {
    /// Makes a client with the proxies of the process's environment.
    pub fn new(options: Options) -> Result<Client, Error> {
        Client::with_environment(options, &|name| std::env::var(name).ok())
    }

    /// Makes a client with the proxies of the given environment.
    pub fn with_environment(
        options: Options,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Client, Error> {
        let find = |names: &[&str]| {
            names.iter().find_map(|name| {
                variable(name)
                    .filter(|value| !value.is_empty())
                    .map(|value| ((*name).to_owned(), value))
            })
        };
        let proxy = |names: &[&str]| match find(names) {
            None => Ok(None),
            Some((variable, value)) => ureq::Proxy::new(&value)
                .map(Some)
                .map_err(|_| Error::Proxy { variable }),
        };
        let http = proxy(&["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])?;
        let https = proxy(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])?;
        let no_proxy = find(&["no_proxy", "NO_PROXY"])
            .map(|(_, value)| NoProxy::parse(&value))
            .unwrap_or_default();
        Ok(Client {
            direct: agent(&options, None),
            http: agent(&options, http),
            https: agent(&options, https),
            no_proxy,
            options,
        })
    }

    /// Returns how the client behaves.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Asks once for a location, from a byte offset on.
    ///
    /// A server that does not support ranges answers with the whole:
    /// see [`Body::offset`].
    pub fn open(
        &self,
        location: &Location,
        condition: &Condition,
        offset: u64,
    ) -> Result<Answer, Error> {
        match location {
            Location::File(path) => open_file(location, path, condition, offset),
            Location::Web(url) => self.open_web(url, condition, offset),
        }
    }

    /// Runs an attempt until it succeeds, fails for good or the retries are used up.
    pub(super) fn retry<T>(
        &self,
        mut attempt: impl FnMut() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut pause = self.options.backoff;
        let mut left = self.options.retries;
        loop {
            match attempt() {
                Err(error) if error.is_transient() && left > 0 => {
                    tracing::debug!(%error, "trying again");
                    std::thread::sleep(pause);
                    pause = pause.saturating_mul(2);
                    left -= 1;
                }
                result => return result,
            }
        }
    }

    /// Reads a whole body of at most `limit` bytes, with retries.
    ///
    /// Returns `None` when the condition does not hold.
    pub fn read(
        &self,
        location: &Location,
        condition: &Condition,
        limit: u64,
    ) -> Result<Option<(Vec<u8>, Body)>, Error> {
        self.retry(|| {
            let mut body = match self.open(location, condition, 0)? {
                Answer::NotModified => return Ok(None),
                Answer::Body(body) => body,
            };
            let mut bytes = Vec::new();
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let count = body.read(&mut buffer)?;
                if count == 0 {
                    return Ok(Some((bytes, body)));
                }
                bytes.extend_from_slice(&buffer[..count]);
                if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
                    return Err(Error::TooLarge {
                        url: location.to_string(),
                        limit,
                    });
                }
            }
        })
    }

    /// The agent for an URL, with the proxy that it needs.
    pub(crate) fn agent_for(&self, url: &str) -> &ureq::Agent {
        if self.no_proxy.exempts(url) {
            &self.direct
        } else if is_https(url) {
            &self.https
        } else {
            &self.http
        }
    }

    fn open_web(&self, first: &str, condition: &Condition, offset: u64) -> Result<Answer, Error> {
        if self.options.offline {
            return Err(Error::Transfer {
                url: Location::Web(first.to_owned()).to_string(),
                reason: "the network is not to be used".to_owned(),
                hint: "run without `--offline` and `--network none`",
            });
        }
        let (mut url, mut credentials) = credentials::split(first);
        // Redirects are followed here because the proxy depends on scheme and host.
        for _ in 0..=REDIRECTS {
            let shown = Location::Web(url.clone()).to_string();
            let agent = self.agent_for(&url);
            let mut request = agent.get(&url);
            if let Some(credentials) = &credentials {
                request = request.header(header::AUTHORIZATION, credentials);
            }
            if let Some(time) = condition.modified_since {
                request = request.header(header::IF_MODIFIED_SINCE, format_http_date(time));
            }
            if let Some(etag) = &condition.etag {
                request = request.header(header::IF_NONE_MATCH, etag);
            }
            if condition.no_cache {
                request = request
                    .header(header::CACHE_CONTROL, "no-cache, must-revalidate")
                    .header(header::PRAGMA, "no-cache");
            }
            if offset > 0 {
                request = request.header(header::RANGE, format!("bytes={offset}-"));
            }
            let response = request
                .call()
                .map_err(|error| transfer_error(&shown, agent.config().proxy(), error))?;
            let status = response.status();
            if is_redirect(status) {
                let target = text_header(response.headers(), header::LOCATION);
                let target = target
                    .and_then(|target| resolve_redirect(&url, &target))
                    .ok_or_else(|| Error::Transfer {
                        url: shown,
                        reason: format!("the server redirects ({status}) to no usable URL"),
                        hint: "check the mirror's URL",
                    })?;
                let (next, own) = credentials::split(&target);
                // They are meant for the server that they were given for.
                credentials = own.or(credentials.filter(|_| origin(&next) == origin(&url)));
                url = next;
                continue;
            }
            return answer(first, response, offset);
        }
        Err(Error::Transfer {
            url: Location::Web(first.to_owned()).to_string(),
            reason: format!("there were more than {REDIRECTS} redirects"),
            hint: "check the mirror's URL",
        })
    }
}

fn answer(
    url: &str,
    response: ureq::http::Response<ureq::Body>,
    offset: u64,
) -> Result<Answer, Error> {
    let location = Location::Web(url.to_owned());
    let headers = response.headers();
    let start = match response.status() {
        StatusCode::OK => 0,
        StatusCode::NOT_MODIFIED => return Ok(Answer::NotModified),
        StatusCode::PARTIAL_CONTENT => {
            let range = text_header(headers, header::CONTENT_RANGE).unwrap_or_default();
            let start = range
                .strip_prefix("bytes ")
                .and_then(|range| range.split_once('-'))
                .and_then(|(start, _)| start.parse::<u64>().ok());
            match start {
                Some(start) if start == offset => start,
                _ => {
                    return Err(Error::Transfer {
                        url: location.to_string(),
                        reason: format!("the server answered with another range (`{range}`)"),
                        hint: "a proxy on the way may be broken; use another mirror",
                    });
                }
            }
        }
        status => {
            return Err(Error::Status {
                url: location.to_string(),
                status: status.as_u16(),
            });
        }
    };
    let modified = text_header(headers, header::LAST_MODIFIED).and_then(|text| parse_date(&text));
    let etag = text_header(headers, header::ETAG);
    let length = response.body().content_length();
    Ok(Answer::Body(Body {
        reader: Box::new(response.into_body().into_reader()),
        location,
        offset: start,
        length,
        modified,
        etag,
    }))
}

fn open_file(
    location: &Location,
    path: &std::path::Path,
    condition: &Condition,
    offset: u64,
) -> Result<Answer, Error> {
    use std::io::Seek as _;
    let read = |source| Error::ReadSource {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(read)?;
    let metadata = file.metadata().map_err(read)?;
    if metadata.is_dir() {
        return Err(read(io::Error::from(io::ErrorKind::IsADirectory)));
    }
    let modified = metadata.modified().ok();
    if let (Some(modified), Some(since)) = (modified, condition.modified_since)
        && modified <= since
    {
        return Ok(Answer::NotModified);
    }
    let offset = if offset > metadata.len() { 0 } else { offset };
    file.seek(io::SeekFrom::Start(offset)).map_err(read)?;
    Ok(Answer::Body(Body {
        reader: Box::new(file),
        location: location.clone(),
        offset,
        length: metadata.is_file().then(|| metadata.len() - offset),
        modified,
        etag: None,
    }))
}

fn agent(options: &Options, proxy: Option<ureq::Proxy>) -> ureq::Agent {
    let roots = match &options.trust {
        Trust::Authorities(pem) => {
            let certificates = ureq::tls::parse_pem(pem).filter_map(|item| match item {
                Ok(ureq::tls::PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            });
            ureq::tls::RootCerts::Specific(std::sync::Arc::new(certificates.collect()))
        }
        Trust::Host | Trust::Unverified => ureq::tls::RootCerts::PlatformVerifier,
    };
    let tls = ureq::tls::TlsConfig::builder()
        .root_certs(roots)
        .disable_verification(options.trust == Trust::Unverified)
        .build();
    let config = |proxy| {
        ureq::Agent::config_builder()
            .proxy(proxy)
            .tls_config(tls.clone())
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("kiln/", env!("CARGO_PKG_VERSION")))
            // Sizes, ranges and digests are those of the file, not of an encoding of it.
            .accept_encoding("identity")
            .timeout_connect(Some(options.connect_timeout))
            .timeout_recv_response(Some(options.stall_timeout))
            .timeout_per_read(Some(options.stall_timeout))
            .max_idle_connections(options.connections * 2)
            .max_idle_connections_per_host(options.connections)
            .build()
    };
    ureq::Agent::with_parts(
        config(proxy),
        ForwardingConnector::new(config(None)),
        CachingResolver::default(),
    )
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn text_header(headers: &HeaderMap, name: header::HeaderName) -> Option<String> {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned)
}

/// Applies the `Location` of an answer to the URL that was asked for (RFC 3986 §5.2, without `..`).
fn resolve_redirect(base: &str, target: &str) -> Option<String> {
    let target = target.split('#').next().unwrap_or("");
    let (scheme, rest) = base.split_once("://")?;
    let resolved = if target.contains("://") {
        target.to_owned()
    } else if target.starts_with("//") {
        format!("{scheme}:{target}")
    } else if target.starts_with('/') {
        let authority = rest.split('/').next()?;
        format!("{scheme}://{authority}{target}")
    } else if target.is_empty() {
        return None;
    } else {
        let path = base.split('?').next()?;
        let directory = if rest.contains('/') {
            path.rsplit_once('/')?.0
        } else {
            path
        };
        format!("{directory}/{target}")
    };
    match Location::parse(&resolved) {
        Ok(Location::Web(url)) => Some(url),
        _ => None,
    }
}

/// Scheme, host and port of a URL without credentials.
fn origin(url: &str) -> String {
    let end = url
        .match_indices('/')
        .nth(2)
        .map_or(url.len(), |(at, _)| at);
    url[..end].to_ascii_lowercase()
}

fn transfer_error(url: &str, proxy: Option<&ureq::Proxy>, error: ureq::Error) -> Error {
    let (is_unknown, is_refused) = match &error {
        ureq::Error::HostNotFound => (true, false),
        ureq::Error::Io(error) => (
            // The standard library's words for all that `getaddrinfo(3)` says.
            error.to_string().contains("lookup address"),
            error.kind() == io::ErrorKind::ConnectionRefused,
        ),
        _ => (false, false),
    };
    if let Some(proxy) = proxy.filter(|_| is_unknown || is_refused) {
        return Error::Transfer {
            url: url.to_owned(),
            reason: format!("the proxy `{}:{}`: {error}", proxy.host(), proxy.port()),
            hint: "correct or unset `http_proxy`, `https_proxy` or `all_proxy`",
        };
    }
    let hint = match &error {
        _ if is_unknown => {
            "check the host's name and this machine's DNS; behind a proxy set `http_proxy` and `https_proxy`"
        }
        _ if is_refused => {
            "no server answers there; check the mirror's host and port, or use another mirror"
        }
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) | ureq::Error::Pem(_) => {
            "if a proxy inspects TLS, name its certificates in `SSL_CERT_FILE`"
        }
        ureq::Error::ConnectProxyFailed(_) | ureq::Error::InvalidProxyUrl => {
            "check `http_proxy` and `https_proxy`"
        }
        ureq::Error::BadUri(_) => "check the mirror's URL",
        ureq::Error::Io(error) if error.to_string().contains("certificate") => {
            "if a proxy inspects TLS, name its certificates in `SSL_CERT_FILE`"
        }
        _ => "check the network, or use another mirror",
    };
    Error::Transfer {
        url: url.to_owned(),
        reason: error.to_string(),
        hint,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_resolve_against_their_base() {
        let base = "http://a.example:8080/x/y?q";
        for (target, expected) in [
            ("https://b/z", Some("https://b/z")),
            ("//b/z#f", Some("http://b/z")),
            ("/z", Some("http://a.example:8080/z")),
            ("z", Some("http://a.example:8080/x/z")),
            ("file:///etc/passwd", None),
            ("", None),
        ] {
            assert_eq!(
                resolve_redirect(base, target).as_deref(),
                expected,
                "{target}"
            );
        }
    }

    #[test]
    fn the_hint_tells_a_name_without_an_address_from_a_server_that_is_down() {
        let by = |proxy: Option<&ureq::Proxy>, error: io::Error| match transfer_error(
            "http://a/",
            proxy,
            ureq::Error::Io(error),
        ) {
            Error::Transfer { hint, reason, .. } => (hint, reason),
            other => panic!("{other}"),
        };
        let hint = |error| by(None, error).0;
        use std::net::ToSocketAddrs as _;
        // No name has two dots in a row.
        let unknown = "a..example:80".to_socket_addrs().expect_err("no such name");
        assert!(hint(unknown).contains("DNS"));
        // The port was free a moment ago.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        drop(listener);
        let down = std::net::TcpStream::connect(address).expect_err("nobody listens");
        assert!(hint(down).contains("no server answers there"));
        let other = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!(hint(other), "check the network, or use another mirror");
        let proxy = ureq::Proxy::new("http://me:secret@p.example:3128").expect("a proxy");
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let (hint, reason) = by(Some(&proxy), refused);
        assert!(hint.contains("unset `http_proxy`"), "{hint}");
        assert!(
            reason.starts_with("the proxy `p.example:3128`: "),
            "{reason}"
        );
    }

    #[test]
    fn a_malformed_proxy_is_named() {
        let error = Client::with_environment(Options::default(), &|name| {
            (name == "http_proxy").then(|| "::nonsense::".to_owned())
        })
        .expect_err("refused");
        assert_eq!(
            error.to_string(),
            "`http_proxy` is not a proxy URL that can be used"
        );
    }
}
