//! What an image file says about itself, in the image service's terms.
//!
//! Properties are those of
//! <https://docs.openstack.org/glance/latest/admin/useful-image-properties.html>.
//! Only what the image shows is set; nothing is guessed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::Error;
use crate::disk::gpt::types;
use crate::inspect::fs::FileSystem;
use crate::inspect::{self, Contents, TableKind, os_release};
use crate::sink::ReadAt as _;
use crate::small;

/// Bytes of a GiB, in which the service counts disks.
const GIB: u64 = 1 << 30;
/// Programs whose header shows for which processor a system is.
const PROGRAMS: [&[u8]; 4] = [b"/bin/sh", b"/usr/bin/env", b"/sbin/init", b"/usr/bin/true"];
/// Where the guest agent of QEMU is.
const AGENTS: [&[u8]; 3] = [
    b"/usr/sbin/qemu-ga",
    b"/usr/bin/qemu-ga",
    b"/usr/libexec/qemu-ga",
];

/// An image file in the image service's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// `disk_format`.
    pub disk_format: String,
    /// Bytes of the file.
    pub size: u64,
    /// Bytes of the disk.
    pub virtual_size: u64,
    /// `min_disk`, in GiB.
    pub min_disk: u64,
    /// Properties by their names.
    pub properties: BTreeMap<String, String>,
}

/// Looks into an image.
///
/// # Errors
/// It cannot be read, or is not an image that a service could boot.
pub fn describe(path: &Path, disk_format: Option<&str>) -> Result<Described, Error> {
    let read = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    let mut start = Vec::new();
    // A pipe would wait, and neither it nor a device has a length to announce.
    let kind = std::fs::metadata(path).map_err(read)?.file_type();
    if !kind.is_file() {
        return Err(Error::NotAnImage {
            path: path.to_owned(),
            what: format!("is {}, and not a file", small::phrase(kind)),
            hint: "name the file of an image".to_owned(),
        });
    }
    let file = File::open(path).map_err(read)?;
    let size = file.metadata().map_err(read)?.len();
    file.take(512).read_to_end(&mut start).map_err(read)?;
    if let Some(format @ ("aki" | "ari" | "ami" | "ploop" | "iso")) = disk_format {
        return Ok(Described {
            disk_format: format.to_owned(),
            size,
            virtual_size: size,
            min_disk: 0,
            properties: BTreeMap::new(),
        });
    }
    let wrong = |what: &str, hint: &str| Error::NotAnImage {
        path: path.to_owned(),
        what: what.to_owned(),
        hint: hint.to_owned(),
    };
    if size == 0 {
        return Err(wrong("is empty", "build it again"));
    }
    if let (Some((kind, _)), None) = (inspect::compressed_by(&start), disk_format) {
        return Err(wrong(
            &format!("is compressed by {kind}, which no image service unpacks"),
            "decompress it; qcow2 is compressed within",
        ));
    }
    if start.get(257..262) == Some(b"ustar") && disk_format.is_none() {
        return Err(wrong(
            "is a tar archive, not a disk",
            "build with `-t qcow2` or `-t raw`",
        ));
    }
    // Who says that it is raw may mean anything.
    let known = disk_format.filter(|&format| format == "raw");
    let image = inspect::open(path, known.map(|_| inspect::Format::Raw))?;
    let mut described = Described {
        disk_format: disk_format.unwrap_or(image.format()).to_owned(),
        size,
        virtual_size: image.length(),
        min_disk: image.length().div_ceil(GIB),
        properties: BTreeMap::new(),
    };
    // An image that kiln cannot look into is still an image.
    if let Ok(contents) = Contents::read(&image) {
        let iso = contents.parts.iter().any(|part| {
            let kind = part.identity.as_ref().map(|identity| identity.kind);
            kind == Some("iso9660")
        });
        if iso && disk_format.is_none() && described.disk_format == "raw" {
            described.disk_format = "iso".to_owned();
        }
        properties(&contents, &mut described.properties);
    }
    Ok(described)
}

fn properties(contents: &Contents<'_>, properties: &mut BTreeMap<String, String>) {
    let mut set = |key: &str, value: String| {
        if !value.is_empty() {
            properties.insert(key.to_owned(), value);
        }
    };
    let mut architecture = None;
    if let Ok(files) = contents.choose(None) {
        let release = os_release(&files);
        let value = |key: &str| {
            let found = release.iter().find(|(name, _)| name == key);
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        if !release.is_empty() {
            set("os_type", "linux".to_owned());
            set("os_distro", value("ID"));
            set("os_version", value("VERSION_ID"));
        }
        architecture = PROGRAMS.iter().find_map(|path| machine(&files, path));
        if let Some(architecture) = architecture {
            set("architecture", architecture.to_owned());
        }
        let agent = AGENTS.iter().any(|path| files.lookup(path, true).is_ok());
        if agent {
            set("hw_qemu_guest_agent", "yes".to_owned());
        }
    }
    if boots_by_uefi_only(contents) {
        set("hw_firmware_type", "uefi".to_owned());
        if architecture == Some("x86_64") {
            set("hw_machine_type", "q35".to_owned());
        }
    }
}

/// Whether there is an EFI system partition with something to boot, and no way
/// for a BIOS.
fn boots_by_uefi_only(contents: &Contents<'_>) -> bool {
    let Some(table) = &contents.table else {
        return false;
    };
    let is = |kind: &str, wanted: uuid::Uuid| kind.eq_ignore_ascii_case(&wanted.to_string());
    let bios = table.kind == TableKind::Mbr
        || table
            .partitions
            .iter()
            .any(|part| part.active || is(&part.kind, types::BIOS_BOOT));
    let efi = contents.parts.iter().any(|part| {
        let partition = part.partition.as_ref();
        let is_esp = partition.is_some_and(|partition| is(&partition.kind, types::ESP));
        is_esp
            && contents.open(part).is_ok_and(|files| {
                let directory = files.lookup(b"/EFI/BOOT", true);
                directory.is_ok_and(|directory| {
                    files.entries(directory).is_ok_and(|entries| {
                        entries
                            .iter()
                            .any(|entry| entry.name.to_ascii_lowercase().ends_with(b".efi"))
                    })
                })
            })
    });
    efi && !bios
}

/// The processor that a program is for, in OpenStack's names.
fn machine(files: &FileSystem<'_>, path: &[u8]) -> Option<&'static str> {
    let file = files.file(files.lookup(path, true).ok()?).ok()?;
    let mut header = [0; 20];
    if files.read_at(&file, 0, &mut header).ok()? < header.len() {
        return None;
    }
    // https://refspecs.linuxfoundation.org/elf/gabi4+/ch4.eheader.html
    let [0x7F, b'E', b'L', b'F', class, order, ..] = header else {
        return None;
    };
    let machine = match order {
        1 => u16::from_le_bytes([header[18], header[19]]),
        _ => u16::from_be_bytes([header[18], header[19]]),
    };
    Some(match (machine, class, order) {
        (3, ..) => "i686",
        (62, ..) => "x86_64",
        (40, ..) => "armv7l",
        (183, ..) => "aarch64",
        (21, 2, 1) => "ppc64le",
        (21, 2, _) => "ppc64",
        (22, 2, _) => "s390x",
        (243, 2, _) => "riscv64",
        (258, 2, _) => "loongarch64",
        _ => return None,
    })
}
