//! Ids that a process believes to have, by the rules of `credentials(7)`.
//!
//! Each process of the sandbox really is uid 0 with all capabilities. What it
//! believes is a number in its soft `RLIMIT_LOCKS`, which the kernel hands on
//! over fork and exec but has no other use for, and this table says what the
//! number means. So no process needs to be followed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;

use crate::sandbox::bpf::RLIMIT_LOCKS;

/// The upper half of a limit that is a number of ours: "kiln".
const MAGIC: u64 = 0x6b69_6c6e << 32;

/// "Leave it as it is" in most calls that set ids.
const KEEP: u32 = u32::MAX;

/// Real, effective, saved and filesystem id of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Ids {
    /// Who started the process.
    pub real: u32,
    /// As whom it acts.
    pub effective: u32,
    /// To which it may return.
    pub saved: u32,
    /// Owner of the files that it makes.
    pub filesystem: u32,
}

impl Ids {
    fn has(&self, id: u32) -> bool {
        [self.real, self.effective, self.saved].contains(&id)
    }

    /// `setuid`, `setgid`.
    fn set(&mut self, id: u32, privileged: bool) -> Result<(), Errno> {
        if id == KEEP {
            return Err(Errno::EINVAL);
        }
        if privileged {
            (self.real, self.saved) = (id, id);
        } else if id != self.real && id != self.saved {
            return Err(Errno::EPERM);
        }
        (self.effective, self.filesystem) = (id, id);
        Ok(())
    }

    /// `setreuid`, `setregid`.
    fn set_two(&mut self, real: u32, effective: u32, privileged: bool) -> Result<(), Errno> {
        let old = *self;
        if real != KEEP {
            if !privileged && real != old.real && real != old.effective {
                return Err(Errno::EPERM);
            }
            self.real = real;
        }
        if effective != KEEP {
            if !privileged && !old.has(effective) {
                *self = old;
                return Err(Errno::EPERM);
            }
            self.effective = effective;
        }
        if real != KEEP || (effective != KEEP && effective != old.real) {
            self.saved = self.effective;
        }
        self.filesystem = self.effective;
        Ok(())
    }

    /// `setresuid`, `setresgid`.
    fn set_three(&mut self, ids: [u32; 3], privileged: bool) -> Result<(), Errno> {
        if !privileged && ids.iter().any(|&id| id != KEEP && !self.has(id)) {
            return Err(Errno::EPERM);
        }
        let [real, effective, saved] = ids;
        for (place, id) in [
            (&mut self.real, real),
            (&mut self.effective, effective),
            (&mut self.saved, saved),
        ] {
            if id != KEEP {
                *place = id;
            }
        }
        self.filesystem = self.effective;
        Ok(())
    }

    /// `setfsuid`, `setfsgid`; both return the former id whatever happens.
    fn set_filesystem(&mut self, id: u32, privileged: bool) -> u32 {
        let old = self.filesystem;
        if id != KEEP && (privileged || self.has(id) || id == old) {
            self.filesystem = id;
        }
        old
    }
}

/// Which ids of a process a call is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// User ids.
    User,
    /// Group ids.
    Group,
}

/// What a call sets.
#[derive(Debug, Clone, Copy)]
pub enum Change {
    /// `setuid`, `setgid`.
    One(u32),
    /// `setreuid`, `setregid`: real, effective.
    Two(u32, u32),
    /// `setresuid`, `setresgid`: real, effective, saved.
    Three([u32; 3]),
    /// `setfsuid`, `setfsgid`.
    Filesystem(u32),
}

/// The credentials of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// User ids.
    pub user: Ids,
    /// Group ids.
    pub group: Ids,
    /// Supplementary groups, in ascending order.
    pub groups: Vec<u32>,
    /// `PR_SET_SECUREBITS`, of which `PR_SET_KEEPCAPS` is one.
    pub secure: u32,
    /// Capabilities that it does not have any more, a bit each.
    pub gone: u64,
    /// Those that are not effective; those that are gone are among them.
    pub idle: u64,
}

/// From `linux/capability.h`.
pub(super) const CAP_CHOWN: u32 = 0;
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;
pub(super) const CAP_SETPCAP: u32 = 8;
/// Those that follow the filesystem id (`CAP_FS_MASK`).
const FOR_FILES: u64 = 1 << 32 | 1 << 27 | 1 << 9 | 0b1_1111;
const ALL: u64 = u64::MAX;

