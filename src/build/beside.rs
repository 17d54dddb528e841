//! What hooks want beside the image, put there once the image is.
//!
//! ```text
//! $TMP_BUILD_DIR/beside/NAME/what    a file, or a directory of files
//! $TMP_BUILD_DIR/beside/NAME/to      the path that it is to have
//! ```
//!
//! A build that fails must neither leave anything nor replace what an earlier one left.
//! The directory is out of the target's reach: only hooks outside, which may write where
//! this does, leave something in it. What they copied from the target may still be
//! anything, so that only files and directories are taken, and nothing is written through
//! what lies at the destination.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::failure::Failure;

/// The directory below `TMP_BUILD_DIR`.
const DIRECTORY: &str = "beside";

/// How often another temporary name is tried.
const ATTEMPTS: u32 = 1000;

/// Puts everything that hooks left under its name, and returns where. With `durable` it is
/// on its disk before it gets the name.
pub fn put(work: &Path, current_dir: &Path, durable: bool) -> Result<Vec<PathBuf>, Failure> {
    let directory = work.join(DIRECTORY);
    let mut names: Vec<OsString> = match std::fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed
            .and_then(|listed| listed.map(|one| one.map(|one| one.file_name())).collect())
            .map_err(Failure::io(format!("listing `{}`", directory.display())))?,
    };
    names.sort();
    names
        .iter()
        .map(|name| {
            let entry = directory.join(name);
            let to = destination(&entry, current_dir)?;
            place(&entry.join("what"), &to, durable).map_err(|error| {
                Failure::new(format!(
                    "the image was written, but `{}`, which belongs beside it, could not be: {error}",
                    to.display()
                ))
                .hint("make the place writable, or remove what is in the way, and build again")
            })?;
            Ok(to)
        })
        .collect()
}

/// Where an entry is to be.
fn destination(entry: &Path, current_dir: &Path) -> Result<PathBuf, Failure> {
    let file = entry.join("to");
    let mut path =
        crate::small::read(&file).map_err(Failure::io(format!("reading `{}`", file.display())))?;
    if path.ends_with(b"\n") {
        path.pop();
    }
    Ok(current_dir.join(OsString::from_vec(path)))
}

/// Copies `what` beside `to` and gives it that name, in place of what has it.
fn place(what: &Path, to: &Path, durable: bool) -> io::Result<()> {
    let (Some(parent), Some(name)) = (to.parent(), to.file_name()) else {
        return Err(invalid("it has no name"));
    };
    std::fs::create_dir_all(parent)?;
    let temporary = Temporary::new(parent, name, what, durable)?;
    let sync_parent = || match durable {
        true => sync_directory(parent),
        false => Ok(()),
    };
    let is_directory = std::fs::symlink_metadata(&temporary.path)?.is_dir();
    if is_directory && std::fs::symlink_metadata(to).is_ok() {
        // A directory does not take the place of another one in one step.
        let (old, ()) = free_name(parent, name, |path| std::fs::create_dir(path))?;
        let old = Temporary::of(old);
        let aside = old.path.join("old");
        std::fs::rename(to, &aside)?;
        return temporary
            .rename(to)
            .inspect_err(|_| {
                // The error says enough if this fails, too.
                let _ = std::fs::rename(&aside, to);
            })
            .and_then(|()| sync_parent());
    }
    temporary.rename(to)?;
    sync_parent()
}

/// Waits until the names in a directory are on its disk.
fn sync_directory(path: &Path) -> io::Result<()> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    // Some filesystems cannot sync a directory.
    synced.or_else(|error| match error.raw_os_error() {
        Some(libc::EINVAL | libc::EBADF | libc::ENOSYS | libc::EOPNOTSUPP) => Ok(()),
        _ => Err(error),
    })
}

/// A file or directory under a temporary name, removed with all that is in it.
struct Temporary {
    path: PathBuf,
    /// Whether it has got another name.
    is_placed: bool,
}

