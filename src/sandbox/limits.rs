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
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::PollTimeout;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Tasks of a build, unless asked otherwise: no package needs more, and a program
/// that forks without end is stopped before it hurts the host.
pub const DEFAULT_PROCESSES: u64 = 4096;

/// How the name of a control group begins; the process that made it follows.
const PREFIX: &str = "kiln_build.";

/// How often programs are looked at where the kernel does not count for us.
const PERIOD: Duration = Duration::from_millis(100);

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
        } + bytes_of_filesystem(Path::new("/dev/shm"));
        let sum = |of: fn(&Path) -> Option<u64>| -> u64 {
            programs()
                .iter()
                .filter_map(|program| of(program))
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

/// Memory that a process has not from a file. See `proc_pid_statm(5)`.
fn private_pages(program: &Path) -> Option<u64> {
    let text = fs::read_to_string(program.join("statm")).ok()?;
    let mut fields = text.split_whitespace().skip(1).map(str::parse::<u64>);
    let (resident, shared) = (fields.next()?.ok()?, fields.next()?.ok()?);
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

/// Bytes that a tree takes on its own filesystem; mounts in it do not count.
fn bytes_of_tree(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return 0;
    };
    let mut linked = HashSet::new();
    let mut sum = 0u64;
    let mut directories = vec![path.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else {
                continue;
            };
            if found.dev() != meta.dev() {
                continue;
            }
            if found.is_dir() {
                directories.push(entry.path());
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

/// A control group of the build. Main removes it, or the keeper if main is gone;
/// one that is left is removed by the next build.
#[derive(Debug)]
pub struct Group {
    directories: Vec<PathBuf>,
    counted: Counted,
}

/// A hierarchy in which a group can be made.
struct Hierarchy {
    /// The group that this process is in.
    own: PathBuf,
    unified: bool,
    memory: bool,
    processes: bool,
}

/// The hierarchies that could hold this process to a limit. See `cgroups(7)`.
fn hierarchies(groups: &str, mounts: &str) -> Vec<Hierarchy> {
    let mount_of = |controller: Option<&str>| {
        mounts.lines().find_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let point = left.split(' ').nth(4)?;
            let mut fields = right.split(' ');
            let kind = fields.next()?;
            let options = fields.nth(1)?;
            let found = match controller {
                None => kind == "cgroup2",
                Some(name) => kind == "cgroup" && options.split(',').any(|option| option == name),
            };
            found.then(|| PathBuf::from(point))
        })
    };
    groups
        .lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            let has = |name: &str| controllers.split(',').any(|known| known == name);
            let unified = controllers.is_empty();
            let (memory, processes) = (has("memory"), has("pids"));
            if !unified && !memory && !processes {
                return None;
            }
            let point = if unified {
                mount_of(None)
            } else {
                mount_of(controllers.split(',').next())
            }?;
            Some(Hierarchy {
                own: point.join(path.trim_start_matches('/')),
                unified,
                memory: memory || unified,
                processes: processes || unified,
            })
        })
        .collect()
}

/// The control groups of a process that can limit it.
pub(super) fn own_groups(groups: &str, mounts: &str) -> Vec<PathBuf> {
    let all = hierarchies(groups, mounts);
    all.into_iter().map(|hierarchy| hierarchy.own).collect()
}

/// Which versions of control groups, 1 and 2, are among mounts.
pub(super) fn versions(mounts: &str) -> (bool, bool) {
    let kinds = || {
        mounts
            .lines()
            .filter_map(|line| line.split_once(" - ")?.1.split(' ').next())
    };
    (
        kinds().any(|kind| kind == "cgroup"),
        kinds().any(|kind| kind == "cgroup2"),
    )
}

impl Group {
    /// Makes a group with the limits, as far as this host lets us; `None` where it
    /// lets us count nothing that is limited.
    pub fn create(limits: &Limits) -> Option<Group> {
        let root = nix::unistd::geteuid().is_root();
        // Others are held by the kernel in another way.
        let processes = root.then_some(limits.processes);
        if limits.memory.is_none() && processes.is_none() {
            return None;
        }
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let mut group = Group {
            directories: Vec::new(),
            counted: Counted::default(),
        };
        for hierarchy in hierarchies(&groups, &mounts) {
            group.join(&hierarchy, limits.memory, processes);
        }
        (!group.directories.is_empty()).then_some(group)
    }

    fn join(&mut self, hierarchy: &Hierarchy, memory: Option<u64>, processes: Option<u64>) {
        let memory = memory.filter(|_| hierarchy.memory && !self.counted.memory);
        let processes = processes.filter(|_| hierarchy.processes && !self.counted.processes);
        if memory.is_none() && processes.is_none() {
            return;
        }
        // A group of version 2 that holds processes has no children with limits, so
        // a sibling comes first.
        let bases = if hierarchy.unified {
            [
                hierarchy.own.parent().map(Path::to_owned),
                Some(hierarchy.own.clone()),
            ]
        } else {
            [Some(hierarchy.own.clone()), None]
        };
        for base in bases.into_iter().flatten() {
            sweep(&base);
            let directory = base.join(format!("{PREFIX}{}", std::process::id()));
            if fs::create_dir(&directory).is_err() {
                continue;
            }
            let counted = restrict(&directory, hierarchy.unified, memory, processes);
            if counted == Counted::default() || !accepts(&base, &directory) {
                let _ = fs::remove_dir(&directory);
                continue;
            }
            self.counted.memory |= counted.memory;
            self.counted.processes |= counted.processes;
            self.directories.push(directory);
            return;
        }
    }

