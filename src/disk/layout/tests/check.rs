use super::*;
use crate::disk::layout::fit::Length;
use crate::tree::Timestamp;

/// What is told before there are files is what is told of a tree without any, and nothing
/// that could be made is refused.
#[test]
fn sizes_are_judged_as_they_are_when_the_disk_is_made() {
    let planner = NativePlanner {
        timestamp: Timestamp {
            seconds: 0,
            nanoseconds: 0,
        },
        scratch: std::path::PathBuf::new(),
        lost_found: BTreeMap::new(),
    };
    let ext4 = EFI_LVM.replace("type: xfs", "type: ext4");
    let layouts = [
        MBR.to_owned(),
        EFI.to_owned(),
        LOGICAL.to_owned(),
        ext4,
        EFI.replace("550MiB", "1MiB").replace("vfat", "btrfs"),
        EFI.replace("550MiB", "40MiB"),
        EFI.replace("550MiB", "100%"),
        EFI.replace("550MiB", "99%"),
        MBR.replace("100%", "300MiB"),
        MBR.replace("100%", "0"),
        MBR.replace("{name: image0}", "{name: image0, size: 64MiB}"),
    ];
    let mut refused = [0, 0];
    for text in &layouts {
        let plan = plan(text);
        let mut builder = TreeBuilder::new();
        for path in ["/boot", "/boot/efi", "/var", "/home"] {
            builder
                .insert(path, crate::tree::Inode::directory(0o755))
                .unwrap();
        }
        let tree = Arc::new(builder.build().unwrap());
        for size in [None, Some(MIB), Some(32 * MIB), Some(GIB), Some(64 * GIB)] {
            let length = Length {
                bytes: size.unwrap_or(plan.minimum_size().max(64 * MIB)),
                grow: size.is_none(),
            };
            let made = plan.assemble_tree(length, Arc::clone(&tree), None, &planner);
            let judged = plan.check_sizes(size, &planner);
            refused[usize::from(judged.is_err())] += 1;
            match (&judged, &made) {
                (Err(before), Err(then)) if size.is_some() => {
                    assert_eq!(before.to_string(), then.to_string(), "{text}");
                }
                _ => assert_eq!(judged.is_ok(), made.is_ok(), "{size:?}: {judged:?}\n{text}"),
            }
        }
    }
    assert!(refused[0] > 10 && refused[1] > 10, "{refused:?}");
}
