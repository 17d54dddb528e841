//! Elements, targets and archives that mean harm.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::holds;
use crate::common::toy::{Toy, names};
use crate::common::watch::{eventually, marked};
use crate::common::{self, Run as _, World};

const SECRET: &str = "secret of the host";

/// A file of the host, which nobody may change, take or remove.
fn secret(toy: &Toy) -> PathBuf {
    let directory = toy.world.home().join("host");
    fs::create_dir(&directory).expect("made");
    let path = directory.join("secret");
    fs::write(&path, SECRET).expect("written");
    path
}

#[track_caller]
fn assert_untouched(path: &std::path::Path, what: &str) {
    let directory = path.parent().expect("it has one");
    assert_eq!(names(directory), ["secret"], "{what}");
    assert_eq!(
        fs::read_to_string(path).expect("it is there"),
        SECRET,
        "{what}"
    );
    use std::os::unix::fs::MetadataExt as _;
    let meta = fs::metadata(path).expect("it is there");
    assert_eq!(meta.uid(), nix::unistd::geteuid().as_raw(), "{what}");
}

#[test]
fn elements_named_with_a_path_are_refused() {
    for (file, content, what) in [
        ("toy/element-deps", "../../outside\n", "../../outside"),
        ("toy/element-deps", "/etc\n", "/etc"),
        ("toy/element-deps", "sub/element\n", "sub/element"),
        ("toy/element-deps", "..\n", ".."),
    ] {
        let toy = Toy::basic();
        toy.file(file, content);
        let (message, _, _) = toy.build("-t tar").failure();
        assert!(message.contains(&format!("`{what}`")), "{message}");
    }
    let toy = Toy::basic();
    let outcome = toy.world.kiln().words("build ../toy -n -t tar -o x");
    assert_ne!(outcome.code(), 0);
    assert!(outcome.stderr.contains("`../toy`"), "{}", outcome.stderr);
}

#[test]
fn links_in_an_element_bring_nothing_of_the_host_into_an_image() {
    let toy = Toy::basic();
    let path = secret(&toy);
    let host = path.display().to_string();
    let up = format!("../../../../../../../../../..{host}");
    for (link, target) in [
        ("toy/install.d/60-absolute", host.as_str()),
        ("toy/install.d/61-parents", up.as_str()),
        ("toy/static/etc/absolute", host.as_str()),
        ("toy/static/etc/parents", up.as_str()),
        ("toy/static/deep", "/"),
        ("toy/secret-at-the-top", host.as_str()),
    ] {
        toy.link(link, target);
    }
    toy.hook(
        "install",
        "50-take",
        "cp -rL /tmp/in_target.d /taken 2>/dev/null || true\ncp -r /tmp/in_target.d/static /taken-links || true",
    );
    let built = toy.build("-t tar");
    if built.outcome.status.success() {
        assert!(!holds(&toy.output("tar"), SECRET));
    } else {
        // Refused as a whole is as good; the reason names the link.
        let (message, _, _) = built.failure();
        assert!(
            ["60-absolute", "61-parents", "secret-at-the-top"]
                .iter()
                .any(|name| message.contains(name)),
            "{message}"
        );
    }
    assert_untouched(&path, "links");
    toy.assert_swept();
}

#[test]
fn hooks_whose_names_are_no_names_do_not_run() {
    let toy = Toy::basic();
    for name in [
        "50-a b",
        "50-semicolon;",
        "-rf",
        "50-$(touch x)",
        "50-new\nline",
        "50-dot.sh",
    ] {
        toy.plain_hook("extra-data", name, "#!/bin/bash\necho RAN \"$0\"\n");
    }
    let built = toy.build("-t tar").success();
    let ran = built.lines_after("RAN ");
    assert!(
        ran.iter().all(|name| name.ends_with("/-rf")) && ran.len() <= 1,
        "{ran:?}"
    );
    assert_eq!(toy.outputs(), ["toy.tar"]);
}

