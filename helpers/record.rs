//! What helpers tell the engine: files in the directory `KILN_RECORD`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::PathBuf;

use nix::fcntl::{Flock, FlockArg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// JSON lines of [`GrubCore`], one for each `grub-install` for BIOS.
pub const GRUB_INSTALL: &str = "grub-install.jsonl";
/// JSON lines of the initramfs images that are still to be made.
pub const INITRAMFS: &str = "initramfs-pending";
/// The [`Explained`] of the hook that runs, as JSON.
pub const EXPLAINED: &str = "explained";

/// What to do about a failure whose reason is not in the build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// The helper's exit status.
    pub status: u8,
    /// What to do.
    pub hint: String,
}

/// Leaves to the engine to say what to do, with the failure of the hook. Tells whether
/// there is an engine that will: not for hooks inside, whose word it does not pass on.
pub fn explain(status: u8, hint: &str) -> bool {
    if std::env::var_os("KILN_EVENTS_FD").is_none() {
        return false;
    }
    let Some(directory) = super::env_os("KILN_RECORD") else {
        return false;
    };
    let explained = Explained {
        status,
        hint: hint.to_owned(),
    };
    let path = PathBuf::from(directory).join(EXPLAINED);
    serde_json::to_vec(&explained).is_ok_and(|text| std::fs::write(path, text).is_ok())
}

/// Boot code that the assembler embeds in the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrubCore {
    /// GRUB's platform, such as `i386-pc`.
    pub target: String,
    /// Path of `core.img` in the target.
    pub core: String,
    /// Path of `boot.img` in the target.
    pub boot_image: String,
}

/// Why the engine cannot be told.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no engine.
    #[error("KILN_RECORD is not set")]
    NoRecord,
    /// A file cannot be read or written.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A line is not what was written.
    #[error("`{path}` line {line} is not valid: {message}")]
    Format {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// The parser's words.
        message: String,
    },
}

impl super::Explain for Error {
    fn hint(&self) -> Option<String> {
        matches!(self, Self::NoRecord).then(|| "this program is for hooks of a kiln build".into())
    }
}

/// One file of JSON lines, locked against other helpers.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Journal {
    /// Opens a file of `KILN_RECORD` and waits until nobody else uses it.
    pub fn open(name: &str) -> Result<Self, Error> {
        let directory = super::env_os("KILN_RECORD").ok_or(Error::NoRecord)?;
        Self::open_in(PathBuf::from(directory), name)
    }

    fn open_in(directory: PathBuf, name: &str) -> Result<Self, Error> {
        let lock_path = directory.join(format!("{name}.lock"));
        let io = |action, source| Error::Io {
            action,
            path: lock_path.clone(),
            source,
        };
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|source| io("open", source))?;
        let lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| io("lock", errno.into()))?;
        Ok(Self {
            path: directory.join(name),
            _lock: lock,
        })
    }

    /// All entries; none when nothing was recorded.
    pub fn read<T: DeserializeOwned>(&self) -> Result<Vec<T>, Error> {
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => {
                return Err(Error::Io {
                    action: "read",
                    path: self.path.clone(),
                    source,
                });
            }
        };
        let parse = |(at, line): (usize, &str)| {
            serde_json::from_str(line).map_err(|error| Error::Format {
                path: self.path.clone(),
                line: at + 1,
                message: error.to_string(),
            })
        };
        text.lines()
            .enumerate()
            .filter(|(_, line)| !line.is_empty())
            .map(parse)
            .collect()
    }

    /// Replaces all entries at once.
    pub fn write<T: Serialize>(&self, entries: &[T]) -> Result<(), Error> {
        let mut text = String::new();
        for entry in entries {
            let line =
                serde_json::to_string(entry).map_err(|error| self.io("write", error.into()))?;
            text.push_str(&line);
            text.push('\n');
        }
        let temporary = self.path.with_extension("new");
        let mut file = File::create(&temporary).map_err(|source| self.io("create", source))?;
        file.write_all(text.as_bytes())
            .map_err(|source| self.io("write", source))?;
        std::fs::rename(&temporary, &self.path).map_err(|source| self.io("replace", source))
    }

    /// Adds an entry.
    pub fn append<T: Serialize + DeserializeOwned>(&self, entry: T) -> Result<(), Error> {
        let mut entries: Vec<T> = self.read()?;
        entries.push(entry);
        self.write(&entries)
    }

    fn io(&self, action: &'static str, source: io::Error) -> Error {
        Error::Io {
            action,
            path: self.path.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn core(core: &str) -> GrubCore {
        GrubCore {
            target: "i386-pc".into(),
            core: core.into(),
            boot_image: "/b".into(),
        }
    }

    #[test]
    fn entries_are_kept_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let journal = || Journal::open_in(dir.path().to_owned(), GRUB_INSTALL).unwrap();
        assert!(journal().read::<GrubCore>().unwrap().is_empty());
        journal().append(core("/a")).unwrap();
        journal().append(core("/c")).unwrap();
        assert_eq!(
            journal().read::<GrubCore>().unwrap(),
            [core("/a"), core("/c")]
        );
        let text = std::fs::read_to_string(dir.path().join(GRUB_INSTALL)).unwrap();
        assert_eq!(
            text.lines().next().unwrap(),
            r#"{"target":"i386-pc","core":"/a","boot_image":"/b"}"#
        );
    }

    #[test]
    fn concurrent_writers_lose_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for n in 0..8 {
                let path = dir.path().to_owned();
                scope.spawn(move || {
                    Journal::open_in(path, "x")
                        .unwrap()
                        .append(core(&n.to_string()))
                        .unwrap()
                });
            }
        });
        let journal = Journal::open_in(dir.path().to_owned(), "x").unwrap();
        assert_eq!(journal.read::<GrubCore>().unwrap().len(), 8);
    }

    #[test]
    fn a_broken_line_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x"), "{}\n").unwrap();
        let journal = Journal::open_in(dir.path().to_owned(), "x").unwrap();
        let text = journal.read::<GrubCore>().unwrap_err().to_string();
        assert!(
            text.contains("line 1 is not valid: missing field `target`"),
            "{text}"
        );
    }
}
