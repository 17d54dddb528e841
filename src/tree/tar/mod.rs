//! Reads a tree from a tar archive without unpacking it.
//!
//! File data stays in the archive; a tree's files are ranges of it. Of a
//! compressed archive (gzip, xz, zstd), or one that comes through a pipe, the
//! data goes into a file without a name, which is gone with the tree.
//!
//! Understood are POSIX ustar and pax (with extended attributes), GNU's long
//! names, access control lists in their text form, and GNU's sparse files of all
//! four formats. An archive is untrusted:
//! headers and names have limits, and paths only ever become names in the tree.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zerocopy::FromBytes as _;

use super::{
    Content, DataRange, Device, Inode, Kind, Origin, Packed, Timestamp, Tree, TreeBuilder,
};

mod acl;
mod error;
mod header;
mod input;
mod pax;
#[cfg(test)]
mod tests;

pub use error::Error;
pub(crate) use pax::attribute;

use header::{BLOCK, BLOCK_SIZE, Header, number, text};
use input::{Bytes, Input, Stream};
use pax::Records;

/// Longest path that Linux can have, in bytes.
const MAX_PATH: usize = 4096;
/// Memory that undoing xz may take, in KiB: the largest preset's 64 MiB twice.
const XZ_MEMORY_KIB: u32 = 128 << 10;

/// A tree from an archive, and what of it the tree does not have.
#[derive(Debug)]
pub struct Archived {
    /// The tree.
    pub tree: Tree,
    /// What was left out, one sentence each.
    pub warnings: Vec<String>,
}

/// Whether this is the header of a member.
fn is_header(bytes: &[u8]) -> bool {
    let block = bytes.first_chunk::<BLOCK_SIZE>();
    block.is_some_and(|block| {
        Header::read_from_bytes(block).is_ok_and(|header| header.checksum_matches(block))
    })
}

/// Reads an archive. Data of a compressed one is kept in `spool_directory`.
///
/// # Errors
/// See [`Error`].
pub fn read(path: &Path, spool_directory: &Path) -> Result<Archived, Error> {
    let failed = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(failed)?;
    let seekable = file.metadata().map_err(failed)?.is_file();
    let mut start = Vec::with_capacity(BLOCK_SIZE);
    (&mut file)
        .take(BLOCK)
        .read_to_end(&mut start)
        .map_err(failed)?;
    let compression = compression(&start);
    if let Compression::None = compression
        && seekable
    {
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let packed = file.try_clone().map_err(failed)?;
        let input = Input {
            path,
            at: 0,
            bytes: Bytes::File {
                reader: BufReader::with_capacity(64 << 10, file),
                length: std::fs::metadata(path).map_err(failed)?.len(),
            },
        };
        let packed = Arc::new(Packed::new(packed, path.to_owned()));
        return Archive::new(input, packed).read();
    }
    let spool_failed = |source| Error::Spool {
        path: path.to_owned(),
        directory: spool_directory.to_owned(),
        source,
    };
    let spool = tempfile::tempfile_in(spool_directory).map_err(spool_failed)?;
    let packed = Packed::new(spool.try_clone().map_err(spool_failed)?, path.to_owned());
    let raw = BufReader::with_capacity(256 << 10, io::Cursor::new(start).chain(file));
    let stream: Box<dyn Read> = match &compression {
        Compression::None => Box::new(raw),
        Compression::Gzip => Box::new(input::Gzip::new(raw)),
        Compression::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(
            raw,
            true,
            XZ_MEMORY_KIB,
        )),
        Compression::Zstd => {
            Box::new(zstd::stream::read::Decoder::with_buffer(raw).map_err(failed)?)
        }
        &Compression::Other(compression) => {
            return Err(Error::Compression {
                path: path.to_owned(),
                compression,
            });
        }
    };
    let input = Input {
        path,
        at: 0,
        bytes: Bytes::Stream {
            stream: Stream::new(stream, !matches!(compression, Compression::None)),
            spool,
            spooled: 0,
            directory: spool_directory,
        },
    };
    Archive::new(input, Arc::new(packed)).read()
}

