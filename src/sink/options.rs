//! Formats by name, with options in the notation of `qemu-img -o`.
//!
//! One list of options serves all outputs of a build: each format takes what it
//! has, and an option (or a value) that no format takes is an error.

use super::qcow2::{self, OptionsError};
use super::{Format, squashfs, vdi, vhd, vhdx, vmdk};

/// Names of all formats.
pub const NAMES: [&str; 12] = [
    "raw", "qcow2", "vmdk", "vhd", "vhdx", "vdi", "tar", "tgz", "squashfs", "docker", "oci", "aci",
];

/// Names of the formats that hold a disk.
pub const DISK_FORMATS: [&str; 6] = ["raw", "qcow2", "vmdk", "vhd", "vhdx", "vdi"];

/// Formats and options as the user gave them.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Names of formats.
    pub names: &'a [String],
    /// Compress what can be (off with `-u`).
    pub compress: bool,
    /// Options; the last of several for one key counts.
    pub options: &'a [(String, String)],
}

/// A format or option that there is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// No format of this name.
    #[error("there is no output format `{name}`")]
    Unknown {
        /// The name.
        name: String,
    },
    /// An option that none of the formats has.
    #[error("no output format here has an option `{key}`")]
    UnknownOption {
        /// Its name.
        key: String,
        /// The formats.
        formats: Vec<&'static str>,
    },
    /// A value that none of the formats takes.
    #[error("{} option `{key}` cannot be `{value}`", formats.join(" and "))]
    Value {
        /// Its name.
        key: String,
        /// The value.
        value: String,
        /// The formats that have the option.
        formats: Vec<&'static str>,
        /// What they take.
        expected: String,
    },
    /// An option of qcow2.
    #[error(transparent)]
    Qcow2(#[from] OptionsError),
}

impl FormatError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            FormatError::Unknown { .. } => Some(format!("the formats are {}", NAMES.join(", "))),
            FormatError::UnknownOption { formats, .. } => {
                let mut known: Vec<String> = Vec::new();
                for option in formats.iter().flat_map(|format| supported(format)) {
                    let quoted = format!("`{option}`");
                    if !known.contains(&quoted) {
                        known.push(quoted);
                    }
                }
                Some(if known.is_empty() {
                    format!("{} has no options", formats.join(", "))
                } else {
                    format!("supported are {}", known.join(", "))
                })
            }
            FormatError::Value { expected, .. } => Some(format!("it is {expected}")),
            FormatError::Qcow2(error) => error.hint(),
        }
    }
}

/// Options of a format.
fn supported(format: &str) -> &'static [&'static str] {
    match format {
        "qcow2" => &qcow2::options::SUPPORTED,
        "vmdk" => &[
            "subformat=streamOptimized|monolithicSparse",
            "adapter_type=ide|buslogic|lsilogic|legacyESX",
            "compression_level=N",
            "hwversion=N",
            "toolsversion=N",
            "compat6=off",
            "zeroed_grain=off",
            "preallocation=off",
            "nocow=off",
        ],
        "vhd" => &[
            "subformat=dynamic|fixed",
            "force_size=on",
            "preallocation=off",
            "nocow=off",
        ],
        "vhdx" => &[
            "subformat=dynamic|fixed",
            "block_size=SIZE",
            "log_size=SIZE",
            "block_state_zero=on|off",
            "preallocation=off",
            "nocow=off",
        ],
        "vdi" => &["static=on|off", "preallocation=off", "nocow=off"],
        "raw" => &["preallocation=off", "nocow=off"],
        "squashfs" => &["compression=xz|zstd|gzip"],
        _ => &[],
    }
}

/// Whether a format has an option.
fn has(format: &str, key: &str) -> bool {
    let names = supported(format).iter();
    names
        .filter_map(|option| option.split_once('='))
        .any(|(name, _)| name == key)
}

/// Whether the values of an option are numbers, whose range [`format`] checks.
fn is_number(values: &str) -> bool {
    matches!(values, "N" | "SIZE")
}

/// Whether a format takes a value of an option that has a list of values.
fn takes(format: &str, key: &str, value: &str) -> bool {
    values(format, key)
        .is_some_and(|values| is_number(values) || values.split('|').any(|known| known == value))
}

