//! The descriptor: a text in the file that says what the file is.

use std::path::Path;

use uuid::Uuid;

use super::super::identity;
use super::Options;
use super::format::SECTOR;

/// Where it is, in sectors.
pub(super) const OFFSET: u64 = 1;
/// Space for it, in sectors.
pub(super) const SECTORS: u64 = 20;

/// The text, padded with zeros.
pub(super) fn bytes(options: &Options, capacity: u64, target: &Path, seed: &Uuid) -> Vec<u8> {
    let [a, b, c, d, ..] = identity::id(seed, "vmdk").into_bytes();
    let content = u32::from_be_bytes([a, b, c, d]);
    // All ones means that there is no parent, so no image may have it.
    let content = content.min(u32::MAX - 1);
    let kind = options.subformat.name();
    let adapter = options.adapter.name();
    let hardware = options.hardware_version;
    // Readers of images in one file take no notice of the name.
    let name = target
        .file_name()
        .and_then(|name| name.to_str())
        .filter(|name| name.len() <= 255 && !name.contains(['"', '\n', '\r']))
        .unwrap_or("disk.vmdk");
    let (heads, track) = if adapter == "ide" {
        (16, 63)
    } else {
        (255, 63)
    };
    let mut cylinders = capacity / (heads * track);
    if adapter == "ide" {
        cylinders = cylinders.min(16383);
    }
    let mut text = format!(
        "# Disk DescriptorFile\n\
         version=1\n\
         CID={content:08x}\n\
         parentCID=ffffffff\n\
         createType=\"{kind}\"\n\
         \n\
         # Extent description\n\
         RW {capacity} SPARSE \"{name}\"\n\
         \n\
         # The Disk Data Base\n\
         #DDB\n\
         \n\
         ddb.virtualHWVersion = \"{hardware}\"\n\
         ddb.geometry.cylinders = \"{cylinders}\"\n\
         ddb.geometry.heads = \"{heads}\"\n\
         ddb.geometry.sectors = \"{track}\"\n\
         ddb.adapterType = \"{adapter}\"\n"
    );
    if let Some(version) = options.tools_version {
        text.push_str(&format!("ddb.toolsVersion = \"{version}\"\n"));
    }
    let mut text = text.into_bytes();
    text.resize((SECTORS * SECTOR) as usize, 0);
    text
}
