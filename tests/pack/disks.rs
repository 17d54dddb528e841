//! Configurations of several disks.

use super::*;

/// The root on one disk, /srv on another, /var on a group of both, /opt on a third
/// one that lies elsewhere.
const LAYOUT: &str = "
- local_loop: {name: data, size: 96MiB}
- local_loop: {name: image0, size: 128MiB}
- local_loop: {name: opt0, size: 16MiB, directory: elsewhere}
- partitioning:
    base: image0
    label: mbr
    partitions:
      - {name: root, flags: [boot, primary], size: 64MiB, mkfs: {mount: {mount_point: /, fstab: {fsck-passno: 1}}}}
      - {name: one, flags: [primary], size: 100%}
- partitioning:
    base: data
    label: gpt
    partitions:
      - {name: srv, size: 32MiB, mkfs: {type: ext4, mount: {mount_point: /srv, fstab: {}}}}
      - {name: two, size: 100%}
- lvm:
    name: lvm
    pvs: [{name: pv1, base: one}, {name: pv2, base: two}]
    vgs: [{name: vg, base: [pv1, pv2], options: [--physicalextentsize, 1m]}]
    lvs: [{name: lv_usr, base: vg, extents: 40%VG, options: [-i, '2']}, {name: lv_var, base: vg, extents: 100%FREE}]
- mkfs: {name: usr, base: lv_usr, type: ext4, mount: {mount_point: /usr, fstab: {}}}
- mkfs: {name: var, base: lv_var, type: ext4, mount: {mount_point: /var, fstab: {}}}
- mkfs: {name: opt, base: opt0, type: ext4, mount: {mount_point: /opt, fstab: {}}}
";

fn digest(bytes: &[u8]) -> Vec<u8> {
    use sha2::{Digest as _, Sha256};
    Sha256::digest(bytes).to_vec()
}

/// A file that has many stripes.
fn long_text() -> String {
    (0..40_000)
        .map(|number| format!("line {number}\n"))
        .collect()
}

/// A tree with something for each of the filesystems.
fn divided(world: &World) {
    for name in [
        "etc/hostname",
        "srv/page",
        "var/log/first",
        "opt/tool",
        "usr/share/text",
    ] {
        world.write(&format!("tree/{name}"), &format!("content of {name}\n"));
    }
    world.write("tree/usr/share/text", &long_text());
}

