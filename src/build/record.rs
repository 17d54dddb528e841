//! What helpers and hooks leave for the engine, below `.kiln/record` of the hooks.
//!
//! Hooks write there, so anything may lie there: a link to a file of the host, one to
//! an endless device, a FIFO that nobody writes to. Only plain files of a sane length
//! are read, and no part of their path from there on may be a link.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::failure::Failure;

/// Longest file that is read: an environment is bounded by what `execve` takes.
const LONGEST: u64 = 16 << 20;

/// Reads a file of the record below the directory of the hooks; `None` if there is none.
pub fn read(hooks: &Path, name: &str) -> Result<Option<Vec<u8>>, Failure> {
    let failed = |why: String| {
        Failure::new(format!(
            "cannot read `.kiln/record/{name}` of the hooks: {why}"
        ))
        .hint("kiln's helpers write it, as a plain file; a hook of one of the elements replaced it")
    };
    match read_plain(hooks, name) {
        Ok(Some(bytes)) if bytes.len() as u64 > LONGEST => {
            Err(failed(format!("it is longer than {} MiB", LONGEST >> 20)))
        }
        Ok(bytes) => Ok(bytes),
        Err(Errno::ENOENT) => Ok(None),
        Err(Errno::ELOOP | Errno::ENOTDIR) => Err(failed("it is a link".to_owned())),
        Err(Errno::EINVAL) => Err(failed("it is no plain file".to_owned())),
        Err(errno) => Err(failed(io::Error::from(errno).to_string())),
    }
}

/// Removes a file of the record, if it is there.
pub fn remove(hooks: &Path, name: &str) {
    if let Ok(directory) = directory(hooks) {
        let _ = unlinkat(&directory, name, UnlinkatFlags::NoRemoveDir);
    }
}

fn directory(hooks: &Path) -> Result<OwnedFd, Errno> {
    let directory = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    // Where nothing can be mounted, kiln's own link stands here while a phase inside has
    // the hooks. All below is the hooks' to change.
    let mut at = open(hooks, directory - OFlag::O_NOFOLLOW, Mode::empty())?;
    for part in [".kiln", "record"] {
        at = openat(&at, part, directory, Mode::empty())?;
    }
    Ok(at)
}

/// The file up to one byte more than it may have; `EINVAL` if it is none.
fn read_plain(hooks: &Path, name: &str) -> Result<Option<Vec<u8>>, Errno> {
    let at = directory(hooks)?;
    // Not blocking, for FIFOs.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = match openat(&at, name, flags, Mode::empty()) {
        // A socket.
        Err(Errno::ENXIO) => return Err(Errno::EINVAL),
        file => File::from(file?),
    };
    let errno = |error: io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
    if !file.metadata().map_err(errno)?.is_file() {
        return Err(Errno::EINVAL);
    }
    let mut bytes = Vec::new();
    file.take(LONGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(errno)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_plain_files_are_read_and_no_link_is_followed() {
        let top = tempfile::tempdir().expect("a directory");
        let hooks = top.path().join("hooks");
        let record = hooks.join(".kiln/record");
        std::fs::create_dir_all(&record).expect("made");
        let secret = top.path().join("secret");
        std::fs::write(&secret, "of the host").expect("written");
        std::fs::write(record.join("plain"), "text").expect("written");
        symlink(&secret, record.join("out")).expect("linked");
        symlink("plain", record.join("in")).expect("linked");
        symlink("/dev/zero", record.join("endless")).expect("linked");
        std::fs::create_dir(record.join("directory")).expect("made");
        nix::unistd::mkfifo(&record.join("fifo"), Mode::S_IRWXU).expect("made");
        let _socket = std::os::unix::net::UnixListener::bind(record.join("socket")).expect("bound");
        let long = File::create(record.join("long")).expect("made");
        long.set_len(LONGEST + 1).expect("it has holes");
        assert_eq!(read(&hooks, "plain"), Ok(Some(b"text".to_vec())));
        assert_eq!(read(&hooks, "missing"), Ok(None));
        for (name, why) in [
            ("out", "it is a link"),
            ("in", "it is a link"),
            ("endless", "it is a link"),
            ("directory", "it is no plain file"),
            ("fifo", "it is no plain file"),
            ("socket", "it is no plain file"),
            ("long", "it is longer than 16 MiB"),
        ] {
            let failure = read(&hooks, name).expect_err(name);
            assert!(failure.message.ends_with(why), "{}", failure.message);
            assert!(!failure.hints.is_empty(), "{name}");
        }
        for name in ["plain", "out", "missing"] {
            remove(&hooks, name);
            assert_eq!(read(&hooks, name), Ok(None));
        }
        assert!(secret.exists());
        std::fs::remove_dir_all(&record).expect("ours");
        std::fs::create_dir(top.path().join("elsewhere")).expect("made");
        std::fs::write(top.path().join("elsewhere/plain"), "of the host").expect("written");
        symlink(top.path().join("elsewhere"), &record).expect("linked");
        assert!(read(&hooks, "plain").is_err());
    }
}
