//! The ext4 writer.
//!
//! [`plan`] turns a tree into a [`Volume`]: it decides where every block goes,
//! but reads no file and writes nothing. ext4 has no checksums over file data,
//! so all but the data is known then. Inode tables, bitmaps and small
//! directories are computed when they are written; large directories, extent
//! trees and attribute blocks are in memory; data is fetched from the files.
//!
//! What comes out has no gaps: metadata first, then files in the order of their
//! paths, each contiguous but for the groups' own metadata. The same tree and
//! options always give the same bytes.
//!
//! | module | is |
//! |---|---|
//! | [`format`] | on-disk structures, shared with readers |
//! | `options`, `mkfs` | what is wanted, as data and as mke2fs options |
//! | `geometry` | groups and where their metadata is |
//! | `layout` | where everything else is |
//! | `attributes` | where attributes are |
//! | `mapping`, `directory`, `hash`, `xattr`, `inode`, `extra`, `quota`, `resize`, `superblock` | the bytes of each |
//! | `generated` | what is computed while it is written |

use std::sync::Arc;

use zerocopy::IntoBytes as _;

use crate::disk::{Extent, Source, Volume};
use crate::tree::{Kind, Tree};

mod alloc;
mod attributes;
mod checksum;
mod directory;
mod error;
mod extra;
pub mod format;
mod generated;
mod geometry;
mod hash;
mod inode;
mod layout;
mod mapping;
mod mkfs;
mod options;
mod quota;
mod resize;
mod superblock;
#[cfg(test)]
mod tests;
pub mod units;
mod xattr;

pub use error::Error;
pub use options::{Features, JournalSize, OnErrors, Options, QuotaTypes};

use format::{GroupFlags, SUPERBLOCK_OFFSET};
use generated::{Generated, Part};
use layout::Layout;
use mapping::Run;
use units::{FsBlock, GroupNo, count};

/// Plans a filesystem of `size` bytes (rounded down to whole blocks) that
/// contains the tree.
///
/// # Errors
///
/// [`Error::TooSmall`] says how much would be needed. Other errors name a file
/// that ext4 cannot store, or an option that is not usable.
pub fn plan(tree: &Arc<Tree>, options: &Options, size: u64) -> Result<Volume, Error> {
    options.check()?;
    let blocks = size / options.block();
    if let Some(most) = options.max_online_resize.filter(|&most| most < blocks) {
        return Err(Error::BadOption {
            option: format!("-E resize={most}"),
            reason: format!(
                "the filesystem has {blocks} blocks already, of {} bytes",
                options.block()
            ),
        });
    }
    let too_small = |needed| Error::TooSmall {
        least: least_without_journal(tree, options).map_or(needed, |least| least.min(needed)),
        needed,
        given: size,
    };
    let layout = match Layout::new(tree, options, blocks) {
        Ok(layout) if layout.needed() <= layout.geometry.blocks => layout,
        Ok(_) => match without_small_journal(tree, options, blocks) {
            Some(layout) => layout,
            None => return Err(too_small(minimum_size(tree, options)?)),
        },
        // A filesystem too small for its files is also too small for its inodes.
        Err(error @ Error::TooFewInodes { .. }) if options.inodes.is_none() => {
            let needed = minimum_size(tree, options)?;
            return Err(if needed > size {
                too_small(needed)
            } else {
                error
            });
        }
        Err(Error::TooManyInodes { option, inodes, .. }) => {
            return Err(Error::TooManyInodes {
                option,
                inodes,
                needed: minimum_size(tree, options).ok(),
                given: size,
            });
        }
        Err(error) => return Err(error),
    };
    Ok(volume(layout, size))
}

