//! `diskimage-builder`: images from YAML files.

use crate::common::toy::{Toy, names};
use crate::common::{Run as _, World};

#[test]
fn a_dry_run_prints_the_commands_and_runs_none() {
    let world = World::new();
    world.write(
        "images.yaml",
        "- imagename: one\n  types: [raw]\n  elements: [vm, debian-minimal]\n\
         - imagename: two\n  ramdisk: true\n  environment: {A: 'b c'}\n  elements: [x]\n",
    );
    world.write("more.yaml", "- imagename: one\n  packages: [vim]\n");
    let outcome = world
        .face("diskimage-builder")
        .words("--dry-run images.yaml more.yaml");
    assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
    assert_eq!(
        outcome.stderr,
        "disk-image-create -o one -t raw -p vim vm debian-minimal\n\n\
         A='b c' ramdisk-image-create -o two x\n\n"
    );
    assert_eq!(names(&world.work()), ["images.yaml", "more.yaml"]);
}

#[test]
fn every_image_is_built_with_its_environment_although_one_fails() {
    let toy = Toy::basic();
    toy.hook(
        "install",
        "50-x",
        "printf '%s' \"${WHAT:-}\" >/etc/what\n[ \"${WHAT:-}\" != fail ]",
    );
    toy.world.write(
        "images.yaml",
        "- imagename: bad\n  types: [tar]\n  skip-base: true\n  environment: {WHAT: fail}\n  elements: [toy]\n\
         - imagename: good\n  types: [tar]\n  skip-base: true\n  environment: {WHAT: \"a\\nb\"}\n  elements: [toy]\n",
    );
    let outcome = toy.world.face("diskimage-builder").words("images.yaml");
    assert_eq!(outcome.code(), 1);
    assert!(
        outcome
            .stderr
            .contains("error: 1 of 2 images failed: `bad` (exit status 1)\n"),
        "{}",
        outcome.stderr
    );
    assert!(!toy.world.work().join("bad.tar").exists());
    let content = toy
        .world
        .command("tar")
        .words("-xOf good.tar ./etc/what")
        .success();
    assert_eq!(content, "a\nb");
    let outcome = toy
        .world
        .face("diskimage-builder")
        .words("--stop-on-failure images.yaml");
    assert_eq!(outcome.code(), 1);
    assert!(!outcome.stderr.contains("-o good"), "{}", outcome.stderr);
}

#[test]
fn mistakes_have_dibs_exit_statuses() {
    let world = World::new();
    world.write("null.yaml", "- logfile:\n");
    world.write("map.yaml", "imagename: x\n");
    for (line, code, message) in [
        ("", 2, "error: no file is given\n"),
        (
            "--dry-rum x",
            2,
            "error: unknown option `--dry-rum`\nhint: did you mean `--dry-run`?\n",
        ),
        (
            "absent.yaml",
            1,
            "error: cannot read `absent.yaml`: No such file or directory (os error 2)\n",
        ),
        (
            "null.yaml",
            1,
            "error: entry 1 of `null.yaml`: `logfile` is null where text is expected\n",
        ),
        (
            "map.yaml",
            1,
            "error: `map.yaml` is a mapping where a list of images is expected\n",
        ),
    ] {
        let outcome = world.face("diskimage-builder").words(line);
        assert_eq!(outcome.code(), code, "{line}: {}", outcome.stderr);
        assert!(
            outcome.stderr.starts_with(message),
            "{line}: {}",
            outcome.stderr
        );
        assert!(
            outcome.stderr.contains("\nhint: "),
            "{line}: {}",
            outcome.stderr
        );
    }
    let schema = world.face("diskimage-builder").words("--schema").success();
    let schema: serde_json::Value = serde_json::from_str(&schema).expect("JSON");
    assert_eq!(schema["items"]["additionalProperties"], false);
}
