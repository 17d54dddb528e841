//! Gives a finished root to a build: as the lowest layer of its target, or copied.

use std::io;
use std::path::{Path, PathBuf};

use super::cached;
use super::error::Error;
use super::repository::ListContent;
use super::{Bootstrapped, Notice, Report};
use crate::rootfs::beneath::Root;
use crate::rootfs::{copy, owners};
use crate::sandbox::identity::owners_are_recorded;
use crate::sandbox::mounts::mount_overlay;

/// Where a root is to go.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The target: an existing directory.
    pub target: PathBuf,
    /// Where the layers of an overlay may lie; without it the root is copied.
    pub layers: Option<PathBuf>,
    /// Where apt of the target finds packages (`DIB_IMAGE_CACHE/apt/debian`).
    pub packages: Option<PathBuf>,
}

/// Puts a root into a target, with apt's lists, and its packages where apt finds them.
pub fn deliver(root: &Bootstrapped, delivery: &Delivery, report: Report<'_>) -> Result<(), Error> {
    let target = &delivery.target;
    if let Some(tree) = &root.root {
        deliver_tree(tree, delivery, report)?;
    }
    write_lists(root, target)?;
    write_marks(root, target)?;
    // It saves apt a download, and no more: the directory may be of a build of root's.
    if let Some(directory) = &delivery.packages
        && let Err(error) = share_packages(root, directory)
    {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        report(Notice::Info(&format!(
            "the packages are not kept for apt: {error}: {}",
            cause.unwrap_or_default()
        )));
    }
    Ok(())
}

fn deliver_tree(root: &Path, delivery: &Delivery, report: Report<'_>) -> Result<(), Error> {
    let target = &delivery.target;
    let mut mounted = false;
    // Records belong to inodes, and overlayfs makes new ones when files change.
    let recorded = owners_are_recorded();
    if let Some(layers) = delivery.layers.as_ref().filter(|_| !recorded) {
        match overlay(root, layers, target) {
            Ok(()) => mounted = true,
            Err(error) => report(Notice::Info(&format!(
                "copying the root, since overlayfs is not to be had here: {error}"
            ))),
        }
    }
    if !mounted {
        copy::copy_tree(root, target).map_err(|error| Error::File {
            action: "copy the root to",
            path: target.join(error.path),
            source: error.source,
        })?;
    }
    let list = cached::owners_of(root);
    if list.exists() {
        owners::apply(&list, target).map_err(|(path, source)| Error::File {
            action: "set the owner of",
            path: target.join(path),
            source,
        })?;
    }
    Ok(())
}

fn overlay(lower: &Path, layers: &Path, target: &Path) -> io::Result<()> {
    let (upper, work) = (layers.join("upper"), layers.join("work"));
    fs_err::create_dir_all(&upper)?;
    fs_err::create_dir_all(&work)?;
    // The top of the overlay is the upper directory: it takes after the root's.
    let like = fs_err::metadata(lower)?;
    fs_err::set_permissions(&upper, like.permissions())?;
    mount_overlay(&[lower], &upper, &work, target)
}

/// Writes `/var/lib/apt/lists` as an update would.
fn write_lists(root: &Bootstrapped, target: &Path) -> Result<(), Error> {
    let directory = Path::new("var/lib/apt/lists");
    let fail = |name: &Path| {
        let path = target.join(name);
        move |source| Error::File {
            action: "write",
            path,
            source,
        }
    };
    let inside = Root::open(target).map_err(fail(Path::new("")))?;
    inside.make_dirs(directory).map_err(fail(directory))?;
    for list in &root.lists {
        let path = directory.join(&list.name);
        let write = || -> io::Result<()> {
            let mut file = inside.create(&path, 0o644)?;
            match &list.content {
                ListContent::Bytes(bytes) => io::Write::write_all(&mut file, bytes)?,
                ListContent::File(from) => {
                    io::copy(&mut fs_err::File::open(from)?, &mut file)?;
                }
            }
            if let Some(modified) = list.modified {
                file.set_modified(modified)?;
            }
            Ok(())
        };
        write().map_err(fail(&path))?;
    }
    Ok(())
}

/// What apt remembers about packages; see `pkgDepCache::writeStateFile` of libapt-pkg.
const EXTENDED_STATES: &str = "var/lib/apt/extended_states";

/// Tells apt which packages nobody asked for, as if it had installed them itself.
fn write_marks(root: &Bootstrapped, target: &Path) -> Result<(), Error> {
    if root.automatic.is_empty() {
        return Ok(());
    }
    let fail = |source| Error::File {
        action: "write",
        path: target.join(EXTENDED_STATES),
        source,
    };
    let inside = Root::open(target).map_err(fail)?;
    inside.make_dirs(Path::new("var/lib/apt")).map_err(fail)?;
    let text = marks(&root.automatic, &root.arch);
    inside
        .write(Path::new(EXTENDED_STATES), text.as_bytes(), 0o644)
        .map_err(fail)
}

/// The stanzas; packages for all architectures count as of the native one.
fn marks(names: &[String], arch: &str) -> String {
    names
        .iter()
        .map(|name| format!("Package: {name}\nArchitecture: {arch}\nAuto-Installed: 1\n\n"))
        .collect()
}

/// Links the packages under apt's names; what is there already is left alone.
fn share_packages(root: &Bootstrapped, directory: &Path) -> Result<(), Error> {
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::File {
            action: "write",
            path,
            source,
        }
    };
    fs_err::create_dir_all(directory).map_err(fail(directory))?;
    for (name, blob) in &root.packages {
        let path = directory.join(name);
        if path.symlink_metadata().is_ok() || !blob.exists() {
            continue;
        }
        // apt of the target may write into this directory, so it gets files of its
        // own: the cache's must not change.
        let copy = || -> io::Result<()> {
            let mut new = tempfile::Builder::new()
                .prefix(".new-")
                .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
                .tempfile_in(directory)?;
            io::copy(&mut fs_err::File::open(blob)?, new.as_file_mut())?;
            new.persist(&path).map_err(|error| error.error)?;
            Ok(())
        };
        copy().map_err(fail(&path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_that_cannot_be_kept_for_apt_are_no_failure() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        fs_err::write(path("blob"), "x").expect("written");
        fs_err::write(path("file"), "").expect("written");
        fs_err::create_dir(path("target")).expect("made");
        let root = Bootstrapped {
            suite: String::new(),
            root: None,
            lists: Vec::new(),
            packages: vec![("x.deb".into(), path("blob"))],
            automatic: Vec::new(),
            arch: "amd64".into(),
        };
        let told = std::sync::Mutex::new(Vec::new());
        let report = |notice: Notice<'_>| {
            if let (Notice::Info(text), Ok(mut told)) = (notice, told.lock()) {
                told.push(text.to_owned());
            }
        };
        for directory in ["kept", "file/below"] {
            let delivery = Delivery {
                target: path("target"),
                layers: None,
                packages: Some(path(directory)),
            };
            deliver(&root, &delivery, &report).expect("delivered");
        }
        assert!(path("kept/x.deb").exists());
        let told = told.into_inner().expect("no panic");
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0].contains("not kept for apt: cannot write"),
            "{told:?}"
        );
    }

    #[test]
    fn marks_are_written_as_apt_writes_them() {
        assert_eq!(
            marks(&["a".into(), "b".into()], "amd64"),
            "Package: a\nArchitecture: amd64\nAuto-Installed: 1\n\n\
             Package: b\nArchitecture: amd64\nAuto-Installed: 1\n\n"
        );
    }
}
