//! What kind of ext4 filesystem is wanted.

use std::sync::Arc;

use super::Error;
use super::format::{BASE_INODE_SIZE, Compat, EXTRA_ISIZE, Incompat, RoCompat};
use crate::tree::Timestamp;

/// Feature sets of a filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// Features that old kernels may ignore.
    pub compat: Compat,
    /// Features without which it cannot be mounted.
    pub incompat: Incompat,
    /// Features without which it can only be mounted read-only.
    pub ro_compat: RoCompat,
}

impl Default for Features {
    /// Debian 12's for ext4: neither metadata_csum_seed nor orphan_file, which
    /// GRUB before 2.12 and e2fsck before 1.47 do not know.
    fn default() -> Self {
        Self {
            compat: Compat::HAS_JOURNAL
                | Compat::EXT_ATTR
                | Compat::RESIZE_INODE
                | Compat::DIR_INDEX,
            incompat: Incompat::FILETYPE | Incompat::EXTENTS | Incompat::BIT64 | Incompat::FLEX_BG,
            ro_compat: RoCompat::SPARSE_SUPER
                | RoCompat::LARGE_FILE
                | RoCompat::HUGE_FILE
                | RoCompat::DIR_NLINK
                | RoCompat::EXTRA_ISIZE
                | RoCompat::METADATA_CSUM,
        }
    }
}

/// One feature, of any set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Feature {
    Compat(Compat),
    Incompat(Incompat),
    RoCompat(RoCompat),
}

/// Features by the names that mke2fs knows.
const FEATURES: [(&str, Feature); 20] = [
    ("has_journal", Feature::Compat(Compat::HAS_JOURNAL)),
    ("ext_attr", Feature::Compat(Compat::EXT_ATTR)),
    ("resize_inode", Feature::Compat(Compat::RESIZE_INODE)),
    ("dir_index", Feature::Compat(Compat::DIR_INDEX)),
    ("orphan_file", Feature::Compat(Compat::ORPHAN_FILE)),
    ("filetype", Feature::Incompat(Incompat::FILETYPE)),
    ("extent", Feature::Incompat(Incompat::EXTENTS)),
    ("64bit", Feature::Incompat(Incompat::BIT64)),
    ("flex_bg", Feature::Incompat(Incompat::FLEX_BG)),
    ("ea_inode", Feature::Incompat(Incompat::EA_INODE)),
    ("metadata_csum_seed", Feature::Incompat(Incompat::CSUM_SEED)),
    ("large_dir", Feature::Incompat(Incompat::LARGEDIR)),
    ("sparse_super", Feature::RoCompat(RoCompat::SPARSE_SUPER)),
    ("large_file", Feature::RoCompat(RoCompat::LARGE_FILE)),
    ("huge_file", Feature::RoCompat(RoCompat::HUGE_FILE)),
    ("dir_nlink", Feature::RoCompat(RoCompat::DIR_NLINK)),
    ("extra_isize", Feature::RoCompat(RoCompat::EXTRA_ISIZE)),
    ("metadata_csum", Feature::RoCompat(RoCompat::METADATA_CSUM)),
    ("project", Feature::RoCompat(RoCompat::PROJECT)),
    ("quota", Feature::RoCompat(RoCompat::QUOTA)),
];

impl Features {
    /// What mke2fs gives `ext3`: no checksums, no 64-bit numbers, block maps.
    pub fn ext3() -> Self {
        Self {
            incompat: Incompat::FILETYPE,
            ro_compat: RoCompat::SPARSE_SUPER | RoCompat::LARGE_FILE,
            ..Self::default()
        }
    }

    /// What mke2fs gives `ext2`: `ext3` without a journal.
    pub fn ext2() -> Self {
        let mut features = Self::ext3();
        features.compat.remove(Compat::HAS_JOURNAL);
        features
    }

    /// Switches a feature by name. Returns whether the name is known.
    pub fn set(&mut self, name: &str, on: bool) -> bool {
        let name = if name == "extents" { "extent" } else { name };
        let Some((_, feature)) = FEATURES.iter().find(|(known, _)| *known == name) else {
            return false;
        };
        match *feature {
            Feature::Compat(feature) => self.compat.set(feature, on),
            Feature::Incompat(feature) => self.incompat.set(feature, on),
            Feature::RoCompat(feature) => self.ro_compat.set(feature, on),
        }
        true
    }

    /// Whether all metadata has checksums.
    pub(super) fn checksums(self) -> bool {
        self.ro_compat.contains(RoCompat::METADATA_CSUM)
    }

