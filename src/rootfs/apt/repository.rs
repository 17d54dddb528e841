//! Reads suites of an archive: signed Release files and the indices they vouch for.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::deb::decompress;
use super::error::Error;
use super::index::Universe;
use super::openpgp::Keyring;
use super::release::{IndexFile, Release, ReleaseError};
use super::sources::Suite;
use super::version::Version;
use crate::fetch::{
    Blob, Cache, Client, Digest, Document, Item, Location, Progress, without_credentials,
};
use crate::threads::at_once;

/// The Release file that holds its signatures.
const IN_RELEASE: &str = "InRelease";
/// The one that does not, and they.
const RELEASE: &str = "Release";
const SIGNATURES: &str = "Release.gpg";
/// Bytes that a Release file may have.
const RELEASE_LIMIT: u64 = 16 << 20;
/// Bytes that an index may have when it is unpacked (sid's main has 60 MB).
const INDEX_LIMIT: u64 = 1 << 30;

/// A suite whose Release file is good.
#[derive(Debug, Clone)]
pub struct OpenSuite {
    /// Which one.
    pub suite: Suite,
    /// Its archive.
    pub archive: Location,
    /// The Release file, parsed.
    pub release: Release,
    /// The Release file as it was signed.
    pub signed: Signed,
    base: Location,
}

/// A Release file with its signatures.
#[derive(Debug, Clone)]
pub struct Signed {
    /// The Release file.
    pub release: Document,
    /// Its signatures, if they have a file of their own.
    pub signatures: Option<Document>,
}

impl Signed {
    /// The Release file's name.
    fn name(&self) -> &'static str {
        match self.signatures {
            None => IN_RELEASE,
            Some(_) => RELEASE,
        }
    }

    /// All files, with their names.
    fn files(&self) -> impl Iterator<Item = (&'static str, &Document)> {
        let signatures = self.signatures.iter().map(|file| (SIGNATURES, file));
        [(self.name(), &self.release)].into_iter().chain(signatures)
    }
}

/// An index of a suite: verified and unpacked.
#[derive(Debug, Clone)]
pub struct Index {
    /// Which of the suites it belongs to.
    pub suite: usize,
    /// Its path below the suite, without a suffix of compression.
    pub path: String,
    /// Its text in the cache.
    pub blob: Blob,
    /// Its text.
    pub text: Arc<String>,
}

/// What is needed to read a repository.
#[derive(Debug, Clone, Copy)]
pub struct Access<'a> {
    /// Fetches.
    pub client: &'a Client,
    /// Keeps.
    pub cache: &'a Cache,
    /// Says who may sign.
    pub keyring: &'a Keyring,
    /// The time as of which things are valid.
    pub now: SystemTime,
    /// Whether suites count after their end (`Valid-Until`), as those of snapshots do.
    pub may_expire: bool,
}

