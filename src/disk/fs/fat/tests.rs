use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;

use super::*;
use crate::tree::{Content, DataRange, Device, Inode, Origin, Timestamp, TreeBuilder};

fn options() -> Options {
    Options {
        label: None,
        volume_id: 0x1234_ABCD,
        bytes_per_sector: 512,
        fat_type: None,
    }
}

/// The volume as a file.
fn image(volume: &Volume, path: &Path) {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::File::create(path).unwrap();
    file.set_len(volume.length).unwrap();
    let mut at = 0;
    for extent in &volume.extents {
        assert!(extent.offset >= at, "extents are sorted and do not overlap");
        assert!(extent.length > 0);
        at = extent.offset + extent.length;
        let bytes = match &extent.source {
            Source::Bytes { bytes, start } => {
                bytes[*start..*start + extent.length as usize].to_vec()
            }
            Source::File {
                tree,
                inode,
                offset,
            } => {
                let mut bytes = vec![0; extent.length as usize];
                let read = tree.reader().read_at(*inode, *offset, &mut bytes).unwrap();
                assert_eq!(read, bytes.len());
                bytes
            }
            Source::Rendered { .. } => unreachable!("nothing is rendered"),
        };
        file.write_all_at(&bytes, extent.offset).unwrap();
    }
    assert!(at <= volume.length);
}

/// fsck.fat must have nothing to say but its summary.
fn check(path: &Path) {
    if !Path::new("/usr/sbin/fsck.fat").exists() {
        return println!("SKIP: `fsck.fat` is not installed");
    }
    let output = Command::new("/usr/sbin/fsck.fat")
        .arg("-n")
        .arg(path)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let lines: Vec<_> = text.lines().collect();
    assert!(
        lines.len() == 2 && lines[0].starts_with("fsck.fat ") && lines[1].contains(" files, "),
        "{text}"
    );
}

fn mtools(arguments: &[&str], image: &Path) -> Option<String> {
    let mut command = Command::new(arguments[0]);
    command
        .env("LC_ALL", "C.UTF-8")
        .env("MTOOLSRC", "/dev/null")
        .env("TZ", "UTC");
    command.arg("-i").arg(image).args(&arguments[1..]);
    match command.output() {
        Err(error) => {
            println!("SKIP: `{}` cannot be run: {error}", arguments[0]);
            None
        }
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(
                output.status.success(),
                "{arguments:?} {text}{}",
                String::from_utf8_lossy(&output.stderr)
            );
            Some(text)
        }
    }
}

