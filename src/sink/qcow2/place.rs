//! Where everything goes in a qcow2 file. Nothing here does I/O.
//!
//! Clusters come in guest order, so an L2 table is complete when the next one
//! begins; it is placed then, and memory stays constant for an image of any size
//! but for the L1 table and two bytes a host cluster.

use zerocopy::IntoBytes as _;

use super::format::{
    COMPATIBLE_LAZY_REFCOUNTS, COMPRESSION_ZLIB, COMPRESSION_ZSTD, FLAG_COPIED, HEADER_LENGTH_V2,
    HEADER_LENGTH_V3, Header, INCOMPATIBLE_COMPRESSION, MAGIC, MAX_L1_BYTES,
    MAX_REFCOUNT_TABLE_BYTES, compressed_entry, feature_names,
};
use super::options::{CompressionType, Options, Version};

/// The image is larger than the format (or QEMU) allows with this cluster size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLarge;

/// How a cluster is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    /// As it is.
    Plain,
    /// In this number of bytes.
    Compressed(u64),
}

/// Bytes of a table and their place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    /// First byte in the file.
    pub offset: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// The part of an L2 table that is in work.
#[derive(Debug)]
struct CurrentL2 {
    index: usize,
    entries: Vec<u64>,
}

/// Assigns places to clusters and builds the tables.
#[derive(Debug)]
pub(crate) struct Placer {
    options: Options,
    virtual_size: u64,
    cluster_bits: u32,
    /// First byte after all clusters in use, a multiple of the cluster size.
    end: u64,
    /// Where the next compressed cluster may start within a cluster in use.
    fill: u64,
    /// References of each host cluster; stored with as many bits as the options say.
    refcounts: Vec<u16>,
    l1: Vec<u64>,
    l2: Option<CurrentL2>,
}

impl Placer {
    /// For an image of `virtual_size` bytes (rounded up to sectors, as QEMU does).
    pub fn new(options: Options, virtual_size: u64) -> Result<Placer, TooLarge> {
        let cluster_bits = options.cluster_size.ilog2();
        let virtual_size = virtual_size.checked_next_multiple_of(512).ok_or(TooLarge)?;
        let per_l2_entry = u64::from(options.cluster_size / 8) << cluster_bits;
        // An empty disk has a table too: the cluster for it must be referred to.
        let l1_entries = virtual_size.div_ceil(per_l2_entry).max(1);
        if l1_entries.saturating_mul(8) > MAX_L1_BYTES {
            return Err(TooLarge);
        }
        let l1_entries = usize::try_from(l1_entries).map_err(|_| TooLarge)?;
        let mut placer = Placer {
            options,
            virtual_size,
            cluster_bits,
            end: 0,
            fill: 0,
            refcounts: Vec::new(),
            l1: vec![0; l1_entries],
            l2: None,
        };
        placer.allocate(1)?;
        placer.fill = placer.end;
        Ok(placer)
    }

    /// Bytes of a cluster.
    fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Takes `clusters` whole clusters at the end and returns their offset.
    fn allocate(&mut self, clusters: u64) -> Result<u64, TooLarge> {
        let offset = self.end;
        let length = clusters.checked_mul(self.cluster_size()).ok_or(TooLarge)?;
        self.end = offset.checked_add(length).ok_or(TooLarge)?;
        let used = usize::try_from(self.end >> self.cluster_bits).map_err(|_| TooLarge)?;
        self.refcounts.resize(used, 1);
        Ok(offset)
    }

    /// Takes `length` bytes for a compressed cluster: right after the last one
    /// where there is room, so that many share a host cluster.
    fn allocate_bytes(&mut self, length: u64) -> Result<u64, TooLarge> {
        let fill_end = self.fill.next_multiple_of(self.cluster_size());
        let stays = self.fill.checked_add(length).ok_or(TooLarge)? <= fill_end;
        let start = if stays || fill_end == self.end {
            self.fill
        } else {
            self.end
        };
        let stop = start.checked_add(length).ok_or(TooLarge)?;
        if stop > self.end {
            // New clusters count the reference below.
            self.end = stop.next_multiple_of(self.cluster_size());
            let used = usize::try_from(self.end >> self.cluster_bits).map_err(|_| TooLarge)?;
            self.refcounts.resize(used, 0);
        }
        let touched = (start >> self.cluster_bits)..=((stop - 1) >> self.cluster_bits);
        for cluster in touched {
            let count = usize::try_from(cluster)
                .ok()
                .and_then(|at| self.refcounts.get_mut(at));
            let count = count.ok_or(TooLarge)?;
            *count = count.checked_add(1).ok_or(TooLarge)?;
        }
        self.fill = stop;
        Ok(start)
    }

