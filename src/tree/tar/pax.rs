//! Extended headers (`x` and `g` members): records of `LENGTH KEY=VALUE\n`.

use std::sync::Arc;

use crate::tree::{DataRange, Timestamp, Xattrs};

/// What extended headers say about a member; what they leave out is in its header.
#[derive(Debug, Clone, Default)]
pub(super) struct Records {
    pub path: Option<Vec<u8>>,
    pub linkpath: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mtime: Option<Timestamp>,
    /// Shared by all files that have the same of one global header.
    pub xattrs: Arc<Xattrs>,
    /// Bytes of their names and values.
    xattr_bytes: usize,
    /// The access control list in text form.
    pub access_acl: Option<Vec<u8>>,
    /// The one that files in a directory inherit.
    pub default_acl: Option<Vec<u8>>,
    /// There is a list of NFSv4's kind, which Linux's filesystems do not have.
    pub nfs4_acl: bool,
    /// There are extended attributes with names that Linux does not have.
    pub foreign_xattrs: bool,
    pub sparse: Sparse,
}

/// GNU's sparse formats 0.0, 0.1 and 1.0.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Sparse {
    /// Format 1.0: the map stands before the data.
    pub map_in_data: bool,
    /// Formats 0.0 and 0.1: the map.
    pub map: Option<Vec<DataRange>>,
    /// The file's size with its holes.
    pub real_size: Option<u64>,
    /// The name, where `path` is only for programs that do not know the format.
    pub name: Option<Vec<u8>>,
    /// An offset whose length comes next (0.0).
    offset: Option<u64>,
}

/// Most ranges of a sparse file.
pub(super) const MAX_RANGES: usize = 1 << 20;
/// Most bytes of extended attributes that a file has, names and values.
const MAX_XATTRS: usize = 1 << 20;
/// Most of them in global headers: every file with some of its own has a copy.
const MAX_GLOBAL_XATTRS: usize = 4 << 10;

/// How the names of extended attributes begin on Linux.
const NAMESPACES: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"system."];

