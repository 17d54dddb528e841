//! Debian binary packages (deb(5)): `debian-binary`, `control.tar*`, `data.tar*`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::ar::{self, ArError, Member};
use crate::rootfs::beneath;

/// Memory that decompressing a member may take, in KiB (xz -9 needs 65 MiB).
const XZ_MEMORY_KIB: u32 = 512 * 1024;
/// Bytes that all control files of a package may have together.
const CONTROL_LIMIT: u64 = 64 << 20;

/// An open package.
#[derive(Debug)]
pub struct Deb {
    file: File,
    control: Member,
    data: Member,
}

/// A file of the control archive, such as `postinst`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlFile {
    /// Its content.
    pub bytes: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
    /// Seconds since 1970.
    pub mtime: u64,
}

/// Why a package cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DebError {
    /// The system refuses.
    #[error("it cannot be read")]
    Read(#[from] io::Error),
    /// It is not an archive.
    #[error(transparent)]
    Archive(#[from] ArError),
    /// Its format is of a major version that is not known.
    #[error("its format version `{version}` is not supported (2.x is)")]
    Version {
        /// What it says.
        version: String,
    },
    /// A member is missing.
    #[error("it has no member `{name}`")]
    Missing {
        /// The member.
        name: &'static str,
    },
    /// A member's compression is not known.
    #[error("the compression of its member `{name}` is not supported (none, gz, xz and zst are)")]
    Compression {
        /// The member.
        name: String,
    },
    /// The control archive is malformed.
    #[error("its control archive is malformed: {reason}")]
    Control {
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl Deb {
    /// Opens a package.
    pub fn open(path: &Path) -> Result<Deb, DebError> {
        let file = fs_err::File::open(path)?.into_parts().0;
        let length = file.metadata()?.len();
        let mut whole = Section::new(&file, 0, length);
        let members = ar::members(&mut whole, length, |section, count| {
            section.at = section.at.saturating_add(count);
            Ok(())
        })?;
        let mut rest = members.into_iter();
        let first = rest
            .next()
            .filter(|member| member.name == "debian-binary")
            .ok_or(DebError::Missing {
                name: "debian-binary",
            })?;
        let mut version = String::new();
        Section::new(&file, first.offset, first.size)
            .take(64)
            .read_to_string(&mut version)?;
        if !version.starts_with("2.") {
            return Err(DebError::Version {
                version: version.trim().to_owned(),
            });
        }
        let mut find = |name: &'static str| {
            rest.find(|member| member.name.starts_with(name))
                .ok_or(DebError::Missing { name })
        };
        let control = find("control.tar")?;
        let data = find("data.tar")?;
        Ok(Deb {
            file,
            control,
            data,
        })
    }

    /// Reads the control archive: its regular files by name.
    pub fn control(&self) -> Result<BTreeMap<String, ControlFile>, DebError> {
        let fail = |reason| DebError::Control { reason };
        let reader = self.decompress(&self.control)?.take(CONTROL_LIMIT);
        let mut files = BTreeMap::new();
        let mut archive = tar::Archive::new(reader);
        for entry in archive.entries()? {
            let mut entry = entry?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let name = beneath::clean(&entry.path_bytes())
                .and_then(|path| path.to_str().map(str::to_owned))
                .filter(|name| {
                    !name.is_empty()
                        && name
                            .bytes()
                            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte))
                })
                .ok_or_else(|| fail("it has a file whose name is not valid"))?;
            let mode = entry.header().mode()? & 0o777;
            let mtime = entry.header().mtime()?;
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            files.insert(name, ControlFile { bytes, mode, mtime });
        }
        if !files.contains_key("control") {
            return Err(fail("it has no file `control`"));
        }
        Ok(files)
    }

    /// Returns the data archive, decompressed.
    pub fn data(&self) -> Result<impl Read + '_, DebError> {
        self.decompress(&self.data)
    }

    fn decompress(&self, member: &Member) -> Result<Box<dyn Read + '_>, DebError> {
        let raw = BufReader::with_capacity(
            128 * 1024,
            Section::new(&self.file, member.offset, member.size),
        );
        decompress(raw, &member.name)
            .ok_or_else(|| DebError::Compression {
                name: member.name.clone(),
            })?
            .map_err(DebError::Read)
    }
}

/// Wraps a reader by the suffix of a name: none (or `.tar`), `.gz`, `.xz`, `.zst`.
///
/// Returns `None` for any other suffix.
pub fn decompress<'a>(
    raw: impl io::BufRead + 'a,
    name: &str,
) -> Option<io::Result<Box<dyn Read + 'a>>> {
    let suffix = name.rsplit_once('.').map_or("", |(_, suffix)| suffix);
    Some(match suffix {
        "" | "tar" => Ok(Box::new(raw)),
        "gz" => Ok(Box::new(flate2::bufread::MultiGzDecoder::new(raw))),
        "xz" => Ok(Box::new(lzma_rust2::XzReader::new_mem_limit(
            raw,
            true,
            XZ_MEMORY_KIB,
        ))),
        "zst" => zstd::stream::read::Decoder::with_buffer(raw)
            .map(|decoder| Box::new(decoder) as Box<dyn Read + 'a>),
        _ => return None,
    })
}

