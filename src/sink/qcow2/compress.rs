//! Compressors of clusters, one for each thread.

use kiln_deflate::Deflater;

use super::super::error::Error;
use super::options::{Compression, CompressionType, Options};

/// Sums of squares (see [`evenness`]) below this are those of random bytes.
const RANDOM: u32 = 71_500;
/// A sixth faster than QEMU's level (3) for 2 % more, which is less than zlib.
const DEFAULT_ZSTD_LEVEL: i32 = 2;

/// Compresses clusters independently of each other.
pub(crate) enum Compressor {
    /// Nothing gets smaller.
    None,
    /// Raw deflate, about as small as zlib makes it by default.
    Deflate(Box<Deflater>),
    /// Raw deflate of a level that was asked for.
    DeflateLevel(libdeflater::Compressor),
    /// One zstd frame a cluster.
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Compressor {
    pub fn new(options: &Options) -> Result<Compressor, Error> {
        let Compression::Level(level) = options.compression else {
            return Ok(Compressor::None);
        };
        match options.compression_type {
            CompressionType::Zlib => match level {
                None => Ok(Compressor::Deflate(Box::default())),
                Some(level) => {
                    let valid =
                        libdeflater::CompressionLvl::new(level).map_err(|_| Error::Compressor {
                            compressor: "zlib",
                            level,
                        })?;
                    let compressor = libdeflater::Compressor::new(valid);
                    Ok(Compressor::DeflateLevel(compressor))
                }
            },
            CompressionType::Zstd => {
                let level = level.unwrap_or(DEFAULT_ZSTD_LEVEL);
                let compressor =
                    zstd::bulk::Compressor::new(level).map_err(|_| Error::Compressor {
                        compressor: "zstd",
                        level,
                    })?;
                Ok(Compressor::Zstd(compressor))
            }
        }
    }

    /// Compresses a cluster to the start of `space`, which has room for it, and
    /// returns the length; `None` where it would not be smaller than the cluster.
    pub fn compress(&mut self, cluster: &[u8], space: &mut [u8]) -> Option<usize> {
        let space = space.get_mut(..cluster.len().saturating_sub(1))?;
        match self {
            Compressor::None => None,
            Compressor::Deflate(_) | Compressor::DeflateLevel(_) if looks_random(cluster) => None,
            Compressor::Deflate(deflate) => deflate.compress(cluster, space),
            Compressor::DeflateLevel(deflate) => deflate.deflate_compress(cluster, space).ok(),
            // The only error with a level that was accepted is too little space.
            Compressor::Zstd(zstd) => zstd.compress_to_buffer(cluster, space).ok(),
        }
    }
}

/// Whether deflate is not worth a try: whether the values of a sample of bytes are
/// spread so evenly as only random ones are, such as those of compressed files.
fn looks_random(cluster: &[u8]) -> bool {
    evenness(cluster).is_some_and(|sum| sum < RANDOM)
}

/// How evenly the values of a sample of bytes are spread: the sum of the squares of
/// how often each occurs. Of random bytes this is 69,616 on average, rarely over
/// 71,500; of anything that deflate makes one percent smaller it is far more; of one
/// value alone it is 2^24. `None` for few bytes.
fn evenness(cluster: &[u8]) -> Option<u32> {
    const PIECES: usize = 4;
    const PIECE: usize = 1024;
    let step = cluster.len() / PIECES;
    if step < PIECE {
        return None;
    }
    let mut counts = [0u32; 256];
    for piece in cluster.chunks_exact(step).take(PIECES) {
        for &byte in &piece[..PIECE] {
            counts[usize::from(byte)] += 1;
        }
    }
    Some(counts.iter().map(|count| count * count).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_get_smaller_is_refused() {
        for compression_type in [CompressionType::Zlib, CompressionType::Zstd] {
            let options = Options {
                compression_type,
                ..Options::default()
            };
            let mut compressor = Compressor::new(&options).unwrap();
            let mut out = [0; 4096];
            let mut state = 1_u64;
            let noise: Vec<u8> = (0..4096)
                .map(|_| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    (state >> 56) as u8
                })
                .collect();
            assert_eq!(compressor.compress(&noise, &mut out), None);
            let length = compressor.compress(&[7; 4096], &mut out).unwrap();
            assert!(length < 64);
        }
    }

    #[test]
    fn evenness_is_that_of_the_values() {
        assert_eq!(evenness(&[7; 65536]), Some(4096 * 4096));
        let all: Vec<u8> = (0..65536_u32).map(|at| at as u8).collect();
        assert_eq!(evenness(&all), Some(256 * 16 * 16));
        assert_eq!(evenness(&[7; 4095]), None);
    }

    #[test]
    fn only_noise_looks_random() {
        let mut state = 1_u64;
        let mut noise = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        };
        let random: Vec<u8> = (0..65536).map(|_| noise()).collect();
        let skewed: Vec<u8> = (0..65536).map(|_| noise().max(noise() / 2)).collect();
        assert!(looks_random(&random));
        assert!(!looks_random(&skewed));
    }

    #[test]
    fn an_impossible_level_is_an_error() {
        let options = Options {
            compression: Compression::Level(Some(99)),
            ..Options::default()
        };
        assert!(matches!(
            Compressor::new(&options),
            Err(Error::Compressor { level: 99, .. })
        ));
    }
}
