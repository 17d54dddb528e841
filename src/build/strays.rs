//! kiln's stand-ins that a hook copied into the target, replaced by the real programs.
//!
//! Hooks look programs up in `PATH` and copy what they find, for a ramdisk or a
//! root of their own. A few of the names there are kiln's for the build, and the
//! image must contain none of them.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};

use crate::sandbox;
use crate::tree::{Kind, Tree};

use super::failure::Failure;

/// Where programs of a root are.
const DIRECTORIES: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// Files of the tree that are copies of `program`: all names of each inode.
fn copies(tree: &Tree, root: &Path, program: &Path) -> io::Result<Vec<Vec<PathBuf>>> {
    let size = std::fs::metadata(program)?.len();
    let mut found = Vec::new();
    for (id, inode) in tree.inodes() {
        if matches!(&inode.kind, Kind::File(content) if content.size == size) {
            let path = tree.path_of_inode(id);
            let mut file = sandbox::root::within(root, || File::open(&path))??;
            if same_bytes(&mut file, &mut File::open(program)?)? {
                found.push(
                    tree.nodes()
                        .filter(|(_, node)| node.inode == id)
                        .map(|(id, _)| Path::new("/").join(tree.path(id)))
                        .collect(),
                );
            }
        }
    }
    Ok(found)
}

fn same_bytes(a: &mut File, b: &mut File) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; 256 * 1024], vec![0; 256 * 1024]);
    loop {
        let count = a.read(&mut left)?;
        if count == 0 {
            return Ok(b.read(&mut right[..1])? == 0);
        }
        match b.read_exact(&mut right[..count]) {
            Ok(()) if left[..count] == right[..count] => {}
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

/// The real program of a name: the root's own, else the host's.
fn real(root: &Path, name: &OsStr, copies: &[PathBuf], host: &OsStr) -> Option<File> {
    let own = sandbox::root::within(root, || {
        DIRECTORIES
            .iter()
            .map(|directory| Path::new(directory).join(name))
            .filter_map(|path| std::fs::canonicalize(path).ok())
            .find(|path| path.is_file() && !copies.contains(path))
            .and_then(|path| File::open(path).ok())
    });
    own.ok().flatten().or_else(|| {
        std::env::split_paths(host)
            .map(|directory| directory.join(name))
            .find(|path| crate::helpers::is_program(path))
            .and_then(|path| File::open(path).ok())
    })
}

/// What became of copies of kiln.
#[derive(Debug, Default)]
pub struct Strays {
    /// Names that have the real program now.
    pub replaced: Vec<PathBuf>,
    /// Names that are gone: no system has such a program, only builds do.
    pub removed: Vec<PathBuf>,
}

/// Puts the real programs in the places of copies of `program`.
///
/// `host` is the host's search path for programs that the target does not have.
pub fn replace(tree: &Tree, root: &Path, program: &Path, host: &OsStr) -> Result<Strays, Failure> {
    let copies =
        copies(tree, root, program).map_err(Failure::io("looking for copies of kiln's helpers"))?;
    let all: Vec<PathBuf> = copies.iter().flatten().cloned().collect();
    let mut strays = Strays::default();
    for names in copies {
        let Some(path) = names.first() else {
            continue;
        };
        let shown = path.display();
        // A copy may have further names; one of them is the program's.
        let source = names
            .iter()
            .filter_map(|path| path.file_name())
            .find_map(|name| real(root, name, &all, host));
        let is_brought = |path: &PathBuf| {
            let name = path.file_name();
            name.is_some_and(|name| crate::helpers::BROUGHT.iter().any(|known| name == *known))
        };
        if source.is_none() && names.iter().all(is_brought) {
            for path in &names {
                sandbox::root::within(root, || std::fs::remove_file(path))
                    .and_then(|result| result)
                    .map_err(Failure::io(format!(
                        "removing kiln's own `{}`",
                        path.display()
                    )))?;
            }
            strays.removed.extend(names);
            continue;
        }
        let mut source = source.ok_or_else(|| {
            Failure::new(format!(
                "a hook copied kiln's stand-in for a program to `{shown}`, and neither the target nor this host has the real one"
            ))
            .hint("install the program in the target before the hook copies it")
        })?;
        sandbox::root::within(root, || -> io::Result<()> {
            // The inode stays, and with it owner, mode and hard links.
            let mut target = File::options().write(true).truncate(true).open(path)?;
            source.rewind()?;
            io::copy(&mut source, &mut target).map(drop)
        })
        .and_then(|result| result)
        .map_err(Failure::io(format!(
            "writing the real program to `{shown}`"
        )))?;
        strays.replaced.extend(names);
    }
    Ok(strays)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_compared_to_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str, bytes: &[u8]| {
            std::fs::write(dir.path().join(name), bytes).unwrap();
            File::open(dir.path().join(name)).unwrap()
        };
        for (a, b, same) in [
            (&b"abc"[..], &b"abc"[..], true),
            (b"abc", b"abd", false),
            (b"abc", b"abcd", false),
            (b"abcd", b"abc", false),
            (b"", b"", true),
        ] {
            assert_eq!(
                same_bytes(&mut open("a", a), &mut open("b", b)).unwrap(),
                same
            );
        }
    }
}
