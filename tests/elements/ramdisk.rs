//! The elements of the group `ramdisk`.

use std::fs;

use crate::scratch::{Scratch, error_text};

#[test]
pub fn ramdisk_base_misses_no_program_and_brings_the_files_out() {
    let Some(scratch) = Scratch::new(&["ramdisk-base"]) else {
        return;
    };
    let list = "tmp/in_target.d/binary-deps.d";
    scratch.write(&format!("{list}/mine"), "sed # edits\n\nawk\n");
    scratch.run("post-install.d/01-ensure-binaries");
    assert_eq!(scratch.read("etc/dib_binary_deps"), "awk\nsed\n");
    scratch.write(&format!("{list}/theirs"), "no-such-program\n");
    let failed = scratch.inside("post-install.d/01-ensure-binaries");
    assert!(!failed.status.success());
    assert!(error_text(&failed).contains("the target has none: no-such-program"));

    let scratch = scratch.with("IMAGE_NAME", "rescue");
    let failed = scratch.outside_hook("cleanup.d/99-extract-ramdisk-files");
    assert!(error_text(&failed).contains("left no /tmp/kernel"));
    scratch.write("tmp/kernel", "kernel");
    scratch.write("tmp/ramdisk", "files");
    scratch.run_outside("cleanup.d/99-extract-ramdisk-files");
    let read = |suffix: &str| {
        let left = scratch.beside(suffix);
        let to = fs::read_to_string(left.join("to")).unwrap();
        assert_eq!(to, format!("rescue.{suffix}\n"));
        // A build that fails after this must not have replaced what an earlier one left.
        assert!(!scratch.outside().join(to.trim_end()).exists());
        fs::read_to_string(left.join("what")).unwrap()
    };
    assert_eq!(
        (read("kernel"), read("initramfs")),
        ("kernel".into(), "files".into())
    );
}

#[test]
pub fn ramdisk_holds_the_programs_modules_and_fragments_of_all_elements() {
    let Some(scratch) = with_functions(&["ramdisk-base", "ramdisk"]) else {
        return;
    };
    let build = "post-install.d/99-build-ramdisk";
    scratch.stub(&["depmod"]);
    scratch.script("ldd", "exit 1");
    scratch.script(
        "kiln-cpio",
        "echo \"$1 $2\" >>\"$STUB_LOG\"; cp -a \"$3\" /kept; echo x >\"$4\"",
    );
    scratch.program("busybox", "echo ls; echo sed; echo busybox");
    scratch.program("ip", "true");
    scratch.write("etc/dib_binary_deps", "busybox\nip\nsed\n");
    let failed = scratch.inside(build);
    assert!(
        error_text(&failed).contains("there is no kernel in /boot"),
        "{}",
        error_text(&failed)
    );
    for version in ["6.1.0-9-x", "6.1.0-10-x"] {
        scratch.write(&format!("boot/vmlinuz-{version}"), version);
        let modules = format!("lib/modules/{version}/kernel");
        scratch.write(&format!("{modules}/drivers/net/e1000.ko"), "");
        scratch.write(&format!("{modules}/drivers/gpu/card.ko"), "");
    }
    let hooks = "tmp/in_target.d";
    scratch.write(&format!("{hooks}/init.d/100-mine"), "echo mine\n");
    scratch.write(&format!("{hooks}/udev.d/60-mine.rules"), "# rules\n");
    scratch.write(
        "tmp/ramdisk-build/scripts/d/their-func",
        "theirs() { :; }\n",
    );
    scratch.hook(
        "ramdisk-install.d/50-mine",
        "#!/bin/sh\necho 1 >$TMP_MOUNT_PATH/etc/mine\n",
    );
    scratch.run(build);
    assert_eq!(scratch.read("tmp/kernel"), "6.1.0-10-x");
    assert_eq!(
        scratch.calls().last().map(String::as_str),
        Some("--compress gzip")
    );
    let files = scratch.list("kept");
    for file in [
        "etc/mine",
        "init-func",
        "their-func",
        "lib/modules/6.1.0-10-x/kernel/drivers/net/e1000.ko",
        "lib/udev/rules.d/60-mine.rules",
        "usr/bin/busybox",
        "usr/bin/ip",
        "usr/bin/ls",
        "usr/bin/sed",
    ] {
        assert!(files.iter().any(|found| found == file), "{file}: {files:?}");
    }
    assert!(!files.iter().any(|file| file.contains("gpu")));
    let is_link = |name: &str| scratch.root().join("kept/usr/bin").join(name).is_symlink();
    assert!(is_link("ls") && !is_link("sed") && !is_link("busybox"));
    let init = scratch.read("kept/init");
    assert!(init.starts_with("#!/bin/sh\n"));
    let place = |text: &str| {
        init.find(text)
            .unwrap_or_else(|| panic!("{text} is not in /init"))
    };
    let order = [
        "mount -t proc",
        "/proc/sys/kernel/printk",
        "BOOTIF=",
        "echo mine",
        "reboot -f",
    ];
    assert!(order.windows(2).all(|pair| place(pair[0]) < place(pair[1])));
    assert!(
        scratch
            .read("kept/init-func")
            .contains("get_kernel_parameter() {")
    );
    let left = scratch.list("tmp");
    assert!(!left.iter().any(|name| name.contains("dib_")), "{left:?}");
}

