//! Reads squashfs 4.0, compressed by any of Linux' compressors.
//!
//! Specification: see [`crate::sink::squashfs::format`].

use zerocopy::FromBytes as _;
use zerocopy::little_endian::{U16, U32, U64};

use super::content::{File, MAX_UNIT, Piece, Source, Unit};
use super::{Entry, Error, FileId, FileKind, MAX_RUNS, Metadata, Run, is_plain_name};
use crate::inspect::Volume;
use crate::inspect::decompress::Method;
use crate::sink::squashfs::format::{
    self as disk, DATA_PLAIN, DirectoryEntry, DirectoryHeader, ENTRIES_OF_HEADER, FragmentEntry,
    InodeHeader, LISTING_EXTRA, MAGIC, METADATA_SIZE, NO_FRAGMENT, NO_TABLE, NO_XATTRS, SuperBlock,
    XattrId, XattrTable, compressor, kind,
};
use crate::tree::{Device, Timestamp, Xattrs};

mod metadata;

use metadata::{Blocks, Cursor};

/// Longest listing of a directory, in bytes: metadata may be compressed a thousand
/// times, so that it is not bounded by the image.
const MAX_LISTING: u64 = 64 << 20;
/// Longest target of a link.
const MAX_TARGET: u32 = 64 << 10;
/// Longest value of an attribute, and all of a file's together.
const MAX_VALUE: u32 = 64 << 10;
const MAX_VALUES: usize = 1 << 20;
/// Set in the number of an attribute's prefix if its value is elsewhere.
const VALUE_ELSEWHERE: u16 = 0x100;
/// Places of listings, apart from those of inodes.
const LISTINGS: u64 = 1 << 63;

/// What is known of a filesystem.
#[derive(Debug)]
pub(super) struct SquashFs {
    superblock: SuperBlock,
    method: Method,
    blocks: Blocks,
    /// Owners and groups, which inodes have by their places here.
    ids: Vec<u32>,
}

/// An inode.
#[derive(Debug)]
struct Node {
    place: String,
    header: InodeHeader,
    kind: FileKind,
    links: u32,
    size: u64,
    xattr: u32,
    body: Body,
}

/// What an inode has of its own.
#[derive(Debug)]
enum Body {
    /// Reference of a directory's listing.
    Directory(u64),
    /// Where a file's blocks begin; the fragment of its end and where it is in
    /// that; block and byte of the list of lengths.
    File {
        start: u64,
        fragment: u32,
        offset: u32,
        list: (u64, usize),
    },
    Symlink(Vec<u8>),
    Device(u32),
    Other,
}

fn corrupt<T>(place: impl Into<String>, what: &'static str) -> Result<T, Error> {
    Err(Error::Corrupt {
        kind: "squashfs",
        place: place.into(),
        what,
    })
}

pub(super) fn is_squashfs(volume: &Volume<'_>) -> bool {
    volume.has(0, &MAGIC.to_le_bytes())
}

