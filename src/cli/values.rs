//! Values of options and variables: which there are, and how they are written.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::failure::Failure;
use super::nearest::nearest;
/// Identities that can be asked for instead of the probed one.
pub use crate::sandbox::choice::MODES;

/// Image types that kiln writes.
pub const TYPES: [&str; 12] = crate::sink::NAMES;
/// Architectures of the distributions that elements are for, in Debian's names and
/// in the kernel's, which some elements take as well.
pub const ARCHES: [&str; 22] = [
    "amd64", "arm64", "armel", "armhf", "i386", "loong64", "mips64el", "mipsel", "powerpc",
    "ppc64", "ppc64el", "ppc64le", "riscv64", "s390x", "x86", "x86_64", "aarch64", "arm", "armv7l",
    "i686", "ppc", "s390",
];

/// Refuses an architecture that no distribution has, before anything is fetched.
pub(super) fn known_arch(arch: &str) -> Result<(), Failure> {
    if ARCHES.contains(&arch) {
        return Ok(());
    }
    let failure = Failure::new(format!("unknown architecture `{arch}`"));
    Err(match nearest(arch, ARCHES) {
        Some(meant) => failure.hint(format!("did you mean `{meant}`?")),
        None => failure.hint("for example: `amd64`, `arm64`, `armhf`, `ppc64el`, `riscv64`"),
    })
}

/// A value and the option or variable that it came from.
pub(super) struct Setting {
    pub(super) text: String,
    pub(super) from: &'static str,
}

/// Splits comma lists and drops empty parts.
pub(super) fn comma_list(lists: &[String]) -> Vec<String> {
    lists
        .iter()
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

pub(super) fn image_types(given: &[String]) -> Result<Vec<String>, Failure> {
    if given.is_empty() {
        return Ok(vec!["qcow2".to_owned()]);
    }
    let supported = || format!("supported are {}", TYPES.join(", "));
    let mut types: Vec<String> = Vec::new();
    for kind in comma_list(given) {
        if !TYPES.contains(&kind.as_str()) {
            let failure = Failure::new(format!("unknown image type `{kind}`"));
            // As qemu-img calls it, which DIB passes such words on to.
            let meant = if kind == "vpc" {
                Some("vhd")
            } else {
                nearest(&kind, TYPES)
            };
            return Err(match meant {
                Some(meant) => failure.hint(format!("did you mean `{meant}`?")),
                None => failure,
            }
            .hint(supported()));
        }
        if !types.contains(&kind) {
            types.push(kind);
        }
    }
    if types.is_empty() {
        return Err(Failure::new("the list of image types is empty").hint(supported()));
    }
    Ok(types)
}

/// A name that outputs can have: one of a file, without the suffix that the only
/// format would add again.
pub fn output_name(name: PathBuf, types: &[String]) -> Result<PathBuf, Failure> {
    let invalid = |why: &str| {
        Failure::new(format!("output name `{}` {why}", name.display()))
            .hint("give a file name, without the format's suffix, as in `-o images/debian`")
    };
    if name.as_os_str().is_empty() {
        return Err(invalid("is empty"));
    }
    let ends_in_directory =
        name.file_name().is_none() || name.as_os_str().as_bytes().ends_with(b"/");
    if ends_in_directory {
        return Err(invalid("is a directory"));
    }
    if let [only] = types {
        let suffix = format!(".{only}");
        if let Some(stem) = name.as_os_str().as_bytes().strip_suffix(suffix.as_bytes()) {
            let stem = Path::new(OsStr::from_bytes(stem));
            if stem.file_name().is_some() && !stem.as_os_str().as_bytes().ends_with(b"/") {
                return Ok(stem.to_owned());
            }
        }
    }
    Ok(name)
}

pub(super) fn pairs(setting: &Setting) -> Result<Vec<(String, String)>, Failure> {
    options(&setting.text, &setting.from)
}

/// Options of image writers: `key=value`, separated by commas. `from` is where
/// they were given, for messages.
pub fn options(
    text: &str,
    from: &(impl std::fmt::Display + ?Sized),
) -> Result<Vec<(String, String)>, Failure> {
    comma_list(&[text.to_owned()])
        .into_iter()
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(Failure::new(format!(
                "`{from}` has `{pair}` where `key=value` is expected"
            ))
            .hint("write it as in `compat=1.1,cluster_size=65536`")),
        })
        .collect()
}

pub(super) fn whole<N: std::str::FromStr>(setting: &Setting, what: &str) -> Result<N, Failure> {
    setting.text.trim().parse().map_err(|_| {
        Failure::new(format!(
            "`{}` is `{}`, which is not {what}",
            setting.from, setting.text
        ))
        .hint("give a whole number, without a unit")
    })
}

/// What a number of a size stands for, and so which numbers there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// The image, in GiB: a positive number.
    Image,
    /// What is added to its content, in MiB: may be nothing.
    Extra,
    /// The journal, in whole MiB.
    Journal,
}

/// Checks that a size is a number that it can be and returns it as it was written.
pub(super) fn checked_size(setting: Setting, size: Size) -> Result<String, Failure> {
    let Setting { text, from } = setting;
    let fraction = size != Size::Journal;
    let text = text.trim();
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let valid = match text.split_once('.') {
        Some((whole, part)) => {
            fraction && digits(whole) && digits(part) && !(whole.is_empty() && part.is_empty())
        }
        None => !text.is_empty() && digits(text),
    };
    // The longest that could mean anything is far below; it keeps parsers of
    // the number free of overflow.
    let nothing = !text.bytes().any(|byte| matches!(byte, b'1'..=b'9'));
    if valid && text.len() <= 15 && !(nothing && size == Size::Image) {
        return Ok(text.to_owned());
    }
    let unit = match size {
        Size::Image => "GiB",
        Size::Extra | Size::Journal => "MiB",
    };
    Err(Failure::new(format!(
        "`{from}` is `{text}`, which is not a size in {unit}"
    ))
    .hint(if fraction {
        "give a number without a unit, such as `5` or `2.5`"
    } else {
        "give a whole number without a unit, such as `512`"
    }))
}
