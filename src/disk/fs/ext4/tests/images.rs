//! Trees with everything that is easy to get wrong.

use super::*;
use crate::tree::{Content, DataRange, Device, Inode, Origin};

fn at(seconds: i64, nanoseconds: u32) -> Timestamp {
    Timestamp {
        seconds,
        nanoseconds,
    }
}

/// A file with data in every second block: an extent for each.
fn swiss(blocks: u64) -> Inode {
    let mut bytes = vec![0; usize::try_from(2 * blocks * 4096).unwrap()];
    for (number, block) in bytes.chunks_mut(8192).enumerate() {
        block[..4096].fill(u8::try_from(number % 255).unwrap() + 1);
    }
    let data = (0..blocks)
        .map(|number| DataRange {
            offset: number * 8192,
            length: 4096,
        })
        .collect();
    let bytes: Arc<[u8]> = bytes.into();
    let content = Content {
        size: bytes.len() as u64,
        origin: Origin::Bytes(bytes),
        data: Some(data),
    };
    Inode::new(Kind::File(content), 0o644)
}

/// A tree without sparse files, which ext4-view cannot read from block maps.
pub(super) fn dense(tree: &Arc<Tree>) -> Arc<Tree> {
    let mut builder = tree.edit();
    for path in ["/swiss", "/five", "/hole"] {
        builder.remove(path).unwrap();
    }
    Arc::new(builder.build().unwrap())
}

