//! Programs that make each call that the supervisor answers, in every mode: the
//! trees that they leave must be the same.
//!
//! A test starts this binary again in one of two roles. The *keeper* enters a
//! user namespace of the wanted mode, starts the supervisor and runs a *program*
//! below it, then writes down what the tree looks like. Both roles are taken
//! before the test harness starts its threads, since a namespace can only be
//! entered by a process with one.

mod common;
// First, because the others use its macro.
#[macro_use]
#[path = "stress/program.rs"]
mod program;
#[path = "stress/answers.rs"]
mod answers;
#[path = "stress/attributes.rs"]
mod attributes;
#[path = "stress/corners.rs"]
mod corners;
#[path = "stress/escapes.rs"]
mod escapes;
#[path = "stress/fuse.rs"]
mod fuse;
#[path = "stress/hazards.rs"]
mod hazards;
#[path = "stress/keeper.rs"]
mod keeper;
#[path = "stress/lists.rs"]
mod lists;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::skipped;

/// Which role this process has.
const ROLE: &str = "KILN_STRESS_ROLE";
/// Which program to run, or to be.
const PROGRAM: &str = "KILN_STRESS_PROGRAM";

/// What may be changed from outside: microseconds between signals, of which an
/// emulated machine needs more, and `0` for no guard, with which calls are interrupted.
const TUNABLE: [&str; 2] = ["KILN_STRESS_TICK", "KILN_STRESS_GUARDED"];

/// Runs before `main`, and never returns in one of the roles.
extern "C" fn take_role() {
    let status = match std::env::var(ROLE).as_deref() {
        Ok("keeper") => keeper::run(),
        Ok("program") => program::run(),
        _ => return,
    };
    std::process::exit(status);
}

#[used]
// SAFETY: functions listed here are called once, with one thread, after the C
// library is ready.
#[unsafe(link_section = ".init_array")]
static TAKE_ROLE: extern "C" fn() = take_role;

/// What a keeper found out.
struct Kept {
    /// What the programs printed.
    output: String,
    /// The tree, a line a file.
    tree: String,
    directory: tempfile::TempDir,
}

impl Kept {
    fn journal(&self) -> PathBuf {
        self.directory.path().join("owners")
    }
}

/// Runs programs one after the other in a mode; `None`, with a message, if this
/// host has not got it.
fn keep(mode: &str, programs: &str, variables: &[(&str, &str)]) -> Option<Kept> {
    let directory = tempfile::Builder::new()
        .prefix("kiln-stress.")
        .tempdir()
        .expect("a temporary directory can be made");
    let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
    command
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .envs(
            TUNABLE
                .into_iter()
                .filter_map(|name| Some((name, std::env::var_os(name)?))),
        )
        .env(ROLE, "keeper")
        .env("KILN_STRESS_MODE", mode)
        .env("KILN_STRESS_DIRECTORY", directory.path())
        .env(PROGRAM, programs)
        .envs(variables.iter().copied());
    let output = command.output().expect("this program can be started");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (said, errors) = (text(&output.stdout), text(&output.stderr));
    match output.status.code() {
        Some(0) => Some(Kept {
            output: said,
            tree: fs::read_to_string(directory.path().join("dump")).expect("the tree was dumped"),
            directory,
        }),
        Some(keeper::UNAVAILABLE) => {
            println!("mode {mode} is not available: {}", errors.trim());
            None
        }
        _ => panic!("mode {mode}: {}\n{said}\n{errors}", output.status),
    }
}

/// The modes that are compared. A mode is only missing where the host lacks it.
const MODES: [&str; 3] = ["root", "subordinate", "single"];

