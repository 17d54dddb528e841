//! Which hooks run, in what order, where.

use kiln::build::event::Event;

use crate::common::Run as _;
use crate::common::listing::listing_of;
use crate::common::toy::{Built, PHASES, Toy};

/// `phase.d/hook` of every hook that ran, in order.
fn ran(built: &Built) -> Vec<String> {
    built
        .events
        .iter()
        .filter_map(|event| match event {
            Event::HookStarted { phase, hook, .. } => Some(format!("{phase}/{hook}")),
            _ => None,
        })
        .collect()
}

#[test]
fn phases_run_in_the_order_of_dib_and_where_dib_runs_them() {
    let toy = Toy::basic();
    for (phase, inside) in PHASES {
        // Only a root that is the target's own has this file at this place.
        let place = if inside {
            "[ -e /etc/os-release ] && grep -q ID=toy /etc/os-release && echo 'at inside'"
        } else {
            "grep -q ID=toy /etc/os-release || echo 'at outside'"
        };
        toy.hook(phase, "50-where", &format!("{place}\necho \"as $(id -u)\""));
    }
    let built = toy.build("-t tar").success();
    let expected: Vec<String> = PHASES
        .iter()
        .flat_map(|(phase, _)| {
            let more = (*phase == "root").then(|| "root.d/10-toy".to_owned());
            more.into_iter().chain([format!("{phase}.d/50-where")])
        })
        .collect();
    assert_eq!(ran(&built), expected);
    let places: Vec<String> = PHASES
        .iter()
        .map(|(_, inside)| if *inside { "inside" } else { "outside" }.to_owned())
        .collect();
    assert_eq!(built.lines_after("at "), places);
    assert_eq!(built.lines_after("as "), vec!["0"; PHASES.len()]);
    toy.assert_swept();
}

#[test]
fn hooks_run_by_number_and_names_with_a_dot_or_without_x_do_not() {
    let toy = Toy::basic();
    let order = [
        "-5q", "0-b", "00-a", "_u", "abc", "1_0", "9-y", "010-x", "10-x", "100-z",
    ];
    for name in order.iter().rev() {
        toy.hook("install", name, "true");
    }
    toy.hook("install", "20-with.dot", "exit 1");
    toy.hook("install", "30-back~", "exit 1");
    toy.file("toy/install.d/40-not-executable", "#!/bin/bash\nexit 1\n");
    let built = toy.build("-t tar").success();
    let expected: Vec<String> = order
        .iter()
        .map(|name| format!("install.d/{name}"))
        .collect();
    let ran: Vec<String> = ran(&built)
        .into_iter()
        .filter(|hook| hook.starts_with("install.d/"))
        .collect();
    assert_eq!(ran, expected);
}

#[test]
fn hooks_may_be_scripts_without_an_interpreter_line_programs_and_links() {
    let toy = Toy::basic();
    toy.plain_hook(
        "install",
        "10-no-shebang",
        "echo \"said by ${BASH_VERSION:+bash}\"\n",
    );
    toy.plain_hook(
        "post-root",
        "10-no-shebang",
        "echo \"said by ${BASH_VERSION:+bash}\"\n",
    );
    toy.plain_hook("install", "20-other", "#!/bin/cat\nsaid by cat\n");
    toy.hook("install", "30-linked", "echo said by a link");
    toy.link("toy/install.d/40-link", "30-linked");
    // A program outside is any executable of the host.
    let program = std::fs::read("/bin/true").expect("a program");
    toy.hook("post-root", "20-program", "true");
    std::fs::write(
        toy.world.home().join("elements/toy/post-root.d/20-program"),
        program,
    )
    .expect("a program can be written");
    let built = toy.build("-t tar").success();
    assert_eq!(
        built.lines_after("said by "),
        ["bash", "cat", "a link", "a link", "bash"]
    );
    assert!(ran(&built).contains(&"post-root.d/20-program".to_owned()));
}

/// The warnings of a build.
fn warnings(built: &Built) -> Vec<&str> {
    let texts = built.events.iter().filter_map(|event| match event {
        Event::Warning { text } => Some(text.as_str()),
        _ => None,
    });
    texts.collect()
}

