//! Extended attributes in the form that lies in an inode (`xfs_attr_shortform`).

use super::format::{
    ACL_ACCESS, ACL_DEFAULT, ATTR_ROOT as ROOT, ATTR_SECURE as SECURE, ATTR_SHORT_HEADER as HEADER,
};
use crate::tree::Xattrs;

/// The list of attributes as an inode holds it.
pub(super) fn short_form(xattrs: &Xattrs) -> Result<Vec<u8>, &'static str> {
    let mut list = vec![0; HEADER];
    let mut count = 0u8;
    for (name, value) in xattrs {
        let acl;
        let (flags, name, value): (u8, &[u8], &[u8]) = match &name[..] {
            b"system.posix_acl_access" => {
                acl = native_acl(value).ok_or("its access control list is broken")?;
                (ROOT, ACL_ACCESS, &acl)
            }
            b"system.posix_acl_default" => {
                acl = native_acl(value).ok_or("its access control list is broken")?;
                (ROOT, ACL_DEFAULT, &acl)
            }
            name => {
                let known: [(&[u8], u8); 3] =
                    [(b"user.", 0), (b"trusted.", ROOT), (b"security.", SECURE)];
                let found = known
                    .into_iter()
                    .find_map(|(prefix, flags)| Some((flags, name.strip_prefix(prefix)?)));
                let (flags, name) = found.ok_or("xfs has no namespace for its attribute")?;
                (flags, name, value)
            }
        };
        let too_long =
            "it has an extended attribute of more than the 255 bytes that fit into an inode";
        let name_length = u8::try_from(name.len()).map_err(|_| too_long)?;
        let value_length = u8::try_from(value.len()).map_err(|_| too_long)?;
        list.extend_from_slice(&[name_length, value_length, flags]);
        list.extend_from_slice(name);
        list.extend_from_slice(value);
        count = count
            .checked_add(1)
            .ok_or("it has too many extended attributes")?;
    }
    let total = u16::try_from(list.len()).map_err(|_| "it has too many extended attributes")?;
    list[..2].copy_from_slice(&total.to_be_bytes());
    list[2] = count;
    Ok(list)
}

/// An ACL in XFS's form, from that of the system call (little endian: a version,
/// then entries of tag, permissions and id).
fn native_acl(value: &[u8]) -> Option<Vec<u8>> {
    let (version, entries) = value.split_first_chunk::<4>()?;
    let (entries, rest) = entries.as_chunks::<8>();
    if *version != 2u32.to_le_bytes() || !rest.is_empty() {
        return None;
    }
    let count = u32::try_from(entries.len()).ok()?;
    let mut acl = count.to_be_bytes().to_vec();
    for [tag, tag_high, permissions, permissions_high, id @ ..] in entries {
        acl.extend_from_slice(&[0, 0, *tag_high, *tag]);
        acl.extend(id.iter().rev());
        acl.extend_from_slice(&[*permissions_high, *permissions, 0, 0]);
    }
    Some(acl)
}
