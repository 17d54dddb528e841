//! LVM: volume groups with linear and thin logical volumes, written without LVM.
//!
//! Every physical volume has the same layout:
//!
//! ```text
//! 512      label and header
//! 4096     metadata area: header, then the text that describes the group
//! 1 MiB    extents of 4 MiB
//! ```
//!
//! Logical volumes take extents in order, over the physical volumes in the order
//! in which the group names them, as `lvcreate` does on an empty group. A thin pool
//! takes them for its data, for its metadata, and once in a group for spare metadata
//! to repair with; see [`thin`] for what is in it.

use uuid::Uuid;
use zerocopy::IntoBytes as _;
use zerocopy::little_endian::{U32, U64};

use super::config::LvSize;
use super::{Extent, Source, Volume};

pub mod format;
pub mod parse;
mod text;
pub mod thin;

use format::{DATA_OFFSET, EXTENT_SIZE, MDA_OFFSET, MDA_SIZE, SECTOR, TEXT_OFFSET};

/// Why a volume group cannot be made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum LvmError {
    /// A name that LVM refuses.
    #[error("`{name}` is no name for LVM: use letters, digits and + _ . - (not in front)")]
    Name {
        /// The name.
        name: String,
    },
    /// A physical volume without room for an extent.
    #[error(
        "physical volume `{pv}` of {bytes} bytes is too small: it needs 1MiB for metadata and at \
         least 4MiB"
    )]
    PvTooSmall {
        /// The physical volume.
        pv: String,
        /// Its length.
        bytes: u64,
    },
    /// A logical volume without an extent.
    #[error("logical volume `{lv}` is smaller than one extent of 4MiB")]
    LvEmpty {
        /// The logical volume.
        lv: String,
    },
    /// More extents than there are.
    #[error(
        "logical volume `{lv}` needs {wanted} extents of 4MiB, but volume group `{vg}` has only \
         {free} left: make the image or the partition larger"
    )]
    NoSpace {
        /// The volume group.
        vg: String,
        /// The logical volume.
        lv: String,
        /// Extents that it needs.
        wanted: u64,
        /// Extents that are left.
        free: u64,
    },
    /// Extents in a notation that is not understood.
    #[error(
        "extents `{text}` of logical volume `{lv}` are not understood: use a number, N%VG, N%FREE \
         or N%PVS"
    )]
    Extents {
        /// The logical volume.
        lv: String,
        /// What was written.
        text: String,
    },
    /// A thin volume without its pool.
    #[error("thin volume `{lv}` needs `thin-pool`: the name of a thin pool of volume group `{vg}`")]
    NoPool {
        /// The thin volume.
        lv: String,
        /// The volume group.
        vg: String,
    },
    /// A pool that is something else.
    #[error("`{pool}`, which thin volume `{lv}` names, is no thin pool of volume group `{vg}`")]
    NotAPool {
        /// The thin volume.
        lv: String,
        /// What it names.
        pool: String,
        /// The volume group.
        vg: String,
    },
    /// A filesystem where thin volumes get their space from.
    #[error("`{pool}` is a thin pool, which cannot hold `{node}`: make a thin volume in it")]
    PoolAsBase {
        /// The thin pool.
        pool: String,
        /// What is to be on it.
        node: String,
    },
    /// More is in the volumes than the pool has.
    #[error(
        "thin pool `{pool}` of {bytes} bytes is too small: what is in its volumes needs {needed} \
         bytes"
    )]
    PoolTooSmall {
        /// The thin pool.
        pool: String,
        /// Its length.
        bytes: u64,
        /// What it would need at least.
        needed: u64,
    },
    /// Metadata that does not fit its area.
    #[error("the metadata of volume group `{vg}` is too long: {bytes} bytes")]
    MetadataTooLong {
        /// The volume group.
        vg: String,
        /// Its length.
        bytes: u64,
    },
}

/// A physical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pv {
    /// Name, for errors.
    pub name: String,
    /// Identity.
    pub uuid: Uuid,
    /// Length in bytes.
    pub bytes: u64,
    /// Where it probably is in the running system; only a hint.
    pub device: String,
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

/// Whether LVM takes this as a name.
pub fn is_valid_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+_.-".contains(&byte);
    !matches!(name, "" | "." | "..")
        && name.len() < 128
        && !name.starts_with('-')
        && name.bytes().all(allowed)
}