/// Reads a filesystem back, by the specification and not by the writer's code:
/// paths of directories (with a slash) and files, with their bytes.
fn read_back(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let image = std::fs::read(path).unwrap();
    let u16_at = |at: usize| u32::from(u16::from_le_bytes([image[at], image[at + 1]]));
    let u32_at = |at: usize| u16_at(at) | u16_at(at + 2) << 16;
    let (sector, per_cluster, reserved) = (u16_at(0x0B), u32::from(image[0x0D]), u16_at(0x0E));
    let (root_entries, total) = (u16_at(0x11), u16_at(0x13).max(u32_at(0x20)));
    let fat_size = match u16_at(0x16) {
        0 => u32_at(0x24),
        size => size,
    };
    let root_at = reserved + 2 * fat_size;
    let data = root_at + (root_entries * 32).div_ceil(sector);
    let clusters = (total - data) / per_cluster;
    let fat_at = (reserved * sector) as usize;
    let next = |cluster: u32| -> Option<u32> {
        let (value, end) = if clusters < 4085 {
            let both = u16_at(fat_at + (cluster + cluster / 2) as usize);
            (
                if cluster.is_multiple_of(2) {
                    both & 0xFFF
                } else {
                    both >> 4
                },
                0xFF8,
            )
        } else if clusters < 65525 {
            (u16_at(fat_at + 2 * cluster as usize), 0xFFF8)
        } else {
            (
                u32_at(fat_at + 4 * cluster as usize) & 0x0FFF_FFFF,
                0x0FFF_FFF8,
            )
        };
        (value < end).then_some(value)
    };
    let chain = |first: u32| -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut at = Some(first).filter(|&first| first != 0);
        while let Some(cluster) = at {
            let start = ((data + (cluster - 2) * per_cluster) * sector) as usize;
            bytes.extend_from_slice(&image[start..start + (per_cluster * sector) as usize]);
            at = next(cluster);
        }
        bytes
    };
    let root = if root_entries > 0 {
        image[(root_at * sector) as usize..(data * sector) as usize].to_vec()
    } else {
        chain(u32_at(0x2C))
    };
    let mut found = BTreeMap::new();
    let mut todo = vec![(String::new(), root)];
    while let Some((directory, bytes)) = todo.pop() {
        let mut long: Vec<u16> = Vec::new();
        for entry in bytes.chunks(32).take_while(|entry| entry[0] != 0) {
            let unit = |at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]);
            if entry[11] == 0x0F {
                let places = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
                let mut part: Vec<_> = places.map(unit).into();
                part.extend(std::mem::take(&mut long));
                long = part;
                continue;
            }
            let text = |range: std::ops::Range<usize>, lower: u8| {
                let text = String::from_utf8(entry[range].to_vec())
                    .unwrap()
                    .trim_end()
                    .to_owned();
                if entry[12] & lower > 0 {
                    text.to_lowercase()
                } else {
                    text
                }
            };
            let (base, extension) = (text(0..8, 8), text(8..11, 16));
            let name = match long
                .iter()
                .position(|&unit| unit == 0)
                .unwrap_or(long.len())
            {
                0 if extension.is_empty() => base,
                0 => format!("{base}.{extension}"),
                end => String::from_utf16(&long[..end]).unwrap(),
            };
            long.clear();
            let first = u32::from(unit(26)) | u32::from(unit(20)) << 16;
            let size = u32::from(unit(28)) | u32::from(unit(30)) << 16;
            let path = format!("{directory}{name}");
            match entry[11] {
                0x08 => {}
                0x10 if entry[0] == b'.' => {}
                0x10 => {
                    found.insert(format!("{path}/"), Vec::new());
                    todo.push((format!("{path}/"), chain(first)));
                }
                _ => {
                    let mut bytes = chain(first);
                    assert!(bytes.len() >= size as usize, "{path}");
                    bytes.truncate(size as usize);
                    found.insert(path, bytes);
                }
            }
        }
    }
    found
}

/// What [`read_back`] must give.
fn expected(tree: &Arc<Tree>) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for (id, node) in tree.nodes().skip(1) {
        let path = tree.path(id).to_str().unwrap()[1..].to_owned();
        match &tree.inode(node.inode).kind {
            Kind::File(content) => {
                let mut bytes = vec![0; content.size as usize];
                tree.reader().read_at(node.inode, 0, &mut bytes).unwrap();
                all.insert(path, bytes);
            }
            _ => drop(all.insert(format!("{path}/"), Vec::new())),
        }
    }
    all
}

/// An EFI system partition as builds make it, and some odd names.
fn sample() -> TreeBuilder<'static> {
    let mut tree = TreeBuilder::new();
    let mut put = |path: &str, bytes: Vec<u8>, seconds: i64| {
        let mtime = Timestamp {
            seconds,
            nanoseconds: 0,
        };
        tree.insert(path, Inode::file(bytes, 0o755).modified(mtime))
            .unwrap();
    };
    put("EFI/BOOT/BOOTX64.EFI", vec![1; 150_000], 1_700_000_000);
    put("EFI/BOOT/grub.cfg", b"set root\n".to_vec(), 1_700_000_002);
    put("EFI/debian/grubx64.efi", vec![2; 100_001], 1_700_000_000);
    put("EFI/debian/empty", Vec::new(), 0);
    put(
        "a long name with spaces.config",
        b"long".to_vec(),
        1_700_000_000,
    );
    put(
        "a long name with spaces.confer",
        b"other".to_vec(),
        1_700_000_000,
    );
    put("grüße \u{1F427}.txt", b"unicode".to_vec(), 1_700_000_000);
    put(
        &format!("deep/{}/{}", "d".repeat(255), "e".repeat(255)),
        vec![3; 5000],
        1_700_000_000,
    );
    tree
}

