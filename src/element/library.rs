//! Where elements come from: directories of the user, then the embedded ones.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::{Error, OPERATING_SYSTEM, hooks, replaced, similar};
use crate::{embed, small};

/// Where an element's files are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A directory, with links resolved.
    Directory(PathBuf),
    /// The library inside the binary; `GROUP/NAME` there.
    Embedded(&'static str),
}

/// What a file of an element is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A regular file at this path.
    Path(PathBuf),
    /// A regular file with these bytes.
    Bytes(&'static [u8]),
    /// A symbolic link with this target.
    Link(PathBuf),
    /// A directory.
    Directory,
}

/// One file, link or directory of an element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElementFile {
    /// Path below the element's directory.
    pub path: PathBuf,
    /// Permission bits (`0o7777`), meaningless for links.
    pub mode: u32,
    /// Whether anybody may execute it; a link's is unknown and `false`.
    pub executable: bool,
    /// Its content.
    pub body: Body,
}

impl ElementFile {
    /// The bytes of a regular file; `None` for links and directories.
    pub fn read(&self) -> Result<Option<Vec<u8>>, Error> {
        match &self.body {
            Body::Path(path) => std::fs::read(path).map(Some).map_err(|source| Error::Io {
                action: "read",
                path: path.clone(),
                source,
            }),
            Body::Bytes(bytes) => Ok(Some(bytes.to_vec())),
            Body::Link(_) | Body::Directory => Ok(None),
        }
    }
}

/// A directory of hooks and data with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// Its name: the base name of its directory with links resolved.
    pub name: String,
    /// Where its files are.
    pub origin: Origin,
    /// The search path entry it was found in; links may lead anywhere below it.
    library: Option<PathBuf>,
}

impl Element {
    /// Every file, link and directory of the element, in byte order of the path.
    ///
    /// Links directly in the element's directory are followed, as DIB does, as
    /// long as they stay in the library; deeper links, and those that no build
    /// reads, are reported as links.
    pub fn files(&self) -> Result<Vec<ElementFile>, Error> {
        let mut files = match &self.origin {
            Origin::Embedded(prefix) => embedded_files(prefix),
            Origin::Directory(directory) => {
                let mut files = Vec::new();
                self.scan(directory, Path::new(""), &mut files)?;
                files
            }
        };
        files.sort_by(|a, b| {
            a.path
                .as_os_str()
                .as_bytes()
                .cmp(b.path.as_os_str().as_bytes())
        });
        Ok(files)
    }

