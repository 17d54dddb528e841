//! What programs see of `/proc`, `/sys` and devices where nothing can be mounted (mode
//! `chroot`): directories that stand for others, and nothing that leads out or is not theirs.

use std::fs;

use super::confined::with_perl;
use crate::common;
use crate::common::toy::Toy;

/// Reads directories of `/proc` and `/sys` as programs do, and waits with them open.
const READ: &str = r#"
my ($getdents64) = @ARGV;
$| = 1;
opendir(my $kernel, "/proc/sys/kernel") or die;
my @names = sort(grep { !/^\.\.?$/ } readdir($kernel));
print "names @names\n";
rewinddir($kernel);
my $first = readdir($kernel) for 1 .. 5;
my $here = telldir($kernel);
my @rest = readdir($kernel);
seekdir($kernel, $here);
print "read on\n" if "@rest" eq join(" ", readdir($kernel)) && @rest + 3 == @names;
my @open = stat($kernel);
my @named = stat("/proc/sys/kernel");
print "is itself\n" if "@open[0, 1, 2, 3]" eq "@named[0, 1, 2, 3]";
# A few entries at a time, by a descriptor that only this program has.
open(my $few, "<", "/proc/sys/kernel") or die;
my ($calls, $bytes, $buffer) = (0, 0, "\0" x 128);
while (($bytes = syscall($getdents64, fileno($few), $buffer, 128)) > 0) { $calls++ }
print "read by parts\n" if $bytes == 0 && $calls * 5 > @names;
open(my $on, "<", "/proc/self/fd/" . fileno($few)) or die;
opendir(my $proc, "/proc") or die;
opendir(my $own, "/proc/self/fd") or die;
opendir(my $sys, "/sys/kernel") or die;
print "found itself\n" if grep { $_ eq fileno($own) } readdir($own);
print "went there\n" if chdir($sys) && -e "uevent_seqnum" && !-e "../etc";
chdir("/proc/self/fd");
print "waits $$\n";
<STDIN>;
"#;

