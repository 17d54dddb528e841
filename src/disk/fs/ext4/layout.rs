//! Decides where everything goes.
//!
//! In ascending order on disk: resize inode, small directories, large
//! directories, journal, and then files by the order of their paths, each with
//! its attribute block and map blocks. Blocks are handed out without gaps, so
//! one number and the reserved ranges say which are in use.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Error;
use super::alloc::{Allocator, Arena};
use super::attributes::{XattrPlace, XattrPlacer};
use super::checksum::Checksums;
use super::directory::{self, Directory, Entry};
use super::extra::{Extra, Values};
use super::format::{Compat, FIRST_INODE, FileType, Incompat, ROOT_INODE, RoCompat};
use super::geometry::{Geometry, journal_blocks};
use super::mapping::{self, MapRoot, Run};
use super::options::Options;
use super::quota::QuotaFile;
use super::resize;
use super::units::{FsBlock, InodeNo, count, index};
use crate::tree::{Content, Inode, InodeId, Kind, LABEL, NodeId, Tree, Xattrs};

/// Most names of a file, and most subdirectories that are counted.
pub(super) const LINK_MAX: u32 = 65000;

/// Files of so many bytes need the feature `large_file`.
const SMALL_FILE: u64 = 1 << 31;

/// Name of the directory in which e2fsck puts what it finds.
pub(super) const LOST_FOUND: &[u8] = b"lost+found";

/// A filesystem whose every block is placed.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) tree: Arc<Tree>,
    pub(super) options: Options,
    pub(super) geometry: Geometry,
    /// `None` where metadata has no checksums.
    pub(super) checksums: Option<Checksums>,
    /// Inode numbers by [`InodeId`].
    pub(super) numbers: Vec<InodeNo>,
    /// Inodes with the numbers from 12 on.
    pub(super) order: Vec<InodeId>,
    /// The tree's own `/lost+found`.
    pub(super) lost_found: Option<InodeId>,
    /// Where each inode's blocks are, by [`InodeId`].
    places: Vec<Place>,
    runs: Vec<Run>,
    /// Maps that need blocks, by inode number, and how many they need.
    roots: BTreeMap<InodeNo, (MapRoot, u64)>,
    /// Directories that are hashed.
    pub(super) indexed: BTreeSet<InodeId>,
    /// How many directories each directory contains, by inode number.
    pub(super) subdirectories: BTreeMap<InodeNo, u32>,
    /// Places of attributes; the first is that of none.
    pub(super) xattrs: Vec<XattrPlace>,
    /// Directories that have one block, in the order of their blocks, and where
    /// those are.
    pub(super) small_directories: Vec<NodeId>,
    pub(super) small_directory_runs: Vec<Run>,
    /// Where the journal is.
    pub(super) journal: Vec<Run>,
    pub(super) journal_length: u64,
    /// Runs of a `/lost+found` that the tree does not have.
    pub(super) made_lost_found: Vec<Run>,
    /// Its attributes, and the index of their place.
    made_attributes: Option<Arc<Xattrs>>,
    pub(super) made_xattrs: u32,
    /// Inodes that the tree does not have, after those that it has.
    pub(super) extras: Vec<Extra>,
    pub(super) values: Values,
    /// For values of attributes, which have checksums in any case.
    pub(super) value_checksums: Checksums,
    pub(super) quotas: Vec<QuotaFile>,
    /// The resize inode's double-indirect block.
    pub(super) resize_block: Option<FsBlock>,
    pub(super) arena: Arena,
    /// First block that is not in use, but for reserved ones.
    pub(super) end: u64,
}

/// Where an inode's data is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place {
    first_run: usize,
    runs: u32,
    /// Index into [`Layout::xattrs`].
    pub(super) xattrs: u32,
    /// Blocks of data and of the map.
    pub(super) blocks: u64,
}

