//! Unit files of a systemd root and the links that enable them, without systemd.
//!
//! See `systemd.unit(5)` (load path, `[Install]`, aliases, templates) and
//! `systemd.preset(5)`.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why unit links are not changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// No unit file has that name.
    #[error("unit file `{unit}` does not exist")]
    Missing {
        /// The unit.
        unit: String,
        /// Whether there is a script for SysV init of that name.
        script: bool,
    },
    /// The unit is masked.
    #[error("unit file `{unit}` is masked")]
    Masked {
        /// The unit.
        unit: String,
    },
    /// A file is where a link belongs.
    #[error("`{path}` exists already")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A template has no instance.
    #[error("template `{unit}` needs an instance")]
    NoInstance {
        /// The template.
        unit: String,
    },
    /// A file cannot be read or written.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { script: true, .. } => Some(
                "it is a script for SysV init, which only the target's own systemctl can enable: install systemd first".into(),
            ),
            Self::Missing { .. } => Some("install the package that has it first".into()),
            Self::Masked { .. } => Some("`systemctl unmask` it first".into()),
            Self::Exists { .. } => Some("a unit file of the image's own is not replaced by a link".into()),
            Self::NoInstance { unit } => Some(format!("name one: {}", unit.replacen('@', "@NAME", 1))),
            Self::Io { .. } => None,
        }
    }
}

/// What is known of a unit file's enablement; names as `systemctl is-enabled` has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// A link from another unit or an alias leads to it.
    Enabled,
    /// It could be enabled.
    Disabled,
    /// It has nothing to enable.
    Static,
    /// Only other units that it names are enabled with it.
    Indirect,
    /// The name is a link to another unit.
    Alias,
    /// It cannot be started.
    Masked,
    /// There is no such unit file.
    NotFound,
}

impl State {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
            Self::Static => "static",
            Self::Indirect => "indirect",
            Self::Alias => "alias",
            Self::Masked => "masked",
            Self::NotFound => "not-found",
        }
    }

    /// Whether `is-enabled` succeeds.
    pub fn counts_as_enabled(self) -> bool {
        matches!(
            self,
            Self::Enabled | Self::Static | Self::Indirect | Self::Alias
        )
    }
}

/// The `[Install]` section of a unit file.
#[derive(Debug, Default, PartialEq, Eq)]
struct Install {
    aliases: Vec<String>,
    /// Names of directories beside the unit (`x.target.wants`).
    directories: Vec<String>,
    also: Vec<String>,
    default_instance: Option<String>,
}

impl Install {
    fn parse(text: &str) -> Install {
        let mut install = Install::default();
        let mut inside = false;
        // A backslash at the end of a line joins the next one.
        let joined = text.replace("\\\n", " ");
        for line in joined.lines().map(str::trim) {
            if line.starts_with(['#', ';']) {
                continue;
            }
            if line.starts_with('[') {
                inside = line == "[Install]";
                continue;
            }
            let Some((key, value)) = line.split_once('=').filter(|_| inside) else {
                continue;
            };
            let words = || value.split_whitespace().map(str::to_owned);
            let mut linked = |suffix: &str| {
                install
                    .directories
                    .extend(words().map(|unit| format!("{unit}.{suffix}")));
            };
            match key.trim() {
                "Alias" => install.aliases.extend(words()),
                "WantedBy" => linked("wants"),
                "RequiredBy" => linked("requires"),
                "UpheldBy" => linked("upholds"),
                "Also" => install.also.extend(words()),
                "DefaultInstance" => install.default_instance = Some(value.trim().to_owned()),
                _ => {}
            }
        }
        install
    }

    fn is_empty(&self) -> bool {
        self.aliases.is_empty() && self.directories.is_empty() && self.also.is_empty()
    }
}

