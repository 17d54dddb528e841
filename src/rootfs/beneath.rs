//! A directory out of which no path leads.
//!
//! Everything that touches a root that came from packages goes through [`Root`]:
//! paths are resolved by the kernel with `RESOLVE_IN_ROOT`, so that links inside
//! the root (`/lib` → `usr/lib`, absolute ones too) are followed within it and
//! neither `..` nor a link can lead outside, even while someone changes the tree.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, ResolveFlag};
use nix::sys::stat::{FileStat, Mode, SFlag};

use crate::sandbox::below;

/// A root directory, by descriptor.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    path: PathBuf,
}

/// The directory that an entry is in, and its name there.
#[derive(Debug)]
pub struct Place<'a> {
    /// The directory.
    pub parent: OwnedFd,
    /// A single component, never `.` or `..`.
    pub name: &'a OsStr,
}

impl Root {
    /// Opens a directory as a root.
    pub fn open(path: &Path) -> io::Result<Root> {
        let file = fs_err::File::open(path)?.into_parts().0;
        if !file.metadata()?.is_dir() {
            return Err(io::Error::from(io::ErrorKind::NotADirectory));
        }
        Ok(Root {
            fd: file.into(),
            path: path.to_owned(),
        })
    }

    /// Returns the path that the root was opened by, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn open_flags(&self, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
        let relative = path.strip_prefix("/").unwrap_or(path);
        let relative = if relative.as_os_str().is_empty() {
            Path::new(".")
        } else {
            relative
        };
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let path = CString::new(relative.as_os_str().as_bytes())?;
        below::open(self.fd.as_fd(), &path, flags, resolve).map_err(io::Error::from)
    }

    /// Opens a directory, following links within the root.
    pub fn open_dir(&self, path: &Path) -> io::Result<OwnedFd> {
        self.open_flags(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
    }

    /// Opens whatever a path leads to, following links within the root, as a mere name.
    pub fn open_path(&self, path: &Path) -> io::Result<OwnedFd> {
        self.open_flags(path, OFlag::O_PATH)
    }

    /// Resolves all but the last component of a path.
    pub fn place<'a>(&self, path: &'a Path) -> io::Result<Place<'a>> {
        let invalid = || {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "the path has no name at its end",
            )
        };
        let name = match path.components().next_back() {
            Some(Component::Normal(name)) => name,
            _ => return Err(invalid()),
        };
        let parent = self.open_dir(path.parent().unwrap_or(Path::new("")))?;
        Ok(Place { parent, name })
    }

    /// Makes a directory and what is missing above it, with mode 0755; existing ones are left as they are.
    pub fn make_dirs(&self, path: &Path) -> io::Result<()> {
        let mut at = PathBuf::new();
        for component in path.components() {
            let Component::Normal(name) = component else {
                continue;
            };
            at.push(name);
            let place = self.place(&at)?;
            match nix::sys::stat::mkdirat(
                &place.parent,
                place.name,
                Mode::from_bits_truncate(0o755),
            ) {
                Ok(()) => {
                    // Whatever the umask says.
                    let fd = self.open_dir(&at)?;
                    nix::sys::stat::fchmod(&fd, Mode::from_bits_truncate(0o755))?;
                }
                Err(Errno::EEXIST) => {
                    self.open_dir(&at)?;
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Returns facts of the last component without following it; `None` when there is nothing.
    pub fn stat(&self, path: &Path) -> io::Result<Option<FileStat>> {
        let place = match self.place(path) {
            Ok(place) => place,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match nix::sys::stat::fstatat(&place.parent, place.name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Reads a link.
    pub fn read_link(&self, path: &Path) -> io::Result<OsString> {
        let place = self.place(path)?;
        Ok(nix::fcntl::readlinkat(&place.parent, place.name)?)
    }

    /// Reads a regular file of at most `limit` bytes.
    pub fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let fd = self.open_flags(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?;
        let file = File::from(fd);
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.len() > limit {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it is not a regular file of an acceptable size",
            ));
        }
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Creates or replaces a regular file; what is there is removed, never written through.
    pub fn create(&self, path: &Path, mode: u32) -> io::Result<File> {
        let place = self.place(path)?;
        match nix::unistd::unlinkat(
            &place.parent,
            place.name,
            nix::unistd::UnlinkatFlags::NoRemoveDir,
        ) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        let fd = nix::fcntl::openat(
            &place.parent,
            place.name,
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
            Mode::from_bits_truncate(0o600),
        )?;
        nix::sys::stat::fchmod(&fd, Mode::from_bits_truncate(mode))?;
        Ok(File::from(fd))
    }

    /// Writes a whole file; see [`Root::create`].
    pub fn write(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        self.create(path, mode)?.write_all(bytes)
    }

    /// Makes a symbolic link.
    pub fn symlink(&self, target: &OsStr, path: &Path) -> io::Result<()> {
        let place = self.place(path)?;
        Ok(nix::unistd::symlinkat(target, &place.parent, place.name)?)
    }

    /// Removes a file or link; nothing there is fine.
    pub fn remove_file(&self, path: &Path) -> io::Result<()> {
        match self.place(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(place) => {
                match nix::unistd::unlinkat(
                    &place.parent,
                    place.name,
                    nix::unistd::UnlinkatFlags::NoRemoveDir,
                ) {
                    Ok(()) | Err(Errno::ENOENT) => Ok(()),
                    Err(errno) => Err(errno.into()),
                }
            }
        }
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let place = self.place(path)?;
        Ok(nix::unistd::unlinkat(
            &place.parent,
            place.name,
            nix::unistd::UnlinkatFlags::RemoveDir,
        )?)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Returns the kind of a file from its mode.
pub fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

/// Turns a name of an archive into a relative path: no `..`, nothing empty.
///
/// Returns `None` when the name would lead outside or is not one;
/// the archive's root (`./`) becomes an empty path.
pub fn clean(name: &[u8]) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return None,
            part if part.contains(&0) => return None,
            part => path.push(OsStr::from_bytes(part)),
        }
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_within_the_root_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let outside = dir.path().join("outside");
        fs_err::create_dir(&outside).expect("made");
        fs_err::write(outside.join("secret"), "s").expect("written");
        let inside = dir.path().join("root");
        fs_err::create_dir_all(inside.join("usr/lib")).expect("made");
        let root = Root::open(&inside).expect("opened");
        for (name, target) in [
            ("lib", "usr/lib"),
            ("abs", "/usr/lib"),
            ("up", "../outside"),
            ("out", "/outside"),
        ] {
            root.symlink(OsStr::new(target), Path::new(name))
                .expect("linked");
        }
        root.write(Path::new("lib/a"), b"1", 0o644)
            .expect("written");
        root.write(Path::new("/abs/b"), b"2", 0o4755)
            .expect("written");
        assert_eq!(fs_err::read(inside.join("usr/lib/a")).expect("there"), b"1");
        assert_eq!(root.read(Path::new("usr/lib/b"), 10).expect("there"), b"2");
        for escape in [
            "up/secret",
            "out/secret",
            "../outside/secret",
            "lib/../../../outside/secret",
        ] {
            let error = root.read(Path::new(escape), 10).expect_err(escape);
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{escape}");
        }
        // A link under the final name is replaced, not written through.
        root.symlink(OsStr::new("/usr/lib/a"), Path::new("c"))
            .expect("linked");
        root.write(Path::new("c"), b"3", 0o644).expect("written");
        assert_eq!(root.read(Path::new("usr/lib/a"), 10).expect("there"), b"1");
        assert!(root.read(Path::new("usr/lib/a"), 0).is_err());
    }

    #[test]
    fn names_of_archives_are_cleaned_or_refused() {
        for (name, expected) in [
            (&b"./"[..], Some("")),
            (b"./usr/bin/", Some("usr/bin")),
            (b"/etc//passwd", Some("etc/passwd")),
            (b"../x", None),
            (b"./a/../../x", None),
            (b"a\0b", None),
        ] {
            assert_eq!(clean(name), expected.map(PathBuf::from));
        }
    }
}