#[test]
fn a_link_that_leads_nowhere_in_the_target_is_no_hook_there() {
    let toy = Toy::basic();
    let host = toy
        .world
        .write("host-script", "#!/bin/bash\necho said by the host\n");
    make_executable(&host);
    let host = host.display().to_string();
    toy.link("toy/post-root.d/50-host", &host);
    toy.link("toy/install.d/50-host", &host);
    toy.link("toy/install.d/60-of-the-target", "/usr/bin/true");
    toy.link("toy/environment.d/50-host", &host);
    let built = toy.build("-t tar").success();
    // Sourced as well, in the two phases outside that have hooks.
    assert_eq!(built.lines_after("said by "), ["the host"; 3]);
    let ran = ran(&built);
    assert!(!ran.contains(&"install.d/50-host".to_owned()), "{ran:?}");
    assert!(
        ran.contains(&"install.d/60-of-the-target".to_owned()),
        "{ran:?}"
    );
    assert_eq!(
        warnings(&built),
        [
            "hook `install.d/50-host` of element `toy` does not run: it is a link to a file that \
          the target does not have"
        ]
    );
}

#[test]
fn the_image_and_the_helpers_are_open_to_all_whatever_the_umask() {
    let toy = Toy::basic();
    toy.hook(
        "install",
        "50-say",
        "echo \"modes: $(stat -c %a / /tmp/in_target.d/.kiln/bin /tmp/in_target.d/.kiln/kiln \
         /tmp/in_target.d/.kiln/lib/die | tr '\\n' ' ')\"\necho \"umask: $(umask)\"",
    );
    let command = toy.command("-t tar --json");
    let mut masked = toy.world.command("bash");
    masked
        .args(["-c", "umask 077; exec \"$@\"", "bash"])
        .arg(command.get_program())
        .args(command.get_args());
    let built = Built::run(&mut masked).success();
    // An element may still choose another.
    assert_eq!(built.lines_after("umask: "), ["0022"]);
    assert_eq!(built.lines_after("modes: "), ["755 755 755 644 "]);
    let tree = listing_of(&toy.output("tar"));
    let root = &tree["./"];
    assert!(root.starts_with("Directory 755 "), "{root}");
}

#[test]
fn what_a_filesystem_had_lost_is_not_in_the_image() {
    let toy = Toy::basic();
    toy.hook(
        "root",
        "50-lost",
        "mkdir -m 700 \"$TARGET_ROOT/lost+found\"\necho old >\"$TARGET_ROOT/lost+found/#12\"",
    );
    toy.build("-t tar").success();
    let tree = listing_of(&toy.output("tar"));
    assert!(!tree.keys().any(|path| path.contains("lost+found")));
}

#[test]
fn manifests_are_left_where_the_caller_wants_them() {
    let mut toy = Toy::basic();
    let place = toy.world.home().join("manifests/of/builds");
    toy.world
        .set("TOY_PROGRAMS", "tar mkdir")
        .set("DIB_MANIFEST_SAVE_DIR", &place);
    toy.build("-t tar manifests").success();
    let arguments = place.join("dib-manifests/dib_arguments");
    assert!(arguments.is_file(), "{}", arguments.display());
}

#[test]
fn a_caller_without_home_has_that_of_the_list_of_users() {
    let toy = Toy::basic();
    let lists = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let own = format!(":{}:", nix::unistd::geteuid());
    if !lists.lines().any(|line| line.contains(&own)) {
        crate::skip!("this user is not in /etc/passwd");
    }
    toy.hook("root", "50-say", "echo \"home: ${HOME:-none}\"");
    let mut command = toy.command("-t tar --json");
    // Not to write to that home.
    let cache = toy.world.work().join("cache");
    command
        .env_remove("HOME")
        .env("DIB_IMAGE_CACHE", &cache)
        .env("DIB_LOCKFILES", &cache);
    let built = Built::run(&mut command).success();
    let homes = built.lines_after("home: ");
    assert!(homes[0].starts_with('/'), "{homes:?}");
}

#[test]
fn an_elements_own_install_packages_is_the_one_that_hooks_get() {
    let toy = Toy::basic();
    // Of a package manager that kiln knows.
    toy.hook(
        "root",
        "50-apt",
        "printf '#!/bin/bash\\necho order: apt-get\\n' >\"$TARGET_ROOT/usr/bin/apt-get\"\n\
         chmod 755 \"$TARGET_ROOT/usr/bin/apt-get\"",
    );
    for name in ["install-packages", "pkg-map"] {
        let own = toy.file(
            &format!("toy/bin/{name}"),
            &format!("#!/bin/bash\necho \"order: own {name} $*\"\n"),
        );
        make_executable(&own);
    }
    toy.hook("install", "10-call", "install-packages one");
    let built = toy.build("-t tar -p 'two three,four'").success();
    assert_eq!(
        built.lines_after("order: "),
        [
            "own install-packages one",
            "own install-packages two three four"
        ]
    );
    assert_eq!(
        warnings(&built),
        [
            "hooks that call `pkg-map` get kiln's own, and `bin/pkg-map` of element `toy` by its path \
          alone"
        ]
    );
}

