//! Gives attributes their places: in the inode, or in blocks that files with the
//! same attributes share.

use std::collections::HashMap;
use std::sync::Arc;

use super::Error;
use super::alloc::Allocator;
use super::format::{Incompat, XATTR_MAX_REFCOUNT};
use super::layout::Layout;
use super::units::{FsBlock, InodeNo, count, index};
use super::xattr::{self, Encoded, Problem};
use crate::tree::{InodeId, Tree};

/// Where attributes are.
#[derive(Debug, Clone, Default)]
pub(super) struct XattrPlace {
    /// What goes behind the inode's fields.
    pub(super) inline: Arc<[u8]>,
    pub(super) block: Option<FsBlock>,
    /// Blocks of values that are inodes of their own.
    pub(super) value_blocks: u64,
    /// Values that are inodes of their own.
    pub(super) values: u64,
}

/// Places attributes so that equal blocks are stored once.
#[derive(Default)]
pub(super) struct XattrPlacer {
    /// By the address of a set, which the tree keeps alive.
    encoded: HashMap<usize, Arc<Encoded>>,
    /// Place of a set, by the address of its encoded form.
    places: HashMap<usize, u32>,
    /// The block in use for these bytes.
    blocks: HashMap<Box<[u8]>, Shared>,
    /// Blocks with as many users as there may be, and how many that is.
    full: Vec<Shared>,
    /// Blocks that refer to each inode that is a value.
    references: HashMap<InodeNo, u64>,
}

#[derive(Clone, Copy)]
struct Shared {
    slot: usize,
    block: FsBlock,
    users: u32,
}

impl XattrPlacer {
    /// Places the attributes of an inode; returns the index of their place.
    pub(super) fn place(
        &mut self,
        layout: &mut Layout,
        set: &Arc<crate::tree::Xattrs>,
        id: InodeId,
        allocator: &mut Allocator,
    ) -> Result<u32, Error> {
        let key = Arc::as_ptr(set).addr();
        let features = layout.options.features;
        let external = features.incompat.contains(Incompat::EA_INODE);
        let encoded = match self.encoded.get(&key) {
            Some(encoded) => Arc::clone(encoded),
            None => {
                let encoded = xattr::encode(
                    set,
                    layout.options.inode_room(),
                    index(layout.options.block_size),
                    external.then_some(&|value: &[u8]| layout.external(value)),
                )
                .map_err(|problem| describe(&layout.tree, id, problem))?;
                let encoded = Arc::new(encoded);
                self.encoded.insert(key, Arc::clone(&encoded));
                encoded
            }
        };
        let mut block = None;
        let mut fresh = false;
        if let Some(bytes) = &encoded.block {
            let shared = match self.blocks.get_mut(bytes) {
                Some(shared) if shared.users < XATTR_MAX_REFCOUNT => shared,
                _ => {
                    fresh = true;
                    for &value in &encoded.values {
                        *self.references.entry(value).or_default() += 1;
                    }
                    let place = layout.arena.block(allocator);
                    layout.arena.bytes_mut(place.slot).copy_from_slice(bytes);
                    let shared = Shared {
                        slot: place.slot,
                        block: place.block,
                        users: 0,
                    };
                    if let Some(full) = self.blocks.insert(bytes.clone(), shared) {
                        self.full.push(full);
                    }
                    match self.blocks.get_mut(bytes) {
                        Some(shared) => shared,
                        None => return Ok(0),
                    }
                }
            };
            shared.users += 1;
            block = Some(shared.block);
        }
        let known = Arc::as_ptr(&encoded).addr();
        match self.places.get(&known) {
            Some(&place) if !fresh && layout.xattrs[index(place)].block == block => Ok(place),
            _ => {
                let place = u32::try_from(layout.xattrs.len()).unwrap_or(u32::MAX);
                layout.xattrs.push(XattrPlace {
                    inline: encoded.inline.as_ref().into(),
                    block,
                    value_blocks: encoded.value_blocks,
                    values: count(encoded.values.len()),
                });
                self.places.insert(known, place);
                Ok(place)
            }
        }
    }

    /// Writes reference counts and checksums; returns how many blocks refer to each
    /// inode that is a value.
    pub(super) fn finish(self, layout: &mut Layout) -> HashMap<InodeNo, u64> {
        for shared in self.full.into_iter().chain(self.blocks.into_values()) {
            let bytes = layout.arena.bytes_mut(shared.slot);
            bytes[4..8].copy_from_slice(&shared.users.to_le_bytes());
            if let Some(checksums) = layout.checksums {
                let sum = checksums.xattr_block(shared.block, bytes);
                bytes[16..20].copy_from_slice(&sum.to_le_bytes());
            }
        }
        self.references
    }
}

/// A problem with the attributes of an inode.
pub(super) fn describe(tree: &Tree, id: InodeId, problem: Problem) -> Error {
    let path = tree.path_of_inode(id);
    match problem {
        Problem::Name { name, reason } => Error::Xattr {
            path,
            name: String::from_utf8_lossy(&name).into_owned(),
            reason,
        },
        Problem::TooLarge { needed, limit } => Error::XattrsTooLarge {
            path,
            needed,
            limit,
        },
        Problem::NamesTooLarge { needed, limit } => Error::XattrNamesTooLarge {
            path,
            needed,
            limit,
        },
    }
}