    /// The bytes of a file directly in the element's directory, if it has it.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        match &self.origin {
            Origin::Embedded(prefix) => {
                let found = embedded(prefix).find(|(path, _)| *path == name);
                Ok(found.and_then(|(_, file)| match file.body {
                    embed::Body::Data(bytes) => Some(bytes.to_vec()),
                    embed::Body::Link(_) => None,
                }))
            }
            Origin::Directory(directory) => {
                let path = directory.join(name);
                let meta = match std::fs::symlink_metadata(&path) {
                    Ok(meta) => meta,
                    Err(error) if is_absent(&error) => return Ok(None),
                    Err(source) => {
                        return Err(Error::Io {
                            action: "examine",
                            path,
                            source,
                        });
                    }
                };
                let path = if meta.is_symlink() {
                    match self.follow(&path)? {
                        Some(path) => path,
                        None => return Ok(None),
                    }
                } else {
                    path
                };
                // Neither waited for, as a named pipe is, nor left out without a word.
                let io = |source| Error::Io {
                    action: "examine",
                    path: path.clone(),
                    source,
                };
                let kind = std::fs::metadata(&path).map_err(io)?.file_type();
                if !kind.is_file() {
                    return Err(self.not_a_file(&path, kind));
                }
                std::fs::read(&path).map(Some).map_err(|source| Error::Io {
                    action: "read",
                    path,
                    source,
                })
            }
        }
    }

    /// Names in `element-deps`: one per line, blanks trimmed, in the file's order.
    pub fn dependencies(&self) -> Result<Vec<String>, Error> {
        self.names("element-deps")
    }

    /// Names in `element-provides`.
    pub fn provides(&self) -> Result<Vec<String>, Error> {
        self.names("element-provides")
    }

    /// Where the element is, as text for people.
    pub fn location(&self) -> String {
        match &self.origin {
            Origin::Directory(path) => path.display().to_string(),
            Origin::Embedded(path) => format!("embedded:{path}"),
        }
    }

    /// Whether it is the user's own: not one of the binary, nor one in the library that
    /// comes with diskimage-builder.
    pub fn is_own(&self) -> bool {
        matches!(self.origin, Origin::Directory(_)) && !self.is_upstream()
    }

    /// Whether it is in the library that comes with diskimage-builder.
    fn is_upstream(&self) -> bool {
        self.library.as_deref().is_some_and(replaced::is_upstream)
    }

    /// Writes the element's files into the existing directory `dir`, so that
    /// hooks which look elements up by path find embedded ones too.
    pub fn write(&self, dir: &Path) -> Result<(), Error> {
        for file in self.files()? {
            super::hooks::write_entry(&dir.join(&file.path), file.mode, &file.body)?;
        }
        Ok(())
    }

    fn names(&self, file: &str) -> Result<Vec<String>, Error> {
        let Some(bytes) = self.read(file)? else {
            return Ok(Vec::new());
        };
        let text = String::from_utf8(bytes).map_err(|_| Error::NotText {
            element: self.name.clone(),
            path: file.to_owned(),
        })?;
        let mut seen = BTreeSet::new();
        Ok(text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && seen.insert(line.to_owned()))
            .map(str::to_owned)
            .collect())
    }

    fn scan(&self, root: &Path, below: &Path, files: &mut Vec<ElementFile>) -> Result<(), Error> {
        let directory = root.join(below);
        for name in sorted_names(&directory)? {
            let path = below.join(&name);
            let full = root.join(&path);
            let io = |source| Error::Io {
                action: "examine",
                path: full.clone(),
                source,
            };
            let mut meta = std::fs::symlink_metadata(&full).map_err(io)?;
            let mut body_path = full.clone();
            if meta.is_symlink() {
                let top = below.as_os_str().is_empty();
                let read = top && !hooks::is_aside(&name);
                let target = if read { self.follow(&full)? } else { None };
                match target {
                    Some(target) => {
                        meta = std::fs::metadata(&target).map_err(io)?;
                        body_path = target;
                    }
                    None => {
                        let target = std::fs::read_link(&full).map_err(io)?;
                        files.push(ElementFile {
                            path,
                            mode: 0o777,
                            executable: false,
                            body: Body::Link(target),
                        });
                        continue;
                    }
                }
            }
            let mode = meta.permissions().mode() & 0o7777;
            if meta.is_dir() {
                files.push(ElementFile {
                    path: path.clone(),
                    mode,
                    executable: false,
                    body: Body::Directory,
                });
                if body_path == full {
                    self.scan(root, &path, files)?;
                } else {
                    // A linked directory: its files appear under the link's name.
                    let mut inner = Vec::new();
                    self.scan(&body_path, Path::new("."), &mut inner)?;
                    files.extend(inner.into_iter().map(|mut file| {
                        let rest = file.path.strip_prefix(".").unwrap_or(&file.path).to_owned();
                        file.path = path.join(rest);
                        file
                    }));
                }
            } else if meta.is_file() {
                files.push(ElementFile {
                    path,
                    mode,
                    executable: mode & 0o111 != 0,
                    body: Body::Path(body_path),
                });
            } else if !is_hidden_or_aside(&path) {
                return Err(self.not_a_file(&full, meta.file_type()));
            }
        }
        Ok(())
    }

    fn not_a_file(&self, path: &Path, kind: std::fs::FileType) -> Error {
        Error::NotAFile {
            element: self.name.clone(),
            path: path.to_owned(),
            found: small::phrase(kind),
        }
    }

    /// Where a link leads; `None` when it dangles. It must stay in the library.
    fn follow(&self, link: &Path) -> Result<Option<PathBuf>, Error> {
        let target = match std::fs::canonicalize(link) {
            Ok(target) => target,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(source) => {
                return Err(Error::Io {
                    action: "follow",
                    path: link.to_owned(),
                    source,
                });
            }
        };
        let own = match &self.origin {
            Origin::Directory(path) => target.starts_with(path),
            Origin::Embedded(_) => false,
        };
        if own
            || self
                .library
                .as_ref()
                .is_some_and(|library| target.starts_with(library))
        {
            Ok(Some(target))
        } else {
            Err(Error::LinkOutside {
                element: self.name.clone(),
                path: link.to_owned(),
            })
        }
    }
}