/// Runs programs in all modes that there are and compares what they leave.
fn compare(programs: &str, variables: &[(&str, &str)]) -> Vec<Kept> {
    let kept: Vec<(&str, Kept)> = MODES
        .into_iter()
        .filter_map(|mode| Some((mode, keep(mode, programs, variables)?)))
        .collect();
    if kept.len() < 2 {
        skipped("fewer than two modes are available here");
    }
    for (mode, one) in &kept {
        let wrong: Vec<&str> = one
            .output
            .lines()
            .filter(|line| !line.starts_with("ok "))
            .collect();
        assert_eq!(wrong, Vec::<&str>::new(), "mode {mode}");
        let first = &kept[0];
        let different: Vec<String> = differences(&first.1.tree, &one.tree);
        assert!(
            different.is_empty(),
            "{} lines differ between {} and {mode}:\n{}",
            different.len(),
            first.0,
            different.join("\n")
        );
    }
    kept.into_iter().map(|(_, kept)| kept).collect()
}

/// Lines that only one of two dumps has.
fn differences(one: &str, other: &str) -> Vec<String> {
    let lines = |text: &'static str, one: &str, other: &str| {
        let other: std::collections::HashSet<&str> = other.lines().collect();
        let only = one.lines().filter(|line| !other.contains(line));
        only.map(|line| format!("{text} {line}"))
            .collect::<Vec<_>>()
    };
    let mut all = lines("-", one, other);
    all.extend(lines("+", other, one));
    all
}

fn count(tree: &str, pattern: &str) -> usize {
    tree.lines().filter(|line| line.contains(pattern)).count()
}

#[test]
fn each_call_leaves_the_same_tree_in_every_mode() {
    let all = compare("calls devices look", &[]);
    for kept in &all {
        // The compare would also succeed over nothing.
        // Older architectures have more calls that make files.
        let least = if cfg!(target_arch = "x86_64") { 10 } else { 5 };
        assert!(count(&kept.tree, " 33:44 ") > least, "{}", kept.tree);
        assert_eq!(count(&kept.tree, " block "), 3, "{}", kept.tree);
        assert_eq!(count(&kept.tree, " char "), 5, "{}", kept.tree);
        assert!(count(&kept.tree, "trusted.kiln=0x") > 0, "{}", kept.tree);
        assert!(count(&kept.tree, "security.kiln=0x") > 0, "{}", kept.tree);
        assert_eq!(count(&kept.tree, " socket "), 2, "{}", kept.tree);
    }
}

#[test]
fn what_is_told_of_a_directory_is_what_is_told_of_each_file() {
    for kept in compare("lists", &[]) {
        // The directory of a group and what was made in it, and a file of the group.
        assert_eq!(count(&kept.tree, " 0:7 "), 4, "{}", kept.tree);
        assert!(count(&kept.tree, " 1:0 ") > 0, "{}", kept.tree);
    }
}

#[test]
fn what_few_programs_ask_is_answered_as_root_would_be() {
    for kept in compare("corners answers", &[]) {
        assert_eq!(kept.output, "ok corners\nok answers\n");
        assert_eq!(count(&kept.tree, " 33:44 "), 6, "{}", kept.tree);
        for (name, minor) in [("before", 1), ("still", 2), ("inside", 3), ("after", 4)] {
            let start = format!("/roots/kiln-root/{name} block ");
            let mut lines = kept.tree.lines();
            let line = lines.find(|line| line.starts_with(&start));
            let device = format!(" 7:{minor}");
            let found = line.is_some_and(|line| line.contains(&device));
            assert!(found, "{name}: {line:?}");
        }
    }
}

#[test]
fn records_can_be_read_back_from_the_journal() {
    use kiln::sandbox::store::Store;
    let Some(kept) = keep("single", "calls devices", &[]) else {
        skip!("mode single is not available here");
    };
    let store = Store::open(true, &kept.journal(), 0).expect("a journal");
    let owned = kept
        .tree
        .lines()
        .filter(|line| line.starts_with('/'))
        .filter(|line| !line.contains(" 0:0 ") && !line.contains(" = /"))
        .count();
    assert!(
        store.len() >= owned,
        "{} records, {owned} files",
        store.len()
    );
}

