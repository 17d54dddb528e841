//! Archives that were made by hand, and broken ones. Those of `tar` are in
//! `tests/pack.rs`.

use std::io::Write as _;

use super::*;
use crate::tree::acl::{ACCESS, Acl, DEFAULT};

/// A member: header with this type, name, link and data.
fn member(kind: u8, name: &str, link: &str, data: &[u8]) -> Vec<u8> {
    let mut header = [0; BLOCK_SIZE];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, &name.as_bytes()[..name.len().min(100)]);
    put(100, b"0000640\0");
    put(108, b"0000007\0");
    put(116, b"0000010\0");
    put(124, format!("{:011o}\0", data.len()).as_bytes());
    put(136, b"00000000012\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    put(329, b"0000001\0");
    put(337, b"0000003\0");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut bytes = header.to_vec();
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(BLOCK_SIZE), 0);
    bytes
}

/// A member whose header gives this size, without data.
fn sized(kind: u8, name: &str, link: &str, magic: &[u8], size: usize) -> Vec<u8> {
    let mut header = member(kind, name, link, &vec![0; size]);
    header.truncate(BLOCK_SIZE);
    header[257..265].copy_from_slice(magic);
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// Records of an extended header.
fn records(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut text = Vec::new();
    for (key, value) in pairs {
        let rest = format!(" {key}={value}\n");
        let mut length = rest.len() + 1;
        while length.to_string().len() + rest.len() != length {
            length += 1;
        }
        text.extend_from_slice(format!("{length}{rest}").as_bytes());
    }
    text
}

fn read_bytes(bytes: &[u8]) -> Result<Archived, Error> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    read(file.path(), &std::env::temp_dir())
}

/// An archive of these members, with its end.
fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = members.concat();
    bytes.resize(bytes.len() + 2 * BLOCK_SIZE, 0);
    bytes
}

fn read_members(members: &[Vec<u8>]) -> Result<Archived, Error> {
    read_bytes(&archive(members))
}

fn gzip(bytes: &[u8], level: flate2::Compression) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), level);
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// What a file of the tree has.
fn content(tree: &Arc<Tree>, path: &str) -> Vec<u8> {
    tree.read_small(tree.find(path).unwrap()).unwrap()
}

#[test]
fn what_is_no_file_has_no_data_whatever_its_size() {
    let ustar = b"ustar\x0000";
    // The two members after each would pass for 1024 bytes of data.
    for odd in [
        sized(b'2', "odd", "a", ustar, 1024),
        sized(b'3', "odd", "", ustar, 1024),
        sized(b'4', "odd", "", ustar, 1024),
        sized(b'5', "odd", "", ustar, 1024),
        sized(b'6', "odd", "", ustar, 1024),
        sized(0, "odd/", "", b"\0\0\0\0\0\0\0\0", 1024),
        sized(b'1', "odd", "a", ustar, 1024),
        sized(b'1', "odd", "a", b"ustar  \0", 1024),
        sized(b'1', "odd", "a", b"\0\0\0\0\0\0\0\0", 1024),
    ] {
        let bytes = archive(&[
            member(b'0', "a", "", b"first"),
            odd,
            member(b'0', "b", "", b"second"),
            sized(b'1', "last", "a", ustar, 1024),
        ]);
        let packed = gzip(&bytes, flate2::Compression::fast());
        for bytes in [bytes, packed] {
            let archived = read_bytes(&bytes).unwrap();
            assert!(archived.warnings.is_empty(), "{:?}", archived.warnings);
            let tree = Arc::new(archived.tree);
            let names: Vec<_> = tree.nodes().map(|(id, _)| tree.path(id)).collect();
            assert_eq!(names, ["/", "/a", "/b", "/last", "/odd"].map(PathBuf::from));
            assert_eq!(content(&tree, "b"), b"second");
        }
    }
}

