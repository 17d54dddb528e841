//! The elements of the group `packages`.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::library::{base_name, element};
use crate::scratch::{Scratch, error_text};

fn replaces(name: &str, hook: &str, variable: &str, file: &str) {
    let Some(mut scratch) = Scratch::new(&[name]) else {
        return;
    };
    let hook = format!("extra-data.d/{hook}");
    scratch.write(file, "the image's own\n");
    scratch.run_outside(&hook);
    assert_eq!(scratch.read(file), "the image's own\n");

    for value in ["", "/nonexistent", "/"] {
        scratch.set(variable, value);
        let output = scratch.outside_hook(&hook);
        assert!(!output.status.success(), "{value}");
        assert!(
            error_text(&output).contains("is not a file"),
            "{}",
            error_text(&output)
        );
    }
    let host_file = scratch.outside().join("a file");
    fs::write(&host_file, "the user's\n").unwrap();
    scratch.set(variable, host_file.to_str().unwrap());
    scratch.run_outside(&hook);
    assert_eq!(scratch.read(file), "the user's\n");
}

#[test]
pub fn apt_sources_replaces_the_file_for_good() {
    replaces(
        "apt-sources",
        "99-override-default-apt-sources",
        "DIB_APT_SOURCES",
        "etc/apt/sources.list",
    );
}

#[test]
fn apt_sources_of_the_newer_style_have_a_name_that_apt_reads() {
    let Some(mut scratch) = Scratch::new(&["apt-sources"]) else {
        return;
    };
    scratch.write("etc/apt/sources.list", "deb http://old x y\n");
    let file = scratch.outside().join("my sources");
    scratch.set("DIB_APT_SOURCES", file.to_str().unwrap());
    let hook = "extra-data.d/99-override-default-apt-sources";
    let newer = "# mine\n\nTypes: deb\nURIs: http://a\nSuites: x\nComponents: y\nSigned-By: /k\n";
    fs::write(&file, newer).unwrap();
    scratch.run_outside(hook);
    let name = "etc/apt/sources.list.d/dib-apt-sources.sources";
    assert_eq!(scratch.read(name), newer);
    assert!(!scratch.exists("etc/apt/sources.list"));
    let older = "deb [signed-by=/k] http://types:8080/ x y\n";
    fs::write(&file, older).unwrap();
    scratch.run_outside(hook);
    assert_eq!(scratch.read("etc/apt/sources.list"), older);
    assert!(!scratch.exists(name));
}

#[test]
pub fn apt_conf_replaces_the_file_for_good() {
    replaces(
        "apt-conf",
        "99-override-default-apt-conf",
        "DIB_APT_CONF",
        "etc/apt/apt.conf",
    );
}

#[test]
pub fn cache_url_is_found_by_path_and_brings_nothing() {
    let files: Vec<String> = element("cache-url")
        .files()
        .iter()
        .map(|path| base_name(path))
        .collect();
    assert_eq!(
        files,
        ["README.md", "cache-url", "element-deps", "element.yaml"]
    );
}

#[test]
pub fn package_installs_call_the_helpers_for_their_phase() {
    let Some(mut scratch) = Scratch::new(&["package-installs"]) else {
        return;
    };
    scratch.stub(&[
        "package-installs",
        "package-installs-v2",
        "package-uninstalls",
    ]);
    scratch.script(
        "package-installs-squash",
        "echo \"squash $2 $4\" >>\"$STUB_LOG\"; echo '{}' >\"$5\"",
    );
    scratch.set("IMAGE_ELEMENT", "base vm");
    scratch.set("ELEMENTS_PATH", "/a:/b c");
    scratch.run_outside("extra-data.d/99-squash-package-install");
    assert_eq!(scratch.calls(), ["squash base vm /a:/b c"]);
    assert_eq!(scratch.read("tmp/package-installs.json"), "{}\n");

    for (hook, phase, uninstall) in [
        ("10-package-installs", "pre-install.d", false),
        ("99-package-uninstalls", "pre-install.d", true),
        ("01-package-installs", "install.d", false),
        ("99-package-uninstalls", "install.d", true),
        ("00-package-installs", "post-install.d", false),
        ("95-package-uninstalls", "post-install.d", true),
    ] {
        scratch.run(&format!("{phase}/{hook}"));
        let directory = format!("/tmp/in_target.d/{phase}");
        let expected = if uninstall {
            [
                format!("package-uninstalls -d {directory}"),
                format!(
                    "package-installs-v2 --phase {phase} --uninstall /tmp/package-installs.json"
                ),
            ]
        } else {
            [
                format!("package-installs -d {directory}"),
                format!("package-installs-v2 --phase {phase} /tmp/package-installs.json"),
            ]
        };
        assert_eq!(scratch.calls(), expected);
    }
}

