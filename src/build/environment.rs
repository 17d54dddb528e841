//! The variables that hooks see.
//!
//! Hooks outside inherit the caller's environment plus DIB's exports. Hooks
//! inside get what `sudo -E` and `env` leave of that upstream: no shell
//! functions, nothing that makes a shell or the loader run something, root's
//! identity, a fixed PATH. Everything in `environment.d` comes on top.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// Variables by name.
pub type Variables = BTreeMap<OsString, OsString>;

/// A variable that is set and not empty.
pub fn value<'a>(variables: &'a Variables, name: &str) -> Option<&'a OsStr> {
    variables
        .get(OsStr::new(name))
        .map(OsString::as_os_str)
        .filter(|value| !value.is_empty())
}

/// Where the merged hooks appear inside the target.
pub const HOOKS_INSIDE: &str = "/tmp/in_target.d";

/// Search path of hooks inside the target, after kiln's helpers.
const PATH_INSIDE: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables that change what a shell, the loader or an interpreter does before
/// the first line of a hook runs.
const DANGEROUS: [&str; 14] = [
    "BASH_ENV",
    "ENV",
    "IFS",
    "CDPATH",
    "GLOBIGNORE",
    "BASHOPTS",
    "SHELLOPTS",
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONINSPECT",
    "PERLLIB",
    "PERL5LIB",
    "PERL5OPT",
    "RUBYOPT",
];

/// Whether a variable must not be passed into the target.
fn stays_outside(name: &OsStr) -> bool {
    let bytes = name.as_encoded_bytes();
    bytes.starts_with(b"LD_")
        || bytes.starts_with(b"BASH_FUNC_")
        || bytes.starts_with(b"SUDO_")
        || bytes.starts_with(b"XDG_")
        || matches!(
            bytes,
            b"TMPDIR" | b"VIRTUAL_ENV" | b"PS4" | b"OLDPWD" | b"PWD" | b"_"
        )
        || DANGEROUS.iter().any(|&dangerous| name == dangerous)
}

/// Where the helpers for one side are, as its hooks see them.
fn helpers(hooks: &Path, inside: bool) -> PathBuf {
    hooks
        .join(".kiln")
        .join(if inside { "bin" } else { "outside" })
}

/// Where a helper is, as the hooks of one side see it.
pub fn helper(hooks: &Path, inside: bool, name: &str) -> PathBuf {
    helpers(hooks, inside).join(name)
}

/// Puts the helpers back into a PATH that a file of `environment.d` wrote anew: elements
/// may do that, since nothing of DIB's own is found by it.
pub fn keep_helpers(variables: &mut Variables, hooks: &Path, inside: bool) {
    let helpers = helpers(hooks, inside);
    let path = variables.entry("PATH".into()).or_default();
    if !std::env::split_paths(path).any(|directory| directory == helpers) {
        *path = before(&helpers, path);
    }
}

/// A search path that begins with this directory.
fn before(directory: &Path, path: &OsStr) -> OsString {
    let mut search = directory.as_os_str().to_owned();
    search.push(":");
    search.push(path);
    search
}

/// Directories of kiln's helpers and records, as a hook sees them.
fn helper_paths(variables: &mut Variables, hooks: &Path, inside: bool, path: &OsStr) {
    let helpers = helpers(hooks, inside);
    variables.insert("PATH".into(), before(&helpers, path));
    for (name, body) in crate::helpers::functions(&helpers) {
        variables.insert(name.into(), body.into());
    }
    let own = hooks.join(".kiln");
    variables.insert("_LIB".into(), own.join("lib").into());
    variables.insert("KILN_RECORD".into(), own.join("record").into());
    variables.insert("KILN_LAYOUT".into(), own.join("layout.json").into());
}

