//! `kiln pack`: directories and archives become images, judged by the tools of others.

mod common;
#[path = "pack/disks.rs"]
mod disks;
#[path = "pack/faults.rs"]
mod faults;
#[path = "pack/options.rs"]
mod options;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use common::image::{assert_clean, debugfs, extract, missing, partitions, run};
use common::{Run as _, World, tool};

/// A directory with hard links, a sparse file, long names and attributes.
fn tree(world: &World) {
    let long = format!("tree/long/{}/{}", "n".repeat(200), "m".repeat(250));
    for directory in ["tree/etc", "tree/boot/efi/EFI", "tree/var/lib", &long] {
        fs::create_dir_all(world.work().join(directory)).expect("made");
    }
    world.write("tree/etc/hostname", "packed\n");
    world.write(
        "tree/etc/passwd",
        "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/:\n",
    );
    world.write("tree/etc/group", "root:x:0:\nstaff:x:50:\n");
    world.write("tree/boot/vmlinuz", &"kernel ".repeat(20_000));
    world.write("tree/boot/efi/EFI/grub.cfg", "esp\n");
    world.write("tree/var/lib/data", &"data ".repeat(1000));
    world.write("tree/file with spaces", "");
    let path = |name: &str| world.work().join("tree").join(name);
    fs::hard_link(path("etc/hostname"), path("var/name")).expect("linked");
    symlink("../etc/hostname", path("var/link")).expect("linked");
    fs::set_permissions(path("var/lib/data"), fs::Permissions::from_mode(0o4751)).expect("set");
    let sparse = fs::File::create(path("var/sparse")).expect("made");
    use std::os::unix::fs::FileExt as _;
    sparse.set_len(9 << 20).expect("sized");
    for at in [1 << 20, 5 << 20] {
        sparse.write_all_at(b"something", at).expect("written");
    }
    nix::sys::stat::mknod(
        &path("var/pipe"),
        nix::sys::stat::SFlag::S_IFIFO,
        nix::sys::stat::Mode::from_bits_truncate(0o620),
        0,
    )
    .expect("made");
}

#[test]
fn a_directory_and_its_archives_give_the_same_image() {
    if let Some(name) = missing(&["e2fsck", "debugfs", "tar", "setfattr"]) {
        skip!("{name} is not installed");
    }
    let world = World::new();
    tree(&world);
    // Not every filesystem has them.
    let attributes = run(&world, "setfattr", "-n user.note -v kept tree/etc/hostname").code() == 0;
    world
        .kiln()
        .words("pack tree -t raw -o dir --label packed --owner 0:0")
        .success();
    assert_clean(&world, "dir.raw");
    let stat = debugfs(&world, "dir.raw", "stat /var/name");
    assert!(stat.contains("Links: 2"), "{stat}");
    let stat = debugfs(&world, "dir.raw", "stat /var/lib/data");
    assert!(stat.contains("Mode:  04751"), "{stat}");
    if attributes {
        let listed = debugfs(&world, "dir.raw", "ea_get /etc/hostname user.note");
        assert!(listed.contains("kept"), "{listed}");
    }
    let whole = fs::read(world.work().join("dir.raw")).expect("there");
    let formats = [
        "--format=pax --sparse --sparse-version=1.0",
        "--format=pax --sparse --sparse-version=0.1",
        "--format=pax --sparse --sparse-version=0.0",
        "--format=gnu --sparse",
        "--format=oldgnu --sparse",
    ];
    for (at, format) in formats.iter().enumerate() {
        let exact = format.contains("pax");
        let xattrs = if exact { "--xattrs" } else { "" };
        run(
            &world,
            "tar",
            &format!("{format} {xattrs} -C tree -cf {at}.tar ."),
        )
        .success();
        world
            .kiln()
            .words(&format!(
                "pack {at}.tar -t raw -o {at} --label packed --owner 0:0"
            ))
            .success();
        let image = fs::read(world.work().join(format!("{at}.raw"))).expect("there");
        if exact {
            assert!(image == whole, "{format}");
        } else {
            // Times have whole seconds there, and there are no attributes.
            assert_clean(&world, &format!("{at}.raw"));
            let stat = debugfs(&world, &format!("{at}.raw"), "stat /var/sparse");
            assert!(stat.contains("Size: 9437184"), "{stat}");
            assert!(stat.contains("Blockcount: 16"), "{stat}");
        }
    }
    // What kiln writes it reads, and compressed archives are the same.
    world
        .kiln()
        .words("pack tree -t tar,tgz -o own --owner 0:0")
        .success();
    let mut sources = vec!["own.tar", "own.tgz"];
    for (program, options, name) in [
        ("xz", "-kf -1 0.tar", "0.tar.xz"),
        ("zstd", "-qf 0.tar", "0.tar.zst"),
    ] {
        if tool(program).is_some() {
            run(&world, program, options).success();
            sources.push(name);
        }
    }
    for source in sources {
        let line = format!("pack {source} -t raw -o again --overwrite --label packed --owner 0:0");
        world.kiln().words(&line).success();
        let image = fs::read(world.work().join("again.raw")).expect("there");
        assert!(image == whole, "{source}");
    }
}

