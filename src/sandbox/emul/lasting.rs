//! Which files outlive a build: those of the host's filesystems, but for the build's own
//! directory.
//!
//! A filesystem is known by its device and not by where it is mounted, since hooks bind and
//! mount as they like. What a build's directory on disk shares a filesystem with is told apart
//! by the mount that a file was named through: hooks cannot rename what is above that directory
//! ([`host`](crate::sandbox::host)), and what is below one mount cannot be moved or linked to
//! below another. See `proc_pid_mountinfo(5)`.

use std::path::Path;

use super::overlay::upper_of;
use crate::sandbox::mounts::unescape;

/// Filesystems in memory, and those that a program serves: whoever mounts one has it alone.
fn is_own_kind(kind: &[u8]) -> bool {
    matches!(kind, b"tmpfs" | b"ramfs" | b"fuse" | b"fuseblk") || kind.starts_with(b"fuse.")
}

/// A mount, as a table of mounts tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    id: u64,
    device: (u32, u32),
    /// The directory of the filesystem that is mounted.
    pub(super) root: Vec<u8>,
    /// Where.
    pub(super) point: Vec<u8>,
    kind: Vec<u8>,
    options: Vec<u8>,
}

impl Mount {
    fn parse(line: &[u8]) -> Option<Mount> {
        let number = |word: &[u8]| std::str::from_utf8(word).ok()?.parse::<u32>().ok();
        let mut words = line.split(|&byte| byte == b' ');
        let id = number(words.next()?)?.into();
        let device = words.nth(1)?;
        let (major, minor) = device.split_at(device.iter().position(|&byte| byte == b':')?);
        let device = (number(major)?, number(minor.get(1..)?)?);
        let (root, point) = (unescape(words.next()?), unescape(words.next()?));
        // Optional fields end with a dash; then type, source, options.
        words.find(|word| *word == b"-")?;
        let kind = words.next()?.to_vec();
        let options = unescape(words.nth(1).unwrap_or_default());
        Some(Mount {
            id,
            device,
            root,
            point,
            kind,
            options,
        })
    }

    /// The directory of an overlay to which its changes go.
    pub(super) fn upper(&self) -> Option<Vec<u8>> {
        let is_overlay = self.kind == b"overlay";
        is_overlay.then(|| upper_of(&self.options)).flatten()
    }

    /// The one with a number.
    pub(super) fn find(table: &[u8], id: u64) -> Option<Mount> {
        mounts(table).find(|mount| mount.id == id)
    }
}

fn mounts(table: &[u8]) -> impl Iterator<Item = Mount> {
    table.split(|&byte| byte == b'\n').filter_map(Mount::parse)
}

/// What outlives a build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lasting {
    /// Filesystems of the host.
    devices: Vec<(u32, u32)>,
    /// The build's directory, if it is on one of them, and where in that.
    work: Option<((u32, u32), Vec<u8>)>,
}

impl Lasting {
    /// All that is mounted now, before the build mounts anything.
    pub fn of_host() -> std::io::Result<Lasting> {
        Ok(Lasting::parse(&std::fs::read("/proc/self/mountinfo")?))
    }

    fn parse(table: &[u8]) -> Lasting {
        let mut devices: Vec<_> = mounts(table).map(|mount| mount.device).collect();
        devices.sort_unstable();
        devices.dedup();
        Lasting {
            devices,
            work: None,
        }
    }

    /// Without the build's directory, which is mounted by now.
    pub fn but_for(self, work: &Path) -> std::io::Result<Lasting> {
        Ok(self.without(&std::fs::read("/proc/self/mountinfo")?, work))
    }

    fn without(mut self, table: &[u8], work: &Path) -> Lasting {
        let work = work.as_os_str().as_encoded_bytes();
        self.work = mounts(table)
            .filter(|mount| mount.point == work && self.devices.contains(&mount.device))
            .last()
            .map(|mount| (mount.device, mount.root));
        self
    }

    /// Whether a filesystem in memory with this device is one of the host.
    pub(super) fn has(&self, device: (u32, u32)) -> bool {
        self.devices.contains(&device)
    }

    /// Whether files that are named through a mount, which is no overlay, are gone when the
    /// build is.
    pub(super) fn is_passing(&self, mount: &Mount) -> bool {
        if !self.has(mount.device) {
            return is_own_kind(&mount.kind);
        }
        let work = self.work.as_ref();
        work.is_some_and(|(device, root)| {
            let rest = mount.root.strip_prefix(&root[..]);
            *device == mount.device && rest.is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &[u8] = b"1 0 8:1 / / rw - ext4 /dev/x rw\n\
        2 1 0:31 / /tmp rw shared:3 - tmpfs t rw\n\
        3 1 0:40 / /srv rw - fuse.sshfs s rw\n";

    #[test]
    fn what_is_the_hosts_lasts_and_what_the_build_mounts_passes() {
        let table = b"4 1 8:1 /tmp/k/b /tmp/k/b rw - ext4 /dev/x rw\n";
        let on_disk = Lasting::parse(HOST).without(table, Path::new("/tmp/k/b"));
        let in_memory =
            Lasting::parse(HOST).without(b"4 1 0:50 / /w rw - tmpfs t rw\n", Path::new("/w"));
        for (line, passes) in [
            ("5 1 8:1 /home/u /home/u rw - ext4 /dev/x rw", [false; 2]),
            ("5 1 8:1 / / ro - ext4 /dev/x rw", [false; 2]),
            ("5 1 8:1 /tmp/k/b /m rw - ext4 /dev/x rw", [true, false]),
            ("5 1 8:1 /tmp/k/b/mnt / rw - ext4 /dev/x rw", [true, false]),
            ("5 1 8:1 /tmp/k/bad /m rw - ext4 /dev/x rw", [false; 2]),
            ("5 1 0:31 / /tmp rw - tmpfs t rw", [false; 2]),
            ("5 1 0:50 / /w rw - tmpfs t rw", [true; 2]),
            ("5 1 0:40 / /srv rw - fuse.sshfs s rw", [false; 2]),
            ("5 1 0:60 / /m rw - fuse.fuse2fs s rw", [true; 2]),
            // Mounted by the kernel where somebody comes to a place of the host.
            ("5 1 0:61 / /srv/n rw - nfs4 s rw", [false; 2]),
            ("5 1 0:62 / /srv/v rw - virtiofs s rw", [false; 2]),
        ] {
            let mount = Mount::parse(line.as_bytes()).expect("complete");
            let found = [&on_disk, &in_memory].map(|lasting| lasting.is_passing(&mount));
            assert_eq!(found, passes, "{line}");
        }
    }

    #[test]
    fn the_upper_directory_is_that_of_an_overlay() {
        let line = b"7 1 0:44 /a\\040b /m\\134 rw - overlay o rw,lowerdir=/l,upperdir=/u\\134,v,workdir=/w";
        let mount = Mount::parse(line).expect("complete");
        assert_eq!(
            (&mount.root[..], &mount.point[..]),
            (&b"/a b"[..], &b"/m\\"[..])
        );
        assert_eq!(mount.upper().as_deref(), Some(&b"/u,v"[..]));
        let other = Mount::parse(b"7 1 0:44 / /m rw - tmpfs o rw,upperdir=/u").expect("complete");
        assert_eq!(other.upper(), None);
        assert_eq!(
            Mount::find(HOST, 2).map(|mount| mount.point),
            Some(b"/tmp".to_vec())
        );
    }
}
