//! What has an output's name already: whether it may give it up, and under which name it
//! is kept.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::super::at::{open_at, read_link, rename, status, status_behind};
use super::super::checksum;
use super::super::error::Error;
use super::{ATTEMPTS, Output};

/// Bytes that a checksum file is looked at for the name in it.
const LONGEST_SUMS: u64 = 16 << 10;

/// What happens to an existing file that has the output's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Existing {
    /// It is replaced (`OVERWRITE_OLD_IMAGE=1`).
    Replace,
    /// It and its checksum files are kept as `NAME-STAMP.ext`, see [`local_stamp`].
    Rename {
        /// What goes between name and suffix.
        stamp: String,
    },
}

impl Existing {
    /// Replaces it if that was asked for, otherwise keeps it with the time of this call.
    pub fn replaced_if(asked: bool) -> Existing {
        if asked {
            return Existing::Replace;
        }
        Existing::Rename {
            stamp: local_stamp(std::time::SystemTime::now()),
        }
    }
}

/// A point in time as `YYYY.MM.DD-HH.MM.SS` in local time.
pub fn local_stamp(time: std::time::SystemTime) -> String {
    let seconds = match time.duration_since(std::time::UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |s| -s),
    };
    // SAFETY: `tm` is plain data for which all zeros is a value, and localtime_r
    // writes nothing but it. It reads the time zone's file, not NSS.
    let parts = unsafe {
        let mut parts: libc::tm = std::mem::zeroed();
        libc::localtime_r(&seconds, &mut parts);
        parts
    };
    format!(
        "{:04}.{:02}.{:02}-{:02}.{:02}.{:02}",
        i64::from(parts.tm_year) + 1900,
        parts.tm_mon + 1,
        parts.tm_mday,
        parts.tm_hour,
        parts.tm_min,
        parts.tm_sec
    )
}

impl Output {
    /// Renames a file that has the output's name, with its checksum files.
    pub(super) fn rename_old(&self, stamp: &str) -> Result<Option<PathBuf>, Error> {
        if status(&self.directory, &self.name).is_err() {
            return Ok(None);
        }
        for attempt in 0..ATTEMPTS {
            let kept = stamped(&self.name, stamp, attempt);
            match rename(&self.directory, &self.name, &kept, libc::RENAME_NOREPLACE) {
                Ok(()) => {}
                // Two builds within one second: the older backup stays.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                // It vanished meanwhile: nothing to keep.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(source) => return Err(self.rename_error(&self.name, &kept, source)),
            }
            for suffix in checksum::SUFFIXES {
                let (from, to) = (with_suffix(&self.name, suffix), with_suffix(&kept, suffix));
                match rename(&self.directory, &from, &to, 0) {
                    Err(source) if source.kind() != io::ErrorKind::NotFound => {
                        return Err(self.rename_error(&from, &to, source));
                    }
                    Err(_) => {}
                    Ok(()) => self.name_in_sums(&to, &self.name, &kept),
                }
            }
            return Ok(Some(self.target.with_file_name(kept)));
        }
        let kept = stamped(&self.name, stamp, 0);
        Err(self.rename_error(&self.name, &kept, io::ErrorKind::AlreadyExists.into()))
    }

    /// Gives the old file, and its checksum files, their names again. It has a
    /// name of its own if that fails, so nothing is lost then either.
    pub(super) fn put_back(&self, kept: &Path) {
        let Some(kept) = kept.file_name() else { return };
        let _ = rename(&self.directory, kept, &self.name, libc::RENAME_NOREPLACE);
        for suffix in checksum::SUFFIXES {
            let (from, to) = (with_suffix(kept, suffix), with_suffix(&self.name, suffix));
            if rename(&self.directory, &from, &to, libc::RENAME_NOREPLACE).is_ok() {
                self.name_in_sums(&to, kept, &self.name);
            }
        }
    }

    /// Has a checksum file name the image under its new name, or `md5sum -c` would look at
    /// another one. What is not the line that kiln writes stays as it is.
    fn name_in_sums(&self, sums: &OsStr, from: &OsStr, to: &OsStr) {
        let rewrite = || -> io::Result<()> {
            // A named pipe would neither be opened nor read without somebody at its other end.
            let mut file = open_at(&self.directory, sums, libc::O_RDWR | libc::O_NONBLOCK)?;
            if !file.metadata()?.is_file() {
                return Ok(());
            }
            let mut text = Vec::new();
            (&mut file).take(LONGEST_SUMS).read_to_end(&mut text)?;
            let digest = String::from_utf8_lossy(&text);
            let digest = digest.trim_start_matches('\\').split(' ').next();
            let digest = digest.unwrap_or_default();
            let line = |name| checksum::line(digest, &self.target.with_file_name(name));
            if text == line(from) {
                let new = line(to);
                file.write_all_at(&new, 0)?;
                file.set_len(new.len() as u64)?;
            }
            Ok(())
        };
        // The image is kept all the same, and its digest with it.
        let _ = rewrite();
    }

    fn rename_error(&self, from: &OsStr, to: &OsStr, source: io::Error) -> Error {
        Error::RenameOld {
            from: self.target.with_file_name(from),
            to: self.target.with_file_name(to),
            source,
        }
    }
}

