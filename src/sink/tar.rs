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

use std::io::{self, Write as _};
use std::sync::Arc;

use super::checksum::{Checksums, Digests, Hasher};
use super::error::Error;
use super::gzip::GzipWriter;
use super::output::{Output, WRITE_SIZE};
use crate::tree::acl::{self, Acl};
use crate::tree::{
    self, Content, DataRange, Device, Inode, InodeId, Kind, NodeId, Timestamp, Tree,
};

/// Length of a header and unit of everything else.
const BLOCK: u64 = 512;
/// Archives end with two empty blocks and are padded to this, as tar does.
const RECORD: u64 = 20 * BLOCK;
/// Largest number of seven octal digits.
const OCTAL_7: u64 = 0o777_7777;
/// Largest number of eleven octal digits.
const OCTAL_11: u64 = 0o777_7777_7777;
/// Holes of a file that are worth a sparse member, in bytes.
const MIN_HOLES: u64 = 64 << 10;
/// Directories whose contents exist only while a system runs.
const EMPTIED: [&[u8]; 2] = [b"proc", b"sys"];
/// The same for containers, whose runtime fills `/dev` as well.
const EMPTIED_IN_CONTAINERS: [&[u8]; 3] = [b"proc", b"sys", b"dev"];

/// Level of gzip. DIB's `gzip -9` takes three times as long for 1 % less.
const GZIP_LEVEL: u32 = 6;

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

/// Header of a member, with the pax records that it needs.
struct Member {
    header: tar::Header,
    records: Vec<u8>,
    /// Some record is not UTF-8.
    binary: bool,
}

impl Member {
    fn new(inode: &Inode) -> Member {
        let mut member = Member {
            header: tar::Header::new_ustar(),
            records: Vec::new(),
            binary: false,
        };
        member.header.set_mode(u32::from(inode.mode));
        let (uid, gid) = (u64::from(inode.uid), u64::from(inode.gid));
        if uid > OCTAL_7 {
            member.record("uid", uid.to_string().as_bytes());
        }
        if gid > OCTAL_7 {
            member.record("gid", gid.to_string().as_bytes());
        }
        member.header.set_uid(if uid > OCTAL_7 { 0 } else { uid });
        member.header.set_gid(if gid > OCTAL_7 { 0 } else { gid });
        let seconds = u64::try_from(inode.mtime.seconds)
            .ok()
            .filter(|&seconds| seconds <= OCTAL_11);
        if seconds.is_none() || inode.mtime.nanoseconds > 0 {
            member.record("mtime", decimal(inode.mtime).as_bytes());
        }
        member.header.set_mtime(seconds.unwrap_or(0));
        member
    }

    /// Adds a pax record: its length in decimal (which counts itself), key, value.
    fn record(&mut self, key: impl AsRef<[u8]>, value: &[u8]) {
        let key = key.as_ref();
        // Space, equals sign and newline.
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        self.records
            .extend_from_slice(format!("{length} ").as_bytes());
        self.records.extend_from_slice(key);
        self.records.push(b'=');
        self.records.extend_from_slice(value);
        self.records.push(b'\n');
    }

    /// A record whose value is text by the standard, but may be any bytes.
    fn text_record(&mut self, key: &str, value: &[u8]) {
        self.binary |= std::str::from_utf8(value).is_err();
        self.record(key, value);
    }

    fn fields(&mut self) -> &mut tar::UstarHeader {
        match self.header.as_ustar_mut() {
            Some(fields) => fields,
            None => unreachable!("`new_ustar` makes ustar headers"),
        }
    }

    fn kind(&mut self, kind: u8) {
        self.fields().typeflag = [kind];
    }

    fn device(&mut self, kind: u8, device: Device) {
        self.kind(kind);
        // Twelve and twenty bits always fit into seven octal digits.
        put_octal(&mut self.fields().dev_major, device.major);
        put_octal(&mut self.fields().dev_minor, device.minor);
    }

    fn path(&mut self, path: &[u8]) {
        match split_path(path) {
            Some((prefix, name)) => {
                self.fields().name[..name.len()].copy_from_slice(name);
                self.fields().prefix[..prefix.len()].copy_from_slice(prefix);
            }
            None => {
                self.text_record("path", path);
                self.fields().name.copy_from_slice(&path[..100]);
            }
        }
    }

