//! Readers of disk images, whoever made them.
//!
//! An image is untrusted input. [`open`] reads its tables once into a map from
//! the disk to the file, with every offset checked and memory bounded; what comes
//! after is the same for all formats. No file but the image itself is ever
//! opened: images that stand on others are refused.
//!
//! [`Contents`] finds partitions and logical volumes on any disk, in an image or not
//! yet written;
//! [`fs::FileSystem`] reads the files in them.

use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

mod collect;
mod contents;
mod decompress;
mod device;
mod error;
mod extract;
mod file;
pub mod fs;
mod image;
pub mod kernel;
mod lvm;
mod map;
mod mapping;
mod partitions;
mod qcow2;
mod system;
mod vdi;
mod vhd;
mod vhdx;
mod vmdk;
mod volume;

pub use collect::{CollectError, Collector};
pub use contents::{ChooseError, Contents, Part, os_release};
pub use error::Error;
pub use extract::{ExtractError, Extracted, Named, Target, extract};
pub use image::{BadCompression, Image, Shrunk};
pub use lvm::Logical;
pub use mapping::Mapping;
pub use partitions::{Partition, Table, TableKind};
pub use system::{SystemError, is_root, system};
pub use volume::Volume;

use error::Problem;
use file::Source;
use map::{Map, Piece, Place};

/// A format that kiln reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The disk's bytes.
    Raw,
    /// QEMU's.
    Qcow2,
    /// VMware's, in one sparse file.
    Vmdk,
    /// Virtual PC's.
    Vhd,
    /// Hyper-V's.
    Vhdx,
    /// VirtualBox's.
    Vdi,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 6] = [
        Format::Raw,
        Format::Qcow2,
        Format::Vmdk,
        Format::Vhd,
        Format::Vhdx,
        Format::Vdi,
    ];

    /// Its name, as in `sink`.
    pub fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::Vmdk => "vmdk",
            Format::Vhd => "vhd",
            Format::Vhdx => "vhdx",
            Format::Vdi => "vdi",
        }
    }

    /// The format of this name; `vpc` is QEMU's for VHD.
    pub fn from_name(name: &str) -> Option<Format> {
        let name = if name == "vpc" { "vhd" } else { name };
        Format::ALL.into_iter().find(|format| format.name() == name)
    }

    /// The format of a file by its content; raw if it is none of the others, and nothing
    /// else that is known either.
    fn detect(source: &Source, path: &Path) -> Result<Format, Error> {
        let start = source.bytes(0, source.length.min(64)).unwrap_or_default();
        let vmdk: [&[u8]; 3] = [b"KDMV", vmdk::DESCRIPTOR, vmdk::MAGIC_ESX];
        Ok(if start.starts_with(b"QFI\xfb") {
            Format::Qcow2
        } else if vmdk.iter().any(|magic| start.starts_with(magic)) {
            Format::Vmdk
        } else if start.starts_with(b"vhdxfile") {
            Format::Vhdx
        } else if vdi::is_vdi(source) {
            Format::Vdi
        } else if vhd::is_vhd(source) {
            Format::Vhd
        } else if let Some((what, hint)) = foreign(&start) {
            return Err(Error::Foreign {
                path: path.to_owned(),
                what,
                hint,
            });
        } else {
            Format::Raw
        })
    }
}

/// Opens an image of a format, or of the one that its content shows.
///
/// A guest can write anything into a raw image, the start of another format
/// too; where that matters, name the format.
///
/// # Errors
/// The file cannot be read; it is damaged, stands on another file, or has
/// something that is not read (by name).
pub fn open(path: &Path, format: Option<Format>) -> Result<Image, Error> {
    let io = |source| Error::Io {
        path: path.to_owned(),
        source,
    };
    // A FIFO must not block before it is refused.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(io)?;
    of_file(file, path, format)
}

/// The same for a file that is open already, and may have no name; `path` is for messages.
pub fn of_file(mut file: File, path: &Path, format: Option<Format>) -> Result<Image, Error> {
    let io = |source| Error::Io {
        path: path.to_owned(),
        source,
    };
    let kind = file.metadata().map_err(io)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(Error::NotAFile {
            path: path.to_owned(),
        });
    }
    // Block devices have no length in their metadata.
    let length = file.seek(SeekFrom::End(0)).map_err(io)?;
    let mut source = Source {
        file,
        length,
        changes: Vec::new(),
    };
    let format = match format {
        Some(format) => format,
        None => Format::detect(&source, path)?,
    };
    let map = match format {
        Format::Raw => raw(&source),
        Format::Qcow2 => qcow2::read(&source),
        Format::Vmdk => vmdk::read(&source),
        Format::Vhd => vhd::read(&source),
        Format::Vhdx => vhdx::read(&mut source),
        Format::Vdi => vdi::read(&source),
    };
    let mut map = map.map_err(|problem| problem.into_error(path.to_owned(), format.name()))?;
    map.leave_out_holes(&image::data_ranges(&source.file, source.length));
    Ok(Image {
        file: source.file,
        file_length: source.length,
        format: format.name(),
        map,
    })
}

/// How images begin that kiln does not read, and whose they are.
const FOREIGN: [(&[u8], &str); 3] = [
    (b"QED\0", "QEMU's format QED"),
    (b"WithoutFreeSpace", "Parallels"),
    (b"WithouFreSpacExt", "Parallels"),
];

/// How compressed files begin: what compressed them, and what unpacks them.
const COMPRESSED: [(&[u8], &str, &str); 4] = [
    (b"\x1f\x8b", "gzip", "gunzip"),
    (b"\xfd7zXZ\0", "xz", "unxz"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
    (b"BZh", "bzip2", "bunzip2"),
];

/// What compressed a file that begins like this, and what unpacks it.
pub(crate) fn compressed_by(start: &[u8]) -> Option<(&'static str, &'static str)> {
    let found = COMPRESSED
        .iter()
        .find(|(magic, ..)| start.starts_with(magic));
    found.map(|&(_, by, unpacker)| (by, unpacker))
}

/// What a file is that begins like this and must not pass for a raw disk, and what to do.
fn foreign(start: &[u8]) -> Option<(String, String)> {
    if let Some((by, unpacker)) = compressed_by(start) {
        let hint = format!("unpack it with `{unpacker}` first");
        return Some((format!("compressed by {by}"), hint));
    }
    let (_, whose) = FOREIGN.iter().find(|(magic, _)| start.starts_with(magic))?;
    let hint = "convert it with `qemu-img convert -O qcow2` first";
    Some((format!("an image of {whose}"), hint.to_owned()))
}

/// A raw image: all of the file.
fn raw(source: &Source) -> Result<Map, Problem> {
    let mut map = Map::new(source.length);
    let piece = Piece {
        start: 0,
        length: source.length,
        place: Place::Plain(0),
    };
    map.push(piece, 0)?;
    Ok(map)
}

#[cfg(test)]
mod tests;
