//! The options of `mke2fs` that docs/filesystems.md lists, through the program and
//! as `dumpe2fs` sees what becomes of them.

use std::collections::BTreeMap;
use std::fs;

use crate::common::image::{assert_clean, debugfs, missing, run};
use crate::common::{Run as _, World, tool};
use crate::skip;

const UUID: &str = "6e3c1a52-94a0-4f7f-9f0e-0b5a1c2d3e4f";

/// Options, and fields of the superblock with their values. A value that begins
/// with `+` or `^` is a word that is among others, or is not.
const CASES: &[(&str, &[(&str, &str)])] = &[
    (
        "-b 1024 -i 65536 -I 512 -m 2 -L packed -M /srv",
        &[
            ("Block size", "1024"),
            ("Inode count", "1024"),
            ("Inode size", "512"),
            ("Reserved block count", "1310"),
            ("Filesystem volume name", "named"),
            ("Last mounted on", "/srv"),
        ],
    ),
    (
        "-b 2k -N 2048 -j -J size=4 -e panic -G 64 -F -q -v",
        &[
            ("Block size", "2048"),
            ("Inode count", "2048"),
            ("Filesystem features", "+has_journal"),
            ("Errors behavior", "Panic"),
            ("Flex block group size", "64"),
        ],
    ),
    (
        "-b 4096 -g 8192 -i 8k",
        &[
            ("Blocks per group", "8192"),
            ("Inodes per group", "4096"),
            ("Inode count", "8192"),
        ],
    ),
    // Groups get smaller until their bitmaps can count the inodes. These are the
    // numbers that mke2fs 1.47 comes to; the resize inode is a large file.
    (
        "-b 4096 -i 1k -O ^large_file",
        &[
            ("Blocks per group", "14264"),
            ("Inode count", "65536"),
            ("Filesystem features", "+large_file"),
        ],
    ),
    (
        "-b 4096 -U 6e3c1a52-94a0-4f7f-9f0e-0b5a1c2d3e4f -e remount-ro -J checksum=3",
        &[
            ("Block size", "4096"),
            ("Filesystem UUID", UUID),
            ("Errors behavior", "Remount read-only"),
            ("Journal features", "+journal_checksum_v3"),
        ],
    ),
    (
        "-e continue -J size=0 -E resize=1000000000 -E hash_seed=6e3c1a52-94a0-4f7f-9f0e-0b5a1c2d3e4f",
        &[
            ("Errors behavior", "Continue"),
            ("Filesystem features", "^has_journal"),
            ("Filesystem features", "+resize_inode"),
            ("Directory Hash Seed", UUID),
        ],
    ),
    (
        "-E root_owner=7:8,stride=16,stripe_width=64,mount_opts=nodelalloc",
        &[
            ("RAID stride", "16"),
            ("RAID stripe width", "64"),
            ("Mount options", "nodelalloc"),
        ],
    ),
    (
        "-E lazy_itable_init,lazy_journal_init=1,discard,nodiscard,packed_meta_blocks=1,assume_storage_prezeroed=1 -D -K",
        &[("Filesystem features", "+metadata_csum")],
    ),
    (
        "-O quota -E quotatype=grpquota",
        &[
            ("Filesystem features", "+quota"),
            ("Group quota inode", "4"),
            ("User quota inode", ""),
        ],
    ),
    (
        "-O quota,project -E quotatype=usrquota:grpquota:prjquota",
        &[
            ("Filesystem features", "+project"),
            ("User quota inode", "3"),
            ("Group quota inode", "4"),
        ],
    ),
    (
        "-O metadata_csum_seed,orphan_file,large_dir,ea_inode",
        &[
            ("Filesystem features", "+metadata_csum_seed"),
            ("Filesystem features", "+orphan_file"),
            ("Filesystem features", "+large_dir"),
            ("Filesystem features", "+ea_inode"),
        ],
    ),
    (
        "-O none,has_journal,ext_attr,dir_index,filetype,sparse_super,large_file",
        &[
            ("Filesystem features", "+dir_index"),
            ("Filesystem features", "^extent"),
            ("Filesystem features", "^64bit"),
            ("Filesystem features", "^metadata_csum"),
        ],
    ),
    (
        "-O resize_inode,extent,64bit,metadata_csum,flex_bg,huge_file,dir_nlink,extra_isize,^encrypt,^casefold,^bigalloc,^meta_bg,^inline_data,^mmp,^verity,^uninit_bg,^sparse_super2",
        &[
            ("Filesystem features", "+resize_inode"),
            ("Filesystem features", "+extent"),
            ("Filesystem features", "+flex_bg"),
            ("Filesystem features", "+huge_file"),
            ("Filesystem features", "+dir_nlink"),
            ("Filesystem features", "+extra_isize"),
        ],
    ),
];

