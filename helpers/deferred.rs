//! The initramfs is built once, after all packages, not by each of them.
//!
//! `update-initramfs` called by a maintainer script only takes a note;
//! `kiln-deferred run` does what is noted. Called by a hook it is the real one.
//! The kernel's and initramfs-tools' scripts find it by `PATH`, which apt sets
//! (`DPkg::Path`, see `apt.rs`).

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Explain;
use super::pigz::Lent;
use super::record::{self, INITRAMFS, Journal};

/// The program that this one stands before.
const REAL: &str = "/usr/sbin/update-initramfs";
const BOOT: &str = "/boot";
/// Where kernels have their modules, one directory a version.
const MODULES: &str = "/lib/modules";
/// Variables that dpkg gives to maintainer scripts.
const DPKG_VARIABLES: [&str; 2] = ["DPKG_MAINTSCRIPT_PACKAGE", "DPKG_MAINTSCRIPT_NAME"];

/// Why an initramfs is not built or noted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A note cannot be taken or read.
    #[error(transparent)]
    Record(#[from] record::Error),
    /// The real program cannot be started.
    #[error("cannot run `{REAL}`")]
    Start(#[source] io::Error),
    /// The real program failed.
    #[error("`{command}` failed with status {code}")]
    Failed {
        /// The command line.
        command: String,
        /// Its exit status.
        code: i32,
    },
    /// Not a command of `kiln-deferred`.
    #[error("unknown command `{command}`")]
    Usage {
        /// The argument.
        command: String,
    },
}

impl Explain for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Record(error) => error.hint(),
            Self::Start(_) => Some("it belongs to the package `initramfs-tools`".into()),
            Self::Failed { .. } => {
                Some("its output above says why; the request stays pending".into())
            }
            Self::Usage { .. } => Some("kiln-deferred run | kiln-deferred pending".into()),
        }
    }

    fn code(&self) -> u8 {
        match self {
            Self::Start(error) if error.kind() == io::ErrorKind::NotFound => 127,
            Self::Start(_) => 126,
            _ => 1,
        }
    }
}

/// What an initramfs is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Mode {
    /// Made anew (`-c`).
    Create,
    /// Made again (`-u`).
    Update,
}

/// For which kernels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Kernels {
    /// This version.
    Version(String),
    /// Every one (`-k all`).
    All,
    /// The newest that has an initramfs (no `-k`).
    Newest,
}

/// A noted call.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Pending {
    mode: Mode,
    kernels: Kernels,
    /// Directory of the images.
    boot: PathBuf,
}

impl Pending {
    fn arguments(&self) -> Vec<String> {
        let mut words = vec![match self.mode {
            Mode::Create => "-c".to_owned(),
            Mode::Update => "-u".to_owned(),
        }];
        match &self.kernels {
            Kernels::Version(version) => words.extend(["-k".to_owned(), version.clone()]),
            Kernels::All => words.extend(["-k".to_owned(), "all".to_owned()]),
            Kernels::Newest => {}
        }
        if self.boot != Path::new(BOOT) {
            words.extend(["-b".to_owned(), self.boot.display().to_string()]);
        }
        words
    }
}

/// A call of `update-initramfs`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Call {
    Later(Pending),
    Delete(Kernels),
    /// Help, or something that the real program shall refuse.
    Other,
}

fn parse(args: &[OsString]) -> Call {
    let mut mode = None;
    let mut kernels = Kernels::Newest;
    let mut boot = PathBuf::from(BOOT);
    let mut args = args.iter().map(|arg| arg.to_string_lossy());
    while let Some(arg) = args.next() {
        let Some(letters) = arg.strip_prefix('-').filter(|rest| !rest.starts_with('-')) else {
            return Call::Other;
        };
        for (at, letter) in letters.char_indices() {
            let rest = letters.get(at + letter.len_utf8()..).unwrap_or_default();
            match letter {
                'c' | 'u' | 'd' => mode = Some(letter),
                'v' | 't' => {}
                'k' | 'b' => {
                    let value = if rest.is_empty() {
                        args.next().map(|value| value.into_owned())
                    } else {
                        Some(rest.to_owned())
                    };
                    match value {
                        Some(value) if letter == 'b' => boot = value.into(),
                        Some(value) if value == "all" => kernels = Kernels::All,
                        Some(value) => kernels = Kernels::Version(value),
                        None => return Call::Other,
                    }
                    break;
                }
                _ => return Call::Other,
            }
        }
    }
    match (mode, kernels) {
        // Only the real program knows how to complain about this.
        (None, _) | (Some('c' | 'd'), Kernels::Newest) => Call::Other,
        (Some('d'), kernels) => Call::Delete(kernels),
        (Some('c'), kernels) => Call::Later(Pending {
            mode: Mode::Create,
            kernels,
            boot,
        }),
        (Some(_), kernels) => Call::Later(Pending {
            mode: Mode::Update,
            kernels,
            boot,
        }),
    }
}