#[test]
fn access_control_lists_survive_archives_of_all_kinds() {
    if let Some(name) = missing(&["debugfs", "tar", "bsdtar", "setfacl", "getfacl"]) {
        skip!("{name} is not installed");
    }
    let world = World::new();
    world.write("tree/file", "text");
    // Numbers of the archive's own users, which are no users of this host.
    world.write("tree/etc/passwd", "web:x:33333:7::/:\n");
    fs::create_dir(world.work().join("tree/dir")).expect("made");
    let set = [
        "-m u:33333:rwx,g:44444:r tree/file",
        "-m u:0:rx tree/dir",
        "-d -m u:33333:rwx tree/dir",
    ];
    for line in set {
        let outcome = run(&world, "setfacl", line);
        if outcome.code() != 0 {
            skip!("the filesystem of {} has no lists", world.work().display());
        }
    }
    world
        .kiln()
        .words("pack tree -t raw,tar -o dir --owner 0:0")
        .success();
    let whole = fs::read(world.work().join("dir.raw")).expect("there");
    assert_clean(&world, "dir.raw");
    // The attribute's value as in the inode: version 1, which has fewer ids.
    let value = debugfs(&world, "dir.raw", "ea_get -x /file system.posix_acl_access");
    assert!(value.contains("35 82 00 00"), "{value}");
    // The lists as text, as attributes, and both.
    for (at, (program, options)) in [
        ("tar", "--format=pax --acls"),
        ("tar", "--format=pax --acls --numeric-owner"),
        ("tar", "--format=pax --xattrs --xattrs-include=*"),
        ("tar", "--format=pax --acls --xattrs --xattrs-include=*"),
        ("bsdtar", "--format=pax --acls --no-xattrs"),
    ]
    .into_iter()
    .enumerate()
    {
        let line = format!("{options} -cf {at}.tar -C tree .");
        run(&world, program, &line).success();
        let line = format!("pack {at}.tar -t raw -o {at} --owner 0:0");
        let outcome = world.kiln().words(&line);
        assert!(!outcome.stderr.contains("warning"), "{}", outcome.stderr);
        outcome.success();
        let image = fs::read(world.work().join(format!("{at}.raw"))).expect("there");
        assert!(image == whole, "{program} {options}");
    }
    // Both programs take the lists of kiln's archives.
    let listed = |directory: &str| {
        let line = format!("-R -n {directory}");
        let text = run(&world, "getfacl", &line).success();
        text.lines()
            .filter(|line| !line.starts_with("# "))
            .map(|line| format!("{line}\n"))
            .collect::<String>()
    };
    let expected = listed("tree");
    assert!(expected.contains("default:user:33333:rwx"), "{expected}");
    for (program, options) in [
        ("tar", "--acls"),
        ("tar", "--xattrs --xattrs-include=*"),
        ("bsdtar", "--acls --no-xattrs -p"),
        ("bsdtar", "--acls --xattrs -p"),
    ] {
        let out = world.work().join("out");
        fs::create_dir(&out).expect("made");
        let line = format!("{options} --no-same-owner -xf dir.tar -C out");
        run(&world, program, &line).success();
        assert_eq!(listed("out"), expected, "{program} {options}");
        fs::remove_dir_all(&out).expect("removed");
    }
}

