//! `/proc/PID/status`, as far as anybody here reads it.

use std::os::fd::OwnedFd;

use nix::errno::Errno;

/// What `/proc/PID/status` says of a task.
#[derive(Debug, Clone, Copy)]
pub struct Status {
    /// Its umask.
    pub umask: u32,
    /// Owner of the files that it makes.
    pub uid: u32,
    /// Their group.
    pub gid: u32,
    /// Effective capabilities, a bit each.
    pub capabilities: u64,
    /// Those that it may make effective, and those that it hands on.
    pub permitted: u64,
    pub inheritable: u64,
    /// Those that it can get at all.
    pub bounding: u64,
    /// `no_new_privs`.
    pub no_new_privileges: bool,
    /// Its number and that of its process as itself knows them, in its PID namespace.
    pub numbers: [u32; 2],
}

impl Status {
    pub(super) fn parse(text: &str) -> Option<Status> {
        let field = |name: &str| status_field(text, name);
        // Real, effective, saved and filesystem id.
        let last = |value: &str| value.split_whitespace().nth(3)?.parse().ok();
        let set = |name: &str| u64::from_str_radix(field(name)?, 16).ok();
        Some(Status {
            umask: u32::from_str_radix(field("Umask:")?, 8).ok()?,
            uid: last(field("Uid:")?)?,
            gid: last(field("Gid:")?)?,
            capabilities: set("CapEff:")?,
            permitted: set("CapPrm:")?,
            inheritable: set("CapInh:")?,
            bounding: set("CapBnd:")?,
            no_new_privileges: field("NoNewPrivs:")? != "0",
            // A kernel without such namespaces does not say.
            numbers: ["NSpid:", "NStgid:"].map(|name| {
                let last = field(name).and_then(|numbers| numbers.split_whitespace().last());
                last.and_then(|number| number.parse().ok())
                    .unwrap_or_default()
            }),
        })
    }
}

/// What `/proc/PID/status` says of a task's signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sandbox) struct Signals {
    /// Those that have handlers, a bit each.
    pub caught: u64,
    /// Whether it is traced.
    pub traced: bool,
    /// The process that it was forked from, as far as that is alive.
    pub parent: u32,
    /// The process that it is a thread of.
    pub group: u32,
}

impl Signals {
    pub(super) fn parse(text: &str) -> Option<Signals> {
        Some(Signals {
            caught: u64::from_str_radix(status_field(text, "SigCgt:")?, 16).ok()?,
            traced: status_number(text, "TracerPid:")? != 0,
            parent: status_number(text, "PPid:")?,
            group: status_number(text, "Tgid:")?,
        })
    }
}

/// What `/proc/PID/status` says of signals that end the wait of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waiting {
    /// Those that have come and are not blocked, a bit each.
    pub pending: u64,
    /// No other thread can take them.
    pub is_own: bool,
}

impl Waiting {
    pub(super) fn parse(text: &str) -> Option<Waiting> {
        let set = |name| u64::from_str_radix(status_field(text, name)?, 16).ok();
        let blocked = set("SigBlk:")?;
        let own = set("SigPnd:")? & !blocked;
        let shared = set("ShdPnd:")? & !blocked;
        Some(Waiting {
            pending: own | shared,
            is_own: shared == 0 || status_number(text, "Threads:")? == 1,
        })
    }
}

/// It is never longer: names and numbers are short, and groups are `NGROUPS_MAX` at most.
const LONGEST: usize = 2 << 20;

/// The text of `/proc/PID/status`, as far as anybody here reads. A program may have mounted
/// something else there.
pub(super) fn status_of(file: &OwnedFd) -> Result<String, Errno> {
    // Many groups make it long (`NGROUPS_MAX`).
    let mut text = vec![0; 4096];
    let mut length = 0;
    loop {
        match nix::unistd::read(file, &mut text[length..])? {
            0 => break,
            count => length += count,
        }
        if length >= LONGEST {
            return Err(Errno::EFBIG);
        }
        if length == text.len() {
            text.resize(2 * length, 0);
        }
    }
    Ok(String::from_utf8_lossy(&text[..length]).into_owned())
}

/// A line of `/proc/PID/status` that starts with `field`, as a number.
pub(super) fn status_number(text: &str, field: &str) -> Option<u32> {
    status_field(text, field)?.parse().ok()
}

/// The same as it stands there.
pub(super) fn status_field<'t>(text: &'t str, field: &str) -> Option<&'t str> {
    let value = text.lines().find_map(|line| line.strip_prefix(field))?;
    Some(value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_status_is_read_whole() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let text = format!("Groups:\t{}\nTgid:\t7\n", "1000 ".repeat(3000));
        std::fs::write(file.path(), &text).expect("written");
        let file = OwnedFd::from(std::fs::File::open(file.path()).expect("there"));
        let read = status_of(&file).expect("readable");
        assert_eq!(status_number(&read, "Tgid:"), Some(7));
    }

    #[test]
    fn the_status_of_a_task_is_read() {
        let text = "Name:\tsh\nUmask:\t0027\nNStgid:\t7\t1\nNSpid:\t8\t2\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n\
            CapInh:\t0000000000000001\nCapPrm:\t0000000008000003\nCapEff:\t0000000008000000\n\
            CapBnd:\t000000000800000f\n\
            NoNewPrivs:\t1\n";
        let status = Status::parse(text).expect("complete");
        let Status {
            umask,
            uid,
            gid,
            capabilities,
            permitted,
            inheritable,
            bounding,
            no_new_privileges,
            numbers,
        } = status;
        assert_eq!(numbers, [2, 1]);
        assert_eq!((umask, uid, gid, capabilities), (0o27, 4, 8, 1 << 27));
        assert_eq!((permitted, inheritable), (1 << 27 | 3, 1));
        assert_eq!(bounding, 1 << 27 | 15);
        assert!(no_new_privileges);
        assert!(Status::parse("Umask:\t0022\n").is_none());
        let text = "Tgid:\t9\nPPid:\t7\nTracerPid:\t0\nSigCgt:\t0000000000010000\n";
        let signals = Signals {
            caught: 1 << 16,
            traced: false,
            parent: 7,
            group: 9,
        };
        assert_eq!(Signals::parse(text), Some(signals));
        assert_eq!(Signals::parse("PPid:\t7\n"), None);
    }

    #[test]
    fn signals_that_end_a_wait_are_those_that_are_not_blocked() {
        for (threads, own, shared, blocked, expected) in [
            (1, 0, 0, 0, (0, true)),
            (1, 0b110, 0b1000, 0b10, (0b1100, true)),
            (2, 0b100, 0b10, 0b10, (0b100, true)),
            (2, 0, 0b10, 0, (0b10, false)),
        ] {
            let text = format!(
                "Threads:\t{threads}\nSigPnd:\t{own:016x}\nShdPnd:\t{shared:016x}\n\
                SigBlk:\t{blocked:016x}\n"
            );
            let found = Waiting::parse(&text).map(|found| (found.pending, found.is_own));
            assert_eq!(found, Some(expected), "{text}");
        }
    }
}
