//! Puts a tree together, name by name in path order.

use std::sync::Arc;

use super::{Error, Index, Inode, InodeId, Kind, Node, NodeId, Tree, live};

/// A tree in the making. Names are pushed in path order.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    nodes: Vec<Node>,
    names: Vec<u8>,
    inodes: Vec<Inode>,
    allocated: Vec<u64>,
}

impl Assembler {
    /// With room for as many names and inodes.
    pub(super) fn with_capacity(nodes: usize, inodes: usize) -> Self {
        Self {
            nodes: Vec::with_capacity(nodes),
            names: Vec::with_capacity(nodes.saturating_mul(12)),
            inodes: Vec::with_capacity(inodes),
            allocated: Vec::with_capacity(inodes),
        }
    }

    /// Adds an inode that has no name yet. `allocated` is in bytes.
    pub(super) fn inode(&mut self, mut inode: Inode, allocated: u64) -> Result<InodeId, Error> {
        let id = InodeId(u32::try_from(self.inodes.len()).map_err(|_| Error::TooLarge)?);
        inode.links = 0;
        self.inodes.push(inode);
        self.allocated.push(allocated);
        Ok(id)
    }

    /// The id that the next name will get.
    pub(super) fn next(&self) -> Result<NodeId, Error> {
        // The last id is kept free so that `id + 1` always exists.
        match u32::try_from(self.nodes.len()) {
            Ok(id) if id < u32::MAX => Ok(NodeId(id)),
            _ => Err(Error::TooLarge),
        }
    }

    /// Adds a name; `name` has at most 255 bytes.
    pub(super) fn name(
        &mut self,
        parent: NodeId,
        name: &[u8],
        inode: InodeId,
    ) -> Result<NodeId, Error> {
        let id = self.next()?;
        let name_start = u32::try_from(self.names.len()).map_err(|_| Error::TooLarge)?;
        let name_len = u8::try_from(name.len()).map_err(|_| Error::BadPath {
            path: super::display_path(name),
            reason: "a name is longer than 255 bytes",
        })?;
        self.names.extend_from_slice(name);
        self.nodes.push(Node {
            parent,
            inode,
            name_start,
            name_len,
        });
        let links = &mut self.inodes[inode.index()].links;
        *links = links.checked_add(1).ok_or(Error::TooLarge)?;
        Ok(id)
    }

    /// The finished tree.
    pub(super) fn finish(mut self, source: Option<Arc<live::Source>>) -> Tree {
        self.nodes.shrink_to_fit();
        self.names.shrink_to_fit();
        self.inodes.shrink_to_fit();
        let index = Arc::new(Index {
            nodes: self.nodes,
            names: self.names,
        });
        let (child_start, children) = children(&index.nodes);
        debug_assert!(
            self.inodes
                .iter()
                .all(|inode| inode.links == 1 || inode.kind != Kind::Directory)
        );
        Tree {
            index,
            inodes: self.inodes,
            allocated: self.allocated,
            child_start,
            children,
            source,
        }
    }
}

/// Children of each node: a counting sort by parent, which keeps path order.
fn children(nodes: &[Node]) -> (Vec<u32>, Vec<NodeId>) {
    let mut start = vec![0u32; nodes.len() + 1];
    for node in nodes.iter().skip(1) {
        start[node.parent.index() + 1] += 1;
    }
    for at in 1..start.len() {
        start[at] += start[at - 1];
    }
    let mut next = start.clone();
    let mut children = vec![NodeId::ROOT; nodes.len().saturating_sub(1)];
    for (at, node) in nodes.iter().enumerate().skip(1) {
        let slot = &mut next[node.parent.index()];
        // Ids fit 32 bits: `Assembler::next` gave them out.
        children[*slot as usize] = NodeId(at as u32);
        *slot += 1;
    }
    (start, children)
}
