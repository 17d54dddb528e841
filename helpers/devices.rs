//! `losetup`, `kpartx` and their like: a clear answer instead of a late failure.
//!
//! A build without privileges has no block devices. kiln makes partitions and
//! filesystems without them, so nothing that it carries calls these programs.

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use thiserror::Error;

use super::Explain;

/// Why a block device is not made.
#[derive(Debug, Error)]
#[error("there are no loop devices and no device mapper in a build")]
pub struct Error {
    program: String,
}

impl Explain for Error {
    fn hint(&self) -> Option<String> {
        Some(format!(
            "kiln writes partitions and filesystems without them (`block-device-default.yaml` of an element); what is in an image has to be unpacked before the build; a hook that must call `{}` needs diskimage-builder and root",
            self.program
        ))
    }
}

/// Asks what there is, which is nothing; everything else is refused.
pub(super) fn main(called: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    let program = called.to_string_lossy().into_owned();
    let first = args.first().map(|arg| arg.to_string_lossy());
    let asks = match program.as_str() {
        "losetup" => first.is_none_or(|arg| {
            matches!(
                &*arg,
                "-a" | "--all" | "-l" | "--list" | "-j" | "--associated" | "-D" | "--detach-all"
            )
        }),
        "dmsetup" => first.is_some_and(|arg| {
            matches!(
                &*arg,
                "ls" | "status" | "table" | "info" | "udevcomplete_all" | "mknodes"
            )
        }),
        _ => false,
    };
    if asks {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Error { program })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_empty_and_everything_else_is_refused() {
        for (line, ok) in [
            ("losetup", true),
            ("losetup -a", true),
            ("losetup --list --json", true),
            ("losetup -f", false),
            ("losetup --show -r -f disk.raw", false),
            ("losetup -d /dev/loop0", false),
            ("kpartx -asv disk.raw", false),
            ("dmsetup ls", true),
            ("dmsetup remove x", false),
        ] {
            let mut words = line.split(' ').map(OsString::from);
            let program = words.next().unwrap();
            let args: Vec<OsString> = words.collect();
            let result = main(&program, &args);
            assert_eq!(result.is_ok(), ok, "{line}");
            if let Err(error) = result {
                assert!(error.to_string().contains("no loop devices"));
                assert!(
                    error.hint().unwrap().contains("block-device-default.yaml"),
                    "{line}"
                );
            }
        }
    }
}
