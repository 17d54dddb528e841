//! What a tar has, for comparing trees that were built in different ways.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// What a tar says of each name: type, mode, owner, group, size, device, link,
/// attributes and content. Not times.
pub type Listing = BTreeMap<String, String>;

/// Reads a tar.
pub fn listing_of(path: &Path) -> Listing {
    let file = File::open(path).expect("the build wrote a tar");
    let mut archive = tar::Archive::new(file);
    let mut listing = Listing::new();
    for entry in archive.entries().expect("a tar") {
        let mut entry = entry.expect("an entry");
        let path = entry.path_bytes().escape_ascii().to_string();
        let attributes: BTreeMap<String, String> = entry
            .pax_extensions()
            .ok()
            .flatten()
            .into_iter()
            .flatten()
            .filter_map(Result::ok)
            .filter(|extension| extension.key_bytes().starts_with(b"SCHILY.xattr."))
            .map(|extension| {
                let value = extension.value_bytes().escape_ascii().to_string();
                (extension.key_bytes().escape_ascii().to_string(), value)
            })
            .collect();
        let header = entry.header();
        let facts = format!(
            "{:?} {:o} {}:{} size {} device {:?}:{:?} link {:?} {attributes:?}",
            header.entry_type(),
            header.mode().expect("a mode"),
            header.uid().expect("an owner"),
            header.gid().expect("a group"),
            header.size().expect("a size"),
            header.device_major().ok().flatten(),
            header.device_minor().ok().flatten(),
            entry
                .link_name_bytes()
                .map(|link| link.escape_ascii().to_string()),
        );
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("content");
        let sum: u64 = content.iter().zip(1_u64..).fold(0, |sum, (&byte, place)| {
            sum.wrapping_mul(31).wrapping_add(u64::from(byte) ^ place)
        });
        listing.insert(path, format!("{facts} content {sum:x}"));
    }
    listing
}

/// Names that are not the same in both, with what each says.
pub fn differences(one: &Listing, other: &Listing) -> Vec<String> {
    let names: std::collections::BTreeSet<_> = one.keys().chain(other.keys()).collect();
    names
        .into_iter()
        .filter(|name| one.get(*name) != other.get(*name))
        .map(|name| format!("{name}\n  {:?}\n  {:?}", one.get(name), other.get(name)))
        .collect()
}
