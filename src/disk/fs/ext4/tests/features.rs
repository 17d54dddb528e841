//! Options and features that differ from the default.

use super::*;
use crate::tree::Inode;

/// The nasty tree without what only blocks of 4096 bytes can hold.
pub(super) fn modest() -> Arc<Tree> {
    let nasty = images::nasty();
    let mut builder = nasty.edit();
    for path in [
        "/symlinks/1023",
        "/symlinks/4095",
        "/xattr/large",
        "/xattr/mixed",
    ] {
        builder.remove(path).unwrap();
    }
    for number in 0..4 {
        builder.remove(format!("/xattr/shared{number}")).unwrap();
    }
    Arc::new(builder.build().unwrap())
}

#[test]
fn every_supported_set_of_options_is_clean_and_reads_back_equal() {
    let tree = modest();
    for text in [
        "-b 1024",
        "-b 2048",
        "-b 1024 -O ^metadata_csum",
        "-O ^metadata_csum",
        "-O ^64bit",
        "-O ^flex_bg",
        "-O ^resize_inode",
        "-O ^has_journal",
        "-J size=16",
        "-O ^dir_index",
        "-I 512",
        "-I 1024",
        "-i 1024",
        "-g 8192",
        "-b 1024 -g 512 -O ^flex_bg",
        "-b 1024 -g 256",
        "-g 1024 -I 1024 -i 8192",
        "-i 65536",
        "-N 20000",
        "-E resize=1000000000",
        "-O ^resize_inode,^sparse_super,^flex_bg",
        "-O ^extra_isize,^huge_file,^dir_nlink",
    ] {
        let mut options = options();
        options.parse_mkfs(text).unwrap();
        println!("{text}");
        // Small blocks make many groups anyway, and e2fsck reads each inode.
        let many = text.contains("-b 1024") || text.contains("-i 1024");
        let image = Image::new(&tree, &options, if many { 128 } else { 512 } * MIB);
        image.check();
        view::compare(&image.path(), &tree);
    }
}

#[test]
fn attributes_bring_the_feature_that_they_need() {
    let with = |length: usize| {
        tree(|b| {
            let inode = Inode::file(*b"x", 0o644).with_xattr("user.a", vec![1; length]);
            b.insert("/file", inode).unwrap();
        })
    };
    for (tree, text) in [
        (with(1), "-O ^ext_attr"),
        (with(1000), "-O ^ext_attr"),
        (with(1000), "-O none -I 128"),
        (with(1000), "-O ^ext_attr,ea_inode -b 1024"),
        (modest(), "-O ^ext_attr"),
    ] {
        let mut options = options();
        options.parse_mkfs(text).unwrap();
        println!("{text}");
        Image::new(&tree, &options, 64 * MIB).check();
    }
}

#[test]
fn a_lost_and_found_that_is_made_has_its_label() {
    let label = b"system_u:object_r:lost_found_t:s0\0";
    let tree = modest();
    for text in ["", "-I 128", "-b 1024 -O quota,ea_inode", "-O ^ext_attr"] {
        let mut options = options();
        options.parse_mkfs(text).unwrap();
        options.lost_found_label = Some(Arc::from(&label[..]));
        let image = Image::new(&tree, &options, 64 * MIB);
        image.check();
        if tool("debugfs").is_some() {
            let said = image.debugfs("ea_list /lost+found");
            assert!(said.contains("lost_found_t:s0"), "{text}: {said}");
        }
    }
}

#[test]
fn features_of_newer_programs_are_clean_where_asked_for() {
    let tree = modest();
    for text in [
        "-O metadata_csum_seed",
        "-O orphan_file",
        "-O orphan_file,^metadata_csum",
        "-O orphan_file -b 1024",
        "-O project",
        "-O large_dir",
        "-J checksum=3",
        "-J checksum=3 -O ^64bit",
        "-e panic -G 64 -M /srv -E stride=16,stripe_width=64,mount_opts=nodelalloc",
        "-E root_owner=7:8",
    ] {
        let mut options = options();
        options.parse_mkfs(text).unwrap();
        println!("{text}");
        Image::new(&tree, &options, 512 * MIB).check();
    }
}

