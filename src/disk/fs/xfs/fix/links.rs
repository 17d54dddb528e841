//! Hard links, which a protofile does not know: every further name of a file gets an
//! inode of its own from `mkfs.xfs`, which is freed here.

use std::collections::{BTreeMap, HashMap};

use zerocopy::{FromBytes as _, IntoBytes as _};

use super::super::Error;
use super::super::directory::Entries;
use super::super::format::{
    AGI_CRC, Agi, Dinode, FINOBT_MAGIC, FORMAT_EXTENTS, INCOMPAT_SPINODES, INOBT_MAGIC, INODE_CORE,
    INODE_CRC, INODES_PER_CHUNK, InobtRecord, ShortBlock, seal,
};
use super::{Fix, Place, be32, put_records, records};
use crate::tree::{Inode, NodeId};

impl Fix<'_> {
    /// Leads further names of files to their inodes, and frees those that held
    /// their places.
    pub(super) fn links(&mut self) -> Result<(), Error> {
        let mut first: Vec<Option<NodeId>> = vec![None; self.tree.inodes().len()];
        let mut by_parent: BTreeMap<NodeId, BTreeMap<u64, u64>> = BTreeMap::new();
        let mut orphans = Vec::new();
        for (id, node) in self.tree.nodes() {
            let inode: &Inode = self.tree.inode(node.inode);
            // Directories have one name each.
            let Some(known) = first[node.inode.index()] else {
                first[node.inode.index()] = Some(id);
                continue;
            };
            if inode.is_directory() {
                continue;
            }
            let (Some(place), Some(target)) = (self.places[id.index()], self.places[known.index()])
            else {
                continue;
            };
            let links = by_parent.entry(node.parent).or_default();
            links.insert(place.number, target.number);
            orphans.push(place);
        }
        for (parent, links) in by_parent {
            let Some(place) = self.places[parent.index()] else {
                continue;
            };
            let mut bytes = vec![0; self.inode_size()];
            self.image.read(place.offset, &mut bytes)?;
            let (core, _) = Dinode::read_from_prefix(&bytes)
                .map_err(|_| self.image.foreign(place.offset, "there is no inode"))?;
            let entries = Entries {
                tree: self.tree,
                changed: HashMap::new(),
                links,
            };
            self.entries(&entries, place, &core, &mut bytes)?;
            seal(&mut bytes, INODE_CRC);
            self.image.write(place.offset, &bytes)?;
        }
        self.free(&orphans)
    }

    /// Frees inodes that nothing refers to.
    fn free(&mut self, orphans: &[Place]) -> Result<(), Error> {
        let bits = self.superblock.sb_inopblog + self.superblock.sb_agblklog;
        let mut by_group: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for place in orphans {
            let mut bytes = vec![0; self.inode_size()];
            self.image.read(place.offset, &mut bytes)?;
            let (mut core, _) = Dinode::read_from_prefix(&bytes)
                .map_err(|_| self.image.foreign(place.offset, "there is no inode"))?;
            core.di_mode = 0.into();
            core.di_nlink = 0.into();
            core.di_uid = 0.into();
            core.di_gid = 0.into();
            core.di_size = 0.into();
            core.di_forkoff = 0;
            core.di_format = FORMAT_EXTENTS;
            core.di_aformat = FORMAT_EXTENTS;
            core.di_nextents = 0.into();
            bytes[..INODE_CORE].copy_from_slice(core.as_bytes());
            bytes[INODE_CORE..].fill(0);
            seal(&mut bytes, INODE_CRC);
            self.image.write(place.offset, &bytes)?;
            let group = u32::try_from(place.number >> bits).unwrap_or(u32::MAX);
            let number = u32::try_from(place.number & ((1 << bits) - 1)).unwrap_or(u32::MAX);
            by_group.entry(group).or_default().push(number);
        }
        for (group, mut numbers) in by_group {
            numbers.sort_unstable();
            let count = u32::try_from(numbers.len()).unwrap_or(0);
            let (mut sector, mut agi) = self.agi(group)?;
            let changed = self.free_in_chunks(group, &agi, &numbers)?;
            if agi.agi_free_root != 0 {
                self.note_free_chunks(group, &agi, changed)?;
            }
            agi.agi_freecount = (agi.agi_freecount.get() + count).into();
            sector[..size_of::<Agi>()].copy_from_slice(agi.as_bytes());
            seal(&mut sector, AGI_CRC);
            self.image.write(self.agi_offset(group), &sector)?;
            let free = self.superblock.sb_ifree.get() + u64::from(count);
            self.superblock.sb_ifree = free.into();
        }
        Ok(())
    }

    /// Marks inodes as free in the records of their chunks; returns these.
    fn free_in_chunks(
        &self,
        group: u32,
        agi: &Agi,
        numbers: &[u32],
    ) -> Result<Vec<InobtRecord>, Error> {
        let mut changed = Vec::new();
        for leaf in self.leaves(group, agi.agi_root.get(), INOBT_MAGIC)? {
            let (offset, mut bytes, head) = self.short_block(group, leaf, INOBT_MAGIC)?;
            let mut all = records(&bytes, &head);
            let mut touched = false;
            for record in &mut all {
                let start = record.ir_startino.get();
                let from = numbers.partition_point(|number| *number < start);
                let to = numbers.partition_point(|number| *number < start + INODES_PER_CHUNK);
                for number in &numbers[from..to] {
                    let mask = record.ir_free.get() | 1 << (number - start);
                    record.ir_free = mask.into();
                    self.add_free(record);
                }
                if from < to {
                    changed.push(*record);
                    touched = true;
                }
            }
            if touched {
                put_records(&mut bytes, &all);
                self.image.write(offset, &bytes)?;
            }
        }
        Ok(changed)
    }

    /// One more free inode in a chunk, whose count has eight bits or 32.
    fn add_free(&self, record: &mut InobtRecord) {
        if self.superblock.sb_features_incompat.get() & INCOMPAT_SPINODES != 0 {
            record.ir_freecount += 1;
            return;
        }
        let bytes = record.as_mut_bytes();
        let count = be32(bytes, 4) + 1;
        bytes[4..8].copy_from_slice(&count.to_be_bytes());
    }

    /// Notes chunks with free inodes in the tree of such chunks.
    fn note_free_chunks(
        &self,
        group: u32,
        agi: &Agi,
        changed: Vec<InobtRecord>,
    ) -> Result<(), Error> {
        let root = agi.agi_free_root.get();
        let (offset, mut bytes, head) = self.short_block(group, root, FINOBT_MAGIC)?;
        if head.bb_level != 0 {
            return Err(self.image.foreign(offset, "free inodes have a deep tree"));
        }
        let mut all: BTreeMap<u32, InobtRecord> = records(&bytes, &head)
            .into_iter()
            .map(|record| (record.ir_startino.get(), record))
            .collect();
        all.extend(
            changed
                .into_iter()
                .map(|record| (record.ir_startino.get(), record)),
        );
        let all: Vec<InobtRecord> = all.into_values().collect();
        let most = (bytes.len() - size_of::<ShortBlock>()) / size_of::<InobtRecord>();
        if all.len() > most {
            let problem = "its hard links are spread over more directories than can be done";
            return Err(self.unsupported(NodeId::ROOT, problem));
        }
        put_records(&mut bytes, &all);
        self.image.write(offset, &bytes)
    }
}
