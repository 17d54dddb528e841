//! The same elements and arguments, built by diskimage-builder as root and by kiln:
//! the trees are the same but for the differences that are listed here.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kiln::rootfs::apt::sources::{HOST_APT, Mirrors};

use crate::common;
use crate::common::image::missing;
use crate::common::online::{has_pip, upstream};
use crate::common::toy::Built;
use crate::common::{World, cache, has_network};
use crate::skip;

/// A private `/dev` for diskimage-builder, which binds the host's into the root,
/// packs it and deletes what is below the root at the end.
const PRIVATE_DEV: &str = r#"
set -eu
mount --make-rprivate /
dev=$1
shift
mount -t tmpfs -o mode=755 dev "$dev"
while read -r name major minor; do
    mknod -m 666 "$dev/$name" c "$major" "$minor"
done <<'EOF'
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
loop-control 10 237
EOF
for number in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do mknod "$dev/loop$number" b 7 "$number"; done
mkdir "$dev/pts" "$dev/shm"
ln -s /proc/self/fd "$dev/fd"
ln -s /proc/self/fd/0 "$dev/stdin"
ln -s /proc/self/fd/1 "$dev/stdout"
ln -s /proc/self/fd/2 "$dev/stderr"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$dev/pts"
ln -s pts/ptmx "$dev/ptmx"
mount -t tmpfs -o mode=1777 shm "$dev/shm"
mount --move "$dev" /dev
exec "$@"
"#;

/// Lists a tar archive: path, kind, mode, owner, target of a link, attributes, the
/// digests of files, and the packages in dpkg's records.
const LIST: &str = r#"
import hashlib, json, sys, tarfile
kinds = {tarfile.REGTYPE: "file", tarfile.DIRTYPE: "directory", tarfile.SYMTYPE: "link",
         tarfile.CHRTYPE: "char", tarfile.BLKTYPE: "block", tarfile.FIFOTYPE: "fifo"}

def shadow(text):
    """Without the days on which passwords were set."""
    fields = (line.split(":") for line in text.splitlines())
    return "\n".join(":".join(line[:2] + line[3:]) for line in fields)

def hosts(text):
    """Without the line for the image's own name."""
    return "\n".join(line for line in text.splitlines() if line and not line.startswith("127.0.1.1"))

def status(text):
    """Without priorities, and packages in the order of their names."""
    entries = ([line for line in entry.splitlines() if not line.startswith("Priority: ")]
               for entry in text.strip().split("\n\n"))
    return "\n\n".join(sorted("\n".join(entry) for entry in entries))

PLAIN = {"/etc/shadow": shadow, "/etc/shadow-": shadow, "/etc/hosts": hosts,
         "/var/lib/dpkg/status": status, "/var/lib/dpkg/status-old": status}
tree, digests, packages = {}, {}, []
with tarfile.open(sys.argv[1], errors="surrogateescape") as archive:
    for member in archive:
        path = "/" + member.name.removeprefix("./").strip("/")
        if path == "/.":
            path = "/"
        if member.type == tarfile.LNKTYPE:
            first = "/" + member.linkname.removeprefix("./").strip("/")
            tree[path] = tree[first]
            digests[path] = digests[first]
            continue
        if member.isreg():
            content = archive.extractfile(member).read()
            if path in PLAIN:
                content = PLAIN[path](content.decode()).encode()
            digests[path] = hashlib.sha256(content).hexdigest()
        attributes = sorted((k, v) for k, v in member.pax_headers.items() if "xattr" in k)
        target = member.linkname if member.issym() else ""
        tree[path] = " ".join([kinds[member.type], oct(member.mode), f"{member.uid}:{member.gid}",
                               target, json.dumps(attributes)])
        if path == "/var/lib/dpkg/status":
            text = archive.extractfile(member).read().decode()
            for entry in text.split("\n\n"):
                fields = dict(line.split(": ", 1) for line in entry.splitlines() if ": " in line and line[0] != " ")
                if fields:
                    packages.append(f"{fields['Package']} {fields['Version']} {fields['Status']}")
json.dump({"tree": tree, "digests": digests, "packages": sorted(packages)}, sys.stdout)
"#;

