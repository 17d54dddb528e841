//! Mounts inside the sandbox's own mount namespace.
//!
//! Everything here assumes that the process is root of its user namespace and
//! alone in its mount namespace, so that no mount can reach the host. Mount
//! points in a target are opened below its root without following links and
//! mounted on by descriptor, so a target cannot redirect a mount.
//! See `mount(2)`, `open_tree(2)`, `move_mount(2)`, `mount_setattr(2)`.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, ResolveFlag, fcntl};
use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use nix::sys::stat::Mode;
use nix::sys::statvfs::{FsFlags, fstatvfs};

use super::child::Child;
use super::{Error, below, devices, standin};

const OPEN_TREE_CLONE: libc::c_uint = 1;
const AT_RECURSIVE: libc::c_uint = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;
const MOUNT_ATTR_RDONLY: u64 = 1;

/// `struct mount_attr` of `mount_setattr(2)`.
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "path contains a zero byte"))
}

/// The error of a mount that failed: what it was to be, and where.
pub(super) fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Mount { what, path, source }
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Copies a mount (and what is mounted below it) without attaching it anywhere.
pub fn clone_mount(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let flags = OPEN_TREE_CLONE
        | libc::O_CLOEXEC as libc::c_uint
        | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a valid C string for the duration of the call.
    let fd =
        check(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })?;
    // SAFETY: the kernel just gave us this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// Copies the mount that a directory is in, from the directory down, with what is
/// mounted below it.
pub fn clone_mount_at(directory: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OPEN_TREE_CLONE
        | libc::O_CLOEXEC as libc::c_uint
        | libc::AT_EMPTY_PATH as libc::c_uint
        | AT_RECURSIVE;
    // SAFETY: the descriptor is open and the path an empty C string.
    let fd = check(unsafe {
        libc::syscall(
            libc::SYS_open_tree,
            directory.as_raw_fd(),
            c"".as_ptr(),
            flags,
        )
    })?;
    // SAFETY: the kernel just gave us this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// Attaches a detached mount on the directory or file behind `target`.
pub fn attach(mount: &OwnedFd, target: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both descriptors are open and the paths are empty C strings.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    })
    .map(drop)
}

/// The same on what has a path, of which a final link is not followed; false where the host has
/// taken it away meanwhile, or has put another kind of file there.
pub(super) fn attach_unless_gone(mount: &OwnedFd, path: &Path) -> io::Result<bool> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let place = match nix::fcntl::open(path, flags, nix::sys::stat::Mode::empty()) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(false),
        place => place?,
    };
    match unless_gone(attach(mount, place.as_fd())) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            // Of two kinds of file, which the kernel does not tell from other reasons.
            match is_directory(mount) == is_directory(&place) {
                true => Err(error),
                false => Ok(false),
            }
        }
        done => Ok(done?.is_some()),
    }
}

/// Whether a descriptor is a directory's, without a question to its filesystem.
fn is_directory(file: &OwnedFd) -> bool {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let within = nix::fcntl::openat(file, ".", flags, nix::sys::stat::Mode::empty());
    // There are directories that this process may not look into.
    !matches!(within, Err(Errno::ENOTDIR))
}

