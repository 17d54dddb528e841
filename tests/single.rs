//! Builds with a single id give what builds with many ids give, and so do builds of
//! a container's root that may make no namespace.

mod common;

use common::listing::{Listing, differences, listing_of};
use common::toy::{Built, Toy};

fn listing(toy: &Toy) -> Listing {
    listing_of(&toy.output("tar"))
}

/// Whether a build failed because the host has not got its mode.
fn is_refusal(message: &str) -> bool {
    let refusals = [
        "user namespace",
        "subordinate ids",
        "mode `single`",
        "kiln runs as user",
    ];
    refusals.iter().any(|refusal| message.contains(refusal))
}

/// Builds in a mode; `None`, with a message, if this host has not got it.
fn build(toy: &Toy, mode: &str) -> Option<Built> {
    let built = toy.build(&format!("-t tar --mode {mode}"));
    if built.outcome.status.success() {
        return Some(built);
    }
    let (message, hints, _) = built.failure();
    if is_refusal(&message) {
        common::skipped(&format!("mode {mode}: {message}"));
        return None;
    }
    panic!("{message}\n{hints:?}\n{}", built.lines().join("\n"));
}

#[track_caller]
fn assert_same(one: &Listing, other: &Listing) {
    let different = differences(one, other);
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// Builds in each mode with many ids that this host has, then with one.
fn build_in_all(toy: &Toy) -> Option<Vec<(&'static str, Listing)>> {
    let mut listings = Vec::new();
    for mode in ["root", "subordinate", "single"] {
        let built = toy.build(&format!("-t tar --mode {mode}"));
        if built.outcome.status.success() {
            listings.push((mode, listing(toy)));
            std::fs::remove_file(toy.output("tar")).expect("the tar is ours");
        } else {
            let (message, hints, _) = built.failure();
            assert!(
                is_refusal(&message),
                "{message}\n{hints:?}\n{}",
                built.lines().join("\n")
            );
            println!("mode {mode}: {message}");
        }
    }
    if listings.len() < 2 || listings.last().is_none_or(|last| last.0 != "single") {
        common::skipped("mode single, or all others, are not available here");
        return None;
    }
    Some(listings)
}

#[test]
fn a_root_of_every_kind_of_file_is_the_same_with_one_id_and_with_many() {
    let toy = Toy::full();
    let Some(listings) = build_in_all(&toy) else {
        return;
    };
    toy.assert_swept();
    for (_, listing) in &listings {
        assert_eq!(listing["./srv/www/"].split(' ').nth(2), Some("33:33"));
        assert_same(&listings[0].1, listing);
    }
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

/// Makes devices, which the kernel refuses in every mode.
const DEVICES: &str = r"
mkdir -p srv/old
mknod srv/old/disk b 8 17
mknod -m 620 srv/old/terminal c 5 70000
chown 0:33 srv/old/terminal
";

/// Looks at and moves them, in a later hook.
const MOVES: &str = r"
test -b srv/old/disk
test -c srv/old/terminal
test ! -f srv/old/terminal
[ $(stat -c %t:%T:%g srv/old/terminal) = 5:11170:33 ]
mv srv/old/disk srv/old/moved
ln srv/old/moved srv/old/linked
cp -a srv/old/terminal srv/old/copied
rm srv/old/terminal
touch srv/old/terminal
";

#[test]
fn devices_are_made_moved_copied_and_removed_in_every_mode() {
    let toy = Toy::basic();
    toy.hook("root", "20-devices", &format!("cd $TARGET_ROOT\n{DEVICES}"));
    // Of the same phase.
    toy.hook("root", "30-looks", "test -b $TARGET_ROOT/srv/old/disk");
    toy.hook("install", "20-moves", &format!("cd /\n{MOVES}"));
    let Some(listings) = build_in_all(&toy) else {
        return;
    };
    for (mode, listing) in &listings {
        let starts = |name: &str, start: &str| {
            let found = &listing[name];
            assert!(found.starts_with(start), "{mode}: {name}: {found}");
        };
        starts(
            "./srv/old/copied",
            "Char 620 0:33 size 0 device Some(5):Some(70000)",
        );
        starts("./srv/old/terminal", "Regular 644 0:0 size 0");
        starts(
            "./srv/old/linked",
            "Block 644 0:0 size 0 device Some(8):Some(17)",
        );
        starts("./srv/old/moved", "Link 644 0:0");
    }
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
