//! Images as the tools of others see them.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

use crate::common::image::{Partition, assert_clean, debugfs, extract, missing, partitions, run};
use crate::common::toy::{Built, GPT, Toy};
use crate::common::{Run as _, kiln, tool};
use crate::skip;
use kiln::build::event::Event;

/// Fields of debugfs's `stat`, by their names.
fn stat(toy: &Toy, filesystem: &str, path: &str) -> BTreeMap<String, String> {
    let text = debugfs(&toy.world, filesystem, &format!("stat \"{path}\""));
    assert!(text.starts_with("Inode:"), "{path}: {text}");
    let words: Vec<&str> = text.split_whitespace().collect();
    words
        .windows(2)
        .filter_map(|pair| Some((pair[0].strip_suffix(':')?.to_owned(), pair[1].to_owned())))
        .fold(BTreeMap::new(), |mut fields, (name, value)| {
            fields.entry(name).or_insert(value);
            fields
        })
}

#[track_caller]
fn assert_stat(toy: &Toy, filesystem: &str, path: &str, expected: &[(&str, &str)]) {
    let fields = stat(toy, filesystem, path);
    for (name, value) in expected {
        assert_eq!(
            fields.get(*name).map(String::as_str),
            Some(*value),
            "{name} of {path}"
        );
    }
}

/// The partitions of a GPT that sgdisk finds nothing wrong with.
#[track_caller]
fn valid_gpt(toy: &Toy) -> Vec<Partition> {
    let verified = run(&toy.world, "sgdisk", "--verify toy.raw");
    assert!(
        verified.stdout.contains("No problems found"),
        "{}",
        verified.stdout
    );
    let (label, parts) = partitions(&toy.world, "toy.raw");
    assert_eq!(label, "gpt");
    parts
}

/// Owners, modes and all else that the full toy root has, in an ext4 filesystem.
fn assert_root(toy: &Toy, filesystem: &str) {
    assert_clean(&toy.world, filesystem);
    for (path, expected) in [
        (
            "/srv/www",
            &[
                ("Type", "directory"),
                ("Mode", "02775"),
                ("User", "33"),
                ("Group", "33"),
            ][..],
        ),
        (
            "/srv/www/index.html",
            &[("User", "33"), ("Group", "33"), ("Size", "7")],
        ),
        ("/srv/ids", &[("User", "60000"), ("Group", "65534")]),
        ("/usr/bin/setuid", &[("Mode", "04755"), ("User", "0")]),
        ("/usr/bin/setgid", &[("Mode", "02755"), ("Group", "33")]),
        ("/etc/group", &[("Mode", "0600")]),
        ("/srv/closed", &[("Mode", "0000")]),
        ("/tmp", &[("Mode", "01777")]),
        ("/srv/first", &[("Links", "3"), ("Size", "10")]),
        ("/srv/sparse", &[("Size", "67108864"), ("Blockcount", "8")]),
        ("/srv/empty", &[("Size", "0"), ("Blockcount", "0")]),
        ("/srv/fifo", &[("Type", "FIFO")]),
        (
            "/srv/short-link",
            &[("Type", "symlink"), ("Size", "5"), ("Blockcount", "0")],
        ),
        ("/srv/long-link", &[("Type", "symlink"), ("Size", "200")]),
        ("/dev/null", &[("Type", "character"), ("Mode", "0666")]),
        ("/dev/console", &[("Type", "character"), ("Mode", "0600")]),
        ("/var/log/messages", &[("Size", "0")]),
        ("/.hidden", &[("Size", "7")]),
    ] {
        assert_stat(toy, filesystem, path, expected);
    }
    assert!(
        debugfs(&toy.world, filesystem, "stat /dev/null").contains("major/minor number: 01:03")
    );
    let same: Vec<String> = ["/srv/first", "/srv/second", "/srv/deep/third"]
        .iter()
        .map(|path| stat(toy, filesystem, path)["Inode"].clone())
        .collect();
    assert!(same.iter().all(|inode| *inode == same[0]), "{same:?}");
    assert!(debugfs(&toy.world, filesystem, "stat /srv/short-link").contains("dest: \"first\""));
    // A directory of this size has an index.
    assert!(debugfs(&toy.world, filesystem, "htree_dump /srv/many").contains("Root node dump"));
    let many = debugfs(&toy.world, filesystem, "ls -p /srv/many");
    assert_eq!(many.matches("entry-").count(), 3000);
    let names = debugfs(&toy.world, filesystem, "ls -p /root");
    assert!(
        names.contains("/notes/") && !names.contains("install.log"),
        "{names}"
    );
    assert!(!debugfs(&toy.world, filesystem, "ls -p /tmp").contains("leftover"));
    assert!(debugfs(&toy.world, filesystem, "cat /etc/fstab").contains(" / ext4 "));
    let attributes = |path: &str| debugfs(&toy.world, filesystem, &format!("ea_list {path}"));
    if tool("setcap").is_some() {
        let text = attributes("/usr/bin/capable");
        // Version 2 of the attribute: no owner of a namespace in it.
        assert!(text.contains("security.capability (20)"), "{text}");
    }
    if toy.has_attribute() {
        assert!(attributes("/srv/first").contains("user.kiln (7) = \"a value\""));
    }
}

