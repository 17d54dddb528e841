//! `kiln cache`: shows what the image cache holds, and empties it.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::{collections::BTreeSet, io};

use clap::{Args, Subcommand, ValueHint};
use fs_err as fs;
use serde::Serialize;

use super::Context;
use super::failure::Failure;
use super::nearest::nearest;
use super::printer::{printable, table};
use super::units;
use crate::sandbox::{choice, sweep};

/// Arguments of `kiln cache`.
#[derive(Debug, Args)]
#[command(after_help = "Example: kiln cache clear apt")]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    /// The image cache; default: `~/.cache/image-create`, or DIB_IMAGE_CACHE
    #[arg(long, alias = "cache-dir", value_name = "DIR", value_hint = ValueHint::DirPath, global = true)]
    image_cache: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the entries of the cache and their sizes (the default)
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove entries of the cache, or all of them
    Clear {
        /// Entries to remove, as `kiln cache show` names them; default: all
        #[arg(value_name = "ENTRY")]
        entries: Vec<String>,
    },
}

/// Something directly in the cache.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Entry {
    name: String,
    files: u64,
    /// Bytes that it takes on disk.
    disk_size: u64,
    /// Whether parts of it belong to ids of the sandbox and could not be looked into.
    partial: bool,
}

/// Runs `kiln cache`.
pub fn run(arguments: Arguments, context: &mut Context) -> Result<u8, Failure> {
    let named = arguments.image_cache.is_some() || context.caller.var("DIB_IMAGE_CACHE").is_some();
    let cache = match &arguments.image_cache {
        Some(cache) => context.caller.current_dir.join(cache),
        None => context.caller.image_cache()?,
    };
    match arguments.command.unwrap_or(Command::Show { json: false }) {
        Command::Show { json } => {
            // Else all files below it are counted first, which takes minutes.
            if named {
                require_cache(&cache, "looked through").map_err(|failure| {
                    failure.hint("`--image-cache` or DIB_IMAGE_CACHE names it")
                })?;
            }
            show(&cache, json, context)
        }
        Command::Clear { entries } => {
            // Whatever was named a cache by a slip is not emptied without a look.
            if named && entries.is_empty() {
                require_cache(&cache, "emptied").map_err(|failure| {
                    failure.hint("name the entries to remove, or remove the directory yourself")
                })?;
            }
            clear_entries(&cache, &entries, context)
        }
    }
}

/// What each build makes in its cache.
const MARKS: [&str; 2] = ["kiln", "lockfiles"];

/// Fails if a directory has entries, and none of those that builds make in a cache. `what`
/// is not done to it then.
fn require_cache(directory: &Path, what: &str) -> Result<(), Failure> {
    let names = names(directory)?;
    if names.is_empty()
        || MARKS
            .iter()
            .any(|mark| names.iter().any(|name| name == mark))
    {
        return Ok(());
    }
    Err(Failure::new(format!(
        "`{}` is not {what}: it does not look like an image cache, in which builds make `kiln` \
         or `lockfiles`",
        directory.display()
    )))
}

fn show(cache: &Path, json: bool, context: &mut Context) -> Result<u8, Failure> {
    let entries = names(cache)?
        .into_iter()
        .map(|name| measure(cache, &name))
        .collect::<Result<Vec<_>, _>>()?;
    if json {
        context.printer.json(&entries)?;
        return Ok(0);
    }
    if entries.is_empty() {
        context
            .printer
            .line(format_args!("{} is empty", shown(cache)));
        return Ok(0);
    }
    let row = |name: &str, files: u64, size: u64, partial: bool| {
        let mark = if partial { "at least " } else { "" };
        let files = if files == 1 {
            "1 file".to_owned()
        } else {
            format!("{files} files")
        };
        vec![
            name.to_owned(),
            format!("{mark}{}", units::bytes(size)),
            files,
        ]
    };
    let mut rows: Vec<Vec<String>> = entries
        .iter()
        .map(|entry| row(&entry.name, entry.files, entry.disk_size, entry.partial))
        .collect();
    rows.push(row(
        "total",
        entries.iter().map(|entry| entry.files).sum(),
        entries.iter().map(|entry| entry.disk_size).sum(),
        entries.iter().any(|entry| entry.partial),
    ));
    context.printer.line(shown(cache));
    context.printer.data(table(&rows));
    Ok(0)
}

fn clear_entries(cache: &Path, wanted: &[String], context: &mut Context) -> Result<u8, Failure> {
    refuse_precious(cache, context)?;
    let present = names(cache)?;
    for entry in wanted {
        if !present.iter().any(|name| is_called(name, entry)) {
            let failure = Failure::new(format!("`{}` has no entry `{entry}`", cache.display()));
            return Err(
                match nearest(entry, present.iter().filter_map(|name| name.to_str())) {
                    Some(name) => failure.hint(format!("did you mean `{name}`?")),
                    None => failure.hint("`kiln cache show` lists the entries"),
                },
            );
        }
    }
    let removed: Vec<PathBuf> = present
        .iter()
        .filter(|name| wanted.is_empty() || wanted.iter().any(|entry| is_called(name, entry)))
        .map(|name| cache.join(name))
        .collect();
    clear(&removed)?;
    for path in &removed {
        context
            .printer
            .line(format_args!("removed {}", shown(path)));
    }
    Ok(0)
}

/// Whether people name an entry so; of names that are no text, they see and write less.
fn is_called(name: &OsStr, entry: &str) -> bool {
    name.to_string_lossy() == entry
}

