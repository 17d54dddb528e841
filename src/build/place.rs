//! Where a build puts its files, and whether they can be there.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::{FsFlags, statvfs};

use super::failure::Failure;
use crate::sandbox::doctor;

/// What to do where the directory does not serve.
pub const ADVICE: &str = doctor::TEMPORARY_ADVICE;

/// The parent of build directories. `TMPDIR` comes before `TMP_DIR`, since that is
/// what DIB's `mktemp` makes of the two.
pub fn parent<V: AsRef<OsStr>>(
    current_dir: &Path,
    variable: impl Fn(&'static str) -> Option<V>,
) -> PathBuf {
    ["TMPDIR", "TMP_DIR"]
        .into_iter()
        .filter_map(variable)
        .find(|value| !value.as_ref().is_empty())
        .map_or_else(
            || PathBuf::from("/tmp"),
            |value| current_dir.join(value.as_ref()),
        )
}

/// Why the image cache has no place below a home directory, if it is not there. That is
/// often a path which is not to be (`/nonexistent`), so it is not for a build to make.
pub fn without_home(home: &Path) -> Option<String> {
    (!home.exists()).then(|| {
        format!(
            "the home directory `{}` does not exist, so there is no place for the image cache",
            home.display()
        )
    })
}

/// Whether a directory is there to be written to, or can be made.
pub fn can_be_made(directory: &Path) -> bool {
    let there = directory.ancestors().find(|above| above.exists());
    there.is_some_and(|above| above.is_dir() && doctor::takes_files(above).is_ok())
}

/// MiB that no build on disk comes to terms without: its helpers alone are this
/// program, and then there is a root.
fn least() -> u64 {
    let program = std::fs::metadata("/proc/self/exe").map_or(0, |meta| meta.len());
    (program >> 20) + 64
}

/// Files that no build on disk comes to terms with fewer of: a root has some thousands.
const LEAST_FILES: u64 = 1000;

/// Why a build is made on disk and not in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnDisk {
    /// For people.
    pub reason: String,
    /// What would have it made in memory, if anything would.
    pub hint: Option<&'static str>,
}

impl OnDisk {
    /// Where no filesystem can be mounted.
    pub fn without_mounts() -> OnDisk {
        OnDisk {
            reason: "no filesystem in memory can be mounted here".to_owned(),
            hint: None,
        }
    }
}

/// The memory of this host in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    total: u64,
    available: u64,
}

impl Memory {
    /// As the kernel says.
    pub fn of_host() -> Memory {
        Memory::parse(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default())
    }

    fn parse(meminfo: &str) -> Memory {
        let field = |name: &str| -> u64 {
            meminfo
                .lines()
                .find_map(|line| {
                    let value = line.strip_prefix(name)?.strip_prefix(':')?;
                    value.split_whitespace().next()?.parse().ok()
                })
                .unwrap_or(0)
                / 1024
        };
        Memory {
            total: field("MemTotal"),
            available: field("MemAvailable"),
        }
    }

    /// What a build in memory lacks, which wants this many GiB and twice as many in all.
    fn lacks(self, gib: u64) -> Option<String> {
        let wanted = gib.saturating_mul(1024);
        if self.total < wanted.saturating_mul(2) {
            Some(format!(
                "this host has {} MiB of memory, and {} GiB are wanted to build there",
                self.total,
                gib.saturating_mul(2)
            ))
        } else if self.available < wanted {
            Some(format!(
                "{} MiB of memory are available, and {gib} GiB are wanted to build there",
                self.available
            ))
        } else {
            None
        }
    }

    /// Whether a build can be made in this memory (`--no-tmpfs`, `--min-tmpfs`).
    pub fn serves(self, no_tmpfs: bool, min_tmpfs: u64) -> Result<(), OnDisk> {
        let lacks = self.lacks(min_tmpfs);
        let hint = match (no_tmpfs, &lacks) {
            (_, Some(_)) if self.lacks(LITTLE).is_some() => None,
            (true, None) => Some("or let kiln build in memory: leave `--no-tmpfs` out"),
            (true, Some(_)) => Some(
                "or let kiln build in memory, of which there is little: `--min-tmpfs 1` in the \
                 place of `--no-tmpfs`",
            ),
            (false, _) => {
                Some("or let kiln build in memory, of which there is little: `--min-tmpfs 1`")
            }
        };
        let reason = if no_tmpfs {
            "as asked for".to_owned()
        } else {
            let Some(lacks) = lacks else { return Ok(()) };
            lacks
        };
        Err(OnDisk { reason, hint })
    }
}

