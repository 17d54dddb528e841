//! Reads XFS, versions 4 and 5.
//!
//! Everything that `mkfs.xfs` makes on one device is read: all sizes of blocks,
//! sectors, inodes and directory blocks, sparse inodes, shared extents, times and
//! numbers of extents in both sizes, and parent pointers. Inodes are found by the
//! numbers in directories; the trees that allocate space are not looked at. As
//! with ext4, the log is not replayed and checksums are not compared: structures
//! are checked for what they say of themselves. Specification: “XFS Algorithms &
//! Data Structures”,
//! <https://docs.kernel.org/filesystems/xfs/xfs-self-describing-metadata.html>.

use zerocopy::FromBytes as _;

use super::inode::Inode;
use super::{Entry, Error, File, FileId, FileKind, MAX_DIRECTORY, Metadata, Run};
use crate::disk::fs::xfs::format::{
    BIGTIME_OFFSET, DIFLAG_REALTIME, DIFLAG2_BIGTIME, DIFLAG2_NREXT64, DIFLAG2_REFLINK,
    DINODE_MAGIC, Dinode, FEATURES2_FTYPE, FORMAT_BTREE, FORMAT_DEV, FORMAT_EXTENTS, FORMAT_LOCAL,
    INODE_CORE, INODE2_CORE, Incompat, SB_MAGIC, SYMLINK_MAGIC, SYMLINK_MAX, Superblock,
    SymlinkHeader, VERSION_DIRV2, VERSION_MASK,
};
use crate::inspect::Volume;
use crate::tree::{Device, Timestamp, Xattrs};

mod attr;
mod directory;
mod log;
mod map;

use map::Fork;

/// What [`Incompat`] names that changes nothing for a reader, or is handled.
fn readable() -> Incompat {
    Incompat::FTYPE
        | Incompat::SPINODES
        | Incompat::META_UUID
        | Incompat::BIGTIME
        | Incompat::NREXT64
        | Incompat::EXCHRANGE
        | Incompat::PARENT
        | Incompat::METADIR
}

/// What is known of a filesystem from its superblock.
#[derive(Debug)]
pub(super) struct Xfs {
    /// Version 5: structures say what and whose they are.
    v5: bool,
    block_size: u64,
    /// Blocks that both the filesystem and its volume have.
    blocks: u64,
    free_blocks: u64,
    group_blocks: u64,
    /// Bits of a block's number that count within its group.
    group_bits: u8,
    inode_size: u16,
    /// Bits of an inode's number that count within its block.
    inode_bits: u8,
    directory_block: u64,
    /// Entries of directories say what they name.
    has_ftype: bool,
    root: u64,
    dirty: bool,
}

/// An inode.
#[derive(Debug)]
struct Node {
    number: u64,
    /// Where it is on the volume.
    at: u64,
    core: Dinode,
    /// Everything behind the core: the forks.
    forks: Vec<u8>,
}

pub(super) fn is_xfs(volume: &Volume<'_>) -> bool {
    volume.has(0, &SB_MAGIC.to_be_bytes())
}

fn corrupt<T>(place: impl Into<String>, what: &'static str) -> Result<T, Error> {
    Err(Error::Corrupt {
        kind: "XFS",
        place: place.into(),
        what,
    })
}

fn in_superblock<T>(what: &'static str) -> Result<T, Error> {
    corrupt("its superblock", what)
}

fn unsupported<T>(what: impl Into<String>) -> Result<T, Error> {
    Err(Error::Unsupported { what: what.into() })
}

/// The power of two that a size is, if it is one and its logarithm is right.
fn is_power(size: u64, log: u8) -> bool {
    1_u64.checked_shl(log.into()) == Some(size)
}

