//! SquashFS: a compressed, read-only filesystem made of a tree.
//!
//! Where every file's data goes is known before any is read: files shorter than
//! a block share fragment blocks in the order of their paths, all others have
//! blocks of their own. Threads read and compress; blocks are written in order,
//! so that their number never changes a byte.

use std::fmt;

pub mod format;
mod metadata;
mod tables;
mod write;
mod xattrs;

pub(crate) use write::write;

/// How blocks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// LZMA2, as diskimage-builder has it: smallest, and slow to write and read.
    #[default]
    Xz,
    /// Zstandard: nearly as small, and many times as fast; Linux 4.14 or newer.
    Zstd,
    /// Deflate: read by every Linux.
    Gzip,
}

impl Compression {
    /// Their names as options have them.
    pub const NAMES: [(&'static str, Compression); 3] = [
        ("xz", Compression::Xz),
        ("zstd", Compression::Zstd),
        ("gzip", Compression::Gzip),
    ];

    /// Its number in the superblock.
    fn id(self) -> u16 {
        match self {
            Compression::Gzip => format::compressor::GZIP,
            Compression::Xz => format::compressor::XZ,
            Compression::Zstd => format::compressor::ZSTD,
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = Compression::NAMES.iter().find(|(_, known)| known == self);
        formatter.write_str(found.map_or("", |(name, _)| name))
    }
}

/// Compresses blocks on one thread.
pub(super) enum Compressor {
    Xz(lzma_rust2::XzOptions),
    Zstd(zstd::bulk::Compressor<'static>),
    Gzip(libdeflater::Compressor),
}

/// Level of zstd that `mksquashfs` uses too.
const ZSTD_LEVEL: i32 = 15;
/// Preset of xz; the dictionary is a block anyway.
const XZ_PRESET: u32 = 6;

impl Compressor {
    pub fn new(compression: Compression) -> Result<Compressor, super::Error> {
        Ok(match compression {
            Compression::Xz => {
                let mut options = lzma_rust2::XzOptions::with_preset(XZ_PRESET);
                // The kernel's decoder has room for one block, and knows no CRC-64.
                options.lzma_options.dict_size = format::BLOCK_SIZE as u32;
                options.set_check_sum_type(lzma_rust2::CheckType::Crc32);
                Compressor::Xz(options)
            }
            Compression::Zstd => {
                Compressor::Zstd(zstd::bulk::Compressor::new(ZSTD_LEVEL).map_err(|_| {
                    super::Error::Compressor {
                        compressor: "zstd",
                        level: ZSTD_LEVEL,
                    }
                })?)
            }
            Compression::Gzip => Compressor::Gzip(libdeflater::Compressor::new(
                libdeflater::CompressionLvl::best(),
            )),
        })
    }

    /// The compressed bytes; `None` where they would not be fewer.
    pub fn compress(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        use std::io::Write as _;
        let limit = bytes.len().checked_sub(1)?;
        let out = match self {
            // Writing to memory fails only where the options are wrong.
            Compressor::Xz(options) => {
                let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options.clone()).ok()?;
                writer.write_all(bytes).ok()?;
                writer.finish().ok()?
            }
            Compressor::Zstd(zstd) => {
                let mut out = vec![0; limit];
                let length = zstd.compress_to_buffer(bytes, &mut out).ok()?;
                out.truncate(length);
                out
            }
            Compressor::Gzip(deflate) => {
                let mut out = vec![0; limit];
                let length = deflate.zlib_compress(bytes, &mut out).ok()?;
                out.truncate(length);
                out
            }
        };
        (out.len() < bytes.len()).then_some(out)
    }
}

#[cfg(test)]
mod tests;