#[test]
pub fn dracut_is_told_what_elements_bring() {
    let Some(scratch) = with_functions(&["ramdisk-base", "dracut-ramdisk"]) else {
        return;
    };
    let build = "post-install.d/99-build-dracut-ramdisk";
    scratch.script(
        "dracut",
        "printf '<%s>\\n' \"$@\" >/called
        while [ \"$1\" != --include ]; do shift; done
        cp -a \"$2\" /kept; cp -a /usr/lib/dracut/modules.d/80kiln-ramdisk /module; echo x >\"$4\"",
    );
    scratch.write("etc/dib_binary_deps", "awk\nip\n");
    scratch.write("boot/vmlinuz-6.1.0-10-x", "kernel");
    fs::create_dir_all(
        scratch
            .root()
            .join("usr/lib/dracut/modules.d/35network-legacy"),
    )
    .unwrap();
    let hooks = "tmp/in_target.d";
    scratch.write(&format!("{hooks}/init.d/100-mine"), "echo mine");
    scratch.write(
        &format!("{hooks}/dracut-drivers.d/mine"),
        "e1000 # a card\nigb\n",
    );
    scratch.run(build);
    assert_eq!(scratch.read("tmp/kernel"), "kernel");
    let called = scratch.read("called");
    for argument in [
        "<--gzip>",
        "<6.1.0-10-x>",
        "<kiln-ramdisk network-legacy network>",
        "<awk ip >",
    ] {
        assert!(called.contains(argument), "{argument}: {called}");
    }
    assert!(
        called.contains("virtio_net") && called.contains(" e1000 igb "),
        "{called}"
    );
    let init = scratch.read("kept/lib/ramdisk/init");
    let place = |text: &str| init.find(text).unwrap_or_else(|| panic!("{text}: {init}"));
    assert!(place("#!/bin/bash") < place("troubleshoot() {"));
    assert!(place("echo mine") < place("reboot -f"));
    assert!(scratch.exists("kept/init-func") && !scratch.exists("kept/init"));
    assert!(scratch.exists("module/module-setup.sh"));
    assert!(!scratch.exists("usr/lib/dracut/modules.d/80kiln-ramdisk"));
    let failed = scratch.with("DIB_RAMDISK_COMPRESSION", "rar").inside(build);
    assert!(error_text(&failed).contains("it is gzip, xz, zstd or none"));
}

/// A root with the shell files of `$_LIB`, and kiln's program that runs hooks.
fn with_functions(elements: &[&str]) -> Option<Scratch> {
    let mut scratch = Scratch::new(elements)?;
    for (name, text) in kiln::helpers::lib::FILES {
        scratch.write(&format!("tmp/lib/{name}"), text);
    }
    scratch.set("_LIB", "/tmp/lib");
    scratch.script("dib-run-parts", "for hook in \"$1\"/*; do \"$hook\"; done");
    Some(scratch)
}
