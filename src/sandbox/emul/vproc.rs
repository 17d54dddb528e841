//! `/proc`, `/sys` and devices for a root that has none, because nothing can be
//! mounted: paths that lead there are answered from the sandbox's own.
//!
//! Paths are recognised by their text ([`place`](mod@super::place)). What a program opens below `/proc` is the
//! real thing, so from there on the kernel does all. `/proc/self` is the asking
//! process. The mount table is made up, because the real one tells of the host.
//!
//! Not there: a working directory in `/proc` or `/sys`, paths that lead up from a directory
//! there ([`confine`](mod@super::confine)), opening a link there as a mere name (`O_PATH`),
//! and terminals of its own.

use std::ffi::CString;
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;

use nix::errno::Errno;

use super::create::split;
use super::files::{Target, by_descriptor, open_at};
use super::layout::Layout;
use super::place::{Place, mount_table, place, suspicious};
use super::table::Handler;
use super::walk::{is_of_proc, read_link, read_link_of};
use super::{Answer, Call, Outcome, bytes_of, files, memory};
use crate::sandbox::bpf::CREATING;

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
    /// A buffer.
    StatFs,
    /// It is run; where the flags are, if there are any.
    Execute(Option<usize>),
    /// What is done to extended attributes; whether a last link is followed.
    Attribute(Attribute, bool),
    /// A mode; where the flags are, if there are any.
    Mode(Option<usize>),
    /// Two times, and flags.
    Times,
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

/// Largest value, and largest list of names (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const ATTRIBUTE_MAX: usize = 65536;

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

fn c_string(bytes: impl Into<Vec<u8>>) -> Result<CString, Errno> {
    CString::new(bytes).map_err(|_| Errno::EINVAL)
}

/// Whether everybody may read a file below `/proc`. Those that tell of a process's
/// memory have such a mode too, and are guarded by other means.
fn is_for_everybody(rest: &[u8], file: &OwnedFd) -> Result<bool, Errno> {
    let last = rest.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let guarded = [&b"maps"[..], b"smaps", b"smaps_rollup", b"numa_maps"].contains(&last);
    let mode = u32::from(files::statx_of(file)?.stx_mode);
    Ok(!guarded && mode & libc::S_IROTH != 0)
}

/// The kernel makes the call.
pub(super) fn go_on(_: &mut Call<'_>) -> Outcome {
    Ok(Answer::Continue)
}

