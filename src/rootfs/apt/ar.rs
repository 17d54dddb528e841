//! The `ar` format, as far as .deb files use it (deb(5), `<ar.h>`).
//!
//! ```text
//! "!<arch>\n" { name[16] mtime[12] uid[6] gid[6] mode[8] size[10] "`\n" data pad }
//! ```

use std::io::{self, Read};

/// Bytes at the begin of every archive.
const MAGIC: &[u8; 8] = b"!<arch>\n";
/// Size of a member's header.
const HEADER: usize = 60;

/// Where a member's data is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name, without padding and without a trailing slash.
    pub name: String,
    /// Offset of its data in the archive, in bytes.
    pub offset: u64,
    /// Size of its data in bytes.
    pub size: u64,
}

/// Why a file is not an archive.
#[derive(Debug, thiserror::Error)]
pub enum ArError {
    /// It cannot be read.
    #[error("it cannot be read")]
    Read(#[from] io::Error),
    /// It does not begin as an archive does.
    #[error("it is not an ar archive")]
    Magic,
    /// A header is malformed.
    #[error("the member header at byte {offset} is malformed")]
    Header {
        /// Where.
        offset: u64,
    },
    /// A member does not fit into the file.
    #[error("member `{name}` goes beyond the end of the file")]
    Truncated {
        /// The member.
        name: String,
    },
    /// There are more members than any .deb has.
    #[error("it has more than {limit} members")]
    TooMany {
        /// The limit.
        limit: usize,
    },
}

/// Members that are read at most.
const MEMBERS: usize = 64;

/// Lists the members of an archive; `skip` moves the reader forward by so many bytes.
pub fn members<R: Read>(
    reader: &mut R,
    length: u64,
    mut skip: impl FnMut(&mut R, u64) -> io::Result<()>,
) -> Result<Vec<Member>, ArError> {
    let mut magic = [0; 8];
    match reader.read_exact(&mut magic) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(ArError::Magic),
        result => result?,
    }
    if magic != *MAGIC {
        return Err(ArError::Magic);
    }
    let mut offset = 8_u64;
    let mut members = Vec::new();
    while offset < length {
        if members.len() == MEMBERS {
            return Err(ArError::TooMany { limit: MEMBERS });
        }
        let fail = || ArError::Header { offset };
        let mut header = [0; HEADER];
        match reader.read_exact(&mut header) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(fail()),
            result => result?,
        }
        let field = |range: std::ops::Range<usize>| {
            header
                .get(range)
                .and_then(|bytes| std::str::from_utf8(bytes).ok())
                .map(str::trim_end)
                .ok_or_else(fail)
        };
        if !header.ends_with(b"`\n") {
            return Err(fail());
        }
        let name = field(0..16)?;
        let name = name.strip_suffix('/').unwrap_or(name).to_owned();
        let digits = field(48..58)?;
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(fail());
        }
        let size: u64 = digits.parse().map_err(|_| fail())?;
        let data = offset + 60;
        let end = data.checked_add(size).filter(|end| *end <= length);
        let Some(end) = end else {
            return Err(ArError::Truncated { name });
        };
        members.push(Member {
            name,
            offset: data,
            size,
        });
        // Members begin at even offsets; the padding after the last may be missing.
        let next = (end + end % 2).min(length);
        skip(reader, next - data)?;
        offset = next;
    }
    Ok(members)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Makes an archive.
    pub fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        for (name, data) in members {
            out.extend(
                format!(
                    "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n",
                    0,
                    0,
                    0,
                    "100644",
                    data.len()
                )
                .bytes(),
            );
            out.extend(*data);
            if data.len() % 2 == 1 {
                out.push(b'\n');
            }
        }
        out
    }

    fn list(bytes: &[u8]) -> Result<Vec<Member>, ArError> {
        let length = u64::try_from(bytes.len()).expect("small");
        members(&mut &*bytes, length, |reader, count| {
            let count = usize::try_from(count).expect("small");
            *reader = reader.get(count..).ok_or(io::ErrorKind::UnexpectedEof)?;
            Ok(())
        })
    }

    #[test]
    fn damage_is_told_apart() {
        let good = archive(&[("debian-binary", b"2.0\n"), ("x/", b"odd")]);
        assert_eq!(list(&good).expect("valid").len(), 2);
        assert_eq!(list(&good).expect("valid")[1].name, "x");
        assert!(matches!(list(b""), Err(ArError::Magic)));
        assert!(matches!(
            list(b"!<arch>\nshort"),
            Err(ArError::Header { offset: 8 })
        ));
        assert!(matches!(
            list(&good[..good.len() - 2]),
            Err(ArError::Truncated { .. })
        ));
        let many: Vec<(&str, &[u8])> = vec![("a", b""); 65];
        assert!(matches!(
            list(&archive(&many)),
            Err(ArError::TooMany { .. })
        ));
    }

    proptest! {
        #[test]
        fn members_are_found_where_they_are(data in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..5)) {
            let members: Vec<(&str, &[u8])> = data.iter().map(|d| ("m", d.as_slice())).collect();
            let bytes = archive(&members);
            let found = list(&bytes).expect("valid");
            prop_assert_eq!(found.len(), data.len());
            for (member, data) in found.iter().zip(&data) {
                let from = usize::try_from(member.offset).expect("small");
                prop_assert_eq!(&bytes[from..from + data.len()], data.as_slice());
            }
        }

        #[test]
        fn rubbish_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..200), magic in any::<bool>()) {
            if magic { bytes.splice(0..0, *MAGIC); }
            let _ = list(&bytes);
        }
    }
}
