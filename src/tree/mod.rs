//! The immutable tree of files that every image is made from.
//!
//! A [`Tree`] is an arena of [`Node`]s in path order (parents before their
//! children, siblings by the bytes of their names) that refer to [`Inode`]s.
//! Hard links are nodes with the same inode, so they cost nothing and cannot
//! disagree. File data stays where it is: a [`Content`] says how long it is and
//! which ranges hold data; a [`Reader`] gives the bytes.
//!
//! Owners, modes, device numbers and extended attributes are always those that
//! the *image* must have, however the sandbox mapped ids while it was made.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

pub(crate) mod acl;
pub(crate) mod ahead;
mod arena;
pub mod build;
mod dump;
mod error;
pub mod live;
mod reader;
mod selinux;
mod split;
pub mod tar;
#[cfg(test)]
mod tests;
pub(crate) mod users;

pub use build::TreeBuilder;
pub use error::Error;
pub use live::{Owners, ScanOptions, scan};
pub use reader::{Packed, Reader};
pub(crate) use selinux::ATTRIBUTE as LABEL;
pub use selinux::{FileContexts, LabelError, Labelling};

/// Index of a [`Node`]; the root is [`NodeId::ROOT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

impl NodeId {
    /// The root directory.
    pub const ROOT: NodeId = NodeId(0);
    /// As an index into an array with one entry per node.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Index of an [`Inode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeId(pub u32);

impl InodeId {
    /// As an index into an array with one entry per inode.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// The directory that holds it; the root is its own parent.
    pub parent: NodeId,
    /// The inode that the name stands for.
    pub inode: InodeId,
    /// Start of the name in the tree's name arena.
    name_start: u32,
    /// Length of the name in bytes, 0 for the root, at most 255.
    name_len: u8,
}

/// A point in time: seconds since the epoch (negative before 1970) and
/// nanoseconds (0 to 999,999,999).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanoseconds: u32,
}

/// Extended attributes by full name (`user.x`, `security.capability`, …).
pub type Xattrs = BTreeMap<Box<[u8]>, Box<[u8]>>;

/// Metadata and kind of a file; shared by all its hard links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, with set-user-id, set-group-id and sticky (07777).
    pub mode: u16,
    /// Owner in the image.
    pub uid: u32,
    /// Group in the image.
    pub gid: u32,
    /// Time of last modification.
    pub mtime: Timestamp,
    /// Extended attributes; equal sets share one allocation.
    pub xattrs: Option<Arc<Xattrs>>,
    /// Names that refer to it in this tree (1 for directories).
    pub links: u32,
}

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory; its entries are [`Tree::children`].
    Directory,
    /// A regular file.
    File(Content),
    /// A symbolic link with this target (never empty, at most 4095 bytes).
    Symlink(Box<[u8]>),
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// A device number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Device {
    /// Major number, 12 bits.
    pub major: u32,
    /// Minor number, 20 bits.
    pub minor: u32,
}

/// The bytes of a regular file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Length in bytes.
    pub size: u64,
    /// Where the bytes come from.
    pub origin: Origin,
    /// Ranges that hold data, sorted and not touching; `None` means all of it.
    /// What lies between them is a hole and reads as zeros.
    pub data: Option<Box<[DataRange]>>,
}

/// A range of a file that holds data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataRange {
    /// First byte.
    pub offset: u64,
    /// Length in bytes, at least 1.
    pub length: u64,
}

/// Where a file's bytes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Memory: a file that kiln itself adds.
    Bytes(Arc<[u8]>),
    /// The directory that was scanned, under the name that this node had in the
    /// tree *as scanned* (edited and split trees number their nodes anew).
    Live(NodeId),
    /// An open file that holds the file's data ranges one after the other, such
    /// as an archive.
    Packed {
        /// The open file.
        file: Arc<Packed>,
        /// Where in it the first data range begins.
        offset: u64,
    },
}

impl Inode {
    /// A file of this kind and these permission bits, owned by root, dated 1970,
    /// without extended attributes.
    pub fn new(kind: Kind, mode: u16) -> Self {
        Self {
            kind,
            mode: mode & 0o7777,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: None,
            links: 1,
        }
    }

    /// A directory owned by root.
    pub fn directory(mode: u16) -> Self {
        Self::new(Kind::Directory, mode)
    }

    /// A regular file owned by root with these bytes.
    pub fn file(bytes: impl Into<Arc<[u8]>>, mode: u16) -> Self {
        Self::new(Kind::File(Content::bytes(bytes)), mode)
    }

    /// A symbolic link owned by root.
    pub fn symlink(target: impl AsRef<[u8]>) -> Self {
        Self::new(Kind::Symlink(target.as_ref().into()), 0o777)
    }

    /// The same with another owner and group.
    #[must_use]
    pub fn owned_by(mut self, uid: u32, gid: u32) -> Self {
        self.uid = uid;
        self.gid = gid;
        self
    }

    /// The same with another time of modification.
    #[must_use]
    pub fn modified(mut self, mtime: Timestamp) -> Self {
        self.mtime = mtime;
        self
    }

    /// The same with one more extended attribute (full name, raw value).
    #[must_use]
    pub fn with_xattr(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        let set = self.xattrs.get_or_insert_default();
        Arc::make_mut(set).insert(name.as_ref().into(), value.as_ref().into());
        self
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == Kind::Directory
    }
}