/// The identity in LVM's form: 32 letters and digits.
fn id(uuid: Uuid) -> String {
    uuid.simple().to_string()
}

/// Extents that fit a physical volume.
fn extents_of(bytes: u64) -> u64 {
    bytes.saturating_sub(DATA_OFFSET) / EXTENT_SIZE
}

/// Extents that a logical volume asks for.
fn wanted_extents(lv: &Lv, total: u64, free: u64) -> Result<u64, LvmError> {
    let extents = match &lv.size {
        LvSize::Bytes(bytes) => bytes / EXTENT_SIZE,
        LvSize::Extents(text) => {
            let error = || LvmError::Extents {
                lv: lv.name.clone(),
                text: text.clone(),
            };
            match text.split_once('%') {
                None => text.parse().map_err(|_| error())?,
                Some((number, of)) => {
                    let percent: u64 = number.parse().map_err(|_| error())?;
                    let of = match of.to_ascii_uppercase().as_str() {
                        "VG" | "PVS" => total,
                        "FREE" => free,
                        _ => return Err(error()),
                    };
                    percent.checked_mul(of).ok_or_else(error)? / 100
                }
            }
        }
    };
    if extents == 0 {
        return Err(LvmError::LvEmpty {
            lv: lv.name.clone(),
        });
    }
    Ok(extents)
}

