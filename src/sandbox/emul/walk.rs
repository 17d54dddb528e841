//! Where a name leads that a process gave: never out of the root of that process.
//!
//! The engine has that root while it looks, so absolute links and `..` stop where they
//! do for the process. Links of `/proc` know no root, though (`root`, `cwd`, `exe`,
//! `fd/N` and `ns/X` of a process, "magic links" in `symlink(7)`): they lead to
//! wherever that process is, the kernel asks whether *the engine* may look at it, and
//! `/proc/self` is the engine. So the kernel is told to refuse them, and a path that
//! meets one is walked here, name by name, with these rules:
//!
//! - `/proc/self` and `/proc/thread-self` are the process and task that gave the name;
//! - magic links are followed where they are its own, or those of a process with the
//!   same root that is none of kiln's;
//! - any other is refused with `EACCES`, as the kernel refuses it to the process.
//!
//! What was found is held open, so later changes of a name reach nothing.
//! See `openat2(2)` and `proc_pid_fd(5)`.

use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;

use super::files::{by_descriptor, c_string, open_at, open_how, statx, statx_of};
use super::roots::RootId;
use super::status::{Status, status_number, status_of};
use super::tracee::{View, names_self};

/// `RESOLVE_NO_MAGICLINKS`, from `linux/openat2.h`.
pub(super) const NO_MAGIC_LINKS: u64 = 0x02;
/// Links that are followed at most (`MAXSYMLINKS`).
pub(super) const MOST_LINKS: usize = 40;
/// The root directory of each `/proc` (`PROC_ROOT_INO`).
const PROC_ROOT: u64 = 1;
/// From a process's directories of links up to `/proc` it is this far at most.
const PROC_DEPTH: usize = 6;
/// Directories of a process, or of a task, that have magic links.
const LINK_DIRECTORIES: [&str; 2] = ["fd", "ns"];

/// Where a link of `/proc` leads.
enum Leads {
    Along(Vec<u8>),
    To(OwnedFd),
}

/// The names of a path, the last one first. What ends with a slash is a directory.
fn names(path: &[u8]) -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = path
        .split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty())
        .map(<[u8]>::to_vec)
        .collect();
    if path.ends_with(b"/") {
        names.push(b".".to_vec());
    }
    names.reverse();
    names
}

fn is_link(found: &libc::statx) -> bool {
    u32::from(found.stx_mode) & libc::S_IFMT == libc::S_IFLNK
}

pub(super) fn same_file(one: &libc::statx, other: &libc::statx) -> bool {
    let id = |found: &libc::statx| (found.stx_dev_major, found.stx_dev_minor, found.stx_ino);
    id(one) == id(other)
}

/// The text of a link that is open.
pub(super) fn read_link(link: &OwnedFd) -> Result<Vec<u8>, Errno> {
    Ok(nix::fcntl::readlinkat(link, c"")?.into_encoded_bytes())
}

/// The kernel's name for an open file, as from the root directory of this thread.
/// `proc` is `/proc` of this process's PID namespace.
pub(super) fn read_link_of(proc: &OwnedFd, file: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let name = by_descriptor(file)?;
    Ok(nix::fcntl::readlinkat(proc, name.as_c_str())?.into_encoded_bytes())
}

fn open_directory(from: &OwnedFd, name: &std::ffi::CStr) -> Result<OwnedFd, Errno> {
    open_at(from.as_raw_fd(), name, libc::O_PATH | libc::O_DIRECTORY, 0)
}

/// Whether a file is one of a `/proc`.
pub(super) fn is_of_proc(file: &OwnedFd) -> Result<bool, Errno> {
    Ok(filesystem_of(file)? == i128::from(libc::PROC_SUPER_MAGIC))
}

/// Whether a file is one of a `/proc`, a `/sys` or of control groups.
pub(super) fn is_kernels(file: &OwnedFd) -> Result<bool, Errno> {
    const MAGICS: [libc::c_long; 4] = [
        libc::PROC_SUPER_MAGIC as _,
        libc::SYSFS_MAGIC as _,
        libc::CGROUP_SUPER_MAGIC as _,
        libc::CGROUP2_SUPER_MAGIC as _,
    ];
    let magic = filesystem_of(file)?;
    Ok(MAGICS.into_iter().any(|known| magic == i128::from(known)))
}

/// Fails for a file below `/sys` that is not of those which programs read there. What is
/// mounted below tells root what the machine does (`debugfs`, `tracefs`, `pstore`), but for
/// labels.
pub(super) fn require_told(file: &OwnedFd) -> Result<(), Errno> {
    /// `SELINUX_MAGIC`, from `linux/magic.h`.
    const LABELS: i128 = 0xf97c_ff8c;
    if is_kernels(file)? || filesystem_of(file)? == LABELS {
        return Ok(());
    }
    Err(Errno::EACCES)
}

