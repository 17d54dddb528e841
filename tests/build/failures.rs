//! Builds that fail: what is said, and that nothing is left.

use std::fs;

use kiln::build::event::Event;
use nix::sys::signal::Signal;

use crate::common::Run as _;
use crate::common::toy::{Built, PHASES, Toy};
use crate::common::watch::{Started, eventually, marked};
use crate::skip;

/// A mark for the environment of all processes of one build.
fn mark(toy: &mut Toy) -> String {
    let mark = format!("kiln-mark-{}-{:p}", std::process::id(), toy);
    toy.world.set("KILN_TEST_MARK", &mark);
    mark
}

#[track_caller]
fn assert_nothing_is_left(toy: &Toy, mark: &str) {
    assert_eq!(toy.outputs(), Vec::<String>::new(), "something was written");
    toy.assert_swept();
    assert!(
        eventually(|| marked(mark).is_empty()),
        "processes are left: {:?}",
        marked(mark)
    );
}

#[test]
fn a_hook_that_fails_in_any_phase_is_named_and_nothing_is_left() {
    for (number, (phase, _)) in (20u8..).zip(PHASES) {
        let mut toy = Toy::basic();
        let mark = mark(&mut toy);
        toy.hook(
            phase,
            "55-fail",
            &format!("sleep 600 &\nsetsid sleep 601 >/dev/null 2>&1 &\necho why it failed >&2\nexit {number}"),
        );
        toy.hook(phase, "60-never", "echo went on");
        let built = toy.build("-t tar,raw,qcow2");
        let (message, hints, status) = built.failure();
        assert_eq!(status, number, "{phase}");
        assert_eq!(built.outcome.code(), i32::from(number), "{phase}");
        for part in [
            format!("{phase}.d"),
            "55-fail".into(),
            "toy".into(),
            number.to_string(),
        ] {
            assert!(message.contains(&part), "{part:?} is not in {message:?}");
        }
        assert!(!hints.is_empty(), "{phase}");
        assert_eq!(
            built.lines().last().map(String::as_str),
            Some("why it failed"),
            "{phase}"
        );
        assert!(built.outcome.stderr.contains(&message), "{phase}");
        assert_nothing_is_left(&toy, &mark);
    }
}

#[test]
fn a_failure_shows_the_last_lines_where_the_output_was_not_shown() {
    let toy = Toy::basic();
    toy.hook(
        "install",
        "55-fail",
        "for n in {1..50}; do echo \"line $n\"; done\nexit 5",
    );
    let outcome = toy.command("-t tar -q").run();
    assert_eq!(outcome.code(), 5);
    assert_eq!(outcome.stdout, "");
    for part in ["install.d/55-fail", "toy", "status 5", "line 50", "line 40"] {
        assert!(
            outcome.stderr.contains(part),
            "{part} is not in:\n{}",
            outcome.stderr
        );
    }
    assert!(!outcome.stderr.contains("line 3\n"), "{}", outcome.stderr);
}

#[test]
fn a_hook_killed_by_a_signal_has_the_status_that_a_shell_gives() {
    let toy = Toy::basic();
    toy.hook("install", "55-die", "kill -TERM $$");
    let built = toy.build("-t tar");
    assert_eq!(built.failure().2, 143);
    assert_eq!(built.outcome.code(), 143);
}

#[test]
fn a_hook_without_its_interpreter_is_explained() {
    let toy = Toy::basic();
    toy.plain_hook("install", "55-odd", "#!/no/such/interpreter\n");
    let (message, hints, _) = toy.build("-t tar").failure();
    assert!(message.contains("install.d/55-odd"), "{message}");
    let named = "the interpreter `/no/such/interpreter`";
    assert!(hints.iter().any(|hint| hint.contains(named)), "{hints:?}");
}

