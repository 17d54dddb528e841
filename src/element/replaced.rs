//! Elements of diskimage-builder's own library that kiln's take the place of.
//!
//! diskimage-builder's elements are used as they are when `ELEMENTS_PATH` names
//! its library. A few of them do what only root on the host may do, or run in the
//! Python that diskimage-builder itself is installed in.

use std::ffi::OsStr;
use std::path::Path;

/// Names of elements, and why kiln's own are used.
pub const REPLACED: [(&str, &str); 7] = [
    (
        "debootstrap",
        "it runs debootstrap or mmdebstrap of the host, which make device nodes",
    ),
    (
        "dracut-ramdisk",
        "it compiles a dracut of 2014, whose source and whose iSCSI target's Python are gone",
    ),
    (
        "install-bin",
        "it would copy kiln's own programs for the build into the image",
    ),
    (
        "package-installs",
        "it runs in the Python of the host, with modules of diskimage-builder",
    ),
    (
        "stable-interface-names",
        "it installs biosdevname, which Debian no longer has",
    ),
    (
        "svc-map",
        "it runs in the Python of the host, with modules of diskimage-builder",
    ),
    (
        "sysprep",
        "its `extract-image` attaches loop devices and mounts them",
    ),
];

/// Elements of diskimage-builder 3.43 that kiln does not have, by name: they are used
/// from its own library.
pub const ELSEWHERE: [&str; 70] = [
    "almalinux-container",
    "apt-preferences",
    "autoupdates",
    "centos",
    "centos-minimal",
    "cloud-init-disable-resizefs",
    "cloud-init-growpart",
    "containerfile",
    "debian-systemd",
    "debian-upstart",
    "deploy-baremetal",
    "deploy-kexec",
    "deploy-targetcli",
    "deploy-tgtadm",
    "disable-selinux",
    "docker",
    "dracut-network",
    "dracut-regenerate",
    "elrepo",
    "epel",
    "fedora",
    "fedora-container",
    "fedora-minimal",
    "fips",
    "gentoo",
    "growvols",
    "grub2",
    "hpdsa",
    "hwburnin",
    "hwdiscovery",
    "ibft-interfaces",
    "ilo",
    "iscsi-boot",
    "iso",
    "keylime-agent",
    "lvm",
    "mellanox",
    "modprobe-blacklist",
    "nm-dhcp-ib-interfaces",
    "no-final-image",
    "oat-client",
    "openeuler-minimal",
    "openstack-ci-mirrors",
    "opensuse",
    "opensuse-minimal",
    "pip-cache",
    "posix",
    "proliant-tools",
    "pypi",
    "python-brickclient",
    "python-stow-versions",
    "rax-nova-agent",
    "redhat-common",
    "replace-partition",
    "replace-partition-redhat",
    "rhel",
    "rhel-common",
    "rocky-container",
    "rpm-distro",
    "selinux-fixfiles-restore",
    "selinux-permissive",
    "tpm-emulator",
    "uboot",
    "ubuntu-signed",
    "ubuntu-systemd-container",
    "yum",
    "yum-minimal",
    "zipl",
    "zypper",
    "zypper-minimal",
];

/// Why kiln's element replaces one of diskimage-builder's; `None` if it does not.
pub fn reason(name: &str) -> Option<&'static str> {
    REPLACED
        .iter()
        .find(|(replaced, _)| *replaced == name)
        .map(|(_, reason)| *reason)
}

/// Whether a directory is the library that comes with diskimage-builder: the
/// `elements` of its Python package. Copies of single elements elsewhere are the
/// user's own, and stay.
pub fn is_upstream(library: &Path) -> bool {
    library.file_name() == Some(OsStr::new("elements"))
        && library.parent().and_then(Path::file_name) == Some(OsStr::new("diskimage_builder"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_library_of_the_package_counts() {
        for (path, expected) in [
            (
                "/v/lib/python3.11/site-packages/diskimage_builder/elements",
                true,
            ),
            ("/src/diskimage-builder/diskimage_builder/elements", true),
            ("/src/elements", false),
            ("/diskimage_builder/my/elements", false),
            ("/diskimage_builder", false),
        ] {
            assert_eq!(is_upstream(Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn every_replacement_exists_and_has_a_reason() {
        let library = crate::element::Library::new(&[]).unwrap();
        assert!(REPLACED.is_sorted());
        assert!(ELSEWHERE.is_sorted());
        for name in ELSEWHERE {
            assert!(library.get(name).is_none(), "{name}");
        }
        for (name, reason) in REPLACED {
            assert!(library.get(name).is_some(), "{name}");
            assert!(reason.starts_with("it"), "{reason}");
        }
        assert!(reason("base").is_none());
    }
}
