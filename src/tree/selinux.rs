//! SELinux labels, computed from the policy that is in the tree itself.
//!
//! A policy lists patterns of paths with the label of each in `file_contexts`
//! (format: `selabel_file(5)` and the man page `file_contexts(5)`). No kernel with
//! SELinux and no policy of the host is needed to know what `setfiles` would do in
//! the guest: every file gets the label of the last pattern that its path and type
//! match, and patterns without special characters go before all others.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use regex_lite::{Regex, RegexBuilder};

use super::{Error, Inode, InodeId, Kind, NodeId, Tree, Xattrs};

/// Where a target says whether and by which policy it is labelled.
const CONFIG: &[u8] = b"/etc/selinux/config";
/// Name of the attribute that holds a label.
pub(crate) const ATTRIBUTE: &[u8] = b"security.selinux";

/// Whether a tree gets the labels of its own policy (`KILN_SELINUX`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Labelling {
    /// Where it has a policy that is not disabled.
    #[default]
    Auto,
    /// Always; no policy is an error.
    On,
    /// Never: it keeps the labels that it has.
    Off,
}

/// Why a tree is not labelled.
#[derive(Debug, thiserror::Error)]
pub enum LabelError {
    /// The variable has another value.
    #[error("`KILN_SELINUX` is `{value}`")]
    Value {
        /// The value.
        value: String,
    },
    /// There is nothing to label it by.
    #[error("`KILN_SELINUX` is `on`, but the target has no SELinux policy that is not disabled")]
    NoPolicy,
    /// A pattern of the policy by which files had to be compared.
    #[error("the pattern `{pattern}` of the target's SELinux policy cannot be understood")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        source: regex_lite::Error,
    },
    /// A file of the policy cannot be read.
    #[error(transparent)]
    Tree(#[from] Error),
}

impl LabelError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            LabelError::Value { .. } => "use auto, on or off",
            LabelError::NoPolicy => {
                "see /etc/selinux/config of the target; or use `KILN_SELINUX=auto`"
            }
            LabelError::Pattern { .. } => {
                "correct it in the policy's `file_contexts`; or use `KILN_SELINUX=off`"
            }
            LabelError::Tree(_) => return None,
        };
        Some(hint.to_owned())
    }
}

impl Labelling {
    /// The value of `KILN_SELINUX`; `None` is an unset variable.
    ///
    /// # Errors
    ///
    /// If it is none of `auto`, `on` and `off`.
    pub fn from_value(value: Option<&OsStr>) -> Result<Labelling, LabelError> {
        match value.map(OsStr::as_bytes) {
            None | Some(b"auto") => Ok(Labelling::Auto),
            Some(b"on") => Ok(Labelling::On),
            Some(b"off") => Ok(Labelling::Off),
            Some(value) => Err(LabelError::Value {
                value: String::from_utf8_lossy(value).into_owned(),
            }),
        }
    }

    /// The tree with the labels that it is to have.
    ///
    /// # Errors
    ///
    /// If there must be a policy and is none, a file of it cannot be read, or a pattern
    /// in it is wrong: files would have other labels than the target itself gives them.
    pub fn apply(self, tree: Arc<Tree>) -> Result<Arc<Tree>, LabelError> {
        if self == Labelling::Off {
            return Ok(tree);
        }
        match FileContexts::of_tree(&tree)? {
            Some(contexts) => {
                let labelled = tree.labelled(&contexts);
                contexts.check_patterns()?;
                Ok(Arc::new(labelled))
            }
            None if self == Labelling::On => Err(LabelError::NoPolicy),
            None => Ok(tree),
        }
    }

    /// The labels of the `lost+found` that filesystems get at these mount points, by
    /// mount point: they are not in the tree.
    ///
    /// # Errors
    ///
    /// If a file of the policy cannot be read.
    pub fn lost_found(
        self,
        tree: &Arc<Tree>,
        mount_points: &[&str],
    ) -> Result<BTreeMap<String, Arc<[u8]>>, LabelError> {
        let contexts = match self {
            Labelling::Off => None,
            Labelling::Auto | Labelling::On => FileContexts::of_tree(tree)?,
        };
        let labels = mount_points.iter().filter_map(|point| {
            let path = format!("{}/lost+found", point.trim_end_matches('/'));
            let label = contexts.as_ref()?.label(&path, &Kind::Directory)?;
            Some(((*point).to_owned(), label))
        });
        Ok(labels.collect())
    }
}