/// `NAME-STAMP.ext`, with a number before the suffix from the second attempt on.
fn stamped(name: &OsStr, stamp: &str, attempt: u32) -> OsString {
    let path = Path::new(name);
    let mut kept = path.file_stem().unwrap_or(name).to_owned();
    kept.push("-");
    kept.push(stamp);
    if attempt > 0 {
        kept.push(format!("-{attempt}"));
    }
    if let Some(extension) = path.extension() {
        kept.push(".");
        kept.push(extension);
    }
    kept
}

fn with_suffix(name: &OsStr, suffix: &str) -> OsString {
    let mut all = name.to_owned();
    all.push(".");
    all.push(suffix);
    all
}

/// Whether what has an output's name may give it up: a file, and a link to a file or to
/// nothing. A link to a device (`/dev/mapper/GROUP-NAME`), to a directory, or to what a
/// process has open (`/dev/stdout`) is named to be written to, and not to be replaced.
pub(super) fn may_be_replaced(directory: &OwnedFd, name: &OsStr, found: &libc::stat) -> bool {
    let is = |found: &libc::stat, kind| found.st_mode & libc::S_IFMT == kind;
    if !is(found, libc::S_IFLNK) {
        return is(found, libc::S_IFREG);
    }
    let leads_to_file = match status_behind(directory, name) {
        Ok(behind) => is(&behind, libc::S_IFREG),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    let of_process =
        read_link(directory, name).is_ok_and(|to| to.as_bytes().starts_with(b"/proc/"));
    leads_to_file && !of_process
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::tests::names;

    #[test]
    fn an_old_output_is_renamed_with_its_checksums() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("a.b.raw");
        for (name, text) in [
            ("a.b.raw", "old"),
            ("a.b.raw.md5", "m"),
            ("a.b.raw.sha256", "s"),
        ] {
            std::fs::write(place.path().join(name), text).unwrap();
        }
        let sums = place.path().join("a.b.raw.md5");
        std::fs::write(&sums, checksum::line("0123", &target)).unwrap();
        let stamp = Existing::Rename {
            stamp: "2026.11.21-08.30.00".into(),
        };
        let output = Output::create(&target, 3).unwrap();
        output.write_at(b"new", 0).unwrap();
        let kept = output.commit(&stamp, false).unwrap().renamed.unwrap();
        assert_eq!(kept, place.path().join("a.b-2026.11.21-08.30.00.raw"));
        assert_eq!(std::fs::read(&target).unwrap(), b"new");
        assert_eq!(std::fs::read(&kept).unwrap(), b"old");
        let read = |suffix| std::fs::read(with_suffix(kept.as_os_str(), suffix)).unwrap();
        assert_eq!(read("md5"), checksum::line("0123", &kept));
        assert_eq!(read("sha256"), b"s");
        assert_eq!(
            names(place.path()),
            [
                "a.b-2026.11.21-08.30.00.raw",
                "a.b-2026.11.21-08.30.00.raw.md5",
                "a.b-2026.11.21-08.30.00.raw.sha256",
                "a.b.raw"
            ]
        );

        // Again within the same second: the first backup is not lost.
        let output = Output::create(&target, 3).unwrap();
        let kept = output.commit(&stamp, false).unwrap().renamed.unwrap();
        assert_eq!(kept, place.path().join("a.b-2026.11.21-08.30.00-1.raw"));
    }

    #[test]
    fn a_pipe_by_the_name_of_a_checksum_file_is_renamed_and_not_waited_for() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("a.raw");
        std::fs::write(&target, "old").unwrap();
        let mode = nix::sys::stat::Mode::S_IRWXU;
        nix::unistd::mkfifo(&place.path().join("a.raw.md5"), mode).unwrap();
        let output = Output::create(&target, 3).unwrap();
        let stamp = Existing::Rename { stamp: "S".into() };
        output.commit(&stamp, false).unwrap();
        assert_eq!(names(place.path()), ["a-S.raw", "a-S.raw.md5", "a.raw"]);
    }

    #[test]
    fn an_old_output_has_its_name_again_if_the_new_one_cannot_take_it() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("a.raw");
        for (name, text) in [("a.raw", "old"), ("a.raw.md5", "m")] {
            std::fs::write(place.path().join(name), text).unwrap();
        }
        let mut output = Output::create(&target, 3).unwrap();
        // Somebody removed it.
        output.temporary = Some("gone".into());
        let stamp = Existing::Rename {
            stamp: "2026.11.21-08.30.00".into(),
        };
        let error = output.commit(&stamp, false).unwrap_err();
        assert!(matches!(error, Error::Commit { .. }), "{error}");
        assert_eq!(names(place.path()), ["a.raw", "a.raw.md5"]);
        assert_eq!(std::fs::read(&target).unwrap(), b"old");
    }

    #[test]
    fn stamps_have_dibs_form() {
        let stamp = local_stamp(std::time::SystemTime::now());
        let shape: String = stamp
            .chars()
            .map(|c| if c.is_ascii_digit() { '9' } else { c })
            .collect();
        assert_eq!(shape, "9999.99.99-99.99.99");
        assert_eq!(stamped(OsStr::new("image"), "S", 0), "image-S");
        assert_eq!(
            stamped(OsStr::new("image.qcow2"), "S", 2),
            "image-S-2.qcow2"
        );
    }
}
