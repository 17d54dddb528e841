//! Architectures in Debian's notation: that of the machine, and that of an image for which
//! nobody says one.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::sandbox::idmap::find_program;

/// The architecture of the machine, as its kernel says.
pub fn host_arch() -> String {
    let machine = nix::sys::utsname::uname()
        .map(|name| name.machine().to_string_lossy().into_owned())
        .unwrap_or_default();
    match machine.as_str() {
        "x86_64" => "amd64".to_owned(),
        "aarch64" => "arm64".to_owned(),
        arm if arm.starts_with("armv") => "armhf".to_owned(),
        _ => machine,
    }
}

/// The architecture of an image for which none is asked. With DIB it is that of the host's
/// packages on Debian and its kin, where a 64-bit kernel may have programs of 32 bits
/// alone, and some have another name than the kernel gives them (`ppc64el`, `i386`).
pub fn default_arch() -> String {
    let debian = Path::new("/etc/debian_version").exists();
    debian.then(of_packages).flatten().unwrap_or_else(host_arch)
}

fn of_packages() -> Option<String> {
    let output = Command::new(find_program("dpkg")?)
        .arg("--print-architecture")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let name = String::from_utf8(output.stdout).ok()?;
    let name = name.trim();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let printed = output.status.success() && !name.is_empty() && name.chars().all(is_name);
    printed.then(|| name.to_owned())
}