/// Sizes and sector sizes that give each type.
fn shapes() -> [(u64, u32, FatType); 6] {
    [
        (4 << 20, 512, FatType::Fat12),
        (64 << 20, 512, FatType::Fat16),
        (550 << 20, 512, FatType::Fat32),
        (16 << 20, 4096, FatType::Fat12),
        (500 << 20, 4096, FatType::Fat16),
        (600 << 20, 4096, FatType::Fat32),
    ]
}

#[test]
fn every_type_holds_the_tree_and_satisfies_fsck() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("image");
    let tree = Arc::new(sample().build().unwrap());
    for (size, bytes_per_sector, kind) in shapes() {
        let options = Options {
            label: Some("esp".to_owned()),
            bytes_per_sector,
            ..options()
        };
        let (volume, report) = plan_with_report(&tree, &options, size).unwrap();
        assert_eq!(report, Report::default());
        assert_eq!(volume.length, size);
        image(&volume, &path);
        check(&path);
        assert_eq!(
            read_back(&path),
            expected(&tree),
            "{size} {bytes_per_sector}"
        );
        if let Some(info) = mtools(&["minfo", "::"], &path) {
            assert!(info.contains(&format!("disk type=\"{kind}   \"")), "{info}");
            assert!(info.contains("disk label=\"ESP        \""), "{info}");
            assert!(info.contains("serial number: 1234ABCD"), "{info}");
        }
    }
}

#[test]
fn mtools_see_names_times_and_bytes() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("image");
    let tree = Arc::new(sample().build().unwrap());
    let options = Options {
        label: Some("esp".to_owned()),
        ..options()
    };
    image(&plan(&tree, &options, 64 << 20).unwrap(), &path);
    let Some(list) = mtools(&["mdir", "::/"], &path) else {
        return;
    };
    assert!(list.contains("Volume in drive : is ESP"), "{list}");
    assert!(
        list.contains("ALONGN~1 CON         5 2023-11-14  22:13  a long name with spaces.confer"),
        "{list}"
    );
    assert!(
        list.contains("ALONGN~2 CON         4 2023-11-14  22:13  a long name with spaces.config"),
        "{list}"
    );
    let list = mtools(&["mdir", "::/EFI/BOOT"], &path).unwrap();
    assert!(
        list.contains("BOOTX64  EFI    150000 2023-11-14  22:13"),
        "{list}"
    );
    assert!(
        list.contains("grub     cfg         9 2023-11-14  22:13"),
        "{list}"
    );
    let out = place.path().join("out");
    std::fs::create_dir(&out).unwrap();
    mtools(&["mcopy", "-s", "-n", "::/*", out.to_str().unwrap()], &path);
    for (name, bytes) in expected(&tree) {
        // In the C.UTF-8 locale mtools write what they cannot show as `_`.
        if name.is_ascii() && !name.ends_with('/') {
            assert!(std::fs::read(out.join(&name)).unwrap() == bytes, "{name}");
        }
    }
}

#[test]
fn the_same_tree_gives_the_same_volume() {
    let place = tempfile::tempdir().unwrap();
    let [first, second] = ["a", "b"].map(|name| {
        let tree = Arc::new(sample().build().unwrap());
        let path = place.path().join(name);
        image(&plan(&tree, &options(), 32 << 20).unwrap(), &path);
        std::fs::read(path).unwrap()
    });
    assert!(first == second);
}