#[test]
fn quotas_say_what_each_user_group_and_project_uses() {
    let modest = modest();
    let mut builder = modest.edit();
    for id in 0..60_u32 {
        // Ids whose bytes differ in every place, and blocks of entries that are full.
        let (uid, gid) = (id.wrapping_mul(0x0103_0507), 70_000 + id % 7);
        let bytes = vec![1; 3000 * usize::try_from(id % 5).unwrap()];
        let file = Inode::file(bytes, 0o600).owned_by(uid, gid);
        builder.insert(format!("/owned/{id}"), file).unwrap();
    }
    let tree = Arc::new(builder.build().unwrap());
    for (text, numbers) in [
        ("-O quota", [3, 4, 0]),
        ("-O quota,^metadata_csum -b 1024", [3, 4, 0]),
        (
            "-O quota,^extent,^64bit -b 1024 -E root_owner=7:8",
            [3, 4, 0],
        ),
        ("-O quota -E quotatype=grpquota", [0, 4, 0]),
        ("-O project,quota", [3, 4, 1]),
        (
            "-O project,quota,orphan_file -E quotatype=usrquota:grpquota:prjquota",
            [3, 4, 1],
        ),
        ("-O project,quota -E quotatype=prjquota", [0, 0, 1]),
    ] {
        let mut options = options();
        options.parse_mkfs(text).unwrap();
        println!("{text}");
        // The block map has no room for the largest sparse files.
        let dense = text.contains("^extent").then(|| images::dense(&tree));
        let image = Image::new(dense.as_ref().unwrap_or(&tree), &options, 512 * MIB);
        // It compares the quotas with what it finds itself.
        image.check();
        let shown = image.debugfs("show_super_stats -h");
        for (kind, number) in ["User", "Group", "Project"].into_iter().zip(numbers) {
            let start = format!("{kind} quota inode:");
            let line = shown.lines().find_map(|line| line.strip_prefix(&start));
            let found = line.map_or(0, |line| line.trim().parse::<u32>().unwrap());
            // A project file's number follows the last of the tree's.
            let is_right = if number == 1 {
                found > 12
            } else {
                found == number
            };
            assert!(is_right, "{kind} quotas in inode {found}: {shown}");
            if number > 0 {
                let request = format!("get_quota {} 0", kind.to_lowercase());
                let quota = image.debugfs(&request);
                assert_eq!(quota.lines().count(), 2, "{quota}");
            }
        }
    }
}

