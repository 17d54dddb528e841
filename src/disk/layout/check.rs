//! What the sizes of a layout say before there is anything to put into it.

use super::fit::Growth;
use super::{FilesystemPlan, LayoutError, NativePlanner, Plan};

/// Bytes of a disk whose length comes from its files, unless its partitions need more.
const SOME: u64 = 1 << 30;

impl Plan {
    /// Tells what [`Plan::assemble_tree`] would whatever the files are: partitions and
    /// volumes that do not fit the table or the disk, and filesystems too small to be
    /// made even empty.
    ///
    /// `image_size` is the length in bytes of disks that have none of their own; `None`
    /// if it will come from the files. Then only filesystems of a fixed size are looked
    /// at, and a disk is as long as it has to be.
    ///
    /// # Errors
    /// What [`Plan::assemble_tree`] would say.
    pub fn check_sizes(
        &self,
        image_size: Option<u64>,
        planner: &NativePlanner,
    ) -> Result<(), LayoutError> {
        let mut bytes = image_size.unwrap_or(self.minimum_size().max(SOME));
        let mut growth = Growth::default();
        let placed = loop {
            match self.placed(bytes, None) {
                Ok(placed) => break placed,
                Err(error) if image_size.is_none() => {
                    bytes = self.larger(bytes, error, &mut growth)?;
                }
                Err(error) => return Err(error),
            }
        };
        let known = |filesystem: &&FilesystemPlan| {
            let mut disks = self.disks_of(&filesystem.base).into_iter();
            image_size.is_some()
                || self.has_fixed_size(&filesystem.base)
                || disks.all(|disk| self.disks[disk].size.is_some())
        };
        for filesystem in self.filesystems.iter().filter(known) {
            // Bases are checked when the configuration is read.
            let Some(bytes) = placed.bytes(&filesystem.base) else {
                continue;
            };
            planner
                .check_size(filesystem, bytes)
                .map_err(|source| LayoutError::Filesystem {
                    node: filesystem.name.clone(),
                    fstype: filesystem.fstype.clone(),
                    bytes,
                    fixed: None,
                    source,
                })
                .map_err(|error| self.with_fixed(filesystem, error))?;
        }
        Ok(())
    }
}
