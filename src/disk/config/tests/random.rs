//! Configurations by chance.

use super::*;

/// Names that configurations are made of.
const KEYS: [&str; 16] = [
    "local_loop",
    "partitioning",
    "lvm",
    "mkfs",
    "mount",
    "fstab",
    "name",
    "base",
    "label",
    "partitions",
    "size",
    "flags",
    "type",
    "pvs",
    "vgs",
    "lvs",
];

/// Text that is likely to be a configuration, with mistakes.
fn any_config() -> impl Strategy<Value = String> {
    let word = prop::sample::select(
        [
            &KEYS[..],
            &[
                "options", "extents", "mbr", "gpt", "image0", "100%", "1G", "boot", "primary",
                "ext4", "swap", "/", "none", "[", "]", "{", "}", ":", ",", "-", "\n", "\n- ",
                "\n  ", "\n    ", "&a", "*a", "<<", "~", "0x83",
            ],
        ]
        .concat(),
    );
    prop::collection::vec(word, 0..60).prop_map(|words| words.join(" "))
}

/// A value of the shapes that configurations have.
fn any_value() -> impl Strategy<Value = Value> {
    let key = prop::sample::select([&KEYS[..], &["mount_point", "align"]].concat());
    let leaf = prop_oneof![
        Just(Value::Null),
        prop::sample::select(vec![
            "image0", "mbr", "gpt", "a", "b", "100%", "1G", "boot", "primary", "ext4", "vfat",
            "swap", "/", "/var", "none", "83", "EF00",
        ])
        .prop_map(Value::text),
    ];
    leaf.prop_recursive(6, 60, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::List),
            prop::collection::vec((key.clone(), inner), 0..6).prop_map(|pairs| {
                let mut map = yaml::Map::default();
                for (key, value) in pairs {
                    map.set(key, value);
                }
                Value::Map(map)
            }),
        ]
    })
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in prop_oneof![any_config(), "\\PC*".boxed()]) {
        let _ = parse(&text).map(|config| (config.fstab(), config.mount_points()));
    }

    #[test]
    fn arbitrary_values_never_panic(value in any_value(), mib in 0u64..5000) {
        use crate::disk::layout::{Plan, PlanParameters};

        let parameters = PlanParameters {
            seed: uuid::Uuid::nil(),
            arch: "amd64".to_owned(),
            block_size: None,
            creation_time: 0,
        };
        if let Ok(mut items) = flatten(&value) {
            merge_root(&mut items, &RootParameters::default());
            let plan = Config::from_items(items).map(|config| Plan::new(config, &parameters));
            if let Ok(Ok(plan)) = plan {
                let tree = std::sync::Arc::new(crate::tree::TreeBuilder::new().build().unwrap());
                let points = plan.mount_points();
                let trees = points.iter().map(|path| ((*path).to_owned(), tree.clone())).collect();
                let _ = (plan.facts(), plan.fstab(), plan.minimum_size());
                let _ = plan.assemble(mib << 20, &trees, None, &mut |_, _, length| {
                    Ok(crate::disk::Volume { length, extents: Vec::new() })
                });
            }
        }
    }
}
