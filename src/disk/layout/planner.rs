//! Which writer makes which type of filesystem.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::{FilesystemId, FilesystemPlan, PlannerError};
use crate::disk::Volume;
use crate::disk::fs::{btrfs, ext4, fat, swap, xfs};
use crate::tree::{Timestamp, Tree, TreeBuilder};

/// Why a filesystem is not one of those that kiln writes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A type without a writer.
    #[error(
        "not supported: filesystem type `{fstype}` (kiln makes ext2, ext3, ext4, vfat, xfs, btrfs \
         and swap)"
    )]
    Type {
        /// The type.
        fstype: String,
    },
    /// An option of mkfs.fat that is not understood.
    #[error("option `{option}` of mkfs.fat is not supported: only `-F 12|16|32` is")]
    FatOption {
        /// The option.
        option: String,
    },
    /// Blocks that the disk cannot read.
    #[error(
        "blocks of {block_size} bytes are smaller than the disk's sectors of {sector_size}: leave \
         out `-b` or make it 4096"
    )]
    BlockSize {
        /// In bytes.
        block_size: u32,
        /// In bytes.
        sector_size: u32,
    },
}

/// Plans filesystems with kiln's own writers, and xfs with the help of mkfs.xfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NativePlanner {
    /// When filesystems are made.
    pub timestamp: Timestamp,
    /// Where programs that make filesystems (xfs) may work.
    pub scratch: PathBuf,
    /// SELinux labels of the `lost+found` that ext filesystems get, by mount point.
    pub lost_found: BTreeMap<String, Arc<[u8]>>,
}

impl NativePlanner {
    /// Plans one filesystem; to be given to [`super::Plan::assemble`].
    ///
    /// # Errors
    /// [`PlanError`], or the error of the writer.
    pub fn plan(
        &self,
        filesystem: &FilesystemPlan,
        tree: Option<&Arc<Tree>>,
        bytes: u64,
    ) -> Result<Volume, PlannerError> {
        let tree = match tree {
            Some(tree) => Arc::clone(tree),
            None => Arc::new(TreeBuilder::new().build()?),
        };
        match filesystem.fstype.as_str() {
            "ext2" | "ext3" | "ext4" => {
                Ok(ext4::plan(&tree, &self.ext4_options(filesystem)?, bytes)?)
            }
            "vfat" | "fat" | "msdos" => Ok(fat::plan(&tree, &fat_options(filesystem)?, bytes)?),
            "btrfs" => {
                btrfs::Options::check_mkfs(&filesystem.opts)?;
                let options = btrfs::Options {
                    label: filesystem.label.clone(),
                    uuid: filesystem.uuid(),
                    timestamp: self.timestamp,
                };
                Ok(btrfs::plan(&tree, &options, bytes)?)
            }
            "xfs" => {
                let options = xfs::Options {
                    label: filesystem.label.clone(),
                    uuid: filesystem.uuid(),
                    sector_size: filesystem.sector_size,
                    arguments: filesystem.opts.clone(),
                    for_grub: filesystem.holds_boot,
                    timestamp: self.timestamp,
                };
                Ok(xfs::plan(&tree, &options, bytes, &self.scratch)?)
            }
            "swap" => {
                let options = swap::Options {
                    uuid: filesystem.uuid(),
                    label: filesystem.label.clone(),
                    page_size: swap::Options::PAGE_SIZE,
                };
                Ok(swap::plan(&options, bytes)?)
            }
            fstype => Err(PlanError::Type {
                fstype: fstype.to_owned(),
            }
            .into()),
        }
    }

    /// Checks what can be checked before there is anything to put into it: the
    /// type and the mkfs options.
    ///
    /// # Errors
    /// Those that [`NativePlanner::plan`] would give.
    pub fn check(&self, filesystem: &FilesystemPlan) -> Result<(), PlannerError> {
        match filesystem.fstype.as_str() {
            "ext2" | "ext3" | "ext4" => self.ext4_options(filesystem).map(drop),
            "vfat" | "fat" | "msdos" => Ok(fat_options(filesystem).map(drop)?),
            "btrfs" => Ok(btrfs::Options::check_mkfs(&filesystem.opts)?),
            "xfs" => Ok(xfs::check().map(drop)?),
            "swap" => Ok(()),
            fstype => Err(PlanError::Type {
                fstype: fstype.to_owned(),
            }
            .into()),
        }
    }

    /// Checks whether a filesystem of `bytes` can be made at all. Of xfs, which another
    /// program makes, only the smallest size is known.
    ///
    /// # Errors
    /// Those that [`NativePlanner::plan`] would give.
    pub fn check_size(&self, filesystem: &FilesystemPlan, bytes: u64) -> Result<(), PlannerError> {
        match filesystem.fstype.as_str() {
            "xfs" => Ok(xfs::check_size(bytes)?),
            _ => self.plan(filesystem, None, bytes).map(drop),
        }
    }