#[test]
fn what_daemons_of_hooks_print_and_hold_does_not_keep_the_build() {
    let mut toy = Toy::basic();
    let mark = mark(&mut toy);
    // Neither the pipe of the output nor a directory of the target may be held.
    toy.hook(
        "install",
        "55-daemon",
        "(cd /var/lib && exec sleep 600) &\nsleep 600 </var/log &",
    );
    toy.hook(
        "post-root",
        "55-daemon",
        "cd \"$TMP_MOUNT_PATH/var\" && setsid sleep 600 &",
    );
    toy.build("-t tar").success();
    toy.assert_swept();
    assert!(
        eventually(|| marked(&mark).is_empty()),
        "{:?}",
        marked(&mark)
    );
}

#[test]
fn what_is_asked_wrongly_ends_with_status_1_or_2_and_a_hint() {
    let toy = Toy::basic();
    for (arguments, status) in [
        ("no-such-element -t tar", 1),
        ("-t no-such-format", 2),
        ("-t tar --image-size nonsense", 1),
        ("-t tar -o no/such/directory/name", 1),
        ("-t tar --mode no-such-mode", 2),
        ("-t tar --no-such-option", 2),
    ] {
        let outcome = toy.command(arguments).run();
        assert!(
            [1, 2].contains(&outcome.code()),
            "{arguments}: {} instead of {status}\n{}",
            outcome.code(),
            outcome.stderr
        );
        assert!(
            outcome.stderr.starts_with("error: "),
            "{arguments}: {}",
            outcome.stderr
        );
        assert_eq!(toy.outputs(), Vec::<String>::new(), "{arguments}");
        toy.assert_swept();
    }
}

#[test]
fn signals_stop_a_build_in_any_phase_with_their_status() {
    let signals = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
    for (number, (phase, _)) in PHASES.into_iter().enumerate() {
        let signal = signals[number % signals.len()];
        let mut toy = Toy::basic();
        let mark = mark(&mut toy);
        // A hook that does not care for signals, with a child that neither does.
        toy.hook(
            phase,
            "55-wait",
            "trap '' INT TERM HUP\nsetsid sleep 600 >/dev/null 2>&1 &\necho READY\nsleep 600",
        );
        let mut build = Started::new(&mut toy.command("-t tar,raw"));
        build.until("READY");
        let parts = build.parts();
        let family = parts.main.family();
        parts.main.signal(signal);
        let (status, _, said) = build.end();
        assert_eq!(status, 128 + signal as i32, "{phase}: {said}");
        assert!(said.contains(&signal.to_string()), "{phase}: {said}");
        assert!(
            eventually(|| family.iter().all(|process| !process.lives())),
            "{phase}: a process is left"
        );
        assert_nothing_is_left(&toy, &mark);
    }
}

#[test]
fn signals_that_the_caller_has_ignored_do_not_stop_a_build() {
    let mut toy = Toy::basic();
    let mark = mark(&mut toy);
    let go = toy.world.work().join("go");
    let wait = "echo READY\nuntil [ -e go ]; do sleep 0.01; done";
    toy.hook(
        "root",
        "55-wait",
        &format!("cd '{}'\n{wait}", toy.world.work().display()),
    );
    // As `nohup` does, and shells for what they run in the background.
    let mut command = toy.world.command("/bin/bash");
    command.args(["-c", "trap '' HUP INT QUIT; exec \"$@\"", "sh"]);
    command.arg(crate::common::kiln());
    command.args("build toy -n -o toy -t tar".split(' '));
    let mut build = Started::new(&mut command);
    build.until("READY");
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
        build.main().signal(signal);
    }
    fs::write(&go, "").expect("written");
    let (status, _, said) = build.end();
    assert_eq!(status, 0, "{said}");
    assert!(toy.output("tar").exists());
    fs::remove_file(go).expect("removed");
    fs::remove_file(toy.output("tar")).expect("removed");
    // What is not ignored still does.
    let mut build = Started::new(&mut command);
    build.until("READY");
    build.main().signal(Signal::SIGTERM);
    assert_eq!(build.end().0, 143);
    assert_nothing_is_left(&toy, &mark);
}

/// The build is refused in these words before a hook runs; returns its hints.
#[track_caller]
fn assert_refused(toy: &Toy, built: &Built, said: &str) -> String {
    let (message, hints, _) = built.failure();
    assert!(message.contains(said), "{message}");
    let ran = |event: &Event| matches!(event, Event::HookStarted { .. });
    assert!(!built.events.iter().any(ran), "a hook ran");
    toy.assert_swept();
    hints.join("\n")
}

