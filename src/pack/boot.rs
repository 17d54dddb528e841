//! A boot loader that is in the tree already.
//!
//! GRUB's core image finds the filesystem with its modules by UUID; the file
//! `load.cfg` beside it says by which. Giving that UUID to the filesystem makes
//! an image of a tree that was installed with GRUB start again, whatever the
//! layout.

use std::sync::Arc;

use super::Error;
use crate::disk::boot::BiosBoot;
use crate::disk::config::label_limit;
use crate::disk::layout::Plan;
use crate::tree::{Kind, NodeId, Tree};

/// GRUB's directories, the first that is there counts.
const DIRECTORIES: [&str; 2] = ["/boot/grub", "/boot/grub2"];
/// Platforms whose `load.cfg` is looked at.
const PLATFORMS: [&str; 3] = ["i386-pc", "x86_64-efi", "arm64-efi"];
/// Boot code lies below 1 MiB or in a small partition.
const MAX_CORE: u64 = 32 << 20;
/// `load.cfg` has a few lines.
const MAX_LOAD: u64 = 4096;
/// `grub.cfg` has some for each kernel.
const MAX_CONFIG: u64 = 1 << 20;
/// Directories of entries for the boot loader by the Boot Loader Specification, which
/// GRUB of Fedora and its kin and systemd-boot read: in `/boot` and in an EFI system
/// partition.
const ENTRIES: [&str; 3] = [
    "/boot/loader/entries",
    "/boot/efi/loader/entries",
    "/efi/loader/entries",
];

/// How a core image of the tree finds the rest of GRUB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Installed {
    /// GRUB's directory in the tree.
    pub(super) directory: &'static str,
    /// UUID of the filesystem that it is in.
    pub(super) uuid: String,
    /// Its path in that filesystem, where `load.cfg` has one.
    prefix: Option<String>,
}

/// What the first `load.cfg` of the tree says.
pub(super) fn installed(tree: &Arc<Tree>) -> Option<Installed> {
    let places = DIRECTORIES
        .iter()
        .flat_map(|directory| PLATFORMS.map(|platform| (*directory, platform)));
    for (directory, platform) in places {
        let path = format!("{directory}/{platform}/load.cfg");
        let Some(text) = text(tree, &path, MAX_LOAD) else {
            continue;
        };
        let word_after = |start: &str| {
            text.lines().find_map(|line| {
                let rest = line.trim().strip_prefix(start)?;
                rest.split_whitespace().next()
            })
        };
        let uuid = word_after("search.fs_uuid ").filter(|uuid| !uuid.starts_with('-'));
        if let Some(uuid) = uuid {
            let prefix = word_after("set prefix=($root)");
            return Some(Installed {
                directory,
                uuid: uuid.to_owned(),
                prefix: prefix.map(|prefix| prefix.trim_matches(['\'', '"']).to_owned()),
            });
        }
    }
    None
}

/// Why a system with a boot loader does not start from this layout, one sentence each: the
/// loader's configuration was made for the layout that the system was built with.
pub(super) fn misfits(tree: &Arc<Tree>, plan: &Plan) -> Vec<String> {
    let mut told = Vec::new();
    let mut configuration = Vec::new();
    if let Some(installed) = installed(tree) {
        told.extend(grub_looks_elsewhere(&installed, plan));
        told.extend(plan.volumes_without_lvm(tree));
        configuration = grub_configuration(tree, installed.directory);
    }
    configuration.extend(entries(tree));
    told.extend(root_is_another(&configuration, plan));
    told
}

/// What of GRUB is not where its core image looks for it.
fn grub_looks_elsewhere(installed: &Installed, plan: &Plan) -> Vec<String> {
    let mut told = Vec::new();
    let directory = installed.directory;
    let config = plan.config();
    let holder = config
        .mkfs_holding(directory)
        .and_then(|mkfs| plan.filesystem(&mkfs.name));
    // What the layout says counts for more than what `installed` would have it be.
    if let Some(filesystem) = holder
        && !filesystem
            .id
            .to_string()
            .eq_ignore_ascii_case(&installed.uuid)
    {
        told.push(format!(
            "the image does not start: GRUB of the tree looks for a filesystem with the UUID \
             `{}`, but `{}` has `{}`; leave `uuid` out of the layout there",
            installed.uuid, filesystem.name, filesystem.id
        ));
    }
    let place = holder.and_then(|filesystem| filesystem.mount_point.as_deref());
    if let (Some(place), Some(prefix)) = (place, &installed.prefix) {
        let rest = directory.strip_prefix(place.trim_end_matches('/'));
        let is = rest.unwrap_or(directory);
        if is != prefix {
            told.push(format!(
                "the image does not start: GRUB of the tree looks for `{prefix}` in its \
                 filesystem, but with this layout it is in `{is}`; take a layout that has \
                 `/boot` where the tree was built for, or build the tree with this one"
            ));
        }
    }
    told
}