/// `update-initramfs {-c|-u|-d} [-k VERSION] [-b DIRECTORY]`
pub(super) fn update_initramfs(name: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    // dpkg's triggers clear the package's name but not the script's.
    let in_dpkg = DPKG_VARIABLES
        .iter()
        .any(|name| super::env_text(name).is_some());
    let can_record = super::env_os("KILN_RECORD").is_some();
    match parse(args) {
        Call::Later(pending) if in_dpkg && can_record => {
            let journal = Journal::open(INITRAMFS)?;
            let mut all: Vec<Pending> = journal.read()?;
            if !all.contains(&pending) {
                all.push(pending);
                journal.write(&all)?;
            }
            super::say(&format!(
                "{}: deferred until all packages are installed",
                name.display()
            ));
            Ok(ExitCode::SUCCESS)
        }
        Call::Later(pending) if can_record => {
            // What a hook builds now need not be built again.
            let status = real(args)?;
            if status.success() {
                forget(|noted| covers(&pending, noted))?;
            }
            Ok(super::exit_code(status))
        }
        Call::Delete(kernels) if can_record => {
            forget(|noted| kernels == Kernels::All || noted.kernels == kernels)?;
            Ok(super::exit_code(real(args)?))
        }
        _ => Ok(super::exit_code(real(args)?)),
    }
}

/// Whether a build of `done` makes one for `noted` superfluous.
fn covers(done: &Pending, noted: &Pending) -> bool {
    done.boot == noted.boot
        && (done.kernels == noted.kernels
            // Updating all leaves out kernels that have none yet.
            || done.kernels == Kernels::All && (done.mode == Mode::Create || noted.mode == Mode::Update))
}

fn forget(is_done: impl Fn(&Pending) -> bool) -> Result<(), Error> {
    let journal = Journal::open(INITRAMFS)?;
    let mut all: Vec<Pending> = journal.read()?;
    let before = all.len();
    all.retain(|noted| !is_done(noted));
    if all.len() < before {
        journal.write(&all)?;
    }
    Ok(())
}

fn real(args: &[OsString]) -> Result<ExitStatus, Error> {
    start(Command::new(REAL).args(args))
}

/// Runs the real program.
fn start(command: &mut Command) -> Result<ExitStatus, Error> {
    let _lent = Lent::new();
    command.status().map_err(Error::Start)
}

/// The fewest builds that do all that is noted: each version once, those without
/// modules not at all.
fn plan(pending: &[Pending], root: &Path) -> Vec<Pending> {
    let below = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    let installed: BTreeSet<String> = std::fs::read_dir(below(Path::new(MODULES)))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    let has_image =
        |boot: &Path, version: &str| below(boot).join(format!("initrd.img-{version}")).exists();
    let mut builds: Vec<Pending> = Vec::new();
    let add = |builds: &mut Vec<Pending>, mode: Mode, version: &str, boot: &Path| {
        let kernels = Kernels::Version(version.to_owned());
        match builds
            .iter_mut()
            .find(|one| one.kernels == kernels && one.boot == boot)
        {
            Some(known) => known.mode = known.mode.min(mode),
            None => builds.push(Pending {
                mode,
                kernels,
                boot: boot.to_owned(),
            }),
        }
    };
    for one in pending {
        if let Kernels::Version(version) = &one.kernels
            && installed.contains(version)
        {
            add(&mut builds, one.mode, version, &one.boot);
        }
    }
    for one in pending.iter().filter(|one| one.kernels == Kernels::All) {
        for version in &installed {
            if one.mode == Mode::Create || has_image(&one.boot, version) {
                add(&mut builds, one.mode, version, &one.boot);
            }
        }
    }
    for one in pending.iter().filter(|one| one.kernels == Kernels::Newest) {
        let is_built = |version: &String| {
            let kernels = Kernels::Version(version.clone());
            builds
                .iter()
                .any(|build| build.kernels == kernels && build.boot == one.boot)
        };
        // Which is the newest is for the real program to say, unless it does not matter.
        let rest = installed
            .iter()
            .any(|version| has_image(&one.boot, version) && !is_built(version));
        if rest && !builds.contains(one) {
            builds.push(one.clone());
        }
    }
    builds
}

