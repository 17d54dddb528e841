//! The faces of kiln as a user meets them: help, options, errors and their hints.

mod common;

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;

use common::{Run as _, World};

/// An element library with one operating system.
fn library(world: &mut World) {
    world.write("lib/base/element-deps", "");
    world.write("lib/tiny/element-provides", "operating-system\n");
    world.write("lib/tiny/element-deps", "extra\n");
    world.write(
        "lib/extra/element.yaml",
        "summary: Adds more\ncategory: tests\nvariables:\n  - name: DIB_EXTRA\n    default: \"1\"\n    description: How much.\n",
    );
    let hook = world.write("lib/tiny/install.d/50-hook", "#!/bin/sh\ntrue\n");
    let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    fs::set_permissions(hook, mode).expect("the mode can be set");
    world.set("ELEMENTS_PATH", "lib");
}

#[test]
fn every_command_explains_itself() {
    let world = World::new();
    for line in [
        "--help",
        "build --help",
        "build -h",
        "plan --help",
        "convert --help",
        "elements --help",
        "elements list --help",
        "elements show --help",
        "elements search --help",
        "elements graph --help",
        "cache --help",
        "cache clear --help",
        "doctor --help",
        "install-links --help",
        "man --help",
        "completions --help",
        "disk-image-create --help",
        "ramdisk-image-create -h",
        "element-info --help",
        "diskimage-builder --help",
        "disk-image-get-kernel --help",
        "dib-block-device --help",
        "dib-lint --help",
    ] {
        let outcome = world.kiln().words(line);
        assert_eq!(outcome.code(), 0, "{line}: {}", outcome.stderr);
        assert!(
            outcome.stdout.contains("Usage: "),
            "{line}: {}",
            outcome.stdout
        );
        assert_eq!(outcome.stderr, "", "{line}");
    }
}

#[test]
fn the_version_is_bare_where_dib_has_it_bare() {
    let world = World::new();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        world.kiln().words("--version").success(),
        format!("kiln {version}\n")
    );
    assert_eq!(
        world.face("disk-image-create").words("--version").success(),
        format!("{version}\n")
    );
}

#[test]
fn mistakes_are_named_with_what_to_do() {
    let mut world = World::new();
    library(&mut world);
    for (face, line, code, stderr) in [
        (
            "disk-image-create",
            "--offlien vm",
            1,
            "error: unknown option `--offlien`\nhint: did you mean `--offline`?\n",
        ),
        (
            "disk-image-create",
            "--m 3 vm",
            1,
            "error: option `--m` is ambiguous\n\
             hint: it could be `--mkfs-options`, `--max-online-resize`, `--min-tmpfs`\n",
        ),
        (
            "disk-image-create",
            "tiny -a",
            1,
            "error: option `-a` needs a value\nhint: write `-a ARCH`\n",
        ),
        (
            "disk-image-create",
            "-z",
            1,
            "error: unknown option `-z`\nhint: `disk-image-create --help` lists the options\n",
        ),
        (
            "disk-image-create",
            "-o x",
            1,
            "error: at least one distribution root element must be specified\n\
             hint: for a bootable Debian: `vm debian-minimal`; `kiln elements list` shows all\n",
        ),
        (
            "disk-image-create",
            "-t qcwo2 tiny",
            1,
            "error: unknown image type `qcwo2`\nhint: did you mean `qcow2`?\n\
             hint: supported are raw, qcow2, vmdk, vhd, vhdx, vdi, tar, tgz, squashfs, docker, oci, aci\n",
        ),
        (
            "disk-image-create",
            "--image-size 5G tiny",
            1,
            "error: `--image-size` is `5G`, which is not a size in GiB\n\
             hint: give a number without a unit, such as `5` or `2.5`\n",
        ),
        (
            "ramdisk-image-create",
            "-o x",
            1,
            "error: at least one distribution root element must be specified\n\
             hint: for a bootable Debian: `vm debian-minimal`; `kiln elements list` shows all\n",
        ),
        (
            "diskimage-builder",
            "images.yaml",
            1,
            "error: cannot read `images.yaml`: No such file or directory (os error 2)\n\
             hint: name YAML files that list images\n",
        ),
        (
            "element-info",
            "",
            2,
            "error: no elements are given\nhint: usage: element-info [--env] ELEMENT...\n",
        ),
        (
            "element-info",
            "tniy",
            1,
            "error: element `tniy` not found\nhint: did you mean `tiny`?\n",
        ),
        (
            "kiln",
            "build --image-size -5 tiny",
            2,
            "error: unexpected argument `-5` found\n\
             hint: a value that begins with `-` follows the `=` of its option: `=-5`\n\
             hint: usage: kiln build [OPTIONS] <ELEMENT>...\n",
        ),
        (
            "kiln",
            "build --offlien tiny",
            2,
            "error: unexpected argument `--offlien` found\n\
             hint: a similar argument exists: `--offline`\n\
             hint: usage: kiln build --offline <ELEMENT>...\n",
        ),
        (
            "kiln",
            "elements show extar",
            1,
            "error: element `extar` not found\nhint: did you mean `extra`?\n",
        ),
        (
            "kiln",
            "elements search nothing-like-it",
            1,
            "error: no element has `nothing-like-it`\n\
             hint: `kiln elements list` shows all elements\n",
        ),
        (
            "kiln",
            "plan tiny --mode rooot",
            1,
            "error: unknown mode `rooot`\nhint: known are auto, root, subordinate, single, chroot\n",
        ),
        (
            "kiln",
            "man nonsense",
            1,
            "error: kiln has no command `nonsense`\nhint: `kiln --help` lists the commands\n",
        ),
    ] {
        let outcome = world.face(face).words(line);
        assert_eq!(outcome.stderr, stderr, "{face} {line}");
        assert_eq!(outcome.code(), code, "{face} {line}");
        assert_eq!(outcome.stdout, "", "{face} {line}");
    }
}

