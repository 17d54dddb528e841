//! The main job for real: Debian images from the archive that this machine
//! uses, checked by the tools of others and booted to their login prompts.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use crate::common;
use crate::common::host::Host;
use crate::common::image::{assert_clean, debugfs, extract, missing, partitions, run};
use crate::common::listing::{Listing, differences, listing_of};
use crate::common::qemu::{Firmware, boot, boot_from, ovmf};
use crate::common::toy::Built;
use crate::common::{Run as _, World};
use crate::skip;

/// Builds, and prints what took how long.
fn build(world: &World, arguments: &str) -> Built {
    build_in(&Host::new(), world, arguments)
}

/// The same on a host that is restricted.
fn build_in(host: &Host, world: &World, arguments: &str) -> Built {
    let started = Instant::now();
    let mut command = world.kiln();
    command
        .arg("build")
        .args(shlex::split(arguments).expect("well quoted"));
    command
        .arg("--json")
        .arg("--image-cache")
        .arg(common::cache());
    host.confine(&mut command);
    let built = Built::run(&mut command).success();
    println!(
        "kiln build {arguments}: {:.1} s",
        started.elapsed().as_secs_f64()
    );
    for event in &built.events {
        use kiln::build::event::Event;
        match event {
            Event::PhaseFinished { phase, seconds, .. } => println!("  {seconds:7.1} s  {phase}"),
            Event::StepFinished { step, seconds } => println!("  {seconds:7.1} s  ({step})"),
            _ => {}
        }
    }
    built
}

fn world() -> World {
    let mut world = World::new();
    let temporary = world.tmp();
    world.set("TMP_DIR", temporary);
    world
}

/// What every Debian root must be like.
fn assert_debian(world: &World, filesystem: &str) {
    assert_clean(world, filesystem);
    let release = debugfs(world, filesystem, "cat /usr/lib/os-release");
    assert!(release.contains("ID=debian"), "{release}");
    let status = debugfs(world, filesystem, "cat /var/lib/dpkg/status");
    let not_installed: Vec<&str> = status
        .lines()
        .filter(|line| line.starts_with("Status: ") && *line != "Status: install ok installed")
        .collect();
    assert_eq!(not_installed, Vec::<&str>::new());
    for package in ["linux-image-", "systemd", "grub-pc"] {
        assert!(
            status.contains(&format!("Package: {package}")),
            "{package} is not installed"
        );
    }
    // What only the build needed.
    for path in [
        "/etc/resolv.conf.ORIG",
        "/usr/sbin/policy-rc.d",
        "/tmp/in_target.d",
    ] {
        let found = debugfs(world, filesystem, &format!("stat {path}"));
        assert!(!found.contains("Inode:"), "{path} is in the image");
    }
    let unsafe_io = debugfs(world, filesystem, "ls -p /etc/dpkg/dpkg.cfg.d");
    assert!(!unsafe_io.contains("speedup"), "{unsafe_io}");
    let fstab = debugfs(world, filesystem, "cat /etc/fstab");
    assert!(fstab.contains(" / ext4 "), "{fstab}");
    assert!(!fstab.contains("/work/"), "{fstab}");
}

#[test]
fn debian_minimal_is_built_checked_and_booted_by_bios_and_uefi() {
    let tools = [
        "e2fsck",
        "debugfs",
        "sfdisk",
        "sgdisk",
        "fsck.fat",
        "qemu-img",
        "qemu-system-x86_64",
    ];
    if let Some(name) = missing(&tools) {
        skip!("{name} is not installed");
    }
    if ovmf().is_none() {
        skip!("OVMF is not installed (package ovmf)");
    }
    if !common::has_network() {
        skip!("this machine has no network");
    }
    let world = world();
    build(
        &world,
        &format!("vm debian-minimal {MORE} -o debian -t qcow2,raw,tar"),
    );
    // A build or a boot costs a minute, so root and a normal user do not repeat what
    // depends on neither.
    if nix::unistd::geteuid().is_root() {
        assert_on_mbr(&world);
        without_namespaces(&world);
    } else {
        with_a_single_id_and_boots(&world);
    }
    other_layouts_boot(&world);
    assert_eq!(common::toy::names(&world.tmp()), Vec::<String>::new());
}

/// Arguments for the first image once more, without the network: its packages are
/// there. A mode without subordinate ids makes a root of its own from them.
fn again(name: &str) -> String {
    format!("vm debian-minimal {MORE} -o {name} -t tar --offline")
}

