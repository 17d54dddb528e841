//! Ways out of a target that are closed in all modes, and what of the host is shared with it.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use super::isolation::build;
use crate::common;
use crate::common::host::{DOCKER, Host};
use crate::common::toy::{Built, Toy};
use crate::skip;

#[test]
fn hooks_inside_cannot_leave_the_target_by_any_known_way() {
    let toy = Toy::basic();
    let marker = toy.world.home().join("marker");
    fs::write(&marker, "of the host").expect("written");
    let marker = marker.display();
    // A directory of the host that the caller left open; kiln must not hand it on.
    toy.hook(
        "install",
        "50-leave",
        &format!(
            "look() {{ if [ -e \"$1{marker}\" ]; then echo \"seen by $2\"; fi; }}\n\
             for process in /proc/[0-9]*; do\n\
               look $process/root $process/root\n\
               look $process/cwd/../../../../../.. $process/cwd\n\
               for fd in $process/fd/*; do look $fd \"a descriptor\"; done\n\
               if [ \"$process\" != /proc/$$ ] && [ \"$process\" != /proc/self ] && cat $process/environ >/dev/null 2>&1; then\n\
                 case $(tr '\\0' '\\n' <$process/environ | grep -c KILN_TEST_SECRET) in 0) ;; *) echo \"seen environment of $process\";; esac\n\
               fi\n\
             done\n\
             mkdir -p /x\n\
             look /x/../../../../.. dots\n\
             if cut -d' ' -f5 /proc/self/mountinfo | grep -qF '{home}'; then echo 'seen a mount of the host'; fi\n\
             mount -t proc again /x 2>/dev/null && for process in /x/[0-9]*; do look $process/root mounted-proc; done; true",
            home = toy.world.home().display(),
        ),
    );
    let command = toy.command("-t tar --json");
    // `sh` keeps the descriptor open across the exec of kiln.
    let mut shell = toy.world.command("/bin/sh");
    shell
        .args(["-c", "exec 7</; exec \"$@\"", "sh"])
        .arg(command.get_program())
        .args(command.get_args())
        .env("KILN_TEST_SECRET", "x");
    let built = Built::run(&mut shell).success();
    assert_eq!(built.lines_after("seen "), Vec::<String>::new());
}

/// Makes, gives away and opens files through every link of `/proc` that could lead out,
/// by calls that the supervisor answers. `$OUT` is a directory of the host.
const REACH: &str = r#"
mkdir -p /ways
ln -s /proc/self/root /ways/self
ln -s /proc/thread-self/root /ways/thread
ln -s /proc/self/../.. /ways/parents
ways=(/proc/self/../.. /proc/self/fd/../../.. /proc/thread-self/../../../.. /dev/fd/../../../..
    /proc/self/root/../.. /proc/./self/root //proc/self/root /proc/self/cwd/../../..
    /proc/self/task/../../.. /ways/self /ways/thread /ways/parents)
exec 5</proc
for process in /proc/1 /proc/$PPID $(ls -d /proc/[0-9]* | tail -n 4) /proc/self/fd/5/1; do
    ways+=($process/root $process/cwd/../../../../../../..)
done
for fd in 3 4 6 8 10 12; do ways+=(/proc/1/fd/$fd /proc/$PPID/fd/$fd); done
for way in "${ways[@]}"; do
    at=$way$OUT
    mknod $at/device c 1 3 2>/dev/null && echo "led out $way: device"
    mknod $at/fifo p 2>/dev/null && echo "led out $way: fifo"
    mkdir $at/directory 2>/dev/null && echo "led out $way: directory"
    ln -s x $at/link 2>/dev/null && echo "led out $way: link"
    (: >$at/file) 2>/dev/null && echo "led out $way: file"
    (: >>$at/there) 2>/dev/null && echo "led out $way: open"
    chown 33:33 $at/there 2>/dev/null && echo "led out $way: chown"
    stat $at/there >/dev/null 2>&1 && echo "led out $way: stat"
    cat $at/there 2>/dev/null
done
touch /srv-file
exec 7</srv-file
chown 33:44 /proc/self/fd/7
[ "$(stat -c %u:%g /srv-file)" = 33:44 ] && echo "own descriptors work"
[ "$(stat -L -c %u /dev/fd/7)" = 33 ] && echo "and are seen"
exec 5<&- 7<&-
echo tried
"#;

