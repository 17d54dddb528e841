//! Elements that bring a service or a command.

use std::fs;

use crate::library::element;
use crate::scratch::{Scratch, error_text};

#[test]
pub fn the_journal_goes_to_the_console() {
    let Some(mut scratch) = Scratch::new(&["journal-to-console"]) else {
        return;
    };
    scratch.set("DIB_INIT_SYSTEM", "openrc");
    scratch.run("post-install.d/30-journal-to-console");
    assert!(!scratch.exists("etc/systemd"));
    scratch.set("DIB_INIT_SYSTEM", "systemd");
    scratch.run("post-install.d/30-journal-to-console");
    assert_eq!(
        scratch.read("etc/systemd/journald.conf.d/log-to-console.conf"),
        "[Journal]\nForwardToConsole=true\n"
    );
}

#[test]
pub fn jails_are_brought_and_the_service_enabled() {
    let Some(mut scratch) = Scratch::new(&["fail2ban"]) else {
        return;
    };
    scratch.stub(&["systemctl", "rc-update"]);
    scratch.run_outside("extra-data.d/60-fail2ban-config");
    assert!(!scratch.exists("etc/fail2ban"));
    let jails = scratch.outside().join("my jails");
    fs::write(&jails, "[sshd]\nenabled = true\n").unwrap();
    scratch.set("DIB_FAIL2BAN_CONF", &jails.display().to_string());
    scratch.run_outside("extra-data.d/60-fail2ban-config");
    assert_eq!(
        scratch.read("etc/fail2ban/jail.local"),
        "[sshd]\nenabled = true\n"
    );
    scratch.set("DIB_FAIL2BAN_CONF", "/nonexistent/jails");
    let output = scratch.outside_hook("extra-data.d/60-fail2ban-config");
    assert!(error_text(&output).contains("which is not a file"));
    scratch.run("post-install.d/80-enable-fail2ban-service");
    assert_eq!(scratch.calls(), ["systemctl enable fail2ban.service"]);
    scratch.set("DIB_INIT_SYSTEM", "sysv");
    let output = scratch.inside("post-install.d/80-enable-fail2ban-service");
    assert!(error_text(&output).contains("init system sysv"));
}

#[test]
pub fn the_command_line_lets_root_in() {
    let Some(scratch) = Scratch::new(&["dynamic-login"]) else {
        return;
    };
    let mut scratch = scratch.with("DYNAMIC_LOGIN_CMDLINE", "/cmdline");
    scratch.script("chpasswd", "cat >>/log");
    let program = "static/usr/local/bin/dynamic-login";
    scratch.write("cmdline", "ro quiet\n");
    scratch.run(program);
    assert_eq!(scratch.calls(), Vec::<String>::new());
    scratch.write(
        "cmdline",
        "ro rootpwd=\"$6$salt$hash\" sshkey=\"ssh-ed25519 AAAA me@here\" quiet\n",
    );
    scratch.run(program);
    scratch.run(program);
    assert_eq!(scratch.calls(), ["root:$6$salt$hash"; 2]);
    assert_eq!(
        scratch.read("root/.ssh/authorized_keys"),
        "ssh-ed25519 AAAA me@here\n"
    );
    assert_eq!(scratch.mode("root/.ssh/authorized_keys"), 0o600);
    // The same hash in base64.
    scratch.write("cmdline", "rootpwd=JDYkc2FsdCRoYXNo ro\n");
    scratch.run(program);
    assert_eq!(scratch.calls(), ["root:$6$salt$hash"]);
    scratch.stub(&["systemctl"]);
    scratch.run("post-install.d/70-enable-dynamic-login");
    assert_eq!(scratch.calls(), ["systemctl enable dynamic-login.service"]);
    scratch.set("DIB_INIT_SYSTEM", "openrc");
    let output = scratch.inside("post-install.d/70-enable-dynamic-login");
    assert!(error_text(&output).contains("is for systemd"));
}

#[test]
pub fn kernel_settings_are_written_once_and_must_agree() {
    let Some(scratch) = Scratch::new(&["sysctl"]) else {
        return;
    };
    let call = |program: &str, arguments: &str| {
        scratch.hook(
            "call",
            &format!("#!/bin/bash\nexec \"$(dirname \"$0\")/bin/{program}\" {arguments}\n"),
        );
        scratch.inside("call")
    };
    for (arguments, error) in [
        ("net.ipv4.ip_forward 1 'routers forward'", ""),
        ("net.ipv4.ip_forward 1", ""),
        (
            "net.ipv4.ip_forward 0",
            "already sets net.ipv4.ip_forward to '1', not to '0'",
        ),
        ("net.ipv4.tcp_rmem '4096 87380 6291456'", ""),
        ("net.ipv4.tcp_rmem '4096 87380 6291456'", ""),
        (
            "kernel.panic",
            "usage: sysctl-write-value NAME VALUE [COMMENT]",
        ),
        (
            "../passwd x",
            "'../passwd' is not the name of a kernel setting",
        ),
        ("kernel.panic $'1\\n2'", "several lines"),
    ] {
        let output = call("sysctl-write-value", arguments);
        assert_eq!(output.status.success(), error.is_empty(), "{arguments}");
        assert!(
            error_text(&output).contains(error),
            "{}",
            error_text(&output)
        );
    }
    assert_eq!(
        scratch.read("etc/sysctl.d/net.ipv4.ip_forward.conf"),
        "# routers forward\nnet.ipv4.ip_forward = 1\n"
    );
    scratch.stub(&["sysctl"]);
    scratch.script(
        "sysctl-write-value",
        "exec /tmp/in_target.d/bin/sysctl-write-value \"$@\"",
    );
    assert!(
        call("sysctl-set-value", "vm.swappiness 10")
            .status
            .success()
    );
    assert_eq!(
        scratch.calls(),
        ["sysctl -q -p /etc/sysctl.d/vm.swappiness.conf"]
    );
}