/// The superblock's fields by their names.
fn fields(world: &World, image: &str) -> BTreeMap<String, String> {
    let text = run(world, "dumpe2fs", &format!("-h {image}")).success();
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .collect()
}

#[test]
fn every_documented_option_of_mke2fs_does_what_it_says() {
    if let Some(name) = missing(&["dumpe2fs", "e2fsck", "debugfs"]) {
        skip!("{name} is not installed");
    }
    let world = World::new();
    world.write("tree/etc/hostname", "packed\n");
    world.write("tree/large", &"text ".repeat(100_000));
    for (options, expected) in CASES {
        let outcome = world
            .kiln()
            .args(["pack", "tree", "-t", "raw", "-o", "out", "--overwrite"])
            .args(["--size", "64MiB", "--owner", "0:0"])
            .args(["--label", "named", "--mkfs-options", options])
            .run();
        let warned = outcome
            .stderr
            .contains("`-L packed` of `mkfs_root` has no effect: its label is `named`");
        assert_eq!(warned, options.contains("-L "), "{}", outcome.stderr);
        outcome.success();
        assert_clean(&world, "out.raw");
        let found = fields(&world, "out.raw");
        for (name, value) in *expected {
            let have = found.get(*name).map_or("", String::as_str);
            let has = |word: &str| have.split(' ').any(|have| have == word);
            let right = match (value.strip_prefix('+'), value.strip_prefix('^')) {
                (Some(word), _) => has(word),
                (_, Some(word)) => !has(word),
                _ => have == *value,
            };
            assert!(right, "{options}: {name} is `{have}`, not `{value}`");
        }
        if options.contains("root_owner") {
            let stat = debugfs(&world, "out.raw", "stat /");
            assert!(stat.contains("User:     7   Group:     8"), "{stat}");
        }
    }
    for option in [
        "encrypt",
        "casefold",
        "bigalloc",
        "meta_bg",
        "inline_data",
        "mmp",
        "verity",
        "uninit_bg",
        "sparse_super2",
    ] {
        let line = format!("pack tree -t raw -o none --mkfs-options '-O {option}'");
        let outcome = world.kiln().words(&line);
        assert_eq!(outcome.code(), 1, "{option}");
        let named = format!("`-O {option}`");
        assert!(outcome.stderr.contains(&named), "{}", outcome.stderr);
    }
    for (options, said) in [
        (
            "-N 4000000",
            "the 4000000 inodes that `-N 4000000` asks for leave no room for files in an ext4 filesystem of 64 MiB",
        ),
        (
            "-i 1024 -I 1024",
            "the ext4 option `-i 1024` is not usable: inodes alone",
        ),
        (
            "-g 100",
            "the ext4 option `-g 100` is not usable: the blocks of a group",
        ),
    ] {
        let outcome = world
            .kiln()
            .args(["pack", "tree", "-t", "raw", "-o", "none", "--size", "64MiB"])
            .args(["--mkfs-options", options])
            .run();
        assert_eq!(outcome.code(), 1, "{options}");
        assert!(outcome.stderr.contains(said), "{}", outcome.stderr);
        // Only what is too small gets larger by being made larger.
        let hinted = outcome.stderr.contains("`--size` makes the image larger");
        assert_eq!(hinted, options.starts_with("-N"), "{}", outcome.stderr);
    }
    assert!(!world.work().join("none.raw").exists());
}

/// What a filesystem of Debian 12 is made with, whatever this machine's mke2fs has.
const DEBIAN_12: &str = "[defaults]
base_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr
default_mntopts = acl,user_xattr
enable_periodic_fsck = 0
blocksize = 4096
inode_size = 256
inode_ratio = 16384
[fs_types]
ext4 = {
features = has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize
}
";

