//! VHDX images (Hyper-V), dynamic and fixed, with an empty log.

pub mod format;
pub(crate) mod write;

/// How the disk is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Subformat {
    /// Only blocks in use.
    #[default]
    Dynamic,
    /// A place for every block; a sparse file here.
    Fixed,
}

impl Subformat {
    /// All, with the names that `subformat=` has for them.
    pub(crate) const NAMES: [(&'static str, Subformat); 2] =
        [("dynamic", Subformat::Dynamic), ("fixed", Subformat::Fixed)];
}

/// Options of a VHDX output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// How the disk is stored.
    pub subformat: Subformat,
    /// Bytes of a block, a power of two from 1 to 256 MiB; by the size of the disk if
    /// `None`.
    pub block_size: Option<u64>,
    /// Bytes of the log, whole MiB.
    pub log_size: u64,
    /// Whether blocks that are not stored are marked as zeros, and not as absent,
    /// which reads the same.
    pub zero_state: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            subformat: Subformat::default(),
            block_size: None,
            log_size: format::MIB,
            zero_state: false,
        }
    }
}
