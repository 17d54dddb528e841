//! Where nothing can be mounted (mode `chroot`): programs in a target are held by its root
//! directory alone, and neither they nor kiln in their place reach anything outside.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use crate::common::toy::Toy;
use crate::common::{self, Run as _};

/// `futimesat`, which x86-64 alone has.
#[cfg(target_arch = "x86_64")]
const FUTIMESAT: libc::c_long = libc::SYS_futimesat;
#[cfg(not(target_arch = "x86_64"))]
const FUTIMESAT: libc::c_long = 0;

/// A target with perl, for calls that no shell makes; `None`, with a message, where it
/// cannot be had.
pub fn with_perl() -> Option<Toy> {
    if !nix::unistd::geteuid().is_root() {
        common::skipped("mode chroot is for root of a container");
        return None;
    }
    if common::tool("perl").is_none() {
        common::skipped("perl is not installed");
        return None;
    }
    let mut toy = Toy::basic();
    toy.world.set("TOY_PROGRAMS", "perl");
    Some(toy)
}

#[test]
fn who_is_held_by_its_root_directory_alone_does_not_change_it() {
    if !nix::unistd::geteuid().is_root() {
        return common::skipped("mode chroot is for root of a container");
    }
    let Some(chroot) = common::tool("chroot") else {
        return common::skipped("chroot is not installed");
    };
    let toy = Toy::basic();
    let copy = format!(
        "cp -L '{}' \"$TARGET_ROOT/usr/bin/chroot\"",
        chroot.display()
    );
    toy.hook("root", "20-chroot", &copy);
    // Whoever gets into another one goes up from any directory above it (`chroot(2)`).
    let change = "mkdir -p /jail\n\
        for root in / /tmp/.. /proc/self/root; do chroot $root /bin/bash -c \"echo in $root\"; done\n\
        for root in /jail /none; do chroot $root /bin/true 2>&1 || :; done";
    toy.hook("install", "50-inside", change);
    let outside =
        format!("chroot \"$TARGET_ROOT\" /bin/bash <<'END' | sed 's/^/outside /'\n{change}\nEND");
    toy.hook("cleanup", "50-outside", &outside);
    let lines = toy.build("-t tar --mode chroot").success().lines();
    for side in ["", "outside "] {
        for expected in [
            "in /",
            "in /tmp/..",
            "in /proc/self/root",
            "chroot: cannot change root directory to '/jail': Operation not permitted",
            "chroot: cannot change root directory to '/none': No such file or directory",
        ] {
            let line = format!("{side}{expected}");
            assert!(lines.contains(&line), "no {line}: {lines:?}");
        }
    }
    toy.hook("install", "60-strict", "chroot /jail /bin/true");
    let (_, hints, _) = toy.build("-t tar --overwrite --mode chroot").failure();
    let said = "the root directory was not changed to `/jail`: here programs in the target are \
        held by their root directory alone, so they may not change it";
    assert!(hints.iter().any(|hint| hint.starts_with(said)), "{hints:?}");
}

/// Changes its root directory and goes up from the old one. The argument is a file of the host.
const LEAVE: &str = r#"
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int count, char **arguments)
{
    char path[4096] = "../../../../../../../../../../../..";
    mkdir("/jail", 0755);
    chroot("/jail");
    strcat(path, arguments[1]);
    printf("%s\n", access(path, F_OK) ? "stayed" : "went out");
}
"#;

#[test]
fn what_the_target_calls_mount_does_not_leave_it_either() {
    if !nix::unistd::geteuid().is_root() {
        return common::skipped("mode chroot is for root of a container");
    }
    let toy = Toy::basic();
    if !toy.program("mount", LEAVE, "") {
        return;
    }
    let victim = toy.world.home().join("victim");
    fs::write(&victim, "of the host").expect("written");
    let run = format!(
        "for options in '' --userspec=0 '--u 0' --groups=0 --g=0; do\n\
            chroot $options \"$TARGET_ROOT\" /mount '{}'\n\
        done",
        victim.display()
    );
    toy.hook("cleanup", "50-outside", &run);
    let lines = toy.build("-t tar --mode chroot").success().lines();
    let said: Vec<&String> = lines
        .iter()
        .filter(|line| *line == "stayed" || *line == "went out")
        .collect();
    assert_eq!(said, ["stayed"; 5]);
}

/// Waits in `/tmp/away` until that has moved, and goes up from there. The argument is a file of
/// the host.
const GO_ALONG: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int count, char **arguments)
{
    char path[4096] = "../../../../../../../../../../../..";
    strcat(path, arguments[1]);
    mkdir("/tmp/away", 0755);
    chdir("/tmp/away");
    close(creat("file", 0644));
    close(creat("/ready", 0644));
    for (int tenths = 0; access("/moved", F_OK) && tenths < 600; tenths++)
        usleep(100000);
    printf("%s\n", chmod(path, 0666) ? "stayed" : "went out");
}
"#;

