//! Puts what the threads found into path order.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use super::walk::{Batch, Entry};
use super::{FileKey, Source};
use crate::tree::arena::Assembler;
use crate::tree::{Error, InodeId, Kind, NodeId, Origin, Tree, Xattrs};

/// Makes the tree.
pub(super) fn merge(
    root: Entry,
    batches: Vec<Batch>,
    descriptor: OwnedFd,
    path: PathBuf,
) -> Result<Tree, Error> {
    let count = batches
        .iter()
        .fold(1usize, |sum, batch| sum + batch.entries.len());
    let mut assembler = Assembler::with_capacity(count, count);
    let mut interner = Interner::default();
    let mut links: HashMap<FileKey, InodeId> = HashMap::new();
    let mut waiting: HashMap<u32, Vec<Batch>> = HashMap::new();
    for batch in batches {
        waiting.entry(batch.directory).or_default().push(batch);
    }
    let mut add = |assembler: &mut Assembler, parent, name: &[u8], entry: Entry| {
        if let Some(&inode) = entry.link.as_ref().and_then(|key| links.get(key)) {
            return assembler.name(parent, name, inode);
        }
        let mut inode = entry.inode;
        if let Kind::File(content) = &mut inode.kind
            && let Origin::Live(node) = &mut content.origin
        {
            *node = assembler.next()?;
        }
        inode.xattrs = inode.xattrs.map(|set| interner.share(set));
        let id = assembler.inode(inode, entry.allocated)?;
        if let Some(key) = entry.link {
            links.insert(key, id);
        }
        assembler.name(parent, name, id)
    };
    let top = add(&mut assembler, NodeId::ROOT, b"", root)?;
    // Directories that are being walked, innermost last.
    let mut stack = vec![Walk::new(top, waiting.remove(&0))];
    while let Some(walk) = stack.last_mut() {
        let parent = walk.node;
        let Some(cursor) = walk.batches.last_mut() else {
            stack.pop();
            continue;
        };
        let Some(entry) = cursor.entries.next() else {
            walk.batches.pop();
            continue;
        };
        let end = entry.name_end as usize;
        let name = cursor.names.get(cursor.at..end).unwrap_or_default();
        let directory = entry.directory;
        let node = add(&mut assembler, parent, name, entry)?;
        cursor.at = end;
        if let Some(number) = directory {
            stack.push(Walk::new(node, waiting.remove(&number)));
        }
    }
    let tree = assembler.finish(None);
    let source = Source {
        root: descriptor,
        path,
        index: Arc::clone(&tree.index),
    };
    Ok(Tree {
        source: Some(Arc::new(source)),
        ..tree
    })
}

/// A directory whose names are being added.
struct Walk {
    node: NodeId,
    /// Last part first.
    batches: Vec<Cursor>,
}

struct Cursor {
    names: Vec<u8>,
    at: usize,
    entries: std::vec::IntoIter<Entry>,
}

impl Walk {
    fn new(node: NodeId, batches: Option<Vec<Batch>>) -> Self {
        let mut batches = batches.unwrap_or_default();
        batches.sort_unstable_by_key(|batch| std::cmp::Reverse(batch.ordinal));
        let batches = batches
            .into_iter()
            .map(|batch| Cursor {
                names: batch.names,
                at: 0,
                entries: batch.entries.into_iter(),
            })
            .collect();
        Self { node, batches }
    }
}

/// Gives equal attribute sets one allocation.
#[derive(Default)]
struct Interner {
    sets: HashSet<Arc<Xattrs>>,
}

impl Interner {
    fn share(&mut self, set: Arc<Xattrs>) -> Arc<Xattrs> {
        if let Some(known) = self.sets.get(&set) {
            return Arc::clone(known);
        }
        self.sets.insert(Arc::clone(&set));
        set
    }
}
