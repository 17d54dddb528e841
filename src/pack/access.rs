//! Whether all files can be read, before anything is written.

use std::os::fd::AsFd as _;
use std::path::Path;

use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, faccessat, geteuid};

use super::Error;
use crate::tree::{Kind, Tree};

/// Finds files without read permission in a directory that was scanned.
///
/// Only those are asked about whose mode does not already answer it.
pub(super) fn check(source: &Path, tree: &Tree) -> Result<(), Error> {
    let me = geteuid();
    if me.is_root() {
        return Ok(());
    }
    let failed = |errno: nix::errno::Errno| Error::Source {
        path: source.to_owned(),
        source: errno.into(),
    };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open(source, flags, Mode::empty()).map_err(failed)?;
    let (mut count, mut first) = (0, None);
    for (id, node) in tree.nodes() {
        let inode = tree.inode(node.inode);
        let Kind::File(content) = &inode.kind else {
            continue;
        };
        let readable = if inode.uid == me.as_raw() {
            inode.mode & 0o400 != 0
        } else {
            inode.mode & 0o444 == 0o444
        };
        if readable || content.size == 0 {
            continue;
        }
        let path = tree.path(id);
        let inside = path.strip_prefix("/").unwrap_or(&path);
        let flags = AtFlags::AT_EACCESS | AtFlags::AT_SYMLINK_NOFOLLOW;
        if faccessat(root.as_fd(), inside, AccessFlags::R_OK, flags).is_err() {
            count += 1;
            first.get_or_insert_with(|| inside.to_owned());
        }
    }
    match first {
        None => Ok(()),
        Some(first) => Err(Error::Unreadable {
            path: source.to_owned(),
            count,
            first,
        }),
    }
}
