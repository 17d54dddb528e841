//! Why a root could not be made from an archive.

use std::io;
use std::path::PathBuf;

use super::deb::DebError;
use super::index::IndexError;
use super::openpgp::VerifyError;
use super::release::ReleaseError;
use super::resolve::ResolveError;
use super::unpack::UnpackError;
use crate::fetch;

/// Why a root could not be made. [`Error::hint`] says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something could not be fetched.
    #[error(transparent)]
    Fetch(#[from] fetch::Error),
    /// The keyring cannot be used.
    #[error(transparent)]
    Keyring(#[from] VerifyError),
    /// A Release file is not signed by a trusted key.
    #[error("`{url}` is not trusted")]
    Untrusted {
        /// The file.
        url: String,
        /// Why not.
        source: VerifyError,
    },
    /// A Release file has no signature at all.
    #[error("`{url}` is not signed: there is neither `InRelease` nor `Release.gpg` beside it")]
    Unsigned {
        /// The file.
        url: String,
    },
    /// A Release file cannot be used.
    #[error("`{url}` cannot be used")]
    Release {
        /// The file.
        url: String,
        /// Why not.
        source: ReleaseError,
    },
    /// A suite has no packages for a component and architecture.
    #[error("`{url}` has no packages of component `{component}` for {arch}; it has {available}")]
    NoIndex {
        /// The Release file.
        url: String,
        /// The component.
        component: String,
        /// The architecture.
        arch: String,
        /// What it has.
        available: String,
    },
    /// An index cannot be decompressed.
    #[error("`{url}` cannot be decompressed: {reason}")]
    Decompress {
        /// The index.
        url: String,
        /// Why not.
        reason: String,
    },
    /// An index is malformed.
    #[error("`{url}` cannot be used")]
    Index {
        /// The index.
        url: String,
        /// Why not.
        source: Box<IndexError>,
    },
    /// No set of packages fits.
    #[error(transparent)]
    Resolve(Box<ResolveError>),
    /// A package cannot be read.
    #[error("package `{package}` cannot be read")]
    Package {
        /// Name and version.
        package: String,
        /// Why not.
        source: DebError,
    },
    /// A package cannot be unpacked.
    #[error("package `{package}` cannot be unpacked")]
    Unpack {
        /// Name and version.
        package: String,
        /// Why not.
        source: UnpackError,
    },
    /// A file operation failed.
    #[error("cannot {action} `{path}`")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("cannot start a thread for the packages of the root")]
    Thread {
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The target's programs cannot be run.
    #[error("cannot run `{program}` in the root `{root}`")]
    Run {
        /// The program.
        program: String,
        /// The root.
        root: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// dpkg failed.
    #[error("`{command}` failed in the new root ({status}){}", tail(.output))]
    Dpkg {
        /// The command.
        command: String,
        /// Its exit status.
        status: String,
        /// The last lines that it printed.
        output: Vec<String>,
    },
    /// Some packages were left unconfigured.
    #[error("packages were left unconfigured: {}", .packages.join(", "))]
    Unconfigured {
        /// The packages with their state.
        packages: Vec<String>,
    },
}

fn tail(output: &[String]) -> String {
    if output.is_empty() {
        String::new()
    } else {
        format!(":\n{}", output.join("\n"))
    }
}

impl From<ResolveError> for Error {
    fn from(error: ResolveError) -> Error {
        Error::Resolve(Box::new(error))
    }
}

impl Error {
    /// Says what the user can do about it.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Error::Fetch(error) => error.hint(),
            Error::Keyring(_) => Some("check the file that `DIB_APT_KEYRING` names"),
            Error::Untrusted {
                source: VerifyError::Format { .. } | VerifyError::Detached { .. },
                ..
            } => Some("a proxy or login page may have answered in the mirror's place"),
            Error::Unsigned { .. } => Some(
                "kiln takes no unsigned archive: sign `Release` with a key of your own, and name that in `DIB_APT_KEYRING`",
            ),
            Error::Untrusted { .. } => Some(
                "name the archive's keyring in `DIB_APT_KEYRING`; if it is Debian's own, the mirror is not to be trusted",
            ),
            Error::Release { source, .. } => Some(match source {
                ReleaseError::OtherSuite { .. } => "check the release's name (`DIB_RELEASE`)",
                ReleaseError::Expired { .. } => {
                    "the mirror is out of date, or this machine's clock is wrong; of a snapshot or an archived release it is taken with `KILN_APT_CHECK_VALID_UNTIL=no`"
                }
                ReleaseError::NotYetValid { .. } => "check this machine's clock",
                _ => "use another mirror",
            }),
            Error::NoIndex { .. } => Some("check `ARCH` and `DIB_DEBIAN_COMPONENTS`"),
            Error::Decompress { .. } | Error::Index { .. } => Some("use another mirror"),
            Error::Resolve(error) => Some(match **error {
                ResolveError::NoSuchPackage { .. } => {
                    "check the package's name; some are in other components (`DIB_DEBIAN_COMPONENTS`)"
                }
                ResolveError::NoSuchVersion { .. } => {
                    "ask for one of these, or for the name alone; older ones are in snapshots of the archive (`DIB_DISTRIBUTION_MIRROR`)"
                }
                ResolveError::Malformed { .. } => {
                    "packages of another suite are for apt: `-p`, with that suite in `DIB_APT_SOURCES_CONF`"
                }
                ResolveError::TwoVersions { .. } => {
                    "ask for one of them; elements ask by `KILN_BOOTSTRAP_INCLUDE`"
                }
                _ => "the archive may be in the middle of an update; try again later",
            }),
            Error::Package { .. } | Error::Unpack { .. } => Some(
                "the package is as its archive signed it; check free space and the file system of the cache",
            ),
            Error::File { source, .. } => Some(match source.kind() {
                io::ErrorKind::StorageFull => {
                    "free some space, or choose another `DIB_IMAGE_CACHE`"
                }
                io::ErrorKind::PermissionDenied => {
                    "files of a build by another user may lie there; choose another `DIB_IMAGE_CACHE`"
                }
                _ => "check the directory of the cache (`DIB_IMAGE_CACHE`)",
            }),
            Error::Thread { .. } => Some(
                "the session or a control group has as many processes as it may have: raise `ulimit -u` or `pids.max`",
            ),
            Error::Run { source, .. } => Some(match source.raw_os_error() {
                Some(libc::ENOEXEC) => {
                    "programs of this architecture do not run here; install qemu-user's binfmt handlers"
                }
                Some(libc::EPERM) => "run it inside kiln's sandbox, or as root",
                _ => "see `kiln doctor`",
            }),
            Error::Dpkg { .. } | Error::Unconfigured { .. } => {
                Some("the output above is that of the package's own scripts")
            }
        }
    }
}
