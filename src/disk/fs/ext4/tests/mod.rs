//! Proves what the writer writes with e2fsck, debugfs, an independent reader
//! and, where this may mount, the kernel.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::{Features, Options, minimum_size, plan};
use crate::disk::{Source, Volume};
use crate::tree::{Kind, Timestamp, Tree, TreeBuilder};

mod features;
mod growth;
mod images;
mod kernel;
mod live;
mod random;
mod view;

const MIB: u64 = 1 << 20;

/// Options with a fixed UUID and time.
fn options() -> Options {
    let mut options = Options::new(*b"kiln ext4 tests!");
    options.timestamp = Timestamp {
        seconds: 1_700_000_000,
        nanoseconds: 0,
    };
    options
}

/// Writes a volume to a sparse file.
fn write(volume: &Volume, path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(volume.length).unwrap();
    let mut buffer = vec![0; 1 << 16];
    let mut end = 0;
    for extent in &volume.extents {
        assert!(
            extent.offset >= end,
            "extents overlap or are not sorted at {}",
            extent.offset
        );
        assert!(extent.length > 0);
        end = extent.offset + extent.length;
        assert!(
            end <= volume.length,
            "an extent ends at {end}, beyond {}",
            volume.length
        );
        let mut done = 0;
        let mut reader = match &extent.source {
            Source::File { tree, .. } => Some(tree.reader()),
            _ => None,
        };
        while done < extent.length {
            let length = usize::try_from((extent.length - done).min(1 << 16)).unwrap();
            let piece = &mut buffer[..length];
            match &extent.source {
                Source::Bytes { bytes, start } => {
                    let from = start + usize::try_from(done).unwrap();
                    piece.copy_from_slice(&bytes[from..from + length]);
                }
                Source::Rendered { by, offset } => by.render(offset + done, piece),
                Source::File { inode, offset, .. } => {
                    let reader = reader.as_mut().unwrap();
                    assert_eq!(
                        reader.read_at(*inode, offset + done, piece).unwrap(),
                        length
                    );
                }
            }
            if piece.iter().any(|&byte| byte != 0) {
                file.write_all_at(piece, extent.offset + done).unwrap();
            }
            done += length as u64;
        }
    }
}

/// A planned and written filesystem.
struct Image {
    directory: tempfile::TempDir,
}

impl Image {
    fn new(tree: &Arc<Tree>, options: &Options, size: u64) -> Self {
        let volume = plan(tree, options, size).unwrap();
        assert_eq!(volume.length, size);
        let directory = tempfile::tempdir().unwrap();
        write(&volume, &directory.path().join("image"));
        Self { directory }
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("image")
    }

    /// Asserts that e2fsck finds nothing to say.
    fn check(&self) {
        check(&self.path());
    }

    /// Has `resize2fs` grow it to a number of bytes, which debugfs has to show then.
    /// False where no file can be so long.
    fn grow(&self, resize2fs: &str, bytes: u64, options: &Options) -> bool {
        let file = File::options().write(true).open(self.path()).unwrap();
        if let Err(error) = file.set_len(bytes) {
            println!("SKIP: no file of {bytes} bytes here: {error}");
            return false;
        }
        let output = Command::new(resize2fs).arg(self.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        self.check();
        let blocks = format!("{}", bytes / options.block());
        let shown = self.debugfs("show_super_stats -h");
        let line = shown.lines().find(|line| line.starts_with("Block count:"));
        assert!(line.is_some_and(|line| line.ends_with(&blocks)), "{shown}");
        true
    }

    fn debugfs(&self, request: &str) -> String {
        let output = Command::new(tool("debugfs").unwrap())
            .args(["-R", request])
            .arg(self.path())
            .stderr(Stdio::null())
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// Where a program of e2fsprogs is; they are not in every user's PATH.
fn tool(name: &str) -> Option<String> {
    let paths = std::env::var("PATH").unwrap_or_default();
    paths
        .split(':')
        .chain(["/usr/sbin", "/sbin"])
        .map(|directory| format!("{directory}/{name}"))
        .find(|path| Path::new(path).exists())
}

fn check(path: &Path) {
    let Some(e2fsck) = tool("e2fsck") else {
        println!("SKIP: e2fsck is not installed");
        return;
    };
    let output = Command::new(e2fsck).arg("-fn").arg(path).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let unexpected: Vec<&str> = text
        .lines()
        .filter(|line| {
            let summary = line.contains(" files (") && line.ends_with(" blocks");
            !summary && !line.starts_with("Pass ")
        })
        .collect();
    assert!(
        output.status.success() && unexpected.is_empty(),
        "e2fsck: {}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Whether this must be skipped because e2fsprogs are missing.
fn skip_without_e2fsprogs() -> bool {
    let missing = ["e2fsck", "debugfs"]
        .into_iter()
        .find(|name| tool(name).is_none());
    if let Some(name) = missing {
        println!("SKIP: {name} is not installed");
    }
    missing.is_some()
}

fn tree(build: impl FnOnce(&mut TreeBuilder<'static>)) -> Arc<Tree> {
    let mut builder = TreeBuilder::new();
    build(&mut builder);
    Arc::new(builder.build().unwrap())
}

/// All bytes of a regular file of a tree.
fn bytes_of(tree: &Arc<Tree>, inode: crate::tree::InodeId) -> Vec<u8> {
    let Kind::File(content) = &tree.inode(inode).kind else {
        panic!("not a file")
    };
    let mut bytes = vec![0; usize::try_from(content.size).unwrap()];
    let read = tree.reader().read_at(inode, 0, &mut bytes).unwrap();
    assert_eq!(read, bytes.len());
    bytes
}
