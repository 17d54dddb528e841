//! Packages indices: what a suite offers for an architecture.

use std::collections::BTreeMap;

use super::control::{self, ParseControlError};
use super::relation::{Clause, ParseRelationError, Relation, is_package_name, parse_clauses};
use super::version::{ParseVersionError, Version};
use crate::fetch::Digest;

/// A package that can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: Version,
    /// Its architecture, or `all`.
    pub arch: String,
    /// Whether the system cannot do without it.
    pub essential: bool,
    /// `required`, `important`, `standard`, `optional` or `extra`.
    pub priority: Priority,
    /// `Multi-Arch: same`: dpkg names its files with the architecture.
    pub multi_arch_same: bool,
    /// What must be configured before it is unpacked.
    pub pre_depends: Vec<Clause>,
    /// What must be configured before it is configured.
    pub depends: Vec<Clause>,
    /// Virtual packages that it stands for, each with at most an `=` version.
    pub provides: Vec<Relation>,
    /// What may not be installed with it.
    pub conflicts: Vec<Relation>,
    /// What may not be configured with it.
    pub breaks: Vec<Relation>,
    /// Path below the archive.
    pub filename: String,
    /// Size of the .deb in bytes.
    pub size: u64,
    /// Digest of the .deb.
    pub sha256: Digest,
    /// Size when unpacked in KiB, as its maintainer says.
    pub installed_size: u64,
    /// Which of the repositories it is in.
    pub repository: usize,
}

/// How important a package is (Debian Policy §2.5); the first is the most important.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// The package system itself needs it.
    Required,
    /// Expected on any Unix system.
    Important,
    /// A reasonable small text system.
    Standard,
    /// Everything else.
    Optional,
}

/// Why an index cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// It is not a control file.
    #[error("the index is malformed: {0}")]
    Syntax(#[from] ParseControlError),
    /// A paragraph lacks a field or it is malformed.
    #[error("package `{package}` has a missing or malformed field `{field}`")]
    Field {
        /// The package.
        package: String,
        /// The field.
        field: &'static str,
    },
    /// A relation is malformed.
    #[error("package `{package}` has a malformed relation")]
    Relation {
        /// The package.
        package: String,
        /// What is wrong with it.
        source: ParseRelationError,
    },
    /// A version is malformed.
    #[error("package `{package}` has a malformed version")]
    Version {
        /// The package.
        package: String,
        /// What is wrong with it.
        source: ParseVersionError,
    },
}

/// All that can be had: for each name the newest version of all repositories, or the
/// one that is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Universe {
    packages: BTreeMap<String, Package>,
    providers: BTreeMap<String, Vec<String>>,
    wanted: BTreeMap<String, Version>,
    /// Versions of the wanted packages that are not the wanted ones.
    others: BTreeMap<String, Vec<Version>>,
}

impl Universe {
    /// One that has these packages in these versions or not at all.
    pub fn with_versions(wanted: BTreeMap<String, Version>) -> Universe {
        Universe {
            wanted,
            ..Universe::default()
        }
    }

    /// Adds an index. Of two versions the newer one counts, of equal ones the first added.
    ///
    /// Paragraphs of other architectures than `arch` and `all` are passed over.
    pub fn add(&mut self, text: &str, arch: &str, repository: usize) -> Result<(), IndexError> {
        for paragraph in control::paragraphs(text) {
            let paragraph = paragraph?;
            let name = paragraph.get("Package").unwrap_or("");
            let field = |field| IndexError::Field {
                package: name.to_owned(),
                field,
            };
            if !is_package_name(name) {
                return Err(field("Package"));
            }
            let package_arch = paragraph
                .get("Architecture")
                .ok_or_else(|| field("Architecture"))?;
            if package_arch != arch && package_arch != "all" {
                continue;
            }
            let version = paragraph.get("Version").ok_or_else(|| field("Version"))?;
            let version = Version::parse(version).map_err(|source| IndexError::Version {
                package: name.to_owned(),
                source,
            })?;
            if self
                .wanted
                .get(name)
                .is_some_and(|wanted| *wanted != version)
            {
                let others = self.others.entry(name.to_owned()).or_default();
                others.push(version);
                continue;
            }
            if let Some(present) = self.packages.get(name)
                && present.version >= version
            {
                continue;
            }
            let package = parse_package(&paragraph, name, version, package_arch, repository)?;
            self.packages.insert(name.to_owned(), package);
        }
        Ok(())
    }

