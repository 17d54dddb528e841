//! Resolution and merging over whole libraries, as a build sees them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use kiln::element::order::NamePattern;
use kiln::element::{Body, ElementSet, Library, Options, Reason, hooks, info, metadata, resolve};
use kiln::helpers::run_parts::Lookup;

fn file(root: &Path, path: &str, text: &str, mode: u32) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A small library with the shapes that real ones have.
fn library(root: &Path) {
    for (element, deps, provides) in [
        ("base", "dib-init-system install-bin", ""),
        ("dib-init-system", "", ""),
        ("install-bin", "", ""),
        ("vm", "block-device bootloader", ""),
        ("bootloader", "", ""),
        ("block-device-mbr", "", "block-device"),
        ("block-device-efi", "", "block-device"),
        ("debian-minimal", "debootstrap", "operating-system"),
        ("debootstrap", "dpkg", ""),
        ("dpkg", "install-bin manifests", ""),
        ("manifests", "", ""),
    ] {
        file(
            root,
            &format!("{element}/element-deps"),
            &deps.replace(' ', "\n"),
            0o644,
        );
        if !provides.is_empty() {
            file(
                root,
                &format!("{element}/element-provides"),
                provides,
                0o644,
            );
        }
    }
    file(
        root,
        "debootstrap/root.d/08-debootstrap",
        "#!/bin/sh\n",
        0o755,
    );
    file(root, "dpkg/root.d/50-block-daemons", "#!/bin/sh\n", 0o755);
    file(root, "dpkg/bin/install-packages", "#!/bin/sh\n", 0o755);
    file(
        root,
        "debian-minimal/environment.d/10-debian.bash",
        "export DISTRO_NAME=debian\n",
        0o644,
    );
    file(
        root,
        "block-device-mbr/block-device-default.yaml",
        "- local_loop:\n",
        0o644,
    );
}

fn names(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// The elements of the usual build, and the directory that they are in.
fn main_job() -> (tempfile::TempDir, ElementSet) {
    let directory = tempfile::tempdir().unwrap();
    library(directory.path());
    let library = Library::with_directories(&[directory.path().to_owned()]).unwrap();
    let options = Options {
        arch: "amd64".into(),
        ..Options::default()
    };
    let set = resolve(&library, &names("vm debian-minimal"), &options).unwrap();
    (directory, set)
}

#[test]
fn the_main_job_resolves_in_a_fixed_order() {
    let (_directory, set) = main_job();
    assert_eq!(
        info::image_element(&set),
        "base vm debian-minimal block-device-mbr dib-init-system install-bin bootloader debootstrap dpkg manifests"
    );
    let reason = |name: &str| {
        &set.selected()
            .iter()
            .find(|one| one.element.name == name)
            .unwrap()
            .reason
    };
    assert_eq!(reason("base"), &Reason::Implied { by: None });
    assert_eq!(
        reason("block-device-mbr"),
        &Reason::Implied {
            by: Some("vm".into())
        }
    );
    assert_eq!(reason("dpkg"), &Reason::DependencyOf("debootstrap".into()));
}

#[test]
fn the_merged_hooks_are_the_same_on_disk_as_in_the_plan() {
    let (_directory, set) = main_job();
    let tree = hooks::merge(&set).unwrap();
    let out = tempfile::tempdir().unwrap();
    tree.write(out.path()).unwrap();
    let pattern = NamePattern::new(None).unwrap();
    let planned: Vec<String> = tree
        .phase("root.d", &pattern)
        .into_iter()
        .map(|hook| hook.name)
        .collect();
    assert_eq!(planned, ["08-debootstrap", "50-block-daemons"]);
    assert_eq!(
        kiln::helpers::run_parts::list(Lookup::Here, &out.path().join("root.d"), &pattern)
            .unwrap()
            .run,
        planned
    );
    let environment =
        kiln::helpers::run_parts::environment(Lookup::Here, &out.path().join("root.d")).unwrap();
    assert_eq!(
        environment,
        [out.path().join("root.d/../environment.d/10-debian.bash")]
    );
    assert_eq!(tree.environment().len(), 1);
    assert!(out.path().join("element-deps").is_file());
    assert!(out.path().join("bin/install-packages").is_file());
}

#[test]
fn a_directory_overrides_an_embedded_element() {
    let embedded = Library::new(&[]).unwrap();
    let Some(name) = embedded.iter().next().map(|element| element.name.clone()) else {
        println!("SKIP: no elements are embedded");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join(&name)).unwrap();
    let library = Library::new(&[dir.path().to_owned()]).unwrap();
    let element = library.get(&name).unwrap();
    assert!(element.files().unwrap().is_empty());
    assert_eq!(library.iter().count(), embedded.iter().count());
}

#[test]
fn embedded_elements_are_complete() {
    let library = Library::new(&[]).unwrap();
    let provided: Vec<String> = library
        .iter()
        .flat_map(|element| element.provides().unwrap())
        .collect();
    for element in library.iter() {
        let name = &element.name;
        let data = element
            .metadata()
            .unwrap()
            .unwrap_or_else(|| panic!("{name} has no element.yaml"));
        assert!(
            !data.summary.contains('\n') && !data.summary.ends_with('.'),
            "{name}: {}",
            data.summary
        );
        assert!(
            metadata::readme(element)
                .unwrap()
                .starts_with(&format!("# {name}\n"))
        );
        for dependency in element.dependencies().unwrap() {
            assert!(
                library.get(&dependency).is_some() || provided.contains(&dependency),
                "{name} needs {dependency}"
            );
        }
        // What git keeps is what hooks depend on: the executable bit.
        for file in element.files().unwrap() {
            let phase = file
                .path
                .parent()
                .and_then(Path::to_str)
                .unwrap_or_default();
            let is_hook = phase.ends_with(".d")
                && phase != "environment.d"
                && !matches!(file.body, Body::Directory);
            let is_script = file
                .read()
                .unwrap()
                .is_some_and(|bytes| bytes.starts_with(b"#!"));
            assert!(
                !is_hook || !is_script || file.executable,
                "{name}: {} is not executable",
                file.path.display()
            );
        }
        let out = tempfile::tempdir().unwrap();
        element.write(out.path()).unwrap();
        assert!(out.path().join("element.yaml").is_file(), "{name}");
    }
}
