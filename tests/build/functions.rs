//! The shell functions of diskimage-builder that hooks source from `$_LIB`.

use crate::common::toy::Toy;
use crate::dib_functions::FUNCTIONS;

const SOURCE: &str = "set -eu -o pipefail\nfor file in common-defaults img-defaults \
    ramdisk-defaults common-functions img-functions ramdisk-functions; do source \"$_LIB/$file\"; done\n";

/// Lines that name each function that sourcing one file defines.
fn defined() -> String {
    FUNCTIONS
        .iter()
        .map(|(file, functions)| {
            format!(
                "for name in {}; do\n    [ \"$(set -eu; source \"$_LIB/{file}\"; type -t \"$name\")\" = function ] || echo \"undefined: {file} $name\"\ndone\n",
                functions.join(" ")
            )
        })
        .collect()
}

/// What an element does that builds a second root, as diskimage-builder does.
const BUILD: &str = r#"
(
    mk_build_dir
    [ "$TMP_HOOKS_PATH" = "$TMP_BUILD_DIR/hooks" ]
    check_element
    echo "merged: $(cd "$TMP_HOOKS_PATH" && echo *.d/50-* element-provides)"
    (copy_hooks_not_overwrite "$TOY/extra.d") || echo "twice: $?"
    run_d extra "$TMP_BUILD_DIR/printed"
    echo "printed: $(cat "$TMP_BUILD_DIR/printed")"
    eval_run_d extra "^TOY_VALUE="
    echo "evaluated: $TOY_VALUE"
    run_d failing || echo "failing: $?"
    create_base
    echo "base: $(ls "$TMP_MOUNT_PATH/usr/bin/bash" | grep -c .) $(cat "$TMP_MOUNT_PATH/etc/resolv.conf.ORIG") $(ls "$TMP_MOUNT_PATH/proc/self/status" | grep -c .)"
    echo "words: $(run_in_target 'echo "$HOME" |' tr / +)"
    run_d_in_target inside
    run_in_target 'sleep 300 & exec >/dev/null; echo $!' || :
    mkdir -p "$TMP_MOUNT_PATH"/tmp/left "$TMP_MOUNT_PATH"/var/log
    echo line >"$TMP_MOUNT_PATH/var/log/messages"
    finalise_base
    echo "final: $(ls -A "$TMP_MOUNT_PATH/tmp" | grep -c . || :) $(stat -c %s "$TMP_MOUNT_PATH/var/log/messages") $(cat "$TMP_MOUNT_PATH/etc/resolv.conf")"
    mkdir -p "$OUTPUT/host/log"
    echo line >"$OUTPUT/host/log/messages"
    mv "$TMP_MOUNT_PATH/var" "$TMP_MOUNT_PATH/old"
    ln -s "$OUTPUT/host" "$TMP_MOUNT_PATH/var"
    finalise_base
    echo "outside: $(cat "$OUTPUT/host/log/messages")"
    own=$TMP_BUILD_DIR
    echo made >"$TMP_IMAGE_PATH"
    echo old >"$OUTPUT/second.raw"
    echo sum >"$OUTPUT/second.raw.md5"
    DIB_CHECKSUM=sha256 IMAGE_TYPE=raw compress_and_save_image "$OUTPUT/second.raw"
    echo own >"$OUTPUT/own"
    OUT_IMAGE_PATH=$OUTPUT/own save_image "$OUTPUT/third"
    echo "$own" >"$OUTPUT/where"
)
[ -d "$(cat "$OUTPUT/where")" ] || echo "cleaned: yes"
(DIB_BLOCK_DEVICE_CONFIG='- local_loop: {name: x}'; block_device_create_config_file "$OUTPUT/one"; cat "$OUTPUT/one"; echo)
(block_device_create_config_file "$OUTPUT/two"; cat "$OUTPUT/two")
(DIB_MIN_TMPFS=999999999; tmpfs_check) 2>&1 || echo "memory: $?"
(break=before-extra,after-error; check_break before-extra echo broken; check_break after-extra echo never)
for name in arg_to_elements _arg_defaults_hack copy_elements_lib create_base finalise_base; do
    ("$name" 2>&1) || echo "refused: $name $?"
done
(INSTALL_PACKAGES=; do_extra_package_install; cleanup; ls -d "$TMP_BUILD_DIR" | sed 's/.*/kept/')
"#;

#[test]
fn every_function_of_dib_is_defined_and_does_what_hooks_call_it_for() {
    let mut toy = Toy::basic();
    toy.hook("install", "50-names", &format!("{SOURCE}{}", defined()));
    toy.hook(
        "root",
        "90-resolv",
        "echo '# own' >\"$TARGET_ROOT/etc/resolv.conf\"",
    );
    toy.hook("failing", "50-fails", "exit 4");
    toy.hook("inside", "50-inside", "echo \"inside: $PWD $0\"");
    toy.hook("extra", "50-own", "echo 'TOY_VALUE=\"two words\"'");
    toy.file("toy/block-device-default.yaml", crate::common::toy::GPT);
    toy.hook(
        "extra-data",
        "50-functions",
        &format!("{SOURCE}{}{BUILD}", defined()),
    );
    let output = toy.world.work().join("made");
    std::fs::create_dir(&output).expect("it can be made");
    let elements = toy.world.home().join("elements/toy");
    toy.world.set("OUTPUT", &output).set("TOY", elements);
    let built = toy.build("-t tar -a amd64").success();
    let after = |prefix: &str| built.lines_after(prefix).join("|");
    let expected = [
        ("undefined: ", ""),
        (
            "merged: ",
            "extra-data.d/50-functions extra.d/50-own failing.d/50-fails inside.d/50-inside \
             install.d/50-names element-provides",
        ),
        ("twice: ", "1"),
        ("printed: ", "TOY_VALUE=\"two words\""),
        ("evaluated: ", "two words"),
        ("failing: ", "4"),
        ("base: ", "1 # own 1"),
        ("words: ", "+root"),
        ("inside: ", "/ /tmp/in_target.d/inside.d/50-inside"),
        ("final: ", "0 0 # own"),
        ("outside: ", "line"),
        ("cleaned: ", "yes"),
        ("- local_loop: ", "{name: x}"),
        ("memory: ", "1"),
        ("broken", ""),
        (
            "refused: ",
            "arg_to_elements 1|_arg_defaults_hack 1|copy_elements_lib 1|create_base 1|finalise_base 1",
        ),
        ("kept", ""),
    ];
    for (prefix, value) in expected {
        assert_eq!(after(prefix), value, "{prefix}");
    }
    for line in ["broken", "kept"] {
        assert!(
            built.lines().iter().any(|printed| printed == line),
            "{line}"
        );
    }
    let read = |name: &str| std::fs::read_to_string(output.join(name)).expect("it was made");
    assert_eq!(read("two"), crate::common::toy::GPT);
    assert_eq!(read("second.raw"), "made\n");
    assert!(read("second.raw.sha256").ends_with("second.raw\n"));
    assert_eq!(read("third"), "own\n");
    let names = crate::common::toy::names(&output);
    let aside: Vec<&String> = names
        .iter()
        .filter(|name| name.starts_with("second-"))
        .collect();
    assert!(
        aside.len() == 2 && aside[0].ends_with(".raw") && aside[1].ends_with(".raw.md5"),
        "{names:?}"
    );
}
