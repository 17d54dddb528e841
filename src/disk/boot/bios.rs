//! GRUB for BIOS systems (i386-pc), without `grub-install`.
//!
//! Inputs are the target's own `boot.img` and a `core.img` that its
//! `grub-mkimage` made. The first 440 bytes of `boot.img` go to LBA 0, where the
//! firmware starts them; they load the first sector of `core.img`, which loads
//! the others. Both must be told where that is:
//!
//! | file | offset | field | becomes |
//! |---|---|---|---|
//! | boot.img | 0x5C | LBA of the core's first sector | the start of its space |
//! | boot.img | 0x66 | jump over the check of the drive number | two NOPs |
//! | core.img | 0x1F4 | LBA of the core's second sector | start + 1 |
//!
//! GRUB counts in sectors of 512 bytes, whatever the disk's are. Fields are
//! those of `grub-core/boot/i386/pc/{boot,diskboot}.S` and
//! `include/grub/i386/pc/boot.h`.

use crate::disk::mbr::format::CODE_SIZE;

/// BIOS and GRUB's boot code count in sectors of this size, in bytes.
const SECTOR: usize = 512;
/// LBA of the core image in boot.img.
const KERNEL_SECTOR: usize = 0x5C;
/// A two-byte jump in boot.img that distrusts the drive number of hard disks.
const DRIVE_CHECK: usize = 0x66;
/// What `grub-install` makes of it on a hard disk.
const NOPS: [u8; 2] = [0x90, 0x90];
/// LBA of the block list's only entry in the core's first sector.
const BLOCKLIST_START: usize = 0x1F4;
/// Its number of sectors, which `grub-mkimage` has filled in.
const BLOCKLIST_LENGTH: usize = 0x1FC;

/// What a BIOS must find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BiosBoot {
    /// `boot.img` of the target.
    pub boot: Vec<u8>,
    /// `core.img`, made with the target's `grub-mkimage -O i386-pc`.
    pub core: Vec<u8>,
}

/// Where the core image can go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootSpace {
    /// Between the MBR and the first partition.
    Gap {
        /// Sectors of 512 bytes after LBA 0.
        sectors: u64,
    },
    /// A BIOS boot partition (type EF02) of a GPT disk.
    Partition {
        /// First byte.
        offset: u64,
        /// Length in bytes.
        length: u64,
    },
    /// A GPT without such a partition.
    GptWithoutPartition,
    /// No partition table: the filesystem begins at once.
    NoTable,
}

/// Why the boot code cannot be placed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BootError {
    /// A GPT leaves no other room for it.
    #[error(
        "a bios can start grub from a gpt disk only with a bios boot partition, and there is none: \
         add a partition of 1MiB with type EF02"
    )]
    NoBiosBootPartition,
    /// A bare filesystem leaves no room for it.
    #[error(
        "there is no partition table, so there is no room for grub's core image: use the element \
         block-device-mbr, block-device-gpt or block-device-efi"
    )]
    NoTable,
    /// The core image is larger than its space.
    #[error("grub's core image of {core} bytes does not fit the {space} bytes {place}: {hint}")]
    CoreTooLarge {
        /// Its length in bytes.
        core: u64,
        /// Length of the space in bytes.
        space: u64,
        /// Where the space is.
        place: &'static str,
        /// What helps.
        hint: &'static str,
    },
    /// Something that is not GRUB's boot.img.
    #[error("`boot.img` is not grub's boot sector for i386-pc: {reason}")]
    NotBootImage {
        /// Why not.
        reason: &'static str,
    },
    /// Something that is not GRUB's core.img.
    #[error("`core.img` was not made by `grub-mkimage -O i386-pc`: {reason}")]
    NotCoreImage {
        /// Why not.
        reason: &'static str,
    },
}

