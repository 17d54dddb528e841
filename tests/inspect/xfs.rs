//! XFS that `mkfs.xfs` filled, and, where this machine can mount it, that Linux did.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use super::listing;
use crate::common::image::{missing, run};
use crate::common::{Run as _, World, kiln, tool};
use crate::skip;

const BYTES: u64 = 320 << 20;

/// Runs mkfs.xfs; false if it does not make such filesystems.
fn make(world: &World, image: &str, arguments: &str) -> bool {
    let _ = fs::remove_file(world.work().join(image));
    let file = fs::File::create(world.work().join(image)).expect("created");
    file.set_len(BYTES).expect("sized");
    let made = run(world, "mkfs.xfs", &format!("-q {arguments} {image}"));
    if made.code() != 0 {
        println!("mkfs.xfs {arguments}: {}", made.stderr);
    }
    made.code() == 0
}

#[test]
fn xfs_of_both_versions_is_read_in_every_form() {
    if let Some(tool) = missing(&["mkfs.xfs"]) {
        skip!("`{tool}` is not installed");
    }
    let world = World::new();
    // A protofile names the files one by one.
    let mut proto = "/dev/null\n0 0\nd--755 0 0\n".to_owned();
    proto.push_str("etc d--755 0 0\nos-release ---644 0 0 tree/etc/os-release\n$\n");
    world.write("tree/etc/os-release", "ID=toy\nPRETTY_NAME=\"A toy 1\"\n");
    world.write("tree/large", &"kiln".repeat(300_000));
    proto.push_str("large ---640 7 8 tree/large\nlink l--777 0 0 large\n");
    // Directories in the inode, in one block, and in several.
    for count in [3, 60, 10_000] {
        proto.push_str(&format!("of-{count} d--755 0 0\n"));
        for number in 0..count {
            let line = format!("with-a-name-of-some-length-{number} ---600 0 0 /dev/null\n");
            proto.push_str(&line);
        }
        proto.push_str("$\n");
    }
    proto.push_str("$\n");
    world.write("proto", &proto);
    let mut versions = [false; 2];
    for (version, arguments) in [
        (5, ""),
        (5, "-b size=1024 -n size=8192 -i size=512"),
        (5, "-s size=4096 -m finobt=0,reflink=0"),
        (4, "-m crc=0"),
        (4, "-m crc=0 -b size=512 -i size=256 -n ftype=0"),
        (4, "-m crc=0 -b size=65536 -n ftype=1"),
    ] {
        // The last versions of mkfs.xfs make only one of them.
        if !make(&world, "a.img", &format!("{arguments} -p proto")) {
            continue;
        }
        versions[version - 4] = true;
        let found = listing(&world, "a.img");
        assert_eq!(found.len(), 10_070, "{arguments}");
        assert_eq!(found["large"]["mode"], "0640", "{arguments}");
        assert_eq!(found["large"]["uid"], 7, "{arguments}");
        assert_eq!(found["large"]["gid"], 8, "{arguments}");
        assert_eq!(found["link"]["target"], "large", "{arguments}");
        for count in [3, 60, 10_000] {
            for number in 0..count {
                let name = format!("of-{count}/with-a-name-of-some-length-{number}");
                assert_eq!(found[&name]["mode"], "0600", "{arguments}: {name}");
            }
        }
        let text = world.kiln().args(["cat", "a.img", "/link"]).run().success();
        assert!(text == "kiln".repeat(300_000), "{arguments}");
        let report = world.kiln().args(["inspect", "--json", "a.img"]).run();
        let report: Value = serde_json::from_str(&report.success()).expect("JSON");
        assert_eq!(report["partitions"][0]["clean"], true, "{arguments}");
        assert_eq!(report["system"]["name"], "A toy 1", "{arguments}");
    }
    assert!(versions[1], "mkfs.xfs made nothing of version 5");
    if nix::unistd::geteuid().is_root()
        && missing(&["getfattr", "setfacl", "unshare", "diff"]).is_none()
    {
        for arguments in [
            "-i nrext64=1",
            "-b size=1024 -m reflink=0,bigtime=0",
            "-i size=2048 -n size=65536",
        ] {
            linux_shows_the_same(&world, arguments);
        }
    }
}

/// Fills a filesystem and says what Linux shows of it: image, mount point, a copy of
/// its files, kiln.
const FILL: &str = r#"
set -eu
mount -t xfs -o loop "$1" "$2"
cd "$2"
mkdir many data
seq 4000 | sed 's/^/many\/with-a-name-of-some-length-/' | xargs touch
seq 1 3 4000 | sed 's/^/many\/with-a-name-of-some-length-/' | xargs rm
cd data
mkdir special few
touch few/a few/b
dd if=/dev/urandom of=pieces bs=4096 count=400 status=none
for at in $(seq 0 2 398); do fallocate -p -o $((at * 4096)) -l 4096 pieces; done
fallocate -l 5M allocated
printf middle | dd of=allocated bs=1 seek=1000000 conv=notrunc status=none
truncate -s 300M hole
printf end >>hole
cp --reflink=auto pieces shared
ln pieces again
for length in 1 300 420 900 1023; do
    ln -s "$(printf "%${length}s" | tr ' ' y)" "link-$length"
