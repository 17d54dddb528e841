//! What hooks and targets can reach: not the host.

#[path = "common/archive.rs"]
mod archive;
#[path = "security/bombs.rs"]
mod bombs;
#[path = "security/break_points.rs"]
mod break_points;
#[path = "security/calls.rs"]
mod calls;
mod common;
#[path = "security/confined.rs"]
mod confined;
#[path = "security/fenceless.rs"]
mod fenceless;
#[path = "security/handed.rs"]
mod handed;
#[path = "security/hostile.rs"]
mod hostile;
#[path = "security/hostile_archives.rs"]
mod hostile_archives;
#[path = "security/isolation.rs"]
mod isolation;
#[path = "security/limits.rs"]
mod limits;
#[path = "security/network.rs"]
mod network;
#[path = "security/processes.rs"]
mod processes;
#[path = "security/set_id.rs"]
mod set_id;
#[path = "security/stand_ins.rs"]
mod stand_ins;
#[path = "security/survivors.rs"]
mod survivors;
#[path = "security/ways_out.rs"]
mod ways_out;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use common::toy::Toy;
use common::watch::{eventually, marked};

/// A file of the host that no build may change, read, or remove.
struct Canary {
    directory: PathBuf,
}

const SECRET: &str = "canary of the host";

impl Canary {
    fn new(toy: &Toy) -> Canary {
        Canary::below(&toy.world.home())
    }

    fn below(directory: &Path) -> Canary {
        let directory = directory.join("canary");
        fs::create_dir(&directory).expect("a directory can be made");
        for name in ["file", "resolv.conf", "fstab", "messages", "passwd"] {
            fs::write(directory.join(name), SECRET).expect("a file can be written");
        }
        Canary { directory }
    }

    fn path(&self) -> String {
        self.directory.display().to_string()
    }

    #[track_caller]
    fn assert_untouched(&self, what: &str) {
        assert_eq!(
            common::toy::names(&self.directory),
            ["file", "fstab", "messages", "passwd", "resolv.conf"],
            "{what}"
        );
        for name in ["file", "resolv.conf", "fstab", "messages", "passwd"] {
            let text = fs::read_to_string(self.directory.join(name)).expect("it is there");
            assert_eq!(text, SECRET, "{what}: {name} was changed");
        }
    }
}

#[test]
fn hooks_outside_can_write_the_build_the_cache_and_the_current_directory_alone() {
    let toy = Toy::basic();
    let canary = Canary::new(&toy);
    toy.hook(
        "extra-data",
        "50-write",
        &format!(
            "try() {{ if (: >>\"$1\") 2>/dev/null; then echo \"wrote $1\"; fi; }}\n\
             try /etc/kiln-test\ntry /etc/passwd\ntry /usr/bin/kiln-test\ntry /var/tmp/kiln-test\n\
             try /tmp/kiln-test\ntry /root/kiln-test\ntry /proc/sys/kernel/hostname\n\
             try /proc/sysrq-trigger\ntry /sys/power/state\ntry /dev/shm/kiln-test\n\
             try '{canary}/file'\ntry \"$HOME/kiln-test\"\ntry \"$DIB_IMAGE_CACHE/kiln-test\"\n\
             try \"$TMP_BUILD_DIR/kiln-test\"\ntry \"$PWD/kiln-test\"\ntry \"${{TMPDIR}}/kiln-test\"\n\
             if rm '{canary}/file' 2>/dev/null; then echo removed; fi\n\
             if chmod 777 '{canary}' 2>/dev/null; then echo changed; fi",
            canary = canary.path()
        ),
    );
    let built = toy.build("-t tar").success();
    let mut wrote = built.lines_after("wrote ");
    wrote.sort();
    let build = wrote
        .iter()
        .filter(|path| path.starts_with(&format!("{}/kiln_build.", toy.world.tmp().display())))
        .count();
    assert_eq!(build, 2, "{wrote:?}");
    let mut rest: Vec<&String> = wrote
        .iter()
        .filter(|path| !path.contains("/kiln_build."))
        .collect();
    rest.sort();
    let cache = toy
        .world
        .home()
        .join(".cache/image-create/kiln-test")
        .display()
        .to_string();
    let own = toy.world.work().join("kiln-test").display().to_string();
    assert_eq!(rest, ["/dev/shm/kiln-test", &cache, &own]);
    assert!(
        !PathBuf::from("/dev/shm/kiln-test").exists(),
        "that was the host's /dev/shm"
    );
    for word in ["removed", "changed"] {
        assert!(!built.lines().contains(&word.to_owned()), "{word}");
    }
    canary.assert_untouched("outside");
}