    /// Whether files are mapped by extents.
    pub(super) fn extents(self) -> bool {
        self.incompat.contains(Incompat::EXTENTS)
    }
}

/// Fewest blocks of a group.
pub(super) const MIN_GROUP: u32 = 256;

/// How much room the journal gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum JournalSize {
    /// By the size of the filesystem, as mke2fs does.
    #[default]
    Automatic,
    /// So many MiB; 0 is no journal.
    Mebibytes(u32),
}

bitflags::bitflags! {
    /// Kinds of quotas.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct QuotaTypes: u8 {
        /// Of users.
        const USER = 1;
        /// Of groups.
        const GROUP = 2;
        /// Of projects.
        const PROJECT = 4;
    }
}

/// What the kernel does when it finds something wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u16)]
pub enum OnErrors {
    /// It goes on.
    #[default]
    Continue = 1,
    /// It mounts the filesystem read-only.
    RemountReadOnly = 2,
    /// It panics.
    Panic = 3,
}

/// Options of an ext4 filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Bytes in a block: 1024, 2048 or 4096. Never less than the sector size.
    pub block_size: u32,
    /// Bytes in an inode: a power of two from 128 to the block size.
    pub inode_size: u16,
    /// One inode for so many bytes of the filesystem.
    pub bytes_per_inode: u32,
    /// Number of inodes, in place of `bytes_per_inode`.
    ///
    /// Without it there are always enough for the tree.
    pub inodes: Option<u32>,
    /// Size of the journal.
    pub journal: JournalSize,
    /// Label, at most 16 bytes.
    pub label: String,
    /// UUID, big-endian as printed.
    pub uuid: [u8; 16],
    /// Seed of directory hashes.
    pub hash_seed: [u8; 16],
    /// Blocks kept for root, in hundredths of a percent.
    pub reserved: u32,
    /// Number of blocks up to which the mounted filesystem can grow; `None` is
    /// 1024 times its size.
    pub max_online_resize: Option<u64>,
    /// Features.
    pub features: Features,
    /// Whether the journal has checksums of version 3 from the start; the kernel
    /// otherwise adds them when it first mounts a filesystem with metadata_csum.
    pub journal_checksums: bool,
    /// Quotas that the feature `quota` keeps; `None` is users and groups, and
    /// projects with the feature `project`.
    pub quota_types: Option<QuotaTypes>,
    /// What the kernel does about errors.
    pub on_errors: OnErrors,
    /// Where it was last mounted, at most 63 bytes.
    pub last_mounted: String,
    /// Mount options that are always used, at most 63 bytes.
    pub mount_options: String,
    /// Groups whose metadata is stored together, a power of two.
    pub groups_per_flex: u32,
    /// Blocks of a group; `None` is as many as the block of its bitmap has bits, or
    /// what the number of inodes allows.
    pub blocks_per_group: Option<u32>,
    /// Blocks of a RAID that are on one disk before the next disk's turn.
    pub stride: u16,
    /// Blocks of data in a stripe of a RAID.
    pub stripe_width: u32,
    /// Owner and group of the root directory, in place of the tree's.
    pub root_owner: Option<(u32, u32)>,
    /// SELinux label of a `lost+found` that the tree does not have, with its final
    /// zero.
    pub lost_found_label: Option<Arc<[u8]>>,
    /// When it was made.
    pub timestamp: Timestamp,
}

impl Options {
    /// What mke2fs does on Debian 12, but always with blocks of 4096 bytes; the
    /// hash seed derives from the UUID.
    pub fn new(uuid: [u8; 16]) -> Self {
        let seed = uuid::Uuid::new_v5(&uuid::Uuid::from_bytes(uuid), b"ext4 directory hash seed");
        Self {
            block_size: 4096,
            inode_size: 256,
            bytes_per_inode: 16384,
            inodes: None,
            journal: JournalSize::Automatic,
            label: String::new(),
            uuid,
            hash_seed: seed.into_bytes(),
            reserved: 500,
            max_online_resize: None,
            features: Features::default(),
            journal_checksums: false,
            quota_types: None,
            on_errors: OnErrors::Continue,
            last_mounted: String::new(),
            mount_options: String::new(),
            groups_per_flex: 16,
            blocks_per_group: None,
            stride: 0,
            stripe_width: 0,
            root_owner: None,
            lost_found_label: None,
            timestamp: Timestamp::default(),
        }
    }