#[test]
fn outputs_that_cannot_have_their_names_are_told_before_a_hook_runs() {
    let toy = Toy::basic();
    fs::create_dir_all(toy.world.work().join("there.tar")).expect("a directory can be made");
    let not_a_file = toy.build("-t raw,tar -o there");
    let said = "output `there.tar` exists and is not a regular file";
    assert!(assert_refused(&toy, &not_a_file, said).contains("another output name"));
    for (length, arguments) in [(252, "-t tar"), (247, "-t tar --checksum")] {
        let name = "n".repeat(length);
        let long = toy.build(&format!("{arguments} -o {name}"));
        let said = format!("the name of output `{name}.tar` is too long");
        assert_refused(&toy, &long, &said);
    }
    let name = "n".repeat(244);
    toy.build(&format!("-t tar --checksum -o {name}")).success();
    assert_refused(
        &toy,
        &toy.build("-t tar -o there.tar/no/name"),
        "for the output does not exist",
    );
    if nix::unistd::geteuid().is_root() {
        return;
    }
    let closed = toy.world.work().join("closed");
    fs::create_dir_all(closed.join("inner")).expect("a directory can be made");
    let mode = |mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(&closed, mode).expect("it is ours");
    };
    mode(0o600);
    let built = toy.build("-t tar -o closed/inner/toy");
    mode(0o700);
    let hints = assert_refused(&toy, &built, "for the output cannot be reached: Permission");
    assert!(hints.contains("every directory above"), "{hints}");
}

#[test]
fn a_named_image_cache_needs_no_home() {
    let toy = Toy::basic();
    toy.hook("root", "55-lock", ": >\"$DIB_LOCKFILES/lock\"");
    let nowhere =
        |command: &mut std::process::Command| Built::run(command.env("HOME", "/dev/null"));
    nowhere(&mut toy.command("-t tar --json --image-cache cache")).success();
    let cache = toy.world.work().join("cache");
    assert!(cache.join("lockfiles/lock").exists());
    fs::remove_file(toy.output("tar")).expect("ours");
    let built = nowhere(&mut toy.command("-t tar --json"));
    let hints = assert_refused(&toy, &built, "/dev/null");
    assert!(hints.contains("--image-cache"), "{hints}");
}

#[test]
fn a_link_out_of_the_image_cache_opens_nothing_to_hooks() {
    let toy = Toy::basic();
    let (cache, mine) = (
        toy.world.work().join("cache"),
        toy.world.home().join("mine"),
    );
    for directory in [&cache, &mine] {
        fs::create_dir(directory).expect("made");
    }
    // As hooks of an earlier build, which had its locks elsewhere, can leave it.
    std::os::unix::fs::symlink(&mine, cache.join("lockfiles")).expect("linked");
    toy.hook("root", "55-lock", ": >\"$DIB_LOCKFILES/lock\"");
    let mut command = toy.command("-t tar --json --image-cache cache");
    let built = Built::run(command.env("HOME", "/dev/null"));
    let hints = assert_refused(&toy, &built, "leads out of the image cache");
    assert!(hints.contains("remove that link"), "{hints}");
    assert!(!mine.join("lock").exists());
}

#[test]
fn a_home_that_is_not_there_is_not_made() {
    let toy = Toy::basic();
    let home = toy.world.work().join("no/home");
    let built = Built::run(toy.command("-t tar --json").env("HOME", &home));
    let hints = assert_refused(&toy, &built, "no/home` does not exist");
    assert!(hints.contains("--image-cache"), "{hints}");
    let mut command = toy.command("-t tar --json --image-cache cache");
    Built::run(command.env("HOME", &home)).success();
    assert!(!home.exists());
}

