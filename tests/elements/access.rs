//! The elements of the group `access`.

use std::fs;

use crate::scratch::{Scratch, error_text};

#[test]
pub fn devuser_creates_the_user_with_key_password_and_sudo() {
    let Some(mut scratch) = Scratch::new(&["devuser"]) else {
        return;
    };
    let home = scratch.outside().join("home");
    fs::create_dir_all(home.join(".ssh")).unwrap();
    fs::write(home.join(".ssh/id_ed25519.pub"), "ssh-ed25519 AAAA\n").unwrap();
    scratch.set("HOME", home.to_str().unwrap());
    scratch.set("DIB_DEV_USER_USERNAME", "j.doe");
    scratch.run_outside("extra-data.d/50-devuser");
    assert_eq!(
        scratch.read("tmp/in_target.d/devuser-ssh-authorized-keys"),
        "ssh-ed25519 AAAA\n"
    );

    scratch.stub(&["usermod", "visudo"]);
    // The scratch root has only user 0, so that is whom the new name is for.
    scratch.script(
        "useradd",
        "echo \"useradd $*\" >>\"$STUB_LOG\"; echo 'j.doe:x:0:0::/home/j:/bin/sh' >>/etc/passwd",
    );
    scratch.script("chpasswd", "cat >>\"$STUB_LOG\"");
    for (name, value) in [
        ("DIB_DEV_USER_SHELL", "/bin/bash"),
        ("DIB_DEV_USER_PASSWORD", "pass:word"),
        ("DIB_DEV_USER_GROUPS", "adm,docker"),
        ("DIB_DEV_USER_PWDLESS_SUDO", "yes"),
        ("DIB_DEBUG_TRACE", "1"),
    ] {
        scratch.set(name, value);
    }
    let output = scratch.inside("install.d/50-devuser");
    assert!(output.status.success(), "{}", error_text(&output));
    assert!(
        !error_text(&output).contains("+ printf '%s:%s"),
        "the password shows in the trace"
    );
    assert_eq!(
        scratch.calls(),
        [
            "useradd -m -s /bin/bash j.doe",
            "j.doe:pass:word",
            "usermod -a -G adm,docker j.doe",
            "visudo -c -q -f /etc/sudoers.d/j_doe"
        ]
    );
    assert_eq!(scratch.mode("etc/sudoers.d/j_doe"), 0o440);
    assert_eq!(scratch.mode("home/j/.ssh"), 0o700);
    assert_eq!(scratch.mode("home/j/.ssh/authorized_keys"), 0o600);

    scratch.script("visudo", "exit 1");
    assert!(!scratch.inside("install.d/50-devuser").status.success());
    assert!(
        !scratch.exists("etc/sudoers.d/j_doe"),
        "a bad rule would lock everybody out of sudo"
    );
}

#[test]
fn devuser_gets_no_key_when_there_is_none_or_none_is_wanted() {
    let Some(mut scratch) = Scratch::new(&["devuser"]) else {
        return;
    };
    for (value, message) in [
        ("", "no public key"),
        ("/dev/null", ""),
        ("/nonexistent", "does not exist"),
    ] {
        scratch.set("DIB_DEV_USER_AUTHORIZED_KEYS", value);
        let output = scratch.outside_hook("extra-data.d/50-devuser");
        assert!(output.status.success());
        assert!(
            error_text(&output).contains(message),
            "{}",
            error_text(&output)
        );
        assert!(!scratch.exists("tmp/in_target.d/devuser-ssh-authorized-keys"));
    }
}

