//! Inodes, listings, and the table of ids: everything but file data.

use std::collections::BTreeMap;

use zerocopy::IntoBytes as _;

use super::format::{self, NO_FRAGMENT, NO_XATTRS, kind};
use super::metadata::{Metadata, Place};
use super::write::{Place64, seconds, small};
use super::xattrs::XattrSets;
use super::{Compression, Compressor};
use crate::sink::error::Error;
use crate::tree::{Content, Device, Inode, InodeId, Kind, NodeId, Tree};

/// Everything but file data.
pub(super) struct Tables<'a> {
    pub(super) tree: &'a Tree,
    pub(super) places: Vec<Place64>,
    pub(super) xattrs: &'a XattrSets,
    /// Ids with their numbers in the table, in the order of appearance.
    pub(super) ids: BTreeMap<u32, u16>,
    pub(super) inode_places: Vec<Place>,
}

impl Tables<'_> {
    /// Inodes, listings, and the place of the root's inode.
    pub(super) fn inodes(
        &mut self,
        compression: Compression,
    ) -> Result<(Vec<u8>, Vec<u8>, Place), Error> {
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

    pub(super) fn id_table(&self) -> Vec<u8> {
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
        let start = place.start.unwrap_or(0);
        let (fragment, offset) = place.fragment.unwrap_or((NO_FRAGMENT, 0));
        let short = (xattr == NO_XATTRS && inode.links == 1 && place.sparse == 0)
            .then(|| {
                u32::try_from(content.size)
                    .ok()
                    .zip(u32::try_from(start).ok())
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
                start_block: start.into(),
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
