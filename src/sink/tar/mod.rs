//! Tar archives in pax format, as extracting tools of every kind read them.
//!
//! Members are in path order with the prefix `./`, owners are numbers without
//! names, extended attributes (ACLs and capabilities too) are
//! `SCHILY.xattr.*` records, ACLs are `SCHILY.acl.*` records with numbers for
//! names as well (tar keeps them under `--acls` alone then), and files with large holes are in GNU's sparse
//! format 1.0. What is in `/proc` and `/sys` is left out; unlike in
//! diskimage-builder's archives, the two directories themselves are there,
//! because a root without mount points for them does not boot.
//!
//! Specifications: POSIX.1-2017 `pax`, and “Sparse Formats” and “Extended
//! Attributes” of GNU tar's manual.

use std::sync::Arc;

mod member;
mod stream;

use super::checksum::{Checksums, Digests};
use super::error::Error;
use super::output::Output;
use crate::tree::{self, Content, DataRange, Inode, InodeId, Kind, NodeId, Tree};
use member::Member;
use stream::Stream;

/// Length of a header and unit of everything else.
const BLOCK: u64 = 512;
/// Archives end with two empty blocks and are padded to this, as tar does.
const RECORD: u64 = 20 * BLOCK;
/// Largest number of eleven octal digits.
const OCTAL_11: u64 = 0o777_7777_7777;
/// Holes of a file that are worth a sparse member, in bytes.
const MIN_HOLES: u64 = 64 << 10;
/// Directories whose contents exist only while a system runs.
const EMPTIED: [&[u8]; 2] = [b"proc", b"sys"];
/// The same for containers, whose runtime fills `/dev` as well.
const EMPTIED_IN_CONTAINERS: [&[u8]; 3] = [b"proc", b"sys", b"dev"];

/// How an archive is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As it is.
    Plain,
    /// Compressed, with no name and no time in its header.
    Gzip,
}

/// What was written besides the file itself.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Digests, computed as the bytes passed.
    pub digests: Digests,
    /// What the archive does not hold as the tree does.
    pub warnings: Vec<String>,
}

/// Bytes of file data and headers, for messages and progress; never too few.
pub(crate) fn estimate(tree: &Tree) -> u64 {
    let headers = tree.nodes().len() as u64 * 4 * BLOCK;
    tree.inodes()
        .fold(headers + 2 * RECORD, |sum, (_, inode)| match &inode.kind {
            Kind::File(content) => sum.saturating_add(content.size),
            _ => sum,
        })
}

/// Writes the tree to the output. `progress` gets bytes so far.
pub(crate) fn write(
    tree: &Arc<Tree>,
    output: &Output,
    form: Form,
    checksums: Checksums,
    progress: &mut dyn FnMut(u64),
) -> Result<Report, Error> {
    let stream = Stream::new(output, form, checksums, 0);
    let mut archive = Archive::new(tree, stream);
    archive.tree(b".", &EMPTIED, progress)?;
    archive.finish()
}

/// Writes the tree of a container below `prefix`, at byte `at` of the output,
/// after a file that is not of the tree. Also returns the archive's length.
pub(crate) fn write_container(
    tree: &Arc<Tree>,
    output: &Output,
    at: u64,
    prefix: &[u8],
    before: Option<(&[u8], &[u8])>,
    checksums: Checksums,
    progress: &mut dyn FnMut(u64),
) -> Result<(Report, u64), Error> {
    let stream = Stream::new(output, Form::Plain, checksums, at);
    let mut archive = Archive::new(tree, stream);
    if let Some((name, bytes)) = before {
        archive
            .stream
            .write(&file_header(name, bytes.len() as u64))?;
        archive.stream.write(bytes)?;
        archive.stream.pad()?;
    }
    archive.tree(prefix, &EMPTIED_IN_CONTAINERS, progress)?;
    let length = archive.padded_length();
    Ok((archive.finish()?, length))
}

/// The header of a file of root's with mode 0644 and no time; 512 bytes, or 1536
/// where the length needs a record of its own.
pub(crate) fn file_header(name: &[u8], size: u64) -> Vec<u8> {
    file_header_sized(name, size, false)
}