/// The environment of hooks outside the target.
///
/// `hooks` is where the merged hooks are; `scratch` becomes TMPDIR, because the
/// host's `/tmp` is read-only in the sandbox.
pub fn outside(base: &Variables, hooks: &Path, scratch: &Path) -> Variables {
    let mut variables = base.clone();
    for name in ["BASH_ENV", "ENV", "SHELLOPTS", "BASHOPTS"] {
        variables.remove(OsStr::new(name));
    }
    let mut path = variables
        .remove(OsStr::new("PATH"))
        .unwrap_or_else(|| "/usr/bin:/bin".into());
    for directory in ["/sbin", "/usr/sbin", "/usr/local/sbin"] {
        if !std::env::split_paths(&path).any(|known| known == Path::new(directory)) {
            path.push(":");
            path.push(directory);
        }
    }
    helper_paths(&mut variables, hooks, false, &path);
    variables.insert("TMPDIR".into(), scratch.into());
    // Who the hooks are: the caller under another name. A hook that gives what it makes to
    // `$USER` would give it to one of the ids that are only the build's otherwise.
    for name in ["USER", "LOGNAME"] {
        variables.insert(name.into(), "root".into());
    }
    variables
}

/// The environment of hooks inside the target.
pub fn inside(base: &Variables) -> Variables {
    let mut variables: Variables = base
        .iter()
        .filter(|(name, _)| !stays_outside(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    helper_paths(
        &mut variables,
        Path::new(HOOKS_INSIDE),
        true,
        OsStr::new(PATH_INSIDE),
    );
    variables.insert("TMP_HOOKS_PATH".into(), HOOKS_INSIDE.into());
    for (name, value) in [
        ("HOME", "/root"),
        ("USER", "root"),
        ("LOGNAME", "root"),
        ("SHELL", "/bin/bash"),
    ] {
        variables.insert(name.into(), value.into());
    }
    variables
}

/// Parses `NAME=value` pairs that end with zero bytes, as in `/proc/PID/environ`.
pub fn parse(block: &[u8]) -> Variables {
    use std::os::unix::ffi::OsStringExt as _;
    block
        .split(|&b| b == 0)
        .filter_map(|pair| {
            // A name is never empty, so a leading `=` belongs to the name.
            let at = pair.iter().skip(1).position(|&b| b == b'=')? + 1;
            Some((
                OsString::from_vec(pair[..at].to_vec()),
                OsString::from_vec(pair[at + 1..].to_vec()),
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs
            .iter()
            .map(|(k, v)| (OsString::from(k), OsString::from(v)))
            .collect()
    }

    #[test]
    fn values_with_newlines_and_equal_signs_survive() {
        let parsed = parse(b"A=1\0B=x=y\nz\0C=\0BASH_FUNC_f%%=() { :; }\0");
        assert_eq!(
            parsed,
            variables(&[
                ("A", "1"),
                ("B", "x=y\nz"),
                ("C", ""),
                ("BASH_FUNC_f%%", "() { :; }")
            ])
        );
    }

    #[test]
    fn inside_hooks_get_no_functions_and_no_loader_settings() {
        let base = variables(&[
            ("LD_PRELOAD", "x"),
            ("BASH_FUNC_die%%", "() { :; }"),
            ("TMPDIR", "/x"),
            ("DIB_X", "a b\nc"),
            ("PATH", "/opt"),
            ("HOME", "/home/me"),
            ("http_proxy", "p"),
        ]);
        let inside = inside(&base);
        for gone in ["LD_PRELOAD", "BASH_FUNC_die%%", "TMPDIR"] {
            assert!(!inside.contains_key(OsStr::new(gone)), "{gone}");
        }
        assert_eq!(inside[OsStr::new("DIB_X")], "a b\nc");
        assert_eq!(inside[OsStr::new("HOME")], "/root");
        assert_eq!(inside[OsStr::new("http_proxy")], "p");
        assert!(
            inside[OsStr::new("PATH")]
                .to_string_lossy()
                .starts_with("/tmp/in_target.d/.kiln/bin:/usr/local/sbin")
        );
    }

    #[test]
    fn outside_hooks_find_administrators_programs() {
        let outside = outside(
            &variables(&[("PATH", "/usr/bin:/sbin")]),
            Path::new("/w/hooks"),
            Path::new("/w/tmp"),
        );
        assert_eq!(
            outside[OsStr::new("PATH")],
            "/w/hooks/.kiln/outside:/usr/bin:/sbin:/usr/sbin:/usr/local/sbin"
        );
        assert_eq!(outside[OsStr::new("TMPDIR")], "/w/tmp");
    }
}