/// What may differ of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Differs {
    /// Only diskimage-builder's tree has it.
    There,
    /// Only kiln's tree has it.
    Here,
    /// Kind, mode, owner, target or attributes; both may have it, or one.
    Node,
    /// The content alone.
    Content,
}

use Differs::{Content, Here, Node, There};

/// What differs, how, and why that is meant. A `*` stands for anything.
const INTENDED: &[(&str, Differs, &str)] = &[
    (
        "/dev/*",
        Node,
        "kiln's image has the nodes that a boot needs, not those of the host",
    ),
    (
        "/etc/dib-manifests/dib-manifest-dpkg-*",
        Node,
        "named after the image",
    ),
    (
        "/etc/hostname",
        Node,
        "diskimage-builder keeps the mode of the host's file",
    ),
    (
        "/etc/resolv.conf",
        There,
        "diskimage-builder leaves the host's name servers in the image",
    ),
    ("/lost+found", There, "made by mkfs, not by elements"),
    ("/proc", Here, "a mount point that every root needs"),
    (
        "/run/mount*",
        There,
        "left by the mount program of the host",
    ),
    ("/sys", Here, "a mount point that every root needs"),
    (
        "/usr/local/bin/extract-image",
        There,
        "a program of an element that kiln's replaces",
    ),
    (
        "/usr/local/bin/package-*installs*",
        There,
        "a program of an element that kiln's replaces",
    ),
    ("/var/lib/dpkg/cmethopt", There, "left by debootstrap"),
    ("/var/lib/dpkg/available-old", There, "left by debootstrap"),
    ("/var/log/bootstrap.log", There, "left by debootstrap"),
    (
        "*/__pycache__/*.pyc",
        Content,
        "bytecode is not made the same twice",
    ),
    (
        "/boot/initrd.img-*",
        Content,
        "an archive of files with their times",
    ),
    (
        "/etc/dib-manifests/dib_arguments",
        Content,
        "each is its own call",
    ),
    (
        "/etc/dib-manifests/dib_environment",
        Content,
        "each has variables of its own",
    ),
    ("/etc/iscsi/initiatorname.iscsi", Content, "made by chance"),
    (
        "/usr/share/pkg-map/debootstrap",
        Content,
        "of an element that kiln's replaces",
    ),
    (
        "/var/cache/ldconfig/aux-cache",
        Content,
        "has inodes and times",
    ),
    ("/var/lib/dpkg/available", Content, "left by debootstrap"),
];

/// What [`LIST`] leaves out of the contents of files, and why that is meant.
const LEFT_OUT: &[(&str, &str)] = &[
    ("/etc/shadow", "the day on which a password was set"),
    ("/etc/hosts", "kiln's has a line for the image's own name"),
    (
        "/var/lib/dpkg/status",
        "packages have the priorities that the archive gives them",
    ),
];

/// Whether such a difference is meant; those that are known by the tests are ticked off.
fn is_intended(path: &str, differs: Differs, seen: &mut BTreeSet<&str>) -> bool {
    let found = INTENDED.iter().find(|(pattern, how, _)| {
        let how = *how == differs || (*how == Node && differs != Content);
        how && matches(pattern, path)
    });
    if let Some((pattern, ..)) = found {
        seen.insert(pattern);
    }
    found.is_some()
}

fn matches(pattern: &str, path: &str) -> bool {
    let mut rest = path;
    for (number, part) in pattern.split('*').enumerate() {
        match (number, rest.find(part)) {
            (0, Some(0)) => rest = &rest[part.len()..],
            (0, _) | (_, None) => return false,
            (_, Some(at)) => rest = &rest[at + part.len()..],
        }
    }
    rest.is_empty() || pattern.ends_with('*')
}

#[derive(serde::Deserialize)]
struct Listing {
    tree: BTreeMap<String, String>,
    digests: BTreeMap<String, String>,
    packages: Vec<String>,
}

fn list(world: &World, archive: &Path) -> Listing {
    let output = world
        .command("python3")
        .args(["-c", LIST])
        .arg(archive)
        .output()
        .expect("python3 can be started");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("it prints JSON")
}

/// The user that kiln builds as: nobody needs to be root for it.
struct User {
    name: String,
    uid: u32,
    gid: u32,
}