#[test]
fn what_fat_has_no_place_for_is_counted() {
    let mut tree = TreeBuilder::new();
    tree.insert("a", Inode::file(*b"a", 0o600).owned_by(1, 0))
        .unwrap();
    tree.insert("b", Inode::file(*b"b", 0o755).with_xattr("user.x", "1"))
        .unwrap();
    tree.hard_link("c", "a").unwrap();
    let tree = Arc::new(tree.build().unwrap());
    let (volume, report) = plan_with_report(&tree, &options(), 4 << 20).unwrap();
    // `a` and `c` are one file with two names.
    assert_eq!(
        report,
        Report {
            owners: 2,
            modes: 2,
            xattrs: 1,
            copies: 1
        }
    );
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("image");
    image(&volume, &path);
    check(&path);
    assert_eq!(read_back(&path), expected(&tree));
}

#[test]
fn files_that_fat_cannot_hold_are_named() {
    let device = Device { major: 1, minor: 3 };
    for (inode, message) in [
        (
            Inode::symlink("x"),
            "`/dir/odd` is a symbolic link, which FAT cannot hold",
        ),
        (
            Inode::new(Kind::CharDevice(device), 0o600),
            "`/dir/odd` is a character device, which FAT",
        ),
        (
            Inode::new(Kind::BlockDevice(device), 0o600),
            "`/dir/odd` is a block device, which FAT",
        ),
        (
            Inode::new(Kind::Fifo, 0o600),
            "`/dir/odd` is a named pipe, which FAT",
        ),
        (
            Inode::new(Kind::Socket, 0o600),
            "`/dir/odd` is a socket, which FAT",
        ),
        (
            Inode::new(
                Kind::File(Content {
                    size: 1 << 32,
                    origin: Origin::Bytes(Arc::from(&b""[..])),
                    data: Some([].into()),
                }),
                0o600,
            ),
            "`/dir/odd` has 4294967296 bytes, but a file on FAT has at most 4294967295",
        ),
    ] {
        let mut tree = TreeBuilder::new();
        tree.insert("dir/odd", inode).unwrap();
        let error = plan(&Arc::new(tree.build().unwrap()), &options(), 64 << 20).unwrap_err();
        assert!(error.to_string().starts_with(message), "{error}");
    }
    let mut tree = TreeBuilder::new();
    tree.insert("dir/README", Inode::file(*b"", 0o644)).unwrap();
    tree.insert("dir/readme", Inode::file(*b"", 0o644)).unwrap();
    let error = plan(&Arc::new(tree.build().unwrap()), &options(), 64 << 20).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`/dir/readme` cannot be on a FAT filesystem: another name in its directory differs from it only in case"
    );
}

#[test]
fn limits_are_errors() {
    let tree = Arc::new(sample().build().unwrap());
    let message = |options: &Options, size| plan(&tree, options, size).unwrap_err().to_string();
    let base = options();
    assert_eq!(
        message(&base, 1000),
        "no FAT filesystem fits into 1000 bytes"
    );
    assert!(
        message(&base, 200 << 10).starts_with("the files need 2"),
        "{}",
        message(&base, 200 << 10)
    );
    let forced = Options {
        fat_type: Some(FatType::Fat32),
        ..options()
    };
    assert!(message(&forced, 16 << 20).starts_with("FAT32 is not possible in 16777216 bytes"));
    let sector = Options {
        bytes_per_sector: 1024,
        ..options()
    };
    assert!(message(&sector, 16 << 20).contains("sectors of 1024 bytes"));
    for label in ["", "  ", "twelve chars", "a/b", "gr\u{fc}n"] {
        let options = Options {
            label: Some(label.to_owned()),
            ..options()
        };
        assert!(
            message(&options, 16 << 20).contains("cannot be the label"),
            "{label}"
        );
    }
    let mut many = TreeBuilder::new();
    for number in 0..600 {
        many.insert(format!("f{number}"), Inode::file(*b"", 0o644))
            .unwrap();
    }
    let many = Arc::new(many.build().unwrap());
    let error = plan(&many, &base, 64 << 20).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("`/` has too many names: 600 entries are needed"),
        "{error}"
    );
    // FAT32 has no such limit for its root.
    plan(
        &many,
        &Options {
            fat_type: Some(FatType::Fat32),
            ..options()
        },
        64 << 20,
    )
    .unwrap();
}

