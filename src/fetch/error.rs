//! Why something could not be fetched.

use std::io;
use std::path::PathBuf;

use super::Digest;

/// Why something could not be fetched. [`Error::hint`] says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is neither a supported URL nor a path.
    #[error("`{text}` is not a URL that can be fetched: {reason}")]
    BadLocation {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The server answered with an error.
    #[error("cannot fetch `{url}`: the server answered {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// There was no (complete) answer.
    #[error("cannot fetch `{url}`: {reason}")]
    Transfer {
        /// What was asked for.
        url: String,
        /// What went wrong.
        reason: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// A proxy variable is malformed.
    #[error("`{variable}` is not a proxy URL that can be used")]
    Proxy {
        /// The environment variable.
        variable: String,
    },
    /// A local source cannot be read.
    #[error("cannot read `{path}`")]
    ReadSource {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file of the cache or a destination cannot be written or read.
    #[error("cannot {action} `{path}`")]
    Store {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The bytes have another size than promised.
    #[error("`{url}` has {actual} bytes where {expected} are promised")]
    Size {
        /// What was asked for.
        url: String,
        /// The promised size in bytes.
        expected: u64,
        /// The size in bytes.
        actual: u64,
    },
    /// The bytes are more than allowed.
    #[error("`{url}` has more than {limit} bytes")]
    TooLarge {
        /// What was asked for.
        url: String,
        /// The largest size in bytes.
        limit: u64,
    },
    /// The bytes are not those that were promised.
    #[error("`{url}` has SHA-256 {actual} where {expected} is promised")]
    Hash {
        /// What was asked for.
        url: String,
        /// The promised digest.
        expected: Digest,
        /// The digest.
        actual: Digest,
    },
    /// Offline, and these are not in the cache.
    #[error("offline, and the cache `{cache}` lacks {}", list(.missing))]
    Offline {
        /// The cache.
        cache: PathBuf,
        /// What is missing, in the order in which it was asked for.
        missing: Vec<String>,
    },
}

fn list(missing: &[String]) -> String {
    let quoted: Vec<String> = missing.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}

impl Error {
    /// Says what the user can do about it.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Error::BadLocation { .. } => {
                Some("give an http, https or file URL, or an absolute path")
            }
            Error::Status { status, .. } => Some(match status {
                401 | 403 => "the server refuses access; check the URL and its credentials",
                404 | 410 => "check the mirror's URL and the release's name",
                407 => "the proxy wants credentials; put them into `http_proxy` or `https_proxy`",
                429 => "the server is being asked too often; try later or use another mirror",
                500..=599 => "the server has a problem; try later or use another mirror",
                _ => "check the mirror's URL",
            }),
            Error::Transfer { hint, .. } => Some(hint),
            Error::Proxy { .. } => Some("write it as `http://host:port`, or unset it"),
            Error::ReadSource { .. } => Some("check that the path exists and may be read"),
            Error::Store { source, .. } if source.raw_os_error() == Some(libc::ENOLCK) => Some(
                "its filesystem has no locks (NFS without its lock manager); choose another `DIB_IMAGE_CACHE`",
            ),
            Error::Store { source, .. } => Some(match source.kind() {
                io::ErrorKind::StorageFull => {
                    "free some space, or choose another `DIB_IMAGE_CACHE`"
                }
                io::ErrorKind::PermissionDenied => {
                    "files of a build by another user may lie there; choose another `DIB_IMAGE_CACHE`"
                }
                _ => "check the directory of the cache (`DIB_IMAGE_CACHE`)",
            }),
            Error::Size { .. } | Error::Hash { .. } => Some(
                "the mirror may be in the middle of an update, or a proxy changes files; try again or use another mirror",
            ),
            Error::TooLarge { .. } => Some("check that the URL is that of a package archive"),
            Error::Offline { .. } => {
                Some("run the same build once without `--offline` and `--network none`")
            }
        }
    }

    /// Tells whether it is just not there, so that something else may be in its place.
    pub fn is_absence(&self) -> bool {
        match self {
            // Stores of objects answer 403 to who may not list what there is.
            Error::Status { status, .. } => matches!(status, 403 | 404 | 410),
            Error::ReadSource { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Error::Offline { .. } => true,
            _ => false,
        }
    }

    /// Tells whether trying again may help.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Transfer { .. } => true,
            Error::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500 | 502..=504),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_url_the_status_and_a_way_out() {
        let error = Error::Status {
            url: "http://a.example/x".into(),
            status: 404,
        };
        assert_eq!(
            error.to_string(),
            "cannot fetch `http://a.example/x`: the server answered 404"
        );
        assert_eq!(
            error.hint(),
            Some("check the mirror's URL and the release's name")
        );
        let error = Error::Offline {
            cache: "/cache".into(),
            missing: vec!["http://a.example/x".into(), "b_1_all.deb".into()],
        };
        assert_eq!(
            error.to_string(),
            "offline, and the cache `/cache` lacks `http://a.example/x`, `b_1_all.deb`"
        );
        assert_eq!(
            error.hint(),
            Some("run the same build once without `--offline` and `--network none`")
        );
    }
}
