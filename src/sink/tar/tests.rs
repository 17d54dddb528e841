use std::process::Command;

use super::super::output::Existing;
use super::super::tests::{have, run};
use super::member::decimal;
use super::*;
use crate::tree::{Device, Origin, ScanOptions, Timestamp, TreeBuilder};

fn archive(tree: Tree, path: &std::path::Path) -> (Arc<Tree>, Report) {
    let tree = Arc::new(tree);
    let output = Output::create(path, estimate(&tree)).unwrap();
    let report = write(&tree, &output, Form::Plain, Checksums::ALL, &mut |_| {}).unwrap();
    output.commit(&Existing::Replace, false).unwrap();
    assert!(std::fs::metadata(path).unwrap().len() <= estimate(&tree) + 64 * RECORD);
    (tree, report)
}

fn at(seconds: i64, nanoseconds: u32) -> Timestamp {
    Timestamp {
        seconds,
        nanoseconds,
    }
}

/// A tree with every kind of file that an archive can hold, and odd names.
fn sample() -> TreeBuilder<'static> {
    let mut tree = TreeBuilder::new();
    let mut put = |path: &[u8], inode: Inode| {
        tree.insert(path, inode).unwrap();
    };
    put(b"etc", Inode::directory(0o755));
    put(
        b"etc/passwd",
        Inode::file(*b"root:x:0:0\n", 0o644).modified(at(1_700_000_000, 0)),
    );
    put(
        b"etc/shadow",
        Inode::file(*b"secret", 0o640)
            .owned_by(0, 42)
            .modified(at(1, 5)),
    );
    put(b"bin", Inode::symlink("usr/bin"));
    put(
        b"usr/bin/su",
        Inode::file(vec![7; 100_000], 0o4755).modified(at(-2, 500_000_000)),
    );
    put(
        b"big-owner",
        Inode::file(*b"", 0o600).owned_by(3_000_000_000, 4_000_000_000),
    );
    put(
        b"future",
        Inode::file(*b"x", 0o600).modified(at(9_999_999_999, 0)),
    );
    put(b"pipe", Inode::new(Kind::Fifo, 0o600));
    put(
        b"dev/null",
        Inode::new(Kind::CharDevice(Device { major: 1, minor: 3 }), 0o666),
    );
    put(
        b"dev/odd",
        Inode::new(
            Kind::BlockDevice(Device {
                major: 4095,
                minor: 1_048_575,
            }),
            0o660,
        ),
    );
    put(b"new\nline and \xff\xfe", Inode::file(*b"odd name", 0o644));
    let long = [b"d".repeat(200), b"e".repeat(200), b"f".repeat(255)].join(&b'/');
    put(&long, Inode::file(*b"deep", 0o644));
    put(
        &[b"g".repeat(90), b"h".repeat(90)].join(&b'/'),
        Inode::file(*b"split", 0o644),
    );
    put(b"long-link", Inode::symlink(b"t".repeat(3000)));
    put(b"proc/1/status", Inode::file(*b"gone", 0o644));
    put(b"sys/kernel", Inode::file(*b"gone", 0o644));
    put(b"procedure", Inode::file(*b"stays", 0o644));
    put(
        b"usr/bin/ping",
        Inode::file(*b"ping", 0o755)
            .with_xattr(
                "security.capability",
                b"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
            )
            .with_xattr("user.a=b%", b"binary\n\0value"),
    );
    tree.hard_link("etc/passwd-", "etc/passwd").unwrap();
    tree
}

