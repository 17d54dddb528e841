//! POSIX access control lists as the kernel gives them to programs: values of
//! `system.posix_acl_access` and `system.posix_acl_default`.
//!
//! Specification: `struct posix_acl_xattr_header` and `_entry` in
//! `linux/posix_acl_xattr.h` (version 2, little endian): a version of four bytes,
//! then entries of a tag, permissions (two bytes each) and an id (four bytes).

use std::fmt::Write as _;

/// Name of the attribute with a file's own list.
pub(crate) const ACCESS: &[u8] = b"system.posix_acl_access";
/// Name of the attribute with the list that files in a directory inherit.
pub(crate) const DEFAULT: &[u8] = b"system.posix_acl_default";

/// Largest value of an attribute, in bytes.
const MAX_VALUE: usize = 65536;
const VERSION: [u8; 4] = [2, 0, 0, 0];
/// The id of entries that have none (`ACL_UNDEFINED_ID`).
const NO_ID: u32 = u32::MAX;

/// Whom an entry is about. The order is that of the kernel's lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    /// The owner (`ACL_USER_OBJ`).
    Owner,
    /// A user.
    User(u32),
    /// The file's group (`ACL_GROUP_OBJ`).
    OwningGroup,
    /// A group.
    Group(u32),
    /// The most that users, groups and the file's group get.
    Mask,
    /// Everybody else.
    Other,
}

impl Who {
    /// Tag and id.
    fn raw(self) -> (u16, u32) {
        match self {
            Who::Owner => (0x01, NO_ID),
            Who::User(id) => (0x02, id),
            Who::OwningGroup => (0x04, NO_ID),
            Who::Group(id) => (0x08, id),
            Who::Mask => (0x10, NO_ID),
            Who::Other => (0x20, NO_ID),
        }
    }

    fn from_raw(tag: u16, id: u32) -> Option<Who> {
        match tag {
            0x01 => Some(Who::Owner),
            0x02 => Some(id).filter(|&id| id != NO_ID).map(Who::User),
            0x04 => Some(Who::OwningGroup),
            0x08 => Some(id).filter(|&id| id != NO_ID).map(Who::Group),
            0x10 => Some(Who::Mask),
            0x20 => Some(Who::Other),
            _ => None,
        }
    }
}

/// A list that the kernel would take: sorted, each entry once, one each for the
/// owner, the file's group and all others, and a mask where anybody is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Acl {
    entries: Vec<(Who, u8)>,
}

