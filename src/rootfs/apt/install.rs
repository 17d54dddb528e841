//! Turns chosen packages into an unpacked root, while they are still arriving.
//!
//! ```text
//!  connections ──► verified .deb ──► workers: decompress, unpack ──► dpkg's database
//! ```
//!
//! `base-files` comes first, because it ships the links of the merged `/usr` or,
//! before Debian 13, expects them; everything else is unpacked as it arrives.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex};

use super::deb::{ControlFile, Deb};
use super::dpkg;
use super::error::Error;
use super::index::Package;
use super::members;
use super::unpack::{Unpacked, Unpacker};
use crate::fetch::{Blob, Cache, Client, Item, Progress};
use crate::rootfs::beneath::{self, Root};

/// Packages to unpack, in the order of [`super::resolve`].
#[derive(Debug, Clone, Copy)]
pub struct Selection<'a> {
    /// The packages.
    pub packages: &'a [&'a Package],
    /// Names of those that make the minimal system.
    pub base: &'a BTreeSet<String>,
    /// Where each of them is.
    pub items: &'a [Item],
    /// The architecture.
    pub arch: &'a str,
}

/// What is left for the target's dpkg to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Packages that dpkg has to unpack, by their place in the selection.
    pub for_dpkg: Vec<usize>,
    /// Devices that could not be made.
    pub skipped_devices: BTreeSet<PathBuf>,
}

struct Done {
    control: BTreeMap<String, ControlFile>,
    /// `None` when the files were left to dpkg as well.
    unpacked: Option<Unpacked>,
    for_dpkg: bool,
}

/// Fetches and unpacks a selection into an empty root.
pub fn install(
    client: &Client,
    cache: &Cache,
    selection: Selection<'_>,
    root: &Root,
    progress: Progress<'_>,
) -> Result<Outcome, Error> {
    let unpacker = Unpacker::new(root);
    let first = selection
        .packages
        .iter()
        .position(|package| package.name == "base-files");
    let queue = Queue::new(first);
    let results: Mutex<BTreeMap<usize, Done>> = Mutex::default();
    let failure: Mutex<Option<(usize, Error)>> = Mutex::default();
    let workers = std::thread::available_parallelism().map_or(1, usize::from);

    std::thread::scope(|scope| {
        for number in 0..workers {
            let thread = std::thread::Builder::new().spawn_scoped(scope, || {
                let _end = EndOfWorker(&queue);
                while let Some((index, blob)) = queue.take() {
                    let result = unpack_one(
                        &unpacker,
                        root,
                        selection,
                        index,
                        &blob,
                        Some(index) == first,
                    );
                    match result {
                        Ok(done) => {
                            lock(&results).insert(index, done);
                            queue.finished(index);
                        }
                        Err(error) => {
                            let mut failure = lock(&failure);
                            // The first in order, so that the message is the same every time it can be.
                            if failure.as_ref().is_none_or(|(other, _)| index < *other) {
                                *failure = Some((index, error));
                            }
                            queue.close(true);
                        }
                    }
                }
            });
            match thread {
                Ok(_) => {}
                // Fewer are slower, but enough.
                Err(_) if number > 0 => break,
                Err(source) => return Err(Error::Thread { source }),
            }
        }
        let fetched = cache.fetch_all(client, selection.items, progress, &|index, blob| {
            queue.put(index, blob.clone());
        });
        queue.close(fetched.is_err());
        Ok(fetched.map(drop)?)
    })?;
    if let Some((_, error)) = failure
        .into_inner()
        .unwrap_or_else(|poison| poison.into_inner())
    {
        return Err(error);
    }
    unpacker.finish().map_err(|source| Error::Unpack {
        package: "directories of all packages".to_owned(),
        source,
    })?;

    let mut results = results
        .into_inner()
        .unwrap_or_else(|poison| poison.into_inner());
    for index in unpacker.conflicts() {
        if let Some(done) = results.get_mut(&index) {
            done.for_dpkg = true;
        }
    }
    let entries: Vec<dpkg::Entry<'_>> = results
        .iter()
        .filter(|(_, done)| !done.for_dpkg)
        .filter_map(|(index, done)| {
            let package = selection.packages.get(*index)?;
            Some(dpkg::Entry {
                name: &package.name,
                arch: &package.arch,
                qualified: package.multi_arch_same,
                control: &done.control,
                unpacked: done.unpacked.as_ref()?,
            })
        })
        .collect();
    dpkg::write_state(root, &entries).map_err(|source| Error::File {
        action: "write dpkg's database below",
        path: root.path().join(dpkg::ADMIN),
        source,
    })?;
    Ok(Outcome {
        for_dpkg: results
            .iter()
            .filter(|(_, done)| done.for_dpkg)
            .map(|(index, _)| *index)
            .collect(),
        skipped_devices: unpacker.skipped(),
    })
}

