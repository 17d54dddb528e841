//! Where a build puts its files, and whether they can be there.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::{FsFlags, statvfs};

use super::failure::Failure;

/// What to do where the directory does not serve.
pub const ADVICE: &str = crate::sandbox::doctor::TEMPORARY_ADVICE;

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

/// MiB that no build on disk comes to terms without: its helpers alone are this
/// program, and then there is a root.
fn least() -> u64 {
    let program = std::fs::metadata("/proc/self/exe").map_or(0, |meta| meta.len());
    (program >> 20) + 64
}

/// Refuses a directory in which a build on disk could not end well, before it begins.
pub fn require(parent: &Path) -> Result<(), Failure> {
    let shown = parent.display();
    let Ok(found) = statvfs(parent) else {
        // Making the build's directory says what is wrong.
        return Ok(());
    };
    if found.flags().contains(FsFlags::ST_NOEXEC) {
        return Err(Failure::new(format!(
            "hooks cannot be run in `{shown}`, which is mounted noexec"
        ))
        .hint(ADVICE)
        .hint("or let kiln build in memory: leave `--no-tmpfs` out"));
    }
    let free = found
        .blocks_available()
        .saturating_mul(found.fragment_size())
        >> 20;
    let least = least();
    // Some filesystems do not say how large they are.
    if found.blocks() > 0 && free < least {
        return Err(Failure::new(format!(
            "`{shown}` is too small for a build: {free} MiB are free, {least} MiB are the least"
        ))
        .hint(ADVICE));
    }
    Ok(())
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
    fn a_usual_directory_serves_and_a_missing_one_is_left_to_who_makes_it() {
        assert!(require(Path::new("/nonexistent")).is_ok());
        let error = Failure::new("x").hint(ADVICE);
        assert!(error.hints[0].contains("TMPDIR"));
    }
}
