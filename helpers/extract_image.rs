//! `extract-image FILE TAR LOCATION CACHED`: a cloud image's files into the target.
//!
//! The image is fetched from LOCATION to CACHED, unless `DIB_LOCAL_IMAGE` names
//! one; its files become `DIB_IMAGE_CACHE/TAR`, which is kept as long as the image
//! stays the same, and is unpacked to `TARGET_ROOT`. Where DIB attaches loop
//! devices and mounts them, kiln reads the image itself.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use uuid::Uuid;

use super::{Explain, cache_url, env_text, say};
use crate::fetch::{self, Lock};
use crate::inspect::{self, Contents, SystemError};
use crate::sink;
use crate::tree::{self, Tree};

const USAGE: &str = "usage: extract-image FILE TAR LOCATION CACHED\n\n\
    Unpacks the files of a cloud image into TARGET_ROOT.\n\n\
    \x20 FILE      name of the image, for messages\n\
    \x20 TAR       name of the archive of its files in DIB_IMAGE_CACHE\n\
    \x20 LOCATION  URL of the image\n\
    \x20 CACHED    where the image is kept; DIB_LOCAL_IMAGE is used in its place\n";

const FREE_SPACE: &str = "free some space there, or choose another place with TMP_DIR";
/// Memory that undoing xz may take, in KiB: the largest preset's 64 MiB twice.
const XZ_MEMORY_KIB: u32 = 128 << 10;
/// Bytes that are decompressed at once.
const CHUNK: usize = 1 << 20;

