//! Access control lists in text form, as `SCHILY.acl.*` records have them.
//!
//! An entry is `TYPE:NAME:PERMISSIONS`; entries are separated by commas (star,
//! libarchive) or newlines (GNU tar). Star and libarchive add the number that the
//! name had as a fourth field. As with the owners of members, numbers count and
//! not names; where there is a name alone, the archive's own `/etc/passwd` and
//! `/etc/group` say whose it is. These may come later in the archive, so until its
//! end such a list is kept as text, under a name that no attribute can have.
//!
//! Specification: POSIX.1e draft 17, 23.3 “Access Control List Text
//! Representation”.

use std::collections::BTreeMap;

use std::sync::Arc;

use super::Records;
use crate::tree::acl::{ACCESS, Acl, DEFAULT, Who};
use crate::tree::users::Users;
use crate::tree::{Inode, Kind, Tree, Xattrs};

/// Most entries of a list: more do not fit an attribute's value.
const MAX_ENTRIES: usize = 8191;

/// Names of attributes, with those under which unresolved text is kept.
const LISTS: [(&[u8], &[u8]); 2] = [
    (ACCESS, b"\0system.posix_acl_access"),
    (DEFAULT, b"\0system.posix_acl_default"),
];

/// Gives a member the lists that its records have in text form. Returns whether
/// some name has to be [resolved](resolve_all) at the archive's end.
///
/// # Errors
/// What is wrong with them.
pub(super) fn give(records: &Records, inode: &mut Inode) -> Result<bool, &'static str> {
    // As tar does it: links have no lists, and only directories hand theirs down.
    let access = records.access_acl.as_deref();
    let access = access.filter(|_| !matches!(inode.kind, Kind::Symlink(_)));
    let default = records.default_acl.as_deref();
    let default = default.filter(|_| inode.is_directory());
    let mut unresolved = false;
    for ((name, kept), text) in LISTS.into_iter().zip([access, default]) {
        let Some(text) = text else { continue };
        let list = TextAcl::parse(text)?;
        // The attribute itself is exact where an archive has it, too.
        if inode
            .xattrs
            .as_ref()
            .is_some_and(|set| set.contains_key(name))
        {
            continue;
        }
        match list.known() {
            Some(acl) => set(inode, name, &acl),
            None => {
                let attributes = Arc::make_mut(inode.xattrs.get_or_insert_default());
                attributes.insert(kept.into(), text.into());
                unresolved = true;
            }
        }
    }
    Ok(unresolved)
}

/// Resolves the names in all lists that are kept as text.
pub(super) fn resolve_all(tree: Tree, warnings: &mut Vec<String>) -> Tree {
    let tree = Arc::new(tree);
    let mut unknown: BTreeMap<String, u64> = BTreeMap::new();
    let mut lists = BTreeMap::new();
    let users = Users::of(&tree);
    for (id, inode) in tree.inodes() {
        let Some(attributes) = &inode.xattrs else {
            continue;
        };
        let resolved = LISTS.map(|(_, kept)| {
            let list = TextAcl::parse(attributes.get(kept)?).ok()?;
            list.resolve(&users, |name| {
                *unknown.entry(name.to_owned()).or_default() += 1;
            })
        });
        if resolved.iter().any(Option::is_some) {
            lists.insert(id, resolved);
        }
    }
    if let Some((name, _)) = unknown.iter().next() {
        warnings.push(format!(
            "{} entries of access control lists are left out, because the archive's \
             `/etc/passwd` and `/etc/group` do not have their names, such as `{name}`; \
             make the archive with `tar --numeric-owner` to keep them",
            unknown.values().sum::<u64>()
        ));
    }
    drop(users);
    let tree = match Arc::try_unwrap(tree) {
        Ok(tree) => tree,
        Err(_) => unreachable!("nobody else was given the tree"),
    };
    tree.map_inodes(|id, inode| {
        for ((name, kept), acl) in LISTS
            .into_iter()
            .zip(lists.remove(&id).into_iter().flatten())
        {
            let Some(acl) = acl else { continue };
            if let Some(attributes) = &mut inode.xattrs {
                Arc::make_mut(attributes).remove(kept);
            }
            set(inode, name, &acl);
        }
    })
}

/// Gives a file a list, and the permission bits that go with it.
fn set(inode: &mut Inode, name: &[u8], acl: &Acl) {
    if name == ACCESS {
        inode.mode = inode.mode & !0o777 | acl.mode();
    }
    // As in the kernel, no list is kept that says no more than the bits.
    if name == DEFAULT || !acl.is_minimal() {
        let attributes: &mut Xattrs = Arc::make_mut(inode.xattrs.get_or_insert_default());
        attributes.insert(name.into(), acl.to_xattr());
    }
    inode.xattrs = inode.xattrs.take().filter(|set| !set.is_empty());
}