impl Xfs {
    pub(super) fn open(volume: &Volume<'_>) -> Result<Xfs, Error> {
        let superblock: Superblock = volume.structure(0)?;
        let version = superblock.sb_versionnum.get();
        let v5 = match version & VERSION_MASK {
            5 => true,
            4 if version & VERSION_DIRV2 != 0 => false,
            4 => return unsupported("has XFS directories of version 1"),
            1..=3 => return unsupported(format!("is XFS version {}", version & VERSION_MASK)),
            _ => return in_superblock("its version is impossible"),
        };
        let incompat = if v5 {
            Incompat::from_bits_retain(superblock.sb_features_incompat.get())
        } else {
            Incompat::empty()
        };
        if incompat.contains(Incompat::NEEDSREPAIR) {
            return unsupported("is XFS that needs `xfs_repair` first");
        }
        let unknown = incompat - readable();
        if !unknown.is_empty() {
            let mut names: Vec<String> = unknown
                .iter_names()
                .map(|(name, _)| name.to_lowercase())
                .collect();
            let nameless = unknown - Incompat::all();
            if !nameless.is_empty() {
                names.push(format!("{:#x}", nameless.bits()));
            }
            return unsupported(format!("has the XFS features {}", names.join(", ")));
        }
        if superblock.sb_inprogress != 0 {
            return in_superblock("`mkfs.xfs` did not finish it");
        }
        let features2 = superblock.sb_features2.get() | superblock.sb_bad_features2.get();
        let block_size = u64::from(superblock.sb_blocksize.get());
        let groups = u64::from(superblock.sb_agcount.get());
        let group_blocks = u64::from(superblock.sb_agblocks.get());
        let blocks = superblock.sb_dblocks.get();
        let xfs = Xfs {
            v5,
            block_size,
            // An image may be cut off behind its last used block.
            blocks: blocks.min(volume.length().div_ceil(block_size.max(1))),
            free_blocks: superblock.sb_fdblocks.get(),
            group_blocks,
            group_bits: superblock.sb_agblklog,
            inode_size: superblock.sb_inodesize.get(),
            inode_bits: superblock.sb_inopblog,
            directory_block: block_size
                .checked_shl(superblock.sb_dirblklog.into())
                .unwrap_or(0),
            has_ftype: incompat.contains(Incompat::FTYPE)
                || !v5 && features2 & FEATURES2_FTYPE != 0,
            root: superblock.sb_rootino.get(),
            dirty: false,
        };
        let sector = u64::from(superblock.sb_sectsize.get());
        if !(512..=64 << 10).contains(&block_size) || !is_power(block_size, superblock.sb_blocklog)
        {
            return in_superblock("the size of blocks is impossible");
        }
        if !(512..=32 << 10).contains(&sector) || !is_power(sector, superblock.sb_sectlog) {
            return in_superblock("the size of sectors is impossible");
        }
        if !(256..=2048).contains(&xfs.inode_size)
            || !is_power(xfs.inode_size.into(), superblock.sb_inodelog)
            || superblock.sb_inodelog.checked_add(xfs.inode_bits) != Some(superblock.sb_blocklog)
        {
            return in_superblock("the size of inodes is impossible");
        }
        if !(block_size..=64 << 10).contains(&xfs.directory_block) {
            return in_superblock("the size of directory blocks is impossible");
        }
        let all = group_blocks.checked_mul(groups);
        if group_blocks == 0
            || xfs.group_bits > 32
            || 1_u64 << xfs.group_bits < group_blocks
            || all.is_none_or(|all| !(1..=all).contains(&blocks))
        {
            return in_superblock("its allocation groups are impossible");
        }
        let dirty = log::is_dirty(&xfs, volume, &superblock);
        Ok(Xfs { dirty, ..xfs })
    }

    pub(super) fn root(&self) -> u64 {
        self.root
    }