#[test]
fn who_is_in_a_directory_that_a_hook_moves_out_does_not_go_along() {
    if !nix::unistd::geteuid().is_root() {
        return common::skipped("mode chroot is for root of a container");
    }
    let toy = Toy::basic();
    if !toy.program("follow", GO_ALONG, "") {
        return;
    }
    let home = toy.world.home();
    let victim = home.join("victim");
    fs::write(&victim, "of the host").expect("written");
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).expect("set");
    // What stays in the target, and what comes in, keeps its number.
    let run = format!(
        "out=$(mktemp -d {home}/out.XXXX)\n\
         chroot \"$TARGET_ROOT\" /follow {victim} &\n\
         until [ -e \"$TARGET_ROOT/ready\" ]; do sleep 0.1; done\n\
         perl -e 'rename($ARGV[0], $ARGV[1]) or print \"not renamed: $!\\n\"' \\\n\
             \"$TARGET_ROOT/tmp/away\" \"$out/away\"\n\
         mv \"$TARGET_ROOT/tmp/away\" \"$out/away\"\n\
         touch \"$TARGET_ROOT/moved\"\n\
         wait\n\
         [ -e \"$out/away/file\" ] && [ ! -e \"$TARGET_ROOT/tmp/away\" ] && echo moved\n\
         number() {{ stat -c %i \"$1\"; }}\n\
         mkdir \"$out/in\"; was=$(number \"$out/in\")\n\
         mv \"$out/in\" \"$TARGET_ROOT/tmp/\"; mv \"$TARGET_ROOT/tmp/in\" \"$TARGET_ROOT/other/\"\n\
         [ \"$(number \"$TARGET_ROOT/other\")\" = \"$was\" ] && echo renamed\n\
         rm -rf \"$out\" \"$TARGET_ROOT/other\"",
        home = home.display(),
        victim = victim.display()
    );
    toy.hook("cleanup", "50-outside", &run);
    let lines = toy.build("-t tar --mode chroot").success().lines();
    let told = ["stayed", "went out", "moved", "renamed"];
    let said: Vec<&String> = lines
        .iter()
        .filter(|line| told.contains(&line.as_str()) || line.starts_with("not renamed"))
        .collect();
    assert_eq!(
        said,
        [
            "not renamed: Invalid cross-device link",
            "stayed",
            "moved",
            "renamed"
        ]
    );
    let mode = fs::metadata(&victim).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// Goes up from directories that are not in the target, and changes files from there.
/// Arguments: a file of the host, and the numbers of some calls.
const CLIMB: &str = r#"
my ($victim, $openat, $mkdirat, $unlinkat, $renameat, $fchmodat, $utimensat, $futimesat,
    $symlinkat, $mknodat, $linkat, $handle, $setxattrat, $file_getattr) = @ARGV;