#[test]
fn further_names_may_come_with_the_data() {
    let plain = vec![
        member(b'0', "a", "", b"first"),
        member(b'1', "link", "a", &[b'f'; 1000]),
        member(b'0', "b", "", b"second"),
    ];
    // In a pax archive the data may look like a member.
    let inner = member(b'0', "inner", "", b"");
    let pax = vec![
        member(b'g', "", "", &records(&[("comment", "pax")])),
        member(b'0', "a", "", &inner),
        member(b'1', "link", "a", &inner),
        member(b'0', "b", "", b"second"),
    ];
    for members in [plain, pax] {
        let tree = Arc::new(read_members(&members).unwrap().tree);
        let names: Vec<_> = tree.nodes().map(|(id, _)| tree.path(id)).collect();
        assert_eq!(names, ["/", "/a", "/b", "/link"].map(PathBuf::from));
        assert_eq!(content(&tree, "b"), b"second");
    }
}

#[test]
fn members_become_what_they_are() {
    let archived = read_members(&[
        member(b'0', "a", "", b"0123456789"),
        member(b'5', "./dir/", "", b""),
        member(b'2', "dir/link", "../a", b""),
        member(b'1', "dir/second", "./a", b""),
        member(b'3', "null", "", b""),
        member(b'6', "pipe", "", b""),
        member(b'0', "a old directory/", "", b""),
        member(b'0', "later", "", b"first"),
        member(b'0', "later", "", b"second"),
        member(
            b'L',
            "",
            "",
            format!("deep/{}\0", "l".repeat(200)).as_bytes(),
        ),
        member(b'0', "cut", "", b"long"),
        member(
            b'x',
            "pax",
            "",
            &records(&[
                ("path", "pax/file"),
                ("uid", "70000"),
                ("mtime", "-1.5"),
                ("SCHILY.xattr.user.a", "b=c\n"),
                ("RHT.security.selinux", "u:r:t:s0"),
                (
                    "SCHILY.acl.access",
                    "user::rw-,user:7:r-x,group::r--,mask::r-x,other::---\n",
                ),
            ]),
        ),
        member(b'0', "ignored", "", b"pax"),
    ])
    .unwrap();
    assert_eq!(archived.warnings, [""; 0]);
    let long = "l".repeat(200);
    let tree = Arc::new(archived.tree);
    let find = |path: &str| tree.find(path).unwrap_or_else(|| panic!("{path}"));
    let text = |path: &str| String::from_utf8(tree.read_small(find(path)).unwrap()).unwrap();
    assert_eq!(text("/a"), "0123456789");
    assert_eq!(text("/later"), "second");
    assert_eq!(text(&format!("/deep/{long}")), "long");
    assert_eq!(text("/pax/file"), "pax");
    assert_eq!(
        tree.node(find("/a")).inode,
        tree.node(find("/dir/second")).inode
    );
    assert_eq!(tree.inode_of(find("/a")).links, 2);
    assert!(tree.inode_of(find("/a old directory")).is_directory());
    // The header says 0640, as it does for all others.
    assert_eq!(tree.inode_of(find("/dir/link")).mode, 0o777);
    let device = Kind::CharDevice(Device { major: 1, minor: 3 });
    assert_eq!(tree.inode_of(find("/null")).kind, device);
    let pax = tree.inode_of(find("/pax/file"));
    assert_eq!((pax.uid, pax.gid, pax.mode), (70_000, 8, 0o650));
    let before = Timestamp {
        seconds: -2,
        nanoseconds: 500_000_000,
    };
    assert_eq!(pax.mtime, before);
    let xattrs = pax.xattrs.as_ref().unwrap();
    assert_eq!(&xattrs[&b"security.selinux"[..]][..], b"u:r:t:s0\0");
    assert_eq!(&xattrs[&b"user.a"[..]][..], b"b=c\n");
    let acl = Acl::from_xattr(&xattrs[ACCESS]).unwrap();
    assert_eq!(
        acl.to_text(),
        "user::rw-,user:7:r-x,group::r--,mask::r-x,other::---"
    );
}