/// The same for a file whose header has the record if `recorded`, needed or not.
pub(crate) fn file_header_sized(name: &[u8], size: u64, recorded: bool) -> Vec<u8> {
    let mut member = Member::new(&Inode::file(&b""[..], 0o644));
    member.path(name);
    member.kind(b'0');
    if recorded && size <= OCTAL_11 {
        member.record("size", size.to_string().as_bytes());
    }
    member.render(name, size)
}

/// The header of a directory of root's with mode 0755 and no time; 512 bytes.
pub(crate) fn directory_header(name: &[u8]) -> Vec<u8> {
    let mut member = Member::new(&Inode::directory(0o755));
    member.path(name);
    member.kind(b'5');
    member.render(name, 0)
}

/// Whether `id` is somewhere below `directory`.
fn is_below(tree: &Tree, id: NodeId, directory: NodeId) -> bool {
    let mut at = id;
    while at != NodeId::ROOT {
        at = tree.node(at).parent;
        if at == directory {
            return true;
        }
    }
    false
}

/// Builds paths of nodes that come in path order without walking up each time.
struct Paths<'a> {
    tree: &'a Tree,
    /// What the root is called.
    prefix: &'a [u8],
    /// Directories down to the current one, with their paths.
    parents: Vec<(NodeId, Vec<u8>)>,
}

impl Paths<'_> {
    /// `./a/b`; directories end with a slash.
    fn path(&mut self, id: NodeId) -> Vec<u8> {
        let mut path = if id == NodeId::ROOT {
            self.prefix.to_vec()
        } else {
            let parent = self.tree.node(id).parent;
            while self.parents.last().is_some_and(|(node, _)| *node != parent) {
                self.parents.pop();
            }
            let mut path = self
                .parents
                .last()
                .map_or_else(Vec::new, |(_, path)| path.clone());
            path.extend_from_slice(self.tree.name(id));
            path
        };
        if self.tree.inode_of(id).is_directory() {
            path.push(b'/');
            self.parents.push((id, path.clone()));
        }
        path
    }
}

/// An archive in work.
struct Archive<'a> {
    tree: &'a Arc<Tree>,
    reader: tree::Reader,
    stream: Stream<'a>,
    /// Path of the member that holds an inode that has several names.
    first_names: Vec<Option<Box<[u8]>>>,
    warnings: Vec<String>,
}

