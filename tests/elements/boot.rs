//! The elements of the groups `boot` and `block-device`.

use serde_json::Value;

use crate::library::element;
use crate::scratch::{Scratch, error_text};

/// The partitions of a layout, each as `name type size mount`.
fn partitions(name: &str, file: &str) -> (String, Vec<String>) {
    let nodes: Vec<Value> = serde_saphyr::from_str(&element(name).read(file)).unwrap();
    assert_eq!(nodes[0]["local_loop"]["name"], "image0");
    let table = &nodes[1]["partitioning"];
    assert_eq!(table["base"], "image0");
    let partitions = table["partitions"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    (
        text(&table["label"]),
        partitions
            .iter()
            .map(|partition| {
                [
                    text(&partition["name"]),
                    text(&partition["type"]),
                    text(&partition["size"]),
                    text(&partition["mkfs"]["type"]),
                    text(&partition["mkfs"]["mount"]["mount_point"]),
                ]
                .join(" ")
            })
            .collect(),
    )
}

/// A layout refuses the architectures that it cannot boot and names itself for the others.
fn gate(name: &str, layout: &str, refused: &[&str]) {
    assert_eq!(element(name).names_in("element-provides"), ["block-device"]);
    let script = element(name)
        .path
        .join("environment.d/15-block-device.bash");
    for arch in [
        "amd64", "arm64", "aarch64", "ppc64", "ppc64le", "ppc64el", "",
    ] {
        let output = std::process::Command::new("bash")
            .args(["-eu", "-c", ". \"$1\"; echo \"$DIB_BLOCK_DEVICE\"", "bash"])
            .arg(&script)
            .env("ARCH", arch)
            .env_remove("DIB_BLOCK_DEVICE")
            .output()
            .unwrap();
        assert_eq!(
            output.status.success(),
            !refused.contains(&arch),
            "{name} on {arch}"
        );
        if output.status.success() {
            assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), layout);
        } else {
            assert!(
                error_text(&output).contains("use block-device-"),
                "{}",
                error_text(&output)
            );
        }
    }
}

#[test]
pub fn mbr_layout_has_one_active_partition() {
    gate("block-device-mbr", "mbr", &["arm64", "aarch64"]);
    let (label, list) = partitions("block-device-mbr", "block-device-default.yaml");
    assert_eq!(
        (label.as_str(), list),
        ("mbr", vec!["root - 100% - /".to_owned()])
    );
    let (_, list) = partitions("block-device-mbr", "block-device-ppc64el.yaml");
    assert_eq!(list, ["boot 0x41 8MiB - -", "root - 100% - /"]);
}

#[test]
pub fn gpt_layout_has_a_bios_boot_partition_and_a_root() {
    gate("block-device-gpt", "gpt", &["arm64", "aarch64"]);
    let (label, list) = partitions("block-device-gpt", "block-device-default.yaml");
    assert_eq!(label, "gpt");
    assert_eq!(list, ["BSP EF02 8MiB - -", "root 8300 100% ext4 /"]);
    let (_, list) = partitions("block-device-gpt", "block-device-ppc64el.yaml");
    assert_eq!(list, ["boot 4100 8MiB - -", "root 8300 100% ext4 /"]);
}

#[test]
pub fn efi_layout_has_an_esp_a_bios_boot_partition_and_a_root() {
    gate("block-device-efi", "efi", &["ppc64", "ppc64le", "ppc64el"]);
    let (label, list) = partitions("block-device-efi", "block-device-default.yaml");
    assert_eq!(label, "gpt");
    assert_eq!(
        list,
        [
            "ESP EF00 550MiB vfat /boot/efi",
            "BSP EF02 8MiB - -",
            "root 8300 100% ext4 /"
        ]
    );
}

