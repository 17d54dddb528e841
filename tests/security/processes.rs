//! What hooks see of other processes and do to them: keyrings, IPC, `/proc`, signals.

use std::ffi::CString;
use std::fs;

use super::isolation::{build, python};
use crate::common;
use crate::common::host::Host;
use crate::common::toy::Toy;
use crate::common::watch::{eventually, marked};
use crate::skip;

/// A key, a shared memory segment, a set of semaphores and two queues that this
/// process shares with whoever has its keyrings and is in its IPC namespace.
struct Shared {
    segment: libc::c_int,
    semaphores: libc::c_int,
    messages: libc::c_int,
    queue: Option<CString>,
    key: libc::c_long,
}

impl Shared {
    fn new() -> Shared {
        let name = format!("kiln-test-{}", std::process::id());
        let key = CString::new(name.clone()).expect("no zero byte");
        let queue = CString::new(format!("/{name}")).expect("no zero byte");
        let session: libc::c_long = -3;
        // SAFETY: each call makes an object of the kernel; texts live across them.
        unsafe {
            let opened = libc::mq_open(
                queue.as_ptr(),
                libc::O_CREAT | libc::O_RDWR,
                0o600,
                std::ptr::null::<libc::mq_attr>(),
            );
            let made = opened >= 0 && libc::mq_close(opened) == 0;
            Shared {
                segment: libc::shmget(libc::IPC_PRIVATE, 4096, libc::IPC_CREAT | 0o666),
                semaphores: libc::semget(libc::IPC_PRIVATE, 1, libc::IPC_CREAT | 0o666),
                messages: libc::msgget(libc::IPC_PRIVATE, libc::IPC_CREAT | 0o666),
                queue: made.then_some(queue),
                key: libc::syscall(
                    libc::SYS_add_key,
                    c"user".as_ptr(),
                    key.as_ptr(),
                    key.as_ptr(),
                    4_usize,
                    session,
                ),
            }
        }
    }

    /// What a hook must not find, as far as this kernel has it.
    fn made(&self) -> bool {
        self.segment >= 0 && self.semaphores >= 0 && self.messages >= 0
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let nothing = std::ptr::null_mut::<libc::c_void>();
        let revoke: libc::c_long = 3;
        // SAFETY: removes what `new` made.
        unsafe {
            libc::shmctl(self.segment, libc::IPC_RMID, nothing.cast());
            libc::semctl(self.semaphores, 0, libc::IPC_RMID);
            libc::msgctl(self.messages, libc::IPC_RMID, nothing.cast());
            if let Some(queue) = &self.queue {
                libc::mq_unlink(queue.as_ptr());
            }
            if self.key >= 0 {
                libc::syscall(libc::SYS_keyctl, revoke, self.key);
            }
        }
    }
}

/// Tries to open the queue of the test by its name.
const QUEUE: &str = "python3 - \"$1\" <<'END'\n\
import ctypes, platform, sys\n\
libc = ctypes.CDLL(None, use_errno=True)\n\
number = 180 if platform.machine() == 'aarch64' else 240\n\
if libc.syscall(ctypes.c_long(number), sys.argv[1].encode(), ctypes.c_long(0), ctypes.c_long(0), None) >= 0:\n    \
    print('reached queue')\n\
END";

#[test]
fn hooks_have_neither_the_callers_keyring_nor_its_ipc_nor_its_name() {
    let toy = Toy::basic();
    let shared = Shared::new();
    assert!(shared.made(), "this kernel has no IPC");
    let name = format!("kiln-test-{}", std::process::id());
    let look = format!(
        "echo \"keys $(cat /proc/keys 2>/dev/null | wc -l)\"\n\
         if cat /proc/keys 2>/dev/null | grep -F '{name}'; then echo 'reached key'; fi\n\
         for kind in shm sem msg; do echo \"$kind $(($(cat /proc/sysvipc/$kind | wc -l) - 1))\"; done\n\
         echo \"name $(cat /proc/sys/kernel/hostname)\"\n\
         set -- '{name}'\n"
    );
    toy.hook("install", "50-look", &look);
    let queue = if python() && shared.queue.is_some() {
        QUEUE
    } else {
        ""
    };
    toy.hook("extra-data", "50-look", &format!("{look}{queue}"));
    for mode in ["auto", "single"] {
        let Some(built) = build(&toy, &format!("-t tar --overwrite --mode {mode}")) else {
            continue;
        };
        for kind in ["shm ", "sem ", "msg "] {
            assert_eq!(built.lines_after(kind), ["0", "0"], "{mode}");
        }
        assert_eq!(
            built.lines_after("reached "),
            Vec::<String>::new(),
            "{mode}"
        );
        assert_eq!(built.lines_after("name "), ["localhost", "localhost"]);
        // The keyring that the build made for itself may be there, none with a key.
        for keys in built.lines_after("keys ") {
            let keys: u32 = keys.parse().expect("a number");
            assert!(keys <= 1, "{mode}: {keys} keys of the caller");
        }
    }
}

