//! The elements of the group `cloud`.

use std::os::unix::fs::symlink;

use crate::scratch::{Scratch, error_text};

#[test]
pub fn cloud_init_enables_the_units_that_exist() {
    let Some(mut scratch) = Scratch::new(&["cloud-init"]) else {
        return;
    };
    scratch.stub(&["systemctl", "rc-update"]);
    let output = scratch.inside("post-install.d/20-enable-cloud-init");
    assert!(
        error_text(&output).contains("no units of cloud-init"),
        "{}",
        error_text(&output)
    );

    for unit in [
        "cloud-init-local",
        "cloud-init-main",
        "cloud-init-network",
        "cloud-config",
        "cloud-final",
    ] {
        scratch.write(&format!("usr/lib/systemd/system/{unit}.service"), "");
    }
    symlink(
        "cloud-init-network.service",
        scratch
            .root()
            .join("usr/lib/systemd/system/cloud-init.service"),
    )
    .unwrap();
    scratch.run("post-install.d/20-enable-cloud-init");
    assert_eq!(
        scratch.calls(),
        [
            "systemctl enable cloud-init-local.service cloud-init-main.service \
          cloud-init-network.service cloud-config.service cloud-final.service"
        ]
    );
    scratch.set("DIB_INIT_SYSTEM", "openrc");
    scratch.run("post-install.d/20-enable-cloud-init");
    assert_eq!(scratch.calls().len(), 4);

    let config = "a: 1\nssh_genkeytypes:\n  - dsa\n  - rsa\nssh_pwauth: false\nb: 2\n";
    scratch.write("etc/cloud/cloud.cfg", config);
    scratch.run("post-install.d/21-cloud-init-allow-password-auth");
    assert_eq!(scratch.read("etc/cloud/cloud.cfg"), config);
    scratch.set("DIB_CLOUD_INIT_ALLOW_SSH_PWAUTH", "1");
    scratch.run("post-install.d/21-cloud-init-allow-password-auth");
    scratch.run("post-install.d/22-cloud-init-ssh_genkeytypes");
    assert_eq!(
        scratch.read("etc/cloud/cloud.cfg"),
        "a: 1\nssh_pwauth: 1\nb: 2\nssh_genkeytypes: [rsa, ecdsa, ed25519]\n"
    );
}

#[test]
pub fn datasources_are_listed_and_their_quirks_configured() {
    let Some(mut scratch) = Scratch::new(&["cloud-init-datasources"]) else {
        return;
    };
    let hook = "install.d/05-set-cloud-init-sources";
    assert!(error_text(&scratch.inside(hook)).contains("DIB_CLOUD_INIT_DATASOURCES is not set"));
    scratch.set("DIB_CLOUD_INIT_DATASOURCES", "NoCloud");
    scratch.run(hook);
    assert_eq!(
        scratch.list("etc/cloud/cloud.cfg.d"),
        ["91-dib-cloud-init-datasources.cfg"]
    );
    scratch.set("DIB_CLOUD_INIT_DATASOURCES", "ConfigDrive, Ec2");
    scratch.run(hook);
    assert_eq!(
        scratch.read("etc/cloud/cloud.cfg.d/91-dib-cloud-init-datasources.cfg"),
        "datasource_list: [ ConfigDrive, Ec2, None ]\n"
    );
    assert_eq!(
        scratch.list("etc/cloud/cloud.cfg.d"),
        [
            "91-dib-cloud-init-datasources.cfg",
            "92-ec2-datasource.cfg",
            "93-dib-cloud-init-disable-datasource-network-activation.cfg"
        ]
    );
}

#[test]
pub fn growroot_grows_partition_and_filesystem() {
    let Some(mut scratch) = Scratch::new(&["growroot", "install-static", "dib-init-system"]) else {
        return;
    };
    scratch.stub(&["systemctl", "resize2fs", "xfs_growfs", "btrfs"]);
    scratch.run("install.d/10-install-static-files");
    scratch.run("install.d/20-install-init-scripts");
    scratch.run("post-install.d/80-growroot");
    assert_eq!(scratch.calls(), ["systemctl enable growroot.service"]);
    assert_eq!(scratch.mode("usr/local/sbin/growroot"), 0o755);

    scratch.write("sys/devices/pci/vda/vda3/partition", "3\n");
    scratch.write("sys/class/block/x", "");
    symlink(
        "../../devices/pci/vda/vda3",
        scratch.root().join("sys/class/block/vda3"),
    )
    .unwrap();
    scratch.write("dev/vda3", "");
    symlink("/usr/local/sbin/growroot", scratch.hooks().join("run")).unwrap();
    for (grown, filesystem, expected) in [
        (0, "ext4", Some("resize2fs /dev/vda3")),
        (1, "xfs", Some("xfs_growfs /")),
        (1, "btrfs", Some("btrfs filesystem resize max /")),
        (2, "ext4", None),
    ] {
        scratch.script(
            "growpart",
            &format!("echo \"growpart $*\" >>\"$STUB_LOG\"; exit {grown}"),
        );
        scratch.script(
            "findmnt",
            &format!("case \"$*\" in *FSTYPE*) echo {filesystem} ;; *) echo /dev/vda3 ;; esac"),
        );
        let output = scratch.inside("run");
        let calls = scratch.calls();
        assert_eq!(calls[0], "growpart /dev/vda 3", "{}", error_text(&output));
        assert_eq!(calls.get(1).map(String::as_str), expected);
        assert_eq!(output.status.success(), expected.is_some());
    }
    scratch.set("DIB_INIT_SYSTEM", "sysv");
    assert!(
        !scratch
            .inside("post-install.d/80-growroot")
            .status
            .success()
    );
}
