//! Block-device configuration, as DIB reads it.
//!
//! A configuration is a YAML list of items, each a plugin with settings. Items
//! refer to each other by `base` (graph form) or are nested (tree form):
//!
//! ```yaml
//! - local_loop:
//!     name: image0
//! - partitioning:
//!     base: image0
//!     label: mbr
//!     partitions:
//!       - name: root
//!         flags: [boot, primary]
//!         size: 100%
//!         mkfs:
//!           mount:
//!             mount_point: /
//!             fstab: { options: defaults, fsck-passno: 1 }
//! ```
//!
//! [`Config::parse`] flattens it, fills in what the build's parameters say about
//! the root filesystem, checks every rule that DIB checks, and orders the nodes.
//! Everything here is data in, data out.

use std::collections::{BTreeMap, BTreeSet};

use super::yaml::{self, Value};

mod error;
mod flatten;
mod graph;
mod nodes;
mod read;
mod size;

pub use error::ConfigError;
pub use flatten::{Item, Plugin, flatten};
pub use nodes::{
    Fstab, LocalLoop, Lv, LvKind, LvSize, Lvm, Mkfs, Mount, Partition, Partitioning, Pv, TableKind,
    Vg,
};
pub use read::label_limit;
pub use size::{SizeError, absolute, absolute_or_percent};

/// What is built when no element brings a configuration: a filesystem on the bare disk.
pub const FALLBACK: &str = "\
- local_loop:
    name: image0
    mkfs:
      name: mkfs_root
      mount:
        mount_point: /
        fstab:
          options: defaults
          fsck-passno: 1
";

/// Name of the disk that DIB makes the output from.
const MAIN_LOOP: &str = "image0";

/// Kinds of nodes that others may lie on, in the words of errors.
const DISK: &str = "a disk";
const PARTITION: &str = "a partition";
const LOGICAL_VOLUME: &str = "a logical volume";
const FILESYSTEM: &str = "a filesystem";

/// What nodes lie on.
struct Bases<'a> {
    /// What each name is.
    kinds: BTreeMap<&'a str, &'static str>,
    /// Bases that carry something, and what.
    used: BTreeMap<&'a str, &'a str>,
}

impl<'a> Bases<'a> {
    /// A node needs a base of one of these kinds.
    fn require(
        &self,
        node: &str,
        base: &str,
        wanted: &'static str,
        allowed: &[&str],
    ) -> Result<(), ConfigError> {
        let found = self.kinds.get(base).copied().unwrap_or("nothing");
        if allowed.contains(&found) {
            return Ok(());
        }
        Err(ConfigError::WrongBase {
            node: node.to_owned(),
            base: base.to_owned(),
            found: found.to_owned(),
            wanted,
        })
    }

    /// A base carries one node only.
    fn claim(&mut self, node: &'a str, base: &'a str) -> Result<(), ConfigError> {
        match self.used.insert(base, node) {
            None => Ok(()),
            Some(first) => Err(ConfigError::BaseUsedTwice {
                first: first.to_owned(),
                second: node.to_owned(),
                base: base.to_owned(),
            }),
        }
    }
}

/// Name of the filesystem that build parameters apply to.
const MKFS_ROOT: &str = "mkfs_root";

/// What the build says about the root filesystem; applies only to the node
/// `mkfs_root`, and only where the configuration does not say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootParameters {
    /// Its type (`FS_TYPE`).
    pub fstype: String,
    /// mkfs options for a filesystem of this type that nobody asked for: where the
    /// configuration has another type, they would be refused.
    pub defaults: Option<String>,
    /// Its mkfs options, if there are any (`MKFS_OPTS`).
    pub opts: Option<String>,
    /// Its label (`ROOT_LABEL`); `None` is `cloudimg-rootfs`, or `img-rootfs` on XFS.
    pub label: Option<String>,
}

impl Default for RootParameters {
    fn default() -> Self {
        RootParameters {
            fstype: "ext4".to_owned(),
            defaults: None,
            opts: None,
            label: None,
        }
    }
}

