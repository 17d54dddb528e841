//! The control group of a build, which holds its programs to limits.
//!
//! See `cgroups(7)`, and [`limits`](super::limits) for what is done where there is none.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::dir::{Dir, Type};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::limits::{Counted, Limits};

/// How the name of a control group begins; the process that made it follows.
const PREFIX: &str = "kiln_build.";
/// The group below it that the build is in.
const INNER: &str = "hooks";
/// Groups below one another that are removed.
const DEPTH: usize = 256;

/// A control group of the build. Main removes it, or the keeper if main is gone;
/// one that is left is removed by the next build.
#[derive(Debug)]
pub struct Cgroup {
    parts: Vec<Part>,
    counted: Counted,
}

/// What it is in one hierarchy.
#[derive(Debug)]
struct Part {
    /// The group with the limits.
    outer: PathBuf,
    /// The one that the build is in.
    inner: PathBuf,
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

impl Cgroup {
    /// Makes a group with the limits, as far as this host lets us; `None` where it
    /// lets us count nothing that is limited.
    pub fn create(limits: &Limits) -> Option<Cgroup> {
        let root = nix::unistd::geteuid().is_root();
        // Others are held by the kernel in another way.
        let processes = root.then_some(limits.processes);
        if limits.memory.is_none() && processes.is_none() {
            return None;
        }
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let mut group = Cgroup {
            parts: Vec::new(),
            counted: Counted::default(),
        };
        for hierarchy in hierarchies(&groups, &mounts) {
            group.join(&hierarchy, limits.memory, processes);
        }
        (!group.parts.is_empty()).then_some(group)
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
        // Above a hierarchy of version 2 there may be a directory of no hierarchy, in
        // which limits would be plain files.
        for base in bases.into_iter().flatten().filter(|base| is_group(base)) {
            sweep(&base);
            let outer = base.join(format!("{PREFIX}{}", std::process::id()));
            if fs::create_dir(&outer).is_err() {
                continue;
            }
            let counted = restrict(&outer, hierarchy.unified, memory, processes);
            let inner = inner(&outer);
            if counted == Counted::default() || !accepts(&base, &inner) {
                let _ = remove_tree(&outer);
                continue;
            }
            self.counted.memory |= counted.memory;
            self.counted.processes |= counted.processes;
            self.parts.push(Part { outer, inner });
            return;
        }
    }

    /// What it limits.
    pub fn counted(&self) -> Counted {
        self.counted
    }

    /// Moves the calling process in; its children follow.
    pub fn enter(&self) -> io::Result<()> {
        for part in &self.parts {
            fs_err::write(part.inner.join("cgroup.procs"), "0")?;
        }
        Ok(())
    }

    /// Moves the calling process, the last one in it, out again and removes it.
    pub fn leave(&self) {
        for part in &self.parts {
            if let Some(base) = part.outer.parent() {
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
        // Version 1 counts where a process is, version 2 where the limit is too.
        let directories = self
            .parts
            .iter()
            .flat_map(|part| [&part.outer, &part.inner]);
        directories.into_iter().any(|directory| {
            fs::read_to_string(directory.join(file)).is_ok_and(|text| counts(&text, what))
        })
    }

    /// Removes it when nothing is in it any more.
    pub fn remove(&self) {
        for part in &self.parts {
            // A process that has just been killed may still be in it.
            for _ in 0..50 {
                match remove_tree(&part.outer) {
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

/// Whether a directory is a control group, of either version (`linux/magic.h`).
fn is_group(directory: &Path) -> bool {
    use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs};
    statfs(directory).is_ok_and(|found| {
        [CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC].contains(&found.filesystem_type())
    })
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

/// A group for the build below the one that has its limits.
///
/// A hook that makes a namespace of control groups (`cgroup_namespaces(7)`) can mount the
/// hierarchy from its own group on, and who has the files of a limit as owner can write
/// to them: so that must not be the group that has any.
fn inner(outer: &Path) -> PathBuf {
    // Before Linux 5.11 one had to ask for a limit that holds for groups below.
    let all = outer.join("memory.use_hierarchy");
    let _ = fs::write(&all, "1");
    let holds = fs::read_to_string(&all).map_or(true, |said| said.trim() == "1");
    let inner = outer.join(INNER);
    if holds && fs::create_dir(&inner).is_ok() {
        inner
    } else {
        outer.to_owned()
    }
}

/// Removes a group and those below it, which hooks may have made too.
fn remove_tree(group: &Path) -> io::Result<()> {
    if let Ok(directory) = super::mounts::open_directory(group) {
        empty(&directory, DEPTH);
    }
    fs::remove_dir(group)
}

/// Removes the groups below one, as far as nothing is in them.
fn empty(group: &OwnedFd, depth: usize) {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let Ok(mut list) = Dir::openat(group, ".", flags, Mode::empty()) else {
        return;
    };
    let below: Vec<CString> = list
        .iter()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type() == Some(Type::Directory))
        .map(|entry| entry.file_name().to_owned())
        .filter(|name| name.as_c_str() != c"." && name.as_c_str() != c"..")
        .collect();
    drop(list);
    for name in below {
        if depth > 0
            && let Ok(directory) = openat(group, name.as_c_str(), flags, Mode::empty())
        {
            empty(&directory, depth - 1);
        }
        let _ = unlinkat(group, name.as_c_str(), UnlinkatFlags::RemoveDir);
    }
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
            let _ = remove_tree(&entry.path());
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
    fn a_directory_that_holds_hierarchies_is_no_group() {
        let directory = tempfile::tempdir().expect("a directory");
        let own = directory.path().join("unified");
        fs::create_dir(&own).expect("made");
        let mut group = Cgroup {
            parts: Vec::new(),
            counted: Counted::default(),
        };
        let hierarchy = Hierarchy {
            own,
            unified: true,
            memory: true,
            processes: true,
        };
        group.join(&hierarchy, Some(1 << 30), Some(100));
        assert_eq!(group.counted(), Counted::default());
        let left = fs::read_dir(directory.path()).expect("there").count();
        assert_eq!(left, 1, "something was made");
    }

    #[test]
    fn groups_below_a_group_are_removed_with_it() {
        // Groups are directories that lose what is in them with them: here there is nothing.
        let directory = tempfile::tempdir().expect("a directory");
        let outer = directory.path().join("outer");
        fs::create_dir(&outer).expect("made");
        assert_eq!(inner(&outer), outer.join(INNER));
        fs::create_dir_all(outer.join("hooks/a/b")).expect("made");
        fs::create_dir_all(outer.join("c")).expect("made");
        let _ = fs::remove_file(outer.join("memory.use_hierarchy"));
        remove_tree(&outer).expect("removed");
        assert!(!outer.exists());
        assert!(remove_tree(&outer).is_err());
    }
}
