//! `kiln-apt-check`: takes out of apt's package cache what no repository has.
//!
//! The cache may hold packages that another build downloaded, and apt takes a file of the
//! right name and size for the package. Whether it is, the lists tell that apt has verified:
//! see `deb822(5)`, and `Packages` in the Debian repository format.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use fs_err as fs;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::Explain;
use crate::fetch::Digest;
use crate::rootfs::apt::control;
use crate::rootfs::apt::index::cache_name;

const ARCHIVES: &str = "/var/cache/apt/archives";
const LISTS: &str = "/var/lib/apt/lists";

/// It reads lists however they are compressed.
const READER: &str = "/usr/lib/apt/apt-helper";

/// Why packages cannot be looked at.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// It takes no arguments.
    #[error("`kiln-apt-check` has no arguments")]
    Usage,
    /// A file or directory of apt's cannot be read, or a package not removed.
    #[error("cannot compare the packages in `{ARCHIVES}` with the lists of apt")]
    Files(#[from] io::Error),
}

impl Explain for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Usage => None,
            Self::Files(_) => {
                Some("`DIB_APT_LOCAL_CACHE=0` builds without the packages of other builds".into())
            }
        }
    }
}

/// `kiln-apt-check`
pub(super) fn main(_name: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    if !args.is_empty() {
        return Err(Error::Usage);
    }
    for name in check(Path::new(ARCHIVES), Path::new(LISTS))? {
        super::say(&format!(
            "warning: `{name}` in the package cache is not what the repository has; it is \
             downloaded anew"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Sizes and digests that lists have for the packages in the cache, by their names there;
/// `None` until a list has the package.
type Cached = BTreeMap<String, Option<Vec<(u64, Digest)>>>;

/// Empties in `archives` the packages that are in lists and differ, and returns their names.
///
/// Packages that are in no list stay, unless there is one that cannot be read: apt uses them
/// once it has a list with them, and then they are looked at again.
fn check(archives: &Path, lists: &Path) -> io::Result<Vec<String>> {
    let mut cached: Cached = names_if_there(archives)?
        .into_iter()
        .filter(|name| name.ends_with(".deb"))
        .map(|name| (name, None))
        .collect();
    let mut all_read = true;
    if !cached.is_empty() {
        for name in names_if_there(lists)? {
            if let Some((_, kind)) = name.rsplit_once("_Packages") {
                let text = read_list(&lists.join(&name), kind);
                all_read &= text.is_ok_and(|text| note(&text, &mut cached));
            }
        }
    }
    let mut refused = Vec::new();
    for (name, digests) in cached {
        let path = archives.join(&name);
        let found = fs::symlink_metadata(&path)?;
        if found.is_file() && found.len() == 0 {
            continue;
        }
        let is_known = match digests {
            Some(mut digests) => {
                // What is not as large need not be read, which could take for ever.
                digests.retain(|(size, _)| found.is_file() && *size == found.len());
                let is_listed = |is: (u64, Digest)| digests.contains(&is);
                !digests.is_empty() && digest_of(&path).is_ok_and(is_listed)
            }
            None => all_read,
        };
        if !is_known {
            fs::remove_file(&path)?;
            // Of another size than apt's, and a word to the cache that it has the wrong one.
            fs::File::create(&path)?;
            refused.push(name);
        }
    }
    Ok(refused)
}

fn names_if_there(directory: &Path) -> io::Result<Vec<String>> {
    match super::names_in(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        names => names,
    }
}

/// The text of a list; `kind` is the suffix of its compression.
fn read_list(path: &Path, kind: &str) -> io::Result<String> {
    if kind.is_empty() {
        return fs::read_to_string(path);
    }
    let output = Command::new(READER)
        .arg("cat-file")
        .arg(path)
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("`{READER}` failed")));
    }
    String::from_utf8(output.stdout).map_err(io::Error::other)
}

/// Notes what a list says of packages in the cache; false if it is malformed.
fn note(list: &str, cached: &mut Cached) -> bool {
    let names: HashSet<String> = cached
        .keys()
        .filter_map(|name| Some(name.split_once('_')?.0.to_owned()))
        .collect();
    for paragraph in control::paragraphs(list) {
        let Ok(paragraph) = paragraph else {
            return false;
        };
        let field = |name| paragraph.get(name).unwrap_or("");
        let package = field("Package");
        if !names.contains(package) {
            continue;
        }
        let name = cache_name(package, field("Version"), field("Architecture"));
        if let Some(digests) = cached.get_mut(&name) {
            // One without a digest is downloaded anew, and apt decides.
            let digests = digests.get_or_insert_default();
            digests.extend(
                field("Size")
                    .parse()
                    .ok()
                    .zip(Digest::parse(field("SHA256"))),
            );
        }
    }
    true
}

fn digest_of(path: &Path) -> io::Result<(u64, Digest)> {
    let mut file = fs::File::open(path)?;
    let mut size = 0;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = file.read(&mut buffer)?;
        size += count as u64;
        match count {
            0 => return Ok((size, Digest::from_hasher(hasher))),
            _ => hasher.update(&buffer[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A list with a package of each of these names, versions and contents.
    fn list(packages: &[(&str, &str, &str)]) -> String {
        let paragraph = |(name, version, content): &(&str, &str, &str)| {
            let digest = Digest::of(content.as_bytes());
            format!(
                "Package: {name}\nArchitecture: amd64\nVersion: {version}\n\
                 Description: short\n longer\nSize: {}\nSHA256: {digest}\n\n",
                content.len()
            )
        };
        packages.iter().map(paragraph).collect()
    }

    fn cache(packages: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf, PathBuf) {
        let place = tempfile::tempdir().expect("a directory");
        let (archives, lists) = (place.path().join("archives"), place.path().join("lists"));
        for directory in [&archives.join("partial"), &lists] {
            fs::create_dir_all(directory).expect("made");
        }
        for (name, content) in packages {
            fs::write(archives.join(name), content).expect("written");
        }
        (place, archives, lists)
    }

    #[test]
    fn only_packages_that_differ_from_all_lists_are_emptied() {
        let (_place, archives, lists) = cache(&[
            ("good_1%3a2+b1_amd64.deb", "good"),
            ("bad_1_amd64.deb", "evil"),
            ("other_1_amd64.deb", "second"),
            ("older_1_amd64.deb", "old"),
            ("unlisted_1_amd64.deb", "any"),
            ("odd.deb", "any"),
        ]);
        let huge = fs::File::create(archives.join("huge_1_amd64.deb")).expect("made");
        huge.set_len(1 << 40).expect("it has a hole");
        fs::write(
            lists.join("m_dists_a_main_binary-amd64_Packages"),
            list(&[
                ("good", "1:2+b1", "good"),
                ("bad", "1", "kind"),
                ("other", "1", "first"),
                ("older", "2", "new"),
                ("huge", "1", "small"),
            ]),
        )
        .expect("written");
        fs::write(
            lists.join("m_b_Packages"),
            list(&[("other", "1", "second")]),
        )
        .expect("written");
        fs::write(lists.join("m_InRelease"), "Package: unlisted\n").expect("written");
        let refused = check(&archives, &lists).expect("looked at");
        assert_eq!(refused, ["bad_1_amd64.deb", "huge_1_amd64.deb"]);
        let content = |name| fs::read_to_string(archives.join(name)).expect("read");
        assert_eq!(content("bad_1_amd64.deb"), "");
        assert_eq!(content("older_1_amd64.deb"), "old");
        assert_eq!(content("unlisted_1_amd64.deb"), "any");
        assert_eq!(check(&archives, &lists).expect("looked at"), [""; 0]);
    }

    #[test]
    fn a_package_is_not_trusted_where_a_list_cannot_be_read() {
        let (_place, archives, lists) =
            cache(&[("good_1_amd64.deb", "good"), ("new_1_all.deb", "any")]);
        fs::write(lists.join("a_Packages"), list(&[("good", "1", "good")])).expect("written");
        fs::write(lists.join("b_Packages"), "no control file\n").expect("written");
        let refused = check(&archives, &lists).expect("looked at");
        assert_eq!(refused, ["new_1_all.deb"]);
    }

    #[test]
    fn links_and_pipes_are_no_packages() {
        let (_place, archives, lists) = cache(&[]);
        let (link, pipe) = ("link_1_amd64.deb", "pipe_1_amd64.deb");
        fs_err::os::unix::fs::symlink("/etc/passwd", archives.join(link)).expect("made");
        nix::unistd::mkfifo(&archives.join(pipe), nix::sys::stat::Mode::S_IRWXU).expect("made");
        let packages = list(&[("link", "1", "good"), ("pipe", "1", "good")]);
        fs::write(lists.join("a_Packages"), packages).expect("written");
        assert_eq!(check(&archives, &lists).expect("looked at"), [link, pipe]);
    }

    #[test]
    fn a_target_without_apt_has_nothing_to_look_at() {
        let place = tempfile::tempdir().expect("a directory");
        let gone = place.path().join("gone");
        assert_eq!(check(&gone, &gone).expect("looked at"), [""; 0]);
    }
}
