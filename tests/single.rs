//! Builds with a single id give what builds with many ids give, and so do builds of
//! a container's root that may make no namespace.

mod common;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;

use common::toy::{Built, Toy};

/// What a tar says of each name: type, mode, owner, group, size, device, link,
/// attributes and content.
type Listing = BTreeMap<String, String>;

fn listing(toy: &Toy) -> Listing {
    let file = File::open(toy.output("tar")).expect("the build wrote a tar");
    let mut archive = tar::Archive::new(file);
    let mut listing = Listing::new();
    for entry in archive.entries().expect("a tar") {
        let mut entry = entry.expect("an entry");
        let path = entry.path_bytes().escape_ascii().to_string();
        let attributes: BTreeMap<String, String> = entry
            .pax_extensions()
            .ok()
            .flatten()
            .into_iter()
            .flatten()
            .filter_map(Result::ok)
            .filter(|extension| extension.key_bytes().starts_with(b"SCHILY.xattr."))
            .map(|extension| {
                let value = extension.value_bytes().escape_ascii().to_string();
                (extension.key_bytes().escape_ascii().to_string(), value)
            })
            .collect();
        let header = entry.header();
        let facts = format!(
            "{:?} {:o} {}:{} size {} device {:?}:{:?} link {:?} {attributes:?}",
            header.entry_type(),
            header.mode().expect("a mode"),
            header.uid().expect("an owner"),
            header.gid().expect("a group"),
            header.size().expect("a size"),
            header.device_major().ok().flatten(),
            header.device_minor().ok().flatten(),
            entry
                .link_name_bytes()
                .map(|link| link.escape_ascii().to_string()),
        );
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("content");
        let sum: u64 = content.iter().zip(1_u64..).fold(0, |sum, (&byte, place)| {
            sum.wrapping_mul(31).wrapping_add(u64::from(byte) ^ place)
        });
        listing.insert(path, format!("{facts} content {sum:x}"));
    }
    listing
}

/// Builds in a mode; `None`, with a message, if this host has not got it.
fn build(toy: &Toy, mode: &str) -> Option<Built> {
    let built = toy.build(&format!("-t tar --mode {mode}"));
    if built.outcome.status.success() {
        return Some(built);
    }
    let (message, hints, _) = built.failure();
    let refusals = [
        "user namespace",
        "subordinate ids",
        "mode `single`",
        "kiln runs as user",
    ];
    if refusals.iter().any(|refusal| message.contains(refusal)) {
        common::skipped(&format!("mode {mode}: {message}"));
        return None;
    }
    panic!("{message}\n{hints:?}\n{}", built.lines().join("\n"));
}

