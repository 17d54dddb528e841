//! The helpers as hooks meet them: the real binary under their names.

#[path = "helpers/extract.rs"]
mod extract;
#[path = "helpers/grub.rs"]
mod grub;
#[path = "helpers/packages.rs"]
mod packages;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A directory of links to kiln that is first in `PATH`, as the engine makes it.
struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let bin = bench.path(".kiln/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::create_dir(bench.path("record")).unwrap();
        for helper in kiln::helpers::HELPERS {
            symlink(env!("CARGO_BIN_EXE_kiln"), bin.join(helper.name)).unwrap();
        }
        bench
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn file(&self, path: &str, text: &str) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// A program, written by another one: what other tests start at this moment would have it
    /// open for writing, and nobody could run it (`ETXTBSY`).
    fn script(&self, path: &str, text: &str) -> PathBuf {
        let source = self.file(&format!("{path}.text"), text);
        let path = self.path(path);
        let mut install = Command::new("install");
        let copied = install.args(["-m", "755"]).arg(&source).arg(&path).status();
        assert!(copied.unwrap().success());
        fs::remove_file(source).unwrap();
        path
    }

    /// A helper with nothing in its environment but `PATH`, in which `stub/`
    /// comes after kiln's own links and before the host's programs.
    fn helper(&self, name: &str) -> Command {
        let mut command = Command::new(self.path(".kiln/bin").join(name));
        let path = format!(
            "{}:{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            self.path(".kiln/bin").display(),
            self.path("stub").display()
        );
        command
            .env_clear()
            .env("PATH", path)
            .env("KILN_RECORD", self.path("record"))
            .current_dir(self.dir.path());
        command
    }
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn words(line: &str) -> Vec<&OsStr> {
    line.split(' ').map(OsStr::new).collect()
}

#[test]
fn svc_maps_are_merged_for_the_distribution() {
    let bench = Bench::new();
    bench.file("lib/one/svc-map", "ssh:\n  debian: ssh\n  default: sshd\n");
    bench.file("lib/two/svc-map", "cron:\n  redhat: crond\n");
    let output = run(bench
        .helper("svc-map-merge")
        .env("IMAGE_ELEMENT", "one two")
        .env("ELEMENTS_PATH", bench.path("lib"))
        .args(["--distro", "ubuntu", "services"]));
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(
        fs::read_to_string(bench.path("services")).unwrap(),
        "\"cron\": \"cron\"\n\"ssh\": \"ssh\"\n"
    );
    assert_eq!(
        stdout(&run(bench.helper("svc-map").args(["no-such-service", "x"]))),
        "no-such-service\nx\n"
    );
}

#[test]
fn run_parts_sources_the_environment_and_runs_hooks_in_order() {
    if Command::new("bash").arg("--version").output().is_err() {
        println!("SKIP: no bash on this machine");
        return;
    }
    let bench = Bench::new();
    bench.file("hooks/environment.d/10-a", "export A=1\nB=unexported\n");
    bench.file("hooks/environment.d/9-b.bash", "C=$A$B\nexport C\n");
    bench.script(
        "hooks/install.d/9-first",
        "#!/bin/sh\necho first $A $C ${B:-none} $#\n",
    );
    bench.script(
        "hooks/install.d/10-second",
        "echo second \"${BASH_VERSION:+bash}\"\n",
    );
    bench.script("hooks/install.d/skipped.sh", "#!/bin/sh\nexit 9\n");
    let output = run(bench.helper("dib-run-parts").arg("hooks/install.d"));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), "first 1 1unexported none 0\nsecond bash\n");
    let log = stderr(&output);
    let order = [
        "dib-run-parts Sourcing environment file hooks/install.d/../environment.d/10-a\n",
        "dib-run-parts Sourcing environment file hooks/install.d/../environment.d/9-b.bash\n",
        "dib-run-parts Running hooks/install.d/9-first\n",
        "dib-run-parts 9-first completed\n",
        "dib-run-parts Running hooks/install.d/10-second\n",
        "dib-run-parts Target: install.d\n",
        "dib-run-parts 10-second ",
        "dib-run-parts 9-first  ",
        "dib-run-parts --------------------- END PROFILING ---------------------\n",
    ];
    let mut rest = log.as_str();
    for line in order {
        let at = rest
            .find(line)
            .unwrap_or_else(|| panic!("{line:?} is not in its place in:\n{log}"));
        rest = &rest[at + line.len()..];
    }
    assert_eq!(
        stdout(&run(bench
            .helper("dib-run-parts")
            .args(["--list", "hooks/install.d"]))),
        "hooks/install.d/9-first\nhooks/install.d/10-second\n"
    );
}

