//! The system on a disk: its root, and what it mounts.

use std::path::{Component, Path, PathBuf};

use super::collect::{CollectError, Collector};
use super::fs::{self, Error as FsError, FileSystem, Subvolume};
use super::{Contents, Part};
use crate::tree::Tree;

/// Type of an EFI system partition, in a GPT and in an MBR.
const ESP: [&str; 2] = ["c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "ef"];
/// Type of a partition that is `/boot` (Extended Boot Loader Partition).
const XBOOTLDR: &str = "bc13c2ff-59e6-4262-a352-b275fd6f7172";
/// Longest `/etc/fstab` that is read, in bytes.
const MAX_FSTAB: u64 = 1 << 20;
/// Most lines of it that are mounted: each may mean all files of a subvolume once more.
const MAX_MOUNTS: usize = 256;
/// One of these is in every root.
const ROOT_FILES: [&str; 3] = ["/etc/os-release", "/usr/lib/os-release", "/etc/passwd"];

/// Why a disk's system cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SystemError {
    /// There is nothing on the disk that is known.
    #[error(
        "it has neither a partition table nor a filesystem that is known: it is no image of a disk"
    )]
    NotAnImage,
    /// None of its filesystems is a root.
    #[error(
        "it has no root filesystem: nothing that kiln reads has `/etc/os-release` or `/etc/passwd`"
    )]
    NoRoot {
        /// What there is.
        have: Vec<String>,
    },
    /// What may be the root is of a kind that kiln does not read.
    #[error("its root filesystem cannot be read: {what} is {kind}")]
    Unreadable {
        /// The partition, or the disk.
        what: String,
        /// Its kind.
        kind: &'static str,
    },
    /// A filesystem is damaged, or has something that is not read.
    #[error("cannot read {what}")]
    FileSystem {
        /// The partition, or the disk.
        what: String,
        /// Why.
        source: FsError,
    },
    /// Its files cannot be read.
    #[error(transparent)]
    Collect(#[from] CollectError),
}

impl SystemError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            SystemError::NotAnImage => Some(
                "a download may be an error page; images are raw, qcow2, vmdk, vhd, vhdx or vdi"
                    .to_owned(),
            ),
            SystemError::NoRoot { have } if have.is_empty() => None,
            SystemError::NoRoot { have } => Some(format!("it has {}", have.join(", "))),
            SystemError::Unreadable { kind, .. } => Some(format!(
                "kiln reads {}, not {kind}; distributions that use it also publish images of \
                 containers, which an element with `containerfile` can take",
                fs::KINDS
            )),
            SystemError::FileSystem { source, .. } => source.hint(),
            SystemError::Collect(error) => error.hint(),
        }
    }
}

/// Whether a tree is the root of a system.
pub fn is_root(tree: &Tree) -> bool {
    ROOT_FILES.iter().any(|path| tree.find(path).is_some())
}

/// Reads the system of a disk: its root with all that its `/etc/fstab` mounts from
/// the same disk, and with `/boot` and `/boot/efi`, where these are partitions of
/// their own. File data is kept in `directory`.
///
/// The root is the first filesystem that has what every root has. Partitions for
/// booting are known by their types and labels too.
///
/// # Errors
/// See [`SystemError`].
pub fn system(contents: &Contents<'_>, directory: &Path) -> Result<Tree, SystemError> {
    let (mut root, mut boot, mut esp) = (None, None, None);
    let mut unreadable = None;
    for part in &contents.parts {
        if is_type(part, &ESP) {
            esp = esp.or(Some(part));
            continue;
        }
        let is_boot = is_type(part, &[XBOOTLDR]) || is_called_boot(part);
        match contents.open_system(part) {
            Ok(files) if is_boot && !has_root(&files) => boot = boot.or(Some(part)),
            Ok(files) => {
                if root.is_none() && has_root(&files) {
                    root = Some((part, files));
                }
            }
            Err(FsError::Unknown) => {}
            // Its logical volumes are met on their own.
            Err(FsError::Unsupported { .. }) if part.is_physical() && has_logical(contents) => {}
            Err(error) => {
                // A boot partition that cannot be read is met below.
                if is_boot {
                    boot = boot.or(Some(part));
                } else if unreadable.is_none() && !is_swap(part) {
                    unreadable = Some((part, error));
                }
            }
        }
    }
    let Some((root, files)) = root else {
        return Err(no_root(contents, unreadable));
    };
    let mut mounts = mounts(contents, root, &files);
    for (part, at) in [(boot, "/boot"), (esp, "/boot/efi")] {
        let Some(part) = part else { continue };
        let known = mounts
            .iter()
            .any(|mount| mount.at == Path::new(at) || std::ptr::eq(mount.part, part));
        // Without a filesystem it was never mounted.
        if !known && part.identity.is_some() {
            mounts.push(Mount {
                part,
                at: at.into(),
                subvolume: None,
                may_fail: false,
            });
        }
    }
    // What is mounted over something comes after it.
    mounts.sort_by(|a, b| a.at.cmp(&b.at));
    let mut collector = Collector::new(directory)?;
    collector.mount(&files, Path::new("/"))?;
    for mount in mounts {
        match mount.open(contents, root, &files) {
            Ok(Some(files)) => collector.mount(&files, &mount.at)?,
            Ok(None) => {}
            Err(_) if mount.may_fail => {}
            Err(source) => {
                return Err(SystemError::FileSystem {
                    what: format!("{} (`{}`)", mount.part.title(), mount.at.display()),
                    source,
                });
            }
        }
    }
    Ok(collector.finish()?)
}

