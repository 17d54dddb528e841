//! Home directories whose hidden entries may hold secrets, and what else holds some of the caller's.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{DirEntry, Metadata};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::confinement::is_secret;
use crate::sandbox::silent::is_silent;

/// Where programs are, which those of hooks need.
pub(super) const OF_THE_SYSTEM: [&str; 4] = ["/usr", "/opt", "/etc", "/nix"];

/// A home beside the one that `HOME` names.
#[derive(Debug, PartialEq, Eq)]
pub struct Other {
    pub path: PathBuf,
    /// It is the caller's own, who set `HOME` to something else.
    pub is_own: bool,
}

/// Homes beside the one that `HOME` names: the caller's own, and where root builds those of
/// all users.
pub fn others(home: Option<&Path>) -> Vec<Other> {
    let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
    let own = nix::unistd::geteuid().as_raw();
    let mut found = of_users(&passwd, own);
    if own == 0 {
        let named = std::fs::read_dir("/home").into_iter().flatten().flatten();
        found.extend(named.map(|entry| (None, entry.path())));
    }
    let home = home.and_then(|home| home.canonicalize().ok());
    let real = |(user, path): (Option<u32>, PathBuf)| {
        if is_silent(&path) {
            return None;
        }
        let path = path.canonicalize().ok()?;
        let owner = std::fs::metadata(&path)
            .ok()
            .filter(Metadata::is_dir)?
            .uid();
        // Services have directories of the system as their homes.
        let is_home = path.parent().is_some() && user.is_none_or(|user| user == owner);
        (is_home && Some(&path) != home.as_ref()).then_some((path, user == Some(own)))
    };
    let homes: BTreeMap<PathBuf, bool> = found.into_iter().rev().filter_map(real).collect();
    homes
        .into_iter()
        .map(|(path, is_own)| Other { path, is_own })
        .collect()
}

/// Homes in `/etc/passwd` with their owners: those of a user, for root those of all.
fn of_users(passwd: &[u8], own: u32) -> Vec<(Option<u32>, PathBuf)> {
    passwd
        .split(|&byte| byte == b'\n')
        .filter_map(|line| {
            let mut fields = line.split(|&byte| byte == b':').skip(2);
            let user: u32 = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
            let home = PathBuf::from(OsStr::from_bytes(fields.nth(2)?));
            let is_wanted = (own == 0 || user == own) && home.is_absolute();
            is_wanted.then_some((Some(user), home))
        })
        .collect()
}

/// Entries of a home that begin with a dot, but for links to what everybody may read.
pub fn dotted(home: &Path) -> Vec<PathBuf> {
    let real = home.canonicalize().unwrap_or_else(|_| home.to_owned());
    let entries = std::fs::read_dir(home).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().as_bytes().starts_with(b"."))
        .map(|entry| entry.path())
        .filter(|path| is_silent(path) || !leads_to_public(path, &real))
        .collect()
}

/// So many entries of somebody else's home are looked at: who has more should mind them.
const MOST_OF_ANOTHER: usize = 256;

/// The same in the home of somebody else, whose links are not followed: they may lead to
/// what all hooks need.
pub fn dotted_of_another(home: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(home).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().as_bytes().starts_with(b"."))
        .take(MOST_OF_ANOTHER)
        .filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_symlink()))
        .map(|entry| entry.path())
        .collect()
}

/// Whether a link of the home directory leads to what everybody may read anyway,
/// such as a directory of the system. In a directory of the caller's own there may be files
/// that nobody else may read.
fn leads_to_public(path: &Path, home: &Path) -> bool {
    let link = std::fs::read_link(path);
    // There is a cover on what it leads to.
    if link.as_ref().is_ok_and(|text| is_silent(&home.join(text))) {
        return true;
    }
    let is_link = link.is_ok();
    let (Ok(target), Ok(meta)) = (std::fs::canonicalize(path), std::fs::metadata(path)) else {
        return false;
    };
    let is_own = meta.uid() == nix::unistd::geteuid().as_raw() && !is_of_the_system(&target);
    // All there is lies below the root, where that is somebody's home.
    let is_at_home = home.parent().is_some() && target.starts_with(home);
    is_link && !is_at_home && is_public(&target, &meta) && (meta.is_file() || !is_own)
}

