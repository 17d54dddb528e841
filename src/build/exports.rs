//! The variables that all hooks get: the caller's environment, and what diskimage-builder
//! exports. [`super::environment`] makes of them what hooks of either side see.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::disk::layout;

use super::environment::Variables;
use super::failure::Failure;
use super::place;
use super::request::Request;

/// A variable and its value.
type Pair = (&'static str, OsString);

/// The caller's environment and DIB's exports.
pub fn of(
    request: &Request,
    arch: &str,
    layout: &layout::Plan,
    cache: &Path,
) -> Result<Variables, Failure> {
    let mut variables = request.environment.clone();
    let places: [Pair; 2] = [
        ("DIB_IMAGE_CACHE", cache.into()),
        ("DIB_LOCKFILES", lockfiles(request)?.into()),
    ];
    let arguments = request.arguments.join(" ");
    variables.insert("DIB_ARGS".into(), arguments.into());
    let always: [Pair; 4] = [
        ("DIB_ENV", snapshot(&variables).into()),
        ("LC_ALL", "C".into()),
        ("ARCH", arch.into()),
        ("KILN_VERSION", env!("CARGO_PKG_VERSION").into()),
    ];
    let pairs = (always.into_iter())
        .chain(places)
        .chain(of_request(request)?)
        .chain(of_layout(layout)?)
        .chain(shell_functions())
        .chain(sizes(request));
    variables.extend(pairs.map(|(name, value)| (name.into(), value)));
    Ok(variables)
}

/// Declarations of the variables of DIB that are set, but for this one itself.
fn snapshot(variables: &Variables) -> String {
    variables
        .iter()
        .filter_map(|(name, value)| {
            let name = name
                .to_str()
                .filter(|name| name.starts_with("DIB_") && *name != "DIB_ENV")?;
            Some(declaration(name, &value.to_string_lossy()))
        })
        .collect()
}

/// What was asked for, with defaults.
fn of_request(request: &Request) -> Result<[Pair; 10], Failure> {
    let digit = |on: bool| if on { "1" } else { "0" };
    // What the caller wrote may name the sums that are wanted.
    let checksum = match request.variable("DIB_CHECKSUM") {
        Some(wanted) if request.checksum => wanted.to_owned(),
        _ => digit(request.checksum).into(),
    };
    let fs_type = request.text("FS_TYPE")?;
    let image_type = request.image_types.first().cloned();
    Ok([
        ("IMAGE_NAME", request.image_name.clone().into()),
        ("IMAGE_TYPE", image_type.unwrap_or_default().into()),
        (
            "FS_TYPE",
            fs_type.unwrap_or_else(|| "ext4".to_owned()).into(),
        ),
        ("SKIP_BASE", digit(request.skip_base).into()),
        ("DIB_OFFLINE", if request.offline { "1" } else { "" }.into()),
        ("DIB_CHECKSUM", checksum),
        ("DIB_DEBUG_TRACE", request.debug_trace.to_string().into()),
        ("DIB_PYTHON_EXEC", python(request)),
        ("DIB_NO_TMPFS", digit(request.no_tmpfs).into()),
        ("DIB_MIN_TMPFS", request.min_tmpfs.to_string().into()),
    ])
}

/// What hooks may know of the disk.
fn of_layout(layout: &layout::Plan) -> Result<[Pair; 4], Failure> {
    let config = layout.config();
    let root_label = config.root_label().map_err(|e| Failure::from_error(&e))?;
    let root_fstype = config.root_fstype().map_err(|e| Failure::from_error(&e))?;
    Ok([
        ("DIB_ROOT_LABEL", root_label.into()),
        ("DIB_ROOT_FSTYPE", root_fstype.into()),
        ("DIB_BOOT_LABEL", config.boot_label().into()),
        ("DIB_MOUNTPOINTS", config.mount_points().into()),
    ])
}

/// Functions that DIB's shell exports, and what its traces begin with.
fn shell_functions() -> [Pair; 3] {
    [
        (
            "BASH_FUNC_die%%",
            "() { echo \"ERROR: $*\" >&2; exit 1; }".into(),
        ),
        // Traces of hooks outside name the file and the line of each command.
        (
            "BASH_FUNC__ps4%%",
            "() { printf '%s:%s' \"${BASH_SOURCE[1]##*/}\" \"${BASH_LINENO[0]}\"; }".into(),
        ),
        ("PS4", "+ $(_ps4):   ".into()),
    ]
}

/// Sizes that were given.
fn sizes(request: &Request) -> impl Iterator<Item = Pair> {
    let blocks = request.max_online_resize.map(|blocks| blocks.to_string());
    [
        ("DIB_IMAGE_SIZE", request.image_size.clone()),
        ("DIB_IMAGE_EXTRA_SIZE", request.image_extra_size.clone()),
        ("DIB_JOURNAL_SIZE", request.journal_size.clone()),
        ("MAX_ONLINE_RESIZE", blocks),
    ]
    .into_iter()
    .filter_map(|(name, size)| Some((name, size?.into())))
}

/// Locks that elements share: where the caller says, else below `~/.cache` where that can
/// be, else in the image cache that the caller names.
fn lockfiles(request: &Request) -> Result<PathBuf, Failure> {
    if let Some(given) = request.variable("DIB_LOCKFILES") {
        return Ok(given.into());
    }
    let usual = default_directory(request, "dib/lockfiles");
    let Some(cache) = &request.image_cache else {
        return usual;
    };
    let usual = usual
        .ok()
        .filter(|path| place::can_be_made(path) && home_exists(request));
    Ok(usual.unwrap_or_else(|| cache.join("lockfiles")))
}

fn home_exists(request: &Request) -> bool {
    let home = request.variable("HOME");
    home.is_some_and(|home| place::without_home(&request.current_dir.join(home)).is_none())
}

/// A directory of ours below `~/.cache`.
pub fn default_directory(request: &Request, name: &str) -> Result<PathBuf, Failure> {
    let home = request.variable("HOME").ok_or_else(|| {
        Failure::new("`HOME` is not an absolute path, so there is no place for the image cache")
            .hint("set `HOME`, or name a directory with `--image-cache`")
    })?;
    Ok(Path::new(home).join(".cache").join(name))
}

/// `declare -p` of a variable, as bash prints it.
fn declaration(name: &str, value: &str) -> String {
    let mut quoted = String::new();
    for character in value.chars() {
        if matches!(character, '"' | '\\' | '$' | '`') {
            quoted.push('\\');
        }
        quoted.push(character);
    }
    format!("declare -x {name}=\"{quoted}\"\n")
}

/// The Python that hooks of the host may call: the caller's choice, else the first
/// in `PATH`. Part of the host, and so of nothing that decides about bytes.
fn python(request: &Request) -> OsString {
    if let Some(chosen) = request.variable("DIB_PYTHON_EXEC") {
        return chosen.to_owned();
    }
    let name = "python3";
    let path = request.variable("PATH").unwrap_or_default();
    std::env::split_paths(path)
        .map(|directory| request.current_dir.join(directory).join(name))
        .find(|program| program.is_file())
        .map_or_else(|| name.into(), PathBuf::into_os_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_are_quoted_as_bash_does() {
        assert_eq!(
            declaration("DIB_X", "a \"b\" $c `d` \\"),
            "declare -x DIB_X=\"a \\\"b\\\" \\$c \\`d\\` \\\\\"\n"
        );
    }
}