impl SquashFs {
    pub(super) fn open(volume: &Volume<'_>) -> Result<SquashFs, Error> {
        let place = "its superblock";
        let superblock: SuperBlock = volume.structure(0)?;
        let version = (superblock.s_major.get(), superblock.s_minor.get());
        if version != (4, 0) {
            return Err(Error::Unsupported {
                what: format!("is squashfs {}.{}", version.0, version.1),
            });
        }
        let method = match superblock.compression.get() {
            compressor::GZIP => Method::Zlib,
            compressor::LZO => Method::Lzo,
            compressor::XZ => Method::Xz,
            compressor::LZ4 => Method::Lz4,
            compressor::ZSTD => Method::Zstd,
            compressor::LZMA => {
                return Err(Error::Unsupported {
                    what: "is squashfs compressed by lzma".to_owned(),
                });
            }
            number => {
                return Err(Error::Unsupported {
                    what: format!("is squashfs compressed by method {number}"),
                });
            }
        };
        let size = superblock.block_size.get();
        let log = u32::from(superblock.block_log.get());
        if !(4096..=MAX_UNIT).contains(&size) || 1_u32.checked_shl(log) != Some(size) {
            return corrupt(place, "the size of blocks is impossible");
        }
        let mut squashfs = SquashFs {
            blocks: Blocks::new(method, superblock.bytes_used.get()),
            superblock,
            method,
            ids: Vec::new(),
        };
        let count = squashfs.superblock.no_ids.get();
        let table = squashfs.superblock.id_table_start.get();
        for at in 0..u64::from(count).div_ceil((METADATA_SIZE / 4) as u64) {
            let block = squashfs.indexed(volume, table, at)?;
            let left = usize::from(count) - squashfs.ids.len();
            let mut cursor = Cursor::new(&squashfs.blocks, volume, block, 0)?;
            let bytes = cursor.bytes(left.min(METADATA_SIZE / 4) * 4)?;
            let (ids, _) = bytes.as_chunks::<4>();
            squashfs
                .ids
                .extend(ids.iter().map(|id| u32::from_le_bytes(*id)));
        }
        Ok(squashfs)
    }

    /// Where a block of a table is, by the table's index.
    fn indexed(&self, volume: &Volume<'_>, index: u64, number: u64) -> Result<u64, Error> {
        match index.checked_add(number * 8) {
            Some(at) => Ok(volume.structure::<U64>(at)?.get()),
            None => corrupt("its superblock", "a table is nowhere"),
        }
    }

    pub(super) fn root(&self) -> FileId {
        FileId(self.superblock.root_inode.get())
    }

    pub(super) fn space(&self) -> (u64, Option<u64>) {
        (self.superblock.bytes_used.get(), Some(0))
    }

    /// What a message calls a file.
    pub(super) fn place(file: FileId) -> String {
        format!("inode {}:{}", file.0 >> 16, file.0 & 0xFFFF)
    }

    fn node(&self, volume: &Volume<'_>, file: FileId) -> Result<Node, Error> {
        let place = SquashFs::place(file);
        let table = self.superblock.inode_table_start.get();
        let mut cursor = Cursor::new(&self.blocks, volume, table, file.0)?;
        let header: InodeHeader = cursor.structure()?;
        let number = header.inode_type.get();
        let long = number > kind::EXTENDED;
        let basic = if long {
            number - kind::EXTENDED
        } else {
            number
        };
        let mut xattr = NO_XATTRS;
        let (kind, links, size, body) = match basic {
            kind::DIRECTORY => {
                let reference = |block: U32, offset: U16| {
                    Body::Directory(u64::from(block.get()) << 16 | u64::from(offset.get()))
                };
                let (links, size, body) = if long {
                    let own: disk::LongDirectory = cursor.structure()?;
                    xattr = own.xattr.get();
                    let body = reference(own.start_block, own.offset);
                    (own.nlink.get(), own.file_size.get(), body)
                } else {
                    let own: disk::Directory = cursor.structure()?;
                    let body = reference(own.start_block, own.offset);
                    (own.nlink.get(), own.file_size.get().into(), body)
                };
                (FileKind::Directory, links, u64::from(size), body)
            }
            kind::FILE => {
                let (links, size, start, fragment, offset) = if long {
                    let own: disk::LongFile = cursor.structure()?;
                    xattr = own.xattr.get();
                    let start = own.start_block.get();
                    let fragment = (own.fragment.get(), own.offset.get());
                    let size = own.file_size.get();
                    (own.nlink.get(), size, start, fragment.0, fragment.1)
                } else {
                    let own: disk::File = cursor.structure()?;
                    let start = own.start_block.get().into();
                    let fragment = (own.fragment.get(), own.offset.get());
                    (1, own.file_size.get().into(), start, fragment.0, fragment.1)
                };
                let body = Body::File {
                    start,
                    fragment,
                    offset,
                    list: (cursor.block, cursor.offset),
                };
                (FileKind::File, links, size, body)
            }
            kind::SYMLINK => {
                let own: disk::Symlink = cursor.structure()?;
                let size = own.symlink_size.get();
                if size > MAX_TARGET {
                    return corrupt(place, "the target of a link is too long");
                }
                let target = cursor.bytes(usize::try_from(size).unwrap_or(0))?;
                let links = own.nlink.get();
                (FileKind::Symlink, links, size.into(), Body::Symlink(target))
            }
            kind::BLOCK_DEVICE | kind::CHAR_DEVICE => {
                let own: disk::DeviceNode = cursor.structure()?;
                let kind = match basic {
                    kind::BLOCK_DEVICE => FileKind::BlockDevice,
                    _ => FileKind::CharDevice,
                };
                (kind, own.nlink.get(), 0, Body::Device(own.rdev.get()))
            }
            kind::FIFO => (
                FileKind::Fifo,
                cursor.structure::<U32>()?.get(),
                0,
                Body::Other,
            ),
            kind::SOCKET => (
                FileKind::Socket,
                cursor.structure::<U32>()?.get(),
                0,
                Body::Other,
            ),
            _ => return corrupt(place, "it is no kind of file"),
        };
        if long && !matches!(kind, FileKind::Directory | FileKind::File) {
            xattr = cursor.structure::<U32>()?.get();
        }
        Ok(Node {
            place,
            header,
            kind,
            links,
            size,
            xattr,
            body,
        })
    }

