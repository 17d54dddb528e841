//! `mount` and `umount` as hooks of a build need them.
//!
//! A sandbox without privileges may bind what is there already but may make no
//! new `/proc` or `/sys`, and may not take a part out of a tree of mounts that it
//! was given. What a hook asks for is therefore granted with the sandbox's own
//! mounts where the result is the same; everything else goes to the system's own
//! program. Nothing that is mounted in a build reaches the host.
//!
//! These are no links in `PATH`: hooks that look for the program `mount` to copy
//! it find the system's. `sudo mount` and the shell function `mount` end here.
//! See `mount(8)`, `umount(8)`, `mount_namespaces(7)`.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, ExitCode};

use nix::fcntl::OFlag;
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;
use thiserror::Error;

use super::Explain;
use crate::rootfs::beneath::Root;
use crate::sandbox::mounts;

/// Why nothing was mounted or unmounted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A disk image or a block device was to be mounted.
    #[error("`{source_path}` cannot be mounted: a build has no loop devices and no block devices")]
    NoDevices {
        /// What was to be mounted.
        source_path: String,
    },
    /// A filesystem cannot be bound.
    #[error("cannot mount `{from}` on `{target}`")]
    Bind {
        /// What was to be mounted.
        from: String,
        /// Where.
        target: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Something cannot be unmounted.
    #[error("cannot unmount `{target}`")]
    Unmount {
        /// The mount point.
        target: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Nothing is mounted there.
    #[error("`{target}` is not mounted")]
    NotMounted {
        /// The path.
        target: PathBuf,
    },
    /// Nothing to unmount was named.
    #[error("no mount point is named")]
    Usage,
    /// The system's own program is needed and missing.
    #[error("only the system's own `{program}` can do that, and there is none here")]
    NoProgram {
        /// Its name.
        program: String,
    },
    /// The system's own program cannot be started.
    #[error("cannot run `{program}`")]
    Start {
        /// Its path.
        program: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl Explain for Error {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoDevices { .. } => "kiln lays out partitions and filesystems itself (`block-device-default.yaml` of an element); what is in an image has to be unpacked before the build".into(),
            Self::Usage => "umount [-l] [-R] DIRECTORY…".into(),
            Self::NoProgram { .. } => "install util-linux where the hook runs".into(),
            _ => return None,
        })
    }

    /// The status of `mount(8)` for a failed mount.
    fn code(&self) -> u8 {
        if matches!(self, Self::Usage) { 1 } else { 32 }
    }
}

/// What a command line of `mount` asks for, as far as it is looked at.
#[derive(Debug, Default, PartialEq, Eq)]
struct Call {
    kind: Option<String>,
    options: Vec<String>,
    bind: bool,
    recursive: bool,
    read_only: bool,
    /// An option that only the system's program knows.
    other: bool,
    names: Vec<OsString>,
}

fn parse(args: &[OsString]) -> Call {
    let mut call = Call::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let Some(text) = arg
            .to_str()
            .filter(|text| text.starts_with('-') && *text != "-")
        else {
            call.names.push(arg.clone());
            continue;
        };
        if let Some((name, inline)) = super::long_option(text) {
            let mut value = || {
                inline
                    .clone()
                    .or_else(|| args.next().map(|arg| arg.to_string_lossy().into_owned()))
                    .unwrap_or_default()
            };
            match name {
                "bind" => call.bind = true,
                "rbind" => (call.bind, call.recursive) = (true, true),
                "types" => call.kind = Some(value()),
                "options" => call.add_options(&value()),
                "read-only" => call.read_only = true,
                "source" | "target" => call.names.push(value().into()),
                "" => call.names.extend(args.by_ref().cloned()),
                "verbose" | "no-mtab" => {}
                _ => call.other = true,
            }
            continue;
        }
        for (at, letter) in text.char_indices().skip(1) {
            let rest = text.get(at + letter.len_utf8()..).unwrap_or_default();
            match letter {
                'B' => call.bind = true,
                'R' => (call.bind, call.recursive) = (true, true),
                'r' => call.read_only = true,
                'n' | 'v' | 'w' => {}
                't' | 'o' => {
                    let value = if rest.is_empty() {
                        args.next()
                            .map(|arg| arg.to_string_lossy().into_owned())
                            .unwrap_or_default()
                    } else {
                        rest.to_owned()
                    };
                    if letter == 't' {
                        call.kind = Some(value);
                    } else {
                        call.add_options(&value);
                    }
                    break;
                }
                _ => call.other = true,
            }
        }
    }
    call
}