/// Every element that can be named, found once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    elements: BTreeMap<String, Element>,
    replaced: Vec<Element>,
}

impl Library {
    /// Reads the directories of `elements_path`, of which earlier ones win, and
    /// puts the embedded library behind them.
    pub fn new(elements_path: &[PathBuf]) -> Result<Self, Error> {
        let mut library = Self::with_directories(elements_path)?;
        library.leave_out_replaced();
        for element in embedded_elements() {
            library.add(element);
        }
        Ok(library)
    }

    /// Reads only the directories of `elements_path`, of which earlier ones win.
    pub fn with_directories(elements_path: &[PathBuf]) -> Result<Self, Error> {
        let mut library = Self {
            elements: BTreeMap::new(),
            replaced: Vec::new(),
        };
        for entry in elements_path {
            for element in directory_elements(entry)? {
                library.add(element);
            }
        }
        Ok(library)
    }

    /// Takes out the elements of diskimage-builder's own library that those of
    /// the embedded one stand in for.
    fn leave_out_replaced(&mut self) {
        for (name, _) in replaced::REPLACED {
            if self.elements.get(name).is_some_and(Element::is_upstream) {
                self.replaced.extend(self.elements.remove(name));
            }
        }
    }

    /// Elements of diskimage-builder's own library that embedded ones of the same
    /// name take the place of; [`replaced::reason`] says why.
    pub fn replaced(&self) -> &[Element] {
        &self.replaced
    }

    /// Adds an element, unless there is one of its name.
    fn add(&mut self, element: Element) {
        self.elements.entry(element.name.clone()).or_insert(element);
    }

    /// The element of that name.
    pub fn get(&self, name: &str) -> Option<&Element> {
        self.elements.get(name)
    }

    /// All elements by name.
    pub fn iter(&self) -> impl Iterator<Item = &Element> {
        self.elements.values()
    }

    /// Names of the elements that can be a root, sorted.
    pub fn operating_systems(&self) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        for element in self.iter() {
            if element
                .provides()?
                .iter()
                .any(|thing| thing == OPERATING_SYSTEM)
            {
                names.push(element.name.clone());
            }
        }
        Ok(names)
    }

    /// Up to three names that look like `name`, best first.
    pub fn similar(&self, name: &str) -> Vec<String> {
        similar::names(name, self.elements.keys().map(String::as_str))
    }
}

/// The elements of one entry of the search path, in byte order of the listing.
fn directory_elements(entry: &Path) -> Result<Vec<Element>, Error> {
    if entry.as_os_str().is_empty() {
        return Err(Error::EmptyPathEntry);
    }
    if !is_directory(entry)? {
        return Err(Error::InvalidElementDir {
            path: entry.to_owned(),
        });
    }
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io {
            action: "resolve",
            path,
            source,
        }
    };
    let library = std::fs::canonicalize(entry).map_err(io(entry))?;
    let mut elements = Vec::new();
    for name in sorted_names(entry)? {
        let listed = entry.join(&name);
        if !is_directory(&listed)? {
            continue;
        }
        // The name is that of the directory a link leads to, not of the link.
        let resolved = std::fs::canonicalize(&listed).map_err(io(&listed))?;
        let Some(name) = resolved.file_name().and_then(OsStr::to_str) else {
            continue;
        };
        elements.push(Element {
            name: name.to_owned(),
            origin: Origin::Directory(resolved.clone()),
            library: Some(library.clone()),
        });
    }
    Ok(elements)
}

/// The elements inside the binary, in the order of the table.
fn embedded_elements() -> Vec<Element> {
    let mut elements: Vec<Element> = Vec::new();
    for file in embed::FILES {
        let mut slashes = file.path.match_indices('/').map(|(at, _)| at);
        let (Some(group), Some(end)) = (slashes.next(), slashes.next()) else {
            continue; // a file beside the elements, such as a README of the group
        };
        let (Some(prefix), Some(name)) = (file.path.get(..end), file.path.get(group + 1..end))
        else {
            continue;
        };
        if elements
            .last()
            .is_none_or(|last| last.origin != Origin::Embedded(prefix))
        {
            elements.push(Element {
                name: name.to_owned(),
                origin: Origin::Embedded(prefix),
                library: None,
            });
        }
    }
    elements
}

