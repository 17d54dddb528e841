//! Compares an image with its tree through an independent reader (ext4-view).

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt as _;

use ext4_view::{Ext4, Ext4Read, FileType, Metadata};

use super::*;
use crate::tree::{InodeId, NodeId};

/// An image file as ext4-view wants it.
struct Reader(File);

impl Ext4Read for Reader {
    fn read(
        &mut self,
        start: u64,
        buffer: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.read_exact_at(buffer, start)?)
    }
}

pub(super) fn compare(path: &Path, tree: &Arc<Tree>) {
    let image = Ext4::load(Box::new(Reader(File::open(path).unwrap()))).unwrap();
    let mut read: HashMap<InodeId, Vec<u8>> = HashMap::new();
    for (id, node) in tree.nodes() {
        let path = tree.path(id);
        let bytes = path.as_os_str().as_bytes();
        let inode = tree.inode(node.inode);
        if inode.mtime.seconds & 0x8000_0000 != 0 {
            // ext4-view 1.0 refuses any time whose lower half has the sign bit.
            continue;
        }
        let metadata = image.symlink_metadata(bytes).unwrap();
        assert_eq!(metadata.mode() & 0o7777, inode.mode, "{}", path.display());
        assert_eq!(
            (metadata.uid(), metadata.gid()),
            (inode.uid, inode.gid),
            "{}",
            path.display()
        );
        if metadata.created().is_some() {
            let mtime = metadata.modified();
            let expected = (inode.mtime.seconds, inode.mtime.nanoseconds);
            assert_eq!(
                (mtime.seconds(), mtime.nanoseconds()),
                expected,
                "{}",
                path.display()
            );
        }
        match &inode.kind {
            Kind::Directory => compare_names(&image, tree, id, bytes),
            Kind::File(content) => {
                assert_eq!(kind(&metadata), FileType::Regular);
                assert_eq!(metadata.len(), content.size);
                let expected = read
                    .entry(node.inode)
                    .or_insert_with(|| bytes_of(tree, node.inode));
                assert!(
                    image.read(bytes).unwrap() == *expected,
                    "{} differs",
                    path.display()
                );
            }
            Kind::Symlink(target) => {
                assert_eq!(image.read_link(bytes).unwrap().as_ref(), target.as_ref());
            }
            Kind::CharDevice(_) => assert_eq!(kind(&metadata), FileType::CharacterDevice),
            Kind::BlockDevice(_) => assert_eq!(kind(&metadata), FileType::BlockDevice),
            Kind::Fifo => assert_eq!(kind(&metadata), FileType::Fifo),
            Kind::Socket => assert_eq!(kind(&metadata), FileType::Socket),
        }
    }
}

fn kind(metadata: &Metadata) -> FileType {
    metadata.file_type()
}

fn compare_names(image: &Ext4, tree: &Tree, id: NodeId, path: &[u8]) {
    let mut found: Vec<Vec<u8>> = image
        .read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().as_ref().to_vec())
        .filter(|name| name != b"." && name != b"..")
        .collect();
    found.sort();
    let mut expected: Vec<Vec<u8>> = tree
        .children(id)
        .iter()
        .map(|&child| tree.name(child).to_vec())
        .collect();
    if id == NodeId::ROOT && tree.child(id, b"lost+found").is_none() {
        expected.push(b"lost+found".to_vec());
        expected.sort();
    }
    assert_eq!(found, expected, "{}", String::from_utf8_lossy(path));
}
