//! Where a build leaves what it makes: looked at, and made where that is kiln's to do,
//! before a build of minutes.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::{FsFlags, statvfs};

use super::failure::Failure;
use super::place;
use super::plan::Plan;
use crate::sandbox::doctor::takes_files;
use crate::sink;

/// What a checksum file's name has at most behind that of its output.
const LONGEST_SUM: &str = ".sha256";

/// Directories that stay writable in the sandbox; made if they are caches.
pub fn writable(plan: &Plan) -> Result<Vec<PathBuf>, Failure> {
    require_home(plan)?;
    let mut paths = vec![plan.cache.clone()];
    make(&plan.cache, "making a cache directory", "--image-cache")?;
    if let Some(lockfiles) = plan.variables.get(OsStr::new("DIB_LOCKFILES")) {
        let lockfiles = PathBuf::from(lockfiles);
        make(&lockfiles, "making a cache directory", "DIB_LOCKFILES")?;
        paths.push(lockfiles);
    }
    require_inside(&paths)?;
    let output = directory(plan)?;
    require_writable(&plan.cache, "the image cache", "--image-cache")?;
    check_names(plan)?;
    // Who stands on a filesystem that is read-only has the output elsewhere.
    let read_only = statvfs(&plan.request.current_dir)
        .is_ok_and(|found| found.flags().contains(FsFlags::ST_RDONLY));
    if !read_only {
        paths.push(plan.request.current_dir.clone());
    }
    paths.push(output.clone());
    paths.extend(manifests(plan)?);
    let mut found = Vec::with_capacity(paths.len());
    for path in paths {
        found.push(canonical(&path)?);
    }
    // The whole host must not become writable because somebody stands at its root.
    found.retain(|path| path != Path::new("/"));
    for (disk, directory) in directories_of_disks(plan, &output)? {
        if directory == Path::new("/") || found.iter().any(|path| directory.starts_with(path)) {
            continue;
        }
        // Hooks can write there too, so that an element could open any directory to them.
        if !plan.layout_is_given() {
            return Err(Failure::new(format!(
                "an element wants the disk `{disk}` in `{}`, which is not below the directory \
                 for the output",
                directory.display()
            ))
            .hint("if that is as it should be, give its layout in `DIB_BLOCK_DEVICE_CONFIG`"));
        }
        found.push(directory);
    }
    Ok(found)
}

/// Fails if the cache is to be in a home directory that is not there.
fn require_home(plan: &Plan) -> Result<(), Failure> {
    let request = &plan.request;
    let home = request.variable("HOME");
    let home = home.filter(|_| request.image_cache.is_none());
    let missing = home.and_then(|home| place::without_home(&request.current_dir.join(home)));
    missing.map_or(Ok(()), |missing| {
        Err(Failure::new(missing)
            .hint("`--image-cache` or DIB_IMAGE_CACHE names a directory for it")
            .hint("or set `HOME` to a directory that is there"))
    })
}

/// Makes a directory that an option or variable names.
fn make(directory: &Path, what: &'static str, name: &str) -> Result<(), Failure> {
    fs_err::create_dir_all(directory)
        .map_err(|error| Failure::io(what)(error).hint(format!("`{name}` names another one")))
}

/// Fails if a directory in the cache, the first of `paths`, is a link out of it. Hooks of
/// an earlier build can have left one, and hooks of this one would write where it leads.
fn require_inside(paths: &[PathBuf]) -> Result<(), Failure> {
    let [cache, others @ ..] = paths else {
        return Ok(());
    };
    for path in others.iter().filter(|path| path.starts_with(cache)) {
        let found = canonical(path)?;
        if !found.starts_with(canonical(cache)?) {
            return Err(Failure::new(format!(
                "`{}` leads out of the image cache, to `{}`, where hooks could then write",
                path.display(),
                found.display()
            ))
            .hint("remove that link: hooks of an earlier build may have made it")
            .hint("`DIB_LOCKFILES` names another directory for locks"));
        }
    }
    Ok(())
}

