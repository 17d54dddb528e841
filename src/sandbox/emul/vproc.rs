//! `/proc`, `/sys` and devices for a root that has none, because nothing can be
//! mounted: paths that lead there are answered from the sandbox's own.
//!
//! Paths are recognised by their text ([`place`](mod@super::place)), and what stands for them
//! is found by [`reach`](mod@super::reach). A file that a program opens below `/proc` is the
//! real thing, so from there on the kernel does all; a directory is not
//! ([`listing`](mod@super::listing)). `/proc/self` is the asking
//! process. The mount table is made up, because the real one tells of the host.
//!
//! Not there: opening a link there as a mere name (`O_PATH`), and terminals of its own.

use std::ffi::CString;
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use nix::errno::Errno;

use super::calls::{Handler, Names, Trap, go_on};
use super::change::Times;
use super::create::split;
use super::cwd::told_of_link;
use super::files::{Target, by_descriptor, c_string, open_at};
use super::layout::Layout;
use super::narrow::Filesystem;
use super::place::{Place, mount_table};
use super::walk::{is_kernels, is_of_proc, read_link, require_told};
use super::{Answer, Call, Outcome, bytes_of, files, memory};
use crate::sandbox::xattr::{self, On};

/// What a call wants of a file. What it says of arguments are those that follow the
/// path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    /// Flags and mode.
    Open,
    /// `struct open_how` and its size.
    OpenHow,
    /// A buffer; whether a last link is followed.
    Stat(bool, Layout),
    /// A buffer and flags.
    StatAt(Layout),
    /// Flags, a mask and a buffer.
    Statx,
    /// A mode, and whether flags come then.
    Access(bool),
    /// A buffer and its size.
    ReadLink,
    /// A buffer; for a structure with a size of its own, that comes first.
    StatFs(Filesystem),
    /// It becomes the working directory.
    Enter,
    /// It is run; where the flags are, if there are any.
    Execute(Option<usize>),
    /// What is done to extended attributes; whether a last link is followed.
    Attribute(Attribute, bool),
    /// A mode; where the flags are, if there are any.
    Mode(Option<usize>),
    /// Two times, and flags.
    Times(Times),
    /// A directory, a second path there, which becomes another name, and flags.
    Link,
}

/// What is done to extended attributes, with the arguments of `getxattr(2)` and its
/// siblings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attribute {
    Get,
    Set,
    List,
    Remove,
}

/// A file with a given content that can only be read.
fn file_of(content: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
    let memory = nix::sys::memfd::memfd_create(c"mounts", flags)?;
    let mut file = std::fs::File::from(memory);
    file.write_all(content).map_err(|_| Errno::ENOMEM)?;
    // Workers stay in `/proc`.
    let path = CString::new(format!("self/fd/{}", file.as_raw_fd())).map_err(|_| Errno::EINVAL)?;
    open_at(libc::AT_FDCWD, &path, libc::O_RDONLY, 0)
}

