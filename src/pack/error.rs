//! Why a tree could not be packed.

use std::io;
use std::path::PathBuf;

use super::owners::OwnerError;
use crate::disk::config::ConfigError;
use crate::disk::layout::{LayoutError, SizeRuleError};
use crate::{sink, tree};

/// Why a tree could not be packed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The source cannot be looked at.
    #[error("cannot read `{}`", path.display())]
    Source {
        /// The source.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The source is something else.
    #[error("`{}` is {found}, and neither a directory nor a tar archive", path.display())]
    NoTree {
        /// The source.
        path: PathBuf,
        /// What it is, with its article.
        found: &'static str,
    },
    /// Files that the user may not read.
    #[error("cannot read {count} of the files in `{}`, such as `{}`: permission denied", path.display(), first.display())]
    Unreadable {
        /// The source.
        path: PathBuf,
        /// How many they are.
        count: usize,
        /// The first of them.
        first: PathBuf,
    },
    /// The tree cannot be scanned.
    #[error(transparent)]
    Tree(#[from] tree::Error),
    /// The archive cannot be read.
    #[error(transparent)]
    Tar(#[from] tree::tar::Error),
    /// A rule about owners is wrong.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// The tree is still read by somebody while it should change.
    #[error("the tree is in use while its owners are to be changed")]
    Busy,
    /// A bundled layout is not bundled.
    #[error("there is no layout `{name}`")]
    NoLayout {
        /// Its name.
        name: &'static str,
    },
    /// A layout file cannot be read.
    #[error("cannot read layout `{}`", path.display())]
    LayoutFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A layout file is wrong.
    #[error("cannot use layout `{}`", path.display())]
    LayoutContent {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ConfigError,
    },
    /// What the request says of a bundled layout is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The size cannot be computed.
    #[error(transparent)]
    Size(#[from] SizeRuleError),
    /// The disk cannot be laid out.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The tree cannot be labelled for SELinux.
    #[error(transparent)]
    Labels(#[from] tree::LabelError),
    /// An output cannot be written.
    #[error(transparent)]
    Sink(#[from] sink::Error),
}

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Error::Unreadable { .. } => {
                "run as the owner of the files or as root, or pack a tar archive of the tree"
            }
            Error::NoTree { .. } => "name a directory, or a tar archive (plain, gzip, xz or zstd)",
            Error::Tar(error) => return error.hint(),
            Error::Owner(error) => return error.hint(),
            Error::Labels(error) => return error.hint(),
            Error::Sink(error) => return error.hint(),
            Error::Layout(error) if error.is_too_small() => "`--size` makes the image larger",
            Error::Layout(error) => {
                let node = error.too_small_itself()?;
                return Some(format!(
                    "the `size` of `{node}` in the layout makes it larger (`--layout`), or leave \
                     out what need not be in it"
                ));
            }
            Error::Tree(error) => error.hint()?,
            _ => return None,
        };
        Some(text.to_owned())
    }
}
