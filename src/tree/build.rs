//! Makes trees in memory and changes scanned ones.

use std::collections::BTreeMap;
use std::collections::HashMap;

use super::arena::Assembler;
use super::{Error, Inode, InodeId, Kind, NodeId, Tree};

/// Makes a tree: from nothing, or from another tree with changes.
///
/// A directory of the base tree is copied only when something in it changes, so
/// adding one file to a large tree is cheap until [`TreeBuilder::build`].
#[derive(Debug)]
pub struct TreeBuilder<'b> {
    base: Option<&'b Tree>,
    entries: Vec<Entry>,
    inodes: Vec<Inode>,
}

/// A name of the new tree.
#[derive(Debug)]
struct Entry {
    inode: EntryInode,
    children: Children,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum EntryInode {
    Base(InodeId),
    New(usize),
}

#[derive(Debug)]
enum Children {
    /// As in the base tree.
    Base(NodeId),
    /// Names and indices into `entries`.
    Own(BTreeMap<Box<[u8]>, usize>),
}

impl Default for TreeBuilder<'static> {
    fn default() -> Self {
        Self::new()
    }
}

impl TreeBuilder<'static> {
    /// An empty tree: a root directory with mode 0755, owned by root.
    pub fn new() -> Self {
        Self {
            base: None,
            entries: vec![Entry {
                inode: EntryInode::New(0),
                children: Children::Own(BTreeMap::new()),
            }],
            inodes: vec![Inode::directory(0o755)],
        }
    }
}

impl<'b> From<&'b Tree> for TreeBuilder<'b> {
    fn from(base: &'b Tree) -> Self {
        let root = Entry {
            inode: EntryInode::Base(base.node(NodeId::ROOT).inode),
            children: Children::Base(NodeId::ROOT),
        };
        Self {
            base: Some(base),
            entries: vec![root],
            inodes: Vec::new(),
        }
    }
}

impl Tree {
    /// A builder that starts with this tree; the new tree shares its files.
    pub fn edit(&self) -> TreeBuilder<'_> {
        TreeBuilder::from(self)
    }
}

const ROOT: usize = 0;

impl<'b> TreeBuilder<'b> {
    /// Puts a file at a path (from the root, with or without a leading slash).
    ///
    /// What was there is replaced; a directory that replaces a directory keeps
    /// the contents. Missing parents are made (0755, root, the time of the file).
    pub fn insert(&mut self, path: impl AsRef<[u8]>, inode: Inode) -> Result<&mut Self, Error> {
        let path = path.as_ref();
        if let Kind::Symlink(target) = &inode.kind
            && (target.is_empty() || target.len() > 4095 || target.contains(&0))
        {
            return Err(bad(
                path,
                "a symbolic link's target has 1 to 4095 bytes, none of them zero",
            ));
        }
        let mut parts = split(path)?;
        let is_directory = inode.is_directory();
        let Some(name) = parts.pop() else {
            if !is_directory {
                return Err(bad(path, "the root must be a directory"));
            }
            self.entries[ROOT].inode = self.add_inode(inode);
            return Ok(self);
        };
        let mut at = ROOT;
        let mut walked = Vec::new();
        for part in parts {
            walked.push(part);
            at = match self.child(at, part) {
                Some(child) if self.inode(child).is_directory() => child,
                Some(_) => {
                    return Err(Error::NotADirectory {
                        path: super::display_path(&walked.join(&b'/')),
                    });
                }
                None => {
                    let mut directory = Inode::directory(0o755);
                    directory.mtime = inode.mtime;
                    self.add_entry(at, part, directory)
                }
            };
        }
        match self.child(at, name) {
            Some(child) if is_directory && self.inode(child).is_directory() => {
                self.entries[child].inode = self.add_inode(inode);
            }
            _ => {
                self.add_entry(at, name, inode);
            }
        }
        Ok(self)
    }

