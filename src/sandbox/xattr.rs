//! System calls on extended attributes (`xattr(7)`), of which the libraries have none.

use std::ffi::CStr;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::errno::Errno;

/// Largest value, and largest list of names (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
pub const LARGEST: usize = 65536;

/// The file that a call is about.
#[derive(Debug, Clone, Copy)]
pub enum On<'a> {
    /// An open one; a mere name (`O_PATH`) does not do.
    Open(BorrowedFd<'a>),
    /// What a path leads to.
    Path(&'a CStr),
    /// A path whose last link is not followed.
    Link(&'a CStr),
}

/// Reads a value into a buffer and tells its size. With an empty buffer only that is asked for.
pub fn get(file: On<'_>, name: &CStr, buffer: &mut [u8]) -> Result<usize, Errno> {
    let (name, start, length) = (name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len());
    // SAFETY: paths and the name are terminated; pointer and length describe `buffer`.
    let size = unsafe {
        match file {
            On::Open(file) => libc::fgetxattr(file.as_raw_fd(), name, start, length),
            On::Path(path) => libc::getxattr(path.as_ptr(), name, start, length),
            On::Link(path) => libc::lgetxattr(path.as_ptr(), name, start, length),
        }
    };
    Errno::result(size).map(isize::unsigned_abs)
}

/// A value.
pub fn value(file: On<'_>, name: &CStr) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; LARGEST];
    let size = get(file, name, &mut value)?;
    value.truncate(size);
    Ok(value)
}

/// Reads the names of all attributes, each with a NUL, into a buffer and tells their size. With
/// an empty buffer only that is asked for.
pub fn list(file: On<'_>, buffer: &mut [u8]) -> Result<usize, Errno> {
    let (start, length) = (buffer.as_mut_ptr().cast(), buffer.len());
    // SAFETY: paths are terminated; pointer and length describe `buffer`.
    let size = unsafe {
        match file {
            On::Open(file) => libc::flistxattr(file.as_raw_fd(), start, length),
            On::Path(path) => libc::listxattr(path.as_ptr(), start, length),
            On::Link(path) => libc::llistxattr(path.as_ptr(), start, length),
        }
    };
    Errno::result(size).map(isize::unsigned_abs)
}

/// The names in a list.
pub fn names(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
}

/// Gives an attribute a value. Flags are `XATTR_CREATE` and `XATTR_REPLACE`.
pub fn set(file: On<'_>, name: &CStr, value: &[u8], flags: i32) -> Result<(), Errno> {
    let (name, start, length) = (name.as_ptr(), value.as_ptr().cast(), value.len());
    // SAFETY: paths and the name are terminated; pointer and length describe `value`.
    let result = unsafe {
        match file {
            On::Open(file) => libc::fsetxattr(file.as_raw_fd(), name, start, length, flags),
            On::Path(path) => libc::setxattr(path.as_ptr(), name, start, length, flags),
            On::Link(path) => libc::lsetxattr(path.as_ptr(), name, start, length, flags),
        }
    };
    Errno::result(result).map(drop)
}

/// Takes an attribute away.
pub fn remove(file: On<'_>, name: &CStr) -> Result<(), Errno> {
    let name = name.as_ptr();
    // SAFETY: paths and the name are terminated.
    let result = unsafe {
        match file {
            On::Open(file) => libc::fremovexattr(file.as_raw_fd(), name),
            On::Path(path) => libc::removexattr(path.as_ptr(), name),
            On::Link(path) => libc::lremovexattr(path.as_ptr(), name),
        }
    };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::os::fd::AsFd as _;
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    #[test]
    fn an_attribute_is_the_same_by_path_and_by_descriptor() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        let file = fs_err::File::create(&path).expect("made");
        let path = CString::new(path.as_os_str().as_bytes()).expect("a path");
        let name = c"user.kiln";
        let (open, by_path) = (On::Open(file.file().as_fd()), On::Path(&path));
        match set(open, name, b"text", libc::XATTR_CREATE) {
            Err(Errno::EOPNOTSUPP) => return println!("SKIP: no attributes here"),
            set => set.expect("set"),
        }
        for on in [open, by_path, On::Link(&path)] {
            assert_eq!(
                set(on, name, b"x", libc::XATTR_CREATE),
                Err(Errno::EEXIST),
                "{on:?}"
            );
            assert_eq!(value(on, name).as_deref(), Ok(&b"text"[..]), "{on:?}");
            assert_eq!(get(on, name, &mut []), Ok(4));
            assert_eq!(get(on, name, &mut [0; 3]), Err(Errno::ERANGE));
            let mut list_of = vec![0; LARGEST];
            let size = list(on, &mut list_of).expect("listed");
            assert_eq!(list(on, &mut []), Ok(size));
            assert!(names(&list_of[..size]).any(|one| one == name.to_bytes()));
        }
        remove(by_path, name).expect("removed");
        assert_eq!(value(open, name), Err(Errno::ENODATA));
        assert_eq!(remove(open, name), Err(Errno::ENODATA));
    }
}