impl User {
    /// The first user with subordinate ids for a whole image.
    fn find(world: &World) -> Option<Self> {
        let text = fs::read_to_string("/etc/subuid").unwrap_or_default();
        text.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let count: u32 = fields.nth(1)?.parse().ok()?;
            let found = nix::unistd::User::from_name(name).ok().flatten()?;
            let user = Self {
                name: name.to_owned(),
                uid: found.uid.as_raw(),
                gid: found.gid.as_raw(),
            };
            let usable = count >= 65536 && user.uid != 0 && user.reaches(world);
            usable.then_some(user)
        })
    }

    /// Whether the user can run kiln and read the elements, wherever the tests are.
    fn reaches(&self, world: &World) -> bool {
        let elements = upstream(false).join("diskimage_builder/elements");
        let directory = self.directory(world);
        if !directory.is_dir() {
            fs::create_dir(&directory).expect("it can be made");
        }
        // A temporary directory of root's is closed.
        let above = directory.ancestors().nth(2).expect("it is in the world");
        fs::set_permissions(above, fs::Permissions::from_mode(0o711)).expect("root can do this");
        chown(&directory, Some(self.uid), Some(self.gid)).expect("root can do this");
        world
            .command("runuser")
            .args(["-u", &self.name, "--", "sh", "-c"])
            .arg("test -x \"$1\" && test -r \"$2/base/README.rst\" && test -w \"$3\"")
            .arg("sh")
            .args([common::kiln(), &elements, &directory])
            .status()
            .is_ok_and(|status| status.success())
    }

    /// Where the user works.
    fn directory(&self, world: &World) -> PathBuf {
        world.work().join(&self.name)
    }

    /// kiln as this user, and a cache for it.
    fn command(&self, world: &World) -> (Command, PathBuf) {
        let cache = cache().join(format!("of-{}", self.name));
        fs::create_dir_all(&cache).expect("it can be made");
        chown(&cache, Some(self.uid), Some(self.gid)).expect("root can do this");
        let mut command = world.command("runuser");
        command
            .args(["-u", &self.name, "--"])
            .arg(common::kiln())
            .env("HOME", self.directory(world))
            .current_dir(self.directory(world));
        (command, cache)
    }
}

fn settings(world: &World) -> Vec<(&'static str, OsString)> {
    let mirrors = Mirrors::choose(&|_| None, Path::new(HOST_APT));
    vec![
        ("DIB_RELEASE", "bookworm".into()),
        ("DIB_PYTHON_VERSION", "3".into()),
        ("DIB_DISTRIBUTION_MIRROR", mirrors.main.into()),
        ("DIB_DEBIAN_SECURITY_MIRROR", mirrors.security.into()),
        ("TMPDIR", world.tmp().into()),
    ]
}

/// Builds with diskimage-builder itself.
fn build_upstream(world: &World) {
    let package = upstream(true);
    let python = world.work().join("python");
    // sudo drops PYTHONPATH, so that the interpreter has to bring it.
    fs::write(
        &python,
        format!(
            "#!/bin/sh\nPYTHONPATH='{}' exec /usr/bin/python3 \"$@\"\n",
            package.display()
        ),
    )
    .expect("it can be written");
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).expect("a mode can be set");
    let dev = world.work().join("dev");
    fs::create_dir(&dev).expect("it can be made");
    let log = world.work().join("upstream.log");
    let output = fs::File::create(&log).expect("it can be made");
    let mut command: Command = world.command("unshare");
    command
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args([
            "--propagation",
            "private",
            "/bin/bash",
            "-c",
            PRIVATE_DEV,
            "bash",
        ])
        .arg(&dev)
        .args(["/bin/bash", "-c", "exec \"$0\" \"$@\" </dev/null"])
        .arg(&python)
        .arg(package.join("bin/disk-image-create"))
        .args([
            "-o",
            "upstream",
            "-t",
            "tar",
            "--no-tmpfs",
            "debian-minimal",
        ])
        .env("PYTHONPATH", &package)
        .env("DIB_PYTHON_EXEC", &python)
        .env("USER", "root")
        // Of the two programs that it may use, the one that is named here.
        .env(
            "DIB_DEBIAN_DEBOOTSTRAP_SCRIPT",
            "/usr/share/debootstrap/scripts/bookworm",
        )
        .stdout(output.try_clone().expect("it can be duplicated"))
        .stderr(output)
        .stdin(Stdio::null());
    for (name, value) in settings(world) {
        command.env(name, value);
    }
    let status = command.status().expect("unshare can be started");
    let text = fs::read_to_string(&log).unwrap_or_default();
    let end: Vec<&str> = text.lines().rev().take(40).collect();
    assert!(
        status.success(),
        "{status}:\n{}",
        end.into_iter().rev().collect::<Vec<_>>().join("\n")
    );
}