for my $start ("/proc", "/proc/self", "/proc/self/fd", "/sys", "/sys/kernel") {
    opendir(my $above, $start) or next;
    my @names = readdir($above);
    print "read $start\n" if @names > 2;
    if (chdir($above)) {
        chdir("..") for 1 .. 16;
        print "went out by $start\n" if -e substr($victim, 1);
        chdir("/");
    }
    my $up = ("../" x 16) . substr($victim, 1);
    $up = "self/$up" if $start eq "/proc";
    my ($made, $moved, $inside, $attribute) = ("$up.made", "$up.moved", "/moved", "user.a");
    my ($room, $mount, $value) = (pack("I", 128) . "\0" x 132, "\0" x 8, "x");
    my $arguments = pack("PII", $value, 1, 0);
    my $fd = fileno($above);
    my ($users, $stolen) = ("/etc/passwd", "/stolen");
    print "opened by $start\n" if syscall($openat, $fd, $up, 0, 0) >= 0;
    print "made by $start\n" if syscall($mkdirat, $fd, $made, 0755) >= 0;
    print "made a pipe by $start\n" if syscall($mknodat, $fd, $made, 010644, 0) >= 0;
    print "made a link by $start\n" if syscall($symlinkat, $inside, $fd, $made) >= 0;
    print "gave a name by $start\n" if syscall($linkat, -100, $users, $fd, $made, 0) >= 0;
    print "stole by $start\n" if syscall($linkat, $fd, $up, -100, $stolen, 0) >= 0;
    print "changed by $start\n" if syscall($fchmodat, $fd, $up, 0777) >= 0;
    print "touched by $start\n" if syscall($utimensat, $fd, $up, 0, 0) >= 0;
    print "touched by the old call by $start\n"
        if $futimesat && syscall($futimesat, $fd, $up, 0) >= 0;
    print "found by $start\n" if syscall($handle, $fd, $up, $room, $mount, 0) >= 0;
    print "marked by $start\n"
        if syscall($setxattrat, $fd, $up, 0, $attribute, $arguments, 16) >= 0;
    print "looked by $start\n" if syscall($file_getattr, $fd, $up, $room, 24, 0) >= 0;
    print "moved by $start\n" if syscall($renameat, $fd, $up, $fd, $moved) >= 0;
    print "took by $start\n" if syscall($renameat, $fd, $up, -100, $inside) >= 0;
    print "removed by $start\n" if syscall($unlinkat, $fd, $up, 0) >= 0;
}
opendir(my $proc, "/proc");
my ($switch, $own) = ("sysrq-trigger", "self/status");
print "opened a switch\n" if syscall($openat, fileno($proc), $switch, 1, 0) >= 0;
print "read itself\n" if syscall($openat, fileno($proc), $own, 0, 0) >= 0;
# Of the first process, which is not in the target.
opendir(my $first, "/proc/1");
my ($files, $mounts) = ("fdinfo", "mountinfo");
print "files of another by /proc/1\n" if syscall($openat, fileno($first), $files, 0, 0) >= 0;
print "mounts of another by /proc/1\n" if syscall($openat, fileno($first), $mounts, 0, 0) >= 0;
mkdir("/one"); mkdir("/two"); open(my $file, ">", "/one/file");
opendir(my $one, "/one");
my ($twice, $elsewhere, $name) = ("../two/twice", "../two/file", "file");
print "named a file\n" if syscall($linkat, fileno($one), $name, fileno($one), $twice, 0) >= 0;
print "moved a file\n" if syscall($renameat, fileno($one), $name, fileno($one), $elsewhere) >= 0;
print "removed a file\n" if syscall($unlinkat, fileno($one), $elsewhere, 0) >= 0;
unlink("/two/twice"); rmdir("/one"); rmdir("/two");
print "tried\n";
"#;

#[test]
fn no_directory_of_proc_leads_up_where_nothing_can_be_mounted() {
    use nix::libc;
    let Some(toy) = with_perl() else { return };
    let victim = toy.world.home().join("victim");
    fs::write(&victim, "of the host").expect("written");
    let before = fs::metadata(&victim).expect("there");
    let calls = [
        libc::SYS_openat,
        libc::SYS_mkdirat,
        libc::SYS_unlinkat,
        libc::SYS_renameat,
        libc::SYS_fchmodat,
        libc::SYS_utimensat,
        FUTIMESAT,
        libc::SYS_symlinkat,
        libc::SYS_mknodat,
        libc::SYS_linkat,
        libc::SYS_name_to_handle_at,
        // `setxattrat` and `file_getattr`, too new for the library.
        463,
        468,
    ]
    .map(|number| number.to_string());
    let climb = format!(
        "perl - '{}' {} <<'END'\n{CLIMB}\nEND",
        victim.display(),
        calls.join(" ")
    );
    toy.hook("install", "50-inside", &climb);
    let outside = format!("chroot \"$TARGET_ROOT\" {climb}").replacen(
        "<<'END'",
        "<<'END' | sed 's/^/outside /'",
        1,
    );
    toy.hook("cleanup", "50-outside", &outside);
    let built = toy.build("-t tar --mode chroot").success();
    let lines = built.lines();
    for side in ["", "outside "] {
        for expected in [
            "read /proc",
            "read /proc/self/fd",
            "read itself",
            "named a file",
            "moved a file",
            "removed a file",
            "tried",
        ] {
            let line = format!("{side}{expected}");
            assert!(lines.contains(&line), "no {line}: {lines:?}");
        }
    }
    let done: Vec<&String> = lines
        .iter()
        .filter(|line| line.contains(" by /") || line.ends_with("a switch"))
        .collect();
    assert_eq!(done, Vec::<&String>::new());
    let after = fs::metadata(&victim).expect("still there");
    assert_eq!(before.permissions(), after.permissions());
    assert_eq!(before.modified().ok(), after.modified().ok());
}

