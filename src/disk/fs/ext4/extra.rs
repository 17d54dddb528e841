//! Inodes that the tree does not have: the orphan file, values of attributes that
//! are too large for a block, and the projects' quota file. Their numbers follow
//! those of the tree.

use std::collections::HashMap;
use std::sync::Arc;

use zerocopy::IntoBytes as _;

use super::Error;
use super::alloc::Allocator;
use super::attributes::describe;
use super::format::{Compat, FIRST_INODE, Incompat, ORPHAN_BLOCK_MAGIC, OrphanBlockTail};
use super::layout::Layout;
use super::mapping::Run;
use super::options::Options;
use super::quota;
use super::units::{InodeNo, count, index, low32};
use super::xattr::{self, External};
use crate::tree::Tree;

/// Blocks of the orphan file, the least that e2fsprogs give it. The kernel goes on
/// with a list of its own when it is full.
const ORPHAN_BLOCKS: usize = 32;

/// An inode that the tree does not have.
#[derive(Debug)]
pub(super) struct Extra {
    pub(super) runs: Vec<Run>,
    /// For the value of an attribute.
    pub(super) value: Option<Value>,
}

/// The value of an attribute.
#[derive(Debug, Clone, Copy)]
pub(super) struct Value {
    pub(super) size: u64,
    pub(super) checksum: u32,
    /// Attributes that have it.
    pub(super) references: u64,
}

/// Values that become inodes, each once.
#[derive(Debug, Default)]
pub(super) struct Values {
    order: Vec<Box<[u8]>>,
    index: HashMap<Box<[u8]>, usize>,
}

impl Values {
    /// Finds them.
    pub(super) fn find(tree: &Tree, options: &Options) -> Result<Values, Error> {
        let mut values = Values::default();
        if !options.features.incompat.contains(Incompat::EA_INODE) {
            return Ok(values);
        }
        let mut seen = std::collections::HashSet::new();
        for (id, inode) in tree.inodes() {
            let Some(set) = &inode.xattrs else { continue };
            if !seen.insert(Arc::as_ptr(set).addr()) {
                continue;
            }
            let room = options.inode_room();
            let found = xattr::external_values(set, room, index(options.block_size))
                .map_err(|problem| describe(tree, id, problem))?;
            for value in found {
                if !values.index.contains_key(&value) {
                    values.index.insert(value.clone(), values.order.len());
                    values.order.push(value);
                }
            }
        }
        Ok(values)
    }

    /// Inodes that all of this needs.
    pub(super) fn inodes(&self, options: &Options) -> u64 {
        count(self.order.len())
            + u64::from(has_orphan_file(options))
            + u64::from(quota::has_project_file(options))
    }
}

fn has_orphan_file(options: &Options) -> bool {
    options.features.compat.contains(Compat::ORPHAN_FILE)
}

impl Layout {
    /// Number of the first inode that the tree does not have.
    fn first_extra(&self) -> u64 {
        u64::from(FIRST_INODE) + 1 + count(self.order.len())
    }

    /// The orphan file; it is the first of the extra inodes.
    pub(super) fn orphan_inode(&self) -> Option<InodeNo> {
        has_orphan_file(&self.options).then(|| InodeNo(low32(self.first_extra())))
    }

    /// The extra inode with this number.
    pub(super) fn extra(&self, number: InodeNo) -> Option<&Extra> {
        let at = u64::from(number.0).checked_sub(self.first_extra())?;
        self.extras.get(index(at))
    }

    fn value_number(&self, at: usize) -> InodeNo {
        let first = self.first_extra() + u64::from(has_orphan_file(&self.options));
        InodeNo(low32(first + count(at)))
    }

    /// Number of the last inode in use, the projects' quota file if there is one.
    pub(super) fn last_extra(&self) -> InodeNo {
        InodeNo(low32(self.inodes_in_use()))
    }

    /// The inode of a value.
    pub(super) fn external(&self, value: &[u8]) -> External {
        let at = self.values.index.get(value).copied().unwrap_or_default();
        External {
            inode: self.value_number(at),
            checksum: self.value_checksums.value(value),
        }
    }

    /// Stores them; `references` says how many attributes refer to each value.
    pub(super) fn place_extras(
        &mut self,
        references: &HashMap<InodeNo, u64>,
        allocator: &mut Allocator,
    ) {
        if let Some(number) = self.orphan_inode() {
            let block_size = index(self.options.block_size);
            let runs = self.store(&vec![0; ORPHAN_BLOCKS * block_size], allocator);
            let blocks: Vec<_> = runs
                .iter()
                .flat_map(|run| (0..run.length).map(|step| run.physical.plus(u64::from(step))))
                .collect();
            let first = self.arena.len() - blocks.len();
            for (slot, block) in (first..).zip(blocks) {
                let checksums = self.checksums;
                let bytes = self.arena.bytes_mut(slot);
                let (list, tail) = bytes.split_at_mut(block_size - size_of::<OrphanBlockTail>());
                let sum = checksums.map_or(0, |sums| sums.orphan_block(number, block, list));
                let fields = OrphanBlockTail {
                    ob_magic: ORPHAN_BLOCK_MAGIC.into(),
                    ob_checksum: sum.into(),
                };
                tail.copy_from_slice(fields.as_bytes());
            }
            self.map(number, &runs, allocator);
            self.extras.push(Extra { runs, value: None });
        }
        let values = std::mem::take(&mut self.values);
        for (at, bytes) in values.order.iter().enumerate() {
            let number = self.value_number(at);
            let runs = self.store(bytes, allocator);
            self.map(number, &runs, allocator);
            let value = Value {
                size: count(bytes.len()),
                checksum: self.value_checksums.value(bytes),
                references: references.get(&number).copied().unwrap_or_default(),
            };
            self.extras.push(Extra {
                runs,
                value: Some(value),
            });
        }
        self.values = values;
    }
}