#[test]
fn raw_qcow2_and_tar_of_one_build_are_right_for_their_tools() {
    let tools = ["e2fsck", "debugfs", "sfdisk", "sgdisk", "qemu-img", "tar"];
    if let Some(name) = missing(&tools) {
        skip!("{name} is not installed");
    }
    let mut toy = Toy::full();
    toy.world.set("DIB_BLOCK_DEVICE_CONFIG", GPT);
    // The rule for sizes does not know of the boot partition.
    toy.build("-t raw,qcow2,tar --extra-size 64").success();
    assert_eq!(toy.outputs(), ["toy.qcow2", "toy.raw", "toy.tar"]);

    run(&toy.world, "qemu-img", "check -f qcow2 toy.qcow2").success();
    run(
        &toy.world,
        "qemu-img",
        "compare -f raw -F qcow2 toy.raw toy.qcow2",
    )
    .success();
    let parts = valid_gpt(&toy);
    assert_eq!(parts.len(), 2);
    assert_eq!(parts[0].kind, "21686148-6449-6E6F-744E-656564454649");
    assert_eq!(parts[0].length, 8 << 20);
    extract(&toy.world, &toy.output("raw"), &parts[1], "root.ext4");
    assert_root(&toy, "root.ext4");

    let listing = run(
        &toy.world,
        "tar",
        "--numeric-owner -tvf toy.tar --quoting-style=escape",
    )
    .success();
    let entries: BTreeMap<String, Vec<String>> = listing
        .lines()
        .map(|line| {
            let fields: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let name = fields[5..].join(" ");
            (
                name.split(" -> ").next().unwrap_or(&name).to_owned(),
                fields,
            )
        })
        .collect();
    for (name, mode, owner) in [
        ("./srv/www/", "drwxrwsr-x", "33/33"),
        ("./usr/bin/setuid", "-rwsr-xr-x", "0/0"),
        ("./usr/bin/setgid", "-rwxr-sr-x", "0/33"),
        ("./srv/ids", "-rw-r--r--", "60000/65534"),
        ("./srv/closed", "----------", "0/0"),
        ("./srv/fifo", "prw-r--r--", "0/0"),
        ("./.hidden", "-rw-r--r--", "0/0"),
        ("./dev/null", "crw-rw-rw-", "0/0"),
        ("./srv/tab\\there and \\303\\244", "-rw-r--r--", "0/0"),
        ("./srv/latin-\\344", "-rw-r--r--", "0/0"),
    ] {
        let fields = entries
            .get(name)
            .unwrap_or_else(|| panic!("{name} is not in the archive"));
        assert_eq!(
            (fields[0].as_str(), fields[1].as_str()),
            (mode, owner),
            "{name}"
        );
    }
    assert_eq!(
        entries
            .keys()
            .filter(|name| name.contains("/entry-"))
            .count(),
        3000
    );
    for program in ["./tmp/leftover", "./root/install.log"] {
        assert!(!entries.contains_key(program), "{program}");
    }
}

