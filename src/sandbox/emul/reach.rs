//! Which processes a program may look into below `/proc`, where the supervisor opens
//! that for it.
//!
//! The kernel would judge by what the supervisor may, and that may look into itself:
//! its root directory, its files, its memory. So a program gets what belongs to a
//! process with its own root directory, whatever links lead there.

use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use super::Call;
use super::place::{Place, place};
use super::tracee::{Target, open_at, own_links};
use super::vproc::c_string;

/// How many links to `/proc` may lie in a path.
pub(super) const LINKS: usize = 8;

/// What everybody may know of any process.
const PUBLIC: [&[u8]; 8] = [
    b"", b"stat", b"statm", b"status", b"cmdline", b"comm", b"cgroup", b"sched",
];

impl Call<'_> {
    /// A file below `/proc`, unless it belongs to a process that the asking one has no
    /// business with.
    pub(super) fn in_proc(
        &self,
        path: Vec<u8>,
        follow: bool,
        links: usize,
    ) -> Result<Target, Errno> {
        let view = &self.worker.view;
        let proc = view.proc().as_raw_fd();
        let (process, more) = match path.iter().position(|&byte| byte == b'/') {
            Some(end) => (&path[..end], &path[end + 1..]),
            None => (&path[..], &b""[..]),
        };
        if !process.iter().all(u8::is_ascii_digit) {
            return Ok(Target::trusted(proc, c_string(path)?, follow));
        }
        if !PUBLIC.contains(&more) && (view.is_own(process) || !view.shares_root(process)) {
            return Err(Errno::EACCES);
        }
        // Where a link leads that is not the last name: it may be to `/proc` again.
        let (link, rest) = path.split_at(own_links(&path));
        let Some(start) = rest.iter().position(|&byte| byte != b'/') else {
            return Ok(Target::trusted(proc, c_string(path)?, follow));
        };
        if link == process {
            return Ok(Target::trusted(proc, c_string(path)?, follow));
        }
        let directory = open_at(proc, &c_string(link)?, libc::O_PATH, 0)?;
        let rest = &rest[start..];
        let Some(text) = self.path_in_proc(&directory)? else {
            return Ok(Target::below(directory, c_string(rest)?, follow));
        };
        match place(&[&text, &b"/"[..], rest].concat()) {
            Some(place) if links > 0 => self.target_within(&place, follow, links - 1),
            Some(_) => Err(Errno::ELOOP),
            None => Err(Errno::EACCES),
        }
    }

    /// The path of an open file that is in `/proc`, with that.
    fn path_in_proc(&self, file: &OwnedFd) -> Result<Option<Vec<u8>>, Errno> {
        if fstatfs(file)?.filesystem_type() != PROC_SUPER_MAGIC {
            return Ok(None);
        }
        let text = self.read_link(&format!("self/fd/{}", file.as_raw_fd()))?;
        // Of another root than this thread's.
        let text = text.strip_prefix(b"(unreachable)").unwrap_or(&text);
        Ok(Some(text.to_vec()))
    }

    /// Fails if what was opened is another process's that [`Call::in_proc`] would have
    /// refused by its path: a descriptor may stand for it.
    pub(super) fn must_be_allowed(&self, file: &OwnedFd) -> Result<(), Errno> {
        let Some(text) = self.path_in_proc(file)? else {
            return Ok(());
        };
        match place(&text) {
            Some(Place::Proc(rest)) => self.in_proc(rest, true, 0).map(drop),
            _ => Ok(()),
        }
    }
}
