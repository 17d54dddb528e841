//! The writer: data blocks in one parallel pass, then inodes, listings and tables.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use zerocopy::IntoBytes as _;

use super::format::{self, BLOCK_SIZE, DATA_PLAIN, NO_FRAGMENT, NO_TABLE, NO_XATTRS, kind};
use super::metadata::{Metadata, Place, table};
use super::{Compression, Compressor};
use crate::sink::error::Error;
use crate::sink::output::Output;
use crate::sink::pass::{is_zero, lock};
use crate::tree::{Content, Device, Inode, InodeId, Kind, NodeId, Reader, Timestamp, Tree, Xattrs};

/// Blocks that each thread gets at once; what is compressed waits for those before it.
const BATCH: usize = 8;
/// The file is padded to this, so that a loop device shows all of it.
const PADDING: u64 = 4096;
/// Name spaces of extended attributes, by their number.
const PREFIXES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];

/// A range of a file.
#[derive(Debug, Clone, Copy)]
struct Piece {
    inode: InodeId,
    offset: u64,
    length: usize,
}

/// What is compressed as one block.
#[derive(Debug)]
enum Job {
    /// A block of a file.
    Block(Piece),
    /// The ends of several files.
    Fragment(Vec<Piece>),
}

/// Where the data of an inode is.
#[derive(Debug, Clone, Default)]
struct Place64 {
    start: u64,
    blocks: Vec<u32>,
    sparse: u64,
    /// Number of the fragment and the offset in it.
    fragment: Option<(u32, u32)>,
}

/// A block, ready to be written.
struct Ready {
    bytes: Vec<u8>,
    /// As the tables give it; 0 is a hole.
    size: u32,
}

