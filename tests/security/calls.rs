//! Where nothing can be mounted (mode `chroot`): calls that would lead a program of the target
//! out, or do what no build needs, whether the kernel has a second wall or not.

use crate::common;
use crate::common::filter::{confine, refusing};
use crate::common::toy::{Built, Toy};

/// Makes them, and tells which did not fail. The argument is the number of the engine.
const CALLS: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define TRY(call) do { errno = 0; if ((call) >= 0) printf("did %s\n", #call); } while (0)

static long narrow(long number, long first, long second, long third)
{
    long result = -ENOSYS;
#ifdef __x86_64__
    __asm__ volatile("int $0x80" : "=a"(result) : "0"(number), "b"(first), "c"(second), "d"(third)
        : "memory", "r8", "r9", "r10", "r11");
#endif
    return (int)result;
}

// A process of its own with these flags, which ends at once.
static long start(uint64_t flags)
{
    struct clone_args arguments = {.flags = flags, .exit_signal = SIGCHLD};
    long child = syscall(SYS_clone3, &arguments, sizeof arguments);
    if (child == 0)
        _exit(0);
    if (child > 0)
        waitpid(child, 0, 0);
    return child;
}

int main(int count, char **arguments)
{
    int engine = atoi(arguments[1]);
    char text[64], stat[512] = "", word[4096];
    int keeper = 0;
    snprintf(text, sizeof text, "/proc/%d/stat", engine);
    int file = open(text, O_RDONLY);
    read(file, stat, sizeof stat - 1);
    char *end = strrchr(stat, ')');
    sscanf(end ? end + 4 : "", "%d", &keeper);
    setvbuf(stdout, 0, _IOLBF, 0);
    // Processes outside of the target.
    struct iovec here = {word, 8}, there = {main, 8};
    int who[] = {engine, keeper};
    for (int one = 0; one < 2; one++) {
        int other = who[one], handle = syscall(SYS_pidfd_open, other, 0);
        TRY(ptrace(PTRACE_SEIZE, other, 0, PTRACE_O_EXITKILL));
        TRY(process_vm_readv(other, &here, 1, &there, 1, 0));
        TRY(process_vm_writev(other, &here, 1, &there, 1, 0));
        TRY(syscall(SYS_kcmp, getpid(), other, 0, 0, 0));
        TRY(syscall(SYS_pidfd_getfd, handle, 0, 0));
        TRY(syscall(SYS_process_madvise, handle, &there, 1, MADV_COLD, 0));
        TRY(syscall(448, handle, 0)); // process_mrelease
        TRY(setns(handle, CLONE_NEWNS | CLONE_NEWNET));
        for (int request = 1; request < 12; request++)
            TRY(ioctl(handle, _IO(0xFF, request), 0));
        snprintf(text, sizeof text, "/proc/%d/mem", other);
        TRY(open(text, O_RDWR));
        snprintf(text, sizeof text, "/proc/%d/ns/mnt", other);
        TRY(open(text, O_RDONLY));
        snprintf(text, sizeof text, "/proc/%d/map_files", other);
        TRY(open(text, O_RDONLY | O_DIRECTORY) >= 0 ? readlink(text, word, 1) : -1);
        close(handle);
    }
    // The keeper is outside of the domain.
    if (!getenv("NO_SCOPES")) {
        TRY(kill(keeper, 0));
        int ends[2];
        pipe(ends);
        TRY(syscall(SYS_pidfd_send_signal, syscall(SYS_pidfd_open, keeper, 0), 0, 0, 0));
    }
    // Namespaces and mounts.
    int spaces[] = {CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWIPC,
        CLONE_NEWUTS, CLONE_NEWCGROUP, 0x80};
    for (int one = 0; one < 8; one++) {
        TRY(unshare(spaces[one]));
        TRY(start(spaces[one]));
    }
    TRY(syscall(428, AT_FDCWD, "/", 1 | 0x8000));           // open_tree, a copy
    TRY(syscall(467, AT_FDCWD, "/", 1 | 0x8000, 0, 0));     // open_tree_attr
    TRY(syscall(429, AT_FDCWD, "/tmp", AT_FDCWD, "/usr", 0)); // move_mount
    TRY(syscall(430, "tmpfs", 0));                          // fsopen
    TRY(syscall(433, AT_FDCWD, "/", 0));                    // fspick
    uint64_t attributes[4] = {1};
    TRY(syscall(442, AT_FDCWD, "/", 0, attributes, sizeof attributes)); // mount_setattr
    uint64_t asked[4] = {32, -1ULL, 0, 0};
    TRY(syscall(457, asked, word, sizeof word, 0));         // statmount
    TRY(syscall(458, asked, word, 16, 0));                  // listmount
    TRY(syscall(468, AT_FDCWD, "/", word, 24, 0));          // file_getattr
    TRY(syscall(469, AT_FDCWD, "/", word, 24, 0));          // file_setattr
    TRY(syscall(SYS_pivot_root, "/", "/tmp"));
    TRY(syscall(SYS_mount, "/tmp", "/usr", 0, 4096, 0));
    TRY(syscall(SYS_umount2, "/", 2));
    mkdir("/jail", 0755);
    TRY(chroot("/jail"));
    TRY(narrow(61, (long)"/jail", 0, 0));
    rmdir("/jail");
    // What no build needs.
    TRY(syscall(SYS_open_by_handle_at, AT_FDCWD, word, 0));
    TRY(syscall(SYS_fanotify_init, 4, 0));
    TRY(syscall(SYS_bpf, 0, word, 64));
    TRY(syscall(SYS_perf_event_open, word, 0, -1, -1, 0));
    TRY(syscall(SYS_userfaultfd, 1));
    TRY(syscall(SYS_keyctl, 0, -3, 0));
    TRY(syscall(SYS_add_key, "user", "x", "x", 1, -3));
    TRY(syscall(425, 1, word));
    TRY(narrow(425, 1, 0, 0));
    TRY(syscall(SYS_acct, 0));
    TRY(syscall(SYS_quotactl, 0x80000100, 0, 0, 0));
    TRY(syscall(SYS_swapoff, "/x"));
    TRY(syscall(SYS_syslog, 10, 0, 0));
    TRY(sethostname("x", 1));
    TRY(setdomainname("x", 1));
    TRY(syscall(SYS_vhangup));
    TRY(syscall(SYS_delete_module, "x", 0));
#ifdef __x86_64__
    TRY(syscall(SYS_iopl, 3));
    TRY(syscall(SYS_ioperm, 0, 1, 1));
    TRY(syscall(0x40000000 | SYS_getpid));
#endif
    TRY(prctl(PR_SET_MM, PR_SET_MM_EXE_FILE, open("/bin/true", O_RDONLY), 0, 0));
    TRY(socket(AF_PACKET, SOCK_RAW, 0));
    TRY(socket(AF_INET, SOCK_RAW, 1));
    TRY(socket(AF_VSOCK, SOCK_STREAM, 0));
    TRY(socket(AF_KEY, SOCK_RAW, 2));
    // A listener of its own.
    struct { uint16_t code; uint8_t jt, jf; uint32_t k; } allow = {6, 0, 0, 0x7fff0000};
    struct { uint16_t length; void *filter; } program = {1, &allow};
    TRY(syscall(SYS_seccomp, 1, 8, &program));
    printf("tried %d\n", keeper > 1 && engine > 1);
}
"#;

#[test]
fn calls_that_lead_out_of_a_target_fail() {
    if !nix::unistd::geteuid().is_root() {
        return common::skipped("mode chroot is for root of a container");
    }
    let landlock: &[libc::c_long] = &[444, 445, 446];
    for calls in [&[], landlock] {
        let toy = Toy::basic();
        if !toy.program("calls", CALLS, "-w") {
            return;
        }
        // Without scopes (Linux 6.12) signals reach the container.
        let has_scopes = calls.is_empty() && kiln::sandbox::landlock::abi() >= 6;
        let scopes = if has_scopes { "" } else { "NO_SCOPES=1 " };
        toy.hook("install", "50-inside", &format!("{scopes}/calls $PPID"));
        let mut command = toy.command("-t tar --mode chroot --json");
        confine(&mut command, refusing(calls, libc::ENOSYS));
        let built = Built::run(&mut command).success();
        assert_eq!(built.lines_after("did "), Vec::<String>::new(), "{calls:?}");
        assert_eq!(built.lines_after("tried "), ["1"], "{calls:?}");
    }
}