#[test]
fn devices_of_the_host_are_not_there_and_cannot_be_made() {
    // What hooks make is recorded for the image, and opens no device.
    let toy = Toy::basic();
    let look = "find /dev -type b | sed 's/^/block /'\n\
        find /dev -type c | sed 's/^/char /'\n\
        for device in 'disk b 8 0' 'random c 1 9'; do\n\
        set -- \"$1\" $device\n\
        if mknod \"$1/$2\" \"$3\" \"$4\" \"$5\" 2>/dev/null; then echo \"made $2\"; fi\n\
        if read -r -N 1 byte 2>/dev/null <\"$1/$2\"; then echo \"block $2 was read\"; fi\n\
        done";
    toy.hook(
        "extra-data",
        "50-look",
        &format!("set -- \"$TMP_BUILD_DIR\"\n{look}"),
    );
    toy.hook("install", "50-look", &format!("set -- /home\n{look}"));
    let built = toy.build("-t tar").success();
    assert_eq!(built.lines_after("block "), Vec::<String>::new());
    for device in built.lines_after("char ") {
        let name = device.trim_start_matches("/dev/");
        let harmless = [
            "null", "zero", "full", "random", "urandom", "tty", "pts/ptmx",
        ];
        assert!(harmless.contains(&name), "{device}");
    }
}

#[test]
fn hooks_see_the_processes_of_the_build_alone() {
    let toy = Toy::basic();
    let look = "ls /proc | grep -cE '^[0-9]+$' | sed 's/^/count /'\n\
        cat /proc/1/cmdline | tr '\\0' ' ' | head -c 200 | sed 's/^/first /'; echo\n\
        if kill -0 4000000 2>/dev/null; then echo signalled; fi";
    toy.hook("extra-data", "50-look", look);
    toy.hook("install", "50-look", look);
    let built = toy.build("-t tar").success();
    let counts = built.lines_after("count ");
    assert_eq!(counts.len(), 2);
    for count in counts {
        assert!(
            count.parse::<u32>().is_ok_and(|count| count < 12),
            "{count} processes"
        );
    }
}

#[test]
fn hooks_inside_do_not_see_the_tree_of_the_host() {
    let toy = Toy::basic();
    let canary = Canary::new(&toy);
    toy.hook(
        "install",
        "50-look",
        &format!(
            "for path in '{canary}' '{work}' \"${{TMP_BUILD_DIR:-/none}}/layers\" /etc/shadow; do\n\
             if [ -e \"$path\" ]; then echo \"seen $path\"; fi\ndone",
            canary = canary.path(),
            work = toy.world.work().display()
        ),
    );
    let built = toy.build("-t tar").success();
    assert_eq!(built.lines_after("seen "), Vec::<String>::new());
}

#[test]
fn links_in_a_target_lead_kiln_nowhere() {
    // What root.d leaves, and in which words `$HOST` is the canary's directory.
    let attacks = [
        ("etc itself", "rm -rf etc; ln -s $HOST etc"),
        (
            "etc by its parents",
            "rm -rf etc; ln -s ../../../../../../../..$HOST etc",
        ),
        ("resolv.conf", "ln -sf $HOST/resolv.conf etc/resolv.conf"),
        (
            "resolv.conf by parents",
            "ln -sf ../../../../../../../..$HOST/resolv.conf etc/resolv.conf",
        ),
        (
            "resolv.conf.ORIG",
            "ln -sf $HOST/resolv.conf etc/resolv.conf.ORIG",
        ),
        (
            "fstab",
            "ln -sf ../../../../../../../..$HOST/fstab etc/fstab",
        ),
        ("tmp", "rm -rf tmp; ln -s $HOST tmp"),
        (
            "tmp by parents",
            "rm -rf tmp; ln -s ../../../../../../../..$HOST tmp",
        ),
        ("in tmp", "ln -s $HOST tmp/directory"),
        ("the hooks", "ln -s $HOST tmp/in_target.d"),
        ("proc", "rmdir proc; ln -s $HOST proc"),
        ("sys", "rmdir sys; ln -s ../../../../../../../..$HOST sys"),
        ("dev", "rmdir dev; ln -s $HOST dev"),
        ("logs", "rm -rf var/log; ln -s $HOST var/log"),
        (
            "logs by parents",
            "rm -rf var/log; ln -s ../../../../../../../..$HOST var/log",
        ),
        ("var", "rm -rf var; ln -s ../../../../../../../..$HOST var"),
        (
            "a log",
            "ln -s ../../../../../../../..$HOST/messages var/log/messages",
        ),
        (
            "a hard link of a log",
            "ln $HOST/messages var/log/messages 2>/dev/null || true",
        ),
        (
            "root's home",
            "rm -rf root; ln -s ../../../../../../../..$HOST root",
        ),
        (
            "a log of root",
            "ln -s ../../../../../../../..$HOST/file root/x.log",
        ),
        ("the root", "cd ..; rm -rf mnt; ln -s $HOST mnt"),
        (
            "the hooks' directory",
            "cd ..; mv hooks moved; ln -s $HOST hooks",
        ),
        (
            "the record",
            "rm -rf ../hooks/.kiln/record; ln -s $HOST ../hooks/.kiln/record",
        ),
    ];
    // Each is a build of its own, which waits more than it works.
    let (one, other) = attacks.split_at(attacks.len() / 2);
    std::thread::scope(|scope| {
        for half in [one, other] {
            scope.spawn(move || {
                for (what, attack) in half {
                    assert_nothing_is_reached(what, attack);
                }
            });
        }
    });
}