/// Places the logical volumes of a group and renders its metadata.
///
/// # Errors
/// See [`LvmError`].
pub fn plan(vg: &Vg) -> Result<Plan, LvmError> {
    for name in [&vg.name]
        .into_iter()
        .chain(vg.lvs.iter().map(|lv| &lv.name))
    {
        if !is_valid_name(name) {
            return Err(LvmError::Name { name: name.clone() });
        }
    }
    let mut total: u64 = 0;
    for pv in &vg.pvs {
        let extents = extents_of(pv.bytes);
        if extents == 0 {
            return Err(LvmError::PvTooSmall {
                pv: pv.name.clone(),
                bytes: pv.bytes,
            });
        }
        total += extents;
    }
    let mut space = Space {
        vg,
        total,
        free: total,
        pv: 0,
        extent: 0,
    };
    let mut places = Vec::with_capacity(vg.lvs.len());
    let mut pools: Vec<Pool> = Vec::new();
    for lv in &vg.lvs {
        places.push(match &lv.kind {
            Kind::Linear => {
                let wanted = wanted_extents(lv, total, space.free)?;
                Place::Linear(space.take(&lv.name, wanted)?)
            }
            Kind::ThinPool => {
                let spare = pools.iter().map(|pool| length_of(&pool.metadata)).max();
                pools.push(place_pool(
                    lv,
                    spare.unwrap_or(0) / EXTENT_SIZE,
                    &mut space,
                )?);
                Place::Pool(pools.len() - 1)
            }
            Kind::Thin(name) => {
                let pool = pools.iter().position(|pool| pool.name == *name);
                let pool = pool.ok_or_else(|| LvmError::NotAPool {
                    lv: lv.name.clone(),
                    pool: name.clone(),
                    vg: vg.name.clone(),
                })?;
                let volume = pools[pool].volumes;
                pools[pool].volumes += 1;
                Place::Thin {
                    pool,
                    volume,
                    bytes: wanted_extents(lv, total, space.free)?.saturating_mul(EXTENT_SIZE),
                }
            }
        });
    }
    // Only a group with pools has one; the largest of them can use it.
    let spare = pools.iter().map(|pool| length_of(&pool.metadata)).max();
    let spare = match spare {
        Some(bytes) => space.take("lvol0_pmspare", bytes / EXTENT_SIZE)?,
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

/// Places a pool. `spare` is how many extents a group keeps for repairs already.
fn place_pool(lv: &Lv, spare: u64, space: &mut Space<'_>) -> Result<Pool, LvmError> {
    let mut wanted = wanted_extents(lv, space.total, space.free)?;
    let extents = |wanted: u64| {
        let sizes = thin::sizes(wanted.saturating_mul(EXTENT_SIZE));
        (sizes.chunk, sizes.metadata.div_ceil(EXTENT_SIZE))
    };
    let (mut chunk, mut metadata) = extents(wanted);
    if let LvSize::Extents(text) = &lv.size
        && text.contains('%')
    {
        // A share is of what there is, with all that belongs to the pool.
        let more = metadata + metadata.saturating_sub(spare);
        let most = space.free.saturating_sub(more);
        if most == 0 {
            return Err(LvmError::LvEmpty {
                lv: lv.name.clone(),
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
    })
}

/// The free extents of a group, from the first to the last.
struct Space<'a> {
    vg: &'a Vg,
    total: u64,
    free: u64,
    /// The next one: index of the physical volume, extent in it.
    pv: usize,
    extent: u64,
}

impl Space<'_> {
    fn take(&mut self, lv: &str, wanted: u64) -> Result<Vec<Segment>, LvmError> {
        if wanted > self.free {
            return Err(LvmError::NoSpace {
                vg: self.vg.name.clone(),
                lv: lv.to_owned(),
                wanted,
                free: self.free,
            });
        }
        self.free -= wanted;
        let mut left = wanted;
        let mut parts = Vec::new();
        while left > 0 {
            let here = (extents_of(self.vg.pvs[self.pv].bytes) - self.extent).min(left);
            if here == 0 {
                (self.pv, self.extent) = (self.pv + 1, 0);
                continue;
            }
            parts.push(Segment {
                pv: self.pv,
                offset: DATA_OFFSET + self.extent * EXTENT_SIZE,
                length: here * EXTENT_SIZE,
            });
            self.extent += here;
            left -= here;
        }
        Ok(parts)
    }
}

/// The first bytes of a physical volume that belongs to no group.
pub fn orphan_header(pv: &Pv) -> Vec<u8> {
    // Without text it always fits.
    pv_header(pv, &[]).unwrap_or_default()
}

/// The first bytes of a physical volume; `None` if the text is too long.
fn pv_header(pv: &Pv, text: &[u8]) -> Option<Vec<u8>> {
    use format::{DiskLocation, LabelSector, MdaHeader, PvHeader, RawLocation};

    // LVM treats the area as a ring and keeps room for the next version.
    if text.len() as u64 > (MDA_SIZE - TEXT_OFFSET) / 2 {
        return None;
    }
    let location = |offset, size| DiskLocation {
        offset: U64::new(offset),
        size: U64::new(size),
    };
    let end = location(0, 0);
    let mut pv_uuid = [0; 32];
    pv_uuid.copy_from_slice(id(pv.uuid).as_bytes());
    let mut label = LabelSector {
        id: format::LABEL_ID,
        sector: U64::new(format::LABEL_OFFSET / SECTOR),
        crc: U32::ZERO,
        offset: U32::new(32),
        label_type: format::LABEL_TYPE,
        pv: PvHeader {
            pv_uuid,
            device_size: U64::new(pv.bytes),
            data_areas: [location(DATA_OFFSET, 0), end],
            metadata_areas: [location(MDA_OFFSET, MDA_SIZE), end],
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
        size: U64::new(MDA_SIZE),
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

/// Cuts a volume into parts of these lengths in bytes, in the order of its bytes.
pub fn scatter(volume: Volume, lengths: &[u64]) -> Vec<Volume> {
    let mut parts: Vec<Volume> = Vec::with_capacity(lengths.len());
    let mut ends = Vec::with_capacity(lengths.len());
    let mut end = 0;
    for &length in lengths {
        parts.push(Volume {
            length: length.min(volume.length.saturating_sub(end)),
            extents: Vec::new(),
        });
        end += length;
        ends.push(end);
    }
    for extent in volume.extents {
        let (mut from, to) = (extent.offset, extent.offset + extent.length);
        let first = ends.partition_point(|&end| end <= from);
        for at in first..parts.len() {
            if from >= to {
                break;
            }
            let upto = to.min(ends[at]);
            parts[at].extents.push(Extent {
                offset: from - (ends[at] - lengths[at]),
                length: upto - from,
                source: skip(&extent.source, from - extent.offset),
            });
            from = upto;
        }
    }
    parts
}

/// The same source, `by` bytes further.
fn skip(source: &Source, by: u64) -> Source {
    match source {
        Source::Bytes { bytes, start } => {
            let start = usize::try_from(by).map_or(bytes.len(), |by| start.saturating_add(by));
            Source::Bytes {
                bytes: bytes.clone(),
                start,
            }
        }
        Source::File {
            tree,
            inode,
            offset,
        } => Source::File {
            tree: tree.clone(),
            inode: *inode,
            offset: offset + by,
        },
        Source::Rendered { by: render, offset } => Source::Rendered {
            by: render.clone(),
            offset: offset + by,
        },
    }
}

#[cfg(test)]
mod tests;
