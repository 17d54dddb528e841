//! The hooks of all elements merged into one tree, as data.
//!
//! Every directory of an element (but `tests` and `__pycache__`) is merged into
//! the directory of the same name, every file at its top into the root. Two
//! hooks of the same name are an error; below a directory of a merged directory
//! (`static/etc/…`) and at the top the later element wins.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};

use super::order::{self, NamePattern};
use super::{Body, ElementFile, ElementSet, Error};

/// Directory of files that are sourced before the hooks of every phase.
pub const ENVIRONMENT: &str = "environment.d";

/// Files that most elements have, for which winning means nothing.
const PER_ELEMENT: &[&str] = &[
    "README.md",
    "README.rst",
    "element-deps",
    "element-provides",
    "element.yaml",
    "package-installs.json",
    "package-installs.yaml",
    "pkg-map",
    "svc-map",
];

/// A file of the merged tree and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The element that it comes from.
    pub element: String,
    /// The file, with its path in that element.
    pub file: ElementFile,
}

/// A file of an earlier element that a later one replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Path below the hooks directory.
    pub path: PathBuf,
    /// The element whose file is used.
    pub winner: String,
    /// The element whose file is not.
    pub loser: String,
}

/// A program that runs in a phase, or a file that is sourced before each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Its file name.
    pub name: String,
    /// The element that it comes from.
    pub element: String,
    /// Path below the hooks directory.
    pub path: PathBuf,
}

/// The merged hooks, by path below the hooks directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HookTree {
    entries: BTreeMap<PathBuf, Entry>,
    notes: Vec<Note>,
}

/// Merges the files of all elements in the order of the set.
pub fn merge(set: &ElementSet) -> Result<HookTree, Error> {
    let mut tree = HookTree::default();
    for element in set.elements() {
        for file in element.files()? {
            if is_merged(&file) {
                tree.add(&element.name, file)?;
            }
        }
    }
    Ok(tree)
}

/// Directories of elements that no build reads.
const ASIDE: [&str; 2] = ["tests", "__pycache__"];

/// Whether no build reads a file or directory at the top of an element.
pub(super) fn is_aside(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    let text = [&b"README"[..], b"LICENSE", b"COPYING"];
    ASIDE.iter().any(|aside| name == *aside)
        || bytes.ends_with(b".pyc")
        || text.iter().any(|start| bytes.starts_with(start))
}

/// Whether a file of an element belongs to the hooks at all.
fn is_merged(file: &ElementFile) -> bool {
    let mut names = file.path.iter();
    let (Some(top), second) = (names.next(), names.next()) else {
        return false;
    };
    let is_read = !ASIDE.iter().any(|aside| top == *aside);
    match (second, &file.body) {
        (None, Body::Directory) => is_read,
        // A link that is still a link here leads nowhere.
        (None, Body::Link(_)) => false,
        (None, _) => !top.as_bytes().ends_with(b".pyc"),
        (Some(entry), _) => is_read && !entry.as_bytes().starts_with(b"."),
    }
}

impl HookTree {
    fn add(&mut self, element: &str, file: ElementFile) -> Result<(), Error> {
        let path = file.path.clone();
        let is_directory = matches!(file.body, Body::Directory);
        let Some(first) = self.entries.get(&path) else {
            self.entries.insert(
                path,
                Entry {
                    element: element.to_owned(),
                    file,
                },
            );
            return Ok(());
        };
        let was_directory = matches!(first.file.body, Body::Directory);
        let (shown, first_name) = (path.display().to_string(), first.element.clone());
        // Entries of a merged directory are hooks; deeper files are data.
        let is_hook = path.components().count() == 2;
        match (was_directory, is_directory) {
            (true, true) => Ok(()),
            (false, false) if is_hook => Err(Error::DuplicateHook {
                path: shown,
                first: first_name,
                second: element.to_owned(),
            }),
            (false, false) => {
                let common = PER_ELEMENT.iter().any(|name| path.as_os_str() == *name);
                if !common && first.file.body != file.body {
                    self.notes.push(Note {
                        path: path.clone(),
                        winner: element.to_owned(),
                        loser: first_name,
                    });
                }
                self.entries.insert(
                    path,
                    Entry {
                        element: element.to_owned(),
                        file,
                    },
                );
                Ok(())
            }
            _ => Err(Error::KindConflict {
                path: shown,
                first: first_name,
                second: element.to_owned(),
            }),
        }
    }