impl Temporary {
    fn of(path: PathBuf) -> Temporary {
        Temporary {
            path,
            is_placed: false,
        }
    }

    /// A copy of `what` with a name of its own in `parent`.
    fn new(parent: &Path, name: &OsStr, what: &Path, durable: bool) -> io::Result<Temporary> {
        if std::fs::symlink_metadata(what)?.is_dir() {
            let (path, ()) = free_name(parent, name, make_directory)?;
            let temporary = Temporary::of(path);
            fill(what, &temporary.path, durable)?;
            return Ok(temporary);
        }
        let (path, file) = free_name(parent, name, create)?;
        let temporary = Temporary::of(path);
        copy(what, file, durable)?;
        Ok(temporary)
    }

    fn rename(mut self, to: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, to)?;
        self.is_placed = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.is_placed {
            return;
        }
        // What cannot be removed is called `.NAME.kiln-N`, which says whose it is.
        let about = std::fs::symlink_metadata(&self.path);
        let _ = if about.is_ok_and(|about| about.is_dir()) {
            std::fs::remove_dir_all(&self.path)
        } else {
            std::fs::remove_file(&self.path)
        };
    }
}

/// Makes something under the first name `.NAME.kiln-N` that is free.
fn free_name<T>(
    parent: &Path,
    name: &OsStr,
    make: impl Fn(&Path) -> io::Result<T>,
) -> io::Result<(PathBuf, T)> {
    for number in 0..ATTEMPTS {
        let mut temporary = OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".kiln-{number}"));
        let path = parent.join(temporary);
        match make(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => return result.map(|made| (path, made)),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Copies what is in a directory into an empty one.
fn fill(from: &Path, to: &Path, durable: bool) -> io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            make_directory(&target)?;
            fill(&source, &target, durable)?;
        } else {
            copy(&source, create(&target)?, durable)?;
        }
    }
    if durable {
        sync_directory(to)?;
    }
    std::fs::set_permissions(to, mode_of(&std::fs::symlink_metadata(from)?))
}

/// Copies a regular file into a new one.
fn copy(from: &Path, mut to: File, durable: bool) -> io::Result<()> {
    if !std::fs::symlink_metadata(from)?.is_file() {
        let shown = String::from_utf8_lossy(from.as_os_str().as_bytes());
        return Err(invalid(format!(
            "`{shown}` is neither a file nor a directory"
        )));
    }
    let mut source = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(from)?;
    io::copy(&mut source, &mut to)?;
    to.set_permissions(mode_of(&source.metadata()?))?;
    if durable {
        to.sync_all()?;
    }
    Ok(())
}

/// A new directory, which is for nobody else yet.
fn make_directory(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().mode(0o700).create(path)
}

