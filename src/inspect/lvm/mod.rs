//! Finds the logical volumes of a disk.
//!
//! Any partition may be a physical volume, and so may a disk without any. Each names
//! its metadata areas; these are rings in which the text that describes the group is
//! written anew with every change. Of all texts with a right checksum the one with
//! the highest number counts, so that a damaged copy does no harm. Linear, striped
//! and thin volumes are read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use zerocopy::FromBytes as _;

use super::Volume;
use super::fs::Error;
use super::mapping::{BadPiece, Budget, Mapping, Piece, Place};
use crate::disk::lvm::format::{
    DiskLocation, LABEL_ID, LABEL_TYPE, MDA_MAGIC, MdaHeader, RawLocation, SECTOR, TEXT_OFFSET, crc,
};
use crate::disk::lvm::parse::{Description, LvDescription, PvDescription, SegmentKind};
use crate::sink::ReadAt;

mod thin;

/// Sectors in which a label may be.
const LABEL_SECTORS: u64 = 4;
/// Length of a label before the header of the physical volume.
const LABEL_HEADER: usize = 32;
/// Bytes of all texts of a disk that are read, at most. LVM makes areas of 1 MiB, but
/// labels of many partitions can lead to one place.
const MAX_TEXTS: u64 = 16 << 20;
/// Metadata area: it is not to be used.
const AREA_IGNORED: u32 = 1;
/// Most areas that a physical volume may name.
const MAX_AREAS: usize = 16;
/// Volumes that consist of volumes that consist of volumes: LVM's own are four deep.
const MAX_DEPTH: usize = 16;
/// Most pieces that all logical volumes of a disk may consist of.
const MAX_PIECES: usize = 4 << 20;

/// A logical volume of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logical {
    /// Name of its volume group.
    pub group: String,
    /// Its own name.
    pub name: String,
}

impl Logical {
    /// What device-mapper calls it below `/dev/mapper`: hyphens in names are doubled.
    pub fn mapper_name(&self) -> String {
        let double = |name: &str| name.replace('-', "--");
        format!("{}-{}", double(&self.group), double(&self.name))
    }
}

impl std::fmt::Display for Logical {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.group, self.name)
    }
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The logical volumes that programs list, in the order of their groups and
    /// texts; where they are, or why that is not known.
    pub volumes: Vec<(Logical, Result<Arc<Mapping>, String>)>,
    /// Of each range that was given: what is wrong with it as a physical volume.
    pub problems: Vec<Option<String>>,
}

/// A physical volume.
struct Physical {
    /// Identity without dashes.
    id: String,
    /// First byte on the disk.
    start: u64,
    length: u64,
    /// Readable texts.
    texts: Vec<Description>,
}

/// Looks for logical volumes in the ranges of a disk that have the mark of a
/// physical volume; first bytes and lengths.
pub(super) fn find(disk: &dyn ReadAt, ranges: &[(u64, u64)]) -> Found {
    let mut found = Found::default();
    let mut physical: Vec<Physical> = Vec::new();
    let mut room = MAX_TEXTS;
    for &(start, length) in ranges {
        let volume = Volume::new(disk, start, length);
        let read = read_physical(&volume, start, &mut room);
        found.problems.push(match read {
            Ok((volume, problem)) => {
                // Of copies of one, the first counts.
                if physical.iter().all(|other| other.id != volume.id) {
                    physical.push(volume);
                }
                problem
            }
            Err(problem) => Some(problem),
        });
    }
    // The newest text of each group.
    let mut groups: BTreeMap<(&str, &str), &Description> = BTreeMap::new();
    for text in physical.iter().flat_map(|volume| &volume.texts) {
        let newest = groups.entry((&text.name, &text.id)).or_insert(text);
        if text.seqno > newest.seqno {
            *newest = text;
        }
    }
    let mut budget = Budget(MAX_PIECES);
    for description in groups.into_values() {
        let mut group = Group {
            disk,
            description,
            // Of several with one name, the first counts.
            pvs: description
                .pvs
                .iter()
                .rev()
                .map(|pv| (&*pv.name, pv))
                .collect(),
            lvs: description
                .lvs
                .iter()
                .rev()
                .map(|lv| (&*lv.name, lv))
                .collect(),
            physical: &physical,
            budget: &mut budget,
            known: BTreeMap::new(),
            underway: BTreeSet::new(),
        };
        for lv in description.lvs.iter().filter(|lv| lv.visible) {
            if lv.segments.iter().any(|part| is_pool(&part.kind)) {
                continue;
            }
            let logical = Logical {
                group: description.name.clone(),
                name: lv.name.clone(),
            };
            found.volumes.push((logical, group.volume(lv)));
        }
    }
    found
}

fn is_pool(kind: &SegmentKind) -> bool {
    matches!(kind, SegmentKind::ThinPool { .. })
}

