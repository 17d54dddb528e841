//! Any directory or tar archive as an image, without a build.
//!
//! The same tree, layout and label give the same bytes: every id derives from
//! them, and the latest time in the tree counts as the time of making.

use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use uuid::{Uuid, uuid};

use crate::disk::config::{self, Config, ConfigError, Plugin, RootParameters};
use crate::disk::layout::fit::{self, Length};
use crate::disk::layout::{NativePlanner, Plan, PlanParameters, SizeRule};
use crate::disk::yaml::Value;
use crate::sink;
use crate::small;
use crate::tree::live::ScanOptions;
use crate::tree::{self, Kind, Timestamp, Tree};

mod access;
mod boot;
mod error;
mod layout;
mod owners;

pub use error::Error;
pub use layout::{LAYOUTS, Layout};
pub use owners::{OwnerError, Rules};

/// What every id derives from, with the tree and the layout.
const NAMESPACE: Uuid = uuid!("6c1a7d5e-3b0f-4a5e-9a39-5f0c2f1b7e55");

/// What to pack, and into what.
#[derive(Debug, Clone)]
pub struct Request {
    /// A directory or a tar archive.
    pub source: PathBuf,
    /// Formats to write.
    pub formats: Vec<sink::Format>,
    /// Path of the outputs without the suffix of a format.
    pub name: PathBuf,
    /// How the disk is divided.
    pub layout: Layout,
    /// Length of the disk in bytes; computed from the tree if not given.
    pub size: Option<u64>,
    /// Sector size in bytes; wins over the layout.
    pub sector_size: Option<u32>,
    /// Debian's name of the architecture, for types of partitions.
    pub arch: String,
    /// Type of the root filesystem; wins over the layout.
    pub fstype: Option<String>,
    /// Label of the root filesystem; wins over the layout.
    pub label: Option<String>,
    /// Options of the root filesystem in the notation of its mkfs; win over the layout.
    pub mkfs_options: Option<String>,
    /// Write the layout's `/etc/fstab` into the image.
    pub fstab: bool,
    /// Whose the files are.
    pub owners: Rules,
    /// Whether files get the SELinux labels of the tree's policy.
    pub labelling: tree::Labelling,
    /// Latest time in the image (`SOURCE_DATE_EPOCH`).
    pub epoch: Option<i64>,
    /// Checksum files.
    pub checksums: sink::Checksums,
    /// What happens to older outputs.
    pub existing: sink::Existing,
    /// Threads; 0 is one for each processor.
    pub jobs: usize,
    /// Wait until outputs are on their disk before they get their names.
    pub fsync: bool,
}

/// What was packed.
#[derive(Debug)]
pub struct Packed {
    /// The outputs.
    pub written: Vec<sink::Written>,
    /// What the image does not have as the source does, one sentence each.
    pub warnings: Vec<String>,
}

impl Request {
    /// Where the outputs will be, and files that are needed on the way.
    fn directory(&self) -> &Path {
        match self.name.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }
}

/// Packs.
///
/// # Errors
/// See [`Error`].
pub fn pack(request: &Request, progress: sink::Progress<'_>) -> Result<Packed, Error> {
    progress("reading the tree", 0, 1);
    let mut warnings = Vec::new();
    let tree = read(request, &mut warnings)?;
    let tree = Arc::new(owned(request, tree)?);
    progress("reading the tree", 1, 1);

    let needs_disk = request.formats.iter().any(sink::Format::is_disk);
    let (tree, plan, disks, seed) = if needs_disk {
        let config = config(request, &tree)?;
        let seed = seed(request, &config, &tree);
        let parameters = PlanParameters {
            seed,
            arch: request.arch.clone(),
            block_size: request.sector_size,
            creation_time: u64::try_from(fit::made_at(&tree, request.epoch).seconds).unwrap_or(0),
        };
        let plan = Plan::new(config, &parameters)?;
        warnings.extend(plan.warnings().iter().cloned());
        let tree = if request.fstab {
            let with = with_fstab(&tree, &plan, request.epoch)?;
            drop(tree);
            Arc::new(with)
        } else {
            tree
        };
        let tree = request.labelling.apply(tree)?;
        let boot = boot::bios(&tree, &plan, &mut warnings)?;
        if boot.is_some() || boot::installed(&tree).is_some() {
            warnings.extend(plan.check_bootable()?);
        }
        warnings.extend(boot::misfits(&tree, &plan));
        warnings.extend(plan.efi_without_loader(&tree));
        let planner = NativePlanner {
            timestamp: fit::made_at(&tree, request.epoch),
            scratch: request.directory().to_owned(),
            lost_found: request.labelling.lost_found(&tree, &plan.mount_points())?,
        };
        let length = length(request, &plan, &tree)?;
        // Two million files are 300 MB: images of disks need no more than their parts.
        let kept = if request.formats.iter().all(sink::Format::is_disk) {
            Arc::new(tree::TreeBuilder::new().build()?)
        } else {
            Arc::clone(&tree)
        };
        let disks = plan.assemble_tree(length, tree, boot.as_ref(), &planner)?;
        (kept, Some(plan), disks, seed)
    } else {
        (request.labelling.apply(tree)?, None, Vec::new(), NAMESPACE)
    };

    let planned = plan.as_ref().map_or(&[][..], Plan::disks);
    let files = sink::files(
        &request.name,
        &request.formats,
        sink::Format::name,
        planned,
        seed,
    );
    let specs: Vec<sink::Spec> = files
        .into_iter()
        .map(|file| sink::Spec {
            format: file.format,
            disk: file.disk,
            path: file.path,
            checksums: request.checksums,
            existing: request.existing.clone(),
            durable: request.fsync,
            seed: file.seed,
        })
        .collect();
    let disks: Vec<&dyn sink::ReadAt> = disks.iter().map(|disk| disk as _).collect();
    let written = sink::write_all(&disks, &tree, &specs, request.jobs, progress)?;
    Ok(Packed { written, warnings })
}