/// The image boots, as does one that BIOS and UEFI start; and it is the same when it
/// is built with one id alone.
fn with_a_single_id_and_boots(world: &World) {
    let console = std::thread::scope(|scope| {
        // A guest needs no more than the finished file, so the next build runs beside it.
        let booted = scope.spawn(|| boot(world, "debian.qcow2", Firmware::Bios, "login:"));
        assert_on_mbr(world);
        let poisoned = poison_the_package_cache();
        let built = build(
            world,
            &format!("block-device-efi vm debian-minimal {MORE},lvm2 -o efi -t qcow2,raw,tar"),
        );
        let told = format!("`{}` in the package cache is not what", poisoned.name);
        let is_told = |line: &String| line.contains(&told);
        assert!(built.lines().iter().any(is_told), "{told}");
        poisoned.assert_replaced();
        booted
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    assert!(
        console.contains("Linux version"),
        "the kernel's messages are not on the console"
    );
    assert_on_gpt(world);
    std::thread::scope(|scope| {
        scope.spawn(|| mounts_all(world, "efi.qcow2", Firmware::Bios));
        scope.spawn(|| boot(world, "efi.qcow2", Firmware::Uefi, "login:"));
        build(world, &format!("{} --mode single", again("single")));
    });
    assert_same_but_for_chance(world, "debian.tar", "single.tar");
}

/// A package in the cache that is as large as the real one and has another content.
struct Poisoned {
    path: PathBuf,
    name: String,
    content: Vec<u8>,
}

/// Does to the cache what a build of somebody else's elements could do. Later builds have to
/// install what is in the archive all the same.
fn poison_the_package_cache() -> Poisoned {
    let directory = common::cache().join("apt/debian");
    let mut names = common::toy::names(&directory).into_iter();
    let name = names
        .find(|name| name.starts_with("openssh-server_"))
        .expect("an earlier build has downloaded it");
    let path = directory.join(&name);
    let mut content = fs::read(&path).expect("it can be read");
    let end = content.len() - 1;
    content[end] ^= 1;
    // Another build may have the file.
    let new = directory.join("poisoned");
    fs::write(&new, &content).expect("it can be written");
    fs::rename(&new, &path).expect("it can be replaced");
    Poisoned {
        path,
        name,
        content,
    }
}

impl Poisoned {
    fn assert_replaced(&self) {
        let now = fs::read(&self.path).expect("there is another one");
        assert_eq!(now.len(), self.content.len());
        assert!(now != self.content);
    }
}

/// Boots an image until all filesystems of its `/etc/fstab` are mounted. The rest of the
/// way to the prompt is that of another image of the same tree.
fn mounts_all(world: &World, image: &str, firmware: Firmware) {
    let console = boot(world, image, firmware, "- Local File Systems");
    for trouble in ["Dependency failed", "Failed to mount"] {
        assert!(!console.contains(trouble), "{console}");
    }
}

/// The same image as root of a default container, where nothing can be mounted.
fn without_namespaces(world: &World) {
    let built = build_in(&Host::docker(), world, &again("chroot"));
    let said = format!("{:?}", built.events);
    assert!(said.contains("as mode `chroot`"), "{said}");
    for trouble in [
        "not mounted",
        "is not a device",
        "without the package cache",
    ] {
        assert!(!said.contains(trouble), "{trouble}: {:#?}", built.lines());
    }
    assert_same_but_for_chance(world, "debian.tar", "chroot.tar");
}

/// Fails unless the qcow2 image is sound and has the bytes of the raw one.
fn assert_sound_qcow2(world: &World, name: &str) {
    run(world, "qemu-img", &format!("check -f qcow2 {name}.qcow2")).success();
    let compare = format!("compare -f raw -F qcow2 {name}.raw {name}.qcow2");
    run(world, "qemu-img", &compare).success();
}

/// What others say of `debian.raw` and `debian.qcow2`.
fn assert_on_mbr(world: &World) {
    assert_sound_qcow2(world, "debian");
    run(world, "sfdisk", "--verify debian.raw").success();
    let (label, parts) = partitions(world, "debian.raw");
    assert_eq!((label.as_str(), parts.len()), ("dos", 1));
    assert!(parts[0].bootable);
    let raw = world.work().join("debian.raw");
    extract(world, &raw, &parts[0], "debian.ext4");
    assert_debian(world, "debian.ext4");
    for name in ["debian.raw", "debian.ext4"] {
        fs::remove_file(world.work().join(name)).expect("it can be removed");
    }
}

/// The same of `efi.raw` and `efi.qcow2`, with three partitions.
fn assert_on_gpt(world: &World) {
    assert_sound_qcow2(world, "efi");
    let verified = run(world, "sgdisk", "--verify efi.raw");
    assert!(
        verified.stdout.contains("No problems found"),
        "{}",
        verified.stdout
    );
    let (label, parts) = partitions(world, "efi.raw");
    assert_eq!((label.as_str(), parts.len()), ("gpt", 3));
    let raw = world.work().join("efi.raw");
    extract(world, &raw, &parts[0], "esp.fat");
    run(world, "fsck.fat", "-n esp.fat").success();
    extract(world, &raw, &parts[2], "efi.ext4");
    assert_debian(world, "efi.ext4");
    for name in ["efi.raw", "efi.ext4", "esp.fat"] {
        fs::remove_file(world.work().join(name)).expect("it can be removed");
    }
}

/// EFI on an MBR.
const EFI_ON_MBR: &str = "
- local_loop: {name: image0}
- partitioning:
    base: image0
    label: mbr
    partitions:
      - {name: ESP, type: '0xEF', flags: [primary], size: 64MiB, mkfs: {type: vfat, mount: {mount_point: /boot/efi, fstab: {fsck-passno: 2}}}}
      - {name: root, flags: [boot, primary], size: 100%, mkfs: {type: ext4, mount: {mount_point: /, fstab: {fsck-passno: 1}}}}
";

/// The whole root, kernel and all, on a logical volume of two partitions: what a
/// BIOS starts has to read it.
const ROOT_ON_LVM: &str = "
- local_loop: {name: image0}
- partitioning:
    base: image0
    label: gpt
    partitions:
      - {name: BSP, type: EF02, size: 1MiB}
      - {name: one, size: 900MiB}
      - {name: two, size: 100%}
- lvm:
    name: lvm
    pvs: [{name: pv1, base: one}, {name: pv2, base: two}]
    vgs: [{name: vg-0, base: [pv1, pv2]}]
    lvs: [{name: lv_root, base: vg-0, extents: 95%VG}]
- mkfs: {name: fs_root, base: lv_root, type: ext4, label: cloudimg-rootfs, mount: {mount_point: /, fstab: {fsck-passno: 1}}}
";

/// Sectors of 4096 bytes, /boot apart, and / and /var on logical volumes of two
/// partitions.
const VOLUMES: &str = "
- local_loop: {name: image0, block_size: 4096}
- partitioning:
    base: image0
    label: gpt
    partitions:
      - {name: ESP, type: EF00, size: 300MiB, mkfs: {type: vfat, mount: {mount_point: /boot/efi, fstab: {fsck-passno: 2}}}}
      - {name: boot, type: dps, size: 300MiB, mkfs: {type: ext4, mount: {mount_point: /boot, fstab: {fsck-passno: 2}}}}
      - {name: one, size: 1GiB}
      - {name: two, size: 1GiB}
- lvm:
    name: lvm
    pvs: [{name: pv1, base: one}, {name: pv2, base: two}]
    vgs: [{name: vg, base: [pv1, pv2]}]
    lvs: [{name: lv_root, base: vg, extents: 60%VG}, {name: lv_var, base: vg, extents: 30%VG}]
- mkfs: {name: fs_root, base: lv_root, type: ext4, label: img-rootfs, mount: {mount_point: /, fstab: {fsck-passno: 1}}}
- mkfs: {name: fs_var, base: lv_var, type: ext4, mount: {mount_point: /var, fstab: {fsck-passno: 2}}}
";

/// An MBR with /boot apart, and /var in a logical partition.
const BOOT_APART: &str = "
- local_loop: {name: image0}
- partitioning:
    base: image0
    label: mbr
    partitions:
      - {name: boot, flags: [boot, primary], size: 300MiB, mkfs: {type: ext4, mount: {mount_point: /boot, fstab: {fsck-passno: 2}}}}
      - {name: root, flags: [primary], size: 70%, mkfs: {type: ext4, label: img-rootfs, mount: {mount_point: /, fstab: {fsck-passno: 1}}}}
      - {name: var, size: 100%, mkfs: {type: ext4, mount: {mount_point: /var, fstab: {fsck-passno: 2}}}}
";

/// The layouts that the other images do not have: two as root, the others as a normal
/// user. Each pair is one tree in two layouts.
fn other_layouts_boot(world: &World) {
    let pack = |tree: &str, name: &str, layout: &str| {
        world.write(&format!("{name}.yaml"), layout);
        world
            .kiln()
            .words(&format!(
                "pack {tree} --layout ./{name}.yaml --fstab -o {name} -t qcow2"
            ))
            .success();
    };
    if nix::unistd::geteuid().is_root() {
        let layout = world.write("volumes.yaml", VOLUMES);
        let mut with = world.kiln();
        with.env(
            "DIB_BLOCK_DEVICE_CONFIG",
            format!("file://{}", layout.display()),
        );
        with.args(["build", "block-device-efi-4k", "vm", "debian-minimal"]);
        with.args(["-p", "lvm2", "-o", "volumes", "-t", "qcow2,tar", "--json"]);
        let built = Built::run(with.arg("--image-cache").arg(common::cache())).success();
        let told = built.events.iter().any(|event| match event {
            kiln::build::event::Event::Warning { text } => {
                text.contains("starts by EFI and not by a BIOS")
            }
            _ => false,
        });
        assert!(told, "{:?}", built.events);
        pack("volumes.tar", "boot-apart", BOOT_APART);
        std::thread::scope(|scope| {
            scope.spawn(|| mounts_all(world, "boot-apart.qcow2", Firmware::Bios));
            let console = boot_from(world, "volumes.qcow2", Firmware::Uefi, 4096, "login:");
            assert!(console.contains("Linux version"), "{console}");
        });
        return;
    }
    pack("efi.tar", "efi-on-mbr", EFI_ON_MBR);
    pack("efi.tar", "root-on-lvm", ROOT_ON_LVM);
    std::thread::scope(|scope| {
        scope.spawn(|| mounts_all(world, "efi-on-mbr.qcow2", Firmware::Uefi));
        mounts_all(world, "root-on-lvm.qcow2", Firmware::Bios);
    });
}

/// A package with programs that are not root's alone.
const MORE: &str = "-p openssh-server";

/// Files whose content is made by chance, or has times in it: iSCSI's name of this
/// machine and its ssh keys, an archive of files, what ldconfig knows of inodes, and
/// what the build says of itself.
const BY_CHANCE: [&str; 5] = [
    "./boot/initrd.img-",
    "./etc/dib-manifests/",
    "./etc/iscsi/initiatorname.iscsi",
    "./etc/ssh/ssh_host_",
    "./var/cache/ldconfig/aux-cache",
];
/// A file that has the name of the output.
const BY_NAME: &str = "./etc/dib-manifests/dib-manifest-dpkg-";

/// Fails unless two builds in different modes left the same tree, times aside.
#[track_caller]
fn assert_same_but_for_chance(world: &World, one: &str, other: &str) {
    let [one, other] = [one, other].map(|name| listing_of(&world.work().join(name)));
    let (one, other) = (without_chance(one), without_chance(other));
    assert!(one.len() > 5000, "only {} files", one.len());
    let shadow = &one["./etc/shadow"];
    assert!(shadow.starts_with("Regular 640 0:42 "), "{shadow}");
    assert!(one["./usr/bin/ssh-agent"].starts_with("Regular 2755 0:"));
    let different = differences(&one, &other);
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// Takes size and content away from files that are made by chance; all else counts.
fn without_chance(mut listing: Listing) -> Listing {
    listing.retain(|name, _| !name.starts_with(BY_NAME));
    for (name, facts) in &mut listing {
        if BY_CHANCE.iter().any(|chance| name.starts_with(chance)) {
            *facts = facts.split(" size ").next().unwrap_or_default().to_owned();
        }
    }
    listing
}

#[test]
fn offline_with_an_empty_cache_names_what_is_missing() {
    let world = world();
    let mut command = world.kiln();
    command.args([
        "build",
        "vm",
        "debian-minimal",
        "-o",
        "debian",
        "--offline",
        "--json",
    ]);
    let built = Built::run(&mut command);
    let (message, hints, status) = built.failure();
    assert_eq!(status, 1, "{message}");
    let said = format!("{message}\n{}", built.lines().join("\n"));
    assert!(said.contains("InRelease"), "{said}");
    assert!(said.to_lowercase().contains("offline"), "{said}");
    let told = hints.iter().any(|hint| hint.contains("offline")) || said.contains("--offline");
    assert!(told, "{hints:?}\n{said}");
    assert_eq!(common::toy::names(&world.work()), Vec::<String>::new());
    assert_eq!(common::toy::names(&world.tmp()), Vec::<String>::new());
}