/// A checked configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Flat items after the merge of root parameters, in order.
    pub items: Vec<Item>,
    /// Images.
    pub loops: Vec<LocalLoop>,
    /// Partition tables.
    pub tables: Vec<Partitioning>,
    /// LVM.
    pub lvms: Vec<Lvm>,
    /// Filesystems and swap areas.
    pub mkfs: Vec<Mkfs>,
    /// Mounts, in the order of the configuration.
    pub mounts: Vec<Mount>,
    /// Lines of `/etc/fstab`.
    pub fstabs: Vec<Fstab>,
    /// Names of all nodes in the order in which DIB creates them.
    pub order: Vec<String>,
    /// What is odd but allowed: one sentence each.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads, completes and checks a configuration.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn parse(text: &str, root: &RootParameters) -> Result<Config, ConfigError> {
        let document = yaml::parse(text).map_err(|error| ConfigError::Yaml(Box::new(error)))?;
        let mut items = flatten(&document)?;
        merge_root(&mut items, root);
        Config::from_items(items)
    }

    /// Checks flat items.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn from_items(items: Vec<Item>) -> Result<Config, ConfigError> {
        let mut config = Config {
            items: Vec::new(),
            loops: Vec::new(),
            tables: Vec::new(),
            lvms: Vec::new(),
            mkfs: Vec::new(),
            mounts: Vec::new(),
            fstabs: Vec::new(),
            order: Vec::new(),
            warnings: Vec::new(),
        };
        let warnings = &mut config.warnings;
        let mut graph = graph::Graph::default();
        for item in &items {
            match item.plugin {
                Plugin::LocalLoop => {
                    config.loops.push(read::local_loop(item, warnings)?);
                    graph.add(&item.name)?;
                }
                Plugin::Partitioning => {
                    let table = read::partitioning(item, warnings)?;
                    for partition in &table.partitions {
                        graph.add(&partition.name)?;
                    }
                    config.tables.push(table);
                }
                Plugin::Lvm => {
                    let lvm = read::lvm(item, warnings)?;
                    let pvs = lvm.pvs.iter().map(|pv| &pv.name);
                    let vgs = lvm.vgs.iter().map(|vg| &vg.name);
                    let lvs = lvm.lvs.iter().map(|lv| &lv.name);
                    for name in pvs.chain(vgs).chain(lvs).chain([&lvm.name]) {
                        graph.add(name)?;
                    }
                    config.lvms.push(lvm);
                }
                Plugin::Mkfs => {
                    let mkfs = read::mkfs(item, warnings)?;
                    if let Some(first) = config.mkfs.iter().find(|m| m.label == mkfs.label) {
                        return Err(ConfigError::DuplicateFsLabel {
                            label: mkfs.label,
                            first: first.name.clone(),
                            second: mkfs.name,
                        });
                    }
                    config.mkfs.push(mkfs);
                    graph.add(&item.name)?;
                }
                Plugin::Mount => {
                    config.mounts.push(read::mount(item, warnings)?);
                    graph.add(&item.name)?;
                }
                Plugin::Fstab => {
                    config.fstabs.push(read::fstab(item, warnings)?);
                    graph.add(&item.name)?;
                }
            }
        }
        config.items = items;
        config.check_mounts()?;
        config.connect(&mut graph)?;
        config.order = graph.order()?;
        config.check_bases()?;
        Ok(config)
    }

    /// Mounts by the order in which they are made: by the text of the mount
    /// point, so that a directory comes before what is below it.
    pub fn sorted_mounts(&self) -> Vec<&Mount> {
        let mut mounts: Vec<&Mount> = self.mounts.iter().collect();
        mounts.sort_by(|a, b| a.mount_point.cmp(&b.mount_point));
        mounts
    }

    /// The filesystem of a mount.
    pub fn mkfs_of(&self, mount: &Mount) -> Option<&Mkfs> {
        self.mkfs.iter().find(|mkfs| mkfs.name == mount.base)
    }

    /// Mount points must differ. Swap has none, so several areas may say `none`.
    fn check_mounts(&self) -> Result<(), ConfigError> {
        let mut seen = BTreeSet::new();
        for mount in &self.mounts {
            let path = &mount.mount_point;
            if let Some(swap) = self.mkfs_of(mount).filter(|mkfs| mkfs.is_swap()) {
                // The files below it would be nowhere.
                if path.starts_with('/') {
                    return Err(ConfigError::MountedSwap {
                        node: swap.name.clone(),
                        mount_point: path.clone(),
                    });
                }
                continue;
            }
            if !seen.insert(mount.path()) {
                return Err(ConfigError::DuplicateMount {
                    mount_point: path.clone(),
                });
            }
            // It is used as a path of the target and as a word of fstab.
            let inside = path.split('/').all(|part| !matches!(part, "." | ".."));
            if !path.starts_with('/') || !inside || path.contains('\0') {
                return Err(ConfigError::MountPoint {
                    node: mount.name.clone(),
                    mount_point: path.clone(),
                });
            }
        }
        Ok(())
    }

    /// Adds all edges in the order of the items.
    fn connect(&self, graph: &mut graph::Graph) -> Result<(), ConfigError> {
        let sorted = self.sorted_mounts();
        for item in &self.items {
            match item.plugin {
                Plugin::LocalLoop => {}
                Plugin::Partitioning => {
                    for table in self.tables.iter().filter(|table| table.name == item.name) {
                        let mut previous: Option<&str> = None;
                        for partition in &table.partitions {
                            graph.edge(&table.base, &partition.name)?;
                            if let Some(previous) = previous {
                                graph.edge(previous, &partition.name)?;
                            }
                            previous = Some(&partition.name);
                        }
                    }
                }
                Plugin::Lvm => {
                    for lvm in self.lvms.iter().filter(|lvm| lvm.name == item.name) {
                        for vg in &lvm.vgs {
                            for base in &vg.base {
                                graph.edge(base, &vg.name)?;
                            }
                        }
                        for lv in &lvm.lvs {
                            graph.edge(&lv.base, &lv.name)?;
                        }
                        for pv in &lvm.pvs {
                            graph.edge(&pv.base, &lvm.name)?;
                        }
                        for pv in &lvm.pvs {
                            graph.edge(&lvm.name, &pv.name)?;
                        }
                    }
                }
                Plugin::Mkfs | Plugin::Fstab => {
                    if let Some(base) = item.settings.get("base").and_then(Value::as_text) {
                        graph.edge(base, &item.name)?;
                    }
                }
                Plugin::Mount => {
                    let at = sorted.iter().position(|mount| mount.name == item.name);
                    if let Some(before) = at.and_then(|at| at.checked_sub(1)) {
                        graph.edge(&sorted[before].name, &item.name)?;
                    }
                    if let Some(base) = item.settings.get("base").and_then(Value::as_text) {
                        graph.edge(base, &item.name)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Bases must be of a kind that can carry what is on them, and carry one thing.
    fn check_bases(&mut self) -> Result<(), ConfigError> {
        let mut bases = Bases {
            kinds: self.kinds(),
            used: BTreeMap::new(),
        };
        for table in &self.tables {
            bases.require(&table.name, &table.base, "a disk (local_loop)", &[DISK])?;
            // A table has no name of its own that others could see.
            bases.claim("a partition table", &table.base)?;
        }
        for pv in self.lvms.iter().flat_map(|lvm| &lvm.pvs) {
            let wanted = "a partition or a disk";
            bases.require(&pv.name, &pv.base, wanted, &[DISK, PARTITION])?;
            bases.claim(&pv.name, &pv.base)?;
        }
        for vg in self.lvms.iter().flat_map(|lvm| &lvm.vgs) {
            for base in &vg.base {
                bases.claim(&vg.name, base)?;
            }
        }
        for mkfs in &self.mkfs {
            let wanted = "a partition, a logical volume or a disk";
            let allowed = [DISK, PARTITION, LOGICAL_VOLUME];
            bases.require(&mkfs.name, &mkfs.base, wanted, &allowed)?;
            bases.claim(&mkfs.name, &mkfs.base)?;
        }
        for mount in &self.mounts {
            bases.require(
                &mount.name,
                &mount.base,
                "a filesystem (mkfs)",
                &[FILESYSTEM],
            )?;
        }
        for fstab in &self.fstabs {
            if !self.mounts.iter().any(|mount| mount.name == fstab.base) {
                self.warnings.push(format!(
                    "fstab `{}` has no effect: its base `{}` is not a mount",
                    fstab.name, fstab.base
                ));
            }
        }
        Ok(())
    }

    /// What each name of the configuration is.
    fn kinds(&self) -> BTreeMap<&str, &'static str> {
        let mut kinds = BTreeMap::new();
        let mut add = |name, kind| {
            kinds.insert(name, kind);
        };
        for disk in &self.loops {
            add(disk.name.as_str(), DISK);
        }
        for partition in self.tables.iter().flat_map(|table| &table.partitions) {
            add(&partition.name, PARTITION);
        }
        for lvm in &self.lvms {
            add(&lvm.name, "an lvm item");
            lvm.pvs
                .iter()
                .for_each(|pv| add(&pv.name, "a physical volume"));
            lvm.vgs
                .iter()
                .for_each(|vg| add(&vg.name, "a volume group"));
            lvm.lvs.iter().for_each(|lv| add(&lv.name, LOGICAL_VOLUME));
        }
        for mkfs in &self.mkfs {
            add(&mkfs.name, FILESYSTEM);
        }
        for mount in &self.mounts {
            add(&mount.name, "a mount");
        }
        for fstab in &self.fstabs {
            add(&fstab.name, "an fstab line");
        }
        kinds
    }

    /// The disk that becomes the output and that a system starts from: the one called
    /// `image0`, which DIB takes for it, else the first.
    pub fn main_loop(&self) -> Option<&LocalLoop> {
        let mut loops = self.loops.iter();
        let known = loops.find(|disk| disk.name == MAIN_LOOP);
        known.or(self.loops.first())
    }

    /// The filesystem at `/`.
    ///
    /// # Errors
    /// If there is none.
    pub fn root(&self) -> Result<&Mkfs, ConfigError> {
        self.mkfs_at("/").ok_or(ConfigError::NoRoot)
    }

    /// The filesystem at a mount point.
    pub fn mkfs_at(&self, mount_point: &str) -> Option<&Mkfs> {
        let mount = self
            .mounts
            .iter()
            .find(|mount| mount.path() == mount_point)?;
        self.mkfs_of(mount)
    }

    /// The filesystem that holds a path of the target: that of the deepest mount point.
    pub fn mkfs_holding(&self, path: &str) -> Option<&Mkfs> {
        let holds = |point: &str| {
            point == "/"
                || path
                    .strip_prefix(point)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let mounts = self.mounts.iter();
        let deepest = mounts
            .map(|mount| (mount.path(), mount))
            .filter(|(point, _)| holds(point))
            .max_by_key(|(point, _)| point.len());
        self.mkfs_of(deepest?.1)
    }

    /// `DIB_ROOT_LABEL`: the label of the filesystem at `/`.
    ///
    /// # Errors
    /// If there is no such filesystem.
    pub fn root_label(&self) -> Result<&str, ConfigError> {
        Ok(&self.root()?.label)
    }

    /// `DIB_ROOT_FSTYPE`: the type of the filesystem at `/`.
    ///
    /// # Errors
    /// If there is no such filesystem.
    pub fn root_fstype(&self) -> Result<&str, ConfigError> {
        Ok(&self.root()?.fstype)
    }

    /// `DIB_BOOT_LABEL`: the label of the filesystem at `/boot`, empty if there is none.
    pub fn boot_label(&self) -> &str {
        self.mkfs_at("/boot").map_or("", |mkfs| &mkfs.label)
    }

    /// `DIB_MOUNTPOINTS`: all mount points in the order of the configuration,
    /// joined with `|`.
    pub fn mount_points(&self) -> String {
        let points: Vec<&str> = self
            .mounts
            .iter()
            .map(|mount| mount.mount_point.as_str())
            .collect();
        points.join("|")
    }

    /// What `dib-block-device getval` prints for a symbol that is known before
    /// there is an image: `root-label`, `root-fstype`, `boot-label`, `mount-points`.
    ///
    /// # Errors
    /// If there is no filesystem at `/`, or no such symbol.
    pub fn getval(&self, symbol: &str) -> Result<String, ConfigError> {
        match symbol {
            "root-label" => self.root_label().map(str::to_owned),
            "root-fstype" => self.root_fstype().map(str::to_owned),
            "boot-label" => Ok(self.boot_label().to_owned()),
            "mount-points" => Ok(self.mount_points()),
            _ => Err(ConfigError::UnknownSymbol {
                symbol: symbol.to_owned(),
            }),
        }
    }

    /// The text of `/etc/fstab`.
    pub fn fstab(&self) -> String {
        let mut text = String::new();
        for mount in self.sorted_mounts() {
            let Some(fstab) = self.fstabs.iter().find(|fstab| fstab.base == mount.name) else {
                continue;
            };
            let Some(mkfs) = self.mkfs_of(mount) else {
                continue;
            };
            let label = fstab_field(&mkfs.label);
            if mkfs.is_swap() {
                text.push_str(&format!("LABEL={label} none swap sw 0 0\n"));
                continue;
            }
            text.push_str(&format!(
                "LABEL={label} {} {} {} {} {}\n",
                fstab_field(&mount.mount_point),
                // What mkfs calls `fat` the kernel mounts as `vfat`.
                if mkfs.fstype == "fat" {
                    "vfat"
                } else {
                    &mkfs.fstype
                },
                fstab_field(&fstab.options),
                fstab.dump_freq,
                fstab.fsck_passno
            ));
        }
        text
    }
}

/// Escapes what separates the fields of fstab.
fn fstab_field(text: &str) -> String {
    let mut field = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            ' ' => field.push_str("\\040"),
            '\t' => field.push_str("\\011"),
            '\n' => field.push_str("\\012"),
            '\\' => field.push_str("\\134"),
            other => field.push(other),
        }
    }
    field
}

/// The label of a root filesystem of this type that is given none.
pub fn default_label(fstype: Option<&str>) -> &'static str {
    match fstype {
        Some("xfs") => "img-rootfs",
        _ => "cloudimg-rootfs",
    }
}

/// Fills in what the build says about the node `mkfs_root`.
pub fn merge_root(items: &mut [Item], root: &RootParameters) {
    for item in items {
        if item.plugin != Plugin::Mkfs || item.name != MKFS_ROOT {
            continue;
        }
        let settings = &mut item.settings;
        if !settings.contains("type") {
            settings.set("type", Value::text(&root.fstype));
        }
        if !settings.contains("opts") {
            let fstype = settings.get("type").and_then(Value::as_text);
            let defaults = root.defaults.as_deref();
            let defaults = defaults.filter(|_| fstype == Some(root.fstype.as_str()));
            let opts: Vec<&str> = defaults.into_iter().chain(root.opts.as_deref()).collect();
            if !opts.is_empty() {
                settings.set("opts", Value::text(opts.join(" ")));
            }
        }
        if !settings.contains("label") {
            let default = default_label(settings.get("type").and_then(Value::as_text));
            settings.set(
                "label",
                Value::text(root.label.as_deref().unwrap_or(default)),
            );
        }
    }
}

#[cfg(test)]
mod tests;
