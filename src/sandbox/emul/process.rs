//! Whose the files of a process below `/proc` are, by which `start-stop-daemon --user`,
//! `find -user` and `test -O` know the processes of a user.
//!
//! The kernel shows the effective ids, which are root's here. What is told are those that
//! the process believes to have. What is written in them, such as ids in `status`, stays
//! the kernel's: reading is never handed over. See `proc_pid(5)`.

use super::files::Target;
use super::walk::read_link_of;
use super::{Call, Errno};

impl Call<'_> {
    /// Whether a file may be one that is shown as its process's.
    pub(super) fn may_be_of_process(&self, found: &libc::statx) -> bool {
        let shared = &self.worker.shared;
        (found.stx_dev_major, found.stx_dev_minor) == shared.proc_device
            && (found.stx_uid, found.stx_gid) == (0, 0)
            && self.store().has_owners()
            && shared.credentials.is_used()
    }

    /// Changes the owner of a process's file to what it should be; false if that is the same.
    pub(super) fn correct_process(&self, target: Target, found: &mut libc::statx) -> bool {
        if !self.may_be_of_process(found) {
            return false;
        }
        // What cannot be found out stays as the kernel shows it.
        let owner = || -> Result<_, Errno> {
            let text = read_link_of(self.worker.view.proc(), &target.into_file()?)?;
            let pid = process_of(&text).ok_or(Errno::ESRCH)?;
            let of = self.worker.shared.credentials.of(pid)?;
            Ok((of.user.effective, of.group.effective))
        };
        let owner = owner().unwrap_or_default();
        (found.stx_uid, found.stx_gid) = owner;
        owner != (0, 0)
    }
}

/// The process that a file belongs to, by the kernel's name for the file, which may start
/// from another root than that of the process that asks. What is below `net` is of a network.
fn process_of(path: &[u8]) -> Option<u32> {
    const PROC: &[u8] = b"/proc/";
    let at = path.windows(PROC.len()).rposition(|part| part == PROC)?;
    let mut names = path[at + PROC.len()..].split(|&byte| byte == b'/');
    let pid = std::str::from_utf8(names.next()?).ok()?.parse().ok()?;
    let of_network = names.any(|name| name == b"net") && path.last_chunk() != Some(b"/net");
    (!of_network).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::process_of;

    #[test]
    fn files_of_processes_are_known_by_their_names() {
        for (path, expected) in [
            ("/proc/7", Some(7)),
            ("/proc/7/task/8/status", Some(7)),
            ("/tmp/proc/x/proc/9/fd", Some(9)),
            ("/proc/7/net", Some(7)),
            ("/proc/7/net/tcp", None),
            ("/proc/7/task/7/net/dev", None),
            ("/proc/self", None),
            ("/proc/sys/kernel/7", None),
            ("/proc/", None),
            ("/srv/7", None),
        ] {
            assert_eq!(process_of(path.as_bytes()), expected, "{path}");
        }
    }
}
