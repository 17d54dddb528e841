//! Extended attributes: behind the inode's fields where there is room, the rest
//! in a block, which inodes with the same attributes share. With the feature
//! `ea_inode`, values that a block has no room for become inodes of their own.

use zerocopy::IntoBytes as _;

use super::format::{XATTR_MAGIC, XattrEntry, XattrHeader};
use super::units::{InodeNo, count};
use crate::tree::Xattrs;

/// Prefixes of names and the numbers that stand for them. The first that
/// matches counts.
const NAMESPACES: [(&[u8], u8); 6] = [
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"user.", 1),
    (b"trusted.", 4),
    (b"security.", 6),
    (b"system.", 7),
];

/// Bytes of a block beside its attributes: the header, and the end of the list.
const BLOCK_FIELDS: usize = size_of::<XattrHeader>() + 4;

/// Why attributes cannot be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Problem {
    /// One attribute is not storable.
    Name {
        name: Box<[u8]>,
        reason: &'static str,
    },
    /// Together they are too large: bytes needed, bytes there are.
    TooLarge { needed: usize, limit: usize },
    /// So are they with all values in inodes of their own.
    NamesTooLarge { needed: usize, limit: usize },
}

/// Attributes as ext4 stores them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Encoded {
    /// What goes behind the inode's fields; empty if nothing does.
    pub(super) inline: Box<[u8]>,
    /// The block, with reference count and checksum still zero.
    pub(super) block: Option<Box<[u8]>>,
    /// Inodes that the block refers to for values.
    pub(super) values: Vec<InodeNo>,
    /// Blocks of those inodes, which count as the file's own too.
    pub(super) value_blocks: u64,
}

/// An inode that holds a value, and the value's checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct External {
    pub(super) inode: InodeNo,
    pub(super) checksum: u32,
}

/// Gives values their inodes.
pub(super) type GiveInode<'a> = &'a dyn Fn(&[u8]) -> External;

/// The values of a set that need inodes of their own.
pub(super) fn external_values(
    set: &Xattrs,
    room: usize,
    block_size: usize,
) -> Result<Vec<Box<[u8]>>, Problem> {
    let found = std::cell::RefCell::new(Vec::new());
    encode(
        set,
        room,
        block_size,
        Some(&|value| {
            found.borrow_mut().push(value.into());
            External {
                inode: InodeNo(0),
                checksum: 0,
            }
        }),
    )?;
    Ok(found.into_inner())
}

struct Attribute<'a> {
    namespace: u8,
    name: &'a [u8],
    value: Vec<u8>,
    /// Where the value is, if not with the entry.
    external: Option<External>,
}

impl Attribute<'_> {
    fn entry_len(&self) -> usize {
        (size_of::<XattrEntry>() + self.name.len()).next_multiple_of(4)
    }

    fn value_len(&self) -> usize {
        if self.external.is_some() {
            return 0;
        }
        self.value.len().next_multiple_of(4)
    }

    /// Bytes of all of it.
    fn len(&self) -> usize {
        self.entry_len() + self.value_len()
    }

    /// The order that the kernel searches blocks in.
    fn in_order(&self, other: &Attribute<'_>) -> std::cmp::Ordering {
        let own = (self.namespace, self.name.len(), self.name);
        own.cmp(&(other.namespace, other.name.len(), other.name))
    }
}

/// Encodes a set of attributes. `room` is what an inode has behind its fields.
///
/// Without `give_inode` a set that is too large for a block is a problem.
pub(super) fn encode(
    set: &Xattrs,
    room: usize,
    block_size: usize,
    give_inode: Option<GiveInode<'_>>,
) -> Result<Encoded, Problem> {
    let mut by_urgency = attributes(set)?;
    // What the kernel reads most often goes into the inode first: ACLs and
    // capabilities are looked at on every access.
    by_urgency.sort_by_key(|attribute| matches!(attribute.namespace, 1 | 4));
    let free = room.saturating_sub(8);
    let mut places = in_turn(&by_urgency, free);
    if overflows(&by_urgency, &places, block_size) {
        places = fullest(&by_urgency, free);
    }
    let (mut inline, mut block) = (Vec::new(), Vec::new());
    for (attribute, is_inline) in by_urgency.into_iter().zip(places) {
        if is_inline {
            inline.push(attribute);
        } else {
            block.push(attribute);
        }
    }
    inline.sort_by(Attribute::in_order);
    block.sort_by(Attribute::in_order);

    let mut encoded = Encoded {
        inline: Box::default(),
        block: None,
        values: Vec::new(),
        value_blocks: 0,
    };
    if !inline.is_empty() {
        let mut bytes = vec![0; room];
        bytes[..4].copy_from_slice(&XATTR_MAGIC.to_le_bytes());
        // Offsets of values count from the first entry.
        write(&mut bytes[4..], 0, &inline, false);
        encoded.inline = bytes.into_boxed_slice();
    }
    if !block.is_empty() {
        if let Some(give_inode) = give_inode {
            move_values(&mut block, block_size, give_inode, &mut encoded);
        }
        encoded.block = Some(match (encode_block(&block, block_size), give_inode) {
            (Err(Problem::TooLarge { needed, limit }), Some(_)) => {
                return Err(Problem::NamesTooLarge { needed, limit });
            }
            (result, _) => result?,
        });
    }
    Ok(encoded)
}