#[test]
pub fn local_config_brings_keys_and_proxies() {
    let Some(mut scratch) = Scratch::new(&["local-config"]) else {
        return;
    };
    scratch.run_outside("extra-data.d/62-ssh-key");
    scratch.run("install.d/62-ssh-key");
    assert!(!scratch.exists("root/.ssh"));

    let keys = scratch.outside().join("some keys");
    scratch.set("DIB_LOCAL_CONFIG_AUTHORIZED_KEYS", keys.to_str().unwrap());
    assert!(
        !scratch
            .outside_hook("extra-data.d/62-ssh-key")
            .status
            .success()
    );
    fs::write(&keys, "ssh-rsa BBBB\n").unwrap();
    scratch.run_outside("extra-data.d/62-ssh-key");
    scratch.write("root/.ssh/authorized_keys", "ssh-rsa AAAA\n");
    scratch.run("install.d/62-ssh-key");
    assert_eq!(
        scratch.read("root/.ssh/authorized_keys"),
        "ssh-rsa AAAA\nssh-rsa BBBB\n"
    );
    assert_eq!(scratch.mode("root/.ssh/authorized_keys"), 0o600);
    scratch.set("DIB_LOCAL_CONFIG_USERNAME", "nobody-here");
    assert!(error_text(&scratch.inside("install.d/62-ssh-key")).contains("has no such user"));

    fs::create_dir_all(scratch.root().join("etc/apt/apt.conf.d")).unwrap();
    scratch.write(
        "etc/sysconfig/proxy",
        "PROXY_ENABLED=\"no\"\nHTTP_PROXY=\"\"\n",
    );
    scratch.write("etc/yum.conf", "[main]\nkeepcache=0\n");
    for (name, value) in [
        ("http_proxy", "http://p:1/?a&b"),
        ("no_proxy", "localhost,10.0.0.1"),
    ] {
        scratch.set(name, value);
    }
    scratch.run("pre-install.d/02-proxy-settings");
    assert_eq!(
        scratch.list("etc/apt/apt.conf.d"),
        ["02-no-proxy", "02-use-http-proxy"]
    );
    assert_eq!(
        scratch.read("etc/apt/apt.conf.d/02-no-proxy"),
        "Acquire::http::Proxy::localhost \"DIRECT\";\nAcquire::http::Proxy::10.0.0.1 \"DIRECT\";\n"
    );
    assert_eq!(
        scratch.read("etc/sysconfig/proxy"),
        "PROXY_ENABLED=\"yes\"\nHTTP_PROXY=\"http://p:1/?a&b\"\n"
    );
    assert_eq!(
        scratch.read("etc/yum.conf"),
        "[main]\nproxy=http://p:1/?a&b\nkeepcache=0\n"
    );
}

#[test]
pub fn host_keys_are_removed_and_made_at_boot() {
    let Some(mut scratch) =
        Scratch::new(&["runtime-ssh-host-keys", "install-static", "dib-init-system"])
    else {
        return;
    };
    scratch.stub(&["systemctl", "ssh-keygen"]);
    scratch.run("install.d/10-install-static-files");
    scratch.run("install.d/20-install-init-scripts");
    scratch.run("post-install.d/80-ssh-keygen");
    assert_eq!(scratch.calls(), ["systemctl enable ssh-keygen.service"]);
    let unit = scratch.read("usr/lib/systemd/system/ssh-keygen.service");
    assert!(unit.contains("Before=ssh.service ssh.socket sshd.service"));
    assert_eq!(
        scratch.mode("usr/local/sbin/runtime-ssh-host-keys.sh"),
        0o755
    );

    scratch.set("DISTRO_NAME", "fedora");
    scratch.run("post-install.d/80-ssh-keygen");
    assert!(!scratch.exists("usr/lib/systemd/system/ssh-keygen.service"));

    scratch.write("etc/ssh/ssh_host_rsa_key", "");
    scratch.write("etc/ssh/ssh_host_rsa_key.pub", "");
    scratch.write("etc/ssh/sshd_config", "");
    scratch.run_outside("cleanup.d/90-remove-ssh-host-keys");
    assert_eq!(scratch.list("etc/ssh"), ["sshd_config"]);
}

#[test]
pub fn sshd_is_enabled_and_limited_to_algorithms_it_has() {
    let Some(mut scratch) = Scratch::new(&["openssh-server"]) else {
        return;
    };
    scratch.stub(&["systemctl", "rc-update"]);
    for (distro, unit) in [
        ("debian", "ssh.service"),
        ("ubuntu", "ssh.service"),
        ("rocky", "sshd.service"),
    ] {
        scratch.set("DISTRO_NAME", distro);
        scratch.run("post-install.d/80-enable-sshd-service");
        assert_eq!(scratch.calls(), [format!("systemctl enable {unit}")]);
    }

    scratch.script(
        "ssh",
        "case $2 in kex) echo curve25519-sha256; echo weak ;; cipher) echo aes128-ctr ;; mac) ;; esac",
    );
    let hook = "post-install.d/99-harden-sshd-config";
    let lines = "KexAlgorithms curve25519-sha256\nCiphers aes128-ctr\n";
    scratch.write("etc/ssh/sshd_config", "Match User x\n");
    scratch.run(hook);
    assert_eq!(
        scratch.read("etc/ssh/sshd_config"),
        format!("{lines}Match User x\n")
    );
    scratch.write(
        "etc/ssh/sshd_config",
        "Include /etc/ssh/sshd_config.d/*.conf\n",
    );
    scratch.run(hook);
    assert_eq!(
        scratch.read("etc/ssh/sshd_config.d/60-dib-hardening.conf"),
        lines
    );

    scratch.write("etc/ssh/sshd_config.d/60-dib-hardening.conf", "");
    scratch.set("DIB_OPENSSH_SERVER_HARDENING", "0");
    scratch.run(hook);
    assert_eq!(
        scratch.read("etc/ssh/sshd_config.d/60-dib-hardening.conf"),
        ""
    );
}
