//! Extended attributes that the kernel refuses in a user namespace.
//!
//! `user.*` and `security.capability` work as they are. Others are tried for
//! real first; what the kernel refuses is recorded: `trusted.*`, labels of
//! security modules, access control lists that name ids.

use std::ffi::CString;
use std::os::fd::AsRawFd as _;

use super::tracee::{self, Target, statx_of};
use super::{Answer, Call, Errno, Outcome};
use crate::sandbox::store::{ACCESS_ACL, Key, acl_mode, acl_with_mode};

/// Longest name with its end (`XATTR_NAME_MAX` + 1) and largest value
/// (`XATTR_SIZE_MAX`).
const NAME_MAX: usize = 256;
const VALUE_MAX: usize = 65536;

/// What is done to an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Get,
    List,
    Set,
    Remove,
}

/// How a call names its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Follow,
    Link,
    Descriptor,
}

fn decode(number: i64) -> Option<(Verb, Way)> {
    use Verb::{Get, List, Remove, Set};
    use Way::{Descriptor, Follow, Link};
    Some(match number {
        libc::SYS_getxattr => (Get, Follow),
        libc::SYS_lgetxattr => (Get, Link),
        libc::SYS_fgetxattr => (Get, Descriptor),
        libc::SYS_listxattr => (List, Follow),
        libc::SYS_llistxattr => (List, Link),
        libc::SYS_flistxattr => (List, Descriptor),
        libc::SYS_setxattr => (Set, Follow),
        libc::SYS_lsetxattr => (Set, Link),
        libc::SYS_fsetxattr => (Set, Descriptor),
        libc::SYS_removexattr => (Remove, Follow),
        libc::SYS_lremovexattr => (Remove, Link),
        libc::SYS_fremovexattr => (Remove, Descriptor),
        _ => return None,
    })
}

