//! dpkg's database of a root in which packages were unpacked, written natively.
//!
//! Written is exactly what `dpkg --unpack` leaves: an `unpacked` entry in
//! `status`, the control files in `info` and the interests in `triggers`. Only
//! packages whose unpacking is more than copying files are left to the target's
//! own dpkg: those with a `preinst`, those that share a file with another
//! package, and those that use a rare feature.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::deb::ControlFile;
use super::unpack::Unpacked;
use crate::rootfs::beneath::Root;

/// A package that was unpacked natively.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its architecture.
    pub arch: &'a str,
    /// Whether dpkg names its files with the architecture.
    pub qualified: bool,
    /// Its control files.
    pub control: &'a BTreeMap<String, ControlFile>,
    /// Its paths and configuration files.
    pub unpacked: &'a Unpacked,
}

/// Where the database is.
pub const ADMIN: &str = "var/lib/dpkg";

/// Returns the configuration files of a package as its `conffiles` names them.
///
/// `None` when a line has a flag, which dpkg has to deal with.
pub fn conffiles(control: &BTreeMap<String, ControlFile>) -> Option<Vec<Vec<u8>>> {
    let Some(file) = control.get("conffiles") else {
        return Some(Vec::new());
    };
    let mut names = Vec::new();
    for line in file.bytes.split(|byte| *byte == b'\n') {
        let line = line.trim_ascii_end();
        if line.is_empty() {
            continue;
        }
        if !line.starts_with(b"/") {
            return None;
        }
        names.push(line.to_vec());
    }
    Some(names)
}

/// Tells why unpacking a package must be left to dpkg; `None` when we can do it.
pub fn needs_dpkg(control: &BTreeMap<String, ControlFile>) -> Option<&'static str> {
    if control.contains_key("preinst") {
        Some("it has a preinst")
    } else if !control.contains_key("md5sums") {
        // dpkg computes them then.
        Some("it has no md5sums")
    } else if conffiles(control).is_none() {
        Some("its conffiles have flags")
    } else {
        None
    }
}