    pub(super) fn space(&self) -> (u64, Option<u64>) {
        let free = self.free_blocks.min(self.blocks);
        (
            self.blocks.saturating_mul(self.block_size),
            Some(free.saturating_mul(self.block_size)),
        )
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Where blocks are on the volume: all in one group, and within the filesystem.
    fn blocks_at(&self, first: u64, count: u64, place: impl Fn() -> String) -> Result<u64, Error> {
        let group = first >> self.group_bits;
        let within = first & ((1 << self.group_bits) - 1);
        let in_group = within
            .checked_add(count)
            .is_some_and(|end| end <= self.group_blocks);
        let first = group
            .checked_mul(self.group_blocks)
            .and_then(|start| start.checked_add(within));
        match first {
            Some(first) if in_group && first.saturating_add(count) <= self.blocks => {
                Ok(first * self.block_size)
            }
            _ => corrupt(place(), "it leads to blocks behind the filesystem's end"),
        }
    }

    /// Reads an inode.
    fn node(&self, volume: &Volume<'_>, file: FileId) -> Result<Node, Error> {
        let number = file.0;
        let place = || format!("inode {number}");
        let within = number & ((1 << self.inode_bits) - 1);
        let at = self.blocks_at(number >> self.inode_bits, 1, place)?
            + within * u64::from(self.inode_size);
        let mut bytes = volume.bytes(at, self.inode_size.into())?;
        let v3 = bytes[4] == 3;
        let forks = bytes.split_off(if v3 { INODE_CORE } else { INODE2_CORE });
        bytes.resize(INODE_CORE, 0);
        let Ok(core) = Dinode::read_from_bytes(&bytes) else {
            return corrupt(place(), "it is cut off");
        };
        let own = !v3 || core.di_ino.get() == number;
        if core.di_magic.get() != DINODE_MAGIC
            || v3 != self.v5
            || !(1..=3).contains(&core.di_version)
            || !own
        {
            return corrupt(place(), "there is no inode of this number");
        }
        if core.di_mode.get() == 0 {
            return corrupt(place(), "it is free, and no file's");
        }
        if usize::from(core.di_forkoff) * 8 > forks.len() {
            return corrupt(place(), "its attributes do not begin within it");
        }
        // Negative numbers are none, as in the kernel.
        if core.di_size.get() > i64::MAX.unsigned_abs() {
            return corrupt(place(), "its length is impossible");
        }
        Ok(Node {
            number,
            at,
            core,
            forks,
        })
    }

    pub(super) fn metadata(&self, volume: &Volume<'_>, file: FileId) -> Result<Metadata, Error> {
        let node = self.node(volume, file)?;
        let kind = node.kind()?;
        let core = &node.core;
        let is_device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
        Ok(Metadata {
            kind,
            mode: core.di_mode.get() & 0o7777,
            uid: core.di_uid.get(),
            gid: core.di_gid.get(),
            size: core.di_size.get(),
            mtime: node.mtime(),
            links: if core.di_version == 1 {
                core.di_onlink.get().into()
            } else {
                core.di_nlink.get()
            },
            device: is_device.then(|| node.device()).transpose()?,
        })
    }

    /// The inode of a directory that can be read.
    fn directory(&self, volume: &Volume<'_>, file: FileId) -> Result<Node, Error> {
        let node = self.node(volume, file)?;
        node.require_directory()?;
        if node.core.di_size.get() > MAX_DIRECTORY.min(volume.length()) {
            return corrupt(node.place(), "a directory is too large");
        }
        Ok(node)
    }

    /// Where a directory is: its inode, then its blocks.
    pub(super) fn directory_extents(
        &self,
        volume: &Volume<'_>,
        file: FileId,
    ) -> Result<Vec<Run>, Error> {
        let node = self.directory(volume, file)?;
        let mut extents = vec![Run::whole(node.at, self.inode_size.into())];
        if node.core.di_format != FORMAT_LOCAL {
            extents.extend(self.runs(volume, &node, &node.data())?);
        }
        Ok(extents)
    }

    pub(super) fn entries(&self, volume: &Volume<'_>, file: FileId) -> Result<Vec<Entry>, Error> {
        let node = self.directory(volume, file)?;
        let mut reader = directory::Names::new(self, &node);
        if node.core.di_format == FORMAT_LOCAL {
            reader.short(node.local()?)?;
        } else {
            // What is behind a directory's end are hashes of its names.
            let size = node.core.di_size.get();
            let runs = self.runs(volume, &node, &node.data())?;
            let mut block = vec![0; usize::try_from(self.directory_block).unwrap_or(0)];
            let mut next = 0;
            for run in &runs {
                next = next.max(run.offset - run.offset % self.directory_block);
                while next < size.min(run.offset + run.length) {
                    if !read_runs(volume, &runs, next, &mut block)? {
                        return corrupt(node.place(), "a block of the directory has holes");
                    }
                    reader.block(&block)?;
                    next += self.directory_block;
                }
            }
        }
        Ok(reader.entries)
    }

    pub(super) fn link_target(&self, volume: &Volume<'_>, file: FileId) -> Result<Vec<u8>, Error> {
        let node = self.node(volume, file)?;
        node.require_link()?;
        let size = usize::try_from(node.core.di_size.get()).unwrap_or(usize::MAX);
        if size == 0 || size > SYMLINK_MAX {
            return corrupt(node.place(), "the target of a link is too long or empty");
        }
        let target = if node.core.di_format == FORMAT_LOCAL {
            node.local()?.to_vec()
        } else {
            self.remote_target(volume, &node, size)?
        };
        if target.contains(&0) {
            return corrupt(node.place(), "the target of a link has a zero byte");
        }
        Ok(target)
    }

    /// A target that is in blocks. In version 5 each extent has a head.
    fn remote_target(
        &self,
        volume: &Volume<'_>,
        node: &Node,
        size: usize,
    ) -> Result<Vec<u8>, Error> {
        let mut target = Vec::with_capacity(size);
        for run in self.runs(volume, node, &node.data())? {
            let length = usize::try_from(run.length).unwrap_or(usize::MAX);
            // No extent needs more than the longest target and a head.
            let mut bytes = vec![0; length.min(SYMLINK_MAX + size_of::<SymlinkHeader>())];
            volume.read_at(run.at, &mut bytes)?;
            let mut part = bytes.as_slice();
            if self.v5 {
                let Ok((head, rest)) = SymlinkHeader::read_from_prefix(&bytes) else {
                    return corrupt(node.place(), "the target of a link is cut off");
                };
                let offset = u32::try_from(target.len()).unwrap_or(u32::MAX);
                if head.sl_magic.get() != SYMLINK_MAGIC
                    || head.sl_owner.get() != node.number
                    || head.sl_offset.get() != offset
                {
                    return corrupt(node.place(), "its block is not the target of a link");
                }
                let own = usize::try_from(head.sl_bytes.get()).unwrap_or(usize::MAX);
                part = rest.get(..own).unwrap_or(rest);
            }
            let left = size - target.len();
            target.extend_from_slice(&part[..part.len().min(left)]);
        }
        if target.len() != size {
            return corrupt(node.place(), "the target of a link is cut off");
        }
        Ok(target)
    }

    pub(super) fn xattrs(&self, volume: &Volume<'_>, file: FileId) -> Result<Xattrs, Error> {
        let node = self.node(volume, file)?;
        self.attributes(volume, &node)
    }

    pub(super) fn file(&self, volume: &Volume<'_>, file: FileId) -> Result<File, Error> {
        let node = self.node(volume, file)?;
        node.require_file()?;
        if node.core.di_flags.get() & DIFLAG_REALTIME != 0 {
            return unsupported(format!(
                "has the data of its {} on a realtime device",
                node.place()
            ));
        }
        let runs = self.runs(volume, &node, &node.data())?;
        Ok(File::new(node.core.di_size.get(), runs))
    }
}

/// Fills a buffer from runs; false if they have a hole there.
fn read_runs(
    volume: &Volume<'_>,
    runs: &[Run],
    offset: u64,
    buffer: &mut [u8],
) -> Result<bool, Error> {
    let first = runs.partition_point(|run| run.offset + run.length <= offset);
    let mut at = offset;
    let mut rest = buffer;
    for run in &runs[first..] {
        if rest.is_empty() {
            break;
        }
        if run.offset > at {
            return Ok(false);
        }
        let within = at - run.offset;
        let length = usize::try_from(run.length - within).unwrap_or(usize::MAX);
        let (now, later) = rest.split_at_mut(length.min(rest.len()));
        volume.read_at(run.at + within, now)?;
        at += now.len() as u64;
        rest = later;
    }
    Ok(rest.is_empty())
}

impl Inode for Node {
    fn place(&self) -> String {
        format!("inode {}", self.number)
    }

