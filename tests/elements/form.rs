//! The form of every element: what the engine and the documentation rely on.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::library::{PHASES, base_name, closure, elements, entries, hook_order, is_executable};

#[test]
fn names_are_unique_over_the_groups() {
    let mut seen = BTreeMap::new();
    for element in elements() {
        if let Some(group) = seen.insert(element.name.clone(), element.group.clone()) {
            panic!("{} is in {group} and in {}", element.name, element.group);
        }
    }
}

#[test]
fn metadata_is_complete_and_says_something() {
    for element in elements() {
        let metadata = element.metadata();
        let name = &element.name;
        assert_eq!(metadata.category, element.group, "{name}");
        assert!(!metadata.summary.is_empty(), "{name}");
        assert!(
            !metadata.summary.ends_with('.'),
            "{name}: the summary is a title"
        );
        assert!(
            metadata.summary.len() <= 60,
            "{name}: the summary is too long"
        );
        assert!(metadata.description.trim().len() > 40, "{name}");
        assert!(!metadata.examples.is_empty(), "{name} has no example");
        for variable in metadata.variables {
            assert!(
                !variable.name.contains(char::is_whitespace),
                "{name}: {}",
                variable.name
            );
            assert!(
                variable.default.trim() == variable.default,
                "{name}: {}",
                variable.name
            );
            assert!(
                variable.description.ends_with('.'),
                "{name}: {}",
                variable.name
            );
        }
        for example in metadata.examples {
            assert!(!example.command.is_empty(), "{name}");
            assert!(
                example.description.ends_with('.'),
                "{name}: {}",
                example.command
            );
        }
    }
}

#[test]
fn variables_that_environment_files_default_are_documented() {
    for element in elements() {
        let documented: Vec<String> = element
            .metadata()
            .variables
            .into_iter()
            .map(|variable| variable.name)
            .collect();
        for file in entries(&element.path.join("environment.d")) {
            for line in fs::read_to_string(&file).unwrap().lines() {
                let Some(rest) = line.trim().strip_prefix("export DIB_") else {
                    continue;
                };
                let Some((name, value)) = rest.split_once('=') else {
                    continue;
                };
                // Only a variable that keeps the caller's value is the user's.
                let name = format!("DIB_{name}");
                if value.starts_with(&format!("${{{name}:-")) {
                    assert!(documented.contains(&name), "{}: {name}", element.name);
                }
            }
        }
    }
}

#[test]
fn dependencies_exist_and_are_sorted() {
    let names: Vec<String> = elements().into_iter().map(|element| element.name).collect();
    let provided: Vec<String> = elements()
        .iter()
        .flat_map(|element| element.names_in("element-provides"))
        .collect();
    for element in elements() {
        let dependencies = element.names_in("element-deps");
        assert!(dependencies.is_sorted(), "{}", element.name);
        for name in dependencies {
            assert!(
                names.contains(&name) || provided.contains(&name),
                "{} depends on {name}, which nothing is or provides",
                element.name
            );
        }
    }
}

