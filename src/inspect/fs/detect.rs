//! What a volume holds, by its magic numbers.

use uuid::Uuid;

use super::{ext4, fat};
use crate::inspect::Volume;

/// What a volume says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name of the filesystem (`ext4`, `vfat`, `swap`), as `blkid` has it.
    pub kind: &'static str,
    /// Its label, if it has one.
    pub label: Option<String>,
    /// Its UUID, or FAT's volume number (`ABCD-1234`).
    pub uuid: Option<String>,
}

/// Magic numbers of what is only recognised: name, offset, bytes, where its UUID
/// (16 bytes) is, and where its label is and how long.
type Magic = (
    &'static str,
    u64,
    &'static [u8],
    Option<u64>,
    Option<(u64, u64)>,
);

const MAGICS: [Magic; 13] = [
    ("xfs", 0, b"XFSB", Some(32), Some((108, 12))),
    (
        "btrfs",
        0x1_0040,
        b"_BHRfS_M",
        Some(0x1_0020),
        Some((0x1_012B, 256)),
    ),
    ("squashfs", 0, b"hsqs", None, None),
    (
        "erofs",
        1024,
        b"\xe2\xe1\xf5\xe0",
        Some(1024 + 48),
        Some((1024 + 64, 16)),
    ),
    ("swap", 4086, b"SWAPSPACE2", Some(1036), Some((1052, 16))),
    // In the first four sectors.
    ("LVM2_member", 512, b"LABELONE", None, None),
    ("LVM2_member", 0, b"LABELONE", None, None),
    ("LVM2_member", 1024, b"LABELONE", None, None),
    ("LVM2_member", 1536, b"LABELONE", None, None),
    ("crypto_LUKS", 0, b"LUKS\xba\xbe", None, None),
    ("iso9660", 32_769, b"CD001", None, Some((32_808, 32))),
    ("ntfs", 3, b"NTFS    ", None, None),
    ("f2fs", 1024, b"\x10\x20\xf5\xf2", Some(1024 + 108), None),
];

/// What a volume holds, if that is known.
pub fn identify(volume: &Volume<'_>) -> Option<Identity> {
    if ext4::is_ext4(volume) {
        return ext4::identity(volume);
    }
    for (kind, offset, magic, uuid, label) in MAGICS {
        if volume.has(offset, magic) {
            let uuid = uuid.and_then(|at| volume.structure::<[u8; 16]>(at).ok());
            let label = label.and_then(|(at, length)| volume.bytes(at, length).ok());
            return Some(Identity {
                kind,
                label: label.and_then(|bytes| text(&bytes)),
                uuid: uuid.map(|bytes| Uuid::from_bytes(bytes).to_string()),
            });
        }
    }
    if fat::is_fat(volume) {
        return fat::identity(volume);
    }
    None
}

/// A label: up to the first zero, without blanks at its end.
pub(super) fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|&byte| byte == 0);
    let text = String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]);
    let text = text.trim_end();
    (!text.is_empty()).then(|| text.to_owned())
}
