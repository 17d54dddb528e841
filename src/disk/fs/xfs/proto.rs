//! The protofile: the tree in the words of `mkfs.xfs -p`.
//!
//! A protofile knows names without white space, owners, and permissions without
//! the sticky bit. What it cannot say is put right afterwards ([`super::fix`]);
//! to find each file again, its number in the tree stands in the place of its
//! owner. Names and links that would be taken apart get stand-ins of the same
//! length, and names of the same hash, so that they can be put right in place.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use super::Error;
use crate::tree::{InodeId, Kind, NodeId, Tree};

/// Bytes that are copied at once.
const COPY: usize = 1 << 20;

/// Writes the protofile into `directory`, with files for it beside it. `largest` is
/// how many bytes of a file mkfs.xfs reads.
pub(super) fn write(
    tree: &Arc<Tree>,
    directory: &Path,
    largest: u64,
) -> Result<std::path::PathBuf, Error> {
    let path = directory.join("protofile");
    let failed = |source| Error::Io {
        action: "write",
        path: path.clone(),
        source,
    };
    let mut proto = Proto {
        tree,
        reader: tree.reader(),
        directory,
        largest,
        named: vec![false; tree.inodes().len()],
        text: Vec::new(),
    };
    // The boot program that is not there, and numbers that nobody looks at.
    proto.text.extend_from_slice(b"/dev/null\n0 0\n");
    proto.node(NodeId::ROOT)?;
    let mut file = File::create(&path).map_err(failed)?;
    file.write_all(&proto.text).map_err(failed)?;
    Ok(path)
}

struct Proto<'a> {
    tree: &'a Arc<Tree>,
    reader: crate::tree::Reader,
    directory: &'a Path,
    largest: u64,
    /// Inodes that have had their first name.
    named: Vec<bool>,
    text: Vec<u8>,
}

impl Proto<'_> {
    /// The line of a name, and what is in a directory. Deep trees are no
    /// recursion: the stack is our own.
    fn node(&mut self, root: NodeId) -> Result<(), Error> {
        enum Next {
            Node(NodeId),
            End,
        }
        let mut stack = vec![Next::Node(root)];
        while let Some(next) = stack.pop() {
            let id = match next {
                Next::Node(id) => id,
                Next::End => {
                    self.text.extend_from_slice(b"$\n");
                    continue;
                }
            };
            if id != NodeId::ROOT {
                let name = stand_in(self.tree.name(id));
                let name = name.ok_or_else(|| Error::Unsupported {
                    path: self.tree.path(id),
                    problem: "mkfs.xfs cannot read its name",
                })?;
                self.text.extend_from_slice(&name);
                self.text.push(b' ');
            }
            self.line(id)?;
            if self.tree.inode_of(id).is_directory() {
                stack.push(Next::End);
                let children = self.tree.children(id).iter().rev();
                stack.extend(children.map(|&child| Next::Node(child)));
            }
        }
        Ok(())
    }

    fn line(&mut self, id: NodeId) -> Result<(), Error> {
        let inode_id = self.tree.node(id).inode;
        let inode = self.tree.inode(inode_id);
        let first = !std::mem::replace(&mut self.named[inode_id.index()], true);
        let mode = inode.mode & 0o777;
        let mut text = String::new();
        let mut head = |letter: char| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{letter}--{mode:03o} {} 0", id.0);
        };
        match &inode.kind {
            // The entry of a further name is led to the first one's inode.
            Kind::File(_) if !first => {
                head('-');
                text.push_str(" /dev/null");
            }
            Kind::File(content) if content.size == 0 => {
                head('-');
                text.push_str(" /dev/null");
            }
            Kind::File(content) if content.size > self.largest => {
                return Err(Error::Unsupported {
                    path: self.tree.path(id),
                    problem: "mkfs.xfs before 6.13 takes no files of more than 2 GiB",
                });
            }
            Kind::File(_) => {
                head('-');
                self.text.extend_from_slice(text.as_bytes());
                self.text.push(b' ');
                let path = self.data(inode_id)?;
                self.text.extend_from_slice(&path);
                text.clear();
            }
            Kind::Directory => head('d'),
            // As long a target might take a block, which would not be freed.
            Kind::Symlink(_) if !first => {
                head('l');
                text.push_str(" x");
            }
            Kind::Symlink(target) => {
                head('l');
                text.push(' ');
                self.text.extend_from_slice(text.as_bytes());
                self.text.extend_from_slice(&stand_in_target(target));
                text.clear();
            }
            Kind::CharDevice(device) | Kind::BlockDevice(device) => {
                let block = matches!(inode.kind, Kind::BlockDevice(_));
                head(if block { 'b' } else { 'c' });
                let _ = write!(text, " {} {}", device.major, device.minor);
            }
            // Sockets become such afterwards.
            Kind::Fifo | Kind::Socket => head('p'),
        }
        self.text.extend_from_slice(text.as_bytes());
        self.text.push(b'\n');
        Ok(())
    }

    /// A path by which mkfs.xfs finds a file's bytes.
    fn data(&mut self, inode: InodeId) -> Result<Vec<u8>, Error> {
        let staged = self.directory.join(format!("{}", inode.0));
        let failed = |source| Error::Io {
            action: "write",
            path: staged.clone(),
            source,
        };
        if let Some(path) = self.tree.scanned_path(inode) {
            if !is_taken_apart(path.as_os_str().as_bytes()) {
                return Ok(path.into_os_string().into_encoded_bytes());
            }
            symlink(&path, &staged).map_err(failed)?;
        } else {
            let mut file = File::create(&staged).map_err(failed)?;
            let mut buffer = vec![0; COPY];
            let mut at = 0;
            loop {
                let count = self.reader.read_at(inode, at, &mut buffer)?;
                if count == 0 {
                    break;
                }
                file.write_all(&buffer[..count]).map_err(failed)?;
                at += count as u64;
            }
        }
        if is_taken_apart(staged.as_os_str().as_bytes()) {
            return Err(failed(io::Error::new(
                io::ErrorKind::InvalidFilename,
                "mkfs.xfs cannot read paths with white space",
            )));
        }
        Ok(staged.into_os_string().into_encoded_bytes())
    }
}