#[test]
fn further_disks_are_further_images_in_every_format() {
    let tools = [
        "e2fsck",
        "debugfs",
        "sfdisk",
        "qemu-img",
        "sha256sum",
        "grub-fstest",
    ];
    if let Some(name) = missing(&tools) {
        skip!("{name} is not installed");
    }
    let world = World::new();
    divided(&world);
    world.write("disks.yaml", LAYOUT);
    fs::create_dir(world.work().join("elsewhere")).expect("made");
    let pack = "pack tree --layout ./disks.yaml --fstab --owner 0:0 --checksum --overwrite";
    world
        .kiln()
        .words(&format!("{pack} -t raw,qcow2,vmdk,vhd,tar -o two"))
        .success();
    for name in ["two", "two-data"] {
        for (format, known) in [("qcow2", "qcow2"), ("vmdk", "vmdk"), ("vhd", "vpc")] {
            let line = format!("compare -f raw -F {known} {name}.raw {name}.{format}");
            run(&world, "qemu-img", &line).success();
        }
    }
    let mut files: Vec<String> = ["two", "two-data"]
        .iter()
        .flat_map(|name| ["raw", "qcow2", "vmdk", "vhd"].map(|format| format!("{name}.{format}")))
        .collect();
    files.extend(["two.tar".to_owned(), "elsewhere/opt0.raw".to_owned()]);
    for file in &files {
        run(&world, "sha256sum", &format!("-c {file}.sha256")).success();
    }
    let made = |directory: &str| {
        let entries = fs::read_dir(world.work().join(directory)).expect("there");
        entries
            .filter(|entry| !entry.as_ref().expect("read").path().is_dir())
            .count()
    };
    assert_eq!(made("."), 9 * 3 + 1, "nothing else, but for the layout");
    assert_eq!(made("elsewhere"), 3);

    for (image, label, at, mount, file) in [
        ("two.raw", "dos", 0, "root", "/etc/hostname"),
        ("two-data.raw", "gpt", 0, "srv", "/page"),
    ] {
        let (found, parts) = partitions(&world, image);
        assert_eq!((found.as_str(), parts.len()), (label, 2));
        let part = format!("{mount}.ext4");
        extract(&world, &world.work().join(image), &parts[at], &part);
        assert_clean(&world, &part);
        let content = debugfs(&world, &part, &format!("cat {file}"));
        assert!(content.starts_with("content of"), "{content}");
    }
    assert_clean(&world, "elsewhere/opt0.raw");
    assert_eq!(
        debugfs(&world, "root.ext4", "cat /etc/fstab"),
        "LABEL=cloudimg-rootfs / ext4 defaults 0 1\nLABEL=opt /opt ext4 defaults 0 2\n\
         LABEL=mkfs_srv /srv ext4 defaults 0 2\nLABEL=usr /usr ext4 defaults 0 2\nLABEL=var /var ext4 defaults 0 2\n"
    );
    // GRUB puts the group together from both disks, and only from both.
    let read = |line: &str| run(&world, "grub-fstest", line);
    let both = read("-c 2 two.raw two-data.raw cat (lvm/vg-lv_var)/log/first");
    assert_eq!(both.success(), "content of var/log/first\n");
    let striped = read("-c 2 two.raw two-data.raw cat (lvm/vg-lv_usr)/share/text");
    assert!(striped.success() == long_text());
    assert_ne!(read("two.raw cat (lvm/vg-lv_var)/log/first").code(), 0);

    // The same at any number of threads.
    let ends = [".qcow2", ".vmdk", "-data.qcow2", "-data.vmdk"];
    let read = |end: &str| fs::read(world.work().join(format!("two{end}"))).expect("there");
    let first = ends.map(read);
    for jobs in [1, 16] {
        world
            .kiln()
            .words(&format!("{pack} -t qcow2,vmdk -o two --jobs {jobs}"))
            .success();
        for (end, first) in ends.iter().zip(&first) {
            assert!(read(end) == *first, "two{end} with {jobs} threads");
        }
    }
}

#[test]
fn every_format_is_the_same_at_any_number_of_threads() {
    let world = World::new();
    tree(&world);
    world.write("tree/var/long", &long_text().repeat(8));
    let formats = kiln::sink::NAMES.join(",");
    let bytes = |jobs: &str| {
        world
            .kiln()
            .words(&format!(
                "pack tree -t {formats} --layout gpt -o same --owner 0:0 --overwrite --jobs {jobs}"
            ))
            .success();
        kiln::sink::NAMES.map(|name| {
            let bytes = fs::read(world.work().join(format!("same.{name}"))).expect("there");
            (name, bytes.len(), digest(&bytes))
        })
    };
    let first = bytes("1");
    assert_eq!(bytes("16"), first);
}

#[test]
fn one_disk_that_cannot_be_written_leaves_none_of_them() {
    let world = World::new();
    divided(&world);
    world.write("disks.yaml", LAYOUT);
    let outcome = world
        .kiln()
        .words("pack tree --layout ./disks.yaml -t raw -o two");
    assert_eq!(outcome.code(), 1);
    assert!(
        outcome
            .stderr
            .contains("cannot open the directory `elsewhere` of output `elsewhere/opt0.raw`"),
        "{}",
        outcome.stderr
    );
    world.write(
        "disks.yaml",
        &LAYOUT
            .replace(", directory: elsewhere", "")
            .replace("16MiB", "8KiB"),
    );
    let outcome = world
        .kiln()
        .words("pack tree --layout ./disks.yaml -t raw -o two");
    assert_eq!(outcome.code(), 1);
    assert!(
        outcome.stderr.contains("filesystem `opt`"),
        "{}",
        outcome.stderr
    );
    let made = fs::read_dir(world.work()).expect("there").count();
    assert_eq!(made, 2, "the tree and the layout");
}

