//! `install-types-enable`: links the hooks of the chosen install types.
//!
//! `install.d/PREFIX-TYPE-install/` holds hooks that run only when PREFIX is
//! installed as TYPE (`DIB_INSTALLTYPE_PREFIX`, else `DIB_DEFAULT_INSTALLTYPE`).

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use thiserror::Error;

use super::Explain;

/// Why hooks cannot be linked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The hooks directory is not known.
    #[error("TMP_HOOKS_PATH is not set")]
    NoHooks,
    /// A directory or link is in the way.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl Explain for Error {
    fn hint(&self) -> Option<String> {
        matches!(self, Self::NoHooks).then(|| "it runs in extra-data.d, outside the target".into())
    }
}

/// Directories of `names` whose hooks are to be linked, in order.
fn chosen<'a>(
    names: &'a [String],
    types: &BTreeMap<String, String>,
    default: &str,
) -> Vec<&'a str> {
    let mut chosen: Vec<&str> = Vec::new();
    for (prefix, kind) in types {
        let wanted = format!("{prefix}-{kind}-install");
        chosen.extend(
            names
                .iter()
                .map(String::as_str)
                .find(|name| *name == wanted),
        );
    }
    let suffix = format!("-{default}-install");
    for name in names {
        let Some(prefix) = name.strip_suffix(&suffix) else {
            continue;
        };
        if !types.contains_key(prefix) {
            chosen.push(name);
        }
    }
    chosen
}

/// `install-types-enable`
pub(super) fn main(_: &OsStr, _: &[OsString]) -> Result<ExitCode, Error> {
    let hooks = super::env_os("TMP_HOOKS_PATH").ok_or(Error::NoHooks)?;
    let types = std::env::vars_os()
        .filter_map(|(name, value)| {
            let prefix = name
                .to_str()?
                .strip_prefix("DIB_INSTALLTYPE_")?
                .replace('_', "-");
            Some((prefix, value.to_string_lossy().into_owned()))
        })
        .collect();
    let default = super::env_text("DIB_DEFAULT_INSTALLTYPE").unwrap_or_else(|| "source".to_owned());
    enable(&Path::new(&hooks).join("install.d"), &types, &default)?;
    Ok(ExitCode::SUCCESS)
}

/// Makes the links; they are relative since the target sees another path.
fn enable(directory: &Path, types: &BTreeMap<String, String>, default: &str) -> Result<(), Error> {
    if !directory.is_dir() {
        return Ok(());
    }
    let names: Vec<String> = sorted(directory)?
        .into_iter()
        .filter(|name| directory.join(name).is_dir())
        .collect();
    for chosen in chosen(&names, types, default) {
        for hook in sorted(&directory.join(chosen))? {
            if hook.starts_with('.') {
                continue;
            }
            let link = directory.join(&hook);
            let io = |action| {
                let path = link.clone();
                move |source| Error::Io {
                    action,
                    path,
                    source,
                }
            };
            match std::fs::remove_file(&link) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io("replace")(error));
                }
                _ => {}
            }
            symlink(Path::new(chosen).join(&hook), &link).map_err(io("link"))?;
        }
    }
    Ok(())
}

fn sorted(directory: &Path) -> Result<Vec<String>, Error> {
    super::names_in(directory).map_err(|source| Error::Io {
        action: "list",
        path: directory.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_prefix_has_its_type_and_the_others_the_default() {
        let dir = tempfile::tempdir().unwrap();
        for (directory, hook) in [
            ("pip-and-virtualenv-source-install", "04-source"),
            ("pip-and-virtualenv-package-install", "04-package"),
            ("other-source-install", "10-other"),
            ("third-repo-install", "11-third"),
        ] {
            std::fs::create_dir(dir.path().join(directory)).unwrap();
            std::fs::write(dir.path().join(directory).join(hook), "").unwrap();
        }
        let types = BTreeMap::from([("pip-and-virtualenv".to_owned(), "package".to_owned())]);
        enable(dir.path(), &types, "source").unwrap();
        enable(dir.path(), &types, "source").unwrap();
        let links: Vec<String> = sorted(dir.path())
            .unwrap()
            .into_iter()
            .filter(|name| dir.path().join(name).is_file())
            .collect();
        assert_eq!(links, ["04-package", "10-other"]);
        let target = std::fs::read_link(dir.path().join("10-other")).unwrap();
        assert_eq!(target, Path::new("other-source-install/10-other"));
        enable(&dir.path().join("nowhere"), &types, "source").unwrap();
    }
}