    /// All files, links and directories by path.
    pub fn entries(&self) -> impl Iterator<Item = (&Path, &Entry)> {
        self.entries
            .iter()
            .map(|(path, entry)| (path.as_path(), entry))
    }

    /// The entry at a path.
    pub fn get(&self, path: impl AsRef<Path>) -> Option<&Entry> {
        self.entries.get(path.as_ref())
    }

    /// Files that a later element replaced, in the order of merging.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// The hooks of a phase directory such as `install.d`, in the order they run.
    ///
    /// Links count when they lead to an executable file of the tree. Hooks that
    /// other hooks add during the build are not known here.
    pub fn phase(&self, phase: &str, pattern: &NamePattern) -> Vec<Hook> {
        let mut hooks: Vec<Hook> = self
            .directory(phase)
            .filter(|(name, path)| pattern.matches(name) && self.is_executable(path))
            .map(|(name, path)| self.hook(name, path))
            .collect();
        hooks.sort_by(|a, b| order::compare(&a.name, &b.name));
        hooks
    }

    /// Scripts of a phase directory that have the name of a hook but cannot be executed, so
    /// that they do not run.
    pub fn idle(&self, phase: &str, pattern: &NamePattern) -> Vec<Hook> {
        let is_script = |entry: &Entry| {
            let start = entry.file.read().ok().flatten();
            !entry.file.executable && start.is_some_and(|bytes| bytes.starts_with(b"#!"))
        };
        self.directory(phase)
            .filter(|(name, path)| {
                pattern.matches(name) && self.resolve(path).is_some_and(is_script)
            })
            .map(|(name, path)| self.hook(name, path))
            .collect()
    }

    /// The files of `environment.d` in the order they are sourced (by bytes, not
    /// by number). They need not be executable.
    pub fn environment(&self) -> Vec<Hook> {
        let mut hooks: Vec<Hook> = self
            .directory(ENVIRONMENT)
            .filter(|(name, path)| order::is_environment_name(name) && self.resolve(path).is_some())
            .map(|(name, path)| self.hook(name, path))
            .collect();
        hooks.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
        hooks
    }

    /// Writes the tree into `dir`, which may exist.
    pub fn write(&self, dir: &Path) -> Result<(), Error> {
        create_directory(dir, 0o755)?;
        for (path, entry) in &self.entries {
            write_entry(&dir.join(path), entry.file.mode, &entry.file.body)?;
        }
        Ok(())
    }

    fn directory<'a>(&'a self, directory: &'a str) -> impl Iterator<Item = (&'a str, &'a Path)> {
        self.entries.iter().filter_map(move |(path, entry)| {
            let inside = path.parent() == Some(Path::new(directory));
            let is_file = !matches!(entry.file.body, Body::Directory);
            let name = path.file_name()?.to_str()?;
            (inside && is_file).then_some((name, path.as_path()))
        })
    }

    fn hook(&self, name: &str, path: &Path) -> Hook {
        let element = self
            .entries
            .get(path)
            .map(|entry| entry.element.clone())
            .unwrap_or_default();
        Hook {
            name: name.to_owned(),
            element,
            path: path.to_owned(),
        }
    }

    fn is_executable(&self, path: &Path) -> bool {
        self.resolve(path)
            .is_some_and(|entry| entry.file.executable)
    }

    /// The regular file that a path leads to within the tree.
    fn resolve(&self, path: &Path) -> Option<&Entry> {
        let mut path = path.to_owned();
        // The kernel gives up after 40 links as well.
        for _ in 0..40 {
            let entry = self.entries.get(&path)?;
            match &entry.file.body {
                Body::Link(target) => path = join_lexically(path.parent()?, target)?,
                Body::Directory => return None,
                Body::Path(_) | Body::Bytes(_) => return Some(entry),
            }
        }
        None
    }
}