/// How an archive is compressed.
enum Compression {
    None,
    Gzip,
    Xz,
    Zstd,
    /// By something that kiln cannot undo.
    Other(&'static str),
}

fn compression(start: &[u8]) -> Compression {
    let magics: [(&[u8], Compression); 9] = [
        (&[0x1F, 0x8B], Compression::Gzip),
        (b"\xFD7zXZ\0", Compression::Xz),
        (&[0x28, 0xB5, 0x2F, 0xFD], Compression::Zstd),
        (b"BZh", Compression::Other("bzip2")),
        (b"LZIP", Compression::Other("lzip")),
        (&[0x89, b'L', b'Z', b'O'], Compression::Other("lzop")),
        (&[0x1F, 0x9D], Compression::Other("compress")),
        (&[0x04, 0x22, 0x4D, 0x18], Compression::Other("lz4")),
        (&[0x5D, 0x00, 0x00], Compression::Other("lzma")),
    ];
    // A plain archive may begin with any name, and old ones have no mark.
    if is_header(start) {
        return Compression::None;
    }
    // pzstd puts a frame to be skipped before each with data.
    if matches!(start, [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..]) {
        return Compression::Zstd;
    }
    let found = magics
        .into_iter()
        .find(|(magic, _)| start.starts_with(magic));
    found.map_or(Compression::None, |(_, compression)| compression)
}

/// An archive in work.
struct Archive<'a> {
    input: Input<'a>,
    packed: Arc<Packed>,
    builder: TreeBuilder<'static>,
    global: Records,
    /// It has extended headers, which only pax archives have.
    pax: bool,
    /// Some access control list has a name whose number is not known yet.
    unresolved: bool,
    /// Members that have a list of NFSv4's kind.
    nfs4_acls: LeftOut,
    /// Members that have attributes of other systems.
    foreign_xattrs: LeftOut,
}

/// Members of which something is left out.
#[derive(Default)]
struct LeftOut {
    count: u64,
    first: PathBuf,
}

impl LeftOut {
    fn add(&mut self, path: &[u8]) {
        if self.count == 0 {
            self.first = member_name(path);
        }
        self.count += 1;
    }

    /// How many, and the first of them.
    fn told(&self) -> Option<String> {
        let first = self.first.display();
        (self.count > 0).then(|| format!("those of {} files, such as `{first}`", self.count))
    }
}

