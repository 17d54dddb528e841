//! One tree for each filesystem of an image.

use std::sync::Arc;

use super::arena::Assembler;
use super::{Error, Inode, InodeId, NodeId, Tree};

impl Tree {
    /// Divides the tree at these mount points: the result has one tree for each,
    /// in the same order, and the tree above a mount point keeps it as an empty
    /// directory.
    ///
    /// Mount points are absolute paths; one that is not there is made (0755,
    /// root). Names of one file in different filesystems become files of their
    /// own. Give `/` if the root is wanted: it is this very tree where nothing is
    /// below the other mount points. Whoever needs no more than the parts gives the
    /// tree away, so that there are never three of them in memory.
    ///
    /// # Errors
    ///
    /// If a mount point is not a directory or not a usable path.
    pub fn split(self: Arc<Self>, mount_points: &[&[u8]]) -> Result<Vec<Arc<Tree>>, Error> {
        let mut builder = self.edit();
        let mut edited = false;
        for path in mount_points {
            match self.find(path) {
                Some(id) if self.inode_of(id).is_directory() => {}
                Some(_) => {
                    return Err(Error::NotADirectory {
                        path: super::display_path(path),
                    });
                }
                None => {
                    let mut directory = Inode::directory(0o755);
                    directory.mtime = self.inode_of(NodeId::ROOT).mtime;
                    builder.insert(path, directory)?;
                    edited = true;
                }
            }
        }
        if edited {
            let edited = builder.build()?;
            drop(self);
            return Arc::new(edited).split(mount_points);
        }
        let mut roots = Vec::with_capacity(mount_points.len());
        for path in mount_points {
            roots.push(self.find(path).ok_or_else(|| Error::Missing {
                path: super::display_path(path),
            })?);
        }
        let mut others = roots.iter().filter(|&&root| root != NodeId::ROOT);
        let is_undivided = others.all(|&root| self.children(root).is_empty());
        roots
            .iter()
            .map(|&root| {
                if root == NodeId::ROOT && is_undivided {
                    return Ok(Arc::clone(&self));
                }
                self.subtree(root, &roots).map(Arc::new)
            })
            .collect()
    }

    /// The tree below `root`, without what is below the other `roots`.
    fn subtree(&self, root: NodeId, roots: &[NodeId]) -> Result<Tree, Error> {
        let mut assembler = Assembler::default();
        let mut inodes: Vec<Option<InodeId>> = vec![None; self.inodes.len()];
        // Names still to be added with their parents in the new tree, last first.
        let mut stack = vec![(root, NodeId::ROOT)];
        while let Some((old, parent)) = stack.pop() {
            let old_inode = self.node(old).inode;
            let inode = match inodes[old_inode.index()] {
                Some(inode) => inode,
                None => {
                    let id = assembler.inode(
                        self.inode(old_inode).clone(),
                        self.allocated[old_inode.index()],
                    )?;
                    inodes[old_inode.index()] = Some(id);
                    id
                }
            };
            let name: &[u8] = if old == root { b"" } else { self.name(old) };
            let new = assembler.name(parent, name, inode)?;
            if old == root || !roots.contains(&old) {
                stack.extend(self.children(old).iter().rev().map(|&child| (child, new)));
            }
        }
        Ok(assembler.finish(self.source.clone()))
    }
}