/// A range of a file that reads without moving the file's own position.
#[derive(Debug)]
struct Section<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl<'a> Section<'a> {
    fn new(file: &'a File, offset: u64, size: u64) -> Section<'a> {
        Section {
            file,
            at: offset,
            end: offset.saturating_add(size),
        }
    }
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let length = left.min(buffer.len());
        let count = self.file.read_at(&mut buffer[..length], self.at)?;
        self.at += u64::try_from(count).unwrap_or(0);
        Ok(count)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write as _;

    use super::*;

    /// An entry of a tar that a test makes: path, kind with its target or content, mode.
    pub type Entry<'a> = (&'a str, tar::EntryType, &'a str, u32);

    pub fn tarball(entries: &[Entry<'_>]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, text, mode) in entries {
            let mut header = tar::Header::new_gnu();
            // Written as bytes, since the tests want names that the crate refuses.
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(*mode);
            header.set_uid(nix::unistd::getuid().as_raw().into());
            header.set_gid(nix::unistd::getgid().as_raw().into());
            header.set_mtime(1_000_000_000);
            let content = if kind.is_file() { text.as_bytes() } else { b"" };
            if kind.is_symlink() || kind.is_hard_link() {
                header.as_old_mut().linkname[..text.len()].copy_from_slice(text.as_bytes());
            }
            header.set_size(content.len().try_into().expect("small"));
            header.set_cksum();
            builder.append(&header, content).expect("appended");
        }
        builder.into_inner().expect("finished")
    }

    pub fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("compressed");
        encoder.finish().expect("compressed")
    }

    /// Makes a package from control files and data.
    pub fn package(control: &[Entry<'_>], data: &[Entry<'_>]) -> Vec<u8> {
        super::super::ar::tests::archive(&[
            ("debian-binary", b"2.0\n"),
            ("control.tar.gz", &gzip(&tarball(control))),
            ("data.tar", &tarball(data)),
        ])
    }

    fn open(bytes: &[u8]) -> Result<Deb, DebError> {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(bytes).expect("written");
        Deb::open(file.path())
    }

    #[test]
    fn members_are_read_whatever_their_compression() {
        use tar::EntryType::Regular;
        let control = [
            ("./control", Regular, "Package: a\n", 0o644),
            ("./postinst", Regular, "#!/bin/sh\n", 0o755),
        ];
        let tar = tarball(&[("./a", Regular, "hello", 0o644)]);
        let xz = {
            let mut writer =
                lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1))
                    .expect("made");
            writer.write_all(&tar).expect("compressed");
            writer.finish().expect("compressed")
        };
        let zst = zstd::encode_all(&*tar, 1).expect("compressed");
        for (name, data) in [
            ("data.tar", tar.clone()),
            ("data.tar.gz", gzip(&tar)),
            ("data.tar.xz", xz),
            ("data.tar.zst", zst),
        ] {
            let bytes = super::super::ar::tests::archive(&[
                ("debian-binary", b"2.0\n"),
                ("control.tar.gz", &gzip(&tarball(&control))),
                (name, &data),
            ]);
            let deb = open(&bytes).expect("valid");
            let files = deb.control().expect("valid");
            assert_eq!(files["postinst"].mode, 0o755);
            let mut read = Vec::new();
            deb.data()
                .expect("known")
                .read_to_end(&mut read)
                .expect("read");
            assert_eq!(read, tar, "{name}");
        }
    }

    #[test]
    fn broken_packages_say_what_is_wrong() {
        use super::super::ar::tests::archive;
        let message = |bytes: &[u8]| open(bytes).expect_err("refused").to_string();
        assert_eq!(message(b"x"), "it is not an ar archive");
        assert_eq!(message(&archive(&[])), "it has no member `debian-binary`");
        assert_eq!(
            message(&archive(&[("debian-binary", b"3.0\n")])),
            "its format version `3.0` is not supported (2.x is)"
        );
        assert_eq!(
            message(&archive(&[
                ("debian-binary", b"2.0\n"),
                ("control.tar", b"")
            ])),
            "it has no member `data.tar`"
        );
        let lzma = archive(&[
            ("debian-binary", b"2.0\n"),
            ("control.tar", b""),
            ("data.tar.lzma", b""),
        ]);
        assert_eq!(
            open(&lzma)
                .expect("opens")
                .data()
                .err()
                .expect("refused")
                .to_string(),
            "the compression of its member `data.tar.lzma` is not supported (none, gz, xz and zst are)"
        );
    }
}
