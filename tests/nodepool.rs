//! `disk-image-create` as nodepool-builder 11 calls it, and what that looks at
//! afterwards.

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use common::image::{missing, run};
use common::toy::{Toy, names};
use md5::Md5;
use sha2::{Digest as _, Sha256};

/// The id that nodepool gives a build.
const IMAGE_ID: &str = "debian-trixie-4be2f6a10e3c4f0d9d0f6b1f3d3f7c11";

/// A toy distribution, and a builder's directories.
struct Builder {
    toy: Toy,
    images: PathBuf,
}

/// The build's log and exit status.
struct Log {
    text: String,
    status: ExitStatus,
}

impl Builder {
    fn new() -> Builder {
        let toy = Toy::basic();
        // nodepool does not switch `base` off.
        toy.file("base/README.rst", "Nothing.\n");
        let images = toy.world.home().join("images");
        fs::create_dir(&images).expect("made");
        Builder { toy, images }
    }

    /// The call, word by word, with its environment and one pipe for both streams.
    fn command(&self, types: &str) -> Command {
        let output = self.images.join(IMAGE_ID);
        let compat = if types.contains("qcow2") {
            "--qemu-img-options 'compat=0.10'"
        } else {
            ""
        };
        let line = format!(
            "-x -t {types} --checksum --no-tmpfs {compat} -o {} toy",
            output.display()
        );
        let mut command = self.toy.world.face("disk-image-create");
        command
            .args(shlex::split(&line).expect("well quoted"))
            .env("DIB_RELEASE", "trixie")
            .env("DIB_IMAGE_NAME", "debian-trixie")
            .env("DIB_IMAGE_FILENAME", &output)
            .env("TOY_VARIABLE", "two words")
            .current_dir("/");
        command
    }

    /// Runs the call; every line of the log goes to `watch` when it arrives.
    fn build(&self, types: &str, mut watch: impl FnMut(&str)) -> Log {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let mut command = self.command(types);
        command
            .stdout(writer.try_clone().expect("cloned"))
            .stderr(writer)
            .stdin(Stdio::null());
        let mut child = command.spawn().expect("started");
        // Its ends of the pipe have to go, or the log never ends.
        drop(command);
        let mut text = String::new();
        let mut lines = BufReader::new(reader);
        loop {
            let start = text.len();
            if lines.read_line(&mut text).expect("text") == 0 {
                break;
            }
            watch(&text[start..]);
        }
        Log {
            text,
            status: child.wait().expect("ended"),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut file = fs::File::open(path).expect("there");
    file.read_to_end(&mut bytes).expect("readable");
    bytes
}

#[test]
fn nodepool_finds_its_images_checksums_and_log() {
    if let Some(tool) = missing(&["qemu-img"]) {
        skip!("`{tool}` is not installed");
    }
    let mut builder = Builder::new();
    let signal = builder.toy.world.home().join("cache/seen");
    builder.toy.hook(
        "extra-data",
        "50-log",
        r#"
        echo "out: $DIB_RELEASE, $DIB_IMAGE_NAME, $TOY_VARIABLE, trace $DIB_DEBUG_TRACE"
        echo "err: $DIB_IMAGE_FILENAME" >&2
        echo "PATH has $(type -P ls)"
        # Goes on only when the reader of the log has seen the line above.
        mkdir -p "$DIB_IMAGE_CACHE"
        for i in $(seq 600); do
            [ -e "$DIB_IMAGE_CACHE/seen" ] && exit 0
            sleep 0.1
        done
        exit 1
        "#,
    );
    // A daemon that outlives its hook must not keep the log open.
    builder
        .toy
        .hook("install", "50-daemon", "sleep 1000 & disown; echo started");
    let cache = builder.toy.world.home().join("cache");
    builder.toy.world.set("DIB_IMAGE_CACHE", &cache);
    let log = builder.build("raw,qcow2,vhd", |line| {
        if line.contains("PATH has ") && !line.contains("echo") {
            fs::create_dir_all(&cache).expect("made");
            fs::write(&signal, "").expect("written");
        }
    });
    assert!(log.status.success(), "{}", log.text);
    assert!(log.text.ends_with('\n'));
    let at = |text: &str| {
        let found = log.text.find(text);
        found.unwrap_or_else(|| panic!("{text} is missing in:\n{}", log.text))
    };
    let output = builder.images.join(IMAGE_ID);
    let order = [
        at("out: trixie, debian-trixie, two words, trace 1"),
        at(&format!("err: {}", output.display())),
        at("PATH has /"),
        at("started"),
    ];
    assert!(order.is_sorted(), "{}", log.text);
    // Only images have the id as the stem of their names.
    let stem_is_id = |name: &String| Path::new(name).file_stem() == Some(IMAGE_ID.as_ref());
    let found: Vec<String> = names(&builder.images)
        .into_iter()
        .filter(stem_is_id)
        .collect();
    let expected = ["qcow2", "raw", "vhd"].map(|suffix| format!("{IMAGE_ID}.{suffix}"));
    assert_eq!(found, expected);
    for name in &found {
        let path = builder.images.join(name);
        let content = bytes(&path);
        for (suffix, digest) in [
            ("md5", hex(&Md5::digest(&content))),
            ("sha256", hex(&Sha256::digest(&content))),
        ] {
            let checksum = fs::read_to_string(format!("{}.{suffix}", path.display()));
            // nodepool takes the first 32 or 64 characters.
            assert_eq!(
                checksum.expect("there"),
                format!("{digest}  {}\n", path.display()),
                "{name}"
            );
        }
    }
    let raw = fs::metadata(builder.images.join(&expected[1])).expect("there");
    assert!(raw.blocks() * 512 < raw.len() * 2 / 3, "raw is sparse");
    let info = |name: &str| {
        let path = builder.images.join(name);
        let line = format!("info --output=json {}", path.display());
        let text = run(&builder.toy.world, "qemu-img", &line).success();
        serde_json::from_str::<serde_json::Value>(&text).expect("JSON")
    };
    let qcow2 = info(&expected[0]);
    assert_eq!(qcow2["format"], "qcow2");
    assert_eq!(qcow2["format-specific"]["data"]["compat"], "0.10");
    assert_eq!(info(&expected[2])["format"], "vpc");
    let line = format!(
        "compare -f raw -F qcow2 {0}.raw {0}.qcow2",
        output.display()
    );
    run(&builder.toy.world, "qemu-img", &line).success();
    builder.toy.assert_swept();
}

#[test]
fn a_build_that_fails_says_so_by_its_status_and_leaves_no_image() {
    let builder = Builder::new();
    builder
        .toy
        .hook("install", "50-fails", "echo 'what went wrong' >&2; exit 7");
    let log = builder.build("raw", |_| {});
    assert!(!log.status.success());
    assert!(log.text.contains("what went wrong"), "{}", log.text);
    assert_eq!(names(&builder.images), Vec::<String>::new());
    builder.toy.assert_swept();
}
