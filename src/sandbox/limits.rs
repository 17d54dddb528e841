//! Limits on what the programs of a build may use, and what enforces each.
//!
//! | limit | enforced by | and where that is not to be had |
//! |---|---|---|
//! | memory | a control group of version 2 or 1 | `RLIMIT_DATA` for each program, and watching their sum |
//! | processes | `RLIMIT_NPROC` of the user namespace; for real root a control group | watching their number |
//! | disk | the size of the filesystem in memory | `RLIMIT_FSIZE` for each file, and watching the sum |
//! | time | the engine's clock | |
//!
//! What is watched is looked at ten times a second, so it can be exceeded for that
//! long. See `cgroups(7)`, `getrlimit(2)`.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::PollTimeout;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::Mode;

/// Tasks of a build, unless asked otherwise: no package needs more, and a program
/// that forks without end is stopped before it hurts the host.
pub const DEFAULT_PROCESSES: u64 = 4096;

/// How often programs are looked at where the kernel does not count for us.
const PERIOD: Duration = Duration::from_millis(100);

/// Length of a path, in bytes, from which on it starts at an open directory.
const LONG_PATH: usize = 1024;

/// What programs may use.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Limits {
    /// Bytes of memory, the build's filesystem in memory included.
    pub memory: Option<u64>,
    /// Bytes in the build's directory.
    pub disk: Option<u64>,
    /// Processes and threads at a time.
    pub processes: u64,
    /// How long one hook may take.
    pub hook: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            memory: None,
            disk: None,
            processes: DEFAULT_PROCESSES,
            hook: None,
        }
    }
}

/// A limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Exceeded {
    /// It took too long.
    #[error("took longer than {} s, the limit of `--timeout`", .0.as_secs_f64())]
    Time(Duration),
    /// The programs use too much memory together.
    #[error("used {} MiB of memory, more than the {} MiB of `--memory`", used >> 20, limit >> 20)]
    Memory {
        /// Bytes in use.
        used: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The build's directory is too large.
    #[error("filled the build's directory with {} MiB, more than the {} MiB of `--disk`", used >> 20, limit >> 20)]
    Disk {
        /// Bytes in use.
        used: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// There are too many processes.
    #[error(
        "started {used} programs that run at a time, about all of the {limit} processes of `--processes`"
    )]
    Processes {
        /// How many there are.
        used: u64,
        /// How many may be.
        limit: u64,
    },
}

impl Exceeded {
    /// The limit behind an error of [`super::command::Program::run`].
    pub fn of(error: &io::Error) -> Option<Exceeded> {
        error.get_ref()?.downcast_ref::<Exceeded>().copied()
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Exceeded::Time(_) => "if it needs more, raise `--timeout` or `KILN_TIMEOUT`",
            Exceeded::Memory { .. } => {
                "if it needs more, raise `--memory` or `KILN_MEMORY`; `--no-tmpfs` keeps the build's files out of memory"
            }
            Exceeded::Disk { .. } => "if it needs more, raise `--disk` or `KILN_DISK`",
            Exceeded::Processes { .. } => {
                "if it needs more, raise `--processes` or `KILN_PROCESSES`"
            }
        }
    }

    /// Exit status of a build that ends so: `timeout(1)`'s for time.
    pub fn status(&self) -> i32 {
        match self {
            Exceeded::Time(_) => 124,
            _ => 1,
        }
    }
}

/// What the engine enforces on each program that it runs.
#[derive(Debug, Clone)]
pub struct Watch {
    /// The limits.
    pub limits: Limits,
    /// The build's directory.
    pub work: PathBuf,
    /// Whether that is a filesystem in memory, which has its own size.
    pub work_in_memory: bool,
    /// What a control group counts already.
    pub group: Counted,
}

/// What a control group limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counted {
    /// Memory.
    pub memory: bool,
    /// Processes and threads.
    pub processes: bool,
}

impl Watch {
    /// Sets the calling process's own limits. Async-signal-safe.
    pub fn confine(&self) -> io::Result<()> {
        let lower = |resource, value: Option<u64>| {
            let Some(value) = value else {
                return Ok(());
            };
            // What the caller may not exceed stays.
            let (_, hard) = getrlimit(resource)?;
            setrlimit(resource, value.min(hard), value.min(hard))
        };
        lower(Resource::RLIMIT_NPROC, Some(self.limits.processes))?;
        lower(
            Resource::RLIMIT_DATA,
            self.limits.memory.filter(|_| !self.group.memory),
        )?;
        lower(
            Resource::RLIMIT_FSIZE,
            self.limits.disk.filter(|_| !self.work_in_memory),
        )?;
        Ok(())
    }

