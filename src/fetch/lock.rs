//! Advisory locks between processes that share a cache.

use std::fs::File;
use std::path::Path;

use fs_err::OpenOptions;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::Error;

/// An exclusive lock on a file, released when dropped or when the process dies.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Waits for the lock; the file and its directory are made when missing.
    ///
    /// Lock files are never removed: removing one while another process waits
    /// for it would let two processes in.
    pub fn acquire(path: &Path) -> Result<Lock, Error> {
        let mut file = open(path)?;
        loop {
            file = match Flock::lock(file, FlockArg::LockExclusive) {
                Ok(file) => return Ok(Lock { _file: file }),
                Err((file, Errno::EINTR)) => file,
                Err((_, errno)) => return Err(store(path, errno.into())),
            };
        }
    }

    /// Takes the lock if nobody has it.
    pub fn try_acquire(path: &Path) -> Result<Option<Lock>, Error> {
        match Flock::lock(open(path)?, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Some(Lock { _file: file })),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(store(path, errno.into())),
        }
    }
}

fn store(path: &Path, source: std::io::Error) -> Error {
    Error::Store {
        action: "lock",
        path: path.to_owned(),
        source,
    }
}

fn open(path: &Path) -> Result<File, Error> {
    if let Some(parent) = path.parent() {
        fs_err::create_dir_all(parent).map_err(|source| store(path, source))?;
    }
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map(|file| file.into_parts().0)
        .map_err(|source| store(path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_excludes_until_it_is_dropped() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("sub/x.lock");
        let first = Lock::acquire(&path).expect("free");
        assert!(Lock::try_acquire(&path).expect("works").is_none());
        drop(first);
        assert!(Lock::try_acquire(&path).expect("works").is_some());
    }
}