/// The GiB of `--min-tmpfs` that a hint may name: an image of a small system fits.
const LITTLE: u64 = 1;

/// Refuses a directory in which a build on disk could not end well, before it begins.
pub fn require(parent: &Path, why: &OnDisk) -> Result<(), Failure> {
    unfit(parent).map_or(Ok(()), |unfit| {
        let refusal = Failure::new(format!("`{}` {unfit}", parent.display())).hint(ADVICE);
        Err(why.hint.into_iter().fold(refusal, Failure::hint))
    })
}

/// Why a build on disk could not end well in this directory, of which it is said.
pub fn unfit(parent: &Path) -> Option<String> {
    // Making the build's directory says what is wrong.
    let found = statvfs(parent).ok()?;
    if found.flags().contains(FsFlags::ST_NOEXEC) {
        return Some("is mounted noexec, so that hooks cannot be run in it".to_owned());
    }
    let free = found
        .blocks_available()
        .saturating_mul(found.fragment_size())
        >> 20;
    let least = least();
    // Some filesystems do not say how large they are, or how many files they take.
    if found.blocks() > 0 && free < least {
        return Some(format!(
            "is too small for a build: {free} MiB are free, {least} MiB are the least"
        ));
    }
    let files = found.files_available();
    (found.files() > 0 && files < LEAST_FILES).then(|| {
        format!(
            "is too small for a build: it has room for {files} more files (`df -i`), \
             {LEAST_FILES} are the least"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_named_by_the_first_variable_that_says_something() {
        let here = Path::new("/here");
        let with = |tmpdir: &'static str, tmp_dir: &'static str| {
            parent(here, |name| {
                Some(if name == "TMPDIR" { tmpdir } else { tmp_dir })
            })
        };
        assert_eq!(with("/a", "/b"), Path::new("/a"));
        assert_eq!(with("", "b"), Path::new("/here/b"));
        assert_eq!(with("", ""), Path::new("/tmp"));
    }

    #[test]
    fn a_directory_can_be_made_below_one_that_can_be_written_to() {
        let top = tempfile::tempdir().expect("a directory");
        std::fs::write(top.path().join("file"), "").expect("written");
        for (path, can) in [
            ("", true),
            ("a/b", true),
            ("file", false),
            ("file/a", false),
        ] {
            assert_eq!(can_be_made(&top.path().join(path)), can, "{path}");
        }
        assert!(!can_be_made(Path::new("/proc/a")) || nix::unistd::geteuid().is_root());
    }

    #[test]
    fn a_usual_directory_serves_and_a_missing_one_is_left_to_who_makes_it() {
        assert_eq!(unfit(Path::new("/nonexistent")), None);
        assert!(ADVICE.contains("TMPDIR"));
    }

    #[test]
    fn a_build_is_in_memory_where_twice_as_much_is_there_and_hints_name_what_is_in_the_way() {
        let memory = |total: u64, available: u64| {
            Memory::parse(&format!(
                "MemTotal:       {} kB\nMemFree: 1 kB\nMemAvailable:   {} kB\n",
                total * 1024,
                available * 1024
            ))
        };
        assert_eq!(memory(4096, 2048).serves(false, 2), Ok(()));
        let refused = |memory: Memory, no_tmpfs, min_tmpfs| {
            let OnDisk { reason, hint } = memory.serves(no_tmpfs, min_tmpfs).expect_err("on disk");
            (reason, hint.unwrap_or("none").to_owned())
        };
        for (found, no_tmpfs, min_tmpfs, reason, hint) in [
            (memory(4095, 4000), false, 2, "4095 MiB", "`--min-tmpfs 1`"),
            (
                memory(4096, 2047),
                false,
                2,
                "2047 MiB of memory are available",
                "`--min-tmpfs 1`",
            ),
            (memory(2047, 2000), false, 2, "4 GiB are wanted", "none"),
            (memory(9000, 1023), false, 2, "1023 MiB", "none"),
            (
                memory(9000, 8000),
                true,
                2,
                "as asked for",
                "leave `--no-tmpfs` out",
            ),
            (
                memory(4095, 4000),
                true,
                2,
                "as asked for",
                "in the place of `--no-tmpfs`",
            ),
            (memory(2047, 2000), true, 2, "as asked for", "none"),
            (
                memory(2048, 1024),
                false,
                u64::MAX,
                "GiB are wanted",
                "`--min-tmpfs 1`",
            ),
        ] {
            let (said, advised) = refused(found, no_tmpfs, min_tmpfs);
            assert!(
                said.contains(reason) && advised.contains(hint),
                "{found:?}: {said}; {advised}"
            );
        }
    }
}