#[test]
fn directories_of_proc_and_sys_in_the_hands_of_programs_are_in_their_target() {
    let Some(toy) = with_perl() else { return };
    // What the kernel itself says of them, to who is not in the target.
    let look = format!(
        r#"cat >"$TARGET_ROOT/read" <<'END'
{READ}
END
        coproc chroot "$TARGET_ROOT" perl /read {} 2>&1
        while read -r word line <&"${{COPROC[0]}}"; do
            echo "$word $line"
            [ "$word" != waits ] || break
        done
        for file in /proc/$line/fd/* /proc/$line/cwd; do
            [ -d $file/ ] && echo "holds $(readlink $file)"
        done
        [ $(ls "$TARGET_ROOT/proc" "$TARGET_ROOT/sys" | wc -w) = 2 ] && echo nothing is left
        exec {{COPROC[1]}}>&-
        wait; rm "$TARGET_ROOT/read""#,
        nix::libc::SYS_getdents64
    );
    toy.hook("cleanup", "50-look", &look);
    let lines = toy.build("-t tar --mode chroot").success().lines();
    for expected in [
        "read on",
        "is itself",
        "read by parts",
        "found itself",
        "went there",
        "nothing is left",
    ] {
        let expected = expected.to_owned();
        assert!(lines.contains(&expected), "{expected}: {lines:?}");
    }
    let after = |start| {
        let after = lines
            .iter()
            .filter_map(move |line| line.strip_prefix(start));
        after.collect::<Vec<&str>>()
    };
    let mut names: Vec<_> = fs::read_dir("/proc/sys/kernel")
        .expect("read")
        .map(|entry| entry.expect("read").file_name())
        .map(|name| name.into_string().expect("text"))
        .collect();
    names.sort();
    assert_eq!(after("names "), [names.join(" ")]);
    let held = after("holds ");
    assert_eq!(held.len(), 7, "{held:?}");
    for path in held {
        assert!(
            !path.starts_with("/proc") && !path.starts_with("/sys"),
            "{path}"
        );
    }
}

/// Has directories of `/proc` and `/sys` as working directories.
const GO_THERE: &str = r#"
cd /proc/self; echo "at $PWD"
read -r name pid <status; [ -L exe ] && [ -d fd ] && echo "own $pid"
[ "$(env pwd)" = /proc/$$ ] && [ "$(pwd -P)" = /proc/$$ ] && echo named
cat stat | { read -r pid rest; [ $pid = $$ ] && echo "of who went there"; }
cd fd; [ "$(pwd -P)" = /proc/$$/fd ] && ls | head -1
cd ..; cd -P ..; [ "$(pwd -P)" = /proc ] && [ -e uptime ] && [ -e self/status ] && echo up
cd /sys/class/net/lo; case $(pwd -P) in /sys/devices/*/lo) cat ifindex ;; esac
cd /dev/fd; [ "$(pwd -P)" = /proc/$$/fd ] && echo by a link
cd /tmp; cd /proc/self/cwd; [ "$(pwd -P)" = /tmp ] && echo back
for path in /proc/uptime /proc/none /proc/$PPID/cwd /proc/$PPID/root /proc/1/root; do
    cd $path && echo went to $path
done 2>/dev/null
cd /proc/$PPID/fd && { ls; cat 0; stat -c %F 0; } 2>/dev/null && echo looked
# Nothing is removed or made there, nor where the program was before.
mkdir /tmp/before; cd /tmp/before; touch status
cd /proc/self; { rm -rf *; mkdir made; touch made; mv status made; } 2>/dev/null
[ -e status ] && [ ! -e made ] && [ -e /tmp/before/status ] && echo kept
rm -r /tmp/before
for one in {1..10}; do
    for two in {1..10}; do
        cd /proc/self; read -r pid rest <stat; [ $pid = $BASHPID ] || echo went to another
        cd /sys/kernel; [ -e mm ] || echo went to another
    done &
done; wait
perl -e 'chdir("/proc/self/task") && chdir("..") && -e "environ" && print "up by name\n"'
cd /; [ "$(ls /proc | grep -c fd)" = 0 ] && echo done
"#;

#[test]
fn a_directory_of_proc_or_sys_may_be_a_working_directory() {
    let Some(mut toy) = with_perl() else { return };
    toy.world.set("TOY_PROGRAMS", "perl pwd");
    toy.hook("install", "50-inside", &format!("set +e\n{GO_THERE}"));
    let left = "find \"$TARGET_ROOT/proc\" \"$TARGET_ROOT/sys\" -mindepth 1 -printf 'left %p\\n'";
    toy.hook("post-install", "50-inside", "cd /proc; [ -e uptime ]");
    toy.hook("cleanup", "50-look", left);
    let built = toy.build("-t tar --mode chroot").success();
    let lines = built.lines();
    let from = lines.iter().position(|line| line == "at /proc/self");
    let from = from.unwrap_or_else(|| panic!("{lines:?}"));
    let said: Vec<&str> = lines[from..].iter().map(String::as_str).collect();
    assert_eq!(
        said,
        [
            "at /proc/self",
            "own 50-inside",
            "named",
            "of who went there",
            "0",
            "up",
            "1",
            "by a link",
            "back",
            "kept",
            "up by name",
            "done",
        ]
    );
    assert_eq!(built.lines_after("left "), Vec::<String>::new());
}

#[test]
fn a_program_without_a_processor_goes_to_a_directory_of_proc_by_and_by() {
    if !nix::unistd::geteuid().is_root() {
        return common::skipped("mode chroot is for root of a container");
    }
    let mut toy = Toy::basic();
    toy.world.set("TOY_PROGRAMS", "chrt");
    toy.hook(
        "install",
        "50-inside",
        "for _ in {1..4}; do (while :; do :; done) & done\n\
         for _ in {1..3}; do\n\
         chrt --idle 0 bash -c 'cd /proc/self && echo went; cd /sys/kernel && echo went' || :\n\
         done\n\
         kill $(jobs -p)",
    );
    let lines = toy.build("-t tar --mode chroot").success().lines();
    let went = lines.iter().filter(|line| *line == "went").count();
    assert_eq!(went, 6, "{lines:?}");
}

/// Makes calls of 32-bit x86, which any program may.
#[cfg(target_arch = "x86_64")]
const NARROW: &str = r#"
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
static char *low;
static long call(int number, long first, long second, long third) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result)
        : "0"(number), "b"(first), "c"(second), "d"(third) : "memory", "r8", "r9", "r10", "r11");
    return (int)result;
}
int main(void) {
    low = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    char *path = low, *buffer = low + 4096;
    uint32_t *type = (uint32_t *)buffer;
    strcpy(path, "/proc/self");
    long told = call(99, (long)path, (long)buffer, 0);
    printf("statfs %ld %x\n", told, *type);
    *type = 0;
    told = call(268, (long)path, 84, (long)buffer);
    printf("statfs64 %ld %x\n", told, *type);
    printf("too small %ld\n", call(268, (long)path, 80, (long)buffer));
    long open = call(5, (long)path, 0200000, 0);
    *type = 0;
    told = call(100, open, (long)buffer, 0);
    printf("fstatfs %ld %x\n", told, *type);
    *type = 0;
    told = call(269, open, 84, (long)buffer);
    printf("fstatfs64 %ld %x\n", told, *type);
    int count = 0, known = 0;
    for (long size; (size = call(141, open, (long)buffer, 256)) > 0;)
        for (long at = 0; at < size; at += *(uint16_t *)(buffer + at + 8), count++)
            known += !strcmp(buffer + at + 10, "status") || !strcmp(buffer + at + 10, "fd");
    printf("getdents %d %s\n", known, count > 30 ? "many" : "few");
    strcpy(path, "/proc/self/task");
    long there = call(12, (long)path, 0, 0), length = call(183, (long)buffer, 256, 0);
    printf("chdir %ld %s\n", there, length > 0 && strstr(buffer, "/task") ? "named" : "lost");
}
"#;