#[test]
fn an_empty_entry_of_the_search_path_is_refused() {
    let mut world = World::new();
    world.set("ELEMENTS_PATH", "lib:");
    let outcome = world.kiln().words("plan tiny");
    assert_eq!(
        outcome.stderr,
        "error: `ELEMENTS_PATH` has an empty entry: `lib:`\n\
         hint: remove the superfluous `:`; the current directory is written `.`\n"
    );
    assert_eq!(outcome.code(), 1);
}

#[test]
fn faces_are_also_commands_of_kiln() {
    let mut world = World::new();
    library(&mut world);
    let by_link = world.face("element-info").words("tiny").success();
    let by_name = world.kiln().words("element-info tiny").success();
    assert_eq!(by_link, "tiny extra\n");
    assert_eq!(by_link, by_name);
}

#[test]
fn element_info_prints_what_bash_can_evaluate() {
    let mut world = World::new();
    library(&mut world);
    let script = world.face("element-info").words("--env tiny").success();
    let program = format!(
        "{script}\ndeclare -A a=\"($(get_image_element_array))\"\n\
         echo \"$IMAGE_ELEMENT\" \"${{a[extra]}}\"; env | grep -c '^IMAGE_ELEMENT'"
    );
    let printed = world.command("bash").args(["-c", &program]).run().success();
    let extra = fs::canonicalize(world.work().join("lib/extra")).expect("it is there");
    assert_eq!(printed, format!("tiny extra {}\n2\n", extra.display()));
}

#[test]
fn a_hook_that_is_not_executable_is_told() {
    let mut world = World::new();
    library(&mut world);
    world.write("lib/tiny/install.d/60-idle", "#!/bin/sh\n");
    let text = world.kiln().words("plan tiny").success();
    let warning =
        "`install.d/60-idle` of element `tiny` does not run, because it is not executable";
    assert!(text.contains(warning), "{text}");
}

