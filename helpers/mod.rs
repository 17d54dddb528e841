//! Programs that hooks call, in any root: no interpreter and no shared library.
//!
//! They are the kiln binary under other names (`argv[0]`), found through links in
//! a directory that is first in `PATH` during the build. Nothing of them stays in
//! the image. They read no NSS databases: inside a target there is no telling
//! which C library answers.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::process::{Command, ExitCode, ExitStatus};

use crate::sandbox::command::shell_status;

pub mod apt;
pub mod apt_check;
pub mod arguments;
pub mod bootstrap;
pub mod cache_url;
pub mod chroot;
pub mod cpio;
pub mod deferred;
mod devices;
pub mod dib_python;
pub mod environment;
pub mod extract_image;
pub mod grub;
pub mod install_types;
pub mod lib;
mod mount;
pub mod package_installs;
pub mod package_lists;
pub mod packages;
mod pigz;
pub mod pkg_map;
pub mod record;
pub mod run_parts;
pub mod shims;
pub mod squash;
pub mod sudo;
pub mod svc_map;
mod system;
mod systemctl;
mod units;
mod when;
mod yaml;

/// Where a helper is of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In outside and inside hooks.
    Anywhere,
    /// Only in hooks that run on the host.
    Outside,
    /// Only in hooks that run in the target: outside, the host's own is meant.
    Inside,
    /// In no `PATH`: only `sudo` and shell functions call it (see [`FUNCTIONS`]),
    /// so that who looks for the program finds the system's; and [`pigz`], which
    /// has a place only while an initramfs is made.
    Called,
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
    };
}

helpers! {
    "cache-url" Anywhere cache_url::main;
    "chroot" Called chroot::main;
    "dib-init-system" Inside dib_python::init_system;
    "dib-python" Inside dib_python::main;
    "dib-run-parts" Anywhere run_parts::main;
    "dmsetup" Called devices::main;
    "dracut" Inside system::without_shims;
    "extract-image" Outside extract_image::main;
    "grub-install" Inside grub::install::main;
    "grub-mkconfig" Inside shims::covered;
    "grub-mkrelpath" Inside grub::relpath::main;
    "grub-probe" Inside grub::probe::main;
    "grub2-install" Inside grub::install::main;
    "grub2-mkconfig" Inside shims::covered;
    "grub2-mkrelpath" Inside grub::relpath::main;
    "grub2-probe" Inside grub::probe::main;
    "hostnamectl" Inside system::hostnamectl;
    "install-packages" Inside packages::main;
    "install-types-enable" Anywhere install_types::main;
    "kiln-apt-check" Inside apt_check::main;
    "kiln-bootstrap" Anywhere bootstrap::main;
    "kiln-cpio" Inside cpio::main;
    "kiln-deferred" Inside deferred::main;
    "kiln-environment" Anywhere environment::main;
    "kiln-with-shims" Inside shims::main;
    "kpartx" Called devices::main;
    "losetup" Called devices::main;
    "map-packages" Inside packages::map_main;
    "mkinitramfs" Inside system::without_shims;
    "mkinitrd" Inside system::without_shims;
    "modprobe" Inside system::modprobe;
    "mount" Called mount::mount_main;
    "package-installs" Inside package_lists::install;
    "package-installs-squash" Anywhere squash::main;
    "package-installs-v2" Inside package_installs::main;
    "package-uninstalls" Inside package_lists::uninstall;
    "pigz" Called pigz::main;
    "pkg-map" Anywhere pkg_map::main;
    "service" Inside system::service;
    "start-stop-daemon" Inside system::start_stop_daemon;
    "sudo" Anywhere sudo::main;
    "svc-map" Inside svc_map::main;
    "svc-map-merge" Anywhere svc_map::merge_main;
    "sysctl" Inside system::sysctl;
    "systemctl" Inside systemctl::main;
    "udevadm" Inside system::udevadm;
    "umount" Called mount::umount_main;
    "update-initramfs" Inside deferred::update_initramfs;
}