#[test]
fn limits_of_the_session_are_named_where_they_are_the_reason() {
    let toy = Toy::basic();
    let build = |limit: &str| {
        let mut command = toy.world.command("/bin/bash");
        command.args(["-c", "ulimit $0 && exec \"$@\"", limit]);
        command.arg(crate::common::kiln());
        let rest = "build toy -n -o toy -t tar --overwrite --json";
        Built::run(command.args(rest.split(' ')))
    };
    let files = build("-n 20");
    let hints = assert_refused(&toy, &files, "may have 20 open files, and a build needs 64");
    assert!(hints.contains("nofile"), "{hints}");
    let files = build("-Sn 20");
    let hints = assert_refused(&toy, &files, "may have 20 open files");
    assert!(hints.contains("`ulimit -n "), "{hints}");
    let size = build("-f 1024");
    let hints = assert_refused(&toy, &size, "may make files of 1 MiB");
    assert!(hints.contains("`ulimit -f unlimited`"), "{hints}");
    for (limit, said) in [
        ("-v 200000", "may have 195 MiB of memory (`ulimit -v`)"),
        ("-d 20000", "may have 19 MiB of memory (`ulimit -d`)"),
        ("-t 5", "after 5 s of CPU time (`ulimit -t`)"),
    ] {
        let hints = assert_refused(&toy, &build(limit), said);
        let remedy = format!("`ulimit {} unlimited`", &limit[..2]);
        assert!(hints.contains(&remedy), "{hints}");
    }
    for enough in ["-n 64", "-v 262144", "-d 65536", "-t 10"] {
        build(enough).success();
    }
    for (limit, status, said) in [
        (
            "-u 4000",
            254,
            "4000 processes and threads in all (`ulimit -u`)",
        ),
        (
            "-f 1024000",
            153,
            "files of 1000 MiB: raise the limit (`ulimit -f`)",
        ),
        ("-v 8192000", 134, "8000 MiB of memory (`ulimit -v`)"),
        ("-t 1000", 152, "1000 s of CPU time (`ulimit -t`)"),
        ("-t 1000", 137, "1000 s of CPU time (`ulimit -t`)"),
    ] {
        toy.hook("root", "55-limit", &format!("exit {status}"));
        let (_, hints, code) = build(limit).failure();
        assert_eq!(i32::from(code), status);
        assert!(hints.join("\n").contains(said), "{hints:?}");
    }
    let (_, hints, _) = build("-c 0").failure();
    assert!(!hints.join("\n").contains("ulimit"), "{hints:?}");
}

#[test]
fn a_stack_that_is_too_small_is_raised_or_named() {
    let toy = Toy::basic();
    let build = |limit: &str| {
        let mut command = toy.world.command("/bin/bash");
        command.args(["-c", "ulimit $0 && exec \"$@\"", limit]);
        command.arg(crate::common::kiln());
        command.args("build toy -n -o toy -t tar --overwrite".split(' '));
        let output = command.output().expect("started");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), errors)
    };
    let (status, errors) = build("-Ss 64");
    assert_eq!(status, Some(0), "{errors}");
    let (status, errors) = build("-s 100");
    assert_eq!(status, Some(1), "{errors}");
    assert!(errors.contains("a stack of 100 KiB here"), "{errors}");
    assert!(errors.contains("hint: raise the limit"), "{errors}");
}

#[test]
fn a_user_who_may_start_no_process_is_told_the_limit() {
    if nix::unistd::geteuid().is_root() {
        skip!("the kernel does not hold root to its limit of processes");
    }
    let toy = Toy::basic();
    let mut command = toy.world.command("/bin/bash");
    command.args(["-c", "ulimit -u 1 && exec \"$@\"", "sh"]);
    command.arg(crate::common::kiln());
    let built = Built::run(command.args(["build", "toy", "-n", "-o", "toy", "--json"]));
    let hints = assert_refused(&toy, &built, "starts no further process");
    let said = "allows its user 1 processes and threads in all (`ulimit -u`)";
    assert!(hints.contains(said), "{hints}");
    assert!(!hints.contains("chroot"), "{hints}");
}

