//! LVM: volume groups with linear and thin logical volumes, written without LVM.
//!
//! Every physical volume has the same layout, but for what [`options`] say:
//!
//! ```text
//! 512      label and header
//! 4096     metadata area: header, then the text that describes the group
//! 1 MiB    extents of 4 MiB
//! ```
//!
//! Logical volumes take extents in order, over the physical volumes in the order
//! in which the group names them, as `lvcreate` does on an empty group. Striped ones
//! take as many of several physical volumes. A thin pool
//! takes them for its data, for its metadata, and once in a group for spare metadata
//! to repair with; see [`thin`] for what is in it.

use uuid::Uuid;
use zerocopy::IntoBytes as _;
use zerocopy::little_endian::{U32, U64};

use super::config::LvSize;

mod error;
pub mod format;
pub mod options;
pub mod parse;
mod pieces;
mod text;
pub mod thin;

pub use error::LvmError;
pub use pieces::{scatter, stripe};

use format::{EXTENT_SIZE, MDA_OFFSET, SECTOR, TEXT_OFFSET};
use options::{LvOptions, PvOptions, Stripes, VgOptions};

/// The identity of a physical volume: 32 letters and digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id([u8; 32]);

impl Id {
    /// Reads LVM's form, with dashes or without.
    pub fn parse(text: &str) -> Option<Id> {
        let letters: Vec<u8> = text.bytes().filter(|&byte| byte != b'-').collect();
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#".contains(byte);
        let id: [u8; 32] = letters.try_into().ok()?;
        id.iter().all(allowed).then_some(Id(id))
    }
}

impl From<Uuid> for Id {
    fn from(uuid: Uuid) -> Id {
        let mut id = [0; 32];
        uuid.simple().encode_lower(&mut id);
        Id(id)
    }
}

/// A physical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pv {
    /// Name, for errors.
    pub name: String,
    /// Identity.
    pub id: Id,
    /// Length in bytes of what it is on.
    pub bytes: u64,
    /// Where it probably is in the running system; only a hint.
    pub device: String,
    /// Its layout.
    pub options: PvOptions,
}

impl Pv {
    /// Its own length in bytes.
    fn length(&self) -> u64 {
        self.options.bytes.unwrap_or(self.bytes)
    }

    /// Extents that fit it.
    fn extents(&self, extent_size: u64) -> u64 {
        self.length().saturating_sub(self.options.data_start) / extent_size
    }
}

/// A logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lv {
    /// Name.
    pub name: String,
    /// Identity.
    pub uuid: Uuid,
    /// How large it should be.
    pub size: LvSize,
    /// Where its bytes are.
    pub kind: Kind,
    /// Its properties.
    pub options: LvOptions,
}

/// Where the bytes of a logical volume are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// In extents of its own.
    Linear,
    /// It has extents, but for the thin volumes that name it.
    ThinPool,
    /// In this pool, which is before it in the group.
    Thin(String),
}

/// A volume group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vg {
    /// Name.
    pub name: String,
    /// Identity.
    pub uuid: Uuid,
    /// Its physical volumes.
    pub pvs: Vec<Pv>,
    /// Its logical volumes.
    pub lvs: Vec<Lv>,
    /// When it was made, in seconds since 1970.
    pub creation_time: u64,
    /// Its properties.
    pub options: VgOptions,
}

/// Part of a logical volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Index of the physical volume.
    pub pv: usize,
    /// First byte in the physical volume.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
}

/// A volume group with all places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// For each physical volume its first bytes, up to the end of the metadata.
    pub headers: Vec<Vec<u8>>,
    /// For each logical volume where it is, in order.
    pub places: Vec<Place>,
    /// The thin pools.
    pub pools: Vec<Pool>,
}