#[test]
fn run_parts_fails_as_its_hook_or_environment_does() {
    let bench = Bench::new();
    bench.script("hooks/install.d/1-fails", "#!/bin/sh\nexit 7\n");
    bench.script("hooks/install.d/2-never", "#!/bin/sh\necho never\n");
    let output = run(bench.helper("dib-run-parts").arg("hooks/install.d"));
    assert_eq!(
        (output.status.code(), stdout(&output).as_str()),
        (Some(7), "")
    );
    assert!(!stderr(&output).contains("PROFILING"));
    bench.file("hooks/environment.d/1", "exit 3\n");
    let output = run(bench.helper("dib-run-parts").arg("hooks/install.d"));
    assert_eq!(output.status.code(), Some(3));
    assert!(!stderr(&output).contains("Running"));
    fs::write(
        bench.path("hooks/environment.d/1"),
        "echo $UNSET_VARIABLE\n",
    )
    .unwrap();
    assert!(
        !run(bench.helper("dib-run-parts").arg("hooks/install.d"))
            .status
            .success()
    );
    let output = run(bench.helper("dib-run-parts").arg("--help"));
    assert!(output.status.success() && stdout(&output).contains("Usage: dib-run-parts"));
    let output = run(bench.helper("dib-run-parts").args(["--lists", "hooks"]));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("unknown option `--lists`"),
        "{}",
        stderr(&output)
    );
    let output = run(bench.helper("dib-run-parts").arg("nowhere"));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output)
            .contains("`nowhere` is not a directory\nhint: dib-run-parts [--list] DIRECTORY")
    );
}

#[test]
fn sudo_runs_its_command_with_the_same_environment() {
    let bench = Bench::new();
    let sudo = |line: &str| run(bench.helper("sudo").env("KEPT", "yes").args(words(line)));
    assert_eq!(
        stdout(&sudo("-E -n -u root A=1 printenv KEPT A")),
        "yes\n1\n"
    );
    assert_eq!(stdout(&sudo("-H -- printenv HOME")), "/root\n");
    assert_eq!(
        run(bench.helper("sudo").args(["sh", "-c", "exit 5"]))
            .status
            .code(),
        Some(5)
    );
    assert_eq!(sudo("false").status.code(), Some(1));
    let output = sudo("no-such-command-here");
    assert_eq!(output.status.code(), Some(127));
    assert!(
        stderr(&output).starts_with("sudo: error: cannot run `no-such-command-here`: "),
        "{}",
        stderr(&output)
    );
    let output = sudo("-u no-such-user true");
    assert!(
        stderr(&output).contains("unknown user `no-such-user`"),
        "{}",
        stderr(&output)
    );
    let output = run(bench
        .helper("sudo")
        .env("SHELL", "/bin/sh")
        .args(["-s", "printf", "%s|", "a b", "c;d"]));
    assert_eq!(stdout(&output), "a b|c;d|");
}

