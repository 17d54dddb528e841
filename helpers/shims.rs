//! `kiln-with-shims`: runs a command that calls GRUB's tools by absolute path.
//!
//! `grub-mkconfig` runs `/usr/sbin/grub-probe`, which needs block devices, and
//! `/usr/bin/grub-mkrelpath`, which needs the image's filesystems. In a
//! mount namespace of its own kiln is bound over such programs; where mounting is
//! refused they are replaced by links until the command has ended.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use thiserror::Error;

use super::Explain;

/// Programs that the shims stand in for.
const COVERED: [&str; 6] = [
    "usr/sbin/grub-probe",
    "usr/sbin/grub2-probe",
    "usr/sbin/grub-install",
    "usr/sbin/grub2-install",
    "usr/bin/grub-mkrelpath",
    "usr/bin/grub2-mkrelpath",
];

/// Why the command is not run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// No command.
    #[error("no command")]
    Usage,
    /// kiln cannot find itself.
    #[error("cannot find the program of this process")]
    Self_(#[source] io::Error),
    /// A program cannot be covered or uncovered.
    #[error("cannot {action} `{path}`")]
    Replace {
        /// What was being done.
        action: &'static str,
        /// The program.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The command cannot be started.
    #[error("cannot run `{command}`")]
    Exec {
        /// The command.
        command: String,
        /// The system's reason.
        source: io::Error,
    },
}

impl Explain for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Usage => Some("kiln-with-shims COMMAND [ARGUMENT…]".into()),
            Self::Self_(_) => Some("/proc must be mounted in this root".into()),
            Self::Replace { .. } | Self::Exec { .. } => None,
        }
    }

    fn code(&self) -> u8 {
        match self {
            Self::Exec { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            Self::Exec { .. } => 126,
            _ => 1,
        }
    }
}

/// `grub-mkconfig`, for hooks that do not know of `kiln-with-shims`. Hooks that
/// look for the other spelling first find it here, and get the one that exists.
pub(super) fn covered(called: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    let name = called.to_string_lossy();
    let program = [&*name, "grub-mkconfig", "grub2-mkconfig"]
        .iter()
        .find_map(|name| super::find_program(name))
        .ok_or_else(|| Error::Exec {
            command: name.into_owned(),
            source: io::ErrorKind::NotFound.into(),
        })?;
    run(program.as_os_str(), args)
}

/// `kiln-with-shims COMMAND [ARGUMENT…]`
pub(super) fn main(_: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    let (program, rest) = args.split_first().ok_or(Error::Usage)?;
    run(program, rest)
}

fn run(program: &OsStr, rest: &[OsString]) -> Result<ExitCode, Error> {
    let this = std::env::current_exe().map_err(Error::Self_)?;
    let mut command = Command::new(program);
    command.args(rest);
    let exec = |source| Error::Exec {
        command: program.to_string_lossy().into_owned(),
        source,
    };
    let root = Path::new("/");
    restore_leftovers(root)?;
    let programs: Vec<PathBuf> = COVERED
        .iter()
        .map(|path| root.join(path))
        .filter(|path| path.exists())
        .collect();
    if bind(&this, &programs).is_ok() {
        return Err(exec(super::exec(&mut command)));
    }
    let signals = Blocked::new();
    let replaced = Replaced::new(&this, &programs)?;
    let status = command.status();
    replaced.restore()?;
    drop(signals);
    Ok(super::exit_code(status.map_err(exec)?))
}

/// Binds kiln over the programs, seen only by this process and its children.
fn bind(this: &Path, programs: &[PathBuf]) -> nix::Result<()> {
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    for (done, program) in programs.iter().enumerate() {
        if let Err(error) = mount(Some(this), program, NONE, MsFlags::MS_BIND, NONE) {
            // The other way needs the programs themselves.
            for program in programs.iter().take(done) {
                umount2(program, MntFlags::MNT_DETACH)?;
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Where a program waits while a link has its name.
fn waiting(program: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(program.file_name().unwrap_or_default());
    name.push(".kiln");
    program.with_file_name(name)
}

/// Puts back what an interrupted run left.
fn restore_leftovers(root: &Path) -> Result<(), Error> {
    for program in COVERED.map(|path| root.join(path)) {
        let waiting = waiting(&program);
        if std::fs::symlink_metadata(&waiting).is_ok() {
            std::fs::rename(&waiting, &program).map_err(|source| Error::Replace {
                action: "restore",
                path: program,
                source,
            })?;
        }
    }
    Ok(())
}

/// Programs that links replace until this is dropped.
#[derive(Debug, Default)]
struct Replaced(Vec<PathBuf>);

impl Replaced {
    fn new(this: &Path, programs: &[PathBuf]) -> Result<Self, Error> {
        let mut replaced = Self::default();
        for program in programs {
            let io = |action| {
                let path = program.clone();
                move |source| Error::Replace {
                    action,
                    path,
                    source,
                }
            };
            std::fs::rename(program, waiting(program)).map_err(io("move"))?;
            replaced.0.push(program.clone());
            symlink(this, program).map_err(io("replace"))?;
        }
        Ok(replaced)
    }

    fn restore(mut self) -> Result<(), Error> {
        for program in std::mem::take(&mut self.0) {
            std::fs::rename(waiting(&program), &program).map_err(|source| Error::Replace {
                action: "restore",
                path: program,
                source,
            })?;
        }
        Ok(())
    }
}

impl Drop for Replaced {
    fn drop(&mut self) {
        for program in &self.0 {
            // Reached only on the way out of another error, which is the one to report.
            let _ = std::fs::rename(waiting(program), program);
        }
    }
}

/// Keeps signals from ending this process between replacing and restoring. The
/// command starts with none blocked.
struct Blocked(SigSet);

impl Blocked {
    fn new() -> Self {
        let mut old = SigSet::empty();
        let signals: SigSet = [
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGQUIT,
        ]
        .into_iter()
        .collect();
        // Fails only for an invalid `how`.
        let _ = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), Some(&mut old));
        Self(old)
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.0), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaced_programs_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let sbin = dir.path().join("usr/sbin");
        std::fs::create_dir_all(&sbin).unwrap();
        let probe = sbin.join("grub-probe");
        std::fs::write(&probe, "real").unwrap();
        let replaced = Replaced::new(Path::new("/kiln"), std::slice::from_ref(&probe)).unwrap();
        assert_eq!(std::fs::read_link(&probe).unwrap(), Path::new("/kiln"));
        replaced.restore().unwrap();
        assert_eq!(std::fs::read_to_string(&probe).unwrap(), "real");

        // As if the process had been killed in between.
        std::mem::forget(Replaced::new(Path::new("/kiln"), std::slice::from_ref(&probe)).unwrap());
        restore_leftovers(dir.path()).unwrap();
        assert_eq!(std::fs::read_to_string(&probe).unwrap(), "real");
        assert_eq!(std::fs::read_dir(&sbin).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_replacement_restores_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let (good, missing) = (dir.path().join("good"), dir.path().join("missing"));
        std::fs::write(&good, "real").unwrap();
        assert!(Replaced::new(Path::new("/kiln"), &[good.clone(), missing]).is_err());
        assert_eq!(std::fs::read_to_string(&good).unwrap(), "real");
    }
}
