//! The face `disk-image-get-kernel`: the kernel and the ramdisk out of an image.
//!
//! DIB had this command until its `baremetal` element took over; scripts that
//! boot images by PXE still call it. The image is read in userspace: nothing is
//! attached or mounted.

use std::path::{Path, PathBuf};

use super::Context;
use super::caller::Caller;
use super::failure::{Failure, misused};
use super::getopt::{self, Flag, Part};
use crate::inspect::fs::{self, Error as FsError, FileKind, FileSystem};
use crate::inspect::kernel::{self, Boot, Family, Pair};
use crate::inspect::{self, Contents};
use crate::sink;

/// Bytes that are copied at once.
const CHUNK: usize = 1 << 20;

/// An option of the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Id {
    Directory,
    Output,
    Image,
    Trace,
    Help,
    Version,
}

#[rustfmt::skip]
static FLAGS: &[Flag<Id>] = &[
    Flag::new(Id::Image, Some('i'), None, Some("IMAGE"),
        "Reads this image: qcow2, raw, vmdk, vhd, vhdx or vdi, with ext2, ext3, ext4, XFS, btrfs, squashfs or FAT, also on LVM."),
    Flag::new(Id::Directory, Some('d'), None, Some("DIR"),
        "Writes into this directory (default: the current one)."),
    Flag::new(Id::Output, Some('o'), None, Some("NAME"),
        "Writes NAME-vmlinuz and NAME-initrd (default: the image's name without its suffix)."),
    Flag::new(Id::Trace, Some('x'), None, None,
        "Says where in the image kernel and ramdisk are."),
    Flag::new(Id::Help, Some('h'), Some("help"), None,
        "Prints this text."),
    Flag::new(Id::Version, None, Some("version"), None,
        "Prints the version."),
];

fn help() -> String {
    format!(
        "Copies the kernel and the initial ramdisk that an image boots out of it, for PXE\n\
         and for `qemu -kernel`. Nothing is mounted.\n\
         \n\
         Usage: disk-image-get-kernel [OPTION]... -i IMAGE\n\
         \n\
         {}\n\
         The paths of both files are printed. DIB_BAREMETAL_KERNEL_PATTERN and\n\
         DIB_BAREMETAL_INITRD_PATTERN, when both are set, name the files in /boot.\n\
         \n\
         Example: disk-image-get-kernel -d tftp -o debian -i debian.qcow2\n",
        getopt::help(FLAGS, 88)
    )
}

/// Runs `disk-image-get-kernel`.
pub fn run(_: &str, arguments: &[String], context: &mut Context) -> Result<u8, Failure> {
    let mut image = None;
    let mut directory = None;
    let mut name = None;
    let mut trace = false;
    let advise = |failure: Failure| {
        if failure.hints.is_empty() {
            failure.hint("`disk-image-get-kernel --help` lists the options")
        } else {
            failure
        }
    };
    for part in getopt::parse(FLAGS, arguments, false).map_err(advise)? {
        match part {
            Part::Option(Id::Help, _) => {
                context.printer.data(help());
                return Ok(0);
            }
            Part::Option(Id::Version, _) => {
                context.printer.line(env!("CARGO_PKG_VERSION"));
                return Ok(0);
            }
            Part::Option(Id::Directory, value) => directory = value,
            Part::Option(Id::Output, value) => name = value,
            Part::Option(Id::Trace, _) => trace = true,
            Part::Option(Id::Image, value) => image = value,
            // The oldest form names the image alone.
            Part::Operand(path) if image.is_none() => image = Some(path),
            Part::Operand(path) => {
                return Err(misused(format!("`{path}` is one argument too many"))
                    .hint("one image is read at a time: `disk-image-get-kernel -i IMAGE`"));
            }
        }
    }
    let Some(image) = image else {
        return Err(Failure::new("no image is named")
            .hint("usage: disk-image-get-kernel [-d DIR] [-o NAME] -i IMAGE"));
    };
    let caller = &context.caller;
    let path = caller.current_dir.join(&image);
    let opened = inspect::open(&path, None)
        .map_err(|error| Failure::from_error(&error).hint_if(error.hint()))?;
    let patterns = patterns(caller)?;
    let contents = Contents::read(&opened).map_err(|error| damaged(&path, "the disk", &error))?;
    let found = find(&contents, &path, patterns.as_ref())?;
    let name = name.unwrap_or_else(|| {
        Path::new(&image).file_stem().map_or_else(
            || "image".to_owned(),
            |stem| stem.to_string_lossy().into_owned(),
        )
    });
    let directory = PathBuf::from(directory.unwrap_or_else(|| ".".to_owned()));
    if trace {
        context.printer.note(format_args!(
            "{}: {}/{} and {}/{}",
            found.place, found.boot, found.pair.kernel, found.boot, found.pair.ramdisk
        ));
    }
    for (file, suffix) in [
        (&found.pair.kernel, "vmlinuz"),
        (&found.pair.ramdisk, "initrd"),
    ] {
        let shown = directory.join(format!("{name}-{suffix}"));
        copy(
            &found.filesystem,
            &format!("{}/{file}", found.boot),
            &context.caller.current_dir.join(&shown),
        )?;
        context.printer.line(shown.display());
    }
    Ok(0)
}

fn patterns(caller: &Caller) -> Result<Option<(String, String)>, Failure> {
    let kernel = caller.text("DIB_BAREMETAL_KERNEL_PATTERN")?;
    let ramdisk = caller.text("DIB_BAREMETAL_INITRD_PATTERN")?;
    Ok(kernel.zip(ramdisk))
}