    /// Starts to watch a program.
    pub fn begin(&self) -> Clock<'_> {
        let now = Instant::now();
        Clock {
            watch: self,
            started: now,
            disk: now,
            look: now,
        }
    }

    /// Whether somebody has to look at the programs now and then.
    fn looks(&self) -> bool {
        let disk = self.limits.disk.is_some() && !self.work_in_memory;
        let memory = self.limits.memory.is_some() && !self.group.memory;
        disk || memory || self.counts_processes()
    }

    /// The kernel does not hold real root to `RLIMIT_NPROC`.
    fn counts_processes(&self) -> bool {
        !self.group.processes && is_real_root()
    }

    fn processes(&self) -> Result<(), Exceeded> {
        let used = u64::try_from(programs().len()).unwrap_or(u64::MAX);
        let limit = self.limits.processes;
        // Threads, and kiln's own processes in a control group, count as well: so
        // many programs mean that forks are refused.
        if used >= limit - limit / 8 {
            return Err(Exceeded::Processes { used, limit });
        }
        Ok(())
    }

    fn memory(&self, limit: u64) -> Result<(), Exceeded> {
        let files = if self.work_in_memory {
            bytes_of_filesystem(&self.work)
        } else {
            0
        } + bytes_of_filesystem(Path::new("/dev/shm"))
            + shared_memory_of_target(&self.work);
        let sum = |of: fn(&Path) -> Option<u64>| -> u64 {
            programs()
                .iter()
                .filter_map(|program| of_any_task(program, of))
                .sum::<u64>()
                + files
        };
        // Pages that a fork shares count for each, so a high sum is looked at again.
        if sum(private_pages) <= limit {
            return Ok(());
        }
        let used = sum(proportional_set);
        if used <= limit {
            return Ok(());
        }
        Err(Exceeded::Memory { used, limit })
    }
}

/// Whether uid 0 here is uid 0 of the machine.
fn is_real_root() -> bool {
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| {
        super::idmap::parse_map(&map)
            .iter()
            .any(|extent| extent.inside == 0 && extent.outside == 0)
    })
}

/// Directories in `/proc` of all processes of the sandbox but its first.
fn programs() -> Vec<PathBuf> {
    let proc = Path::new("/proc");
    if !super::process::has_own_processes() {
        let numbers = super::family::siblings().into_iter();
        return numbers.map(|pid| proc.join(pid.to_string())).collect();
    }
    fs::read_dir(proc)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            (pid > 1).then(|| entry.path())
        })
        .collect()
}

