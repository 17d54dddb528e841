//! Files that a build writes: names, older ones, sizes, equal bytes.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use kiln::build::event::Event;
use sha2::{Digest as _, Sha256};

use crate::common::toy::{GPT, Toy};
use crate::common::{Run as _, tool};
use crate::skip;

fn digest(path: &Path) -> String {
    let mut hash = Sha256::new();
    let mut file = fs::File::open(path).expect("the output is there");
    std::io::copy(&mut file, &mut Writer(&mut hash)).expect("the output can be read");
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

struct Writer<'a>(&'a mut Sha256);

impl std::io::Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_same_build_gives_the_same_bytes_in_memory_and_on_disk_and_with_one_thread() {
    let mut toy = Toy::full();
    toy.world.set("DIB_BLOCK_DEVICE_CONFIG", GPT);
    let mut seen = Vec::new();
    for arguments in ["", "", "--no-tmpfs", "--jobs 1"] {
        toy.build(&format!("-t raw,qcow2,tar --extra-size 64 {arguments}"))
            .success();
        let digests: Vec<String> = ["raw", "qcow2", "tar"]
            .iter()
            .map(|suffix| digest(&toy.output(suffix)))
            .collect();
        for name in toy.outputs() {
            fs::remove_file(toy.world.work().join(name)).expect("an output can be removed");
        }
        seen.push((arguments, digests));
    }
    let (_, first) = &seen[0];
    for (arguments, digests) in &seen[1..] {
        assert_eq!(digests, first, "raw, qcow2, tar with {arguments:?}");
    }
}

#[test]
fn the_root_filesystem_keeps_room_for_as_much_growth_as_is_asked_for() {
    if tool("dumpe2fs").is_none() {
        skip!("dumpe2fs is not installed");
    }
    let toy = Toy::full();
    let kept = |arguments: &str| -> u32 {
        toy.build(&format!("-t raw --extra-size 64 {arguments}"))
            .success();
        let mut dump = toy.world.command(tool("dumpe2fs").expect("looked for"));
        let said = dump.arg("-h").arg(toy.output("raw")).run().success();
        let line = said
            .lines()
            .find_map(|line| line.strip_prefix("Reserved GDT blocks:"));
        line.map_or(0, |number| number.trim().parse().expect("a number"))
    };
    // A group has 32768 blocks, and a block 64 descriptors of 64 bytes.
    let few = kept("--max-online-resize 20000000");
    let many = kept("--max-online-resize 1000000000");
    assert!((9..=11).contains(&few), "{few}");
    assert!((470..=480).contains(&many), "{many}");
}

/// Disks besides the first, of which one has a directory of its own.
fn further_disks(directory: &Path) -> String {
    format!(
        "{GPT}- local_loop: {{name: data, size: 16MiB}}\n\
         - mkfs: {{name: srv, base: data, type: ext4, mount: {{mount_point: /srv, fstab: {{}}}}}}\n\
         - local_loop: {{name: opt0, size: 16MiB, directory: {}}}\n\
         - mkfs: {{name: opt, base: opt0, type: ext4, mount: {{mount_point: /opt, fstab: {{}}}}}}\n",
        directory.display()
    )
}

#[test]
fn a_build_writes_every_disk_and_checks_first_that_it_can() {
    let mut toy = Toy::full();
    let elsewhere = toy.world.tmp().join("elsewhere");
    let layout = further_disks(&elsewhere);
    toy.world.set("DIB_BLOCK_DEVICE_CONFIG", &layout);
    let built = toy.build("-t qcow2,raw --checksum --extra-size 64");
    let (message, hints, _) = built.failure();
    assert!(
        message.contains("elsewhere` for the disk `opt0` cannot be written to"),
        "{message}"
    );
    assert!(
        hints.iter().any(|hint| hint.contains("`directory`")),
        "{hints:?}"
    );
    assert!(toy.outputs().is_empty());

    fs::create_dir(&elsewhere).expect("made");
    toy.build("-t qcow2,raw --checksum --extra-size 64")
        .success();
    let mut wanted = Vec::new();
    for file in ["toy-data.qcow2", "toy-data.raw", "toy.qcow2", "toy.raw"] {
        wanted.extend(["", ".md5", ".sha256"].map(|end| format!("{file}{end}")));
    }
    let mut found = toy.outputs();
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted);
    let length = |path: &Path| fs::metadata(path).expect("there").len();
    assert_eq!(length(&toy.world.work().join("toy-data.raw")), 16 << 20);
    assert_eq!(length(&elsewhere.join("opt0.raw")), 16 << 20);
    assert!(elsewhere.join("opt0.raw.sha256").is_file());
    fs::remove_dir_all(&elsewhere).expect("removed");
}

