//! cpio archives in the form `newc`, of which initial ramdisks are made.
//!
//! Members are in path order without a leading slash, numbered from 1. A file
//! with several names has its data at the last of them, as GNU cpio expects.
//!
//! Specification: `Documentation/driver-api/early-userspace/buffer-format.rst`
//! of Linux.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use super::gzip::GzipWriter;
use crate::tree::{self, Device, InodeId, Kind, Tree};

/// First six bytes of a header.
const MAGIC: &str = "070701";
/// Name of the last member.
const TRAILER: &[u8] = b"TRAILER!!!";
/// Headers with their names, and data, end at multiples of this.
const ALIGN: usize = 4;
/// The archive is padded to this, as cpio does.
const RECORD: u64 = 512;

/// How an archive is compressed; all are forms that Linux unpacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, with no name and no time in its header.
    #[default]
    Gzip,
    /// xz with CRC-32, the only sum that the kernel checks.
    Xz,
    /// Zstandard; Linux 5.9 or newer.
    Zstd,
}

impl Compression {
    /// Their names.
    pub const NAMES: [(&'static str, Compression); 4] = [
        ("none", Compression::None),
        ("gzip", Compression::Gzip),
        ("xz", Compression::Xz),
        ("zstd", Compression::Zstd),
    ];

    /// The compression of this name.
    pub fn from_name(name: &str) -> Option<Compression> {
        let found = Compression::NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, compression)| *compression)
    }
}

/// Why an archive cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum CpioError {
    /// A file does not fit.
    #[error("`{}` is {size} bytes long; cpio has room for 4294967295", path.display())]
    TooLarge {
        /// Its path in the tree.
        path: PathBuf,
        /// Its length in bytes.
        size: u64,
    },
    /// A file of the tree cannot be read.
    #[error("cannot read the tree")]
    Tree {
        /// Its path in the tree.
        path: PathBuf,
        /// Why, with the path.
        source: tree::Error,
    },
    /// The archive cannot be written.
    #[error("cannot write the archive")]
    Write(#[from] io::Error),
}

/// Writes the tree, compressed.
///
/// # Errors
/// A file is too large or cannot be read, or `out` cannot be written.
pub fn write(tree: &Arc<Tree>, out: impl Write, compression: Compression) -> Result<(), CpioError> {
    match compression {
        Compression::None => {
            let mut out = io::BufWriter::new(out);
            archive(tree, &mut out)?;
            out.flush()?;
        }
        Compression::Gzip => {
            let mut out = GzipWriter::new(out, 6);
            archive(tree, &mut out)?;
            out.finish()?;
        }
        Compression::Xz => {
            let mut options = lzma_rust2::XzOptions::with_preset(6);
            options.set_check_sum_type(lzma_rust2::CheckType::Crc32);
            let mut out = lzma_rust2::XzWriter::new(out, options)?;
            archive(tree, &mut out)?;
            out.finish()?;
        }
        Compression::Zstd => {
            let mut out = zstd::Encoder::new(out, 10)?;
            archive(tree, &mut out)?;
            out.finish()?;
        }
    }
    Ok(())
}

/// A member's header, with the fields that vary.
#[derive(Default)]
struct Header {
    number: u32,
    mode: u32,
    links: u32,
    uid: u32,
    gid: u32,
    mtime: u32,
    size: u32,
    device: (u32, u32),
}