/// What was done with a path, and nothing where the host has taken it away meanwhile.
pub(super) fn unless_gone<T>(done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes the mount at a path, or with an empty one that of the descriptor, read-only or
/// writable.
fn set_read_only(
    at: libc::c_int,
    path: &CStr,
    read_only: bool,
    flags: libc::c_uint,
) -> io::Result<()> {
    let mut attr = MountAttr::default();
    if read_only {
        attr.attr_set = MOUNT_ATTR_RDONLY;
    } else {
        attr.attr_clr = MOUNT_ATTR_RDONLY;
    }
    // SAFETY: the path and the structure are valid for the duration of the call
    // and the size given is the structure's.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            at,
            path.as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// Binds `from`, and with `recursive` what is mounted below it, on what `place` is. A single
/// mount that is made read-only so stays it, whatever hooks inside do. Of `/dev` all but
/// terminals and shared memory is bound.
pub fn bind_on(from: &Path, place: &OwnedFd, recursive: bool, read_only: bool) -> io::Result<()> {
    let mut mount = match devices::own_to_all(from)? {
        Some(place) => devices::anew(place)?,
        None => clone_mount(from, recursive)?,
    };
    if read_only {
        // Before it has a path, which could lead elsewhere by then.
        let flags = libc::AT_EMPTY_PATH as libc::c_uint | if recursive { AT_RECURSIVE } else { 0 };
        set_read_only(mount.as_raw_fd(), c"", true, flags)?;
        if !recursive {
            mount = kept_read_only(&mount)?;
        }
    }
    attach(&mount, place.as_fd())
}

/// A read-only mount that is attached nowhere, as one that nobody can make writable.
///
/// That is what the kernel makes of it where it gives mounts to a less privileged user
/// namespace (`mount_namespaces(7)`), and it is kept by copies.
fn kept_read_only(mount: &OwnedFd) -> io::Result<OwnedFd> {
    let kind = nix::sys::stat::fstat(mount)?.st_mode & libc::S_IFMT;
    let place = if kind == libc::S_IFDIR {
        c"/dev"
    } else {
        c"/dev/null"
    };
    let open = || nix::fcntl::open(place, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
    Child::start(|| {
        nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
        attach(mount, open()?.as_fd())?;
        nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
        clone_mount_at(&open()?)
    })?
    .end()
}

/// Makes a mount, and with `recursive` all below it, read-only.
pub fn make_read_only(path: &Path, recursive: bool) -> io::Result<()> {
    let flags = if recursive { AT_RECURSIVE } else { 0 };
    set_read_only(libc::AT_FDCWD, &c_path(path)?, true, flags)
}

/// Makes a single mount writable again.
pub fn make_writable(path: &Path) -> io::Result<()> {
    set_read_only(libc::AT_FDCWD, &c_path(path)?, false, 0)
}

/// A file that is open for reading, opened anew so that nobody who gets it changes the file
/// by `/proc/self/fd/N` or `fchmod(2)`, as root could; at the same place, from which each
/// goes on by itself. `None` where that is not needed, and for a file that was opened in
/// another mount namespace or has no places (some of `/proc`).
pub(super) fn only_to_read(file: BorrowedFd<'_>) -> io::Result<Option<File>> {
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    let is_read = flags & (OFlag::O_ACCMODE | OFlag::O_PATH) == OFlag::O_RDONLY;
    if !is_read || fstatvfs(file)?.flags().contains(FsFlags::ST_RDONLY) {
        return Ok(None);
    }
    let Ok(place) = nix::unistd::lseek(file, 0, nix::unistd::Whence::SeekCur) else {
        return Ok(None);
    };
    let link = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let mount = match clone_mount(&link, false) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(None),
        mount => mount?,
    };
    let empty = libc::AT_EMPTY_PATH as libc::c_uint;
    set_read_only(mount.as_raw_fd(), c"", true, empty)?;
    // Once the mount is closed it is nowhere, so that nobody can make it writable.
    let mut again = File::open(format!("/proc/self/fd/{}", mount.as_raw_fd()))?;
    again.seek(SeekFrom::Start(place.unsigned_abs()))?;
    Ok(Some(again))
}

/// Makes a path a mount point of its own, with what is mounted below it (a less
/// privileged namespace may not take that away).
pub fn bind_to_itself(path: &Path) -> io::Result<()> {
    mount(
        Some(path),
        path,
        None,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None,
    )
}

/// `mount(2)`.
pub fn mount(
    source: Option<&Path>,
    target: &Path,
    kind: Option<&str>,
    flags: MsFlags,
    options: Option<&OsStr>,
) -> io::Result<()> {
    nix::mount::mount(source, target, kind, flags, options).map_err(io::Error::from)
}

/// Takes a mount away from the tree at once; it goes when its last user goes.
pub fn detach(path: &Path) -> io::Result<()> {
    nix::mount::umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
        .map_err(io::Error::from)
}

/// Opens a path below `root` as a place to mount on, never following a link.
pub(super) fn open_below(root: &OwnedFd, path: &str) -> io::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS;
    below::open(root.as_fd(), &CString::new(path)?, OFlag::O_PATH, resolve).map_err(io::Error::from)
}

/// Opens a directory without following a final link.
pub fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    nix::fcntl::open(
        path,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )
    .map_err(io::Error::from)
}

