//! The list of what is not simply root's, and a copy with all of that: what the
//! supervisor tells of a directory must be what it tells of each file.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use kiln::rootfs::{copy, owners};
use kiln::sandbox::emul;
use kiln::sandbox::store::SPECIAL;
use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use super::program::{acl, must, same};

/// Names of this length do not all fit into an attribute.
const LONG: usize = 240;
const MANY: usize = 300;

/// What is special of a file: owner, device and attributes, as text.
type Special = BTreeMap<PathBuf, String>;

/// Makes files of every kind, lists and copies them.
pub fn run() {
    let root = Path::new("listed");
    make(root).unwrap_or_else(|error| wrong(&format!("making files: {error}")));
    same("told", told(root).is_ok(), true);
    same("too many", told(&root.join("many")), Err(Errno::ERANGE));
    let names = must("told", told(&root.join("plain")));
    same("plain files", names, Vec::new());
    let file = open(&root.join("plain/0"));
    same("no directory", ask(&file).is_err(), true);
    let set = attribute(&root.join("plain"), SPECIAL, "x");
    same("ours", set.is_err(), true);

    let expected = asked(root);
    same("enough", expected.len() > MANY, true);
    same("the list", listed(root), expected.clone());
    let copy = Path::new("../copy");
    // New files get the group of such a directory, but a copy is to be like the original.
    fs::create_dir(copy).expect("made");
    chown(copy, None, Some(7)).expect("allowed");
    fs::set_permissions(copy, fs::Permissions::from_mode(0o2775)).expect("ours");
    copy::copy_tree(root, copy).unwrap_or_else(|error| wrong(&format!("copying: {error:?}")));
    // Where `stat` is not answered, a copy of a device is an empty file before this.
    let list = Path::new("../list");
    owners::apply(list, copy).unwrap_or_else(|error| wrong(&format!("applying: {error:?}")));
    same("the copy", asked(copy), expected.clone());
    same("the copy's list", listed(copy), expected);
    fs::remove_dir_all(copy).expect("ours");
    fs::remove_file(list).expect("ours");
}

fn wrong(what: &str) -> ! {
    println!("WRONG {what}");
    std::process::exit(3)
}

