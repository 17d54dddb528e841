//! What takes the space in a target: the report of `DIB_SHOW_IMAGE_USAGE`.

use std::cmp::Reverse;

use crate::tree::Tree;

/// Smallest entry of the short report, in bytes.
const LARGE: u64 = 10 << 20;

/// Lines of the report: files and directories with all that is in them, largest
/// first; those of 10 MiB and more unless it is to be `full`. As with `du`, a file
/// with several names counts at the first of them.
pub fn report(tree: &Tree, full: bool) -> Vec<String> {
    let mut used = vec![0_u64; tree.nodes().len()];
    let mut counted = vec![false; tree.inodes().len()];
    for (id, node) in tree.nodes() {
        if !std::mem::replace(&mut counted[node.inode.index()], true) {
            used[id.index()] = tree.allocated(node.inode);
        }
    }
    // Children come after their parents.
    let parents: Vec<_> = tree.nodes().map(|(_, node)| node.parent).collect();
    for (at, parent) in parents.iter().enumerate().skip(1).rev() {
        used[parent.index()] = used[parent.index()].saturating_add(used[at]);
    }
    let mut entries: Vec<_> = tree
        .nodes()
        .map(|(id, _)| (used[id.index()], id))
        .filter(|(bytes, _)| full || *bytes >= LARGE)
        .collect();
    entries.sort_by_key(|&(bytes, id)| (Reverse(bytes), id));
    let title = if full {
        "Image size report"
    } else {
        "Image size report (files > 10MiB)"
    };
    let mut lines = vec![title.to_owned()];
    lines.extend(
        entries
            .into_iter()
            .map(|(bytes, id)| format!("{:>7} {}", size(bytes), tree.path(id).display())),
    );
    lines.push("===== end image size report =====".to_owned());
    lines
}

/// `512B`, `1.5MiB`, `12GiB`: rounded up, with one digit after the point below 10.
fn size(bytes: u64) -> String {
    let units = [
        (1_u64 << 40, "TiB"),
        (1 << 30, "GiB"),
        (1 << 20, "MiB"),
        (1 << 10, "KiB"),
    ];
    let Some((unit, name)) = units.into_iter().find(|(unit, _)| bytes >= *unit) else {
        return format!("{bytes}B");
    };
    let tenths = (u128::from(bytes) * 10).div_ceil(u128::from(unit));
    if tenths < 100 {
        format!("{}.{}{name}", tenths / 10, tenths % 10)
    } else {
        format!("{}{name}", bytes.div_ceil(unit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Inode, TreeBuilder};

    #[test]
    fn directories_count_with_what_is_in_them_and_links_once() {
        let mut builder = TreeBuilder::new();
        let large = |size: usize| Inode::file(vec![0; size << 20], 0o644);
        builder.insert("/usr/share/large", large(11)).unwrap();
        builder
            .hard_link("/var/second", "/usr/share/large")
            .unwrap();
        builder.insert("/srv/large", large(13)).unwrap();
        builder
            .insert("/etc/small", Inode::file(*b"x", 0o644))
            .unwrap();
        let tree = builder.build().unwrap();
        let short = report(&tree, false);
        let paths: Vec<&str> = short
            .iter()
            .filter_map(|line| line.trim_start().split_once("MiB "))
            .map(|(_, path)| path)
            .collect();
        assert_eq!(
            paths,
            [
                "/",
                "/srv",
                "/srv/large",
                "/usr",
                "/usr/share",
                "/usr/share/large"
            ],
            "{short:#?}"
        );
        assert_eq!(short[0], "Image size report (files > 10MiB)");
        assert_eq!(short[short.len() - 1], "===== end image size report =====");
        let full = report(&tree, true);
        assert_eq!(full[0], "Image size report");
        assert_eq!(full.len(), tree.nodes().len() + 2);
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, expected) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.0KiB"),
            (1025, "1.1KiB"),
            (10 << 20, "10MiB"),
            ((10 << 20) + 1, "11MiB"),
            ((1 << 40) - 1, "1024GiB"),
        ] {
            assert_eq!(size(bytes), expected, "{bytes}");
        }
    }
}