/// Whether a protofile's parser would not take this as one word.
fn is_taken_apart(word: &[u8]) -> bool {
    word.iter().any(|&byte| is_space(byte)) || matches!(word, [] | b"$" | [b':', ..])
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0)
}

/// A name of one word with the same length and the same hash.
///
/// The hash moves by seven bits from byte to byte, so the lowest bit of a byte
/// counts as the highest bit of the one behind it: changing both changes nothing.
/// `None` if the name is a single byte.
pub(super) fn stand_in(name: &[u8]) -> Option<Vec<u8>> {
    if !is_taken_apart(name) {
        return Some(name.to_vec());
    }
    let mut word = name.to_vec();
    let is_bad = |word: &[u8], at: usize| is_space(word[at]) || at == 0 && word[at] == b':';
    for at in 0..word.len() {
        if !is_bad(&word, at) {
            continue;
        }
        // With the byte behind, or with the one before.
        let pairs = [
            Some((at, at + 1)),
            at.checked_sub(1).map(|before| (before, at)),
        ];
        let fits = pairs.into_iter().flatten().find_map(|(low, high)| {
            let mut changed = word.clone();
            *changed.get_mut(low)? ^= 0x01;
            *changed.get_mut(high)? ^= 0x80;
            let good = !is_bad(&changed, low) && (high > at || !is_bad(&changed, high));
            good.then_some(changed)
        });
        word = fits?;
    }
    (!is_taken_apart(&word)).then_some(word)
}

/// A target of one word with the same length.
pub(super) fn stand_in_target(target: &[u8]) -> Vec<u8> {
    if is_taken_apart(target) {
        vec![b'x'; target.len()]
    } else {
        target.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `xfs_da_hashname`
    fn hash(name: &[u8]) -> u32 {
        let mut hash = 0u32;
        let (groups, rest) = name.as_chunks::<4>();
        for [a, b, c, d] in groups {
            let bits = u32::from(*a) << 21 ^ u32::from(*b) << 14 ^ u32::from(*c) << 7;
            hash = bits ^ u32::from(*d) ^ hash.rotate_left(28);
        }
        let turned = hash.rotate_left(7 * u32::try_from(rest.len()).unwrap());
        rest.iter()
            .rev()
            .enumerate()
            .fold(turned, |hash, (at, byte)| {
                hash ^ u32::from(*byte) << (7 * at)
            })
    }

    #[test]
    fn stand_ins_have_the_length_and_the_hash_of_the_name() {
        for name in [
            "plain",
            "a b",
            " ab",
            "ab ",
            "a  b",
            "  ",
            ":comment",
            ": x",
            "\t\n",
            "! !",
            "a b c d e f",
            "a\nb",
            " !",
            "   ",
            "The Long Name.txt",
            ". .",
            "- -",
        ] {
            let word = stand_in(name.as_bytes()).unwrap_or_else(|| panic!("{name:?}"));
            assert!(!is_taken_apart(&word), "{name:?} {word:?}");
            assert_eq!(word.len(), name.len());
            assert_eq!(hash(&word), hash(name.as_bytes()), "{name:?} {word:?}");
        }
        assert_eq!(stand_in(b"$"), None);
        assert_eq!(stand_in(b" "), None);
        // The neighbour would become white space.
        assert_eq!(stand_in(b"! "), None);
    }
}