/// `/proc`, `/sys` and `/dev` of a target; taken away when dropped.
#[derive(Debug)]
pub struct TargetApi {
    mounted: Vec<PathBuf>,
    /// In the place of all that where nothing can be mounted.
    _device: Option<standin::Device>,
}

impl Drop for TargetApi {
    fn drop(&mut self) {
        for path in self.mounted.drain(..).rev() {
            if let Err(error) = detach(&path) {
                tracing::warn!("cannot unmount `{}`: {error}", path.display());
            }
        }
    }
}

/// Gives a target root what programs expect: the sandbox's own `/proc`,
/// `/sys` (read-only) and `/dev`, with terminals and shared memory of the target's own.
///
/// The mount points must be directories of the target; links are refused. Where
/// nothing can be mounted, `/dev` is made of nodes and the supervisor answers for
/// the others.
pub fn mount_target_api(root: &Path) -> io::Result<TargetApi> {
    let mut api = TargetApi {
        mounted: Vec::new(),
        _device: None,
    };
    if !standin::mounts_are_possible() {
        api._device = Some(standin::Device::install(root)?);
        return Ok(api);
    }
    let directory = open_directory(root)?;
    for name in ["proc", "sys", "dev"] {
        let target = open_below(&directory, name).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!(
                    "`{}` is not a plain directory: {error}",
                    root.join(name).display()
                ),
            )
        })?;
        let source = match name {
            "dev" => devices::anew(c"/dev")?,
            _ => clone_mount(&Path::new("/").join(name), true)?,
        };
        attach(&source, target.as_fd())?;
        api.mounted.push(root.join(name));
    }
    Ok(api)
}

/// A bind mount on a directory of a target; taken away when dropped.
#[derive(Debug)]
pub struct BindGuard {
    path: PathBuf,
}

impl Drop for BindGuard {
    fn drop(&mut self) {
        if let Err(error) = detach(&self.path) {
            tracing::warn!("cannot unmount `{}`: {error}", self.path.display());
        }
    }
}

/// Binds `from` on `path` below `root`; the mount point must exist and no part
/// of its path may be a link.
fn bind_below(from: &Path, root: &Path, path: &str, read_only: bool) -> io::Result<BindGuard> {
    let directory = open_directory(root)?;
    let target = open_below(&directory, path)?;
    bind_on(from, &target, false, read_only)?;
    Ok(BindGuard {
        path: root.join(path.trim_start_matches('/')),
    })
}

/// Shows the program of this process at `path`, which is made: as it is now, whatever
/// replaces it later.
pub fn show_own_program(path: &Path) -> io::Result<()> {
    if !standin::mounts_are_possible() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let own = fs_err::metadata("/proc/self/exe")?;
    let program = clone_mount(&fs_err::read_link("/proc/self/exe")?, false)?;
    let found = nix::sys::stat::fstat(&program)?;
    // It may be gone from there, or hidden.
    if (found.st_dev, found.st_ino) != (own.dev(), own.ino()) {
        return Err(io::ErrorKind::NotFound.into());
    }
    set_read_only(
        program.as_raw_fd(),
        c"",
        true,
        libc::AT_EMPTY_PATH as libc::c_uint,
    )?;
    let place = fs_err::File::create(path)?;
    attach(&program, place.file().as_fd())
}

/// A directory in a target, under its name there; taken away when dropped.
#[derive(Debug)]
pub struct Shown {
    /// Dropped in this order: what lies on the others first.
    _mounts: Vec<BindGuard>,
    _moved: Option<standin::Moved>,
}

