//! The structures in which the `stat(2)` family answers, by ABI.

use zerocopy::{Immutable, IntoBytes};

/// Which structure a call fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// `struct stat` of this machine.
    Native,
    /// `struct stat64` of i386.
    Stat64,
    /// `struct stat` of i386, for small files and ids of 16 bits.
    Stat32,
}

/// `struct stat64` of `arch/x86/include/uapi/asm/stat.h`, in which 64-bit
/// numbers are aligned like 32-bit ones.
#[derive(Debug, IntoBytes, Immutable)]
#[repr(C)]
struct Stat64 {
    device: [u32; 2],
    padding: u32,
    short_inode: u32,
    mode: u32,
    links: u32,
    uid: u32,
    gid: u32,
    special: [u32; 2],
    more_padding: u32,
    size: [u32; 2],
    block_size: u32,
    blocks: [u32; 2],
    times: [[u32; 2]; 3],
    inode: [u32; 2],
}
const _: () = assert!(size_of::<Stat64>() == 96);

/// `struct compat_stat` of `arch/x86/include/asm/compat.h`.
#[derive(Debug, IntoBytes, Immutable)]
#[repr(C)]
struct Stat32 {
    device: u32,
    inode: u32,
    mode: u16,
    links: u16,
    uid: u16,
    gid: u16,
    special: u32,
    size: u32,
    block_size: u32,
    blocks: u32,
    times: [[u32; 2]; 3],
    unused: [u32; 2],
}
const _: () = assert!(size_of::<Stat32>() == 64);

/// A number of 64 bits as two words, the lower first.
fn halves(number: u64) -> [u32; 2] {
    [number as u32, (number >> 32) as u32]
}

/// A device number in 32 bits (`new_encode_dev`).
fn encode_device(major: u32, minor: u32) -> u32 {
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}

/// An id as calls with ids of 16 bits show it (`high2lowuid`).
pub(super) fn short_id(id: u32) -> u16 {
    u16::try_from(id).unwrap_or(65534)
}

impl Layout {
    /// The structure with what was found; `None` if something does not fit in,
    /// for which the kernel has an error.
    pub(super) fn bytes(self, found: &libc::statx) -> Option<Vec<u8>> {
        let time = |time: &libc::statx_timestamp| {
            // Seconds wrap around in 2038, as the kernel's do.
            [time.tv_sec as u32, time.tv_nsec]
        };
        let times = [
            time(&found.stx_atime),
            time(&found.stx_mtime),
            time(&found.stx_ctime),
        ];
        let device = encode_device(found.stx_dev_major, found.stx_dev_minor);
        let special = encode_device(found.stx_rdev_major, found.stx_rdev_minor);
        match self {
            Layout::Native => Some(super::bytes_of(&native(found)).to_vec()),
            Layout::Stat64 => {
                let stat = Stat64 {
                    device: [device, 0],
                    padding: 0,
                    short_inode: found.stx_ino as u32,
                    mode: found.stx_mode.into(),
                    links: found.stx_nlink,
                    uid: found.stx_uid,
                    gid: found.stx_gid,
                    special: [special, 0],
                    more_padding: 0,
                    size: halves(found.stx_size),
                    block_size: found.stx_blksize,
                    blocks: halves(found.stx_blocks),
                    times,
                    inode: halves(found.stx_ino),
                };
                Some(stat.as_bytes().to_vec())
            }
            Layout::Stat32 => {
                let stat = Stat32 {
                    device,
                    inode: u32::try_from(found.stx_ino).ok()?,
                    mode: found.stx_mode,
                    links: u16::try_from(found.stx_nlink).ok()?,
                    uid: short_id(found.stx_uid),
                    gid: short_id(found.stx_gid),
                    special,
                    size: i32::try_from(found.stx_size).ok()?.cast_unsigned(),
                    block_size: found.stx_blksize,
                    blocks: u32::try_from(found.stx_blocks).ok()?,
                    times,
                    unused: [0; 2],
                };
                Some(stat.as_bytes().to_vec())
            }
        }
    }
}

/// This machine's own structure.
fn native(found: &libc::statx) -> libc::stat {
    // SAFETY: the structure has integers only.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    stat.st_dev = libc::makedev(found.stx_dev_major, found.stx_dev_minor);
    stat.st_ino = found.stx_ino;
    stat.st_mode = u32::from(found.stx_mode);
    stat.st_nlink = found.stx_nlink.into();
    stat.st_uid = found.stx_uid;
    stat.st_gid = found.stx_gid;
    stat.st_rdev = libc::makedev(found.stx_rdev_major, found.stx_rdev_minor);
    stat.st_size = found.stx_size.cast_signed();
    stat.st_blksize = found.stx_blksize as _;
    stat.st_blocks = found.stx_blocks.cast_signed();
    (stat.st_atime, stat.st_atime_nsec) = (found.stx_atime.tv_sec, found.stx_atime.tv_nsec.into());
    (stat.st_mtime, stat.st_mtime_nsec) = (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec.into());
    (stat.st_ctime, stat.st_ctime_nsec) = (found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec.into());
    stat
}
