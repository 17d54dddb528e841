//! Options of a qcow2 output, also in the notation of `qemu-img -o`.

use super::super::options::parse_size;
use super::format::CLUSTER_BITS;

/// Default cluster size in bytes, QEMU's.
const DEFAULT_CLUSTER_SIZE: u32 = 64 << 10;

/// Version of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// `compat=0.10`: read by every QEMU; zlib only.
    V2,
    /// `compat=1.1`: QEMU 1.1 and later.
    #[default]
    V3,
}

/// How compressed clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CompressionType {
    /// Raw deflate: read by every QEMU.
    #[default]
    Zlib,
    /// zstd: QEMU 5.1 and later, version 3 only.
    Zstd,
}

/// Whether and how clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Clusters are stored as they are (`-u`).
    None,
    /// Clusters are compressed where that makes them smaller.
    Level(Option<i32>),
}

/// Options of a qcow2 output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Version of the format.
    pub version: Version,
    /// Cluster size in bytes: a power of two from 512 to 2 MiB.
    pub cluster_size: u32,
    /// How compressed clusters are compressed.
    pub compression_type: CompressionType,
    /// Whether clusters are compressed, and at which level: zlib 1 to 12
    /// (default 1), zstd 1 to 19 (default 2).
    pub compression: Compression,
    /// Bits of a reference count: 16, 32 or 64. Compressed clusters share a host
    /// cluster, so that fewer would not do.
    pub refcount_bits: u32,
    /// Whether QEMU may postpone updates of reference counts while it writes.
    pub lazy_refcounts: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            version: Version::V3,
            cluster_size: DEFAULT_CLUSTER_SIZE,
            compression_type: CompressionType::Zlib,
            compression: Compression::Level(None),
            refcount_bits: 16,
            lazy_refcounts: false,
        }
    }
}

/// An option of `--qemu-img-options` that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// Not one that kiln has.
    #[error("qcow2 option `{key}` is not supported")]
    Unknown {
        /// Its name.
        key: String,
    },
    /// An option without a value.
    #[error("qcow2 option `{key}` has no value")]
    NoValue {
        /// Its name.
        key: String,
    },
    /// A value that the option does not take.
    #[error("qcow2 option `{key}` cannot be `{value}`: {expected}")]
    Value {
        /// Its name.
        key: String,
        /// The value.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
    /// What version 2 does not have.
    #[error("qcow2 option `{option}` needs `compat=1.1`")]
    NotInVersion2 {
        /// The option with its value.
        option: String,
        /// What version 2 has.
        instead: &'static str,
    },
}

impl OptionsError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            OptionsError::Unknown { .. } | OptionsError::NoValue { .. } => Some(format!(
                "supported are {}",
                SUPPORTED.map(|option| format!("`{option}`")).join(", ")
            )),
            OptionsError::Value { .. } => None,
            OptionsError::NotInVersion2 { instead, .. } => {
                Some(format!("leave out `compat=0.10`, or use `{instead}`"))
            }
        }
    }
}

/// What `--qemu-img-options` understands.
pub(crate) const SUPPORTED: [&str; 9] = [
    "compat=0.10|1.1",
    "cluster_size=512..2M",
    "compression_type=zlib|zstd",
    "compression_level=N",
    "refcount_bits=16|32|64",
    "lazy_refcounts=on|off",
    "extended_l2=off",
    "preallocation=off",
    "nocow=off",
];

impl Options {
    /// Options from a list in the notation of `qemu-img -o`: `key=value,key=value`.
    pub fn parse(text: &str, base: Options) -> Result<Options, OptionsError> {
        let pairs = text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        let pairs = pairs
            .map(|part| {
                let (key, value) = part.split_once('=').ok_or_else(|| OptionsError::NoValue {
                    key: part.to_owned(),
                })?;
                Ok((key.trim().to_owned(), value.trim().to_owned()))
            })
            .collect::<Result<Vec<_>, _>>()?;
        Options::from_pairs(&pairs, base)
    }