#[test]
fn hooks_of_several_elements_are_merged_and_each_is_named_with_its_own() {
    let toy = Toy::basic();
    toy.file("other/element-deps", "third\n");
    for (element, name) in [
        ("toy", "20-toy"),
        ("other", "10-other"),
        ("third", "15-third"),
    ] {
        let path = toy.file(
            &format!("{element}/install.d/{name}"),
            "#!/bin/bash\ntrue\n",
        );
        make_executable(&path);
    }
    let built = Built::run(toy.command("other -t tar").arg("--json")).success();
    let found: Vec<(String, String)> = built
        .events
        .iter()
        .filter_map(|event| match event {
            Event::HookFinished {
                phase,
                hook,
                element,
                ..
            } if phase == "install.d" => Some((hook.clone(), element.clone())),
            _ => None,
        })
        .collect();
    let expected = [
        ("10-other", "other"),
        ("15-third", "third"),
        ("20-toy", "toy"),
    ]
    .map(|(hook, element)| (hook.to_owned(), element.to_owned()));
    assert_eq!(found, expected);
}

#[test]
fn two_elements_with_a_hook_of_one_name_are_refused_before_anything_runs() {
    let toy = Toy::basic();
    toy.hook("install", "10-same", "true");
    toy.file("other/install.d/10-same", "#!/bin/bash\ntrue\n");
    let built = Built::run(toy.command("other -t tar").arg("--json"));
    let (message, _, status) = built.failure();
    assert_eq!(status, 1);
    for part in ["install.d/10-same", "toy", "other"] {
        assert!(message.contains(part), "{part} is not in {message:?}");
    }
    assert!(ran(&built).is_empty());
    toy.assert_swept();
}

#[test]
fn a_hook_may_add_hooks_to_a_later_phase() {
    let toy = Toy::basic();
    toy.hook(
        "extra-data",
        "10-add",
        "mkdir -p \"$TMP_HOOKS_PATH/install.d\"\n\
         printf '#!/bin/bash\\necho added\\n' >\"$TMP_HOOKS_PATH/install.d/77-added\"\n\
         chmod +x \"$TMP_HOOKS_PATH/install.d/77-added\"",
    );
    let built = toy.build("-t tar").success();
    assert!(ran(&built).contains(&"install.d/77-added".to_owned()));
    assert!(built.lines().contains(&"added".to_owned()));
}

#[test]
fn hooks_inside_are_read_only_and_nothing_of_them_stays_in_the_image() {
    let toy = Toy::basic();
    toy.file("toy/static-data", "given\n");
    toy.hook(
        "install",
        "10-look",
        "cat /tmp/in_target.d/static-data\n\
         if touch /tmp/in_target.d/new 2>/dev/null; then echo writable; fi\n\
         if touch /tmp/in_target.d/install.d/10-look 2>/dev/null; then echo writable; fi",
    );
    toy.hook(
        "cleanup",
        "10-look",
        "ls -A \"$TARGET_ROOT/tmp\" | sed 's/^/left: /'",
    );
    let built = toy.build("-t tar").success();
    assert!(built.lines().contains(&"given".to_owned()));
    assert!(!built.lines().contains(&"writable".to_owned()));
    assert_eq!(built.lines_after("left: "), Vec::<String>::new());
}

#[test]
fn a_root_phase_that_makes_nothing_is_an_error_with_a_hint() {
    let toy = Toy::basic();
    toy.hook(
        "root",
        "10-toy",
        "mkdir -p \"$TARGET_ROOT/tmp\" \"$TARGET_ROOT/lost+found\"",
    );
    let (message, hints, status) = toy.build("-t tar").failure();
    assert_eq!(status, 1);
    assert!(message.contains("target root"), "{message}");
    assert!(!hints.is_empty());
    assert_eq!(toy.outputs(), Vec::<String>::new());
    toy.assert_swept();
}

