//! Lets the target's own dpkg finish what was unpacked.
//!
//! The order is that of every Debian bootstrap: users and groups first
//! (base-passwd), then what has a preinst, then everything. Runs in a mount
//! namespace of its own (if mounts are possible at all), so that nothing stays
//! mounted whatever happens.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::dpkg;
use super::error::Error;
use super::index::Package;
use crate::fetch::Blob;
use crate::rootfs::beneath::Root;
use crate::sandbox::command::Program;
use crate::sandbox::inside::Inside;
use crate::sandbox::mounts::mount_target_api;
use crate::sandbox::seccomp;
use crate::sandbox::standin::mounts_are_possible;
use crate::threads::joined;

/// Where packages for dpkg lie in the root meanwhile.
const PACKAGES: &str = "var/lib/dpkg/kiln";
/// What keeps daemons from starting (`invoke-rc.d`, `deb-systemd-invoke`).
const POLICY: &str = "usr/sbin/policy-rc.d";
/// Lines of output that a failure shows.
const TAIL: usize = 30;
/// Bytes that dpkg's status may have.
const STATUS_LIMIT: u64 = 64 << 20;

/// What is to be configured.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    /// All packages in order.
    pub packages: &'a [&'a Package],
    /// Names of those that make the minimal system.
    pub base: &'a BTreeSet<String>,
    /// The .deb of each.
    pub blobs: &'a [Blob],
    /// Those that dpkg has to unpack itself.
    pub for_dpkg: &'a [usize],
    /// `SOURCE_DATE_EPOCH` for scripts that know it.
    pub epoch: Option<&'a str>,
}

/// Configures all packages of a root; `line` gets what dpkg and the scripts print.
pub fn configure(
    root: &Root,
    job: Job<'_>,
    line: &mut (dyn FnMut(&str) + Send),
) -> Result<(), Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, move || {
            if mounts_are_possible() {
                isolate(root.path())?;
            }
            let refused = |source| Error::Run {
                program: "mount".to_owned(),
                root: root.path().to_owned(),
                source,
            };
            let _api = mount_target_api(root.path()).map_err(refused)?;
            let inside = Arc::new(Inside::new(root.path()).map_err(refused)?);
            let mut run = Run {
                root,
                inside,
                job,
                line,
                held: Vec::new(),
            };
            let result = run.all();
            if result.is_err() {
                // What led to it may be in there.
                run.held.iter().for_each(|text| (run.line)(text));
            }
            result
        });
        joined(thread.map_err(|source| Error::Thread { source })?)
    })
}

/// Gives this thread a mount namespace whose mounts reach nobody else.
fn isolate(root: &Path) -> Result<(), Error> {
    unshare(CloneFlags::CLONE_NEWNS)
        .and_then(|()| {
            mount(
                None::<&str>,
                "/",
                None::<&str>,
                MsFlags::MS_REC | MsFlags::MS_PRIVATE,
                None::<&str>,
            )
        })
        .map_err(|errno| Error::Run {
            program: "unshare".to_owned(),
            root: root.to_owned(),
            source: errno.into(),
        })
}

struct Run<'a, 'l> {
    root: &'a Root,
    inside: Arc<Inside>,
    job: Job<'a>,
    line: &'l mut (dyn FnMut(&str) + Send),
    /// What passes printed that failed and were made up for. dpkg calls each package
    /// an error that only waits for another, so nobody sees this unless all fails.
    held: Vec<String>,
}

impl Run<'_, '_> {
    fn all(&mut self) -> Result<(), Error> {
        let policy = self.deny_daemons()?;
        let mut debs = Vec::new();
        for index in self.job.for_dpkg {
            debs.push((*index, self.provide(*index)?));
        }
        // Users and groups exist before anything else wants them.
        let users = "base-passwd";
        if let Some(index) = self.position(users) {
            match debs.iter().find(|(deb, _)| *deb == index) {
                Some((_, path)) => {
                    let path = path.clone();
                    self.dpkg(&["--force-depends", "--install", &path])?;
                    debs.retain(|(deb, _)| *deb != index);
                }
                None => self.dpkg(&["--force-depends", "--configure", users])?,
            }
        }
        let (base, others): (Vec<_>, Vec<_>) = debs
            .into_iter()
            .partition(|(index, _)| self.is_base(*index));
        if !base.is_empty() {
            let mut arguments = vec!["--force-depends", "--unpack"];
            arguments.extend(base.iter().map(|(_, path)| path.as_str()));
            self.dpkg(&arguments)?;
        }
        if !others.is_empty() {
            // Their preinst may use anything of the minimal system.
            let names: Vec<&str> = self.job.base.iter().map(String::as_str).collect();
            let mut arguments = vec!["--configure"];
            arguments.extend(names.iter().filter(|name| **name != users));
            self.dpkg(&arguments)?;
            for (index, path) in &others {
                let pre_depends = self
                    .job
                    .packages
                    .get(*index)
                    .is_some_and(|package| !package.pre_depends.is_empty());
                if pre_depends {
                    // What it needs may be unpacked only; what cannot be configured
                    // yet is tried again at the end, where failures count.
                    self.configure_what_can_be()?;
                }
                self.dpkg(&["--unpack", path])?;
            }
        }
        self.dpkg(&["--configure", "--pending"])?;
        self.check()?;
        self.clean(policy)
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.job
            .packages
            .iter()
            .position(|package| package.name == name)
    }

    fn is_base(&self, index: usize) -> bool {
        self.job
            .packages
            .get(index)
            .is_some_and(|package| self.job.base.contains(&package.name))
    }

    fn file_error(&self, action: &'static str, path: &str) -> impl Fn(io::Error) -> Error + use<> {
        let path = self.root.path().join(path);
        move |source| Error::File {
            action,
            path: path.clone(),
            source,
        }
    }

