//! Reads qcow2 images, versions 2 and 3.

use zerocopy::FromZeros as _;
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::error::Problem;
use super::file::Source;
use super::map::{Map, Method, Piece, Place, TablesSeen};
use crate::sink::qcow2::format::{
    CLUSTER_BITS, COMPRESSION_ZLIB, COMPRESSION_ZSTD, EXTENSION_FEATURE_NAMES, ExtensionHeader,
    FEATURES, FLAG_COMPRESSED, FLAG_ZERO, FeatureName, HEADER_LENGTH_V2, Header,
    INCOMPATIBLE_COMPRESSION, INCOMPATIBLE_CORRUPT, INCOMPATIBLE_DIRTY, INCOMPATIBLE_EXTENDED_L2,
    MAX_L1_BYTES, OFFSET_MASK, SECTOR,
};

/// Length of the part of version 3's header that every image of it has.
const HEADER_LENGTH_V3_MIN: u64 = 104;

/// Where the disk is in the image.
pub(super) fn read(source: &Source) -> Result<Map, Problem> {
    let header = header(source)?;
    let cluster_bits = header.cluster_bits.get();
    if !CLUSTER_BITS.contains(&cluster_bits) {
        return Problem::corrupt(0x14, "the cluster size is impossible");
    }
    refuse(source, &header)?;
    let cluster = 1_u64 << cluster_bits;
    let mut map = Map::new(header.size.get());
    map.unit = cluster;
    if header.incompatible_features.get() & INCOMPATIBLE_COMPRESSION != 0 {
        map.method = match header.compression_type {
            COMPRESSION_ZLIB => Method::Deflate,
            COMPRESSION_ZSTD => Method::Zstd,
            other => return Problem::unsupported(format!("has compression type {other}")),
        };
    }
    // With extended entries (two words each), the second has 32 pairs of bits.
    let extended = header.incompatible_features.get() & INCOMPATIBLE_EXTENDED_L2 != 0;
    let entries = cluster / if extended { 16 } else { 8 };
    let per_table = entries << cluster_bits;
    let l1_entries = u64::from(header.l1_size.get());
    if l1_entries < map.length.div_ceil(per_table) || l1_entries * 8 > MAX_L1_BYTES {
        return Problem::corrupt(0x24, "the first-level table has an impossible length");
    }
    let l1_offset = header.l1_table_offset.get();
    let l1 = source.table_be64(l1_offset, map.length.div_ceil(per_table))?;
    let mut seen = TablesSeen::default();
    for (number, entry) in (0_u64..).zip(l1) {
        let table = entry & OFFSET_MASK;
        if table == 0 {
            continue;
        }
        if !table.is_multiple_of(cluster) {
            return Problem::corrupt(l1_offset + 8 * number, "a table is not aligned");
        }
        seen.add(table)?;
        let words = source.table_be64(table, cluster / 8)?;
        let step = if extended { 2 } else { 1 };
        for (slot, entry) in (0_u64..).zip(words.chunks(step)) {
            let guest = number * per_table + (slot << cluster_bits);
            if guest >= map.length {
                break;
            }
            let at = table + slot * 8 * step as u64;
            let place = Cluster {
                guest,
                size: cluster,
                at,
            };
            match *entry {
                [entry] => place.plain(source, &mut map, entry, header.version.get())?,
                [entry, bits] => place.extended(source, &mut map, entry, bits)?,
                _ => {}
            }
        }
    }
    Ok(map)
}

/// A cluster of the disk and where its entry is in the file.
struct Cluster {
    guest: u64,
    size: u64,
    at: u64,
}

impl Cluster {
    fn plain(
        &self,
        source: &Source,
        map: &mut Map,
        entry: u64,
        version: u32,
    ) -> Result<(), Problem> {
        if entry & FLAG_COMPRESSED != 0 {
            return self.compressed(source, map, entry);
        }
        if entry & FLAG_ZERO != 0 && version >= 3 {
            return Ok(());
        }
        self.store(source, map, entry, 0, self.size)
    }

    /// Sub-clusters: bits 0 to 31 of `bits` say stored, bits 32 to 63 zeros.
    fn extended(
        &self,
        source: &Source,
        map: &mut Map,
        entry: u64,
        bits: u64,
    ) -> Result<(), Problem> {
        if entry & FLAG_COMPRESSED != 0 {
            return self.compressed(source, map, entry);
        }
        let size = self.size / 32;
        for number in 0..32 {
            let stored = bits >> number & 1 != 0;
            if stored && bits >> (32 + number) & 1 != 0 {
                return Problem::corrupt(self.at, "a sub-cluster is both stored and zeros");
            }
            if stored {
                if entry & OFFSET_MASK == 0 {
                    return Problem::corrupt(self.at, "a stored sub-cluster has no place");
                }
                self.store(source, map, entry, number * size, size)?;
            }
        }
        Ok(())
    }

    fn store(
        &self,
        source: &Source,
        map: &mut Map,
        entry: u64,
        within: u64,
        length: u64,
    ) -> Result<(), Problem> {
        let offset = entry & OFFSET_MASK;
        if offset == 0 {
            return Ok(());
        }
        if !offset.is_multiple_of(self.size) {
            return Problem::corrupt(self.at, "a cluster is not aligned");
        }
        // The file may end within its last cluster: zeros follow.
        source.check(offset, 1)?;
        let piece = Piece {
            start: self.guest + within,
            length,
            place: Place::Plain(offset + within),
        };
        map.push(piece, self.at)
    }