    fn kind(&self) -> Result<FileKind, Error> {
        match FileKind::of_mode(self.core.di_mode.get().into()) {
            Some(kind) => Ok(kind),
            None => corrupt(self.place(), "it is no kind of file"),
        }
    }
}

impl Node {
    fn has(&self, flag: u64) -> bool {
        self.core.di_flags2.get() & flag != 0
    }

    fn mtime(&self) -> Timestamp {
        let time = self.core.di_mtime.get();
        if self.has(DIFLAG2_BIGTIME) {
            let second = time / 1_000_000_000;
            return Timestamp {
                seconds: i64::try_from(second).unwrap_or(i64::MAX) - BIGTIME_OFFSET,
                nanoseconds: u32::try_from(time % 1_000_000_000).unwrap_or(0),
            };
        }
        let [a, b, c, d, nanoseconds @ ..] = time.to_be_bytes();
        Timestamp {
            seconds: i32::from_be_bytes([a, b, c, d]).into(),
            nanoseconds: u32::from_be_bytes(nanoseconds).min(999_999_999),
        }
    }

    /// The data fork.
    fn data(&self) -> Fork<'_> {
        let wide = self.has(DIFLAG2_NREXT64);
        let end = match usize::from(self.core.di_forkoff) * 8 {
            0 => self.forks.len(),
            end => end,
        };
        Fork {
            format: self.core.di_format,
            extents: if wide {
                self.core.di_big_nextents.get()
            } else {
                self.core.di_nextents.get().into()
            },
            bytes: self.forks.get(..end).unwrap_or_default(),
            may_share: self.has(DIFLAG2_REFLINK),
        }
    }