#[test]
fn gnu_tar_lists_what_the_tree_holds() {
    if !have("tar") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a.tar");
    let (tree, report) = archive(sample().build().unwrap(), &path);
    assert!(report.warnings.is_empty());
    let mut command = Command::new("tar");
    command
        .env("TZ", "UTC")
        .env("LC_ALL", "C")
        .arg("--numeric-owner");
    command
        .args(["--full-time", "--quoting-style=escape", "-tvf"])
        .arg(&path);
    let list = run(&mut command);
    for line in [
        "drwxr-xr-x 0/0 0 1970-01-01 00:00:00 ./",
        "-rw-r--r-- 0/0 11 2023-11-14 22:13:20 ./etc/passwd",
        "hrw-r--r-- 0/0 0 2023-11-14 22:13:20 ./etc/passwd- link to ./etc/passwd",
        "-rw-r----- 0/42 6 1970-01-01 00:00:01.000000005 ./etc/shadow",
        "lrwxrwxrwx 0/0 0 1970-01-01 00:00:00 ./bin -> usr/bin",
        // GNU tar 1.35 shows 1.5 s before 1970 a second late; it extracts it rightly.
        "-rwsr-xr-x 0/0 100000 1969-12-31 23:59:59.5 ./usr/bin/su",
        "-rw------- 3000000000/4000000000 0 1970-01-01 00:00:00 ./big-owner",
        "-rw------- 0/0 1 2286-11-20 17:46:39 ./future",
        "prw------- 0/0 0 1970-01-01 00:00:00 ./pipe",
        "crw-rw-rw- 0/0 1,3 1970-01-01 00:00:00 ./dev/null",
        "brw-rw---- 0/0 4095,1048575 1970-01-01 00:00:00 ./dev/odd",
        "-rw-r--r-- 0/0 8 1970-01-01 00:00:00 ./new\\nline and \\377\\376",
        "drwxr-xr-x 0/0 0 1970-01-01 00:00:00 ./proc/",
        "drwxr-xr-x 0/0 0 1970-01-01 00:00:00 ./sys/",
    ] {
        let squeeze = |text: &str| {
            text.split(' ')
                .filter(|part| !part.is_empty())
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert!(
            list.lines().any(|found| squeeze(found) == line),
            "{line}\n{list}"
        );
    }
    assert_eq!(list.lines().count(), tree.nodes().len() - 3, "{list}");
    assert!(!list.contains("status") && !list.contains("kernel"));
    let paths: Vec<_> = list
        .lines()
        .map(|line| line.split(" ./").nth(1).unwrap())
        .collect();
    assert_eq!(paths[0], "");
}

#[test]
fn gnu_tar_extracts_the_tree_that_was_archived() {
    if !have("tar") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a.tar");
    // SAFETY: geteuid touches nothing.
    let root = unsafe { libc::geteuid() } == 0;
    let mut builder = sample();
    builder.remove("proc").unwrap();
    builder.remove("sys").unwrap();
    if !root {
        // What only root can extract.
        builder.remove("dev").unwrap();
        let ping = Inode::file(*b"ping", 0o755).with_xattr("user.a=b%", b"binary\n\0value");
        builder.insert("usr/bin/ping", ping).unwrap();
    }
    let (tree, _) = archive(builder.build().unwrap(), &path);
    let out = place.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let mut command = Command::new("tar");
    command.args([
        "--numeric-owner",
        "-p",
        "--xattrs",
        "--xattrs-include=*",
        "-xf",
    ]);
    run(command.arg(&path).arg("-C").arg(&out));
    let again = tree::scan(&out, &ScanOptions::default()).unwrap();
    let dump = |tree: &Tree| {
        tree.dump()
            .lines()
            .map(|line| {
                // Without root all files are owned by who extracts them.
                let mut words: Vec<_> = line.split(' ').collect();
                if !root && words.len() > 3 && words[1] != "=" {
                    words[3] = "-";
                }
                words.join(" ")
            })
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert_eq!(dump(&again), dump(&tree));
    assert_eq!(
        std::fs::read(out.join("usr/bin/su")).unwrap(),
        vec![7; 100_000]
    );
}

/// A file of `size` bytes with data in `ranges`, in a scanned directory.
fn sparse_file(place: &std::path::Path, size: u64, ranges: &[(u64, u64)]) -> Vec<u8> {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::File::create(place.join("sparse")).unwrap();
    file.set_len(size).unwrap();
    let mut all = vec![0; size as usize];
    for &(start, length) in ranges {
        let part = &mut all[start as usize..(start + length) as usize];
        part.fill(b'x');
        file.write_all_at(part, start).unwrap();
    }
    all
}

#[test]
fn files_with_large_holes_are_sparse_members() {
    for (size, ranges) in [
        (
            10 << 20,
            &[(0, 4096), (5 << 20, 100_000), ((10 << 20) - 7, 7)][..],
        ),
        (3_000_001, &[(1_000_000, 1)][..]),
        (20 << 20, &[][..]),
    ] {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a.tar");
        let source = place.path().join("source");
        std::fs::create_dir(&source).unwrap();
        let bytes = sparse_file(&source, size, ranges);
        let tree = tree::scan(&source, &ScanOptions::default()).unwrap();
        let node = tree.find("sparse").unwrap();
        if !matches!(
            &tree.inode_of(node).kind,
            Kind::File(Content { data: Some(_), .. })
        ) {
            println!("SKIP: the filesystem of the test does not report holes");
            return;
        }
        archive(tree, &path);
        assert!(std::fs::metadata(&path).unwrap().len() < 300_000);
        if have("tar") {
            let out = place.path().join("out");
            std::fs::create_dir(&out).unwrap();
            run(Command::new("tar")
                .arg("-xf")
                .arg(&path)
                .arg("-C")
                .arg(&out));
            assert!(std::fs::read(out.join("sparse")).unwrap() == bytes);
        }
    }
}

#[test]
fn a_file_that_shrinks_is_an_error() {
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("a"), vec![b'a'; 300_000]).unwrap();
    let tree = Arc::new(tree::scan(&source, &ScanOptions::default()).unwrap());
    std::fs::write(source.join("a"), vec![b'a'; 140_000]).unwrap();
    let path = place.path().join("a.tar");
    let output = Output::create(&path, 0).unwrap();
    let none = Checksums::default();
    let error = write(&tree, &output, Form::Plain, none, &mut |_| {}).unwrap_err();
    assert_eq!(error.to_string(), "cannot read the tree");
    // Which file it was says its cause, and nobody else.
    let cause = std::error::Error::source(&error).expect("there is one");
    let expected = "`/a` shrank from 300000 to 140000 bytes";
    assert!(cause.to_string().starts_with(expected), "{cause}");
    drop(output);
    assert!(!path.exists());
}

#[test]
fn sockets_are_left_out_and_reported() {
    let place = tempfile::tempdir().unwrap();
    let mut tree = TreeBuilder::new();
    tree.insert("run/a.sock", Inode::new(Kind::Socket, 0o600))
        .unwrap();
    let (_, report) = archive(tree.build().unwrap(), &place.path().join("a.tar"));
    assert_eq!(
        report.warnings,
        ["`/run/a.sock` is a socket, which no tar archive holds"]
    );
}

#[test]
fn digests_are_those_of_the_file() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a.tar");
    let (_, report) = archive(sample().build().unwrap(), &path);
    let file = std::fs::File::open(&path).unwrap();
    assert_eq!(
        report.digests,
        super::super::checksum::of_file(&file, Checksums::ALL).unwrap()
    );
}