/// What is wrong where the kernel is told to look for another root filesystem.
/// `configuration` is what the boot loader reads, the most likely part first.
fn root_is_another(configuration: &[String], plan: &Plan) -> Option<String> {
    let root = plan.filesystem(&plan.config().root().ok()?.name)?;
    let told = configuration.iter().find_map(|text| kernels_root(text))?;
    let value = told.split_once('=')?;
    let uuid = root.id.to_string();
    let (is, remedy) = match value {
        ("LABEL", label) if label != root.label => {
            let fits = label_limit(&root.fstype).is_none_or(|limit| label.len() <= limit);
            let remedy = if fits {
                format!("`--label {label}`, or `label` in the layout, gives it that")
            } else {
                format!(
                    "that is too long for {}, so the tree has to be built with `--root-label {}`",
                    root.fstype, root.label
                )
            };
            (format!("LABEL={}", root.label), remedy)
        }
        ("UUID", wanted) if wanted != uuid => (
            format!("UUID={uuid}"),
            format!("`uuid: {wanted}` in the layout gives it that"),
        ),
        _ => return None,
    };
    Some(format!(
        "the system does not start: the boot loader of the tree has the kernel look for \
         `{told}`, but the root filesystem is `{is}`; {remedy}"
    ))
}

/// What GRUB reads in its directory. What entries call `$kernelopts` may be in its
/// environment.
fn grub_configuration(tree: &Arc<Tree>, directory: &str) -> Vec<String> {
    ["grub.cfg", "grubenv"]
        .iter()
        .filter_map(|name| text(tree, &format!("{directory}/{name}"), MAX_CONFIG))
        .collect()
}

/// The entries of the tree for its boot loader.
fn entries(tree: &Arc<Tree>) -> Vec<String> {
    ENTRIES
        .iter()
        .filter_map(|directory| tree.find(directory))
        .flat_map(|directory| tree.children(directory))
        .filter(|&&entry| tree.name(entry).ends_with(b".conf"))
        .filter_map(|&entry| text_of(tree, entry, MAX_LOAD))
        .collect()
}

/// What a text has a kernel take for its root filesystem, if it tells it by label or UUID:
/// GRUB's own `root` is a partition, by GRUB's name.
fn kernels_root(text: &str) -> Option<&str> {
    text.split(|c: char| c.is_whitespace() || matches!(c, '"' | '\''))
        .map(|word| word.strip_prefix("kernelopts=").unwrap_or(word))
        .filter_map(|word| word.strip_prefix("root="))
        .find(|value| value.contains('='))
}

/// The bytes of a file that may be boot code.
fn file(tree: &Arc<Tree>, path: &str) -> Result<Option<Vec<u8>>, Error> {
    let Some(node) = tree.find(path) else {
        return Ok(None);
    };
    match &tree.inode_of(node).kind {
        Kind::File(content) if content.size <= MAX_CORE => Ok(Some(tree.read_small(node)?)),
        _ => Ok(None),
    }
}

/// The text of a file of not more than `limit` bytes.
fn text(tree: &Arc<Tree>, path: &str, limit: u64) -> Option<String> {
    text_of(tree, tree.find(path)?, limit)
}

fn text_of(tree: &Arc<Tree>, node: NodeId, limit: u64) -> Option<String> {
    let Kind::File(content) = &tree.inode_of(node).kind else {
        return None;
    };
    if content.size > limit {
        return None;
    }
    let bytes = tree.read_small(node).ok()?;
    String::from_utf8(bytes).ok()
}