#[test]
fn the_superblock_is_that_of_mke2fs() {
    if let Some(name) = missing(&["mke2fs", "dumpe2fs"]) {
        skip!("{name} is not installed");
    }
    let world = World::new();
    world.write("tree/etc/hostname", "packed\n");
    world.write("mke2fs.conf", DEBIAN_12);
    let config = world.work().join("mke2fs.conf");
    let compared = [
        "Filesystem features",
        "Filesystem flags",
        "Default mount options",
        "Inode count",
        "Block count",
        "Reserved block count",
        "Overhead clusters",
        "First block",
        "Block size",
        "Group descriptor size",
        "Reserved GDT blocks",
        "Blocks per group",
        "Inodes per group",
        "Inode blocks per group",
        "RAID stride",
        "RAID stripe width",
        "Flex block group size",
        "First inode",
        "Inode size",
        "Required extra isize",
        "Journal inode",
        "Default directory hash",
        "Journal backup",
        "Checksum type",
        "Journal features",
        "Total journal size",
        "Total journal blocks",
        "Max transaction length",
    ];
    let compare = |size: &str| {
        let (name, reference) = (format!("own-{size}"), format!("theirs-{size}.raw"));
        for options in [
            "",
            "-b 1024",
            "-b 2048 -i 4096 -m 2.5",
            "-b 4096 -N 5000 -m 0 -J size=4",
            "-I 512 -G 4 -O ^64bit",
            "-b 1024 -g 4096 -O ^flex_bg",
            "-O ^resize_inode,^has_journal",
            "-O ^metadata_csum,^extent,^64bit",
            "-O ^huge_file,^large_file,^ext_attr",
            "-O ^dir_index,^dir_nlink",
            "-O quota,metadata_csum_seed -E stride=8,stripe_width=32",
        ] {
            // The largest journal is one of 32 Mi blocks of whatever size.
            let size = match size {
                "130G" if options.contains("-b 1024") => "33G",
                size => size,
            };
            world
                .kiln()
                .args(["pack", "tree", "-t", "raw", "-o", &name, "--overwrite"])
                .args(["--owner", "0:0", "--size", &format!("{size}iB")])
                .args(["--mkfs-options", options])
                .run()
                .success();
            let mut command = world.command(tool("mke2fs").expect("it was found"));
            command
                .env("MKE2FS_CONFIG", &config)
                .args(["-q", "-F", "-t", "ext4", "-T", "default"])
                .args(options.split_whitespace())
                .args([&reference, size])
                .run()
                .success();
            let own = fields(&world, &format!("{name}.raw"));
            let theirs = fields(&world, &reference);
            for name in compared {
                assert_eq!(own.get(name), theirs.get(name), "{size} {options}: {name}");
            }
        }
    };
    std::thread::scope(|scope| {
        for size in ["24M", "300M", "130G"] {
            let compare = &compare;
            scope.spawn(move || compare(size));
        }
    });
}

#[test]
fn the_options_that_are_documented_are_those_that_are_tested() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/filesystems.md");
    let text = fs::read_to_string(path).expect("the documentation is there");
    let start = text
        .find("### `--mkfs-options`")
        .expect("the section is there");
    let section = &text[start..];
    let section = &section[..section.find("### SELinux").unwrap_or(section.len())];
    let tested: Vec<&str> = CASES.iter().map(|(options, _)| *options).collect();
    let tested = tested.join(" ");
    let mut rows = 0;
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let first = row.split(" | ").next().expect("a cell");
        for option in first.split('`').skip(1).step_by(2) {
            // `-b SIZE`, `-E resize=BLOCKS`, `stripe_width=BLOCKS`, `remount-ro`
            let option = option.trim_start_matches("-E ").trim_start_matches("-J ");
            let word = option.split([' ', '=']).next().expect("a word");
            assert!(tested.contains(word), "`{word}` of docs is not tested");
            rows += 1;
        }
    }
    assert!(rows > 20, "{rows}");
    for list in [
        "Features that are on unless switched off:",
        "are not written",
    ] {
        assert!(section.contains(list), "{list}");
    }
    let after = section.split("switched off:").nth(1).expect("a list");
    let names = after.split('.').next().expect("a sentence");
    for name in names.split(',').map(str::trim) {
        assert!(tested.contains(name), "feature `{name}` is not tested");
    }
}
