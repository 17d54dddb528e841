mod random;
mod rules;

use proptest::prelude::*;

use super::*;

const DEEP_TREE: &str = "
- local_loop: {name: image0}
- partitioning:
    name: mbr
    base: image0
    label: mbr
    partitions:
      - name: root
        base: overwritten
        flags: [boot, primary]
        size: 100%
        mkfs:
          type: ext4
          mount:
            mount_point: /
            fstab: {options: defaults, fsck-passno: 1}
";

const DEEP_GRAPH: &str = "
- local_loop: {name: image0}
- partitioning:
    name: mbr
    base: image0
    label: mbr
    partitions:
      - {name: root, base: image0, flags: [boot, primary], size: 100%}
- mkfs: {name: mkfs_root, base: root, type: ext4}
- mount: {name: mount_mkfs_root, base: mkfs_root, mount_point: /}
- fstab: {name: fstab_mount_mkfs_root, base: mount_mkfs_root, options: defaults, fsck-passno: 1}
";

const MULTIPLE_PARTITIONS: &str = "
- local_loop: {name: image0}
- partitioning:
    base: image0
    name: mbr
    label: mbr
    partitions:
      - name: root
        flags: [boot, primary]
        size: 54%
        mkfs:
          type: xfs
          uuid: root-uuid-1234
          mount: {mount_point: /, fstab: {options: defaults, fsck-passno: 1}}
      - name: var
        size: 40%
        mkfs:
          type: xfs
          uuid: var-uuid-1234
          mount: {mount_point: /var, fstab: {options: defaults, fsck-passno: 1}}
      - name: var_log
        size: 5%
        mkfs:
          type: vfat
          label: varlog
          mount: {mount_point: /var/log, fstab: {options: defaults, fsck-passno: 1}}
      - name: swap
        size: 1%
        mkfs:
          type: swap
          uuid: swap-uuid-1234
          mount: {mount_point: none, fstab: {options: sw, fsck-passno: 0}}
";

const GPT_EFI: &str = "
- local_loop: {name: image0}
- partitioning:
    base: image0
    label: gpt
    partitions:
      - name: ESP
        type: EF00
        size: 8MiB
        mkfs: {type: vfat, mount: {mount_point: /boot/efi, fstab: {options: defaults, fsck-passno: 1}}}
      - {name: BSP, type: EF02, size: 8MiB}
      - name: Root Part
        type: 8300
        size: 100%
        mkfs: {type: ext4, mount: {mount_point: /, fstab: {options: defaults, fsck-passno: 1}}}
";

const LVM_TREE: &str = "
- local_loop: {name: image0}
- partitioning:
    base: image0
    label: mbr
    name: mbr
    partitions:
      - {name: root, flags: [boot, primary], size: 3G}
- lvm:
    base: mbr
    pvs: [{name: pv, base: root, options: [--force]}]
    vgs: [{name: vg, base: [pv], options: [--force]}]
    lvs:
      - {name: lv_root, base: vg, size: 1800M}
      - {name: lv_swap, base: vg, size: 100M}
- mkfs:
    name: fs_root
    base: lv_root
    type: ext4
    label: img-rootfs
    mount: {mount_point: /, fstab: {options: 'noacl,errors=remount-ro', fsck-passno: 1}}
- mkfs:
    base: lv_swap
    type: swap
    mount: {mount_point: none, fstab: {options: swap}}
";

fn items(text: &str) -> Vec<Item> {
    flatten(&yaml::parse(text).unwrap()).unwrap()
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, &RootParameters::default())
}

fn order(text: &str) -> Vec<String> {
    Config::from_items(items(text)).unwrap().order
}

/// The message, with those of its causes.
fn message(text: &str) -> String {
    let error = parse(text).unwrap_err();
    let mut message = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(error) = source {
        message.push_str(": ");
        message.push_str(&error.to_string());
        source = error.source();
    }
    message
}

