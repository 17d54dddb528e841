//! What can go wrong while a filesystem is read.

use crate::sink::Cause;

/// Why a filesystem, or a file in it, cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path leads nowhere.
    #[error("there is no `{path}`")]
    NotFound {
        /// The path, up to the missing component.
        path: String,
    },
    /// Something on the path is not a directory.
    #[error("`{path}` is not a directory")]
    NotADirectory {
        /// The path up to there.
        path: String,
    },
    /// A file is needed, and this is something else.
    #[error("`{path}` is {what}, not a file")]
    NotAFile {
        /// The path.
        path: String,
        /// What it is, with article.
        what: &'static str,
    },
    /// A symbolic link is needed, and this is something else.
    #[error("`{path}` is {what}, not a symbolic link")]
    NotALink {
        /// The path, or what else it is known by.
        path: String,
        /// What it is, with article.
        what: &'static str,
    },
    /// Symbolic links lead in circles.
    #[error("`{path}` leads through too many symbolic links")]
    TooManyLinks {
        /// The path as it was given.
        path: String,
    },
    /// There is nothing that is known.
    #[error("there is no filesystem that is known")]
    Unknown,
    /// The filesystem is of a kind, or has a feature, that kiln does not read.
    #[error("the filesystem {what}, which kiln does not read")]
    Unsupported {
        /// What it has or is: a verb phrase.
        what: String,
    },
    /// The filesystem contradicts itself.
    #[error("the {kind} filesystem is damaged at {place}: {what}")]
    Corrupt {
        /// What filesystem it is.
        kind: &'static str,
        /// Where: an inode, a block or a cluster.
        place: String,
        /// What is wrong.
        what: &'static str,
    },
    /// A logical or a physical volume cannot be put together.
    #[error("{name} cannot be read: {what}")]
    Volume {
        /// What it is, and its name.
        name: String,
        /// Why: a clause.
        what: String,
    },
    /// A structure or a file would lie behind the end of its partition.
    #[error(
        "{length} bytes at byte {offset} are needed, but the partition or image ends at byte {end}"
    )]
    OutOfRange {
        /// First byte.
        offset: u64,
        /// How many.
        length: u64,
        /// Length of the volume.
        end: u64,
    },
    /// The image cannot be read.
    #[error("cannot read the image at byte {offset} of the filesystem")]
    Read {
        /// Where, counted from the filesystem's start.
        offset: u64,
        /// Why.
        #[source]
        source: Cause,
    },
}

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::NotFound { .. } => "see what is there with `kiln ls IMAGE DIRECTORY`",
            Error::NotADirectory { .. } => "leave off what follows it",
            Error::NotALink { .. } => "`kiln ls -l` shows what things are",
            Error::NotAFile { .. } => "`kiln ls -l` shows what things are; `kiln cp` copies trees",
            Error::Unknown | Error::Unsupported { .. } => {
                "choose another partition with `IMAGE:NUMBER` (`kiln inspect IMAGE` lists them)"
            }
            Error::Volume { .. } => {
                "kiln reads linear, striped and thin volumes whose group is all on this disk"
            }
            Error::Corrupt { .. } | Error::OutOfRange { .. } => {
                "if it is not meant to be damaged, fetch or make the image again"
            }
            Error::TooManyLinks { .. } | Error::Read { .. } => return None,
        };
        Some(hint.to_owned())
    }
}