/// A label for some paths.
#[derive(Debug)]
struct Rule {
    /// The file types that it is for; `None` for all.
    only: Option<Type>,
    /// `None` means that such files get no label.
    label: Option<Arc<[u8]>>,
    /// What every path begins with that the pattern matches.
    prefix: String,
    /// Whether the pattern is nothing but its prefix.
    exact: bool,
    pattern: String,
    compiled: OnceCell<Result<Regex, regex_lite::Error>>,
}

/// A file type as a policy writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    File,
    Directory,
    Symlink,
    CharDevice,
    BlockDevice,
    Fifo,
    Socket,
}

impl Type {
    fn parse(word: &str) -> Option<Type> {
        Some(match word {
            "--" => Type::File,
            "-d" => Type::Directory,
            "-l" => Type::Symlink,
            "-c" => Type::CharDevice,
            "-b" => Type::BlockDevice,
            "-p" => Type::Fifo,
            "-s" => Type::Socket,
            _ => return None,
        })
    }

    fn of(kind: &Kind) -> Type {
        match kind {
            Kind::File(_) => Type::File,
            Kind::Directory => Type::Directory,
            Kind::Symlink(_) => Type::Symlink,
            Kind::CharDevice(_) => Type::CharDevice,
            Kind::BlockDevice(_) => Type::BlockDevice,
            Kind::Fifo => Type::Fifo,
            Kind::Socket => Type::Socket,
        }
    }
}

/// The labels that a policy gives.
#[derive(Debug, Default)]
pub struct FileContexts {
    rules: Vec<Rule>,
    /// Rules without special characters, by path, last first.
    exact: HashMap<String, Vec<usize>>,
    /// Other rules by the directories that their prefixes begin with (two of them
    /// at most), last first: only few have to be tried for a path.
    by_directory: HashMap<String, Vec<usize>>,
    /// Directories that are labelled as if they were others.
    substitutions: Vec<(String, String)>,
}

/// The first `depth` directories of a path, if it goes further down.
fn directories(path: &str, depth: usize) -> Option<&str> {
    if depth == 0 {
        return Some("");
    }
    let mut slashes = path.match_indices('/').map(|(at, _)| at);
    slashes.nth(depth).map(|at| &path[..at])
}

/// What all matches of a pattern begin with, and whether that is all of it.
fn prefix(pattern: &str) -> (String, bool) {
    let mut prefix = String::new();
    let mut letters = pattern.chars().peekable();
    while let Some(letter) = letters.next() {
        let literal = match letter {
            '\\' => match letters.next() {
                Some(escaped) if !escaped.is_alphanumeric() => escaped,
                _ => return (prefix, false),
            },
            '.' | '^' | '$' | '?' | '*' | '+' | '|' | '[' | '(' | '{' => return (prefix, false),
            other => other,
        };
        if matches!(letters.peek(), Some('?' | '*' | '+' | '{')) {
            return (prefix, false);
        }
        prefix.push(literal);
    }
    (prefix, true)
}

/// Whether a pattern has alternatives outside of parentheses.
fn has_alternatives(pattern: &str) -> bool {
    let mut depth = 0usize;
    let mut escaped = false;
    pattern.chars().any(|letter| {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '(' | '[' => depth += 1,
            ')' | ']' => depth = depth.saturating_sub(1),
            '|' => return depth == 0,
            _ => {}
        }
        false
    })
}

