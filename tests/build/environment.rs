//! The variables that hooks see, in every phase.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use kiln::build::environment::parse;
use kiln::build::event::Event;
use kiln::build::variables::{Role, VARIABLES};

use crate::common::toy::{Built, PHASES, Toy};
use crate::common::{Run as _, kiln};
use crate::skip;

/// Writes the environment and the working directory of every phase, and takes
/// them out of the target at the end.
fn record_environments(toy: &Toy) {
    for (phase, inside) in PHASES {
        let directory = if inside {
            "/var/lib/toy".to_owned()
        } else {
            toy.world.work().join("dump").display().to_string()
        };
        toy.hook(
            phase,
            "90-dump",
            &format!(
                "mkdir -p '{directory}'\nenv -0 >'{directory}/{phase}.env'\npwd >'{directory}/{phase}.cwd'\n\
                 umask >'{directory}/{phase}.umask'"
            ),
        );
    }
    toy.hook(
        "cleanup",
        "95-fetch",
        &format!(
            "cp \"$TARGET_ROOT\"/var/lib/toy/* '{}'",
            toy.world.work().join("dump").display()
        ),
    );
}

type Dump = BTreeMap<String, String>;

fn dump(toy: &Toy, phase: &str) -> Dump {
    let path = toy.world.work().join(format!("dump/{phase}.env"));
    parse(&fs::read(path).expect("the hook wrote it"))
        .into_iter()
        .map(|(name, value)| {
            (
                name.to_string_lossy().into_owned(),
                value.to_string_lossy().into_owned(),
            )
        })
        .collect()
}

fn text(toy: &Toy, file: &str) -> String {
    let path = toy.world.work().join("dump").join(file);
    fs::read_to_string(path)
        .expect("the hook wrote it")
        .trim_end()
        .to_owned()
}

/// Whether a function is one of kiln's for programs that a build cannot run for real.
fn is_stand_in(variable: &str) -> bool {
    kiln::helpers::functions(std::path::Path::new("/"))
        .iter()
        .any(|(name, _)| name == variable)
}