#[test]
fn access_control_lists_have_the_numbers_of_the_archive() {
    let pax = |pairs: &[(&str, &str)]| member(b'x', "pax", "", &records(pairs));
    let named = "user::rwx\nuser:web:rwx\nuser:gone:r--\ngroup::r-x\nmask::rwx\nother::---\n";
    let numbered = "user::rwx,user:web:rw-:77,group::r-x,mask::rwx,other::---";
    let exact = "\u{2}\0\0\0";
    let archived = read_members(&[
        pax(&[("SCHILY.acl.access", named), ("SCHILY.acl.default", named)]),
        member(b'5', "dir", "", b""),
        pax(&[
            ("SCHILY.acl.access", numbered),
            ("SCHILY.acl.default", numbered),
        ]),
        member(b'0', "file", "", b"text"),
        // What is replaced has no part in it.
        pax(&[("SCHILY.acl.access", named)]),
        member(b'0', "plain", "", b"first"),
        member(b'0', "plain", "", b"second"),
        pax(&[("SCHILY.acl.access", named)]),
        member(b'2', "link", "file", b""),
        pax(&[
            ("SCHILY.acl.access", named),
            ("SCHILY.xattr.system.posix_acl_access", exact),
        ]),
        member(b'0', "exact", "", b"text"),
        pax(&[("SCHILY.acl.access", "user::rw-,group::rw-,other::r--")]),
        member(b'0', "minimal", "", b"text"),
        pax(&[("SCHILY.acl.ace", "owner@:rwx::allow")]),
        member(b'0', "nfs", "", b"text"),
        member(b'0', "etc/passwd", "", b"web:x:33:34::/:\n"),
    ])
    .unwrap();
    let tree = archived.tree;
    let list = |path: &str, name: &[u8]| {
        let inode = tree.inode_of(tree.find(path).unwrap());
        let value = inode.xattrs.as_ref().and_then(|set| set.get(name));
        let text = value.map(|value| Acl::from_xattr(value).map(|acl| acl.to_text()));
        (inode.mode, text.map(Option::unwrap_or_default))
    };
    let resolved = "user::rwx,user:33:rwx,group::r-x,mask::rwx,other::---".to_owned();
    assert_eq!(list("dir", ACCESS), (0o770, Some(resolved.clone())));
    assert_eq!(list("dir", DEFAULT), (0o770, Some(resolved)));
    let resolved = "user::rwx,user:77:rw-,group::r-x,mask::rwx,other::---".to_owned();
    assert_eq!(list("file", ACCESS), (0o770, Some(resolved)));
    assert_eq!(list("file", DEFAULT).1, None);
    assert_eq!(list("plain", ACCESS), (0o640, None));
    assert_eq!(list("link", ACCESS), (0o777, None));
    assert_eq!(list("exact", ACCESS), (0o640, Some(String::new())));
    assert_eq!(list("minimal", ACCESS), (0o664, None));
    assert_eq!(list("nfs", ACCESS), (0o640, None));
    for (_, inode) in tree.inodes() {
        let names = inode.xattrs.iter().flat_map(|set| set.keys());
        assert!(!names.into_iter().any(|name| name.starts_with(b"\0")));
    }
    let warnings = archived.warnings;
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].starts_with("2 entries of access control lists"));
    assert!(warnings[0].contains("such as `gone`; make"));
    assert!(warnings[1].contains("NFSv4's kind"), "{}", warnings[1]);
    assert!(warnings[1].contains("1 files, such as `nfs`"));
}

#[test]
fn sparse_files_have_their_holes() {
    let map = records(&[
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", "sparse"),
        ("GNU.sparse.realsize", "1000000"),
    ]);
    let mut data = b"2\n4096\n512\n900000\n3\n".to_vec();
    data.resize(512, 0);
    data.extend_from_slice(&[7; 512]);
    data.extend_from_slice(b"end");
    let archived = read_members(&[member(b'x', "", "", &map), member(b'0', "x", "", &data)]);
    let tree = Arc::new(archived.unwrap().tree);
    let node = tree.find("/sparse").unwrap();
    let mut expected = vec![0; 1_000_000];
    expected[4096..4608].fill(7);
    expected[900_000..900_003].copy_from_slice(b"end");
    assert!(tree.read_small(node).unwrap() == expected);
    let mut reader = tree.reader();
    for (start, length) in [
        (0, 4097),
        (4096, 512),
        (4600, 20),
        (899_999, 5),
        (999_999, 10),
    ] {
        let mut window = vec![9; length];
        let inode = tree.node(node).inode;
        let count = reader.read_at(inode, start, &mut window).unwrap();
        let start = usize::try_from(start).unwrap();
        assert!(window[..count] == expected[start..start + count]);
    }
}