#[test]
fn the_target_has_neither_the_objects_nor_the_terminals_of_hooks_outside() {
    let toy = Toy::basic();
    let look = "for kind in shm sem msg; do echo \"$kind $(($(cat /proc/sysvipc/$kind | wc -l) - 1))\"; done\n\
         echo terminals $(ls /dev/pts)";
    // Daemons that hold a terminal: the second's number is that of the first, if it is in
    // another `/dev`.
    let hold = "script -qfc 'sleep 100' /dev/null >/dev/null 2>&1 </dev/null &\n\
         for _ in $(seq 100); do [ -e /dev/pts/0 ] && break; sleep 0.1; done\n";
    toy.hook(
        "extra-data",
        "50-make",
        &format!("ipcmk -M 4096 -S 1 -Q >/dev/null\n{hold}{look}"),
    );
    toy.hook("install", "50-look", look);
    toy.hook(
        "post-root",
        "50-look",
        &format!(
            "show() {{ chroot \"$TMP_MOUNT_PATH\" /bin/bash -c '{look}'; }}\n\
             show\n\
             for what in dev dev/pts; do\n\
             mount --bind \"/$what\" \"$TMP_MOUNT_PATH/$what\"\nshow\numount \"$TMP_MOUNT_PATH/$what\"\ndone\n\
             {look}"
        ),
    );
    for mode in ["auto", "single"] {
        let Some(built) = build(&toy, &format!("-t tar --overwrite --mode {mode}")) else {
            continue;
        };
        for kind in ["shm ", "sem ", "msg "] {
            let seen = built.lines_after(kind);
            assert_eq!(seen, ["1", "0", "0", "0", "0", "1"], "{mode} {kind}");
        }
        let seen = built.lines_after("terminals ");
        let [outside, inside @ .., _] = &seen[..] else {
            panic!("{mode}: {seen:?}");
        };
        assert_eq!(outside, "0 ptmx", "{mode}");
        assert_eq!(inside, ["ptmx"; 4], "{mode}");
    }
}

#[test]
fn the_processes_of_kiln_cannot_be_looked_into_or_written_to() {
    let toy = Toy::basic();
    let attack = "try() {\n\
          pid=$1 process=/proc/$1\n\
          echo \"tried $pid\"\n\
          for name in mem environ maps; do\n\
            if [ -n \"$(head -c 1 $process/$name 2>/dev/null | tr '\\0' x)\" ]; then echo \"opened $name of $pid\"; fi\n\
          done\n\
          for name in root/ cwd/; do\n\
            if [ -n \"$(ls -A $process/$name 2>/dev/null)\" ]; then echo \"opened $name of $pid\"; fi\n\
          done\n\
          # Their numbers can be listed; what they are cannot.\n\
          for fd in $process/fd/[0-7]; do\n\
            if readlink $fd >/dev/null 2>&1; then echo \"opened $fd\"; fi\n\
          done\n\
          # By a descriptor of the directory, too.\n\
          if { exec 5<$process; } 2>/dev/null; then\n\
            for way in /proc/self /dev; do\n\
              for name in environ maps root/etc/passwd; do\n\
                if (read -r -N 1 one <$way/fd/5/$name) 2>/dev/null; then echo \"opened $name of $pid by $way\"; fi\n\
              done\n\
            done\n\
            exec 5<&-\n\
          fi\n\
          if (printf x >>$process/mem) 2>/dev/null; then echo \"wrote memory of $pid\"; fi\n\
          if (printf x | dd of=$process/mem bs=1 seek=4096 conv=notrunc) 2>/dev/null; then echo \"wrote memory of $pid\"; fi\n\
          # With leave to make the file, which is answered.\n\
          for name in mem environ; do\n\
            if (exec 5<>$process/$name) 2>/dev/null; then echo \"opened $name of $pid to make it\"; fi\n\
          done\n\
        }\n\
        is_kilns() {\n\
          case $(cat /proc/$1/cmdline 2>/dev/null | tr '\\0' ' ') in *kiln*build*) ;; *) return 1;; esac\n\
        }\n\
        # Its parents, of which all are kiln's up to one.\n\
        hook=${2:-$$} one=${2:-$$}\n\
        while one=$(sed -n 's/^PPid:[[:space:]]*//p' /proc/$one/status) && [ \"$one\" -gt 0 ] && is_kilns $one; do\n\
          try $one\n\
        done\n\
        # With process numbers of its own, all others too, but for those that a shell starts for a pipe.\n\
        if is_kilns 1; then\n\
          for process in /proc/[0-9]*; do\n\
            one=${process#/proc/}\n\
            if [ $one != $$ ] && [ $one != $hook ] && is_kilns $one; then try $one; fi\n\
          done\n\
        fi\n\
        # And as another user, whose files are made by the supervisor.\n\
        if [ \"${1:-}\" != again ]; then chroot --userspec=33:44 / /bin/bash -s again $$ <\"$0\"; fi";
    toy.hook("extra-data", "50-attack", attack);
    toy.hook("install", "50-attack", attack);
    for (host, mode) in hosts() {
        let built = host.build(&toy, &format!("-t tar --overwrite --mode {mode}"));
        if !built.had_its_mode() {
            continue;
        }
        assert!(
            !built.lines_after("tried ").is_empty(),
            "{mode}: no process of kiln was found"
        );
        assert_eq!(
            built.lines_after("opened "),
            Vec::<String>::new(),
            "{mode} {host:?}"
        );
        assert_eq!(built.lines_after("wrote "), Vec::<String>::new(), "{mode}");
    }
}

