//! Access control lists as programs give them to the kernel, and how they follow modes.
//!
//! Specification: `acl(5)`, and `struct posix_acl_xattr_header` and `_entry` in
//! `linux/posix_acl_xattr.h`.

use nix::errno::Errno;

/// The name of an access control list.
pub const ACCESS_ACL: &[u8] = b"system.posix_acl_access";
/// That of the one which a directory gives to what is made in it.
pub const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

/// Bytes of the header of a list, and of an entry.
const ACL_HEADER: usize = 4;
const ACL_ENTRY: usize = 8;
const ACL_USER_OBJ: u16 = 0x01;
const ACL_USER: u16 = 0x02;
const ACL_GROUP_OBJ: u16 = 0x04;
const ACL_GROUP: u16 = 0x08;
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

/// Fails, as the kernel does, for what is no list, and where a file of this mode has none of
/// the kind. The kernel itself cannot tell where a list names ids that it does not know.
pub fn require_acl(acl: &[u8], mode: u16, is_default: bool) -> Result<(), Errno> {
    let entries = entries_of(acl)?;
    match u32::from(mode) & libc::S_IFMT {
        libc::S_IFLNK => return Err(Errno::EOPNOTSUPP),
        libc::S_IFDIR => {}
        _ if is_default => return Err(Errno::EACCES),
        _ => {}
    }
    if is_complete(&entries) {
        Ok(())
    } else {
        Err(Errno::EINVAL)
    }
}

/// Tag and permissions of each entry.
fn entries_of(acl: &[u8]) -> Result<Vec<(u16, u16)>, Errno> {
    let (version, entries) = acl.split_at_checked(ACL_HEADER).ok_or(Errno::EINVAL)?;
    if version != [2, 0, 0, 0] {
        return Err(Errno::EOPNOTSUPP);
    }
    let (entries, rest) = entries.as_chunks::<ACL_ENTRY>();
    if !rest.is_empty() {
        return Err(Errno::EINVAL);
    }
    let entry = |&[a, b, c, d, ref id @ ..]: &[u8; ACL_ENTRY]| {
        let (tag, permissions) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
        match tag {
            ACL_USER_OBJ | ACL_GROUP_OBJ | ACL_MASK | ACL_OTHER => Ok((tag, permissions)),
            ACL_USER | ACL_GROUP if *id != [0xff; 4] => Ok((tag, permissions)),
            _ => Err(Errno::EINVAL),
        }
    };
    entries.iter().map(entry).collect()
}

/// Whether entries come in order, those that must be there are, and there is a mask where
/// somebody is named. The same user or group may be named twice.
fn is_complete(entries: &[(u16, u16)]) -> bool {
    let mut names = false;
    let mut last = 0;
    for &(tag, permissions) in entries {
        // What comes before it, and may be named more than once.
        let (before, many): (&[u16], bool) = match tag {
            ACL_USER_OBJ => (&[0], false),
            ACL_USER => (&[ACL_USER_OBJ], true),
            ACL_GROUP_OBJ => (&[ACL_USER_OBJ, ACL_USER], false),
            ACL_GROUP => (&[ACL_GROUP_OBJ], true),
            ACL_MASK => (&[ACL_GROUP_OBJ, ACL_GROUP], false),
            _ if names => (&[ACL_MASK], false),
            _ => (&[ACL_GROUP_OBJ, ACL_MASK], false),
        };
        if !(before.contains(&last) || many && last == tag) || permissions > 7 {
            return false;
        }
        names |= many;
        last = tag;
    }
    last == ACL_OTHER
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

    #[test]
    fn lists_are_refused_as_the_kernel_refuses_them() {
        let list = |text: &str| {
            let mut list = vec![2, 0, 0, 0];
            for entry in text.split_whitespace() {
                let numbers = entry
                    .split(':')
                    .map(|number| number.parse().expect("a number"));
                let numbers: Vec<u32> = numbers.collect();
                for number in &numbers[..2] {
                    list.extend(u16::try_from(*number).expect("small").to_le_bytes());
                }
                list.extend(numbers.get(2).unwrap_or(&u32::MAX).to_le_bytes());
            }
            list
        };
        let (file, directory, link) = (0o100_644, 0o040_755, 0o120_777);
        let refused = |text: &str| require_acl(&list(text), file, false).err();
        for text in [
            "1:7 4:5 32:0",
            "1:7 4:5 16:7 32:0",
            "1:7 2:6:42 2:6:42 4:5 8:6:0 16:7 32:0",
            "1:0 4:5 8:6:7 8:6:3 16:7 32:0",
        ] {
            assert_eq!(refused(text), None, "{text}");
        }
        for text in [
            "",
            "4:5 32:0",
            "1:7 32:0",
            "1:7 4:5",
            "1:8 4:5 32:0",
            "1:7 1:7 4:5 32:0",
            "1:7 4:5 32:0 32:0",
            "1:7 2:6:42 4:5 32:0",
            "1:7 4:5 8:6:42 32:0",
            "1:7 2:6 4:5 16:7 32:0",
            "1:7 4:5 8:6:42 2:6:42 16:7 32:0",
            "1:7 4:5 16:7 8:6:42 32:0",
            "1:7 4:5 64:7 32:0",
        ] {
            assert_eq!(refused(text), Some(Errno::EINVAL), "{text}");
        }
        let good = list("1:7 4:5 32:0");
        assert_eq!(require_acl(&good, link, false), Err(Errno::EOPNOTSUPP));
        assert_eq!(require_acl(&good, file, true), Err(Errno::EACCES));
        assert_eq!(require_acl(&good, directory, true), Ok(()));
        assert_eq!(require_acl(&good[..3], file, false), Err(Errno::EINVAL));
        assert_eq!(require_acl(&good[..13], file, false), Err(Errno::EINVAL));
        let other = [&[1, 0, 0, 0], &good[4..]].concat();
        assert_eq!(require_acl(&other, file, false), Err(Errno::EOPNOTSUPP));
    }
}
