//! What a target that means harm leaves for kiln and for hooks outside, and what these give
//! to it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::hostile::{SECRET, assert_untouched, secret};
use crate::common;
use crate::common::toy::Toy;

#[test]
fn what_hooks_leave_for_kiln_is_not_followed_to_files_of_the_host() {
    let secret = "only its owner may read this";
    for (inside, text) in [
        (true, "ln -sf \"$HOST\" \"$kiln_environment_file\""),
        (true, "ln -sf /dev/zero \"$kiln_environment_file\""),
        (false, "ln -sf \"$HOST\" \"$kiln_environment_file\""),
    ] {
        let toy = Toy::basic();
        let host = toy.world.home().join("private");
        std::fs::write(&host, format!("LEAKED={secret}\0")).expect("written");
        let phase = if inside { "install" } else { "extra-data" };
        let path = toy.file(
            "toy/environment.d/50-link.bash",
            &format!(
                "HOST='{}'\ncase $kiln_environment_file in *.{phase}) {text};; esac\n",
                host.display()
            ),
        );
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(path, mode).expect("ours");
        toy.hook(phase, "50-look", "env");
        let built = toy.build("-t tar --timeout 120s");
        let said = format!("{}\n{}", built.lines().join("\n"), built.outcome.stderr);
        assert!(!said.contains(secret), "{said}");
        // Where the link could be written through, it is the build that fails; else the
        // helper that was to write has said so.
        if !built.outcome.status.success() {
            let (message, hints, _) = built.failure();
            assert!(message.contains("environment"), "{message}");
            assert!(!hints.is_empty(), "{message}");
        }
        toy.assert_swept();
    }
}

#[test]
fn hooks_that_a_link_of_proc_leads_to_are_not_listed() {
    for (name, file) in [("post-install.d", "90-host"), ("environment.d", "90-host")] {
        let toy = Toy::basic();
        let host = toy.world.home().join("host");
        fs::create_dir(&host).expect("made");
        fs::write(host.join(file), "#!/bin/sh\n").expect("written");
        fs::set_permissions(host.join(file), fs::Permissions::from_mode(0o755)).expect("set");
        toy.hook(
            "install",
            "50-replace",
            &format!(
                "cd /tmp\n\
                 umount -l in_target.d/.kiln/record\numount -l in_target.d\n\
                 rmdir in_target.d\nmkdir -p in_target.d/post-install.d\n\
                 rm -rf in_target.d/{name}\n\
                 ln -s '/proc/self/root{}' in_target.d/{name}",
                host.display()
            ),
        );
        toy.hook("post-install", "50-own", "true");
        let built = toy.build("-t tar");
        let told = format!("{:?}", built.events);
        assert!(!told.contains(file), "{name}: {told}");
        if name == "post-install.d" {
            let (message, hints, _) = built.failure();
            let start = "cannot list `/tmp/in_target.d/post-install.d`";
            assert!(message.starts_with(start), "{message}");
            assert_eq!(hints, ["a hook moved or replaced `/tmp/in_target.d`"]);
        } else {
            assert!(told.contains("hook `post-install.d/50-own`"), "{told}");
        }
        toy.assert_swept();
    }
}

#[test]
fn directories_that_a_hook_outside_has_open_are_not_open_in_the_target() {
    let toy = Toy::basic();
    let path = secret(&toy);
    toy.hook(
        "extra-data",
        "50-open",
        "exec 0<\"$HOME/host\" 7<\"$HOME/host\"\n\
         for program in chroot 'sudo chroot'; do\n\
         exec 8<\"$HOME/host/secret\"\n\
         $program \"$TMP_MOUNT_PATH\" /bin/bash -c '\n\
         for fd in 0 7; do\n\
         cat \"/proc/self/fd/$fd/secret\" 2>/dev/null && echo \" by $fd\"\n\
         (cd \"/proc/self/fd/$fd/..\" 2>/dev/null && echo \"up by $fd\")\n\
         done\ncat <&8; echo \" given\"'\ndone",
    );
    let built = toy.build("-t tar").success();
    let lines = built.lines();
    let found = |end: &str| lines.iter().filter(|line| line.ends_with(end)).count();
    assert_eq!([found("by 0"), found("by 7")], [0, 0], "{lines:?}");
    // What a hook opens for a program, it has.
    assert_eq!(found(&format!("{SECRET} given")), 2, "{lines:?}");
    assert_untouched(&path, "open directories");
}