/// Whether a file is a pipe with a name (`fifo(7)`).
pub(super) fn is_named_pipe(file: &OwnedFd) -> Result<bool, Errno> {
    /// `PIPEFS_MAGIC`, from `linux/magic.h`: of those without.
    const PIPES: i128 = 0x5049_5045;
    let kind = u32::from(statx_of(file)?.stx_mode) & libc::S_IFMT;
    Ok(kind == libc::S_IFIFO && filesystem_of(file)? != PIPES)
}

/// Whether a file is on a filesystem that gives the same number to several files of one mount:
/// one in each subvolume.
pub(super) fn has_several_numberings(file: &OwnedFd) -> Result<bool, Errno> {
    /// `BTRFS_SUPER_MAGIC` and `BCACHEFS_STATFS_MAGIC`.
    const MAGICS: [i128; 2] = [0x9123_683e, 0xca45_1a4e];
    Ok(MAGICS.contains(&filesystem_of(file)?))
}

pub(super) fn filesystem_of(file: &OwnedFd) -> Result<i128, Errno> {
    // SAFETY: integers, for which zeroes are a valid value.
    let mut filesystem: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, and the kernel fills the structure.
    Errno::result(unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut filesystem) })?;
    Ok(i128::from(filesystem.f_type))
}

impl View {
    /// Opens what a path leads to as a mere name. The root of the process must be this
    /// thread's ([`View::enter_root`]); a relative path needs a start.
    pub(super) fn resolve(
        &self,
        pid: u32,
        start: Option<OwnedFd>,
        path: &[u8],
        follow: bool,
    ) -> Result<OwnedFd, Errno> {
        let nofollow = if follow { 0 } else { libc::O_NOFOLLOW };
        let directory = start.as_ref().map_or(libc::AT_FDCWD, OwnedFd::as_raw_fd);
        // The kernel would take the engine for this one.
        if !names_self(path) {
            let flags = libc::O_PATH | nofollow;
            match open_how(directory, &c_string(path)?, flags, 0, NO_MAGIC_LINKS) {
                // The last two come from a container's filter that does not know the call.
                Err(Errno::ELOOP | Errno::ENOSYS | Errno::EPERM) => {}
                // A link may have led to `/proc/self`, where the engine lacks what the
                // process has.
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                result => return result,
            }
        }
        self.walk(pid, start, path, follow)
    }