#[test]
fn no_link_of_proc_leads_hooks_inside_out_in_any_mode() {
    let mut modes = vec!["auto", "single"];
    if nix::unistd::geteuid().is_root() {
        modes.push("chroot");
    }
    for mode in modes {
        let toy = Toy::basic();
        let out = toy.world.work().join("reached");
        fs::create_dir(&out).expect("made");
        fs::set_permissions(&out, fs::Permissions::from_mode(0o777)).expect("ours");
        let there = out.join("there");
        fs::write(&there, "led out: text of the host\n").expect("written");
        fs::set_permissions(&there, fs::Permissions::from_mode(0o666)).expect("ours");
        let before = fs::metadata(&there).expect("it is there");
        toy.hook(
            "install",
            "50-reach",
            &format!("set +e\nOUT='{}'\n{REACH}", out.display()),
        );
        let Some(built) = build(&toy, &format!("-t tar --mode {mode}")) else {
            continue;
        };
        assert_eq!(
            built.lines_after("led out "),
            Vec::<String>::new(),
            "{mode}"
        );
        assert_eq!(
            built.lines_after("led out: "),
            Vec::<String>::new(),
            "{mode}"
        );
        for line in ["own descriptors work", "and are seen", "tried"] {
            let said = built.lines().iter().any(|said| said == line);
            assert!(said, "{mode}: not {line}");
        }
        assert_eq!(common::toy::names(&out), ["there"], "{mode}");
        let after = fs::metadata(&there).expect("it is there");
        let times = |found: &fs::Metadata| (found.ctime(), found.ctime_nsec());
        assert_eq!(times(&before), times(&after), "{mode}");
    }
}

#[test]
fn a_second_chroot_does_not_lead_out_of_the_target() {
    let toy = Toy::basic();
    let marker = toy.world.home().join("marker");
    fs::write(&marker, "of the host").expect("written");
    // A process whose directory lies above its root goes up as far as it likes.
    let Some(chroot) = common::tool("chroot") else {
        return common::skipped("chroot is not installed");
    };
    toy.hook(
        "root",
        "20-chroot",
        &format!(
            "cp -L '{}' \"$TARGET_ROOT/usr/bin/chroot\"",
            chroot.display()
        ),
    );
    toy.hook(
        "install",
        "50-escape",
        &format!(
            "mkdir -p /jail/usr /jail/proc\n\
             cp -a /usr/bin /usr/lib /usr/lib64 /jail/usr/ 2>/dev/null || true\n\
             for name in bin lib lib64; do ln -s usr/$name /jail/$name; done\n\
             mount --rbind /proc /jail/proc\n\
             exec 9</\n\
             chroot /jail /bin/bash -c 'cd /proc/self/fd/9; echo \"above $(pwd -P)\"; for n in 1 2 3 4 5 6 7 8; do cd -P ..; done; if [ -e .{marker} ]; then echo seen; fi; echo tried'",
            marker = marker.display()
        ),
    );
    let built = toy.build("-t tar").success();
    assert!(built.lines().contains(&"tried".to_owned()));
    assert!(!built.lines().contains(&"seen".to_owned()));
}

#[test]
fn modes_and_times_of_files_of_the_kernel_are_not_a_hooks_to_change() {
    let mut toy = Toy::basic();
    toy.world.set("TOY_PROGRAMS", "chmod touch perl");
    // As by a `chmod -R` of the target that enters what is mounted there.
    let change = "for file in /proc/meminfo /proc/version /sys/kernel /sys/kernel/mm; do\n\
            chmod o+x $file 2>/dev/null && echo \"changed $file\"\n\
            touch -d 2001-01-01 $file 2>/dev/null && echo \"dated $file\"\n\
        done\n\
        chmod -R o+x /proc/meminfo /sys/kernel/mm 2>/dev/null && echo changed all\n\
        perl -e 'open(F, \"<\", \"/proc/meminfo\"); print \"changed it open\\n\" if chmod 0641, *F' || :\n\
        echo tried";
    toy.hook("install", "50-inside", change);
    let look = || {
        [
            "/proc/meminfo",
            "/proc/version",
            "/sys/kernel",
            "/sys/kernel/mm",
        ]
        .map(|path| {
            let found = fs::metadata(path).expect("there");
            (found.mode(), found.mtime() < 1_000_000_000)
        })
    };
    let before = look();
    for mode in ["auto", "single", "chroot"] {
        if mode == "chroot" && !nix::unistd::geteuid().is_root() {
            continue;
        }
        let built = toy.build(&format!("-t tar --overwrite --mode {mode}"));
        if !built.had_its_mode() {
            continue;
        }
        let lines = built.success().lines();
        assert!(lines.contains(&"tried".to_owned()), "{mode}: {lines:?}");
        let changed: Vec<&String> = lines
            .iter()
            .filter(|line| line.starts_with("changed") || line.starts_with("dated"))
            .collect();
        assert_eq!(changed, Vec::<&String>::new(), "{mode}");
        assert_eq!(look(), before, "{mode}");
    }
}