/// A small filesystem gets no journal, as a still smaller one, if nobody asked for
/// one and it would not fit.
fn without_small_journal(tree: &Arc<Tree>, options: &Options, blocks: u64) -> Option<Layout> {
    if options.journal != JournalSize::Automatic || blocks >= geometry::SMALL {
        return None;
    }
    let mut options = options.clone();
    options.journal = JournalSize::Mebibytes(0);
    let layout = Layout::new(tree, &options, blocks).ok()?;
    (layout.needed() <= layout.geometry.blocks).then_some(layout)
}

/// The smallest size in bytes of a filesystem that goes without a journal by itself.
fn least_without_journal(tree: &Arc<Tree>, options: &Options) -> Option<u64> {
    if options.journal != JournalSize::Automatic {
        return None;
    }
    let mut options = options.clone();
    options.journal = JournalSize::Mebibytes(0);
    let least = minimum_size(tree, &options).ok()?;
    (least / options.block() < geometry::SMALL).then_some(least)
}

/// The smallest size in bytes with which [`plan`] succeeds and makes a journal, if there is
/// to be one.
///
/// It grows with the size itself (inode tables, journal), so it is found by
/// laying out again until the size suffices.
pub fn minimum_size(tree: &Arc<Tree>, options: &Options) -> Result<u64, Error> {
    options.check()?;
    let mut blocks = 8;
    loop {
        let needed = match Layout::new(tree, options, blocks) {
            Ok(layout) if layout.needed() <= layout.geometry.blocks => {
                return Ok(layout.geometry.blocks.max(blocks) * options.block());
            }
            Ok(layout) if layout.needed() <= blocks => layout.geometry.next_size(),
            Ok(layout) => layout.needed(),
            // Groups have a limited number of inodes: start one more.
            Err(Error::TooFewInodes { needed, .. }) if options.inodes.is_none() => {
                let per_group = 8 * options.block();
                let groups = (needed / per_group).max(blocks / per_group + 1);
                groups.saturating_mul(per_group)
            }
            // So many inodes need no more than a filesystem that is large enough.
            Err(Error::TooManyInodes { inodes, .. }) if options.inodes.is_some() => {
                let tables = inodes.saturating_mul(u64::from(options.inode_size)) / options.block();
                tables.max(blocks.saturating_add(blocks / 8))
            }
            Err(error) => return Err(error),
        };
        blocks = needed.max(blocks.saturating_add(1));
    }
}

/// Collects the extents of a filesystem.
struct Extents {
    block_size: u64,
    list: Vec<Extent>,
}

impl Extents {
    fn add(&mut self, block: FsBlock, length: u64, source: Source) {
        if length > 0 {
            self.list.push(Extent {
                offset: block.0 * self.block_size,
                length,
                source,
            });
        }
    }
}