/// The record of an attribute with so many bytes.
fn attribute(name: &str, length: usize) -> Vec<u8> {
    let value = "v".repeat(length);
    records(&[(&format!("SCHILY.xattr.{name}"), &value)])
}

/// Records of so many attributes of 64 KiB, the longest that there are.
fn attributes(count: usize) -> Vec<u8> {
    let attribute = |number| attribute(&format!("user.{number}"), 65_536);
    (0..count).flat_map(attribute).collect()
}

#[test]
fn attributes_of_all_files_are_kept_once() {
    let archived = read_members(&[
        member(b'g', "g", "", &attribute("user.a", 1000)),
        member(b'0', "first", "", b""),
        member(b'x', "x", "", &records(&[("uid", "5")])),
        member(b'0', "second", "", b""),
        member(b'x', "x", "", &attribute("user.b", 10)),
        member(b'0', "other", "", b""),
        member(b'x', "x", "", &attributes(15)),
        member(b'0', "most", "", b""),
    ]);
    let tree = archived.unwrap().tree;
    let xattrs = |path: &str| {
        let inode = tree.inode_of(tree.find(path).unwrap());
        Arc::clone(inode.xattrs.as_ref().unwrap())
    };
    assert!(Arc::ptr_eq(&xattrs("/first"), &xattrs("/second")));
    assert_eq!(xattrs("/first").len(), 1);
    assert_eq!(xattrs("/other").len(), 2);
    assert_eq!(xattrs("/most").len(), 16);
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    let whole = member(b'0', "a", "", &[1; 2000]);
    let mut bad_sum = whole.clone();
    bad_sum[0] = b'b';
    let message = |result: Result<Archived, Error>| {
        let error = result.map(|archived| archived.warnings).unwrap_err();
        assert!(error.hint().is_some());
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        format!("{error} {}", cause.unwrap_or_default())
    };
    for (members, expected) in [
        (
            vec![member(b'1', "second", "gone", b"")],
            "has member `second`, which cannot be put into a tree",
        ),
        (
            vec![bad_sum],
            "damaged at byte 0: there is no header of a member",
        ),
        (
            vec![member(b'1', "b", "gone", b"")],
            "`gone` is not in the tree",
        ),
        (
            vec![member(b'1', "b", "./b", b"")],
            "`./b` is not in the tree",
        ),
        (
            vec![
                member(b'0', "d/file", "", b"1"),
                member(b'0', "d", "", b"2"),
            ],
            "`d` is a directory that has files, and only a directory can take its place",
        ),
        (
            vec![
                member(b'0', "d/file", "", b"1"),
                member(b'2', "d", "to", b""),
            ],
            "`d` is a directory that has files",
        ),
        (
            vec![
                member(b'0', "d/file", "", b"1"),
                member(b'1', "d", "d/file", b""),
            ],
            "`d` is a directory that has files",
        ),
        (
            vec![member(b'0', "../up", "", b"")],
            "`..` is not resolved here",
        ),
        (
            vec![member(b'2', "d", "/", b""), member(b'0', "d/file", "", b"")],
            "`d` is not a directory",
        ),
        (
            vec![member(b'2', "empty", "", b"")],
            "a symbolic link's target has 1 to 4095 bytes",
        ),
        (
            vec![member(b'M', "m", "", b"")],
            "`m`, which continues another archive",
        ),
        (
            vec![member(b'Z', "z", "", b"")],
            "`z`, which is of an unknown type",
        ),
        (
            vec![member(b'x', "x", "", b"5 a=b\n")],
            "an extended header has a broken record",
        ),
        (
            vec![member(b'x', "x", "", &records(&[("path", "a")]))],
            "it ends after an extended header",
        ),
        (
            vec![member(b'g', "g", "", &records(&[("linkpath", "a")]))],
            "a global header says what only one file can have",
        ),
        (
            vec![
                member(b'g', "g", "", &attribute("user.a", 2000)),
                member(b'g', "g", "", &attribute("user.b", 2200)),
            ],
            "global headers have more than 4 KiB of extended attributes",
        ),
        (
            vec![
                member(b'x', "x", "", &attributes(17)),
                member(b'0', "x", "", b""),
            ],
            "a file has more than 1 MiB of extended attributes",
        ),
        (
            vec![
                member(
                    b'x',
                    "x",
                    "",
                    &records(&[("GNU.sparse.map", "5,5,0,5"), ("GNU.sparse.size", "9")]),
                ),
                member(b'0', "x", "", b"0123456789"),
            ],
            "ranges that overlap or are out of order",
        ),
        (
            vec![
                member(b'x', "x", "", &records(&[("SCHILY.acl.access", "user:")])),
                member(b'0', "x", "", b""),
            ],
            "has member `x`, which has a broken access control list",
        ),
        (
            vec![
                member(
                    b'x',
                    "x",
                    "",
                    &records(&[("GNU.sparse.map", "0,5"), ("GNU.sparse.size", "9")]),
                ),
                member(b'0', "x", "", b"0123456789"),
            ],
            "map does not fit its data",
        ),
    ] {
        let said = message(read_members(&members));
        assert!(said.contains(expected), "{said}");
    }
    let said = message(read_bytes(&whole[..1500]));
    assert!(
        said.contains("damaged at byte 512: it ends within a file"),
        "{said}"
    );
    let said = message(read_bytes(&whole[..200]));
    assert!(
        said.contains("damaged at byte 0: it ends within a block"),
        "{said}"
    );
    let packed = gzip(&whole[..1500], flate2::Compression::fast());
    let said = message(read_bytes(&packed));
    assert!(said.contains("it ends within a file"), "{said}");
}

