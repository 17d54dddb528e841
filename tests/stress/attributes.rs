//! Extended attributes: each call, and what is refused without a supervisor.

use std::ffi::CStr;

use libc::{c_int, c_long};
use nix::errno::Errno;

use super::program::{close, create, must, open, same};

/// Attributes that the kernel refuses here, and those that it does not.
pub fn run() {
    create(c"attributes", "");
    let at = c"attributes".as_ptr();
    let fd = open(c"attributes", libc::O_RDONLY, 0);
    let set = |name: &CStr, value: &str, flags: c_int| {
        call!(
            libc::SYS_setxattr,
            at,
            name.as_ptr(),
            value.as_ptr(),
            value.len(),
            flags
        )
    };
    must("setxattr", set(c"trusted.kiln", "one", 0));
    same(
        "create",
        set(c"trusted.kiln", "x", libc::XATTR_CREATE),
        Err(Errno::EEXIST),
    );
    same(
        "replace",
        set(c"trusted.none", "x", libc::XATTR_REPLACE),
        Err(Errno::ENODATA),
    );
    must("setxattr", set(c"trusted.kiln", "two", libc::XATTR_REPLACE));
    same(
        "ours",
        set(c"trusted.kiln.device", "b 8 1", 0).is_err(),
        true,
    );
    let value = "label";
    let (text, length) = (value.as_ptr(), value.len());
    must(
        "fsetxattr",
        call!(
            libc::SYS_fsetxattr,
            fd,
            c"security.kiln".as_ptr(),
            text,
            length,
            0
        ),
    );
    must(
        "lsetxattr",
        call!(
            libc::SYS_lsetxattr,
            at,
            c"trusted.gone".as_ptr(),
            text,
            length,
            0
        ),
    );
    let mut room = [0_u8; 64];
    let (into, size) = (room.as_mut_ptr(), room.len());
    for (number, file) in [
        (libc::SYS_getxattr, at as c_long),
        (libc::SYS_lgetxattr, at as c_long),
        (libc::SYS_fgetxattr, fd.into()),
    ] {
        let count = call!(number, file, c"trusted.kiln".as_ptr(), into, size);
        same("getxattr", must("getxattr", count), 3);
        same("value", &room[..3], b"two");
    }
    let into = room.as_mut_ptr();
    same(
        "too little room",
        call!(libc::SYS_getxattr, at, c"trusted.kiln".as_ptr(), into, 1),
        Err(Errno::ERANGE),
    );
    for (number, file) in [
        (libc::SYS_removexattr, at as c_long),
        (libc::SYS_fremovexattr, fd.into()),
    ] {
        must("setxattr", set(c"trusted.gone", "x", 0));
        must("removexattr", call!(number, file, c"trusted.gone".as_ptr()));
        let again = call!(libc::SYS_lremovexattr, at, c"trusted.gone".as_ptr());
        same("removed", again, Err(Errno::ENODATA));
    }
    attributes_at();
    let mut list = [0_u8; 512];
    for (number, file) in [
        (libc::SYS_listxattr, at as c_long),
        (libc::SYS_llistxattr, at as c_long),
        (libc::SYS_flistxattr, fd.into()),
    ] {
        let count = must(
            "listxattr",
            call!(number, file, list.as_mut_ptr(), list.len()),
        );
        let names = list[..count as usize].split(|&byte| byte == 0);
        let ours = names.filter(|name| name.ends_with(b".kiln")).count();
        same("names", ours, 2);
    }
    // A list that names an id, and a mode that changes it.
    let acl = super::program::acl([6, 7, 0, 7, 0]);
    let name = c"system.posix_acl_access".as_ptr();
    match call!(libc::SYS_setxattr, at, name, acl.as_ptr(), acl.len(), 0) {
        Err(Errno::EOPNOTSUPP) => {}
        result => {
            must("setxattr", result);
            must(
                "chmod",
                call!(libc::SYS_fchmodat, libc::AT_FDCWD, at, 0o750),
            );
        }
    }
    close(fd);
}

/// `setxattrat` and its siblings, of Linux 6.13.
fn attributes_at() {
    const SET: c_long = 463;
    #[repr(C)]
    struct Arguments {
        value: u64,
        size: u32,
        flags: u32,
    }
    let (cwd, at) = (libc::AT_FDCWD, c"attributes".as_ptr());
    let mut value = *b"by at";
    let arguments = Arguments {
        value: value.as_mut_ptr() as u64,
        size: 5,
        flags: 0,
    };
    let (pointer, size) = (&raw const arguments, size_of::<Arguments>());
    let name = c"trusted.at".as_ptr();
    match call!(SET, cwd, at, 0, name, pointer, size) {
        Err(Errno::ENOSYS) => return,
        result => drop(must("setxattrat", result)),
    }
    value = [0; 5];
    same(
        "getxattrat",
        call!(SET + 1, cwd, at, 0, name, pointer, size),
        Ok(5),
    );
    same("value", &value, b"by at");
    let mut list = [0_u8; 512];
    let count = must(
        "listxattrat",
        call!(SET + 2, cwd, at, 0, list.as_mut_ptr(), list.len()),
    );
    let mut names = list[..count as usize].split(|&byte| byte == 0);
    same("names", names.any(|name| name == b"trusted.at"), true);
    must("removexattrat", call!(SET + 3, cwd, at, 0, name));
    same(
        "removed",
        call!(SET + 1, cwd, at, 0, name, pointer, size),
        Err(Errno::ENODATA),
    );
}