impl FileContexts {
    /// Reads `file_contexts`; later texts (`.homedirs`, `.local`) go before earlier
    /// ones. Lines that are not rules are passed over, as libselinux does.
    pub fn parse<'t>(texts: impl IntoIterator<Item = &'t str>) -> FileContexts {
        let mut contexts = FileContexts::default();
        for line in texts.into_iter().flat_map(str::lines) {
            let mut words = line.split_whitespace();
            let (Some(pattern), Some(second)) = (words.next(), words.next()) else {
                continue;
            };
            if pattern.starts_with('#') {
                continue;
            }
            let (only, label) = match (Type::parse(second), words.next()) {
                (Some(only), Some(label)) => (Some(only), label),
                (None, None) => (None, second),
                _ => continue,
            };
            let (prefix, exact) = if has_alternatives(pattern) {
                (String::new(), false)
            } else {
                prefix(pattern)
            };
            // As in an attribute: with its terminating zero.
            let label = (label != "<<none>>").then(|| [label.as_bytes(), &[0]].concat().into());
            contexts.rules.push(Rule {
                only,
                label,
                prefix,
                exact,
                pattern: pattern.to_owned(),
                compiled: OnceCell::new(),
            });
        }
        for (number, rule) in contexts.rules.iter().enumerate().rev() {
            let (index, key) = if rule.exact {
                (&mut contexts.exact, rule.prefix.as_str())
            } else {
                let key = [2, 1]
                    .into_iter()
                    .find_map(|depth| directories(&rule.prefix, depth));
                (&mut contexts.by_directory, key.unwrap_or(""))
            };
            index.entry(key.to_owned()).or_default().push(number);
        }
        contexts
    }

    /// Adds the lines of `file_contexts.subs` or `.subs_dist`: paths below the first
    /// word are labelled as if they were below the second.
    pub fn substitute(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split_whitespace();
            if let (Some(from), Some(to)) = (words.next(), words.next())
                && from.starts_with('/')
            {
                self.substitutions.push((from.to_owned(), to.to_owned()));
            }
        }
    }

    /// The policy of a tree; `None` where it has none or labels are switched off.
    ///
    /// # Errors
    ///
    /// If a file of the policy cannot be read.
    pub fn of_tree(tree: &Arc<Tree>) -> Result<Option<FileContexts>, Error> {
        let Some(config) = text(tree, CONFIG)? else {
            return Ok(None);
        };
        let value = |key: &str| {
            let lines = config.lines().map(str::trim);
            let of_key = |line: &'_ str| {
                Some(
                    line.strip_prefix(key)?
                        .trim_start()
                        .strip_prefix('=')?
                        .trim()
                        .to_owned(),
                )
            };
            lines.filter_map(of_key).next_back()
        };
        if value("SELINUX").is_some_and(|mode| mode.eq_ignore_ascii_case("disabled")) {
            return Ok(None);
        }
        let policy = value("SELINUXTYPE").unwrap_or_else(|| "targeted".to_owned());
        let file = |suffix: &str| {
            let path = format!("/etc/selinux/{policy}/contexts/files/file_contexts{suffix}");
            text(tree, path.as_bytes())
        };
        let Some(main) = file("")? else {
            return Ok(None);
        };
        let (homes, local) = (file(".homedirs")?, file(".local")?);
        let texts = [Some(main), homes, local];
        let mut contexts = FileContexts::parse(texts.iter().flatten().map(String::as_str));
        for suffix in [".subs", ".subs_dist"] {
            contexts.substitute(&file(suffix)?.unwrap_or_default());
        }
        Ok(Some(contexts))
    }

    /// Whether all patterns are right that were needed so far; most never are.
    fn check_patterns(&self) -> Result<(), LabelError> {
        let wrong = self.rules.iter().find_map(|rule| {
            let source = rule.compiled.get()?.as_ref().err()?.clone();
            Some(LabelError::Pattern {
                pattern: rule.pattern.clone(),
                source,
            })
        });
        wrong.map_or(Ok(()), Err)
    }

    /// The label of a file with its terminating zero; `None` if it gets none.
    pub fn label(&self, path: &str, kind: &Kind) -> Option<Arc<[u8]>> {
        let substituted = self.substitutions.iter().find_map(|(from, to)| {
            let rest = path.strip_prefix(from.as_str())?;
            let below = rest.is_empty() || rest.starts_with('/');
            below.then(|| format!("{}{rest}", to.trim_end_matches('/')))
        });
        let path = substituted.as_deref().unwrap_or(path);
        let is_for = Type::of(kind);
        let fits = |number: &&usize| {
            let rule = &self.rules[**number];
            rule.only.is_none_or(|only| only == is_for)
        };
        let exact = self.exact.get(path).into_iter().flatten().find(fits);
        let last_of = |list: &Vec<usize>| {
            list.iter()
                .filter(fits)
                .find(|number| self.rules[**number].matches(path))
                .copied()
        };
        let found = exact.copied().or_else(|| {
            (0..=2)
                .filter_map(|depth| self.by_directory.get(directories(path, depth)?))
                .filter_map(last_of)
                .max()
        });
        self.rules[found?].label.clone()
    }
}