impl Call<'_> {
    /// Answers a call about a file that is not in the target, or hands it on. Paths
    /// start at the directory in an argument, if there is one.
    pub(super) fn named(
        &mut self,
        verb: Verb,
        directory: Option<usize>,
        argument: usize,
        otherwise: Handler,
    ) -> Outcome {
        let Ok(path) = memory::read_path(self.pid, self.arguments[argument]) else {
            // No path, or one that the kernel refuses in its own way.
            return otherwise(self);
        };
        let directory = directory.map_or(libc::AT_FDCWD, |directory| self.int(directory));
        self.require_staying(directory, &path)?;
        let found = if suspicious(&path) {
            self.leads_to(directory, &path)?
        } else {
            None
        };
        self.read_path = Some((argument, path));
        match found {
            Some(place) => self.at_place(&place, verb, argument, otherwise),
            None => otherwise(self),
        }
    }

    /// `open`, of which only what makes files matters otherwise.
    pub(super) fn named_open(
        &mut self,
        directory: Option<usize>,
        argument: usize,
        otherwise: Handler,
    ) -> Outcome {
        let makes = self.word(argument + 1) & CREATING != 0;
        let otherwise = if makes { otherwise } else { go_on };
        self.named(Verb::Open, directory, argument, otherwise)
    }

    /// Where a path leads, unless that is in the target or the process has the
    /// sandbox's own root.
    fn leads_to(&mut self, directory: i32, path: &[u8]) -> Result<Option<Place>, Errno> {
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
            let Ok(mut full) = self.read_link(&format!("{}/{from}", self.pid)) else {
                return Ok(None);
            };
            full.push(b'/');
            full.extend_from_slice(path);
            full
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

    fn read_link(&self, path: &str) -> Result<Vec<u8>, Errno> {
        let text = nix::fcntl::readlinkat(self.worker.view.proc(), path)?;
        Ok(text.into_encoded_bytes())
    }

    /// The number of the asking process, whose thread asks.
    fn process(&self) -> Result<u32, Errno> {
        self.worker.view.group(self.pid)
    }

    /// The file of a place. What is in directories of processes may be a link to
    /// anywhere, so it is looked for as from the asking process.
    pub(super) fn target_of(&self, place: &Place, follow: bool) -> Result<Target, Errno> {
        let view = &self.worker.view;
        let own = self.worker.shared.own_files.as_ref().ok_or(Errno::ENOENT)?;
        let (directory, path): (RawFd, Vec<u8>) = match place {
            Place::Proc(rest) => {
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
            Place::Sys(rest) if rest.is_empty() => (own.sys.as_raw_fd(), b".".to_vec()),
            Place::Sys(rest) => (own.sys.as_raw_fd(), rest.clone()),
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
        self.worker.shared.own_files.is_some() && suspicious(path)
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
    fn require_open(&self, file: &OwnedFd, writes: bool) -> Result<(), Errno> {
        // The kernel's name for it, which starts from the root of all mounts.
        let text = read_link_of(self.worker.view.proc(), file)?;
        let Some(Place::Proc(rest)) = place(&text) else {
            return Err(Errno::EACCES);
        };
        let everybody = !writes && is_for_everybody(&rest, file)?;
        if everybody || self.may_look_into(&rest)? {
            return Ok(());
        }
        Err(Errno::EACCES)
    }

    /// Whether what is at a path below `/proc` is not of a process, or of one into which
    /// the asking process may look.
    fn may_look_into(&self, rest: &[u8]) -> Result<bool, Errno> {
        let first = rest.split(|&byte| byte == b'/').next().unwrap_or_default();
        if !first.first().is_some_and(u8::is_ascii_digit) {
            return Ok(true);
        }
        let view = &self.worker.view;
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let process = open_at(view.proc().as_raw_fd(), &c_string(first)?, flags, 0)?;
        view.may_look(self.pid, &process)
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
                        | Verb::StatFs
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
            Verb::Statx => {
                let mut found = self.target_of(place, !itself)?.statx(self.word(next + 1))?;
                self.correct(&mut found);
                self.write(self.arguments[next + 2], bytes_of(&found))?;
                Ok(Answer::Value(0))
            }
            Verb::Access(_) => self.access_place(place, !itself, self.int(next)),
            Verb::ReadLink => self.read_place(place, next),
            Verb::StatFs => self.statfs_place(place, next),
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
            Verb::Mode(_) | Verb::Times | Verb::Link if matches!(place, Place::Device(_)) => {
                otherwise(self)
            }
            Verb::Mode(_) => {
                let file = self.changeable_at(place, !itself)?;
                self.set_mode(&file, self.word(next) & 0o7777)
            }
            Verb::Times => {
                let file = self.changeable_at(place, !itself)?;
                self.set_times(&file, next)
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
            Verb::StatAt(_) | Verb::Access(true) | Verb::Times => not_followed(next + 1),
            Verb::Statx => not_followed(next),
            Verb::ReadLink => true,
            Verb::Mode(flags) => flags.is_some_and(not_followed),
            Verb::Link => self.int(next + 2) & libc::AT_SYMLINK_FOLLOW == 0,
            Verb::OpenHow | Verb::Access(false) | Verb::StatFs | Verb::Execute(_) => false,
        }
    }

    fn access_place(&mut self, place: &Place, follow: bool, mode: i32) -> Outcome {
        let file = self.target_of(place, follow)?.into_file()?;
        let path = by_descriptor(&file)?;
        // SAFETY: the path is terminated and lives across the call.
        Errno::result(unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), mode, 0) })?;
        Ok(Answer::Value(0))
    }

    fn statfs_place(&mut self, place: &Place, buffer: usize) -> Outcome {
        let file = self.target_of(place, true)?.into_file()?;
        let mut found = std::mem::MaybeUninit::<libc::statfs>::zeroed();
        // SAFETY: the descriptor is open, and `found` has room for the structure.
        Errno::result(unsafe { libc::fstatfs(file.as_raw_fd(), found.as_mut_ptr()) })?;
        // SAFETY: zeroes are a valid value, now overwritten by the kernel.
        let found = unsafe { found.assume_init() };
        self.write(self.arguments[buffer], bytes_of(&found))?;
        Ok(Answer::Value(0))
    }

    /// Gives what a link leads to another name; `next` is the argument with the
    /// directory for it.
    fn link_place(&mut self, place: &Place, next: usize) -> Outcome {
        let old = self.target_of(place, true)?.into_file()?;
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
        let of_a_process = |rest: &[u8]| {
            rest.starts_with(b"self")
                || rest.starts_with(b"thread-self")
                || rest.first().is_some_and(u8::is_ascii_digit)
        };
        match place {
            Place::Mounts(_) | Place::Mtab | Place::Sys(_) if writes => return Err(Errno::EROFS),
            // Switches of the running kernel.
            Place::Proc(rest) if writes && !of_a_process(rest) => return Err(Errno::EROFS),
            _ => {}
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
        let file = if let Place::Proc(rest) = place {
            let found = target.into_file()?;
            if is_of_proc(&found)? {
                self.require_open(&found, writes)?;
                Target::File(found).reopen(flags, mode)?
            } else {
                self.open_fenced(found, rest, (flags, mode))?
            }
        } else {
            target.reopen(flags, mode)?
        };
        self.still_there()?;
        Ok(Answer::Descriptor {
            file,
            close_on_exec,
        })
    }

    fn stat_place(
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

    /// Makes the call about attributes as the asking process would have.
    fn attribute_place(&mut self, place: &Place, what: Attribute, follow: bool) -> Outcome {
        let Place::Proc(_) = place else {
            return Err(Errno::EOPNOTSUPP);
        };
        let file = self.target_of(place, follow)?.into_file()?;
        let named = by_descriptor(&file)?;
        let path = named.as_ptr();
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
            Attribute::Set if room > ATTRIBUTE_MAX => return Err(Errno::E2BIG),
            Attribute::Set => memory::read(self.pid, self.arguments[buffer], room)?,
            Attribute::Remove => Vec::new(),
            Attribute::Get | Attribute::List => vec![0; room.min(ATTRIBUTE_MAX)],
        };
        self.still_there()?;
        let (start, length) = (bytes.as_mut_ptr(), bytes.len());
        let flags = self.int(4);
        // SAFETY: paths and names are terminated; pointer and length describe `bytes`.
        let result = unsafe {
            match what {
                Attribute::Get => libc::getxattr(path, name.as_ptr(), start.cast(), length),
                Attribute::List => libc::listxattr(path, start.cast(), length),
                Attribute::Set => {
                    libc::setxattr(path, name.as_ptr(), start.cast(), length, flags) as isize
                }
                Attribute::Remove => libc::removexattr(path, name.as_ptr()) as isize,
            }
        };
        let count = Errno::result(result)?;
        if let Attribute::Get | Attribute::List = what
            && let Some(found) = bytes.get(..count.unsigned_abs())
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
            _ => read_link(&self.target_of(place, false)?.into_file()?)?,
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

/// Files of the sandbox itself that stand for those that a target lacks.
#[derive(Debug)]
pub struct OwnFiles {
    sys: OwnedFd,
    dev: OwnedFd,
    root: OwnedFd,
}

impl OwnFiles {
    pub(super) fn sys(&self) -> &OwnedFd {
        &self.sys
    }

    /// Opens them; must be called before any root is changed.
    pub fn open() -> Result<OwnFiles, Errno> {
        let directory = |path: &std::ffi::CStr| -> Result<OwnedFd, Errno> {
            open_at(libc::AT_FDCWD, path, libc::O_PATH | libc::O_DIRECTORY, 0)
        };
        Ok(OwnFiles {
            sys: directory(c"/sys").or_else(|_| directory(c"/proc"))?,
            dev: directory(c"/dev")?,
            root: directory(c"/")?,
        })
    }
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