    /// Makes the table of virtual packages; to be called after the last [`Universe::add`].
    pub fn seal(&mut self) {
        self.providers.clear();
        for package in self.packages.values() {
            for provided in &package.provides {
                self.providers
                    .entry(provided.name.clone())
                    .or_default()
                    .push(package.name.clone());
            }
        }
    }

    /// Returns the package of a name.
    pub fn get(&self, name: &str) -> Option<&Package> {
        self.packages.get(name)
    }

    /// Returns in which versions a package is there that is wanted in another one.
    pub fn other_versions(&self, name: &str) -> Vec<Version> {
        let mut versions = self.others.get(name).cloned().unwrap_or_default();
        versions.sort();
        versions.dedup();
        versions
    }

    /// Iterates over all packages by name.
    pub fn packages(&self) -> impl Iterator<Item = &Package> {
        self.packages.values()
    }

    /// Iterates over the packages that provide a virtual package, by name.
    pub fn providers(&self, name: &str) -> impl Iterator<Item = &Package> {
        self.providers
            .get(name)
            .into_iter()
            .flatten()
            .filter_map(|provider| self.packages.get(provider))
    }
}

impl Package {
    /// Tells whether this package satisfies a relation, by its name or by what it provides.
    ///
    /// Architecture qualifiers: `any`, `native` and the package's own
    /// architecture hold, since only one architecture is ever installed.
    pub fn satisfies(&self, relation: &Relation, arch: &str) -> bool {
        match relation.arch.as_deref() {
            None | Some("any" | "native") => {}
            Some(wanted) if wanted == arch => {}
            Some(_) => return false,
        }
        if self.name == relation.name {
            return relation.accepts(&self.version);
        }
        self.provides
            .iter()
            .filter(|provided| provided.name == relation.name)
            .any(|provided| match (&relation.version, &provided.version) {
                (None, _) => true,
                (Some(_), Some((_, version))) => relation.accepts(version),
                // A versioned relation is never satisfied by an unversioned Provides.
                (Some(_), None) => false,
            })
    }

    /// Returns the name of the .deb as apt's cache has it.
    pub fn cache_name(&self) -> String {
        cache_name(&self.name, self.version.as_str(), &self.arch)
    }
}

/// The name of a .deb as apt's cache has it (`:` as `%3a`).
pub fn cache_name(package: &str, version: &str, arch: &str) -> String {
    let quote = |text: &str, bad: &str| -> String {
        text.chars()
            .map(|c| {
                if bad.contains(c) || c == '%' {
                    format!("%{:02x}", u32::from(c))
                } else {
                    c.to_string()
                }
            })
            .collect()
    };
    let (package, version, arch) = (
        quote(package, "_:"),
        quote(version, "_:"),
        quote(arch, "_:."),
    );
    format!("{package}_{version}_{arch}.deb")
}