impl Records {
    /// Reads a header's records over those that are known.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(&mut self, mut text: &[u8]) -> Result<(), &'static str> {
        const BROKEN: &str = "an extended header has a broken record";
        while !text.is_empty() {
            // What follows the records up to the block's end is zeros.
            if text.iter().all(|&byte| byte == 0) {
                return Ok(());
            }
            let space = text.iter().take(20).position(|&byte| byte == b' ');
            let space = space.ok_or(BROKEN)?;
            let length = decimal(&text[..space]).ok_or(BROKEN)?;
            let length = usize::try_from(length).ok().ok_or(BROKEN)?;
            let record = text.get(space + 1..length).ok_or(BROKEN)?;
            let record = record.strip_suffix(b"\n").ok_or(BROKEN)?;
            let equals = record.iter().position(|&byte| byte == b'=');
            let equals = equals.filter(|&at| at > 0).ok_or(BROKEN)?;
            self.record(&record[..equals], &record[equals + 1..])?;
            text = &text[length..];
        }
        Ok(())
    }

    /// Whether this may be said of all files that follow: little, since it is kept
    /// for each of them, and nothing that is one file's alone.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn check_global(&self) -> Result<(), &'static str> {
        let one = self.path.is_some() || self.linkpath.is_some() || self.size.is_some();
        if one || self.sparse != Sparse::default() {
            return Err("a global header says what only one file can have");
        }
        let lists = [&self.access_acl, &self.default_acl];
        let lists: usize = lists.into_iter().flatten().map(Vec::len).sum();
        if self.xattr_bytes + lists > MAX_GLOBAL_XATTRS {
            return Err("global headers have more than 4 KiB of extended attributes");
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        const NUMBER: &str = "an extended header has a number that is none";
        let number = || decimal(value).ok_or(NUMBER);
        let id = || {
            let number = decimal(value).ok_or(NUMBER)?;
            u32::try_from(number).map_err(|_| "an owner does not fit 32 bits")
        };
        // An empty value takes the record back.
        let bytes = Some(value.to_vec()).filter(|value| !value.is_empty());
        match key {
            b"path" => self.path = bytes,
            b"linkpath" => self.linkpath = bytes,
            b"size" => self.size = bytes.map(|_| number()).transpose()?,
            b"uid" => self.uid = bytes.map(|_| id()).transpose()?,
            b"gid" => self.gid = bytes.map(|_| id()).transpose()?,
            b"mtime" => {
                let time = || time(value).ok_or("an extended header has a time that is none");
                self.mtime = bytes.map(|_| time()).transpose()?;
            }
            b"GNU.sparse.major" => self.sparse.map_in_data = value == b"1",
            b"GNU.sparse.minor" | b"GNU.sparse.numblocks" => {}
            b"GNU.sparse.name" => self.sparse.name = bytes,
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                self.sparse.real_size = Some(number()?);
            }
            b"GNU.sparse.offset" => self.sparse.offset = Some(number()?),
            b"GNU.sparse.numbytes" => {
                let offset = self.sparse.offset.take().unwrap_or(0);
                let length = number()?;
                push(self.sparse.map.get_or_insert_default(), offset, length)?;
            }
            b"GNU.sparse.map" => {
                let mut map = Vec::new();
                let mut numbers = value.split(|&byte| byte == b',');
                while let (Some(offset), Some(length)) = (numbers.next(), numbers.next()) {
                    let offset = decimal(offset).ok_or(NUMBER)?;
                    push(&mut map, offset, decimal(length).ok_or(NUMBER)?)?;
                }
                self.sparse.map = Some(map);
            }
            b"SCHILY.acl.access" => self.access_acl = bytes,
            b"SCHILY.acl.default" => self.default_acl = bytes,
            b"SCHILY.acl.ace" => self.nfs4_acl = bytes.is_some(),
            // The label as text; stored, it ends in a zero byte.
            b"RHT.security.selinux" => {
                let text = value.strip_suffix(b"\0").unwrap_or(value);
                self.xattr(b"security.selinux", &[text, b"\0"].concat())?;
            }
            _ => {
                if let Some(name) = attribute(key) {
                    self.xattr(&name, value)?;
                } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    let name = percent_decoded(name);
                    let value = base64(value).ok_or("an extended attribute is not base64")?;
                    // libarchive writes both forms; the other is exact.
                    if !self.xattrs.contains_key(&name[..]) {
                        self.xattr(&name, &value)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn xattr(&mut self, name: &[u8], value: &[u8]) -> Result<(), &'static str> {
        // The limits of Linux.
        if name.is_empty() || name.len() > 255 || name.contains(&0) || value.len() > 65536 {
            return Err("an extended attribute is longer than Linux allows");
        }
        // Those of macOS have none, and no filesystem of Linux can hold them.
        if !NAMESPACES.iter().any(|space| name.starts_with(space)) {
            self.foreign_xattrs = true;
            return Ok(());
        }
        let replaced = Arc::make_mut(&mut self.xattrs).insert(name.into(), value.into());
        self.xattr_bytes += match &replaced {
            None => name.len() + value.len(),
            Some(_) => value.len(),
        };
        self.xattr_bytes -= replaced.map_or(0, |old| old.len());
        if self.xattr_bytes > MAX_XATTRS {
            return Err("a file has more than 1 MiB of extended attributes");
        }
        Ok(())
    }
}

/// Adds a range to a sparse map, which must be in order.
pub(super) fn push(map: &mut Vec<DataRange>, offset: u64, length: u64) -> Result<(), &'static str> {
    let end = offset
        .checked_add(length)
        .ok_or("a sparse file has a range that no file has")?;
    // The last one of a file that ends with a hole is empty.
    if length == 0 {
        return Ok(());
    }
    let full = map.len() >= MAX_RANGES;
    match map.last_mut() {
        Some(last) if last.offset + last.length > offset => {
            return Err("a sparse file has ranges that overlap or are out of order");
        }
        // Ranges of a tree do not touch.
        Some(last) if last.offset + last.length == offset => last.length = end - last.offset,
        _ if full => return Err("a sparse file has too many ranges"),
        _ => map.push(DataRange { offset, length }),
    }
    Ok(())
}

