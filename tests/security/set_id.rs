//! Nothing that outlives a build is given set-id bits or capabilities by hooks.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use crate::common;
use crate::common::toy::Toy;

/// Tries all calls in a directory.
const WAYS: &str = include_str!("set_id.py");

/// A toy whose hooks can try all ways; `None` if this host cannot.
fn toy() -> Option<Toy> {
    if common::tool("python3").is_none() {
        common::skipped("python3 is not installed");
        return None;
    }
    let toy = Toy::basic();
    toy.file("toy/ways.py", WAYS);
    Some(toy)
}

/// Fails if a file below a directory has a set-id bit or capabilities.
fn assert_clear(directory: &Path) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        let found = fs::symlink_metadata(&path).expect("it is there");
        if found.is_dir() {
            // An overlay leaves one that nobody can read.
            if found.mode() & 0o700 == 0 {
                let mode = fs::Permissions::from_mode(0o700);
                fs::set_permissions(&path, mode).expect("ours");
            }
            assert_clear(&path);
        } else if found.is_file() {
            assert_eq!(found.mode() & 0o6000, 0, "{}", path.display());
            let mut names = [0; 4096];
            let on = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).expect("a path");
            let size = kiln::sandbox::xattr::list(kiln::sandbox::xattr::On::Path(&on), &mut names);
            let names = &names[..size.unwrap_or(0)];
            let capable = names
                .split(|&byte| byte == 0)
                .any(|name| name == b"security.capability");
            assert!(!capable, "{}", path.display());
        }
    }
}

/// What hooks print in a mode; `None` if this host has not got it.
fn lines_of(toy: &Toy, arguments: &str) -> Option<Vec<String>> {
    let built = toy.build(&format!("-t tar {arguments}"));
    if !built.outcome.status.success() {
        let (message, _, _) = built.failure();
        let is_refused = ["kiln runs as user", "subordinate ids"]
            .iter()
            .any(|refusal| message.contains(refusal));
        if is_refused {
            println!("{arguments}: {message}");
            return None;
        }
    }
    Some(built.success().lines())
}

const MODES: [&str; 3] = ["root", "subordinate", "single"];

#[test]
fn no_call_leaves_set_id_bits_or_capabilities_on_what_outlives_the_build() {
    for (mode, place) in MODES
        .iter()
        .flat_map(|mode| ["", "--no-tmpfs"].map(|place| (mode, place)))
    {
        let Some(toy) = toy() else { return };
        toy.hook(
            "extra-data",
            "50-try",
            "ways=$HOME/elements/toy/ways.py\n\
             mkdir -p \"$DIB_IMAGE_CACHE/x\" \"$TMP_BUILD_DIR/x\" \"$TMP_MOUNT_PATH/x\" tried\n\
             python3 \"$ways\" \"$TMP_BUILD_DIR/x\" build\n\
             python3 \"$ways\" \"$TMP_MOUNT_PATH/x\" target\n\
             python3 \"$ways\" tried here\n\
             python3 \"$ways\" \"$DIB_IMAGE_CACHE/x\" cache\n\
             chmod 6755 tried && echo directory\n\
             overlay() {\n\
             mkdir -p \"$1/lower\" \"$1/upper\" \"$1/work\" \"$TMP_BUILD_DIR/$2\"\n\
             mount -t overlay overlay \"$TMP_BUILD_DIR/$2\" -o \
             \"lowerdir=$1/lower,upperdir=$1/upper,workdir=$1/work,userxattr\" || return 0\n\
             python3 \"$ways\" \"$TMP_BUILD_DIR/$2\" \"$2\"\n\
             }\n\
             overlay \"$PWD/tried\" over\n\
             overlay \"$TMP_BUILD_DIR/y\" above\n\
             mkdir \"$TMP_BUILD_DIR/bound\"\n\
             mount --bind tried \"$TMP_BUILD_DIR/bound\"\n\
             python3 \"$ways\" \"$TMP_BUILD_DIR/bound\" bound\n\
             mkdir \"$TMP_BUILD_DIR/z\"\n\
             mount --bind \"$TMP_BUILD_DIR/z\" tried\n\
             python3 \"$ways\" tried bind\n\
             mount -t tmpfs none tried\n\
             python3 \"$ways\" tried memory",
        );
        let Some(lines) = lines_of(&toy, &format!("--mode {mode} {place}")) else {
            continue;
        };
        let what = format!("{mode} {place}: {lines:#?}");
        assert_clear(&toy.world.work());
        assert_clear(&toy.world.home());
        let set = |place: &str| {
            let ways = lines.iter().filter_map(|line| {
                let way = line.strip_prefix(place)?.strip_prefix(" by_")?;
                way.strip_suffix(" set")
            });
            ways.collect::<Vec<_>>()
        };
        let most = [
            "chmod",
            "link_of_proc",
            "fchmod",
            "fchmodat",
            "open",
            "creat",
            "mknod",
            "shared_descriptor",
            "setxattr",
            "fsetxattr",
            "lsetxattr",
        ];
        for place in ["build", "target", "bind", "memory", "above"] {
            let set = set(place);
            for way in most {
                assert!(set.contains(&way), "{place} {way}, {what}");
            }
        }
        assert!(set("build").contains(&"unnamed"), "{what}");
        for place in ["here", "cache", "bound", "over"] {
            assert!(set(place).is_empty(), "{place}, {what}");
            assert!(
                lines.contains(&format!("{place} by_chmod clear")),
                "{place}, {what}"
            );
        }
        assert!(lines.iter().any(|line| line == "directory"), "{what}");
    }
}

