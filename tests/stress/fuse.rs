//! A filesystem whose server runs below the same filter as those who use it.
//!
//! To answer a call about it the supervisor has to wait for the server, which
//! makes trapped calls itself meanwhile.

use std::ffi::CStr;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;

/// Operations of `linux/fuse.h`.
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const INIT: u32 = 26;
const BATCH_FORGET: u32 = 42;

/// Mounts it, uses it, and says whether all went well.
pub fn run() {
    std::fs::create_dir("mnt").expect("a directory");
    std::fs::write("other", "").expect("a file");
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .expect("/dev/fuse");
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0\0",
        device.as_raw_fd()
    );
    // SAFETY: all strings are terminated.
    let mounted = unsafe {
        libc::unshare(libc::CLONE_NEWNS)
            | libc::mount(
                c"stress".as_ptr(),
                c"mnt".as_ptr(),
                c"fuse".as_ptr(),
                0,
                options.as_ptr().cast(),
            )
    };
    if mounted != 0 {
        return println!("WRONG mount: {}", std::io::Error::last_os_error());
    }
    // SAFETY: this process has one thread here.
    let server = unsafe { libc::fork() };
    if server == 0 {
        serve(device);
        std::process::exit(0);
    }
    drop(device);
    for round in 0..60_u32 {
        let (uid, gid) = (round % 9, 6);
        let name = c"mnt/file";
        // SAFETY: the path is terminated.
        let changed = unsafe { libc::chown(name.as_ptr(), uid, gid) };
        let found = look(name);
        if changed != 0 || found != Some((uid, gid)) {
            return println!("WRONG round {round}: {changed} {found:?}");
        }
    }
    // SAFETY: the path is terminated, and the process is a child of ours.
    unsafe {
        libc::umount2(c"mnt".as_ptr(), libc::MNT_DETACH);
        libc::kill(server, libc::SIGKILL);
        libc::waitpid(server, std::ptr::null_mut(), 0);
    }
    println!("ok fuse");
}

fn look(name: &CStr) -> Option<(u32, u32)> {
    // SAFETY: the path is terminated; zeroes are a valid value.
    unsafe {
        let mut found: libc::stat = std::mem::zeroed();
        (libc::stat(name.as_ptr(), &raw mut found) == 0).then_some((found.st_uid, found.st_gid))
    }
}

/// Numbers of a reply.
#[derive(Default)]
struct Reply(Vec<u8>);

impl Reply {
    fn wide(mut self, numbers: &[u64]) -> Reply {
        self.0.extend(numbers.iter().flat_map(|n| n.to_ne_bytes()));
        self
    }

    fn narrow(mut self, numbers: &[u32]) -> Reply {
        self.0.extend(numbers.iter().flat_map(|n| n.to_ne_bytes()));
        self
    }

    /// `struct fuse_attr`: root directory 1, file 2.
    fn attributes(self, inode: u64) -> Reply {
        let mode = if inode == 1 { 0o40755 } else { 0o100644 };
        self.wide(&[inode, 0, 0, 0, 0, 0])
            .narrow(&[0, 0, 0, mode, 1, 0, 0, 0, 4096, 0])
    }
}

fn serve(mut device: File) {
    let mut request = vec![0; 1 << 17];
    while let Ok(length) = device.read(&mut request) {
        // What the server does for each request is answered by the supervisor too.
        let _ = look(c"other");
        let _ = File::options().create(true).append(true).open("log");
        let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().expect("four"));
        let wide = |at: usize| u64::from_ne_bytes(request[at..at + 8].try_into().expect("eight"));
        let (operation, unique, inode) = (word(4), wide(8), wide(16));
        let reply = Reply::default();
        let reply = match operation {
            INIT => reply
                .narrow(&[7, 31, 0, 0])
                .narrow(&[0, 4096, 1, 0])
                .narrow(&[0; 8]),
            GETATTR | SETATTR => reply.wide(&[0, 0]).attributes(inode),
            LOOKUP if request[40..length].starts_with(b"file\0") => {
                reply.wide(&[2, 0, 0, 0, 0]).attributes(2)
            }
            FORGET | BATCH_FORGET => continue,
            LOOKUP => {
                answer(&mut device, unique, libc::ENOENT, &[]);
                continue;
            }
            _ => {
                answer(&mut device, unique, libc::ENOSYS, &[]);
                continue;
            }
        };
        answer(&mut device, unique, 0, &reply.0);
    }
}

fn answer(device: &mut File, unique: u64, error: i32, body: &[u8]) {
    let length = 16 + body.len() as u32;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend((-error).to_ne_bytes());
    bytes.extend(unique.to_ne_bytes());
    bytes.extend(body);
    let _ = device.write_all(&bytes);
}