    /// The fork of attributes, if there is one.
    fn attribute_fork(&self) -> Option<Fork<'_>> {
        let wide = self.has(DIFLAG2_NREXT64);
        let start = usize::from(self.core.di_forkoff) * 8;
        let bytes = self.forks.get(start..).unwrap_or_default();
        (start != 0).then_some(Fork {
            format: self.core.di_aformat,
            extents: if wide {
                self.core.di_nextents.get().into()
            } else {
                self.core.di_anextents.get().into()
            },
            bytes,
            may_share: false,
        })
    }

    /// Data that is in the inode itself.
    fn local(&self) -> Result<&[u8], Error> {
        let size = usize::try_from(self.core.di_size.get()).unwrap_or(usize::MAX);
        match self.data().bytes.get(..size) {
            Some(bytes) => Ok(bytes),
            None => corrupt(self.place(), "it is larger than what is stored in it"),
        }
    }

    fn device(&self) -> Result<Device, Error> {
        let Some((number, _)) = self.forks.split_first_chunk::<4>() else {
            return corrupt(self.place(), "it has no device number");
        };
        if self.core.di_format != FORMAT_DEV {
            return corrupt(self.place(), "it has no device number");
        }
        let number = u32::from_be_bytes(*number);
        Ok(Device {
            major: number >> 18,
            minor: number & 0x3_FFFF,
        })
    }
}

/// Whether a fork has a list or a tree of extents.
fn has_extents(format: u8) -> bool {
    matches!(format, FORMAT_EXTENTS | FORMAT_BTREE)
}

#[cfg(test)]
mod tests;
