//! `grub-mkrelpath` (`grub2-mkrelpath`): a path as seen from the top of its
//! filesystem, from the plan.
//!
//! `grub-mkconfig` asks it where kernels are. The real one compares device
//! numbers, and during a build the target is one filesystem, so that a `/boot` of
//! its own would not be noticed.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{Error, Layout};

/// `grub-mkrelpath [-r] PATH`
pub(in crate::helpers) fn main(name: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    let called = name.to_string_lossy();
    let mut operand = None;
    for arg in args {
        match arg.to_string_lossy().as_ref() {
            // The top of a filesystem is its default subvolume.
            "-r" | "--relative" | "--" => {}
            "-V" | "--version" => {
                crate::helpers::print(&super::version(&called)?);
                return Ok(ExitCode::SUCCESS);
            }
            "-?" | "--help" | "--usage" => {
                crate::helpers::print(&format!(
                    "Usage: {called} PATH\nPrints PATH as seen from the top of its filesystem in the plan of the image.\n"
                ));
                return Ok(ExitCode::SUCCESS);
            }
            option if option.starts_with('-') => {
                return Err(Error::Option {
                    option: option.to_owned(),
                });
            }
            _ => operand = Some(PathBuf::from(arg)),
        }
    }
    let path = operand.ok_or(Error::NoOperand)?;
    let path = std::fs::canonicalize(&path).map_err(|source| Error::Io {
        action: "resolve",
        path,
        source,
    })?;
    let relative = relative(&Layout::from_environment()?, &path)?;
    crate::helpers::print(&format!("{relative}\n"));
    Ok(ExitCode::SUCCESS)
}

/// The path below the mount point of its filesystem; the mount point itself is
/// empty, because a slash follows.
fn relative(layout: &Layout, path: &Path) -> Result<String, Error> {
    let no_filesystem = || Error::NoFilesystem {
        path: path.to_owned(),
    };
    let mount = layout.holding(path)?.mount_point.as_deref();
    let inside = path
        .strip_prefix(mount.unwrap_or("/"))
        .map_err(|_| no_filesystem())?;
    if inside.as_os_str().is_empty() {
        return Ok(String::new());
    }
    Ok(format!("/{}", inside.display()))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{efi, filesystem, layout};
    use super::*;

    #[test]
    fn paths_begin_at_the_top_of_their_filesystem() {
        let mut facts = efi();
        facts
            .filesystems
            .push(filesystem("mkfs_boot", Some("/boot"), "ext4", "u", Some(4)));
        let layout = layout(&facts);
        for (path, expected) in [
            ("/", ""),
            ("/usr/share", "/usr/share"),
            ("/boot", ""),
            ("/boot/grub", "/grub"),
            ("/boot/efi/EFI", "/EFI"),
            ("/bootstrap", "/bootstrap"),
        ] {
            assert_eq!(
                relative(&layout, Path::new(path)).unwrap(),
                expected,
                "{path}"
            );
        }
    }
}
