//! The elements of the group `core`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use crate::library::{element, entries};
use crate::scratch::{Scratch, error_text};

#[test]
pub fn base_installs_and_updates_unless_told_not_to() {
    let Some(mut scratch) = Scratch::new(&["base", "dib-init-system"]) else {
        return;
    };
    scratch.stub(&["install-packages", "apt-get"]);
    scratch.set("DIB_RELEASE", "bookworm");
    scratch.run("pre-install.d/03-baseline-tools");
    assert_eq!(
        scratch.calls(),
        [
            "apt-get update",
            "install-packages apt-transport-https software-properties-common"
        ]
    );
    scratch.write("usr/lib/apt/methods/https", "");
    scratch.set("DIB_RELEASE", "stable");
    scratch.run("pre-install.d/03-baseline-tools");
    assert_eq!(scratch.calls(), ["apt-get update"]);

    scratch.run("install.d/00-baseline-environment");
    scratch.run("install.d/00-up-to-date");
    assert_eq!(
        scratch.calls(),
        [
            "install-packages -m base iscsi_package",
            "install-packages -u"
        ]
    );
    scratch.set("DIB_SKIP_BASE_PACKAGE_INSTALL", "1");
    scratch.set("DIB_AVOID_PACKAGES_UPDATE", "1");
    scratch.run("install.d/00-baseline-environment");
    scratch.run("install.d/00-up-to-date");
    assert!(scratch.calls().is_empty());

    scratch.run("install.d/10-cloud-init");
    assert!(scratch.list("etc/cloud/cloud.cfg.d").is_empty());
    scratch.set("DIB_CLOUD_INIT_ETC_HOSTS", "localhost");
    scratch.run("install.d/10-cloud-init");
    assert_eq!(
        scratch.read("etc/cloud/cloud.cfg.d/10_etc_hosts.cfg"),
        "manage_etc_hosts: localhost\n"
    );
}

#[test]
pub fn init_system_is_checked_and_its_services_installed() {
    let Some(mut scratch) = Scratch::new(&["dib-init-system", "growroot"]) else {
        return;
    };
    scratch.stub(&["rc-update"]);
    for (value, message) in [("", "is not set"), ("launchd", "'launchd'")] {
        scratch.set("DIB_INIT_SYSTEM", value);
        let output = scratch.inside("install.d/20-install-init-scripts");
        assert!(!output.status.success());
        assert!(
            error_text(&output).contains(message),
            "{value}: {}",
            error_text(&output)
        );
    }
    for (system, file, mode) in [
        ("systemd", "usr/lib/systemd/system/growroot.service", 0o644),
        ("upstart", "etc/init/growroot.conf", 0o644),
        ("openrc", "etc/init.d/growroot", 0o755),
    ] {
        scratch.set("DIB_INIT_SYSTEM", system);
        scratch.run("install.d/20-install-init-scripts");
        assert_eq!(scratch.mode(file), mode, "{file}");
        scratch.run("post-install.d/10-enable-init-scripts");
    }
    assert_eq!(scratch.calls(), ["rc-update add growroot default"]);

    let units = "tmp/in_target.d/init-scripts/systemd";
    scratch.write(&format!("{units}/a.service"), "[Service]\n");
    scratch.write(&format!("{units}/a.service.d/limits.conf"), "[Service]\n");
    scratch.write(&format!("{units}/multi-user.target.wants/.keep"), "");
    let own = scratch.root().join(units);
    symlink(
        "../a.service",
        own.join("multi-user.target.wants/a.service"),
    )
    .unwrap();
    symlink("a.service", own.join("alias.service")).unwrap();
    scratch.set("DIB_INIT_SYSTEM", "systemd");
    scratch.run("install.d/20-install-init-scripts");
    let installed = "usr/lib/systemd/system";
    assert!(scratch.exists(&format!("{installed}/a.service.d/limits.conf")));
    for (link, target) in [
        ("multi-user.target.wants/a.service", "../a.service"),
        ("alias.service", "a.service"),
    ] {
        let link = scratch.root().join(installed).join(link);
        assert_eq!(fs::read_link(link).unwrap().to_str(), Some(target));
    }
    scratch.set("DIB_INIT_SYSTEM", "openrc");

    scratch.run("pre-install.d/04-dib-init-system");
    assert_eq!(
        scratch.read("usr/local/bin/dib-init-system"),
        "#!/bin/sh\necho \"openrc\"\n"
    );
    scratch.run_outside("cleanup.d/50-dib-init-system");
    assert!(!scratch.exists("usr/local/bin/dib-init-system"));
}