#[test]
fn what_a_link_of_proc_leads_to_is_opened_as_the_program_itself_might() {
    if !nix::unistd::geteuid().is_root() {
        return common::skipped("mode chroot is for root of a container");
    }
    let toy = Toy::basic();
    let of_host = toy.world.home().join("host");
    fs::create_dir(&of_host).expect("made");
    fs::write(of_host.join("victim"), "of the host\n").expect("written");
    // A directory of the host is not handed on, and what else is handed on is opened for no
    // more than it is open for.
    let open = format!(
        r#"exec 5<'{host}' 6<'{host}/victim'
        chroot "$TARGET_ROOT" /bin/bash <<'END' 2>&1 | sed 's/^/got /'
        cat /proc/self/fd/5/victim
        echo changed >/proc/self/fd/5/victim
        echo changed >/proc/self/fd/6
        find /dev/fd/5/
        cat /dev/fd/6
        echo a pipe | cat /dev/stdin
        echo a file >/tmp/file; exec 7<>/tmp/file; rm /tmp/file; cat /proc/self/fd/7
        echo more >>/proc/$$/fd/7; cat /dev/fd/7
END"#,
        host = of_host.display()
    );
    toy.hook("cleanup", "50-outside", &open);
    toy.hook(
        "install",
        "50-inside",
        "cat /dev/stdin; echo that was nothing",
    );
    let built = toy.build("-t tar --mode chroot").success();
    if built.outcome.stdout.contains("no second wall") {
        return common::skipped("this kernel has no Landlock rules about files");
    }
    let lines = built.lines();
    let got: Vec<&str> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("got "))
        .collect();
    assert_eq!(
        got,
        [
            "cat: /proc/self/fd/5/victim: Not a directory",
            "/bin/bash: line 2: /proc/self/fd/5/victim: Not a directory",
            "/bin/bash: line 3: /proc/self/fd/6: Permission denied",
            "find: '/dev/fd/5/': Not a directory",
            "of the host",
            "a pipe",
            "a file",
            "a file",
            "more",
        ]
    );
    assert!(lines.contains(&"that was nothing".to_owned()), "{lines:?}");
    let text = fs::read_to_string(of_host.join("victim"));
    assert_eq!(text.ok().as_deref(), Some("of the host\n"));
}

/// What is open for reading is opened once more by a link of `/proc`, for writing.
const SWITCHES: &str = r#"
for switch in /proc/sys/vm/swappiness /proc/sys/kernel/core_pattern /proc/sysrq-trigger \
    /proc/uptime /sys/kernel/mm/transparent_hugepage/enabled; do
    [ -e $switch ] && exec 5<$switch || continue
    for link in $switch /proc/self/fd/5 /dev/fd/5 /proc/$$/fd/5 /proc/self/task/$$/fd/5; do
        { : >>$link; } 2>/dev/null && echo "changed $link, $switch"
    done
    { : >>/dev/stdin; } <$switch 2>&1 | sed "s|.*: |$switch: |" || :
done
exec 5</proc/self/comm 6</proc/$$/oom_score_adj
echo renamed >/proc/self/fd/5 && read -r name </proc/self/comm && echo "is $name"
echo 7 >/dev/fd/6 && read -r score </proc/self/oom_score_adj && echo "has $score"
"#;

#[test]
fn a_switch_of_the_kernel_that_is_open_for_reading_is_not_opened_for_writing() {
    if !nix::unistd::geteuid().is_root() {
        return common::skipped("mode chroot is for root of a container");
    }
    let toy = Toy::basic();
    toy.hook("install", "50-inside", SWITCHES);
    let built = toy.build("-t tar --mode chroot").success();
    assert_eq!(built.lines_after("changed "), Vec::<String>::new());
    let lines = built.lines();
    for expected in [
        "/proc/sys/vm/swappiness: Read-only file system",
        "is renamed",
        "has 7",
    ] {
        assert!(
            lines.contains(&expected.to_owned()),
            "no {expected}: {lines:?}"
        );
    }
}

/// Opens a pipe by a link of `/proc` and waits for the other end, until it is ended itself.
const WAIT_FOR_OTHER_END: &str = r#"
mkfifo /tmp/pipe
exec 4<>/tmp/pipe
echo kept >&4
read -r line </proc/self/fd/4; echo "read $line"
perl -e 'my $pipe = "/tmp/pipe"; syscall(OPENAT, -100, $pipe, 0x200000, 0) == 3 or die;
    exec "sleep 600"' 4>&- &
name=$!; exec 4>&-
until [ "$(readlink /proc/$name/fd/3)" = /tmp/pipe ]; do sleep 0.1; done
cat /proc/$name/fd/3 & reader=$!
sleep 0.3; echo late >/proc/$name/fd/3; wait $reader
cat /proc/$name/fd/3 & reader=$!
sleep 0.3; kill $reader; wait $reader || echo "ended by $?"
cat /proc/$name/fd/3 & reader=$!
sleep 0.3; kill -STOP $reader; sleep 0.3; kill -CONT $reader; sleep 0.1
echo "stopped" >/proc/$name/fd/3; wait $reader
# Its handler is not one after which calls are made again.
perl -e '$SIG{ALRM} = sub { }; alarm(1);
    open(my $pipe, "<", "/proc/$ARGV[0]/fd/3") or print "perl: $!\n"' $name