/// The block-device configuration of an element.
fn configuration(name: &str) -> kiln::disk::config::Config {
    let path = element(name).path.join("block-device-default.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    kiln::disk::config::Config::parse(&text, &Default::default()).unwrap()
}

#[test]
pub fn efi_4k_layout_has_sectors_of_4096_bytes() {
    gate(
        "block-device-efi-4k",
        "efi",
        &["ppc64", "ppc64le", "ppc64el"],
    );
    let (label, list) = partitions("block-device-efi-4k", "block-device-default.yaml");
    assert_eq!(label, "gpt");
    assert_eq!(
        list,
        [
            "ESP EF00 500MiB vfat /boot/efi",
            "BSP EF02 8MiB - -",
            "root 8300 100% ext4 /"
        ]
    );
    let config = configuration("block-device-efi-4k");
    assert_eq!(config.loops[0].block_size, Some(4096));
}

#[test]
pub fn efi_lvm_layout_has_three_logical_volumes() {
    gate(
        "block-device-efi-lvm",
        "efi",
        &["ppc64", "ppc64le", "ppc64el"],
    );
    let (label, list) = partitions("block-device-efi-lvm", "block-device-default.yaml");
    assert_eq!(label, "gpt");
    assert_eq!(
        list,
        [
            "ESP EF00 550MiB vfat /boot/efi",
            "BSP EF02 8MiB - -",
            "root - 40G - -"
        ]
    );
    let config = configuration("block-device-efi-lvm");
    assert_eq!(
        config.fstab(),
        "LABEL=img-rootfs / xfs rw,relatime 0 1\n\
         LABEL=MKFS_ESP /boot/efi vfat defaults 0 2\n\
         LABEL=fs_home /home xfs rw,nodev,relatime 0 2\n\
         LABEL=fs_var /var xfs rw,relatime 0 2\n"
    );
    let volumes: Vec<_> = config.lvms[0]
        .lvs
        .iter()
        .map(|lv| format!("{}/{} {:?}", lv.base, lv.name, lv.size))
        .collect();
    assert_eq!(
        volumes,
        [
            "vg/lv_root Extents(\"23%VG\")",
            "vg/lv_var Extents(\"57%VG\")",
            "vg/lv_home Extents(\"20%VG\")"
        ]
    );
}

#[test]
fn initramfs_tools_is_not_told_of_a_boot_filesystem() {
    let Some(mut scratch) = grub_root() else {
        return;
    };
    scratch.set("DIB_BLOCK_DEVICE", "mbr");
    scratch.set("DIB_BOOT_LABEL", "boot-fs");
    scratch.write("usr/share/initramfs-tools/init", "");
    scratch.run(HOOK);
    let defaults = scratch.read("etc/default/grub");
    assert!(!defaults.contains("boot=LABEL"), "{defaults}");
}

#[test]
pub fn vm_needs_a_layout_and_a_bootloader() {
    assert_eq!(
        element("vm").names_in("element-deps"),
        ["block-device", "bootloader"]
    );
}

#[test]
pub fn serial_console_is_configured_for_each_init_system() {
    let Some(mut scratch) = Scratch::new(&["enable-serial-console"]) else {
        return;
    };
    let hook = "install.d/20-stty";
    scratch.run(hook);
    assert!(
        scratch
            .read("etc/udev/rules.d/99-serial-console.rules")
            .contains("serial-getty@%k.service")
    );
    scratch.set("DIB_INIT_SYSTEM", "openrc");
    scratch.write("etc/inittab", "");
    for (arch, port, expected) in [
        ("amd64", "", "ttyS0"),
        ("arm64", "", "ttyAMA0"),
        ("ppc64el", "", "hvc0"),
        ("amd64", "ttyS1,9600", "ttyS1"),
    ] {
        scratch.set("ARCH", arch);
        scratch.set("DIB_BOOTLOADER_SERIAL_CONSOLE", port);
        scratch.write("etc/inittab", "");
        scratch.run(hook);
        assert_eq!(
            scratch.read("etc/inittab"),
            format!("s0:12345:respawn:/sbin/agetty -L 115200 {expected} vt100\n")
        );
    }
    scratch.set("DIB_INIT_SYSTEM", "sysv");
    assert!(!scratch.inside(hook).status.success());
}

/// A root with a GRUB that notes how it is called.
fn grub_root() -> Option<Scratch> {
    let scratch = Scratch::new(&["bootloader"])?;
    scratch.stub(&[
        "install-packages",
        "grub-install",
        "grub-probe",
        "grub-mkrelpath",
    ]);
    // Like the real script: the prober is fixed by its path, options are announced.
    scratch.script(
        "grub-mkconfig",
        "sbindir=/usr/sbin\n\
         grub_probe=\"${sbindir}/grub-probe\"\n\
         if [ \"$1\" = --help ]; then echo usage; exit 0; fi\n\
         $grub_probe --target=device /\n\
         . /etc/default/grub\n\
         echo \"grub-mkconfig $* os-prober=${GRUB_DISABLE_OS_PROBER-} relpath=${grub_mkrelpath##*/}\" >>\"$STUB_LOG\"\n\
         printf '  linux16 /boot/vmlinuz root=%s %s\\n' \"$GRUB_DEVICE\" \"$GRUB_CMDLINE_LINUX_DEFAULT\" >\"$2\"",
    );
    scratch.script("debconf-set-selections", "cat >>/preseed");
    scratch.write(
        "etc/default/grub",
        "GRUB_TIMEOUT=10\nGRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\n\
         GRUB_CMDLINE_LINUX=\"net.ifnames=0 console=tty1 console=ttyS9,9600n8 boot=/dev/sda1\"\n",
    );
    Some(
        scratch
            .with("DIB_ROOT_LABEL", "cloudimg-rootfs")
            .with("IMAGE_BLOCK_DEVICE", "/dev/image0")
            .with(
                "IMAGE_BLOCK_DEVICES",
                " [image0]=/dev/image0  [boot]=/dev/image0p1  [root]=/dev/image0p2 ",
            )
            .with("EFI_BOOT_DIR", "EFI/debian"),
    )
}

const PACKAGES: &str = "post-install.d/90-bootloader-packages";
const HOOK: &str = "finalise.d/50-bootloader";

#[test]
pub fn bootloader_configures_and_installs_grub_for_each_layout() {
    let modules = "--modules=part_msdos part_gpt lvm";
    for (arch, layout, packages, expected) in [
        (
            "amd64",
            "mbr",
            "grub-pc",
            vec![format!(
                "{modules} biosdisk --target=i386-pc --force /dev/image0"
            )],
        ),
        (
            "x86_64",
            "gpt",
            "grub-pc",
            vec![format!(
                "{modules} biosdisk --target=i386-pc --force /dev/image0"
            )],
        ),
        (
            "amd64",
            "efi",
            "grub-efi grub-efi-amd64",
            vec![
                format!("{modules} --target=i386-pc /dev/image0"),
                format!("{modules} --removable --force --target=x86_64-efi /dev/image0"),
            ],
        ),
        (
            "aarch64",
            "efi",
            "grub-efi grub-efi-arm64",
            vec![format!("{modules} --removable --force /dev/image0")],
        ),
        (
            "ppc64le",
            "gpt",
            "grub-ppc64",
            vec!["--modules=part_msdos --force --no-nvram /dev/image0p1".to_owned()],
        ),
        ("amd64", "", "grub-pc", vec![]),
    ] {
        let Some(mut scratch) = grub_root() else {
            return;
        };
        scratch.set("ARCH", arch);
        scratch.set("DIB_BLOCK_DEVICE", layout);
        scratch.run(PACKAGES);
        scratch.run(HOOK);
        let mut calls = scratch.calls();
        assert_eq!(
            calls.remove(0),
            format!("install-packages -m bootloader {packages}")
        );
        assert_eq!(
            calls.remove(0),
            "grub-probe --target=device /",
            "kiln's answers, not the package's"
        );
        assert_eq!(
            calls.remove(0),
            "grub-mkconfig -o /boot/grub/grub.cfg os-prober=true relpath=grub-mkrelpath"
        );
        let expected: Vec<String> = expected
            .iter()
            .map(|arguments| format!("grub-install {arguments}"))
            .collect();
        assert_eq!(calls, expected, "{arch} {layout}");
        assert!(!scratch.read("etc/default/grub").contains("OS_PROBER"));
        assert!(
            scratch
                .read("preseed")
                .contains("install_devices_empty boolean true")
        );
        let config = scratch.read("boot/grub/grub.cfg");
        assert_eq!(
            config.contains("  linuxefi /boot/vmlinuz"),
            layout == "efi",
            "{config}"
        );
        assert!(
            scratch
                .list("tmp")
                .iter()
                .all(|path| path.starts_with("in_target.d/"))
        );
    }
}

#[test]
fn defaults_file_has_consoles_labels_and_the_command_line() {
    let Some(mut scratch) = grub_root() else {
        return;
    };
    scratch.set("DIB_BLOCK_DEVICE", "mbr");
    scratch.run(HOOK);
    assert_eq!(
        scratch.read("etc/default/grub"),
        "GRUB_TIMEOUT=5\n\
         GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\n\
         GRUB_CMDLINE_LINUX=\"net.ifnames=0\"\n\
         GRUB_DEVICE=LABEL=cloudimg-rootfs\n\
         GRUB_DISABLE_LINUX_UUID=true\n\
         GRUB_TIMEOUT_STYLE=menu\n\
         GRUB_TERMINAL=\"serial console\"\n\
         GRUB_GFXPAYLOAD_LINUX=auto\n\
         GRUB_CMDLINE_LINUX_DEFAULT=\"console=tty0 console=ttyS0,115200 no_timer_check nofb nomodeset gfxpayload=text\"\n\
         GRUB_SERIAL_COMMAND=\"serial --speed=115200 --unit=0 --word=8 --parity=no --stop=1\"\n"
    );
}

#[test]
fn command_line_follows_the_variables() {
    for (settings, expected) in [
        (
            vec![
                ("DIB_BOOTLOADER_VIRTUAL_TERMINAL", ""),
                ("DIB_NO_TIMER_CHECK", "False"),
            ],
            "console=ttyS0,115200 nofb nomodeset gfxpayload=text",
        ),
        (
            vec![
                ("DIB_BOOTLOADER_USE_SERIAL_CONSOLE", "False"),
                ("DIB_BOOTLOADER_DEFAULT_CMDLINE", "a=\"b $c\" d&e|f\\"),
            ],
            "console=tty0 no_timer_check a=\\\"b \\$c\\\" d&e|f\\\\",
        ),
        (
            vec![
                ("DIB_BOOTLOADER_SERIAL_CONSOLE", "ttyS1,9600"),
                ("DIB_BOOT_LABEL", "boot-fs"),
            ],
            "console=tty0 console=ttyS1,9600 no_timer_check nofb nomodeset gfxpayload=text boot=LABEL=boot-fs",
        ),
        (
            vec![("ARCH", "arm64")],
            "console=tty0 console=ttyAMA0,115200 nofb nomodeset gfxpayload=text",
        ),
    ] {
        let Some(mut scratch) = grub_root() else {
            return;
        };
        scratch.set("DIB_BLOCK_DEVICE", "efi");
        for (name, value) in &settings {
            scratch.set(name, value);
        }
        scratch.run(HOOK);
        let defaults = scratch.read("etc/default/grub");
        let last = defaults
            .lines()
            .rfind(|line| line.starts_with("GRUB_CMDLINE_LINUX_DEFAULT="));
        assert_eq!(
            last,
            Some(format!("GRUB_CMDLINE_LINUX_DEFAULT=\"{expected}\"").as_str())
        );
        if settings[0].1 == "ttyS1,9600" {
            assert!(defaults.contains("--speed=9600 --unit=1 "), "{defaults}");
        }
        if settings[0].1 == "False" {
            assert!(
                defaults.contains("GRUB_TERMINAL=\"console\"\n"),
                "{defaults}"
            );
        }
    }
}

#[test]
fn signed_packages_keep_the_vendor_directory() {
    let Some(mut scratch) = grub_root() else {
        return;
    };
    scratch.set("DIB_BLOCK_DEVICE", "efi");
    scratch.set("DIB_SKIP_GRUB_PACKAGE_INSTALL", "True");
    scratch.write("boot/efi/EFI/debian/shimx64.efi", "");
    scratch.write(
        "boot/loader/entries/x.conf",
        "linux /vmlinuz-1\ninitrd /initramfs-1.img\n",
    );
    scratch.run(PACKAGES);
    scratch.run(HOOK);
    let calls = scratch.calls();
    assert_eq!(
        calls.last().unwrap(),
        "grub-install --modules=part_msdos part_gpt lvm --target=i386-pc /dev/image0"
    );
    assert!(!calls[0].starts_with("install-packages"));
    assert_eq!(
        scratch.read("boot/efi/EFI/debian/grub.cfg"),
        scratch.read("boot/grub/grub.cfg")
    );
    assert_eq!(
        scratch.read("boot/loader/entries/x.conf"),
        "linux /boot/vmlinuz-1\ninitrd /boot/initramfs-1.img\n"
    );
}

#[test]
fn bootloader_says_what_it_cannot_do() {
    for (settings, message) in [
        (vec![("DIB_EXTLINUX", "1")], "extlinux is not supported"),
        (
            vec![("ARCH", "arm64"), ("DIB_BLOCK_DEVICE", "mbr")],
            "use block-device-efi",
        ),
        (
            vec![
                ("ARCH", "ppc64el"),
                ("IMAGE_BLOCK_DEVICES", " [root]=/dev/x "),
            ],
            "no partition called boot",
        ),
    ] {
        let Some(mut scratch) = grub_root() else {
            return;
        };
        for (name, value) in &settings {
            scratch.set(name, value);
        }
        let output = scratch.inside(HOOK);
        assert!(!output.status.success(), "{message}");
        assert!(
            error_text(&output).contains(message),
            "{}",
            error_text(&output)
        );
    }
    let Some(scratch) = grub_root() else { return };
    scratch.write("tmp/grub/install", "");
    scratch.run(HOOK);
    assert!(scratch.calls().is_empty());
}