    pub(super) fn metadata(&self, volume: &Volume<'_>, file: FileId) -> Result<Metadata, Error> {
        let node = self.node(volume, file)?;
        let id = |index: U16| match self.ids.get(usize::from(index.get())) {
            Some(id) => Ok(*id),
            None => corrupt(node.place.as_str(), "its owner is not in the table"),
        };
        let device = match node.body {
            Body::Device(number) => Some(Device {
                major: number >> 8 & 0xFFF,
                minor: number & 0xFF | number >> 12 & 0xF_FF00,
            }),
            _ => None,
        };
        Ok(Metadata {
            kind: node.kind,
            mode: node.header.mode.get() & 0o7777,
            uid: id(node.header.uid)?,
            gid: id(node.header.guid)?,
            size: node.size,
            mtime: Timestamp {
                seconds: node.header.mtime.get().into(),
                nanoseconds: 0,
            },
            links: node.links,
            device,
        })
    }

    /// The listing of a directory, and the range that it is.
    fn listing(&self, volume: &Volume<'_>, file: FileId) -> Result<(Vec<u8>, Run), Error> {
        let node = self.node(volume, file)?;
        let Body::Directory(reference) = node.body else {
            return Err(Error::NotADirectory { path: node.place });
        };
        let length = node.size.saturating_sub(LISTING_EXTRA as u64);
        if length > MAX_LISTING {
            return corrupt(node.place, "a directory is too large");
        }
        let table = self.superblock.directory_table_start.get();
        let mut run = Run::whole(LISTINGS | reference, 0);
        if length == 0 {
            return Ok((Vec::new(), run));
        }
        let mut cursor = Cursor::new(&self.blocks, volume, table, reference)?;
        let bytes = cursor.bytes(usize::try_from(length).unwrap_or(0))?;
        let end = (cursor.block - table) << 16 | cursor.offset as u64;
        run.length = end.saturating_sub(reference);
        Ok((bytes, run))
    }

    /// Where a directory's inode and listing are, in places of their own order.
    pub(super) fn directory_extents(
        &self,
        volume: &Volume<'_>,
        file: FileId,
    ) -> Result<Vec<Run>, Error> {
        Ok(vec![Run::whole(file.0, 1), self.listing(volume, file)?.1])
    }