#[test]
fn layouts_divide_one_tree_and_all_formats_come_from_one_pass() {
    let tools = [
        "e2fsck", "debugfs", "sfdisk", "sgdisk", "fsck.fat", "qemu-img",
    ];
    if let Some(name) = missing(&tools) {
        skip!("{name} is not installed");
    }
    let world = World::new();
    tree(&world);
    world.write(
        "parts.yaml",
        "- local_loop: {name: image0}\n\
         - partitioning:\n    base: image0\n    label: gpt\n    partitions:\n      \
           - {name: ESP, type: EF00, size: 40MiB, mkfs: {type: vfat, mount: {mount_point: /boot/efi, fstab: {fsck-passno: 2}}}}\n      \
           - {name: boot, type: dps, size: 20MiB, mkfs: {type: ext2, mount: {mount_point: /boot, fstab: {options: ro}}}}\n      \
           - {name: swap, type: dps, size: 4MiB, mkfs: {type: swap, mount: {mount_point: none, fstab: {}}}}\n      \
           - {name: var, type: dps, size: 30%, mkfs: {type: ext4, mount: {mount_point: /var, fstab: {}}}}\n      \
           - {name: root, type: dps, size: 100%, mkfs: {mount: {mount_point: /, fstab: {fsck-passno: 1}}}}\n",
    );
    let formats = "raw,qcow2,vmdk,vhd,vhdx,vdi";
    world
        .kiln()
        .words(&format!(
            "pack tree -o parts -t {formats} --layout ./parts.yaml --size 256MiB --fstab --label top"
        ))
        .success();
    for (name, format) in [
        ("qcow2", "qcow2"),
        ("vmdk", "vmdk"),
        ("vhd", "vpc"),
        ("vhdx", "vhdx"),
        ("vdi", "vdi"),
    ] {
        let line = format!("compare -f raw -F {format} parts.raw parts.{name}");
        run(&world, "qemu-img", &line).success();
    }
    let verified = run(&world, "sgdisk", "--verify parts.raw");
    assert!(
        verified.stdout.contains("No problems found"),
        "{}",
        verified.stdout
    );
    let (label, parts) = partitions(&world, "parts.raw");
    assert_eq!((label.as_str(), parts.len()), ("gpt", 5));
    let raw = world.work().join("parts.raw");
    for (at, name) in ["esp", "boot", "swap", "var", "root"].iter().enumerate() {
        extract(&world, &raw, &parts[at], name);
    }
    run(&world, "fsck.fat", "-n esp").success();
    for name in ["boot", "var", "root"] {
        assert_clean(&world, name);
    }
    assert!(debugfs(&world, "boot", "stat /vmlinuz").contains("Size: 140000"));
    assert!(debugfs(&world, "var", "stat /lib/data").contains("Size: 5000"));
    let fstab = debugfs(&world, "root", "cat /etc/fstab");
    assert_eq!(
        fstab,
        "LABEL=top / ext4 defaults 0 1\n\
         LABEL=mkfs_boot /boot ext2 ro 0 2\n\
         LABEL=MKFS_ESP /boot/efi vfat defaults 0 2\n\
         LABEL=mkfs_var /var ext4 defaults 0 2\n\
         LABEL=mkfs_swap none swap sw 0 0\n"
    );
    // Nothing of one filesystem is in another.
    assert!(!debugfs(&world, "root", "ls -p /var").contains("lib"));
    for layout in ["none", "mbr", "gpt", "efi", "efi-4k"] {
        let line = format!("pack tree -o {layout} -t raw --layout {layout}");
        let outcome = world.kiln().words(&line);
        // Nothing but a boot loader has to do with an EFI system partition.
        assert_eq!(
            outcome.stderr.contains("UEFI does not start the image"),
            layout.starts_with("efi"),
            "{}",
            outcome.stderr
        );
        outcome.success();
        match layout {
            "none" => assert_clean(&world, "none.raw"),
            "mbr" => drop(run(&world, "sfdisk", "--verify mbr.raw").success()),
            "efi-4k" => {}
            _ => {
                let verified = run(&world, "sgdisk", &format!("--verify {layout}.raw"));
                assert!(verified.stdout.contains("No problems found"));
            }
        }
        // Not the EFI system partition, which is the largest, though the tree says no system.
        let line = format!("cat {layout}.raw /etc/hostname");
        assert_eq!(world.kiln().words(&line).success(), "packed\n");
        fs::remove_file(world.work().join(format!("{layout}.raw"))).expect("removed");
    }
}

