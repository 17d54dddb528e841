//! Where something is: a URL or a path.

use std::fmt;
use std::path::{Path, PathBuf};

use super::Error;

/// An `http`, `https`, `file` or `copy` URL (apt's other word for files), or a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Location {
    /// An `http://` or `https://` URL.
    Web(String),
    /// A local file or directory.
    File(PathBuf),
}

impl Location {
    /// Parses a URL; a text without a scheme is a path.
    pub fn parse(text: &str) -> Result<Location, Error> {
        let fail = |reason| Error::BadLocation {
            text: without_credentials(text),
            reason,
        };
        let lower = text.to_ascii_lowercase();
        if lower.starts_with("http://") || lower.starts_with("https://") {
            let host = text.split('/').nth(2).unwrap_or("");
            if host.is_empty() {
                return Err(fail("it has no host"));
            }
            if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
                return Err(fail("it contains white space"));
            }
            return Ok(Location::Web(text.to_owned()));
        }
        let local = ["file:", "copy:"];
        if let Some(prefix) = local.iter().find(|scheme| lower.starts_with(**scheme)) {
            let prefix = &text[prefix.len()..];
            let path = match prefix.strip_prefix("//") {
                // `file://host/path`: only this host.
                Some(rest) => match rest.find('/') {
                    Some(slash)
                        if slash == 0 || rest[..slash].eq_ignore_ascii_case("localhost") =>
                    {
                        &rest[slash..]
                    }
                    _ => return Err(fail("a file URL may not name another host")),
                },
                None => prefix,
            };
            let path = percent_decode(path).ok_or_else(|| fail("it has a malformed `%`"))?;
            return Ok(Location::File(PathBuf::from(path)));
        }
        if text.is_empty() {
            return Err(fail("it is empty"));
        }
        // apt's `cdrom:/PATH` is no path either.
        if let Some((scheme, rest)) = text.split_once(':')
            && rest.starts_with('/')
            && !scheme.is_empty()
            && scheme
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        {
            return Err(fail("its scheme is not supported"));
        }
        Ok(Location::File(PathBuf::from(text)))
    }

    /// Returns the location of something below this one.
    pub fn join(&self, below: &str) -> Location {
        match self {
            Location::Web(url) => {
                let encoded = percent_encode(below);
                Location::Web(format!("{}/{encoded}", url.trim_end_matches('/')))
            }
            Location::File(path) => Location::File(path.join(below.trim_start_matches('/'))),
        }
    }

    /// Returns the path if it is local.
    pub fn as_file(&self) -> Option<&Path> {
        match self {
            Location::Web(_) => None,
            Location::File(path) => Some(path),
        }
    }
}

/// Shows the location without user name and password.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Web(url) => f.write_str(&without_credentials(url)),
            Location::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Whether a web URL is one of TLS.
pub(super) fn is_https(url: &str) -> bool {
    url.get(..6)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:"))
}

/// Removes `user:password@` from a URL.
pub(crate) fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{host}{path}"),
        None => url.to_owned(),
    }
}

pub(super) fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// Encodes what may not stand in the path of a URL (RFC 3986 §3.3).
fn percent_encode(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_paths_are_told_apart() {
        let file = |path: &str| Location::File(PathBuf::from(path));
        for (text, expected) in [
            ("file:///srv/a%20b", file("/srv/a b")),
            ("file://localhost/srv", file("/srv")),
            ("file:/srv", file("/srv")),
            ("copy:/srv/a%20b", file("/srv/a b")),
            ("copy:///srv", file("/srv")),
            ("/srv/x", file("/srv/x")),
            ("HTTP://a/x", Location::Web("HTTP://a/x".into())),
        ] {
            assert_eq!(Location::parse(text).expect(text), expected);
        }
        for text in [
            "",
            "ftp://a/x",
            "cdrom:/x",
            "mirror+file:/x",
            "http:///x",
            "file://elsewhere/x",
            "http://a/ b",
        ] {
            assert!(Location::parse(text).is_err(), "`{text}`");
        }
    }

    #[test]
    fn credentials_are_never_shown() {
        let location = Location::parse("https://me:secret@a.example/x@y").expect("valid");
        assert_eq!(location.to_string(), "https://a.example/x@y");
    }

    #[test]
    fn joining_encodes_for_the_web_only() {
        let web = Location::parse("http://a/d/").expect("valid");
        assert_eq!(
            web.join("p/x_1%3a2 b").to_string(),
            "http://a/d/p/x_1%253a2%20b"
        );
        assert_eq!(web.join("p/g++_1~2").to_string(), "http://a/d/p/g++_1~2");
        let file = Location::parse("/d").expect("valid");
        assert_eq!(file.join("p/x").to_string(), "/d/p/x");
    }
}
