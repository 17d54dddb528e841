//! Bytes of a disk that are read as a whole: a partition, a logical volume, or all
//! of it.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use zerocopy::{FromBytes, IntoBytes};

use super::fs::Error;
use super::mapping::Mapping;
use crate::sink::{ReadAt, Reader};

/// Bytes of a page of the cache.
const PAGE: u64 = 4096;
/// Pages that are kept; each has one place, by its number.
const PAGES: usize = 256;

/// Bytes of a disk, for one thread.
///
/// Small reads go through a cache of [`PAGES`] pages, since the tables of
/// filesystems are read entry by entry.
pub struct Volume<'a> {
    reader: RefCell<Box<dyn Reader + 'a>>,
    cache: RefCell<Vec<Option<Page>>>,
    place: Place,
    length: u64,
    /// Of the disk.
    disk_length: u64,
}

/// Where a volume is.
#[derive(Debug)]
enum Place {
    /// In one range of the disk, from this byte on.
    Range(u64),
    /// All over it.
    Mapped(Arc<Mapping>),
}

struct Page {
    number: u64,
    bytes: Box<[u8]>,
}

impl fmt::Debug for Volume<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Volume")
            .field("place", &self.place)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

impl<'a> Volume<'a> {
    /// `length` bytes of a disk from `offset` on; what lies beyond the disk's end
    /// is left off.
    pub fn new(disk: &'a dyn ReadAt, offset: u64, length: u64) -> Volume<'a> {
        let offset = offset.min(disk.length());
        let length = length.min(disk.length() - offset);
        Volume::at(disk, Place::Range(offset), length)
    }

    /// The bytes of a disk that a mapping puts together. Those that it has beyond the
    /// disk's end cannot be read.
    pub fn mapped(disk: &'a dyn ReadAt, mapping: Arc<Mapping>) -> Volume<'a> {
        let length = mapping.length();
        Volume::at(disk, Place::Mapped(mapping), length)
    }

    fn at(disk: &'a dyn ReadAt, place: Place, length: u64) -> Volume<'a> {
        Volume {
            reader: RefCell::new(disk.reader()),
            cache: RefCell::new((0..PAGES).map(|_| None).collect()),
            place,
            length,
            disk_length: disk.length(),
        }
    }

    /// A whole disk.
    pub fn whole(disk: &'a dyn ReadAt) -> Volume<'a> {
        Volume::new(disk, 0, disk.length())
    }

    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Fills `buffer` with the bytes from `offset` on.
    ///
    /// # Errors
    /// The range leaves the volume, or the image cannot be read.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let length = buffer.len() as u64;
        if offset
            .checked_add(length)
            .is_none_or(|end| end > self.length)
        {
            return Err(Error::OutOfRange {
                offset,
                length,
                end: self.length,
            });
        }
        if length > PAGE {
            return self.read_through(offset, buffer);
        }
        let mut at = offset;
        let mut rest = buffer;
        while !rest.is_empty() {
            let number = at / PAGE;
            let skip = usize::try_from(at % PAGE).unwrap_or(0);
            let mut cache = self.cache.borrow_mut();
            let place = usize::try_from(number % (PAGES as u64)).unwrap_or(0);
            let slot = &mut cache[place];
            if slot.as_ref().is_none_or(|page| page.number != number) {
                let start = number * PAGE;
                let size = usize::try_from((self.length - start).min(PAGE)).unwrap_or(0);
                let mut bytes = vec![0; size].into_boxed_slice();
                self.read_through(start, &mut bytes)?;
                *slot = Some(Page { number, bytes });
            }
            let bytes = slot
                .as_ref()
                .and_then(|page| page.bytes.get(skip..))
                .unwrap_or_default();
            let (now, later) = rest.split_at_mut(bytes.len().min(rest.len()));
            now.copy_from_slice(&bytes[..now.len()]);
            at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    fn read_through(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let mapping = match &self.place {
            Place::Range(start) => return self.read_disk(start + offset, offset, buffer),
            Place::Mapped(mapping) => mapping,
        };
        let mut offset = offset;
        let mut rest = buffer;
        while !rest.is_empty() {
            let (place, length) = mapping.at(offset);
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at_mut(length.min(rest.len()));
            match place {
                Some(place) => self.read_disk(place, offset, now)?,
                None => now.fill(0),
            }
            offset += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    /// Reads from the disk what is at `offset` of the volume.
    fn read_disk(&self, at: u64, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let length = buffer.len() as u64;
        if at
            .checked_add(length)
            .is_none_or(|end| end > self.disk_length)
        {
            return Err(Error::OutOfRange {
                offset,
                length,
                end: self.length,
            });
        }
        self.reader
            .borrow_mut()
            .read_at(at, buffer)
            .map_err(|source| Error::Read { offset, source })
    }

    /// A structure at `offset`.
    ///
    /// # Errors
    /// As [`Volume::read_at`].
    pub fn structure<T: FromBytes + IntoBytes>(&self, offset: u64) -> Result<T, Error> {
        let mut structure = T::new_zeroed();
        self.read_at(offset, structure.as_mut_bytes())?;
        Ok(structure)
    }

    /// `length` bytes at `offset`; the caller bounds the length.
    ///
    /// # Errors
    /// As [`Volume::read_at`].
    pub fn bytes(&self, offset: u64, length: u64) -> Result<Vec<u8>, Error> {
        if length > self.length {
            return Err(Error::OutOfRange {
                offset,
                length,
                end: self.length,
            });
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        self.read_at(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Whether these bytes are at `offset`.
    pub fn has(&self, offset: u64, magic: &[u8]) -> bool {
        let mut bytes = vec![0; magic.len()];
        self.read_at(offset, &mut bytes).is_ok() && bytes == magic
    }
}