    fn link(&mut self, target: &[u8]) {
        if target.len() > 100 {
            self.text_record("linkpath", target);
        }
        let short = &target[..target.len().min(100)];
        self.fields().linkname[..short.len()].copy_from_slice(short);
    }

    fn xattr(&mut self, name: &[u8], value: &[u8]) {
        // An equals sign would end the key; this is GNU tar's way around it.
        let mut key = b"SCHILY.xattr.".to_vec();
        for &byte in name {
            match byte {
                b'%' => key.extend_from_slice(b"%25"),
                b'=' => key.extend_from_slice(b"%3D"),
                _ => key.push(byte),
            }
        }
        self.record(key, value);
    }

    /// Adds an attribute that is an access control list in text form, too.
    fn acl(&mut self, name: &[u8], value: &[u8]) {
        let key = match name {
            acl::ACCESS => "SCHILY.acl.access",
            acl::DEFAULT => "SCHILY.acl.default",
            _ => return,
        };
        if let Some(acl) = Acl::from_xattr(value) {
            self.record(key, acl.to_text().as_bytes());
        }
    }

    /// Makes it a sparse member: tools that do not know these see another name.
    fn sparse(&mut self, path: &[u8], size: u64) {
        self.record("GNU.sparse.major", b"1");
        self.record("GNU.sparse.minor", b"0");
        self.text_record("GNU.sparse.name", path);
        self.record("GNU.sparse.realsize", size.to_string().as_bytes());
    }

    /// Writes the header of a member with `size` bytes of data.
    fn write(self, stream: &mut Stream<'_>, path: &[u8], size: u64) -> Result<(), Error> {
        stream.write(&self.render(path, size))
    }

    /// The header of a member with `size` bytes of data.
    fn render(mut self, path: &[u8], size: u64) -> Vec<u8> {
        if size > OCTAL_11 {
            self.record("size", size.to_string().as_bytes());
        }
        self.header.set_size(if size > OCTAL_11 { 0 } else { size });
        let mut bytes = Vec::with_capacity(BLOCK as usize);
        if !self.records.is_empty() {
            if self.binary {
                let rest = std::mem::take(&mut self.records);
                self.record("hdrcharset", b"BINARY");
                self.records.extend_from_slice(&rest);
            }
            let mut extended = Member {
                header: tar::Header::new_ustar(),
                records: Vec::new(),
                binary: false,
            };
            let mut name = b"./PaxHeaders/".to_vec();
            let last = path.strip_suffix(b"/").unwrap_or(path);
            name.extend_from_slice(last.rsplit(|&byte| byte == b'/').next().unwrap_or(last));
            name.truncate(100);
            extended.kind(b'x');
            extended.fields().name[..name.len()].copy_from_slice(&name);
            extended.header.set_mode(0o644);
            extended.header.set_uid(0);
            extended.header.set_gid(0);
            extended.header.set_mtime(0);
            extended.header.set_size(self.records.len() as u64);
            extended.header.set_cksum();
            bytes.extend_from_slice(extended.header.as_bytes());
            bytes.extend_from_slice(&self.records);
            bytes.resize(bytes.len().next_multiple_of(BLOCK as usize), 0);
        }
        self.header.set_cksum();
        bytes.extend_from_slice(self.header.as_bytes());
        bytes
    }
}

/// Splits a path into prefix (at most 155 bytes) and name (at most 100) at a
/// slash; `None` where that is not possible.
fn split_path(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= 100 {
        return Some((b"", path));
    }
    let (start, end) = (path.len() - 101, path.len().min(156));
    let at = (start..end).find(|&at| path[at] == b'/' && at > 0 && at + 1 < path.len())?;
    Some((&path[..at], &path[at + 1..]))
}

/// Seven octal digits and a NUL.
fn put_octal(field: &mut [u8; 8], value: u32) {
    let digits = format!("{value:07o}");
    field[..7].copy_from_slice(&digits.as_bytes()[digits.len() - 7..]);
}

/// Seconds as a decimal number; `1.5` s before 1970 is `-1.5`.
fn decimal(time: Timestamp) -> String {
    let nanoseconds = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds);
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let (seconds, rest) = (
        nanoseconds.abs() / 1_000_000_000,
        nanoseconds.abs() % 1_000_000_000,
    );
    if rest == 0 {
        return format!("{sign}{seconds}");
    }
    format!("{sign}{seconds}.{rest:09}")
        .trim_end_matches('0')
        .to_owned()
}