/// Files of the embedded element at `prefix`, with paths below it.
fn embedded(prefix: &'static str) -> impl Iterator<Item = (&'static str, &'static embed::File)> {
    embed::FILES.iter().filter_map(move |file| {
        let rest = file.path.strip_prefix(prefix)?.strip_prefix('/')?;
        Some((rest, file))
    })
}

fn embedded_files(prefix: &'static str) -> Vec<ElementFile> {
    let mut directories = BTreeSet::new();
    let mut files = Vec::new();
    for (path, file) in embedded(prefix) {
        directories.extend(Path::new(path).ancestors().skip(1).map(Path::to_path_buf));
        let (mode, body) = match file.body {
            embed::Body::Data(bytes) => (
                if file.executable { 0o755 } else { 0o644 },
                Body::Bytes(bytes),
            ),
            embed::Body::Link(target) => (0o777, Body::Link(PathBuf::from(target))),
        };
        let executable = file.executable && matches!(body, Body::Bytes(_));
        files.push(ElementFile {
            path: PathBuf::from(path),
            mode,
            executable,
            body,
        });
    }
    files.extend(
        directories
            .into_iter()
            .filter(|path| !path.as_os_str().is_empty())
            .map(|path| ElementFile {
                path,
                mode: 0o755,
                executable: false,
                body: Body::Directory,
            }),
    );
    files
}

/// Whether no build reads a path of an element: of its tests, or of what version control
/// and editors keep there, in which sockets may be.
fn is_hidden_or_aside(path: &Path) -> bool {
    let mut names = path.iter().filter(|name| *name != ".");
    let is_hidden = |name: &OsStr| name.as_bytes().starts_with(b".");
    let (top, second) = (names.next(), names.next());
    top.is_some_and(|name| hooks::is_aside(name) || is_hidden(name))
        || second.is_some_and(is_hidden)
}

fn sorted_names(directory: &Path) -> Result<Vec<std::ffi::OsString>, Error> {
    let io = |source| Error::Io {
        action: "list",
        path: directory.to_owned(),
        source,
    };
    let mut names = std::fs::read_dir(directory)
        .map_err(io)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(io)?;
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    Ok(names)
}