/// A filesystem that is mounted below the root.
struct Mount<'c> {
    part: &'c Part,
    at: PathBuf,
    subvolume: Option<Subvolume>,
    /// The system starts without it.
    may_fail: bool,
}

impl Mount<'_> {
    /// Opens it; `None` for a subvolume that is not there, and for one that the root
    /// is in itself: that is mounted to manage snapshots.
    fn open<'a>(
        &self,
        contents: &Contents<'a>,
        root: &Part,
        system: &FileSystem<'_>,
    ) -> Result<Option<FileSystem<'a>>, FsError> {
        let mut files = contents.open(self.part)?;
        if let Some(subvolume) = &self.subvolume {
            match files.enter(subvolume) {
                Err(FsError::NotFound { .. } | FsError::NotADirectory { .. }) => return Ok(None),
                other => other?,
            }
            if std::ptr::eq(self.part, root)
                && let Some(id) = system.subvolume_id()
                && files.encloses(id)?
            {
                return Ok(None);
            }
        }
        Ok(Some(files))
    }
}

/// What the root's `/etc/fstab` mounts from its own disk when the system starts.
/// What else it names (network, other disks) is not there to be read.
fn mounts<'c>(
    contents: &'c Contents<'_>,
    root: &'c Part,
    files: &FileSystem<'_>,
) -> Vec<Mount<'c>> {
    let read = files
        .lookup(b"/etc/fstab", true)
        .and_then(|file| files.read(file, MAX_FSTAB));
    let text = read.unwrap_or_default();
    let mut mounts: Vec<Mount<'c>> = Vec::new();
    for line in String::from_utf8_lossy(&text).lines() {
        let fields: Vec<String> = line.split_whitespace().map(unescaped).collect();
        let (Some(device), Some(at)) = (fields.first(), fields.get(1)) else {
            continue;
        };
        if device.starts_with('#') {
            continue;
        }
        let options = fields.get(3).map(String::as_str).unwrap_or_default();
        let has = |option: &str| options.split(',').any(|own| own == option);
        let at = Path::new(at);
        let is_plain = at.is_absolute()
            && at.components().count() > 1
            && at
                .components()
                .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        let Some(part) = contents.device(device) else {
            continue;
        };
        let subvolume = Subvolume::from_options(options).filter(|_| {
            part.identity
                .as_ref()
                .is_some_and(|own| own.kind == "btrfs")
        });
        let is_new = |mount: &Mount<'_>| {
            mount.at != at && (subvolume.is_some() || !std::ptr::eq(mount.part, part))
        };
        if is_plain
            && mounts.len() < MAX_MOUNTS
            && !has("noauto")
            && !is_swap(part)
            && (subvolume.is_some() || !std::ptr::eq(part, root))
            && mounts.iter().all(is_new)
        {
            mounts.push(Mount {
                part,
                at: at.components().collect(),
                subvolume,
                may_fail: has("nofail"),
            });
        }
    }
    mounts
}

/// A field of `/etc/fstab`, where `\040` and the like are characters.
fn unescaped(field: &str) -> String {
    let mut text = String::new();
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('\\') {
        text.push_str(before);
        let code = after
            .get(..3)
            .and_then(|code| u8::from_str_radix(code, 8).ok());
        match code {
            Some(code) if code.is_ascii() => {
                text.push(code.into());
                rest = &after[3..];
            }
            _ => {
                text.push('\\');
                rest = after;
            }
        }
    }
    text.push_str(rest);
    text
}

fn has_logical(contents: &Contents<'_>) -> bool {
    contents.parts.iter().any(|part| part.logical.is_some())
}

fn no_root(contents: &Contents<'_>, unreadable: Option<(&Part, FsError)>) -> SystemError {
    match unreadable {
        Some((part, FsError::Unsupported { what })) => match &part.identity {
            Some(identity) if what.ends_with(identity.kind) => SystemError::Unreadable {
                what: part.title(),
                kind: identity.kind,
            },
            _ => SystemError::FileSystem {
                what: part.title(),
                source: FsError::Unsupported { what },
            },
        },
        Some((part, source)) => SystemError::FileSystem {
            what: part.title(),
            source,
        },
        None if contents.table.is_none()
            && contents.parts.iter().all(|part| part.identity.is_none()) =>
        {
            SystemError::NotAnImage
        }
        None => SystemError::NoRoot {
            have: contents.names(),
        },
    }
}

/// Whether a filesystem has what every root has.
pub(super) fn has_root(files: &FileSystem<'_>) -> bool {
    ROOT_FILES
        .iter()
        .any(|path| files.lookup(path.as_bytes(), false).is_ok())
}