impl Call {
    fn add_options(&mut self, list: &str) {
        for option in list.split(',').filter(|option| !option.is_empty()) {
            match option {
                "bind" => self.bind = true,
                "rbind" => (self.bind, self.recursive) = (true, true),
                "ro" => self.read_only = true,
                _ => self.options.push(option.to_owned()),
            }
        }
    }

    fn has(&self, name: &str) -> bool {
        self.options
            .iter()
            .any(|option| option == name || option.starts_with(&format!("{name}=")))
    }
}

/// The sandbox's own mount that stands for a new one of a kind.
fn own(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "proc" => "/proc",
        "sysfs" => "/sys",
        "devtmpfs" => "/dev",
        "devpts" => "/dev/pts",
        _ => return None,
    })
}

/// `mount [OPTION…] [SOURCE] TARGET`
pub(super) fn mount_main(_: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    let call = parse(args);
    let system = || system("mount", args);
    if call.other || call.has("remount") || call.names.is_empty() {
        return system();
    }
    let target = call.names.last().map(PathBuf::from).unwrap_or_default();
    let from = call.names.first().map(PathBuf::from).unwrap_or_default();
    if let Some(own) = call.kind.as_deref().and_then(own) {
        let read_only = call.read_only || own == "/sys";
        if is_same_place(Path::new(own), &target) {
            super::say(&format!("mount: `{}` is mounted already", target.display()));
            return Ok(ExitCode::SUCCESS);
        }
        bind(Path::new(own), &target, true, read_only)?;
        return Ok(ExitCode::SUCCESS);
    }
    if call.names.len() != 2 {
        return system();
    }
    if call.bind {
        bind(&from, &target, call.recursive, call.read_only)?;
        return Ok(ExitCode::SUCCESS);
    }
    if call.has("loop") || is_device(&from) {
        return Err(Error::NoDevices {
            source_path: from.display().to_string(),
        });
    }
    system()
}

/// Whether two paths are one file of one filesystem.
fn is_same_place(a: &Path, b: &Path) -> bool {
    let id = |path: &Path| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.dev(), meta.ino()))
    };
    id(a).is_some_and(|a| Some(a) == id(b))
}

/// Whether a source is a disk image or the name of a block device.
fn is_device(source: &Path) -> bool {
    match std::fs::metadata(source) {
        Ok(meta) => meta.is_file() || meta.file_type().is_block_device(),
        // There are no such nodes in a sandbox.
        Err(_) => [
            "/dev/loop",
            "/dev/mapper/",
            "/dev/nbd",
            "/dev/sd",
            "/dev/vd",
            "/dev/nvme",
        ]
        .iter()
        .any(|prefix| {
            source
                .as_os_str()
                .as_encoded_bytes()
                .starts_with(prefix.as_bytes())
        }),
    }
}

/// Binds a path, with what is mounted below it where the kernel demands that.
fn bind(from: &Path, target: &Path, recursive: bool, read_only: bool) -> Result<(), Error> {
    let attempt = |recursive| {
        let source = place(from)?;
        let opened = PathBuf::from(format!("/proc/self/fd/{}", source.as_raw_fd()));
        mounts::bind_on(&opened, &place(target)?, recursive, read_only)
    };
    let result = match attempt(recursive) {
        // A part of a tree that belongs to a more privileged namespace is not
        // given away alone: what is mounted over would come to light.
        Err(error) if !recursive && error.raw_os_error() == Some(libc::EINVAL) => attempt(true),
        result => result,
    };
    result.map_err(|source| Error::Bind {
        from: from.display().to_string(),
        target: target.to_owned(),
        source,
    })
}

/// Opens what is to be bound, mounted on or unmounted. What lies below the build's target is looked
/// up with the target as root: its links are made by others, and one that led to the hooks
/// outside would put what is mounted in their place, or show what they see to the target.
fn place(path: &Path) -> io::Result<OwnedFd> {
    let root = super::env_os("TMP_MOUNT_PATH").map(PathBuf::from);
    let root = root.filter(|root| root.parent().is_some());
    place_in(root.as_deref(), path)
}