#[test]
pub fn dib_python_links_the_interpreter_for_the_build_only() {
    let Some(mut scratch) = Scratch::new(&["dib-python"]) else {
        return;
    };
    scratch.stub(&["install-packages"]);
    let output = scratch.inside("pre-install.d/01-dib-python");
    assert!(
        error_text(&output).contains("has no python3"),
        "{}",
        error_text(&output)
    );
    assert_eq!(scratch.calls(), ["install-packages python3"]);

    scratch.script("python3", "");
    scratch.run("pre-install.d/01-dib-python");
    let link = scratch.root().join("usr/local/bin/dib-python");
    assert_eq!(
        fs::read_link(link).unwrap().to_str(),
        Some("/stubs/python3")
    );
    scratch.run_outside("cleanup.d/50-dib-python");
    assert!(!scratch.exists("usr/local/bin/dib-python"));

    scratch.set("DISTRO_NAME", "ubuntu");
    scratch.set("DIB_RELEASE", "trusty");
    let output = scratch.inside("pre-install.d/01-dib-python");
    assert!(
        error_text(&output).contains("has no python2"),
        "{}",
        error_text(&output)
    );
}

#[test]
pub fn dib_run_parts_brings_nothing() {
    let element = element("dib-run-parts");
    let files = ["README.md", "element.yaml"].map(|name| element.path.join(name));
    assert_eq!(element.files(), files);
}

#[test]
pub fn install_bin_installs_files_but_no_helpers() {
    let Some(scratch) = Scratch::new(&["install-bin"]) else {
        return;
    };
    scratch.run("pre-install.d/01-install-bin");
    assert!(!scratch.exists("usr/local/bin"));
    scratch.write("tmp/in_target.d/bin/a tool", "#!/bin/sh\n");
    symlink(
        "../.kiln/bin/cache-url",
        scratch.hooks().join("bin/cache-url"),
    )
    .unwrap();
    symlink("a tool", scratch.hooks().join("bin/other-name")).unwrap();
    symlink("nothing", scratch.hooks().join("bin/dangling")).unwrap();
    scratch.run("pre-install.d/01-install-bin");
    assert_eq!(scratch.list("usr/local/bin"), ["a tool", "other-name"]);
    assert_eq!(scratch.mode("usr/local/bin/a tool"), 0o755);
    let other = scratch.root().join("usr/local/bin/other-name");
    assert!(fs::symlink_metadata(other).unwrap().is_file());
}