/// Where a logical volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In these parts of physical volumes.
    Linear(Vec<Segment>),
    /// In turns in these parts of as many physical volumes.
    Striped {
        /// One part of each.
        parts: Vec<Segment>,
        /// Bytes of a turn.
        size: u64,
    },
    /// It is the pool with this index.
    Pool(usize),
    /// In a pool.
    Thin {
        /// Index of the pool.
        pool: usize,
        /// Index among the pool's volumes.
        volume: usize,
        /// Length in bytes.
        bytes: u64,
    },
}

/// A thin pool with its places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Name.
    pub name: String,
    /// Where its data is.
    pub data: Vec<Segment>,
    /// Where its metadata is.
    pub metadata: Vec<Segment>,
    /// Bytes that a volume takes at a time.
    pub chunk: u64,
    /// How many volumes it has.
    pub volumes: usize,
    /// Its properties.
    pub options: options::PoolOptions,
}

impl Pool {
    /// Length of its data in bytes.
    pub fn bytes(&self) -> u64 {
        length_of(&self.data)
    }
}

fn length_of(segments: &[Segment]) -> u64 {
    segments.iter().map(|segment| segment.length).sum()
}

/// Whether LVM takes this as a name of anything.
fn is_valid_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+_.-".contains(&byte);
    !matches!(name, "" | "." | "..")
        && name.len() < 128
        && !name.starts_with('-')
        && name.bytes().all(allowed)
}

/// What LVM's own hidden volumes are called by: `lvcreate` takes no name with it.
const RESERVED: [&str; 17] = [
    "_cdata", "_cmeta", "_corig", "_cpool", "_cvol", "_imeta", "_iorig", "_mimage", "_mlog",
    "_pmspare", "_rimage", "_rmeta", "_tdata", "_tmeta", "_vdata", "_vorigin", "_wcorig",
];

/// What names of logical volumes must not begin with.
const RESERVED_STARTS: [&str; 2] = ["pvmove", "snapshot"];

/// Checks the names of a group and of its logical volumes.
///
/// # Errors
/// [`LvmError::Name`] and [`LvmError::ReservedName`] for what LVM refuses.
pub fn check_names(vg: &str, lvs: &[Lv]) -> Result<(), LvmError> {
    let mut names = [vg]
        .into_iter()
        .chain(lvs.iter().map(|lv| lv.name.as_str()));
    if let Some(name) = names.find(|name| !is_valid_name(name)) {
        let name = name.to_owned();
        return Err(LvmError::Name { name });
    }
    for lv in lvs {
        let start = RESERVED_STARTS
            .iter()
            .find(|start| lv.name.starts_with(**start));
        let part = start.or_else(|| RESERVED.iter().find(|part| lv.name.contains(**part)));
        if let Some(part) = part {
            return Err(LvmError::ReservedName {
                lv: lv.name.clone(),
                part: (*part).to_owned(),
            });
        }
    }
    Ok(())
}

/// Extents that a logical volume asks for; `stripes` divide them.
fn wanted_extents(lv: &Lv, space: &Space<'_>, stripes: u64) -> Result<u64, LvmError> {
    let extent = space.vg.options.extent_size;
    let (total, free) = (space.total, space.free);
    let extents = match &lv.size {
        // DIB cuts sizes down to 4 MiB, and LVM makes whole extents of that.
        LvSize::Bytes(bytes) => (bytes - bytes % EXTENT_SIZE).div_ceil(extent),
        LvSize::Extents(text) => {
            let error = || LvmError::Extents {
                lv: lv.name.clone(),
                text: text.clone(),
            };
            match text.split_once('%') {
                None => text.parse::<u64>().map_err(|_| error())?,
                Some((number, of)) => {
                    let percent: u64 = number.parse().map_err(|_| error())?;
                    let of = match of.to_ascii_uppercase().as_str() {
                        "VG" | "PVS" => total,
                        "FREE" => free,
                        _ => return Err(error()),
                    };
                    // A share is at most what it says, also of whole stripes.
                    let extents = percent.checked_mul(of).ok_or_else(error)? / 100;
                    extents - extents % stripes
                }
            }
        }
    };
    if extents == 0 {
        return Err(LvmError::LvEmpty {
            lv: lv.name.clone(),
            extent,
        });
    }
    extents
        .checked_next_multiple_of(stripes)
        .ok_or_else(|| space.too_few(&lv.name, extents))
}