/// The tree as the source has it.
fn read(request: &Request, warnings: &mut Vec<String>) -> Result<Tree, Error> {
    let source = &request.source;
    let failed = |error| Error::Source {
        path: source.clone(),
        source: error,
    };
    let clamp_mtime = request.epoch.map(|seconds| Timestamp {
        seconds,
        nanoseconds: 0,
    });
    let kind = std::fs::metadata(source).map_err(failed)?.file_type();
    if kind.is_dir() {
        let options = ScanOptions {
            threads: request.jobs,
            clamp_mtime,
            ..ScanOptions::default()
        };
        let tree = tree::scan(source, &options)?;
        access::check(source, &tree)?;
        return Ok(tree);
    }
    // What a device gives need not end, and zeros are an empty archive.
    if !(kind.is_file() || kind.is_fifo()) {
        return Err(Error::NoTree {
            path: source.clone(),
            found: small::phrase(kind),
        });
    }
    // There is room for an image of the files, so there is for the files.
    let archived = tree::tar::read(source, request.directory())?;
    warnings.extend(archived.warnings);
    Ok(match clamp_mtime {
        Some(latest) => archived
            .tree
            .map_inodes(|_, inode| inode.mtime = inode.mtime.min(latest)),
        None => archived.tree,
    })
}

/// The tree with the owners that the rules say.
fn owned(request: &Request, tree: Tree) -> Result<Tree, Error> {
    if request.owners.is_empty() {
        return Ok(tree);
    }
    let tree = Arc::new(tree);
    let owners = request.owners.resolve(&tree)?;
    // The reader that resolved names is gone, so nobody else has the tree.
    let tree = Arc::into_inner(tree).ok_or(Error::Busy)?;
    Ok(owners.apply(tree))
}

/// The layout with what the request and the tree say about it.
fn config(request: &Request, tree: &Arc<Tree>) -> Result<Config, Error> {
    let text = request.layout.text()?;
    configured(request, tree, &text).map_err(|source| match &request.layout {
        Layout::File(path) => Error::LayoutContent {
            path: path.clone(),
            source,
        },
        Layout::Named(_) => source.into(),
    })
}

fn configured(request: &Request, tree: &Arc<Tree>, text: &str) -> Result<Config, ConfigError> {
    let root = RootParameters {
        defaults: None,
        fstype: request.fstype.clone().unwrap_or_else(|| "ext4".to_owned()),
        opts: request.mkfs_options.clone(),
        label: request.label.clone(),
    };
    let config = Config::parse(text, &root)?;
    let mut items = config.items.clone();
    let main = config.main_loop().map(|disk| disk.name.clone());
    let root_name = config.mkfs_at("/").map(|mkfs| mkfs.name.clone());
    // GRUB in the tree looks for the filesystem that it was installed on.
    let installed = boot::installed(tree);
    for item in &mut items {
        if item.plugin == Plugin::LocalLoop
            && Some(&item.name) == main.as_ref()
            && let Some(bytes) = request.size
        {
            item.settings.set("size", Value::text(bytes.to_string()));
        }
        if item.plugin != Plugin::Mkfs {
            continue;
        }
        if Some(&item.name) == root_name.as_ref() {
            // The default label depends on the type: XFS has no room for the usual one.
            let text = |key| item.settings.get(key).and_then(Value::as_text);
            let default = config::default_label(text("type"));
            if request.fstype.is_some() && text("label") == Some(default) {
                let default = config::default_label(request.fstype.as_deref());
                item.settings.set("label", Value::text(default));
            }
            let given = [
                ("type", &request.fstype),
                ("label", &request.label),
                ("opts", &request.mkfs_options),
            ];
            for (key, value) in given {
                if let Some(value) = value {
                    item.settings.set(key, Value::text(value));
                }
            }
        }
        if let Some(grub) = &installed
            && config.mkfs_holding(grub.directory).map(|mkfs| &mkfs.name) == Some(&item.name)
            && !item.settings.contains("uuid")
        {
            item.settings.set("uuid", Value::text(&grub.uuid));
        }
    }
    let config = Config::from_items(items)?;
    // Else files would be nowhere.
    config.root()?;
    Ok(config)
}