#[test]
#[cfg(target_arch = "x86_64")]
fn calls_of_32_bits_find_directories_of_proc_too() {
    if !nix::unistd::geteuid().is_root() {
        return common::skipped("mode chroot is for root of a container");
    }
    let toy = Toy::basic();
    if !toy.program("narrow", NARROW, "") {
        return;
    }
    toy.hook(
        "install",
        "50-inside",
        "/narrow; readlink /proc/self/fd/3 3</proc/sys",
    );
    let lines = toy.build("-t tar --mode chroot").success().lines();
    if lines.iter().any(|line| line == "statfs -38 0") {
        return common::skipped("this kernel runs no programs for 32 bits");
    }
    for expected in [
        "statfs 0 9fa0",
        "statfs64 0 9fa0",
        "too small -22",
        "fstatfs 0 9fa0",
        "fstatfs64 0 9fa0",
        "getdents 2 many",
        "chdir 0 named",
        "/proc/sys",
    ] {
        assert!(
            lines.contains(&expected.to_owned()),
            "{expected}: {lines:?}"
        );
    }
}

/// Sets the times of standard input by calls of 32-bit x86 with an address of which the kernel
/// uses the lower half, which is none.
#[cfg(target_arch = "x86_64")]
const HALVES: &str = r#"
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
static long call(int number, long first, long second, long third) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result)
        : "0"(number), "b"(first), "c"(second), "d"(third), "S"(0L)
        : "memory", "r8", "r9", "r10", "r11");
    return (int)result;
}
int main(void) {
    struct stat before, after;
    char *times = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    fstat(0, &before);
    // `utimensat`, `futimesat`, `utimensat_time64`.
    int numbers[] = {320, 299, 412};
    for (int at = 0; at < 3; at++)
        printf("call %ld\n", call(numbers[at], 0, 1L << 32, (long)times));
    fstat(0, &after);
    printf("%s\n", before.st_mtime == after.st_mtime ? "kept" : "changed");
}
"#;

#[test]
#[cfg(target_arch = "x86_64")]
fn halves_that_the_kernel_does_not_use_deceive_nobody() {
    if !nix::unistd::geteuid().is_root() {
        return common::skipped("mode chroot is for root of a container");
    }
    let toy = Toy::basic();
    if !toy.program("halves", HALVES, "") {
        return;
    }
    // Standard input is a device of the container.
    toy.hook("install", "50-inside", "/halves");
    let lines = toy.build("-t tar --mode chroot").success().lines();
    if lines.iter().any(|line| line == "call -38") {
        return common::skipped("this kernel runs no programs for 32 bits");
    }
    assert!(lines.contains(&"kept".to_owned()), "{lines:?}");
}

