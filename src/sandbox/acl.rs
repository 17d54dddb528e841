//! Access control lists as programs give them to the kernel, and how they follow modes.
//!
//! Specification: `acl(5)`, and `struct posix_acl_xattr_header` and `_entry` in
//! `linux/posix_acl_xattr.h`.

/// The name of an access control list.
pub const ACCESS_ACL: &[u8] = b"system.posix_acl_access";
/// That of the one which a directory gives to what is made in it.
pub const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

/// Bytes of the header of a list, and of an entry.
const ACL_HEADER: usize = 4;
const ACL_ENTRY: usize = 8;
const ACL_USER_OBJ: u16 = 0x01;
const ACL_GROUP_OBJ: u16 = 0x04;
const ACL_MASK: u16 = 0x10;
const ACL_OTHER: u16 = 0x20;

/// Calls `visit` with the tag and the permission bytes of each entry; false if
/// it is no list of version 2.
fn visit_acl(acl: &mut [u8], mut visit: impl FnMut(u16, &mut [u8])) -> bool {
    let Some((header, entries)) = acl.split_at_mut_checked(ACL_HEADER) else {
        return false;
    };
    if *header != [2, 0, 0, 0] || entries.len() % ACL_ENTRY != 0 {
        return false;
    }
    for entry in entries.chunks_exact_mut(ACL_ENTRY) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        visit(tag, &mut entry[2..4]);
    }
    true
}

/// Which entry the group's permission bits stand for.
fn group_class(acl: &mut [u8]) -> u16 {
    let mut mask = false;
    visit_acl(acl, |tag, _| mask |= tag == ACL_MASK);
    if mask { ACL_MASK } else { ACL_GROUP_OBJ }
}

/// The permission bits (0777) that a file with this list has; `None` if it is
/// no valid list.
pub fn acl_mode(acl: &[u8]) -> Option<u16> {
    let mut acl = acl.to_vec();
    let group = group_class(&mut acl);
    let mut mode = 0;
    let valid = visit_acl(&mut acl, |tag, bits| {
        let bits = u16::from_le_bytes([bits[0], bits[1]]) & 7;
        match tag {
            ACL_USER_OBJ => mode |= bits << 6,
            ACL_OTHER => mode |= bits,
            tag if tag == group => mode |= bits << 3,
            _ => {}
        }
    });
    valid.then_some(mode)
}

/// The list of a file that is made with this mode where a directory has a default one, and
/// the mode that the file then has (`acl(5)`, "Object creation and default ACLs").
pub fn acl_at_birth(default: &[u8], mode: u16) -> (Box<[u8]>, u16) {
    let mut acl = default.to_vec();
    let group = group_class(&mut acl);
    let mut left = mode & !0o777;
    visit_acl(&mut acl, |tag, bits| {
        let shift = match tag {
            ACL_USER_OBJ => 6,
            ACL_OTHER => 0,
            tag if tag == group => 3,
            _ => return,
        };
        let both = u16::from_le_bytes([bits[0], bits[1]]) & mode >> shift & 7;
        bits.copy_from_slice(&both.to_le_bytes());
        left |= both << shift;
    });
    (acl.into(), left)
}

/// The list as `chmod` to this mode leaves it.
pub fn acl_with_mode(acl: &[u8], mode: u16) -> Box<[u8]> {
    let mut acl = acl.to_vec();
    let group = group_class(&mut acl);
    visit_acl(&mut acl, |tag, bits| {
        let value = match tag {
            ACL_USER_OBJ => mode >> 6,
            ACL_OTHER => mode,
            tag if tag == group => mode >> 3,
            _ => return,
        };
        bits.copy_from_slice(&(value & 7).to_le_bytes());
    });
    acl.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_and_the_list_follow_each_other() {
        let entry = |tag: u16, bits: u16, id: u32| {
            [
                &tag.to_le_bytes()[..],
                &bits.to_le_bytes(),
                &id.to_le_bytes(),
            ]
            .concat()
        };
        let list = |mask: u16| {
            [
                vec![2, 0, 0, 0],
                entry(ACL_USER_OBJ, 7, u32::MAX),
                entry(ACL_GROUP_OBJ, 7, u32::MAX),
                entry(0x08, 5, 42),
                entry(ACL_MASK, mask, u32::MAX),
                entry(ACL_OTHER, 1, u32::MAX),
            ]
            .concat()
        };
        assert_eq!(acl_mode(&list(5)), Some(0o751));
        assert_eq!(acl_with_mode(&list(5), 0o741)[..], list(4));
        assert_eq!(acl_mode(b"no list"), None);
        let (born, mode) = acl_at_birth(&list(7), 0o100_640);
        assert_eq!(mode, 0o100_640);
        assert_eq!(acl_mode(&born), Some(0o640));
        // Whom it names keeps what the directory says, behind the mask.
        assert_eq!(born[ACL_HEADER + 2 * ACL_ENTRY + 2], 5);
        assert_eq!(acl_at_birth(&list(5), 0o777).1, 0o751);
    }
}