impl Content {
    /// A file that is in memory.
    pub fn bytes(bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        Self {
            size: bytes.len() as u64,
            origin: Origin::Bytes(bytes),
            data: None,
        }
    }

    /// The ranges that hold data: all of the file unless some are listed.
    pub fn ranges(&self) -> impl Iterator<Item = DataRange> + '_ {
        let whole = match self.data {
            None if self.size > 0 => Some(DataRange {
                offset: 0,
                length: self.size,
            }),
            _ => None,
        };
        whole
            .into_iter()
            .chain(self.data.iter().flat_map(|ranges| ranges.iter().copied()))
    }
}

/// All names of a tree. A scanned directory keeps those that it was scanned
/// with, so that trees made from the scanned one can still find their files.
#[derive(Debug)]
struct Index {
    nodes: Vec<Node>,
    names: Vec<u8>,
}

impl Index {
    fn name(&self, id: NodeId) -> &[u8] {
        let node = &self.nodes[id.index()];
        let start = node.name_start as usize;
        &self.names[start..start + usize::from(node.name_len)]
    }

    /// The path without a leading slash; empty for the root.
    fn path(&self, id: NodeId) -> Vec<u8> {
        let mut parts = Vec::new();
        let mut at = id;
        while at != NodeId::ROOT {
            parts.push(self.name(at));
            at = self.nodes[at.index()].parent;
        }
        parts.reverse();
        parts.join(&b'/')
    }
}

/// Bytes of a path for a message.
fn display_path(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    PathBuf::from(std::ffi::OsString::from_vec(bytes.to_vec()))
}

/// An immutable tree of files. See the module documentation.
#[derive(Debug)]
pub struct Tree {
    index: Arc<Index>,
    inodes: Vec<Inode>,
    /// Bytes that each inode takes where it was scanned, as `st_blocks` says.
    allocated: Vec<u64>,
    /// Children of node `n` are `child_index[n.0]..child_index[n.0 + 1]` in `children`.
    child_start: Vec<u32>,
    children: Vec<NodeId>,
    source: Option<Arc<live::Source>>,
}

impl Tree {
    /// All names, in path order; the root is first.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = (NodeId, &Node)> {
        self.index
            .nodes
            .iter()
            .enumerate()
            .map(|(at, node)| (NodeId(at as u32), node))
    }

    /// A name.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.index.nodes[id.index()]
    }

    /// All inodes, in the order in which their first names appear.
    pub fn inodes(&self) -> impl ExactSizeIterator<Item = (InodeId, &Inode)> {
        self.inodes
            .iter()
            .enumerate()
            .map(|(at, inode)| (InodeId(at as u32), inode))
    }

    /// An inode.
    pub fn inode(&self, id: InodeId) -> &Inode {
        &self.inodes[id.index()]
    }

    /// The inode that a name stands for.
    pub fn inode_of(&self, id: NodeId) -> &Inode {
        self.inode(self.node(id).inode)
    }

    /// The last component of a path; empty for the root.
    pub fn name(&self, id: NodeId) -> &[u8] {
        self.index.name(id)
    }

    /// The entries of a directory, sorted by the bytes of their names.
    pub fn children(&self, id: NodeId) -> &[NodeId] {
        let start = self.child_start[id.index()] as usize;
        let end = self.child_start[id.index() + 1] as usize;
        &self.children[start..end]
    }

    /// The entry `name` of a directory.
    pub fn child(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        let entries = self.children(directory);
        entries
            .binary_search_by(|&id| self.name(id).cmp(name))
            .ok()
            .map(|at| entries[at])
    }

    /// The name at an absolute or relative path, never following links.
    pub fn find(&self, path: impl AsRef<[u8]>) -> Option<NodeId> {
        path.as_ref()
            .split(|&b| b == b'/')
            .filter(|part| !part.is_empty() && *part != b".")
            .try_fold(NodeId::ROOT, |at, part| self.child(at, part))
    }

    /// The absolute path of a name, in bytes (`/` for the root).
    pub fn path(&self, id: NodeId) -> PathBuf {
        let mut bytes = vec![b'/'];
        bytes.extend_from_slice(&self.index.path(id));
        display_path(&bytes)
    }

    /// The first name of an inode; slow, for messages.
    pub fn path_of_inode(&self, inode: InodeId) -> PathBuf {
        match self.nodes().find(|(_, node)| node.inode == inode) {
            Some((id, _)) => self.path(id),
            None => PathBuf::new(),
        }
    }

    /// The same tree with other owners, modes, times and attributes: `change` sees
    /// each inode once. Kinds and link counts stay as they are.
    #[must_use]
    pub fn map_inodes(mut self, mut change: impl FnMut(InodeId, &mut Inode)) -> Tree {
        for (at, inode) in self.inodes.iter_mut().enumerate() {
            change(InodeId(at as u32), inode);
        }
        self
    }

    /// Where a file of a scanned directory is now, by its path when it was scanned;
    /// `None` if its bytes are elsewhere.
    pub fn scanned_path(&self, inode: InodeId) -> Option<PathBuf> {
        match (&self.inode(inode).kind, &self.source) {
            (
                Kind::File(Content {
                    origin: Origin::Live(node),
                    ..
                }),
                Some(source),
            ) => Some(source.path(*node)),
            _ => None,
        }
    }

    /// Bytes that an inode takes where it was scanned, as `st_blocks` says; whole
    /// blocks of 4096 bytes for files that kiln added.
    pub fn allocated(&self, inode: InodeId) -> u64 {
        self.allocated[inode.index()]
    }
}