/// Bits of `secure`, from `linux/securebits.h`: a uid of 0 means nothing at `execve`, or when
/// it is set; capabilities outlive uid 0. Each has one above it that locks it.
const NO_ROOT: u32 = 1 << 0;
const NO_FIXUP: u32 = 1 << 2;
const KEEP_CAPABILITIES: u32 = 1 << 4;
const LOCKS: u32 = 0b1010_1010;
/// All of those, and those about checks of scripts (Linux 6.14), which change nothing here
/// and take no privilege.
const PRIVILEGED: u32 = 0xff;
const PLAIN: u32 = 0xf00;

impl Credentials {
    /// Whether a capability (`CAP_*`) is effective.
    pub fn has(&self, capability: u32) -> bool {
        self.idle & 1 << capability == 0
    }

    /// Does what a call that sets ids does; returns the call's result.
    pub fn change(&mut self, kind: Kind, change: Change) -> Result<i64, Errno> {
        let privileged = self.has(match kind {
            Kind::User => CAP_SETUID,
            Kind::Group => CAP_SETGID,
        });
        let before = self.user;
        let ids = match kind {
            Kind::User => &mut self.user,
            Kind::Group => &mut self.group,
        };
        let mut result = 0;
        match change {
            Change::One(id) => ids.set(id, privileged)?,
            Change::Two(real, effective) => ids.set_two(real, effective, privileged)?,
            Change::Three(three) => ids.set_three(three, privileged)?,
            Change::Filesystem(id) => result = i64::from(ids.set_filesystem(id, privileged)),
        }
        if self.secure & NO_FIXUP == 0 {
            match change {
                Change::Filesystem(_) => self.follow_filesystem(before),
                _ => self.follow(before),
            }
        }
        Ok(result)
    }

    /// What capabilities do when the user ids have changed (`capabilities(7)`).
    fn follow(&mut self, before: Ids) {
        let kept = self.secure & KEEP_CAPABILITIES != 0;
        if before.has(0) && !self.user.has(0) && !kept {
            self.gone = ALL;
        }
        match (before.effective == 0, self.user.effective == 0) {
            (true, false) => self.idle = ALL,
            (false, true) => self.idle = self.gone,
            _ => {}
        }
        self.idle |= self.gone;
    }

    fn follow_filesystem(&mut self, before: Ids) {
        match (before.filesystem == 0, self.user.filesystem == 0) {
            (true, false) => self.idle |= FOR_FILES,
            (false, true) => self.idle = self.idle & !FOR_FILES | self.gone,
            _ => {}
        }
    }

    /// `PR_SET_SECUREBITS`.
    pub fn set_secure(&mut self, bits: u32) -> Result<(), Errno> {
        let locked = self.secure & LOCKS | (self.secure & LOCKS) >> 1;
        let changed = (bits ^ self.secure) & PRIVILEGED;
        let is_allowed = self.has(CAP_SETPCAP) || changed == 0 && bits & PLAIN != 0;
        if bits & !(PRIVILEGED | PLAIN) != 0 || changed & locked != 0 || !is_allowed {
            return Err(Errno::EPERM);
        }
        self.secure = bits & PRIVILEGED;
        Ok(())
    }

    /// `PR_SET_KEEPCAPS`.
    pub fn keep_capabilities(&mut self, keep: bool) -> Result<(), Errno> {
        if self.secure & KEEP_CAPABILITIES << 1 != 0 {
            return Err(Errno::EPERM);
        }
        if keep {
            self.secure |= KEEP_CAPABILITIES;
        } else {
            self.secure &= !KEEP_CAPABILITIES;
        }
        Ok(())
    }

    /// `setgroups`.
    pub fn set_groups(&mut self, mut groups: Vec<u32>) -> Result<(), Errno> {
        if !self.has(CAP_SETGID) {
            return Err(Errno::EPERM);
        }
        groups.sort_unstable();
        self.groups = groups;
        Ok(())
    }

    /// `execve` of a file with these set-id owners.
    pub fn execute(&mut self, uid: Option<u32>, gid: Option<u32>) {
        for (ids, id) in [(&mut self.user, uid), (&mut self.group, gid)] {
            ids.effective = id.unwrap_or(ids.effective);
            (ids.saved, ids.filesystem) = (ids.effective, ids.effective);
        }
        self.secure &= !KEEP_CAPABILITIES;
        let lacks = |id| {
            if id == 0 && self.secure & NO_ROOT == 0 {
                0
            } else {
                ALL
            }
        };
        self.idle = lacks(self.user.effective);
        self.gone = self.idle & lacks(self.user.real);
    }