    /// The options of an ext2, ext3 or ext4 filesystem. Label and UUID are those
    /// of the plan, whatever the mkfs options say: hooks have been told them.
    ///
    /// # Errors
    /// If an mkfs option is not understood.
    pub fn ext4_options(&self, filesystem: &FilesystemPlan) -> Result<ext4::Options, PlannerError> {
        let uuid = filesystem.uuid().into_bytes();
        let mut options = ext4::Options::new(uuid);
        match filesystem.fstype.as_str() {
            "ext2" => options.features = ext4::Features::ext2(),
            "ext3" => options.features = ext4::Features::ext3(),
            _ => {}
        }
        options.timestamp = self.timestamp;
        options.apply_mkfs(filesystem.opts.iter().cloned())?;
        options.label = filesystem.label.clone();
        options.uuid = uuid;
        let mount_point = filesystem.mount_point.as_ref();
        options.lost_found_label = mount_point.and_then(|at| self.lost_found.get(at)).cloned();
        let (block_size, sector_size) = (options.block_size, filesystem.sector_size);
        if block_size < sector_size {
            return Err(PlanError::BlockSize {
                block_size,
                sector_size,
            }
            .into());
        }
        Ok(options)
    }
}

fn fat_options(filesystem: &FilesystemPlan) -> Result<fat::Options, PlanError> {
    let mut fat_type = None;
    let mut words = filesystem.opts.iter().map(String::as_str);
    while let Some(word) = words.next() {
        let value = match word.strip_prefix("-F") {
            Some("") => words.next().unwrap_or_default(),
            Some(value) => value,
            None => {
                return Err(PlanError::FatOption {
                    option: word.to_owned(),
                });
            }
        };
        fat_type = Some(match value {
            "12" => fat::FatType::Fat12,
            "16" => fat::FatType::Fat16,
            "32" => fat::FatType::Fat32,
            value => {
                return Err(PlanError::FatOption {
                    option: format!("-F {value}"),
                });
            }
        });
    }
    let volume_id = match filesystem.id {
        FilesystemId::Fat(id) => id,
        // Only a caller that changed the type by hand gets here.
        FilesystemId::Uuid(uuid) => uuid.as_fields().0,
    };
    Ok(fat::Options {
        label: Some(filesystem.label.clone()),
        volume_id,
        bytes_per_sector: filesystem.sector_size,
        fat_type,
    })
}

#[cfg(test)]
mod tests {
    use uuid::uuid;

    use super::*;
    use crate::disk::config::{Config, RootParameters};
    use crate::disk::gpt::tests::{tool, write};
    use crate::disk::layout::{Plan, PlanParameters};
    use crate::tree::Inode;

    const MIB: u64 = 1 << 20;

    const LAYOUT: &str = "
- local_loop: {name: image0}
- partitioning:
    base: image0
    label: gpt
    partitions:
      - {name: ESP, type: EF00, size: 40MiB, mkfs: {type: vfat, opts: -F 32, mount: {mount_point: /boot/efi}}}
      - {name: swap, type: 8200, size: 1MiB, mkfs: {type: swap, label: swap0}}
      - {name: boot, size: 16MiB, mkfs: {type: ext2, mount: {mount_point: /boot}}}
      - {name: root, size: 100%, mkfs: {opts: -i 4096 -J size=4, mount: {mount_point: /}}}
";

    fn plan(text: &str) -> Plan {
        let parameters = PlanParameters {
            seed: uuid!("0b6d3c8e-9c6a-4a60-8d52-1f5b1d6f0001"),
            arch: "amd64".to_owned(),
            block_size: None,
            creation_time: 0,
        };
        let config = Config::parse(text, &RootParameters::default()).unwrap();
        Plan::new(config, &parameters).unwrap()
    }

    fn planner() -> NativePlanner {
        NativePlanner {
            timestamp: Timestamp {
                seconds: 1_700_000_000,
                nanoseconds: 0,
            },
            scratch: std::env::temp_dir(),
            lost_found: BTreeMap::new(),
        }
    }

    fn trees(plan: &Plan) -> BTreeMap<String, Arc<Tree>> {
        let mut tree = TreeBuilder::new();
        for directory in ["/boot", "/boot/efi", "/boot/efi/EFI"] {
            tree.insert(directory, Inode::directory(0o755)).unwrap();
        }
        tree.insert("/hello", Inode::file(*b"root\n", 0o644))
            .unwrap();
        tree.insert("/boot/vmlinuz", Inode::file(vec![7; 100_000], 0o600))
            .unwrap();
        tree.insert("/boot/efi/EFI/grub.cfg", Inode::file(*b"esp\n", 0o755))
            .unwrap();
        let tree = Arc::new(tree.build().unwrap());
        let points = plan.mount_points();
        let paths: Vec<&[u8]> = points.iter().map(|path| path.as_bytes()).collect();
        let trees = tree.split(&paths).unwrap();
        points
            .iter()
            .map(|path| (*path).to_owned())
            .zip(trees)
            .collect()
    }

