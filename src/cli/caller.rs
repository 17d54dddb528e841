//! The process that asks for something: what its environment says.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::failure::Failure;
use crate::build::arch::default_arch;
use crate::build::environment;

/// The process that asks: its environment and directory.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// Its environment.
    pub environment: BTreeMap<OsString, OsString>,
    /// Its current directory.
    pub current_dir: PathBuf,
}

impl Caller {
    /// This process.
    pub fn current() -> Result<Self, Failure> {
        let current_dir = env::current_dir().map_err(|error| {
            Failure::new(format!("cannot tell the current directory: {error}"))
                .hint("change to a directory that exists")
        })?;
        let mut caller = Self {
            environment: env::vars_os().collect(),
            current_dir,
        };
        caller.settle_home(|| home_of(nix::unistd::geteuid().as_raw()));
        Ok(caller)
    }

    /// Sees to it that `HOME` is an absolute path, or not set: a relative one would be
    /// another directory for each command.
    fn settle_home(&mut self, by_passwd: impl FnOnce() -> Option<OsString>) {
        if self
            .var("HOME")
            .is_some_and(|home| Path::new(home).is_absolute())
        {
            return;
        }
        // A shell takes its `~` from there as well; services often have no HOME.
        match by_passwd() {
            Some(home) => self.environment.insert("HOME".into(), home),
            None => self.environment.remove(OsStr::new("HOME")),
        };
    }

    /// A variable that is set and not empty.
    pub fn var(&self, name: &str) -> Option<&OsStr> {
        environment::value(&self.environment, name)
    }

    /// A variable that is set, not empty, and text.
    pub fn text(&self, name: &str) -> Result<Option<String>, Failure> {
        self.var(name)
            .map(|value| {
                value.to_str().map(str::to_owned).ok_or_else(|| {
                    Failure::new(format!("variable `{name}` is not valid UTF-8"))
                        .hint(format!("unset `{name}` or correct its value"))
                })
            })
            .transpose()
    }

    /// The image cache: `DIB_IMAGE_CACHE`, else `~/.cache/image-create`.
    pub fn image_cache(&self) -> Result<PathBuf, Failure> {
        if let Some(cache) = self.var("DIB_IMAGE_CACHE") {
            return Ok(self.current_dir.join(cache));
        }
        match self.var("HOME") {
            Some(home) => Ok(self.current_dir.join(home).join(".cache/image-create")),
            None => Err(Failure::new(
                "no place for the image cache: `HOME` is not an absolute path",
            )
            .hint("set `HOME`, or name a directory with `--image-cache` or `DIB_IMAGE_CACHE`")),
        }
    }

    /// Directories of `ELEMENTS_PATH` in order.
    pub fn elements_path(&self) -> Result<Vec<PathBuf>, Failure> {
        let Some(list) = self.var("ELEMENTS_PATH") else {
            return Ok(Vec::new());
        };
        list.as_bytes()
            .split(|&byte| byte == b':')
            .map(|part| match part {
                [] => Err(Failure::new(format!(
                    "`ELEMENTS_PATH` has an empty entry: `{}`",
                    list.display()
                ))
                .hint("remove the superfluous `:`; the current directory is written `.`")),
                part => Ok(self.current_dir.join(OsStr::from_bytes(part))),
            })
            .collect()
    }
}

/// The home of a user by `/etc/passwd` alone: a static binary must not load the host's
/// NSS modules.
fn home_of(uid: u32) -> Option<OsString> {
    let passwd = crate::sandbox::idmap::text_of("/etc/passwd").ok()?;
    let user = crate::helpers::sudo::find_user(&passwd, &format!("#{uid}"))?;
    user.home.starts_with('/').then(|| user.home.into())
}

/// The architecture to look elements up for: `ARCH`, else the host's.
pub fn arch(caller: &Caller) -> Result<String, Failure> {
    Ok(caller.text("ARCH")?.unwrap_or_else(default_arch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_that_is_no_absolute_path_is_that_of_the_user() {
        for (given, by_passwd, settled) in [
            (Some("/home/me"), Some("/root"), Some("/home/me")),
            (Some("relative"), Some("/root"), Some("/root")),
            (Some(""), Some("/root"), Some("/root")),
            (None, Some("/root"), Some("/root")),
            (Some("relative"), None, None),
        ] {
            let mut caller = Caller::default();
            if let Some(home) = given {
                caller.environment.insert("HOME".into(), home.into());
            }
            caller.settle_home(|| by_passwd.map(OsString::from));
            assert_eq!(caller.var("HOME"), settled.map(OsStr::new), "{given:?}");
        }
    }
}