#[test]
pub fn maps_are_in_the_target_during_the_build_only() {
    let Some(mut scratch) = Scratch::new(&["pkg-map"]) else {
        return;
    };
    let base = element("base").path;
    let other = scratch.outside().join("other one");
    fs::create_dir_all(&other).unwrap();
    scratch.set(
        "IMAGE_ELEMENT_YAML",
        &format!("base: {}\nother: {}\n", base.display(), other.display()),
    );
    scratch.run_outside("extra-data.d/10-create-pkg-map-dir");
    assert_eq!(scratch.list("usr/share/pkg-map"), ["base"]);
    assert_eq!(
        scratch.read("usr/share/pkg-map/base"),
        element("base").read("pkg-map")
    );
    scratch.run_outside("cleanup.d/90-remove-pkg-map-dir");
    assert!(!scratch.exists("usr/share/pkg-map"));
}

/// A scratch root that looks like one of dpkg's, with stubs for what is not there.
fn dpkg_root() -> Option<Scratch> {
    let scratch = Scratch::new(&["dpkg", "manifests"])?;
    scratch.stub(&["apt-get"]);
    scratch.program(
        "dpkg",
        "[ \"$1\" = --print-foreign-architectures ] || echo amd64",
    );
    let cache = scratch.outside().join("a cache");
    let scratch = scratch
        .with("DIB_IMAGE_CACHE", cache.to_str().unwrap())
        .with("IMAGE_NAME", "out/debian");
    Some(scratch)
}

#[test]
pub fn dpkg_settings_of_the_build_do_not_stay() {
    let Some(mut scratch) = dpkg_root() else {
        return;
    };
    scratch.write("usr/sbin/policy-rc.d", "#!/bin/sh\nexit 0\n");
    scratch.write("var/lib/apt/lists/x_i18n_Translation-de", "");
    let keys = scratch.outside().join("the keys");
    fs::create_dir_all(&keys).unwrap();
    fs::write(keys.join("mine.gpg"), "key").unwrap();
    scratch.set("DIB_ADD_APT_KEYS", keys.to_str().unwrap());
    scratch.set("http_proxy", "http://proxy:3128/");
    scratch.helpers(&["kiln-bootstrap"]);
    scratch.set("no_proxy", "10.0.0.0/8, [::1]:80");
    scratch.set("DIB_DISTRIBUTION_MIRROR", "http://[::1]/debian");
    scratch.set(
        "DIB_APT_SOURCES_CONF",
        "a:deb [arch=amd64] http://10.1.2.3:80/x y z\nb:deb http://deb.example/x y z",
    );
    for hook in [
        "09-apt-keyring",
        "50-block-apt-translations",
        "50-block-daemons",
        "50-build-with-http-cache",
        "50-trim-dpkg",
    ] {
        scratch.run_outside(&format!("root.d/{hook}"));
    }
    scratch.run("pre-install.d/00-disable-apt-recommends");
    assert!(scratch.list("var/lib/apt/lists").is_empty());
    assert!(
        scratch
            .read("etc/apt/apt.conf.d/99kiln-build")
            .contains("DPkg::Path \"\";\n"),
        "without it apt hides kiln's programs from maintainer scripts"
    );
    assert_eq!(scratch.read("etc/apt/trusted.gpg.d/mine.gpg"), "key");
    assert_eq!(
        scratch.read("etc/apt/apt.conf.d/60img-build-proxy"),
        "Acquire::http::Proxy::10.1.2.3 \"DIRECT\";\nAcquire::https::Proxy::10.1.2.3 \"DIRECT\";\n\
         Acquire::http::Proxy \"http://proxy:3128/\";\n"
    );
    assert_eq!(
        scratch.read("etc/dpkg/dpkg.cfg.d/02apt-speedup"),
        "force-unsafe-io\n"
    );
    assert!(
        scratch
            .read("usr/sbin/policy-rc.d")
            .ends_with("\nexit 101\n")
    );
    assert_eq!(scratch.mode("usr/sbin/policy-rc.d"), 0o755);

    for hook in [
        "40-unblock-daemons",
        "50-remove-img-build-proxy",
        "60-untrim-dpkg",
    ] {
        scratch.run_outside(&format!("cleanup.d/{hook}"));
    }
    assert_eq!(
        scratch.list("etc/apt/apt.conf.d"),
        ["95disable-recommends", "95no-translations"]
    );
    assert!(scratch.list("etc/dpkg").is_empty());
    assert_eq!(
        scratch.read("usr/sbin/policy-rc.d"),
        "#!/bin/sh\nexit 0\n",
        "the root's own is back"
    );

    scratch.set("http_proxy", "http://a\"b/");
    let output = scratch.outside_hook("root.d/50-build-with-http-cache");
    assert!(!output.status.success());
}

