//! What can be wrong with a block-device configuration.

use super::size::SizeError;

/// Why a block-device configuration is refused.
///
/// Where DIB has a message of its own, these begin with the same words, so that
/// what users find about it still applies.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The text is not YAML.
    #[error("the block device configuration is not valid yaml")]
    Yaml(#[source] Box<serde_saphyr::Error>),
    /// There is nothing in it.
    #[error(
        "the block device configuration is empty: it must be a list with at least one `local_loop`"
    )]
    Empty,
    /// An item that is not a mapping, or a document that is not a list.
    #[error("Config entry not a dict: {entry}")]
    NotADict {
        /// The item.
        entry: String,
    },
    /// An item with several keys.
    #[error("Config entry top-level should be a single dict: {entry}")]
    NotASingleDict {
        /// The item.
        entry: String,
    },
    /// A key that is no plugin.
    #[error(
        "Config entry is not a plugin value: {entry}; plugins are local_loop, partitioning, lvm, \
         mkfs, mount and fstab"
    )]
    NotAPlugin {
        /// The item.
        entry: String,
    },
    /// `plugin:` with something that is not a mapping.
    #[error("the settings of `{plugin}` must be a mapping, but are {found}")]
    SettingsNotADict {
        /// The plugin.
        plugin: String,
        /// What they are.
        found: String,
    },
    /// An item that has no name and nothing to derive one from.
    #[error("a `{plugin}` entry needs a `name`, or a `base` from which its name is made")]
    NoName {
        /// The plugin.
        plugin: String,
    },
    /// A partition without a name.
    #[error("a partition of `{partitioning}` has no `name`")]
    PartitionWithoutName {
        /// The partitioning node.
        partitioning: String,
    },
    /// Something that must be a list.
    #[error("`{key}` of `{node}` must be a list, but is {found}")]
    NotAList {
        /// The node.
        node: String,
        /// Its key.
        key: String,
        /// What it is.
        found: String,
    },
    /// Something that must be a scalar.
    #[error("`{key}` of `{node}` must be text, but is {found}")]
    NotText {
        /// The node.
        node: String,
        /// Its key.
        key: String,
        /// What it is.
        found: String,
    },
    /// Two nodes of one name.
    #[error("Duplicate node name: {name}")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A node that refers to one that is not there.
    #[error("Edge not defined: {from}->{to}: nothing is called `{from}`, which `{to}` is to be on")]
    EdgeNotDefined {
        /// What is referred to.
        from: String,
        /// What refers to it.
        to: String,
    },
    /// Nodes that depend on themselves.
    #[error("Graph contains a cycle: {} depend on each other", .nodes.join(", "))]
    Cycle {
        /// The nodes that have no order.
        nodes: Vec<String>,
    },
    /// A base of the wrong kind.
    #[error("the base `{base}` of `{node}` is {found}, but must be {wanted}")]
    WrongBase {
        /// The node.
        node: String,
        /// Its base.
        base: String,
        /// What the base is.
        found: String,
        /// What it must be.
        wanted: &'static str,
    },
    /// Two nodes that want the same space.
    #[error("`{first}` and `{second}` both use `{base}`: only one can")]
    BaseUsedTwice {
        /// The node that was first.
        first: String,
        /// The other.
        second: String,
        /// Their base.
        base: String,
    },
    /// A partitioning without a required key.
    #[error("Partitioning config needs '{key}' (in `{node}`)")]
    PartitioningNeeds {
        /// The node.
        node: String,
        /// The key.
        key: &'static str,
    },
    /// A partition table of another kind.
    #[error("Label must be 'mbr' or 'gpt', but is `{label}` in `{node}`")]
    PartitionLabel {
        /// The node.
        node: String,
        /// What was written.
        label: String,
    },
    /// A partition without a size.
    #[error("partition `{partition}` has no `size`: give it one, such as `10GiB` or `100%`")]
    NoSize {
        /// The partition.
        partition: String,
    },
    /// A size that cannot be read.
    #[error("the {key} of `{node}` cannot be used")]
    Size {
        /// The node.
        node: String,
        /// The key.
        key: &'static str,
        /// Why.
        #[source]
        source: SizeError,
    },
    /// An alignment that is none.
    #[error("the align of `{node}` must be a multiple of 512 bytes, but is {bytes}")]
    Align {
        /// The node.
        node: String,
        /// What was written, in bytes.
        bytes: u64,
    },
    /// A flag that partitions do not have.
    #[error("Unknown flag: {flag} (of partition `{partition}`; there are `boot` and `primary`)")]
    UnknownFlag {
        /// The partition.
        partition: String,
        /// What was written.
        flag: String,
    },
    /// `primary` on a GPT.
    #[error("Primary flag not supported for GPT partitions (partition `{partition}`)")]
    PrimaryOnGpt {
        /// The partition.
        partition: String,
    },
    /// A type that is no byte.
    #[error(
        "type `{found}` of partition `{partition}` is no mbr type: use one byte in hexadecimal, \
         such as 0x83"
    )]
    MbrType {
        /// The partition.
        partition: String,
        /// What was written.
        found: String,
    },
    /// A type that a GPT cannot have.
    #[error(transparent)]
    Gpt(Box<crate::disk::gpt::GptError>),
    /// `dps` where no discoverable type exists.
    #[error(
        "partition `{partition}` has type `dps`, but there is no discoverable type for {what}: \
         write the type itself"
    )]
    NoDiscoverableType {
        /// The partition.
        partition: String,
        /// What it is used for.
        what: String,
    },
    /// An LVM item without a required key.
    #[error("{message} (in `{node}`)")]
    LvmNeeds {
        /// The node.
        node: String,
        /// DIB's message.
        message: &'static str,
    },
    /// A volume group on something that is not a physical volume.
    #[error("base:{base} in vgs does not match a valid pvs")]
    UnknownPv {
        /// What was written.
        base: String,
    },
    /// A logical volume in something that is not a volume group.
    #[error("base:{base} in lvs does not match a valid vg")]
    UnknownVg {
        /// What was written.
        base: String,
    },
    /// A type of logical volume that is not known.
    #[error("Unsupported type:{found}, supported types: thin, thin-pool")]
    LvType {
        /// What was written.
        found: String,
    },
    /// A filesystem without a required key.
    #[error("Mkfs config needs [{key}] (in `{node}`)")]
    MkfsNeeds {
        /// The node.
        node: String,
        /// The key.
        key: &'static str,
    },
    /// Options that end within quotes.
    #[error("the quotes of the mkfs options `{opts}` of `{node}` are not closed")]
    Quotes {
        /// The node.
        node: String,
        /// What was written.
        opts: String,
    },
    /// Two filesystems with one label.
    #[error("File system label [{label}] used more than once (by `{first}` and `{second}`)")]
    DuplicateFsLabel {
        /// The label.
        label: String,
        /// The node that has it first.
        first: String,
        /// The other.
        second: String,
    },
    /// A label that does not fit the filesystem.
    #[error(
        "Label [{label}] too long for filesystem [{fstype}]: {length} > {limit}; give `{node}` a \
         shorter `label`"
    )]
    LabelTooLong {
        /// The node.
        node: String,
        /// The label.
        label: String,
        /// The filesystem.
        fstype: String,
        /// Its length.
        length: usize,
        /// The longest that fits.
        limit: usize,
    },
    /// A mount point without a required key.
    #[error("MountPoint config needs [{key}] (in `{node}`)")]
    MountNeeds {
        /// The node.
        node: String,
        /// The key.
        key: &'static str,
    },
    /// Two filesystems at one mount point.
    #[error("Mount point [{mount_point}] specified more than once")]
    DuplicateMount {
        /// The mount point.
        mount_point: String,
    },
    /// Files that would have to be in a swap area.
    #[error(
        "`{node}` is a swap area and holds no files, so it cannot be mounted at `{mount_point}`: \
         use another type, or mount_point `none`"
    )]
    MountedSwap {
        /// The swap area.
        node: String,
        /// What was written.
        mount_point: String,
    },
    /// A mount point that is no absolute path.
    #[error(
        "mount point `{mount_point}` of `{node}` must be an absolute path without `.` and `..`"
    )]
    MountPoint {
        /// The node.
        node: String,
        /// What was written.
        mount_point: String,
    },
    /// An fstab entry without a required key.
    #[error("Fstab config needs [{key}] (in `{node}`)")]
    FstabNeeds {
        /// The node.
        node: String,
        /// The key.
        key: &'static str,
    },
    /// A number that is none.
    #[error("`{key}` of `{node}` must be a small number, but is `{found}`")]
    Number {
        /// The node.
        node: String,
        /// The key.
        key: &'static str,
        /// What was written.
        found: String,
    },
    /// A name that no file can have.
    #[error("`{node}` is no name for a disk: its image gets that name")]
    DiskName {
        /// The node.
        node: String,
    },
    /// A sector size that disks do not have.
    #[error("block size `{found}` of `{node}` is not possible: use 512 or 4096")]
    BlockSize {
        /// The node.
        node: String,
        /// What was written.
        found: String,
    },
    /// A value that does not exist.
    #[error(
        "there is no value `{symbol}`: use root-label, root-fstype, boot-label or mount-points"
    )]
    UnknownSymbol {
        /// What was asked for.
        symbol: String,
    },
    /// No filesystem at `/`.
    #[error("no filesystem is mounted at `/`: add a `mount` with mount_point `/`")]
    NoRoot,
}