done
mknod special/null c 1 3
mknod special/large b 259 70000
mkfifo special/pipe
touch none some long
chown 70000:80000 some
chmod 4755 some
setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 some
setfattr -n trusted.t -v text some
setfattr -n user.empty some
setfacl -m u:33:rx,g:44:rwx some
setfacl -d -m u:33:rx few
setfattr -n user.long -v "$(printf '%20000s' | tr ' ' v)" long
{
    printf '# file: none\n'
    seq 250 | sed 's/.*/user.attribute-&="the value & of an attribute"/'
} | setfattr --restore=-
touch -hd @4000000000 few/a link-1 || :
touch -d @-5000 few/b
cd ..
sync
find . -mindepth 1 -printf '%P\t%m\t%U\t%G\t%s\t%T@\t%n\t%l\n' >"$3.list"
getfattr -R -h -P -d -m - -e hex . >"$3.attributes"
cp -r --no-dereference --sparse=always data "$3"
rm -r "$3/special"
mkdir "$3/special"
"$4" inspect --json "$1" >"$3.mounted"
cd /
umount "$2"
"#;

/// Mounts a filesystem, fills it, and compares. Where Linux cannot mount it, there is
/// nothing to compare with.
fn linux_shows_the_same(world: &World, arguments: &str) {
    if !make(world, "b.img", arguments) {
        return;
    }
    let work = world.work();
    let path = |name: &str| work.join(name);
    fs::create_dir_all(path("mnt")).expect("made");
    // What is mounted goes with the namespace.
    let unshare = |script: &str| {
        let mut command = world.command(tool("unshare").expect("installed"));
        command.args(["-m", "--propagation", "private", "sh", "-c", script, "sh"]);
        command.args([path("b.img"), path("mnt"), path("tree-b"), kiln().into()]);
        command.run()
    };
    let may_mount = unshare("mount -t xfs -o loop \"$1\" \"$2\" && umount \"$2\"");
    if may_mount.code() != 0 {
        println!("{arguments}: not compared with Linux: {}", may_mount.stderr);
        return;
    }
    let filled = unshare(FILL);
    assert_eq!(filled.code(), 0, "{arguments}: {}", filled.stderr);
    let read = |name: &str| fs::read_to_string(path(name)).expect("readable");
    let mounted: Value = serde_json::from_str(&read("tree-b.mounted")).expect("JSON");
    assert_eq!(mounted["partitions"][0]["clean"], false, "{arguments}");
    let found = listing(world, "b.img");
    assert_listed(&found, &read("tree-b.list"), arguments);
    assert_eq!(
        found["data/special/large"]["device"][1], 70_000,
        "{arguments}"
    );
    let linux = attributes(&read("tree-b.attributes"));
    assert!(linux["data/none"].len() == 250 && linux["data/some"].len() == 4);
    assert_attributes(&found, &linux, arguments);
    let copy = ["cp", "-r", "b.img", "/data", "copy-b"];
    world.kiln().args(copy).run().success();
    let same = run(world, "diff", "-r --no-dereference tree-b copy-b");
    assert_eq!(same.stdout, "", "{arguments}: {}", same.stderr);
    for name in ["tree-b", "copy-b"] {
        fs::remove_dir_all(path(name)).expect("removed");
    }
}

/// What kiln lists is what `find` did.
pub(super) fn assert_listed(found: &BTreeMap<String, Value>, list: &str, arguments: &str) {
    let mut seen = 0;
    for line in list.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, mode, uid, gid, size, mtime, links, target] = fields[..] else {
            panic!("{line}");
        };
        let own = found
            .get(name)
            .unwrap_or_else(|| panic!("{name} is missing"));
        let number = |text: &str| text.parse::<i64>().expect("a number");
        let is = |key: &str, expected: Value| {
            assert_eq!(own[key], expected, "{arguments}: {key} of {name}");
        };
        is("mode", format!("{mode:0>4}").into());
        is("uid", number(uid).into());
        is("gid", number(gid).into());
        is("links", number(links).into());
        let seconds = mtime.split('.').next().expect("a number");
        is("mtime", number(seconds).into());
        if own["kind"] != "directory" {
            is("size", number(size).into());
        }
        if own["kind"] == "symlink" {
            is("target", target.into());
        }
        seen += 1;
    }
    assert_eq!(found.len(), seen, "{arguments}");
}

/// What kiln says of attributes is what `getfattr` does.
pub(super) fn assert_attributes(
    found: &BTreeMap<String, Value>,
    linux: &BTreeMap<String, BTreeMap<String, String>>,
    arguments: &str,
) {
    for (name, own) in found {
        let none = BTreeMap::new();
        let expected = linux.get(name).unwrap_or(&none);
        let own: BTreeMap<String, String> = own["xattrs"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.clone(), value.as_str().expect("text").to_owned()))
            .collect();
        assert_eq!(&own, expected, "{arguments}: {name}");
    }
}

/// What `getfattr` says of each file. The forms in which XFS keeps lists of access
/// are shown to root too; they are left out.
pub(super) fn attributes(text: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut files: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut file = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("# file: ") {
            let name = name.strip_prefix("./").unwrap_or(name);
            file = Some(files.entry(name.to_owned()).or_default());
        } else if let (Some(file), false) = (file.as_mut(), line.is_empty()) {
            let (name, value) = line.split_once('=').unwrap_or((line, "0x"));
            if !name.starts_with("trusted.SGI_ACL") {
                let value = value.strip_prefix("0x").expect("in hexadecimal");
                file.insert(name.to_owned(), value.to_owned());
            }
        }
    }
    files
}