#[test]
fn records_count_their_own_length() {
    let mut member = Member::new(&Inode::directory(0o755));
    for length in [0, 1, 85, 86, 87, 88, 89, 90, 984, 985, 986, 987, 988] {
        member.records.clear();
        member.record("key", &vec![b'v'; length]);
        let text = String::from_utf8(member.records.clone()).unwrap();
        let counted: usize = text.split(' ').next().unwrap().parse().unwrap();
        assert_eq!(counted, text.len());
    }
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config {
        cases: 32,
        failure_persistence: None,
        ..Default::default()
    })]

    /// Names of attributes may hold what ends a record's key, and what escapes it.
    #[test]
    fn names_of_attributes_come_back_as_they_were(
        names in proptest::collection::vec("user\\.([%=]|%25|%3[dD]|[a-z0-9\u{e4} \n]){1,12}", 1..20)
    ) {
        let inode = names.iter().fold(Inode::file(*b"", 0o644), |inode, name| {
            inode.with_xattr(name.as_bytes(), *b"a=%3D")
        });
        let mut tree = TreeBuilder::new();
        tree.insert("file", inode).unwrap();
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a.tar");
        let (tree, _) = archive(tree.build().unwrap(), &path);
        let read = tree::tar::read(&path, place.path()).unwrap().tree;
        let xattrs = |tree: &Tree| tree.inode_of(tree.find("/file").unwrap()).xattrs.clone();
        proptest::prop_assert_eq!(xattrs(&read), xattrs(&tree));
    }
}

#[test]
fn times_are_decimal_seconds() {
    for (time, text) in [
        (at(0, 1), "0.000000001"),
        (at(5, 500_000_000), "5.5"),
        (at(-2, 500_000_000), "-1.5"),
        (at(-1, 999_999_999), "-0.000000001"),
        (at(-7, 0), "-7"),
    ] {
        assert_eq!(decimal(time), text);
    }
}

#[test]
fn ranges_become_whole_blocks() {
    let content = |size, data: &[(u64, u64)]| Content {
        size,
        origin: Origin::Bytes(Arc::from(&b""[..])),
        data: Some(
            data.iter()
                .map(|&(offset, length)| DataRange { offset, length })
                .collect(),
        ),
    };
    let blocks = |size, data: &[(u64, u64)]| {
        let ranges = block_ranges(&content(size, data));
        ranges
            .into_iter()
            .map(|range| (range.offset, range.length))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        blocks(10_000, &[(100, 1), (600, 10), (9_990, 10)]),
        [(0, 1024), (9728, 272)]
    );
    assert_eq!(blocks(5000, &[]), []);
    assert_eq!(sparse_map(&[], 5000)[..9], *b"1\n5000\n0\n");
}