/// Whether `path` leads to a directory. That it cannot be told is an error: elements that
/// the user may not read must not look as if they were not there.
fn is_directory(path: &Path) -> Result<bool, Error> {
    match std::fs::metadata(path) {
        Ok(about) => Ok(about.is_dir()),
        Err(error) if is_absent(&error) => Ok(false),
        Err(source) => Err(Error::Io {
            action: "look at",
            path: path.to_owned(),
            source,
        }),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    ) || error.raw_os_error() == Some(libc::ELOOP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn element(root: &Path, name: &str) -> PathBuf {
        let path = root.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn earlier_directories_win() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        element(&a, "x");
        element(&b, "x");
        element(&b, "y");
        let library = Library::with_directories(&[a.clone(), b.clone()]).unwrap();
        assert_eq!(
            library.iter().map(|e| e.name.as_str()).collect::<Vec<_>>(),
            ["x", "y"]
        );
        let winner = fs::canonicalize(a.join("x")).unwrap();
        assert_eq!(library.get("x").unwrap().origin, Origin::Directory(winner));
    }

    #[test]
    fn a_linked_element_has_the_name_of_the_directory_it_leads_to() {
        let dir = tempfile::tempdir().unwrap();
        element(&dir.path().join("impl"), "bar");
        fs::create_dir(dir.path().join("lib")).unwrap();
        std::os::unix::fs::symlink("../impl/bar", dir.path().join("lib/foo")).unwrap();
        let library = Library::with_directories(&[dir.path().join("lib")]).unwrap();
        assert!(library.get("foo").is_none());
        assert!(library.get("bar").is_some());
    }

    #[test]
    fn bad_entries_of_the_search_path_are_named() {
        let text = |path: &str| {
            Library::with_directories(&[PathBuf::from(path)])
                .unwrap_err()
                .to_string()
        };
        assert_eq!(text(""), "the element search path has an empty entry");
        assert_eq!(
            text("/nowhere/x"),
            "element search path entry `/nowhere/x` is not a directory"
        );
    }

    #[test]
    fn what_cannot_be_looked_at_is_not_taken_for_absent() {
        let dir = tempfile::tempdir().unwrap();
        // A name that no filesystem has fails for root too.
        let long = dir.path().join("x".repeat(300));
        let library = dir.path().join("library");
        fs::create_dir(&library).unwrap();
        std::os::unix::fs::symlink(&long, library.join("e")).unwrap();
        for (entry, named) in [(&long, &long), (&library, &library.join("e"))] {
            let error = Library::with_directories(std::slice::from_ref(entry)).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("cannot look at `{}`", named.display())
            );
        }
    }

    #[test]
    fn dependencies_have_no_comments_and_collapse() {
        let dir = tempfile::tempdir().unwrap();
        let path = element(dir.path(), "e");
        fs::write(path.join("element-deps"), " a\n\nb \n# x\na").unwrap();
        let library = Library::with_directories(&[dir.path().to_owned()]).unwrap();
        assert_eq!(
            library.get("e").unwrap().dependencies().unwrap(),
            ["a", "b", "# x"]
        );
        assert!(library.get("e").unwrap().provides().unwrap().is_empty());
    }

    #[test]
    fn what_should_be_a_file_and_is_none_is_named() {
        let pipe = |path: &Path| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        };
        let text = |prepare: &dyn Fn(&Path)| {
            let dir = tempfile::tempdir().unwrap();
            let root = format!("{}/e/", fs::canonicalize(dir.path()).unwrap().display());
            prepare(&element(dir.path(), "e"));
            let library = Library::with_directories(&[dir.path().to_owned()]).unwrap();
            let e = library.get("e").unwrap();
            let result = e.dependencies().and_then(|_| e.files());
            result.map_or_else(
                |error| error.to_string().replace(&root, ""),
                |_| String::new(),
            )
        };
        let named = |path: &str, found: &str| {
            format!("`{path}` of element `e` is {found}, and not a regular file")
        };
        assert_eq!(
            text(&|e| pipe(&e.join("element-deps"))),
            named("element-deps", "a named pipe")
        );
        assert_eq!(
            text(&|e| fs::create_dir(e.join("element-deps")).unwrap()),
            named("element-deps", "a directory")
        );
        assert_eq!(
            text(&|e| pipe(&e.join("install.d/10-x"))),
            named("install.d/10-x", "a named pipe")
        );
        // What no build reads may be anything.
        for path in [".git/ipc", "tests/pipe", "install.d/.pipe"] {
            assert_eq!(text(&|e| pipe(&e.join(path))), "", "{path}");
        }
    }

    #[test]
    fn links_at_the_top_are_followed_within_the_library_only() {
        let dir = tempfile::tempdir().unwrap();
        let library_dir = dir.path().join("lib");
        let path = element(&library_dir, "e");
        fs::create_dir_all(library_dir.join("common/install.d")).unwrap();
        fs::write(library_dir.join("common/install.d/10-x"), "x").unwrap();
        fs::write(library_dir.join("common/pkg-map"), "{}").unwrap();
        std::os::unix::fs::symlink("../common/install.d", path.join("install.d")).unwrap();
        std::os::unix::fs::symlink("../common/pkg-map", path.join("pkg-map")).unwrap();
        std::os::unix::fs::symlink("nowhere", path.join("dangling")).unwrap();
        let library = Library::with_directories(std::slice::from_ref(&library_dir)).unwrap();
        let e = library.get("e").unwrap();
        assert_eq!(e.read("pkg-map").unwrap().unwrap(), b"{}");
        let paths: Vec<_> = e.files().unwrap().into_iter().map(|f| f.path).collect();
        assert_eq!(
            paths,
            ["dangling", "install.d", "install.d/10-x", "pkg-map"].map(PathBuf::from)
        );
        // What a build does not read may lead anywhere.
        for name in ["tests", "README.rst", "LICENSE"] {
            std::os::unix::fs::symlink("/etc/passwd", path.join(name)).unwrap();
        }
        assert_eq!(e.files().unwrap().len(), 7);
        std::os::unix::fs::symlink("/etc/passwd", path.join("evil")).unwrap();
        let error = e.files().unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("of element `e` is a link that leaves its library"),
            "{error}"
        );
    }

    #[test]
    fn every_embedded_element_has_readable_files() {
        let library = Library::new(&[]).unwrap();
        for element in library.iter() {
            assert!(!element.files().unwrap().is_empty(), "{}", element.name);
            element.dependencies().unwrap();
        }
    }
}
