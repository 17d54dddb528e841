//! GRUB's tools without devices: the plan of the disk answers for them.
//!
//! There is no block device during a build. `grub-probe` answers from the facts
//! in `KILN_LAYOUT`; `grub-install` makes the core image with the target's own
//! `grub-mkimage` and leaves embedding it to the assembler.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{Explain, record};
use crate::disk::facts::{Disk, Facts, Filesystem};

pub mod install;
mod options;
pub mod probe;
pub mod relpath;

/// Why a GRUB tool cannot do its work.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no plan of the disk.
    #[error("KILN_LAYOUT is not set")]
    NoLayout,
    /// A file cannot be read or written.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The plan is not valid.
    #[error("`{path}` does not describe a disk: {message}")]
    Layout {
        /// The file.
        path: PathBuf,
        /// The parser's words.
        message: String,
    },
    /// No filesystem of the plan holds the path.
    #[error("no filesystem of the image holds `{path}`")]
    NoFilesystem {
        /// The path.
        path: PathBuf,
    },
    /// A device that the plan does not have.
    #[error("`{device}` is not a device of the image")]
    NoDevice {
        /// The device.
        device: String,
        /// Devices that it has.
        known: Vec<String>,
    },
    /// An unknown option.
    #[error("unknown option `{option}`")]
    Option {
        /// The option.
        option: String,
    },
    /// An option without its argument.
    #[error("option `{option}` needs an argument")]
    Argument {
        /// The option.
        option: String,
    },
    /// Nothing to look at.
    #[error("no path or device is given")]
    NoOperand,
    /// `grub-probe --target=` of something else.
    #[error("unknown target `{target}`")]
    UnknownTarget {
        /// The target.
        target: String,
    },
    /// A filesystem that GRUB cannot read, or kiln cannot name.
    #[error("GRUB has no module for filesystem `{fstype}` of `{device}`")]
    UnknownFilesystem {
        /// Type as in the plan.
        fstype: String,
        /// Its device.
        device: String,
    },
    /// A value that the plan does not have.
    #[error("the plan has no {what} for `{device}`")]
    NoValue {
        /// What is missing.
        what: &'static str,
        /// The device.
        device: String,
    },
    /// A platform that kiln has no boot code for.
    #[error("platform `{target}` is not supported")]
    Platform {
        /// GRUB's name of it.
        target: String,
    },
    /// GRUB's files for a platform are not installed.
    #[error("GRUB's modules for `{target}` are not in this root: no `{path}`")]
    NoModules {
        /// The platform.
        target: String,
        /// What is missing.
        path: PathBuf,
        /// Packages that have it.
        package: &'static str,
    },
    /// No `grub-mkimage`.
    #[error("no `{program}` in this root")]
    NoMkimage {
        /// The program.
        program: String,
    },
    /// `grub-mkimage` failed.
    #[error("`{program}` failed: {message}")]
    Mkimage {
        /// The program.
        program: String,
        /// What it said.
        message: String,
    },
    /// The ESP is not in the plan.
    #[error("no FAT filesystem of the image is mounted at `{path}`")]
    NoEsp {
        /// Where it is looked for.
        path: PathBuf,
    },
    /// The engine cannot be told.
    #[error(transparent)]
    Record(#[from] record::Error),
}

impl Explain for Error {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoLayout => "this program is for hooks of a kiln build; it does not touch devices".into(),
            Self::Io { .. } | Self::Mkimage { .. } => return None,
            Self::Layout { .. } => "kiln writes that file; it must not be changed".into(),
            Self::NoFilesystem { .. } => "the block device configuration must mount a filesystem there or above".into(),
            Self::NoDevice { known, .. } => {
                format!("it has {}; hooks find them in IMAGE_BLOCK_DEVICE and IMAGE_BLOCK_DEVICES", known.join(" "))
            }
            Self::Option { .. } | Self::Argument { .. } | Self::NoOperand => "see --help".into(),
            Self::UnknownTarget { .. } => format!("known are {}", probe::TARGETS.join(", ")),
            Self::UnknownFilesystem { .. } => "use ext4, xfs, btrfs or vfat for the filesystem that GRUB reads".into(),
            Self::NoValue { .. } => return None,
            Self::Platform { .. } => "supported are i386-pc, i386-efi, x86_64-efi, arm64-efi, arm-efi and riscv64-efi".into(),
            Self::NoModules { package, .. } => format!("install {package}"),
            Self::NoMkimage { .. } => "install `grub-common` (Debian) or `grub2-tools`".into(),
            Self::NoEsp { .. } => "use a layout with an EFI system partition, such as `block-device-efi`, or name it with --efi-directory".into(),
            Self::Record(error) => return error.hint(),
        })
    }
}

