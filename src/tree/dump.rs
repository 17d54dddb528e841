//! A tree as text, for tests and for people.

use std::fmt::Write as _;

use super::{Inode, Kind, Tree};

impl Tree {
    /// One line a name, in path order:
    ///
    /// ```text
    /// /etc/shadow file 0640 0:42 1699999999.000000000 1234
    /// /bin symlink 0777 0:0 1699999999.000000000 -> usr/bin
    /// /dev/null char 0666 0:0 0.000000000 1:3
    /// /bin/ping file 0755 0:0 0.000000000 1 security.capability=0x01000002
    /// ```
    ///
    /// Bytes other than printable ASCII, and spaces and backslashes, appear as
    /// `\xNN`. A further name of a file ends with `= /first/name`.
    pub fn dump(&self) -> String {
        let mut text = String::new();
        let mut first = vec![None; self.inodes.len()];
        for (id, node) in self.nodes() {
            text.push('/');
            escape(&mut text, &self.index.path(id));
            match &mut first[node.inode.index()] {
                Some(original) => {
                    text.push_str(" = /");
                    escape(&mut text, &self.index.path(*original));
                }
                unseen => {
                    *unseen = Some(id);
                    line(&mut text, self.inode(node.inode));
                }
            }
            text.push('\n');
        }
        text
    }
}

fn line(text: &mut String, inode: &Inode) {
    let kind = match inode.kind {
        Kind::Directory => "dir",
        Kind::File(_) => "file",
        Kind::Symlink(_) => "symlink",
        Kind::CharDevice(_) => "char",
        Kind::BlockDevice(_) => "block",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
    };
    // Writing to a `String` cannot fail.
    let _ = write!(
        text,
        " {kind} {:04o} {}:{} {}.{:09}",
        inode.mode, inode.uid, inode.gid, inode.mtime.seconds, inode.mtime.nanoseconds
    );
    match &inode.kind {
        Kind::File(content) => {
            let _ = write!(text, " {}", content.size);
            if let Some(ranges) = &content.data {
                text.push_str(" data=");
                for (at, range) in ranges.iter().enumerate() {
                    let comma = if at > 0 { "," } else { "" };
                    let _ = write!(text, "{comma}{}+{}", range.offset, range.length);
                }
            }
        }
        Kind::Symlink(target) => {
            text.push_str(" -> ");
            escape(text, target);
        }
        Kind::CharDevice(device) | Kind::BlockDevice(device) => {
            let _ = write!(text, " {}:{}", device.major, device.minor);
        }
        Kind::Directory | Kind::Fifo | Kind::Socket => {}
    }
    for (name, value) in inode.xattrs.iter().flat_map(|set| set.iter()) {
        text.push(' ');
        escape(text, name);
        text.push_str("=0x");
        for byte in value {
            let _ = write!(text, "{byte:02x}");
        }
    }
}

fn escape(text: &mut String, bytes: &[u8]) {
    for &byte in bytes {
        if byte.is_ascii_graphic() && byte != b'\\' {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
}