impl Call<'_> {
    /// Answers a call about a file that is not in the target, or has it answered as where
    /// names are not answered for.
    pub(super) fn named(&mut self, names: Names, trap: &Trap) -> Outcome {
        // The filter hands it over with other arguments only for its names.
        let otherwise = if trap.when.holds(&self.arguments) {
            trap.handler
        } else {
            go_on
        };
        let argument = names.path;
        let Ok(path) = memory::read_path(self.pid, self.arguments[argument]) else {
            // No path, or one that the kernel refuses in its own way.
            return otherwise(self);
        };
        let directory = (names.directory).map_or(libc::AT_FDCWD, |directory| self.int(directory));
        // A descriptor may stand for a directory elsewhere.
        let starts = directory >= 0 && !path.is_empty() && path[0] != b'/';
        let found = if starts || self.leads_elsewhere(&path) {
            self.leads_to(directory, &path)?
        } else {
            None
        };
        self.read_path = Some((argument, path));
        match found {
            Some(place) => self.at_place(&place, names.verb, argument, otherwise),
            None => otherwise(self),
        }
    }

    fn at_place(
        &mut self,
        place: &Place,
        verb: Verb,
        argument: usize,
        otherwise: Handler,
    ) -> Outcome {
        let next = argument + 1;
        let itself = self.means_link(verb, next);
        // Links to there are the target's own.
        let place = &match place {
            Place::Link(_) | Place::Mtab if itself => return Ok(Answer::Continue),
            // It is only there to be compared.
            Place::Root
                if !matches!(
                    verb,
                    Verb::Stat(..)
                        | Verb::StatAt(_)
                        | Verb::Statx
                        | Verb::StatFs(_)
                        | Verb::Access(_)
                        | Verb::ReadLink
                ) =>
            {
                return Err(Errno::EACCES);
            }
            Place::Root if itself => Place::Proc(b"1/root".to_vec()),
            Place::Link(rest) => Place::Proc(rest.as_bytes().to_vec()),
            other => other.clone(),
        };
        place.is_kept(matches!(verb, Verb::Open | Verb::OpenHow | Verb::Enter))?;
        match verb {
            Verb::Open => self.open_place(place, self.int(next), self.word(next + 1)),
            Verb::OpenHow => {
                let how = memory::read(self.pid, self.arguments[next], 16)?;
                let (words, _) = how.as_chunks::<8>();
                let flags = u64::from_ne_bytes(words[0]);
                let mode = u64::from_ne_bytes(words[1]);
                self.open_place(place, flags as i32, mode as u32)
            }
            Verb::Stat(_, layout) | Verb::StatAt(layout) => {
                self.stat_place(place, !itself, next, layout)
            }
            Verb::Statx => self.statx_place(place, !itself),
            Verb::Access(_) => self.access_place(place, !itself, self.int(next)),
            Verb::ReadLink => self.read_place(place, next),
            Verb::StatFs(kind) => self.statfs_place(place, next, kind),
            Verb::Enter => self.enter_place(place),
            Verb::Execute(flags) => self.execute_place(place, argument, flags),
            Verb::Attribute(what, follow) => {
                // What is recorded comes first.
                match otherwise(self) {
                    Ok(Answer::Continue) | Err(Errno::ENOENT) => {
                        self.attribute_place(place, what, follow)
                    }
                    outcome => outcome,
                }
            }
            // An empty file of the target stands for a device.
            Verb::Mode(_) | Verb::Times(_) | Verb::Link if matches!(place, Place::Device(_)) => {
                otherwise(self)
            }
            Verb::Mode(_) => {
                let file = self.changeable_at(place, !itself)?;
                self.set_mode(&file, self.word(next) & 0o7777)
            }
            Verb::Times(times) => {
                let file = self.changeable_at(place, !itself)?;
                self.set_times(&file, next, times)
            }
            // A link of `/proc`, which is on another filesystem.
            Verb::Link if itself => Err(Errno::EXDEV),
            Verb::Link => self.link_place(place, next),
        }
    }

    /// Whether a call means a last link and not what it leads to.
    fn means_link(&self, verb: Verb, next: usize) -> bool {
        let not_followed = |argument| self.int(argument) & libc::AT_SYMLINK_NOFOLLOW != 0;
        match verb {
            Verb::Open => self.int(next) & libc::O_NOFOLLOW != 0,
            Verb::Stat(follow, _) | Verb::Attribute(_, follow) => !follow,
            Verb::StatAt(_) | Verb::Access(true) | Verb::Times(_) => not_followed(next + 1),
            Verb::Statx => not_followed(next),
            Verb::ReadLink => true,
            Verb::Mode(flags) => flags.is_some_and(not_followed),
            Verb::Link => self.int(next + 2) & libc::AT_SYMLINK_FOLLOW == 0,
            Verb::OpenHow
            | Verb::Access(false)
            | Verb::StatFs(_)
            | Verb::Enter
            | Verb::Execute(_) => false,
        }
    }

    fn access_place(&mut self, place: &Place, follow: bool, mode: i32) -> Outcome {
        let file = self.target_of(place, follow)?.into_file()?;
        let path = by_descriptor(&file)?;
        // SAFETY: the path is terminated and lives across the call.
        Errno::result(unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), mode, 0) })?;
        Ok(Answer::Value(0))
    }

    /// The arguments from `next` on are those behind what is asked about.
    pub(super) fn statfs_place(&mut self, place: &Place, next: usize, kind: Filesystem) -> Outcome {
        if kind.size().is_some_and(|size| self.arguments[next] != size) {
            return Err(Errno::EINVAL);
        }
        let file = self.target_of(place, true)?.into_file()?;
        let mut found = std::mem::MaybeUninit::<libc::statfs>::zeroed();
        // SAFETY: the descriptor is open, and `found` has room for the structure.
        Errno::result(unsafe { libc::fstatfs(file.as_raw_fd(), found.as_mut_ptr()) })?;
        // SAFETY: zeroes are a valid value, now overwritten by the kernel.
        let found = unsafe { found.assume_init() };
        let bytes = kind.bytes(bytes_of(&found))?;
        self.write(self.arguments[next + kind.between()], &bytes)?;
        Ok(Answer::Value(0))
    }

    /// Gives what a link leads to another name; `next` is the argument with the
    /// directory for it.
    fn link_place(&mut self, place: &Place, next: usize) -> Outcome {
        let old = self.target_of(place, true)?.into_file()?;
        self.require_place(&old)?;
        let old_path = by_descriptor(&old)?;
        let path = self.path(next + 1)?;
        let (parent, name) = split(&path).ok_or(Errno::EEXIST)?;
        let name = c_string(name)?;
        let new = self.target(self.int(next), parent, true)?.into_file()?;
        self.still_there()?;
        self.fenced(|| {
            // SAFETY: the paths are terminated and live across the call.
            Errno::result(unsafe {
                libc::linkat(
                    libc::AT_FDCWD,
                    old_path.as_ptr(),
                    new.as_raw_fd(),
                    name.as_ptr(),
                    libc::AT_SYMLINK_FOLLOW,
                )
            })
        })?;
        Ok(Answer::Value(0))
    }

    fn open_place(&mut self, place: &Place, flags: i32, mode: u32) -> Outcome {
        let writes = flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0;
        if writes && matches!(place, Place::Mounts(_) | Place::Mtab | Place::Sys(_)) {
            return Err(Errno::EROFS);
        }
        let close_on_exec = flags & libc::O_CLOEXEC != 0;
        if let Place::Mounts(_) | Place::Mtab = place {
            return Ok(Answer::Descriptor {
                file: file_of(mount_table(*place == Place::Mounts(true)))?,
                close_on_exec,
            });
        }
        // A descriptor that is a mere name cannot be handed over. Nothing is made
        // there, and no terminal becomes this process's own.
        let dropped = libc::O_PATH | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC;
        let flags = flags & !dropped | libc::O_NOCTTY;
        let mode = mode & 0o7777;
        let target = self.target_of(place, flags & libc::O_NOFOLLOW == 0)?;
        let file = match place {
            Place::Proc(rest) => {
                let found = target.into_file()?;
                if is_of_proc(&found)? {
                    self.require_open(&found, writes)?;
                    self.open_of_kernel(found, flags, mode)?
                } else if writes && is_kernels(&found)? {
                    return Err(Errno::EROFS);
                } else {
                    self.open_fenced(found, rest, (flags, mode))?
                }
            }
            Place::Sys(_) => {
                let found = target.into_file()?;
                require_told(&found)?;
                self.open_of_kernel(found, flags, mode)?
            }
            _ => target.reopen(flags, mode)?,
        };
        self.still_there()?;
        Ok(Answer::Descriptor {
            file,
            close_on_exec,
        })
    }

    /// Opens a file of `/proc` or `/sys`, or what stands for a directory there.
    fn open_of_kernel(&self, found: OwnedFd, flags: i32, mode: u32) -> Result<OwnedFd, Errno> {
        let kind = u32::from(files::statx_of(&found)?.stx_mode) & libc::S_IFMT;
        if kind != libc::S_IFDIR {
            return Target::File(found).reopen(flags, mode);
        }
        if flags & (libc::O_ACCMODE | libc::O_TRUNC) != libc::O_RDONLY {
            return Err(Errno::EISDIR);
        }
        self.stand_in(&found)
    }

    pub(super) fn stat_place(
        &mut self,
        place: &Place,
        follow: bool,
        buffer: usize,
        layout: Layout,
    ) -> Outcome {
        let target = self.target_of(place, follow)?;
        let mut found = target.statx(libc::STATX_BASIC_STATS)?;
        self.correct(&mut found);
        let bytes = layout.bytes(&found).ok_or(Errno::EOVERFLOW)?;
        self.write(self.arguments[buffer], &bytes)?;
        Ok(Answer::Value(0))
    }

    /// Of `statx`, whose last two arguments are a mask and a buffer.
    pub(super) fn statx_place(&mut self, place: &Place, follow: bool) -> Outcome {
        let mut found = self.target_of(place, follow)?.statx(self.word(3))?;
        self.correct(&mut found);
        self.write(self.arguments[4], bytes_of(&found))?;
        Ok(Answer::Value(0))
    }

    /// Makes the call about attributes as the asking process would have.
    fn attribute_place(&mut self, place: &Place, what: Attribute, follow: bool) -> Outcome {
        let Place::Proc(_) = place else {
            return Err(Errno::EOPNOTSUPP);
        };
        let file = match what {
            Attribute::Get | Attribute::List => self.target_of(place, follow)?.into_file()?,
            Attribute::Set | Attribute::Remove => self.changeable_at(place, follow)?,
        };
        let path = by_descriptor(&file)?;
        let on = On::Path(&path);
        let name = match what {
            Attribute::List => c"".to_owned(),
            _ => c_string(memory::read_string(self.pid, self.arguments[1], 256)?)?,
        };
        let (buffer, size) = match what {
            Attribute::List => (1, 2),
            _ => (2, 3),
        };
        let room = usize::try_from(self.arguments[size]).unwrap_or(usize::MAX);
        let mut bytes = match what {
            Attribute::Set if room > xattr::LARGEST => return Err(Errno::E2BIG),
            Attribute::Set => memory::read(self.pid, self.arguments[buffer], room)?,
            Attribute::Remove => Vec::new(),
            Attribute::Get | Attribute::List => vec![0; room.min(xattr::LARGEST)],
        };
        self.still_there()?;
        let count = match what {
            Attribute::Get => xattr::get(on, &name, &mut bytes)?,
            Attribute::List => xattr::list(on, &mut bytes)?,
            Attribute::Set => {
                xattr::set(on, &name, &bytes, self.int(4))?;
                0
            }
            Attribute::Remove => {
                xattr::remove(on, &name)?;
                0
            }
        };
        // Where there is no room the size alone was asked for.
        if let Attribute::Get | Attribute::List = what
            && let Some(found) = bytes.get(..count)
        {
            self.write(self.arguments[buffer], found)?;
        }
        Ok(Answer::Value(count as i64))
    }

    fn read_place(&mut self, place: &Place, buffer: usize) -> Outcome {
        let text = match place {
            Place::Proc(rest) if rest == b"self" => self.process()?.to_string().into_bytes(),
            Place::Proc(rest) if rest == b"thread-self" => {
                format!("{}/task/{}", self.process()?, self.pid).into_bytes()
            }
            Place::Proc(rest) if rest != b"1/root" && !self.may_look_into(rest)? => {
                return Err(Errno::EACCES);
            }
            _ => told_of_link(read_link(&self.target_of(place, false)?.into_file()?)?),
        };
        let room = usize::try_from(self.int(buffer + 1))
            .ok()
            .filter(|&room| room > 0)
            .ok_or(Errno::EINVAL)?;
        let text = &text[..text.len().min(room)];
        self.write(self.arguments[buffer], text)?;
        Ok(Answer::Value(text.len() as i64))
    }

    /// Lets a program run that is named below `/proc`, such as `/proc/self/exe`: the
    /// path in the caller's memory becomes that of a short link in the target.
    fn execute_place(&mut self, place: &Place, argument: usize, flags: Option<usize>) -> Outcome {
        let found = self.target_of(place, true)?.statx(0)?;
        let text = read_link(&self.target_of(place, false)?.into_file()?)?;
        let here = files::statx(libc::AT_FDCWD, &c_string(text.clone())?, 0, 0)?;
        if (here.stx_ino, here.stx_dev_major, here.stx_dev_minor)
            != (found.stx_ino, found.stx_dev_major, found.stx_dev_minor)
        {
            return Err(Errno::ENOENT);
        }
        let old = self.path(argument)?;
        let new = if text.len() <= old.len() {
            text
        } else {
            let temporary = self.target(libc::AT_FDCWD, b"/tmp", true)?.into_file()?;
            short_link(&temporary, &text, old.len())?
        };
        let mut bytes = new.clone();
        bytes.push(0);
        self.still_there()?;
        memory::overwrite(
            self.pid,
            self.worker.view.proc(),
            self.arguments[argument],
            &bytes,
        )?;
        self.read_path = Some((argument, new));
        // The new path is absolute.
        let flags = flags.map_or(0, |flags| self.int(flags));
        self.execute(libc::AT_FDCWD, argument, flags)
    }
}

