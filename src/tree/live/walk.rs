//! Visits all files, in parallel by directory.
//!
//! Threads take jobs from a common stack. A job is one directory, or a part of
//! a very large one. What they find goes into batches, which [`super::merge`]
//! puts in order afterwards, so the number of threads changes nothing.

use std::collections::HashSet;
use std::ffi::CStr;
use std::ops::Range;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::merge;
use super::sys::{self, PathMode};
use super::xattrs::XattrReader;
use super::{FileKey, ScanOptions};
use crate::threads::joined;
use crate::tree::{
    Content, Device, Error, Inode, Kind, NodeId, Origin, Timestamp, Tree, display_path,
};

/// Names of a directory that one job examines.
const NAMES_PER_JOB: usize = 4096;

/// Scans a directory.
///
/// Mounts below it are not entered: a directory that is a mount point appears
/// empty. A file that vanishes meanwhile is left out.
///
/// # Errors
///
/// If anything cannot be read, with its path. A mount on something other than a
/// directory is an error, because what is below it cannot be known.
pub fn scan(root: &Path, options: &ScanOptions) -> Result<Tree, Error> {
    let failed = |error: Errno| Error::Io {
        action: "open",
        path: root.to_path_buf(),
        source: error.into(),
    };
    let descriptor = sys::open_root(root).map_err(failed)?;
    let found = sys::statx(descriptor.as_fd(), c"").map_err(failed)?;
    let prune = options
        .prune
        .iter()
        .map(|path| {
            let parts: Vec<&[u8]> = path
                .as_os_str()
                .as_bytes()
                .split(|&byte| byte == b'/')
                .filter(|part| !part.is_empty() && *part != b".")
                .collect();
            parts.join(&b'/').into()
        })
        .collect();
    let scan = Scan {
        root: descriptor,
        path: root,
        mount: Mount::of(&found),
        prune,
        options,
        stack: Mutex::new(Stack {
            jobs: Vec::new(),
            running: 0,
            waiting: 0,
            error: None,
        }),
        changed: Condvar::new(),
        directories: AtomicU32::new(1),
    };
    let threads = match options.threads {
        // More than there are processors: while the page cache is cold, threads
        // mostly wait for the disk. When it is warm, they cost nothing that can be
        // measured.
        0 => std::thread::available_parallelism()
            .map_or(1, |cores| cores.get().saturating_mul(2))
            .clamp(16, 32),
        threads => threads.min(256),
    };
    let mut batches = Vec::new();
    let mut root_entry = None;
    std::thread::scope(|scope| {
        let mut handles = Vec::new();
        // The root is examined by a scanning thread too: only those have a
        // working directory of their own.
        let thread = std::thread::Builder::new();
        let first = thread.spawn_scoped(scope, || {
            let mut worker = Worker::new(&scan);
            worker.mode.enter(scan.root.as_fd()).map_err(failed)?;
            let entry = worker.examine(scan.root.as_fd(), c".", b"")?;
            scan.push(Job {
                directory: 0,
                path: Box::default(),
                part: None,
            });
            Ok::<_, Error>(entry)
        });
        root_entry = joined(first.map_err(|source| Error::Thread { source })?)?;
        for number in 0..threads {
            let thread = std::thread::Builder::new().name(format!("scan {number}"));
            match thread.spawn_scoped(scope, || Worker::new(&scan).run()) {
                Ok(handle) => handles.push(handle),
                // Fewer threads than wanted are slower, but enough.
                Err(_) if number > 0 => break,
                Err(source) => return Err(Error::Thread { source }),
            }
        }
        for handle in handles {
            batches.extend(joined(handle));
        }
        Ok(())
    })?;
    let Scan {
        root: descriptor,
        stack,
        ..
    } = scan;
    if let Some(error) = stack
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .error
    {
        return Err(error);
    }
    let Some(root_entry) = root_entry else {
        return Err(Error::Missing {
            path: root.to_path_buf(),
        });
    };
    merge::merge(root_entry, batches, descriptor, root.to_path_buf())
}

/// Which mount a file is on. `st_dev` would not do: it differs from file to file
/// inside of one overlayfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mount {
    Id(u64),
    /// Kernels before 5.8.
    Device(u32, u32),
}

impl Mount {
    fn of(found: &libc::statx) -> Self {
        if found.stx_mask & libc::STATX_MNT_ID != 0 {
            Self::Id(found.stx_mnt_id)
        } else {
            Self::Device(found.stx_dev_major, found.stx_dev_minor)
        }
    }
}

/// What all threads share.
struct Scan<'o> {
    root: OwnedFd,
    path: &'o Path,
    mount: Mount,
    prune: HashSet<Box<[u8]>>,
    options: &'o ScanOptions,
    stack: Mutex<Stack>,
    changed: Condvar,
    /// Numbers given to directories; 0 is the root.
    directories: AtomicU32,
}

struct Stack {
    jobs: Vec<Job>,
    running: usize,
    /// Threads that wait for a job.
    waiting: usize,
    error: Option<Error>,
}

