//! Limits on time, memory, disk and processes.

use std::time::Instant;

use crate::common;
use crate::common::toy::{Built, Toy};
use crate::common::watch::{eventually, marked};
use crate::skip;

#[test]
fn a_hook_that_takes_too_long_is_ended_with_all_it_started() {
    let mut toy = Toy::empty();
    let mark = format!("kiln-timeout-{}", std::process::id());
    toy.world.set("KILN_TEST_MARK", &mark);
    // The only hook that takes any time, so that a busy machine ends no other one.
    toy.hook("root", "10-root", "mkdir -p \"$TARGET_ROOT/etc\"");
    toy.hook(
        "root",
        "50-sleep",
        "trap '' HUP INT TERM\nsetsid sleep 600 &\nsleep 600",
    );
    let started = Instant::now();
    let built = toy.build("-t tar --timeout 20s");
    let (message, hints, status) = built.failure();
    assert_eq!(
        message,
        "hook `root.d/50-sleep` of element `toy` took longer than 20 s, the limit of `--timeout`"
    );
    assert_eq!(status, 124);
    assert!(hints[0].contains("KILN_TIMEOUT"), "{hints:?}");
    assert!(started.elapsed().as_secs() < 300, "it waited for the sleep");
    assert!(eventually(|| marked(&mark).is_empty()));
    toy.assert_swept();
}

#[test]
fn a_build_that_takes_too_long_is_ended() {
    let mut toy = Toy::basic();
    let mark = format!("kiln-build-timeout-{}", std::process::id());
    toy.world.set("KILN_TEST_MARK", &mark);
    toy.hook("install", "50-sleep", "sleep 600");
    let built = toy.build("-t tar --build-timeout 3s");
    let (message, hints, status) = built.failure();
    // What it was at depends on how fast the machine is.
    assert!(
        message.starts_with(
            "the build took longer than 3 s, the limit of `--build-timeout`, and was ended"
        ),
        "{message}"
    );
    assert!(message.ends_with("; no image was written"), "{message}");
    assert_eq!(status, 124);
    assert!(hints[0].contains("KILN_BUILD_TIMEOUT"), "{hints:?}");
    assert!(eventually(|| marked(&mark).is_empty()));
    assert_eq!(toy.outputs(), Vec::<String>::new());
    toy.assert_swept();
}

/// Fails the test if a build of what this element does is not ended by the limit of 30 s;
/// does nothing where the mode is not to be had.
#[track_caller]
fn assert_ended_in_time(toy: &Toy, mode: &str) {
    // A build that waits for ever is ended.
    let mut command = toy.world.command("timeout");
    command.args(["-k", "5", "120"]).arg(common::kiln());
    let arguments = format!("build toy -n -o toy -t tar --overwrite --json --timeout 30s {mode}");
    let built = Built::run(command.args(arguments.split_whitespace()));
    let (message, _, status) = built.failure();
    if message.contains("mode `") || message.contains("namespace") {
        common::skipped(&message);
        return;
    }
    assert_eq!(status, 124, "{message}");
    assert!(message.contains("longer than 30 s"), "{message}");
    toy.assert_swept();
}

#[test]
fn a_hook_that_stops_all_processes_does_not_stop_its_limits() {
    for mode in ["", "--mode single"] {
        let toy = Toy::basic();
        toy.hook("install", "50-stop", "kill -STOP -1\nsleep 600");
        assert_ended_in_time(&toy, mode);
    }
}

#[test]
fn a_hook_that_joins_the_engine_to_stop_it_does_not_stop_its_limits() {
    if common::tool("perl").is_none() {
        skip!("perl is not installed");
    }
    let mut toy = Toy::basic();
    toy.world.set("TOY_PROGRAMS", "perl");
    // The kernel does not stop the engine by this signal while all of its group have their
    // parents in it or in another session.
    toy.hook(
        "install",
        "50-stop",
        "exec perl -e '$engine = getppid;\n\
            if (!fork) { setpgrp(0, 0); if (!fork) { setpgrp(0, getpgrp($engine)) } sleep 600 }\n\
            sleep 1; kill TSTP => $engine; sleep 600'",
    );
    for mode in ["", "--mode single"] {
        assert_ended_in_time(&toy, mode);
    }
}