impl Acl {
    /// The list of these entries with their permissions (0 to 7).
    ///
    /// # Errors
    /// Why the kernel would refuse it.
    pub(crate) fn new(mut entries: Vec<(Who, u8)>) -> Result<Acl, &'static str> {
        if entries.iter().any(|(_, permissions)| *permissions > 7) {
            return Err("it has permissions that do not exist");
        }
        if VERSION.len() + 8 * entries.len() > MAX_VALUE {
            return Err("it is longer than Linux allows");
        }
        entries.sort_unstable();
        if entries.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err("it names somebody twice");
        }
        let acl = Acl { entries };
        if [Who::Owner, Who::OwningGroup, Who::Other]
            .iter()
            .any(|who| acl.get(*who).is_none())
        {
            return Err("it lacks the owner, the owning group or all others");
        }
        let named = |(who, _): &(Who, u8)| matches!(who, Who::User(_) | Who::Group(_));
        if acl.entries.iter().any(named) && acl.get(Who::Mask).is_none() {
            return Err("it names users or groups, but has no mask");
        }
        Ok(acl)
    }

    /// The list in an attribute's value.
    pub(crate) fn from_xattr(value: &[u8]) -> Option<Acl> {
        let (entries, rest) = value.strip_prefix(&VERSION)?.as_chunks::<8>();
        if !rest.is_empty() {
            return None;
        }
        let entries = entries.iter().map(|[a, b, c, d, id @ ..]| {
            let who = Who::from_raw(u16::from_le_bytes([*a, *b]), u32::from_le_bytes(*id))?;
            let permissions = u8::try_from(u16::from_le_bytes([*c, *d])).ok()?;
            Some((who, permissions))
        });
        Acl::new(entries.collect::<Option<_>>()?).ok()
    }

    /// The list as an attribute's value.
    pub(crate) fn to_xattr(&self) -> Box<[u8]> {
        let mut value = VERSION.to_vec();
        for (who, permissions) in &self.entries {
            let (tag, id) = who.raw();
            value.extend_from_slice(&tag.to_le_bytes());
            value.extend_from_slice(&u16::from(*permissions).to_le_bytes());
            value.extend_from_slice(&id.to_le_bytes());
        }
        value.into()
    }

    /// The list as text with numbers for names: `user::rw-,user:7:r--,…`.
    pub(crate) fn to_text(&self) -> String {
        let mut text = String::new();
        for (who, permissions) in &self.entries {
            if !text.is_empty() {
                text.push(',');
            }
            // A string takes all that is written to it.
            let _ = match who {
                Who::Owner => write!(text, "user::"),
                Who::User(id) => write!(text, "user:{id}:"),
                Who::OwningGroup => write!(text, "group::"),
                Who::Group(id) => write!(text, "group:{id}:"),
                Who::Mask => write!(text, "mask::"),
                Who::Other => write!(text, "other::"),
            };
            for (bit, letter) in [(4, 'r'), (2, 'w'), (1, 'x')] {
                text.push(if permissions & bit != 0 { letter } else { '-' });
            }
        }
        text
    }

    /// The permission bits (0777) of a file with this list.
    pub(crate) fn mode(&self) -> u16 {
        let part = |who| u16::from(self.get(who).unwrap_or(0));
        let group = self.get(Who::Mask).or_else(|| self.get(Who::OwningGroup));
        part(Who::Owner) << 6 | u16::from(group.unwrap_or(0)) << 3 | part(Who::Other)
    }

    /// Whether it says no more than permission bits do.
    pub(crate) fn is_minimal(&self) -> bool {
        self.entries.len() == 3
    }

    fn get(&self, who: Who) -> Option<u8> {
        let found = self.entries.iter().find(|(known, _)| *known == who);
        found.map(|(_, permissions)| *permissions)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_that_the_kernel_refuses_are_refused() {
        let basic = [(Who::Owner, 6), (Who::OwningGroup, 4), (Who::Other, 0)];
        let with = |more: &[(Who, u8)]| Acl::new([&basic[..], more].concat());
        assert!(with(&[]).is_ok_and(|acl| acl.is_minimal() && acl.mode() == 0o640));
        let full = with(&[(Who::Mask, 7), (Who::User(7), 7)]);
        assert!(full.is_ok_and(|acl| !acl.is_minimal() && acl.mode() == 0o670));
        for (more, problem) in [
            (&[(Who::User(7), 7)][..], "has no mask"),
            (&[(Who::Mask, 8)], "permissions that do not exist"),
            (&[(Who::Other, 1)], "names somebody twice"),
            (
                &[(Who::Mask, 7), (Who::Group(7), 7), (Who::Group(7), 1)],
                "names somebody twice",
            ),
            (&[(Who::Mask, 0); 8200], "longer than Linux allows"),
        ] {
            let said = with(more).expect_err("refused");
            assert!(said.contains(problem), "{said}");
        }
        assert!(Acl::new(vec![(Who::Owner, 7)]).is_err());
    }

    #[test]
    fn values_are_those_of_the_kernel() {
        // What `setfacl -m u:1000:r` leaves of a file with mode 0640.
        let value = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\xe8\x03\0\0\
            \x04\0\x04\0\xff\xff\xff\xff\x10\0\x04\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
        let acl = Acl::from_xattr(value).expect("a list");
        assert_eq!(
            acl.to_text(),
            "user::rw-,user:1000:r--,group::r--,mask::r--,other::---"
        );
        assert_eq!(acl.to_xattr()[..], value[..]);
        for broken in [&value[..11], &value[1..], &value[..36], b""] {
            assert_eq!(Acl::from_xattr(broken), None);
        }
    }

    proptest! {
        #[test]
        fn a_value_that_is_taken_comes_back(value in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(acl) = Acl::from_xattr(&value) {
                prop_assert_eq!(Acl::from_xattr(&acl.to_xattr()), Some(acl));
            }
        }
    }
}