#[test]
fn a_target_whose_shell_was_replaced_fails_cleanly_or_works() {
    let toy = Toy::basic();
    let path = secret(&toy);
    for (what, attack) in [
        (
            "a script",
            "printf '#!/bin/bash\\necho EVIL; exit 0\\n' >sh; chmod 755 sh",
        ),
        (
            "a link out",
            "ln -sf ../../../../../../../..$HOST sh; ln -sf ../../../../../../../..$HOST bash",
        ),
        ("itself", "ln -sf bash bash2; rm bash; ln -s bash bash"),
        ("a directory", "rm -f sh bash; mkdir sh bash"),
        (
            "the helper",
            "ln -sf /proc/1/exe sh; ln -sf /proc/self/exe bash",
        ),
    ] {
        toy.hook(
            "root",
            "80-attack",
            &format!(
                "cd \"$TARGET_ROOT/usr/bin\"\nHOST='{}'\n{attack}",
                path.display()
            ),
        );
        toy.hook("install", "50-work", "true");
        let built = toy.build("-t tar --overwrite --timeout 60s");
        if !built.outcome.status.success() {
            let (message, hints, _) = built.failure();
            assert!(
                message.contains("install.d") || message.contains("bash"),
                "{what}: {message}"
            );
            assert!(!hints.is_empty(), "{what}: {message}");
        } else {
            assert!(!holds(&toy.output("tar"), SECRET), "{what}");
        }
        assert_untouched(&path, what);
        toy.assert_swept();
    }
}

#[test]
fn a_race_of_path_arguments_leads_the_supervisor_nowhere() {
    let toy = Toy::basic();
    let path = secret(&toy);
    let directory = path.parent().expect("it has one").display().to_string();
    // What is a directory of the target at one moment is a link out at the next.
    let race = format!(
        "mkdir -p /race/real\n\
         ln -s ../../../../../../../..{directory} /race/link\n\
         (while :; do mv -T /race/link /race/x 2>/dev/null; mv -T /race/real /race/y 2>/dev/null\n\
            mv -T /race/y /race/link 2>/dev/null; mv -T /race/x /race/real 2>/dev/null\n\
            mv -T /race/link /race/y 2>/dev/null; mv -T /race/real /race/link 2>/dev/null; mv -T /race/y /race/real 2>/dev/null; done) &\n\
         for n in $(seq 60); do\n\
           echo x >/race/real/secret || true\n\
           chown 5:6 /race/real/secret || true\n\
           mknod /race/real/node$n c 1 3 || true\n\
           mkdir /race/real/dir$n || true\n\
           ln -s x /race/real/sym$n || true\n\
           chown -h 7:8 /race/real || true\n\
         done 2>/dev/null\n\
         kill %1"
    );
    toy.hook(
        "root",
        "20-more",
        "cp -L $(type -P seq) $TARGET_ROOT/usr/bin/",
    );
    toy.hook("install", "50-race", &race);
    for mode in ["single", "auto"] {
        let built = toy.build(&format!("-t tar --overwrite --mode {mode}"));
        if !built.had_its_mode() {
            continue;
        }
        assert_untouched(&path, mode);
        assert!(!holds(&toy.output("tar"), SECRET), "{mode}");
        toy.assert_swept();
    }
}

#[test]
fn files_that_cannot_be_changed_do_not_keep_a_build_from_being_removed() {
    let Some(chattr) = common::tool("chattr") else {
        return common::skipped("chattr is not installed");
    };
    let toy = Toy::basic();
    toy.hook(
        "root",
        "20-chattr",
        &format!(
            "cd \"$TARGET_ROOT\"\ncp -L '{0}' usr/bin/\nmkdir -p srv/later/in\n\
             ldd '{0}' | sed -nE 's@^[[:space:]]([^ ]+ => )?(/[^ ]+) .*@\\2@p' | while read -r library; do\n\
             mkdir -p \".${{library%/*}}\"; cp -L \"$library\" \".$library\"; done",
            chattr.display()
        ),
    );
    let attack = "chattr +i \"$1/etc/passwd\" 2>/dev/null && echo 'made immutable'\n\
         chattr +a \"$1/etc/group\" 2>/dev/null && echo 'made append-only'\n\
         chattr +dAS \"$1/etc/os-release\" 2>/dev/null || true\n\
         chmod 000 \"$1/srv/$2/in\" \"$1/srv/$2\"";
    toy.hook(
        "extra-data",
        "50-attributes",
        &format!(
            "mkdir -p \"$TMP_MOUNT_PATH/srv/closed/in\"\nset -- \"$TMP_MOUNT_PATH\" closed\n{attack}"
        ),
    );
    toy.hook(
        "install",
        "50-attributes",
        &format!("set -- '' later\n{attack}"),
    );
    let mut ways = vec!["", "--no-tmpfs", "--no-tmpfs --mode single"];
    if nix::unistd::geteuid().is_root() {
        ways.push("--mode chroot");
    }
    for way in ways {
        if toy
            .build(&format!("-t tar --overwrite {way}"))
            .had_its_mode()
        {
            toy.assert_swept();
        }
    }
}

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