/// Writes the tree to the output. `progress` gets bytes of file data so far.
/// Returns what the image does not hold as the tree does.
pub(crate) fn write(
    tree: &Arc<Tree>,
    output: &Output,
    compression: Compression,
    time: Timestamp,
    threads: usize,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<String>, Error> {
    let (jobs, mut places) = plan(tree);
    let mut offset = size_of::<format::SuperBlock>() as u64;
    let fragments = data(
        tree,
        output,
        compression,
        threads,
        &jobs,
        &mut places,
        &mut offset,
        progress,
    )?;
    let mut compressor = Compressor::new(compression)?;
    let mut warnings = Vec::new();
    let xattrs = XattrSets::collect(tree, &mut warnings);
    let mut writer = Tables {
        tree,
        places,
        xattrs: &xattrs,
        ids: BTreeMap::new(),
        inode_places: vec![Place::default(); tree.inodes().len()],
    };
    let (inodes, listings, root) = writer.inodes(compression)?;
    let mut at = |bytes: &[u8]| -> Result<u64, Error> {
        let start = offset;
        output.write_at(bytes, start)?;
        offset += bytes.len() as u64;
        Ok(start)
    };
    let inode_table_start = at(&inodes)?;
    let directory_table_start = at(&listings)?;
    let end = directory_table_start + listings.len() as u64;
    let entries: Vec<u8> = fragments
        .iter()
        .flat_map(|entry| entry.as_bytes().to_vec())
        .collect();
    let (bytes, index) = table(&mut compressor, &entries, end);
    let fragment_table_start = at(&bytes)? + index;
    let end = end + bytes.len() as u64;
    let ids = writer.id_table();
    let (bytes, index) = table(&mut compressor, &ids, end);
    let id_table_start = at(&bytes)? + index;
    let end = end + bytes.len() as u64;
    let xattr_id_table_start = match xattrs.table(&mut compressor, end) {
        Some((bytes, header)) => at(&bytes)? + header,
        None => NO_TABLE,
    };
    let superblock = format::SuperBlock {
        s_magic: format::MAGIC.into(),
        inodes: small(tree.inodes().len()).into(),
        mkfs_time: seconds(time).into(),
        block_size: small(BLOCK_SIZE).into(),
        fragments: small(fragments.len()).into(),
        compression: compression.id().into(),
        block_log: format::BLOCK_LOG.into(),
        flags: if xattr_id_table_start == NO_TABLE {
            format::FLAG_NO_XATTRS.into()
        } else {
            0.into()
        },
        no_ids: u16::try_from(writer.ids.len()).unwrap_or(u16::MAX).into(),
        s_major: 4.into(),
        s_minor: 0.into(),
        root_inode: root.reference().into(),
        bytes_used: offset.into(),
        id_table_start: id_table_start.into(),
        xattr_id_table_start: xattr_id_table_start.into(),
        inode_table_start: inode_table_start.into(),
        directory_table_start: directory_table_start.into(),
        fragment_table_start: fragment_table_start.into(),
        lookup_table_start: NO_TABLE.into(),
    };
    output.write_at(superblock.as_bytes(), 0)?;
    output.set_length(offset.next_multiple_of(PADDING))?;
    Ok(warnings)
}

/// Numbers and sizes here are bounded by the tree's 32-bit indices.
fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Seconds of a time; what the format cannot tell is its nearest end.
fn seconds(time: Timestamp) -> u32 {
    u32::try_from(time.seconds.max(0)).unwrap_or(u32::MAX)
}

/// Decides where the data of every file goes.
fn plan(tree: &Tree) -> (Vec<Job>, Vec<Place64>) {
    let mut jobs = Vec::new();
    let mut places = vec![Place64::default(); tree.inodes().len()];
    let mut open: Vec<Piece> = Vec::new();
    let mut filled = 0;
    let mut number = 0u32;
    for (id, inode) in tree.inodes() {
        let Kind::File(Content { size, .. }) = inode.kind else {
            continue;
        };
        let block = BLOCK_SIZE as u64;
        if size >= block {
            let mut offset = 0;
            while offset < size {
                let length = BLOCK_SIZE.min(usize::try_from(size - offset).unwrap_or(BLOCK_SIZE));
                jobs.push(Job::Block(Piece {
                    inode: id,
                    offset,
                    length,
                }));
                offset += length as u64;
            }
        } else if size > 0 {
            let length = usize::try_from(size).unwrap_or(BLOCK_SIZE);
            if filled + length > BLOCK_SIZE {
                jobs.push(Job::Fragment(std::mem::take(&mut open)));
                number += 1;
                filled = 0;
            }
            places[id.index()].fragment = Some((number, small(filled)));
            open.push(Piece {
                inode: id,
                offset: 0,
                length,
            });
            filled += length;
        }
    }
    if !open.is_empty() {
        jobs.push(Job::Fragment(open));
    }
    (jobs, places)
}

/// A thread's own tools.
struct Worker {
    reader: Reader,
    compressor: Compressor,
    buffer: Vec<u8>,
}

impl Worker {
    fn run(&mut self, job: &Job) -> Result<Ready, Error> {
        let pieces = match job {
            Job::Block(piece) => std::slice::from_ref(piece),
            Job::Fragment(pieces) => pieces,
        };
        self.buffer.clear();
        for piece in pieces {
            let start = self.buffer.len();
            self.buffer.resize(start + piece.length, 0);
            let space = &mut self.buffer[start..];
            match self.reader.read_at(piece.inode, piece.offset, space) {
                Ok(read) => space[read..].fill(0),
                Err(error) => {
                    return Err(Error::Tree {
                        path: self.reader.tree().path_of_inode(piece.inode),
                        source: Box::new(error),
                    });
                }
            }
        }
        if matches!(job, Job::Block(_)) && is_zero(&self.buffer) {
            return Ok(Ready {
                bytes: Vec::new(),
                size: 0,
            });
        }
        Ok(match self.compressor.compress(&self.buffer) {
            Some(bytes) => Ready {
                size: small(bytes.len()),
                bytes,
            },
            None => Ready {
                size: small(self.buffer.len()) | DATA_PLAIN,
                bytes: self.buffer.clone(),
            },
        })
    }
}

/// Writes all file data in order and returns the fragment table.
#[expect(
    clippy::too_many_arguments,
    reason = "the one step of the writer that does I/O"
)]
fn data(
    tree: &Arc<Tree>,
    output: &Output,
    compression: Compression,
    threads: usize,
    jobs: &[Job],
    places: &mut [Place64],
    offset: &mut u64,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<format::FragmentEntry>, Error> {
    let mut workers = (0..threads.clamp(1, jobs.len().max(1)))
        .map(|_| {
            Ok(Worker {
                reader: tree.reader(),
                compressor: Compressor::new(compression)?,
                buffer: Vec::with_capacity(BLOCK_SIZE),
            })
        })
        .collect::<Result<Vec<_>, Error>>()?;
    let mut fragments = Vec::new();
    let mut done = 0;
    for batch in jobs.chunks(BATCH * workers.len()) {
        let next = AtomicUsize::new(0);
        let results: Vec<Mutex<Option<Result<Ready, Error>>>> =
            batch.iter().map(|_| Mutex::new(None)).collect();
        std::thread::scope(|scope| {
            for worker in &mut workers {
                scope.spawn(|| {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(job) = batch.get(at) else { break };
                        let result = worker.run(job);
                        *lock(&results[at]) = Some(result);
                    }
                });
            }
        });
        for (job, result) in batch.iter().zip(results) {
            let result = result.into_inner().unwrap_or_default();
            let ready = result.unwrap_or(Err(Error::Stopped))?;
            output.write_at(&ready.bytes, *offset)?;
            match job {
                Job::Block(piece) => {
                    let place = &mut places[piece.inode.index()];
                    if place.blocks.is_empty() {
                        place.start = *offset;
                    }
                    if ready.size == 0 {
                        place.sparse += piece.length as u64;
                    }
                    place.blocks.push(ready.size);
                    done += piece.length as u64;
                }
                Job::Fragment(pieces) => {
                    fragments.push(format::FragmentEntry {
                        start_block: (*offset).into(),
                        size: ready.size.into(),
                        unused: 0.into(),
                    });
                    done += pieces.iter().map(|piece| piece.length as u64).sum::<u64>();
                }
            }
            *offset += ready.bytes.len() as u64;
        }
        progress(done);
    }
    Ok(fragments)
}