#[test]
fn a_plan_shows_elements_hooks_and_outputs() {
    let mut world = World::new();
    library(&mut world);
    let text = world
        .kiln()
        .words("plan tiny -t raw,tar -o out/x -a amd64")
        .success();
    for part in [
        "Elements, for amd64\n",
        "needed by tiny",
        "install.d (runs in the target)\n  50-hook  (tiny)\n",
        "/out/x.raw\n",
    ] {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }
    let json = world.kiln().words("plan --json tiny").success();
    let plan: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
    assert_eq!(plan["elements"][1]["name"], "tiny");
    let path = plan["outputs"][0]["path"].as_str().expect("a path");
    assert!(path.ends_with("/work/image.qcow2"), "{path}");
    assert_eq!(plan["filesystems"][0]["mount_point"], "/");
}

#[test]
fn elements_can_be_listed_shown_and_searched() {
    let mut world = World::new();
    library(&mut world);
    let list = world.kiln().words("elements list").success();
    assert!(list.contains("tests\n  extra  Adds more\n"), "{list}");
    let shown = world.kiln().words("elements show extra").success();
    assert!(shown.contains("DIB_EXTRA"), "{shown}");
    let found = world
        .kiln()
        .words("elements search dib_extra MORE")
        .success();
    assert_eq!(found, "tests\n  extra  Adds more\n");
    let json = world.kiln().words("elements show --json tiny").success();
    let tiny: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
    assert_eq!(tiny["provides"][0], "operating-system");
    let graph = world.kiln().words("elements graph tiny").success();
    assert!(graph.contains("    \"tiny\" -> \"extra\";\n"), "{graph}");
}

#[test]
fn what_an_element_is_called_and_says_does_not_command_a_terminal() {
    let mut world = World::new();
    library(&mut world);
    let odd = "o\x1b]0;X\x07d";
    world.write(
        &format!("lib/{odd}/element.yaml"),
        "summary: \"a \\e[31m red\"\ncategory: \"c\\e[2J\"\ndescription: \"one\\n\\e[1mtwo\\n\"\n",
    );
    world.write("lib/tiny/element-deps", &format!("extra\n{odd}\n"));
    for words in [
        "plan tiny",
        "elements list",
        "elements graph",
        &format!("elements show '{odd}'"),
        &format!("elements readme '{odd}'"),
    ] {
        let text = world.kiln().words(words).success();
        let sent = text.chars().find(|char| char.is_control() && *char != '\n');
        assert!(sent.is_none(), "{words}: {text:?}");
        assert!(text.contains("\\u{1b}"), "{words}: {text:?}");
    }
    let cache = world.home().join(".cache/image-create");
    fs::create_dir_all(cache.join(odd)).expect("made");
    for words in ["cache", "cache clear"] {
        let text = world.kiln().words(words).success();
        assert!(!text.contains('\x1b'), "{words}: {text:?}");
        assert!(text.contains("\\u{1b}"), "{words}: {text:?}");
    }
}

#[test]
fn an_entry_of_the_cache_that_is_no_text_is_cleared_with_the_rest() {
    use std::os::unix::ffi::OsStrExt as _;
    let world = World::new();
    let cache = world.home().join(".cache/image-create");
    fs::create_dir_all(&cache).expect("made");
    fs::write(cache.join(std::ffi::OsStr::from_bytes(b"a-\xe4")), "x").expect("written");
    let shown = world.kiln().words("cache").success();
    assert!(shown.contains("1 file\n"), "{shown}");
    world.kiln().words("cache clear").success();
    assert_eq!(fs::read_dir(&cache).expect("listed").count(), 0);
}

