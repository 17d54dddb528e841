//! What hooks can see of the host's files, secrets and environment, and calls that they
//! must not make.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::common::toy::{Built, Toy};
use crate::common::watch::eventually;
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
    // Links of the home directory to elsewhere, as where homes are small.
    let elsewhere = home.with_file_name("elsewhere");
    fs::create_dir_all(elsewhere.join("tool")).expect("made");
    fs::write(elsewhere.join("tool/token"), "private").expect("written");
    std::os::unix::fs::symlink(elsewhere.join("tool"), home.join(".tool")).expect("linked");
    toy.hook(
        "extra-data",
        "50-look",
        "[ ! -e \"$HOME/.tool/token\" ] || echo 'found private .tool'\n\
         find \"$HOME\" -type f | while read -r file; do\n\
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
fn a_secret_that_is_replaced_during_a_build_stays_hidden() {
    let toy = Toy::basic();
    let home = toy.world.home();
    for (name, text) in [
        (".netrc", "old"),
        (".gitconfig", "public"),
        ("plain", "public"),
    ] {
        fs::write(home.join(name), text).expect("written");
    }
    std::os::unix::fs::symlink("plain", home.join("link")).expect("linked");
    toy.hook(
        "extra-data",
        "50-look",
        "echo go >go\n\
         for try in {1..300}; do [ ! -s done ] || break; sleep 0.1; done\n\
         cat done\n\
         for name in .netrc .new .gitconfig plain link; do\n\
           if [ -s \"$HOME/$name\" ]; then echo \"found $name $(cat \"$HOME/$name\")\"; fi\n\
         done",
    );
    let go = toy.world.work().join("go");
    let replace = || {
        assert!(eventually(|| go.exists()), "the hook did not run");
        for name in [".netrc", ".new"] {
            fs::write(home.join("made"), "secret").expect("written");
            fs::rename(home.join("made"), home.join(name)).expect("ours");
        }
        fs::write(toy.world.work().join("done"), "replaced\n").expect("written");
    };
    let built = std::thread::scope(|scope| {
        let replacing = scope.spawn(replace);
        let built = toy.build("-t tar").success();
        replacing.join().expect("no panic");
        built
    });
    assert!(built.lines().contains(&"replaced".to_owned()));
    assert_eq!(
        built.lines_after("found "),
        [".gitconfig public", "plain public", "link public"]
    );
}

#[test]
fn more_secrets_than_files_may_be_open_are_hidden() {
    let toy = Toy::basic();
    let home = toy.world.home();
    for number in 0..300 {
        fs::write(home.join(format!(".secret-{number}")), "private").expect("written");
    }
    fs::write(home.join("plain"), "public").expect("written");
    toy.hook(
        "extra-data",
        "50-look",
        "echo \"found $(cat \"$HOME\"/.secret-* \"$HOME/plain\" 2>/dev/null)\"",
    );
    let mut command = toy.command("-t tar --json");
    let few = nix::sys::resource::Resource::RLIMIT_NOFILE;
    // SAFETY: the child only calls setrlimit, which is async-signal-safe.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(&mut command, move || {
            Ok(nix::sys::resource::setrlimit(few, 256, 256)?)
        });
    }
    let built = Built::run(&mut command).success();
    assert_eq!(built.lines_after("found "), ["public"]);
}

#[test]
fn what_withheld_variables_name_and_links_lead_to_is_hidden() {
    let mut toy = Toy::basic();
    let home = toy.world.home();
    let elsewhere = home.with_file_name("elsewhere");
    fs::create_dir_all(&elsewhere).expect("made");
    for name in ["key", "ticket", "npmrc", "kube"] {
        fs::write(elsewhere.join(name), "private").expect("written");
    }
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o700)).expect("changed");
    fs::write(home.join("netrc"), "private").expect("written");
    let moved = home.with_file_name("moved");
    fs::rename(&home, &moved).expect("ours");
    // A home that was moved to another disk.
    std::os::unix::fs::symlink(&moved, &home).expect("linked");
    for (target, link) in [
        (moved.join("netrc"), ".netrc"),
        (elsewhere.join("npmrc"), ".npmrc"),
    ] {
        std::os::unix::fs::symlink(target, home.join(link)).expect("linked");
    }
    let path = |name: &str| elsewhere.join(name).display().to_string();
    for (name, value) in [
        ("GOOGLE_APPLICATION_CREDENTIALS", path("key")),
        ("KRB5CCNAME", format!("FILE:{}", path("ticket"))),
        ("KUBECONFIG", format!("/none:{}", path("kube"))),
    ] {
        toy.world.set(name, &value);
    }
    let look = format!(
        "for file in {}/* \"$HOME\"/.n*rc; do echo \"found ${{file##*/}} $(cat \"$file\")\"; done",
        elsewhere.display()
    );
    toy.hook("extra-data", "50-look", &look);
    let built = toy.build("-t tar").success();
    let mut found = built.lines_after("found ");
    found.sort();
    let names = [".netrc", ".npmrc", "key", "kube", "npmrc", "ticket"];
    assert_eq!(found, names.map(|name| format!("{name} ")));
}

