//! What can go wrong while an image is opened.

use std::io;
use std::path::{Path, PathBuf};

/// An image could not be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened or read.
    #[error("cannot read image `{}`", path.display())]
    Io {
        /// The image.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Neither a file nor a block device.
    #[error("`{}` is neither a file nor a block device", path.display())]
    NotAFile {
        /// The image.
        path: PathBuf,
    },
    /// The image is of a kind that kiln does not read.
    #[error("{format} image `{}` {what}, which kiln does not read", path.display())]
    Unsupported {
        /// The image.
        path: PathBuf,
        /// Its format.
        format: &'static str,
        /// What it has or is: a verb phrase.
        what: String,
        /// What the user can do about it.
        hint: Option<&'static str>,
    },
    /// No image, or one of a format that kiln does not know.
    #[error("`{}` is {what}, which kiln does not read", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: String,
        /// What the user can do about it.
        hint: String,
    },
    /// The image stands on another file.
    #[error("{format} image `{}` stands on another image ({name:?}), which kiln does not open: an image could name any file of yours", path.display())]
    Backing {
        /// The image.
        path: PathBuf,
        /// Its format.
        format: &'static str,
        /// The name in the image.
        name: String,
    },
    /// The image contradicts its format.
    #[error("{format} image `{}` is damaged at byte {offset}: {what}", path.display())]
    Corrupt {
        /// The image.
        path: PathBuf,
        /// Its format.
        format: &'static str,
        /// Where in the file.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
}

impl Error {
    /// The same with another name of the image.
    #[must_use]
    pub fn of(mut self, name: &Path) -> Error {
        let (Error::Io { path, .. }
        | Error::NotAFile { path }
        | Error::Unsupported { path, .. }
        | Error::Foreign { path, .. }
        | Error::Backing { path, .. }
        | Error::Corrupt { path, .. }) = &mut self;
        *path = name.to_owned();
        self
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => Some("check the name".to_owned()),
                io::ErrorKind::PermissionDenied => {
                    Some("the image must be readable for you".to_owned())
                }
                _ => None,
            },
            Error::NotAFile { .. } => Some("name an image file".to_owned()),
            Error::Unsupported { hint, .. } => hint.map(str::to_owned),
            Error::Foreign { hint, .. } => Some(hint.clone()),
            Error::Backing { format, .. } => Some(format!(
                "if you trust it, merge both {} first",
                // QEMU refuses those with a parent, or takes what they have for all of it.
                match *format {
                    "vhd" | "vhdx" =>
                        "in Hyper-V (`Convert-VHD -Path IMAGE -DestinationPath MERGED`)",
                    "vdi" => "with `VBoxManage clonemedium disk IMAGE MERGED`",
                    _ => "with `qemu-img convert -O qcow2 IMAGE MERGED`",
                }
            )),
            Error::Corrupt { .. } => Some("fetch or make the image again".to_owned()),
        }
    }
}

/// An error of a parser, which does not know the file's name.
#[derive(Debug)]
pub(super) enum Problem {
    Io(io::Error),
    Unsupported {
        what: String,
        hint: Option<&'static str>,
    },
    Backing(String),
    Corrupt {
        offset: u64,
        what: &'static str,
    },
}

impl Problem {
    pub fn corrupt<T>(offset: u64, what: &'static str) -> Result<T, Problem> {
        Err(Problem::Corrupt { offset, what })
    }

    pub fn unsupported<T>(what: impl Into<String>) -> Result<T, Problem> {
        Err(Problem::Unsupported {
            what: what.into(),
            hint: Some("convert it with `qemu-img convert -O qcow2` first"),
        })
    }

    pub fn into_error(self, path: PathBuf, format: &'static str) -> Error {
        match self {
            Problem::Io(source) => Error::Io { path, source },
            Problem::Unsupported { what, hint } => Error::Unsupported {
                path,
                format,
                what,
                hint,
            },
            Problem::Backing(name) => Error::Backing { path, format, name },
            Problem::Corrupt { offset, what } => Error::Corrupt {
                path,
                format,
                offset,
                what,
            },
        }
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Problem {
        Problem::Io(error)
    }
}