/// Places the logical volumes of a group and renders its metadata.
///
/// # Errors
/// See [`LvmError`].
pub fn plan(vg: &Vg) -> Result<Plan, LvmError> {
    check_group(vg)?;
    let extent = vg.options.extent_size;
    let mut total: u64 = 0;
    for pv in &vg.pvs {
        check_length(pv)?;
        let extents = pv.extents(extent);
        if extents == 0 {
            return Err(LvmError::PvTooSmall {
                pv: pv.name.clone(),
                bytes: pv.length(),
                metadata: pv.options.data_start,
                extent,
            });
        }
        total += extents;
    }
    let mut space = Space {
        vg,
        total,
        free: total,
        used: vec![0; vg.pvs.len()],
    };
    let mut places = Vec::with_capacity(vg.lvs.len());
    let mut pools: Vec<Pool> = Vec::new();
    for lv in &vg.lvs {
        places.push(place(lv, &mut space, &mut pools)?);
    }
    // Only a group with pools has one; the largest of them can use it.
    let with_spare = pools.iter().filter(|pool| pool.options.spare);
    let spare = with_spare.map(|pool| length_of(&pool.metadata)).max();
    let spare = match spare {
        Some(bytes) => space.take("lvol0_pmspare", bytes / extent)?,
        None => Vec::new(),
    };
    let text = text::metadata(vg, &places, &pools, &spare);
    let headers = vg
        .pvs
        .iter()
        .map(|pv| pv_header(pv, &text))
        .collect::<Option<_>>();
    match headers {
        Some(headers) => Ok(Plan {
            headers,
            places,
            pools,
        }),
        None => {
            let bytes = text.len() as u64;
            Err(LvmError::MetadataTooLong {
                vg: vg.name.clone(),
                bytes,
            })
        }
    }
}

/// Names that LVM takes, and as many volumes as the group's options allow.
fn check_group(vg: &Vg) -> Result<(), LvmError> {
    check_names(&vg.name, &vg.lvs)?;
    let limits = [
        ("logical", vg.lvs.len(), vg.options.max_lv),
        ("physical", vg.pvs.len(), vg.options.max_pv),
    ];
    for (what, count, most) in limits {
        if most > 0 && u32::try_from(count).map_or(true, |count| count > most) {
            return Err(LvmError::TooMany {
                vg: vg.name.clone(),
                what,
                count,
                most,
            });
        }
    }
    Ok(())
}

/// Places one logical volume; pools come to the others.
fn place(lv: &Lv, space: &mut Space<'_>, pools: &mut Vec<Pool>) -> Result<Place, LvmError> {
    let extent = space.vg.options.extent_size;
    if lv.options.stripes.is_some() && lv.kind != Kind::Linear {
        return Err(LvmError::StripedThin {
            vg: space.vg.name.clone(),
            lv: lv.name.clone(),
        });
    }
    Ok(match &lv.kind {
        Kind::Linear => match lv.options.stripes {
            None => {
                let wanted = wanted_extents(lv, space, 1)?;
                Place::Linear(space.take(&lv.name, wanted)?)
            }
            Some(stripes) => {
                let wanted = wanted_extents(lv, space, stripes.count)?;
                Place::Striped {
                    parts: space.take_striped(&lv.name, wanted, stripes)?,
                    size: stripes.size,
                }
            }
        },
        Kind::ThinPool => {
            let with_spare = pools.iter().filter(|pool| pool.options.spare);
            let spare = with_spare.map(|pool| length_of(&pool.metadata)).max();
            pools.push(place_pool(lv, spare.unwrap_or(0) / extent, space)?);
            Place::Pool(pools.len() - 1)
        }
        Kind::Thin(name) => {
            let pool = pools.iter().position(|pool| pool.name == *name);
            let pool = pool.ok_or_else(|| LvmError::NotAPool {
                lv: lv.name.clone(),
                pool: name.clone(),
                vg: space.vg.name.clone(),
            })?;
            let volume = pools[pool].volumes;
            pools[pool].volumes += 1;
            Place::Thin {
                pool,
                volume,
                bytes: wanted_extents(lv, space, 1)?.saturating_mul(extent),
            }
        }
    })
}