#[test]
fn a_build_without_a_layout_is_a_bare_filesystem() {
    if let Some(name) = missing(&["e2fsck", "debugfs"]) {
        skip!("{name} is not installed");
    }
    let toy = Toy::full();
    toy.build("-t raw --root-label 'my root'").success();
    assert_root(&toy, "toy.raw");
    let super_block = debugfs(&toy.world, "toy.raw", "stats -h");
    assert!(super_block.contains("my root"), "{super_block}");
    for feature in [
        "extent",
        "64bit",
        "metadata_csum",
        "flex_bg",
        "dir_index",
        "has_journal",
        "resize_inode",
    ] {
        assert!(
            super_block.contains(feature),
            "{feature} is not in:\n{super_block}"
        );
    }
}

#[test]
fn the_mbr_element_gives_one_active_partition() {
    if let Some(name) = missing(&["e2fsck", "debugfs", "sfdisk"]) {
        skip!("{name} is not installed");
    }
    let toy = Toy::full();
    Built::run(toy.command("block-device-mbr -t raw").arg("--json")).success();
    run(&toy.world, "sfdisk", "--verify toy.raw").success();
    let (label, parts) = partitions(&toy.world, "toy.raw");
    assert_eq!((label.as_str(), parts.len()), ("dos", 1));
    assert_eq!((parts[0].kind.as_str(), parts[0].bootable), ("83", true));
    extract(&toy.world, &toy.output("raw"), &parts[0], "root.ext4");
    assert_root(&toy, "root.ext4");
}

#[test]
fn the_efi_element_gives_an_esp_that_holds_the_files_below_boot_efi() {
    if let Some(name) = missing(&["e2fsck", "debugfs", "sgdisk", "sfdisk", "fsck.fat", "mdir"]) {
        skip!("{name} is not installed");
    }
    let toy = Toy::full();
    toy.hook(
        "install",
        "10-efi",
        "mkdir -p /boot/efi/EFI/BOOT\nhead -c 300000 /dev/zero | tr '\\0' e >/boot/efi/EFI/BOOT/BOOTX64.EFI\n\
         echo 'a long name' >'/boot/efi/a file with a long name.text'",
    );
    let built = Built::run(
        toy.command("block-device-efi -t raw,tar --extra-size 128")
            .arg("--json"),
    )
    .success();
    assert!(!tells(&built, "UEFI does not start"), "{:?}", built.events);
    let parts = valid_gpt(&toy);
    assert_eq!(parts.len(), 3);
    assert_eq!(parts[0].kind, "C12A7328-F81F-11D2-BA4B-00A0C93EC93B");
    extract(&toy.world, &toy.output("raw"), &parts[0], "esp.fat");
    run(&toy.world, "fsck.fat", "-n esp.fat").success();
    let listing = run(&toy.world, "mdir", "-i esp.fat -/ -b ::").success();
    for name in ["EFI/BOOT/BOOTX64.EFI", "a file with a long name.text"] {
        assert!(listing.contains(name), "{listing}");
    }
    extract(&toy.world, &toy.output("raw"), &parts[2], "root.ext4");
    assert_root(&toy, "root.ext4");
    // The mount point is there and empty.
    let below = debugfs(&toy.world, "root.ext4", "ls -p /boot/efi");
    assert!(!below.contains("EFI"), "{below}");
    let fstab = debugfs(&toy.world, "root.ext4", "cat /etc/fstab");
    assert!(fstab.contains(" /boot/efi vfat "), "{fstab}");
    let listing = run(&toy.world, "tar", "-tf toy.tar").success();
    assert!(listing.contains("./boot/efi/EFI/BOOT/BOOTX64.EFI"));
    // Without a boot loader on it, it is of no use.
    let built = Toy::basic().build("block-device-efi -t raw").success();
    let expected = "in `/boot/efi/EFI/BOOT` (the element `bootloader`, which `vm` brings";
    assert!(tells(&built, expected), "{:?}", built.events);
}