#[test]
fn every_phase_sees_what_dib_documents() {
    let mut toy = Toy::basic();
    record_environments(&toy);
    let odd = "spaces  and\nnewlines\n\n\"quotes' $HOME `id` \\ = äö\n";
    toy.world.set("DIB_ODD", odd).set("OWN_VARIABLE", "kept");
    toy.world.set("LD_TEST", "x").set("TMPDIR_LIKE", "x");
    toy.build("-t tar,raw -a amd64").success();
    let home = toy.world.home().display().to_string();
    for (phase, inside) in PHASES {
        let seen = dump(&toy, phase);
        let get = |name: &str| seen.get(name).map(String::as_str);
        assert_eq!(get("DIB_ODD"), Some(odd), "{phase}");
        assert_eq!(get("OWN_VARIABLE"), Some("kept"), "{phase}");
        assert_eq!(get("ARCH"), Some("amd64"), "{phase}");
        assert_eq!(get("IMAGE_NAME"), Some("toy"), "{phase}");
        assert_eq!(get("IMAGE_ELEMENT"), Some("toy"), "{phase}");
        assert_eq!(get("FS_TYPE"), Some("ext4"), "{phase}");
        assert_eq!(get("LC_ALL"), Some("C"), "{phase}");
        assert_eq!(get("DIB_ROOT_FSTYPE"), Some("ext4"), "{phase}");
        assert!(get("DIB_ROOT_LABEL").is_some(), "{phase}");
        assert!(
            get("DIB_ENV").is_some_and(|text| text.contains("DIB_ODD")),
            "{phase}"
        );
        assert!(get("DIB_ARGS").is_some(), "{phase}");
        assert!(
            get("TMP_BUILD_DIR")
                .is_some_and(|path| path.starts_with(&toy.world.tmp().display().to_string()))
        );
        let mount_path = get("TMP_MOUNT_PATH").expect("it is set").to_owned();
        assert!(get("TMP_IMAGE_DIR").is_some(), "{phase}");
        // TARGET_ROOT is for root.d and cleanup.d alone.
        let target = ["root", "cleanup"]
            .contains(&phase)
            .then_some(mount_path.as_str());
        assert_eq!(get("TARGET_ROOT"), target, "{phase}");
        let functions: Vec<&String> = seen
            .keys()
            .filter(|name| name.starts_with("BASH_FUNC_") && !is_stand_in(name))
            .collect();
        assert_eq!(functions.is_empty(), inside, "{phase}: {functions:?}");
        if inside {
            assert_eq!(get("HOME"), Some("/root"), "{phase}");
            assert_eq!(get("TMP_HOOKS_PATH"), Some("/tmp/in_target.d"), "{phase}");
            assert_eq!(text(&toy, &format!("{phase}.cwd")), "/");
            for gone in ["TMPDIR", "LD_TEST", "VIRTUAL_ENV"] {
                assert_eq!(get(gone), None, "{phase}");
            }
            let path = get("PATH").expect("it is set");
            assert!(
                path.ends_with(":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
                "{path}"
            );
        } else {
            assert_eq!(get("HOME"), Some(home.as_str()), "{phase}");
            let hooks = format!("{}/hooks", get("TMP_BUILD_DIR").expect("it is set"));
            assert_eq!(get("TMP_HOOKS_PATH"), Some(hooks.as_str()), "{phase}");
            let work = toy.world.work().display().to_string();
            assert_eq!(text(&toy, &format!("{phase}.cwd")), work, "{phase}");
            assert_eq!(get("LD_TEST"), Some("x"), "{phase}");
        }
        assert_eq!(text(&toy, &format!("{phase}.umask")), "0022", "{phase}");
    }
}

#[test]
fn values_that_only_later_phases_can_know_come_when_they_are_known() {
    let toy = Toy::basic();
    record_environments(&toy);
    toy.build("-t tar").success();
    let mut size_from = None;
    let mut device_from = None;
    for (phase, _) in PHASES {
        let seen = dump(&toy, phase);
        if let Some(size) = seen.get("DIB_IMAGE_SIZE") {
            assert!(size.parse::<u64>().is_ok_and(|kib| kib > 1024), "{size}");
            size_from.get_or_insert(phase);
        }
        if let Some(device) = seen.get("IMAGE_BLOCK_DEVICE") {
            assert!(device.starts_with('/'), "{device}");
            assert!(seen.contains_key("IMAGE_BLOCK_DEVICES"), "{phase}");
            device_from.get_or_insert(phase);
        }
    }
    assert_eq!(size_from, Some("block-device"));
    assert_eq!(device_from, Some("pre-finalise"));
}

#[test]
fn functions_of_dib_work_in_hooks_outside() {
    let toy = Toy::basic();
    toy.hook(
        "extra-data",
        "10-functions",
        "eval declare -A elements=\"($(get_image_element_array))\"\n\
         for name in \"${!elements[@]}\"; do echo \"element $name at $(ls \"${elements[$name]}\" | head -1)\"; done",
    );
    toy.hook("post-root", "10-die", "die 'what now'");
    let built = toy.build("-t tar");
    assert_eq!(built.failure().2, 1);
    assert_eq!(built.lines_after("element toy at "), ["element-provides"]);
    assert!(built.lines().iter().any(|line| line == "ERROR: what now"));
}

/// As ironic-python-agent-builder does with the kernel beside its ramdisk.
#[test]
fn what_hooks_give_to_their_user_is_the_callers() {
    use std::os::unix::fs::MetadataExt as _;
    let mut toy = Toy::basic();
    toy.world.set("USER", "nobody").set("LOGNAME", "nobody");
    toy.hook(
        "cleanup",
        "99-beside",
        "USER=${USER:-$(whoami)}\necho made >\"$IMAGE_NAME.made\"\n\
         sudo chown \"$USER\": \"$IMAGE_NAME.made\"\n\
         sudo cp \"$IMAGE_NAME.made\" \"$IMAGE_NAME.copy\"\n\
         sudo chown \"$(id -u):$(id -g)\" \"$IMAGE_NAME.copy\"",
    );
    toy.build("-t tar").success();
    for suffix in ["made", "copy"] {
        let meta = fs::metadata(toy.output(suffix)).expect("the hook made it");
        let own = (nix::unistd::geteuid(), nix::unistd::getegid());
        assert_eq!((meta.uid(), meta.gid()), (own.0.as_raw(), own.1.as_raw()));
    }
}

#[test]
fn environment_files_are_sourced_for_each_phase_in_bytewise_order() {
    let mut toy = Toy::basic();
    toy.world.set("FROM_CALLER", "caller");
    for name in ["10-x", "100-z", "9-y", "99-a", "50-with.dot"] {
        toy.file(
            &format!("toy/environment.d/{name}"),
            &format!("export ORDER=\"${{ORDER:-}} {name}\"\n"),
        );
    }
    toy.file(
        "toy/environment.d/60-values",
        "export FROM_ENVIRONMENT='two\nlines'\nNOT_EXPORTED=1\nexport FROM_CALLER=\"${FROM_CALLER}-changed\"\nreturn 0\n",
    );
    toy.file(
        "toy/environment.d/61-sees",
        "export SEEN=${NOT_EXPORTED}\nexport SOURCE=${BASH_SOURCE[0]##*/}\nhelper() { :; }\nexport -f helper\n",
    );
    for (phase, _) in PHASES {
        toy.hook(
            phase,
            "50-say",
            "echo \"order:$ORDER\"\necho \"rest: $FROM_CALLER $SEEN $SOURCE ${NOT_EXPORTED:-none} ${FROM_ENVIRONMENT//$'\\n'/+}\"\nhelper",
        );
    }
    let built = toy.build("-t tar").success();
    assert_eq!(
        built.lines_after("order: "),
        vec!["10-x 100-z 50-with.dot 9-y 99-a"; PHASES.len()]
    );
    assert_eq!(
        built.lines_after("rest: "),
        vec!["caller-changed 1 61-sees none two+lines"; PHASES.len()]
    );
}

#[test]
fn what_environment_files_set_besides_variables_reaches_the_hooks() {
    let toy = Toy::basic();
    toy.file(
        "toy/environment.d/10-sets",
        "umask 027\ncd /usr\nulimit -S -n 213\nexport ARGUMENTS=$#\n",
    );
    // A file that writes PATH anew leaves what elements call by name where it is.
    toy.file(
        "toy/environment.d/20-path",
        "export PATH=/usr/sbin:/usr/bin:/sbin:/bin\n",
    );
    for (phase, _) in PHASES {
        toy.hook(
            phase,
            "50-say",
            "echo \"set: $(umask) $(pwd -P) $(ulimit -n) $ARGUMENTS ${PATH##*:/usr/sbin:}\"\n\
             echo \"helper: $(dib-run-parts --help | head -n 1)\"",
        );
    }
    let built = toy.build("-t tar").success();
    assert_eq!(
        built.lines_after("set: "),
        vec!["0027 /usr 213 0 /usr/bin:/sbin:/bin"; PHASES.len()]
    );
    assert_eq!(
        built.lines_after("helper: "),
        vec!["Runs the hooks of a phase, as diskimage-builder does."; PHASES.len()]
    );
}

#[test]
fn what_environment_files_export_is_not_known_to_the_build_itself() {
    let toy = Toy::basic();
    toy.file(
        "toy/environment.d/10-size",
        "export DIB_IMAGE_SIZE=1000 IMAGE_NAME=other TMP_MOUNT_PATH=/nowhere\n",
    );
    toy.build("-t tar").success();
    assert_eq!(toy.outputs(), ["toy.tar"]);
}

#[test]
fn an_environment_file_that_fails_stops_the_build_with_its_status() {
    for (text, status) in [
        ("exit 3\n", 3),
        ("false\n", 1),
        ("echo $NO_SUCH_VARIABLE\n", 1),
    ] {
        let toy = Toy::basic();
        toy.file("toy/environment.d/66-bad", text);
        let built = toy.build("-t tar");
        let (message, hints, found) = built.failure();
        assert_eq!(i32::from(found), built.outcome.code());
        // bash ends with 127 where a variable is unbound in a sourced file.
        assert!(
            found == status || (text.contains("NO_SUCH") && found == 127),
            "{text:?}: {found}"
        );
        let named = "sourcing `environment.d/66-bad` of element `toy` for phase `root.d` failed";
        assert!(message.starts_with(named), "{message}");
        assert!(!hints.is_empty());
        toy.assert_swept();
    }
}

#[test]
fn an_environment_file_that_ends_the_shell_is_named() {
    for (text, files) in [("exit 0\n", 1), ("exec /bin/true\n", 3)] {
        let toy = Toy::basic();
        toy.file("toy/environment.d/66-bad", text);
        for number in 1..files {
            toy.file(
                &format!("toy/environment.d/{number}0-good"),
                "export GOOD=1\n",
            );
        }
        let (message, hints, status) = toy.build("-t tar").failure();
        assert_eq!(
            message,
            "the shell that sources `environment.d/66-bad` of element `toy` for phase `root.d` \
             ended there"
        );
        assert!(hints[0].contains("`exec` another program"), "{hints:?}");
        assert_eq!(status, 1);
        toy.assert_swept();
    }
}

#[test]
fn what_an_environment_file_says_of_itself_is_not_repeated() {
    let toy = Toy::basic();
    toy.file(
        "toy/environment.d/66-bad",
        "echo 'any\x1b[31mthing' >\"${kiln_environment[1]}.source\"; exit 3\n",
    );
    let (message, _, status) = toy.build("-t tar").failure();
    assert_eq!(
        message,
        "sourcing `environment.d` for phase `root.d` failed with exit status 3"
    );
    assert_eq!(status, 3);
}

#[test]
fn the_install_type_is_known_from_extra_data_on() {
    for (given, expected) in [("", "source"), ("--install-type package", "package")] {
        let toy = Toy::basic();
        for (phase, _) in PHASES {
            toy.hook(
                phase,
                "50-say",
                "echo \"type ${DIB_DEFAULT_INSTALLTYPE:-none}\"",
            );
        }
        let built: Built = toy.build(&format!("-t tar {given}")).success();
        let said = built.lines_after("type ");
        assert_eq!(said[1..], vec![expected; PHASES.len() - 1], "{given}");
    }
}

#[test]
fn everything_that_hooks_get_is_documented() {
    let toy = Toy::basic();
    record_environments(&toy);
    toy.build("-t tar").success();
    let known = |name: &str| {
        VARIABLES.iter().any(|variable| variable.name == name)
            // Of the caller, of shells, and exported functions.
            || ["LANG", "TZ", "PWD", "OLDPWD", "SHLVL", "_", "USER", "LOGNAME", "SHELL", "PS4", "KILN_EVENTS_FD"].contains(&name)
            || name.starts_with("BASH_FUNC_")
            || std::env::var_os(name).is_some()
    };
    for (phase, _) in PHASES {
        for name in dump(&toy, phase).keys() {
            assert!(known(name), "{name} of {phase} is in no definition");
        }
    }
    // And what is defined as given is there, in some phase at least.
    let seen: Vec<String> = PHASES
        .iter()
        .flat_map(|(phase, _)| dump(&toy, phase).into_keys())
        .collect();
    let conditional = ["DIB_DEFAULT_INSTALLTYPE", "KILN_LAYERS"];
    for variable in VARIABLES
        .iter()
        .filter(|variable| variable.role == Role::Given)
    {
        assert!(
            seen.iter().any(|name| name == variable.name) || conditional.contains(&variable.name),
            "no hook gets {}",
            variable.name
        );
    }
}

/// It may be set for all builds of a host, as diskimage-builder looks at it only where it
/// converts.
#[test]
fn options_for_other_formats_are_warned_about() {
    let toy = Toy::basic();
    let mut command = toy.command("-t tar --json");
    command.env("QEMU_IMG_OPTIONS", "compat=0.10");
    let built = Built::run(&mut command).success();
    let told = "the format option `compat` has no effect, since tar has none such";
    let is_told = |event: &Event| matches!(event, Event::Warning { text } if text == told);
    assert!(built.events.iter().any(is_told));
    command.env("QEMU_IMG_OPTIONS", "compact=0.10");
    let (message, _, status) = Built::run(&mut command).failure();
    assert!(message.contains("has an option `compact`"), "{message}");
    assert_eq!(status, 1);
}

#[test]
fn misspelt_variables_are_warned_about_with_the_name_that_was_meant() {
    let toy = Toy::basic();
    toy.hook("install", "50-own", "echo \"${DIB_TOY_GREETING:-}\"");
    let mut command = toy.command("-t tar --json");
    command
        .env("DIB_IMAGE_SZIE", "3")
        .env("DIB_RELAESE", "bookworm")
        .env("DIB_TOY_GREETINGS", "hello")
        .env("DIB_TOY_GREETING", "hello")
        .env("DIB_IMAGE_NAME", "of nodepool")
        .env("DIB_REPOREF_x", "1")
        .env("DIB_ENTIRELY_DIFFERENT", "1");
    let built = Built::run(&mut command).success();
    let warnings: Vec<&str> = built
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Warning { text } => Some(text.as_str()),
            _ => None,
        })
        .filter(|text| text.contains("did you mean"))
        .collect();
    assert_eq!(
        warnings,
        [
            "variable `DIB_IMAGE_SZIE` is known to nobody here; did you mean `DIB_IMAGE_SIZE`?",
            "variable `DIB_RELAESE` is known to nobody here; did you mean `DIB_RELEASE`?",
            "variable `DIB_TOY_GREETINGS` is known to nobody here; did you mean `DIB_TOY_GREETING`?",
        ]
    );
}