#[test]
fn links_are_installed_and_replaced_but_foreign_files_are_kept() {
    let world = World::new();
    let bin = world.work().join("bin");
    let outcome = world.kiln().words("install-links bin");
    assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
    assert!(outcome.stderr.starts_with("hint: "), "{}", outcome.stderr);
    let links = [
        "disk-image-create",
        "ramdisk-image-create",
        "element-info",
        "diskimage-builder",
        "disk-image-get-kernel",
        "dib-block-device",
        "dib-lint",
        "dib-run-parts",
    ];
    for link in links {
        let target = fs::canonicalize(bin.join(link)).expect("the link leads somewhere");
        assert_eq!(
            target,
            fs::canonicalize(common::kiln()).expect("it is there")
        );
    }
    world
        .command(bin.join("disk-image-create"))
        .words("--version")
        .success();

    // Again, with one link of an older kiln that has gone.
    fs::remove_file(bin.join(links[0])).expect("removed");
    symlink("/gone/kiln", bin.join(links[0])).expect("linked");
    let mut again = world.kiln();
    again.env("PATH", &bin);
    let outcome = again.words("install-links bin");
    assert_eq!((outcome.code(), outcome.stderr.as_str()), (0, ""));

    fs::remove_file(bin.join(links[3])).expect("removed");
    fs::write(bin.join(links[3]), "mine").expect("written");
    let outcome = world.kiln().words("install-links bin");
    assert_eq!(outcome.code(), 1);
    assert_eq!(
        outcome.stderr,
        format!(
            "error: `{}` exists and is not kiln's\n\
             hint: choose another directory, or replace it with `--force`\n",
            bin.join(links[3]).display()
        )
    );
    assert_eq!(
        fs::read_to_string(bin.join(links[3])).expect("read"),
        "mine"
    );
    world.kiln().words("install-links --force bin").success();
    assert!(bin.join(links[3]).is_symlink());
}

#[test]
fn manual_pages_exist_for_every_command() {
    let world = World::new();
    world.kiln().words("man --dir pages").success();
    let build = fs::read_to_string(world.work().join("pages/kiln-build.1")).expect("written");
    assert!(build.contains(".TH kiln-build 1"), "{build}");
    let main = world.kiln().words("man").success();
    for part in [".TH kiln 1", ".SH ENVIRONMENT", "\\fBELEMENTS_PATH\\fR"] {
        assert!(main.contains(part), "{part}");
    }
    assert_eq!(world.kiln().words("man build").success(), build);
    let Some(man) = common::tool("man") else {
        skip!("`man` is not installed");
    };
    let page = world.work().join("pages/kiln.1");
    let warnings = world
        .command(man)
        .args(["--warnings", "--local-file"])
        .arg(page)
        .env("MANWIDTH", "80")
        .run();
    assert_eq!(warnings.stderr, "");
}

#[test]
fn completions_exist_for_common_shells() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = world.kiln().args(["completions", shell]).run().success();
        assert!(script.contains("install-links"), "{shell}");
    }
    let script = world.kiln().words("completions bash").success();
    world
        .command("bash")
        .args(["-n", "-c", &script])
        .run()
        .success();
}

#[test]
fn the_reference_is_what_the_program_generates() {
    let world = World::new();
    let text = world.kiln().words("man --markdown").success();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md");
    if std::env::var_os("KILN_UPDATE").is_some() {
        fs::write(&path, &text).expect("the reference can be written");
    }
    let committed = fs::read_to_string(&path).expect("the reference is there");
    assert!(
        committed == text,
        "docs/cli.md is out of date; write it anew with `KILN_UPDATE=1 cargo test --test cli`"
    );
}

#[test]
fn the_page_of_the_environment_is_what_the_program_generates() {
    let world = World::new();
    let text = world.kiln().words("man --environment").success();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/environment.md");
    if std::env::var_os("KILN_UPDATE").is_some() {
        fs::write(&path, &text).expect("the page can be written");
    }
    let committed = fs::read_to_string(&path).expect("the page is there");
    assert!(
        committed == text,
        "docs/environment.md is out of date; write it anew with `KILN_UPDATE=1 cargo test --test cli`"
    );
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let world = World::new();
    for line in [
        "--help",
        "man --markdown",
        "elements list",
        "completions bash",
    ] {
        let words = shlex::split(line).expect("test lines are well quoted");
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut child = world
            .kiln()
            .args(words)
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .expect("kiln starts");
        let mut stderr = String::new();
        let mut stream = child.stderr.take().expect("it is piped");
        stream.read_to_string(&mut stderr).expect("text");
        let status = child.wait().expect("kiln ends");
        assert!(status.success(), "{line}: {status} {stderr}");
        assert_eq!(stderr, "", "{line}");
    }
}