/// Whether a warning has this text.
fn tells(built: &Built, text: &str) -> bool {
    built.events.iter().any(|event| match event {
        Event::Warning { text: told } => told.contains(text),
        _ => false,
    })
}

#[test]
fn swap_and_several_filesystems_are_laid_out_as_configured() {
    if let Some(name) = missing(&["e2fsck", "debugfs", "sfdisk"]) {
        skip!("{name} is not installed");
    }
    let mut toy = Toy::basic();
    toy.world.set(
        "DIB_BLOCK_DEVICE_CONFIG",
        "
- local_loop: {name: image0, size: 1GiB}
- partitioning:
    base: image0
    label: gpt
    partitions:
      - {name: swapped, type: '8200', size: 64MiB, mkfs: {type: swap, name: mkfs_swap}}
      - name: var
        type: '8300'
        size: 200MiB
        mkfs: {type: ext4, label: variable, mount: {mount_point: /var, fstab: {options: noatime, fsck-passno: 2}}}
      - name: root
        type: '8300'
        size: 100%
        mkfs: {type: ext4, mount: {mount_point: /, fstab: {options: defaults, fsck-passno: 1}}}
",
    );
    toy.build("-t raw").success();
    let (_, parts) = partitions(&toy.world, "toy.raw");
    assert_eq!(
        parts
            .iter()
            .map(|part| part.length >> 20)
            .collect::<Vec<_>>()[..2],
        [64, 200]
    );
    extract(&toy.world, &toy.output("raw"), &parts[0], "swap");
    let mut mark = [0; 10];
    let swap = File::open(toy.world.work().join("swap")).expect("it is extracted");
    swap.read_exact_at(&mut mark, 4096 - 10)
        .expect("it is a page long");
    assert_eq!(&mark, b"SWAPSPACE2");
    for (number, name) in [(1, "var.ext4"), (2, "root.ext4")] {
        extract(&toy.world, &toy.output("raw"), &parts[number], name);
        assert_clean(&toy.world, name);
    }
    assert!(debugfs(&toy.world, "var.ext4", "ls -p /").contains("/log/"));
    assert!(!debugfs(&toy.world, "root.ext4", "ls -p /var").contains("/log/"));
    let fstab = debugfs(&toy.world, "root.ext4", "cat /etc/fstab");
    for part in [" /var ext4 noatime ", " / ext4 "] {
        assert!(fstab.contains(part), "{part} is not in\n{fstab}");
    }
}

#[test]
fn a_layout_that_makes_no_sense_is_told_before_anything_runs() {
    let mut toy = Toy::basic();
    toy.world.set(
        "DIB_BLOCK_DEVICE_CONFIG",
        "- local_loop: {name: image0}\n- nonsense: {}\n",
    );
    let built = toy.build("-t raw");
    let (message, hints, _) = built.failure();
    assert!(message.contains("nonsense"), "{message}");
    assert!(
        hints
            .iter()
            .any(|hint| hint.contains("DIB_BLOCK_DEVICE_CONFIG")),
        "{hints:?}"
    );
    assert!(built.lines().is_empty());
}

/// A disk with the partition `root` behind others.
fn behind(disk: &str, label: &str, others: &[&str]) -> String {
    let others: String = others
        .iter()
        .map(|other| format!("      - {{{other}}}\n"))
        .collect();
    let flags = if label == "mbr" { "primary" } else { "" };
    format!(
        "- local_loop: {{name: image0{disk}}}
- partitioning:
    base: image0
    label: {label}
    partitions:
{others}      - {{name: root, size: 100%, flags: [{flags}], mkfs: {{type: ext4, mount: {{mount_point: /}}}}}}
"
    )
}

