//! The rules of diskimage-builder, and what kiln adds to them.

use super::*;

#[test]
fn every_rule_of_upstream_has_its_message() {
    let mkfs =
        |settings: &str| format!("- local_loop: {{name: l}}\n- mkfs: {{base: l, {settings}}}\n");
    let table =
        |rest: &str| format!("- local_loop: {{name: l}}\n- partitioning: {{base: l, {rest}}}\n");
    let partition = |label: &str, rest: &str| {
        table(&format!(
            "label: {label}, partitions: [{{name: p, {rest}}}]"
        ))
    };
    let lvm = |rest: &str| format!("- local_loop: {{name: l}}\n- lvm: {{base: l, {rest}}}\n");
    let pvs = "pvs: [{name: pv, base: l}]";
    let vgs = "vgs: [{name: vg, base: [pv]}]";
    let lv = |rest: &str| lvm(&format!("{pvs}, {vgs}, lvs: [{{{rest}}}]"));
    let two_mkfs = |a: &str, b: &str| {
        partition("mbr", "size: 1G").replace("}]}", "}, {name: q, size: 1G}]}")
            + &format!("- mkfs: {{base: p, {a}}}\n- mkfs: {{base: q, {b}}}\n")
    };
    let cases: Vec<(String, &str)> = vec![
        ("- this_is_not_a_plugin_name: {}".into(), "Config entry is not a plugin value: {'this_is_not_a_plugin_name': {}}"),
        ("- luks: {}".into(), "Config entry is not a plugin value: {'luks': {}}"),
        ("- mkfs: {base: a}\n  mount: {base: b}".into(), "Config entry top-level should be a single dict: {'mkfs': {'base': 'a'}, 'mount'"),
        ("- {}".into(), "Config entry top-level should be a single dict: {}"),
        ("- local_loop".into(), "Config entry not a dict: 'local_loop'"),
        ("local_loop: {name: a}".into(), "Config entry not a dict: {'local_loop': {'name': 'a'}}"),
        ("".into(), "the block device configuration is empty"),
        ("[]".into(), "the block device configuration is empty"),
        ("- [}".into(), "the block device configuration is not valid yaml: "),
        ("- mkfs:".into(), "the settings of `mkfs` must be a mapping, but are null"),
        ("- mkfs: {type: ext4}".into(), "a `mkfs` entry needs a `name`, or a `base` from which its name is made"),
        ("- mkfs: {name: x, type: ext4}".into(), "Mkfs config needs [base] (in `x`)"),
        (mkfs("label: x"), "Mkfs config needs [type] (in `mkfs_l`)"),
        (DEEP_GRAPH.replace("base: root,", "base: this_is_not_a_node,"), "Edge not defined: this_is_not_a_node->mkfs_root"),
        ("- local_loop: {name: x}\n- mount: {name: x, base: y, mount_point: /}".into(), "Duplicate node name: x"),
        ("- local_loop: {name: l}\n- mkfs: {name: m, base: m, type: ext4}".into(), "Graph contains a cycle: m depend on each other"),
        (two_mkfs("type: xfs, label: duplicate", "type: xfs, label: duplicate"), "File system label [duplicate] used more than once (by `mkfs_p` and `mkfs_q`)"),
        (two_mkfs("type: vfat, label: a", "type: ext4, label: A"), "File system label [A] used more than once"),
        (mkfs("type: xfs, label: this_label_is_too_long_to_work_with_xfs"), "Label [this_label_is_too_long_to_work_with_xfs] too long for filesystem [xfs]: 39 > 12"),
        (mkfs("type: xfs, label: thirteen_char"), "Label [thirteen_char] too long for filesystem [xfs]: 13 > 12"),
        (mkfs("type: ext4, label: seventeen_letters"), "Label [seventeen_letters] too long for filesystem [ext4]: 17 > 16"),
        (mkfs("type: vfat, label: twelve_chars"), "Label [TWELVE_CHARS] too long for filesystem [vfat]: 12 > 11"),
        (mkfs("type: swap, label: seventeen_letters"), "Label [seventeen_letters] too long for filesystem [swap]"),
        (mkfs("type: {a: b}"), "`type` of `mkfs_l` must be text, but is a mapping"),
        (mkfs("type: ext4, mount: {}"), "MountPoint config needs [mount_point] (in `mount_mkfs_l`)"),
        (mkfs("type: ext4, mount: {mount_point: var}"), "mount point `var` of `mount_mkfs_l` must be an absolute path"),
        (mkfs("type: swap, mount: {mount_point: /}"), "`mkfs_l` is a swap area and holds no files, so it cannot be mounted at `/`"),
        (mkfs("type: ext4, mount: {mount_point: /a/../..}"), "mount point `/a/../..` of"),
        (two_mkfs("type: xfs, mount: {mount_point: /}", "type: xfs, mount: {mount_point: /}"), "Mount point [/] specified more than once"),
        (two_mkfs("type: xfs, mount: {mount_point: /}", "type: xfs, mount: {mount_point: //}"), "Mount point [//] specified more than once"),
        (two_mkfs("type: xfs, mount: {mount_point: /a/b}", "type: xfs, mount: {mount_point: /a//b/}"), "Mount point [/a//b/] specified more than once"),
        ("- local_loop: {name: l}\n- mkfs: {name: a, base: l, type: xfs}\n- mkfs: {name: b, base: l, type: xfs}".into(), "`a` and `b` both use `l`: only one can"),
        ("- local_loop: {name: l}\n- mount: {base: l, mount_point: /}".into(), "the base `l` of `mount_l` is a disk, but must be a filesystem (mkfs)"),
        (mkfs("type: ext4, mount: {mount_point: /, fstab: {fsck-passno: one}}"), "`fsck-passno` of `fstab_mount_mkfs_l` must be a small number, but is `one`"),
        ("- partitioning: {name: p}".into(), "Partitioning config needs 'base' (in `p`)"),
        (table("x: y"), "Partitioning config needs 'label' (in `partitioning_l`)"),
        (table("label: none, partitions: []"), "Label must be 'mbr' or 'gpt'"),
        (table("label: mbr"), "Partitioning config needs 'partitions'"),
        (table("label: mbr, partitions: {a: b}"), "`partitions` of `partitioning_l` must be a list, but is a mapping"),
        (table("label: mbr, partitions: [{size: 1G}]"), "a partition of `partitioning_l` has no `name`"),
        (table("label: mbr, align: 100, partitions: []"), "the align of `partitioning_l` must be a multiple of 512 bytes, but is 100"),
        (partition("mbr", "flags: [boot]"), "partition `p` has no `size`"),
        (partition("mbr", "size: 5k"), "the size of `p` cannot be used: unit_str [k] not known"),
        (partition("mbr", "size: '%'"), "the size of `p` cannot be used: `` is not a number"),
        (partition("mbr", "size: 1G, flags: [grub]"), "Unknown flag: grub"),
        (partition("mbr", "size: 1G, flags: boot"), "`flags` of `p` must be a list, but is a scalar"),
        (partition("gpt", "size: 1G, flags: [primary]"), "Primary flag not supported for GPT partitions (partition `p`)"),
        ("- local_loop: {name: l, block_size: 1024}".into(), "block size `1024` of `l` is not possible: use 512 or 4096"),
        ("- local_loop: {name: ../l}".into(), "`../l` is no name for a disk: its image gets that name"),
        ("- local_loop: {name: l, size: 10%}".into(), "the size of `l` cannot be used: Invalid size unit spec [10%]"),
        (lvm(&format!("{vgs}, lvs: []")), "Lvm config requires a 'pvs'"),
        (lvm(&format!("{pvs}, lvs: []")), "Lvm config needs 'vgs'"),
        (lvm(&format!("{pvs}, {vgs}")), "Lvm config needs 'lvs'"),
        (lvm(&format!("pvs: [{{base: l}}], {vgs}, lvs: []")), "Missing 'name' in pvs config"),
        (lvm(&format!("pvs: [{{name: pv}}], {vgs}, lvs: []")), "Missing 'base' in pvs_config"),
        (lvm(&format!("{pvs}, vgs: [{{base: [pv]}}], lvs: []")), "Missing 'name' in vgs config"),
        (lvm(&format!("{pvs}, vgs: [{{name: vg}}], lvs: []")), "Missing 'base' in vgs config"),
        (lvm(&format!("{pvs}, vgs: [{{name: vg, base: [invalid_pv]}}], lvs: []")), "base:invalid_pv in vgs does not match a valid pvs"),
        (lvm(&format!("{pvs}, vgs: [{{name: vg, base: pv}}], lvs: []")), "`base` of `vg` must be a list, but is a scalar"),
        (lv("name: lv, base: [invalid_vg], size: 1G"), "base:['invalid_vg'] in lvs does not match a valid vg"),
        (lv("name: lv, base: x, size: 1G"), "base:x in lvs does not match a valid vg"),
        (lv("name: lv, base: vg"), "Missing 'size' or 'extents' in lvs config"),
        (lv("name: lv, base: vg, size: 1G, type: thin-pol"), "Unsupported type:thin-pol, supported types: thin, thin-pool"),
    ];
    for (text, expected) in cases {
        let message = message(&text);
        assert!(
            message.starts_with(expected),
            "{text}\n  gives: {message}\n  not: {expected}"
        );
    }
}

