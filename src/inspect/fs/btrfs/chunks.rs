//! From addresses to places on the one device.

use std::collections::BTreeMap;

use zerocopy::FromBytes as _;

use super::super::Error;
use super::corrupt;
use crate::disk::fs::btrfs::format::{CHUNK_ITEM, Chunk, DUP, DiskKey, Key, RAID, RAID0, Stripe};

/// Copies of a chunk on one device: two, or three in all versions to come.
const MAX_COPIES: usize = 4;

/// The chunks of a filesystem by their addresses.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    known: BTreeMap<u64, Place>,
}

/// A chunk.
#[derive(Debug)]
struct Place {
    length: u64,
    /// Where its copies are on the device.
    copies: Vec<u64>,
}

impl Chunks {
    /// The chunks of the superblock: those with the tree of chunks.
    pub(super) fn of_superblock(array: &[u8], device: u64) -> Result<Chunks, Error> {
        let mut chunks = Chunks::default();
        let mut rest = array;
        while !rest.is_empty() {
            let Ok((key, after)) = DiskKey::read_from_prefix(rest) else {
                return corrupt("its superblock", "its list of chunks is cut off");
            };
            let used = chunks.add(key.into(), after, device)?;
            rest = after.get(used..).unwrap_or_default();
        }
        Ok(chunks)
    }

    /// Adds a chunk item; says how long it is. One that is known already, from the
    /// superblock, is not added again.
    pub(super) fn add(&mut self, key: Key, item: &[u8], device: u64) -> Result<usize, Error> {
        let place = || format!("chunk {}", key.offset);
        let Ok((chunk, mut rest)) = Chunk::read_from_prefix(item) else {
            return corrupt(place(), "it is cut off");
        };
        let count = usize::from(chunk.num_stripes.get());
        let more = count.saturating_sub(1) * size_of::<Stripe>();
        let used = size_of::<Chunk>() + more;
        if key.kind != CHUNK_ITEM || count == 0 || item.len() < used {
            return corrupt(place(), "it is no chunk");
        }
        let length = chunk.length.get();
        let start = key.offset;
        let Some(end) = start.checked_add(length).filter(|_| length > 0) else {
            return corrupt(place(), "its length is impossible");
        };
        let kind = chunk.kind.get();
        if kind & RAID & !RAID0 != 0 || kind & RAID0 != 0 && count > 1 {
            return Err(Error::Unsupported {
                what: "has data that is spread over several devices".to_owned(),
            });
        }
        if count > 1 && kind & DUP == 0 || count > MAX_COPIES {
            return corrupt(place(), "it has more copies than its type allows");
        }
        let mut stripes = vec![(chunk.devid.get(), chunk.offset.get())];
        for _ in 1..count {
            let Ok((stripe, after)) = Stripe::read_from_prefix(rest) else {
                return corrupt(place(), "it is cut off");
            };
            stripes.push((stripe.devid.get(), stripe.offset.get()));
            rest = after;
        }
        stripes.retain(|&(own, _)| own == device);
        if stripes.is_empty() {
            return Err(Error::Unsupported {
                what: "has data on another device".to_owned(),
            });
        }
        if stripes
            .iter()
            .any(|(_, at)| at.checked_add(length).is_none())
        {
            return corrupt(place(), "its place on the device is impossible");
        }
        let before = self.known.range(..end).next_back();
        match before {
            Some((&other, known)) if other == start && known.length == length => {}
            Some((&other, known)) if other + known.length > start => {
                return corrupt(place(), "it overlaps another chunk");
            }
            _ => {
                let copies = stripes.into_iter().map(|(_, at)| at).collect();
                self.known.insert(start, Place { length, copies });
            }
        }
        Ok(used)
    }

    /// Where the copies of a range begin on the device.
    pub(super) fn copies(
        &self,
        address: u64,
        length: u64,
    ) -> Result<impl Iterator<Item = u64> + '_, Error> {
        let found = self.known.range(..=address).next_back();
        let within = found.and_then(|(&start, place)| {
            let skip = address - start;
            let end = skip.checked_add(length)?;
            (end <= place.length).then_some((skip, place))
        });
        match within {
            Some((skip, place)) => Ok(place.copies.iter().map(move |copy| copy + skip)),
            None => corrupt(format!("address {address}"), "it is in no chunk"),
        }
    }

    /// Where a range of data is on the device.
    pub(super) fn place(&self, address: u64, length: u64) -> Result<u64, Error> {
        match self.copies(address, length)?.next() {
            Some(at) => Ok(at),
            None => corrupt(format!("address {address}"), "it is in no chunk"),
        }
    }
}
