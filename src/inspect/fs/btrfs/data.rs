//! The data of files: in items, in extents, compressed or not.

use zerocopy::FromBytes as _;

use super::super::content::{File, MAX_UNIT, Piece, Source, Unit};
use super::super::inode::Inode as _;
use super::super::{Error, MAX_RUNS, Run};
use super::tree::Span;
use super::{Btrfs, Node, corrupt};
use crate::disk::fs::btrfs::format::{EXTENT_DATA, FileData, FileExtent, MAX_COMPRESSED};
use crate::inspect::Volume;
use crate::inspect::decompress::{Decompressor, Method};

/// Kinds of data.
const INLINE: u8 = 0;
const REGULAR: u8 = 1;
const PREALLOCATED: u8 = 2;

impl Btrfs {
    /// The data of a file or a link.
    pub(super) fn data(&self, volume: &Volume<'_>, node: &Node) -> Result<File, Error> {
        let mut data = Data {
            btrfs: self,
            node,
            runs: Vec::new(),
            pieces: Vec::new(),
            next: 0,
        };
        let span = Span::of(node.number, EXTENT_DATA);
        let top = node.tree.top;
        self.blocks.scan(volume, top, span, &mut |key, item| {
            data.add(key.offset, item)?;
            Ok(true)
        })?;
        Ok(File::with_pieces(node.size(), data.runs, data.pieces))
    }

    fn method(&self, number: u8) -> Option<Method> {
        Some(match number {
            1 => Method::Zlib,
            2 => Method::LzoSectors {
                sector: self.sector,
            },
            3 => Method::Zstd,
            _ => return None,
        })
    }
}

struct Data<'a> {
    btrfs: &'a Btrfs,
    node: &'a Node,
    runs: Vec<Run>,
    pieces: Vec<Piece>,
    /// First byte of the file that may come next.
    next: u64,
}

impl Data<'_> {
    fn damaged<T>(&self, what: &'static str) -> Result<T, Error> {
        corrupt(self.node.place(), what)
    }

    fn add(&mut self, offset: u64, item: &[u8]) -> Result<(), Error> {
        let Ok((head, rest)) = FileData::read_from_prefix(item) else {
            return self.damaged("an extent of its data is cut off");
        };
        if head.encryption != 0 || head.other_encoding.get() != 0 {
            return Err(Error::Unsupported {
                what: format!("has encoded its {}", self.node.place()),
            });
        }
        let method = self.btrfs.method(head.compression);
        if head.compression != 0 && method.is_none() {
            let number = head.compression;
            return Err(Error::Unsupported {
                what: format!(
                    "has compressed its {} by method {number}",
                    self.node.place()
                ),
            });
        }
        if self.runs.len() + self.pieces.len() >= MAX_RUNS {
            return Err(Error::Unsupported {
                what: format!("has its {} in too many pieces", self.node.place()),
            });
        }
        if offset < self.next {
            return self.damaged("its extents overlap");
        }
        match head.kind {
            INLINE => self.inline(offset, &head, method, rest),
            REGULAR | PREALLOCATED => match FileExtent::read_from_prefix(rest) {
                Ok((extent, _)) => self.extent(offset, &head, method, &extent),
                Err(_) => self.damaged("an extent of its data is cut off"),
            },
            _ => self.damaged("an extent of its data is of no known kind"),
        }
    }

    fn inline(
        &mut self,
        offset: u64,
        head: &FileData,
        method: Option<Method>,
        stored: &[u8],
    ) -> Result<(), Error> {
        let length = head.ram_bytes.get();
        // It comes from a block of a tree, and stands for a sector at most.
        if offset != 0 || length > u64::from(self.btrfs.sector.max(self.btrfs.blocks.size)) {
            return self.damaged("data in its item is out of place");
        }
        let mut bytes = stored.to_vec();
        if let Some(method) = method {
            bytes.resize(MAX_COMPRESSED as usize, 0);
            let filled = Decompressor::default().decompress(method, stored, &mut bytes);
            let Some(filled) = filled else {
                return self.damaged("compressed data in its item cannot be decompressed");
            };
            bytes.truncate(filled);
        }
        bytes.truncate(usize::try_from(length).unwrap_or(0));
        bytes.shrink_to_fit();
        self.next = length.next_multiple_of(self.btrfs.sector.into());
        self.pieces.push(Piece {
            offset,
            length,
            source: Source::Bytes(bytes),
        });
        Ok(())
    }

    fn extent(
        &mut self,
        offset: u64,
        head: &FileData,
        method: Option<Method>,
        extent: &FileExtent,
    ) -> Result<(), Error> {
        let length = extent.num_bytes.get();
        let skip = extent.offset.get();
        let (address, stored) = (extent.disk_bytenr.get(), extent.disk_num_bytes.get());
        let (Some(end), Some(used)) = (offset.checked_add(length), skip.checked_add(length)) else {
            return self.damaged("an extent of its data has an impossible length");
        };
        self.next = end;
        // Holes, and what is allocated but not written, are zeros.
        if address == 0 || head.kind == PREALLOCATED || length == 0 {
            return Ok(());
        }
        let chunks = &self.btrfs.blocks.chunks;
        let Some(method) = method else {
            if used > stored {
                return self.damaged("an extent of its data is longer than what is stored");
            }
            let run = Run {
                offset,
                length,
                at: chunks.place(address, stored)? + skip,
            };
            match self.runs.last_mut() {
                Some(last)
                    if last.offset + last.length == run.offset
                        && last.at.checked_add(last.length) == Some(run.at) =>
                {
                    last.length += run.length;
                }
                _ => self.runs.push(run),
            }
            return Ok(());
        };
        let units = u32::try_from(stored).ok().filter(|&own| own <= MAX_UNIT);
        let (Some(units), true) = (units, used <= u64::from(MAX_COMPRESSED)) else {
            return self.damaged("a compressed extent of its data is too long");
        };
        let unit = Unit {
            at: chunks.place(address, stored)?,
            stored: units,
            length: MAX_COMPRESSED,
            least: 0,
            method,
        };
        self.pieces.push(Piece {
            offset,
            length,
            source: Source::Unit(unit, skip),
        });
        Ok(())
    }
}