    #[test]
    fn one_tree_becomes_filesystems_that_their_checkers_accept() {
        let plan = plan(LAYOUT);
        let planner = planner();
        let disks = plan
            .assemble(
                128 * MIB,
                &trees(&plan),
                None,
                &mut |filesystem, tree, bytes| planner.plan(filesystem, tree, bytes),
            )
            .unwrap();
        let disk = &disks[0];
        let pieces: Vec<(u64, Vec<u8>)> = disk
            .data_ranges()
            .map(|range| {
                let mut bytes = vec![0; usize::try_from(range.length).unwrap()];
                disk.reader().read_at(range.offset, &mut bytes).unwrap();
                (range.offset, bytes)
            })
            .collect();
        // Each filesystem in a file of its own, for the checkers.
        let facts = plan.facts();
        let whole = write(disk.length(), &pieces);
        let mut offset = MIB;
        let lengths = [40, 1, 16, 128 - 2 - 57].map(|mib| mib * MIB);
        for (filesystem, length) in facts.filesystems.iter().zip(lengths) {
            let mut bytes = vec![0; usize::try_from(length).unwrap()];
            disk.reader().read_at(offset, &mut bytes).unwrap();
            offset += length;
            let file = write(length, &[(0, bytes)]);
            let check = match filesystem.fstype.as_str() {
                "vfat" => tool("fsck.fat").arg("-n").arg(file.path()).output(),
                "swap" => tool("swaplabel").arg(file.path()).output(),
                _ => tool("e2fsck").arg("-fn").arg(file.path()).output(),
            };
            match check {
                Ok(output) => assert!(output.status.success(), "{filesystem:?}: {output:?}"),
                Err(error) => println!("SKIP: no checker of {}: {error}", filesystem.fstype),
            }
            match tool("blkid")
                .args(["-p", "-o", "export"])
                .arg(file.path())
                .output()
            {
                Ok(output) => {
                    let text = String::from_utf8_lossy(&output.stdout).into_owned();
                    let label = filesystem.label.replace(' ', "\\ ");
                    assert!(text.contains(&format!("\nLABEL={label}\n")), "{text}");
                    assert!(
                        text.contains(&format!("\nUUID={}\n", filesystem.uuid)),
                        "{text}"
                    );
                    assert!(
                        text.contains(&format!("\nTYPE={}\n", filesystem.fstype)),
                        "{text}"
                    );
                }
                Err(error) => println!("SKIP: no blkid: {error}"),
            }
        }
        match tool("sgdisk").arg("-v").arg(whole.path()).output() {
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                assert!(text.contains("No problems found"), "{text}");
            }
            Err(error) => println!("SKIP: no sgdisk: {error}"),
        }
    }

    #[test]
    fn what_no_writer_makes_says_so() {
        let message = |from: &str, to: &str| {
            let plan = plan(&LAYOUT.replace(from, to));
            let planner = planner();
            let error = plan
                .assemble(
                    128 * MIB,
                    &trees(&plan),
                    None,
                    &mut |filesystem, tree, bytes| planner.plan(filesystem, tree, bytes),
                )
                .unwrap_err();
            std::error::Error::source(&error).unwrap().to_string()
        };
        let text = message("type: ext2", "type: reiserfs");
        assert!(
            text.starts_with("not supported: filesystem type `reiserfs`"),
            "{text}"
        );
        let text = message("-F 32", "-s 8");
        assert_eq!(
            text,
            "option `-s` of mkfs.fat is not supported: only `-F 12|16|32` is"
        );
        let text = message("image0}", "image0, block_size: 4096}");
        assert!(text.contains("FAT"), "{text}");
        let text = message("-i 4096", "-Z 4096");
        assert!(text.contains("-Z"), "{text}");
    }

    #[test]
    fn blocks_are_not_smaller_than_sectors() {
        let text = LAYOUT
            .replace("image0}", "image0, block_size: 4096}")
            .replace("-i 4096", "-b 1024");
        let plan = plan(&text);
        let root = plan
            .filesystems()
            .iter()
            .find(|filesystem| filesystem.name == "mkfs_root");
        let error = planner()
            .ext4_options(root.unwrap())
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("blocks of 1024 bytes are smaller"),
            "{error}"
        );
    }
}