    /// Gives a file a second name.
    pub fn hard_link(
        &mut self,
        path: impl AsRef<[u8]>,
        to: impl AsRef<[u8]>,
    ) -> Result<&mut Self, Error> {
        let (path, to) = (path.as_ref(), to.as_ref());
        let target = self.lookup(to)?.ok_or_else(|| Error::Missing {
            path: super::display_path(to),
        })?;
        if self.inode(target).is_directory() {
            return Err(Error::DirectoryLink {
                path: super::display_path(to),
            });
        }
        let inode = self.entries[target].inode;
        // A fifo stands in until the new name refers to the same inode.
        self.insert(path, Inode::new(Kind::Fifo, 0))?;
        if let Some(new) = self.lookup(path)? {
            self.entries[new].inode = inode;
        }
        Ok(self)
    }

    /// That what is no directory may be put at this path.
    ///
    /// # Errors
    /// A directory is there that has files.
    pub(super) fn check_replaceable(&mut self, path: &[u8]) -> Result<(), Error> {
        match self.lookup(path)? {
            Some(at) if !self.own_children(at).is_empty() => Err(Error::NotEmpty {
                path: super::display_path(path),
            }),
            _ => Ok(()),
        }
    }

    /// That there is something at this path.
    ///
    /// # Errors
    /// There is nothing.
    pub(super) fn check_present(&mut self, path: &[u8]) -> Result<(), Error> {
        self.lookup(path)?.map(drop).ok_or_else(|| Error::Missing {
            path: super::display_path(path),
        })
    }

    /// Removes a file, or a directory with all that is in it. Returns whether
    /// there was something.
    pub fn remove(&mut self, path: impl AsRef<[u8]>) -> Result<bool, Error> {
        let path = path.as_ref();
        let mut parts = split(path)?;
        let Some(name) = parts.pop() else {
            return Err(bad(path, "the root cannot be removed"));
        };
        let mut at = ROOT;
        for part in parts {
            match self.child(at, part) {
                Some(child) => at = child,
                None => return Ok(false),
            }
        }
        Ok(self.own_children(at).remove(name).is_some())
    }

    /// The finished tree.
    pub fn build(self) -> Result<Tree, Error> {
        let (nodes, inodes) = self
            .base
            .map_or((0, 0), |base| (base.index.nodes.len(), base.inodes.len()));
        let mut assembler =
            Assembler::with_capacity(nodes + self.entries.len(), inodes + self.inodes.len());
        let mut new_ids: HashMap<usize, InodeId> = HashMap::new();
        let mut base_ids: Vec<Option<InodeId>> = vec![None; inodes];
        // Names still to be added, last first.
        enum Next<'a> {
            Entry(usize, &'a [u8]),
            Base(NodeId),
        }
        let mut stack = vec![(Next::Entry(ROOT, b""), NodeId::ROOT)];
        while let Some((next, parent)) = stack.pop() {
            let (name, inode, base_children) = match (&next, self.base) {
                (Next::Entry(at, name), _) => {
                    let entry = &self.entries[*at];
                    let below = match entry.children {
                        Children::Base(node) => Some(node),
                        Children::Own(_) => None,
                    };
                    (*name, entry.inode, below)
                }
                (Next::Base(node), Some(base)) => (
                    base.name(*node),
                    EntryInode::Base(base.node(*node).inode),
                    Some(*node),
                ),
                (Next::Base(_), None) => continue,
            };
            let id = match (inode, self.base) {
                (EntryInode::New(new), _) => match new_ids.get(&new) {
                    Some(&id) => id,
                    None => {
                        let inode = &self.inodes[new];
                        let id = assembler.inode(inode.clone(), estimate(inode))?;
                        new_ids.insert(new, id);
                        id
                    }
                },
                (EntryInode::Base(old), Some(base)) => match base_ids[old.index()] {
                    Some(id) => id,
                    None => {
                        let id = assembler
                            .inode(base.inode(old).clone(), base.allocated[old.index()])?;
                        base_ids[old.index()] = Some(id);
                        id
                    }
                },
                (EntryInode::Base(_), None) => continue,
            };
            let new = assembler.name(parent, name, id)?;
            if let (Some(node), Some(base)) = (base_children, self.base) {
                stack.extend(
                    base.children(node)
                        .iter()
                        .rev()
                        .map(|&child| (Next::Base(child), new)),
                );
            } else if let Next::Entry(at, _) = next
                && let Children::Own(children) = &self.entries[at].children
            {
                stack.extend(
                    children
                        .iter()
                        .rev()
                        .map(|(name, &child)| (Next::Entry(child, name), new)),
                );
            }
        }
        Ok(assembler.finish(self.base.and_then(|base| base.source.clone())))
    }