/// A link to `text` in the `/tmp` of a target, which no image has, whose path has at most
/// `room` bytes.
fn short_link(directory: &OwnedFd, text: &[u8], room: usize) -> Result<Vec<u8>, Errno> {
    for number in 0..1000 {
        let name = format!(".{number}");
        let path = format!("/tmp/{name}");
        if path.len() > room {
            break;
        }
        let made =
            nix::unistd::symlinkat(std::ffi::OsStr::from_bytes(text), directory, name.as_str());
        let same = || {
            nix::fcntl::readlinkat(directory, name.as_str())
                .is_ok_and(|link| link.as_encoded_bytes() == text)
        };
        if made.is_ok() || same() {
            return Ok(path.into_bytes());
        }
    }
    Err(Errno::ENOENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_mounts_is_a_file_that_can_be_read() {
        // Workers have `/proc` as their directory.
        let text = std::thread::spawn(|| {
            crate::sandbox::root::own_context(|| {
                std::env::set_current_dir("/proc").expect("it is there");
                let mut text = String::new();
                let file = file_of(mount_table(false)).expect("made");
                std::io::Read::read_to_string(&mut std::fs::File::from(file), &mut text)
                    .expect("read");
                text
            })
        });
        let text = text.join().expect("it ends").expect("it starts");
        assert!(text.starts_with("rootfs / rootfs"), "{text}");
    }
}