#[test]
fn the_tree_is_the_one_that_diskimage_builder_makes_as_root() {
    if !nix::unistd::geteuid().is_root() {
        skip!("diskimage-builder itself needs root");
    }
    let tools = [
        "python3",
        "sudo",
        "debootstrap",
        "unshare",
        "losetup",
        "qemu-img",
    ];
    if let Some(name) = missing(&tools) {
        skip!("{name} is not installed");
    }
    if !has_pip() {
        skip!("Python has no pip (package python3-pip)");
    }
    if !has_network() {
        skip!("this machine has no network");
    }
    if !Path::new("/dev/loop-control").exists() {
        skip!("this machine has no loop devices");
    }
    let may_mount = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--mount-proc", "true"])
        .status();
    if !may_mount.is_ok_and(|status| status.success()) {
        skip!("root may not make namespaces and mounts here");
    }
    let world = World::new();
    let Some(user) = User::find(&world) else {
        skip!("no user here has subordinate ids and may run what this test is made of");
    };
    let (theirs, ours) = std::thread::scope(|scope| {
        let theirs = scope.spawn(|| {
            build_upstream(&world);
            list(&world, &world.work().join("upstream.tar"))
        });
        let (mut command, cache) = user.command(&world);
        command
            .args([
                "build",
                "debian-minimal",
                "-o",
                "ours",
                "-t",
                "tar",
                "--json",
            ])
            .arg("--image-cache")
            .arg(cache)
            .env(
                "ELEMENTS_PATH",
                upstream(false).join("diskimage_builder/elements"),
            )
            .env_remove("SOURCE_DATE_EPOCH");
        for (name, value) in settings(&world) {
            command.env(name, value);
        }
        command.env("TMPDIR", user.directory(&world));
        Built::run(&mut command).success();
        let ours = list(&world, &user.directory(&world).join("ours.tar"));
        let theirs = theirs
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (theirs, ours)
    });
    assert!(theirs.packages.len() > 100, "{:?}", theirs.packages);
    assert_eq!(ours.packages, theirs.packages);
    let mut seen = BTreeSet::new();
    let mut differences = BTreeSet::new();
    for path in theirs.tree.keys().chain(ours.tree.keys()) {
        let (there, here) = (theirs.tree.get(path), ours.tree.get(path));
        let differs = match (there, here) {
            (Some(_), None) => There,
            (None, Some(_)) => Here,
            _ if there != here => Node,
            _ if theirs.digests.get(path) != ours.digests.get(path) => Content,
            _ => continue,
        };
        if !is_intended(path, differs, &mut seen) {
            differences.insert(format!("{path}: {differs:?}: {there:?}, {here:?}"));
        }
        // What differs as a node is compared as a file all the same.
        let both = (theirs.digests.get(path), ours.digests.get(path));
        let contents = matches!(both, (Some(a), Some(b)) if a != b);
        if differs == Node && contents && !is_intended(path, Content, &mut seen) {
            differences.insert(format!("{path}: content"));
        }
    }
    assert_eq!(differences, BTreeSet::new());
    let compared = theirs
        .digests
        .keys()
        .filter(|path| ours.digests.contains_key(*path));
    assert!(compared.count() > 5000);
    println!("let through: {seen:#?}");
}

#[test]
fn every_intended_difference_is_on_the_page() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/dib-differences.md");
    let page = fs::read_to_string(page).expect("the page is there");
    let patterns = INTENDED.iter().map(|(pattern, ..)| pattern);
    for pattern in patterns.chain(LEFT_OUT.iter().map(|(path, _)| path)) {
        let parts = pattern.split('*').map(|part| part.trim_matches('/'));
        let longest = parts.max_by_key(|part| part.len()).unwrap_or_default();
        let name = longest.rsplit('/').next().unwrap_or_default();
        assert!(name.len() > 2 && page.contains(name), "{pattern}");
    }
}