/// Why the files are not in the target.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The arguments or variables are wrong.
    #[error("{reason}")]
    Usage {
        /// What is wrong with them.
        reason: String,
    },
    /// The image cannot be fetched.
    #[error(transparent)]
    Fetch(#[from] cache_url::Failure),
    /// Another process cannot be kept away.
    #[error(transparent)]
    Lock(#[from] fetch::Error),
    /// A file cannot be read or written.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was done with it.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It is compressed in a way that kiln cannot undo.
    #[error("`{}` is compressed by {by}, which kiln does not undo", path.display())]
    Compression {
        /// The image.
        path: PathBuf,
        /// The program.
        by: &'static str,
    },
    /// The image cannot be opened.
    #[error(transparent)]
    Image(#[from] inspect::Error),
    /// Its system cannot be read.
    #[error("cannot extract `{}`", path.display())]
    System {
        /// The image.
        path: PathBuf,
        /// Why.
        source: SystemError,
    },
    /// The archive cannot be read.
    #[error(transparent)]
    Tar(#[from] tree::tar::Error),
    /// An archive that holds no root.
    #[error("the archive `{}` holds no root filesystem: it has neither `/etc/os-release` nor `/etc/passwd`", path.display())]
    NoRoot {
        /// The archive.
        path: PathBuf,
    },
    /// Files that would fill the disk.
    #[error(
        "the files of `{}` need up to {}, and {} are free for `{}`",
        path.display(), sink::Bytes(*needed), sink::Bytes(*free), target.display()
    )]
    NoSpace {
        /// The image.
        path: PathBuf,
        /// Bytes of its files, without holes.
        needed: u64,
        /// Where they would go.
        target: PathBuf,
        /// Bytes that are free there.
        free: u64,
    },
    /// The archive of its files cannot be written.
    #[error(transparent)]
    Sink(#[from] sink::Error),
}

impl Explain for Failure {
    fn hint(&self) -> Option<String> {
        match self {
            Failure::Usage { .. } => Some("`extract-image -h` shows how it is used".to_owned()),
            Failure::Fetch(error) => error.hint(),
            Failure::Lock(error) => error.hint().map(str::to_owned),
            Failure::Io { action, source, .. } if *action == "decompress" => (source.kind()
                != io::ErrorKind::StorageFull)
                .then(|| "fetch it again: it may have been cut off".to_owned()),
            Failure::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => {
                    Some("check the name; hooks of the host see only what `--show` adds".to_owned())
                }
                io::ErrorKind::StorageFull => Some(FREE_SPACE.to_owned()),
                _ => None,
            },
            Failure::NoSpace { .. } => Some(FREE_SPACE.to_owned()),
            Failure::Compression { .. } => Some("decompress it first".to_owned()),
            Failure::Image(error) => error.hint(),
            Failure::System { source, .. } => source.hint(),
            Failure::Tar(error) => error.hint(),
            Failure::NoRoot { .. } => {
                Some("if it holds an image, unpack that and name it by DIB_LOCAL_IMAGE".to_owned())
            }
            Failure::Sink(error) => error.hint(),
        }
    }

    fn code(&self) -> u8 {
        match self {
            Failure::Fetch(error) => error.code(),
            _ => 1,
        }
    }
}

/// Runs the helper.
pub fn main(_called: &OsStr, args: &[OsString]) -> Result<ExitCode, Failure> {
    let usage = |reason: &str| Failure::Usage {
        reason: reason.to_owned(),
    };
    if matches!(args, [only] if only == "-h" || only == "--help") {
        super::print(USAGE);
        return Ok(ExitCode::SUCCESS);
    }
    let [file, tar, location, cached] = args else {
        return Err(usage("four arguments are needed"));
    };
    let is_name = |name: &OsStr| Path::new(name).file_name() == Some(name);
    if !is_name(tar) {
        return Err(usage(
            "TAR is a name in DIB_IMAGE_CACHE, without directories",
        ));
    }
    let location = location
        .to_str()
        .ok_or_else(|| usage("LOCATION is not text"))?;
    let variable = |name: &str| {
        super::env_os(name).ok_or_else(|| usage(&format!("the variable {name} is not set")))
    };
    let (cache, target) = (variable("DIB_IMAGE_CACHE")?, variable("TARGET_ROOT")?);
    let cache = PathBuf::from(cache);
    fs_err::create_dir_all(&cache).map_err(io_failure("make", &cache))?;
    let archive = cache.join(tar);
    let offline = env_text("DIB_OFFLINE").is_some_and(|value| value != "0");
    let local = env_text("DIB_LOCAL_IMAGE").map(PathBuf::from);

    let lock = Lock::acquire(&cache.join(Path::new(tar)).with_added_extension("lock"))?;
    if !(offline && local.is_none() && archive.is_file()) {
        let image = match local {
            Some(local) => local,
            None => {
                let fetch = || cache_url::get(location, Path::new(cached), false);
                match fetch() {
                    // One of a distribution's mirrors may not have it yet.
                    Err(error) if error.code() == cache_url::NOT_FOUND => fetch()?,
                    fetched => fetched?,
                };
                PathBuf::from(cached)
            }
        };
        let changed = modified(&image)?;
        // The archive bears the time of the image that it was made of.
        let is_current = archive.is_file()
            && seconds(modified(&archive)?) == seconds(changed)
            && archive.metadata().is_ok_and(|own| own.len() > 0);
        if !is_current {
            say(&format!("extract-image: reading {}", file.display()));
            let tree = without_labels(read(&image, &cache)?);
            check_space(&tree, &image, Path::new(&target))?;
            write(&Arc::new(tree), &archive)?;
            let made = File::options().write(true).open(&archive);
            made.and_then(|made| made.set_modified(changed))
                .map_err(io_failure("date", &archive))?;
        }
    }
    // It stays what it is: who makes it anew gives its name to another file.
    let input = File::open(&archive).map_err(io_failure("read", &archive))?;
    drop(lock);
    say(&format!("extract-image: unpacking {}", archive.display()));
    let tar = super::find_program("tar").unwrap_or_else(|| PathBuf::from("tar"));
    let mut command = Command::new(&tar);
    command
        .args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "-C"])
        .arg(target)
        .arg("-xzpf")
        .arg("-")
        .stdin(input);
    Err(io_failure("run", &tar)(super::exec(&mut command)))
}

/// Refuses files that are larger than the space that is free for them: what
/// compresses well may be many times larger than its image.
fn check_space(tree: &Tree, image: &Path, target: &Path) -> Result<(), Failure> {
    let needed = tree
        .inodes()
        .filter_map(|(_, inode)| match &inode.kind {
            tree::Kind::File(content) => Some(content),
            _ => None,
        })
        .flat_map(tree::Content::ranges)
        .fold(0u64, |sum, range| sum.saturating_add(range.length));
    let directory = File::open(target).map_err(io_failure("open", target))?;
    let free = sink::free_bytes(&directory);
    // 0 is also what a filesystem says that does not know.
    if free > 0 && needed > free {
        return Err(Failure::NoSpace {
            path: image.to_owned(),
            needed,
            target: target.to_owned(),
            free,
        });
    }
    Ok(())
}

