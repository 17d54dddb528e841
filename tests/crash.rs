//! `kill -9` of any process of a build, at any moment, leaves nothing.

mod common;
#[path = "crash/moments.rs"]
mod moments;

use std::fs;

use nix::sys::signal::Signal;

use common::Run as _;
use common::toy::{PHASES, Toy};
use common::watch::{Process, Started, VICTIMS, Victim, eventually, marked};

/// A toy build of which all processes carry a mark, which is returned.
fn marked_toy(name: &str) -> (Toy, String) {
    let mut toy = Toy::basic();
    let mark = format!("kiln-crash-{}-{name}", std::process::id());
    toy.world.set("KILN_TEST_MARK", &mark);
    (toy, mark)
}

/// Kills one process once the build says `READY`, and looks for what is left.
fn kill_when_ready(toy: &Toy, mark: &str, arguments: &str, victim: Victim, what: &str) {
    let mut build = Started::new(&mut toy.command(arguments));
    build.until("READY");
    let parts = build.parts();
    let family = parts.main.family();
    victim.1(&parts).signal(Signal::SIGKILL);
    let (status, _, said) = build.end();
    assert_ne!(status, 0, "{what}: the build succeeded: {said}");
    let living = || {
        family
            .iter()
            .filter(|process| process.lives())
            .copied()
            .collect::<Vec<Process>>()
    };
    assert!(
        eventually(|| living().is_empty() && marked(mark).is_empty()),
        "{what}: left are {:?} {:?}",
        living(),
        marked(mark)
    );
    // Main or the keeper removes the build's directory, whichever is left.
    assert!(
        eventually(
            || fs::read_dir(toy.world.tmp()).is_ok_and(|mut entries| entries.next().is_none())
        ),
        "{what}: {:?} is left",
        common::toy::names(&toy.world.tmp())
    );
    toy.assert_swept();
    assert_eq!(
        toy.outputs(),
        Vec::<String>::new(),
        "{what}: something was written"
    );
}

/// Kills `victim` in every phase, in memory and on disk by turns, and builds
/// once more at the end.
fn in_every_phase(victim: Victim, first_in_memory: bool) {
    for (number, (phase, _)) in PHASES.into_iter().enumerate() {
        let (toy, mark) = marked_toy(&format!("{}-{phase}", victim.0));
        let sleeper = "[ ! -z \"${CRASH_NOT:-}\" ] || {\n\
             trap '' HUP INT TERM\n\
             setsid sleep 600 >/dev/null 2>&1 &\n\
             echo READY\n\
             sleep 600; }";
        toy.hook(phase, "50-sleep", sleeper);
        let in_memory = (number % 2 == 0) == first_in_memory;
        let place = if in_memory { "" } else { "--no-tmpfs" };
        let what = format!("{} in {phase} {place}", victim.0);
        kill_when_ready(&toy, &mark, &format!("-t tar {place}"), victim, &what);
        if number % 4 == 0 {
            let again = toy.command("-t tar").env("CRASH_NOT", "1").run();
            assert!(again.status.success(), "{what}: {}", again.stderr);
            assert_eq!(toy.outputs(), ["toy.tar"], "{what}");
            toy.assert_swept();
        }
    }
}

#[test]
fn killing_the_command_in_any_phase_leaves_nothing() {
    in_every_phase(VICTIMS[0], true);
}

#[test]
fn killing_the_keeper_in_any_phase_leaves_nothing() {
    in_every_phase(VICTIMS[1], false);
}

#[test]
fn killing_init_in_any_phase_leaves_nothing() {
    in_every_phase(VICTIMS[2], true);
}

#[test]
fn killing_the_engine_in_any_phase_leaves_nothing() {
    in_every_phase(VICTIMS[3], false);
}

#[test]
fn killing_a_process_while_an_image_is_written_leaves_nothing() {
    for (number, victim) in VICTIMS.into_iter().enumerate() {
        let (toy, mark) = marked_toy(&format!("writing-{}", victim.0));
        // Bytes that do not compress take a while to be written.
        toy.hook(
            "install",
            "10-large",
            "head -c 400000000 /dev/urandom >/home/large",
        );
        toy.hook("cleanup", "90-last", "echo LAST");
        let place = if number % 2 == 0 { "" } else { "--no-tmpfs" };
        let mut command = toy.command(&format!("-t raw,qcow2 --json {place}"));
        let mut build = Started::new(&mut command);
        build.until("LAST");
        build.until("\"event\":\"step-progress\"");
        let parts = build.parts();
        let family = parts.main.family();
        victim.1(&parts).signal(Signal::SIGKILL);
        let (status, _, said) = build.end();
        assert_ne!(status, 0, "{}: {said}", victim.0);
        assert!(
            eventually(|| family.iter().all(|process| !process.lives()) && marked(&mark).is_empty()),
            "{}: a process is left",
            victim.0
        );
        assert!(
            eventually(|| common::toy::names(&toy.world.tmp()).is_empty()),
            "{}: {:?} is left",
            victim.0,
            common::toy::names(&toy.world.tmp())
        );
        assert_eq!(toy.outputs(), Vec::<String>::new(), "{}", victim.0);
    }
}

#[test]
fn killing_all_processes_at_once_leaves_a_directory_that_the_next_build_sweeps() {
    for place in ["", "--no-tmpfs"] {
        let (toy, mark) = marked_toy("all");
        toy.hook(
            "install",
            "50-sleep",
            "[ ! -z \"${CRASH_NOT:-}\" ] || { echo READY; sleep 600; }",
        );
        let mut build = Started::new(&mut toy.command(&format!("-t tar {place}")));
        build.until("READY");
        let parts = build.parts();
        let family = parts.main.family();
        for process in [parts.main, parts.keeper, parts.init, parts.engine] {
            process.signal(Signal::SIGKILL);
        }
        assert_ne!(build.end().0, 0);
        assert!(eventually(|| {
            family.iter().all(|process| !process.lives()) && marked(&mark).is_empty()
        }));
        let again = toy.command("-t tar").env("CRASH_NOT", "1").run();
        assert!(again.status.success(), "{}", again.stderr);
        assert_eq!(toy.outputs(), ["toy.tar"]);
        toy.assert_swept();
    }
}

#[test]
fn directories_that_a_user_names_like_a_build_s_outlive_builds() {
    let (toy, _) = marked_toy("named");
    let tmp = toy.world.tmp();
    let names = ["kiln_build.abcdefgh", "kiln_build.images"];
    for name in names {
        fs::create_dir(tmp.join(name)).expect("made");
        fs::write(tmp.join(name).join("notes"), "mine").expect("written");
    }
    fs::create_dir(tmp.join("kiln_build.leftover")).expect("made");
    toy.command("-t tar").run().success();
    assert_eq!(common::toy::names(&tmp), names);
    for name in names {
        assert!(tmp.join(name).join("notes").exists(), "{name} is empty");
    }
}

#[test]
fn two_builds_at_a_time_do_not_sweep_each_other() {
    let (toy, _) = marked_toy("two");
    toy.hook(
        "install",
        "50-sleep",
        "[ -z \"${CRASH_WAIT:-}\" ] || { echo READY; sleep 5; }",
    );
    let mut first = Started::new(toy.command("-t tar -o first").env("CRASH_WAIT", "1"));
    first.until("READY");
    toy.command("-t tar -o second").run().success();
    let (status, _, said) = first.end();
    assert_eq!(status, 0, "{said}");
    assert_eq!(toy.outputs(), ["first.tar", "second.tar"]);
    toy.assert_swept();
}