#[test]
fn the_shell_files_of_dib_can_be_sourced_outside_and_inside() {
    let toy = Toy::basic();
    let source = "set -eu -o pipefail\nfor file in common-defaults img-defaults ramdisk-defaults \
        common-functions img-functions ramdisk-functions; do source \"$_LIB/$file\"; done\n";
    toy.hook(
        "install",
        "50-lib",
        &format!(
            "{source}echo \"inside: $ARCH $(mount_dev_pts_options) $(type -t run_in_target)\""
        ),
    );
    toy.hook(
        "cleanup",
        "50-lib",
        &format!(
            "{source}mkdir -p root/boot root/etc\necho 12 >root/etc/debian_version\n\
             touch root/boot/vmlinuz-6.1.0-9-x root/boot/vmlinuz-6.1.0-10-x root/boot/initrd.img-6.1.0-9-x \
             root/boot/initrd.img-6.1.0-10-x\nselect_boot_kernel_initrd root\n\
             echo \"selected: $BOOTDIR $KERNEL $RAMDISK\"\n\
             echo \"in target: $(run_in_target 'echo $HOME; pwd' | tr '\\n' ' ')\"\n\
             echo \"helper: $(run_in_target 'pkg-map --element none --missing-ok --distro x a 2>/dev/null')\"\n\
             run_d_in_target extra\n\
             run_in_target 'exit 7' || echo \"status: $? $(ls \"$TMP_MOUNT_PATH/tmp\")\"\n\
             check_element && echo 'elements: known'\n\
             (true; die over) || echo \"died: $?\"\n(false || die over) || echo \"died: $?\""
        ),
    );
    toy.hook(
        "extra",
        "50-own",
        "echo \"own phase: $PWD $TMP_HOOKS_PATH\"",
    );
    let built = toy.build("-t tar -a amd64").success();
    let after = |prefix: &str| built.lines_after(prefix).join("|");
    assert_eq!(after("helper: "), "a");
    assert_eq!(after("own phase: "), "/ /tmp/in_target.d");
    assert_eq!(after("status: "), "7 ");
    assert_eq!(after("inside: "), "amd64 -o mode=620,ptmxmode=666 function");
    assert_eq!(
        after("selected: "),
        "root/boot vmlinuz-6.1.0-10-x initrd.img-6.1.0-10-x"
    );
    assert_eq!(after("in target: "), "/root / ");
    assert_eq!(after("elements: "), "known");
    assert_eq!(after("died: "), "1|1");
}