/// A new file, which is for nobody else yet.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Who may read and write, without bits that give rights of the owner away.
fn mode_of(about: &std::fs::Metadata) -> std::fs::Permissions {
    std::fs::Permissions::from_mode(about.permissions().mode() & 0o777)
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// A build's directory and that of its output.
    fn place() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let (work, out) = (at("work"), at("out"));
        fs::create_dir_all(work.join("beside/a/what/deep")).unwrap();
        fs::create_dir(&out).unwrap();
        fs::write(work.join("beside/a/to"), "x.d/list\n").unwrap();
        fs::write(work.join("beside/a/what/deep/one"), "new").unwrap();
        (directory, work, out)
    }

    fn names(directory: &Path) -> Vec<OsString> {
        let listed = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = listed.map(|one| one.unwrap().file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_directory_takes_the_place_of_an_older_one_and_of_links() {
        let (_directory, work, out) = place();
        let victim = out.join("victim");
        fs::write(&victim, "mine").unwrap();
        fs::create_dir_all(out.join("x.d/list")).unwrap();
        symlink(&out, out.join("x.d/list/deep")).unwrap();
        symlink(&victim, out.join("x.d/list/old")).unwrap();
        for _ in 0..2 {
            let to = out.join("x.d/list");
            assert_eq!(put(&work, &out, false).unwrap(), std::slice::from_ref(&to));
            assert_eq!(names(&out.join("x.d")), ["list"]);
            assert_eq!(names(&to), ["deep"]);
            assert_eq!(fs::read_to_string(to.join("deep/one")).unwrap(), "new");
            assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
        }
    }

    #[test]
    fn a_file_takes_the_place_of_a_link_and_not_of_what_it_leads_to() {
        let (_directory, work, out) = place();
        let entry = work.join("beside/b");
        fs::create_dir(&entry).unwrap();
        fs::write(
            entry.join("to"),
            out.join("x.kernel").as_os_str().as_bytes(),
        )
        .unwrap();
        fs::write(entry.join("what"), "new").unwrap();
        fs::write(out.join("victim"), "mine").unwrap();
        symlink("victim", out.join("x.kernel")).unwrap();
        put(&work, &out, false).unwrap();
        assert!(!out.join("x.kernel").is_symlink());
        assert_eq!(fs::read_to_string(out.join("x.kernel")).unwrap(), "new");
        assert_eq!(fs::read_to_string(out.join("victim")).unwrap(), "mine");
        assert_eq!(names(&out), ["victim", "x.d", "x.kernel"]);
    }

    #[test]
    fn links_are_refused_and_nothing_is_left_or_replaced() {
        let (_directory, work, out) = place();
        fs::create_dir_all(out.join("x.d/list")).unwrap();
        fs::write(out.join("x.d/list/old"), "old").unwrap();
        symlink("/etc/passwd", work.join("beside/a/what/link")).unwrap();
        let failure = put(&work, &out, false).unwrap_err();
        assert!(
            failure
                .message
                .ends_with("/what/link` is neither a file nor a directory"),
            "{}",
            failure.message
        );
        assert_eq!(failure.hints.len(), 1);
        assert_eq!(names(&out.join("x.d")), ["list"]);
        assert_eq!(names(&out.join("x.d/list")), ["old"]);
    }

    #[test]
    fn what_is_to_be_durable_is_on_its_disk_before_it_has_its_name() {
        let (_directory, work, out) = place();
        let entry = work.join("beside/b");
        fs::create_dir(&entry).unwrap();
        fs::write(entry.join("to"), "x.kernel").unwrap();
        fs::write(entry.join("what"), "new").unwrap();
        // A disk that fails only when what was written is sent to it.
        let statement = |code, jf, k| libc::sock_filter { code, jt: 0, jf, k };
        let fsync = u32::try_from(libc::SYS_fsync).unwrap();
        let failing = [
            statement((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0, 0),
            statement(
                (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
                1,
                fsync,
            ),
            statement(
                libc::BPF_RET as u16,
                0,
                libc::SECCOMP_RET_ERRNO | libc::EIO as u32,
            ),
            statement(libc::BPF_RET as u16, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let (durable, quick) = std::thread::spawn(move || {
            nix::sys::prctl::set_no_new_privs().unwrap();
            crate::sandbox::seccomp::load_as_is(&failing, 0).unwrap();
            let durable = put(&work, &out, true).map_err(|failure| (failure, names(&out)));
            (durable, put(&work, &out, false))
        })
        .join()
        .unwrap();
        let (failure, left) = durable.unwrap_err();
        assert!(failure.message.contains("x.d/list"), "{}", failure.message);
        assert!(failure.message.contains("Input/output error"));
        // The directory for it was made, and nothing in it.
        assert_eq!(left, ["x.d"]);
        assert_eq!(quick.unwrap().len(), 2);
    }

    #[test]
    fn nothing_is_put_where_no_hook_left_anything() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(
            put(directory.path(), directory.path(), false).unwrap(),
            [] as [PathBuf; 0]
        );
    }
}