#[test]
fn packages_of_p_are_installed_between_install_and_post_install() {
    let toy = Toy::basic();
    // The name under which elements bring their own, and the first one in PATH.
    toy.hook(
        "pre-install",
        "10-manager",
        "mkdir -p /usr/local/bin\n\
         printf '#!/bin/bash\\necho \"order: packages $*\"\\n' >/usr/local/bin/install-packages\n\
         chmod 755 /usr/local/bin/install-packages",
    );
    toy.hook("install", "10-say", "echo order: install");
    toy.hook("post-install", "10-say", "echo order: post-install");
    let built = toy.build("-t tar -p one,two -p three").success();
    assert_eq!(
        built.lines_after("order: "),
        ["install", "packages one two three", "post-install"]
    );
}

#[test]
fn the_target_gets_what_programs_expect_and_the_image_does_not_keep_it() {
    let toy = Toy::basic();
    toy.hook(
        "root",
        "20-own",
        "echo 'nameserver 192.0.2.1' >\"$TARGET_ROOT/etc/resolv.conf\"",
    );
    toy.hook(
        "install",
        "10-look",
        "for node in null zero full random urandom; do [ -c /dev/$node ]; done\n\
         echo kiln >/dev/null\n\
         [ \"$(head -c 4 /dev/zero | tr '\\0' z)\" = zzzz ]\n\
         [ -r /proc/self/status ]\n\
         [ -d /sys/kernel ]\n\
         if mkdir /sys/kernel/kiln 2>/dev/null; then exit 1; fi\n\
         [ -d /dev/shm ] && [ -d /dev/pts ] && [ -e /dev/ptmx ]\n\
         [ -e /dev/fd/0 ] && [ -e /dev/stdin ]\n\
         : >/dev/shm/test\n\
         grep -q 192.0.2.1 /etc/resolv.conf.ORIG\n\
         if grep -q 192.0.2.1 /etc/resolv.conf; then exit 1; fi",
    );
    toy.build("-t tar").success();
    let listing = toy
        .world
        .command("tar")
        .words("-xOf toy.tar ./etc/resolv.conf")
        .success();
    assert_eq!(listing, "nameserver 192.0.2.1\n");
    let names = toy.world.command("tar").words("-tf toy.tar").success();
    for name in names.lines() {
        let inside = ["./proc/", "./sys/", "./tmp/"]
            .iter()
            .any(|top| name.starts_with(top) && name.len() > top.len());
        assert!(!inside && !name.ends_with(".ORIG"), "{name}");
    }
}

#[test]
fn what_is_written_to_a_device_before_there_is_one_leaves_a_device_in_the_image() {
    let toy = Toy::basic();
    // At this moment the root has just been made, and has an empty `/dev`.
    let first = toy.world.home().join("elements/toy/root.d/10-toy");
    let script = std::fs::read_to_string(&first).expect("the hook that makes the root");
    let early = "chroot \"$TARGET_ROOT\" /bin/bash -c 'find /nowhere 2>/dev/null' || true\n\
        if [ -s \"$TARGET_ROOT/dev/null\" ]; then echo 'early: a file'; else echo 'early: a device'; fi\n";
    toy.plain_hook("root", "10-toy", &(script + early));
    toy.hook(
        "root",
        "20-later",
        "chroot \"$TARGET_ROOT\" /bin/bash -c '[ -c /dev/null ] && find /nowhere 2>/dev/null' || true\n\
         chroot \"$TARGET_ROOT\" /bin/bash -c '[ -c /dev/null ] && echo \"later: a device\"'",
    );
    for mode in ["auto", "single", "chroot"] {
        let built = toy.build(&format!("-t tar --overwrite --mode {mode}"));
        if !built.had_its_mode() {
            continue;
        }
        // Where nothing can be mounted, the supervisor has devices from the first moment.
        let early = if mode == "chroot" {
            "a device"
        } else {
            "a file"
        };
        assert_eq!(built.lines_after("early: "), [early], "{mode}");
        assert_eq!(built.lines_after("later: "), ["a device"], "{mode}");
        let names = toy.world.command("tar").words("-tvf toy.tar").success();
        let null: Vec<&str> = names
            .lines()
            .filter(|line| line.ends_with(" ./dev/null"))
            .collect();
        assert!(
            null.len() == 1 && null[0].starts_with("crw-rw-rw- ") && null[0].contains(" 1,3 "),
            "{mode}: {null:?}"
        );
    }
}