#[test]
fn the_tree_form_flattens_to_the_graph_form() {
    // Children come first; as sets both are equal, and settings too.
    let sorted = |text| {
        let mut items = items(text);
        items.sort_by(|a, b| a.name.cmp(&b.name));
        items
            .into_iter()
            .map(|item| {
                let mut settings: Vec<String> = item
                    .settings
                    .iter()
                    .map(|(key, value)| format!("{key}: {value}"))
                    .collect();
                settings.sort();
                (item.plugin, item.name, settings)
            })
            .collect::<Vec<_>>()
    };
    let flat = sorted(DEEP_TREE);
    let graph = sorted(DEEP_GRAPH);
    assert_eq!(flat.len(), 5);
    for (a, b) in flat.iter().zip(&graph) {
        assert_eq!((a.0, &a.1), (b.0, &b.1));
        if a.0 != Plugin::Partitioning {
            assert_eq!(a.2, b.2);
        }
    }
    let names: Vec<String> = items(DEEP_TREE).into_iter().map(|item| item.name).collect();
    assert_eq!(
        names,
        [
            "image0",
            "fstab_mount_mkfs_root",
            "mount_mkfs_root",
            "mkfs_root",
            "mbr"
        ]
    );
    let simple =
        items("- mkfs: {name: root_fs, base: root_part, type: xfs, mount: {mount_point: /}}");
    assert_eq!(simple[0].name, "mount_root_fs");
    assert_eq!(
        simple[0].settings.get("base").and_then(Value::as_text),
        Some("root_fs")
    );
    assert_eq!(
        simple[1].settings.get("type").and_then(Value::as_text),
        Some("xfs")
    );
}

/// The volumes of the vector `lvm_tree`, with their mount points.
const LVM_VOLUMES: [(&str, &str); 6] = [
    ("root", "/"),
    ("var", "/var"),
    ("log", "/var/log"),
    ("audit", "/var/log/audit"),
    ("tmp", "/tmp"),
    ("home", "/home"),
];

/// Six filesystems on logical volumes; `lv` completes the line of one.
fn six_volumes(pool: &str, lv: impl Fn(&str) -> String) -> String {
    let mut text = "- local_loop: {name: image0}
- partitioning:
    base: image0
    name: mbr
    label: mbr
    partitions: [{name: root, flags: [boot, primary], size: 3G}]
- lvm:
    base: mbr
    pvs: [{name: pv, base: root, options: [--force]}]
    vgs: [{name: vg, base: [pv], options: [--force]}]
    lvs:
"
    .to_owned();
    text += pool;
    for (name, _) in LVM_VOLUMES {
        text += &format!("      - {{name: lv_{name}, base: vg, {}}}\n", lv(name));
    }
    for (name, mount_point) in LVM_VOLUMES {
        let label = if name == "root" {
            "label: img-rootfs, "
        } else {
            ""
        };
        let passno = if name == "root" { "1" } else { "2" };
        text += &format!(
            "- mkfs: {{name: fs_{name}, base: lv_{name}, type: xfs, {label}mount: {{mount_point: \
             {mount_point}, fstab: {{options: 'rw,relatime', fsck-passno: {passno}}}}}}}\n"
        );
    }
    text
}

#[test]
fn volumes_of_a_group_flatten_as_upstream_flattens_them() {
    let text = six_volumes("", |_| "size: 100M".to_owned());
    let names: Vec<String> = items(&text).into_iter().map(|item| item.name).collect();
    let mut expected = vec!["image0".to_owned(), "mbr".to_owned(), "lvm_mbr".to_owned()];
    for (name, _) in LVM_VOLUMES {
        expected.extend([
            format!("fstab_mount_fs_{name}"),
            format!("mount_fs_{name}"),
            format!("fs_{name}"),
        ]);
    }
    assert_eq!(names, expected);
    // A graph stays what it is.
    let graph: Vec<String> = items(DEEP_GRAPH)
        .into_iter()
        .map(|item| item.name)
        .collect();
    assert_eq!(
        graph,
        [
            "image0",
            "mbr",
            "mkfs_root",
            "mount_mkfs_root",
            "fstab_mount_mkfs_root"
        ]
    );
}