impl Access<'_> {
    /// Fetches and verifies the Release file of a suite.
    ///
    /// Offline, a file that has expired since it was fetched still counts: it was
    /// current when it was verified then, and there is no newer one to be had.
    pub fn open(&self, suite: &Suite) -> Result<OpenSuite, Error> {
        let archive = Location::parse(&suite.mirror)?;
        let base = archive.join(&format!("dists/{}", suite.name));
        let opened = match self.open_signed(suite, &base, false) {
            Err(Error::Fetch(absent)) if absent.is_absence() => {
                self.open_detached(suite, &base, absent)
            }
            opened => opened,
        };
        let (signed, release) = opened?;
        Ok(OpenSuite {
            suite: suite.clone(),
            archive,
            release,
            signed,
            base,
        })
    }

    /// Looks for a Release file with its signatures beside it, where there is none that
    /// holds them.
    fn open_detached(
        &self,
        suite: &Suite,
        base: &Location,
        absent: crate::fetch::Error,
    ) -> Result<(Signed, Release), Error> {
        match self.open_signed(suite, base, true) {
            Err(Error::Fetch(error)) if error.is_absence() => {
                let release = base.join(RELEASE);
                let online = !self.client.options().offline || release.as_file().is_some();
                let there = self
                    .cache
                    .document(self.client, &release, RELEASE_LIMIT)
                    .is_ok();
                Err(if online && there {
                    let url = release.to_string();
                    Error::Unsigned { url }
                } else {
                    Error::Fetch(absent)
                })
            }
            opened => opened,
        }
    }

    /// Fetches a suite's Release file, with the signatures that are beside it or without,
    /// and verifies it.
    fn open_signed(
        &self,
        suite: &Suite,
        base: &Location,
        detached: bool,
    ) -> Result<(Signed, Release), Error> {
        let file = |name: &str, anew: bool| {
            let location = base.join(name);
            if anew {
                self.cache
                    .document_anew(self.client, &location, RELEASE_LIMIT)
            } else {
                self.cache.document(self.client, &location, RELEASE_LIMIT)
            }
        };
        let name = if detached { RELEASE } else { IN_RELEASE };
        let fetch = |anew: bool| -> Result<Signed, Error> {
            Ok(Signed {
                release: file(name, anew)?,
                signatures: detached.then(|| file(SIGNATURES, anew)).transpose()?,
            })
        };
        let url = base.join(name).to_string();
        let mut signed = fetch(false)?;
        let mut checked = self.check(suite, &url, &signed);
        // A server or proxy may say that nothing changed although what we have is of
        // no use any more; then every build would fail until the cache is cleared.
        let fresh = signed.files().all(|(_, document)| document.is_fresh());
        if checked.is_err() && !fresh && !self.client.options().offline {
            tracing::debug!(%url, "fetching anew what failed its verification");
            signed = fetch(true)?;
            checked = self.check(suite, &url, &signed);
        }
        let release = checked?;
        for (_, document) in signed.files() {
            document.keep()?;
        }
        Ok((signed, release))
    }

    /// Verifies a Release file.
    fn check(&self, suite: &Suite, url: &str, signed: &Signed) -> Result<Release, Error> {
        let bytes = &signed.release.bytes;
        let verified = match &signed.signatures {
            None => self.keyring.verify(bytes, self.now),
            Some(signatures) => self
                .keyring
                .verify_detached(bytes, &signatures.bytes, self.now),
        };
        let verified = verified.map_err(|source| Error::Untrusted {
            url: url.to_owned(),
            source,
        })?;
        tracing::debug!(%url, signer = verified.signer, "verified");
        Release::parse(&verified.text)
            .and_then(|release| {
                let name = suite.name.as_str();
                let may_expire = self.may_expire || self.client.options().offline;
                match release.check(name, self.now, may_expire) {
                    // `buster/updates` calls itself `buster`.
                    Err(ReleaseError::OtherSuite { .. }) if name.ends_with("/updates") => {
                        let name = name.trim_end_matches("/updates");
                        release.check(name, self.now, may_expire)?;
                        Ok(release)
                    }
                    result => result.map(|()| release),
                }
            })
            .map_err(|source| Error::Release {
                url: url.to_owned(),
                source,
            })
    }

    /// Opens suites at the same time; offline, what all of them lack is reported together.
    pub fn open_all(&self, suites: &[Suite]) -> Result<Vec<OpenSuite>, Error> {
        let results: Vec<Result<OpenSuite, Error>> = at_once(suites, |suite| self.open(suite));
        let mut open = Vec::new();
        let mut lacking = Vec::new();
        for result in results {
            match result {
                Ok(suite) => open.push(suite),
                Err(Error::Fetch(crate::fetch::Error::Offline { missing, .. })) => {
                    lacking.extend(missing);
                }
                Err(error) => return Err(error),
            }
        }
        if lacking.is_empty() {
            Ok(open)
        } else {
            Err(Error::Fetch(crate::fetch::Error::Offline {
                cache: self.cache.root().to_owned(),
                missing: lacking,
            }))
        }
    }

    /// Fetches the indices of suites for an architecture.
    pub fn indices(
        &self,
        suites: &[OpenSuite],
        components: &[String],
        arch: &str,
        progress: Progress<'_>,
    ) -> Result<Vec<Index>, Error> {
        let mut wanted = Vec::new();
        for (number, suite) in suites.iter().enumerate() {
            for component in components {
                wanted.extend(choose_indices(number, suite, component, arch)?);
            }
        }
        // What was unpacked before needs nothing.
        let mut ready: Vec<Option<Blob>> = Vec::new();
        let mut items = Vec::new();
        for index in &wanted {
            let blob = match index.plain {
                Some(plain) => self.cache.find(plain.sha256, plain.size)?,
                None => None,
            };
            if blob.is_none() {
                items.push(index.item.clone());
            }
            ready.push(blob);
        }
        let blobs = self
            .cache
            .fetch_all(self.client, &items, progress, &|_, _| {})?;
        let mut fetched = blobs.into_iter();
        let sources: Vec<(Wanted, Option<Blob>, Option<Blob>)> = wanted
            .into_iter()
            .zip(ready)
            .map(|(index, plain)| {
                let packed = if plain.is_none() {
                    fetched.next()
                } else {
                    None
                };
                (index, plain, packed)
            })
            .collect();
        at_once(sources, |(index, plain, packed)| {
            self.load(index, plain, packed)
        })
    }

    fn load(
        &self,
        index: Wanted,
        plain: Option<Blob>,
        packed: Option<Blob>,
    ) -> Result<Index, Error> {
        let url = index.url.clone();
        let fail = |reason: String| Error::Decompress {
            url: url.clone(),
            reason,
        };
        let (bytes, blob) = match (plain, packed) {
            (Some(blob), _) => (read_blob(&blob)?, blob),
            (None, Some(packed)) => {
                let raw = read_blob(&packed)?;
                let limit = index
                    .plain
                    .map_or(INDEX_LIMIT, |plain| plain.size.min(INDEX_LIMIT));
                let mut bytes = Vec::new();
                decompress(raw.as_slice(), &index.file_name)
                    .ok_or_else(|| fail("its compression is not supported".to_owned()))?
                    .and_then(|reader| reader.take(limit + 1).read_to_end(&mut bytes))
                    .map_err(|error| fail(error.to_string()))?;
                if let Some(plain) = index.plain
                    && Digest::of(&bytes) != plain.sha256
                {
                    return Err(fail(
                        "the result is not what the Release file promises".to_owned(),
                    ));
                }
                if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
                    return Err(fail(format!("it has more than {limit} bytes")));
                }
                let blob = self.cache.insert(&bytes)?;
                (bytes, blob)
            }
            (None, None) => return Err(fail("it was not fetched".to_owned())),
        };
        let text = String::from_utf8(bytes).map_err(|error| fail(error.to_string()))?;
        Ok(Index {
            suite: index.suite,
            path: index.path,
            blob,
            text: Arc::new(text),
        })
    }
}

