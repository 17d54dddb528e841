//! Subvolumes of btrfs: trees of files in one filesystem, each of which can be
//! mounted on its own.

use super::{Error, FileId, FileSystem, Format};

/// Names that distributions give to the subvolume with the system, first choice first.
const SYSTEM: [&[u8]; 3] = [b"root", b"@", b"@rootfs"];
/// Subvolumes that are tried for a system.
const MAX_TRIED: usize = 256;

/// A subvolume as a mount option names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subvolume {
    /// `subvol=`: a path from the top.
    Path(String),
    /// `subvolid=`
    Id(u64),
}

impl Subvolume {
    /// The one that mount options name.
    pub fn from_options(options: &str) -> Option<Subvolume> {
        options.split(',').find_map(|option| {
            let (key, value) = option.split_once('=')?;
            match key {
                "subvol" => Some(Subvolume::Path(value.to_owned())),
                // 0 is an old name of the top.
                "subvolid" => match value.parse().ok()? {
                    0 => Some(Subvolume::Id(5)),
                    id => Some(Subvolume::Id(id)),
                },
                _ => None,
            }
        })
    }
}

impl FileSystem<'_> {
    /// Makes a subvolume the root of all paths, as if it was mounted.
    ///
    /// # Errors
    /// There is none of this name, or the filesystem is damaged.
    pub fn enter(&mut self, subvolume: &Subvolume) -> Result<(), Error> {
        let not_found = |path: String| Error::NotFound { path };
        let Format::Btrfs(btrfs) = &self.format else {
            return Err(not_found("a subvolume".to_owned()));
        };
        let own = self.root;
        match subvolume {
            Subvolume::Id(id) => {
                let found = btrfs.subvolume(&self.volume, *id)?;
                self.root = found.ok_or_else(|| not_found(format!("subvolume {id}")))?;
            }
            Subvolume::Path(path) => {
                self.root = btrfs.top(&self.volume)?;
                match self.lookup(path.as_bytes(), false) {
                    Ok(found) if self.is_subvolume(found) => self.root = found,
                    other => {
                        self.root = own;
                        other?;
                        return Err(not_found(format!("subvolume {path}")));
                    }
                }
            }
        }
        Ok(())
    }

    /// If the root is not what is looked for, enters the first subvolume that is.
    /// Those with the names that distributions use are tried first.
    ///
    /// # Errors
    /// The filesystem is damaged.
    pub fn enter_system(&mut self, is_system: impl Fn(&Self) -> bool) -> Result<(), Error> {
        let Format::Btrfs(btrfs) = &self.format else {
            return Ok(());
        };
        if is_system(self) {
            return Ok(());
        }
        let (own, top) = (self.root, btrfs.top(&self.volume)?);
        let mut entries = self.entries(top)?;
        entries.retain(|entry| self.is_subvolume(entry.file));
        entries.sort_by_key(|entry| {
            let known = SYSTEM.iter().position(|name| entry.name == *name);
            known.unwrap_or(SYSTEM.len())
        });
        let tops = std::iter::once(top);
        for root in tops.chain(entries.iter().take(MAX_TRIED).map(|entry| entry.file)) {
            self.root = root;
            if is_system(self) {
                return Ok(());
            }
        }
        self.root = own;
        Ok(())
    }

    /// The id of the subvolume that the root is.
    pub fn subvolume_id(&self) -> Option<u64> {
        match &self.format {
            Format::Btrfs(btrfs) => btrfs.subvolume_id(self.root),
            _ => None,
        }
    }

    /// Whether the subvolume of an id is the root, or somewhere in it.
    ///
    /// # Errors
    /// The filesystem is damaged.
    pub fn encloses(&self, id: u64) -> Result<bool, Error> {
        match (&self.format, self.subvolume_id()) {
            (Format::Btrfs(btrfs), Some(own)) => btrfs.is_within(&self.volume, id, own),
            _ => Ok(false),
        }
    }

    fn is_subvolume(&self, file: FileId) -> bool {
        match &self.format {
            Format::Btrfs(btrfs) => btrfs.is_subvolume(file),
            _ => false,
        }
    }
}
