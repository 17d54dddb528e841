//! Elements and targets that mean harm.

use std::fs;
use std::path::PathBuf;

use super::holds;
use crate::common::toy::{Toy, names};
use crate::common::{self, Run as _};
use crate::skip;

pub(super) const SECRET: &str = "secret of the host";

/// A file of the host, which nobody may change, take or remove.
pub(super) fn secret(toy: &Toy) -> PathBuf {
    let directory = toy.world.home().join("host");
    fs::create_dir(&directory).expect("made");
    let path = directory.join("secret");
    fs::write(&path, SECRET).expect("written");
    path
}

#[track_caller]
pub(super) fn assert_untouched(path: &std::path::Path, what: &str) {
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

#[test]
fn a_user_of_the_target_gains_nothing_by_a_user_namespace() {
    let mut toy = Toy::basic();
    if common::tool("unshare").is_none() || common::tool("setfattr").is_none() {
        skip!("no unshare or setfattr");
    }
    toy.world.set("TOY_PROGRAMS", "unshare setfattr");
    // In there it is root with all capabilities, of nothing that is the target's.
    toy.hook(
        "install",
        "50-attack",
        "cd /etc\n\
         as() { chroot --userspec=33:44 / unshare -r \"$@\"; }\n\
         if as true; then echo tried; fi\n\
         if as mknod /etc/made c 10 200; then echo reached mknod; fi\n\
         if as setfattr -n trusted.kiln -v x /etc/passwd; then echo reached trusted; fi\n\
         if as setfattr -n security.kiln -v x /etc/passwd; then echo reached security; fi\n\
         if [ -e /etc/made ]; then echo reached /etc; fi\n\
         # What root makes there is recorded as before.\n\
         if unshare -r mknod /etc/own c 10 200 && [ -e /etc/own ]; then echo made; fi",
    );
    let built = toy.build("-t tar");
    if built.lines_after("tried").is_empty() {
        skip!("users of the target make no user namespaces here");
    }
    let built = built.success();
    assert_eq!(built.lines_after("reached "), Vec::<String>::new());
    assert_eq!(built.lines_after("made"), [""]);
}

#[test]
fn a_user_of_the_target_makes_devices_where_it_may_make_files() {
    let mut toy = Toy::basic();
    if common::tool("setpriv").is_none() {
        skip!("no setpriv");
    }
    toy.world.set("TOY_PROGRAMS", "setpriv");
    // It has the capability for devices, and no other.
    toy.hook(
        "install",
        "50-attack",
        "as() { setpriv --reuid $1 --regid $1 --clear-groups --inh-caps=+mknod \\\n\
             --ambient-caps=+mknod --bounding-set=-dac_override \"${@:2}\"; }\n\
         mkdir -m 755 /mine /ours /closed && chown 33:0 /mine && chown 0:33 /ours\n\
         chmod 775 /ours && chmod 1777 /tmp\n\
         as 33 true && echo tried\n\
         for place in /etc /mine /ours /closed /tmp; do\n\
             as 33 mknod $place/device c 10 200 && stat -c 'made %n %u' $place/device || :\n\
         done",
    );
    let built = toy.build("-t tar");
    if built.lines_after("tried").is_empty() {
        skip!("no program keeps capabilities here");
    }
    let made = built.success().lines_after("made ");
    // In mode single it has no capabilities.
    if !made.is_empty() {
        assert_eq!(
            made,
            ["/mine/device 33", "/ours/device 33", "/tmp/device 33"]
        );
    }
}

#[test]
fn what_a_program_mounts_on_its_files_of_proc_does_not_fill_the_engines_memory() {
    let toy = Toy::basic();
    toy.hook(
        "install",
        "50-attack",
        "truncate -s 256M /tmp/large && mount --bind /tmp/large /proc/$$/status || exit 0\n\
         echo tried; stat -L -c 'is a %F' /proc/self/fd/0 /proc/$$/fd/0 >/dev/null\n\
         umount /proc/$$/status\n\
         for one in /proc/[0-9]*/status; do\n\
             sed -n 's/VmHWM:[^0-9]*/peak /p' $one 2>/dev/null || :\n\
         done; rm /tmp/large",
    );
    let built = toy.build("-t tar --mode single");
    if !built.had_its_mode() || built.lines_after("tried").is_empty() {
        skip!("mode single is not available here, or nothing can be mounted on /proc");
    }
    for peak in built.success().lines_after("peak ") {
        let kibibytes = peak.trim_end_matches(" kB").parse::<u64>();
        let kibibytes = kibibytes.expect("a number");
        assert!(kibibytes < 128 << 10, "{peak}");
    }
}