#[test]
fn whichever_process_the_limit_of_processes_refuses_it_is_named() {
    if !nix::unistd::geteuid().is_root() {
        skip!("only root becomes a user who has no other processes");
    }
    let toy = Toy::basic();
    // No user of the host has it.
    let user = 54_321;
    let home = toy.world.home();
    let mut owned = toy.world.command("chown");
    owned.args(["-R", &user.to_string()]);
    owned.arg(home.parent().expect("the world's own"));
    assert!(owned.status().expect("started").success());
    let limited = |limit: u32, rest: &str| {
        let mut command = toy.world.command("/bin/bash");
        let drop = "ulimit -u $0 && exec setpriv --reuid $1 --regid $1 --clear-groups \"${@:2}\"";
        command.args(["-c", drop, &limit.to_string(), &user.to_string()]);
        command.arg(crate::common::kiln()).args(rest.split(' '));
        command
    };
    let build = "build toy -n -o toy -t tar --overwrite --json";
    for limit in 1..=20 {
        let built = Built::run(&mut limited(limit, build));
        let hints = assert_refused(&toy, &built, "starts no further process");
        let said = format!("allows its user {limit} processes and threads in all (`ulimit -u`)");
        assert!(hints.contains(&said), "{limit}: {hints}");
        // The doctor says what the build says.
        let doctor = limited(limit, "doctor").run();
        assert_eq!(doctor.code(), 1, "{limit}: {}", doctor.stdout);
        assert!(doctor.stdout.contains(&said), "{limit}: {}", doctor.stdout);
    }
    // What was started for the one before may not be gone for good yet, and counts as well.
    let is_of_user = |status: &str| {
        let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        ids.and_then(|ids| ids.split_whitespace().next()) == Some(&user.to_string())
    };
    let nobody_is_left = || {
        let entries = fs::read_dir("/proc").expect("listed").flatten();
        let mut status = entries.filter_map(|entry| {
            let status = fs::read(entry.path().join("status")).ok()?;
            Some(String::from_utf8_lossy(&status).into_owned())
        });
        !status.any(|status| is_of_user(&status))
    };
    assert!(eventually(nobody_is_left));
    Built::run(&mut limited(22, build)).success();
    assert!(eventually(nobody_is_left));
    assert_eq!(limited(22, "doctor").run().code(), 0);
}

#[test]
fn a_caller_that_waits_for_no_children_gets_its_image() {
    let toy = Toy::basic();
    toy.hook("install", "50-status", "(exit 7) || echo \"STATUS $?\"");
    // A build that waits for ever is ended.
    let mut command = toy.world.command("timeout");
    command.args(["120", "/bin/bash", "-c", "trap '' CHLD; exec \"$@\"", "sh"]);
    command.arg(crate::common::kiln());
    command.args("build toy -n -o toy -t tar --json".split(' '));
    let built = Built::run(&mut command).success();
    assert_eq!(built.lines_after("STATUS "), ["7"]);
    assert!(toy.output("tar").exists());
    toy.assert_swept();
}

#[test]
fn what_to_do_about_a_mirror_is_not_to_look_around_in_the_target() {
    let toy = Toy::basic();
    let bootstrap = "kiln-bootstrap apt --suite x --arch amd64 --mirror ftp://a/b \"$TARGET_ROOT\"";
    let hints_of = |hook: &str, next: &str| {
        toy.hook("root", "20-bootstrap", hook);
        toy.hook("root", "30-next", next);
        let (_, hints, _) = toy.build("-t tar").failure();
        hints.join("\n")
    };
    let looks = "to look around, run again with `break=before-root`";
    let hints = hints_of(bootstrap, "true");
    assert!(hints.contains("give an http, https or file URL"), "{hints}");
    assert!(!hints.contains(looks), "{hints}");
    // Another reason than that of the helper.
    let hints = hints_of(&format!("{bootstrap} || exit 9"), "true");
    assert!(hints.contains(looks), "{hints}");
    let hints = hints_of(&format!("{bootstrap} || true"), "exit 1");
    assert!(hints.contains(looks), "{hints}");
    assert!(!hints.contains("URL"), "{hints}");
    // What is wrong with the arguments, and a file that is not there.
    let absent = "cache-url file:/no/such/file \"$TARGET_ROOT/file\"";
    let hints = hints_of(absent, "true");
    assert!(!hints.contains(looks), "{hints}");
}

