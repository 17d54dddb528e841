//! Outputs for containers and squashfs: what holds the tree without a disk.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::common::toy::{Built, Toy};
use crate::common::{Run as _, tool};
use crate::skip;

/// The regular members of an archive.
fn members(path: &std::path::Path) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(fs::File::open(path).expect("it is there"));
    archive
        .entries()
        .expect("an archive")
        .map(|entry| entry.expect("a member"))
        .filter(|entry| entry.header().entry_type().is_file())
        .map(|mut entry| {
            let name = entry.path().expect("a name").display().to_string();
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).expect("it can be read");
            (name, bytes)
        })
        .collect()
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("JSON")
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Follows a descriptor; checks digest and size.
#[track_caller]
fn blob<'a>(members: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
    let name = descriptor["digest"].as_str().expect("a digest");
    let name = name.strip_prefix("sha256:").expect("SHA-256");
    let bytes = &members[&format!("blobs/sha256/{name}")];
    assert_eq!(digest(bytes), name);
    assert_eq!(descriptor["size"], bytes.len() as u64);
    bytes
}

#[test]
fn docker_and_oci_archives_hold_one_layer_with_the_tree_and_agree_with_themselves() {
    let toy = Toy::full();
    toy.build("-t docker,oci,tar -a amd64").success();
    for (suffix, docker) in [("docker", true), ("oci", false)] {
        let members = members(&toy.output(suffix));
        assert_eq!(json(&members["oci-layout"])["imageLayoutVersion"], "1.0.0");
        let index = json(&members["index.json"]);
        let entry = &index["manifests"][0];
        assert_eq!(entry["platform"]["architecture"], "amd64");
        assert_eq!(
            entry["annotations"]["io.containerd.image.name"],
            "docker.io/library/toy:latest"
        );
        let manifest = json(blob(&members, entry));
        let config = json(blob(&members, &manifest["config"]));
        let layer = blob(&members, &manifest["layers"][0]);
        assert_eq!(
            config["rootfs"]["diff_ids"][0],
            format!("sha256:{}", digest(layer))
        );
        assert_eq!(config["os"], "linux");
        assert_eq!(members.contains_key("manifest.json"), docker);
        if docker {
            let list = json(&members["manifest.json"]);
            assert_eq!(list[0]["RepoTags"][0], "toy:latest");
            let layer_name = list[0]["Layers"][0].as_str().expect("a name");
            assert!(members[layer_name] == layer);
        }
        // The layer has what the archive of the tree has, but for /dev, which a
        // container's runtime fills.
        let path = toy.world.work().join("layer.tar");
        fs::write(&path, layer).expect("it can be written");
        let list = |file: &str| {
            let text = toy
                .world
                .command("tar")
                .words(&format!("--numeric-owner -tvf {file}"))
                .success();
            text.lines()
                .filter(|line| !line.contains(" ./dev/") || line.ends_with(" ./dev/"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let expected = list("toy.tar");
        assert!(expected.len() > 3000);
        assert!(list("layer.tar") == expected);
    }
}

#[test]
fn skopeo_and_podman_read_the_archives() {
    let Some(skopeo) = tool("skopeo").or_else(|| tool("podman")) else {
        skip!("neither skopeo nor podman is installed");
    };
    let toy = Toy::basic();
    Built::run(
        toy.command("-t docker,oci --json")
            .env("DOCKER_TARGET", "me/toy:v1"),
    )
    .success();
    if skopeo.ends_with("skopeo") {
        for image in ["docker-archive:toy.docker", "oci-archive:toy.oci"] {
            let text = toy
                .world
                .command(&skopeo)
                .words(&format!("inspect {image}"))
                .success();
            assert!(json(text.as_bytes())["Layers"][0].is_string(), "{text}");
        }
    } else {
        let store = toy.world.home().join("store");
        for (file, expected) in [("toy.docker", "me/toy:v1"), ("toy.oci", "me/toy:v1")] {
            let outcome = toy
                .world
                .command(&skopeo)
                .args(["--root"])
                .arg(&store)
                .args(["--runroot"])
                .arg(store.join("run"))
                .args(["--storage-driver", "vfs", "load", "-i", file])
                .run();
            if outcome.stderr.contains("cannot") && outcome.code() != 0 {
                skip!("podman does not work here: {}", outcome.stderr);
            }
            assert!(outcome.stdout.contains(expected), "{outcome:?}");
        }
    }
}

#[test]
fn an_aci_has_a_manifest_and_the_tree_below_rootfs() {
    let toy = Toy::basic();
    let own = toy.world.write(
        "manifest.json",
        "{\"acKind\":\"ImageManifest\",\"name\":\"own\"}",
    );
    for (given, name) in [(None, "toy"), (Some(own), "own")] {
        let mut command = toy.command("-t aci --overwrite --checksum --json");
        if let Some(path) = given {
            command.env("ACI_MANIFEST", path);
        }
        Built::run(&mut command).success();
        let members = members(&toy.output("aci"));
        let manifest = json(&members["manifest"]);
        assert_eq!(manifest["acKind"], "ImageManifest");
        assert_eq!(manifest["name"], name);
        assert!(members.contains_key("rootfs/etc/passwd"));
        assert!(
            members
                .keys()
                .all(|path| path == "manifest" || path.starts_with("rootfs/"))
        );
        let sum = fs::read_to_string(toy.output("aci.sha256")).expect("it was asked for");
        let bytes = fs::read(toy.output("aci")).expect("it is there");
        assert!(sum.starts_with(&digest(&bytes)), "{sum}");
    }
}

#[test]
fn a_squashfs_holds_the_tree_and_has_dibs_suffix() {
    let toy = Toy::full();
    toy.build("-t squashfs,tar --format-options compression=zstd")
        .success();
    assert!(!toy.output("squashfs").exists());
    let Some(unsquashfs) = tool("unsquashfs") else {
        skip!("unsquashfs is not installed");
    };
    let list = Command::new(unsquashfs)
        .args(["-lln"])
        .arg(toy.output("squash"))
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&list.stdout).into_owned();
    for line in [
        "drwxrwsr-x 33/33",
        "-rw-r--r-- 60000/65534",
        "-rwsr-xr-x 0/0",
        "crw-rw-rw- 0/0                   1,  3",
        "squashfs-root/srv/short-link -> first",
        "squashfs-root/.hidden",
    ] {
        assert!(text.contains(line), "{line}");
    }
}

#[test]
fn the_same_build_gives_the_same_containers() {
    let toy = Toy::basic();
    let all = "docker,oci,aci,squashfs";
    for (directory, jobs) in [("one", "1"), ("two", "4")] {
        fs::create_dir_all(toy.world.work().join(directory)).expect("it can be made");
        toy.build(&format!(
            "-t {all} -o {directory}/a -j {jobs} --overwrite --format-options compression=gzip"
        ))
        .success();
    }
    for suffix in ["docker", "oci", "aci", "squash"] {
        let read = |directory: &str| {
            fs::read(toy.world.work().join(format!("{directory}/a.{suffix}"))).expect("written")
        };
        assert!(read("one") == read("two"), "{suffix}");
    }
}

#[test]
fn wrong_names_and_manifests_are_refused_before_anything_runs() {
    let toy = Toy::basic();
    toy.world.write("bad.json", "{");
    for (name, value, message) in [
        (
            "DOCKER_TARGET",
            "Me:1",
            "`Me:1` is not a name for a container's image",
        ),
        (
            "ACI_MANIFEST",
            "bad.json",
            "the manifest that `ACI_MANIFEST` names is not JSON",
        ),
        (
            "ACI_MANIFEST",
            "absent.json",
            "reading the manifest that `ACI_MANIFEST` names",
        ),
    ] {
        let built = Built::run(toy.command("-t docker,aci --json").env(name, value));
        let (said, hints, status) = built.failure();
        assert!(said.starts_with(message), "{said}");
        assert_eq!((hints.len(), status), (1, 1));
    }
}
