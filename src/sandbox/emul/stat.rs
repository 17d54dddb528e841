//! The `stat(2)` family: owners, types and device numbers as recorded.

use super::files::Target;
use super::layout::Layout;
use super::tracee::Glance;
use super::{Answer, Call, Errno, OVERFLOW, Outcome, bytes_of};

/// Flags that `fstatat(2)` takes.
const STAT_FLAGS: i32 = libc::AT_SYMLINK_NOFOLLOW
    | libc::AT_NO_AUTOMOUNT
    | libc::AT_EMPTY_PATH
    | libc::AT_STATX_FORCE_SYNC
    | libc::AT_STATX_DONT_SYNC;

impl Call<'_> {
    pub(super) fn stat_path(&mut self, follow: bool, layout: Layout) -> Outcome {
        let path = self.path(0)?;
        if path.is_empty() {
            return Ok(Answer::Continue);
        }
        if self.is_as_the_kernel_says(libc::AT_FDCWD, &path, follow) {
            return Ok(Answer::Continue);
        }
        let target = self.target(libc::AT_FDCWD, &path, follow);
        self.stat(target, None, 1, layout)
    }

    pub(super) fn stat_descriptor(&mut self, layout: Layout) -> Outcome {
        let target = self.target_of_descriptor(self.int(0));
        self.stat(target, Some(self.int(0)), 1, layout)
    }

    pub(super) fn stat_at(&mut self, layout: Layout) -> Outcome {
        if self.int(3) & !STAT_FLAGS != 0 {
            return Err(Errno::EINVAL);
        }
        let (path, follow) = self.path_at(1, self.int(3))?;
        if self.is_as_the_kernel_says(self.int(0), &path, follow) {
            return Ok(Answer::Continue);
        }
        let target = self.target(self.int(0), &path, follow);
        self.stat(target, path.is_empty().then_some(self.int(0)), 2, layout)
    }

    /// The file that `dirfd`, a path and flags name.
    pub(super) fn at(&mut self, path: usize, flags: i32) -> Result<Target, Errno> {
        let (path, follow) = self.path_at(path, flags)?;
        self.target(self.int(0), &path, follow)
    }

    /// The path of a call that has flags, and whether a link at its end is followed.
    pub(super) fn path_at(&self, path: usize, flags: i32) -> Result<(Vec<u8>, bool), Errno> {
        let empty_allowed = flags & libc::AT_EMPTY_PATH != 0;
        let path = match self.arguments[path] {
            // Since Linux 6.11 no path at all is like an empty one.
            0 if empty_allowed => Vec::new(),
            _ => self.path(path)?,
        };
        if path.is_empty() && !empty_allowed {
            return Err(Errno::ENOENT);
        }
        Ok((path, flags & libc::AT_SYMLINK_NOFOLLOW == 0))
    }

    /// Whether a first look finds a file that is shown as it is, or none. So it is with
    /// most.
    fn is_as_the_kernel_says(&mut self, directory: i32, path: &[u8], follow: bool) -> bool {
        match self.glance(directory, path, follow) {
            Glance::File(mut found) => !self.correct(&mut found) && !self.may_be_of_process(&found),
            Glance::Nothing => true,
            Glance::Unsure => false,
        }
    }

    /// `itself` is a descriptor, if that is all that names the file.
    fn stat(
        &mut self,
        target: Result<Target, Errno>,
        itself: Option<i32>,
        buffer: usize,
        layout: Layout,
    ) -> Outcome {
        // What cannot be found out here, the kernel answers with its own error.
        let Ok(target) = target else {
            return Ok(Answer::Continue);
        };
        let Ok(mut found) = target.statx(libc::STATX_BASIC_STATS) else {
            return Ok(Answer::Continue);
        };
        if let Some(place) = self.stands_for_other(itself, &found)? {
            return self.stat_place(&place, true, buffer, layout);
        }
        if !self.correct(&mut found) && !self.correct_process(target, &mut found) {
            return Ok(Answer::Continue);
        }
        let Some(bytes) = layout.bytes(&found) else {
            return Ok(Answer::Continue);
        };
        self.write(self.arguments[buffer], &bytes)?;
        Ok(Answer::Value(0))
    }

    pub(super) fn statx(&mut self) -> Outcome {
        let flags = self.int(2);
        if flags & !STAT_FLAGS != 0 {
            return Ok(Answer::Continue);
        }
        let Ok((path, follow)) = self.path_at(1, flags) else {
            return Ok(Answer::Continue);
        };
        if self.is_as_the_kernel_says(self.int(0), &path, follow) {
            return Ok(Answer::Continue);
        }
        let Ok(target) = self.target(self.int(0), &path, follow) else {
            return Ok(Answer::Continue);
        };
        let sync = flags & (libc::AT_STATX_FORCE_SYNC | libc::AT_STATX_DONT_SYNC);
        let found = target.statx_with(sync, self.word(3));
        let Ok(mut found) = found else {
            return Ok(Answer::Continue);
        };
        let itself = path.is_empty().then_some(self.int(0));
        if let Some(place) = self.stands_for_other(itself, &found)? {
            return self.statx_place(&place, true);
        }
        if !self.correct(&mut found) && !self.correct_process(target, &mut found) {
            return Ok(Answer::Continue);
        }
        self.write(self.arguments[4], bytes_of(&found))?;
        Ok(Answer::Value(0))
    }

    /// Changes what was found to what should be shown; false if that is the same.
    pub(super) fn correct(&mut self, found: &mut libc::statx) -> bool {
        let owners = self.store().has_owners();
        let foreign = owners && (found.stx_uid == OVERFLOW || found.stx_gid == OVERFLOW);
        if let Some(record) = self.record_of(found) {
            if owners {
                (found.stx_uid, found.stx_gid) = (record.uid, record.gid);
            }
            if let Some(node) = record.node {
                let kind = if node.block {
                    libc::S_IFBLK
                } else {
                    libc::S_IFCHR
                };
                // The type is in the upper four of the 16 bits.
                found.stx_mode = found.stx_mode & 0o7777 | kind as u16;
                (found.stx_rdev_major, found.stx_rdev_minor) = (node.major, node.minor);
                (found.stx_size, found.stx_blocks) = (0, 0);
            }
            return owners || record.node.is_some();
        }
        if foreign {
            // Files of the host: their owners are nobody here, and a copy should
            // be root's and not nobody's.
            for id in [&mut found.stx_uid, &mut found.stx_gid] {
                if *id == OVERFLOW {
                    *id = 0;
                }
            }
        }
        foreign
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use super::super::files::statx;
    use super::*;

    #[test]
    fn the_older_structure_is_the_kernels() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::io::Write::write_all(&mut file.as_file(), b"text").expect("written");
        let path = std::ffi::CString::new(file.path().as_os_str().as_bytes()).expect("no zero");
        let found = statx(libc::AT_FDCWD, &path, 0, libc::STATX_BASIC_STATS).expect("found");
        let expected = nix::sys::stat::stat(path.as_c_str()).expect("found");
        assert_eq!(
            Layout::Native.bytes(&found).as_deref(),
            Some(bytes_of(&expected))
        );
    }
}
