//! Build script: turns `elements/` into a table that is compiled into the binary.
//!
//! The table keeps what hooks depend on: the path, the executable bit and
//! symbolic links. Entries are sorted by path so that the binary does not
//! depend on the order in which the filesystem lists directories.

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let elements = root.join("elements");
    println!("cargo::rerun-if-changed={}", elements.display());
    println!("cargo::rerun-if-changed=src/embed/build.rs");
    let mut files = Vec::new();
    if elements.is_dir() {
        walk(&elements, &mut files)?;
    }
    files.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
    let mut out = String::from("&[\n");
    for file in &files {
        let relative = file.strip_prefix(&elements).expect("walked below it");
        let meta = fs::symlink_metadata(file)?;
        // Git keeps only the executable bit, so nothing else is taken over.
        let executable = meta.permissions().mode() & 0o100 != 0;
        let body = if meta.is_symlink() {
            format!("Body::Link({:?})", fs::read_link(file)?)
        } else {
            format!(
                "Body::Data(include_bytes!({:?}))",
                file.display().to_string()
            )
        };
        writeln!(
            out,
            "    File {{ path: {:?}, executable: {executable}, body: {body} }},",
            relative.display().to_string()
        )
        .expect("writing to a string");
    }
    out.push_str("]\n");
    let target = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    fs::write(target.join("elements.rs"), out)
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    // A new file in any directory must rebuild the table.
    println!("cargo::rerun-if-changed={}", dir.display());
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), files)?;
        } else if entry.file_name() != "README.md" {
            // An element's README is made by this program, from the other files.
            files.push(entry.path());
        }
    }
    Ok(())
}