/// The directory for the output, in which files can be made.
fn directory(plan: &Plan) -> Result<PathBuf, Failure> {
    let image = plan.request.current_dir.join(&plan.request.image_name);
    let directory = image.parent().unwrap_or(Path::new("/")).to_owned();
    let failure = |why: &str| {
        Failure::new(format!(
            "the directory `{}` for the output {why}",
            directory.display()
        ))
    };
    match std::fs::metadata(&directory) {
        Ok(found) if found.is_dir() => {}
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failure(&format!("cannot be reached: {error}"))
                .hint("`-o` names another one, of which you may search every directory above"));
        }
        found => {
            let why = if found.is_ok() {
                "is something else"
            } else {
                "does not exist"
            };
            return Err(failure(why).hint("make it first, or name another one with `-o`"));
        }
    }
    require_writable(&directory, "the directory for the output", "-o")?;
    Ok(directory)
}

/// Fails unless files can be made in a directory that an option names.
fn require_writable(directory: &Path, what: &str, option: &str) -> Result<(), Failure> {
    takes_files(directory).map_err(|error| {
        Failure::new(format!(
            "{what}, `{}`, cannot be written to: {error}",
            directory.display()
        ))
        .hint(format!("`{option}` names another one"))
    })
}

/// Fails if an output has a name that nothing can have, or that of something else than a file.
fn check_names(plan: &Plan) -> Result<(), Failure> {
    for file in plan.output_files() {
        let path = plan.request.current_dir.join(&file.path);
        let target = file.path;
        let found = std::fs::symlink_metadata(&path);
        if found.is_ok_and(|found| !found.is_file() && !found.is_symlink()) {
            return Err(refusal(&sink::Error::NotAFile { target }));
        }
        let mut longest = path.into_os_string();
        if plan.request.checksum {
            longest.push(LONGEST_SUM);
        }
        let found = std::fs::symlink_metadata(longest);
        if found.is_err_and(|error| error.kind() == io::ErrorKind::InvalidFilename) {
            return Err(refusal(&sink::Error::NameTooLong { target }));
        }
    }
    Ok(())
}

fn refusal(error: &sink::Error) -> Failure {
    Failure::from_error(error).hint_if(error.hint())
}

/// Where the caller wants the element `manifests` to leave its files, if they said so. An
/// element's own choice does not count: it could open any directory to hooks.
fn manifests(plan: &Plan) -> Result<Option<PathBuf>, Failure> {
    const NAME: &str = "DIB_MANIFEST_SAVE_DIR";
    let wanted = plan.elements.contains("manifests");
    let Some(given) = plan.request.variable(NAME).filter(|_| wanted) else {
        return Ok(None);
    };
    let path = plan.request.current_dir.join(given);
    make(&path, "making the directory for manifests", NAME)?;
    Ok(Some(path))
}

fn canonical(path: &Path) -> Result<PathBuf, Failure> {
    fs_err::canonicalize(path).map_err(|error| {
        Failure::io("finding a directory")(error)
            .hint("start kiln where you may search every directory above the current one")
    })
}

/// Names of further disks whose images are not beside the output, and where they are.
fn directories_of_disks<'p>(
    plan: &'p Plan,
    output: &Path,
) -> Result<Vec<(&'p str, PathBuf)>, Failure> {
    let mut found = Vec::new();
    for file in plan.output_files() {
        let path = plan.request.current_dir.join(&file.path);
        let directory = path.parent().unwrap_or(Path::new("/"));
        if directory == output {
            continue;
        }
        let disk = plan.layout.disks()[file.disk].name.as_str();
        takes_files(directory).map_err(|error| {
            Failure::new(format!(
                "`{}` for the disk `{disk}` cannot be written to: {error}",
                directory.display()
            ))
            .hint("`directory` of its `local_loop` names it")
        })?;
        found.push((disk, canonical(directory)?));
    }
    Ok(found)
}