#[test]
fn output_that_a_full_disk_loses_is_a_failure() {
    let world = World::new();
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .expect("every Linux has it");
    let output = world
        .kiln()
        .args(["completions", "bash"])
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .expect("kiln runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("cannot write to standard output: No space left on device"),
        "{stderr}"
    );
    assert!(stderr.contains("hint: "), "{stderr}");
}

#[test]
fn the_cache_is_shown_and_cleared_but_a_home_is_not() {
    let world = World::new();
    let cache = world.home().join(".cache/image-create");
    assert_eq!(
        world.kiln().words("cache").success(),
        format!("{} is empty\n", cache.display())
    );
    fs::create_dir_all(cache.join("apt/lists")).expect("made");
    fs::write(cache.join("apt/lists/x"), vec![7; 5000]).expect("written");
    fs::write(cache.join("image.tgz"), vec![7; 5000]).expect("written");
    let shown = world.kiln().words("cache show").success();
    assert!(
        shown.contains("apt  ") && shown.contains("total  "),
        "{shown}"
    );

    let outcome = world.kiln().words("cache clear atp");
    assert_eq!(outcome.code(), 1);
    assert!(
        outcome.stderr.contains("hint: did you mean `apt`?\n"),
        "{}",
        outcome.stderr
    );
    world.kiln().words("cache clear apt").success();
    assert!(!cache.join("apt").exists() && cache.join("image.tgz").exists());
    world.kiln().words("cache clear").success();
    assert!(!cache.join("image.tgz").exists());

    let outcome = world
        .kiln()
        .arg("cache")
        .arg("clear")
        .env("DIB_IMAGE_CACHE", world.home())
        .run();
    assert_eq!(outcome.code(), 1);
    assert!(
        outcome.stderr.contains("is not emptied"),
        "{}",
        outcome.stderr
    );
    assert!(world.home().join(".cache").exists());

    let documents = world.home().join("documents");
    fs::create_dir(&documents).expect("made");
    fs::write(documents.join("letter"), "dear").expect("written");
    let clear = |entries: &str| {
        let mut command = world.kiln();
        command.args(["cache", "clear", "--image-cache"]);
        command.arg(&documents).args(entries.split_whitespace());
        command.run()
    };
    let outcome = clear("");
    assert_eq!(outcome.code(), 1);
    assert!(
        outcome.stderr.contains("does not look like an image cache"),
        "{}",
        outcome.stderr
    );
    assert!(documents.join("letter").exists());
    // Nor is it counted, which takes long: `/` is often meant for something else.
    for (name, value) in [("/", ""), ("documents", "--json"), ("/proc", "")] {
        let mut command = world.kiln();
        command.args(["cache", "show", "--image-cache"]);
        let name = world.home().join(name);
        let outcome = command.arg(name).args(value.split_whitespace()).run();
        assert_eq!(outcome.code(), 1, "{}", outcome.stdout);
        assert!(
            outcome
                .stderr
                .contains("is not looked through: it does not look like"),
            "{}",
            outcome.stderr
        );
    }
    let mut by_variable = world.kiln();
    by_variable.env("DIB_IMAGE_CACHE", &documents);
    let outcome = by_variable.args(["cache", "clear"]).run();
    assert_eq!(outcome.code(), 1, "{}", outcome.stderr);
    assert!(documents.join("letter").exists());
    fs::create_dir(documents.join("kiln")).expect("made");
    assert_eq!(clear("letter").code(), 0);
    assert_eq!(clear("").code(), 0);
    assert!(!documents.join("letter").exists());
}

#[test]
fn a_log_file_that_cannot_be_opened_stops_before_the_build() {
    let mut world = World::new();
    library(&mut world);
    let outcome = world
        .face("disk-image-create")
        .words("--logfile no/such/dir/log tiny");
    assert_eq!(outcome.code(), 1);
    assert!(
        outcome
            .stderr
            .starts_with("error: cannot open the log file: "),
        "{}",
        outcome.stderr
    );
    assert_eq!(outcome.stdout, "");
}