#[test]
fn a_policy_that_a_package_installed_meanwhile_stays() {
    let Some(scratch) = dpkg_root() else { return };
    scratch.run_outside("root.d/50-block-daemons");
    scratch.run_outside("cleanup.d/40-unblock-daemons");
    assert!(!scratch.exists("usr/sbin/policy-rc.d"));
    scratch.run_outside("root.d/50-block-daemons");
    scratch.write("usr/sbin/policy-rc.d", "a package's\n");
    scratch.run_outside("cleanup.d/40-unblock-daemons");
    assert_eq!(scratch.read("usr/sbin/policy-rc.d"), "a package's\n");
}

/// A cache with a package; nothing of it is mounted in the root.
fn package_cache(scratch: &Scratch) -> PathBuf {
    let cache = scratch.outside().join("a cache/apt/debian");
    fs::create_dir_all(&cache).unwrap();
    fs::write(cache.join("old_1_amd64.deb"), "old").unwrap();
    scratch.script("mountpoint", "exit 1");
    cache
}

#[test]
fn package_cache_is_shared_without_being_in_the_image() {
    let Some(scratch) = dpkg_root() else { return };
    let cache = package_cache(&scratch);
    // The mount itself needs privileges that a test may not have: the link stands for it. There
    // are no overlays.
    scratch.script(
        "mount",
        "[ \"$1\" = --bind ] && rmdir \"$4\" && ln -s \"$3\" \"$4\"",
    );
    scratch.run_outside("root.d/50-shared-apt-cache");
    let lent = scratch.root().join("var/cache/apt/archives");
    assert_eq!(
        fs::read_to_string(lent.join("old_1_amd64.deb")).unwrap(),
        "old"
    );
    // What is done to a package that was lent is not done to that of the cache.
    let package = fs::metadata(lent.join("old_1_amd64.deb")).unwrap();
    assert_eq!(package.nlink(), 1);
    let builds = cache.with_file_name(".builds");
    let view = &crate::library::entries(&builds)[0];
    assert_eq!(fs::metadata(view).unwrap().mode() & 0o777, 0o700);
    scratch.write("var/cache/apt/archives/new_2_amd64.deb", "new");
    scratch.write("var/cache/apt/archives/partial/half_3_amd64.deb", "ha");
    fs::set_permissions(lent.join("new_2_amd64.deb"), Permissions::from_mode(0o4755)).unwrap();
    let open = fs::File::open(lent.join("new_2_amd64.deb")).unwrap();
    scratch.run_outside("cleanup.d/30-shared-apt-cache");
    assert_cached(&cache);
    let new = fs::metadata(cache.join("new_2_amd64.deb")).unwrap();
    assert_eq!(new.mode() & 0o7777, 0o644);
    assert_ne!(new.ino(), open.metadata().unwrap().ino());
}

