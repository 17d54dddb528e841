//! Calls that make files: their first owner, and devices.
//!
//! Only a file that is not to be root's, or a device, is made here; its name is
//! then there before the record, for a moment in which it looks like root's.

use std::ffi::CString;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::stat::Mode;

use super::tracee::{self, Target, open_at, statx, statx_of};
use super::{Answer, Call, Errno, Outcome};
use crate::sandbox::bpf::CREATING;
use crate::sandbox::store::{Key, Node};

/// `__O_TMPFILE`, the flag without its `O_DIRECTORY`.
const UNNAMED: i32 = libc::O_TMPFILE & !libc::O_DIRECTORY;
/// `struct open_how`, first version: flags, mode, resolve.
const OPEN_HOW: usize = 24;
/// Size of a page, above which `openat2` refuses its structure.
const LARGEST_HOW: u64 = 4096;

/// Where a file is to be made.
struct Place {
    directory: Target,
    name: CString,
    uid: u32,
    gid: u32,
}

/// A path's directory and last name; `None` if it ends in no proper name.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = path.iter().rposition(|&byte| byte != b'/')? + 1;
    let start = path[..end]
        .iter()
        .rposition(|&byte| byte == b'/')
        .map_or(0, |at| at + 1);
    let name = &path[start..end];
    (name != b"." && name != b"..").then_some((&path[..start], name))
}

