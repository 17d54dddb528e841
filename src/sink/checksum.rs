//! Checksum files beside an output, in the format of `md5sum` and `sha256sum`.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use md5::Md5;
use sha2::Sha256;
use sha2::digest::Digest;

use crate::threads::begin;

/// Suffixes of checksum files.
pub(crate) const SUFFIXES: [&str; 2] = ["md5", "sha256"];

/// Bytes that are read at once; one buffer stays in the processor's cache.
const READ_SIZE: usize = 128 << 10;

/// Which checksum files an output gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checksums {
    /// `NAME.md5`.
    pub md5: bool,
    /// `NAME.sha256`.
    pub sha256: bool,
}

impl Checksums {
    /// Both, as `DIB_CHECKSUM=1` asks.
    pub const ALL: Checksums = Checksums {
        md5: true,
        sha256: true,
    };
}

/// Digests of a complete output, in lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Digests {
    /// MD5, where asked for.
    pub md5: Option<String>,
    /// SHA-256, where asked for.
    pub sha256: Option<String>,
}

/// Computes digests of bytes as they pass.
#[derive(Default)]
pub(crate) struct Hasher {
    md5: Option<Md5>,
    sha256: Option<Sha256>,
}

impl Hasher {
    pub fn new(wanted: Checksums) -> Hasher {
        Hasher {
            md5: wanted.md5.then(Md5::new),
            sha256: wanted.sha256.then(Sha256::new),
        }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
    }

    pub fn finish(self) -> Digests {
        Digests {
            md5: self.md5.map(|state| hexadecimal(&state.finalize())),
            sha256: self.sha256.map(|state| hexadecimal(&state.finalize())),
        }
    }
}

/// Digests of a finished file, each on a thread of its own.
///
/// Formats whose header is written last cannot be hashed as they are written;
/// they are read back from the page cache, where holes cost no reading.
pub(crate) fn of_file(file: &File, wanted: Checksums) -> io::Result<Digests> {
    let one = |wanted: Checksums| {
        let mut hasher = Hasher::new(wanted);
        read_through(file, |bytes| hasher.update(bytes))?;
        io::Result::Ok(hasher.finish())
    };
    let (md5, sha256) = std::thread::scope(|scope| {
        let md5 = begin(scope, || {
            if wanted.md5 {
                one(Checksums {
                    sha256: false,
                    ..wanted
                })
            } else {
                Ok(Digests::default())
            }
        });
        let sha256 = if wanted.sha256 {
            one(Checksums {
                md5: false,
                ..wanted
            })
        } else {
            Ok(Digests::default())
        };
        (md5.finish(), sha256)
    });
    Ok(Digests {
        md5: md5?.md5,
        sha256: sha256?.sha256,
    })
}

/// Gives all bytes of a file to `take`, in order, without reading its holes.
fn read_through(file: &File, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let length = file.metadata()?.len();
    let zeros = vec![0; READ_SIZE];
    let mut buffer = vec![0; READ_SIZE];
    let mut at = 0;
    while at < length {
        let data = seek(file, at, libc::SEEK_DATA)?
            .unwrap_or(length)
            .clamp(at, length);
        while at < data {
            let part = usize::try_from(data - at).map_or(READ_SIZE, |left| left.min(READ_SIZE));
            take(&zeros[..part]);
            at += part as u64;
        }
        let hole = if at < length {
            seek(file, at, libc::SEEK_HOLE)?
        } else {
            None
        };
        let end = hole.unwrap_or(length).clamp(at, length);
        while at < end {
            let part = usize::try_from(end - at).map_or(READ_SIZE, |left| left.min(READ_SIZE));
            file.read_exact_at(&mut buffer[..part], at)?;
            take(&buffer[..part]);
            at += part as u64;
        }
    }
    Ok(())
}

/// The next data or hole from `at`; `None` where there is none.
fn seek(file: &File, at: u64, whence: libc::c_int) -> io::Result<Option<u64>> {
    let at = i64::try_from(at).map_err(|_| io::ErrorKind::FileTooLarge)?;
    // SAFETY: lseek touches no memory; no one else relies on the file's position.
    let found = unsafe { libc::lseek(file.as_raw_fd(), at, whence) };
    match u64::try_from(found) {
        Ok(found) => Ok(Some(found)),
        Err(_) => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            error => Err(error),
        },
    }
}

/// The line of a checksum file: digest, two spaces, the path as it was given.
///
/// As the tools do, a backslash before the digest says that backslashes and
/// newlines of the path are escaped.
pub(crate) fn line(digest: &str, path: &Path) -> Vec<u8> {
    let path = path.as_os_str().as_bytes();
    let mut line = Vec::with_capacity(digest.len() + path.len() + 4);
    let escape = path
        .iter()
        .any(|byte| matches!(byte, b'\\' | b'\n' | b'\r'));
    if escape {
        line.push(b'\\');
    }
    line.extend_from_slice(digest.as_bytes());
    line.extend_from_slice(b"  ");
    for &byte in path {
        match byte {
            b'\\' if escape => line.extend_from_slice(b"\\\\"),
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            _ => line.push(byte),
        }
    }
    line.push(b'\n');
    line
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparse_file_has_the_digests_of_its_bytes() {
        let file = tempfile::tempfile().unwrap();
        let mut bytes = vec![0; 3 << 20];
        bytes[1_000_000..1_000_010].copy_from_slice(b"0123456789");
        file.set_len(bytes.len() as u64).unwrap();
        file.write_all_at(&bytes[1_000_000..1_000_010], 1_000_000)
            .unwrap();
        let mut hasher = Hasher::new(Checksums::ALL);
        hasher.update(&bytes);
        assert_eq!(of_file(&file, Checksums::ALL).unwrap(), hasher.finish());
    }

    #[test]
    fn known_digests_are_given() {
        let mut hasher = Hasher::new(Checksums::ALL);
        hasher.update(b"abc");
        let digests = hasher.finish();
        assert_eq!(digests.md5.unwrap(), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(
            digests.sha256.unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn lines_are_those_of_the_checksum_tools() {
        assert_eq!(line("abc", Path::new("out/a.raw")), b"abc  out/a.raw\n");
        assert_eq!(line("abc", Path::new("a\\b\nc")), b"\\abc  a\\\\b\\nc\n");
    }
}