impl Layout {
    /// Inodes that a tree needs, with the reserved ones and `lost+found`.
    pub(super) fn inodes_needed(tree: &Tree) -> u64 {
        // The root is among the reserved ones.
        let made = u64::from(tree.find(LOST_FOUND).is_none());
        u64::from(FIRST_INODE) - 2 + count(tree.inodes().len()) + made
    }

    /// Lays out a filesystem of `blocks` blocks. It may turn out to need more:
    /// see [`Layout::needed`].
    pub(super) fn new(tree: &Arc<Tree>, options: &Options, blocks: u64) -> Result<Self, Error> {
        options.check()?;
        let mut options = options.normalised();
        let labelled = options.lost_found_label.is_some();
        if labelled || tree.inodes().any(|(_, inode)| inode.xattrs.is_some()) {
            // The kernel adds it with the first attribute, and e2fsck takes blocks of
            // attributes away where it is missing.
            options.features.compat.insert(Compat::EXT_ATTR);
        }
        let values = Values::find(tree, &options)?;
        let inodes = Self::inodes_needed(tree) + values.inodes(&options);
        let geometry = Geometry::new(&options, blocks, inodes)?;
        let journal_length = match journal_blocks(&options, geometry.blocks)? {
            Some(length) => length,
            None => {
                let journal = Compat::HAS_JOURNAL | Compat::ORPHAN_FILE;
                options.features.compat.remove(journal);
                0
            }
        };
        if geometry.reserved_descriptor_blocks == 0 {
            options.features.compat.remove(Compat::RESIZE_INODE);
        }
        let resizes = options.features.compat.contains(Compat::RESIZE_INODE);
        if resizes && resize::size(options.block()) >= SMALL_FILE {
            // e2fsck adds the feature where a file needs it, and this one does.
            options.features.ro_compat.insert(RoCompat::LARGE_FILE);
        }
        let checksums = options
            .features
            .checksums()
            .then(|| Checksums::new(&options.uuid));
        let mut allocator = Allocator::new(&geometry);
        let mut layout = Self {
            tree: Arc::clone(tree),
            arena: Arena::new(index(options.block_size)),
            checksums,
            geometry,
            numbers: Vec::new(),
            order: Vec::new(),
            lost_found: None,
            places: vec![Place::default(); tree.inodes().len()],
            runs: Vec::with_capacity(tree.inodes().len()),
            roots: BTreeMap::new(),
            indexed: BTreeSet::new(),
            subdirectories: BTreeMap::new(),
            xattrs: vec![XattrPlace::default()],
            small_directories: Vec::new(),
            small_directory_runs: Vec::new(),
            journal: Vec::new(),
            journal_length,
            made_lost_found: Vec::new(),
            made_attributes: None,
            made_xattrs: 0,
            extras: Vec::new(),
            values,
            value_checksums: Checksums::new(&options.uuid),
            quotas: Vec::new(),
            resize_block: None,
            end: 0,
            options,
        };
        layout.number()?;
        if resizes {
            layout.resize_block = Some(allocator.one());
        }
        let directories = layout.directories();
        layout.place_directories(&directories, &mut allocator)?;
        layout.check_subdirectories(&directories)?;
        layout.place_journal(&mut allocator);
        layout.place_files(&mut allocator)?;
        layout.end = allocator.end();
        Ok(layout)
    }

    /// Blocks that the filesystem must have for all of it to fit.
    pub(super) fn needed(&self) -> u64 {
        self.geometry
            .reserved
            .last()
            .map_or(0, |range| range.end)
            .max(self.end)
    }