fn parse_package(
    paragraph: &control::Paragraph<'_>,
    name: &str,
    version: Version,
    arch: &str,
    repository: usize,
) -> Result<Package, IndexError> {
    let field = |field| IndexError::Field {
        package: name.to_owned(),
        field,
    };
    let clauses = |field| {
        parse_clauses(paragraph.get(field).unwrap_or("")).map_err(|source| IndexError::Relation {
            package: name.to_owned(),
            source,
        })
    };
    let flat = |field| clauses(field).map(|all: Vec<Clause>| all.into_iter().flatten().collect());
    let filename = paragraph.get("Filename").ok_or_else(|| field("Filename"))?;
    let plain = filename
        .split('/')
        .all(|part| !part.is_empty() && part != ".." && part != ".")
        || filename.starts_with("./") && !filename.contains("..");
    if !plain {
        return Err(field("Filename"));
    }
    Ok(Package {
        name: name.to_owned(),
        version,
        arch: arch.to_owned(),
        essential: paragraph.get("Essential") == Some("yes"),
        priority: match paragraph.get("Priority") {
            Some("required") => Priority::Required,
            Some("important") => Priority::Important,
            Some("standard") => Priority::Standard,
            _ => Priority::Optional,
        },
        multi_arch_same: paragraph.get("Multi-Arch") == Some("same"),
        pre_depends: clauses("Pre-Depends")?,
        depends: clauses("Depends")?,
        provides: flat("Provides")?,
        conflicts: flat("Conflicts")?,
        breaks: flat("Breaks")?,
        filename: filename.to_owned(),
        size: paragraph
            .get("Size")
            .and_then(|size| size.parse().ok())
            .ok_or_else(|| field("Size"))?,
        sha256: paragraph
            .get("SHA256")
            .and_then(Digest::parse)
            .ok_or_else(|| field("SHA256"))?,
        installed_size: paragraph
            .get("Installed-Size")
            .and_then(|size| size.parse().ok())
            .unwrap_or(0),
        repository,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A paragraph with what every package needs.
    pub fn paragraph(name: &str, version: &str, more: &str) -> String {
        format!(
            "Package: {name}\nVersion: {version}\nArchitecture: amd64\n{more}Filename: pool/{name}.deb\nSize: 1\n\
             SHA256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n\n"
        )
    }

    pub fn universe(paragraphs: &[String]) -> Universe {
        let mut universe = Universe::default();
        universe
            .add(&paragraphs.concat(), "amd64", 0)
            .expect("valid");
        universe.seal();
        universe
    }

    #[test]
    fn the_newest_version_of_all_repositories_counts() {
        let mut universe = Universe::default();
        for (repository, version) in [(0, "1"), (1, "2"), (2, "2"), (3, "1.5")] {
            universe
                .add(&paragraph("a", version, ""), "amd64", repository)
                .expect("valid");
        }
        let package = universe.get("a").expect("present");
        assert_eq!((package.version.as_str(), package.repository), ("2", 1));
    }

    #[test]
    fn names_in_the_cache_are_apts() {
        let universe = universe(&[paragraph("tzdata", "1:2024a-0+deb12u1", "")]);
        let package = universe.get("tzdata").expect("present");
        assert_eq!(package.cache_name(), "tzdata_1%3a2024a-0+deb12u1_amd64.deb");
    }

    #[test]
    fn bad_paragraphs_are_named() {
        for (text, message) in [
            (
                "Package: ../x\n",
                "package `../x` has a missing or malformed field `Package`",
            ),
            (
                "Package: a\nArchitecture: all\n",
                "package `a` has a missing or malformed field `Version`",
            ),
            (
                "Package: a\nArchitecture: all\nVersion: 1\nFilename: ../../etc\n",
                "package `a` has a missing or malformed field `Filename`",
            ),
        ] {
            let error = Universe::default()
                .add(text, "amd64", 0)
                .expect_err("refused");
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn versioned_relations_need_versioned_provides() {
        let universe = universe(&[paragraph("a", "1", "Provides: v, w (= 3)\n")]);
        let package = universe.get("a").expect("present");
        for (relation, holds) in [
            ("v", true),
            ("v (>= 1)", false),
            ("w (>= 2)", true),
            ("w (>> 3)", false),
            ("a:any", true),
            ("a:amd64", true),
            ("a:arm64", false),
        ] {
            let parsed = Relation::parse(relation).expect("valid");
            assert_eq!(package.satisfies(&parsed, "amd64"), holds, "{relation}");
        }
        assert_eq!(universe.providers("v").count(), 1);
    }
}