fn io_failure(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Failure {
    let path = path.to_owned();
    move |source| Failure::Io {
        action,
        path,
        source,
    }
}

fn modified(path: &Path) -> Result<SystemTime, Failure> {
    std::fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .map_err(io_failure("read", path))
}

/// Whole seconds: what every filesystem keeps.
fn seconds(time: SystemTime) -> Duration {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    Duration::from_secs(since.unwrap_or_default().as_secs())
}

/// The tree without SELinux labels, which the finished image gets from its policy.
fn without_labels(tree: Tree) -> Tree {
    tree.map_inodes(|_, inode| {
        if let Some(xattrs) = &mut inode.xattrs
            && xattrs.contains_key(&b"security.selinux"[..])
        {
            Arc::make_mut(xattrs).remove(&b"security.selinux"[..]);
            if xattrs.is_empty() {
                inode.xattrs = None;
            }
        }
    })
}

fn write(tree: &Arc<Tree>, archive: &Path) -> Result<(), Failure> {
    let spec = sink::Spec {
        disk: 0,
        format: sink::Format::Tgz,
        path: archive.to_owned(),
        checksums: sink::Checksums::default(),
        existing: sink::Existing::Replace,
        durable: false,
        seed: Uuid::nil(),
    };
    for written in sink::write_all(&[], tree, &[spec], 0, &|_, _, _| {})? {
        for warning in written.warnings {
            say(&format!("extract-image: warning: {warning}"));
        }
    }
    Ok(())
}

/// The files of an image or an archive, compressed or not.
fn read(path: &Path, directory: &Path) -> Result<Tree, Failure> {
    let mut stream = decompressed(path)?;
    let mut start = Vec::new();
    if let Some(stream) = &mut stream {
        let begun = stream.by_ref().take(512).read_to_end(&mut start);
        begun.map_err(io_failure("decompress", path))?;
    } else {
        let file = File::open(path).map_err(io_failure("read", path))?;
        let begun = file.take(512).read_to_end(&mut start);
        begun.map_err(io_failure("read", path))?;
    }
    if start.get(257..262) == Some(b"ustar") {
        drop(stream);
        let archived = tree::tar::read(path, directory)?;
        for warning in archived.warnings {
            say(&format!("extract-image: warning: {warning}"));
        }
        if !inspect::is_root(&archived.tree) {
            return Err(Failure::NoRoot {
                path: path.to_owned(),
            });
        }
        return Ok(archived.tree);
    }
    let Some(stream) = stream else {
        return system(inspect::open(path, None)?, path, directory);
    };
    // Without a name: nobody would remove it where the build is killed.
    let spool =
        tempfile::tempfile_in(directory).map_err(io_failure("make a file in", directory))?;
    spool_sparsely(&mut start.chain(stream), &spool, path, directory)?;
    system(inspect::of_file(spool, path, None)?, path, directory)
}

/// The files of an image; `name` is for messages.
fn system(image: inspect::Image, name: &Path, directory: &Path) -> Result<Tree, Failure> {
    let failed = |source| Failure::System {
        path: name.to_owned(),
        source,
    };
    let contents = Contents::read(&image).map_err(|source| {
        failed(SystemError::FileSystem {
            what: "the partition table".to_owned(),
            source,
        })
    })?;
    inspect::system(&contents, directory).map_err(failed)
}

/// The content of a compressed file; `None` if it is not compressed.
fn decompressed(path: &Path) -> Result<Option<Box<dyn Read>>, Failure> {
    let mut start = Vec::new();
    let open = || File::open(path).map_err(io_failure("read", path));
    let begun = open()?.take(6).read_to_end(&mut start);
    begun.map_err(io_failure("read", path))?;
    let raw = BufReader::with_capacity(256 << 10, open()?);
    Ok(match start.as_slice() {
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Some(Box::new(lzma_rust2::XzReader::new_mem_limit(
            raw,
            true,
            XZ_MEMORY_KIB,
        ))),
        [0x1f, 0x8b, ..] => Some(Box::new(flate2::bufread::MultiGzDecoder::new(raw))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Box::new(
            zstd::stream::read::Decoder::with_buffer(raw)
                .map_err(io_failure("decompress", path))?,
        )),
        [b'B', b'Z', b'h', ..] => {
            return Err(Failure::Compression {
                path: path.to_owned(),
                by: "bzip2",
            });
        }
        _ => None,
    })
}

/// Copies a stream, leaving holes for zeros: images are mostly empty.
fn spool_sparsely(
    stream: &mut dyn Read,
    file: &File,
    from: &Path,
    directory: &Path,
) -> Result<(), Failure> {
    let mut buffer = vec![0; CHUNK];
    let mut length = 0;
    loop {
        let mut filled = 0;
        while filled < CHUNK {
            match stream.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(io_failure("decompress", from)(error)),
            }
        }
        if filled == 0 {
            break;
        }
        for (at, block) in buffer[..filled].chunks(64 << 10).enumerate() {
            if block.iter().any(|&byte| byte != 0) {
                let at = length + (at as u64) * (64 << 10);
                file.write_all_at(block, at)
                    .map_err(io_failure("write to a file in", directory))?;
            }
        }
        length += filled as u64;
    }
    file.set_len(length)
        .map_err(io_failure("write to a file in", directory))
}