# That of bash is.
(sleep 0.3; sleep 0.3; echo "after a child" >/proc/$name/fd/3) & writer=$!
sleep 0.1 &
read -r line </proc/$name/fd/3; echo "read $line"; wait $writer
for number in {1..40}; do cat /proc/$name/fd/3 & readers="${readers:-} $!"; done
sleep 1; kill -9 $readers $name; wait || :
rm /tmp/pipe
"#;

#[test]
fn a_program_that_waited_for_the_other_end_of_a_pipe_leaves_no_thread_of_the_engine() {
    let Some(mut toy) = with_perl() else { return };
    toy.world.set("TOY_PROGRAMS", "perl mkfifo");
    let wait = WAIT_FOR_OTHER_END.replace("OPENAT", &nix::libc::SYS_openat.to_string());
    toy.hook("install", "50-inside", &wait);
    let count = "engine=$PPID; echo threads $(ls /proc/$engine/task | wc -l)";
    toy.hook("cleanup", "50-count", count);
    let lines = toy.build("-t tar --mode chroot").success().lines();
    for expected in [
        "read kept",
        "late",
        "ended by 143",
        "stopped",
        "perl: Interrupted system call",
        "read after a child",
    ] {
        assert!(
            lines.contains(&expected.to_owned()),
            "{expected}: {lines:?}"
        );
    }
    let threads = lines.iter().find_map(|line| line.strip_prefix("threads "));
    let threads: usize = threads.and_then(|count| count.parse().ok()).expect("told");
    assert!(threads < 40, "{threads} threads");
}

/// Changes what a link of `/proc` leads to, or what the program was started with.
/// Arguments: the numbers of some calls.
const CHANGE: &str = r#"
my ($linkat, $setxattr) = @ARGV;
my ($given, $stolen) = ("/proc/self/fd/5", "/stolen");
my ($attribute, $value) = ("trusted.kiln-test", "x");
print "owner by path\n" if chown(33, 33, $given);
print "another name\n" if syscall($linkat, -100, $given, -100, $stolen, 0x400) >= 0;
print "attribute\n" if syscall($setxattr, $given, $attribute, $value, 1, 0) >= 0;
print "mode of a device\n" if chmod(0666, \*STDIN);
print "mode of a device by path\n" if chmod(0666, "/proc/self/fd/0");
print "times of a device\n" if utime(undef, undef, \*STDIN);
open(my $cpu, "<", "/proc/cpuinfo");
print "mode of the kernel's\n" if chmod(0444, $cpu);
print "mode of the kernel's by path\n" if chmod(0444, "/proc/cpuinfo");
open(my $own, "+>", "/tmp/own");
print "own mode\n" if chmod(0640, $own) && chmod(0641, "/tmp/own");
print "own times\n" if utime(1, 2, $own) && utime(3, 4, "/tmp/own") && (stat($own))[9] == 4;
unlink("/tmp/own");
print "own mode without a name\n" if chmod(0640, $own);
"#;

#[test]
fn what_is_changed_in_the_place_of_a_program_is_in_its_target() {
    use nix::libc;
    let Some(toy) = with_perl() else { return };
    // On the filesystem of the target.
    let victim = toy.world.tmp().join("victim");
    fs::write(&victim, "of the host\n").expect("written");
    let before = fs::metadata(&victim).expect("there");
    let calls = [libc::SYS_linkat, libc::SYS_setxattr].map(|number| number.to_string());
    let change = format!(
        "cat >\"$TARGET_ROOT/change\" <<'END'\n{CHANGE}\nEND\n\
        chroot \"$TARGET_ROOT\" perl /change {} </dev/null 5<'{}' | sed 's/^/changed /'",
        calls.join(" "),
        victim.display()
    );
    toy.hook("cleanup", "50-outside", &change);
    let built = toy.build("-t tar --mode chroot").success();
    let lines = built.lines();
    let changed: Vec<&str> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("changed "))
        .collect();
    let expected = ["own mode", "own times", "own mode without a name"];
    assert_eq!(changed, expected);
    let after = fs::metadata(&victim).expect("still there");
    let facts = |of: &fs::Metadata| (of.mode(), of.uid(), of.nlink(), of.mtime(), of.ctime_nsec());
    assert_eq!(facts(&before), facts(&after));
}