    /// Whether it is a member of a group.
    pub fn in_group(&self, gid: u32) -> bool {
        self.group.filesystem == gid || self.groups.contains(&gid)
    }
}

/// All credentials that any process ever had.
#[derive(Debug, Default)]
pub struct Table {
    known: Mutex<Known>,
    /// Whether any process ever had others than root's.
    used: AtomicBool,
}

/// Most sets of credentials that are known, and most groups in all of them. A build has
/// a few dozen; a program that makes up others must not fill the engine's memory. They
/// stay, since a process may carry any of them.
const MOST_SETS: usize = 1 << 16;
const MOST_GROUPS: usize = 1 << 20;

#[derive(Debug, Default)]
struct Known {
    /// Supplementary groups in all of them.
    groups: usize,
    list: Vec<Arc<Credentials>>,
    numbers: HashMap<Arc<Credentials>, u64>,
}

/// Reads, and with `new` writes, a process's limit.
fn limit(pid: u32, new: Option<libc::rlimit64>) -> Result<libc::rlimit64, Errno> {
    let mut old = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let new = new.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `new` is null or points to a limit, and `old` to room for one,
    // both across the call.
    Errno::result(unsafe {
        libc::syscall(libc::SYS_prlimit64, pid, RLIMIT_LOCKS, new, &raw mut old)
    })?;
    Ok(old)
}

impl Table {
    /// Whether any process ever had others than root's.
    pub fn is_used(&self) -> bool {
        self.used.load(Ordering::Acquire)
    }

    /// The credentials of a process.
    pub fn of(&self, pid: u32) -> Result<Arc<Credentials>, Errno> {
        if !self.is_used() {
            return Ok(Arc::default());
        }
        let value = limit(pid, None)?.rlim_cur;
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let number = usize::try_from(value & 0xffff_ffff).unwrap_or(usize::MAX);
        Ok(match known.list.get(number) {
            Some(found) if value & MAGIC == MAGIC && value >> 32 == MAGIC >> 32 => found.clone(),
            _ => Arc::default(),
        })
    }

