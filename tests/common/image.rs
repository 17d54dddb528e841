//! Looks into images with the tools of others.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::{Outcome, Run as _, World, tool};

/// Runs a tool of the host in a world.
pub fn run(world: &World, name: &str, arguments: &str) -> Outcome {
    let program = tool(name).unwrap_or_else(|| panic!("{name} is not installed"));
    world.command(program).words(arguments)
}

/// The first of these tools that is missing.
pub fn missing(tools: &[&'static str]) -> Option<&'static str> {
    tools.iter().copied().find(|name| tool(name).is_none())
}

/// A partition as `sfdisk --json` describes it; bytes.
#[derive(Debug)]
pub struct Partition {
    /// Where it begins.
    pub start: u64,
    /// How long it is.
    pub length: u64,
    /// Its type, as its table says it.
    pub kind: String,
    /// Whether it is the active one of an MBR.
    pub bootable: bool,
}

/// The kind of partition table, and the partitions.
pub fn partitions(world: &World, image: &str) -> (String, Vec<Partition>) {
    let text = run(world, "sfdisk", &format!("--json {image}")).success();
    let json: serde_json::Value = serde_json::from_str(&text).expect("sfdisk prints JSON");
    let table = &json["partitiontable"];
    let sector = table["sectorsize"].as_u64().unwrap_or(512);
    let list = table["partitions"]
        .as_array()
        .expect("there are partitions");
    let parts = list
        .iter()
        .map(|part| Partition {
            start: part["start"].as_u64().expect("a number") * sector,
            length: part["size"].as_u64().expect("a number") * sector,
            kind: part["type"].as_str().expect("a type").to_owned(),
            bootable: part["bootable"].as_bool().unwrap_or(false),
        })
        .collect();
    (table["label"].as_str().expect("a label").to_owned(), parts)
}

/// Copies a partition into a file of its own, so that any tool can read it.
pub fn extract(world: &World, image: &Path, partition: &Partition, name: &str) -> PathBuf {
    let from = File::open(image).expect("the image is there");
    let path = world.work().join(name);
    let to = File::create(&path).expect("a file can be made");
    to.set_len(partition.length).expect("a size can be set");
    let mut buffer = vec![0; 1 << 20];
    let mut done = 0;
    while done < partition.length {
        let want = usize::try_from((partition.length - done).min(1 << 20)).expect("it is small");
        from.read_exact_at(&mut buffer[..want], partition.start + done)
            .expect("the image is long enough");
        if buffer[..want].iter().any(|&byte| byte != 0) {
            to.write_all_at(&buffer[..want], done)
                .expect("it can be written");
        }
        done += want as u64;
    }
    path
}

/// e2fsck finds nothing, without a word of complaint.
pub fn assert_clean(world: &World, filesystem: &str) {
    let outcome = run(world, "e2fsck", &format!("-fn {filesystem}"));
    assert_eq!(outcome.code(), 0, "{}\n{}", outcome.stdout, outcome.stderr);
    for word in ["Fix?", "WARNING", "warning", "should be", "optimi"] {
        assert!(
            !outcome.stdout.contains(word),
            "{word}:\n{}",
            outcome.stdout
        );
    }
}

/// Runs one command of debugfs.
pub fn debugfs(world: &World, filesystem: &str, command: &str) -> String {
    let program = tool("debugfs").expect("it is installed");
    let outcome = world
        .command(program)
        .args(["-R", command, filesystem])
        .run();
    outcome.success()
}
