//! Paths that do not lead out of a directory, resolved by the kernel, or name by name for a
//! program of a hook: hooks have no `openat2(2)`, since its mode is in memory, where no filter
//! sees set-id bits.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstat};

/// How many links a path may lead through, as for the kernel.
const MOST_LINKS: usize = 40;

/// Opens a path below a directory: `resolve` has `RESOLVE_IN_ROOT` or `RESOLVE_BENEATH`, and no
/// file is made.
pub fn open(
    root: BorrowedFd<'_>,
    path: &CStr,
    flags: OFlag,
    resolve: ResolveFlag,
) -> nix::Result<OwnedFd> {
    let flags = flags | OFlag::O_CLOEXEC;
    let how = OpenHow::new().flags(flags).resolve(resolve);
    loop {
        match openat2(root, path, how) {
            // The kernel saw a rename somewhere while it resolved `..`, or a signal.
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(Errno::ENOSYS) => return walk(root, path.to_bytes(), flags, resolve),
            result => return result,
        }
    }
}

/// The names of a path, the first one last.
fn names(path: &[u8]) -> Vec<CString> {
    let names = path.split(|&byte| byte == b'/').rev();
    names
        .filter(|name| !matches!(*name, b"" | b"."))
        .filter_map(|name| CString::new(name).ok())
        .collect()
}

fn kind(found: &FileStat) -> libc::mode_t {
    found.st_mode & libc::S_IFMT
}

/// The mount that a file is on.
fn mount_of(file: BorrowedFd<'_>) -> nix::Result<u64> {
    // SAFETY: integers, for which zeroes are a valid value.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, the path terminated, and the kernel fills the structure.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_MNT_ID,
            &raw mut found,
        )
    };
    Errno::result(result)?;
    Ok(found.stx_mnt_id)
}

/// Whether a link is one of `/proc`, which may lead anywhere.
fn is_of_proc(directory: BorrowedFd<'_>) -> nix::Result<bool> {
    let found = nix::sys::statfs::fstatfs(directory)?;
    Ok(found.filesystem_type() == nix::sys::statfs::PROC_SUPER_MAGIC)
}

fn walk(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlag,
    resolve: ResolveFlag,
) -> nix::Result<OwnedFd> {
    let is_root = resolve.contains(ResolveFlag::RESOLVE_IN_ROOT);
    let one_mount = resolve.contains(ResolveFlag::RESOLVE_NO_XDEV);
    let by_name = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    if path.starts_with(b"/") && !is_root {
        return Err(Errno::EXDEV);
    }
    let mount = if one_mount { mount_of(root)? } else { 0 };
    // Directories from the root down, so that `..` leads back and not up.
    let mut above: Vec<OwnedFd> = Vec::new();
    let mut ahead = names(path);
    let mut links = 0;
    while let Some(name) = ahead.pop() {
        let here = above.last().map_or(root, |directory| directory.as_fd());
        if name.as_bytes() == b".." {
            if above.pop().is_none() && !is_root {
                return Err(Errno::EXDEV);
            }
            continue;
        }
        let next = openat(here, name.as_c_str(), by_name, Mode::empty())?;
        let found = fstat(&next)?;
        if one_mount && mount_of(next.as_fd())? != mount {
            return Err(Errno::EXDEV);
        }
        let is_last = ahead.is_empty();
        let is_link = kind(&found) == libc::S_IFLNK;
        if is_link && !(is_last && flags.contains(OFlag::O_NOFOLLOW)) {
            links += 1;
            let is_refused = resolve.contains(ResolveFlag::RESOLVE_NO_SYMLINKS);
            if is_refused || links > MOST_LINKS || is_of_proc(here)? {
                return Err(Errno::ELOOP);
            }
            let text = readlinkat(&next, c"")?;
            let text = text.as_encoded_bytes();
            if text.starts_with(b"/") {
                if !is_root {
                    return Err(Errno::EXDEV);
                }
                above.clear();
            }
            ahead.extend(names(text));
            continue;
        }
        if !is_last && kind(&found) != libc::S_IFDIR {
            return Err(Errno::ENOTDIR);
        }
        if is_last && kind(&found) != libc::S_IFDIR {
            // What takes its place meanwhile is no link, or not followed.
            return openat(
                here,
                name.as_c_str(),
                flags | OFlag::O_NOFOLLOW,
                Mode::empty(),
            );
        }
        above.push(next);
    }
    let here = above.last().map_or(root, |directory| directory.as_fd());
    openat(here, c".", flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    #[test]
    fn names_lead_where_the_kernel_says() {
        let top = tempfile::tempdir().expect("a directory");
        let root = top.path().join("root");
        fs::create_dir_all(root.join("a/b")).expect("made");
        fs::write(top.path().join("file"), "outside").expect("written");
        fs::write(root.join("a/file"), "inside").expect("written");
        for (name, text) in [
            ("up", "../../../a/file"),
            ("top", "/a/b"),
            ("a/b/back", "../file"),
            ("loop", "loop"),
            ("proc", "/proc/self/root"),
            ("none", "nowhere"),
        ] {
            symlink(text, root.join(name)).expect("made");
        }
        let directory = fs::File::open(&root).expect("opened");
        let (in_root, beneath) = (ResolveFlag::RESOLVE_IN_ROOT, ResolveFlag::RESOLVE_BENEATH);
        let plain = ResolveFlag::RESOLVE_NO_SYMLINKS;
        let one = ResolveFlag::RESOLVE_NO_XDEV;
        for path in [
            "",
            ".",
            "/",
            "a",
            "a/",
            "/a/b/..",
            "../file",
            "a/file",
            "a/file/x",
            "up",
            "top",
            "top/back",
            "a/b/back",
            "a/../../a/file",
            "loop",
            "none",
            "none/x",
            "x",
            "proc",
        ] {
            for resolve in [in_root, in_root | plain, beneath, beneath | plain | one] {
                for flags in [
                    OFlag::O_PATH,
                    OFlag::O_RDONLY,
                    OFlag::O_PATH | OFlag::O_NOFOLLOW,
                    OFlag::O_RDONLY | OFlag::O_DIRECTORY,
                    OFlag::O_PATH | OFlag::O_DIRECTORY,
                ] {
                    let name = if path.is_empty() { "." } else { path };
                    let c_path = CString::new(name).expect("a path");
                    let what = |opened: nix::Result<OwnedFd>| {
                        opened.map(|file| fs::File::from(file).metadata().expect("facts").ino())
                    };
                    let (root, flags) = (directory.as_fd(), flags | OFlag::O_CLOEXEC);
                    let how = OpenHow::new().flags(flags).resolve(resolve);
                    assert_eq!(
                        what(walk(root, name.as_bytes(), flags, resolve)),
                        what(openat2(root, c_path.as_c_str(), how)),
                        "{name} {resolve:?} {flags:?}"
                    );
                }
            }
        }
    }
}