#[test]
fn a_program_of_the_target_that_a_hook_outside_runs_does_not_leave_the_target() {
    let toy = Toy::basic();
    let marker = toy.world.home().join("marker");
    fs::write(&marker, "of the host").expect("written");
    // Who started it, which is outside, and what that has open.
    let look = format!(
        "for way in root cwd fd/8; do if [ -e /proc/$PPID/$way{marker} ] || [ -e /proc/$PPID/$way/etc/mtab ]; then\n\
         echo seen; fi; done; echo tried $(id -u) $PWD",
        marker = marker.display()
    );
    toy.hook(
        "cleanup",
        "50-run",
        &format!(
            "[ -e '{}' ]\nexec 8</\n\
             chroot \"$TARGET_ROOT\" /bin/bash -c '{look}' 8<&-\n\
             chroot --userspec=0:0 --groups 0 -- \"$TARGET_ROOT\" bash -c 'echo again $PWD'\n\
             chroot \"$TARGET_ROOT\" /bin/none || echo \"status $?\"\n",
            marker.display()
        ),
    );
    for mode in ["", "--mode single"] {
        let built = toy.build(&format!("-t tar --overwrite {mode}"));
        if !built.had_its_mode() {
            continue;
        }
        let lines = built.success().lines();
        for expected in ["tried 0 /", "again /", "status 127"] {
            assert!(lines.contains(&expected.to_owned()), "{mode}: {lines:?}");
        }
        assert!(!lines.contains(&"seen".to_owned()), "{mode}: {lines:?}");
    }
}

#[test]
fn nothing_that_hooks_inside_leave_among_the_hooks_runs_outside() {
    let toy = Toy::basic();
    let victim = toy.world.work().join("victim");
    fs::write(&victim, "as it was").expect("written");
    toy.file("toy/environment.d/10-env", "export TOY_SEEN=yes\n");
    toy.hook("cleanup", "50-own", "echo \"own ${TOY_SEEN-} ${PLANTED-}\"");
    toy.hook(
        "install",
        "50-plant",
        &format!(
            "hooks=/tmp/in_target.d\n\
             mount -o remount,bind,rw $hooks 2>/dev/null || :\n\
             script='#!/bin/bash\necho ESCAPED'\n\
             for name in cleanup.d/91-new cleanup.d/50-own post-root.d/10-new .kiln/kiln; do\n\
                 mkdir -p $hooks/${{name%/*}} && rm -f $hooks/$name || continue\n\
                 printf '%s\n' \"$script\" >$hooks/$name && chmod 755 $hooks/$name && echo planted\n\
             done 2>/dev/null\n\
             for name in cleanup post-root; do\n\
                 ln -sf '{victim}' $KILN_RECORD/environment.$name\n\
                 ln -sf '{victim}' $KILN_RECORD/environment.$name.handed\n\
             done\n\
             printf 'PLANTED=ESCAPED\\0' >$KILN_RECORD/environment.pre-finalise\n\
             ln -sfn '{work}' /tmp/in_target.d.moved\n",
            victim = victim.display(),
            work = toy.world.work().display(),
        ),
    );
    for mode in ["", "--mode single", "--mode chroot"] {
        let built = toy.build(&format!("-t tar --overwrite {mode}"));
        if !built.had_its_mode() {
            continue;
        }
        let built = built.success();
        let lines = built.lines();
        // Where `mount` is in the target, or nothing was mounted, it may write there.
        if mode == "--mode chroot" {
            assert!(lines.contains(&"planted".to_owned()), "{lines:?}");
        }
        assert!(lines.contains(&"own yes ".to_owned()), "{mode}: {lines:?}");
        let escaped = lines.iter().any(|line| line.contains("ESCAPED"));
        assert!(!escaped, "{mode}: {lines:?}");
        assert_eq!(fs::read_to_string(&victim).expect("there"), "as it was");
    }
}

