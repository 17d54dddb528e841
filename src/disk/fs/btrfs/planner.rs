//! Gives every block of every tree its place.

use std::sync::Arc;

use uuid::Uuid;
use zerocopy::IntoBytes as _;

use super::files::Piece;
use super::format::{
    BLOCK_GROUP_ITEM, BlockGroup, BlockRef, CHUNK_ITEM, CHUNK_TREE, CSUM_TREE, Chunk, DATA,
    DATA_RELOC_TREE, DEV_EXTENT, DEV_ITEM, DEV_TREE, DIR_ITEM, DataRef, DevExtent, Device, DirItem,
    DiskKey, EXTENT_DATA_REF, EXTENT_ITEM, EXTENT_TREE, ExtentItem, FIRST, FS_TREE, GENERATION,
    INCOMPAT, INODE_REF, Key, MAGIC, METADATA, METADATA_ITEM, NODE_SIZE, ROOT_ITEM, ROOT_TREE,
    ROOT_TREE_DIR, RootItem, STRIPE_LEN, SUPER_OFFSETS, SUPER_SIZE, SYSTEM, Superblock,
    TREE_BLOCK_REF, Timespec, name_hash, seal,
};
use super::nodes::{Entry, Identity, Shape};
use super::space::{CHUNK_UNIT, ChunkRange, RESERVED, SYSTEM_LENGTH};
use super::{Error, Options, directory_inode, nodes, space, top_directory};
use crate::disk::{Extent, Source, Volume};
use crate::tree::{Timestamp, Tree};

/// Everything that the trees are made of.
pub(super) struct Planner<'a> {
    pub(super) options: &'a Options,
    pub(super) device: [u8; 16],
    pub(super) identity: Identity,
    /// Bytes of the device.
    pub(super) length: u64,
    /// Trees whose items do not depend on where blocks are.
    pub(super) trees: Vec<(u64, Vec<Entry>)>,
    pub(super) pieces: Vec<Piece>,
    /// Chunks of data.
    pub(super) chunks: Vec<ChunkRange>,
}

/// A tree with its place.
struct Placed {
    owner: u64,
    shape: Shape,
    addresses: Vec<u64>,
}

impl Placed {
    fn root(&self) -> u64 {
        self.addresses.last().copied().unwrap_or(0)
    }

    fn bytes(&self) -> u64 {
        self.addresses.len() as u64 * NODE_SIZE as u64
    }
}

fn shape_of(entries: &[Entry]) -> Shape {
    Shape::of(entries.iter().map(|entry| entry.data.len()))
}

