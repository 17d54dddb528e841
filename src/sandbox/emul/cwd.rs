//! Working directories below `/proc` and `/sys` of programs that are held by their root
//! directory alone.
//!
//! They too are empty directories of the target that stand for others
//! ([`listing`](super::listing)). Only the program itself changes its working directory, and
//! it finds one by its name: so where it looks there is one for a moment, and a link to there
//! where the name is another (`/proc/self`). Both are removed once it has gone there. Paths
//! that start from such a directory are known by what the kernel tells of it, as those that
//! start from a descriptor are.

use std::ffi::CString;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::UnlinkatFlags;

use super::files::{c_string, open_at, statx_of};
use super::listing::{REMOVED, without_mark};
use super::place::{Place, place};
use super::walk::{is_kernels, read_link_of, same_file};
use super::{Answer, Call, Outcome};

/// How long a program is given to go to a directory that was made for it. Most are there at
/// once; one that was stopped, or went elsewhere, is told that there is none.
const PATIENCE: Duration = Duration::from_millis(50);

/// The same for one that has no processor meanwhile, or may have gone elsewhere long ago.
const MOST: Duration = Duration::from_secs(10);

/// How long it is looked for without a pause: about what a program needs that has a processor.
const AT_ONCE: Duration = Duration::from_millis(1);

/// The pause after that.
const PAUSE: Duration = Duration::from_micros(200);

/// What was made for a moment: directories, and the names in them.
#[derive(Default)]
struct Made(Vec<(OwnedFd, CString, UnlinkatFlags)>);

impl Drop for Made {
    fn drop(&mut self) {
        for (directory, name, flags) in self.0.iter().rev() {
            let _ = nix::unistd::unlinkat(directory, name.as_c_str(), *flags);
        }
    }
}

impl Made {
    /// The directory at a path, of which what is missing is made. No part is a link.
    fn directory(&mut self, root: &OwnedFd, names: &[&[u8]]) -> Result<OwnedFd, Errno> {
        let mut here = root.try_clone().map_err(|_| Errno::EMFILE)?;
        for name in names {
            let name = c_string(*name)?;
            // SAFETY: the name is terminated and lives across the call.
            let made = unsafe { libc::mkdirat(here.as_raw_fd(), name.as_ptr(), 0o755) };
            let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
            let next = open_at(here.as_raw_fd(), &name, flags, 0);
            match Errno::result(made) {
                Ok(_) => self.0.push((here, name, UnlinkatFlags::RemoveDir)),
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno),
            }
            here = next?;
        }
        Ok(here)
    }

    /// A link at a path.
    fn link(&mut self, root: &OwnedFd, names: &[&[u8]], text: &[u8]) -> Result<(), Errno> {
        let Some((name, above)) = names.split_last() else {
            return Ok(());
        };
        let directory = self.directory(root, above)?;
        let (name, text) = (c_string(*name)?, c_string(text)?);
        nix::unistd::symlinkat(text.as_c_str(), &directory, name.as_c_str())?;
        let flags = UnlinkatFlags::NoRemoveDir;
        self.0.push((directory, name, flags));
        Ok(())
    }
}

fn names(path: &[u8]) -> Vec<&[u8]> {
    path.split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty())
        .collect()
}

