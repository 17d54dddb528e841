use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use tar::EntryType::{self, Directory, Link, Regular, Symlink};

use super::super::deb::tests::{Entry, tarball};
use super::*;

struct Scene {
    dir: tempfile::TempDir,
    root: Root,
}

impl Scene {
    fn new() -> Scene {
        let dir = tempfile::tempdir().expect("a directory");
        fs_err::create_dir(dir.path().join("root")).expect("made");
        let root = Root::open(&dir.path().join("root")).expect("opened");
        Scene { dir, root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("root").join(name)
    }
}

fn unpack(
    unpacker: &Unpacker<'_>,
    package: usize,
    entries: &[Entry<'_>],
) -> Result<Unpacked, UnpackError> {
    unpacker.unpack(
        package,
        &*tarball(entries),
        1000,
        &BTreeSet::from([b"/etc/a.conf".to_vec()]),
    )
}

#[test]
fn attributes_links_and_lists_are_kept() {
    let scene = Scene::new();
    let unpacker = Unpacker::new(&scene.root);
    let unpacked = unpack(
        &unpacker,
        0,
        &[
            ("./", Directory, "", 0o755),
            ("./etc/", Directory, "", 0o750),
            ("./etc/a.conf", Regular, "x", 0o640),
            ("./etc/b", Link, "./etc/a.conf", 0o640),
            ("./c", Symlink, "/etc/a.conf", 0o777),
            ("./deep/d", Regular, "", 0o4711),
        ],
    )
    .expect("unpacked");
    unpacker.finish().expect("finished");
    assert_eq!(
        unpacked.list,
        [
            &b"/."[..],
            b"/etc",
            b"/etc/a.conf",
            b"/etc/b",
            b"/c",
            b"/deep/d"
        ]
    );
    assert_eq!(
        unpacked.conffiles[&b"/etc/a.conf"[..]],
        "9dd4e461268c8034f5c8564e155c67a6"
    );
    let file = fs_err::metadata(scene.path("etc/a.conf")).expect("there");
    assert_eq!(
        (file.mode() & 0o7777, file.nlink(), file.mtime()),
        (0o640, 2, 1_000_000_000)
    );
    let directory = fs_err::metadata(scene.path("etc")).expect("there");
    assert_eq!(
        (directory.mode() & 0o7777, directory.mtime()),
        (0o750, 1_000_000_000)
    );
    assert_eq!(
        fs_err::read_link(scene.path("c")).expect("there"),
        Path::new("/etc/a.conf")
    );
    assert_eq!(
        fs_err::metadata(scene.path("deep/d"))
            .expect("there")
            .permissions()
            .mode()
            & 0o7777,
        0o4711
    );
}

#[test]
fn nothing_is_written_outside_of_the_root() {
    let outside: &[(&str, EntryType, &str)] = &[
        ("../evil", Regular, "x"),
        ("a/../../evil", Regular, "x"),
        ("link", Link, "../secret"),
    ];
    for (path, kind, text) in outside {
        let scene = Scene::new();
        fs_err::write(scene.dir.path().join("secret"), "s").expect("written");
        let unpacker = Unpacker::new(&scene.root);
        let error = unpack(&unpacker, 0, &[(path, *kind, text, 0o644)]).expect_err(path);
        assert!(matches!(error, UnpackError::Path { .. }), "{path}: {error}");
        assert!(!scene.dir.path().join("evil").exists());
    }
    // Through links: within the root, or an error.
    for target in ["..", "/..", "../..", "/"] {
        let scene = Scene::new();
        let unpacker = Unpacker::new(&scene.root);
        unpack(
            &unpacker,
            0,
            &[
                ("out", Symlink, target, 0o777),
                ("out/evil", Regular, "x", 0o644),
            ],
        )
        .expect("within the root");
        assert!(!scene.dir.path().join("evil").exists());
        assert!(scene.path("evil").exists());
    }
}

#[test]
fn merged_directories_are_followed_and_kept() {
    let scene = Scene::new();
    fs_err::create_dir_all(scene.path("usr/bin")).expect("made");
    scene
        .root
        .symlink(OsStr::new("usr/bin"), Path::new("bin"))
        .expect("linked");
    let unpacker = Unpacker::new(&scene.root);
    unpacker.set_merged(Path::new("bin"));
    unpack(
        &unpacker,
        0,
        &[
            ("./bin/", Directory, "", 0o700),
            ("./bin/a", Regular, "a", 0o755),
        ],
    )
    .expect("unpacked");
    unpack(
        &unpacker,
        1,
        &[
            ("./usr/bin/", Directory, "", 0o755),
            ("./usr/bin/a", Regular, "b", 0o755),
        ],
    )
    .expect("unpacked");
    unpack(&unpacker, 2, &[("./bin", Symlink, "usr/bin", 0o777)]).expect("unpacked");
    unpacker.finish().expect("finished");
    assert!(
        fs_err::symlink_metadata(scene.path("bin"))
            .expect("there")
            .is_symlink()
    );
    assert_eq!(unpacker.conflicts(), BTreeSet::from([0, 1]));
    assert_eq!(
        fs_err::metadata(scene.path("usr/bin"))
            .expect("there")
            .mode()
            & 0o7777,
        0o755
    );
}

#[test]
fn directories_take_after_the_first_package_in_order() {
    for order in [[0, 1], [1, 0]] {
        let scene = Scene::new();
        let unpacker = Unpacker::new(&scene.root);
        for package in order {
            let mode = if package == 0 { 0o711 } else { 0o755 };
            unpack(&unpacker, package, &[("d/", Directory, "", mode)]).expect("unpacked");
        }
        unpacker.finish().expect("finished");
        assert_eq!(
            fs_err::metadata(scene.path("d")).expect("there").mode() & 0o7777,
            0o711
        );
    }
}

#[test]
fn a_package_far_larger_than_it_says_is_refused() {
    let scene = Scene::new();
    let unpacker = Unpacker::new(&scene.root);
    let error = unpacker.unpack(
        0,
        io::repeat(0)
            .take(u64::MAX)
            .chain(io::empty())
            .take(1 << 40),
        0,
        &BTreeSet::new(),
    );
    // Zeros are the end of an archive: nothing is unpacked, nothing is read on.
    assert_eq!(error.expect("empty").list.len(), 0);
    let mut header = tar::Header::new_gnu();
    header.set_path("big").expect("short");
    header.set_size(1 << 40);
    header.set_entry_type(Regular);
    header.set_mode(0o644);
    header.set_uid(nix::unistd::getuid().as_raw().into());
    header.set_gid(nix::unistd::getgid().as_raw().into());
    header.set_mtime(0);
    header.set_cksum();
    let bomb = header.as_bytes().chain(io::repeat(0));
    let error = Unpacker::new(&scene.root)
        .unpack(0, bomb, 0, &BTreeSet::new())
        .expect_err("refused");
    assert!(
        matches!(error, UnpackError::TooLarge { limit } if limit == members::SLACK),
        "{error}"
    );
}
