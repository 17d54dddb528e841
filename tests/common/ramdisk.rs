//! Ramdisks that are built to be booted: elements for them, and what they say.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::World;
use super::qemu::{Kernel, boot_kernel};

/// What the fragment of the element `marker` says, by functions and programs of
/// the ramdisk; the name comes from the kernel's parameters.
const MARKER: &str = r#"echo "KILN-RAMDISK $(get_kernel_parameter marker) on $(ls /sys/class/net)"
"#;

/// Leaves the modules that a virtual machine boots with: a ramdisk of all drivers
/// takes the emulator half a minute to unpack.
const FEW_MODULES: &str = r#"#!/bin/bash
set -eu
for directory in /lib/modules/*; do
    cd "$directory/kernel"
    rm -rf sound net/{bluetooth,mac80211,netfilter,sched,wireless} \
        drivers/{gpu,hid,hwmon,iio,infiniband,input,isdn,media,platform,staging,thunderbolt,usb}
    find drivers/net drivers/scsi -name '*.ko*' ! -name 'virtio*' ! -name '*failover*' \
        ! -name 'scsi*' ! -name 'sd_mod*' -delete
    depmod "${directory##*/}"
done
"#;

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("it is in a directory")).expect("it can be made");
    fs::write(path, text).expect("it can be written");
}

/// An element of this name, which makes modules few before ramdisks are built.
pub fn few_modules(library: &Path) {
    let path = library.join("few-modules/post-install.d/98-few-modules");
    write(&path, FEW_MODULES);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode can be set");
}

/// An element of this name, whose fragment of `/init` speaks.
pub fn marker(library: &Path) {
    // After the devices and the kernel's parameters, before the network.
    write(&library.join("marker/init.d/25-marker"), MARKER);
}

/// Boots a ramdisk that the element `marker` is in; it must come to the fragment.
pub fn boots(world: &World, kernel: &str, ramdisk: &str) {
    let kernel = Kernel {
        kernel,
        ramdisk,
        parameters: "console=ttyS0 marker=right",
    };
    boot_kernel(world, kernel, &[], "KILN-RAMDISK right on lo");
}
