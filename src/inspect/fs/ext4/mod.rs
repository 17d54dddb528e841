//! Reads ext2, ext3 and ext4.
//!
//! Everything that mke2fs makes by default is read, and: block maps, meta block
//! groups, inline data, attributes in inodes of their own, large directories.
//! The journal is not replayed. Specification:
//! <https://docs.kernel.org/filesystems/ext4/>.

use uuid::Uuid;
use zerocopy::FromBytes as _;

use super::inode::Inode as _;
use super::{Entry, Error, File, FileId, FileKind, Identity, MAX_DIRECTORY, Metadata, Run};
use crate::disk::fs::ext4::format::{
    BASE_INODE_SIZE, Compat, GroupDescriptor, Incompat, Inode, InodeFlags, MAGIC, ROOT_INODE,
    RoCompat, SUPERBLOCK_OFFSET, Superblock,
};
use crate::inspect::Volume;
use crate::tree::{Device, Timestamp, Xattrs};

mod directory;
mod map;
mod xattr;

/// The root directory's inode number.
pub(super) const ROOT: u64 = ROOT_INODE as u64;
/// Inodes below this one are ext4's own, but for the root directory.
const FIRST_OLD: u32 = 11;

/// What [`Incompat`] names that changes nothing for a reader, or is handled.
fn readable() -> Incompat {
    Incompat::FILETYPE
        | Incompat::RECOVER
        | Incompat::META_BG
        | Incompat::EXTENTS
        | Incompat::BIT64
        | Incompat::MMP
        | Incompat::FLEX_BG
        | Incompat::EA_INODE
        | Incompat::CSUM_SEED
        | Incompat::LARGEDIR
        | Incompat::INLINE_DATA
        | Incompat::ENCRYPT
        | Incompat::CASEFOLD
}

/// What is known of a filesystem from its superblock.
#[derive(Debug)]
pub(super) struct Ext4 {
    block_size: u64,
    blocks: u64,
    free_blocks: u64,
    first_data_block: u64,
    blocks_per_group: u64,
    inodes: u32,
    inodes_per_group: u32,
    inode_size: u16,
    descriptor_size: u64,
    first_meta_group: u64,
    backup_groups: Option<[u32; 2]>,
    sparse: bool,
    incompat: Incompat,
}

/// An inode with what follows its fields.
#[derive(Debug)]
struct Node {
    number: u32,
    /// Where it is on the volume.
    at: u64,
    fields: Inode,
    /// What is behind `i_extra_isize`: room for attributes.
    extra: Vec<u8>,
}

pub(super) fn is_ext4(volume: &Volume<'_>) -> bool {
    volume.has(SUPERBLOCK_OFFSET + 0x38, &MAGIC.to_le_bytes())
}

/// Name, label and UUID.
pub(super) fn identity(volume: &Volume<'_>) -> Option<Identity> {
    let superblock: Superblock = volume.structure(SUPERBLOCK_OFFSET).ok()?;
    let incompat = Incompat::from_bits_retain(superblock.s_feature_incompat.get());
    let compat = Compat::from_bits_retain(superblock.s_feature_compat.get());
    let ext4 = Incompat::EXTENTS | Incompat::BIT64 | Incompat::FLEX_BG;
    let ro_compat = RoCompat::from_bits_retain(superblock.s_feature_ro_compat.get());
    let kind = if incompat.intersects(ext4) || ro_compat.contains(RoCompat::METADATA_CSUM) {
        "ext4"
    } else if compat.contains(Compat::HAS_JOURNAL) {
        "ext3"
    } else {
        "ext2"
    };
    Some(Identity {
        kind,
        label: super::detect::text(&superblock.s_volume_name),
        uuid: Some(Uuid::from_bytes(superblock.s_uuid).to_string()),
    })
}

fn corrupt<T>(place: impl Into<String>, what: &'static str) -> Result<T, Error> {
    Err(Error::Corrupt {
        kind: "ext4",
        place: place.into(),
        what,
    })
}

fn in_superblock<T>(what: &'static str) -> Result<T, Error> {
    corrupt("its superblock", what)
}