fn unpack_one(
    unpacker: &Unpacker<'_>,
    root: &Root,
    selection: Selection<'_>,
    index: usize,
    blob: &Blob,
    is_first: bool,
) -> Result<Done, Error> {
    let Some(package) = selection.packages.get(index) else {
        return Ok(Done {
            control: BTreeMap::new(),
            unpacked: None,
            for_dpkg: false,
        });
    };
    let name = || format!("{} {}", package.name, package.version);
    let unreadable = |source| Error::Package {
        package: name(),
        source,
    };
    let deb = Deb::open(&blob.path).map_err(unreadable)?;
    let control = deb.control().map_err(unreadable)?;
    let for_dpkg = dpkg::needs_dpkg(&control).is_some();
    // The minimal system must be there before any of its scripts can run, so it is
    // unpacked even if dpkg will do so again; others wait for their preinst.
    if for_dpkg && !selection.base.contains(&package.name) {
        return Ok(Done {
            control,
            unpacked: None,
            for_dpkg,
        });
    }
    if is_first {
        merge_usr(unpacker, root, &deb, selection.arch, &name())?;
    }
    let conffiles = dpkg::conffiles(&control)
        .unwrap_or_default()
        .into_iter()
        .collect();
    let data = deb.data().map_err(unreadable)?;
    let declared = package.installed_size.saturating_mul(1024);
    let unpacked = unpacker
        .unpack(index, data, declared, &conffiles)
        .map_err(|source| Error::Unpack {
            package: name(),
            source,
        })?;
    Ok(Done {
        control,
        unpacked: Some(unpacked),
        for_dpkg,
    })
}

/// Directories of `/usr` that have a link at the top, beyond the common ones.
fn library_directories(arch: &str) -> &'static [&'static str] {
    match arch {
        "amd64" | "x32" => &["lib32", "lib64", "libx32"],
        "i386" => &["lib64", "libx32"],
        "mips" | "mipsel" | "ppc64" => &["lib32", "lib64"],
        "mips64el" | "mipsn32el" => &["lib32", "lib64", "libo32"],
        "loong64" | "powerpc" | "ppc64el" | "sparc64" => &["lib64"],
        "s390x" => &["lib32"],
        _ => &[],
    }
}

/// Makes `/bin` and its like links into `/usr`, unless base-files ships them.
fn merge_usr(
    unpacker: &Unpacker<'_>,
    root: &Root,
    base_files: &Deb,
    arch: &str,
    name: &str,
) -> Result<(), Error> {
    let unreadable = |source| Error::Package {
        package: name.to_owned(),
        source,
    };
    let mut shipped = BTreeSet::new();
    let data = base_files.data().map_err(unreadable)?;
    members::each(data, 0, |entry| {
        if entry.header().entry_type().is_symlink()
            && let Some(path) = beneath::clean(&entry.path_bytes())
        {
            shipped.insert(path);
        }
        Ok(())
    })
    .map_err(|source| Error::Unpack {
        package: name.to_owned(),
        source,
    })?;
    let names = ["bin", "sbin", "lib"]
        .iter()
        .chain(library_directories(arch));
    let make_all = !shipped.contains(Path::new("bin"));
    for name in names {
        let path = Path::new(name);
        let target = Path::new("usr").join(name);
        if make_all || shipped.contains(path) {
            unpacker.set_merged(path);
        }
        if make_all {
            root.make_dirs(&target)
                .and_then(|()| root.symlink(OsStr::new(&target), path))
                .map_err(|source| Error::File {
                    action: "create",
                    path: root.path().join(path),
                    source,
                })?;
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// Packages that have arrived; the first one is given out before all others.
/// A worker that panics lets nobody wait for what it was doing.
struct EndOfWorker<'a>(&'a Queue);

impl Drop for EndOfWorker<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.close(true);
        }
    }
}

struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    first: Option<usize>,
}

#[derive(Default)]
struct State {
    ready: BTreeMap<usize, Blob>,
    first_done: bool,
    closed: bool,
    aborted: bool,
}

impl Queue {
    fn new(first: Option<usize>) -> Queue {
        Queue {
            state: Mutex::new(State {
                first_done: first.is_none(),
                ..State::default()
            }),
            changed: Condvar::new(),
            first,
        }
    }

    fn put(&self, index: usize, blob: Blob) {
        lock(&self.state).ready.insert(index, blob);
        self.changed.notify_all();
    }

    fn finished(&self, index: usize) {
        if Some(index) == self.first {
            lock(&self.state).first_done = true;
            self.changed.notify_all();
        }
    }

    /// Nothing more will come; `abort` also drops what has come.
    fn close(&self, abort: bool) {
        let mut state = lock(&self.state);
        state.closed = true;
        state.aborted |= abort;
        drop(state);
        self.changed.notify_all();
    }

    fn take(&self) -> Option<(usize, Blob)> {
        let mut state = lock(&self.state);
        loop {
            if state.aborted {
                return None;
            }
            if state.first_done {
                if let Some(next) = state.ready.pop_first() {
                    return Some(next);
                }
                if state.closed {
                    return None;
                }
            } else if let Some(first) = self.first
                && let Some(blob) = state.ready.remove(&first)
            {
                return Some((first, blob));
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(|poison| poison.into_inner());
        }
    }
}
