//! Where nothing can be mounted (mode `chroot`), on kernels and in containers that lack a second
//! wall too: what a hook outside lets a program of the target read is not changed by it, and
//! nobody in the target looks into who is about to be a program there.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use nix::libc;

use crate::common;
use crate::common::filter::{confine, refusing};
use crate::common::toy::{Built, Toy};

/// `landlock_create_ruleset` and its siblings.
const LANDLOCK: [libc::c_long; 3] = [444, 445, 446];

/// Changes standard input, which is open for reading, and descriptors of its own.
const CHANGE: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/fsverity.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define TRY(call) do { if ((call) >= 0) printf("did %s\n", #call); } while (0)

int main(void)
{
    const char *given = "/proc/self/fd/0";
    TRY(open(given, O_WRONLY));
    TRY(open(given, O_RDONLY | O_TRUNC));
    TRY(open("/dev/stdin", O_RDWR));
    TRY(linkat(AT_FDCWD, given, AT_FDCWD, "/name", AT_SYMLINK_FOLLOW));
    TRY(open("/name", O_WRONLY));
    TRY(fchmod(0, 04777));
    TRY(chmod(given, 04777));
    TRY(fchown(0, 33, 33));
    TRY(fsetxattr(0, "user.kiln", "x", 1, 0));
    TRY(setxattr(given, "user.kiln", "x", 1, 0));
    TRY(futimens(0, NULL));
    int flags = FS_NODUMP_FL;
    long version = 7;
    struct fsxattr extended = {.fsx_xflags = FS_XFLAG_NODUMP};
    struct fsverity_enable_arg verity = {.version = 1, .hash_algorithm = 1, .block_size = 4096};
    TRY(ioctl(0, FS_IOC_SETFLAGS, &flags));
    TRY(ioctl(0, FS_IOC_SETVERSION, &version));
    TRY(ioctl(0, FS_IOC_FSSETXATTR, &extended));
    TRY(ioctl(0, FS_IOC_ENABLE_VERITY, &verity));
    // Neither for reading nor for writing, of which Landlock asks nothing.
    int neither;
    TRY(neither = open(given, O_ACCMODE));
    TRY(fchmod(neither, 04777));
    TRY(fchown(neither, 33, 33));
    TRY(fsetxattr(neither, "user.kiln", "x", 1, 0));
    TRY(futimens(neither, NULL));
    TRY(open(given, O_ACCMODE | O_TRUNC));
    printf("read %d\n", open(given, O_RDONLY) >= 0);
    // What the program made itself stays its own.
    int own = open("/tmp", O_TMPFILE | O_RDWR, 0600);
    char path[64];
    sprintf(path, "/proc/self/fd/%d", own);
    printf("named %d\n", linkat(AT_FDCWD, path, AT_FDCWD, "/tmp/name", AT_SYMLINK_FOLLOW) == 0);
    unlink("/tmp/name");
    int only_read = open(path, O_RDONLY);
    printf("own mode %d\n", only_read >= 0 && fchmod(only_read, 0640) == 0);
    sprintf(path, "/proc/self/fd/%d", memfd_create("memory", 0));
    printf("memory %d\n", open(path, O_RDWR) >= 0);
    int ends[2];
    pipe(ends);
    sprintf(path, "/proc/self/fd/%d", ends[0]);
    printf("pipe %d\n", open(path, O_RDWR) >= 0);
}
"#;

#[test]
fn what_is_given_to_be_read_is_not_changed_whatever_the_kernel_lacks() {
    if !nix::unistd::geteuid().is_root() {
        return common::skipped("mode chroot is for root of a container");
    }
    let refused: [(&str, &[libc::c_long]); 3] = [
        ("nothing", &[]),
        ("Landlock", &LANDLOCK),
        ("descriptors", &[libc::SYS_pidfd_getfd]),
    ];
    for (what, calls) in refused {
        let toy = Toy::basic();
        if !toy.program("change", CHANGE, "") {
            return;
        }
        // On the filesystem of the target.
        let given = toy.world.tmp().join("given");
        fs::write(&given, "of the host\n").expect("written");
        let before = fs::metadata(&given).expect("there");
        let hook = format!("chroot \"$TARGET_ROOT\" /change <'{}'", given.display());
        toy.hook("cleanup", "50-give", &hook);
        let mut command = toy.command("-t tar --mode chroot");
        confine(&mut command, refusing(calls, libc::ENOSYS));
        let built = Built::run(command.arg("--json")).success();
        assert_eq!(built.lines_after("did "), Vec::<String>::new(), "{what}");
        let lines = built.lines();
        for expected in ["read 1", "named 1", "own mode 1", "memory 1", "pipe 1"] {
            let is_there = lines.iter().any(|line| line == expected);
            assert!(is_there, "{what}: no {expected} in {lines:?}");
        }
        let after = fs::metadata(&given).expect("still there");
        let facts = |of: &fs::Metadata| (of.mode(), of.uid(), of.nlink(), of.mtime(), of.ctime());
        assert_eq!(facts(&before), facts(&after), "{what}");
        assert_eq!(
            fs::read_to_string(&given).ok().as_deref(),
            Some("of the host\n"),
            "{what}"
        );
    }
}

/// Traces processes as soon as they are there, for some seconds, and tells which are still kiln's,
/// of the engine whose number is the argument.
const GRAB: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int main(int count, char **arguments)
{
    int engine = atoi(arguments[1]), parent = 0;
    if (fork())
        return 0;
    setsid();
    int out = open("/grabbed", O_CREAT | O_WRONLY | O_APPEND, 0644);
    int null = open("/dev/null", O_RDWR);
    dup2(null, 0);
    dup2(null, 1);
    dup2(null, 2);
    pid_t first = getpid();
    for (time_t end = time(NULL) + 3; time(NULL) < end;) {
        for (pid_t other = first + 1; other < first + 300; other++) {
            if (ptrace(PTRACE_SEIZE, other, 0, 0))
                continue;
            ptrace(PTRACE_INTERRUPT, other, 0, 0);
            waitpid(other, NULL, __WALL);
            char path[64], text[512] = "", name[16] = "";
            sprintf(path, "/proc/%d/stat", other);
            int file = open(path, O_RDONLY);
            if (file >= 0 && read(file, text, sizeof text - 1) > 0
                && sscanf(text, "%*d (%15[^)]) %*c %d", name, &parent) == 2
                && !strcmp(name, "kiln") && parent == engine)
                write(out, "grabbed kiln\n", 13);
            close(file);
            ptrace(PTRACE_DETACH, other, 0, 0);
        }
    }
}
"#;

#[test]
fn nobody_in_the_target_traces_who_is_about_to_be_a_program_there() {
    if !nix::unistd::geteuid().is_root() {
        return common::skipped("mode chroot is for root of a container");
    }
    for calls in [&[][..], &LANDLOCK] {
        let toy = Toy::basic();
        if !toy.program("grab", GRAB, "") {
            return;
        }
        toy.hook("install", "50-grab", "/grab $PPID");
        for number in 51..60 {
            toy.hook("install", &format!("{number}-next"), "sleep 0.05");
        }
        let tell = "cat /grabbed; grep CapPrm /proc/self/status; echo told";
        toy.hook("install", "99-tell", tell);
        let mut command = toy.command("-t tar --mode chroot");
        confine(&mut command, refusing(calls, libc::ENOSYS));
        let built = Built::run(command.arg("--json")).success();
        assert_eq!(built.lines_after("grabbed "), Vec::<String>::new());
        // What it had until it was one, a program in there has not.
        let permitted = built.lines_after("CapPrm:\t");
        let permitted = permitted
            .first()
            .and_then(|set| u64::from_str_radix(set, 16).ok());
        assert_eq!(permitted.expect("told") & 1 << 18, 0);
    }
}

/// Opens memory of those who come in by `chroot`, and tells whose it was if they are no other
/// program yet.
const PEEK: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int main(void)
{
    pid_t first = getpid();
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (time_t end = time(NULL) + 4; time(NULL) < end;) {
        for (pid_t other = first + 1; other < first + 200; other++) {
            char path[64], name[16] = "";
            sprintf(path, "/proc/%d/mem", other);
            int memory = open(path, O_RDWR);
            if (memory < 0)
                continue;
            sprintf(path, "/proc/%d/comm", other);
            int file = open(path, O_RDONLY);
            if (file >= 0 && read(file, name, sizeof name) > 0 && !strncmp(name, "kiln", 4))
                printf("has memory of one\n");
            close(file);
            close(memory);
        }
    }
    printf("looked\n");
}
"#;

#[test]
fn nobody_in_the_target_gets_memory_of_who_comes_in() {
    if !nix::unistd::geteuid().is_root() {
        return common::skipped("mode chroot is for root of a container");
    }
    let toy = Toy::basic();
    if !toy.program("peek", PEEK, "") {
        return;
    }
    let hook = "chroot \"$TARGET_ROOT\" /peek &\nsleep 0.2\n\
        for turn in {1..40}; do chroot \"$TARGET_ROOT\" /bin/true; done\nwait";
    toy.hook("cleanup", "50-come", hook);
    let built = toy.build("-t tar --mode chroot").success();
    assert_eq!(built.lines_after("has "), Vec::<String>::new());
    assert!(built.lines().contains(&"looked".to_owned()));
}

/// Opens standard input for writing by a link, while another thread takes a file of its own with
/// the same number for it, of another subvolume, and back.
const SWAP: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static int given, own;

static void *swap(void *nothing)
{
    for (;;) {
        dup2(own, 0);
        for (volatile int turn = 0; turn < 3000; turn++)
            ;
        dup2(given, 0);
        for (volatile int turn = 0; turn < 3000; turn++)
            ;
    }
}

int main(void)
{
    struct stat wanted, found;
    fstat(0, &wanted);
    given = dup(0);
    struct { long long fd; char name[4088]; } arguments = {0, "subvolume"};
    int root = open("/", O_RDONLY | O_DIRECTORY);
    // BTRFS_IOC_SUBVOL_CREATE
    if (ioctl(root, 0x5000940e, &arguments))
        return 1;
    for (int count = 0; count < 5000; count++) {
        char path[64];
        sprintf(path, "/subvolume/%d", count);
        own = open(path, O_CREAT | O_RDWR, 0644);
        fstat(own, &found);
        if (found.st_ino >= wanted.st_ino)
            break;
        close(own);
    }
    if (found.st_ino != wanted.st_ino)
        return 1;
    printf("has the number\n");
    fflush(stdout);
    pthread_t thread;
    pthread_create(&thread, NULL, swap, NULL);
    int opened = 0;
    for (time_t end = time(NULL) + 3; time(NULL) < end;) {
        int file = open("/proc/self/fd/0", O_RDWR);
        if (file >= 0 && !fstat(file, &found) && found.st_dev == wanted.st_dev)
            opened++;
        close(file);
    }
    if (opened)
        printf("did open what was given\n");
    fflush(stdout);
    _exit(0);
}
"#;

#[test]
fn a_file_is_told_from_one_of_the_same_number_in_a_subvolume() {
    if !nix::unistd::geteuid().is_root() {
        return common::skipped("mode chroot is for root of a container");
    }
    if common::tool("mkfs.btrfs").is_none() || common::tool("unshare").is_none() {
        return common::skipped("no btrfs can be made and mounted");
    }
    for calls in [&[][..], &[libc::SYS_pidfd_getfd]] {
        let toy = Toy::basic();
        if !toy.program("swap", SWAP, "") {
            return;
        }
        let disk = toy.world.home().join("disk");
        fs::create_dir(&disk).expect("made");
        let hook = format!("chroot \"$TARGET_ROOT\" /swap <'{}/given'", disk.display());
        toy.hook("cleanup", "50-give", &hook);
        let command = toy.command("-t tar --mode chroot --no-tmpfs --json");
        // Its mounts end with the build.
        let script = r#"truncate -s 300M image && mkfs.btrfs -q image >/dev/null 2>&1 &&
            mount -o loop image "$DISK" || { echo no btrfs >&2; exit 99; }
            rm image; mkdir "$DISK/tmp"; for name in one two three given; do : >"$DISK/$name"; done
            exec "$@""#;
        let mut shell = toy.world.command("unshare");
        shell
            .args(["--mount", "sh", "-c", script, "sh"])
            .arg(command.get_program())
            .args(command.get_args())
            .env("DISK", &disk)
            .env("TMPDIR", disk.join("tmp"))
            .env("TMP_DIR", disk.join("tmp"));
        confine(&mut shell, refusing(calls, libc::EPERM));
        let built = Built::run(&mut shell);
        if built.outcome.stderr.contains("no btrfs") {
            return common::skipped("no btrfs can be mounted");
        }
        let built = built.success();
        let lines = built.lines();
        assert!(lines.contains(&"has the number".to_owned()), "{lines:?}");
        assert_eq!(built.lines_after("did "), Vec::<String>::new());
    }
}

/// Looks into the environment of processes as soon as they are there, for some seconds, and writes
/// down when it finds what no program of a hook has.
const SPY: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int main(int count, char **arguments)
{
    static char text[1 << 20];
    if (fork())
        return 0;
    int out = open(arguments[1], O_CREAT | O_WRONLY | O_APPEND, 0644);
    int null = open("/dev/null", O_RDWR);
    dup2(null, 0);
    dup2(null, 1);
    dup2(null, 2);
    pid_t first = getpid();
    for (time_t end = time(NULL) + 3; time(NULL) < end;) {
        for (pid_t other = first + 1; other < first + 300; other++) {
            char path[64];
            sprintf(path, "/proc/%d/environ", other);
            int file = open(path, O_RDONLY);
            if (file < 0)
                continue;
            ssize_t length = read(file, text, sizeof text);
            close(file);
            if (length > 0 && memmem(text, length, "withheld-value", 14))
                write(out, "saw it\n", 7);
        }
    }
}
"#;

#[test]
fn hooks_outside_do_not_look_into_who_is_about_to_be_one() {
    if !nix::unistd::geteuid().is_root() {
        return common::skipped("mode chroot is for root of a container");
    }
    let mut toy = Toy::basic();
    toy.world.set("BUILD_TOKEN", "withheld-value");
    if !toy.program("spy", SPY, "") {
        return;
    }
    toy.hook(
        "root",
        "50-spy",
        "\"$TARGET_ROOT/spy\" \"$TMP_BUILD_DIR/seen\"",
    );
    for number in 51..80 {
        toy.hook("root", &format!("{number}-next"), "sleep 0.03");
    }
    toy.hook(
        "root",
        "99-tell",
        "cat \"$TMP_BUILD_DIR/seen\"; grep CapPrm /proc/self/status; echo told",
    );
    let built = toy.build("-t tar --mode chroot").success();
    assert_eq!(built.lines_after("saw "), Vec::<String>::new());
    assert!(built.lines().contains(&"told".to_owned()));
    // What it had until it was one (`CAP_MKNOD`), a hook has not.
    let permitted = built.lines_after("CapPrm:\t");
    let permitted = permitted
        .first()
        .and_then(|set| u64::from_str_radix(set, 16).ok());
    assert_eq!(permitted.expect("told") & 1 << 27, 0);
}
