//! Programs that hooks call, in any root: no interpreter and no shared library.
//!
//! They are the kiln binary under other names (`argv[0]`), found through links in
//! a directory that is first in `PATH` during the build. Nothing of them stays in
//! the image. They read no NSS databases: inside a target there is no telling
//! which C library answers.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::process::{Command, ExitCode, ExitStatus};

pub mod apt;
pub mod bootstrap;
pub mod cache_url;
pub mod deferred;
pub mod dib_python;
pub mod environment;
pub mod grub;
pub mod install_types;
pub mod package_installs;
pub mod package_lists;
pub mod pkg_map;
pub mod record;
pub mod run_parts;
pub mod shims;
pub mod squash;
pub mod sudo;
pub mod svc_map;
mod when;
mod yaml;

/// Where a helper is of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In outside and inside hooks.
    Anywhere,
    /// Only in hooks that run in the target: outside, the host's own is meant.
    Inside,
}

/// A program and the name it is called by.
pub struct Helper {
    /// The base name of `argv[0]`.
    pub name: &'static str,
    /// Where a link with this name belongs.
    pub scope: Scope,
    main: fn(&OsStr, &[OsString]) -> ExitCode,
}

impl std::fmt::Debug for Helper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Helper")
            .field("name", &self.name)
            .field("scope", &self.scope)
            .finish()
    }
}

macro_rules! helpers {
    ($($name:literal $scope:ident $main:path;)*) => {
        /// Every helper, sorted by name.
        pub const HELPERS: &[Helper] = &[$(Helper {
            name: $name,
            scope: Scope::$scope,
            main: |called, args| finish(called, $main(called, args)),
        }),*];
        /// The names of all helpers, for the links that the engine makes.
        pub const NAMES: &[&str] = &[$($name),*];
    };
}

helpers! {
    "cache-url" Anywhere cache_url::main;
    "dib-init-system" Inside dib_python::init_system;
    "dib-python" Inside dib_python::main;
    "dib-run-parts" Anywhere run_parts::main;
    "grub-install" Inside grub::install::main;
    "grub-mkrelpath" Inside grub::relpath::main;
    "grub-probe" Inside grub::probe::main;
    "grub2-install" Inside grub::install::main;
    "grub2-mkrelpath" Inside grub::relpath::main;
    "grub2-probe" Inside grub::probe::main;
    "install-packages" Inside apt::main;
    "install-types-enable" Anywhere install_types::main;
    "kiln-bootstrap" Anywhere bootstrap::main;
    "kiln-deferred" Inside deferred::main;
    "kiln-environment" Anywhere environment::main;
    "kiln-with-shims" Inside shims::main;
    "package-installs" Inside package_lists::install;
    "package-installs-squash" Anywhere squash::main;
    "package-installs-v2" Inside package_installs::main;
    "package-uninstalls" Inside package_lists::uninstall;
    "pkg-map" Anywhere pkg_map::main;
    "sudo" Anywhere sudo::main;
    "svc-map" Inside svc_map::main;
    "svc-map-merge" Anywhere svc_map::merge_main;
    "update-initramfs" Inside deferred::update_initramfs;
}

/// Runs the helper of that name with `args` (without `argv[0]`); `None` if there is none.
pub fn run(name: &str, args: Vec<OsString>) -> Option<ExitCode> {
    let helper = HELPERS.iter().find(|helper| helper.name == name)?;
    Some((helper.main)(OsStr::new(name), &args))
}

/// An error that a helper can explain to the author of a hook.
pub trait Explain: std::error::Error {
    /// What to do about it.
    fn hint(&self) -> Option<String> {
        None
    }

    /// The exit status, from 1.
    fn code(&self) -> u8 {
        1
    }
}

fn finish<E: Explain + 'static>(name: &OsStr, result: Result<ExitCode, E>) -> ExitCode {
    let error = match result {
        Ok(code) => return code,
        Err(error) => error,
    };
    let mut text = format!("{}: error: {error}", name.display());
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    if let Some(hint) = error.hint() {
        text.push_str(&format!("\nhint: {hint}"));
    }
    say(&text);
    ExitCode::from(error.code())
}

/// Writes text to standard output; a reader that has gone is no error.
pub(crate) fn print(text: &str) {
    let mut out = io::stdout().lock();
    // There is nobody left to tell when standard output fails.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes a line to standard error.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// An environment variable that must be text; unset and empty are both `None`.
pub(crate) fn env_text(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The exit status of a child as a shell reports it: 128 and the signal number.
pub(crate) fn exit_code(status: ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// Becomes another program; returns only when that fails.
pub(crate) fn exec(command: &mut Command) -> io::Error {
    std::os::unix::process::CommandExt::exec(command)
}

/// Where a program is in `PATH`, skipping the directory of kiln's own links.
pub(crate) fn find_program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .filter(|dir| !dir.ends_with(".kiln/bin"))
        .map(|dir| dir.join(name))
        .find(|file| is_program(file))
}

/// Whether the current user may execute this file.
pub(crate) fn is_program(path: &std::path::Path) -> bool {
    path.is_file() && nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_unique() {
        assert!(NAMES.windows(2).all(|pair| pair[0] < pair[1]), "{NAMES:?}");
        assert_eq!(NAMES.len(), HELPERS.len());
        assert!(run("no-such-helper", Vec::new()).is_none());
    }
}
