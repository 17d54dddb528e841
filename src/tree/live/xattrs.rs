//! Reads extended attributes.

use std::ffi::CStr;

use nix::errno::Errno;

use crate::tree::Xattrs;

/// Buffers that are reused for every file of a thread.
#[derive(Debug)]
pub(super) struct XattrReader {
    list: Vec<u8>,
    value: Vec<u8>,
}

impl XattrReader {
    pub(super) fn new() -> Self {
        // The kernel's limits (XATTR_LIST_MAX, XATTR_SIZE_MAX): no call needs a
        // second try with a larger buffer.
        Self {
            list: vec![0; 65536],
            value: vec![0; 65536],
        }
    }

    /// The attributes of a file; `None` if there are none.
    ///
    /// Those by which overlayfs keeps its own state are left out.
    pub(super) fn read(&mut self, path: &CStr) -> Result<Option<Xattrs>, Errno> {
        // SAFETY: the path is terminated and the buffer has the length given.
        let length = unsafe {
            libc::llistxattr(
                path.as_ptr(),
                self.list.as_mut_ptr().cast(),
                self.list.len(),
            )
        };
        let length = match Errno::result(length) {
            Ok(length) => usize::try_from(length).map_err(|_| Errno::EIO)?,
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
            // SAFETY: path and name are terminated and the buffer has the length
            // given.
            let length = unsafe {
                libc::lgetxattr(
                    path.as_ptr(),
                    name.as_ptr(),
                    self.value.as_mut_ptr().cast(),
                    self.value.len(),
                )
            };
            match Errno::result(length) {
                Ok(length) => {
                    let length = usize::try_from(length).map_err(|_| Errno::EIO)?;
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
