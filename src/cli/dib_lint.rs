//! The face `dib-lint`: checks elements against the rules of style.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Context;
use super::caller::Caller;
use super::failure::{Failure, misused};
use super::printer::printable;
use crate::build::arch::default_arch;
use crate::build::block_device;
use crate::element::lint::{self, Finding, RULES};

/// Directory that is checked when nothing is said.
const ELEMENTS: &str = "diskimage_builder/elements";
/// Directory of shell files that is checked as well then.
const LIBRARY: &str = "diskimage_builder/lib";

fn help() -> String {
    let mut text = String::from(
        "Checks elements against rules of style.\n\
         \n\
         Usage: dib-lint [DIR...]\n\
         \n\
         Each DIR holds elements (default: $ELEMENTS_DIR, else diskimage_builder/elements, else\n\
         elements). A file switches rules off with a comment `# dib-lint: disable=RULE RULE`, a\n\
         project with `ignore = RULE RULE` in the section `[dib-lint]` of tox.ini. Files that git\n\
         ignores are not looked at. Without DIR the files of $LIB_DIR, else those of\n\
         diskimage_builder/lib, are held to the rules `tabindent` and `newline`.\n\
         \n  -h, --help     Prints this text.\n      --version  Prints the version.\n\nRules:\n",
    );
    for (name, what) in RULES {
        text.push_str(&format!("  {name:<14} {what}\n"));
    }
    text
}