/// A path as people may see it: hooks outside give names in the cache.
fn shown(path: &Path) -> String {
    printable(&path.display().to_string())
}

/// Removes files and trees, whichever ids own them.
///
/// What plain operations may not remove (base roots belong to the ids of the
/// sandbox) is removed by root in the sandbox.
fn clear(paths: &[PathBuf]) -> Result<(), Failure> {
    for path in paths {
        let plain = match fs::symlink_metadata(path) {
            // Hooks write here: it may be deeper than the library goes.
            Ok(meta) if meta.is_dir() => sweep::remove_tree(path).map_err(|error| {
                io::Error::new(error.kind(), format!("removing `{}`: {error}", shown(path)))
            }),
            Ok(_) => fs::remove_file(path),
            Err(error) => Err(error),
        };
        match plain {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let identity = choice::choose(None)?.identity;
                sweep::remove(path, &identity)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Refuses to empty a directory that a slip made the cache.
fn refuse_precious(cache: &Path, context: &Context) -> Result<(), Failure> {
    let real = match fs::canonicalize(cache) {
        Ok(real) => real,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let home = context
        .caller
        .var("HOME")
        .and_then(|home| fs::canonicalize(home).ok());
    let here = fs::canonicalize(&context.caller.current_dir).ok();
    let inside = |path: Option<PathBuf>| path.is_some_and(|path| path.starts_with(&real));
    if inside(home) || inside(here) || real == Path::new("/") {
        return Err(Failure::new(format!(
            "`{}` is not emptied: it holds the home or the current directory",
            cache.display()
        ))
        .hint("name the image cache with `--image-cache` or DIB_IMAGE_CACHE"));
    }
    Ok(())
}

/// Names directly in the cache, sorted; none if there is no cache yet.
fn names(cache: &Path) -> Result<Vec<OsString>, Failure> {
    let listing = match fs::read_dir(cache) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut names = listing
        .map(|entry| Ok(entry?.file_name()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// Counts an entry without following links; hard links count once.
fn measure(cache: &Path, name: &OsStr) -> Result<Entry, Failure> {
    let mut entry = Entry {
        files: 0,
        disk_size: 0,
        partial: false,
        name: name.to_string_lossy().into_owned(),
    };
    let mut seen = BTreeSet::new();
    let mut waiting = vec![cache.join(name)];
    while let Some(path) = waiting.pop() {
        let meta = match fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            // A running build may move things.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) if is_out_of_sight(&error) => {
                entry.partial = true;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if seen.insert((meta.dev(), meta.ino())) {
            entry.disk_size = entry
                .disk_size
                .saturating_add(meta.blocks().saturating_mul(512));
        }
        if !meta.is_dir() {
            entry.files += 1;
            continue;
        }
        match fs::read_dir(&path) {
            Ok(listing) => {
                for child in listing {
                    waiting.push(child?.path());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if is_out_of_sight(&error) => entry.partial = true,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(entry)
}

/// Whether somebody else's directory is in the way, or one that is deeper than a path is long.
fn is_out_of_sight(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidFilename, PermissionDenied};
    [PermissionDenied, InvalidFilename].contains(&error.kind())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    #[test]
    fn hard_links_take_their_space_once() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let entry = dir.path().join("apt");
        fs::create_dir(&entry).expect("created");
        fs::write(entry.join("a"), vec![1u8; 100_000]).expect("written");
        fs::hard_link(entry.join("a"), entry.join("b")).expect("linked");
        fs::os::unix::fs::symlink("/", entry.join("c")).expect("linked");
        let measured = measure(dir.path(), OsStr::new("apt")).expect("measured");
        assert_eq!(measured.files, 3);
        assert!(
            !measured.partial && measured.disk_size < 200_000,
            "{measured:?}"
        );
    }

    #[test]
    fn clearing_removes_trees_files_and_links_but_never_their_targets() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (cache, other) = (dir.path().join("cache"), dir.path().join("other"));
        fs::create_dir_all(cache.join("tree/deep")).expect("created");
        fs::create_dir(&other).expect("created");
        fs::write(other.join("kept"), "x").expect("written");
        fs::write(cache.join("file"), "x").expect("written");
        fs::write(cache.join(OsStr::from_bytes(b"latin-\xe4")), "x").expect("written");
        fs::os::unix::fs::symlink(&other, cache.join("link")).expect("linked");
        let all: Vec<PathBuf> = names(&cache)
            .expect("listed")
            .iter()
            .map(|name| cache.join(name))
            .collect();
        assert_eq!(all.len(), 4);
        clear(&all).expect("cleared");
        assert_eq!(names(&cache).expect("listed"), Vec::<OsString>::new());
        assert!(other.join("kept").exists());
    }

    #[test]
    fn a_tree_that_is_deeper_than_a_path_is_long_is_shown_in_part_and_cleared() {
        use nix::fcntl::{OFlag, openat};
        use nix::sys::stat::{Mode, mkdirat};
        let dir = tempfile::tempdir().expect("a temporary directory");
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut here = nix::fcntl::open(dir.path(), flags, Mode::empty()).expect("there");
        for _ in 0..3000 {
            mkdirat(&here, "d", Mode::S_IRWXU).expect("made");
            here = openat(&here, "d", flags, Mode::empty()).expect("made");
        }
        let measured = measure(dir.path(), OsStr::new("d")).expect("measured");
        assert!(measured.partial, "{measured:?}");
        clear(&[dir.path().join("d")]).expect("removed");
        assert_eq!(names(dir.path()).expect("listed"), Vec::<OsString>::new());
    }
}
