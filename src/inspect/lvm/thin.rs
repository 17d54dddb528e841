//! Which parts of a thin volume are where, by the metadata of its pool.
//!
//! See [`crate::disk::lvm::thin`] for what that consists of. Only what was committed
//! last is read, as the kernel would read it.

use zerocopy::FromBytes as _;
use zerocopy::little_endian::U64;

use crate::disk::lvm::format::SECTOR;
use crate::disk::lvm::thin::format::{
    BLOCK, INTERNAL, LEAF, MAGIC, NODE_XOR, NodeHeader, SUPERBLOCK_XOR, Superblock,
};
use crate::inspect::Volume;
use crate::inspect::mapping::{Budget, Mapping};

/// Levels of a tree, more than any pool needs.
const MAX_LEVELS: usize = 16;
/// Largest chunk of a pool in bytes, and smallest.
const CHUNKS: std::ops::RangeInclusive<u64> = 64 << 10..=1 << 30;

/// Where the first `length` bytes of a volume of a pool are on the disk: `data` is
/// where the pool's data is.
pub(super) fn read(
    metadata: &Volume<'_>,
    data: &Mapping,
    device: u64,
    length: u64,
    budget: &mut Budget,
) -> Result<Mapping, &'static str> {
    let bytes = block(metadata, 0, SUPERBLOCK_XOR)?;
    let superblock = Superblock::read_from_prefix(&bytes);
    let Ok((superblock, _)) = superblock else {
        return Err("its superblock is cut off");
    };
    if superblock.magic.get() != MAGIC || !(1..=2).contains(&superblock.version.get()) {
        return Err("its superblock is not one");
    }
    if superblock.incompat_flags.get() != 0 {
        return Err("it has features that kiln does not know");
    }
    let chunk = u64::from(superblock.data_block_size.get()) * SECTOR;
    if !CHUNKS.contains(&chunk) {
        return Err("the size of its chunks is impossible");
    }
    let mut root = None;
    let mut devices = Tree::new(metadata, |key, value| {
        if key == device {
            root = Some(value);
        }
        Ok(())
    });
    devices.walk(superblock.data_mapping_root.get(), 0)?;
    let Some(root) = root else {
        return Err("it does not have this volume");
    };
    let mut mapping = Mapping::empty(length);
    let mut chunks = Tree::new(metadata, |key, value| {
        let Some(start) = key.checked_mul(chunk).filter(|&start| start < length) else {
            // Behind the end of a volume that was made smaller.
            return Ok(());
        };
        // The lower bits are the time of the last snapshot.
        let from = (value >> 24).checked_mul(chunk);
        let part = from.and_then(|from| {
            let here = chunk
                .min(length - start)
                .min(data.length().checked_sub(from)?);
            mapping.push_part(start, data, from, here, budget).ok()
        });
        part.ok_or("a chunk of the volume is not in it")
    });
    chunks.walk(root, 0)?;
    Ok(mapping)
}

/// A block of the metadata, if its checksum is right.
fn block(metadata: &Volume<'_>, number: u64, xor: u32) -> Result<Vec<u8>, &'static str> {
    let at = number
        .checked_mul(BLOCK as u64)
        .ok_or("a block is missing")?;
    let bytes = metadata
        .bytes(at, BLOCK as u64)
        .map_err(|_| "a block is missing")?;
    let sum = !crc32c::crc32c(&bytes[4..]) ^ xor;
    if bytes[..4] != sum.to_le_bytes() {
        return Err("a block has a wrong checksum");
    }
    Ok(bytes)
}

/// A walk over a tree in the order of its keys.
struct Tree<'m, 'v, F> {
    metadata: &'m Volume<'v>,
    each: F,
    /// The least key that may come next: a tree that leads to one node twice is
    /// found out.
    next: Option<u64>,
}

impl<'m, 'v, F: FnMut(u64, u64) -> Result<(), &'static str>> Tree<'m, 'v, F> {
    fn new(metadata: &'m Volume<'v>, each: F) -> Tree<'m, 'v, F> {
        Tree {
            metadata,
            each,
            next: Some(0),
        }
    }

    fn walk(&mut self, number: u64, depth: usize) -> Result<(), &'static str> {
        if depth > MAX_LEVELS {
            return Err("a tree is too deep");
        }
        let bytes = block(self.metadata, number, NODE_XOR)?;
        let Ok((header, rest)) = NodeHeader::read_from_prefix(&bytes) else {
            return Err("a node is cut off");
        };
        let used = usize::try_from(header.nr_entries.get()).unwrap_or(usize::MAX);
        let most = usize::try_from(header.max_entries.get()).unwrap_or(usize::MAX);
        let (words, _) = rest.as_chunks::<8>();
        let fits = most.checked_mul(2).is_some_and(|both| both <= words.len());
        if header.blocknr.get() != number || header.value_size.get() != 8 || used > most || !fits {
            return Err("a node is not one");
        }
        let (keys, values) = words.split_at(most);
        let pairs = keys
            .iter()
            .zip(values)
            .take(used)
            .map(|(key, value)| (U64::from_bytes(*key).get(), U64::from_bytes(*value).get()));
        match header.flags.get() {
            LEAF => {
                for (key, value) in pairs {
                    if self.next.is_none_or(|next| key < next) {
                        return Err("the keys of a tree are out of order");
                    }
                    self.next = key.checked_add(1);
                    (self.each)(key, value)?;
                }
            }
            INTERNAL => {
                for (_, child) in pairs {
                    let before = self.next;
                    self.walk(child, depth + 1)?;
                    if self.next == before {
                        return Err("a node has nothing below it");
                    }
                }
            }
            _ => return Err("a node is not one"),
        }
        Ok(())
    }
}