/// Reads the label of a physical volume and the texts that it leads to; the string
/// says what is wrong with them. `room` is how many bytes of texts may yet be read.
fn read_physical(
    volume: &Volume<'_>,
    start: u64,
    room: &mut u64,
) -> Result<(Physical, Option<String>), String> {
    let sector = usize::try_from(SECTOR).unwrap_or(0);
    let label = (0..LABEL_SECTORS).find_map(|number| {
        let bytes = volume.bytes(number * SECTOR, SECTOR).ok()?;
        let word = |at: usize| {
            let word = bytes.get(at..)?.first_chunk()?;
            Some(u32::from_le_bytes(*word))
        };
        let own = bytes.get(8..16)? == number.to_le_bytes()
            && bytes.starts_with(&LABEL_ID)
            && bytes.get(24..32)? == LABEL_TYPE
            && word(16)? == crc(bytes.get(20..)?);
        let header = usize::try_from(word(20)?).ok()?;
        (own && (LABEL_HEADER..sector).contains(&header)).then(|| bytes[header..].to_vec())
    });
    let cut_off = || "its label is cut off".to_owned();
    let label = label.ok_or("its label is damaged")?;
    // Identity and length come first, then the areas for data, then those for
    // metadata; zeros end each list.
    let id = label.get(..32).ok_or_else(cut_off)?;
    let id = String::from_utf8_lossy(id).into_owned();
    let mut rest = label.get(40..).ok_or_else(cut_off)?;
    let mut lists = [Vec::new(), Vec::new()];
    for list in &mut lists {
        loop {
            let (location, after) = DiskLocation::read_from_prefix(rest).map_err(|_| cut_off())?;
            rest = after;
            if location.offset.get() == 0 || list.len() >= MAX_AREAS {
                break;
            }
            list.push(location);
        }
    }
    let [_, areas] = lists;
    let mut physical = Physical {
        id,
        start,
        length: volume.length(),
        texts: Vec::new(),
    };
    let mut problem = None;
    for area in &areas {
        match read_area(volume, area.offset.get(), room) {
            Ok(Some(text)) => physical.texts.push(text),
            Ok(None) => {}
            Err(error) => problem = Some(error),
        }
    }
    // One text is enough.
    let problem = problem.filter(|_| physical.texts.is_empty());
    Ok((physical, problem))
}

/// The text of a metadata area; `None` if it has none.
fn read_area(volume: &Volume<'_>, at: u64, room: &mut u64) -> Result<Option<Description>, String> {
    let unreadable = |error: Error| error.to_string();
    let bytes = volume.bytes(at, SECTOR).map_err(unreadable)?;
    let damaged = || "its metadata area is damaged".to_owned();
    let header = MdaHeader::read_from_bytes(&bytes).map_err(|_| damaged())?;
    if header.magic != MDA_MAGIC
        || header.checksum.get() != crc(&bytes[4..])
        || header.version.get() != 1
        || header.start.get() != at
    {
        return Err(damaged());
    }
    let RawLocation {
        offset,
        size,
        checksum,
        flags,
    } = header.raw_location;
    let (offset, size) = (offset.get(), size.get());
    if offset == 0 || size == 0 || flags.get() & AREA_IGNORED != 0 {
        return Ok(None);
    }
    // The header comes first, the rest of the area is a ring.
    let end = header.size.get();
    if offset < TEXT_OFFSET || offset >= end || size > end - TEXT_OFFSET {
        return Err(damaged());
    }
    *room = room
        .checked_sub(size)
        .ok_or("its metadata is longer than any that LVM writes")?;
    let first = size.min(end - offset);
    let mut text = volume
        .bytes(at.saturating_add(offset), first)
        .map_err(unreadable)?;
    let wrapped = volume.bytes(at.saturating_add(TEXT_OFFSET), size - first);
    text.extend(wrapped.map_err(unreadable)?);
    if crc(&text) != checksum.get() {
        return Err("its metadata has a wrong checksum".to_owned());
    }
    let text = String::from_utf8_lossy(&text);
    let text = Description::parse(text.trim_end_matches('\0'));
    text.map(Some).map_err(|error| error.to_string())
}

/// A volume group whose volumes are looked for.
struct Group<'g> {
    disk: &'g dyn ReadAt,
    description: &'g Description,
    /// What it describes, by name.
    pvs: BTreeMap<&'g str, &'g PvDescription>,
    lvs: BTreeMap<&'g str, &'g LvDescription>,
    physical: &'g [Physical],
    budget: &'g mut Budget,
    /// Volumes that were found, by name.
    known: BTreeMap<&'g str, Result<Arc<Mapping>, String>>,
    /// Volumes on the way to the one that is looked for.
    underway: BTreeSet<&'g str>,
}

impl<'g> Group<'g> {
    /// Where a volume is.
    fn volume(&mut self, lv: &'g LvDescription) -> Result<Arc<Mapping>, String> {
        if let Some(known) = self.known.get(lv.name.as_str()) {
            return known.clone();
        }
        if !self.underway.insert(&lv.name) {
            return Err(format!("`{}` consists of itself", lv.name));
        }
        if self.underway.len() > MAX_DEPTH {
            self.underway.remove(lv.name.as_str());
            return Err("volumes consist of volumes too often".to_owned());
        }
        let mapping = self.segments(lv).map(Arc::new);
        self.underway.remove(lv.name.as_str());
        self.known.insert(&lv.name, mapping.clone());
        mapping
    }