    pub(super) fn entries(&self, volume: &Volume<'_>, file: FileId) -> Result<Vec<Entry>, Error> {
        let (bytes, _) = self.listing(volume, file)?;
        let place = || SquashFs::place(file);
        let mut entries = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let Ok((header, after)) = DirectoryHeader::read_from_prefix(rest) else {
                return corrupt(place(), "a listing is cut off");
            };
            rest = after;
            if u64::from(header.count.get()) >= ENTRIES_OF_HEADER as u64 {
                return corrupt(place(), "a listing has too many entries below one head");
            }
            for _ in 0..=header.count.get() {
                let entry = DirectoryEntry::read_from_prefix(rest).ok();
                let parsed = entry.and_then(|(entry, after)| {
                    let length = usize::from(entry.size.get()).checked_add(1)?;
                    let (name, after) = after.split_at_checked(length)?;
                    Some((entry, name, after))
                });
                let Some((entry, name, after)) = parsed else {
                    return corrupt(place(), "a listing is cut off");
                };
                if !is_plain_name(name) {
                    return corrupt(place(), "a name is empty or has a slash or a zero byte");
                }
                let block = u64::from(header.start_block.get()) << 16;
                entries.push(Entry {
                    name: name.to_vec(),
                    file: FileId(block | u64::from(entry.offset.get())),
                });
                rest = after;
            }
        }
        Ok(entries)
    }

    pub(super) fn link_target(&self, volume: &Volume<'_>, file: FileId) -> Result<Vec<u8>, Error> {
        let node = self.node(volume, file)?;
        match node.body {
            Body::Symlink(target) if target.is_empty() || target.contains(&0) => {
                corrupt(node.place, "a link leads nowhere")
            }
            Body::Symlink(target) => Ok(target),
            _ => Err(Error::NotALink {
                path: node.place,
                what: node.kind.phrase(),
            }),
        }
    }

    pub(super) fn file(&self, volume: &Volume<'_>, file: FileId) -> Result<File, Error> {
        let node = self.node(volume, file)?;
        let Body::File {
            start,
            fragment,
            offset,
            list,
        } = node.body
        else {
            return Err(Error::NotAFile {
                path: node.place,
                what: node.kind.phrase(),
            });
        };
        let size = u64::from(self.superblock.block_size.get());
        let count = match fragment {
            NO_FRAGMENT => node.size.div_ceil(size),
            _ => node.size / size,
        };
        let Some(count) = usize::try_from(count).ok().filter(|&own| own <= MAX_RUNS) else {
            return Err(Error::Unsupported {
                what: format!("has its {} in too many pieces", node.place),
            });
        };
        let mut cursor = Cursor::new(&self.blocks, volume, list.0, list.1 as u64)?;
        let lengths = cursor.bytes(count * 4)?;
        let (mut runs, mut pieces) = (Vec::new(), Vec::new());
        let (mut at, mut done) = (start, 0);
        for length in lengths.as_chunks::<4>().0 {
            let length = u32::from_le_bytes(*length);
            let wanted = size.min(node.size - done);
            let stored = length & !DATA_PLAIN;
            // What has no length is a hole.
            if length != 0 {
                let place = node.place.as_str();
                self.add(
                    place,
                    (at, length),
                    (done, wanted, 0),
                    &mut runs,
                    &mut pieces,
                )?;
            }
            at = at.saturating_add(stored.into());
            done += wanted;
        }
        if fragment != NO_FRAGMENT && done < node.size {
            let entry = self.fragment(volume, fragment, &node.place)?;
            let part = (done, node.size - done, u64::from(offset));
            let stored = (entry.start_block.get(), entry.size.get());
            self.add(&node.place, stored, part, &mut runs, &mut pieces)?;
        }
        Ok(File::with_pieces(node.size, runs, pieces))
    }

    /// Adds a part of a file (where in the file, length, where in the block) that is
    /// in a block (where on the volume, length and form).
    fn add(
        &self,
        place: &str,
        (at, form): (u64, u32),
        (offset, length, skip): (u64, u64, u64),
        runs: &mut Vec<Run>,
        pieces: &mut Vec<Piece>,
    ) -> Result<(), Error> {
        let stored = form & !DATA_PLAIN;
        let most = self.superblock.block_size.get();
        let end = at.checked_add(stored.into());
        let least = skip + length;
        let inside = end.is_some_and(|end| end <= self.superblock.bytes_used.get());
        if stored == 0 || stored > most || least > most.into() || !inside {
            return corrupt(place, "a block of its data has an impossible place");
        }
        if form & DATA_PLAIN != 0 {
            if least > stored.into() {
                return corrupt(place, "a block of its data is too short");
            }
            let at = at + skip;
            runs.push(Run { offset, length, at });
            return Ok(());
        }
        let unit = Unit {
            at,
            stored,
            length: most,
            least: u32::try_from(least).unwrap_or(most),
            method: self.method,
        };
        pieces.push(Piece {
            offset,
            length,
            source: Source::Unit(unit, skip),
        });
        Ok(())
    }

    fn fragment(
        &self,
        volume: &Volume<'_>,
        number: u32,
        place: &str,
    ) -> Result<FragmentEntry, Error> {
        let table = self.superblock.fragment_table_start.get();
        if number >= self.superblock.fragments.get() || table == NO_TABLE {
            return corrupt(place, "the fragment with its end is not in the table");
        }
        self.entry_of(volume, table, number)
    }

    /// An entry of 16 bytes of a table with an index.
    fn entry_of<T: zerocopy::FromBytes>(
        &self,
        volume: &Volume<'_>,
        index: u64,
        number: u32,
    ) -> Result<T, Error> {
        let per_block = METADATA_SIZE as u64 / 16;
        let number = u64::from(number);
        let block = self.indexed(volume, index, number / per_block)?;
        Cursor::new(&self.blocks, volume, block, number % per_block * 16)?.structure()
    }

    pub(super) fn xattrs(&self, volume: &Volume<'_>, file: FileId) -> Result<Xattrs, Error> {
        let node = self.node(volume, file)?;
        let mut set = Xattrs::new();
        let table = self.superblock.xattr_id_table_start.get();
        if node.xattr == NO_XATTRS || table == NO_TABLE {
            return Ok(set);
        }
        let header: XattrTable = volume.structure(table)?;
        let Some(index) = table
            .checked_add(size_of::<XattrTable>() as u64)
            .filter(|_| node.xattr < header.xattr_ids.get())
        else {
            return corrupt(node.place, "its attributes are not in the table");
        };
        let own: XattrId = self.entry_of(volume, index, node.xattr)?;
        let start = header.xattr_table_start.get();
        let mut cursor = Cursor::new(&self.blocks, volume, start, own.xattr.get())?;
        let mut all = 0;
        for _ in 0..own.count.get() {
            let number = cursor.structure::<U16>()?.get();
            let length = cursor.structure::<U16>()?.get();
            let prefix: &[u8] = match number & !VALUE_ELSEWHERE {
                0 => b"user.",
                1 => b"trusted.",
                2 => b"security.",
                _ => return corrupt(node.place, "an attribute has a prefix that is not known"),
            };
            let name = [prefix, &cursor.bytes(length.into())?].concat();
            let mut value = SquashFs::value(&mut cursor, &node.place)?;
            if number & VALUE_ELSEWHERE != 0 {
                let Ok(reference) = U64::read_from_bytes(&value) else {
                    return corrupt(node.place, "the value of an attribute is nowhere");
                };
                let mut cursor = Cursor::new(&self.blocks, volume, start, reference.get())?;
                value = SquashFs::value(&mut cursor, &node.place)?;
            }
            // Many empty ones are too many as well.
            all += name.len() + value.len() + size_of::<U64>();
            if all > MAX_VALUES {
                return corrupt(node.place, "its attributes are too large");
            }
            set.insert(name.into(), value.into());
        }
        Ok(set)
    }

    fn value(cursor: &mut Cursor<'_, '_>, place: &str) -> Result<Vec<u8>, Error> {
        let length = cursor.structure::<U32>()?.get();
        if length > MAX_VALUE {
            return corrupt(place, "the value of an attribute is too long");
        }
        cursor.bytes(usize::try_from(length).unwrap_or(0))
    }
}
