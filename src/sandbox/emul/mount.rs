//! Calls that mount.
//!
//! The kernel makes them. It knows the one id that is mapped, though, and refuses options
//! that name another (`tmpfs(5)`, `devpts` in `mount(8)`): in the memory of the program they
//! become root's.

use std::sync::atomic::Ordering;

use super::{Answer, Call, Outcome, memory};

/// Options are a page at most (`mount(2)`).
const PAGE: usize = 4096;
/// Longest name and longest value of `fsconfig(2)`.
const STRING: usize = 256;

/// Whether an option has an id as its value.
fn names_id(option: &[u8]) -> bool {
    matches!(option, b"uid" | b"gid")
}

/// An id that is not root's, as root's in as many digits.
fn as_roots(id: &[u8]) -> Option<Vec<u8>> {
    let is_others = id.iter().all(u8::is_ascii_digit) && id.iter().any(|&digit| digit != b'0');
    is_others.then(|| vec![b'0'; id.len()])
}

/// The same for all ids in options that are separated by commas.
fn options_as_roots(options: &[u8]) -> Option<Vec<u8>> {
    let mut changed = false;
    let options: Vec<Vec<u8>> = options
        .split(|&byte| byte == b',')
        .map(|option| {
            let mut parts = option.splitn(2, |&byte| byte == b'=');
            let name = parts.next().unwrap_or_default();
            let id = parts.next().filter(|_| names_id(name)).and_then(as_roots);
            changed |= id.is_some();
            id.map_or_else(|| option.to_vec(), |id| [name, &id].join(&b'='))
        })
        .collect();
    changed.then(|| options.join(&b','))
}

impl Call<'_> {
    /// A call after which a device number may be another filesystem's. What is unmounted
    /// must not be in use here.
    pub(super) fn change_mounts(&mut self) -> Outcome {
        self.worker.shared.mounts.fetch_add(1, Ordering::AcqRel);
        self.worker.shared.young.outlive();
        self.worker.rest();
        Ok(Answer::Continue)
    }

    /// `mount`.
    pub(super) fn mount(&mut self) -> Outcome {
        if self.store().has_owners() {
            self.replace(4, PAGE, options_as_roots)?;
        }
        self.change_mounts()
    }

    /// `fsconfig` of an option with a value.
    pub(super) fn set_up_filesystem(&mut self) -> Outcome {
        let name = memory::read_string(self.pid, self.arguments[2], STRING);
        if name.is_ok_and(|name| names_id(&name)) {
            self.replace(3, STRING, as_roots)?;
        }
        Ok(Answer::Continue)
    }

    /// Gives a string that an argument points to, of at most so many bytes, another content
    /// of the same length. What cannot be read the kernel refuses.
    fn replace(
        &mut self,
        argument: usize,
        most: usize,
        change: impl Fn(&[u8]) -> Option<Vec<u8>>,
    ) -> Result<(), nix::errno::Errno> {
        let address = self.arguments[argument];
        let Ok(old) = memory::read_string(self.pid, address, most) else {
            return Ok(());
        };
        let Some(new) = change(&old) else {
            return Ok(());
        };
        self.still_there()?;
        memory::overwrite(self.pid, self.worker.view.proc(), address, &new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_others_become_roots_and_nothing_else_changes() {
        for (options, expected) in [
            (
                "gid=5,mode=620,ptmxmode=666",
                Some("gid=0,mode=620,ptmxmode=666"),
            ),
            ("size=1m,uid=33,gid=1000", Some("size=1m,uid=00,gid=0000")),
            ("gid=0,uid=00", None),
            ("gid=tty", None),
            ("gid=", None),
            ("lowerdir=/uid=33", None),
            ("", None),
        ] {
            let found = options_as_roots(options.as_bytes());
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{options}");
        }
    }
}
