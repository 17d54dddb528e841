//! The memory of a program whose call is answered.
//!
//! Two calls are made for this, `process_vm_readv(2)` and its sibling. Docker before version 23
//! refuses both to containers without `CAP_SYS_PTRACE`, whatever the kernel would say, and
//! allows the same by `/proc/PID/mem`, which takes three calls.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::sync::LazyLock;

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;

use super::files::{PATH_MAX, c_string, open_at};

/// Memory is read up to the end of a page of the smallest size, so that a string
/// at the end of a mapping can be read.
const PAGE: u64 = 4096;

/// Reads `length` bytes; fails if not all of them are there.
pub fn read(pid: u32, address: u64, length: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; length];
    let count = read_some(pid, address, &mut bytes)?;
    if count == length {
        Ok(bytes)
    } else {
        Err(Errno::EFAULT)
    }
}

fn remote(address: u64, len: usize) -> Result<RemoteIoVec, Errno> {
    let base = usize::try_from(address).map_err(|_| Errno::EFAULT)?;
    Ok(RemoteIoVec { base, len })
}

fn process(pid: u32) -> Result<Pid, Errno> {
    i32::try_from(pid)
        .map(Pid::from_raw)
        .map_err(|_| Errno::ESRCH)
}

fn read_some(pid: u32, address: u64, into: &mut [u8]) -> Result<usize, Errno> {
    read_from(libc::AT_FDCWD, pid, address, into)
}

/// Whether a filter of the container's refuses the two calls: everybody may read its own memory.
static ARE_REFUSED: LazyLock<bool> = LazyLock::new(|| {
    let (from, mut to) = ([7_u8], [0_u8]);
    let remote = RemoteIoVec {
        base: from.as_ptr() as usize,
        len: from.len(),
    };
    process_vm_readv(Pid::this(), &mut [IoSliceMut::new(&mut to)], &[remote]).is_err()
});

/// Reads what is there of so many bytes. `proc` is an open `/proc`, or `AT_FDCWD` where that is
/// the working directory, as it is of workers.
pub(in crate::sandbox) fn read_from(
    proc: RawFd,
    pid: u32,
    address: u64,
    into: &mut [u8],
) -> Result<usize, Errno> {
    if into.is_empty() {
        return Ok(0);
    }
    if *ARE_REFUSED {
        let memory = open(proc, pid, libc::O_RDONLY)?;
        return nix::sys::uio::pread(&memory, into, offset(address)?).map_err(not_there);
    }
    let from = remote(address, into.len())?;
    process_vm_readv(process(pid)?, &mut [IoSliceMut::new(into)], &[from])
}

/// Writes all of `bytes`.
pub fn write(pid: u32, address: u64, bytes: &[u8]) -> Result<(), Errno> {
    if bytes.is_empty() {
        return Ok(());
    }
    if *ARE_REFUSED {
        return write_by_file(libc::AT_FDCWD, pid, address, bytes);
    }
    let to = remote(address, bytes.len())?;
    let count = process_vm_writev(process(pid)?, &[IoSlice::new(bytes)], &[to])?;
    require_all(count, bytes)
}

fn require_all(count: usize, bytes: &[u8]) -> Result<(), Errno> {
    if count == bytes.len() {
        Ok(())
    } else {
        Err(Errno::EFAULT)
    }
}

fn open(proc: RawFd, pid: u32, flags: i32) -> Result<OwnedFd, Errno> {
    open_at(proc, &c_string(format!("{pid}/mem"))?, flags, 0)
}

/// Addresses of programs are those of the lower half.
fn offset(address: u64) -> Result<i64, Errno> {
    i64::try_from(address).map_err(|_| Errno::EFAULT)
}

/// What the file says where a program has no memory.
fn not_there(errno: Errno) -> Errno {
    match errno {
        Errno::EIO => Errno::EFAULT,
        errno => errno,
    }
}

/// Writes by the file, which does so too where memory is read-only to its owner.
fn write_by_file(proc: RawFd, pid: u32, address: u64, bytes: &[u8]) -> Result<(), Errno> {
    let memory = open(proc, pid, libc::O_WRONLY)?;
    let count = nix::sys::uio::pwrite(&memory, bytes, offset(address)?).map_err(not_there)?;
    require_all(count, bytes)
}

/// Writes into memory that may be read-only to its owner. `proc` is `/proc` of the sandbox.
pub(super) fn overwrite(pid: u32, proc: &OwnedFd, address: u64, bytes: &[u8]) -> Result<(), Errno> {
    if write(pid, address, bytes).is_ok() {
        return Ok(());
    }
    write_by_file(proc.as_raw_fd(), pid, address, bytes)
}

/// Reads a string without its end; `limit` bytes at most.
pub fn read_string(pid: u32, address: u64, limit: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    let mut at = address;
    let mut chunk = [0; 256];
    while bytes.len() <= limit {
        let room = usize::try_from(PAGE - at % PAGE)
            .unwrap_or(1)
            .min(chunk.len());
        let count = read_some(pid, at, &mut chunk[..room])?;
        let read = chunk
            .get(..count)
            .filter(|read| !read.is_empty())
            .ok_or(Errno::EFAULT)?;
        if let Some(end) = read.iter().position(|&byte| byte == 0) {
            bytes.extend_from_slice(&read[..end]);
            return if bytes.len() < limit {
                Ok(bytes)
            } else {
                Err(Errno::ENAMETOOLONG)
            };
        }
        bytes.extend_from_slice(read);
        at = at.checked_add(count as u64).ok_or(Errno::EFAULT)?;
    }
    Err(Errno::ENAMETOOLONG)
}

/// Reads a path.
pub fn read_path(pid: u32, address: u64) -> Result<Vec<u8>, Errno> {
    read_string(pid, address, PATH_MAX)
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;

    use super::*;

    #[test]
    fn strings_are_read_from_memory_whole() {
        let pid = std::process::id();
        let long = CString::new(vec![b'x'; 1000]).expect("no zero");
        let address = long.as_ptr() as u64;
        assert_eq!(
            read_string(pid, address, PATH_MAX).as_deref(),
            Ok(long.as_bytes())
        );
        assert_eq!(read_string(pid, address, 1000), Err(Errno::ENAMETOOLONG));
        assert_eq!(read_path(pid, 8), Err(Errno::EFAULT));
    }
}
