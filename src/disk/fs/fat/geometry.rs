//! Type, cluster size and areas of a FAT filesystem, as mkfs.fat chooses them.

/// Number of FATs; everything expects two.
pub(super) const FATS: u32 = 2;
/// Entries of the root directory of FAT12 and FAT16, before alignment.
const ROOT_ENTRIES: u64 = 512;
/// Volumes of at least this many bytes are FAT32.
const FAT32_FROM: u64 = 512 << 20;
/// Volumes of at most this many sectors do not have their areas aligned to clusters.
const UNALIGNED_UP_TO: u64 = 8192;
/// Largest number of clusters of FAT12.
const MAX_FAT12: u64 = 4084;
/// Largest number of clusters of FAT16.
const MAX_FAT16: u64 = 65_524;
/// Largest number of clusters of FAT32: entries have 28 bits, of which the last
/// nine values and the first two are special.
const MAX_FAT32: u64 = 0x0FFF_FFF5;

/// Width of the entries of the FAT. It follows from the number of clusters, so a
/// type can be asked for only where the size allows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FatType {
    /// 12 bits, up to 4,084 clusters.
    Fat12,
    /// 16 bits, up to 65,524 clusters.
    Fat16,
    /// 28 bits.
    Fat32,
}

impl std::fmt::Display for FatType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            FatType::Fat12 => "FAT12",
            FatType::Fat16 => "FAT16",
            FatType::Fat32 => "FAT32",
        })
    }
}

impl FatType {
    /// Bytes of a FAT with entries for clusters `0..entries`.
    pub(super) fn fat_bytes(self, entries: u64) -> u64 {
        match self {
            FatType::Fat12 => (entries * 3).div_ceil(2),
            FatType::Fat16 => entries * 2,
            FatType::Fat32 => entries * 4,
        }
    }

    /// Numbers of clusters for which every driver takes this type.
    fn clusters(self) -> std::ops::RangeInclusive<u64> {
        match self {
            FatType::Fat12 => 1..=MAX_FAT12,
            FatType::Fat16 => MAX_FAT12 + 1..=MAX_FAT16,
            FatType::Fat32 => MAX_FAT16 + 1..=MAX_FAT32,
        }
    }
}

/// Areas of a volume; all numbers in sectors unless named otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    pub kind: FatType,
    /// Bytes in a sector.
    pub sector_size: u32,
    pub sectors_per_cluster: u32,
    pub reserved: u32,
    pub fat_size: u32,
    /// Entries of the root directory; 0 for FAT32.
    pub root_entries: u32,
    pub total: u32,
    /// Number of clusters.
    pub clusters: u32,
    pub sectors_per_track: u32,
    /// Number of heads.
    pub heads: u32,
}

impl Geometry {
    /// Bytes in a cluster.
    pub fn cluster_size(&self) -> u64 {
        u64::from(self.sectors_per_cluster) * u64::from(self.sector_size)
    }

    /// Byte offset of a FAT.
    pub fn fat_offset(&self, fat: u32) -> u64 {
        (u64::from(self.reserved) + u64::from(fat) * u64::from(self.fat_size))
            * u64::from(self.sector_size)
    }

    /// Byte offset of the root directory of FAT12 and FAT16.
    pub fn root_offset(&self) -> u64 {
        self.fat_offset(FATS)
    }

    /// Byte offset of a cluster (from 2 on).
    pub fn cluster_offset(&self, cluster: u32) -> u64 {
        let root =
            (u64::from(self.root_entries) * 32).next_multiple_of(u64::from(self.sector_size));
        self.root_offset() + root + u64::from(cluster.saturating_sub(2)) * self.cluster_size()
    }