#[test]
fn hooks_are_executable_and_have_names_that_run() {
    for element in elements() {
        for phase in PHASES {
            for hook in element.hooks(phase) {
                let name = base_name(&hook);
                // `install.d/PROGRAM-TYPE-install/`: see the element install-types.
                if hook.is_dir() && name.ends_with("-install") {
                    continue;
                }
                assert!(hook.is_file(), "{}", hook.display());
                assert!(is_executable(&hook), "{} is not executable", hook.display());
                assert!(
                    name.chars()
                        .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'),
                    "{name} is a name that dib-run-parts skips"
                );
                assert!(
                    name.len() > 3 && name.as_bytes()[..2].iter().all(u8::is_ascii_digit),
                    "{name} has no number"
                );
            }
        }
        for file in entries(&element.path.join("environment.d")) {
            assert!(
                !is_executable(&file),
                "{} is sourced, not run",
                file.display()
            );
        }
        for path in entries(&element.path) {
            let name = base_name(&path);
            if path.is_dir() && name.ends_with(".d") {
                assert!(
                    PHASES.contains(&name.as_str())
                        || [
                            "binary-deps.d",
                            "dracut-drivers.d",
                            "environment.d",
                            "init.d",
                            "modprobe.d"
                        ]
                        .contains(&name.as_str()),
                    "{} is no phase",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn scripts_are_strict_traceable_and_need_no_sudo() {
    for element in elements() {
        for file in element.scripts() {
            let text = fs::read_to_string(&file).unwrap();
            let shown = file.display();
            assert!(text.ends_with('\n'), "{shown}");
            assert!(
                !text.contains('\t') || text.contains("^I"),
                "{shown} has tabs"
            );
            if let Some(shell) = text
                .strip_prefix("#!/bin/")
                .and_then(|rest| rest.split('\n').next())
            {
                let status = Command::new(shell).arg("-n").arg(&file).status().unwrap();
                assert!(status.success(), "{shown}");
            }
            let is_hook = PHASES.contains(&base_name(file.parent().unwrap()).as_str());
            if !is_hook {
                continue;
            }
            assert!(
                text.starts_with("#!/bin/bash\n# "),
                "{shown}: says in its second line what it does"
            );
            assert!(text.contains("\nset -eu -o pipefail\n"), "{shown}");
            assert!(text.contains("\"${DIB_DEBUG_TRACE:-0}\" -gt 0"), "{shown}");
            for word in ["sudo", "losetup", "kpartx", "mknod", "apt-key"] {
                assert!(
                    !text
                        .lines()
                        .any(|line| line.trim().starts_with(&format!("{word} "))),
                    "{shown} calls {word}"
                );
            }
        }
    }
}

/// Hooks call programs of elements by `$TMP_HOOKS_PATH/bin/NAME`.
#[test]
fn programs_that_elements_bring_are_links_to_kiln() {
    let mut names = Vec::new();
    for element in elements() {
        let files = element.files();
        for link in files.iter().filter(|file| file.is_symlink()) {
            let target = fs::read_link(link).unwrap();
            assert_eq!(target, Path::new("../.kiln/kiln"), "{}", link.display());
            assert_eq!(base_name(link.parent().unwrap()), "bin");
            names.push(base_name(link));
        }
    }
    names.sort();
    assert_eq!(names, kiln::helpers::BROUGHT);
}

#[test]
fn scripts_pass_shellcheck() {
    if Command::new("shellcheck")
        .arg("--version")
        .output()
        .is_err()
    {
        println!("SKIP: shellcheck is not installed");
        return;
    }
    let scripts: Vec<_> = elements()
        .iter()
        .flat_map(|element| element.scripts())
        .filter(|file| fs::read_to_string(file).unwrap().starts_with("#!/bin/"))
        .collect();
    let output = Command::new("shellcheck").args(&scripts).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[test]
fn package_lists_and_name_maps_parse() {
    for element in elements() {
        let list = element.path.join("package-installs.yaml");
        if list.exists() {
            let list: BTreeMap<String, serde_json::Value> =
                serde_saphyr::from_str(&fs::read_to_string(&list).unwrap())
                    .unwrap_or_else(|error| panic!("{}: {error}", element.name));
            assert!(!list.is_empty(), "{}", element.name);
        }
        let map = element.path.join("pkg-map");
        if map.is_file() {
            let map: BTreeMap<String, serde_json::Value> =
                serde_json::from_str(&fs::read_to_string(&map).unwrap())
                    .unwrap_or_else(|error| panic!("{}: {error}", element.name));
            for section in map.keys() {
                assert!(
                    ["default", "distro", "family", "release"].contains(&section.as_str()),
                    "{}: {section}",
                    element.name
                );
            }
        }
    }
}

#[test]
fn no_two_elements_have_the_same_hook() {
    let mut owners: BTreeMap<(String, String), String> = BTreeMap::new();
    for element in elements() {
        let provides = element.names_in("element-provides");
        for phase in PHASES.iter().chain(&["environment.d", "lib"]) {
            for hook in element.hooks(phase) {
                let name = base_name(&hook);
                // Two providers of one thing are never in one build.
                if provides.contains(&"block-device".to_owned()) && name == "15-block-device.bash" {
                    continue;
                }
                let key = ((*phase).to_owned(), name);
                if let Some(other) = owners.insert(key.clone(), element.name.clone()) {
                    panic!("{other} and {} both have {}/{}", element.name, key.0, key.1);
                }
            }
        }
    }
}

#[test]
fn hooks_of_the_usual_build_run_in_the_known_order() {
    let names = closure(
        &["base", "vm", "block-device-mbr", "debian-minimal"],
        &["block-device", "operating-system"],
    );
    assert_eq!(
        names
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(" "),
        "base block-device-mbr bootloader debian-minimal debootstrap dib-init-system dpkg \
         install-bin install-types manifests modprobe package-installs pkg-map sysprep vm"
    );
    // Upstream's order; hooks that only kiln has are marked by a `+`.
    for (phase, expected) in [
        (
            "root.d",
            "08-debootstrap 09-apt-keyring 50-block-apt-translations 50-block-daemons \
             50-build-with-http-cache 50-shared-apt-cache 50-trim-dpkg 75-debian-minimal-baseinstall +99-debootstrap-name-servers",
        ),
        (
            "extra-data.d",
            "10-create-pkg-map-dir 20-manifest-dir 50-modprobe-blacklist \
             99-enable-install-types 99-squash-package-install",
        ),
        (
            "pre-install.d",
            "+00-check-package-cache 00-disable-apt-recommends +00-finish-baseinstall 01-install-bin 03-baseline-tools \
             04-dib-init-system 10-package-installs 99-apt-get-update 99-package-uninstalls",
        ),
        (
            "install.d",
            "00-baseline-environment 00-up-to-date 01-package-installs 10-cloud-init \
             10-debian-networking 12-debian-locale-gen 15-cleanup-debootstrap \
             20-install-init-scripts 80-modprobe-blacklist 99-package-uninstalls",
        ),
        (
            "post-install.d",
            "00-package-installs 10-enable-init-scripts +90-bootloader-packages \
             95-package-uninstalls",
        ),
        ("post-root.d", ""),
        ("block-device.d", ""),
        (
            "pre-finalise.d",
            "+50-shared-apt-cache +51-show-local-mirrors",
        ),
        (
            "finalise.d",
            "50-bootloader 99-clean-up-cache 99-clear-machine-id 99-write-dpkg-manifest",
        ),
        (
            "cleanup.d",
            "01-copy-manifests-dir +30-shared-apt-cache +31-hide-local-mirrors 40-unblock-daemons \
             +50-dib-init-system 50-remove-img-build-proxy 60-untrim-dpkg \
             +90-debian-minimal-sources +90-remove-pkg-map-dir 99-clean-up-cache",
        ),
    ] {
        let order = hook_order(&names, phase).join(" ");
        assert_eq!(order, expected.replace('+', ""), "{phase}");
    }
}

/// Compares a generated page with the one in the source tree, or writes it if
/// `KILN_UPDATE` is set.
fn is_current(path: &Path, words: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_kiln"))
        .arg("elements")
        .args(words)
        .env_remove("ELEMENTS_PATH")
        .output()
        .unwrap();
    assert!(output.status.success(), "{words:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    if std::env::var_os("KILN_UPDATE").is_some() {
        fs::write(path, text).unwrap();
        return;
    }
    assert!(
        fs::read_to_string(path).unwrap_or_default() == text,
        "{} is out of date; write it anew with `KILN_UPDATE=1 cargo test --test elements`",
        path.display()
    );
}

#[test]
fn every_readme_is_what_kiln_makes_of_the_element() {
    for element in elements() {
        is_current(&element.path.join("README.md"), &["readme", &element.name]);
    }
}

#[test]
fn the_catalogue_lists_the_bundled_elements() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/elements.md");
    is_current(&path, &["catalogue"]);
}