#[test]
fn a_file_that_a_hook_outside_lets_the_target_read_is_not_changed_by_it() {
    // In the current directory, which hooks outside may write to.
    let toy = Toy::basic();
    let given = toy.world.work().join("given");
    fs::write(&given, "first\nsecond\n").expect("written");
    let mode = || {
        fs::metadata(&given)
            .expect("it is there")
            .permissions()
            .mode()
            & 0o7777
    };
    fs::set_permissions(&given, fs::Permissions::from_mode(0o644)).expect("ours");
    toy.hook(
        "extra-data",
        "50-give",
        "for program in chroot 'sudo chroot'; do\n\
         $program \"$TMP_MOUNT_PATH\" /bin/bash -c '\n\
         chmod 4755 /proc/self/fd/0 && echo \"changed mode\"\n\
         (echo evil >/proc/self/fd/0) && echo \"changed file\"\n\
         (echo evil 1<>/proc/self/fd/9 >&0) && echo \"changed other\"\n\
         read -r line <&0; read -r line <&9; echo \"read $line\"' <given 9<given\n\
         { read -r _; $program \"$TMP_MOUNT_PATH\" /bin/cat; } <given\n\
         $program \"$TMP_MOUNT_PATH\" /bin/cat <<<\"from here\"\n\
         printf \"long %s\\n\" \"$($program \"$TMP_MOUNT_PATH\" /bin/cat <<<\"$(printf \"%0100000d\" 7)\" | wc -c)\"\n\
         $program \"$TMP_MOUNT_PATH\" /bin/cat </proc/sys/kernel/ostype\n\
         $program \"$TMP_MOUNT_PATH\" /bin/cat </proc/self/mounts | grep -c . >/dev/null && echo mounts\n\
         done 2>/dev/null",
    );
    let built = toy.build("-t tar").success();
    let lines = built.lines();
    assert!(
        !lines.iter().any(|line| line.starts_with("changed")),
        "{lines:?}"
    );
    for expected in [
        "read first",
        "second",
        "from here",
        "long 100001",
        "Linux",
        "mounts",
    ] {
        let found = lines.iter().filter(|line| *line == expected).count();
        assert_eq!(found, 2, "{expected}: {lines:?}");
    }
    let text = fs::read_to_string(&given).expect("it is there");
    assert_eq!((text.as_str(), mode()), ("first\nsecond\n", 0o644));
}

#[test]
fn a_file_that_a_hook_outside_fills_by_a_pipe_keeps_its_owner_and_mode() {
    use std::os::unix::fs::MetadataExt as _;
    let toy = Toy::basic();
    toy.hook(
        "extra-data",
        "50-give",
        "for program in chroot 'sudo chroot'; do\n\
         $program \"$TMP_MOUNT_PATH\" /bin/bash -c '\n\
         chown 33:33 /proc/self/fd/1; chmod 6755 /proc/self/fd/1; echo text' |\n\
         cat >\"given by ${program%% *}\"\ndone",
    );
    toy.build("-t tar").success();
    let work = fs::metadata(toy.world.work()).expect("it is there");
    for name in ["given by chroot", "given by sudo"] {
        let given = toy.world.work().join(name);
        assert_eq!(fs::read_to_string(&given).expect("written"), "text\n");
        let meta = fs::metadata(&given).expect("it is there");
        assert_eq!(
            (meta.uid(), meta.mode() & 0o7111),
            (work.uid(), 0),
            "{name}"
        );
    }
}

