//! What the kernel refuses for want of a capability that nobody in a build can get: it
//! answers `EPERM`, which says nothing of that. Mostly programs whose files have such a
//! capability: see `capabilities(7)`, "Safety checking for capability-dumb binaries".

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use super::Call;
use super::files::by_descriptor;
use crate::sandbox::xattr::{self, On};

const NAME: &CStr = c"security.capability";
/// `VFS_CAP_FLAGS_EFFECTIVE`, from `linux/capability.h`.
const EFFECTIVE: u32 = 1;
/// Words of the largest value: a header, permitted and inheritable ones in two words each
/// that take turns, and an id (`struct vfs_ns_cap_data`).
const WORDS: usize = 6;

/// What the kernel does not do, while programs are only told that it is not permitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// A program is not started.
    Program {
        /// As it was named.
        path: String,
        /// The capabilities that it asks for and cannot get, a bit each.
        capabilities: u64,
    },
    /// The root directory is not changed.
    Root {
        /// To what, as it was named.
        path: String,
    },
    /// A file that outlives the build is not given set-id bits or capabilities.
    SetId {
        /// As it was named; empty for one that a program had open.
        path: String,
    },
}

/// The names of capabilities, as `setcap(8)` takes them.
pub fn names_of(capabilities: u64) -> String {
    let mut all: Vec<caps::Capability> = caps::all().into_iter().collect();
    all.sort_unstable_by_key(caps::Capability::index);
    let names = all
        .into_iter()
        .filter(|one| capabilities & one.bitmask() != 0)
        .map(|one| one.to_string().to_lowercase());
    names.collect::<Vec<_>>().join(", ")
}

/// Capabilities of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileCapabilities {
    effective: bool,
    permitted: u64,
    inheritable: u64,
}

impl FileCapabilities {
    fn parse(value: &[u8]) -> Option<FileCapabilities> {
        let (words, _) = value.as_chunks::<4>();
        let word = |at: usize| words.get(at).map(|word| u32::from_le_bytes(*word));
        // The first version has one word of each.
        let set = |at: usize| {
            let high = word(at + 2).unwrap_or_default();
            Some(u64::from(word(at)?) | u64::from(high) << 32)
        };
        Some(FileCapabilities {
            effective: word(0)? & EFFECTIVE != 0,
            permitted: set(1)?,
            inheritable: set(2)?,
        })
    }

    /// Those that a process cannot get which has these in its bounding and inheritable
    /// sets; none if that stops nothing.
    fn out_of_reach(self, bounding: u64, inheritable: u64) -> u64 {
        let granted = self.permitted & bounding | self.inheritable & inheritable;
        if self.effective {
            self.permitted & !granted
        } else {
            0
        }
    }
}

fn capabilities_of(file: &OwnedFd) -> Option<FileCapabilities> {
    let path = by_descriptor(file).ok()?;
    let mut value = [0_u8; WORDS * 4];
    let size = xattr::get(On::Path(&path), NAME, &mut value).ok()?;
    FileCapabilities::parse(value.get(..size)?)
}

impl Call<'_> {
    /// Only where a build has given capabilities up are programs refused.
    pub(super) fn notes_refusals(&self) -> bool {
        self.worker.shared.own_files.is_some()
    }

    /// Notes a program that the kernel will refuse to start.
    pub(super) fn note_refusal(&self, file: &OwnedFd, path: &[u8]) {
        if !self.notes_refusals() {
            return;
        }
        let Some(wanted) = capabilities_of(file) else {
            return;
        };
        let Ok(status) = self.worker.view.status(self.pid) else {
            return;
        };
        let capabilities = wanted.out_of_reach(status.bounding, status.inheritable);
        if capabilities != 0 {
            let path = String::from_utf8_lossy(path).into_owned();
            self.worker
                .shared
                .note_refused(Refused::Program { path, capabilities });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_refused_for_what_they_cannot_get() {
        let value = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let second: Vec<u8> = value(&[0x0200_0001, 1 << 13, 1 << 5, 1, 2]);
        let found = FileCapabilities::parse(&second).expect("complete");
        let expected = FileCapabilities {
            effective: true,
            permitted: 1 << 32 | 1 << 13,
            inheritable: 2 << 32 | 1 << 5,
        };
        assert_eq!(found, expected);
        let none: Vec<u8> = value(&[0x0200_0001, 1 << 13]);
        assert_eq!(FileCapabilities::parse(&none), None);
        assert_eq!(found.out_of_reach(1 << 32, 0), 1 << 13);
        assert_eq!(found.out_of_reach(u64::MAX, 0), 0);
        let aware = FileCapabilities {
            effective: false,
            ..found
        };
        assert_eq!(aware.out_of_reach(0, 0), 0);
        let inherited = FileCapabilities {
            inheritable: 1 << 13,
            ..found
        };
        assert_eq!(inherited.out_of_reach(1 << 32, 1 << 13), 0);
        assert_eq!(names_of(1 << 21 | 1 << 13), "cap_net_raw, cap_sys_admin");
    }
}