    /// What it limits.
    pub fn counted(&self) -> Counted {
        self.counted
    }

    /// Moves the calling process in; its children follow.
    pub fn enter(&self) -> io::Result<()> {
        for directory in &self.directories {
            fs_err::write(directory.join("cgroup.procs"), "0")?;
        }
        Ok(())
    }

    /// Moves the calling process, the last one in it, out again and removes it.
    pub fn leave(&self) {
        for directory in &self.directories {
            if let Some(base) = directory.parent() {
                let _ = fs::write(base.join("cgroup.procs"), "0");
            }
        }
        self.remove();
    }

    /// Whether the kernel killed a process of it because memory ran out.
    pub fn ran_out_of_memory(&self) -> bool {
        self.has_happened("memory.events", "oom_kill")
            || self.has_happened("memory.oom_control", "oom_kill")
    }

    /// Whether the kernel refused it a process because there were too many.
    pub fn ran_out_of_processes(&self) -> bool {
        self.has_happened("pids.events", "max")
    }

    /// Whether a control group's file counts something at least once.
    fn has_happened(&self, file: &str, what: &str) -> bool {
        self.directories.iter().any(|directory| {
            fs::read_to_string(directory.join(file)).is_ok_and(|text| counts(&text, what))
        })
    }

    /// Removes it when nothing is in it any more.
    pub fn remove(&self) {
        for directory in &self.directories {
            // A process that has just been killed may still be in it.
            for _ in 0..50 {
                match fs::remove_dir(directory) {
                    Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    _ => break,
                }
            }
        }
    }
}

/// Whether a table of events, `NAME COUNT` in each line, has one of this name.
fn counts(events: &str, what: &str) -> bool {
    events
        .lines()
        .filter_map(|line| line.split_once(' '))
        .any(|(name, count)| name == what && count != "0")
}

/// Writes the limits that a new group can hold.
fn restrict(
    directory: &Path,
    unified: bool,
    memory: Option<u64>,
    processes: Option<u64>,
) -> Counted {
    let set = |name: &str, value: u64| fs::write(directory.join(name), value.to_string()).is_ok();
    let bytes = if unified {
        "memory.max"
    } else {
        "memory.limit_in_bytes"
    };
    let counted = Counted {
        memory: memory.is_some_and(|limit| set(bytes, limit)),
        processes: processes.is_some_and(|limit| set("pids.max", limit)),
    };
    if let Some(limit) = memory.filter(|_| counted.memory) {
        // Where swap is not counted there is nothing to write to.
        if unified {
            set("memory.swap.max", 0);
        } else {
            set("memory.memsw.limit_in_bytes", limit);
        }
    }
    counted
}

/// Whether a process of `base` may move to `directory`: tried with this one.
fn accepts(base: &Path, directory: &Path) -> bool {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let moved = fs::write(directory.join("cgroup.procs"), "0").is_ok();
    if !moved {
        return false;
    }
    // Back where it came from.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    hierarchies(&own, &mounts)
        .iter()
        .filter(|hierarchy| hierarchy.own == base || hierarchy.own.parent() == Some(base))
        .any(|hierarchy| fs::write(hierarchy.own.join("cgroup.procs"), "0").is_ok())
}

/// Removes the groups of builds that are gone.
fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let maker = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if maker.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // Fails if anything is in it.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_both_versions_are_found() {
        let mounts = "30 1 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
            31 1 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
            32 1 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        assert_eq!(versions(mounts), (true, true));
        let second = mounts.lines().next().unwrap_or_default();
        assert_eq!(versions(second), (false, true));
        let found: Vec<(PathBuf, bool, bool, bool)> =
            hierarchies("9:cpu:/\n4:memory:/a/b\n0::/user.slice\n", mounts)
                .into_iter()
                .map(|h| (h.own, h.unified, h.memory, h.processes))
                .collect();
        assert_eq!(
            found,
            [
                ("/sys/fs/cgroup/memory/a/b".into(), false, true, false),
                ("/sys/fs/cgroup/unified/user.slice".into(), true, true, true),
            ]
        );
    }

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
    fn events_of_a_group_count_from_one_on() {
        assert!(counts("low 0\nmax 3\n", "max"));
        assert!(!counts("low 2\nmax 0\n", "max"));
        assert!(!counts(
            "oom_kill_disable 1\nunder_oom 1\noom_kill 0\n",
            "oom_kill"
        ));
        assert!(!counts("", "max"));
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
