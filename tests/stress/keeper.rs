//! The role that enters a namespace and runs programs below a supervisor.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln::build::owners::Recorded;
use kiln::sandbox::command::{Program, shell_status};
use kiln::sandbox::notify::{Options, Supervisor};
use kiln::sandbox::{choice, identity, userns};
use kiln::tree::Timestamp;
use kiln::tree::live::{Owners, ScanOptions, scan};

/// Exit status where the host has not got the mode.
pub const UNAVAILABLE: i32 = 77;

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// Does all of it; the exit status.
pub fn run() -> i32 {
    let identity = match choice::choose(Some(&variable("KILN_STRESS_MODE"))) {
        Ok(choice) => choice.identity,
        Err(error) => {
            eprintln!("{error}");
            return UNAVAILABLE;
        }
    };
    let result = userns::run_mapped(&identity, || match inside() {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("keeper: {error}");
            1
        }
    });
    result.map_or_else(
        |error| {
            eprintln!("{error}");
            1
        },
        i32::from,
    )
}

fn inside() -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let directory = PathBuf::from(variable("KILN_STRESS_DIRECTORY"));
    let tree = directory.join("tree");
    fs::create_dir(&tree).map_err(|error| text(&error))?;
    // The user may not be the one who made it.
    for path in [&directory, &tree] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
            .map_err(|error| text(&error))?;
    }
    let options = if identity::owners_are_recorded() {
        Options::single()
    } else {
        Options::ranges()
    };
    let supervisor = Supervisor::start(Options {
        killable: variable("KILN_STRESS_KILLABLE") != "0",
        guarded: options.guarded && variable("KILN_STRESS_GUARDED") != "0",
        journal: Some((directory.join("owners"), directory.clone())),
        ..options
    })
    .map_err(|error| text(&error))?;
    let this = std::env::current_exe().map_err(|error| text(&error))?;
    for name in variable(super::PROGRAM).split(' ') {
        let mut environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
        environment.push((super::ROLE.into(), "program".into()));
        environment.retain(|(key, value)| key != super::ROLE || value == "program");
        environment.retain(|(key, _)| key != super::PROGRAM);
        environment.push((super::PROGRAM.into(), name.into()));
        let arguments = match (name, variable("KILN_STRESS_I386")) {
            ("i386", path) => vec![path.into()],
            _ => vec![this.clone().into()],
        };
        let program = Program {
            arguments,
            environment,
            inside: None,
            watch: None,
            directory: tree.clone(),
            handed: None,
            filter: Some(supervisor.filter()),
            keep_open: None,
        };
        let status = program
            .run(&mut |line| println!("{}", String::from_utf8_lossy(line)))
            .map_err(|error| text(&error))?;
        supervisor.check().map_err(|error| text(&error))?;
        match shell_status(status) {
            0 => {}
            status => return Err(format!("program {name} ended with {status}")),
        }
    }
    let owners: Arc<dyn Owners> = Arc::new(Recorded(supervisor.store().clone()));
    let dump = dump(&tree, owners)?;
    fs::write(directory.join("dump"), dump).map_err(|error| text(&error))?;
    // Files of other ids are only ours to remove in here.
    fs::remove_dir_all(&tree).map_err(|error| text(&error))
}

/// A tree as text, without times and with a sum of each file's content.
fn dump(tree: &Path, owners: Arc<dyn Owners>) -> Result<String, String> {
    let options = ScanOptions {
        owners: Some(owners),
        clamp_mtime: Some(Timestamp::default()),
        ..ScanOptions::default()
    };
    let scanned = scan(tree, &options).map_err(|error| error.to_string())?;
    let mut dump = scanned.dump();
    sums(tree, "", &mut dump).map_err(|error| error.to_string())?;
    let mut lines: Vec<&str> = dump.lines().collect();
    lines.sort_unstable();
    Ok(lines.join("\n"))
}

/// Adds links and a sum of each file below a directory, however deep.
fn sums(directory: &Path, name: &str, dump: &mut String) -> std::io::Result<()> {
    let open = fs::File::open(directory)?;
    // No path gets longer than this and a name.
    let here = PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()));
    for entry in fs::read_dir(&here)?.flatten() {
        let path = here.join(entry.file_name());
        let name = format!("{name}/{}", entry.file_name().display());
        let meta = path.symlink_metadata()?;
        if meta.is_dir() {
            sums(&path, &name, dump)?;
        } else if meta.is_file() {
            let sum = crc32c::crc32c(&fs::read(&path)?);
            let _ = writeln!(dump, "content {name} {} {sum:x}", meta.nlink());
        }
    }
    Ok(())
}
