//! Users and groups by the names that a tree's own `/etc/passwd` and `/etc/group`
//! give them.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::Arc;

use super::{Error, Kind, Tree};

/// The file with the users.
pub(crate) const PASSWD: &str = "/etc/passwd";
/// The file with the groups.
pub(crate) const GROUP: &str = "/etc/group";

/// Largest file that is read, in bytes; a tree may come from anywhere.
const MAX_FILE: u64 = 64 << 20;

/// Numbers by names: a user's own and the group's, or a group's own.
type Names = HashMap<String, (u32, Option<u32>)>;

/// The users and groups of a tree. Their files are read when first needed.
#[derive(Debug)]
pub(crate) struct Users<'a> {
    tree: &'a Arc<Tree>,
    passwd: OnceCell<Names>,
    group: OnceCell<Names>,
}

impl<'a> Users<'a> {
    /// Those of this tree.
    pub(crate) fn of(tree: &'a Arc<Tree>) -> Users<'a> {
        Users {
            tree,
            passwd: OnceCell::new(),
            group: OnceCell::new(),
        }
    }

    /// A user's id, and the group where it is known. A number's group is equal.
    ///
    /// # Errors
    /// If the file cannot be read; one that is missing has no users.
    pub(crate) fn user(&self, name: &str) -> Result<Option<(u32, Option<u32>)>, Error> {
        if let Ok(uid) = name.parse() {
            return Ok(Some((uid, Some(uid))));
        }
        if name == "root" {
            return Ok(Some((0, Some(0))));
        }
        Ok(self.names(&self.passwd, PASSWD)?.get(name).copied())
    }

    /// A group's id.
    ///
    /// # Errors
    /// If the file cannot be read; one that is missing has no groups.
    pub(crate) fn group(&self, name: &str) -> Result<Option<u32>, Error> {
        if let Ok(gid) = name.parse() {
            return Ok(Some(gid));
        }
        if name == "root" {
            return Ok(Some(0));
        }
        let names = self.names(&self.group, GROUP)?;
        Ok(names.get(name).map(|(gid, _)| *gid))
    }

    fn names<'t>(&self, cell: &'t OnceCell<Names>, file: &'static str) -> Result<&'t Names, Error> {
        if let Some(names) = cell.get() {
            return Ok(names);
        }
        let bytes = match self.tree.find(file) {
            Some(node) => {
                if let Kind::File(content) = &self.tree.inode_of(node).kind
                    && content.size > MAX_FILE
                {
                    return Err(Error::BadPath {
                        path: file.into(),
                        reason: "it is larger than 64 MiB",
                    });
                }
                self.tree.read_small(node)?
            }
            None => Vec::new(),
        };
        Ok(cell.get_or_init(|| parse(&String::from_utf8_lossy(&bytes))))
    }
}

/// The lines of passwd or group. Of lines with the same name the first counts.
fn parse(text: &str) -> Names {
    let mut names = Names::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        let (Some(name), _, Some(id)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        if let Ok(id) = id.parse() {
            let group = fields.next().and_then(|group| group.parse().ok());
            names.entry(name.to_owned()).or_insert((id, group));
        }
    }
    names
}