/// A number in decimal digits.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, digit| {
        let digit = Some(digit.wrapping_sub(b'0')).filter(|digit| *digit < 10)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// Seconds with a fraction, perhaps before 1970: `-1.5`.
fn time(text: &[u8]) -> Option<Timestamp> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |&byte| byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    let mut nanoseconds = 0u32;
    for at in 0..9 {
        let digit = match fraction.get(at) {
            Some(digit) => Some(digit.wrapping_sub(b'0')).filter(|digit| *digit < 10)?,
            None => 0,
        };
        nanoseconds = nanoseconds * 10 + u32::from(digit);
    }
    // Times before 1970 count from the second below.
    Some(match (negative, nanoseconds) {
        (false, nanoseconds) => Timestamp {
            seconds,
            nanoseconds,
        },
        (true, 0) => Timestamp {
            seconds: -seconds,
            nanoseconds: 0,
        },
        (true, nanoseconds) => Timestamp {
            seconds: -seconds - 1,
            nanoseconds: 1_000_000_000 - nanoseconds,
        },
    })
}

/// The name of the extended attribute that a record's key stands for, as star and
/// GNU tar write it. GNU tar escapes the equals sign that would end the key, and the
/// escape itself; what else stands behind a percent sign is of programs that escape
/// nothing.
pub(crate) fn attribute(key: &[u8]) -> Option<Vec<u8>> {
    let mut rest = key.strip_prefix(b"SCHILY.xattr.")?;
    let mut name = Vec::with_capacity(rest.len());
    while let Some((&byte, after)) = rest.split_first() {
        let (byte, after) = match (byte, after) {
            (b'%', [b'3', b'D', after @ ..]) => (b'=', after),
            (b'%', [b'2', b'5', after @ ..]) => (b'%', after),
            plain => plain,
        };
        name.push(byte);
        rest = after;
    }
    Some(name)
}

fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let hex = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        let pair = text.get(at + 1..at + 3);
        let decoded = pair.and_then(|pair| Some(hex(pair[0])? << 4 | hex(pair[1])?));
        match decoded.filter(|_| byte == b'%') {
            Some(decoded) => {
                bytes.push(decoded);
                at += 3;
            }
            None => {
                bytes.push(byte);
                at += 1;
            }
        }
    }
    bytes
}

fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for &byte in text.iter().filter(|&&byte| byte != b'=') {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xFF).ok()?);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_may_lie_before_1970_and_have_fractions() {
        let at = |seconds, nanoseconds| {
            Some(Timestamp {
                seconds,
                nanoseconds,
            })
        };
        for (text, time_is) in [
            ("0", at(0, 0)),
            ("1700000000.5", at(1_700_000_000, 500_000_000)),
            ("1.0000000019", at(1, 1)),
            ("-1.25", at(-2, 750_000_000)),
            ("-3", at(-3, 0)),
            ("x", None),
            ("1.x", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(time(text.as_bytes()), time_is, "{text}");
        }
    }

    #[test]
    fn attributes_come_in_two_notations() {
        let mut records = Records::default();
        records
            .read(b"35 SCHILY.xattr.user.o%3D%25%e=1=1\n40 LIBARCHIVE.xattr.user.t%77o=dHdvAA==\n\0\0")
            .unwrap();
        let found: Vec<(&[u8], &[u8])> = records
            .xattrs
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        assert_eq!(
            found,
            [(&b"user.o=%%e"[..], &b"1=1"[..]), (b"user.two", b"two\0")]
        );
    }

    #[test]
    fn broken_records_are_errors() {
        for text in [
            "x path=a\n",
            "99 path=a\n",
            "4 =\n",
            "9 path=ab",
            "8 patha\n",
            "0 path=a\n",
            "11 size=-1\n",
            "21 uid=99999999999999\n",
        ] {
            assert!(Records::default().read(text.as_bytes()).is_err(), "{text}");
        }
    }
}