    fn inode(&self, at: usize) -> &Inode {
        match (self.entries[at].inode, self.base) {
            (EntryInode::Base(id), Some(base)) => base.inode(id),
            (EntryInode::Base(id), None) => {
                unreachable!("inode {id:?} of a base tree without a base tree")
            }
            (EntryInode::New(new), _) => &self.inodes[new],
        }
    }

    fn add_inode(&mut self, inode: Inode) -> EntryInode {
        self.inodes.push(inode);
        EntryInode::New(self.inodes.len() - 1)
    }

    fn add_entry(&mut self, parent: usize, name: &[u8], inode: Inode) -> usize {
        let inode = self.add_inode(inode);
        let at = self.entries.len();
        self.entries.push(Entry {
            inode,
            children: Children::Own(BTreeMap::new()),
        });
        self.own_children(parent).insert(name.into(), at);
        at
    }

    fn lookup(&mut self, path: &[u8]) -> Result<Option<usize>, Error> {
        let mut at = ROOT;
        for part in split(path)? {
            match self.child(at, part) {
                Some(child) => at = child,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    fn child(&mut self, parent: usize, name: &[u8]) -> Option<usize> {
        if let (Children::Base(node), Some(base)) = (&self.entries[parent].children, self.base) {
            base.child(*node, name)?;
        }
        self.own_children(parent).get(name).copied()
    }

    /// The children of an entry, copied from the base tree first if need be.
    fn own_children(&mut self, at: usize) -> &mut BTreeMap<Box<[u8]>, usize> {
        if let (&Children::Base(node), Some(base)) = (&self.entries[at].children, self.base) {
            let mut own = BTreeMap::new();
            for &child in base.children(node) {
                own.insert(base.name(child).into(), self.entries.len());
                self.entries.push(Entry {
                    inode: EntryInode::Base(base.node(child).inode),
                    children: Children::Base(child),
                });
            }
            self.entries[at].children = Children::Own(own);
        }
        match &mut self.entries[at].children {
            Children::Own(own) => own,
            Children::Base(node) => {
                unreachable!("node {node:?} of a base tree without a base tree")
            }
        }
    }
}

/// Bytes that a file of kiln's own will take: whole blocks of 4 KiB.
fn estimate(inode: &Inode) -> u64 {
    match &inode.kind {
        Kind::Directory => 4096,
        Kind::File(content) => content
            .ranges()
            .fold(0u64, |sum, range| sum.saturating_add(range.length))
            .checked_next_multiple_of(4096)
            .unwrap_or(u64::MAX),
        _ => 0,
    }
}

fn bad(path: &[u8], reason: &'static str) -> Error {
    Error::BadPath {
        path: super::display_path(path),
        reason,
    }
}

/// The components of a path.
fn split(path: &[u8]) -> Result<Vec<&[u8]>, Error> {
    let parts: Vec<&[u8]> = path
        .split(|&byte| byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .collect();
    for part in &parts {
        if *part == b".." {
            return Err(bad(path, "`..` is not resolved here"));
        }
        if part.len() > 255 {
            return Err(bad(path, "a name is longer than 255 bytes"));
        }
        if part.contains(&0) {
            return Err(bad(path, "a name contains a zero byte"));
        }
    }
    Ok(parts)
}