struct Job {
    directory: u32,
    /// From the root, without a leading slash.
    path: Box<[u8]>,
    part: Option<Part>,
}

/// Names of one directory, sorted and zero-terminated, that are examined apart.
struct Part {
    ordinal: u32,
    names: Vec<u8>,
    /// How many there are.
    count: usize,
}

/// What was found in a directory, or in a part of it, in the order of names.
pub(super) struct Batch {
    pub(super) directory: u32,
    pub(super) ordinal: u32,
    pub(super) names: Vec<u8>,
    pub(super) entries: Vec<Entry>,
}

/// One name.
pub(super) struct Entry {
    /// Where its name ends in the batch's names.
    pub(super) name_end: u32,
    pub(super) inode: Inode,
    /// Set if the file has other names too.
    pub(super) link: Option<FileKey>,
    pub(super) allocated: u64,
    /// Number of the directory, if it is one whose contents are wanted.
    pub(super) directory: Option<u32>,
}

impl Scan<'_> {
    fn lock(&self) -> MutexGuard<'_, Stack> {
        self.stack.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, job: Job) {
        let mut stack = self.lock();
        stack.jobs.push(job);
        let wanted = stack.waiting > 0;
        drop(stack);
        if wanted {
            self.changed.notify_one();
        }
    }

    /// The next job; `None` when there will be no more.
    fn next(&self) -> Option<Job> {
        let mut stack = self.lock();
        loop {
            if stack.error.is_some() {
                return None;
            }
            if let Some(job) = stack.jobs.pop() {
                stack.running += 1;
                return Some(job);
            }
            if stack.running == 0 {
                return None;
            }
            stack.waiting += 1;
            stack = self
                .changed
                .wait(stack)
                .unwrap_or_else(PoisonError::into_inner);
            stack.waiting -= 1;
        }
    }

    fn done(&self, result: Result<(), Error>) {
        let mut stack = self.lock();
        stack.running -= 1;
        if let Err(error) = result {
            stack.error.get_or_insert(error);
        }
        if stack.error.is_some() || (stack.running == 0 && stack.jobs.is_empty()) {
            self.changed.notify_all();
        }
    }

    fn failed(&self, action: &'static str, path: &[u8], error: Errno) -> Error {
        Error::Io {
            action,
            path: self.full(path),
            source: error.into(),
        }
    }

    fn full(&self, path: &[u8]) -> PathBuf {
        self.path.join(display_path(path))
    }
}

/// One thread's state.
struct Worker<'s, 'o> {
    scan: &'s Scan<'o>,
    mode: PathMode,
    xattrs: XattrReader,
    buffer: Vec<u8>,
    batches: Vec<Batch>,
}

impl<'s, 'o> Worker<'s, 'o> {
    fn new(scan: &'s Scan<'o>) -> Self {
        Self {
            scan,
            mode: PathMode::for_this_thread(),
            xattrs: XattrReader::new(),
            buffer: Vec::new(),
            batches: Vec::new(),
        }
    }

    fn run(mut self) -> Vec<Batch> {
        while let Some(job) = self.scan.next() {
            let result = self.job(job);
            self.scan.done(result);
        }
        self.batches
    }