    /// Places guest cluster number `cluster`, which must be larger than all before.
    /// Returns its offset and perhaps an L2 table that is complete now.
    pub fn place(
        &mut self,
        cluster: u64,
        stored: Stored,
    ) -> Result<(u64, Option<Table>), TooLarge> {
        let entries = u64::from(self.options.cluster_size / 8);
        let index = usize::try_from(cluster / entries).map_err(|_| TooLarge)?;
        let slot = usize::try_from(cluster % entries).map_err(|_| TooLarge)?;
        let mut complete = None;
        if self.l2.as_ref().is_none_or(|l2| l2.index != index) {
            complete = self.finish_l2()?;
            let length = usize::try_from(entries).map_err(|_| TooLarge)?;
            self.l2 = Some(CurrentL2 {
                index,
                entries: vec![0; length],
            });
        }
        let (offset, entry) = match stored {
            Stored::Plain => {
                let offset = self.allocate(1)?;
                (offset, offset | FLAG_COPIED)
            }
            Stored::Compressed(length) => {
                let offset = self.allocate_bytes(length)?;
                (
                    offset,
                    compressed_entry(offset, length, self.cluster_bits).ok_or(TooLarge)?,
                )
            }
        };
        if let Some(l2) = &mut self.l2 {
            l2.entries[slot] = entry;
        }
        Ok((offset, complete))
    }

    /// Places the L2 table in work.
    fn finish_l2(&mut self) -> Result<Option<Table>, TooLarge> {
        let Some(l2) = self.l2.take() else {
            return Ok(None);
        };
        let offset = self.allocate(1)?;
        *self.l1.get_mut(l2.index).ok_or(TooLarge)? = offset | FLAG_COPIED;
        Ok(Some(Table {
            offset,
            bytes: big_endian(&l2.entries),
        }))
    }

    /// The remaining tables, the header (to be written last), and the file's length.
    pub fn finish(mut self) -> Result<(Vec<Table>, Table, u64), TooLarge> {
        let mut tables = Vec::new();
        tables.extend(self.finish_l2()?);
        let cluster_size = self.cluster_size();
        let l1_clusters = (self.l1.len() as u64 * 8).div_ceil(cluster_size);
        let l1_offset = self.allocate(l1_clusters)?;
        tables.push(Table {
            offset: l1_offset,
            bytes: big_endian(&self.l1),
        });

        // Refcount blocks and their table count themselves too.
        let used = self.end >> self.cluster_bits;
        let bytes = usize::try_from(self.options.refcount_bits / 8).unwrap_or(2);
        let per_block = cluster_size / bytes as u64;
        let (mut blocks, mut table_clusters) = (0_u64, 0_u64);
        loop {
            let all = used + blocks + table_clusters;
            let needed = (all.div_ceil(per_block), (blocks * 8).div_ceil(cluster_size));
            if needed == (blocks, table_clusters) {
                break;
            }
            (blocks, table_clusters) = needed;
        }
        if table_clusters.saturating_mul(cluster_size) > MAX_REFCOUNT_TABLE_BYTES {
            return Err(TooLarge);
        }
        let blocks_offset = self.allocate(blocks)?;
        let table_offset = self.allocate(table_clusters)?;
        let mut counts = Vec::with_capacity(self.refcounts.len() * bytes);
        for &count in &self.refcounts {
            counts.extend_from_slice(&u64::from(count).to_be_bytes()[8 - bytes..]);
        }
        tables.push(Table {
            offset: blocks_offset,
            bytes: counts,
        });
        let block_offsets: Vec<u64> = (0..blocks)
            .map(|block| blocks_offset + block * cluster_size)
            .collect();
        tables.push(Table {
            offset: table_offset,
            bytes: big_endian(&block_offsets),
        });

        let header = self.header(l1_offset, table_offset, table_clusters)?;
        Ok((
            tables,
            Table {
                offset: 0,
                bytes: header,
            },
            self.end,
        ))
    }

    fn header(&self, l1: u64, refcounts: u64, refcount_clusters: u64) -> Result<Vec<u8>, TooLarge> {
        let (compression_type, incompatible) = match self.options.compression_type {
            CompressionType::Zlib => (COMPRESSION_ZLIB, 0),
            CompressionType::Zstd => (COMPRESSION_ZSTD, INCOMPATIBLE_COMPRESSION),
        };
        let version: u32 = match self.options.version {
            Version::V2 => 2,
            Version::V3 => 3,
        };
        let small = |value: u64| u32::try_from(value).map_err(|_| TooLarge);
        let header = Header {
            magic: MAGIC.into(),
            version: version.into(),
            backing_file_offset: 0.into(),
            backing_file_size: 0.into(),
            cluster_bits: self.cluster_bits.into(),
            size: self.virtual_size.into(),
            crypt_method: 0.into(),
            l1_size: small(self.l1.len() as u64)?.into(),
            l1_table_offset: l1.into(),
            refcount_table_offset: refcounts.into(),
            refcount_table_clusters: small(refcount_clusters)?.into(),
            nb_snapshots: 0.into(),
            snapshots_offset: 0.into(),
            incompatible_features: incompatible.into(),
            compatible_features: if self.options.lazy_refcounts {
                COMPATIBLE_LAZY_REFCOUNTS
            } else {
                0
            }
            .into(),
            autoclear_features: 0.into(),
            refcount_order: self.options.refcount_bits.ilog2().into(),
            header_length: (HEADER_LENGTH_V3 as u32).into(),
            compression_type,
            padding: [0; 7],
        };
        let mut bytes = header.as_bytes().to_vec();
        match self.options.version {
            Version::V2 => bytes.truncate(HEADER_LENGTH_V2),
            Version::V3 => bytes.extend_from_slice(&feature_names()),
        }
        Ok(bytes)
    }
}