#[test]
fn a_pipe_is_a_log_file_if_somebody_reads_it() {
    let mut world = World::new();
    library(&mut world);
    let pipe = world.work().join("log");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("made");
    let build = |world: &World| {
        let mut build = world.kiln();
        build
            .args(["build", "--log-file", "log", "no-such-element"])
            .run()
    };
    let outcome = build(&world);
    assert_eq!(outcome.code(), 1);
    assert_eq!(
        outcome.stderr,
        format!(
            "error: cannot open the log file: failed to open file `{}`: No such device or \
             address (os error 6)\nhint: it is a named pipe that nobody reads: start the reader \
             first, or choose a file\n",
            pipe.display()
        )
    );
    // Opened for both, it has a reader and keeps what is written.
    let mut both = fs::File::options();
    let mut reader = both.read(true).write(true).open(&pipe).expect("opened");
    let outcome = build(&world);
    assert!(
        outcome.stderr.contains("no-such-element"),
        "{}",
        outcome.stderr
    );
    let mut logged = vec![0; 4096];
    let count = reader.read(&mut logged).expect("read");
    let logged = String::from_utf8_lossy(&logged[..count]);
    assert!(logged.contains("no-such-element"), "{logged}");
}

#[test]
fn a_home_that_is_relative_makes_no_cache_where_one_stands() {
    let mut world = World::new();
    library(&mut world);
    for command in ["cache", "plan tiny"] {
        let outcome = world.kiln().env("HOME", "relative").words(command);
        assert_eq!(outcome.code(), 0, "{command}: {}", outcome.stderr);
        assert!(!outcome.stdout.contains("relative"), "{}", outcome.stdout);
    }
}

#[test]
fn an_argument_that_is_not_text_is_refused() {
    use std::os::unix::ffi::OsStrExt as _;
    let world = World::new();
    let outcome = world
        .face("disk-image-create")
        .arg(std::ffi::OsStr::from_bytes(b"\xff"))
        .run();
    assert_eq!(outcome.code(), 2);
    assert!(
        outcome.stderr.contains("is not valid UTF-8"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn the_doctor_says_what_the_environment_and_the_session_lack() {
    let world = World::new();
    let doctor = |limit: &str, variables: &[(&str, &str)]| {
        let mut command = world.command("/bin/bash");
        command.args(["-c", "ulimit $0 && exec \"$@\"", limit]);
        command.arg(common::kiln()).args(["doctor", "--json"]);
        command.envs(variables.iter().copied());
        let outcome = command.run();
        let report: serde_json::Value =
            serde_json::from_str(&outcome.stdout).unwrap_or_else(|_| panic!("{}", outcome.stderr));
        (report, outcome.code())
    };
    let a_file = [("HOME", "/dev/null")];
    let nowhere = [("HOME", "/nonexistent")];
    let no_directory = [("TMPDIR", "/etc/passwd")];
    for (limit, variables, name, said, remedy) in [
        (
            "-c 0",
            &a_file[..],
            "image cache",
            "cannot be written",
            "DIB_IMAGE_CACHE",
        ),
        (
            "-n 30",
            &[],
            "session limits",
            "may have 30 open files",
            "nofile",
        ),
        (
            "-d 20000",
            &[],
            "session limits",
            "may have 19 MiB of memory",
            "`ulimit -d unlimited`",
        ),
        (
            "-t 5",
            &[],
            "session limits",
            "after 5 s of CPU time",
            "`ulimit -t unlimited`",
        ),
        (
            "-c 0",
            &nowhere,
            "image cache",
            "the home directory `/nonexistent` does not exist",
            "DIB_IMAGE_CACHE",
        ),
        (
            "-c 0",
            &no_directory,
            "temporary directory",
            "Not a directory",
            "TMPDIR",
        ),
    ] {
        let (report, status) = doctor(limit, variables);
        let checks = report["checks"].as_array().expect("a list");
        let check = checks.iter().find(|check| check["name"] == name);
        let check = check.expect("it is there");
        assert_eq!(
            (check["status"].as_str(), status),
            (Some("missing"), 1),
            "{check}"
        );
        assert_eq!(report["builds"], false);
        assert!(check["detail"].to_string().contains(said), "{check}");
        assert!(check["remedy"].to_string().contains(remedy), "{check}");
    }
}