impl<'a> Archive<'a> {
    fn new(tree: &'a Arc<Tree>, stream: Stream<'a>) -> Archive<'a> {
        Archive {
            tree,
            reader: tree.reader(),
            stream,
            first_names: vec![None; tree.inodes().len()],
            warnings: Vec::new(),
        }
    }

    /// Writes all members but those below the directories that are emptied.
    fn tree(
        &mut self,
        prefix: &[u8],
        emptied: &[&[u8]],
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Error> {
        let tree = self.tree;
        let emptied: Vec<NodeId> = emptied
            .iter()
            .filter_map(|name| tree.child(NodeId::ROOT, name))
            .collect();
        let mut paths = Paths {
            tree,
            prefix,
            parents: Vec::new(),
        };
        for (id, node) in tree.nodes() {
            let path = paths.path(id);
            if emptied
                .iter()
                .any(|&directory| is_below(tree, id, directory))
            {
                continue;
            }
            self.member(id, node.inode, &path)?;
            progress(self.stream.offset);
        }
        Ok(())
    }

    /// Length of the archive when it ends here.
    fn padded_length(&self) -> u64 {
        (self.stream.offset + 2 * BLOCK).next_multiple_of(RECORD)
    }

    fn member(&mut self, id: NodeId, inode_id: InodeId, path: &[u8]) -> Result<(), Error> {
        let tree = self.tree;
        let inode = tree.inode(inode_id);
        if inode.kind == Kind::Socket {
            self.warnings.push(format!(
                "`{}` is a socket, which no tar archive holds",
                tree.path(id).display()
            ));
            return Ok(());
        }
        let mut header = Member::new(inode);
        header.path(path);
        if inode.links > 1 {
            if let Some(first) = &self.first_names[inode_id.index()] {
                header.kind(b'1');
                header.link(first);
                return header.write(&mut self.stream, path, 0);
            }
            self.first_names[inode_id.index()] = Some(path.into());
        }
        for (name, value) in inode.xattrs.iter().flat_map(|set| set.iter()) {
            header.xattr(name, value);
            header.acl(name, value);
        }
        match &inode.kind {
            Kind::File(content) => return self.file(id, inode_id, content, header, path),
            Kind::Directory => header.kind(b'5'),
            Kind::Symlink(target) => {
                header.kind(b'2');
                header.link(target);
            }
            Kind::CharDevice(device) => header.device(b'3', *device),
            Kind::BlockDevice(device) => header.device(b'4', *device),
            Kind::Fifo => header.kind(b'6'),
            // Skipped above.
            Kind::Socket => return Ok(()),
        }
        header.write(&mut self.stream, path, 0)
    }

    fn file(
        &mut self,
        id: NodeId,
        inode: InodeId,
        content: &Content,
        mut header: Member,
        path: &[u8],
    ) -> Result<(), Error> {
        header.kind(b'0');
        let ranges = block_ranges(content);
        let data: u64 = ranges.iter().map(|range| range.length).sum();
        if content.size.saturating_sub(data) < MIN_HOLES {
            header.write(&mut self.stream, path, content.size)?;
            let whole = DataRange {
                offset: 0,
                length: content.size,
            };
            return self.data(id, inode, whole);
        }
        let map = sparse_map(&ranges, content.size);
        header.sparse(path, content.size);
        header.write(&mut self.stream, path, map.len() as u64 + data)?;
        self.stream.write(&map)?;
        for range in ranges {
            // All but the last are whole blocks, so this pads only the last.
            self.data(id, inode, range)?;
        }
        Ok(())
    }

    /// Writes a range of a file, then pads to a block.
    fn data(&mut self, id: NodeId, inode: InodeId, range: DataRange) -> Result<(), Error> {
        let mut done = 0;
        while done < range.length {
            let space = self.stream.space()?;
            let part = usize::try_from(range.length - done)
                .map_or(space.len(), |left| left.min(space.len()));
            let space = &mut space[..part];
            match self.reader.read_at(inode, range.offset + done, space) {
                Ok(read) if read == part => {}
                Ok(read) => space[read..].fill(0),
                Err(error) => {
                    return Err(Error::Tree {
                        path: self.tree.path(id),
                        source: Box::new(error),
                    });
                }
            }
            self.stream.wrote(part);
            done += part as u64;
        }
        self.stream.pad()
    }

    fn finish(mut self) -> Result<Report, Error> {
        self.stream.zeros(2 * BLOCK)?;
        let rest = self.stream.offset.next_multiple_of(RECORD) - self.stream.offset;
        self.stream.zeros(rest)?;
        Ok(Report {
            digests: self.stream.finish()?,
            warnings: self.warnings,
        })
    }
}

/// The data of a file in whole blocks (but for its end), sorted, not touching.
fn block_ranges(content: &Content) -> Vec<DataRange> {
    let mut blocks: Vec<DataRange> = Vec::new();
    for range in content.ranges() {
        let start = range.offset / BLOCK * BLOCK;
        let end = range.offset.saturating_add(range.length);
        let end = end
            .checked_next_multiple_of(BLOCK)
            .unwrap_or(u64::MAX)
            .min(content.size);
        match blocks.last_mut() {
            Some(last) if start <= last.offset + last.length => {
                last.length = last.length.max(end - last.offset);
            }
            _ if start < end => blocks.push(DataRange {
                offset: start,
                length: end - start,
            }),
            _ => {}
        }
    }
    blocks
}

/// GNU's sparse map 1.0: decimal numbers, one a line, padded to a block.
fn sparse_map(ranges: &[DataRange], size: u64) -> Vec<u8> {
    let ends_in_hole = ranges
        .last()
        .is_none_or(|last| last.offset + last.length < size);
    let end = ends_in_hole.then_some(DataRange {
        offset: size,
        length: 0,
    });
    let mut map = format!("{}\n", ranges.len() + usize::from(ends_in_hole));
    for range in ranges.iter().chain(&end) {
        map.push_str(&format!("{}\n{}\n", range.offset, range.length));
    }
    let mut map = map.into_bytes();
    map.resize(map.len().next_multiple_of(BLOCK as usize), 0);
    map
}

#[cfg(test)]
mod tests;