/// An index to be fetched.
#[derive(Debug, Clone)]
struct Wanted {
    suite: usize,
    path: String,
    file_name: String,
    url: String,
    plain: Option<IndexFile>,
    item: Item,
}

/// Picks the indices of a component: the architecture's and, where packages
/// for all architectures have their own, that too; the smallest compression.
fn choose_indices(
    number: usize,
    suite: &OpenSuite,
    component: &str,
    arch: &str,
) -> Result<Vec<Wanted>, Error> {
    let release = &suite.release;
    // Security suites of old releases prefix their components.
    let component = component.trim();
    let mut wanted = Vec::new();
    for binary in [arch, "all"] {
        let path = format!("{component}/binary-{binary}/Packages");
        let plain = release.files.get(&path).copied();
        let found = [".xz", ".zst", ".gz", ""].iter().find_map(|suffix| {
            let name = format!("{path}{suffix}");
            release.files.get(&name).map(|file| (name, *file))
        });
        let Some((name, file)) = found else {
            if binary == "all" {
                continue;
            }
            return Err(Error::NoIndex {
                url: suite.base.join(suite.signed.name()).to_string(),
                component: component.to_owned(),
                arch: arch.to_owned(),
                available: format!(
                    "components {} for {}",
                    release.components.join(" "),
                    release.architectures.join(" ")
                ),
            });
        };
        if binary == "all" && release.all_included {
            continue;
        }
        let mut locations = Vec::new();
        let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
        if release.by_hash {
            locations.push(
                suite
                    .base
                    .join(&format!("{directory}/by-hash/SHA256/{}", file.sha256)),
            );
        }
        let location = suite.base.join(&name);
        let url = location.to_string();
        locations.push(location);
        wanted.push(Wanted {
            suite: number,
            file_name: name.rsplit('/').next().unwrap_or("").to_owned(),
            url,
            path,
            plain,
            item: Item {
                locations,
                size: file.size,
                sha256: file.sha256,
            },
        });
    }
    Ok(wanted)
}