/// `base/target` without `..`; `None` when it leaves the tree.
fn join_lexically(base: &Path, target: &Path) -> Option<PathBuf> {
    let mut path = base.to_owned();
    for component in target.components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !path.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

/// Writes one file, link or directory; parents must exist.
///
/// Never writes through a link: an existing file or link is replaced.
pub(super) fn write_entry(path: &Path, mode: u32, body: &Body) -> Result<(), Error> {
    let io = |action: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| Error::Io {
            action,
            path,
            source,
        }
    };
    if matches!(body, Body::Directory) {
        // The builder itself must be able to write and search it.
        return create_directory(path, mode | 0o700);
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io("replace", path)(error));
        }
        _ => {}
    }
    let create = || {
        std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(io("create", path))
    };
    let file = match body {
        Body::Directory => return Ok(()),
        Body::Link(target) => return symlink(target, path).map_err(io("link", path)),
        Body::Bytes(bytes) => {
            let mut file = create()?;
            io::Write::write_all(&mut file, bytes).map_err(io("write", path))?;
            file
        }
        Body::Path(source) => {
            let mut from = std::fs::File::open(source).map_err(io("open", source))?;
            let mut file = create()?;
            io::copy(&mut from, &mut file).map_err(io("copy", source))?;
            file
        }
    };
    file.set_permissions(std::fs::Permissions::from_mode(mode))
        .map_err(io("set the mode of", path))
}