#[track_caller]
fn assert_same(one: &Listing, other: &Listing) {
    let names: std::collections::BTreeSet<_> = one.keys().chain(other.keys()).collect();
    let different: Vec<String> = names
        .into_iter()
        .filter(|name| one.get(*name) != other.get(*name))
        .map(|name| format!("{name}\n  {:?}\n  {:?}", one.get(name), other.get(name)))
        .collect();
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn a_root_of_every_kind_of_file_is_the_same_with_one_id_and_with_many() {
    let toy = Toy::full();
    let mut listings = Vec::new();
    for mode in ["subordinate", "single"] {
        if build(&toy, mode).is_none() {
            return;
        }
        listings.push(listing(&toy));
        std::fs::remove_file(toy.output("tar")).expect("the tar is ours");
    }
    toy.assert_swept();
    assert_eq!(listings[0]["./srv/www/"].split(' ').nth(2), Some("33:33"));
    assert_same(&listings[0], &listings[1]);
}

#[test]
fn a_root_of_every_kind_of_file_is_the_same_without_any_namespace() {
    let toy = Toy::full();
    let mut listings = Vec::new();
    for mode in ["chroot", "root"] {
        if build(&toy, mode).is_none() {
            return;
        }
        listings.push(listing(&toy));
        std::fs::remove_file(toy.output("tar")).expect("the tar is ours");
    }
    toy.assert_swept();
    assert_same(&listings[0], &listings[1]);
}

/// What needs privileges over the whole host, which only one id has to do with
/// records.
const DEVICES: &str = r"
mkdir dev/old
mknod dev/old/disk b 8 17
mknod -m 620 dev/old/terminal c 5 70000
chown 0:33 dev/old/terminal
test -b dev/old/disk
test -c dev/old/terminal
test ! -f dev/old/terminal
[ $(stat -c %t:%T:%g dev/old/terminal) = 5:11170:33 ]
mv dev/old/disk dev/old/moved
ln dev/old/moved dev/old/linked
cp -a dev/old/terminal dev/old/copied
rm dev/old/terminal
touch dev/old/terminal
";

#[test]
fn devices_are_made_moved_copied_and_removed() {
    let toy = Toy::basic();
    toy.hook("root", "20-devices", &format!("cd $TARGET_ROOT\n{DEVICES}"));
    if build(&toy, "single").is_none() {
        return;
    }
    let listing = listing(&toy);
    let starts = |name: &str, start: &str| {
        let found = &listing[name];
        assert!(found.starts_with(start), "{name}: {found}");
    };
    starts(
        "./dev/old/copied",
        "Char 620 0:33 size 0 device Some(5):Some(70000)",
    );
    starts("./dev/old/terminal", "Regular 644 0:0 size 0");
    starts(
        "./dev/old/linked",
        "Block 644 0:0 size 0 device Some(8):Some(17)",
    );
    starts("./dev/old/moved", "Link 644 0:0");
}

/// Ownership through removal, renaming, replacement and set-id directories, by
/// many processes at once; prints what is wrong.
const RACES: &str = r#"
cd "$TARGET_ROOT"
mkdir -p srv/race srv/group
chown 7:9 srv/group
chmod 2775 srv/group
one() {
    for round in $(seq 60); do
        file=srv/race/$1.$round
        echo x >"$file"
        chown "$1:$round" "$file"
        [ "$(stat -c %u:%g "$file")" = "$1:$round" ] || echo "WRONG owner of $file"
        mv "$file" "$file.moved"
        [ "$(stat -c %u:%g "$file.moved")" = "$1:$round" ] || echo "WRONG after rename of $file"
        rm "$file.moved"
        echo y >"$file"
        [ "$(stat -c %u:%g "$file")" = 0:0 ] || echo "WRONG owner of a new $file"
    done
    mkdir "srv/group/$1"
    echo z >"srv/group/$1/file"
    [ "$(stat -c %g:%a "srv/group/$1")" = 9:2755 ] || echo "WRONG directory group"
    [ "$(stat -c %u:%g "srv/group/$1/file")" = 0:9 ] || echo "WRONG file group"
}
for worker in 1 2 3 4 5 6; do one "$worker" & done
wait
echo DONE
"#;

#[test]
fn records_follow_files_through_races() {
    let toy = Toy::basic();
    toy.hook("root", "20-races", RACES);
    let Some(built) = build(&toy, "single") else {
        return;
    };
    let wrong = built.lines_after("WRONG ");
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(built.lines().contains(&"DONE".to_owned()));
}

/// Ids of processes by `setpriv`; `id` shows them.
const PROCESSES: &str = r#"
cd "$TARGET_ROOT"
mkdir -m 777 srv
drop() { setpriv --reuid 33 --regid 44 --groups 55,50 "$@"; }
echo "IDS $(drop sh -c 'id -u; id -g; id -G' | tr '\n' ' ')"
drop sh -c 'touch srv/file; mkdir srv/directory; ln -s x srv/link; mkfifo srv/pipe'
echo "FILES $(stat -c %u:%g srv/file srv/directory srv/link srv/pipe | tr '\n' ' ')"
drop chown 44 srv/file 2>/dev/null || echo "REFUSED chown"
drop chgrp 55 srv/file && echo "GROUP $(stat -c %g srv/file)"
drop setpriv --reuid 0 true 2>/dev/null || echo "REFUSED setuid"
cp /usr/bin/id srv/id
chown 66:77 srv/id
chmod 6755 srv/id
echo "SETID $(drop srv/id -u) $(drop srv/id -g) $(drop srv/id -ru) $(srv/id -u)"
echo "ROOT $(id -u):$(id -g):$(id -G)"
rm srv/id
"#;

#[test]
fn processes_have_the_ids_that_they_took() {
    if common::tool("setpriv").is_none() {
        return common::skipped("setpriv is not installed");
    }
    let toy = Toy::basic();
    toy.hook("root", "20-processes", PROCESSES);
    let Some(built) = build(&toy, "single") else {
        return;
    };
    let said = |prefix: &str| built.lines_after(prefix).join("|");
    assert_eq!(said("IDS ").trim(), "33 44 44 50 55");
    assert_eq!(said("FILES ").trim(), "33:44 33:44 33:44 33:44");
    assert_eq!(said("REFUSED "), "chown|setuid");
    assert_eq!(said("GROUP "), "55");
    assert_eq!(said("SETID "), "66 77 33 66");
    assert_eq!(said("ROOT "), "0:0:0");
}