#[test]
fn install_types_link_the_chosen_hooks() {
    let bench = Bench::new();
    bench.script("hooks/install.d/a-b-package-install/10-package", "");
    bench.script("hooks/install.d/a-b-source-install/10-source", "");
    bench.script("hooks/install.d/c-source-install/20-c", "");
    let output = run(bench
        .helper("install-types-enable")
        .env("TMP_HOOKS_PATH", bench.path("hooks"))
        .env("DIB_INSTALLTYPE_a_b", "package"));
    assert!(output.status.success(), "{}", stderr(&output));
    let list = run(bench
        .helper("dib-run-parts")
        .args(["--list", "hooks/install.d"]));
    assert_eq!(
        stdout(&list),
        "hooks/install.d/10-package\nhooks/install.d/20-c\n"
    );
    let output = run(&mut bench.helper("install-types-enable"));
    assert!(stderr(&output).contains("TMP_HOOKS_PATH is not set"));
}

#[test]
fn an_initramfs_is_deferred_within_dpkg_only() {
    let bench = Bench::new();
    let deferred = |line: &str, variable: &str| {
        run(bench
            .helper("update-initramfs")
            .env(variable, "postinst")
            .args(words(line)))
    };
    // dpkg's triggers leave only the script's name.
    for variable in ["DPKG_MAINTSCRIPT_PACKAGE", "DPKG_MAINTSCRIPT_NAME"] {
        for line in ["-c -k 6.1 -b /boot", "-u"] {
            let output = deferred(line, variable);
            assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        }
    }
    let text = fs::read_to_string(bench.path("record/initramfs-pending")).unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
    // The version has no modules here, so nothing is to be done.
    let output = run(bench.helper("kiln-deferred").arg("run"));
    if Path::new("/lib/modules").exists() && !output.status.success() {
        println!("SKIP: this machine has kernels of its own");
        return;
    }
    assert_eq!(
        fs::read_to_string(bench.path("record/initramfs-pending")).unwrap(),
        ""
    );
    let output = run(bench.helper("kiln-deferred").arg("frob"));
    assert!(
        stderr(&output)
            .contains("unknown command `frob`\nhint: kiln-deferred run | kiln-deferred pending")
    );
    let output = run(bench
        .helper("kiln-deferred")
        .env_remove("KILN_RECORD")
        .arg("run"));
    assert!(stderr(&output).contains("KILN_RECORD is not set"));
}

#[test]
fn dib_python_and_dib_init_system_answer_from_the_environment() {
    let bench = Bench::new();
    bench.script("stub/python3", "#!/bin/sh\necho python3 \"$@\"\n");
    let output = run(bench
        .helper("dib-python")
        .env("DIB_PYTHON_VERSION", "3")
        .args(["-c", "x"]));
    assert_eq!(stdout(&output), "python3 -c x\n");
    let output = run(bench
        .helper("dib-python")
        .env("PATH", bench.path(".kiln/bin"))
        .env("DIB_PYTHON_VERSION", "2"));
    assert_eq!(output.status.code(), Some(127));
    assert!(
        stderr(&output).contains("no Python in this root (looked for python2, python3, python)"),
        "{}",
        stderr(&output)
    );
    assert_eq!(
        stdout(&run(bench
            .helper("dib-init-system")
            .env("DIB_INIT_SYSTEM", "systemd"))),
        "systemd\n"
    );
    assert!(
        stderr(&run(&mut bench.helper("dib-init-system"))).contains("DIB_INIT_SYSTEM is not set")
    );
}

#[test]
fn a_closed_pipe_is_no_error() {
    let bench = Bench::new();
    let map = bench.file("map", r#"{"default": {"a": "b"}}"#);
    let line = format!(
        "pkg-map --distro x --pkg-map {} a; echo $? >status",
        map.display()
    );
    let helper = bench.helper("pkg-map");
    let path = helper
        .get_envs()
        .find(|(name, _)| *name == "PATH")
        .and_then(|(_, value)| value)
        .unwrap()
        .to_owned();
    let status = Command::new("sh")
        .env("PATH", path)
        .current_dir(bench.dir.path())
        .args(["-c", &format!("{{ sleep 0.2; {line}; }} | true")])
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(fs::read_to_string(bench.path("status")).unwrap(), "0\n");
}