/// A name with a suffix: a service unless it says otherwise.
pub fn full_name(name: &str) -> String {
    let name = name.rsplit('/').next().unwrap_or(name);
    let known = [
        "service",
        "socket",
        "device",
        "mount",
        "automount",
        "swap",
        "target",
        "path",
        "timer",
        "slice",
        "scope",
    ];
    if name
        .rsplit_once('.')
        .is_some_and(|(_, suffix)| known.contains(&suffix))
    {
        name.to_owned()
    } else {
        format!("{name}.service")
    }
}

/// `a@b.service` → (`a@.service`, `b`); `None` without an `@`.
fn template(unit: &str) -> Option<(String, String)> {
    let (stem, suffix) = unit.rsplit_once('.')?;
    let (prefix, instance) = stem.split_once('@')?;
    Some((format!("{prefix}@.{suffix}"), instance.to_owned()))
}

/// `%i`, `%I` (as far as nothing is escaped), `%p` and `%n` in a name.
fn expand(text: &str, unit: &str) -> String {
    let instance = template(unit)
        .map(|(_, instance)| instance)
        .unwrap_or_default();
    let stem = unit.rsplit_once('.').map_or(unit, |(stem, _)| stem);
    let prefix = stem.split_once('@').map_or(stem, |(prefix, _)| prefix);
    text.replace("%i", &instance)
        .replace("%I", &instance)
        .replace("%p", prefix)
        .replace("%n", unit)
        .replace("%N", stem)
        .replace("%%", "%")
}

/// Whether a name matches a shell pattern (`*`, `?`, `[…]`).
fn matches(pattern: &str, name: &str) -> bool {
    fn go(pattern: &[char], name: &[char]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some(('*', rest)) => (0..=name.len()).any(|at| go(rest, name.get(at..).unwrap_or(&[]))),
            Some(('?', rest)) => name.split_first().is_some_and(|(_, more)| go(rest, more)),
            Some(('[', rest)) => {
                let (Some(end), Some((letter, more))) =
                    (rest.iter().position(|&c| c == ']'), name.split_first())
                else {
                    return false;
                };
                let set = rest.get(..end).unwrap_or(&[]);
                let (negated, set) = match set.split_first() {
                    Some(('!' | '^', set)) => (true, set),
                    _ => (false, set),
                };
                let in_range = set
                    .windows(3)
                    .any(|w| matches!(w, [a, '-', b] if a <= letter && letter <= b));
                (in_range || set.contains(letter)) != negated
                    && go(rest.get(end + 1..).unwrap_or(&[]), more)
            }
            Some((letter, rest)) => name
                .split_first()
                .is_some_and(|(first, more)| first == letter && go(rest, more)),
        }
    }
    let chars = |text: &str| text.chars().collect::<Vec<_>>();
    go(&chars(pattern), &chars(name))
}

/// The unit files below a root.
#[derive(Debug)]
pub struct Units {
    root: PathBuf,
    kind: &'static str,
}

impl Units {
    /// The units of the system, or with `user` those of all users.
    pub fn new(root: &Path, user: bool) -> Units {
        Units {
            root: root.to_owned(),
            kind: if user { "user" } else { "system" },
        }
    }

    /// The administrator's directory, as the target names it.
    fn config(&self) -> PathBuf {
        PathBuf::from(format!("/etc/systemd/{}", self.kind))
    }

    /// Where unit files are looked for, first match wins.
    fn load_path(&self) -> [PathBuf; 5] {
        ["/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib"]
            .map(|base| PathBuf::from(format!("{base}/systemd/{}", self.kind)))
    }