    /// Gives numbers to inodes.
    fn number(&mut self) -> Result<(), Error> {
        if let Some(node) = self.tree.child(NodeId::ROOT, LOST_FOUND) {
            if !self.tree.inode_of(node).is_directory() {
                return Err(Error::LostFound);
            }
            self.lost_found = Some(self.tree.node(node).inode);
        }
        let root = self.tree.node(NodeId::ROOT).inode;
        let mut next = FIRST_INODE + 1;
        let inodes = self.tree.inodes().len();
        self.numbers.reserve_exact(inodes);
        self.order.reserve_exact(inodes);
        for (id, _) in self.tree.inodes() {
            let number = if id == root {
                ROOT_INODE
            } else if Some(id) == self.lost_found {
                FIRST_INODE
            } else {
                self.order.push(id);
                next += 1;
                next - 1
            };
            self.numbers.push(InodeNo(number));
        }
        Ok(())
    }

    /// Names of all directories, in path order.
    fn directories(&self) -> Vec<NodeId> {
        let directories = self
            .tree
            .nodes()
            .filter(|(_, node)| self.tree.inode(node.inode).is_directory());
        directories.map(|(id, _)| id).collect()
    }

    /// Whether `lost+found` must be added to this directory.
    fn gets_lost_found(&self, directory: NodeId) -> bool {
        directory == NodeId::ROOT && self.lost_found.is_none()
    }

    /// What a directory contains.
    pub(super) fn entries(&self, directory: NodeId) -> impl Iterator<Item = Entry<'_>> + '_ {
        let made = self.gets_lost_found(directory).then_some(Entry {
            name: LOST_FOUND,
            inode: InodeNo(FIRST_INODE),
            file_type: FileType::Directory,
        });
        let children = self.tree.children(directory).iter().map(|&child| {
            let id = self.tree.node(child).inode;
            Entry {
                name: self.tree.name(child),
                inode: self.numbers[id.index()],
                file_type: file_type(&self.tree.inode(id).kind),
            }
        });
        made.into_iter().chain(children)
    }

    /// What the blocks of a directory have in common.
    pub(super) fn directory(&self, inode: InodeNo, parent: InodeNo) -> Directory {
        Directory {
            block_size: index(self.options.block_size),
            checksums: self.checksums,
            file_types: self
                .options
                .features
                .incompat
                .contains(super::format::Incompat::FILETYPE),
            inode,
            parent,
        }
    }

    /// The same for a directory of the tree.
    pub(super) fn directory_of(&self, node: NodeId) -> Directory {
        let number = |node: NodeId| self.numbers[self.tree.node(node).inode.index()];
        self.directory(number(node), number(self.tree.node(node).parent))
    }

    fn place_directories(
        &mut self,
        directories: &[NodeId],
        allocator: &mut Allocator,
    ) -> Result<(), Error> {
        let tree = Arc::clone(&self.tree);
        let block_size = index(self.options.block_size);
        let mut large = Vec::new();
        if self.lost_found.is_none() {
            self.subdirectories.insert(InodeNo(ROOT_INODE), 1);
        }
        for &node in directories {
            let id = tree.node(node).inode;
            if node != NodeId::ROOT {
                let parent = self.numbers[tree.node(tree.node(node).parent).inode.index()];
                *self.subdirectories.entry(parent).or_default() += 1;
            }
            if Some(id) == self.lost_found {
                large.push(node);
                continue;
            }
            let made = self.gets_lost_found(node).then_some(LOST_FOUND.len());
            let names = tree
                .children(node)
                .iter()
                .map(|&child| tree.name(child).len())
                .chain(made);
            if !directory::fits_one_block(names, block_size, self.checksums.is_some()) {
                large.push(node);
                continue;
            }
            let block = allocator.one();
            let first_run = self.runs.len();
            self.runs.push(Run {
                logical: 0,
                length: 1,
                physical: block,
            });
            self.places[id.index()] = Place {
                first_run,
                runs: 1,
                xattrs: 0,
                blocks: 1,
            };
            match self.small_directory_runs.last_mut() {
                Some(run) if run.physical.plus(u64::from(run.length)) == block => run.length += 1,
                _ => self.small_directory_runs.push(Run {
                    logical: u32::try_from(self.small_directories.len()).unwrap_or(u32::MAX),
                    length: 1,
                    physical: block,
                }),
            }
            self.small_directories.push(node);
        }
        if self.lost_found.is_none() {
            let directory = self.directory(InodeNo(FIRST_INODE), InodeNo(ROOT_INODE));
            let bytes = self.reserve_lost_found(directory, Vec::new());
            self.made_lost_found = self.store(&bytes, allocator);
        }
        for node in large {
            let directory = self.directory_of(node);
            let entries: Vec<Entry<'_>> = self.entries(node).collect();
            let number = entries.len();
            let names = entries.iter().map(|entry| entry.name.len());
            let features = self.options.features;
            let hashed = features.compat.contains(Compat::DIR_INDEX)
                && !directory::fits_one_block(names, block_size, self.checksums.is_some());
            let bytes = if hashed {
                let levels = if features.incompat.contains(Incompat::LARGEDIR) {
                    3
                } else {
                    2
                };
                directory.hashed(entries, &self.options.hash_seed, levels)
            } else {
                Some(directory.linear(&entries))
            };
            let Some(mut bytes) = bytes else {
                return Err(Error::DirectoryTooLarge {
                    path: tree.path(node),
                    entries: number,
                });
            };
            let id = tree.node(node).inode;
            if hashed {
                self.indexed.insert(id);
            }
            if Some(id) == self.lost_found && bytes.len() == block_size {
                bytes = self.reserve_lost_found(directory, bytes);
            }
            let runs = self.store(&bytes, allocator);
            self.set_runs(id, &runs, allocator);
        }
        Ok(())
    }