impl Header {
    fn render(&self, name: &[u8]) -> Vec<u8> {
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        let fields = [
            self.number,
            self.mode,
            self.uid,
            self.gid,
            self.links,
            self.mtime,
            self.size,
            0,
            0,
            self.device.0,
            self.device.1,
            name_size,
            0,
        ];
        let mut bytes = MAGIC.as_bytes().to_vec();
        for field in fields {
            bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        bytes.extend_from_slice(name);
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
        bytes
    }
}

fn archive(tree: &Arc<Tree>, out: &mut dyn Write) -> Result<(), CpioError> {
    let mut reader = tree.reader();
    let mut written = 0u64;
    let mut left: Vec<u32> = tree.inodes().map(|(_, inode)| inode.links).collect();
    let mut buffer = vec![0; 64 << 10];
    for (id, node) in tree.nodes() {
        let path = tree.path(id);
        let inode = tree.inode(node.inode);
        let name = path.as_os_str().as_bytes();
        let name = name.strip_prefix(b"/").filter(|name| !name.is_empty());
        let (kind, device) = kind(&inode.kind);
        let mut header = Header {
            number: node.inode.0.saturating_add(1),
            mode: kind | u32::from(inode.mode),
            links: inode.links,
            uid: inode.uid,
            gid: inode.gid,
            mtime: u32::try_from(inode.mtime.seconds.max(0)).unwrap_or(u32::MAX),
            size: 0,
            device: (device.major, device.minor),
        };
        let name = name.unwrap_or(b".");
        match &inode.kind {
            Kind::File(content) => {
                let here = &mut left[node.inode.index()];
                *here = here.saturating_sub(1);
                let size = if *here == 0 { content.size } else { 0 };
                header.size = u32::try_from(size).map_err(|_| CpioError::TooLarge {
                    path: path.clone(),
                    size,
                })?;
                let bytes = header.render(name);
                out.write_all(&bytes)?;
                written += bytes.len() as u64;
                written += data(&mut reader, node.inode, size, &mut buffer, &path, out)?;
            }
            Kind::Symlink(target) => {
                header.size = u32::try_from(target.len()).unwrap_or(0);
                let mut bytes = header.render(name);
                bytes.extend_from_slice(target);
                bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
                out.write_all(&bytes)?;
                written += bytes.len() as u64;
            }
            _ => {
                let bytes = header.render(name);
                out.write_all(&bytes)?;
                written += bytes.len() as u64;
            }
        }
    }
    let trailer = Header {
        links: 1,
        ..Header::default()
    };
    let bytes = trailer.render(TRAILER);
    out.write_all(&bytes)?;
    written += bytes.len() as u64;
    let padding = written.next_multiple_of(RECORD) - written;
    out.write_all(&vec![0; usize::try_from(padding).unwrap_or(0)])?;
    Ok(())
}

/// Writes the data of a file with its padding and returns how much that is.
fn data(
    reader: &mut tree::Reader,
    inode: InodeId,
    size: u64,
    buffer: &mut [u8],
    path: &std::path::Path,
    out: &mut dyn Write,
) -> Result<u64, CpioError> {
    let mut offset = 0;
    while offset < size {
        let part = usize::try_from(size - offset).map_or(buffer.len(), |l| l.min(buffer.len()));
        reader
            .read_at(inode, offset, &mut buffer[..part])
            .map_err(|source| CpioError::Tree {
                path: path.to_owned(),
                source,
            })?;
        out.write_all(&buffer[..part])?;
        offset += part as u64;
    }
    let padded = size.next_multiple_of(ALIGN as u64);
    out.write_all(&[0; ALIGN][..usize::try_from(padded - size).unwrap_or(0)])?;
    Ok(padded)
}

/// The bits of the mode that say what a file is, and its device number.
fn kind(kind: &Kind) -> (u32, Device) {
    const NONE: Device = Device { major: 0, minor: 0 };
    match kind {
        Kind::Fifo => (0o010_000, NONE),
        Kind::CharDevice(device) => (0o020_000, *device),
        Kind::Directory => (0o040_000, NONE),
        Kind::BlockDevice(device) => (0o060_000, *device),
        Kind::File(_) => (0o100_000, NONE),
        Kind::Symlink(_) => (0o120_000, NONE),
        Kind::Socket => (0o140_000, NONE),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::tree::{Inode, Timestamp, TreeBuilder};

    fn sample() -> Arc<Tree> {
        let mut tree = TreeBuilder::new();
        let time = Timestamp {
            seconds: 1_700_000_000,
            nanoseconds: 9,
        };
        let mut put = |path: &str, inode: Inode| {
            tree.insert(path, inode.modified(time)).expect("new");
        };
        put("init", Inode::file(*b"#!/bin/sh\n", 0o755));
        put(
            "bin/busybox",
            Inode::file(vec![7; 100_001], 0o4755).owned_by(1, 2),
        );
        put("bin/sh", Inode::symlink("busybox"));
        put(
            "dev/console",
            Inode::new(Kind::CharDevice(Device { major: 5, minor: 1 }), 0o600),
        );
        put("pipe", Inode::new(Kind::Fifo, 0o600));
        tree.hard_link("bin/zz", "bin/busybox")
            .expect("it is there");
        Arc::new(tree.build().expect("a tree"))
    }

    fn bytes(compression: Compression) -> Vec<u8> {
        let mut out = Vec::new();
        write(&sample(), &mut out, compression).expect("it can be written");
        out
    }

    /// Name, mode, links and data of every member.
    fn members(mut bytes: &[u8]) -> Vec<(String, u32, u32, Vec<u8>)> {
        let mut found = Vec::new();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let field = |at: usize| {
                let text = std::str::from_utf8(&bytes[6 + at * 8..14 + at * 8]).expect("digits");
                u32::from_str_radix(text, 16).expect("a number")
            };
            let (mode, links, size, name) = (field(1), field(4), field(6), field(11));
            let text = String::from_utf8(bytes[110..110 + name as usize - 1].to_vec());
            let start = (110 + name as usize).next_multiple_of(4);
            let data = bytes[start..start + size as usize].to_vec();
            bytes = &bytes[(start + size as usize).next_multiple_of(4)..];
            let text = text.expect("text");
            if text == "TRAILER!!!" {
                assert!(bytes.iter().all(|&byte| byte == 0));
                return found;
            }
            found.push((text, mode, links, data));
        }
    }

    #[test]
    fn members_are_in_path_order_and_data_comes_with_the_last_name() {
        let bytes = bytes(Compression::None);
        assert_eq!(bytes.len() % 512, 0);
        let found: Vec<(String, u32, u32, usize)> = members(&bytes)
            .into_iter()
            .map(|(name, mode, links, data)| (name, mode, links, data.len()))
            .collect();
        let expected = [
            (".", 0o040_755, 1, 0),
            ("bin", 0o040_755, 1, 0),
            ("bin/busybox", 0o104_755, 2, 0),
            ("bin/sh", 0o120_777, 1, 7),
            ("bin/zz", 0o104_755, 2, 100_001),
            ("dev", 0o040_755, 1, 0),
            ("dev/console", 0o020_600, 1, 0),
            ("init", 0o100_755, 1, 10),
            ("pipe", 0o010_600, 1, 0),
        ];
        let expected: Vec<(String, u32, u32, usize)> = expected
            .iter()
            .map(|&(name, mode, links, size)| (name.to_owned(), mode, links, size))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn every_compression_gives_back_the_archive() {
        let plain = bytes(Compression::None);
        let decompressed = |compression: Compression| -> Vec<u8> {
            let bytes = bytes(compression);
            let mut out = Vec::new();
            let mut reader: Box<dyn io::Read> = match compression {
                Compression::Gzip => Box::new(flate2::read::GzDecoder::new(&bytes[..])),
                Compression::Xz => Box::new(lzma_rust2::XzReader::new(&bytes[..], false)),
                Compression::Zstd => Box::new(zstd::Decoder::new(&bytes[..]).expect("a frame")),
                Compression::None => Box::new(&bytes[..]),
            };
            reader.read_to_end(&mut out).expect("it is whole");
            out
        };
        for (name, compression) in Compression::NAMES {
            assert_eq!(Compression::from_name(name), Some(compression));
            assert!(decompressed(compression) == plain, "{name}");
        }
        // The kernel refuses what CRC-64 protects: byte 7 names the sum.
        assert_eq!(bytes(Compression::Xz)[7], 1);
    }

    #[test]
    fn cpio_extracts_what_was_archived() {
        let place = tempfile::tempdir().expect("a directory");
        let child = Command::new("cpio")
            .args([
                "-idm",
                "--quiet",
                "--no-absolute-filenames",
                "init",
                "bin/*",
            ])
            .current_dir(place.path())
            .stdin(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            println!("SKIP: `cpio` is not installed");
            return;
        };
        let mut input = child.stdin.take().expect("it is piped");
        input
            .write_all(&bytes(Compression::None))
            .expect("it reads");
        drop(input);
        assert!(child.wait().expect("it ends").success());
        let file = std::fs::read(place.path().join("bin/busybox")).expect("it was made");
        assert!(file == vec![7; 100_001]);
        let link = std::fs::read_link(place.path().join("bin/sh")).expect("it was made");
        assert_eq!(link, std::path::Path::new("busybox"));
    }
}
