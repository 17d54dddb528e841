//! Extended attributes: each different set is stored once.

use std::collections::BTreeMap;
use std::sync::Arc;

use zerocopy::IntoBytes as _;

use super::Compressor;
use super::format::{self, NO_XATTRS};
use super::metadata::{Metadata, table};
use super::write::small;
use crate::tree::{Inode, Tree, Xattrs};

/// Name spaces of extended attributes, by their number.
const PREFIXES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];

/// The different sets of extended attributes.
pub(super) struct XattrSets {
    sets: Vec<Arc<Xattrs>>,
    numbers: BTreeMap<Arc<Xattrs>, u32>,
}

/// The name space of an attribute and the rest of its name; `None` for those
/// that squashfs has no place for.
fn split(name: &[u8]) -> Option<(u16, &[u8])> {
    (0..)
        .zip(PREFIXES)
        .find_map(|(number, prefix)| Some((number, name.strip_prefix(prefix)?)))
}

impl XattrSets {
    pub(super) fn collect(tree: &Tree, warnings: &mut Vec<String>) -> XattrSets {
        let mut found = XattrSets {
            sets: Vec::new(),
            numbers: BTreeMap::new(),
        };
        for (id, inode) in tree.inodes() {
            let Some(set) = &inode.xattrs else { continue };
            for name in set.keys().filter(|name| split(name).is_none()) {
                warnings.push(format!(
                    "`{}` has the attribute `{}`, which squashfs does not hold",
                    tree.path_of_inode(id).display(),
                    String::from_utf8_lossy(name)
                ));
            }
            if set.keys().any(|name| split(name).is_some()) && !found.numbers.contains_key(set) {
                let next = small(found.sets.len());
                found.numbers.insert(Arc::clone(set), next);
                found.sets.push(Arc::clone(set));
            }
        }
        found
    }

    pub(super) fn of(&self, inode: &Inode) -> u32 {
        inode
            .xattrs
            .as_ref()
            .and_then(|set| self.numbers.get(set))
            .copied()
            .unwrap_or(NO_XATTRS)
    }

    /// The table as it is at `start`, and where in it the header is.
    pub(super) fn table(&self, compressor: &mut Compressor, start: u64) -> Option<(Vec<u8>, u64)> {
        if self.sets.is_empty() {
            return None;
        }
        let mut values = Metadata::new(compressor);
        let mut ids: Vec<u8> = Vec::new();
        for set in &self.sets {
            let place = values.place();
            let mut bytes: Vec<u8> = Vec::new();
            let mut count = 0u32;
            for (name, value) in set.iter() {
                let Some((space, name)) = split(name) else {
                    continue;
                };
                count += 1;
                bytes.extend_from_slice(&space.to_le_bytes());
                // Linux has no longer names than 255 bytes.
                let length = u16::try_from(name.len()).unwrap_or(u16::MAX);
                bytes.extend_from_slice(&length.to_le_bytes());
                bytes.extend_from_slice(name);
                bytes.extend_from_slice(&small(value.len()).to_le_bytes());
                bytes.extend_from_slice(value);
            }
            values.write(&bytes);
            let id = format::XattrId {
                xattr: place.reference().into(),
                count: count.into(),
                size: small(bytes.len()).into(),
            };
            ids.extend_from_slice(id.as_bytes());
        }
        let (mut stored, _) = values.finish();
        let (table, index) = {
            let begin = start + stored.len() as u64;
            table(compressor, &ids, begin)
        };
        let index = usize::try_from(index)
            .unwrap_or(table.len())
            .min(table.len());
        stored.extend_from_slice(&table[..index]);
        let header = stored.len() as u64;
        let about = format::XattrTable {
            xattr_table_start: start.into(),
            xattr_ids: small(self.sets.len()).into(),
            unused: 0.into(),
        };
        stored.extend_from_slice(about.as_bytes());
        stored.extend_from_slice(&table[index..]);
        Some((stored, header))
    }
}