    /// Plans a volume of `size` bytes; `None` where no type (or not `wanted`) fits.
    pub fn plan(size: u64, sector_size: u32, wanted: Option<FatType>) -> Option<Geometry> {
        let bytes = u64::from(sector_size);
        let sectors = size / bytes;
        let (sectors_per_track, heads) = track(sectors);
        let total = sectors / u64::from(sectors_per_track) * u64::from(sectors_per_track);
        let total = u64::from(u32::try_from(total).ok()?);
        let auto_32 = size >= FAT32_FROM;
        let aligned = total > UNALIGNED_UP_TO;
        let first = match wanted {
            Some(FatType::Fat32) => fat32_cluster(total),
            None if auto_32 => fat32_cluster(total),
            _ => 4,
        };
        let kinds: &[FatType] = match wanted {
            Some(FatType::Fat12) => &[FatType::Fat12],
            Some(FatType::Fat16) => &[FatType::Fat16],
            Some(FatType::Fat32) => &[FatType::Fat32],
            None if auto_32 => &[FatType::Fat32],
            None => &[FatType::Fat16, FatType::Fat12],
        };
        let mut sectors_per_cluster = first;
        while sectors_per_cluster <= 128 && u64::from(sectors_per_cluster) * bytes <= 256 << 10 {
            for &kind in kinds {
                let areas = Areas {
                    kind,
                    bytes,
                    total,
                    aligned,
                    per_cluster: sectors_per_cluster.into(),
                };
                if let Some(found) = areas.fit() {
                    return Some(Geometry {
                        kind,
                        sector_size,
                        sectors_per_cluster,
                        reserved: u32::try_from(found.reserved).ok()?,
                        fat_size: u32::try_from(found.fat).ok()?,
                        root_entries: u32::try_from(found.root * bytes / 32).ok()?,
                        total: u32::try_from(total).ok()?,
                        clusters: u32::try_from(found.clusters).ok()?,
                        sectors_per_track,
                        heads,
                    });
                }
            }
            sectors_per_cluster *= 2;
        }
        None
    }
}

/// Geometry for BIOSes that count cylinders: sectors in a track, and heads.
fn track(sectors: u64) -> (u32, u32) {
    match sectors {
        0..=4096 => (16, 2),
        4097..=32_768 => (32, 2),
        32_769..=65_536 => (32, 4),
        65_537..=262_144 => (32, 8),
        262_145..=524_288 => (32, 16),
        524_289..=1_032_192 => (63, 16),
        1_032_193..=2_064_384 => (63, 32),
        2_064_385..=4_128_768 => (63, 64),
        4_128_769..=8_257_536 => (63, 128),
        _ => (63, 255),
    }
}

/// Sectors in a cluster of FAT32, by Microsoft's table (which counts in sectors of 512 bytes).
fn fat32_cluster(sectors: u64) -> u32 {
    match sectors / 2048 {
        0..260 => 1,
        260..8192 => 8,
        8192..16_384 => 16,
        16_384..32_768 => 32,
        _ => 64,
    }
}

/// What is given when areas are measured; in sectors but for `bytes`.
struct Areas {
    kind: FatType,
    bytes: u64,
    total: u64,
    aligned: bool,
    per_cluster: u64,
}

/// Areas that fit; in sectors but for `clusters`.
struct Fit {
    reserved: u64,
    fat: u64,
    root: u64,
    clusters: u64,
}

impl Areas {
    fn align(&self, sectors: u64) -> u64 {
        if self.aligned {
            sectors.next_multiple_of(self.per_cluster)
        } else {
            sectors
        }
    }

