//! What tests of several filesystems share: a tree with everything in it, images
//! in files, and the kernel's view of them.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::disk::{Disk, Volume};
use crate::tree::{Device, Inode, Kind, ScanOptions, Timestamp, Tree, TreeBuilder, scan};

/// A tree with every kind of file, odd names, links, attributes, and directories
/// from empty to large.
pub(crate) fn everything() -> Arc<Tree> {
    let mut tree = TreeBuilder::new();
    let at = |seconds, nanoseconds| Timestamp {
        seconds,
        nanoseconds,
    };
    let mut put = |path: &str, inode: Inode| {
        tree.insert(path, inode).map(drop).expect(path);
    };
    put("/", Inode::directory(0o755).modified(at(1_600_000_000, 7)));
    put("/empty", Inode::file(Vec::new(), 0o644));
    put("/tiny", Inode::file(*b"x", 0o4755).owned_by(7, 8));
    put(
        "/half",
        Inode::file(vec![3; 2500], 0o640).modified(at(1_700_000_000, 123_456_789)),
    );
    let large: Vec<u8> = (0..3_000_001_u32).map(|n| (n % 251) as u8).collect();
    put("/large", Inode::file(large, 0o600).owned_by(70_000, 80_000));
    put(
        "/after 2038",
        Inode::file(*b"2040", 0o644).modified(at(2_208_988_800, 1)),
    );
    put("/tmp", Inode::directory(0o1777));
    put("/sgid", Inode::directory(0o2775).owned_by(0, 50));
    put("/pipe", Inode::new(Kind::Fifo, 0o620));
    put("/socket", Inode::new(Kind::Socket, 0o755));
    let device = |major, minor| Device { major, minor };
    put(
        "/dev/null",
        Inode::new(Kind::CharDevice(device(1, 3)), 0o666),
    );
    put(
        "/dev/vda",
        Inode::new(Kind::BlockDevice(device(252, 70_000)), 0o660),
    );
    put("/link", Inode::symlink("tiny"));
    put("/link with spaces", Inode::symlink("to some where"));
    put("/long link", Inode::symlink("l".repeat(900)));
    for name in [
        "a b",
        " lead",
        "trail ",
        "tab\there",
        ":colon",
        "two  gaps",
        "ümläut",
    ] {
        put(
            &format!("/names/{name}"),
            Inode::file(name.as_bytes().to_vec(), 0o644),
        );
    }
    put(
        &format!("/names/{}", "n".repeat(255)),
        Inode::file(*b"n", 0o644),
    );
    for number in 0..40 {
        put(&format!("/forty/{number}"), Inode::file(Vec::new(), 0o644));
    }
    for number in 0..700 {
        let name = format!("/hundreds/a rather long name for entry number {number:05}");
        put(&name, Inode::file(number.to_string().into_bytes(), 0o644));
    }
    for number in 0..3000 {
        let inode = Inode::file(Vec::new(), 0o600).owned_by(number, number);
        put(&format!("/thousands/entry-{number}"), inode);
    }
    put("/with space/many names", Inode::file(*b"many", 0o644));
    for number in 0..300 {
        put(
            &format!("/spaces/{number} and more text"),
            Inode::file(*b"s", 0o644),
        );
    }
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let labelled = Inode::file(*b"ping", 0o755)
        .with_xattr("security.capability", capability)
        .with_xattr("user.note", "kept");
    put("/bin/ping", labelled);
    let acl = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\xe8\x03\0\0\x04\0\x04\0\xff\xff\xff\xff\x10\0\x04\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
    put(
        "/shared/list",
        Inode::file(*b"acl", 0o640).with_xattr("system.posix_acl_access", acl),
    );
    put(
        "/shared",
        Inode::directory(0o750).with_xattr("trusted.note", "y"),
    );
    for (path, to) in [
        ("/bin/ping2", "/bin/ping"),
        ("/thousands/second", "/tiny"),
        ("/hundreds/second", "/tiny"),
        ("/names/second name", "/tiny"),
        ("/spaces/second", "/large"),
        ("/aaa first", "/names/a b"),
        ("/link2", "/link"),
        ("/long link2", "/long link"),
        ("/dev/zero2", "/dev/null"),
    ] {
        tree.hard_link(path, to).expect(path);
    }
    Arc::new(tree.build().expect("it is a tree"))
}