impl Call<'_> {
    /// Whether a program may have a working directory that stands for another.
    pub(super) fn some_are_away(&self) -> bool {
        let own = self.worker.shared.own_files.as_ref();
        own.is_some_and(|own| own.away.load(Ordering::Relaxed))
    }

    fn note_away(&self) {
        if let Some(own) = &self.worker.shared.own_files {
            own.away.store(true, Ordering::Relaxed);
        }
    }

    /// `fchdir`. What stands for another directory is one of the target.
    pub(super) fn change_directory(&mut self) -> Outcome {
        if self.stands_for(self.int(0))?.is_some() {
            self.note_away();
        }
        Ok(Answer::Continue)
    }

    /// `chdir` to a directory that is not in the target.
    pub(super) fn enter_place(&mut self, place: &Place) -> Outcome {
        let (Place::Proc(rest) | Place::Sys(rest)) = place else {
            return Ok(Answer::Continue);
        };
        let top: &[u8] = match place {
            Place::Proc(_) => b"/proc/",
            _ => b"/sys/",
        };
        let walked = [top, rest].concat();
        let found = self.target_of(place, true)?.into_file()?;
        if u32::from(statx_of(&found)?.stx_mode) & libc::S_IFMT != libc::S_IFDIR {
            return Err(Errno::ENOTDIR);
        }
        self.note_away();
        let path = self.path(0)?;
        let is_relative = path.first() != Some(&b'/');
        if is_relative
            && self
                .read_link(&format!("{}/cwd", self.pid))?
                .ends_with(REMOVED)
        {
            // Up from there the kernel finds what it is in. Nothing can be made in it.
            let goes_up = names(&path)
                .iter()
                .all(|name| matches!(*name, b"." | b".."));
            return if goes_up {
                Ok(Answer::Continue)
            } else {
                Err(Errno::ENOENT)
            };
        }
        let text = read_link_of(self.worker.view.proc(), &found)?;
        // A link that leads to what stands for a directory, or to one of the target.
        let text = without_mark(&text).to_vec();
        let stands = is_kernels(&found)? || place_is_away(&text);
        let root = open_at(libc::AT_FDCWD, c"/", libc::O_PATH | libc::O_DIRECTORY, 0)?;
        let own = self.worker.shared.own_files.as_ref().ok_or(Errno::ENOENT)?;
        let _alone = own.making();
        let mut made = Made::default();
        let there = if stands {
            made.directory(&root, &names(&text))?
        } else {
            found
        };
        if names(&walked) != names(&text) {
            made.link(&root, &names(&walked), &text)?;
        }
        self.listener.go_on(self.id)?;
        let there = statx_of(&there)?;
        self.wait_until_in(&there)?;
        Ok(Answer::Continue)
    }

    /// Waits until the calling program has gone to a directory, or will not.
    fn wait_until_in(&self, directory: &libc::statx) -> Result<(), Errno> {
        let start = Instant::now();
        loop {
            let here = self.worker.view.of_process(self.pid, "cwd")?.statx(0);
            let waited = start.elapsed();
            let is_there = here.map_or(true, |here| same_file(&here, directory));
            let is_late = || waited > MOST || !self.worker.view.is_runnable(self.pid);
            if is_there || waited > PATIENCE && is_late() {
                return Ok(());
            }
            if waited < AT_ONCE {
                std::thread::yield_now();
            } else {
                std::thread::sleep(PAUSE);
            }
        }
    }

    /// `getcwd`, to which the kernel says of a directory without a name that there is none.
    pub(super) fn working_directory(&mut self) -> Outcome {
        if !self.some_are_away() || !self.is_confined()? {
            return Ok(Answer::Continue);
        }
        let mut text = self.read_link(&format!("{}/cwd", self.pid))?;
        let length = without_mark(&text).len();
        if length == text.len() || !place_is_away(&text[..length]) {
            return Ok(Answer::Continue);
        }
        text.truncate(length);
        text.push(0);
        if self.arguments[1] < text.len() as u64 {
            return Err(Errno::ERANGE);
        }
        self.write(self.arguments[0], &text)?;
        Ok(Answer::Value(text.len() as i64))
    }
}

/// The text of a link of `/proc` that leads to what stands for a directory: what it would be.
pub(super) fn told_of_link(mut text: Vec<u8>) -> Vec<u8> {
    let length = without_mark(&text).len();
    if place_is_away(&text[..length]) {
        text.truncate(length);
    }
    text
}

/// Whether a path leads to `/proc` or `/sys`.
fn place_is_away(path: &[u8]) -> bool {
    matches!(place(path), Some(Place::Proc(_) | Place::Sys(_)))
}