#[test]
fn thin_volumes_have_the_fstab_of_upstream() {
    let pool = "      - {name: lv_thinpool, base: vg, type: thin-pool, size: 2940MB}\n";
    let text = six_volumes(pool, |_| {
        "type: thin, thin-pool: lv_thinpool, size: 200MB".to_owned()
    });
    let config = parse(&text).unwrap();
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    assert_eq!(
        config.fstab(),
        "LABEL=img-rootfs / xfs rw,relatime 0 1\n\
         LABEL=fs_home /home xfs rw,relatime 0 2\n\
         LABEL=fs_tmp /tmp xfs rw,relatime 0 2\n\
         LABEL=fs_var /var xfs rw,relatime 0 2\n\
         LABEL=fs_log /var/log xfs rw,relatime 0 2\n\
         LABEL=fs_audit /var/log/audit xfs rw,relatime 0 2\n"
    );
}

#[test]
fn the_order_of_a_graph_keeps_what_the_tree_says() {
    // The tree's items, given as a graph in another order.
    let mut graph = items(MULTIPLE_PARTITIONS);
    graph.reverse();
    let order = Config::from_items(graph).unwrap().order;
    let place = |name: &str| order.iter().position(|have| have == name).unwrap();
    for (before, after) in [
        ("root", "var"),
        ("var", "var_log"),
        ("root", "mkfs_root"),
        ("var", "mkfs_var"),
        ("var_log", "mkfs_var_log"),
        ("swap", "mkfs_swap"),
        ("mount_mkfs_root", "mount_mkfs_var"),
        ("mount_mkfs_var", "mount_mkfs_var_log"),
    ] {
        assert!(place(before) < place(after), "{before}, {after}: {order:?}");
    }
    // A physical volume may be a whole disk.
    let whole = "- local_loop: {name: image0}\n- lvm: {name: lvm, pvs: [{name: pv, base: image0}], \
                 vgs: [{name: vg, base: [pv]}], lvs: [{name: lv, base: vg, size: 1G}]}\n";
    assert_eq!(
        parse(whole).unwrap().order,
        ["image0", "lvm", "pv", "vg", "lv"]
    );
}

#[test]
fn nodes_are_ordered_as_upstream_orders_them() {
    let deep = [
        "image0",
        "root",
        "mkfs_root",
        "mount_mkfs_root",
        "fstab_mount_mkfs_root",
    ];
    assert_eq!(order(DEEP_TREE), deep);
    assert_eq!(order(DEEP_GRAPH), deep);
    assert_eq!(
        order(MULTIPLE_PARTITIONS),
        [
            "image0",
            "root",
            "mkfs_root",
            "var",
            "mount_mkfs_root",
            "mkfs_var",
            "var_log",
            "fstab_mount_mkfs_root",
            "mount_mkfs_var",
            "mkfs_var_log",
            "swap",
            "fstab_mount_mkfs_var",
            "mount_mkfs_var_log",
            "mkfs_swap",
            "fstab_mount_mkfs_var_log",
            "mount_mkfs_swap",
            "fstab_mount_mkfs_swap",
        ]
    );
    assert_eq!(
        order(GPT_EFI),
        [
            "image0",
            "ESP",
            "mkfs_ESP",
            "BSP",
            "Root Part",
            "mkfs_Root Part",
            "mount_mkfs_Root Part",
            "mount_mkfs_ESP",
            "fstab_mount_mkfs_Root Part",
            "fstab_mount_mkfs_ESP",
        ]
    );
    assert_eq!(
        order(
            "- local_loop:\n    name: image0\n    partitioning:\n      label: mbr\n      partitions:\n\
             \x20       - {name: r, size: 100%, mkfs: {type: ext4, mount: {mount_point: /}}}\n"
        ),
        ["image0", "r", "mkfs_r", "mount_mkfs_r"]
    );
    assert_eq!(
        order(
            "- local_loop: {name: image0}\n\
             - partitioning:\n    base: image0\n    label: mbr\n    partitions:\n\
             \x20     - name: r\n        size: 1G\n        lvm:\n\
             \x20         pvs: [{name: pv, base: r}]\n          vgs: [{name: vg, base: [pv]}]\n\
             \x20         lvs: [{name: lv, base: vg, size: 100M}]\n"
        ),
        ["image0", "r", "lvm_r", "pv", "vg", "lv"]
    );
    let lvm = parse(LVM_TREE).unwrap();
    assert_eq!(lvm.lvms[0].name, "lvm_mbr");
    let listed = parse(&LVM_TREE.replace("base: mbr", "name: lvm_mbr\n    base: [root]")).unwrap();
    assert_eq!((listed.order, &listed.lvms), (lvm.order.clone(), &lvm.lvms));
    let place = |name: &str| lvm.order.iter().position(|have| have == name).unwrap();
    for (before, after) in [
        ("root", "lvm_mbr"),
        ("pv", "vg"),
        ("vg", "lv_root"),
        ("lv_root", "fs_root"),
    ] {
        assert!(place(before) < place(after), "{:?}", lvm.order);
    }
}

