//! Trees of items: found by their keys, walked in their order.
//!
//! A block is checked when it is read: its checksum, that it is the block that was
//! asked for, and that its keys ascend. On the way down, its keys have to be within
//! what the block above it promises; so each item of a tree is met once, whatever
//! a forged tree leads to.

use std::cell::RefCell;
use std::rc::Rc;

use zerocopy::FromBytes as _;

use super::super::Error;
use super::checksum::Checksum;
use super::chunks::Chunks;
use super::corrupt;
use crate::disk::fs::btrfs::format::{Header, Item, Key, Pointer};
use crate::inspect::Volume;

/// Bytes of blocks that are kept.
const CACHE: usize = 8 << 20;
/// Level of the highest block that a tree may have.
const MAX_LEVEL: u8 = 7;

/// The top block of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Top {
    pub address: u64,
    pub level: u8,
    pub generation: u64,
}

/// Reads the blocks of trees.
#[derive(Debug)]
pub(super) struct Blocks {
    pub size: u32,
    pub checksum: Checksum,
    pub fsid: [u8; 16],
    pub chunks: Chunks,
    /// Each block has one place, by its address.
    cache: RefCell<Vec<Option<Rc<Block>>>>,
}

/// A block that was found sound.
#[derive(Debug)]
struct Block {
    top: Top,
    /// Behind the header.
    bytes: Vec<u8>,
    keys: Vec<Key>,
}

/// First and last key of a walk, both included.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub from: Key,
    pub to: Key,
}

impl Span {
    /// All items of one kind of an object.
    pub(super) fn of(object: u64, kind: u8) -> Span {
        let key = |offset| Key {
            object,
            kind,
            offset,
        };
        Span {
            from: key(0),
            to: key(u64::MAX),
        }
    }
}

/// What is done with an item: whether to go on.
type Visit<'v> = dyn FnMut(Key, &[u8]) -> Result<bool, Error> + 'v;

impl Blocks {
    pub(super) fn new(size: u32, checksum: Checksum, fsid: [u8; 16], chunks: Chunks) -> Blocks {
        let places = (CACHE / (size as usize).max(1)).max(1);
        Blocks {
            size,
            checksum,
            fsid,
            chunks,
            cache: RefCell::new(vec![None; places]),
        }
    }

    /// Visits the items of a tree whose keys are in a span, in their order, until
    /// one says that it is enough.
    pub(super) fn scan(
        &self,
        volume: &Volume<'_>,
        top: Top,
        span: Span,
        visit: &mut Visit<'_>,
    ) -> Result<(), Error> {
        if top.level > MAX_LEVEL {
            return corrupt(format!("block {}", top.address), "its tree is too high");
        }
        self.below(volume, top, None, None, span, visit)?;
        Ok(())
    }

    /// The item of a key.
    pub(super) fn find(
        &self,
        volume: &Volume<'_>,
        top: Top,
        key: Key,
    ) -> Result<Option<Vec<u8>>, Error> {
        let mut found = None;
        let span = Span { from: key, to: key };
        self.scan(volume, top, span, &mut |_, item| {
            found = Some(item.to_vec());
            Ok(false)
        })?;
        Ok(found)
    }