/// Writes the database.
pub fn write_state(root: &Root, entries: &[Entry<'_>]) -> io::Result<()> {
    let admin = Path::new(ADMIN);
    for directory in ["info", "triggers", "updates", "parts", "alternatives"] {
        root.make_dirs(&admin.join(directory))?;
    }
    root.write(&admin.join("info/format"), b"1\n", 0o644)?;
    let mut status = Vec::new();
    let mut interests: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in entries {
        status.extend(status_paragraph(entry)?);
        write_info(root, entry)?;
        collect_interests(entry, &mut interests);
    }
    write_triggers(root, &interests)?;
    root.write(&admin.join("status"), &status, 0o644)?;
    if root.stat(&admin.join("available"))?.is_none() {
        root.write(&admin.join("available"), b"", 0o644)?;
    }
    Ok(())
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// The package's own control paragraph with its state.
fn status_paragraph(entry: &Entry<'_>) -> io::Result<Vec<u8>> {
    let control = entry
        .control
        .get("control")
        .ok_or_else(|| invalid(format!("package `{}` has no control file", entry.name)))?;
    let mut out = Vec::new();
    let mut stated = false;
    for line in control.bytes.split(|byte| *byte == b'\n') {
        if line.trim_ascii().is_empty() {
            continue;
        }
        out.extend_from_slice(line);
        out.push(b'\n');
        if !stated && line.to_ascii_lowercase().starts_with(b"package:") {
            out.extend_from_slice(b"Status: install ok unpacked\n");
            stated = true;
        }
    }
    if !stated {
        return Err(invalid(format!(
            "package `{}` does not name itself",
            entry.name
        )));
    }
    let names = conffiles(entry.control).unwrap_or_default();
    let mut lines = Vec::new();
    for name in names {
        // A file that the package names but does not ship is none of dpkg's business.
        if let Some(md5) = entry.unpacked.conffiles.get(&name) {
            lines.push(b' ');
            lines.extend_from_slice(&name);
            lines.push(b' ');
            lines.extend_from_slice(md5.as_bytes());
            lines.push(b'\n');
        }
    }
    if !lines.is_empty() {
        out.extend_from_slice(b"Conffiles:\n");
        out.extend_from_slice(&lines);
    }
    out.push(b'\n');
    Ok(out)
}

fn write_info(root: &Root, entry: &Entry<'_>) -> io::Result<()> {
    let info = Path::new(ADMIN).join("info");
    let stem = if entry.qualified {
        format!("{}:{}", entry.name, entry.arch)
    } else {
        entry.name.to_owned()
    };
    let mut list = Vec::new();
    for path in &entry.unpacked.list {
        list.extend_from_slice(path);
        list.push(b'\n');
    }
    root.write(&info.join(format!("{stem}.list")), &list, 0o644)?;
    for (name, file) in entry.control {
        if name == "control" || name == "list" {
            continue;
        }
        let path = info.join(format!("{stem}.{name}"));
        let mut written = root.create(&path, file.mode)?;
        io::Write::write_all(&mut written, &file.bytes)?;
        let time = std::time::UNIX_EPOCH
            .checked_add(std::time::Duration::from_secs(file.mtime))
            .unwrap_or(std::time::UNIX_EPOCH);
        written.set_modified(time)?;
    }
    Ok(())
}

/// Reads the `interest` lines of a package's `triggers`.
fn collect_interests(entry: &Entry<'_>, interests: &mut BTreeMap<String, Vec<String>>) {
    let Some(file) = entry.control.get("triggers") else {
        return;
    };
    let name = if entry.qualified {
        format!("{}:{}", entry.name, entry.arch)
    } else {
        entry.name.to_owned()
    };
    for line in String::from_utf8_lossy(&file.bytes).lines() {
        let line = line.split('#').next().unwrap_or("");
        let mut words = line.split_ascii_whitespace();
        let (Some(directive), Some(trigger)) = (words.next(), words.next()) else {
            continue;
        };
        let who = match directive {
            "interest" | "interest-await" => name.clone(),
            "interest-noawait" => format!("{name}/noawait"),
            _ => continue,
        };
        interests.entry(trigger.to_owned()).or_default().push(who);
    }
}

/// Writes `triggers/File` for paths and a file for each named trigger.
fn write_triggers(root: &Root, interests: &BTreeMap<String, Vec<String>>) -> io::Result<()> {
    let directory = Path::new(ADMIN).join("triggers");
    let mut paths = String::new();
    for (trigger, names) in interests {
        if trigger.starts_with('/') {
            for name in names {
                paths.push_str(&format!("{trigger} {name}\n"));
            }
        } else if trigger
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-+.:_".contains(&byte))
            && !trigger.starts_with('.')
        {
            let lines: String = names.iter().map(|name| format!("{name}\n")).collect();
            root.write(&directory.join(trigger), lines.as_bytes(), 0o644)?;
        }
    }
    root.write(&directory.join("File"), paths.as_bytes(), 0o644)?;
    root.write(&directory.join("Unincorp"), b"", 0o644)?;
    Ok(())
}

/// Returns the packages of a status file that are not `install ok installed`, with their state.
pub fn unconfigured(status: &str) -> Vec<String> {
    super::control::paragraphs(status)
        .map_while(Result::ok)
        .filter_map(|paragraph| {
            let state = paragraph.get("Status")?;
            (state != "install ok installed")
                .then(|| format!("{} ({state})", paragraph.get("Package").unwrap_or("?")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(files: &[(&str, &str)]) -> BTreeMap<String, ControlFile> {
        files
            .iter()
            .map(|(name, text)| {
                let file = ControlFile {
                    bytes: text.as_bytes().to_vec(),
                    mode: 0o644,
                    mtime: 1,
                };
                ((*name).to_owned(), file)
            })
            .collect()
    }

    #[test]
    fn the_database_is_as_dpkg_writes_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = Root::open(dir.path()).expect("opened");
        let control = control(&[
            (
                "control",
                "Package: liba\nVersion: 1\nArchitecture: amd64\nMaintainer: x <x@example.org>\nDescription: y\n",
            ),
            ("conffiles", "/etc/a.conf\n/etc/gone\n"),
            ("md5sums", ""),
            (
                "triggers",
                "interest-noawait ldconfig\ninterest /usr/share/x # note\nactivate y\n",
            ),
        ]);
        let unpacked = Unpacked {
            list: vec![b"/.".to_vec(), b"/etc".to_vec(), b"/etc/a.conf".to_vec()],
            conffiles: BTreeMap::from([(
                b"/etc/a.conf".to_vec(),
                "d41d8cd98f00b204e9800998ecf8427e".to_owned(),
            )]),
        };
        let entry = Entry {
            name: "liba",
            arch: "amd64",
            qualified: true,
            control: &control,
            unpacked: &unpacked,
        };
        write_state(&root, &[entry]).expect("written");
        let read =
            |name: &str| fs_err::read_to_string(dir.path().join(ADMIN).join(name)).expect(name);
        assert_eq!(
            read("status"),
            "Package: liba\nStatus: install ok unpacked\nVersion: 1\nArchitecture: amd64\nMaintainer: x <x@example.org>\n\
             Description: y\nConffiles:\n /etc/a.conf d41d8cd98f00b204e9800998ecf8427e\n\n"
        );
        assert_eq!(read("info/liba:amd64.list"), "/.\n/etc\n/etc/a.conf\n");
        assert_eq!(read("triggers/ldconfig"), "liba:amd64/noawait\n");
        assert_eq!(read("triggers/File"), "/usr/share/x liba:amd64\n");
        assert_eq!(
            unconfigured(&read("status")),
            ["liba (install ok unpacked)"]
        );
    }

    #[test]
    fn what_is_more_than_copying_is_left_to_dpkg() {
        for (files, left) in [
            (&[("md5sums", "")][..], false),
            (&[("md5sums", ""), ("conffiles", "/etc/a\n")], false),
            (&[], true),
            (&[("md5sums", ""), ("preinst", "")], true),
            (
                &[("md5sums", ""), ("conffiles", "remove-on-upgrade /etc/a\n")],
                true,
            ),
        ] {
            assert_eq!(needs_dpkg(&control(files)).is_some(), left, "{files:?}");
        }
    }
}