impl Call<'_> {
    /// Where a file is to be made, and whose it is to be; `None` where that is
    /// root, or where the kernel will refuse it.
    fn place(
        &mut self,
        directory: i32,
        path: &[u8],
        any_owner: bool,
    ) -> Result<Option<Place>, Errno> {
        let Some((parent, name)) = split(path) else {
            return Ok(None);
        };
        let Ok(directory) = self.target(directory, parent, true) else {
            return Ok(None);
        };
        let Some((uid, gid)) = self.first_owner(&directory)? else {
            return Ok(None);
        };
        if (uid, gid) == (0, 0) && !any_owner {
            return Ok(None);
        }
        let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
        Ok(Some(Place {
            directory,
            name,
            uid,
            gid,
        }))
    }

    /// Owner and group of a new file in a directory, if that exists.
    fn first_owner(&mut self, directory: &Target) -> Result<Option<(u32, u32)>, Errno> {
        let credentials = self.credentials()?;
        let Ok(found) = directory.statx(0) else {
            return Ok(None);
        };
        let gid = if u32::from(found.stx_mode) & libc::S_ISGID != 0 {
            self.store()
                .get(Key::of(&found))
                .map_or(0, |record| record.gid)
        } else {
            credentials.group.filesystem
        };
        Ok(Some((credentials.user.filesystem, gid)))
    }

    /// Opens the directory and takes over the umask.
    fn enter(&mut self, place: &Place) -> Result<OwnedFd, Errno> {
        self.take_umask()?;
        place.directory.open(libc::O_PATH | libc::O_DIRECTORY, 0)
    }

    fn take_umask(&mut self) -> Result<(), Errno> {
        let umask = self.worker.view.umask(self.pid)?;
        self.still_there()?;
        // This thread's own, since it shares no file system context.
        nix::sys::stat::umask(Mode::from_bits_truncate(umask));
        Ok(())
    }

    fn record(&self, found: &libc::statx, uid: u32, gid: u32, node: Option<Node>) {
        self.store().update(Key::of(found), |record| {
            (record.uid, record.gid, record.node) = (uid, gid, node);
            record.xattrs.clear();
        });
    }

    /// Records the owner of what was just made under a name.
    fn record_name(&self, directory: &OwnedFd, place: &Place) -> Result<(), Errno> {
        let flags = libc::AT_SYMLINK_NOFOLLOW;
        let found = statx(directory.as_raw_fd(), &place.name, flags, 0)?;
        self.record(&found, place.uid, place.gid, None);
        Ok(())
    }

    pub(super) fn open(&mut self, directory: i32, path: usize, flags: i32, mode: u64) -> Outcome {
        let path = self.path(path)?;
        self.open_path(directory, &path, flags, mode)
    }

    pub(super) fn open2(&mut self) -> Outcome {
        let size = self.arguments[3];
        if size < OPEN_HOW as u64 || size > LARGEST_HOW {
            return Ok(Answer::Continue);
        }
        let how = tracee::read(self.pid, self.arguments[2], OPEN_HOW)?;
        let (words, _) = how.as_chunks::<8>();
        let [flags, mode, resolve] = [words[0], words[1], words[2]].map(u64::from_ne_bytes);
        let flags = i32::try_from(flags).unwrap_or(0);
        // A restricted walk is left to the kernel; the file is root's then.
        if resolve != 0 || flags as u32 & CREATING == 0 {
            return Ok(Answer::Continue);
        }
        self.open(self.int(0), 1, flags, mode)
    }

    fn open_path(&mut self, directory: i32, path: &[u8], flags: i32, mode: u64) -> Outcome {
        // Shells open it all the time.
        if path == b"/dev/null"
            || flags & libc::O_PATH != 0
            || path.ends_with(b"/") && flags & UNNAMED == 0
        {
            return Ok(Answer::Continue);
        }
        // Only these bits of the mode are meant.
        let mode = mode as u32 & 0o7777;
        let close_on_exec = flags & libc::O_CLOEXEC != 0;
        if flags & UNNAMED != 0 {
            let Ok(target) = self.target(directory, path, true) else {
                return Ok(Answer::Continue);
            };
            let Some((uid, gid)) = self.first_owner(&target)?.filter(|&owner| owner != (0, 0))
            else {
                return Ok(Answer::Continue);
            };
            self.take_umask()?;
            let file = target.open(flags, mode)?;
            self.record(&statx_of(&file)?, uid, gid, None);
            return Ok(Answer::Descriptor {
                file,
                close_on_exec,
            });
        }
        let Some(place) = self.place(directory, path, false)? else {
            return Ok(Answer::Continue);
        };
        let parent = self.enter(&place)?;
        let flags = flags | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
        match open_at(parent.as_raw_fd(), &place.name, flags, mode) {
            Ok(file) => {
                self.record(&statx_of(&file)?, place.uid, place.gid, None);
                Ok(Answer::Descriptor {
                    file,
                    close_on_exec,
                })
            }
            // There is something: that is opened, or it is an error.
            Err(Errno::EEXIST) => Ok(Answer::Continue),
            Err(errno) => Err(errno),
        }
    }

    pub(super) fn mkdir(&mut self, directory: i32, path: usize, mode: u64) -> Outcome {
        let path = self.path(path)?;
        let Some(place) = self.place(directory, &path, false)? else {
            return Ok(Answer::Continue);
        };
        let parent = self.enter(&place)?;
        // SAFETY: the descriptor is open, and the name is terminated.
        Errno::result(unsafe {
            libc::mkdirat(
                parent.as_raw_fd(),
                place.name.as_ptr(),
                mode as u32 & 0o7777,
            )
        })?;
        self.record_name(&parent, &place)?;
        Ok(Answer::Value(0))
    }

    pub(super) fn symlink(&mut self, text: usize, directory: i32, path: usize) -> Outcome {
        let path = self.path(path)?;
        let Some(place) = self.place(directory, &path, false)? else {
            return Ok(Answer::Continue);
        };
        let text = CString::new(self.path(text)?).map_err(|_| Errno::EINVAL)?;
        let parent = self.enter(&place)?;
        // SAFETY: the descriptor is open, text and name are terminated.
        Errno::result(unsafe {
            libc::symlinkat(text.as_ptr(), parent.as_raw_fd(), place.name.as_ptr())
        })?;
        self.record_name(&parent, &place)?;
        Ok(Answer::Value(0))
    }

    pub(super) fn mknod(&mut self, directory: i32, path: usize, mode: u64, device: u64) -> Outcome {
        let mode = mode as u32;
        let node = match mode & libc::S_IFMT {
            // Overlayfs marks removed files so, and the kernel lets everybody.
            libc::S_IFCHR if device == 0 => None,
            kind @ (libc::S_IFCHR | libc::S_IFBLK) => {
                let device = device as u32;
                Some(Node {
                    block: kind == libc::S_IFBLK,
                    // As the kernel takes a number of 32 bits apart.
                    major: device >> 8 & 0xfff,
                    minor: device & 0xff | device >> 12 & 0xfff00,
                })
            }
            _ => None,
        };
        if node.is_some() && !self.credentials()?.privileged() {
            return Err(Errno::EPERM);
        }
        let path = self.path(path)?;
        if node.is_some() && path.ends_with(b"/") {
            return Err(Errno::ENOENT);
        }
        let Some(place) = self.place(directory, &path, node.is_some())? else {
            return Ok(Answer::Continue);
        };
        let parent = self.enter(&place)?;
        if node.is_some() {
            let flags = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_WRONLY;
            let file = open_at(parent.as_raw_fd(), &place.name, flags, mode & 0o7777)?;
            self.record(&statx_of(&file)?, place.uid, place.gid, node);
            return Ok(Answer::Value(0));
        }
        // SAFETY: the descriptor is open, and the name is terminated.
        Errno::result(unsafe {
            libc::mknodat(parent.as_raw_fd(), place.name.as_ptr(), mode, device)
        })?;
        self.record_name(&parent, &place)?;
        Ok(Answer::Value(0))
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn paths_are_split_at_their_last_name() {
        for (path, expected) in [
            ("/a/b", Some(("/a/", "b"))),
            ("a", Some(("", "a"))),
            ("a//b//", Some(("a//", "b"))),
            ("/", None),
            ("", None),
            ("a/..", None),
            (".", None),
        ] {
            let expected = expected.map(|(a, b): (&str, &str)| (a.as_bytes(), b.as_bytes()));
            assert_eq!(split(path.as_bytes()), expected, "{path}");
        }
    }
}