#[test]
fn holes_of_files_are_holes_of_the_volume() {
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    std::fs::create_dir(&source).unwrap();
    let file = std::fs::File::create(source.join("sparse")).unwrap();
    file.set_len(10 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"middle", 5 << 20).unwrap();
    let tree = Arc::new(crate::tree::scan(&source, &Default::default()).unwrap());
    let content = match &tree.inode_of(tree.find("sparse").unwrap()).kind {
        Kind::File(content) => content.clone(),
        _ => unreachable!("it is a file"),
    };
    let volume = plan(&tree, &options(), 64 << 20).unwrap();
    let in_files: u64 = volume
        .extents
        .iter()
        .filter(|extent| matches!(extent.source, Source::File { .. }))
        .map(|extent| extent.length)
        .sum();
    assert_eq!(
        in_files,
        content
            .ranges()
            .map(|DataRange { length, .. }| length)
            .sum::<u64>()
    );
    let path = place.path().join("image");
    image(&volume, &path);
    check(&path);
    assert_eq!(read_back(&path), expected(&tree));
}

/// Names that exercise aliases, case and long names; all can be stored.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,8}(\\.[a-z]{1,3})?",
        "[A-Z0-9_~-]{1,8}(\\.[A-Z0-9]{1,3})?",
        "[a-cA-C~1-3]{1,9}(\\.[a-cA-C]{0,4}[a-z])?",
        "[a-zA-Z0-9 .+,;=\\[\\]äßЖ🐧-]{0,60}[a-z]",
        "longname[a-z]{0,3}\\.txt",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn random_trees_come_back_and_satisfy_fsck(
        files in prop::collection::vec(
            (prop::collection::vec(name(), 1..4), 0_usize..20_000, any::<u8>(), any::<u32>()),
            0..60,
        ),
        shape in 0_usize..4,
    ) {
        let mut builder = TreeBuilder::new();
        let mut folded = BTreeMap::new();
        'files: for (parts, size, byte, seconds) in &files {
            // What is a file here may be a directory there, and names may differ
            // only in case; those are other tests.
            let mut path = String::new();
            for (depth, part) in parts.iter().enumerate() {
                path.push('/');
                path.push_str(part);
                let kind = (path.clone(), depth + 1 == parts.len());
                let key = path.to_uppercase();
                if folded.get(&key).is_some_and(|known| *known != kind) {
                    continue 'files;
                }
                folded.insert(key, kind);
            }
            let mtime = Timestamp { seconds: i64::from(*seconds), nanoseconds: 0 };
            builder.insert(&path, Inode::file(vec![*byte; *size], 0o755).modified(mtime)).unwrap();
        }
        let tree = Arc::new(builder.build().unwrap());
        let (size, bytes_per_sector, fat_type) = [
            (8 << 20, 512, None),
            (32 << 20, 512, None),
            (36 << 20, 512, Some(FatType::Fat32)),
            (64 << 20, 4096, None),
        ][shape];
        let options = Options { bytes_per_sector, fat_type, ..options() };
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("image");
        match plan(&tree, &options, size) {
            Ok(volume) => {
                image(&volume, &path);
                check(&path);
                prop_assert!(read_back(&path) == expected(&tree));
            }
            // Only the root of FAT12 and FAT16 can be too small here.
            Err(error) => prop_assert!(matches!(error, Error::DirectoryFull { .. }), "{error}"),
        }
    }
}