#[test]
fn package_cache_lies_below_what_a_build_does_to_it() {
    let Some(scratch) = dpkg_root() else { return };
    let cache = package_cache(&scratch);
    // The layers stand for an overlay of them.
    scratch.script(
        "mount",
        "if [ \"$1\" = --bind ]; then rmdir \"$4\" && ln -s \"$3\" \"$4\"; exit; fi\n\
         [ \"$1 $2 $3 $5\" = '-t overlay -o overlay' ] || exit 1\n\
         echo \"$4\" >\"$6/options\"",
    );
    scratch.script("umount", ":");
    scratch.run_outside("root.d/50-shared-apt-cache");
    let view = crate::library::entries(&cache.with_file_name(".builds"))[0].clone();
    let [lower, view] = [&cache, &view].map(|path| path.display().to_string());
    assert_eq!(
        scratch.read("var/cache/apt/archives/options"),
        format!("userxattr,lowerdir={lower},upperdir={view}/new,workdir={view}/work\n")
    );
    fs::write(format!("{view}/new/new_2_amd64.deb"), "new").unwrap();
    // What was in the cache was not what the repository has: the first is downloaded anew, the
    // second is not needed.
    fs::write(format!("{view}/new/old_1_amd64.deb"), "better").unwrap();
    fs::write(cache.join("other_1_amd64.deb"), "wrong").unwrap();
    fs::write(format!("{view}/new/other_1_amd64.deb"), "").unwrap();
    scratch.run_outside("cleanup.d/30-shared-apt-cache");
    assert_cached(&cache);
    let old = fs::read_to_string(cache.join("old_1_amd64.deb"));
    assert_eq!(old.unwrap(), "better");
}

/// The cache has what was there and what is new, and nothing of a build.
fn assert_cached(cache: &Path) {
    let cached: Vec<_> = crate::library::entries(cache)
        .iter()
        .map(|path| crate::library::base_name(path))
        .collect();
    assert_eq!(cached, ["new_2_amd64.deb", "old_1_amd64.deb"]);
    assert!(crate::library::entries(&cache.with_file_name(".builds")).is_empty());
}

#[test]
fn package_cache_stands_in_where_nothing_can_be_mounted() {
    let Some(scratch) = dpkg_root() else { return };
    let cache = package_cache(&scratch);
    let archives = "var/cache/apt/archives";
    scratch.write(&format!("{archives}/own.txt"), "the root's");
    scratch.write(&format!("{archives}/partial/.keep"), "");
    scratch.script("mount", "exit 32");
    scratch.run_outside("root.d/50-shared-apt-cache");
    assert_eq!(scratch.list(archives), ["old_1_amd64.deb"]);
    scratch.write(&format!("{archives}/new_2_amd64.deb"), "new");
    scratch.write(&format!("{archives}/lock"), "");
    // Once more, for the last phase; and what was lent is not for apt to remove.
    scratch.run_outside("pre-finalise.d/50-shared-apt-cache");
    scratch.run("finalise.d/99-clean-up-cache");
    assert!(scratch.calls().is_empty());
    scratch.run_outside("cleanup.d/30-shared-apt-cache");
    assert_eq!(
        scratch.list("var/cache/apt"),
        ["archives/own.txt", "archives/partial/.keep"]
    );
    assert_cached(&cache);
}

#[test]
fn package_cache_is_done_without_where_a_link_leads_out_of_the_root() {
    let Some(scratch) = dpkg_root() else { return };
    let away = scratch.outside().join("away");
    fs::create_dir_all(&away).unwrap();
    fs::create_dir_all(scratch.root().join("var/cache/apt")).unwrap();
    std::os::unix::fs::symlink(&away, scratch.root().join("var/cache/apt/archives")).unwrap();
    fs::create_dir_all(scratch.root().join(away.strip_prefix("/").unwrap())).unwrap();
    scratch.script("mount", "exit 32");
    let output = scratch.outside_hook("root.d/50-shared-apt-cache");
    assert!(output.status.success(), "{}", error_text(&output));
    assert!(error_text(&output).contains("warning: building without the package cache"));
    scratch.run_outside("cleanup.d/30-shared-apt-cache");
    assert!(crate::library::entries(&away).is_empty());
    let off = scratch.with("DIB_APT_LOCAL_CACHE", "0");
    off.run_outside("root.d/50-shared-apt-cache");
}