fn values(format: &str, key: &str) -> Option<&'static str> {
    let mut options = supported(format)
        .iter()
        .filter_map(|option| option.split_once('='));
    options
        .find(|(name, _)| *name == key)
        .map(|(_, values)| values)
}

/// Divides options into those that count for formats of these names, and the keys of those
/// that do not: others have them, and none of these would have been converted.
///
/// diskimage-builder hands its options to `qemu-img convert`, and does not look at them where
/// it has nothing to convert. So they may be set for all builds.
pub fn divide_unused<'o>(
    names: &[String],
    options: &'o [(String, String)],
) -> (Vec<(String, String)>, Vec<&'o str>) {
    let is_converted = |name: &String| {
        let name = if name == "vpc" { "vhd" } else { name };
        name != "raw" && DISK_FORMATS.contains(&name)
    };
    let converted = names.iter().any(is_converted);
    let (unused, used): (Vec<_>, Vec<_>) = options.iter().partition(|(key, _)| {
        !converted
            && !names.iter().any(|name| has(name, key))
            && NAMES.iter().any(|name| has(name, key))
    });
    let keys = unused.into_iter().map(|(key, _)| key.as_str()).collect();
    (used.into_iter().cloned().collect(), keys)
}

/// The formats, each once, in order.
///
/// # Errors
/// An unknown format, option or value, by name.
pub fn formats(request: Request<'_>) -> Result<Vec<Format>, FormatError> {
    let mut names: Vec<&'static str> = Vec::new();
    for name in request.names {
        // QEMU's name.
        let name = if name == "vpc" { "vhd" } else { name };
        let known = NAMES.into_iter().find(|known| *known == name);
        let known = known.ok_or_else(|| FormatError::Unknown {
            name: name.to_owned(),
        })?;
        if !names.contains(&known) {
            names.push(known);
        }
    }
    for (key, value) in request.options {
        check(&names, key, value)?;
    }
    names
        .iter()
        .map(|name| format(name, request.compress, request.options))
        .collect()
}

