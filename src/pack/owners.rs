//! Rules about whose the files of an image are.
//!
//! A rule is one of
//!
//! | rule | gives to |
//! |---|---|
//! | `OWNER` | all files |
//! | `FROM=OWNER` | files of the user or group FROM |
//! | `/PATH=OWNER` | what is at and below PATH |
//! | `@FILE` | rules from a file, one a line |
//!
//! where an owner is `USER`, `USER:GROUP` or `:GROUP`, by number, or by a name
//! that the tree's own `/etc/passwd` and `/etc/group` have. `USER` alone means
//! that user's group as well where all files or a path are meant. Of several
//! rules that apply to a file the last counts.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::tree::users::{GROUP, PASSWD, Users};
use crate::tree::{InodeId, NodeId, Tree};

/// A wrong rule.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OwnerError {
    /// Text that is no rule.
    #[error("`{rule}` is no rule about owners: {problem}")]
    Rule {
        /// The rule.
        rule: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A file of rules cannot be read.
    #[error("cannot read the rules about owners in `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A name that nobody has.
    #[error("there is no {what} `{name}` in the tree's `{file}`")]
    Unknown {
        /// `user` or `group`.
        what: &'static str,
        /// The name.
        name: String,
        /// Where it was looked for.
        file: &'static str,
    },
    /// A path that is not there.
    #[error("`{path}` of rule `{rule}` is not in the tree")]
    NoPath {
        /// The path.
        path: String,
        /// The rule.
        rule: String,
    },
    /// The tree's users cannot be read.
    #[error("cannot read `{file}` of the tree")]
    Read {
        /// The file.
        file: &'static str,
        /// Why.
        #[source]
        source: crate::tree::Error,
    },
}

impl OwnerError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            OwnerError::Rule { .. } => {
                "a rule is OWNER, FROM=OWNER, /PATH=OWNER or @FILE, and an owner is USER:GROUP, such as `root:root` or `1000:1000=0:0`"
            }
            OwnerError::Unknown { .. } => "use the number",
            _ => return None,
        };
        Some(text.to_owned())
    }
}

/// Rules in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    text: String,
    what: What<Owner>,
    to: Owner,
}

/// Which files a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
enum What<T> {
    All,
    From(T),
    Path(String),
}

/// A user and a group, as the user wrote them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Owner {
    user: Option<String>,
    group: Option<String>,
}

/// The same as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ids {
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Rules {
    /// Reads rules; files that they name are relative to the current directory.
    ///
    /// # Errors
    /// The first that is wrong.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Rules, OwnerError> {
        let mut rules = Vec::new();
        for text in texts {
            let Some(path) = text.strip_prefix('@') else {
                rules.push(Rule::parse(text)?);
                continue;
            };
            let lines = std::fs::read_to_string(path).map_err(|source| OwnerError::File {
                path: path.into(),
                source,
            })?;
            for line in lines.lines().map(str::trim) {
                if !line.is_empty() && !line.starts_with('#') {
                    rules.push(Rule::parse(line)?);
                }
            }
        }
        Ok(Rules(rules))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rules in numbers, by the users of a tree.
    ///
    /// # Errors
    /// If a name or path is not in the tree.
    pub fn resolve(&self, tree: &Arc<Tree>) -> Result<Resolved, OwnerError> {
        let users = Users::of(tree);
        let mut rules = Vec::with_capacity(self.0.len());
        for rule in &self.0 {
            let what = match &rule.what {
                What::All => What::All,
                What::From(owner) => What::From(owner.ids(&users, false)?),
                What::Path(path) => What::Path(path.clone()),
            };
            // All files of a user are given to a user; their groups stay.
            let with_group = !matches!(what, What::From(_));
            let to = rule.to.ids(&users, with_group)?;
            let below = match &what {
                What::Path(path) => {
                    tree.find(path)
                        .map(Some)
                        .ok_or_else(|| OwnerError::NoPath {
                            path: path.clone(),
                            rule: rule.text.clone(),
                        })?
                }
                _ => None,
            };
            rules.push((what, below, to));
        }
        Ok(Resolved(rules))
    }
}

impl Rule {
    fn parse(text: &str) -> Result<Rule, OwnerError> {
        let wrong = |problem| OwnerError::Rule {
            rule: text.to_owned(),
            problem,
        };
        let owner = |text: &str| {
            let (user, group) = match text.split_once(':') {
                Some((user, group)) => (user, group),
                None => (text, ""),
            };
            let part = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
            let owner = Owner {
                user: part(user),
                group: part(group),
            };
            match owner {
                Owner {
                    user: None,
                    group: None,
                } => Err(wrong("it names nobody")),
                owner => Ok(owner),
            }
        };
        let (what, to) = match text.rsplit_once('=') {
            None => (What::All, text),
            Some((path, to)) if path.starts_with('/') => (What::Path(path.to_owned()), to),
            Some((from, to)) => (What::From(owner(from)?), to),
        };
        Ok(Rule {
            text: text.to_owned(),
            what,
            to: owner(to)?,
        })
    }
}

/// Rules in numbers, for one tree.
#[derive(Debug)]
pub struct Resolved(Vec<(What<Ids>, Option<NodeId>, Ids)>);