#[test]
fn a_disk_without_a_size_grows_for_what_follows_a_share_of_it() {
    if let Some(name) = missing(&["sfdisk", "e2fsck"]) {
        skip!("{name} is not installed");
    }
    let world = World::new();
    divided(&world);
    let layout = |label: &str, share: &str, rest: &str| {
        let flags = if label == "mbr" {
            "flags: [primary], "
        } else {
            ""
        };
        world.write(
            "shares.yaml",
            &format!(
                "
- local_loop: {{name: image0}}
- partitioning:
    base: image0
    label: {label}
    partitions:
      - {{name: srv, {flags}size: {share}, mkfs: {{type: ext4, mount: {{mount_point: /srv, fstab: {{}}}}}}}}
      - {{name: swap, {flags}size: 700MiB, mkfs: {{type: swap}}}}
      - {{name: root, {flags}size: 100%, {rest}
"
            ),
        );
        world
            .kiln()
            .words("pack tree --layout ./shares.yaml -t raw -o shares --owner 0:0 --overwrite")
    };
    let root = "mkfs: {mount: {mount_point: /, fstab: {}}}}";
    for label in ["gpt", "mbr"] {
        for share in ["10%", "50%", "90%"] {
            layout(label, share, root).success();
            let (_, parts) = partitions(&world, "shares.raw");
            assert_eq!(parts[1].length, 700 << 20, "{label} {share}");
            for at in [0, 2] {
                extract(&world, &world.work().join("shares.raw"), &parts[at], "part");
                assert_clean(&world, "part");
            }
        }
        // What follows all of the rest cannot be had with any size.
        let outcome = layout(label, "100%", root);
        assert_eq!(outcome.code(), 1);
        assert!(
            outcome.stderr.contains("partition `swap`"),
            "{}",
            outcome.stderr
        );
    }
    // A logical volume of a fixed size, on what is left.
    let group = "}
- lvm:
    name: lvm
    pvs: [{name: pv, base: root}]
    vgs: [{name: vg, base: [pv]}]
    lvs: [{name: lv, base: vg, size: 900MiB}]
- mkfs: {name: top, base: lv, type: ext4, mount: {mount_point: /, fstab: {}}}";
    layout("gpt", "30%", group).success();
}

#[test]
fn what_has_a_size_of_its_own_is_not_made_larger_by_that_of_the_image() {
    let world = World::new();
    let noise: Vec<u8> = (0..20_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    world.write("tree/srv/small", "x");
    fs::write(world.work().join("tree/srv/large"), noise).expect("written");
    let partition = "- local_loop: {name: image0}
- partitioning:
    base: image0
    label: gpt
    partitions:
      - {name: root, type: '8300', size: 100MiB, mkfs: {type: ext4, mount: {mount_point: /}}}
      - {name: srv, type: '8300', size: 10MiB, mkfs: {type: ext4, mount: {mount_point: /srv}}}
";
    let volume = "- local_loop: {name: image0}
- partitioning:
    base: image0
    label: gpt
    partitions: [{name: pv, type: 8E00, size: 100%}]
- lvm:
    name: lvm
    pvs: [{name: p, base: pv}]
    vgs: [{name: vg, base: [p]}]
    lvs:
      - {name: root, base: vg, size: 60MiB}
      - {name: srv, base: vg, size: 12MiB}
- mkfs: {name: a, base: root, type: ext4, mount: {mount_point: /}}
- mkfs: {name: b, base: srv, type: xfs, mount: {mount_point: /srv}}
";
    for (layout, size) in [(partition, "1GiB"), (volume, "1GiB")] {
        world.write("layout.yaml", layout);
        let line = format!("pack tree --layout ./layout.yaml -t raw -o out --size {size}");
        let outcome = world.kiln().words(&line);
        assert_eq!(outcome.code(), 1, "{}", outcome.stderr);
        assert!(
            outcome.stderr.contains("error: cannot make the "),
            "{}",
            outcome.stderr
        );
        let hint = "\nhint: the `size` of `srv` in the layout makes it larger";
        assert!(outcome.stderr.contains(hint), "{}", outcome.stderr);
        assert!(!outcome.stderr.contains("--size"), "{}", outcome.stderr);
    }
    assert!(!world.work().join("out.raw").exists());
}