/// Asks for a socket of packets, as it was done before there was a family for them
/// (`packet(7)`), by the call of 32-bit x86 for all of sockets; then by the family for keys
/// (`AF_KEY`).
#[cfg(target_arch = "x86_64")]
const PACKETS: &str = r#"
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
static long ask(uint32_t *words, uint32_t family, uint32_t kind, uint32_t protocol) {
    long result;
    words[0] = family, words[1] = kind, words[2] = protocol;
    __asm__ volatile("int $0x80" : "=a"(result) : "0"(102), "b"(1L), "c"((long)words)
        : "memory", "r8", "r9", "r10", "r11");
    return (int)result;
}
int main(void) {
    uint32_t *words = mmap(0, 4096, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    printf("plain %s\n", ask(words, 2, 2, 0) >= 0 ? "made" : "refused");
    printf("raw %ld\n", ask(words, 2, 3, 1));
    printf("packets %ld\n", ask(words, 2, 10, 0x300));
    printf("keys %ld\n", ask(words, 15, 3, 2));
}
"#;

#[test]
#[cfg(target_arch = "x86_64")]
fn sockets_that_take_a_capability_are_not_made_for_who_lacks_it() {
    let mut toy = Toy::basic();
    if common::tool("unshare").is_none() {
        return common::skipped("unshare is not installed");
    }
    toy.world.set("TOY_PROGRAMS", "unshare");
    if !toy.program("packets", PACKETS, "") {
        return;
    }
    toy.hook(
        "install",
        "50-inside",
        "unshare -n chroot --userspec=33:33 / /packets || echo no network of its own",
    );
    for mode in ["auto", "single"] {
        let built = toy.build(&format!("-t tar --overwrite --mode {mode}"));
        if !built.had_its_mode() {
            continue;
        }
        let lines = built.success().lines();
        if !lines.iter().any(|line| line == "plain made") {
            common::skipped("this kernel runs no programs for 32 bits, or makes no networks");
            continue;
        }
        for expected in ["raw -1", "packets -1", "keys -1"] {
            assert!(
                lines.contains(&expected.to_owned()),
                "{mode}: {expected}: {lines:?}"
            );
        }
    }
}

#[test]
fn the_terminal_of_the_caller_is_not_opened_for_programs_of_the_target() {
    use std::os::unix::process::CommandExt as _;
    if !nix::unistd::geteuid().is_root() {
        return common::skipped("mode chroot is for root of a container");
    }
    let mut toy = Toy::basic();
    // Kiln keeps the terminal then, for a shell at the break point.
    toy.world.set("break", "before-nothing");
    // Without a node of the target the supervisor opens one.
    let open = "rm /dev/tty\n\
        if : 3<>/dev/tty; then echo reached the terminal; fi 2>/dev/null\n\
        echo tried";
    toy.hook("install", "50-inside", open);
    let terminal = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/ptmx")
        .expect("a terminal");
    let mut command = toy.command("-t tar --mode chroot --json");
    let master = std::os::fd::AsRawFd::as_raw_fd(&terminal);
    let own = move || {
        nix::unistd::setsid()?;
        let unlocked: libc::c_int = 0;
        // SAFETY: requests to a terminal that is open, with a number that lives across them.
        unsafe {
            libc::ioctl(master, libc::TIOCSPTLCK, &raw const unlocked);
            let other = libc::ioctl(master, libc::TIOCGPTPEER, libc::O_RDWR);
            if libc::ioctl(other, libc::TIOCSCTTY, 0) != 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls alone.
    unsafe { command.pre_exec(own) };
    let lines = crate::common::toy::Built::run(&mut command)
        .success()
        .lines();
    assert!(lines.contains(&"tried".to_owned()), "{lines:?}");
    let reached = "reached the terminal".to_owned();
    assert!(!lines.contains(&reached), "{lines:?}");
}

#[test]
fn what_a_program_of_the_target_learns_of_others_and_of_the_kernel_is_little() {
    if !nix::unistd::geteuid().is_root() {
        return common::skipped("mode chroot is for root of a container");
    }
    let toy = Toy::basic();
    // The engine itself, of which the first descriptors are open.
    let look = "for one in fd/0 fd/1 fd/2 task/$PPID/fd/0; do\n\
            [ ! -L /proc/$PPID/$one ] || echo learned $one\n\
        done\n\
        for one in /proc/keys /proc/key-users /sys/firmware; do\n\
            [ ! -e $one ] || ! : <$one || echo learned $one\n\
        done 2>/dev/null\n\
        for one in $(ls /sys/firmware 2>/dev/null); do echo learned $one; done\n\
        for one in self task; do\n\
            [ $one = self ] || one=self/task/$$\n\
            : >>/proc/$one/net/dev && echo learned to write\n\
        done 2>/dev/null\n\
        [ -L /proc/self/fd/0 ] && [ -e /proc/$PPID/fd ] && echo tried";
    toy.hook("install", "50-inside", look);
    let built = toy.build("-t tar --mode chroot").success();
    assert_eq!(built.lines_after("learned "), Vec::<String>::new());
    assert!(built.lines().contains(&"tried".to_owned()));
}

/// Runs a command where `/sys` is missing. `$0` is an empty directory.
const WITHOUT_SYS: &str = r#"
set -eu
mount -t tmpfs kiln-test "$0" && cd "$0" && mkdir upper work root &&
    mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work kiln-test root &&
    rmdir root/sys || exit 99
for directory in /proc /dev "${1%/*}"; do mount --rbind "$directory" "root$directory"; done
echo 'of the container' >root/secret
exec chroot root "$@"
"#;

#[test]
fn where_the_container_has_no_sys_a_target_has_none_either() {
    if !nix::unistd::geteuid().is_root() {
        return common::skipped("mode chroot is for root of a container");
    }
    let toy = Toy::basic();
    let read = "for path in /sys/self/root/secret /sys/1/root/secret /sys/thread-self/root/secret; do\n\
            cat $path 2>/dev/null || :\n\
        done\n\
        [ -e /sys/self ] || echo tried";
    toy.hook("install", "50-inside", read);
    let empty = toy.world.home().join("empty");
    fs::create_dir(&empty).expect("made");
    let mut command = toy.world.command("unshare");
    command
        .args(["--mount", "bash", "-c", WITHOUT_SYS])
        .arg(&empty)
        .arg(common::kiln())
        .args("build toy -n -o /tmp/toy -t tar --mode chroot --json".split(' '));
    let built = crate::common::toy::Built::run(&mut command);
    if built.outcome.status.code() == Some(99) {
        return common::skipped("the root directory cannot be under an overlay");
    }
    let lines = built.success().lines();
    assert!(lines.contains(&"tried".to_owned()), "{lines:?}");
    assert!(!lines.contains(&"of the container".to_owned()), "{lines:?}");
}

/// Runs a command where `debugfs` is mounted below `/sys`.
const WITH_DEBUGFS: &str = "[ -d /sys/kernel/debug ] &&\n\
    mount -t debugfs kiln-test /sys/kernel/debug || exit 99\n\
    exec \"$0\" \"$@\"";

#[test]
fn what_is_mounted_below_sys_is_not_read_by_programs_of_the_target() {
    if !nix::unistd::geteuid().is_root() {
        return common::skipped("mode chroot is for root of a container");
    }
    let toy = Toy::basic();
    let read = "for name in /sys/kernel/debug/* \\\n\
            /sys/kernel/debug/sleep_time /sys/kernel/debug/clear_warn_once; do\n\
            echo \"there $name\"\n\
            { : <$name; } 2>/dev/null && echo \"opened $name\"\n\
        done\n\
        [ -e /sys/kernel/debug/clear_warn_once ] && echo is there\n\
        [ -n \"$(ls /sys/kernel/mm)\" ] && : </sys/kernel/uevent_seqnum && echo tried";
    toy.hook("install", "50-inside", read);
    let mut command = toy.world.command("unshare");
    command
        .args(["--mount", "bash", "-c", WITH_DEBUGFS])
        .arg(common::kiln())
        .args("build toy -n -o toy -t tar --mode chroot --json".split(' '));
    let built = crate::common::toy::Built::run(&mut command);
    if built.outcome.status.code() == Some(99) {
        return common::skipped("this kernel has no debugfs");
    }
    let built = built.success();
    assert_eq!(built.lines_after("opened "), Vec::<String>::new());
    assert!(built.lines().contains(&"tried".to_owned()));
}
