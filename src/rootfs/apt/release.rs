//! Release files: what a suite holds and the digests of its indices.
//!
//! The format is that of the Debian repository format
//! (<https://wiki.debian.org/DebianRepository/Format>). Only SHA-256 is read.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::control::{self, ParseControlError};
use crate::date::{format_http_date, parse_date};
use crate::fetch::Digest;

/// A parsed Release file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Such as `oldstable` or `stable-updates`.
    pub suite: Option<String>,
    /// Such as `bookworm` or `bookworm-updates`.
    pub codename: Option<String>,
    /// When it was made.
    pub date: Option<SystemTime>,
    /// Until when it may be used.
    pub valid_until: Option<SystemTime>,
    /// Architectures that have indices.
    pub architectures: Vec<String>,
    /// Components that have indices.
    pub components: Vec<String>,
    /// Whether indices are also named by their digest.
    pub by_hash: bool,
    /// Whether the indices of architectures include packages for all of them.
    pub all_included: bool,
    /// Files of the suite by their path below it.
    pub files: BTreeMap<String, IndexFile>,
}

/// A file that a Release file vouches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexFile {
    /// Size in bytes.
    pub size: u64,
    /// Digest of its content.
    pub sha256: Digest,
}

/// Why a Release file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// It is not a control file.
    #[error("it is malformed: {0}")]
    Syntax(#[from] ParseControlError),
    /// A field is missing or malformed.
    #[error("its field `{field}` is missing or malformed")]
    Field {
        /// The field.
        field: &'static str,
    },
    /// It is that of another suite.
    #[error("it is that of `{found}`, not of `{wanted}`")]
    OtherSuite {
        /// What was asked for.
        wanted: String,
        /// What it says that it is.
        found: String,
    },
    /// It is too old to be trusted.
    #[error("it expired at {until}")]
    Expired {
        /// When.
        until: String,
    },
    /// It is from the future.
    #[error("it was made at {date}, which is in the future")]
    NotYetValid {
        /// When.
        date: String,
    },
}

impl Release {
    /// The code name, if `name` is an alias of a released suite such as `stable`.
    ///
    /// `testing` and `unstable` are no such aliases: who asks for them wants what
    /// they will be, too.
    pub fn code_name_of_alias(&self, name: &str) -> Option<&str> {
        let code_name = self.codename.as_deref()?;
        let is_alias = self.suite.as_deref() == Some(name) && code_name != name;
        (is_alias && !self.is_rolling()).then_some(code_name)
    }

