//! A terminal of its own for a shell that the engine starts for the user (`pty(7)`).
//!
//! ```text
//! caller's terminal ⇄ main ⇄ master | slave ⇄ shell, and what else has its root
//!                     relay.rs        terminal.rs
//! ```
//!
//! The engine makes it where the shell finds it below `/dev/pts`, gives the master to main and
//! waits until main relays. So nothing in the sandbox has the caller's terminal: what is typed
//! after the shell, and its modes and size at any time, are out of reach. When the shell has
//! ended main closes the master, by which the slave is hung up for all who opened it.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::statfs::{DEVPTS_SUPER_MAGIC, fstatfs};
use nix::unistd::isatty;

use super::relay::Lender;
use super::{Error, handover, mounts};

/// What the engine says when it gives a master away, and when its shell has ended.
pub(super) const LENT: u8 = 1;
pub(super) const RETURNED: u8 = 2;

/// Device number of what makes terminals. See the kernel's `devices.txt`.
const PTMX: (u32, u32) = (5, 2);

/// A standard stream of this process, which stays open.
pub(super) fn standard(number: RawFd) -> BorrowedFd<'static> {
    // SAFETY: nothing in this program closes a standard stream.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// Whether a standard stream is a terminal.
pub(super) fn is_terminal(number: RawFd) -> bool {
    isatty(standard(number)).unwrap_or(false)
}

/// The two ends of what the engine asks main by; nothing where no standard stream is a
/// terminal.
pub fn lending() -> Result<Option<(Lender, Borrower)>, Error> {
    if !(0..=2).any(is_terminal) {
        return Ok(None);
    }
    let (main, engine) =
        UnixStream::pair().map_err(Error::system("making sockets for a terminal"))?;
    Ok(Some((Lender::new(main), Borrower { main: engine })))
}

/// Asks main to relay, from the engine.
#[derive(Debug)]
pub struct Borrower {
    main: UnixStream,
}

impl Borrower {
    /// Makes a terminal, of `target`'s own if that is where the shell will be, and waits until
    /// main relays it, and has given it the modes and the size of the caller's.
    pub fn borrow(&self, target: Option<&Path>) -> io::Result<Terminal<'_>> {
        let master = open_master(target)?;
        let slave = open_slave(&master)?;
        handover::send(self.main.as_raw_fd(), master.as_raw_fd(), LENT)?;
        drop(master);
        (&self.main).read_exact(&mut [0])?;
        Ok(Terminal {
            slave,
            main: &self.main,
        })
    }
}

/// A terminal that main relays until this is dropped.
#[derive(Debug)]
pub struct Terminal<'a> {
    slave: OwnedFd,
    main: &'a UnixStream,
}

impl Terminal<'_> {
    /// What stands in for the standard streams: this terminal where the caller's is one.
    pub(super) fn streams(&self) -> io::Result<[Stdio; 3]> {
        let stream = |number| match is_terminal(number) {
            true => self.slave.try_clone().map(Stdio::from),
            false => Ok(Stdio::inherit()),
        };
        Ok([stream(0)?, stream(1)?, stream(2)?])
    }

    /// Has the process that calls it begin a session, which has this terminal if somebody types
    /// there. Async-signal-safe.
    pub(super) fn session(&self) -> impl Fn() -> io::Result<()> + Send + Sync + 'static {
        let (slave, is_typed) = (self.slave.as_raw_fd(), is_terminal(0));
        move || {
            nix::unistd::setsid()?;
            // SAFETY: a request with an integer, to a descriptor that lives until `execve`.
            if is_typed && unsafe { libc::ioctl(slave, libc::TIOCSCTTY, 0) } != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        }
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        // If main is gone, so is its terminal.
        let _ = self.main.write_all(&[RETURNED]);
    }
}

/// Opens a new terminal's master: in the target's `/dev/pts` if it has one, else in that of
/// hooks outside. Hooks may have put anything in the place of the former.
fn open_master(target: Option<&Path>) -> io::Result<OwnedFd> {
    let targets = target.and_then(|target| {
        let root = mounts::open_directory(target).ok()?;
        open_multiplexer(&root, "dev/pts/ptmx", ResolveFlag::RESOLVE_NO_SYMLINKS).ok()
    });
    if let Some(master) = targets {
        return Ok(master);
    }
    let root = mounts::open_directory(Path::new("/"))?;
    // Where nothing is mounted, it is the container's, who may have it in one place only.
    open_multiplexer(&root, "dev/pts/ptmx", ResolveFlag::empty())
        .or_else(|_| open_multiplexer(&root, "dev/ptmx", ResolveFlag::empty()))
}

fn open_multiplexer(root: &OwnedFd, path: &str, links: ResolveFlag) -> io::Result<OwnedFd> {
    let how = |flags: OFlag| {
        OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | links)
    };
    // Looked at before it is opened, since there are files that act on being opened.
    let found = openat2(root, path, how(OFlag::O_PATH))?;
    let number = nix::sys::stat::fstat(&found)?.st_rdev;
    let is_multiplexer = (libc::major(number), libc::minor(number)) == PTMX;
    let is_of_terminals =
        || fstatfs(&found).is_ok_and(|fs| fs.filesystem_type() == DEVPTS_SUPER_MAGIC);
    if !is_multiplexer || !links.is_empty() && !is_of_terminals() {
        return Err(io::Error::from(io::ErrorKind::NotFound));
    }
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    Ok(openat2(root, path, how(flags))?)
}

/// Opens the other side, which need not be found by its name. See `ioctl_tty(2)`.
fn open_slave(master: &OwnedFd) -> io::Result<OwnedFd> {
    let unlocked: libc::c_int = 0;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the first request reads an integer that lives across the call, the second takes
    // one and returns a new descriptor.
    let slave = unsafe {
        if libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) != 0 {
            return Err(io::Error::last_os_error());
        }
        libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags)
    };
    if slave < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(slave) })
}

/// Makes one terminal as large as another; a master's size is its slave's.
pub(super) fn copy_size(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: both requests are given a size that lives across them.
    let done = unsafe {
        libc::ioctl(from.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) == 0
            && libc::ioctl(to.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) == 0
    };
    if done {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_the_place_of_the_targets_terminals_is_not_opened() {
        let target = tempfile::tempdir().expect("a directory");
        let pts = target.path().join("dev/pts");
        std::fs::create_dir_all(&pts).expect("made");
        let number = |master: &OwnedFd| {
            let found = nix::sys::stat::fstat(master).expect("open").st_rdev;
            (libc::major(found), libc::minor(found))
        };
        let own = |what: &str| {
            let master = open_master(Some(target.path())).expect("a terminal");
            assert_eq!(number(&master), PTMX, "{what}");
            open_slave(&master).expect(what);
            std::fs::remove_file(pts.join("ptmx")).expect("removed");
        };
        std::os::unix::fs::symlink("/dev/ptmx", pts.join("ptmx")).expect("made");
        own("a link");
        std::fs::write(pts.join("ptmx"), "").expect("written");
        own("a file");
        nix::unistd::mkfifo(&pts.join("ptmx"), nix::sys::stat::Mode::S_IRWXU).expect("made");
        own("a pipe");
    }
}
