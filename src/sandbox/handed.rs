//! What one program hands to those that are started after it besides variables:
//! its umask, its working directory and its resource limits.
//!
//! In diskimage-builder the shell that sources `environment.d` is the one that starts
//! the hooks, so that elements set these there. Here it is another process, which leaves
//! a note of them: `name=value` pairs that end with zero bytes.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::stat::{Mode, umask};

/// The limits that shells can set, by the names in the note. Without `RLIMIT_LOCKS`, which
/// limits nothing since Linux 2.4.25: where owners are recorded it tells who a process
/// believes to be, and that is no note's business.
const LIMITS: [(&str, Resource); 14] = [
    ("as", Resource::RLIMIT_AS),
    ("core", Resource::RLIMIT_CORE),
    ("cpu", Resource::RLIMIT_CPU),
    ("data", Resource::RLIMIT_DATA),
    ("fsize", Resource::RLIMIT_FSIZE),
    ("memlock", Resource::RLIMIT_MEMLOCK),
    ("msgqueue", Resource::RLIMIT_MSGQUEUE),
    ("nice", Resource::RLIMIT_NICE),
    ("nofile", Resource::RLIMIT_NOFILE),
    ("nproc", Resource::RLIMIT_NPROC),
    ("rss", Resource::RLIMIT_RSS),
    ("rtprio", Resource::RLIMIT_RTPRIO),
    ("sigpending", Resource::RLIMIT_SIGPENDING),
    ("stack", Resource::RLIMIT_STACK),
];

/// Umask, working directory and limits of a program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Handed {
    umask: Option<Mode>,
    directory: Option<CString>,
    limits: Vec<(Resource, rlim_t, rlim_t)>,
}

impl Handed {
    /// Those of this process, as a note.
    pub fn note() -> Vec<u8> {
        let mut note = Vec::new();
        let mut add = |name: &str, value: &[u8]| {
            note.extend_from_slice(name.as_bytes());
            note.push(b'=');
            note.extend_from_slice(value);
            note.push(0);
        };
        // It can only be read by setting it.
        let mask = umask(Mode::empty());
        umask(mask);
        add("umask", format!("{:o}", mask.bits()).as_bytes());
        // A directory that is gone, or not below the root, has no name to hand on.
        if let Ok(directory) = std::env::current_dir()
            && directory.is_absolute()
        {
            add("directory", directory.as_os_str().as_bytes());
        }
        for (name, resource) in LIMITS {
            if let Ok((soft, hard)) = getrlimit(resource) {
                add(name, format!("{soft}:{hard}").as_bytes());
            }
        }
        note
    }

    /// Reads a note. Hooks can write it as well: what makes no sense is left out, and who
    /// takes the rest over has no files of the engine open any more.
    pub fn parse(note: &[u8]) -> Handed {
        let mut handed = Handed::default();
        for pair in note.split(|&byte| byte == 0) {
            let Some(at) = pair.iter().position(|&byte| byte == b'=') else {
                continue;
            };
            let (name, value) = (&pair[..at], &pair[at + 1..]);
            let text = std::str::from_utf8(value).unwrap_or_default();
            match name {
                b"umask" => {
                    let bits = u32::from_str_radix(text, 8).ok();
                    handed.umask = bits.map(Mode::from_bits_truncate);
                }
                b"directory" if value.starts_with(b"/") => {
                    handed.directory = CString::new(value).ok();
                }
                _ => {
                    let limit = LIMITS.iter().find(|(known, _)| known.as_bytes() == name);
                    let values = text.split_once(':');
                    let values = values.and_then(|(soft, hard)| {
                        Some((soft.parse::<rlim_t>().ok()?, hard.parse::<rlim_t>().ok()?))
                    });
                    if let (Some((_, resource)), Some((soft, hard))) = (limit, values) {
                        handed.limits.push((*resource, soft, hard));
                    }
                }
            }
        }
        handed
    }

    /// Takes them over. Makes only system calls: it runs between `fork` and `execve`.
    pub fn take(&self) -> io::Result<()> {
        if let Some(mask) = self.umask {
            umask(mask);
        }
        for &(resource, soft, hard) in &self.limits {
            // What this process may not have, the other one cannot have had.
            if let Ok((_, most)) = getrlimit(resource) {
                setrlimit(resource, soft.min(most), hard.min(most))?;
            }
        }
        match self.directory.as_deref().map(nix::unistd::chdir) {
            // A hook may have removed it: the next one stays where it is then.
            Some(Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR)) | None => Ok(()),
            Some(changed) => Ok(changed?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_of_this_process_is_read_back() {
        let handed = Handed::parse(&Handed::note());
        let directory = std::env::current_dir().expect("there is one");
        let bytes = directory.as_os_str().as_bytes();
        assert_eq!(handed.directory, CString::new(bytes).ok());
        assert_eq!(handed.limits.len(), LIMITS.len());
        assert!(handed.umask.is_some());
    }

    #[test]
    fn what_makes_no_sense_is_left_out() {
        for note in [
            &b""[..],
            b"umask=9\0",
            b"umask\0directory=relative\0nofile=1\0nofile=a:b\0other=1:2\0=\0",
            b"directory=\0nofile=99999999999999999999999:1",
        ] {
            assert_eq!(Handed::parse(note), Handed::default());
        }
        let handed = Handed::parse(b"nofile=5:6\0directory=/a=b\0umask=27");
        assert_eq!(handed.directory.as_deref(), Some(c"/a=b"));
        assert_eq!(handed.umask, Some(Mode::from_bits_truncate(0o27)));
        assert_eq!(handed.limits, [(Resource::RLIMIT_NOFILE, 5, 6)]);
    }
}