/// Boot code for a BIOS, if the tree has it and the layout has room for it.
pub(super) fn bios(
    tree: &Arc<Tree>,
    plan: &Plan,
    warnings: &mut Vec<String>,
) -> Result<Option<BiosBoot>, Error> {
    for directory in DIRECTORIES {
        let file = |name: &str| file(tree, &format!("{directory}/i386-pc/{name}"));
        let (Some(boot), Some(core)) = (file("boot.img")?, file("core.img")?) else {
            continue;
        };
        if !plan.has_boot_space() {
            if !plan.facts().partition_table().is_empty() {
                warnings.push(
                    "the tree has GRUB for BIOS, but the layout has no BIOS boot partition \
                     (type EF02) for it"
                        .to_owned(),
                );
            }
            return Ok(None);
        }
        return Ok(Some(BiosBoot { boot, core }));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::config::{Config, RootParameters};
    use crate::disk::layout::PlanParameters;
    use crate::tree::{Inode, TreeBuilder};

    const UUID: &str = "6e3c1a52-94a0-4f7f-9f0e-0b5a1c2d3e4f";

    /// A tree with GRUB as its own programs leave it.
    fn tree(prefix: &str, root: &str) -> Arc<Tree> {
        let mut builder = TreeBuilder::new();
        let load = format!("search.fs_uuid {UUID} root hd0,gpt3\nset prefix=($root)'{prefix}'\n");
        let config = format!(
            "menuentry 'a system' {{\n\tset root='hd0,gpt3'\n\tlinux /boot/vmlinuz {root} ro quiet\n}}\n"
        );
        for (path, text) in [
            ("/boot/grub/i386-pc/load.cfg", load),
            ("/boot/grub/grub.cfg", config),
        ] {
            let inode = Inode::file(text.into_bytes(), 0o644);
            builder.insert(path, inode).unwrap();
        }
        Arc::new(builder.build().unwrap())
    }

    fn misfits_of(tree: &Arc<Tree>, layout: &str) -> Vec<String> {
        let parameters = PlanParameters {
            seed: crate::pack::NAMESPACE,
            arch: "amd64".to_owned(),
            block_size: None,
            creation_time: 0,
        };
        let config = Config::parse(layout, &RootParameters::default()).unwrap();
        misfits(tree, &Plan::new(config, &parameters).unwrap())
    }

    /// The filesystem that GRUB was installed on is the root.
    fn whole() -> String {
        format!(
            "
- local_loop: {{name: image0}}
- partitioning:
    base: image0
    label: gpt
    partitions:
      - {{name: BSP, type: EF02, size: 8MiB}}
      - {{name: root, size: 100%, mkfs: {{type: ext4, label: cloudimg-rootfs, uuid: {UUID}, mount: {{mount_point: /}}}}}}
"
        )
    }

    /// It is one of its own.
    fn apart() -> String {
        let boot = format!(
            "      - {{name: boot, size: 300MiB, mkfs: {{type: ext4, uuid: {UUID}, mount: {{mount_point: /boot}}}}}}\n      - {{name: root"
        );
        let root = whole().replace(&format!("uuid: {UUID}, "), "");
        root.replace("      - {name: root", &boot)
    }

    #[test]
    fn entries_of_a_boot_loader_have_to_fit_the_layout() {
        let layout = whole();
        let other = UUID.replace('6', "7");
        let cases = [
            (format!("root=UUID={UUID} ro"), "", false),
            (format!("root=UUID={other} ro"), "", true),
            (format!("ro root=UUID={other}"), "$kernelopts ", true),
            ("$kernelopts".to_owned(), "", false),
            ("root=/dev/vda3".to_owned(), "", false),
        ];
        for directory in ENTRIES {
            for (options, before, is_told) in &cases {
                let mut builder = TreeBuilder::new();
                let text = format!("title a system\nlinux /vmlinuz\noptions {before}{options}\n");
                for (name, text) in [("a.conf", text.as_str()), ("README", "root=LABEL=other")] {
                    let inode = Inode::file(text.as_bytes().to_vec(), 0o644);
                    builder
                        .insert(format!("{directory}/{name}"), inode)
                        .unwrap();
                }
                let told = misfits_of(&Arc::new(builder.build().unwrap()), &layout);
                assert_eq!(told.len(), usize::from(*is_told), "{options}: {told:?}");
                assert!(told.iter().all(|text| text.contains(&other)), "{told:?}");
            }
        }
    }

    #[test]
    fn options_in_the_environment_of_grub_count() {
        let text = "saved_entry=0\nkernelopts=root=LABEL=other ro quiet\n####";
        assert_eq!(kernels_root(text), Some("LABEL=other"));
        let fallback = "  set kernelopts=\"root=UUID=1234 ro \"\n";
        assert_eq!(kernels_root(fallback), Some("UUID=1234"));
        assert_eq!(kernels_root("set root='hd0,gpt3' bootroot=a=b"), None);
    }

    #[test]
    fn what_grub_was_told_has_to_fit_the_layout() {
        const LABEL: &str = "root=LABEL=cloudimg-rootfs";
        const OTHER: &str = "77b0ba30-a91c-4c1a-8f39-62b0e23b9e59";
        let other = whole().replace(UUID, OTHER);
        let xfs = whole().replace("ext4, label: cloudimg-rootfs", "xfs, label: img-rootfs");
        let cases: [(&str, &str, &str, &[&str]); 8] = [
            ("/boot/grub", LABEL, &whole(), &[]),
            ("/boot/grub", "root=/dev/vda3", &whole(), &[]),
            ("/grub", LABEL, &apart(), &[]),
            (
                "/boot/grub",
                LABEL,
                &apart(),
                &["for `/boot/grub` in its filesystem, but with this layout it is in `/grub`"],
            ),
            (
                "/boot/grub",
                "root=LABEL=other",
                &whole(),
                &[
                    "for `LABEL=other`, but the root filesystem is `LABEL=cloudimg-rootfs`; `--label other`",
                ],
            ),
            (
                "/grub",
                &format!("root=UUID={OTHER}"),
                &whole(),
                &[
                    "with this layout it is in `/boot/grub`",
                    "; `uuid: 77b0ba30-",
                ],
            ),
            (
                "/boot/grub",
                LABEL,
                &xfs,
                &[
                    "; that is too long for xfs, so the tree has to be built with `--root-label img-rootfs`",
                ],
            ),
            (
                "/boot/grub",
                LABEL,
                &other,
                &[
                    "the UUID `6e3c1a52-94a0-4f7f-9f0e-0b5a1c2d3e4f`, but `mkfs_root` has `77b0ba30-",
                ],
            ),
        ];
        for (prefix, root, layout, expected) in cases {
            let told = misfits_of(&tree(prefix, root), layout);
            assert_eq!(told.len(), expected.len(), "{told:?}");
            for (text, part) in told.iter().zip(expected) {
                assert!(text.contains(part), "{text}");
            }
        }
    }
}
