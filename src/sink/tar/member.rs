//! Headers of members, with the pax records that they need.

use super::stream::Stream;
use super::{BLOCK, OCTAL_11};
use crate::sink::error::Error;
use crate::tree::acl::{self, Acl};
use crate::tree::{Device, Inode, Timestamp};

/// Largest number of seven octal digits.
const OCTAL_7: u64 = 0o777_7777;

/// Header of a member, with the pax records that it needs.
pub(super) struct Member {
    header: tar::Header,
    pub(super) records: Vec<u8>,
    /// Some record is not UTF-8.
    binary: bool,
}

impl Member {
    pub(super) fn new(inode: &Inode) -> Member {
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
    pub(super) fn record(&mut self, key: impl AsRef<[u8]>, value: &[u8]) {
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
    pub(super) fn text_record(&mut self, key: &str, value: &[u8]) {
        self.binary |= std::str::from_utf8(value).is_err();
        self.record(key, value);
    }

    fn fields(&mut self) -> &mut tar::UstarHeader {
        match self.header.as_ustar_mut() {
            Some(fields) => fields,
            None => unreachable!("`new_ustar` makes ustar headers"),
        }
    }

    pub(super) fn kind(&mut self, kind: u8) {
        self.fields().typeflag = [kind];
    }

    pub(super) fn device(&mut self, kind: u8, device: Device) {
        self.kind(kind);
        // Twelve and twenty bits always fit into seven octal digits.
        put_octal(&mut self.fields().dev_major, device.major);
        put_octal(&mut self.fields().dev_minor, device.minor);
    }

    pub(super) fn path(&mut self, path: &[u8]) {
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

    pub(super) fn link(&mut self, target: &[u8]) {
        if target.len() > 100 {
            self.text_record("linkpath", target);
        }
        let short = &target[..target.len().min(100)];
        self.fields().linkname[..short.len()].copy_from_slice(short);
    }

    pub(super) fn xattr(&mut self, name: &[u8], value: &[u8]) {
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
    pub(super) fn acl(&mut self, name: &[u8], value: &[u8]) {
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
    pub(super) fn sparse(&mut self, path: &[u8], size: u64) {
        self.record("GNU.sparse.major", b"1");
        self.record("GNU.sparse.minor", b"0");
        self.text_record("GNU.sparse.name", path);
        self.record("GNU.sparse.realsize", size.to_string().as_bytes());
    }

    /// Writes the header of a member with `size` bytes of data.
    pub(super) fn write(
        self,
        stream: &mut Stream<'_>,
        path: &[u8],
        size: u64,
    ) -> Result<(), Error> {
        stream.write(&self.render(path, size))
    }

    /// The header of a member with `size` bytes of data.
    pub(super) fn render(mut self, path: &[u8], size: u64) -> Vec<u8> {
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
pub(super) fn decimal(time: Timestamp) -> String {
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