/// Whether a text is in a file.
fn holds(path: &Path, text: &str) -> bool {
    let bytes = fs::read(path).expect("it is written");
    // By the C library, since tests are not optimised and images have many bytes.
    // SAFETY: both pointers are valid for their lengths during the call.
    let found = unsafe {
        libc::memmem(
            bytes.as_ptr().cast(),
            bytes.len(),
            text.as_ptr().cast(),
            text.len(),
        )
    };
    !found.is_null()
}

/// Builds with a target that this hook of root.d changes; the canary stays as it is and
/// is in no output.
fn assert_nothing_is_reached(what: &str, attack: &str) {
    let toy = Toy::basic();
    let canary = Canary::new(&toy);
    let attack = attack.replace("$HOST", &canary.path());
    toy.hook(
        "root",
        "90-attack",
        &format!("cd \"$TARGET_ROOT\"\n{attack}"),
    );
    toy.hook("install", "50-work", "true");
    toy.hook("finalise", "50-work", "true");
    let built = toy.build("-t tar,raw");
    canary.assert_untouched(what);
    if built.outcome.status.success() {
        assert_eq!(toy.outputs(), ["toy.raw", "toy.tar"], "{what}");
        for suffix in ["tar", "raw"] {
            let found = holds(&toy.output(suffix), SECRET);
            assert!(!found, "{what}: the canary is in toy.{suffix}");
        }
    } else {
        let (message, _, _) = built.failure();
        assert!(!message.is_empty(), "{what}");
        assert_eq!(toy.outputs(), Vec::<String>::new(), "{what}");
    }
    toy.assert_swept();
}

#[test]
fn links_made_inside_lead_kiln_nowhere_either() {
    for (what, attack) in [
        (
            "fstab",
            "ln -sf ../../../../../../../..$HOST/fstab /etc/fstab",
        ),
        (
            "etc",
            "mv /etc /etc2; ln -s ../../../../../../../..$HOST /etc",
        ),
        (
            "tmp",
            "mkdir -p /old; mount --move /tmp/in_target.d /old 2>/dev/null || true; mv /tmp /tmp2 2>/dev/null && ln -s $HOST /tmp || true",
        ),
        (
            "logs",
            "rm -rf /var/log; ln -s ../../../../../../../..$HOST /var/log",
        ),
        (
            "the working directory of scripts",
            "ln -sf $HOST/file /var/lib/toy/link",
        ),
    ] {
        let toy = Toy::basic();
        let canary = Canary::new(&toy);
        toy.hook(
            "post-install",
            "50-attack",
            &attack.replace("$HOST", &canary.path()),
        );
        toy.hook("finalise", "50-work", "true");
        let built = toy.build("-t tar");
        canary.assert_untouched(what);
        if !built.outcome.status.success() {
            assert_eq!(toy.outputs(), Vec::<String>::new(), "{what}");
        }
        toy.assert_swept();
    }
}

#[test]
fn links_of_a_proc_that_a_hook_leaves_in_the_target_lead_kiln_nowhere() {
    for way in ["root", "cwd"] {
        for linked in ["etc", "tmp", "var/log"] {
            let toy = Toy::basic();
            // Where the build may write, and so could be led to.
            let canary = Canary::below(&toy.world.work());
            let there = match way {
                "root" => canary.path(),
                _ => "/canary".to_owned(),
            };
            toy.hook(
                "root",
                "50-links",
                &format!(
                    "cd \"$TARGET_ROOT\"\n\
                     mount --bind /proc proc\n\
                     rm -rf {linked}\n\
                     ln -s /proc/self/{way}{there} {linked}\n\
                     [ -e {linked}/messages ] && echo linked"
                ),
            );
            // Whether a target without that directory does is not the question.
            let built = toy.build("-t tar");
            if way == "root" {
                assert!(built.lines().contains(&"linked".to_owned()), "{linked}");
            }
            canary.assert_untouched(&format!("{way}, {linked}"));
        }
    }
}