#[test]
pub fn modules_are_built_for_the_kernels_of_the_image() {
    let Some(scratch) = Scratch::new(&["dkms"]) else {
        return;
    };
    for path in [
        "usr/src/linux-headers-6.1.0-9-amd64/x",
        "usr/src/linux-headers-6.1.0-8-amd64/x",
        "usr/src/linux-headers-6.1.0-9-common/x",
        "lib/modules/6.1.0-9-amd64/x",
    ] {
        scratch.write(path, "");
    }
    scratch.script(
        "dkms",
        "echo dkms \"$@\" >>/log\nif [ \"$1\" = status ]; then\necho 'wireguard/1.0: added'\necho 'old, 2.3, 5.10: installed'\nfi",
    );
    scratch.run("post-install.d/97-dkms");
    assert_eq!(
        scratch.calls(),
        [
            "dkms status",
            "dkms build old/2.3 -k 6.1.0-9-amd64",
            "dkms install old/2.3 -k 6.1.0-9-amd64",
            "dkms build wireguard/1.0 -k 6.1.0-9-amd64",
            "dkms install wireguard/1.0 -k 6.1.0-9-amd64",
            "dkms status",
        ]
    );
    fs::remove_dir_all(scratch.root().join("usr/src")).unwrap();
    let output = scratch.inside("post-install.d/97-dkms");
    assert!(output.status.success());
    assert!(error_text(&output).contains("no kernel has its headers"));
}

/// What an element's map makes of a name for a distribution.
fn mapped(name: &str, distro: &str, package: &str) -> String {
    let output = std::process::Command::new("bash")
        .args([
            "-c",
            "exec -a pkg-map \"$0\" \"$@\"",
            env!("CARGO_BIN_EXE_kiln"),
        ])
        .arg("--pkg-map")
        .arg(element(name).path.join("pkg-map"))
        .args(["--distro", distro, "--release", "x", package])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", error_text(&output));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
pub fn venv_is_a_package_of_its_own_on_debian_only() {
    for (distro, package) in [
        ("debian", "python3-venv"),
        ("ubuntu", "python3-venv"),
        ("fedora", "python3"),
        ("opensuse", "python3"),
        ("gentoo", "dev-lang/python"),
        ("alpine", ""),
    ] {
        assert_eq!(mapped("ensure-venv", distro, "python3-venv"), package);
    }
}

#[test]
pub fn pip_comes_from_packages_only() {
    assert_eq!(
        mapped("pip-and-virtualenv", "debian", "python3-venv"),
        "python3-venv"
    );
    assert_eq!(mapped("pip-and-virtualenv", "fedora", "python3-venv"), "");
    let Some(mut scratch) = Scratch::new(&["pip-and-virtualenv"]) else {
        return;
    };
    let hook = "post-install.d/89-clean-up-pip-cache";
    scratch.write("root/.cache/pip/http/x", "");
    scratch.set("DIB_DISABLE_PIP_CLEANUP", "1");
    scratch.run(hook);
    assert!(scratch.exists("root/.cache/pip/http/x"));
    scratch.set("DIB_DISABLE_PIP_CLEANUP", "0");
    scratch.run(hook);
    assert!(!scratch.exists("root/.cache/pip"));
    scratch.set("DIB_INSTALLTYPE_pip_and_virtualenv", "source");
    assert!(error_text(&scratch.inside(hook)).contains("is source, which is not supported"));
}

#[test]
pub fn nocloud_sets_the_list_of_datasources() {
    let text = fs::read_to_string(
        element("cloud-init-nocloud")
            .path
            .join("environment.d/10-cloud-init-nocloud"),
    )
    .unwrap();
    assert_eq!(text, "export DIB_CLOUD_INIT_DATASOURCES=NoCloud\n");
}

#[test]
pub fn nouveau_is_blacklisted_by_a_snippet() {
    let Some(scratch) = Scratch::new(&["modprobe", "disable-nouveau"]) else {
        return;
    };
    scratch.run_outside("extra-data.d/50-modprobe-blacklist");
    assert!(
        scratch
            .read("etc/modprobe.d/disable-nouveau.conf")
            .starts_with("blacklist nouveau\n")
    );
}