fn is_type(part: &Part, types: &[&str]) -> bool {
    let partition = part.partition.as_ref();
    partition.is_some_and(|own| types.iter().any(|kind| own.kind.eq_ignore_ascii_case(kind)))
}

fn is_called_boot(part: &Part) -> bool {
    let name = part.partition.as_ref().and_then(|own| own.name.as_deref());
    let label = part.identity.as_ref().and_then(|own| own.label.as_deref());
    [name, label]
        .into_iter()
        .flatten()
        .any(|name| name.eq_ignore_ascii_case("boot"))
}

fn is_swap(part: &Part) -> bool {
    part.identity.as_ref().is_some_and(|own| own.kind == "swap")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::disk::Disk;
    use crate::disk::fs::ext4;
    use crate::tree::{Inode, TreeBuilder};

    #[test]
    fn fields_of_fstab_are_read_as_by_the_kernel() {
        for (field, text) in [
            ("/mnt", "/mnt"),
            (r"/with\040space\011tab", "/with space\ttab"),
            (r"\134\134", r"\\"),
            (r"a\9", r"a\9"),
            (r"a\777", r"a\777"),
            ("a\\é", "a\\é"),
        ] {
            assert_eq!(unescaped(field), text, "{field}");
        }
    }

    /// A disk whose MBR has these filesystems: label, files.
    fn disk(filesystems: &[(&str, &[(&str, &str)])]) -> Disk {
        const SIZE: u64 = 8 << 20;
        let mut disk = Disk::builder(SIZE * (filesystems.len() as u64 + 1), 512);
        let mut record = vec![0; 512];
        record[510..].copy_from_slice(&[0x55, 0xAA]);
        for (number, (label, files)) in filesystems.iter().enumerate() {
            let mut tree = TreeBuilder::new();
            for (path, text) in *files {
                let inode = Inode::file(text.as_bytes().to_vec(), 0o644);
                tree.insert(path, inode).unwrap();
            }
            let tree = Arc::new(tree.build().unwrap());
            let mut uuid = *b"kiln system test";
            uuid[15] = u8::try_from(number).unwrap();
            let mut options = ext4::Options::new(uuid);
            options.label = (*label).to_owned();
            let start = SIZE * (number as u64 + 1);
            let planned = ext4::plan(&tree, &options, SIZE).unwrap();
            disk.volume("filesystem", start, planned);
            let entry = &mut record[446 + 16 * number..462 + 16 * number];
            entry[4] = 0x83;
            entry[8..12].copy_from_slice(&u32::try_from(start / 512).unwrap().to_le_bytes());
            entry[12..].copy_from_slice(&u32::try_from(SIZE / 512).unwrap().to_le_bytes());
        }
        disk.bytes("record", 0, record);
        disk.build().unwrap()
    }

    #[test]
    fn what_fstab_mounts_from_the_disk_is_part_of_the_system() {
        let fstab = "# device at\n\
                     LABEL=root / ext4 defaults 0 1\n\
                     UUID=6B696C6E-2073-7973-7465-6D2074657301 /var ext4 defaults 0 2\n\
                     /dev/sda3\t/var/with\\040space ext4 rw,nofail 0 2\n\
                     LABEL=\"late\" /late ext4 noauto 0 2\n\
                     LABEL=root /twice ext4 defaults 0 0\n\
                     LABEL=late ../up ext4 defaults 0 0\n\
                     LABEL=gone /gone ext4 defaults 0 0\n\
                     /srv /bind none bind 0 0\nbroken\n";
        let disk = disk(&[
            (
                "root",
                &[
                    ("/etc/os-release", "ID=toy"),
                    ("/etc/fstab", fstab),
                    ("/var/hidden", "covered"),
                ],
            ),
            ("", &[("/log", "said")]),
            ("third", &[("/deep", "kept")]),
            ("late", &[("/file", "not mounted")]),
        ]);
        let contents = Contents::read(&disk).unwrap();
        let spool = tempfile::tempdir().unwrap();
        let tree = system(&contents, spool.path()).unwrap();
        for path in ["/etc/fstab", "/var/log", "/var/with space/deep"] {
            assert!(tree.find(path).is_some(), "{path}");
        }
        for path in ["/var/hidden", "/late/file", "/twice", "/gone", "/up"] {
            assert!(tree.find(path).is_none(), "{path}");
        }
        for (device, number) in [
            ("/dev/vda2", 2),
            ("/dev/disk/by-label/third", 3),
            ("PARTUUID=00000000-04", 4),
            ("/dev/disk/by-uuid/6b696c6e-2073-7973-7465-6d2074657300", 1),
        ] {
            let found = contents
                .device(device)
                .and_then(|part| part.partition.as_ref());
            assert_eq!(found.map(|own| own.number), Some(number), "{device}");
        }
        for device in ["/dev/sdb1", "/dev/vg/root", "PARTUUID=", "ID=4", "/dev/sda"] {
            assert!(contents.device(device).is_none(), "{device}");
        }
    }
}
