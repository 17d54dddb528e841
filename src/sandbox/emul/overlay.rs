//! Files of an overlay, whose inode changes when they are first written to.
//!
//! Which filesystems are overlays, and of what, is looked up when a program of a
//! hook first asks about a file of one, and again after each mount. Files of lower
//! layers that have records are then frozen, once for each overlay: see
//! [`store`](crate::sandbox::store).

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::dir::{Dir, Type};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::files::{open_at, statx, statx_of};
use super::{Call, Errno};
use crate::sandbox::mounts::unescape;
use crate::sandbox::store::{Key, Record};

/// A lower layer may be nested this deep.
const DEPTH: usize = 512;
/// More of a mount table is not looked at.
const MOUNTS: usize = 1 << 20;

/// What tells an overlay from a later one with its device number: how it was
/// mounted, and the lower layers that were found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layered {
    options: Vec<u8>,
    lower: Vec<Key>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Call<'_> {
    /// The record of a file that was found.
    pub(super) fn record_of(&mut self, found: &libc::statx) -> Option<Record> {
        let key = Key::of(found);
        let now = self.worker.shared.mounts.load(Ordering::Acquire);
        let (then, met) = &mut self.worker.met;
        if *then != now {
            *then = now;
            met.clear();
        }
        if !met.contains(&key.device) {
            met.push(key.device);
            if let Err(errno) = self.freeze_layers(key.device) {
                tracing::warn!(
                    "owners of files below an overlay that a hook mounted may be lost: {errno}"
                );
            }
        }
        self.store().get(key)
    }

    /// Freezes files of the lower layers if the device is an overlay's, and they
    /// were not frozen for it before: what its files got since then counts.
    fn freeze_layers(&mut self, device: u64) -> Result<(), Errno> {
        if self.store().is_empty() {
            return Ok(());
        }
        let of_device = {
            let mut all = lock(&self.worker.shared.layered);
            Arc::clone(all.entry(device).or_default())
        };
        // Others that look at this overlay wait until all of them are frozen. Who looks at
        // another must not: it may serve one of the layers.
        let mut known = lock(&of_device);
        let number = format!("{}:{}", device >> 32, device & 0xffff_ffff);
        let table = self.worker.view.read_all(self.pid, "mountinfo", MOUNTS)?;
        let options = overlay_options(&table, &number).unwrap_or_default();
        let mut layers = Vec::new();
        for path in layers_of(&options) {
            let flags = libc::O_RDONLY | libc::O_DIRECTORY;
            // As the program sees it, or else as the engine does, who mounts too.
            let layer = self
                .target(libc::AT_FDCWD, &path, true)
                .and_then(|target| target.reopen(flags, 0))
                .or_else(|_| self.worker.view.open_ours(&path, flags));
            let Ok(layer) = layer else { continue };
            let key = Key::of(&statx_of(&layer)?);
            if self.store().has_device(key.device) {
                layers.push((layer, key));
            }
        }
        let found = Layered {
            options,
            lower: layers.iter().map(|(_, key)| *key).collect(),
        };
        if known.as_ref() == Some(&found) {
            return Ok(());
        }
        if known.take().is_some() {
            self.store().thaw(device);
        }
        if !layers.is_empty() {
            for (layer, key) in layers {
                self.freeze_below(layer, device, key.device, 0)?;
            }
            *known = Some(found);
        }
        Ok(())
    }

    fn freeze_below(
        &self,
        directory: OwnedFd,
        upper: u64,
        lower: u64,
        depth: usize,
    ) -> Result<(), Errno> {
        self.store().freeze(upper, Key::of(&statx_of(&directory)?));
        let mut list = Dir::from_fd(directory)?;
        // Entries borrow the list, which is also where they are looked for.
        let directory = list.as_raw_fd();
        for entry in list.iter() {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let nofollow = libc::AT_SYMLINK_NOFOLLOW;
            let found = match statx(directory, name, nofollow, 0) {
                // It was removed meanwhile.
                Err(Errno::ENOENT) => continue,
                found => found?,
            };
            let key = Key::of(&found);
            if key.device != lower {
                continue;
            }
            let is_directory = entry.file_type().is_none_or(|kind| kind == Type::Directory)
                && u32::from(found.stx_mode) & libc::S_IFMT == libc::S_IFDIR;
            if !is_directory {
                self.store().freeze(upper, key);
            } else if depth < DEPTH {
                let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
                let mode = Mode::empty().bits();
                match open_at(directory, name, flags.bits(), mode) {
                    Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                    below => self.freeze_below(below?, upper, lower, depth + 1)?,
                }
            }
        }
        Ok(())
    }
}

/// Options of the overlay with a device number, from a mount table
/// (`proc_pid_mountinfo(5)`).
fn overlay_options(table: &[u8], number: &str) -> Option<Vec<u8>> {
    let of_line = |line: &[u8]| {
        let mut words = line.split(|&byte| byte == b' ');
        if words.nth(2)? != number.as_bytes() {
            return None;
        }
        // Optional fields end with a dash; then type, source, options.
        words.find(|word| *word == b"-")?;
        if words.next()? != b"overlay" {
            return None;
        }
        Some(unescape(words.nth(1)?))
    };
    table.split(|&byte| byte == b'\n').find_map(of_line)
}

/// Paths of the lower layers in the options of an overlay.
fn layers_of(options: &[u8]) -> Vec<Vec<u8>> {
    let mut paths = Vec::new();
    for option in split(options, b',') {
        if let Some(list) = option.strip_prefix(b"lowerdir=") {
            paths.extend(split(list, b':').iter().map(|path| plain(path)));
        } else if let Some(path) = option.strip_prefix(b"lowerdir+=") {
            paths.push(plain(path));
        }
    }
    paths
}

/// Path of the upper layer in the options of an overlay.
pub(super) fn upper_of(options: &[u8]) -> Option<Vec<u8>> {
    let mut options = split(options, b',').into_iter();
    options.find_map(|option| option.strip_prefix(b"upperdir=").map(plain))
}

/// Splits at a byte that is not behind a backslash.
fn split(text: &[u8], at: u8) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (place, &byte) in text.iter().enumerate() {
        if byte == at && !escaped {
            parts.push(&text[start..place]);
            start = place + 1;
        }
        escaped = byte == b'\\' && !escaped;
    }
    parts.push(&text[start..]);
    parts.retain(|part| !part.is_empty());
    parts
}

/// Takes backslashes away that keep separators from being any.
fn plain(text: &[u8]) -> Vec<u8> {
    let mut bytes = text.iter();
    let mut plain = Vec::new();
    while let Some(&byte) = bytes.next() {
        plain.push(match byte {
            b'\\' => bytes.next().copied().unwrap_or(byte),
            _ => byte,
        });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_layers_are_found_in_a_mount_table() {
        let table = b"1 0 8:1 / / rw - ext4 /dev/x rw\n\
            7 1 0:44 / /m rw shared:3 - overlay overlay rw,lowerdir=/a\\040b:/c\\134:d,upperdir=/u,workdir=/w\n\
            8 1 0:45 / /n rw - overlay none rw,lowerdir+=/one,lowerdir+=/two,upperdir=/u\n";
        let found = |number| -> Vec<String> {
            let options = overlay_options(table, number).unwrap_or_default();
            let paths = layers_of(&options).into_iter();
            paths
                .map(|path| String::from_utf8_lossy(&path).into_owned())
                .collect()
        };
        assert_eq!(found("0:44"), ["/a b", "/c:d"]);
        assert_eq!(found("0:45"), ["/one", "/two"]);
        assert!(found("8:1").is_empty() && found("0:46").is_empty());
    }
}
