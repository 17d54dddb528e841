//! Where a path leads that is not in a root which has no `/proc`, `/sys` and devices: which
//! file of the sandbox stands for it, and who may open that.

use std::ffi::CString;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;

use super::Call;
use super::files::{self, Target, c_string, open_at};
use super::listing::without_mark;
use super::place::{Place, place, suspicious};
use super::walk::read_link_of;

/// What a process has in memory and open: the kernel lets everybody read it by its mode, and
/// guards it by other means. Where it sees mounts, which are told to nobody here.
const GUARDED: [&[u8]; 7] = [
    b"maps",
    b"smaps",
    b"smaps_rollup",
    b"numa_maps",
    b"fdinfo",
    b"mounts",
    b"mountinfo",
];
/// Directories of what a process has: who may not look into it is not told their entries.
const PRIVATE: [&[u8]; 3] = [b"fd", b"fdinfo", b"map_files"];

/// Whether everybody may read a file below `/proc`.
fn is_for_everybody(rest: &[u8], file: &OwnedFd) -> Result<bool, Errno> {
    let mut names = rest.split(|&byte| byte == b'/');
    let guarded = names.any(|name| GUARDED.contains(&name));
    let mode = u32::from(files::statx_of(file)?.stx_mode);
    Ok(!guarded && mode & libc::S_IROTH != 0)
}

/// Whether a path below `/proc` leads to the tables and switches of a network, which each
/// process has (`net`) and none owns.
fn is_of_network(rest: &[u8]) -> bool {
    let names: Vec<&[u8]> = rest.split(|&byte| byte == b'/').collect();
    matches!(names[..], [_, b"net", ..] | [_, b"task", _, b"net", ..])
}