    /// Writes `policy-rc.d`; `false` when a package ships one, which is left alone.
    fn deny_daemons(&self) -> Result<bool, Error> {
        let path = Path::new(POLICY);
        let fail = self.file_error("write", POLICY);
        if self.root.stat(path).map_err(&fail)?.is_some() {
            return Ok(false);
        }
        self.root.make_dirs(Path::new("usr/sbin")).map_err(&fail)?;
        self.root
            .write(path, b"#!/bin/sh\nexit 101\n", 0o755)
            .map_err(&fail)?;
        Ok(true)
    }

    /// Copies a package into the root, where dpkg can see it. A link would let
    /// the package's scripts change the cache.
    fn provide(&self, index: usize) -> Result<String, Error> {
        let name = format!("{PACKAGES}/{index}.deb");
        let fail = self.file_error("write", &name);
        self.root.make_dirs(Path::new(PACKAGES)).map_err(&fail)?;
        let blob = self.job.blobs.get(index).ok_or_else(|| {
            fail(io::Error::new(
                io::ErrorKind::NotFound,
                "the package was not fetched",
            ))
        })?;
        let mut from = fs_err::File::open(&blob.path).map_err(&fail)?;
        let mut to = self.root.create(Path::new(&name), 0o644).map_err(&fail)?;
        io::copy(&mut from, &mut to).map_err(&fail)?;
        Ok(format!("/{name}"))
    }

    /// Configures all packages whose dependencies are there.
    fn configure_what_can_be(&mut self) -> Result<(), Error> {
        let arguments = ["--configure", "--pending"];
        let program = self.program(&arguments);
        let mut lines = Vec::new();
        let result = dpkg(self.root, program, &arguments, &mut |text| {
            lines.push(text.to_owned());
        });
        match result {
            Ok(()) => lines.iter().for_each(|text| (self.line)(text)),
            Err(Error::Dpkg { command, .. }) => {
                tracing::debug!(%command, output = lines.join("\n"), "tried again later");
                self.held.append(&mut lines);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn dpkg(&mut self, arguments: &[&str]) -> Result<(), Error> {
        dpkg(self.root, self.program(arguments), arguments, self.line)
    }

    fn program(&self, arguments: &[&str]) -> Program {
        let mut all: Vec<OsString> = vec!["/usr/bin/dpkg".into()];
        // Times in a log would differ from build to build.
        all.extend(["--force-unsafe-io", "--log=/dev/null"].map(OsString::from));
        all.extend(arguments.iter().map(OsString::from));
        let mut environment: Vec<(OsString, OsString)> = [
            ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            ("HOME", "/root"),
            ("LC_ALL", "C"),
            ("LANG", "C"),
            ("DEBIAN_FRONTEND", "noninteractive"),
            ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
        ]
        .map(|(name, value)| (name.into(), value.into()))
        .into();
        if let Some(epoch) = self.job.epoch {
            environment.push(("SOURCE_DATE_EPOCH".into(), epoch.into()));
        }
        Program {
            arguments: all,
            environment,
            inside: Some(Arc::clone(&self.inside)),
            directory: PathBuf::from("/"),
            handed: None,
            filter: Some(seccomp::no_sync()),
            keep_open: None,
            watch: None,
        }
    }

    fn check(&self) -> Result<(), Error> {
        let path = format!("{}/status", dpkg::ADMIN);
        let status = self
            .root
            .read(Path::new(&path), STATUS_LIMIT)
            .map_err(self.file_error("read", &path))?;
        let left = dpkg::unconfigured(&String::from_utf8_lossy(&status));
        if left.is_empty() {
            Ok(())
        } else {
            Err(Error::Unconfigured { packages: left })
        }
    }

    /// Removes what only the bootstrap needed, and what differs from run to run.
    fn clean(&self, policy: bool) -> Result<(), Error> {
        let mut paths: Vec<String> = self
            .job
            .for_dpkg
            .iter()
            .map(|index| format!("{PACKAGES}/{index}.deb"))
            .collect();
        if policy {
            paths.push(POLICY.to_owned());
        }
        paths.extend(
            [
                "var/log/alternatives.log",
                "var/log/dpkg.log",
                "var/cache/ldconfig/aux-cache",
                "var/lib/dpkg/status-old",
                "var/cache/debconf/config.dat-old",
                "var/cache/debconf/templates.dat-old",
            ]
            .map(str::to_owned),
        );
        for path in paths {
            self.root
                .remove_file(Path::new(&path))
                .map_err(self.file_error("remove", &path))?;
        }
        if !self.job.for_dpkg.is_empty() {
            self.root
                .remove_dir(Path::new(PACKAGES))
                .map_err(self.file_error("remove", PACKAGES))?;
        }
        Ok(())
    }
}

/// Runs dpkg in a root; `line` gets what it prints.
fn dpkg(
    root: &Root,
    program: Program,
    arguments: &[&str],
    line: &mut dyn FnMut(&str),
) -> Result<(), Error> {
    let mut last = std::collections::VecDeque::new();
    let status = program
        .run(&mut |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let text = text.trim_end();
            line(text);
            if last.len() == TAIL {
                last.pop_front();
            }
            last.push_back(text.to_owned());
        })
        .map_err(|source| Error::Run {
            program: "/usr/bin/dpkg".to_owned(),
            root: root.path().to_owned(),
            source,
        })?;
    if status.success() {
        return Ok(());
    }
    let shown: Vec<&str> = arguments.iter().copied().take(6).collect();
    let more = if arguments.len() > shown.len() {
        " …"
    } else {
        ""
    };
    Err(Error::Dpkg {
        command: format!("dpkg {}{more}", shown.join(" ")),
        status: status.to_string(),
        output: last.into(),
    })
}
