//! What hooks reach by sockets: with the network of the host, and without one.

use std::fs;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

use super::isolation::{build, python};
use crate::common;
use crate::common::toy::Toy;
use crate::common::watch::eventually;

/// Tries to connect to sockets of the host from a hook outside; prints those that
/// answered.
const CONNECT: &str = "python3 - \"$@\" <<'END'\n\
import socket, sys\n\
for name in sys.argv[1:]:\n    \
    s = socket.socket(socket.AF_UNIX)\n    \
    try:\n        s.connect(name.replace('@', '\\0', 1) if name[0] == '@' else name)\n        print('reached', name)\n    \
    except OSError as error:\n        print('refused', name, error.errno)\n\
END";

/// A daemon that made its socket by a name which starts from where it is.
struct Relative(std::process::Child);

impl Relative {
    fn start(path: &Path) -> Relative {
        const LISTEN: &str = "import os, socket, sys, time\n\
            os.chdir(os.path.dirname(sys.argv[1]))\n\
            s = socket.socket(socket.AF_UNIX)\n\
            s.bind(os.path.basename(sys.argv[1]))\n\
            s.listen()\n\
            time.sleep(600)";
        let daemon = std::process::Command::new("python3")
            .args(["-c", LISTEN])
            .arg(path)
            .spawn()
            .expect("python starts");
        let daemon = Relative(daemon);
        assert!(eventually(|| path.exists()), "it made no socket");
        daemon
    }
}

impl Drop for Relative {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn sockets_of_the_host_are_out_of_reach_whatever_the_network() {
    if !python() {
        return common::skipped("python3 is not installed");
    }
    let toy = Toy::basic();
    let path = toy.world.home().join("daemon.socket");
    let _named = UnixListener::bind(&path).expect("a socket can be bound");
    // As the master of a connection of ssh has it: the kernel remembers the first name.
    let moved = toy.world.home().join("moved.socket");
    let _moved = UnixListener::bind(path.with_extension("new")).expect("a socket can be bound");
    fs::rename(path.with_extension("new"), &moved).expect("it is ours");
    let relative = toy.world.home().join("relative.socket");
    let _daemon = Relative::start(&relative);
    let name = format!("kiln-test-{}-{:p}", std::process::id(), &toy);
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let _abstract = UnixListener::bind_addr(&address).expect("a socket can be bound");
    toy.hook(
        "extra-data",
        "50-connect",
        &format!(
            "set -- '{}' '{}' '{}' '@{name}'\n{CONNECT}",
            path.display(),
            moved.display(),
            relative.display()
        ),
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
        assert_eq!(built.lines_after("refused ").len(), 4, "{arguments}");
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