/// Where kernel and ramdisk are.
struct Found<'a> {
    filesystem: FileSystem<'a>,
    /// The filesystem's place, for people.
    place: String,
    /// The directory that holds both.
    boot: &'static str,
    pair: Pair,
}

/// Looks through the filesystems of an image.
fn find<'a>(
    contents: &Contents<'a>,
    path: &Path,
    patterns: Option<&(String, String)>,
) -> Result<Found<'a>, Failure> {
    let mut filesystems = Vec::new();
    let mut others = Vec::new();
    for part in &contents.parts {
        let place = place(part);
        match contents.open_system(part) {
            Ok(filesystem) => filesystems.push((place, filesystem)),
            // Its logical volumes are parts of their own.
            Err(FsError::Unsupported { .. }) if part.is_physical() => {}
            Err(FsError::Unknown) => {
                others.push(format!("{place} holds no filesystem that is known"))
            }
            Err(FsError::Unsupported { what }) => {
                others.push(format!("{place} {what}, which kiln does not read"));
            }
            Err(error @ FsError::Volume { .. }) => others.push(error.to_string()),
            Err(error) => return Err(damaged(path, &place, &error)),
        }
    }
    // What kind of system it is, only its root says; the kernel may lie elsewhere.
    let mut family = Family::Unknown;
    for (place, filesystem) in &filesystems {
        if let Some(known) = family_of(filesystem).map_err(|error| damaged(path, place, &error))? {
            family = known;
            break;
        }
    }
    for (place, filesystem) in filesystems {
        for boot in ["/boot", ""] {
            let look = || -> Result<Option<Pair>, FsError> {
                let names = names(&filesystem, boot)?;
                let target = |name: &str| link(&filesystem, &format!("{boot}/{name}"));
                let links = target("vmlinuz")?.zip(target("initrd")?);
                Ok(kernel::select(&Boot {
                    names,
                    links,
                    family,
                    patterns: patterns.cloned(),
                }))
            };
            if let Some(pair) = look().map_err(|error| damaged(path, &place, &error))? {
                return Ok(Found {
                    filesystem,
                    place,
                    boot,
                    pair,
                });
            }
        }
        others.push(format!(
            "{place} has no kernel with a ramdisk in `/boot` or `/`"
        ));
    }
    Err(Failure::new(format!(
        "no kernel was found in image `{}`: {}",
        path.display(),
        others.join("; ")
    ))
    .hint(format!(
        "kernels are looked for in {}; an image without one is booted by its host's kernel",
        fs::KINDS
    )))
}

fn place(part: &inspect::Part) -> String {
    if part.partition.is_none() && part.logical.is_none() {
        return "the whole disk".to_owned();
    }
    part.title()
}

fn damaged(path: &Path, place: &str, error: &FsError) -> Failure {
    let cause = Failure::from_error(error);
    let failure = Failure::new(format!(
        "{place} of image `{}`: {}",
        path.display(),
        cause.message
    ));
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure.hint("the image is damaged; fetch or make it again"),
    }
}

/// Names in a directory; none if there is no such directory.
fn names(filesystem: &FileSystem<'_>, directory: &str) -> Result<Vec<String>, FsError> {
    let found = match filesystem.lookup(directory.as_bytes(), true) {
        Err(FsError::NotFound { .. } | FsError::NotADirectory { .. }) => return Ok(Vec::new()),
        other => other?,
    };
    if filesystem.metadata(found)?.kind != FileKind::Directory {
        return Ok(Vec::new());
    }
    // What is not text is nothing that kiln looks for.
    Ok(filesystem
        .entries(found)?
        .into_iter()
        .filter_map(|entry| String::from_utf8(entry.name).ok())
        .collect())
}

/// The target of a symbolic link; `None` for anything else.
fn link(filesystem: &FileSystem<'_>, path: &str) -> Result<Option<String>, FsError> {
    let found = match filesystem.lookup(path.as_bytes(), false) {
        Err(FsError::NotFound { .. } | FsError::NotADirectory { .. }) => return Ok(None),
        other => other?,
    };
    if filesystem.metadata(found)?.kind != FileKind::Symlink {
        return Ok(None);
    }
    Ok(String::from_utf8(filesystem.link_target(found)?).ok())
}

fn family_of(filesystem: &FileSystem<'_>) -> Result<Option<Family>, FsError> {
    for (file, family) in [
        ("/etc/redhat-release", Family::RedHat),
        ("/etc/debian_version", Family::Debian),
        ("/etc/SuSE-release", Family::Suse),
        ("/etc/zypp", Family::Suse),
        ("/etc/gentoo-release", Family::Gentoo),
    ] {
        match filesystem.lookup(file.as_bytes(), true) {
            Ok(_) => return Ok(Some(family)),
            Err(FsError::NotFound { .. } | FsError::NotADirectory { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn copy(filesystem: &FileSystem<'_>, path: &str, target: &Path) -> Result<(), Failure> {
    let read = |error: FsError| damaged(target, &format!("`{path}`"), &error);
    let write = |error: sink::Error| Failure::from_error(&error).hint_if(error.hint());
    let file = filesystem
        .lookup(path.as_bytes(), true)
        .and_then(|file| filesystem.file(file))
        .map_err(read)?;
    let output = sink::Output::create(target, file.size).map_err(write)?;
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at < file.size {
        let count = filesystem.read_at(&file, at, &mut buffer).map_err(read)?;
        if count == 0 {
            break;
        }
        output.write_at(&buffer[..count], at).map_err(write)?;
        at += count as u64;
    }
    output
        .commit(&sink::Existing::Replace, false)
        .map_err(write)?;
    Ok(())
}