#[test]
fn values_for_hooks_are_those_of_upstream() {
    let config = parse(MULTIPLE_PARTITIONS).unwrap();
    assert_eq!(config.root_label().unwrap(), "img-rootfs");
    assert_eq!(config.root_fstype().unwrap(), "xfs");
    assert_eq!(config.boot_label(), "");
    assert_eq!(config.mount_points(), "/|/var|/var/log|none");
    assert_eq!(
        config.fstab(),
        "LABEL=img-rootfs / xfs defaults 0 1\n\
         LABEL=mkfs_var /var xfs defaults 0 1\n\
         LABEL=VARLOG /var/log vfat defaults 0 1\n\
         LABEL=mkfs_swap none swap sw 0 0\n"
    );

    let config = parse(GPT_EFI).unwrap();
    assert_eq!(config.root_label().unwrap(), "mkfs_Root Part");
    assert_eq!(config.root_fstype().unwrap(), "ext4");
    assert_eq!(config.mount_points(), "/boot/efi|/");
    // Upstream leaves the space as it is, and so breaks the line.
    assert_eq!(
        config.fstab(),
        "LABEL=mkfs_Root\\040Part / ext4 defaults 0 1\n\
         LABEL=MKFS_ESP /boot/efi vfat defaults 0 1\n"
    );

    let config = parse(LVM_TREE).unwrap();
    assert_eq!(
        config.fstab(),
        "LABEL=img-rootfs / ext4 noacl,errors=remount-ro 0 1\nLABEL=mkfs_lv_swap none swap sw 0 0\n"
    );
    assert!(config.warnings.is_empty());
}

#[test]
fn values_are_found_by_their_symbols() {
    let config = parse(MULTIPLE_PARTITIONS).unwrap();
    for (symbol, value) in [
        ("root-label", "img-rootfs"),
        ("root-fstype", "xfs"),
        ("boot-label", ""),
        ("mount-points", "/|/var|/var/log|none"),
    ] {
        assert_eq!(config.getval(symbol).unwrap(), value);
    }
    assert_eq!(
        config.getval("image-path").unwrap_err().to_string(),
        "there is no value `image-path`: use root-label, root-fstype, boot-label or mount-points"
    );
    let bare = parse("- local_loop: {name: l}").unwrap();
    assert_eq!(
        bare.getval("root-label").unwrap_err().to_string(),
        "no filesystem is mounted at `/`: add a `mount` with mount_point `/`"
    );
}