    /// Options from pairs; what they do not say is as in `base`, and the last
    /// of several for one option counts.
    pub fn from_pairs(pairs: &[(String, String)], base: Options) -> Result<Options, OptionsError> {
        let mut options = base;
        for (key, value) in pairs {
            let wrong = |expected| OptionsError::Value {
                key: key.clone(),
                value: value.clone(),
                expected,
            };
            match key.as_str() {
                "compat" => {
                    options.version = match value.as_str() {
                        "0.10" | "v2" => Version::V2,
                        "1.1" | "v3" => Version::V3,
                        _ => return Err(wrong("it is `0.10` or `1.1`")),
                    }
                }
                "cluster_size" => {
                    options.cluster_size = parse_size(value)
                        .and_then(|size| u32::try_from(size).ok())
                        .filter(|size| {
                            size.is_power_of_two() && CLUSTER_BITS.contains(&size.ilog2())
                        })
                        .ok_or_else(|| wrong("it is a power of two from 512 to 2M"))?;
                }
                "compression_type" => {
                    options.compression_type = match value.as_str() {
                        "zlib" => CompressionType::Zlib,
                        "zstd" => CompressionType::Zstd,
                        _ => return Err(wrong("it is `zlib` or `zstd`")),
                    }
                }
                "compression_level" => {
                    let level = value.parse().map_err(|_| wrong("it is a number"))?;
                    if options.compression != Compression::None {
                        options.compression = Compression::Level(Some(level));
                    }
                }
                "refcount_bits" => {
                    options.refcount_bits = match value.as_str() {
                        "16" => 16,
                        "32" => 32,
                        "64" => 64,
                        _ => return Err(wrong("it is `16`, `32` or `64`")),
                    }
                }
                "lazy_refcounts" => {
                    options.lazy_refcounts = match value.as_str() {
                        "on" => true,
                        "off" => false,
                        _ => return Err(wrong("it is `on` or `off`")),
                    }
                }
                "extended_l2" | "preallocation" | "nocow" if value == "off" => {}
                "extended_l2" | "preallocation" | "nocow" => {
                    return Err(wrong("only `off` is supported"));
                }
                _ => return Err(OptionsError::Unknown { key: key.clone() }),
            }
        }
        if let Compression::Level(Some(level)) = options.compression {
            let (valid, expected) = match options.compression_type {
                CompressionType::Zlib => (1..=12, "for zlib it is 1 to 12"),
                CompressionType::Zstd => (1..=19, "for zstd it is 1 to 19"),
            };
            if !valid.contains(&level) {
                return Err(OptionsError::Value {
                    key: "compression_level".to_owned(),
                    value: level.to_string(),
                    expected,
                });
            }
        }
        let newer = [
            (
                options.compression_type == CompressionType::Zstd,
                "compression_type=zstd".to_owned(),
                "compression_type=zlib",
            ),
            (
                options.refcount_bits != 16,
                format!("refcount_bits={}", options.refcount_bits),
                "refcount_bits=16",
            ),
            (
                options.lazy_refcounts,
                "lazy_refcounts=on".to_owned(),
                "lazy_refcounts=off",
            ),
        ];
        let newer = newer.into_iter().find(|(asked, ..)| *asked);
        match newer {
            Some((_, option, instead)) if options.version == Version::V2 => {
                Err(OptionsError::NotInVersion2 { option, instead })
            }
            _ => Ok(options),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_as_qemu_img_reads_them() {
        let base = Options::default();
        assert_eq!(Options::parse("", base), Ok(base));
        assert_eq!(
            Options::parse(
                "compat=0.10,cluster_size=4k,lazy_refcounts=off,preallocation=off",
                base
            ),
            Ok(Options {
                version: Version::V2,
                cluster_size: 4096,
                ..base
            })
        );
        assert_eq!(
            Options::parse(
                "compression_type=zstd, cluster_size=2M,compression_level=19",
                base
            ),
            Ok(Options {
                cluster_size: 2 << 20,
                compression_type: CompressionType::Zstd,
                compression: Compression::Level(Some(19)),
                ..base
            })
        );
        assert_eq!(
            Options::parse("refcount_bits=32,lazy_refcounts=on,extended_l2=off", base),
            Ok(Options {
                refcount_bits: 32,
                lazy_refcounts: true,
                ..base
            })
        );
        let uncompressed = Options {
            compression: Compression::None,
            ..base
        };
        assert_eq!(
            Options::parse("compression_level=5", uncompressed),
            Ok(uncompressed)
        );
    }

    #[test]
    fn what_is_not_supported_is_named_with_what_is() {
        let error = Options::parse("encryption=on", Options::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "qcow2 option `encryption` is not supported"
        );
        let hint = error.hint().unwrap();
        for option in [
            "compat",
            "cluster_size",
            "compression_type",
            "lazy_refcounts",
            "preallocation",
        ] {
            assert!(hint.contains(option), "{hint}");
        }
        for (text, message) in [
            ("compat", "qcow2 option `compat` has no value"),
            (
                "compat=2",
                "qcow2 option `compat` cannot be `2`: it is `0.10` or `1.1`",
            ),
            (
                "cluster_size=3k",
                "qcow2 option `cluster_size` cannot be `3k`: it is a power of two from 512 to 2M",
            ),
            (
                "cluster_size=4M",
                "qcow2 option `cluster_size` cannot be `4M`: it is a power of two from 512 to 2M",
            ),
            (
                "cluster_size=0",
                "qcow2 option `cluster_size` cannot be `0`: it is a power of two from 512 to 2M",
            ),
            (
                "preallocation=full",
                "qcow2 option `preallocation` cannot be `full`: only `off` is supported",
            ),
            (
                "refcount_bits=1",
                "qcow2 option `refcount_bits` cannot be `1`: it is `16`, `32` or `64`",
            ),
            (
                "extended_l2=on",
                "qcow2 option `extended_l2` cannot be `on`: only `off` is supported",
            ),
            (
                "compat=0.10,refcount_bits=64",
                "qcow2 option `refcount_bits=64` needs `compat=1.1`",
            ),
            (
                "lazy_refcounts=on,compat=v2",
                "qcow2 option `lazy_refcounts=on` needs `compat=1.1`",
            ),
            (
                "compression_level=13",
                "qcow2 option `compression_level` cannot be `13`: for zlib it is 1 to 12",
            ),
            (
                "compat=0.10,compression_type=zstd",
                "qcow2 option `compression_type=zstd` needs `compat=1.1`",
            ),
        ] {
            assert_eq!(
                Options::parse(text, Options::default())
                    .unwrap_err()
                    .to_string(),
                message
            );
        }
    }
}
