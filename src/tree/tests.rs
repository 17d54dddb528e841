//! Trees from directories and from memory.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Arc;

use super::*;

/// A directory with what scanning must get right.
fn playground() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    fs::create_dir(root.join("a-sibling")).unwrap();
    fs::write(root.join("a/file"), b"hello").unwrap();
    fs::set_permissions(root.join("a/file"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::hard_link(root.join("a/file"), root.join("z-link")).unwrap();
    symlink("/etc/passwd", root.join("absolute")).unwrap();
    symlink("/etc", root.join("a/b/outside")).unwrap();
    symlink("x".repeat(4095), root.join("long")).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(8 << 20).unwrap();
    sparse.write_all_at(&[7; 4096], 4 << 20).unwrap();
    nix::unistd::mkfifo(
        &root.join("fifo"),
        nix::sys::stat::Mode::from_bits_truncate(0o600),
    )
    .unwrap();
    for number in 0..200 {
        fs::write(root.join(format!("a/b/c/{number}")), vec![b'x'; number]).unwrap();
    }
    directory
}

fn scanned(root: &Path, options: &ScanOptions) -> Arc<Tree> {
    Arc::new(scan(root, options).unwrap())
}

fn read(tree: &Arc<Tree>, path: &str) -> Vec<u8> {
    let inode = tree.node(tree.find(path).unwrap()).inode;
    let Kind::File(content) = &tree.inode(inode).kind else {
        panic!("`{path}` is not a file")
    };
    let mut bytes = vec![0; usize::try_from(content.size).unwrap()];
    let read = tree.reader().read_at(inode, 0, &mut bytes).unwrap();
    assert_eq!(read, bytes.len());
    bytes
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let directory = playground();
    for number in 0..9000 {
        fs::write(directory.path().join(format!("a-sibling/{number}")), b"").unwrap();
    }
    let one = scanned(
        directory.path(),
        &ScanOptions {
            threads: 1,
            ..Default::default()
        },
    );
    for threads in [2, 16] {
        let many = scanned(
            directory.path(),
            &ScanOptions {
                threads,
                ..Default::default()
            },
        );
        assert!(one.dump() == many.dump());
        assert_eq!(one.allocated, many.allocated);
    }
}

#[test]
fn names_are_in_path_order_and_links_share_an_inode() {
    let directory = playground();
    let tree = scanned(directory.path(), &ScanOptions::default());
    let top: Vec<&[u8]> = tree
        .children(NodeId::ROOT)
        .iter()
        .map(|&id| tree.name(id))
        .collect();
    assert_eq!(
        top,
        [
            &b"a"[..],
            b"a-sibling",
            b"absolute",
            b"fifo",
            b"long",
            b"sparse",
            b"z-link"
        ]
    );
    let (file, link) = (tree.find("/a/file").unwrap(), tree.find("z-link").unwrap());
    assert_eq!(tree.node(file).inode, tree.node(link).inode);
    assert_eq!(tree.inode_of(file).links, 2);
    assert_eq!(tree.inode_of(file).mode, 0o4751);
    assert_eq!(tree.path(file), Path::new("/a/file"));
}

#[test]
fn links_are_kept_and_never_followed() {
    let directory = playground();
    let tree = scanned(directory.path(), &ScanOptions::default());
    for (path, target) in [
        ("/absolute", b"/etc/passwd".to_vec()),
        ("/a/b/outside", b"/etc".to_vec()),
        ("/long", vec![b'x'; 4095]),
    ] {
        assert_eq!(
            tree.inode_of(tree.find(path).unwrap()).kind,
            Kind::Symlink(target.into())
        );
    }
    assert_eq!(tree.find("/a/b/outside/passwd"), None);
}

#[test]
fn holes_are_found_and_read_as_zeros() {
    let directory = playground();
    let tree = scanned(directory.path(), &ScanOptions::default());
    let Kind::File(content) = &tree.inode_of(tree.find("/sparse").unwrap()).kind else {
        panic!()
    };
    if fs::metadata(directory.path().join("sparse"))
        .unwrap()
        .blocks()
        * 512
        < 8 << 20
    {
        let ranges: Vec<DataRange> = content.ranges().collect();
        assert_eq!(
            ranges,
            [DataRange {
                offset: 4 << 20,
                length: 4096
            }]
        );
    } else {
        println!("SKIP: no sparse files here");
    }
    let bytes = read(&tree, "/sparse");
    assert!(bytes[..4 << 20].iter().all(|&byte| byte == 0));
    assert_eq!(bytes[4 << 20], 7);
}

#[test]
fn pruned_directories_are_kept_empty() {
    let directory = playground();
    let options = ScanOptions {
        prune: vec!["/a/b".into(), "a-sibling/".into()],
        ..Default::default()
    };
    let tree = scanned(directory.path(), &options);
    assert!(tree.children(tree.find("/a/b").unwrap()).is_empty());
    assert!(tree.find("/a/file").is_some());
}

#[test]
fn later_times_are_clamped_and_earlier_ones_kept() {
    let directory = playground();
    let early = Timestamp {
        seconds: 1000,
        nanoseconds: 5,
    };
    let file = fs::File::open(directory.path().join("a/file")).unwrap();
    let time = nix::sys::time::TimeSpec::new(early.seconds, i64::from(early.nanoseconds));
    nix::sys::stat::futimens(&file, &time, &time).unwrap();
    let limit = Timestamp {
        seconds: 5000,
        nanoseconds: 0,
    };
    let tree = scanned(
        directory.path(),
        &ScanOptions {
            clamp_mtime: Some(limit),
            ..Default::default()
        },
    );
    assert_eq!(tree.inode_of(tree.find("/a/file").unwrap()).mtime, early);
    assert_eq!(tree.inode_of(tree.find("/a/b").unwrap()).mtime, limit);
}

#[derive(Debug)]
struct Everyone(u32);

impl Owners for Everyone {
    fn correct(&self, _key: live::FileKey, inode: &mut Inode) {
        inode.uid = self.0;
        inode.gid = self.0 + 1;
    }
}

#[test]
fn an_ownership_store_has_the_last_word() {
    let directory = playground();
    let options = ScanOptions {
        owners: Some(Arc::new(Everyone(77))),
        ..Default::default()
    };
    let tree = scanned(directory.path(), &options);
    assert!(
        tree.inodes()
            .all(|(_, inode)| (inode.uid, inode.gid) == (77, 78))
    );
}

#[test]
fn extended_attributes_are_read_and_equal_sets_are_shared() {
    let directory = playground();
    for name in ["a/file", "a/b/c/1"] {
        let file = fs::File::open(directory.path().join(name)).unwrap();
        // SAFETY: the descriptor is open, the name is terminated and the value
        // has the length given.
        let result = unsafe {
            libc::fsetxattr(
                file.as_raw_fd(),
                c"user.colour".as_ptr(),
                b"blue".as_ptr().cast(),
                4,
                0,
            )
        };
        if result != 0 {
            println!(
                "SKIP: no user attributes here: {}",
                std::io::Error::last_os_error()
            );
            return;
        }
    }
    let tree = scanned(directory.path(), &ScanOptions::default());
    let sets: Vec<_> = ["/a/file", "/a/b/c/1"]
        .iter()
        .map(|path| {
            tree.inode_of(tree.find(path).unwrap())
                .xattrs
                .clone()
                .unwrap()
        })
        .collect();
    assert_eq!(sets[0].get(&b"user.colour"[..]).unwrap().as_ref(), b"blue");
    assert!(Arc::ptr_eq(&sets[0], &sets[1]));
}

#[test]
fn disk_usage_is_that_of_du() {
    let directory = playground();
    let tree = scanned(directory.path(), &ScanOptions::default());
    let output = match std::process::Command::new("du")
        .args(["-a", "-c", "-x"])
        .arg(directory.path())
        .output()
    {
        Ok(output) if output.status.success() => output,
        _ => {
            println!("SKIP: no du");
            return;
        }
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let total = text
        .lines()
        .last()
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap();
    let allocated: u64 = tree.allocated.iter().sum();
    assert_eq!(allocated.div_ceil(1024).to_string(), total);
}

#[test]
fn a_file_that_shrank_says_how_much_is_left() {
    let directory = playground();
    let tree = scanned(directory.path(), &ScanOptions::default());
    let file = fs::OpenOptions::new()
        .write(true)
        .open(directory.path().join("a/file"))
        .unwrap();
    file.set_len(2).unwrap();
    let inode = tree.node(tree.find("/a/file").unwrap()).inode;
    let mut bytes = [9; 5];
    let error = tree.reader().read_at(inode, 0, &mut bytes).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Shrunk {
                expected: 5,
                end: 2,
                filled: 2,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(&bytes, b"he\x09\x09\x09");
    // Nor is it taken to end where somebody began to read.
    let error = tree.reader().read_at(inode, 4, &mut bytes).unwrap_err();
    assert!(matches!(error, Error::Shrunk { end: 2, .. }), "{error}");
}

#[test]
fn a_file_that_was_replaced_by_a_link_is_not_followed() {
    let directory = playground();
    let tree = scanned(directory.path(), &ScanOptions::default());
    fs::remove_file(directory.path().join("a/file")).unwrap();
    symlink("/etc/passwd", directory.path().join("a/file")).unwrap();
    let inode = tree.node(tree.find("/a/file").unwrap()).inode;
    let error = tree.reader().read_at(inode, 0, &mut [0; 5]).unwrap_err();
    assert!(error.to_string().contains("cannot open"), "{error}");
}

#[test]
fn readers_give_descriptors_of_files_and_none_of_memory() {
    let directory = playground();
    let scanned = scanned(directory.path(), &ScanOptions::default());
    let mut builder = scanned.edit();
    builder
        .insert("/memory", Inode::file(*b"memory", 0o644))
        .unwrap();
    let tree = Arc::new(builder.build().unwrap());
    let mut reader = tree.reader();
    let inode = |path: &str| tree.node(tree.find(path).unwrap()).inode;
    assert!(reader.file(inode("/a/file")).unwrap().is_some());
    assert!(reader.file(inode("/memory")).unwrap().is_none());
    assert!(reader.file(inode("/fifo")).is_err());
}

#[test]
fn an_edited_tree_shares_the_files_of_the_scanned_one() {
    let directory = playground();
    let original = scanned(directory.path(), &ScanOptions::default());
    let mut builder = original.edit();
    builder
        .insert("/a/aa/new", Inode::file(*b"new", 0o600))
        .unwrap();
    builder.insert("/a/b", Inode::directory(0o700)).unwrap();
    builder.hard_link("/another", "/a/file").unwrap();
    assert!(builder.remove("/a-sibling").unwrap());
    assert!(!builder.remove("/nothing/here").unwrap());
    let tree = Arc::new(builder.build().unwrap());
    assert_eq!(read(&tree, "/a/aa/new"), b"new");
    assert_eq!(read(&tree, "/a/b/c/199"), vec![b'x'; 199]);
    assert_eq!(read(&tree, "/another"), b"hello");
    assert_eq!(tree.find("/a-sibling"), None);
    let file = tree.inode_of(tree.find("/a/file").unwrap());
    assert_eq!(file.links, 3);
    assert_eq!(tree.inode_of(tree.find("/a/b").unwrap()).mode, 0o700);
    // Nothing else changed.
    let unchanged = |tree: &Tree| -> Vec<String> {
        tree.dump()
            .lines()
            .filter(|line| line.starts_with("/a/b/c") || line.starts_with("/sparse"))
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(unchanged(&tree), unchanged(&original));
}

#[test]
fn bad_paths_are_refused() {
    let mut builder = TreeBuilder::new();
    builder.insert("/file", Inode::file(*b"", 0o644)).unwrap();
    for path in ["/a/../b", "/file/below", "/"] {
        assert!(
            builder.insert(path, Inode::file(*b"", 0o644)).is_err(),
            "{path}"
        );
    }
    assert!(
        builder
            .insert(vec![b'x'; 256], Inode::file(*b"", 0o644))
            .is_err()
    );
    assert!(builder.insert(b"a\0b", Inode::file(*b"", 0o644)).is_err());
    assert!(builder.insert("/link", Inode::symlink("")).is_err());
    assert!(builder.hard_link("/x", "/missing").is_err());
    assert!(builder.hard_link("/x", "/").is_err());
    assert!(builder.remove("/").is_err());
}

#[test]
fn a_split_tree_keeps_mount_points_as_empty_directories() {
    let directory = playground();
    let tree = scanned(directory.path(), &ScanOptions::default());
    let parts = Arc::clone(&tree).split(&[b"/", b"/a/b", b"/boot/efi"]);
    let [root, below, efi] = parts.unwrap().try_into().unwrap();
    assert!(root.children(root.find("/a/b").unwrap()).is_empty());
    assert!(root.children(root.find("/boot/efi").unwrap()).is_empty());
    assert_eq!(read(&root, "/a/file"), b"hello");
    assert_eq!(read(&below, "/c/7"), b"xxxxxxx");
    assert_eq!(efi.nodes().len(), 1);
    assert!(tree.split(&[b"/a/file"]).is_err());

    // Nothing is below the mount point, so there is nothing to divide.
    let parts = Arc::clone(&root).split(&[b"/", b"/boot/efi"]).unwrap();
    assert!(Arc::ptr_eq(&parts[0], &root));
    assert_eq!(parts[1].nodes().len(), 1);
}

#[test]
fn the_dump_of_a_small_tree_is_readable() {
    let mut builder = TreeBuilder::new();
    builder
        .insert(
            "/etc/motd",
            Inode::file(*b"hi", 0o644)
                .owned_by(1, 2)
                .with_xattr("user.a", [1, 255]),
        )
        .unwrap()
        .insert("/a b", Inode::symlink("c\nd"))
        .unwrap()
        .insert(
            "/null",
            Inode::new(Kind::CharDevice(Device { major: 1, minor: 3 }), 0o666),
        )
        .unwrap()
        .hard_link("/motd", "/etc/motd")
        .unwrap();
    assert_eq!(
        builder.build().unwrap().dump(),
        "/ dir 0755 0:0 0.000000000\n\
         /a\\x20b symlink 0777 0:0 0.000000000 -> c\\x0ad\n\
         /etc dir 0755 0:0 0.000000000\n\
         /etc/motd file 0644 1:2 0.000000000 2 user.a=0x01ff\n\
         /motd = /etc/motd\n\
         /null char 0666 0:0 0.000000000 1:3\n"
    );
}

#[test]
fn what_is_below_other_mounts_is_not_in_the_tree() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP: mounting needs root");
        return;
    }
    let directory = playground();
    let root = directory.path().to_owned();
    // In a thread with a mount namespace of its own, so that nothing is left.
    let thread = std::thread::spawn(move || {
        use nix::mount::{MsFlags, mount};
        let none = None::<&str>;
        nix::sched::unshare(
            nix::sched::CloneFlags::CLONE_NEWNS | nix::sched::CloneFlags::CLONE_FS,
        )?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        mount(
            Some(&root.join("a-sibling")),
            &root.join("a/b"),
            none,
            MsFlags::MS_BIND,
            none,
        )?;
        let covered = scan(&root, &ScanOptions::default());
        mount(
            Some(&root.join("sparse")),
            &root.join("a/file"),
            none,
            MsFlags::MS_BIND,
            none,
        )?;
        Ok::<_, nix::errno::Errno>((covered, scan(&root, &ScanOptions::default())))
    });
    let (covered, refused) = match thread.join().unwrap() {
        Ok(results) => results,
        Err(error) => {
            println!("SKIP: cannot mount here: {error}");
            return;
        }
    };
    let covered = covered.unwrap();
    assert!(covered.children(covered.find("/a/b").unwrap()).is_empty());
    assert!(
        matches!(refused, Err(Error::MountedFile { .. })),
        "{refused:?}"
    );
}
