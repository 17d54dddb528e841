//! Files that people write by hand: read whole, but only if they are what they should be.
//!
//! A device gives bytes without an end, and a named pipe waits for somebody who writes: where
//! the caller names the file, that may be what is meant (`--layout <(…)`), elsewhere not.

use std::fs::{FileType, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Bytes of the longest such file: many times what anybody writes.
const LONGEST: u64 = 4 << 20;

/// The bytes of a regular file of a sane size. The error does not name the file.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_if(path, FileType::is_file, libc::O_NONBLOCK)
}

/// The text of such a file, or of a pipe.
pub(crate) fn read_text(path: &Path) -> io::Result<String> {
    let bytes = read_if(path, |kind| kind.is_file() || kind.is_fifo(), 0)?;
    String::from_utf8(bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text"))
}

fn read_if(path: &Path, wanted: fn(&FileType) -> bool, flags: i32) -> io::Result<Vec<u8>> {
    let refused = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
    let require = |kind: FileType| {
        if wanted(&kind) {
            return Ok(());
        }
        let found = phrase(kind);
        Err(refused(format!("it is {found}, and not a regular file")))
    };
    // Looked at first: merely opening a device may do something.
    require(std::fs::metadata(path)?.file_type())?;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    require(file.metadata()?.file_type())?;
    let mut bytes = Vec::new();
    // Not by its length, which those of /proc do not have.
    file.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        return Err(refused(format!("it is longer than {} MiB", LONGEST >> 20)));
    }
    Ok(bytes)
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
            (at("."), "it is a directory, and not a regular file"),
            ("/dev/zero".into(), "it is a device, and not a regular file"),
            (at("long"), "it is longer than 4 MiB"),
            (at("binary"), "it is not UTF-8 text"),
        ] {
            let error = read_text(&path).unwrap_err();
            assert_eq!(error.to_string(), why, "{}", path.display());
        }
        let error = read(&at("pipe")).unwrap_err();
        let why = "it is a named pipe, and not a regular file";
        assert_eq!(error.to_string(), why);
    }

    #[test]
    fn a_pipe_is_read_where_the_caller_names_it() {
        let (reader, writer) = io::pipe().unwrap();
        io::Write::write_all(&mut { writer }, "ä".as_bytes()).unwrap();
        let path = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        assert_eq!(read_text(Path::new(&path)).unwrap(), "ä");
    }
}