/// Bytes that are hashed at once.
const SEED_PIECE: usize = 16 << 10;

/// The seed of every id: what is packed and how, not where or when.
fn seed(request: &Request, config: &Config, tree: &Tree) -> Uuid {
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    add(env!("CARGO_PKG_VERSION").as_bytes());
    add(request.arch.as_bytes());
    add(format!("{:?}", config.items).as_bytes());
    add(&request.size.unwrap_or(0).to_le_bytes());
    // Records are collected, since hashing many short pieces takes twice as long.
    let mut records: Vec<u8> = Vec::new();
    for (id, node) in tree.nodes() {
        let inode = tree.inode(node.inode);
        let name = tree.name(id);
        let (size, target): (u64, &[u8]) = match &inode.kind {
            Kind::File(content) => (content.size, &[]),
            Kind::Symlink(target) => (target.len() as u64, target),
            Kind::CharDevice(device) | Kind::BlockDevice(device) => {
                (u64::from(device.major) << 32 | u64::from(device.minor), &[])
            }
            Kind::Directory | Kind::Fifo | Kind::Socket => (0, &[]),
        };
        for number in [
            name.len() as u64,
            u64::from(node.parent.0),
            u64::from(inode.mode),
            u64::from(inode.uid) << 32 | u64::from(inode.gid),
            inode.mtime.seconds.cast_unsigned(),
            size,
        ] {
            records.extend_from_slice(&number.to_le_bytes());
        }
        records.extend_from_slice(name);
        records.extend_from_slice(target);
        if records.len() >= SEED_PIECE {
            hash.update(&records);
            records.clear();
        }
    }
    hash.update(&records);
    Uuid::new_v5(&NAMESPACE, &hash.finalize())
}

fn with_fstab(tree: &Tree, plan: &Plan, epoch: Option<i64>) -> Result<Tree, Error> {
    let inode =
        tree::Inode::file(plan.fstab().into_bytes(), 0o644).modified(fit::made_at(tree, epoch));
    let mut edit = tree.edit();
    edit.insert("/etc/fstab", inode)?;
    Ok(edit.build()?)
}

/// Length of the disk: the request's, else by DIB's rule.
fn length(request: &Request, plan: &Plan, tree: &Tree) -> Result<Length, Error> {
    if let Some(bytes) = request.size {
        return Ok(Length { bytes, grow: false });
    }
    let rule = SizeRule {
        du_kib: fit::content_kib(tree),
        // What matters is that it has a journal.
        root_is_ext4: plan
            .config()
            .root_fstype()
            .is_ok_and(|fstype| matches!(fstype, "ext3" | "ext4")),
        ..SizeRule::default()
    };
    let content = rule.image_size_kib()?.saturating_mul(1024);
    // The rule is about the root; other partitions come on top of it.
    let bytes = content.saturating_add(plan.minimum_size());
    Ok(Length {
        bytes: bytes.next_multiple_of(1 << 20),
        grow: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_of_another_type_gets_the_default_label_of_that_type() {
        let tree = Arc::new(tree::TreeBuilder::new().build().unwrap());
        for (fstype, label, expected) in [
            (None, None, "cloudimg-rootfs"),
            (Some("btrfs"), None, "cloudimg-rootfs"),
            (Some("xfs"), None, "img-rootfs"),
            (Some("xfs"), Some("own"), "own"),
        ] {
            for (layout, _) in LAYOUTS.iter().filter(|(name, _)| *name != "efi-lvm") {
                let request = Request {
                    source: PathBuf::new(),
                    formats: Vec::new(),
                    name: PathBuf::new(),
                    layout: Layout::from_name(layout).unwrap(),
                    size: None,
                    sector_size: None,
                    arch: "amd64".to_owned(),
                    fstype: fstype.map(str::to_owned),
                    label: label.map(str::to_owned),
                    mkfs_options: None,
                    fstab: false,
                    owners: Rules::default(),
                    labelling: tree::Labelling::Off,
                    epoch: None,
                    checksums: sink::Checksums::default(),
                    existing: sink::Existing::Replace,
                    jobs: 1,
                    fsync: false,
                };
                let config = config(&request, &tree).unwrap();
                assert_eq!(config.root().unwrap().label, expected, "{layout}");
            }
        }
    }
}