/// Writes a volume into a file.
pub(crate) fn write(volume: Volume, path: &Path) {
    let mut builder = Disk::builder(volume.length, 512);
    builder.volume("filesystem", 0, volume);
    let disk = builder.build().expect("it is a disk");
    let file = std::fs::File::create(path).expect("made");
    file.set_len(disk.length()).expect("sized");
    let mut reader = disk.reader();
    for range in disk.data_ranges() {
        let mut bytes = vec![0; usize::try_from(range.length).expect("it fits")];
        reader.read_at(range.offset, &mut bytes).expect("read");
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes, range.offset).expect("written");
    }
}

/// Compares what the kernel sees with the tree, where mounting is allowed.
pub(crate) fn assert_kernel_sees(image: &Path, fstype: &str, tree: &Arc<Tree>) {
    // XFS is mounted once by each UUID, and these images have theirs from the test.
    let options = match fstype {
        "xfs" => "loop,ro,nouuid",
        _ => "loop,ro",
    };
    let Some(mounted) = Mounted::new(image, fstype, options) else {
        return;
    };
    let found = Arc::new(scan(mounted.path(), &ScanOptions::default()).expect("scanned"));
    // XFS shows how it stores access control lists, too.
    let own_form = |word: &&str| !word.starts_with("trusted.SGI_ACL_");
    let found_text: Vec<String> = found
        .dump()
        .lines()
        .map(|line| {
            line.split(' ')
                .filter(own_form)
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    let found_text = found_text.join("\n");
    let expected_text = tree.dump();
    for (found, expected) in found_text.lines().zip(expected_text.lines()) {
        assert!(
            found == expected,
            "found    {found:.300}\nexpected {expected:.300}"
        );
    }
    assert_eq!(found_text.lines().count(), expected_text.lines().count());
    for (id, node) in tree.nodes() {
        if let Kind::File(_) = tree.inode(node.inode).kind {
            let path = tree.path(id);
            let same = found
                .find(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()))
                .expect("the dumps are equal");
            let bytes = found.read_small(same).expect("read");
            assert!(
                bytes == tree.read_small(id).expect("read"),
                "{}",
                path.display()
            );
        }
    }
}

/// A mounted image; unmounts when dropped.
///
/// The mount is seen by the thread that made it and by what this starts, so that it ends
/// with the process even if that is killed.
pub(crate) struct Mounted {
    directory: tempfile::TempDir,
}

impl Mounted {
    /// `None` (with a message) where this is not allowed.
    pub(crate) fn new(image: &Path, fstype: &str, options: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIP: mounting needs root");
            return None;
        }
        if let Err(errno) = own_mounts() {
            println!("SKIP: no mounts of one's own are to be had here: {errno}");
            return None;
        }
        let directory = tempfile::tempdir().expect("made");
        let output = Command::new("mount")
            .args(["-t", fstype, "-o", options])
            .arg(image)
            .arg(directory.path())
            .output();
        match output {
            Ok(output) if output.status.success() => Some(Self { directory }),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(
                    [
                        "unknown filesystem",
                        "ermission denied",
                        "loop device",
                        "not permitted"
                    ]
                    .iter()
                    .any(|reason| said.contains(reason)),
                    "{said}"
                );
                println!("SKIP: cannot mount {fstype} here: {said}");
                None
            }
            Err(error) => {
                println!("SKIP: cannot run mount: {error}");
                None
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// Gives the thread a mount namespace whose changes nobody else sees.
fn own_mounts() -> nix::Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
    nix::mount::mount(none, "/", none, private, none)
}

impl Drop for Mounted {
    /// Other tests of this process fork at any moment, and such a child holds what
    /// is open here until it executes a program or closes it: a busy filesystem is
    /// tried again.
    fn drop(&mut self) {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let output = Command::new("umount").arg(self.path()).output();
            let said = match output {
                Ok(output) if output.status.success() => return,
                Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
                Err(error) => error.to_string(),
            };
            // A test that has failed already says why better than this can.
            if std::thread::panicking() {
                return;
            }
            assert!(said.contains("busy") && Instant::now() < end, "{said}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
