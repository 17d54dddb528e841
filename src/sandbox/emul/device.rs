//! `mknod(2)`: devices, for which an empty file stands where the kernel makes none.
//!
//! Root of a container, or of a machine that is told to use mode `chroot`, could make any.
//! It makes those that every program may have: with another a hook would reach a disk, where
//! no control group of the container keeps it from that.

use std::os::fd::{AsRawFd as _, OwnedFd};

use super::files::{open_at, statx_of};
use super::{Answer, Call, Errno, Outcome};
use crate::sandbox::bpf::SET_ID;
use crate::sandbox::capability::CAP_MKNOD;
use crate::sandbox::standin::NODES;
use crate::sandbox::store::Node;

/// The device that a mode and a number of 32 bits ask for. Character device 0:0
/// is none: overlayfs marks removed files so, and the kernel lets everybody.
fn device(mode: u32, number: u32) -> Option<Node> {
    let kind = mode & libc::S_IFMT;
    let block = kind == libc::S_IFBLK;
    (block || kind == libc::S_IFCHR && number != 0).then_some(Node {
        block,
        // As the kernel takes it apart (`new_decode_dev`).
        major: number >> 8 & 0xfff,
        minor: number & 0xff | number >> 12 & 0xfff00,
    })
}

/// Rights to a directory in which something is made.
pub(super) const WRITE_AND_SEARCH: u32 = 0o3;

/// Whether a device is one that every program may have.
fn is_harmless(node: &Node) -> bool {
    let number = (u64::from(node.major), u64::from(node.minor));
    !node.block
        && NODES
            .iter()
            .any(|&(_, major, minor)| (major, minor) == number)
}

impl Call<'_> {
    pub(super) fn mknod_at(&mut self) -> Outcome {
        self.mknod(self.int(0), 1)
    }

    /// Mode and number follow the path.
    pub(super) fn mknod(&mut self, directory: i32, path: usize) -> Outcome {
        let (mode, number) = (self.word(path + 1), self.word(path + 2));
        let node = device(mode, number);
        let is_file = matches!(mode & libc::S_IFMT, 0 | libc::S_IFREG);
        if is_file && mode & SET_ID != 0 && self.keeps_set_id() {
            let path = self.path(path)?;
            return self.make_set_id(directory, &path, mode);
        }
        if node.is_none() && !self.store().has_owners() {
            return Ok(Answer::Continue);
        }
        if node.is_some() && !self.may(CAP_MKNOD)? {
            return Err(Errno::EPERM);
        }
        let path = self.path(path)?;
        // The kernel refuses a name that ends with a slash.
        if path.ends_with(b"/") {
            return Ok(Answer::Continue);
        }
        let Some(place) = self.place(directory, &path, node.is_some())? else {
            return Ok(Answer::Continue);
        };
        if !self.store().has_owners() {
            // Whoever gave up root may have kept the capability for devices.
            self.require_access(&place.directory, WRITE_AND_SEARCH)?;
        }
        let parent = self.enter(&place)?;
        let made = if node.as_ref().is_none_or(is_harmless) {
            // SAFETY: the descriptor is open, and the name is terminated.
            Errno::result(unsafe {
                let mode = place.mode(mode);
                libc::mknodat(parent.as_raw_fd(), place.name.as_ptr(), mode, number.into())
            })
        } else {
            Err(Errno::EPERM)
        };
        match (made, node) {
            (Err(Errno::EPERM | Errno::EACCES), Some(_)) => {}
            (Err(errno), _) => return Err(errno),
            (Ok(_), _) => {
                if self.store().has_owners() {
                    self.record_name(&place, mode & 0o7777)?;
                } else {
                    let flags = libc::O_PATH | libc::O_NOFOLLOW;
                    let made = open_at(parent.as_raw_fd(), &place.name, flags, 0)?;
                    // Not what was put there meanwhile.
                    if device_of(&made)? == node {
                        give(&made, &place)?;
                    }
                }
                return Ok(Answer::Value(0));
            }
        }
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_WRONLY;
        let born = place.mode(mode & 0o7777);
        let file = open_at(parent.as_raw_fd(), &place.name, flags, born)?;
        if !self.store().has_owners() {
            give(&file, &place)?;
        }
        let found = statx_of(&file)?;
        self.record(&found, || Ok(file), (place.uid, place.gid), node);
        self.record_lists(&place, &found, mode & 0o7777);
        Ok(Answer::Value(0))
    }
}

/// The device that a file is.
fn device_of(file: &OwnedFd) -> Result<Option<Node>, Errno> {
    let found = statx_of(file)?;
    let kind = u32::from(found.stx_mode) & libc::S_IFMT;
    Ok(
        matches!(kind, libc::S_IFCHR | libc::S_IFBLK).then_some(Node {
            block: kind == libc::S_IFBLK,
            major: found.stx_rdev_major,
            minor: found.stx_rdev_minor,
        }),
    )
}

/// Gives what was just made to its owner, where owners are real.
pub(super) fn give(made: &OwnedFd, place: &super::create::NewEntry) -> Result<(), Errno> {
    if (place.uid, place.gid) == (0, 0) {
        return Ok(());
    }
    // SAFETY: the descriptor is open, and the path is an empty string.
    Errno::result(unsafe {
        libc::fchownat(
            made.as_raw_fd(),
            c"".as_ptr(),
            place.uid,
            place.gid,
            libc::AT_EMPTY_PATH,
        )
    })
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_apart_as_the_kernel_does() {
        let node = |block, major, minor| {
            Some(Node {
                block,
                major,
                minor,
            })
        };
        for (mode, (major, minor), expected) in [
            (libc::S_IFBLK | 0o600, (8, 17), node(true, 8, 17)),
            (libc::S_IFCHR, (5, 70000), node(false, 5, 70000)),
            (libc::S_IFBLK, (0, 0), node(true, 0, 0)),
            (libc::S_IFCHR, (0, 0), None),
            (libc::S_IFIFO, (1, 3), None),
            (0o644, (1, 3), None),
        ] {
            let number = libc::makedev(major, minor) as u32;
            assert_eq!(device(mode, number), expected, "{mode:o} {major}:{minor}");
        }
    }
}