fn read_blob(blob: &Blob) -> Result<Vec<u8>, Error> {
    fs_err::read(&blob.path).map_err(|source| Error::File {
        action: "read",
        path: blob.path.clone(),
        source,
    })
}

/// Merges indices: the newest version of each package counts, or the one that is named.
pub fn universe(
    suites: &[OpenSuite],
    indices: &[Index],
    arch: &str,
    versions: BTreeMap<String, Version>,
) -> Result<Universe, Error> {
    let mut universe = Universe::with_versions(versions);
    for index in indices {
        universe
            .add(&index.text, arch, index.suite)
            .map_err(|source| Error::Index {
                url: suites.get(index.suite).map_or_else(String::new, |suite| {
                    suite.base.join(&index.path).to_string()
                }),
                source: Box::new(source),
            })?;
    }
    universe.seal();
    Ok(universe)
}

/// A file for apt's `lists` directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListFile {
    /// Its name, as apt makes it from the URL.
    pub name: String,
    /// Its content: bytes, or a file of the cache.
    pub content: ListContent,
    /// When the server says that it was modified.
    pub modified: Option<SystemTime>,
}

/// Where the content of a [`ListFile`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListContent {
    /// Here.
    Bytes(Vec<u8>),
    /// In the cache.
    File(PathBuf),
}

/// Returns what apt would have after an update, so that it needs none.
pub fn apt_lists(suites: &[OpenSuite], indices: &[Index]) -> Vec<ListFile> {
    let mut files = Vec::new();
    for (number, suite) in suites.iter().enumerate() {
        let url = |path: &str| {
            format!(
                "{}/dists/{}/{path}",
                suite.suite.mirror.trim_end_matches('/'),
                suite.suite.name
            )
        };
        for (name, document) in suite.signed.files() {
            files.push(ListFile {
                name: apt_list_name(&url(name)),
                content: ListContent::Bytes(document.bytes.clone()),
                modified: document.modified,
            });
        }
        for index in indices.iter().filter(|index| index.suite == number) {
            files.push(ListFile {
                name: apt_list_name(&url(&index.path)),
                content: ListContent::File(index.blob.path.clone()),
                modified: suite.signed.release.modified,
            });
        }
    }
    files
}

/// Makes a file name from a URL as apt does: no scheme, no credentials, `/` as `_`.
pub fn apt_list_name(url: &str) -> String {
    let url = without_credentials(url);
    let rest = match url.split_once("://") {
        Some((_, rest)) => rest,
        None => {
            let path = url.strip_prefix("file:").or(url.strip_prefix("copy:"));
            path.unwrap_or(&url)
        }
    };
    let mut name = String::new();
    for c in rest.chars() {
        match c {
            '/' => name.push('_'),
            c if c.is_ascii_graphic() && !"\\|{}[]<>\"^~_=!@#$%&*".contains(c) => name.push(c),
            c => {
                let mut buffer = [0; 4];
                for byte in c.encode_utf8(&mut buffer).bytes() {
                    name.push_str(&format!("%{byte:02x}"));
                }
            }
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_lists_are_apts() {
        for (url, name) in [
            (
                "http://ftp.debian.org/debian/dists/bookworm/InRelease",
                "ftp.debian.org_debian_dists_bookworm_InRelease",
            ),
            (
                "https://u:p@a.example:8080/my_repo/x",
                "a.example:8080_my%5frepo_x",
            ),
            (
                "file:///srv/repo/dists/x/InRelease",
                "_srv_repo_dists_x_InRelease",
            ),
            (
                "copy:/srv/repo/dists/x/Release",
                "_srv_repo_dists_x_Release",
            ),
        ] {
            assert_eq!(apt_list_name(url), name);
        }
    }
}
