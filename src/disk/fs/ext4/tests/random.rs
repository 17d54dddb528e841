//! Random trees.

use proptest::prelude::*;

use super::*;
use crate::tree::{Content, DataRange, Inode, Origin};

/// A file somewhere: its directories, its name, and what it is.
#[derive(Debug, Clone)]
struct Item {
    directories: Vec<u8>,
    name: Vec<u8>,
    inode: Inode,
    links: u8,
}

fn content() -> impl Strategy<Value = Content> {
    let whole = proptest::collection::vec(any::<u8>(), 0..20_000).prop_map(Content::bytes);
    let sparse = (
        proptest::collection::btree_set(0u64..400, 0..40),
        1u64..4096,
    )
        .prop_map(|(blocks, tail)| {
            let size = 400 * 1024 + tail;
            let mut bytes = vec![0; usize::try_from(size).unwrap()];
            let data: Vec<DataRange> = blocks
                .into_iter()
                .map(|block| DataRange {
                    offset: block * 1024,
                    length: 600,
                })
                .inspect(|range| {
                    let start = usize::try_from(range.offset).unwrap();
                    bytes[start..start + 600].fill(5);
                })
                .collect();
            Content {
                size,
                origin: Origin::Bytes(bytes.into()),
                data: Some(data.into()),
            }
        });
    prop_oneof![whole, sparse]
}

fn inode() -> impl Strategy<Value = Inode> {
    let kind = prop_oneof![
        6 => content().prop_map(Kind::File),
        1 => Just(Kind::Directory),
        1 => proptest::collection::vec(b'a'..=b'z', 1..200).prop_map(|target| Kind::Symlink(target.into())),
        1 => Just(Kind::Fifo),
    ];
    let xattrs = proptest::collection::btree_map(
        "user\\.[a-z]{1,20}",
        proptest::collection::vec(any::<u8>(), 0..150),
        0..4,
    );
    (
        kind,
        0u16..0o10000,
        any::<u32>(),
        any::<u32>(),
        0i64..0x7FFF_FFFF,
        0u32..1_000_000_000,
        xattrs,
    )
        .prop_map(|(kind, mode, uid, gid, seconds, nanoseconds, xattrs)| {
            let xattrs = if matches!(kind, Kind::Fifo | Kind::Symlink(_)) {
                Default::default()
            } else {
                xattrs
            };
            xattrs.into_iter().fold(
                Inode::new(kind, mode)
                    .owned_by(uid, gid)
                    .modified(Timestamp {
                        seconds,
                        nanoseconds,
                    }),
                |inode, (name, value)| inode.with_xattr(name, value),
            )
        })
}

fn item() -> impl Strategy<Value = Item> {
    let byte = any::<u8>().prop_filter("a name has no slash and no zero", |byte| {
        !matches!(byte, 0 | b'/')
    });
    let name = proptest::collection::vec(byte, 1..100)
        .prop_filter("dots", |name| name != b"." && name != b"..");
    (
        proptest::collection::vec(0u8..4, 0..4),
        name,
        inode(),
        0u8..3,
    )
        .prop_map(|(directories, name, inode, links)| Item {
            directories,
            name,
            inode,
            links,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_is_clean_and_reads_back_equal(
        items in proptest::collection::vec(item(), 0..120),
        block_size in prop_oneof![Just(1024u32), Just(2048), Just(4096)],
        checksums: bool,
        slack in 0u64..5_000_000,
    ) {
        let tree = tree(|b| {
            for item in &items {
                let mut path = Vec::new();
                for directory in &item.directories {
                    path.extend_from_slice(format!("/dir {directory}").as_bytes());
                }
                path.push(b'/');
                path.extend_from_slice(&item.name);
                // A path through a file is not one.
                if b.insert(&path, item.inode.clone()).is_ok() && !item.inode.is_directory() {
                    for number in 0..item.links {
                        b.hard_link([&path[..], format!(" {number}").as_bytes()].concat(), &path).unwrap();
                    }
                }
            }
        });
        let mut options = options();
        options.block_size = block_size;
        options.features.ro_compat.set(super::super::format::RoCompat::METADATA_CSUM, checksums);
        let size = minimum_size(&tree, &options).unwrap() + slack;
        let image = Image::new(&tree, &options, size);
        image.check();
        view::compare(&image.path(), &tree);
    }
}
