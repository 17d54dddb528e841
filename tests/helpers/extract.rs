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
            "its root filesystem cannot be read: the disk is xfs",
        ),
        (
            "lvm",
            &lvm,
            "its root filesystem cannot be read: the disk is LVM2_member",
        ),
        (
            "btrfs",
            &btrfs,
            "its root filesystem cannot be read: the disk is btrfs",
        ),
        ("squashfs", &squashfs, "hint: unpack it by `unsquashfs`"),
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