impl Call<'_> {
    /// Where a path leads, unless that is in the target or the process has the
    /// sandbox's own root.
    pub(super) fn leads_to(&mut self, directory: i32, path: &[u8]) -> Result<Option<Place>, Errno> {
        let absolute = path.first() == Some(&b'/');
        if absolute && place(path).is_none() {
            return Ok(None);
        }
        if path.is_empty() || !self.enters_other_root()? {
            return Ok(None);
        }
        let full = if absolute {
            path.to_vec()
        } else {
            let from = if directory == libc::AT_FDCWD {
                "cwd".to_owned()
            } else {
                format!("fd/{directory}")
            };
            // As it looks from the root that this thread now has.
            let Ok(start) = self.read_link(&format!("{}/{from}", self.pid)) else {
                return Ok(None);
            };
            [without_mark(&start), path].join(&b'/')
        };
        let Some(place) = place(&full) else {
            return Ok(None);
        };
        let here = |path: &str| -> Option<libc::statx> {
            let path = CString::new(path).ok()?;
            files::statx(libc::AT_FDCWD, &path, libc::AT_SYMLINK_NOFOLLOW, 0).ok()
        };
        let kind = |found: &libc::statx| u32::from(found.stx_mode) & libc::S_IFMT;
        Ok(match place {
            // A node of the target is as good as the sandbox's.
            Place::Device(name) => here(&format!("/dev/{name}"))
                .is_none_or(|found| kind(&found) != libc::S_IFCHR)
                .then_some(place),
            Place::Mtab => here("/etc/mtab")
                .filter(|found| kind(found) == libc::S_IFLNK)
                .and_then(|_| nix::fcntl::readlink("/etc/mtab").ok())
                .filter(|text| text.as_encoded_bytes().ends_with(b"mounts"))
                .map(|_| place),
            place => Some(place),
        })
    }

    pub(super) fn enters_other_root(&mut self) -> Result<bool, Errno> {
        let roots = &self.listener.roots;
        self.worker.view.enter_other_root(self.pid, roots)
    }

    pub(super) fn read_link(&self, path: &str) -> Result<Vec<u8>, Errno> {
        let text = nix::fcntl::readlinkat(self.worker.view.proc(), path)?;
        Ok(text.into_encoded_bytes())
    }

    /// The number of the asking process, whose thread asks.
    pub(super) fn process(&self) -> Result<u32, Errno> {
        self.worker.view.group(self.pid)
    }

    /// The file of a place. What is in directories of processes may be a link to
    /// anywhere, so it is looked for as from the asking process.
    pub(super) fn target_of(&self, place: &Place, follow: bool) -> Result<Target, Errno> {
        let view = &self.worker.view;
        let own = self.worker.shared.own_files.as_ref().ok_or(Errno::ENOENT)?;
        let (directory, path): (RawFd, Vec<u8>) = match place {
            Place::Proc(rest) => {
                let mut above = rest.rsplit(|&byte| byte == b'/').skip(1);
                if above.any(|name| PRIVATE.contains(&name)) && !self.may_look_into(rest)? {
                    return Err(Errno::EACCES);
                }
                let proc = view.proc().try_clone().map_err(|_| Errno::EMFILE)?;
                return view
                    .walk(self.pid, Some(proc), rest, follow)
                    .map(Target::File);
            }
            Place::Link(rest) => {
                return self.target_of(&Place::Proc(rest.as_bytes().to_vec()), follow);
            }
            // Its type and mode are what matters.
            Place::Mounts(_) | Place::Mtab => return view.of_process(self.pid, "mounts"),
            Place::Root => (own.root.as_raw_fd(), b".".to_vec()),
            Place::Sys(rest) => {
                let sys = own.sys.as_ref().ok_or(Errno::ENOENT)?;
                let rest = if rest.is_empty() { b"." } else { &rest[..] };
                (sys.as_raw_fd(), rest.to_vec())
            }
            Place::Device(name) => (own.dev.as_raw_fd(), name.as_bytes().to_vec()),
        };
        Ok(Target::Name {
            directory,
            path: c_string(path)?,
            follow,
        })
    }

    /// Whether a path may be one of those for which own files stand.
    pub(super) fn leads_elsewhere(&self, path: &[u8]) -> bool {
        let is_relative = path.first().is_some_and(|&byte| byte != b'/');
        self.worker.shared.own_files.is_some()
            && (suspicious(path) || is_relative && self.some_are_away())
    }

    /// The file that a path leads to if that is below a `/proc` which the target lacks.
    pub(super) fn target_of_proc(
        &mut self,
        directory: i32,
        path: &[u8],
        follow: bool,
    ) -> Result<Option<Target>, Errno> {
        if !self.leads_elsewhere(path) {
            return Ok(None);
        }
        match self.leads_to(directory, path)? {
            // Not followed, it is a link of the target.
            Some(Place::Link(_)) if !follow => Ok(None),
            Some(place @ (Place::Proc(_) | Place::Link(_))) => {
                self.target_of(&place, follow).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Fails if a file below `/proc` is one of another process's that the asking one may
    /// not open, whatever led there.
    pub(super) fn require_open(&self, file: &OwnedFd, writes: bool) -> Result<(), Errno> {
        // The kernel's name for it, which starts from the root of all mounts.
        let text = read_link_of(self.worker.view.proc(), file)?;
        let Some(Place::Proc(rest)) = place(&text) else {
            return Err(Errno::EACCES);
        };
        // Switches of the running kernel, whatever led there: a link to what is open for
        // reading leads there too.
        let is_of_process = rest.first().is_some_and(u8::is_ascii_digit);
        if writes && (!is_of_process || is_of_network(&rest)) {
            return Err(Errno::EROFS);
        }
        let everybody = !writes && is_for_everybody(&rest, file)?;
        if everybody || self.may_look_into(&rest)? {
            return Ok(());
        }
        Err(Errno::EACCES)
    }

    /// Whether what is at a path below `/proc` is not of a process, or of one into which
    /// the asking process may look.
    pub(super) fn may_look_into(&self, rest: &[u8]) -> Result<bool, Errno> {
        let first = rest.split(|&byte| byte == b'/').next().unwrap_or_default();
        if !first.first().is_some_and(u8::is_ascii_digit) {
            return Ok(true);
        }
        let view = &self.worker.view;
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let process = open_at(view.proc().as_raw_fd(), &c_string(first)?, flags, 0)?;
        view.may_look(self.pid, &process)
    }
}

/// Files of the sandbox itself that stand for those that a target lacks.
#[derive(Debug)]
pub struct OwnFiles {
    /// None in a container without.
    sys: Option<OwnedFd>,
    dev: OwnedFd,
    root: OwnedFd,
    making: Mutex<()>,
    /// A program has, or had, a working directory that stands for another.
    pub(super) away: AtomicBool,
}

impl OwnFiles {
    /// Only one worker at a time makes directories that stand for others.
    pub(super) fn making(&self) -> MutexGuard<'_, ()> {
        self.making.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens them; must be called before any root is changed.
    pub fn open() -> Result<OwnFiles, Errno> {
        let directory = |path: &std::ffi::CStr| -> Result<OwnedFd, Errno> {
            open_at(libc::AT_FDCWD, path, libc::O_PATH | libc::O_DIRECTORY, 0)
        };
        Ok(OwnFiles {
            sys: directory(c"/sys").ok(),
            dev: directory(c"/dev")?,
            root: directory(c"/")?,
            making: Mutex::default(),
            away: AtomicBool::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::is_of_network;

    #[test]
    fn tables_of_the_network_are_each_processs() {
        for (rest, expected) in [
            (&b"7/net/tcp"[..], true),
            (b"7/net", true),
            (b"7/task/8/net/rpc/flush", true),
            (b"7/task/8/comm", false),
            (b"7/oom_score_adj", false),
            (b"uptime", false),
        ] {
            assert_eq!(is_of_network(rest), expected, "{}", rest.escape_ascii());
        }
    }
}