fn create_directory(path: &Path, mode: u32) -> Result<(), Error> {
    let io = |source| Error::Io {
        action: "create",
        path: path.to_owned(),
        source,
    };
    match std::fs::create_dir(path) {
        Ok(()) => std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(io),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let meta = std::fs::symlink_metadata(path).map_err(io)?;
            if meta.is_dir() {
                Ok(())
            } else {
                Err(io(error))
            }
        }
        Err(source) => Err(io(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::element::{Library, Options, resolve};
    use std::fs;

    struct Fixture(tempfile::TempDir);

    impl Fixture {
        fn new() -> Self {
            let fixture = Self(tempfile::tempdir().unwrap());
            fixture.file("os/element-provides", "operating-system", false);
            fixture
        }

        fn file(&self, path: &str, body: &str, executable: bool) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, body).unwrap();
            let mode = if executable { 0o755 } else { 0o644 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }

        fn merge(&self, names: &str) -> Result<HookTree, Error> {
            let library = Library::with_directories(&[self.0.path().to_owned()]).unwrap();
            let names: Vec<String> = names.split(' ').map(str::to_owned).collect();
            let options = Options {
                skip_base: true,
                ..Options::default()
            };
            merge(&resolve(&library, &names, &options).unwrap())
        }
    }

    fn names(hooks: &[Hook]) -> Vec<&str> {
        hooks.iter().map(|hook| hook.name.as_str()).collect()
    }

    #[test]
    fn phases_list_executable_hooks_in_numeric_order() {
        let fixture = Fixture::new();
        for name in ["9-y", "10-x", "100-z", "abc", "with.dot"] {
            fixture.file(&format!("os/install.d/{name}"), "", true);
        }
        fixture.file("os/install.d/5-not-executable", "", false);
        fixture.file("os/install.d/6-idle", "#!/bin/sh\n", false);
        fixture.file("os/install.d/6.notes", "#!/bin/sh\n", false);
        fixture.file("os/install.d/.hidden", "", true);
        fixture.file("os/install.d/sub/1-x", "", true);
        fixture.file("os/bin/tool", "", true);
        symlink("../bin/tool", fixture.0.path().join("os/install.d/50-link")).unwrap();
        symlink("/bin/sh", fixture.0.path().join("os/install.d/51-away")).unwrap();
        fixture.file("os/tests/1-x", "", true);
        let tree = fixture.merge("os").unwrap();
        let pattern = NamePattern::new(None).unwrap();
        assert_eq!(
            names(&tree.phase("install.d", &pattern)),
            ["abc", "9-y", "10-x", "50-link", "100-z"]
        );
        assert_eq!(names(&tree.idle("install.d", &pattern)), ["6-idle"]);
        assert!(tree.phase("root.d", &pattern).is_empty());
        assert!(tree.get("tests").is_none());
        assert!(tree.get("install.d/.hidden").is_none());
    }

    #[test]
    fn environment_files_are_ordered_by_bytes() {
        let fixture = Fixture::new();
        for name in ["9-y", "10-x", "100-z", "99-a.bash", "a b"] {
            fixture.file(&format!("os/environment.d/{name}"), "", false);
        }
        let tree = fixture.merge("os").unwrap();
        assert_eq!(
            names(&tree.environment()),
            ["10-x", "100-z", "9-y", "99-a.bash"]
        );
    }

    #[test]
    fn a_duplicate_hook_names_both_elements() {
        let fixture = Fixture::new();
        fixture.file("os/install.d/10-x", "", true);
        fixture.file("b/install.d/10-x", "", true);
        let error = fixture.merge("os b").unwrap_err();
        assert_eq!(
            error.to_string(),
            "duplicate hook `install.d/10-x` in elements `os` and `b`"
        );
        assert_eq!(
            error.hint().unwrap(),
            "rename the hook in `os` or `b`, or use only one of the two elements"
        );
    }

    #[test]
    fn deeper_directories_merge_and_the_later_element_wins() {
        let fixture = Fixture::new();
        fixture.file("os/static/etc/a", "1", false);
        fixture.file("os/static/etc/b", "1", false);
        fixture.file("b/static/etc/a", "2", true);
        fixture.file("os/README.md", "1", false);
        fixture.file("b/README.md", "2", false);
        fixture.file("b/cache.pyc", "2", false);
        let tree = fixture.merge("os b").unwrap();
        let note = Note {
            path: "static/etc/a".into(),
            winner: "b".into(),
            loser: "os".into(),
        };
        assert_eq!(tree.notes(), [note]);
        assert!(tree.get("cache.pyc").is_none());
        let out = tempfile::tempdir().unwrap();
        let hooks = out.path().join("hooks");
        tree.write(&hooks).unwrap();
        assert_eq!(fs::read_to_string(hooks.join("static/etc/a")).unwrap(), "2");
        assert_eq!(fs::read_to_string(hooks.join("static/etc/b")).unwrap(), "1");
        assert_eq!(
            fs::metadata(hooks.join("static/etc/a"))
                .unwrap()
                .permissions()
                .mode()
                & 0o777,
            0o755
        );
    }

    #[test]
    fn a_file_where_another_element_has_a_directory_is_refused() {
        let fixture = Fixture::new();
        fixture.file("os/static/etc/a", "", false);
        fixture.file("b/static/etc", "", false);
        let text = fixture.merge("os b").unwrap_err().to_string();
        assert_eq!(
            text,
            "`static/etc` is a directory in one of the elements `os` and `b` and a file in the other"
        );
    }

    #[test]
    fn links_are_written_as_links_and_never_written_through() {
        let fixture = Fixture::new();
        fixture.file("os/bin/tool", "x", true);
        symlink("tool", fixture.0.path().join("os/bin/alias")).unwrap();
        let tree = fixture.merge("os").unwrap();
        let out = tempfile::tempdir().unwrap();
        let hooks = out.path().join("hooks");
        fs::create_dir_all(hooks.join("bin")).unwrap();
        fs::write(out.path().join("victim"), "safe").unwrap();
        symlink(out.path().join("victim"), hooks.join("bin/tool")).unwrap();
        tree.write(&hooks).unwrap();
        assert_eq!(
            fs::read_to_string(out.path().join("victim")).unwrap(),
            "safe"
        );
        assert_eq!(
            fs::read_link(hooks.join("bin/alias")).unwrap(),
            Path::new("tool")
        );
        assert_eq!(fs::read_to_string(hooks.join("bin/alias")).unwrap(), "x");
    }
}