fn is_of_the_system(path: &Path) -> bool {
    OF_THE_SYSTEM.iter().any(|start| path.starts_with(start))
}

/// Whether everybody may read what a path without links leads to, and come to it.
fn is_public(path: &Path, meta: &Metadata) -> bool {
    let is_entered = |directory: &Path| {
        std::fs::metadata(directory).is_ok_and(|directory| directory.mode() & 0o001 != 0)
    };
    meta.mode() & 0o004 != 0 && path.ancestors().skip(1).all(is_entered)
}

/// Variables that name directories of the kind of `~/.config`.
const OF_PROGRAMS: [&str; 4] = [
    "DOCKER_CONFIG",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
];

/// Parts of names of variables that name certificates, which `curl` and the like need.
const CERTIFICATES: [&str; 3] = ["_CA_BUNDLE", "_CACERT", "_CAPATH"];

/// Files and directories that are named by variables which hooks do not get, as far as not
/// everybody may read them. `is_passed` tells which they get all the same.
pub fn named(
    environment: &BTreeMap<OsString, OsString>,
    is_passed: impl Fn(&OsStr) -> bool,
) -> Vec<PathBuf> {
    let home = environment.get(OsStr::new("HOME")).map(PathBuf::from);
    let is_wanted = |name: &OsStr| {
        let text = name.to_string_lossy();
        (is_secret(name) || OF_PROGRAMS.contains(&&*text))
            && !CERTIFICATES.iter().any(|part| text.contains(part))
            && !is_passed(name)
    };
    environment
        .iter()
        .filter(|(name, _)| is_wanted(name))
        // Several, and with what they are before: `FILE:/PATH`, `unix:///PATH`.
        .flat_map(|(_, value)| value.as_bytes().split(|&byte| byte == b':'))
        .filter(|part| part.starts_with(b"/"))
        .map(|part| Path::new(OsStr::from_bytes(part)))
        .filter(|path| !is_silent(path))
        .filter_map(|path| path.canonicalize().ok())
        .filter(|path| {
            let holds_home = home.as_ref().is_some_and(|home| home.starts_with(path));
            let found = std::fs::metadata(path);
            !holds_home
                && found.is_ok_and(|found| {
                    (found.is_file() || found.is_dir()) && !is_public(path, &found)
                })
        })
        .collect()
}

/// What of the directories of [`OF_PROGRAMS`] is no secret, as below `~/.config` and `~/.local`.
const SHOWN_OF_PROGRAMS: [(&str, &str); 5] = [
    ("XDG_CONFIG_HOME", "git/config"),
    ("XDG_CONFIG_HOME", "git/ignore"),
    ("XDG_CONFIG_HOME", "git/attributes"),
    ("XDG_DATA_HOME", "pipx"),
    ("XDG_DATA_HOME", "uv"),
];

/// What programs need of the directories that variables name in the place of `~/.config`
/// and its like.
pub fn needed_of_programs(
    environment: &BTreeMap<OsString, OsString>,
) -> impl Iterator<Item = PathBuf> {
    SHOWN_OF_PROGRAMS.iter().filter_map(|(name, below)| {
        let directory = Path::new(environment.get(OsStr::new(name))?);
        directory.is_absolute().then(|| directory.join(below))
    })
}

/// Where Kerberos keeps tickets unless told otherwise (`KRB5CCNAME`).
const TICKETS: &[u8] = b"krb5cc_";