/// Changes the device that it was started with, by calls that another process changes
/// while they are looked at. Arguments: the numbers of some calls.
const CHANGE_IN_PASSING: &str = r#"
my ($mmap, $pread, $futimesat, $fchmodat2, $utimensat) = @ARGV;
print "times by an old call\n" if $futimesat && syscall($futimesat, 0, 0, 0) == 0;
# A path that both see: `x`, or none.
my $path = syscall($mmap, 0, 4096, 3, 0x21, -1, 0);
open(my $paths, "+>", "/tmp/paths") or die;
syswrite($paths, "x\0");
my $other = fork();
if (!$other) {
    while (1) { syscall($pread, fileno($paths), $path, 1, $_) for 0, 1 }
}
my ($modes, $times) = (0, 0);
for (1 .. 3000) {
    $modes++ if syscall($fchmodat2, 0, $path, 0666, 0x1000) == 0;
    $times++ if syscall($utimensat, 0, $path, 0, 0x1000) == 0;
}
kill("KILL", $other);
print "mode by an empty path\n" if $modes;
print "times by an empty path\n" if $times;
print "tried\n";
"#;

#[test]
fn a_call_that_is_changed_in_passing_changes_nothing_of_the_container() {
    use nix::libc;
    let Some(toy) = with_perl() else { return };
    // The fourth is `fchmodat2`, too new for the library.
    let calls = [
        libc::SYS_mmap,
        libc::SYS_pread64,
        FUTIMESAT,
        452,
        libc::SYS_utimensat,
    ]
    .map(|number| number.to_string());
    let change = format!(
        "cat >/change <<'END'\n{CHANGE_IN_PASSING}\nEND\nperl /change {}; rm /change",
        calls.join(" ")
    );
    toy.hook("install", "50-inside", &change);
    let lines = toy.build("-t tar --mode chroot").success().lines();
    let done: Vec<&str> = lines
        .iter()
        .map(String::as_str)
        .filter(|line| line.contains(" by an ") || *line == "tried")
        .collect();
    assert_eq!(done, ["tried"]);
}

#[test]
fn hooks_that_a_hook_replaced_by_a_link_do_not_lead_the_engine_to_files_of_the_host() {
    if !nix::unistd::geteuid().is_root() {
        return common::skipped("mode chroot is for root of a container");
    }
    let toy = Toy::basic();
    let of_host = toy.world.home().join("host");
    fs::create_dir(&of_host).expect("made");
    fs::write(of_host.join("kept"), "of the host").expect("written");
    // In the target there are hooks at that path, on the host other files.
    let replace = format!(
        "mkdir -p '{home}'\nmv /tmp/in_target.d '{host}'\nln -s '{host}' /tmp/in_target.d",
        home = toy.world.home().display(),
        host = of_host.display()
    );
    toy.hook("post-install", "50-replace", &replace);
    toy.hook("finalise", "50-later", "true");
    let (message, hints, _) = toy.build("-t tar --mode chroot").failure();
    assert!(
        message.starts_with("removing the former hooks of the target"),
        "{message}"
    );
    assert_eq!(hints, ["a hook moved or replaced `/tmp/in_target.d`"]);
    let names: Vec<_> = fs::read_dir(&of_host)
        .expect("still there")
        .map(|entry| entry.expect("read").file_name())
        .collect();
    assert_eq!(names, ["kept"]);
}

#[test]
fn what_runs_by_a_link_of_proc_leaves_nothing_in_the_image() {
    if !nix::unistd::geteuid().is_root() {
        return common::skipped("mode chroot is for root of a container");
    }
    let toy = Toy::basic();
    // A path that is longer than that of the link, before there is another `/dev`.
    let run = "cd \"$TARGET_ROOT\"; mkdir -p srv/a-long-name; cp bin/bash srv/a-long-name\n\
        chroot . /srv/a-long-name/bash -c 'exec /proc/self/exe -c \"echo again\"'";
    toy.hook("root", "90-run", run);
    let built = toy.build("-t tar --mode chroot").success();
    assert!(built.lines().contains(&"again".to_owned()));
    let list = std::process::Command::new("tar")
        .arg("-tf")
        .arg(toy.output("tar"))
        .run()
        .success();
    let left: Vec<&str> = list.lines().filter(|path| path.ends_with("/.0")).collect();
    assert_eq!(left, Vec::<&str>::new());
}

/// Waits in a directory until that is moved, and goes up from there.
/// Arguments: that directory, and a file of the host.
const STAY: &str = r#"
my ($start, $victim) = @ARGV;
chdir($start) or die;
my @before = stat(".");
exit(0) if fork();
close(STDIN); close(STDOUT); close(STDERR);
for (1 .. 5000) {
    my @now = stat($start);
    last if !@now || $now[1] != $before[1];
    select(undef, undef, undef, 0.001);
}
chmod(0777, ("../" x $_) . substr($victim, 1)) for 1 .. 16;
"#;