fn pair(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

impl Ext4 {
    pub(super) fn open(volume: &Volume<'_>) -> Result<Ext4, Error> {
        let superblock: Superblock = volume.structure(SUPERBLOCK_OFFSET)?;
        let incompat = Incompat::from_bits_retain(superblock.s_feature_incompat.get());
        let unknown = incompat - readable();
        if !unknown.is_empty() {
            return Err(Error::Unsupported {
                what: format!("has the ext4 features {:#x}", unknown.bits()),
            });
        }
        let log = superblock.s_log_block_size.get();
        if log > 6 {
            return in_superblock("blocks are larger than 64 KiB");
        }
        let block_size = 1024_u64 << log;
        let wide = incompat.contains(Incompat::BIT64);
        let high = |word: u32| if wide { word } else { 0 };
        let blocks = pair(
            high(superblock.s_blocks_count_hi.get()),
            superblock.s_blocks_count_lo.get(),
        );
        // An image may be cut off behind its last used block; a superblock that
        // claims more than the volume is believed only as far as reading goes.
        let limit = volume.length().div_ceil(block_size);
        let dynamic = superblock.s_rev_level.get() >= 1;
        let ext4 = Ext4 {
            block_size,
            blocks: blocks.min(limit),
            free_blocks: pair(
                high(superblock.s_free_blocks_count_hi.get()),
                superblock.s_free_blocks_count_lo.get(),
            ),
            first_data_block: superblock.s_first_data_block.get().into(),
            blocks_per_group: superblock.s_blocks_per_group.get().into(),
            inodes: superblock.s_inodes_count.get(),
            inodes_per_group: superblock.s_inodes_per_group.get(),
            inode_size: if dynamic {
                superblock.s_inode_size.get()
            } else {
                BASE_INODE_SIZE
            },
            descriptor_size: if wide {
                superblock.s_desc_size.get().into()
            } else {
                32
            },
            first_meta_group: if incompat.contains(Incompat::META_BG) {
                superblock.s_first_meta_bg.get().into()
            } else {
                u64::MAX
            },
            backup_groups: Compat::from_bits_retain(superblock.s_feature_compat.get())
                .contains(Compat::SPARSE_SUPER2)
                .then(|| {
                    superblock
                        .s_backup_bgs
                        .map(zerocopy::little_endian::U32::get)
                }),
            sparse: RoCompat::from_bits_retain(superblock.s_feature_ro_compat.get())
                .contains(RoCompat::SPARSE_SUPER),
            incompat,
        };
        let size = u64::from(ext4.inode_size);
        if size < u64::from(BASE_INODE_SIZE) || size > block_size || !size.is_power_of_two() {
            return in_superblock("the size of inodes is impossible");
        }
        if ext4.inodes_per_group == 0 || ext4.blocks_per_group == 0 || ext4.inodes < ROOT_INODE {
            return in_superblock("groups are empty");
        }
        if !(32..=1024).contains(&ext4.descriptor_size)
            || !ext4.descriptor_size.is_power_of_two()
            || wide && ext4.descriptor_size < 64
        {
            return in_superblock("the size of group descriptors is impossible");
        }
        if ext4.first_data_block > 1 {
            return in_superblock("the first block is impossible");
        }
        Ok(ext4)
    }

    pub(super) fn space(&self) -> (u64, Option<u64>) {
        let free = self.free_blocks.min(self.blocks);
        (
            self.blocks.saturating_mul(self.block_size),
            Some(free.saturating_mul(self.block_size)),
        )
    }

    pub(super) fn needs_recovery(&self) -> bool {
        self.incompat.contains(Incompat::RECOVER)
    }

    /// Where the descriptor of a group is.
    fn descriptor_at(&self, group: u64) -> u64 {
        let per_block = self.block_size / self.descriptor_size;
        let meta = group / per_block;
        if meta < self.first_meta_group {
            let superblock = SUPERBLOCK_OFFSET / self.block_size;
            return (superblock + 1) * self.block_size + group * self.descriptor_size;
        }
        // The first group of a meta group has the block with all its descriptors,
        // behind a superblock if it has one.
        let first = meta * per_block;
        let start = first
            .saturating_mul(self.blocks_per_group)
            .saturating_add(self.first_data_block)
            .saturating_add(u64::from(self.has_superblock(first)))
            // With clusters, blocks of 1 KiB are counted from the boot sector's.
            .saturating_add(u64::from(
                first == 0 && self.block_size == 1024 && self.first_data_block == 0,
            ));
        start
            .saturating_mul(self.block_size)
            .saturating_add(group % per_block * self.descriptor_size)
    }

    fn has_superblock(&self, group: u64) -> bool {
        if group == 0 {
            return true;
        }
        if let Some(backups) = self.backup_groups {
            return backups.iter().any(|&backup| u64::from(backup) == group);
        }
        let is_power = |base: u64| {
            let mut power = base;
            while power < group {
                power *= base;
            }
            power == group
        };
        !self.sparse || group == 1 || is_power(3) || is_power(5) || is_power(7)
    }

    /// Reads an inode.
    fn node(&self, volume: &Volume<'_>, file: FileId) -> Result<Node, Error> {
        let number = u32::try_from(file.0).unwrap_or(0);
        let place = || format!("inode {}", file.0);
        if number == 0 || number > self.inodes {
            return corrupt(place(), "there is no inode of this number");
        }
        let group = u64::from((number - 1) / self.inodes_per_group);
        let index = u64::from((number - 1) % self.inodes_per_group);
        let at = self.descriptor_at(group);
        let size = self
            .descriptor_size
            .min(size_of::<GroupDescriptor>() as u64);
        let mut bytes = volume.bytes(at, size)?;
        bytes.resize(size_of::<GroupDescriptor>(), 0);
        let Ok(descriptor) = GroupDescriptor::read_from_bytes(&bytes) else {
            return corrupt(place(), "its group has no descriptor");
        };
        let table = pair(
            descriptor.bg_inode_table_hi.get(),
            descriptor.bg_inode_table_lo.get(),
        );
        let offset = self.block(table, place)?;
        let offset = offset.saturating_add(index * u64::from(self.inode_size));
        let mut bytes = volume.bytes(offset, self.inode_size.into())?;
        let fields = size_of::<Inode>();
        let extra = if bytes.len() > usize::from(BASE_INODE_SIZE) {
            let used = u16::from_le_bytes([bytes[0x80], bytes[0x81]]);
            let end = usize::from(BASE_INODE_SIZE) + usize::from(used);
            if end > bytes.len() || used % 4 != 0 {
                return corrupt(place(), "its fields do not end within it");
            }
            let extra = bytes.split_off(end);
            // Fields that this inode does not have are zero.
            bytes.resize(bytes.len().max(fields), 0);
            extra
        } else {
            bytes.resize(fields, 0);
            Vec::new()
        };
        bytes.truncate(fields);
        match Inode::read_from_bytes(&bytes) {
            Ok(fields) => Ok(Node {
                number,
                at: offset,
                fields,
                extra,
            }),
            Err(_) => corrupt(place(), "it is cut off"),
        }
    }

    /// Where a block is on the volume.
    fn block(&self, block: u64, place: impl Fn() -> String) -> Result<u64, Error> {
        if block < self.first_data_block || block >= self.blocks {
            return corrupt(place(), "it leads to a block behind the filesystem's end");
        }
        Ok(block * self.block_size)
    }

    pub(super) fn metadata(&self, volume: &Volume<'_>, file: FileId) -> Result<Metadata, Error> {
        let node = self.node(volume, file)?;
        let kind = node.kind()?;
        let fields = &node.fields;
        let extra = fields.i_mtime_extra.get();
        let seconds = i32::from_le_bytes(fields.i_mtime.get().to_le_bytes());
        Ok(Metadata {
            kind,
            mode: fields.i_mode.get() & 0o7777,
            uid: u32::from(fields.l_i_uid_high.get()) << 16 | u32::from(fields.i_uid.get()),
            gid: u32::from(fields.l_i_gid_high.get()) << 16 | u32::from(fields.i_gid.get()),
            size: node.size(),
            mtime: Timestamp {
                seconds: i64::from(seconds) + (i64::from(extra & 3) << 32),
                nanoseconds: (extra >> 2).min(999_999_999),
            },
            links: fields.i_links_count.get().into(),
            device: matches!(kind, FileKind::CharDevice | FileKind::BlockDevice)
                .then(|| node.device()),
        })
    }

    /// The inode of a directory that can be read.
    fn directory(&self, volume: &Volume<'_>, file: FileId) -> Result<Node, Error> {
        let node = self.node(volume, file)?;
        node.require_directory()?;
        node.refuse_encrypted()?;
        if node.size() > MAX_DIRECTORY.min(volume.length().max(self.block_size)) {
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
        if !node.flags().contains(InodeFlags::INLINE_DATA) {
            extents.extend(self.file_of(volume, &node)?.runs);
        }
        Ok(extents)
    }

    pub(super) fn entries(&self, volume: &Volume<'_>, file: FileId) -> Result<Vec<Entry>, Error> {
        let node = self.directory(volume, file)?;
        let mut entries = Vec::new();
        if node.flags().contains(InodeFlags::INLINE_DATA) {
            let bytes = self.inline(volume, &node)?;
            // The parent's number comes first; what does not fit into the inode's
            // map is a part of its own.
            let cut = bytes.len().min(INLINE);
            let (first, second) = bytes.split_at(cut);
            let first = first.get(4..).unwrap_or_default();
            directory::read(&node.place(), first, &mut entries)?;
            directory::read(&node.place(), second, &mut entries)?;
            return Ok(entries);
        }
        let open = self.file_of(volume, &node)?;
        let size = usize::try_from(self.block_size).unwrap_or(0);
        let mut block = vec![0; size];
        for run in &open.runs {
            let mut at = 0;
            while at < run.length {
                if run.length - at < self.block_size {
                    return corrupt(node.place(), "a directory ends within a block");
                }
                volume.read_at(run.at + at, &mut block)?;
                directory::read(&node.place(), &block, &mut entries)?;
                at += self.block_size;
            }
        }
        Ok(entries)
    }

    pub(super) fn link_target(&self, volume: &Volume<'_>, file: FileId) -> Result<Vec<u8>, Error> {
        let node = self.node(volume, file)?;
        node.require_link()?;
        node.refuse_encrypted()?;
        let size = usize::try_from(node.size()).unwrap_or(usize::MAX);
        let mut target = if node.flags().contains(InodeFlags::INLINE_DATA) {
            self.inline(volume, &node)?
        } else if !node.flags().contains(InodeFlags::EXTENTS) && size < INLINE {
            node.fields.i_block[..size].to_vec()
        } else if size > 64 << 10 {
            return corrupt(node.place(), "the target of a link is too long");
        } else {
            let open = self.file_of(volume, &node)?;
            let mut target = vec![0; size];
            for run in &open.runs {
                let from = usize::try_from(run.offset).unwrap_or(size);
                let to = from + usize::try_from(run.length).unwrap_or(0);
                volume.read_at(run.at, &mut target[from..to])?;
            }
            target
        };
        if let Some(end) = target.iter().position(|&byte| byte == 0) {
            target.truncate(end);
        }
        if target.is_empty() {
            return corrupt(node.place(), "a link leads nowhere");
        }
        Ok(target)
    }

    pub(super) fn xattrs(&self, volume: &Volume<'_>, file: FileId) -> Result<Xattrs, Error> {
        let node = self.node(volume, file)?;
        let mut attributes = self.attributes(volume, &node)?;
        attributes.retain(|name, _| &**name != xattr::DATA);
        Ok(attributes)
    }

    pub(super) fn file(&self, volume: &Volume<'_>, file: FileId) -> Result<File, Error> {
        let node = self.node(volume, file)?;
        node.require_file()?;
        node.refuse_encrypted()?;
        if node.flags().contains(InodeFlags::INLINE_DATA) {
            let bytes = self.inline(volume, &node)?;
            return Ok(File::inline(bytes));
        }
        self.file_of(volume, &node)
    }

    /// The data of a file, directory or long link.
    fn file_of(&self, volume: &Volume<'_>, node: &Node) -> Result<File, Error> {
        Ok(File::new(node.size(), self.runs(volume, node)?))
    }

    /// Data that is stored in the inode itself.
    fn inline(&self, volume: &Volume<'_>, node: &Node) -> Result<Vec<u8>, Error> {
        let mut bytes = node.fields.i_block.to_vec();
        if let Some(more) = self.attributes(volume, node)?.get(xattr::DATA) {
            bytes.extend_from_slice(more);
        }
        let size = usize::try_from(node.size()).unwrap_or(usize::MAX);
        if size > bytes.len() {
            return corrupt(node.place(), "it is larger than what is stored in it");
        }
        bytes.truncate(size);
        Ok(bytes)
    }
}

/// Bytes of `i_block`.
const INLINE: usize = 60;

impl super::inode::Inode for Node {
    fn place(&self) -> String {
        format!("inode {}", self.number)
    }

    fn kind(&self) -> Result<FileKind, Error> {
        if self.number != ROOT_INODE && self.number < FIRST_OLD {
            return corrupt(self.place(), "it is reserved, and no file's");
        }
        match FileKind::of_mode(self.fields.i_mode.get().into()) {
            Some(kind) => Ok(kind),
            None => corrupt(self.place(), "it is no kind of file"),
        }
    }
}

impl Node {
    fn flags(&self) -> InodeFlags {
        InodeFlags::from_bits_retain(self.fields.i_flags.get())
    }

    fn size(&self) -> u64 {
        pair(self.fields.i_size_high.get(), self.fields.i_size_lo.get())
    }

    /// The device number, in the old form or the new one.
    fn device(&self) -> Device {
        let word = |at: usize| {
            let bytes = self.fields.i_block.get(at..at + 4).unwrap_or_default();
            bytes
                .iter()
                .rev()
                .fold(0_u32, |word, &byte| word << 8 | u32::from(byte))
        };
        match word(0) {
            0 => {
                let new = word(4);
                Device {
                    major: new >> 8 & 0xFFF,
                    minor: new & 0xFF | new >> 12 & 0xF_FF00,
                }
            }
            old => Device {
                major: old >> 8 & 0xFF,
                minor: old & 0xFF,
            },
        }
    }

    fn refuse_encrypted(&self) -> Result<(), Error> {
        if self.flags().contains(InodeFlags::ENCRYPT) {
            return Err(Error::Unsupported {
                what: format!("has encrypted its {}", self.place()),
            });
        }
        Ok(())
    }
}