    fn job(&mut self, job: Job) -> Result<(), Error> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let directory = match sys::open_below(self.scan.root.as_fd(), &job.path, flags) {
            Ok(directory) => directory,
            // It vanished after its parent was read.
            Err(Errno::ENOENT) if !job.path.is_empty() => return Ok(()),
            Err(error) => return Err(self.scan.failed("open", &job.path, error)),
        };
        self.mode
            .enter(directory.as_fd())
            .map_err(|error| self.scan.failed("enter", &job.path, error))?;
        let part = match job.part {
            Some(part) => part,
            None => self.list(directory.as_fd(), job.directory, &job.path)?,
        };
        let mut batch = Batch {
            directory: job.directory,
            ordinal: part.ordinal,
            names: Vec::with_capacity(part.names.len()),
            // Batches are kept: entries that grow would leave what they had in the heap.
            entries: Vec::with_capacity(part.count),
        };
        let mut path = job.path.to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        let prefix = path.len();
        let mut rest = part.names.as_slice();
        while let Ok(name) = CStr::from_bytes_until_nul(rest) {
            rest = &rest[name.to_bytes_with_nul().len()..];
            path.truncate(prefix);
            path.extend_from_slice(name.to_bytes());
            if let Some(mut entry) = self.examine(directory.as_fd(), name, &path)? {
                batch.names.extend_from_slice(name.to_bytes());
                entry.name_end = u32::try_from(batch.names.len()).map_err(|_| Error::TooLarge)?;
                batch.entries.push(entry);
            }
        }
        self.batches.push(batch);
        Ok(())
    }

    /// Reads the names of a directory and leaves all but the first part of them
    /// to other jobs.
    fn list(&mut self, directory: BorrowedFd<'_>, number: u32, path: &[u8]) -> Result<Part, Error> {
        let (names, mut places) = sys::names(directory, &mut self.buffer)
            .map_err(|error| self.scan.failed("list", path, error))?;
        let name = |place: &Range<u32>| &names[place.start as usize..place.end as usize];
        places.sort_unstable_by(|a, b| name(a).cmp(name(b)));
        let mut parts = places
            .chunks(NAMES_PER_JOB)
            .zip(0u32..)
            .map(|(places, ordinal)| {
                let mut part = Part {
                    ordinal,
                    names: Vec::with_capacity(places.len() * 16),
                    count: places.len(),
                };
                for place in places {
                    part.names.extend_from_slice(name(place));
                    part.names.push(0);
                }
                part
            });
        let first = parts.next().unwrap_or(Part {
            ordinal: 0,
            names: Vec::new(),
            count: 0,
        });
        for part in parts {
            self.scan.push(Job {
                directory: number,
                path: path.into(),
                part: Some(part),
            });
        }
        Ok(first)
    }

    /// Finds out about one file. `path` is from the root of the scan.
    fn examine(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &CStr,
        path: &[u8],
    ) -> Result<Option<Entry>, Error> {
        let vanished = |action, error| match error {
            Errno::ENOENT => Ok(None),
            error => Err(self.scan.failed(action, path, error)),
        };
        let found = match sys::statx(directory, name) {
            Ok(found) => found,
            Err(error) => return vanished("read the attributes of", error),
        };
        let file_type = u32::from(found.stx_mode) & libc::S_IFMT;
        let mounted = Mount::of(&found) != self.scan.mount;
        if mounted && file_type != libc::S_IFDIR {
            return Err(Error::MountedFile {
                path: self.scan.full(path),
            });
        }
        let allocated = found.stx_blocks.saturating_mul(512);
        let kind = match kind_of(directory, name, &found) {
            Ok(Some(kind)) => kind,
            Ok(None) => {
                return Err(Error::UnknownType {
                    path: self.scan.full(path),
                    mode: file_type,
                });
            }
            Err((action, error)) => return vanished(action, error),
        };
        let xattrs = match self
            .mode
            .path(directory, name)
            .and_then(|path| self.xattrs.read(&path))
        {
            Ok(xattrs) => xattrs.map(Arc::new),
            Err(error) => return vanished("read the extended attributes of", error),
        };
        let mut mtime = Timestamp {
            seconds: found.stx_mtime.tv_sec,
            nanoseconds: found.stx_mtime.tv_nsec,
        };
        if let Some(limit) = self.scan.options.clamp_mtime {
            mtime = mtime.min(limit);
        }
        let mut inode = Inode {
            kind,
            mode: found.stx_mode & 0o7777,
            uid: found.stx_uid,
            gid: found.stx_gid,
            mtime,
            xattrs,
            links: 0,
        };
        let key = FileKey {
            device: u64::from(found.stx_dev_major) << 32 | u64::from(found.stx_dev_minor),
            inode: found.stx_ino,
            born: if found.stx_mask & libc::STATX_BTIME != 0 {
                (found.stx_btime.tv_sec, found.stx_btime.tv_nsec)
            } else {
                (0, 0)
            },
        };
        if let Some(owners) = &self.scan.options.owners {
            owners.correct(key, &mut inode);
        }
        let mut number = None;
        if file_type == libc::S_IFDIR
            && !path.is_empty()
            && !mounted
            && !self.scan.prune.contains(path)
        {
            let directory = self.scan.directories.fetch_add(1, Ordering::Relaxed);
            self.scan.push(Job {
                directory,
                path: path.into(),
                part: None,
            });
            number = Some(directory);
        }
        let link = (found.stx_nlink > 1 && file_type != libc::S_IFDIR).then_some(key);
        Ok(Some(Entry {
            name_end: 0,
            inode,
            link,
            allocated,
            directory: number,
        }))
    }
}

/// What a file is, with what a link or holes say of it; `None` if its type is unknown.
/// Errors come with what failed.
fn kind_of(
    directory: BorrowedFd<'_>,
    name: &CStr,
    found: &libc::statx,
) -> Result<Option<Kind>, (&'static str, Errno)> {
    let size = found.stx_size;
    let device = Device {
        major: found.stx_rdev_major,
        minor: found.stx_rdev_minor,
    };
    Ok(Some(match u32::from(found.stx_mode) & libc::S_IFMT {
        libc::S_IFDIR => Kind::Directory,
        libc::S_IFREG => {
            // Only a file that takes less room than its length has holes.
            let data = if found.stx_blocks.saturating_mul(512) < size {
                sys::data_ranges(directory, name, size)
                    .map_err(|error| ("find the holes of", error))?
            } else {
                None
            };
            Kind::File(Content {
                size,
                origin: Origin::Live(NodeId::ROOT),
                data,
            })
        }
        libc::S_IFLNK => {
            let target = sys::read_link(directory, name, size);
            Kind::Symlink(target.map_err(|error| ("read the link", error))?)
        }
        libc::S_IFCHR => Kind::CharDevice(device),
        libc::S_IFBLK => Kind::BlockDevice(device),
        libc::S_IFIFO => Kind::Fifo,
        libc::S_IFSOCK => Kind::Socket,
        _ => return Ok(None),
    }))
}
