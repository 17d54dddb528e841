//! The face `disk-image-get-kernel`: the kernel and the ramdisk out of an image.
//!
//! DIB had this command until its `baremetal` element took over; scripts that
//! boot images by PXE still call it. The image is read in userspace: nothing is
//! attached or mounted.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Context;
use super::failure::{Failure, misused};
use super::getopt::{self, Flag, Part};
use super::given::Caller;
use crate::inspect::filesystem::{self, Ext, ExtError};
use crate::inspect::kernel::{self, Boot, Family, Pair};
use crate::inspect::partition::{Partition, partitions};
use crate::inspect::{self, Image};
use crate::sink::{self, ReadAt as _};

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

const fn flag(
    id: Id,
    short: Option<char>,
    long: Option<&'static str>,
    value: Option<&'static str>,
    help: &'static str,
) -> Flag<Id> {
    Flag {
        id,
        short,
        long,
        value,
        help,
        added: false,
    }
}

#[rustfmt::skip]
static FLAGS: &[Flag<Id>] = &[
    flag(Id::Image, Some('i'), None, Some("IMAGE"),
        "Reads this image: qcow2, raw, vmdk, vhd, vhdx or vdi, with a root of ext2, ext3 or ext4."),
    flag(Id::Directory, Some('d'), None, Some("DIR"),
        "Writes into this directory (default: the current one)."),
    flag(Id::Output, Some('o'), None, Some("NAME"),
        "Writes NAME-vmlinuz and NAME-initrd (default: the image's name without its suffix)."),
    flag(Id::Trace, Some('x'), None, None,
        "Says where in the image kernel and ramdisk are."),
    flag(Id::Help, Some('h'), Some("help"), None,
        "Prints this text."),
    flag(Id::Version, None, Some("version"), None,
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
    let opened = inspect::open(&path, None).map_err(|error| {
        let mut failure = Failure::from_error(&error);
        failure.hints.extend(error.hint());
        failure
    })?;
    let opened = Arc::new(opened);
    let patterns = patterns(caller)?;
    let found = find(&opened, &path, patterns.as_ref())?;
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
struct Found {
    filesystem: Ext,
    /// The filesystem's place, for people.
    place: String,
    /// The directory that holds both.
    boot: &'static str,
    pair: Pair,
}

/// Looks through the filesystems of an image.
fn find(
    image: &Arc<Image>,
    path: &Path,
    patterns: Option<&(String, String)>,
) -> Result<Found, Failure> {
    let unreadable = |error: sink::Cause| {
        Failure::new(format!("cannot read image `{}`: {error}", path.display()))
            .hint("fetch or make the image again")
    };
    let mut parts = partitions(image.as_ref()).map_err(unreadable)?;
    if parts.is_empty() {
        parts.push(Partition {
            number: 0,
            start: 0,
            length: image.length(),
            name: None,
        });
    }
    let mut filesystems = Vec::new();
    let mut others = Vec::new();
    for part in &parts {
        let place = match part.number {
            0 => "the whole disk".to_owned(),
            number => format!("partition {number}"),
        };
        match filesystem::identify(image.as_ref(), part.start, part.length).map_err(unreadable)? {
            Some(filesystem::EXT) => {
                let filesystem = Ext::open(image, part.start, part.length)
                    .map_err(|error| damaged(path, &place, &error))?;
                filesystems.push((place, filesystem));
            }
            Some(other) => others.push(format!("{place} holds {other}")),
            None => others.push(format!("{place} holds nothing that is known")),
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
            let directory = if boot.is_empty() { "/" } else { boot };
            let look = || -> Result<Option<Pair>, ExtError> {
                let names = filesystem.names(directory)?;
                let target = |name: &str| filesystem.link(&format!("{boot}/{name}"));
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
        filesystem::EXT
    )))
}

fn damaged(path: &Path, place: &str, error: &ExtError) -> Failure {
    let cause = Failure::from_error(error);
    Failure::new(format!(
        "{place} of image `{}`: {}",
        path.display(),
        cause.message
    ))
    .hint("the filesystem is damaged, or has features that kiln does not read; `e2fsck -n` tells")
}

fn family_of(filesystem: &Ext) -> Result<Option<Family>, ExtError> {
    for (file, family) in [
        ("/etc/redhat-release", Family::RedHat),
        ("/etc/debian_version", Family::Debian),
        ("/etc/SuSE-release", Family::Suse),
        ("/etc/zypp", Family::Suse),
        ("/etc/gentoo-release", Family::Gentoo),
    ] {
        if filesystem.exists(file)? {
            return Ok(Some(family));
        }
    }
    Ok(None)
}

/// An error on the way from the image to a file.
enum CopyError {
    Read(ExtError),
    Write(sink::Error),
}

impl From<ExtError> for CopyError {
    fn from(error: ExtError) -> Self {
        Self::Read(error)
    }
}

fn copy(filesystem: &Ext, file: &str, target: &Path) -> Result<(), Failure> {
    let work = || -> Result<(), CopyError> {
        let length = filesystem.length(file)?;
        let output = sink::Output::create(target, length).map_err(CopyError::Write)?;
        let mut offset = 0;
        filesystem.read::<CopyError>(file, &mut |bytes| {
            output.write_at(bytes, offset).map_err(CopyError::Write)?;
            offset += bytes.len() as u64;
            Ok(())
        })?;
        output
            .commit(&sink::Existing::Replace, false)
            .map_err(CopyError::Write)?;
        Ok(())
    };
    work().map_err(|error| match error {
        CopyError::Read(error) => {
            Failure::from_error(&error).hint("the image is damaged; fetch or make it again")
        }
        CopyError::Write(error) => {
            let mut failure = Failure::from_error(&error);
            failure.hints.extend(error.hint());
            failure
        }
    })
}