fn place_in(root: Option<&Path>, path: &Path) -> io::Result<OwnedFd> {
    let path = std::path::absolute(path)?;
    let below = root.and_then(|root| {
        let real = std::fs::canonicalize(root).ok()?;
        let below = path.strip_prefix(root).or(path.strip_prefix(&real)).ok()?;
        is_plain(below).then_some((root, below))
    });
    match below {
        Some((root, below)) => Root::open(root)?.open_path(below),
        None => Ok(nix::fcntl::open(
            &path,
            OFlag::O_PATH | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?),
    }
}

/// Whether a path leads down only, as far as it says so itself.
fn is_plain(path: &Path) -> bool {
    path.components()
        .all(|part| matches!(part, Component::Normal(_)))
}

/// Becomes the system's own program.
fn system(name: &str, args: &[OsString]) -> Result<ExitCode, Error> {
    let program = super::find_program(name).ok_or_else(|| Error::NoProgram {
        program: name.to_owned(),
    })?;
    let source = super::exec(Command::new(&program).args(args));
    Err(Error::Start { program, source })
}

/// `umount [-l] [-f] [-R] TARGET…`
pub(super) fn umount_main(_: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    // Each is lazy.
    let mut recursive = false;
    let mut targets = Vec::new();
    let mut args_left = args.iter();
    while let Some(arg) = args_left.next() {
        match arg.to_str() {
            Some("--recursive") => recursive = true,
            Some("--lazy" | "--force" | "--verbose" | "--quiet" | "--no-canonicalize") => {}
            Some("--") => targets.extend(args_left.by_ref().map(PathBuf::from)),
            Some(text) if text.starts_with("--") => return system("umount", args),
            Some(text) if text.starts_with('-') && text.len() > 1 => {
                for letter in text.chars().skip(1) {
                    match letter {
                        'R' => recursive = true,
                        'l' | 'f' | 'n' | 'v' | 'q' | 'd' | 'c' | 'i' | 'r' => {}
                        _ => return system("umount", args),
                    }
                }
            }
            _ => targets.push(PathBuf::from(arg)),
        }
    }
    if targets.is_empty() {
        return Err(Error::Usage);
    }
    for target in targets {
        unmount(&target, recursive)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What hooks and helpers cannot do without. [`mount_main`] makes none of these anew,
/// so that the hook which asked for it does not own it either.
const OWN: [&str; 6] = ["/", "/proc", "/sys", "/dev", "/dev/pts", "/dev/shm"];

/// Whether a mount is the sandbox's own, with nothing that a hook put over it.
fn is_own(target: &Path) -> bool {
    OWN.iter().any(|own| target == Path::new(own))
        && mounts::mounts_below(target)
            .is_ok_and(|points| points.iter().filter(|point| *point == target).count() < 2)
}

fn stays(target: &Path) {
    super::say(&format!(
        "umount: `{}` belongs to the build and stays mounted",
        target.display()
    ));
}

fn unmount(target: &Path, recursive: bool) -> Result<(), Error> {
    let failed = |source| Error::Unmount {
        target: target.to_owned(),
        source,
    };
    // Looked up once: who moves directories of the target meanwhile changes nothing.
    let place = place(target).map_err(failed)?;
    let opened = PathBuf::from(format!("/proc/self/fd/{}", place.as_raw_fd()));
    let real = std::fs::read_link(&opened).map_err(failed)?;
    if is_own(&real) {
        stays(&real);
        return Ok(());
    }
    if recursive && mounts::mounts_below(&real).map_err(failed)?.is_empty() {
        return Err(Error::NotMounted { target: real });
    }
    // What is open here, and what a bind took along with it, keeps the mount busy.
    let Err(error) = umount2(&opened, MntFlags::MNT_DETACH) else {
        return Ok(());
    };
    let mounted = mounts::mounts_below(&real).is_ok_and(|points| points.contains(&real));
    match error {
        nix::errno::Errno::EINVAL | nix::errno::Errno::EPERM if mounted => {
            stays(&real);
            Ok(())
        }
        nix::errno::Errno::EINVAL => Err(Error::NotMounted { target: real }),
        error => Err(Error::Unmount {
            target: real,
            source: error.into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(line: &str) -> Call {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        parse(&words)
    }

    #[test]
    fn what_is_asked_for_is_understood_in_every_spelling() {
        for (line, kind, bind, recursive, read_only, other) in [
            (
                "-t proc none /mnt/proc",
                Some("proc"),
                false,
                false,
                false,
                false,
            ),
            (
                "-o ro -t sysfs none /mnt/sys",
                Some("sysfs"),
                false,
                false,
                true,
                false,
            ),
            (
                "-tsysfs none /mnt/sys -r",
                Some("sysfs"),
                false,
                false,
                true,
                false,
            ),
            ("--bind /a /b", None, true, false, false, false),
            ("-o bind,ro /a /b", None, true, false, true, false),
            ("-o rbind /a /b", None, true, true, false, false),
            ("-nR /a /b", None, true, true, false, false),
            (
                "--types=devpts -o gid=5,mode=620 none /b",
                Some("devpts"),
                false,
                false,
                false,
                false,
            ),
            ("-L label /b", None, false, false, false, true),
            ("--make-private /b", None, false, false, false, true),
        ] {
            let call = call(line);
            assert_eq!(
                (
                    call.kind.as_deref(),
                    call.bind,
                    call.recursive,
                    call.read_only,
                    call.other
                ),
                (kind, bind, recursive, read_only, other),
                "{line}"
            );
        }
        assert_eq!(call("-o a,b=c -o d x y").options, ["a", "b=c", "d"]);
        assert_eq!(call("-t ext4 -o loop=/dev/loop0 x y").names, ["x", "y"]);
        assert!(call("-o loop=/dev/loop0 x y").has("loop"));
    }

    #[test]
    fn images_and_devices_are_refused_with_a_hint() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let path = image.path().display().to_string();
        for line in [
            format!("-o loop {path} /mnt"),
            format!("{path} /mnt"),
            "/dev/mapper/loop0p1 /mnt".to_owned(),
            "-t ext4 /dev/sda1 /mnt".to_owned(),
        ] {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let error = mount_main(OsStr::new("mount"), &words).unwrap_err();
            assert!(
                error.to_string().contains("no loop devices"),
                "{line}: {error}"
            );
            assert!(error.hint().unwrap().contains("block-device-default.yaml"));
            assert_eq!(error.code(), 32);
        }
    }

    #[test]
    fn what_lies_in_the_target_is_looked_up_there() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        std::fs::create_dir_all(at("mnt/own")).unwrap();
        std::fs::create_dir_all(at("out/own")).unwrap();
        for (to, link) in [
            ("mnt", "root"),
            ("../out", "mnt/up"),
            ("/own", "mnt/inside"),
            ("/proc/self/root", "mnt/magic"),
        ] {
            std::os::unix::fs::symlink(to, at(link)).unwrap();
        }
        let found = |root: &str, path: &str| {
            let place = place_in(Some(&at(root)), &at(path)).ok()?;
            std::fs::read_link(format!("/proc/self/fd/{}", place.as_raw_fd())).ok()
        };
        for root in ["mnt", "root"] {
            for name in ["own", "inside", "./own"] {
                let real = std::fs::canonicalize(at("mnt/own")).ok();
                assert_eq!(found(root, &format!("{root}/{name}")), real, "{name}");
                assert_eq!(found(root, &format!("mnt/{name}")), real, "{name}");
            }
            for name in ["up", "up/own", "magic", "magic/etc"] {
                assert_eq!(found(root, &format!("{root}/{name}")), None, "{name}");
                assert_eq!(found(root, &format!("mnt/{name}")), None, "{name}");
            }
            let out = std::fs::canonicalize(at("out")).ok();
            assert_eq!(found(root, "out"), out);
            assert_eq!(found(root, "mnt/../out"), out);
        }
    }

    #[test]
    fn what_is_not_mounted_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let words = [directory.path().as_os_str().to_owned()];
        let error = umount_main(OsStr::new("umount"), &words).unwrap_err();
        // Without privileges the kernel does not even look.
        assert!(
            matches!(error, Error::NotMounted { .. } | Error::Unmount { .. }),
            "{error}"
        );
        assert!(matches!(
            umount_main(OsStr::new("umount"), &["-l".into()]),
            Err(Error::Usage)
        ));
    }
}