#[test]
fn what_is_bound_read_only_in_the_target_stays_so() {
    let toy = Toy::basic();
    let mirror = toy.world.work().join("mirror");
    fs::create_dir(&mirror).expect("made");
    fs::write(mirror.join("file"), "of the host\n").expect("written");
    // The working directory is one that hooks outside may write to.
    toy.hook(
        "extra-data",
        "50-bind",
        "mkdir \"$TMP_MOUNT_PATH/mirror\" \"$TMP_MOUNT_PATH/other\"\n\
         : >\"$TMP_MOUNT_PATH/file\"\n\
         mount --bind -r mirror \"$TMP_MOUNT_PATH/mirror\"\n\
         mount --bind -r mirror/file \"$TMP_MOUNT_PATH/file\"\n\
         mount --bind mirror \"$TMP_MOUNT_PATH/other\"",
    );
    toy.hook(
        "install",
        "50-write",
        "for place in /mirror /file /tmp/in_target.d; do\n\
            /bin/mount -o remount,bind,rw $place 2>/dev/null && echo \"remounted $place\" || :\n\
         done\n\
         for file in /mirror/file /mirror/new /file /tmp/in_target.d/new; do\n\
            (echo x >>$file) 2>/dev/null && echo \"wrote $file\" || :\n\
         done\n\
         cat /mirror/file /file\n\
         echo x >/other/new\n\
         /bin/umount /mirror /file && echo unmounted\n",
    );
    for mode in ["auto", "single"] {
        let built = toy.build(&format!("-t tar --overwrite --mode {mode}"));
        if !built.had_its_mode() {
            continue;
        }
        let built = built.success();
        for done in ["remounted ", "wrote "] {
            assert_eq!(built.lines_after(done), Vec::<String>::new(), "{mode}");
        }
        let lines = built.lines();
        assert_eq!(lines, ["of the host", "of the host", "unmounted"], "{mode}");
        assert_eq!(common::toy::names(&mirror), ["file", "new"], "{mode}");
        fs::remove_file(mirror.join("new")).expect("there");
    }
}

/// Has a program of the target run in the place of files with a certain name, for all who
/// share the user namespace, as long as somebody keeps it mounted.
const FORMATS: &str = "mkdir -p /formats\n\
    printf '#!/bin/bash\\necho ESCAPED\\n' >/evil\nchmod 755 /evil\n\
    setsid sleep 600 </dev/null >/dev/null 2>&1 &\n\
    mount -t binfmt_misc none /formats && echo :evil:E::foreign::/evil:F >/formats/register && echo registered";

#[test]
fn no_program_of_the_target_takes_the_place_of_one_outside() {
    let toy = Toy::basic();
    toy.hook("install", "50-register", &format!("{FORMATS} || :"));
    let own = "printf '#!/bin/bash\necho own program\n' >\"$TMP_BUILD_DIR/own.foreign\"\n\
        chmod 755 \"$TMP_BUILD_DIR/own.foreign\"\n\
        \"$TMP_BUILD_DIR/own.foreign\" || echo \"status $?\"";
    toy.hook("post-root", "50-own", own);
    toy.hook(
        "cleanup",
        "50-own",
        &format!("chroot \"$TARGET_ROOT\" /bin/bash -c '{FORMATS}' || :\n{own}")
            .replace("'#!/bin/bash\\necho ESCAPED\\n'", "ESCAPED"),
    );
    for mode in ["auto", "single"] {
        let built = toy.build(&format!("-t tar --overwrite --mode {mode}"));
        if !built.had_its_mode() {
            continue;
        }
        let lines = built.success().lines();
        let count = |what: &str| lines.iter().filter(|line| *line == what).count();
        if count("registered") == 0 {
            skip!("`binfmt_misc` cannot be mounted in a user namespace (Linux 6.7)");
        }
        assert_eq!(count("registered"), 2, "{mode}: {lines:?}");
        assert_eq!(count("own program"), 2, "{mode}: {lines:?}");
    }
}