    /// Parses the signed text.
    pub fn parse(text: &str) -> Result<Release, ReleaseError> {
        let paragraph = control::single(text)?;
        let date = |field: &'static str| match paragraph.get(field) {
            None => Ok(None),
            Some(text) => match parse_date(text) {
                Some(time) => Ok(Some(time)),
                None => Err(ReleaseError::Field { field }),
            },
        };
        let words = |field| -> Vec<String> {
            paragraph
                .get(field)
                .unwrap_or("")
                .split_ascii_whitespace()
                .map(str::to_owned)
                .collect()
        };
        let mut files = BTreeMap::new();
        for line in paragraph.lines("SHA256") {
            let fail = || ReleaseError::Field { field: "SHA256" };
            let mut words = line.split_ascii_whitespace();
            let (Some(digest), Some(size), Some(path), None) =
                (words.next(), words.next(), words.next(), words.next())
            else {
                return Err(fail());
            };
            let file = IndexFile {
                size: size.parse().map_err(|_| fail())?,
                sha256: Digest::parse(digest).ok_or_else(fail)?,
            };
            files.insert(path.to_owned(), file);
        }
        if files.is_empty() {
            return Err(ReleaseError::Field { field: "SHA256" });
        }
        Ok(Release {
            suite: paragraph.get("Suite").map(str::to_owned),
            codename: paragraph.get("Codename").map(str::to_owned),
            date: date("Date")?,
            valid_until: date("Valid-Until")?,
            architectures: words("Architectures"),
            components: words("Components"),
            by_hash: paragraph.get("Acquire-By-Hash") == Some("yes"),
            all_included: paragraph.get("No-Support-for-Architecture-all") == Some("Packages")
                || !words("Architectures").iter().any(|arch| arch == "all"),
            files,
        })
    }

    /// Checks that it is the suite that was asked for, by suite or code name, and current;
    /// one that `may_expire` counts after its end, too.
    ///
    /// Without this a mirror could serve an old or another suite, properly signed.
    pub fn check(
        &self,
        wanted: &str,
        now: SystemTime,
        may_expire: bool,
    ) -> Result<(), ReleaseError> {
        let names = [&self.suite, &self.codename];
        if !names.iter().any(|name| name.as_deref() == Some(wanted)) {
            let found: Vec<&str> = names.iter().filter_map(|name| name.as_deref()).collect();
            return Err(ReleaseError::OtherSuite {
                wanted: wanted.to_owned(),
                found: found.join(", "),
            });
        }
        if let Some(until) = self.valid_until
            && until < now
            && !may_expire
        {
            return Err(ReleaseError::Expired {
                until: format_http_date(until),
            });
        }
        // A day of slack for clocks that are off.
        let slack = std::time::Duration::from_secs(24 * 3600);
        if let Some(date) = self.date
            && date > now + slack
        {
            return Err(ReleaseError::NotYetValid {
                date: format_http_date(date),
            });
        }
        Ok(())
    }

    /// Tells whether the suite moves without releases, and so has neither updates nor a security suite.
    pub fn is_rolling(&self) -> bool {
        matches!(
            self.suite.as_deref(),
            Some("testing" | "unstable" | "experimental")
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    const TEXT: &str = "Origin: Debian\nSuite: oldstable\nCodename: bookworm\nDate: Sat, 17 May 2025 09:03:21 UTC\n\
        Valid-Until: Sat, 24 May 2025 09:03:21 UTC\nAcquire-By-Hash: yes\nArchitectures: all amd64 arm64\n\
        Components: main contrib\nMD5Sum:\n 0123 1 main/x\nSHA256:\n \
        e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855        0 main/binary-amd64/Packages\n";

    #[test]
    fn fields_and_files_are_read() {
        let release = Release::parse(TEXT).expect("valid");
        assert_eq!(release.codename.as_deref(), Some("bookworm"));
        assert!(release.by_hash);
        assert_eq!(release.architectures, ["all", "amd64", "arm64"]);
        assert_eq!(
            release.files["main/binary-amd64/Packages"].sha256,
            Digest::of(b"")
        );
        assert!(!release.is_rolling());
    }

    #[test]
    fn aliases_of_releases_have_a_code_name_and_rolling_suites_have_none() {
        let release = Release::parse(TEXT).expect("valid");
        assert_eq!(release.code_name_of_alias("oldstable"), Some("bookworm"));
        assert_eq!(release.code_name_of_alias("bookworm"), None);
        let testing = TEXT.replace("oldstable", "testing");
        let release = Release::parse(&testing).expect("valid");
        assert_eq!(release.code_name_of_alias("testing"), None);
    }

    #[test]
    fn other_expired_and_future_releases_are_refused() {
        let release = Release::parse(TEXT).expect("valid");
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let good = at(1_747_500_000);
        assert_eq!(release.check("bookworm", good, false), Ok(()));
        assert_eq!(release.check("oldstable", good, false), Ok(()));
        let late = at(1_760_000_000);
        assert_eq!(release.check("bookworm", late, true), Ok(()));
        let text = |result: Result<(), ReleaseError>| result.expect_err("refused").to_string();
        assert_eq!(
            text(release.check("trixie", good, true)),
            "it is that of `oldstable, bookworm`, not of `trixie`"
        );
        assert_eq!(
            text(release.check("bookworm", late, false)),
            "it expired at Sat, 24 May 2025 09:03:21 GMT"
        );
        assert_eq!(
            text(release.check("bookworm", at(1_747_000_000), true)),
            "it was made at Sat, 17 May 2025 09:03:21 GMT, which is in the future"
        );
    }

    #[test]
    fn malformed_release_files_are_refused() {
        for text in [
            "",
            "Suite: x\n",
            "Suite: x\nSHA256:\n zz 1 a\n",
            "SHA256:\n 00 1\n",
        ] {
            assert!(Release::parse(text).is_err(), "{text:?}");
        }
        let dated = TEXT.replace("Sat, 24 May 2025 09:03:21 UTC", "tomorrow");
        assert_eq!(
            Release::parse(&dated),
            Err(ReleaseError::Field {
                field: "Valid-Until"
            })
        );
    }
}
