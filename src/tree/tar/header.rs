//! The header block of a member: POSIX ustar and GNU's variations.
//!
//! Specifications: POSIX.1-2017 `pax`, “ustar Interchange Format”; GNU tar's
//! manual, “Basic Tar Format”.

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Headers and data come in blocks of this many bytes.
pub(super) const BLOCK: u64 = 512;
/// The same as an array's length.
pub(super) const BLOCK_SIZE: usize = 512;

/// A header as it lies in the archive.
#[derive(Debug, Clone, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    pub name: [u8; 100],
    pub mode: [u8; 8],
    pub uid: [u8; 8],
    pub gid: [u8; 8],
    pub size: [u8; 12],
    pub mtime: [u8; 12],
    pub chksum: [u8; 8],
    pub typeflag: u8,
    pub linkname: [u8; 100],
    pub magic: [u8; 6],
    pub version: [u8; 2],
    pub uname: [u8; 32],
    pub gname: [u8; 32],
    pub devmajor: [u8; 8],
    pub devminor: [u8; 8],
    pub prefix: [u8; 155],
    pub pad: [u8; 12],
}

const _: () = assert!(size_of::<Header>() == BLOCK_SIZE);

/// Where the checksum field is, which counts as spaces in the sum.
const CHECKSUM_FIELD: std::ops::Range<usize> = 148..156;

/// Fields that GNU's old sparse members have in the place of `prefix`.
pub(super) struct OldSparse<'a> {
    /// Pairs of offset and length, 12 bytes each.
    pub entries: &'a [u8],
    /// Whether a block with further entries follows.
    pub extended: bool,
    /// The file's size with its holes.
    pub real_size: &'a [u8],
}

impl Header {
    /// Whether the checksum is that of the block.
    pub(super) fn checksum_matches(&self, block: &[u8; BLOCK_SIZE]) -> bool {
        let Some(wanted) = number(&self.chksum) else {
            return false;
        };
        let byte = |(at, byte): (usize, &u8)| {
            if CHECKSUM_FIELD.contains(&at) {
                b' '
            } else {
                *byte
            }
        };
        let unsigned: i64 = block.iter().enumerate().map(|b| i64::from(byte(b))).sum();
        // Some old programs added signed bytes.
        let signed: i64 = block
            .iter()
            .enumerate()
            .map(|b| i64::from(byte(b).cast_signed()))
            .sum();
        wanted == unsigned || wanted == signed
    }

    /// Whether it is of the format that POSIX has; GNU's is marked `ustar  `.
    pub(super) fn is_ustar(&self) -> bool {
        self.magic == *b"ustar\0"
    }

    /// The name with its prefix, as ustar divides it.
    pub(super) fn path(&self) -> Vec<u8> {
        let name = text(&self.name);
        let prefix = text(&self.prefix);
        // GNU's headers (`ustar  `) have times in the place of the prefix.
        if prefix.is_empty() || !self.is_ustar() {
            return name.to_vec();
        }
        [prefix, b"/", name].concat()
    }

    /// GNU's old sparse fields.
    pub(super) fn old_sparse<'a>(&self, block: &'a [u8; BLOCK_SIZE]) -> OldSparse<'a> {
        OldSparse {
            entries: &block[386..482],
            extended: block[482] != 0,
            real_size: &block[483..495],
        }
    }
}

/// A field's bytes up to the first zero.
pub(super) fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&byte| byte == 0);
    &field[..end.unwrap_or(field.len())]
}

/// A number in octal digits, or in GNU's base 256; `None` if it is neither or
/// does not fit. An empty field is 0.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(&first) if first & 0x80 != 0 => {
            // Two's complement in big endian; the highest bit only marks it.
            let negative = first & 0x40 != 0;
            let start: i128 = if negative { -1 } else { 0 };
            let value = field
                .iter()
                .enumerate()
                .try_fold(start, |value, (at, &byte)| {
                    let byte = match (at, negative) {
                        (0, false) => byte & 0x3F,
                        _ => byte,
                    };
                    value.checked_mul(256)?.checked_add(i128::from(byte))
                })?;
            i64::try_from(value).ok()
        }
        _ => {
            let digits = field.trim_ascii_start();
            let end = digits
                .iter()
                .position(|byte| !byte.is_ascii_digit())
                .unwrap_or(digits.len());
            let (digits, rest) = digits.split_at(end);
            if rest.iter().any(|&byte| !matches!(byte, 0 | b' ')) && !digits.is_empty()
                || digits.is_empty() && rest.first().is_some_and(|&byte| !matches!(byte, 0 | b' '))
            {
                return None;
            }
            digits.iter().try_fold(0i64, |value, &digit| {
                let digit = Some(digit - b'0').filter(|digit| *digit < 8)?;
                value.checked_mul(8)?.checked_add(i64::from(digit))
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   755 \0", Some(0o755)),
            (b"\0\0\0\0", Some(0)),
            (b"", Some(0)),
            (b"77777777777 ", Some(0o77_777_777_777)),
            (b"\x80\0\0\0\0\0\0\x01\0\0\0\0", Some(1 << 32)),
            (
                b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
                Some(-1),
            ),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"0000648\0", None),
            (b"12x\0", None),
            (b"x\0", None),
        ] {
            assert_eq!(number(field), value, "{field:?}");
        }
    }
}
