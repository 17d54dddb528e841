//! Filesystems of the host that do not answer, where kiln only looks.

use std::os::unix::process::CommandExt as _;

use super::common::toy::{Built, Toy};
use super::common::{skipped, tool};

/// Whom FUSE's requests go to: who has this open, and that is nobody who would answer them.
const SERVER: libc::c_int = 200;

/// Mounts a filesystem that does not answer on a directory: in the mount namespace that the
/// calling process gets, and with an error if `gone`.
fn mount_silent(place: &std::ffi::CStr, gone: bool) -> std::io::Result<()> {
    use nix::mount::{MsFlags, mount};
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, c"/", None::<&str>, private, None::<&str>)?;
    // SAFETY: a path and integers; the number is nobody else's.
    unsafe {
        let server = libc::open(c"/dev/fuse".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
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
    if gone {
        // SAFETY: it was opened above; the copy is closed by `execve`.
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
        for gone in [false, true] {
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
            unsafe { command.pre_exec(move || mount_silent(&place, gone)) };
            let built = Built::run(&mut command).success();
            assert!(built.lines().contains(&"looked".to_owned()), "{below}");
            let warned = built.outcome.stdout.contains("does not answer");
            assert_eq!(warned, !gone, "{below}: {}", built.outcome.stdout);
        }
    }
}
