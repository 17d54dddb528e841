//! Makes of what `mkfs.xfs` wrote exactly the tree: owners, modes, times,
//! attributes, hard links, and names that a protofile cannot say.

mod links;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use zerocopy::byteorder::{BE, U32};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::directory::{Entries, data_block, short_directory};
use super::format::{
    AGI_MAGIC, AGI_SECTOR, Agi, BIGTIME_OFFSET, BMAP_MAGIC, BmapExtent, DIFLAG2_BIGTIME,
    DIFLAG2_NREXT64, DINODE_MAGIC, DIR_CRC, DIR_LEAF_OFFSET, Dinode, FORMAT_BTREE, FORMAT_EXTENTS,
    FORMAT_LOCAL, INCOMPAT_SPINODES, INOBT_MAGIC, INODE_CORE, INODE_CRC, INODES_PER_CHUNK,
    InobtRecord, LONG_BLOCK, SB_CRC, SB_MAGIC, SHORT_CRC, SYMLINK_CRC, SYMLINK_MAGIC, SYMLINK_MAX,
    ShortBlock, Superblock, SymlinkHeader, VERSION_ATTR, VERSION_MASK, seal,
};
use super::{Error, attr, proto};
use crate::tree::{Content, Kind, NodeId, Timestamp, Tree};

/// Levels that a tree can have at most, so that a loop ends.
const MAX_LEVELS: usize = 10;

/// Fixes the filesystem in `file`.
pub(super) fn fix(
    file: &File,
    path: &Path,
    tree: &Arc<Tree>,
    made: Timestamp,
) -> Result<(), Error> {
    let mut head = [0; 512];
    let image = Image { file, path };
    image.read(0, &mut head)?;
    let (superblock, _) = Superblock::read_from_prefix(&head)
        .map_err(|_| image.foreign(0, "the superblock is cut off"))?;
    if superblock.sb_magicnum != SB_MAGIC || superblock.sb_versionnum.get() & VERSION_MASK != 5 {
        return Err(image.foreign(0, "it is no xfs filesystem of version 5"));
    }
    let mut fix = Fix {
        image,
        superblock,
        tree,
        made,
        places: vec![None; tree.nodes().len()],
        further: further_names(tree),
        has_attributes: false,
    };
    fix.inodes()?;
    fix.links()?;
    fix.finish()
}

/// The file that the filesystem is in.
struct Image<'a> {
    file: &'a File,
    path: &'a Path,
}

impl Image<'_> {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let read = self.file.read_exact_at(buffer, offset);
        read.map_err(|source| Error::Io {
            action: "read",
            path: self.path.to_owned(),
            source,
        })
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let written = self.file.write_all_at(bytes, offset);
        written.map_err(|source| Error::Io {
            action: "write",
            path: self.path.to_owned(),
            source,
        })
    }

    fn foreign(&self, offset: u64, problem: &'static str) -> Error {
        Error::Foreign { offset, problem }
    }
}

/// Where an inode is.
#[derive(Debug, Clone, Copy)]
struct Place {
    number: u64,
    offset: u64,
}

struct Fix<'a> {
    image: Image<'a>,
    superblock: Superblock,
    tree: &'a Arc<Tree>,
    made: Timestamp,
    /// Inodes by node; of further names those that only hold their place.
    places: Vec<Option<Place>>,
    /// Whether a node is a further name of a file.
    further: Vec<bool>,
    has_attributes: bool,
}

/// Which nodes are further names of files.
fn further_names(tree: &Tree) -> Vec<bool> {
    let mut named = vec![false; tree.inodes().len()];
    let nodes = tree.nodes();
    nodes
        .map(|(_, node)| std::mem::replace(&mut named[node.inode.index()], true))
        .collect()
}

/// A chunk of inodes, and where its record is.
struct Chunk {
    group: u32,
    record: InobtRecord,
}