#[test]
fn a_root_that_cannot_get_proc_yet_is_told_of_once() {
    let toy = Toy::basic();
    let proc = "\"$TARGET_ROOT\"/proc";
    toy.hook("root", "05-link", &format!("ln -s run {proc}"));
    toy.hook("root", "06-idle", "true");
    // Without the directory there is nothing to tell: another hook will make it.
    toy.hook("root", "07-none", &format!("rm {proc}"));
    toy.hook(
        "root",
        "20-later",
        &format!("[ -e {proc}/self ] && echo 'proc is there'"),
    );
    let built = toy.build("-t tar --mode single");
    if !built.had_its_mode() {
        return;
    }
    assert_eq!(built.lines_after("proc is "), ["there"]);
    let mut told = warnings(&built);
    told.retain(|text| text.contains("/proc"));
    assert_eq!(told.len(), 1, "{told:?}");
    let beginning = "further hooks of `root.d` find no /proc, /sys and /dev in the target: `";
    assert!(told[0].starts_with(beginning), "{told:?}");
    assert!(
        told[0].contains("/proc` is not a plain directory: "),
        "{told:?}"
    );
}

#[test]
fn a_build_ends_with_a_table_and_the_image_on_plain_output() {
    let toy = Toy::basic();
    toy.hook("install", "10-slow", "sleep 0.1");
    let said = toy.command("-t tar").run().success();
    for part in [
        "install.d/10-slow",
        "toy.tar",
        "Build completed successfully",
    ] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
}

fn make_executable(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
        .expect("a mode can be set");
}

mod break_points {
    use super::*;

    #[test]
    fn stop_before_and_after_a_phase_on_the_right_side() {
        let toy = Toy::basic();
        let built = Built::run(
            toy.command("-t tar --json")
                .env("break", "before-install,after-root,after-finalise")
                .env(
                    "break_cmd",
                    "grep -q ID=toy /etc/os-release && echo inside >&2 || echo outside >&2",
                ),
        )
        .success();
        let said: Vec<&str> = built
            .outcome
            .stderr
            .lines()
            .filter(|line| ["inside", "outside"].contains(line))
            .collect();
        assert_eq!(
            said,
            ["outside", "inside", "inside"],
            "{}",
            built.outcome.stderr
        );
        let points: Vec<String> = built
            .events
            .iter()
            .filter_map(|event| match event {
                Event::Info { text } => text
                    .strip_prefix("break point ")?
                    .split([':', ' '])
                    .next()
                    .map(str::to_owned),
                _ => None,
            })
            .collect();
        assert_eq!(
            points,
            [
                "after-root",
                "after-root",
                "before-install",
                "before-install",
                "after-finalise",
                "after-finalise"
            ]
        );
    }

    #[test]
    fn after_error_runs_where_the_hook_failed_and_its_status_is_kept() {
        for (phase, outside, expected) in [
            ("install", "", "inside"),
            ("install", "1", "outside"),
            ("block-device", "", "outside"),
        ] {
            let toy = Toy::basic();
            toy.hook(phase, "50-fail", "exit 9");
            let built = Built::run(
                toy.command("-t tar --json")
                    .env("break", "after-error")
                    .env("break_outside_target", outside)
                    .env(
                        "break_cmd",
                        "grep -q ID=toy /etc/os-release && echo inside >&2 || echo outside >&2",
                    ),
            );
            let (_, _, status) = built.failure();
            assert_eq!(status, 9);
            assert!(
                built.outcome.stderr.lines().any(|line| line == expected),
                "{phase}, {outside:?}: {}",
                built.outcome.stderr
            );
            toy.assert_swept();
        }
    }

    #[test]
    fn after_error_is_not_reached_from_phases_where_dib_has_none() {
        let toy = Toy::basic();
        toy.hook("post-root", "50-fail", "exit 9");
        let built = Built::run(
            toy.command("-t tar --json")
                .env("break", "after-error")
                .env("break_cmd", "echo reached >&2"),
        );
        assert_eq!(built.failure().2, 9);
        assert!(!built.outcome.stderr.contains("reached"));
    }

    #[test]
    fn a_shell_that_ends_at_once_does_not_stop_the_build() {
        let toy = Toy::basic();
        // Standard input is empty, so the default shell ends.
        Built::run(
            toy.command("-t tar --json")
                .env("break", "before-root,after-install"),
        )
        .success();
        toy.assert_swept();
    }
}
