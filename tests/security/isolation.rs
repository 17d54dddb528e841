//! What hooks can see and reach of the host: files, processes, sockets, keyrings,
//! devices, the network, the environment.

use std::ffi::CString;
use std::fs;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{SocketAddr, UnixListener};

use crate::common::host::Host;
use crate::common::toy::{Built, Toy};
use crate::common::{self, Run as _};

/// Whether programs written in Python can be tried; they make system calls that no
/// shell makes.
fn python() -> bool {
    common::tool("python3").is_some()
}

/// Builds in a mode; `None`, with a message, if this host has not got it.
fn build(toy: &Toy, arguments: &str) -> Option<Built> {
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

/// Tries to connect to sockets of the host from a hook outside; prints those that
/// answered.
const CONNECT: &str = "python3 - \"$@\" <<'END'\n\
import socket, sys\n\
for name in sys.argv[1:]:\n    \
    s = socket.socket(socket.AF_UNIX)\n    \
    try:\n        s.connect(name.replace('@', '\\0', 1) if name[0] == '@' else name)\n        print('reached', name)\n    \
    except OSError as error:\n        print('refused', name, error.errno)\n\
END";

#[test]
fn sockets_of_the_host_are_out_of_reach_whatever_the_network() {
    if !python() {
        return common::skipped("python3 is not installed");
    }
    let toy = Toy::basic();
    let path = toy.world.home().join("daemon.socket");
    let _named = UnixListener::bind(&path).expect("a socket can be bound");
    let name = format!("kiln-test-{}-{:p}", std::process::id(), &toy);
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let _abstract = UnixListener::bind_addr(&address).expect("a socket can be bound");
    toy.hook(
        "extra-data",
        "50-connect",
        &format!("set -- '{}' '@{name}'\n{CONNECT}", path.display()),
    );
    let mut arguments = vec!["-t tar --network none"];
    // Without Landlock's scopes the host's network brings its abstract sockets along,
    // as the build says then.
    if kiln::sandbox::landlock::abi() >= 6 {
        arguments.push("-t tar");
    }
    for arguments in arguments {
        let built = toy.build(arguments).success();
        assert_eq!(
            built.lines_after("reached "),
            Vec::<String>::new(),
            "{arguments}"
        );
        assert_eq!(built.lines_after("refused ").len(), 2, "{arguments}");
        fs::remove_file(toy.output("tar")).expect("the tar is ours");
    }
}

#[test]
fn without_a_network_there_is_loopback_and_nothing_else() {
    let toy = Toy::basic();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let look = format!(
        "cat /proc/net/dev | sed -nE 's/^ *([a-z0-9]+):.*/device \\1/p'\n\
         if (exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null; then echo 'reached the host'; fi\n\
         if (exec 3<>/dev/udp/192.0.2.1/9) 2>/dev/null; then echo 'reached the world'; fi\n\
         echo \"offline ${{DIB_OFFLINE:-}}\""
    );
    toy.hook("extra-data", "50-look", &look);
    toy.hook("install", "50-look", &look);
    for mode in ["auto", "single"] {
        let Some(built) = build(&toy, &format!("-t tar --network none --mode {mode}")) else {
            continue;
        };
        assert_eq!(built.lines_after("device "), ["lo", "lo"], "{mode}");
        assert_eq!(
            built.lines_after("reached "),
            Vec::<String>::new(),
            "{mode}"
        );
        assert_eq!(built.lines_after("offline "), ["1", "1"], "{mode}");
        fs::remove_file(toy.output("tar")).expect("the tar is ours");
    }
    let built = toy.build("-t tar").success();
    assert_eq!(
        built.lines_after("reached the host").len(),
        2,
        "the host's network is the default"
    );
}

#[test]
fn without_a_network_and_without_namespaces_sockets_are_refused() {
    if !nix::unistd::geteuid().is_root() {
        return common::skipped("mode chroot is for root of a container");
    }
    let toy = Toy::basic();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let look = format!(
        "if (exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null; then echo reached; else echo refused; fi"
    );
    toy.hook("extra-data", "50-look", &look);
    toy.hook("install", "50-look", &look);
    for (network, expected) in [("none", "refused"), ("host", "reached")] {
        let built = toy
            .build(&format!(
                "-t tar --overwrite --mode chroot --network {network}"
            ))
            .success();
        let said: Vec<String> = built
            .lines()
            .into_iter()
            .filter(|line| line == "reached" || line == "refused")
            .collect();
        assert_eq!(said, [expected, expected], "{network}");
    }
}

#[test]
fn without_a_network_and_without_namespaces_sockets_stay_on_the_host() {
    if !nix::unistd::geteuid().is_root() {
        return common::skipped("mode chroot is for root of a container");
    }
    if common::tool("perl").is_none() {
        return common::skipped("perl is not installed");
    }
    let toy = Toy::basic();
    // Whether the kernel has a family, and whom it lets have it, is another matter.
    let look = format!(
        "perl -MSocket -e 'for (0..63) {{ socket(S, $_, SOCK_STREAM, 0) and next if $_ == 1; \
             socket(S, $_, SOCK_DGRAM, 0); print qq(family $_\n) unless $! == {} }}'",
        libc::EAFNOSUPPORT
    );
    toy.hook("extra-data", "50-look", &look);
    let built = toy.build("-t tar --mode chroot --network none").success();
    for family in built.lines_after("family ") {
        assert!(["16", "38"].contains(&family.as_str()), "family {family}");
    }
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
        }\n\
        is_kilns() {\n\
          case $(cat /proc/$1/cmdline 2>/dev/null | tr '\\0' ' ') in *kiln*build*) ;; *) return 1;; esac\n\
        }\n\
        # Its parents, of which all are kiln's up to one.\n\
        one=$$\n\
        while one=$(sed -n 's/^PPid:[[:space:]]*//p' /proc/$one/status) && [ \"$one\" -gt 0 ] && is_kilns $one; do\n\
          try $one\n\
        done\n\
        # With process numbers of its own, all others too, but for those that a shell starts for a pipe.\n\
        if is_kilns 1; then\n\
          for process in /proc/[0-9]*; do\n\
            one=${process#/proc/}\n\
            if [ $one != $$ ] && is_kilns $one; then try $one; fi\n\
          done\n\
        fi";
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

#[test]
fn a_hook_that_kills_everything_fails_or_ends_alone() {
    let toy = Toy::basic();
    toy.hook("install", "50-kill", "kill -9 -1");
    let built = toy.build("-t tar");
    let (message, _, status) = built.failure();
    assert_ne!(status, 0);
    assert!(!message.is_empty());
    assert_eq!(toy.outputs(), Vec::<String>::new());
    toy.assert_swept();
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