/// An access ACL as `getxattr` gives it.
fn acl() -> Vec<u8> {
    let mut value = vec![2, 0, 0, 0];
    for (tag, permissions, id) in [
        (1u16, 6u16, u32::MAX),
        (2, 6, 1000),
        (4, 4, u32::MAX),
        (8, 4, 4_000_000_000),
        (16, 6, u32::MAX),
        (32, 4, u32::MAX),
    ] {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permissions.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}

/// `security.capability`, version 2: cap_net_raw, effective.
const CAPABILITY: [u8; 20] = [
    1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

pub(super) fn nasty() -> Arc<Tree> {
    tree(|b| {
        b.insert("/", Inode::directory(0o755).modified(at(1_600_000_000, 5)))
            .unwrap();
        b.insert(
            "/etc/shadow",
            Inode::file(*b"root:*:\n", 0o640).owned_by(0, 42),
        )
        .unwrap();
        b.insert("/empty", Inode::file(*b"", 0o600)).unwrap();
        b.insert("/tmp", Inode::directory(0o1777)).unwrap();
        b.insert("/bin/su", Inode::file(vec![7; 70_000], 0o6755))
            .unwrap();
        for number in 0..10 {
            b.hard_link(format!("/links/su{number}"), "/bin/su")
                .unwrap();
        }
        b.insert("/swiss", swiss(5000)).unwrap();
        b.insert("/five", swiss(5)).unwrap();
        let hole = Content {
            size: 24 << 20,
            origin: Origin::Bytes(vec![0; 24 << 20].into()),
            data: Some(Box::new([])),
        };
        b.insert("/hole", Inode::new(Kind::File(hole), 0o644))
            .unwrap();
        b.insert(
            [b"/names/".as_slice(), &[b'x'; 255]].concat(),
            Inode::file(*b"long", 0o644),
        )
        .unwrap();
        b.insert(b"/names/\xff\xfe latin \xe9", Inode::file(*b"bytes", 0o644))
            .unwrap();
        b.insert(b"/names/new\nline", Inode::file(*b"line", 0o644))
            .unwrap();
        for length in [1, 59, 60, 61, 1023, 4095] {
            b.insert(
                format!("/symlinks/{length}"),
                Inode::symlink(&b"target/".repeat(600)[..length]),
            )
            .unwrap();
        }
        let mut deep = String::new();
        for level in 0..30 {
            deep.push_str(&format!("/level{level}"));
        }
        b.insert(deep + "/file", Inode::file(*b"deep", 0o644))
            .unwrap();
        b.insert(
            "/xattr/small",
            Inode::file(*b"", 0o644).with_xattr("user.small", b"value"),
        )
        .unwrap();
        b.insert(
            "/xattr/empty",
            Inode::file(*b"", 0o644).with_xattr("user.empty", b""),
        )
        .unwrap();
        b.insert(
            "/xattr/large",
            Inode::file(*b"x", 0o644).with_xattr("user.large", [1; 2000]),
        )
        .unwrap();
        b.insert(
            "/xattr/mixed",
            Inode::file(*b"x", 0o644)
                .with_xattr("user.large", [2; 2000])
                .with_xattr("user.other", [3; 500])
                .with_xattr("trusted.t", b"trusted")
                .with_xattr("security.capability", CAPABILITY),
        )
        .unwrap();
        for number in 0..4 {
            b.insert(
                format!("/xattr/shared{number}"),
                Inode::file(*b"s", 0o644).with_xattr("user.shared", [9; 3500]),
            )
            .unwrap();
        }
        b.insert(
            "/xattr/link",
            Inode::symlink("target").with_xattr("trusted.link", b"on a link"),
        )
        .unwrap();
        b.insert(
            "/ping",
            Inode::file(*b"ping", 0o755).with_xattr("security.capability", CAPABILITY),
        )
        .unwrap();
        b.insert(
            "/acl/file",
            Inode::file(*b"acl", 0o664).with_xattr("system.posix_acl_access", acl()),
        )
        .unwrap();
        b.insert(
            "/acl/dir",
            Inode::directory(0o775)
                .with_xattr("system.posix_acl_access", acl())
                .with_xattr("system.posix_acl_default", acl()),
        )
        .unwrap();
        b.insert(
            "/dev/null",
            Inode::new(Kind::CharDevice(Device { major: 1, minor: 3 }), 0o666),
        )
        .unwrap();
        b.insert(
            "/dev/huge",
            Inode::new(
                Kind::CharDevice(Device {
                    major: 4095,
                    minor: 70000,
                }),
                0o600,
            ),
        )
        .unwrap();
        b.insert(
            "/dev/blk",
            Inode::new(
                Kind::BlockDevice(Device {
                    major: 259,
                    minor: 1_048_575,
                }),
                0o660,
            ),
        )
        .unwrap();
        b.insert("/dev/fifo", Inode::new(Kind::Fifo, 0o644))
            .unwrap();
        b.insert("/dev/sock", Inode::new(Kind::Socket, 0o755))
            .unwrap();
        // With a time of its own, which ext4-view can read.
        b.insert("/times", Inode::directory(0o755)).unwrap();
        for (name, time) in [
            ("1901", at(-2_147_483_648, 0)),
            ("1965", at(-157_766_400, 123_456_789)),
            ("2039", at(2_177_452_800, 999_999_999)),
            ("2100", at(4_102_444_800, 1)),
            ("2446", at(0x3_7FFF_FFFF, 5)),
        ] {
            b.insert(
                format!("/times/{name}"),
                Inode::file(*b"", 0o644).modified(time),
            )
            .unwrap();
        }
        b.insert(
            "/big-ids",
            Inode::file(*b"", 0o644).owned_by(3_000_000_000, 4_000_000_000),
        )
        .unwrap();
        for number in 0..3000 {
            b.insert(
                format!("/three-thousand/entry-{number:05}"),
                Inode::file(*b"e", 0o644),
            )
            .unwrap();
        }
    })
}

#[test]
fn an_empty_tree_is_clean_at_all_sizes() {
    let tree = tree(|_| {});
    for size in [
        2 * MIB,
        3 * MIB,
        7 * MIB + 12345,
        64 * MIB,
        128 * MIB,
        129 * MIB,
        260 * MIB,
        1024 * MIB,
        5000 * MIB,
    ] {
        let size = size.max(minimum_size(&tree, &options()).unwrap());
        Image::new(&tree, &options(), size).check();
    }
}

#[test]
fn a_nasty_tree_is_clean_and_reads_back_equal() {
    let tree = nasty();
    let image = Image::new(&tree, &options(), 512 * MIB);
    image.check();
    view::compare(&image.path(), &tree);
}

#[test]
fn the_header_is_that_of_mke2fs() {
    if skip_without_e2fsprogs() {
        return;
    }
    let mut options = options();
    options
        .parse_mkfs("-i 4096 -J size=64 -L cloudimg-rootfs")
        .unwrap();
    let image = Image::new(&tree(|_| {}), &options, 4096 * MIB);
    image.check();
    let text = image.debugfs("show_super_stats -h");
    for line in [
        "Filesystem volume name:   cloudimg-rootfs",
        "Filesystem features:      has_journal ext_attr resize_inode dir_index filetype extent 64bit flex_bg sparse_super large_file huge_file dir_nlink extra_isize metadata_csum",
        "Filesystem flags:         signed_directory_hash",
        "Default mount options:    user_xattr acl",
        "Filesystem state:         clean",
        "Errors behavior:          Continue",
        "Inode count:              1048576",
        "Block count:              1048576",
        "Reserved block count:     52428",
        "Overhead clusters:        86088",
        "Free inodes:              1048565",
        "Group descriptor size:    64",
        "Reserved GDT blocks:      511",
        "Flex block group size:    16",
        "Maximum mount count:      -1",
        "Required extra isize:     32",
        "Desired extra isize:      32",
        "Default directory hash:   half_md4",
        "Journal backup:           inode blocks",
        "Checksum type:            crc32c",
    ] {
        assert!(
            text.lines().any(|found| found.trim_end() == line),
            "{line}\nnot in\n{text}"
        );
    }
}

#[test]
fn large_directories_are_indexed_and_e2fsck_agrees_with_the_hashes() {
    // More leaves than one block of an index has room for.
    let entries = 45_000;
    let tree = tree(|b| {
        for number in 0..entries {
            b.insert(
                format!("/big/a file with a name of some length {number}"),
                Inode::file(*b"", 0o644),
            )
            .unwrap();
        }
    });
    let image = Image::new(&tree, &options(), 512 * MIB);
    image.check();
    if tool("debugfs").is_some() {
        let dump = image.debugfs("htree_dump /big");
        assert!(
            dump.contains("Indirect levels: 1"),
            "{}",
            &dump[..dump.len().min(500)]
        );
    }
    view::compare(&image.path(), &tree);
}

#[test]
fn a_small_indexed_directory_has_one_level() {
    if skip_without_e2fsprogs() {
        return;
    }
    let image = Image::new(&nasty(), &options(), 512 * MIB);
    assert!(
        image
            .debugfs("htree_dump /three-thousand")
            .contains("Indirect levels: 0")
    );
    assert!(image.debugfs("stat /swiss").contains("EXTENTS"));
    assert!(
        image
            .debugfs("stat /dev/huge")
            .contains("Device major/minor number: 4095:70000")
    );
}

#[test]
fn a_tree_with_lost_and_found_keeps_it() {
    let tree = tree(|b| {
        b.insert("/lost+found", Inode::directory(0o700).owned_by(0, 7))
            .unwrap();
        b.insert("/lost+found/found", Inode::file(*b"me", 0o600))
            .unwrap();
    });
    let image = Image::new(&tree, &options(), 64 * MIB);
    image.check();
    view::compare(&image.path(), &tree);
}

#[test]
fn a_directory_with_too_many_subdirectories_to_count_has_one_link() {
    let tree = tree(|b| {
        for number in 0..65_000 {
            b.insert(format!("/many/{number}"), Inode::directory(0o755))
                .unwrap();
        }
    });
    let image = Image::new(&tree, &options(), 1024 * MIB);
    image.check();
    if tool("debugfs").is_some() {
        assert!(image.debugfs("stat /many").contains("Links: 1 "));
    }
}

#[test]
fn subdirectories_that_may_not_go_uncounted_have_a_limit() {
    let with = |subdirectories: u32| {
        tree(|b| {
            for number in 0..subdirectories {
                b.insert(format!("/many/{number}"), Inode::directory(0o755))
                    .unwrap();
            }
        })
    };
    let mut ext3 = options();
    ext3.features = super::super::Features::ext3();
    let full = with(64_998);
    let size = minimum_size(&full, &ext3).unwrap();
    let image = Image::new(&full, &ext3, size);
    image.check();
    if tool("debugfs").is_some() {
        assert!(image.debugfs("stat /many").contains("Links: 65000 "));
    }
    assert_eq!(
        plan(&with(64_999), &ext3, 1024 * MIB)
            .unwrap_err()
            .to_string(),
        "`/many` has 64999 subdirectories, but without the feature `dir_nlink` ext4 allows at most \
         64998; add `-O dir_nlink`"
    );
}

#[test]
fn attribute_blocks_have_at_most_1024_users() {
    let tree = tree(|b| {
        for number in 0..2500 {
            b.insert(
                format!("/{number}"),
                Inode::file(*b"", 0o644).with_xattr("user.shared", [9; 3500]),
            )
            .unwrap();
        }
    });
    Image::new(&tree, &options(), 64 * MIB).check();
}

#[test]
fn the_minimum_size_is_enough_and_less_is_refused() {
    for tree in [tree(|_| {}), nasty()] {
        let minimum = minimum_size(&tree, &options()).unwrap();
        Image::new(&tree, &options(), minimum).check();
        let error = plan(&tree, &options(), minimum / 2).unwrap_err();
        let crate::disk::fs::ext4::Error::TooSmall { least, needed, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(needed, minimum);
        let message = error.to_string();
        // In units in which the two numbers differ.
        let told = if least < 10 * MIB {
            format!(
                "of at least {} KiB, but it would have {} KiB",
                least.div_ceil(1024),
                minimum / 2 / 1024
            )
        } else {
            format!("of at least {} MiB", least.div_ceil(MIB))
        };
        assert!(message.contains(&told), "{message}");
        // Without the journal that it would have with a little more.
        assert!(least < minimum || minimum < MIB, "{least}");
        Image::new(&tree, &options(), least).check();
    }
}

#[test]
fn a_huge_sparse_file_costs_nothing() {
    let tree = tree(|b| {
        let data = Box::new([DataRange {
            offset: 0,
            length: 1,
        }]);
        let content = Content {
            size: 1 << 40,
            origin: Origin::Bytes(Arc::new([1])),
            data: Some(data),
        };
        b.insert("/sparse", Inode::new(Kind::File(content), 0o644))
            .unwrap();
    });
    let volume = plan(&tree, &options(), 64 * MIB).unwrap();
    assert!(
        volume
            .extents
            .iter()
            .all(|extent| extent.length <= 64 * MIB)
    );
}