#[test]
fn an_element_opens_no_directory_of_the_host_to_hooks() {
    let toy = Toy::full();
    let elsewhere = toy.world.tmp().join("elsewhere");
    fs::create_dir(&elsewhere).expect("made");
    toy.file("toy/block-device-default.yaml", &further_disks(&elsewhere));
    let (message, hints, _) = toy.build("-t raw --extra-size 64").failure();
    assert!(
        message.contains("an element wants the disk `opt0` in"),
        "{message}"
    );
    assert!(
        hints
            .iter()
            .any(|hint| hint.contains("`DIB_BLOCK_DEVICE_CONFIG`")),
        "{hints:?}"
    );
    assert!(toy.outputs().is_empty());
    fs::remove_dir_all(&elsewhere).expect("removed");
}

#[test]
fn another_build_of_another_place_gives_the_same_bytes() {
    let digests: Vec<String> = (0..2)
        .map(|_| {
            let mut toy = Toy::basic();
            toy.world.set("DIB_BLOCK_DEVICE_CONFIG", GPT);
            toy.build("-t raw --extra-size 64").success();
            digest(&toy.output("raw"))
        })
        .collect();
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn an_existing_output_is_renamed_with_its_checksums_or_replaced_if_asked() {
    let toy = Toy::basic();
    for name in ["toy.tar", "toy.tar.md5", "toy.tar.sha256"] {
        toy.world.write(name, "older");
    }
    let built = toy.build("-t tar --checksum").success();
    let names = toy.outputs();
    assert_eq!(names.len(), 6, "{names:?}");
    let kept: Vec<&String> = names
        .iter()
        .filter(|name| name.starts_with("toy-"))
        .collect();
    assert_eq!(kept.len(), 3, "{names:?}");
    for name in &kept {
        let path = toy.world.work().join(name);
        assert_eq!(fs::read_to_string(path).expect("it is kept"), "older");
    }
    let said = built
        .events
        .iter()
        .any(|event| matches!(event, Event::Info { text } if text.contains(kept[0].as_str())));
    assert!(said, "the new name is not told");
    Toy::build(&toy, "-t tar --overwrite").success();
    assert_eq!(
        toy.outputs()
            .iter()
            .filter(|name| name.starts_with("toy-"))
            .count(),
        3
    );
}

#[test]
fn checksum_files_are_those_of_md5sum_and_sha256sum() {
    let toy = Toy::basic();
    toy.build("-t tar,qcow2,raw --checksum").success();
    for suffix in ["tar", "qcow2", "raw"] {
        for (kind, program) in [("md5", "md5sum"), ("sha256", "sha256sum")] {
            let checksum = format!("toy.{suffix}.{kind}");
            let said = toy
                .world
                .command(program)
                .args(["-c", &checksum])
                .run()
                .success();
            assert_eq!(said, format!("toy.{suffix}: OK\n"), "{checksum}");
        }
    }
}

#[test]
fn an_image_that_is_asked_to_be_too_small_is_an_error_with_sizes_and_no_output() {
    let mut toy = Toy::basic();
    toy.world.set("DIB_BLOCK_DEVICE_CONFIG", GPT);
    // 200 MB that do not compress into holes, into 0.1 GiB.
    toy.hook(
        "install",
        "10-large",
        "head -c 200000000 /dev/zero | tr '\\0' k >/home/large",
    );
    let (message, hints, status) = toy.build("-t raw,qcow2 --image-size 0.1").failure();
    assert_eq!(status, 1);
    let numbers = message
        .split(|c: char| !c.is_ascii_digit())
        .filter(|n| !n.is_empty())
        .count();
    assert!(
        numbers >= 2,
        "what is needed and what is there should be told: {message}"
    );
    assert!(
        hints.iter().any(|hint| hint.contains("--image-size")),
        "{hints:?}"
    );
    assert_eq!(toy.outputs(), Vec::<String>::new());
    toy.assert_swept();
}

#[test]
fn the_image_has_the_size_that_was_asked_for() {
    let toy = Toy::basic();
    let built = toy.build("-t raw,qcow2 --image-size 1").success();
    let raw = fs::metadata(toy.output("raw")).expect("it is written");
    assert_eq!(raw.len(), 1 << 30);
    // A hole takes no space.
    assert!(raw.blocks() * 512 < 200 << 20, "{} blocks", raw.blocks());
    for event in &built.events {
        if let Event::OutputWritten {
            path,
            format,
            virtual_size,
            file_size,
            disk_size,
        } = event
        {
            let meta = fs::metadata(toy.world.work().join(path)).expect("it is written");
            assert_eq!(
                (*virtual_size, *file_size),
                (1 << 30, meta.len()),
                "{format}"
            );
            assert!(
                *disk_size <= meta.len().max(meta.blocks() * 512),
                "{format}"
            );
        }
    }
}

#[test]
fn an_extra_size_is_what_is_added_to_the_content() {
    let sizes: Vec<u64> = [100, 150]
        .iter()
        .map(|extra| {
            let toy = Toy::basic();
            toy.build(&format!("-t raw --extra-size {extra}")).success();
            fs::metadata(toy.output("raw"))
                .expect("it is written")
                .len()
        })
        .collect();
    assert_eq!(sizes[1] - sizes[0], 50 << 20, "{sizes:?}");
}

#[test]
fn an_output_name_may_have_a_directory_and_dots() {
    let toy = Toy::basic();
    fs::create_dir(toy.world.work().join("sub")).expect("a directory can be made");
    let mut command = toy.world.kiln();
    command.args([
        "build",
        "toy",
        "-n",
        "-t",
        "tar,raw",
        "-o",
        "sub/v1.2 final",
    ]);
    let said = command.run().success();
    for suffix in ["tar", "raw"] {
        let name = format!("sub/v1.2 final.{suffix}");
        assert!(toy.world.work().join(&name).is_file(), "{name}");
        assert!(said.contains(&name), "{said}");
    }
}

#[test]
fn outputs_belong_to_the_caller() {
    let toy = Toy::basic();
    toy.build("-t tar,raw,qcow2").success();
    for suffix in ["tar", "raw", "qcow2"] {
        let meta = fs::metadata(toy.output(suffix)).expect("it is written");
        let own = (
            nix::unistd::geteuid().as_raw(),
            nix::unistd::getegid().as_raw(),
        );
        assert_eq!((meta.uid(), meta.gid()), own, "{suffix}");
        assert_eq!(meta.mode() & 0o7777, 0o644, "{suffix}");
    }
}

#[test]
fn an_uncompressed_qcow2_is_larger_and_equal_in_content() {
    if tool("qemu-img").is_none() {
        skip!("qemu-img is not installed");
    }
    let toy = Toy::full();
    toy.build("-t qcow2,raw").success();
    let small = fs::metadata(toy.output("qcow2"))
        .expect("it is written")
        .len();
    toy.build("-t qcow2 -u --overwrite").success();
    let large = fs::metadata(toy.output("qcow2"))
        .expect("it is written")
        .len();
    assert!(large > small, "{large} is not more than {small}");
    let compare = toy
        .world
        .command("qemu-img")
        .words("compare -f qcow2 -F raw toy.qcow2 toy.raw");
    compare.success();
    toy.world
        .command("qemu-img")
        .words("check -f qcow2 toy.qcow2")
        .success();
}

#[test]
fn an_output_that_cannot_be_written_is_told_with_its_path_and_leaves_nothing() {
    let toy = Toy::basic();
    fs::create_dir(toy.output("tar")).expect("a directory can be made");
    let (message, _, status) = toy.build("-t tar,raw").failure();
    assert_eq!(status, 1);
    assert!(message.contains("toy.tar"), "{message}");
    assert_eq!(toy.outputs(), ["toy.tar"]);
    toy.assert_swept();
}

#[test]
fn no_final_image_runs_the_hooks_and_writes_no_image() {
    let toy = Toy::basic();
    toy.file("no-final-image/README.rst", "Nothing.\n");
    toy.file("toy/element-deps", "no-final-image\n");
    toy.hook("cleanup", "90-own-image", "echo the hooks ran to the end");
    let built = toy.build("-t qcow2,raw").success();
    let lines = built.lines().join("\n");
    assert!(lines.contains("the hooks ran to the end"), "{lines}");
    let outputs = toy.outputs();
    let images = outputs
        .iter()
        .filter(|name| name.ends_with(".qcow2") || name.ends_with(".raw"));
    assert_eq!(images.count(), 0, "{outputs:?}");
}