/// Runs `dib-lint`.
pub fn run(_: &str, arguments: &[String], context: &mut Context) -> Result<u8, Failure> {
    let mut directories = Vec::new();
    let mut library = None;
    for argument in arguments {
        match argument.as_str() {
            "-h" | "--help" => {
                context.printer.data(help());
                return Ok(0);
            }
            "--version" => {
                context.printer.line(env!("CARGO_PKG_VERSION"));
                return Ok(0);
            }
            option if option.len() > 1 && option.starts_with('-') => {
                return Err(misused(format!("unknown option `{option}`"))
                    .hint("`dib-lint --help` lists the options"));
            }
            directory => directories.push(PathBuf::from(directory)),
        }
    }
    let here = context.caller.current_dir.clone();
    if directories.is_empty() {
        (directories, library) = usual_directories(&context.caller);
    }
    let mut findings = Vec::new();
    let mut python = Vec::new();
    let mut check = |root: &Path, files: Vec<File>, findings: &mut Vec<Finding>| {
        let ignored = ignored_by_git(&context.caller, root, &files);
        for file in files.iter().filter(|file| !ignored.contains(&file.path)) {
            let bytes = fs_err::read(&file.path)?;
            if file.only_form {
                findings.extend(lint::check_form(&file.shown, &bytes));
                continue;
            }
            findings.extend(lint::check(&file.shown, &bytes, file.executable));
            findings.extend(layout(&file.shown, &bytes));
            if lint::is_python(&file.shown, &bytes) {
                python.push((file.path.clone(), file.shown.clone()));
            }
        }
        Ok::<(), Failure>(())
    };
    for directory in &directories {
        let root = here.join(directory);
        let mut files = Vec::new();
        list_library(&root, directory, &mut files, &mut findings)?;
        check(&root, files, &mut findings)?;
    }
    if let Some(directory) = library {
        let root = here.join(&directory);
        let mut files = Vec::new();
        list_directory(&root, &directory.display().to_string(), &mut files)
            .map_err(|failure| failure.hint("`LIB_DIR` names it"))?;
        for file in &mut files {
            file.only_form = true;
        }
        check(&root, files, &mut findings)?;
    }
    let ignored = match fs_err::read_to_string(here.join("tox.ini")) {
        Ok(text) => lint::ignored(&text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    if !ignored.iter().any(|rule| rule == "flake8") {
        for (path, shown) in &python {
            let Some(found) = flake8(&context.caller, path, shown) else {
                context.printer.note(format_args!(
                    "flake8 is not installed, so that Python is not checked: {shown}"
                ));
                break;
            };
            findings.extend(found);
        }
    }
    findings.retain(|finding| !ignored.iter().any(|rule| rule == finding.rule));
    findings.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(report(&findings, context))
}

/// Where elements and the library lie if nothing is named.
fn usual_directories(caller: &Caller) -> (Vec<PathBuf>, Option<PathBuf>) {
    let is_there = |path: &str| caller.current_dir.join(path).is_dir();
    let elements = match caller.var("ELEMENTS_DIR") {
        Some(named) => PathBuf::from(named),
        None if is_there(ELEMENTS) => PathBuf::from(ELEMENTS),
        None => PathBuf::from("elements"),
    };
    let library = match caller.var("LIB_DIR") {
        Some(named) => Some(PathBuf::from(named)),
        None => is_there(LIBRARY).then(|| PathBuf::from(LIBRARY)),
    };
    (vec![elements], library)
}

/// What is wrong with the layout of disks in a file, if it holds one.
fn layout(shown: &str, bytes: &[u8]) -> Option<Finding> {
    let (_, name) = shown.rsplit_once('/')?;
    let arch = name.strip_prefix("block-device-")?.strip_suffix(".yaml")?;
    let arch = match arch {
        "default" => default_arch(),
        arch => arch.to_owned(),
    };
    let message = block_device::problem(std::str::from_utf8(bytes).ok()?, &arch)?;
    Some(Finding {
        path: shown.to_owned(),
        line: None,
        rule: "blockdevice",
        message,
    })
}

/// Prints what was found; returns the exit status.
fn report(findings: &[Finding], context: &mut Context) -> u8 {
    for finding in findings {
        let place = match finding.line {
            Some(line) => format!("{}:{line}", finding.path),
            None => finding.path.clone(),
        };
        context.printer.line(format_args!(
            "ERROR: {}: {} ({})",
            printable(&place),
            printable(&finding.message),
            finding.rule
        ));
    }
    if findings.is_empty() {
        context.printer.line("PASS");
        return 0;
    }
    context
        .printer
        .line(format_args!("*** FAIL: {} findings", findings.len()));
    1
}

/// A file that may be checked.
struct File {
    path: PathBuf,
    shown: String,
    executable: bool,
    /// Whether it is prose, or nothing of an element's: little of that is style.
    only_form: bool,
}

/// Lists the files of a library, and checks what needs no more than their names.
fn list_library(
    root: &Path,
    shown: &Path,
    files: &mut Vec<File>,
    findings: &mut Vec<Finding>,
) -> Result<(), Failure> {
    let names = names(root).map_err(|failure| {
        failure.hint("name the directory that holds the elements, or set `ELEMENTS_DIR`")
    })?;
    for name in names {
        let path = root.join(&name);
        if !path.is_dir() || name.starts_with('.') || name == "__pycache__" {
            continue;
        }
        let element = shown.join(&name).display().to_string();
        let mut inside = Vec::new();
        list_directory(&path, &element, &mut inside)?;
        let below = format!("{element}/");
        let names = inside.iter().map(|file| &file.shown);
        findings.extend(lint::check_names(
            &element,
            names.filter_map(|shown| shown.strip_prefix(&below)),
        ));
        files.extend(
            inside
                .into_iter()
                .filter(|file| !file.shown.ends_with(".md")),
        );
    }
    Ok(())
}

fn list_directory(path: &Path, shown: &str, files: &mut Vec<File>) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt as _;
    for name in names(path)? {
        let file = path.join(&name);
        let shown = format!("{shown}/{name}");
        let meta = fs_err::symlink_metadata(&file)?;
        if meta.is_dir() {
            if name != "__pycache__" && name != "tests" {
                list_directory(&file, &shown, files)?;
            }
        } else if meta.is_file() {
            files.push(File {
                path: file,
                only_form: shown.ends_with(".rst"),
                shown,
                executable: meta.permissions().mode() & 0o111 != 0,
            });
        }
    }
    Ok(())
}

/// A program with the caller's environment.
fn program(caller: &Caller, name: &str) -> Command {
    let mut command = Command::new(name);
    command
        .env_clear()
        .envs(&caller.environment)
        .current_dir(&caller.current_dir);
    command
}

/// The files that git ignores; none where there is no git, or no repository.
fn ignored_by_git(caller: &Caller, root: &Path, files: &[File]) -> BTreeSet<PathBuf> {
    let child = program(caller, "git")
        .arg("-C")
        .arg(root)
        .args(["check-ignore", "-z", "--stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else {
        return BTreeSet::new();
    };
    let mut list = Vec::new();
    for file in files {
        list.extend_from_slice(file.path.as_os_str().as_bytes());
        list.push(0);
    }
    let input = child.stdin.take();
    let output = std::thread::scope(|scope| {
        // Without it git is told of no files.
        let _ = std::thread::Builder::new().spawn_scoped(scope, move || {
            // git reads nothing where there is no repository.
            let _ = input.map(|mut input| input.write_all(&list));
        });
        child.wait_with_output()
    });
    let Ok(output) = output else {
        return BTreeSet::new();
    };
    let paths = output.stdout.split(|&byte| byte == 0);
    paths
        .filter(|path| !path.is_empty())
        .map(|path| PathBuf::from(OsStr::from_bytes(path)))
        .collect()
}

/// What flake8 says of a file; `None` where it cannot be run.
fn flake8(caller: &Caller, path: &Path, shown: &str) -> Option<Vec<Finding>> {
    let output = program(caller, "flake8")
        .arg(path)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut findings = lint::flake8_findings(shown, &text);
    if findings.is_empty() && !output.status.success() {
        findings.push(Finding {
            path: shown.to_owned(),
            line: None,
            rule: "flake8",
            message: format!("flake8 failed with {}", output.status),
        });
    }
    Some(findings)
}

/// Names in a directory, sorted.
fn names(path: &Path) -> Result<Vec<String>, Failure> {
    let mut names = Vec::new();
    for entry in fs_err::read_dir(path)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