/// A list some of whose entries may have names alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TextAcl<'a> {
    entries: Vec<(Whom<'a>, u8)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whom<'a> {
    Known(Who),
    User(&'a str),
    Group(&'a str),
}

impl<'a> TextAcl<'a> {
    /// Reads a list.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(text: &'a [u8]) -> Result<TextAcl<'a>, &'static str> {
        const BROKEN: &str = "which has a broken access control list";
        let text = std::str::from_utf8(text).map_err(|_| BROKEN)?;
        let mut entries = Vec::new();
        for line in text.lines() {
            // Programs note there what a mask leaves of an entry.
            let line = line.split('#').next().unwrap_or_default();
            for entry in line.split(',').map(str::trim) {
                if entry.is_empty() {
                    continue;
                }
                if entries.len() == MAX_ENTRIES {
                    return Err(BROKEN);
                }
                entries.push(parse_entry(entry).ok_or(BROKEN)?);
            }
        }
        // Whatever the numbers of its names are, it is a list then.
        let numbers: Vec<_> = entries.iter().filter_map(known).collect();
        if numbers.len() < entries.len() && !numbers.iter().any(|(who, _)| *who == Who::Mask) {
            return Err(BROKEN);
        }
        Acl::new(numbers).map_err(|_| BROKEN)?;
        Ok(TextAcl { entries })
    }

    /// The list if there is no name whose number is not known.
    pub(super) fn known(&self) -> Option<Acl> {
        let entries = self.entries.iter().map(known).collect::<Option<_>>()?;
        Acl::new(entries).ok()
    }

    /// The list with the numbers that names have in a tree. Entries of names that
    /// nobody has there are left out and given to `unknown`.
    pub(super) fn resolve(&self, users: &Users<'_>, mut unknown: impl FnMut(&str)) -> Option<Acl> {
        let mut entries: BTreeMap<Who, u8> = BTreeMap::new();
        for (whom, permissions) in &self.entries {
            // A tree whose users cannot be read has none.
            let (name, who) = match whom {
                Whom::Known(who) => ("", Some(*who)),
                Whom::User(name) => {
                    let id = users.user(name).unwrap_or_default();
                    (*name, id.map(|(id, _)| Who::User(id)))
                }
                Whom::Group(name) => (*name, users.group(name).unwrap_or_default().map(Who::Group)),
            };
            match who {
                // Of two names of one user the first counts.
                Some(who) => drop(entries.entry(who).or_insert(*permissions)),
                None => unknown(name),
            }
        }
        Acl::new(entries.into_iter().collect()).ok()
    }
}

/// An entry that has a number.
fn known((whom, permissions): &(Whom<'_>, u8)) -> Option<(Who, u8)> {
    match whom {
        Whom::Known(who) => Some((*who, *permissions)),
        Whom::User(_) | Whom::Group(_) => None,
    }
}

fn parse_entry(entry: &str) -> Option<(Whom<'_>, u8)> {
    let mut fields = entry.split(':').map(str::trim);
    let mut kind = fields.next()?;
    // Both kinds of lists of a directory may be in one text.
    if matches!(kind, "default" | "d") {
        kind = fields.next()?;
    }
    let mut name = fields.next()?;
    let permissions = match (kind, fields.next()) {
        (_, Some(permissions)) => permissions,
        // Solaris leaves the empty field out.
        ("mask" | "m" | "other" | "o", None) => std::mem::take(&mut name),
        _ => return None,
    };
    let number = match fields.next().filter(|number| !number.is_empty()) {
        Some(number) => Some(id(number)?),
        None => id(name),
    };
    let whom = match (kind, name) {
        ("user" | "u", "") => Whom::Known(Who::Owner),
        ("group" | "g", "") => Whom::Known(Who::OwningGroup),
        ("mask" | "m", "") => Whom::Known(Who::Mask),
        ("other" | "o", "") => Whom::Known(Who::Other),
        ("user" | "u", name) => number.map_or(Whom::User(name), |id| Whom::Known(Who::User(id))),
        ("group" | "g", name) => number.map_or(Whom::Group(name), |id| Whom::Known(Who::Group(id))),
        _ => return None,
    };
    if fields.next().is_some() {
        return None;
    }
    let mut bits = 0;
    for letter in permissions.chars() {
        bits |= match letter {
            'r' => 4,
            'w' => 2,
            'x' => 1,
            '-' => 0,
            _ => return None,
        };
    }
    Some((whom, bits)).filter(|_| !permissions.is_empty())
}

/// A number that is somebody's.
fn id(text: &str) -> Option<u32> {
    let id = super::pax::decimal(text.as_bytes()).and_then(|id| u32::try_from(id).ok());
    id.filter(|&id| id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tree::{Inode, TreeBuilder};

    const BASIC: &str = "user::rw-,group::r--,other::---";

    #[test]
    fn lists_of_all_programs_are_understood() {
        for (text, expected) in [
            (BASIC, BASIC),
            // GNU tar with `--numeric-owner`, with what getfacl notes.
            (
                "user::rw-\nuser:7:rwx\t#effective:r-x\ngroup::r--\nmask::r-x\nother::---\n\n",
                "user::rw-,user:7:rwx,group::r--,mask::r-x,other::---",
            ),
            // Star and libarchive: the number counts.
            (
                "u::rw-,g::r--,g:staff:r:50,g:7:x:,m::rx,o::-",
                "user::rw-,group::r--,group:7:--x,group:50:r--,mask::r-x,other::---",
            ),
            // Solaris, and both kinds of lists together.
            (
                "default:user::rw-, d:group::r--, mask:rw-, other:r--",
                "user::rw-,group::r--,mask::rw-,other::r--",
            ),
        ] {
            let list = TextAcl::parse(text.as_bytes()).expect(text);
            let acl = list.known().expect(text);
            assert_eq!(acl.to_text(), expected);
            let again = TextAcl::parse(expected.as_bytes()).expect(expected);
            assert_eq!(again.known(), Some(acl));
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in [
            "",
            "user::rw-",
            "user::rw-,group::r--,other::---,other::---",
            "user::rw-,group::r--,other::---,user:web:r--",
            "user::rw-,group::r--,other::---,mask::r-q",
            "user::rw-,group::r--,other::---,mask::",
            "user::rw-,group::r--,other:web:---",
            "user::rw-,group::r--,other",
            "user::rw-,group::r--,other::---,mask::rwx,user:web:r--:x",
            "user::rw-,group::r--,other::---,mask::rwx,user:web:r--:7:8",
            "user::rw-,group::r--,other::---,mask::rwx,user:7:r--,user:7:rw-",
            "user::rw-,group::r--,other::---,role:web:rwx",
            "owner@:rwxp--aARWcCos:-------:allow",
        ] {
            assert!(TextAcl::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(TextAcl::parse(b"user::rw-,group::r--,other::---\xff").is_err());
    }

    #[test]
    fn names_are_those_of_the_tree() {
        let mut tree = TreeBuilder::new();
        let mut put = |path, text: &str| {
            let file = Inode::file(text.as_bytes(), 0o644);
            tree.insert(path, file).expect("inserted");
        };
        put(
            "etc/passwd",
            "root:x:0:0::/:\nweb:x:33:34::/:\nwww:x:33:34::/:\n",
        );
        put("etc/group", "staff:x:50:\n");
        let tree = Arc::new(tree.build().expect("built"));
        let text = format!(
            "{BASIC},mask::rwx,user:web:rwx,user:www:r,user:gone:-,group:staff:rx,user:root:w"
        );
        let list = TextAcl::parse(text.as_bytes()).expect("a list");
        assert_eq!(list.known(), None);
        let mut unknown = Vec::new();
        let acl = list.resolve(&Users::of(&tree), |name| unknown.push(name.to_owned()));
        assert_eq!(
            acl.expect("a list").to_text(),
            "user::rw-,user:0:-w-,user:33:rwx,group::r--,group:50:r-x,mask::rwx,other::---"
        );
        assert_eq!(unknown, ["gone"]);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[ugmod]?(user|group|mask|other|default)?[:,\n#0-9rwx-]{0,40}") {
            if let Ok(list) = TextAcl::parse(text.as_bytes())
                && let Some(acl) = list.known()
            {
                let text = acl.to_text();
                let again = TextAcl::parse(text.as_bytes());
                prop_assert_eq!(again.ok().and_then(|again| again.known()), Some(acl));
            }
        }

        #[test]
        fn what_is_written_is_read(
            named in proptest::collection::btree_map((any::<bool>(), 0..u32::MAX), 0u8..8, 0..20),
            mode in 0u16..0o1000,
        ) {
            let bits = |shift: u32| u8::try_from(mode >> shift & 7).expect("three bits");
            let mut entries = vec![
                (Who::Owner, bits(6)),
                (Who::OwningGroup, bits(3)),
                (Who::Other, bits(0)),
                (Who::Mask, bits(3)),
            ];
            entries.extend(named.iter().map(|((user, id), permissions)| {
                (if *user { Who::User(*id) } else { Who::Group(*id) }, *permissions)
            }));
            let acl = Acl::new(entries).expect("valid");
            prop_assert_eq!(acl.mode(), mode);
            let text = acl.to_text();
            let list = TextAcl::parse(text.as_bytes()).expect("a list");
            prop_assert_eq!(list.known(), Some(acl.clone()));
            prop_assert_eq!(Acl::from_xattr(&acl.to_xattr()), Some(acl));
        }
    }
}