/// Everything but file data.
struct Tables<'a> {
    tree: &'a Tree,
    places: Vec<Place64>,
    xattrs: &'a XattrSets,
    /// Ids with their numbers in the table, in the order of appearance.
    ids: BTreeMap<u32, u16>,
    inode_places: Vec<Place>,
}

impl Tables<'_> {
    /// Inodes, listings, and the place of the root's inode.
    fn inodes(&mut self, compression: Compression) -> Result<(Vec<u8>, Vec<u8>, Place), Error> {
        let tree = self.tree;
        let mut first = Compressor::new(compression)?;
        let mut second = Compressor::new(compression)?;
        let mut inodes = Metadata::new(&mut first);
        let mut listings = Metadata::new(&mut second);
        for (id, inode) in tree.inodes() {
            if !inode.is_directory() {
                self.inode_places[id.index()] = inodes.place();
                let bytes = self.leaf(id, inode)?;
                inodes.write(&bytes);
            }
        }
        // Nodes are in path order, so every directory comes after what it holds.
        let directories: Vec<(NodeId, InodeId)> = tree
            .nodes()
            .filter(|(_, node)| tree.inode(node.inode).is_directory())
            .map(|(id, node)| (id, node.inode))
            .collect();
        for (node, id) in directories.into_iter().rev() {
            let start = listings.place();
            let (bytes, subdirectories) = self.listing(node);
            listings.write(&bytes);
            self.inode_places[id.index()] = inodes.place();
            let bytes = self.directory(node, id, start, bytes.len(), subdirectories)?;
            inodes.write(&bytes);
        }
        let root = self.inode_places[tree.node(NodeId::ROOT).inode.index()];
        Ok((inodes.finish().0, listings.finish().0, root))
    }

    fn header(&mut self, id: InodeId, inode: &Inode, kind: u16) -> Result<Vec<u8>, Error> {
        let header = format::InodeHeader {
            inode_type: kind.into(),
            mode: inode.mode.into(),
            uid: self.id(id, inode.uid)?.into(),
            guid: self.id(id, inode.gid)?.into(),
            mtime: seconds(inode.mtime).into(),
            inode_number: number(id).into(),
        };
        Ok(header.as_bytes().to_vec())
    }

    fn id(&mut self, inode: InodeId, id: u32) -> Result<u16, Error> {
        if let Some(&known) = self.ids.get(&id) {
            return Ok(known);
        }
        let next = u16::try_from(self.ids.len())
            .ok()
            .filter(|&next| next < u16::MAX)
            .ok_or_else(|| Error::Unarchivable {
                path: self.tree.path_of_inode(inode),
                why: "squashfs has room for 65535 different owners and groups",
            })?;
        self.ids.insert(id, next);
        Ok(next)
    }

    fn id_table(&self) -> Vec<u8> {
        let mut ids: Vec<(u16, u32)> = self.ids.iter().map(|(&id, &at)| (at, id)).collect();
        ids.sort_unstable();
        ids.iter().flat_map(|(_, id)| id.to_le_bytes()).collect()
    }

    /// An inode that is no directory.
    fn leaf(&mut self, id: InodeId, inode: &Inode) -> Result<Vec<u8>, Error> {
        let xattr = self.xattrs.of(inode);
        let links = inode.links.to_le_bytes();
        let extended = if xattr == NO_XATTRS {
            0
        } else {
            kind::EXTENDED
        };
        let mut end: Vec<u8> = Vec::new();
        if xattr != NO_XATTRS {
            end.extend_from_slice(&xattr.to_le_bytes());
        }
        let simple = |kind: u16, middle: &[u8]| (kind + extended, [&links[..], middle].concat());
        let (kind, body) = match &inode.kind {
            Kind::File(content) => return self.file(id, inode, content, xattr),
            Kind::Symlink(target) => {
                let length = small(target.len()).to_le_bytes();
                simple(kind::SYMLINK, &[&length[..], target].concat())
            }
            Kind::CharDevice(device) => simple(kind::CHAR_DEVICE, &device_number(*device)),
            Kind::BlockDevice(device) => simple(kind::BLOCK_DEVICE, &device_number(*device)),
            Kind::Fifo => simple(kind::FIFO, &[]),
            // Directories have a function of their own.
            Kind::Socket | Kind::Directory => simple(kind::SOCKET, &[]),
        };
        let mut bytes = self.header(id, inode, kind)?;
        bytes.extend_from_slice(&body);
        bytes.extend_from_slice(&end);
        Ok(bytes)
    }

    fn file(
        &mut self,
        id: InodeId,
        inode: &Inode,
        content: &Content,
        xattr: u32,
    ) -> Result<Vec<u8>, Error> {
        let place = std::mem::take(&mut self.places[id.index()]);
        let (fragment, offset) = place.fragment.unwrap_or((NO_FRAGMENT, 0));
        let short = (xattr == NO_XATTRS && inode.links == 1 && place.sparse == 0)
            .then(|| {
                u32::try_from(content.size)
                    .ok()
                    .zip(u32::try_from(place.start).ok())
            })
            .flatten();
        let mut bytes;
        if let Some((size, start)) = short {
            bytes = self.header(id, inode, kind::FILE)?;
            let file = format::File {
                start_block: start.into(),
                fragment: fragment.into(),
                offset: offset.into(),
                file_size: size.into(),
            };
            bytes.extend_from_slice(file.as_bytes());
        } else {
            bytes = self.header(id, inode, kind::FILE + kind::EXTENDED)?;
            let file = format::LongFile {
                start_block: place.start.into(),
                file_size: content.size.into(),
                // All of a file cannot be a hole to the kernel's statistics.
                sparse: place.sparse.min(content.size.saturating_sub(1)).into(),
                nlink: inode.links.into(),
                fragment: fragment.into(),
                offset: offset.into(),
                xattr: xattr.into(),
            };
            bytes.extend_from_slice(file.as_bytes());
        }
        for size in place.blocks {
            bytes.extend_from_slice(&size.to_le_bytes());
        }
        Ok(bytes)
    }

    /// The listing of a directory, and how many directories are in it.
    fn listing(&self, directory: NodeId) -> (Vec<u8>, u32) {
        let tree = self.tree;
        let entries = tree.children(directory);
        let mut bytes = Vec::new();
        let mut subdirectories = 0;
        let mut at = 0;
        while at < entries.len() {
            let inode = |at: usize| tree.node(entries[at]).inode;
            let (base, block) = (
                number(inode(at)),
                self.inode_places[inode(at).index()].block,
            );
            let relative = |at: usize| {
                let difference = i64::from(number(inode(at))) - i64::from(base);
                i16::try_from(difference).ok()
            };
            let end = (at..entries.len().min(at + format::ENTRIES_OF_HEADER))
                .find(|&at| {
                    self.inode_places[inode(at).index()].block != block || relative(at).is_none()
                })
                .unwrap_or_else(|| entries.len().min(at + format::ENTRIES_OF_HEADER));
            let header = format::DirectoryHeader {
                count: small(end - at - 1).into(),
                start_block: u32::try_from(block).unwrap_or(u32::MAX).into(),
                inode_number: base.into(),
            };
            bytes.extend_from_slice(header.as_bytes());
            for (at, &entry_id) in entries.iter().enumerate().take(end).skip(at) {
                let name = tree.name(entry_id);
                let kind = basic_kind(&tree.inode(inode(at)).kind);
                subdirectories += u32::from(kind == kind::DIRECTORY);
                let entry = format::DirectoryEntry {
                    offset: self.inode_places[inode(at).index()].offset.into(),
                    inode_number: relative(at).unwrap_or(0).into(),
                    entry_type: kind.into(),
                    size: u16::try_from(name.len().saturating_sub(1))
                        .unwrap_or(0)
                        .into(),
                };
                bytes.extend_from_slice(entry.as_bytes());
                bytes.extend_from_slice(name);
            }
            at = end;
        }
        (bytes, subdirectories)
    }

    fn directory(
        &mut self,
        node: NodeId,
        id: InodeId,
        start: Place,
        length: usize,
        subdirectories: u32,
    ) -> Result<Vec<u8>, Error> {
        let tree = self.tree;
        let inode = tree.inode(id);
        let xattr = self.xattrs.of(inode);
        // The root's parent is a number that no inode has.
        let parent = if node == NodeId::ROOT {
            small(tree.inodes().len()) + 1
        } else {
            number(tree.node(tree.node(node).parent).inode)
        };
        let size = length + format::LISTING_EXTRA;
        let nlink = 2 + subdirectories;
        let block = u32::try_from(start.block).unwrap_or(u32::MAX);
        let mut bytes;
        match u16::try_from(size) {
            Ok(size) if xattr == NO_XATTRS => {
                bytes = self.header(id, inode, kind::DIRECTORY)?;
                let directory = format::Directory {
                    start_block: block.into(),
                    nlink: nlink.into(),
                    file_size: size.into(),
                    offset: start.offset.into(),
                    parent_inode: parent.into(),
                };
                bytes.extend_from_slice(directory.as_bytes());
            }
            _ => {
                bytes = self.header(id, inode, kind::DIRECTORY + kind::EXTENDED)?;
                let directory = format::LongDirectory {
                    nlink: nlink.into(),
                    file_size: small(size).into(),
                    start_block: block.into(),
                    parent_inode: parent.into(),
                    i_count: 0.into(),
                    offset: start.offset.into(),
                    xattr: xattr.into(),
                };
                bytes.extend_from_slice(directory.as_bytes());
            }
        }
        Ok(bytes)
    }
}