#[test]
fn programs_for_32_bits_see_and_leave_the_same() {
    let directory = tempfile::tempdir().expect("a directory");
    let program = directory.path().join("i386");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stress/i386.c");
    let compiled = Command::new("cc")
        .args("-m32 -static -nostdlib -ffreestanding -fno-pic -no-pie -fno-stack-protector -O1 -Wall -o".split(' '))
        .args([&program, &source])
        .output();
    match compiled {
        Ok(output) if output.status.success() => {}
        other => skip!("no compiler for 32 bits: {other:?}"),
    }
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(directory.path(), permissions).expect("ours");
    let path = program.to_str().expect("a plain name");
    if Command::new(&program).arg("nothing").output().is_err() {
        skip!("this kernel runs no programs for 32 bits");
    }
    let all = compare("i386", &[("KILN_STRESS_I386", path)]);
    for kept in &all {
        assert!(count(&kept.tree, " 60000:65533 ") == 1, "{}", kept.tree);
        assert!(count(&kept.tree, " block ") == 1, "{}", kept.tree);
    }
}

#[test]
fn signals_interrupt_no_call_that_is_answered() {
    for (killable, rounds, least) in [("1", "2500", 30_000), ("0", "500", 6_000)] {
        let variables = [
            ("KILN_STRESS_KILLABLE", killable),
            ("KILN_STRESS_ROUNDS", rounds),
        ];
        let Some(kept) = keep("single", "signals", &variables) else {
            skip!("mode single is not available here");
        };
        let line = kept
            .output
            .lines()
            .find(|line| line.starts_with("ok signals "));
        let line = line.unwrap_or_else(|| panic!("killable {killable}: {}", kept.output));
        let number = |at| {
            line.split(' ')
                .nth(at)
                .and_then(|word| word.parse::<u64>().ok())
        };
        let (calls, delivered) = (number(2), number(3));
        assert!(calls >= Some(least), "{line}");
        // A host that is too slow to deliver any would prove nothing.
        assert!(delivered > Some(20), "{line}");
    }
}

#[test]
fn a_filesystem_served_from_inside_does_not_block_the_supervisor() {
    let device = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse");
    if let Err(error) = device {
        skip!("/dev/fuse: {error}");
    }
    let Some(kept) = keep("single", "fuse", &[]) else {
        skip!("mode single is not available here");
    };
    assert_eq!(kept.output, "ok fuse\n");
}

#[test]
fn paths_that_change_during_a_call_reach_nothing_else() {
    let Some(kept) = keep("single", "races", &[]) else {
        skip!("mode single is not available here");
    };
    assert_eq!(kept.output, "ok races\n");
}

#[test]
fn owners_survive_the_copy_from_a_lower_layer() {
    let Some(kept) = keep("single", "overlay", &[]) else {
        skip!("mode single is not available here");
    };
    if let Some(reason) = kept.output.strip_prefix("none: ") {
        skip!("no overlay can be mounted here: {}", reason.trim());
    }
    assert_eq!(kept.output, "ok overlay\n");
}

#[test]
fn no_answered_call_leaves_the_root_of_the_program_that_makes_it() {
    let mut met = 0;
    // In the other modes only devices and attributes are answered.
    for mode in MODES {
        let Some(kept) = keep(mode, "escapes", &[]) else {
            continue;
        };
        met += 1;
        assert!(
            kept.output.starts_with("ok escapes "),
            "{mode}: {}",
            kept.output
        );
        let out: Vec<&str> = kept
            .tree
            .lines()
            .filter(|line| line.starts_with("/out/"))
            .collect();
        assert_eq!(out.len(), 1, "{mode}: {out:?}");
        assert!(
            out[0].starts_with("/out/there ") && out[0].contains(" 5:6 "),
            "{mode}: {out:?}"
        );
    }
    if met == 0 {
        skip!("no mode is available here");
    }
}
