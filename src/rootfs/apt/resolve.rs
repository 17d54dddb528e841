//! Chooses the packages of a root and the order in which they are unpacked.
//!
//! The rules are simple on purpose, so that the result is the one a person
//! would expect and never depends on chance:
//!
//! 1. Start with `Essential: yes`, `Priority: required` and what was asked for.
//! 2. Add what `Pre-Depends` and `Depends` need. Relations with a single choice go
//!    first, so that a later hard dependency can decide an earlier alternative.
//! 3. Of alternatives take one that is there already, else the first that can be
//!    had; of providers a real package of that name, then the most important one,
//!    then the first by name; none that conflicts with what is there.
//! 4. The result is checked for conflicts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::index::{Package, Priority, Universe};
use super::relation::{Operator, ParseRelationError, Relation, display_clause};
use super::version::Version;

/// Why no set of packages satisfies what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// Nothing has this name.
    #[error("package `{name}` is not in the archive for {arch}")]
    NoSuchPackage {
        /// The name.
        name: String,
        /// The architecture.
        arch: String,
    },
    /// The package has this name, but not this version.
    #[error("package `{name}` is in the archive, but not in version {version}: it has {}", list(.there))]
    NoSuchVersion {
        /// The name.
        name: String,
        /// The version that was asked for.
        version: Version,
        /// Those that there are.
        there: Vec<Version>,
    },
    /// What was asked for is not the name of a package.
    #[error("`{text}` is not `NAME` or `NAME=VERSION` of a package")]
    Malformed {
        /// What was asked for.
        text: String,
        /// What is wrong with it.
        source: ParseRelationError,
    },
    /// The same package was asked for in two versions.
    #[error("package `{name}` is asked for in two versions, {one} and {other}")]
    TwoVersions {
        /// The name.
        name: String,
        /// The version.
        one: Version,
        /// Another version.
        other: Version,
    },
    /// A dependency cannot be satisfied.
    #[error("`{clause}` cannot be satisfied, needed by {}: {reason}", chain(.needed_by))]
    Unsatisfiable {
        /// The dependency.
        clause: String,
        /// Who needs it, from it up to what was asked for.
        needed_by: Vec<String>,
        /// Why not.
        reason: String,
    },
    /// Two chosen packages exclude each other.
    #[error("`{package}` ({}) does not go with `{other}` ({}): it declares `{relation}`", chain(.needed_by), chain(.other_needed_by))]
    Conflict {
        /// Who says so.
        package: String,
        /// Whom it excludes.
        other: String,
        /// The relation with its field, `Conflicts` or `Breaks`.
        relation: String,
        /// Why the package is there.
        needed_by: Vec<String>,
        /// Why the other is there.
        other_needed_by: Vec<String>,
    },
    /// The index has no package that makes a system.
    #[error("the archive has no essential package for {arch}")]
    Empty {
        /// The architecture.
        arch: String,
    },
}

fn list(versions: &[Version]) -> String {
    let texts: Vec<&str> = versions.iter().map(Version::as_str).collect();
    texts.join(", ")
}

fn chain(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(" ← ")
}

/// Chosen packages in the order in which they are unpacked: what is needed comes first.
#[derive(Debug, Clone)]
pub struct Resolution<'a> {
    /// The packages.
    pub packages: Vec<&'a Package>,
    /// Names of those that make the base: essential, required, and what these need.
    pub base: BTreeSet<String>,
    /// Names of those that were asked for, or that provide what was.
    pub asked: BTreeSet<String>,
}

impl Resolution<'_> {
    /// Names, sorted, of those that are there only because what was asked for needs
    /// them: `apt autoremove` may take them once nothing does. The base stays.
    pub fn automatic(&self) -> Vec<String> {
        let names: BTreeSet<&String> = self.packages.iter().map(|package| &package.name).collect();
        names
            .into_iter()
            .filter(|name| !self.base.contains(*name) && !self.asked.contains(*name))
            .cloned()
            .collect()
    }
}

/// Alternatives that are taken although they are not the first: roots are made with a
/// merged `/usr`, so what merges it later (usrmerge, with all of perl) is not needed.
const PREFERRED: &[&str] = &["usr-is-merged"];

