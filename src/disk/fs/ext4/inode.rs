//! Inodes, computed when the inode tables are written.

use zerocopy::IntoBytes as _;

use super::checksum::crc32c;
use super::extra::Value;
use super::format::{
    BASE_INODE_SIZE, Compat, EXTRA_ISIZE, FIRST_INODE, GROUP_QUOTA_INODE, Inode, InodeFlags,
    JOURNAL_INODE, RESIZE_INODE, ROOT_INODE, RoCompat, USER_QUOTA_INODE,
};
use super::layout::{LINK_MAX, Layout};
use super::mapping::{MapRoot, Run};
use super::quota::Usage;
use super::resize;
use super::units::{FsBlock, InodeNo, count, high16, index, low16, low32};
use crate::tree::{InodeId, Kind, NodeId, Timestamp};

/// What an inode says, before it is put into bytes.
struct Fields<'a> {
    mode: u16,
    uid: u32,
    gid: u32,
    size: u64,
    links: u32,
    time: Timestamp,
    flags: InodeFlags,
    block: MapRoot,
    /// Blocks of the filesystem that it owns.
    blocks: u64,
    xattrs: &'a [u8],
    xattr_block: Option<FsBlock>,
    /// Attributes whose values are inodes.
    values: u64,
    /// For an inode that is the value of an attribute.
    value: Option<Value>,
}

const S_IFDIR: u16 = 0o040_000;
const S_IFREG: u16 = 0o100_000;

impl Layout {
    /// Writes the inode with this number, if it is in use, into a zeroed buffer
    /// of the inode size.
    pub(super) fn write_inode(&self, number: InodeNo, buffer: &mut [u8]) {
        let Some(fields) = self.fields(number) else {
            return;
        };
        self.encode(number, &fields, buffer);
    }

