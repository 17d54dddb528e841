//! Which ids the sandbox has.

use super::idmap::{self, Maps};

/// How ids in the sandbox relate to those outside.
///
/// Code above the sandbox never asks: a tree always has the image's owners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// The caller is root: every id under its own number.
    Root(Maps),
    /// The caller is 0, its subordinate ids follow.
    Subordinate(Maps),
    /// The caller is 0, and there is no other id: what files should have is
    /// recorded by the supervisor ([`super::notify`]).
    Single {
        /// The one id.
        maps: Maps,
        /// Why there are no more, unless the user asked for it.
        reason: Option<String>,
    },
    /// A container's root that may make no namespace: it changes its root
    /// directory, and everything else is the supervisor's.
    ChrootOnly {
        /// The ids there are; only 0 is used.
        maps: Maps,
        /// Why it is not more, unless the user asked for it.
        reason: Option<String>,
    },
}

impl Identity {
    /// The maps that the user namespace gets.
    pub fn maps(&self) -> &Maps {
        match self {
            Identity::Root(maps)
            | Identity::Subordinate(maps)
            | Identity::Single { maps, .. }
            | Identity::ChrootOnly { maps, .. } => maps,
        }
    }

    /// Whether it has namespaces of its own, so that mounts reach nobody else.
    pub fn has_namespaces(&self) -> bool {
        !matches!(self, Identity::ChrootOnly { .. })
    }

    /// Whether what files should have is recorded by the supervisor.
    pub fn records(&self) -> bool {
        matches!(self, Identity::Single { .. } | Identity::ChrootOnly { .. })
    }

    /// One word for logs and `--mode`.
    pub fn name(&self) -> &'static str {
        match self {
            Identity::Root(_) => "root",
            Identity::Subordinate(_) => "subordinate",
            Identity::Single { .. } => "single",
            Identity::ChrootOnly { .. } => "chroot",
        }
    }

    /// What the user should know about it.
    pub fn notice(&self) -> Option<String> {
        match self {
            Identity::Single {
                reason: Some(reason),
                ..
            } => Some(format!(
                "{reason}; owners and devices are recorded instead, which takes longer"
            )),
            Identity::ChrootOnly {
                reason: Some(reason),
                ..
            } => Some(format!(
                "{reason}; this container's own root is used: owners, devices and /proc are \
                 emulated, which takes longer, and the container is the only wall around hooks"
            )),
            _ => None,
        }
    }
}

/// Whether what files should have is recorded and not theirs: in a user namespace
/// with a single id, and where a container's root has no namespace.
pub fn owners_are_recorded() -> bool {
    !super::standin::mounts_are_possible()
        || Maps::full().is_ok_and(|maps| idmap::size(&maps.users) == 1)
}

/// Who files of a directory can belong to, of the ids that are mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Ownership {
    /// Anybody.
    Anybody,
    /// Only whoever makes them: a server of NFS decides that by ids of its own.
    Maker,
    /// Somebody else, as files of root where a server of NFS has it be nobody.
    Other,
}

/// Who files of a directory can belong to, tried with one. Where nothing can be made,
/// whoever is to make something says so.
pub fn ownership(directory: &std::path::Path) -> Ownership {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(file) = tempfile::tempfile_in(directory) else {
        return Ownership::Anybody;
    };
    let own = |made: std::fs::Metadata| made.uid() == nix::unistd::Uid::effective().as_raw();
    if !file.metadata().map_or(true, own) {
        return Ownership::Other;
    }
    match std::os::unix::fs::fchown(&file, Some(1), Some(1)) {
        Ok(()) => Ownership::Anybody,
        Err(_) => Ownership::Maker,
    }
}

/// Whether the kernel makes no device here, tried in a directory.
pub fn devices_are_refused(directory: &std::path::Path) -> bool {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    let path = directory.join(".device");
    let null = makedev(1, 3);
    let made = mknod(&path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o600), null);
    // A supervisor puts a file in its place.
    let real = std::fs::symlink_metadata(&path).is_ok_and(|meta| !meta.is_file());
    let _ = std::fs::remove_file(&path);
    made.is_err() || !real
}