#[test]
fn directories_of_a_build_in_shared_memory_are_not_in_the_target() {
    let memory = tempfile::Builder::new()
        .prefix("kiln-test.")
        .tempdir_in("/dev/shm");
    let Ok(memory) = memory else {
        return common::skipped("nothing can be made in /dev/shm");
    };
    let mut toy = Toy::basic();
    let cache = memory.path().join("cache");
    fs::create_dir(&cache).expect("made");
    toy.world.set("TMPDIR", memory.path());
    toy.world.set("DIB_IMAGE_CACHE", &cache);
    let attack = "shopt -s nullglob\n\
         for one in /dev/shm/*/* /dev/shm/*/*/hooks; do echo \"sees $one\"; done\n\
         for hooks in /dev/shm/*/*/hooks; do mkdir -p \"$hooks/cleanup.d\"\n\
         printf \"#!/bin/bash\\necho RAN OUTSIDE\\n\" >\"$hooks/cleanup.d/40-evil\"\n\
         chmod 755 \"$hooks/cleanup.d/40-evil\"; done\n\
         : >/dev/shm/own && echo made";
    toy.hook("install", "50-attack", attack);
    toy.hook(
        "post-root",
        "50-attack",
        &format!(
            "chroot \"$TMP_MOUNT_PATH\" /bin/bash -c '{attack}'\n\
             for what in dev dev/shm; do\n\
             mount --bind \"/$what\" \"$TMP_MOUNT_PATH/$what\"\n\
             chroot \"$TMP_MOUNT_PATH\" /bin/bash -c '{attack}'\n\
             umount \"$TMP_MOUNT_PATH/$what\"\ndone\n\
             umount \"$TMP_MOUNT_PATH/dev/shm\" || :\n\
             chroot \"$TMP_MOUNT_PATH\" /bin/bash -c '{attack}'"
        ),
    );
    toy.hook(
        "cleanup",
        "50-own",
        "[ -d \"$DIB_IMAGE_CACHE\" ] && echo cleaned",
    );
    for way in ["", "--no-tmpfs", "--mode single"] {
        let built = toy.build(&format!("-t tar --overwrite {way}"));
        if !built.had_its_mode() {
            continue;
        }
        let lines = built.success().lines();
        assert!(
            !lines
                .iter()
                .any(|line| line.starts_with("sees") || line == "RAN OUTSIDE"),
            "{way}: {lines:?}"
        );
        let found = |text: &str| lines.iter().filter(|line| *line == text).count();
        assert_eq!(
            [found("made"), found("cleaned")],
            [5, 1],
            "{way}: {lines:?}"
        );
    }
}

#[test]
fn a_working_directory_that_the_target_hands_on_is_one_of_the_target() {
    for at in 3..16 {
        let toy = Toy::basic();
        let path = secret(&toy);
        toy.file(
            "toy/environment.d/50-handed.bash",
            "if [ -e /tmp/in_target.d ]; then\n\
             printf '\"$1\" \"$2\"\\nprintf \"directory=/proc/self/fd/AT\\\\0\" >\"$2.handed\"\\n' >/tmp/writer\n\
             kiln_environment=(/bin/bash /tmp/writer \"${kiln_environment[@]}\")\nfi\n"
                .replace("AT", &at.to_string())
                .as_str(),
        );
        toy.hook(
            "install",
            "50-look",
            &format!(
                "echo \"at $(/bin/ls -d . 2>&1; pwd -P 2>&1)\"\n\
                 up=.\nfor n in 1 2 3 4 5 6 7 8 9 10 11 12; do\nup=$up/..\n\
                 cat \"$up{}\" 2>/dev/null && break || :\ndone",
                path.display()
            ),
        );
        let built = toy.build("-t tar");
        let lines = built.lines();
        assert!(!lines.contains(&SECRET.to_owned()), "{at}: {lines:?}");
    }
}

