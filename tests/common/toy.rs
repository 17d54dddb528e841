//! A toy operating system: an element whose root is made of the host's own
//! programs, so that a whole build takes a second or two and no network.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use kiln::build::event::Event;
use serde_json::Deserializer;

use super::{Outcome, Run as _, World};

/// The phases in DIB's order, and whether each runs inside the target.
pub const PHASES: [(&str, bool); 10] = [
    ("root", false),
    ("extra-data", false),
    ("pre-install", true),
    ("install", true),
    ("post-install", true),
    ("post-root", false),
    ("block-device", false),
    ("pre-finalise", false),
    ("finalise", true),
    ("cleanup", false),
];

/// A GPT with a BIOS boot partition and an ext4 root, for builds that bring no
/// layout element.
pub const GPT: &str = "
- local_loop:
    name: image0
- partitioning:
    base: image0
    label: gpt
    partitions:
      - name: BSP
        type: EF02
        size: 8MiB
      - name: root
        type: '8300'
        size: 100%
        mkfs:
          type: ext4
          mount:
            mount_point: /
            fstab:
              options: defaults
              fsck-passno: 1
";

/// Makes a root in which bash and a few programs run.
const BASIC_ROOT: &str = include_str!("toy-root");

/// Everything that an image has to carry over faithfully.
const VARIETY: &str = r#"#!/bin/bash
set -euo pipefail
cd "$TARGET_ROOT"
mkdir -p srv/www srv/many srv/deep/a/b/c/d/e/f/g/h opt
printf 'served\n' >srv/www/index.html
chown -R 33:33 srv/www
chmod 2775 srv/www
printf 'large ids\n' >srv/ids
chown 60000:65534 srv/ids
cp usr/bin/true usr/bin/setuid
chmod 4755 usr/bin/setuid
cp usr/bin/true usr/bin/setgid
chown 0:33 usr/bin/setgid
chmod 2755 usr/bin/setgid
chmod 600 etc/group
printf 'nothing may be read here\n' >srv/closed
chmod 000 srv/closed
(cd srv/many && seq -f 'entry-%05g-with-a-name-of-some-length' 3000 | xargs touch)
printf 'one inode\n' >srv/first
ln srv/first srv/second
ln srv/first srv/deep/third
truncate -s 64M srv/sparse
printf 'middle' | dd of=srv/sparse bs=1 seek=$((32 << 20)) conv=notrunc status=none
head -c 3000000 /dev/zero | tr '\0' 'k' >srv/large
ln -s first srv/short-link
ln -s "$(printf 'x%.0s' {1..200})" srv/long-link
ln -s /nowhere/at/all srv/dangling
mkfifo srv/fifo
printf 'odd\n' >"srv/$(printf 'tab\there and \303\244')"
printf 'bytes\n' >"srv/$(printf 'latin-\344')"
printf 'hidden\n' >.hidden
: >srv/empty
printf 'log\n' >var/log/messages
printf 'log\n' >root/install.log
printf 'kept\n' >root/notes
printf 'gone\n' >tmp/leftover
if [ -n "${TOY_CAPABILITY:-}" ]; then
    cp usr/bin/true usr/bin/capable
    setcap cap_net_raw,cap_net_bind_service+ep usr/bin/capable
fi
if [ -n "${TOY_ATTRIBUTE:-}" ]; then
    setfattr -n user.kiln -v 'a value' srv/first
fi
"#;

/// A toy element in a private world.
pub struct Toy {
    /// Where it is built.
    pub world: World,
    elements: PathBuf,
    attribute: bool,
}

/// A finished build: what the program printed and the events in it.
pub struct Built {
    /// Standard output is the events as JSON.
    pub outcome: Outcome,
    /// Those events.
    pub events: Vec<Event>,
}

impl Toy {
    /// A root with a few programs; small and quick.
    pub fn basic() -> Toy {
        let toy = Toy::empty();
        toy.hook("root", "10-toy", BASIC_ROOT);
        toy
    }

    /// No root at all yet.
    pub fn empty() -> Toy {
        let mut world = World::new();
        let elements = world.home().join("elements");
        let temporary = world.tmp();
        world
            .set("TMP_DIR", temporary)
            .set("ELEMENTS_PATH", &elements);
        let toy = Toy {
            world,
            elements,
            attribute: false,
        };
        toy.file("toy/element-provides", "operating-system\n");
        toy
    }

    /// Same, with all kinds of files, owners, modes and attributes.
    pub fn full() -> Toy {
        let mut toy = Toy::basic();
        toy.hook("root", "20-variety", VARIETY);
        if super::tool("setcap").is_some() {
            toy.world.set("TOY_CAPABILITY", "1");
        }
        if super::tool("setfattr").is_some() && attributes_in_memory() {
            toy.world.set("TOY_ATTRIBUTE", "1");
            toy.attribute = true;
        }
        toy
    }

    /// Whether a file of the root has a user attribute.
    pub fn has_attribute(&self) -> bool {
        self.attribute
    }

    /// Writes a file of an element, below the elements' directory.
    pub fn file(&self, path: &str, text: &str) -> PathBuf {
        let path = self.elements.join(path);
        fs::create_dir_all(path.parent().expect("a file is in a directory"))
            .expect("a directory can be made");
        fs::write(&path, text).expect("a file can be written");
        path
    }

    /// Adds a hook to the toy element. Without `#!` it gets bash's and `set -eu`.
    pub fn hook(&self, phase: &str, name: &str, script: &str) {
        let script = if script.starts_with("#!") {
            script.to_owned()
        } else {
            format!("#!/bin/bash\nset -eu -o pipefail\n{script}\n")
        };
        self.plain_hook(phase, name, &script);
    }