#[test]
fn an_archive_that_is_cut_off_is_refused_or_warned_of() {
    let member = member(b'0', "a", "", &[1; 2000]);
    // Between two members nothing shows whether more should follow.
    let archived = read_bytes(&member).unwrap();
    assert_eq!(archived.warnings.len(), 1);
    assert!(archived.warnings[0].contains("it may be cut off"));
    let whole = archive(&[member]);
    assert_eq!(read_bytes(&whole).unwrap().warnings, [""; 0]);

    let zstd = zstd::bulk::compress(&whole, 3).unwrap();
    for packed in [gzip(&whole, flate2::Compression::fast()), zstd] {
        let error = read_bytes(&packed[..packed.len() / 2]).unwrap_err();
        let hint = error.hint().unwrap_or_default();
        assert!(hint.contains("may be cut off"), "{error:?}");
    }
}

#[test]
fn what_takes_the_place_of_another_is_as_tar_has_it() {
    let archived = read_members(&[
        member(b'5', "empty", "", b""),
        member(b'0', "empty", "", b"file"),
        member(b'0', "file", "", b""),
        member(b'5', "file", "", b""),
        member(b'0', "file/below", "", b"1"),
        member(b'5', "file", "", b""),
        member(b'2', "link", "file", b""),
        member(b'5', "link", "", b""),
        member(b'0', "link/below", "", b"2"),
        member(b'0', "old", "", b"3"),
        member(b'1', "kept", "old", b""),
        member(b'0', "old", "", b"4"),
        member(b'1', "old", "./old", b""),
    ]);
    let tree = Arc::new(archived.unwrap().tree);
    for (path, text) in [
        ("empty", "file"),
        ("file/below", "1"),
        ("link/below", "2"),
        ("kept", "3"),
        ("old", "4"),
    ] {
        assert_eq!(content(&tree, path), text.as_bytes(), "{path}");
    }
    assert_eq!(tree.children(tree.find("file").unwrap()).len(), 1);
}

