//! Namespaces, id maps, mounts and PID 1. Knows nothing of elements.
//!
//! ```text
//! main      the caller's process: writes the id maps, shows progress, waits
//!  └ keeper   new user, mount, IPC and UTS namespaces; the host's mounts as they are.
//!    │        Outlives either neighbour by just long enough to sweep the work directory.
//!    └ init     PID 1 of a PID namespace, own mount namespace; reaps, nothing else
//!       └ engine  uid 0 of the user namespace; the host's tree read-only
//!          └ hooks
//! ```
//!
//! Invariants: every mount is made in `init`'s mount namespace and dies with it;
//! `init` dies with the keeper (`PR_SET_PDEATHSIG`), the keeper notices the end
//! of main through a pipe that only main holds open. So a `kill -9` of any one
//! of them leaves no process and no mount, and one of the others removes what
//! is on disk. See `user_namespaces(7)`, `pid_namespaces(7)`, `prctl(2)`.
//!
//! Where a container masks parts of `/proc`, no PID namespace is taken, because it
//! could have no `/proc` to match (`family`); where a container allows no
//! namespaces at all, root changes its root directory only ([`standin`]).

pub mod acl;
pub mod below;
pub mod bpf;
mod capability;
pub mod cgroup;
pub mod cgroup_events;
mod child;
pub mod choice;
pub mod command;
pub mod denylist;
mod devices;
pub mod direct;
pub mod doctor;
pub mod emul;
pub mod enter;
mod family;

mod guard;
pub mod handed;
mod handover;
pub mod hide;
pub mod host;
pub mod identity;
pub mod idmap;
pub mod inside;
pub mod journal;
pub mod landlock;
pub mod limits;
mod listed;
pub mod mounts;
pub mod network;
pub mod notify;
pub mod probe;
mod process;
mod raw;
mod refusal;
pub mod relay;
pub mod root;
pub mod seccomp;

pub mod shortage;
pub mod silent;
pub mod standin;
pub mod store;
pub mod sweep;
pub mod terminal;
pub mod userns;
pub mod wall;
pub mod xattr;

use std::io;
use std::path::PathBuf;

pub(crate) use process::is_engine;

/// Why the sandbox could not be entered, or a step in it failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel, or the container around us, refuses user namespaces.
    #[error("this host does not let us make a user namespace: {reason}")]
    NoUserNamespace {
        /// What the probe found.
        reason: String,
        /// What to do, most likely remedy first.
        hints: Vec<String>,
        /// The system call's error.
        #[source]
        source: io::Error,
    },
    /// System calls of hooks cannot be answered, which a single id needs.
    #[error("system calls of hooks cannot be answered: {reason}")]
    NoListener {
        /// What the probe found.
        reason: String,
        /// What to do.
        hints: Vec<String>,
        /// The system call's error.
        #[source]
        source: io::Error,
    },
    /// The user has no range of subordinate ids, or it cannot be used.
    #[error("no usable subordinate ids for {user}: {reason}")]
    NoSubordinateIds {
        /// The user's name, or the number where it has none.
        user: String,
        /// What is missing.
        reason: String,
        /// How to get it.
        hints: Vec<String>,
    },
    /// What a probe in a process of its own failed with, in its words.
    #[error("{message}")]
    Probe {
        /// Its error with all causes.
        message: String,
        /// What to do, most likely remedy first.
        hints: Vec<String>,
    },
    /// `--mode` names something unknown or not possible here.
    #[error("mode `{mode}` cannot be used: {reason}")]
    Mode {
        /// As the user wrote it.
        mode: String,
        /// Why not.
        reason: String,
        /// What to do instead.
        hints: Vec<String>,
    },
    /// A mount in the sandbox was refused.
    #[error("cannot mount {what} on `{path}`")]
    Mount {
        /// What was to be mounted.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// The system call's error.
        #[source]
        source: io::Error,
    },
    /// What answers the system calls of programs stopped doing so.
    #[error("the supervisor of system calls failed: {reason}")]
    Supervisor {
        /// What happened to it.
        reason: String,
        /// What to do, if that is known.
        hints: Vec<String>,
    },
    /// Another system call failed.
    #[error("{action} failed")]
    System {
        /// What was tried, such as "starting the sandbox's first process".
        action: String,
        /// The system call's error.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// What the user can do about it.
    pub fn hints(&self) -> Vec<String> {
        match self {
            Error::NoUserNamespace { hints, .. }
            | Error::NoListener { hints, .. }
            | Error::NoSubordinateIds { hints, .. }
            | Error::Probe { hints, .. }
            | Error::Mode { hints, .. } => hints.clone(),
            Error::Mount { path, source, .. }
                if path.starts_with("/dev") && source.kind() == io::ErrorKind::NotFound =>
            {
                vec![devices::NODES_ADVICE.to_owned()]
            }
            Error::Mount { .. } => vec!["`kiln doctor` shows what this host allows".to_owned()],
            Error::Supervisor { hints, .. } if !hints.is_empty() => hints.clone(),
            Error::Supervisor { .. } => vec![
                "build again; with subordinate ids (`kiln doctor`) less depends on it".to_owned(),
                "if it happens again, report it with the output of `KILN_LOG=debug`".to_owned(),
            ],
            Error::System { source, .. } => shortage::hints(source),
        }
    }

    /// Its message and those of all causes.
    fn with_causes(&self) -> String {
        use std::error::Error as _;
        let mut message = self.to_string();
        let mut source = self.source();
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        message
    }

    fn system(action: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let action = action.into();
        move |source| Error::System { action, source }
    }
}