/// Which attributes go into the inode: each that still fits, in turn.
fn in_turn(attributes: &[Attribute<'_>], mut free: usize) -> Vec<bool> {
    let fits = |attribute: &Attribute<'_>| {
        let needed = attribute.len();
        let fits = needed <= free;
        if fits {
            free -= needed;
        }
        fits
    };
    attributes.iter().map(fits).collect()
}

/// Whether those that do not go into the inode are too large for a block.
fn overflows(attributes: &[Attribute<'_>], inline: &[bool], block_size: usize) -> bool {
    let all = attributes.iter().zip(inline);
    let rest = all.filter(|&(_, &is_inline)| !is_inline);
    BLOCK_FIELDS + rest.map(|(one, _)| one.len()).sum::<usize>() > block_size
}

/// Which attributes go into the inode so that it is as full as it can be, and what is left
/// for the block as little.
fn fullest(attributes: &[Attribute<'_>], free: usize) -> Vec<bool> {
    // For each number of bytes that some of them fill, the last of those that do.
    let mut last: Vec<Option<usize>> = vec![None; free + 1];
    for (number, attribute) in attributes.iter().enumerate() {
        let length = attribute.len();
        for filled in (length..=free).rev() {
            let before = filled - length;
            if last[filled].is_none() && (before == 0 || last[before].is_some()) {
                last[filled] = Some(number);
            }
        }
    }
    let mut inline = vec![false; attributes.len()];
    let mut filled = last.iter().rposition(Option::is_some).unwrap_or(0);
    while let Some(number) = last[filled] {
        inline[number] = true;
        filled -= attributes[number].len();
    }
    inline
}

/// The attributes of a set as the filesystem names them, in order.
fn attributes(set: &Xattrs) -> Result<Vec<Attribute<'_>>, Problem> {
    let mut attributes = Vec::with_capacity(set.len());
    for (full, value) in set {
        let problem = |reason| Problem::Name {
            name: full.clone(),
            reason,
        };
        let (prefix, namespace) = NAMESPACES
            .iter()
            .find(|(prefix, _)| full.starts_with(prefix))
            .ok_or_else(|| {
                problem("its namespace is none of user, trusted, security and system")
            })?;
        let name = full.get(prefix.len()..).unwrap_or_default();
        let is_acl = matches!(namespace, 2 | 3);
        if is_acl && !name.is_empty() || !is_acl && name.is_empty() {
            return Err(problem("its name is not complete"));
        }
        if name.len() > 255 {
            return Err(problem("its name is longer than 255 bytes"));
        }
        let value = if is_acl {
            acl(value).map_err(problem)?
        } else {
            value.to_vec()
        };
        attributes.push(Attribute {
            namespace: *namespace,
            name,
            value,
            external: None,
        });
    }
    attributes.sort_by(Attribute::in_order);
    Ok(attributes)
}

/// Bytes of a block with these attributes.
fn block_len(block: &[Attribute<'_>]) -> usize {
    BLOCK_FIELDS + block.iter().map(Attribute::len).sum::<usize>()
}

/// Gives values inodes of their own until the others fit into a block. The largest
/// ones first, so that few inodes are needed.
fn move_values(
    block: &mut [Attribute<'_>],
    block_size: usize,
    give_inode: GiveInode<'_>,
    encoded: &mut Encoded,
) {
    while block_len(block) > block_size {
        let values = block.iter_mut();
        let values = values.filter(|attribute| attribute.value_len() > 0);
        let Some(largest) = values.max_by_key(|attribute| attribute.value_len()) else {
            break;
        };
        let external = give_inode(&largest.value);
        encoded.values.push(external.inode);
        encoded.value_blocks += count(largest.value.len().div_ceil(block_size));
        largest.external = Some(external);
    }
}

fn encode_block(block: &[Attribute<'_>], block_size: usize) -> Result<Box<[u8]>, Problem> {
    let needed = block_len(block);
    if needed > block_size {
        return Err(Problem::TooLarge {
            needed,
            limit: block_size,
        });
    }
    let header = size_of::<XattrHeader>();
    let mut bytes = vec![0; block_size];
    let hash = write(&mut bytes, header, block, true);
    let fields = XattrHeader {
        h_magic: XATTR_MAGIC.into(),
        h_refcount: 0.into(),
        h_blocks: 1.into(),
        h_hash: hash.into(),
        h_checksum: 0.into(),
        h_reserved: [0.into(); 3],
    };
    bytes[..header].copy_from_slice(fields.as_bytes());
    Ok(bytes.into_boxed_slice())
}

/// Writes entries from `start` on, forwards, and their values from the end on,
/// backwards. Returns the hash of all.
fn write(bytes: &mut [u8], start: usize, attributes: &[Attribute<'_>], hashed: bool) -> u32 {
    let (mut at, mut end) = (start, bytes.len());
    let mut total = 0u32;
    let mut all_hashed = true;
    for attribute in attributes {
        end -= attribute.value_len();
        let hash = match attribute.external {
            Some(external) => entry_hash(attribute.name, &external.checksum.to_le_bytes()),
            None => {
                bytes[end..end + attribute.value.len()].copy_from_slice(&attribute.value);
                if hashed {
                    entry_hash(attribute.name, &attribute.value)
                } else {
                    0
                }
            }
        };
        all_hashed &= hash != 0;
        total = total.rotate_left(16) ^ hash;
        // An empty value has no place.
        let offset = if attribute.value_len() == 0 { 0 } else { end };
        let entry = XattrEntry {
            e_name_len: u8::try_from(attribute.name.len()).unwrap_or(u8::MAX),
            e_name_index: attribute.namespace,
            e_value_offs: u16::try_from(offset).unwrap_or(u16::MAX).into(),
            e_value_inum: attribute.external.map_or(0, |one| one.inode.0).into(),
            e_value_size: u32::try_from(attribute.value.len())
                .unwrap_or(u32::MAX)
                .into(),
            e_hash: hash.into(),
        };
        let name = at + size_of::<XattrEntry>();
        bytes[at..name].copy_from_slice(entry.as_bytes());
        bytes[name..name + attribute.name.len()].copy_from_slice(attribute.name);
        at += attribute.entry_len();
    }
    // One entry that must not be shared makes the block unshareable.
    if all_hashed { total } else { 0 }
}

/// `e_hash`: over the name's bytes, then over the value's words.
fn entry_hash(name: &[u8], value: &[u8]) -> u32 {
    let hash = name
        .iter()
        .fold(0u32, |hash, &byte| hash.rotate_left(5) ^ u32::from(byte));
    value.chunks(4).fold(hash, |hash, bytes| {
        let word = bytes
            .iter()
            .rev()
            .fold(0, |word, &byte| word << 8 | u32::from(byte));
        hash.rotate_left(16) ^ word
    })
}

/// A POSIX ACL from the form that programs see (version 2: every entry has an
/// id) to the form on disk (version 1: only entries of named users and groups
/// have one).
fn acl(value: &[u8]) -> Result<Vec<u8>, &'static str> {
    const NAMED: [u16; 2] = [2, 8];
    const KNOWN: [u16; 6] = [1, 2, 4, 8, 16, 32];
    let Some((&[2, 0, 0, 0], entries)) = value.split_first_chunk::<4>() else {
        return Err("it is not a POSIX ACL of version 2");
    };
    let (entries, rest) = entries.as_chunks::<8>();
    if !rest.is_empty() {
        return Err("its length is not that of a POSIX ACL");
    }
    let mut disk = vec![1, 0, 0, 0];
    for entry in entries {
        let [tag_low, tag_high, _, _, id @ ..] = entry;
        let tag = u16::from_le_bytes([*tag_low, *tag_high]);
        if !KNOWN.contains(&tag) {
            return Err("an entry of the POSIX ACL has an unknown type");
        }
        disk.extend_from_slice(&entry[..4]);
        if NAMED.contains(&tag) {
            disk.extend_from_slice(id);
        }
    }
    Ok(disk)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pairs: &[(&str, &[u8])]) -> Xattrs {
        pairs
            .iter()
            .map(|(name, value)| (name.as_bytes().into(), (*value).into()))
            .collect()
    }

    #[test]
    fn small_attributes_stay_in_the_inode() {
        let encoded = encode(
            &set(&[("user.a", b"1"), ("security.x", b"23")]),
            96,
            4096,
            None,
        )
        .unwrap();
        assert_eq!(encoded.inline.len(), 96);
        assert_eq!(encoded.block, None);
    }

    #[test]
    fn a_large_attribute_moves_to_a_block_and_small_ones_stay() {
        let large = [7; 3000];
        let encoded = encode(
            &set(&[("user.large", &large), ("user.a", b"1")]),
            96,
            4096,
            None,
        )
        .unwrap();
        assert!(!encoded.inline.is_empty());
        assert!(encoded.block.is_some());
    }

    #[test]
    fn attributes_that_no_block_holds_are_refused_with_their_size() {
        let large = [7; 5000];
        let problem = encode(&set(&[("user.large", &large)]), 96, 4096, None).unwrap_err();
        assert_eq!(
            problem,
            Problem::TooLarge {
                needed: 36 + 24 + 5000,
                limit: 4096
            }
        );
    }

    /// Taken in turn, the small one would keep the middle one out of the inode, and the
    /// block has no room for that.
    #[test]
    fn attributes_that_fit_in_some_way_are_stored() {
        let large = [7; 4012];
        let set = set(&[
            ("user.a", b"1"),
            ("user.b", &[2; 60]),
            ("user.large", &large),
        ]);
        let encoded = encode(&set, 96, 4096, None).unwrap();
        let in_block = |bytes: &[u8]| {
            let block = encoded.block.as_ref().unwrap();
            block.windows(bytes.len()).any(|window| window == bytes)
        };
        assert!(in_block(&large) && !in_block(&[2; 60]));
        assert!(encoded.inline.windows(60).any(|window| window == [2; 60]));
    }

    #[test]
    fn names_that_no_block_holds_are_refused_even_without_their_values() {
        let names: Vec<String> = (0..30)
            .map(|number| format!("user.{number:0200}"))
            .collect();
        let pairs: Vec<(&str, &[u8])> = names.iter().map(|name| (&**name, &b"1"[..])).collect();
        let give = |_: &[u8]| External {
            inode: InodeNo(12),
            checksum: 0,
        };
        let problem = encode(&set(&pairs), 96, 4096, Some(&give)).unwrap_err();
        let needed = 36 + 30 * 216;
        assert_eq!(
            problem,
            Problem::NamesTooLarge {
                needed,
                limit: 4096
            }
        );
    }

    #[test]
    fn an_acl_loses_the_ids_of_entries_that_have_none() {
        let mut value = vec![2, 0, 0, 0];
        for (tag, id) in [
            (1u16, u32::MAX),
            (2, 1000),
            (4, u32::MAX),
            (16, u32::MAX),
            (32, u32::MAX),
        ] {
            value.extend_from_slice(&tag.to_le_bytes());
            value.extend_from_slice(&7u16.to_le_bytes());
            value.extend_from_slice(&id.to_le_bytes());
        }
        let disk = acl(&value).unwrap();
        assert_eq!(disk.len(), 4 + 4 * 4 + 8);
        assert_eq!(disk[..4], [1, 0, 0, 0]);
        assert_eq!(disk[8..16], [2, 0, 7, 0, 0xE8, 3, 0, 0]);
        assert!(acl(b"\x01\0\0\0").is_err());
        assert!(acl(&value[..value.len() - 1]).is_err());
    }

    #[test]
    fn unknown_namespaces_are_refused() {
        for name in ["os2.thing", "user.", "system.posix_acl_accessory"] {
            assert!(
                matches!(
                    encode(&set(&[(name, b"1")]), 96, 4096, None),
                    Err(Problem::Name { .. })
                ),
                "{name}"
            );
        }
    }
}