impl Fix<'_> {
    fn block_size(&self) -> u64 {
        self.superblock.sb_blocksize.get().into()
    }

    fn inode_size(&self) -> usize {
        self.superblock.sb_inodesize.get().into()
    }

    /// First byte of a block of a group.
    fn group_block(&self, group: u32, block: u32) -> u64 {
        (u64::from(group) * u64::from(self.superblock.sb_agblocks.get()) + u64::from(block))
            * self.block_size()
    }

    /// First byte of a block that is numbered by group and block at once.
    fn block(&self, number: u64) -> u64 {
        let bits = self.superblock.sb_agblklog;
        let group = number >> bits;
        let block = number & ((1 << bits) - 1);
        (group * u64::from(self.superblock.sb_agblocks.get()) + block) * self.block_size()
    }

    fn agi_offset(&self, group: u32) -> u64 {
        self.group_block(group, 0) + AGI_SECTOR * u64::from(self.superblock.sb_sectsize.get())
    }

    fn agi(&self, group: u32) -> Result<(Vec<u8>, Agi), Error> {
        let offset = self.agi_offset(group);
        let mut sector = vec![0; self.superblock.sb_sectsize.get().into()];
        self.image.read(offset, &mut sector)?;
        match Agi::read_from_prefix(&sector) {
            Ok((agi, _)) if agi.agi_magicnum == AGI_MAGIC => Ok((sector, agi)),
            _ => Err(self.image.foreign(offset, "there is no header of inodes")),
        }
    }

    /// A block of a group's tree.
    fn short_block(
        &self,
        group: u32,
        block: u32,
        magic: u32,
    ) -> Result<(u64, Vec<u8>, ShortBlock), Error> {
        let offset = self.group_block(group, block);
        let mut bytes = vec![0; usize::try_from(self.block_size()).unwrap_or(0)];
        self.image.read(offset, &mut bytes)?;
        match ShortBlock::read_from_prefix(&bytes) {
            Ok((head, _)) if head.bb_magic == magic => Ok((offset, bytes, head)),
            _ => Err(self.image.foreign(offset, "there is no block of a tree")),
        }
    }

    /// The leaves of a group's tree, left to right.
    fn leaves(&self, group: u32, root: u32, magic: u32) -> Result<Vec<u32>, Error> {
        let mut at = root;
        for _ in 0..MAX_LEVELS {
            let (_, bytes, head) = self.short_block(group, at, magic)?;
            if head.bb_level == 0 {
                break;
            }
            // Keys, then pointers, each of as many as there is room for.
            let most = (bytes.len() - size_of::<ShortBlock>()) / 8;
            let pointer = size_of::<ShortBlock>() + most * 4;
            at = be32(&bytes, pointer);
        }
        let mut leaves = Vec::new();
        while at != u32::MAX && leaves.len() <= 1 << 24 {
            let (_, _, head) = self.short_block(group, at, magic)?;
            leaves.push(at);
            at = head.bb_rightsib.get();
        }
        Ok(leaves)
    }

    /// Changes all inodes, and remembers where each node's is.
    fn inodes(&mut self) -> Result<(), Error> {
        let root = self.superblock.sb_rootino.get();
        let special = [
            self.superblock.sb_rbmino.get(),
            self.superblock.sb_rsumino.get(),
        ];
        for chunk in self.chunks()? {
            let start = u64::from(chunk.record.ir_startino.get());
            let per_block = u64::from(self.superblock.sb_inopblock.get());
            let block = u32::try_from(start / per_block).unwrap_or(u32::MAX);
            let offset = self.group_block(chunk.group, block);
            let bits = self.superblock.sb_inopblog + self.superblock.sb_agblklog;
            let first = u64::from(chunk.group) << bits | start;
            let size = self.inode_size();
            // Groups of four are absent where a chunk is sparse.
            let holes = if self.superblock.sb_features_incompat.get() & INCOMPAT_SPINODES != 0 {
                chunk.record.ir_holemask.get()
            } else {
                0
            };
            for at in 0..INODES_PER_CHUNK {
                if holes >> (at / 4) & 1 != 0 {
                    continue;
                }
                let place = Place {
                    number: first + u64::from(at),
                    offset: offset + u64::from(at) * size as u64,
                };
                let mut bytes = vec![0; size];
                self.image.read(place.offset, &mut bytes)?;
                let (mut core, _) = Dinode::read_from_prefix(&bytes)
                    .ok()
                    .filter(|(core, _)| core.di_magic == DINODE_MAGIC)
                    .ok_or_else(|| self.image.foreign(place.offset, "there is no inode"))?;
                let node = if place.number == root {
                    Some(NodeId::ROOT)
                } else if core.di_mode == 0 || special.contains(&place.number) {
                    None
                } else {
                    let id = NodeId(core.di_uid.get());
                    let known = id != NodeId::ROOT && id.index() < self.places.len();
                    if !known {
                        return Err(self.image.foreign(place.offset, "it has no known inode"));
                    }
                    Some(id)
                };
                // Random numbers and the present time are nobody's.
                core.di_gen = 0.into();
                let made = self.time(&core, self.made);
                core.di_atime = made.into();
                core.di_mtime = made.into();
                core.di_ctime = made.into();
                core.di_crtime = made.into();
                match node {
                    None => bytes[..INODE_CORE].copy_from_slice(core.as_bytes()),
                    Some(id) => {
                        self.places[id.index()] = Some(place);
                        self.inode(id, place, core, &mut bytes)?;
                    }
                }
                seal(&mut bytes, INODE_CRC);
                self.image.write(place.offset, &bytes)?;
            }
        }
        if let Some(missing) = self.places.iter().position(Option::is_none) {
            let id = NodeId(u32::try_from(missing).unwrap_or(0));
            return Err(Error::Unsupported {
                path: self.tree.path(id),
                problem: "mkfs.xfs left it out",
            });
        }
        Ok(())
    }

    fn chunks(&self) -> Result<Vec<Chunk>, Error> {
        let mut chunks = Vec::new();
        for group in 0..self.superblock.sb_agcount.get() {
            let (_, agi) = self.agi(group)?;
            for leaf in self.leaves(group, agi.agi_root.get(), INOBT_MAGIC)? {
                let (_, bytes, head) = self.short_block(group, leaf, INOBT_MAGIC)?;
                let records = records(&bytes, &head);
                chunks.extend(records.into_iter().map(|record| Chunk { group, record }));
            }
        }
        Ok(chunks)
    }

    /// Times as this filesystem stores them.
    fn time(&self, core: &Dinode, time: Timestamp) -> u64 {
        if core.di_flags2.get() & DIFLAG2_BIGTIME != 0 {
            let seconds = i128::from(time.seconds) + i128::from(BIGTIME_OFFSET);
            let nanoseconds = seconds * 1_000_000_000 + i128::from(time.nanoseconds);
            u64::try_from(nanoseconds.max(0)).unwrap_or(u64::MAX)
        } else {
            let limit = i64::from(i32::MIN)..=i64::from(i32::MAX);
            let seconds = time.seconds.clamp(*limit.start(), *limit.end());
            u64::from_be_bytes((seconds << 32 | i64::from(time.nanoseconds)).to_be_bytes())
        }
    }

    /// Gives an inode what the tree says.
    fn inode(
        &mut self,
        id: NodeId,
        place: Place,
        mut core: Dinode,
        bytes: &mut [u8],
    ) -> Result<(), Error> {
        if self.further[id.index()] {
            // It holds the place of a name until that is led to the file.
            bytes[..INODE_CORE].copy_from_slice(core.as_bytes());
            return Ok(());
        }
        let inode = self.tree.inode_of(id);
        let time = self.time(&core, inode.mtime);
        core.di_atime = time.into();
        core.di_mtime = time.into();
        core.di_ctime = time.into();
        core.di_uid = inode.uid.into();
        core.di_gid = inode.gid.into();
        let kind = match inode.kind {
            Kind::Socket => 0o14 << 12,
            _ => core.di_mode.get() & 0o17 << 12,
        };
        core.di_mode = (kind | inode.mode).into();
        if !inode.is_directory() {
            core.di_nlink = inode.links.into();
        }
        match &inode.kind {
            Kind::Symlink(target) => self.symlink(id, target, place, &core, bytes)?,
            Kind::File(content) => core.di_size = self.size(id, content, &core)?.into(),
            _ => {}
        }
        if let Some(xattrs) = &inode.xattrs {
            let fork = attr::short_form(xattrs).map_err(|problem| self.unsupported(id, problem))?;
            self.attributes(id, &fork, &mut core, bytes)?;
            self.has_attributes = true;
        }
        bytes[..INODE_CORE].copy_from_slice(core.as_bytes());
        if inode.is_directory() {
            self.directory(id, place, &core, bytes)?;
        }
        Ok(())
    }

    /// The size of a file. mkfs.xfs 6.13.0 leaves out a hole at its end.
    fn size(&self, id: NodeId, content: &Content, core: &Dinode) -> Result<u64, Error> {
        let end = content.ranges().last();
        let end = end.map_or(0, |range| range.offset + range.length);
        if !(end..=content.size).contains(&core.di_size.get()) {
            return Err(self.unsupported(id, "it changed while mkfs.xfs read it"));
        }
        Ok(content.size)
    }

    /// Puts the target of a link right: where it is a stand-in, and where it has a
    /// block of its own, which mkfs.xfs writes without its head.
    fn symlink(
        &self,
        id: NodeId,
        target: &[u8],
        place: Place,
        core: &Dinode,
        bytes: &mut [u8],
    ) -> Result<(), Error> {
        if core.di_format == FORMAT_LOCAL {
            let stored = bytes.get_mut(INODE_CORE..INODE_CORE + target.len());
            let stored =
                stored.ok_or_else(|| self.image.foreign(place.offset, "a link is cut off"))?;
            stored.copy_from_slice(target);
            return Ok(());
        }
        let head_size = size_of::<SymlinkHeader>();
        let block_size = usize::try_from(self.block_size()).unwrap_or(0);
        if target.len() > SYMLINK_MAX || target.len() + head_size > block_size {
            return Err(self.unsupported(id, "the target of the link is too long"));
        }
        let extents = self.extents(place, core, bytes)?;
        let [extent] = extents[..] else {
            return Err(self
                .image
                .foreign(place.offset, "a link has several blocks"));
        };
        let offset = self.block(extent.block);
        let header = SymlinkHeader {
            sl_magic: SYMLINK_MAGIC.into(),
            sl_offset: 0.into(),
            sl_bytes: u32::try_from(target.len()).unwrap_or(0).into(),
            sl_crc: 0.into(),
            sl_uuid: self.superblock.sb_uuid,
            sl_owner: place.number.into(),
            sl_blkno: (offset / 512).into(),
            sl_lsn: 0.into(),
        };
        let mut block = vec![0; block_size];
        block[..head_size].copy_from_slice(header.as_bytes());
        block[head_size..head_size + target.len()].copy_from_slice(target);
        seal(&mut block, SYMLINK_CRC);
        self.image.write(offset, &block)
    }

    /// Puts attributes at the end of an inode.
    fn attributes(
        &self,
        id: NodeId,
        fork: &[u8],
        core: &mut Dinode,
        bytes: &mut [u8],
    ) -> Result<(), Error> {
        let room = bytes.len() - INODE_CORE;
        let used = match core.di_format {
            FORMAT_LOCAL => usize::try_from(core.di_size.get()).unwrap_or(usize::MAX),
            FORMAT_EXTENTS => self.extent_count(core).saturating_mul(16),
            // The root of a tree uses all that there is.
            FORMAT_BTREE => usize::MAX,
            _ => 8,
        };
        let length = fork.len().next_multiple_of(8);
        let start = room
            .checked_sub(length)
            .filter(|start| *start >= used && *start > 0)
            .ok_or_else(|| {
                self.unsupported(id, "its extended attributes do not fit into its inode; the option `-i size=1024` or `-i size=2048` makes larger ones")
            })?;
        // A device's number has a fork of its own size.
        let start = if core.di_format == 0 { 8 } else { start };
        core.di_forkoff = u8::try_from(start / 8).unwrap_or(u8::MAX);
        core.di_aformat = FORMAT_LOCAL;
        let at = INODE_CORE + start;
        bytes[at..].fill(0);
        bytes[at..at + fork.len()].copy_from_slice(fork);
        Ok(())
    }

    fn unsupported(&self, id: NodeId, problem: &'static str) -> Error {
        Error::Unsupported {
            path: self.tree.path(id),
            problem,
        }
    }

    fn extent_count(&self, core: &Dinode) -> usize {
        let count = if core.di_flags2.get() & DIFLAG2_NREXT64 != 0 {
            core.di_big_nextents.get()
        } else {
            core.di_nextents.get().into()
        };
        usize::try_from(count).unwrap_or(usize::MAX)
    }

    /// The extents of a directory.
    fn extents(&self, place: Place, core: &Dinode, bytes: &[u8]) -> Result<Vec<BmapExtent>, Error> {
        let foreign = || self.image.foreign(place.offset, "its extents are broken");
        let fork = &bytes[INODE_CORE..];
        if core.di_format == FORMAT_EXTENTS {
            let count = self.extent_count(core);
            let (list, _) = fork.as_chunks::<16>();
            let list = list.get(..count).ok_or_else(foreign)?;
            return Ok(list
                .iter()
                .map(|packed| BmapExtent::unpack(*packed))
                .collect());
        }
        // The root: level, number of records, keys, then pointers.
        let most = (fork.len() - 4) / 16;
        let mut block = be64(fork, 4 + most * 8);
        let mut found = Vec::new();
        for _ in 0..1 << 24 {
            let offset = self.block(block);
            let mut bytes = vec![0; usize::try_from(self.block_size()).unwrap_or(0)];
            self.image.read(offset, &mut bytes)?;
            if be32(&bytes, 0) != BMAP_MAGIC {
                return Err(foreign());
            }
            let level = u16::from_be_bytes([bytes[4], bytes[5]]);
            let count: usize = u16::from_be_bytes([bytes[6], bytes[7]]).into();
            if level > 0 {
                let most = (bytes.len() - LONG_BLOCK) / 16;
                block = be64(&bytes, LONG_BLOCK + most * 8);
                continue;
            }
            let (list, _) = bytes[LONG_BLOCK..].as_chunks::<16>();
            let list = list.get(..count).ok_or_else(foreign)?;
            found.extend(list.iter().map(|packed| BmapExtent::unpack(*packed)));
            let right = be64(&bytes, 16);
            if right == u64::MAX {
                break;
            }
            block = right;
        }
        Ok(found)
    }
}

