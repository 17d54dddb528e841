//! Where nothing can be mounted (mode `chroot`): no program stays in a directory that moves out
//! of the target, however it hides from who ends it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::common;
use crate::common::toy::Toy;

/// Processes that are not in the target, so that it takes time to look at all.
const CROWD: &str = r#"
#include <fcntl.h>
#include <unistd.h>

int main(void)
{
    int null = open("/dev/null", O_RDWR);
    for (int count = 0; count < 1000; count++) {
        if (fork())
            continue;
        dup2(null, 1);
        dup2(null, 2);
        for (;;)
            pause();
    }
}
"#;

/// What survives tries this in the directory that it is in. The first argument is that
/// directory, the second a file of the host.
const STAY: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static char way_out[5000];

static void go_to(const char *directory, const char *victim)
{
    if (chdir(directory)) {
        perror(directory);
        exit(1);
    }
    strcpy(way_out, "../../../../../../../../../../../..");
    strncat(way_out, victim, 4096);
}

static void leave_caller(void)
{
    if (fork())
        exit(0);
    setsid();
    int null = open("/dev/null", O_RDWR);
    dup2(null, 0);
    dup2(null, 1);
    dup2(null, 2);
}

static void try_it(void)
{
    chmod(way_out, 04777);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}
"#;

/// Each starts another one and ends.
const ROW: &str = r#"
int main(int count, char **arguments)
{
    go_to(arguments[1], arguments[2]);
    leave_caller();
    double end = now() + 8;
    for (unsigned turn = 0; now() < end; turn++) {
        if (turn % 4 == 0)
            try_it();
        if (syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) > 0)
            _exit(0);
    }
}
"#;

/// The same with threads, in a process without its first one.
const THREADS: &str = r#"
static double end;

static void *one(void *nothing)
{
    static unsigned turn;
    pthread_t next;
    if (turn++ % 4 == 0)
        try_it();
    if (now() > end)
        _exit(0);
    while (pthread_create(&next, NULL, one, NULL))
        ;
    pthread_detach(next);
    return NULL;
}

int main(int count, char **arguments)
{
    go_to(arguments[1], arguments[2]);
    leave_caller();
    end = now() + 8;
    pthread_t first;
    pthread_create(&first, NULL, one, NULL);
    pthread_exit(NULL);
}
"#;

/// Who may not read its own program is not to be looked into.
const HIDDEN: &str = r#"
int main(int count, char **arguments)
{
    const char *stage = count > 3 ? arguments[3] : "";
    if (strlen(stage) < 2) {
        const char *next = strlen(stage) ? "xx" : "x";
        // CAP_DAC_OVERRIDE
        prctl(PR_CAPBSET_DROP, 1);
        chmod("/hidden", 0111);
        execl("/hidden", "hidden", arguments[1], arguments[2], next, NULL);
        return 1;
    }
    printf("dumpable %d\n", prctl(PR_GET_DUMPABLE));
    fflush(stdout);
    go_to(arguments[1], arguments[2]);
    leave_caller();
    for (double end = now() + 8; now() < end; usleep(10000))
        try_it();
}
"#;

#[test]
fn nobody_hides_from_who_ends_programs_of_the_target() {
    if !nix::unistd::geteuid().is_root() {
        return common::skipped("mode chroot is for root of a container");
    }
    for (name, source) in [("row", ROW), ("threads", THREADS), ("hidden", HIDDEN)] {
        let toy = Toy::basic();
        if !toy.program("crowd", CROWD, "") || !toy.program(name, &[STAY, source].concat(), "") {
            return;
        }
        let victim = toy.world.home().join("victim");
        fs::write(&victim, "of the host").expect("written");
        toy.hook("root", "30-crowd", "\"$TARGET_ROOT/crowd\"");
        let hook = format!("/{name} /tmp/in_target.d '{}'\nsleep 0.1", victim.display());
        toy.hook("install", "50-stay", &hook);
        toy.hook("post-root", "50-wait", "sleep 1");
        let built = toy.build("-t tar --mode chroot").success();
        if name == "hidden" {
            let lines = built.lines();
            assert!(lines.contains(&"dumpable 0".to_owned()), "{lines:?}");
        }
        let mode = fs::metadata(&victim).expect("there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o644, "{name}");
    }
}