#[test]
fn calls_that_are_answered_do_not_lead_through_kilns_own_processes() {
    let toy = Toy::basic();
    let place = toy.world.work().join("of the host");
    fs::create_dir(&place).expect("made");
    // The supervisor makes what is not root's, and devices; it may look into itself.
    let attack = format!(
        "try() {{\n\
           echo tried\n\
           : >\"$1/made\" || true\n\
           mkdir \"$1/directory\" || true\n\
           ln -s x \"$1/link\" || true\n\
           mknod \"$1/node\" c 1 3 || true\n\
           chown 5:6 \"$1\" || true\n\
         }}\n\
         all() {{\n\
           for process in $processes; do\n\
             for way in /proc/$process/root /proc/$process/cwd; do\n\
               try \"$way{place}\"\n\
               try \"$way/of the host\"\n\
             done\n\
             cd /proc/$process && try \"root{place}\" && cd /\n\
           done 2>/dev/null\n\
           true\n\
         }}\n\
         if [ \"${{1:-}}\" = again ]; then processes=$2; all; exit 0; fi\n\
         # Its parents, of which all are kiln's up to one.\n\
         one=$$ processes=''\n\
         while one=$(sed -n 's/^PPid:[[:space:]]*//p' /proc/$one/status) && [ \"$one\" -gt 0 ]; do\n\
           case $(cat /proc/$one/cmdline | tr '\\0' ' ') in *kiln*build*) ;; *) break;; esac\n\
           processes=\"$processes $one\"\n\
         done\n\
         all\n\
         chroot --userspec=33:44 / /bin/bash \"$0\" again \"$processes\"",
        place = place.display()
    );
    toy.hook("install", "50-attack", &attack);
    for (host, mode) in hosts() {
        let built = host.build(&toy, &format!("-t tar --overwrite --mode {mode}"));
        if !built.had_its_mode() {
            continue;
        }
        assert!(!built.lines_after("tried").is_empty(), "{mode} {host:?}");
        assert_eq!(
            common::toy::names(&place),
            Vec::<String>::new(),
            "{mode} {host:?}"
        );
    }
}

/// This host in its modes; the last ones share its process numbers.
fn hosts() -> Vec<(Host, &'static str)> {
    let mut hosts = vec![
        (Host::new(), "auto"),
        (Host::new(), "single"),
        (Host::new().nested_with_one_id().masked(), "single"),
    ];
    if nix::unistd::geteuid().is_root() {
        hosts.push((Host::new(), "chroot"));
        hosts.push((Host::docker(), "auto"));
    }
    hosts
}

#[test]
fn signals_do_not_leave_the_sandbox() {
    let toy = Toy::basic();
    let mut victim = toy
        .world
        .command("/bin/sleep")
        .arg("600")
        .spawn()
        .expect("sleep runs");
    let attack = format!(
        "kill -9 {} 2>/dev/null && echo hit\necho tried",
        victim.id()
    );
    toy.hook("extra-data", "50-kill", &attack);
    toy.hook("install", "50-kill", &attack);
    for (number, (host, mode)) in hosts().into_iter().enumerate() {
        // With the numbers of the host only Landlock keeps them in, as the build says
        // where it cannot.
        if number > 1 && kiln::sandbox::landlock::abi() < 6 {
            common::skipped("this kernel has no Landlock that ends signals (Linux 6.12)");
            continue;
        }
        let built = host.build(&toy, &format!("-t tar --overwrite --mode {mode}"));
        if !built.had_its_mode() {
            continue;
        }
        let said = built.lines();
        assert!(said.contains(&"tried".to_owned()), "{mode}");
        assert!(!said.contains(&"hit".to_owned()), "{mode}");
    }
    let ended = victim.try_wait().expect("it can be asked");
    let _ = victim.kill();
    let _ = victim.wait();
    assert!(ended.is_none(), "the hook killed a process of the host");
}