    fn fields(&self, number: InodeNo) -> Option<Fields<'_>> {
        let root = self.tree.node(NodeId::ROOT).inode;
        match number.0 {
            ROOT_INODE => Some(self.tree_fields(root)),
            RESIZE_INODE => resize::owned(self).map(|map| Fields {
                size: map.size,
                block: map.root,
                blocks: map.blocks,
                ..self.made(S_IFREG | 0o600)
            }),
            USER_QUOTA_INODE | GROUP_QUOTA_INODE => self.quota_fields(number),
            JOURNAL_INODE if self.options.features.compat.contains(Compat::HAS_JOURNAL) => {
                Some(self.made_file(number, S_IFREG | 0o600, 1, &self.journal))
            }
            FIRST_INODE => Some(match self.lost_found {
                Some(id) => self.tree_fields(id),
                None => self.made_lost_found_fields(number),
            }),
            number if number > FIRST_INODE => self
                .order
                .get(index(number - FIRST_INODE - 1))
                .map(|&id| self.tree_fields(id))
                .or_else(|| self.extra_fields(InodeNo(number)))
                .or_else(|| self.quota_fields(InodeNo(number))),
            _ => None,
        }
    }

    /// A `lost+found` that the tree does not have.
    fn made_lost_found_fields(&self, number: InodeNo) -> Fields<'_> {
        let xattrs = &self.xattrs[index(self.made_xattrs)];
        let fields = self.made_file(number, S_IFDIR | 0o700, 2, &self.made_lost_found);
        Fields {
            blocks: fields.blocks + u64::from(xattrs.block.is_some()),
            xattrs: &xattrs.inline,
            xattr_block: xattrs.block,
            ..fields
        }
    }

    fn extra_fields(&self, number: InodeNo) -> Option<Fields<'_>> {
        let extra = self.extra(number)?;
        let mut fields = self.made_file(number, S_IFREG | 0o600, 1, &extra.runs);
        if let Some(value) = extra.value {
            fields.size = value.size;
            fields.flags |= InodeFlags::EA_INODE;
            fields.value = Some(value);
        }
        Some(fields)
    }

    fn quota_fields(&self, number: InodeNo) -> Option<Fields<'_>> {
        let file = self.quota_file(number)?;
        let mut fields = self.made_file(number, S_IFREG | 0o600, 1, &file.runs);
        fields.size = file.size;
        fields.flags |= InodeFlags::IMMUTABLE;
        Some(fields)
    }

    /// Owner and group of an inode of the tree, or of `lost+found`, and what it
    /// adds to what they use. Values of attributes count for each inode that has
    /// them, as if they were not shared.
    pub(super) fn usage(&self, number: InodeNo) -> Option<(u32, u32, Usage)> {
        let fields = self.fields(number)?;
        let usage = Usage {
            space: fields.blocks * self.options.block(),
            inodes: 1 + fields.values,
        };
        Some((fields.uid, fields.gid, usage))
    }

    /// A file that the tree does not have.
    fn made(&self, mode: u16) -> Fields<'_> {
        Fields {
            mode,
            uid: 0,
            gid: 0,
            size: 0,
            links: 1,
            time: self.options.timestamp,
            flags: InodeFlags::empty(),
            block: [0; 60],
            blocks: 0,
            xattrs: &[],
            xattr_block: None,
            values: 0,
            value: None,
        }
    }

    fn made_file(&self, number: InodeNo, mode: u16, links: u32, runs: &[Run]) -> Fields<'_> {
        let data = runs.iter().fold(0, |sum, run| sum + u64::from(run.length));
        Fields {
            size: data * self.options.block(),
            links,
            flags: self.map_flags(),
            block: self.map_root(number, runs),
            blocks: data + self.map_blocks(number),
            ..self.made(mode)
        }
    }

    fn map_flags(&self) -> InodeFlags {
        if self.options.features.extents() {
            InodeFlags::EXTENTS
        } else {
            InodeFlags::empty()
        }
    }

    fn tree_fields(&self, id: InodeId) -> Fields<'_> {
        let inode = self.tree.inode(id);
        let place = self.place(id);
        let number = self.numbers[id.index()];
        let xattrs = &self.xattrs[index(place.xattrs)];
        let block_size = self.options.block();
        let mut fields = Fields {
            uid: inode.uid,
            gid: inode.gid,
            time: inode.mtime,
            links: inode.links,
            blocks: place.blocks + u64::from(xattrs.block.is_some()) + xattrs.value_blocks,
            xattrs: &xattrs.inline,
            xattr_block: xattrs.block,
            values: xattrs.values,
            ..self.made(inode.mode)
        };
        let mapped = |fields: &mut Fields<'_>| {
            fields.flags = self.map_flags();
            fields.block = self.map_root(number, self.runs_of(id));
        };
        if let Some((uid, gid)) = self.options.root_owner.filter(|_| number.0 == ROOT_INODE) {
            (fields.uid, fields.gid) = (uid, gid);
        }
        fields.mode |= match &inode.kind {
            Kind::Directory => {
                mapped(&mut fields);
                let data = self
                    .runs_of(id)
                    .iter()
                    .fold(0, |sum, run| sum + u64::from(run.length));
                fields.size = data * block_size;
                fields.links = self.directory_links(number);
                if self.indexed.contains(&id) {
                    fields.flags |= InodeFlags::INDEX;
                }
                S_IFDIR
            }
            Kind::File(content) => {
                mapped(&mut fields);
                fields.size = content.size;
                S_IFREG
            }
            Kind::Symlink(target) => {
                fields.size = count(target.len());
                match fields
                    .block
                    .get_mut(..target.len())
                    .filter(|_| target.len() < size_of::<MapRoot>())
                {
                    Some(short) => short.copy_from_slice(target),
                    None => mapped(&mut fields),
                }
                0o120_000
            }
            Kind::CharDevice(device) => {
                fields.block = device_map(device.major, device.minor);
                0o020_000
            }
            Kind::BlockDevice(device) => {
                fields.block = device_map(device.major, device.minor);
                0o060_000
            }
            Kind::Fifo => 0o010_000,
            Kind::Socket => 0o140_000,
        };
        fields
    }

    /// A directory's links: its name, its `.` and each subdirectory's `..`;
    /// where there are too many to count, 1.
    fn directory_links(&self, number: InodeNo) -> u32 {
        let links = 2 + self.subdirectories.get(&number).copied().unwrap_or(0);
        if links >= LINK_MAX
            && self
                .options
                .features
                .ro_compat
                .contains(RoCompat::DIR_NLINK)
        {
            1
        } else {
            links
        }
    }

    fn encode(&self, number: InodeNo, fields: &Fields<'_>, buffer: &mut [u8]) {
        let large = self.options.inode_size > BASE_INODE_SIZE;
        let (time, extra) = if large {
            wide_time(fields.time)
        } else {
            (narrow_time(fields.time), 0)
        };
        let (made, made_extra) = wide_time(self.options.timestamp);
        let sectors = fields.blocks * (self.options.block() / 512);
        let mut inode = Inode {
            i_mode: fields.mode.into(),
            i_uid: low16(fields.uid).into(),
            i_size_lo: low32(fields.size).into(),
            i_atime: time.into(),
            i_ctime: time.into(),
            i_mtime: time.into(),
            i_dtime: 0.into(),
            i_gid: low16(fields.gid).into(),
            i_links_count: low16(fields.links).into(),
            i_blocks_lo: low32(sectors).into(),
            i_flags: fields.flags.bits().into(),
            l_i_version: 0.into(),
            i_block: fields.block,
            i_generation: 0.into(),
            i_file_acl_lo: fields.xattr_block.map_or(0, FsBlock::low).into(),
            i_size_high: low32(fields.size >> 32).into(),
            i_obso_faddr: 0.into(),
            l_i_blocks_high: low16(low32(sectors >> 32)).into(),
            l_i_file_acl_high: fields.xattr_block.map_or(0, FsBlock::high16).into(),
            l_i_uid_high: high16(fields.uid).into(),
            l_i_gid_high: high16(fields.gid).into(),
            l_i_checksum_lo: 0.into(),
            l_i_reserved: 0.into(),
            i_extra_isize: EXTRA_ISIZE.into(),
            i_checksum_hi: 0.into(),
            i_ctime_extra: extra.into(),
            i_mtime_extra: extra.into(),
            i_atime_extra: extra.into(),
            i_crtime: made.into(),
            i_crtime_extra: made_extra.into(),
            i_version_hi: 0.into(),
            i_projid: 0.into(),
        };
        if let Some(value) = fields.value {
            // Its times and its version say what it is.
            inode.i_atime = value.checksum.into();
            inode.i_atime_extra = 0.into();
            inode.i_ctime = low32(value.references >> 32).into();
            inode.i_ctime_extra = 0.into();
            inode.l_i_version = low32(value.references).into();
        }
        let fixed = if large {
            size_of::<Inode>()
        } else {
            usize::from(BASE_INODE_SIZE)
        };
        buffer[..fixed].copy_from_slice(&inode.as_bytes()[..fixed]);
        if !fields.xattrs.is_empty() {
            buffer[fixed..fixed + fields.xattrs.len()].copy_from_slice(fields.xattrs);
        }
        if let Some(checksums) = self.checksums {
            let sum = crc32c(checksums.inode(number), buffer);
            inode.l_i_checksum_lo = low16(sum).into();
            if large {
                inode.i_checksum_hi = high16(sum).into();
            }
            buffer[..fixed].copy_from_slice(&inode.as_bytes()[..fixed]);
        }
    }
}

