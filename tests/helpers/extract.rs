//! Trees and kernels of cloud images.

use super::*;

/// `extract-image` of a file into `target/`.
fn extract_image(bench: &Bench, image: &str, variables: &[(&str, &str)]) -> Output {
    fs::create_dir_all(bench.path("target")).unwrap();
    let mut command = bench.helper("extract-image");
    command
        .env("DIB_IMAGE_CACHE", bench.path("cache"))
        .env("TARGET_ROOT", bench.path("target"))
        .envs(variables.iter().copied())
        .args(["image", "image.tgz"])
        .arg(format!("file://{}", bench.path(image).display()))
        .arg(bench.path("cache/image"));
    run(&mut command)
}

#[test]
fn extract_image_keeps_an_archive_until_the_image_is_another() {
    if Command::new("tar").arg("--version").output().is_err() {
        println!("SKIP: no tar on this machine");
        return;
    }
    let bench = Bench::new();
    let make = |text: &str| {
        bench.file("tree/etc/os-release", "ID=toy\n");
        bench.file("tree/which", text);
        let mut tar = Command::new("tar");
        tar.current_dir(bench.dir.path());
        let output = run(tar.args(["-C", "tree", "-czf", "image.tar.gz", "."]));
        assert!(output.status.success(), "{}", stderr(&output));
    };
    let extracted = || fs::read_to_string(bench.path("target/which")).unwrap();
    make("first");
    let output = extract_image(&bench, "image.tar.gz", &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(extracted(), "first");
    // Only what is kept can be meant.
    make("second");
    let offline = [("DIB_OFFLINE", "1")];
    let output = extract_image(&bench, "image.tar.gz", &offline);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(!stderr(&output).contains("reading"), "{}", stderr(&output));
    assert_eq!(extracted(), "first");
    // Another image, known by its time.
    let local = bench.path("image.tar.gz");
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    let file = fs::File::options().write(true).open(&local).unwrap();
    file.set_modified(later).unwrap();
    let local = [("DIB_LOCAL_IMAGE", local.to_str().unwrap())];
    for expected in [true, false] {
        let output = extract_image(&bench, "image.tar.gz", &local);
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(stderr(&output).contains("reading"), expected);
        assert_eq!(extracted(), "second");
    }
}

#[test]
fn extract_image_says_what_it_cannot_read() {
    let bench = Bench::new();
    let mut page = b"<html>not found</html>".to_vec();
    page.resize(4096, b'\n');
    let mut xfs = vec![0; 1 << 20];
    xfs[..4].copy_from_slice(b"XFSB");
    let mut lvm = vec![0; 1 << 20];
    lvm[512..520].copy_from_slice(b"LABELONE");
    let mut btrfs = vec![0; 1 << 20];
    btrfs[0x1_0040..0x1_0048].copy_from_slice(b"_BHRfS_M");
    let mut squashfs = vec![0; 1 << 20];
    squashfs[..4].copy_from_slice(b"hsqs");
    let cases: [(&str, &[u8], &str); 7] = [
        ("page", &page, "it is no image of a disk"),
        (
            "xfs",
            &xfs,
            "cannot read the disk: the XFS filesystem is damaged at its superblock: its version is impossible",
        ),
        (
            "lvm",
            &lvm,
            "cannot read the disk: the LVM physical volume cannot be read: its label is damaged",
        ),
        (
            "btrfs",
            &btrfs,
            "cannot read the disk: the btrfs filesystem is damaged at its superblock",
        ),
        (
            "squashfs",
            &squashfs,
            "cannot read the disk: the filesystem is squashfs 0.0, which kiln does not read",
        ),
        ("cut.xz", b"\xfd7zXZ\0\0\x04", "cannot decompress"),
        ("bz2", b"BZh91AY&SY", "is compressed by bzip2"),
    ];
    for (name, bytes, expected) in cases {
        fs::write(bench.path(name), bytes).unwrap();
        let output = extract_image(&bench, name, &[]);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{name}: {text}");
        assert!(text.contains(expected), "{name}: {text}");
        assert!(text.contains("\nhint: "), "{name}: {text}");
        assert!(!bench.path("cache/image.tgz").exists(), "{name}");
    }
    let output = run(bench.helper("extract-image").arg("one"));
    assert!(
        stderr(&output).contains("four arguments"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn extract_image_finds_a_root_on_lvm_and_what_it_mounts() {
    let bench = Bench::new();
    bench.file("tree/etc/os-release", "ID=toy\n");
    bench.file("tree/boot/vmlinuz-6.1", "kernel");
    bench.file("tree/var/log/messages", "said\n");
    bench.file("tree/srv/data", "kept\n");
    bench.file(
        "volumes.yaml",
        "- local_loop: {name: image0}\n\
         - partitioning:\n    base: image0\n    label: gpt\n    partitions:\n\
         \x20     - {name: boot, size: 20MiB, mkfs: {type: ext4, mount: {mount_point: /boot}}}\n\
         \x20     - {name: one, size: 60MiB}\n      - {name: two, size: 60MiB}\n\
         - lvm:\n    name: lvm\n    pvs: [{name: pv1, base: one}, {name: pv2, base: two}]\n\
         \x20   vgs: [{name: vg-0, base: [pv1, pv2]}]\n\
         \x20   lvs: [{name: lv_root, base: vg-0, size: 64MiB}, {name: lv-var, base: vg-0, size: 20MiB}]\n\
         - mkfs: {base: lv_root, name: root, type: ext4, mount: {mount_point: /}}\n\
         - mkfs: {base: lv-var, name: var, type: ext4, mount: {mount_point: /var}}\n",
    );
    // As an installer writes it.
    bench.file(
        "tree/etc/fstab",
        "# what is where\n/dev/mapper/vg--0-lv_root / ext4 defaults 0 1\n\
         /dev/vg-0/lv-var /var ext4 defaults 0 2\nLABEL=mkfs_boot /boot ext4 defaults 0 2\n\
         server:/export /srv nfs defaults 0 0\n",
    );
    let packed = run(Command::new(env!("CARGO_BIN_EXE_kiln"))
        .current_dir(bench.dir.path())
        .args([
            "pack",
            "tree",
            "--layout",
            "./volumes.yaml",
            "-o",
            "volumes",
        ])
        .args(["-t", "qcow2"]));
    assert!(packed.status.success(), "{}", stderr(&packed));
    let output = extract_image(&bench, "volumes.qcow2", &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    for (path, text) in [
        ("etc/os-release", "ID=toy\n"),
        ("boot/vmlinuz-6.1", "kernel"),
        ("var/log/messages", "said\n"),
        ("srv/data", "kept\n"),
    ] {
        let path = bench.path("target").join(path);
        let read = fs::read_to_string(&path);
        assert_eq!(read.expect("it was extracted"), text, "{}", path.display());
    }
}

#[test]
fn extract_image_reads_roots_in_squashfs_and_btrfs() {
    let bench = Bench::new();
    bench.file("tree/etc/os-release", "ID=toy\n");
    bench.file("tree/etc/long", &"a line of many\n".repeat(30_000));
    for (name, arguments) in [
        ("root.squashfs", &["-t", "squashfs"][..]),
        (
            "root.raw",
            &["-t", "raw", "--filesystem", "btrfs", "--size", "200MiB"],
        ),
    ] {
        let packed = run(Command::new(env!("CARGO_BIN_EXE_kiln"))
            .current_dir(bench.dir.path())
            .args(["pack", "tree", "-o", "root"])
            .args(arguments));
        assert!(packed.status.success(), "{}", stderr(&packed));
        let made = ["root.squash", "root.squashfs", "root.raw"].map(|name| bench.path(name));
        let made = made
            .iter()
            .find(|path| path.exists())
            .expect("it was packed");
        fs::rename(made, bench.path("packed")).unwrap();
        let output = extract_image(&bench, "packed", &[]);
        assert!(output.status.success(), "{name}: {}", stderr(&output));
        let read = fs::read_to_string(bench.path("target/etc/long")).unwrap();
        assert_eq!(read.len(), 15 * 30_000, "{name}");
        for path in ["target", "cache"] {
            fs::remove_dir_all(bench.path(path)).unwrap();
        }
    }
}

#[test]
fn extract_image_refuses_what_does_not_fit() {
    let bench = Bench::new();
    bench.file("tree/etc/os-release", "ID=toy\n");
    // Small in its image, and not where it goes.
    bench.file("tree/etc/long", &"a line of many\n".repeat(200_000));
    let packed = run(Command::new(env!("CARGO_BIN_EXE_kiln"))
        .current_dir(bench.dir.path())
        .args(["pack", "tree", "-o", "root", "-t", "tgz", "--owner", "0:0"]));
    assert!(packed.status.success(), "{}", stderr(&packed));
    fs::create_dir(bench.path("target")).unwrap();
    // A mount namespace of its own, in which any user may make a small filesystem.
    let within = |size: &str| {
        let inner = bench.helper("extract-image");
        let script = "mount -t tmpfs -o size=\"$1\" none \"$2\" || exit 99; shift 2; exec \"$@\"";
        let mut command = Command::new("unshare");
        command
            .args(["--map-root-user", "--mount", "sh", "-c", script, "sh", size])
            .arg(bench.path("target"))
            .arg(inner.get_program())
            .args(["image", "image.tgz"])
            .arg(format!("file://{}", bench.path("root.tgz").display()))
            .arg(bench.path("cache/image"))
            .current_dir(bench.dir.path())
            .env("DIB_IMAGE_CACHE", bench.path("cache"))
            .env("TARGET_ROOT", bench.path("target"));
        command.output()
    };
    let output = match within("2m") {
        Ok(output)
            if output.status.code() != Some(99) && !stderr(&output).starts_with("unshare:") =>
        {
            output
        }
        _ => return println!("SKIP: no filesystem in memory can be mounted here"),
    };
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let expected = [
        "2.8 MiB",
        "2 MiB",
        "hint: free some space there, or choose another place with TMP_DIR",
    ];
    for expected in expected {
        assert!(text.contains(expected), "{text}");
    }
    assert!(!bench.path("cache/image.tgz").exists());
    let output = within("4m").unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(bench.path("cache/image.tgz").exists());
}