/// Shows `from` read-only at `path` below `root`, but for its directory `writable`.
///
/// Where nothing can be mounted it is moved there, writable, and back.
pub fn show_below(from: &Path, root: &Path, path: &str, writable: &str) -> io::Result<Shown> {
    if !standin::mounts_are_possible() {
        return Ok(Shown {
            _mounts: Vec::new(),
            _moved: Some(standin::Moved::into_root(from, root, path)?),
        });
    }
    let all = bind_below(from, root, path, true)?;
    let part = bind_below(
        &from.join(writable),
        root,
        &format!("{path}/{writable}"),
        false,
    )?;
    Ok(Shown {
        _mounts: vec![part, all],
        _moved: None,
    })
}

/// Quotes a path for overlayfs's option string, where `,` and `:` separate.
fn overlay_path(path: &Path) -> OsString {
    let mut quoted = Vec::new();
    for &byte in path.as_os_str().as_bytes() {
        if matches!(byte, b'\\' | b',' | b':') {
            quoted.push(b'\\');
        }
        quoted.push(byte);
    }
    OsString::from_vec(quoted)
}

fn overlay_options(lower: &[&Path], upper: &Path, work: &Path, extra: &str) -> OsString {
    let mut options = OsString::from("lowerdir=");
    for (position, path) in lower.iter().enumerate() {
        if position > 0 {
            options.push(":");
        }
        options.push(overlay_path(path));
    }
    options.push(",upperdir=");
    options.push(overlay_path(upper));
    options.push(",workdir=");
    options.push(overlay_path(work));
    options.push(extra);
    options
}

/// Mounts an overlay at `target`, `lower` from top to bottom. `upper` and `work`
/// must exist on one filesystem. Fails with the kernel's error where overlayfs
/// is not to be had, so that the caller can copy instead.
pub fn mount_overlay(lower: &[&Path], upper: &Path, work: &Path, target: &Path) -> io::Result<()> {
    // In a user namespace overlayfs keeps its marks in `user.` attributes.
    // `volatile` (Linux 5.10) spares syncs of a tree that is thrown away if
    // anything goes wrong.
    let mut last = io::Error::from(io::ErrorKind::Unsupported);
    for extra in [",userxattr,volatile", ",userxattr"] {
        let options = overlay_options(lower, upper, work, extra);
        match mount(
            Some(Path::new("overlay")),
            target,
            Some("overlay"),
            MsFlags::empty(),
            Some(&options),
        ) {
            Ok(()) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Every mount point at or below `path`, deepest last, from `/proc/self/mountinfo`.
pub fn mounts_below(path: &Path) -> io::Result<Vec<PathBuf>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(parse_mountinfo(&text)
        .into_iter()
        .filter(|point| point.starts_with(path))
        .collect())
}

/// Mount points of a `mountinfo` table, in its order. See `proc_pid_mountinfo(5)`.
fn parse_mountinfo(text: &[u8]) -> Vec<PathBuf> {
    text.split(|&b| b == b'\n')
        .filter_map(|line| line.split(|&b| b == b' ').nth(4))
        .map(|field| PathBuf::from(OsString::from_vec(unescape(field))))
        .collect()
}

/// Undoes the kernel's `\040` notation.
pub(super) fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail
            .get(..3)
            .filter(|d| d.iter().all(|b| (b'0'..=b'7').contains(b)));
        match (byte, digits) {
            (b'\\', Some(&[a, b, c])) => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = &tail[3..];
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlay_options_quote_separators() {
        let options = overlay_options(
            &[Path::new("/a:b"), Path::new("/c,d")],
            Path::new("/u\\p"),
            Path::new("/w"),
            ",userxattr",
        );
        assert_eq!(
            options,
            OsStr::new(r"lowerdir=/a\:b:/c\,d,upperdir=/u\\p,workdir=/w,userxattr")
        );
    }

    #[test]
    fn mount_points_with_odd_names_are_read_back() {
        let text = b"1 0 8:1 / / rw - ext4 /dev/x rw\n2 1 0:5 / /a\\040b\\134c rw - tmpfs t rw\n";
        assert_eq!(
            parse_mountinfo(text),
            [PathBuf::from("/"), PathBuf::from("/a b\\c")]
        );
        assert_eq!(unescape(b"a\\9b\\04"), b"a\\9b\\04");
    }
}