    /// Checks that the options make sense together.
    pub(super) fn check(&self) -> Result<(), Error> {
        let bad = |option: String, reason: &str| {
            Err(Error::BadOption {
                option,
                reason: reason.to_owned(),
            })
        };
        if !matches!(self.block_size, 1024 | 2048 | 4096) {
            return bad(
                format!("-b {}", self.block_size),
                "blocks have 1024, 2048 or 4096 bytes",
            );
        }
        if !self.inode_size.is_power_of_two()
            || self.inode_size < 128
            || u32::from(self.inode_size) > self.block_size
        {
            return bad(
                format!("-I {}", self.inode_size),
                "the inode size is a power of two from 128 to the block size",
            );
        }
        if self.bytes_per_inode < 1024 || self.bytes_per_inode > 64 << 20 {
            return bad(
                format!("-i {}", self.bytes_per_inode),
                "the ratio is 1024 to 67108864",
            );
        }
        if self.inodes.is_none() && self.bytes_per_inode <= u32::from(self.inode_size) {
            return bad(
                format!("-i {}", self.bytes_per_inode),
                "inodes alone would take all of the filesystem; give a larger ratio, or smaller inodes with `-I`",
            );
        }
        if let Some(blocks) = self.blocks_per_group
            && (blocks % 8 != 0 || !(MIN_GROUP..=8 * self.block_size).contains(&blocks))
        {
            return bad(
                format!("-g {blocks}"),
                "the blocks of a group are a multiple of 8, from 256 to 8 times the block size",
            );
        }
        if self.label.len() > 16 {
            return bad(format!("-L {}", self.label), "a label has at most 16 bytes");
        }
        if self.reserved > 5000 {
            return bad(
                format!("-m {}", self.reserved / 100),
                "at most 50 percent can be reserved",
            );
        }
        let Features {
            compat,
            incompat,
            ro_compat,
        } = self.normalised().features;
        for (option, text) in [
            ("-M", &self.last_mounted),
            ("-E mount_opts", &self.mount_options),
        ] {
            if text.len() > 63 {
                return bad(format!("{option} {text}"), "it has at most 63 bytes");
            }
        }
        if !self.groups_per_flex.is_power_of_two() {
            return bad(
                format!("-G {}", self.groups_per_flex),
                "the number of groups is a power of two",
            );
        }
        if incompat.contains(Incompat::CSUM_SEED) && !self.features.checksums() {
            return bad("-O metadata_csum_seed".to_owned(), "it needs metadata_csum");
        }
        if compat.contains(Compat::ORPHAN_FILE) && !compat.contains(Compat::HAS_JOURNAL) {
            return bad("-O orphan_file".to_owned(), "it needs a journal");
        }
        if ro_compat.contains(RoCompat::PROJECT) && self.inode_size == 128 {
            return bad("-O project".to_owned(), "it needs inodes of 256 bytes");
        }
        let types = self.quota_types.unwrap_or(QuotaTypes::empty());
        if types.contains(QuotaTypes::PROJECT) && !ro_compat.contains(RoCompat::PROJECT) {
            return bad(
                "-E quotatype=prjquota".to_owned(),
                "it needs the feature project; add `-O project`",
            );
        }
        if incompat.contains(Incompat::BIT64) && !incompat.contains(Incompat::EXTENTS) {
            return bad("-O ^extent".to_owned(), "64bit needs extents; add `^64bit`");
        }
        if compat.contains(Compat::RESIZE_INODE) && !ro_compat.contains(RoCompat::SPARSE_SUPER) {
            return bad(
                "-O ^sparse_super".to_owned(),
                "resize_inode needs it; add `^resize_inode`, and leave out `-E resize`",
            );
        }
        Ok(())
    }

    /// Bytes that an inode has behind its fields.
    pub(super) fn inode_room(&self) -> usize {
        let fields = BASE_INODE_SIZE + EXTRA_ISIZE;
        usize::from(self.inode_size.saturating_sub(fields))
    }

    /// Bytes in a block, as a count.
    pub(super) fn block(&self) -> u64 {
        u64::from(self.block_size)
    }

    /// The same with features that depend on each other made consistent.
    pub(super) fn normalised(&self) -> Self {
        let mut options = self.clone();
        if options.max_online_resize.is_some() {
            // As with mke2fs, where the limit counts more than `-O ^resize_inode`.
            options.features.compat.insert(Compat::RESIZE_INODE);
        }
        if options.inode_size == 128 {
            // It means nothing for small inodes; mke2fs leaves it.
            options.features.ro_compat.remove(RoCompat::EXTRA_ISIZE);
        }
        if options.journal == JournalSize::Mebibytes(0) {
            let journal = Compat::HAS_JOURNAL | Compat::ORPHAN_FILE;
            options.features.compat.remove(journal);
        }
        options
    }
}