/// Looks for the variable of the caller that is withheld in all processes there are, until
/// `$1` is gone.
const SEARCH: &str = r#"
my ($mark) = @ARGV;
exit if fork;
open(STDOUT, ">", "/dev/null");
open(STDERR, ">", "/dev/null");
my $found = 0;
while (-e $mark) {
    opendir(my $proc, "/proc");
    for my $pid (grep { /^\d+$/ && $_ != $$ } readdir($proc)) {
        open(my $environment, "<", "/proc/$pid/environ") or next;
        local $/;
        $found = 1 if (<$environment> // "") =~ /LOOKED_FOR_TOKEN=the-secret/;
    }
}
open(my $result, ">", "$mark.found");
print $result "$found\n";
"#;

#[test]
fn a_program_that_is_about_to_start_shows_nothing_of_what_is_withheld() {
    if common::tool("perl").is_none() {
        return common::skipped("perl is not installed");
    }
    for mode in ["auto", "single"] {
        let mut toy = Toy::basic();
        toy.world.set("LOOKED_FOR_TOKEN", "the-secret");
        let start = format!(
            "touch $TMP_HOOKS_PATH/looking\nperl - $TMP_HOOKS_PATH/looking <<'END'\n{SEARCH}\nEND"
        );
        toy.hook("root", "20-search", &start);
        for number in 30..70 {
            toy.hook("root", &format!("{number}-start"), "true");
        }
        let end = "rm $TMP_HOOKS_PATH/looking\n\
            for _ in {1..300}; do [ ! -s $TMP_HOOKS_PATH/looking.found ] || break; sleep 0.1; done\n\
            echo found $(cat $TMP_HOOKS_PATH/looking.found)";
        toy.hook("root", "80-end", end);
        let built = toy.build(&format!("-t tar --mode {mode}"));
        if !built.had_its_mode() {
            continue;
        }
        assert_eq!(built.success().lines_after("found "), ["0"], "{mode}");
    }
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
    fcntl.ioctl(0, 0x50009417, 0)
except OSError as error:
    print('call snapshot', error.errno)
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
            "snapshot",
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
    // A home of somebody else, and a service with a key in a directory that all may enter.
    let place = |parent: &str| {
        let made = tempfile::Builder::new()
            .prefix("kiln-test.")
            .tempdir_in(parent);
        made.expect("root may do that")
    };
    let (home, service) = (place("/home"), place("/var/lib"));
    fs::create_dir(home.path().join(".ssh")).expect("made");
    let (key, kept) = (home.path().join(".ssh/id"), home.path().join("given"));
    let (token, open) = (service.path().join("token"), service.path().join("open"));
    for path in [&key, &kept, &token, &open] {
        fs::write(path, "text").expect("written");
    }
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("changed");
    };
    // One that all may enter, with files in it that they may not read.
    let open_home = place("/home");
    mode(open_home.path(), 0o755);
    let deep = open_home.path().join(".aws/credentials");
    fs::create_dir(open_home.path().join(".aws")).expect("made");
    fs::write(&deep, "text").expect("written");
    mode(&deep, 0o600);
    mode(home.path(), 0o700);
    mode(service.path(), 0o755);
    mode(&token, 0o600);
    toy.hook(
        "extra-data",
        "50-look",
        &format!(
            "for file in /etc/shadow /etc/gshadow /etc/ssh/ssh_host_*_key '{}' '{}' '{}' '{}' '{}'; do\n\
             if [ -s \"$file\" ]; then echo \"seen ${{file##*/}}\"; fi\ndone",
            key.display(),
            token.display(),
            kept.display(),
            open.display(),
            deep.display()
        ),
    );
    for mode in ["root", "single"] {
        let built = toy.build(&format!(
            "-t tar --overwrite --mode {mode} --show {}",
            kept.display()
        ));
        if built.had_its_mode() {
            assert_eq!(
                built.success().lines_after("seen "),
                ["given", "open"],
                "{mode}"
            );
        }
    }
}

#[test]
fn what_is_hidden_or_shown_may_go_while_it_is_being_mounted() {
    if !nix::unistd::geteuid().is_root() {
        return common::skipped("only root hides what others do");
    }
    let mut toy = Toy::basic();
    let made = tempfile::Builder::new()
        .prefix("kiln-test.")
        .tempdir_in("/var/lib");
    let service = made.expect("root may do that");
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("changed");
    };
    mode(service.path(), 0o711);
    let directories: Vec<_> = (0..60)
        .map(|number| service.path().join(number.to_string()))
        .collect();
    let (open, closed) = directories.split_at(40);
    // Programs are shown in what is hidden.
    let mut path = std::env::var_os("PATH").expect("there is one");
    for directory in closed {
        path.push(":");
        path.push(directory.join("bin"));
    }
    toy.world.set("PATH", path.to_str().expect("valid"));
    // One kind of file in the place of another.
    let changing = service.path().join("changing");
    let done = std::sync::atomic::AtomicBool::new(false);
    let come_and_go = || {
        while !done.load(std::sync::atomic::Ordering::Relaxed) {
            fs::create_dir(&changing).expect("made");
            mode(&changing, 0o700);
            for directory in open {
                fs::create_dir(directory).expect("made");
                fs::write(directory.join("token"), "private").expect("written");
                mode(&directory.join("token"), 0o600);
            }
            for directory in closed {
                fs::create_dir_all(directory.join("bin")).expect("made");
                mode(directory, 0o700);
            }
            fs::remove_dir(&changing).expect("removed");
            fs::write(&changing, "private").expect("written");
            mode(&changing, 0o600);
            for directory in &directories {
                fs::remove_dir_all(directory).expect("removed");
            }
            fs::remove_file(&changing).expect("removed");
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(come_and_go);
        let all: Vec<_> = (0..4).map(|_| toy.build("-t tar --overwrite")).collect();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        for built in all {
            built.success();
        }
    });
}