impl Planner<'_> {
    pub(super) fn volume(mut self, tree: &Arc<Tree>) -> Result<Volume, Error> {
        // Sizes of trees that say where others are do not depend on where.
        let mut fixed: Vec<(u64, Shape)> = self
            .trees
            .iter()
            .map(|(owner, entries)| (*owner, shape_of(entries)))
            .collect();
        let nowhere: Vec<Placed> = [EXTENT_TREE, DEV_TREE, FS_TREE, CSUM_TREE, DATA_RELOC_TREE]
            .map(|owner| Placed {
                owner,
                shape: Shape::of([]),
                addresses: Vec::new(),
            })
            .into();
        fixed.push((ROOT_TREE, shape_of(&self.root_items(&nowhere))));
        let metadata_start = self
            .chunks
            .last()
            .map_or(0, |last| last.start + last.length);
        let mut chunks = vec![ChunkRange {
            kind: SYSTEM,
            start: RESERVED,
            length: SYSTEM_LENGTH,
            used: 0,
        }];
        chunks.append(&mut self.chunks);
        chunks.push(ChunkRange {
            kind: METADATA,
            start: metadata_start,
            length: 0,
            used: 0,
        });
        fixed.push((DEV_TREE, shape_of(&self.device_items(&chunks))));
        let chunk_shape = shape_of(&self.chunk_items(&chunks));

        // The tree of extents lists its own blocks: try until it fits itself.
        let other: usize = fixed.iter().map(|(_, shape)| shape.blocks()).sum();
        let mut blocks = 1;
        let extent_shape = loop {
            let nodes = other + blocks + chunk_shape.blocks();
            let lengths = std::iter::repeat_n(EXTENT_LENGTH, self.pieces.len())
                .chain(std::iter::repeat_n(BLOCK_LENGTH, nodes))
                .chain(std::iter::repeat_n(size_of::<BlockGroup>(), chunks.len()));
            // Different items in another order are cut differently: count the
            // most that it can be, all of them at their largest.
            let shape = Shape::of(lengths.map(|_| EXTENT_LENGTH));
            if shape.blocks() <= blocks {
                break blocks;
            }
            blocks = shape.blocks();
        };
        let metadata_blocks = other + extent_shape;
        let used = metadata_blocks as u64 * NODE_SIZE as u64;
        // Half as much again to write to, and the copies of the superblock.
        let length = (used + used / 2 + (16 << 20)).next_multiple_of(CHUNK_UNIT);
        if let Some(chunk) = chunks.last_mut() {
            chunk.length = length;
        }
        let needed = metadata_start + length;
        if needed > self.length {
            return Err(Error::TooSmall {
                needed,
                given: self.length,
            });
        }
        self.finish(tree, chunks, fixed, chunk_shape)
    }

    /// Places all trees and renders them.
    fn finish(
        self,
        tree: &Arc<Tree>,
        mut chunks: Vec<ChunkRange>,
        fixed: Vec<(u64, Shape)>,
        chunk_shape: Shape,
    ) -> Result<Volume, Error> {
        let metadata_start = chunks.last().map_or(0, |chunk| chunk.start);
        let mut addresses = space::blocks(metadata_start, NODE_SIZE as u64);
        let mut placed: Vec<Placed> = Vec::new();
        for (owner, shape) in fixed {
            let addresses = addresses.by_ref().take(shape.blocks()).collect();
            placed.push(Placed {
                owner,
                shape,
                addresses,
            });
        }
        let system = space::blocks(RESERVED, NODE_SIZE as u64);
        let chunk_tree = Placed {
            owner: CHUNK_TREE,
            addresses: system.take(chunk_shape.blocks()).collect(),
            shape: chunk_shape,
        };
        placed.push(chunk_tree);
        // Exactly as many blocks as the items need that list them.
        let mut count = 1;
        let start: Vec<u64> = addresses
            .take(self.most_extent_blocks(&placed, &chunks))
            .collect();
        let (extents, extent_tree) = loop {
            let mut extents = Placed {
                owner: EXTENT_TREE,
                shape: Shape::of([]),
                addresses: start[..count].to_vec(),
            };
            // Levels are not part of an item's length.
            let entries = self.extent_items(&placed, &extents, &chunks);
            let shape = shape_of(&entries);
            if shape.blocks() == count {
                extents.shape = shape;
                let entries = self.extent_items(&placed, &extents, &chunks);
                break (entries, extents);
            }
            count = shape.blocks().max(count + 1).min(start.len());
        };
        placed.push(extent_tree);
        for chunk in &mut chunks {
            let holds = |owner| (owner == CHUNK_TREE) == (chunk.kind == SYSTEM);
            if chunk.kind != DATA {
                let trees = placed.iter().filter(|tree| holds(tree.owner));
                chunk.used = trees.map(Placed::bytes).sum();
            }
        }
        let extents = self.with_groups(extents, &chunks);
        self.render(tree, &placed, &chunks, extents)
    }

    /// A bound for the blocks of the tree of extents.
    fn most_extent_blocks(&self, placed: &[Placed], chunks: &[ChunkRange]) -> usize {
        let other: usize = placed.iter().map(|tree| tree.addresses.len()).sum();
        let items = self.pieces.len() + chunks.len() + other;
        // Its own blocks are at most a hundredth of its items, and some.
        Shape::of(std::iter::repeat_n(EXTENT_LENGTH, items + items / 50 + 16)).blocks() + 4
    }

    /// Extents, blocks and chunks by address. How full chunks are comes later.
    fn extent_items(
        &self,
        placed: &[Placed],
        extents: &Placed,
        chunks: &[ChunkRange],
    ) -> Vec<Entry> {
        let mut entries = Vec::new();
        for piece in &self.pieces {
            let item = ExtentItem {
                refs: 1.into(),
                generation: GENERATION.into(),
                flags: 1.into(),
            };
            let reference = DataRef {
                kind: EXTENT_DATA_REF,
                root: FS_TREE.into(),
                objectid: piece.number.into(),
                offset: piece.offset.into(),
                count: 1.into(),
            };
            entries.push(Entry {
                key: Key {
                    object: piece.address,
                    kind: EXTENT_ITEM,
                    offset: piece.blocks(),
                },
                data: [item.as_bytes(), reference.as_bytes()].concat(),
            });
        }
        for tree in placed.iter().chain([extents]) {
            let levels = tree.shape.block_levels().chain(std::iter::repeat(0));
            for (&address, level) in tree.addresses.iter().zip(levels) {
                let item = ExtentItem {
                    refs: 1.into(),
                    generation: GENERATION.into(),
                    flags: 2.into(),
                };
                let reference = BlockRef {
                    kind: TREE_BLOCK_REF,
                    root: tree.owner.into(),
                };
                entries.push(Entry {
                    key: Key {
                        object: address,
                        kind: METADATA_ITEM,
                        offset: level.into(),
                    },
                    data: [item.as_bytes(), reference.as_bytes()].concat(),
                });
            }
        }
        for chunk in chunks {
            entries.push(Entry {
                key: Key {
                    object: chunk.start,
                    kind: BLOCK_GROUP_ITEM,
                    offset: chunk.length,
                },
                data: group(chunk).as_bytes().to_vec(),
            });
        }
        entries.sort_by_key(|entry| entry.key);
        entries
    }

    /// The same with how full chunks are.
    fn with_groups(&self, mut entries: Vec<Entry>, chunks: &[ChunkRange]) -> Vec<Entry> {
        for entry in &mut entries {
            if entry.key.kind == BLOCK_GROUP_ITEM
                && let Some(chunk) = chunks.iter().find(|chunk| chunk.start == entry.key.object)
            {
                entry.data = group(chunk).as_bytes().to_vec();
            }
        }
        entries
    }

    fn root_items(&self, placed: &[Placed]) -> Vec<Entry> {
        // `btrfs_root_item` of a subvolume has a flag in its inode.
        const ROOT_ITEM_INIT: u64 = 1 << 31;
        let zero = Timestamp {
            seconds: 0,
            nanoseconds: 0,
        };
        let mut entries = Vec::new();
        for tree in placed
            .iter()
            .filter(|tree| ![ROOT_TREE, CHUNK_TREE].contains(&tree.owner))
        {
            let has_files = [FS_TREE, DATA_RELOC_TREE].contains(&tree.owner);
            let mut inode = directory_inode(zero, if has_files { ROOT_ITEM_INIT } else { 0 });
            inode.size = 3.into();
            let made: Timespec = self.options.timestamp.into();
            let item = RootItem {
                inode,
                generation: GENERATION.into(),
                root_dirid: if has_files { FIRST } else { 0 }.into(),
                bytenr: tree.root().into(),
                byte_limit: 0.into(),
                bytes_used: tree.bytes().into(),
                last_snapshot: 0.into(),
                flags: 0.into(),
                refs: 1.into(),
                drop_progress: DiskKey {
                    objectid: 0.into(),
                    kind: 0,
                    offset: 0.into(),
                },
                drop_level: 0,
                level: tree.shape.level(),
                generation_v2: GENERATION.into(),
                uuid: if tree.owner == FS_TREE {
                    Uuid::new_v5(&self.options.uuid, b"subvolume").into_bytes()
                } else {
                    [0; 16]
                },
                parent_uuid: [0; 16],
                received_uuid: [0; 16],
                ctransid: 0.into(),
                otransid: 0.into(),
                stransid: 0.into(),
                rtransid: 0.into(),
                ctime: made,
                otime: made,
                stime: zero.into(),
                rtime: zero.into(),
                reserved: [0; 64],
            };
            entries.push(Entry {
                key: Key {
                    object: tree.owner,
                    kind: ROOT_ITEM,
                    offset: 0,
                },
                data: item.as_bytes().to_vec(),
            });
        }
        // The directory that names the default subvolume.
        entries.extend(top_directory(ROOT_TREE_DIR, self.options));
        let name = b"default";
        let mut reference = 0u64.to_le_bytes().to_vec();
        reference.extend_from_slice(&7u16.to_le_bytes());
        reference.extend_from_slice(name);
        entries.push(Entry {
            key: Key {
                object: FS_TREE,
                kind: INODE_REF,
                offset: ROOT_TREE_DIR,
            },
            data: reference,
        });
        let head = DirItem {
            location: Key {
                object: FS_TREE,
                kind: ROOT_ITEM,
                offset: u64::MAX,
            }
            .into(),
            transid: 0.into(),
            data_len: 0.into(),
            name_len: 7.into(),
            kind: 2,
        };
        entries.push(Entry {
            key: Key {
                object: ROOT_TREE_DIR,
                kind: DIR_ITEM,
                offset: name_hash(name),
            },
            data: [head.as_bytes(), name].concat(),
        });
        entries.sort_by_key(|entry| entry.key);
        entries
    }

    fn device_items(&self, chunks: &[ChunkRange]) -> Vec<Entry> {
        let items = chunks.iter().map(|chunk| {
            let extent = DevExtent {
                chunk_tree: CHUNK_TREE.into(),
                chunk_objectid: FIRST.into(),
                chunk_offset: chunk.start.into(),
                length: chunk.length.into(),
                chunk_tree_uuid: self.identity.chunk_tree_uuid,
            };
            Entry {
                key: Key {
                    object: 1,
                    kind: DEV_EXTENT,
                    offset: chunk.start,
                },
                data: extent.as_bytes().to_vec(),
            }
        });
        items.collect()
    }

    fn device(&self, chunks: &[ChunkRange]) -> Device {
        let used: u64 = chunks.iter().map(|chunk| chunk.length).sum();
        Device {
            devid: 1.into(),
            total_bytes: self.length.into(),
            bytes_used: used.into(),
            io_align: 4096.into(),
            io_width: 4096.into(),
            sector_size: 4096.into(),
            kind: 0.into(),
            generation: 0.into(),
            start_offset: 0.into(),
            dev_group: 0.into(),
            seek_speed: 0,
            bandwidth: 0,
            uuid: self.device,
            fsid: self.identity.fsid,
        }
    }

    fn chunk_items(&self, chunks: &[ChunkRange]) -> Vec<Entry> {
        let mut entries = vec![Entry {
            key: Key {
                object: 1,
                kind: DEV_ITEM,
                offset: 1,
            },
            data: self.device(chunks).as_bytes().to_vec(),
        }];
        entries.extend(chunks.iter().map(|chunk| Entry {
            key: Key {
                object: FIRST,
                kind: CHUNK_ITEM,
                offset: chunk.start,
            },
            data: self.chunk(chunk).as_bytes().to_vec(),
        }));
        entries
    }

    fn chunk(&self, chunk: &ChunkRange) -> Chunk {
        Chunk {
            length: chunk.length.into(),
            owner: EXTENT_TREE.into(),
            stripe_len: u64::from(STRIPE_LEN).into(),
            kind: chunk.kind.into(),
            io_align: STRIPE_LEN.into(),
            io_width: STRIPE_LEN.into(),
            sector_size: 4096.into(),
            num_stripes: 1.into(),
            sub_stripes: 1.into(),
            devid: 1.into(),
            offset: chunk.start.into(),
            dev_uuid: self.device,
        }
    }

    /// All bytes of the volume.
    fn render(
        self,
        tree: &Arc<Tree>,
        placed: &[Placed],
        chunks: &[ChunkRange],
        extents: Vec<Entry>,
    ) -> Result<Volume, Error> {
        let mut blocks: Vec<(u64, Vec<u8>)> = Vec::new();
        let (mut root, mut chunk_root) = ((0, 0), (0, 0));
        for place in placed {
            let made;
            let entries = match place.owner {
                ROOT_TREE => {
                    root = (place.root(), place.shape.level());
                    made = self.root_items(placed);
                    &made
                }
                CHUNK_TREE => {
                    chunk_root = (place.root(), place.shape.level());
                    made = self.chunk_items(chunks);
                    &made
                }
                DEV_TREE => {
                    made = self.device_items(chunks);
                    &made
                }
                EXTENT_TREE => &extents,
                owner => match self.trees.iter().find(|(known, _)| *known == owner) {
                    Some((_, entries)) => entries,
                    None => continue,
                },
            };
            let rendered = nodes::render(
                self.identity,
                place.owner,
                &place.shape,
                entries,
                &place.addresses,
            );
            blocks.extend(place.addresses.iter().copied().zip(rendered));
        }
        let superblock = self.superblock(chunks, root, chunk_root);
        for offset in SUPER_OFFSETS {
            if offset + SUPER_SIZE as u64 <= self.length {
                let mut copy = superblock.clone();
                copy.bytenr = offset.into();
                let mut bytes = vec![0; SUPER_SIZE];
                bytes[..size_of::<Superblock>()].copy_from_slice(copy.as_bytes());
                seal(&mut bytes);
                blocks.push((offset, bytes));
            }
        }
        let files = self.pieces.iter().map(|piece| Extent {
            offset: piece.address,
            length: piece.length,
            source: Source::File {
                tree: Arc::clone(tree),
                inode: piece.inode,
                offset: piece.offset,
            },
        });
        let trees = blocks.into_iter().map(|(offset, bytes)| Extent {
            offset,
            length: bytes.len() as u64,
            source: Source::Bytes {
                bytes: bytes.into(),
                start: 0,
            },
        });
        let mut extents: Vec<Extent> = files.chain(trees).collect();
        extents.sort_by_key(|extent| extent.offset);
        Ok(Volume {
            length: self.length,
            extents,
        })
    }

    fn superblock(
        &self,
        chunks: &[ChunkRange],
        root: (u64, u8),
        chunk_root: (u64, u8),
    ) -> Superblock {
        let mut array = [0; 2048];
        let mut array_size = 0;
        for chunk in chunks.iter().filter(|chunk| chunk.kind == SYSTEM) {
            let key = DiskKey::from(Key {
                object: FIRST,
                kind: CHUNK_ITEM,
                offset: chunk.start,
            });
            for part in [key.as_bytes(), self.chunk(chunk).as_bytes()] {
                array[array_size..array_size + part.len()].copy_from_slice(part);
                array_size += part.len();
            }
        }
        let mut label = [0; 256];
        label[..self.options.label.len()].copy_from_slice(self.options.label.as_bytes());
        Superblock {
            csum: [0; 32],
            fsid: self.identity.fsid,
            bytenr: 0.into(),
            flags: 1.into(),
            magic: MAGIC,
            generation: GENERATION.into(),
            root: root.0.into(),
            chunk_root: chunk_root.0.into(),
            log_root: 0.into(),
            log_root_transid: 0.into(),
            total_bytes: self.length.into(),
            bytes_used: chunks.iter().map(|chunk| chunk.used).sum::<u64>().into(),
            root_dir_objectid: ROOT_TREE_DIR.into(),
            num_devices: 1.into(),
            sectorsize: 4096.into(),
            nodesize: 16384.into(),
            leafsize: 16384.into(),
            stripesize: 4096.into(),
            sys_chunk_array_size: u32::try_from(array_size).unwrap_or(0).into(),
            chunk_root_generation: GENERATION.into(),
            compat_flags: 0.into(),
            compat_ro_flags: 0.into(),
            incompat_flags: INCOMPAT.into(),
            csum_type: 0.into(),
            root_level: root.1,
            chunk_root_level: chunk_root.1,
            log_root_level: 0,
            dev_item: self.device(chunks),
            label,
            // There is no cache of free space.
            cache_generation: u64::MAX.into(),
            uuid_tree_generation: 0.into(),
            metadata_uuid: [0; 16],
            reserved: [0; 224],
            sys_chunk_array: array,
        }
    }
}

/// Length of an extent of data in the tree of extents.
const EXTENT_LENGTH: usize = size_of::<ExtentItem>() + size_of::<DataRef>();
/// Length of a block of a tree in it.
const BLOCK_LENGTH: usize = size_of::<ExtentItem>() + size_of::<BlockRef>();

fn group(chunk: &ChunkRange) -> BlockGroup {
    BlockGroup {
        used: chunk.used.into(),
        chunk_objectid: FIRST.into(),
        flags: chunk.kind.into(),
    }
}