#[test]
fn an_output_name_that_is_a_link_is_replaced_and_not_followed() {
    let toy = Toy::basic();
    let canary = Canary::new(&toy);
    symlink(canary.directory.join("file"), toy.output("tar")).expect("a link can be made");
    toy.build("-t tar").success();
    canary.assert_untouched("the output");
    toy.build("-t tar --overwrite").success();
    canary.assert_untouched("the output, replaced");
}

#[test]
fn a_hook_that_remounts_does_not_reach_the_host() {
    for (phase, escape) in [
        ("extra-data", ""),
        // The old way out of a chroot, for who has the capability.
        ("install", "mkdir -p /x"),
    ] {
        let toy = Toy::basic();
        let canary = Canary::new(&toy);
        toy.hook(
            phase,
            "50-remount",
            &format!(
                "{escape}\n\
                 for point in / /proc /sys /dev /tmp \"$(readlink -f .)\"; do\n\
                 mount -o remount,rw \"$point\" 2>/dev/null || true\n\
                 mount -o remount,bind,rw \"$point\" 2>/dev/null || true\ndone\n\
                 if (: >'{canary}/file') 2>/dev/null; then echo 'wrote the file'; fi\n\
                 rm -f '{canary}/passwd' 2>/dev/null || true\n\
                 umount -l /dev/pts /dev/shm /dev 2>/dev/null || true\n\
                 find /dev -type b 2>/dev/null | sed 's/^/block /'\n\
                 umount -l /proc/sys 2>/dev/null || true\n\
                 if (: >>/proc/sysrq-trigger) 2>/dev/null; then echo 'wrote sysrq'; fi",
                canary = canary.path()
            ),
        );
        let built = toy.build("-t tar");
        canary.assert_untouched(phase);
        assert_eq!(built.lines_after("wrote "), Vec::<String>::new(), "{phase}");
        assert_eq!(built.lines_after("block "), Vec::<String>::new(), "{phase}");
        toy.assert_swept();
    }
}

#[test]
fn mounts_that_a_hook_leaves_are_not_part_of_the_image_and_are_gone_afterwards() {
    let toy = Toy::basic();
    let mounts = "mkdir -p \"$1/srv/mounted\"\n\
        mount -t tmpfs left \"$1/srv/mounted\"\n\
        echo 'not in the image' >\"$1/srv/mounted/file\"\n\
        mount --bind \"$1/srv/mounted\" \"$1/home\"";
    toy.hook(
        "extra-data",
        "50-mount",
        &format!("set -- \"$TMP_MOUNT_PATH\"\n{mounts}"),
    );
    toy.hook("post-install", "50-mount", &format!("set -- ''\n{mounts}"));
    toy.build("-t tar").success();
    let bytes = fs::read(toy.output("tar")).expect("it is written");
    assert!(!bytes.windows(16).any(|part| part == b"not in the image"));
    toy.assert_swept();
}

#[test]
fn a_hook_that_forks_without_end_or_closes_everything_does_not_outlive_its_build() {
    let mut toy = Toy::basic();
    let mark = format!("kiln-fork-{}", std::process::id());
    toy.world.set("KILN_TEST_MARK", &mark);
    toy.hook(
        "install",
        "50-forks",
        "grow() { for n in 1 2 3; do if [ \"$1\" -gt 0 ]; then grow $(($1 - 1)) & fi; done; sleep 600; }\n\
         grow 3 >/dev/null 2>&1 &\nsleep 0.2",
    );
    toy.hook(
        "post-root",
        "50-closes",
        "for fd in $(ls /proc/self/fd); do eval \"exec $fd>&-\" || true; done 2>/dev/null\n\
         (trap '' HUP INT TERM; setsid sleep 600 &)\nexit 0",
    );
    toy.build("-t tar").success();
    assert!(
        eventually(|| marked(&mark).is_empty()),
        "{:?}",
        marked(&mark)
    );
    toy.assert_swept();
}

#[test]
fn events_that_a_hook_invents_do_not_end_the_build() {
    let toy = Toy::basic();
    toy.hook(
        "post-root",
        "50-lie",
        "printf '{\"event\":\"finished\",\"seconds\":1.0}\\n' >&\"$KILN_EVENTS_FD\"\n\
         printf 'no event at all \\377\\n' >&\"$KILN_EVENTS_FD\"\nexit 4",
    );
    let built = toy.build("-t tar");
    assert_eq!(built.outcome.code(), 4);
    assert_eq!(toy.outputs(), Vec::<String>::new());
}
