//! VDI images (VirtualBox), dynamic and static.

pub mod format;
pub(crate) mod write;

/// How the disk is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Subformat {
    /// Only blocks in use.
    #[default]
    Dynamic,
    /// A place for every block; a sparse file here.
    Static,
}

impl Subformat {
    /// All, with the values of `static=` that choose them.
    pub(crate) const NAMES: [(&'static str, Subformat); 2] =
        [("on", Subformat::Static), ("off", Subformat::Dynamic)];
}