/// Inodes are numbered as the tree has them, from 1.
fn number(id: InodeId) -> u32 {
    id.0.saturating_add(1)
}

fn basic_kind(kind: &Kind) -> u16 {
    match kind {
        Kind::Directory => kind::DIRECTORY,
        Kind::File(_) => kind::FILE,
        Kind::Symlink(_) => kind::SYMLINK,
        Kind::CharDevice(_) => kind::CHAR_DEVICE,
        Kind::BlockDevice(_) => kind::BLOCK_DEVICE,
        Kind::Fifo => kind::FIFO,
        Kind::Socket => kind::SOCKET,
    }
}

/// As Linux packs major (12 bits) and minor (20 bits) into 32.
fn device_number(device: Device) -> [u8; 4] {
    let Device { major, minor } = device;
    (minor & 0xFF | major << 8 | (minor & !0xFF) << 12).to_le_bytes()
}

/// The different sets of extended attributes.
struct XattrSets {
    sets: Vec<Arc<Xattrs>>,
    numbers: BTreeMap<Arc<Xattrs>, u32>,
}

/// The name space of an attribute and the rest of its name; `None` for those
/// that squashfs has no place for.
fn split(name: &[u8]) -> Option<(u16, &[u8])> {
    (0..)
        .zip(PREFIXES)
        .find_map(|(number, prefix)| Some((number, name.strip_prefix(prefix)?)))
}