/// Seconds modulo 2^32, and nanoseconds with the two bits that tell the epoch:
/// 1901-12-13 to 2446-05-10. Times outside become the nearest one inside.
fn wide_time(time: Timestamp) -> (u32, u32) {
    const FIRST: i64 = i32::MIN as i64;
    const LAST: i64 = FIRST + (1 << 34) - 1;
    let seconds = time.seconds.clamp(FIRST, LAST);
    let nanoseconds = if seconds == time.seconds {
        time.nanoseconds.min(999_999_999)
    } else {
        0
    };
    let epoch = low32((seconds - FIRST).unsigned_abs() >> 32);
    (low32(seconds.cast_unsigned()), nanoseconds << 2 | epoch)
}

/// Seconds in 128-byte inodes: 1901-12-13 to 2038-01-19.
fn narrow_time(time: Timestamp) -> u32 {
    let seconds = time.seconds.clamp(i64::from(i32::MIN), i64::from(i32::MAX));
    low32(seconds.cast_unsigned())
}

/// `i_block` of a device: the old form where it suffices, so that every reader
/// understands it, else the new one in the second word.
fn device_map(major: u32, minor: u32) -> MapRoot {
    let mut map = [0; 60];
    if major < 256 && minor < 256 {
        map[..4].copy_from_slice(&(major << 8 | minor).to_le_bytes());
    } else {
        let number = (minor & 0xFF) | (major & 0xFFF) << 8 | (minor & 0xF_FF00) << 12;
        map[4..8].copy_from_slice(&number.to_le_bytes());
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_from_1901_to_2446_are_kept() {
        for (seconds, low, epoch) in [
            (i64::from(i32::MIN), 0x8000_0000, 0),
            (-1, 0xFFFF_FFFF, 0),
            (0, 0, 0),
            (i64::from(i32::MAX), 0x7FFF_FFFF, 0),
            (1 << 31, 0x8000_0000, 1),
            ((1 << 32) - 1, 0xFFFF_FFFF, 1),
            (1 << 32, 0, 1),
            (0x3_7FFF_FFFF, 0x7FFF_FFFF, 3),
        ] {
            assert_eq!(
                wide_time(Timestamp {
                    seconds,
                    nanoseconds: 7
                }),
                (low, 7 << 2 | epoch),
                "{seconds}"
            );
        }
        assert_eq!(
            wide_time(Timestamp {
                seconds: i64::MAX,
                nanoseconds: 7
            }),
            (0x7FFF_FFFF, 3)
        );
        assert_eq!(
            wide_time(Timestamp {
                seconds: i64::MIN,
                nanoseconds: 7
            }),
            (0x8000_0000, 0)
        );
    }

    #[test]
    fn device_numbers_use_the_old_form_where_it_suffices() {
        assert_eq!(device_map(1, 3)[..8], [3, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(
            device_map(259, 1_048_575)[..8],
            [0, 0, 0, 0, 0xFF, 0x03, 0xF1, 0xFF]
        );
    }
}