/// Places a pool. `spare` is how many extents a group keeps for repairs already.
fn place_pool(lv: &Lv, spare: u64, space: &mut Space<'_>) -> Result<Pool, LvmError> {
    let extent = space.vg.options.extent_size;
    let options = &lv.options.pool;
    let mut wanted = wanted_extents(lv, space, 1)?;
    let extents = |wanted: u64| {
        let sizes = thin::sizes(wanted.saturating_mul(extent), options);
        (sizes.chunk, sizes.metadata.div_ceil(extent))
    };
    let (mut chunk, mut metadata) = extents(wanted);
    if let LvSize::Extents(text) = &lv.size
        && text.contains('%')
    {
        // A share is of what there is, with all that belongs to the pool.
        let spare = match options.spare {
            true => metadata.saturating_sub(spare),
            false => 0,
        };
        let most = space.free.saturating_sub(metadata + spare);
        if most == 0 {
            return Err(LvmError::LvEmpty {
                lv: lv.name.clone(),
                extent,
            });
        }
        wanted = wanted.min(most);
        (chunk, metadata) = extents(wanted);
    }
    Ok(Pool {
        name: lv.name.clone(),
        data: space.take(&lv.name, wanted)?,
        metadata: space.take(&lv.name, metadata)?,
        chunk,
        volumes: 0,
        options: options.clone(),
    })
}

/// A physical volume ends within what it is on.
fn check_length(pv: &Pv) -> Result<(), LvmError> {
    match pv.options.bytes {
        Some(wanted) if wanted > pv.bytes => Err(LvmError::PvTooLarge {
            pv: pv.name.clone(),
            wanted,
            bytes: pv.bytes,
        }),
        _ => Ok(()),
    }
}

/// The free extents of a group.
struct Space<'a> {
    vg: &'a Vg,
    total: u64,
    free: u64,
    /// Extents in use of each physical volume, from its first on.
    used: Vec<u64>,
}

impl Space<'_> {
    /// The first free extents, over physical volumes in their order.
    fn take(&mut self, lv: &str, wanted: u64) -> Result<Vec<Segment>, LvmError> {
        if wanted > self.free {
            return Err(self.too_few(lv, wanted));
        }
        let mut left = wanted;
        let mut parts = Vec::new();
        for at in 0..self.used.len() {
            let here = self.left(at).min(left);
            if here > 0 {
                parts.push(self.part(at, here));
                left -= here;
            }
        }
        Ok(parts)
    }

    /// As many extents of each of several physical volumes.
    fn take_striped(
        &mut self,
        lv: &str,
        wanted: u64,
        stripes: Stripes,
    ) -> Result<Vec<Segment>, LvmError> {
        let extent = self.vg.options.extent_size;
        if stripes.size > extent {
            return Err(LvmError::StripeTooLong {
                lv: lv.to_owned(),
                stripe: stripes.size,
                extent,
            });
        }
        if wanted > self.free {
            return Err(self.too_few(lv, wanted));
        }
        let each = wanted / stripes.count;
        let enough = (0..self.used.len()).filter(|&at| self.left(at) >= each);
        let enough: Vec<usize> = enough.collect();
        let chosen = usize::try_from(stripes.count)
            .ok()
            .and_then(|count| enough.get(..count));
        match chosen {
            Some(chosen) => Ok(chosen.iter().map(|&at| self.part(at, each)).collect()),
            None => Err(LvmError::NoSpaceForStripes {
                vg: self.vg.name.clone(),
                lv: lv.to_owned(),
                wanted: each,
                stripes: stripes.count,
                found: enough.len(),
            }),
        }
    }

    fn left(&self, at: usize) -> u64 {
        let extents = self.vg.pvs[at].extents(self.vg.options.extent_size);
        extents.saturating_sub(self.used[at])
    }

    /// Takes extents that are free.
    fn part(&mut self, at: usize, count: u64) -> Segment {
        let extent = self.vg.options.extent_size;
        let start = self.vg.pvs[at].options.data_start;
        let part = Segment {
            pv: at,
            offset: start + self.used[at] * extent,
            length: count * extent,
        };
        self.used[at] += count;
        self.free -= count;
        part
    }

    fn too_few(&self, lv: &str, wanted: u64) -> LvmError {
        LvmError::NoSpace {
            vg: self.vg.name.clone(),
            lv: lv.to_owned(),
            wanted,
            free: self.free,
            extent: self.vg.options.extent_size,
        }
    }
}