/// Programs that diskimage-builder's elements bring in `bin/`. Hooks call them by
/// that path as well, so kiln's elements have links to kiln there.
pub const BROUGHT: [&str; 10] = [
    "cache-url",
    "extract-image",
    "install-packages",
    "package-installs",
    "package-installs-squash",
    "package-installs-v2",
    "package-uninstalls",
    "pkg-map",
    "svc-map",
    "svc-map-merge",
];

/// Those of [`BROUGHT`] and their like that give way to an element of the user's own:
/// they are shell scripts there, which run wherever the package manager does.
pub const GIVING_WAY: [&str; 2] = ["install-packages", "map-packages"];

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

    /// Whether the reason is not to be found in the build: a server, a mirror's name. A
    /// look around in the target is of no use then, and the hint is all there is to do.
    fn is_outside(&self) -> bool {
        false
    }
}

/// A long option without its dashes, and the value behind its equals sign.
fn long_option(argument: &str) -> Option<(&str, Option<String>)> {
    let long = argument.strip_prefix("--")?;
    Some(match long.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (long, None),
    })
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
        let told = error.is_outside() && record::explain(error.code(), &hint);
        if !told {
            text.push_str(&format!("\nhint: {hint}"));
        }
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

/// The same, whether it is text or not.
pub(crate) fn env_os(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The exit status of a child as a shell reports it: 128 and the signal number.
pub(crate) fn exit_code(status: ExitStatus) -> ExitCode {
    ExitCode::from(u8::try_from(shell_status(status)).unwrap_or(1))
}

/// Becomes another program; returns only when that fails.
pub(crate) fn exec(command: &mut Command) -> io::Error {
    std::os::unix::process::CommandExt::exec(command)
}

/// Programs that `sudo` takes to be kiln's, whatever is in `PATH`, and that are
/// shell functions in hooks. What a hook finds in `PATH` by these names outside
/// is the host's own program, fit to be copied.
pub const FUNCTIONS: [&str; 11] = [
    "chroot",
    "dmsetup",
    "kpartx",
    "losetup",
    "modprobe",
    "mount",
    "service",
    "sysctl",
    "systemctl",
    "udevadm",
    "umount",
];

/// The variable by which bash passes a function to the programs it starts.
pub(crate) fn function_name(name: &str) -> String {
    format!("BASH_FUNC_{name}%%")
}

/// Shell functions for [`FUNCTIONS`], as variables; `bin` is where hooks find `sudo`.
pub fn functions(bin: &std::path::Path) -> Vec<(String, String)> {
    let sudo = crate::element::info::quote(&bin.join("sudo").to_string_lossy());
    FUNCTIONS
        .iter()
        // Programs of the target are no others than those that call it.
        .filter(|name| **name != "chroot" || bin.ends_with(".kiln/outside"))
        .map(|name| {
            // In another root the path leads nowhere, and its own program is meant.
            let body = format!(
                "() {{ if [ -x {sudo} ]; then {sudo} {name} \"$@\"; else command {name} \"$@\"; fi\n}}"
            );
            (function_name(name), body)
        })
        .collect()
}

/// Whether a directory of `PATH` holds kiln's own links.
pub(crate) fn is_shim_directory(directory: &std::path::Path) -> bool {
    directory.ends_with(".kiln/bin") || directory.ends_with(".kiln/outside")
}

/// Whether a file is the program of this process under another name.
fn is_this_program(file: &std::path::Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let id = |path: &std::path::Path| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.dev(), meta.ino()))
    };
    id(file).is_some_and(|file| Some(file) == id(std::path::Path::new("/proc/self/exe")))
}

/// Where a program is in `PATH`, skipping kiln's own links.
pub(crate) fn find_program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .filter(|dir| !is_shim_directory(dir))
        .map(|dir| dir.join(name))
        .find(|file| is_program(file) && !is_this_program(file))
}

/// The names in a directory, sorted; those that are not UTF-8 are left out.
pub(crate) fn names_in(directory: &std::path::Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
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
        let names: Vec<_> = HELPERS.iter().map(|helper| helper.name).collect();
        assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "{names:?}");
        assert!(run("no-such-helper", Vec::new()).is_none());
    }
}