    /// Gives a process credentials.
    pub fn give(&self, pid: u32, credentials: Credentials) -> Result<(), Errno> {
        let value = if credentials == Credentials::default() {
            libc::RLIM64_INFINITY
        } else {
            self.used.store(true, Ordering::Release);
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            match known.numbers.get(&credentials) {
                Some(&number) => MAGIC | number,
                None => {
                    let groups = known.groups + credentials.groups.len();
                    if known.list.len() >= MOST_SETS || groups > MOST_GROUPS {
                        return Err(Errno::ENOMEM);
                    }
                    known.groups = groups;
                    let number = known.list.len() as u64;
                    let credentials = Arc::new(credentials);
                    known.list.push(credentials.clone());
                    known.numbers.insert(credentials, number);
                    MAGIC | number
                }
            }
        };
        let hard = limit(pid, None)?.rlim_max;
        let new = libc::rlimit64 {
            rlim_cur: value,
            rlim_max: hard,
        };
        limit(pid, Some(new)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(change: Change, credentials: &mut Credentials) -> Result<i64, Errno> {
        credentials.change(Kind::User, change)
    }

    #[test]
    fn root_that_drops_its_ids_cannot_return() {
        let mut of = Credentials::default();
        of.set_groups(vec![9, 5]).expect("root may");
        of.change(Kind::Group, Change::One(5)).expect("root may");
        user(Change::One(42), &mut of).expect("root may");
        assert_eq!((of.groups.clone(), of.user.filesystem), (vec![5, 9], 42));
        assert_eq!(user(Change::One(0), &mut of), Err(Errno::EPERM));
        assert_eq!(of.set_groups(Vec::new()), Err(Errno::EPERM));
        assert_eq!(
            user(Change::Three([KEEP, 0, KEEP]), &mut of),
            Err(Errno::EPERM)
        );
        assert!(of.in_group(9) && !of.in_group(0));
    }

    #[test]
    fn an_effective_id_alone_can_be_taken_back() {
        let mut of = Credentials::default();
        user(Change::Three([KEEP, 42, KEEP]), &mut of).expect("root may");
        assert!(!of.has(CAP_CHOWN));
        user(Change::Three([KEEP, 0, KEEP]), &mut of).expect("0 is still saved");
        assert!(of.has(CAP_CHOWN));
        user(Change::Two(KEEP, 42), &mut of).expect("root may");
        assert_eq!((of.user.real, of.user.saved), (0, 42));
        user(Change::Two(42, 0), &mut of).expect("swapping is allowed");
        assert_eq!(of.user.real, 42);
        assert_eq!(user(Change::Filesystem(7), &mut of), Ok(0));
        assert_eq!(of.user.filesystem, 7);
        assert!(!of.has(CAP_CHOWN) && of.has(CAP_SETUID));
        assert_eq!(user(Change::Filesystem(0), &mut of), Ok(7));
        assert!(of.has(CAP_CHOWN));
    }

    #[test]
    fn capabilities_outlive_a_change_only_when_asked() {
        for (secure, gone, idle) in [(0, ALL, ALL), (KEEP_CAPABILITIES, 0, ALL), (NO_FIXUP, 0, 0)] {
            let mut of = Credentials::default();
            of.set_secure(secure).expect("root may");
            user(Change::Three([42; 3]), &mut of).expect("root may");
            assert_eq!((of.gone, of.idle), (gone, idle), "{secure}");
            let groups = of.set_groups(vec![1]);
            assert_eq!(groups.is_err(), idle != 0, "{secure}");
            // As by `capset`.
            of.idle = of.gone;
            of.execute(None, None);
            assert_eq!(of.set_groups(vec![2]), Err(Errno::EPERM));
            assert_eq!(of.gone, ALL);
        }
        let mut of = Credentials::default();
        of.execute(Some(42), None);
        assert_eq!((of.gone, of.idle), (0, ALL), "its real uid is root's");
    }

    #[test]
    fn secure_bits_can_be_locked() {
        let mut of = Credentials::default();
        let lock = KEEP_CAPABILITIES << 1;
        for (bits, expected) in [
            (1 << 12, Err(Errno::EPERM)),
            (KEEP_CAPABILITIES | lock, Ok(())),
            (lock, Err(Errno::EPERM)),
            (KEEP_CAPABILITIES, Err(Errno::EPERM)),
            (KEEP_CAPABILITIES | lock | NO_FIXUP, Ok(())),
        ] {
            assert_eq!(of.set_secure(bits), expected, "{bits:#x}");
        }
        assert_eq!(of.keep_capabilities(false), Err(Errno::EPERM));
        of.idle = 1 << CAP_SETPCAP;
        assert_eq!(of.set_secure(of.secure), Err(Errno::EPERM));
        assert_eq!(of.set_secure(of.secure | 1 << 8), Ok(()));
    }

    #[test]
    fn a_set_id_program_acts_as_its_owner() {
        let mut of = Credentials::default();
        user(Change::One(42), &mut of).expect("root may");
        of.execute(Some(0), Some(8));
        assert_eq!((of.user.real, of.user.effective, of.user.saved), (42, 0, 0));
        assert_eq!((of.group.real, of.group.filesystem), (0, 8));
    }

    #[test]
    fn the_table_does_not_grow_without_end() {
        let table = Table::default();
        let pid = std::process::id();
        let before = limit(pid, None).expect("a limit");
        let many = |first: u32| Credentials {
            groups: (first..first + 65536).collect(),
            ..Credentials::default()
        };
        let given = (0..100)
            .take_while(|&first| table.give(pid, many(first)).is_ok())
            .count();
        assert_eq!(given, MOST_GROUPS / 65536);
        assert_eq!(table.give(pid, many(1000)), Err(Errno::ENOMEM));
        // Those that are known can be taken still.
        table.give(pid, many(3)).expect("given");
        assert_eq!(*table.of(pid).expect("read"), many(3));
        let mut known = table.known.lock().expect("no panic");
        known.list.resize(MOST_SETS, Arc::default());
        drop(known);
        let few = Credentials {
            groups: vec![1],
            ..Credentials::default()
        };
        assert_eq!(table.give(pid, few), Err(Errno::ENOMEM));
        limit(pid, Some(before)).expect("restored");
    }

    #[test]
    fn the_table_is_read_back_from_the_process_itself() {
        let table = Table::default();
        let pid = std::process::id();
        let before = limit(pid, None).expect("a limit");
        let wanted = Credentials {
            groups: vec![3],
            ..Credentials::default()
        };
        table.give(pid, wanted.clone()).expect("given");
        assert_eq!(*table.of(pid).expect("read"), wanted);
        table.give(pid, Credentials::default()).expect("given");
        assert_eq!(*table.of(pid).expect("read"), Credentials::default());
        limit(pid, Some(before)).expect("restored");
    }
}