impl Rule {
    fn matches(&self, path: &str) -> bool {
        if !path.starts_with(&self.prefix) {
            return false;
        }
        let compiled = self.compiled.get_or_init(|| {
            RegexBuilder::new(&format!("^(?:{})$", self.pattern))
                .dot_matches_new_line(true)
                .build()
        });
        compiled.as_ref().is_ok_and(|regex| regex.is_match(path))
    }
}

/// A text file of the tree; `None` if it is not there.
fn text(tree: &Arc<Tree>, path: &[u8]) -> Result<Option<String>, Error> {
    /// Policies have about half a MiB.
    const LIMIT: u64 = 64 << 20;
    let Some(node) = tree.find(path) else {
        return Ok(None);
    };
    let id = tree.node(node).inode;
    let Kind::File(content) = &tree.inode(id).kind else {
        return Ok(None);
    };
    let length = usize::try_from(content.size.min(LIMIT)).unwrap_or(0);
    let mut bytes = vec![0; length];
    let read = tree.reader().read_at(id, 0, &mut bytes)?;
    bytes.truncate(read);
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

impl Tree {
    /// The same tree with the labels of a policy, in place of those that it has. A
    /// file with several names gets the label of the first.
    pub fn labelled(&self, contexts: &FileContexts) -> Tree {
        let mut inodes: Vec<Inode> = self.inodes.clone();
        let mut done = vec![false; inodes.len()];
        let mut sets: HashMap<(usize, Arc<[u8]>), Arc<Xattrs>> = HashMap::new();
        for (id, node) in self.nodes() {
            let InodeId(number) = node.inode;
            let number = number as usize;
            if std::mem::replace(&mut done[number], true) {
                continue;
            }
            let path = match id {
                NodeId::ROOT => "/".into(),
                _ => self.path(id),
            };
            let path = String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned();
            let inode = &mut inodes[number];
            let Some(label) = contexts.label(&path, &inode.kind) else {
                continue;
            };
            let before = inode
                .xattrs
                .as_ref()
                .map_or(0, |set| Arc::as_ptr(set).addr());
            let set = sets.entry((before, Arc::clone(&label))).or_insert_with(|| {
                let mut set = inode.xattrs.as_deref().cloned().unwrap_or_default();
                set.insert(ATTRIBUTE.into(), label.as_ref().into());
                Arc::new(set)
            });
            inode.xattrs = Some(Arc::clone(set));
        }
        Tree {
            index: Arc::clone(&self.index),
            inodes,
            allocated: self.allocated.clone(),
            child_start: self.child_start.clone(),
            children: self.children.clone(),
            source: self.source.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::TreeBuilder;

    const POLICY: &str = "\
# a comment
/.*	system_u:object_r:default_t:s0
/usr(/.*)?	system_u:object_r:usr_t:s0
/usr/(.*/)?bin(/.*)?	system_u:object_r:bin_t:s0
/usr/bin/passwd	--	system_u:object_r:passwd_exec_t:s0
/etc/shadow.*	--	system_u:object_r:shadow_t:s0
/etc/mtab	-l	system_u:object_r:mtab_t:s0
/etc(/.*)?	system_u:object_r:etc_t:s0
/var/log\\.old/.*	system_u:object_r:log_t:s0
/run/[^/]+	-s	system_u:object_r:sock_t:s0
/mnt/[^/]*/.*	<<none>>
/a|/b	system_u:object_r:either_t:s0
/lib64?/x	system_u:object_r:lib_t:s0
broken
";

    fn contexts() -> FileContexts {
        let mut contexts = FileContexts::parse([POLICY, "/home/[^/]+\t-d\tu:r:home_t:s0\n"]);
        contexts.substitute("/opt/rooted /usr\n# nothing\n");
        contexts
    }

    #[test]
    fn the_last_pattern_that_matches_path_and_type_gives_the_label() {
        let contexts = contexts();
        let file = Inode::file(*b"", 0o644).kind;
        for (path, kind, expected) in [
            ("/", &Kind::Directory, "default_t"),
            ("/srv/x", &file, "default_t"),
            ("/usr", &Kind::Directory, "usr_t"),
            ("/usr/share/doc", &Kind::Directory, "usr_t"),
            ("/usr/local/bin/tool", &file, "bin_t"),
            ("/usr/bin/passwd", &file, "passwd_exec_t"),
            ("/usr/bin/passwd", &Kind::Directory, "bin_t"),
            // A later, wider pattern wins over an earlier, narrower one …
            ("/etc/shadow", &file, "etc_t"),
            // … but not over a path without special characters.
            ("/etc/mtab", &Inode::symlink("x").kind, "mtab_t"),
            ("/etc/mtab", &file, "etc_t"),
            ("/var/log.old/a", &file, "log_t"),
            ("/var/logsold/a", &file, "default_t"),
            ("/run/dbus", &Kind::Socket, "sock_t"),
            ("/run/dbus", &Kind::Fifo, "default_t"),
            ("/b", &file, "either_t"),
            ("/lib6/x", &file, "lib_t"),
            ("/home/user", &Kind::Directory, "home_t"),
            ("/opt/rooted/bin/x", &file, "bin_t"),
            ("/opt/rootedx/bin/x", &file, "default_t"),
        ] {
            let label = contexts.label(path, kind).unwrap();
            let label = String::from_utf8(label.to_vec()).unwrap();
            assert!(
                label.contains(&format!(":{expected}:")) && label.ends_with('\0'),
                "{path}: {label}"
            );
        }
        assert_eq!(contexts.label("/mnt/disk/x", &file), None);
    }

    #[test]
    fn a_tree_is_labelled_by_its_own_policy() {
        let mut builder = TreeBuilder::new();
        for (path, text) in [
            (
                "/etc/selinux/config",
                "SELINUX=permissive\n SELINUXTYPE = own\n",
            ),
            ("/etc/selinux/own/contexts/files/file_contexts", POLICY),
            (
                "/etc/selinux/own/contexts/files/file_contexts.local",
                "/srv\tu:r:local_t:s0\n",
            ),
        ] {
            builder
                .insert(path, Inode::file(text.as_bytes(), 0o644))
                .unwrap();
        }
        let old = Inode::directory(0o755)
            .with_xattr("security.selinux", b"old\0")
            .with_xattr("user.kept", b"1");
        builder.insert("/srv", old).unwrap();
        builder
            .insert("/usr/one", Inode::file(*b"", 0o644))
            .unwrap();
        builder.hard_link("/var/two", "/usr/one").unwrap();
        let tree = Arc::new(builder.build().unwrap());
        let contexts = FileContexts::of_tree(&tree).unwrap().unwrap();
        let labelled = tree.labelled(&contexts);
        let attributes = |path: &str| {
            labelled
                .inode_of(labelled.find(path).unwrap())
                .xattrs
                .clone()
                .unwrap()
        };
        let label = |path: &str| String::from_utf8(attributes(path)[ATTRIBUTE].to_vec()).unwrap();
        assert_eq!(label("/srv"), "u:r:local_t:s0\0");
        assert_eq!(&*attributes("/srv")[&b"user.kept"[..]], b"1");
        assert_eq!(label("/var/two"), "system_u:object_r:usr_t:s0\0");
        // Equal sets are one allocation, which keeps large trees small.
        assert!(Arc::ptr_eq(
            &attributes("/etc"),
            &attributes("/etc/selinux")
        ));

        let with = |tree: &Tree, path: &str, text: &str| {
            let mut builder = tree.edit();
            let file = Inode::file(text.as_bytes(), 0o644);
            builder.insert(path, file).unwrap();
            Arc::new(builder.build().unwrap())
        };
        // A pattern that nothing is compared with does no harm.
        let local = "/etc/selinux/own/contexts/files/file_contexts.local";
        let unneeded = with(&tree, local, "/srv/c(\tu:r:no_t:s0\n");
        assert!(Labelling::Auto.apply(unneeded.clone()).is_ok());
        let error = Labelling::Auto.apply(with(&unneeded, "/srv/c", ""));
        assert_eq!(
            error.unwrap_err().to_string(),
            "the pattern `/srv/c(` of the target's SELinux policy cannot be understood"
        );

        let disabled = with(&tree, "/etc/selinux/config", "SELINUX=disabled\n");
        assert!(FileContexts::of_tree(&disabled).unwrap().is_none());
        let none = Arc::new(TreeBuilder::new().build().unwrap());
        assert!(FileContexts::of_tree(&none).unwrap().is_none());
    }
}