/// What precedes a member.
#[derive(Default)]
struct Before {
    records: Option<Records>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl<'a> Archive<'a> {
    fn new(input: Input<'a>, packed: Arc<Packed>) -> Archive<'a> {
        Archive {
            input,
            packed,
            builder: TreeBuilder::new(),
            global: Records::default(),
            pax: false,
            unresolved: false,
            nfs4_acls: LeftOut::default(),
            foreign_xattrs: LeftOut::default(),
        }
    }

    fn read(mut self) -> Result<Archived, Error> {
        let mut before = Before::default();
        let mut empty = true;
        let mut ended = false;
        while let Some(block) = self.input.block()? {
            if block.iter().all(|&byte| byte == 0) {
                ended = true;
                break;
            }
            self.member(&block, &mut before)?;
            empty = false;
        }
        if empty && self.input.at == 0 {
            return Err(self.input.damaged("it is empty"));
        }
        if before.records.is_some() || before.name.is_some() || before.link.is_some() {
            return Err(self.input.damaged("it ends after an extended header"));
        }
        self.input.finish()?;
        let path = self.input.path;
        let tree = self.builder.build().map_err(|source| Error::Tree {
            path: path.to_owned(),
            source,
        })?;
        let mut warnings = Vec::new();
        if !ended {
            warnings.push(format!(
                "archive `{}` has no blocks of zeros at its end: it may be cut off; compare its \
                 size or checksum",
                path.display()
            ));
        }
        let tree = if self.unresolved {
            acl::resolve_all(tree, &mut warnings)
        } else {
            tree
        };
        if let Some(files) = self.nfs4_acls.told() {
            warnings.push(format!(
                "access control lists of NFSv4's kind are left out, which no filesystem of an \
                 image has: {files}"
            ));
        }
        if let Some(files) = self.foreign_xattrs.told() {
            warnings.push(format!(
                "extended attributes of other systems are left out, whose names begin with none \
                 of user, trusted, security and system: {files}"
            ));
        }
        Ok(Archived { tree, warnings })
    }

    /// Takes one header with what belongs to it.
    fn member(&mut self, block: &[u8; BLOCK_SIZE], before: &mut Before) -> Result<(), Error> {
        let start = self.input.at - BLOCK;
        let damaged = |problem| Error::Damaged {
            path: self.input.path.to_owned(),
            offset: start,
            problem,
        };
        let header = Header::read_from_bytes(block)
            .ok()
            .filter(|header| header.checksum_matches(block))
            .ok_or_else(|| damaged("there is no header of a member"))?;
        let size = number(&header.size)
            .and_then(|size| u64::try_from(size).ok())
            .ok_or_else(|| damaged("a member has no valid size"))?;
        self.pax |= matches!(header.typeflag, b'x' | b'X' | b'g');
        match header.typeflag {
            b'x' | b'X' => {
                let text = self.input.extended(size)?;
                let mut records = self.global.clone();
                records.read(&text).map_err(|p| self.input.damaged(p))?;
                before.records = Some(records);
            }
            b'g' => {
                let text = self.input.extended(size)?;
                let read = self.global.read(&text);
                let checked = read.and_then(|()| self.global.check_global());
                checked.map_err(|problem| self.input.damaged(problem))?;
            }
            b'L' => before.name = Some(text(&self.input.extended(size)?).to_vec()),
            b'K' => before.link = Some(text(&self.input.extended(size)?).to_vec()),
            // The archive's own name.
            b'V' => {}
            _ => {
                let before = std::mem::take(before);
                self.file(block, &header, size, before)?;
            }
        }
        Ok(())
    }

    /// Takes a member that is in the tree.
    fn file(
        &mut self,
        block: &[u8; BLOCK_SIZE],
        header: &Header,
        size: u64,
        before: Before,
    ) -> Result<(), Error> {
        let mut records = before.records.unwrap_or_else(|| self.global.clone());
        let sparse = &records.sparse;
        let path = sparse.name.clone().or(records.path.clone()).or(before.name);
        let path = path.unwrap_or_else(|| header.path());
        let unsupported = |problem| Error::Unsupported {
            path: self.input.path.to_owned(),
            member: member_name(&path),
            problem,
        };
        if path.len() > MAX_PATH {
            return Err(unsupported("whose name is longer than 4096 bytes"));
        }
        let size = records.size.unwrap_or(size);
        let field = |field: &[u8]| number(field).and_then(|number| u32::try_from(number).ok());
        let owner = |known: Option<u32>, from: &[u8]| {
            known
                .or_else(|| field(from))
                .ok_or_else(|| unsupported("which has no valid owner"))
        };
        let uid = owner(records.uid, &header.uid)?;
        let gid = owner(records.gid, &header.gid)?;
        let mode = field(&header.mode).ok_or_else(|| unsupported("which has no valid mode"))?;
        let mtime = match records.mtime {
            Some(mtime) => mtime,
            None => Timestamp {
                seconds: number(&header.mtime)
                    .ok_or_else(|| unsupported("which has no valid time"))?,
                nanoseconds: 0,
            },
        };
        let link = records.linkpath.clone().or(before.link);
        let link = || link.unwrap_or_else(|| text(&header.linkname).to_vec());
        let device = || {
            let part = |from: &[u8], bits: u32| field(from).filter(|number| number >> bits == 0);
            match (part(&header.devmajor, 12), part(&header.devminor, 20)) {
                (Some(major), Some(minor)) => Ok(Device { major, minor }),
                _ => Err(unsupported("which has no valid device number")),
            }
        };
        let kind = match header.typeflag {
            // Old archives mark directories by their names alone.
            b'0' | 0 | b'7' if path.ends_with(b"/") && !sparse.map_in_data => Kind::Directory,
            b'0' | 0 | b'7' => Kind::File(self.content(&records, size, &path)?),
            b'S' => Kind::File(self.old_sparse(block, header, size, &path)?),
            b'1' => {
                if size > 0 && self.has_data(header)? {
                    self.input.data(size)?;
                }
                return self.link(&path, &link());
            }
            b'2' => Kind::Symlink(link().into()),
            b'3' => Kind::CharDevice(device()?),
            b'4' => Kind::BlockDevice(device()?),
            b'5' | b'D' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'M' => return Err(unsupported("which continues another archive")),
            _ => return Err(unsupported("which is of an unknown type")),
        };
        // The size of any other member, which programs may give, stands for nothing.
        if header.typeflag == b'D' {
            self.input.data(size)?;
        }
        if records.nfs4_acl {
            self.nfs4_acls.add(&path);
        }
        if records.foreign_xattrs {
            self.foreign_xattrs.add(&path);
        }
        // Links have no mode of their own, and every kernel shows this one; some
        // writers of archives put another.
        let mode = if matches!(kind, Kind::Symlink(_)) {
            0o777
        } else {
            mode & 0o7777
        };
        let mut inode = Inode {
            kind,
            mode: u16::try_from(mode).unwrap_or(0),
            uid,
            gid,
            mtime,
            xattrs: Some(std::mem::take(&mut records.xattrs)).filter(|set| !set.is_empty()),
            links: 1,
        };
        self.unresolved |= acl::give(&records, &mut inode).map_err(unsupported)?;
        let checked = match inode.kind {
            Kind::Directory => Ok(()),
            _ => self.builder.check_replaceable(&path),
        };
        let inserted = checked.and_then(|()| self.builder.insert(&path, inode).map(drop));
        inserted.map_err(|source| self.misplaced(&path, source))
    }

    fn misplaced(&self, member: &[u8], source: super::Error) -> Error {
        Error::Misplaced {
            path: self.input.path.to_owned(),
            member: member_name(member),
            source,
        }
    }

    /// Whether the data of a file comes with this further name of it, too. In a pax
    /// archive it may, and then the size says so. Elsewhere it may not, but star gives
    /// the size all the same, so that only what comes next can tell.
    fn has_data(&mut self, header: &Header) -> Result<bool, Error> {
        if self.pax || !header.is_ustar() {
            return Ok(self.pax);
        }
        Ok(self
            .input
            .peek()?
            .is_some_and(|block| !is_header(&block) && block.iter().any(|&byte| byte != 0)))
    }

    /// A second name of a member that came before.
    fn link(&mut self, path: &[u8], to: &[u8]) -> Result<(), Error> {
        let same = |path: &[u8]| {
            let parts = path.split(|&byte| byte == b'/');
            let parts = parts.filter(|part| !part.is_empty() && *part != b".");
            parts.map(<[u8]>::to_vec).collect::<Vec<_>>()
        };
        let linked = if same(path) == same(to) {
            self.builder.check_present(to)
        } else {
            let checked = self.builder.check_replaceable(path);
            checked.and_then(|()| self.builder.hard_link(path, to).map(drop))
        };
        linked.map_err(|source| self.misplaced(path, source))
    }

    /// The data of a regular file, perhaps sparse in one of the pax forms.
    fn content(&mut self, records: &Records, size: u64, path: &[u8]) -> Result<Content, Error> {
        let sparse = &records.sparse;
        if !sparse.map_in_data && sparse.map.is_none() {
            let offset = self.input.data(size)?;
            return Ok(self.packed(size, offset, None));
        }
        let real_size = sparse.real_size.ok_or_else(|| Error::Unsupported {
            path: self.input.path.to_owned(),
            member: member_name(path),
            problem: "a sparse file without its size",
        })?;
        let (map, mapped) = match &sparse.map {
            Some(map) => (map.clone(), 0),
            None => self.map_in_data(size)?,
        };
        let offset = self.input.data(size - mapped)?;
        self.sparse(map, real_size, size - mapped, offset)
    }

    /// The map of format 1.0: decimal numbers, a line each, in whole blocks.
    /// Returns the bytes that it took, too.
    fn map_in_data(&mut self, size: u64) -> Result<(Vec<DataRange>, u64), Error> {
        let mut taken = 0;
        let mut line = Vec::new();
        let mut numbers = Vec::new();
        let mut wanted = None;
        while wanted.is_none_or(|wanted| numbers.len() < wanted) {
            let problem = "the map of a sparse file is broken";
            if taken + BLOCK > size {
                return Err(self.input.damaged(problem));
            }
            let block = self.input.block()?;
            let block = block.ok_or_else(|| self.input.damaged(problem))?;
            taken += BLOCK;
            for &byte in &block {
                if wanted.is_some_and(|wanted| numbers.len() == wanted) {
                    break;
                }
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > 20 {
                        return Err(self.input.damaged(problem));
                    }
                    continue;
                }
                let number = pax::decimal(&line).ok_or_else(|| self.input.damaged(problem))?;
                line.clear();
                match wanted {
                    Some(_) => numbers.push(number),
                    None => {
                        let count = usize::try_from(number).ok();
                        let count = count.filter(|count| *count <= pax::MAX_RANGES);
                        let count = count.ok_or_else(|| self.input.damaged(problem))?;
                        wanted = Some(count * 2);
                    }
                }
            }
        }
        let mut map = Vec::new();
        for pair in numbers.chunks_exact(2) {
            let pushed = pax::push(&mut map, pair[0], pair[1]);
            pushed.map_err(|problem| self.input.damaged(problem))?;
        }
        Ok((map, taken))
    }

    /// GNU's old form: the map in the header and in blocks after it.
    fn old_sparse(
        &mut self,
        block: &[u8; BLOCK_SIZE],
        header: &Header,
        size: u64,
        path: &[u8],
    ) -> Result<Content, Error> {
        let fields = header.old_sparse(block);
        let real_size = number(fields.real_size).and_then(|size| u64::try_from(size).ok());
        let real_size = real_size.ok_or_else(|| Error::Unsupported {
            path: self.input.path.to_owned(),
            member: member_name(path),
            problem: "a sparse file without its size",
        })?;
        let mut map = Vec::new();
        self.old_entries(fields.entries, &mut map)?;
        let mut extended = fields.extended;
        while extended {
            let block = self.input.block()?;
            let block = block.ok_or_else(|| self.input.damaged("it ends within a sparse map"))?;
            self.old_entries(&block[..504], &mut map)?;
            extended = block[504] != 0;
        }
        let offset = self.input.data(size)?;
        self.sparse(map, real_size, size, offset)
    }

    fn old_entries(&self, entries: &[u8], map: &mut Vec<DataRange>) -> Result<(), Error> {
        for entry in entries.chunks_exact(24) {
            if entry[0] == 0 {
                break;
            }
            let part = |field| number(field).and_then(|number| u64::try_from(number).ok());
            let (Some(offset), Some(length)) = (part(&entry[..12]), part(&entry[12..])) else {
                return Err(self.input.damaged("the map of a sparse file is broken"));
            };
            let pushed = pax::push(map, offset, length);
            pushed.map_err(|problem| self.input.damaged(problem))?;
        }
        Ok(())
    }

    /// A sparse file whose `stored` bytes of data lie from `offset` on.
    fn sparse(
        &self,
        map: Vec<DataRange>,
        real_size: u64,
        stored: u64,
        offset: u64,
    ) -> Result<Content, Error> {
        let data = map
            .iter()
            .try_fold(0u64, |sum, range| sum.checked_add(range.length));
        let end = map.last().map_or(0, |range| range.offset + range.length);
        if data != Some(stored) || end > real_size {
            return Err(self
                .input
                .damaged("a sparse file's map does not fit its data"));
        }
        Ok(self.packed(real_size, offset, Some(map.into())))
    }

    fn packed(&self, size: u64, offset: u64, data: Option<Box<[DataRange]>>) -> Content {
        Content {
            size,
            origin: Origin::Packed {
                file: Arc::clone(&self.packed),
                offset,
            },
            data,
        }
    }
}

/// A member's name for messages.
fn member_name(path: &[u8]) -> PathBuf {
    super::display_path(path)
}
