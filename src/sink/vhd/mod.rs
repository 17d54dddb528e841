//! VHD images (`vpc` in QEMU), fixed and dynamic.
//!
//! Azure takes fixed ones whose size is a whole number of MiB; Xen, XenServer and
//! Hyper-V take both. The size is always rounded up to a MiB and is exact: it does
//! not come from the geometry, which cannot express most sizes.

pub mod format;
pub(crate) mod write;

/// How the disk is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Subformat {
    /// The disk's bytes and a footer (Azure); a sparse file here.
    Fixed,
    /// Only blocks in use (what diskimage-builder's `vhd` gives).
    #[default]
    Dynamic,
}

impl Subformat {
    /// All, with the names that `subformat=` has for them.
    pub(crate) const NAMES: [(&'static str, Subformat); 2] =
        [("dynamic", Subformat::Dynamic), ("fixed", Subformat::Fixed)];
}

/// Size of the image of a disk of `length` bytes.
pub(crate) fn virtual_size(length: u64) -> u64 {
    length
        .max(1)
        .checked_next_multiple_of(format::ALIGNMENT)
        .unwrap_or(u64::MAX)
}