    /// The same, name by name.
    pub(super) fn walk(
        &self,
        pid: u32,
        start: Option<OwnedFd>,
        path: &[u8],
        follow: bool,
    ) -> Result<OwnedFd, Errno> {
        let root = || open_at(libc::AT_FDCWD, c"/", libc::O_PATH | libc::O_DIRECTORY, 0);
        let mut here = match start {
            Some(start) if path.first() != Some(&b'/') => start,
            _ => root()?,
        };
        let mut ahead = names(path);
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            let is_last = ahead.is_empty();
            let name = c_string(name)?;
            if matches!(name.to_bytes(), b"." | b"..") {
                here = open_directory(&here, &name)?;
                continue;
            }
            let flags = libc::O_PATH | libc::O_NOFOLLOW;
            let next = open_at(here.as_raw_fd(), &name, flags, 0)?;
            if !is_link(&statx_of(&next)?) || is_last && !follow {
                here = next;
                continue;
            }
            links += 1;
            if links > MOST_LINKS {
                return Err(Errno::ELOOP);
            }
            let text = if is_of_proc(&next)? {
                match self.link_of_proc(pid, &here, name.to_bytes(), &next)? {
                    Leads::To(file) => {
                        here = file;
                        continue;
                    }
                    Leads::Along(text) => text,
                }
            } else {
                read_link(&next)?
            };
            if text.is_empty() {
                return Err(Errno::ENOENT);
            }
            if text.starts_with(b"/") {
                here = root()?;
            }
            ahead.extend(names(&text));
        }
        Ok(here)
    }

    /// Where a link leads to the process `pid` that is in a directory of some `/proc`.
    fn link_of_proc(
        &self,
        pid: u32,
        directory: &OwnedFd,
        name: &[u8],
        link: &OwnedFd,
    ) -> Result<Leads, Errno> {
        if statx_of(directory)?.stx_ino == PROC_ROOT {
            let text = match name {
                b"self" | b"thread-self" if !self.numbers_are_ours(directory)? => {
                    return Err(Errno::EACCES);
                }
                b"self" => self.group(pid)?.to_string().into_bytes(),
                b"thread-self" => format!("{}/task/{pid}", self.group(pid)?).into_bytes(),
                _ => read_link(link)?,
            };
            return Ok(Leads::Along(text));
        }
        let (process, path) = self.process_of(directory, name)?;
        if !self.may_look(pid, &process)? {
            return Err(Errno::EACCES);
        }
        open_at(process.as_raw_fd(), &c_string(path)?, libc::O_PATH, 0).map(Leads::To)
    }

    /// The process or task that has a magic link, as a directory of the sandbox's own
    /// `/proc`, and the link's path from there. A program may mount what it likes on
    /// the `/proc` that it sees, so of that only a number is taken.
    fn process_of(&self, directory: &OwnedFd, name: &[u8]) -> Result<(OwnedFd, Vec<u8>), Errno> {
        let (above, path) = if matches!(name, b"root" | b"cwd" | b"exe") {
            (None, name.to_vec())
        } else {
            let above = open_directory(directory, c"..")?;
            let this = statx_of(directory)?;
            let part = LINK_DIRECTORIES.into_iter().find(|part| {
                let Ok(part) = c_string(part.as_bytes()) else {
                    return false;
                };
                let nofollow = libc::AT_SYMLINK_NOFOLLOW;
                statx(above.as_raw_fd(), &part, nofollow, 0)
                    .is_ok_and(|found| same_file(&found, &this))
            });
            let part = part.ok_or(Errno::EACCES)?;
            (Some(above), [part.as_bytes(), name].join(&b'/'))
        };
        let owner = above.as_ref().unwrap_or(directory);
        if !is_of_proc(owner)? || !self.numbers_are_ours(owner)? {
            return Err(Errno::EACCES);
        }
        let flags = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let status = open_at(owner.as_raw_fd(), c"status", flags, 0)?;
        let number = status_number(&status_of(&status)?, "Pid:").ok_or(Errno::EACCES)?;
        let process = open_directory(self.proc(), &c_string(number.to_string())?)?;
        Ok((process, path))
    }

    /// Whether a `/proc` numbers processes as the sandbox's own does: it is the same,
    /// or the engine has the same number in both.
    fn numbers_are_ours(&self, directory: &OwnedFd) -> Result<bool, Errno> {
        let device = |found: &libc::statx| (found.stx_dev_major, found.stx_dev_minor);
        if device(&statx_of(directory)?) == device(&statx_of(self.proc())?) {
            return Ok(true);
        }
        let mut here = open_directory(directory, c".")?;
        for _ in 0..PROC_DEPTH {
            if !is_of_proc(&here)? {
                break;
            }
            if statx_of(&here)?.stx_ino == PROC_ROOT {
                let own = nix::fcntl::readlinkat(&here, c"self");
                let number = std::process::id().to_string();
                return Ok(own.is_ok_and(|own| own.as_encoded_bytes() == number.as_bytes()));
            }
            here = open_directory(&here, c"..")?;
        }
        Ok(false)
    }

    /// Whether the process `pid` may look into one whose directory in the sandbox's
    /// `/proc` is open: it is its own, or a program with the same root. Who has more
    /// capabilities than it, as who is about to be such a program, is closed to it for the
    /// kernel too (`ptrace(2)`).
    pub(super) fn may_look(&self, pid: u32, process: &OwnedFd) -> Result<bool, Errno> {
        let text = open_at(process.as_raw_fd(), c"status", libc::O_RDONLY, 0)?;
        let text = status_of(&text)?;
        let group = status_number(&text, "Tgid:").ok_or(Errno::ESRCH)?;
        if group == self.group(pid)? {
            return Ok(true);
        }
        let permitted = Status::parse(&text).ok_or(Errno::ESRCH)?.permitted;
        if permitted & !self.status(pid)?.permitted != 0 {
            return Ok(false);
        }
        let look = |path, more| statx(process.as_raw_fd(), path, 0, more);
        // Kernel threads have neither.
        let (Ok(root), Ok(program)) = (look(c"root", libc::STATX_MNT_ID), look(c"exe", 0)) else {
            return Ok(false);
        };
        let kiln = statx(self.proc().as_raw_fd(), c"self/exe", 0, 0)?;
        Ok(RootId::of(&root) == self.root() && !same_file(&program, &kiln))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart_from_the_end() {
        for (path, expected) in [
            ("/a//b", vec!["b", "a"]),
            ("a/../b/", vec![".", "b", "..", "a"]),
            ("/", vec!["."]),
            ("", vec![]),
        ] {
            let found = names(path.as_bytes());
            let found: Vec<_> = found
                .iter()
                .map(|name| String::from_utf8_lossy(name).into_owned())
                .collect();
            assert_eq!(found, expected, "{path}");
        }
    }
}
