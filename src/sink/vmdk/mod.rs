//! VMDK images (VMware) of one file.

mod descriptor;
pub mod format;
pub(crate) mod sparse;
pub(crate) mod stream;

use super::error::Error;

/// How the disk is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Subformat {
    /// Compressed grains in one stream: for OVF, vSphere and Glance.
    #[default]
    StreamOptimized,
    /// Grains in use, ready to run (Workstation, Player, QEMU).
    MonolithicSparse,
}

impl Subformat {
    /// All, with the names that `subformat=` and the descriptor have for them.
    pub(crate) const NAMES: [(&'static str, Subformat); 2] = [
        ("streamOptimized", Subformat::StreamOptimized),
        ("monolithicSparse", Subformat::MonolithicSparse),
    ];

    fn name(self) -> &'static str {
        match self {
            Subformat::StreamOptimized => "streamOptimized",
            Subformat::MonolithicSparse => "monolithicSparse",
        }
    }
}

/// The controller that a machine made from the image gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Adapter {
    /// IDE.
    Ide,
    /// BusLogic SCSI.
    BusLogic,
    /// LSI Logic SCSI, which ESXi wants.
    #[default]
    LsiLogic,
    /// What old machines of ESX have.
    LegacyEsx,
}

impl Adapter {
    /// All, with the names that `adapter_type=` and the descriptor have for them.
    pub(crate) const NAMES: [(&'static str, Adapter); 4] = [
        ("ide", Adapter::Ide),
        ("buslogic", Adapter::BusLogic),
        ("lsilogic", Adapter::LsiLogic),
        ("legacyESX", Adapter::LegacyEsx),
    ];

    fn name(self) -> &'static str {
        match self {
            Adapter::Ide => "ide",
            Adapter::BusLogic => "buslogic",
            Adapter::LsiLogic => "lsilogic",
            Adapter::LegacyEsx => "legacyESX",
        }
    }
}

/// Options of a VMDK output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// How the disk is stored.
    pub subformat: Subformat,
    /// The controller that a machine gets.
    pub adapter: Adapter,
    /// Level of zlib, 1 to 12 (default 1).
    pub level: Option<i32>,
    /// Version of the virtual hardware that a machine gets.
    pub hardware_version: u32,
    /// Version of the guest's tools, which machines compare with their own.
    pub tools_version: Option<u32>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            subformat: Subformat::default(),
            adapter: Adapter::default(),
            level: None,
            hardware_version: 4,
            tools_version: None,
        }
    }
}

/// Sectors of a disk of `length` bytes.
fn capacity(length: u64) -> Result<u64, Error> {
    if length > format::MAX_SIZE {
        return Err(Error::TooLargeForFormat {
            format: "vmdk",
            length,
            limit: format::MAX_SIZE,
        });
    }
    Ok(length.max(1).div_ceil(format::SECTOR))
}