#[test]
pub fn install_static_keeps_links_and_modes() {
    let Some(scratch) = Scratch::new(&["install-static"]) else {
        return;
    };
    scratch.run("install.d/10-install-static-files");
    scratch.write(
        "tmp/in_target.d/static/lib/new/core",
        "kept although CVS would skip it",
    );
    scratch.write("tmp/in_target.d/static/etc/script", "#!/bin/sh\n");
    fs::set_permissions(
        scratch.hooks().join("static/etc/script"),
        fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    symlink("script", scratch.hooks().join("static/etc/link")).unwrap();
    fs::set_permissions(
        scratch.root().join("etc"),
        fs::Permissions::from_mode(0o711),
    )
    .unwrap();
    scratch.run("install.d/10-install-static-files");
    assert!(scratch.root().join("lib").is_symlink(), "/lib stays a link");
    assert!(scratch.exists("usr/lib/new/core"));
    assert_eq!(scratch.mode("etc/script"), 0o755);
    assert_eq!(
        scratch.mode("etc"),
        0o711,
        "an existing directory keeps its mode"
    );
    assert!(scratch.root().join("etc/link").is_symlink());
}

#[test]
pub fn install_types_links_the_chosen_hooks() {
    let Some(scratch) = Scratch::new(&["install-types"]) else {
        return;
    };
    scratch.helpers(&["install-types-enable"]);
    scratch.run_outside("extra-data.d/99-enable-install-types");
    for directory in [
        "a-b-source-install/50-a",
        "a-b-package-install/51-a",
        "c-source-install/60-c",
        "d-repo-install/70-d",
    ] {
        scratch.write(
            &format!("tmp/in_target.d/install.d/{directory}"),
            "#!/bin/sh\n",
        );
    }
    let scratch = scratch.with("DIB_INSTALLTYPE_a_b", "package");
    scratch.run_outside("extra-data.d/99-enable-install-types");
    let links: Vec<_> = entries(&scratch.hooks().join("install.d"))
        .into_iter()
        .filter(|path| path.is_symlink())
        .map(|path| fs::read_link(path).unwrap().display().to_string())
        .collect();
    assert_eq!(links, ["a-b-package-install/51-a", "c-source-install/60-c"]);
}

#[test]
pub fn manifests_are_saved_without_secrets() {
    let Some(scratch) = Scratch::new(&["manifests"]) else {
        return;
    };
    let scratch = scratch
        .with("IMAGE_NAME", "an image")
        .with("DIB_ARGS", "vm debian-minimal")
        .with(
            "DIB_ENV",
            "declare -x DIB_A=\"1\"\ndeclare -x DIB_DEV_USER_PASSWORD=\"two\nlines\"\ndeclare -x DIB_Z=\"3\"",
        );
    scratch.run_outside("extra-data.d/20-manifest-dir");
    scratch.write("etc/dib-manifests/packages", "many\n");
    symlink("/etc/passwd", scratch.root().join("etc/dib-manifests/link")).unwrap();
    scratch.run_outside("cleanup.d/01-copy-manifests-dir");
    let environment = scratch.read("etc/dib-manifests/dib_environment");
    assert_eq!(
        environment,
        "declare -x DIB_A=\"1\"\ndeclare -x DIB_DEV_USER_PASSWORD=\"<not recorded>\"\ndeclare -x DIB_Z=\"3\"\n"
    );
    assert_eq!(scratch.mode("etc/dib-manifests/packages"), 0o600);
    let left = scratch.beside("manifests");
    assert_eq!(
        fs::read_to_string(left.join("to")).unwrap(),
        "an image.d/dib-manifests\n"
    );
    let saved = left.join("what");
    let names: Vec<_> = entries(&saved)
        .iter()
        .map(|path| crate::library::base_name(path))
        .collect();
    assert_eq!(names, ["dib_arguments", "dib_environment", "packages"]);
    assert_eq!(
        fs::read_to_string(saved.join("dib_arguments")).unwrap(),
        "vm debian-minimal\n"
    );
    assert_eq!(
        fs::read_to_string(saved.join("dib_environment")).unwrap(),
        environment
    );
}

#[test]
pub fn a_target_cannot_name_manifests_outside_of_their_directory() {
    let Some(scratch) = Scratch::new(&["manifests"]) else {
        return;
    };
    let scratch = scratch.with("IMAGE_NAME", "image");
    scratch.run_outside("extra-data.d/20-manifest-dir");
    scratch.write("evil", "evil");
    scratch.program("find", "printf '../../../../evil\\0'");
    let output = scratch.outside_hook("cleanup.d/01-copy-manifests-dir");
    assert!(!output.status.success());
    let said = error_text(&output);
    assert!(
        said.contains("which leads out of their directory"),
        "{said}"
    );
    assert!(said.contains("\nhint: "), "{said}");
}

#[test]
pub fn element_manifest_lists_every_element() {
    let Some(scratch) = Scratch::new(&["element-manifest", "manifests"]) else {
        return;
    };
    let mut scratch = scratch.with("IMAGE_ELEMENT", "base vm debian-minimal");
    scratch.run_outside("extra-data.d/75-inject-element-manifest");
    assert_eq!(
        scratch.read("etc/dib-manifests/dib-element-manifest"),
        "base\nvm\ndebian-minimal\n"
    );
    scratch.set("DIB_ELEMENT_MANIFEST_PATH", "/var/lib/some where/list");
    scratch.run_outside("extra-data.d/75-inject-element-manifest");
    assert!(scratch.exists("var/lib/some where/list"));
}

#[test]
pub fn service_names_are_merged_for_the_distribution() {
    let Some(mut scratch) = Scratch::new(&["svc-map"]) else {
        return;
    };
    let first = scratch.outside().join("it's one");
    let second = scratch.outside().join("two");
    for (directory, text) in [
        (
            &first,
            "# comment\nmysql:\n  default: mysqld\n  debian: 'mariadb'   # here\nssh:\n  redhat: sshd\nntp:\n  ubuntu: chrony\n  debian: ntpsec\n",
        ),
        (&second, "web:\n  default: \"httpd\"\n"),
    ] {
        fs::create_dir_all(directory).unwrap();
        fs::write(directory.join("svc-map"), text).unwrap();
    }
    let list = format!(
        "one: '{}'\ntwo: {}\nnone: /nonexistent\n",
        first.display().to_string().replace('\'', "''"),
        second.display()
    );
    scratch.set("IMAGE_ELEMENT_YAML", &list);
    scratch.set("IMAGE_ELEMENT", "none one two");
    scratch.helpers(&["svc-map-merge"]);
    for (distro, expected) in [
        (
            "debian",
            [("mysql", "mariadb"), ("ntp", "ntpsec"), ("ssh", "ssh")],
        ),
        (
            "ubuntu",
            [("mysql", "mariadb"), ("ntp", "chrony"), ("ssh", "ssh")],
        ),
        (
            "rocky",
            [("mysql", "mysqld"), ("ntp", "ntp"), ("ssh", "sshd")],
        ),
    ] {
        scratch.set("DISTRO_NAME", distro);
        scratch.run_outside("extra-data.d/10-merge-svc-map-files");
        scratch.run_outside("extra-data.d/11-copy-svc-map-file");
        let services: BTreeMap<String, String> =
            serde_saphyr::from_str(&scratch.read("usr/share/svc-map/services")).unwrap();
        let mut all = BTreeMap::from(expected.map(|(name, here)| (name.into(), here.into())));
        all.insert("web".to_owned(), "httpd".to_owned());
        assert_eq!(services, all, "{distro}");
    }
    for (text, message) in [
        (
            "mysql:\n  default: x\n",
            "Check two for duplicate service name",
        ),
        (
            "web: [x]\n",
            "`svc-map` of element `two` is not a service map",
        ),
    ] {
        fs::write(second.join("svc-map"), text).unwrap();
        let output = scratch.outside_hook("extra-data.d/10-merge-svc-map-files");
        assert!(!output.status.success(), "{text}");
        assert!(
            error_text(&output).contains(message),
            "{}",
            error_text(&output)
        );
    }
}

#[test]
pub fn sysprep_clears_the_machine_id() {
    let Some(scratch) = Scratch::new(&["sysprep"]) else {
        return;
    };
    scratch.write("etc/machine-id", "0123\n");
    scratch.write("var/lib/dbus/machine-id", "0123\n");
    scratch.run("finalise.d/99-clear-machine-id");
    assert_eq!(scratch.read("etc/machine-id"), "uninitialized\n");
    assert_eq!(scratch.read("var/lib/dbus/machine-id"), "");
    fs::remove_file(scratch.root().join("var/lib/dbus/machine-id")).unwrap();
    symlink(
        "/etc/machine-id",
        scratch.root().join("var/lib/dbus/machine-id"),
    )
    .unwrap();
    scratch.run("finalise.d/99-clear-machine-id");
    assert_eq!(scratch.read("etc/machine-id"), "uninitialized\n");
}

#[test]
pub fn modprobe_installs_snippets_and_the_blacklist() {
    let Some(mut scratch) = Scratch::new(&["modprobe"]) else {
        return;
    };
    scratch.run_outside("extra-data.d/50-modprobe-blacklist");
    scratch.run("install.d/80-modprobe-blacklist");
    assert!(scratch.list("etc/modprobe.d").is_empty());
    scratch.write(
        "tmp/in_target.d/modprobe.d/quiet.conf",
        "options snd quiet=1\n",
    );
    scratch.write("tmp/in_target.d/modprobe.d/README", "not for modprobe\n");
    scratch.set("DIB_MODPROBE_BLACKLIST", "pcspkr floppy");
    scratch.run_outside("extra-data.d/50-modprobe-blacklist");
    scratch.run("install.d/80-modprobe-blacklist");
    assert_eq!(
        scratch.list("etc/modprobe.d"),
        ["blacklist.conf", "quiet.conf"]
    );
    assert_eq!(
        scratch.read("etc/modprobe.d/blacklist.conf"),
        "blacklist pcspkr\nblacklist floppy\n"
    );
}