#[test]
fn no_program_goes_out_with_a_directory_that_is_moved_out_of_the_target() {
    let Some(toy) = with_perl() else { return };
    let victims = ["own-dev", "hooks", "record"].map(|name| toy.world.home().join(name));
    for victim in &victims {
        fs::write(victim, "of the host").expect("written");
    }
    let stay = |start: &str, victim: &std::path::Path| {
        format!("perl - {start} '{}' <<'END'\n{STAY}\nEND", victim.display())
    };
    let [dev, hooks, record] = &victims;
    // The target's own, before another takes its place.
    let outside = format!("chroot \"$TARGET_ROOT\" {}", stay("/dev", dev));
    toy.hook("root", "90-outside", &outside);
    let inside = [
        stay("/tmp/in_target.d", hooks),
        stay("/tmp/in_target.d/.kiln/record", record),
    ];
    toy.hook("install", "50-inside", &inside.join("\n"));
    toy.hook("post-root", "50-wait", "sleep 1");
    toy.build("-t tar --mode chroot").success();
    for victim in &victims {
        let mode = fs::metadata(victim).expect("there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o644, "{}", victim.display());
    }
}

#[test]
fn devices_of_the_machine_are_recorded_and_not_made() {
    if !nix::unistd::geteuid().is_root() {
        return common::skipped("mode chroot is for root of a container");
    }
    let mut toy = Toy::basic();
    toy.world.set("TOY_PROGRAMS", "mknod head stat wc");
    // Where no control group forbids it, root could read and write a disk by such a node.
    let devices = "mknod /disk b 7 0\n\
        mknod /memory c 1 1\n\
        mknod /null c 1 3\n\
        for name in disk memory; do echo $name $(head -c 1 /$name | wc -c) $(stat -c '%t:%T %F' /$name); done\n\
        echo x >/null && echo null $(wc -c </null)\n\
        while read name value; do\n\
            case $name in CapPrm: | CapBnd:) echo may make devices $((0x$value >> 27 & 1)) ;; esac\n\
        done </proc/self/status";
    toy.hook("install", "50-devices", devices);
    let lines = toy.build("-t tar --mode chroot").success().lines();
    for expected in [
        "disk 0 7:0 block special file",
        "memory 0 1:1 character special file",
        "null 0",
        "may make devices 0",
    ] {
        assert!(
            lines.contains(&expected.to_owned()),
            "{expected}: {lines:?}"
        );
    }
    assert!(
        !lines.contains(&"may make devices 1".to_owned()),
        "{lines:?}"
    );
}

/// Opens a pipe many times by a link of `/proc`, and waits for the other end with all.
const WAIT_OFTEN: &str = r#"
mkfifo /tmp/pipe
perl -e 'my $pipe = "/tmp/pipe"; syscall(OPENAT, -100, $pipe, 0x200000, 0) == 3 or die;
    exec "sleep 600"' &
name=$!
until [ "$(readlink /proc/$name/fd/3)" = /tmp/pipe ]; do sleep 0.1; done
for number in {1..200}; do (exec 2>/dev/null; exec cat /proc/$name/fd/3) & done
# Those that are refused end, on a busy machine by and by.
for try in {1..600}; do [ $(jobs -rp | wc -l) -gt 65 ] || break; sleep 0.1; done
sleep 1; echo "waiting $(jobs -rp | wc -l)"
for number in {1..20}; do read -r up </proc/uptime && [ -d /proc/self/fd ] && echo "reads on"; done
kill $name $(jobs -p) || :
wait || :
rm /tmp/pipe
"#;

#[test]
fn many_programs_that_wait_for_the_other_end_of_a_pipe_leave_the_engine_files_to_open() {
    let Some(mut toy) = with_perl() else { return };
    if common::tool("prlimit").is_none() {
        return common::skipped("prlimit is not installed");
    }
    toy.world.set("TOY_PROGRAMS", "perl mkfifo");
    let wait = WAIT_OFTEN.replace("OPENAT", &libc::SYS_openat.to_string());
    toy.hook("install", "50-inside", &wait);
    let mut command = toy.world.command("prlimit");
    command
        .arg("--nofile=1024:1024")
        .arg(common::kiln())
        .args("build toy -n -o toy -t tar --mode chroot --json".split(' '));
    let built = common::toy::Built::run(&mut command).success();
    assert_eq!(built.lines_after("reads ").len(), 20);
    let waiting = built.lines_after("waiting ");
    let waiting: Vec<u32> = waiting
        .iter()
        .filter_map(|count| count.parse().ok())
        .collect();
    // `sleep` is one more.
    assert!(matches!(waiting[..], [2..=65]), "{waiting:?} programs wait");
}

/// Opens a file many times, by a link of `/proc` or (with an argument) as a user for whom it might
/// be made, and waits for who has a lease of it with all.
const WAIT_FOR_LEASE: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static char path[64];
static int flags = O_RDONLY;

static void *wait_for_it(void *nothing)
{
    for (;;) {
        int file = open(path, flags, 0600);
        close(file);
        usleep(10000);
    }
}

int main(int count, char **arguments)
{
    signal(SIGIO, SIG_IGN);
    int file = open("/leased", O_CREAT | O_RDWR, 0600);
    pid_t holder = fork();
    if (!holder) {
        if (fcntl(file, F_SETLEASE, F_WRLCK))
            printf("no lease\n");
        fflush(stdout);
        for (;;)
            pause();
    }
    close(file);
    usleep(200000);
    sprintf(path, "/proc/self/fd/%d", open("/leased", O_PATH));
    pid_t many = fork();
    if (!many) {
        if (count > 1) {
            setuid(33);
            sprintf(path, "/leased");
            flags = O_CREAT | O_RDWR;
        }
        pthread_attr_t small;
        pthread_attr_init(&small);
        pthread_attr_setstacksize(&small, 65536);
        for (int count = 0; count < 250; count++) {
            pthread_t thread;
            pthread_create(&thread, &small, wait_for_it, NULL);
        }
        pause();
    }
    sleep(2);
    int read = 0;
    for (int count = 0; count < 20; count++)
        read += open("/proc/uptime", O_RDONLY | O_CLOEXEC) >= 0;
    printf("read %d\n", read);
    kill(many, SIGKILL);
    kill(holder, SIGKILL);
    // Who waits goes on, and may write without a wait then.
    file = open(path, O_RDWR);
    printf("opened %d %x\n", file >= 0, fcntl(file, F_GETFL) & O_NONBLOCK);
}
"#;

#[test]
fn many_programs_that_wait_for_a_lease_leave_the_engine_files_to_open() {
    if !nix::unistd::geteuid().is_root() {
        return common::skipped("mode chroot is for root of a container");
    }
    if common::tool("prlimit").is_none() {
        return common::skipped("prlimit is not installed");
    }
    let toy = Toy::basic();
    if !toy.program("leases", WAIT_FOR_LEASE, "") {
        return;
    }
    toy.hook("install", "50-inside", "/leases\n/leases user");
    let mut command = toy.world.command("prlimit");
    command
        .arg("--nofile=1024:1024")
        .arg(common::kiln())
        .args("build toy -n -o toy -t tar --mode chroot --json".split(' '));
    let lines = common::toy::Built::run(&mut command).success().lines();
    if lines.iter().any(|line| line == "no lease") {
        return common::skipped("this filesystem has no leases");
    }
    let said: Vec<&String> = lines
        .iter()
        .filter(|line| line.starts_with("read ") || line.starts_with("opened "))
        .collect();
    assert_eq!(said, ["read 20", "opened 1 0"].repeat(2));
}

#[test]
fn what_a_hook_runs_in_the_target_with_its_hooks_puts_none_elsewhere() {
    if !nix::unistd::geteuid().is_root() {
        return common::skipped("mode chroot is for root of a container");
    }
    let toy = Toy::basic();
    let elsewhere = toy.world.tmp().join("elsewhere");
    fs::create_dir(&elsewhere).expect("made");
    let hook = format!(
        r#"source "$_LIB/img-functions"
        export TMP_MOUNT_PATH=$TARGET_ROOT
        mkfifo "$TARGET_ROOT/wait"
        for kind in directory link; do
            run_in_target 'ls /tmp/in_target.d >/had 2>&1; cat /wait' &
            exec 7>"$TARGET_ROOT/wait"
            if grep -q cleanup.d "$TARGET_ROOT/had"; then echo "$kind has hooks"; fi
            for name in $(ls -A '{elsewhere}'); do echo "wrote $name"; done
            exec 7>&-
            wait
            if [ -e "$TARGET_ROOT/tmp/in_target.d" ]; then echo "left hooks"; fi
            # As a program of the target would.
            rm -rf "$TARGET_ROOT/tmp"
            ln -s '{elsewhere}' "$TARGET_ROOT/tmp"
        done
        rm "$TARGET_ROOT/tmp" "$TARGET_ROOT/wait"
        mkdir "$TARGET_ROOT/tmp""#,
        elsewhere = elsewhere.display()
    );
    toy.hook("cleanup", "50-run", &hook);
    let built = toy.build("-t tar --mode chroot").success();
    assert_eq!(built.lines_after("wrote "), Vec::<String>::new());
    assert_eq!(built.lines_after("left "), Vec::<String>::new());
    assert!(built.lines().contains(&"directory has hooks".to_owned()));
}
