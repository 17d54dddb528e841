//! What hooks can see of the host's files, secrets and environment, and calls that they
//! must not make.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use crate::common::toy::{Built, Toy};
use crate::common::{self, Run as _};

/// Whether programs written in Python can be tried; they make system calls that no
/// shell makes.
pub(super) fn python() -> bool {
    common::tool("python3").is_some()
}

/// Builds in a mode; `None`, with a message, if this host has not got it.
pub(super) fn build(toy: &Toy, arguments: &str) -> Option<Built> {
    let built = toy.build(arguments);
    if built.outcome.status.success() {
        return Some(built);
    }
    let (message, _, _) = built.failure();
    let refusals = ["user namespace", "subordinate ids", "mode `"];
    if refusals.iter().any(|refusal| message.contains(refusal)) {
        common::skipped(&message);
        return None;
    }
    panic!("{message}\n{}", built.lines().join("\n"));
}

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

/// Goes up from directories that are not in the target, and changes files from there.
/// Arguments: a file of the host, and the numbers of some calls.
const CLIMB: &str = r#"
my ($victim, $openat, $mkdirat, $unlinkat, $renameat, $fchmodat, $utimensat, $futimesat,
    $symlinkat, $mknodat, $linkat, $handle, $open_tree, $setxattrat, $file_getattr) = @ARGV;
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
    my ($fd, $here) = (fileno($above), "..");
    my ($users, $stolen) = ("/etc/passwd", "/stolen");
    print "opened by $start\n" if syscall($openat, $fd, $up, 0, 0) >= 0;
    print "opened the root by $start\n" if syscall($open_tree, $fd, $here, 0) >= 0;
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
    if !nix::unistd::geteuid().is_root() {
        return common::skipped("mode chroot is for root of a container");
    }
    if common::tool("perl").is_none() {
        return common::skipped("perl is not installed");
    }
    let mut toy = Toy::basic();
    toy.world.set("TOY_PROGRAMS", "perl");
    let victim = toy.world.home().join("victim");
    fs::write(&victim, "of the host").expect("written");
    let before = fs::metadata(&victim).expect("there");
    #[cfg(target_arch = "x86_64")]
    let old = libc::SYS_futimesat;
    #[cfg(not(target_arch = "x86_64"))]
    let old = 0;
    let calls = [
        libc::SYS_openat,
        libc::SYS_mkdirat,
        libc::SYS_unlinkat,
        libc::SYS_renameat,
        libc::SYS_fchmodat,
        libc::SYS_utimensat,
        old,
        libc::SYS_symlinkat,
        libc::SYS_mknodat,
        libc::SYS_linkat,
        libc::SYS_name_to_handle_at,
        libc::SYS_open_tree,
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
    // Whoever has a directory of the host opens nothing in it, nor by way of its number.
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
    if built.outcome.stdout.contains("has no Landlock") {
        return common::skipped("this kernel has no Landlock rules about files");
    }
    let lines = built.lines();
    let got: Vec<&str> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("got "))
        .collect();
    let denied = "Permission denied";
    assert_eq!(
        got,
        [
            &format!("cat: /proc/self/fd/5/victim: {denied}")[..],
            &format!("/bin/bash: line 2: /proc/self/fd/5/victim: {denied}"),
            &format!("/bin/bash: line 3: /proc/self/fd/6: {denied}"),
            "/dev/fd/5/",
            &format!("find: '/dev/fd/5/': {denied}"),
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

/// Changes what is in a directory of the host, which is open, or makes something there.
/// Arguments: the numbers of some calls.
const CHANGE: &str = r#"
my ($fchmodat, $utimensat, $fchownat, $linkat, $setxattr) = @ARGV;
my ($below, $name, $stolen) = ("/proc/self/fd/5/victim", "victim", "/stolen");
my ($attribute, $value) = ("trusted.kiln-test", "x");
print "mode by path\n" if chmod(0777, $below);
print "mode\n" if syscall($fchmodat, 5, $name, 0777) >= 0;
print "mode of the directory\n" if chmod(0777, "/proc/self/fd/5/");
print "times by path\n" if utime(1, 1, $below);
print "times\n" if syscall($utimensat, 5, $name, 0, 0) >= 0;
print "owner by path\n" if chown(33, 33, $below);
print "owner\n" if syscall($fchownat, 5, $name, 33, 33, 0) >= 0;
print "another name\n" if syscall($linkat, -100, $below, -100, $stolen, 0x400) >= 0;
print "attribute\n" if syscall($setxattr, $below, $attribute, $value, 1, 0) >= 0;
print "mode of a device\n" if chmod(0666, \*STDIN);
print "times of a device\n" if utime(undef, undef, \*STDIN);
open(my $cpu, "<", "/proc/cpuinfo");
print "mode of the kernel's\n" if chmod(0444, $cpu);
print "mode of the kernel's by path\n" if chmod(0444, "/proc/cpuinfo");
open(my $own, "+>", "/tmp/own");
print "own mode\n" if chmod(0640, $own) && chmod(0641, "/tmp/own");
unlink("/tmp/own");
print "own mode without a name\n" if chmod(0640, $own);
$) = 33; $> = 33;
print "directory\n" if mkdir("/proc/self/fd/5/made");
print "file\n" if open(my $made, ">", "/proc/self/fd/5/file");
"#;

#[test]
fn what_is_changed_in_the_place_of_a_program_is_in_its_target() {
    use nix::libc;
    if !nix::unistd::geteuid().is_root() {
        return common::skipped("mode chroot is for root of a container");
    }
    if common::tool("perl").is_none() {
        return common::skipped("perl is not installed");
    }
    let mut toy = Toy::basic();
    toy.world.set("TOY_PROGRAMS", "perl");
    // On the filesystem of the target.
    let of_host = toy.world.tmp().join("host");
    let victim = of_host.join("victim");
    fs::create_dir(&of_host).expect("made");
    fs::write(&victim, "of the host\n").expect("written");
    let before = fs::metadata(&victim).expect("there");
    let calls = [
        libc::SYS_fchmodat,
        libc::SYS_utimensat,
        libc::SYS_fchownat,
        libc::SYS_linkat,
        libc::SYS_setxattr,
    ]
    .map(|number| number.to_string());
    let change = format!(
        "cat >\"$TARGET_ROOT/change\" <<'END'\n{CHANGE}\nEND\n\
        chroot \"$TARGET_ROOT\" perl /change {} </dev/null 5<'{}' | sed 's/^/changed /'",
        calls.join(" "),
        of_host.display()
    );
    toy.hook("cleanup", "50-outside", &change);
    let built = toy.build("-t tar --mode chroot").success();
    let lines = built.lines();
    let changed: Vec<&str> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("changed "))
        .collect();
    assert_eq!(changed, ["own mode", "own mode without a name"]);
    let after = fs::metadata(&victim).expect("still there");
    let facts = |of: &fs::Metadata| (of.mode(), of.uid(), of.nlink(), of.mtime(), of.ctime_nsec());
    assert_eq!(facts(&before), facts(&after));
    assert_eq!(fs::read_dir(&of_host).expect("still there").count(), 1);
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
    if !nix::unistd::geteuid().is_root() {
        return common::skipped("mode chroot is for root of a container");
    }
    if common::tool("perl").is_none() {
        return common::skipped("perl is not installed");
    }
    let mut toy = Toy::basic();
    toy.world.set("TOY_PROGRAMS", "perl");
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
fn secrets_of_the_home_directory_are_hidden_but_for_what_is_given() {
    let toy = Toy::basic();
    let home = toy.world.home();
    for (path, text) in [
        (".ssh/id_test", "private"),
        (".ssh/id_test.pub", "public"),
        (".ssh/authorized_keys", "public"),
        (".aws/credentials", "private"),
        (".netrc", "private"),
        (".config/gcloud/token", "private"),
        (".config/git/config", "public"),
        (".gitconfig", "public"),
        (".cargo/credentials.toml", "private"),
        (".cargo/bin/tool", "public"),
        (".given/key", "public"),
        (".named/key", "public"),
        ("plain", "public"),
    ] {
        let path = home.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, text).expect("written");
    }
    toy.hook(
        "extra-data",
        "50-look",
        "find \"$HOME\" -type f | while read -r file; do\n\
           case $(cat \"$file\" 2>/dev/null) in public|private) echo \"found $(cat \"$file\") ${file#$HOME/}\";; esac\n\
         done\n\
         if (: >\"$HOME/.ssh/new\") 2>/dev/null; then echo 'found writable .ssh'; fi",
    );
    let mut command = toy.command(&format!(
        "-t tar --json --show {}",
        home.join(".given").display()
    ));
    command.env("DIB_TEST_FILE", home.join(".named/key"));
    let built = Built::run(&mut command).success();
    let mut found = built.lines_after("found ");
    found.sort();
    // `.cargo/bin` is no directory of PATH here, but programs may need it.
    assert_eq!(
        found,
        [
            "public .cargo/bin/tool",
            "public .config/git/config",
            "public .gitconfig",
            "public .given/key",
            "public .named/key",
            "public .ssh/authorized_keys",
            "public .ssh/id_test.pub",
            "public plain",
        ]
    );
    assert!(!home.join(".ssh/new").exists());
}

