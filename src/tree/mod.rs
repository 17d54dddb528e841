//! The immutable tree of files that every image is made from.
//!
//! A [`Tree`] is an arena of [`Node`]s in path order (parents before their
//! children, siblings by the bytes of their names) that refer to [`Inode`]s.
//! Hard links are nodes with the same inode, so they cost nothing and cannot
//! disagree. File data stays where it is: a [`Content`] says how long it is and
//! which ranges hold data; [`Tree::open`] gives the file.
//!
//! Owners, modes, device numbers and extended attributes are always those that
//! the *image* must have, however the sandbox mapped ids while it was made.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

pub mod live;

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
    /// The directory that was scanned, under the name of this node.
    Live(NodeId),
}

/// An immutable tree of files. See the module documentation.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
    names: Vec<u8>,
    inodes: Vec<Inode>,
    /// Children of node `n` are `child_index[n.0]..child_index[n.0 + 1]` in `children`.
    child_start: Vec<u32>,
    children: Vec<NodeId>,
    source: Option<Arc<live::Source>>,
}

impl Tree {
    /// All names, in path order; the root is first.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = (NodeId, &Node)> {
        self.nodes
            .iter()
            .enumerate()
            .map(|(at, node)| (NodeId(at as u32), node))
    }

    /// A name.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
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
        let node = self.node(id);
        let start = node.name_start as usize;
        &self.names[start..start + usize::from(node.name_len)]
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
        use std::os::unix::ffi::OsStringExt as _;
        let mut parts = Vec::new();
        let mut at = id;
        while at != NodeId::ROOT {
            parts.push(self.name(at));
            at = self.node(at).parent;
        }
        let mut bytes = vec![b'/'];
        for (position, part) in parts.iter().rev().enumerate() {
            if position > 0 {
                bytes.push(b'/');
            }
            bytes.extend_from_slice(part);
        }
        PathBuf::from(std::ffi::OsString::from_vec(bytes))
    }
}