/// Finds a format that takes an option; qcow2 checks its own values.
fn check(names: &[&'static str], key: &str, value: &str) -> Result<(), FormatError> {
    let having: Vec<&'static str> = names
        .iter()
        .copied()
        .filter(|name| has(name, key))
        .collect();
    if having.is_empty() {
        return Err(FormatError::UnknownOption {
            key: key.to_owned(),
            formats: names.to_vec(),
        });
    }
    if having
        .iter()
        .any(|name| *name == "qcow2" || takes(name, key, value))
    {
        return Ok(());
    }
    let mut expected: Vec<String> = Vec::new();
    for values in having.iter().filter_map(|name| values(name, key)) {
        let quoted = format!("`{}`", values.replace('|', "`, `"));
        if !expected.contains(&quoted) {
            expected.push(quoted);
        }
    }
    Err(FormatError::Value {
        key: key.to_owned(),
        value: value.to_owned(),
        formats: having,
        expected: expected.join(", "),
    })
}

fn format(
    name: &'static str,
    compress: bool,
    options: &[(String, String)],
) -> Result<Format, FormatError> {
    let mine: Vec<(String, String)> = options
        .iter()
        .filter(|(key, value)| has(name, key) && (name == "qcow2" || takes(name, key, value)))
        .cloned()
        .collect();
    let last = |key: &str| {
        let of_key = mine.iter().rfind(|(known, _)| known == key);
        of_key.map(|(_, value)| value.as_str())
    };
    Ok(match name {
        "qcow2" => {
            let mut base = qcow2::Options::default();
            if !compress {
                base.compression = qcow2::Compression::None;
            }
            Format::Qcow2(qcow2::Options::from_pairs(&mine, base)?)
        }
        "vmdk" => {
            let default = if compress {
                vmdk::Subformat::StreamOptimized
            } else {
                vmdk::Subformat::MonolithicSparse
            };
            let level = number(
                name,
                "compression_level",
                last,
                "a number from 1 to 12",
                |value| value.parse().ok().filter(|level| (1..=12).contains(level)),
            )?;
            let version = |key| number(name, key, last, "a number", |value| value.parse().ok());
            let default_version = vmdk::Options::default().hardware_version;
            Format::Vmdk(vmdk::Options {
                subformat: named(&vmdk::Subformat::NAMES, last("subformat"), default),
                adapter: named(
                    &vmdk::Adapter::NAMES,
                    last("adapter_type"),
                    vmdk::Adapter::default(),
                ),
                level,
                hardware_version: version("hwversion")?.unwrap_or(default_version),
                tools_version: version("toolsversion")?,
            })
        }
        "vhd" => Format::Vhd(named(
            &vhd::Subformat::NAMES,
            last("subformat"),
            vhd::Subformat::default(),
        )),
        "vhdx" => {
            let default = vhdx::Options::default();
            let block_size = number(
                name,
                "block_size",
                last,
                "a power of two from 1M to 256M, or 0",
                |value| {
                    parse_size(value).filter(|&size| {
                        size == 0
                            || vhdx::format::BLOCK_SIZES.contains(&size) && size.is_power_of_two()
                    })
                },
            )?;
            let log_size = number(
                name,
                "log_size",
                last,
                "whole MiB, from 1M to 1024M",
                |value| {
                    parse_size(value).filter(|&size| {
                        size.is_multiple_of(vhdx::format::MIB)
                            && vhdx::format::LOG_SIZES.contains(&size)
                    })
                },
            )?;
            Format::Vhdx(vhdx::Options {
                subformat: named(
                    &vhdx::Subformat::NAMES,
                    last("subformat"),
                    vhdx::Subformat::default(),
                ),
                block_size: block_size.filter(|&size| size > 0),
                log_size: log_size.unwrap_or(default.log_size),
                zero_state: last("block_state_zero") == Some("on"),
            })
        }
        "vdi" => Format::Vdi(named(
            &vdi::Subformat::NAMES,
            last("static"),
            vdi::Subformat::default(),
        )),
        "tar" => Format::Tar,
        "tgz" => Format::Tgz,
        "squashfs" => Format::Squashfs(named(
            &squashfs::Compression::NAMES,
            last("compression"),
            squashfs::Compression::default(),
        )),
        "docker" => Format::Docker,
        "oci" => Format::Oci,
        "aci" => Format::Aci,
        _ => Format::Raw,
    })
}

/// The number that an option of a format has, if it is given.
fn number<'a, T>(
    format: &'static str,
    key: &str,
    given: impl Fn(&str) -> Option<&'a str>,
    expected: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, FormatError> {
    let Some(value) = given(key) else {
        return Ok(None);
    };
    match parse(value) {
        Some(number) => Ok(Some(number)),
        None => Err(FormatError::Value {
            key: key.to_owned(),
            value: value.to_owned(),
            formats: vec![format],
            expected: expected.to_owned(),
        }),
    }
}

/// Bytes from a number with an optional unit `k`, `M`, `KiB` or `MiB`, as QEMU reads sizes.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match &text[digits..] {
        "" | "b" | "B" => 1,
        "k" | "K" | "KiB" => 1 << 10,
        "m" | "M" | "MiB" => 1 << 20,
        "g" | "G" | "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}

fn named<T: Copy>(names: &[(&str, T)], given: Option<&str>, default: T) -> T {
    let found = names.iter().find(|(name, _)| Some(*name) == given);
    found.map_or(default, |(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(names: &str, compress: bool, options: &str) -> Result<Vec<Format>, FormatError> {
        let names: Vec<String> = names.split(',').map(str::to_owned).collect();
        let options: Vec<(String, String)> = options
            .split(',')
            .filter_map(|option| option.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        formats(Request {
            names: &names,
            compress,
            options: &options,
        })
    }

    #[test]
    fn every_format_takes_the_options_that_it_has() {
        let formats = ask(
            "vmdk,vpc,qcow2,vhd",
            true,
            "subformat=fixed,cluster_size=4k,adapter_type=ide",
        )
        .unwrap();
        assert_eq!(
            formats,
            [
                Format::Vmdk(vmdk::Options {
                    adapter: vmdk::Adapter::Ide,
                    ..vmdk::Options::default()
                }),
                Format::Vhd(vhd::Subformat::Fixed),
                Format::Qcow2(qcow2::Options {
                    cluster_size: 4096,
                    ..qcow2::Options::default()
                }),
            ]
        );
        let Format::Vmdk(options) = ask("vmdk", false, "").unwrap()[0] else {
            panic!()
        };
        assert_eq!(options.subformat, vmdk::Subformat::MonolithicSparse);
    }

    #[test]
    fn options_for_what_is_not_converted_do_not_count() {
        let options = [("compat", "0.10"), ("compression", "xz"), ("x", "y")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let divided = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            let (used, unused) = divide_unused(&names, &options);
            let used: Vec<String> = used.into_iter().map(|(key, _)| key).collect();
            (used.join(" "), unused.join(" "))
        };
        let pair = |used: &str, unused: &str| (used.to_owned(), unused.to_owned());
        assert_eq!(divided(&["raw", "tar"]), pair("x", "compat compression"));
        assert_eq!(divided(&["squashfs"]), pair("compression x", "compat"));
        // What is unknown everywhere, or not to one that would have been converted, is an error.
        assert_eq!(divided(&["raw", "vpc"]), pair("compat compression x", ""));
        assert_eq!(divided(&["qcow2"]), pair("compat compression x", ""));
    }

    #[test]
    fn numbers_have_units_and_ranges() {
        let formats = ask(
            "vhdx,vdi,vmdk",
            true,
            "subformat=fixed,block_size=32M,log_size=2M,block_state_zero=on,static=on,\
             hwversion=13,toolsversion=2147483647,adapter_type=legacyESX",
        );
        assert_eq!(
            formats.unwrap(),
            [
                Format::Vhdx(vhdx::Options {
                    subformat: vhdx::Subformat::Fixed,
                    block_size: Some(32 << 20),
                    log_size: 2 << 20,
                    zero_state: true,
                }),
                Format::Vdi(vdi::Subformat::Static),
                Format::Vmdk(vmdk::Options {
                    adapter: vmdk::Adapter::LegacyEsx,
                    hardware_version: 13,
                    tools_version: Some(2_147_483_647),
                    ..vmdk::Options::default()
                }),
            ]
        );
        assert_eq!(
            ask("vhdx", true, "block_size=0").unwrap(),
            [Format::Vhdx(vhdx::Options::default())]
        );
    }

    #[test]
    fn what_no_format_takes_is_named() {
        for (names, options, message, hint) in [
            (
                "qcow3",
                "",
                "there is no output format `qcow3`",
                "the formats are raw, qcow2, vmdk, vhd, vhdx, vdi, tar, tgz, squashfs, docker, oci, aci",
            ),
            (
                "raw,vdi",
                "cluster_size=4k",
                "no output format here has an option `cluster_size`",
                "supported are `preallocation=off`, `nocow=off`, `static=on|off`",
            ),
            (
                "vhd,raw",
                "subformat=streamOptimized",
                "vhd option `subformat` cannot be `streamOptimized`",
                "it is `dynamic`, `fixed`",
            ),
            (
                "vmdk",
                "compression_level=13",
                "vmdk option `compression_level` cannot be `13`",
                "it is a number from 1 to 12",
            ),
            (
                "vhd",
                "x=y",
                "no output format here has an option `x`",
                "supported are `subformat=dynamic|fixed`, `force_size=on`, `preallocation=off`, `nocow=off`",
            ),
            (
                "vhdx",
                "block_size=3M",
                "vhdx option `block_size` cannot be `3M`",
                "it is a power of two from 1M to 256M, or 0",
            ),
            (
                "vhdx",
                "log_size=1k",
                "vhdx option `log_size` cannot be `1k`",
                "it is whole MiB, from 1M to 1024M",
            ),
            (
                "vmdk",
                "hwversion=new",
                "vmdk option `hwversion` cannot be `new`",
                "it is a number",
            ),
            (
                "vmdk",
                "zeroed_grain=on",
                "vmdk option `zeroed_grain` cannot be `on`",
                "it is `off`",
            ),
            (
                "raw,vhd",
                "preallocation=full",
                "raw and vhd option `preallocation` cannot be `full`",
                "it is `off`",
            ),
        ] {
            let error = ask(names, true, options).unwrap_err();
            assert_eq!(error.to_string(), message);
            assert_eq!(error.hint().as_deref(), Some(hint));
        }
    }
}