fn page_size() -> u64 {
    // SAFETY: asks for a number.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// What is told of a process by its first thread that still has memory: others may go on
/// when the first of all has ended.
fn of_any_task(program: &Path, look: fn(&Path) -> Option<u64>) -> Option<u64> {
    look(program).or_else(|| {
        let tasks = fs::read_dir(program.join("task")).ok()?;
        tasks.flatten().find_map(|task| look(&task.path()))
    })
}

/// Memory that a process has not from a file; `None` without any. See `proc_pid_statm(5)`.
fn private_pages(program: &Path) -> Option<u64> {
    let text = fs::read_to_string(program.join("statm")).ok()?;
    let mut fields = text.split_whitespace().map(str::parse::<u64>);
    let mut next = || fields.next()?.ok();
    let (_, resident, shared) = (next().filter(|&size| size > 0)?, next()?, next()?);
    Some(resident.saturating_sub(shared) * page_size())
}

/// The same with every shared page divided by its users; dear.
fn proportional_set(program: &Path) -> Option<u64> {
    let text = fs::read_to_string(program.join("smaps_rollup")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Pss_Anon:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

fn bytes_of_filesystem(path: &Path) -> u64 {
    nix::sys::statvfs::statvfs(path).map_or(0, |stat| {
        stat.blocks()
            .saturating_sub(stat.blocks_free())
            .saturating_mul(stat.fragment_size())
    })
}

/// Bytes in the target's own shared memory, while that is mounted: otherwise there is a
/// directory of the build's in its place.
fn shared_memory_of_target(work: &Path) -> u64 {
    let path = work.join("mnt/dev/shm");
    let device = |path: &Path| fs::symlink_metadata(path).ok().map(|found| found.dev());
    let is_memory = nix::sys::statfs::statfs(&path)
        .is_ok_and(|found| found.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC);
    if is_memory && device(&path) != device(work) {
        bytes_of_filesystem(&path)
    } else {
        0
    }
}

/// Bytes that a tree takes on its own filesystem, however deep; mounts in it do not count.
fn bytes_of_tree(path: &Path) -> u64 {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let Ok(meta) = fs::symlink_metadata(path) else {
        return 0;
    };
    let Ok(top) = nix::fcntl::open(path, flags, Mode::empty()) else {
        return 0;
    };
    let mut linked = HashSet::new();
    let mut sum = 0u64;
    // Each by an open directory above it, since a path has at most `PATH_MAX` bytes.
    let mut directories = vec![(Rc::new(top), PathBuf::new())];
    while let Some((mut above, mut path)) = directories.pop() {
        if path.as_os_str().len() > LONG_PATH {
            let Ok(opened) = nix::fcntl::openat(&*above, &path, flags, Mode::empty()) else {
                continue;
            };
            (above, path) = (Rc::new(opened), PathBuf::new());
        }
        let directory = PathBuf::from(format!("/proc/self/fd/{}", above.as_raw_fd())).join(&path);
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else {
                continue;
            };
            if found.dev() != meta.dev() {
                continue;
            }
            if found.is_dir() {
                directories.push((above.clone(), path.join(entry.file_name())));
            } else if found.nlink() > 1 && !linked.insert(found.ino()) {
                continue;
            }
            sum += found.blocks() * 512;
        }
    }
    sum
}

/// One program's time.
#[derive(Debug)]
pub struct Clock<'a> {
    watch: &'a Watch,
    started: Instant,
    /// When the disk is looked at next.
    disk: Instant,
    /// When memory and processes are.
    look: Instant,
}

impl Clock<'_> {
    /// How long to wait for the program before [`Clock::check`].
    pub fn patience(&self) -> PollTimeout {
        let left =
            self.watch.limits.hook.map(|limit| {
                limit.saturating_sub(self.started.elapsed()) + Duration::from_millis(1)
            });
        let look = self.watch.looks().then_some(PERIOD);
        left.into_iter()
            .chain(look)
            .min()
            .map_or(PollTimeout::NONE, |wait| {
                PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX)
            })
    }

    /// Whether all is within the limits.
    pub fn check(&mut self) -> Result<(), Exceeded> {
        let limits = &self.watch.limits;
        if let Some(limit) = limits.hook
            && self.started.elapsed() >= limit
        {
            return Err(Exceeded::Time(limit));
        }
        let now = Instant::now();
        if now >= self.look {
            self.look = now + PERIOD;
            if let Some(limit) = limits.memory
                && !self.watch.group.memory
            {
                self.watch.memory(limit)?;
            }
            if self.watch.counts_processes() {
                self.watch.processes()?;
            }
        }
        self.check_disk()
    }

    fn check_disk(&mut self) -> Result<(), Exceeded> {
        let now = Instant::now();
        if let Some(limit) = self.watch.limits.disk
            && !self.watch.work_in_memory
            && now >= self.disk
        {
            let used = bytes_of_tree(&self.watch.work);
            // A large tree takes a while to add up: at most a twentieth of the time.
            self.disk = Instant::now() + (now.elapsed() * 20).max(PERIOD);
            if used > limit {
                return Err(Exceeded::Disk { used, limit });
            }
        }
        Ok(())
    }

    /// A last look when the program has ended, at what it leaves. Where the kernel
    /// counts processes, their number is only of interest if it explains a failure.
    pub fn end(mut self, succeeded: bool) -> Result<(), Exceeded> {
        self.disk = self.started;
        if !succeeded || self.watch.counts_processes() {
            self.watch.processes()?;
        }
        self.check_disk()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_added_up_with_hard_links_counted_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("file");
        fs::write(&file, vec![1; 1 << 20]).expect("written");
        fs::hard_link(&file, directory.path().join("again")).expect("linked");
        let used = bytes_of_tree(directory.path());
        assert!((1 << 20..3 << 19).contains(&used), "{used}");
    }

    #[test]
    fn what_lies_deeper_than_a_path_is_long_counts() {
        let directory = tempfile::tempdir().expect("a directory");
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut here = nix::fcntl::open(directory.path(), flags, Mode::empty()).expect("there");
        let name = "n".repeat(200);
        for _ in 0..30 {
            nix::sys::stat::mkdirat(&here, name.as_str(), Mode::S_IRWXU).expect("made");
            here = nix::fcntl::openat(&here, name.as_str(), flags, Mode::empty()).expect("made");
        }
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_CLOEXEC;
        let file = nix::fcntl::openat(&here, "file", flags, Mode::S_IRWXU).expect("made");
        nix::unistd::write(&file, &vec![1; 1 << 20]).expect("written");
        let used = bytes_of_tree(directory.path());
        assert!(used > 1 << 20, "{used}");
        // The library removes by paths.
        super::super::sweep::remove_tree(directory.path()).expect("removed");
    }

    #[test]
    fn errors_name_the_option() {
        let error = io::Error::other(Exceeded::Time(Duration::from_secs(2)));
        let exceeded = Exceeded::of(&error).expect("a limit");
        assert_eq!(
            exceeded.to_string(),
            "took longer than 2 s, the limit of `--timeout`"
        );
        assert_eq!(exceeded.status(), 124);
    }
}
