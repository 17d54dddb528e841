//! What the control groups that kiln was started in refuse: those of a container, of a
//! login or of a service, whose limits are not kiln's own ([`super::cgroup`]).
//!
//! The kernel counts such events and tells nobody; a program only sees that a fork
//! fails, or is killed.

use std::fs;
use std::path::{Path, PathBuf};

use super::cgroup;

/// Files that count processes that were refused, and the name of the count.
const PROCESSES: &[(&str, &str)] = &[("pids.events", "max")];
/// Files that count processes that were killed for memory: of version 2 and of version 1.
const MEMORY: &[(&str, &str)] = &[
    ("memory.events", "oom_kill"),
    ("memory.oom_control", "oom_kill"),
];

/// Counts as they were when a build began.
#[derive(Debug, Default)]
pub struct CgroupEvents {
    processes: Vec<Count>,
    memory: Vec<Count>,
}

#[derive(Debug)]
struct Count {
    file: PathBuf,
    name: &'static str,
    before: u64,
}

impl CgroupEvents {
    /// Looks at the groups of this process and at those above them.
    pub fn begin() -> CgroupEvents {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let groups = cgroup::own_groups(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"));
        CgroupEvents::of(&groups)
    }

    fn of(groups: &[PathBuf]) -> CgroupEvents {
        let counts = |names: &[(&str, &'static str)]| {
            groups
                .iter()
                .flat_map(|group| group.ancestors())
                .flat_map(|group| names.iter().map(|&(file, name)| (group.join(file), name)))
                .filter_map(|(file, name)| {
                    let before = count(&file, name)?;
                    Some(Count { file, name, before })
                })
                .collect()
        };
        CgroupEvents {
            processes: counts(PROCESSES),
            memory: counts(MEMORY),
        }
    }

    /// Whether one of them refused a process since.
    pub fn refused_a_process(&self) -> bool {
        self.processes.iter().any(Count::grew)
    }

    /// Whether a process was killed in one of them since because memory ran out.
    pub fn ran_out_of_memory(&self) -> bool {
        self.memory.iter().any(Count::grew)
    }
}

impl Count {
    fn grew(&self) -> bool {
        count(&self.file, self.name).is_some_and(|now| now > self.before)
    }
}

/// The count of a name in a table of `NAME COUNT` lines.
fn count(file: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(found, _)| *found == name)?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_groups_above_count_from_their_beginning_on() {
        let top = tempfile::tempdir().expect("a directory");
        let own = top.path().join("slice/scope");
        fs::create_dir_all(&own).expect("made");
        let limit = top.path().join("slice/pids.events");
        let memory = own.join("memory.events");
        fs::write(&limit, "max 3\n").expect("written");
        fs::write(&memory, "low 0\noom 1\noom_kill 1\n").expect("written");
        let session = CgroupEvents::of(&[own]);
        assert!(!session.refused_a_process() && !session.ran_out_of_memory());
        fs::write(&limit, "max 4\n").expect("written");
        assert!(session.refused_a_process() && !session.ran_out_of_memory());
        fs::write(&memory, "low 0\noom 2\noom_kill 3\n").expect("written");
        assert!(session.ran_out_of_memory());
    }
}
