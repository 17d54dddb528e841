//! Which paths of a target are not in the target, by their text: absolute, or
//! relative to a directory whose own path is known, after `.` and `..`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::errno::Errno;

use crate::sandbox::host::is_secret;
use crate::sandbox::standin::NODES;

/// Where a path of a target leads that is not in the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Below `/proc`; `self` and `thread-self` at the beginning are the asker's.
    Proc(Vec<u8>),
    /// Same, through a link of the target's own `/dev`.
    Link(&'static str),
    /// The mount table, in the form of `mounts` or of `mountinfo`.
    Mounts(bool),
    /// The root of the first process, by which programs see that theirs is another.
    Root,
    /// Below `/sys`.
    Sys(Vec<u8>),
    /// A device of this name.
    Device(&'static str),
    /// `/etc/mtab`, if that is a link to the mount table.
    Mtab,
}

impl Place {
    /// How a call about it fails because it tells what no build needs: one that opens such a
    /// file or directory, and any about what is in one.
    pub(super) fn is_kept(&self, opens: bool) -> Result<(), Errno> {
        let (top, rest) = match self {
            Place::Proc(rest) => ("/proc", rest),
            Place::Sys(rest) => ("/sys", rest),
            _ => return Ok(()),
        };
        let path = Path::new(top).join(OsStr::from_bytes(rest));
        if path.parent().is_some_and(is_secret) {
            return Err(Errno::ENOENT);
        }
        if opens && is_secret(&path) {
            return Err(Errno::EACCES);
        }
        Ok(())
    }
}

/// Whether a path may lead out, without looking further: cheap, since every path of
/// every call comes here.
pub(super) fn suspicious(path: &[u8]) -> bool {
    match path.strip_prefix(b"/") {
        Some(rest) => [&b"proc"[..], b"dev/", b"sys", b"etc/mtab", b"/", b"."]
            .iter()
            .any(|start| rest.starts_with(start)),
        // Relative to the root, to `/dev` or to what is anywhere.
        None => {
            let first = path.split(|&byte| byte == b'/').next().unwrap_or_default();
            matches!(
                first,
                b".." | b"." | b"proc" | b"sys" | b"dev" | b"etc" | b"fd" | b"mtab"
            ) || first.starts_with(b"std")
                || NODES.iter().any(|(name, _, _)| name.as_bytes() == first)
        }
    }
}

/// Takes `.`, `..` and empty names out of an absolute path, by text alone.
fn normal(path: &[u8]) -> Vec<&[u8]> {
    let mut names = Vec::new();
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            _ => names.push(name),
        }
    }
    names
}

/// Where a path leads that is absolute in the target. One that ends with a slash means a
/// directory, even if its last name is that of a link (`path_resolution(7)`); below `/proc`
/// and `/sys` the slash is kept.
pub(super) fn place(path: &[u8]) -> Option<Place> {
    let names = normal(path);
    let means_directory = path.ends_with(b"/") || path.ends_with(b"/.");
    let rest = |from: usize| {
        let mut rest = names.get(from..).unwrap_or_default().join(&b'/');
        if means_directory && !rest.is_empty() {
            rest.push(b'/');
        }
        rest
    };
    Some(match names.as_slice() {
        [b"proc", b"mounts"] | [b"proc", b"self" | b"thread-self", b"mounts"] => {
            Place::Mounts(false)
        }
        [b"proc", b"self" | b"thread-self", b"mountinfo"] => Place::Mounts(true),
        [b"proc", b"1", b"root"] => Place::Root,
        [b"proc", ..] => Place::Proc(rest(1)),
        [b"sys", ..] => Place::Sys(rest(1)),
        [b"etc", b"mtab"] => Place::Mtab,
        [b"dev", b"fd"] if !means_directory => Place::Link("self/fd"),
        [b"dev", b"fd", ..] => Place::Proc([&b"self/fd"[..], &rest(2)].join(&b'/')),
        [b"dev", b"stdin"] => Place::Link("self/fd/0"),
        [b"dev", b"stdout"] => Place::Link("self/fd/1"),
        [b"dev", b"stderr"] => Place::Link("self/fd/2"),
        [b"dev", name] => Place::Device(
            NODES
                .iter()
                .find(|(node, _, _)| node.as_bytes() == *name)?
                .0,
        ),
        _ => return None,
    })
}

/// The table of mounts that a target has as far as its programs can see.
pub(super) fn mount_table(info: bool) -> &'static [u8] {
    if info {
        b"20 1 0:20 / / rw - rootfs rootfs rw\n\
          21 20 0:21 / /proc rw,nosuid,nodev,noexec - proc proc rw\n\
          22 20 0:22 / /sys ro,nosuid,nodev,noexec - sysfs sysfs ro\n\
          23 20 0:23 / /dev rw,nosuid,noexec - tmpfs dev rw,mode=755\n"
    } else {
        b"rootfs / rootfs rw 0 0\n\
          proc /proc proc rw,nosuid,nodev,noexec 0 0\n\
          sysfs /sys sysfs ro,nosuid,nodev,noexec 0 0\n\
          dev /dev tmpfs rw,nosuid,noexec,mode=755 0 0\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_out_of_the_target_are_recognised_by_their_text() {
        let proc = |rest: &str| Some(Place::Proc(rest.into()));
        for (path, expected) in [
            ("/proc", proc("")),
            ("/proc/", proc("")),
            ("/proc/self/status", proc("self/status")),
            ("//proc/./1/../2/fd", proc("2/fd")),
            ("/usr/../proc/uptime", proc("uptime")),
            ("/dev/fd/7", proc("self/fd/7")),
            ("/dev/stdin", Some(Place::Link("self/fd/0"))),
            ("/dev/fd", Some(Place::Link("self/fd"))),
            ("/dev/fd/", proc("self/fd/")),
            ("/proc/self/", proc("self/")),
            ("/proc/self/.", proc("self/")),
            ("/proc/self/..", proc("")),
            ("/proc/mounts", Some(Place::Mounts(false))),
            ("/proc/self/mountinfo", Some(Place::Mounts(true))),
            ("/etc/mtab", Some(Place::Mtab)),
            ("/proc/1/root", Some(Place::Root)),
            ("/sys/class/net", Some(Place::Sys("class/net".into()))),
            ("/dev/null", Some(Place::Device("null"))),
            ("/dev/sda", None),
            ("/process", None),
            ("/etc/passwd", None),
            ("/srv/proc/self", None),
        ] {
            assert_eq!(place(path.as_bytes()), expected, "{path}");
            assert!(expected.is_none() || path.starts_with("/usr") || suspicious(path.as_bytes()));
        }
    }
}
