//! Work on files of a target that cannot leave it.
//!
//! A target is made by others: any of its files may be a link to `/etc/passwd`
//! or through `..`. A thread that has the target as its own root cannot be led
//! out, whatever it opens, so plain file operations are safe there.

use std::io;
use std::path::Path;

use nix::sched::CloneFlags;

use super::mounts;

/// Runs `work` in a thread whose root directory is `root`.
///
/// Needs `CAP_SYS_CHROOT`. `/proc` in the thread is the target's.
pub fn within<T: Send>(root: &Path, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let directory = mounts::open_directory(root)?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || -> io::Result<T> {
            // From here on, root and current directory are this thread's own.
            nix::sched::unshare(CloneFlags::CLONE_FS)?;
            nix::unistd::fchdir(&directory)?;
            nix::unistd::chroot(c".")?;
            nix::unistd::chdir(c"/")?;
            Ok(work())
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