#[test]
fn a_flood_of_output_is_passed_on_and_does_not_fill_memory() {
    let toy = Toy::basic();
    // Events that are none, in one line, and a daemon that prints for ever.
    toy.hook(
        "extra-data",
        "50-flood",
        "head -c 5000000 /dev/zero >&\"$KILN_EVENTS_FD\"\necho >&\"$KILN_EVENTS_FD\"\n(yes | tr -d '\\n') &\nsleep 0.2",
    );
    toy.hook(
        "install",
        "50-flood",
        "head -c 10000000 /dev/zero\nhead -c 200000 /dev/zero | tr '\\0' '\\n'\nprintf '\\377\\376 no text\\n'\nexit 9",
    );
    let outcome = toy.command("-t tar -q").run();
    assert_eq!(outcome.code(), 9);
    assert!(outcome.stderr.len() < 4_000_000, "{}", outcome.stderr.len());
    toy.assert_swept();
}

/// A tar member with a name that no well-meaning writer would give.
fn member(name: &str, kind: tar::EntryType, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    let bytes = header.as_mut_bytes();
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    bytes[157..157 + link.len()].copy_from_slice(link.as_bytes());
    if kind.is_block_special() || kind.is_character_special() {
        header.set_device_major(8).expect("a number");
        header.set_device_minor(0).expect("a number");
    }
    header.set_cksum();
    let mut member = header.as_bytes().to_vec();
    member.extend(content);
    member.resize(member.len().next_multiple_of(512), 0);
    member
}

fn text_of(path: &Path) -> String {
    path.to_str().expect("text").to_owned()
}

#[test]
fn archives_with_names_that_lead_out_write_nothing_outside() {
    use tar::EntryType;
    let regular = EntryType::Regular;
    let world = World::new();
    let aimed_at = world.home().join("kiln-escape");
    let (aimed_at, home) = (text_of(&aimed_at), text_of(&world.home()));
    for (what, members) in [
        (
            "parents",
            vec![member("../../../escape", regular, "", b"x")],
        ),
        ("absolute", vec![member(&aimed_at, regular, "", b"x")]),
        (
            "through a link",
            vec![
                member("way", EntryType::Symlink, "../../..", b""),
                member("way/escape", regular, "", b"x"),
            ],
        ),
        (
            "through an absolute link",
            vec![
                member("way", EntryType::Symlink, &home, b""),
                member("way/kiln-escape", regular, "", b"x"),
            ],
        ),
        (
            "a hard link out",
            vec![member(
                "stolen",
                EntryType::Link,
                "../../../etc/passwd",
                b"",
            )],
        ),
        (
            "an absolute hard link",
            vec![member("stolen", EntryType::Link, "/etc/passwd", b"")],
        ),
        (
            "a device",
            vec![member("dev/disk", EntryType::Block, "", b"")],
        ),
    ] {
        let mut archive = members.concat();
        archive.resize(archive.len() + 1024, 0);
        fs::write(world.work().join("evil.tar"), archive).expect("written");
        let outcome = world
            .kiln()
            .words("pack evil.tar -t tar -o packed --overwrite");
        assert!(
            outcome.status.success() || outcome.stderr.contains("error: "),
            "{what}: {}",
            outcome.stderr
        );
        assert!(!outcome.stderr.contains("panicked"), "{what}");
        for directory in [world.work(), world.home(), world.tmp()] {
            for name in names(&directory) {
                assert!(
                    ["evil.tar", "packed.tar"].contains(&name.as_str()),
                    "{what}: {name}"
                );
            }
        }
        if outcome.status.success() {
            let file = fs::File::open(world.work().join("packed.tar")).expect("written");
            let mut packed = tar::Archive::new(file);
            for entry in packed.entries().expect("a tar") {
                let entry = entry.expect("an entry");
                let path = entry.path().expect("a path").into_owned();
                let inside = path.is_relative()
                    && !path
                        .components()
                        .any(|part| part == std::path::Component::ParentDir);
                assert!(inside, "{what}: {}", path.display());
                assert!(entry.size() < 1000, "{what}: a file of the host was taken");
            }
        }
    }
}