    /// `lost+found` gets 16 KiB (12 blocks at most), so that e2fsck need not
    /// find free blocks when it uses it.
    fn reserve_lost_found(&self, directory: Directory, mut bytes: Vec<u8>) -> Vec<u8> {
        let block_size = index(self.options.block_size);
        let blocks = (16384 / block_size).min(12);
        let present = bytes.len() / block_size;
        bytes.resize(blocks.max(present) * block_size, 0);
        for (number, block) in bytes.chunks_mut(block_size).enumerate().skip(present) {
            if number == 0 {
                directory.one_block(std::iter::empty(), block);
            } else {
                directory.empty_block(block);
            }
        }
        bytes
    }

    /// Puts whole blocks of metadata into the arena.
    pub(super) fn store(&mut self, bytes: &[u8], allocator: &mut Allocator) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (logical, block) in (0u32..).zip(bytes.chunks(self.arena.block_size())) {
            let place = self.arena.block(allocator);
            self.arena.bytes_mut(place.slot)[..block.len()].copy_from_slice(block);
            match runs.last_mut() {
                Some(run) if run.physical.plus(u64::from(run.length)) == place.block => {
                    run.length += 1
                }
                _ => runs.push(Run {
                    logical,
                    length: 1,
                    physical: place.block,
                }),
            }
        }
        runs
    }

    fn place_journal(&mut self, allocator: &mut Allocator) {
        let mut runs = Vec::new();
        take(&mut runs, 0, self.journal_length, allocator);
        self.map(InodeNo(super::format::JOURNAL_INODE), &runs, allocator);
        self.journal = runs;
    }

    fn place_files(&mut self, allocator: &mut Allocator) -> Result<(), Error> {
        let tree = Arc::clone(&self.tree);
        let mut xattrs = XattrPlacer::default();
        let mut runs = Vec::new();
        for (id, inode) in tree.inodes() {
            runs.clear();
            match &inode.kind {
                Kind::Directory => {}
                Kind::File(content) => {
                    self.check_links(id, inode)?;
                    self.check_size(id, content)?;
                    for (start, end) in block_ranges(content, self.options.block()) {
                        take(&mut runs, start, end - start, allocator);
                    }
                }
                Kind::Symlink(target) => {
                    self.check_links(id, inode)?;
                    if target.len() >= index(self.options.block_size) {
                        return Err(Error::SymlinkTooLong {
                            path: tree.path_of_inode(id),
                            length: target.len(),
                            block_size: self.options.block_size,
                        });
                    }
                    if target.len() >= size_of::<MapRoot>() {
                        runs = self.store(target, allocator);
                    }
                }
                Kind::CharDevice(device) | Kind::BlockDevice(device) => {
                    self.check_links(id, inode)?;
                    if device.major > 0xFFF || device.minor > 0xF_FFFF {
                        return Err(Error::DeviceNumber {
                            path: tree.path_of_inode(id),
                            major: device.major,
                            minor: device.minor,
                        });
                    }
                }
                Kind::Fifo | Kind::Socket => self.check_links(id, inode)?,
            }
            if !runs.is_empty() {
                self.set_runs(id, &runs, allocator);
            }
            if let Some(set) = &inode.xattrs {
                let place = xattrs.place(self, set, id, allocator)?;
                self.places[id.index()].xattrs = place;
            }
        }
        if let (None, Some(label)) = (self.lost_found, &self.options.lost_found_label) {
            let set = Xattrs::from([(LABEL.into(), label.as_ref().into())]);
            let set = Arc::clone(self.made_attributes.insert(Arc::new(set)));
            let root = tree.node(NodeId::ROOT).inode;
            self.made_xattrs = xattrs.place(self, &set, root, allocator)?;
        }
        let references = xattrs.finish(self);
        self.place_extras(&references, allocator);
        self.place_quotas(allocator)
    }

    fn check_links(&self, id: InodeId, inode: &Inode) -> Result<(), Error> {
        if inode.links > LINK_MAX {
            return Err(Error::TooManyLinks {
                path: self.tree.path_of_inode(id),
                links: inode.links,
                limit: LINK_MAX,
            });
        }
        Ok(())
    }

    /// A directory's links are its subdirectories and two more; only with `dir_nlink`
    /// may they go uncounted.
    fn check_subdirectories(&self, directories: &[NodeId]) -> Result<(), Error> {
        let limit = LINK_MAX - 2;
        let features = self.options.features.ro_compat;
        if features.contains(RoCompat::DIR_NLINK) {
            return Ok(());
        }
        for &node in directories {
            let number = self.numbers[self.tree.node(node).inode.index()];
            let subdirectories = self.subdirectories.get(&number).copied().unwrap_or(0);
            if subdirectories > limit {
                return Err(Error::TooManySubdirectories {
                    path: self.tree.path(node),
                    subdirectories,
                    limit,
                });
            }
        }
        Ok(())
    }

    fn check_size(&self, id: InodeId, content: &Content) -> Result<(), Error> {
        let block_size = self.options.block();
        let features = self.options.features;
        let blocks = if features.extents() {
            u64::from(u32::MAX)
        } else {
            mapping::block_map_limit(block_size)
        };
        let mut limit = blocks * block_size;
        if !features.ro_compat.contains(RoCompat::LARGE_FILE) {
            limit = limit.min(SMALL_FILE - 1);
        }
        if !features.ro_compat.contains(RoCompat::HUGE_FILE) {
            // `i_blocks` has 32 bits, in units of 512 bytes; a sixteenth covers
            // the map.
            limit = limit.min((u64::from(u32::MAX) * 512) / 16 * 15);
        }
        if content.size > limit {
            let path = self.tree.path_of_inode(id);
            return Err(Error::FileTooLarge {
                path,
                size: content.size,
                limit,
            });
        }
        Ok(())
    }

    fn set_runs(&mut self, id: InodeId, runs: &[Run], allocator: &mut Allocator) {
        let data = runs.iter().fold(0, |sum, run| sum + u64::from(run.length));
        let map = self.map(self.numbers[id.index()], runs, allocator);
        let place = &mut self.places[id.index()];
        place.first_run = self.runs.len();
        place.runs = u32::try_from(runs.len()).unwrap_or(u32::MAX);
        place.blocks = data + map;
        self.runs.extend_from_slice(runs);
    }

    /// Makes the map of a file if it needs blocks; returns how many.
    pub(super) fn map(&mut self, number: InodeNo, runs: &[Run], allocator: &mut Allocator) -> u64 {
        let before = self.arena.len();
        let root = if self.options.features.extents() {
            match mapping::inline_extents(runs) {
                Some(_) => return 0,
                None => {
                    mapping::extent_tree(runs, number, self.checksums, &mut self.arena, allocator)
                }
            }
        } else {
            match mapping::direct_map(runs) {
                Some(_) => return 0,
                None => mapping::block_map(runs, &mut self.arena, allocator),
            }
        };
        let blocks = count(self.arena.len() - before);
        self.roots.insert(number, (root, blocks));
        blocks
    }

    /// `i_block` of a file with these runs.
    pub(super) fn map_root(&self, number: InodeNo, runs: &[Run]) -> MapRoot {
        let small = || {
            if self.options.features.extents() {
                mapping::inline_extents(runs)
            } else {
                mapping::direct_map(runs)
            }
        };
        self.roots
            .get(&number)
            .map(|(root, _)| *root)
            .or_else(small)
            .unwrap_or([0; 60])
    }

    /// Blocks that the map of a file needs.
    pub(super) fn map_blocks(&self, number: InodeNo) -> u64 {
        self.roots.get(&number).map_or(0, |(_, blocks)| *blocks)
    }

    /// The bytes of metadata, which are not needed to compute the rest.
    pub(super) fn take_arena(&mut self) -> Arena {
        std::mem::replace(&mut self.arena, Arena::new(index(self.options.block_size)))
    }

    /// Where an inode's blocks are.
    pub(super) fn place(&self, id: InodeId) -> Place {
        self.places[id.index()]
    }

    /// The runs of an inode's data.
    pub(super) fn runs_of(&self, id: InodeId) -> &[Run] {
        let place = self.place(id);
        &self.runs[place.first_run..place.first_run + index(place.runs)]
    }
}