/// Reads what is asked for: `NAME`, `NAME:ARCH`, `NAME=VERSION`, as apt takes them.
pub fn asked<'t>(texts: impl IntoIterator<Item = &'t str>) -> Result<Vec<Relation>, ResolveError> {
    let parse = |text: &str| {
        let relation = match text.split_once('=') {
            None => Relation::parse(text),
            Some((name, version)) => Relation::parse(&format!("{name} (= {version})")),
        };
        relation.map_err(|source| ResolveError::Malformed {
            text: text.to_owned(),
            source,
        })
    };
    texts.into_iter().map(parse).collect()
}

/// The versions among what is asked for, by the package's name.
pub fn versions(asked: &[Relation]) -> Result<BTreeMap<String, Version>, ResolveError> {
    let mut versions = BTreeMap::new();
    for relation in asked {
        let Some((_, version)) = &relation.version else {
            continue;
        };
        let before = versions.insert(relation.name.clone(), version.clone());
        if let Some(one) = before.filter(|one| one != version) {
            return Err(ResolveError::TwoVersions {
                name: relation.name.clone(),
                one,
                other: version.clone(),
            });
        }
    }
    Ok(versions)
}

/// Chooses the packages.
pub fn resolve<'a>(
    universe: &'a Universe,
    arch: &str,
    asked: &[Relation],
) -> Result<Resolution<'a>, ResolveError> {
    let mut solver = Solver {
        universe,
        arch,
        chosen: BTreeMap::new(),
        fixed: VecDeque::new(),
        open: VecDeque::new(),
    };
    for relation in asked.iter().filter(|relation| relation.version.is_some()) {
        if solver.candidates(relation).is_empty() {
            return Err(solver.absent(relation));
        }
    }
    for package in universe.packages() {
        if package.essential || package.priority == Priority::Required {
            solver.choose(package, "the minimal system");
        }
    }
    if solver.chosen.is_empty() {
        return Err(ResolveError::Empty {
            arch: arch.to_owned(),
        });
    }
    solver.close()?;
    let base: BTreeSet<String> = solver.chosen.keys().cloned().collect();
    let mut meant = BTreeSet::new();
    for relation in asked {
        if let Some(present) = solver.present(relation) {
            meant.insert(present.name.clone());
            continue;
        }
        let package = solver
            .candidates(relation)
            .into_iter()
            .next()
            .ok_or_else(|| solver.absent(relation))?;
        meant.insert(package.name.clone());
        solver.choose(package, "the request");
    }
    solver.close()?;
    solver.check_conflicts()?;
    Ok(Resolution {
        packages: solver.order(),
        base,
        asked: meant,
    })
}

struct Chosen<'a> {
    package: &'a Package,
    /// The package that needed it, or why it is there at all.
    reason: String,
}

struct Solver<'a, 'b> {
    universe: &'a Universe,
    arch: &'b str,
    chosen: BTreeMap<String, Chosen<'a>>,
    /// Clauses with a single choice, with who needs them.
    fixed: VecDeque<(&'a Package, &'a [Relation])>,
    /// Clauses with several choices.
    open: VecDeque<(&'a Package, &'a [Relation])>,
}

