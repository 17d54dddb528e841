//! What tests need from the network, kept from one run to the next.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::{cache, tool};

/// The release of diskimage-builder that kiln is compared with.
pub const UPSTREAM: &str = "diskimage-builder==3.43.0";

/// Runs pip with the caller's own configuration, and puts what it makes in a
/// directory of the cache; nothing happens if that is there already.
fn pip(name: &str, arguments: &[&str], directory_option: &str) -> PathBuf {
    let target = cache().join(name);
    if target.is_dir() {
        return target;
    }
    let making = tempfile::tempdir_in(cache()).expect("a directory can be made");
    let made = making.path().join("made");
    let python = tool("python3").expect("looked for before");
    let output = Command::new(python)
        .args(["-m", "pip"])
        .args(arguments)
        .arg(directory_option)
        .arg(&made)
        .output()
        .expect("python3 can be started");
    assert!(
        output.status.success(),
        "pip {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    // Another test may have been first; both are the same.
    let _ = fs::rename(&made, &target);
    assert!(target.is_dir(), "{} was not made", target.display());
    target
}

/// Whether this machine's Python has pip.
pub fn has_pip() -> bool {
    tool("python3").is_some_and(|python| {
        Command::new(python)
            .args(["-m", "pip", "--version"])
            .output()
            .is_ok_and(|output| output.status.success())
    })
}

/// diskimage-builder as it is published, unpacked; its elements are in
/// `diskimage_builder/elements`. With `dependencies`, what it needs to run, too.
pub fn upstream(dependencies: bool) -> PathBuf {
    let mut arguments = vec!["install", "--quiet", "--no-compile", UPSTREAM];
    let name = UPSTREAM.replace("==", "-");
    if dependencies {
        // pkg_resources, which its entry points import, left setuptools with 81.
        arguments.push("setuptools<81");
        return pip(&format!("{name}-complete"), &arguments, "--target");
    }
    arguments.push("--no-deps");
    pip(&name, &arguments, "--target")
}

/// Wheels of these projects and of what they need.
pub fn wheels(name: &str, projects: &[&str]) -> PathBuf {
    let mut arguments = vec!["download", "--quiet", "--only-binary", ":all:"];
    arguments.extend(projects);
    pip(name, &arguments, "--dest")
}
