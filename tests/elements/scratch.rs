//! A small root to run hooks in.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::library::{element, entries};

/// The host's programs that hooks use in a target: those of every Debian root.
const TOOLS: &[&str] = &[
    "awk",
    "base64",
    "basename",
    "bash",
    "cat",
    "chmod",
    "chown",
    "cp",
    "cut",
    "dirname",
    "env",
    "find",
    "getent",
    "grep",
    "head",
    "id",
    "install",
    "ln",
    "ls",
    "mkdir",
    "mktemp",
    "mountpoint",
    "mv",
    "readlink",
    "rm",
    "rmdir",
    "sed",
    "sh",
    "sha256sum",
    "sort",
    "tar",
    "test",
    "touch",
    "tr",
    "xargs",
];

/// Where a build's hooks lie inside the target.
const HOOKS: &str = "tmp/in_target.d";

/// A root, the merged hooks of one element, and a log of the calls of stubs.
pub struct Scratch {
    directory: TempDir,
    environment: Vec<(String, String)>,
}

/// The tools with the libraries they need, as absolute host paths.
fn closure_of_tools() -> &'static BTreeSet<PathBuf> {
    static FILES: OnceLock<BTreeSet<PathBuf>> = OnceLock::new();
    FILES.get_or_init(|| {
        let mut files = BTreeSet::new();
        for tool in TOOLS {
            let path = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"]
                .iter()
                .map(|directory| Path::new(directory).join(tool))
                .find(|path| path.exists())
                .unwrap_or_else(|| panic!("the host has no {tool}"));
            let output = Command::new("ldd").arg(&path).output().unwrap();
            let listing = String::from_utf8(output.stdout).unwrap();
            files.extend(
                listing
                    .split_whitespace()
                    .filter(|word| word.starts_with('/'))
                    .map(PathBuf::from),
            );
            files.insert(path);
        }
        files
    })
}

/// The words that make a command uid 0 and let it call `chroot`; `None` where that is impossible.
fn privilege() -> Option<&'static [&'static str]> {
    static WORDS: OnceLock<Option<&'static [&'static str]>> = OnceLock::new();
    *WORDS.get_or_init(|| {
        for words in [&["env"][..], &["unshare", "-r"][..]] {
            let tried = Command::new(words[0])
                .args(&words[1..])
                .args(["chroot", "/", "/bin/true"])
                .env("PATH", host_path())
                .stderr(Stdio::null())
                .status();
            if tried.is_ok_and(|status| status.success()) {
                return Some(words);
            }
        }
        None
    })
}

fn host_path() -> &'static str {
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
}