#[test]
fn a_file_that_the_target_is_given_gets_no_set_id_bits() {
    for mode in MODES {
        let toy = Toy::basic();
        toy.hook(
            "extra-data",
            "50-give",
            "for program in chroot 'sudo chroot'; do\n\
             $program \"$TMP_MOUNT_PATH\" /bin/bash -c '\n\
             chmod 0755 /proc/self/fd/1 && echo changed >&2\n\
             cp -p /bin/true /set; chmod 4755 /set && [ -u /set ] && echo own >&2\n\
             echo text; chmod 6755 /proc/self/fd/1; :' >\"given by ${program%% *}\"\n\
             done",
        );
        let Some(lines) = lines_of(&toy, &format!("--mode {mode}")) else {
            continue;
        };
        let count = |text: &str| lines.iter().filter(|line| *line == text).count();
        assert_eq!(
            [count("changed"), count("own")],
            [2, 2],
            "{mode}: {lines:?}"
        );
        for name in ["given by chroot", "given by sudo"] {
            let given = toy.world.work().join(name);
            assert_eq!(fs::read_to_string(&given).expect("written"), "text\n");
            let mode = fs::metadata(&given)
                .expect("it is there")
                .permissions()
                .mode();
            assert_eq!(mode & 0o7777, 0o755, "{name}");
        }
    }
}

#[test]
fn set_id_programs_of_a_target_on_disk_are_out_of_reach_of_other_users() {
    if common::tool("perl").is_none() {
        return common::skipped("perl is not installed");
    }
    for mode in ["root", "subordinate", "single"] {
        // Below a directory that hooks may change.
        let mut toy = Toy::basic();
        let above = toy.world.work().join("a");
        let tmp = above.join("b");
        fs::create_dir_all(&tmp).expect("made");
        for directory in [&above, &tmp] {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).expect("ours");
        }
        toy.world.set("TMPDIR", &tmp);
        toy.hook(
            "extra-data",
            "50-open",
            "cp /bin/true \"$TMP_MOUNT_PATH/x\"; chmod 4755 \"$TMP_MOUNT_PATH/x\"\n\
             [ -u \"$TMP_MOUNT_PATH/x\" ] && echo bits\n\
             set +e\n\
             around=${TMP_BUILD_DIR%/*}\n\
             chmod 0755 \"$TMP_BUILD_DIR\" \"$around\" 2>/dev/null\n\
             move() { perl -e 'exit !rename shift, shift' \"$1\" \"$2\" && echo \"moved $1\"; }\n\
             move a c; move a/b a/c; move \"$around\" a/x; move \"$TMP_BUILD_DIR\" a/y\n\
             move \"$TMP_BUILD_DIR/mnt/x\" a/z\n\
             unshare -m sh -c 'umount -l a; mv a c' 2>/dev/null\n\
             umount -l \"$around\" a/b a 2>/dev/null\n\
             mkdir m; mount --rbind a m\n\
             for path in m/b/*/build m/b/* m/b m; do umount -l \"$path\" 2>/dev/null; done\n\
             chmod 0755 m/b/* 2>/dev/null\n\
             chmod 0755 \"$around\" 2>/dev/null\n\
             stat -c 'mode %a' \"$around\"; ls -d a/b/*/build",
        );
        let Some(lines) = lines_of(&toy, &format!("--no-tmpfs --mode {mode}")) else {
            continue;
        };
        let has = |text: &str| lines.iter().any(|line| line == text);
        assert!(has("bits") && has("mode 700"), "{mode}: {lines:?}");
        let moved = lines.iter().any(|line| line.starts_with("moved"));
        assert!(!moved, "{mode}: {lines:?}");
        let left = fs::read_dir(&tmp).expect("it is there").count();
        assert_eq!(left, 0, "{mode}: {lines:?}");
    }
}

#[test]
fn a_hook_that_needs_set_id_bits_where_there_are_none_is_told_why() {
    let toy = Toy::basic();
    toy.hook("extra-data", "50-set", "cp /bin/true x; chmod 4755 x");
    let (_, hints, _) = toy.build("-t tar").failure();
    let expected = "`x` was given no set-id bits and no capabilities: ";
    assert!(
        hints.iter().any(|hint| hint.starts_with(expected)),
        "{hints:?}"
    );
}