#[test]
fn what_hooks_outside_bind_in_the_target_stays_in_the_target() {
    let toy = Toy::basic();
    toy.hook(
        "post-install",
        "50-link",
        "ln -s ../../../hooks/cleanup.d /var/lib/out\n\
         mkdir /srv /srv/own\n\
         ln -s /srv/own /var/lib/own",
    );
    toy.hook(
        "pre-finalise",
        "50-bind",
        "shared=$TMP_BUILD_DIR/shared\n\
         mkdir \"$shared\"\n\
         printf '#!/bin/bash\\necho RAN OUTSIDE\\n' >\"$shared/40-evil\"\n\
         chmod 755 \"$shared/40-evil\"\n\
         for name in out own; do\n\
         for options in bind bind,ro; do\n\
         mount -o \"$options\" \"$shared\" \"$TMP_MOUNT_PATH/var/lib/$name\" && echo \"$options on $name\" || :\n\
         done\ndone\n\
         (: >\"$TMP_MOUNT_PATH/srv/own/made\") 2>/dev/null || echo read-only\n\
         umount \"$TMP_MOUNT_PATH/var/lib/own\" || :\n\
         umount \"$TMP_MOUNT_PATH/var/lib/out\" && echo unmounted || :",
    );
    toy.hook(
        "finalise",
        "50-look",
        "ls /srv/own\n: >/srv/own/made && echo writable",
    );
    toy.hook("cleanup", "50-own", "echo cleaned");
    let built = toy.build("-t tar").success();
    let lines = built.lines();
    let has = |line: &str| lines.contains(&line.to_owned());
    assert!(has("cleaned") && !has("RAN OUTSIDE"), "{lines:?}");
    assert!(has("bind on own") && has("bind,ro on own"), "{lines:?}");
    assert!(
        has("40-evil") && has("read-only") && has("writable"),
        "{lines:?}"
    );
    assert!(
        ["bind on out", "bind,ro on out", "unmounted"]
            .iter()
            .all(|line| !has(line)),
        "{lines:?}"
    );
    toy.assert_swept();
}

#[test]
fn who_moves_directories_of_the_target_has_nothing_else_unmounted() {
    let toy = Toy::basic();
    let Some(python) = common::tool("python3") else {
        return common::skipped("python3 is not installed");
    };
    // A daemon that exchanges a directory for one with a link in it.
    toy.hook(
        "post-root",
        "50-race",
        &format!(
            "victim=$TMP_BUILD_DIR/victim\nmkdir -p \"$victim\"\n\
             mkdir -p \"$TMP_MOUNT_PATH/srv\"\ncd \"$TMP_MOUNT_PATH/srv\"\nmkdir -p a/own b\nln -s \"$victim\" b/own\n\
             mount --bind \"$TMP_BUILD_DIR/hooks\" \"$victim\"\n\
             {} -c 'import ctypes, time\n\
             libc = ctypes.CDLL(None)\nend = time.time() + 4\n\
             while time.time() < end:\n    libc.renameat2(-100, b\"a\", -100, b\"b\", 2)' &\n\
             for n in {{1..150}}; do\n\
             mount --bind /usr \"$TMP_MOUNT_PATH/srv/a/own\" || :\n\
             umount \"$TMP_MOUNT_PATH/srv/a/own\" || :\n\
             grep -q \" $victim \" /proc/self/mounts || {{ echo \"gone after $n\"; break; }}\n\
             done 2>/dev/null\nwait\necho done",
            python.display()
        ),
    );
    let lines = toy.build("-t tar").success().lines();
    assert!(lines.contains(&"done".to_owned()), "{lines:?}");
    let gone = |line: &String| line.starts_with("gone");
    assert!(!lines.iter().any(gone), "{lines:?}");
}

#[test]
fn what_hooks_outside_bind_from_the_target_is_the_targets() {
    let toy = Toy::basic();
    let path = secret(&toy);
    let host = path.parent().expect("it has one");
    toy.hook(
        "install",
        "50-link",
        &format!(
            "mkdir -p /srv/to \".{0}\"\n: >\"{0}/own\"\nln -s \"{0}\" /srv/from",
            host.display()
        ),
    );
    toy.hook(
        "post-root",
        "50-bind",
        "mount --bind \"$TMP_MOUNT_PATH/srv/from\" \"$TMP_MOUNT_PATH/srv/to\"\n\
         ls \"$TMP_MOUNT_PATH/srv/to\"\numount \"$TMP_MOUNT_PATH/srv/to\"",
    );
    let lines = toy.build("-t tar").success().lines();
    let has = |line: &str| lines.contains(&line.to_owned());
    assert!(has("own") && !has("secret"), "{lines:?}");
    toy.assert_swept();
}