/// Stops what the engine starts next while it is still a copy of the engine.
const STOP_EARLY: &str = r#"
engine=$PPID
read -r kilns </proc/$engine/comm
stop() {
    while [ -e /proc/$hook ]; do :; done
    while :; do
        for one in /proc/[0-9]*; do
            one=${one#/proc/}
            if [ $one -le 1 ] || [ $one = $engine ] || [ $one = $BASHPID ]; then continue; fi
            kill -STOP $one || continue
            read -r name </proc/$one/comm || continue
            [ "$name" != "$kilns" ] || exec sleep 600
            kill -CONT $one
        done
    done
}
hook=$$
stop </dev/null >/dev/null 2>&1 &
"#;

#[test]
fn a_program_that_is_stopped_before_it_runs_does_not_stop_its_limits() {
    for mode in ["", "--mode single"] {
        let toy = Toy::basic();
        toy.hook("install", "50-stop", STOP_EARLY);
        for number in 51..90 {
            toy.hook("install", &format!("{number}-next"), "true");
        }
        // Not stopped in time.
        toy.hook("install", "95-last", "sleep 600");
        assert_ended_in_time(&toy, mode);
    }
}

#[test]
fn a_hook_that_takes_all_memory_is_ended() {
    for place in ["", "--no-tmpfs"] {
        let toy = Toy::basic();
        toy.hook(
            "root",
            "20-more",
            "cp -L $(type -P mkfifo) $TARGET_ROOT/usr/bin/",
        );
        // Each piece is small enough for one program; their sum is not.
        toy.hook(
            "install",
            "50-eat",
            // A block that nobody reads is held in full.
            "mkfifo /pipe\nexec 3<>/pipe\n\
             for n in 1 2 3 4 5 6; do dd if=/dev/zero bs=60M count=1 >&3 2>/dev/null & done\n\
             for n in 1 2 3 4 5 6; do wait -n; done",
        );
        let built = toy.build(&format!("-t tar --memory 200M {place}"));
        let (message, hints, status) = built.failure();
        assert_ne!(status, 0);
        let told =
            message.contains("--memory") || hints.iter().any(|hint| hint.contains("--memory"));
        assert!(told, "{message} {hints:?}");
        toy.assert_swept();
    }
}

#[test]
fn memory_of_programs_whose_first_thread_has_ended_counts() {
    if nix::unistd::geteuid().is_root() {
        skip!("a control group counts the memory of root's programs");
    }
    for mode in ["auto", "single"] {
        let toy = Toy::basic();
        if !toy.program("headless", super::processes::HEADLESS, "") {
            return;
        }
        toy.hook(
            "install",
            "50-eat",
            "/headless 120; /headless 120; sleep 20",
        );
        let built = toy.build(&format!("-t tar --memory 200M --no-tmpfs --mode {mode}"));
        if built.outcome.stdout.contains("by a control group") {
            skip!("a control group counts the memory of programs");
        }
        let (message, hints, _) = built.failure();
        if message.contains("mode `") {
            continue;
        }
        let told =
            message.contains("--memory") || hints.iter().any(|hint| hint.contains("--memory"));
        assert!(told, "{mode}: {message} {hints:?}");
    }
}

#[test]
fn a_hook_whose_program_gets_no_more_memory_is_told_the_limit() {
    let toy = Toy::basic();
    toy.hook("install", "50-eat", "x=x\nwhile :; do x=$x$x; done");
    let built = toy.build("-t tar --memory 200M");
    let (message, hints, _) = built.failure();
    let told = message.contains("--memory") || hints.iter().any(|hint| hint.contains("--memory"));
    assert!(told, "{message} {hints:?}");
    toy.assert_swept();
}

#[test]
fn a_hook_that_fills_the_disk_fails_and_the_host_has_its_space_back() {
    for place in ["", "--no-tmpfs"] {
        let toy = Toy::basic();
        toy.hook(
            "install",
            "50-fill",
            "for n in $(seq 40); do head -c 10000000 /dev/zero >/home/$n; sleep 0.02; done 2>/dev/null",
        );
        toy.hook(
            "root",
            "20-seq",
            "cp -L $(type -P seq) $TARGET_ROOT/usr/bin/",
        );
        let built = toy.build(&format!("-t tar --disk 100M {place}"));
        let (message, hints, _) = built.failure();
        let expected = if place.is_empty() {
            "hook `install.d/50-fill` of element `toy` failed with exit status 1"
        } else {
            "filled the build's directory with"
        };
        // A host with little memory builds on disk in any case.
        assert!(
            message.contains(expected) || message.contains("filled the build's directory"),
            "{message}"
        );
        let said = hints.join("\n");
        assert!(said.contains("`--disk`"), "{said}");
        assert_eq!(toy.outputs(), Vec::<String>::new());
        toy.assert_swept();
    }
}

#[test]
fn a_build_in_memory_has_a_limit_of_files_in_proportion_to_its_size() {
    let toy = Toy::empty();
    toy.hook("root", "10-root", "mkdir -p \"$TARGET_ROOT/etc\"");
    toy.hook(
        "extra-data",
        "50-empty",
        "mkdir \"$TMP_BUILD_DIR/many\"\n\
         stat -f -c 'files %T %c' \"$TMP_BUILD_DIR\"\n\
         (cd \"$TMP_BUILD_DIR/many\" && seq 60000 | xargs touch)",
    );
    // kiln itself is a file of the build, and large where it is not optimised.
    let built = toy.build("-t tar --disk 200M");
    let files = built.lines_after("files ");
    let place = files
        .first()
        .unwrap_or_else(|| panic!("{:?} {:?}", built.lines(), built.events.last()));
    if !place.starts_with("tmpfs") {
        skip!("a host with little memory builds on disk");
    }
    assert_eq!(files, ["tmpfs 51200"]);
    let (_, hints, _) = built.failure();
    let said = hints.join("\n");
    assert!(
        said.contains("files, which is about all that it may"),
        "{said}"
    );
    assert!(said.contains("`--disk` (or `KILN_DISK`) gives"), "{said}");
    toy.build("-t tar --disk 300M").success();
    toy.assert_swept();
}

#[test]
fn a_single_file_cannot_pass_the_limit_either() {
    let toy = Toy::basic();
    toy.hook(
        "install",
        "50-fill",
        // Killed by SIGXFSZ.
        "status=0\nhead -c 500000000 /dev/zero >/home/large || status=$?\n\
         echo \"ended $status $(stat -c %s /home/large)\"\nexit $status",
    );
    let built = toy.build("-t tar --disk 100M --no-tmpfs");
    let (message, _, _) = built.failure();
    // Either the kernel stops the program at the limit, or kiln sees the sum before.
    match built.lines_after("ended ").first() {
        Some(ended) => assert_eq!(ended, &format!("{} {}", 128 + 25, 100 << 20), "{message}"),
        None => assert!(
            message.contains("filled the build's directory"),
            "{message}"
        ),
    }
    toy.assert_swept();
}

#[test]
fn a_fork_bomb_is_bounded_and_ends_with_its_build() {
    let mut modes = vec!["auto", "single"];
    if nix::unistd::geteuid().is_root() {
        modes.push("chroot");
    }
    for mode in modes {
        let mut toy = Toy::basic();
        let mark = format!("kiln-bomb-{}-{mode}", std::process::id());
        toy.world.set("KILN_TEST_MARK", &mark);
        toy.hook(
            "install",
            "50-bomb",
            "grow() { grow & grow & sleep 600; }\ngrow 2>/dev/null &\nsleep 2\nexit 1",
        );
        let built = toy.build(&format!(
            "-t tar --processes 150 --timeout 60s --mode {mode}"
        ));
        let (message, hints, _) = built.failure();
        if message.contains("mode `") || message.contains("user namespace") {
            common::skipped(&message);
            continue;
        }
        // Either kiln counts them in time, or the hook's own shell cannot fork any more.
        let told = message.contains("`--processes`")
            || hints.iter().any(|hint| hint.contains("`--processes`"));
        let errors = &built.outcome.stderr;
        assert!(told, "{mode}: {message} {hints:?}\n{errors}");
        assert!(eventually(|| marked(&mark).is_empty()), "{mode}");
        toy.assert_swept();
    }
}

#[test]
fn a_shell_that_cannot_fork_is_explained_by_the_limit() {
    for mode in ["auto", "single"] {
        let toy = Toy::basic();
        // What bash does after its last vain try; daemons that have ended by then
        // leave nothing to count.
        toy.hook("install", "50-no-fork", "exit 254");
        let built = toy.build(&format!("-t tar --processes 150 --mode {mode}"));
        let (message, hints, status) = built.failure();
        if message.contains("mode `") || message.contains("user namespace") {
            common::skipped(&message);
            continue;
        }
        assert_eq!(status, 254, "{message}");
        assert!(
            hints[0].contains("`--processes`") && hints[0].contains("150"),
            "{hints:?}"
        );
    }
}

#[test]
fn a_process_that_the_kernel_refuses_is_explained_by_the_limit() {
    if !nix::unistd::geteuid().is_root() {
        skip!("only root's processes are counted by a control group");
    }
    if common::tool("perl").is_none() {
        skip!("perl is not installed");
    }
    let toy = Toy::basic();
    // The processes are gone before anybody can count them.
    toy.hook(
        "extra-data",
        "50-many",
        "exec perl -e 'while (defined($child = fork)) { \
             if (!$child) { sleep 60; exit } push @all, $child } \
             kill 9, @all; exit 7'",
    );
    let built = toy.build("-t tar --mode root --processes 100");
    let (message, hints, _) = built.failure();
    if message.contains("user namespace") {
        skip!("{message}");
    }
    let said = format!("{message}\n{}", hints.join("\n"));
    assert!(said.contains("`--processes`"), "{said}");
    let refused = "`--processes` was reached and the kernel refused to start a process";
    // Whether kiln counted them in time, which a busy machine may do.
    let counted = message.contains("programs that run at a time");
    assert!(counted || said.contains(refused), "{said}");
    toy.assert_swept();
}

/// Mounts control groups in a namespace of its own, and without one.
const GROUPS: &str = r#"
groups() {
    place=$1/groups
    mkdir -p $place
    for options in "-t cgroup2" "-t cgroup -o memory" "-t cgroup -o pids" "-t cgroup -o freezer"; do
        mount $options none $place 2>/dev/null || continue
        echo "mounted $options"
        umount $place
    done
}
export -f groups
groups "$TARGET"
unshare --cgroup --mount bash -c 'groups "$TARGET"' || true
echo tried
"#;

#[test]
fn no_hook_mounts_control_groups() {
    if common::tool("unshare").is_none() {
        skip!("unshare is not installed");
    }
    let mut toy = Toy::basic();
    toy.world.set("TOY_PROGRAMS", "unshare");
    toy.hook(
        "extra-data",
        "50-mount",
        &format!("export TARGET=$TMP_MOUNT_PATH\n{GROUPS}"),
    );
    toy.hook("install", "50-mount", &format!("export TARGET=\n{GROUPS}"));
    for mode in ["auto", "single"] {
        let built = toy.build(&format!("-t tar --overwrite --mode {mode}"));
        if !built.had_its_mode() {
            continue;
        }
        let built = built.success();
        assert_eq!(
            built.lines_after("mounted "),
            Vec::<String>::new(),
            "{mode}"
        );
        let lines = built.lines();
        let tried = lines.iter().filter(|line| *line == "tried").count();
        assert_eq!(tried, 2, "{mode}: {lines:?}");
    }
}