#[test]
fn variables_that_look_like_secrets_are_withheld_and_named() {
    let mut toy = Toy::basic();
    for (name, value) in [
        ("AWS_SECRET_ACCESS_KEY", "one"),
        ("GITHUB_TOKEN", "two"),
        ("SSH_AUTH_SOCK", "/three"),
        ("MY_TOKEN", "four"),
        ("DIB_SOME_PASSWORD", "five"),
        ("PLAIN", "six"),
    ] {
        toy.world.set(name, value);
    }
    let look = "env | grep -E '^(AWS_|GITHUB|SSH_|MY_|DIB_SOME|PLAIN)' | sed 's/^/has /'";
    toy.hook("extra-data", "50-look", look);
    toy.hook("install", "50-look", look);
    let built = toy.build("-t tar --pass-env MY_TOKEN").success();
    let mut has = built.lines_after("has ");
    has.sort();
    has.dedup();
    assert_eq!(
        has,
        ["DIB_SOME_PASSWORD=five", "MY_TOKEN=four", "PLAIN=six"]
    );
    let told = built.events.iter().any(|event| {
        matches!(event, kiln::build::event::Event::Info { text }
            if text.contains("hooks do not get AWS_SECRET_ACCESS_KEY, GITHUB_TOKEN, SSH_AUTH_SOCK"))
    });
    assert!(told, "nobody is told what is withheld");
}