#[test]
fn the_order_of_mounts_is_that_of_their_paths() {
    let text = "
- local_loop: {name: image0}
- partitioning:
    base: image0
    label: mbr
    partitions:
      - name: boot
        flags: [boot, primary]
        size: 1G
        mkfs: {type: ext3, mount: {mount_point: /boot, fstab: {options: 'nodev,nosuid', fsck-passno: 2}}}
      - {name: root, flags: [primary], size: 3G}
- lvm:
    base: mbr
    name: lvm
    pvs: [{name: pv, base: root}]
    vgs: [{name: vg, base: [pv]}]
    lvs:
      - {name: lv_root, base: vg, size: 1900M}
      - {name: lv_var, base: vg, size: 500M}
      - {name: lv_swap, base: vg, size: 100M}
- mkfs: {name: mkfs_root, base: lv_root, label: img-rootfs, mount: {mount_point: /, fstab: {options: 'noacl,errors=remount-ro', fsck-passno: 1}}}
- mkfs: {name: mkfs_var, base: lv_var, type: ext4, mount: {mount_point: /var, fstab: {options: noacl, fsck-passno: 2}}}
- mkfs: {name: mkfs_swap, base: lv_swap, type: swap, mount: {mount_point: none, fstab: {options: sw, fsck-passno: 0}}}
";
    let config = parse(text).unwrap();
    let order: Vec<&str> = config
        .sorted_mounts()
        .iter()
        .map(|mount| mount.mount_point.as_str())
        .collect();
    assert_eq!(order, ["/", "/boot", "/var", "none"]);
    assert_eq!(config.boot_label(), "mkfs_boot");
    assert_eq!(config.mount_points(), "/boot|/|/var|none");
    assert_eq!(
        config.fstab(),
        "LABEL=img-rootfs / ext4 noacl,errors=remount-ro 0 1\n\
         LABEL=mkfs_boot /boot ext3 nodev,nosuid 0 2\n\
         LABEL=mkfs_var /var ext4 noacl 0 2\n\
         LABEL=mkfs_swap none swap sw 0 0\n"
    );
    // It is the same place, however it is written.
    for written in ["/boot/", "//boot"] {
        let text = text.replace("/boot,", &format!("{written},"));
        let config = parse(&text).unwrap();
        assert_eq!(config.boot_label(), "mkfs_boot");
        let holding = |path| config.mkfs_holding(path).map(|mkfs| mkfs.name.as_str());
        assert_eq!(holding("/boot/grub"), Some("mkfs_boot"));
        assert_eq!(holding("/var/log"), Some("mkfs_var"));
        let line = format!("LABEL=mkfs_boot {written} ext3 nodev,nosuid 0 2\n");
        assert!(config.fstab().contains(&line));
    }
}

#[test]
fn build_parameters_apply_to_mkfs_root_where_it_says_nothing() {
    let fallback = parse(FALLBACK).unwrap();
    assert_eq!(
        fallback.fstab(),
        "LABEL=cloudimg-rootfs / ext4 defaults 0 1\n"
    );
    let root = RootParameters {
        fstype: "xfs".to_owned(),
        defaults: Some("-K".to_owned()),
        opts: Some("-i  size=512 -q".to_owned()),
        label: None,
    };
    let xfs = Config::parse(FALLBACK, &root).unwrap();
    assert_eq!(xfs.mkfs[0].label, "img-rootfs");
    assert_eq!(xfs.mkfs[0].opts, ["-K", "-i", "size=512", "-q"]);
    let labelled = RootParameters {
        label: Some("mine".to_owned()),
        ..root
    };
    assert_eq!(
        Config::parse(FALLBACK, &labelled).unwrap().mkfs[0].label,
        "mine"
    );
    // What the configuration says stays.
    let deep = Config::parse(DEEP_TREE, &labelled).unwrap();
    assert_eq!(
        (deep.mkfs[0].fstype.as_str(), deep.mkfs[0].label.as_str()),
        ("ext4", "mine")
    );
    // Defaults are for the type that they were made for.
    assert_eq!(deep.mkfs[0].opts, ["-i", "size=512", "-q"]);
    // Other filesystems are not touched.
    let efi = Config::parse(GPT_EFI, &labelled).unwrap();
    assert!(
        efi.mkfs
            .iter()
            .all(|mkfs| mkfs.opts.is_empty() && mkfs.label != "mine")
    );
}