#[test]
fn the_sums_that_are_named_are_the_only_ones_that_are_written() {
    let toy = Toy::basic();
    for (value, md5, sha256) in [
        ("md5", true, false),
        ("sha256", false, true),
        ("1", true, true),
    ] {
        let mut command = toy.command("-t tar --overwrite --json");
        Built::run(command.env("DIB_CHECKSUM", value)).success();
        assert_eq!(toy.output("tar.md5").exists(), md5, "{value}");
        assert_eq!(toy.output("tar.sha256").exists(), sha256, "{value}");
        for suffix in ["tar.md5", "tar.sha256"] {
            let _ = fs::remove_file(toy.output(suffix));
        }
    }
}

#[test]
fn the_callers_umask_is_for_outputs_and_never_for_the_image() {
    let toy = Toy::basic();
    toy.hook(
        "root",
        "20-made",
        "mkdir \"$TARGET_ROOT/made\"; : >\"$TARGET_ROOT/made/file\"",
    );
    toy.hook(
        "install",
        "55-made",
        "mkdir /made/inside; : >/made/inside/file",
    );
    toy.hook("cleanup", "55-umask", "echo \"UMASK $(umask) $KILN_UMASK\"");
    let build = |umask: &str| {
        let mut command = toy.world.command("/bin/bash");
        command.args(["-c", "umask $0 && exec \"$@\"", umask]);
        command.arg(crate::common::kiln());
        let rest = "build toy -n -o toy -t tar,raw --checksum --overwrite --json";
        let built = Built::run(command.args(rest.split(' '))).success();
        let told = format!("0022 {umask}");
        assert_eq!(built.lines_after("UMASK "), [told]);
        let mode = |suffix: &str| {
            let found = fs::metadata(toy.output(suffix)).expect("written");
            found.permissions().mode() & 0o777
        };
        (
            fs::read(toy.output("tar")).expect("written"),
            mode("raw"),
            mode("tar.md5"),
        )
    };
    let (usual, raw, sums) = build("0022");
    assert_eq!((raw, sums), (0o644, 0o644));
    for (umask, wanted) in [("0077", 0o600), ("0000", 0o666)] {
        let (tar, raw, sums) = build(umask);
        assert_eq!((raw, sums), (wanted, wanted), "{umask}");
        assert!(tar == usual, "the image differs with umask {umask}");
    }
}

