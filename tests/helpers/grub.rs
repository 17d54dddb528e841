//! GRUB's programs, which only prepare what the disk's assembler does.

use super::*;

/// The layout of `block-device-efi`, with the directory `boot` as its /boot.
fn layout(bench: &Bench) -> PathBuf {
    let root = bench.dir.path().canonicalize().unwrap();
    let text = serde_json::json!({
        "sector_size": 512, "disks": [{"device": "/dev/loop0", "partition_table": "gpt"}],
        "filesystems": [
            {"name": "mkfs_ESP", "device": "/dev/mapper/loop0p1", "mount_point": root.join("boot/efi"), "fstype": "vfat",
             "label": "MKFS_ESP", "uuid": "ABCD-1234", "disk": 0, "partition": 1, "partuuid": "p1"},
            {"name": "mkfs_root", "device": "/dev/mapper/loop0p3", "mount_point": "/", "fstype": "ext4",
             "label": "cloudimg-rootfs", "uuid": "00000000-0000-4000-8000-000000000003", "disk": 0, "partition": 3, "partuuid": "p3"},
        ],
    });
    bench.file("layout.json", &text.to_string())
}

#[test]
fn grub_probe_answers_what_grub_mkconfig_asks() {
    let bench = Bench::new();
    let layout = layout(&bench);
    let probe = |line: &str| {
        run(bench
            .helper("grub-probe")
            .env("KILN_LAYOUT", &layout)
            .args(words(line)))
    };
    for (line, expected) in [
        ("--target=device /", "/dev/mapper/loop0p3\n"),
        (
            "--device /dev/mapper/loop0p3 --target=fs_uuid",
            "00000000-0000-4000-8000-000000000003\n",
        ),
        ("--device /dev/mapper/loop0p1 --target=fs", "fat\n"),
        ("-t abstraction /", ""),
        (
            "--device /dev/mapper/loop0p3 --target=compatibility_hint",
            "hd0,gpt3\n",
        ),
        ("-0 -t drive /", "(hd0,gpt3)\0"),
    ] {
        let output = probe(line);
        assert_eq!(
            (stdout(&output).as_str(), output.status.code()),
            (expected, Some(0)),
            "{line}: {}",
            stderr(&output)
        );
    }
    let output = probe("--device /dev/sda --target=fs");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output)
            .contains("`/dev/sda` is not a device of the image\nhint: it has /dev/loop0 "),
        "{}",
        stderr(&output)
    );
    let output = run(bench.helper("grub-probe").arg("/"));
    assert!(
        stderr(&output).contains("KILN_LAYOUT is not set"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn grub_install_prepares_core_images_and_records_them() {
    let bench = Bench::new();
    let layout = layout(&bench);
    for name in [
        "moddep.lst",
        "ext2.mod",
        "boot.img",
        "config.h",
        "modinfo.sh",
    ] {
        bench.file(&format!("lib/{name}"), name);
    }
    bench.script(
        "stub/grub-mkimage",
        "#!/bin/sh\n[ \"$1\" = --version ] && echo 'grub-mkimage (GRUB) 2.06-13' && exit\n\
         while [ $# -gt 0 ]; do case $1 in -o) out=$2; shift;; -c) config=$2; shift;; -O|-p|-d) line=\"$line $1 $2\"; shift;; *) line=\"$line $1\";; esac; shift; done\n\
         { echo \"$line\"; cat \"$config\"; } >\"$out\"\n",
    );
    let install = |line: &str| {
        let mut command = bench.helper("grub-install");
        command
            .env("KILN_LAYOUT", &layout)
            .arg("--boot-directory")
            .arg(bench.path("boot"));
        run(command.arg("-d").arg(bench.path("lib")).args(words(line)))
    };
    let output = install("--modules=lvm --target=i386-pc --force /dev/loop0");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let grub = bench.dir.path().canonicalize().unwrap().join("boot/grub");
    let lib = bench.path("lib");
    let expected = format!(
        " -O i386-pc -p {0} -d {1} lvm biosdisk ext2 part_gpt search_fs_uuid\n\
         search.fs_uuid 00000000-0000-4000-8000-000000000003 root hd0,gpt3\nset prefix=($root)'{0}'\n",
        grub.display(),
        lib.display()
    );
    assert_eq!(
        fs::read_to_string(grub.join("i386-pc/core.img")).unwrap(),
        expected
    );
    let mut names: Vec<String> = fs::read_dir(grub.join("i386-pc"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "boot.img",
            "core.img",
            "ext2.mod",
            "load.cfg",
            "moddep.lst",
            "modinfo.sh"
        ]
    );
    assert_eq!(fs::metadata(grub.join("grubenv")).unwrap().len(), 1024);
    let record = fs::read_to_string(bench.path("record/grub-install.jsonl")).unwrap();
    assert_eq!(
        record,
        format!(
            "{{\"target\":\"i386-pc\",\"core\":\"{0}/i386-pc/core.img\",\"boot_image\":\"{0}/i386-pc/boot.img\"}}\n",
            grub.display()
        )
    );

    let output = install("--target=x86_64-efi --removable --force --no-nvram");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let program = fs::read_to_string(bench.path("boot/efi/EFI/BOOT/BOOTX64.EFI")).unwrap();
    assert!(program.starts_with(" -O x86_64-efi "), "{program}");
    assert!(!bench.path("boot/efi/EFI/grub").exists());

    assert_eq!(
        stdout(&run(bench.helper("grub-install").arg("--version"))),
        "grub-install (GRUB) 2.06-13\n"
    );
    for (line, message) in [
        ("--target=i386-pc", "no path or device is given"),
        (
            "--target=i386-pc /dev/sda",
            "`/dev/sda` is not a device of the image",
        ),
        (
            "--target=sparc64-ieee1275 /dev/loop0",
            "platform `sparc64-ieee1275` is not supported",
        ),
        (
            "--target=x86_64-efi --efi-directory=elsewhere",
            "no FAT filesystem of the image is mounted at `",
        ),
        (
            "--target=i386-pc -d /nowhere /dev/loop0",
            "GRUB's modules for `i386-pc` are not in this root: no `/nowhere/moddep.lst`\nhint: install `grub-pc-bin` (Debian)",
        ),
    ] {
        let output = install(line);
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert!(
            stderr(&output).contains(message),
            "{line}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn the_real_grub_mkimage_makes_images_that_fit() {
    let lib = Path::new("/usr/lib/grub");
    if Command::new("grub-mkimage")
        .arg("--version")
        .output()
        .is_err()
        || !lib.join("i386-pc/boot.img").exists()
    {
        println!("SKIP: no grub-mkimage with i386-pc modules on this machine");
        return;
    }
    let bench = Bench::new();
    let layout = layout(&bench);
    for (target, file) in [
        ("i386-pc", "boot/grub/i386-pc/core.img"),
        ("x86_64-efi", "boot/efi/EFI/BOOT/BOOTX64.EFI"),
    ] {
        if !lib.join(target).is_dir() {
            println!("SKIP: no {target} modules on this machine");
            continue;
        }
        let output = run(bench
            .helper("grub-install")
            .env("KILN_LAYOUT", &layout)
            .arg("--boot-directory")
            .arg(bench.path("boot"))
            .arg(format!("--target={target}"))
            .args(["--removable", "/dev/loop0"]));
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let image = fs::read(bench.path(file)).unwrap();
        assert!(
            image.len() > 10_000 && image.len() < 2047 * 512,
            "{} bytes",
            image.len()
        );
    }
}