/// Calls that hooks have no business with, by number for both common machines.
const CALLS: &str = r"
import ctypes, os, platform, fcntl, socket
libc = ctypes.CDLL(None, use_errno=True)
arm = platform.machine() == 'aarch64'
calls = {
    'keyctl': (219, 250), 'add_key': (217, 248), 'bpf': (280, 321),
    'perf_event_open': (241, 298), 'userfaultfd': (282, 323), 'init_module': (105, 175),
    'finit_module': (273, 313), 'kexec_load': (104, 246), 'open_by_handle_at': (265, 304),
    'swapoff': (225, 168), 'io_uring_setup': (425, 425), 'syslog': (116, 103),
}
for name, (a, x) in calls.items():
    ctypes.set_errno(0)
    libc.syscall(ctypes.c_long(a if arm else x), ctypes.c_long(0), ctypes.c_long(0), ctypes.c_long(0))
    print('call', name, ctypes.get_errno())
try:
    fcntl.ioctl(0, 0x5412, b'x')
except OSError as error:
    print('call tiocsti', error.errno)
try:
    socket.socket(40, socket.SOCK_STREAM)
except OSError as error:
    print('call vsock', error.errno)
try:
    os.open('/dev/tty', os.O_RDWR)
    print('call tty 0')
except OSError as error:
    print('call tty', error.errno)
";

#[test]
fn calls_that_no_hook_needs_are_refused() {
    if !python() {
        return common::skipped("python3 is not installed");
    }
    let toy = Toy::basic();
    toy.hook(
        "extra-data",
        "50-calls",
        &format!("python3 - <<'END'\n{CALLS}\nEND"),
    );
    for mode in ["auto", "single"] {
        let Some(built) = build(&toy, &format!("-t tar --mode {mode}")) else {
            continue;
        };
        let mut calls = built.lines_after("call ");
        calls.sort();
        let eperm = |name: &str| format!("{name} {}", libc::EPERM);
        let mut expected: Vec<String> = [
            "add_key",
            "bpf",
            "finit_module",
            "init_module",
            "kexec_load",
            "keyctl",
            "open_by_handle_at",
            "perf_event_open",
            "swapoff",
            "syslog",
            "tiocsti",
            "userfaultfd",
        ]
        .map(eperm)
        .to_vec();
        expected.push(format!("io_uring_setup {}", libc::ENOSYS));
        expected.push(format!("tty {}", libc::ENXIO));
        expected.push(format!("vsock {}", libc::EAFNOSUPPORT));
        expected.sort();
        assert_eq!(calls, expected, "{mode}");
        fs::remove_file(toy.output("tar")).expect("the tar is ours");
    }
}

#[test]
fn wrong_values_of_the_sandboxs_options_are_refused() {
    let toy = Toy::basic();
    for (arguments, message) in [
        (
            "--network lan",
            "`--network` is `lan`, which is not a network",
        ),
        (
            "--memory much",
            "`--memory` is `much`, which is not a size of 1 MiB or more",
        ),
        ("--timeout 5d", "`--timeout` is `5d`, which is not a time"),
    ] {
        let outcome = toy.command(arguments).run();
        assert_ne!(outcome.code(), 0, "{arguments}");
        assert!(outcome.stderr.contains(message), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("hint: "), "{}", outcome.stderr);
    }
}

#[test]
fn files_that_only_root_reads_are_hidden_from_hooks_of_root() {
    if !nix::unistd::geteuid().is_root() {
        return common::skipped("only root can read these files at all");
    }
    let toy = Toy::basic();
    assert_eq!(
        fs::metadata("/etc/shadow")
            .map(|meta| meta.permissions().mode() & 0o007)
            .ok(),
        Some(0)
    );
    toy.hook(
        "extra-data",
        "50-look",
        "for file in /etc/shadow /etc/gshadow /etc/ssh/ssh_host_*_key; do\n\
         if [ -s $file ]; then echo \"seen $file\"; fi\ndone",
    );
    let built = toy.build("-t tar").success();
    assert_eq!(built.lines_after("seen "), Vec::<String>::new());
}