impl Resolved {
    /// Gives the files of the tree their owners.
    pub fn apply(&self, tree: Tree) -> Tree {
        let mut places: Vec<Option<NodeId>> = vec![None; tree.inodes().len()];
        let by_path = self.0.iter().any(|(_, below, _)| below.is_some());
        let mut inside = Vec::new();
        if by_path {
            // A file with several names lies where the first is.
            for (id, node) in tree.nodes() {
                places[node.inode.index()].get_or_insert(id);
            }
            inside = self
                .0
                .iter()
                .map(|(_, below, _)| below.map(|below| contents(&tree, below)))
                .collect();
        }
        tree.map_inodes(|id: InodeId, inode| {
            let before = (inode.uid, inode.gid);
            for (at, (what, _, to)) in self.0.iter().enumerate() {
                let matches = |have: u32, wanted: Option<u32>| wanted.is_none_or(|id| id == have);
                let applies = match what {
                    What::All => true,
                    What::From(from) => matches(before.0, from.uid) && matches(before.1, from.gid),
                    What::Path(_) => places[id.index()].is_some_and(|place| {
                        let set = inside.get(at).and_then(Option::as_ref);
                        set.is_some_and(|set| set[place.index()])
                    }),
                };
                if applies {
                    inode.uid = to.uid.unwrap_or(inode.uid);
                    inode.gid = to.gid.unwrap_or(inode.gid);
                }
            }
        })
    }
}

/// Which nodes are at or below a node.
fn contents(tree: &Tree, top: NodeId) -> Vec<bool> {
    let mut inside = vec![false; tree.nodes().len()];
    inside[top.index()] = true;
    // Parents come before their children.
    for (id, node) in tree.nodes() {
        if id != NodeId::ROOT && inside[node.parent.index()] {
            inside[id.index()] = true;
        }
    }
    inside
}

impl Owner {
    fn ids(&self, users: &Users<'_>, with_group: bool) -> Result<Ids, OwnerError> {
        let read = |file| move |source| OwnerError::Read { file, source };
        let uid = self.user.as_deref().map(|name| {
            let user = users.user(name).map_err(read(PASSWD))?;
            user.ok_or_else(|| unknown("user", name, PASSWD))
        });
        let uid = uid.transpose()?;
        let gid = match (self.group.as_deref(), uid) {
            (Some(name), _) => {
                let group = users.group(name).map_err(read(GROUP))?;
                Some(group.ok_or_else(|| unknown("group", name, GROUP))?)
            }
            (None, Some((_, gid))) if with_group => gid,
            _ => None,
        };
        Ok(Ids {
            uid: uid.map(|(uid, _)| uid),
            gid,
        })
    }
}

fn unknown(what: &'static str, name: &str, file: &'static str) -> OwnerError {
    OwnerError::Unknown {
        what,
        name: name.to_owned(),
        file,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Inode, TreeBuilder};

    fn tree() -> Arc<Tree> {
        let mut tree = TreeBuilder::new();
        let passwd = b"root:x:0:0::/:/bin/sh\nsynth:x:50:60::/:\n";
        let file = |bytes: &[u8]| Inode::file(bytes.to_vec(), 0o644);
        tree.insert("/etc/passwd", file(passwd)).unwrap();
        tree.insert("/etc/group", file(b"staff:x:70:\n")).unwrap();
        tree.insert("/a", file(b"").owned_by(1000, 1000)).unwrap();
        tree.insert("/b/c", file(b"").owned_by(1000, 4)).unwrap();
        tree.insert("/d", file(b"").owned_by(7, 8)).unwrap();
        Arc::new(tree.build().unwrap())
    }

    fn owners(rules: &[&str]) -> Result<Vec<(u32, u32)>, OwnerError> {
        let tree = tree();
        let resolved = Rules::parse(rules.iter().copied())?.resolve(&tree)?;
        let tree = resolved.apply(Arc::into_inner(tree).unwrap());
        let of = |path: &str| {
            let inode = tree.inode_of(tree.find(path).unwrap());
            (inode.uid, inode.gid)
        };
        Ok(["/a", "/b/c", "/d"].map(of).to_vec())
    }

    #[test]
    fn the_last_rule_that_applies_counts() {
        for (rules, expected) in [
            (&["root:root"][..], [(0, 0), (0, 0), (0, 0)]),
            (&["root"], [(0, 0), (0, 0), (0, 0)]),
            (&[":staff"], [(1000, 70), (1000, 70), (7, 70)]),
            (&["1000=0"], [(0, 1000), (0, 4), (7, 8)]),
            (&["1000:1000=0:0"], [(0, 0), (1000, 4), (7, 8)]),
            (&[":4=:synth", "7=root"], [(1000, 1000), (1000, 4), (0, 8)]),
            (&["0:0", "/b=synth"], [(0, 0), (50, 60), (0, 0)]),
            (&["/b=synth", "1000=1"], [(1, 1000), (1, 60), (7, 8)]),
        ] {
            if rules[0] == ":4=:synth" {
                let error = owners(rules).unwrap_err().to_string();
                assert_eq!(
                    error,
                    "there is no group `synth` in the tree's `/etc/group`"
                );
                continue;
            }
            assert_eq!(owners(rules).unwrap(), expected, "{rules:?}");
        }
    }

    #[test]
    fn wrong_rules_say_why() {
        for (rule, message) in [
            ("", "`` is no rule about owners: it names nobody"),
            (":", "`:` is no rule about owners: it names nobody"),
            ("0=", "`0=` is no rule about owners: it names nobody"),
            (
                "nobody",
                "there is no user `nobody` in the tree's `/etc/passwd`",
            ),
            ("/none=0", "`/none` of rule `/none=0` is not in the tree"),
        ] {
            assert_eq!(owners(&[rule]).unwrap_err().to_string(), message);
        }
    }
}