/// Writes in order, in units that the page cache takes best.
struct Stream<'a> {
    target: Target<'a>,
    /// Bytes so far, those in the buffer too.
    offset: u64,
    buffer: Box<[u8]>,
    /// Bytes of the buffer that are not written yet.
    used: usize,
}

/// Where an archive goes.
enum Target<'a> {
    Plain(Box<Sequential<'a>>),
    Gzip(Box<GzipWriter<Sequential<'a>>>),
}

/// An output that is written from start to end.
struct Sequential<'a> {
    output: &'a Output,
    offset: u64,
    hasher: Hasher,
    /// What failed, which the compressor cannot hand on.
    error: Option<Error>,
}

impl io::Write for Sequential<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        if let Err(error) = self.output.write_at(bytes, self.offset) {
            self.error = Some(error);
            return Err(io::ErrorKind::Other.into());
        }
        self.offset += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sequential<'_> {
    /// The error behind a failure of the compressor's.
    fn failure(&mut self, source: io::Error) -> Error {
        let error = self.error.take();
        error.unwrap_or_else(|| self.output.write_error(source))
    }
}

impl<'a> Stream<'a> {
    fn new(output: &'a Output, form: Form, checksums: Checksums, at: u64) -> Stream<'a> {
        let buffer = vec![0; WRITE_SIZE].into();
        let sequential = Sequential {
            output,
            offset: at,
            hasher: Hasher::new(checksums),
            error: None,
        };
        let target = match form {
            Form::Plain => Target::Plain(Box::new(sequential)),
            Form::Gzip => Target::Gzip(Box::new(GzipWriter::new(sequential, GZIP_LEVEL))),
        };
        Stream {
            target,
            offset: 0,
            buffer,
            used: 0,
        }
    }

    fn flush(&mut self) -> Result<(), Error> {
        let bytes = &self.buffer[..self.used];
        let result = match &mut self.target {
            Target::Plain(file) => file.write_all(bytes),
            Target::Gzip(encoder) => encoder.write_all(bytes),
        };
        result.map_err(|source| {
            let file = match &mut self.target {
                Target::Plain(file) => file,
                Target::Gzip(encoder) => encoder.get_mut(),
            };
            file.failure(source)
        })?;
        self.used = 0;
        Ok(())
    }

    /// Writes what is left and returns the digests of the file.
    fn finish(mut self) -> Result<Digests, Error> {
        self.flush()?;
        match self.target {
            Target::Plain(file) => Ok(file.hasher.finish()),
            Target::Gzip(mut encoder) => {
                encoder
                    .finish()
                    .map_err(|source| encoder.get_mut().failure(source))?;
                let hasher = std::mem::take(&mut encoder.get_mut().hasher);
                Ok(hasher.finish())
            }
        }
    }

    /// Room for the next bytes, never empty; they count after [`Stream::wrote`].
    fn space(&mut self) -> Result<&mut [u8], Error> {
        if self.used == self.buffer.len() {
            self.flush()?;
        }
        Ok(&mut self.buffer[self.used..])
    }

    /// Counts bytes that were put into [`Stream::space`].
    fn wrote(&mut self, bytes: usize) {
        self.used += bytes;
        self.offset += bytes as u64;
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let space = self.space()?;
            let part = space.len().min(bytes.len());
            space[..part].copy_from_slice(&bytes[..part]);
            self.wrote(part);
            bytes = &bytes[part..];
        }
        Ok(())
    }

    fn zeros(&mut self, count: u64) -> Result<(), Error> {
        let mut left = count;
        while left > 0 {
            let space = self.space()?;
            let part = usize::try_from(left).map_or(space.len(), |left| left.min(space.len()));
            space[..part].fill(0);
            self.wrote(part);
            left -= part as u64;
        }
        Ok(())
    }

    fn pad(&mut self) -> Result<(), Error> {
        self.zeros(self.offset.next_multiple_of(BLOCK) - self.offset)
    }
}

#[cfg(test)]
#[path = "tar_tests.rs"]
mod tests;
