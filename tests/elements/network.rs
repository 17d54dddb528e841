//! Elements about the network.

use crate::scratch::{Scratch, error_text};

#[test]
pub fn links_that_switch_stable_names_off_are_removed() {
    let Some(scratch) = Scratch::new(&["stable-interface-names"]) else {
        return;
    };
    let rules = scratch.root().join("etc/udev/rules.d");
    std::fs::create_dir_all(&rules).unwrap();
    let switch = rules.join("80-net-name-slot.rules");
    let own = rules.join("80-net-setup-link.rules");
    std::os::unix::fs::symlink("/dev/null", &switch).unwrap();
    std::fs::write(&own, "# an administrator's\n").unwrap();
    scratch.run("install.d/02-stable-interface-names");
    assert!(std::fs::symlink_metadata(&switch).is_err());
    assert!(own.exists());
    // A second run has nothing to do.
    scratch.run("install.d/02-stable-interface-names");
}

#[test]
pub fn every_interface_is_configured_by_one_program() {
    let Some(mut scratch) = Scratch::new(&["dhcp-all-interfaces"]) else {
        return;
    };
    scratch.stub(&["systemctl"]);
    let hook = "post-install.d/50-dhcp-all-interfaces";
    scratch.write("etc/network/interfaces.d/eth0", "auto eth0\n");
    scratch.write("etc/network/interfaces.d/own", "# kept\n");
    scratch.run(hook);
    assert_eq!(scratch.list("etc/network/interfaces.d"), ["own"]);
    assert_eq!(
        scratch.calls(),
        ["systemctl enable systemd-networkd.service"]
    );
    let text = scratch.read("etc/systemd/network/99-dhcp-all-interfaces.network");
    assert!(text.contains("\nDHCP=yes\n"), "{text}");

    scratch.write("etc/NetworkManager/NetworkManager.conf", "");
    scratch.set("DIB_DHCP_TIMEOUT", "7");
    scratch.run(hook);
    assert_eq!(scratch.calls(), Vec::<String>::new());
    let text = scratch.read("etc/NetworkManager/conf.d/00-dhcp-all-interfaces.conf");
    assert!(text.contains("\nipv4.dhcp-timeout=7\n"), "{text}");

    scratch.set("DIB_DHCP_TIMEOUT", "soon");
    let output = scratch.inside(hook);
    assert!(error_text(&output).contains("DIB_DHCP_TIMEOUT is 'soon'"));
}
