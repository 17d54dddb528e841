//! Directories of `/proc` and `/sys` for programs that are held by their root directory
//! alone.
//!
//! A real one in the hands of a program would be a way out: `..` leads up from it to the root
//! directory of the sandbox. So what a program gets is an empty directory of its own target,
//! made at the same path and removed at once, so that nobody meets it and no image has it.
//! The kernel still tells where it was (`/proc/7/fd (deleted)`), by which it is known here
//! for what it stands: its entries, and what is at paths that start from it, are those of the
//! real one. A program that makes a directory of such a name itself gains nothing that it
//! would not have by `/proc/7/fd`.

use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::unistd::{UnlinkatFlags, Whence};

use super::files::{Target, c_string, open_at};
use super::narrow::{self, Filesystem};
use super::place::{Place, place};
use super::walk::{read_link_of, require_told};
use super::{Answer, Call, Outcome};

/// How the kernel marks the name of a removed file (`proc_pid_fd(5)`).
pub(super) const REMOVED: &[u8] = b" (deleted)";
/// Entries are told in so many bytes at most, as many as the C library asks for.
const MOST_ENTRIES: u64 = 32 << 10;

/// How entries of a directory are told, of those that the kernel tells here.
type Told = fn(&[u8]) -> Result<Vec<u8>, Errno>;

/// The path that a file has or had.
pub(super) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_suffix(REMOVED).unwrap_or(text)
}

/// An empty directory at a path, of which what was not there is removed again. Nobody else
/// may do the same meanwhile.
fn make_and_remove(root: &OwnedFd, names: &[&[u8]]) -> Result<OwnedFd, Errno> {
    let Some((first, rest)) = names.split_first() else {
        return root.try_clone().map_err(|_| Errno::EMFILE);
    };
    let name = c_string(*first)?;
    // SAFETY: the name is terminated and lives across the call.
    let made = unsafe { libc::mkdirat(root.as_raw_fd(), name.as_ptr(), 0o755) };
    let is_new = match Errno::result(made) {
        Ok(_) => true,
        Err(Errno::EEXIST) => false,
        Err(errno) => return Err(errno),
    };
    // Not a link: it is the target's.
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let found = open_at(root.as_raw_fd(), &name, flags, 0)
        .and_then(|directory| make_and_remove(&directory, rest));
    if is_new {
        nix::unistd::unlinkat(root, name.as_c_str(), UnlinkatFlags::RemoveDir)?;
    }
    found
}

impl Call<'_> {
    /// What a program gets in the place of a directory of `/proc` or `/sys`.
    pub(super) fn stand_in(&self, directory: &OwnedFd) -> Result<OwnedFd, Errno> {
        let text = read_link_of(self.worker.view.proc(), directory)?;
        if !matches!(place(&text), Some(Place::Proc(_) | Place::Sys(_))) {
            return Err(Errno::EACCES);
        }
        let names: Vec<&[u8]> = text.split(|&byte| byte == b'/').skip(1).collect();
        let own = self.worker.shared.own_files.as_ref().ok_or(Errno::ENOENT)?;
        let root = open_at(libc::AT_FDCWD, c"/", libc::O_PATH | libc::O_DIRECTORY, 0)?;
        let _alone = own.making();
        make_and_remove(&root, &names)
    }

    /// The directory of `/proc` or `/sys` for which a descriptor of a program stands.
    pub(super) fn stands_for(&mut self, descriptor: i32) -> Result<Option<Place>, Errno> {
        if !self.is_confined()? {
            return Ok(None);
        }
        let Ok(text) = self.read_link(&format!("{}/fd/{descriptor}", self.pid)) else {
            // What is none the kernel refuses.
            return Ok(None);
        };
        let found = place(without_mark(&text));
        Ok(found.filter(|place| matches!(place, Place::Proc(_) | Place::Sys(_))))
    }

    /// The same for what a look at it found, which most are seen by not to be any.
    pub(super) fn stands_for_other(
        &mut self,
        descriptor: Option<i32>,
        found: &libc::statx,
    ) -> Result<Option<Place>, Errno> {
        let kind = u32::from(found.stx_mode) & libc::S_IFMT;
        match descriptor {
            Some(descriptor) if kind == libc::S_IFDIR => self.stands_for(descriptor),
            _ => Ok(None),
        }
    }

    /// `getdents64` and `getdents`, which are `number` here too.
    pub(super) fn list(&mut self, number: libc::c_long) -> Outcome {
        self.list_as(number, |entries| Ok(entries.to_vec()))
    }

    /// `getdents` of 32-bit x86.
    pub(super) fn list_narrow(&mut self) -> Outcome {
        self.list_as(libc::SYS_getdents64, narrow::entries)
    }

    fn list_as(&mut self, number: libc::c_long, told: Told) -> Outcome {
        let descriptor = self.int(0);
        let Some(place) = self.stands_for(descriptor)? else {
            return Ok(Answer::Continue);
        };
        // One of the target may have been moved to such a name.
        place.is_kept(true)?;
        let found = self.target_of(&place, true)?.into_file()?;
        match place {
            Place::Proc(_) => self.require_open(&found, false)?,
            _ => require_told(&found)?,
        }
        let real = Target::File(found).reopen(libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
        // How far it was read, the program's own descriptor knows.
        let (position, close_on_exec) = self.worker.view.progress(self.pid, descriptor)?;
        nix::unistd::lseek(&real, position, Whence::SeekSet)?;
        let room = u64::from(self.word(2)).min(MOST_ENTRIES);
        let mut entries = vec![0_u8; room as usize];
        // SAFETY: the kernel writes at most as many bytes as the buffer has.
        let count = Errno::result(unsafe {
            libc::syscall(
                number,
                real.as_raw_fd(),
                entries.as_mut_ptr(),
                entries.len(),
            )
        })?;
        let read = entries.get(..count.unsigned_abs() as usize);
        let entries = told(read.unwrap_or_default())?;
        self.write(self.arguments[1], &entries)?;
        let next = nix::unistd::lseek(&real, 0, Whence::SeekCur)?;
        if next != position {
            // One of the same directory, at that place. Nobody can move another's.
            let path = format!("fd/{descriptor}");
            let moved = self.worker.view.of_process(self.pid, &path)?;
            let moved = moved.reopen(libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
            nix::unistd::lseek(&moved, next, Whence::SeekSet)?;
            self.listener
                .replace(self.id, descriptor, &moved, close_on_exec)?;
        }
        Ok(Answer::Value(entries.len() as i64))
    }

    /// `fstatfs`.
    pub(super) fn statfs_descriptor(&mut self, kind: Filesystem) -> Outcome {
        match self.stands_for(self.int(0))? {
            Some(place) => self.statfs_place(&place, 1, kind),
            None => Ok(Answer::Continue),
        }
    }
}