    fn named(&mut self, name: &str) -> Result<Arc<Mapping>, String> {
        match self.lvs.get(name) {
            Some(lv) => self.volume(lv),
            None => Err(format!("its group has no volume `{name}`")),
        }
    }

    fn segments(&mut self, lv: &'g LvDescription) -> Result<Mapping, String> {
        let description = self.description;
        let bytes = |extents: u64| {
            let bytes = extents.checked_mul(description.extent_size);
            bytes.ok_or_else(|| "its length is impossible".to_owned())
        };
        let mut extents = 0_u64;
        for part in &lv.segments {
            if part.start != extents || part.count == 0 {
                return Err("its segments overlap or leave gaps".to_owned());
            }
            extents = extents.saturating_add(part.count);
        }
        if extents == 0 {
            return Err("it has no segments".to_owned());
        }
        let mut mapping = Mapping::empty(bytes(extents)?);
        let bad = |BadPiece| "its pieces are too many, or out of order".to_owned();
        for part in &lv.segments {
            let (start, length) = (bytes(part.start)?, bytes(part.count)?);
            match &part.kind {
                SegmentKind::Striped { stripes, .. } if stripes.len() == 1 => {
                    let (name, extent) = &stripes[0];
                    let from = bytes(*extent)?;
                    if let Some(at) = self.range(name, from, length)? {
                        let piece = Piece {
                            start,
                            length,
                            place: Place::Linear(at),
                        };
                        mapping.push(piece, self.budget).map_err(bad)?;
                    } else {
                        let of = self.named(name)?;
                        if from.checked_add(length).is_none_or(|end| end > of.length()) {
                            return Err(format!("it leaves volume `{name}`"));
                        }
                        mapping
                            .push_part(start, &of, from, length, self.budget)
                            .map_err(bad)?;
                    }
                }
                SegmentKind::Striped {
                    stripes,
                    stripe_size,
                } => {
                    let count = stripes.len() as u64;
                    if !part.count.is_multiple_of(count) {
                        return Err("its stripes are not of one length".to_owned());
                    }
                    let mut at = Vec::with_capacity(stripes.len());
                    for (name, extent) in stripes {
                        let range = self.range(name, bytes(*extent)?, length / count)?;
                        at.push(range.ok_or("it has stripes of other volumes")?);
                    }
                    let piece = Piece {
                        start,
                        length,
                        place: Place::Striped {
                            at: at.into(),
                            size: *stripe_size,
                        },
                    };
                    mapping.push(piece, self.budget).map_err(bad)?;
                }
                SegmentKind::Thin { pool, device } => {
                    let thin = self.thin(pool, *device, length)?;
                    mapping
                        .push_part(start, &thin, 0, length, self.budget)
                        .map_err(bad)?;
                }
                SegmentKind::ThinPool { .. } => return Err("it is a thin pool".to_owned()),
                SegmentKind::Other(kind) => {
                    return Err(format!("its type is `{kind}`, which kiln does not read"));
                }
            }
        }
        Ok(mapping)
    }

    /// Where a range of a physical volume is on the disk; `None` if no physical
    /// volume of the group has this name.
    fn range(&self, name: &str, from: u64, length: u64) -> Result<Option<u64>, String> {
        let Some(pv) = self.pvs.get(name) else {
            return Ok(None);
        };
        let Some(physical) = self.physical.iter().find(|own| own.id == pv.id) else {
            return Err(format!(
                "physical volume `{name}` of group `{}` is not on this disk",
                self.description.name
            ));
        };
        let from = from.checked_add(pv.pe_start);
        let end = from.and_then(|from| from.checked_add(length));
        match (from, end) {
            (Some(from), Some(end)) if end <= physical.length => {
                Ok(Some(physical.start.saturating_add(from)))
            }
            _ => Err(format!("it leaves physical volume `{name}`")),
        }
    }

    /// Where a volume of a pool is.
    fn thin(&mut self, pool: &str, device: u64, length: u64) -> Result<Mapping, String> {
        let segments = self.lvs.get(pool).map(|lv| &lv.segments);
        let parts = segments
            .into_iter()
            .flatten()
            .find_map(|part| match &part.kind {
                SegmentKind::ThinPool { metadata, data } => Some((metadata, data)),
                _ => None,
            });
        let Some((metadata, data)) = parts else {
            return Err(format!("its pool `{pool}` is none"));
        };
        let (metadata, data) = (self.named(metadata)?, self.named(data)?);
        let metadata = Volume::mapped(self.disk, metadata);
        thin::read(&metadata, &data, device, length, self.budget)
            .map_err(|problem| format!("its pool `{pool}` is damaged: {problem}"))
    }
}

#[cfg(test)]
mod tests;