#[test]
fn other_filesystems_are_clean_and_the_image_grows_for_them() {
    let world = World::new();
    tree(&world);
    for (fstype, program, arguments) in [
        ("btrfs", "btrfs", "check --check-data-csum"),
        ("xfs", "xfs_repair", "-n"),
        ("ext3", "e2fsck", "-fn"),
        ("vfat", "fsck.fat", "-n"),
    ] {
        if missing(&["mkfs.xfs"]).is_some() && fstype == "xfs" {
            skip!("mkfs.xfs is not installed");
        }
        let line = format!("pack tree -o {fstype} -t raw --filesystem {fstype} --label LABEL");
        let outcome = world.kiln().words(&line);
        if fstype == "vfat" {
            // FAT has no links and no pipes.
            assert_eq!(outcome.code(), 1, "{}", outcome.stderr);
            assert!(
                outcome.stderr.contains("vfat filesystem"),
                "{}",
                outcome.stderr
            );
            continue;
        }
        outcome.success();
        if tool(program).is_none() {
            println!("SKIP: {program} is not installed");
            continue;
        }
        let image = format!("{fstype}.raw");
        run(&world, program, &format!("{arguments} {image}")).success();
        let blkid = run(&world, "blkid", &format!("-p -o export {image}")).success();
        assert!(blkid.contains("LABEL=LABEL"), "{blkid}");
        assert!(blkid.contains(&format!("TYPE={fstype}")), "{blkid}");
    }
}

#[test]
fn owners_follow_the_rules_and_the_names_of_the_tree() {
    if let Some(name) = missing(&["debugfs"]) {
        skip!("{name} is not installed");
    }
    let world = World::new();
    tree(&world);
    world.write(
        "owners",
        "# whose files these are\nroot:root\n\n/var=web\n/var/lib=:staff\n",
    );
    world
        .kiln()
        .words("pack tree -t raw -o a --owner @owners --owner /etc/passwd=7:8")
        .success();
    for (path, owner) in [
        ("/etc/hostname", "User:     0   Group:     0"),
        ("/var/link", "User:    33   Group:    34"),
        ("/var/lib/data", "User:    33   Group:    50"),
        ("/etc/passwd", "User:     7   Group:     8"),
    ] {
        let stat = debugfs(&world, "a.raw", &format!("stat {path}"));
        assert!(stat.contains(owner), "{path}: {stat}");
    }
}

#[test]
fn what_cannot_be_packed_is_explained_and_leaves_nothing() {
    let world = World::new();
    world.write("tree/file", "text");
    world.write("no.tar", "this is no archive");
    world.write("bz.tar", "BZh9 and so on");
    world.write("bad.yaml", "- mkfs: {type: ext4}\n");
    let socket = std::os::unix::net::UnixListener::bind(world.work().join("socket"));
    socket.expect("a short path");
    world.write(
        "data.yaml",
        "- local_loop: {name: image0, mkfs: {type: ext4, mount: {mount_point: /data}}}\n",
    );
    for (line, status, message) in [
        ("pack none", 1, "error: cannot read `"),
        (
            "pack no.tar",
            1,
            "is damaged at byte 0: it ends within a block",
        ),
        (
            "pack bz.tar",
            1,
            "is compressed by bzip2, which is not supported",
        ),
        (
            "pack /dev/null",
            1,
            "error: `/dev/null` is a device, and neither a directory nor a tar archive\nhint: ",
        ),
        // Zeros are an empty archive where they are a file's.
        (
            "pack /dev/zero",
            1,
            "error: `/dev/zero` is a device, and neither",
        ),
        ("pack socket", 1, "/socket` is a socket, and neither"),
        (
            "pack tree --layout uefi",
            2,
            "error: there is no layout `uefi`",
        ),
        (
            "pack tree --layout ./bad.yaml",
            1,
            "error: cannot use layout `./bad.yaml`: a `mkfs` entry needs a `name`",
        ),
        (
            "pack tree --layout ./data.yaml",
            1,
            "error: cannot use layout `./data.yaml`: no filesystem is mounted at `/`",
        ),
        (
            "pack tree --layout /dev/zero",
            1,
            "error: cannot read layout `/dev/zero`: it is a device, and not a regular file",
        ),
        (
            "pack tree --layout ./gone.yaml",
            1,
            "error: cannot read layout `./gone.yaml`",
        ),
        (
            "pack tree -o out/",
            1,
            "error: output name `out/` is a directory",
        ),
        (
            "pack tree -o none/out",
            1,
            "hint: create the directory, or choose another output name",
        ),
        (
            "pack tree -o no.tar/out",
            1,
            "hint: something else has this name: choose a directory",
        ),
        ("pack tree --size 0", 2, "error: `--size` must not be 0"),
        ("pack tree --size 5k", 2, "error: `--size` is wrong: "),
        (
            "pack tree --sector-size 1000",
            2,
            "error: `--sector-size` is 1000, but only 512 and 4096 are possible",
        ),
        (
            "pack tree --filesystem swap",
            1,
            "error: `mkfs_root` is a swap area and holds no files",
        ),
        (
            "pack tree --owner 5=",
            2,
            "error: `5=` is no rule about owners: it names nobody",
        ),
        (
            "pack tree --owner web",
            1,
            "error: there is no user `web` in the tree's `/etc/passwd`",
        ),
        (
            "pack tree -t cow",
            2,
            "error: there is no output format `cow`",
        ),
        ("pack tree --size 1MiB --layout efi", 1, "error: "),
        (
            "pack tree --size 1KiB",
            1,
            "error: cannot make the ext4 filesystem `mkfs_root`",
        ),
        (
            "pack tree --size 10KiB",
            1,
            " KiB, but it would have 10 KiB\nhint: `--size` makes the image larger\n",
        ),
        (
            "pack tree --size 10KiB --layout mbr",
            1,
            "`root` has no sector: its size is 0 bytes\nhint: `--size` makes the image larger\n",
        ),
        (
            "pack tree --size 10KiB --layout efi",
            1,
            " cannot hold a gpt\nhint: `--size` makes the image larger\n",
        ),
        (
            "pack tree --layout mbr --sector-size 4096",
            1,
            "is an mbr on a disk with sectors of 4096 bytes",
        ),
        (
            "pack tree --filesystem reiserfs",
            1,
            "filesystem type `reiserfs`",
        ),
    ] {
        let outcome = world.kiln().words(line);
        assert_eq!(outcome.code(), status, "{line}: {}", outcome.stderr);
        assert!(
            outcome.stderr.contains(message),
            "{line}: {}",
            outcome.stderr
        );
        assert_eq!(
            fs::read_dir(world.work()).expect("readable").count(),
            6,
            "{line}"
        );
    }
    if !nix::unistd::geteuid().is_root() {
        let secret = world.work().join("tree/secret");
        fs::write(&secret, "x").expect("written");
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).expect("set");
        let outcome = world.kiln().words("pack tree");
        assert!(
            outcome
                .stderr
                .contains("such as `secret`: permission denied"),
            "{}",
            outcome.stderr
        );
        assert!(
            outcome.stderr.contains("hint: run as the owner"),
            "{}",
            outcome.stderr
        );
    }
}

