//! Relations between packages: `Depends`, `Provides`, `Conflicts` and their like.
//!
//! The syntax is deb-control(5): comma-separated groups of `|`-separated
//! alternatives, each `name[:arch] [(operator version)]`.

use std::fmt;

use super::version::{ParseVersionError, Version};

/// How a version must compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `<<`
    Earlier,
    /// `<=`
    EarlierOrEqual,
    /// `=`
    Equal,
    /// `>=`
    LaterOrEqual,
    /// `>>`
    Later,
}

impl Operator {
    fn as_str(self) -> &'static str {
        match self {
            Operator::Earlier => "<<",
            Operator::EarlierOrEqual => "<=",
            Operator::Equal => "=",
            Operator::LaterOrEqual => ">=",
            Operator::Later => ">>",
        }
    }
}

/// One alternative: a package, perhaps with a version and an architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// Package name, real or virtual.
    pub name: String,
    /// What follows the colon: `any`, `native` or an architecture.
    pub arch: Option<String>,
    /// The version constraint.
    pub version: Option<(Operator, Version)>,
}

/// Alternatives of which one must hold.
pub type Clause = Vec<Relation>;

/// Why a text is not a list of relations.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseRelationError {
    /// The syntax is wrong.
    #[error("`{text}` is not a package relation: {reason}")]
    Syntax {
        /// The alternative.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The version is malformed.
    #[error("`{text}` is not a package relation")]
    Version {
        /// The alternative.
        text: String,
        /// What is wrong with its version.
        source: ParseVersionError,
    },
}

impl Relation {
    /// Parses one alternative.
    pub fn parse(text: &str) -> Result<Relation, ParseRelationError> {
        let fail = |reason| ParseRelationError::Syntax {
            text: text.trim().to_owned(),
            reason,
        };
        let mut rest = text.trim();
        let end = rest
            .find(|c: char| c.is_ascii_whitespace() || "([<:".contains(c))
            .unwrap_or(rest.len());
        let name = &rest[..end];
        if !is_package_name(name) {
            return Err(fail("the package name is not valid"));
        }
        rest = &rest[end..];
        let mut arch = None;
        if let Some(after) = rest.strip_prefix(':') {
            let end = after
                .find(|c: char| c.is_ascii_whitespace() || "([<".contains(c))
                .unwrap_or(after.len());
            if end == 0 {
                return Err(fail("the architecture after the colon is empty"));
            }
            arch = Some(after[..end].to_owned());
            rest = &after[end..];
        }
        rest = rest.trim_start();
        let mut version = None;
        if let Some(after) = rest.strip_prefix('(') {
            let (inside, after) = after
                .split_once(')')
                .ok_or_else(|| fail("a `)` is missing"))?;
            let inside = inside.trim();
            let length = inside
                .find(|c: char| !"<>=".contains(c))
                .unwrap_or(inside.len());
            let operator = match &inside[..length] {
                "<<" => Operator::Earlier,
                // A single `<` or `>` is the obsolete spelling of `<=` and `>=`.
                "<=" | "<" => Operator::EarlierOrEqual,
                "=" | "" => Operator::Equal,
                ">=" | ">" => Operator::LaterOrEqual,
                ">>" => Operator::Later,
                _ => return Err(fail("the version operator is not known")),
            };
            let parsed = Version::parse(inside[length..].trim()).map_err(|source| {
                ParseRelationError::Version {
                    text: text.trim().to_owned(),
                    source,
                }
            })?;
            version = Some((operator, parsed));
            rest = after.trim_start();
        }
        if !rest.is_empty() {
            return Err(fail("there is text after it that is not understood"));
        }
        Ok(Relation {
            name: name.to_owned(),
            arch,
            version,
        })
    }

    /// Tells whether a package of this version satisfies the constraint.
    pub fn accepts(&self, version: &Version) -> bool {
        match &self.version {
            None => true,
            Some((Operator::Earlier, wanted)) => version < wanted,
            Some((Operator::EarlierOrEqual, wanted)) => version <= wanted,
            Some((Operator::Equal, wanted)) => version == wanted,
            Some((Operator::LaterOrEqual, wanted)) => version >= wanted,
            Some((Operator::Later, wanted)) => version > wanted,
        }
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(arch) = &self.arch {
            write!(f, ":{arch}")?;
        }
        if let Some((operator, version)) = &self.version {
            write!(f, " ({} {version})", operator.as_str())?;
        }
        Ok(())
    }
}

/// Parses a whole field into its clauses.
pub fn parse_clauses(text: &str) -> Result<Vec<Clause>, ParseRelationError> {
    text.split(',')
        .filter(|group| !group.trim().is_empty())
        .map(|group| group.split('|').map(Relation::parse).collect())
        .collect()
}

/// Writes a clause as a control file has it.
pub fn display_clause(clause: &[Relation]) -> String {
    let parts: Vec<String> = clause.iter().map(Relation::to_string).collect();
    parts.join(" | ")
}

/// Tells whether a text is a package name (Debian Policy §5.6.1; upper case and
/// single letters are tolerated as dpkg does).
pub fn is_package_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-._".contains(&byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn clauses_keep_alternatives_versions_and_architectures() {
        let clauses =
            parse_clauses("libc6 (>= 2.36), awk|mawk:any, perl:native ( << 5.40 ),\n debconf (= 1.5) | debconf-2.0")
                .expect("valid");
        let texts: Vec<String> = clauses
            .iter()
            .map(|clause| display_clause(clause))
            .collect();
        assert_eq!(
            texts,
            [
                "libc6 (>= 2.36)",
                "awk | mawk:any",
                "perl:native (<< 5.40)",
                "debconf (= 1.5) | debconf-2.0"
            ]
        );
    }

    #[test]
    fn malformed_relations_are_refused() {
        for text in [
            "|",
            "a (>= 1",
            "a (!= 1)",
            "a b",
            "-a",
            "a:",
            "a (>= )",
            "../x",
            "a (>= 1) x",
        ] {
            assert!(parse_clauses(text).is_err(), "`{text}`");
        }
    }

    #[test]
    fn constraints_compare_as_written() {
        for (text, version, holds) in [
            ("a (<< 2)", "1", true),
            ("a (<< 2)", "2", false),
            ("a (<= 2)", "2", true),
            ("a (= 2)", "2", true),
            ("a (= 2)", "2-1", false),
            ("a (>= 2)", "2~", false),
            ("a (>> 2)", "2-1", true),
            ("a", "0", true),
        ] {
            let relation = Relation::parse(text).expect("valid");
            let version = Version::parse(version).expect("valid");
            assert_eq!(relation.accepts(&version), holds, "{text} {version}");
        }
    }

    proptest! {
        #[test]
        fn display_is_read_back(name in "[a-z0-9][a-z0-9+.-]{1,8}", arch in prop::option::of("[a-z0-9]{1,6}"),
                                version in prop::option::of("[0-9][0-9a-z.~+]{0,6}(-[0-9]{1,2})?")) {
            let mut text = name;
            if let Some(arch) = arch { text += &format!(":{arch}"); }
            if let Some(version) = version { text += &format!(" (>= {version})"); }
            let relation = Relation::parse(&text).expect("valid");
            prop_assert_eq!(relation.to_string(), text);
        }

        #[test]
        fn parsing_never_panics(text in "\\PC{0,30}") {
            let _ = parse_clauses(&text);
        }
    }
}