impl<'a> Solver<'a, '_> {
    fn choose(&mut self, package: &'a Package, reason: &str) {
        if self.chosen.contains_key(&package.name) {
            return;
        }
        let reason = reason.to_owned();
        self.chosen
            .insert(package.name.clone(), Chosen { package, reason });
        for clause in package.pre_depends.iter().chain(&package.depends) {
            let choices: usize = clause.iter().map(|r| self.candidates(r).len()).sum();
            let queue = if choices > 1 {
                &mut self.open
            } else {
                &mut self.fixed
            };
            queue.push_back((package, clause));
        }
    }

    fn close(&mut self) -> Result<(), ResolveError> {
        while let Some((by, clause)) = self.fixed.pop_front().or_else(|| self.open.pop_front()) {
            if clause
                .iter()
                .any(|relation| self.present(relation).is_some())
            {
                continue;
            }
            let mut candidates: Vec<&Package> =
                clause.iter().flat_map(|r| self.candidates(r)).collect();
            // Stable, so that all others keep their order.
            candidates.sort_by_key(|package| !PREFERRED.contains(&package.name.as_str()));
            let free = candidates
                .iter()
                .find(|candidate| self.conflict_with(candidate).is_none());
            match free {
                Some(package) => self.choose(package, &by.name),
                None => return Err(self.explain(by, clause, &candidates)),
            }
        }
        Ok(())
    }

    /// Returns the chosen package that satisfies a relation.
    fn present(&self, relation: &Relation) -> Option<&'a Package> {
        if let Some(chosen) = self.chosen.get(&relation.name)
            && chosen.package.satisfies(relation, self.arch)
        {
            return Some(chosen.package);
        }
        self.universe.providers(&relation.name).find(|provider| {
            self.chosen.contains_key(&provider.name) && provider.satisfies(relation, self.arch)
        })
    }

    /// Returns the packages that would satisfy a relation, the best first.
    fn candidates(&self, relation: &Relation) -> Vec<&'a Package> {
        let universe = self.universe;
        let mut providers: Vec<&Package> = universe
            .providers(&relation.name)
            .filter(|p| p.name != relation.name && p.satisfies(relation, self.arch))
            .collect();
        providers.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
        providers.dedup_by(|a, b| a.name == b.name);
        let real = universe
            .get(&relation.name)
            .filter(|package| package.satisfies(relation, self.arch));
        real.into_iter().chain(providers).collect()
    }

    /// Why nothing is there of what was asked for.
    fn absent(&self, relation: &Relation) -> ResolveError {
        let there = self.universe.other_versions(&relation.name);
        match &relation.version {
            Some((Operator::Equal, version)) if !there.is_empty() => ResolveError::NoSuchVersion {
                name: relation.name.clone(),
                version: version.clone(),
                there,
            },
            _ => ResolveError::NoSuchPackage {
                name: relation.name.clone(),
                arch: relation
                    .arch
                    .clone()
                    .unwrap_or_else(|| self.arch.to_owned()),
            },
        }
    }

    /// Returns a chosen package that excludes this one or is excluded by it.
    fn conflict_with(&self, package: &Package) -> Option<&'a Package> {
        let excludes = |one: &Package, other: &Package| {
            one.name != other.name
                && one
                    .conflicts
                    .iter()
                    .chain(&one.breaks)
                    .any(|relation| other.satisfies(relation, self.arch))
        };
        self.chosen
            .values()
            .map(|chosen| chosen.package)
            .find(|other| excludes(package, other) || excludes(other, package))
    }

    fn check_conflicts(&self) -> Result<(), ResolveError> {
        for Chosen { package, .. } in self.chosen.values() {
            let fields = [
                ("Conflicts", &package.conflicts),
                ("Breaks", &package.breaks),
            ];
            for (field, relations) in fields {
                for relation in relations {
                    let named = self.universe.get(&relation.name).into_iter();
                    let other =
                        named
                            .chain(self.universe.providers(&relation.name))
                            .find(|other| {
                                other.name != package.name
                                    && self.chosen.contains_key(&other.name)
                                    && other.satisfies(relation, self.arch)
                            });
                    if let Some(other) = other {
                        return Err(ResolveError::Conflict {
                            package: package.name.clone(),
                            other: other.name.clone(),
                            relation: format!("{field}: {relation}"),
                            needed_by: self.reasons(&package.name),
                            other_needed_by: self.reasons(&other.name),
                        });
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns why a package is there, up to the request.
    fn reasons(&self, name: &str) -> Vec<String> {
        let mut names = Vec::new();
        let mut at = name;
        while let Some(chosen) = self.chosen.get(at) {
            if names.len() > self.chosen.len() {
                break;
            }
            names.push(chosen.reason.clone());
            at = &chosen.reason;
        }
        names
    }

    fn explain(&self, by: &Package, clause: &[Relation], candidates: &[&Package]) -> ResolveError {
        let reason = if let Some(candidate) = candidates.first() {
            let other = self
                .conflict_with(candidate)
                .map_or("", |other| &other.name);
            format!("`{}` conflicts with `{other}`", candidate.name)
        } else {
            let have: Vec<String> = clause
                .iter()
                .filter_map(|relation| self.universe.get(&relation.name))
                .map(|package| format!("`{}` is at version {}", package.name, package.version))
                .collect();
            if have.is_empty() {
                "the archive has no such package".to_owned()
            } else {
                have.join(", ")
            }
        };
        let mut needed_by = vec![by.name.clone()];
        needed_by.extend(self.reasons(&by.name));
        ResolveError::Unsatisfiable {
            clause: display_clause(clause),
            needed_by,
            reason,
        }
    }

    /// Orders by depth-first search over `Pre-Depends`, then `Depends`; cycles
    /// are cut where they close.
    fn order(&self) -> Vec<&'a Package> {
        let mut order = Vec::with_capacity(self.chosen.len());
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        for start in self.chosen.values() {
            // (package, whether its needs are already on the stack)
            let mut stack = vec![(start.package, false)];
            while let Some((package, expanded)) = stack.pop() {
                if expanded {
                    order.push(package);
                    continue;
                }
                if !seen.insert(&package.name) {
                    continue;
                }
                stack.push((package, true));
                let needs: Vec<&Package> = package
                    .pre_depends
                    .iter()
                    .chain(&package.depends)
                    .filter_map(|clause| clause.iter().find_map(|r| self.present(r)))
                    .collect();
                stack.extend(needs.into_iter().rev().map(|need| (need, false)));
            }
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::super::index::tests::{paragraph, universe};
    use super::*;

    fn names(universe: &Universe, asked: &[&str]) -> Result<Vec<String>, ResolveError> {
        let asked = super::asked(asked.iter().copied())?;
        resolve(universe, "amd64", &asked).map(|resolution| {
            let mut names: Vec<String> =
                resolution.packages.iter().map(|p| p.name.clone()).collect();
            names.sort();
            names
        })
    }

    #[test]
    fn the_minimal_set_is_closed_over_dependencies() {
        let universe = universe(&[
            paragraph("base", "1", "Essential: yes\nPre-Depends: lib (>= 1)\n"),
            paragraph("req", "1", "Priority: required\nDepends: awk\n"),
            paragraph("lib", "2", ""),
            paragraph("mawk", "1", "Priority: required\nProvides: awk\n"),
            paragraph("gawk", "1", "Provides: awk\n"),
            paragraph("extra", "1", "Depends: base, nothing | lib:any\n"),
            paragraph("unused", "1", "Depends: missing\n"),
        ]);
        assert_eq!(
            names(&universe, &[]).expect("solvable"),
            ["base", "lib", "mawk", "req"]
        );
        let asked = super::asked(["extra"]).expect("valid");
        let resolution = resolve(&universe, "amd64", &asked).expect("solvable");
        assert!(resolution.base.contains("lib") && !resolution.base.contains("extra"));
        let order: Vec<&str> = resolution
            .packages
            .iter()
            .map(|p| p.name.as_str())
            .collect();
        let at = |name| order.iter().position(|n| *n == name).expect("present");
        assert!(at("lib") < at("base") && at("base") < at("extra") && at("mawk") < at("req"));
    }

    #[test]
    fn automatic_are_those_that_only_a_request_needs() {
        let universe = universe(&[
            paragraph("base", "1", "Essential: yes\nDepends: lib\n"),
            paragraph("lib", "1", ""),
            paragraph("top", "1", "Depends: lib, low\n"),
            paragraph("low", "1", ""),
            paragraph("mta", "1", "Provides: mail\nDepends: queue\n"),
            paragraph("queue", "1", ""),
        ]);
        let automatic = |asked: &[&str]| {
            let asked = super::asked(asked.iter().copied()).expect("valid");
            resolve(&universe, "amd64", &asked)
                .expect("solvable")
                .automatic()
        };
        assert!(automatic(&[]).is_empty());
        assert_eq!(automatic(&["top", "mail"]), ["low", "queue"]);
        assert_eq!(automatic(&["top", "low", "mta"]), ["queue"]);
    }

    #[test]
    fn a_later_hard_dependency_decides_an_alternative() {
        let universe = universe(&[
            paragraph("a", "1", "Essential: yes\nDepends: x | y\n"),
            paragraph("b", "1", "Essential: yes\nDepends: y\n"),
            paragraph("x", "1", ""),
            paragraph("y", "1", ""),
        ]);
        assert_eq!(names(&universe, &[]).expect("solvable"), ["a", "b", "y"]);
    }

    #[test]
    fn a_merged_usr_is_not_merged_again() {
        let universe = universe(&[
            paragraph(
                "init-system-helpers",
                "1",
                "Essential: yes\nDepends: usrmerge | usr-is-merged\n",
            ),
            paragraph("usrmerge", "1", "Depends: perl\n"),
            paragraph("usr-is-merged", "1", ""),
            paragraph("perl", "1", ""),
        ]);
        let names = names(&universe, &[]).expect("solvable");
        assert_eq!(names, ["init-system-helpers", "usr-is-merged"]);
    }

    #[test]
    fn alternatives_that_conflict_are_passed_over() {
        let universe = universe(&[
            paragraph("a", "1", "Essential: yes\nDepends: x | y\nConflicts: x\n"),
            paragraph("x", "1", ""),
            paragraph("y", "1", ""),
        ]);
        assert_eq!(names(&universe, &[]).expect("solvable"), ["a", "y"]);
    }

    #[test]
    fn failures_explain_the_chain() {
        let universe = universe(&[
            paragraph("base", "1", "Essential: yes\n"),
            paragraph("top", "1", "Depends: middle\n"),
            paragraph("middle", "1", "Depends: low (>= 2) | none\n"),
            paragraph("low", "1", ""),
            paragraph("foe", "1", "Breaks: low (<< 2)\nDepends: low\n"),
        ]);
        let text = |asked| {
            names(&universe, &[asked])
                .expect_err("unsolvable")
                .to_string()
        };
        assert_eq!(
            text("top"),
            "`low (>= 2) | none` cannot be satisfied, needed by `middle` ← `top` ← `the request`: `low` is at version 1"
        );
        assert_eq!(
            text("absent"),
            "package `absent` is not in the archive for amd64"
        );
        assert_eq!(
            text("foe"),
            "`low` cannot be satisfied, needed by `foe` ← `the request`: `low` conflicts with `foe`"
        );
        let empty = Universe::default();
        assert_eq!(
            names(&empty, &[]).expect_err("empty").to_string(),
            "the archive has no essential package for amd64"
        );
    }

    #[test]
    fn a_version_that_is_asked_for_is_taken_or_those_are_told_that_are_there() {
        let index = [
            paragraph("base", "1", "Essential: yes\n"),
            paragraph("base", "2", "Essential: yes\n"),
            paragraph("tool", "1:1.0-1+b2", "Provides: thing (= 7)\n"),
            paragraph("tool", "1:1.0-2", ""),
            paragraph("tool", "1:1.0~rc1", ""),
        ];
        let solve = |texts: &[&str]| {
            let asked = super::asked(texts.iter().copied())?;
            let mut universe = Universe::with_versions(versions(&asked)?);
            universe.add(&index.concat(), "amd64", 0).expect("valid");
            universe.seal();
            let resolution = resolve(&universe, "amd64", &asked)?;
            let mut found: Vec<String> = resolution
                .packages
                .iter()
                .map(|package| format!("{}={}", package.name, package.version))
                .collect();
            found.sort();
            Ok::<_, ResolveError>(found)
        };
        for (asked, found) in [
            (&["tool"][..], ["base=2", "tool=1:1.0-2"]),
            (&["tool=1:1.0-2"], ["base=2", "tool=1:1.0-2"]),
            (&["tool=1:1.0-1+b2", "tool"], ["base=2", "tool=1:1.0-1+b2"]),
            (
                &["tool:amd64=1:1.0~rc1", "base=1"],
                ["base=1", "tool=1:1.0~rc1"],
            ),
        ] {
            assert_eq!(solve(asked).expect("solvable"), found, "{asked:?}");
        }
        for (asked, message) in [
            (
                &["tool=1.0-2"][..],
                "package `tool` is in the archive, but not in version 1.0-2: it has \
                 1:1.0~rc1, 1:1.0-1+b2, 1:1.0-2",
            ),
            (
                &["none=1"],
                "package `none` is not in the archive for amd64",
            ),
            (
                &["tool:arm64"],
                "package `tool` is not in the archive for arm64",
            ),
            (
                &["tool=1:1.0-2", "tool=1:1.0~rc1"],
                "package `tool` is asked for in two versions, 1:1.0-2 and 1:1.0~rc1",
            ),
            (
                &["tool/sid"],
                "`tool/sid` is not `NAME` or `NAME=VERSION` of a package",
            ),
            (
                &["tool="],
                "`tool=` is not `NAME` or `NAME=VERSION` of a package",
            ),
            (
                &["base=3"],
                "package `base` is in the archive, but not in version 3: it has 1, 2",
            ),
        ] {
            let error = solve(asked).expect_err("refused");
            assert_eq!(error.to_string(), message, "{asked:?}");
        }
    }

    #[test]
    fn cycles_are_ordered_the_same_way_every_time() {
        let universe = universe(&[
            paragraph("a", "1", "Essential: yes\nDepends: b\n"),
            paragraph("b", "1", "Depends: c\n"),
            paragraph("c", "1", "Depends: a\n"),
        ]);
        let resolution = resolve(&universe, "amd64", &[]).expect("solvable");
        let order: Vec<&str> = resolution
            .packages
            .iter()
            .map(|p| p.name.as_str())
            .collect();
        assert_eq!(order, ["c", "b", "a"]);
    }
}