    /// Measures the areas; `None` where the clusters do not make this type.
    fn fit(&self) -> Option<Fit> {
        let fats = u64::from(FATS);
        let (reserved, root) = match self.kind {
            FatType::Fat32 => (self.align(32), 0),
            _ => (
                self.align(1),
                self.align((ROOT_ENTRIES * 32).div_ceil(self.bytes)),
            ),
        };
        let data = self.total.checked_sub(reserved + root)?;
        // Each cluster takes its sectors and its entries; twice everything, so
        // that the one and a half bytes of FAT12 are whole.
        let twice = match self.kind {
            FatType::Fat12 => 3,
            FatType::Fat16 => 4,
            FatType::Fat32 => 8,
        };
        let room = 2 * data * self.bytes + fats * twice;
        let guess = room / (2 * self.per_cluster * self.bytes + fats * twice);
        let fat = self.align(self.kind.fat_bytes(guess + 2).div_ceil(self.bytes));
        let clusters = data.checked_sub(fats * fat)? / self.per_cluster;
        let described = self.kind.fat_bytes(clusters + 2) <= fat * self.bytes;
        (described && self.kind.clusters().contains(&clusters)).then_some(Fit {
            reserved,
            fat,
            root,
            clusters,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// What mkfs.fat makes of a volume of this size.
    fn oracle(
        image: &std::path::Path,
        size: u64,
        sector_size: u32,
        kind: Option<FatType>,
    ) -> Option<Geometry> {
        let file = std::fs::File::create(image).unwrap();
        file.set_len(size).unwrap();
        let mut command = Command::new("/usr/sbin/mkfs.fat");
        command.arg("-S").arg(sector_size.to_string());
        if let Some(kind) = kind {
            command.args(["-F", &kind.to_string()[3..]]);
        }
        if !command.arg(image).output().unwrap().status.success() {
            return None;
        }
        use std::os::unix::fs::FileExt as _;
        let file = std::fs::File::open(image).unwrap();
        let mut b = [0; 512];
        file.read_exact_at(&mut b, 0).unwrap();
        let u16_at = |at: usize| u32::from(u16::from_le_bytes([b[at], b[at + 1]]));
        let u32_at = |at: usize| u16_at(at) | u16_at(at + 2) << 16;
        let kind = match (u16_at(0x16), &b[0x36..0x3B]) {
            (0, _) => FatType::Fat32,
            (_, b"FAT12") => FatType::Fat12,
            _ => FatType::Fat16,
        };
        let (fat_size, total) = match kind {
            FatType::Fat32 => (u32_at(0x24), u32_at(0x20)),
            _ => (u16_at(0x16), u16_at(0x13).max(u32_at(0x20))),
        };
        let sectors_per_cluster = u32::from(b[0x0D]);
        let (reserved, root_entries) = (u16_at(0x0E), u16_at(0x11));
        let data = total - reserved - 2 * fat_size - (root_entries * 32).div_ceil(sector_size);
        Some(Geometry {
            kind,
            sector_size,
            sectors_per_cluster,
            reserved,
            fat_size,
            root_entries,
            total,
            clusters: data / sectors_per_cluster,
            sectors_per_track: u16_at(0x18),
            heads: u16_at(0x1A),
        })
    }

    #[test]
    fn geometry_is_that_of_mkfs_fat() {
        let place = tempfile::tempdir().unwrap();
        let image = place.path().join("image");
        std::fs::write(&image, vec![0; 1 << 20]).unwrap();
        match Command::new("/usr/sbin/mkfs.fat").arg(&image).output() {
            Ok(output) if output.stdout.starts_with(b"mkfs.fat 4.2") => {}
            _ => return println!("SKIP: `mkfs.fat` 4.2 is not installed"),
        }
        let mib = 1024;
        let mut sizes = vec![
            100, 1000, 2048, 4095, 4096, 4097, 8192, 8193, 16_384, 16_385, 20_000,
        ];
        sizes.extend(
            [
                32, 33, 34, 48, 64, 65, 100, 127, 128, 200, 255, 256, 300, 400, 500, 511,
            ]
            .map(|m| m * mib),
        );
        sizes.extend(
            [512, 550, 1024, 1100, 2100, 4100, 8192, 9000, 17_000, 33_000].map(|m| m * mib),
        );
        for kib in sizes {
            for sector_size in [512, 4096] {
                let ours = Geometry::plan(kib * 1024, sector_size, None);
                assert_eq!(
                    ours,
                    oracle(&image, kib * 1024, sector_size, None),
                    "{kib} KiB, {sector_size}"
                );
                if kib >= 34 * mib && sector_size == 512 {
                    let wanted = Some(FatType::Fat32);
                    let ours = Geometry::plan(kib * 1024, sector_size, wanted);
                    assert_eq!(
                        ours,
                        oracle(&image, kib * 1024, sector_size, wanted),
                        "FAT32 {kib} KiB"
                    );
                }
            }
        }
    }

    #[test]
    fn types_that_the_size_does_not_allow_are_refused() {
        assert_eq!(Geometry::plan(8 << 20, 512, Some(FatType::Fat32)), None);
        assert_eq!(Geometry::plan(1 << 20, 512, Some(FatType::Fat16)), None);
        assert_eq!(Geometry::plan(10_000, 512, None), None);
        assert_eq!(Geometry::plan(0, 4096, None), None);
        assert_eq!(Geometry::plan(u64::MAX, 512, None), None);
    }

    proptest::proptest! {
        #[test]
        fn areas_lie_within_the_volume_and_describe_every_cluster(
            size in 0_u64..1 << 41,
            shift in 0_u32..36,
            large in proptest::bool::ANY,
        ) {
            let size = size >> shift;
            let sector_size = if large { 4096 } else { 512 };
            if let Some(geometry) = Geometry::plan(size, sector_size, None) {
                let end = geometry.cluster_offset(geometry.clusters + 2);
                proptest::prop_assert!(end <= size);
                let fat = u64::from(geometry.fat_size) * u64::from(sector_size);
                proptest::prop_assert!(geometry.kind.fat_bytes(u64::from(geometry.clusters) + 2) <= fat);
            } else {
                proptest::prop_assert!(!(1 << 20..=1 << 40).contains(&size), "{}", size);
            }
        }
    }
}
