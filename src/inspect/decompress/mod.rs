//! Decompresses units of bounded size, whatever compressed them.
//!
//! A unit's buffer is its caller's, so nothing that is stored can make kiln use
//! more memory than the format allows a unit to have.

use std::io::Read as _;

mod lz4;
mod lzo;

/// Memory for the dictionary of an xz stream, in KiB. Dictionaries are at most as
/// long as a unit; the rest is what the decoder counts besides.
const XZ_MEMORY_KIB: u32 = 4 << 10;

/// How a unit is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Method {
    /// Raw deflate (qcow2).
    Deflate,
    /// A zlib stream (vmdk, btrfs, squashfs).
    Zlib,
    /// A zstd frame (qcow2, btrfs, squashfs).
    Zstd,
    /// An xz stream (squashfs).
    Xz,
    /// A block of LZ4 (squashfs).
    Lz4,
    /// LZO1X (squashfs).
    Lzo,
    /// LZO1X sector by sector, with their lengths (btrfs).
    LzoSectors {
        /// Bytes of a sector.
        sector: u32,
    },
}

/// Decompresses on one thread, with state that is used again.
#[derive(Default)]
pub(super) struct Decompressor {
    deflate: Option<libdeflater::Decompressor>,
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl Decompressor {
    /// Decompresses into the start of `unit`, and says how many bytes that gave;
    /// `None` for damage, and for more than the unit has room for. What follows
    /// the compressed bytes is ignored: whole sectors are stored.
    pub fn decompress(&mut self, method: Method, stored: &[u8], unit: &mut [u8]) -> Option<usize> {
        match method {
            Method::Deflate => self.deflate().deflate_decompress(stored, unit).ok(),
            Method::Zlib => self.deflate().zlib_decompress(stored, unit).ok(),
            Method::Zstd => {
                let frame = zstd::zstd_safe::find_frame_compressed_size(stored).ok()?;
                let zstd = match &mut self.zstd {
                    Some(zstd) => zstd,
                    none => none.insert(zstd::bulk::Decompressor::new().ok()?),
                };
                zstd.decompress_to_buffer(stored.get(..frame)?, unit).ok()
            }
            Method::Xz => xz(stored, unit),
            Method::Lz4 => lz4::decompress(stored, unit),
            Method::Lzo => lzo::decompress(stored, unit),
            Method::LzoSectors { sector } => {
                lzo::decompress_sectors(stored, unit, usize::try_from(sector).ok()?)
            }
        }
    }

    fn deflate(&mut self) -> &mut libdeflater::Decompressor {
        self.deflate
            .get_or_insert_with(libdeflater::Decompressor::new)
    }
}

fn xz(stored: &[u8], unit: &mut [u8]) -> Option<usize> {
    let mut reader = lzma_rust2::XzReader::new_mem_limit(stored, false, XZ_MEMORY_KIB);
    let mut filled = 0;
    while filled < unit.len() {
        match reader.read(&mut unit[filled..]) {
            Ok(0) => return Some(filled),
            Ok(read) => filled += read,
            Err(_) => return None,
        }
    }
    // The end has to be there too: it carries the checksum.
    match reader.read(&mut [0]) {
        Ok(0) => Some(filled),
        _ => None,
    }
}

/// Repeats `count` bytes that are `distance` before `at`; gives where they end.
fn repeat(out: &mut [u8], at: usize, distance: usize, count: usize) -> Option<usize> {
    let from = at.checked_sub(distance).filter(|&from| from < at)?;
    let end = at.checked_add(count).filter(|&end| end <= out.len())?;
    if distance >= count {
        out.copy_within(from..from + count, at);
    } else {
        // What is copied may be what was just written.
        for place in at..end {
            out[place] = out[place - distance];
        }
    }
    Some(end)
}

#[cfg(test)]
mod tests;
