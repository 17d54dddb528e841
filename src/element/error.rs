//! What can be wrong with a choice of elements.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a set of elements cannot be used.
///
/// [`Error::hint`] says what to do about it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// An entry of the search path is empty.
    #[error("the element search path has an empty entry")]
    EmptyPathEntry,
    /// An entry of the search path is not a directory.
    #[error("element search path entry `{path}` is not a directory")]
    InvalidElementDir {
        /// The entry.
        path: PathBuf,
    },
    /// A file of the library cannot be read.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was being done, such as `read`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A link in an element leads out of the library.
    #[error("`{path}` of element `{element}` is a link that leaves its library")]
    LinkOutside {
        /// The element.
        element: String,
        /// The link.
        path: PathBuf,
    },
    /// Something in an element should be a file and is none.
    #[error("`{path}` of element `{element}` is {found}, and not a regular file")]
    NotAFile {
        /// The element.
        element: String,
        /// Where it is.
        path: PathBuf,
        /// What it is, with its article.
        found: &'static str,
    },
    /// A list such as `element-deps` is not text.
    #[error("`{path}` of element `{element}` is not UTF-8 text")]
    NotText {
        /// The element.
        element: String,
        /// The file in it.
        path: String,
    },
    /// A name that no library has.
    #[error("element `{name}` not found{}", chain_text(.chain))]
    Missing {
        /// The unknown name.
        name: String,
        /// Who asked for it: the requested element first.
        chain: Vec<String>,
        /// Known names that look like it, best first.
        similar: Vec<String>,
    },
    /// Two elements provide the same thing.
    #[error("`{thing}` is already provided by `{first}`, and `{second}` provides it too")]
    AlreadyProvided {
        /// The virtual name.
        thing: String,
        /// The first provider.
        first: String,
        /// The other provider.
        second: String,
    },
    /// An element was asked for by name although another one stands in for it.
    #[error("element `{name}` was requested but `{provider}` already provides it")]
    RequestedAndProvided {
        /// The requested element.
        name: String,
        /// The element that takes its place.
        provider: String,
    },
    /// No element provides `operating-system`.
    #[error("no operating system element is included")]
    MissingOs {
        /// Elements of the library that would do.
        available: Vec<String>,
    },
    /// Two elements have a hook of the same name.
    #[error("duplicate hook `{path}` in elements `{first}` and `{second}`")]
    DuplicateHook {
        /// Path below the hooks directory.
        path: String,
        /// The element that came first.
        first: String,
        /// The element that has it too.
        second: String,
    },
    /// A path is a directory in one element and a file in another.
    #[error(
        "`{path}` is a directory in one of the elements `{first}` and `{second}` and a file in the other"
    )]
    KindConflict {
        /// Path below the hooks directory.
        path: String,
        /// The element that came first.
        first: String,
        /// The other element.
        second: String,
    },
    /// `RUN_PARTS_REGEX` is not a regular expression.
    #[error("`{pattern}` is not a valid pattern of hook names: {message}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// The parser's words.
        message: String,
    },
    /// `element.yaml` cannot be understood.
    #[error("`element.yaml` of element `{element}` is not valid: {message}")]
    Metadata {
        /// The element.
        element: String,
        /// The parser's words, with line and column.
        message: String,
    },
}

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::EmptyPathEntry => {
                "remove the stray `:` from ELEMENTS_PATH; write `.` for the current directory".into()
            }
            Self::InvalidElementDir { .. } => {
                "ELEMENTS_PATH is a colon-separated list of directories that contain elements; correct or remove the entry".into()
            }
            Self::Io { .. } => "check that the file exists and that you may read it".into(),
            Self::LinkOutside { .. } => {
                "copy the file into the element, or keep it in the same element directory".into()
            }
            Self::NotAFile { .. } => "put a regular file in its place, or remove it".into(),
            Self::NotText { .. } => "save the file as UTF-8".into(),
            Self::Missing { name, .. } if super::replaced::ELSEWHERE.contains(&name.as_str()) => {
                "it is one of diskimage-builder's that kiln does not bundle: install that (`pip install diskimage-builder`) and name its directory `diskimage_builder/elements` in ELEMENTS_PATH".into()
            }
            Self::Missing { similar, .. } if !similar.is_empty() => {
                format!("did you mean {}?", quoted_list(similar, "or"))
            }
            Self::Missing { .. } => {
                "`kiln elements list` shows what there is; ELEMENTS_PATH adds directories of your own".into()
            }
            Self::AlreadyProvided { first, second, .. } if first == second => {
                format!("`{first}` is named twice; name it once")
            }
            Self::AlreadyProvided { first, second, .. } => {
                format!("use only one of `{first}` and `{second}`")
            }
            Self::RequestedAndProvided { name, provider } => {
                format!("drop either `{name}` or `{provider}`")
            }
            Self::MissingOs { available } if available.is_empty() => {
                "the library has no element that provides `operating-system`; check ELEMENTS_PATH".into()
            }
            Self::MissingOs { available } => {
                format!("add one of {}", quoted_list(available, "or"))
            }
            Self::DuplicateHook { first, second, .. } => {
                format!("rename the hook in `{first}` or `{second}`, or use only one of the two elements")
            }
            Self::KindConflict { first, second, .. } => {
                format!("rename it in `{first}` or `{second}`")
            }
            Self::Pattern { .. } => {
                "set RUN_PARTS_REGEX to an extended regular expression, or leave it unset".into()
            }
            Self::Metadata { .. } => {
                "its keys are summary, category, description, variables and examples".into()
            }
        })
    }
}

fn chain_text(chain: &[String]) -> String {
    match chain {
        [] => String::new(),
        [one] => format!(", needed by `{one}`"),
        [first, rest @ ..] => {
            let mut text = format!(", needed by `{}`", rest.last().unwrap_or(first));
            for name in chain.iter().rev().skip(1) {
                text.push_str(&format!(", which `{name}` needs"));
            }
            text
        }
    }
}

/// Joins names as a sentence has them: "`a`, `b` or `c`".
pub(crate) fn quoted_list(names: &[String], last: &str) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        None => String::new(),
        Some((only, [])) => only.clone(),
        Some((end, start)) => format!("{} {last} {end}", start.join(", ")),
    }
}