#[test]
fn package_cache_is_not_led_out_of_the_root_by_its_programs() {
    let Some(scratch) = dpkg_root() else { return };
    package_cache(&scratch);
    let away = scratch.outside().join("away");
    fs::create_dir_all(away.join("archives")).unwrap();
    fs::write(away.join("archives/file"), "of the host").unwrap();
    // Run after the hook has looked where the directory is.
    let link = format!(
        "rm -rf /var/cache/apt\nln -s '{}' /var/cache/apt",
        away.display()
    );
    scratch.program("mv", &link);
    scratch.script("mount", "exit 32");
    let output = scratch.outside_hook("root.d/50-shared-apt-cache");
    assert!(error_text(&output).contains("warning: building without the package cache"));
    scratch.run_outside("cleanup.d/30-shared-apt-cache");
    let file = away.join("archives/file");
    assert_eq!(crate::library::entries(&away.join("archives")), [&*file]);
    assert_eq!(fs::read_to_string(file).unwrap(), "of the host");
}

#[test]
fn package_cache_that_cannot_be_written_to_is_done_without() {
    let Some(scratch) = dpkg_root() else { return };
    let cache = package_cache(&scratch);
    // Nothing can be made in it.
    fs::remove_dir_all(&cache).unwrap();
    fs::write(&cache, "").unwrap();
    let output = scratch.outside_hook("root.d/50-shared-apt-cache");
    assert!(output.status.success(), "{}", error_text(&output));
    let said = error_text(&output);
    assert!(said.contains("debian` cannot be written to"), "{said}");
    scratch.run_outside("pre-finalise.d/50-shared-apt-cache");
    scratch.run_outside("cleanup.d/30-shared-apt-cache");
}

#[test]
fn package_lists_are_fetched_once_and_again_when_sources_change() {
    let Some(mut scratch) = dpkg_root() else {
        return;
    };
    scratch.write("etc/apt/sources.list.d/default.list", "deb http://a/ b c\n");
    scratch.run("pre-install.d/99-apt-get-update");
    assert_eq!(scratch.calls(), ["apt-get update"]);
    // No lists came, so they are not current.
    scratch.run("pre-install.d/99-apt-get-update");
    assert_eq!(scratch.calls(), ["apt-get update"]);
    scratch.write("var/lib/apt/lists/a_dists_b_InRelease", "");
    scratch.run("pre-install.d/99-apt-get-update");
    assert!(scratch.calls().is_empty());
    scratch.write("etc/apt/sources.list.d/more.list", "deb http://d/ e f\n");
    scratch.set("DIB_OFFLINE", "1");
    scratch.run("pre-install.d/99-apt-get-update");
    assert!(scratch.calls().is_empty(), "offline");
    scratch.set("DIB_OFFLINE", "");
    scratch.run("pre-install.d/99-apt-get-update");
    assert_eq!(scratch.calls(), ["apt-get update"]);
}

#[test]
fn package_manifest_is_json() {
    let Some(mut scratch) = dpkg_root() else {
        return;
    };
    scratch.script(
        "dpkg-query",
        r#"for p in a b; do printf '{"package": "%s", "arch": "all", "version": "1:2~3", "status": "ii "}\n' $p; done"#,
    );
    scratch.run("finalise.d/99-write-dpkg-manifest");
    let manifest: serde_json::Value =
        serde_json::from_str(&scratch.read("etc/dib-manifests/dib-manifest-dpkg-debian")).unwrap();
    assert_eq!(manifest["packages"].as_array().unwrap().len(), 2);
    assert_eq!(manifest["packages"][1]["package"], "b");
    assert_eq!(manifest["packages"][1]["status"], "ii");

    scratch.write("var/cache/apt/pkgcache.bin", "");
    scratch.run("finalise.d/99-clean-up-cache");
    assert_eq!(scratch.calls(), ["apt-get clean"]);
    assert!(!scratch.exists("var/cache/apt/pkgcache.bin"));
    scratch.set("DIB_DISABLE_APT_CLEANUP", "1");
    scratch.run("finalise.d/99-clean-up-cache");
    assert!(scratch.calls().is_empty());
}