/// `kiln-deferred run|pending`
pub(super) fn main(_: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    let command = args
        .first()
        .map(|arg| arg.to_string_lossy().into_owned())
        .unwrap_or_default();
    match command.as_str() {
        "pending" => {
            let pending: Vec<Pending> = Journal::open(INITRAMFS)?.read()?;
            for one in plan(&pending, Path::new("/")) {
                super::print(&format!("update-initramfs {}\n", one.arguments().join(" ")));
            }
            Ok(ExitCode::SUCCESS)
        }
        "run" => run(),
        _ => Err(Error::Usage { command }),
    }
}

fn run() -> Result<ExitCode, Error> {
    // The journal stays locked only for a moment: hooks of the bootloader that
    // the real program starts may come back here.
    let pending: Vec<Pending> = Journal::open(INITRAMFS)?.read()?;
    for build in plan(&pending, Path::new("/")) {
        let arguments = build.arguments();
        let mut command = Command::new(REAL);
        command.args(&arguments);
        for name in DPKG_VARIABLES {
            command.env_remove(name);
        }
        let status = start(&mut command)?;
        if !status.success() {
            let code = status.code().unwrap_or(1);
            return Err(Error::Failed {
                command: format!("update-initramfs {}", arguments.join(" ")),
                code,
            });
        }
    }
    forget(|noted| pending.contains(noted))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    fn later(line: &str) -> Pending {
        match parse(&words(line)) {
            Call::Later(pending) => pending,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn plan_text(root: &Path, lines: &[&str]) -> String {
        let pending: Vec<Pending> = lines.iter().map(|line| later(line)).collect();
        plan(&pending, root)
            .iter()
            .map(|one| one.arguments().join(" "))
            .collect::<Vec<_>>()
            .join("; ")
    }

    #[test]
    fn calls_are_understood() {
        assert_eq!(
            later("-c -k 6.1 -b /boot").arguments().join(" "),
            "-c -k 6.1"
        );
        assert_eq!(later("-uk6.1").arguments().join(" "), "-u -k 6.1");
        assert_eq!(
            later("-u -k all -b /x").arguments().join(" "),
            "-u -k all -b /x"
        );
        assert_eq!(later("-u").arguments().join(" "), "-u");
        assert_eq!(
            parse(&words("-d -k 6.1")),
            Call::Delete(Kernels::Version("6.1".into()))
        );
        for line in ["", "-c", "-d", "--help", "-h", "-k", "-u extra"] {
            assert_eq!(parse(&words(line)), Call::Other, "{line}");
        }
    }

    #[test]
    fn every_version_is_built_once_and_only_if_it_is_there() {
        let root = tempfile::tempdir().unwrap();
        for version in ["6.1", "6.2"] {
            std::fs::create_dir_all(root.path().join("lib/modules").join(version)).unwrap();
        }
        std::fs::create_dir(root.path().join("boot")).unwrap();
        let plan = |lines: &[&str]| plan_text(root.path(), lines);
        assert_eq!(
            plan(&["-u -k 6.1", "-c -k 6.1", "-u", "-c -k 5.9", "-u -k all"]),
            "-c -k 6.1"
        );
        assert_eq!(plan(&["-u"]), "");
        assert_eq!(plan(&["-c -k all"]), "-c -k 6.1; -c -k 6.2");
        std::fs::write(root.path().join("boot/initrd.img-6.2"), "").unwrap();
        assert_eq!(plan(&["-c -k 6.1", "-u"]), "-c -k 6.1; -u");
        assert_eq!(
            plan(&["-c -k 6.1", "-u", "-u -k all"]),
            "-c -k 6.1; -u -k 6.2"
        );
        assert_eq!(plan(&["-u -k 6.2", "-u"]), "-u -k 6.2");
    }

    #[test]
    fn a_build_covers_only_what_it_made() {
        for (done, noted, expected) in [
            ("-c -k 6.1", "-u -k 6.1", true),
            ("-u -k 6.1", "-u -k 6.2", false),
            ("-u -k all", "-u -k 6.1", true),
            ("-u -k all", "-c -k 6.1", false),
            ("-c -k all", "-c -k 6.1", true),
            ("-u -k 6.1 -b /x", "-u -k 6.1", false),
        ] {
            assert_eq!(
                covers(&later(done), &later(noted)),
                expected,
                "{done} / {noted}"
            );
        }
    }
}