/// Takes blocks for a range of a file.
fn take(runs: &mut Vec<Run>, start: u64, length: u64, allocator: &mut Allocator) {
    let (mut logical, mut left) = (start, length);
    while left > 0 {
        // Files have fewer than 2^32 blocks: `check_size` saw to it.
        let piece = left.min(u64::from(u32::MAX));
        let (physical, length) = allocator.take(piece);
        let run = Run {
            logical: u32::try_from(logical).unwrap_or(u32::MAX),
            length: u32::try_from(length).unwrap_or(u32::MAX),
            physical,
        };
        runs.push(run);
        logical += length;
        left -= length;
    }
}

/// Blocks of a file that hold data: first, and first after.
fn block_ranges(content: &Content, block_size: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
    let size = content.size;
    let mut ranges = content
        .ranges()
        .map(move |range| {
            let end = range.offset.saturating_add(range.length).min(size);
            (range.offset / block_size, end.div_ceil(block_size))
        })
        .filter(|(start, end)| start < end)
        .peekable();
    std::iter::from_fn(move || {
        let (start, mut end) = ranges.next()?;
        // Ranges that meet in a block, or touch, are one.
        while let Some((_, next_end)) = ranges.next_if(|(next, _)| *next <= end) {
            end = end.max(next_end);
        }
        Some((start, end))
    })
}

/// The type that a directory entry gives.
pub(super) fn file_type(kind: &Kind) -> FileType {
    match kind {
        Kind::Directory => FileType::Directory,
        Kind::File(_) => FileType::Regular,
        Kind::Symlink(_) => FileType::Symlink,
        Kind::CharDevice(_) => FileType::CharDevice,
        Kind::BlockDevice(_) => FileType::BlockDevice,
        Kind::Fifo => FileType::Fifo,
        Kind::Socket => FileType::Socket,
    }
}