#[test]
fn damage_that_only_the_last_checksum_shows_is_found() {
    let whole = archive(&[member(b'0', "a", "", &[1; 2000])]);
    // What is stored and not packed has no other guard.
    let stored = gzip(&whole, flate2::Compression::none());
    let mut zstd = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    zstd.include_checksum(true).unwrap();
    zstd.write_all(&whole).unwrap();
    let zstd = zstd.finish().unwrap();
    for packed in [&stored, &zstd] {
        read_bytes(packed).unwrap();
        let mut bad = packed.clone();
        // The first byte of the checksum of gzip, and the third of that of zstd.
        let at = bad.len() - if packed == &stored { 8 } else { 2 };
        bad[at] ^= 1;
        let error = read_bytes(&bad).unwrap_err();
        assert!(matches!(error, Error::Read { .. }), "{error:?}");
    }
    // Several members are one file, and what fills up the last block is nothing.
    let mut parts = Vec::new();
    for part in [&whole[..700], &whole[700..]] {
        parts.extend(gzip(part, flate2::Compression::fast()));
    }
    let skipped = [&b"\x50\x2A\x4D\x18\x04\0\0\0none"[..], &zstd].concat();
    for bytes in [
        [&parts[..], &[0; 512]].concat(),
        [&stored[..], b"more"].concat(),
        skipped,
    ] {
        let archived = read_bytes(&bytes).unwrap();
        assert_eq!(archived.warnings, [""; 0]);
        assert!(archived.tree.find("a").is_some());
    }
}

#[test]
fn old_archives_may_begin_like_what_is_compressed() {
    let mut old = archive(&[sized(b'0', "BZh.txt", "", b"\0\0\0\0\0\0\0\0", 0)]);
    assert!(read_bytes(&old).unwrap().tree.find("BZh.txt").is_some());
    old[0] = b'C';
    for (magic, name) in [
        (&b"BZh9"[..], "bzip2"),
        (b"LZIP", "lzip"),
        (b"\x89LZO", "lzop"),
        (b"\x1F\x9D", "compress"),
    ] {
        old[..magic.len()].copy_from_slice(magic);
        old[148] = b'x';
        let error = read_bytes(&old).unwrap_err().to_string();
        assert!(
            error.contains(&format!("is compressed by {name},")),
            "{error}"
        );
    }
}

#[test]
fn attributes_of_other_systems_are_left_out_and_told() {
    let quarantine = records(&[
        ("LIBARCHIVE.xattr.com.apple.quarantine", "MDA4MQ"),
        ("SCHILY.xattr.com.apple.quarantine", "0081"),
        ("SCHILY.xattr.user.note", "kept"),
    ]);
    let archived = read_members(&[
        member(b'x', "x", "", &quarantine),
        member(b'0', "first", "", b""),
        member(b'x', "x", "", &quarantine),
        member(b'0', "second", "", b""),
        member(b'0', "third", "", b""),
    ])
    .unwrap();
    let inode = archived.tree.inode_of(archived.tree.find("first").unwrap());
    let names: Vec<_> = inode.xattrs.iter().flat_map(|set| set.keys()).collect();
    assert_eq!(names, [&Box::from(*b"user.note")]);
    let [warning] = &archived.warnings[..] else {
        panic!("{:?}", archived.warnings);
    };
    let end = "those of 2 files, such as `first`";
    assert!(warning.ends_with(end), "{warning}");
}

#[test]
fn an_archive_that_shrinks_before_its_files_are_read_is_named() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let whole = archive(&[member(b'0', "a", "", &[1; 2000])]);
    file.write_all(&whole).unwrap();
    let tree = Arc::new(read(file.path(), &std::env::temp_dir()).unwrap().tree);
    file.as_file().set_len(1000).unwrap();
    let error = tree.read_small(tree.find("a").unwrap()).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(cause, "it ends before it did when it was opened");
    assert!(error.hint().unwrap().starts_with("it changed meanwhile"));
}