/// The plan of the disk in GRUB's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout(Facts);

impl Layout {
    /// Reads the file that `KILN_LAYOUT` names.
    pub fn from_environment() -> Result<Self, Error> {
        let path = crate::helpers::env_os("KILN_LAYOUT").ok_or(Error::NoLayout)?;
        Self::read(Path::new(&path))
    }

    /// Reads a plan.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read(path).map_err(|source| Error::Io {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        serde_json::from_slice(&text)
            .map(Self)
            .map_err(|error| Error::Layout {
                path: path.to_owned(),
                message: error.to_string(),
            })
    }

    /// The whole disk.
    pub fn device(&self) -> &str {
        self.0.device()
    }

    /// The filesystem that holds an absolute path without links.
    pub fn holding(&self, path: &Path) -> Result<&Filesystem, Error> {
        self.0
            .filesystems
            .iter()
            .filter_map(|fs| Some((mount_point(fs)?, fs)))
            .filter(|(mount, _)| path.starts_with(mount))
            .max_by_key(|(mount, _)| mount.components().count())
            .map(|(_, fs)| fs)
            .ok_or_else(|| Error::NoFilesystem {
                path: path.to_owned(),
            })
    }

    /// The filesystem on a device; `None` for the whole disk.
    pub fn on_device(&self, device: &str) -> Result<Option<&Filesystem>, Error> {
        if let Some(fs) = self.0.filesystems.iter().find(|fs| fs.device == device) {
            return Ok(Some(fs));
        }
        let mut disks = self.0.disks.iter().map(|disk| &disk.device);
        if disks.clone().any(|disk| disk == device) {
            return Ok(None);
        }
        let mut known: Vec<String> = disks.by_ref().cloned().collect();
        known.extend(self.0.filesystems.iter().map(|fs| fs.device.clone()));
        Err(Error::NoDevice {
            device: device.to_owned(),
            known,
        })
    }

    /// The disk of a filesystem; that of logical volumes and of no filesystem is the
    /// first.
    pub fn disk(&self, fs: Option<&Filesystem>) -> Option<&Disk> {
        let at = fs.and_then(|fs| fs.disk).unwrap_or(0);
        self.0.disks.get(at)
    }

    /// `gpt`, `msdos` or empty, as in the names of GRUB's modules.
    pub fn partition_map(&self, fs: Option<&Filesystem>) -> &str {
        self.disk(fs).map_or("", |disk| &disk.partition_table)
    }

    /// GRUB's name of a place, without parentheses: `hd0,gpt3`, `hd0` or `lvm/vg-lv`.
    pub fn drive(&self, fs: Option<&Filesystem>) -> String {
        let Some(fs) = fs else {
            return "hd0".to_owned();
        };
        match (fs.disk, fs.partition) {
            (Some(disk), Some(number)) => {
                format!("hd{disk},{}{number}", self.partition_map(Some(fs)))
            }
            (Some(disk), None) => format!("hd{disk}"),
            (None, _) => format!("lvm/{}", fs.device.rsplit('/').next().unwrap_or_default()),
        }
    }
}

/// Where a filesystem is mounted; swap and unmounted ones have no place.
fn mount_point(fs: &Filesystem) -> Option<&Path> {
    fs.mount_point
        .as_deref()
        .map(Path::new)
        .filter(|path| path.is_absolute())
}

/// The module that reads a filesystem.
pub(crate) fn module(fs: &Filesystem) -> Result<&'static str, Error> {
    Ok(match fs.fstype.as_str() {
        "ext2" | "ext3" | "ext4" => "ext2",
        "vfat" | "fat" | "msdos" => "fat",
        "xfs" => "xfs",
        "btrfs" => "btrfs",
        "f2fs" => "f2fs",
        "squashfs" => "squash4",
        _ => {
            return Err(Error::UnknownFilesystem {
                fstype: fs.fstype.clone(),
                device: fs.device.clone(),
            });
        }
    })
}