#[test]
fn a_tree_with_a_policy_is_labelled() {
    if let Some(name) = missing(&["debugfs"]) {
        skip!("{name} is not installed");
    }
    let world = World::new();
    world.write(
        "tree/etc/selinux/config",
        "SELINUX=enforcing\nSELINUXTYPE=own\n",
    );
    world.write(
        "tree/etc/selinux/own/contexts/files/file_contexts",
        "/.* system_u:object_r:default_t:s0\n/srv(/.*)? system_u:object_r:srv_t:s0\n\
         /lost\\+found -d system_u:object_r:lost_found_t:s0\n",
    );
    world.write("tree/srv/file", "served\n");
    let label = |image: &str| {
        let path = format!("{image}.raw");
        debugfs(&world, &path, "ea_get /srv/file security.selinux")
    };
    let line = "pack tree -t raw --owner 0:0 -o";
    world.kiln().words(&format!("{line} auto")).success();
    assert!(
        label("auto").contains("system_u:object_r:srv_t:s0"),
        "{}",
        label("auto")
    );
    // It is in no tree, and has its label all the same.
    let lost_found = |image: &str| {
        let path = format!("{image}.raw");
        debugfs(&world, &path, "ea_get /lost+found security.selinux")
    };
    assert!(
        lost_found("auto").contains("lost_found_t"),
        "{}",
        lost_found("auto")
    );
    let mut off = world.kiln();
    off.env("KILN_SELINUX", "off")
        .words(&format!("{line} off"))
        .success();
    assert!(!label("off").contains("srv_t"), "{}", label("off"));
    assert!(!lost_found("off").contains("_t"), "{}", lost_found("off"));

    world.write("tree/etc/selinux/config", "SELINUX=disabled\n");
    for (value, expected) in [
        (
            "on",
            "the target has no SELinux policy that is not disabled",
        ),
        ("yes", "`KILN_SELINUX` is `yes`"),
    ] {
        let mut command = world.kiln();
        let outcome = command
            .env("KILN_SELINUX", value)
            .words(&format!("{line} none"));
        assert_ne!(outcome.code(), 0, "{value}");
        assert!(outcome.stderr.contains(expected), "{}", outcome.stderr);
    }
}