    /// A path of the target on this side.
    fn real(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The file of a unit or of its template, as the target names it.
    fn find(&self, unit: &str) -> Option<PathBuf> {
        let mut names = vec![unit.to_owned()];
        names.extend(template(unit).map(|(name, _)| name));
        names.iter().find_map(|name| {
            self.load_path()
                .iter()
                .map(|directory| directory.join(name))
                .find(|path| std::fs::symlink_metadata(self.real(path)).is_ok())
        })
    }

    /// Follows aliases to the unit file that the name stands for.
    fn resolve(&self, unit: &str) -> Result<(String, PathBuf), Error> {
        let mut name = unit.to_owned();
        // Longer chains of aliases are loops.
        for _ in 0..8 {
            let path = self.find(&name).ok_or_else(|| Error::Missing {
                unit: name.clone(),
                script: name.strip_suffix(".service").is_some_and(|script| {
                    self.real(Path::new("/etc/init.d")).join(script).exists()
                }),
            })?;
            let Ok(target) = std::fs::read_link(self.real(&path)) else {
                return Ok((name, path));
            };
            if target == Path::new("/dev/null") {
                return Err(Error::Masked { unit: name });
            }
            let Some(next) = target.file_name().and_then(|name| name.to_str()) else {
                break;
            };
            if next == name || template(&name).is_some_and(|(template, _)| template == next) {
                // A linked unit file, which lies elsewhere under its own name.
                return Ok((name, path));
            }
            name = match (template(&name), template(next)) {
                (Some((_, instance)), Some((_, empty))) if empty.is_empty() => {
                    next.replacen('@', &format!("@{instance}"), 1)
                }
                _ => next.to_owned(),
            };
        }
        Err(Error::Missing {
            unit: unit.to_owned(),
            script: false,
        })
    }

    fn install(&self, path: &Path) -> Result<Install, Error> {
        // An absolute link of the target is one below its root.
        let mut real = self.real(path);
        if let Ok(target) = std::fs::read_link(&real) {
            real = if target.is_absolute() {
                self.real(&target)
            } else {
                real.with_file_name(target)
            };
        }
        let text = std::fs::read(&real).map_err(|source| Error::Io {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        Ok(Install::parse(&String::from_utf8_lossy(&text)))
    }

    /// Makes a link unless it is there already.
    fn make_link(&self, link: &Path, target: &Path, lines: &mut Vec<String>) -> Result<(), Error> {
        let real = self.real(link);
        let io = |action| {
            let path = link.to_owned();
            move |source| Error::Io {
                action,
                path,
                source,
            }
        };
        if let Some(parent) = real.parent() {
            std::fs::create_dir_all(parent).map_err(io("make the directory of"))?;
        }
        match std::fs::symlink_metadata(&real) {
            Ok(meta) if meta.is_symlink() => {
                if std::fs::read_link(&real).is_ok_and(|old| old == target) {
                    return Ok(());
                }
                std::fs::remove_file(&real).map_err(io("replace"))?;
            }
            Ok(_) => {
                return Err(Error::Exists {
                    path: link.to_owned(),
                });
            }
            Err(_) => {}
        }
        symlink(target, &real).map_err(io("make"))?;
        lines.push(format!(
            "Created symlink {} -> {}.",
            link.display(),
            target.display()
        ));
        Ok(())
    }

    /// Makes the links that a unit's `[Install]` section asks for.
    pub fn enable(&self, unit: &str) -> Result<Vec<String>, Error> {
        let mut lines = Vec::new();
        self.enable_all(unit, &mut BTreeSet::new(), &mut lines)?;
        Ok(lines)
    }

    fn enable_all(
        &self,
        unit: &str,
        seen: &mut BTreeSet<String>,
        lines: &mut Vec<String>,
    ) -> Result<(), Error> {
        let (mut name, path) = self.resolve(unit)?;
        if !seen.insert(name.clone()) {
            return Ok(());
        }
        let install = self.install(&path)?;
        if install.is_empty() {
            lines.push(format!(
                "{name} has no [Install] section that could enable it."
            ));
            return Ok(());
        }
        if let Some((_, instance)) = template(&name)
            && instance.is_empty()
        {
            let instance = install
                .default_instance
                .as_deref()
                .ok_or_else(|| Error::NoInstance { unit: name.clone() })?;
            name = name.replacen('@', &format!("@{instance}"), 1);
        }
        for alias in &install.aliases {
            let link = self.config().join(expand(alias, &name));
            self.make_link(&link, &path, lines)?;
        }
        for directory in &install.directories {
            let link = self.config().join(expand(directory, &name)).join(&name);
            self.make_link(&link, &path, lines)?;
        }
        for other in &install.also {
            self.enable_all(&full_name(&expand(other, &name)), seen, lines)?;
        }
        Ok(())
    }

    /// Removes every link that enables a unit, and those of the units that it names.
    pub fn disable(&self, unit: &str) -> Result<Vec<String>, Error> {
        let mut names = BTreeSet::new();
        let mut queue = vec![unit.to_owned()];
        while let Some(unit) = queue.pop() {
            let (name, path) = match self.resolve(&unit) {
                Ok(found) => found,
                // Links of a unit that has gone are removed all the same.
                Err(Error::Missing { .. }) if self.links(&[unit.clone()].into())?.is_empty() => {
                    return Err(Error::Missing {
                        unit,
                        script: false,
                    });
                }
                Err(Error::Missing { .. }) => {
                    names.insert(unit);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if names.insert(name.clone()) {
                queue.extend(
                    self.install(&path)?
                        .also
                        .iter()
                        .map(|other| full_name(&expand(other, &name))),
                );
            }
        }
        let mut lines = Vec::new();
        for link in self.links(&names)? {
            std::fs::remove_file(self.real(&link)).map_err(|source| Error::Io {
                action: "remove",
                path: link.clone(),
                source,
            })?;
            lines.push(format!("Removed {}.", link.display()));
            // An empty directory of links is of no use.
            if link.parent() != Some(&self.config())
                && let Some(parent) = link.parent()
            {
                let _ = std::fs::remove_dir(self.real(parent));
            }
        }
        Ok(lines)
    }

    /// Links of the administrator's directory that lead to one of the units.
    fn links(&self, names: &BTreeSet<String>) -> Result<Vec<PathBuf>, Error> {
        let mut found = Vec::new();
        let config = self.config();
        let list = |directory: &Path| -> Result<Vec<PathBuf>, Error> {
            let mut paths = match std::fs::read_dir(self.real(directory)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                Err(source) => {
                    return Err(Error::Io {
                        action: "list",
                        path: directory.to_owned(),
                        source,
                    });
                }
                Ok(entries) => entries
                    .filter_map(|entry| Some(directory.join(entry.ok()?.file_name())))
                    .collect(),
            };
            paths.sort();
            Ok(paths)
        };
        let belongs = |name: &str| {
            names.contains(name)
                // A template stands for all of its instances.
                || template(name).is_some_and(|(template, _)| names.contains(&template))
        };
        for path in list(&config)? {
            let Ok(meta) = std::fs::symlink_metadata(self.real(&path)) else {
                continue;
            };
            let name = |path: &Path| {
                path.file_name()
                    .map(|name| name.to_string_lossy().into_owned())
                    .unwrap_or_default()
            };
            if meta.is_symlink() {
                let target = std::fs::read_link(self.real(&path)).unwrap_or_default();
                if target != Path::new("/dev/null")
                    && belongs(&name(&target))
                    && !names.contains(&name(&path))
                {
                    found.push(path);
                }
            } else if meta.is_dir() {
                let is_links = [".wants", ".requires", ".upholds"]
                    .iter()
                    .any(|suffix| name(&path).ends_with(suffix));
                if is_links {
                    found.extend(list(&path)?.into_iter().filter(|link| belongs(&name(link))));
                }
            }
        }
        Ok(found)
    }

    /// Makes a unit impossible to start.
    pub fn mask(&self, unit: &str) -> Result<Vec<String>, Error> {
        let mut lines = Vec::new();
        self.make_link(
            &self.config().join(unit),
            Path::new("/dev/null"),
            &mut lines,
        )?;
        Ok(lines)
    }

    /// Takes a mask away.
    pub fn unmask(&self, unit: &str) -> Result<Vec<String>, Error> {
        let link = self.config().join(unit);
        let real = self.real(&link);
        if std::fs::read_link(&real).is_ok_and(|target| target == Path::new("/dev/null")) {
            std::fs::remove_file(&real).map_err(|source| Error::Io {
                action: "remove",
                path: link.clone(),
                source,
            })?;
            return Ok(vec![format!("Removed {}.", link.display())]);
        }
        Ok(Vec::new())
    }

    /// Links a unit file that lies outside the load path into it.
    pub fn link(&self, path: &Path) -> Result<Vec<String>, Error> {
        let mut lines = Vec::new();
        let name = path.file_name().unwrap_or_default();
        if !self.real(path).is_file() {
            return Err(Error::Missing {
                unit: path.display().to_string(),
                script: false,
            });
        }
        self.make_link(&self.config().join(name), path, &mut lines)?;
        Ok(lines)
    }

    /// Makes a target the one that the system boots into.
    pub fn set_default(&self, unit: &str) -> Result<Vec<String>, Error> {
        let unit = if unit.ends_with(".target") {
            unit.to_owned()
        } else {
            format!("{}.target", unit.trim_end_matches(".service"))
        };
        let (_, path) = self.resolve(&unit)?;
        let mut lines = Vec::new();
        self.make_link(&self.config().join("default.target"), &path, &mut lines)?;
        Ok(lines)
    }

    /// The target that the system boots into.
    pub fn default_target(&self) -> String {
        self.find("default.target")
            .and_then(|path| std::fs::read_link(self.real(&path)).ok())
            .and_then(|target| Some(target.file_name()?.to_string_lossy().into_owned()))
            .unwrap_or_else(|| "graphical.target".to_owned())
    }

    /// Enables or disables a unit as the presets of the distribution say.
    pub fn preset(&self, unit: &str) -> Result<Vec<String>, Error> {
        if self.preset_enables(unit)? {
            self.enable(unit)
        } else {
            self.disable(unit)
        }
    }

    fn preset_enables(&self, unit: &str) -> Result<bool, Error> {
        // A file hides those of the same name in later directories.
        let mut files: std::collections::BTreeMap<std::ffi::OsString, PathBuf> =
            std::collections::BTreeMap::new();
        for base in ["/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib"] {
            let directory = PathBuf::from(format!("{base}/systemd/{}-preset", self.kind));
            let Ok(entries) = std::fs::read_dir(self.real(&directory)) else {
                continue;
            };
            for entry in entries.flatten() {
                let name = entry.file_name();
                if name.as_encoded_bytes().ends_with(b".preset") {
                    files.entry(name).or_insert_with(|| entry.path());
                }
            }
        }
        for path in files.values() {
            let text = std::fs::read(path).map_err(|source| Error::Io {
                action: "read",
                path: path.clone(),
                source,
            })?;
            for line in String::from_utf8_lossy(&text).lines() {
                let mut words = line.split_whitespace();
                let (verb, pattern) = (words.next(), words.next());
                if pattern.is_some_and(|pattern| matches(pattern, unit)) {
                    match verb {
                        Some("enable") => return Ok(true),
                        Some("disable") => return Ok(false),
                        _ => {}
                    }
                }
            }
        }
        Ok(true)
    }

    /// What `is-enabled` says.
    pub fn state(&self, unit: &str) -> State {
        let (name, path) = match self.resolve(unit) {
            Err(Error::Masked { .. }) => return State::Masked,
            Err(_) => return State::NotFound,
            Ok(found) => found,
        };
        let enabled = self
            .links(&[name.clone()].into())
            .is_ok_and(|links| !links.is_empty());
        if enabled {
            return if name == unit {
                State::Enabled
            } else {
                State::Alias
            };
        }
        match self.install(&path) {
            Ok(install) if install.is_empty() => State::Static,
            Ok(install) if install.directories.is_empty() && install.aliases.is_empty() => {
                State::Indirect
            }
            _ => State::Disabled,
        }
    }
}

#[cfg(test)]
#[path = "tests/units.rs"]
mod tests;
