//! Roots that are made of images, by `extract-image`.

use kiln::build::event::Event;

use crate::common::image::missing;
use crate::common::listing::{differences, listing_of};
use crate::common::toy::{GPT, Toy};
use crate::skip;

/// The layout with `/boot` on a filesystem of its own.
fn layout() -> String {
    let boot = "
      - name: boot
        type: '8300'
        size: 64MiB
        mkfs:
          type: ext4
          label: boot
          mount:
            mount_point: /boot
            fstab:
              options: defaults
              fsck-passno: 2
      - name: root
";
    GPT.replacen("\n      - name: root\n", boot, 1)
}

#[test]
fn a_root_made_of_an_image_is_the_one_that_was_packed() {
    if let Some(name) = missing(&["tar"]) {
        skip!("{name} is not installed");
    }
    let mut toy = Toy::full();
    toy.hook(
        "root",
        "30-boot",
        "cd $TARGET_ROOT\nmkdir -p boot/efi\necho kernel >boot/vmlinuz\n\
         head -c 12M /dev/zero | tr '\\0' x >opt/large",
    );
    toy.world.set("DIB_BLOCK_DEVICE_CONFIG", layout());
    toy.world.set("DIB_SHOW_IMAGE_USAGE", "1");
    toy.build("sysprep -t qcow2,tar").success();
    let work = toy.world.work();
    let (image, archive) = (work.join("base.qcow2"), work.join("base.tar"));
    std::fs::rename(toy.output("qcow2"), &image).expect("renamed");
    std::fs::rename(toy.output("tar"), &archive).expect("renamed");

    let call = format!(
        "$TMP_HOOKS_PATH/bin/extract-image base.qcow2 base.tgz file://{} \
         $DIB_IMAGE_CACHE/base.qcow2",
        image.display()
    );
    toy.hook("root", "10-toy", &call);
    for done in ["20-variety", "30-boot"] {
        toy.hook("root", done, "true");
    }
    let built = toy.build("sysprep -t tar").success();
    let (before, mut after) = (listing_of(&archive), listing_of(&toy.output("tar")));
    // Made by mkfs, not by elements.
    after.retain(|path, _| !path.contains("lost+found"));
    assert!(after.len() > 3000, "{}", after.len());
    let differences = differences(&before, &after);
    assert!(differences.is_empty(), "{}", differences.join("\n"));

    // The same build says what takes the space.
    let lines: Vec<&str> = built
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Info { text } => Some(text.as_str()),
            _ => None,
        })
        .collect();
    let at = |line: &str| {
        let place = lines.iter().position(|one| *one == line);
        place.unwrap_or_else(|| panic!("no {line:?} in {lines:#?}"))
    };
    let report = &lines
        [at("Image size report (files > 10MiB)") + 1..at("===== end image size report =====")];
    assert!(report[0].ends_with("MiB /"), "{report:#?}");
    assert!(
        report.iter().any(|line| line.ends_with("MiB /opt/large")),
        "{report:#?}"
    );
    toy.assert_swept();
}