/// A name with GRUB's prefix in this distribution: `grub-x` or `grub2-x`,
/// whichever is there, the caller's own flavour first.
pub(crate) fn tool(called: &str, name: &str) -> Result<PathBuf, Error> {
    let flavours = if called.starts_with("grub2") {
        ["grub2", "grub"]
    } else {
        ["grub", "grub2"]
    };
    flavours
        .iter()
        .find_map(|flavour| super::find_program(&format!("{flavour}-{name}")))
        .ok_or_else(|| Error::NoMkimage {
            program: format!("{}-{name}", flavours[0]),
        })
}

/// What the real tool of that name prints for `--version`, learnt from
/// `grub-mkimage`, which is of the same build and has no shim.
pub(crate) fn version(called: &str) -> Result<String, Error> {
    let mkimage = tool(called, "mkimage")?;
    let output = std::process::Command::new(&mkimage)
        .arg("--version")
        .output()
        .map_err(|source| Error::Io {
            action: "run",
            path: mkimage.clone(),
            source,
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let words = text
        .trim()
        .split_once(' ')
        .map_or("(GRUB)", |(_, rest)| rest);
    Ok(format!("{called} {words}\n"))
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// ESP, BIOS boot and root on GPT, as `block-device-efi` has them.
    pub fn efi() -> Facts {
        Facts {
            sector_size: 512,
            disks: vec![Disk {
                device: "/dev/loop0".into(),
                partition_table: "gpt".into(),
            }],
            filesystems: vec![
                filesystem("mkfs_ESP", Some("/boot/efi"), "vfat", "ABCD-1234", Some(1)),
                filesystem(
                    "mkfs_root",
                    Some("/"),
                    "ext4",
                    "00000000-0000-4000-8000-000000000003",
                    Some(3),
                ),
            ],
        }
    }

    pub fn filesystem(
        name: &str,
        mount: Option<&str>,
        fstype: &str,
        uuid: &str,
        partition: Option<u32>,
    ) -> Filesystem {
        Filesystem {
            name: name.into(),
            device: partition
                .map_or_else(|| "/dev/loop0".into(), |n| format!("/dev/mapper/loop0p{n}")),
            mount_point: mount.map(str::to_owned),
            fstype: fstype.into(),
            label: name.to_uppercase(),
            uuid: uuid.into(),
            disk: Some(0),
            partition,
            partuuid: partition.map_or_else(String::new, |n| {
                format!("11111111-0000-4000-8000-00000000000{n}")
            }),
        }
    }

    pub fn layout(facts: &Facts) -> Layout {
        Layout(facts.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{efi, filesystem, layout};
    use super::*;

    #[test]
    fn the_deepest_mount_holds_a_path() {
        let layout = layout(&efi());
        for (path, name) in [
            ("/", "mkfs_root"),
            ("/boot/grub", "mkfs_root"),
            ("/boot/efi/EFI", "mkfs_ESP"),
            ("/boot/efix", "mkfs_root"),
        ] {
            assert_eq!(
                layout.holding(Path::new(path)).unwrap().name,
                name,
                "{path}"
            );
        }
    }

    #[test]
    fn drives_have_grubs_names() {
        let mut facts = efi();
        facts.filesystems.push(Filesystem {
            device: "/dev/mapper/vg-lv_root".into(),
            disk: None,
            ..filesystem("lv", Some("/lv"), "xfs", "u", None)
        });
        let gpt = layout(&facts);
        let names: Vec<String> = facts
            .filesystems
            .iter()
            .map(|fs| gpt.drive(Some(fs)))
            .collect();
        assert_eq!(names, ["hd0,gpt1", "hd0,gpt3", "lvm/vg-lv_root"]);
        facts.disks[0].partition_table = String::new();
        facts.filesystems = vec![filesystem("mkfs_root", Some("/"), "ext4", "u", None)];
        assert_eq!(layout(&facts).drive(facts.filesystems.first()), "hd0");
    }

    #[test]
    fn an_unknown_device_is_answered_with_the_known_ones() {
        let error = layout(&efi()).on_device("/dev/sda").unwrap_err();
        assert_eq!(error.to_string(), "`/dev/sda` is not a device of the image");
        assert_eq!(
            error.hint().unwrap(),
            "it has /dev/loop0 /dev/mapper/loop0p1 /dev/mapper/loop0p3; hooks find them in IMAGE_BLOCK_DEVICE and IMAGE_BLOCK_DEVICES"
        );
    }
}
