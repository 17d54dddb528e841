//! The entries of a data archive, in bounded memory.
//!
//! The tar crate holds long names and extended headers whole, however large they
//! say they are. So the archive may not give more than a few bytes between the end
//! of an entry and the begin of the next, besides a limit for all of it.

use std::cell::Cell;
use std::io::{self, Read};

use super::unpack::UnpackError;

/// Entries that a package may have.
pub(super) const ENTRIES: u64 = 2_000_000;
/// Bytes that the headers of one entry may have: its names and attributes.
const HEADERS: u64 = 1 << 20;
/// Bytes that the paths of all entries may have, which are kept for dpkg.
const PATHS: u64 = 64 << 20;
/// Bytes that a package may have beyond what it declares, since
/// `Installed-Size` is an estimate.
pub(super) const SLACK: u64 = 256 << 20;

/// An entry of an archive that is bounded.
pub(super) type Entry<'a, 'g, R> = tar::Entry<'a, Gauged<'g, R>>;

/// Calls `visit` with every entry of an archive that declares a size in bytes.
///
/// # Errors
/// The archive cannot be read or is beyond a limit; what `visit` returns, except
/// that reading beyond a limit is told as such.
pub(super) fn each<R: Read>(
    data: R,
    declared: u64,
    mut visit: impl FnMut(&mut Entry<'_, '_, R>) -> Result<(), UnpackError>,
) -> Result<(), UnpackError> {
    let limit = declared.saturating_mul(4).saturating_add(SLACK);
    let gauge = Gauge::default();
    // Headers count too, so that endless empty entries end.
    let mut archive = tar::Archive::new(Gauged {
        inner: data,
        gauge: &gauge,
    });
    let told = |error: UnpackError| match error {
        UnpackError::Read(_) if gauge.hit.get() && gauge.end.get() < limit => UnpackError::Headers,
        UnpackError::Read(_) if gauge.hit.get() => UnpackError::TooLarge { limit },
        error => error,
    };
    let mut entries = archive.entries().map_err(UnpackError::Read)?;
    let (mut count, mut paths, mut next) = (0_u64, 0_u64, 0_u64);
    loop {
        gauge.end.set(next.saturating_add(HEADERS).min(limit));
        let Some(entry) = entries.next() else {
            return Ok(());
        };
        let mut entry = entry.map_err(UnpackError::Read).map_err(told)?;
        gauge.end.set(limit);
        next = entry
            .raw_file_position()
            .saturating_add(entry.size())
            .saturating_add(511);
        count += 1;
        if count > ENTRIES {
            return Err(UnpackError::TooMany);
        }
        paths = paths.saturating_add(u64::try_from(entry.path_bytes().len()).unwrap_or(u64::MAX));
        if paths > PATHS {
            return Err(UnpackError::Paths);
        }
        visit(&mut entry).map_err(told)?;
    }
}

/// How much was read, and how much may be.
#[derive(Debug, Default)]
struct Gauge {
    at: Cell<u64>,
    end: Cell<u64>,
    hit: Cell<bool>,
}

/// A reader that fails, rather than ends, where its gauge says so.
#[derive(Debug)]
pub(super) struct Gauged<'g, R> {
    inner: R,
    gauge: &'g Gauge,
}

impl<R: Read> Read for Gauged<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let gauge = self.gauge;
        let at = gauge.at.get();
        let at = at.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        gauge.at.set(at);
        if at > gauge.end.get() {
            gauge.hit.set(true);
            return Err(io::Error::other("the limit is reached"));
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: tar::EntryType, size: u64) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_path("name").expect("short");
        header.set_size(size);
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    /// Reads an archive that declares any size; how many bytes were taken of it.
    fn read(data: impl Read) -> (Result<(), UnpackError>, u64) {
        struct Counted<'a, R>(R, &'a Cell<u64>);
        impl<R: Read> Read for Counted<'_, R> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let count = self.0.read(buffer)?;
                self.1
                    .set(self.1.get() + u64::try_from(count).expect("small"));
                Ok(count)
            }
        }
        let taken = Cell::new(0);
        let result = each(Counted(data, &taken), u64::MAX, |_| Ok(()));
        (result, taken.get())
    }

    #[test]
    fn headers_are_not_read_beyond_reason_whatever_the_package_declares() {
        let names = [
            tar::EntryType::GNULongName,
            tar::EntryType::GNULongLink,
            tar::EntryType::XHeader,
        ];
        for kind in names {
            let head = header(kind, 1 << 40);
            let (result, taken) = read(head.chain(io::repeat(b'a')));
            assert!(matches!(result, Err(UnpackError::Headers)), "{kind:?}");
            assert!(taken < 2 * HEADERS, "{kind:?}: {taken}");
        }
        // Behind data that nobody reads they are counted from its end on.
        let mut long = header(tar::EntryType::Regular, 3 << 20);
        long.resize(long.len() + (3 << 20), 0);
        long.extend(header(tar::EntryType::GNULongName, 4096));
        long.resize(long.len() + 4096, b'a');
        long.extend(header(tar::EntryType::Regular, 0));
        read(&*long).0.expect("within the limits");
    }

    #[test]
    fn paths_are_not_kept_beyond_reason() {
        let mut one = header(tar::EntryType::GNULongName, 32 << 10);
        one.resize(one.len() + (32 << 10), b'a');
        one.extend(header(tar::EntryType::Regular, 0));
        struct Endless(io::Cursor<Vec<u8>>);
        impl Read for Endless {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                match self.0.read(buffer)? {
                    0 => {
                        self.0.set_position(0);
                        self.0.read(buffer)
                    }
                    count => Ok(count),
                }
            }
        }
        let (result, taken) = read(Endless(io::Cursor::new(one)));
        assert!(matches!(result, Err(UnpackError::Paths)));
        assert!(taken < 2 * PATHS, "{taken}");
    }
}