/// Tries ways out of a root directory for who may mount. The argument is a file of the host.
const MOUNT_OUT: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
static const char *file;
/* Goes up from here, as far as that leads. */
static void climb(const char *way) {
    char path[4096] = ".";
    for (int depth = 0; depth < 20; depth++) {
        size_t length = strlen(path);
        strcpy(path + length, file);
        if (!access(path, F_OK))
            printf("went out by %s\n", way);
        strcpy(path + length, "/..");
    }
    if (!access(file, F_OK))
        printf("is out by %s\n", way);
}
static int in_child(void) {
    fflush(stdout);
    pid_t child = fork();
    if (child)
        waitpid(child, 0, 0);
    return child == 0;
}
int main(int count, char **arguments) {
    file = arguments[1];
    setvbuf(stdout, 0, _IOLBF, 0);
    mkdir("/a", 0755), mkdir("/a/b", 0755), mkdir("/a/b/c", 0755), mkdir("/d", 0755);
    if (in_child()) {
        chdir("/a/b/c");
        umount2("/", MNT_DETACH);
        return climb("an unmounted root"), 0;
    }
    if (in_child()) {
        mount("/a", "/d", 0, MS_BIND, 0);
        chdir("/d/b/c");
        rename("/a/b/c", "/moved");
        umount2("/d", MNT_DETACH);
        return climb("a directory that left its mount"), 0;
    }
    if (in_child()) {
        int tree = syscall(428, AT_FDCWD, "/", 1 | 0x8000);
        fchdir(tree);
        climb("a copied tree");
        syscall(429, tree, "", AT_FDCWD, "/d", 4);
        climb("a copied tree that was attached");
        chroot(".");
        return climb("a copied tree as root"), 0;
    }
    if (in_child()) {
        mount("/", "/d", 0, MS_BIND | MS_REC, 0);
        chdir("/d");
        mount("/d", "/", 0, MS_MOVE, 0);
        climb("a mount on the root");
        syscall(SYS_pivot_root, ".", ".");
        return climb("another root"), 0;
    }
    if (in_child()) {
        unshare(CLONE_NEWNS);
        mount(0, "/", 0, MS_REC | MS_PRIVATE, 0);
        mount("/..", "/d", 0, MS_BIND | MS_REC, 0);
        chdir("/d");
        return climb("what is above the root"), 0;
    }
    const char *spaces[] = {"/proc/self/ns/mnt", "/proc/1/ns/mnt", "/proc/self/ns/user"};
    for (int one = 0; one < 3; one++)
        if (in_child()) {
            int space = open(spaces[one], O_RDONLY);
            if (space >= 0 && !setns(space, 0))
                printf("joined %s\n", spaces[one]);
            return climb(spaces[one]), 0;
        }
    if (in_child()) {
        if (!unshare(CLONE_NEWUSER))
            puts("made a user namespace");
        chroot("/a");
        return climb("a user namespace"), 0;
    }
    const char *links[] = {"/proc/1/root", "/proc/1/cwd", "/proc/2/root", "/proc/self/root/.."};
    mount("proc", "/d", "proc", 0, 0);
    for (int one = 0; one < 4; one++)
        if (in_child()) {
            chdir(links[one]);
            return climb(links[one]), 0;
        }
    puts("tried");
}
"#;

#[test]
fn who_may_mount_and_is_held_by_a_root_directory_does_not_leave_it() {
    if !nix::unistd::geteuid().is_root() {
        return common::skipped("mode root is for root");
    }
    let toy = Toy::basic();
    if !toy.program("out", MOUNT_OUT, "-w") {
        return;
    }
    let victim = toy.world.home().join("victim");
    fs::write(&victim, "of the host").expect("written");
    toy.hook("install", "50-out", &format!("/out {}", victim.display()));
    let mut kept = DOCKER.to_vec();
    kept.push(caps::Capability::CAP_SYS_ADMIN);
    // It refuses `pivot_root`.
    let docker = Host::new()
        .masked()
        .docker_filter(&kept)
        .capabilities(&kept);
    for (host, mode) in [
        (docker, "root"),
        (Host::new(), "root"),
        (Host::new(), "chroot"),
    ] {
        let built = host.build(&toy, &format!("-t tar --overwrite --mode {mode}"));
        if !built.had_its_mode() {
            continue;
        }
        let lines = built.lines();
        assert!(lines.contains(&"tried".to_owned()), "{mode}: {lines:?}");
        let out: Vec<&String> = lines.iter().filter(|line| line.contains(" by ")).collect();
        assert_eq!(out, Vec::<&String>::new(), "{mode} {host:?}");
    }
}
