//! btrfs that `mkfs.btrfs` filled, and, where this machine can mount it, that Linux did.

use std::fs;

use kiln::inspect::{self, Contents};
use serde_json::Value;

use super::xfs::{assert_attributes, assert_listed, attributes};
use super::{assert_same, listing, tree};
use crate::common::image::{missing, run};
use crate::common::{Run as _, World, kiln, tool};
use crate::skip;

/// Runs mkfs.btrfs; false if it does not make such filesystems.
fn make(world: &World, image: &str, arguments: &str) -> bool {
    let _ = fs::remove_file(world.work().join(image));
    let file = fs::File::create(world.work().join(image)).expect("created");
    file.set_len(200 << 20).expect("sized");
    let made = run(
        world,
        "mkfs.btrfs",
        &format!("-q -L toy {arguments} {image}"),
    );
    if made.code() != 0 {
        println!("mkfs.btrfs {arguments}: {}", made.stderr);
    }
    made.code() == 0
}

#[test]
fn btrfs_is_read_in_every_form() {
    if let Some(tool) = missing(&["mkfs.btrfs", "diff"]) {
        skip!("`{tool}` is not installed");
    }
    let world = World::new();
    tree(&world);
    let mut made = 0;
    for arguments in [
        "-n 16384",
        "-n 4096 -m single",
        "-n 65536 -m dup",
        "--csum xxhash",
        "--csum sha256",
        "--csum blake2",
        "--mixed -n 4096 -O ^no-holes",
    ] {
        if !make(&world, "a.img", &format!("{arguments} -r tree")) {
            continue;
        }
        made += 1;
        let copy = world.work().join("copy");
        let _ = fs::remove_dir_all(&copy);
        world.kiln().words("cp -r a.img / copy").success();
        assert_same(&world, "copy");
    }
    assert!(made > 3, "mkfs.btrfs made {made} filesystems");

    // One copy of a block is damaged, then the first superblock is.
    assert!(make(&world, "a.img", "-n 16384 -m dup -r tree"));
    let path = world.work().join("a.img");
    let mut bytes = fs::read(&path).expect("readable");
    let name = b"with-a-name-of-some-length-0017";
    let mut places = Vec::new();
    let nothing = [0; 4096];
    for (number, block) in bytes.chunks_exact(4096).enumerate() {
        // Most of it is empty.
        if block != nothing {
            let found = block.windows(name.len()).enumerate();
            let found = found.filter(|(_, window)| window == name);
            places.extend(found.map(|(at, _)| number * 4096 + at));
        }
    }
    let middle = places[places.len() / 2];
    for &at in places.iter().filter(|&&at| at < middle) {
        bytes[at] = b'X';
    }
    bytes[(64 << 10) + 200] ^= 1;
    fs::write(&path, &bytes).expect("written");
    let listed = world.kiln().words("ls a.img /many").success();
    assert_eq!(listed.lines().count(), 400);
    for at in places {
        bytes[at] = b'X';
    }
    fs::write(&path, &bytes).expect("written");
    let outcome = world.kiln().words("ls a.img /many");
    assert_eq!(outcome.code(), 1);
    assert!(
        outcome.stderr.contains("its checksum is wrong"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn what_btrfs_has_that_is_not_read_is_named() {
    if let Some(tool) = missing(&["mkfs.btrfs"]) {
        skip!("`{tool}` is not installed");
    }
    let world = World::new();
    for image in ["one.img", "two.img"] {
        let file = fs::File::create(world.work().join(image)).expect("created");
        file.set_len(400 << 20).expect("sized");
    }
    run(&world, "mkfs.btrfs", "-q -m raid1 -d raid1 one.img two.img").success();
    let outcome = world.kiln().words("cat one.img /file");
    assert_eq!(outcome.code(), 1);
    let message = "the filesystem is btrfs on 2 devices, of which this is one, which kiln";
    assert!(outcome.stderr.contains(message), "{}", outcome.stderr);
    let outcome = world.face("disk-image-get-kernel").words("one.img");
    let message = "the whole disk is btrfs on 2 devices, of which this is one, which kiln";
    assert!(outcome.stderr.contains(message), "{}", outcome.stderr);
}

/// Fills a filesystem and says what Linux shows of it: image, mount point, a copy of
/// its files, kiln, compression.
const FILL: &str = r#"
set -eu
mount -t btrfs -o loop,compress-force="$5" "$1" "$2"
cd "$2"
for name in @ @home @/nested other; do btrfs subvolume create "$name"; done >/dev/null
cd @
mkdir etc home top data many special
echo ID=toy >etc/os-release
cat >etc/fstab <<END
# a comment
LABEL=toy /     btrfs subvol=@ 0 0
LABEL=toy /home btrfs defaults,subvol=/@home 0 0
LABEL=toy /top  btrfs subvolid=5 0 0
LABEL=toy /gone btrfs subvol=gone 0 0
END
echo text >../@home/file
echo text >nested/file
seq "$6" | sed 's/^/many\/with-a-name-of-some-length-/' | xargs touch
cd data
seq 60000 >text
seq 900 >inline
seq 3 >small
dd if=/dev/urandom of=random bs=1000 count=300 status=none
sync
cp --reflink=always text clone
truncate -s 123456 clone
dd if=/dev/urandom of=text bs=1000 seek=77 count=3 conv=notrunc status=none
fallocate -p -o 200000 -l 50000 text
fallocate -l 1M allocated
printf middle | dd of=allocated bs=1 seek=300000 conv=notrunc status=none
printf start >tail
truncate -s 3M tail
printf end >>tail
ln text again
ln -s text link
cd ../special
mknod null c 1 3
mknod large b 259 70000
mkfifo pipe
touch none some
chown 70000:80000 some
chmod 4755 some
setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 some
setfattr -n trusted.t -v text some
setfattr -n user.long -v "$(printf '%2000s' | tr ' ' v)" some
setfacl -m u:33:rx,g:44:rwx some
touch -d @4000000000 none
cd "$2"
btrfs subvolume snapshot -r @ snapshot >/dev/null
sync
find . -mindepth 1 -path ./snapshot/nested -prune -o -mindepth 1 \
    -printf '%P\t%m\t%U\t%G\t%s\t%T@\t%n\t%l\n' >"$3.list"
getfattr -R -h -P -d -m - -e hex . >"$3.attributes"
cp -r --no-dereference --sparse=always @/data "$3"
cd /
umount "$2"
"#;

#[test]
fn btrfs_is_what_linux_shows_with_its_compression_and_subvolumes() {
    if !nix::unistd::geteuid().is_root() {
        skip!("only root mounts filesystems");
    }
    let tools = [
        "mkfs.btrfs",
        "btrfs",
        "getfattr",
        "setfacl",
        "unshare",
        "diff",
    ];
    if let Some(tool) = missing(&tools) {
        skip!("`{tool}` is not installed");
    }
    let world = World::new();
    let path = |name: &str| world.work().join(name);
    fs::create_dir_all(path("mnt")).expect("made");
    for (compression, names) in [("zlib", "100"), ("zstd", "10000"), ("lzo", "100")] {
        assert!(make(&world, "b.img", "-n 16384"));
        let unshare = |script: &str| {
            let mut command = world.command(tool("unshare").expect("installed"));
            command.args(["-m", "--propagation", "private", "sh", "-c", script, "sh"]);
            command.args([path("b.img"), path("mnt"), path("tree-b"), kiln().into()]);
            command.args([compression, names]);
            command.run()
        };
        let may_mount = unshare("mount -t btrfs -o loop \"$1\" \"$2\" && umount \"$2\"");
        if may_mount.code() != 0 {
            skip!("btrfs cannot be mounted: {}", may_mount.stderr);
        }
        let filled = unshare(FILL);
        assert_eq!(filled.code(), 0, "{compression}: {}", filled.stderr);
        let read = |name: &str| fs::read_to_string(path(name)).expect("readable");

        // All of it, by its label.
        let mut found = listing(&world, "b.img:toy");
        // A snapshot has an empty directory there, with a time of its own.
        let stub = found.remove("snapshot/nested").expect("listed");
        assert_eq!(stub["kind"], "directory", "{compression}");
        assert_listed(&found, &read("tree-b.list"), compression);
        let mut linux = attributes(&read("tree-b.attributes"));
        linux.remove("snapshot/nested");
        assert_attributes(&found, &linux, compression);
        assert_eq!(found["@/special/large"]["device"][1], 70_000);

        // The subvolume with the system is found.
        world.kiln().words("cp -r b.img /data copy-b").success();
        let same = run(&world, "diff", "-r --no-dereference tree-b copy-b");
        assert_eq!(same.stdout, "", "{compression}: {}", same.stderr);
        let tail = fs::metadata(path("copy-b/tail")).expect("copied");
        let blocks = std::os::unix::fs::MetadataExt::blocks(&tail);
        assert!(blocks * 512 < 1 << 20, "{compression}: holes are kept");
        let image = inspect::open(&path("b.img"), None).expect("opened");
        let contents = Contents::read(&image).expect("read");
        let system = inspect::system(&contents, world.work().as_path()).expect("a system");
        for (file, is_there) in [
            ("/home/file", true),
            ("/nested/file", true),
            ("/data/text", true),
            ("/top/@", false),
        ] {
            assert_eq!(
                system.find(file).is_some(),
                is_there,
                "{compression}: {file}"
            );
        }
        drop(contents);

        // So is the default subvolume.
        let set = "mount -t btrfs -o loop \"$1\" \"$2\" && \
                   btrfs subvolume set-default \"$2/@\" && umount \"$2\"";
        assert_eq!(unshare(set).code(), 0, "{compression}");
        let own = listing(&world, "b.img:toy");
        let expected: Vec<&str> = found
            .keys()
            .filter_map(|name| name.strip_prefix("@/"))
            .collect();
        assert_eq!(own.keys().collect::<Vec<_>>(), expected, "{compression}");
        let report = world.kiln().words("inspect --json b.img").success();
        let report: Value = serde_json::from_str(&report).expect("JSON");
        assert_eq!(report["partitions"][0]["clean"], true, "{compression}");
        assert_eq!(report["system"]["id"], "toy", "{compression}");
        for name in ["tree-b", "copy-b"] {
            fs::remove_dir_all(path(name)).expect("removed");
        }
    }
}
