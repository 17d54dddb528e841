//! Files that people write by hand: read whole, but only if they are what they should be.
//!
//! A device gives bytes without an end and a named pipe waits for somebody who writes, so
//! that neither may be taken for a configuration.

use std::fs::{FileType, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Bytes of the longest such file: many times what anybody writes.
const LONGEST: u64 = 4 << 20;

/// The bytes of a regular file of a sane size. The error does not name the file.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let refused = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
    let odd = |kind| refused(format!("it is {}, and not a regular file", phrase(kind)));
    // Looked at first: merely opening a device may do something.
    let kind = std::fs::metadata(path)?.file_type();
    if !kind.is_file() {
        return Err(odd(kind));
    }
    // If it has become a named pipe since, this does not wait.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let kind = file.metadata()?.file_type();
    if !kind.is_file() {
        return Err(odd(kind));
    }
    let mut bytes = Vec::new();
    // Not by its length, which those of /proc do not have.
    file.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        return Err(refused(format!("it is longer than {} MiB", LONGEST >> 20)));
    }
    Ok(bytes)
}

/// The text of such a file.
pub(crate) fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text"))
}

/// What something is that should be a file, with its article.
pub(crate) fn phrase(kind: FileType) -> &'static str {
    if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_dir() {
        "a directory"
    } else {
        "a device"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_a_sane_size_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::fs::write(at("text"), "ä").unwrap();
        std::fs::write(at("binary"), b"\xff").unwrap();
        let long = std::fs::File::create(at("long")).unwrap();
        long.set_len(LONGEST + 1).unwrap();
        assert_eq!(read_text(&at("text")).unwrap(), "ä");
        for (path, why) in [
            (at("pipe"), "it is a named pipe, and not a regular file"),
            (at("."), "it is a directory, and not a regular file"),
            ("/dev/zero".into(), "it is a device, and not a regular file"),
            (at("long"), "it is longer than 4 MiB"),
            (at("binary"), "it is not UTF-8 text"),
        ] {
            let error = read_text(&path).unwrap_err();
            assert_eq!(error.to_string(), why, "{}", path.display());
        }
    }
}