#[test]
fn a_hook_cannot_speak_for_the_engine() {
    let forged = r#"exec 9>>"/proc/self/fd/$KILN_EVENTS_FD"
echo '{"event":"output-written","path":"x.tar","format":"tar","virtual_size":1,"file_size":1,"disk_size":1}' >&9
echo '{"event":"finished","seconds":1.0}' >&9
echo '{"event":"failed","message":"forged","hints":[],"status":1}' >&9
echo '{"event":"step-started","step":"a step","total":null}' >&9
echo '{"event":"step-finished","step":"a step","seconds":1.0}' >&9
echo after the step
"#;
    let is_end = |event: &Event| {
        matches!(
            event,
            Event::OutputWritten { .. } | Event::Finished { .. } | Event::Failed { .. }
        )
    };
    let toy = Toy::basic();
    // A process that stays and holds the pipe keeps nobody waiting.
    toy.hook("root", "90-forge", &format!("{forged}sleep 600 &"));
    let built = toy.build("-t tar").success();
    let ends: Vec<_> = built.events.iter().filter(|event| is_end(event)).collect();
    assert!(
        matches!(
            ends[..],
            [Event::OutputWritten { .. }, Event::Finished { seconds }] if *seconds != 1.0
        ),
        "{ends:?}"
    );
    assert_eq!(built.lines_after("{\"event\":").len(), 3);
    // Steps are told, before what is printed after them and before the hook's end.
    let place = |wanted: &dyn Fn(&Event) -> bool| built.events.iter().position(wanted);
    let step =
        place(&|event| matches!(event, Event::StepFinished { step, .. } if step == "a step"));
    let line = place(&|event| matches!(event, Event::Output { line } if line == "after the step"));
    let end =
        place(&|event| matches!(event, Event::HookFinished { hook, .. } if hook == "90-forge"));
    assert!(
        step.is_some() && step < line && line < end,
        "{step:?} {line:?} {end:?}"
    );

    let toy = Toy::basic();
    toy.hook(
        "root",
        "90-forge",
        &format!("{forged}kill -9 -1\nsleep 600"),
    );
    let built = toy.build("-t tar");
    let (message, _, status) = built.failure();
    assert!(message.contains("root.d/90-forge"), "{message}");
    assert_ne!(status, 0);
    assert_eq!(built.events.iter().filter(|event| is_end(event)).count(), 1);
    assert_eq!(toy.outputs(), Vec::<String>::new());
}

#[test]
fn manifests_are_those_of_the_image_that_is_there() {
    let toy = Toy::basic();
    let saved = toy.output("d").join("dib-manifests");
    let build = |marker: &str, end: &str| {
        toy.hook(
            "cleanup",
            "00-mark",
            &format!("echo {marker} >\"$TARGET_ROOT/etc/dib-manifests/mark\""),
        );
        toy.hook("cleanup", "90-end", end);
        toy.build("manifests -t tar --overwrite")
    };
    build("first", "exit 9").failure();
    assert_eq!(toy.outputs(), Vec::<String>::new());
    build("second", "true").success();
    let mark = || fs::read_to_string(saved.join("mark")).expect("it was saved");
    assert_eq!(mark(), "second\n");
    build("third", "exit 9").failure();
    assert_eq!(mark(), "second\n");
    // What lies there is replaced and not written through.
    let victim = toy.world.work().join("victim");
    fs::write(&victim, "mine").expect("a file can be written");
    fs::remove_file(saved.join("mark")).expect("it is there");
    std::os::unix::fs::symlink(&victim, saved.join("mark")).expect("a link can be made");
    build("fourth", "true").success();
    assert_eq!(mark(), "fourth\n");
    assert_eq!(fs::read_to_string(&victim).expect("it is there"), "mine");
}

#[test]
fn a_layout_that_never_ends_is_refused_by_name() {
    let toy = Toy::basic();
    let mut command = toy.command("-t raw --json");
    let built = Built::run(command.env("DIB_BLOCK_DEVICE_CONFIG", "file:///dev/zero"));
    let (message, hints, _) = built.failure();
    assert!(message.contains("`/dev/zero`"), "{message}");
    assert!(message.contains("a device"), "{message}");
    assert_eq!(hints.len(), 1);
}

