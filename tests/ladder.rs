//! Builds without namespaces of their own, or without process numbers: what hooks
//! find in the place of mounts, and that nothing is left whoever is killed.

mod common;

use std::fs;

use common::host::{DOCKER, Host};
use common::toy::{Built, Toy};
use common::watch::{Started, VICTIMS, eventually, marked};
use nix::sys::signal::Signal;

/// What programs expect below `/proc`, `/sys` and `/dev`; says what is wrong.
const FILES: &str = r#"
wrong() { echo "WRONG $*"; }
same() { [ "$1" = "$2" ] || wrong "$3: $1, not $2"; }
[ -d /proc ] && [ -d /proc/self ] && [ -L /proc/self ] || wrong types
same "$(readlink /proc/self/exe)" /usr/bin/readlink exe
same "$(cat /proc/$$/comm)" "$(cat /proc/self/../$$/comm)" comm
read -r name _ </proc/self/stat || wrong stat
[ "$name" = $$ ] || wrong "self is $name and not $$"
same "$(cd /; cat proc/self/comm)" cat relative
same "$(cat <(echo substituted))" substituted substitution
same "$(echo piped | cat /dev/stdin)" piped stdin
same "$(echo out >/dev/stdout)" out stdout
same "$(echo fd | cat /dev/fd/0)" fd fd
[ -L /dev/fd ] && [ -d /dev/fd/ ] || wrong "/dev/fd"
same "$(readlink /dev/fd)" /proc/self/fd link
for link in /dev/fd /proc/self /proc/thread-self /proc/self/cwd; do
    same "$(stat -c %F $link)" "symbolic link" "$link itself"
    same "$(stat -c %F $link/)" directory "what $link leads to"
    ! readlink $link/ || wrong "$link/ is read as a link"
done
ls /proc/self/fd >/dev/null || wrong list
same "$(/proc/self/exe -c 'echo ran')" ran exec
same "$(exec -a other /proc/self/exe -c 'echo $0')" other name
same "$(cat /etc/mtab | head -n 1)" "rootfs / rootfs rw 0 0" mtab
grep -q ' /proc proc ' /proc/mounts || wrong mounts
grep -q ' - proc proc ' /proc/self/mountinfo || wrong mountinfo
[ -e /sys/class ] && ls /sys >/dev/null || wrong sys
for node in null zero full random urandom; do
    [ -c /dev/$node ] || wrong "/dev/$node"
done
(cd /dev && [ -c null ] && cat null) || wrong "null by name"
same "$(head -c 4 /dev/zero | wc -c)" 4 zero
same "$(head -c 4 /dev/urandom | wc -c)" 4 urandom
! echo x 2>/dev/null >/dev/full || wrong full
echo gone >/dev/null || wrong null
! echo 1 2>/dev/null >/proc/sys/kernel/hostname || wrong "a switch could be set"
! echo 1 2>/dev/null >/sys/kernel/profiling || wrong "a file of /sys could be written"
! mount -t tmpfs none /srv 2>/dev/null || wrong "something was mounted"
[ ! -e /proc/not-there ] && ! cat /proc/not-there 2>/dev/null || wrong nothing
[ -r /proc/self/status ] && [ ! -x /proc/self/status ] || wrong access
same "$(stat -f -c %T /proc/)" proc statfs
touch /srv/by-fd
exec 7</srv/by-fd
chmod 751 /proc/self/fd/7
touch -d 2001-02-03 /proc/self/fd/7
chown 33:44 /proc/self/fd/7
same "$(stat -c %a:%u:%g:%y /srv/by-fd | cut -c1-20)" 751:33:44:2001-02-03 "by descriptor"
exec 7<&-
same "$(chroot / stat -f -c %T /proc)" proc "another root"
mkdir /dev/shm/directory && touch /dev/shm/directory/file || wrong shm
echo DONE
"#;

fn assert_right(built: Built) {
    let built = built.success();
    let wrong = built.lines_after("WRONG ");
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(built.lines().contains(&"DONE".to_owned()));
}

/// A toy whose own `/dev` and links are like a distribution's.
fn files_toy() -> Toy {
    let toy = Toy::basic();
    toy.hook(
        "root",
        "20-links",
        "cd $TARGET_ROOT\nln -s ../proc/self/mounts etc/mtab\nmkdir dev/own srv\n",
    );
    toy.hook("install", "50-files", FILES);
    toy
}

/// Mount points outside of temporary directories, in which other tests mount.
fn mount_table() -> Vec<String> {
    let mut points = common::watch::mounts_below(std::path::Path::new("/"));
    points.retain(|point| !point.starts_with("/tmp/"));
    points
}