    fn compressed(&self, source: &Source, map: &mut Map, entry: u64) -> Result<(), Problem> {
        let cluster_bits = self.size.ilog2();
        let shift = 62 - (cluster_bits - 8);
        let offset = entry & ((1 << shift) - 1);
        let sectors = (entry >> shift) & ((1 << (cluster_bits - 8)) - 1);
        let end = (offset / SECTOR + sectors + 1) * SECTOR;
        source.check(offset, 1)?;
        let end = end.min(source.length);
        let Ok(stored) = u32::try_from(end - offset) else {
            return Problem::corrupt(self.at, "a compressed cluster is too long");
        };
        let piece = Piece {
            start: self.guest,
            length: self.size,
            place: Place::Compressed { offset, stored },
        };
        map.push(piece, self.at)
    }
}

/// The header; what version 2 does not have is zero.
fn header(source: &Source) -> Result<Header, Problem> {
    let mut header = Header::new_zeroed();
    let short = source.bytes(0, HEADER_LENGTH_V2 as u64)?;
    header.as_mut_bytes()[..HEADER_LENGTH_V2].copy_from_slice(&short);
    match header.version.get() {
        2 => return Ok(header),
        3 => {}
        version => return Problem::unsupported(format!("has version {version}")),
    }
    let fixed = source.bytes(0, HEADER_LENGTH_V3_MIN)?;
    header.as_mut_bytes()[..fixed.len()].copy_from_slice(&fixed);
    let length = u64::from(header.header_length.get());
    if length < HEADER_LENGTH_V3_MIN || length % 8 != 0 {
        return Problem::corrupt(0x64, "the header has an impossible length");
    }
    let known = length.min(size_of::<Header>() as u64);
    let bytes = source.bytes(0, known)?;
    header.as_mut_bytes()[..bytes.len()].copy_from_slice(&bytes);
    Ok(header)
}

/// Refuses what is not read.
fn refuse(source: &Source, header: &Header) -> Result<(), Problem> {
    if header.backing_file_offset.get() != 0 {
        let length = u64::from(header.backing_file_size.get().min(1023));
        let name = source.bytes(header.backing_file_offset.get(), length)?;
        return Err(Problem::Backing(
            String::from_utf8_lossy(&name).into_owned(),
        ));
    }
    match header.crypt_method.get() {
        0 => {}
        1 => return Problem::unsupported("is encrypted by AES"),
        2 => return Problem::unsupported("is encrypted by LUKS"),
        _ => return Problem::unsupported("is encrypted"),
    }
    // Reference counts may be wrong in a dirty image, but nothing here reads them.
    let known = INCOMPATIBLE_DIRTY | INCOMPATIBLE_COMPRESSION | INCOMPATIBLE_EXTENDED_L2;
    let features = header.incompatible_features.get();
    if features & INCOMPATIBLE_CORRUPT != 0 {
        return Err(Problem::Unsupported {
            what: "is marked as corrupt".to_owned(),
            hint: Some("repair it with `qemu-img check -r all` first"),
        });
    }
    let unknown = features & !known;
    if unknown != 0 {
        let names: Vec<String> = (0_u8..64)
            .filter(|bit| unknown >> bit & 1 != 0)
            .map(|bit| feature_name(source, header, bit))
            .collect();
        return Problem::unsupported(format!("needs the feature {}", names.join(" and ")));
    }
    Ok(())
}

/// The name of an incompatible feature: ours, else the image's.
fn feature_name(source: &Source, header: &Header, bit: u8) -> String {
    let ours = FEATURES
        .iter()
        .find(|(kind, number, _)| (*kind, *number) == (0, bit))
        .map(|(_, _, name)| (*name).to_owned());
    ours.or_else(|| name_in_image(source, header, bit))
        .map_or_else(|| format!("with bit {bit}"), |name| format!("“{name}”"))
}

fn name_in_image(source: &Source, header: &Header, bit: u8) -> Option<String> {
    // Extensions lie between the header and the end of the first cluster.
    let end = 1_u64.checked_shl(header.cluster_bits.get())?;
    let mut at = u64::from(header.header_length.get());
    while at < end {
        let extension: ExtensionHeader = source.structure(at).ok()?;
        let length = u64::from(extension.length.get());
        let data = at + size_of::<ExtensionHeader>() as u64;
        match extension.kind.get() {
            0 => return None,
            EXTENSION_FEATURE_NAMES if data + length <= end => {
                let bytes = source.bytes(data, length).ok()?;
                let names = bytes.chunks_exact(size_of::<FeatureName>());
                return names
                    .filter_map(|bytes| FeatureName::read_from_bytes(bytes).ok())
                    .find(|name| name.kind == 0 && name.bit == bit)
                    .map(|found| {
                        let text = String::from_utf8_lossy(&found.name);
                        text.trim_end_matches('\0').escape_default().to_string()
                    });
            }
            _ => at = data + length.next_multiple_of(8),
        }
    }
    None
}