impl Scratch {
    /// A root with the hooks of these elements; `None`, with a note, where the host
    /// lets nobody but root call chroot.
    pub fn new(elements: &[&str]) -> Option<Self> {
        if privilege().is_none() {
            println!("SKIP: neither root nor user namespaces are to be had for chroot");
            return None;
        }
        let directory = tempfile::Builder::new()
            .prefix("kiln elements ")
            .tempdir()
            .unwrap();
        let scratch = Self {
            directory,
            environment: Vec::new(),
        };
        let root = scratch.root();
        for name in [
            "usr/bin",
            "usr/sbin",
            "usr/lib",
            "usr/lib64",
            "etc",
            "tmp",
            "stubs",
            "root",
            "dev",
        ] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        for name in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{name}"), root.join(name)).unwrap();
        }
        // By another process: a file that this one has open for writing can be
        // inherited for a moment by a child of another thread, and then not be run.
        let status = Command::new("cp")
            .args(["-L", "--parents", "--"])
            .args(closure_of_tools())
            .arg(&root)
            .status()
            .unwrap();
        assert!(status.success());
        scratch.write("dev/null", "");
        fs::set_permissions(root.join("dev/null"), fs::Permissions::from_mode(0o666)).unwrap();
        scratch.write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
        scratch.write("etc/group", "root:x:0:\n");
        scratch.write("log", "");
        fs::create_dir_all(scratch.hooks().join(".kiln/record")).unwrap();
        for name in elements {
            scratch.merge(&element(name).path);
        }
        Some(
            scratch
                .with("DIB_INIT_SYSTEM", "systemd")
                .with("DISTRO_NAME", "debian")
                .with("ARCH", "amd64"),
        )
    }

    /// Sets a variable for all hooks that are run later.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.set(name, value);
        self
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    pub fn root(&self) -> PathBuf {
        self.directory.path().join("mnt")
    }

    /// The merged hooks, as outside hooks see them (and, to be short, inside ones too).
    pub fn hooks(&self) -> PathBuf {
        self.root().join(HOOKS)
    }

    pub fn record(&self) -> PathBuf {
        self.hooks().join(".kiln/record")
    }

    /// A directory beside the root: the current one of outside hooks.
    pub fn outside(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    fn merge(&self, element: &Path) {
        let status = Command::new("cp")
            .arg("-aT")
            .arg(element)
            .arg(self.hooks())
            .status()
            .unwrap();
        assert!(status.success());
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn read(&self, path: &str) -> String {
        let full = self.root().join(path);
        fs::read_to_string(&full).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub fn exists(&self, path: &str) -> bool {
        self.root().join(path).symlink_metadata().is_ok()
    }

    pub fn mode(&self, path: &str) -> u32 {
        self.root()
            .join(path)
            .metadata()
            .unwrap()
            .permissions()
            .mode()
            & 0o7777
    }

    /// Puts a shell script first on the path of inside and outside hooks.
    pub fn script(&self, name: &str, body: &str) {
        self.install(&self.root().join("stubs").join(name), body);
    }

    /// Puts helpers first on the path of outside hooks, as a build does.
    pub fn helpers(&self, names: &[&str]) {
        for name in names {
            let link = self.root().join("stubs").join(name);
            symlink(env!("CARGO_BIN_EXE_kiln"), link).unwrap();
        }
    }

    /// Puts a shell script among the root's own programs.
    pub fn program(&self, name: &str, body: &str) {
        self.install(&self.root().join("usr/bin").join(name), body);
    }

    /// A bootstrap that only tells how it was called and says `told`, and what hooks
    /// around it ask for.
    pub fn stub_bootstrap(&self, told: &str) {
        self.stub(&["install-packages", "apt-get"]);
        self.program(
            "dpkg",
            "[ \"$1\" = --print-foreign-architectures ] || echo amd64",
        );
        let call = "printf '<%s>' \"$@\" >>\"$STUB_LOG\"; echo >>\"$STUB_LOG\"";
        self.script("kiln-bootstrap", &format!("{call}\n{told}"));
    }

    /// Puts a script with this text among the hooks.
    pub fn hook(&self, name: &str, text: &str) {
        let path = self.hooks().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        self.install_text(&path, text);
    }

    fn install(&self, path: &Path, body: &str) {
        self.install_text(path, &format!("#!/bin/sh\n{body}\n"));
    }

    /// By another process, as what is copied above.
    fn install_text(&self, path: &Path, text: &str) {
        let mut child = Command::new("install")
            .args(["-m", "755", "/dev/stdin"])
            .arg(path)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(text.as_bytes()).unwrap();
        drop(input);
        assert!(child.wait().unwrap().success());
    }

    /// Replaces programs by ones that only note how they were called.
    pub fn stub(&self, names: &[&str]) {
        for name in names {
            self.script(name, &format!("echo \"{name}\" \"$@\" >>\"$STUB_LOG\""));
        }
    }

    /// The calls noted since the last time.
    pub fn calls(&self) -> Vec<String> {
        let calls = self.read("log").lines().map(str::to_owned).collect();
        self.write("log", "");
        calls
    }

    /// Runs an inside hook, such as `install.d/10-x`, after the environment files.
    pub fn inside(&self, hook: &str) -> Output {
        let mut command = self.command();
        command
            .arg("chroot")
            .arg(self.root())
            .args([
                "/usr/bin/env",
                "PATH=/stubs:/usr/sbin:/usr/bin",
                "STUB_LOG=/log",
                "HOME=/root",
            ])
            .arg(format!("KILN_RECORD=/{HOOKS}/.kiln/record"))
            .args(["/bin/bash", "-c", SOURCE_AND_RUN, "bash"])
            .arg(format!("/{HOOKS}"))
            .arg(hook);
        command.output().unwrap()
    }

    /// Runs an outside hook after the environment files.
    pub fn outside_hook(&self, hook: &str) -> Output {
        let path = format!("{}/stubs:{}", self.root().display(), host_path());
        let mut command = self.command();
        command
            .arg("env")
            .arg(format!("PATH={path}"))
            .arg(format!("STUB_LOG={}/log", self.root().display()))
            .arg(format!("KILN_RECORD={}", self.record().display()))
            .arg(format!("TARGET_ROOT={}", self.root().display()))
            .arg(format!("TMP_MOUNT_PATH={}", self.root().display()))
            .arg(format!("TMP_HOOKS_PATH={}", self.hooks().display()))
            .arg(format!(
                "TMP_BUILD_DIR={}/build.1",
                self.directory.path().display()
            ))
            .args(["/bin/bash", "-c", SOURCE_AND_RUN, "bash"])
            .arg(self.hooks())
            .arg(hook);
        command.output().unwrap()
    }

    fn command(&self) -> Command {
        let words = privilege().expect("checked when the root was made");
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .current_dir(self.directory.path())
            .env_clear()
            .env("PATH", host_path())
            .env("LC_ALL", "C")
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs an inside hook that must succeed.
    pub fn run(&self, hook: &str) {
        succeeded(hook, &self.inside(hook));
    }

    /// What a hook left for beside the image under a name.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join("build.1/beside").join(name)
    }

    /// Runs an outside hook that must succeed.
    pub fn run_outside(&self, hook: &str) {
        succeeded(hook, &self.outside_hook(hook));
    }

    /// Files and links below a directory of the root, relative to it.
    pub fn list(&self, directory: &str) -> Vec<String> {
        let start = self.root().join(directory);
        let mut found = Vec::new();
        let mut pending = vec![start.clone()];
        while let Some(directory) = pending.pop() {
            for path in entries(&directory) {
                if path.is_dir() && !path.is_symlink() {
                    pending.push(path);
                } else {
                    found.push(path.strip_prefix(&start).unwrap().display().to_string());
                }
            }
        }
        found.sort();
        found
    }
}

/// What dib-run-parts does for one hook: environment files in byte order, then the hook.
const SOURCE_AND_RUN: &str = r#"
    set -eu -o pipefail
    if [ -d "$1/environment.d" ]; then
        for file in "$1"/environment.d/*; do . "$file"; done
    fi
    exec "$1/$2"
"#;

fn succeeded(hook: &str, output: &Output) {
    assert!(
        output.status.success(),
        "{hook}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        error_text(output)
    );
}

/// What a hook wrote to standard error.
pub fn error_text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