/// Fails if something is mounted below the world of a toy.
#[track_caller]
fn assert_nothing_mounted(toy: &Toy) {
    let work = toy.world.work();
    let top = work.parent().expect("it has one");
    let left = common::watch::mounts_below(top);
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_cannot_be_mounted_is_answered_for() {
    if !nix::unistd::geteuid().is_root() {
        skip!("mode chroot is root's");
    }
    let toy = files_toy();
    assert_right(Host::docker().build(&toy, "-t tar"));
    let listing = common::image::run(&toy.world, "tar", "tf toy.tar").success();
    assert!(listing.contains("./dev/own/") && !listing.contains("./dev/shm/directory"));
    fs::remove_file(toy.output("tar")).expect("ours");
    let without: Vec<_> = DOCKER
        .into_iter()
        .filter(|&one| one != caps::Capability::CAP_MKNOD)
        .collect();
    let host = Host::new().masked().docker_filter(&without);
    assert_right(host.capabilities(&without).build(&toy, "-t tar"));
    fs::remove_file(toy.output("tar")).expect("ours");
    // On a host that would allow all of it, the same.
    let before = mount_table();
    assert_right(toy.build("-t tar --mode chroot"));
    assert_eq!(mount_table(), before);
    toy.assert_swept();
}

#[test]
fn a_namespace_with_one_id_and_nothing_else_answers_too() {
    // Root of a namespace, for which the kernel makes no device.
    let toy = files_toy();
    let host = Host::new().nested_with_one_id().no_more_namespaces();
    let host = host.capabilities(&DOCKER);
    assert_right(host.build(&toy, "-t tar --mode chroot"));
    toy.assert_swept();
}

#[test]
fn a_program_that_hides_its_memory_gets_its_answers() {
    if !nix::unistd::geteuid().is_root() {
        skip!("mode chroot is root's");
    }
    if common::tool("perl").is_none() {
        skip!("perl is not installed");
    }
    let toy = Toy::basic();
    // As `ssh-agent` does: `prctl(PR_SET_DUMPABLE, 0)`.
    let number = libc::SYS_prctl;
    let hide = format!(
        "mkdir $TARGET_ROOT/srv\n\
         perl -e 'syscall({number}, 4, 0, 0, 0, 0) == 0 or die; chdir shift or die; \
             -d q(srv) or die; mkdir q(srv/made) or die; chown 3, 4, q(srv/made) or die; \
             print join(q( ), q(made), (stat q(srv/made))[4, 5]), qq(\\n)' $TARGET_ROOT"
    );
    toy.hook("root", "20-hide", &hide);
    for host in [Host::new(), Host::docker()] {
        let built = host
            .build(&toy, "-t tar --overwrite --mode chroot")
            .success();
        assert_eq!(built.lines_after("made "), ["3 4"]);
    }
}

#[test]
fn a_program_with_capabilities_that_nobody_has_is_told() {
    if !nix::unistd::geteuid().is_root() {
        skip!("mode chroot is root's");
    }
    if common::tool("setcap").is_none() {
        skip!("setcap is not installed");
    }
    let toy = Toy::basic();
    let raw = "cd $TARGET_ROOT\n\
        cp /bin/true low\n\
        cp /bin/true raw\n\
        setcap cap_net_bind_service=ep low && ./low\n\
        setcap cap_net_raw,cap_net_bind_service=ep raw || exit 3\n\
        ./raw";
    toy.hook("root", "20-raw", raw);
    let (_, hints, status) = toy.build("-t tar --mode chroot").failure();
    assert_eq!(status, 126, "{hints:?}");
    let said = "the kernel did not start `./raw`: its file has capabilities that mode `chroot` \
        gives no program (cap_net_raw)";
    assert!(hints.iter().any(|hint| hint.starts_with(said)), "{hints:?}");
}

/// Daemons of every kind, then a hook that never ends.
const DAEMONS: &str = r"
sleep 600 &
setsid sleep 600 &
(setsid bash -c 'sleep 600 & exec sleep 600' &)
(trap '' HUP TERM; sleep 600) &
echo READY
sleep 600
";

/// Kills each process of builds with process numbers of the host.
fn kill_each(host: &Host, arguments: &str) {
    for (name, victim) in VICTIMS {
        let mark = format!("kiln-ladder-{name}-{}", std::process::id());
        let mut toy = Toy::basic();
        toy.world.set("LADDER_MARK", &mark);
        toy.hook("install", "50-daemons", DAEMONS);
        let before = mount_table();
        let mut build = Started::new(&mut host.command(&toy, &format!("-t tar {arguments}")));
        build.until("READY");
        let parts = build.parts();
        let family = parts.main.family();
        assert!(family.len() > 8, "{family:?}");
        victim(&parts).signal(Signal::SIGKILL);
        let (status, _, said) = build.end();
        assert_ne!(status, 0, "{name}: {said}");
        assert!(
            eventually(|| family.iter().all(|process| !process.lives()) && marked(&mark).is_empty()),
            "{name}: {:?} is left",
            marked(&mark)
        );
        assert_eq!(mount_table(), before, "{name}");
        assert_nothing_mounted(&toy);
        // Only main cannot clear up after itself; the others do it for main.
        assert!(
            eventually(|| common::toy::names(&toy.world.tmp()).is_empty()),
            "{name}: {:?} is left",
            common::toy::names(&toy.world.tmp())
        );
        assert_eq!(
            toy.outputs()
                .iter()
                .filter(|name| name.contains("tar"))
                .count(),
            0
        );
    }
}

#[test]
fn killing_any_process_without_namespaces_leaves_nothing() {
    if !nix::unistd::geteuid().is_root() {
        skip!("mode chroot is root's");
    }
    kill_each(&Host::docker(), "");
}

#[test]
fn killing_any_process_that_shares_the_hosts_numbers_leaves_nothing() {
    kill_each(&Host::new().nested_with_one_id().masked(), "");
}

#[test]
fn a_forced_chroot_that_is_killed_leaves_no_mount_on_the_host() {
    if !nix::unistd::geteuid().is_root() {
        skip!("mode chroot is root's");
    }
    kill_each(&Host::new(), "--mode chroot");
}