#[test]
fn what_a_hook_made_of_the_target_is_named_where_it_does_not_serve() {
    let inside = Some(("install", "exit 0"));
    for (phase, name, script, inside, said) in [
        (
            "root",
            "20-link",
            "rm -r $TARGET_ROOT/etc && ln -s /nowhere $TARGET_ROOT/etc",
            None,
            "`/etc` of the target is a symbolic link to `/nowhere`, which is no directory there",
        ),
        (
            "root",
            "05-link",
            "ln -s /nowhere $TARGET_ROOT/tmp",
            None,
            "`/tmp` of the target is a symbolic link to `/nowhere`, which is no directory there",
        ),
        (
            "root",
            "05-link",
            "ln -s /nowhere $TARGET_ROOT/dev",
            None,
            "`/dev` of the target is a symbolic link to `/nowhere`, and not a directory of its own",
        ),
        (
            "root",
            "05-file",
            ": >$TARGET_ROOT/sys",
            None,
            "`/sys` of the target is a file, and not a directory",
        ),
        (
            "root",
            "50-link",
            "ln -s /etc $TARGET_ROOT/tmp/in_target.d",
            inside,
            "`/tmp/in_target.d` of the target is a symbolic link to `/etc`, and not a directory",
        ),
        (
            "pre-finalise",
            "50-file",
            "rmdir $TMP_MOUNT_PATH/tmp && mkfifo $TMP_MOUNT_PATH/tmp",
            Some(("finalise", "exit 0")),
            "`/tmp` of the target is a named pipe, and not a directory",
        ),
    ] {
        let toy = Toy::empty();
        let made = include_str!("../common/toy-root").replace("set -euo pipefail", "set -u");
        toy.hook("root", "10-toy", &made);
        toy.hook(phase, name, script);
        if let Some((phase, script)) = inside {
            toy.hook(phase, "50-inside", script);
        }
        let (message, hints, status) = toy.build("-t tar").failure();
        assert!(message.contains(said), "{script}: {message}");
        assert!(
            hints.join("\n").contains("let it make a directory there"),
            "{script}: {hints:?}"
        );
        assert_eq!(status, 1, "{script}");
        assert_eq!(toy.outputs(), Vec::<String>::new(), "{script}");
        toy.assert_swept();
    }
}

#[test]
fn a_hook_that_takes_the_target_away_is_named() {
    for phase in ["root", "extra-data", "cleanup"] {
        let toy = Toy::basic();
        toy.hook(phase, "50-move", "mv $TMP_MOUNT_PATH $TMP_BUILD_DIR/away");
        let (message, hints, _) = toy.build("-t tar").failure();
        let named = format!("hook `{phase}.d/50-move` of element `toy` moved the directory");
        assert!(message.starts_with(&named), "{message}");
        assert!(message.contains("/mnt`, away"), "{message}");
        assert_eq!(hints.len(), 1, "{hints:?}");
        assert_eq!(toy.outputs(), Vec::<String>::new(), "{phase}");
        toy.assert_swept();
    }
}

#[test]
fn logs_are_emptied_however_deep_and_a_temporary_directory_may_go() {
    let toy = Toy::basic();
    toy.hook(
        "cleanup",
        "50-deep",
        "rmdir $TARGET_ROOT/tmp\n\
         cd $TARGET_ROOT/var/log\n\
         for n in {1..600}; do mkdir a-name-of-some-length; cd -P a-name-of-some-length; done\n\
         echo line >deep",
    );
    toy.build("-t tar").success();
    let file = fs::File::open(toy.output("tar")).expect("an image");
    let mut deep = None;
    for entry in tar::Archive::new(file).entries().expect("a tar") {
        let entry = entry.expect("an entry");
        let path = entry.path().expect("a path").into_owned();
        if path.ends_with("a-name-of-some-length/deep") {
            deep = Some(entry.size());
        }
    }
    assert_eq!(deep, Some(0));
}