/// Tickets of the caller's. Others may make such names too, that lead anywhere.
pub fn tickets(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let own = nix::unistd::geteuid().as_raw();
    let is_own = |entry: &DirEntry| {
        let found = entry.metadata();
        found.is_ok_and(|found| found.uid() == own && !found.is_symlink())
    };
    entries
        .filter(|entry| entry.file_name().as_bytes().starts_with(TICKETS) && is_own(entry))
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn homes_of_users_are_read() {
        let text =
            b"root:x:0:0:root:/root:/bin/sh\n\n# a comment\n+\nalice:x:1001:5:\xff:/home/a:\n\
            odd:x:1001:5::relative:/bin/sh\nbob:x:1002:5::/home/b:/bin/sh\nshort:x:1001\n";
        let of = |own| -> Vec<String> {
            let found = of_users(text, own).into_iter();
            found.map(|(_, path)| path.display().to_string()).collect()
        };
        assert_eq!(of(1001), ["/home/a"]);
        assert_eq!(of(0), ["/root", "/home/a", "/home/b"]);
        assert_eq!(of(7), [] as [&str; 0]);
    }

    #[test]
    fn what_others_leave_in_their_homes_and_among_tickets_hides_nothing_else() {
        let place = tempfile::tempdir().expect("a directory");
        let path = |name: &str| place.path().join(name);
        symlink("/usr", path(".link")).expect("linked");
        symlink("/usr", path("krb5cc_1")).expect("linked");
        for name in [".netrc", "plain", "krb5cc_2", "krb5"] {
            std::fs::write(path(name), "").expect("written");
        }
        assert_eq!(dotted_of_another(place.path()), [path(".netrc")]);
        assert_eq!(tickets(place.path()), [path("krb5cc_2")]);
    }

    #[test]
    fn a_link_to_a_readable_file_that_others_cannot_come_to_is_hidden() {
        let place = tempfile::tempdir().expect("a directory");
        let mode = |path: &Path, mode| {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(path, mode).expect("changed");
        };
        mode(place.path(), 0o755);
        let (home, closed) = (place.path().join("home"), place.path().join("closed"));
        for directory in [&home, &closed] {
            std::fs::create_dir(directory).expect("made");
        }
        for file in [home.join("netrc"), closed.join("npmrc"), home.join("open")] {
            std::fs::write(&file, "").expect("written");
            mode(&file, 0o644);
        }
        std::fs::rename(home.join("open"), place.path().join("open")).expect("moved");
        mode(&closed, 0o700);
        for (name, target) in [
            (".netrc", "netrc"),
            (".npmrc", "../closed/npmrc"),
            (".open", "../open"),
        ] {
            symlink(target, home.join(name)).expect("linked");
        }
        // Reached by a link, as where homes were moved to another disk.
        let link = place.path().join("link");
        symlink("home", &link).expect("linked");
        for home in [&home, &link] {
            let mut found = dotted(home);
            found.sort();
            assert_eq!(found, [home.join(".netrc"), home.join(".npmrc")]);
        }
    }

    #[test]
    fn what_variables_that_are_withheld_name_is_hidden_unless_all_may_read_it() {
        let place = tempfile::tempdir().expect("a directory");
        let place = place.path().canonicalize().expect("there");
        let path = |name: &str| place.join(name);
        for name in ["key", "ticket", "ca", "passed", "plain"] {
            std::fs::write(path(name), "").expect("written");
        }
        for name in ["config", "home"] {
            std::fs::create_dir(path(name)).expect("made");
        }
        let closed = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(&place, closed).expect("changed");
        let environment: BTreeMap<OsString, OsString> = [
            ("HOME", format!("{}/home", place.display())),
            ("XDG_CONFIG_HOME", format!("{}/config", place.display())),
            ("XDG_DATA_HOME", place.display().to_string()),
            ("KRB5CCNAME", format!("FILE:{}/ticket", place.display())),
            ("AWS_KEY_FILE", format!("{0}/key:{0}/none", place.display())),
            ("AWS_CA_BUNDLE", format!("{}/ca", place.display())),
            ("A_TOKEN_FILE", format!("{}/passed", place.display())),
            ("PLAIN", format!("{}/plain", place.display())),
            ("NETRC", "/etc/passwd".to_owned()),
        ]
        .into_iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
        let found = named(&environment, |name| name == "A_TOKEN_FILE");
        assert_eq!(found, ["key", "ticket", "config"].map(path));
    }
}