fn volume(mut layout: Layout, size: u64) -> Volume {
    let groups = superblock::groups(&layout);
    let (metadata, pieces) = layout.take_arena().into_pieces();
    let metadata: Arc<[u8]> = metadata.into();
    let layout = Arc::new(layout);
    let geometry = &layout.geometry;
    let block_size = u64::from(geometry.block_size);
    let mut extents = Extents {
        block_size,
        list: Vec::new(),
    };

    for (block, start, length) in pieces {
        extents.add(
            block,
            length,
            Source::Bytes {
                bytes: Arc::clone(&metadata),
                start,
            },
        );
    }
    superblocks(&layout, &groups, &mut extents);

    let part = |part| {
        Arc::new(Generated {
            layout: Arc::clone(&layout),
            part,
        })
    };
    let tables = part(Part::InodeTables);
    let block_bitmaps = part(Part::BlockBitmaps);
    let inode_bitmaps = part(Part::InodeBitmaps);
    let inode_size = u64::from(layout.options.inode_size);
    for (number, (places, flags)) in (0..).zip(geometry.places.iter().zip(&groups.flags)) {
        let group = GroupNo(number);
        let at = u64::from(number) * block_size;
        if !flags.contains(GroupFlags::BLOCK_UNINIT) {
            let source = Source::Rendered {
                by: block_bitmaps.clone(),
                offset: at,
            };
            extents.add(places.block_bitmap, block_size, source);
        }
        if !flags.contains(GroupFlags::INODE_UNINIT) {
            let source = Source::Rendered {
                by: inode_bitmaps.clone(),
                offset: at,
            };
            extents.add(places.inode_bitmap, block_size, source);
        }
        let used = (u64::from(layout.used_inodes(group)) * inode_size).next_multiple_of(block_size);
        let offset = u64::from(number) * u64::from(geometry.inodes_per_group) * inode_size;
        extents.add(
            places.inode_table,
            used,
            Source::Rendered {
                by: tables.clone(),
                offset,
            },
        );
    }
    let directories = part(Part::SmallDirectories);
    for run in &layout.small_directory_runs {
        let offset = u64::from(run.logical) * block_size;
        let length = u64::from(run.length) * block_size;
        extents.add(
            run.physical,
            length,
            Source::Rendered {
                by: directories.clone(),
                offset,
            },
        );
    }
    if let Some(block) = layout.resize_block {
        let resize = part(Part::Resize);
        let kept = u64::from(geometry.reserved_descriptor_blocks) * block_size;
        let source = Source::Rendered {
            by: resize.clone(),
            offset: 0,
        };
        extents.add(resize::first_kept(&layout), kept, source);
        extents.add(
            block,
            block_size,
            Source::Rendered {
                by: resize,
                offset: kept,
            },
        );
    }
    if let Some(run) = layout.journal.first() {
        let bytes: Arc<[u8]> = superblock::journal_superblock(&layout).as_bytes().into();
        let length = count(bytes.len());
        extents.add(run.physical, length, Source::Bytes { bytes, start: 0 });
    }
    files(&layout, &mut extents);

    let Extents { mut list, .. } = extents;
    // Files are in order already; a stable sort takes their run as it is.
    list.sort_by_key(|extent| extent.offset);
    debug_assert!(list.is_sorted_by(|a, b| a.offset + a.length <= b.offset));
    Volume {
        length: size,
        extents: list,
    }
}

/// Adds the superblock and the descriptors, and their backups.
fn superblocks(layout: &Layout, groups: &superblock::Groups, extents: &mut Extents) {
    let geometry = &layout.geometry;
    let table: Arc<[u8]> = groups.table.as_slice().into();
    for group in std::iter::once(GroupNo(0)).chain(geometry.backups()) {
        let sb = superblock::superblock(layout, groups, group);
        let bytes: Arc<[u8]> = sb.as_bytes().into();
        let start = geometry.group_start(group);
        let mut offset = start * extents.block_size;
        if offset < SUPERBLOCK_OFFSET {
            // The boot sector is before it.
            offset = SUPERBLOCK_OFFSET;
        }
        let source = Source::Bytes { bytes, start: 0 };
        extents.list.push(Extent {
            offset,
            length: count(size_of::<format::Superblock>()),
            source,
        });
        let source = Source::Bytes {
            bytes: Arc::clone(&table),
            start: 0,
        };
        extents.add(FsBlock(start + 1), count(table.len()), source);
    }
}

/// Adds the data of regular files.
fn files(layout: &Layout, extents: &mut Extents) {
    let block_size = extents.block_size;
    extents.list.reserve(layout.tree.inodes().len());
    for (inode, fields) in layout.tree.inodes() {
        let Kind::File(content) = &fields.kind else {
            continue;
        };
        for &Run {
            logical,
            length,
            physical,
        } in layout.runs_of(inode)
        {
            let offset = u64::from(logical) * block_size;
            // The last block of a file is zero beyond the file's end.
            let length = (u64::from(length) * block_size).min(content.size.saturating_sub(offset));
            let tree = Arc::clone(&layout.tree);
            extents.add(
                physical,
                length,
                Source::File {
                    tree,
                    inode,
                    offset,
                },
            );
        }
    }
}
