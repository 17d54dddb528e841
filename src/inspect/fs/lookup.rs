//! From paths to files: links are followed within the filesystem only.

use super::{Error, FileId, FileKind, FileSystem};

/// Symbolic links that are followed on one path, as in Linux.
const MAX_LINKS: usize = 40;
/// Longest path that a link may lead to.
const MAX_TARGET: usize = 4096;

impl FileSystem<'_> {
    /// The file at a path from the root. Symbolic links on the way are followed
    /// within the filesystem (absolute ones from its root, `..` never above it),
    /// the last component's too if `follow` is set.
    ///
    /// # Errors
    /// It leads nowhere, or in circles.
    pub fn lookup(&self, path: &[u8], follow: bool) -> Result<FileId, Error> {
        // Components still to walk, last first.
        let mut rest = split(path);
        let mut walked: Vec<(Vec<u8>, FileId)> = Vec::new();
        let mut links = 0;
        let here = |walked: &[(Vec<u8>, FileId)]| {
            walked.last().map_or_else(|| self.root(), |(_, file)| *file)
        };
        while let Some(name) = rest.pop() {
            if name == b".." {
                walked.pop();
                continue;
            }
            let directory = here(&walked);
            if self.metadata(directory)?.kind != FileKind::Directory {
                return Err(Error::NotADirectory {
                    path: join(&walked, None),
                });
            }
            let Some(file) = self.child(directory, &name)? else {
                return Err(Error::NotFound {
                    path: join(&walked, Some(&name)),
                });
            };
            let is_link = self.metadata(file)?.kind == FileKind::Symlink;
            if !is_link || rest.is_empty() && !follow {
                walked.push((name, file));
                continue;
            }
            links += 1;
            let target = self.link_target(file)?;
            if links > MAX_LINKS || target.len() > MAX_TARGET {
                return Err(Error::TooManyLinks {
                    path: String::from_utf8_lossy(path).into_owned(),
                });
            }
            if target.starts_with(b"/") {
                walked.clear();
            }
            rest.extend(split(&target));
        }
        Ok(here(&walked))
    }

    /// What a name in a directory stands for.
    fn child(&self, directory: FileId, name: &[u8]) -> Result<Option<FileId>, Error> {
        let entries = self.unsorted_entries(directory)?;
        let mut found = entries.iter().find(|entry| entry.name == name);
        if found.is_none() && self.ignores_case() {
            let wanted = String::from_utf8_lossy(name).to_lowercase();
            found = entries
                .iter()
                .find(|entry| String::from_utf8_lossy(&entry.name).to_lowercase() == wanted);
        }
        Ok(found.map(|entry| entry.file))
    }

    fn ignores_case(&self) -> bool {
        matches!(self.format, super::Format::Fat(_))
    }
}

/// The components of a path, last first, without empty ones and `.`.
fn split(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&byte| byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(<[u8]>::to_vec)
        .rev()
        .collect()
}

/// A path for messages.
fn join(walked: &[(Vec<u8>, FileId)], last: Option<&[u8]>) -> String {
    let mut path = String::new();
    for name in walked.iter().map(|(name, _)| name.as_slice()).chain(last) {
        path.push('/');
        path.push_str(&String::from_utf8_lossy(name));
    }
    if path.is_empty() {
        "/".to_owned()
    } else {
        path
    }
}