#[test]
fn quota_files_are_those_that_tune2fs_makes() {
    let Some(tune2fs) = tool("tune2fs") else {
        println!("SKIP: tune2fs is not installed");
        return;
    };
    let tree = tree(|b| {
        for id in 0..100_u32 {
            let file = Inode::file(vec![1; 5000], 0o600)
                .owned_by(id.wrapping_mul(0x0103_0507), 70_000 + id);
            b.insert(format!("/owned/{id}"), file).unwrap();
        }
    });
    let mut options = options();
    options.parse_mkfs("-O quota").unwrap();
    let image = Image::new(&tree, &options, 64 * MIB);
    let dump = |number: u32| {
        let file = image.directory.path().join("quota");
        image.debugfs(&format!("dump <{number}> {}", file.display()));
        std::fs::read(&file).unwrap()
    };
    let ours = [dump(3), dump(4)];
    for feature in ["^quota", "quota"] {
        let output = Command::new(&tune2fs)
            .args(["-O", feature])
            .arg(image.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let theirs = [dump(3), dump(4)];
    assert!(ours[0].len() > 6 * 1024);
    assert!(ours == theirs, "quota files differ");
}

#[test]
fn quotas_count_the_space_and_the_files_of_an_owner() {
    let tree = tree(|b| {
        b.insert("/", Inode::directory(0o755)).unwrap();
        for (name, length) in [("/file", 100_000), ("/another", 9000)] {
            let file = Inode::file(vec![1; length], 0o600).owned_by(1234, 5678);
            b.insert(name, file).unwrap();
        }
    });
    let mut options = options();
    options.parse_mkfs("-O quota,project").unwrap();
    let image = Image::new(&tree, &options, 64 * MIB);
    image.check();
    for (kind, id) in [("user", 1234), ("group", 5678)] {
        let text = image.debugfs(&format!("get_quota {kind} {id}"));
        let line = text.lines().last().unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        // 25 blocks and 3.
        assert_eq!((words[1], words[4]), ("114688", "2"), "{text}");
    }
}

#[test]
fn values_too_large_for_a_block_become_inodes() {
    let value = |byte: u8| vec![byte; 60_000];
    let tree = tree(|b| {
        for number in 0..3 {
            let file = Inode::file(*b"bytes", 0o644)
                .with_xattr("user.large", value(7))
                .with_xattr(format!("user.own{number}"), value(number))
                .with_xattr("user.small", b"small");
            b.insert(format!("/file{number}"), file).unwrap();
        }
    });
    let error = plan(&tree, &options(), 64 * MIB).unwrap_err();
    assert!(
        matches!(error, super::super::Error::XattrsTooLarge { .. }),
        "{error}"
    );
    for text in [
        "-O ea_inode",
        "-O ea_inode,^metadata_csum",
        "-O ea_inode,orphan_file -b 1024",
        "-O ea_inode,quota,project",
    ] {
        let mut options = options();
        options.parse_mkfs(text).unwrap();
        let image = Image::new(&tree, &options, 64 * MIB);
        image.check();
        let shown = image.debugfs("ea_list /file1");
        for line in ["user.large (60000)", "user.own1 (60000)", "user.small (5)"] {
            assert!(shown.contains(line), "{text}: no {line} in {shown:.400}");
        }
        kernel::compare(&image.path(), &tree);
    }
}

#[test]
fn an_index_has_three_levels_where_large_dir_allows_it() {
    let tree = tree(|b| {
        for number in 0..50_000 {
            let name = format!("/d/{number:0>255}");
            b.insert(name, Inode::file(*b"", 0o644)).unwrap();
        }
    });
    let mut options = options();
    options.parse_mkfs("-b 1024").unwrap();
    let error = plan(&tree, &options, 512 * MIB).unwrap_err();
    assert!(
        matches!(error, super::super::Error::DirectoryTooLarge { .. }),
        "{error}"
    );
    options.parse_mkfs("-O large_dir").unwrap();
    let image = Image::new(&tree, &options, 512 * MIB);
    image.check();
    let dump = image.debugfs("htree_dump /d");
    assert!(dump.contains("Indirect levels: 2"), "{dump:.400}");
    let name = format!("{:0>255}", 49_999);
    assert!(
        image
            .debugfs(&format!("stat /d/{name}"))
            .contains("Type: regular")
    );
    kernel::compare(&image.path(), &tree);
}

#[test]
fn resize2fs_grows_into_the_blocks_that_are_kept_for_it() {
    let Some(resize2fs) = tool("resize2fs") else {
        println!("SKIP: resize2fs is not installed");
        return;
    };
    let tree = images::dense(&modest());
    for (text, larger) in [
        // 31 more blocks of descriptors, and 2.
        ("-b 1024 -i 65536", 4 << 30),
        ("-i 1048576", 20 << 30),
    ] {
        let mut options = options();
        options.parse_mkfs(text).unwrap();
        let image = Image::new(&tree, &options, 64 * MIB);
        println!("{text}");
        if !image.grow(&resize2fs, larger, &options) {
            return;
        }
    }
}

#[test]
fn ext2_and_ext3_are_clean_and_read_back_equal() {
    let sparse = modest();
    let dense = images::dense(&sparse);
    for features in [Features::ext2(), Features::ext3()] {
        for block_size in [1024, 4096] {
            let mut options = options();
            options.features = features;
            options.block_size = block_size;
            Image::new(&sparse, &options, 512 * MIB).check();
            let image = Image::new(&dense, &options, 512 * MIB);
            image.check();
            view::compare(&image.path(), &dense);
        }
    }
}

#[test]
fn small_inodes_lose_nanoseconds_and_nothing_else() {
    let tree = tree(|b| {
        b.insert(
            "/file",
            Inode::file(*b"bytes", 0o644).with_xattr("user.a", b"1"),
        )
        .unwrap();
    });
    let mut options = options();
    options.parse_mkfs("-I 128").unwrap();
    Image::new(&tree, &options, 64 * MIB).check();
}

#[test]
fn the_same_tree_gives_the_same_bytes() {
    let (first, second) = (images::nasty(), images::nasty());
    let (first, second) = (
        Image::new(&first, &options(), 512 * MIB),
        Image::new(&second, &options(), 512 * MIB),
    );
    assert!(std::fs::read(first.path()).unwrap() == std::fs::read(second.path()).unwrap());
}