impl XattrSets {
    fn collect(tree: &Tree, warnings: &mut Vec<String>) -> XattrSets {
        let mut found = XattrSets {
            sets: Vec::new(),
            numbers: BTreeMap::new(),
        };
        for (id, inode) in tree.inodes() {
            let Some(set) = &inode.xattrs else { continue };
            for name in set.keys().filter(|name| split(name).is_none()) {
                warnings.push(format!(
                    "`{}` has the attribute `{}`, which squashfs does not hold",
                    tree.path_of_inode(id).display(),
                    String::from_utf8_lossy(name)
                ));
            }
            if set.keys().any(|name| split(name).is_some()) && !found.numbers.contains_key(set) {
                let next = small(found.sets.len());
                found.numbers.insert(Arc::clone(set), next);
                found.sets.push(Arc::clone(set));
            }
        }
        found
    }

    fn of(&self, inode: &Inode) -> u32 {
        inode
            .xattrs
            .as_ref()
            .and_then(|set| self.numbers.get(set))
            .copied()
            .unwrap_or(NO_XATTRS)
    }

    /// The table as it is at `start`, and where in it the header is.
    fn table(&self, compressor: &mut Compressor, start: u64) -> Option<(Vec<u8>, u64)> {
        if self.sets.is_empty() {
            return None;
        }
        let mut values = Metadata::new(compressor);
        let mut ids: Vec<u8> = Vec::new();
        for set in &self.sets {
            let place = values.place();
            let mut bytes: Vec<u8> = Vec::new();
            let mut count = 0u32;
            for (name, value) in set.iter() {
                let Some((space, name)) = split(name) else {
                    continue;
                };
                count += 1;
                bytes.extend_from_slice(&space.to_le_bytes());
                // Linux has no longer names than 255 bytes.
                let length = u16::try_from(name.len()).unwrap_or(u16::MAX);
                bytes.extend_from_slice(&length.to_le_bytes());
                bytes.extend_from_slice(name);
                bytes.extend_from_slice(&small(value.len()).to_le_bytes());
                bytes.extend_from_slice(value);
            }
            values.write(&bytes);
            let id = format::XattrId {
                xattr: place.reference().into(),
                count: count.into(),
                size: small(bytes.len()).into(),
            };
            ids.extend_from_slice(id.as_bytes());
        }
        let (mut stored, _) = values.finish();
        let (table, index) = {
            let begin = start + stored.len() as u64;
            table(compressor, &ids, begin)
        };
        let index = usize::try_from(index)
            .unwrap_or(table.len())
            .min(table.len());
        stored.extend_from_slice(&table[..index]);
        let header = stored.len() as u64;
        let about = format::XattrTable {
            xattr_table_start: start.into(),
            xattr_ids: small(self.sets.len()).into(),
            unused: 0.into(),
        };
        stored.extend_from_slice(about.as_bytes());
        stored.extend_from_slice(&table[index..]);
        Some((stored, header))
    }
}