/// Patches boot and core image for where they will be.
///
/// Returns pairs of byte offset on the disk and bytes. The first is the boot
/// code, which ends before the disk id and the partition table; the second is
/// the core image, filled up to whole sectors.
///
/// # Errors
/// See [`BootError`].
pub fn embed(image: &BiosBoot, space: BootSpace) -> Result<[(u64, Vec<u8>); 2], BootError> {
    let core_length = image.core.len() as u64;
    let (offset, length, place, hint) = match space {
        BootSpace::Gap { sectors } => (
            SECTOR as u64,
            sectors.saturating_mul(SECTOR as u64),
            "between the mbr and the first partition",
            "set `align` of the partitioning to 1MiB or more",
        ),
        BootSpace::Partition { offset, length } => (
            offset,
            length,
            "of the bios boot partition",
            "make that partition larger",
        ),
        BootSpace::GptWithoutPartition => return Err(BootError::NoBiosBootPartition),
        BootSpace::NoTable => return Err(BootError::NoTable),
    };
    let mut boot = image.boot.clone();
    if boot.len() != SECTOR {
        return Err(BootError::NotBootImage {
            reason: "its length is not 512 bytes",
        });
    }
    if boot[SECTOR - 2..] != [0x55, 0xAA] {
        return Err(BootError::NotBootImage {
            reason: "it has no boot signature",
        });
    }
    let mut core = image.core.clone();
    if core.len() <= SECTOR {
        return Err(BootError::NotCoreImage {
            reason: "it is not longer than one sector",
        });
    }
    core.resize(core.len().next_multiple_of(SECTOR), 0);
    if core.len() as u64 > length {
        return Err(BootError::CoreTooLarge {
            core: core_length,
            space: length,
            place,
            hint,
        });
    }
    let following = core.len() / SECTOR - 1;
    let listed = u16::from_le_bytes([core[BLOCKLIST_LENGTH], core[BLOCKLIST_LENGTH + 1]]);
    if usize::from(listed) != following {
        return Err(BootError::NotCoreImage {
            reason: "its block list does not say how many sectors follow the first",
        });
    }

    let first = offset / SECTOR as u64;
    boot.truncate(CODE_SIZE);
    boot[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&first.to_le_bytes());
    boot[DRIVE_CHECK..DRIVE_CHECK + 2].copy_from_slice(&NOPS);
    core[BLOCKLIST_START..BLOCKLIST_START + 8].copy_from_slice(&(first + 1).to_le_bytes());
    Ok([(0, boot), (offset, core)])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Images with the fields that are looked at, as GRUB 2.06 ships them.
    fn image(core_sectors: usize) -> BiosBoot {
        let mut boot = vec![0xCC; SECTOR];
        boot[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&1u64.to_le_bytes());
        boot[DRIVE_CHECK..DRIVE_CHECK + 2].copy_from_slice(&[0xEB, 0x05]);
        boot[SECTOR - 2..].copy_from_slice(&[0x55, 0xAA]);
        // Ends in the middle of its last sector.
        let mut core = vec![0xDD; core_sectors * SECTOR - 100];
        core[BLOCKLIST_START..BLOCKLIST_START + 8].copy_from_slice(&2u64.to_le_bytes());
        let following = u16::try_from(core_sectors - 1).unwrap();
        core[BLOCKLIST_LENGTH..BLOCKLIST_LENGTH + 2].copy_from_slice(&following.to_le_bytes());
        BiosBoot { boot, core }
    }

    #[test]
    fn in_the_gap_of_an_mbr_only_the_drive_check_changes() {
        let image = image(53);
        let [(boot_at, boot), (core_at, core)] =
            embed(&image, BootSpace::Gap { sectors: 2047 }).unwrap();
        assert_eq!((boot_at, core_at), (0, 512));
        let mut expected = image.boot[..440].to_vec();
        expected[0x66..0x68].copy_from_slice(&[0x90, 0x90]);
        assert_eq!(boot, expected);
        assert_eq!(core[..image.core.len()], image.core);
        assert_eq!(core.len(), 53 * 512);
    }

    #[test]
    fn in_a_bios_boot_partition_both_images_point_there() {
        let offset = 133_120 * 512;
        let space = BootSpace::Partition {
            offset,
            length: 1 << 20,
        };
        let [(_, boot), (core_at, core)] = embed(&image(53), space).unwrap();
        assert_eq!(core_at, offset);
        assert_eq!(boot[0x5C..0x64], [0x00, 0x08, 0x02, 0, 0, 0, 0, 0]);
        assert_eq!(core[0x1F4..0x1FC], [0x01, 0x08, 0x02, 0, 0, 0, 0, 0]);
        assert_eq!(core[0x1FC..0x1FE], [52, 0]);
    }

    #[test]
    fn what_does_not_fit_says_how_large_it_is() {
        let error = embed(&image(63), BootSpace::Gap { sectors: 62 }).unwrap_err();
        assert_eq!(
            error.to_string(),
            "grub's core image of 32156 bytes does not fit the 31744 bytes between the mbr and the \
             first partition: set `align` of the partitioning to 1MiB or more"
        );
        assert!(embed(&image(62), BootSpace::Gap { sectors: 62 }).is_ok());
        let space = BootSpace::Partition {
            offset: 1 << 20,
            length: 4096,
        };
        let error = embed(&image(9), space).unwrap_err().to_string();
        assert!(
            error.contains("the 4096 bytes of the bios boot partition"),
            "{error}"
        );
    }

    #[test]
    fn a_disk_without_room_says_what_to_add() {
        let error = embed(&image(53), BootSpace::GptWithoutPartition)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("add a partition of 1MiB with type EF02"),
            "{error}"
        );
        let error = embed(&image(53), BootSpace::NoTable)
            .unwrap_err()
            .to_string();
        assert!(error.contains("no partition table"), "{error}");
    }

    #[test]
    fn other_files_are_refused() {
        let space = BootSpace::Gap { sectors: 2047 };
        let good = image(53);
        let cases = [
            BiosBoot {
                boot: vec![0; 511],
                ..good.clone()
            },
            BiosBoot {
                boot: vec![0; 512],
                ..good.clone()
            },
            BiosBoot {
                core: vec![],
                ..good.clone()
            },
            BiosBoot {
                core: vec![0; 27_030],
                ..good
            },
        ];
        for case in cases {
            assert!(embed(&case, space).is_err());
        }
    }
}
