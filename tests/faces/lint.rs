//! `dib-lint`: rules of style for elements.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::common::{Run as _, World};

const GOOD: &str = "#!/bin/bash\nif [ \"${DIB_DEBUG_TRACE:-0}\" -gt 0 ]; then\n    set -x\nfi\n\
    set -eu\nset -o pipefail\ntrue\n";

fn executable(world: &World, path: &str, text: &str) {
    let path = world.write(path, text);
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("the mode can be set");
}

#[test]
fn good_elements_pass_and_others_are_named_with_file_line_and_rule() {
    let world = World::new();
    world.write("elements/good/README.rst", "Good\n");
    executable(&world, "elements/good/install.d/50-good", GOOD);
    assert_eq!(world.face("dib-lint").run().success(), "PASS\n");

    executable(
        &world,
        "elements/bad/root.d/50-bad",
        &format!("{GOOD}sudo rm -rf /srv\n"),
    );
    world.write("elements/bad/element-deps", "b\na\n");
    let outcome = world.face("dib-lint").run();
    assert_eq!(outcome.code(), 1);
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{}", outcome.stdout);
    assert!(
        lines[0].starts_with("ERROR: elements/bad: "),
        "{}",
        lines[0]
    );
    assert!(lines[0].ends_with("(readme)"), "{}", lines[0]);
    assert!(lines[1].starts_with("ERROR: elements/bad/element-deps:2: "));
    assert!(lines[2].starts_with("ERROR: elements/bad/root.d/50-bad:8: "));
    assert!(lines[2].ends_with("(safe_sudo)"), "{}", lines[2]);
    assert_eq!(lines[3], "*** FAIL: 3 findings");
    assert_eq!(
        world.face("dib-lint").words("--nonsense").code(),
        2,
        "argument mistakes have their own status"
    );
}

#[test]
fn a_project_says_what_does_not_count() {
    let mut world = World::new();
    world.write("elements/e/README.rst", "E\n");
    executable(
        &world,
        "elements/e/install.d/50-e",
        &format!("{GOOD}which ls\n\ttrue\n"),
    );
    executable(
        &world,
        "elements/e/bin/tool",
        "#!/usr/bin/python3\nimport os\n",
    );
    // One that is in the way of a flake8 of this machine.
    let programs = world.home().join("programs");
    fs::create_dir(&programs).expect("made");
    let flake8 = programs.join("flake8");
    fs::write(&flake8, "#!/bin/sh\necho \"$1:2:1: F401 unused\"\nexit 1\n").expect("written");
    fs::set_permissions(&flake8, fs::Permissions::from_mode(0o755)).expect("set");
    let path = std::env::var("PATH").expect("there is a PATH");
    world.set("PATH", format!("{}:{path}", programs.display()));
    let rules = |world: &World| {
        let outcome = world.face("dib-lint").run();
        let lines = outcome.stdout.lines();
        let mut rules: Vec<String> = lines
            .filter_map(|line| line.strip_prefix("ERROR: ")?.strip_suffix(')'))
            .filter_map(|line| Some(line.rsplit_once('(')?.1.to_owned()))
            .collect();
        rules.sort();
        rules
    };
    assert_eq!(rules(&world), ["flake8", "tabindent", "which"]);
    // Documents in Markdown are for elements that kiln's own file describes.
    let more = world.write("elements/e/docs/more.md", "More\n");
    assert_eq!(rules(&world), ["flake8", "mddocs", "tabindent", "which"]);
    let described = world.write("elements/e/element.yaml", "summary: An example\n");
    assert_eq!(rules(&world), ["flake8", "tabindent", "which"]);
    fs::remove_file(described).expect("removed");
    fs::remove_file(more).expect("removed");
    world.set("LIB_DIR", "lib");
    // Files of no element are held to little.
    let helper = world.write("lib/functions", "#!/bin/bash\ntrue");
    assert_eq!(rules(&world), ["flake8", "newline", "tabindent", "which"]);
    fs::remove_file(helper).expect("removed");
    world.write("tox.ini", "[dib-lint]\nignore = which flake8\n");
    assert_eq!(rules(&world), ["tabindent"]);
    if crate::common::image::missing(&["git"]).is_none() {
        world.write(".gitignore", "50-*\n");
        let init = world.command("git").args(["init", "-q"]).status();
        assert!(init.expect("git can be started").success());
        assert_eq!(rules(&world), [""; 0]);
    }
}

#[test]
fn a_layout_that_no_build_takes_is_named() {
    let world = World::new();
    world.write("elements/disk/README.rst", "A disk\n");
    let layout = |size: &str| {
        let text = format!(
            "- local_loop: {{name: image0, size: 1GiB}}\n\
             - partitioning:\n    base: image0\n    label: gpt\n    partitions:\n      \
             - {{name: root, size: {size}, mkfs: {{mount: {{mount_point: /}}}}}}\n"
        );
        world.write("elements/disk/block-device-default.yaml", &text);
        world.face("dib-lint").run()
    };
    assert_eq!(layout("100%").success(), "PASS\n");
    for (size, said) in [
        ("2GiB", "partition `root` asks for 2147483648 bytes"),
        ("0", "partition `root` has a size of 0 bytes"),
        ("1k", "unit_str [k] not known"),
    ] {
        let outcome = layout(size);
        assert_eq!(outcome.code(), 1, "{size}");
        let first = outcome.stdout.lines().next().unwrap_or_default();
        let start = "ERROR: elements/disk/block-device-default.yaml: ";
        assert!(first.starts_with(start), "{first}");
        assert!(
            first.contains(said) && first.ends_with("(blockdevice)"),
            "{first}"
        );
    }
}
