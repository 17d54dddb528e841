//! Why a filesystem cannot be planned.

use std::path::PathBuf;

/// A failure to plan an ext4 filesystem. Sizes are in bytes unless named
/// otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The files do not fit.
    #[error(
        "the files need an ext4 filesystem of at least {}, but it would have {}",
        at_least(*least), at_most(*given)
    )]
    TooSmall {
        /// Smallest size that would do.
        least: u64,
        /// Smallest size that would do with the journal that it should have, which a small one
        /// goes without if that leaves no room.
        needed: u64,
        /// Size asked for.
        given: u64,
    },
    /// The filesystem would be larger than the block numbers allow.
    #[error("an ext4 filesystem of {} MiB with blocks of {block_size} bytes is not possible: the limit is {} MiB",
        mib_up(*given), mib_down(*limit))]
    TooLarge {
        /// Size asked for.
        given: u64,
        /// Largest size with these options.
        limit: u64,
        /// Bytes in a block.
        block_size: u32,
    },
    /// More files than inodes were asked for, or than are possible.
    #[error(
        "the tree needs {needed} inodes, but the filesystem has {given}; give more with `-N`, or a smaller ratio with `-i`"
    )]
    TooFewInodes {
        /// Inodes needed, with the reserved ones.
        needed: u64,
        /// Inodes there are.
        given: u64,
    },
    /// More inodes were asked for than there is room for.
    #[error(
        "the {inodes} inodes that `{option}` asks for leave no room for files in an ext4 filesystem of {} MiB; ask for fewer, or make it larger", mib_down(*given)
    )]
    TooManyInodes {
        /// The option with its value.
        option: String,
        /// Inodes asked for.
        inodes: u64,
        /// Smallest size that would do, if it is known.
        needed: Option<u64>,
        /// Size of the filesystem.
        given: u64,
    },
    /// An option's value is not possible.
    #[error("the ext4 option `{option}` is not usable: {reason}")]
    BadOption {
        /// The option with its value.
        option: String,
        /// What is wrong.
        reason: String,
    },
    /// An option of mke2fs that kiln does not know.
    #[error(
        "kiln's ext4 writer does not support `{option}`; it knows -b, -e, -g, -i, -I, -G, -M, -N, -m, -L, -U, -J size=, -O [^]FEATURE and of -E hash_seed, mount_opts, quotatype, resize, root_owner, stride and stripe_width"
    )]
    UnsupportedOption {
        /// The option with its value.
        option: String,
    },
    /// A file with more names than ext4 allows.
    #[error("`{}` has {links} hard links, but ext4 allows at most {limit}; copy it instead of linking it", path.display())]
    TooManyLinks {
        /// One of its names.
        path: PathBuf,
        /// Names it has.
        links: u32,
        /// Names it may have.
        limit: u32,
    },
    /// A directory with more subdirectories than can be counted.
    #[error("`{}` has {subdirectories} subdirectories, but without the feature `dir_nlink` ext4 allows at most {limit}; add `-O dir_nlink`", path.display())]
    TooManySubdirectories {
        /// The directory.
        path: PathBuf,
        /// Subdirectories it has.
        subdirectories: u32,
        /// Subdirectories it may have.
        limit: u32,
    },
    /// A file that is too long for the filesystem's block size.
    #[error("`{}` has {size} bytes, but with these options ext4 allows at most {limit}", path.display())]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        size: u64,
        /// Largest length.
        limit: u64,
    },
    /// A directory with more entries than an index of two levels holds.
    #[error("`{}` has too many entries ({entries}) for an ext4 directory with this block size; larger blocks (`-b 4096`) or `-O large_dir` allow more", path.display())]
    DirectoryTooLarge {
        /// The directory.
        path: PathBuf,
        /// Its entries.
        entries: usize,
    },
    /// A symbolic link's target that does not fit into a block.
    #[error("the target of the symbolic link `{}` has {length} bytes, but with blocks of {block_size} bytes ext4 allows {}; use larger blocks (`-b 4096`)", path.display(), block_size - 1)]
    SymlinkTooLong {
        /// The link.
        path: PathBuf,
        /// Length of its target.
        length: usize,
        /// Bytes in a block.
        block_size: u32,
    },
    /// A device number that ext4 cannot store.
    #[error("`{}` has the device number {major}:{minor}, but ext4 stores at most 4095:1048575", path.display())]
    DeviceNumber {
        /// The device node.
        path: PathBuf,
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// An extended attribute in a namespace that ext4 does not have.
    #[error("`{}` has the extended attribute `{name}`, which ext4 cannot store: {reason}", path.display())]
    Xattr {
        /// The file.
        path: PathBuf,
        /// The attribute.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file with more extended attributes than fit.
    #[error("the extended attributes of `{}` need {needed} bytes, but ext4 has room for {limit}; the option `-O ea_inode` gives large ones inodes of their own", path.display())]
    XattrsTooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes needed in the attribute block.
        needed: usize,
        /// Bytes that a block has.
        limit: usize,
    },
    /// A file whose attributes do not fit even with `ea_inode`.
    #[error("the names of the extended attributes of `{}` need {needed} bytes, but ext4 has room for {limit}, whatever becomes of the values; use larger blocks, or remove some", path.display())]
    XattrNamesTooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes needed in the attribute block.
        needed: usize,
        /// Bytes that a block has.
        limit: usize,
    },
    /// `/lost+found` is something that e2fsck would move away.
    #[error("`/lost+found` is not a directory; ext4 needs one there")]
    LostFound,
}

const MIB: u64 = 1 << 20;

fn mib_up(bytes: u64) -> u64 {
    bytes.div_ceil(MIB)
}

fn mib_down(bytes: u64) -> u64 {
    bytes / MIB
}

/// Where a MiB more or less is no detail, sizes are in KiB.
const FINE: u64 = 10 * MIB;

/// A size that is enough, rounded up.
fn at_least(bytes: u64) -> String {
    if bytes < FINE {
        format!("{} KiB", bytes.div_ceil(1024))
    } else {
        format!("{} MiB", mib_up(bytes))
    }
}

/// A size that is there, rounded down.
fn at_most(bytes: u64) -> String {
    if bytes < FINE {
        format!("{} KiB", bytes / 1024)
    } else {
        format!("{} MiB", mib_down(bytes))
    }
}
