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

#[test]
pub fn glean_is_installed_as_asked_and_alone_configures_interfaces() {
    let Some(mut scratch) = Scratch::new(&["simple-init"]) else {
        return;
    };
    scratch.stub(&["python3", "glean-install", "systemctl"]);
    let pip = scratch.root().join("usr/glean/bin/pip");
    std::fs::create_dir_all(pip.parent().unwrap()).unwrap();
    scratch.stub(&["pip"]);
    std::os::unix::fs::symlink("/stubs/pip", &pip).unwrap();
    for (kind, what) in [("source", "glean"), ("repo", "/tmp/glean.git")] {
        scratch.run(&format!("install.d/simple-init-{kind}-install/40-glean"));
        assert_eq!(
            scratch.calls(),
            [
                "python3 -m venv /usr/glean".to_owned(),
                "pip install pbr".to_owned(),
                format!("pip install {what}")
            ]
        );
        for name in ["glean", "glean.sh", "glean-install"] {
            let link = scratch.root().join("usr/local/bin").join(name);
            let target = std::fs::read_link(link).unwrap();
            assert_eq!(target, std::path::Path::new("/usr/glean/bin").join(name));
        }
    }
    for (variable, value, options) in [
        ("DISTRO_NAME", "debian", ""),
        (
            "DIB_SIMPLE_INIT_NO_DHCP_FALLBACK",
            "1",
            " --no-dhcp-fallback",
        ),
        ("DISTRO_NAME", "rocky", " --use-nm --no-dhcp-fallback"),
    ] {
        scratch.set(variable, value);
        scratch.run("install.d/50-simple-init");
        assert_eq!(
            scratch.calls(),
            [format!("glean-install{options}").trim_end()]
        );
    }
    assert_eq!(scratch.read("etc/modules"), "8021q\n");

    for file in [
        "etc/network/interfaces.d/eth0",
        "etc/network/interfaces.d/own",
        "etc/sysconfig/network-scripts/ifcfg-ens3",
        "etc/conf.d/net.eth0",
    ] {
        scratch.write(file, "");
    }
    scratch.write("etc/network/interfaces", "auto eth0\n");
    scratch.run("install.d/60-simple-init-remove-interfaces");
    assert_eq!(
        scratch.list("etc/network"),
        ["interfaces", "interfaces.d/own"]
    );
    assert!(scratch.list("etc/sysconfig").is_empty() && scratch.list("etc/conf.d").is_empty());
    assert_eq!(
        scratch.read("etc/network/interfaces"),
        "auto lo\niface lo inet loopback\n\nsource /etc/network/interfaces.d/*\n"
    );
    scratch.run("post-install.d/80-simple-init");
    assert!(scratch.calls().is_empty());
    scratch.set("DISTRO_NAME", "opensuse");
    scratch.run("post-install.d/80-simple-init");
    assert_eq!(scratch.calls(), ["systemctl enable wicked.service"]);

    // The repository is fetched only to install from it.
    scratch.hook(
        "print",
        "#!/bin/sh\necho \"${DIB_INSTALLTYPE_glean:-unset}\" >/said\n",
    );
    for (value, expected) in [("source", "package\n"), ("repo", "unset\n")] {
        scratch.set("DIB_INSTALLTYPE_simple_init", value);
        scratch.run("print");
        assert_eq!(scratch.read("said"), expected);
    }
}
