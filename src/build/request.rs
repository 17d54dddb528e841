//! What a user asks for, whichever command or file said it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::confinement::Confinement;
use super::environment;
use super::failure::Failure;

/// A build as the user asked for it: nothing is resolved or looked up yet.
///
/// The faces (`kiln build`, `disk-image-create`, YAML files) all produce this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Elements in the order of the arguments, before `base` and others are implied.
    pub elements: Vec<String>,
    /// Output name, which may contain a path (`-o`, `IMAGE_NAME`); formats add their suffix.
    pub image_name: PathBuf,
    /// Output formats in order, as written (`-t`); validated by the plan.
    pub image_types: Vec<String>,
    /// Debian-style architecture (`-a`, `ARCH`); `None` is the host's.
    pub arch: Option<String>,
    /// Do not imply `base` (`-n`, `SKIP_BASE=1`).
    pub skip_base: bool,
    /// Packages to install after `install.d` (`-p`).
    pub packages: Vec<String>,
    /// The element that builds a ramdisk (`ramdisk-image-create`); `None` for images.
    #[serde(default)]
    pub ramdisk: Option<String>,
    /// Compress qcow2 outputs (off with `-u`).
    pub compress: bool,
    /// `--qemu-img-options` as `key=value` pairs.
    pub qemu_img_options: Vec<(String, String)>,
    /// Write checksum files beside the outputs (`--checksum`).
    pub checksum: bool,
    /// Wait until outputs are on their disk before they get their names (`--fsync`).
    #[serde(default)]
    pub fsync: bool,
    /// Image size in GiB as the user wrote it (`--image-size`, `DIB_IMAGE_SIZE`).
    pub image_size: Option<String>,
    /// Extra size in MiB as the user wrote it (`--image-extra-size`, `DIB_IMAGE_EXTRA_SIZE`).
    pub image_extra_size: Option<String>,
    /// ext4 journal size in MiB (`--mkfs-journal-size`, `DIB_JOURNAL_SIZE`).
    pub journal_size: Option<String>,
    /// Blocks up to which the root filesystem can grow while mounted (`--max-online-resize`).
    pub max_online_resize: Option<u64>,
    /// Options in mke2fs's notation for the root filesystem (`--mkfs-options`).
    pub mkfs_options: String,
    /// Label of the root filesystem (`--root-label`, `ROOT_LABEL`).
    pub root_label: Option<String>,
    /// Image cache (`--image-cache`, `DIB_IMAGE_CACHE`); `None` is `~/.cache/image-create`.
    pub image_cache: Option<PathBuf>,
    /// Never use the network (`--offline`, `DIB_OFFLINE`).
    pub offline: bool,
    /// Never build in memory (`--no-tmpfs`, `DIB_NO_TMPFS`).
    pub no_tmpfs: bool,
    /// GiB of memory under which the build is not made in memory (`--min-tmpfs`).
    pub min_tmpfs: u64,
    /// `source` or `package` (`--install-type`).
    pub install_type: String,
    /// Trace level of hooks (`-x`).
    pub debug_trace: u32,
    /// Directories that are searched for elements before the bundled ones.
    pub elements_path: Vec<PathBuf>,
    /// Identity to use instead of the probed one (`--mode`).
    pub mode: Option<String>,
    /// What hooks may use and see.
    pub confinement: Confinement,
    /// The caller's environment, as hooks will inherit it.
    #[serde(with = "os_map")]
    pub environment: BTreeMap<OsString, OsString>,
    /// The arguments as given, for `DIB_ARGS`.
    pub arguments: Vec<String>,
    /// Directory the command was started in.
    pub current_dir: PathBuf,
}

impl Request {
    /// A variable of the caller's that is set and not empty.
    pub fn variable(&self, name: &str) -> Option<&OsStr> {
        environment::value(&self.environment, name)
    }

    /// The same as text.
    pub fn text(&self, name: &str) -> Result<Option<String>, Failure> {
        self.variable(name)
            .map(|value| {
                value
                    .to_str()
                    .map(str::to_owned)
                    .ok_or_else(|| Failure::new(format!("the value of `{name}` is not UTF-8")))
            })
            .transpose()
    }
}

/// Environment maps as pairs of byte strings, so that values which are not UTF-8 survive.
pub(crate) mod os_map {
    use std::collections::BTreeMap;
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    pub fn serialize<S: Serializer>(
        map: &BTreeMap<OsString, OsString>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        map.iter()
            .map(|(key, value)| (key.as_bytes(), value.as_bytes()))
            .collect::<Vec<_>>()
            .serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<OsString, OsString>, D::Error> {
        let pairs = Vec::<(Vec<u8>, Vec<u8>)>::deserialize(deserializer)?;
        Ok(pairs
            .into_iter()
            .map(|(key, value)| (OsString::from_vec(key), OsString::from_vec(value)))
            .collect())
    }
}