    /// Adds an executable hook with exactly this text.
    pub fn plain_hook(&self, phase: &str, name: &str, text: &str) {
        let path = self.file(&format!("toy/{phase}.d/{name}"), text);
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a mode can be set");
    }

    /// Compiles a program of C, which is at `/NAME` in the target then; false, with a message,
    /// where there is no compiler.
    pub fn program(&self, name: &str, source: &str, flags: &str) -> bool {
        let source = self.file(&format!("toy/{name}.c"), source);
        let program = source.with_extension("");
        let compiled = Command::new("cc")
            .args(["-O1", "-static", "-pthread", "-o"])
            .args([&program, &source])
            .args(flags.split_whitespace())
            .output();
        if !compiled
            .as_ref()
            .is_ok_and(|output| output.status.success())
        {
            super::skipped(&format!("no compiler for this: {compiled:?}"));
            return false;
        }
        let copy = format!("cp '{}' \"$TARGET_ROOT/{name}\"", program.display());
        self.hook("root", &format!("20-{name}"), &copy);
        true
    }

    /// Adds a link as a hook or another file of the element.
    pub fn link(&self, path: &str, target: &str) {
        let path = self.elements.join(path);
        fs::create_dir_all(path.parent().expect("a link is in a directory"))
            .expect("a directory can be made");
        symlink(target, path).expect("a link can be made");
    }

    /// `kiln build toy -n` with more arguments; the output is `toy` unless they say more.
    pub fn command(&self, arguments: &str) -> Command {
        self.command_of(super::kiln(), arguments)
    }

    /// Same, with kiln at another place.
    pub fn command_of(&self, kiln: &Path, arguments: &str) -> Command {
        let mut command = self.world.command(kiln);
        command.args(["build", "toy", "-n"]);
        if !arguments.contains("-o ") {
            command.args(["-o", "toy"]);
        }
        command.args(shlex::split(arguments).expect("test lines are well quoted"));
        command
    }

    /// Builds, with events.
    pub fn build(&self, arguments: &str) -> Built {
        Built::run(self.command(arguments).arg("--json"))
    }

    /// The file `toy.SUFFIX`.
    pub fn output(&self, suffix: &str) -> PathBuf {
        self.world.work().join(format!("toy.{suffix}"))
    }

    /// Names in the working directory, sorted.
    pub fn outputs(&self) -> Vec<String> {
        names(&self.world.work())
    }

    /// Fails the test if the build's temporary directory has anything in it.
    #[track_caller]
    pub fn assert_swept(&self) {
        assert_eq!(
            names(&self.world.tmp()),
            Vec::<String>::new(),
            "TMP_DIR is not empty"
        );
        let mounts = super::watch::mounts_below(&self.world.tmp());
        assert_eq!(mounts, Vec::<String>::new(), "mounts are left");
    }
}

impl Built {
    /// Runs a command that prints events.
    pub fn run(command: &mut Command) -> Built {
        let outcome = command.run();
        let events = Deserializer::from_str(&outcome.stdout)
            .into_iter::<Event>()
            .map_while(Result::ok)
            .collect();
        Built { outcome, events }
    }

    /// Fails the test unless it succeeded.
    #[track_caller]
    pub fn success(self) -> Built {
        assert!(
            self.outcome.status.success(),
            "{}\n{}\n{}",
            self.outcome.status,
            self.outcome.stderr,
            self.lines().join("\n")
        );
        self
    }

    /// Whether its mode is to be had on this host: if not, the test says SKIP. Fails
    /// the test if the build failed for another reason.
    #[track_caller]
    pub fn had_its_mode(&self) -> bool {
        if self.outcome.status.success() {
            return true;
        }
        let (message, _, _) = self.failure();
        assert!(
            message.contains("mode `") || message.contains("namespace"),
            "{message}\n{:?}",
            self.lines()
        );
        super::skipped(&message);
        false
    }

    /// Fails the test unless it failed; returns the message with its hints.
    #[track_caller]
    pub fn failure(&self) -> (String, Vec<String>, u8) {
        assert!(!self.outcome.status.success(), "the build succeeded");
        match self.events.last() {
            Some(Event::Failed {
                message,
                hints,
                status,
            }) => (message.clone(), hints.clone(), *status),
            other => panic!(
                "the last event is {other:?}\nstderr:\n{}",
                self.outcome.stderr
            ),
        }
    }

    /// Everything that programs printed.
    pub fn lines(&self) -> Vec<String> {
        self.events
            .iter()
            .filter_map(|event| match event {
                Event::Output { line } => Some(line.clone()),
                _ => None,
            })
            .collect()
    }

    /// Printed lines that begin with `prefix`, without it.
    pub fn lines_after(&self, prefix: &str) -> Vec<String> {
        self.lines()
            .iter()
            .filter_map(|line| line.strip_prefix(prefix))
            .map(str::to_owned)
            .collect()
    }
}

/// Names in a directory, sorted.
pub fn names(directory: &Path) -> Vec<String> {
    fs::read_dir(directory)
        .expect("the directory can be read")
        .map(|entry| {
            let name = entry.expect("the directory can be read").file_name();
            name.to_string_lossy().into_owned()
        })
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}

/// Whether a filesystem in memory has user attributes (Linux 6.6).
fn attributes_in_memory() -> bool {
    let release = nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (6, 6)
}
