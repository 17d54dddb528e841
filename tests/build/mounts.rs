//! Filesystems of the host that do not answer, where kiln only looks.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;

use super::common::toy::{Built, Toy};
use super::common::{skipped, tool};

/// Whom FUSE's requests go to, in the process that mounts and its children.
const SERVER: libc::c_int = 200;

/// What a filesystem does that does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    /// Its requests wait.
    Waits,
    /// It is gone, and with it all that waits.
    Gone,
    /// It tells of its uppermost directory, but not what is in there; the descriptor is one of
    /// `/dev/fuse`.
    TellsOfItself(libc::c_int),
}

/// Answers what FUSE asks first, and of the uppermost directory, from when it is mounted until it
/// is unmounted. See `linux/fuse.h`.
fn tell_of_itself(mut server: &File) {
    const GETATTR: u32 = 3;
    const STATFS: u32 = 17;
    const INIT: u32 = 26;
    let mut request = vec![0; 1 << 17];
    loop {
        let length = match server.read(&mut request) {
            Ok(length) => length,
            // It is not mounted yet.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                std::thread::sleep(std::time::Duration::from_millis(10));
                continue;
            }
            Err(_) => return,
        };
        let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().expect("four"));
        let mut body = match word(4) {
            // Of the protocol's versions the kernel's own.
            INIT => [&request[40..48.min(length)], &[0; 56][..]].concat(),
            // Valid for an hour: a directory with number 1.
            GETATTR => {
                let mut body = vec![0; 104];
                body[0..8].copy_from_slice(&3600u64.to_ne_bytes());
                body[16..24].copy_from_slice(&1u64.to_ne_bytes());
                body[76..80].copy_from_slice(&(libc::S_IFDIR | 0o755).to_ne_bytes());
                body[80..84].copy_from_slice(&2u32.to_ne_bytes());
                body
            }
            STATFS => vec![0; 80],
            _ => continue,
        };
        let size = u32::try_from(16 + body.len()).expect("small");
        let mut answer = [&size.to_ne_bytes()[..], &[0; 4], &request[8..16]].concat();
        answer.append(&mut body);
        if server.write_all(&answer).is_err() {
            return;
        }
    }
}

/// Mounts a filesystem that does not answer on a directory, in the mount namespace that the
/// calling process gets.
fn mount_silent(place: &std::ffi::CStr, does: Server) -> std::io::Result<()> {
    use nix::mount::{MsFlags, mount};
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, c"/", None::<&str>, private, None::<&str>)?;
    // SAFETY: a path and integers; the number is nobody else's.
    unsafe {
        let server = match does {
            Server::TellsOfItself(server) => server,
            _ => libc::open(c"/dev/fuse".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC),
        };
        if server < 0 || libc::dup2(server, SERVER) < 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    let options = c"fd=200,rootmode=40755,user_id=0,group_id=0";
    mount(
        Some(c"silent"),
        place,
        Some(c"fuse"),
        MsFlags::empty(),
        Some(options),
    )?;
    if does != Server::Waits {
        // SAFETY: it was made above; the other copy is closed by `execve`.
        unsafe { libc::close(SERVER) };
    }
    Ok(())
}

#[test]
fn a_filesystem_that_does_not_answer_holds_no_build_up() {
    if !nix::unistd::geteuid().is_root() || !std::path::Path::new("/dev/fuse").exists() {
        return skipped("mounting FUSE needs root and /dev/fuse");
    }
    let timeout = tool("timeout").expect("of coreutils");
    for below in ["mnt", ".hidden", ".hidden/mnt"] {
        let server = File::options().read(true).write(true).open("/dev/fuse");
        let server = server.expect("it can be opened");
        let number = server.as_raw_fd();
        std::thread::spawn(move || tell_of_itself(&server));
        for does in [Server::Waits, Server::Gone, Server::TellsOfItself(number)] {
            let toy = Toy::basic();
            let place = toy.world.home().join(below);
            std::fs::create_dir_all(&place).expect("made");
            // Without a wait, and without a word of what is there.
            let look = format!("ls {} 2>&1 || :\necho looked", place.display());
            toy.hook("extra-data", "50-look", &look);
            std::os::unix::fs::symlink(place.join("key"), toy.world.home().join(".link"))
                .expect("made");
            let kiln = toy.command("-t tar --json");
            let mut command = toy.world.command(&timeout);
            command.args(["-k", "5", "60"]);
            command.arg(kiln.get_program()).args(kiln.get_args());
            let place = std::ffi::CString::new(place.as_os_str().as_encoded_bytes());
            let place = place.expect("no zero byte");
            // SAFETY: the closure makes system calls alone.
            unsafe { command.pre_exec(move || mount_silent(&place, does)) };
            let built = Built::run(&mut command).success();
            assert!(built.lines().contains(&"looked".to_owned()), "{below}");
            let warned = built.outcome.stdout.contains("does not answer");
            let shown = &built.outcome.stdout;
            assert_eq!(warned, does != Server::Gone, "{below} {does:?}: {shown}");
        }
    }
}