impl Call<'_> {
    pub(super) fn attribute(&mut self) -> Outcome {
        let Some((verb, way)) = decode(self.number) else {
            return Ok(Answer::Continue);
        };
        if verb != Verb::Set && !self.store().has_attributes() {
            return Ok(Answer::Continue);
        }
        let name = match verb {
            Verb::List => Vec::new(),
            _ => tracee::read_string(self.pid, self.arguments[1], NAME_MAX).map_err(|errno| {
                if errno == Errno::ENAMETOOLONG {
                    Errno::ERANGE
                } else {
                    errno
                }
            })?,
        };
        if name.starts_with(b"user.") || name == b"security.capability" {
            return Ok(Answer::Continue);
        }
        let target = match way {
            Way::Descriptor => self.target_of_descriptor(self.int(0)),
            Way::Follow | Way::Link => {
                let path = self.path(0)?;
                if path.is_empty() {
                    return Err(Errno::ENOENT);
                }
                self.target(libc::AT_FDCWD, &path, way == Way::Follow)
            }
        };
        let Ok(target) = target else {
            return Ok(Answer::Continue);
        };
        match verb {
            Verb::Get => self.get_attribute(&target, &name),
            Verb::List => self.list_attributes(&target),
            Verb::Set => self.set_attribute(&target, &name),
            Verb::Remove => self.remove_attribute(&target, &name),
        }
    }

    fn get_attribute(&mut self, target: &Target, name: &[u8]) -> Outcome {
        let Ok(found) = target.statx(0) else {
            return Ok(Answer::Continue);
        };
        let record = self.store().get(Key::of(&found)).unwrap_or_default();
        let Some(value) = record.xattrs.get(name) else {
            return Ok(Answer::Continue);
        };
        if name == ACCESS_ACL {
            let value = acl_with_mode(value, found.stx_mode);
            return self.give_bytes(&value, 2, 3);
        }
        self.give_bytes(value, 2, 3)
    }

    /// Writes a result into a buffer, or tells its size if there is none.
    fn give_bytes(&self, bytes: &[u8], address: usize, size: usize) -> Outcome {
        let room = self.arguments[size];
        let length = bytes.len() as u64;
        if room != 0 {
            if room < length {
                return Err(Errno::ERANGE);
            }
            self.write(self.arguments[address], bytes)?;
        }
        Ok(Answer::Value(length.cast_signed()))
    }

    fn list_attributes(&mut self, target: &Target) -> Outcome {
        let Ok(file) = target.open_path() else {
            return Ok(Answer::Continue);
        };
        let record = self
            .store()
            .get(Key::of(&statx_of(&file)?))
            .unwrap_or_default();
        if record.xattrs.is_empty() {
            return Ok(Answer::Continue);
        }
        let path = by_descriptor(file.as_raw_fd())?;
        let mut names = vec![0; VALUE_MAX];
        // SAFETY: path and buffer live across the call; the length is the buffer's.
        let count =
            unsafe { libc::listxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
        names.truncate(usize::try_from(Errno::result(count).unwrap_or(0)).unwrap_or(0));
        for name in record.xattrs.keys() {
            if !names.split(|&byte| byte == 0).any(|other| other == &**name) {
                names.extend_from_slice(name);
                names.push(0);
            }
        }
        self.give_bytes(&names, 1, 2)
    }

    fn set_attribute(&mut self, target: &Target, name: &[u8]) -> Outcome {
        if !self.credentials()?.privileged() {
            return Ok(Answer::Continue);
        }
        let length = usize::try_from(self.arguments[3]).unwrap_or(usize::MAX);
        if length > VALUE_MAX {
            return Err(Errno::E2BIG);
        }
        let value = tracee::read(self.pid, self.arguments[2], length)?;
        let flags = self.int(4);
        let file = target.open_path()?;
        let found = statx_of(&file)?;
        let c_name = CString::new(name).map_err(|_| Errno::EINVAL)?;
        let path = by_descriptor(file.as_raw_fd())?;
        self.still_there()?;
        // SAFETY: path, name and value live across the call; the length is the value's.
        let result = Errno::result(unsafe {
            libc::setxattr(
                path.as_ptr(),
                c_name.as_ptr(),
                value.as_ptr().cast(),
                value.len(),
                flags,
            )
        });
        let key = Key::of(&found);
        match result {
            Ok(_) => {
                // The kernel's own takes the place of one that it refused before.
                self.store()
                    .update(key, |record| drop(record.xattrs.remove(name)));
                return Ok(Answer::Value(0));
            }
            Err(Errno::EPERM | Errno::EINVAL | Errno::EOPNOTSUPP | Errno::EACCES) => {}
            Err(errno) => return Err(errno),
        }
        self.require_recordable(name, &value)?;
        let there = self
            .store()
            .get(key)
            .is_some_and(|record| record.xattrs.contains_key(name));
        if there && flags & libc::XATTR_CREATE != 0 {
            return Err(Errno::EEXIST);
        }
        if !there && flags & libc::XATTR_REPLACE != 0 {
            return Err(Errno::ENODATA);
        }
        if name == ACCESS_ACL
            && let Some(mode) = acl_mode(&value)
        {
            let mode = u32::from(found.stx_mode & 0o7000 | mode);
            // SAFETY: the path is terminated and lives across the call.
            Errno::result(unsafe { libc::chmod(path.as_ptr(), mode) })?;
        }
        self.store().update(key, |record| {
            record.xattrs.insert(name.into(), value.into());
        });
        Ok(Answer::Value(0))
    }

    /// What real root could set too.
    fn require_recordable(&self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        let list = name == ACCESS_ACL || name == b"system.posix_acl_default";
        if list {
            return acl_mode(value).map(drop).ok_or(Errno::EINVAL);
        }
        if name.starts_with(b"trusted.") || name.starts_with(b"security.") {
            Ok(())
        } else {
            Err(Errno::EOPNOTSUPP)
        }
    }

    fn remove_attribute(&mut self, target: &Target, name: &[u8]) -> Outcome {
        let Ok(found) = target.statx(0) else {
            return Ok(Answer::Continue);
        };
        let key = Key::of(&found);
        let recorded = self
            .store()
            .get(key)
            .is_some_and(|record| record.xattrs.contains_key(name));
        if !recorded {
            return Ok(Answer::Continue);
        }
        self.store()
            .update(key, |record| drop(record.xattrs.remove(name)));
        Ok(Answer::Value(0))
    }
}

/// A file that is only open as a name, for calls that take none: workers stay in
/// the `/proc` that was opened at the start.
fn by_descriptor(descriptor: i32) -> Result<CString, Errno> {
    CString::new(format!("self/fd/{descriptor}")).map_err(|_| Errno::EINVAL)
}