/// Sets the limit of open files of the process `$1` and of the engine, which is the second where
/// the sandbox has numbers of its own, and the shell's own.
const LIMIT: &str = "prlimit --pid $1 --nofile=7:7 2>/dev/null && echo hit\n\
case $(tr '\\0' ' ' </proc/2/cmdline) in *kiln*) prlimit --pid 2 --nofile=7:4096 2>/dev/null && echo hit;; esac\n\
ulimit -n 11 && echo own $(ulimit -n)\necho tried";

#[test]
fn limits_of_other_processes_are_out_of_reach() {
    if common::tool("prlimit").is_none() {
        skip!("prlimit is not installed");
    }
    let mut toy = Toy::basic();
    toy.world.set("TOY_PROGRAMS", "prlimit");
    let mut victim = toy
        .world
        .command("/bin/sleep")
        .arg("600")
        .spawn()
        .expect("sleep runs");
    let attack = format!("set -- {}\nset +e\n{LIMIT}", victim.id());
    toy.hook("extra-data", "50-limit", &attack);
    toy.hook("install", "50-limit", &attack);
    for (host, mode) in hosts() {
        let built = host.build(&toy, &format!("-t tar --overwrite --mode {mode}"));
        if !built.had_its_mode() {
            continue;
        }
        let said = built.lines();
        let count = |what: &str| said.iter().filter(|line| *line == what).count();
        assert_eq!(count("tried"), 2, "{mode} {host:?}");
        assert_eq!(count("hit"), 0, "{mode} {host:?}");
        assert_eq!(count("own 11"), 2, "{mode} {host:?}");
    }
    let limits = fs::read_to_string(format!("/proc/{}/limits", victim.id())).expect("it lives");
    victim.kill().expect("it is still there");
    victim.wait().expect("it can be waited for");
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let files = files.expect("it is there");
    assert!(!files.split_whitespace().any(|word| word == "7"), "{files}");
}

#[test]
fn a_hook_that_kills_everything_fails_or_ends_alone() {
    let toy = Toy::basic();
    toy.hook("install", "50-kill", "kill -9 -1");
    let built = toy.build("-t tar");
    let (message, _, status) = built.failure();
    assert_ne!(status, 0);
    // Whether the engine was among them or not.
    assert!(
        message.contains("hook `install.d/50-kill` of element `toy`"),
        "{message}"
    );
    assert_eq!(toy.outputs(), Vec::<String>::new());
    toy.assert_swept();
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

/// A daemon whose first thread has ended, which makes it look like a zombie. Another one has a
/// child at any time or, with an argument, takes as many MiB.
pub const HEADLESS: &str = r#"
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
static void *volatile memory;
static void *go_on(void *size) {
    memory = malloc((size_t)size);
    memset(memory, 1, (size_t)size);
    while (size)
        pause();
    for (;;) {
        pid_t child = fork();
        if (child == 0)
            pause();
        waitpid(child, 0, 0);
    }
}
int main(int count, char **arguments) {
    pthread_t other;
    if (fork())
        return 0;
    setsid();
    close(0), close(1), close(2);
    size_t size = count > 1 ? atoi(arguments[1]) : 0;
    pthread_create(&other, 0, go_on, (void *)(size << 20));
    syscall(SYS_exit, 0);
}
"#;

#[test]
fn a_daemon_whose_first_thread_has_ended_ends_with_its_phase_and_with_the_build() {
    let hosts = hosts();
    for (number, (host, mode)) in hosts.into_iter().enumerate() {
        let mut toy = Toy::basic();
        let mark = format!("kiln-headless-{}-{number}", std::process::id());
        toy.world.set("KILN_TEST_MARK", &mark);
        if !toy.program("headless", HEADLESS, "") {
            return;
        }
        toy.hook("install", "50-daemon", "/headless; sleep 0.3");
        // Where the target moves, nothing is left in it.
        let look = "for one in /proc/[0-9]*; do\n\
            read -r name 2>/dev/null <$one/comm || continue\n\
            [ \"$name\" != headless ] || [ ! $one/root -ef \"$TARGET_ROOT\" ] || echo left $one\n\
            done";
        if mode == "chroot" {
            toy.hook("post-root", "50-look", look);
        }
        toy.hook(
            "cleanup",
            "50-daemon",
            "\"$TARGET_ROOT/headless\"; sleep 0.3",
        );
        let built = host.build(&toy, &format!("-t tar --mode {mode}"));
        if !built.had_its_mode() {
            continue;
        }
        assert_eq!(built.lines_after("left "), Vec::<String>::new(), "{host:?}");
        assert!(
            eventually(|| marked(&mark).is_empty()),
            "{host:?}: {:?}",
            marked(&mark)
        );
    }
}
