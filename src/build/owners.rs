//! The sandbox's records, as a scan of the target asks for them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::sandbox::acl::{ACCESS_ACL, acl_with_mode};
use crate::sandbox::store::{Key, Store};
use crate::tree::live::{FileKey, Owners};
use crate::tree::{Device, Inode, Kind};

/// Gives each file of a scanned tree what was recorded for it.
#[derive(Debug)]
pub struct Recorded(pub Arc<Store>);

impl Owners for Recorded {
    fn correct(&self, key: FileKey, inode: &mut Inode) {
        let FileKey {
            device,
            inode: number,
            born,
        } = key;
        let key = Key {
            device,
            inode: number,
            born,
        };
        let Some(record) = self.0.get(key) else {
            return;
        };
        if self.0.has_owners() {
            (inode.uid, inode.gid) = (record.uid, record.gid);
        }
        if let Some(node) = record.node {
            let device = Device {
                major: node.major,
                minor: node.minor,
            };
            inode.kind = if node.block {
                Kind::BlockDevice(device)
            } else {
                Kind::CharDevice(device)
            };
        }
        if record.xattrs.is_empty() {
            return;
        }
        let mode = inode.mode;
        let known: BTreeMap<_, _> = record
            .xattrs
            .into_iter()
            .map(|(name, value)| {
                if *name == *ACCESS_ACL {
                    let value = acl_with_mode(&value, mode);
                    (name, value)
                } else {
                    (name, value)
                }
            })
            .collect();
        Arc::make_mut(inode.xattrs.get_or_insert_default()).extend(known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gets_what_was_recorded_for_it() {
        let store = Arc::new(Store::default());
        let file = |inode| FileKey {
            device: 1,
            inode,
            born: (3, 4),
        };
        let key = Key {
            device: 1,
            inode: 2,
            born: (3, 4),
        };
        store.update(key, |record| {
            record.uid = 42;
            record.node = Some(crate::sandbox::store::Node {
                block: true,
                major: 8,
                minor: 1,
            });
            record.xattrs.insert((*b"trusted.x").into(), (*b"y").into());
        });
        let recorded = Recorded(store);
        let mut inode = Inode::file(*b"", 0o640);
        recorded.correct(file(9), &mut inode);
        assert_eq!(inode, Inode::file(*b"", 0o640));
        recorded.correct(file(2), &mut inode);
        let device = Kind::BlockDevice(Device { major: 8, minor: 1 });
        let expected = Inode::new(device, 0o640)
            .owned_by(42, 0)
            .with_xattr("trusted.x", "y");
        assert_eq!(inode, expected);
    }
}
