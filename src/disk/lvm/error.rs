//! Why a volume group cannot be made.

use super::options::OptionError;

/// Why a volume group cannot be made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum LvmError {
    /// A name that LVM refuses.
    #[error("`{name}` is no name for LVM: use letters, digits and + _ . - (not in front)")]
    Name {
        /// The name.
        name: String,
    },
    /// A name that is LVM's own.
    #[error("`{lv}` is no name for a logical volume: LVM keeps `{part}` for volumes of its own")]
    ReservedName {
        /// The logical volume.
        lv: String,
        /// What its name has.
        part: String,
    },
    /// A physical volume without room for an extent.
    #[error(
        "physical volume `{pv}` of {bytes} bytes is too small: it needs {} for metadata and at \
         least {}", Size(*metadata), Size(*extent)
    )]
    PvTooSmall {
        /// The physical volume.
        pv: String,
        /// Its length.
        bytes: u64,
        /// Bytes before its first extent.
        metadata: u64,
        /// Bytes of an extent.
        extent: u64,
    },
    /// A physical volume that would be longer than what it is on.
    #[error(
        "physical volume `{pv}` is to have {wanted} bytes by `--setphysicalvolumesize`, but there \
         are {bytes}"
    )]
    PvTooLarge {
        /// The physical volume.
        pv: String,
        /// The length that it should have.
        wanted: u64,
        /// The space it has.
        bytes: u64,
    },
    /// More volumes than the group may have.
    #[error("volume group `{vg}` has {count} {what} volumes, but its options allow {most}")]
    TooMany {
        /// The volume group.
        vg: String,
        /// `logical` or `physical`.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        most: u32,
    },
    /// Stripes that are longer than an extent.
    #[error("stripes of {} of `{lv}` are longer than extents of {}", Size(*stripe), Size(*extent))]
    StripeTooLong {
        /// The logical volume.
        lv: String,
        /// Bytes of a stripe.
        stripe: u64,
        /// Bytes of an extent.
        extent: u64,
    },
    /// A thin pool or thin volume with stripes.
    #[error("`{lv}` cannot be striped: of volume group `{vg}` only ordinary volumes can")]
    StripedThin {
        /// The volume group.
        vg: String,
        /// The logical volume.
        lv: String,
    },
    /// Too few physical volumes with enough space.
    #[error(
        "logical volume `{lv}` needs {wanted} extents on each of {stripes} physical volumes, but \
         only {found} of volume group `{vg}` have as many left"
    )]
    NoSpaceForStripes {
        /// The volume group.
        vg: String,
        /// The logical volume.
        lv: String,
        /// Extents that it needs of each.
        wanted: u64,
        /// Physical volumes that it needs.
        stripes: u64,
        /// Physical volumes that would do.
        found: usize,
    },
    /// A logical volume without an extent.
    #[error("logical volume `{lv}` is smaller than one extent of {}", Size(*extent))]
    LvEmpty {
        /// The logical volume.
        lv: String,
        /// Bytes of an extent.
        extent: u64,
    },
    /// More extents than there are.
    #[error(
        "logical volume `{lv}` needs {wanted} extents of {}, but volume group `{vg}` has only \
         {free} left: make the image or the partition larger", Size(*extent)
    )]
    NoSpace {
        /// The volume group.
        vg: String,
        /// The logical volume.
        lv: String,
        /// Extents that it needs.
        wanted: u64,
        /// Extents that are left.
        free: u64,
        /// Bytes of an extent.
        extent: u64,
    },
    /// Extents in a notation that is not understood.
    #[error(
        "extents `{text}` of logical volume `{lv}` are not understood: use a number, N%VG, N%FREE \
         or N%PVS"
    )]
    Extents {
        /// The logical volume.
        lv: String,
        /// What was written.
        text: String,
    },
    /// A thin volume without its pool.
    #[error("thin volume `{lv}` needs `thin-pool`: the name of a thin pool of volume group `{vg}`")]
    NoPool {
        /// The thin volume.
        lv: String,
        /// The volume group.
        vg: String,
    },
    /// A pool that is something else.
    #[error("`{pool}`, which thin volume `{lv}` names, is no thin pool of volume group `{vg}`")]
    NotAPool {
        /// The thin volume.
        lv: String,
        /// What it names.
        pool: String,
        /// The volume group.
        vg: String,
    },
    /// A filesystem where thin volumes get their space from.
    #[error("`{pool}` is a thin pool, which cannot hold `{node}`: make a thin volume in it")]
    PoolAsBase {
        /// The thin pool.
        pool: String,
        /// What is to be on it.
        node: String,
    },
    /// More is in the volumes than the pool has.
    #[error(
        "thin pool `{pool}` of {bytes} bytes is too small: what is in its volumes needs {needed} \
         bytes"
    )]
    PoolTooSmall {
        /// The thin pool.
        pool: String,
        /// Its length.
        bytes: u64,
        /// What it would need at least.
        needed: u64,
    },
    /// Options that are not honoured.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// Metadata that does not fit its area.
    #[error("the metadata of volume group `{vg}` is too long: {bytes} bytes")]
    MetadataTooLong {
        /// The volume group.
        vg: String,
        /// Its length.
        bytes: u64,
    },
}

/// Bytes in the largest unit that has a whole number of them.
struct Size(u64);

impl std::fmt::Display for Size {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        let unit = units
            .iter()
            .find(|(shift, _)| self.0.trailing_zeros() >= *shift);
        match unit.filter(|_| self.0 > 0) {
            Some((shift, unit)) => write!(formatter, "{}{unit}", self.0 >> shift),
            None => write!(formatter, "{} bytes", self.0),
        }
    }
}
