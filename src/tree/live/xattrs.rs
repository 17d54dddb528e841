//! Reads extended attributes.

use std::ffi::CStr;

use nix::errno::Errno;

use crate::tree::Xattrs;

/// Bytes of buffer offered first.
const FIRST_TRY: usize = 1024;
/// The kernel's limits for a list and for a value (`XATTR_LIST_MAX`,
/// `XATTR_SIZE_MAX`): no call needs a third try.
const LAST_TRY: usize = 65536;

/// Calls again with the largest buffer if the first was too small.
fn with_room(
    buffer: &mut Vec<u8>,
    call: impl Fn(&mut [u8]) -> libc::ssize_t,
) -> Result<usize, Errno> {
    buffer.resize(FIRST_TRY, 0);
    let length = match Errno::result(call(buffer)) {
        Err(Errno::ERANGE) => {
            buffer.resize(LAST_TRY, 0);
            Errno::result(call(buffer))?
        }
        result => result?,
    };
    usize::try_from(length).map_err(|_| Errno::EIO)
}

/// Buffers that are reused for every file of a thread.
#[derive(Debug)]
pub(super) struct XattrReader {
    list: Vec<u8>,
    value: Vec<u8>,
}

impl XattrReader {
    pub(super) fn new() -> Self {
        // The kernel allocates as much as it is offered, so the first try is
        // small; nearly all files fit.
        Self {
            list: vec![0; FIRST_TRY],
            value: vec![0; FIRST_TRY],
        }
    }

    /// The attributes of a file; `None` if there are none.
    ///
    /// Those by which overlayfs keeps its own state are left out.
    pub(super) fn read(&mut self, path: &CStr) -> Result<Option<Xattrs>, Errno> {
        let list = with_room(&mut self.list, |buffer| {
            // SAFETY: the path is terminated and the buffer has the length given.
            unsafe { libc::llistxattr(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) }
        });
        let length = match list {
            Ok(length) => length,
            Err(Errno::ENOTSUP) => 0,
            Err(error) => return Err(error),
        };
        let mut found = Xattrs::new();
        let mut rest = self.list.get(..length).ok_or(Errno::EIO)?;
        while !rest.is_empty() {
            let name = CStr::from_bytes_until_nul(rest).map_err(|_| Errno::EIO)?;
            rest = &rest[name.to_bytes_with_nul().len()..];
            let bytes = name.to_bytes();
            if bytes.starts_with(b"user.overlay.") || bytes.starts_with(b"trusted.overlay.") {
                continue;
            }
            let value = with_room(&mut self.value, |buffer| {
                // SAFETY: path and name are terminated and the buffer has the
                // length given.
                unsafe {
                    libc::lgetxattr(
                        path.as_ptr(),
                        name.as_ptr(),
                        buffer.as_mut_ptr().cast(),
                        buffer.len(),
                    )
                }
            });
            match value {
                Ok(length) => {
                    let value = self.value.get(..length).ok_or(Errno::EIO)?;
                    found.insert(bytes.into(), value.into());
                }
                // Removed meanwhile, or listed only for completeness.
                Err(Errno::ENODATA | Errno::ENOTSUP) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(if found.is_empty() { None } else { Some(found) })
    }
}