/// The first bytes of a physical volume that belongs to no group.
///
/// # Errors
/// If it is to be longer than what it is on.
pub fn orphan_header(pv: &Pv) -> Result<Vec<u8>, LvmError> {
    check_length(pv)?;
    // Without text it always fits.
    Ok(pv_header(pv, &[]).unwrap_or_default())
}

/// The first bytes of a physical volume; `None` if the text is too long.
fn pv_header(pv: &Pv, text: &[u8]) -> Option<Vec<u8>> {
    use format::{DiskLocation, LabelSector, MdaHeader, PvHeader, RawLocation};

    let (data_start, area) = (pv.options.data_start, pv.options.data_start - MDA_OFFSET);
    // LVM treats the area as a ring and keeps room for the next version.
    if text.len() as u64 > (area - TEXT_OFFSET) / 2 {
        return None;
    }
    let location = |offset, size| DiskLocation {
        offset: U64::new(offset),
        size: U64::new(size),
    };
    let end = location(0, 0);
    let mut label = LabelSector {
        id: format::LABEL_ID,
        sector: U64::new(format::LABEL_OFFSET / SECTOR),
        crc: U32::ZERO,
        offset: U32::new(32),
        label_type: format::LABEL_TYPE,
        pv: PvHeader {
            pv_uuid: pv.id.0,
            device_size: U64::new(pv.length()),
            data_areas: [location(data_start, 0), end],
            metadata_areas: [location(MDA_OFFSET, area), end],
            extension_version: U32::new(2),
            extension_flags: U32::new(u32::from(!text.is_empty())),
            bootloader_areas: end,
        },
        unused: [0; 352],
    };
    label.crc = U32::new(format::crc(&label.as_bytes()[20..]));
    let (offset, checksum) = if text.is_empty() {
        (0, 0)
    } else {
        (TEXT_OFFSET, format::crc(text))
    };
    let mut mda = MdaHeader {
        checksum: U32::ZERO,
        magic: format::MDA_MAGIC,
        version: U32::new(1),
        start: U64::new(MDA_OFFSET),
        size: U64::new(area),
        raw_location: RawLocation {
            offset: U64::new(offset),
            size: U64::new(text.len() as u64),
            checksum: U32::new(checksum),
            flags: U32::ZERO,
        },
        unused: [0; 448],
    };
    mda.checksum = U32::new(format::crc(&mda.as_bytes()[4..]));

    let mut bytes = vec![0; format::LABEL_OFFSET as usize];
    bytes.extend_from_slice(label.as_bytes());
    bytes.resize(MDA_OFFSET as usize, 0);
    bytes.extend_from_slice(mda.as_bytes());
    bytes.extend_from_slice(text);
    Some(bytes)
}

#[cfg(test)]
mod tests;
