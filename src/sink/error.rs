//! What can go wrong while an output is written.

use std::io;
use std::path::PathBuf;

use crate::tree;

/// Why a disk could not be read; the disk's own error.
pub type Cause = Box<dyn std::error::Error + Send + Sync + 'static>;

/// An output could not be written. Nothing is left under its final name then.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory of an output is missing or cannot be entered.
    #[error("cannot open the directory `{}` of output `{}`", directory.display(), target.display())]
    Directory {
        /// The output.
        target: PathBuf,
        /// Its directory.
        directory: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// No file can be made in the directory of an output.
    #[error("cannot create a file for output `{}`", target.display())]
    Create {
        /// The output.
        target: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The output's path does not name a file.
    #[error("output `{}` does not end in a file name", target.display())]
    NoName {
        /// The output.
        target: PathBuf,
    },
    /// The output's name is too long for the suffixes that it needs.
    #[error("the name of output `{}` is too long", target.display())]
    NameTooLong {
        /// The output.
        target: PathBuf,
    },
    /// Something that is not a regular file has the output's name.
    #[error("output `{}` exists and is not a regular file", target.display())]
    NotAFile {
        /// The output.
        target: PathBuf,
    },
    /// Two outputs have the same path.
    #[error("output `{}` is asked for twice", target.display())]
    Twice {
        /// The output.
        target: PathBuf,
    },
    /// The filesystem is full.
    #[error(
        "no space left for output `{}`: it needs up to {}, and {} were free when writing began",
        target.display(), Bytes(*needed), Bytes(*free)
    )]
    NoSpace {
        /// The output.
        target: PathBuf,
        /// Bytes that it can take at most.
        needed: u64,
        /// Bytes that were free for this user when writing began.
        free: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The user's quota is used up, however much is free.
    #[error(
        "the disk quota leaves no space for output `{}`, which needs up to {}",
        target.display(), Bytes(*needed)
    )]
    Quota {
        /// The output.
        target: PathBuf,
        /// Bytes that it can take at most.
        needed: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file would be larger than the filesystem or the process may have it.
    #[error("output `{}` would be a larger file than is allowed here", target.display())]
    TooLarge {
        /// The output.
        target: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Any other failure to write.
    #[error("cannot write output `{}`", target.display())]
    Write {
        /// The output.
        target: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A finished output could not be read back for its checksums.
    #[error("cannot read output `{}` back", target.display())]
    ReadBack {
        /// The output.
        target: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The complete file could not be put under its name.
    #[error("cannot give `{}` its name", target.display())]
    Commit {
        /// The output.
        target: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The previous output could not be renamed.
    #[error("cannot rename the old output `{}` to `{}`", from.display(), to.display())]
    RenameOld {
        /// Its name.
        from: PathBuf,
        /// What it should have become.
        to: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The disk could not be read.
    #[error("cannot read bytes {offset} to {} of the disk", offset + length)]
    Disk {
        /// First byte.
        offset: u64,
        /// Length in bytes.
        length: u64,
        /// Why.
        source: Cause,
    },
    /// A file of the tree could not be read.
    #[error("cannot read the tree")]
    Tree {
        /// Its path in the tree.
        path: PathBuf,
        /// Why, with the path.
        source: Cause,
    },
    /// A disk format was asked for where there is no disk.
    #[error("output `{}` needs a disk, and this build has none", target.display())]
    NoDisk {
        /// The output.
        target: PathBuf,
    },
    /// The disk does not fit into the format with these options.
    #[error("a disk of {} does not fit into qcow2 with clusters of {}", Bytes(*length), Bytes(*cluster_size))]
    DiskTooLarge {
        /// Length of the disk in bytes.
        length: u64,
        /// Cluster size in bytes.
        cluster_size: u64,
    },
    /// The disk does not fit into the format.
    #[error("a disk of {} does not fit into {format}, whose limit is {}", Bytes(*length), Bytes(*limit))]
    TooLargeForFormat {
        /// The format's name.
        format: &'static str,
        /// Length of the disk in bytes.
        length: u64,
        /// Length of the largest disk in bytes.
        limit: u64,
    },
    /// A compressor could not be set up.
    #[error("cannot set up {compressor} at level {level}")]
    Compressor {
        /// Its name.
        compressor: &'static str,
        /// The level that was asked for.
        level: i32,
    },
    /// A path in the tree cannot be put into an archive.
    #[error("`{}` cannot be archived: {why}", path.display())]
    Unarchivable {
        /// Its path in the tree.
        path: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// Another thread failed first; its error is the one that is reported.
    #[error("stopped because another output failed")]
    Stopped,
}

/// What to do about a quota that is used up.
const QUOTA: &str = "see `quota -s`; remove files of yours there, or choose another place";

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Error::Directory { source, .. } => match source.raw_os_error() {
                Some(libc::EACCES | libc::EPERM) => "choose a directory that you may write to",
                Some(libc::ENOTDIR) => "something else has this name: choose a directory",
                _ => "create the directory, or choose another output name",
            },
            Error::Create { source, .. } => match source.raw_os_error() {
                Some(libc::EACCES | libc::EPERM) => {
                    "the directory must be writable for you: choose another one"
                }
                Some(libc::EROFS) => "the filesystem is read-only: choose another place",
                // There may be bytes enough and no inode.
                Some(libc::ENOSPC) => {
                    "see `df -i` and `df`: remove files there, or choose another place"
                }
                Some(libc::EDQUOT) => QUOTA,
                _ => "choose another output name",
            },
            Error::NoName { .. } | Error::NotAFile { .. } | Error::NameTooLong { .. } => {
                "choose another output name"
            }
            Error::Twice { .. } => "name each output format once",
            Error::NoSpace { .. } => "free some space there, or choose another place",
            Error::Quota { .. } => QUOTA,
            Error::TooLarge { .. } => {
                "see `ulimit -f`, and the largest file that the filesystem allows; or choose another place"
            }
            Error::DiskTooLarge { .. } => "use a larger `cluster_size`, or a smaller disk",
            Error::TooLargeForFormat { .. } => "use `qcow2` or `raw`, or a smaller disk",
            Error::NoDisk { .. } => "add the element `vm`, or ask for `tar` only",
            Error::Write { source, .. } | Error::ReadBack { source, .. }
                if source.raw_os_error() == Some(libc::EIO) =>
            {
                "the device or filesystem there fails: see the kernel's messages (`dmesg`), or choose another place"
            }
            Error::Commit { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "the directory was removed meanwhile: create it, and run this again"
            }
            Error::RenameOld { source, .. } | Error::Commit { source, .. } => {
                match source.raw_os_error()? {
                    libc::ENAMETOOLONG => {
                        "choose a shorter output name, or have the old output replaced"
                    }
                    // As in `/tmp`, where only its owner may move or replace a file.
                    libc::EPERM | libc::EACCES => {
                        "the old output is not yours to move or replace: choose another output name"
                    }
                    _ => return None,
                }
            }
            Error::Disk { source, .. } | Error::Tree { source, .. } => {
                tree::Error::behind(source.as_ref())?.hint()?
            }
            Error::Compressor { .. } => "leave the level at its default",
            Error::Unarchivable { .. } => "take it out of the tree, or choose another format",
            _ => return None,
        };
        Some(text.to_owned())
    }
}

/// A number of bytes as people read it: three digits and a binary unit.
pub(crate) struct Bytes(pub u64);

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Bytes(bytes) = *self;
        let (unit, name) = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")]
            .into_iter()
            .find(|&(shift, _)| bytes >> shift > 0)
            .unwrap_or((0, "bytes"));
        let whole = bytes >> unit;
        if unit == 0 || whole >= 100 {
            return write!(f, "{whole} {name}");
        }
        let rest = bytes & ((1 << unit) - 1);
        let tenths = (u128::from(rest) * 10) >> unit;
        if tenths == 0 {
            write!(f, "{whole} {name}")
        } else {
            write!(f, "{whole}.{tenths} {name}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_as_people_say_them() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (700 << 20, "700 MiB"),
            ((4 << 30) + (1 << 29), "4.5 GiB"),
            (u64::MAX, "16777215 TiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }

    #[test]
    fn each_fault_has_its_own_hint() {
        let target = PathBuf::from("out/a.raw");
        let directory = |errno| Error::Directory {
            target: target.clone(),
            directory: "out".into(),
            source: io::Error::from_raw_os_error(errno),
        };
        let create = |errno| Error::Create {
            target: target.clone(),
            source: io::Error::from_raw_os_error(errno),
        };
        let changed = |errno| Error::Disk {
            offset: 0,
            length: 512,
            source: Box::new(tree::Error::Io {
                action: "open",
                path: "file".into(),
                source: io::Error::from_raw_os_error(errno),
            }),
        };
        let rename = |errno| Error::RenameOld {
            from: target.clone(),
            to: "out/a-1.raw".into(),
            source: io::Error::from_raw_os_error(errno),
        };
        let commit = |errno| Error::Commit {
            target: target.clone(),
            source: io::Error::from_raw_os_error(errno),
        };
        for (error, hint) in [
            (rename(libc::ENAMETOOLONG), "a shorter output name"),
            (rename(libc::EPERM), "not yours to move"),
            (commit(libc::EPERM), "not yours to move"),
            (commit(libc::ENOENT), "was removed meanwhile"),
            (directory(libc::ENOENT), "create the directory"),
            (directory(libc::EACCES), "you may write to"),
            (directory(libc::ENOTDIR), "choose a directory"),
            (create(libc::ENOSPC), "df -i"),
            (create(libc::EDQUOT), "quota -s"),
            (changed(libc::ENOENT), "keep the tree unchanged"),
            (changed(libc::ELOOP), "keep the tree unchanged"),
            (changed(libc::EIO), "dmesg"),
            (changed(libc::EACCES), "owner of the files"),
        ] {
            let said = error.hint().unwrap_or_default();
            assert!(said.contains(hint), "{error}: {said}");
        }
    }

    #[test]
    fn a_full_disk_says_how_much_was_needed() {
        let error = Error::NoSpace {
            target: "out/a.qcow2".into(),
            needed: 3 << 30,
            free: 512 << 20,
            source: io::Error::from_raw_os_error(libc::ENOSPC),
        };
        assert_eq!(
            error.to_string(),
            "no space left for output `out/a.qcow2`: it needs up to 3 GiB, and 512 MiB were free when writing began"
        );
        assert!(error.hint().unwrap().contains("free some space"));
    }
}