#[test]
fn archives_that_grow_without_bounds_are_read_in_bounded_memory_or_refused() {
    // 128 MiB of zeroes in a few bytes, and a member that says it is larger than any disk.
    let world = World::new();
    let path = world.work().join("bomb.tar.gz");
    let file = fs::File::create(&path).expect("made");
    let mut packer = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_path("large").expect("a name");
    header.set_size(128 << 20);
    header.set_mode(0o644);
    header.set_cksum();
    packer.write_all(header.as_bytes()).expect("written");
    for _ in 0..128 {
        packer.write_all(&[0; 1 << 20]).expect("written");
    }
    packer.write_all(&[0; 1024]).expect("written");
    packer.finish().expect("written");
    let limited = |arguments: &str| {
        let mut command = world.command("/bin/sh");
        // 64 MB of memory for the program, half of the content.
        command.args(["-c", "ulimit -d 65536; exec \"$@\"", "sh"]);
        command.arg(common::kiln());
        command.words(arguments)
    };
    let outcome = limited("pack bomb.tar.gz -t tar -o packed");
    assert!(
        outcome.status.success() || outcome.stderr.contains("error: "),
        "{}",
        outcome.stderr
    );
    let _ = fs::remove_file(world.work().join("packed.tar"));
    let mut header = member("huge", tar::EntryType::Regular, "", b"");
    // Base 256, as GNU tar writes what octal digits cannot hold.
    header[124..136].copy_from_slice(&[
        0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    ]);
    header[148..156].copy_from_slice(b"        ");
    let sum: u32 = header[..512].iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    fs::write(world.work().join("huge.tar"), header).expect("written");
    let outcome = limited("pack huge.tar -t tar -o packed");
    assert_ne!(outcome.code(), 0);
    assert!(outcome.stderr.contains("error: "), "{}", outcome.stderr);
}

#[test]
fn holes_cost_a_squashfs_little_and_those_larger_than_any_disk_are_refused() {
    use std::os::unix::fs::FileExt as _;
    let world = World::new();
    let limited = |arguments: &str| {
        let mut command = world.command("/bin/sh");
        command.args(["-c", "ulimit -d 262144; exec \"$@\"", "sh"]);
        command.arg(common::kiln());
        command.words(arguments)
    };
    let length = 20 << 30;
    fs::create_dir(world.work().join("tree")).expect("made");
    let sparse = fs::File::create(world.work().join("tree/sparse")).expect("made");
    sparse.set_len(length).expect("its length");
    for at in [5 << 30, length - 3] {
        sparse.write_all_at(b"end", at).expect("written");
    }
    limited("pack tree -t squashfs -o packed").success();
    limited("cp packed.squashfs /sparse copy").success();
    let copy = fs::File::open(world.work().join("copy")).expect("copied");
    assert_eq!(copy.metadata().expect("there").len(), length);
    for (at, bytes) in [
        (5 << 30, b"end"),
        (length - 3, b"end"),
        (7 << 30, b"\0\0\0"),
    ] {
        let mut found = [1; 3];
        copy.read_exact_at(&mut found, at).expect("read");
        assert_eq!(&found, bytes, "{at}");
    }
    let archive = fs::File::create(world.work().join("holes.tar")).expect("made");
    let mut archive = tar::Builder::new(archive);
    let size = (1u64 << 62).to_string();
    let extensions: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"holes"),
        ("GNU.sparse.realsize", size.as_bytes()),
    ];
    archive.append_pax_extensions(extensions).expect("written");
    let mut map = [0; 512];
    map[..2].copy_from_slice(b"0\n");
    let mut header = tar::Header::new_ustar();
    header.set_size(512);
    header.set_mode(0o644);
    archive
        .append_data(&mut header, "holes", &map[..])
        .and_then(|()| archive.finish())
        .expect("written");
    let outcome = limited("pack holes.tar -t squashfs -o packed --overwrite");
    assert_eq!(outcome.code(), 1);
    let said = "`/holes` cannot be archived: squashfs keeps a list of the blocks";
    assert!(outcome.stderr.contains(said), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("hint: "), "{}", outcome.stderr);
}

#[test]
fn daemons_of_every_kind_end_with_the_build() {
    for mode in ["auto", "single", "chroot"] {
        let mut toy = Toy::basic();
        let mark = format!("kiln-daemon-{}-{mode}", std::process::id());
        toy.world.set("KILN_TEST_MARK", &mark);
        let daemons = "trap '' HUP INT TERM QUIT USR1 PIPE\n\
            (setsid sleep 600 </dev/null >/dev/null 2>&1 &)\n\
            ((sleep 600 &) &)\n\
            (exec -a kworker sleep 600 >/dev/null 2>&1 &)\n\
            (exec 0<&- 1>&- 2>&-; cd /; setsid setsid sleep 600 &)\n\
            (while :; do (sleep 0.1); done >/dev/null 2>&1 &)\n\
            sleep 0.1";
        toy.hook("install", "50-daemons", daemons);
        toy.hook("extra-data", "50-daemons", daemons);
        let built = toy.build(&format!("-t tar --mode {mode}"));
        if !built.had_its_mode() {
            continue;
        }
        assert!(
            eventually(|| marked(&mark).is_empty()),
            "{mode}: {:?}",
            marked(&mark)
        );
        toy.assert_swept();
    }
}