#[test]
fn the_architecture_is_that_of_the_hosts_packages_if_nobody_says_another() {
    if !Path::new("/etc/debian_version").exists() {
        skip!("this host is not Debian");
    }
    let toy = Toy::basic();
    let programs = toy.world.home().join("programs");
    fs::create_dir(&programs).expect("made");
    let dpkg = programs.join("dpkg");
    let plan = |script: &str, words: &[&str]| {
        fs::write(&dpkg, format!("#!/bin/sh\n{script}\n")).expect("written");
        fs::set_permissions(&dpkg, fs::Permissions::from_mode(0o755)).expect("ours");
        let mut command = toy.world.command(kiln());
        command.args(["plan", "toy", "-n", "--json"]).args(words);
        let plan = command.env("PATH", &programs).run().success();
        let plan: serde_json::Value = serde_json::from_str(&plan).expect("JSON");
        plan["arch"].as_str().expect("text").to_owned()
    };
    // A kernel of 64 bits tells nothing of that.
    let says = "[ \"$*\" = --print-architecture ] && echo i386";
    assert_eq!(plan(says, &[]), "i386");
    assert_eq!(plan(says, &["-a", "armhf"]), "armhf");
    let kernels = kiln::build::arch::host_arch();
    for broken in ["exit 1", "echo", "echo a b", "kill -9 $$"] {
        assert_eq!(plan(broken, &[]), kernels, "{broken}");
    }
}