#[test]
fn sizes_that_cannot_be_are_told_before_anything_runs() {
    let one_more: Vec<String> = (0..128)
        .map(|n| format!("name: p{n}, size: 1MiB"))
        .collect();
    let one_more: Vec<&str> = one_more.iter().map(String::as_str).collect();
    let boot = |size, fs| {
        format!("name: b, size: {size}, mkfs: {{type: {fs}, mount: {{mount_point: /boot}}}}")
    };
    let of = |node| format!("the `size` of `{node}` in the block device configuration");
    let larger = || "`--image-size` or `DIB_IMAGE_SIZE` (GiB) make".to_owned();
    let given = "-t raw --image-size 1";
    for (layout, arguments, said, hint) in [
        (
            behind("", "gpt", &one_more),
            "-t raw",
            "a gpt holds 128 partitions, and `root` is one more",
            None,
        ),
        (
            behind("", "gpt", &["name: a, size: 0"]),
            "-t qcow2",
            "`a` has a size of 0 bytes",
            Some(of("a")),
        ),
        (
            behind("", "mbr", &["name: a, size: 0, flags: [primary]"]),
            "-t raw",
            "`a` has no sector",
            Some(of("a")),
        ),
        (
            behind("", "mbr", &["name: a, size: 3TiB, flags: [primary]"]),
            "-t raw",
            "an mbr counts only to 4294967295",
            None,
        ),
        (
            behind(", size: 1GiB", "gpt", &["name: a, size: 2GiB"]),
            "-t raw",
            "`a` asks for 2147483648 bytes",
            Some(of("image0")),
        ),
        (
            behind("", "gpt", &["name: a, size: 2GiB"]),
            given,
            "`a` asks for 2147483648 bytes",
            Some(larger()),
        ),
        (
            behind("", "gpt", &[]),
            "-t raw --image-size 0.001",
            "cannot hold a gpt",
            Some(larger()),
        ),
        (
            behind("", "gpt", &[]),
            "-t raw --image-size 0.03",
            "cannot make the ext4 filesystem `mkfs_root`",
            Some(larger()),
        ),
        (
            behind("", "gpt", &["name: a, size: 100%"]),
            "-t raw",
            "`root` has a size of 0 bytes",
            Some("the partitions before `root` take all of the disk".to_owned()),
        ),
        (
            behind("", "gpt", &[&boot("1MiB", "btrfs")]),
            "-t raw",
            "cannot make the btrfs filesystem `mkfs_b` of 1048576 bytes",
            Some(of("b")),
        ),
        (
            behind("", "gpt", &[&boot("1MiB", "vfat, opts: -F 32")]),
            "-t raw",
            "cannot make the vfat filesystem `mkfs_b` of 1048576 bytes",
            Some(of("b")),
        ),
        (
            behind(", size: 20TiB", "gpt", &[]),
            "-t raw",
            "`-i 4096` is not usable: an ext4 filesystem has at most 4294967295 inodes",
            None,
        ),
        // What the content decides is not judged yet.
        (
            behind("", "gpt", &["name: a, size: 99.9%", "name: c, size: 10GiB"]),
            "-t raw",
            "",
            None,
        ),
        // Nor is what nobody makes.
        (behind("", "gpt", &["name: a, size: 0"]), "-t tar", "", None),
    ] {
        let mut toy = Toy::basic();
        toy.world.set("DIB_BLOCK_DEVICE_CONFIG", &layout);
        let mut plan = toy.world.command(kiln());
        let plan = plan
            .args(["plan", "toy", "-n"])
            .args(arguments.split(' '))
            .run();
        if said.is_empty() {
            plan.success();
            continue;
        }
        let built = toy.build(arguments);
        let (message, hints, _) = built.failure();
        assert!(message.contains(said), "{message}\nof\n{layout}");
        assert!(built.lines().is_empty(), "{said}: a hook ran");
        let first = hints.first().map(String::as_str);
        match &hint {
            None => assert_eq!(first, None, "{said}"),
            Some(hint) => assert!(
                first.is_some_and(|told| told.starts_with(hint)),
                "{hints:?}"
            ),
        }
        assert_eq!(plan.code(), 1, "{said}");
        assert!(plan.stderr.contains(&message), "{}", plan.stderr);
    }
}