fn big_endian(entries: &[u64]) -> Vec<u8> {
    entries
        .iter()
        .flat_map(|entry| entry.to_be_bytes())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placer(cluster_size: u32, size: u64) -> Placer {
        Placer::new(
            Options {
                cluster_size,
                ..Options::default()
            },
            size,
        )
        .unwrap()
    }

    #[test]
    fn compressed_clusters_share_host_clusters_and_plain_ones_are_aligned() {
        let mut placer = placer(4096, 1 << 20);
        let mut at = 0;
        let mut place = |stored| {
            at += 1;
            placer.place(at, stored).unwrap().0
        };
        assert_eq!(place(Stored::Compressed(1000)), 4096);
        assert_eq!(place(Stored::Compressed(1000)), 5096);
        assert_eq!(place(Stored::Plain), 8192);
        // It fits into what the plain cluster left over.
        assert_eq!(place(Stored::Compressed(2096)), 6096);
        // It does not, so it goes to the end, and the next may cross clusters.
        assert_eq!(place(Stored::Compressed(3000)), 12288);
        assert_eq!(place(Stored::Compressed(3000)), 15288);
        assert_eq!(place(Stored::Plain), 20480);
        assert_eq!(placer.refcounts, [1, 3, 1, 2, 1, 1]);
    }

    #[test]
    fn sizes_that_qemu_would_not_open_are_refused() {
        let options = |cluster_size| Options {
            cluster_size,
            ..Options::default()
        };
        assert!(Placer::new(options(512), 128 << 30).is_ok());
        assert_eq!(
            Placer::new(options(512), (128 << 30) + 1).err(),
            Some(TooLarge)
        );
        assert!(Placer::new(options(65536), 2 << 50).is_ok());
        assert_eq!(Placer::new(options(65536), u64::MAX).err(), Some(TooLarge));
    }

    /// Length of a compressed cluster and offset, from its entry.
    fn compressed(entry: u64, cluster_bits: u32) -> (u64, u64) {
        let shift = 62 - (cluster_bits - 8);
        let sectors = (entry & !(1 << 62)) >> shift;
        let offset = entry & ((1 << shift) - 1);
        (offset, (sectors + 1) * 512 - offset % 512)
    }

    proptest::proptest! {
        #[test]
        fn nothing_overlaps_and_every_reference_is_counted(
            cluster_bits in 9_u32..=14,
            steps in proptest::collection::vec((1_u64..2000, 0_u64..20_000), 0..300),
        ) {
            let cluster_size = 1_u64 << cluster_bits;
            let mut placer = placer(1 << cluster_bits, 1 << 30);
            let mut used = vec![(0, cluster_size)];
            let mut counts = std::collections::BTreeMap::from([(0_u64, 1_u16)]);
            let mut cluster = 0;
            let mut tables = Vec::new();
            for (step, length) in steps {
                cluster += step;
                if (cluster + 1) << cluster_bits > 1 << 30 {
                    break;
                }
                let length = length % cluster_size;
                let stored = if length == 0 { Stored::Plain } else { Stored::Compressed(length) };
                let (offset, table) = placer.place(cluster, stored).unwrap();
                tables.extend(table);
                let length = if length == 0 { cluster_size } else { length };
                used.push((offset, length));
                for host in offset >> cluster_bits..=(offset + length - 1) >> cluster_bits {
                    *counts.entry(host).or_default() += 1;
                }
                if stored != Stored::Plain {
                    // What a reader takes includes the bytes and ends within the file.
                    let entry = compressed_entry(offset, length, cluster_bits).unwrap();
                    let (start, taken) = compressed(entry, cluster_bits);
                    proptest::prop_assert_eq!(start, offset);
                    proptest::prop_assert!(taken >= length && offset + taken <= placer.end);
                }
            }
            let (rest, header, end) = placer.finish().unwrap();
            tables.extend(rest);
            let refcounts = tables[tables.len() - 2].clone();
            for table in &tables {
                let length = (table.bytes.len() as u64).next_multiple_of(cluster_size);
                used.push((table.offset, length));
                for host in table.offset >> cluster_bits..(table.offset + length) >> cluster_bits {
                    *counts.entry(host).or_default() += 1;
                }
            }
            used.sort_unstable();
            for pair in used.windows(2) {
                proptest::prop_assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{:?}", pair);
            }
            let expected: Vec<u8> = (0..end >> cluster_bits)
                .flat_map(|host| counts.get(&host).copied().unwrap_or(0).to_be_bytes())
                .collect();
            proptest::prop_assert!(refcounts.bytes == expected);
            proptest::prop_assert_eq!(header.offset, 0);
        }
    }
}