    /// Visits what is below a block; its first key must be `low`, and all must be
    /// before `high`.
    fn below(
        &self,
        volume: &Volume<'_>,
        top: Top,
        low: Option<Key>,
        high: Option<Key>,
        span: Span,
        visit: &mut Visit<'_>,
    ) -> Result<bool, Error> {
        let block = self.block(volume, top)?;
        let place = || format!("block {}", top.address);
        let (first, last) = (block.keys.first(), block.keys.last());
        let starts = low.is_none() || first == low.as_ref();
        let ends = high.is_none_or(|high| last.is_some_and(|&last| last < high));
        if !starts || !ends {
            return corrupt(
                place(),
                "its keys are not those that the block above it says",
            );
        }
        if top.level == 0 {
            let start = block.keys.partition_point(|&key| key < span.from);
            for (at, &key) in block.keys.iter().enumerate().skip(start) {
                if key > span.to {
                    return Ok(false);
                }
                if !visit(key, block.item(at))? {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        let start = block.keys.partition_point(|&key| key <= span.from);
        for at in start.saturating_sub(1)..block.keys.len() {
            let key = block.keys[at];
            if key > span.to {
                return Ok(false);
            }
            let Some(child) = block.pointer(at) else {
                return corrupt(place(), "it is cut off");
            };
            let next = block.keys.get(at + 1).copied().or(high);
            if !self.below(volume, child, Some(key), next, span, visit)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A block, from the cache or from any of its copies.
    fn block(&self, volume: &Volume<'_>, top: Top) -> Result<Rc<Block>, Error> {
        let mut cache = self.cache.borrow_mut();
        let places = cache.len() as u64;
        let place = top.address / u64::from(self.size) % places;
        let slot = &mut cache[usize::try_from(place).unwrap_or(0)];
        if let Some(block) = slot
            && block.top == top
        {
            return Ok(Rc::clone(block));
        }
        let mut failed = None;
        for at in self.chunks.copies(top.address, self.size.into())? {
            let read = volume.bytes(at, self.size.into());
            match read.and_then(|bytes| self.parse(&bytes, top)) {
                Ok(block) => {
                    let block = Rc::new(block);
                    *slot = Some(Rc::clone(&block));
                    return Ok(block);
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match failed {
            Some(error) => Err(error),
            None => corrupt(format!("block {}", top.address), "it is nowhere"),
        }
    }

    fn parse(&self, bytes: &[u8], top: Top) -> Result<Block, Error> {
        let damaged = |what| corrupt(format!("block {}", top.address), what);
        if !self.checksum.holds(bytes) {
            return damaged("its checksum is wrong");
        }
        let Ok((header, rest)) = Header::read_from_prefix(bytes) else {
            return damaged("it is cut off");
        };
        if header.bytenr.get() != top.address || header.fsid != self.fsid {
            return damaged("it is another block");
        }
        if header.level != top.level || header.generation.get() != top.generation {
            return damaged("it is not of the time or the level that leads to it");
        }
        let size = match top.level {
            0 => size_of::<Item>(),
            _ => size_of::<Pointer>(),
        };
        let count = usize::try_from(header.nritems.get()).unwrap_or(usize::MAX);
        if count > rest.len() / size || count == 0 && top.level > 0 {
            return damaged("its number of items is impossible");
        }
        let mut block = Block {
            top,
            bytes: rest.to_vec(),
            keys: Vec::with_capacity(count),
        };
        for at in 0..count {
            let key = match top.level {
                0 => block.head(at).map(|item| {
                    let start = item.offset.get() as usize;
                    let end = start.checked_add(item.size.get() as usize);
                    let inside = start >= count * size && end.is_some_and(|end| end <= rest.len());
                    inside.then(|| Key::from(item.key))
                }),
                _ => block.entry(at).map(|pointer| Some(pointer.key.into())),
            };
            let Some(key) = key.flatten() else {
                return damaged("an item leaves it");
            };
            if block.keys.last().is_some_and(|&last| last >= key) {
                return damaged("its keys are not sorted");
            }
            block.keys.push(key);
        }
        Ok(block)
    }
}

impl Block {
    fn head(&self, at: usize) -> Option<Item> {
        let rest = self.bytes.get(at * size_of::<Item>()..)?;
        Item::read_from_prefix(rest).ok().map(|(item, _)| item)
    }

    fn entry(&self, at: usize) -> Option<Pointer> {
        let rest = self.bytes.get(at * size_of::<Pointer>()..)?;
        Pointer::read_from_prefix(rest).ok().map(|(own, _)| own)
    }

    /// The data of an item, which is within the block.
    fn item(&self, at: usize) -> &[u8] {
        let range = self.head(at).map(|item| {
            let start = item.offset.get() as usize;
            start..start + item.size.get() as usize
        });
        range
            .and_then(|range| self.bytes.get(range))
            .unwrap_or_default()
    }

    /// What a pointer leads to.
    fn pointer(&self, at: usize) -> Option<Top> {
        let pointer = self.entry(at)?;
        Some(Top {
            address: pointer.blockptr.get(),
            level: self.top.level.checked_sub(1)?,
            generation: pointer.generation.get(),
        })
    }
}