#[test]
fn labels_as_long_as_allowed_are_allowed() {
    for (fstype, length) in [
        ("ext4", 16),
        ("xfs", 12),
        ("vfat", 11),
        ("swap", 16),
        ("btrfs", 40),
    ] {
        let label = "a".repeat(length);
        let text = format!(
            "- local_loop: {{name: l}}\n- mkfs: {{base: l, type: {fstype}, label: {label}}}"
        );
        assert!(parse(&text).is_ok(), "{text}");
    }
}

#[test]
fn two_swap_areas_may_have_the_same_mount_point() {
    let text = MULTIPLE_PARTITIONS
        .replace("type: vfat", "type: swap")
        .replace("/var/log", "none");
    let config = parse(&text).unwrap();
    assert!(
        config
            .fstab()
            .ends_with("LABEL=varlog none swap sw 0 0\nLABEL=mkfs_swap none swap sw 0 0\n")
    );
}

#[test]
fn what_would_be_lost_is_warned_about() {
    let text = DEEP_TREE.replace("mount:", "mont:");
    assert_eq!(
        parse(&text).unwrap().warnings,
        ["`mont` of mkfs `mkfs_root` is unknown and ignored"]
    );
    let beside = "- local_loop: {name: l}\n- mkfs: {base: l, type: ext4, fstab: {}, mount: {mount_point: /}}";
    let config = parse(beside).unwrap();
    assert_eq!(config.fstab(), "");
    assert_eq!(
        config.warnings,
        ["fstab `fstab_mkfs_l` has no effect: its base `mkfs_l` is not a mount"]
    );
}