impl Fix<'_> {
    /// Puts names and types of a directory's entries right. Further names of files
    /// come later, when all inodes are known.
    fn directory(
        &self,
        id: NodeId,
        place: Place,
        core: &Dinode,
        bytes: &mut [u8],
    ) -> Result<(), Error> {
        let mut changed = HashMap::new();
        for &child in self.tree.children(id) {
            let name = self.tree.name(child);
            let stand_in = proto::stand_in(name).unwrap_or_default();
            if stand_in != name || self.tree.inode_of(child).kind == Kind::Socket {
                changed.insert(stand_in, child);
            }
        }
        if changed.is_empty() {
            return Ok(());
        }
        let entries = Entries {
            tree: self.tree,
            changed,
            links: BTreeMap::new(),
        };
        self.entries(&entries, place, core, bytes)
    }

    /// Changes entries in the inode or in the blocks of a directory.
    fn entries(
        &self,
        entries: &Entries<'_>,
        place: Place,
        core: &Dinode,
        bytes: &mut [u8],
    ) -> Result<(), Error> {
        let foreign = |offset| self.image.foreign(offset, "a directory is broken");
        if core.di_format == FORMAT_LOCAL {
            let changed = short_directory(&mut bytes[INODE_CORE..], entries);
            return changed.ok_or_else(|| foreign(place.offset));
        }
        let block_size = self.block_size();
        let size = block_size << self.superblock.sb_dirblklog;
        for extent in self.extents(place, core, bytes)? {
            let mut at = 0;
            while at < extent.count && (extent.offset + at) * block_size < DIR_LEAF_OFFSET {
                // A directory's block may have several of the filesystem's, which
                // mkfs.xfs allocates together.
                let offset = self.block(extent.block + at);
                let mut block = vec![0; usize::try_from(size).unwrap_or(0)];
                self.image.read(offset, &mut block)?;
                data_block(&mut block, entries).ok_or_else(|| foreign(offset))?;
                seal(&mut block, DIR_CRC);
                self.image.write(offset, &block)?;
                at += size / block_size;
            }
        }
        Ok(())
    }

    /// Writes the superblock.
    fn finish(&mut self) -> Result<(), Error> {
        let mut sector = vec![0; self.superblock.sb_sectsize.get().into()];
        self.image.read(0, &mut sector)?;
        if self.has_attributes {
            let version = self.superblock.sb_versionnum.get() | VERSION_ATTR;
            self.superblock.sb_versionnum = version.into();
        }
        sector[..size_of::<Superblock>()].copy_from_slice(self.superblock.as_bytes());
        seal(&mut sector, SB_CRC);
        self.image.write(0, &sector)
    }
}

/// The records of a leaf.
fn records(bytes: &[u8], head: &ShortBlock) -> Vec<InobtRecord> {
    let (list, _) = bytes[size_of::<ShortBlock>()..].as_chunks::<16>();
    list.iter()
        .take(head.bb_numrecs.get().into())
        .filter_map(|record| InobtRecord::read_from_bytes(record).ok())
        .collect()
}

/// Writes the records of a leaf.
fn put_records(bytes: &mut [u8], records: &[InobtRecord]) {
    let count = u16::try_from(records.len()).unwrap_or(u16::MAX);
    bytes[6..8].copy_from_slice(&count.to_be_bytes());
    let places = bytes[size_of::<ShortBlock>()..].chunks_exact_mut(size_of::<InobtRecord>());
    for (place, record) in places.zip(records) {
        place.copy_from_slice(record.as_bytes());
    }
    seal(bytes, SHORT_CRC);
}

pub(super) fn be32(bytes: &[u8], at: usize) -> u32 {
    let word = bytes
        .get(at..at + 4)
        .and_then(|word| U32::<BE>::read_from_bytes(word).ok());
    word.map_or(0, U32::get)
}

pub(super) fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from(be32(bytes, at)) << 32 | u64::from(be32(bytes, at + 4))
}
