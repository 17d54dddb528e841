//! Layouts by name, from the bundled elements, or from a file.

use std::path::PathBuf;

use super::Error;
use crate::embed::{self, Body};

/// Names of the layouts that need no file, with what they are.
pub const LAYOUTS: [(&str, &str); 6] = [
    ("none", "no partition table: the disk is the filesystem"),
    ("mbr", "one partition, for BIOS"),
    ("gpt", "a BIOS boot partition and the root"),
    (
        "efi",
        "an EFI system partition, a BIOS boot partition and the root",
    ),
    ("efi-4k", "the same with sectors of 4096 bytes"),
    (
        "efi-lvm",
        "the same with logical volumes for /, /var and /home (XFS)",
    ),
];

/// A filesystem on the bare disk.
const NONE: &str = crate::disk::config::FALLBACK;

/// How a disk is divided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// One of [`LAYOUTS`].
    Named(&'static str),
    /// A block-device configuration.
    File(PathBuf),
}

impl Layout {
    /// The layout of this name; anything else is a file, if it looks like one.
    pub fn from_name(name: &str) -> Option<Layout> {
        let known = LAYOUTS.iter().find(|(known, _)| *known == name);
        match known {
            Some((name, _)) => Some(Layout::Named(name)),
            None if name.contains(['/', '.']) => Some(Layout::File(PathBuf::from(name))),
            None => None,
        }
    }

    /// The configuration.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn text(&self) -> Result<String, Error> {
        match self {
            Layout::Named("none") => Ok(NONE.to_owned()),
            Layout::Named(name) => {
                let path = format!("block-device/block-device-{name}/block-device-default.yaml");
                let mut files = embed::FILES.iter();
                let file = files.find(|file| file.path == path);
                let body = file.map(|file| file.body);
                let Some(Body::Data(bytes)) = body else {
                    return Err(Error::NoLayout { name });
                };
                Ok(String::from_utf8_lossy(bytes).into_owned())
            }
            Layout::File(path) => {
                crate::small::read_text(path).map_err(|source| Error::LayoutFile {
                    path: path.clone(),
                    source,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::config::{Config, RootParameters};

    #[test]
    fn every_named_layout_is_a_configuration_with_a_root() {
        for (name, _) in LAYOUTS {
            let layout = Layout::from_name(name).expect(name);
            let text = layout.text().expect(name);
            let config = Config::parse(&text, &RootParameters::default()).expect(name);
            assert!(config.root().is_ok(), "{name}");
        }
        assert_eq!(Layout::from_name("uefi"), None);
        let file = Layout::File("./uefi".into());
        assert_eq!(Layout::from_name("./uefi"), Some(file));
    }
}