fn make(root: &Path) -> std::io::Result<()> {
    for directory in ["plain/below", "many", "group", "devices", "of/some"] {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::write(root.join("roots"), "x")?;
    fs::write(root.join("the groups"), "x")?;
    chown(root.join("the groups"), None, Some(7))?;
    symlink("nowhere", root.join("link"))?;
    for number in 0..40 {
        fs::write(root.join(format!("plain/{number}")), "x")?;
    }
    for number in 0..MANY {
        let path = root.join("many").join(format!("{number:0LONG$}"));
        fs::write(&path, "")?;
        chown(&path, Some(5), Some(6))?;
    }
    chown(root.join("group"), None, Some(7))?;
    fs::set_permissions(root.join("group"), fs::Permissions::from_mode(0o2775))?;
    fs::write(root.join("group/file"), "")?;
    fs::create_dir(root.join("group/below"))?;
    fs::create_dir(root.join("group/back"))?;
    chown(root.join("group/back"), Some(0), Some(0))?;
    fs::write(root.join("of/some/owner"), "x")?;
    chown(root.join("of/some/owner"), Some(1), Some(0))?;
    fs::hard_link(root.join("of/some/owner"), root.join("of/twin"))?;
    symlink("nowhere", root.join("of/link"))?;
    lchown(root.join("of/link"), Some(0), Some(2))?;
    symlink("nowhere", root.join("plain/link"))?;
    let mode = Mode::from_bits_truncate(0o640);
    for (name, kind, number) in [
        ("devices/block", SFlag::S_IFBLK, makedev(8, 70)),
        ("devices/character", SFlag::S_IFCHR, makedev(5, 70000)),
        ("devices/pipe", SFlag::S_IFIFO, 0),
        ("device", SFlag::S_IFCHR, makedev(1, 3)),
        ("pipe", SFlag::S_IFIFO, 0),
    ] {
        mknod(&root.join(name), kind, mode, number)?;
    }
    for name in ["file", "directory"] {
        let path = root.join("of").join(name);
        if name == "file" {
            fs::write(&path, "x")?;
        } else {
            fs::create_dir(&path)?;
        }
        attribute(&path, c"trusted.kiln", "of/it")?;
        attribute(&path, c"security.kiln", "label")?;
    }
    fs::write(root.join("of/acl"), "")?;
    attribute(
        &root.join("of/acl"),
        c"system.posix_acl_access",
        acl([6, 4, 4, 4, 4]),
    )?;
    Ok(())
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no zero")
}

fn attribute(path: &Path, name: &CStr, value: impl AsRef<[u8]>) -> Result<(), Errno> {
    let (path, value) = (c_path(path), value.as_ref());
    call!(
        libc::SYS_setxattr,
        path.as_ptr(),
        name.as_ptr(),
        value.as_ptr(),
        value.len(),
        0
    )
    .map(drop)
}

fn open(path: &Path) -> fs::File {
    fs::File::open(path).unwrap_or_else(|error| wrong(&format!("{}: {error}", path.display())))
}

fn ask(file: &fs::File) -> Result<Vec<u8>, Errno> {
    use std::os::fd::AsRawFd as _;
    let mut value = vec![0_u8; 65536];
    let count = call!(
        libc::SYS_fgetxattr,
        file.as_raw_fd(),
        SPECIAL.as_ptr(),
        value.as_mut_ptr(),
        value.len()
    )?;
    value.truncate(usize::try_from(count).expect("no error"));
    Ok(value)
}

/// What the supervisor says about a directory.
fn told(path: &Path) -> Result<Vec<u8>, Errno> {
    ask(&open(path))
}

/// An attribute, or the names of all where none is named.
fn value(path: &Path, name: Option<&CStr>) -> Vec<u8> {
    let (path, mut value) = (c_path(path), vec![0_u8; 65536]);
    let (into, room) = (value.as_mut_ptr(), value.len());
    let count = match name {
        Some(name) => call!(
            libc::SYS_lgetxattr,
            path.as_ptr(),
            name.as_ptr(),
            into,
            room
        ),
        None => call!(libc::SYS_llistxattr, path.as_ptr(), into, room),
    };
    value.truncate(usize::try_from(count.unwrap_or(0)).expect("no error"));
    value
}

/// What each file says when it is asked.
fn asked(root: &Path) -> Special {
    let mut found = Special::new();
    let mut todo = vec![PathBuf::from(".")];
    while let Some(path) = todo.pop() {
        let file = root.join(&path);
        let meta = fs::symlink_metadata(&file).expect("there");
        if meta.is_dir() {
            for entry in fs::read_dir(&file).expect("there") {
                let name = entry.expect("there").file_name();
                todo.push(path.strip_prefix(".").unwrap_or(&path).join(name));
            }
        }
        let device = String::from_utf8(value(&file, Some(emul::DEVICE))).expect("text");
        let (kind, number) = match meta.mode() & libc::S_IFMT {
            libc::S_IFBLK => ("b", Some(meta.rdev())),
            libc::S_IFCHR => ("c", Some(meta.rdev())),
            _ => ("", None),
        };
        let device = match (device.split(' ').collect::<Vec<_>>().as_slice(), number) {
            ([kind, major, minor], _) => {
                let number = |word: &str| word.parse().expect("a number");
                format!("{kind} {}", makedev(number(major), number(minor)))
            }
            (_, Some(number)) => format!("{kind} {number}"),
            _ => String::new(),
        };
        let mut attributes = BTreeMap::new();
        for name in value(&file, None).split(|&byte| byte == 0) {
            if !name.is_empty() && !name.starts_with(b"user.") && !meta.is_symlink() {
                let c_name = CString::new(name).expect("no zero");
                let name = String::from_utf8_lossy(name).into_owned();
                attributes.insert(name, escaped(&value(&file, Some(&c_name))));
            }
        }
        let owner = (meta.uid(), meta.gid());
        if owner != (0, 0) || !device.is_empty() || !attributes.is_empty() {
            found.insert(path, format!("{owner:?} {device} {attributes:?}"));
        }
    }
    found
}

/// As the list has bytes.
fn escaped(bytes: &[u8]) -> String {
    let plain = |byte: u8| (byte.is_ascii_graphic() || byte == b' ') && byte != b'%';
    let each = bytes.iter().map(|&byte| {
        if plain(byte) {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02x}")
        }
    });
    each.collect()
}

/// What is in the list of a tree.
fn listed(root: &Path) -> Special {
    let list = Path::new("../list");
    owners::save(root, list, true).unwrap_or_else(|error| wrong(&format!("listing: {error}")));
    let text = fs::read_to_string(list).expect("written");
    let entry = |line: &str| {
        let entry: serde_json::Value = serde_json::from_str(line).expect("a list");
        let number = |name: &str| entry[name].as_u64().expect("a number");
        let device = match entry["device"].as_array() {
            Some(pair) => format!("{} {}", pair[0].as_str().expect("a letter"), pair[1]),
            None => String::new(),
        };
        let attributes: BTreeMap<String, String> = entry["xattrs"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.clone(), value.as_str().expect("text").to_owned()))
            .collect();
        let owner = (number("uid"), number("gid"));
        let path = PathBuf::from(entry["path"].as_str().expect("a path"));
        (path, format!("{owner:?} {device} {attributes:?}"))
    };
    text.lines().map(entry).collect()
}
